//! The headers of the three: where the tables are, and what the image asks of its reader.

use std::path::Path;
use std::path::PathBuf;

use crate::Error;
use crate::Result;
use crate::SECTOR;
use crate::bytes::be32;
use crate::bytes::be64;
use crate::bytes::le32;
use crate::bytes::le64;
use crate::bytes::put;
use crate::host::HostFile;

/// Signature of QCOW in both of its versions.
pub(super) const QCOW_MAGIC: &[u8; 4] = b"QFI\xfb";
pub(super) const QED_MAGIC: &[u8; 4] = b"QED\0";

/// Bytes of a header that are read at once; more than any has before its extensions.
const HEAD: usize = 112;

/// The longest name of a parent that QEMU takes.
const NAME_LEN: u32 = 1023;

/// Type of the extension that lists QEMU's dirty bitmaps, and of the one that names the format of
/// the parent.
const BITMAPS: u32 = 0x2385_2875;
const PARENT_FORMAT: u32 = 0xE279_2ACA;

/// Bits of QCOW2's incompatible features.
mod qcow2 {
    pub const DIRTY: u64 = 1;
    pub const CORRUPT: u64 = 2;
    pub const EXTERNAL_DATA: u64 = 4;
    pub const COMPRESSION: u64 = 8;
    pub const EXTENDED_L2: u64 = 16;
}

/// Bits of QED's features.
mod qed {
    pub const PARENT: u64 = 1;
    pub const NEED_CHECK: u64 = 2;
    pub const PARENT_IS_RAW: u64 = 4;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// QCOW, version 1.
    Qcow1,
    /// QCOW2; the header says version 2 or 3.
    Qcow2 {
        zero_flag: bool,
    },
    Qed,
}

impl Dialect {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Qcow1 | Self::Qcow2 { .. } => "QCOW",
            Self::Qed => "QED",
        }
    }
}

/// The part of a QCOW2 header that concerns reference counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) table_at: u64,
    pub(super) table_clusters: u32,
    /// Bits of one count, as a power of two.
    pub(super) order: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) dialect: Dialect,
    /// Logical bytes.
    pub(super) size: u64,
    pub(super) cluster_bits: u32,
    pub(super) l1_at: u64,
    pub(super) l1_entries: u64,
    /// Entries of one table of the second level.
    pub(super) l2_entries: u64,
    /// Bytes at the start of the file that are not the disk's.
    pub(super) end: u64,
    /// Offset and length of the parent's name where that is elsewhere.
    pub(super) name: (u64, u64),
    /// The parent as the file names it.
    pub(super) parent: Option<PathBuf>,
    pub(super) counts: Option<Counts>,
    /// Why the image must not be written.
    pub(super) only_read: Option<&'static str>,
}

impl Header {
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Logical bytes that one table of the second level covers.
    pub(super) fn reach(&self) -> u64 {
        self.l2_entries << self.cluster_bits
    }

    /// Bytes of one table of the second level, in the file.
    pub(super) fn l2_len(&self) -> u64 {
        8 * self.l2_entries
    }

    pub(super) fn read(file: &HostFile) -> Result<Self> {
        let mut raw = [0; HEAD];
        file.read_padded(0, &mut raw)?;
        let len = file.len()?;
        let this = if raw.starts_with(QED_MAGIC) {
            Self::qed(file, &raw)?
        } else if raw.starts_with(QCOW_MAGIC) {
            match be32(&raw, 4) {
                1 => Self::qcow1(file, &raw)?,
                version @ 2..=3 => Self::qcow2(file, &raw, version)?,
                version => {
                    return Err(Error::unsupported(
                        file.path(),
                        format!("QCOW images of version {version} are not known"),
                    ));
                }
            }
        } else {
            return Err(Error::corrupt(file.path(), "QCOW", 0, "no signature"));
        };
        let bad = |at, what: String| Error::corrupt(file.path(), this.dialect.name(), at, what);
        if this.size == 0 || !this.size.is_multiple_of(SECTOR) {
            return Err(bad(
                24,
                format!("{} bytes are not a number of sectors", this.size),
            ));
        }
        let needed = this.size.div_ceil(this.reach());
        if needed > this.l1_entries {
            return Err(bad(
                36,
                format!(
                    "{needed} tables are needed, but there are {}",
                    this.l1_entries
                ),
            ));
        }
        let l1_end = this.l1_entries.checked_mul(8);
        let l1_end = l1_end.and_then(|n| n.checked_add(this.l1_at));
        if this.l1_at < 48 || l1_end.is_none_or(|end| end > len) {
            return Err(bad(
                40,
                format!(
                    "the first table at {:#x} is not inside the file",
                    this.l1_at
                ),
            ));
        }
        Ok(this)
    }

