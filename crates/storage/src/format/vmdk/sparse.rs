//! A sparse extent: a header, a directory of grain tables (twice), and grains that grow at the end
//! of the file; also the compressed, stream-optimised kind.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Read;

use crate::Error;
use crate::Result;
use crate::RunState;
use crate::SECTOR;
use crate::bytes;
use crate::bytes::le32;
use crate::bytes::le64;
use crate::host::HostFile;
use crate::zero::is_zero;

use super::header::AT_END;
use super::header::FLAG_REDUNDANT;
use super::header::FLAG_ZERO_GRAINS;
use super::header::GRAIN;
use super::header::Header;
use super::header::UNCLEAN_AT;
use super::header::read_header;
use super::stream::Stream;

/// The file grows by this many grains at a time.
const GROW_GRAINS: u64 = 128;

/// Grain tables of a differencing image that wait in memory for a flush.
const PENDING: usize = 32;

pub(super) struct SparseExtent {
    pub(super) file: HostFile,
    pub(super) header: Header,
    /// First sector of each grain table, 0 where there is none.
    pub(super) directory: Vec<u32>,
    pub(super) redundant: Option<Vec<u32>>,
    /// The grain tables: first sectors of grains.
    pub(super) tables: Vec<Option<Vec<u32>>>,
    /// File offset after everything in use.
    pub(super) next: u64,
    /// File offset up to which the file is known to be zero from `next` on, even after a power
    /// cut.
    pub(super) tail: Option<u64>,
    /// Tables that the file does not have as they are here.
    dirty: BTreeSet<u32>,
    marked_unclean: bool,
    /// The last writer did not come to its end: the copies of the tables may be older.
    was_unclean: bool,
    /// The compressed grain that was read last.
    cache: RefCell<Option<(u64, Vec<u8>)>>,
    /// What a stream that is being written still has to write.
    pub(super) stream: Option<Stream>,
}

/// Where a grain is.
pub(super) enum Place {
    Absent,
    Zero,
    At(u64),
}

impl SparseExtent {
    pub(super) fn open(file: HostFile) -> Result<Self> {
        let mut header = read_header(&file, 0)?;
        if header.directory_at == AT_END {
            // The footer is the last but one sector; a marker precedes it, one follows.
            let at = file.len()?.saturating_sub(2 * SECTOR);
            let footer = read_header(&file, at)?;
            if footer.capacity != header.capacity || footer.grain != header.grain {
                return Err(Error::corrupt(
                    file.path(),
                    "VMDK",
                    at,
                    "the footer contradicts the header",
                ));
            }
            header.directory_at = footer.directory_at;
            header.redundant_at = 0;
        }
        let mut unclean = [0];
        file.read_padded(UNCLEAN_AT, &mut unclean)?;
        let directory = read_sectors(&file, header.directory_at, header.tables())?;
        let has_copy = header.flags & FLAG_REDUNDANT != 0
            && header.redundant_at != 0
            && header.redundant_at != header.directory_at;
        let redundant = match has_copy {
            true => Some(read_sectors(&file, header.redundant_at, header.tables())?),
            false => None,
        };
        let mut this = Self {
            next: 0,
            tail: None,
            tables: Vec::new(),
            directory,
            redundant,
            dirty: BTreeSet::new(),
            marked_unclean: false,
            was_unclean: unclean != [0],
            cache: RefCell::new(None),
            stream: None,
            header,
            file,
        };
        this.load()?;
        Ok(this)
    }

    /// A stream that has just been created.
    pub(super) fn open_stream(file: HostFile, header: Header) -> Self {
        let tables = header.tables() as usize;
        Self {
            next: header.overhead * SECTOR,
            tail: None,
            tables: vec![None; tables],
            directory: vec![0; tables],
            redundant: None,
            dirty: BTreeSet::new(),
            marked_unclean: false,
            was_unclean: false,
            cache: RefCell::new(None),
            stream: Some(Stream::default()),
            header,
            file,
        }
    }

