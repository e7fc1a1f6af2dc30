//! A stack of images that together are one disk: a base and, above it, differencing images of
//! which only the topmost is written.

use std::path::Path;

use crate::Error;
use crate::Format;
use crate::Image;
use crate::MediaKind;
use crate::OpenMode;
use crate::Progress;
use crate::Result;
use crate::Run;
use crate::RunState;
use crate::Variant;
use crate::image::check_range;
use crate::zero::is_zero;

/// What a drive reads and writes. Callers that share one hold it in a mutex.
pub struct Container {
    /// Base first; never empty.
    images: Vec<Box<dyn Image>>,
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.images.iter().map(|image| image.path()))
            .finish()
    }
}

impl Container {
    /// A disk of a single image, which must be a base.
    pub fn new(base: Box<dyn Image>) -> Result<Self> {
        if base.variant() == Variant::Differencing {
            return Err(Error::invalid(
                base.path(),
                "a differencing image cannot be used without its parent",
            ));
        }
        Ok(Self { images: vec![base] })
    }

    /// Opens one image as a disk, in the format and kind that [`crate::probe`] finds.
    pub fn open(path: &Path, mode: OpenMode) -> Result<Self> {
        Self::new(crate::open_image(path, mode)?)
    }

    /// Opens one image as a medium of a given kind. A CD/DVD opens for reading only.
    pub fn open_as(path: &Path, kind: MediaKind, mode: OpenMode) -> Result<Self> {
        let format = match (crate::probe(path), kind) {
            // What the name of a raw file says is a hint; the caller knows the drive.
            (Ok((format, _)), _) => format,
            // Any file can go into a CD or floppy drive, whatever its name is.
            (Err(Error::Unsupported { .. }), MediaKind::Dvd | MediaKind::Floppy) => {
                &crate::format::raw::Raw as &dyn Format
            }
            (Err(e), _) => return Err(e),
        };
        let mode = match kind {
            MediaKind::Dvd => OpenMode::ReadOnly,
            MediaKind::HardDisk | MediaKind::Floppy => mode,
        };
        Self::new(format.open(path, mode, kind)?)
    }

    /// Opens a chain of images, base first. All but the last are opened for reading, and each must
    /// be the parent that the next one was made on, unchanged since.
    ///
    /// Errors: those of [`crate::open_image`]; [`Error::ParentMismatch`].
    pub fn open_chain(paths: &[&Path], mode: OpenMode) -> Result<Self> {
        let Some((base, children)) = paths.split_first() else {
            return Err(Error::invalid(Path::new(""), "a chain needs an image"));
        };
        let mode_of = |index: usize| match index + 1 == paths.len() {
            true => mode,
            false => OpenMode::ReadOnly,
        };
        let mut this = Self::open(base, mode_of(0))?;
        for (i, path) in children.iter().enumerate() {
            this.push(crate::open_image(path, mode_of(i + 1))?)?;
        }
        Ok(this)
    }

    /// Puts a differencing image on top.
    pub fn push(&mut self, child: Box<dyn Image>) -> Result<()> {
        let parent = self.top();
        let Some(link) = child.meta().parent else {
            return Err(Error::invalid(
                child.path(),
                "only a differencing image can be put on another image",
            ));
        };
        let meta = parent.meta();
        let mismatch = |field, expected, found| Error::ParentMismatch {
            child: child.path().to_path_buf(),
            parent: parent.path().to_path_buf(),
            field,
            expected,
            found,
        };
        // Formats without any UUID name the file.
        if let Some(file) = child.parent_file() {
            let same = match (file.canonicalize(), parent.path().canonicalize()) {
                (Ok(named), Ok(given)) => named == given,
                _ => false,
            };
            if !same {
                return Err(Error::invalid(
                    child.path(),
                    format!(
                        "its parent is '{}', not '{}'",
                        file.display(),
                        parent.path().display()
                    ),
                ));
            }
            self.images.push(child);
            return Ok(());
        }
        // VMware's and QEMU's children know no UUIDs, only the number of their parent's contents.
        if link.uuid.is_nil() && link.cid.is_some() {
            if link.cid != meta.cid {
                return Err(Error::ParentContent {
                    child: child.path().to_path_buf(),
                    parent: parent.path().to_path_buf(),
                    expected: link.cid.unwrap_or_default(),
                    found: meta.cid,
                });
            }
            self.images.push(child);
            return Ok(());
        }
        let uuid = meta.uuid.unwrap_or_default();
        if uuid != link.uuid {
            return Err(mismatch("UUID", link.uuid, uuid));
        }
        let modification = meta.modification.unwrap_or_default();
        if !link.modification.is_nil() && modification != link.modification {
            return Err(mismatch(
                "modification UUID",
                link.modification,
                modification,
            ));
        }
        self.images.push(child);
        Ok(())
    }

    fn top(&self) -> &dyn Image {
        // Never empty: every constructor puts one image in and none is taken out.
        self.images[self.images.len() - 1].as_ref()
    }

    fn top_mut(&mut self) -> &mut dyn Image {
        let last = self.images.len() - 1;
        self.images[last].as_mut()
    }

    /// The images, base first.
    pub fn images(&self) -> &[Box<dyn Image>] {
        &self.images
    }

    /// The image that is written, for what concerns one file only: metadata, checks, compacting.
    pub fn top_image(&mut self) -> &mut dyn Image {
        self.top_mut()
    }

    /// The file of the topmost image.
    pub fn path(&self) -> &Path {
        self.top().path()
    }

    pub fn mode(&self) -> OpenMode {
        self.top().mode()
    }

