//! The software TLB: filling, flushing, and linear memory for helpers.
#![allow(unsafe_code)] // copies at host addresses taken from TLB entries

mod spaces;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use cpu::bits::{cr0, rflags};
use cpu::{Fault, State};
use pgm::{PageFlags, PhysHandler, PhysMap, Ram, Target};

use crate::ctx::{CLASSES, Class, TLB_SIZE, Tables};
use crate::debug::Watches;
use crate::sys::walk::{self, Access};
use crate::sys::{As, LinearMemory};
use crate::window::{Run, Window};

const PAGE: u64 = pgm::PAGE_SIZE;

/// Where a byte of linear memory is.
#[derive(Clone)]
pub enum Place {
    /// RAM offset.
    Ram(u64),
    /// Device registers and the offset in them.
    Mmio(Arc<dyn PhysHandler>, u64),
    /// Nothing is there.
    Nothing,
}

/// An entry's state beside its address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meta {
    Empty,
    Local,
    Global,
}

/// Bookkeeping of the tables, and what page walks need.
pub struct Mmu {
    /// Index of the vCPU.
    pub cpu: usize,
    /// Guest-physical memory.
    pub phys: Arc<PhysMap>,
    ram: Arc<Ram>,
    /// Registers that paging depends on; general registers and the like are not kept current.
    view: Box<State>,
    cpl: u8,
    meta: Vec<Meta>,
    /// Entries that may be in use: those of local pages, those of global ones.
    used: [Vec<u32>; 2],
    /// In which list an entry is: bit 0, bit 1.
    listed: Vec<u8>,
    /// Ranges of linear addresses that were filled from pages larger than 4 KiB: local ones, global
    /// ones, each for both halves of the address space.
    large: [[(u64, u64); 2]; 2],
    /// Writes to pages with translations, to be looked at: RAM offset, bytes.
    pub code_writes: Vec<(u64, u64)>,
    /// Page walks done.
    pub walks: u64,
    /// Data that is watched: its pages get no entries.
    pub watches: Watches,
    /// DR6 bits of the data breakpoints that helpers' accesses hit.
    pub hits: u64,
    /// Recent instruction fetches.
    fetches: Box<[Fetch; FETCHES]>,
    /// Those that may be of local pages.
    local_fetches: Vec<u16>,
    /// Address spaces that may come again.
    spaces: Vec<spaces::Space>,
    /// Pages of the current address space that user code reaches without these tables.
    pub window: Option<Window>,
    /// How often pages were written between translations of their code, by RAM offset, and the
    /// timestamp of the last time.
    rewritten: HashMap<u64, (u8, u64)>,
    /// Times the window was emptied.
    pub flushes: u64,
}

/// Pages of [`Mmu::rewritten`] at once.
const REWRITTEN: usize = 4096;
/// Pages written so often between translations of their code are not shown for writing.
const OFTEN: u8 = 4;
/// Timestamp counts after which that is forgotten: a page is used for something else by then.
const FORGOTTEN: u64 = 1 << 30;

