//! A sparse extent: a header, a directory of grain tables (twice), and grains that grow at the end
//! of the file; also the compressed, stream-optimised kind.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use crate::Error;
use crate::Result;
use crate::RunState;
use crate::SECTOR;
use crate::bytes;
use crate::bytes::le32;
use crate::bytes::le64;
use crate::bytes::put;
use crate::host::HostFile;
use crate::zero::is_zero;

use super::stream::Stream;

pub(super) const MAGIC: &[u8; 4] = b"KDMV";
pub(super) const HEADER_LEN: usize = SECTOR as usize;

/// Grains of new images.
pub(super) const GRAIN: u64 = 64 << 10;
/// Entries per grain table.
pub(super) const PER_TABLE: u32 = 512;

/// Value of the directory's offset in a header that leaves it to the footer.
pub(super) const AT_END: u64 = u64::MAX;

/// The file grows by this many grains at a time.
const GROW_GRAINS: u64 = 128;

/// Grain tables of a differencing image that wait in memory for a flush.
const PENDING: usize = 32;

/// Directory entries that are believed; with the usual grains, 4 TiB and 64 MiB of tables.
const MAX_TABLES: u64 = 128 << 10;

const FLAG_NEWLINES: u32 = 1;
const FLAG_REDUNDANT: u32 = 2;
const FLAG_ZERO_GRAINS: u32 = 4;
const FLAG_COMPRESSED: u32 = 0x1_0000;
const FLAG_MARKERS: u32 = 0x2_0000;

/// Offset of the byte that says that a writer did not come to its end.
const UNCLEAN_AT: u64 = 72;

#[derive(Debug, Clone)]
pub(super) struct Header {
    pub flags: u32,
    /// Sectors of the disk that the extent holds.
    pub capacity: u64,
    /// Bytes of a grain.
    pub grain: u64,
    /// First sector and number of sectors of the descriptor; zeros without one.
    pub descriptor: (u64, u64),
    pub per_table: u32,
    /// First sectors of the two directories; the first may be zero.
    pub redundant_at: u64,
    pub directory_at: u64,
    /// Sectors before the first grain.
    pub overhead: u64,
}

