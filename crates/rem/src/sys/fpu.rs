//! Saving and restoring floating-point and vector state, on the image in [`cpu::State::fpu`].
//!
//! The image has 64-bit instruction and data pointers; their selectors are not kept and read as
//! zero, as on processors that deprecate them.

use cpu::bits::{cr0, cr4};
use cpu::{Exception, Fault, Vector};
use iced_x86::{Instruction, Mnemonic};

use super::operand::linear;
use super::{As, Sys};

/// Bits of MXCSR that exist.
const MXCSR_MASK: u32 = 0xffff;

/// Offsets in the image (SDM vol. 1, tables 10-2 and 13-1).
mod at {
    pub const FCW: usize = 0;
    pub const FSW: usize = 2;
    pub const FTW: usize = 4;
    pub const FOP: usize = 6;
    pub const FIP: usize = 8;
    pub const FDP: usize = 16;
    pub const MXCSR: usize = 24;
    pub const MXCSR_MASK: usize = 28;
    pub const ST: usize = 32;
    pub const XMM: usize = 160;
    pub const XMM_END: usize = 416;
    pub const HEADER: usize = 512;
    pub const YMM: usize = 576;
    pub const END: usize = 832;
}

const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 4;

/// #NM when the unit is not to be used.
fn need_x87(sys: &Sys<'_>) -> Fault {
    if sys.state.cr0 & (cr0::EM | cr0::TS) != 0 {
        Err(Exception::new(Vector::Nm))
    } else {
        Ok(())
    }
}

fn need_xsave(sys: &Sys<'_>) -> Fault {
    if sys.state.cr4 & cr4::OSXSAVE == 0 {
        Err(Exception::ud())
    } else if sys.state.cr0 & cr0::TS != 0 {
        Err(Exception::new(Vector::Nm))
    } else {
        Ok(())
    }
}

fn aligned(at: u64, to: u64) -> Fault {
    if at.is_multiple_of(to) {
        Ok(())
    } else {
        Err(Exception::gp(0))
    }
}

/// Vector registers that exist in the current mode.
fn vectors(sys: &Sys<'_>) -> usize {
    if sys.state.code64() { 16 } else { 8 }
}

fn u16_at(b: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([b[offset], b[offset + 1]])
}

fn u32_at(b: &[u8], offset: usize) -> u32 {
    u32::from(u16_at(b, offset)) | u32::from(u16_at(b, offset + 2)) << 16
}