    fn qcow1(file: &HostFile, raw: &[u8]) -> Result<Self> {
        let (cluster_bits, l2_bits) = (u32::from(raw[32]), u32::from(raw[33]));
        if !(9..=16).contains(&cluster_bits) || !(6..=13).contains(&l2_bits) {
            return Err(Error::corrupt(
                file.path(),
                "QCOW",
                32,
                format!("clusters of 2^{cluster_bits} bytes, tables of 2^{l2_bits} entries"),
            ));
        }
        not_encrypted(file, be32(raw, 36))?;
        let parent = parent_name(file, "QCOW", be64(raw, 8), be32(raw, 16))?;
        let name = match &parent {
            Some(_) => (be64(raw, 8), be32(raw, 16).into()),
            None => (0, 0),
        };
        let size = be64(raw, 24);
        Ok(Self {
            dialect: Dialect::Qcow1,
            size,
            cluster_bits,
            l1_at: be64(raw, 40),
            l1_entries: size.div_ceil(1 << (cluster_bits + l2_bits)),
            l2_entries: 1 << l2_bits,
            end: 48,
            name,
            parent,
            counts: None,
            only_read: None,
        })
    }

    fn qcow2(file: &HostFile, raw: &[u8], version: u32) -> Result<Self> {
        let cluster_bits = be32(raw, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(Error::corrupt(
                file.path(),
                "QCOW",
                20,
                format!("clusters of 2^{cluster_bits} bytes"),
            ));
        }
        not_encrypted(file, be32(raw, 32))?;
        let version_3 = version == 3;
        let (features, autoclear, order, length) = match version_3 {
            true => (be64(raw, 72), be64(raw, 88), be32(raw, 96), be32(raw, 100)),
            false => (0, 0, 4, 72),
        };
        let unsupported = |what: &str| Err(Error::unsupported(file.path(), what));
        if features & qcow2::EXTERNAL_DATA != 0 {
            return unsupported("QCOW2 images with an external data file cannot be used");
        }
        if features & qcow2::EXTENDED_L2 != 0 {
            return unsupported("QCOW2 images with subclusters cannot be used");
        }
        if features & qcow2::COMPRESSION != 0 && raw[104] != 0 {
            return unsupported("QCOW2 images with zstd compression cannot be used");
        }
        if features & !31 != 0 {
            return unsupported("this QCOW2 image needs features that are not known");
        }
        if order > 6 || u64::from(length) > 1 << cluster_bits || version_3 && length < 104 {
            return Err(Error::corrupt(
                file.path(),
                "QCOW",
                96,
                format!("a header of {length} bytes and counts of 2^{order} bits"),
            ));
        }
        let parent = parent_name(file, "QCOW", be64(raw, 8), be32(raw, 16))?;
        let end = 1_u64 << cluster_bits;
        let only_read = if be32(raw, 60) != 0 {
            Some("it holds internal snapshots")
        } else if features & qcow2::CORRUPT != 0 {
            Some("it is marked as corrupt: repair it with 'qemu-img check -r all'")
        } else if features & qcow2::DIRTY != 0 {
            Some("it was not closed: repair it with 'qemu-img check -r all'")
        } else if autoclear != 0 || has_bitmaps(file, length.into(), end)? {
            Some("it holds dirty bitmaps")
        } else {
            None
        };
        Ok(Self {
            dialect: Dialect::Qcow2 {
                zero_flag: version_3,
            },
            size: be64(raw, 24),
            cluster_bits,
            l1_at: be64(raw, 40),
            l1_entries: be32(raw, 36).into(),
            l2_entries: end / 8,
            end,
            name: (0, 0),
            parent,
            counts: Some(Counts {
                table_at: be64(raw, 48),
                table_clusters: be32(raw, 56),
                order,
            }),
            only_read,
        })
    }

    fn qed(file: &HostFile, raw: &[u8]) -> Result<Self> {
        let (cluster, tables, own) = (le32(raw, 4), le32(raw, 8), le32(raw, 12));
        let power = |n: u32, from: u32, to: u32| n.is_power_of_two() && n >= from && n <= to;
        if !power(cluster, 1 << 12, 1 << 26) || !power(tables, 1, 16) || own == 0 {
            return Err(Error::corrupt(
                file.path(),
                "QED",
                4,
                format!("clusters of {cluster} bytes, tables of {tables}, a header of {own}"),
            ));
        }
        let features = le64(raw, 16);
        if features & !(qed::PARENT | qed::NEED_CHECK | qed::PARENT_IS_RAW) != 0 {
            return Err(Error::unsupported(
                file.path(),
                "this QED image needs features that are not known",
            ));
        }
        let end = u64::from(cluster) * u64::from(own);
        let parent = match features & qed::PARENT {
            0 => None,
            _ => parent_name(file, "QED", le32(raw, 56).into(), le32(raw, 60))?,
        };
        let entries = u64::from(cluster) * u64::from(tables) / 8;
        Ok(Self {
            dialect: Dialect::Qed,
            size: le64(raw, 48),
            cluster_bits: cluster.trailing_zeros(),
            l1_at: le64(raw, 40),
            l1_entries: entries,
            l2_entries: entries,
            end,
            name: (0, 0),
            parent,
            counts: None,
            only_read: (le64(raw, 32) != 0).then_some("it has features that are not known"),
        })
    }

