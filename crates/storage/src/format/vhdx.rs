//! VHDX, Hyper-V's newer format, read only: fixed and dynamic images that were closed.
//!
//! Two headers and two copies of the region table lead to a table of metadata and to the block
//! allocation table (BAT). Facts: Microsoft's open specification MS-VHDX.
//!
//! Not here: writing, differencing images, and replaying the log of an image that was not closed.

use std::path::Path;

use uuid::Uuid;
use uuid::uuid;

use crate::CreateParams;
use crate::Ends;
use crate::Error;
use crate::Format;
use crate::Image;
use crate::Layout;
use crate::MediaInfo;
use crate::MediaKind;
use crate::Meta;
use crate::OpenMode;
use crate::Progress;
use crate::Result;
use crate::SECTOR;
use crate::Variant;
use crate::bytes::le16;
use crate::bytes::le32;
use crate::bytes::le64;
use crate::bytes::uuid as guid;
use crate::capability;
use crate::format::extension;
use crate::format::extents::Extent;
use crate::format::extents::ExtentImage;
use crate::format::extents::Facts;
use crate::format::extents::Source;
use crate::host::HostFile;

const SIGNATURE: &[u8; 8] = b"vhdxfile";

/// Where the two headers and the two copies of the region table are, and their lengths.
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_LEN: usize = 4 << 10;
const REGIONS: [u64; 2] = [192 << 10, 256 << 10];
const REGIONS_LEN: usize = 64 << 10;

const BAT: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
const METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");
const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
const DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
const DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
const SECTOR_SIZE: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
const PHYSICAL_SECTOR_SIZE: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");

/// What a reader must know of the flags of regions and of metadata.
const REGION_REQUIRED: u32 = 1;
const ITEM_REQUIRED: u32 = 4;

/// Sectors that one block of a sector bitmap describes.
const BITMAP_SECTORS: u64 = 1 << 23;

pub struct Vhdx;

impl Format for Vhdx {
    fn id(&self) -> &'static str {
        "VHDX"
    }

    fn description(&self) -> &'static str {
        "VHDX"
    }

    fn capabilities(&self) -> u32 {
        capability::FILE | capability::VFS
    }

    fn extensions(&self) -> &'static [(&'static str, MediaKind)] {
        &[("vhdx", MediaKind::HardDisk)]
    }

    fn probe(&self, path: &Path, ends: &Ends) -> Option<MediaKind> {
        let known = ends.head.starts_with(SIGNATURE) || extension(path) == "vhdx";
        known.then_some(MediaKind::HardDisk)
    }

    fn info(&self, path: &Path, kind: MediaKind) -> Result<MediaInfo> {
        let file = HostFile::open_unlocked(path, OpenMode::ReadOnly)?;
        let disk = Disk::read(&file)?;
        Ok(MediaInfo {
            format: self.id(),
            kind,
            variant: disk.variant,
            layout: Layout::Default,
            size: disk.size,
            size_on_disk: file.len()?,
            uuid: None,
            modification: None,
            parent: None,
            cid: None,
            block_size: Some(disk.block),
            comment: String::new(),
        })
    }

    fn open(&self, path: &Path, mode: OpenMode, kind: MediaKind) -> Result<Box<dyn Image>> {
        if kind != MediaKind::HardDisk {
            return Err(Error::unsupported(
                path,
                "a VHDX image is always a hard disk",
            ));
        }
        if mode == OpenMode::ReadWrite {
            return Err(Error::ReadOnly {
                path: path.to_path_buf(),
            });
        }
        let file = HostFile::open(path, mode)?;
        let disk = Disk::read(&file)?;
        let extents = disk.extents(&file)?;
        let facts = Facts {
            format: self.id(),
            variant: disk.variant,
            size: disk.size,
            block: disk.block,
            meta: Meta::default(),
        };
        Ok(Box::new(ExtentImage::new(file, facts, extents)?))
    }

    fn create(
        &self,
        path: &Path,
        _params: &CreateParams,
        _progress: &mut Progress<'_>,
    ) -> Result<Box<dyn Image>> {
        Err(Error::unsupported(path, "VHDX images can only be read"))
    }
}

/// What headers and metadata say.
struct Disk {
    variant: Variant,
    /// Logical bytes.
    size: u64,
    /// Bytes of a block.
    block: u32,
    /// Payload blocks between two entries for sector bitmaps.
    ratio: u64,
    /// Place and length of the block allocation table.
    bat: (u64, u32),
}

fn bad(file: &HostFile, at: u64, what: impl Into<String>) -> Error {
    Error::corrupt(file.path(), "VHDX", at, what)
}

/// A structure whose checksum, at its fifth byte, is right.
fn checked(file: &HostFile, at: u64, len: usize, signature: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut raw = vec![0; len];
    file.read_padded(at, &mut raw)?;
    let sum = le32(&raw, 4);
    raw[4..8].fill(0);
    Ok((raw.starts_with(signature) && crc32c(&raw) == sum).then_some(raw))
}

/// The checksum of Castagnoli's polynomial.
fn crc32c(data: &[u8]) -> u32 {
    let sum = data.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            sum >> 1 ^ (0x82F6_3B78 & (sum & 1).wrapping_neg())
        })
    });
    !sum
}

