//! Instructions on RFLAGS, with the rules of IOPL and virtual interrupts (SDM vol. 3, 20.3 and
//! 20.4).

use cpu::bits::{cr4, rflags};
use cpu::{Exception, Fault};

use super::Sys;
use super::stack::Stack;

/// Which interrupt flag CLI and STI act on.
enum Which {
    Real,
    Virtual,
}

fn interrupt_flag(sys: &Sys<'_>) -> Fault<Which> {
    let cpl = sys.state.cpl();
    let extension = if sys.v86() { cr4::VME } else { cr4::PVI };
    if cpl <= sys.iopl() {
        Ok(Which::Real)
    } else if cpl == 3 && sys.state.cr4 & extension != 0 {
        Ok(Which::Virtual)
    } else {
        Err(Exception::gp(0))
    }
}

/// CLI.
pub(super) fn cli(sys: &mut Sys<'_>) -> Fault {
    sys.state.rflags &= match interrupt_flag(sys)? {
        Which::Real => !rflags::IF,
        Which::Virtual => !rflags::VIF,
    };
    Ok(())
}

/// STI.
pub(super) fn sti(sys: &mut Sys<'_>) -> Fault {
    match interrupt_flag(sys)? {
        Which::Real => {
            sys.state.shadow = sys.state.rflags & rflags::IF == 0;
            sys.state.rflags |= rflags::IF;
        }
        Which::Virtual if sys.state.rflags & rflags::VIP != 0 => return Err(Exception::gp(0)),
        Which::Virtual => sys.state.rflags |= rflags::VIF,
    }
    Ok(())
}

/// Whether PUSHF or POPF in virtual-8086 mode acts on VIF instead of IF.
fn virtualised(sys: &Sys<'_>, size: usize) -> Fault<bool> {
    if !sys.v86() || sys.iopl() == 3 {
        Ok(false)
    } else if size == 2 && sys.state.cr4 & cr4::VME != 0 {
        Ok(true)
    } else {
        Err(Exception::gp(0))
    }
}

/// PUSHF with operand size `size`.
pub(super) fn pushf(sys: &mut Sys<'_>, size: usize) -> Fault {
    let mut flags = sys.state.rflags & !(rflags::VM | rflags::RF);
    if virtualised(sys, size)? {
        flags = flags & !rflags::IF | rflags::IOPL;
        if flags & rflags::VIF != 0 {
            flags |= rflags::IF;
        }
    }
    let mut stack = Stack::current(sys);
    stack.push(sys, size, flags)?;
    stack.commit(sys);
    Ok(())
}

/// POPF with operand size `size`.
pub(super) fn popf(sys: &mut Sys<'_>, size: usize) -> Fault {
    let virtualised = virtualised(sys, size)?;
    let mut stack = Stack::current(sys);
    let new = stack.pop(sys, size)?;
    let old = sys.state.rflags;
    let cpl = sys.state.cpl();

    let mut which = rflags::ARITH | rflags::TF | rflags::DF | rflags::NT | rflags::AC | rflags::ID;
    if cpl == 0 {
        which |= rflags::IOPL;
    }
    if cpl <= sys.iopl() {
        which |= rflags::IF;
    }
    if size == 2 {
        which &= 0xffff;
    }
    let mut flags = old & !which | new & which;
    if virtualised {
        let pending = old & rflags::VIP != 0;
        if new & rflags::TF != 0 || new & rflags::IF != 0 && pending {
            return Err(Exception::gp(0));
        }
        flags &= !rflags::VIF;
        if new & rflags::IF != 0 {
            flags |= rflags::VIF;
        }
    }
    sys.state.rflags = flags & !rflags::RF | rflags::FIXED;
    stack.commit(sys);
    Ok(())
}

/// The flags SAHF and LAHF move.
const LOW: u64 = rflags::SF | rflags::ZF | rflags::AF | rflags::PF | rflags::CF;

/// LAHF.
pub(super) fn lahf(sys: &mut Sys<'_>) {
    let low = sys.state.rflags & LOW | rflags::FIXED;
    sys.set(iced_x86::Register::AH, low);
}

/// SAHF.
pub(super) fn sahf(sys: &mut Sys<'_>) {
    let ah = sys.get(iced_x86::Register::AH);
    sys.state.rflags = sys.state.rflags & !LOW | ah & LOW;
}

/// CLAC and STAC.
pub(super) fn set_ac(sys: &mut Sys<'_>, on: bool) -> Fault {
    if sys.v86() || sys.state.cpl() != 0 {
        return Err(Exception::ud());
    }
    sys.put_flag(rflags::AC, on);
    Ok(())
}

/// SF, ZF and PF of a result of `size` bytes.
pub(super) fn result_flags(value: u64, size: usize) -> u64 {
    let value = value & super::operand::mask(size);
    let mut f = 0;
    if value >> (8 * size - 1) & 1 != 0 {
        f |= rflags::SF;
    }
    if value == 0 {
        f |= rflags::ZF;
    }
    if (value as u8).count_ones().is_multiple_of(2) {
        f |= rflags::PF;
    }
    f
}

/// The six flags of `a - b` on `size` bytes.
pub(super) fn compare_flags(a: u64, b: u64, size: usize) -> u64 {
    let m = super::operand::mask(size);
    let (a, b) = (a & m, b & m);
    let r = a.wrapping_sub(b) & m;
    let mut f = result_flags(r, size);
    if a < b {
        f |= rflags::CF;
    }
    if (a ^ b ^ r) & 0x10 != 0 {
        f |= rflags::AF;
    }
    if ((a ^ b) & (a ^ r)) >> (8 * size - 1) & 1 != 0 {
        f |= rflags::OF;
    }
    f
}

impl Sys<'_> {
    /// Sets or clears flags.
    pub(super) fn put_flag(&mut self, flag: u64, on: bool) {
        if on {
            self.state.rflags |= flag;
        } else {
            self.state.rflags &= !flag;
        }
    }
}