    /// Stores the size and the place of the first table: one write, inside one sector.
    pub(super) fn write_tables(&self, file: &HostFile) -> Result<()> {
        match self.dialect {
            Dialect::Qed => file.write(48, &self.size.to_le_bytes()),
            Dialect::Qcow1 => {
                let mut raw = [0; 24];
                put(&mut raw, 0, &self.size.to_be_bytes());
                raw[8] = self.cluster_bits as u8;
                raw[9] = self.l2_entries.trailing_zeros() as u8;
                put(&mut raw, 16, &self.l1_at.to_be_bytes());
                file.write(24, &raw)
            }
            Dialect::Qcow2 { .. } => {
                let mut raw = [0; 24];
                put(&mut raw, 0, &self.size.to_be_bytes());
                put(&mut raw, 12, &(self.l1_entries as u32).to_be_bytes());
                put(&mut raw, 16, &self.l1_at.to_be_bytes());
                file.write(24, &raw)
            }
        }
    }

    /// The whole header, for a new image; `format` is QEMU's name of the parent's.
    pub(super) fn encode(&self, format: Option<&str>) -> Vec<u8> {
        let mut raw = vec![0; 72];
        let name = self.parent.as_deref().map(Path::as_os_str);
        let name = name.map_or(&[][..], |n| n.as_encoded_bytes());
        if self.dialect == Dialect::Qed {
            put(&mut raw, 0, QED_MAGIC);
            put(&mut raw, 4, &(self.cluster() as u32).to_le_bytes());
            let tables = self.l2_len() / self.cluster();
            put(&mut raw, 8, &(tables as u32).to_le_bytes());
            put(&mut raw, 12, &1_u32.to_le_bytes());
            let features = match (&self.parent, format) {
                (None, _) => 0,
                (_, Some("raw")) => qed::PARENT | qed::PARENT_IS_RAW,
                _ => qed::PARENT,
            };
            put(&mut raw, 16, &features.to_le_bytes());
            put(&mut raw, 40, &self.l1_at.to_le_bytes());
            put(&mut raw, 48, &self.size.to_le_bytes());
            if self.parent.is_some() {
                put(&mut raw, 56, &64_u32.to_le_bytes());
                put(&mut raw, 60, &(name.len() as u32).to_le_bytes());
                raw.truncate(64);
                raw.extend_from_slice(name);
            }
            return raw;
        }
        put(&mut raw, 0, QCOW_MAGIC);
        put(&mut raw, 4, &2_u32.to_be_bytes());
        put(&mut raw, 20, &self.cluster_bits.to_be_bytes());
        put(&mut raw, 24, &self.size.to_be_bytes());
        put(&mut raw, 36, &(self.l1_entries as u32).to_be_bytes());
        put(&mut raw, 40, &self.l1_at.to_be_bytes());
        if let Some(counts) = &self.counts {
            put(&mut raw, 48, &counts.table_at.to_be_bytes());
            put(&mut raw, 56, &counts.table_clusters.to_be_bytes());
        }
        if let Some(format) = format.filter(|_| self.parent.is_some()) {
            raw.extend_from_slice(&PARENT_FORMAT.to_be_bytes());
            raw.extend_from_slice(&(format.len() as u32).to_be_bytes());
            raw.extend_from_slice(format.as_bytes());
            raw.resize(raw.len().next_multiple_of(8), 0);
        }
        // The end of the extensions.
        raw.resize(raw.len() + 8, 0);
        if self.parent.is_some() {
            let at = raw.len() as u64;
            put(&mut raw, 8, &at.to_be_bytes());
            put(&mut raw, 16, &(name.len() as u32).to_be_bytes());
            raw.extend_from_slice(name);
        }
        raw
    }
}

fn not_encrypted(file: &HostFile, method: u32) -> Result<()> {
    match method {
        0 => Ok(()),
        _ => Err(Error::unsupported(
            file.path(),
            "encrypted QCOW images cannot be used",
        )),
    }
}

/// The parent's name.
fn parent_name(
    file: &HostFile,
    format: &'static str,
    at: u64,
    len: u32,
) -> Result<Option<PathBuf>> {
    use std::os::unix::ffi::OsStringExt;
    if at == 0 || len == 0 {
        return Ok(None);
    }
    let end = at.checked_add(len.into());
    let inside = end.filter(|end| file.len().is_ok_and(|len| *end <= len));
    if inside.is_none() || len > NAME_LEN {
        return Err(Error::corrupt(
            file.path(),
            format,
            8,
            format!("the parent's name of {len} bytes at {at:#x} is not inside the file"),
        ));
    }
    let mut name = vec![0; len as usize];
    file.read(at, &mut name)?;
    let name = std::ffi::OsString::from_vec(name);
    Ok(Some(name.into()))
}

/// Whether the extensions from `at` on, which end before `end`, list bitmaps.
fn has_bitmaps(file: &HostFile, mut at: u64, end: u64) -> Result<bool> {
    while at + 8 <= end {
        let mut raw = [0; 8];
        file.read_padded(at, &mut raw)?;
        match be32(&raw, 0) {
            0 => break,
            BITMAPS => return Ok(true),
            _ => at += 8 + u64::from(be32(&raw, 4)).next_multiple_of(8),
        }
    }
    Ok(false)
}
