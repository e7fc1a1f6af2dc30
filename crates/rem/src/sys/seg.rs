//! Descriptors and segment registers (SDM vol. 3, chapters 3 and 5).

use cpu::{Exception, Fault, Seg, SegReg, Vector, attr};

use super::{As, Sys};

/// System descriptor types (SDM vol. 3, table 3-2).
pub(super) mod kind {
    pub const TSS16: u32 = 1;
    pub const LDT: u32 = 2;
    pub const TSS16_BUSY: u32 = 3;
    pub const CALL16: u32 = 4;
    pub const TASK_GATE: u32 = 5;
    pub const INT16: u32 = 6;
    pub const TRAP16: u32 = 7;
    pub const TSS32: u32 = 9;
    pub const TSS32_BUSY: u32 = 11;
    pub const CALL32: u32 = 12;
    pub const INT32: u32 = 14;
    pub const TRAP32: u32 = 15;
    /// Bit that tells a busy TSS from an available one.
    pub const BUSY: u32 = 2;
}

/// An exception with an error code.
pub(super) fn raise(vector: Vector, code: u32) -> Exception {
    Exception {
        vector,
        code,
        address: 0,
    }
}

/// A selector as it appears in error codes.
pub(super) fn code_of(selector: u16) -> u32 {
    u32::from(selector & !3)
}

/// A descriptor of a descriptor table. `high` is the upper half of 16-byte ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Descriptor {
    pub low: u64,
    pub high: u64,
    /// Linear address it was read from.
    pub at: u64,
}

impl Descriptor {
    pub fn base(&self) -> u64 {
        (self.low >> 16 & 0xff_ffff)
            | (self.low >> 56 & 0xff) << 24
            | (self.high & 0xffff_ffff) << 32
    }
    pub fn limit(&self) -> u32 {
        let limit = (self.low & 0xffff | self.low >> 32 & 0xf_0000) as u32;
        if self.attr() & attr::G != 0 {
            limit << 12 | 0xfff
        } else {
            limit
        }
    }
    /// Laid out as [`SegReg::attr`].
    pub fn attr(&self) -> u32 {
        (self.low >> 40) as u32 & 0xf0ff
    }
    pub fn has(&self, bits: u32) -> bool {
        self.attr() & bits == bits
    }
    pub fn dpl(&self) -> u8 {
        (self.low >> 45) as u8 & 3
    }
    pub fn present(&self) -> bool {
        self.has(attr::P)
    }
    /// Type of a system descriptor; `None` for code and data.
    pub fn system(&self) -> Option<u32> {
        if self.has(attr::S) {
            None
        } else {
            Some(self.attr() & attr::TYPE)
        }
    }
    pub fn is_code(&self) -> bool {
        self.has(attr::S | attr::CODE)
    }
    pub fn is_conforming(&self) -> bool {
        self.has(attr::S | attr::CODE | attr::DC)
    }
    pub fn is_writable_data(&self) -> bool {
        self.has(attr::S | attr::RW) && !self.has(attr::CODE)
    }
    /// Selector in a gate.
    pub fn gate_selector(&self) -> u16 {
        (self.low >> 16) as u16
    }
    /// Offset in a gate of 32 or 64 bits.
    pub fn gate_offset(&self) -> u64 {
        self.low & 0xffff | self.low >> 32 & 0xffff_0000 | self.high << 32
    }
    /// Parameter count of a call gate; the low three bits are the IST of a 64-bit gate.
    pub fn gate_count(&self) -> u32 {
        (self.low >> 32) as u32 & 0x1f
    }
    /// The segment register that results from loading it.
    pub fn load(&self, sel: u16) -> SegReg {
        SegReg {
            base: self.base(),
            limit: self.limit(),
            attr: self.attr(),
            sel,
        }
    }
}

/// A register that holds a null selector. `dpl` matters for SS, where it is the privilege level.
pub(super) fn null(sel: u16, dpl: u8) -> SegReg {
    SegReg {
        base: 0,
        limit: 0,
        attr: attr::UNUSABLE | u32::from(dpl) << attr::DPL_SHIFT,
        sel,
    }
}

/// What virtual-8086 mode loads for `sel`.
pub(super) fn v86(sel: u16) -> SegReg {
    let mut reg = SegReg::real(sel);
    reg.attr |= attr::DPL;
    reg
}

/// Reads the descriptor of a selector that is not null.
///
/// # Errors
/// `vector(selector)` when it lies outside of its table; #PF.
pub(super) fn fetch(sys: &mut Sys<'_>, sel: u16, vector: Vector) -> Fault<Descriptor> {
    read(sys, sel, 8, vector)
}

