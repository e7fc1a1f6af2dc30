//! The store of translations: lookup, wiring of jumps, invalidation.

mod family;
mod parts;
mod spaces;
mod template;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::Error;
use crate::allocator;
use crate::cache::Cache;
use crate::ctx::{self, Ctx, JC_TABLES, JcEntry, JcTable};
use crate::emit::Code;
use crate::mode::Mode;
use crate::site::{Exec, Link, Mark, Site, Wire};
use crate::translate::{Checked, PARKED, Translation, Variant};
pub use family::Around;
use parts::{BLOCK_BITS, FIRST_SLOT, LAST_SLOT, LINK_BITS, Parts};
pub use template::relocate;
use template::{INDEX_BITS, Template, Templates};

/// What names a translation: RAM offset of its first byte, offset in CS, mode number with
/// [`variant`].
pub type Key = (u64, u64, u32);

/// The part of a [`Key`] that tells a mode's translations of the same code apart.
pub const fn variant(mode: u32, variant: Variant) -> u32 {
    mode | (variant as u32) << 30
}

/// Entries of [`Blocks::recent`], a power of two.
const RECENT: usize = 1 << 13;
/// Modes that are found without hashing.
const RECENT_MODES: usize = 4;
/// No block has it: no RAM offset is as large.
const NO_KEY: Key = (u64::MAX, 0, 0);

fn recent_index(key: Key) -> usize {
    let modes = key.2 as usize ^ (key.2 >> 28) as usize;
    ((key.0 ^ key.0 >> 13) as usize).wrapping_add(modes << 6) % RECENT
}

/// The bits of [`variant`]'s result that are the mode's number.
const MODE: u32 = (1 << 30) - 1;

/// A fast hash for short integer keys.
#[derive(Default, Clone)]
pub struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64((*b).into());
        }
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// One translation, for one address.
struct Block {
    key: Key,
    /// RAM offset of the second page that its guest bytes lie on, if they do.
    second: u64,
    /// What it has in common with others of the same code.
    template: u32,
    /// Where its code is.
    start: u32,
    /// Number of its first jump out.
    first_link: u32,
    valid: bool,
    incoming: Vec<u32>,
}

/// No second page.
const NO_PAGE: u64 = u64::MAX;

/// Bits of [`Blocks::entered`].
const ENTERED: usize = 1 << 16;

/// A jump out of a block.
#[derive(Clone, Copy)]
struct Out {
    /// With places in the cache, and a slot's number.
    link: Link,
    block: u32,
    /// With a slot: the block whose incoming links have it.
    target: u32,
    /// In which list of [`Blocks::live_slots`] it is: bits 0 and 1.
    listed: u8,
    /// The target it has now is on a global page.
    global: bool,
}

/// All translations of one vCPU.
pub struct Blocks {
    /// Where the code is.
    pub cache: Cache,
    blocks: Parts<Block, BLOCK_BITS>,
    by_key: Map<Key, u32>,
    templates: Templates,
    /// The latest template of code that could be used elsewhere, by RAM offset and mode: as long as
    /// all its blocks are valid.
    by_code: Map<(u64, u32), u32>,
    /// Some of `by_key`, of blocks on one page: one look at one cache line of the host.
    recent: Box<[(Key, u32)]>,
    by_page: Map<u64, Vec<u32>>,
    /// Checked translations: what they were made from, and those of each page. Writes to the page
    /// are of no interest to them.
    checked: Map<u32, Checked>,
    checked_by_page: Map<u64, Vec<u32>>,
    outs: Parts<Out, LINK_BITS>,
    /// Copies of stores' code that end in a `Store` call: by argument, place in the cache and how
    /// long the code before the call is.
    bounces: Map<u32, (u32, u32)>,
    modes: Vec<Mode>,
    mode_ids: Map<u64, Vec<u32>>,
    /// Some of them, looked at first.
    recent_modes: Vec<(Mode, u32)>,
    next_recent: usize,
    /// Of those for translations and of those for copies.
    next_slot: [u32; 2],
    /// Links with wired slots: those to local pages, those to global ones.
    live_slots: [Vec<u32>; 2],
    /// Set entries of the tables for indirect jumps: table and index, for targets on local pages
    /// and on global ones.
    live_jc: [Vec<(u8, u16)>; 2],
    /// What is known of each entry of the tables for indirect jumps: bits 0 and 1 say in which list
    /// of [`Blocks::live_jc`] it is, bit 2 that its target is global.
    jc_state: Vec<u8>,
    /// Block of each.
    jc_block: Vec<u32>,
    /// Address spaces that may come again.
    spaces: Vec<spaces::Space>,
    /// Pages that wired links and indirect jumps lead to, by the low bits of the page number:
    /// others may be mapped anew without a look at the wiring.
    entered: Box<[u64; ENTERED / 64]>,
    jc_owner: [u32; JC_TABLES],
    /// Wired links into other modes: such a jump relies on the tables being those of the mode.
    crossing: Vec<u32>,
    /// Times numbers of blocks and links got another meaning.
    pub generation: u64,
    /// Times everything was thrown away for lack of room.
    pub full_flushes: u64,
    /// Times all copies were.
    pub copy_flushes: u64,
    /// Blocks dropped because their code was written.
    pub invalidated: u64,
    /// Blocks translated.
    pub translated: u64,
    /// Blocks copied from those of the same code at another address.
    pub copied: u64,
    /// Guest bytes translated.
    pub guest_bytes: u64,
}

