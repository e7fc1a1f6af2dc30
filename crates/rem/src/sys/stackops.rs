//! PUSH, POP and their compounds.

use cpu::{Fault, Seg};
use iced_x86::{Instruction, OpKind, Register};

use super::cpuid::is_amd;
use super::operand::{linear, mask, seg_of};
use super::stack::Stack;
use super::transfer::far_pointer;
use super::{As, Sys, load_segment};

/// Operand size of a PUSH or POP: how far it moves the stack pointer.
fn size_of(insn: &Instruction) -> usize {
    insn.stack_pointer_increment().unsigned_abs() as usize
}

/// PUSH of anything.
pub(super) fn push(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    let size = size_of(insn);
    let mut written = size;
    let value = match insn.op0_kind() {
        OpKind::Register => {
            let r = insn.op0_register();
            if r.is_segment_register() && size == 4 && !is_amd(sys) {
                // The upper half of the slot is left alone; AMD's write zeros (SDM vol. 2, PUSH).
                written = 2;
            }
            sys.get(r)
        }
        OpKind::Memory => sys.read_op(insn, 0, size)?,
        _ => insn.immediate(0),
    };
    let mut stack = Stack::current(sys);
    stack.push_part(sys, size, written, value)?;
    stack.commit(sys);
    Ok(())
}

/// POP to anything.
pub(super) fn pop(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    let size = size_of(insn);
    let mut stack = Stack::current(sys);
    if insn.op0_kind() == OpKind::Memory {
        let value = stack.pop(sys, size)?;
        // An address based on the stack pointer uses its new value.
        let old = sys.state.gpr[4];
        stack.commit(sys);
        let written = sys.write_op(insn, 0, size, value);
        if written.is_err() {
            sys.state.gpr[4] = old;
        }
        return written;
    }
    let r = insn.op0_register();
    if r.is_segment_register() {
        // Only the selector is read; AMD's processors read the whole slot.
        let read = if is_amd(sys) { size } else { 2 };
        let sel = stack.peek(sys, 0, read)? as u16;
        stack.skip(size as u64);
        load_segment(sys, seg_of(r), sel)?;
        sys.state.shadow = r == Register::SS;
        stack.commit(sys);
    } else {
        let value = stack.pop(sys, size)?;
        stack.commit(sys);
        sys.set(r, value);
    }
    Ok(())
}

/// PUSHA with operand size `size`.
pub(super) fn pusha(sys: &mut Sys<'_>, size: usize) -> Fault {
    let mut stack = Stack::current(sys);
    for i in 0..8 {
        let value = sys.state.gpr[i];
        stack.push(sys, size, value)?;
    }
    stack.commit(sys);
    Ok(())
}

/// POPA with operand size `size`.
pub(super) fn popa(sys: &mut Sys<'_>, size: usize) -> Fault {
    let mut stack = Stack::current(sys);
    let mut values = [0; 8];
    for value in values.iter_mut().rev() {
        *value = stack.pop(sys, size)?;
    }
    for (i, value) in values.into_iter().enumerate() {
        // The stack pointer's own value is skipped.
        if i != 4 {
            sys.set_gpr(i, size, value);
        }
    }
    stack.commit(sys);
    Ok(())
}

/// ENTER.
pub(super) fn enter(sys: &mut Sys<'_>, insn: &Instruction, size: usize) -> Fault {
    let allocate = u64::from(insn.immediate16());
    let level = insn.immediate8_2nd() & 31;
    let mut stack = Stack::current(sys);
    let width = stack.width();
    let bp = sys.state.gpr[5];
    stack.push(sys, size, bp)?;
    let frame = stack.sp;
    if level > 0 {
        let display = Stack::current(sys);
        for i in 1..u64::from(level) {
            let at = (bp & mask(width)).wrapping_sub(i * size as u64);
            // `peek` is relative to the stack pointer.
            let value = display.peek(sys, at.wrapping_sub(display.sp), size)?;
            stack.push(sys, size, value)?;
        }
        stack.push(sys, size, frame)?;
    }
    stack.skip(allocate.wrapping_neg());
    // The new top must be writable (SDM: ENTER faults where the next push would).
    stack.probe(sys, size)?;
    stack.commit(sys);
    sys.set_gpr(5, size, frame);
    Ok(())
}

/// LEAVE with operand size `size`.
pub(super) fn leave(sys: &mut Sys<'_>, size: usize) -> Fault {
    let mut stack = Stack::current(sys);
    stack.sp = sys.state.gpr[5] & mask(stack.width());
    let bp = stack.pop(sys, size)?;
    stack.commit(sys);
    sys.set_gpr(5, size, bp);
    Ok(())
}

/// LDS, LES, LSS, LFS, LGS.
pub(super) fn load_pointer(sys: &mut Sys<'_>, insn: &Instruction, seg: Seg) -> Fault {
    let r = insn.op0_register();
    let (sel, offset) = far_pointer(sys, insn, 1, r.size())?;
    load_segment(sys, seg, sel)?;
    sys.set(r, offset);
    Ok(())
}

/// XLAT.
pub(super) fn xlat(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    // The operand is [rBX+AL]; the decoder describes it as base and index.
    let at = linear(sys, insn, 0, 1, false)?;
    let value = sys.mem.read_u(at, 1, As::Current)?;
    sys.set(Register::AL, value);
    Ok(())
}

/// CMPXCHG8B and CMPXCHG16B, not atomic: `size` is half of the operand.
pub(super) fn cmpxchg_pair(sys: &mut Sys<'_>, insn: &Instruction, size: usize) -> Fault {
    let at = linear(sys, insn, 0, 2 * size, true)?;
    if size == 8 && !at.is_multiple_of(16) {
        return Err(cpu::Exception::gp(0));
    }
    let mut b = [0; 16];
    let b = &mut b[..2 * size];
    sys.mem.probe_write(at, b.len(), As::Current)?;
    sys.mem.read(at, b, As::Current)?;
    let part = |i: usize| {
        let mut v = [0; 8];
        v[..size].copy_from_slice(&b[i * size..(i + 1) * size]);
        u64::from_le_bytes(v)
    };
    let (low, high) = (part(0), part(1));
    let equal = low == sys.gpr(0, size) && high == sys.gpr(2, size);
    if equal {
        let (low, high) = (sys.gpr(3, size), sys.gpr(1, size));
        b[..size].copy_from_slice(&low.to_le_bytes()[..size]);
        b[size..].copy_from_slice(&high.to_le_bytes()[..size]);
        sys.mem.write(at, b, As::Current)?;
    } else {
        sys.set_gpr(0, size, low);
        sys.set_gpr(2, size, high);
    }
    sys.put_flag(cpu::bits::rflags::ZF, equal);
    Ok(())
}
