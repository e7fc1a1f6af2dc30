//! What both sides have at the same linear addresses, and the descriptors both have.

use cpu::{SegReg, attr};

/// What a page of the data area allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// Not mapped.
    None,
    /// Read and write, no execution.
    Rw,
    /// Read only, no execution.
    Ro,
}

/// Where the data area is. Every kind of page has every kind of neighbour somewhere.
pub const DATA: u64 = 0x1000_0000;
/// Its pages.
pub const PAGES: [Page; 7] = [
    Page::None,
    Page::Rw,
    Page::Rw,
    Page::Ro,
    Page::None,
    Page::Rw,
    Page::None,
];
/// Bytes of the data area, holes included.
pub const DATA_SIZE: usize = PAGES.len() * 4096;
/// Where code is: pages that may be read and executed; none follows them.
pub const CODE: u64 = 0x2000_0000;
/// Bytes of code.
pub const CODE_SIZE: usize = 0x3000;

/// A page of the host's harness. RSP of 16-bit stacks has its upper half: IRET does not write that.
pub const SPARE: u64 = 0x3000_0000;

/// Linux's selector of 64-bit code.
pub const CODE64: u16 = 0x33;
/// Linux's selector of flat 32-bit code.
pub const CODE32: u16 = 0x23;
/// Linux's selector of flat data.
pub const FLAT: u16 = 0x2b;

/// A descriptor of the local table, in the terms of `modify_ldt`.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    /// Base address.
    pub base: u32,
    /// Limit, in bytes or pages.
    pub limit: u32,
    /// 32-bit (B or D set).
    pub big: bool,
    /// Limit counts pages.
    pub pages: bool,
    /// 0 data, 1 expand-down data, 2 code.
    pub contents: u8,
    /// Read-only data, or execute-only code.
    pub restricted: bool,
    /// Not present.
    pub absent: bool,
}

const fn local(base: u64, limit: u32, contents: u8, big: bool) -> Local {
    Local {
        base: base as u32,
        limit,
        big,
        pages: false,
        contents,
        restricted: false,
        absent: false,
    }
}

/// The local descriptor table.
pub const LOCAL: [Local; 15] = [
    // Code: 16-bit, 32-bit with a limit inside the area, with a larger one, execute-only.
    local(CODE, 0xffff, 2, false),
    local(CODE, 0x2eff, 2, true),
    local(CODE, 0xffff, 2, true),
    Local {
        restricted: true,
        ..local(CODE, 0xffff, 2, false)
    },
    // Data that grows up.
    Local {
        pages: true,
        ..local(0, 0xf_ffff, 0, true)
    },
    local(DATA, 0x2fff, 0, false),
    Local {
        pages: true,
        ..local(DATA, 3, 0, true)
    },
    local(DATA, 0x6fff, 0, true),
    local(DATA + 0x800, 0xffff, 0, false),
    // Data that grows down.
    local(DATA, 0xfff, 1, false),
    local(DATA, 0x17ff, 1, true),
    Local {
        pages: true,
        ..local(DATA, 0, 1, true)
    },
    // Read-only, absent.
    Local {
        restricted: true,
        ..local(DATA, 0x6fff, 0, true)
    },
    Local {
        absent: true,
        ..local(DATA, 0x6fff, 0, true)
    },
    local(0, 0xffff, 0, false),
];
/// Index of the first data descriptor in [`LOCAL`].
pub const FIRST_DATA: usize = 4;

/// The selector of entry `i` of [`LOCAL`].
pub const fn selector(i: usize) -> u16 {
    (i as u16) << 3 | 7
}

impl Local {
    /// As the processor reads it.
    pub fn descriptor(&self) -> u64 {
        let writable = u64::from(!self.restricted) << 1;
        let kind = 1 | writable | u64::from(self.contents) << 2 | 0x10;
        descriptor(
            self.base,
            self.limit,
            kind | 3 << 5 | u64::from(!self.absent) << 7,
            u64::from(self.big) << 2 | u64::from(self.pages) << 3,
        )
    }
}

/// A descriptor from its fields: `access` is byte 5, `flags` the upper half of byte 6.
pub fn descriptor(base: u32, limit: u32, access: u64, flags: u64) -> u64 {
    let (base, limit) = (u64::from(base), u64::from(limit));
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24) << 56
}

