//! Control and debug registers, descriptor-table registers, TLB invalidation, XCR0.

use cpu::bits::{cr0, cr4, efer};
use cpu::{DescTable, Exception, Fault, RunState, Seg, Vector, attr};
use iced_x86::{Instruction, OpKind};

use super::cpuid::{self, Feature, feature};
use super::operand::{canonical, linear};
use super::{As, Flow, Flush, Sys, walk};

/// Bits of DR6 (SDM vol. 3, 17.2.3).
pub(super) mod dr6 {
    /// An access to debug registers while they are guarded.
    pub const BD: u64 = 1 << 13;
    /// Task switch.
    pub const BT: u64 = 1 << 15;
    /// Bits that can be written.
    pub const WRITABLE: u64 = 0xe00f;
    /// Bits that read as one.
    pub const ONES: u64 = 0xffff_0ff0;
}

/// Bits of DR7 (SDM vol. 3, 17.2.4).
pub(super) mod dr7 {
    /// L0 to L3 and LE: cleared by task switches.
    pub const LOCAL: u64 = 0x155;
    /// Accesses to debug registers raise #DB.
    pub const GD: u64 = 1 << 13;
    pub const WRITABLE: u64 = 0xffff_23ff;
    pub const ONES: u64 = 0x400;
}

const CR0_BITS: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;

/// Bits of CR4 and what has to be there for them (SDM vol. 3, 2.5: bits of absent features are
/// reserved). CR4.PCE came with the performance counters of the MMX processors.
const CR4_BITS: [(u64, Feature); 17] = [
    (cr4::VME, feature::VME),
    (cr4::PVI, feature::VME),
    (cr4::TSD, feature::TSC),
    (cr4::DE, feature::DE),
    (cr4::PSE, feature::PSE),
    (cr4::PAE, feature::PAE),
    (cr4::MCE, feature::MCE),
    (cr4::PGE, feature::PGE),
    (cr4::PCE, feature::MMX),
    (cr4::OSFXSR, feature::FXSR),
    (cr4::OSXMMEXCPT, feature::SSE),
    (cr4::UMIP, feature::UMIP),
    (cr4::FSGSBASE, feature::FSGSBASE),
    (cr4::PCIDE, feature::PCID),
    (cr4::OSXSAVE, feature::XSAVE),
    (cr4::SMEP, feature::SMEP),
    (cr4::SMAP, feature::SMAP),
];

/// Whether all bits of `value` exist in CR4.
pub(super) fn cr4_exists(sys: &Sys<'_>, value: u64) -> bool {
    let mut unknown = value;
    for (bit, feature) in CR4_BITS {
        if value & bit != 0 && cpuid::has(sys, feature) {
            unknown &= !bit;
        }
    }
    unknown == 0
}

/// MOV from a control register.
pub(super) fn read_cr(sys: &mut Sys<'_>, index: usize) -> Fault<u64> {
    sys.need_cpl0()?;
    match index {
        0 => Ok(sys.state.cr0),
        2 => Ok(sys.state.cr2),
        3 => Ok(sys.state.cr3),
        4 => Ok(sys.state.cr4),
        8 => Ok(u64::from(sys.bus.cr8(sys.cpu))),
        _ => Err(Exception::ud()),
    }
}

/// MOV to a control register.
pub(super) fn write_cr(sys: &mut Sys<'_>, index: usize, value: u64) -> Fault {
    if !matches!(index, 0 | 2 | 3 | 4 | 8) {
        return Err(Exception::ud());
    }
    sys.need_cpl0()?;
    match index {
        0 => write_cr0(sys, value)?,
        2 => sys.state.cr2 = value,
        3 => write_cr3(sys, value)?,
        4 => write_cr4(sys, value)?,
        _ => {
            if value > 15 {
                return Err(Exception::gp(0));
            }
            sys.bus.set_cr8(sys.cpu, value as u8);
        }
    }
    Ok(())
}

/// Whether the bits of CR0 go together.
pub(super) fn cr0_is_valid(value: u64) -> bool {
    let on = |bit| value & bit != 0;
    value & !CR0_BITS == 0 && (!on(cr0::PG) || on(cr0::PE)) && (!on(cr0::NW) || on(cr0::CD))
}

fn write_cr0(sys: &mut Sys<'_>, value: u64) -> Fault {
    let bad = Err(Exception::gp(0));
    if value >> 32 != 0 {
        return bad;
    }
    let new = value & CR0_BITS | cr0::ET;
    let old = sys.state.cr0;
    let on = |bit| new & bit != 0;
    if !cr0_is_valid(new) {
        return bad;
    }
    let mut new_efer = sys.state.efer;
    if on(cr0::PG) && old & cr0::PG == 0 {
        if sys.state.efer & efer::LME != 0 {
            let cs64 = sys.state.seg[Seg::Cs as usize].has(attr::L);
            if sys.state.cr4 & cr4::PAE == 0 || cs64 || super::table::is_tss16(sys) {
                return bad;
            }
            new_efer |= efer::LMA;
        }
    } else if !on(cr0::PG) && old & cr0::PG != 0 {
        if sys.state.code64() || sys.state.cr4 & cr4::PCIDE != 0 {
            return bad;
        }
        new_efer &= !efer::LMA;
    }
    let cache = cr0::PG | cr0::CD | cr0::NW;
    if (old ^ new) & cache != 0 && walk::uses_pdptes(new, sys.state.cr4, new_efer) {
        sys.state.pdpte = walk::read_pdptes(sys.mem.phys(), sys.state.cr3)?;
    }
    sys.state.cr0 = new;
    sys.state.efer = new_efer;
    if (old ^ new) & (cr0::PG | cr0::PE | cr0::WP) != 0 {
        sys.flush = Flush::All;
    }
    Ok(())
}

