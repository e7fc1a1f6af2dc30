//! Vector instructions that access memory element by element, under a mask: each element may
//! fault or be left out, so they are done one element at a time (SDM vol. 2, VPGATHER, VMASKMOV,
//! MASKMOVDQU).

use cpu::{Exception, Fault};
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

use crate::core::Core;
use crate::ctx::Ctx;
use crate::sys::As;

/// Whether [`execute`] knows the instruction.
pub fn handles(insn: &Instruction) -> bool {
    insn.is_vsib()
        || matches!(
            insn.mnemonic(),
            M::Vmaskmovps
                | M::Vmaskmovpd
                | M::Vpmaskmovd
                | M::Vpmaskmovq
                | M::Maskmovq
                | M::Maskmovdqu
                | M::Vmaskmovdqu
        )
}

/// Carries the instruction out. Vector registers are in `ctx.ymm` and `ctx.state.upper`.
///
/// # Errors
/// What an element's access raises; elements before it are done.
pub fn execute(ctx: &mut Ctx, core: &mut Core, insn: &Instruction) -> Fault {
    if insn.op_mask() != Register::None {
        return masked_gather(ctx, core, insn);
    }
    if insn.is_vsib() {
        return gather(ctx, core, insn);
    }
    match insn.mnemonic() {
        M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => byte_mask(ctx, core, insn),
        _ => mask_move(ctx, core, insn),
    }
}

/// Raises what a write of `len` bytes at `offset` would raise.
fn probe(ctx: &mut Ctx, core: &mut Core, insn: &Instruction, offset: u64, len: usize) -> Fault {
    core.with_sys(ctx, |sys| {
        let seg = sys.segment(insn);
        let at = sys.linear_at(seg, offset, len, true)?;
        sys.mem.probe_write(at, len, As::Current)
    })
}

/// Where an element is, relative to the operand's first byte.
fn access(
    ctx: &mut Ctx,
    core: &mut Core,
    insn: &Instruction,
    offset: u64,
    data: &mut [u8],
    write: bool,
) -> Fault {
    core.with_sys(ctx, |sys| {
        let seg = sys.segment(insn);
        let at = sys.linear_at(seg, offset, data.len(), write)?;
        if write {
            sys.mem.write(at, data, As::Current)
        } else {
            sys.mem.read(at, data, As::Current)
        }
    })
}

