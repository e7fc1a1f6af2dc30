//! DMG, Apple's disk image (UDIF), read only: data that are plain, zero or compressed with zlib.
//!
//! The file ends with a trailer, which leads to a property list; in that are, in Base64, tables of
//! runs of sectors. There is no published specification; the facts are those that all readers of
//! the format share.
//!
//! Not here: bzip2, ADC, LZFSE and LZMA compression, encryption, images in several files, and old
//! images that have a resource fork instead of the property list.

use std::path::Path;

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
use crate::bytes::be32;
use crate::bytes::be64;
use crate::capability;
use crate::format::extension;
use crate::format::extents::Extent;
use crate::format::extents::ExtentImage;
use crate::format::extents::Facts;
use crate::format::extents::Source;
use crate::host::HostFile;

const TRAILER_LEN: u64 = 512;

/// Signature, version 4 and a length of 512 bytes, big-endian.
const TRAILER: &[u8; 12] = b"koly\0\0\0\x04\0\0\x02\0";

/// Bytes of a table before its runs, and of a run.
const TABLE_LEN: usize = 204;
const RUN_LEN: usize = 40;

/// Sectors of a CD/DVD.
const DVD_SECTOR: u64 = 2048;

pub struct Dmg;

impl Format for Dmg {
    fn id(&self) -> &'static str {
        "DMG"
    }

    fn description(&self) -> &'static str {
        "DMG"
    }

    fn capabilities(&self) -> u32 {
        capability::FILE | capability::VFS
    }

    fn extensions(&self) -> &'static [(&'static str, MediaKind)] {
        &[("dmg", MediaKind::Dvd)]
    }

    fn probe(&self, path: &Path, ends: &Ends) -> Option<MediaKind> {
        let known = ends.tail.starts_with(TRAILER) || extension(path) == "dmg";
        known.then_some(MediaKind::Dvd)
    }

    fn info(&self, path: &Path, kind: MediaKind) -> Result<MediaInfo> {
        let file = HostFile::open_unlocked(path, OpenMode::ReadOnly)?;
        let trailer = Trailer::read(&file)?;
        Ok(MediaInfo {
            format: self.id(),
            kind,
            variant: Variant::Fixed,
            layout: Layout::Default,
            size: trailer.size(kind),
            size_on_disk: file.len()?,
            uuid: None,
            modification: None,
            parent: None,
            cid: None,
            block_size: None,
            comment: String::new(),
        })
    }

    fn open(&self, path: &Path, mode: OpenMode, kind: MediaKind) -> Result<Box<dyn Image>> {
        if mode == OpenMode::ReadWrite {
            return Err(Error::ReadOnly {
                path: path.to_path_buf(),
            });
        }
        let file = HostFile::open(path, mode)?;
        let trailer = Trailer::read(&file)?;
        let extents = trailer.extents(&file)?;
        let facts = Facts {
            format: self.id(),
            variant: Variant::Fixed,
            size: trailer.size(kind),
            block: SECTOR as u32,
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
        Err(Error::unsupported(path, "DMG images can only be read"))
    }
}

fn bad(file: &HostFile, at: u64, what: impl Into<String>) -> Error {
    Error::corrupt(file.path(), "DMG", at, what)
}

struct Trailer {
    /// File offset of the data that the runs speak of.
    data_at: u64,
    /// Place and length of the property list.
    list: (u64, u64),
    sectors: u64,
}

impl Trailer {
    fn read(file: &HostFile) -> Result<Self> {
        let end = file.len()?.saturating_sub(TRAILER_LEN);
        let mut raw = [0; TRAILER_LEN as usize];
        file.read_padded(end, &mut raw)?;
        if !raw.starts_with(TRAILER) {
            return Err(bad(file, end, "no trailer"));
        }
        if be32(&raw, 60) > 1 {
            return Err(Error::unsupported(
                file.path(),
                "DMG images in several files cannot be read",
            ));
        }
        let list = (be64(&raw, 216), be64(&raw, 224));
        if list.1 == 0 {
            return Err(Error::unsupported(
                file.path(),
                "DMG images without a property list cannot be read",
            ));
        }
        if list.0.checked_add(list.1).is_none_or(|stop| stop > end) {
            return Err(bad(
                file,
                end + 216,
                "the property list is outside the file",
            ));
        }
        let sectors = be64(&raw, 492);
        if sectors == 0 || sectors > i64::MAX as u64 / SECTOR {
            return Err(bad(file, end + 492, format!("a disk of {sectors} sectors")));
        }
        Ok(Self {
            data_at: be64(&raw, 24),
            list,
            sectors,
        })
    }

