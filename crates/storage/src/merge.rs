//! Taking an image out of a chain: its data move to the child above it or to the parent below.
//!
//! Either way the disk that the topmost image shows reads the same before, during and after the
//! operation, so that it may be interrupted anywhere. The header of an image is changed only after
//! the data it then relies on are on the disk.

use std::path::Path;

use uuid::Uuid;

use crate::Container;
use crate::Error;
use crate::OpenMode;
use crate::ParentLink;
use crate::Progress;
use crate::Result;
use crate::RunState;
use crate::zero::is_zero;

/// Bytes copied in one piece where the format has larger blocks or none.
const PIECE: u64 = 1 << 20;

/// Tells a differencing image which image it is stacked on, and waits until that is on the disk.
/// A nil modification UUID accepts every state of that image.
pub fn relink(child: &Path, link: ParentLink) -> Result<()> {
    let mut image = crate::open_image(child, OpenMode::ReadWrite)?;
    let mut meta = image.meta();
    if meta.parent.is_none() {
        return Err(Error::invalid(
            child,
            "only a differencing image has a parent",
        ));
    }
    if meta.parent == Some(link) {
        return Ok(());
    }
    meta.parent = Some(link);
    image.set_meta(&meta)?;
    image.flush()
}

/// How a child of the image as it is now would name it.
pub fn link_to(parent: &Path) -> Result<ParentLink> {
    let info = crate::media_info(parent)?;
    let uuid = info
        .uuid
        .ok_or_else(|| Error::unsupported(parent, "an image without a UUID cannot be a parent"))?;
    Ok(ParentLink {
        uuid,
        modification: info.modification.unwrap_or_default(),
        cid: info.cid,
    })
}

/// Makes the last image of `chain` (base first) independent of the one below it, which must be a
/// differencing image: what only that holds is copied, then the last image is stacked on the
/// image two below. Nothing else is written.
///
/// The modification UUID of the last image changes: images on top of it are to be given
/// [`relink`] with a nil one before.
pub fn merge_into_child(chain: &[&Path], progress: &mut Progress<'_>) -> Result<()> {
    let mut disk = Container::open_chain(chain, OpenMode::ReadWrite)?;
    let [.., obsolete, child] = disk.images() else {
        return Err(Error::invalid(disk.path(), "there is no image to merge"));
    };
    let Some(link) = obsolete.meta().parent else {
        return Err(Error::invalid(
            obsolete.path(),
            "only a differencing image can be merged into its child",
        ));
    };
    let block_size = u64::from(child.block_size()).max(1);
    let (size, below) = (disk.size(), obsolete.size());
    let end = size.min(below);
    let mut piece = vec![0; block_size.max(PIECE).min(size) as usize];
    let mut at = 0;
    while at < end {
        progress.report(at, size)?;
        let (due, len) = due_at(&disk, at, end - at)?;
        if !due {
            at += len;
            continue;
        }
        // Whole blocks of the child: all of each is absent.
        let from = at - at % block_size;
        let to = (at + len).next_multiple_of(block_size).min(size);
        let to = to.min(from + piece.len() as u64);
        let piece = &mut piece[..(to - from) as usize];
        disk.read_at(from, piece)?;
        match is_zero(piece) {
            true => disk.discard(from, to - from)?,
            false => disk.write_at(from, piece)?,
        }
        at = to;
    }
    disk.flush()?;
    let child = disk.top_image();
    let mut meta = child.meta();
    meta.parent = Some(link);
    child.set_meta(&meta)?;
    child.flush()?;
    progress.report(1, 1)
}

/// Whether bytes of the topmost image are absent while the image below says anything about them,
/// and how many bytes from `at` this holds for.
fn due_at(disk: &Container, at: u64, len: u64) -> Result<(bool, u64)> {
    let [.., obsolete, child] = disk.images() else {
        return Ok((false, len));
    };
    let run = child.run_at(at, len)?;
    if run.state != RunState::Absent {
        return Ok((false, run.len));
    }
    let run = obsolete.run_at(at, run.len)?;
    Ok((run.state != RunState::Absent, run.len))
}

/// Copies what a differencing image holds into its parent, a base image, and waits until it is on
/// the disk. From the first byte on only the child shows the disk as it was; it is told first to
/// take its parent in any state.
pub fn merge_into_base(base: &Path, child: &Path, progress: &mut Progress<'_>) -> Result<()> {
    // Proves that they belong together.
    let size = Container::open_chain(&[base, child], OpenMode::ReadOnly)?.size();
    let uuid = link_to(base)?.uuid;
    relink(child, ParentLink::new(uuid, Uuid::nil()))?;
    let source = crate::open_image(child, OpenMode::ReadOnly)?;
    let mut target = Container::open(base, OpenMode::ReadWrite)?;
    if target.size() < size {
        target.resize(size, &mut Progress::none())?;
    }
    let mut piece = vec![0; PIECE as usize];
    let mut at = 0;
    while at < size {
        progress.report(at, size)?;
        let len = (PIECE - at % PIECE).min(size - at);
        let run = source.run_at(at, len)?;
        match run.state {
            RunState::Absent => {}
            RunState::Zero => target.discard(at, run.len)?,
            RunState::Data => {
                let piece = &mut piece[..run.len as usize];
                source.read_at(at, piece)?;
                target.write_at(at, piece)?;
            }
        }
        at += run.len;
    }
    target.flush()?;
    progress.report(1, 1)
}
