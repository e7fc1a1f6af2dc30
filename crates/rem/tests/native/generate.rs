//! Random instruction sequences that do not fault.

use iced_x86::{
    Code, CpuidFeature as F, Encoder, Instruction, MemoryOperand, OpCodeOperandKind as K, Register,
};

use crate::host::{DATA, DATA_SIZE};

/// SplitMix64: small, seedable, good enough.
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// Values that find bugs more often than uniform ones.
    pub fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(256),
            1 => self.below(256).wrapping_neg(),
            2 => 1 << self.below(64),
            3 => (1u64 << self.below(64)).wrapping_sub(1),
            _ => self.next(),
        }
    }
}

/// Codes that may be generated: plain data instructions of the sets both sides have.
pub fn codes() -> Vec<Code> {
    Code::values().filter(|c| usable(*c)).collect()
}

fn usable(code: Code) -> bool {
    use iced_x86::Mnemonic as M;
    let op = code.op_code();
    if !op.is_instruction() || !op.mode64() || op.is_vex_or_worse_hidden() {
        return false;
    }
    let sets = code.cpuid_features().iter().all(|f| {
        matches!(
            f,
            F::INTEL8086
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL486
                | F::X64
                | F::CMOV
                | F::CX8
                | F::CMPXCHG16B
                | F::SSE
                | F::SSE2
                | F::SSE3
                | F::SSSE3
                | F::SSE4_1
                | F::SSE4_2
                | F::AES
                | F::PCLMULQDQ
                | F::AVX
                | F::AVX2
                | F::FMA
                | F::F16C
                | F::GFNI
                | F::VAES
                | F::VPCLMULQDQ
                | F::BMI1
                | F::BMI2
                | F::LZCNT
                | F::POPCNT
                | F::MOVBE
                | F::ADX
                | F::MMX
                | F::SHA
                | F::FPU
        )
    });
    if !sets || op.is_privileged() || op.is_string_like() {
        return false;
    }
    // Stack, control flow, system, faulting or non-deterministic ones have tests of their own.
    !matches!(
        code.mnemonic(),
        M::Jmp | M::Call | M::Ret | M::Retf | M::Iret | M::Iretd | M::Iretq | M::Int | M::Int1 | M::Int3
            | M::Into | M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz | M::Hlt
            | M::Push | M::Pop | M::Pushf | M::Pushfq | M::Popf | M::Popfq | M::Enter | M::Leave
            | M::Div | M::Idiv | M::Xlatb | M::In | M::Out | M::Cli | M::Sti | M::Std | M::Cld
            | M::Lar | M::Lsl | M::Verr | M::Verw | M::Sldt | M::Str | M::Smsw | M::Sgdt | M::Sidt
            | M::Lgdt | M::Lidt | M::Lldt | M::Ltr | M::Lmsw | M::Clts | M::Invlpg | M::Invd
            | M::Wbinvd | M::Ud0 | M::Ud1 | M::Ud2 | M::Lfs | M::Lgs | M::Lss | M::Cpuid | M::Rdtsc
            | M::Syscall | M::Sysret | M::Sysenter | M::Sysexit | M::Swapgs | M::Rsm | M::Rdmsr
            | M::Wrmsr | M::Rdpmc | M::Ldmxcsr | M::Vldmxcsr | M::Maskmovq | M::Maskmovdqu
            | M::Vmaskmovdqu | M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq
            | M::Fldcw | M::Fldenv | M::Frstor | M::Fxrstor | M::Fxrstor64 | M::Fxsave | M::Fxsave64
            | M::Fnstenv | M::Fstenv | M::Fnsave | M::Fsave | M::Xbegin | M::Xabort | M::Wait
            | M::Mov if !plain_mov(code)
    ) && !code.is_jcc_short_or_near()
        && !op.is_vsib()
}

fn plain_mov(code: Code) -> bool {
    if code.mnemonic() != iced_x86::Mnemonic::Mov {
        return false;
    }
    let op = code.op_code();
    (0..op.op_count()).all(|i| {
        !matches!(
            op.op_kind(i),
            K::seg_reg | K::cr_reg | K::dr_reg | K::tr_reg | K::mem_offs
        )
    })
}

trait Extra {
    fn is_vex_or_worse_hidden(&self) -> bool;
    fn is_string_like(&self) -> bool;
    fn is_vsib(&self) -> bool;
}