/// What [`Blocks::invalidate`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalidated {
    /// No translation overlaps the bytes.
    Nothing,
    /// Some did; others are left on the page.
    Some,
    /// Some did, and none is left on the page.
    All,
}

impl Blocks {
    /// An empty store with a code cache of `size` bytes.
    pub fn new(size: usize) -> Result<Self, Error> {
        Ok(Self {
            cache: Cache::new(size)?,
            blocks: Parts::default(),
            by_key: Map::default(),
            templates: Templates::default(),
            by_code: Map::default(),
            by_page: Map::default(),
            checked: Map::default(),
            checked_by_page: Map::default(),
            recent: vec![(NO_KEY, 0); RECENT].into(),
            outs: Parts::default(),
            bounces: Map::default(),
            modes: Vec::new(),
            mode_ids: Map::default(),
            recent_modes: Vec::with_capacity(RECENT_MODES),
            next_recent: 0,
            next_slot: FIRST_SLOT,
            live_slots: [Vec::new(), Vec::new()],
            live_jc: [Vec::new(), Vec::new()],
            jc_state: vec![0; JC_TABLES << 16],
            jc_block: vec![0; JC_TABLES << 16],
            spaces: Vec::new(),
            entered: Box::new([0; ENTERED / 64]),
            jc_owner: [u32::MAX; JC_TABLES],
            crossing: Vec::new(),
            generation: 0,
            full_flushes: 0,
            copy_flushes: 0,
            invalidated: 0,
            translated: 0,
            copied: 0,
            guest_bytes: 0,
        })
    }

    /// Number of `mode`, and the table of indirect jumps it uses, made its own.
    pub fn mode_id(&mut self, ctx: &mut Ctx, mode: &Mode) -> (u32, usize) {
        let id = self.number(mode);
        let table = mode.jc_table(id) % JC_TABLES;
        // Blocks of one instruction use no tables.
        if self.jc_owner[table] != id && !mode.one() {
            if self.jc_owner[table] != u32::MAX {
                self.close_gates(ctx);
            }
            self.jc_owner[table] = id;
            self.clear_table(ctx, table);
        }
        (id, table)
    }

    /// Nothing in translated code leads into another mode any more before Rust has been asked.
    pub fn close_gates(&mut self, ctx: &mut Ctx) {
        ctx.gates = Default::default();
        for link in std::mem::take(&mut self.crossing) {
            self.unwire(ctx, link);
        }
    }

    /// The mode with number `id`.
    pub fn mode(&self, id: u32) -> Mode {
        self.modes[id as usize]
    }

    /// Number of `mode`.
    pub fn number(&mut self, mode: &Mode) -> u32 {
        if let Some((_, id)) = self.recent_modes.iter().find(|(m, _)| m == mode) {
            return *id;
        }
        let hash = {
            use std::hash::Hash;
            let mut h = Mix::default();
            mode.hash(&mut h);
            h.finish()
        };
        let known = self.mode_ids.get(&hash).and_then(|ids| {
            ids.iter()
                .copied()
                .find(|id| self.modes[*id as usize] == *mode)
        });
        let id = known.unwrap_or_else(|| {
            self.modes.push(*mode);
            let id = self.modes.len() as u32 - 1;
            self.mode_ids.entry(hash).or_default().push(id);
            id
        });
        self.next_recent = (self.next_recent + 1) % RECENT_MODES;
        if self.recent_modes.len() < RECENT_MODES {
            self.recent_modes.push((*mode, id));
        } else {
            self.recent_modes[self.next_recent] = (*mode, id);
        }
        id
    }