    /// Logical bytes; a CD/DVD has whole sectors of its own size.
    fn size(&self, kind: MediaKind) -> u64 {
        let size = self.sectors * SECTOR;
        match kind {
            MediaKind::Dvd => size.next_multiple_of(DVD_SECTOR),
            MediaKind::HardDisk | MediaKind::Floppy => size,
        }
    }

    fn extents(&self, file: &HostFile) -> Result<Vec<Extent>> {
        let mut raw = vec![0; self.list.1 as usize];
        file.read(self.list.0, &mut raw)?;
        let list = String::from_utf8_lossy(&raw);
        let mut extents = Vec::new();
        for text in tables(&list) {
            let table = base64(text)
                .ok_or_else(|| bad(file, self.list.0, "a table of runs is not Base64"))?;
            self.add_runs(file, &table, &mut extents)?;
        }
        match extents.is_empty() && !list.contains("<key>blkx</key>") {
            true => Err(bad(file, self.list.0, "the property list has no runs")),
            false => Ok(extents),
        }
    }

    fn add_runs(&self, file: &HostFile, table: &[u8], extents: &mut Vec<Extent>) -> Result<()> {
        let wrong = |what: &str| bad(file, self.list.0, what);
        if !table.starts_with(b"mish") || table.len() < TABLE_LEN {
            return Err(wrong("a table of runs has no signature"));
        }
        let (first, base) = (be64(table, 8), be64(table, 24));
        let runs = table[TABLE_LEN..].chunks_exact(RUN_LEN);
        for run in runs.take(be32(table, 200) as usize) {
            let foreign = match be32(run, 0) {
                // Plain, zlib.
                1 | 0x8000_0005 => None,
                // Zeros, free space, a comment, the end.
                0 | 2 | 0x7FFF_FFFE | 0xFFFF_FFFF => continue,
                0x8000_0004 => Some("ADC"),
                0x8000_0006 => Some("bzip2"),
                0x8000_0007 => Some("LZFSE"),
                0x8000_0008 => Some("LZMA"),
                kind => return Err(wrong(&format!("a run of kind {kind:#x}"))),
            };
            if let Some(name) = foreign {
                return Err(Error::unsupported(
                    file.path(),
                    format!("DMG images that are compressed with {name} cannot be read"),
                ));
            }
            let start = first.checked_add(be64(run, 8));
            let start = start.and_then(|sector| sector.checked_mul(SECTOR));
            let len = be64(run, 16).checked_mul(SECTOR);
            let at = self.data_at.checked_add(base);
            let at = at.and_then(|at| at.checked_add(be64(run, 24)));
            let (Some(start), Some(len), Some(at)) = (start, len, at) else {
                return Err(wrong("a run that is nowhere"));
            };
            let source = match be32(run, 0) {
                1 => Source::Plain(at),
                _ => Source::Zlib(at, be64(run, 32)),
            };
            if len > 0 {
                extents.push(Extent { start, len, source });
            }
        }
        Ok(())
    }
}

/// The Base64 texts of the array of tables in a property list.
fn tables(list: &str) -> impl Iterator<Item = &str> {
    let after = list.split_once("<key>blkx</key>").map_or("", |(_, a)| a);
    let array = after.split_once("</array>").map_or(after, |(a, _)| a);
    let parts = array.split("<data>").skip(1);
    parts.map(|part| part.split_once("</data>").map_or(part, |(text, _)| text))
}

/// Decodes Base64 with white space; `None` for anything else.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes().filter(|b| !b.is_ascii_whitespace()) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_with_its_white_space() {
        assert_eq!(base64("\n\tbWlz\n\taA==\n"), Some(b"mish".to_vec()));
        assert_eq!(base64("bW-z"), None);
        let list = "<key>blkx</key><array><dict><data>A</data></dict><data>B</data></array><data>C";
        assert_eq!(tables(list).collect::<Vec<_>>(), ["A", "B"]);
    }
}
