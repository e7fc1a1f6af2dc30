//! Which instructions the guest's processor has.
//!
//! An instruction of a set that CPUID does not show raises #UD even where the host has it. What
//! CPUID shows and the host lacks raises #UD by itself.

use cpu::Bus;
use iced_x86::{Code, CpuidFeature as F, DecoderOptions, Instruction};

/// Whether the host has what the engine needs for AVX-512.
pub fn host_has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
}

/// The instruction sets of one vCPU.
pub struct Features {
    words: Words,
    hidden: Vec<bool>,
    options: u32,
    bmi: bool,
    lzcnt: bool,
}

/// Feature words of CPUID.
#[derive(PartialEq, Eq)]
struct Words {
    /// CPUID says nothing: everything is there.
    open: bool,
    vendor: u32,
    leaf1: [u32; 4],
    leaf7: [u32; 4],
    xsave: [u32; 4],
    extended: [u32; 4],
}

impl Features {
    /// As CPUID of vCPU `cpu` tells them.
    pub fn of(bus: &dyn Bus, cpu: usize) -> Self {
        let words = Words::of(bus, cpu);
        let hidden = Code::values()
            .map(|c| !c.cpuid_features().iter().all(|f| words.shows(*f)))
            .collect();
        let amd = [*b"Auth", *b"Hygo"].map(u32::from_le_bytes);
        Self {
            hidden,
            options: if amd.contains(&words.vendor) {
                DecoderOptions::AMD
            } else {
                DecoderOptions::NONE
            },
            bmi: words.shows(F::BMI1),
            lzcnt: words.shows(F::LZCNT),
            words,
        }
    }

    /// Whether CPUID still says what it said.
    pub fn still(&self, bus: &dyn Bus, cpu: usize) -> bool {
        self.words == Words::of(bus, cpu)
    }

    /// Options for the decoder: vendors differ in what prefixes do to branches.
    pub fn options(&self) -> u32 {
        self.options
    }

    /// Whether the guest's processor does not know `insn`.
    pub fn hides(&self, insn: &Instruction) -> bool {
        self.hidden[insn.code() as usize]
    }

    /// Makes TZCNT and LZCNT what processors without them take them for: BSF and BSR, with a
    /// prefix that is ignored.
    pub fn adjust(&self, insn: &mut Instruction) {
        let code = match insn.code() {
            Code::Tzcnt_r16_rm16 if !self.bmi => Code::Bsf_r16_rm16,
            Code::Tzcnt_r32_rm32 if !self.bmi => Code::Bsf_r32_rm32,
            Code::Tzcnt_r64_rm64 if !self.bmi => Code::Bsf_r64_rm64,
            Code::Lzcnt_r16_rm16 if !self.lzcnt => Code::Bsr_r16_rm16,
            Code::Lzcnt_r32_rm32 if !self.lzcnt => Code::Bsr_r32_rm32,
            Code::Lzcnt_r64_rm64 if !self.lzcnt => Code::Bsr_r64_rm64,
            _ => return,
        };
        insn.set_code(code);
    }
}

impl Words {
    fn of(bus: &dyn Bus, cpu: usize) -> Self {
        let zero = bus.cpuid(cpu, 0, 0);
        Self {
            open: zero == [0; 4],
            vendor: zero[1],
            leaf1: bus.cpuid(cpu, 1, 0),
            leaf7: bus.cpuid(cpu, 7, 0),
            xsave: bus.cpuid(cpu, 0xd, 1),
            extended: bus.cpuid(cpu, 0x8000_0001, 0),
        }
    }

