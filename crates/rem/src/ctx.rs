//! What translated code sees: one [`Ctx`] per vCPU, addressed through the host's GS segment.
//!
//! Guest registers RAX to R9 and R12 to R15 live in the host registers of the same names while
//! translated code runs; R10 and R11 live in [`Ctx::state`], because the host's R10 and R11 are the
//! translator's scratch registers. The arithmetic flags live in the host's flags.

#![allow(unsafe_code)] // memory in huge pages

use std::mem::offset_of;
use std::sync::atomic::AtomicU32;

use cpu::{SegReg, State};

use crate::core::Core;
use crate::descriptors::{Descriptors, Loaded};

/// Entries of one software TLB table: as many as 16 bits of the page number tell apart, since that
/// is how probes index it.
pub const TLB_SIZE: usize = 1 << 16;
/// Privilege classes with tables of their own.
pub const CLASSES: usize = 3;
/// Cross-page links that may exist at once.
pub const SLOTS: usize = 1 << 19;
/// Entries of one table for indirect jumps, indexed by the low 16 bits of the target.
pub const JC_SIZE: usize = 1 << 16;
/// Tables for indirect jumps; [`crate::mode::Mode::jc_table`] says which modes share one.
pub const JC_TABLES: usize = 11;
/// Bytes of a table that tells which addresses are in the window: a page for each value of bits 40
/// to 47, so that [`WINDOW_BITS`] of an address are an offset in it.
pub const WINDOW_TABLE: usize = 1 << 20;
/// Parts of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Part {
    /// Through the FS segment.
    High = 0,
    /// Through the GS segment.
    Low = 1,
}

/// Bits of an address that are looked up in the table; the lower ones only fill the place in its
/// page.
pub const WINDOW_BITS: u64 = 0xfffff << 28;
/// Clusters of accesses a block may have.
pub const CLUSTERS: usize = 16;
/// Bytes of the bounce buffer: the largest access (64) at any offset below 64.
pub const BOUNCE: usize = 128;

/// Privilege class of memory accesses: which page permissions apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Class {
    /// Supervisor.
    Kernel = 0,
    /// Supervisor with EFLAGS.AC set: may touch user pages under SMAP.
    KernelOpen = 1,
    /// User.
    User = 2,
}

/// One table. Entry `n` says which linear page with these low bits it is for and where the host has
/// it. An empty entry's tag is a page that has another index, so it never matches.
#[derive(Debug)]
#[repr(C)]
pub struct TlbTable {
    /// Linear addresses of the pages.
    pub tag: [u64; TLB_SIZE],
    /// Host addresses of the pages.
    pub host: [u64; TLB_SIZE],
}

/// All tables: class, read (0) or write (1).
pub type Tables = [[TlbTable; 2]; CLASSES];

/// An entry of a table for indirect jumps: in one line of the host's cache.
#[derive(Debug)]
#[repr(C)]
pub struct JcEntry {
    /// The target; of an empty entry something with other low bits.
    pub tag: u64,
    /// Host address of its translation.
    pub host: u64,
}

/// A table for indirect jumps: entry `n` is for a target with these low bits.
pub type JcTable = [JcEntry; JC_SIZE];

/// What SYSCALL or SYSRET does when nothing unusual is asked for: see `translate::gates`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Gate {
    /// Number of the mode it is for, plus one; 0: closed.
    pub from: u32,
    /// Number of the mode it leads to.
    pub to: u32,
    /// Flags that SYSCALL keeps.
    pub keep: u32,
    /// CS afterwards.
    pub cs: SegReg,
    /// SS afterwards.
    pub ss: SegReg,
}

/// The gates: SYSCALL and SYSRET, each while registers of AVX-512 are not in use, and while they are.
pub type Gates = [[Gate; 2]; 2];

/// Kinds of calls from translated code into Rust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Call {
    /// Memory access that missed the TLB; `arg` is a site.
    Mem = 0,
    /// Segment limit check that failed; `arg` is a site.
    Seg = 1,
    /// A store that went to the bounce buffer is done; `arg` is a site.
    Store = 2,
    /// One instruction executed by a helper; `arg` is an exec site.
    Exec = 3,
    /// A direct jump not linked yet; `arg` is a link.
    Link = 4,
    /// An indirect jump that missed; the target is in T0.
    Jump = 5,
    /// The poll word was set; `arg` is a block.
    Poll = 6,
    /// A host fault inside translated code; [`Ctx::fault`] tells more.
    Fault = 7,
}

