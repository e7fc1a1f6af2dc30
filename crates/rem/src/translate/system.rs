//! System instructions that need no helper in the usual case.

use cpu::bits::rflags;

use cpu::bits::cr4;
use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind, Register};

use super::{Builder, Insn, is_scratch, number, seg_number};
use crate::ctx;
use crate::emit::{T0, T1};
use crate::site::Action;

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
        self.slow(&[held], false);
    }

    pub(super) fn set_df(&mut self, i: &Insn, on: bool) {
        self.park(i);
        if on {
            self.hot.or_gs(ctx::RFLAGS, rflags::DF as u32);
        } else {
            self.hot.and_gs(ctx::RFLAGS, !(rflags::DF as u32));
        }
    }

    /// Pushes RFLAGS with VM and RF clear (SDM vol. 2, PUSHF).
    pub(super) fn pushf(&mut self, i: &Insn) {
        self.park(i);
        self.flags_image(rflags::VM | rflags::RF);
        self.hot.store(ctx::tmp(1), T1);
        let at = self.push_access(i, 8, false);
        self.hot.load(T1, ctx::tmp(1));
        self.store_to(T1, 8, at);
        self.move_stack(-8);
        self.done();
    }

    /// T1 = RFLAGS without the bits of `hidden`; the arithmetic flags are parked. Uses T0.
    pub(super) fn flags_image(&mut self, hidden: u64) {
        let hidden = rflags::ARITH | hidden;
        self.hot.load8(T1, ctx::FLAGSAVE + 1);
        self.hot.and32(T1, (rflags::ARITH & 0xff) as u32);
        self.hot.load8(T0, ctx::FLAGSAVE);
        self.hot.shl32(T0, rflags::OF.trailing_zeros() as u8);
        self.hot.or32(T1, T0);
        self.hot.load32(T0, ctx::RFLAGS);
        self.hot.and32(T0, !(hidden as u32));
        self.hot.or32(T1, T0);
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

    /// The guest's counter is the host's plus a constant, mostly.
    pub(super) fn read_tsc(&mut self, i: &Insn) {
        self.park(i);
        let mut slow = Vec::with_capacity(2);
        self.hot.cmp_gs_zero(ctx::TSC_KNOWN);
        slow.push(self.hot.jcc(4));
        if !self.input.mode.ring0() {
            self.hot.test_gs(ctx::cr(4), cr4::TSD as u32);
            slow.push(self.hot.jcc(5));
        }
        let with_aux = self.insn.mnemonic() == Mnemonic::Rdtscp;
        if with_aux {
            self.hot.put(&[0x0f, 0x01, 0xf9]); // rdtscp
            self.hot.load32(1, ctx::TSC_AUX);
        } else {
            self.hot.put(&[0x0f, 0x31]); // rdtsc
        }
        self.hot.put(&[0x48, 0xc1, 0xe2, 0x20]); // shl rdx, 32
        self.hot.put(&[0x48, 0x09, 0xd0]); // or rax, rdx
        self.hot.add_gs(true, 0, ctx::TSC_DELTA);
        self.hot.mov(2, 0);
        self.hot.shr(true, 2, 32);
        self.hot.mov32(0, 0);
        self.slow(&slow, true);
    }

    pub(super) fn read_segment(&mut self, i: &Insn) {
        let insn = i.insn;
        let from = ctx::seg_sel(seg_number(insn.op1_register()));
        if insn.op0_kind() == OpKind::Memory {
            let at = self.reach_operand(i, 2, OpAccess::Write);
            self.hot.load16(T1, from);
            self.store_to(T1, 2, at);
            return self.done();
        }
        self.hot.load16(T1, from);
        self.set_register(insn.op0_register());
    }

    /// Moves T1 to `to`, in its size.
    fn set_register(&mut self, to: Register) {
        let n = number(to).0;
        match (is_scratch(to), to.size()) {
            (true, 2) => self.hot.store16(ctx::gpr(n.into()), T1),
            (true, 4) => {
                self.hot.mov32(T1, T1);
                self.hot.store(ctx::gpr(n.into()), T1);
            }
            (true, _) => self.hot.store(ctx::gpr(n.into()), T1),
            (false, 2) => self.hot.mov16(n, T1),
            (false, 4) => self.hot.mov32(n, T1),
            (false, _) => self.hot.mov(n, T1),
        }
    }

    pub(super) fn read_cr(&mut self, insn: &Instruction) {
        self.hot.load(T1, ctx::cr(insn.op1_register().number()));
        self.set_register(insn.op0_register());
    }

    /// RDFSBASE, RDGSBASE, WRFSBASE and WRGSBASE while CR4 allows them.
    pub(super) fn base(&mut self, i: &Insn) {
        use Mnemonic as M;
        let insn = i.insn;
        let register = insn.op0_register();
        let base = match insn.mnemonic() {
            M::Rdfsbase | M::Wrfsbase => ctx::seg_base(4),
            _ => ctx::seg_base(5),
        };
        self.park(i);
        self.hot.test_gs(ctx::cr(4), cr4::FSGSBASE as u32);
        let mut slow = vec![self.hot.jcc(4)];
        if matches!(insn.mnemonic(), M::Rdfsbase | M::Rdgsbase) {
            self.hot.load(T1, base);
            self.set_register(register);
        } else {
            let n = number(register).0;
            match (is_scratch(register), register.size()) {
                (true, 4) => self.hot.load32(T1, ctx::gpr(n.into())),
                (true, _) => self.hot.load(T1, ctx::gpr(n.into())),
                (false, 4) => self.hot.mov32(T1, n),
                (false, _) => self.hot.mov(T1, n),
            }
            if register.size() == 8 {
                // Bits 63:47 all alike?
                self.hot.mov(T0, T1);
                self.hot.put(&[0x49, 0xc1, 0xe2, 0x10]); // shl r10, 16
                self.hot.put(&[0x49, 0xc1, 0xfa, 0x10]); // sar r10, 16
                self.hot.put(&[0x4d, 0x39, 0xda]); // cmp r10, r11
                slow.push(self.hot.jcc(5));
            }
            self.hot.store(base, T1);
        }
        self.slow(&slow, true);
    }

    /// Only the zero flag comes of it. Where nothing looks at that, the selector's place must be
    /// readable, and that is all.
    pub(super) fn verw(&mut self, i: &Insn) {
        if i.live {
            return self.exec(Action::Execute(self.insn), true);
        }
        if i.insn.op0_kind() == OpKind::Memory {
            self.reach_operand(i, 2, OpAccess::Read);
            self.done();
        }
    }
}