/// Like [`fetch`] for descriptors that long mode makes 16 bytes wide (LDT, TSS, call gates).
///
/// # Errors
/// As [`fetch`], and when the upper half is malformed.
pub(super) fn fetch_wide(sys: &mut Sys<'_>, sel: u16, vector: Vector) -> Fault<Descriptor> {
    if !sys.state.long_mode() {
        return read(sys, sel, 8, vector);
    }
    let d = read(sys, sel, 16, vector)?;
    if d.high >> 40 & 0x1f != 0 {
        return Err(raise(vector, code_of(sel)));
    }
    Ok(d)
}

fn read(sys: &mut Sys<'_>, sel: u16, size: u64, vector: Vector) -> Fault<Descriptor> {
    let index = u64::from(sel & !7);
    let (base, limit) = if sel & 4 == 0 {
        (sys.state.gdtr.base, u64::from(sys.state.gdtr.limit))
    } else {
        let ldtr = &sys.state.ldtr;
        if ldtr.has(attr::UNUSABLE) || !ldtr.has(attr::P) {
            return Err(raise(vector, code_of(sel)));
        }
        (ldtr.base, u64::from(ldtr.limit))
    };
    if index + size - 1 > limit {
        return Err(raise(vector, code_of(sel)));
    }
    let at = sys.wrap(base.wrapping_add(index));
    let low = sys.mem.read_u(at, 8, As::System)?;
    let high = if size == 16 {
        sys.mem.read_u(at.wrapping_add(8), 8, As::System)?
    } else {
        0
    };
    Ok(Descriptor { low, high, at })
}

/// Linear address and contents of the descriptor of a selector that is not null, and what a segment
/// register is that is loaded with it.
pub(crate) fn describe(sys: &mut Sys<'_>, sel: u16) -> Option<(u64, u64, SegReg)> {
    let d = fetch(sys, sel, Vector::Gp).ok()?;
    Some((d.at, d.low, d.load(sel)))
}

/// Sets the accessed bit of a code or data descriptor, in memory and in the copy.
pub(super) fn touch(sys: &mut Sys<'_>, d: &mut Descriptor) -> Fault {
    if d.has(attr::S) && !d.has(attr::ACCESSED) {
        d.low |= 1 << 40;
        let at = d.at.wrapping_add(5);
        sys.mem.write_u(at, 1, d.low >> 40 & 0xff, As::System)?;
    }
    Ok(())
}

/// MOV to or POP of a segment register other than CS, in every mode.
///
/// # Errors
/// #GP, #NP, #SS with the selector, #PF; the register is unchanged.
pub fn load_segment(sys: &mut Sys<'_>, seg: Seg, sel: u16) -> Fault {
    let reg = if sys.state.protected() {
        let cpl = sys.state.cpl();
        if seg == Seg::Ss {
            stack_segment(sys, sel, cpl, Vector::Gp)?
        } else {
            data_segment(sys, sel, cpl, Vector::Gp)?
        }
    } else if sys.v86() {
        v86(sel)
    } else {
        // Limit and attributes stay what they were: "unreal mode".
        SegReg {
            base: u64::from(sel) << 4,
            sel,
            ..sys.state.seg[seg as usize]
        }
    };
    sys.state.seg[seg as usize] = reg;
    Ok(())
}

/// Checks and reads a data segment's descriptor. `vector` is #GP, or #TS in a task switch.
pub(super) fn data_segment(sys: &mut Sys<'_>, sel: u16, cpl: u8, vector: Vector) -> Fault<SegReg> {
    if sel & !3 == 0 {
        return Ok(null(sel, 0));
    }
    let mut d = fetch(sys, sel, vector)?;
    let readable = d.has(attr::S) && (!d.has(attr::CODE) || d.has(attr::RW));
    let privileged = d.is_conforming() || (sel as u8 & 3 <= d.dpl() && cpl <= d.dpl());
    if !readable || !privileged {
        return Err(raise(vector, code_of(sel)));
    }
    if !d.present() {
        return Err(Exception::np(code_of(sel)));
    }
    touch(sys, &mut d)?;
    Ok(d.load(sel))
}