fn gpr(ctx: &Ctx, r: Register) -> u64 {
    if r == Register::None {
        return 0;
    }
    let value = ctx.state.gpr[r.full_register().number() & 15];
    match r.size() {
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// The bits of an address that count.
fn address_mask(insn: &Instruction) -> u64 {
    let (base, index) = (insn.memory_base(), insn.memory_index());
    let bytes = if base != Register::None {
        base.size()
    } else if index.is_gpr() {
        index.size()
    } else {
        insn.memory_displ_size() as usize
    };
    match bytes {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

fn gather(ctx: &mut Ctx, core: &mut Core, insn: &Instruction) -> Fault {
    let dest = insn.op0_register();
    let mask = insn.op2_register();
    let index = insn.memory_index();
    let (d, m, x) = (dest.number() & 15, mask.number() & 15, index.number() & 15);
    if d == m || d == x || m == x {
        return Err(Exception::ud());
    }
    // Names end in the sizes of index and data: D or Q; PS and PD are 4 and 8 bytes of data.
    let (index_bytes, data_bytes) = match insn.mnemonic() {
        M::Vpgatherdd | M::Vgatherdps => (4, 4),
        M::Vpgatherdq | M::Vgatherdpd => (4, 8),
        M::Vpgatherqd | M::Vgatherqps => (8, 4),
        M::Vpgatherqq | M::Vgatherqpd => (8, 8),
        _ => return Err(Exception::ud()),
    };
    let vector = if dest.is_ymm() || index.is_ymm() {
        32
    } else {
        16
    };
    let count = (vector / index_bytes).min(vector / data_bytes);
    let base = gpr(ctx, insn.memory_base());
    let limit = address_mask(insn);
    for i in 0..count {
        let place = i * data_bytes..(i + 1) * data_bytes;
        let selected = ctx.ymm[m][place.end - 1] & 0x80 != 0;
        if selected {
            let raw = &ctx.ymm[x][i * index_bytes..(i + 1) * index_bytes];
            let mut wide = [if raw[index_bytes - 1] & 0x80 != 0 {
                0xff
            } else {
                0
            }; 8];
            wide[..index_bytes].copy_from_slice(raw);
            let offset = base
                .wrapping_add(
                    u64::from_le_bytes(wide).wrapping_mul(insn.memory_index_scale().into()),
                )
                .wrapping_add(insn.memory_displacement64())
                & limit;
            let mut data = [0; 8];
            access(ctx, core, insn, offset, &mut data[..data_bytes], false)?;
            ctx.ymm[d][place.clone()].copy_from_slice(&data[..data_bytes]);
        }
        ctx.ymm[m][place].fill(0);
    }
    ctx.ymm[m].fill(0);
    ctx.ymm[d][count * data_bytes..].fill(0);
    clear_high(ctx, m);
    clear_high(ctx, d);
    Ok(())
}

/// VEX instructions clear what is above the 256 bits they know.
fn clear_high(ctx: &mut Ctx, n: usize) {
    ctx.state.upper.high[32 * n..32 * n + 32].fill(0);
}

/// A whole vector register.
fn zmm(ctx: &Ctx, n: usize) -> [u8; 64] {
    let mut all = [0; 64];
    match n.checked_sub(16) {
        None => {
            all[..32].copy_from_slice(&ctx.ymm[n]);
            all[32..].copy_from_slice(&ctx.state.upper.high[32 * n..32 * n + 32]);
        }
        Some(m) => all.copy_from_slice(&ctx.state.upper.more[64 * (m & 15)..][..64]),
    }
    all
}

fn set_zmm(ctx: &mut Ctx, n: usize, all: &[u8; 64]) {
    match n.checked_sub(16) {
        None => {
            ctx.ymm[n].copy_from_slice(&all[..32]);
            ctx.state.upper.high[32 * n..32 * n + 32].copy_from_slice(&all[32..]);
        }
        Some(m) => ctx.state.upper.more[64 * (m & 15)..][..64].copy_from_slice(all),
    }
}

/// Gathers and scatters of AVX-512: a mask register says which elements are left to do, and its
/// bits go as they are done.
fn masked_gather(ctx: &mut Ctx, core: &mut Core, insn: &Instruction) -> Fault {
    let scatter = insn.op0_kind() == OpKind::Memory;
    let register = if scatter {
        insn.op1_register()
    } else {
        insn.op0_register()
    };
    let index = insn.memory_index();
    let (r, x, k) = (
        register.number() & 31,
        index.number() & 31,
        insn.op_mask().number() & 7,
    );
    if !scatter && r == x {
        return Err(Exception::ud());
    }
    use M::*;
    let (index_bytes, data_bytes) = match insn.mnemonic() {
        Vpgatherdd | Vgatherdps | Vpscatterdd | Vscatterdps => (4, 4),
        Vpgatherdq | Vgatherdpd | Vpscatterdq | Vscatterdpd => (4, 8),
        Vpgatherqd | Vgatherqps | Vpscatterqd | Vscatterqps => (8, 4),
        Vpgatherqq | Vgatherqpd | Vpscatterqq | Vscatterqpd => (8, 8),
        _ => return Err(Exception::ud()),
    };
    // The wider of the two has the vector's length.
    let vector = register.size().max(index.size());
    let count = (vector / index_bytes).min(vector / data_bytes);
    let base = gpr(ctx, insn.memory_base());
    let limit = address_mask(insn);
    let indices = zmm(ctx, x);
    for i in 0..count {
        let bit = (k * 8 + i / 8, 1 << (i % 8));
        if ctx.state.upper.opmask[bit.0] & bit.1 == 0 {
            continue;
        }
        let raw = &indices[i * index_bytes..(i + 1) * index_bytes];
        let sign = if raw[index_bytes - 1] & 0x80 != 0 {
            0xff
        } else {
            0
        };
        let mut wide = [sign; 8];
        wide[..index_bytes].copy_from_slice(raw);
        let offset = base
            .wrapping_add(u64::from_le_bytes(wide).wrapping_mul(insn.memory_index_scale().into()))
            .wrapping_add(insn.memory_displacement64())
            & limit;
        let place = i * data_bytes..(i + 1) * data_bytes;
        let mut data = [0; 8];
        if scatter {
            data[..data_bytes].copy_from_slice(&zmm(ctx, r)[place]);
            access(ctx, core, insn, offset, &mut data[..data_bytes], true)?;
        } else {
            access(ctx, core, insn, offset, &mut data[..data_bytes], false)?;
            let mut all = zmm(ctx, r);
            all[place].copy_from_slice(&data[..data_bytes]);
            set_zmm(ctx, r, &all);
        }
        ctx.state.upper.opmask[bit.0] &= !bit.1;
    }
    ctx.state.upper.opmask[8 * k..8 * k + 8].fill(0);
    if !scatter {
        let mut all = zmm(ctx, r);
        all[count * data_bytes..].fill(0);
        set_zmm(ctx, r, &all);
    }
    Ok(())
}

fn mask_move(ctx: &mut Ctx, core: &mut Core, insn: &Instruction) -> Fault {
    let bytes = if matches!(insn.mnemonic(), M::Vmaskmovps | M::Vpmaskmovd) {
        4
    } else {
        8
    };
    let store = insn.op0_kind() == OpKind::Memory;
    let (register, mask) = if store {
        (insn.op2_register(), insn.op1_register())
    } else {
        (insn.op0_register(), insn.op1_register())
    };
    let (r, m) = (register.number() & 15, mask.number() & 15);
    let vector = if register.is_ymm() { 32 } else { 16 };
    let limit = address_mask(insn);
    let start = if insn.is_ip_rel_memory_operand() {
        insn.ip_rel_memory_address()
    } else {
        gpr(ctx, insn.memory_base())
            .wrapping_add(
                gpr(ctx, insn.memory_index()).wrapping_mul(insn.memory_index_scale().into()),
            )
            .wrapping_add(insn.memory_displacement64())
            & limit
    };
    let masks = ctx.ymm[m];
    let mut result = [0; 32];
    let selected = |i: &usize| masks[(i + 1) * bytes - 1] & 0x80 != 0;
    if store {
        // A store that faults leaves all of the memory as it was.
        for i in (0..vector / bytes).filter(selected) {
            let offset = start.wrapping_add((i * bytes) as u64);
            probe(ctx, core, insn, offset, bytes)?;
        }
    }
    for i in (0..vector / bytes).filter(selected) {
        let place = i * bytes..(i + 1) * bytes;
        let offset = start.wrapping_add(place.start as u64);
        let mut data = [0; 8];
        if store {
            data[..bytes].copy_from_slice(&ctx.ymm[r][place]);
            access(ctx, core, insn, offset, &mut data[..bytes], true)?;
        } else {
            access(ctx, core, insn, offset, &mut data[..bytes], false)?;
            result[place].copy_from_slice(&data[..bytes]);
        }
    }
    if !store {
        ctx.ymm[r] = result;
        clear_high(ctx, r);
    }
    Ok(())
}

/// MASKMOVQ keeps its MMX registers in the host's x87 unit: those come through the FPU image.
fn byte_mask(ctx: &mut Ctx, core: &mut Core, insn: &Instruction) -> Fault {
    let (source, mask) = (insn.op1_register(), insn.op2_register());
    let mmx = source.is_mm();
    let read = |ctx: &Ctx, r: Register| -> [u8; 16] {
        let mut out = [0; 16];
        if mmx {
            // FXSAVE puts MM0 to MM7 at 32, 48, ... while the top of stack is 0, as MMX sets it.
            let at = 32 + 16 * (r.number() & 7);
            out[..8].copy_from_slice(&ctx.state.fpu.0[at..at + 8]);
        } else {
            out.copy_from_slice(&ctx.ymm[r.number() & 15][..16]);
        }
        out
    };
    if mmx {
        // What translated code would find out by executing it; out here the host would die of it.
        if crate::fpu::pending() {
            return Err(Exception::new(cpu::Vector::Mf));
        }
        // The instruction is also a switch to MMX state, like any other.
        crate::fpu::touch_mmx();
        crate::fpu::save(ctx);
    }
    let (data, masks) = (read(ctx, source), read(ctx, mask));
    let start = match insn.op0_kind() {
        OpKind::MemorySegDI => ctx.state.gpr[7] & 0xffff,
        OpKind::MemorySegEDI => ctx.state.gpr[7] & 0xffff_ffff,
        _ => ctx.state.gpr[7],
    };
    for i in 0..if mmx { 8 } else { 16 } {
        if masks[i] & 0x80 != 0 {
            access(
                ctx,
                core,
                insn,
                start.wrapping_add(i as u64),
                &mut [data[i]],
                true,
            )?;
        }
    }
    Ok(())
}
