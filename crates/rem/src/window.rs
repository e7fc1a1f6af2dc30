//! The window: the host's MMU shows user memory of the guest at the guest's own addresses plus a
//! constant, so that translated code reaches it without a probe.
//!
//! Of a guest's 128 TiB of user addresses the window has two parts. The *low* part is the first TiB
//! (programs linked at fixed addresses, and all of a 32-bit program), shown at [`Window::low`]. The
//! *high* part is the four TiB in which Linux puts programs, heaps, mappings and stacks
//! ([`HIGH`]), shown at the guest's address plus [`Window::high`]. Both lie where the host's own
//! process has nothing, with room around them, so that an address near a checked one faults rather
//! than hits something else.
//!
//! What is shown is a cache of translations, as a TLB is: a page is mapped when it is first touched
//! and taken away when the guest invalidates it.
#![allow(unsafe_code)] // mappings at addresses of our own choice

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pgm::Ram;
use rustix::mm::{MapFlags, ProtFlags};

use crate::ctx::{self, Ctx, Part, WINDOW_TABLE};
use crate::host::{self, Extract};

const PAGE: u64 = pgm::PAGE_SIZE;
/// Bytes of address space that are opened at once for pages to be shown in.
const CHUNK: u64 = 1 << 21;
/// Bytes of address space that one entry of the check decides about.
const SLOT: u64 = 1 << 40;
/// Slots of guest addresses in the high part.
pub const HIGH: [u64; 4] = [0x55, 0x56, 0x7e, 0x7f];
/// What to add to an address in slot `slot` of 256 that the window does not have: whatever bits 48 to
/// 63 are, the sum is not canonical or in the host kernel's half, and faults.
fn nowhere(slot: usize) -> u64 {
    if slot < 128 { 1 << 47 } else { 0 }
}

/// Nothing else is within this distance of a part, but for the context: it lies at the start of the
/// margin in front of the low part.
const MARGIN: u64 = ctx::GS;
/// Windows a process may have: places of theirs are far enough apart.
const WINDOWS: u32 = 9;
/// Runs of pages shown at once by all windows, at most: each may be two mappings of the host's, with
/// the gap after it, and Linux gives a process 65530 of them (vm.max_map_count).
const RUNS: usize = 28_000;

/// Timestamp counts without a flush after which a program is worth a window, at first: some
/// milliseconds. A page costs a few thousand to show.
const QUIET: u64 = 16_000_000;
/// The same for programs that flush again soon after.
const MAX_QUIET: u64 = 4 * QUIET;

/// When user code goes through the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// Never.
    Never,
    /// When the address space has not changed for a while.
    Auto,
    /// Always: for tests.
    Always,
}

/// Timestamp counts that a look at a run takes.
const LOOK: u64 = 150;
/// One in so many timestamp counts may be spent on such looks, and what is not spent is kept for
/// later, as far as this goes.
const LOOKING: u64 = 8;
const MAX_CREDIT: u64 = 2 * QUIET;

/// Decides whether the window is used.
pub struct Policy {
    when: Windows,
    /// CR3 of the program that has the window; `None`: nobody.
    owner: Option<u64>,
    /// Times it had been emptied when that began.
    flushes: u64,
    /// Program that ran last without it, and the number of its turn.
    other: (u64, u64),
    /// Timestamp of when the owner got it, or of when the other program's turn began.
    since: u64,
    other_since: u64,
    quiet: u64,
    /// Times it was given to a program.
    pub openings: u64,
}

impl Policy {
    /// A closed window.
    pub fn new(when: Windows) -> Self {
        Self {
            when,
            owner: None,
            flushes: 0,
            other: (u64::MAX, 0),
            since: 0,
            other_since: 0,
            quiet: QUIET,
            openings: 0,
        }
    }