impl Header {
    pub(super) fn parse(path: &Path, raw: &[u8; HEADER_LEN], at: u64) -> Result<Self> {
        let bad = |offset: u64, what: String| Error::corrupt(path, "VMDK", at + offset, what);
        if !raw.starts_with(MAGIC) {
            return Err(bad(0, "the header of the extent is missing".into()));
        }
        let version = le32(raw, 4);
        if !(1..=3).contains(&version) {
            return Err(Error::unsupported(
                path,
                format!("VMDK version {version} is not supported"),
            ));
        }
        let this = Self {
            flags: le32(raw, 8),
            capacity: le64(raw, 12),
            grain: le64(raw, 20).saturating_mul(SECTOR),
            descriptor: (le64(raw, 28), le64(raw, 36)),
            per_table: le32(raw, 44),
            redundant_at: le64(raw, 48),
            directory_at: le64(raw, 56),
            overhead: le64(raw, 64),
        };
        if this.flags & FLAG_NEWLINES != 0 && raw[73..77] != *b"\n \r\n" {
            return Err(bad(
                73,
                "the line ends were converted: the file was transferred as text".into(),
            ));
        }
        if !this.grain.is_power_of_two() || !(4096..=4 << 20).contains(&this.grain) {
            return Err(bad(20, format!("{} bytes is not a grain size", this.grain)));
        }
        if !this.per_table.is_power_of_two() || !(64..=4096).contains(&this.per_table) {
            return Err(bad(44, format!("{} grains are no table", this.per_table)));
        }
        if this.capacity == 0 || this.capacity > 1 << 41 || this.tables() > MAX_TABLES {
            return Err(bad(12, format!("{} sectors are no extent", this.capacity)));
        }
        let compressed = this.flags & FLAG_COMPRESSED != 0;
        if compressed && (this.flags & FLAG_MARKERS == 0 || raw[77..79] != [1, 0]) {
            return Err(Error::unsupported(
                path,
                "only compression by deflate, with markers, is supported",
            ));
        }
        Ok(this)
    }

    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut raw = [0; HEADER_LEN];
        let compressed = self.flags & FLAG_COMPRESSED != 0;
        put(&mut raw, 0, MAGIC);
        let version: u32 = if compressed { 3 } else { 1 };
        put(&mut raw, 4, &version.to_le_bytes());
        put(&mut raw, 8, &self.flags.to_le_bytes());
        put(&mut raw, 12, &self.capacity.to_le_bytes());
        put(&mut raw, 20, &(self.grain / SECTOR).to_le_bytes());
        put(&mut raw, 28, &self.descriptor.0.to_le_bytes());
        put(&mut raw, 36, &self.descriptor.1.to_le_bytes());
        put(&mut raw, 44, &self.per_table.to_le_bytes());
        put(&mut raw, 48, &self.redundant_at.to_le_bytes());
        put(&mut raw, 56, &self.directory_at.to_le_bytes());
        put(&mut raw, 64, &self.overhead.to_le_bytes());
        put(&mut raw, 73, b"\n \r\n");
        put(&mut raw, 77, &u16::from(compressed).to_le_bytes());
        raw
    }

    /// The header of a new extent, with room for a descriptor of some sectors.
    pub(super) fn new(sectors: u64, descriptor_len: u64) -> Self {
        let mut this = Self {
            flags: FLAG_NEWLINES | FLAG_REDUNDANT,
            capacity: sectors,
            grain: GRAIN,
            descriptor: (u64::from(descriptor_len > 0), descriptor_len),
            per_table: PER_TABLE,
            redundant_at: 1 + descriptor_len,
            directory_at: 0,
            overhead: 0,
        };
        let copy = this.directory_sectors() + this.tables() * this.table_sectors();
        this.directory_at = this.redundant_at + copy;
        this.overhead = (this.directory_at + copy).next_multiple_of(GRAIN / SECTOR);
        this
    }

    pub(super) fn new_stream(sectors: u64, descriptor_len: u64) -> Self {
        Self {
            flags: FLAG_NEWLINES | FLAG_COMPRESSED | FLAG_MARKERS,
            redundant_at: 0,
            directory_at: AT_END,
            overhead: GRAIN / SECTOR,
            ..Self::new(sectors, descriptor_len)
        }
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.flags & FLAG_COMPRESSED != 0
    }

    fn grains(&self) -> u64 {
        (self.capacity * SECTOR).div_ceil(self.grain)
    }

    pub(super) fn tables(&self) -> u64 {
        self.grains().div_ceil(self.per_table.into())
    }

    pub(super) fn table_sectors(&self) -> u64 {
        (4 * u64::from(self.per_table)).div_ceil(SECTOR)
    }

    fn directory_sectors(&self) -> u64 {
        (4 * self.tables()).div_ceil(SECTOR)
    }
}

pub(super) fn read_header(file: &HostFile, at: u64) -> Result<Header> {
    let len = file.len()?;
    if len < at + HEADER_LEN as u64 {
        return Err(Error::corrupt(
            file.path(),
            "VMDK",
            at,
            format!("the file has {len} bytes, which is less than a header"),
        ));
    }
    let mut raw = [0; HEADER_LEN];
    file.read(at, &mut raw)?;
    Header::parse(file.path(), &raw, at)
}

/// Writes the header and empty tables of a new extent; the header is what makes it one.
pub(super) fn write_new(file: &HostFile, header: &Header) -> Result<()> {
    file.set_len(header.overhead * SECTOR)?;
    let directory_len = header.directory_sectors();
    if !header.is_compressed() {
        for at in [header.redundant_at, header.directory_at] {
            let first = at + directory_len;
            let raw: Vec<u8> = (0..header.tables())
                .flat_map(|i| ((first + i * header.table_sectors()) as u32).to_le_bytes())
                .collect();
            file.write(at * SECTOR, &raw)?;
        }
    }
    file.write(0, &header.encode())?;
    file.sync()
}

