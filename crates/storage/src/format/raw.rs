//! RAW: the bytes of the medium and nothing else. Hard disks, CD/DVD images (`.iso`, `.cdr`, read
//! only) and floppies.
//!
//! A file that does not end on a sector boundary (512 bytes, 2048 for a CD/DVD) is read as if
//! zeros followed up to the boundary.

use std::path::Path;

use crate::CheckReport;
use crate::CreateParams;
use crate::Ends;
use crate::Error;
use crate::Format;
use crate::Image;
use crate::Layout;
use crate::MediaInfo;
use crate::MediaKind;
use crate::Meta;
use crate::OpenMode;
use crate::Progress;
use crate::Result;
use crate::Run;
use crate::RunState;
use crate::SECTOR;
use crate::Variant;
use crate::capability;
use crate::format::default_layout;
use crate::format::extension;
use crate::host::HostFile;
use crate::host::create_or_remove;
use crate::image::check_range;

/// The largest floppy there is, a 2.88 MB one at 82 tracks; a longer `.img` is a hard disk.
const LARGEST_FLOPPY: u64 = 82 * 2 * 36 * SECTOR;

const EXTENSIONS: &[(&str, MediaKind)] = &[
    ("iso", MediaKind::Dvd),
    ("cdr", MediaKind::Dvd),
    ("img", MediaKind::Floppy),
    ("ima", MediaKind::Floppy),
    ("dsk", MediaKind::Floppy),
    ("flp", MediaKind::Floppy),
    ("vfd", MediaKind::Floppy),
];

/// Endings that say "a raw hard disk" though VirtualBox does not list them.
const DISK_EXTENSIONS: &[&str] = &["raw", "dd", "bin"];

pub struct Raw;

impl Format for Raw {
    fn id(&self) -> &'static str {
        "RAW"
    }

    fn description(&self) -> &'static str {
        "RAW"
    }

    fn capabilities(&self) -> u32 {
        capability::CREATE_FIXED
            | capability::CREATE_DYNAMIC
            | capability::ASYNCHRONOUS
            | capability::FILE
            | capability::VFS
            | capability::DISCARD
    }

    fn extensions(&self) -> &'static [(&'static str, MediaKind)] {
        EXTENSIONS
    }

    fn probe(&self, path: &Path, ends: &Ends) -> Option<MediaKind> {
        let extension = extension(path);
        if DISK_EXTENSIONS.contains(&extension.as_str()) {
            return Some(MediaKind::HardDisk);
        }
        let (_, kind) = EXTENSIONS.iter().find(|(e, _)| *e == extension)?;
        if *kind == MediaKind::Floppy && ends.len > LARGEST_FLOPPY {
            return Some(MediaKind::HardDisk);
        }
        Some(*kind)
    }

    fn info(&self, path: &Path, kind: MediaKind) -> Result<MediaInfo> {
        let file = HostFile::open_unlocked(path, OpenMode::ReadOnly)?;
        let image = RawImage::on(file, kind)?;
        Ok(MediaInfo {
            format: self.id(),
            kind,
            variant: image.variant(),
            layout: Layout::Default,
            size: image.size,
            size_on_disk: image.size_on_disk()?,
            uuid: None,
            modification: None,
            parent: None,
            cid: None,
            block_size: None,
            comment: String::new(),
        })
    }

    fn open(&self, path: &Path, mode: OpenMode, kind: MediaKind) -> Result<Box<dyn Image>> {
        if kind == MediaKind::Dvd && mode == OpenMode::ReadWrite {
            return Err(Error::ReadOnly {
                path: path.to_path_buf(),
            });
        }
        let image = RawImage::on(HostFile::open(path, mode)?, kind)?;
        Ok(Box::new(image))
    }

    /// The comment and the UUID of `params` have no place in a raw file and are ignored.
    fn create(
        &self,
        path: &Path,
        params: &CreateParams,
        progress: &mut Progress<'_>,
    ) -> Result<Box<dyn Image>> {
        default_layout(path, params)?;
        if params.size == 0 || !params.size.is_multiple_of(SECTOR) {
            return Err(Error::invalid(
                path,
                format!("a size of {} bytes is not a number of sectors", params.size),
            ));
        }
        if params.variant == Variant::Differencing || params.parent.is_some() {
            return Err(Error::unsupported(path, "raw images cannot have a parent"));
        }
        progress.report(0, 1)?;
        let image = create_or_remove(path, |file| {
            match params.variant {
                Variant::Fixed => file.allocate(0, params.size)?,
                _ => file.set_len(params.size)?,
            }
            file.sync()?;
            progress.report(1, 1)?;
            RawImage::on(file, MediaKind::HardDisk)
        })?;
        Ok(Box::new(image))
    }
}

struct RawImage {
    file: HostFile,
    /// Logical bytes: the file's, rounded up to a sector.
    size: u64,
}

