//! The Rust side of one vCPU's engine: finding and making translations, delivering events.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use cpu::bits::{cr4, debugctl, dr6, msr, rflags};
use cpu::{Bus, Exception, Exit, Fault, RunState, Signals, signal};
use pgm::{PageFlags, PhysMap};

use crate::Error;
use crate::blocks::{self, Around, Blocks, Invalidated, Key};
use crate::ctx::{Class, Ctx, Gate};
use crate::debug::Watches;
use crate::features::Features;
use crate::mode::{Mode, fast_limits};
use crate::peers::{Peer, Peers, Unwrite};
use crate::restless::{Checks, Restless};
use crate::sys::{self, Event, Flush, Sys};
use crate::thunks;
use crate::tlb::{Linear, Mmu, Place};
use crate::translate::{self, Input, Variant};
use crate::window::{Policy, Reaches, Windows};

/// PAUSE instructions between two offers of the host's core: some microseconds of spinning.
const PAUSES: u64 = 64;
/// The bits of CR3 that are a PCID.
const PCID: u64 = 0xfff;
/// Writes in a row to a page with translations, after which it is freed of them: so many cost about
/// as much as making a translation again.
const BESIDE: u32 = 12;
/// Longest instruction.
const MAX_INSN: usize = 15;
/// Bytes read ahead of a block's start, for its instructions; more than nearly all blocks have.
const AHEAD: usize = 640;
/// Bytes read behind it, for jumps back.
const BEHIND: usize = 192;

/// Counters for `debugvm statistics`.
#[derive(Default)]
pub struct Stats {
    /// Calls from translated code, by kind.
    pub calls: [u64; crate::ctx::CALLS],
    /// Times the next block was looked up.
    pub dispatches: u64,
    /// Exceptions delivered.
    pub exceptions: u64,
    /// Interrupts delivered.
    pub interrupts: u64,
    /// SMIs taken.
    pub smis: u64,
    /// TLB flushes of any kind.
    pub flushes: u64,
    /// Pages that other engines were asked not to write to directly.
    pub unwrites: u64,
    /// PAUSE instructions.
    pub pauses: u64,
    /// Operations during which other engines stood still.
    pub alone: u64,
    /// Accesses of window code that were somewhere else.
    pub strays: u64,
    /// Instructions executed by helpers, by [`iced_x86::Code`].
    pub helped: Vec<u64>,
}

impl Stats {
    /// The instructions that helpers executed most, with their counts.
    pub fn most_helped(&self) -> Vec<(iced_x86::Code, u64)> {
        let mut all: Vec<_> = iced_x86::Code::values()
            .zip(self.helped.iter().copied())
            .filter(|(_, n)| *n > 0)
            .collect();
        all.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        all.truncate(20);
        all
    }
}

/// See the module.
pub struct Core {
    /// Index of the vCPU.
    pub cpu: usize,
    /// The machine.
    pub bus: Arc<dyn Bus>,
    /// Signals to this vCPU.
    pub signals: Arc<Signals>,
    /// Linear memory.
    pub mmu: Mmu,
    /// Translations.
    pub blocks: Blocks,
    /// The engines of the machine's vCPUs.
    pub peers: Arc<Peers>,
    /// What they want of this one.
    pub peer: Arc<Peer>,
    /// Mode of the code that runs.
    pub mode: Mode,
    pub mode_id: u32,
    /// Its table for indirect jumps.
    pub jc_table: usize,
    /// CR3 of the address space that local entries are of.
    space: u64,
    /// Why to leave, once decided.
    pub exit: Option<Exit>,
    /// The instruction that runs was started with TF set.
    pub step: bool,
    /// Where it is, and where the next one is: with BTF only branches trap.
    stepped: (u64, u64),
    /// DR6 bits of breakpoints that the instruction hit.
    pub debug: u64,
    /// It loaded SS: traps after it wait for the next one (SDM vol. 3, 6.8.3).
    pub inhibit: bool,
    /// The next instruction goes into a block of its own.
    pub single: bool,
    /// Instruction sets of the guest's processor.
    pub features: Features,
    /// Debug registers that watches were made from.
    watched: ([u64; 8], bool),
    /// Pieces of the access in the bounce buffer: place, bytes.
    pub bounce: Vec<(Place, usize)>,
    /// There is one piece, and it is written where it is: only to be reported.
    pub in_place: bool,
    /// Whether the block found last is on a global page.
    pub global: bool,
    /// Room for a page's code.
    code: Vec<u8>,
    /// Page that was written last beside its translations, and how often in a row.
    beside: (u64, u32),
    /// Whether user code uses the window.
    pub windows: Policy,
    /// Loads of CR3 so far.
    turn: u64,
    /// The latest page fault of code on the window: CR3, the instruction, and where it looked. The
    /// page is shown when the instruction is made again.
    pub missing: Option<(u64, u64, u64)>,
    /// How instructions in window code reach memory, where not as they usually would.
    pub reaches: Reaches,
    /// Pages whose code is written again and again.
    pub restless: Restless,
    /// Counters.
    pub stats: Stats,
}