    /// Whether the program with this CR3, which goes on now, uses the window. `flushes`: how often
    /// it was emptied; `turn`: how often CR3 was loaded.
    pub fn use_window(&mut self, flushes: u64, cr3: u64, turn: u64) -> bool {
        if self.when != Windows::Auto {
            return self.when == Windows::Always;
        }
        if self.owner == Some(cr3) && flushes == self.flushes {
            return true;
        }
        // SAFETY: reads a counter.
        let now = unsafe { std::arch::x86_64::_rdtsc() };
        if flushes != self.flushes {
            if self.owner.take().is_some() {
                let short = now.wrapping_sub(self.since) < 8 * QUIET;
                self.quiet = if short {
                    (self.quiet * 2).min(MAX_QUIET)
                } else {
                    QUIET
                };
            }
            self.flushes = flushes;
            self.other.0 = u64::MAX;
        }
        if self.other != (cr3, turn) {
            (self.other, self.other_since) = ((cr3, turn), now);
            return false;
        }
        if now.wrapping_sub(self.other_since) < self.quiet {
            return false;
        }
        (self.owner, self.since) = (Some(cr3), now);
        self.openings += 1;
        true
    }
}

/// The part of a window that addresses with `slot` in bits 40 to 63 are in.
pub fn part(slot: u64) -> Option<Part> {
    match slot {
        0 => Some(Part::Low),
        _ => HIGH.contains(&slot).then_some(Part::High),
    }
}

/// The part of a window that an address is in.
pub fn part_of(linear: u64) -> Option<Part> {
    part(linear / SLOT)
}

/// Whether an address is in the high part of a window.
pub fn is_high(linear: u64) -> bool {
    part_of(linear) == Some(Part::High)
}

/// How an instruction reaches memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Through one part of the window.
    Part(Part),
    /// Through whatever part the address is in.
    Any,
    /// Through the software TLB.
    Probe,
}

/// What was learned of instructions, by the RAM offset of their first byte.
#[derive(Default)]
pub struct Reaches {
    known: HashMap<u64, Reach>,
    unshown: HashMap<u64, u8>,
}

/// Instructions remembered at once.
const REMEMBERED: usize = 1 << 16;
/// Accesses to pages that cannot be shown, after which an instruction is to use the TLB.
const PATIENCE: u8 = 8;

impl Reaches {
    /// What is known of an instruction.
    pub fn get(&self, offset: u64) -> Option<Reach> {
        self.known.get(&offset).copied()
    }

    /// An access of the instruction was not in the part where it looked, but at an address with
    /// `slot` in bits 40 to 47.
    pub fn stray(&mut self, offset: u64, slot: u64) {
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let reach = match self.known.get(&offset) {
            None => part(slot).map_or(Reach::Any, Reach::Part),
            Some(Reach::Part(_)) => Reach::Any,
            Some(reach) => *reach,
        };
        self.known.insert(offset, reach);
    }

    /// It went to a page that cannot be shown. True: from now on it is to use the TLB.
    pub fn unshown(&mut self, offset: u64) -> bool {
        if self.unshown.len() >= REMEMBERED {
            self.unshown.clear();
        }
        let n = self.unshown.entry(offset).or_insert(0);
        *n += 1;
        if *n < PATIENCE {
            return false;
        }
        self.unshown.remove(&offset);
        self.known.insert(offset, Reach::Probe);
        true
    }
}

/// Windows in use, a bit for each.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// Pages that follow each other in the guest and in RAM.
#[derive(Clone, Copy)]
pub struct Run {
    /// Bytes.
    len: u64,
    /// RAM offset of the first.
    pub ram: u64,
    /// Shown for writing.
    pub write: bool,
}

/// See the module.
pub struct Window {
    ram: Arc<Ram>,
    number: u32,
    /// What is reserved: start, bytes.
    reserved: Vec<(u64, u64)>,
    /// Runs by the linear address of their first page; they do not overlap.
    runs: BTreeMap<u64, Run>,
    /// Numbers of the [`CHUNK`]s of linear addresses with runs, where nothing is reserved: a
    /// mapping that replaces nothing costs the host two thirds. Memory that the host places for
    /// itself does not get there, as it goes where most room is, above or between the parts.
    chunks: BTreeSet<u64>,
    /// CR3 of the address space it shows.
    pub space: u64,
    /// Bytes of the largest page of the guest's that parts of are shown.
    pub largest: u64,
    /// The guest may have changed that address space and said so: what is shown is to be looked
    /// at again before code uses it.
    pub stale: bool,
    /// Timestamp counts that may be spent on looking, and when that was worked out last.
    credit: (u64, u64),
    /// Pages mapped since it was made.
    pub fills: u64,
}

