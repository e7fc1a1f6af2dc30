//! Instructions that are not copied: the exact semantics of system, control-transfer, string and
//! other odd instructions, one call for one instruction, in every mode of the CPU.
//!
//! * [`execute`] runs one decoded instruction against [`Sys`].
//! * [`deliver`] enters the handler of an exception or interrupt.
//! * [`walk`] is the page walk.
//!
//! Everything here follows the Intel manual (SDM). Where processors differ: SYSCALL outside of
//! 64-bit mode is #UD unless CPUID names an AMD vendor; SYSENTER works in every mode; loading a
//! null selector into FS or GS clears its base; #AC is for operands of 2, 4 and 8 bytes and stacks.
//!
//! An instruction either completes, or changes nothing that keeps it from being started again:
//! registers are written last. String instructions are the exception the manual makes: their
//! registers point at the element that faulted.

mod bcd;
mod control;
mod cpuid;
mod execute;
mod flags;
mod fpu;
mod interrupt;
mod iret;
mod mem;
mod msr;
mod operand;
mod port;
mod query;
mod seg;
mod smm;
mod stack;
mod stackops;
mod string;
mod syscall;
mod table;
mod task;
#[cfg(test)]
mod tests;
mod transfer;
pub mod walk;

pub use execute::execute;
pub use interrupt::{Event, SoftKind, deliver};
pub use mem::{As, LinearMemory};
pub(crate) use operand::canonical;
pub use operand::linear;
pub(crate) use seg::describe;
pub use seg::{load_ldt, load_segment};
pub use smm::enter as enter_smm;
pub use stack::Stack;

/// One vCPU while a single instruction is carried out.
pub struct Sys<'a> {
    /// Registers.
    pub state: &'a mut cpu::State,
    /// Memory with segmentation done and paging still to do.
    pub mem: &'a mut dyn LinearMemory,
    /// The machine.
    pub bus: &'a dyn cpu::Bus,
    /// Index of the vCPU.
    pub cpu: usize,
    /// What the instruction invalidated; only ever grows.
    pub flush: Flush,
    /// DR6 bits of I/O breakpoints it hit: a trap follows.
    pub debug: u64,
}

/// TLB entries that are no longer valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// None.
    None,
    /// Those of the page with this linear address, global or not.
    Page(u64),
    /// Those of another address space, by its PCID.
    Space(u64),
    /// CR3 was loaded; with `keep`, what is known under its PCID stays.
    Switch {
        /// Bit 63 was set, with CR4.PCIDE.
        keep: bool,
    },
    /// All but global ones, in all address spaces.
    NonGlobal,
    /// All.
    All,
}

impl Flush {
    /// The smallest value that covers both.
    pub fn merge(self, other: Flush) -> Flush {
        match (self, other) {
            (Flush::None, x) | (x, Flush::None) => x,
            (Flush::Page(a), Flush::Page(b)) if a == b => self,
            (Flush::NonGlobal, Flush::NonGlobal) => self,
            // A page's entry may be global.
            _ => Flush::All,
        }
    }
}

/// How an instruction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// `rip` is past the instruction.
    Next,
    /// `rip` is somewhere else.
    Jump,
    /// A string instruction stopped half way: `rip` still at it, registers updated. To be started
    /// again after interrupts were looked at.
    Repeat,
    /// HLT: `rip` is past it, [`cpu::State::run`] says `Halted`.
    Halt,
    /// The processor shut down; [`cpu::State::run`] says `Shutdown`.
    Shutdown,
}

/// A fault while a double fault was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("triple fault")]
pub struct Shutdown;
