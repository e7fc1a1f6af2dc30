//! Growing. The map grows into the gap before the data where there is one; otherwise the first
//! slots are moved to the end of the file and the new map takes their place. Either way the old
//! header, map and data stay valid until one sector write switches to the new ones.

use crate::Error;
use crate::Progress;
use crate::Result;
use crate::Variant;

use super::header::FREE;
use super::header::Header;
use super::header::ZERO;
use super::image::VdiImage;
use super::image::write_map;

impl VdiImage {
    pub(super) fn grow(&mut self, size: u64, progress: &mut Progress<'_>) -> Result<()> {
        self.file.require_writable()?;
        if size < self.header.size {
            return Err(Error::unsupported(
                self.file.path(),
                format!(
                    "cannot resize from {} to {size} bytes: a disk can only grow",
                    self.header.size
                ),
            ));
        }
        if size == self.header.size {
            return progress.report(1, 1);
        }
        self.announce()?;
        self.settle_doubt()?;
        let mut new = self.header.with_size(size, self.file.path())?;
        let map_len = 4 * u64::from(new.blocks);
        let fits = new.off_map + map_len <= new.off_data;
        let mut dropped = 0;
        if !fits {
            dropped = map_len.div_ceil(new.block_size);
            new.off_map = self.header.off_data;
            new.off_data = self.header.slot_at(dropped);
            // Refuse before anything moves.
            new.encode(self.file.path())?;
            let vacated = self.vacate(dropped, progress);
            // A move that failed half way left data in an unused slot.
            self.forget_tail();
            vacated?;
        }
        self.switch_to(new, dropped as u32, fits)?;
        progress.report(1, 1)
    }

    /// Moves the blocks in the first `slots` slots to the end.
    fn vacate(&mut self, slots: u64, progress: &mut Progress<'_>) -> Result<()> {
        let movers: Vec<u32> = (0..self.header.blocks)
            .filter(|block| u64::from(self.map[*block as usize]) < slots)
            .collect();
        let first = slots.max(self.next.into());
        let mut copy = vec![0; self.header.block_size as usize];
        for (i, &block) in movers.iter().enumerate() {
            let to = first + i as u64;
            let Ok(entry @ 0..ZERO) = u32::try_from(to) else {
                return Err(Error::unsupported(self.file.path(), "the image is full"));
            };
            self.reserve(to)?;
            self.read_slot(self.map[block as usize], &mut copy)?;
            self.file.write(self.header.slot_at(to), &copy)?;
            self.file.sync()?;
            self.put_count(entry + 1)?;
            self.put_entry(block, entry)?;
            progress.report(i as u64 + 1, movers.len() as u64 + 1)?;
        }
        // From here on nothing in the file refers to the vacated slots.
        self.file.sync()
    }

    /// Reads a slot; the last one may be cut short by the end of the file.
    pub(super) fn read_slot(&self, slot: u32, buf: &mut [u8]) -> Result<()> {
        self.file.read_padded(self.header.slot_at(slot.into()), buf)
    }

    /// Writes the map of the `new` layout, whose slots count from `dropped`, and then the header.
    fn switch_to(&mut self, mut new: Header, dropped: u32, in_place: bool) -> Result<()> {
        let mut map: Vec<u32> = self
            .map
            .iter()
            .map(|&slot| if slot < ZERO { slot - dropped } else { slot })
            .collect();
        let mut next = self.next.saturating_sub(dropped);
        // A fixed image has room for everything; the new room is taken before it is promised.
        for _ in self.header.blocks..new.blocks {
            map.push(match new.variant {
                Variant::Fixed => {
                    next += 1;
                    next - 1
                }
                Variant::Dynamic | Variant::Differencing => FREE,
            });
        }
        self.forget_tail();
        if new.variant == Variant::Fixed && new.blocks > self.header.blocks {
            self.trim()?;
            let from = self.header.slot_at(self.next.into());
            let to = new.slot_at(next.into());
            self.file.allocate(from, to.saturating_sub(from))?;
        }
        if in_place {
            // Entries of blocks that the old header does not have.
            let old = self.header.blocks as usize;
            let at = new.entry_at(self.header.blocks);
            write_map(&self.file, at, map.get(old..).unwrap_or_default())?;
        } else {
            let map_end = new.off_map + 4 * u64::from(new.blocks);
            if self.file.len()? < map_end.max(new.off_data) {
                self.file.set_len(map_end.max(new.off_data))?;
            }
            write_map(&self.file, new.off_map, &map)?;
        }
        self.file.sync()?;
        new.allocated = next;
        let sector = new.encode(self.file.path())?;
        let switched = self.file.write(0, &sector).and_then(|()| self.file.sync());
        if switched.is_err() {
            self.broken = true;
            return switched;
        }
        self.header = new;
        self.map = map;
        self.next = next;
        Ok(())
    }
}