    /// Number of modes seen; a guest that makes endless ones is reined in by a flush.
    pub fn modes(&self) -> usize {
        self.modes.len()
    }

    /// The translation for `key`, and the RAM page of its tail when it reaches into a second page.
    pub fn find(&mut self, key: Key) -> Option<(u32, Option<u64>)> {
        let recent = &mut self.recent[recent_index(key)];
        if recent.0 == key {
            return Some((recent.1, None));
        }
        let id = *self.by_key.get(&key)?;
        let second = self.second_page(id);
        if second.is_none() {
            self.recent[recent_index(key)] = (key, id);
        }
        Some((id, second))
    }

    /// The RAM page of a block's tail when it reaches into a second page.
    pub fn second_page(&self, id: u32) -> Option<u64> {
        let page = self.blocks[id].second;
        (page != NO_PAGE).then_some(page)
    }

    /// Bytes of guest code of block `id`.
    pub fn guest_len(&self, id: u32) -> u64 {
        self.template_of(id).guest_len.into()
    }

    fn template_of(&self, id: u32) -> &Template {
        self.templates.get(self.blocks[id].template)
    }

    /// How far block `id` is from the place that its code was first translated for.
    fn moved_by(&self, id: u32) -> u64 {
        let b = &self.blocks[id];
        b.key.1.wrapping_sub(self.templates.get(b.template).rip)
    }

    fn mode_of(&self, b: &Block) -> &Mode {
        &self.modes[(b.key.2 & MODE) as usize]
    }

    /// Offset in CS of the block that a call's argument names.
    pub fn rip(&self, arg: u32) -> u64 {
        self.blocks[template::split(arg).0].key.1
    }

    /// The memory access that a call's argument names.
    pub fn site(&self, arg: u32) -> Site {
        let (id, index) = template::split(arg);
        let b = &self.blocks[id];
        let mut s = self.templates.site(b.template, index);
        s.rip = s.rip.wrapping_add(self.moved_by(id)) & self.mode_of(b).ip_mask();
        s.probe += b.start;
        s.resume += b.start;
        s.done += b.start;
        if let Some(range) = &mut s.cluster {
            range.link += b.first_link;
        }
        s
    }

    /// The helper call that a call's argument names.
    pub fn exec(&self, arg: u32) -> Exec {
        let (id, index) = template::split(arg);
        let b = &self.blocks[id];
        let mut e = self.templates.exec(b.template, index);
        let by = self.moved_by(id);
        if by != 0 {
            e.action = e.action.moved(by);
            e.rip = e.rip.wrapping_add(by) & self.mode_of(b).ip_mask();
        }
        if e.resume != 0 {
            e.resume += b.start;
        }
        e
    }

    /// Number of the jump out that a call's argument names.
    pub fn link_number(&self, arg: u32) -> u32 {
        let (id, index) = template::split(arg);
        self.blocks[id].first_link + index as u32
    }

    /// The jump out numbered `n`.
    pub fn link(&self, n: u32) -> Link {
        self.outs[n].link
    }

    /// Host address of a block's entry.
    pub fn entry(&self, id: u32, poll: bool) -> u64 {
        self.entry_at(id, usize::from(poll))
    }

    fn entry_at(&self, id: u32, which: usize) -> u64 {
        let start = self.blocks[id].start;
        self.cache
            .address(start + self.template_of(id).entries[which])
    }

    /// The place of the copy of a store's code that ends in a `Store` call, made if it is missing.
    /// `None`: there is no room for it.
    pub fn bounce(&mut self, arg: u32) -> Option<u64> {
        let at = match self.bounces.get(&arg) {
            Some((at, _)) => *at,
            None => {
                let site = self.site(arg);
                let mut code = Code::default();
                code.put(&self.cache.copy(site.resume, site.done));
                code.call(ctx::Call::Store, arg);
                let part = self.cache.part(site.resume);
                let at = (self.cache.push_to(part, &code.bytes))
                    .or_else(|| self.cache.push(&code.bytes))?;
                self.bounces.insert(arg, (at, site.done - site.resume));
                at
            }
        };
        Some(self.cache.address(at))
    }

