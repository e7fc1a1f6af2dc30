//! A package that was opened: its descriptor, its manifest, and its files.

use crate::archive::{self, Entry};
use crate::error::{Error, Result};
use crate::manifest::{Hasher, MAX_MANIFEST, Manifest};
use crate::model::{Envelope, File};
use crate::read::MAX_DESCRIPTOR;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// An OVF package. Nothing of it is in memory except the descriptor and the manifest.
#[derive(Debug)]
pub struct Package {
    path: PathBuf,
    envelope: Envelope,
    manifest: Option<Manifest>,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Folder(PathBuf),
    Archive(Vec<Entry>),
}

/// Whether a name is that of a file and nothing more: no folders, no `..`, nothing absolute.
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name
            .chars()
            .any(|c| matches!(c, '/' | '\\' | ':') || c.is_control())
}

/// Whether a reference stays in the package's folder.
fn is_inside(href: &str) -> bool {
    href.split('/').all(is_plain_name)
}

impl Package {
    /// Opens `NAME.ovf`, with its files beside it, or `NAME.ova`. Checks the descriptor against
    /// the manifest, if there is one, and that every file it refers to is there; files are checked
    /// when they are read.
    ///
    /// # Errors
    /// All but [`Error::Cancelled`].
    pub fn open(path: &Path) -> Result<Self> {
        let extension = path
            .extension()
            .map(|e| e.to_string_lossy().to_ascii_lowercase());
        let package = match extension.as_deref() {
            Some("ovf") => Self::open_folder(path)?,
            Some("ova") => Self::open_archive(path)?,
            _ if archive::looks_like(path)? => Self::open_archive(path)?,
            _ => Self::open_folder(path)?,
        };
        for file in &package.envelope.files {
            package.size(file)?;
        }
        Ok(package)
    }

    fn open_folder(path: &Path) -> Result<Self> {
        let fail = |e| Error::io("open", path, e);
        let file = std::fs::File::open(path).map_err(fail)?;
        let text = small_text(file, MAX_DESCRIPTOR).map_err(fail)?;
        let text = text.ok_or_else(|| Error::descriptor("the file is too large or no text"))?;
        let mut manifest = None;
        let beside = path.with_extension("mf");
        match std::fs::File::open(&beside) {
            Ok(file) => {
                let text =
                    small_text(file, MAX_MANIFEST).map_err(|e| Error::io("read", &beside, e))?;
                manifest = Some(read_manifest(text)?);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("open", &beside, e)),
        }
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        check_text(manifest.as_ref(), &name.unwrap_or_default(), &text)?;
        Ok(Self {
            envelope: Envelope::parse(&text)?,
            path: path.to_owned(),
            manifest,
            store: Store::Folder(path.parent().unwrap_or(Path::new("")).to_owned()),
        })
    }

    fn open_archive(path: &Path) -> Result<Self> {
        let entries = archive::index(path)?;
        let with = |extension: &str| {
            entries.iter().find(|e| {
                let (_, found) = e.name.rsplit_once('.').unwrap_or_default();
                found.eq_ignore_ascii_case(extension)
            })
        };
        let read = |entry: &Entry, limit| {
            let text = small_text(archive::open(path, entry)?, limit);
            text.map_err(|e| Error::io("read", path, e))
        };
        let descriptor =
            with("ovf").ok_or_else(|| Error::archive("there is no descriptor in it"))?;
        let text = read(descriptor, MAX_DESCRIPTOR)?
            .ok_or_else(|| Error::descriptor("the file is too large or no text"))?;
        let manifest = match with("mf") {
            Some(entry) => Some(read_manifest(read(entry, MAX_MANIFEST)?)?),
            None => None,
        };
        check_text(manifest.as_ref(), &descriptor.name, &text)?;
        Ok(Self {
            envelope: Envelope::parse(&text)?,
            path: path.to_owned(),
            manifest,
            store: Store::Archive(entries),
        })
    }

    /// The file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Whether there are digests to check files against.
    pub fn has_manifest(&self) -> bool {
        self.manifest.is_some()
    }

