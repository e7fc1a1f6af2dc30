//! An open VHD file: reading, writing and the order in which things reach the file.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use crate::CheckReport;
use crate::Error;
use crate::Geometry;
use crate::Image;
use crate::Meta;
use crate::OpenMode;
use crate::Progress;
use crate::Result;
use crate::Run;
use crate::RunState;
use crate::SECTOR;
use crate::Variant;
use crate::bytes;
use crate::host::HostFile;
use crate::image::check_range;
use crate::zero::is_zero;

use super::footer::FOOTER_LEN;
use super::footer::FREE;
use super::footer::Footer;
use super::footer::Header;
use super::parent_of;

/// The file grows by this many blocks at a time.
const GROW_BLOCKS: u64 = 8;

/// Bitmaps of a differencing image that wait in memory for a flush.
const PENDING: usize = 64;

/// Zeros are written in pieces of this size where they have to be.
const ZEROS: usize = 256 << 10;

/// Entries per sector of the table.
const PER_SECTOR: u32 = (SECTOR / 4) as u32;

pub(super) struct VhdImage {
    pub(super) file: HostFile,
    pub(super) footer: Footer,
    /// `None` in a fixed image.
    pub(super) blocks: Option<Blocks>,
    /// A write of a header failed: the file may have either layout, so nothing more is written.
    pub(super) broken: bool,
}

/// What a dynamic or differencing image has besides its footer.
pub(super) struct Blocks {
    pub(super) header: Header,
    /// Sector number of each block's bitmap, or [`FREE`].
    pub(super) table: Vec<u32>,
    /// File offset after everything in use but the footer.
    pub(super) next: u64,
    /// File offset of the footer, when everything from `next` to there is known to be zero even
    /// after a power cut; `None` before the first allocation and after a failed one.
    pub(super) tail: Option<u64>,
    /// Sectors of the table that the file does not have yet.
    dirty_table: BTreeSet<u32>,
    /// Bitmaps that the file does not have yet.
    dirty_bitmaps: BTreeMap<u32, Vec<u8>>,
}

/// A part of one block, inside the disk.
#[derive(Clone, Copy)]
struct Part {
    block: u32,
    within: u64,
    len: u64,
}

fn parts(block_size: u64, offset: u64, len: u64) -> impl Iterator<Item = Part> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let within = at % block_size;
            let part = Part {
                // Inside the disk, so below the 32-bit number of blocks.
                block: (at / block_size) as u32,
                within,
                len: (block_size - within).min(end - at),
            };
            at += part.len;
            part
        })
    })
}

/// Whether the bit of a sector is set; the first sector has the highest bit of the first byte.
fn bit(bitmap: &[u8], sector: u64) -> bool {
    let byte = bitmap.get((sector / 8) as usize).copied().unwrap_or(0);
    byte & (0x80 >> (sector % 8)) != 0
}

/// The sectors that a byte range of a block touches.
fn sectors(within: u64, len: u64) -> std::ops::Range<u64> {
    within / SECTOR..(within + len).div_ceil(SECTOR)
}

