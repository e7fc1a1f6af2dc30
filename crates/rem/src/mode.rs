//! The mode key: everything but the code's bytes that a translation depends on.

use cpu::bits::{cr0, cr4, rflags};
use cpu::{Seg, State, attr};

use crate::ctx::Class;

/// Mode of a translation. Two states with equal modes run the same translations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mode {
    bits: u32,
    /// Base of CS (0 in 64-bit mode).
    pub cs_base: u64,
    /// Limit of CS (all ones in 64-bit mode).
    pub cs_limit: u64,
}

const CODE32: u32 = 1 << 0;
const CODE64: u32 = 1 << 1;
const STACK32: u32 = 1 << 2;
const CLASS: u32 = 3;
const FLAT: u32 = 5; // four bits: ES CS SS DS
const TS: u32 = 1 << 9;
const EM: u32 = 1 << 10;
const MP: u32 = 1 << 11;
const OSFXSR: u32 = 1 << 12;
const AVX: u32 = 1 << 13;
const ONE: u32 = 1 << 14;
const DEBUG: u32 = 1 << 15;
const ALIGN: u32 = 1 << 16;
const AVX512: u32 = 1 << 17;
const UPPER: u32 = 1 << 18;
const RING0: u32 = 1 << 20;
const PLAIN_REAL: u32 = 1 << 21;
const WINDOW: u32 = 1 << 22;

impl Mode {
    /// The table for indirect jumps of this mode, which has number `id`. Modes that alternate all
    /// the time in a 64-bit system have one each, since a table that changes hands is emptied.
    pub fn jc_table(&self, id: u32) -> usize {
        let class = (self.bits >> CLASS & 3) as usize % 3;
        match self.bits & (CODE64 | CODE32) {
            0 => 9 + id as usize % 2,
            CODE32 => 6 + class,
            _ => class + if self.upper() { 3 } else { 0 },
        }
    }

    /// The same mode with another privilege class of accesses.
    pub fn with_class(self, class: Class) -> Self {
        Self {
            bits: self.bits & !(3 << CLASS) | (class as u32) << CLASS,
            ..self
        }
    }

    /// The mode `state` is in. `has_avx`: the guest may see AVX at all.
    pub fn of(state: &State) -> Self {
        let mut bits = 0;
        let cs = &state.seg[Seg::Cs as usize];
        let code64 = state.code64();
        if code64 {
            bits |= CODE64;
        } else {
            bits |= if cs.has(attr::DB) && state.protected() {
                CODE32
            } else {
                0
            };
            bits |= if state.seg[Seg::Ss as usize].has(attr::DB) {
                STACK32
            } else {
                0
            };
            for seg in [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds] {
                if flat(state, seg) {
                    bits |= 1 << (FLAT + seg as u32);
                }
            }
        }
        let class = if state.cpl() == 3 {
            Class::User
        } else if state.cr4 & cr4::SMAP != 0 && state.rflags & rflags::AC != 0 {
            Class::KernelOpen
        } else {
            Class::Kernel
        };
        bits |= (class as u32) << CLASS;
        for (on, bit) in [
            (state.cr0 & cr0::TS != 0, TS),
            (state.cr0 & cr0::EM != 0, EM),
            (state.cr0 & cr0::MP != 0, MP),
            (state.cr4 & cr4::OSFXSR != 0, OSFXSR),
            (state.cr4 & cr4::OSXSAVE != 0 && state.xcr0 & 6 == 6, AVX),
            (state.rflags & rflags::TF != 0, ONE),
            (
                state.cr4 & cr4::OSXSAVE != 0 && state.xcr0 & 0xe6 == 0xe6,
                AVX512,
            ),
            (state.upper.live != 0, UPPER),
            (watches_code(state.dr[7]), DEBUG),
            (state.checks_alignment(), ALIGN),
            (state.cpl() == 0, RING0),
            (plain_real(state), PLAIN_REAL),
        ] {
            bits |= if on { bit } else { 0 };
        }
        let (cs_base, cs_limit) = if code64 {
            (0, u64::MAX)
        } else {
            (cs.base, u64::from(cs.limit))
        };
        Self {
            bits,
            cs_base,
            cs_limit,
        }
    }

    /// The same mode with blocks of one instruction.
    pub fn single(self) -> Self {
        Self {
            bits: self.bits | ONE,
            ..self
        }
    }

    /// The current privilege level is 3.
    pub fn user(&self) -> bool {
        self.class() == Class::User
    }

    /// Whether the code may use a window: user code with flat segments of full size, and nothing
    /// that has to be looked at in each access.
    pub fn may_window(&self) -> bool {
        let flat = [0, 2, 3].into_iter().all(|seg| self.flat(seg));
        let wide = self.code64() || self.bitness() == 32 && self.stack_bytes() == 4;
        self.class() == Class::User && flat && wide && !self.aligned() && !self.debug()
    }

    /// The same mode with memory accesses through the window.
    pub fn windowed(self) -> Self {
        Self {
            bits: self.bits | WINDOW,
            ..self
        }
    }

    /// Whether `state` is in this mode, but for what is added to a state's.
    pub fn is_of(&self, state: &State) -> bool {
        let bits = self.bits & !WINDOW;
        Self { bits, ..*self } == Self::of(state)
    }

    /// Memory accesses go through the window.
    pub fn window(&self) -> bool {
        self.bits & WINDOW != 0
    }

