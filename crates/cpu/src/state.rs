//! The architectural state of one vCPU.

use crate::bits::{cr0, efer, rflags};

/// Segment registers in encoding order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs)] // the names are the manual's
pub enum Seg {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
}

impl Seg {
    /// All six, in encoding order.
    pub const ALL: [Seg; 6] = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs];
}

/// Bits of [`SegReg::attr`]: the second descriptor word's bits 8 to 23, shifted to bit 0
/// (type, S, DPL, P, limit 16-19 as zero, AVL, L, D/B, G), plus `UNUSABLE`.
#[allow(missing_docs)]
pub mod attr {
    pub const TYPE: u32 = 0xf;
    /// Accessed (code and data).
    pub const ACCESSED: u32 = 1 << 0;
    /// Writable (data) or readable (code).
    pub const RW: u32 = 1 << 1;
    /// Expand-down (data) or conforming (code).
    pub const DC: u32 = 1 << 2;
    /// Code segment.
    pub const CODE: u32 = 1 << 3;
    /// Code or data (not a system descriptor).
    pub const S: u32 = 1 << 4;
    pub const DPL_SHIFT: u32 = 5;
    pub const DPL: u32 = 3 << 5;
    pub const P: u32 = 1 << 7;
    pub const AVL: u32 = 1 << 12;
    pub const L: u32 = 1 << 13;
    pub const DB: u32 = 1 << 14;
    pub const G: u32 = 1 << 15;
    /// Null selector loaded: any access through the register faults (64-bit mode excepted).
    pub const UNUSABLE: u32 = 1 << 16;
}

/// A segment register, LDTR or TR with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SegReg {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes (granularity already applied): the last valid offset for expand-up.
    pub limit: u32,
    /// See [`attr`].
    pub attr: u32,
    /// Visible selector.
    pub sel: u16,
}

impl SegReg {
    /// What real mode and virtual-8086 mode load for `sel` (data, writable, 64 KiB).
    pub fn real(sel: u16) -> Self {
        Self {
            base: u64::from(sel) << 4,
            limit: 0xffff,
            attr: attr::P | attr::S | attr::RW | attr::ACCESSED,
            sel,
        }
    }
    /// Descriptor privilege level.
    pub fn dpl(&self) -> u8 {
        ((self.attr & attr::DPL) >> attr::DPL_SHIFT) as u8
    }
    /// Whether all of `bits` are set in the attributes.
    pub fn has(&self, bits: u32) -> bool {
        self.attr & bits == bits
    }
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct DescTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// Bytes of the FPU area: legacy 512, header 64, AVX upper halves 256.
pub const FPU_AREA: usize = 832;

/// x87, MMX, SSE and AVX registers in the standard XSAVE layout (SDM vol. 1, 13.4), bits x87, SSE
/// and AVX. The header's XSTATE_BV is always 7.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Fpu(pub [u8; FPU_AREA]);

impl Fpu {
    /// FNINIT state, MXCSR 0x1F80, registers zero.
    pub fn reset() -> Self {
        let mut area = [0; FPU_AREA];
        area[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
        area[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        area[512] = 7;
        Self(area)
    }
}

/// What AVX-512 adds to the registers in [`Fpu`], laid out as in the XSAVE area (SDM vol. 1,
/// 13.5.7).
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Upper {
    /// K0 to K7.
    pub opmask: [u8; 64],
    /// Upper halves of ZMM0 to ZMM15.
    pub high: [u8; 512],
    /// ZMM16 to ZMM31.
    pub more: [u8; 1024],
    /// Nonzero while any of them may be in use; otherwise all are zero.
    pub live: u32,
}

impl Upper {
    /// All zero, not in use.
    pub fn reset() -> Self {
        Self {
            opmask: [0; 64],
            high: [0; 512],
            more: [0; 1024],
            live: 0,
        }
    }

    /// Components that are in use: XCR0 bits 5 to 7.
    pub fn in_use(&self) -> u64 {
        if self.live == 0 {
            return 0;
        }
        let used = |b: &[u8]| b.iter().any(|b| *b != 0);
        u64::from(used(&self.opmask)) << 5
            | u64::from(used(&self.high)) << 6
            | u64::from(used(&self.more)) << 7
    }
}

/// Whether a vCPU executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RunState {
    /// Executes instructions.
    Running = 0,
    /// HLT: waits for an interrupt, NMI, SMI or INIT.
    Halted = 1,
    /// After INIT on an application processor: waits for a start-up IPI.
    WaitForSipi = 2,
    /// Triple fault: waits for reset.
    Shutdown = 3,
}

/// Everything one vCPU has. Plain data.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct State {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8 to R15.
    pub gpr: [u64; 16],
    /// Offset of the next instruction in CS.
    pub rip: u64,
    /// RFLAGS, bit 1 set.
    pub rflags: u64,
    /// Segment registers, indexed by [`Seg`].
    pub seg: [SegReg; 6],
    /// Local descriptor table register.
    pub ldtr: SegReg,
    /// Task register.
    pub tr: SegReg,
    /// Global descriptor table register.
    pub gdtr: DescTable,
    /// Interrupt descriptor table register.
    pub idtr: DescTable,
    /// Control registers. CR8 lives in the local APIC.
    pub cr0: u64,
    /// Page-fault linear address.
    pub cr2: u64,
    /// Page-table base (and PCID).
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended control register 0.
    pub xcr0: u64,
    /// Debug registers 0 to 7 (4 and 5 unused).
    pub dr: [u64; 8],
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub sfmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_DEBUGCTL.
    pub debugctl: u64,
    /// IA32_SPEC_CTRL.
    pub spec_ctrl: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// Guest TSC minus the machine's TSC ([`crate::Bus::tsc`]).
    pub tsc_offset: u64,
    /// IA32_MTRR_DEF_TYPE.
    pub mtrr_def: u64,
    /// Fixed-range MTRRs: 64K, 16K (2), 4K (8).
    pub mtrr_fixed: [u64; 11],
    /// Variable-range MTRRs: base, mask.
    pub mtrr_var: [[u64; 2]; 8],
    /// PDPTE registers of PAE paging outside long mode, loaded with CR3.
    pub pdpte: [u64; 4],
    /// Whether the vCPU executes.
    pub run: RunState,
    /// Interrupts are held off for one instruction (STI, MOV SS, POP SS).
    pub shadow: bool,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
    /// In system management mode.
    pub smm: bool,
    /// SMBASE.
    pub smbase: u32,
    /// Floating-point and vector registers.
    pub fpu: Fpu,
    /// What AVX-512 adds to them.
    pub upper: Upper,
}

impl State {
    /// State after RESET# (SDM vol. 3, table 9-1). Processor 0 runs from F000:FFF0, others wait
    /// for a start-up IPI.
    pub fn reset(index: usize) -> Self {
        let mut state = Self {
            gpr: [0; 16],
            rip: 0xfff0,
            rflags: rflags::FIXED,
            seg: [SegReg::real(0); 6],
            ldtr: SegReg {
                attr: attr::P | 2,
                limit: 0xffff,
                ..SegReg::default()
            },
            tr: SegReg {
                attr: attr::P | 11,
                limit: 0xffff,
                ..SegReg::default()
            },
            gdtr: DescTable {
                base: 0,
                limit: 0xffff,
            },
            idtr: DescTable {
                base: 0,
                limit: 0xffff,
            },
            cr0: cr0::ET | cr0::NW | cr0::CD,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            xcr0: 1,
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            efer: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            pat: 0x0007_0406_0007_0406,
            misc_enable: 1,
            debugctl: 0,
            spec_ctrl: 0,
            tsc_aux: 0,
            tsc_adjust: 0,
            tsc_offset: 0,
            mtrr_def: 0,
            mtrr_fixed: [0; 11],
            mtrr_var: [[0; 2]; 8],
            pdpte: [0; 4],
            run: if index == 0 {
                RunState::Running
            } else {
                RunState::WaitForSipi
            },
            shadow: false,
            nmi_blocked: false,
            smm: false,
            smbase: 0x30000,
            fpu: Fpu::reset(),
            upper: Upper::reset(),
        };
        state.seg[Seg::Cs as usize] = SegReg {
            base: 0xffff_0000,
            limit: 0xffff,
            attr: attr::P | attr::S | attr::CODE | attr::RW | attr::ACCESSED,
            sel: 0xf000,
        };
        // RDX holds family, model and stepping at reset.
        state.gpr[2] = 0x600;
        state
    }

