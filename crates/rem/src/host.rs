//! What the host's CPU is good at.

use std::arch::is_x86_feature_detected;
use std::sync::OnceLock;

/// How translated code takes bits out of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extract {
    /// PEXT in one micro-operation.
    Pext,
    /// RORX; PEXT is missing or microcoded.
    Rorx,
    /// Only SHR, which changes flags.
    Shr,
}

/// The best way on this host.
pub fn extract() -> Extract {
    static BEST: OnceLock<Extract> = OnceLock::new();
    *BEST.get_or_init(|| {
        if !is_x86_feature_detected!("bmi2") {
            Extract::Shr
        } else if slow_pext() {
            Extract::Rorx
        } else {
            Extract::Pext
        }
    })
}

/// AMD's cores before Zen 3 (family 19h) run PEXT as microcode, dozens of cycles long (AMD
/// "Software Optimization Guide" for family 17h, instruction latencies).
fn slow_pext() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    let amd = vendor.ebx == u32::from_le_bytes(*b"Auth");
    let eax = std::arch::x86_64::__cpuid(1).eax;
    let family = (eax >> 8 & 0xf) + (eax >> 20 & 0xff);
    amd && family < 0x19
}