    /// A free slot for a translation (0) or a copy (1).
    fn take_slot(next: &mut [u32; 2], part: usize) -> Option<u32> {
        let next = &mut next[part];
        (*next < LAST_SLOT[part]).then(|| {
            *next += 1;
            *next - 1
        })
    }

    /// Whether a translation of ordinary size still fits.
    pub fn has_room(&self) -> bool {
        self.cache.left(0) > 1 << 18
            && self.next_slot[0] < LAST_SLOT[0] - 512
            && self.modes.len() < 4096
            && self.blocks.has_room(0)
    }

    /// Whether a store's code surely fits; see [`Blocks::bounce`].
    pub fn has_room_for_bounce(&self) -> bool {
        self.cache.left(0) > 4096
    }

    /// Whether another copy fits.
    fn has_room_for_copies(&self) -> bool {
        self.cache.left(1) > 1 << 16
            && self.next_slot[1] < LAST_SLOT[1] - 512
            && self.blocks.has_room(1)
    }

    /// Throws everything away.
    pub fn clear(&mut self, ctx: &mut Ctx) {
        self.generation += 1;
        self.full_flushes += 1;
        self.clear_exec(ctx, true);
        self.cache.clear();
        self.blocks.clear();
        self.by_key.clear();
        self.by_page.clear();
        self.checked.clear();
        self.checked_by_page.clear();
        self.templates.clear();
        self.by_code.clear();
        self.recent.fill((NO_KEY, 0));
        self.outs.clear();
        self.bounces.clear();
        self.modes.clear();
        self.mode_ids.clear();
        self.recent_modes.clear();
        self.spaces.clear();
        self.crossing.clear();
        ctx.gates = Default::default();
        self.next_slot = FIRST_SLOT;
        self.jc_owner = [u32::MAX; JC_TABLES];
    }

    /// Gives the memory of a store that was just cleared back to the host.
    pub fn give_back(&mut self) {
        self.cache.give_back();
        self.blocks = Parts::default();
        self.by_key = Map::default();
        self.by_page = Map::default();
        self.checked = Map::default();
        self.checked_by_page = Map::default();
        self.templates = Templates::default();
        self.by_code = Map::default();
        self.outs = Parts::default();
        self.bounces = Map::default();
        allocator::trim();
    }

    /// RAM pages that hold translations.
    pub fn pages(&self) -> Vec<u64> {
        self.by_page.keys().copied().collect()
    }

    /// Adds a translation. `second` is the RAM offset of the second page that its guest bytes lie
    /// on, if they do. Returns its number.
    pub fn add(
        &mut self,
        ctx: &mut Ctx,
        key: Key,
        t: &Translation,
        second: Option<u64>,
    ) -> Result<u32, Error> {
        let start = self.cache.push(&t.code).ok_or(Error::CodeCacheFull)?;
        let first_link = self.outs.next(0);
        let template = (self.templates).add(key.1, start, first_link, second, t);
        self.translated += 1;
        self.guest_bytes += u64::from(t.guest_len);
        let in_page = 0x1000 - (key.0 & 0xfff);
        if t.movable
            && t.checked.is_none()
            && (u64::from(t.guest_len) <= in_page || second.is_some())
        {
            self.by_code.insert((key.0, key.2), template);
        }
        if let Some(checked) = &t.checked {
            self.checked.insert(self.blocks.next(0), checked.clone());
        }
        self.place(ctx, key, template, start, second, 0)
    }

    /// A template for `key`, and the RAM offset of its second page, if it reaches into one.
    pub fn template(&self, key: Key) -> Option<(u32, Option<u64>)> {
        let n = *self.by_code.get(&(key.0, key.2))?;
        Some((n, self.templates.get(n).second))
    }