    /// Reads the tables and refuses what is outside the file or lies on something else.
    fn load(&mut self) -> Result<()> {
        let len = self.file.len()?;
        let header = &self.header;
        let bad = |sector: u64, what: String| {
            Error::corrupt(
                self.file.path(),
                "VMDK",
                sector.saturating_mul(SECTOR),
                what,
            )
        };
        // First sector and number of sectors of everything.
        let mut owners: Vec<(u64, u64)> = vec![(0, 1), header.descriptor];
        let directory = header.directory_sectors();
        owners.push((header.directory_at, directory));
        if self.redundant.is_some() {
            owners.push((header.redundant_at, directory));
        }
        let copies = self.directory.iter().chain(self.redundant.iter().flatten());
        for &sector in copies.filter(|sector| **sector != 0) {
            owners.push((sector.into(), header.table_sectors()));
        }
        check_owners(&mut owners, len, &bad)?;
        // All tables together are no longer than the file now.
        for &sector in &self.directory {
            self.tables.push(match sector {
                0 => None,
                _ => Some(read_sectors(
                    &self.file,
                    sector.into(),
                    header.per_table.into(),
                )?),
            });
        }
        let zero_grains = header.flags & FLAG_ZERO_GRAINS != 0;
        let grain_sectors = header.grain / SECTOR;
        let tables = (0..).step_by(header.per_table as usize).zip(&self.tables);
        let entries = tables.flat_map(|(first, table)| (first..).zip(table.iter().flatten()));
        for (grain, &entry) in entries {
            if entry == 0 || (entry == 1 && zero_grains) {
                continue;
            }
            // Those of a stream have all lengths; they are looked at when they are read.
            let sectors = match header.is_compressed() {
                true => 1,
                false => grain_sectors.min(header.capacity.saturating_sub(grain * grain_sectors)),
            };
            if sectors == 0 {
                return Err(bad(
                    entry.into(),
                    format!("grain {grain} is beyond the disk"),
                ));
            }
            owners.push((entry.into(), sectors));
        }
        check_owners(&mut owners, len, &bad)?;
        let last = owners.last().map_or(0, |(start, sectors)| start + sectors);
        // A grain at the end of the disk still has its whole room.
        self.next = (last * SECTOR).max(header.overhead.saturating_mul(SECTOR).min(len));
        if !header.is_compressed() {
            self.next = self.next.next_multiple_of(header.grain.min(GRAIN));
        }
        Ok(())
    }

    pub(super) fn place(&self, grain: u64) -> Place {
        let per_table = u64::from(self.header.per_table);
        let table = self.tables.get((grain / per_table) as usize);
        let table = table.and_then(|t| t.as_ref());
        match table.and_then(|t| t.get((grain % per_table) as usize)) {
            None | Some(0) => Place::Absent,
            Some(1) if self.header.flags & FLAG_ZERO_GRAINS != 0 => Place::Zero,
            Some(&sector) => Place::At(u64::from(sector) * SECTOR),
        }
    }

    /// Grain, offset inside it and length of the first part of a range.
    fn part(&self, offset: u64, len: u64) -> (u64, u64, u64) {
        let within = offset % self.header.grain;
        (
            offset / self.header.grain,
            within,
            (self.header.grain - within).min(len),
        )
    }

    /// The state of the bytes at `offset` and how far the grain goes, at most `len`.
    pub(super) fn run_at(&self, offset: u64, len: u64) -> (RunState, u64) {
        let (grain, _, len) = self.part(offset, len);
        let state = match self.place(grain) {
            Place::Absent => match self.stream.as_ref().and_then(|s| s.data_of(grain)) {
                Some(_) => RunState::Data,
                None => RunState::Absent,
            },
            Place::Zero => RunState::Zero,
            Place::At(_) => RunState::Data,
        };
        (state, len)
    }

