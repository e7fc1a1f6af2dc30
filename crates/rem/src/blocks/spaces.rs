//! The wiring of address spaces that are not in use: see `tlb::spaces`.

use super::{Blocks, clear_entry};
use crate::ctx::Ctx;
use crate::site::Wire;

/// Address spaces that are remembered besides the current one.
const SPACES: usize = 8;
/// Links, and entries of the tables for indirect jumps, that are remembered of one: the latest.
const ENTRIES: usize = 1024;

/// Jumps that were wired in an address space, to local pages.
#[derive(Default)]
pub(super) struct Space {
    /// Its CR3.
    cr3: u64,
    /// [`Blocks::generation`] when it was left.
    generation: u64,
    /// Link, target block.
    links: Vec<(u32, u32)>,
    jumps: Vec<Jump>,
}

/// An entry of a table for indirect jumps.
#[derive(Clone, Copy)]
struct Jump {
    table: u8,
    /// Number of the mode whose table it was.
    owner: u32,
    target: u64,
    block: u32,
}

impl Blocks {
    /// Unwires jumps to pages of the current address space, whose CR3 is `cr3`, and keeps them.
    pub fn leave_space(&mut self, ctx: &mut Ctx, cr3: u64) {
        let mut space = if self.spaces.len() < SPACES {
            Space::default()
        } else {
            self.spaces.remove(0)
        };
        space.cr3 = cr3;
        space.generation = self.generation;
        space.links.clear();
        space.jumps.clear();
        let mut live = std::mem::take(&mut self.live_slots[0]);
        let old = live.len().saturating_sub(ENTRIES);
        for (k, link) in live.drain(..).enumerate() {
            let w = &mut self.outs[link];
            w.listed &= !1;
            if w.global {
                continue;
            }
            let target = w.target;
            // A copy that was thrown away is no target any more.
            if k >= old && target != u32::MAX && !self.outs[link].link.crosses {
                space.links.push((link, target));
            }
            self.unwire(ctx, link);
        }
        self.live_slots[0] = live;
        let mut live = std::mem::take(&mut self.live_jc[0]);
        let old = live.len().saturating_sub(ENTRIES);
        for (k, (table, index)) in live.drain(..).enumerate() {
            let n = usize::from(table) << 16 | usize::from(index);
            let state = &mut self.jc_state[n];
            *state &= !1;
            if *state & 4 != 0 {
                continue;
            }
            let jc = &mut ctx.jc[usize::from(table)];
            let target = jc[usize::from(index)].tag;
            if k >= old && target as u16 == index {
                space.jumps.push(Jump {
                    table,
                    owner: self.jc_owner[usize::from(table)],
                    target,
                    block: self.jc_block[n],
                });
            }
            clear_entry(jc, index);
        }
        self.live_jc[0] = live;
        self.spaces.push(space);
    }

    /// Wires again what was wired in the address space with this CR3.
    pub fn enter_space(&mut self, ctx: &mut Ctx, cr3: u64) {
        let Some(at) = self.spaces.iter().position(|s| s.cr3 == cr3) else {
            return;
        };
        let space = self.spaces.remove(at);
        if space.generation != self.generation {
            return;
        }
        for (link, target) in space.links {
            let out = self.outs[link];
            let both = [out.block, target];
            let valid = both.iter().all(|b| self.blocks[*b].valid);
            if valid && matches!(out.link.wire, Wire::Slot(_)) {
                self.wire(ctx, link, target, false);
            }
        }
        for j in space.jumps {
            let table = usize::from(j.table);
            if self.jc_owner[table] == j.owner && self.blocks[j.block].valid {
                self.add_indirect(ctx, table, j.target, j.block, false);
            }
        }
    }

    /// Forgets the wiring of the address spaces whose CR3 `which` names.
    pub fn forget_spaces(&mut self, which: impl Fn(u64) -> bool) {
        self.spaces.retain(|s| !which(s.cr3));
    }
}