pub(super) struct SparseExtent {
    pub(super) file: HostFile,
    pub(super) header: Header,
    /// First sector of each grain table, 0 where there is none.
    directory: Vec<u32>,
    redundant: Option<Vec<u32>>,
    /// The grain tables: first sectors of grains.
    pub(super) tables: Vec<Option<Vec<u32>>>,
    /// File offset after everything in use.
    pub(super) next: u64,
    /// File offset up to which the file is known to be zero from `next` on, even after a power
    /// cut.
    tail: Option<u64>,
    /// Tables that the file does not have as they are here.
    dirty: BTreeSet<u32>,
    marked_unclean: bool,
    /// The compressed grain that was read last.
    cache: RefCell<Option<(u64, Vec<u8>)>>,
    /// What a stream that is being written still has to write.
    pub(super) stream: Option<Stream>,
}

/// Where a grain is.
enum Place {
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
            Error::corrupt(self.file.path(), "VMDK", sector.saturating_mul(SECTOR), what)
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
                _ => Some(read_sectors(&self.file, sector.into(), header.per_table.into())?),
            });
        }
        let zero_grains = header.flags & FLAG_ZERO_GRAINS != 0;
        let grain_sectors = header.grain / SECTOR;
        for (grain, entry) in (0..).zip(self.tables.iter().flat_map(|table| match table {
            Some(table) => table.clone(),
            None => vec![0; header.per_table as usize],
        })) {
            if entry == 0 || (entry == 1 && zero_grains) {
                continue;
            }
            // Those of a stream have all lengths; they are looked at when they are read.
            let sectors = match header.is_compressed() {
                true => 1,
                false => grain_sectors.min(header.capacity.saturating_sub(grain * grain_sectors)),
            };
            if sectors == 0 {
                return Err(bad(entry.into(), format!("grain {grain} is beyond the disk")));
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

    fn place(&self, grain: u64) -> Place {
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
            Error::corrupt(self.file.path(), "VMDK", at, format!("grain {grain}: {what}"))
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

    fn require_uncompressed(&self) -> Result<()> {
        match self.header.is_compressed() {
            true => Err(Error::ReadOnly {
                path: self.file.path().to_path_buf(),
            }),
            false => Ok(()),
        }
    }

    /// Before the first change: says in the header that there is a writer.
    fn mark_unclean(&mut self) -> Result<()> {
        if !self.marked_unclean {
            self.file.write(UNCLEAN_AT, &[1])?;
            self.marked_unclean = true;
        }
        Ok(())
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
                    let whole = self
                        .header
                        .grain
                        .min(self.header.capacity * SECTOR - start);
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

    fn allocate(&mut self, grain: u64, within: u64, data: &[u8]) -> Result<()> {
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
            if let Some(Some(table)) = self.tables.get(i) {
                let raw: Vec<u8> = table.iter().flat_map(|e| e.to_le_bytes()).collect();
                let copy = self.redundant.as_ref().and_then(|r| r.get(i)).copied();
                let places = [copy.unwrap_or(0), self.directory[i]];
                for sector in places.into_iter().filter(|sector| *sector != 0) {
                    self.file.write(u64::from(sector) * SECTOR, &raw)?;
                }
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
                Place::Absent if self.stream.as_ref().is_none_or(|s| s.data_of(grain).is_none()) => {}
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

    /// Whether the two sets of tables in the file are the same.
    pub(super) fn copies_agree(&self) -> Result<bool> {
        let Some(redundant) = &self.redundant else {
            return Ok(true);
        };
        for (index, (&sector, table)) in redundant.iter().zip(&self.tables).enumerate() {
            let Some(table) = table.as_ref().filter(|_| sector != 0) else {
                continue;
            };
            let waiting = self.dirty.contains(&(index as u32));
            if !waiting && read_sectors(&self.file, sector.into(), table.len() as u64)? != *table {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Reads `count` sector numbers from a sector on, which must all be in the file.
fn read_sectors(file: &HostFile, sector: u64, count: u64) -> Result<Vec<u32>> {
    let at = sector.checked_mul(SECTOR);
    let end = at.and_then(|at| at.checked_add(4 * count));
    let (Some(at), Some(end)) = (at, end) else {
        return Err(Error::corrupt(file.path(), "VMDK", 0, "a table has no place"));
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
