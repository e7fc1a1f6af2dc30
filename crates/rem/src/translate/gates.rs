//! Changes of privilege inside translated code.
//!
//! SYSCALL and SYSRET always do the same in a running system: which segments, flags and mode come of
//! them is worked out once, by the helper, and kept in [`ctx::Gate`] until a register that they
//! depend on is written. STAC and CLAC change the mode too: the class of memory accesses. In all
//! cases translated code notes the new mode's number in the context, and Rust follows when it is
//! called next ([`crate::core::Core::adopt`]).

use std::mem::offset_of;

use cpu::bits::rflags;

use super::{Builder, Insn};
use crate::ctx::{self, Class, Gate};
use crate::emit::{T0, T1};

/// Flags that SYSRET may set without a helper.
const PLAIN: u64 = rflags::ARITH | rflags::FIXED | rflags::IF | rflags::DF | rflags::ID;

impl Builder<'_> {
    /// A gate's offset, and that of one of its fields.
    fn gate(&self, which: usize) -> i32 {
        ctx::gate(which, self.input.mode.upper())
    }

    /// The table of indirect jumps of this mode's neighbour with accesses of `class`.
    fn table(&self, class: Class) -> usize {
        self.input.mode.with_class(class).jc_table(0)
    }

    /// Segments and mode become those of the gate. Uses T0.
    fn pass(&mut self, gate: i32) {
        for (seg, at) in [(1, offset_of!(Gate, cs)), (2, offset_of!(Gate, ss))] {
            for part in (0..size_of::<cpu::SegReg>() as i32).step_by(8) {
                self.hot.load(T0, gate + at as i32 + part);
                self.hot.store(ctx::seg(seg) + part, T0);
            }
        }
        self.hot.load32(T0, gate + offset_of!(Gate, to) as i32);
        self.hot.store32(ctx::MODE, T0);
    }

    pub(super) fn syscall(&mut self, i: &Insn) {
        let gate = self.gate(0);
        self.park(i);
        self.hot
            .cmp_gs_imm(gate + offset_of!(Gate, from) as i32, self.input.mode_id + 1);
        let closed = self.hot.jcc(5);
        self.flags_image(rflags::RF);
        self.hot.store(ctx::gpr(11), T1);
        self.hot
            .and_from_gs(T1, gate + offset_of!(Gate, keep) as i32);
        self.hot.or_imm8(T1, rflags::FIXED as u8);
        self.hot.store(ctx::RFLAGS, T1);
        // The gate is only open when all arithmetic flags go.
        self.hot
            .store_imm16(ctx::FLAGSAVE, (rflags::FIXED as u16) << 8);
        self.pass(gate);
        self.set_rip(1, self.insn.next_ip());
        self.hot.load(T0, ctx::LSTAR);
        let index = self.refusal(0);
        self.jump_through(self.table(Class::Kernel), index);
        self.slow(&[closed], false);
    }

    pub(super) fn sysret(&mut self, i: &Insn) {
        let gate = self.gate(1);
        self.park(i);
        self.hot
            .cmp_gs_imm(gate + offset_of!(Gate, from) as i32, self.input.mode_id + 1);
        let closed = self.hot.jcc(5);
        // What waits for interrupts to be enabled.
        self.hot.cmp_gs_zero(ctx::HELD);
        let held = self.hot.jcc(5);
        self.hot.load32(T1, ctx::gpr(11));
        self.hot.test32(T1, (rflags::ALL & !PLAIN) as u32);
        let unusual = self.hot.jcc(5);
        // Other addresses may not be canonical.
        self.hot.mov(T0, 1);
        self.hot.shr(true, T0, 47);
        let far = self.hot.jcc(5);
        self.hot.and32(T1, PLAIN as u32);
        self.hot.or_imm8(T1, rflags::FIXED as u8);
        self.hot.store(ctx::RFLAGS, T1);
        self.hot.store8(ctx::FLAGSAVE + 1, T1);
        self.hot.shr(false, T1, rflags::OF.trailing_zeros() as u8);
        self.hot.and32(T1, 1);
        self.hot.store8(ctx::FLAGSAVE, T1);
        self.pass(gate);
        self.hot.mov(T0, 1);
        let index = self.refusal(0);
        self.jump_through(self.table(Class::User), index);
        self.slow(&[closed, held, unusual, far], false);
    }

    pub(super) fn set_ac(&mut self, i: &Insn, on: bool) {
        self.park(i);
        if on {
            self.hot.or_gs(ctx::RFLAGS, rflags::AC as u32);
        } else {
            self.hot.and_gs(ctx::RFLAGS, !(rflags::AC as u32));
        }
        let to = self.input.ac_modes[usize::from(on)];
        self.hot.store_imm32(ctx::MODE, to);
        self.exit(self.insn.next_ip() & self.input.mode.ip_mask(), None);
        if let Some(link) = self.links.last_mut() {
            link.crosses = to != self.input.mode_id;
        }
    }
}
