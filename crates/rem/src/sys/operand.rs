//! Registers and memory operands of decoded instructions.

use cpu::bits::cr0;
use cpu::{Exception, Fault, Seg, SegReg, attr};
use iced_x86::{Instruction, OpKind, Register};

use super::{As, Sys};

/// Whether `addr` is canonical for 4-level paging.
pub(crate) fn canonical(addr: u64) -> bool {
    ((addr << 16) as i64 >> 16) as u64 == addr
}

/// Mask of the low `size` (1, 2, 4, 8) bytes.
pub(super) fn mask(size: usize) -> u64 {
    if size >= 8 {
        u64::MAX
    } else {
        (1 << (8 * size)) - 1
    }
}

/// The segment register an iced register names.
pub(super) fn seg_of(r: Register) -> Seg {
    match r {
        Register::ES => Seg::Es,
        Register::CS => Seg::Cs,
        Register::SS => Seg::Ss,
        Register::FS => Seg::Fs,
        Register::GS => Seg::Gs,
        _ => Seg::Ds,
    }
}

/// Whether `size` bytes at `offset` lie within the limit of `seg`.
pub(super) fn in_limit(seg: &SegReg, offset: u64, size: u64) -> bool {
    let Some(last) = offset.checked_add(size.max(1) - 1) else {
        return false;
    };
    if seg.attr & (attr::CODE | attr::DC) == attr::DC && seg.has(attr::S) {
        let top = if seg.has(attr::DB) {
            0xffff_ffff
        } else {
            0xffff
        };
        offset > u64::from(seg.limit) && last <= top
    } else {
        last <= u64::from(seg.limit)
    }
}

/// Whether the segment's type permits the access (protected mode).
pub(super) fn permits(seg: &SegReg, write: bool) -> bool {
    if seg.has(attr::UNUSABLE) {
        false
    } else if seg.has(attr::CODE) {
        !write && seg.has(attr::RW)
    } else {
        !write || seg.has(attr::RW)
    }
}

/// Linear address of operand `op` (memory), checked for an access of `size` bytes.
///
/// # Errors
/// #GP(0) or #SS(0).
pub fn linear(
    sys: &mut Sys<'_>,
    insn: &Instruction,
    op: u32,
    size: usize,
    write: bool,
) -> Fault<u64> {
    let (seg, offset) = sys.effective(insn, op);
    sys.linear_at(seg, offset, size, write)
}