fn write_cr3(sys: &mut Sys<'_>, value: u64) -> Fault {
    let mut new = value;
    let mut keep = false;
    if sys.state.long_mode() {
        if sys.state.cr4 & cr4::PCIDE != 0 {
            keep = new >> 63 != 0;
            new &= !(1 << 63);
        }
        if new >> walk::PHYS_BITS != 0 {
            return Err(Exception::gp(0));
        }
    } else {
        new &= 0xffff_ffff;
    }
    if walk::uses_pdptes(sys.state.cr0, sys.state.cr4, sys.state.efer) {
        sys.state.pdpte = walk::read_pdptes(sys.mem.phys(), new)?;
    }
    sys.state.cr3 = new;
    sys.flush = sys.flush.merge(Flush::Switch { keep });
    Ok(())
}

fn write_cr4(sys: &mut Sys<'_>, value: u64) -> Fault {
    let bad = Err(Exception::gp(0));
    if !cr4_exists(sys, value & !sys.state.cr4) {
        return bad;
    }
    let state = &sys.state;
    let old = state.cr4;
    if state.long_mode() && value & cr4::PAE == 0 {
        return bad;
    }
    if value & !old & cr4::PCIDE != 0 && (!state.long_mode() || state.cr3 & 0xfff != 0) {
        return bad;
    }
    let paging = cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP;
    let changed = old ^ value;
    if changed & paging != 0 && walk::uses_pdptes(state.cr0, value, state.efer) {
        sys.state.pdpte = walk::read_pdptes(sys.mem.phys(), sys.state.cr3)?;
    }
    sys.state.cr4 = value;
    if changed & paging != 0 {
        sys.flush = Flush::All;
    }
    Ok(())
}

/// LMSW: sets the low four bits of CR0, but cannot clear PE.
pub(super) fn lmsw(sys: &mut Sys<'_>, value: u64) -> Fault {
    sys.need_cpl0()?;
    let old = sys.state.cr0;
    write_cr0(sys, old & !0xe | value & 0xf)
}

/// CLTS.
pub(super) fn clts(sys: &mut Sys<'_>) -> Fault {
    sys.need_cpl0()?;
    sys.state.cr0 &= !cr0::TS;
    Ok(())
}

/// UMIP: #GP(0) for SGDT, SIDT, SLDT, STR and SMSW outside of level 0.
pub(super) fn need_umip(sys: &Sys<'_>) -> Fault {
    if sys.state.cr4 & cr4::UMIP != 0 {
        sys.need_cpl0()
    } else {
        Ok(())
    }
}

/// Index of a debug register that may be accessed now.
fn debug_index(sys: &mut Sys<'_>, index: usize) -> Fault<usize> {
    let index = match index {
        4 | 5 if sys.state.cr4 & cr4::DE != 0 => return Err(Exception::ud()),
        4 | 5 => index + 2,
        0..=7 => index,
        _ => return Err(Exception::ud()),
    };
    sys.need_cpl0()?;
    if sys.state.dr[7] & dr7::GD != 0 {
        return Err(Exception {
            address: dr6::BD,
            ..Exception::new(Vector::Db)
        });
    }
    Ok(index)
}

/// MOV from a debug register.
pub(super) fn read_dr(sys: &mut Sys<'_>, index: usize) -> Fault<u64> {
    let index = debug_index(sys, index)?;
    Ok(sys.state.dr[index])
}

/// MOV to a debug register.
pub(super) fn write_dr(sys: &mut Sys<'_>, index: usize, value: u64) -> Fault {
    let index = debug_index(sys, index)?;
    // Outside of 64-bit mode the operand has 32 bits.
    let value = if sys.state.code64() {
        value
    } else {
        value & 0xffff_ffff
    };
    if index >= 6 && value >> 32 != 0 {
        return Err(Exception::gp(0));
    }
    sys.state.dr[index] = match index {
        6 => value & dr6::WRITABLE | dr6::ONES,
        7 => value & dr7::WRITABLE | dr7::ONES,
        _ => value,
    };
    Ok(())
}

