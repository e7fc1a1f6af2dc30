//! The footer that ends every VHD, and the header of those that have blocks. Big-endian, with a
//! checksum each; what is not known here survives a rewrite.

use std::path::Path;
use std::time::SystemTime;

use uuid::Uuid;

use crate::Error;
use crate::Geometry;
use crate::Result;
use crate::SECTOR;
use crate::Variant;
use crate::bytes;
use crate::bytes::be16;
use crate::bytes::be32;
use crate::bytes::be64;
use crate::bytes::put;
use crate::host::HostFile;

pub(super) const FOOTER_LEN: usize = 512;
pub(super) const HEADER_LEN: usize = 1024;
pub(super) const COOKIE: &[u8; 8] = b"conectix";
const HEADER_COOKIE: &[u8; 8] = b"cxsparse";
const VERSION: u32 = 0x0001_0000;

/// Value of a table entry: the image does not hold the block.
pub(super) const FREE: u32 = 0xFFFF_FFFF;

/// Blocks of new images.
pub(super) const BLOCK: u64 = 2 << 20;

/// Entries of the block table that are believed: 32 TiB in blocks of 2 MiB, 64 MiB of table.
const MAX_ENTRIES: u32 = 16 << 20;

/// Sector numbers of 32 bits end here.
pub(super) const MAX_SIZE: u64 = 2040 << 30;

/// Seconds from 1970 to 2000, where VHD's time begins.
const EPOCH: u64 = 946_684_800;

mod at {
    pub const FEATURES: usize = 8;
    pub const VERSION: usize = 12;
    pub const DATA_OFFSET: usize = 16;
    pub const TIMESTAMP: usize = 24;
    pub const CREATOR: usize = 28;
    pub const CREATOR_VERSION: usize = 32;
    pub const CREATOR_HOST: usize = 36;
    pub const ORIGINAL_SIZE: usize = 40;
    pub const SIZE: usize = 48;
    pub const GEOMETRY: usize = 56;
    pub const TYPE: usize = 60;
    pub const CHECKSUM: usize = 64;
    pub const UUID: usize = 68;
}

/// Offsets in the header of an image with blocks.
mod head {
    pub const DATA_OFFSET: usize = 8;
    pub const TABLE: usize = 16;
    pub const VERSION: usize = 24;
    pub const ENTRIES: usize = 28;
    pub const BLOCK_SIZE: usize = 32;
    pub const CHECKSUM: usize = 36;
    pub const PARENT: usize = 40;
    pub const PARENT_TIME: usize = 56;
    pub const PARENT_NAME: usize = 64;
    pub const PARENT_NAME_LEN: usize = 512;
    pub const LOCATORS: usize = 576;
    pub const LOCATOR_LEN: usize = 24;
}

/// One's complement of the sum of all bytes but the checksum's own.
fn checksum(raw: &[u8], own: usize) -> u32 {
    let sum = raw
        .iter()
        .enumerate()
        .filter(|(i, _)| !(own..own + 4).contains(i))
        .fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)));
    !sum
}

/// Seconds since VHD's epoch, in its 32 bits.
pub(super) fn timestamp(time: SystemTime) -> u32 {
    let unix = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    u32::try_from(unix.saturating_sub(EPOCH)).unwrap_or(u32::MAX)
}

/// The geometry that the format's specification prescribes for a size in bytes.
fn geometry_for(size: u64) -> Geometry {
    let sectors = (size / SECTOR).min(65535 * 16 * 255) as u32;
    let (mut per_track, mut heads);
    let mut tracks;
    if sectors >= 65535 * 16 * 63 {
        (per_track, heads) = (255, 16);
        tracks = sectors / per_track;
    } else {
        per_track = 17;
        tracks = sectors / per_track;
        heads = tracks.div_ceil(1024).max(4);
        if tracks >= heads * 1024 || heads > 16 {
            (per_track, heads) = (31, 16);
            tracks = sectors / per_track;
        }
        if tracks >= heads * 1024 {
            (per_track, heads) = (63, 16);
            tracks = sectors / per_track;
        }
    }
    Geometry {
        cylinders: tracks / heads,
        heads,
        sectors: per_track,
    }
}

