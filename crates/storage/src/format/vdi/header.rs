//! The VDI 1.1 header: reading it with suspicion, and writing it back without touching what it
//! does not know. All fields are little-endian and lie in the file's first sector, so that one
//! sector write switches from an old layout to a new one.

use std::path::Path;

use uuid::Uuid;

use crate::Error;
use crate::Geometry;
use crate::Meta;
use crate::ParentLink;
use crate::Result;
use crate::SECTOR;
use crate::Variant;
use crate::bytes::le32 as get32;
use crate::bytes::le64 as get64;
use crate::bytes::uuid as get_uuid;

/// The header and everything that is written with it.
pub(super) const SECTOR_LEN: usize = SECTOR as usize;

/// Value of a map entry: the image does not hold the block.
pub(super) const FREE: u32 = 0xFFFF_FFFF;
/// Value of a map entry: the block is zero, whatever the parent holds.
pub(super) const ZERO: u32 = 0xFFFF_FFFE;

/// New images use 1 MiB for everything: alignment of map and data, and the blocks themselves.
pub(super) const MIB: u64 = 1 << 20;

/// 64 TiB in blocks of 1 MiB; keeps the map of a hostile sparse file at 256 MiB.
const MAX_BLOCKS: u64 = 64 << 20;

const SIGNATURE: u32 = 0xBEDA_107F;
const VERSION: u32 = 0x0001_0001;
const INFO_TEXT: &[u8] = b"<<< Oracle VM VirtualBox Disk Image >>>\n";
const COMMENT_LEN: usize = 256;

/// Offsets of the fields.
mod at {
    pub const SIGNATURE: usize = 0x040;
    pub const VERSION: usize = 0x044;
    /// The header proper starts here; its size is counted from here.
    pub const HEADER: usize = 0x048;
    pub const TYPE: usize = 0x04C;
    pub const COMMENT: usize = 0x054;
    pub const OFF_MAP: usize = 0x154;
    pub const OFF_DATA: usize = 0x158;
    pub const PHYSICAL: usize = 0x15C;
    pub const SIZE: usize = 0x170;
    pub const BLOCK_SIZE: usize = 0x178;
    pub const BLOCK_EXTRA: usize = 0x17C;
    pub const BLOCKS: usize = 0x180;
    pub const ALLOCATED: usize = 0x184;
    pub const UUID: usize = 0x188;
    pub const MODIFICATION: usize = 0x198;
    pub const PARENT: usize = 0x1A8;
    pub const PARENT_MODIFICATION: usize = 0x1B8;
    pub const LOGICAL: usize = 0x1C8;
}

/// Offset in the file of the count of allocated blocks, which is also written alone.
pub(super) const ALLOCATED_AT: u64 = at::ALLOCATED as u64;

/// Header sizes: without the BIOS geometry (older images, QEMU) and with it.
const SIZE_SHORT: u32 = (at::LOGICAL - at::HEADER) as u32;
const SIZE_FULL: u32 = SIZE_SHORT + 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// The first sector as read: unknown fields survive a rewrite.
    raw: [u8; SECTOR_LEN],
    pub variant: Variant,
    /// File offset of the block map.
    pub off_map: u64,
    /// File offset of block slot 0.
    pub off_data: u64,
    /// Logical size in bytes.
    pub size: u64,
    pub block_size: u64,
    /// Entries of the block map.
    pub blocks: u32,
    /// Slots in use, as other programs that append need it.
    pub allocated: u32,
    pub meta: Meta,
    has_logical: bool,
}

/// Whether the first sector of a file carries VDI's signature.
pub(super) fn has_signature(head: &[u8]) -> bool {
    head.get(at::SIGNATURE..at::SIGNATURE + 4) == Some(&SIGNATURE.to_le_bytes()[..])
}

impl Header {
    /// The header of a new image in the layout that VirtualBox gives it.
    pub(super) fn new(size: u64, variant: Variant, meta: Meta, path: &Path) -> Result<Self> {
        Self::with_layout(size, MIB, MIB, variant, meta, path)
    }

