//! Decimal adjustment. Flags that the manual leaves undefined are those of the addition or
//! subtraction that an instruction comes down to, as AMD's processors have them (tried on a Zen 4):
//! of AX before its upper half of AL is cleared for AAA and AAS, of AL for the others.

use cpu::bits::rflags;
use cpu::{Exception, Fault, Vector};
use iced_x86::Register;

use super::Sys;
use super::flags::result_flags;
use super::operand::mask;

/// Sets the arithmetic flags: those of `new`, which `old` became by adding or subtracting `by`, and
/// the carries given.
fn finish(sys: &mut Sys<'_>, sum: Sum, af: bool, cf: bool) {
    let Sum {
        old,
        by,
        new,
        size,
        subtract,
    } = sum;
    let mut flags = result_flags(new, size);
    // Overflow: both numbers that were added have a sign that the sum has not.
    let (a, b, c) = match subtract {
        false => (old, by, new),
        true => (new, by, old),
    };
    if (a ^ c) & (b ^ c) & 1 << (8 * size - 1) != 0 {
        flags |= rflags::OF;
    }
    if af {
        flags |= rflags::AF;
    }
    if cf {
        flags |= rflags::CF;
    }
    sys.state.rflags = sys.state.rflags & !rflags::ARITH | flags;
}

/// `new` is `old` plus `by`, or minus, on `size` bytes.
struct Sum {
    old: u64,
    by: u64,
    new: u64,
    size: usize,
    subtract: bool,
}

impl Sum {
    fn of(old: u64, by: u64, size: usize, subtract: bool) -> Self {
        let new = match subtract {
            false => old.wrapping_add(by),
            true => old.wrapping_sub(by),
        } & mask(size);
        Self {
            old,
            by,
            new,
            size,
            subtract,
        }
    }
}

/// AAA, or AAS if `subtract`.
pub(super) fn ascii(sys: &mut Sys<'_>, subtract: bool) {
    let ax = sys.gpr(0, 2);
    let adjust = ax & 0xf > 9 || sys.state.rflags & rflags::AF != 0;
    let sum = Sum::of(ax, if adjust { 0x106 } else { 0 }, 2, subtract);
    sys.set_gpr(0, 2, sum.new & 0xff0f);
    finish(sys, sum, adjust, adjust);
}

/// DAA, or DAS if `subtract`.
pub(super) fn decimal(sys: &mut Sys<'_>, subtract: bool) {
    let old = sys.gpr(0, 1);
    let old_cf = sys.state.rflags & rflags::CF != 0;
    let low = old & 0xf > 9 || sys.state.rflags & rflags::AF != 0;
    let high = old > 0x99 || old_cf;
    let by = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    let sum = Sum::of(old, by, 1, subtract);
    // DAS keeps the borrow of its first step.
    let borrow = subtract && low && old < 6;
    sys.set(Register::AL, sum.new);
    finish(sys, sum, low, high || borrow);
}

/// AAM with divisor `base`.
pub(super) fn aam(sys: &mut Sys<'_>, base: u8) -> Fault {
    let al = sys.gpr(0, 1) as u8;
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(Exception::new(Vector::De));
    };
    sys.set_gpr(0, 2, u64::from(high) << 8 | u64::from(low));
    finish(sys, Sum::of(low.into(), 0, 1, false), false, false);
    Ok(())
}

/// AAD with factor `base`.
pub(super) fn aad(sys: &mut Sys<'_>, base: u8) {
    let (al, ah) = (sys.gpr(0, 1), sys.gpr(0, 2) >> 8);
    let by = (ah * u64::from(base)) & 0xff;
    let sum = Sum::of(al, by, 1, false);
    sys.set_gpr(0, 2, sum.new);
    let (af, cf) = ((al ^ by ^ sum.new) & 0x10 != 0, sum.new < al);
    finish(sys, sum, af, cf);
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
