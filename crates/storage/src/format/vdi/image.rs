//! An open VDI file: reading, writing and the order in which things reach the file.

use std::path::Path;

use uuid::Uuid;

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
use crate::zero::is_zero;

use super::header::ALLOCATED_AT;
use super::header::FREE;
use super::header::Header;
use super::header::ZERO;

/// The file grows by this many slots at a time, so that one flush serves them all.
const GROW_SLOTS: u64 = 16;

/// Map entries read or written in one piece.
const MAP_PIECE: usize = 64 << 10;

pub(super) struct VdiImage {
    pub(super) file: HostFile,
    pub(super) header: Header,
    /// One entry per block: a slot, [`FREE`] or [`ZERO`].
    pub(super) map: Vec<u32>,
    /// The first slot that no entry refers to, nor any slot after it.
    pub(super) next: u32,
    /// File offset up to which slots from `next` on are known to be zero and part of the file even
    /// after a power cut; `None` before the first allocation and after a failed one.
    tail: Option<u64>,
    /// This session has announced itself with a new modification UUID.
    announced: bool,
    /// A map entry whose last write failed: the file may hold either value.
    doubtful: Option<u32>,
    /// A write of the header failed: the file may have either layout, so nothing more is written.
    pub(super) broken: bool,
}

/// What a part of one block is to be.
#[derive(Clone, Copy)]
struct Part {
    block: u32,
    /// Offset inside the block.
    within: u64,
    len: u64,
}

impl VdiImage {
    /// Reads and checks the map.
    pub(super) fn open(file: HostFile, header: Header) -> Result<Self> {
        let map = read_map(&file, &header)?;
        let next = check_map(&file, &header, &map)?;
        Ok(Self {
            file,
            header,
            map,
            next,
            tail: None,
            announced: false,
            doubtful: None,
            broken: false,
        })
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.file.path(), offset, len, self.header.size)
    }

    /// Cuts a range, which must be inside the disk, at block boundaries.
    fn parts(&self, offset: u64, len: u64) -> impl Iterator<Item = Part> + use<> {
        let block_size = self.header.block_size;
        let end = offset + len;
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let within = at % block_size;
            let part = Part {
                // Inside the disk, so below the 32-bit number of blocks.
                block: (at / block_size) as u32,
                within,
                len: (block_size - within).min(end - at),
            };
            at += part.len;
            Some(part)
        })
    }

    fn require_intact(&self) -> Result<()> {
        self.file.require_writable()?;
        if self.broken {
            return Err(Error::unsupported(
                self.file.path(),
                "writing its header failed, so nothing more is written: close the image and open it again",
            ));
        }
        Ok(())
    }

    /// Must come before the first change of a session: gives the image a new modification UUID,
    /// so that no child takes it for what it was, and corrects the count a crash may have left.
    pub(super) fn announce(&mut self) -> Result<()> {
        self.require_intact()?;
        if self.announced {
            return Ok(());
        }
        let mut header = self.header.clone();
        header.meta.modification = Some(Uuid::new_v4());
        header.allocated = self.next;
        // Only fields without influence on the layout change, so a failed write is harmless.
        self.file.write(0, &header.encode(self.file.path())?)?;
        self.file.sync()?;
        self.header = header;
        self.announced = true;
        Ok(())
    }

    /// Makes sure that `slot` is in the file, holds zeros and stays there after a power cut.
    pub(super) fn reserve(&mut self, slot: u64) -> Result<()> {
        let tail = match self.tail {
            Some(tail) => tail,
            None => {
                // What a crash or a failed write left behind must not show up in new blocks.
                let end = self.header.slot_at(self.next.into());
                if self.file.len()? > end {
                    self.file.set_len(end)?;
                }
                end
            }
        };
        self.tail = Some(tail);
        if self.header.slot_at(slot + 1) > tail {
            let ahead = (slot + GROW_SLOTS)
                .min(self.header.blocks.into())
                .max(slot + 1);
            let end = self.header.slot_at(ahead);
            self.tail = None;
            self.file.set_len(end)?;
            self.file.sync()?;
            self.tail = Some(end);
        }
        Ok(())
    }

    /// Gives a block a slot and writes the part of it that is not zero.
    fn allocate(&mut self, part: Part, data: &[u8]) -> Result<()> {
        self.settle_doubt()?;
        let slot = self.next;
        self.reserve(slot.into())?;
        let done = self.fill_slot(slot, part, data);
        if done.is_err() {
            // The slot is no longer zero, and the next block to get it may be another.
            self.tail = None;
        }
        done
    }

    fn fill_slot(&mut self, slot: u32, part: Part, data: &[u8]) -> Result<()> {
        self.file
            .write(self.header.slot_at(slot.into()) + part.within, data)?;
        if self.header.variant == Variant::Differencing {
            self.file.sync()?;
        }
        self.put_count(slot + 1)?;
        self.put_entry(part.block, slot)
    }

    /// Writes the header's count of slots. It is raised before an entry uses the new slot.
    pub(super) fn put_count(&mut self, count: u32) -> Result<()> {
        self.file.write(ALLOCATED_AT, &count.to_le_bytes())?;
        self.header.allocated = count;
        Ok(())
    }

    /// Writes one map entry, in the file first.
    pub(super) fn put_entry(&mut self, block: u32, value: u32) -> Result<()> {
        let written = self
            .file
            .write(self.header.entry_at(block), &value.to_le_bytes());
        if written.is_err() {
            self.doubtful = Some(block);
            return written;
        }
        self.map[block as usize] = value;
        if value < ZERO {
            self.next = self.next.max(value + 1);
        }
        Ok(())
    }

    /// After a failed entry write, makes the file agree with us again: the slot that the entry may
    /// refer to is about to be used for something else.
    pub(super) fn settle_doubt(&mut self) -> Result<()> {
        if let Some(block) = self.doubtful {
            let value = self.map[block as usize];
            self.file
                .write(self.header.entry_at(block), &value.to_le_bytes())?;
            self.file.sync()?;
            self.doubtful = None;
        }
        Ok(())
    }

    /// Forgets what is known about the unused slots at the end, after a change of the layout.
    pub(super) fn forget_tail(&mut self) {
        self.tail = None;
    }

    /// Cuts unused slots off the end of the file.
    pub(super) fn trim(&mut self) -> Result<()> {
        self.tail = None;
        let end = self.header.slot_at(self.next.into());
        if self.file.len()? > end {
            self.file.set_len(end)?;
        }
        Ok(())
    }

    /// A block that no data are stored for gets `data`, or zeros.
    fn write_absent(&mut self, part: Part, data: &[u8]) -> Result<()> {
        let falls_through =
            self.header.variant == Variant::Differencing && self.map[part.block as usize] == FREE;
        if falls_through && part.len < self.header.block_len(part.block) {
            return Err(Error::invalid(
                self.file.path(),
                "a block that the parent holds must be written whole",
            ));
        }
        match (is_zero(data), falls_through) {
            (true, false) => Ok(()),
            (true, true) => {
                self.settle_doubt()?;
                self.put_entry(part.block, ZERO)
            }
            (false, _) => self.allocate(part, data),
        }
    }
}