    /// Makes the translation for `key` from a template.
    pub fn copy(&mut self, ctx: &mut Ctx, key: Key, template: u32) -> Result<u32, Error> {
        if !self.has_room_for_copies() {
            self.clear_copies(ctx);
        }
        let t = self.templates.get(template);
        let start = (self.cache.push_copy(t.start, t.len)).ok_or(Error::CodeCacheFull)?;
        let fixes = self.templates.fixes(template);
        let code = self.cache.code(start, t.len);
        let mode = &self.modes[(key.2 & MODE) as usize];
        relocate(code, fixes.rips, mode, key.1.wrapping_sub(t.rip));
        for l in fixes.links {
            if let Wire::Patch(at) = l.wire {
                template::put(code, at, l.stub.wrapping_sub(at + 4));
            }
        }
        self.copied += 1;
        let second = t.second;
        self.place(ctx, key, template, start, second, 1)
    }

    /// Makes a block of the code at `start`, which is that of a template but for numbers. `part`: 0
    /// for a translation, 1 for a copy.
    fn place(
        &mut self,
        ctx: &mut Ctx,
        key: Key,
        template: u32,
        start: u32,
        second: Option<u64>,
        part: usize,
    ) -> Result<u32, Error> {
        let id = self.blocks.next(part);
        let first_link = self.outs.next(part);
        let fixes = self.templates.fixes(template);
        let host = self.cache.address(start);
        let t = self.templates.get(template);
        let by = key.1.wrapping_sub(t.rip);
        let mask = self.modes[(key.2 & MODE) as usize].ip_mask();
        let code = self.cache.code(start, t.len);
        for at in fixes.args {
            let index = template::get(code, *at) & ((1 << INDEX_BITS) - 1);
            template::put(code, *at, id << INDEX_BITS | index);
        }
        for l in fixes.links {
            let wire = match l.wire {
                Wire::Patch(at) => Wire::Patch(start + at),
                Wire::Slot(at) => {
                    let n =
                        Self::take_slot(&mut self.next_slot, part).ok_or(Error::CodeCacheFull)?;
                    template::put(code, at, ctx::slot(n as usize) as u32);
                    ctx.slots[n as usize] = host + u64::from(l.stub);
                    Wire::Slot(n)
                }
                Wire::None => Wire::None,
            };
            self.outs.push(
                part,
                Out {
                    link: Link {
                        target: l.target.wrapping_add(by) & mask,
                        wire,
                        stub: start + l.stub,
                        ..*l
                    },
                    block: id,
                    target: u32::MAX,
                    listed: 0,
                    global: false,
                },
            );
        }
        let pages = [key.0 & !0xfff, second.unwrap_or(NO_PAGE)];
        for (i, page) in pages.iter().enumerate() {
            if *page != NO_PAGE && (i == 0 || pages[0] != pages[1]) {
                let by_page = match self.checked.contains_key(&id) {
                    true => &mut self.checked_by_page,
                    false => &mut self.by_page,
                };
                by_page.entry(*page).or_default().push(id);
            }
        }
        self.by_key.insert(key, id);
        self.recent[recent_index(key)].0 = NO_KEY;
        self.blocks.push(
            part,
            Block {
                key,
                second: pages[1],
                template,
                start,
                first_link,
                valid: true,
                incoming: Vec::new(),
            },
        );
        Ok(id)
    }

    /// Wires `link` to block `target`; returns the host address to go on at. `global`: the target's
    /// page stays mapped over CR3 loads.
    pub fn wire(&mut self, ctx: &mut Ctx, link: u32, target: u32, global: bool) -> u64 {
        let l = self.outs[link].link;
        let host = if l.parked {
            self.entry_at(target, 2)
        } else {
            self.entry(target, l.poll)
        };
        let from = self.outs[link].block;
        if !self.blocks[from].valid {
            return host;
        }
        if l.crosses && !self.crossing.contains(&link) {
            self.crossing.push(link);
        }
        let mut wire = l.wire;
        if let Wire::Patch(at) = wire
            && self.second_page(target).is_some()
        {
            // A patched jump stays when mappings change: one to code that reaches into a second
            // page goes through a slot.
            wire = self.through_slot(at);
            self.outs[link].link.wire = wire;
        }
        match wire {
            Wire::Patch(at) => {
                if let Some(to) = self.cache.offset(host) {
                    self.cache.patch(at, to);
                    self.blocks[target].incoming.push(link);
                }
            }
            Wire::Slot(n) => {
                ctx.slots[n as usize] = host;
                let w = &mut self.outs[link];
                w.global = global;
                if w.listed & 1 << u8::from(global) == 0 {
                    w.listed |= 1 << u8::from(global);
                    self.live_slots[usize::from(global)].push(link);
                }
                if w.target != target {
                    w.target = target;
                    self.blocks[target].incoming.push(link);
                }
                self.note_entered(target);
            }
            Wire::None => {}
        }
        host
    }

