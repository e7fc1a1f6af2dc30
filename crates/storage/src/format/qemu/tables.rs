//! The two levels of tables, all of them in memory: where each cluster of the disk is.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::Error;
use crate::Result;
use crate::bytes::be64;
use crate::bytes::le64;
use crate::host::HostFile;

use super::header::Dialect;
use super::header::Header;

/// QCOW2: the cluster is counted exactly once.
const COPIED: u64 = 1 << 63;

/// QCOW2: where an entry keeps an offset.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;

/// Entries that are written together: a sector's.
const PER_SECTOR: u64 = 64;

/// What an entry of the second level says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Absent,
    /// Zeros; a cluster may be set aside for them.
    Zero(Option<u64>),
    /// File offset of the cluster.
    Data(u64),
    /// Compressed bytes: file offset and the most there can be.
    Packed(u64, u64),
}

impl Dialect {
    pub(super) fn has_zeros(self) -> bool {
        matches!(self, Self::Qed | Self::Qcow2 { zero_flag: true })
    }

    fn number(self, raw: &[u8]) -> u64 {
        match self {
            Self::Qed => le64(raw, 0),
            _ => be64(raw, 0),
        }
    }

    fn bytes(self, entry: u64) -> [u8; 8] {
        match self {
            Self::Qed => entry.to_le_bytes(),
            _ => entry.to_be_bytes(),
        }
    }

    /// The offset in an entry of the first level.
    fn table_at(self, entry: u64) -> u64 {
        match self {
            Self::Qcow2 { .. } => entry & OFFSET,
            _ => entry,
        }
    }

    fn decode(self, entry: u64, cluster_bits: u32) -> Place {
        let at = match self {
            Self::Qed if entry == 1 => return Place::Zero(None),
            Self::Qed => entry,
            Self::Qcow1 if entry & (1 << 63) != 0 => {
                let shift = 63 - cluster_bits;
                let len = entry >> shift & ((1 << cluster_bits) - 1);
                return Place::Packed(entry & ((1 << shift) - 1), len);
            }
            Self::Qcow1 => entry,
            Self::Qcow2 { .. } if entry & (1 << 62) != 0 => {
                let shift = 62 - (cluster_bits - 8);
                let at = entry & ((1 << shift) - 1);
                let sectors = (entry & !(3 << 62)) >> shift;
                return Place::Packed(at, (sectors + 1) * 512 - at % 512);
            }
            Self::Qcow2 { zero_flag: true } if entry & 1 != 0 => {
                let at = entry & OFFSET;
                return Place::Zero((at != 0).then_some(at));
            }
            Self::Qcow2 { .. } => entry & OFFSET,
        };
        match at {
            0 => Place::Absent,
            at => Place::Data(at),
        }
    }

    /// Only what this program writes: data, and zeros without a cluster where there are such.
    fn encode(self, place: Place) -> u64 {
        match (place, self) {
            (Place::Data(at), Self::Qcow2 { .. }) => at | COPIED,
            (Place::Data(at), _) => at,
            (Place::Zero(None), _) if self.has_zeros() => 1,
            _ => 0,
        }
    }
}

pub(super) struct Tables {
    dialect: Dialect,
    cluster_bits: u32,
    /// Entries of one table of the second level.
    per_table: u64,
    /// File offset of each table of the second level; 0 where there is none.
    l1: Vec<u64>,
    l2: BTreeMap<u64, Vec<u64>>,
    /// Entries of the first level that the file does not have yet.
    dirty_l1: BTreeSet<u64>,
    /// Table and sector in it that the file does not have yet.
    dirty_l2: BTreeSet<(u64, u64)>,
}

impl Tables {
    /// Reads all tables and refuses what lies outside the file or is used twice.
    pub(super) fn open(file: &HostFile, header: &Header) -> Result<Self> {
        let dialect = header.dialect;
        let bad = |at, what: String| Error::corrupt(file.path(), dialect.name(), at, what);
        let len = file.len()?;
        let mut raw = vec![0; 8 * header.l1_entries as usize];
        file.read(header.l1_at, &mut raw)?;
        let l1 = raw.chunks_exact(8);
        let l1: Vec<u64> = l1.map(|b| dialect.table_at(dialect.number(b))).collect();
        let step = match dialect {
            Dialect::Qcow1 => 1,
            _ => header.cluster(),
        };
        // Checked before any of them is read, so that all together are no longer than the file.
        let mut order: Vec<u64> = l1.iter().copied().filter(|at| *at != 0).collect();
        order.sort_unstable();
        for (i, &at) in order.iter().enumerate() {
            let end = at.checked_add(header.l2_len());
            if !at.is_multiple_of(step) || end.is_none_or(|end| end > len) {
                return Err(bad(
                    header.l1_at,
                    format!("a table at {at:#x} is not inside the file of {len:#x} bytes"),
                ));
            }
            if i > 0 && at - order[i - 1] < header.l2_len() {
                return Err(bad(header.l1_at, format!("two tables overlap at {at:#x}")));
            }
        }
        let mut l2 = BTreeMap::new();
        for (&at, index) in l1.iter().zip(0..) {
            if at == 0 {
                continue;
            }
            let mut raw = vec![0; header.l2_len() as usize];
            file.read(at, &mut raw)?;
            let table: Vec<u64> = raw.chunks_exact(8).map(|b| dialect.number(b)).collect();
            l2.insert(index, table);
        }
        let this = Self {
            dialect,
            cluster_bits: header.cluster_bits,
            per_table: header.l2_entries,
            l1,
            l2,
            dirty_l1: BTreeSet::new(),
            dirty_l2: BTreeSet::new(),
        };
        for place in this.places() {
            let (at, least, step) = match place {
                Place::Data(at) | Place::Zero(Some(at)) => (at, 1, step),
                Place::Packed(at, bytes) => (at, bytes.min(1), 1),
                _ => continue,
            };
            let end = at.checked_add(least);
            if at < 48 || !at.is_multiple_of(step) || end.is_none_or(|end| end > len) {
                return Err(bad(
                    at,
                    format!("a cluster at {at:#x} is not inside the file of {len:#x} bytes"),
                ));
            }
        }
        Ok(this)
    }

