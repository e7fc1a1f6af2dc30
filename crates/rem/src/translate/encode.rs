//! Re-encoding of guest instructions for the host: operands in memory, and the guest's R10 and R11.

use cpu::Exception;
use iced_x86::{Instruction, OpAccess, OpKind, Register};

use super::{Builder, is_scratch, number, with_number, writes};
use crate::ctx::{self, Part};
use crate::emit::{At, NO_BASE, T0, T1};
use crate::site::Action;

/// The segment register that a part of the window is reached through.
pub(super) fn segment_of(part: Part) -> Register {
    match part {
        Part::High => Register::FS,
        Part::Low => Register::GS,
    }
}

impl Builder<'_> {
    /// Makes the memory operand `at`.
    pub(super) fn at_scratch(&self, insn: &mut Instruction, at: At) {
        insn.set_segment_prefix(at.part.map_or(Register::None, segment_of));
        insn.set_memory_index(Register::None);
        insn.set_memory_index_scale(1);
        insn.set_memory_displacement64(at.disp as u64);
        if at.base == NO_BASE {
            insn.set_memory_displ_size(8);
            return insn.set_memory_base(Register::None);
        }
        insn.set_memory_displ_size(match at.disp {
            0 => 0,
            -128..=127 => 1,
            _ if at.short => 4,
            _ => 8,
        });
        let base = match at.short {
            true => Register::EAX,
            false => Register::RAX,
        };
        insn.set_memory_base(base + u32::from(at.base));
    }

    /// Emits `insn` with its memory operand at `at`.
    pub(super) fn emit_on_memory(&mut self, mut insn: Instruction, at: At) {
        self.at_scratch(&mut insn, at);
        let operands: Vec<(u32, Register)> = (0..insn.op_count())
            .filter(|&n| insn.op_kind(n) == OpKind::Register)
            .map(|n| (n, insn.op_register(n)))
            .filter(|(_, r)| r.is_gpr())
            .collect();
        let uses = |r: Register| {
            operands
                .iter()
                .any(|(_, o)| o.is_gpr() && o.full_register() == r)
        };
        let (uses10, uses11) = (uses(Register::R10), uses(Register::R11));
        let high = operands.iter().any(|(_, r)| number(*r).1);
        if at.base != T0 && uses10 {
            let written = self.load_scratch_operands(&insn);
            self.encode(&insn);
            return self.store_scratch_operands(written);
        }
        if at.base == T0 && (high || (uses10 && uses11)) {
            // No scratch register fits: borrow one the instruction does not use.
            let borrow = [Register::RBX, Register::RSI, Register::RDI, Register::RBP]
                .into_iter()
                .find(|b| !uses(*b))
                .unwrap_or(Register::RBP);
            let n = borrow.number() as u8;
            insn.set_memory_base(borrow);
            self.hot.store(ctx::tmp(0), n);
            self.hot.mov(n, T0);
            let written = self.load_scratch_operands(&insn);
            self.encode(&insn);
            self.store_scratch_operands(written);
            self.hot.load(n, ctx::tmp(0));
            return;
        }
        if uses10 || uses11 {
            let guest = if uses10 { 10 } else { 11 };
            let mut written = false;
            let accesses: Vec<OpAccess> = {
                let info = self.info.info(&insn);
                operands.iter().map(|(n, _)| info.op_access(*n)).collect()
            };
            for ((n, r), access) in operands.iter().zip(accesses) {
                if is_scratch(*r) {
                    written |= writes(access);
                    insn.set_op_register(*n, with_number(*r));
                }
            }
            self.hot.load(T1, ctx::gpr(guest));
            self.encode(&insn);
            if written {
                self.hot.store(ctx::gpr(guest), T1);
            }
            return;
        }
        self.encode(&insn);
    }

    /// Loads guest R10 and R11 where `insn` names them; returns which it writes.
    pub(super) fn load_scratch_operands(&mut self, insn: &Instruction) -> [bool; 2] {
        let mut used = [false; 2];
        let mut written = [false; 2];
        let accesses: Vec<OpAccess> = {
            let info = self.info.info(insn);
            (0..insn.op_count()).map(|n| info.op_access(n)).collect()
        };
        for n in 0..insn.op_count() {
            let r = insn.op_register(n);
            if insn.op_kind(n) == OpKind::Register && is_scratch(r) {
                let which = usize::from(r.full_register() == Register::R11);
                used[which] = true;
                written[which] |= writes(accesses[n as usize]);
            }
        }
        for (which, scratch) in [(0, T0), (1, T1)] {
            if used[which] {
                self.hot.load(scratch, ctx::gpr(10 + which));
            }
        }
        written
    }

    pub(super) fn store_scratch_operands(&mut self, written: [bool; 2]) {
        for (which, scratch) in [(0, T0), (1, T1)] {
            if written[which] {
                self.hot.store(ctx::gpr(10 + which), scratch);
            }
        }
    }

    pub(super) fn encode(&mut self, insn: &Instruction) {
        match self.encoder.encode(insn, 0) {
            Ok(_) => {
                let bytes = self.encoder.take_buffer();
                self.hot.put(&bytes);
                self.encoder.set_buffer({
                    let mut b = bytes;
                    b.clear();
                    b
                });
            }
            Err(_) => {
                let _ = self.encoder.take_buffer();
                self.exec(Action::Raise(Exception::ud()), true);
            }
        }
    }
}
