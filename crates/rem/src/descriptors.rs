//! Descriptors that segment registers were loaded from, for translated code.
//!
//! The helper that loads a segment register of protected mode leaves here what the descriptor was
//! and what came of it. Translated code reads the descriptor again each time: while the table is in
//! the same place and the bytes in memory are the same, so is everything that the helper would check
//! and load. So nothing here ever has to be dropped.

use cpu::bits::cr0;
use cpu::{Seg, SegReg, attr};
use iced_x86::{Instruction, Mnemonic};

use crate::core::Core;
use crate::ctx::Ctx;
use crate::mode::fast_limits;
use crate::sys;

/// Entries for each segment register.
pub const ENTRIES: usize = 16;

/// A load at privilege level 0 that left the mode as it was.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Loaded {
    /// Number of the mode, plus one; 0: empty.
    pub mode: u32,
    /// Selector, of the global table.
    pub sel: u64,
    /// Base of the table.
    pub gdt_base: u64,
    /// Limit of the table.
    pub gdt_limit: u64,
    /// Linear address of the descriptor.
    pub at: u64,
    /// The descriptor; its accessed bit is set.
    pub raw: u64,
    /// What the register is then.
    pub reg: SegReg,
    /// Its fast limits: see [`Ctx::limit_read`].
    pub limit_read: i64,
    /// See `limit_read`.
    pub limit_write: i64,
}

/// The entries: by segment register, and by where the instruction is.
pub type Descriptors = [[Loaded; ENTRIES]; 6];

/// Which entry an instruction at offset `rip` uses. Only bits that copies of a translation for the
/// same code elsewhere have in common.
pub fn entry(rip: u64) -> usize {
    (rip ^ rip >> 4) as usize % ENTRIES
}

/// The segment register that `insn` loads, if that may be done without the helper the next time.
fn loaded_by(insn: &Instruction, jumped: bool) -> Option<Seg> {
    use iced_x86::Register as R;
    if jumped {
        let far = matches!(
            insn.mnemonic(),
            Mnemonic::Jmp | Mnemonic::Call | Mnemonic::Retf
        );
        return far.then_some(Seg::Cs);
    }
    match (insn.mnemonic(), insn.op0_register()) {
        (Mnemonic::Mov, R::ES) => Some(Seg::Es),
        (Mnemonic::Mov, R::DS) => Some(Seg::Ds),
        (Mnemonic::Mov, R::FS) => Some(Seg::Fs),
        (Mnemonic::Mov, R::GS) => Some(Seg::Gs),
        _ => None,
    }
}

impl Core {
    /// The helper has executed `insn`, and it was good; `jumped`: a transfer of control. Keeps what
    /// it loaded.
    pub fn keep_descriptor(&mut self, ctx: &mut Ctx, insn: &Instruction, jumped: bool) {
        let Some(seg) = loaded_by(insn, jumped) else {
            return;
        };
        let state = &ctx.state;
        let reg = state.seg[seg as usize];
        let code_ok = reg.has(attr::CODE) && reg.dpl() == 0 && reg.sel & 3 == 0;
        if state.cr0 & cr0::PE == 0
            || state.long_mode()
            || self.mode.one()
            || !self.mode.ring0()
            || !self.mode.is_of(state)
            || reg.has(attr::UNUSABLE)
            || !reg.has(attr::P | attr::S | attr::ACCESSED)
            || reg.has(attr::L)
            || reg.sel & 4 != 0
            || seg == Seg::Cs && !code_ok
        {
            return;
        }
        let gdt = state.gdtr;
        let Some((at, raw, now)) = self.with_sys(ctx, |sys| sys::describe(sys, reg.sel)) else {
            return;
        };
        if now != reg {
            return;
        }
        let (limit_read, limit_write) = fast_limits(&ctx.state, seg as usize);
        ctx.descriptors[seg as usize][entry(insn.ip())] = Loaded {
            mode: self.mode_id + 1,
            sel: reg.sel.into(),
            gdt_base: gdt.base,
            gdt_limit: gdt.limit.into(),
            at,
            raw,
            reg,
            limit_read,
            limit_write,
        };
    }
}
