//! Images that are only read: the disk is a list of stretches, each of which is somewhere in the
//! file, compressed there, or zero. VHDX and DMG are opened as such.

use std::cell::RefCell;
use std::path::Path;

use crate::CheckReport;
use crate::Error;
use crate::Image;
use crate::Meta;
use crate::OpenMode;
use crate::Progress;
use crate::Result;
use crate::Run;
use crate::RunState;
use crate::Variant;
use crate::host::HostFile;
use crate::image::check_range;

/// Where the bytes of an extent are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// In the file, from this offset on.
    Plain(u64),
    /// A zlib stream of so many bytes at this offset.
    Zlib(u64, u64),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Logical offset.
    pub(super) start: u64,
    /// Bytes; never zero.
    pub(super) len: u64,
    pub(super) source: Source,
}

/// What such an image says of itself.
pub(super) struct Facts {
    pub(super) format: &'static str,
    pub(super) variant: Variant,
    /// Logical bytes.
    pub(super) size: u64,
    /// Bytes of a block; 512 where there are none.
    pub(super) block: u32,
    pub(super) meta: Meta,
}

pub(super) struct ExtentImage {
    file: HostFile,
    facts: Facts,
    /// Sorted; what is between two of them is zero.
    extents: Vec<Extent>,
    /// The stream that was unpacked last: its index and its bytes.
    unpacked: RefCell<Option<(usize, Vec<u8>)>>,
}

/// The largest piece that is unpacked at once. Makers of images use 256 KiB to a few MiB.
const LARGEST_STREAM: u64 = 64 << 20;

/// No deflate stream unpacks to more than about this many times its length.
const LARGEST_RATIO: u64 = 1040;

impl ExtentImage {
    /// Refuses extents outside the file or the disk, and ones that overlap.
    pub(super) fn new(file: HostFile, facts: Facts, mut extents: Vec<Extent>) -> Result<Self> {
        extents.sort_unstable_by_key(|extent| extent.start);
        let len = file.len()?;
        let mut end = 0;
        for extent in &extents {
            let bad = |what: &str| {
                Error::corrupt(
                    file.path(),
                    facts.format,
                    0,
                    format!("{what} (at byte {:#x} of the disk)", extent.start),
                )
            };
            let stop = extent.start.checked_add(extent.len);
            let stop = stop.filter(|stop| *stop <= facts.size && extent.start >= end);
            end = stop.ok_or_else(|| bad("data overlap or lie outside the disk"))?;
            let last = match extent.source {
                Source::Plain(at) => at.checked_add(extent.len),
                Source::Zlib(at, packed) => {
                    if extent.len > LARGEST_STREAM || extent.len / LARGEST_RATIO > packed {
                        return Err(bad("too little data for what it is said to unpack to"));
                    }
                    at.checked_add(packed)
                }
            };
            if last.is_none_or(|last| last > len) {
                return Err(bad("data outside the file"));
            }
        }
        Ok(Self {
            file,
            facts,
            extents,
            unpacked: RefCell::new(None),
        })
    }

    /// The extent that holds a byte, or the first after it.
    fn find(&self, offset: u64) -> usize {
        let ends = |extent: &Extent| extent.start + extent.len <= offset;
        self.extents.partition_point(ends)
    }

    /// The extent at `offset`, if any, and how far it or the gap reaches.
    fn piece(&self, offset: u64, len: u64) -> (Option<usize>, u64) {
        let index = self.find(offset);
        match self.extents.get(index) {
            Some(extent) if extent.start <= offset => {
                (Some(index), (extent.start + extent.len - offset).min(len))
            }
            Some(extent) => (None, (extent.start - offset).min(len)),
            None => (None, len),
        }
    }

    fn unpack(&self, index: usize, at: u64, packed: u64, len: u64) -> Result<()> {
        if matches!(&*self.unpacked.borrow(), Some((i, _)) if *i == index) {
            return Ok(());
        }
        let mut raw = vec![0; packed as usize];
        self.file.read(at, &mut raw)?;
        let mut data = vec![0; len as usize];
        let mut stream = flate2::Decompress::new(true);
        let done = stream.decompress(&raw, &mut data, flate2::FlushDecompress::Finish);
        if done.is_err() || stream.total_out() != len {
            return Err(Error::corrupt(
                self.file.path(),
                self.facts.format,
                at,
                "the compressed data are damaged",
            ));
        }
        *self.unpacked.borrow_mut() = Some((index, data));
        Ok(())
    }

    fn read_only(&self) -> Error {
        Error::ReadOnly {
            path: self.file.path().to_path_buf(),
        }
    }
}

impl Image for ExtentImage {
    fn format(&self) -> &'static str {
        self.facts.format
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn mode(&self) -> OpenMode {
        OpenMode::ReadOnly
    }

    fn variant(&self) -> Variant {
        self.facts.variant
    }

    fn size(&self) -> u64 {
        self.facts.size
    }

    fn block_size(&self) -> u32 {
        self.facts.block
    }

    fn size_on_disk(&self) -> Result<u64> {
        self.file.len()
    }

    fn meta(&self) -> Meta {
        self.facts.meta.clone()
    }

    fn set_meta(&mut self, meta: &Meta) -> Result<()> {
        match *meta == self.facts.meta {
            true => Ok(()),
            false => Err(self.read_only()),
        }
    }

    fn run_at(&self, offset: u64, len: u64) -> Result<Run> {
        check_range(self.file.path(), offset, len, self.facts.size)?;
        let (index, len) = self.piece(offset, len);
        let state = match index {
            Some(_) => RunState::Data,
            None => RunState::Absent,
        };
        Ok(Run { len, state })
    }

    fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        check_range(self.file.path(), offset, buf.len() as u64, self.facts.size)?;
        let mut at = offset;
        while !buf.is_empty() {
            let (index, len) = self.piece(at, buf.len() as u64);
            let (piece, rest) = buf.split_at_mut(len as usize);
            buf = rest;
            match index.and_then(|i| Some((i, self.extents.get(i)?))) {
                None => piece.fill(0),
                Some((index, extent)) => {
                    let within = at - extent.start;
                    match extent.source {
                        Source::Plain(from) => self.file.read(from + within, piece)?,
                        Source::Zlib(from, packed) => {
                            self.unpack(index, from, packed, extent.len)?;
                            let unpacked = self.unpacked.borrow();
                            let data = unpacked.as_ref().map_or(&[][..], |(_, data)| data);
                            let data = data.get(within as usize..).unwrap_or_default();
                            piece.copy_from_slice(&data[..piece.len()]);
                        }
                    }
                }
            }
            at += len;
        }
        Ok(())
    }

    fn write_at(&mut self, _offset: u64, _buf: &[u8]) -> Result<()> {
        Err(self.read_only())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn discard(&mut self, _offset: u64, _len: u64) -> Result<()> {
        Err(self.read_only())
    }

    fn resize(&mut self, _size: u64, _progress: &mut Progress<'_>) -> Result<()> {
        Err(self.read_only())
    }

    fn compact(&mut self, _progress: &mut Progress<'_>) -> Result<()> {
        Err(self.read_only())
    }

    fn check(&self) -> Result<CheckReport> {
        Ok(CheckReport {
            allocated: self.extents.len() as u64,
            ..CheckReport::default()
        })
    }
}