// SAFETY: the mappings belong to the value; a vCPU's thread is its only user.
unsafe impl Send for Window {}

impl Window {
    /// A window on memory of `ram`; `None` when the host cannot, or the process has no room for one.
    pub fn new(ram: &Arc<Ram>) -> Option<Self> {
        if !host::has_fsgsbase() || host::extract() != Extract::Pext {
            return None;
        }
        (0..WINDOWS).find_map(|number| {
            let bit = 1 << number;
            if TAKEN.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
                return None;
            }
            // From here on the value gives everything back when it goes.
            let mut window = Self {
                ram: ram.clone(),
                number,
                reserved: Vec::new(),
                runs: BTreeMap::new(),
                chunks: BTreeSet::new(),
                space: u64::MAX,
                largest: PAGE,
                stale: false,
                credit: (0, 0),
                fills: 0,
            };
            let high = window.high();
            let part = |first: u64, last: u64| {
                let start = (first * SLOT).wrapping_add(high) - MARGIN;
                (start, (last + 1 - first) * SLOT + 2 * MARGIN)
            };
            let parts = [
                (window.low() - MARGIN, SLOT + 2 * MARGIN),
                part(HIGH[0], HIGH[1]),
                part(HIGH[2], HIGH[3]),
            ];
            let all = parts.into_iter().all(|p| window.reserve(p));
            all.then_some(window)
        })
    }

    /// Where the context is to be: the low part is then what GS points at.
    pub fn context(&self) -> u64 {
        self.low() - ctx::GS
    }

    /// Sets up what `ctx` has for the window.
    pub fn open(&self, ctx: &mut Ctx) -> std::io::Result<()> {
        ctx.window_deltas = std::array::from_fn(nowhere);
        ctx.window_deltas[0] = self.low();
        for slot in HIGH {
            ctx.window_deltas[slot as usize] = self.high();
        }
        for (table, slots) in ctx.window_tables.iter_mut().zip([&HIGH[..], &[0]]) {
            let start = table.0.as_mut_ptr();
            // SAFETY: whole pages of the context's own, which only translated code reads.
            let closed = unsafe {
                libc::mprotect(start.cast(), WINDOW_TABLE, libc::PROT_NONE) == 0
                    && slots.iter().all(|slot| {
                        let page = start.add((slot * PAGE) as usize);
                        libc::mprotect(page.cast(), PAGE as usize, libc::PROT_READ) == 0
                    })
            };
            if !closed {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    }

    fn reserve(&mut self, (start, len): (u64, u64)) -> bool {
        // SAFETY: NOREPLACE takes only what is free.
        let got = unsafe { none(start, len, MapFlags::FIXED_NOREPLACE) };
        if got == Some(start) {
            self.reserved.push((start, len));
        } else if let Some(other) = got {
            // A kernel that does not know the flag.
            // SAFETY: unmaps what was just mapped.
            let _ = unsafe { rustix::mm::munmap(other as *mut _, len as usize) };
        }
        got == Some(start)
    }

    /// What to add to a guest's address in the high part.
    pub fn high(&self) -> u64 {
        (u64::from(self.number + 1) * 4 * SLOT).wrapping_neg()
    }

    /// Where the low part starts: what to add to a guest's address in it.
    pub fn low(&self) -> u64 {
        (u64::from(self.number) * 2 + 2) * SLOT
    }

    /// The host address that shows the guest's address, if the window has it.
    fn host(&self, linear: u64) -> Option<u64> {
        let delta = match part_of(linear)? {
            Part::High => self.high(),
            Part::Low => self.low(),
        };
        Some(linear.wrapping_add(delta))
    }

    /// The guest's address that is shown at `host`.
    pub fn linear(&self, host: u64) -> Option<u64> {
        [self.low(), self.high()]
            .into_iter()
            .map(|delta| host.wrapping_sub(delta))
            .find(|linear| self.host(*linear) == Some(host))
    }

    /// Shows `len` bytes of RAM from offset `ram` on at `linear` (all multiples of the page size,
    /// in one slot). False: the host cannot.
    pub fn map(&mut self, linear: u64, ram: u64, len: u64, write: bool) -> bool {
        let Some(host) = self.host(linear) else {
            return false;
        };
        let windows = TAKEN.load(Ordering::Relaxed).count_ones().max(1);
        if self.runs.len() >= RUNS / windows as usize {
            self.clear();
        }
        if self.cut(linear, len) {
            self.hide(linear, len);
        }
        for chunk in linear / CHUNK..=(linear + len - 1) / CHUNK {
            if self.chunks.insert(chunk) {
                self.hide(chunk * CHUNK, CHUNK);
            }
        }
        let prot = match write {
            true => ProtFlags::READ | ProtFlags::WRITE,
            false => ProtFlags::READ,
        };
        let flags = MapFlags::SHARED | MapFlags::FIXED_NOREPLACE | MapFlags::POPULATE;
        // SAFETY: the range lies in this window's part of the address space, and nothing is there.
        let mapped = unsafe {
            rustix::mm::mmap(
                host as *mut _,
                len as usize,
                prot,
                flags,
                self.ram.fd(),
                ram,
            )
        };
        if mapped.is_err() {
            return false;
        }
        self.fills += 1;
        self.runs.insert(linear, Run { len, ram, write });
        true
    }

    /// Whether the page at `linear` is shown.
    pub fn shows(&self, linear: u64) -> bool {
        let before = self.runs.range(..=linear).next_back();
        before.is_some_and(|(start, run)| linear - start < run.len)
    }

    /// Takes `linear .. linear + len` out of the runs.
    fn cut(&mut self, linear: u64, len: u64) -> bool {
        let end = linear + len;
        let mut hit = false;
        while let Some((start, run)) = self.runs.range(..end).next_back().map(|(s, r)| (*s, *r)) {
            let run_end = start + run.len;
            if run_end <= linear {
                break;
            }
            hit = true;
            self.runs.remove(&start);
            if run_end > end {
                let rest = Run {
                    len: run_end - end,
                    ram: run.ram + (end - start),
                    ..run
                };
                self.runs.insert(end, rest);
            }
            if start < linear {
                let rest = Run {
                    len: linear - start,
                    ..run
                };
                self.runs.insert(start, rest);
            }
        }
        hit
    }

    /// Maps nothing at `linear .. linear + len`, all of it in open chunks.
    fn hide(&self, linear: u64, len: u64) {
        if let Some(host) = self.host(linear) {
            // SAFETY: the range lies in this window's part of the address space.
            let done = unsafe { rustix::mm::munmap(host as *mut _, len as usize) };
            assert!(done.is_ok(), "the host cannot take a mapping away");
        }
    }

    /// Reserves `linear .. linear + len` again.
    fn close(&self, linear: u64, len: u64) {
        if let Some(host) = self.host(linear) {
            // SAFETY: the range lies in this window's part of the address space.
            let done = unsafe { none(host, len, MapFlags::FIXED) };
            assert!(done.is_some(), "the host cannot take a mapping away");
        }
    }

    /// Takes away what is shown of the guest's page with `linear`, whatever its size.
    pub fn drop_page(&mut self, linear: u64) {
        let inside = self.largest - 1;
        self.drop_range(linear & !inside, linear | inside);
    }

    /// Takes away what is shown of `first ..= last`.
    pub fn drop_range(&mut self, first: u64, last: u64) {
        if last - first >= 1 << 30 {
            return self.clear();
        }
        let len = last - first + 1;
        if self.cut(first, len) {
            self.hide(first, len);
        }
    }

    /// Takes away every page of RAM offset `page` that is shown for writing.
    pub fn drop_writes(&mut self, page: u64) {
        let shown: Vec<u64> = self
            .runs
            .iter()
            .filter(|(_, r)| r.write && (r.ram..r.ram + r.len).contains(&page))
            .map(|(start, r)| start + (page - r.ram))
            .collect();
        for linear in shown {
            self.drop_range(linear, linear + (PAGE - 1));
        }
    }

    /// Whether it is worth to look whether the guest still has what is shown. The time spent on that
    /// is a small part of the time that passes.
    pub fn may_refresh(&mut self) -> bool {
        // SAFETY: reads a counter.
        let now = unsafe { std::arch::x86_64::_rdtsc() };
        let (credit, since) = self.credit;
        let credit = (credit + now.wrapping_sub(since) / LOOKING).min(MAX_CREDIT);
        let price = LOOK * self.runs.len() as u64;
        self.credit = (credit.saturating_sub(price), now);
        credit >= price
    }

    /// Takes away the pages that are not what they were: `holds` says it of a linear address, and
    /// the run that has been shown from there on; how many bytes of it are alike, or `None` if the
    /// page is to go.
    pub fn refresh(&mut self, mut holds: impl FnMut(u64, Run) -> Option<u64>) {
        self.stale = false;
        // Linear addresses of what goes, and whether something was kept since.
        let mut gone: Vec<(u64, u64)> = Vec::new();
        let mut kept = true;
        for (start, run) in &self.runs {
            let mut done = 0;
            while done < run.len {
                let at = start + done;
                let rest = Run {
                    len: run.len - done,
                    ram: run.ram + done,
                    ..*run
                };
                if let Some(len) = holds(at, rest) {
                    kept = true;
                    done += len.max(PAGE);
                    continue;
                }
                let end = at + PAGE;
                match gone.last_mut() {
                    Some((_, to)) if !kept && at / CHUNK - (*to - 1) / CHUNK <= 1 => *to = end,
                    _ => gone.push((at, end)),
                }
                kept = false;
                done += PAGE;
            }
        }
        for (from, to) in gone {
            self.cut(from, to - from);
            self.hide(from, to - from);
        }
    }

    /// Takes everything away.
    pub fn clear(&mut self) {
        self.stale = false;
        self.largest = PAGE;
        self.runs.clear();
        let mut chunks = std::mem::take(&mut self.chunks).into_iter().peekable();
        // What lies in one slot goes at once.
        while let Some(first) = chunks.next() {
            let slot = first * CHUNK / SLOT;
            let mut last = first;
            while let Some(next) = chunks.next_if(|next| next * CHUNK / SLOT == slot) {
                last = next;
            }
            self.close(first * CHUNK, (last + 1 - first) * CHUNK);
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        for (start, len) in &self.reserved {
            // SAFETY: reserved by `new`; no translated code runs any more.
            let _ = unsafe { rustix::mm::munmap(*start as *mut _, *len as usize) };
        }
        TAKEN.fetch_and(!(1 << self.number), Ordering::Relaxed);
    }
}

/// Maps memory that cannot be accessed, without a reservation; where.
///
/// # Safety
/// What is mapped there, if `flags` let it be replaced, must be the caller's and unused.
unsafe fn none(start: u64, len: u64, flags: MapFlags) -> Option<u64> {
    let flags = flags | MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: the caller's promise.
    let at = unsafe {
        rustix::mm::mmap_anonymous(start as *mut _, len as usize, ProtFlags::empty(), flags)
    };
    at.ok().map(|p| p as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peek(window: &Window, linear: u64) -> u8 {
        let host = window.host(linear).unwrap();
        // SAFETY: the test mapped it.
        unsafe { (host as *const u8).read_volatile() }
    }

    fn is_shown(window: &Window, linear: u64) -> bool {
        let host = window.host(linear).unwrap();
        // SAFETY: asks about residency only; ENOMEM never happens, everything is reserved.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().any(|line| {
            let range = line.split(' ').next().unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let at = |n| u64::from_str_radix(n, 16).unwrap();
            (at(from)..at(to)).contains(&host) && line.contains("oxbox-guest-ram")
        })
    }

    #[test]
    fn pages_are_shown_and_taken_away() {
        let ram = Ram::new(16 * PAGE).unwrap();
        let block = ram.alloc(16 * PAGE).unwrap().offset;
        for n in 0..16 {
            ram.write(block + n * PAGE, &[n as u8 + 1]);
        }
        let mut w = Window::new(&ram).unwrap();
        for base in [0x40_0000, 0x5555_5555_4000, 0x7fff_ffff_0000] {
            assert!(w.map(base, block, 4 * PAGE, true));
            assert!(w.map(base + PAGE, block + 8 * PAGE, PAGE, false));
            let seen: Vec<u8> = (0..4).map(|n| peek(&w, base + n * PAGE)).collect();
            assert_eq!(seen, [1, 9, 3, 4]);
            w.drop_writes(block + 2 * PAGE);
            let shown: Vec<bool> = (0..4).map(|n| is_shown(&w, base + n * PAGE)).collect();
            assert_eq!(shown, [true, true, false, true]);
            w.drop_range(base, base + PAGE - 1);
            assert!(!is_shown(&w, base) && is_shown(&w, base + PAGE));
            assert_eq!(w.linear(w.host(base).unwrap()), Some(base));
        }
        w.clear();
        assert!(!is_shown(&w, 0x40_0000 + PAGE) && !is_shown(&w, 0x5555_5555_5000));
        assert!(!w.map(0x1_0000_0000_0000, block, PAGE, false));
        assert!(!w.map(0x1234_0000_0000, block, PAGE, false));
    }

    #[test]
    fn what_the_guest_changed_is_taken_away() {
        let ram = Ram::new(16 * PAGE).unwrap();
        let block = ram.alloc(16 * PAGE).unwrap().offset;
        let mut w = Window::new(&ram).unwrap();
        let at = |n: u64| 0x5555_5555_4000 + n * PAGE;
        assert!(w.map(at(0), block, 4 * PAGE, true));
        assert!(w.map(at(4), block + 8 * PAGE, PAGE, false));
        assert!(w.map(at(6), block + 5 * PAGE, PAGE, false));
        // On the other side of what the host has a table for.
        assert!(w.map(at(2000), block + 6 * PAGE, PAGE, true));
        let stays = |linear: u64, run: Run| {
            assert_eq!(run.write, linear < at(4) || linear == at(2000));
            [0, 3, 6].iter().any(|n| linear == at(*n)).then_some(PAGE)
        };
        w.stale = true;
        w.refresh(stays);
        assert!(!w.stale);
        let all = [0, 1, 2, 3, 4, 6, 2000].map(|n| (is_shown(&w, at(n)), w.shows(at(n))));
        let expected = [true, false, false, true, false, true, false].map(|s| (s, s));
        assert_eq!(all, expected);
        // What is gone can be shown again, and what stays be replaced.
        assert!(w.map(at(1), block + 9 * PAGE, PAGE, true));
        assert!(w.map(at(0), block + 10 * PAGE, PAGE, true));
        ram.write(block + 10 * PAGE, &[77]);
        assert_eq!(peek(&w, at(0)), 77);
        w.largest = PAGE * 4;
        w.drop_page(at(1));
        assert!(!is_shown(&w, at(0)) && is_shown(&w, at(6)));
    }

    #[test]
    fn no_address_leads_elsewhere() {
        for slot in 0..256 {
            for top in [
                0, 1, 0x3fff, 0x4000, 0x7fff, 0x8000, 0xbfff, 0xc000, 0xffff_u64,
            ] {
                let host = (top << 48 | (slot as u64) << 40).wrapping_add(nowhere(slot));
                let user = host < 1 << 47;
                assert!(!user, "{top:#x} {slot:#x}: {host:#x}");
            }
        }
    }

    #[test]
    fn windows_lie_apart() {
        let ram = Ram::new(PAGE).unwrap();
        let all: Vec<Window> = (0..4).filter_map(|_| Window::new(&ram)).collect();
        assert_eq!(all.len(), 4);
        let mut parts: Vec<_> = all.iter().flat_map(|w| w.reserved.clone()).collect();
        parts.sort_unstable();
        assert!(parts.windows(2).all(|p| p[0].0 + p[0].1 <= p[1].0));
    }
}