impl RawImage {
    fn on(file: HostFile, kind: MediaKind) -> Result<Self> {
        let sector = match kind {
            MediaKind::Dvd => 2048,
            MediaKind::HardDisk | MediaKind::Floppy => SECTOR,
        };
        let len = file.len()?;
        if len == 0 {
            return Err(Error::corrupt(file.path(), "RAW", 0, "the file is empty"));
        }
        let size = len.checked_next_multiple_of(sector).ok_or_else(|| {
            Error::corrupt(file.path(), "RAW", len, "the file is too large for a disk")
        })?;
        Ok(Self { file, size })
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.file.path(), offset, len, self.size)
    }
}

impl Image for RawImage {
    fn format(&self) -> &'static str {
        "RAW"
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn mode(&self) -> OpenMode {
        self.file.mode()
    }

    fn variant(&self) -> Variant {
        Variant::Fixed
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        SECTOR as u32
    }

    fn size_on_disk(&self) -> Result<u64> {
        self.file.len()
    }

    fn meta(&self) -> Meta {
        Meta::default()
    }

    fn set_meta(&mut self, meta: &Meta) -> Result<()> {
        if *meta == Meta::default() {
            return Ok(());
        }
        Err(Error::unsupported(
            self.path(),
            "a raw image has no place for UUIDs, comments or a geometry",
        ))
    }

    fn run_at(&self, offset: u64, len: u64) -> Result<Run> {
        self.check_range(offset, len)?;
        Ok(match self.file.data_run(offset) {
            Some((data, end)) => Run {
                len: (end - offset).min(len),
                state: if data { RunState::Data } else { RunState::Zero },
            },
            None => Run {
                len,
                state: RunState::Data,
            },
        })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        self.file.read_padded(offset, buf)
    }

    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<()> {
        self.file.require_writable()?;
        self.check_range(offset, buf.len() as u64)?;
        self.file.write(offset, buf)
    }

    fn flush(&mut self) -> Result<()> {
        match self.file.mode() {
            OpenMode::ReadWrite => self.file.sync(),
            OpenMode::ReadOnly => Ok(()),
        }
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<()> {
        self.file.require_writable()?;
        self.check_range(offset, len)?;
        self.file.punch(offset, len)
    }

    fn resize(&mut self, size: u64, progress: &mut Progress<'_>) -> Result<()> {
        self.file.require_writable()?;
        if size < self.size || !size.is_multiple_of(SECTOR) {
            return Err(Error::unsupported(
                self.path(),
                format!(
                    "cannot resize from {} to {size} bytes: a disk can only grow, by whole sectors",
                    self.size
                ),
            ));
        }
        self.file.set_len(size)?;
        self.file.sync()?;
        self.size = size;
        progress.report(1, 1)
    }

    fn compact(&mut self, _progress: &mut Progress<'_>) -> Result<()> {
        Err(Error::unsupported(
            self.path(),
            "raw images cannot be compacted",
        ))
    }

    fn check(&self) -> Result<CheckReport> {
        Ok(CheckReport::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_iso_is_padded_and_read_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.iso");
        std::fs::write(&path, vec![7; 2049]).unwrap();
        let (format, kind) = crate::probe(&path).unwrap();
        assert_eq!((format.id(), kind), ("RAW", MediaKind::Dvd));
        assert!(matches!(
            format.open(&path, OpenMode::ReadWrite, kind),
            Err(Error::ReadOnly { .. })
        ));
        let mut image = format.open(&path, OpenMode::ReadOnly, kind).unwrap();
        assert_eq!(image.size(), 4096);
        let mut data = [1; 4096];
        image.read_at(0, &mut data).unwrap();
        assert!(data[..2049].iter().all(|b| *b == 7) && data[2049..].iter().all(|b| *b == 0));
        assert!(image.write_at(0, &data).is_err());
        assert!(image.discard(0, 512).is_err());
        assert!(image.flush().is_ok());
    }

    #[test]
    fn a_large_img_is_a_hard_disk_and_a_small_one_a_floppy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.IMG");
        std::fs::write(&path, vec![0; 1_474_560]).unwrap();
        assert_eq!(crate::probe(&path).unwrap().1, MediaKind::Floppy);
        std::fs::write(&path, vec![0; 4 << 20]).unwrap();
        assert_eq!(crate::probe(&path).unwrap().1, MediaKind::HardDisk);
    }

    #[test]
    fn foreign_and_unknown_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.img");
        std::fs::write(&path, b"COWD followed by whatever").unwrap();
        let error = crate::probe(&path).err().unwrap().to_string();
        assert!(error.contains("ESX sparse VMDK"), "{error}");
        let path = folder.path().join("a.doc");
        std::fs::write(&path, b"hello").unwrap();
        assert!(matches!(
            crate::probe(&path),
            Err(Error::Unsupported { .. })
        ));
        assert!(matches!(
            crate::probe(folder.path()),
            Err(Error::Unsupported { .. })
        ));
        assert!(matches!(
            crate::probe(&folder.path().join("none")),
            Err(Error::NotFound { .. })
        ));
    }
}
