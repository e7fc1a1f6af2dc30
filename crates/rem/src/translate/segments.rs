//! Loads of segment registers in protected mode that find the descriptor as it was the last time
//! (see [`crate::descriptors`]).

use std::mem::offset_of;

use cpu::bits::cr0;
use iced_x86::DecoderOptions;

use super::{Builder, Insn, number, seg_number};
use crate::ctx::{self, Class};
use crate::descriptors::{Loaded, entry};
use crate::emit::{At, T0, T1};

impl Builder<'_> {
    /// Where the entry for the instruction under way is.
    pub(super) fn loaded(&self, seg: usize) -> i32 {
        ctx::descriptor(seg, entry(self.insn.ip()))
    }

    /// PUSH of a segment register. Of four bytes, Intel's processors write two and AMD's all (SDM
    /// vol. 2, PUSH).
    pub(super) fn push_segment(&mut self, i: &Insn) {
        let size = -i.insn.stack_pointer_increment();
        let amd = self.input.features.options() & DecoderOptions::AMD != 0;
        let written = if amd { size as u32 } else { 2 };
        let at = self.reach_stack(i, -size, written, true, false);
        self.hot
            .load16(T1, ctx::seg_sel(seg_number(i.insn.op0_register())));
        self.store_to(T1, written, at);
        self.move_stack(-size);
        self.done();
    }

    /// MOV to DS, ES, FS or GS at privilege level 0.
    pub(super) fn load_segment(&mut self, i: &Insn) {
        let seg = seg_number(i.insn.op0_register());
        self.park(i);
        self.hot.movzx16(T1, number(i.insn.op1_register()).0);
        let mut slow = Vec::with_capacity(8);
        self.compare_descriptor(seg, &mut slow);
        self.install(seg);
        self.slow(&slow, true);
        if let Some(e) = self.execs.last_mut() {
            e.same_mode = true;
        }
    }

    /// Goes to one of `slow` unless the selector in T1 and its descriptor in memory are those that
    /// `seg` was loaded with here before. Uses T0 and T1 and changes flags.
    pub(super) fn compare_descriptor(&mut self, seg: usize, slow: &mut Vec<u32>) {
        let at = self.loaded(seg);
        let field = |offset: usize| at + offset as i32;
        self.hot.cmp_gs(T1, field(offset_of!(Loaded, sel)));
        slow.push(self.hot.jcc(5));
        self.hot
            .cmp_gs_imm(field(offset_of!(Loaded, mode)), self.input.mode_id + 1);
        slow.push(self.hot.jcc(5));
        // Real mode may have the same number.
        self.hot.test_gs(ctx::cr(0), cr0::PE as u32);
        slow.push(self.hot.jcc(4));
        self.hot.load16(T0, ctx::GDT_LIMIT);
        self.hot.cmp_gs(T0, field(offset_of!(Loaded, gdt_limit)));
        slow.push(self.hot.jcc(5));
        self.hot.load(T0, ctx::GDT_BASE);
        self.hot.cmp_gs(T0, field(offset_of!(Loaded, gdt_base)));
        slow.push(self.hot.jcc(5));
        self.hot.load(T0, field(offset_of!(Loaded, at)));
        slow.push(self.hot.probe(ctx::tlb(Class::Kernel, false), 8));
        self.load_zx(T0, 8, At::t0(0));
        self.hot.cmp_gs(T0, field(offset_of!(Loaded, raw)));
        slow.push(self.hot.jcc(5));
    }

    /// `seg` becomes what it was then. Uses T0.
    pub(super) fn install(&mut self, seg: usize) {
        let at = self.loaded(seg);
        let reg = at + offset_of!(Loaded, reg) as i32;
        for part in (0..size_of::<cpu::SegReg>() as i32).step_by(8) {
            self.hot.load(T0, reg + part);
            self.hot.store(ctx::seg(seg) + part, T0);
        }
        for (write, offset) in [
            (false, offset_of!(Loaded, limit_read)),
            (true, offset_of!(Loaded, limit_write)),
        ] {
            self.hot.load(T0, at + offset as i32);
            self.hot.store(ctx::seg_limit(seg, write), T0);
        }
    }
}
