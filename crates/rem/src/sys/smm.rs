//! System management mode (SDM vol. 3, chapter 32), with the save-state map of processors with
//! AMD64 (APM vol. 2, 10.2.3), which firmware knows by its revision.
//!
//! A halted processor is halted again after RSM unless the handler clears the auto-halt field. I/O
//! instruction restart and the RSM of a nested virtual machine are not there; revision says so.

use cpu::bits::{cr0, rflags};
use cpu::{Exception, Fault, RunState, Seg, SegReg, attr};

use super::operand::canonical;
use super::{As, Flow, Flush, Shutdown, Sys, walk};

/// SMBASE can be relocated; layout with 64 bits.
const REVISION: u64 = 1 << 17 | 0x64;
/// The map is at this offset from SMBASE, and this long.
const MAP: u64 = 0xfe00;
const SIZE: usize = 0x200;
/// Where handlers start.
const ENTRY: u64 = 0x8000;

/// Offsets in the map.
mod at {
    /// ES CS SS DS FS GS, 16 bytes each: selector, attributes, limit, base.
    pub const SEGMENTS: usize = 0x00;
    pub const GDTR: usize = 0x60;
    pub const LDTR: usize = 0x70;
    pub const IDTR: usize = 0x80;
    pub const TR: usize = 0x90;
    pub const AUTO_HALT: usize = 0xc9;
    /// NMIs were blocked.
    pub const NMI_MASK: usize = 0xca;
    pub const EFER: usize = 0xd0;
    pub const REVISION: usize = 0xfc;
    pub const SMBASE: usize = 0x100;
    pub const CR4: usize = 0x148;
    pub const CR3: usize = 0x150;
    pub const CR0: usize = 0x158;
    pub const DR7: usize = 0x160;
    pub const DR6: usize = 0x168;
    pub const RFLAGS: usize = 0x170;
    pub const RIP: usize = 0x178;
    /// R15 down to R8.
    pub const R15: usize = 0x180;
    /// RDI, RSI, RBP, RSP, RBX, RDX, RCX, RAX.
    pub const RDI: usize = 0x1c0;
}

struct Image([u8; SIZE]);

impl Image {
    fn get(&self, offset: usize, size: usize) -> u64 {
        let mut b = [0; 8];
        b[..size].copy_from_slice(&self.0[offset..offset + size]);
        u64::from_le_bytes(b)
    }