impl Extra for iced_x86::OpCodeInfo {
    fn is_vex_or_worse_hidden(&self) -> bool {
        use iced_x86::EncodingKind as E;
        !matches!(self.encoding(), E::Legacy | E::VEX)
    }
    fn is_string_like(&self) -> bool {
        (0..self.op_count()).any(|i| {
            matches!(
                self.op_kind(i),
                K::seg_rBX_al
                    | K::seg_rSI
                    | K::es_rDI
                    | K::seg_rDI
                    | K::br16_1
                    | K::br32_1
                    | K::br64_1
                    | K::br16_2
                    | K::br32_4
                    | K::br64_4
                    | K::farbr2_2
                    | K::farbr4_2
                    | K::mem_offs
                    | K::seg_reg
                    | K::cr_reg
                    | K::dr_reg
                    | K::tr_reg
                    | K::xbegin_2
                    | K::xbegin_4
            )
        })
    }
    fn is_vsib(&self) -> bool {
        (0..self.op_count()).any(|i| {
            matches!(
                self.op_kind(i),
                K::mem_vsib32x
                    | K::mem_vsib64x
                    | K::mem_vsib32y
                    | K::mem_vsib64y
                    | K::mem_vsib32z
                    | K::mem_vsib64z
                    | K::mem_mib
                    | K::sibmem
            )
        })
    }
}

fn gpr(rng: &mut Rng, size: usize) -> Register {
    // Not the stack pointer: sequences use it as such.
    let n = loop {
        let n = rng.below(16) as usize;
        if n != 4 {
            break n;
        }
    };
    let r8 = [
        Register::AL,
        Register::CL,
        Register::DL,
        Register::BL,
        Register::SPL,
        Register::BPL,
        Register::SIL,
        Register::DIL,
        Register::R8L,
        Register::R9L,
        Register::R10L,
        Register::R11L,
        Register::R12L,
        Register::R13L,
        Register::R14L,
        Register::R15L,
    ];
    match size {
        1 if rng.below(6) == 0 => [Register::AH, Register::CH, Register::DH, Register::BH][n & 3],
        1 => r8[n],
        2 => Register::AX + n as u32,
        4 => Register::EAX + n as u32,
        _ => Register::RAX + n as u32,
    }
}

/// One instruction of `code` with random operands, preceded by what makes its memory operand
/// valid. `None` when this draw cannot be encoded.
pub fn instruction(rng: &mut Rng, code: Code) -> Option<Vec<u8>> {
    let op = code.op_code();
    let mut insn = Instruction::default();
    insn.set_code(code);
    let mut setup: Vec<Instruction> = Vec::new();
    let mut memory: Option<MemoryOperand> = None;
    for i in 0..op.op_count() {
        let kind = op.op_kind(i);
        let use_memory = rng.below(2) == 0;
        let reg = match kind {
            K::r8_reg | K::r8_opcode => gpr(rng, 1),
            K::r16_reg | K::r16_opcode | K::r16_rm => gpr(rng, 2),
            K::r32_reg | K::r32_opcode | K::r32_rm | K::r32_vvvv => gpr(rng, 4),
            K::r64_reg | K::r64_opcode | K::r64_rm | K::r64_vvvv => gpr(rng, 8),
            K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 | K::xmm_is5 => {
                Register::XMM0 + rng.below(16) as u32
            }
            K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 | K::ymm_is5 => {
                Register::YMM0 + rng.below(16) as u32
            }
            K::mm_reg | K::mm_rm => Register::MM0 + rng.below(8) as u32,
            K::st0 => Register::ST0,
            K::sti_opcode => Register::ST0 + rng.below(8) as u32,
            K::al => Register::AL,
            K::cl => Register::CL,
            K::ax => Register::AX,
            K::dx => Register::DX,
            K::eax => Register::EAX,
            K::rax => Register::RAX,
            K::r8_or_mem if !use_memory => gpr(rng, 1),
            K::r16_or_mem if !use_memory => gpr(rng, 2),
            K::r32_or_mem if !use_memory => gpr(rng, 4),
            K::r64_or_mem if !use_memory => gpr(rng, 8),
            K::xmm_or_mem if !use_memory => Register::XMM0 + rng.below(16) as u32,
            K::ymm_or_mem if !use_memory => Register::YMM0 + rng.below(16) as u32,
            K::mm_or_mem if !use_memory => Register::MM0 + rng.below(8) as u32,
            K::mem
            | K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
            | K::mm_or_mem => {
                memory = Some(operand(rng, code, &mut setup)?);
                insn.set_op_kind(i, iced_x86::OpKind::Memory);
                continue;
            }
            K::imm8 | K::imm4_m2z => {
                insn.set_op_kind(i, iced_x86::OpKind::Immediate8);
                insn.set_immediate8(if kind == K::imm8 {
                    rng.value() as u8
                } else {
                    rng.below(16) as u8
                });
                continue;
            }
            K::imm8_const_1 => {
                insn.set_op_kind(i, iced_x86::OpKind::Immediate8);
                insn.set_immediate8(1);
                continue;
            }
            K::imm8sex16 => {
                insn.set_op_kind(i, iced_x86::OpKind::Immediate8to16);
                insn.set_immediate8to16(i16::from(rng.value() as i8));
                continue;
            }
            K::imm8sex32 => {
                insn.set_op_kind(i, iced_x86::OpKind::Immediate8to32);
                insn.set_immediate8to32(i32::from(rng.value() as i8));
                continue;
            }
            K::imm8sex64 => {
                insn.set_op_kind(i, iced_x86::OpKind::Immediate8to64);
                insn.set_immediate8to64(i64::from(rng.value() as i8));
                continue;
            }
            K::imm16 => {
                insn.set_op_kind(i, iced_x86::OpKind::Immediate16);
                insn.set_immediate16(rng.value() as u16);
                continue;
            }
            K::imm32 => {
                insn.set_op_kind(i, iced_x86::OpKind::Immediate32);
                insn.set_immediate32(rng.value() as u32);
                continue;
            }
            K::imm32sex64 => {
                insn.set_op_kind(i, iced_x86::OpKind::Immediate32to64);
                insn.set_immediate32to64(i64::from(rng.value() as i32));
                continue;
            }
            K::imm64 => {
                insn.set_op_kind(i, iced_x86::OpKind::Immediate64);
                insn.set_immediate64(rng.value());
                continue;
            }
            _ => return None,
        };
        insn.set_op_kind(i, iced_x86::OpKind::Register);
        insn.set_op_register(i, reg);
    }
    if let Some(m) = memory {
        insn.set_memory_base(m.base);
        insn.set_memory_index(m.index);
        insn.set_memory_index_scale(m.scale);
        insn.set_memory_displacement64(m.displacement as u64);
        insn.set_memory_displ_size(m.displ_size);
        if op.can_use_lock_prefix()
            && rng.below(3) == 0
            && insn.op0_kind() == iced_x86::OpKind::Memory
        {
            insn.set_has_lock_prefix(true);
        }
    }
    let mut bytes = Vec::new();
    for i in setup.iter().chain([&insn]) {
        let mut e = Encoder::new(64);
        e.encode(i, 0x2000_0000).ok()?;
        bytes.extend(e.take_buffer());
    }
    Some(bytes)
}

