//! An open VMDK: its extents side by side, and the descriptor that changes with the first write.

use std::path::Path;
use std::path::PathBuf;

use uuid::Uuid;

use crate::CheckReport;
use crate::Error;
use crate::Image;
use crate::Layout;
use crate::Meta;
use crate::OpenMode;
use crate::Progress;
use crate::Result;
use crate::Run;
use crate::RunState;
use crate::SECTOR;
use crate::Variant;
use crate::host::HostFile;
use crate::image::check_range;

use super::descriptor::Descriptor;
use super::descriptor::MAX_LEN;
use super::header::GRAIN;
use super::sparse::SparseExtent;

pub(super) enum Kind {
    Sparse(Box<SparseExtent>),
    /// A file and the offset in it.
    Flat(HostFile, u64),
    Zero,
}

pub(super) struct Extent {
    /// First byte of the disk that it holds.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    pub writable: bool,
    pub kind: Kind,
}

/// Where the descriptor is.
pub(super) enum Home {
    /// In the first extent's file: offset and length of the room for it.
    Embedded(u64, u64),
    File(HostFile),
}

pub(super) struct VmdkImage {
    pub(super) path: PathBuf,
    pub(super) mode: OpenMode,
    pub(super) home: Home,
    pub(super) descriptor: Descriptor,
    pub(super) extents: Vec<Extent>,
    pub(super) variant: Variant,
    pub(super) layout: Layout,
    /// This session has announced itself with a new content ID and modification UUID.
    pub(super) announced: bool,
}

impl VmdkImage {
    pub(super) fn total(&self) -> u64 {
        self.extents.last().map_or(0, |e| e.start + e.len)
    }

    pub(super) fn is_child(&self) -> bool {
        self.variant == Variant::Differencing
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        check_range(&self.path, offset, len, self.total())
    }

    pub(super) fn require_writable(&self) -> Result<()> {
        match self.mode {
            OpenMode::ReadWrite => Ok(()),
            OpenMode::ReadOnly => Err(Error::ReadOnly {
                path: self.path.clone(),
            }),
        }
    }

    /// Index of the extent that holds a byte, which must be inside the disk.
    fn extent_at(&self, offset: u64) -> usize {
        self.extents
            .partition_point(|e| e.start <= offset)
            .saturating_sub(1)
    }

    /// Cuts a range, which must be inside the disk, at the ends of extents: index, offset in the
    /// extent, length.
    fn parts(&self, offset: u64, len: u64) -> Vec<(usize, u64, u64)> {
        let (mut at, end) = (offset, offset + len);
        let mut parts = Vec::new();
        while at < end {
            let index = self.extent_at(at);
            let extent = &self.extents[index];
            let within = at - extent.start;
            let len = (extent.len - within).min(end - at);
            parts.push((index, within, len));
            at += len;
        }
        parts
    }

    /// Replaces the descriptor, in the file and here. Only sectors that differ are written, so that
    /// a power cut cannot hurt the others.
    pub(super) fn put_descriptor(&mut self, descriptor: Descriptor) -> Result<()> {
        let too_long = || Error::unsupported(&self.path, "the descriptor has no room for this");
        let (file, at, room) = match (&self.home, self.extents.first().map(|e| &e.kind)) {
            (Home::File(file), _) => (file, 0, file.len()?),
            (Home::Embedded(at, room), Some(Kind::Sparse(extent))) => (&extent.file, *at, *room),
            (Home::Embedded(..), _) => return Err(too_long()),
        };
        let mut new = descriptor.encode();
        let len = new.len() as u64;
        let embedded = matches!(self.home, Home::Embedded(..));
        if len > if embedded { room } else { MAX_LEN } {
            return Err(too_long());
        }
        new.resize(len.max(room) as usize, 0);
        let mut old = vec![0; new.len()];
        file.read_padded(at, &mut old)?;
        let mut offset = at;
        for (old, new) in old.chunks(SECTOR as usize).zip(new.chunks(SECTOR as usize)) {
            if old != new {
                file.write(offset, new)?;
            }
            offset += SECTOR;
        }
        if !embedded {
            file.set_len(len)?;
        }
        file.sync()?;
        self.descriptor = descriptor;
        Ok(())
    }