    fn put(&mut self, offset: usize, size: usize, value: u64) {
        self.0[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    fn put_segment(&mut self, offset: usize, reg: &SegReg) {
        // Attributes without the hole of the limit; P is clear in what cannot be used.
        let mut bits = reg.attr & 0xff | reg.attr >> 4 & 0xf00;
        if reg.has(attr::UNUSABLE) {
            bits &= !attr::P;
        }
        self.put(offset, 2, u64::from(reg.sel));
        self.put(offset + 2, 2, u64::from(bits));
        self.put(offset + 4, 4, u64::from(reg.limit));
        self.put(offset + 8, 8, reg.base);
    }

    fn segment(&self, offset: usize) -> SegReg {
        let bits = self.get(offset + 2, 2) as u32;
        let mut attributes = bits & 0xff | (bits & 0xf00) << 4;
        if attributes & attr::P == 0 {
            attributes |= attr::UNUSABLE;
        }
        SegReg {
            sel: self.get(offset, 2) as u16,
            attr: attributes,
            limit: self.get(offset + 4, 4) as u32,
            base: self.get(offset + 8, 8),
        }
    }
}

/// Enters SMM at an instruction boundary.
///
/// # Errors
/// None that memory could raise: paging is off then.
pub fn enter(sys: &mut Sys<'_>) -> Fault {
    let mut map = Image([0; SIZE]);
    let s = &mut *sys.state;
    for (n, reg) in s.seg.iter().enumerate() {
        map.put_segment(at::SEGMENTS + 16 * n, reg);
    }
    map.put_segment(at::LDTR, &s.ldtr);
    map.put_segment(at::TR, &s.tr);
    for (offset, table) in [(at::GDTR, &s.gdtr), (at::IDTR, &s.idtr)] {
        map.put(offset + 4, 2, u64::from(table.limit));
        map.put(offset + 8, 8, table.base);
    }
    map.put(at::AUTO_HALT, 1, u64::from(s.run == RunState::Halted));
    map.put(at::NMI_MASK, 1, u64::from(s.nmi_blocked));
    map.put(at::REVISION, 4, REVISION);
    map.put(at::SMBASE, 4, u64::from(s.smbase));
    for (offset, value) in [
        (at::EFER, s.efer),
        (at::CR4, s.cr4),
        (at::CR3, s.cr3),
        (at::CR0, s.cr0),
        (at::DR7, s.dr[7]),
        (at::DR6, s.dr[6]),
        (at::RFLAGS, s.rflags),
        (at::RIP, s.rip),
    ] {
        map.put(offset, 8, value);
    }
    for n in 0..8 {
        map.put(at::RDI + 8 * (7 - n), 8, s.gpr[n]);
        map.put(at::R15 + 8 * (7 - n), 8, s.gpr[8 + n]);
    }

    // SDM vol. 3, table 32-4.
    let flat = SegReg {
        base: 0,
        limit: u32::MAX,
        attr: attr::P | attr::S | attr::RW | attr::ACCESSED | attr::G,
        sel: 0,
    };
    s.seg = [flat; 6];
    s.seg[Seg::Cs as usize] = SegReg {
        base: u64::from(s.smbase),
        sel: (s.smbase >> 4) as u16,
        ..flat
    };
    s.cr0 &= !(cr0::PE | cr0::EM | cr0::TS | cr0::PG);
    s.cr4 = 0;
    s.efer = 0;
    s.dr[7] = super::control::dr7::ONES;
    s.rflags = rflags::FIXED;
    s.rip = ENTRY;
    s.run = RunState::Running;
    s.shadow = false;
    s.nmi_blocked = true;
    s.smm = true;
    let base = u64::from(s.smbase);
    sys.flush = Flush::All;
    sys.mem.context_changed(sys.state);
    sys.mem.write(base + MAP, &map.0, As::System)
}

/// RSM.
///
/// # Errors
/// #UD outside of SMM.
pub(super) fn rsm(sys: &mut Sys<'_>) -> Fault<Flow> {
    if !sys.state.smm {
        return Err(Exception::ud());
    }
    let mut map = Image([0; SIZE]);
    let base = u64::from(sys.state.smbase);
    // A handler may have paging on: the map is at a physical address.
    sys.mem.phys().read_smm(base + MAP, &mut map.0);
    match restore(sys, &map) {
        Ok(()) => {
            sys.flush = Flush::All;
            sys.mem.context_changed(sys.state);
            Ok(match sys.state.run {
                RunState::Halted => Flow::Halt,
                _ => Flow::Jump,
            })
        }
        Err(Shutdown) => {
            sys.state.run = RunState::Shutdown;
            Ok(Flow::Shutdown)
        }
    }
}

/// Takes the map over. What no processor state can be is a shutdown (SDM vol. 3, 32.4.1).
fn restore(sys: &mut Sys<'_>, map: &Image) -> Result<(), Shutdown> {
    let wide = |offset| map.get(offset, 8);
    let (new_cr0, new_cr4, efer) = (wide(at::CR0), wide(at::CR4), wide(at::EFER));
    let (paging, long) = (new_cr0 & cr0::PG != 0, efer & cpu::bits::efer::LMA != 0);
    let long_ok = long == (paging && efer & cpu::bits::efer::LME != 0);
    let pae = new_cr4 & cpu::bits::cr4::PAE != 0;
    let good = super::control::cr0_is_valid(new_cr0)
        && super::control::cr4_exists(sys, new_cr4)
        && efer & !super::msr::efer_bits(sys) == 0
        && long_ok
        && (!long || pae)
        && wide(at::CR3) >> walk::PHYS_BITS == 0
        && [at::GDTR, at::IDTR].iter().all(|t| canonical(wide(t + 8)));
    if !good {
        return Err(Shutdown);
    }
    let s = &mut *sys.state;
    s.pdpte = [0; 4];
    if walk::uses_pdptes(new_cr0, new_cr4, efer) {
        s.pdpte = walk::read_pdptes(sys.mem.phys(), wide(at::CR3)).map_err(|_| Shutdown)?;
    }
    for (n, reg) in s.seg.iter_mut().enumerate() {
        *reg = map.segment(at::SEGMENTS + 16 * n);
    }
    s.ldtr = map.segment(at::LDTR);
    s.tr = map.segment(at::TR);
    for (offset, table) in [(at::GDTR, &mut s.gdtr), (at::IDTR, &mut s.idtr)] {
        table.limit = map.get(offset + 4, 2) as u16;
        table.base = wide(offset + 8);
    }
    (s.cr0, s.cr4, s.efer, s.cr3) = (new_cr0, new_cr4, efer, wide(at::CR3));
    s.dr[7] = wide(at::DR7) & super::control::dr7::WRITABLE | super::control::dr7::ONES;
    s.dr[6] = wide(at::DR6) & super::control::dr6::WRITABLE | super::control::dr6::ONES;
    s.rflags = wide(at::RFLAGS) & rflags::ALL | rflags::FIXED;
    if long {
        s.rflags &= !rflags::VM;
    }
    s.rip = wide(at::RIP);
    for n in 0..8 {
        s.gpr[n] = wide(at::RDI + 8 * (7 - n));
        s.gpr[8 + n] = wide(at::R15 + 8 * (7 - n));
    }
    s.smbase = map.get(at::SMBASE, 4) as u32;
    s.nmi_blocked = map.get(at::NMI_MASK, 1) & 1 != 0;
    s.run = if map.get(at::AUTO_HALT, 1) & 1 != 0 {
        RunState::Halted
    } else {
        RunState::Running
    };
    s.smm = false;
    s.shadow = false;
    Ok(())
}
