//! Copying disks: between formats, and from a stream of raw bytes.

use std::io;
use std::io::Read;
use std::path::Path;

use crate::Container;
use crate::CreateParams;
use crate::Error;
use crate::Format;
use crate::OpenMode;
use crate::Progress;
use crate::Result;
use crate::RunState;
use crate::zero::is_zero;

/// Bytes copied in one piece: a block of every format that has blocks.
const PIECE: usize = 1 << 20;

/// Copies the contents of `source` into a new base image and returns it, flushed. Zeros take no
/// space in it. When this fails or is cancelled, no file is left behind.
///
/// `params.size` may be larger than the source, not smaller.
pub fn clone_to_new(
    source: &Container,
    path: &Path,
    format: &dyn Format,
    params: &CreateParams,
    progress: &mut Progress<'_>,
) -> Result<Container> {
    create_and_fill(path, format, params, |target| {
        copy(source, target, true, progress)
    })
}

/// Copies the contents of `source` over an existing disk that is at least as large
/// (`clonemedium --existing`), and flushes it. What follows the source's last byte becomes zero.
pub fn clone_into(
    source: &Container,
    target: &mut Container,
    progress: &mut Progress<'_>,
) -> Result<()> {
    copy(source, target, false, progress)
}

/// Copies what the differencing image `source` holds itself into the last image of `chain`, a new
/// differencing image on a copy of its parent.
pub fn copy_layer(source: &Path, chain: &[&Path], progress: &mut Progress<'_>) -> Result<()> {
    let source = crate::open_image(source, OpenMode::ReadOnly)?;
    let mut target = Container::open_chain(chain, OpenMode::ReadWrite)?;
    let size = source.size();
    if target.size() < size {
        target.resize(size, &mut Progress::none())?;
    }
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        progress.report(at, size)?;
        let len = (PIECE as u64 - at % PIECE as u64).min(size - at);
        let run = source.run_at(at, len)?;
        match run.state {
            RunState::Absent => {}
            RunState::Zero => target.discard(at, run.len)?,
            RunState::Data => {
                let piece = &mut buffer[..run.len as usize];
                source.read_at(at, piece)?;
                target.write_at(at, piece)?;
            }
        }
        at += run.len;
    }
    target.flush()?;
    progress.report(1, 1)
}

/// Makes a new base image from a stream of raw bytes, `params.size` of them; a stream that ends
/// earlier is continued with zeros (`convertfromraw`, also from stdin).
///
/// Errors: [`Error::Source`] when reading fails; nothing is left behind then.
pub fn convert_from_reader(
    source: &mut dyn Read,
    path: &Path,
    format: &dyn Format,
    params: &CreateParams,
    progress: &mut Progress<'_>,
) -> Result<Container> {
    create_and_fill(path, format, params, |target| {
        let mut piece = vec![0; PIECE];
        let size = target.size();
        let mut at = 0;
        while at < size {
            progress.report(at, size)?;
            let piece = &mut piece[..PIECE.min((size - at) as usize)];
            let got = fill(source, piece).map_err(|source| Error::Source { offset: at, source })?;
            if got == 0 {
                break;
            }
            piece[got..].fill(0);
            if !is_zero(piece) {
                target.write_at(at, piece)?;
            }
            at += piece.len() as u64;
        }
        finish(target, progress)
    })
}

fn create_and_fill(
    path: &Path,
    format: &dyn Format,
    params: &CreateParams,
    fill: impl FnOnce(&mut Container) -> Result<()>,
) -> Result<Container> {
    let image = format.create(path, params, &mut Progress::none())?;
    let filled = Container::new(image).and_then(|mut target| {
        fill(&mut target)?;
        Ok(target)
    });
    if filled.is_err() {
        // The first error is the one to report.
        let _ = crate::remove_image(path);
    }
    filled
}

fn copy(
    source: &Container,
    target: &mut Container,
    target_is_blank: bool,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let size = source.size();
    if target.size() < size {
        return Err(Error::invalid(
            target.path(),
            format!(
                "the disk has {} bytes, which is less than the {size} to be copied",
                target.size()
            ),
        ));
    }
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        progress.report(at, target.size())?;
        let run = source.run_at(at, size - at)?;
        let end = at + run.len;
        if run.state != RunState::Data && !target_is_blank {
            target.discard(at, run.len)?;
        }
        while run.state == RunState::Data && at < end {
            // Up to the next multiple of a piece, so that each block is written once.
            let len = (PIECE as u64 - at % PIECE as u64).min(end - at);
            let piece = &mut piece[..len as usize];
            source.read_at(at, piece)?;
            match (is_zero(piece), target_is_blank) {
                (true, true) => {}
                (true, false) => target.discard(at, len)?,
                (false, _) => target.write_at(at, piece)?,
            }
            at += len;
            progress.report(at, target.size())?;
        }
        at = end;
    }
    let rest = target.size() - size;
    if !target_is_blank && rest > 0 {
        target.discard(size, rest)?;
    }
    finish(target, progress)
}

fn finish(target: &mut Container, progress: &mut Progress<'_>) -> Result<()> {
    target.flush()?;
    progress.report(1, 1)
}

/// Reads until `buf` is full or the stream ends.
fn fill(source: &mut dyn Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match source.read(&mut buf[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}
