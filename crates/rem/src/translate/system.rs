//! System instructions that need no helper in the usual case.

use cpu::bits::rflags;

use iced_x86::Instruction;

use super::{ArgKind, Builder, Insn, number, seg_number};
use crate::ctx::{self, Call};
use crate::emit::{T0, T1};
use crate::site::{Action, Exec};

impl Builder<'_> {
    pub(super) fn cli(&mut self, i: &Insn) {
        self.park(i);
        self.hot.and_gs(ctx::RFLAGS, !(rflags::IF as u32));
    }

    /// When something waits for interrupts to be enabled, the helper executes it and the block ends.
    pub(super) fn sti(&mut self, i: &Insn) {
        self.park(i);
        self.hot.cmp_gs_zero(ctx::HELD);
        let held = self.hot.jcc(5);
        self.hot.or_gs(ctx::RFLAGS, rflags::IF as u32);
        let stub = self.cold.here();
        self.to_cold.push((held, stub));
        self.args_cold.push((stub, ArgKind::Exec));
        self.cold.call(Call::Exec, self.execs.len() as u32);
        self.execs.push(Exec {
            action: Action::Execute(self.insn),
            rip: self.insn.ip() & self.input.mode.ip_mask(),
            resume: 0,
            parked: self.parked,
            same_mode: false,
            undo: 0,
        });
    }

    /// Pushes RFLAGS with VM and RF clear (SDM vol. 2, PUSHF).
    pub(super) fn pushf(&mut self, i: &Insn) {
        self.park(i);
        let hidden = rflags::ARITH | rflags::VM | rflags::RF;
        self.hot.load8(T1, ctx::FLAGSAVE + 1);
        self.hot.and32(T1, (rflags::ARITH & 0xff) as u32);
        self.hot.load8(T0, ctx::FLAGSAVE);
        self.hot.shl32(T0, rflags::OF.trailing_zeros() as u8);
        self.hot.or32(T1, T0);
        self.hot.load32(T0, ctx::RFLAGS);
        self.hot.and32(T0, !(hidden as u32));
        self.hot.or32(T1, T0);
        self.hot.store(ctx::tmp(1), T1);
        let disp = self.push_access(i, 8, false);
        self.hot.load(T1, ctx::tmp(1));
        self.store_to(T1, 8, disp);
        self.move_stack(-8);
        self.done();
    }

    pub(super) fn swapgs(&mut self) {
        let gs = ctx::seg_base(5);
        self.hot.load(T0, gs);
        self.hot.load(T1, ctx::KERNEL_GS_BASE);
        self.hot.store(ctx::KERNEL_GS_BASE, T0);
        self.hot.store(gs, T1);
    }

    /// In real mode the base is 16 times the selector; limit and attributes stay (SDM vol. 3,
    /// 21.1.1).
    pub(super) fn mov_segment(&mut self, insn: &Instruction) {
        let seg = seg_number(insn.op0_register());
        self.hot.movzx16(T1, number(insn.op1_register()).0);
        self.hot.store16(ctx::seg_sel(seg), T1);
        self.hot.lea(true, T1, None, Some((T1, 8)), 0);
        self.hot.lea(true, T1, Some(T1), Some((T1, 1)), 0);
        self.hot.store(ctx::seg_base(seg), T1);
    }
}