#[derive(Debug, Clone)]
pub(super) struct Footer {
    raw: [u8; FOOTER_LEN],
    pub variant: Variant,
    /// Logical size in bytes.
    pub size: u64,
    /// Where the header of an image with blocks is.
    pub header_at: u64,
    pub uuid: Uuid,
    pub geometry: Geometry,
}

impl Footer {
    pub(super) fn new(path: &Path, size: u64, variant: Variant, uuid: Uuid) -> Result<Self> {
        check_size(path, size)?;
        let mut raw = [0; FOOTER_LEN];
        put(&mut raw, 0, COOKIE);
        // A bit that is always set.
        put(&mut raw, at::FEATURES, &2u32.to_be_bytes());
        put(&mut raw, at::VERSION, &VERSION.to_be_bytes());
        let now = timestamp(SystemTime::now());
        put(&mut raw, at::TIMESTAMP, &now.to_be_bytes());
        put(&mut raw, at::CREATOR, b"vbox");
        put(&mut raw, at::CREATOR_VERSION, &0x0007_0000u32.to_be_bytes());
        put(&mut raw, at::CREATOR_HOST, b"Wi2k");
        put(&mut raw, at::ORIGINAL_SIZE, &size.to_be_bytes());
        Ok(Self {
            raw,
            variant,
            size,
            header_at: FOOTER_LEN as u64,
            uuid,
            geometry: geometry_for(size),
        })
    }

    pub(super) fn with_size(&self, path: &Path, size: u64) -> Result<Self> {
        check_size(path, size)?;
        Ok(Self {
            size,
            geometry: geometry_for(size),
            ..self.clone()
        })
    }

    /// Whether these bytes are a footer that was written whole.
    pub(super) fn is_valid(raw: &[u8]) -> bool {
        raw.len() == FOOTER_LEN
            && raw.starts_with(COOKIE)
            && be32(raw, at::CHECKSUM) == checksum(raw, at::CHECKSUM)
    }

    /// Reads a footer, found at `offset`.
    pub(super) fn parse(path: &Path, raw: &[u8; FOOTER_LEN], offset: u64) -> Result<Self> {
        let bad = |at: usize, what: String| Error::corrupt(path, "VHD", offset + at as u64, what);
        if !raw.starts_with(COOKIE) {
            return Err(bad(0, "the footer is missing".into()));
        }
        if !Self::is_valid(raw) {
            return Err(bad(at::CHECKSUM, "the footer's checksum is wrong".into()));
        }
        let version = be32(raw, at::VERSION);
        if version >> 16 != 1 {
            return Err(Error::unsupported(
                path,
                format!(
                    "VHD version {}.{} is not supported",
                    version >> 16,
                    version & 0xFFFF
                ),
            ));
        }
        let variant = match be32(raw, at::TYPE) {
            2 => Variant::Fixed,
            3 => Variant::Dynamic,
            4 => Variant::Differencing,
            other => return Err(bad(at::TYPE, format!("image type {other} does not exist"))),
        };
        let size = be64(raw, at::SIZE);
        if size == 0 || !size.is_multiple_of(SECTOR) || size > 1 << 50 {
            return Err(bad(
                at::SIZE,
                format!("a disk of {size} bytes is not a number of sectors"),
            ));
        }
        Ok(Self {
            raw: *raw,
            variant,
            size,
            header_at: be64(raw, at::DATA_OFFSET),
            uuid: bytes::uuid(raw, at::UUID),
            geometry: Geometry {
                cylinders: be16(raw, at::GEOMETRY).into(),
                heads: raw[at::GEOMETRY + 2].into(),
                sectors: raw[at::GEOMETRY + 3].into(),
            },
        })
    }

    pub(super) fn encode(&self) -> [u8; FOOTER_LEN] {
        let mut raw = self.raw;
        let (kind, data_offset) = match self.variant {
            Variant::Fixed => (2u32, u64::MAX),
            Variant::Dynamic => (3, self.header_at),
            Variant::Differencing => (4, self.header_at),
        };
        put(&mut raw, at::DATA_OFFSET, &data_offset.to_be_bytes());
        put(&mut raw, at::SIZE, &self.size.to_be_bytes());
        let geometry = self.geometry;
        put(
            &mut raw,
            at::GEOMETRY,
            &(geometry.cylinders as u16).to_be_bytes(),
        );
        raw[at::GEOMETRY + 2] = geometry.heads as u8;
        raw[at::GEOMETRY + 3] = geometry.sectors as u8;
        put(&mut raw, at::TYPE, &kind.to_be_bytes());
        put(&mut raw, at::UUID, &self.uuid.to_bytes_le());
        let sum = checksum(&raw, at::CHECKSUM);
        put(&mut raw, at::CHECKSUM, &sum.to_be_bytes());
        raw
    }
}