/// LGDT and LIDT: `size` is the operand size.
pub(super) fn load_table(sys: &mut Sys<'_>, insn: &Instruction, size: usize) -> Fault<DescTable> {
    sys.need_cpl0()?;
    let bytes = if size == 8 { 10 } else { 6 };
    let at = linear(sys, insn, 0, bytes, false)?;
    let mut b = [0; 10];
    sys.mem.read(at, &mut b[..bytes], As::Current)?;
    let limit = u16::from_le_bytes([b[0], b[1]]);
    let mut base = [0; 8];
    base[..bytes - 2].copy_from_slice(&b[2..bytes]);
    let mut base = u64::from_le_bytes(base);
    if size == 2 {
        base &= 0xff_ffff;
    }
    if !canonical(base) {
        return Err(Exception::gp(0));
    }
    Ok(DescTable { base, limit })
}

/// SGDT and SIDT.
pub(super) fn store_table(sys: &mut Sys<'_>, insn: &Instruction, table: DescTable) -> Fault {
    need_umip(sys)?;
    let bytes = if sys.state.code64() { 10 } else { 6 };
    let mut b = [0; 10];
    b[..2].copy_from_slice(&table.limit.to_le_bytes());
    b[2..].copy_from_slice(&table.base.to_le_bytes());
    let at = linear(sys, insn, 0, bytes, true)?;
    sys.mem.write(at, &b[..bytes], As::Current)
}

/// INVLPG.
pub(super) fn invlpg(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    sys.need_cpl0()?;
    if insn.op0_kind() == OpKind::Register {
        return Err(Exception::ud());
    }
    // No segment check: the address is only named, not accessed.
    let (seg, offset) = sys.effective(insn, 0);
    let base = if sys.state.code64() && !matches!(seg, Seg::Fs | Seg::Gs) {
        0
    } else {
        sys.state.seg[seg as usize].base
    };
    let mut at = base.wrapping_add(offset);
    if !sys.state.code64() {
        at &= 0xffff_ffff;
    }
    if canonical(at) {
        sys.flush = sys.flush.merge(Flush::Page(at));
    }
    Ok(())
}

/// INVPCID.
pub(super) fn invpcid(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    if sys.v86() {
        return Err(Exception::gp(0));
    }
    sys.need_cpl0()?;
    let kind = sys.get(insn.op0_register());
    let at = linear(sys, insn, 1, 16, false)?;
    let pcid = sys.mem.read_u(at, 8, As::Current)?;
    let addr = sys.mem.read_u(at.wrapping_add(8), 8, As::Current)?;
    let bad = Err(Exception::gp(0));
    let named = kind < 2;
    if kind > 3 || pcid >> 12 != 0 || named && pcid != 0 && sys.state.cr4 & cr4::PCIDE == 0 {
        return bad;
    }
    let current = if sys.state.cr4 & cr4::PCIDE != 0 {
        sys.state.cr3 & 0xfff
    } else {
        0
    };
    let flush = match kind {
        0 if !canonical(addr) => return bad,
        0 if pcid == current => Flush::Page(addr),
        0 | 1 if pcid != current => Flush::Space(pcid),
        2 => Flush::All,
        _ => Flush::NonGlobal,
    };
    sys.flush = sys.flush.merge(flush);
    Ok(())
}

/// HLT.
pub(super) fn hlt(sys: &mut Sys<'_>, next_rip: u64) -> Fault<Flow> {
    sys.need_cpl0()?;
    sys.state.rip = next_rip;
    sys.state.run = RunState::Halted;
    Ok(Flow::Halt)
}

/// XCR0 bits the engine keeps state for: x87, SSE, AVX, and the three of AVX-512.
pub(super) const XCR0_BITS: u64 = 0xe7;

fn need_osxsave(sys: &Sys<'_>) -> Fault {
    if sys.state.cr4 & cr4::OSXSAVE == 0 {
        Err(Exception::ud())
    } else {
        Ok(())
    }
}

/// XGETBV.
pub(super) fn xgetbv(sys: &mut Sys<'_>) -> Fault {
    need_osxsave(sys)?;
    let value = match sys.gpr(1, 4) {
        0 => sys.state.xcr0,
        // All but AVX-512's components count as in use.
        1 if sys.bus.cpuid(sys.cpu, 0xd, 1)[0] & 4 != 0 => {
            sys.state.xcr0 & (!0xe0 | sys.state.upper.in_use())
        }
        _ => return Err(Exception::gp(0)),
    };
    sys.set_gpr(0, 4, value);
    sys.set_gpr(2, 4, value >> 32);
    Ok(())
}

/// XSETBV.
pub(super) fn xsetbv(sys: &mut Sys<'_>) -> Fault {
    need_osxsave(sys)?;
    sys.need_cpl0()?;
    let value = sys.gpr(2, 4) << 32 | sys.gpr(0, 4);
    let offered = u64::from(sys.bus.cpuid(sys.cpu, 0xd, 0)[0]) & XCR0_BITS;
    let avx_alone = value & 6 == 4 || value & 0xe0 != 0 && value & 0xe6 != 0xe6;
    if sys.gpr(1, 4) != 0 || value & 1 == 0 || avx_alone || value & !offered != 0 {
        return Err(Exception::gp(0));
    }
    sys.state.xcr0 = value;
    Ok(())
}