    /// Logical size in bytes, a multiple of 512.
    pub fn size(&self) -> u64 {
        self.top().size()
    }

    /// Bytes that are best written together: the topmost image's allocation unit.
    pub fn block_size(&self) -> u32 {
        self.top().block_size()
    }

    /// Length of all files of the chain in bytes.
    pub fn size_on_disk(&self) -> Result<u64> {
        self.images
            .iter()
            .try_fold(0, |sum, image| Ok(sum + image.size_on_disk()?))
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.top().path(), offset, len, self.size())
    }

    /// The state of the disk's bytes at `offset` and how far it reaches, at most `len` bytes;
    /// never [`RunState::Absent`].
    pub fn run_at(&self, offset: u64, mut len: u64) -> Result<Run> {
        self.check_range(offset, len)?;
        for image in self.images.iter().rev() {
            let inside = image.size().saturating_sub(offset);
            if inside == 0 {
                break;
            }
            let run = image.run_at(offset, len.min(inside))?;
            len = run.len;
            if run.state != RunState::Absent {
                return Ok(run);
            }
        }
        Ok(Run {
            len,
            state: RunState::Zero,
        })
    }

    /// Fills `buf`. [`Error::OutOfRange`] unless all of it is inside the disk.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        read_layers(&self.images, offset, buf)
    }

    /// Writes all of `buf`. The bytes survive a crash once a later [`Container::flush`] returned.
    ///
    /// [`Error::DiskFull`] may come after a part of `buf` was written; the whole call can be
    /// repeated.
    pub fn write_at(&mut self, offset: u64, mut buf: &[u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        if self.images.len() == 1 {
            return self.top_mut().write_at(offset, buf);
        }
        let mut at = offset;
        while !buf.is_empty() {
            let (block, block_len) = self.block_around(at);
            let mut part = (block + block_len - at).min(buf.len() as u64);
            if part == block_len {
                // All whole blocks at once: none of them needs the parent's bytes.
                let whole = buf.len() as u64 / block_len * block_len;
                part = part.max(whole);
            }
            let (piece, rest) = buf.split_at(part as usize);
            if part < block_len && self.is_absent(block, block_len)? {
                let mut whole = vec![0; block_len as usize];
                self.read_at(block, &mut whole)?;
                let within = (at - block) as usize;
                whole[within..within + piece.len()].copy_from_slice(piece);
                self.top_mut().write_at(block, &whole)?;
            } else {
                self.top_mut().write_at(at, piece)?;
            }
            at += part;
            buf = rest;
        }
        Ok(())
    }

    /// Start and length of the allocation unit that holds the byte `at`.
    fn block_around(&self, at: u64) -> (u64, u64) {
        let block_size = u64::from(self.block_size());
        let block = at - at % block_size;
        (block, block_size.min(self.size() - block))
    }

    /// Whether a block, which is all in one state, is left to the parent.
    fn is_absent(&self, block: u64, len: u64) -> Result<bool> {
        Ok(self.top().run_at(block, len)?.state == RunState::Absent)
    }

    /// Waits until everything written so far is on the host's stable storage.
    pub fn flush(&mut self) -> Result<()> {
        self.top_mut().flush()
    }

    /// Makes bytes read as zeros and gives their space back to the host where possible.
    pub fn discard(&mut self, offset: u64, len: u64) -> Result<()> {
        self.check_range(offset, len)?;
        if self.images.len() == 1 {
            return self.top_mut().discard(offset, len);
        }
        let mut at = offset;
        let end = offset + len;
        while at < end {
            let (block, block_len) = self.block_around(at);
            let mut part = (block + block_len - at).min(end - at);
            if part == block_len {
                part = part.max((end - at) / block_len * block_len);
            }
            if part < block_len && self.is_absent(block, block_len)? {
                let zeros = vec![0; part as usize];
                let mut old = vec![0; part as usize];
                self.read_at(at, &mut old)?;
                if !is_zero(&old) {
                    self.write_at(at, &zeros)?;
                }
            } else {
                self.top_mut().discard(at, part)?;
            }
            at += part;
        }
        Ok(())
    }

    /// Grows the disk to `size` bytes, a multiple of 512. Parents stay as they are.
    pub fn resize(&mut self, size: u64, progress: &mut Progress<'_>) -> Result<()> {
        self.top_mut().resize(size, progress)
    }
}

/// Reads through a chain; bytes beyond the end of an image, or that no image holds, are zero.
fn read_layers(images: &[Box<dyn Image>], offset: u64, buf: &mut [u8]) -> Result<()> {
    let Some((top, parents)) = images.split_last() else {
        buf.fill(0);
        return Ok(());
    };
    let inside = top.size().saturating_sub(offset).min(buf.len() as u64);
    let (mut buf, beyond) = buf.split_at_mut(inside as usize);
    beyond.fill(0);
    if parents.is_empty() {
        // A base reads its absent blocks as zeros itself.
        return match buf.is_empty() {
            true => Ok(()),
            false => top.read_at(offset, buf),
        };
    }
    let mut at = offset;
    while !buf.is_empty() {
        let run = top.run_at(at, buf.len() as u64)?;
        let (piece, rest) = buf.split_at_mut(run.len as usize);
        match run.state {
            RunState::Data => top.read_at(at, piece)?,
            RunState::Zero => piece.fill(0),
            RunState::Absent => read_layers(parents, at, piece)?,
        }
        at += run.len;
        buf = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_can_move_between_threads() {
        fn is_send<T: Send>() {}
        is_send::<Container>();
    }
}