impl VhdImage {
    pub(super) fn open(file: HostFile, footer: Footer, header: Option<Header>) -> Result<Self> {
        let blocks = header
            .map(|header| Blocks::open(&file, &footer, header))
            .transpose()?;
        Ok(Self {
            file,
            footer,
            blocks,
            broken: false,
        })
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.file.path(), offset, len, self.footer.size)
    }

    pub(super) fn require_intact(&self) -> Result<()> {
        self.file.require_writable()?;
        if self.broken {
            return Err(Error::unsupported(
                self.file.path(),
                "writing its header failed, so nothing more is written: close the image and open it again",
            ));
        }
        Ok(())
    }

    fn is_child(&self) -> bool {
        self.footer.variant == Variant::Differencing
    }

    /// Writes table entries and bitmaps that wait in memory. In a differencing image what they
    /// uncover must be on the disk before.
    pub(super) fn settle(&mut self) -> Result<()> {
        let child = self.is_child();
        match &mut self.blocks {
            Some(blocks) => blocks.settle(&self.file, child),
            None => Ok(()),
        }
    }

    /// Writes the footer to both of its places.
    pub(super) fn put_footer(&mut self, footer: Footer) -> Result<()> {
        let end = match self.footer.variant {
            Variant::Fixed => footer.size,
            _ => self.file.len()?.saturating_sub(FOOTER_LEN as u64),
        };
        let raw = footer.encode();
        let written = self.file.write(end, &raw).and_then(|()| self.file.sync());
        let written = match &self.blocks {
            Some(_) => written.and_then(|()| self.file.write(0, &raw)),
            None => written,
        };
        let written = written.and_then(|()| self.file.sync());
        self.broken |= written.is_err();
        written?;
        self.footer = footer;
        Ok(())
    }

    fn write_part(&mut self, part: Part, data: &[u8]) -> Result<()> {
        let child = self.is_child();
        let Some(blocks) = &mut self.blocks else {
            return Ok(());
        };
        if blocks.table[part.block as usize] == FREE {
            if is_zero(data) && !child {
                return Ok(());
            }
            if child && !(part.within | part.len).is_multiple_of(SECTOR) {
                return Err(half_sector(self.file.path()));
            }
            return blocks.allocate(&self.file, &self.footer, part, data);
        }
        let at = blocks.data_at(part.block) + part.within;
        let mut bitmap = blocks.bitmap(&self.file, part.block)?;
        let touched = sectors(part.within, part.len);
        if touched.clone().all(|sector| bit(&bitmap, sector)) {
            return self.file.write(at, data);
        }
        // Sectors that are not marked may hold anything: what is not written of them is zero.
        for (sector, cut) in [
            (touched.start, part.within % SECTOR),
            (touched.end - 1, (part.within + part.len) % SECTOR),
        ] {
            if cut == 0 || bit(&bitmap, sector) {
                continue;
            }
            if child {
                return Err(half_sector(self.file.path()));
            }
            let base = blocks.data_at(part.block);
            self.file
                .write(base + sector * SECTOR, &[0; SECTOR as usize])?;
        }
        self.file.write(at, data)?;
        for sector in touched {
            if let Some(byte) = bitmap.get_mut((sector / 8) as usize) {
                *byte |= 0x80 >> (sector % 8);
            }
        }
        blocks.dirty_bitmaps.insert(part.block, bitmap);
        Ok(())
    }

    fn settle_if_due(&mut self) -> Result<()> {
        let due = self.blocks.as_ref().is_some_and(|blocks| {
            let waiting = blocks.dirty_bitmaps.len() + blocks.dirty_table.len();
            waiting > if self.is_child() { PENDING } else { 0 }
        });
        match due {
            true => self.settle(),
            false => Ok(()),
        }
    }

    fn write_zeros(&mut self, mut at: u64, end: u64) -> Result<()> {
        let zeros = vec![0; ZEROS.min((end - at) as usize)];
        while at < end {
            let n = (zeros.len() as u64).min(end - at);
            self.write_at(at, &zeros[..n as usize])?;
            at += n;
        }
        Ok(())
    }
}

fn half_sector(path: &Path) -> Error {
    Error::invalid(path, "a sector that the parent holds must be written whole")
}

impl Blocks {
    /// Reads the table and refuses blocks outside the file and ones that overlap.
    fn open(file: &HostFile, footer: &Footer, header: Header) -> Result<Self> {
        let mut raw = vec![0; 4 * header.entries as usize];
        file.read(header.table_at, &mut raw)?;
        let table: Vec<u32> = bytes::u32s(&raw, u32::from_be_bytes).collect();
        let len = file.len()?;
        let bad = |block: u32, what: String| {
            Error::corrupt(
                file.path(),
                "VHD",
                header.table_at + 4 * u64::from(block),
                what,
            )
        };
        let table_end = header.table_at + 4 * u64::from(header.entries);
        let header_end = footer.header_at + super::footer::HEADER_LEN as u64;
        // What blocks must not lie on: footer, header, table.
        let reserved = [
            (0, FOOTER_LEN as u64),
            (footer.header_at, header_end),
            (header.table_at, table_end),
        ];
        let mut owners: Vec<(u32, u32)> = Vec::new();
        for (block, &sector) in table.iter().enumerate() {
            if sector == FREE {
                continue;
            }
            let block = block as u32;
            let start = u64::from(sector) * SECTOR;
            let end = start + header.stride();
            if end > len {
                return Err(bad(
                    block,
                    format!(
                        "block {block} is said to end at {end:#x}, but the file ends at {len:#x}"
                    ),
                ));
            }
            if reserved.iter().any(|(from, to)| start < *to && *from < end) {
                return Err(bad(block, format!("block {block} lies on the headers")));
            }
            owners.push((sector, block));
        }
        owners.sort_unstable();
        for pair in owners.windows(2) {
            if u64::from(pair[1].0 - pair[0].0) * SECTOR < header.stride() {
                return Err(bad(
                    pair[1].1,
                    format!("block {} overlaps block {}", pair[1].1, pair[0].1),
                ));
            }
        }
        let last = owners.last().map_or(0, |(sector, _)| {
            u64::from(*sector) * SECTOR + header.stride()
        });
        // Locators, too, lie before the blocks or the table of every writer that is known; those of
        // others must not be written over, nor may a table with room in its last sector.
        let table_end = header.table_at + header.table_len();
        let locators = header.locators_end().min(len);
        let next = last.max(header_end).max(table_end).max(locators);
        Ok(Self {
            header,
            table,
            next,
            tail: None,
            dirty_table: BTreeSet::new(),
            dirty_bitmaps: BTreeMap::new(),
        })
    }