    /// Leads the jump with its displacement at `at` through a slot of its own from now on.
    fn through_slot(&mut self, at: u32) -> Wire {
        let part = self.cache.part(at);
        let Some(n) = Self::take_slot(&mut self.next_slot, part) else {
            return Wire::None;
        };
        let mut code = Code::default();
        code.jmp_gs(ctx::slot(n as usize));
        match self.cache.push_to(part, &code.bytes) {
            Some(via) => {
                self.cache.patch(at, via);
                Wire::Slot(n)
            }
            None => Wire::None,
        }
    }

    fn unwire(&mut self, ctx: &mut Ctx, link: u32) {
        let l = self.outs[link].link;
        match l.wire {
            Wire::Patch(at) => self.cache.patch(at, l.stub),
            Wire::Slot(n) => ctx.slots[n as usize] = self.cache.address(l.stub),
            Wire::None => {}
        }
    }

    /// Lets indirect jumps to `target` find block `id`.
    pub fn add_indirect(
        &mut self,
        ctx: &mut Ctx,
        table: usize,
        target: u64,
        id: u32,
        global: bool,
    ) {
        let index = target as u16;
        ctx.jc[table][usize::from(index)] = JcEntry {
            tag: target,
            host: self.entry_at(id, 2),
        };
        self.jc_block[table << 16 | usize::from(index)] = id;
        let state = &mut self.jc_state[table << 16 | usize::from(index)];
        let bit = 1 << u8::from(global);
        if *state & bit == 0 {
            self.live_jc[usize::from(global)].push((table as u8, index));
        }
        *state = *state & 3 | bit | u8::from(global) << 2;
        self.note_entered(id);
    }

    /// The block that an indirect jump to `target` through a table finds.
    pub fn indirect(&self, ctx: &Ctx, table: usize, target: u64) -> Option<u32> {
        let index = usize::from(target as u16);
        (ctx.jc[table][index].tag == target).then(|| self.jc_block[table << 16 | index])
    }

    /// Empties entries of the tables for indirect jumps, those that lead to blocks that `drop` names,
    /// on local (0) or global (1) pages as `kinds` says.
    fn clear_jc(&mut self, ctx: &mut Ctx, kinds: &[usize], drop: impl Fn(u32) -> bool) {
        let blocks = &self.jc_block;
        Self::clear_entries(ctx, &mut self.live_jc, &mut self.jc_state, kinds, |n| {
            drop(blocks[n])
        });
    }

    /// Empties a table for indirect jumps.
    fn clear_table(&mut self, ctx: &mut Ctx, table: usize) {
        Self::clear_entries(ctx, &mut self.live_jc, &mut self.jc_state, &[0, 1], |n| {
            n >> 16 == table
        });
    }

    /// The same for entries that `drop` names: the table's number and 16 bits of index.
    fn clear_entries(
        ctx: &mut Ctx,
        live: &mut [Vec<(u8, u16)>; 2],
        state: &mut [u8],
        kinds: &[usize],
        drop: impl Fn(usize) -> bool,
    ) {
        for kind in kinds {
            live[*kind].retain(|(table, index)| {
                let table = usize::from(*table);
                let n = table << 16 | usize::from(*index);
                let state = &mut state[n];
                let now = usize::from(*state >> 2 & 1) == *kind;
                let drop = drop(n);
                if drop && now {
                    clear_entry(&mut ctx.jc[table], *index);
                }
                if drop || !now {
                    *state &= !(1 << *kind);
                }
                !drop && now
            });
        }
    }

    /// The mapping of linear addresses to code changed: cross-page links and indirect jumps look
    /// their targets up again, those to global pages only when `global`.
    pub fn clear_exec(&mut self, ctx: &mut Ctx, global: bool) {
        let kinds: &[usize] = if global { &[0, 1] } else { &[0] };
        for kind in kinds {
            let mut live = std::mem::take(&mut self.live_slots[*kind]);
            for link in live.drain(..) {
                let w = &mut self.outs[link];
                w.listed &= !(1 << *kind);
                if usize::from(w.global) == *kind {
                    self.unwire(ctx, link);
                }
            }
            self.live_slots[*kind] = live;
        }
        self.clear_jc(ctx, kinds, |_| true);
        if global {
            self.entered.fill(0);
        }
    }