/// Number of [`Call`] kinds.
pub const CALLS: usize = 8;

/// How far the host's GS base lies behind the context's start. In front of it, within reach of a
/// 32-bit displacement, is the context; from it on, if there is a window, the guest's low memory
/// (see [`crate::window`]).
pub const GS: u64 = 1 << 31;

/// Displacement from GS of what lies `offset` bytes behind the context's start.
pub const fn gs(offset: usize) -> i32 {
    assert!(offset < 1 << 30, "guest memory must not be near");
    (offset as i64 - GS as i64) as i32
}

/// Everything translated code reaches, at fixed distances from GS.
#[repr(C, align(4096))]
pub struct Ctx {
    /// Address of this value.
    pub this: u64,
    /// Host stack of the thread inside `run`.
    pub host_rsp: u64,
    /// Nonzero: leave translated code at the next poll.
    pub poll: AtomicU32,
    /// Nonzero: something waits that interrupts, once enabled, may let through.
    pub held: u32,
    /// Argument of the call under way.
    pub arg: u32,
    /// Number of the mode of the code that runs, which translated code may change.
    pub mode: u32,
    /// Nonzero: `tsc_delta` is good.
    pub tsc_known: u32,
    /// What to add to the host's time-stamp counter to get the guest's.
    pub tsc_delta: u64,
    /// Ways into the kernel and back that need no Rust.
    pub gates: Gates,
    /// What segment registers were loaded from.
    pub descriptors: Descriptors,
    /// Scratch registers at the call; R10 on return.
    pub t0: u64,
    /// See `t0`.
    pub t1: u64,
    /// Host flags at the call, and those set on return.
    pub hflags: u64,
    /// Arithmetic flags parked while the host's are in use: AL is OF, AH the rest (LAHF).
    pub flagsave: u64,
    /// Where a call's answer says to go on.
    pub target: u64,
    /// What a host signal said.
    pub fault: HostFault,
    /// Nonzero: translated code runs with [`Ctx::window_fs`] in the FS base.
    pub window: u32,
    /// FS base of the window.
    pub window_fs: u64,
    /// FS base of Rust's thread.
    pub host_fs: u64,
    /// [`WINDOW_BITS`].
    pub window_bits: u64,
    /// What to add to an address for its place in the window, by bits 40 to 47 of the address; for
    /// those that are not in it, something that makes an address no processor accepts.
    pub window_deltas: [u64; 256],
    /// For a repeated string instruction on the window: what was added to RSI and RDI. For one that
    /// is not: what they will be.
    pub run_deltas: [u64; 2],
    /// XMM0 while translated code compares the guest's code.
    pub vector: [u64; 2],
    /// Temporaries of instruction sequences.
    pub tmp: [u64; 5],
    /// Host addresses of clusters of accesses of the block that runs.
    pub clusters: [u64; CLUSTERS],
    /// Addresses of the thunks, by [`Call`].
    pub thunks: [u64; CALLS],
    /// Signed limits for fast checks of readable segments: last valid offset, or -1 for "always
    /// ask".
    pub limit_read: [i64; 6],
    /// The same for writable segments.
    pub limit_write: [i64; 6],
    /// The engine's Rust side.
    pub core: *mut Core,
    /// The bits of an address that index the TLB tables.
    pub tlb_mask: u64,
    /// Whether the host has AVX (thunks save 256-bit registers).
    pub avx: u32,
    /// Vector registers at the call.
    pub ymm: [[u8; 32]; 16],
    /// Data of accesses that are no plain memory.
    pub bounce: Bounce,
    /// The guest's state; general registers are current only inside calls.
    pub state: State,
    /// Software TLBs.
    pub tlb: Tables,
    /// Targets of cross-page links.
    pub slots: [u64; SLOTS],
    /// Targets of indirect jumps.
    pub jc: [JcTable; JC_TABLES],
    /// What lies in the window's high part, and in its low part: reading a byte faults unless the
    /// address does; see [`crate::window`].
    pub window_tables: [WindowTable; 2],
}

/// See [`WINDOW_TABLE`].
#[repr(C, align(4096))]
pub struct WindowTable(pub [u8; WINDOW_TABLE]);

/// A host signal inside translated code.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct HostFault {
    /// Trap number.
    pub trap: u64,
    /// Where.
    pub rip: u64,
    /// Address of a page fault.
    pub address: u64,
    /// Its error code.
    pub code: u64,
}

