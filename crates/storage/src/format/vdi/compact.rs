//! Compacting: blocks of zeros lose their slot, blocks from the end move into the gaps, and the
//! file is cut. Every step is on the disk before the next one relies on it.

use crate::Progress;
use crate::Result;
use crate::Variant;
use crate::zero::is_zero;

use super::header::FREE;
use super::header::ZERO;
use super::image::VdiImage;

/// Blocks that are moved between two flushes.
const BATCH: usize = 64;

impl VdiImage {
    pub(super) fn squeeze(&mut self, progress: &mut Progress<'_>) -> Result<()> {
        self.announce()?;
        self.settle_doubt()?;
        // A fixed image is meant to have all of its blocks.
        if self.header.variant != Variant::Fixed {
            self.drop_zero_blocks(progress)?;
        }
        self.fill_gaps(progress)?;
        let last = self.map.iter().filter(|slot| **slot < ZERO).max();
        self.next = last.map_or(0, |slot| slot + 1);
        self.put_count(self.next)?;
        self.trim()?;
        self.file.sync()?;
        progress.report(1, 1)
    }

    fn drop_zero_blocks(&mut self, progress: &mut Progress<'_>) -> Result<()> {
        let empty = match self.header.variant {
            Variant::Differencing => ZERO,
            _ => FREE,
        };
        let mut data = vec![0; self.header.block_size as usize];
        for block in 0..self.header.blocks {
            let slot = self.map[block as usize];
            if slot < ZERO {
                let data = &mut data[..self.header.block_len(block) as usize];
                self.read_slot(slot, data)?;
                if is_zero(data) {
                    self.put_entry(block, empty)?;
                }
            }
            progress.report(block.into(), 2 * u64::from(self.header.blocks))?;
        }
        // The slots may be written over only when no entry in the file names them.
        self.file.sync()
    }

    fn fill_gaps(&mut self, progress: &mut Progress<'_>) -> Result<()> {
        let mut owners: Vec<(u32, u32)> = self
            .map
            .iter()
            .enumerate()
            .filter(|(_, slot)| **slot < ZERO)
            .map(|(block, slot)| (*slot, block as u32))
            .collect();
        owners.sort_unstable();
        let count = owners.len() as u32;
        // Blocks at or after the future end, and the gaps before it: as many of one as of the other.
        let kept = owners.partition_point(|(slot, _)| *slot < count);
        let (kept, movers) = owners.split_at(kept);
        let mut taken = kept.iter().map(|(slot, _)| *slot).peekable();
        let gaps: Vec<u32> = (0..count)
            .filter(|slot| taken.next_if_eq(slot).is_none())
            .collect();
        let moves: Vec<_> = movers.iter().zip(gaps).collect();
        let mut data = vec![0; self.header.block_size as usize];
        for (done, batch) in moves.chunks(BATCH).enumerate() {
            for ((from, _), to) in batch {
                self.read_slot(*from, &mut data)?;
                self.file.write(self.header.slot_at((*to).into()), &data)?;
            }
            self.file.sync()?;
            for ((_, block), to) in batch {
                self.put_entry(*block, *to)?;
            }
            let total = moves.len() as u64;
            progress.report(total + (done * BATCH) as u64, 2 * total)?;
        }
        self.file.sync()
    }
}