impl Core {
    /// For vCPU `cpu`.
    pub fn new(
        cpu: usize,
        phys: Arc<PhysMap>,
        bus: Arc<dyn Bus>,
        peers: Arc<Peers>,
        cache: usize,
    ) -> Result<Self, Error> {
        let signals = bus.signals(cpu).clone();
        let peer = peers.join(cpu, phys.ram().clone(), signals.clone());
        Ok(Self {
            cpu,
            features: Features::of(bus.as_ref(), cpu),
            bus,
            signals,
            mmu: Mmu::new(cpu, phys),
            blocks: Blocks::new(cache)?,
            peers,
            peer,
            mode: Mode::of(&cpu::State::reset(0)),
            mode_id: 0,
            jc_table: 0,
            space: 0,
            exit: None,
            step: false,
            stepped: (0, 0),
            debug: 0,
            inhibit: false,
            single: false,
            watched: ([0; 8], false),
            bounce: Vec::new(),
            in_place: false,
            global: false,
            code: Vec::new(),
            beside: (u64::MAX, 0),
            windows: Policy::new(Windows::Never),
            turn: 0,
            missing: None,
            reaches: Reaches::default(),
            restless: Restless::new(Checks::Auto),
            stats: Stats {
                helped: vec![0; iced_x86::Code::values().len()],
                ..Stats::default()
            },
        })
    }