    /// File offset of a block that is in the file.
    fn at(&self, block: u32) -> u64 {
        u64::from(self.table[block as usize]) * SECTOR
    }

    fn data_at(&self, block: u32) -> u64 {
        self.at(block) + self.header.bitmap_len()
    }

    fn bitmap(&self, file: &HostFile, block: u32) -> Result<Vec<u8>> {
        if let Some(bitmap) = self.dirty_bitmaps.get(&block) {
            return Ok(bitmap.clone());
        }
        let mut bitmap = vec![0; self.header.bitmap_len() as usize];
        file.read(self.at(block), &mut bitmap)?;
        Ok(bitmap)
    }

    /// Makes sure that `len` bytes from `next` on are in the file, hold zeros and stay there after
    /// a power cut. The footer is at the end of the file throughout.
    pub(super) fn reserve(&mut self, file: &HostFile, footer: &Footer, len: u64) -> Result<()> {
        let end = self.next + len;
        if self.tail.is_some_and(|tail| end <= tail) {
            return Ok(());
        }
        // Whatever lies between was left behind by a crash or a failed write.
        let from = self.tail.take().unwrap_or(self.next);
        let end = (end + (GROW_BLOCKS - 1) * self.header.stride())
            .max(file.len()?.saturating_sub(FOOTER_LEN as u64))
            .next_multiple_of(SECTOR);
        file.write(end, &footer.encode())?;
        file.sync()?;
        file.punch(from, end - from)?;
        file.sync()?;
        self.tail = Some(end);
        Ok(())
    }

    /// Gives a block a place and writes a part of it.
    fn allocate(
        &mut self,
        file: &HostFile,
        footer: &Footer,
        part: Part,
        data: &[u8],
    ) -> Result<()> {
        let sector = match u32::try_from(self.next / SECTOR) {
            Ok(sector) if sector != FREE => sector,
            _ => return Err(Error::unsupported(file.path(), "the image is full")),
        };
        self.reserve(file, footer, self.header.stride())?;
        let data_at = self.next + self.header.bitmap_len();
        if let Err(e) = file.write(data_at + part.within, data) {
            // No longer zero, and the next block to come here may be another.
            self.tail = None;
            return Err(e);
        }
        let mut bitmap = vec![0; self.header.bitmap_len() as usize];
        match footer.variant {
            Variant::Differencing => {
                for sector in sectors(part.within, part.len) {
                    if let Some(byte) = bitmap.get_mut((sector / 8) as usize) {
                        *byte |= 0x80 >> (sector % 8);
                    }
                }
            }
            // All of it is the block's, as other programs that ignore the bitmap take it.
            _ => bitmap.fill(0xFF),
        }
        self.table[part.block as usize] = sector;
        self.next += self.header.stride();
        self.dirty_bitmaps.insert(part.block, bitmap);
        self.dirty_table.insert(part.block / PER_SECTOR);
        Ok(())
    }

