//! Model-specific registers (SDM vol. 4), RDTSC and RDPMC.
//!
//! Unknown registers, and those of features that CPUID does not show, raise #GP, as on hardware. A
//! few that operating systems touch without asking CPUID first answer zero and swallow writes; see
//! [`is_blank`].

use cpu::bits::{arch_capabilities, cr0, cr4, efer, msr, spec_ctrl};
use cpu::{Exception, Fault, Seg};

use super::cpuid::{Feature, feature, has};
use super::operand::canonical;
use super::{Flush, Sys};

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

/// Registers that read as zero and swallow writes: systems touch them without asking CPUID, or
/// they belong to hardware that has nothing to say here. (SDM vol. 4, tables 2-2 to 2-4; APM
/// vol. 2, appendix A.)
fn is_blank(sys: &Sys<'_>, index: u32) -> bool {
    match index {
        // The P5's machine-check pair, which later processors keep.
        0 | 1 => has(sys, feature::MCE),
        // Last branch and interrupt records: recording is never on.
        LAST_BRANCH_FROM..=LAST_INT_TO => true,
        _ if super::cpuid::is_amd(sys) => match index {
            // K7 performance counters, system configuration, I/O range registers, top of memory,
            // northbridge configuration, microcode loader, interrupt pending message.
            0xc001_0000..=0xc001_0007
            | 0xc001_0010
            | 0xc001_0016..=0xc001_001f
            | 0xc001_0020
            | 0xc001_0055 => true,
            // P-states, SMM base, address and mask.
            0xc001_0061..=0xc001_006b | 0xc001_0111..=0xc001_0113 => true,
            // Errata (OSVW): none is reported.
            0xc001_0140 | 0xc001_0141 => true,
            // CPUID overrides and core configuration.
            0xc001_1004..=0xc001_1005 | 0xc001_1020..=0xc001_102a => true,
            _ => false,
        },
        // PLATFORM_ID, EBL_CR_POWERON, BIOS_UPDT_TRIG; P6 counters and their events.
        0x17 | 0x2a | 0x79 | 0xc1 | 0xc2 | 0x186 | 0x187 => true,
        // FSB_FREQ; performance state, clock modulation and thermal registers; TEMPERATURE_TARGET.
        0xcd | 0x198..=0x19d | 0x1a2 => true,
        // Prefetchers, turbo ratios, energy counters (units, package, DRAM, cores, graphics).
        0x1a4 | 0x1ad | 0x606 | 0x611 | 0x619 | 0x639 | 0x641 => true,
        _ => false,
    }
}

const LAST_BRANCH_FROM: u32 = 0x1db;
const LAST_INT_TO: u32 = 0x1de;
/// Ratio of the TSC to a bus clock of 100 MHz, in bits 15:8 (SDM vol. 4, Nehalem and later).
const PLATFORM_INFO: u32 = 0xce;
/// AMD hardware configuration; bit 24: the TSC counts at the rate of P-state 0 (APM vol. 2, A).
const HWCR: u32 = 0xc001_0015;
const HWCR_VALUE: u64 = 1 << 24;
/// MISC_ENABLE: no branch trace store, no precise event sampling.
const MISC_ENABLE_ONES: u64 = 1 << 11 | 1 << 12;
/// DEBUGCTL bits that are kept: LBR, BTF.
const DEBUGCTL_BITS: u64 = 3;

/// What CPUID must show for a register to exist, if it depends on a feature.
fn belongs_to(index: u32) -> Option<Feature> {
    Some(match index {
        msr::TSC => feature::TSC,
        msr::TSC_ADJUST => feature::TSC_ADJUST,
        MPERF | APERF => feature::APERF,
        msr::MTRRCAP | msr::MTRR_DEF_TYPE | msr::MTRR_PHYSBASE0..=0x20f => feature::MTRR,
        _ if fixed_index(index).is_some() => feature::MTRR,
        msr::SYSENTER_CS..=msr::SYSENTER_EIP => feature::SEP,
        msr::MCG_CAP | msr::MCG_STATUS => feature::MCA,
        msr::PAT => feature::PAT,
        msr::STAR => feature::SYSCALL,
        msr::LSTAR..=msr::SFMASK | msr::FS_BASE..=msr::KERNEL_GS_BASE => feature::LM,
        msr::TSC_AUX => feature::RDTSCP,
        msr::SPEC_CTRL | msr::PRED_CMD => feature::SPEC_CTRL,
        msr::ARCH_CAPABILITIES => feature::ARCH_CAPABILITIES,
        _ => return None,
    })
}