    /// Decoder bitness: 16, 32 or 64.
    pub fn bitness(&self) -> u32 {
        match self.bits & (CODE64 | CODE32) {
            0 => 16,
            CODE32 => 32,
            _ => 64,
        }
    }

    /// 64-bit code.
    pub fn code64(&self) -> bool {
        self.bits & CODE64 != 0
    }

    /// Bytes of the stack pointer: 2, 4 or 8.
    pub fn stack_bytes(&self) -> usize {
        match (self.code64(), self.bits & STACK32 != 0) {
            (true, _) => 8,
            (false, true) => 4,
            (false, false) => 2,
        }
    }

    /// Privilege class of accesses.
    pub fn class(&self) -> Class {
        match self.bits >> CLASS & 3 {
            0 => Class::Kernel,
            1 => Class::KernelOpen,
            _ => Class::User,
        }
    }

    /// Whether `seg` (by encoding number) covers all of linear memory from 0, readable and, but for
    /// CS, writable.
    pub fn flat(&self, seg: usize) -> bool {
        if self.code64() {
            seg < 4
        } else {
            seg < 4 && self.bits >> (FLAT as usize + seg) & 1 != 0
        }
    }

    /// Blocks hold one instruction (single-step or interrupt shadow).
    pub fn one(&self) -> bool {
        self.bits & ONE != 0
    }

    /// There are breakpoints on code.
    pub fn debug(&self) -> bool {
        self.bits & DEBUG != 0
    }

    /// Accesses must be aligned (#AC).
    pub fn aligned(&self) -> bool {
        self.bits & ALIGN != 0
    }

    /// The current privilege level is 0.
    pub fn ring0(&self) -> bool {
        self.bits & RING0 != 0
    }

    /// Real mode, with data segments that can be read and written: loading one changes its selector
    /// and base only.
    pub fn plain_real(&self) -> bool {
        self.bits & PLAIN_REAL != 0
    }

    /// CR0.TS.
    pub fn ts(&self) -> bool {
        self.bits & TS != 0
    }

    /// CR0.EM.
    pub fn em(&self) -> bool {
        self.bits & EM != 0
    }

    /// WAIT raises #NM.
    pub fn wait_traps(&self) -> bool {
        self.ts() && self.bits & MP != 0
    }

    /// CR4.OSFXSR.
    pub fn osfxsr(&self) -> bool {
        self.bits & OSFXSR != 0
    }

    /// CR4.OSXSAVE and XCR0 allow AVX.
    pub fn avx(&self) -> bool {
        self.bits & AVX != 0
    }

    /// CR4.OSXSAVE and XCR0 allow AVX-512.
    pub fn avx512(&self) -> bool {
        self.bits & AVX512 != 0
    }

    /// Registers of AVX-512 are in use, and with that in the host's.
    pub fn upper(&self) -> bool {
        self.bits & UPPER != 0
    }

    /// Mask of the instruction pointer.
    pub fn ip_mask(&self) -> u64 {
        match self.bitness() {
            16 => 0xffff,
            32 => 0xffff_ffff,
            _ => u64::MAX,
        }
    }

    /// Whether a transfer of control may go to offset `rip`: the one that would is refused
    /// otherwise (SDM vol. 2, JMP, CALL, RET).
    pub fn can_reach(&self, rip: u64) -> bool {
        rip <= self.cs_limit && (!self.code64() || crate::sys::canonical(rip))
    }

    /// Linear address of offset `rip`.
    pub fn linear(&self, rip: u64) -> u64 {
        if self.code64() {
            rip
        } else {
            self.cs_base.wrapping_add(rip) & 0xffff_ffff
        }
    }
}

/// Whether DR7 enables a breakpoint on execution.
fn watches_code(dr7: u64) -> bool {
    dr7 & 0xff != 0 && (0..4).any(|n| matches!(crate::debug::control(dr7, n), (true, 0, _)))
}

fn flat(state: &State, seg: Seg) -> bool {
    let s = &state.seg[seg as usize];
    let code = s.has(attr::CODE);
    let allowed = if code {
        s.has(attr::RW) && seg == Seg::Cs
    } else {
        s.has(attr::RW)
    };
    s.base == 0
        && s.limit == u32::MAX
        && s.has(attr::P | attr::S)
        && allowed
        && !s.has(attr::UNUSABLE)
        && (code || !s.has(attr::DC))
}

fn plain_real(state: &State) -> bool {
    let plain = |seg: Seg| {
        let s = &state.seg[seg as usize];
        s.has(attr::P | attr::S | attr::RW) && !s.has(attr::UNUSABLE) && !s.has(attr::CODE)
    };
    !state.protected() && [Seg::Ds, Seg::Es, Seg::Fs, Seg::Gs].into_iter().all(plain)
}

/// Fast limits of `seg`: last valid offset for reads and for writes, -1 for "ask".
pub fn fast_limits(state: &State, seg: usize) -> (i64, i64) {
    let s = &state.seg[seg];
    let code = s.has(attr::CODE);
    let usable = s.has(attr::P | attr::S) && !s.has(attr::UNUSABLE);
    let expand_down = !code && s.has(attr::DC);
    if !usable || expand_down {
        return (-1, -1);
    }
    let limit = i64::from(s.limit);
    let real = !state.protected();
    let read = if code && !s.has(attr::RW) && !real {
        -1
    } else {
        limit
    };
    let write = if real || (!code && s.has(attr::RW)) {
        limit
    } else {
        -1
    };
    (read, write)
}