fn now() -> u64 {
    // SAFETY: reads a counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Bytes of small pages in a row that are shown in the window at once, at most.
const ROW: u64 = 1 << 16;
/// Bytes of a large page that are shown in the window at once, at most.
const SHOWN: u64 = 1 << 18;

/// Entries of the cache of instruction fetches, a power of two.
const FETCHES: usize = 1024;

/// A page code was fetched from: linear page with the privilege in bit 0 (1 for user), RAM offset
/// of the page.
#[derive(Clone, Copy)]
struct Fetch {
    tag: u64,
    page: u64,
    global: bool,
    /// It is in [`Mmu::local_fetches`].
    listed: bool,
}

/// An empty range.
const NO_RANGE: (u64, u64) = (u64::MAX, 0);

const NO_FETCH: Fetch = Fetch {
    tag: u64::MAX,
    page: 0,
    global: false,
    listed: false,
};

fn index(linear: u64) -> usize {
    (linear >> 12) as usize & (TLB_SIZE - 1)
}

/// The tag of an empty entry: a page with another index.
fn empty(index: usize) -> u64 {
    (index as u64 ^ 1) << 12
}

/// Makes tables of zeroes empty ones.
pub fn clear(tables: &mut Tables) {
    for table in tables.iter_mut().flatten() {
        // Of all entries only the first can be for page 0.
        table.tag[0] = empty(0);
    }
}

impl Mmu {
    /// For vCPU `cpu`.
    pub fn new(cpu: usize, phys: Arc<PhysMap>) -> Self {
        Self {
            cpu,
            ram: phys.ram().clone(),
            phys,
            view: Box::new(State::reset(0)),
            cpl: 0,
            meta: vec![Meta::Empty; CLASSES * 2 * TLB_SIZE],
            used: [Vec::new(), Vec::new()],
            listed: vec![0; CLASSES * 2 * TLB_SIZE],
            large: [[NO_RANGE; 2]; 2],
            code_writes: Vec::new(),
            walks: 0,
            watches: Watches::default(),
            hits: 0,
            fetches: Box::new([NO_FETCH; FETCHES]),
            local_fetches: Vec::new(),
            spaces: Vec::new(),
            window: None,
            rewritten: HashMap::new(),
            flushes: 0,
        }
    }

    /// The memory pool.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// Takes the registers that paging depends on over from `state`.
    pub fn sync(&mut self, state: &State) {
        let v = &mut self.view;
        v.cr0 = state.cr0;
        v.cr3 = state.cr3;
        v.cr4 = state.cr4;
        v.efer = state.efer;
        v.pdpte = state.pdpte;
        v.rflags = state.rflags;
        v.smm = state.smm;
        self.cpl = state.cpl();
    }

    /// What is at a guest-physical address for this processor now.
    fn lookup(&self, gpa: u64) -> pgm::PageLookup {
        if self.view.smm {
            self.phys.lookup_smm(gpa)
        } else {
            self.phys.lookup(gpa)
        }
    }

    /// Privilege class of an access.
    fn class(&self, who: As) -> Class {
        match who {
            As::User => Class::User,
            As::Current if self.cpl == 3 => Class::User,
            As::Current if self.view.rflags & rflags::AC != 0 => Class::KernelOpen,
            _ => Class::Kernel,
        }
    }

    /// Finds where `linear` is for the access, and remembers it.
    ///
    /// # Errors
    /// #PF.
    pub fn resolve(
        &mut self,
        tables: &mut Tables,
        linear: u64,
        class: Class,
        write: bool,
    ) -> Fault<Place> {
        self.walks += 1;
        let access = Access {
            write,
            exec: false,
            user: class == Class::User,
            smap_open: class == Class::KernelOpen,
        };
        let w = walk::walk(&self.view, &self.phys, linear, access)?;
        let found = self.lookup(w.gpa);
        let target = if write { &found.write } else { &found.read };
        let place = match target {
            Target::Ram(offset) => Place::Ram(*offset),
            Target::Mmio(handler, offset) => return Ok(Place::Mmio(handler.clone(), *offset)),
            Target::Nothing => return Ok(Place::Nothing),
        };
        self.note_large(linear, &w);
        let uniform =
            self.view.smm && self.phys.in_smram(w.gpa) || self.phys.page_is_uniform(w.gpa);
        if !uniform || self.watches.data_on_page(linear) {
            return Ok(place);
        }
        let page = linear & !(PAGE - 1);
        if let Target::Ram(offset) = found.read {
            self.fill(tables, class, false, page, offset & !(PAGE - 1), w.global);
        }
        if let Target::Ram(offset) = found.write {
            let supervisor_ignores_rw = self.view.cr0 & cr0::WP == 0 && class != Class::User;
            // A writable entry serves reads too.
            let same = matches!(found.read, Target::Ram(o) if o == offset);
            let writable = same && (w.writable || supervisor_ignores_rw) && (w.dirty || write);
            let watched = |flags: u64| flags & PageFlags::CODE != 0;
            if writable
                && !watched(self.ram.flags(offset).load(SeqCst))
                && !watched(self.give(offset))
            {
                self.fill(tables, class, true, page, offset & !(PAGE - 1), w.global);
            }
        }
        Ok(place)
    }

    /// Shows the user page of `linear` in the window, and neighbours that are alike. False:
    /// accesses of this kind have to go through [`Mmu::resolve`].
    ///
    /// # Errors
    /// #PF.
    pub fn show(&mut self, linear: u64, write: bool) -> Fault<bool> {
        self.walks += 1;
        let access = Access {
            write,
            user: true,
            ..Access::default()
        };
        let w = walk::walk(&self.view, &self.phys, linear, access)?;
        let page = linear & !(PAGE - 1);
        // With its neighbours: of a large page, or of small ones in a row.
        let around = if w.size == PAGE {
            ROW
        } else {
            w.size.min(SHOWN)
        } - 1;
        let (first, last) = (page & !around, page | around & !(PAGE - 1));
        let may_write = w.writable && (w.dirty || write);
        let Some((ram, write_here)) = self.shown_at(page, linear, &w, may_write) else {
            return Ok(false);
        };
        if write && !write_here {
            return Ok(false);
        }
        let same = |at: u64, this: &Self| {
            let pages = (at as i64).wrapping_sub(page as i64) >> 12;
            if w.size == PAGE && !w.goes_on(&this.phys, pages) {
                return false;
            }
            if this.window.as_ref().is_some_and(|w| w.shows(at)) {
                return false;
            }
            let there = this.shown_at(at, linear, &w, may_write);
            there == Some((ram.wrapping_add(at.wrapping_sub(page)), write_here))
        };
        let (mut start, mut end) = (page, page + PAGE);
        while start > first && same(start - PAGE, self) {
            start -= PAGE;
        }
        while end <= last && same(end, self) {
            end += PAGE;
        }
        let cr3 = self.view.cr3;
        let Some(window) = self.window.as_mut().filter(|w| w.space == cr3) else {
            return Ok(false);
        };
        let at = ram.wrapping_sub(page - start);
        window.largest = window.largest.max(w.size);
        Ok(window.map(start, at, end - start, write_here))
    }

    /// RAM offset of the page at `page`, which lies in the same page of the guest's as `linear`
    /// with the walk `w`, and whether it may be shown for writing. `None`: not to be shown.
    fn shown_at(
        &self,
        page: u64,
        linear: u64,
        w: &walk::Walk,
        may_write: bool,
    ) -> Option<(u64, bool)> {
        let gpa = (w.gpa & !(PAGE - 1)).wrapping_add(page.wrapping_sub(linear & !(PAGE - 1)));
        let found = self.lookup(gpa);
        let Target::Ram(offset) = found.read else {
            return None;
        };
        let uniform = self.view.smm && self.phys.in_smram(gpa) || self.phys.page_is_uniform(gpa);
        if !uniform || self.watches.data_on_page(page) {
            return None;
        }
        let watched = |flags: u64| flags & PageFlags::CODE != 0;
        let page = offset & !(PAGE - 1);
        let write = may_write
            && matches!(found.write, Target::Ram(o) if o == offset)
            && !self.is_rewritten(page)
            && !watched(self.ram.flags(offset).load(SeqCst))
            && !watched(self.give(offset));
        Some((page, write))
    }

    /// Whether the page at RAM offset `page` is written again and again between translations of its
    /// code.
    fn is_rewritten(&self, page: u64) -> bool {
        let lately = |last: u64| now().wrapping_sub(last) <= FORGOTTEN;
        (self.rewritten.get(&page)).is_some_and(|(n, last)| *n >= OFTEN && lately(*last))
    }

    /// Someone is about to write to the page of RAM offset `offset` directly, unless he finds a
    /// bit of [`PageFlags::CODE`] in what is returned: the page's flags.
    pub fn give(&self, offset: u64) -> u64 {
        let flags = PageFlags::DIRTY | PageFlags::WRITERS;
        self.ram.flags(offset).fetch_or(flags, SeqCst)
    }

    /// Whether the table for this kind of access has the page of `linear`.
    pub fn has(&self, tables: &Tables, linear: u64, class: Class, write: bool) -> bool {
        tables[class as usize][usize::from(write)].tag[index(linear)] == linear & !(PAGE - 1)
    }

    fn fill(
        &mut self,
        tables: &mut Tables,
        class: Class,
        write: bool,
        page: u64,
        ram: u64,
        global: bool,
    ) {
        let i = index(page);
        let host = self.ram.base() as u64 + ram;
        let table = &mut tables[class as usize][usize::from(write)];
        table.tag[i] = page;
        table.host[i] = host;
        let n = (class as usize * 2 + usize::from(write)) * TLB_SIZE + i;
        if self.listed[n] & 1 << u8::from(global) == 0 {
            self.listed[n] |= 1 << u8::from(global);
            self.used[usize::from(global)].push(n as u32);
        }
        self.meta[n] = if global { Meta::Global } else { Meta::Local };
    }

    fn drop_entry(&mut self, tables: &mut Tables, n: usize) {
        let i = n % TLB_SIZE;
        let t = n / TLB_SIZE;
        tables[t / 2][t % 2].tag[i] = empty(i);
        self.meta[n] = Meta::Empty;
    }

    /// Remembers that INVLPG around `linear` has to look further than one page of 4 KiB.
    fn note_large(&mut self, linear: u64, w: &walk::Walk) {
        if w.size > PAGE {
            let start = linear & !(w.size - 1);
            let range = &mut self.large[usize::from(w.global)][(linear >> 63) as usize];
            *range = (range.0.min(start), range.1.max(start + (w.size - 1)));
        }
    }

    fn flush_where(&mut self, tables: &mut Tables, drop: impl Fn(u64, u64, bool) -> bool) {
        for (kind, meta) in [(0, Meta::Local), (1, Meta::Global)] {
            let mut used = std::mem::take(&mut self.used[kind]);
            used.retain(|n| {
                let n = *n as usize;
                let (t, i) = (n / TLB_SIZE, n % TLB_SIZE);
                let table = &tables[t / 2][t % 2];
                let keep = self.meta[n] == meta && !drop(table.tag[i], table.host[i], t % 2 == 1);
                if !keep {
                    self.listed[n] &= !(1 << kind);
                    if self.meta[n] == meta {
                        self.drop_entry(tables, n);
                    }
                }
                keep
            });
            self.used[kind] = used;
        }
    }

    /// Drops everything.
    pub fn flush_all(&mut self, tables: &mut Tables) {
        self.spaces.clear();
        self.clear_window();
        self.flush_where(tables, |_, _, _| true);
        self.large = [[NO_RANGE; 2]; 2];
        self.fetches.fill(NO_FETCH);
        self.local_fetches.clear();
    }

    /// Takes everything out of the window.
    fn clear_window(&mut self) {
        self.flushes += 1;
        if let Some(window) = &mut self.window {
            window.clear();
        }
    }

    /// The same if it shows an address space whose CR3 is one of `which`.
    pub fn clear_window_of(&mut self, which: impl Fn(u64) -> bool) {
        if self.window.as_ref().is_some_and(|w| which(w.space)) {
            self.clear_window();
        }
    }

    /// What the window shows of an address space whose CR3 is one of `which` may have changed.
    pub fn outdate_window_of(&mut self, which: impl Fn(u64) -> bool) {
        if let Some(window) = self.window.as_mut().filter(|w| which(w.space)) {
            window.stale = true;
        }
    }

    /// Whether the window shows nothing of the current address space, whose CR3 is `cr3`, that the
    /// guest has changed: what has is taken away, or everything when that costs less.
    pub fn refresh_window(&mut self, cr3: u64) {
        let Some(mut window) = self.window.take() else {
            return;
        };
        if window.space == cr3 && window.stale {
            if window.may_refresh() {
                let mut looker = walk::Looker::new(&self.view, &self.phys);
                window.refresh(|linear, run| self.still_shown(&mut looker, linear, run));
            } else {
                self.flushes += 1;
                window.clear();
            }
        }
        self.window = Some(window);
    }

    /// Bytes from `linear` on that page tables still lead to as `run` has them.
    fn still_shown(&self, looker: &mut walk::Looker<'_>, linear: u64, run: Run) -> Option<u64> {
        let w = looker.look(linear)?;
        let found = self.lookup(w.gpa);
        let here = |target: &Target| matches!(target, Target::Ram(at) if *at == run.ram);
        let whole = w.user
            && here(&found.read)
            && (!run.write || here(&found.write) && w.writable && w.dirty);
        // What follows in a larger page goes where it went.
        whole.then(|| (w.size - (linear & (w.size - 1))).max(PAGE))
    }

    /// The window is for the current address space, whose CR3 is `cr3`, from now on.
    pub fn move_window(&mut self, cr3: u64) {
        if let Some(window) = &mut self.window
            && window.space != cr3
        {
            window.clear();
            window.space = cr3;
        }
    }

    /// Drops everything of the current address space but global pages.
    pub fn flush_local(&mut self, tables: &mut Tables) {
        let mut used = std::mem::take(&mut self.used[0]);
        for n in used.drain(..) {
            let n = n as usize;
            self.listed[n] &= !1;
            if self.meta[n] == Meta::Local {
                self.drop_entry(tables, n);
            }
        }
        self.used[0] = used;
        self.large[0] = [NO_RANGE; 2];
        for slot in self.local_fetches.drain(..) {
            let f = &mut self.fetches[usize::from(slot)];
            f.listed = false;
            if !f.global {
                *f = NO_FETCH;
            }
        }
    }

    /// Drops the page of `linear`, global or not, whatever its size. Returns the first and last
    /// linear address of what may have been dropped.
    pub fn flush_page(&mut self, tables: &mut Tables, linear: u64) -> (u64, u64) {
        let dropped = self.flush_entries(tables, linear);
        if let Some(window) = &mut self.window {
            window.drop_page(linear);
            window.drop_range(dropped.0, dropped.1);
        }
        dropped
    }

    fn flush_entries(&mut self, tables: &mut Tables, linear: u64) -> (u64, u64) {
        let ranges = self.large.as_flattened();
        if let Some(range) = ranges.iter().find(|r| (r.0..=r.1).contains(&linear)) {
            let big = linear >> 21;
            // Pages of 4 MiB and 1 GiB are rare: 2 MiB around is not enough for them.
            let coarse = self.view.cr4 & cpu::bits::cr4::PAE == 0 || range.1 - range.0 >= 1 << 30;
            self.fetches.fill(NO_FETCH);
            self.local_fetches.clear();
            self.flush_where(tables, |tag, _, _| coarse || tag >> 21 == big);
            return if coarse {
                (0, u64::MAX)
            } else {
                (big << 21, big << 21 | 0x1f_ffff)
            };
        }
        let page = linear & !(PAGE - 1);
        let f = &mut self.fetches[(linear >> 12) as usize % FETCHES];
        if f.tag & !1 == page {
            f.tag = u64::MAX;
        }
        let i = index(linear);
        for t in 0..CLASSES * 2 {
            if tables[t / 2][t % 2].tag[i] == page {
                self.drop_entry(tables, t * TLB_SIZE + i);
            }
        }
        (page, page | (PAGE - 1))
    }

    /// Drops entries that let code write to the page at RAM offset `page` directly.
    pub fn flush_writes(&mut self, tables: &mut Tables, page: u64) {
        let host = self.ram.base() as u64 + page;
        self.flush_where(tables, |_, at, write| write && at == host);
        self.forget_writes(Some(host));
        if let Some(window) = &mut self.window {
            window.drop_writes(page);
        }
        if self.rewritten.len() >= REWRITTEN {
            self.rewritten.clear();
        }
        let (n, last) = self.rewritten.entry(page).or_default();
        if now().wrapping_sub(*last) > FORGOTTEN {
            *n = 0;
        }
        (*n, *last) = (n.saturating_add(1), now());
    }

    /// Drops all entries that let code write directly.
    pub fn flush_all_writes(&mut self, tables: &mut Tables) {
        self.flush_where(tables, |_, _, write| write);
        self.forget_writes(None);
        if let Some(window) = &mut self.window {
            window.clear();
        }
    }

    /// Translates an instruction fetch: RAM offset of `linear`, and whether the page is global.
    ///
    /// # Errors
    /// #PF; `None` when there is no memory to fetch from.
    pub fn fetch(&mut self, linear: u64) -> Fault<(Place, bool)> {
        let user = self.cpl == 3;
        let tag = linear & !0xfff | u64::from(user);
        let slot = (linear >> 12) as usize % FETCHES;
        let known = self.fetches[slot];
        if known.tag == tag {
            return Ok((Place::Ram(known.page | linear & 0xfff), known.global));
        }
        self.walks += 1;
        let access = Access {
            write: false,
            exec: true,
            user,
            smap_open: false,
        };
        let w = walk::walk(&self.view, &self.phys, linear, access)?;
        let place = match self.lookup(w.gpa).read {
            Target::Ram(offset) => Place::Ram(offset),
            Target::Mmio(handler, offset) => Place::Mmio(handler, offset),
            Target::Nothing => Place::Nothing,
        };
        if let Place::Ram(offset) = place {
            self.note_large(linear, &w);
            if !w.global && !known.listed {
                self.local_fetches.push(slot as u16);
            }
            self.fetches[slot] = Fetch {
                tag,
                page: offset & !0xfff,
                global: w.global,
                listed: known.listed || !w.global,
            };
        }
        Ok((place, w.global))
    }

    /// The RAM offset of the page that code at a linear address was fetched from lately, and whether
    /// its mapping is global.
    pub fn known_page(&self, linear: u64) -> Option<(u64, bool)> {
        let tag = linear & !0xfff | u64::from(self.cpl == 3);
        let known = self.fetches[(linear >> 12) as usize % FETCHES];
        (known.tag == tag).then_some((known.page, known.global))
    }

    /// Reads from a place; the bytes lie in one page.
    pub fn read_place(&self, place: &Place, data: &mut [u8]) {
        match place {
            Place::Ram(offset) => self.ram.read(*offset, data),
            Place::Mmio(handler, offset) => {
                for (i, part) in data.chunks_mut(8).enumerate() {
                    handler.read(self.cpu, offset + 8 * i as u64, part);
                }
            }
            Place::Nothing => data.fill(0xff),
        }
    }

    /// Memory of a page that may have translations was written: `len` bytes at RAM offset `offset`.
    pub fn written(&mut self, offset: u64, len: usize) {
        let own = 1 << (self.cpu & 31);
        if self.phys.written(offset, len as u64, own) & own != 0 {
            self.code_writes.push((offset, len as u64));
        }
    }

    /// Writes to a place; the bytes lie in one page.
    pub fn write_place(&mut self, place: &Place, data: &[u8]) {
        match place {
            Place::Ram(offset) => {
                self.ram.write(*offset, data);
                self.written(*offset, data.len());
            }
            Place::Mmio(handler, offset) => {
                for (i, part) in data.chunks(8).enumerate() {
                    handler.write(self.cpu, offset + 8 * i as u64, part);
                }
            }
            Place::Nothing => {}
        }
    }
}

/// Linear memory for helpers.
pub struct Linear<'a> {
    /// The tables.
    pub tables: &'a mut Tables,
    /// Their bookkeeping.
    pub mmu: &'a mut Mmu,
}