    /// The header of a new image with other blocks, and with map and data aligned otherwise.
    pub(super) fn with_layout(
        size: u64,
        block_size: u64,
        align: u64,
        variant: Variant,
        meta: Meta,
        path: &Path,
    ) -> Result<Self> {
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(Error::invalid(
                path,
                format!("a size of {size} bytes is not a number of sectors"),
            ));
        }
        let blocks = block_count(path, size, block_size)?;
        let mut raw = [0; SECTOR_LEN];
        raw[..INFO_TEXT.len()].copy_from_slice(INFO_TEXT);
        put32(&mut raw, at::SIGNATURE, SIGNATURE);
        put32(&mut raw, at::VERSION, VERSION);
        put32(&mut raw, at::HEADER, SIZE_FULL);
        // Bytes per sector of both geometries.
        put32(&mut raw, at::PHYSICAL + 12, SECTOR as u32);
        put32(&mut raw, at::LOGICAL + 12, SECTOR as u32);
        let this = Self {
            raw,
            variant,
            off_map: align,
            off_data: (align + 4 * u64::from(blocks)).next_multiple_of(align),
            size,
            block_size,
            blocks,
            allocated: 0,
            meta: Meta::default(),
            has_logical: true,
        };
        this.with_meta(meta, path)
    }

    /// The same header with other metadata.
    pub(super) fn with_meta(&self, meta: Meta, path: &Path) -> Result<Self> {
        if meta.comment.len() >= COMMENT_LEN || meta.comment.contains('\0') {
            return Err(Error::invalid(
                path,
                format!(
                    "a comment has at most {} bytes, none of them zero",
                    COMMENT_LEN - 1
                ),
            ));
        }
        if meta.parent.is_some() != (self.variant == Variant::Differencing) {
            return Err(Error::invalid(
                path,
                "a differencing image, and no other, has a parent",
            ));
        }
        Ok(Self {
            meta,
            ..self.clone()
        })
    }

    /// The same header for a disk of another size, without changes to the layout.
    pub(super) fn with_size(&self, size: u64, path: &Path) -> Result<Self> {
        if !size.is_multiple_of(SECTOR) {
            return Err(Error::invalid(
                path,
                format!("a size of {size} bytes is not a number of sectors"),
            ));
        }
        let blocks = block_count(path, size, self.block_size)?.max(self.blocks);
        Ok(Self {
            size,
            blocks,
            ..self.clone()
        })
    }

    /// Reads the first sector of a file that is `file_len` bytes long, and refuses whatever cannot
    /// be a VDI image.
    pub(super) fn parse(path: &Path, raw: &[u8; SECTOR_LEN], file_len: u64) -> Result<Self> {
        let bad = |offset: usize, what: String| Error::corrupt(path, "VDI", offset as u64, what);
        if !has_signature(raw) {
            return Err(bad(at::SIGNATURE, "the signature is missing".into()));
        }
        let version = get32(raw, at::VERSION);
        if version >> 16 != VERSION >> 16 {
            return Err(Error::unsupported(
                path,
                format!(
                    "VDI version {}.{} is not supported, only 1.x is",
                    version >> 16,
                    version & 0xFFFF
                ),
            ));
        }
        let header_size = get32(raw, at::HEADER);
        if header_size < SIZE_SHORT {
            return Err(bad(
                at::HEADER,
                format!("a header of {header_size} bytes is too short"),
            ));
        }
        let variant = match get32(raw, at::TYPE) {
            1 => Variant::Dynamic,
            2 => Variant::Fixed,
            4 => Variant::Differencing,
            3 => return Err(Error::unsupported(path, "undo images are not supported")),
            other => return Err(bad(at::TYPE, format!("image type {other} does not exist"))),
        };
        let size = get64(raw, at::SIZE);
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(bad(
                at::SIZE,
                format!("a disk of {size} bytes is not a number of sectors"),
            ));
        }
        let block_size = u64::from(get32(raw, at::BLOCK_SIZE));
        if !block_size.is_power_of_two() || !(4096..=16 << 20).contains(&block_size) {
            return Err(bad(
                at::BLOCK_SIZE,
                format!("{block_size} bytes is not a block size"),
            ));
        }
        if get32(raw, at::BLOCK_EXTRA) != 0 {
            return Err(Error::unsupported(
                path,
                "VDI images with extra data in each block are not supported",
            ));
        }
        let blocks = get32(raw, at::BLOCKS);
        let needed = size.div_ceil(block_size);
        if u64::from(blocks) < needed || u64::from(blocks) > MAX_BLOCKS {
            return Err(bad(
                at::BLOCKS,
                format!("{blocks} blocks do not fit a disk of {size} bytes, which has {needed}"),
            ));
        }
        let off_map = u64::from(get32(raw, at::OFF_MAP));
        let header_end = at::HEADER as u64 + u64::from(header_size);
        if !off_map.is_multiple_of(SECTOR) || off_map < header_end.max(SECTOR) {
            return Err(bad(
                at::OFF_MAP,
                format!("the block map cannot be at {off_map:#x}"),
            ));
        }
        let map_end = off_map + 4 * u64::from(blocks);
        let off_data = u64::from(get32(raw, at::OFF_DATA));
        if !off_data.is_multiple_of(SECTOR) || off_data < map_end {
            return Err(bad(
                at::OFF_DATA,
                format!(
                    "the data at {off_data:#x} overlap the block map, which ends at {map_end:#x}"
                ),
            ));
        }
        if file_len < map_end {
            return Err(bad(
                at::BLOCKS,
                format!(
                    "the file ends at {file_len:#x}, before its block map does at {map_end:#x}"
                ),
            ));
        }
        let allocated = get32(raw, at::ALLOCATED);
        let has_logical = header_size >= SIZE_FULL;
        let parent = match variant {
            Variant::Differencing => Some(ParentLink::new(
                get_uuid(raw, at::PARENT),
                get_uuid(raw, at::PARENT_MODIFICATION),
            )),
            _ => None,
        };
        let comment = &raw[at::COMMENT..at::COMMENT + COMMENT_LEN];
        let comment = comment.split(|b| *b == 0).next().unwrap_or_default();
        Ok(Self {
            raw: *raw,
            variant,
            off_map,
            off_data,
            size,
            block_size,
            blocks,
            allocated,
            meta: Meta {
                uuid: Some(get_uuid(raw, at::UUID)),
                modification: Some(get_uuid(raw, at::MODIFICATION)),
                parent,
                cid: None,
                comment: String::from_utf8_lossy(comment).into_owned(),
                physical: get_geometry(raw, at::PHYSICAL),
                logical: if has_logical {
                    get_geometry(raw, at::LOGICAL)
                } else {
                    Geometry::default()
                },
            },
            has_logical,
        })
    }

    /// The first sector of the file. [`Error::Unsupported`] when the layout has outgrown the
    /// header's 32-bit offsets.
    pub(super) fn encode(&self, path: &Path) -> Result<[u8; SECTOR_LEN]> {
        let offset = |value: u64| {
            u32::try_from(value).map_err(|_| {
                Error::unsupported(path, "the block map would not fit below 4 GiB in the file")
            })
        };
        let mut raw = self.raw;
        put32(
            &mut raw,
            at::TYPE,
            match self.variant {
                Variant::Dynamic => 1,
                Variant::Fixed => 2,
                Variant::Differencing => 4,
            },
        );
        put32(&mut raw, at::OFF_MAP, offset(self.off_map)?);
        put32(&mut raw, at::OFF_DATA, offset(self.off_data)?);
        raw[at::SIZE..at::SIZE + 8].copy_from_slice(&self.size.to_le_bytes());
        put32(&mut raw, at::BLOCK_SIZE, self.block_size as u32);
        put32(&mut raw, at::BLOCKS, self.blocks);
        put32(&mut raw, at::ALLOCATED, self.allocated);
        let meta = &self.meta;
        let comment = &mut raw[at::COMMENT..at::COMMENT + COMMENT_LEN];
        // A comment in another encoding stays as it is unless somebody changes it.
        let old = comment.split(|b| *b == 0).next().unwrap_or_default();
        if String::from_utf8_lossy(old) != meta.comment.as_str() {
            comment.fill(0);
            comment[..meta.comment.len()].copy_from_slice(meta.comment.as_bytes());
        }
        put_geometry(&mut raw, at::PHYSICAL, meta.physical);
        put_uuid(&mut raw, at::UUID, meta.uuid.unwrap_or_default());
        put_uuid(
            &mut raw,
            at::MODIFICATION,
            meta.modification.unwrap_or_default(),
        );
        if let Some(parent) = meta.parent {
            put_uuid(&mut raw, at::PARENT, parent.uuid);
            put_uuid(&mut raw, at::PARENT_MODIFICATION, parent.modification);
        }
        if self.has_logical {
            put_geometry(&mut raw, at::LOGICAL, meta.logical);
        }
        Ok(raw)
    }

    /// Bytes that the last block, or any other, has inside the disk.
    pub(super) fn block_len(&self, block: u32) -> u64 {
        self.size
            .saturating_sub(u64::from(block) * self.block_size)
            .min(self.block_size)
    }

    /// File offset of a slot of the data area. Cannot overflow: 2^32 slots of at most 16 MiB.
    pub(super) fn slot_at(&self, slot: u64) -> u64 {
        self.off_data + slot * self.block_size
    }

    /// File offset of a map entry.
    pub(super) fn entry_at(&self, block: u32) -> u64 {
        self.off_map + 4 * u64::from(block)
    }
}

