//! REM: the software engine, a same-ISA dynamic binary translator.
//!
//! Guest x86 becomes host x86: ordinary instructions are re-emitted as they are, with guest
//! registers in host registers and guest flags in host flags. Only memory operands (a software TLB
//! in line), control flow, and system instructions change. So results are what the host's CPU
//! computes, and there is no interpreter: what is not translated is one call of [`sys`] for that
//! one instruction.
//!
//! Room by room: [`ctx`] is what translated code sees, `classify` and `translate` make code from
//! guest bytes, `emit` holds the few host instructions in between, `blocks` stores translations and
//! wires jumps, `tlb` is the software MMU, `thunks` is the assembly around it, `runtime` answers
//! calls from translated code, `core` finds the next block and delivers events, [`sys`] has the
//! semantics of everything that is not copied.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod allocator;
mod blocks;
mod cache;
mod classify;
mod core;
pub mod ctx;
mod debug;
pub mod descriptors;
mod emit;
mod features;
mod fpu;
mod host;
mod idle;
mod mask;
mod mode;
mod peers;
mod restless;
mod runtime;
mod signals;
mod site;
pub mod sys;
mod thunks;
mod tlb;
mod translate;
mod vector;
mod window;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ::cpu::{Bus, Engine, Exit, RunState, State, signal};
use pgm::PhysMap;

use crate::core::Core;
use crate::ctx::{Call, Ctx};

pub use crate::peers::Peers;
pub use crate::restless::Checks;
pub use crate::window::Windows;

/// Bytes of code cache for one vCPU, unless said otherwise.
pub const CODE_CACHE: usize = 64 << 20;
/// An idle vCPU gives its translations back when their code is larger than this.
const IDLE_CACHE: usize = 12 << 20;
/// The least and the most that may be asked for: jumps reach 2 GiB, and one translation must fit.
pub const CODE_CACHE_RANGE: std::ops::RangeInclusive<usize> = 2 << 20..=1 << 30;

/// What can be chosen for an engine.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Size of its code cache in bytes; it is brought into [`CODE_CACHE_RANGE`] and to whole pages.
    pub code_cache: usize,
    /// When user code goes through a window.
    pub windows: Windows,
    /// Which code is compared with what its translations were made from.
    pub checks: Checks,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            code_cache: CODE_CACHE,
            windows: Windows::Auto,
            checks: Checks::Auto,
        }
    }
}

