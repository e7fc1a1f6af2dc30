//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and the FS/GS base instructions (SDM vol. 2).

use cpu::bits::{cr4, efer, rflags};
use cpu::{Exception, Fault, Seg, SegReg, attr};
use iced_x86::Instruction;

use super::operand::canonical;
use super::{Flow, Sys};

/// A flat code segment.
fn flat_code(sel: u16, dpl: u8, size: u32) -> SegReg {
    flat(sel, dpl, attr::CODE | size)
}

/// A flat, writable data segment.
fn flat_data(sel: u16, dpl: u8) -> SegReg {
    flat(sel, dpl, attr::DB)
}

fn flat(sel: u16, dpl: u8, more: u32) -> SegReg {
    let fixed = attr::P | attr::S | attr::RW | attr::ACCESSED | attr::G;
    SegReg {
        base: 0,
        limit: u32::MAX,
        attr: fixed | more | u32::from(dpl) << attr::DPL_SHIFT,
        sel,
    }
}

fn set_segments(sys: &mut Sys<'_>, cs: SegReg, ss: SegReg) {
    sys.state.seg[Seg::Cs as usize] = cs;
    sys.state.seg[Seg::Ss as usize] = ss;
}

/// SYSCALL. Outside of 64-bit mode only AMD-compatible processors have it.
pub(super) fn syscall(sys: &mut Sys<'_>, next_rip: u64) -> Fault<Flow> {
    let from64 = sys.state.code64();
    let known = from64 || sys.state.protected() && super::cpuid::is_amd(sys);
    if sys.state.efer & efer::SCE == 0 || !known {
        return Err(Exception::ud());
    }
    let sel = (sys.state.star >> 32) as u16 & !3;
    sys.state.gpr[1] = next_rip;
    if sys.state.long_mode() {
        sys.state.gpr[11] = sys.state.rflags & !rflags::RF;
        sys.state.rip = if from64 {
            sys.state.lstar
        } else {
            sys.state.cstar
        };
        let keep = !(sys.state.sfmask | rflags::RF);
        sys.state.rflags = sys.state.rflags & keep | rflags::FIXED;
        set_segments(
            sys,
            flat_code(sel, 0, attr::L),
            flat_data(sel.wrapping_add(8), 0),
        );
    } else {
        sys.state.rip = sys.state.star & 0xffff_ffff;
        sys.state.rflags &= !(rflags::VM | rflags::IF | rflags::RF);
        set_segments(
            sys,
            flat_code(sel, 0, attr::DB),
            flat_data(sel.wrapping_add(8), 0),
        );
    }
    Ok(Flow::Jump)
}

/// SYSRET; `wide` with REX.W: back to 64-bit code.
pub(super) fn sysret(sys: &mut Sys<'_>, wide: bool) -> Fault<Flow> {
    let from64 = sys.state.code64();
    let known = from64 || sys.state.protected() && super::cpuid::is_amd(sys);
    if sys.state.efer & efer::SCE == 0 || !known {
        return Err(Exception::ud());
    }
    sys.need_cpl0()?;
    let target = sys.state.gpr[1];
    // AMD-compatible processors find out at the first fetch, at level 3.
    if wide && !canonical(target) && !super::cpuid::is_amd(sys) {
        return Err(Exception::gp(0));
    }
    let base = (sys.state.star >> 48) as u16;
    if sys.state.long_mode() {
        let flags = sys.state.gpr[11] & rflags::ALL;
        sys.state.rflags = flags & !(rflags::RF | rflags::VM) | rflags::FIXED;
    } else {
        sys.state.rflags |= rflags::IF;
    }
    let cs = if wide {
        flat_code(base.wrapping_add(16) | 3, 3, attr::L)
    } else {
        flat_code(base | 3, 3, attr::DB)
    };
    set_segments(sys, cs, flat_data(base.wrapping_add(8) | 3, 3));
    sys.state.rip = if wide { target } else { target & 0xffff_ffff };
    Ok(Flow::Jump)
}

