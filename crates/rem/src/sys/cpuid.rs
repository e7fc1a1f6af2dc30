//! CPUID: the machine's answer with the bits that mirror the processor's own state.

use cpu::Fault;
use cpu::bits::{cr4, msr};

use super::Sys;

/// Whether CPUID names an AMD-compatible vendor.
pub(super) fn is_amd(sys: &Sys<'_>) -> bool {
    // "AuthenticAMD", "HygonGenuine": the first four letters are in EBX.
    let vendor = sys.bus.cpuid(sys.cpu, 0, 0)[1];
    vendor == u32::from_le_bytes(*b"Auth") || vendor == u32::from_le_bytes(*b"Hygo")
}

/// A feature bit of CPUID: leaf, register (EAX 0 to EDX 3), bit.
pub(super) type Feature = (u32, usize, u32);

/// Features that decide which registers and control bits exist (SDM vol. 2, CPUID; APM vol. 3,
/// appendix E).
#[rustfmt::skip]
pub(super) mod feature {
    use super::Feature;
    pub const VME: Feature = (1, 3, 1);
    pub const DE: Feature = (1, 3, 2);
    pub const PSE: Feature = (1, 3, 3);
    pub const TSC: Feature = (1, 3, 4);
    pub const PAE: Feature = (1, 3, 6);
    pub const MCE: Feature = (1, 3, 7);
    pub const SEP: Feature = (1, 3, 11);
    pub const MTRR: Feature = (1, 3, 12);
    pub const PGE: Feature = (1, 3, 13);
    pub const MCA: Feature = (1, 3, 14);
    pub const PAT: Feature = (1, 3, 16);
    pub const MMX: Feature = (1, 3, 23);
    pub const FXSR: Feature = (1, 3, 24);
    pub const SSE: Feature = (1, 3, 25);
    pub const MONITOR: Feature = (1, 2, 3);
    pub const PCID: Feature = (1, 2, 17);
    pub const XSAVE: Feature = (1, 2, 26);
    pub const APERF: Feature = (6, 2, 0);
    pub const FSGSBASE: Feature = (7, 1, 0);
    pub const TSC_ADJUST: Feature = (7, 1, 1);
    pub const SMEP: Feature = (7, 1, 7);
    pub const SMAP: Feature = (7, 1, 20);
    pub const UMIP: Feature = (7, 2, 2);
    pub const SPEC_CTRL: Feature = (7, 3, 26);
    pub const ARCH_CAPABILITIES: Feature = (7, 3, 29);
    pub const AUTOMATIC_IBRS: Feature = (0x8000_0021, 0, 8);
    pub const SYSCALL: Feature = (0x8000_0001, 3, 11);
    pub const NX: Feature = (0x8000_0001, 3, 20);
    pub const RDTSCP: Feature = (0x8000_0001, 3, 27);
    pub const LM: Feature = (0x8000_0001, 3, 29);
}

/// Whether CPUID shows `feature`. A machine whose CPUID says nothing at all hides nothing.
pub(super) fn has(sys: &Sys<'_>, (leaf, register, bit): Feature) -> bool {
    sys.bus.cpuid(sys.cpu, leaf, 0)[register] >> bit & 1 != 0
        || sys.bus.cpuid(sys.cpu, 0, 0) == [0; 4]
}

/// CPUID.
pub(super) fn cpuid(sys: &mut Sys<'_>) -> Fault {
    const OSXSAVE: u32 = 1 << 27;
    const APIC: u32 = 1 << 9;
    const APIC_ENABLED: u64 = 1 << 11;
    const SYSCALL: u32 = 1 << 11;
    const LIMIT_CPUID: u64 = 1 << 22;
    let leaf = sys.gpr(0, 4) as u32;
    let subleaf = sys.gpr(1, 4) as u32;
    let mut r = sys.bus.cpuid(sys.cpu, leaf, subleaf);
    match leaf {
        // Boot-time option for systems that cannot take more (SDM vol. 4, MISC_ENABLE bit 22).
        0 if sys.state.misc_enable & LIMIT_CPUID != 0 && !is_amd(sys) => r[0] = r[0].min(2),
        1 => {
            r[2] &= !OSXSAVE;
            if sys.state.cr4 & cr4::OSXSAVE != 0 {
                r[2] |= OSXSAVE;
            }
            // The APIC's bit goes when the APIC is disabled (SDM vol. 3, 11.4.3).
            let apic = sys.bus.apic_msr_read(sys.cpu, msr::APIC_BASE);
            if apic.is_none_or(|base| base & APIC_ENABLED == 0) {
                r[3] &= !APIC;
            }
        }
        // Bytes that XSAVE needs for what XCR0 enables now.
        0xd if subleaf < 2 && (subleaf == 0 || r[0] & 0xa != 0) => {
            r[1] = super::fpu::area_size(sys) as u32;
        }
        0x8000_0001 if !sys.state.code64() && !is_amd(sys) => r[3] &= !SYSCALL,
        _ => {}
    }
    for (index, value) in [(0, r[0]), (3, r[1]), (1, r[2]), (2, r[3])] {
        sys.set_gpr(index, 4, u64::from(value));
    }
    Ok(())
}
