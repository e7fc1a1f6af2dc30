//! Transfers of control: near and far JMP, CALL and RET, call gates, LOOP, Jcc on CX.

use cpu::{Exception, Fault, Seg, Vector, attr};
use iced_x86::{Instruction, Mnemonic, OpKind};

use super::operand::{canonical, in_limit, mask};
use super::seg::{self, Descriptor, code_of, kind};
use super::stack::Stack;
use super::table::{inner_rsp, inner_stack};
use super::task::{self, Source};
use super::{As, Flow, Sys, cpuid};

/// Selector and offset of a far JMP or CALL. `size` is the operand size in bytes.
pub(super) fn far_operand(sys: &mut Sys<'_>, insn: &Instruction, size: usize) -> Fault<(u16, u64)> {
    match insn.op0_kind() {
        OpKind::FarBranch16 => Ok((insn.far_branch_selector(), u64::from(insn.far_branch16()))),
        OpKind::FarBranch32 => Ok((insn.far_branch_selector(), u64::from(insn.far_branch32()))),
        _ => far_pointer(sys, insn, 0, size),
    }
}

/// Selector and offset in memory: offset of `size` bytes first.
pub(super) fn far_pointer(
    sys: &mut Sys<'_>,
    insn: &Instruction,
    op: u32,
    size: usize,
) -> Fault<(u16, u64)> {
    // Two accesses: the offset's faults come before those of the selector.
    let (seg, at) = sys.effective(insn, op);
    let first = sys.linear_at(seg, at, size, false)?;
    let offset = sys.mem.read_u(first, size, As::Current)?;
    let second = sys.linear_at(seg, at.wrapping_add(size as u64), 2, false)?;
    let sel = sys.mem.read_u(second, 2, As::Current)? as u16;
    Ok((sel, offset))
}

/// Checks a near target and goes there.
pub(super) fn near(sys: &mut Sys<'_>, target: u64) -> Fault<Flow> {
    let ok = if sys.state.code64() {
        canonical(target)
    } else {
        in_limit(&sys.state.seg[Seg::Cs as usize], target, 1)
    };
    if !ok {
        return Err(Exception::gp(0));
    }
    sys.state.rip = target;
    Ok(Flow::Jump)
}

/// Target of a near branch whose displacement is in the instruction.
pub(super) fn near_target(sys: &Sys<'_>, insn: &Instruction) -> u64 {
    let displacement = insn.near_branch_target().wrapping_sub(insn.next_ip());
    let size = match insn.op0_kind() {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        _ => 8,
    };
    sys.next_rip(insn).wrapping_add(displacement) & mask(size)
}

/// LOOP, LOOPE and LOOPNE.
pub(super) fn count_down(sys: &mut Sys<'_>, insn: &Instruction) -> Fault<Flow> {
    let size = insn.code().op_code().address_size() as usize / 8;
    let count = sys.gpr(1, size).wrapping_sub(1) & mask(size);
    let equal = sys.state.rflags & cpu::bits::rflags::ZF != 0;
    let goes_on = match insn.mnemonic() {
        Mnemonic::Loope => equal,
        Mnemonic::Loopne => !equal,
        _ => true,
    };
    let flow = if goes_on && count != 0 {
        near(sys, near_target(sys, insn))?
    } else {
        Flow::Next
    };
    sys.set_gpr(1, size, count);
    Ok(flow)
}

/// Near CALL with operand size `size`.
pub(super) fn call_near(
    sys: &mut Sys<'_>,
    insn: &Instruction,
    target: u64,
    size: usize,
) -> Fault<Flow> {
    let next = sys.next_rip(insn);
    let mut stack = Stack::current(sys);
    stack.push(sys, size, next)?;
    let flow = near(sys, target)?;
    stack.commit(sys);
    Ok(flow)
}

/// Near RET.
pub(super) fn ret_near(sys: &mut Sys<'_>, size: usize, release: u64) -> Fault<Flow> {
    let mut stack = Stack::current(sys);
    let target = stack.pop(sys, size)?;
    stack.skip(release);
    let flow = near(sys, target)?;
    stack.commit(sys);
    Ok(flow)
}

