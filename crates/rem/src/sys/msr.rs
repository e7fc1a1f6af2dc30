//! Model-specific registers (SDM vol. 4), RDTSC and RDPMC.
//!
//! Unknown registers raise #GP, as on hardware. A few that operating systems read without asking
//! CPUID first answer zero and swallow writes; see [`is_blank`].

use cpu::bits::{cr0, cr4, efer, msr};
use cpu::{Exception, Fault, Seg};

use super::operand::canonical;
use super::{Flush, Sys};

const EFER_BITS: u64 = efer::SCE | efer::LME | efer::LMA | efer::NXE;

/// Eight variable ranges, fixed ranges, write combining.
const MTRRCAP_VALUE: u64 = 8 | 1 << 8 | 1 << 10;

fn bad<T>() -> Fault<T> {
    Err(Exception::gp(0))
}

/// RDMSR.
pub(super) fn rdmsr(sys: &mut Sys<'_>) -> Fault {
    sys.need_cpl0()?;
    let value = read(sys, sys.gpr(1, 4) as u32)?;
    sys.set_gpr(0, 4, value);
    sys.set_gpr(2, 4, value >> 32);
    Ok(())
}

/// WRMSR.
pub(super) fn wrmsr(sys: &mut Sys<'_>) -> Fault {
    sys.need_cpl0()?;
    let value = sys.gpr(2, 4) << 32 | sys.gpr(0, 4);
    write(sys, sys.gpr(1, 4) as u32, value)
}

/// The guest's time-stamp counter.
fn tsc(sys: &Sys<'_>) -> u64 {
    sys.bus.tsc().wrapping_add(sys.state.tsc_offset)
}

/// Index into the fixed-range MTRRs.
fn fixed_index(index: u32) -> Option<usize> {
    match index {
        msr::MTRR_FIX64K => Some(0),
        msr::MTRR_FIX16K_80000 => Some(1),
        msr::MTRR_FIX16K_A0000 => Some(2),
        msr::MTRR_FIX4K_C0000..=msr::MTRR_FIX4K_F8000 => {
            Some((index - msr::MTRR_FIX4K_C0000) as usize + 3)
        }
        _ => None,
    }
}

/// Registers of features that are not there but get touched anyway: platform id, performance
/// state and counters, thermal, last-branch records, debug control, microcode update trigger, and
/// the AMD configuration registers that AMD-aware systems read.
fn is_blank(sys: &Sys<'_>, index: u32) -> bool {
    const PLATFORM_ID: u32 = 0x17;
    const EBL_CR_POWERON: u32 = 0x2a;
    const BIOS_UPDT_TRIG: u32 = 0x79;
    const PERF_STATUS: u32 = 0x198;
    const THERM_STATUS: u32 = 0x19c;
    const DEBUGCTL: u32 = 0x1d9;
    const LAST_INT_TO: u32 = 0x1de;
    match index {
        PLATFORM_ID | EBL_CR_POWERON | BIOS_UPDT_TRIG | 0xc1..=0xc4 | 0x186..=0x189 | 0x38f => true,
        PERF_STATUS..=THERM_STATUS | DEBUGCTL..=LAST_INT_TO => true,
        // FSB_FREQ, PLATFORM_INFO, prefetcher control, turbo ratios, RAPL.
        0xcd | 0xce | 0x1a4 | 0x1ad | 0x606 | 0x611 | 0x619 | 0x639 | 0x641 => true,
        // P5 machine check.
        0 | 1 => true,
        // SYSCFG, IORR, TOP_MEM, HWCR, NB_CFG, P-states, OSVW, patch loader, DE_CFG.
        0xc001_0000..=0xc001_0007
        | 0xc001_0010..=0xc001_001f
        | 0xc001_0020
        | 0xc001_0055
        | 0xc001_0061..=0xc001_006b
        | 0xc001_0111..=0xc001_0113
        | 0xc001_0140
        | 0xc001_0141
        | 0xc001_1004..=0xc001_1005
        | 0xc001_1020..=0xc001_102a => super::cpuid::is_amd(sys),
        _ => false,
    }
}

/// Value of an MSR.
///
/// # Errors
/// #GP(0) for one that does not exist.
fn read(sys: &mut Sys<'_>, index: u32) -> Fault<u64> {
    let s = &*sys.state;
    Ok(match index {
        msr::TSC => tsc(sys),
        msr::APIC_BASE | msr::TSC_DEADLINE | msr::X2APIC_FIRST..=msr::X2APIC_LAST => {
            match sys.bus.apic_msr_read(sys.cpu, index) {
                Some(value) => value,
                None => return bad(),
            }
        }
        // Locked, with nothing enabled.
        msr::FEATURE_CONTROL => 1,
        msr::TSC_ADJUST => s.tsc_adjust,
        msr::BIOS_SIGN_ID => 0x1 << 32,
        msr::MTRRCAP => MTRRCAP_VALUE,
        msr::SYSENTER_CS => s.sysenter_cs,
        msr::SYSENTER_ESP => s.sysenter_esp,
        msr::SYSENTER_EIP => s.sysenter_eip,
        // No machine-check banks.
        msr::MCG_CAP | msr::MCG_STATUS => 0,
        msr::MISC_ENABLE => s.misc_enable,
        msr::PAT => s.pat,
        msr::MTRR_DEF_TYPE => s.mtrr_def,
        msr::EFER => s.efer,
        msr::STAR => s.star,
        msr::LSTAR => s.lstar,
        msr::CSTAR => s.cstar,
        msr::SFMASK => s.sfmask,
        msr::FS_BASE => s.seg[Seg::Fs as usize].base,
        msr::GS_BASE => s.seg[Seg::Gs as usize].base,
        msr::KERNEL_GS_BASE => s.kernel_gs_base,
        msr::TSC_AUX => s.tsc_aux,
        _ => {
            if let Some(i) = fixed_index(index) {
                s.mtrr_fixed[i]
            } else if let Some((range, part)) = variable(index) {
                s.mtrr_var[range][part]
            } else if is_blank(sys, index) {
                0
            } else {
                return bad();
            }
        }
    })
}