fn put16(b: &mut [u8], offset: usize, value: u16) {
    b[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
}

fn put32(b: &mut [u8], offset: usize, value: u32) {
    b[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

/// The legacy area as the guest sees it; `wide`: with 64-bit pointers.
fn legacy_image(sys: &Sys<'_>, wide: bool) -> [u8; at::XMM_END] {
    let mut b = [0; at::XMM_END];
    b.copy_from_slice(&sys.state.fpu.0[..at::XMM_END]);
    b[at::FTW + 1] = 0;
    if !wide {
        // Selectors, and the words after them.
        b[at::FIP + 4..at::FIP + 8].fill(0);
        b[at::FDP + 4..at::FDP + 8].fill(0);
    }
    put32(&mut b, at::MXCSR_MASK, MXCSR_MASK);
    b
}

/// Takes the x87 part of a legacy area.
fn load_x87(sys: &mut Sys<'_>, b: &[u8], wide: bool) {
    let image = &mut sys.state.fpu.0;
    image[..at::MXCSR].copy_from_slice(&b[..at::MXCSR]);
    if !wide {
        image[at::FIP + 4..at::FIP + 8].fill(0);
        image[at::FDP + 4..at::FDP + 8].fill(0);
    }
    image[at::ST..at::XMM].copy_from_slice(&b[at::ST..at::XMM]);
}

fn reset_x87(sys: &mut Sys<'_>) {
    let image = &mut sys.state.fpu.0;
    image[..at::MXCSR].fill(0);
    put16(image, at::FCW, 0x37f);
    image[at::ST..at::XMM].fill(0);
}

/// FXSAVE.
pub(super) fn fxsave(sys: &mut Sys<'_>, insn: &Instruction, wide: bool) -> Fault {
    need_x87(sys)?;
    let addr = linear(sys, insn, 0, 512, true)?;
    aligned(addr, 16)?;
    let image = legacy_image(sys, wide);
    let end = at::XMM + 16 * vectors(sys);
    sys.mem.write(addr, &image[..end], As::Current)
}

/// FXRSTOR.
pub(super) fn fxrstor(sys: &mut Sys<'_>, insn: &Instruction, wide: bool) -> Fault {
    need_x87(sys)?;
    let addr = linear(sys, insn, 0, 512, false)?;
    aligned(addr, 16)?;
    let mut b = [0; 512];
    sys.mem.read(addr, &mut b, As::Current)?;
    if u32_at(&b, at::MXCSR) & !MXCSR_MASK != 0 {
        return Err(Exception::gp(0));
    }
    load_x87(sys, &b, wide);
    let end = at::XMM + 16 * vectors(sys);
    let image = &mut sys.state.fpu.0;
    image[at::MXCSR..at::MXCSR + 4].copy_from_slice(&b[at::MXCSR..at::MXCSR + 4]);
    image[at::XMM..end].copy_from_slice(&b[at::XMM..end]);
    Ok(())
}

/// Components an XSAVE or XRSTOR is asked for.
fn requested(sys: &Sys<'_>) -> u64 {
    (sys.gpr(2, 4) << 32 | sys.gpr(0, 4)) & sys.state.xcr0
}

/// Components of AVX-512, in the order of [`cpu::Upper`]: XCR0 bit.
const UPPER: [u64; 3] = [1 << 5, 1 << 6, 1 << 7];
/// Bytes of them.
const UPPER_SIZES: [usize; 3] = [64, 512, 1024];
/// No XSAVE area is longer.
const AREA_MAX: usize = 4096;

/// Where component `n` of AVX-512 is in the area, as CPUID says.
fn upper_offset(sys: &Sys<'_>, n: usize) -> usize {
    let offset = sys.bus.cpuid(sys.cpu, 0xd, 5 + n as u32)[1] as usize;
    offset.clamp(at::END, AREA_MAX - UPPER_SIZES[n])
}

/// Bytes of the area for what XCR0 enables.
pub(super) fn area_size(sys: &Sys<'_>) -> usize {
    let xcr0 = sys.state.xcr0;
    let mut size = if xcr0 & AVX != 0 { at::END } else { at::YMM };
    for (n, bit) in UPPER.into_iter().enumerate() {
        if xcr0 & bit != 0 {
            size = size.max(upper_offset(sys, n) + UPPER_SIZES[n]);
        }
    }
    size
}

/// Bytes of component `n` of AVX-512 that exist in the current mode.
fn upper_len(sys: &Sys<'_>, n: usize) -> usize {
    match (n, sys.state.code64()) {
        (0, _) | (_, true) => UPPER_SIZES[n],
        (1, false) => UPPER_SIZES[1] / 2,
        _ => 0,
    }
}

fn upper(state: &mut cpu::State, n: usize) -> &mut [u8] {
    match n {
        0 => &mut state.upper.opmask,
        1 => &mut state.upper.high,
        _ => &mut state.upper.more,
    }
}

/// XSAVE and XSAVEOPT. All components but AVX-512's count as in use and modified.
pub(super) fn xsave(sys: &mut Sys<'_>, insn: &Instruction, wide: bool) -> Fault {
    need_xsave(sys)?;
    let size = area_size(sys);
    let addr = linear(sys, insn, 0, size, true)?;
    aligned(addr, 64)?;
    let which = requested(sys);
    let in_use = which & (!(UPPER[0] | UPPER[1] | UPPER[2]) | sys.state.upper.in_use());
    let optimised = matches!(insn.mnemonic(), Mnemonic::Xsaveopt | Mnemonic::Xsaveopt64);
    let n = vectors(sys);
    let legacy = legacy_image(sys, wide);
    let ymm = sys.state.fpu.0;
    let mut parts: [Option<(usize, &[u8])>; 5] = [None; 5];
    if which & X87 != 0 {
        parts[0] = Some((0, &legacy[..at::MXCSR]));
        parts[1] = Some((at::ST, &legacy[at::ST..at::XMM]));
    }
    if which & (SSE | AVX) != 0 {
        parts[2] = Some((at::MXCSR, &legacy[at::MXCSR..at::ST]));
    }
    if which & SSE != 0 {
        parts[3] = Some((at::XMM, &legacy[at::XMM..at::XMM + 16 * n]));
    }
    if which & AVX != 0 {
        parts[4] = Some((at::YMM, &ymm[at::YMM..at::YMM + 16 * n]));
    }
    sys.mem.probe_write(addr, size, As::Current)?;
    let header = addr.wrapping_add(at::HEADER as u64);
    let old = sys.mem.read_u(header, 8, As::Current)?;
    for (offset, bytes) in parts.into_iter().flatten() {
        sys.mem
            .write(addr.wrapping_add(offset as u64), bytes, As::Current)?;
    }
    for (n, bit) in UPPER.into_iter().enumerate() {
        let written = if optimised { in_use } else { which };
        if written & bit != 0 {
            let at = addr.wrapping_add(upper_offset(sys, n) as u64);
            let len = upper_len(sys, n);
            sys.mem
                .write(at, &upper(sys.state, n)[..len], As::Current)?;
        }
    }
    sys.mem
        .write_u(header, 8, old & !which | in_use, As::Current)
}

/// XRSTOR, standard form: the compacted one is malformed here (#GP), as CPUID does not offer it.
pub(super) fn xrstor(sys: &mut Sys<'_>, insn: &Instruction, wide: bool) -> Fault {
    need_xsave(sys)?;
    let xcr0 = sys.state.xcr0;
    let addr = linear(sys, insn, 0, area_size(sys), false)?;
    aligned(addr, 64)?;
    let mut b = [0; at::END];
    sys.mem.read(addr, &mut b[..at::YMM], As::Current)?;
    let present = u64::from(b[at::HEADER]);
    let header = &b[at::HEADER..at::HEADER + 24];
    if present & !xcr0 != 0 || header[1..].iter().any(|byte| *byte != 0) {
        return Err(Exception::gp(0));
    }
    let which = requested(sys);
    let mxcsr = which & (SSE | AVX) != 0;
    if mxcsr && u32_at(&b, at::MXCSR) & !MXCSR_MASK != 0 {
        return Err(Exception::gp(0));
    }
    // Everything is read before the first register changes.
    if which & present & AVX != 0 {
        let at = addr.wrapping_add(at::YMM as u64);
        sys.mem.read(at, &mut b[at::YMM..], As::Current)?;
    }
    let mut loaded = cpu::Upper::reset();
    let touched = which & (UPPER[0] | UPPER[1] | UPPER[2]) != 0;
    for (n, bytes) in [&mut loaded.opmask[..], &mut loaded.high, &mut loaded.more]
        .into_iter()
        .enumerate()
    {
        if which & present & UPPER[n] != 0 {
            let at = addr.wrapping_add(upper_offset(sys, n) as u64);
            let len = upper_len(sys, n);
            sys.mem.read(at, &mut bytes[..len], As::Current)?;
        }
    }
    if which & X87 != 0 {
        if present & X87 != 0 {
            load_x87(sys, &b, wide);
        } else {
            reset_x87(sys);
        }
    }
    let n = 16 * vectors(sys);
    let image = &mut sys.state.fpu.0;
    if mxcsr {
        image[at::MXCSR..at::MXCSR + 4].copy_from_slice(&b[at::MXCSR..at::MXCSR + 4]);
    }
    for (bit, start) in [(SSE, at::XMM), (AVX, at::YMM)] {
        if which & bit != 0 {
            let part = &mut image[start..start + n];
            if present & bit != 0 {
                part.copy_from_slice(&b[start..start + n]);
            } else {
                part.fill(0);
            }
        }
    }
    if touched && (sys.state.upper.live != 0 || present & which & 0xe0 != 0) {
        let parts = [&loaded.opmask[..], &loaded.high, &loaded.more];
        for (n, bytes) in parts.into_iter().enumerate() {
            if which & UPPER[n] != 0 {
                let len = upper_len(sys, n);
                upper(sys.state, n)[..len].copy_from_slice(&bytes[..len]);
            }
        }
        // What is all zero need not be kept in registers.
        sys.state.upper.live = 1;
        sys.state.upper.live = u32::from(sys.state.upper.in_use() != 0);
    }
    Ok(())
}

/// Full tag word of the image: what each physical register holds (SDM vol. 1, 8.1.7).
fn full_tags(image: &[u8]) -> u16 {
    let top = usize::from(u16_at(image, at::FSW) >> 11 & 7);
    let used = image[at::FTW];
    let mut tags = 0;
    for register in 0..8 {
        let tag = if used >> register & 1 == 0 {
            3
        } else {
            let st = at::ST + 16 * ((register + 8 - top) % 8);
            let exponent = u16_at(image, st + 8) & 0x7fff;
            let mantissa = &image[st..st + 8];
            if exponent == 0 && mantissa.iter().all(|b| *b == 0) {
                1
            } else if exponent == 0 || exponent == 0x7fff || mantissa[7] & 0x80 == 0 {
                2
            } else {
                0
            }
        };
        tags |= tag << (2 * register);
    }
    tags
}

/// The environment: 14 or 28 bytes, in the layout of the current mode.
fn environment(sys: &Sys<'_>, bytes: usize) -> [u8; 28] {
    let image = &sys.state.fpu.0;
    let fip = u32_at(image, at::FIP);
    let fdp = u32_at(image, at::FDP);
    let opcode = u16_at(image, at::FOP) & 0x7ff;
    let control = u16_at(image, at::FCW);
    let status = u16_at(image, at::FSW);
    let real = !sys.state.protected();
    let mut b = [0; 28];
    if bytes == 28 {
        let ones = 0xffff_0000;
        put32(&mut b, 0, ones | u32::from(control));
        put32(&mut b, 4, ones | u32::from(status));
        put32(&mut b, 8, ones | u32::from(full_tags(image)));
        if real {
            put32(&mut b, 12, ones | fip & 0xffff);
            put32(&mut b, 16, fip >> 16 << 12 | u32::from(opcode));
            put32(&mut b, 20, ones | fdp & 0xffff);
            put32(&mut b, 24, fdp >> 16 << 12);
        } else {
            put32(&mut b, 12, fip);
            put32(&mut b, 16, u32::from(opcode) << 16);
            put32(&mut b, 20, fdp);
            put32(&mut b, 24, ones);
        }
    } else {
        put16(&mut b, 0, control);
        put16(&mut b, 2, status);
        put16(&mut b, 4, full_tags(image));
        put16(&mut b, 6, fip as u16);
        put16(&mut b, 10, fdp as u16);
        if real {
            put16(&mut b, 8, (fip >> 16 << 12) as u16 | opcode);
            put16(&mut b, 12, (fdp >> 16 << 12) as u16);
        }
    }
    b
}

fn load_environment(sys: &mut Sys<'_>, b: &[u8], bytes: usize) {
    let real = !sys.state.protected();
    let unit = bytes / 7;
    let (fip, fdp, opcode) = if bytes == 28 && real {
        (
            u32_at(b, 12) & 0xffff | u32_at(b, 16) >> 12 << 16,
            u32_at(b, 20) & 0xffff | u32_at(b, 24) >> 12 << 16,
            u16_at(b, 16),
        )
    } else if bytes == 28 {
        (u32_at(b, 12), u32_at(b, 20), u16_at(b, 18))
    } else if real {
        let high = |offset| u32::from(u16_at(b, offset)) >> 12 << 16;
        (
            u32::from(u16_at(b, 6)) | high(8),
            u32::from(u16_at(b, 10)) | high(12),
            u16_at(b, 8),
        )
    } else {
        (u32::from(u16_at(b, 6)), u32::from(u16_at(b, 10)), 0)
    };
    let tags = u16_at(b, 2 * unit);
    let used = (0..8)
        .filter(|i| tags >> (2 * i) & 3 != 3)
        .fold(0u8, |used, i| used | 1 << i);
    let image = &mut sys.state.fpu.0;
    put16(image, at::FCW, u16_at(b, 0));
    put16(image, at::FSW, u16_at(b, unit));
    image[at::FTW] = used;
    put16(image, at::FOP, opcode & 0x7ff);
    image[at::FIP..at::MXCSR].fill(0);
    put32(image, at::FIP, fip);
    put32(image, at::FDP, fdp);
}

/// #MF (or FERR#) of an earlier instruction, as waiting instructions report it.
fn pending(sys: &Sys<'_>) -> Fault {
    let image = &sys.state.fpu.0;
    let unmasked = u16_at(image, at::FSW) & !u16_at(image, at::FCW) & 0x3f != 0;
    if unmasked && sys.state.cr0 & cr0::NE != 0 {
        return Err(Exception::new(Vector::Mf));
    }
    if unmasked {
        sys.bus.ferr(sys.cpu);
    }
    Ok(())
}

/// FNSTENV with an environment of `bytes` (14, 28).
pub(super) fn fnstenv(sys: &mut Sys<'_>, insn: &Instruction, bytes: usize) -> Fault {
    need_x87(sys)?;
    let addr = linear(sys, insn, 0, bytes, true)?;
    let b = environment(sys, bytes);
    sys.mem.write(addr, &b[..bytes], As::Current)?;
    sys.state.fpu.0[at::FCW] |= 0x3f;
    Ok(())
}

/// FLDENV.
pub(super) fn fldenv(sys: &mut Sys<'_>, insn: &Instruction, bytes: usize) -> Fault {
    need_x87(sys)?;
    pending(sys)?;
    let addr = linear(sys, insn, 0, bytes, false)?;
    let mut b = [0; 28];
    sys.mem.read(addr, &mut b[..bytes], As::Current)?;
    load_environment(sys, &b, bytes);
    Ok(())
}

/// FNSAVE with an environment of `bytes`, then FNINIT.
pub(super) fn fnsave(sys: &mut Sys<'_>, insn: &Instruction, bytes: usize) -> Fault {
    need_x87(sys)?;
    let addr = linear(sys, insn, 0, bytes + 80, true)?;
    let mut b = [0; 108];
    b[..28].copy_from_slice(&environment(sys, bytes));
    for i in 0..8 {
        let st = at::ST + 16 * i;
        b[bytes + 10 * i..bytes + 10 * (i + 1)].copy_from_slice(&sys.state.fpu.0[st..st + 10]);
    }
    sys.mem.write(addr, &b[..bytes + 80], As::Current)?;
    // FNINIT leaves the registers' contents; they are only marked empty.
    sys.state.fpu.0[..at::MXCSR].fill(0);
    put16(&mut sys.state.fpu.0, at::FCW, 0x37f);
    Ok(())
}

/// FRSTOR.
pub(super) fn frstor(sys: &mut Sys<'_>, insn: &Instruction, bytes: usize) -> Fault {
    need_x87(sys)?;
    pending(sys)?;
    let addr = linear(sys, insn, 0, bytes + 80, false)?;
    let mut b = [0; 108];
    sys.mem.read(addr, &mut b[..bytes + 80], As::Current)?;
    load_environment(sys, &b, bytes);
    for i in 0..8 {
        let st = at::ST + 16 * i;
        let image = &mut sys.state.fpu.0;
        image[st..st + 16].fill(0);
        image[st..st + 10].copy_from_slice(&b[bytes + 10 * i..bytes + 10 * (i + 1)]);
    }
    Ok(())
}