/// A code segment loaded without any checks, as real and virtual-8086 mode do.
fn load_plain_cs(sys: &mut Sys<'_>, sel: u16) {
    if sys.v86() {
        sys.state.seg[Seg::Cs as usize] = seg::v86(sel);
    } else {
        let cs = &mut sys.state.seg[Seg::Cs as usize];
        cs.sel = sel;
        cs.base = u64::from(sel) << 4;
    }
}

/// Checks a code segment that a far JMP or CALL names directly.
fn direct_target(sys: &Sys<'_>, sel: u16, d: &Descriptor) -> Fault {
    let cpl = sys.state.cpl();
    let privileged = if d.is_conforming() {
        d.dpl() <= cpl
    } else {
        sel as u8 & 3 <= cpl && d.dpl() == cpl
    };
    if !privileged || seg::bad_size(sys, d) {
        return Err(Exception::gp(code_of(sel)));
    }
    if !d.present() {
        return Err(Exception::np(code_of(sel)));
    }
    Ok(())
}

/// What a far JMP or CALL reaches through a system descriptor.
enum Through {
    CallGate(Descriptor),
    Task(u16, Descriptor),
}

fn through(sys: &mut Sys<'_>, sel: u16, d: Descriptor) -> Fault<Through> {
    let bad = Exception::gp(code_of(sel));
    let long = sys.state.long_mode();
    let kind = d.system();
    let usable = match kind {
        Some(kind::CALL32) => true,
        Some(kind::CALL16 | kind::TASK_GATE | kind::TSS16 | kind::TSS32) => !long,
        _ => false,
    };
    if !usable || d.dpl() < sys.state.cpl() || d.dpl() < sel as u8 & 3 {
        return Err(bad);
    }
    if !d.present() {
        return Err(Exception::np(code_of(sel)));
    }
    match kind {
        Some(kind::CALL16 | kind::CALL32) => Ok(Through::CallGate(d)),
        Some(kind::TASK_GATE) => {
            let sel = d.gate_selector();
            Ok(Through::Task(sel, task::available_tss(sys, sel)?))
        }
        _ if sel & 4 != 0 => Err(bad),
        _ => Ok(Through::Task(sel, d)),
    }
}

/// Reads the descriptor a far transfer names; call gates are 16 bytes wide in long mode.
fn named(sys: &mut Sys<'_>, sel: u16) -> Fault<Descriptor> {
    if sel & !3 == 0 {
        return Err(Exception::gp(0));
    }
    let d = seg::fetch(sys, sel, Vector::Gp)?;
    if sys.state.long_mode() && d.system() == Some(kind::CALL32) {
        return seg::fetch_wide(sys, sel, Vector::Gp);
    }
    Ok(d)
}

/// The code segment behind a call gate.
fn gate_target(sys: &mut Sys<'_>, gate: &Descriptor) -> Fault<(u16, Descriptor)> {
    let sel = gate.gate_selector();
    if sel & !3 == 0 {
        return Err(Exception::gp(0));
    }
    let d = seg::fetch(sys, sel, Vector::Gp)?;
    let long = sys.state.long_mode();
    let size_ok = !long || d.has(attr::L) && !d.has(attr::DB);
    if !d.is_code() || d.dpl() > sys.state.cpl() || !size_ok {
        return Err(Exception::gp(code_of(sel)));
    }
    if !d.present() {
        return Err(Exception::np(code_of(sel)));
    }
    Ok((sel, d))
}

/// Operand size of a call gate.
fn gate_size(sys: &Sys<'_>, gate: &Descriptor) -> usize {
    if sys.state.long_mode() {
        8
    } else if gate.system() == Some(kind::CALL32) {
        4
    } else {
        2
    }
}