/// Why an engine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host gave no executable memory.
    #[error("no memory for translated code: {0}")]
    CodeCache(#[source] std::io::Error),
    /// The host gave no memory for the tables that translated code uses.
    #[error("no memory for the engine's tables: {0}")]
    Context(#[source] std::io::Error),
    /// A translation does not fit (they are bounded, so this is a bug).
    #[error("the code cache is full")]
    CodeCacheFull,
    /// The host's GS base could not be set.
    #[error("cannot set the GS base: {0}")]
    Gs(#[source] std::io::Error),
}

/// The software engine of one vCPU.
pub struct Rem {
    ctx: *mut Ctx,
    core: Box<Core>,
    idle: idle::Idle,
}

#[allow(unsafe_code)]
// SAFETY: `ctx` is owned by the value; it is used by the one thread that has the value.
unsafe impl Send for Rem {}

impl Rem {
    /// The engine for vCPU `cpu` of a machine that has no other.
    ///
    /// # Errors
    /// [`Error::CodeCache`] when the host has no memory for code.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(
        cpu: usize,
        phys: Arc<PhysMap>,
        bus: Arc<dyn Bus>,
    ) -> Result<Box<dyn Engine>, Error> {
        Self::with_peers(cpu, phys, bus, Peers::new(), Options::default())
    }

    /// The engine for vCPU `cpu` of a machine whose other engines are, or will be, in `peers`.
    ///
    /// # Errors
    /// [`Error::CodeCache`] when the host has no memory for code.
    pub fn with_peers(
        cpu: usize,
        phys: Arc<PhysMap>,
        bus: Arc<dyn Bus>,
        peers: Arc<Peers>,
        options: Options,
    ) -> Result<Box<dyn Engine>, Error> {
        allocator::prepare();
        let (least, most) = (*CODE_CACHE_RANGE.start(), *CODE_CACHE_RANGE.end());
        let cache = options.code_cache.clamp(least, most).next_multiple_of(4096);
        let mut core = Box::new(Core::new(cpu, phys.clone(), bus, peers, cache)?);
        phys.subscribe(core.peer.clone());
        let window = (options.windows != Windows::Never)
            .then(|| window::Window::new(phys.ram()))
            .flatten();
        let place = window.as_ref().map(window::Window::context);
        let ctx = ctx::allocate(place).map_err(Error::Context)?;
        #[allow(unsafe_code)]
        // SAFETY: all-zero bytes are a valid `Ctx` but for `state`, which is written before a
        // reference to it is made.
        unsafe {
            (&raw mut (*ctx).state).write(State::reset(cpu));
        }
        #[allow(unsafe_code)]
        // SAFETY: just made, owned by us alone.
        let c = unsafe { &mut *ctx };
        c.this = ctx as u64;
        c.core = &raw mut *core;
        c.tlb_mask = (ctx::TLB_SIZE as u64 - 1) << 12;
        c.avx = std::arch::is_x86_feature_detected!("avx").into();
        for call in [
            Call::Mem,
            Call::Seg,
            Call::Store,
            Call::Exec,
            Call::Link,
            Call::Jump,
            Call::Poll,
            Call::Fault,
        ] {
            c.thunks[call as usize] = thunks::address(call);
        }
        tlb::clear(&mut c.tlb);
        for table in &mut c.jc {
            // Zeroes are empty but for the first entry: they have other low bits than their index.
            table[0].tag = 1;
        }
        c.window_bits = ctx::WINDOW_BITS;
        core.windows = window::Policy::new(options.windows);
        core.restless = restless::Restless::new(options.checks);
        core.mmu.window = window;
        let idle = idle::Idle::new(Instant::now());
        let mut rem = Box::new(Rem { ctx, core, idle });
        rem.open_window().map_err(Error::Context)?;
        Ok(rem)
    }

    fn open_window(&mut self) -> std::io::Result<()> {
        let Some(window) = &self.core.mmu.window else {
            return Ok(());
        };
        #[allow(unsafe_code)]
        // SAFETY: `ctx` and `core` are separate allocations, both owned by `self`.
        window.open(unsafe { &mut *self.ctx })
    }

    #[allow(unsafe_code)]
    fn ctx(&mut self) -> &mut Ctx {
        // SAFETY: `ctx` is valid for the life of `self`, which is borrowed exclusively.
        unsafe { &mut *self.ctx }
    }
}

#[allow(unsafe_code)]
impl Drop for Rem {
    fn drop(&mut self) {
        self.core.signals.set_kick(None);
        self.core.forget_pages();
        self.core.peers.leave(&self.core.peer);
        // SAFETY: allocated in `new`, not used any more.
        unsafe {
            std::ptr::drop_in_place(&raw mut (*self.ctx).state);
            ctx::free(self.ctx, self.core.mmu.window.is_some());
        }
    }
}

impl Engine for Rem {
    fn name(&self) -> &'static str {
        "REM"
    }

    fn run(&mut self, state: &mut State) -> Exit {
        signals::prepare_thread();
        if state.upper.live != 0 && !features::host_has_avx512() {
            return Exit::Fatal("the host has no AVX-512, which the guest uses".into());
        }
        let ctx = self.ctx;
        if let Err(e) = set_gs(ctx as u64 + ctx::GS) {
            return Exit::Fatal(Error::Gs(e).to_string());
        }
        if host::has_fsgsbase() {
            self.ctx().host_fs = host::fs_base();
        }
        signals::set_current(self.core.blocks.cache.range(), ctx);
        self.ctx().state.clone_from(state);
        let poll = KickPtr(ctx);
        self.core
            .signals
            .set_kick(Some(Box::new(move || poll.kick())));
        // Signals raised before the kick was set must be seen.
        self.ctx().poll.store(1, Ordering::SeqCst);
        self.core.peers.begin(&self.core.peer);
        fpu::load(self.ctx());
        self.core.exit = None;
        let (c, core) = {
            #[allow(unsafe_code)]
            // SAFETY: `ctx` and `core` are separate allocations, both owned by `self`.
            unsafe {
                (&mut *ctx, &mut *self.core)
            }
        };
        core.begin(c);
        if self.idle.enters(Instant::now()) && core.blocks.cache.used() > IDLE_CACHE {
            core.give_back(c);
        }
        if c.state.run == RunState::Halted && wakes(c, core) {
            c.state.run = RunState::Running;
        }
        let host = core.dispatch(c);
        #[allow(unsafe_code)]
        // SAFETY: GS points at `ctx`; `host` is an entry of its cache or the way out.
        unsafe {
            thunks::enter(ctx, host);
        }
        self.core.peers.end(&self.core.peer);
        self.idle.leaves(Instant::now());
        fpu::save(self.ctx());
        fpu::host_defaults();
        self.core.signals.set_kick(None);
        state.clone_from(&self.ctx().state);
        signals::set_current(0..0, std::ptr::null_mut());
        if host::has_fsgsbase() {
            host::set_gs_base(0);
        }
        self.core.exit.take().unwrap_or(Exit::Signalled)
    }

    fn state_changed(&mut self) {
        let ctx = self.ctx;
        #[allow(unsafe_code)]
        // SAFETY: see `run`.
        let (c, core) = unsafe { (&mut *ctx, &mut *self.core) };
        core.flush(c, sys::Flush::All);
        core.step = false;
        core.debug = 0;
        // CPUID may have come with a saved state.
        if !core.features.still(core.bus.as_ref(), core.cpu) {
            core.features = features::Features::of(core.bus.as_ref(), core.cpu);
            core.forget_all(c);
        }
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        let c = &self.core;
        let mut all: Vec<(String, u64)> = [
            "Mem", "Seg", "Store", "Exec", "Link", "Jump", "Poll", "Fault",
        ]
        .iter()
        .zip(c.stats.calls)
        .map(|(n, v)| (format!("/REM/Calls/{n}"), v))
        .collect();
        let b = &c.blocks;
        for (name, value) in [
            ("/REM/Dispatches", c.stats.dispatches),
            ("/REM/Exceptions", c.stats.exceptions),
            ("/REM/Interrupts", c.stats.interrupts),
            ("/REM/SMIs", c.stats.smis),
            ("/REM/TLB/Flushes", c.stats.flushes),
            ("/REM/TLB/Walks", c.mmu.walks),
            (
                "/REM/Window/Fills",
                c.mmu.window.as_ref().map_or(0, |w| w.fills),
            ),
            ("/REM/Window/Openings", c.windows.openings),
            ("/REM/Window/Strays", c.stats.strays),
            ("/REM/Peers/Unwrites", c.stats.unwrites),
            ("/REM/Pauses", c.stats.pauses),
            ("/REM/Peers/Alone", c.stats.alone),
            ("/REM/Blocks/Translated", b.translated),
            ("/REM/Blocks/Copied", b.copied),
            ("/REM/Blocks/Invalidated", b.invalidated),
            ("/REM/Blocks/GuestBytes", b.guest_bytes),
            ("/REM/Blocks/Restless", c.restless.times),
            ("/REM/Blocks/FullFlushes", b.full_flushes),
            ("/REM/Blocks/CopyFlushes", b.copy_flushes),
            ("/REM/Blocks/Modes", b.modes() as u64),
            ("/REM/Cache/Used", b.cache.used() as u64),
        ] {
            all.push((name.to_owned(), value));
        }
        all.extend(
            c.stats
                .most_helped()
                .into_iter()
                .map(|(code, n)| (format!("/REM/Exec/{code:?}"), n)),
        );
        all
    }
}