    /// Whether the guest is shown `f`. Sets that the engine does not know are never shown.
    fn shows(&self, f: F) -> bool {
        let one = |word: usize, bit: u32| self.open || self.leaf1[word] >> bit & 1 != 0;
        let seven = |word: usize, bit: u32| self.open || self.leaf7[word] >> bit & 1 != 0;
        let more = |word: usize, bit: u32| self.open || self.extended[word] >> bit & 1 != 0;
        // Multi-byte NOPs came with the Pentium Pro, as CMOV did.
        let p6 = one(3, 15);
        match f {
            F::INTEL8086
            | F::INTEL8086_ONLY
            | F::INTEL186
            | F::INTEL286
            | F::INTEL286_ONLY
            | F::INTEL386
            | F::INTEL386_ONLY
            | F::INTEL486
            | F::CPUID
            | F::PAUSE
            | F::UDBG => true,
            // Their own code looks at CPUID, EFER or the mode.
            F::MONITOR | F::SMM | F::SYSCALL | F::X64 | F::RDTSCP => true,
            F::FPU | F::FPU287 | F::FPU287XL_ONLY | F::FPU387 | F::FPU387SL_ONLY => one(3, 0),
            F::TSC => one(3, 4),
            F::MSR => one(3, 5),
            F::CX8 => one(3, 8),
            F::SEP => one(3, 11),
            F::CMOV => one(3, 15),
            F::MULTIBYTENOP | F::PREFETCHITI | F::CET_IBT | F::CLDEMOTE | F::RDPMC => p6,
            F::CLFSH => one(3, 19),
            F::MMX => one(3, 23),
            F::FXSR => one(3, 24),
            F::SSE => one(3, 25),
            F::SSE2 => one(3, 26),
            F::SSE3 => one(2, 0),
            F::PCLMULQDQ => one(2, 1),
            F::SSSE3 => one(2, 9),
            F::FMA => one(2, 12),
            F::CMPXCHG16B => one(2, 13),
            F::SSE4_1 => one(2, 19),
            F::SSE4_2 => one(2, 20),
            F::MOVBE => one(2, 22),
            F::POPCNT => one(2, 23),
            F::AES => one(2, 25),
            F::XSAVE => one(2, 26),
            F::XSAVEOPT => self.open || self.xsave[0] & 1 != 0,
            F::AVX => one(2, 28),
            F::F16C => one(2, 29),
            F::RDRAND => one(2, 30),
            F::FSGSBASE => seven(1, 0),
            F::BMI1 => seven(1, 3),
            F::AVX2 => seven(1, 5),
            F::BMI2 => seven(1, 8),
            F::INVPCID => seven(1, 10),
            F::RDSEED => seven(1, 18),
            F::ADX => seven(1, 19),
            F::SMAP => seven(1, 20),
            F::CLFLUSHOPT => seven(1, 23),
            F::CLWB => seven(1, 24),
            F::SHA => seven(1, 29),
            // The engine keeps the registers with instructions of F and BW.
            F::AVX512F | F::AVX512BW => seven(1, 16) && seven(1, 30) && host_has_avx512(),
            F::AVX512DQ => seven(1, 17),
            F::AVX512_IFMA => seven(1, 21),
            F::AVX512CD => seven(1, 28),
            F::AVX512VL => seven(1, 31),
            F::AVX512_VBMI => seven(2, 1),
            F::AVX512_VBMI2 => seven(2, 6),
            F::AVX512_VNNI => seven(2, 11),
            F::AVX512_BITALG => seven(2, 12),
            F::AVX512_VPOPCNTDQ => seven(2, 14),
            F::GFNI => seven(2, 8),
            F::VAES => seven(2, 9),
            F::VPCLMULQDQ => seven(2, 10),
            F::LZCNT => more(2, 5),
            F::SSE4A => more(2, 6),
            F::PREFETCHW | F::PREFETCHWT1 => more(2, 8) || p6,
            _ => false,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use iced_x86::Decoder;

    /// Leaves 0 and 1.
    pub struct Cpuid(pub [u32; 4], pub [u32; 4]);

    impl Bus for Cpuid {
        fn port_read(&self, _: usize, _: u16, _: u8) -> u32 {
            0
        }
        fn port_write(&self, _: usize, _: u16, _: u8, _: u32) {}
        fn port_read_string(&self, _: usize, _: u16, _: u8, _: &mut [u8]) {}
        fn port_write_string(&self, _: usize, _: u16, _: u8, _: &[u8]) {}
        fn interrupt_pending(&self, _: usize) -> bool {
            false
        }
        fn interrupt_acknowledge(&self, _: usize) -> Option<u8> {
            None
        }
        fn cr8(&self, _: usize) -> u8 {
            0
        }
        fn set_cr8(&self, _: usize, _: u8) {}
        fn apic_msr_read(&self, _: usize, _: u32) -> Option<u64> {
            None
        }
        fn apic_msr_write(&self, _: usize, _: u32, _: u64) -> bool {
            false
        }
        fn tsc(&self) -> u64 {
            0
        }
        fn tsc_delta(&self) -> Option<u64> {
            None
        }
        fn cpuid(&self, _: usize, leaf: u32, _: u32) -> [u32; 4] {
            match leaf {
                0 => self.0,
                1 => self.1,
                _ => [0; 4],
            }
        }
        fn ferr(&self, _: usize) {}
        fn signals(&self, _: usize) -> &std::sync::Arc<cpu::Signals> {
            static NONE: std::sync::OnceLock<std::sync::Arc<cpu::Signals>> =
                std::sync::OnceLock::new();
            NONE.get_or_init(std::sync::Arc::default)
        }
    }

    fn decode(code: &[u8], options: u32) -> Instruction {
        Decoder::new(64, code, options).decode()
    }

    #[test]
    fn sets_that_cpuid_does_not_show_are_hidden() {
        let f = Features::of(&Cpuid([1, 0, 0, 0], [0, 0, 0, 1]), 0);
        // fld1; bswap eax; cpuid
        for code in [&[0xd9, 0xe8][..], &[0x0f, 0xc8], &[0x0f, 0xa2]] {
            assert!(!f.hides(&decode(code, 0)), "{code:x?}");
        }
        // addps; rdtsc; cmovb; nop [rax]; vaddps; popcnt
        for code in [
            &[0x0f, 0x58, 0xc1][..],
            &[0x0f, 0x31],
            &[0x0f, 0x42, 0xc1],
            &[0x0f, 0x1f, 0],
            &[0xc5, 0xf8, 0x58, 0xc1],
            &[0xf3, 0x0f, 0xb8, 0xc1],
        ] {
            assert!(f.hides(&decode(code, 0)), "{code:x?}");
        }
        let mut tzcnt = decode(&[0xf3, 0x0f, 0xbc, 0xc1], 0);
        f.adjust(&mut tzcnt);
        assert_eq!(tzcnt.code(), Code::Bsf_r32_rm32);
        assert!(!f.hides(&tzcnt));
    }

    #[test]
    fn a_processor_that_says_nothing_hides_nothing_known() {
        let f = Features::of(&Cpuid([0; 4], [0; 4]), 0);
        assert!(!f.hides(&decode(&[0xc5, 0xf8, 0x58, 0xc1], 0)));
        assert!(!f.hides(&decode(&[0xf3, 0x0f, 0xbc, 0xc1], 0)));
        // vmcall, monitorx
        assert!(f.hides(&decode(&[0x0f, 0x01, 0xc1], 0)));
        assert!(f.hides(&decode(&[0x0f, 0x01, 0xfa], 0)));
    }

    #[test]
    fn branches_of_16_bits_in_64_bit_code_are_amds() {
        let amd = Features::of(&Cpuid([1, u32::from_le_bytes(*b"Auth"), 0, 0], [0; 4]), 0);
        let code = [0x66, 0xe9, 0, 0, 0, 0];
        assert_eq!(decode(&code, amd.options()).len(), 4);
        let intel = Features::of(&Cpuid([1, 0, 0, 0], [0; 4]), 0);
        assert_eq!(decode(&code, intel.options()).len(), 6);
    }
}