impl Image for VdiImage {
    fn format(&self) -> &'static str {
        "VDI"
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn mode(&self) -> OpenMode {
        self.file.mode()
    }

    fn variant(&self) -> Variant {
        self.header.variant
    }

    fn size(&self) -> u64 {
        self.header.size
    }

    fn block_size(&self) -> u32 {
        // At most 16 MiB.
        self.header.block_size as u32
    }

    fn size_on_disk(&self) -> Result<u64> {
        Ok(self.header.slot_at(self.next.into()))
    }

    fn meta(&self) -> Meta {
        self.header.meta.clone()
    }

    fn set_meta(&mut self, meta: &Meta) -> Result<()> {
        // Not a change of the disk's contents, so the session stays unannounced.
        self.require_intact()?;
        let header = self.header.with_meta(meta.clone(), self.file.path())?;
        self.file.write(0, &header.encode(self.file.path())?)?;
        self.file.sync()?;
        self.header = header;
        Ok(())
    }

    fn run_at(&self, offset: u64, len: u64) -> Result<Run> {
        self.check_range(offset, len)?;
        let mut run: Option<Run> = None;
        for part in self.parts(offset, len) {
            let state = match self.map[part.block as usize] {
                FREE => RunState::Absent,
                ZERO => RunState::Zero,
                _ => RunState::Data,
            };
            match &mut run {
                None => {
                    run = Some(Run {
                        len: part.len,
                        state,
                    });
                }
                Some(run) if run.state == state => run.len += part.len,
                Some(_) => break,
            }
        }
        Ok(run.unwrap_or(Run {
            len: 0,
            state: RunState::Absent,
        }))
    }

    fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        for part in self.parts(offset, buf.len() as u64) {
            let (piece, rest) = buf.split_at_mut(part.len as usize);
            match self.map[part.block as usize] {
                FREE | ZERO => piece.fill(0),
                slot => self
                    .file
                    .read(self.header.slot_at(slot.into()) + part.within, piece)?,
            }
            buf = rest;
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, mut buf: &[u8]) -> Result<()> {
        self.file.require_writable()?;
        self.check_range(offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        self.announce()?;
        for part in self.parts(offset, buf.len() as u64) {
            let (piece, rest) = buf.split_at(part.len as usize);
            match self.map[part.block as usize] {
                FREE | ZERO => self.write_absent(part, piece)?,
                slot => self
                    .file
                    .write(self.header.slot_at(slot.into()) + part.within, piece)?,
            }
            buf = rest;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        match self.file.mode() {
            OpenMode::ReadWrite => self.file.sync(),
            OpenMode::ReadOnly => Ok(()),
        }
    }

    /// Stored blocks keep their slot and lose their space on the host, so that slots stay without
    /// gaps, as other programs expect. A fixed image keeps the space as well.
    fn discard(&mut self, offset: u64, len: u64) -> Result<()> {
        self.file.require_writable()?;
        self.check_range(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        self.announce()?;
        for part in self.parts(offset, len) {
            match self.map[part.block as usize] {
                // Nothing but zeros: stores a mark where the parent would show through.
                FREE | ZERO => self.write_absent(part, &[])?,
                slot => {
                    let at = self.header.slot_at(slot.into()) + part.within;
                    match self.header.variant {
                        Variant::Fixed => self.file.zero_kept(at, part.len)?,
                        _ => self.file.punch(at, part.len)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn resize(&mut self, size: u64, progress: &mut Progress<'_>) -> Result<()> {
        self.grow(size, progress)
    }

    fn compact(&mut self, progress: &mut Progress<'_>) -> Result<()> {
        self.squeeze(progress)
    }

    fn check(&self) -> Result<CheckReport> {
        self.examine()
    }
}

impl Drop for VdiImage {
    fn drop(&mut self) {
        if self.announced && !self.broken && self.doubtful.is_none() {
            // Only tidiness: what stays behind is cut off by the next writer.
            let _ = self.trim();
        }
    }
}

/// Writes a whole map.
pub(super) fn write_map(file: &HostFile, mut at: u64, map: &[u32]) -> Result<()> {
    for piece in map.chunks(MAP_PIECE) {
        let bytes: Vec<u8> = piece.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        file.write(at, &bytes)?;
        at += bytes.len() as u64;
    }
    Ok(())
}

/// Reads the map, of which the header says that the file is long enough for it.
fn read_map(file: &HostFile, header: &Header) -> Result<Vec<u32>> {
    let blocks = header.blocks as usize;
    let mut map = Vec::with_capacity(blocks);
    let mut bytes = vec![0; 4 * blocks.min(MAP_PIECE)];
    let mut at = header.off_map;
    while map.len() < blocks {
        let n = 4 * (blocks - map.len()).min(MAP_PIECE);
        file.read(at, &mut bytes[..n])?;
        map.extend(
            bytes[..n]
                .chunks_exact(4)
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        );
        at += n as u64;
    }
    Ok(map)
}

/// Refuses entries that point outside the file and slots with two owners. Returns the number of
/// slots up to the last one in use.
fn check_map(file: &HostFile, header: &Header, map: &[u32]) -> Result<u32> {
    let bad = |block: usize, what: String| {
        Error::corrupt(file.path(), "VDI", header.entry_at(block as u32), what)
    };
    let file_len = file.len()?;
    let mut last = None;
    for (block, &slot) in map.iter().enumerate() {
        if slot >= ZERO {
            continue;
        }
        let end = header.slot_at(slot.into()) + header.block_len(block as u32);
        if end > file_len {
            return Err(bad(
                block,
                format!(
                    "block {block} is said to end at {end:#x}, but the file ends at {file_len:#x}"
                ),
            ));
        }
        last = last.max(Some(slot));
    }
    let Some(last) = last else { return Ok(0) };
    // One bit per slot that the file is long enough for.
    let mut used = vec![0u64; last as usize / 64 + 1];
    for (block, &slot) in map.iter().enumerate() {
        if slot >= ZERO {
            continue;
        }
        let (word, bit) = (slot as usize / 64, 1u64 << (slot % 64));
        if used[word] & bit != 0 {
            return Err(bad(
                block,
                format!("block {block} shares slot {slot} with an earlier block"),
            ));
        }
        used[word] |= bit;
    }
    Ok(last + 1)
}