impl Linear<'_> {
    /// The host address when the TLB has the whole access.
    fn hit(&self, addr: u64, len: usize, class: Class, write: bool) -> Option<*mut u8> {
        let table = &self.tables[class as usize][usize::from(write)];
        let i = index(addr);
        let at = addr.wrapping_sub(table.tag[i]);
        (at < PAGE && at + len as u64 <= PAGE).then(|| (table.host[i] + at) as *mut u8)
    }

    /// Notes the data breakpoints an access of the guest's hits.
    fn watch(&mut self, addr: u64, len: usize, who: As, write: bool) {
        if self.mmu.watches.data && who != As::System {
            self.mmu.hits |= self.mmu.watches.hits(addr, len as u64, write);
        }
    }

    fn mask(&self, addr: u64) -> u64 {
        if self.mmu.view.efer & cpu::bits::efer::LMA != 0 {
            addr
        } else {
            addr & 0xffff_ffff
        }
    }

    /// Places of an access, page by page: (place, bytes).
    fn places(
        &mut self,
        addr: u64,
        len: usize,
        class: Class,
        write: bool,
    ) -> Fault<Vec<(Place, usize)>> {
        let mut out = Vec::with_capacity(2);
        let mut done = 0;
        while done < len {
            let at = self.mask(addr.wrapping_add(done as u64));
            let n = ((PAGE - at % PAGE) as usize).min(len - done);
            out.push((self.mmu.resolve(self.tables, at, class, write)?, n));
            done += n;
        }
        Ok(out)
    }
}

