//! What the host's CPU is good at.
#![allow(unsafe_code)] // a few instructions Rust has no name for

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

/// Whether programs may set the bases of FS and GS by instructions.
pub fn has_fsgsbase() -> bool {
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        // SAFETY: reads a value that the kernel gave the process.
        let caps = unsafe { libc::getauxval(libc::AT_HWCAP2) };
        caps & HWCAP2_FSGSBASE != 0
    })
}

/// FS base of this thread; for hosts with [`has_fsgsbase`].
pub fn fs_base() -> u64 {
    let base;
    // SAFETY: only reads a register.
    unsafe { std::arch::asm!("rdfsbase {}", out(reg) base, options(nomem, nostack)) };
    base
}

/// Makes `base` the GS base of this thread; for hosts with [`has_fsgsbase`].
pub fn set_gs_base(base: u64) {
    // SAFETY: nothing in this process but translated code uses GS.
    unsafe { std::arch::asm!("wrgsbase {}", in(reg) base, options(nomem, nostack)) };
}