    /// Bytes of a file, as stored.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Descriptor`] when it would lie outside of the package.
    pub fn size(&self, file: &File) -> Result<u64> {
        let href = inside(file)?;
        match &self.store {
            Store::Folder(folder) => {
                let path = folder.join(href);
                match std::fs::metadata(&path) {
                    Ok(m) if m.is_file() => Ok(m.len()),
                    Ok(_) => Err(Error::Missing(href.to_owned())),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        Err(Error::Missing(href.to_owned()))
                    }
                    Err(e) => Err(Error::io("open", &path, e)),
                }
            }
            Store::Archive(entries) => find(entries, href).map(|e| e.size),
        }
    }

    /// The path of a file that is one by itself and stored as it is, to be used in place.
    pub fn path_of(&self, file: &File) -> Option<PathBuf> {
        match &self.store {
            Store::Folder(folder) if !file.is_gzip() => Some(folder.join(inside(file).ok()?)),
            _ => None,
        }
    }

    /// Copies a file's contents, decompressed, and checks its digest. `progress` hears the stored
    /// bytes done and of how many, and ends it by answering false. At most `limit` bytes come out.
    ///
    /// # Errors
    /// [`Error::Digest`] when the file is not the one the manifest describes: what was copied must
    /// not be used then. [`Error::Descriptor`] when it is longer than `limit`.
    pub fn extract(
        &self,
        file: &File,
        to: &mut dyn Write,
        limit: u64,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<()> {
        let href = inside(file)?;
        let total = self.size(file)?;
        let stored: Box<dyn Read> = match &self.store {
            Store::Folder(folder) => {
                let path = folder.join(href);
                Box::new(std::fs::File::open(&path).map_err(|e| Error::io("open", &path, e))?)
            }
            Store::Archive(entries) => Box::new(archive::open(&self.path, find(entries, href)?)?),
        };
        let expected = self.manifest.as_ref().and_then(|m| m.find(href));
        let mut source = Watched {
            inner: stored,
            hasher: expected.map(|d| Hasher::new(d.algorithm)),
            done: 0,
            total,
            progress,
            cancelled: false,
        };
        let copied = if file.is_gzip() {
            let plain = flate2::read::MultiGzDecoder::new(&mut source);
            copy(plain, to, limit)
        } else {
            copy(&mut source, to, limit)
        };
        if source.cancelled {
            return Err(Error::Cancelled);
        }
        match copied {
            Ok(true) => {}
            Ok(false) => {
                let text = format!("'{href}' is longer than {limit} bytes");
                return Err(Error::Descriptor(text));
            }
            Err(e) => return Err(Error::io("copy", Path::new(href), e)),
        }
        // What follows the compressed data counts for the digest.
        io::copy(&mut source, &mut io::sink())
            .map_err(|e| Error::io("read", Path::new(href), e))?;
        match (expected, source.hasher.map(Hasher::finish)) {
            (Some(expected), Some(found)) if found != *expected => Err(Error::Digest {
                algorithm: expected.algorithm.name(),
                name: href.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Checks a file's digest without copying it. A file that the manifest does not know is fine.
    ///
    /// # Errors
    /// See [`Package::extract`].
    pub fn verify(&self, file: &File, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        let known = self
            .manifest
            .as_ref()
            .is_some_and(|m| m.find(&file.href).is_some());
        if !known {
            return Ok(());
        }
        let stored = File {
            compression: String::new(),
            ..file.clone()
        };
        self.extract(&stored, &mut io::sink(), u64::MAX, progress)
    }
}

fn inside(file: &File) -> Result<&str> {
    let href = file.href.strip_prefix("./").unwrap_or(&file.href);
    if is_inside(href) {
        return Ok(href);
    }
    Err(Error::Descriptor(format!(
        "the file '{}' would lie outside of the package",
        file.href
    )))
}

fn find<'a>(entries: &'a [Entry], href: &str) -> Result<&'a Entry> {
    let found = entries.iter().find(|e| e.name == href);
    found.ok_or_else(|| Error::Missing(href.to_owned()))
}

/// The text of a file, if it is one and no longer than `limit`.
fn small_text(file: impl Read, limit: u64) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Ok(None);
    }
    Ok(String::from_utf8(bytes).ok())
}

fn read_manifest(text: Option<String>) -> Result<Manifest> {
    let text = text.ok_or_else(|| Error::Manifest("it is too large or no text".to_owned()))?;
    Manifest::parse(&text)
}

fn check_text(manifest: Option<&Manifest>, name: &str, text: &str) -> Result<()> {
    let Some(expected) = manifest.and_then(|m| m.find(name)) else {
        return Ok(());
    };
    let mut hasher = Hasher::new(expected.algorithm);
    hasher.update(text.as_bytes());
    if hasher.finish() == *expected {
        return Ok(());
    }
    Err(Error::Digest {
        algorithm: expected.algorithm.name(),
        name: name.to_owned(),
    })
}

/// False when there is more than `limit`.
fn copy(from: impl Read, to: &mut dyn Write, limit: u64) -> io::Result<bool> {
    let mut from = from.take(limit.saturating_add(1));
    let copied = io::copy(&mut from, to)?;
    to.flush()?;
    Ok(copied <= limit)
}

struct Watched<'a> {
    inner: Box<dyn Read>,
    hasher: Option<Hasher>,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64) -> bool,
    cancelled: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        if let (Some(hasher), Some(data)) = (&mut self.hasher, buf.get(..got)) {
            hasher.update(data);
        }
        self.done += got as u64;
        if !(self.progress)(self.done, self.total) {
            self.cancelled = true;
            return Err(io::Error::other("cancelled"));
        }
        Ok(got)
    }
}