    pub(super) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        let entries = self.l2.values().flatten();
        entries.map(|entry| self.dialect.decode(*entry, self.cluster_bits))
    }

    /// Every whole cluster and table in the file: offset and length, unsorted.
    pub(super) fn owned(&self) -> Vec<(u64, u64)> {
        let cluster = 1 << self.cluster_bits;
        let tables = self.l1.iter().filter(|at| **at != 0);
        let mut all: Vec<_> = tables.map(|at| (*at, 8 * self.per_table)).collect();
        all.extend(self.places().filter_map(|place| match place {
            Place::Data(at) | Place::Zero(Some(at)) => Some((at, cluster)),
            _ => None,
        }));
        all
    }

    pub(super) fn place(&self, cluster: u64) -> Place {
        let table = self.l2.get(&(cluster / self.per_table));
        let entry = table.and_then(|t| t.get((cluster % self.per_table) as usize));
        let entry = entry.copied().unwrap_or(0);
        self.dialect.decode(entry, self.cluster_bits)
    }

    /// Whether the table that covers a cluster is there.
    pub(super) fn has_table(&self, cluster: u64) -> bool {
        self.l2.contains_key(&(cluster / self.per_table))
    }

    /// Puts an empty table, which the file holds as zeros at `at`, where one is missing.
    pub(super) fn add_table(&mut self, cluster: u64, at: u64) {
        let index = cluster / self.per_table;
        if let Some(entry) = self.l1.get_mut(index as usize) {
            *entry = at;
            self.l2.insert(index, vec![0; self.per_table as usize]);
            self.dirty_l1.insert(index);
        }
    }

    pub(super) fn set(&mut self, cluster: u64, place: Place) {
        let (index, within) = (cluster / self.per_table, cluster % self.per_table);
        let table = self.l2.get_mut(&index);
        if let Some(entry) = table.and_then(|t| t.get_mut(within as usize)) {
            *entry = self.dialect.encode(place);
            self.dirty_l2.insert((index, within / PER_SECTOR));
        }
    }

    /// How many sectors wait in memory.
    pub(super) fn waiting(&self) -> usize {
        self.dirty_l1.len() + self.dirty_l2.len()
    }

    fn l1_entry(&self, at: u64) -> [u8; 8] {
        let copied = match self.dialect {
            Dialect::Qcow2 { .. } if at != 0 => COPIED,
            _ => 0,
        };
        self.dialect.bytes(at | copied)
    }

    /// Writes what waits. What the entries lead to must be on the disk before.
    pub(super) fn write(&mut self, file: &HostFile, header: &Header) -> Result<()> {
        while let Some(&(index, sector)) = self.dirty_l2.first() {
            let first = sector * PER_SECTOR;
            let at = self.l1.get(index as usize).copied().unwrap_or(0);
            if let Some(table) = self.l2.get(&index).filter(|_| at != 0) {
                let entries = table.iter().skip(first as usize).take(PER_SECTOR as usize);
                let raw: Vec<u8> = entries.flat_map(|e| self.dialect.bytes(*e)).collect();
                file.write(at + 8 * first, &raw)?;
            }
            self.dirty_l2.remove(&(index, sector));
        }
        while let Some(&index) = self.dirty_l1.first() {
            let at = self.l1.get(index as usize).copied().unwrap_or(0);
            file.write(header.l1_at + 8 * index, &self.l1_entry(at))?;
            self.dirty_l1.remove(&index);
        }
        Ok(())
    }

    /// The first level with room for `entries` tables, as bytes for the file.
    pub(super) fn larger_l1(&self, entries: u64) -> Vec<u8> {
        let mut raw: Vec<u8> = self.l1.iter().flat_map(|at| self.l1_entry(*at)).collect();
        raw.resize(8 * entries as usize, 0);
        raw
    }

    pub(super) fn grow(&mut self, entries: u64) {
        self.l1.resize(entries as usize, 0);
    }
}
