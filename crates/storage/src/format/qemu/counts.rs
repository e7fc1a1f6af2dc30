//! QCOW2's reference counts: how often each cluster of the file is used. Nothing is looked for in
//! them, but QEMU would write over what they call free.
//!
//! They may say too much after a crash, never too little: clusters are counted before they are
//! used, and no longer counted after they were used last.

use std::collections::BTreeMap;

use crate::Error;
use crate::Result;
use crate::bytes::be64;
use crate::host::HostFile;

use super::header::Counts;
use super::header::Header;

pub(super) struct RefCounts {
    pub(super) place: Counts,
    cluster_bits: u32,
    /// File offset of each block of counts; 0 where there is none.
    pub(super) blocks: Vec<u64>,
}

/// What a range of clusters to be counted needs besides itself.
struct Plan {
    /// Numbers of the blocks to be made.
    missing: Vec<u64>,
    /// Clusters of a larger table; 0 when the old one will do.
    table: u64,
    /// The first cluster after the range.
    end: u64,
}

impl RefCounts {
    pub(super) fn open(file: &HostFile, header: &Header, place: Counts) -> Result<Self> {
        let bad = |what: String| Error::corrupt(file.path(), "QCOW", 48, what);
        let bytes = u64::from(place.table_clusters) << header.cluster_bits;
        let len = file.len()?;
        let inside = place.table_at.checked_add(bytes).is_some_and(|e| e <= len);
        if !inside || bytes == 0 || !place.table_at.is_multiple_of(header.cluster()) {
            return Err(bad(format!(
                "the reference counts' table of {bytes} bytes at {:#x} is not inside the file",
                place.table_at
            )));
        }
        let mut raw = vec![0; bytes as usize];
        file.read(place.table_at, &mut raw)?;
        let blocks: Vec<u64> = raw.chunks_exact(8).map(|b| be64(b, 0)).collect();
        for &at in &blocks {
            if at != 0 && (!at.is_multiple_of(header.cluster()) || at >= len) {
                return Err(bad(format!(
                    "the reference counts at {at:#x} are not inside the file"
                )));
            }
        }
        Ok(Self {
            place,
            cluster_bits: header.cluster_bits,
            blocks,
        })
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Counts per block.
    fn per_block(&self) -> u64 {
        (8 << self.cluster_bits) >> self.place.order
    }

    fn block_at(&self, block: u64) -> u64 {
        self.blocks.get(block as usize).copied().unwrap_or(0)
    }

    fn get(&self, raw: &[u8], index: u64) -> u64 {
        let bits = 1_u64 << self.place.order;
        if bits < 8 {
            let byte = raw.get((index * bits / 8) as usize).copied().unwrap_or(0);
            return u64::from(byte >> (index * bits % 8)) & ((1 << bits) - 1);
        }
        let bytes = (bits / 8) as usize;
        let field = raw.get(index as usize * bytes..).unwrap_or_default();
        let field = field.iter().take(bytes);
        field.fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn set(&self, raw: &mut [u8], index: u64, value: u64) {
        let bits = 1_u64 << self.place.order;
        if bits < 8 {
            if let Some(byte) = raw.get_mut((index * bits / 8) as usize) {
                let shift = index * bits % 8;
                let mask = ((1_u16 << bits) - 1) as u8;
                *byte = *byte & !(mask << shift) | (value as u8 & mask) << shift;
            }
            return;
        }
        let bytes = (bits / 8) as usize;
        let field = raw.get_mut(index as usize * bytes..).unwrap_or_default();
        let big = value.to_be_bytes();
        for (to, from) in field.iter_mut().zip(&big[8 - bytes..]) {
            *to = *from;
        }
    }

    /// Changes the counts of the clusters `from..to` in the blocks that there are.
    fn change(&self, file: &HostFile, from: u64, to: u64, new: impl Fn(u64) -> u64) -> Result<()> {
        let mut at = from;
        while at < to {
            let block = at / self.per_block();
            let end = ((block + 1) * self.per_block()).min(to);
            let place = self.block_at(block);
            if place != 0 {
                let mut raw = vec![0; self.cluster() as usize];
                file.read_padded(place, &mut raw)?;
                let old = raw.clone();
                for cluster in at..end {
                    let index = cluster % self.per_block();
                    self.set(&mut raw, index, new(self.get(&old, index)));
                }
                // The sectors that changed, and no others.
                for (i, (now, before)) in raw.chunks(512).zip(old.chunks(512)).enumerate() {
                    if now != before {
                        file.write(place + 512 * i as u64, now)?;
                    }
                }
            }
            at = end;
        }
        Ok(())
    }

    /// The clusters that hold these bytes are used once less.
    pub(super) fn release(&self, file: &HostFile, at: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let from = at >> self.cluster_bits;
        let to = ((at + len - 1) >> self.cluster_bits) + 1;
        self.change(file, from, to, |count| count.saturating_sub(1))
    }

    /// Nobody uses the clusters of this range.
    pub(super) fn clear(&self, file: &HostFile, at: u64, end: u64) -> Result<()> {
        let (from, to) = (at >> self.cluster_bits, end >> self.cluster_bits);
        self.change(file, from, to, |_| 0)
    }

    fn plan(&self, from: u64, wanted: u64) -> Plan {
        let mut extra = 0;
        loop {
            let end = from + extra + wanted;
            let last = (end - 1) / self.per_block();
            let missing: Vec<u64> = (from / self.per_block()..=last)
                .filter(|block| self.block_at(*block) == 0)
                .collect();
            let table = match last < self.blocks.len() as u64 {
                true => 0,
                // Room for half as much again.
                false => (8 * (last + last / 2 + 1)).div_ceil(self.cluster()),
            };
            if missing.len() as u64 + table == extra {
                return Plan {
                    missing,
                    table,
                    end,
                };
            }
            extra = missing.len() as u64 + table;
        }
    }

    /// Counts `wanted` clusters from the cluster `from` on as used once, all of which are free and
    /// at the end of the file, and waits until that is on the disk. New blocks of counts take the
    /// first of them and more are counted instead: gives the offset of the first that is left and
    /// that of the end.
    ///
    /// `broken` is set when the file may name blocks that this does not know.
    pub(super) fn reserve(
        &mut self,
        file: &HostFile,
        from: u64,
        wanted: u64,
        broken: &mut bool,
    ) -> Result<(u64, u64)> {
        let plan = self.plan(from, wanted);
        file.set_len(plan.end << self.cluster_bits)?;
        let per_block = self.per_block();
        let new: BTreeMap<u64, u64> = plan
            .missing
            .iter()
            .zip(from..)
            .map(|(block, cluster)| (*block, cluster << self.cluster_bits))
            .collect();
        for (&block, &place) in &new {
            let mut raw = vec![0; self.cluster() as usize];
            let first = (block * per_block).max(from);
            let end = ((block + 1) * per_block).min(plan.end);
            for cluster in first..end {
                self.set(&mut raw, cluster % per_block, 1);
            }
            file.write(place, &raw)?;
        }
        self.change(file, from, plan.end, |_| 1)?;
        let mut blocks = self.blocks.clone();
        let left = (from + plan.missing.len() as u64 + plan.table) << self.cluster_bits;
        if plan.table != 0 {
            blocks.resize((plan.table << self.cluster_bits) as usize / 8, 0);
        }
        for (&block, &place) in &new {
            if let Some(entry) = blocks.get_mut(block as usize) {
                *entry = place;
            }
        }
        let table_at = left - (plan.table << self.cluster_bits);
        if plan.table != 0 {
            let raw: Vec<u8> = blocks.iter().flat_map(|b| b.to_be_bytes()).collect();
            file.write(table_at, &raw)?;
        }
        file.sync()?;
        if new.is_empty() {
            return Ok((left, plan.end << self.cluster_bits));
        }
        let switched = match plan.table {
            0 => new.iter().try_for_each(|(block, place)| {
                file.write(self.place.table_at + 8 * block, &place.to_be_bytes())
            }),
            clusters => {
                let mut raw = table_at.to_be_bytes().to_vec();
                raw.extend_from_slice(&(clusters as u32).to_be_bytes());
                file.write(48, &raw)
            }
        };
        let switched = switched.and_then(|()| file.sync());
        *broken |= switched.is_err();
        switched?;
        self.blocks = blocks;
        if plan.table != 0 {
            let old = self.place;
            self.place.table_at = table_at;
            self.place.table_clusters = plan.table as u32;
            let end = old.table_at + (u64::from(old.table_clusters) << self.cluster_bits);
            self.clear(file, old.table_at, end)?;
        }
        Ok((left, plan.end << self.cluster_bits))
    }

    /// What table and blocks take of the file: offset and length of each part.
    pub(super) fn parts(&self) -> Vec<(u64, u64)> {
        let table = u64::from(self.place.table_clusters) << self.cluster_bits;
        let blocks = self.blocks.iter().filter(|at| **at != 0);
        let blocks = blocks.map(|at| (*at, self.cluster()));
        std::iter::once((self.place.table_at, table))
            .chain(blocks)
            .collect()
    }

    /// How many clusters are counted too rarely, and too often, given how often each is used.
    pub(super) fn compare(&self, file: &HostFile, used: &BTreeMap<u64, u64>) -> Result<(u64, u64)> {
        let (mut low, mut high) = (0, 0);
        for cluster in used.keys() {
            low += u64::from(self.block_at(cluster / self.per_block()) == 0);
        }
        for (block, &place) in self.blocks.iter().enumerate() {
            if place == 0 {
                continue;
            }
            let mut raw = vec![0; self.cluster() as usize];
            file.read_padded(place, &mut raw)?;
            for index in 0..self.per_block() {
                let cluster = block as u64 * self.per_block() + index;
                let uses = used.get(&cluster).copied().unwrap_or(0);
                let count = self.get(&raw, index);
                low += u64::from(count < uses);
                high += u64::from(count > uses);
            }
        }
        Ok((low, high))
    }
}