/// A memory operand inside the data buffer, by registers that `setup` loads.
fn operand(rng: &mut Rng, code: Code, setup: &mut Vec<Instruction>) -> Option<MemoryOperand> {
    let base = gpr(rng, 8);
    let scale = 1 << rng.below(4);
    let index = if rng.below(2) == 0 {
        Register::None
    } else {
        gpr(rng, 8)
    };
    if index == base {
        return None;
    }
    // Bit-string instructions reach up to 4 KiB around with a 16-bit offset: see the caller.
    let name = format!("{code:?}");
    if name.starts_with("Bt") && !name.contains("imm") {
        return None;
    }
    // Aligned often (SSE wants it), at a page's edge sometimes, anywhere else otherwise.
    let at = match rng.below(4) {
        0 => 0x1000 * (1 + rng.below(2)) - rng.below(40),
        1 => 64 + rng.below(DATA_SIZE as u64 - 1024),
        _ => (64 + rng.below(DATA_SIZE as u64 - 1024)) & !63,
    };
    let needs_alignment = {
        let mut probe = Instruction::default();
        probe.set_code(code);
        let legacy = code.encoding() == iced_x86::EncodingKind::Legacy;
        legacy
            && code
                .op_code()
                .op_kinds()
                .iter()
                .any(|k| matches!(k, K::xmm_or_mem | K::xmm_reg))
            || name.starts_with("VEX_Vmov")
                && (name.contains("ntd")
                    || name.contains("ntp")
                    || name.contains("aps")
                    || name.contains("apd")
                    || name.contains("dqa"))
            || name.starts_with("VEX_Vmovnt")
            || name.starts_with("Cmpxchg16b")
    };
    let at = if needs_alignment { at & !63 } else { at } + DATA;
    let displ = rng.value() as i32 as i64 >> rng.below(24);
    let scaled = if index == Register::None {
        0
    } else {
        rng.below(1 << 20)
    };
    let start = at
        .wrapping_sub(displ as u64)
        .wrapping_sub(scaled.wrapping_mul(scale));
    setup.push(Instruction::with2(Code::Mov_r64_imm64, base, start).ok()?);
    if index != Register::None {
        setup.push(Instruction::with2(Code::Mov_r64_imm64, index, scaled).ok()?);
    }
    Some(MemoryOperand::new(
        base,
        index,
        scale as u32,
        displ,
        8,
        false,
        Register::None,
    ))
}