/// Range and part (base, mask) of a variable-range MTRR.
fn variable(index: u32) -> Option<(usize, usize)> {
    let i = index.checked_sub(msr::MTRR_PHYSBASE0)? as usize;
    (i < 16).then_some((i / 2, i % 2))
}

/// Whether all eight bytes are memory types; `uc_minus` is one only for PAT.
fn memory_types(value: u64, uc_minus: bool) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|t| matches!(t, 0 | 1 | 4 | 5 | 6) || uc_minus && *t == 7)
}

/// Sets an MSR.
///
/// # Errors
/// #GP(0) for one that does not exist, is read-only, or does not take the value.
fn write(sys: &mut Sys<'_>, index: u32, value: u64) -> Fault {
    let needs_canonical = matches!(
        index,
        msr::SYSENTER_ESP
            | msr::SYSENTER_EIP
            | msr::LSTAR
            | msr::CSTAR
            | msr::FS_BASE
            | msr::GS_BASE
            | msr::KERNEL_GS_BASE
    );
    if needs_canonical && !canonical(value) {
        return bad();
    }
    let now = sys.bus.tsc();
    let s = &mut *sys.state;
    match index {
        msr::TSC => {
            let offset = value.wrapping_sub(now);
            s.tsc_adjust = s.tsc_adjust.wrapping_add(offset.wrapping_sub(s.tsc_offset));
            s.tsc_offset = offset;
        }
        msr::TSC_ADJUST => {
            s.tsc_offset = s.tsc_offset.wrapping_add(value.wrapping_sub(s.tsc_adjust));
            s.tsc_adjust = value;
        }
        msr::APIC_BASE | msr::TSC_DEADLINE | msr::X2APIC_FIRST..=msr::X2APIC_LAST => {
            if !sys.bus.apic_msr_write(sys.cpu, index, value) {
                return bad();
            }
        }
        // Cleared by software before it asks for the microcode revision.
        msr::BIOS_SIGN_ID => {}
        msr::SYSENTER_CS => s.sysenter_cs = value & 0xffff_ffff,
        msr::SYSENTER_ESP => s.sysenter_esp = value,
        msr::SYSENTER_EIP => s.sysenter_eip = value,
        msr::MCG_STATUS if value == 0 => {}
        msr::MISC_ENABLE => s.misc_enable = value,
        msr::PAT => {
            if !memory_types(value, true) {
                return bad();
            }
            s.pat = value;
        }
        msr::MTRR_DEF_TYPE => {
            if value & !0xcff != 0 || !memory_types(value & 0xff, false) {
                return bad();
            }
            s.mtrr_def = value;
        }
        msr::EFER => write_efer(sys, value)?,
        msr::STAR => s.star = value,
        msr::LSTAR => s.lstar = value,
        msr::CSTAR => s.cstar = value,
        msr::SFMASK => {
            if value >> 32 != 0 {
                return bad();
            }
            s.sfmask = value;
        }
        msr::FS_BASE => s.seg[Seg::Fs as usize].base = value,
        msr::GS_BASE => s.seg[Seg::Gs as usize].base = value,
        msr::KERNEL_GS_BASE => s.kernel_gs_base = value,
        msr::TSC_AUX => {
            if value >> 32 != 0 {
                return bad();
            }
            s.tsc_aux = value;
        }
        _ => {
            if let Some(i) = fixed_index(index) {
                if !memory_types(value, false) {
                    return bad();
                }
                s.mtrr_fixed[i] = value;
            } else if let Some((range, part)) = variable(index) {
                s.mtrr_var[range][part] = value;
            } else if !is_blank(sys, index) {
                return bad();
            }
        }
    }
    Ok(())
}

fn write_efer(sys: &mut Sys<'_>, value: u64) -> Fault {
    let old = sys.state.efer;
    let paging = sys.state.cr0 & cr0::PG != 0;
    if value & !EFER_BITS != 0 || paging && (old ^ value) & efer::LME != 0 {
        return bad();
    }
    sys.state.efer = value & !efer::LMA | old & efer::LMA;
    if (old ^ value) & efer::NXE != 0 {
        sys.flush = Flush::All;
    }
    Ok(())
}

/// RDTSC.
pub(super) fn rdtsc(sys: &mut Sys<'_>) -> Fault {
    if sys.state.cr4 & cr4::TSD != 0 {
        sys.need_cpl0()?;
    }
    let value = tsc(sys);
    sys.set_gpr(0, 4, value);
    sys.set_gpr(2, 4, value >> 32);
    Ok(())
}

/// RDTSCP.
pub(super) fn rdtscp(sys: &mut Sys<'_>) -> Fault {
    rdtsc(sys)?;
    let aux = sys.state.tsc_aux;
    sys.set_gpr(1, 4, aux);
    Ok(())
}

/// RDPMC: four general counters that never count.
pub(super) fn rdpmc(sys: &mut Sys<'_>) -> Fault {
    if sys.state.cr4 & cr4::PCE == 0 {
        sys.need_cpl0()?;
    }
    if sys.gpr(1, 4) & !(1 << 30) > 3 {
        return bad();
    }
    sys.set_gpr(0, 4, 0);
    sys.set_gpr(2, 4, 0);
    Ok(())
}
