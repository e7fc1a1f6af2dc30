//! IRET (SDM vol. 2).

use cpu::bits::{cr4, rflags};
use cpu::{Exception, Fault, Seg, attr};

use super::operand::in_limit;
use super::stack::Stack;
use super::transfer::{outer_stack, return_segment};
use super::{Flow, Sys, seg, task};

/// Flags that IRET loads at every level.
const COMMON: u64 = rflags::ARITH | rflags::TF | rflags::DF | rflags::NT;

/// IRET with operand size `size`.
pub(super) fn iret(sys: &mut Sys<'_>, size: usize, next_rip: u64) -> Fault<Flow> {
    // Even when it faults (SDM vol. 3, 6.7.1).
    sys.state.nmi_blocked = false;
    if !sys.state.protected() {
        if sys.v86() {
            from_v86(sys, size)?;
        } else {
            real(sys, size)?;
        }
    } else if sys.state.rflags & rflags::NT != 0 {
        if sys.state.long_mode() {
            return Err(Exception::gp(0));
        }
        task::return_from_nested(sys, next_rip)?;
    } else {
        protected(sys, size)?;
    }
    Ok(Flow::Jump)
}

/// Flags with those of `which` taken from `new`; a 16-bit image has only the low half.
fn blend(old: u64, new: u64, which: u64, size: usize) -> u64 {
    let which = if size == 2 { which & 0xffff } else { which };
    (old & !which | new & which | rflags::FIXED) & rflags::ALL
}

fn pop3(sys: &mut Sys<'_>, stack: &mut Stack, size: usize) -> Fault<(u64, u16, u64)> {
    let rip = stack.pop(sys, size)?;
    let cs = stack.pop(sys, size)? as u16;
    let flags = stack.pop(sys, size)?;
    Ok((rip, cs, flags))
}

fn real(sys: &mut Sys<'_>, size: usize) -> Fault {
    let mut stack = Stack::current(sys);
    let (rip, sel, flags) = pop3(sys, &mut stack, size)?;
    if !in_limit(&sys.state.seg[Seg::Cs as usize], rip, 1) {
        return Err(Exception::gp(0));
    }
    let cs = &mut sys.state.seg[Seg::Cs as usize];
    cs.sel = sel;
    cs.base = u64::from(sel) << 4;
    sys.state.rip = rip;
    let which = COMMON | rflags::IF | rflags::IOPL | rflags::RF | rflags::AC | rflags::ID;
    sys.state.rflags = blend(sys.state.rflags, flags, which, size);
    stack.commit(sys);
    Ok(())
}

fn from_v86(sys: &mut Sys<'_>, size: usize) -> Fault {
    let full = sys.iopl() == 3;
    let virtualised = !full && size == 2 && sys.state.cr4 & cr4::VME != 0;
    if !full && !virtualised {
        return Err(Exception::gp(0));
    }
    let mut stack = Stack::current(sys);
    let (rip, sel, flags) = pop3(sys, &mut stack, size)?;
    if rip > 0xffff {
        return Err(Exception::gp(0));
    }
    if virtualised {
        let pending = sys.state.rflags & rflags::VIP != 0;
        if flags & rflags::TF != 0 || flags & rflags::IF != 0 && pending {
            return Err(Exception::gp(0));
        }
    }
    let old = sys.state.rflags;
    let mut new = if full {
        let which = COMMON | rflags::IF | rflags::RF | rflags::AC | rflags::ID;
        blend(old, flags, which, size)
    } else {
        blend(old, flags, COMMON, size)
    };
    if virtualised {
        new &= !rflags::VIF;
        if flags & rflags::IF != 0 {
            new |= rflags::VIF;
        }
    }
    sys.state.seg[Seg::Cs as usize] = seg::v86(sel);
    sys.state.rip = rip;
    sys.state.rflags = new;
    stack.commit(sys);
    Ok(())
}

fn protected(sys: &mut Sys<'_>, size: usize) -> Fault {
    let mut stack = Stack::current(sys);
    let (rip, sel, flags) = pop3(sys, &mut stack, size)?;
    let cpl = sys.state.cpl();
    if size == 4 && flags & rflags::VM != 0 && cpl == 0 && !sys.state.long_mode() {
        return to_v86(sys, stack, rip, sel, flags);
    }
    let mut d = return_segment(sys, sel, rip)?;
    let level = sel as u8 & 3;
    let from64 = sys.state.code64();
    let to64 = sys.state.long_mode() && d.has(attr::L);

    let mut which = COMMON | rflags::RF | rflags::AC | rflags::ID;
    if cpl <= sys.iopl() {
        which |= rflags::IF;
    }
    if cpl == 0 {
        which |= rflags::IOPL | rflags::VIF | rflags::VIP;
    }
    let new_flags = blend(sys.state.rflags, flags, which, size);

    // 64-bit code always pops the stack.
    if level != cpl || from64 {
        let new_sp = stack.pop(sys, size)?;
        let new_ss = stack.pop(sys, size)? as u16;
        let ss = outer_stack(sys, new_ss, level, &d)?;
        seg::load_cs(sys, sel, &mut d, level)?;
        sys.state.seg[Seg::Ss as usize] = ss;
        // A 16-bit stack gets 16 bits; the rest of RSP stays, as processors do it.
        Stack::switched(ss, new_sp, to64, level).commit(sys);
        if level != cpl {
            seg::drop_inner_segments(sys, level);
        }
    } else {
        seg::load_cs(sys, sel, &mut d, level)?;
        stack.commit(sys);
    }
    sys.state.rip = rip;
    sys.state.rflags = new_flags;
    Ok(())
}

fn to_v86(sys: &mut Sys<'_>, mut stack: Stack, rip: u64, cs: u16, flags: u64) -> Fault {
    let sp = stack.pop(sys, 4)?;
    let mut sels = [0; 6];
    sels[Seg::Cs as usize] = cs;
    for s in [Seg::Ss, Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
        sels[s as usize] = stack.pop(sys, 4)? as u16;
    }
    if rip > 0xffff {
        return Err(Exception::gp(0));
    }
    for (reg, sel) in sys.state.seg.iter_mut().zip(sels) {
        *reg = seg::v86(sel);
    }
    sys.state.gpr[4] = sp;
    sys.state.rip = rip;
    sys.state.rflags = flags & rflags::ALL | rflags::FIXED;
    Ok(())
}
