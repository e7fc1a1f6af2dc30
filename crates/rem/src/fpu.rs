//! Moving floating-point state between the host's registers and [`cpu::State`].
#![allow(unsafe_code)] // FXSAVE and FXRSTOR

use crate::ctx::Ctx;

/// Puts the guest's registers (x87 and MXCSR in the host's registers, vectors in `ctx.ymm`) into
/// the image.
pub fn save(ctx: &mut Ctx) {
    let area = ctx.state.fpu.0.as_mut_ptr();
    // SAFETY: the area is 64-byte aligned and larger than the 512 bytes FXSAVE writes.
    unsafe { std::arch::asm!("fxsave64 [{}]", in(reg) area, options(nostack)) };
    let area = &mut ctx.state.fpu.0;
    for (n, ymm) in ctx.ymm.iter().enumerate() {
        area[160 + 16 * n..176 + 16 * n].copy_from_slice(&ymm[..16]);
        area[576 + 16 * n..592 + 16 * n].copy_from_slice(&ymm[16..]);
    }
    area[512] = 7;
}

/// Takes the image into the host's registers and `ctx.ymm`. The image's MXCSR must be valid (the
/// CPU model checks it on every way in).
pub fn load(ctx: &mut Ctx) {
    let area = &mut ctx.state.fpu.0;
    for (n, ymm) in ctx.ymm.iter_mut().enumerate() {
        ymm[..16].copy_from_slice(&area[160 + 16 * n..176 + 16 * n]);
        ymm[16..].copy_from_slice(&area[576 + 16 * n..592 + 16 * n]);
    }
    // Reserved MXCSR bits would fault on the host.
    area[26] = 0;
    area[27] = 0;
    let area = area.as_ptr();
    // SAFETY: the area is 64-byte aligned and holds a valid image; vector registers are written,
    // so they are declared as clobbered. x87 registers are the guest's by the engine's convention.
    unsafe {
        std::arch::asm!("fxrstor64 [{}]", in(reg) area, out("xmm0") _, out("xmm1") _, out("xmm2") _,
            out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
            out("xmm13") _, out("xmm14") _, out("xmm15") _, options(nostack));
    }
}

/// Switches the host's x87 unit to MMX state, as any MMX instruction does.
pub fn touch_mmx() {
    // SAFETY: reads MM0, so that no register changes but status and tags; x87 registers are the
    // guest's by the engine's convention.
    unsafe { std::arch::asm!("movd {0:e}, mm0", out(reg) _, options(nostack, nomem)) };
}

/// Whether the x87 unit waits to raise an exception.
pub fn pending() -> bool {
    let status: u16;
    // SAFETY: reads the status word and raises nothing itself.
    unsafe { std::arch::asm!("fnstsw ax", out("ax") status, options(nostack, nomem)) };
    status & 0x80 != 0
}

/// Puts the host's own x87 and MXCSR defaults back.
pub fn host_defaults() {
    let mxcsr: u32 = 0x1f80;
    // SAFETY: puts both control words to the values the ABI gives every thread.
    unsafe { std::arch::asm!("fninit", "ldmxcsr [{}]", in(reg) &mxcsr, options(nostack)) };
}