fn check_size(path: &Path, size: u64) -> Result<()> {
    if size == 0 || !size.is_multiple_of(SECTOR) || size > MAX_SIZE {
        return Err(Error::invalid(
            path,
            format!("a VHD image has up to {MAX_SIZE} bytes in whole sectors, not {size}"),
        ));
    }
    Ok(())
}

/// Where a differencing image says that its parent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Locator {
    /// `W2ku`: an absolute path, `W2ru`: one relative to the image's folder.
    pub code: [u8; 4],
    /// The path in UTF-16, little-endian.
    pub text: Vec<u8>,
}

/// The header of an image with blocks.
#[derive(Debug, Clone)]
pub(super) struct Header {
    raw: [u8; HEADER_LEN],
    /// File offset of the block table.
    pub table_at: u64,
    pub entries: u32,
    pub block_size: u64,
    /// Nil in images without one.
    pub parent: Uuid,
}

impl Header {
    pub(super) fn new(size: u64, table_at: u64, parent: Option<Uuid>) -> Self {
        let mut raw = [0; HEADER_LEN];
        put(&mut raw, 0, HEADER_COOKIE);
        put(&mut raw, head::DATA_OFFSET, &u64::MAX.to_be_bytes());
        put(&mut raw, head::VERSION, &VERSION.to_be_bytes());
        put(&mut raw, head::BLOCK_SIZE, &(BLOCK as u32).to_be_bytes());
        Self {
            raw,
            table_at,
            // At most 2040 GiB.
            entries: size.div_ceil(BLOCK) as u32,
            block_size: BLOCK,
            parent: parent.unwrap_or_default(),
        }
    }

    /// Writes down what the parent is called, and where its locators' texts are in the file.
    pub(super) fn name_parent(&mut self, name: &str, time: u32, locators: &[(Locator, u64)]) {
        put(&mut self.raw, head::PARENT_TIME, &time.to_be_bytes());
        // A terminating zero stays.
        let units = name.encode_utf16().take(head::PARENT_NAME_LEN / 2 - 1);
        for (i, unit) in units.enumerate() {
            put(
                &mut self.raw,
                head::PARENT_NAME + 2 * i,
                &unit.to_be_bytes(),
            );
        }
        for (i, (locator, offset)) in locators.iter().enumerate() {
            let at = head::LOCATORS + i * head::LOCATOR_LEN;
            let len = locator.text.len() as u32;
            put(&mut self.raw, at, &locator.code);
            let space = len.next_multiple_of(SECTOR as u32);
            put(&mut self.raw, at + 4, &space.to_be_bytes());
            put(&mut self.raw, at + 8, &len.to_be_bytes());
            put(&mut self.raw, at + 16, &offset.to_be_bytes());
        }
    }

