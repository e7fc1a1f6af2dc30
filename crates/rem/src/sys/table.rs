//! The task-state segment as a table of stacks (SDM vol. 3, 8.2 and 8.7).

use cpu::{Exception, Fault};

use super::seg::{code_of, kind, raise};
use super::{As, Sys};

/// Whether the current TSS has the 16-bit layout.
pub(super) fn is_tss16(sys: &Sys<'_>) -> bool {
    matches!(sys.state.tr.attr & 0xf, kind::TSS16 | kind::TSS16_BUSY)
}

/// Reads `size` bytes at `offset` of the current TSS.
///
/// # Errors
/// #TS with the task's selector when they pass its limit; #PF.
pub(super) fn tss_read(sys: &mut Sys<'_>, offset: u64, size: usize) -> Fault<u64> {
    let tr = sys.state.tr;
    if offset + size as u64 - 1 > u64::from(tr.limit) {
        return Err(Exception::ts(code_of(tr.sel)));
    }
    let at = sys.wrap(tr.base.wrapping_add(offset));
    sys.mem.read_u(at, size, As::System)
}

/// SS and (E)SP for privilege level `level` (0 to 2), outside of long mode.
///
/// # Errors
/// As [`tss_read`].
pub(super) fn inner_stack(sys: &mut Sys<'_>, level: u8) -> Fault<(u16, u64)> {
    let level = u64::from(level);
    if is_tss16(sys) {
        let sp = tss_read(sys, 2 + 4 * level, 2)?;
        let ss = tss_read(sys, 4 + 4 * level, 2)?;
        Ok((ss as u16, sp))
    } else {
        let sp = tss_read(sys, 4 + 8 * level, 4)?;
        let ss = tss_read(sys, 8 + 8 * level, 2)?;
        Ok((ss as u16, sp))
    }
}

/// RSP for privilege level `level` in long mode.
///
/// # Errors
/// As [`tss_read`]; #SS when it is not canonical.
pub(super) fn inner_rsp(sys: &mut Sys<'_>, level: u8) -> Fault<u64> {
    rsp_at(sys, 4 + 8 * u64::from(level))
}

/// RSP of interrupt stack `ist` (1 to 7).
///
/// # Errors
/// As [`inner_rsp`].
pub(super) fn ist_rsp(sys: &mut Sys<'_>, ist: u32) -> Fault<u64> {
    rsp_at(sys, 36 + 8 * (u64::from(ist) - 1))
}

fn rsp_at(sys: &mut Sys<'_>, offset: u64) -> Fault<u64> {
    let rsp = tss_read(sys, offset, 8)?;
    if super::operand::canonical(rsp) {
        Ok(rsp)
    } else {
        Err(raise(cpu::Vector::Ss, 0))
    }
}