/// Whether a halted vCPU goes on.
fn wakes(ctx: &Ctx, core: &Core) -> bool {
    let bits = core.signals.get();
    bits & signal::NMI != 0 && !ctx.state.nmi_blocked
        || bits & signal::INTR != 0 && ctx.state.rflags & ::cpu::bits::rflags::IF != 0
}

struct KickPtr(*mut Ctx);

#[allow(unsafe_code)]
// SAFETY: only the atomic poll word is reached through it, and the kick is taken back (under its
// lock) before the context goes away.
unsafe impl Send for KickPtr {}
#[allow(unsafe_code)]
// SAFETY: see `Send`.
unsafe impl Sync for KickPtr {}

impl KickPtr {
    #[allow(unsafe_code)]
    fn kick(&self) {
        // SAFETY: see `Send`.
        unsafe {
            let poll = &raw const (*self.0).poll;
            (*poll).store(1, Ordering::SeqCst);
        }
    }
}

/// Points the host's GS segment at `base`.
#[allow(unsafe_code)]
fn set_gs(base: u64) -> std::io::Result<()> {
    if host::has_fsgsbase() {
        host::set_gs_base(base);
        return Ok(());
    }
    const ARCH_SET_GS: i32 = 0x1001;
    // SAFETY: nothing in this process but translated code uses GS.
    let r = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
    if r == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