    pub(super) fn parse(
        path: &Path,
        raw: &[u8; HEADER_LEN],
        footer: &Footer,
        file_len: u64,
    ) -> Result<Self> {
        let bad = |at: usize, what: String| {
            Error::corrupt(path, "VHD", footer.header_at + at as u64, what)
        };
        if !raw.starts_with(HEADER_COOKIE) {
            return Err(bad(0, "the header of the blocks is missing".into()));
        }
        if be32(raw, head::CHECKSUM) != checksum(raw, head::CHECKSUM) {
            return Err(bad(head::CHECKSUM, "the header's checksum is wrong".into()));
        }
        let block_size = u64::from(be32(raw, head::BLOCK_SIZE));
        if !block_size.is_power_of_two() || !(4096..=32 << 20).contains(&block_size) {
            return Err(bad(
                head::BLOCK_SIZE,
                format!("{block_size} bytes is not a block size"),
            ));
        }
        let entries = be32(raw, head::ENTRIES);
        let needed = footer.size.div_ceil(block_size);
        if u64::from(entries) < needed || entries > MAX_ENTRIES {
            return Err(bad(
                head::ENTRIES,
                format!("{entries} blocks do not fit a disk which has {needed}"),
            ));
        }
        let table_at = be64(raw, head::TABLE);
        let end = table_at.checked_add(4 * u64::from(entries));
        if table_at < FOOTER_LEN as u64
            || !table_at.is_multiple_of(SECTOR)
            || end.is_none_or(|end| end > file_len)
        {
            return Err(bad(
                head::TABLE,
                format!("the block table at {table_at:#x} is not inside the file"),
            ));
        }
        Ok(Self {
            raw: *raw,
            table_at,
            entries,
            block_size,
            parent: bytes::uuid(raw, head::PARENT),
        })
    }

    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut raw = self.raw;
        put(&mut raw, head::TABLE, &self.table_at.to_be_bytes());
        put(&mut raw, head::ENTRIES, &self.entries.to_be_bytes());
        put(&mut raw, head::PARENT, &self.parent.to_bytes_le());
        let sum = checksum(&raw, head::CHECKSUM);
        put(&mut raw, head::CHECKSUM, &sum.to_be_bytes());
        raw
    }

    /// Writes what may change: all of it is in the first sector, so that old and new are whole.
    /// Waits until it is on the disk.
    pub(super) fn write(&self, file: &HostFile, at: u64) -> Result<()> {
        let raw = self.encode();
        file.write(at, &raw[..SECTOR as usize])?;
        file.sync()
    }

    /// File offset after the text of the last parent locator.
    pub(super) fn locators_end(&self) -> u64 {
        (0..8)
            .map(|i| {
                let at = head::LOCATORS + i * head::LOCATOR_LEN;
                match be32(&self.raw, at) {
                    0 => 0,
                    // Some writers count the space in sectors, some in bytes.
                    _ => be64(&self.raw, at + 16)
                        .saturating_add(u64::from(be32(&self.raw, at + 8)))
                        .checked_next_multiple_of(SECTOR)
                        .unwrap_or(0),
                }
            })
            .max()
            .unwrap_or(0)
    }

    /// Bytes of the sector bitmap before each block's data.
    pub(super) fn bitmap_len(&self) -> u64 {
        (self.block_size / SECTOR / 8).next_multiple_of(SECTOR)
    }

    /// Bytes that a block takes in the file.
    pub(super) fn stride(&self) -> u64 {
        self.bitmap_len() + self.block_size
    }

    /// Bytes of the block table, to the end of its last sector.
    pub(super) fn table_len(&self) -> u64 {
        (4 * u64::from(self.entries)).next_multiple_of(SECTOR)
    }
}

/// The locators that VirtualBox writes on every host: Windows' own two, in Unicode.
pub(super) fn locators(child: &Path, parent: &Path) -> Vec<Locator> {
    let utf16 = |text: String| text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let windows = |path: &Path| path.to_string_lossy().replace('/', "\\");
    let mut all = Vec::new();
    let folder = child.parent().unwrap_or(Path::new(""));
    if let Ok(below) = parent.strip_prefix(folder) {
        all.push(Locator {
            code: *b"W2ru",
            text: utf16(format!(".\\{}", windows(below))),
        });
    }
    all.push(Locator {
        code: *b"W2ku",
        text: utf16(windows(parent)),
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_geometry_is_the_specifications() {
        let chs = |size| {
            let g = geometry_for(size);
            (g.cylinders, g.heads, g.sectors)
        };
        // As qemu-img makes them.
        assert_eq!(chs(4 << 20), (120, 4, 17));
        assert_eq!(chs(1 << 30), (2080, 16, 63));
        assert_eq!(chs(2040 << 30), (65535, 16, 255));
    }

    #[test]
    fn locators_are_relative_where_they_can_be() {
        let all = locators(Path::new("/d/c.vhd"), Path::new("/d/b.vhd"));
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].code, *b"W2ru");
        let expected: Vec<u8> = ".\\b.vhd".bytes().flat_map(|b| [b, 0]).collect();
        assert_eq!(all[0].text, expected);
        assert_eq!(
            locators(Path::new("/e/c.vhd"), Path::new("/d/b.vhd")).len(),
            1
        );
    }
}