fn block_count(path: &Path, size: u64, block_size: u64) -> Result<u32> {
    let blocks = size.div_ceil(block_size);
    if blocks > MAX_BLOCKS {
        return Err(Error::invalid(
            path,
            format!(
                "{size} bytes are too many for a VDI image, which holds {}",
                MAX_BLOCKS * block_size
            ),
        ));
    }
    // MAX_BLOCKS is far below 2^32.
    Ok(blocks as u32)
}

fn put32(raw: &mut [u8; SECTOR_LEN], at: usize, value: u32) {
    raw[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_uuid(raw: &mut [u8; SECTOR_LEN], at: usize, uuid: Uuid) {
    raw[at..at + 16].copy_from_slice(&uuid.to_bytes_le());
}

fn get_geometry(raw: &[u8; SECTOR_LEN], at: usize) -> Geometry {
    Geometry {
        cylinders: get32(raw, at),
        heads: get32(raw, at + 4),
        sectors: get32(raw, at + 8),
    }
}

fn put_geometry(raw: &mut [u8; SECTOR_LEN], at: usize, geometry: Geometry) {
    put32(raw, at, geometry.cylinders);
    put32(raw, at + 4, geometry.heads);
    put32(raw, at + 8, geometry.sectors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_documented_one() {
        let meta = Meta {
            uuid: Some(Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)),
            comment: "hello".into(),
            ..Meta::default()
        };
        let header = Header::new(300 << 30, Variant::Dynamic, meta, Path::new("x")).unwrap();
        let raw = header.encode(Path::new("x")).unwrap();
        assert_eq!(get32(&raw, 0x40), 0xBEDA_107F);
        assert_eq!(get32(&raw, 0x44), 0x0001_0001);
        assert_eq!(get32(&raw, 0x48), 0x190);
        assert_eq!(get32(&raw, 0x4C), 1);
        assert_eq!(&raw[0x54..0x5A], b"hello\0");
        assert_eq!(get32(&raw, 0x154), 0x10_0000);
        // 300 Ki entries are more than one MiB of map.
        assert_eq!(get32(&raw, 0x158), 0x30_0000);
        assert_eq!(get32(&raw, 0x168), 512);
        assert_eq!(get64(&raw, 0x170), 300 << 30);
        assert_eq!(get32(&raw, 0x178), 1 << 20);
        assert_eq!(get32(&raw, 0x180), 300 << 10);
        assert_eq!(
            raw[0x188..0x190],
            [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66]
        );
        assert_eq!(get32(&raw, 0x1D4), 512);
        let again = Header::parse(Path::new("x"), &raw, 3 << 20).unwrap();
        assert_eq!(again.meta.comment, "hello");
        assert_eq!(again.encode(Path::new("x")).unwrap(), raw);
    }

    #[test]
    fn a_comment_that_does_not_fit_is_refused() {
        let header = |comment: String| {
            let meta = Meta {
                comment,
                ..Meta::default()
            };
            Header::new(512, Variant::Dynamic, meta, Path::new("x"))
        };
        assert!(header("c".repeat(255)).is_ok());
        assert!(header("c".repeat(256)).is_err());
        assert!(header("a\0b".into()).is_err());
    }
}