impl LinearMemory for Linear<'_> {
    fn read(&mut self, addr: u64, data: &mut [u8], who: As) -> Fault {
        let class = self.mmu.class(who);
        let addr = self.mask(addr);
        if let Some(host) = self.hit(addr, data.len(), class, false) {
            // SAFETY: a TLB entry's page lies in the pool's mapping, and the access inside the page.
            unsafe { std::ptr::copy_nonoverlapping(host, data.as_mut_ptr(), data.len()) };
            return Ok(());
        }
        self.watch(addr, data.len(), who, false);
        let mut done = 0;
        for (place, n) in self.places(addr, data.len(), class, false)? {
            self.mmu.read_place(&place, &mut data[done..done + n]);
            done += n;
        }
        Ok(())
    }

    fn write(&mut self, addr: u64, data: &[u8], who: As) -> Fault {
        let class = self.mmu.class(who);
        let addr = self.mask(addr);
        if let Some(host) = self.hit(addr, data.len(), class, true) {
            // SAFETY: see `read`.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), host, data.len()) };
            return Ok(());
        }
        self.watch(addr, data.len(), who, true);
        let mut done = 0;
        for (place, n) in self.places(addr, data.len(), class, true)? {
            self.mmu.write_place(&place, &data[done..done + n]);
            done += n;
        }
        Ok(())
    }

    fn read_u(&mut self, addr: u64, size: usize, who: As) -> Fault<u64> {
        let class = self.mmu.class(who);
        let at = self.mask(addr);
        if let Some(host) = self.hit(at, size, class, false) {
            // SAFETY: see `read`.
            unsafe {
                match size {
                    8 => return Ok(host.cast::<u64>().read_unaligned()),
                    4 => return Ok(host.cast::<u32>().read_unaligned().into()),
                    2 => return Ok(host.cast::<u16>().read_unaligned().into()),
                    _ => {}
                }
            }
        }
        let mut b = [0; 8];
        self.read(addr, &mut b[..size], who)?;
        Ok(u64::from_le_bytes(b))
    }

    fn write_u(&mut self, addr: u64, size: usize, value: u64, who: As) -> Fault {
        let class = self.mmu.class(who);
        let at = self.mask(addr);
        if matches!(size, 2 | 4 | 8)
            && let Some(host) = self.hit(at, size, class, true)
        {
            // SAFETY: see `read`.
            unsafe {
                match size {
                    8 => host.cast::<u64>().write_unaligned(value),
                    4 => host.cast::<u32>().write_unaligned(value as u32),
                    _ => host.cast::<u16>().write_unaligned(value as u16),
                }
            }
            return Ok(());
        }
        self.write(addr, &value.to_le_bytes()[..size], who)
    }

    fn fill(&mut self, addr: u64, len: usize, value: u8, who: As) -> Fault {
        let class = self.mmu.class(who);
        let at = self.mask(addr);
        if let Some(host) = self.hit(at, len, class, true) {
            // SAFETY: see `read`.
            unsafe { host.write_bytes(value, len) };
            return Ok(());
        }
        self.write(addr, &vec![value; len], who)
    }

    fn copy(&mut self, from: u64, to: u64, len: usize, who: As) -> Fault {
        let class = self.mmu.class(who);
        let (source, target) = (self.mask(from), self.mask(to));
        let hits = self
            .hit(source, len, class, false)
            .zip(self.hit(target, len, class, true));
        if let Some((source, target)) = hits
            && source.addr().abs_diff(target.addr()) >= len
        {
            // SAFETY: see `read`; they do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(source, target, len) };
            return Ok(());
        }
        let mut data = vec![0; len];
        self.read(from, &mut data, who)?;
        self.write(to, &data, who)
    }

    fn probe_write(&mut self, addr: u64, len: usize, who: As) -> Fault {
        let class = self.mmu.class(who);
        let addr = self.mask(addr);
        if self.hit(addr, len, class, true).is_some() {
            return Ok(());
        }
        self.places(addr, len, class, true).map(|_| ())
    }

    fn watched(&self) -> bool {
        self.mmu.hits != 0
    }

    fn is_memory(&mut self, addr: u64, write: bool) -> bool {
        if self.mmu.watches.data_on_page(addr) {
            // One element at a time, for the trap after the one that hits.
            return false;
        }
        let class = self.mmu.class(As::Current);
        let addr = self.mask(addr);
        if self.hit(addr, 1, class, write).is_some() {
            return true;
        }
        matches!(
            self.mmu.resolve(self.tables, addr, class, write),
            Ok(Place::Ram(_))
        )
    }

    fn phys(&self) -> &PhysMap {
        &self.mmu.phys
    }

    fn context_changed(&mut self, state: &State) {
        self.mmu.sync(state);
        // The old address space's entries must not serve the new one.
        self.mmu.flush_all(self.tables);
    }
}