/// Linux's global table as a process sees it (`limit15` is the limit of entry 15, the number of the
/// processor). Entries that privilege keeps out of reach have no more than their privilege right.
pub fn global(limit15: u32) -> [u64; 16] {
    let mut t = [0; 16];
    t[1] = descriptor(0, 0xf_ffff, 0x9b, 0xc);
    t[2] = descriptor(0, 0xf_ffff, 0x9b, 0xa);
    t[3] = descriptor(0, 0xf_ffff, 0x93, 0xc);
    t[4] = descriptor(0, 0xf_ffff, 0xfb, 0xc);
    t[5] = descriptor(0, 0xf_ffff, 0xf3, 0xc);
    t[6] = descriptor(0, 0xf_ffff, 0xfb, 0xa);
    t[15] = descriptor(0, limit15, 0xf5, 4);
    t
}

/// The cache of a segment register that loaded `descriptor`.
pub fn cache(sel: u16, descriptor: u64) -> SegReg {
    if sel & !3 == 0 {
        return SegReg {
            sel,
            attr: attr::UNUSABLE,
            ..SegReg::default()
        };
    }
    let raw = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    let attr = (descriptor >> 40 & 0xf0ff) as u32;
    SegReg {
        base: descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000,
        limit: if attr & attr::G != 0 {
            raw << 12 | 0xfff
        } else {
            raw
        },
        attr,
        sel,
    }
}

/// The descriptor `sel` names.
pub fn lookup(sel: u16) -> u64 {
    let i = usize::from(sel >> 3);
    match sel & 4 {
        0 => global(0).get(i).copied().unwrap_or(0),
        _ => LOCAL.get(i).map_or(0, Local::descriptor),
    }
}

/// Registers before a sequence.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Start {
    /// In encoding order.
    pub gpr: [u64; 16],
    /// RFLAGS.
    pub flags: u64,
    /// Offset in CS.
    pub rip: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub sel: [u64; 6],
    /// Base of FS where its selector is null.
    pub fs: u64,
    /// Base of GS where its selector is null.
    pub gs: u64,
    pad: [u64; 6],
    /// x87, SSE, AVX and AVX-512 state as the host's XSAVE lays it out.
    pub fpu: [u8; AREA],
}

/// Bytes of the host's save area, at most.
pub const AREA: usize = 2752;

/// Whether the host and the engine have AVX-512.
pub fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
}

/// Where the host's save area has the mask registers, the upper halves of ZMM0 to ZMM15, and ZMM16
/// to ZMM31 (SDM vol. 1, 13.5.6).
pub fn upper_parts() -> [std::ops::Range<usize>; 3] {
    [(5, 64), (6, 512), (7, 1024)].map(|(component, size)| {
        let at = std::arch::x86_64::__cpuid_count(0xd, component).ebx as usize;
        assert!(at + size <= AREA, "component {component} is at {at}");
        at..at + size
    })
}

impl Default for Start {
    fn default() -> Self {
        Self {
            gpr: [0; 16],
            flags: 2,
            rip: CODE,
            sel: [0, CODE64.into(), FLAT.into(), 0, 0, 0],
            fs: 0,
            gs: 0,
            pad: [0; 6],
            fpu: {
                let mut area = [0; AREA];
                area[..cpu::FPU_AREA].copy_from_slice(&cpu::Fpu::reset().0);
                area
            },
        }
    }
}

/// How a sequence ended: with an exception, always.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// Its vector.
    pub vector: u8,
    /// Its error code, 0 where it has none.
    pub error: u64,
    /// CR2 for page faults, otherwise 0.
    pub cr2: u64,
    /// Registers in encoding order.
    pub gpr: [u64; 16],
    /// RFLAGS as the exception stores it.
    pub flags: u64,
    /// RIP as the exception stores it.
    pub rip: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub sel: [u16; 6],
    /// Bases of FS and GS.
    pub base: [u64; 2],
    /// x87, SSE and AVX state.
    pub fpu: [u8; cpu::FPU_AREA],
    /// What AVX-512 adds: mask registers, upper halves of ZMM0 to ZMM15, ZMM16 to ZMM31.
    pub upper: Vec<u8>,
}
