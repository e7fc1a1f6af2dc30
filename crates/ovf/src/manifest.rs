//! Manifests (`NAME.mf`): one digest per file of a package.

use crate::error::{Error, Result};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use std::fmt;
use std::io::Read;
use std::path::Path;

/// Largest manifest that is read.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
/// Most lines of one.
const MAX_LINES: usize = 20_000;

/// How digests are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// OVF 0.9 and 1.0.
    Sha1,
    /// OVF 2.0.
    Sha256,
    /// Read only.
    Sha512,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha512 => "SHA512",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        [Self::Sha1, Self::Sha256, Self::Sha512]
            .into_iter()
            .find(|a| a.name().eq_ignore_ascii_case(&name.replace('-', "")))
    }

    /// Bytes of a digest.
    fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A digest, shown in lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    pub algorithm: Algorithm,
    pub bytes: Vec<u8>,
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Makes a digest piece by piece.
#[derive(Debug, Clone)]
pub enum Hasher {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha1 => Self::Sha1(Sha1::new()),
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha1(h) => h.update(data),
            Self::Sha256(h) => h.update(data),
            Self::Sha512(h) => h.update(data),
        }
    }

    pub fn finish(self) -> Digest {
        let (algorithm, bytes) = match self {
            Self::Sha1(h) => (Algorithm::Sha1, h.finalize().to_vec()),
            Self::Sha256(h) => (Algorithm::Sha256, h.finalize().to_vec()),
            Self::Sha512(h) => (Algorithm::Sha512, h.finalize().to_vec()),
        };
        Digest { algorithm, bytes }
    }
}

/// The digest of a file. `go_on` is asked now and then.
///
/// # Errors
/// [`Error::Io`], [`Error::Cancelled`].
pub fn digest_file(
    algorithm: Algorithm,
    path: &Path,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Digest> {
    let fail = |e| Error::io("read", path, e);
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let mut hasher = Hasher::new(algorithm);
    let mut piece = vec![0; 1 << 18];
    loop {
        let got = file.read(&mut piece).map_err(fail)?;
        if got == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&piece[..got]);
        if !go_on() {
            return Err(Error::Cancelled);
        }
    }
}

/// The digests of a package's files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    pub entries: Vec<(String, Digest)>,
}

impl Manifest {
    /// Reads lines of the form `SHA1(name)= digits`, with blanks anywhere between the parts.
    ///
    /// # Errors
    /// [`Error::Manifest`] for any other line, and for two digests of one file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut manifest = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let wrong = |what: &str| Error::Manifest(format!("line {}: {what}", number + 1));
            let (name, digest) = entry(line).ok_or_else(|| wrong("this is no digest of a file"))?;
            if manifest.entries.len() >= MAX_LINES {
                return Err(wrong("there are too many lines"));
            }
            if manifest.find(name).is_some() {
                return Err(wrong("this file has a digest already"));
            }
            manifest.entries.push((name.to_owned(), digest));
        }
        Ok(manifest)
    }

    /// The digest of a file.
    pub fn find(&self, name: &str) -> Option<&Digest> {
        let found = self.entries.iter().find(|(n, _)| n == name);
        found.map(|(_, digest)| digest)
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        self.entries
            .iter()
            .map(|(name, d)| format!("{}({name})= {d}\n", d.algorithm.name()))
            .collect()
    }
}

fn entry(line: &str) -> Option<(&str, Digest)> {
    let (algorithm, rest) = line.split_once('(')?;
    // Names may have parentheses.
    let (left, digits) = rest.rsplit_once('=')?;
    let name = left.trim_end().strip_suffix(')')?;
    let algorithm = Algorithm::of_name(algorithm.trim())?;
    let digits = digits.trim();
    let byte = |n: usize| u8::from_str_radix(digits.get(n * 2..n * 2 + 2)?, 16).ok();
    if digits.len() != algorithm.len() * 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let bytes = (0..algorithm.len())
        .map(byte)
        .collect::<Option<Vec<u8>>>()?;
    Some((name, Digest { algorithm, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests() {
        // FIPS 180: the digests of "abc".
        for (algorithm, digits) in [
            (Algorithm::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                Algorithm::Sha256,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
        ] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"a");
            hasher.update(b"bc");
            assert_eq!(hasher.finish().to_string(), digits);
        }
    }

    #[test]
    fn all_spellings_of_lines() {
        let sha1 = "A9993E364706816ABA3E25717850C26C9CD0D89D";
        let text = format!(
            "SHA1(a.ovf)= {sha1}\r\nSHA1 (b (1)=.vmdk) = {sha1}\n\nSHA-1(c)={sha1}\nsha256(d)={}\n",
            "0f".repeat(32)
        );
        let manifest = Manifest::parse(&text).expect("a manifest");
        let names: Vec<&str> = manifest.entries.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["a.ovf", "b (1)=.vmdk", "c", "d"]);
        assert_eq!(
            Manifest::parse(&manifest.to_text()).expect("again"),
            manifest
        );
    }

    #[test]
    fn other_lines_are_refused() {
        let sha1 = "a9993e364706816aba3e25717850c26c9cd0d89d";
        for line in [
            "x".to_owned(),
            format!("MD5(a)= {sha1}"),
            format!("SHA256(a)= {sha1}"),
            format!("SHA1(a)= {}ü", &sha1[2..]),
            format!("SHA1(a {sha1}"),
            format!("SHA1(a)= {sha1}\nSHA1(a)= {sha1}"),
        ] {
            assert!(Manifest::parse(&line).is_err(), "{line}");
        }
    }
}