/// Pages of the host as large as it has them for ordinary memory: translated code goes all over the
/// tables.
const HUGE: usize = 2 << 20;

/// Zeroed memory for a context, in huge pages where the host has them: at `place`, which is reserved
/// for it, or anywhere.
pub fn allocate(place: Option<u64>) -> std::io::Result<*mut Ctx> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    let size = size_of::<Ctx>().next_multiple_of(HUGE);
    let (hint, len, fixed) = match place {
        Some(at) => (at, size, MapFlags::FIXED),
        None => (0, size + HUGE, MapFlags::empty()),
    };
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let map = || {
        // SAFETY: a fresh mapping at an address the kernel picks, or in what is reserved for it.
        unsafe { mmap_anonymous(hint as *mut _, len, prot, MapFlags::PRIVATE | fixed) }
    };
    let map: *mut u8 = map()?.cast();
    let before = map.align_offset(HUGE);
    // SAFETY: what lies before and behind `size` bytes at a multiple of `HUGE`: parts of the fresh
    // mapping that nothing uses. Advice changes no contents.
    unsafe {
        let start = map.add(before);
        if before > 0 {
            munmap(map.cast(), before)?;
        }
        if len > before + size {
            munmap(start.add(size).cast(), len - before - size)?;
        }
        // Without huge pages it is only slower.
        let _ = madvise(start.cast(), size, Advice::LinuxHugepage);
        Ok(start.cast())
    }
}

/// Gives a context's memory back; `reserved`: its place stays taken.
///
/// # Safety
/// It comes from [`allocate`] and is not used any more.
pub unsafe fn free(ctx: *mut Ctx, reserved: bool) {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    let size = size_of::<Ctx>().next_multiple_of(HUGE);
    // SAFETY: the caller's promise; the size is the one that was mapped.
    let _ = unsafe {
        match reserved {
            true => {
                let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
                mmap_anonymous(ctx.cast(), size, ProtFlags::empty(), flags).map(|_| ())
            }
            false => munmap(ctx.cast(), size),
        }
    };
}

/// The bounce buffer, aligned so that an access can keep its alignment.
#[repr(C, align(64))]
pub struct Bounce(pub [u8; BOUNCE]);

/// Displacement of [`Ctx::vector`].
pub const VECTOR: i32 = gs(offset_of!(Ctx, vector));

/// Displacement of guest register `n`.
pub const fn gpr(n: usize) -> i32 {
    gs(offset_of!(Ctx, state) + offset_of!(State, gpr) + 8 * n)
}

/// Displacement of segment `seg`'s base.
pub const fn seg_base(seg: usize) -> i32 {
    gs(offset_of!(Ctx, state)
        + offset_of!(State, seg)
        + size_of::<cpu::SegReg>() * seg
        + offset_of!(cpu::SegReg, base))
}

/// Displacement of segment `seg`'s selector.
pub const fn seg_sel(seg: usize) -> i32 {
    gs(offset_of!(Ctx, state)
        + offset_of!(State, seg)
        + size_of::<cpu::SegReg>() * seg
        + offset_of!(cpu::SegReg, sel))
}

/// Displacement of segment register `seg`.
pub const fn seg(seg: usize) -> i32 {
    gs(offset_of!(Ctx, state) + offset_of!(State, seg) + size_of::<SegReg>() * seg)
}

/// Displacement of the gate of SYSCALL (0) or SYSRET (1); `upper`: while AVX-512 is in use.
pub const fn gate(which: usize, upper: bool) -> i32 {
    gs(offset_of!(Ctx, gates) + size_of::<Gate>() * (which * 2 + upper as usize))
}

/// Displacement of an entry of [`Ctx::descriptors`].
pub const fn descriptor(seg: usize, entry: usize) -> i32 {
    let row = size_of::<[Loaded; crate::descriptors::ENTRIES]>();
    gs(offset_of!(Ctx, descriptors) + row * seg + size_of::<Loaded>() * entry)
}

/// Displacement of a control register: 0, 2, 3 or 4.
pub const fn cr(n: usize) -> i32 {
    let at = match n {
        0 => offset_of!(State, cr0),
        2 => offset_of!(State, cr2),
        3 => offset_of!(State, cr3),
        _ => offset_of!(State, cr4),
    };
    gs(offset_of!(Ctx, state) + at)
}