/// Checks and reads a stack segment's descriptor for privilege level `cpl`. `vector` is #GP for
/// loads and far returns, #TS for stacks from a TSS.
pub(super) fn stack_segment(sys: &mut Sys<'_>, sel: u16, cpl: u8, vector: Vector) -> Fault<SegReg> {
    if sel & !3 == 0 {
        // 64-bit code below level 3 may run with a null SS.
        if vector == Vector::Gp && sys.state.code64() && cpl != 3 && sel as u8 == cpl {
            return Ok(null(sel, cpl));
        }
        return Err(raise(vector, 0));
    }
    let mut d = fetch(sys, sel, vector)?;
    if sel as u8 & 3 != cpl || !d.is_writable_data() || d.dpl() != cpl {
        return Err(raise(vector, code_of(sel)));
    }
    if !d.present() {
        return Err(Exception::ss(code_of(sel)));
    }
    touch(sys, &mut d)?;
    Ok(d.load(sel))
}

/// Makes a checked code descriptor the current code segment at privilege level `cpl`. SS's DPL,
/// which is where the privilege level is kept, is the caller's.
pub(super) fn load_cs(sys: &mut Sys<'_>, sel: u16, d: &mut Descriptor, cpl: u8) -> Fault {
    touch(sys, d)?;
    sys.state.seg[Seg::Cs as usize] = d.load(sel & !3 | u16::from(cpl));
    Ok(())
}

/// Whether `offset` can be executed in a code segment with descriptor `d`.
pub(super) fn check_target(sys: &Sys<'_>, d: &Descriptor, offset: u64) -> Fault {
    let ok = if sys.state.long_mode() && d.has(attr::L) {
        super::operand::canonical(offset)
    } else {
        offset <= u64::from(d.limit())
    };
    if ok { Ok(()) } else { Err(Exception::gp(0)) }
}

/// L and D together are malformed in long mode.
pub(super) fn bad_size(sys: &Sys<'_>, d: &Descriptor) -> bool {
    sys.state.long_mode() && d.has(attr::L | attr::DB)
}

/// LLDT, and the LDT of a task switch. `vector` is #GP or #TS.
///
/// # Errors
/// `vector(selector)`, #NP, #PF.
pub fn load_ldt(sys: &mut Sys<'_>, sel: u16, vector: Vector) -> Fault {
    if sel & !3 == 0 {
        sys.state.ldtr = null(sel, 0);
        return Ok(());
    }
    if sel & 4 != 0 {
        return Err(raise(vector, code_of(sel)));
    }
    let d = fetch_wide(sys, sel, vector)?;
    if d.system() != Some(kind::LDT) {
        return Err(raise(vector, code_of(sel)));
    }
    if !d.present() {
        // In a task switch every fault of the LDT is #TS.
        let vector = if vector == Vector::Gp {
            Vector::Np
        } else {
            vector
        };
        return Err(raise(vector, code_of(sel)));
    }
    sys.state.ldtr = d.load(sel);
    Ok(())
}

/// LTR.
pub(super) fn load_tr(sys: &mut Sys<'_>, sel: u16) -> Fault {
    if sel & !3 == 0 {
        return Err(Exception::gp(0));
    }
    if sel & 4 != 0 {
        return Err(Exception::gp(code_of(sel)));
    }
    let mut d = fetch_wide(sys, sel, Vector::Gp)?;
    let long = sys.state.long_mode();
    match d.system() {
        Some(kind::TSS32) => {}
        Some(kind::TSS16) if !long => {}
        _ => return Err(Exception::gp(code_of(sel))),
    }
    if !d.present() {
        return Err(Exception::np(code_of(sel)));
    }
    set_busy(sys, &mut d, true)?;
    sys.state.tr = d.load(sel);
    Ok(())
}

/// Marks a TSS descriptor busy or available.
pub(super) fn set_busy(sys: &mut Sys<'_>, d: &mut Descriptor, busy: bool) -> Fault {
    let bit = u64::from(kind::BUSY) << 40;
    d.low = if busy { d.low | bit } else { d.low & !bit };
    let at = d.at.wrapping_add(5);
    sys.mem.write_u(at, 1, d.low >> 40 & 0xff, As::System)
}

/// After a return to an outer level: data segments that level may not use become null.
pub(super) fn drop_inner_segments(sys: &mut Sys<'_>, cpl: u8) {
    for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
        let reg = &mut sys.state.seg[seg as usize];
        let conforming = reg.has(attr::S | attr::CODE | attr::DC);
        if !reg.has(attr::UNUSABLE) && !conforming && reg.dpl() < cpl {
            *reg = null(0, 0);
        }
    }
}

impl Sys<'_> {
    /// Linear addresses outside of long mode have 32 bits.
    pub(super) fn wrap(&self, addr: u64) -> u64 {
        if self.state.long_mode() {
            addr
        } else {
            addr & 0xffff_ffff
        }
    }
}