/// SYSENTER and SYSEXIT are #UD in long mode on AMD-compatible processors (APM vol. 2, 6.1.2).
fn need_sysenter(sys: &Sys<'_>) -> Fault {
    if sys.state.long_mode() && super::cpuid::is_amd(sys) {
        Err(Exception::ud())
    } else {
        Ok(())
    }
}

/// SYSENTER.
pub(super) fn sysenter(sys: &mut Sys<'_>) -> Fault<Flow> {
    need_sysenter(sys)?;
    let sel = sys.state.sysenter_cs as u16;
    if sys.state.cr0 & cpu::bits::cr0::PE == 0 || sel & !3 == 0 {
        return Err(Exception::gp(0));
    }
    let sel = sel & !3;
    let long = sys.state.long_mode();
    sys.state.rflags &= !(rflags::VM | rflags::IF | rflags::RF);
    let size = if long { attr::L } else { attr::DB };
    set_segments(
        sys,
        flat_code(sel, 0, size),
        flat_data(sel.wrapping_add(8), 0),
    );
    let narrow = if long { u64::MAX } else { 0xffff_ffff };
    sys.state.gpr[4] = sys.state.sysenter_esp & narrow;
    sys.state.rip = sys.state.sysenter_eip & narrow;
    Ok(Flow::Jump)
}

/// SYSEXIT; `wide` with REX.W: back to 64-bit code.
pub(super) fn sysexit(sys: &mut Sys<'_>, wide: bool) -> Fault<Flow> {
    // The privilege level comes first, on AMD's processors in long mode too.
    sys.need_cpl0()?;
    need_sysenter(sys)?;
    let sel = sys.state.sysenter_cs as u16;
    if sys.state.cr0 & cpu::bits::cr0::PE == 0 || sel & !3 == 0 {
        return Err(Exception::gp(0));
    }
    let (rip, rsp) = (sys.state.gpr[2], sys.state.gpr[1]);
    if wide && !(canonical(rip) && canonical(rsp)) {
        return Err(Exception::gp(0));
    }
    let (cs, ss) = if wide { (32, 40) } else { (16, 24) };
    let size = if wide { attr::L } else { attr::DB };
    set_segments(
        sys,
        flat_code(sel.wrapping_add(cs) | 3, 3, size),
        flat_data(sel.wrapping_add(ss) | 3, 3),
    );
    let narrow = if wide { u64::MAX } else { 0xffff_ffff };
    sys.state.rip = rip & narrow;
    sys.state.gpr[4] = rsp & narrow;
    Ok(Flow::Jump)
}

/// SWAPGS.
pub(super) fn swapgs(sys: &mut Sys<'_>) -> Fault {
    if !sys.state.code64() {
        return Err(Exception::ud());
    }
    sys.need_cpl0()?;
    let s = &mut *sys.state;
    std::mem::swap(&mut s.kernel_gs_base, &mut s.seg[Seg::Gs as usize].base);
    Ok(())
}

fn need_fsgsbase(sys: &Sys<'_>) -> Fault {
    if sys.state.code64() && sys.state.cr4 & cr4::FSGSBASE != 0 {
        Ok(())
    } else {
        Err(Exception::ud())
    }
}

/// RDFSBASE and RDGSBASE.
pub(super) fn read_base(sys: &mut Sys<'_>, insn: &Instruction, seg: Seg) -> Fault {
    need_fsgsbase(sys)?;
    let base = sys.state.seg[seg as usize].base;
    sys.set(insn.op0_register(), base);
    Ok(())
}

/// WRFSBASE and WRGSBASE.
pub(super) fn write_base(sys: &mut Sys<'_>, insn: &Instruction, seg: Seg) -> Fault {
    need_fsgsbase(sys)?;
    let base = sys.get(insn.op0_register());
    if !canonical(base) {
        return Err(Exception::gp(0));
    }
    sys.state.seg[seg as usize].base = base;
    Ok(())
}
