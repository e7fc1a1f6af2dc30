//! The header: 64 bytes before the table.

use crate::Error;
use crate::Geometry;
use crate::Result;
use crate::SECTOR;
use crate::bytes::le32;
use crate::bytes::le64;
use crate::bytes::put;
use crate::host::HostFile;

pub(super) const HEADER_LEN: u64 = 64;

/// Signatures: table entries in sectors, and in clusters.
pub(super) const PLAIN: &[u8; 16] = b"WithoutFreeSpace";
pub(super) const EXTENDED: &[u8; 16] = b"WithouFreSpacExt";

/// Where the mark of an image in use is.
const IN_USE: u64 = 44;

/// Sectors of a cluster that are believed: 512 MiB.
const LARGEST_CLUSTER: u32 = 1 << 20;

#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) extended: bool,
    pub(super) geometry: Geometry,
    /// Bytes of a cluster, not always a power of two.
    pub(super) cluster: u64,
    pub(super) entries: u32,
    /// Logical bytes.
    pub(super) size: u64,
    /// What marks an image that a program with extensions has open, or had.
    pub(super) in_use: u32,
    /// File offset of the first cluster.
    pub(super) data_at: u64,
    /// Every entry of the table is to be taken for empty.
    pub(super) empty: bool,
    pub(super) has_extensions: bool,
}

impl Header {
    pub(super) fn new(size: u64, cluster: u64) -> Self {
        let entries = size.div_ceil(cluster) as u32;
        let table_end = HEADER_LEN + 4 * u64::from(entries);
        let cylinders = (size / SECTOR / (16 * 63)).clamp(1, 16383) as u32;
        Self {
            extended: false,
            geometry: Geometry {
                cylinders,
                heads: 16,
                sectors: 63,
            },
            cluster,
            entries,
            size,
            in_use: 0,
            data_at: table_end.next_multiple_of(cluster),
            empty: false,
            has_extensions: false,
        }
    }

    pub(super) fn read(file: &HostFile) -> Result<Self> {
        let bad = |at, what: String| Error::corrupt(file.path(), "Parallels", at, what);
        let mut raw = [0; HEADER_LEN as usize];
        file.read_padded(0, &mut raw)?;
        let extended = raw.starts_with(EXTENDED);
        if !extended && !raw.starts_with(PLAIN) {
            return Err(bad(0, "no signature".into()));
        }
        if le32(&raw, 16) != 2 {
            return Err(Error::unsupported(
                file.path(),
                format!(
                    "Parallels images of version {} are not known",
                    le32(&raw, 16)
                ),
            ));
        }
        let (tracks, entries) = (le32(&raw, 28), le32(&raw, 32));
        if tracks == 0 || tracks > LARGEST_CLUSTER {
            return Err(bad(28, format!("clusters of {tracks} sectors")));
        }
        let sectors = match extended {
            true => le64(&raw, 36),
            false => le32(&raw, 36).into(),
        };
        let cluster = u64::from(tracks) * SECTOR;
        let fits = sectors.div_ceil(tracks.into()) <= entries.into();
        if sectors == 0 || !fits {
            return Err(bad(
                36,
                format!("{sectors} sectors do not fit into {entries} clusters of {tracks}"),
            ));
        }
        let table_end = HEADER_LEN + 4 * u64::from(entries);
        let len = file.len()?;
        if table_end > len {
            return Err(bad(
                32,
                format!("the table ends at {table_end:#x}, but the file at {len:#x}"),
            ));
        }
        let data_at = match le32(&raw, 48) {
            0 => table_end.next_multiple_of(SECTOR),
            sector => u64::from(sector) * SECTOR,
        };
        if data_at < table_end || extended && !data_at.is_multiple_of(cluster) {
            return Err(bad(48, format!("the data begin at {data_at:#x}")));
        }
        Ok(Self {
            extended,
            geometry: Geometry {
                cylinders: le32(&raw, 24),
                heads: le32(&raw, 20),
                // The format has no other number of sectors per track.
                sectors: 63,
            },
            cluster,
            entries,
            size: sectors * SECTOR,
            in_use: le32(&raw, 44),
            data_at,
            empty: le32(&raw, 52) & 1 != 0,
            has_extensions: le64(&raw, 56) != 0,
        })
    }

    pub(super) fn encode(&self) -> [u8; HEADER_LEN as usize] {
        let mut raw = [0; HEADER_LEN as usize];
        put(&mut raw, 0, if self.extended { EXTENDED } else { PLAIN });
        let tracks = (self.cluster / SECTOR) as u32;
        let data = (self.data_at / SECTOR) as u32;
        for (at, value) in [
            (16, 2),
            (20, self.geometry.heads),
            (24, self.geometry.cylinders),
            (28, tracks),
            (32, self.entries),
            (44, self.in_use),
            (48, data),
        ] {
            put(&mut raw, at, &value.to_le_bytes());
        }
        put(&mut raw, 36, &(self.size / SECTOR).to_le_bytes());
        raw
    }

    /// Says that a program without extensions wrote to the image.
    pub(super) fn clear_in_use(&mut self, file: &HostFile) -> Result<()> {
        if self.in_use != 0 {
            file.write(IN_USE, &[0; 4])?;
            self.in_use = 0;
        }
        Ok(())
    }

    /// Bytes that one unit of a table's entry stands for.
    pub(super) fn unit(&self) -> u64 {
        match self.extended {
            true => self.cluster,
            false => SECTOR,
        }
    }
}