    /// Runs `f` on the machine as single-instruction helpers see it, then does the flushes it asks
    /// for and forgets translations it overwrote.
    pub fn with_sys<R>(&mut self, ctx: &mut Ctx, f: impl FnOnce(&mut Sys<'_>) -> R) -> R {
        self.mmu.sync(&ctx.state);
        let mut linear = Linear {
            tables: &mut ctx.tlb,
            mmu: &mut self.mmu,
        };
        let mut sys = Sys {
            state: &mut ctx.state,
            mem: &mut linear,
            bus: self.bus.as_ref(),
            cpu: self.cpu,
            flush: Flush::None,
            debug: 0,
        };
        let result = f(&mut sys);
        let flush = sys.flush;
        self.debug |= sys.debug;
        self.mmu.sync(&ctx.state);
        self.flush(ctx, flush);
        self.forget_written(ctx);
        result
    }

    /// Drops TLB entries and what depends on them.
    pub fn flush(&mut self, ctx: &mut Ctx, flush: Flush) {
        match flush {
            Flush::None => return,
            Flush::Page(linear) => {
                let (first, last) = self.mmu.flush_page(&mut ctx.tlb, linear);
                self.stats.flushes += 1;
                // INVLPG is nearly always for data: jumps stay wired then.
                if !self.blocks.may_enter(first, last) {
                    return;
                }
            }
            Flush::Space(pcid) => return self.forget_spaces(|cr3| cr3 & PCID == pcid),
            Flush::Switch { keep } => {
                self.stats.flushes += 1;
                return self.switch(ctx, keep);
            }
            Flush::NonGlobal => {
                self.forget_spaces(|_| true);
                self.mmu.flush_local(&mut ctx.tlb);
            }
            Flush::All => {
                self.forget_spaces(|_| true);
                self.mmu.flush_all(&mut ctx.tlb);
                self.space = ctx.state.cr3;
            }
        }
        self.stats.flushes += 1;
        self.close_window(ctx);
        self.blocks.clear_exec(ctx, flush != Flush::NonGlobal);
    }

    /// CR3 was loaded. `keep`: what is known of the new address space stays valid.
    ///
    /// Without PCIDs nothing local survives. With them, translations belong to the PCID, whatever
    /// the rest of CR3 is; those of an earlier user of a PCID are not kept.
    fn switch(&mut self, ctx: &mut Ctx, keep: bool) {
        let (old, new) = (self.space, ctx.state.cr3);
        self.space = new;
        let pcids = ctx.state.cr4 & cr4::PCIDE != 0;
        if pcids && keep && old == new {
            return;
        }
        self.turn += 1;
        self.close_window(ctx);
        if pcids && old & PCID != new & PCID {
            self.mmu.leave_space(&mut ctx.tlb, old);
            self.blocks.leave_space(ctx, old);
        } else {
            self.mmu
                .outdate_window_of(|cr3| !pcids || cr3 & PCID == old & PCID);
            self.mmu.flush_local(&mut ctx.tlb);
            self.blocks.clear_exec(ctx, false);
        }
        self.forget_spaces(|cr3| cr3 & PCID == new & PCID && !(keep && cr3 == new));
        if keep {
            self.mmu.enter_space(&mut ctx.tlb, new);
            self.blocks.enter_space(ctx, new);
        }
    }

    /// Nothing leads to code that uses the window before that is decided anew.
    fn close_window(&mut self, ctx: &mut Ctx) {
        if ctx.window != 0 {
            self.blocks.close_gates(ctx);
        }
    }

    fn forget_spaces(&mut self, which: impl Fn(u64) -> bool) {
        self.mmu.outdate_window_of(&which);
        self.mmu.forget_spaces(&which);
        self.blocks.forget_spaces(&which);
    }

    /// Drops translations of code that helpers or this vCPU's stores wrote. True if there were any.
    pub fn forget_written(&mut self, ctx: &mut Ctx) -> bool {
        if self.mmu.code_writes.is_empty() {
            return false;
        }
        let writes = std::mem::take(&mut self.mmu.code_writes);
        let linear = self.mode.linear(ctx.state.rip);
        let own = match self.mmu.fetch(linear) {
            Ok((Place::Ram(at), _)) => at & !0xfff,
            _ => u64::MAX,
        };
        let mut any = false;
        for (offset, len) in writes {
            // Who writes code from elsewhere will write more of it: then the page is better free
            // of translations, so that nobody looks at what else is written.
            any |= self.forget(ctx, offset, len, offset & !0xfff != own);
        }
        any
    }

    /// The instruction at `rip` writes to RAM offset `offset`, where there is no translation, but
    /// perhaps elsewhere on the page. Who does so often from another page makes code there: see
    /// [`Core::forget_written`].
    pub fn written_beside(&mut self, ctx: &mut Ctx, offset: u64, rip: u64) {
        let page = offset & !0xfff;
        if !self.blocks.has_page(page) {
            return;
        }
        if self.beside.0 != page {
            self.beside = (page, 0);
        }
        self.beside.1 += 1;
        if self.beside.1 < BESIDE {
            return;
        }
        self.beside.1 = 0;
        let linear = self.mode.linear(rip);
        if matches!(self.mmu.fetch(linear), Ok((Place::Ram(at), _)) if at & !0xfff != page) {
            self.forget(ctx, page, pgm::PAGE_SIZE, true);
        }
    }

    fn forget(&mut self, ctx: &mut Ctx, offset: u64, len: u64, page_too: bool) -> bool {
        let done = self.blocks.invalidate(ctx, offset, len, page_too);
        let page = offset & !0xfff;
        if done != Invalidated::Nothing && self.restless.dropped(page) {
            self.blocks.invalidate(ctx, page, pgm::PAGE_SIZE, true);
        }
        if !self.blocks.has_page(offset) {
            let bit = PageFlags::code(self.cpu);
            self.mmu.ram().flags(offset).fetch_and(!bit, SeqCst);
        }
        done != Invalidated::Nothing
    }

    /// Drops the block that a call's argument names if it is a checked translation of code that is
    /// different now.
    pub fn recheck(&mut self, ctx: &mut Ctx, arg: u32) {
        let Some((checked, offset)) = self.blocks.checked(arg) else {
            return;
        };
        let mut now = vec![0; checked.bytes.len()];
        self.mmu.ram().read(offset, &mut now);
        if checked.holds(&now) {
            return;
        }
        let (page, at) = (offset & !0xfff, (offset & 0xfff) as usize);
        self.restless
            .changed(page, at, &checked.bytes, &now, &self.mode);
        self.blocks.drop_checked(ctx, arg);
    }

    /// Raises `e` for the instruction at `rip`.
    pub fn raise(&mut self, ctx: &mut Ctx, e: Exception, rip: u64) {
        self.stats.exceptions += 1;
        self.step = false;
        // An instruction that faults is made again, and hits again.
        self.debug = 0;
        self.mmu.hits = 0;
        ctx.state.rip = rip;
        self.deliver(ctx, Event::Exception(e));
    }

    fn deliver(&mut self, ctx: &mut Ctx, event: Event) {
        ctx.state.run = RunState::Running;
        if self.with_sys(ctx, |sys| sys::deliver(sys, event)).is_err() {
            ctx.state.run = RunState::Shutdown;
            self.exit = Some(Exit::TripleFault);
        }
    }

    /// Signals and pending interrupts, at an instruction boundary. False: leave translated code.
    fn attend(&mut self, ctx: &mut Ctx) -> bool {
        *ctx.poll.get_mut() = 0;
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let bits = self.signals.get();
        if bits == 0 {
            return true;
        }
        self.attend_memory(ctx);
        if bits & signal::LEAVE != 0 {
            self.exit = Some(Exit::Signalled);
            return false;
        }
        if ctx.state.shadow {
            return true;
        }
        if bits & signal::SMI != 0 && !ctx.state.smm {
            self.signals.take(signal::SMI);
            self.stats.smis += 1;
            // With paging off nothing faults.
            let _ = self.with_sys(ctx, sys::enter_smm);
        } else if bits & signal::NMI != 0 && !ctx.state.nmi_blocked {
            self.signals.take(signal::NMI);
            self.deliver(ctx, Event::Nmi);
        } else if bits & signal::INTR != 0 && ctx.state.rflags & rflags::IF != 0 {
            match self.bus.interrupt_acknowledge(self.cpu) {
                Some(vector) => {
                    self.stats.interrupts += 1;
                    for page in self.restless.calm() {
                        self.blocks.drop_checked_page(ctx, page);
                    }
                    self.deliver(ctx, Event::External(vector));
                }
                None => {
                    // It vanished. One that came in the meantime is behind the clearing.
                    self.signals.take(signal::INTR);
                    if self.bus.interrupt_pending(self.cpu) {
                        self.signals.raise(signal::INTR);
                    }
                }
            }
        }
        self.exit.is_none()
    }

    /// Flushes and code writes that others asked for.
    ///
    /// True if there were any: host addresses that the block found before may be stale.
    pub fn attend_memory(&mut self, ctx: &mut Ctx) -> bool {
        let bits = self.signals.take(signal::FLUSH | signal::CODE);
        if bits & signal::FLUSH != 0 {
            self.flush(ctx, Flush::All);
        }
        if bits & signal::CODE != 0 {
            self.answer(ctx);
            let work = self.peer.take_work();
            for page in work.pages {
                self.forget(ctx, page, pgm::PAGE_SIZE, false);
            }
            for (offset, len) in work.writes {
                self.forget(ctx, offset, len, false);
            }
            self.peers.stand_aside(&self.peer);
        }
        bits != 0
    }

    /// Carries out what other engines wait for.
    fn answer(&mut self, ctx: &mut Ctx) -> bool {
        let (mmu, tlb) = (&mut self.mmu, &mut ctx.tlb);
        let mut any = true;
        self.peer.answer(|what| match what {
            Unwrite::Nothing => any = false,
            Unwrite::Pages(pages) => {
                for page in pages {
                    mmu.flush_writes(tlb, page);
                }
            }
            Unwrite::All => mmu.flush_all_writes(tlb),
        });
        any
    }

    /// The guest spins. Whom it waits for may have no host core: every now and then it gets ours.
    pub fn pause(&mut self) {
        self.stats.pauses += 1;
        if self.stats.pauses.is_multiple_of(PAUSES) && self.peers.several() {
            std::thread::yield_now();
        }
    }

    /// All other engines stand still until the next [`Core::together`]. True: on the way there
    /// this one did something for them, so that host addresses that the block found may be stale.
    pub fn alone(&mut self, ctx: &mut Ctx) -> bool {
        let (peers, peer) = (self.peers.clone(), self.peer.clone());
        self.stats.alone += 1;
        let mut answered = false;
        peers.alone(&peer, || answered |= self.answer(ctx));
        answered
    }

    /// The other engines go on, should this one have been alone.
    pub fn together(&mut self) {
        self.peers.release(&self.peer);
    }

    /// Finds where to go on from `ctx.state`: the host address of a translation, or of the way out
    /// with [`Core::exit`] set.
    pub fn dispatch(&mut self, ctx: &mut Ctx) -> u64 {
        self.stats.dispatches += 1;
        let host = loop {
            if self.exit.is_some() {
                break thunks::exit_address();
            }
            let inhibit = std::mem::take(&mut self.inhibit);
            if self.step || self.debug | self.mmu.hits != 0 {
                let traps = self.traps(ctx, inhibit);
                if traps != 0 {
                    let rip = ctx.state.rip;
                    self.raise(ctx, Exception::db(traps), rip);
                    continue;
                }
            }
            if !self.attend(ctx) {
                continue;
            }
            if ctx.state.run != RunState::Running {
                self.exit = Some(Exit::Halted);
                continue;
            }
            let shadow = std::mem::take(&mut ctx.state.shadow);
            let mut single = std::mem::take(&mut self.single) | shadow;
            // RF is for one instruction (SDM vol. 3, 17.3.1.1).
            let resume = ctx.state.rflags & rflags::RF != 0;
            ctx.state.rflags &= !rflags::RF;
            if (ctx.state.dr[7] | self.watched.0[7]) & 0xff != 0 {
                self.watch(ctx);
                let at = Mode::of(&ctx.state).linear(ctx.state.rip);
                if self.mmu.watches.code_on_page(at) {
                    single = true;
                    let hits = self.mmu.watches.at(at);
                    if hits != 0 && !resume && !inhibit {
                        let rip = ctx.state.rip;
                        self.raise(ctx, Exception::db(hits), rip);
                        continue;
                    }
                }
            }
            self.enter_mode(ctx, single);
            match self.block_at(ctx, ctx.state.rip) {
                Ok(Some(block)) => {
                    self.step = ctx.state.rflags & rflags::TF != 0;
                    if self.step {
                        let rip = ctx.state.rip;
                        let len = self.blocks.guest_len(block);
                        self.stepped = (rip, rip.wrapping_add(len) & self.mode.ip_mask());
                    }
                    break self.blocks.entry(block, false);
                }
                Ok(None) => {}
                Err(e) => {
                    let rip = ctx.state.rip;
                    self.raise(ctx, e, rip);
                }
            }
        };
        ctx.hflags = ctx.state.rflags;
        ctx.held = u32::from(self.signals.get() != 0);
        host
    }

    /// The same after an instruction that jumped: with less ado where it stayed in the mode and
    /// nothing else is to be looked at.
    pub fn go_on(&mut self, ctx: &mut Ctx) -> u64 {
        let state = &ctx.state;
        let bits = self.signals.get();
        let held = bits == signal::INTR && state.rflags & rflags::IF == 0;
        let busy = self.exit.is_some()
            || self.inhibit
            || self.single
            || self.step
            || self.debug | self.mmu.hits != 0
            || *ctx.poll.get_mut() != 0
            || bits != 0 && !held
            || state.shadow
            || state.run != RunState::Running
            || state.rflags & (rflags::RF | rflags::TF) != 0
            || (state.dr[7] | self.watched.0[7]) & 0xff != 0;
        if busy || self.mode.one() || !self.mode.is_of(state) {
            return self.dispatch(ctx);
        }
        self.mmu.sync(&ctx.state);
        for seg in 0..6 {
            (ctx.limit_read[seg], ctx.limit_write[seg]) = fast_limits(&ctx.state, seg);
        }
        (ctx.hflags, ctx.held) = (ctx.state.rflags, held.into());
        let rip = ctx.state.rip;
        if let Some(block) = self.blocks.indirect(ctx, self.jc_table, rip) {
            return self.blocks.entry(block, false);
        }
        match self.block_at(ctx, rip) {
            Ok(Some(block)) => {
                (self.blocks).add_indirect(ctx, self.jc_table, rip, block, self.global);
                self.blocks.entry(block, false)
            }
            Ok(None) => self.dispatch(ctx),
            Err(e) => {
                self.raise(ctx, e, rip);
                self.dispatch(ctx)
            }
        }
    }

    /// DR6 bits of the traps that follow the last instruction. `inhibit`: it loaded SS, and
    /// breakpoints that it hit are kept for the next one.
    fn traps(&mut self, ctx: &Ctx, inhibit: bool) -> u64 {
        let mut traps = self.debug | self.mmu.hits;
        (self.debug, self.mmu.hits) = (0, 0);
        let step = std::mem::take(&mut self.step);
        if inhibit {
            self.debug = traps;
            return 0;
        }
        let rip = ctx.state.rip;
        let went_on = rip == self.stepped.0 || rip == self.stepped.1;
        if step && !(ctx.state.debugctl & debugctl::BTF != 0 && went_on) {
            traps |= dr6::BS;
        }
        traps
    }

    /// Makes the watches those of the debug registers.
    fn watch(&mut self, ctx: &mut Ctx) {
        let mut now = (ctx.state.dr, ctx.state.long_mode());
        now.0[6] = 0;
        if now == self.watched {
            return;
        }
        self.watched = now;
        let watches = Watches::of(&now.0, now.1);
        if watches != self.mmu.watches {
            self.mmu.watches = watches;
            self.flush(ctx, Flush::All);
        }
    }

    /// Whether the instruction at offset `rip` needs a look before it runs.
    pub fn breaks(&self, rip: u64) -> bool {
        self.mode.debug() && self.mmu.watches.code_on_page(self.mode.linear(rip))
    }

    /// After an instruction that may change the mode: whether its block can go on, with at least
    /// one more instruction.
    pub fn stays(&mut self, ctx: &mut Ctx) -> bool {
        let enabled = ctx.state.rflags & rflags::IF != 0;
        if self.exit.is_some()
            || self.mode.one()
            || enabled && ctx.held != 0
            || !self.mode.is_of(&ctx.state)
        {
            return false;
        }
        // What it holds off comes after the next instruction, which does not look for interrupts.
        ctx.state.shadow = false;
        for seg in 0..6 {
            (ctx.limit_read[seg], ctx.limit_write[seg]) = fast_limits(&ctx.state, seg);
        }
        true
    }

    /// Makes the mode of `ctx.state` the current one.
    fn enter_mode(&mut self, ctx: &mut Ctx, single: bool) {
        let mut mode = Mode::of(&ctx.state);
        if single {
            mode = mode.single();
        }
        self.mmu.sync(&ctx.state);
        mode = self.with_window(ctx, mode);
        for seg in 0..6 {
            (ctx.limit_read[seg], ctx.limit_write[seg]) = fast_limits(&ctx.state, seg);
        }
        self.mode = mode;
        (self.mode_id, self.jc_table) = self.blocks.mode_id(ctx, &mode);
        ctx.mode = self.mode_id;
    }

    /// User code in `mode` is about to run: with the window, if that is to be used.
    ///
    /// The FS base stays what it is while the kernel runs, since translated code comes back from
    /// there by itself.
    fn with_window(&mut self, ctx: &mut Ctx, mode: Mode) -> Mode {
        let Some(window) = self.mmu.window.as_ref().filter(|_| mode.user()) else {
            return mode;
        };
        let high = window.high();
        let cr3 = ctx.state.cr3;
        let may = mode.may_window() && !self.mmu.watches.data;
        if may {
            self.mmu.refresh_window(cr3);
        }
        let used = may && self.windows.use_window(self.mmu.flushes, cr3, self.turn);
        let fs = if used { high } else { 0 };
        if ctx.window_fs != fs {
            self.blocks.close_gates(ctx);
            ctx.window_fs = fs;
        }
        ctx.window = used.into();
        if !used {
            return mode;
        }
        self.mmu.move_window(cr3);
        if let Some((space, rip, linear)) = self.missing.take()
            && (space, rip) == (cr3, ctx.state.rip)
        {
            // As a processor may that looks ahead: if it cannot be reached, nothing happens.
            let _ = self.mmu.show(linear, false);
        }
        mode.windowed()
    }

    /// Follows translated code into another mode.
    pub fn adopt(&mut self, ctx: &Ctx) {
        if ctx.mode != self.mode_id {
            self.mode_id = ctx.mode;
            self.mode = self.blocks.mode(ctx.mode);
            self.jc_table = self.mode.jc_table(ctx.mode);
            self.mmu.sync(&ctx.state);
        }
    }

    /// SYSCALL (0) or SYSRET (1) was executed in the current mode, and `ctx.state` is what came of
    /// it: the same goes without a helper from now on, if it can.
    pub fn open_gate(&mut self, ctx: &mut Ctx, which: usize) {
        let to = Mode::of(&ctx.state);
        let to = self.with_window(ctx, to);
        let class = [Class::Kernel, Class::User][which];
        let all = rflags::ARITH | rflags::TF | rflags::AC;
        if !to.code64()
            || to.class() != class
            || [to, self.mode]
                .iter()
                .any(|m| m.one() || m.debug() || m.aligned())
            || to.upper() != self.mode.upper()
            || which == 0 && ctx.state.sfmask & all != all
        {
            return;
        }
        let (id, _) = self.blocks.mode_id(ctx, &to);
        let (cs, ss) = (ctx.state.seg[1], ctx.state.seg[2]);
        ctx.gates[which][usize::from(to.upper())] = Gate {
            from: self.mode_id + 1,
            to: id,
            keep: !(ctx.state.sfmask | rflags::RF) as u32,
            cs,
            ss,
        };
    }

    /// An MSR was written: what was derived from it is made anew.
    pub fn msr_written(&mut self, ctx: &mut Ctx, index: u32) {
        match index {
            msr::EFER | msr::STAR..=msr::SFMASK => self.blocks.close_gates(ctx),
            msr::TSC | msr::TSC_ADJUST => self.read_tsc(ctx),
            _ => {}
        }
    }

    /// The vCPU starts to run in `ctx.state`, which others may have changed.
    pub fn begin(&mut self, ctx: &mut Ctx) {
        self.space = ctx.state.cr3;
        self.blocks.close_gates(ctx);
        self.read_tsc(ctx);
    }

    /// Tells translated code what the time-stamp counter is.
    fn read_tsc(&mut self, ctx: &mut Ctx) {
        let delta = self.bus.tsc_delta();
        ctx.tsc_known = delta.is_some().into();
        ctx.tsc_delta = delta.unwrap_or(0).wrapping_add(ctx.state.tsc_offset);
    }

    /// The translation for offset `rip` in the current mode, made if missing. `None`: something
    /// changed (an exit was set), look again.
    ///
    /// # Errors
    /// What the instruction fetch raises.
    pub fn block_at(&mut self, ctx: &mut Ctx, rip: u64) -> Fault<Option<u32>> {
        self.find(ctx, rip, Variant::Plain)
    }

    /// The same for a kind of translation.
    ///
    /// # Errors
    /// What the instruction fetch raises.
    pub fn find(&mut self, ctx: &mut Ctx, rip: u64, variant: Variant) -> Fault<Option<u32>> {
        let linear = self.mode.linear(rip);
        if self.mode.code64() && !sys::canonical(linear) || rip > self.mode.cs_limit {
            return Err(Exception::gp(0));
        }
        let (place, global) = self.mmu.fetch(linear)?;
        self.global = global;
        let Place::Ram(offset) = place else {
            self.exit = Some(Exit::EngineSwitch(format!(
                "the guest executes at {linear:#x}, where there is no memory"
            )));
            return Ok(None);
        };
        let variant = match self.restless.soft(offset & !0xfff) {
            Some(_) if variant == Variant::Trace => Variant::Plain,
            _ => variant,
        };
        let key = self.key(offset, rip, variant);
        if let Some((id, second)) = self.blocks.find(key) {
            match second {
                None => return Ok(Some(id)),
                Some(page) => {
                    if self.tail_is(linear, page)? {
                        return Ok(Some(id));
                    }
                }
            }
        }
        if translate::movable(&self.mode, rip)
            && let Some((template, second)) = self.blocks.template(key)
            && match second {
                None => true,
                Some(page) => self.tail_is(linear, page)?,
            }
        {
            let copy = self.added(|core| core.blocks.copy(ctx, key, template));
            if let Some(id) = copy {
                let around = Around {
                    table: self.jc_table,
                    page_of: |linear| self.mmu.known_page(linear),
                };
                self.blocks.follow(ctx, id, self.global, &around);
            }
            return Ok(copy);
        }
        self.translate(ctx, rip, linear, offset, variant)
    }

    /// Whether the page after the one of `linear` is at RAM offset `page`.
    ///
    /// # Errors
    /// What the instruction fetch raises.
    fn tail_is(&mut self, linear: u64, page: u64) -> Fault<bool> {
        let next = (linear & !0xfff).wrapping_add(0x1000);
        let (place, global) = self.mmu.fetch(next)?;
        self.global &= global;
        Ok(matches!(place, Place::Ram(o) if o & !0xfff == page))
    }

    /// The block that was made.
    fn added(&mut self, make: impl FnOnce(&mut Self) -> Result<u32, Error>) -> Option<u32> {
        match make(self) {
            Ok(id) => Some(id),
            Err(e) => {
                self.exit = Some(Exit::Fatal(e.to_string()));
                None
            }
        }
    }

    fn key(&self, offset: u64, rip: u64, variant: Variant) -> Key {
        (offset, rip, blocks::variant(self.mode_id, variant))
    }

    fn translate(
        &mut self,
        ctx: &mut Ctx,
        rip: u64,
        linear: u64,
        offset: u64,
        variant: Variant,
    ) -> Fault<Option<u32>> {
        if !self.blocks.has_room() {
            self.forget_all(ctx);
            self.enter_mode_again(ctx);
        }
        let at = (linear & 0xfff) as usize;
        let in_page = 0x1000 - at;
        let mut code = std::mem::take(&mut self.code);
        code.resize(0x1000 + MAX_INSN, 0);
        let from = at.saturating_sub(BEHIND);
        let mut to = (at + AHEAD).min(0x1000);
        let page = offset & !0xfff;
        let checked = self.checks(offset, variant);
        if !checked {
            // The flag goes up before the bytes are read: a write after that is reported.
            self.mark_code(ctx, page);
        }
        self.mmu.ram().read(page + from as u64, &mut code[from..to]);
        let next = self
            .mode
            .linear(rip.wrapping_add(in_page as u64) & self.mode.ip_mask());
        let mut second = None;
        if to == 0x1000 {
            match self.mmu.fetch(next) {
                Ok((Place::Ram(o), _)) => {
                    self.mmu.ram().read(o, &mut code[0x1000..]);
                    second = Some(o);
                    to += MAX_INSN;
                }
                Ok(_) => {
                    code[0x1000..].fill(0xff);
                    to += MAX_INSN;
                }
                Err(e) => {
                    if needs_more(&code[at..to], rip, &self.mode, self.features.options()) {
                        return Err(e);
                    }
                }
            }
        }
        let ac_modes = match self.mode.class() {
            Class::User => [self.mode_id; 2],
            _ => [Class::Kernel, Class::KernelOpen]
                .map(|class| self.blocks.number(&self.mode.with_class(class))),
        };
        let window = match &self.mmu.window {
            Some(window) if self.mode.window() => Some(translate::Window {
                high: window.high(),
                low: window.low(),
                reaches: &self.reaches,
                page,
            }),
            _ => None,
        };
        let host = self.mmu.ram().base() as u64 + page;
        let soft = self.restless.soft(page).filter(|_| checked);
        let input = Input {
            mode: self.mode,
            source: soft.map(|soft| translate::Source { host, soft }),
            window,
            rip,
            code: &code,
            known: (from, to),
            at,
            mode_id: self.mode_id,
            ac_modes,
            jc_table: self.jc_table,
            variant,
            features: &self.features,
        };
        let t = translate::translate(&input);
        let in_page = in_page as u64;
        let tail = second.filter(|_| u64::from(t.guest_len) > in_page);
        if let Some(o) = tail {
            self.mark_code(ctx, o & !0xfff);
            let mut now = [0; MAX_INSN];
            self.mmu.ram().read(o, &mut now);
            if now[..] != code[0x1000..] {
                // Written before the flag was up: once more.
                return Ok(None);
            }
        }
        self.code = code;
        let key = self.key(offset, rip, variant);
        Ok(self.added(|core| core.blocks.add(ctx, key, &t, tail)))
    }

    /// Whether the translation for RAM offset `offset` is a checked one. Those lie in one page.
    fn checks(&self, offset: u64, variant: Variant) -> bool {
        let page = offset & !0xfff;
        if self.mode.one() || variant == Variant::Trace || self.restless.soft(page).is_none() {
            return false;
        }
        let mut bytes = vec![0; MAX_INSN.min((0x1000 - (offset & 0xfff)) as usize)];
        self.mmu.ram().read(offset, &mut bytes);
        !needs_more(&bytes, 0, &self.mode, self.features.options())
    }

    fn enter_mode_again(&mut self, ctx: &mut Ctx) {
        let mode = self.mode;
        (self.mode_id, self.jc_table) = self.blocks.mode_id(ctx, &mode);
        ctx.mode = self.mode_id;
    }

    /// From now on, writes to the page at RAM offset `page` are reported.
    fn mark_code(&mut self, ctx: &mut Ctx, page: u64) {
        let own = PageFlags::code(self.cpu);
        let old = self.mmu.ram().flags(page).fetch_or(own, SeqCst);
        if old & own != 0 || old & PageFlags::WRITERS == 0 {
            return;
        }
        self.mmu.flush_writes(&mut ctx.tlb, page);
        self.stats.unwrites += 1;
        let (peers, peer) = (self.peers.clone(), self.peer.clone());
        peers.unwrite(&peer, page, || {
            self.answer(ctx);
        });
        let flags = self.mmu.ram().flags(page);
        flags.fetch_and(!PageFlags::WRITERS, SeqCst);
    }

    /// Throws all translations away.
    pub fn forget_all(&mut self, ctx: &mut Ctx) {
        self.forget_pages();
        self.blocks.clear(ctx);
    }

    /// Throws all translations away and gives their memory back to the host.
    pub fn give_back(&mut self, ctx: &mut Ctx) {
        self.forget_all(ctx);
        self.blocks.give_back();
    }

    /// Writes are of no interest to this engine any more.
    pub fn forget_pages(&self) {
        let bit = PageFlags::code(self.cpu);
        for page in self.blocks.pages() {
            self.mmu.ram().flags(page).fetch_and(!bit, SeqCst);
        }
    }
}

/// Whether the first instruction of `bytes` does not end in them. No bytes are needed of what is no
/// instruction whatever follows.
fn needs_more(bytes: &[u8], rip: u64, mode: &Mode, options: u32) -> bool {
    use iced_x86::{Decoder, DecoderError};
    let decode = |bytes: &[u8]| {
        let mut d = Decoder::with_ip(mode.bitness(), bytes, rip, options);
        (d.decode().is_invalid(), d.last_error())
    };
    if decode(bytes) != (true, DecoderError::NoMoreBytes) || bytes.len() >= MAX_INSN {
        return false;
    }
    let prefix = |b: &u8| {
        matches!(
            b,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
        )
    };
    let rex = |b: &u8| mode.code64() && b & 0xf0 == 0x40;
    let mut prefixes = bytes.iter().take_while(|b| prefix(b)).count();
    prefixes += usize::from(bytes.get(prefixes).is_some_and(rex));
    let (prefixes, opcode) = bytes.split_at(prefixes);
    if opcode.first() != Some(&0x0f) {
        return true;
    }
    // UD0 and UD1.
    if matches!(opcode.get(1), Some(0xff | 0xb9)) {
        return false;
    }
    // LOCK before what cannot be locked is found out late.
    let mut more: Vec<u8> = prefixes.iter().copied().filter(|b| *b != 0xf0).collect();
    more.extend(opcode);
    let missing = more.len();
    more.resize(2 * MAX_INSN, 0);
    (0..=u8::MAX).any(|next| {
        more[missing] = next;
        [0, 0xc0].into_iter().any(|modrm| {
            more[missing + 1..].fill(modrm);
            !decode(&more).0
        })
    })
}
