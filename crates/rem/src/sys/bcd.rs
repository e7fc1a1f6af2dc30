//! Decimal adjustment. Flags the manual leaves undefined follow the result in AL.

use cpu::bits::rflags;
use cpu::{Exception, Fault, Vector};
use iced_x86::Register;

use super::Sys;
use super::flags::result_flags;

fn finish(sys: &mut Sys<'_>, al: u64, af: bool, cf: bool) {
    let mut flags = result_flags(al, 1);
    if af {
        flags |= rflags::AF;
    }
    if cf {
        flags |= rflags::CF;
    }
    sys.state.rflags = sys.state.rflags & !rflags::ARITH | flags;
}

/// AAA, or AAS if `subtract`.
pub(super) fn ascii(sys: &mut Sys<'_>, subtract: bool) {
    let ax = sys.gpr(0, 2);
    let adjust = ax & 0xf > 9 || sys.state.rflags & rflags::AF != 0;
    let mut new = ax;
    if adjust {
        new = if subtract {
            ax.wrapping_sub(0x106)
        } else {
            ax.wrapping_add(0x106)
        };
    }
    let new = new & 0xff0f;
    sys.set_gpr(0, 2, new);
    finish(sys, new, adjust, adjust);
}

/// DAA, or DAS if `subtract`.
pub(super) fn decimal(sys: &mut Sys<'_>, subtract: bool) {
    let old = sys.gpr(0, 1);
    let old_cf = sys.state.rflags & rflags::CF != 0;
    let low = old & 0xf > 9 || sys.state.rflags & rflags::AF != 0;
    let high = old > 0x99 || old_cf;
    let by = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    let new = if subtract {
        old.wrapping_sub(by)
    } else {
        old.wrapping_add(by)
    } & 0xff;
    // DAS keeps the borrow of its first step.
    let borrow = subtract && low && old < 6;
    sys.set(Register::AL, new);
    finish(sys, new, low, high || borrow);
}

/// AAM with divisor `base`.
pub(super) fn aam(sys: &mut Sys<'_>, base: u8) -> Fault {
    let al = sys.gpr(0, 1) as u8;
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(Exception::new(Vector::De));
    };
    sys.set_gpr(0, 2, u64::from(high) << 8 | u64::from(low));
    finish(sys, u64::from(low), false, false);
    Ok(())
}

/// AAD with factor `base`.
pub(super) fn aad(sys: &mut Sys<'_>, base: u8) {
    let ax = sys.gpr(0, 2);
    let al = ((ax & 0xff) + (ax >> 8) * u64::from(base)) & 0xff;
    sys.set_gpr(0, 2, al);
    finish(sys, al, false, false);
}

/// SALC.
pub(super) fn salc(sys: &mut Sys<'_>) {
    let value = if sys.state.rflags & rflags::CF != 0 {
        0xff
    } else {
        0
    };
    sys.set(Register::AL, value);
}