const MPERF: u32 = 0xe7;
const APERF: u32 = 0xe8;

/// Whether the processor that CPUID describes has the register at all.
fn exists(sys: &Sys<'_>, index: u32) -> bool {
    let amd = || super::cpuid::is_amd(sys);
    match index {
        msr::FEATURE_CONTROL | msr::MISC_ENABLE | PLATFORM_INFO => !amd(),
        HWCR => amd(),
        msr::EFER => efer_bits(sys) != 0,
        _ => belongs_to(index).is_none_or(|f| has(sys, f)),
    }
}

/// Bits of EFER that the features of CPUID bring along.
pub(super) fn efer_bits(sys: &Sys<'_>) -> u64 {
    let mut bits = 0;
    for (bit, f) in [
        (efer::SCE, feature::SYSCALL),
        (efer::LME | efer::LMA, feature::LM),
        (efer::NXE, feature::NX),
        (efer::AIBRSE, feature::AUTOMATIC_IBRS),
    ] {
        if has(sys, f) {
            bits |= bit;
        }
    }
    bits
}

/// The time-stamp counter's rate in MHz, as the hypervisor leaf tells it; 0 when it does not.
fn tsc_mhz(sys: &Sys<'_>) -> u64 {
    u64::from(sys.bus.cpuid(sys.cpu, 0x4000_0010, 0)[0] / 1000)
}

/// Value of an MSR.
///
/// # Errors
/// #GP(0) for one that does not exist.
fn read(sys: &mut Sys<'_>, index: u32) -> Fault<u64> {
    if !exists(sys, index) {
        return bad();
    }
    let s = &*sys.state;
    Ok(match index {
        msr::TSC => tsc(sys),
        // The clock never slows down: both run at the TSC's rate.
        MPERF | APERF => tsc(sys),
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
        msr::MISC_ENABLE => s.misc_enable | MISC_ENABLE_ONES,
        msr::DEBUGCTL => s.debugctl,
        PLATFORM_INFO => ((tsc_mhz(sys) / 100) & 0xff) << 8,
        HWCR => HWCR_VALUE,
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
        msr::SPEC_CTRL => s.spec_ctrl,
        msr::ARCH_CAPABILITIES if has(sys, feature::SPEC_CTRL) => {
            arch_capabilities::IMMUNE | arch_capabilities::IBRS_ALL
        }
        msr::ARCH_CAPABILITIES => arch_capabilities::IMMUNE,
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

/// Reserved bits of a variable range's base (part 0: type in the low byte) and mask (part 1: valid
/// bit 11), SDM vol. 3, 12.11.2.3.
fn variable_is_valid(part: usize, value: u64) -> bool {
    let low = value & 0xfff;
    value >> super::walk::PHYS_BITS == 0
        && if part == 0 {
            low < 0x100 && memory_types(low, false)
        } else {
            low & !0x800 == 0
        }
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
    if !exists(sys, index) {
        return bad();
    }
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
        // Bits for tracing and counters that are not there are swallowed, as on a processor where
        // they count nothing; bits that no processor has fault.
        msr::DEBUGCTL => {
            if value >> 16 != 0 {
                return bad();
            }
            s.debugctl = value & DEBUGCTL_BITS;
        }
        HWCR => {}
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
        msr::SPEC_CTRL if value & !spec_ctrl::ALL == 0 => s.spec_ctrl = value,
        // A barrier for indirect branches, which here no guest's code predicts for another.
        msr::PRED_CMD if value & !1 == 0 => {}
        _ => {
            if let Some(i) = fixed_index(index) {
                if !memory_types(value, false) {
                    return bad();
                }
                s.mtrr_fixed[i] = value;
            } else if let Some((range, part)) = variable(index) {
                if !variable_is_valid(part, value) {
                    return bad();
                }
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
    if value & !efer_bits(sys) != 0 || paging && (old ^ value) & efer::LME != 0 {
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