/// Displacement of segment `seg`'s fast limit.
pub const fn seg_limit(seg: usize, write: bool) -> i32 {
    let array = if write {
        offset_of!(Ctx, limit_write)
    } else {
        offset_of!(Ctx, limit_read)
    };
    gs(array + 8 * seg)
}

/// Displacement of a TLB table: its tags. The host addresses are [`TLB_HOST`] bytes later.
pub const fn tlb(class: Class, write: bool) -> i32 {
    gs(offset_of!(Ctx, tlb) + (class as usize * 2 + write as usize) * size_of::<TlbTable>())
}

/// Distance of a TLB entry's host address from its tag.
pub const TLB_HOST: i32 = (TLB_SIZE * 8) as i32;

/// Displacement of the mask that selects a TLB index from an address.
pub const TLB_MASK: i32 = gs(offset_of!(Ctx, tlb_mask));

/// Displacement of a slot.
pub const fn slot(n: usize) -> i32 {
    gs(offset_of!(Ctx, slots) + 8 * n)
}

/// Displacement of a table for indirect jumps.
pub const fn jc(table: usize) -> i32 {
    gs(offset_of!(Ctx, jc) + size_of::<JcTable>() * table)
}

/// Distance of the host address from the tag in an entry for indirect jumps.
pub const JC_HOST: i32 = offset_of!(JcEntry, host) as i32;

/// Displacement of the host address of a cluster of accesses.
pub const fn cluster(n: usize) -> i32 {
    gs(offset_of!(Ctx, clusters) + 8 * n)
}

/// Displacement of a thunk pointer.
pub const fn thunk(call: Call) -> i32 {
    gs(offset_of!(Ctx, thunks) + 8 * call as usize)
}

/// Displacement of [`Ctx::run_deltas`] for register `n`: RSI or RDI.
pub const fn run_delta(n: u8) -> i32 {
    gs(offset_of!(Ctx, run_deltas) + 8 * (n as usize & 1))
}

/// Displacement of the table of what lies in a part of the window.
pub const fn window_check(part: Part) -> i32 {
    gs(offset_of!(Ctx, window_tables) + size_of::<WindowTable>() * part as usize)
}

/// Displacement of what to add to addresses.
pub const WINDOW_DELTAS: i32 = gs(offset_of!(Ctx, window_deltas));

/// Displacement of [`WINDOW_BITS`].
pub const WINDOW_MASK: i32 = gs(offset_of!(Ctx, window_bits));

/// Displacement of a temporary.
pub const fn tmp(n: usize) -> i32 {
    gs(offset_of!(Ctx, tmp) + 8 * n)
}

/// Displacement of the mode's number.
pub const MODE: i32 = gs(offset_of!(Ctx, mode));
/// Displacement of the mark that the time-stamp counter is known.
pub const TSC_KNOWN: i32 = gs(offset_of!(Ctx, tsc_known));
/// Displacement of the difference of the time-stamp counters.
pub const TSC_DELTA: i32 = gs(offset_of!(Ctx, tsc_delta));
/// Displacement of IA32_TSC_AUX.
pub const TSC_AUX: i32 = gs(offset_of!(Ctx, state) + offset_of!(State, tsc_aux));
/// Displacement of IA32_LSTAR.
pub const LSTAR: i32 = gs(offset_of!(Ctx, state) + offset_of!(State, lstar));
/// Displacement of the base of the global descriptor table.
pub const GDT_BASE: i32 =
    gs(offset_of!(Ctx, state) + offset_of!(State, gdtr) + offset_of!(cpu::DescTable, base));
/// Displacement of the limit of the global descriptor table.
pub const GDT_LIMIT: i32 =
    gs(offset_of!(Ctx, state) + offset_of!(State, gdtr) + offset_of!(cpu::DescTable, limit));
/// Displacement of the argument.
pub const ARG: i32 = gs(offset_of!(Ctx, arg));
/// Displacement of the poll word.
pub const POLL: i32 = gs(offset_of!(Ctx, poll));
/// Displacement of the flags set aside.
pub const FLAGSAVE: i32 = gs(offset_of!(Ctx, flagsave));
/// Displacement of the mark of held-back interrupts.
pub const HELD: i32 = gs(offset_of!(Ctx, held));
/// Displacement of the base that SWAPGS exchanges.
pub const KERNEL_GS_BASE: i32 = gs(offset_of!(Ctx, state) + offset_of!(State, kernel_gs_base));
/// Displacement of RFLAGS.
pub const RFLAGS: i32 = gs(offset_of!(Ctx, state) + offset_of!(State, rflags));
