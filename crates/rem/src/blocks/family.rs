//! A copy brings its family: what its original leads to is copied and wired with it.
//!
//! A program that starts goes the ways that the program before it went. Each block that translated
//! code has to ask for costs more than a copy of it, so a copy that is asked for is followed as far
//! as the originals have been wired.

use super::template::Fixes;
use super::{Blocks, Key, variant};
use crate::ctx::Ctx;
use crate::site::Wire;
use crate::translate::{self, Variant};

/// Blocks copied at once, at most.
const FAMILY: usize = 128;

/// What is known of the address space that copies are made for.
pub struct Around<F> {
    /// The table for indirect jumps in use.
    pub table: usize,
    /// The RAM offset of the page of code at a linear address, and whether it is global, if that
    /// costs nothing.
    pub page_of: F,
}

impl Blocks {
    /// Copies what block `id`, a copy just made, leads to, as far as its originals are wired, and
    /// wires it. `global`: see [`Blocks::wire`]. Never throws anything away.
    pub fn follow(
        &mut self,
        ctx: &mut Ctx,
        id: u32,
        global: bool,
        around: &Around<impl Fn(u64) -> Option<(u64, bool)>>,
    ) {
        let mut new = vec![(id, global)];
        let mut at = 0;
        while let Some((from, global)) = new.get(at).copied() {
            at += 1;
            let b = &self.blocks[from];
            let (first, page, rip, mode) = (b.first_link, b.key.0 & !0xfff, b.key.1, b.key.2);
            let mode = mode & super::MODE;
            let t = self.templates.get(b.template);
            let behind = t.calls.then(|| rip.wrapping_add(t.guest_len.into()));
            let links = self.templates.fixes(b.template).links.len() as u32;
            for n in first..first + links {
                if !self.goes_where_original_went(from, n - first) {
                    continue;
                }
                let link = self.outs[n].link;
                let (page, global) = match link.target >> 12 == rip >> 12 {
                    true => (page, global),
                    false => match (around.page_of)(link.target) {
                        Some(found) => found,
                        None => continue,
                    },
                };
                let key = key_of(page, link.target, mode, link.variant);
                if let Some(target) = self.kin(ctx, key, &mut new, global) {
                    self.wire(ctx, n, target, global);
                }
            }
            // Where the call returns to is where an indirect jump will lead.
            if let Some(behind) = behind
                && behind >> 12 == rip >> 12
            {
                let key = key_of(page, behind, mode, Variant::Plain);
                if let Some(target) = self.kin(ctx, key, &mut new, global) {
                    self.add_indirect(ctx, around.table, behind, target, global);
                }
            }
        }
    }

    /// Whether the jump out numbered `index` of the original of block `copy` has been wired.
    fn goes_where_original_went(&self, copy: u32, index: u32) -> bool {
        let b = &self.blocks[copy];
        let t = self.templates.get(b.template);
        let Fixes { links, .. } = self.templates.fixes(b.template);
        let l = &links[index as usize];
        if l.crosses {
            return false;
        }
        match l.wire {
            Wire::Patch(at) => {
                let code = self.cache.copy(t.start + at, t.start + at + 4);
                super::template::get(&code, 0) != l.stub.wrapping_sub(at + 4)
            }
            Wire::Slot(_) => self.outs[t.first_link + index].target != u32::MAX,
            Wire::None => false,
        }
    }

    /// The block for `key`, copied if need be, if that is all it takes.
    fn kin(
        &mut self,
        ctx: &mut Ctx,
        key: Key,
        new: &mut Vec<(u32, bool)>,
        global: bool,
    ) -> Option<u32> {
        if let Some((id, second)) = self.find(key) {
            return second.is_none().then_some(id);
        }
        let (template, None) = self.template(key)? else {
            return None;
        };
        let mode = &self.modes[(key.2 & super::MODE) as usize];
        if new.len() >= FAMILY || !translate::movable(mode, key.1) || !self.has_room_for_copies() {
            return None;
        }
        let id = self.copy(ctx, key, template).ok()?;
        new.push((id, global));
        Some(id)
    }
}

fn key_of(page: u64, rip: u64, mode: u32, kind: Variant) -> Key {
    (page | rip & 0xfff, rip, variant(mode, kind))
}
