//! IN and OUT, and the permission to use a port (SDM vol. 1, 19.5).

use cpu::bits::{cr0, cr4};
use cpu::{Exception, Fault, Vector};
use iced_x86::{Instruction, OpKind};

use super::Sys;
use super::table::{is_tss16, tss_read};

/// #GP(0) unless `size` bytes at `port` may be accessed: IOPL, or the TSS's permission map.
pub(super) fn check(sys: &mut Sys<'_>, port: u16, size: usize) -> Fault {
    let free = sys.state.cr0 & cr0::PE == 0 || !sys.v86() && sys.state.cpl() <= sys.iopl();
    if free {
        return Ok(());
    }
    if is_tss16(sys) {
        return Err(Exception::gp(0));
    }
    let outside = |e: Exception| {
        if e.vector == Vector::Ts {
            Exception::gp(0)
        } else {
            e
        }
    };
    let map = tss_read(sys, 102, 2).map_err(outside)?;
    // Two bytes are always read: an access may straddle them.
    let bits = tss_read(sys, map + u64::from(port >> 3), 2).map_err(outside)?;
    let wanted = (1 << size) - 1;
    if bits >> (port & 7) & wanted != 0 {
        return Err(Exception::gp(0));
    }
    Ok(())
}

/// Notes the I/O breakpoints that an access to `size` bytes at `port` hits (SDM vol. 3, 17.2.4:
/// R/W 2 while CR4.DE is set).
pub(super) fn watch(sys: &mut Sys<'_>, port: u16, size: usize) {
    if sys.state.dr[7] & 0xff == 0 || sys.state.cr4 & cr4::DE == 0 {
        return;
    }
    for n in 0..4 {
        let (enabled, rw, len) = crate::debug::control(sys.state.dr[7], n);
        let start = sys.state.dr[n] & !(len - 1);
        let (first, end) = (u64::from(port), u64::from(port) + size as u64);
        if enabled && rw == 2 && first < start.wrapping_add(len) && start < end {
            sys.debug |= 1 << n;
        }
    }
}

fn number(sys: &Sys<'_>, insn: &Instruction, op: u32) -> u16 {
    if insn.op_kind(op) == OpKind::Immediate8 {
        u16::from(insn.immediate8())
    } else {
        sys.gpr(2, 2) as u16
    }
}

/// IN.
pub(super) fn input(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    let port = number(sys, insn, 1);
    let size = insn.op0_register().size();
    check(sys, port, size)?;
    watch(sys, port, size);
    let value = sys.bus.port_read(sys.cpu, port, size as u8);
    sys.set(insn.op0_register(), u64::from(value));
    Ok(())
}

/// OUT.
pub(super) fn output(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    let port = number(sys, insn, 0);
    let size = insn.op1_register().size();
    check(sys, port, size)?;
    watch(sys, port, size);
    let value = sys.get(insn.op1_register()) as u32;
    sys.bus.port_write(sys.cpu, port, size as u8, value);
    Ok(())
}
