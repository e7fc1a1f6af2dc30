//! Which instructions may be generated.

use iced_x86::{Code, CpuidFeature as F, EncodingKind, Instruction, Mnemonic as M};

/// The sets both sides have: those of the engine, where this host has them.
fn set(f: F) -> bool {
    macro_rules! host {
        ($name:tt) => {
            std::arch::is_x86_feature_detected!($name)
        };
    }
    match f {
        F::INTEL8086
        | F::INTEL8086_ONLY
        | F::INTEL186
        | F::INTEL286
        | F::INTEL286_ONLY
        | F::INTEL386
        | F::INTEL386_ONLY
        | F::INTEL486
        | F::X64
        | F::CMOV
        | F::CX8
        | F::MMX
        | F::SSE
        | F::SSE2
        | F::FPU
        | F::FPU287
        | F::FPU387
        | F::FXSR
        | F::CLFSH
        | F::PAUSE
        | F::MULTIBYTENOP
        | F::PREFETCHW
        | F::CET_IBT => true,
        F::CLFLUSHOPT | F::CLWB => true,
        F::CMPXCHG16B => host!("cmpxchg16b"),
        F::SSE3 => host!("sse3"),
        F::SSSE3 => host!("ssse3"),
        F::SSE4_1 => host!("sse4.1"),
        F::SSE4_2 => host!("sse4.2"),
        F::SSE4A => host!("sse4a"),
        F::AES => host!("aes"),
        F::PCLMULQDQ => host!("pclmulqdq"),
        F::AVX => host!("avx"),
        F::AVX2 => host!("avx2"),
        F::FMA => host!("fma"),
        F::F16C => host!("f16c"),
        F::GFNI => host!("gfni"),
        F::VAES => host!("vaes"),
        F::VPCLMULQDQ => host!("vpclmulqdq"),
        F::BMI1 => host!("bmi1"),
        F::BMI2 => host!("bmi2"),
        F::LZCNT => host!("lzcnt"),
        F::POPCNT => host!("popcnt"),
        F::MOVBE => host!("movbe"),
        F::ADX => host!("adx"),
        F::SHA => host!("sha"),
        F::AVX512F => crate::layout::has_avx512(),
        F::AVX512VL => host!("avx512vl"),
        F::AVX512BW => host!("avx512bw"),
        F::AVX512DQ => host!("avx512dq"),
        F::AVX512CD => host!("avx512cd"),
        F::AVX512_IFMA => host!("avx512ifma"),
        F::AVX512_VBMI => host!("avx512vbmi"),
        F::AVX512_VBMI2 => host!("avx512vbmi2"),
        F::AVX512_VNNI => host!("avx512vnni"),
        F::AVX512_BITALG => host!("avx512bitalg"),
        F::AVX512_VPOPCNTDQ => host!("avx512vpopcntdq"),
        // The harness needs them itself.
        F::FSGSBASE => true,
        _ => false,
    }
}

/// Whether both sides can be expected to do the same with `code`.
pub fn allowed(code: Code) -> bool {
    let op = code.op_code();
    let known = [EncodingKind::Legacy, EncodingKind::VEX, EncodingKind::EVEX];
    if !op.is_instruction() || !known.contains(&op.encoding()) {
        return false;
    }
    // Forms that no processor of today has (and some of them only the 386).
    if !code.cpuid_features().iter().all(|f| set(*f)) {
        return false;
    }
    let vendors = format!("{code:?}");
    // AMD's and Intel's processors differ: width of the offset with REX.W, what is read before
    // privileges are checked, bytes that a push of a segment register writes, room for no-ops.
    if vendors.contains("m1664")
        || vendors.starts_with("Retf") && vendors.contains("imm16")
        || vendors.contains("0F0D")
        || vendors.starts_with("Movsxd_r16")
        // Two bytes of 0x0F: an escape for all but the 8086.
        || code == Code::Popw_CS
    {
        return false;
    }
    !matches!(
        code.mnemonic(),
        // The host's kernel answers.
        M::Syscall
            | M::Sysenter
            | M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Smsw
            | M::Str
            // Different for each machine or time.
            | M::Cpuid
            | M::Rdtsc
            | M::Rdtscp
            | M::Rdpmc
            | M::Rdpid
            | M::Rdrand
            | M::Rdseed
            | M::Xgetbv
            // Images that hold addresses of the last x87 instruction, or states the guest lacks.
            | M::Xsave
            | M::Xsave64
            | M::Xsavec
            | M::Xsavec64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xrstor
            | M::Xrstor64
            | M::Fxsave
            | M::Fxsave64
            | M::Fnsave
            | M::Fsave
            | M::Fnstenv
            | M::Fstenv
            | M::Fldenv
            | M::Frstor
            | M::Fxrstor
            | M::Fxrstor64
            // Change what the harness stands on, or end up in a hypervisor.
            | M::Vmcall
            | M::Vmmcall
            | M::Monitor
            | M::Mwait
            | M::Int1
            // Valid outside of 64-bit mode on AMD's only.
            | M::Sysret
            // With or without an operand.
            | M::Ud0
            // Bits 16 to 19 of the result.
            | M::Lar
            // Which part of EBP a 16-bit stack gives.
            | M::Enter
            // Would wait for the x87 unit's own exceptions from before.
            | M::Hlt
            | M::Rsm
    )
}

/// Whether a decoded instruction may run on the host.
pub fn harmless(insn: &Instruction) -> bool {
    if insn.is_invalid() || !allowed(insn.code()) {
        return false;
    }
    // Linux's system call of 32-bit code.
    insn.mnemonic() != M::Int || insn.immediate8() != 0x80
}

/// Whether `code` has no x87, MMX or vector operands.
pub fn general(code: Code) -> bool {
    code.encoding() == EncodingKind::Legacy
        && !code.cpuid_features().iter().any(|f| {
            matches!(
                f,
                F::FPU
                    | F::FPU287
                    | F::FPU387
                    | F::MMX
                    | F::SSE
                    | F::SSE2
                    | F::SSE3
                    | F::SSSE3
                    | F::SSE4_1
                    | F::SSE4_2
                    | F::SSE4A
                    | F::AES
                    | F::SHA
                    | F::GFNI
            )
        })
}

/// Whether `code` is of AVX-512: EVEX, or on mask registers.
pub fn is_avx512(code: Code) -> bool {
    code.encoding() == EncodingKind::EVEX
        || code
            .cpuid_features()
            .iter()
            .any(|f| matches!(f, F::AVX512F | F::AVX512BW | F::AVX512DQ))
}

/// Codes for `bits`-bit code.
pub fn codes(bits: u32) -> Vec<Code> {
    Code::values()
        .filter(|c| {
            let op = c.op_code();
            allowed(*c)
                && match bits {
                    16 => op.mode16(),
                    32 => op.mode32(),
                    _ => op.mode64(),
                }
        })
        .collect()
}
