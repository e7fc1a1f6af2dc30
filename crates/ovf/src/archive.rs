//! OVA: a package as one tar archive, read where it lies and written in one go.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tar::EntryType;

/// Most files in an archive.
const MAX_ENTRIES: usize = 10_000;
/// Largest header extension (long name, pax attributes) that is read into memory.
const MAX_EXTENSION: u64 = 64 << 10;
const BLOCK: u64 = 512;

/// Where a file is in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub name: String,
    pub offset: u64,
    pub size: u64,
}

/// The files in an archive.
///
/// # Errors
/// [`Error::Archive`] when it is cut off, or has anything but files with plain names.
pub(crate) fn index(path: &Path) -> Result<Vec<Entry>> {
    let fail = |e| Error::io("read", path, e);
    let mut file = File::open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    check(&mut file, length)?;
    file.seek(SeekFrom::Start(0)).map_err(fail)?;

    let broken = |e: io::Error| Error::archive(e.to_string());
    let mut found: Vec<Entry> = Vec::new();
    let mut archive = tar::Archive::new(&mut file);
    for entry in archive.entries_with_seek().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let bytes = entry.path_bytes();
        let name = std::str::from_utf8(&bytes)
            .map_err(|_| Error::archive("a file's name is not UTF-8"))?;
        let name = name.strip_prefix("./").unwrap_or(name);
        if !crate::is_plain_name(name) {
            return Err(Error::Archive(format!("'{name}' is no plain file name")));
        }
        // What the headers said before the extensions were applied has been checked; now what
        // they say with them.
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(Error::Archive(format!("'{name}' is cut off")));
        }
        if found.iter().any(|e| e.name == name) {
            return Err(Error::Archive(format!("there are two files '{name}'")));
        }
        found.push(Entry {
            name: name.to_owned(),
            offset,
            size,
        });
    }
    Ok(found)
}

/// Looks at all headers as they stand.
fn check(file: &mut File, length: u64) -> Result<()> {
    let broken = |e: io::Error| Error::archive(e.to_string());
    let mut archive = tar::Archive::new(file);
    let entries = archive.entries_with_seek().map_err(broken)?.raw(true);
    for (number, entry) in entries.enumerate() {
        let entry = entry.map_err(broken)?;
        if number >= MAX_ENTRIES {
            return Err(Error::archive("there are too many files"));
        }
        let (offset, size) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(Error::archive("the file is cut off"));
        }
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName
                if size <= MAX_EXTENSION => {}
            EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName => {
                return Err(Error::archive("a header is too large"));
            }
            other => {
                let what = match other {
                    EntryType::Symlink | EntryType::Link | EntryType::GNULongLink => "a link",
                    EntryType::Directory => "a folder",
                    EntryType::GNUSparse => "a sparse file",
                    _ => "something that is no file",
                };
                return Err(Error::Archive(format!("there is {what} in it")));
            }
        }
    }
    Ok(())
}

/// Opens a file in an archive.
pub(crate) fn open(path: &Path, entry: &Entry) -> Result<io::Take<File>> {
    let fail = |e| Error::io("read", path, e);
    let mut file = File::open(path).map_err(fail)?;
    file.seek(SeekFrom::Start(entry.offset)).map_err(fail)?;
    Ok(file.take(entry.size))
}

/// What goes into an archive under a name.
#[derive(Debug, Clone)]
pub enum Content {
    Text(String),
    /// The bytes of this file.
    File(PathBuf),
}

/// Writes an archive of files, in that order. `progress` hears the bytes done and of how many, and
/// ends it by answering false.
///
/// # Errors
/// [`Error::Io`], [`Error::Cancelled`]; [`Error::Archive`] for a name that is no plain one.
pub fn write_archive(
    out: &mut dyn Write,
    files: &[(String, Content)],
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<()> {
    let mut sizes = Vec::with_capacity(files.len());
    for (name, content) in files {
        if !crate::is_plain_name(name) {
            return Err(Error::Archive(format!("'{name}' is no plain file name")));
        }
        sizes.push(match content {
            Content::Text(text) => text.len() as u64,
            Content::File(path) => {
                let fail = |e| Error::io("read", path, e);
                std::fs::metadata(path).map_err(fail)?.len()
            }
        });
    }
    let total: u64 = sizes.iter().sum();
    let mut done = 0;
    let failed = |e| Error::io("write", Path::new("the archive"), e);
    let mut builder = tar::Builder::new(out);
    for ((name, content), size) in files.iter().zip(sizes) {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(now());
        header.set_entry_type(EntryType::Regular);
        let mut reader: Box<dyn Read> = match content {
            Content::Text(text) => Box::new(text.as_bytes()),
            Content::File(path) => {
                Box::new(File::open(path).map_err(|e| Error::io("read", path, e))?)
            }
        };
        let mut cancelled = false;
        let mut counted = Counted {
            inner: &mut reader,
            report: &mut |bytes| {
                done += bytes;
                cancelled = !progress(done, total);
                !cancelled
            },
        };
        // A file that changes its length under us would damage what follows.
        let mut exact = (&mut counted).take(size);
        let result = match name.len() <= 100 {
            true => header
                .set_path(name)
                .map(|()| header.set_cksum())
                .and_then(|()| builder.append(&header, &mut exact)),
            // Longer names need an extension of the header.
            false => {
                header = tar::Header::new_gnu();
                header.set_size(size);
                header.set_mode(0o644);
                header.set_mtime(now());
                header.set_entry_type(EntryType::Regular);
                builder.append_data(&mut header, name, &mut exact)
            }
        };
        let left = exact.limit();
        match (result, cancelled) {
            (_, true) => return Err(Error::Cancelled),
            (Err(e), _) => return Err(failed(e)),
            (Ok(()), _) if left > 0 => {
                return Err(Error::Archive(format!("'{name}' became shorter")));
            }
            (Ok(()), _) => {}
        }
    }
    builder.finish().map_err(failed)?;
    Ok(())
}

/// Whether the archive's first header is one.
pub(crate) fn looks_like(path: &Path) -> Result<bool> {
    let fail = |e| Error::io("read", path, e);
    let mut head = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(BLOCK).read_to_end(&mut head).map_err(fail)?;
    Ok(head.get(257..262) == Some(b"ustar".as_slice()))
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

struct Counted<'a> {
    inner: &'a mut dyn Read,
    /// False ends the copy.
    report: &'a mut dyn FnMut(u64) -> bool,
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        match (self.report)(got as u64) {
            true => Ok(got),
            false => Err(io::Error::other("cancelled")),
        }
    }
}