    fn settle(&mut self, file: &HostFile, flush_first: bool) -> Result<()> {
        if self.dirty_bitmaps.is_empty() && self.dirty_table.is_empty() {
            return Ok(());
        }
        if flush_first {
            file.sync()?;
        }
        while let Some((&block, bitmap)) = self.dirty_bitmaps.first_key_value() {
            file.write(u64::from(self.table[block as usize]) * SECTOR, bitmap)?;
            self.dirty_bitmaps.remove(&block);
        }
        if flush_first && !self.dirty_table.is_empty() {
            // A new block must not come with a bitmap of the file's past.
            file.sync()?;
        }
        while let Some(&index) = self.dirty_table.first() {
            let first = (index * PER_SECTOR) as usize;
            let last = (first + PER_SECTOR as usize).min(self.table.len());
            let entries = self.table.get(first..last).unwrap_or_default();
            let raw: Vec<u8> = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
            file.write(self.header.table_at + 4 * first as u64, &raw)?;
            self.dirty_table.remove(&index);
        }
        Ok(())
    }

    /// Cuts unused space off the end of the file.
    fn trim(&mut self, file: &HostFile, footer: &Footer) -> Result<()> {
        if self.tail.take().is_none_or(|tail| tail == self.next) {
            return Ok(());
        }
        file.write(self.next, &footer.encode())?;
        file.sync()?;
        file.set_len(self.next + FOOTER_LEN as u64)
    }
}

impl Image for VhdImage {
    fn format(&self) -> &'static str {
        "VHD"
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn mode(&self) -> OpenMode {
        self.file.mode()
    }

    fn variant(&self) -> Variant {
        self.footer.variant
    }

    fn size(&self) -> u64 {
        self.footer.size
    }

    /// A differencing image keeps single sectors.
    fn block_size(&self) -> u32 {
        match &self.blocks {
            Some(blocks) if !self.is_child() => blocks.header.block_size as u32,
            _ => SECTOR as u32,
        }
    }

    fn size_on_disk(&self) -> Result<u64> {
        self.file.len()
    }

    fn meta(&self) -> Meta {
        Meta {
            uuid: Some(self.footer.uuid),
            parent: parent_of(&self.footer, self.blocks.as_ref().map(|b| &b.header)),
            physical: self.footer.geometry,
            ..Meta::default()
        }
    }

    /// There is no place for comments, modification UUIDs and the BIOS geometry.
    fn set_meta(&mut self, meta: &Meta) -> Result<()> {
        self.require_intact()?;
        let nothing = meta.comment.is_empty() && meta.modification.is_none();
        if !nothing || meta.logical != Geometry::default() {
            return Err(Error::unsupported(
                self.path(),
                "a VHD image has no place for comments, modification UUIDs or a BIOS geometry",
            ));
        }
        if meta.parent.is_some() != self.is_child() {
            return Err(Error::invalid(
                self.path(),
                "a differencing image, and no other, has a parent",
            ));
        }
        self.settle()?;
        let mut footer = self.footer.clone();
        footer.uuid = meta.uuid.unwrap_or_default();
        footer.geometry = meta.physical;
        if footer.uuid != self.footer.uuid || footer.geometry != self.footer.geometry {
            self.put_footer(footer)?;
        }
        if let (Some(link), Some(blocks)) = (meta.parent, &mut self.blocks)
            && link.uuid != blocks.header.parent
        {
            let mut header = blocks.header.clone();
            header.parent = link.uuid;
            let written = header.write(&self.file, self.footer.header_at);
            self.broken |= written.is_err();
            written?;
            blocks.header = header;
        }
        Ok(())
    }

    fn run_at(&self, offset: u64, len: u64) -> Result<Run> {
        self.check_range(offset, len)?;
        let Some(blocks) = &self.blocks else {
            return Ok(match self.file.data_run(offset) {
                Some((data, end)) => Run {
                    len: (end - offset).min(len),
                    state: if data { RunState::Data } else { RunState::Zero },
                },
                None => Run {
                    len,
                    state: RunState::Data,
                },
            });
        };
        let mut run = Run {
            len: 0,
            state: RunState::Absent,
        };
        for part in parts(blocks.header.block_size, offset, len) {
            let (state, part_len) = if blocks.table[part.block as usize] == FREE {
                (RunState::Absent, part.len)
            } else if !self.is_child() {
                (RunState::Data, part.len)
            } else {
                let bitmap = blocks.bitmap(&self.file, part.block)?;
                let mut touched = sectors(part.within, part.len);
                let first = bit(&bitmap, touched.start);
                let change = touched.find(|sector| bit(&bitmap, *sector) != first);
                let end = change.map_or(part.within + part.len, |sector| sector * SECTOR);
                let state = match first {
                    true => RunState::Data,
                    false => RunState::Absent,
                };
                (state, end - part.within)
            };
            if run.len > 0 && run.state != state {
                break;
            }
            run.state = state;
            run.len += part_len;
            if part_len < part.len {
                break;
            }
        }
        Ok(run)
    }

    fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        let Some(blocks) = &self.blocks else {
            return self.file.read(offset, buf);
        };
        for part in parts(blocks.header.block_size, offset, buf.len() as u64) {
            let (piece, rest) = buf.split_at_mut(part.len as usize);
            buf = rest;
            if blocks.table[part.block as usize] == FREE {
                piece.fill(0);
                continue;
            }
            self.file
                .read(blocks.data_at(part.block) + part.within, piece)?;
            let bitmap = blocks.bitmap(&self.file, part.block)?;
            for sector in sectors(part.within, part.len) {
                if !bit(&bitmap, sector) {
                    let from = (sector * SECTOR).max(part.within) - part.within;
                    let to = ((sector + 1) * SECTOR - part.within).min(part.len);
                    piece[from as usize..to as usize].fill(0);
                }
            }
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, mut buf: &[u8]) -> Result<()> {
        self.require_intact()?;
        self.check_range(offset, buf.len() as u64)?;
        let Some(blocks) = &self.blocks else {
            return self.file.write(offset, buf);
        };
        for part in parts(blocks.header.block_size, offset, buf.len() as u64) {
            let (piece, rest) = buf.split_at(part.len as usize);
            self.write_part(part, piece)?;
            self.settle_if_due()?;
            buf = rest;
        }
        self.settle_if_due()
    }

    fn flush(&mut self) -> Result<()> {
        if self.file.mode() == OpenMode::ReadOnly {
            return Ok(());
        }
        self.settle()?;
        self.file.sync()
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<()> {
        self.require_intact()?;
        self.check_range(offset, len)?;
        let child = self.is_child();
        let Some(blocks) = &self.blocks else {
            return self.file.zero_kept(offset, len);
        };
        if child {
            // Zeros have to be stored, or the parent would show through.
            return match len {
                0 => Ok(()),
                _ => self.write_zeros(offset, offset + len),
            };
        }
        for part in parts(blocks.header.block_size, offset, len) {
            if blocks.table[part.block as usize] != FREE {
                let at = blocks.data_at(part.block) + part.within;
                self.file.punch(at, part.len)?;
            }
        }
        Ok(())
    }

    fn resize(&mut self, size: u64, progress: &mut Progress<'_>) -> Result<()> {
        self.grow(size, progress)
    }

    fn compact(&mut self, _progress: &mut Progress<'_>) -> Result<()> {
        self.file.require_writable()?;
        Err(Error::unsupported(
            self.path(),
            "VHD images cannot be compacted",
        ))
    }

    fn check(&self) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        let Some(blocks) = &self.blocks else {
            return Ok(report);
        };
        report.allocated = blocks.table.iter().filter(|e| **e != FREE).count() as u64;
        let len = self.file.len()?;
        let (mut head, mut tail) = ([0; FOOTER_LEN], [0; FOOTER_LEN]);
        self.file.read(0, &mut head)?;
        self.file
            .read(len.saturating_sub(FOOTER_LEN as u64), &mut tail)?;
        if head != tail {
            report
                .notes
                .push("the footer and its copy at the start differ".into());
        }
        let end = blocks.next + FOOTER_LEN as u64;
        if len > end && blocks.tail.is_none() {
            report
                .notes
                .push(format!("{} bytes after the last block", len - end));
        }
        Ok(report)
    }
}

impl Drop for VhdImage {
    fn drop(&mut self) {
        if self.broken || self.file.mode() == OpenMode::ReadOnly {
            return;
        }
        // What was not flushed may be lost, but need not be; the rest is tidiness.
        if self.settle().is_ok()
            && let Some(blocks) = &mut self.blocks
        {
            let _ = blocks.trim(&self.file, &self.footer);
        }
    }
}

/// Writes a whole table, which is big, in pieces.
pub(super) fn write_table(file: &HostFile, mut at: u64, raw: &[u8]) -> Result<()> {
    for piece in raw.chunks(256 << 10) {
        file.write(at, piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}