    /// Block `id` is entered by its linear address from now on.
    fn note_entered(&mut self, id: u32) {
        let b = &self.blocks[id];
        let page = (self.mode_of(b).linear(b.key.1) >> 12) as usize;
        let pages = 1 + usize::from(b.second != NO_PAGE);
        for n in page..page + pages {
            let n = n % ENTERED;
            self.entered[n / 64] |= 1 << (n % 64);
        }
    }

    /// Whether wired jumps may lead to linear addresses `first ..= last`.
    pub fn may_enter(&self, first: u64, last: u64) -> bool {
        let (first, last) = (first >> 12, last >> 12);
        last - first >= 512
            || (first..=last).any(|n| {
                let n = n as usize % ENTERED;
                self.entered[n / 64] & 1 << (n % 64) != 0
            })
    }

    /// Whether some translation covers bytes of `offset .. offset + len` (RAM offsets, one page).
    pub fn covers(&self, offset: u64, len: u64) -> bool {
        let Some(ids) = self.by_page.get(&(offset & !0xfff)) else {
            return false;
        };
        ids.iter().any(|id| self.overlaps(*id, offset, len))
    }

    /// Whether there are translations of code on the page of RAM offset `offset`.
    pub fn has_page(&self, offset: u64) -> bool {
        self.by_page.contains_key(&(offset & !0xfff))
    }

    /// Drops translations of bytes in `offset .. offset + len` (RAM offsets, one page).
    /// With `page_too`, if any is hit, those of the whole page.
    pub fn invalidate(
        &mut self,
        ctx: &mut Ctx,
        offset: u64,
        len: u64,
        page_too: bool,
    ) -> Invalidated {
        let page = offset & !0xfff;
        let Some(ids) = self.by_page.get(&page) else {
            return Invalidated::Nothing;
        };
        let hit: Vec<u32> = ids
            .iter()
            .copied()
            .filter(|id| self.overlaps(*id, offset, len))
            .collect();
        if hit.is_empty() {
            return Invalidated::Nothing;
        }
        let hit = if page_too { ids.clone() } else { hit };
        for id in hit {
            self.drop_block(ctx, id);
        }
        if self.by_page.contains_key(&page) {
            Invalidated::Some
        } else {
            Invalidated::All
        }
    }

    fn drop_block(&mut self, ctx: &mut Ctx, id: u32) {
        self.invalidated += 1;
        let b = &self.blocks[id];
        // What was wrong with it would be wrong with further copies.
        let code = (b.key.0, b.key.2);
        if self.by_code.get(&code) == Some(&b.template) {
            self.by_code.remove(&code);
        }
        self.unlink(ctx, id);
    }

    /// Nothing finds block `id` or leads to it any more.
    fn unlink(&mut self, ctx: &mut Ctx, id: u32) {
        let b = &mut self.blocks[id];
        b.valid = false;
        let incoming = std::mem::take(&mut b.incoming);
        let key = b.key;
        let pages = [key.0 & !0xfff, b.second];
        for link in incoming {
            self.unwire(ctx, link);
        }
        let (rip, host) = (key.1, self.entry_at(id, 2));
        for table in &mut ctx.jc {
            if table[usize::from(rip as u16)].host == host {
                clear_entry(table, rip as u16);
            }
        }
        if self.by_key.get(&key) == Some(&id) {
            self.by_key.remove(&key);
            let recent = &mut self.recent[recent_index(key)];
            if recent.0 == key {
                recent.0 = NO_KEY;
            }
        }
        let by_page = match self.checked.remove(&id) {
            Some(_) => &mut self.checked_by_page,
            None => &mut self.by_page,
        };
        for page in pages {
            if let Some(list) = by_page.get_mut(&page) {
                list.retain(|x| *x != id);
                if list.is_empty() {
                    by_page.remove(&page);
                }
            }
        }
    }