    /// Reads inside the extent; absent bytes are zeros.
    pub(super) fn read(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let (grain, within, len) = self.part(offset, buf.len() as u64);
            let (piece, rest) = buf.split_at_mut(len as usize);
            match self.place(grain) {
                Place::Absent => match self.stream.as_ref().and_then(|s| s.data_of(grain)) {
                    Some(data) => piece.copy_from_slice(&data[within as usize..][..piece.len()]),
                    None => piece.fill(0),
                },
                Place::Zero => piece.fill(0),
                Place::At(at) if self.header.is_compressed() => {
                    self.read_compressed(grain, at, within, piece)?;
                }
                Place::At(at) => self.file.read(at + within, piece)?,
            }
            offset += len;
            buf = rest;
        }
        Ok(())
    }

    fn read_compressed(&self, grain: u64, at: u64, within: u64, buf: &mut [u8]) -> Result<()> {
        let mut cache = self.cache.borrow_mut();
        let data = match &mut *cache {
            Some((cached, data)) if *cached == grain => data,
            _ => {
                let data = self.inflate(grain, at)?;
                &mut cache.insert((grain, data)).1
            }
        };
        let have = data.get(within as usize..).unwrap_or_default();
        let n = have.len().min(buf.len());
        buf[..n].copy_from_slice(&have[..n]);
        buf[n..].fill(0);
        Ok(())
    }

    fn inflate(&self, grain: u64, at: u64) -> Result<Vec<u8>> {
        let bad = |what: &str| {
            Error::corrupt(
                self.file.path(),
                "VMDK",
                at,
                format!("grain {grain}: {what}"),
            )
        };
        let mut marker = [0; 12];
        self.file.read_padded(at, &mut marker)?;
        let (lba, size) = (le64(&marker, 0), u64::from(le32(&marker, 8)));
        if lba != grain * (self.header.grain / SECTOR) {
            return Err(bad("the marker names another grain"));
        }
        let end = at.saturating_add(12 + size);
        if size > 2 * self.header.grain || end > self.file.len()? {
            return Err(bad("more compressed bytes than there can be"));
        }
        let mut packed = vec![0; size as usize];
        self.file.read(at + 12, &mut packed)?;
        let mut data = Vec::new();
        flate2::read::ZlibDecoder::new(packed.as_slice())
            .take(self.header.grain)
            .read_to_end(&mut data)
            .map_err(|_| bad("the compressed data are damaged"))?;
        Ok(data)
    }

    pub(super) fn require_uncompressed(&self) -> Result<()> {
        match self.header.is_compressed() {
            true => Err(Error::ReadOnly {
                path: self.file.path().to_path_buf(),
            }),
            false => Ok(()),
        }
    }

    /// Before the first change: says in the header that there is a writer, and puts the copies of
    /// the tables right where the last one could not.
    pub(super) fn mark_unclean(&mut self) -> Result<()> {
        if self.marked_unclean {
            return Ok(());
        }
        self.file.write(UNCLEAN_AT, &[1])?;
        if self.was_unclean {
            for index in self.stale_copies()? {
                self.write_copy(index)?;
            }
            self.was_unclean = false;
        }
        self.marked_unclean = true;
        Ok(())
    }

    fn raw_table(&self, index: usize) -> Option<Vec<u8>> {
        let table = self.tables.get(index)?.as_ref()?;
        Some(table.iter().flat_map(|e| e.to_le_bytes()).collect())
    }

    fn write_copy(&self, index: usize) -> Result<()> {
        let sector = self.redundant.as_ref().and_then(|r| r.get(index)).copied();
        match (sector.filter(|s| *s != 0), self.raw_table(index)) {
            (Some(sector), Some(raw)) => self.file.write(u64::from(sector) * SECTOR, &raw),
            _ => Ok(()),
        }
    }

    /// Writes inside the extent. In a child, absent grains must be written whole.
    pub(super) fn write(&mut self, mut offset: u64, mut buf: &[u8], child: bool) -> Result<()> {
        if self.stream.is_some() {
            return self.write_stream(offset, buf);
        }
        self.require_uncompressed()?;
        self.mark_unclean()?;
        while !buf.is_empty() {
            let (grain, within, len) = self.part(offset, buf.len() as u64);
            let (piece, rest) = buf.split_at(len as usize);
            match self.place(grain) {
                Place::At(at) => self.file.write(at + within, piece)?,
                Place::Absent | Place::Zero if !child && is_zero(piece) => {}
                place => {
                    let start = grain * self.header.grain;
                    let whole = self.header.grain.min(self.header.capacity * SECTOR - start);
                    if child && matches!(place, Place::Absent) && len < whole {
                        return Err(Error::invalid(
                            self.file.path(),
                            "a grain that the parent holds must be written whole",
                        ));
                    }
                    self.allocate(grain, within, piece)?;
                }
            }
            if self.dirty.len() > if child { PENDING } else { 0 } {
                self.settle(child)?;
            }
            offset += len;
            buf = rest;
        }
        Ok(())
    }

    pub(super) fn allocate(&mut self, grain: u64, within: u64, data: &[u8]) -> Result<()> {
        let full = || Error::unsupported(self.file.path(), "the image is full");
        let sector = u32::try_from(self.next / SECTOR).map_err(|_| full())?;
        let per_table = u64::from(self.header.per_table);
        let index = (grain / per_table) as usize;
        if !matches!(self.tables.get(index), Some(Some(_))) {
            return Err(Error::unsupported(
                self.file.path(),
                "extents without all of their grain tables can only be read",
            ));
        }
        self.reserve()?;
        if let Err(e) = self.file.write(self.next + within, data) {
            // No longer zero, and the next grain to come here may be another.
            self.tail = None;
            return Err(e);
        }
        self.next += self.header.grain;
        if let Some(Some(table)) = self.tables.get_mut(index)
            && let Some(entry) = table.get_mut((grain % per_table) as usize)
        {
            *entry = sector;
        }
        self.dirty.insert(index as u32);
        Ok(())
    }

    /// Makes sure that a grain at `next` is in the file, zero, and stays so after a power cut.
    fn reserve(&mut self) -> Result<()> {
        let end = self.next + self.header.grain;
        if self.tail.is_some_and(|tail| end <= tail) {
            return Ok(());
        }
        if self.tail.take().is_none() && self.file.len()? > self.next {
            // Left behind by a crash or a failed write.
            self.file.set_len(self.next)?;
        }
        let end = end + (GROW_GRAINS - 1) * self.header.grain;
        self.file.set_len(end)?;
        self.file.sync()?;
        self.tail = Some(end);
        Ok(())
    }

    /// Writes tables that wait in memory, the copy first. In a child, what they uncover must be on
    /// the disk before.
    pub(super) fn settle(&mut self, flush_first: bool) -> Result<()> {
        if self.dirty.is_empty() {
            return Ok(());
        }
        if flush_first {
            self.file.sync()?;
        }
        while let Some(&index) = self.dirty.first() {
            let i = index as usize;
            self.write_copy(i)?;
            let sector = self.directory.get(i).copied().unwrap_or(0);
            if let (Some(raw), 1..) = (self.raw_table(i), sector) {
                self.file.write(u64::from(sector) * SECTOR, &raw)?;
            }
            self.dirty.remove(&index);
        }
        Ok(())
    }

    /// Makes bytes inside the extent zero.
    pub(super) fn discard(&mut self, mut offset: u64, mut len: u64, child: bool) -> Result<()> {
        if self.stream.is_none() {
            self.require_uncompressed()?;
        }
        let mut zeros = Vec::new();
        while len > 0 {
            let (grain, within, part) = self.part(offset, len);
            match self.place(grain) {
                Place::At(at) if self.stream.is_none() => {
                    self.mark_unclean()?;
                    self.file.punch(at + within, part)?;
                }
                Place::Absent if child => {
                    zeros.resize(part as usize, 0);
                    self.write(offset, &zeros, child)?;
                }
                Place::Absent
                    if self
                        .stream
                        .as_ref()
                        .is_none_or(|s| s.data_of(grain).is_none()) => {}
                Place::Zero => {}
                _ => {
                    zeros.resize(part as usize, 0);
                    self.write(offset, &zeros, child)?;
                }
            }
            offset += part;
            len -= part;
        }
        Ok(())
    }

    /// Leaves the file as short and as clean as it can be.
    pub(super) fn close(&mut self, child: bool) -> Result<()> {
        if !self.marked_unclean {
            return Ok(());
        }
        self.settle(child)?;
        if self.tail.take().is_some_and(|tail| tail > self.next) {
            self.file.set_len(self.next)?;
        }
        self.file.write(UNCLEAN_AT, &[0])?;
        self.marked_unclean = false;
        Ok(())
    }

    pub(super) fn allocated(&self) -> u64 {
        let entries = self.tables.iter().flatten().flatten();
        entries.filter(|entry| **entry != 0).count() as u64
    }

    /// Which tables have a copy in the file that is not the same.
    pub(super) fn stale_copies(&self) -> Result<Vec<usize>> {
        let copies = self.redundant.iter().flatten().zip(&self.tables);
        let mut stale = Vec::new();
        for (index, (&sector, table)) in copies.enumerate() {
            let Some(table) = table.as_ref().filter(|_| sector != 0) else {
                continue;
            };
            let waiting = self.dirty.contains(&(index as u32));
            if !waiting && read_sectors(&self.file, sector.into(), table.len() as u64)? != *table {
                stale.push(index);
            }
        }
        Ok(stale)
    }
}

