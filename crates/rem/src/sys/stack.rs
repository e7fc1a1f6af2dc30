//! Stacks.

use cpu::{Exception, Fault, Seg, SegReg, attr};

use super::operand::{canonical, in_limit, mask, permits};
use super::{As, Sys};

/// A stack that is being pushed to or popped from. Nothing becomes visible in the stack pointer
/// before [`Stack::commit`], so a fault in the middle leaves the instruction restartable.
#[derive(Debug, Clone, Copy)]
pub struct Stack {
    seg: SegReg,
    /// Stack pointer, within `width`.
    pub sp: u64,
    /// Bytes of the stack pointer in use: 2, 4 or 8.
    width: usize,
    who: As,
    protected: bool,
    /// Error code of #SS.
    code: u32,
}

impl Stack {
    /// The stack in use.
    pub fn current(sys: &Sys<'_>) -> Self {
        let seg = sys.state.seg[Seg::Ss as usize];
        let width = if sys.state.code64() {
            8
        } else if seg.has(attr::DB) {
            4
        } else {
            2
        };
        Self {
            seg,
            sp: sys.state.gpr[4] & mask(width),
            width,
            who: As::Current,
            protected: sys.state.protected(),
            code: 0,
        }
    }

    /// The stack of privilege level `cpl` that a TSS or gate leads to. `long`: with 64-bit offsets
    /// and no segment. Faults carry the selector of a segment.
    pub(super) fn switched(seg: SegReg, sp: u64, long: bool, cpl: u8) -> Self {
        let width = if long {
            8
        } else if seg.has(attr::DB) {
            4
        } else {
            2
        };
        Self {
            seg,
            sp: sp & mask(width),
            width,
            who: if cpl == 3 { As::User } else { As::System },
            protected: true,
            code: if long {
                0
            } else {
                super::seg::code_of(seg.sel)
            },
        }
    }

    /// Makes later accesses those of a privilege level that is not in force yet.
    pub(super) fn at_level(mut self, cpl: u8) -> Self {
        self.who = if cpl == 3 { As::User } else { As::System };
        self
    }

    /// Bytes of the stack pointer that are in use.
    pub fn width(&self) -> usize {
        self.width
    }

    fn linear(&self, sp: u64, size: usize, write: bool) -> Fault<u64> {
        if self.width == 8 {
            if canonical(sp) && canonical(sp.wrapping_add(size as u64 - 1)) {
                return Ok(sp);
            }
        } else if (!self.protected || permits(&self.seg, write))
            && in_limit(&self.seg, sp, size as u64)
        {
            return Ok(self.seg.base.wrapping_add(sp) & 0xffff_ffff);
        }
        Err(Exception::ss(self.code))
    }

    /// Stacks of inner levels are not checked for alignment.
    fn need_aligned(&self, sys: &Sys<'_>, at: u64, size: usize) -> Fault {
        match self.who {
            As::Current => sys.need_aligned(at, size),
            _ => Ok(()),
        }
    }

    /// Pushes the low `size` bytes of `value`.
    ///
    /// # Errors
    /// #SS, #PF.
    pub fn push(&mut self, sys: &mut Sys<'_>, size: usize, value: u64) -> Fault {
        self.push_part(sys, size, size, value)
    }

    /// Moves the stack pointer by `size` but writes only `written` bytes: 32-bit pushes of
    /// segment registers leave the upper half of the slot alone.
    ///
    /// # Errors
    /// #SS, #PF.
    pub fn push_part(
        &mut self,
        sys: &mut Sys<'_>,
        size: usize,
        written: usize,
        value: u64,
    ) -> Fault {
        let sp = self.sp.wrapping_sub(size as u64) & mask(self.width);
        let at = self.linear(sp, written, true)?;
        self.need_aligned(sys, at, size)?;
        sys.mem.write_u(at, written, value, self.who)?;
        self.sp = sp;
        Ok(())
    }

    /// Pops `size` bytes.
    ///
    /// # Errors
    /// #SS, #PF.
    pub fn pop(&mut self, sys: &mut Sys<'_>, size: usize) -> Fault<u64> {
        let at = self.linear(self.sp, size, false)?;
        self.need_aligned(sys, at, size)?;
        let value = sys.mem.read_u(at, size, self.who)?;
        self.skip(size as u64);
        Ok(value)
    }

    /// Reads `size` bytes at `offset` above the stack pointer.
    ///
    /// # Errors
    /// #SS, #PF.
    pub fn peek(&self, sys: &mut Sys<'_>, offset: u64, size: usize) -> Fault<u64> {
        let at = self.linear(self.sp.wrapping_add(offset) & mask(self.width), size, false)?;
        sys.mem.read_u(at, size, self.who)
    }

    /// Checks that `size` bytes at the stack pointer could be written.
    ///
    /// # Errors
    /// #SS, #PF.
    pub fn probe(&self, sys: &mut Sys<'_>, size: usize) -> Fault {
        let at = self.linear(self.sp, size, true)?;
        sys.mem.probe_write(at, size, self.who)
    }

    /// Releases `bytes`.
    pub fn skip(&mut self, bytes: u64) {
        self.sp = self.sp.wrapping_add(bytes) & mask(self.width);
    }

    /// Makes it the stack pointer. The segment register is the caller's.
    pub fn commit(&self, sys: &mut Sys<'_>) {
        sys.set_gpr(4, self.width, self.sp);
    }
}