    /// INIT: like reset, but keeps FPU, MSRs, TSC, CR0's cache bits and SMBASE (SDM table 9-1).
    pub fn init(&mut self, index: usize) {
        let old = self.clone();
        *self = Self::reset(index);
        self.cr0 = cr0::ET | old.cr0 & (cr0::CD | cr0::NW);
        self.fpu = old.fpu;
        self.upper = old.upper;
        self.xcr0 = old.xcr0;
        self.pat = old.pat;
        self.misc_enable = old.misc_enable;
        self.star = old.star;
        self.lstar = old.lstar;
        self.cstar = old.cstar;
        self.sfmask = old.sfmask;
        self.kernel_gs_base = old.kernel_gs_base;
        self.sysenter_cs = old.sysenter_cs;
        self.sysenter_esp = old.sysenter_esp;
        self.sysenter_eip = old.sysenter_eip;
        self.spec_ctrl = old.spec_ctrl;
        self.tsc_aux = old.tsc_aux;
        self.tsc_adjust = old.tsc_adjust;
        self.tsc_offset = old.tsc_offset;
        self.mtrr_def = old.mtrr_def;
        self.mtrr_fixed = old.mtrr_fixed;
        self.mtrr_var = old.mtrr_var;
        self.smbase = old.smbase;
    }

    /// Start-up IPI: real mode at `vector << 12` (SDM vol. 3, 9.4.4). Only acts when waiting.
    pub fn sipi(&mut self, vector: u8) {
        if self.run == RunState::WaitForSipi {
            let cs = &mut self.seg[Seg::Cs as usize];
            cs.sel = u16::from(vector) << 8;
            cs.base = u64::from(vector) << 12;
            self.rip = 0;
            self.run = RunState::Running;
        }
    }

    /// Current privilege level.
    pub fn cpl(&self) -> u8 {
        if self.cr0 & cr0::PE == 0 {
            0
        } else if self.rflags & rflags::VM != 0 {
            3
        } else {
            self.seg[Seg::Ss as usize].dpl()
        }
    }

    /// Accesses that are not aligned raise #AC (SDM vol. 3, 6.15, interrupt 17).
    pub fn checks_alignment(&self) -> bool {
        self.rflags & rflags::AC != 0 && self.cr0 & cr0::AM != 0 && self.cpl() == 3
    }

    /// Protected mode outside virtual-8086.
    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0 && self.rflags & rflags::VM == 0
    }

    /// Long mode is active (64-bit or compatibility).
    pub fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// 64-bit mode.
    pub fn code64(&self) -> bool {
        self.long_mode() && self.seg[Seg::Cs as usize].has(attr::L)
    }
}