impl Sys<'_> {
    /// Value of a general-purpose, segment, control or debug register, zero extended.
    pub(super) fn get(&self, r: Register) -> u64 {
        if r.is_segment_register() {
            return u64::from(self.state.seg[seg_of(r) as usize].sel);
        }
        if !r.is_gpr() {
            return 0;
        }
        let value = self.state.gpr[r.full_register().number() & 15];
        if is_high(r) {
            value >> 8 & 0xff
        } else {
            value & mask(r.size())
        }
    }

    /// Sets a general-purpose register as an instruction does: 32-bit writes clear the upper
    /// half, smaller ones keep the rest.
    pub(super) fn set(&mut self, r: Register, value: u64) {
        if !r.is_gpr() {
            return;
        }
        let reg = &mut self.state.gpr[r.full_register().number() & 15];
        *reg = if is_high(r) {
            *reg & !0xff00 | (value & 0xff) << 8
        } else {
            match r.size() {
                1 => *reg & !0xff | value & 0xff,
                2 => *reg & !0xffff | value & 0xffff,
                4 => value & 0xffff_ffff,
                _ => value,
            }
        };
    }

    /// Low `size` bytes of general-purpose register `index`.
    pub(super) fn gpr(&self, index: usize, size: usize) -> u64 {
        self.state.gpr[index] & mask(size)
    }

    /// Writes the low `size` bytes of general-purpose register `index`, as instructions do.
    pub(super) fn set_gpr(&mut self, index: usize, size: usize, value: u64) {
        let reg = &mut self.state.gpr[index];
        *reg = match size {
            1 | 2 => *reg & !mask(size) | value & mask(size),
            _ => value & mask(size),
        };
    }

    /// Address of the instruction after `insn`.
    pub(super) fn next_rip(&self, insn: &Instruction) -> u64 {
        let next = self.state.rip.wrapping_add(insn.len() as u64);
        if self.state.code64() {
            next
        } else {
            next & 0xffff_ffff
        }
    }

    /// Segment and offset of memory operand `op`.
    pub(super) fn effective(&self, insn: &Instruction, op: u32) -> (Seg, u64) {
        let seg = self.segment(insn);
        match insn.op_kind(op) {
            OpKind::MemorySegSI => (seg, self.gpr(6, 2)),
            OpKind::MemorySegESI => (seg, self.gpr(6, 4)),
            OpKind::MemorySegRSI => (seg, self.gpr(6, 8)),
            OpKind::MemorySegDI => (seg, self.gpr(7, 2)),
            OpKind::MemorySegEDI => (seg, self.gpr(7, 4)),
            OpKind::MemorySegRDI => (seg, self.gpr(7, 8)),
            OpKind::MemoryESDI => (Seg::Es, self.gpr(7, 2)),
            OpKind::MemoryESEDI => (Seg::Es, self.gpr(7, 4)),
            OpKind::MemoryESRDI => (Seg::Es, self.gpr(7, 8)),
            _ => (seg, self.effective_offset(insn)),
        }
    }

    /// Segment of the memory operand that a prefix may change. 64-bit mode does not look at
    /// prefixes of the four segments that have no base there (SDM vol. 2, 2.1.1), not even to tell
    /// #SS from #GP.
    pub(crate) fn segment(&self, insn: &Instruction) -> Seg {
        match seg_of(insn.memory_segment()) {
            seg @ (Seg::Fs | Seg::Gs) => seg,
            seg if !self.state.code64() => seg,
            _ => match insn.memory_base().full_register() {
                Register::RSP | Register::RBP => Seg::Ss,
                _ => Seg::Ds,
            },
        }
    }

    fn effective_offset(&self, insn: &Instruction) -> u64 {
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let mut offset = insn.memory_displacement64();
        let size = if base != Register::None {
            base.size()
        } else if index != Register::None {
            index.size()
        } else {
            (insn.memory_displ_size() as usize).max(2)
        };
        if insn.is_ip_rel_memory_operand() {
            // The decoder may have been told another address than the one we run at.
            offset = offset
                .wrapping_sub(insn.next_ip())
                .wrapping_add(self.next_rip(insn));
        } else {
            offset = offset.wrapping_add(self.get(base));
        }
        let scaled = self
            .get(index)
            .wrapping_mul(u64::from(insn.memory_index_scale()));
        offset.wrapping_add(scaled) & mask(size)
    }

    /// Checks an access of `size` bytes at `offset` in `seg` and gives its linear address.
    pub(crate) fn linear_at(&self, seg: Seg, offset: u64, size: usize, write: bool) -> Fault<u64> {
        self.linear_in(&self.state.seg[seg as usize], seg, offset, size, write)
    }

    /// [`Sys::linear_at`] for a segment that need not be loaded.
    pub(super) fn linear_in(
        &self,
        reg: &SegReg,
        seg: Seg,
        offset: u64,
        size: usize,
        write: bool,
    ) -> Fault<u64> {
        let size = size as u64;
        let ok = if self.state.code64() {
            let base = if matches!(seg, Seg::Fs | Seg::Gs) {
                reg.base
            } else {
                0
            };
            let first = base.wrapping_add(offset);
            if canonical(first) && canonical(first.wrapping_add(size.max(1) - 1)) {
                return Ok(first);
            }
            false
        } else if self.state.protected() {
            permits(reg, write) && in_limit(reg, offset, size)
        } else {
            in_limit(reg, offset, size)
        };
        if ok {
            Ok(reg.base.wrapping_add(offset) & 0xffff_ffff)
        } else if seg == Seg::Ss {
            Err(Exception::ss(0))
        } else {
            Err(Exception::gp(0))
        }
    }

    /// Reads `size` (1, 2, 4, 8) bytes of a register or memory operand.
    pub(super) fn read_op(&mut self, insn: &Instruction, op: u32, size: usize) -> Fault<u64> {
        if insn.op_kind(op) == OpKind::Register {
            return Ok(self.get(insn.op_register(op)) & mask(size));
        }
        let addr = linear(self, insn, op, size, false)?;
        self.need_aligned(addr, size)?;
        self.mem.read_u(addr, size, As::Current)
    }

    /// Writes `size` bytes of a memory operand, or a register operand as wide as it is.
    pub(super) fn write_op(
        &mut self,
        insn: &Instruction,
        op: u32,
        size: usize,
        value: u64,
    ) -> Fault {
        if insn.op_kind(op) == OpKind::Register {
            self.set(insn.op_register(op), value);
            return Ok(());
        }
        let addr = linear(self, insn, op, size, true)?;
        self.need_aligned(addr, size)?;
        self.mem.write_u(addr, size, value, As::Current)
    }

    /// #AC for an access of `size` bytes that ought to be aligned and is not.
    pub(super) fn need_aligned(&self, addr: u64, size: usize) -> Fault {
        if self.state.rflags & cpu::bits::rflags::AC != 0
            && self.state.checks_alignment()
            && !addr.is_multiple_of(size as u64)
        {
            return Err(Exception::new(cpu::Vector::Ac));
        }
        Ok(())
    }

    /// #GP(0) unless the privilege level is 0.
    pub(super) fn need_cpl0(&self) -> Fault {
        if self.state.cpl() == 0 {
            Ok(())
        } else {
            Err(Exception::gp(0))
        }
    }

    /// #UD in real and virtual-8086 mode.
    pub(super) fn need_protected(&self) -> Fault {
        if self.state.protected() {
            Ok(())
        } else {
            Err(Exception::ud())
        }
    }

    /// Virtual-8086 mode.
    pub(super) fn v86(&self) -> bool {
        self.state.cr0 & cr0::PE != 0 && self.state.rflags & cpu::bits::rflags::VM != 0
    }

    /// I/O privilege level.
    pub(super) fn iopl(&self) -> u8 {
        (self.state.rflags >> 12 & 3) as u8
    }
}

fn is_high(r: Register) -> bool {
    matches!(r, Register::AH | Register::CH | Register::DH | Register::BH)
}
