//! Translations, and copies of them.
//!
//! Copies for other addresses are cheap to make and soon of no use: the program that had its
//! libraries there ends. So they have a part of the code cache, of the link slots and of the
//! numbers for themselves, and are thrown away on their own when that is full.

use std::ops::{Index, IndexMut};

use super::{Blocks, INDEX_BITS, NO_KEY};
use crate::ctx::{Ctx, SLOTS};

/// Bits of a block's number within its part.
pub const BLOCK_BITS: u32 = 32 - INDEX_BITS - 1;
/// Bits of a link's number within its part.
pub const LINK_BITS: u32 = 31;

/// Where the link slots of translations and of copies start.
pub const FIRST_SLOT: [u32; 2] = [0, SLOTS as u32 / 4 * 3];
/// Where they end.
pub const LAST_SLOT: [u32; 2] = [FIRST_SLOT[1], SLOTS as u32];

/// Two lists; bit `BITS` of a number says which one it is of.
pub struct Parts<T, const BITS: u32>([Vec<T>; 2]);

impl<T, const BITS: u32> Default for Parts<T, BITS> {
    fn default() -> Self {
        Self([Vec::new(), Vec::new()])
    }
}

impl<T, const BITS: u32> Parts<T, BITS> {
    fn number(part: usize, at: usize) -> u32 {
        (part as u32) << BITS | at as u32
    }

    /// Which part `n` is of, 0 or 1.
    pub fn part(n: u32) -> usize {
        (n >> BITS & 1) as usize
    }

    /// The number that the next entry of a part gets.
    pub fn next(&self, part: usize) -> u32 {
        Self::number(part, self.0[part].len())
    }

    /// Whether a part has room for another entry.
    pub fn has_room(&self, part: usize) -> bool {
        self.0[part].len() + 1 < 1 << BITS
    }

    /// Adds an entry to a part.
    pub fn push(&mut self, part: usize, entry: T) {
        self.0[part].push(entry);
    }

    /// Empties both parts.
    pub fn clear(&mut self) {
        self.0.iter_mut().for_each(Vec::clear);
    }

    /// The number of the last entry for which `before` holds, which holds for those before it.
    pub fn last_before(&self, part: usize, before: impl FnMut(&T) -> bool) -> Option<u32> {
        let at = self.0[part].partition_point(before).checked_sub(1)?;
        Some(Self::number(part, at))
    }
}

impl<T, const BITS: u32> Index<u32> for Parts<T, BITS> {
    type Output = T;
    fn index(&self, n: u32) -> &T {
        &self.0[Self::part(n)][(n & ((1 << BITS) - 1)) as usize]
    }
}

impl<T, const BITS: u32> IndexMut<u32> for Parts<T, BITS> {
    fn index_mut(&mut self, n: u32) -> &mut T {
        &mut self.0[Self::part(n)][(n & ((1 << BITS) - 1)) as usize]
    }
}

/// Whether a link is one of a translation, not of a copy.
fn translated(link: &u32) -> bool {
    Parts::<(), LINK_BITS>::part(*link) == 0
}

/// Whether a block is a translation, not a copy.
fn original(block: &u32) -> bool {
    Parts::<(), BLOCK_BITS>::part(*block) == 0
}

impl Blocks {
    /// Throws all copies away. Numbers of copies and of their links are used again, so that none may
    /// be left anywhere.
    pub(super) fn clear_copies(&mut self, ctx: &mut Ctx) {
        self.generation += 1;
        self.copy_flushes += 1;
        for (at, copy) in std::mem::take(&mut self.blocks.0[1])
            .into_iter()
            .enumerate()
        {
            if copy.valid {
                for link in copy.incoming.into_iter().filter(translated) {
                    self.unwire(ctx, link);
                }
                if self.by_key.get(&copy.key) == Some(&(1 << BLOCK_BITS | at as u32)) {
                    self.by_key.remove(&copy.key);
                }
            }
        }
        self.recent.fill((NO_KEY, 0));
        self.by_page.retain(|_, list| {
            list.retain(original);
            !list.is_empty()
        });
        self.clear_jc(ctx, &[0, 1], |block| !original(&block));
        for block in &mut self.blocks.0[0] {
            block.incoming.retain(translated);
        }
        for out in &mut self.outs.0[0] {
            if out.target != u32::MAX && !original(&out.target) {
                out.target = u32::MAX;
            }
        }
        for list in &mut self.live_slots {
            list.retain(translated);
        }
        self.crossing.retain(translated);
        self.spaces.clear();
        (self.bounces).retain(|arg, _| original(&super::template::split(*arg).0));
        self.outs.0[1].clear();
        self.next_slot[1] = FIRST_SLOT[1];
        self.cache.clear_copies();
    }
}

#[cfg(test)]
#[allow(unsafe_code)] // a context is made as the engine makes it
mod tests {
    use super::*;
    use crate::ctx;
    use crate::mode::Mode;
    use crate::site::{Link, Wire};
    use crate::translate::{Translation, Variant};

    /// Code with one jump out, through a slot.
    fn translation() -> Translation {
        Translation {
            code: vec![0x90; 32],
            entries: [0; 3],
            sites: Vec::new(),
            execs: Vec::new(),
            links: vec![Link {
                target: 0x5000,
                poll: false,
                parked: false,
                crosses: false,
                variant: Variant::Plain,
                wire: Wire::Slot(4),
                stub: 16,
            }],
            args: Vec::new(),
            rips: Vec::new(),
            movable: true,
            map: Vec::new(),
            guest_len: 1,
            calls: false,
            marks: Vec::new(),
            peeks: Vec::new(),
            checked: None,
        }
    }

    #[test]
    fn address_spaces_do_not_remember_links_to_copies_that_are_gone() {
        let ctx = ctx::allocate(None).unwrap();
        // SAFETY: all-zero bytes are a valid `Ctx` but for `state`, written before a reference is
        // made; nothing else has the pointer.
        let ctx = unsafe {
            std::ptr::addr_of_mut!((*ctx).state).write(cpu::State::reset(0));
            &mut *ctx
        };
        let mut blocks = Blocks::new(1 << 20).unwrap();
        let mode = blocks.number(&Mode::of(&cpu::State::reset(0)));
        let t = translation();
        let from = blocks.add(ctx, (0x1000, 0x1000, mode), &t, None).unwrap();
        blocks.add(ctx, (0x2000, 0x2000, mode), &t, None).unwrap();
        let (template, _) = blocks.template((0x2000, 0x5000, mode)).unwrap();
        let to = blocks.copy(ctx, (0x2000, 0x5000, mode), template).unwrap();
        let link = blocks.blocks[from].first_link;
        blocks.wire(ctx, link, to, false);
        blocks.clear_copies(ctx);
        let unwired = ctx.slots[FIRST_SLOT[0] as usize];
        blocks.leave_space(ctx, 0x3000);
        blocks.enter_space(ctx, 0x3000);
        assert_eq!(ctx.slots[FIRST_SLOT[0] as usize], unwired);
        // It can be wired again, and is unwired with its address space.
        let to = blocks.copy(ctx, (0x2000, 0x5000, mode), template).unwrap();
        let host = blocks.wire(ctx, link, to, false);
        assert_eq!(ctx.slots[FIRST_SLOT[0] as usize], host);
        blocks.leave_space(ctx, 0x3000);
        assert_eq!(ctx.slots[FIRST_SLOT[0] as usize], unwired);
        blocks.enter_space(ctx, 0x3000);
        assert_eq!(ctx.slots[FIRST_SLOT[0] as usize], host);
    }
}