/// Reads `count` sector numbers from a sector on, which must all be in the file.
fn read_sectors(file: &HostFile, sector: u64, count: u64) -> Result<Vec<u32>> {
    let at = sector.checked_mul(SECTOR);
    let end = at.and_then(|at| at.checked_add(4 * count));
    let (Some(at), Some(end)) = (at, end) else {
        return Err(Error::corrupt(
            file.path(),
            "VMDK",
            0,
            "a table has no place",
        ));
    };
    let len = file.len()?;
    if end > len {
        return Err(Error::corrupt(
            file.path(),
            "VMDK",
            at,
            format!("the file ends at {len:#x}, before a table does at {end:#x}"),
        ));
    }
    let mut raw = vec![0; 4 * count as usize];
    file.read(at, &mut raw)?;
    Ok(bytes::u32s(&raw, u32::from_le_bytes).collect())
}

/// Sorts, and refuses what is not in the file or overlaps.
fn check_owners(
    owners: &mut Vec<(u64, u64)>,
    file_len: u64,
    bad: &dyn Fn(u64, String) -> Error,
) -> Result<()> {
    owners.retain(|(_, sectors)| *sectors > 0);
    owners.sort_unstable();
    let mut end = 0;
    for &(start, sectors) in owners.iter() {
        if start < end {
            return Err(bad(start, format!("sector {start} belongs to two things")));
        }
        end = start.saturating_add(sectors);
        if end.saturating_mul(SECTOR) > file_len.next_multiple_of(SECTOR) {
            return Err(bad(
                start,
                format!("the file ends at {file_len:#x}, before what begins at sector {start}"),
            ));
        }
    }
    Ok(())
}