/// Far JMP. `next_rip` is saved if it leads to another task.
pub(super) fn jump_far(sys: &mut Sys<'_>, sel: u16, offset: u64, next_rip: u64) -> Fault<Flow> {
    if !sys.state.protected() {
        if !in_limit(&sys.state.seg[Seg::Cs as usize], offset, 1) {
            return Err(Exception::gp(0));
        }
        load_plain_cs(sys, sel);
        sys.state.rip = offset;
        return Ok(Flow::Jump);
    }
    let mut d = named(sys, sel)?;
    let cpl = sys.state.cpl();
    if d.is_code() {
        direct_target(sys, sel, &d)?;
        seg::check_target(sys, &d, offset)?;
        seg::load_cs(sys, sel, &mut d, cpl)?;
        sys.state.rip = offset;
        return Ok(Flow::Jump);
    }
    match through(sys, sel, d)? {
        Through::CallGate(gate) => {
            let (sel, mut d) = gate_target(sys, &gate)?;
            if !d.is_conforming() && d.dpl() != cpl {
                return Err(Exception::gp(code_of(sel)));
            }
            let offset = gate.gate_offset() & mask(gate_size(sys, &gate));
            seg::check_target(sys, &d, offset)?;
            seg::load_cs(sys, sel, &mut d, cpl)?;
            sys.state.rip = offset;
        }
        Through::Task(sel, tss) => {
            let flags = sys.state.rflags;
            task::switch(sys, sel, tss, Source::Jump, next_rip, flags)?;
            task::check_rip(sys)?;
        }
    }
    Ok(Flow::Jump)
}

/// Far CALL with operand size `size`.
pub(super) fn call_far(
    sys: &mut Sys<'_>,
    sel: u16,
    offset: u64,
    size: usize,
    next_rip: u64,
) -> Fault<Flow> {
    let old_cs = u64::from(sys.state.seg[Seg::Cs as usize].sel);
    if !sys.state.protected() {
        let mut stack = Stack::current(sys);
        stack.push(sys, size, old_cs)?;
        stack.push(sys, size, next_rip)?;
        if !in_limit(&sys.state.seg[Seg::Cs as usize], offset, 1) {
            return Err(Exception::gp(0));
        }
        load_plain_cs(sys, sel);
        stack.commit(sys);
        sys.state.rip = offset;
        return Ok(Flow::Jump);
    }
    let mut d = named(sys, sel)?;
    let cpl = sys.state.cpl();
    if d.is_code() {
        direct_target(sys, sel, &d)?;
        let mut stack = Stack::current(sys);
        if cpuid::is_amd(sys) && sys.state.long_mode() && d.has(attr::L) {
            // These are in the new segment's mode before they push (APM vol. 3, CALL (Far)).
            let ss = sys.state.seg[Seg::Ss as usize];
            stack = Stack::switched(ss, sys.state.gpr[4], true, cpl);
        }
        stack.push(sys, size, old_cs)?;
        stack.push(sys, size, next_rip)?;
        seg::check_target(sys, &d, offset)?;
        seg::load_cs(sys, sel, &mut d, cpl)?;
        stack.commit(sys);
        sys.state.rip = offset;
        return Ok(Flow::Jump);
    }
    match through(sys, sel, d)? {
        Through::CallGate(gate) => call_gate(sys, &gate, next_rip)?,
        Through::Task(sel, tss) => {
            let flags = sys.state.rflags;
            task::switch(sys, sel, tss, Source::Call, next_rip, flags)?;
            task::check_rip(sys)?;
        }
    }
    Ok(Flow::Jump)
}

