//! Places in translated code that call Rust, and what Rust needs to know about them.
//!
//! Kept as the translator found them, they have code offsets from their block's start, and guest
//! addresses for the place that the code was translated at; [`crate::blocks`] gives them out with
//! places in the cache and with the addresses of the block that asks.

use cpu::Exception;
use iced_x86::{Instruction, OpKind};

use crate::translate::Variant;

/// A memory access.
#[derive(Debug, Clone, Copy)]
pub struct Site {
    /// Offset of the instruction in CS.
    pub rip: u64,
    /// Bytes of the instruction.
    pub len: u8,
    /// Segment register.
    pub seg: u8,
    /// Bytes accessed, up to 64.
    pub size: u8,
    /// The access raises #GP unless it is aligned to its size, before anything else is checked.
    pub aligned: bool,
    /// The access writes.
    pub write: bool,
    /// The access reads (too).
    pub read: bool,
    /// It reads and writes as one towards other vCPUs (LOCK, XCHG).
    pub locked: bool,
    /// The arithmetic flags are parked at the probe.
    pub parked: bool,
    /// And still when the instruction is complete.
    pub parked_after: bool,
    /// The instruction waits for the x87 unit: an exception pending there comes before those of the
    /// access.
    pub waits: bool,
    /// Only the end of the block follows: after the store nothing stale can execute.
    pub last: bool,
    /// The probe is for a cluster of accesses, this one being the first.
    pub cluster: Option<Range>,
    /// Elements that a mask leaves out do not fault.
    pub mask: Option<Mask>,
    /// Where the TLB probe starts, with the linear address in T0.
    pub probe: u32,
    /// Where the access goes on with the host address in T0.
    pub resume: u32,
    /// Where the instruction is complete.
    pub done: u32,
}

/// How a mask register selects elements of an access.
#[derive(Debug, Clone, Copy)]
pub struct Mask {
    /// K1 to K7.
    pub register: u8,
    /// Bytes of an element.
    pub element: u8,
    /// Bits of the register that count; with more bits than elements the latter are used in turn.
    pub bits: u8,
    /// As many elements as the mask has bits, from the first on (compress, expand).
    pub packed: bool,
}

/// The bytes that the probe of a cluster covers.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// How many.
    pub span: u16,
    /// Where in them the first access is.
    pub first: u16,
    /// Some access writes.
    pub write: bool,
    /// The link to the split translation.
    pub link: u32,
}

/// What an exec site does.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// `sys::execute`.
    Execute(Instruction),
    /// `sys::execute` on the FPU image.
    ExecuteFpu(Instruction),
    /// `vector::execute`.
    ExecuteVector(Instruction),
    /// The registers of AVX-512 are in use from now on; the instruction is started again.
    TakeUpper,
    /// PAUSE of this many bytes: now and then, the host's core is offered to others.
    Pause(u8),
    /// Raises an exception.
    Raise(Exception),
}

impl Action {
    /// The same for the same instruction `by` bytes further on.
    pub fn moved(self, by: u64) -> Self {
        match self {
            Self::Execute(insn) => Self::Execute(moved(insn, by)),
            Self::ExecuteFpu(insn) => Self::ExecuteFpu(moved(insn, by)),
            Self::ExecuteVector(insn) => Self::ExecuteVector(moved(insn, by)),
            Self::TakeUpper | Self::Pause(_) | Self::Raise(_) => self,
        }
    }
}

/// `insn` as it reads `by` bytes further on.
fn moved(mut insn: Instruction, by: u64) -> Instruction {
    if by == 0 {
        return insn;
    }
    insn.set_ip(insn.ip().wrapping_add(by));
    if insn.is_ip_rel_memory_operand() {
        insn.set_memory_displacement64(insn.memory_displacement64().wrapping_add(by));
    }
    match insn.op0_kind() {
        OpKind::NearBranch32 => {
            insn.set_near_branch32(insn.near_branch32().wrapping_add(by as u32));
        }
        OpKind::NearBranch64 => insn.set_near_branch64(insn.near_branch64().wrapping_add(by)),
        _ => {}
    }
    insn
}

/// One instruction done by a helper.
#[derive(Debug, Clone, Copy)]
pub struct Exec {
    /// What to do.
    pub action: Action,
    /// Offset of the instruction in CS.
    pub rip: u64,
    /// Where the block goes on; 0: it ends.
    pub resume: u32,
    /// It goes on only if the mode is the same as before.
    pub same_mode: bool,
    /// The arithmetic flags are parked.
    pub parked: bool,
    /// What to add to the stack pointer to undo an indirect jump whose target is refused.
    pub undo: i32,
}

/// What is special about an instruction of translated code on the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It reads what will be written: a fault is one of a write.
    Write,
    /// REP MOVS: RSI and RDI are host addresses.
    Movs,
    /// REP STOS: RDI is one.
    Stos,
}

/// How a direct jump is wired once its target is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// The 32-bit displacement at this place is patched.
    Patch(u32),
    /// A slot of the context is set: this one or, as the translator found it, the one that the
    /// displacement at this place is to name.
    Slot(u32),
    /// Never: the target is looked up each time.
    None,
}

/// A direct jump out of a block.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Offset of the target in CS.
    pub target: u64,
    /// Enter through the target's poll (backward and cross-page jumps).
    pub poll: bool,
    /// The arithmetic flags are parked.
    pub parked: bool,
    /// The target is code of another mode, whose number is in the context by then.
    pub crosses: bool,
    /// The kind of translation it leads to.
    pub variant: Variant,
    /// How it is wired.
    pub wire: Wire,
    /// The code that asks for it to be wired.
    pub stub: u32,
}