    /// Must come before the first change of a session, so that no child takes the image for what
    /// it was.
    pub(super) fn announce(&mut self) -> Result<()> {
        self.require_writable()?;
        if self.announced {
            return Ok(());
        }
        let mut descriptor = self.descriptor.clone();
        let mut meta = descriptor.meta();
        let modification = Uuid::new_v4();
        // Other programs' images get a modification UUID only where they have a UUID at all.
        meta.modification = meta.uuid.map(|_| modification);
        meta.cid = Some(new_cid(modification));
        descriptor.set_meta(&meta);
        self.put_descriptor(descriptor)?;
        self.announced = true;
        Ok(())
    }

    fn sync_all(&self) -> Result<()> {
        for extent in &self.extents {
            match &extent.kind {
                Kind::Sparse(sparse) => sparse.file.sync()?,
                Kind::Flat(file, _) if extent.writable => file.sync()?,
                Kind::Flat(..) | Kind::Zero => {}
            }
        }
        match &self.home {
            Home::File(file) => file.sync(),
            Home::Embedded(..) => Ok(()),
        }
    }

    pub(super) fn read_only_extent(&self) -> Error {
        Error::unsupported(&self.path, "this part of the disk can only be read")
    }
}

/// A content ID that is none of the special values.
pub(super) fn new_cid(from: Uuid) -> u32 {
    let (cid, ..) = from.as_fields();
    cid.clamp(1, u32::MAX - 2)
}

impl Image for VmdkImage {
    fn format(&self) -> &'static str {
        "VMDK"
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn mode(&self) -> OpenMode {
        self.mode
    }

    fn variant(&self) -> Variant {
        self.variant
    }

    fn layout(&self) -> Layout {
        self.layout
    }

    fn size(&self) -> u64 {
        self.total()
    }

    fn block_size(&self) -> u32 {
        let grains = self.extents.iter().filter_map(|e| match &e.kind {
            Kind::Sparse(sparse) => Some(sparse.header.grain as u32),
            _ => None,
        });
        grains.max().unwrap_or(SECTOR as u32)
    }

    fn size_on_disk(&self) -> Result<u64> {
        let mut sum = match &self.home {
            Home::File(file) => file.len()?,
            Home::Embedded(..) => 0,
        };
        for extent in &self.extents {
            sum += match &extent.kind {
                Kind::Sparse(sparse) => sparse.file.len()?,
                Kind::Flat(file, _) => file.len()?,
                Kind::Zero => 0,
            };
        }
        Ok(sum)
    }

    fn meta(&self) -> Meta {
        self.descriptor.meta()
    }

    fn set_meta(&mut self, meta: &Meta) -> Result<()> {
        self.require_writable()?;
        if meta.parent.is_some() != self.is_child() {
            return Err(Error::invalid(
                &self.path,
                "a differencing image, and no other, has a parent",
            ));
        }
        if meta.comment.contains(['"', '\0']) {
            return Err(Error::invalid(
                &self.path,
                "a comment cannot have double quotes or zero bytes",
            ));
        }
        let mut descriptor = self.descriptor.clone();
        descriptor.set_meta(meta);
        self.put_descriptor(descriptor)
    }

    fn run_at(&self, offset: u64, len: u64) -> Result<Run> {
        self.check_range(offset, len)?;
        let mut run = Run {
            len: 0,
            state: RunState::Absent,
        };
        while run.len < len {
            let at = offset + run.len;
            let extent = &self.extents[self.extent_at(at)];
            let within = at - extent.start;
            let rest = (extent.len - within).min(len - run.len);
            let (state, n) = match &extent.kind {
                Kind::Sparse(sparse) => sparse.run_at(within, rest),
                Kind::Zero => (RunState::Zero, rest),
                Kind::Flat(file, base) => match file.data_run(base + within) {
                    Some((true, end)) => (RunState::Data, (end - base - within).min(rest)),
                    Some((false, end)) => (RunState::Zero, (end - base - within).min(rest)),
                    None => (RunState::Data, rest),
                },
            };
            if run.len > 0 && run.state != state {
                break;
            }
            run.state = state;
            run.len += n;
        }
        Ok(run)
    }

    fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        for (index, within, len) in self.parts(offset, buf.len() as u64) {
            let (piece, rest) = buf.split_at_mut(len as usize);
            match &self.extents[index].kind {
                Kind::Sparse(sparse) => sparse.read(within, piece)?,
                Kind::Flat(file, base) => file.read(base + within, piece)?,
                Kind::Zero => piece.fill(0),
            }
            buf = rest;
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, mut buf: &[u8]) -> Result<()> {
        self.require_writable()?;
        self.check_range(offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        self.announce()?;
        let child = self.is_child();
        for (index, within, len) in self.parts(offset, buf.len() as u64) {
            let (piece, rest) = buf.split_at(len as usize);
            let extent = &mut self.extents[index];
            match &mut extent.kind {
                _ if !extent.writable => return Err(self.read_only_extent()),
                Kind::Sparse(sparse) => sparse.write(within, piece, child)?,
                Kind::Flat(file, base) => file.write(*base + within, piece)?,
                Kind::Zero => return Err(self.read_only_extent()),
            }
            buf = rest;
        }
        Ok(())
    }

    /// The first one makes a stream-optimised image complete.
    fn flush(&mut self) -> Result<()> {
        if self.mode == OpenMode::ReadOnly {
            return Ok(());
        }
        let child = self.is_child();
        for extent in &mut self.extents {
            if let Kind::Sparse(sparse) = &mut extent.kind {
                sparse.finish_stream()?;
                sparse.settle(child)?;
            }
        }
        self.sync_all()
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<()> {
        self.require_writable()?;
        self.check_range(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        self.announce()?;
        let child = self.is_child();
        for (index, within, len) in self.parts(offset, len) {
            let extent = &mut self.extents[index];
            match &mut extent.kind {
                Kind::Zero => {}
                _ if !extent.writable => return Err(self.read_only_extent()),
                Kind::Sparse(sparse) => sparse.discard(within, len, child)?,
                Kind::Flat(file, base) => file.zero_kept(*base + within, len)?,
            }
        }
        Ok(())
    }

    fn resize(&mut self, size: u64, progress: &mut Progress<'_>) -> Result<()> {
        self.grow(size, progress)
    }

    fn compact(&mut self, _progress: &mut Progress<'_>) -> Result<()> {
        self.require_writable()?;
        Err(Error::unsupported(
            &self.path,
            "VMDK images cannot be compacted",
        ))
    }

    fn check(&self) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        for extent in &self.extents {
            let Kind::Sparse(sparse) = &extent.kind else {
                continue;
            };
            report.allocated += sparse.allocated();
            if !sparse.stale_copies()?.is_empty() {
                report.notes.push(format!(
                    "the two sets of grain tables of '{}' differ",
                    sparse.file.path().display()
                ));
            }
        }
        Ok(report)
    }
}

impl Drop for VmdkImage {
    fn drop(&mut self) {
        if self.mode == OpenMode::ReadOnly {
            return;
        }
        let child = self.is_child();
        for extent in &mut self.extents {
            if let Kind::Sparse(sparse) = &mut extent.kind {
                // What was not flushed may be lost, but need not be; the rest is tidiness.
                let _ = sparse.finish_stream();
                let _ = sparse.close(child);
            }
        }
    }
}

/// A differencing image is written in grains, which must not reach over the end of an extent.
pub(super) fn grains_fit(extents: &[Extent]) -> bool {
    extents.iter().all(|extent| match &extent.kind {
        Kind::Sparse(sparse) => sparse.header.grain == GRAIN && extent.start.is_multiple_of(GRAIN),
        Kind::Flat(..) | Kind::Zero => false,
    })
}