    /// What the block that a call's argument names was made from, if it is a checked translation,
    /// and its RAM offset.
    pub fn checked(&self, arg: u32) -> Option<(&Checked, u64)> {
        let id = template::split(arg).0;
        let checked = self.checked.get(&id)?;
        Some((checked, self.blocks[id].key.0))
    }

    /// Drops the block that a call's argument names, a checked translation.
    pub fn drop_checked(&mut self, ctx: &mut Ctx, arg: u32) {
        let id = template::split(arg).0;
        if self.checked.contains_key(&id) {
            self.drop_block(ctx, id);
        }
    }

    /// Drops all checked translations of a page.
    pub fn drop_checked_page(&mut self, ctx: &mut Ctx, page: u64) {
        for id in self.checked_by_page.get(&page).cloned().unwrap_or_default() {
            self.drop_block(ctx, id);
        }
    }

    /// The block whose code is at cache offset `at`.
    fn block_of(&self, at: u32) -> Option<u32> {
        let part = self.cache.part(at);
        let id = self.blocks.last_before(part, |b| b.start <= at)?;
        let end = self.blocks[id].start + self.template_of(id).len;
        (at < end).then_some(id)
    }

    /// What is special about the host's instruction at cache offset `at`.
    pub fn mark_at(&self, at: u32) -> Option<Mark> {
        let b = &self.blocks[self.block_of(at)?];
        let marks = self.templates.marks(b.template);
        marks.iter().find(|m| m.0 == at - b.start).map(|m| m.1)
    }

    /// RAM offset of the instruction at offset `rip` in CS, in the block whose code is at `at`.
    pub fn ram_offset(&self, at: u32, rip: u64) -> Option<u64> {
        let b = &self.blocks[self.block_of(at)?];
        // RAM and linear addresses agree in the place in a page, and instructions start on the
        // block's first page.
        let start = b.key.1.wrapping_sub(b.key.0 & 0xfff);
        Some((b.key.0 & !0xfff) + (rip.wrapping_sub(start) & 0xfff))
    }

    /// Drops the block whose code is at cache offset `at`, which may be running. Returns the RAM
    /// offset of its instruction at `rip`.
    pub fn drop_at(&mut self, ctx: &mut Ctx, at: u32, rip: u64) -> Option<u64> {
        let offset = self.ram_offset(at, rip)?;
        let id = self.block_of(at)?;
        if self.blocks[id].valid {
            self.drop_block(ctx, id);
        }
        Some(offset)
    }

    /// Offset in CS of the instruction that the host executes at cache offset `at`.
    ///
    /// True: the arithmetic flags are parked there.
    pub fn guest_rip(&self, at: u32) -> Option<(u64, bool)> {
        let b = &self.blocks[self.block_of(at)?];
        let map = self.templates.map(b.template);
        let m = map.partition_point(|(host, _)| b.start + *host <= at);
        let (_, delta) = map[..m].last()?;
        // RAM and linear addresses agree in the place in a page.
        let page = b.key.1.wrapping_sub(b.key.0 & 0xfff);
        let rip = page.wrapping_add(u64::from(delta & !PARKED));
        Some((rip, delta & PARKED != 0))
    }

    /// The same for a place in a copy that works on the bounce buffer.
    pub fn bounced_rip(&self, at: u32) -> Option<(u64, bool)> {
        let (arg, _) =
            (self.bounces.iter()).find(|(_, (from, len))| at.wrapping_sub(*from) < *len)?;
        let site = self.site(*arg);
        Some((site.rip, site.parked_after))
    }

    /// Whether block `id` depends on bytes of `offset .. offset + len` (RAM offsets, one page).
    fn overlaps(&self, id: u32, offset: u64, len: u64) -> bool {
        let b = &self.blocks[id];
        let t = self.templates.get(b.template);
        let hit = |start: u64, end: u64| start < offset + len && offset < end;
        let page = b.key.0 & !0xfff;
        let end = b.key.0 + u64::from(t.guest_len);
        hit(b.key.0, end.min(page + 0x1000))
            || b.second != NO_PAGE && hit(b.second, b.second + (end - page - 0x1000))
            || (self.templates.peeks(b.template).iter())
                .any(|(from, to)| hit(page + u64::from(*from), page + u64::from(*to)))
    }
}

/// Makes an entry empty.
fn clear_entry(table: &mut JcTable, index: u16) {
    table[usize::from(index)].tag = u64::from(index ^ 1);
}