fn call_gate(sys: &mut Sys<'_>, gate: &Descriptor, next_rip: u64) -> Fault {
    let (sel, mut d) = gate_target(sys, gate)?;
    let size = gate_size(sys, gate);
    let offset = gate.gate_offset() & mask(size);
    let cpl = sys.state.cpl();
    let old_cs = u64::from(sys.state.seg[Seg::Cs as usize].sel);
    let old_ss = u64::from(sys.state.seg[Seg::Ss as usize].sel);
    let old = Stack::current(sys);
    let old_sp = sys.state.gpr[4];

    if d.is_conforming() || d.dpl() == cpl {
        seg::check_target(sys, &d, offset)?;
        let mut stack = if size == 8 {
            Stack::switched(sys.state.seg[Seg::Ss as usize], old_sp, true, cpl)
        } else {
            old
        };
        stack.push(sys, size, old_cs)?;
        stack.push(sys, size, next_rip)?;
        seg::load_cs(sys, sel, &mut d, cpl)?;
        stack.commit(sys);
        sys.state.rip = offset;
        return Ok(());
    }

    let level = d.dpl();
    let (ss, sp) = if size == 8 {
        (seg::null(u16::from(level), level), inner_rsp(sys, level)?)
    } else {
        let (ss, sp) = inner_stack(sys, level)?;
        (seg::stack_segment(sys, ss, level, Vector::Ts)?, sp)
    };
    seg::check_target(sys, &d, offset)?;
    let mut stack = Stack::switched(ss, sp, size == 8, level);
    stack.push(sys, size, old_ss)?;
    stack.push(sys, size, old_sp)?;
    if size != 8 {
        for i in (0..u64::from(gate.gate_count())).rev() {
            let parameter = old.peek(sys, i * size as u64, size)?;
            stack.push(sys, size, parameter)?;
        }
    }
    stack.push(sys, size, old_cs)?;
    stack.push(sys, size, next_rip)?;
    seg::load_cs(sys, sel, &mut d, level)?;
    sys.state.seg[Seg::Ss as usize] = ss;
    stack.commit(sys);
    sys.state.rip = offset;
    Ok(())
}

/// Far RET with operand size `size`, releasing `release` bytes of parameters.
pub(super) fn ret_far(sys: &mut Sys<'_>, size: usize, release: u64) -> Fault<Flow> {
    let mut stack = Stack::current(sys);
    let offset = stack.pop(sys, size)?;
    let sel = stack.pop(sys, size)? as u16;
    if !sys.state.protected() {
        if !in_limit(&sys.state.seg[Seg::Cs as usize], offset, 1) {
            return Err(Exception::gp(0));
        }
        stack.skip(release);
        load_plain_cs(sys, sel);
        stack.commit(sys);
        sys.state.rip = offset;
        return Ok(Flow::Jump);
    }
    let mut d = return_segment(sys, sel, offset)?;
    let cpl = sys.state.cpl();
    let level = sel as u8 & 3;
    stack.skip(release);
    if level == cpl {
        seg::load_cs(sys, sel, &mut d, cpl)?;
        stack.commit(sys);
    } else {
        let new_sp = stack.pop(sys, size)?;
        let new_ss = stack.pop(sys, size)? as u16;
        let ss = outer_stack(sys, new_ss, level, &d)?;
        let long = sys.state.long_mode() && d.has(attr::L);
        let mut outer = Stack::switched(ss, new_sp, long, level);
        outer.skip(release);
        seg::load_cs(sys, sel, &mut d, level)?;
        sys.state.seg[Seg::Ss as usize] = ss;
        outer.commit(sys);
        seg::drop_inner_segments(sys, level);
    }
    sys.state.rip = offset;
    Ok(Flow::Jump)
}

/// Checks the code segment a far RET or IRET goes back to.
pub(super) fn return_segment(sys: &mut Sys<'_>, sel: u16, offset: u64) -> Fault<Descriptor> {
    if sel & !3 == 0 {
        return Err(Exception::gp(0));
    }
    let d = seg::fetch(sys, sel, Vector::Gp)?;
    let rpl = sel as u8 & 3;
    let privileged = if d.is_conforming() {
        d.dpl() <= rpl
    } else {
        d.dpl() == rpl
    };
    if !d.is_code() || rpl < sys.state.cpl() || !privileged || seg::bad_size(sys, &d) {
        return Err(Exception::gp(code_of(sel)));
    }
    if !d.present() {
        return Err(Exception::np(code_of(sel)));
    }
    seg::check_target(sys, &d, offset)?;
    Ok(d)
}

/// Checks the stack segment of the level a far RET or IRET goes back to. Only 64-bit code below
/// level 3 may have a null one.
pub(super) fn outer_stack(
    sys: &mut Sys<'_>,
    sel: u16,
    level: u8,
    cs: &Descriptor,
) -> Fault<cpu::SegReg> {
    if sel & !3 == 0 {
        let to64 = sys.state.long_mode() && cs.has(attr::L);
        if to64 && level != 3 && sel as u8 == level {
            return Ok(seg::null(sel, level));
        }
        return Err(Exception::gp(0));
    }
    seg::stack_segment(sys, sel, level, Vector::Gp)
}
