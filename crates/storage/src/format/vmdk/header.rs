//! The header of a sparse extent.

use std::path::Path;

use crate::Error;
use crate::Result;
use crate::SECTOR;
use crate::bytes::le32;
use crate::bytes::le64;
use crate::bytes::put;
use crate::host::HostFile;

pub(super) const MAGIC: &[u8; 4] = b"KDMV";
pub(super) const HEADER_LEN: usize = SECTOR as usize;

/// Grains of new images.
pub(super) const GRAIN: u64 = 64 << 10;
/// Entries per grain table.
pub(super) const PER_TABLE: u32 = 512;

/// Sectors of a sparse extent; its 32-bit sector numbers must reach the last grain.
pub(super) const MAX_SPARSE: u64 = (2040 << 30) / SECTOR;

/// Value of the directory's offset in a header that leaves it to the footer.
pub(super) const AT_END: u64 = u64::MAX;

/// Directory entries that are believed; with the usual grains, 4 TiB of disk.
pub(super) const MAX_TABLES: u64 = 128 << 10;

const FLAG_NEWLINES: u32 = 1;
pub(super) const FLAG_REDUNDANT: u32 = 2;
pub(super) const FLAG_ZERO_GRAINS: u32 = 4;
const FLAG_COMPRESSED: u32 = 0x1_0000;
const FLAG_MARKERS: u32 = 0x2_0000;

/// Offsets of what growing changes.
pub(super) const CAPACITY_AT: usize = 12;
pub(super) const REDUNDANT_AT: usize = 48;
pub(super) const DIRECTORY_AT: usize = 56;

/// Offset of the byte that says that a writer did not come to its end.
pub(super) const UNCLEAN_AT: u64 = 72;

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
            capacity: le64(raw, CAPACITY_AT),
            grain: le64(raw, 20).saturating_mul(SECTOR),
            descriptor: (le64(raw, 28), le64(raw, 36)),
            per_table: le32(raw, 44),
            redundant_at: le64(raw, REDUNDANT_AT),
            directory_at: le64(raw, DIRECTORY_AT),
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
        put(&mut raw, CAPACITY_AT, &self.capacity.to_le_bytes());
        put(&mut raw, 20, &(self.grain / SECTOR).to_le_bytes());
        put(&mut raw, 28, &self.descriptor.0.to_le_bytes());
        put(&mut raw, 36, &self.descriptor.1.to_le_bytes());
        put(&mut raw, 44, &self.per_table.to_le_bytes());
        put(&mut raw, REDUNDANT_AT, &self.redundant_at.to_le_bytes());
        put(&mut raw, DIRECTORY_AT, &self.directory_at.to_le_bytes());
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

    pub(super) fn directory_sectors(&self) -> u64 {
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