impl Disk {
    fn read(file: &HostFile) -> Result<Self> {
        let mut head = [0; 8];
        file.read_padded(0, &mut head)?;
        if head != *SIGNATURE {
            return Err(bad(file, 0, "no signature"));
        }
        let mut newest: Option<Vec<u8>> = None;
        for at in HEADERS {
            let Some(raw) = checked(file, at, HEADER_LEN, b"head")? else {
                continue;
            };
            if newest.as_ref().is_none_or(|n| le64(n, 8) < le64(&raw, 8)) {
                newest = Some(raw);
            }
        }
        let header = newest.ok_or_else(|| bad(file, HEADERS[0], "both headers are damaged"))?;
        if le16(&header, 66) != 1 {
            return Err(Error::unsupported(
                file.path(),
                format!("VHDX images of version {} are not known", le16(&header, 66)),
            ));
        }
        if !guid(&header, 48).is_nil() {
            return Err(Error::unsupported(
                file.path(),
                "this VHDX image was not closed: open it once with the program that wrote it, or repair it with 'qemu-img check -r all'",
            ));
        }
        let mut regions = None;
        for at in REGIONS {
            if regions.is_none() {
                regions = checked(file, at, REGIONS_LEN, b"regi")?;
            }
        }
        let regions = regions.ok_or_else(|| bad(file, REGIONS[0], "no region table is intact"))?;
        let (mut bat, mut metadata) = (None, None);
        for entry in regions[16..]
            .chunks_exact(32)
            .take(le32(&regions, 8) as usize)
        {
            let place = (le64(entry, 16), le32(entry, 24));
            let end = place.0.checked_add(place.1.into());
            if end.is_none_or(|end| file.len().is_ok_and(|len| end > len)) {
                return Err(bad(file, REGIONS[0], "a region is not inside the file"));
            }
            match guid(entry, 0) {
                BAT => bat = Some(place),
                METADATA => metadata = Some(place),
                _ if le32(entry, 28) & REGION_REQUIRED != 0 => {
                    return Err(Error::unsupported(
                        file.path(),
                        "this VHDX image has a required region that is not known",
                    ));
                }
                _ => {}
            }
        }
        let (Some(bat), Some(metadata)) = (bat, metadata) else {
            return Err(bad(file, REGIONS[0], "the BAT or the metadata are missing"));
        };
        Self::read_metadata(file, bat, metadata)
    }

    fn read_metadata(file: &HostFile, bat: (u64, u32), metadata: (u64, u32)) -> Result<Self> {
        let (at, len) = metadata;
        let mut table = vec![0; REGIONS_LEN];
        file.read_padded(at, &mut table)?;
        if !table.starts_with(b"metadata") {
            return Err(bad(file, at, "the metadata have no signature"));
        }
        let (mut block, mut flags, mut size, mut sector) = (0, 0, 0, 0);
        for entry in table[32..].chunks_exact(32).take(le16(&table, 10).into()) {
            let (from, bytes) = (le32(entry, 16), le32(entry, 20));
            if from.checked_add(bytes).is_none_or(|end| end > len) {
                return Err(bad(file, at, "an item of the metadata is outside them"));
            }
            let mut item = [0; 8];
            file.read_padded(at + u64::from(from), &mut item)?;
            match guid(entry, 0) {
                FILE_PARAMETERS => (block, flags) = (le32(&item, 0), le32(&item, 4)),
                DISK_SIZE => size = le64(&item, 0),
                SECTOR_SIZE => sector = le32(&item, 0),
                DISK_ID | PHYSICAL_SECTOR_SIZE => {}
                _ if le32(entry, 24) & ITEM_REQUIRED != 0 && flags & 2 == 0 => {
                    return Err(Error::unsupported(
                        file.path(),
                        "this VHDX image has required metadata that are not known",
                    ));
                }
                _ => {}
            }
        }
        if flags & 2 != 0 {
            return Err(Error::unsupported(
                file.path(),
                "differencing VHDX images cannot be read",
            ));
        }
        let sized = block.is_power_of_two() && (1 << 20..=256 << 20).contains(&block);
        if !sized || ![512, 4096].contains(&sector) {
            return Err(bad(
                file,
                at,
                format!("blocks of {block} bytes, sectors of {sector}"),
            ));
        }
        // The format's own limit is 64 TiB.
        if size == 0 || !size.is_multiple_of(SECTOR) || size > 64 << 40 {
            return Err(bad(file, at, format!("a disk of {size} bytes")));
        }
        Ok(Self {
            variant: match flags & 1 {
                0 => Variant::Dynamic,
                _ => Variant::Fixed,
            },
            size,
            block,
            ratio: BITMAP_SECTORS * u64::from(sector) / u64::from(block),
            bat,
        })
    }

    fn extents(&self, file: &HostFile) -> Result<Vec<Extent>> {
        let block = u64::from(self.block);
        let blocks = self.size.div_ceil(block);
        let entries = blocks + (blocks - 1) / self.ratio;
        let (at, len) = self.bat;
        if 8 * entries > len.into() {
            return Err(bad(
                file,
                at,
                format!("the BAT has no room for {blocks} blocks"),
            ));
        }
        let mut raw = vec![0; 8 * entries as usize];
        file.read(at, &mut raw)?;
        let mut extents = Vec::new();
        for number in 0..blocks {
            let index = number + number / self.ratio;
            let entry = le64(&raw, 8 * index as usize);
            match entry & 7 {
                // Not present, undefined, zero, unmapped.
                0..=3 => {}
                6 => extents.push(Extent {
                    start: number * block,
                    len: block.min(self.size - number * block),
                    source: Source::Plain(entry >> 20 << 20),
                }),
                state => {
                    return Err(bad(
                        file,
                        at + 8 * index,
                        format!("block {number} is in state {state}"),
                    ));
                }
            }
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value that the catalogue of checksums gives.
    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }
}
