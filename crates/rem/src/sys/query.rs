//! Instructions that look at descriptors and bounds: LAR, LSL, VERR, VERW, ARPL, BOUND.

use cpu::bits::rflags;
use cpu::{Exception, Fault, Vector, attr};
use iced_x86::Instruction;

use super::seg::{self, Descriptor, kind};
use super::{As, Sys};

/// The descriptor `sel` names, if there is one and `usable` accepts it.
fn find(
    sys: &mut Sys<'_>,
    sel: u16,
    usable: impl Fn(&Sys<'_>, &Descriptor) -> bool,
) -> Fault<Option<Descriptor>> {
    if sel & !3 == 0 {
        return Ok(None);
    }
    match seg::fetch(sys, sel, Vector::Gp) {
        Ok(d) => {
            let cpl = sys.state.cpl();
            let privileged = d.is_conforming() || d.dpl() >= cpl && d.dpl() >= sel as u8 & 3;
            Ok(Some(d).filter(|d| privileged && usable(sys, d)))
        }
        Err(e) if e.vector == Vector::Gp => Ok(None),
        Err(e) => Err(e),
    }
}

fn lar_type(sys: &Sys<'_>, d: &Descriptor) -> bool {
    match d.system() {
        None | Some(kind::LDT | kind::TSS32 | kind::TSS32_BUSY | kind::CALL32) => true,
        Some(kind::TSS16 | kind::TSS16_BUSY | kind::CALL16 | kind::TASK_GATE) => {
            !sys.state.long_mode()
        }
        _ => false,
    }
}

fn lsl_type(sys: &Sys<'_>, d: &Descriptor) -> bool {
    match d.system() {
        None | Some(kind::LDT | kind::TSS32 | kind::TSS32_BUSY) => true,
        Some(kind::TSS16 | kind::TSS16_BUSY) => !sys.state.long_mode(),
        _ => false,
    }
}

/// LAR.
pub(super) fn lar(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    sys.need_protected()?;
    let sel = sys.read_op(insn, 1, 2)? as u16;
    let found = find(sys, sel, lar_type)?;
    if let Some(d) = found {
        sys.set(insn.op0_register(), d.low >> 32 & 0x00f0_ff00);
    }
    sys.put_flag(rflags::ZF, found.is_some());
    Ok(())
}

/// LSL.
pub(super) fn lsl(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    sys.need_protected()?;
    let sel = sys.read_op(insn, 1, 2)? as u16;
    let found = find(sys, sel, lsl_type)?;
    if let Some(d) = found {
        sys.set(insn.op0_register(), u64::from(d.limit()));
    }
    sys.put_flag(rflags::ZF, found.is_some());
    Ok(())
}

/// VERR, and VERW if `write`.
pub(super) fn verify(sys: &mut Sys<'_>, insn: &Instruction, write: bool) -> Fault {
    sys.need_protected()?;
    let sel = sys.read_op(insn, 0, 2)? as u16;
    let found = find(sys, sel, |_, d| {
        let readable = d.has(attr::S) && (!d.has(attr::CODE) || d.has(attr::RW));
        if write {
            d.is_writable_data()
        } else {
            readable
        }
    })?;
    sys.put_flag(rflags::ZF, found.is_some());
    Ok(())
}

/// ARPL.
pub(super) fn arpl(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    sys.need_protected()?;
    let old = if insn.op0_kind() == iced_x86::OpKind::Register {
        sys.get(insn.op0_register())
    } else {
        sys.read_op(insn, 0, 2)?
    };
    let rpl = sys.get(insn.op1_register()) & 3;
    let raise = old & 3 < rpl;
    if raise {
        sys.write_op(insn, 0, 2, old & !3 | rpl)?;
    }
    sys.put_flag(rflags::ZF, raise);
    Ok(())
}

/// BOUND.
pub(super) fn bound(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    let size = insn.op0_register().size();
    let (seg, offset) = sys.effective(insn, 1);
    let mut limit = |offset: u64| {
        let at = sys.linear_at(seg, offset, size, false)?;
        sys.mem.read_u(at, size, As::Current)
    };
    let low = limit(offset)?;
    let high = limit(offset.wrapping_add(size as u64))?;
    let signed = |v: u64| {
        if size == 2 {
            i32::from(v as i16)
        } else {
            v as i32
        }
    };
    let index = signed(sys.get(insn.op0_register()));
    if index < signed(low) || index > signed(high) {
        return Err(Exception::new(Vector::Br));
    }
    Ok(())
}
