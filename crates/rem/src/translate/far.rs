//! Far JMP, CALL and RET to code of the same mode: in real and virtual-8086 mode those to the
//! segment that the code is in, in protected mode those at privilege level 0 whose descriptor is as
//! it was the last time (see [`crate::descriptors`]). The helper executes all others, and these too
//! when anything is unusual: nothing is changed before that is known.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::{Builder, Insn};
use crate::ctx;
use crate::emit::{At, T0, T1};
use crate::mode::Mode;

const CS: usize = 1;
const SS: usize = 2;

/// Whether translated code may do the far transfer `insn` by itself.
pub fn direct(insn: &Instruction, mode: &Mode) -> bool {
    if mode.one() || mode.debug() || mode.aligned() || mode.code64() {
        return false;
    }
    let named = match insn.op0_kind() {
        OpKind::FarBranch16 | OpKind::FarBranch32 => {
            if !mode.can_reach(target(insn)) {
                return false;
            }
            Some(insn.far_branch_selector())
        }
        _ if insn.mnemonic() == Mnemonic::Retf => None,
        _ => return false,
    };
    match paragraph(mode) {
        Some(own) => named.is_none_or(|sel| Some(sel) == own),
        None => mode.ring0(),
    }
}

/// In real and virtual-8086 mode, the selector that has the base of CS, if there is one.
fn paragraph(mode: &Mode) -> Option<Option<u16>> {
    mode.plain_real().then(|| {
        let sel = u16::try_from(mode.cs_base >> 4).ok()?;
        (mode.cs_base & 15 == 0).then_some(sel)
    })
}

/// Offset that a far JMP or CALL names.
fn target(insn: &Instruction) -> u64 {
    match insn.op0_kind() {
        OpKind::FarBranch16 => insn.far_branch16().into(),
        _ => insn.far_branch32().into(),
    }
}

/// Operand size in bytes.
fn size_of(insn: &Instruction) -> u32 {
    match insn.code() {
        Code::Call_ptr1616 | Code::Jmp_ptr1616 | Code::Retfw | Code::Retfw_imm16 => 2,
        _ => 4,
    }
}

impl Builder<'_> {
    pub(super) fn far(&mut self, i: &Insn) {
        self.park(i);
        let mut slow = Vec::with_capacity(16);
        if i.insn.mnemonic() == Mnemonic::Retf {
            self.far_return(i, &mut slow);
        } else {
            self.far_named(i, &mut slow);
        }
        self.slow(&slow, false);
    }

    fn far_named(&mut self, i: &Insn, slow: &mut Vec<u32>) {
        let size = size_of(&i.insn);
        // The target is no distance.
        self.bound = true;
        self.hot.imm(T1, i.insn.far_branch_selector().into());
        self.same_segment(slow);
        if i.insn.mnemonic() == Mnemonic::Call {
            let both = 2 * size as i32;
            self.reach_span(-both, true, slow);
            self.hot.load16(T1, ctx::seg_sel(CS));
            self.store_to(T1, size, At::t0(size as i32));
            self.store_return(size, At::t0(0));
            self.move_stack(-both);
        }
        self.enter_segment();
        self.exit(target(&i.insn), None);
    }

    fn far_return(&mut self, i: &Insn, slow: &mut Vec<u32>) {
        let size = size_of(&i.insn);
        let release = match i.insn.op_count() {
            0 => 0,
            _ => i32::from(i.insn.immediate16()),
        };
        let both = 2 * size as i32;
        self.reach_span(both, false, slow);
        self.load_zx(T1, size, At::t0(0));
        let limit = self.input.mode.cs_limit;
        if limit < (1 << (8 * size)) - 1 {
            self.hot.cmp_imm(T1, limit as u32);
            slow.push(self.hot.jcc(7)); // ja
        }
        self.hot.store(ctx::tmp(1), T1);
        self.load_zx(T1, 2, At::t0(size as i32));
        self.same_segment(slow);
        self.enter_segment();
        self.move_stack(both + release);
        self.hot.load(T0, ctx::tmp(1));
        self.jump_indirect(-both - release);
    }

    /// Goes to one of `slow` unless the selector in T1 leads to code of this mode. Uses T0 and T1.
    fn same_segment(&mut self, slow: &mut Vec<u32>) {
        let Some(own) = paragraph(&self.input.mode) else {
            return self.compare_descriptor(CS, slow);
        };
        // Without one, no selector of 16 bits is equal.
        let own = own.map_or(u32::MAX, u32::from);
        self.hot.cmp_imm(T1, own);
        slow.push(self.hot.jcc(5));
        // After a change from protected mode it may be another that has this base.
        self.hot.load16(T0, ctx::seg_sel(CS));
        self.hot.cmp_imm(T0, own);
        slow.push(self.hot.jcc(5));
    }

    /// CS becomes what [`Builder::same_segment`] has found.
    fn enter_segment(&mut self) {
        if !self.input.mode.plain_real() {
            self.install(CS);
        }
    }

    /// T0 = host address of the bytes that the stack pointer passes when it moves by `delta`, if
    /// those are plain memory in one piece. Uses T1.
    fn reach_span(&mut self, delta: i32, write: bool, slow: &mut Vec<u32>) {
        let mode = self.input.mode;
        let size = delta.unsigned_abs();
        self.stack_address(delta.min(0));
        self.hot.lea(true, T1, Some(T0), None, size as i32 - 1);
        if !mode.flat(SS) {
            self.hot.cmp_gs(T1, ctx::seg_limit(SS, write));
            slow.push(self.hot.jcc(15)); // jg
        }
        if mode.stack_bytes() == 2 {
            // The second part may lie at the stack's other end.
            self.hot.test32(T1, 1 << 16);
            slow.push(self.hot.jcc(5));
        }
        if !mode.flat(SS) {
            self.hot.add_gs(false, T0, ctx::seg_base(SS));
        }
        slow.push(self.hot.probe(ctx::tlb(mode.class(), write), size));
    }
}
