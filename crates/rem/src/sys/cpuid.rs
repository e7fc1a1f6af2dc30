//! CPUID: the machine's answer with the bits that mirror the processor's own state.

use cpu::Fault;
use cpu::bits::cr4;

use super::Sys;

/// Whether CPUID names an AMD-compatible vendor.
pub(super) fn is_amd(sys: &Sys<'_>) -> bool {
    // "AuthenticAMD", "HygonGenuine": the first four letters are in EBX.
    let vendor = sys.bus.cpuid(sys.cpu, 0, 0)[1];
    vendor == u32::from_le_bytes(*b"Auth") || vendor == u32::from_le_bytes(*b"Hygo")
}

/// CPUID.
pub(super) fn cpuid(sys: &mut Sys<'_>) -> Fault {
    const OSXSAVE: u32 = 1 << 27;
    const SYSCALL: u32 = 1 << 11;
    let leaf = sys.gpr(0, 4) as u32;
    let subleaf = sys.gpr(1, 4) as u32;
    let mut r = sys.bus.cpuid(sys.cpu, leaf, subleaf);
    match leaf {
        1 => {
            r[2] &= !OSXSAVE;
            if sys.state.cr4 & cr4::OSXSAVE != 0 {
                r[2] |= OSXSAVE;
            }
        }
        // Bytes that XSAVE needs for what XCR0 enables now.
        0xd if subleaf < 2 && (subleaf == 0 || r[0] & 0xa != 0) => {
            r[1] = if sys.state.xcr0 & 4 != 0 { 832 } else { 576 };
        }
        0x8000_0001 if !sys.state.code64() && !is_amd(sys) => r[3] &= !SYSCALL,
        _ => {}
    }
    for (index, value) in [(0, r[0]), (3, r[1]), (1, r[2]), (2, r[3])] {
        sys.set_gpr(index, 4, u64::from(value));
    }
    Ok(())
}
