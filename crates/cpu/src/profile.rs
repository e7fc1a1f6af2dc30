//! Processors a guest can be shown instead of the host's, and the feature bits of CPUID.

/// The words of CPUID that hold feature bits: leaf and register (EBX 1, ECX 2, EDX 3).
pub const FEATURE_WORDS: [(u32, usize); 7] = [
    (1, 2),
    (1, 3),
    (7, 1),
    (7, 2),
    (7, 3),
    (0x8000_0001, 2),
    (0x8000_0001, 3),
];

/// A processor model: what CPUID tells about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Name in settings.
    pub name: &'static str,
    /// Longer name for lists.
    pub title: &'static str,
    /// Vendor string.
    pub vendor: &'static [u8; 12],
    /// Family, model and stepping: EAX of leaf 1.
    pub signature: u32,
    /// Last basic leaf.
    pub last_basic: u32,
    /// Last extended leaf; 0 for processors without any.
    pub last_extended: u32,
    /// Brand string.
    pub brand: &'static str,
    /// Features in the order of [`FEATURE_WORDS`]. Those the engine or host lacks are not shown.
    pub features: [u32; 7],
}

const INTEL: &[u8; 12] = b"GenuineIntel";
const AMD: &[u8; 12] = b"AuthenticAMD";

/// EDX of leaf 1 up to the Pentium III's SSE, and with the Pentium 4's SSE2.
const P6_EDX: u32 = 0x0383_fbff;
const SSE2_EDX: u32 = 0x078b_fbff;
/// ECX of leaf 1, generation by generation.
const CORE2: u32 = 1 | 1 << 9 | 1 << 13;
const PENRYN: u32 = CORE2 | 1 << 19;
const SANDY: u32 =
    PENRYN | 1 << 1 | 1 << 17 | 1 << 20 | 1 << 21 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 26 | 1 << 28;
const IVY: u32 = SANDY | 1 << 29 | 1 << 30;
const HASWELL: u32 = IVY | 1 << 12 | 1 << 22;
/// EBX of leaf 7: FSGSBASE SMEP ERMS; BMI1 AVX2 BMI2 INVPCID RDSEED ADX SMAP TSC_ADJUST;
/// CLFLUSHOPT.
const IVY7: u32 = 1 | 1 << 7 | 1 << 9;
const BROADWELL7: u32 =
    IVY7 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 10 | 1 << 18 | 1 << 19 | 1 << 20;
const SKYLAKE7: u32 = BROADWELL7 | 1 << 23;
/// EDX of leaf 0x80000001: SYSCALL NX LM; 1-GiB pages and RDTSCP.
const LONG: u32 = 1 << 11 | 1 << 20 | 1 << 29;
const LONG_MORE: u32 = LONG | 1 << 26 | 1 << 27;
/// AMD repeats most of leaf 1 there, and adds MMXEXT.
const AMD_COPIES: u32 = 0x0183_f3ff | 1 << 22;

/// All profiles, newest first.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "Intel Core i7-6700K",
        title: "Intel Core i7-6700K (Skylake)",
        vendor: INTEL,
        signature: 0x0005_06e3,
        last_basic: 0xd,
        last_extended: 0x8000_0008,
        brand: "Intel(R) Core(TM) i7-6700K CPU @ 4.00GHz",
        features: [
            HASWELL,
            SSE2_EDX,
            SKYLAKE7,
            0,
            0,
            1 | 1 << 5 | 1 << 8,
            LONG_MORE,
        ],
    },
    Profile {
        name: "Intel Core i7-5600U",
        title: "Intel Core i7-5600U (Broadwell)",
        vendor: INTEL,
        signature: 0x0003_06d4,
        last_basic: 0xd,
        last_extended: 0x8000_0008,
        brand: "Intel(R) Core(TM) i7-5600U CPU @ 2.60GHz",
        features: [
            HASWELL,
            SSE2_EDX,
            BROADWELL7,
            0,
            0,
            1 | 1 << 5 | 1 << 8,
            LONG_MORE,
        ],
    },
    Profile {
        name: "Intel Core i5-3570",
        title: "Intel Core i5-3570 (Ivy Bridge)",
        vendor: INTEL,
        signature: 0x0003_06a9,
        last_basic: 0xd,
        last_extended: 0x8000_0008,
        brand: "Intel(R) Core(TM) i5-3570 CPU @ 3.40GHz",
        features: [IVY, SSE2_EDX, IVY7, 0, 0, 1, LONG | 1 << 27],
    },
    Profile {
        name: "Intel Core i7-2635QM",
        title: "Intel Core i7-2635QM (Sandy Bridge)",
        vendor: INTEL,
        signature: 0x0002_06a7,
        last_basic: 0xd,
        last_extended: 0x8000_0008,
        brand: "Intel(R) Core(TM) i7-2635QM CPU @ 2.00GHz",
        features: [SANDY, SSE2_EDX, 0, 0, 0, 1, LONG | 1 << 27],
    },
    Profile {
        name: "Intel Xeon X5482 3.20GHz",
        title: "Intel Xeon X5482 3.20GHz (Harpertown)",
        vendor: INTEL,
        signature: 0x0001_0676,
        last_basic: 0xa,
        last_extended: 0x8000_0008,
        brand: "Intel(R) Xeon(R) CPU X5482 @ 3.20GHz",
        features: [PENRYN, SSE2_EDX, 0, 0, 0, 1, LONG],
    },
    Profile {
        name: "Intel Core2 X6800 2.93GHz",
        title: "Intel Core2 Extreme X6800 2.93GHz (Conroe)",
        vendor: INTEL,
        signature: 0x0000_06f6,
        last_basic: 0xa,
        last_extended: 0x8000_0008,
        brand: "Intel(R) Core(TM)2 CPU X6800 @ 2.93GHz",
        features: [CORE2, SSE2_EDX, 0, 0, 0, 1, LONG],
    },
    Profile {
        name: "Intel Core2 T7600 2.33GHz",
        title: "Intel Core2 Duo T7600 2.33GHz (Merom)",
        vendor: INTEL,
        signature: 0x0000_06f6,
        last_basic: 0xa,
        last_extended: 0x8000_0008,
        brand: "Intel(R) Core(TM)2 CPU T7600 @ 2.33GHz",
        features: [CORE2, SSE2_EDX, 0, 0, 0, 1, LONG],
    },
    Profile {
        name: "Intel Pentium 4 3.00GHz",
        title: "Intel Pentium 4 3.00GHz (Prescott, 64 bits)",
        vendor: INTEL,
        signature: 0x0000_0f43,
        last_basic: 5,
        last_extended: 0x8000_0008,
        brand: "Intel(R) Pentium(R) 4 CPU 3.00GHz",
        features: [1 | 1 << 13, SSE2_EDX, 0, 0, 0, 0, LONG],
    },
    Profile {
        name: "Intel Pentium M processor 2.00GHz",
        title: "Intel Pentium M 2.00GHz (Dothan)",
        vendor: INTEL,
        signature: 0x0000_06d8,
        last_basic: 2,
        last_extended: 0x8000_0004,
        brand: "Intel(R) Pentium(R) M processor 2.00GHz",
        features: [0, SSE2_EDX, 0, 0, 0, 0, 1 << 20],
    },
    Profile {
        name: "Intel Pentium III",
        title: "Intel Pentium III (Tualatin)",
        vendor: INTEL,
        signature: 0x0000_06b1,
        last_basic: 2,
        last_extended: 0,
        brand: "",
        features: [0, P6_EDX, 0, 0, 0, 0, 0],
    },
    Profile {
        name: "Intel Pentium",
        title: "Intel Pentium 133 MHz (P54C)",
        vendor: INTEL,
        signature: 0x0000_052c,
        last_basic: 1,
        last_extended: 0,
        brand: "",
        // FPU VME DE PSE TSC MSR MCE CX8 APIC.
        features: [0, 0x3bf, 0, 0, 0, 0, 0],
    },
    Profile {
        name: "Intel 80486",
        title: "Intel 80486 (DX4, the first with CPUID)",
        vendor: INTEL,
        signature: 0x0000_0480,
        last_basic: 1,
        last_extended: 0,
        brand: "",
        // FPU VME.
        features: [0, 3, 0, 0, 0, 0, 0],
    },
    Profile {
        name: "AMD FX-8150 Eight-Core",
        title: "AMD FX-8150 Eight-Core (Bulldozer)",
        vendor: AMD,
        signature: 0x0060_0f12,
        last_basic: 0xd,
        last_extended: 0x8000_0008,
        brand: "AMD FX(tm)-8150 Eight-Core Processor",
        features: [
            PENRYN | 1 << 1 | 1 << 20 | 1 << 23 | 1 << 25 | 1 << 26 | 1 << 28,
            SSE2_EDX,
            0,
            0,
            0,
            1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8,
            LONG_MORE | AMD_COPIES,
        ],
    },
    Profile {
        name: "AMD Phenom II X6 1100T",
        title: "AMD Phenom II X6 1100T (K10)",
        vendor: AMD,
        signature: 0x0010_0fa0,
        last_basic: 6,
        last_extended: 0x8000_0008,
        brand: "AMD Phenom(tm) II X6 1100T Processor",
        features: [
            1 | 1 << 13 | 1 << 23,
            SSE2_EDX,
            0,
            0,
            0,
            1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8,
            LONG_MORE | AMD_COPIES,
        ],
    },
    Profile {
        name: "AMD Athlon 64 3200+",
        title: "AMD Athlon 64 3200+ (K8)",
        vendor: AMD,
        signature: 0x0001_0ff0,
        last_basic: 1,
        last_extended: 0x8000_0008,
        brand: "AMD Athlon(tm) 64 Processor 3200+",
        features: [0, SSE2_EDX, 0, 0, 0, 0, LONG | AMD_COPIES],
    },
];

/// The profile with this name.
pub fn profile(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|p| p.name == name)
}

/// Names of feature bits, word by word as in [`FEATURE_WORDS`] (SDM vol. 2, CPUID; APM vol. 3,
/// appendix E). Those the system cannot show at all have none.
const NAMES: [&[(u32, &str)]; 7] = [
    &[
        (0, "SSE3"),
        (1, "PCLMULQDQ"),
        (3, "MONITOR"),
        (9, "SSSE3"),
        (12, "FMA"),
        (13, "CX16"),
        (17, "PCID"),
        (19, "SSE4.1"),
        (20, "SSE4.2"),
        (21, "x2APIC"),
        (22, "MOVBE"),
        (23, "POPCNT"),
        (24, "TSC-DEADLINE"),
        (25, "AES"),
        (26, "XSAVE"),
        (28, "AVX"),
        (29, "F16C"),
        (30, "RDRAND"),
        (31, "HYPERVISOR"),
    ],
    &[
        (0, "FPU"),
        (1, "VME"),
        (2, "DE"),
        (3, "PSE"),
        (4, "TSC"),
        (5, "MSR"),
        (6, "PAE"),
        (7, "MCE"),
        (8, "CX8"),
        (9, "APIC"),
        (11, "SEP"),
        (12, "MTRR"),
        (13, "PGE"),
        (14, "MCA"),
        (15, "CMOV"),
        (16, "PAT"),
        (17, "PSE36"),
        (19, "CLFSH"),
        (23, "MMX"),
        (24, "FXSR"),
        (25, "SSE"),
        (26, "SSE2"),
        (28, "HTT"),
    ],
    &[
        (0, "FSGSBASE"),
        (1, "TSC_ADJUST"),
        (3, "BMI1"),
        (5, "AVX2"),
        (7, "SMEP"),
        (8, "BMI2"),
        (9, "ERMS"),
        (10, "INVPCID"),
        (16, "AVX512F"),
        (17, "AVX512DQ"),
        (18, "RDSEED"),
        (19, "ADX"),
        (20, "SMAP"),
        (21, "AVX512_IFMA"),
        (23, "CLFLUSHOPT"),
        (24, "CLWB"),
        (28, "AVX512CD"),
        (29, "SHA"),
        (30, "AVX512BW"),
        (31, "AVX512VL"),
    ],
    &[
        (1, "AVX512_VBMI"),
        (2, "UMIP"),
        (6, "AVX512_VBMI2"),
        (8, "GFNI"),
        (9, "VAES"),
        (10, "VPCLMULQDQ"),
        (11, "AVX512_VNNI"),
        (12, "AVX512_BITALG"),
        (14, "AVX512_VPOPCNTDQ"),
        (22, "RDPID"),
    ],
    &[
        (4, "FSRM"),
        (8, "AVX512_VP2INTERSECT"),
        (26, "SPEC_CTRL"),
        (29, "ARCH_CAPABILITIES"),
    ],
    &[
        (0, "LAHF"),
        (1, "CMP_LEGACY"),
        (4, "CR8_LEGACY"),
        (5, "LZCNT"),
        (6, "SSE4A"),
        (7, "MISALIGNSSE"),
        (8, "PREFETCHW"),
    ],
    &[
        (11, "SYSCALL"),
        (20, "NX"),
        (22, "MMXEXT"),
        (26, "PDPE1GB"),
        (27, "RDTSCP"),
        (29, "LM"),
    ],
];

/// Names of the features in `words`, which are laid out as [`FEATURE_WORDS`].
pub fn feature_names(words: &[u32; 7]) -> Vec<String> {
    let mut names = Vec::new();
    for (word, ((leaf, register), known)) in words.iter().zip(FEATURE_WORDS.iter().zip(NAMES)) {
        for bit in (0..32).filter(|b| word >> b & 1 != 0) {
            names.push(match known.iter().find(|(b, _)| *b == bit) {
                Some((_, name)) => (*name).to_owned(),
                None => format!("{leaf:#x}.E{}X[{bit}]", ["A", "B", "C", "D"][*register]),
            });
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_told_apart_by_name_and_hang_together() {
        for (i, p) in PROFILES.iter().enumerate() {
            assert!(PROFILES[..i].iter().all(|q| q.name != p.name), "{}", p.name);
            assert!(p.brand.len() < 48, "{}", p.name);
            assert_eq!(p.last_extended == 0, p.features[6] == 0, "{}", p.name);
            assert_eq!(
                p.last_extended < 0x8000_0004,
                p.brand.is_empty(),
                "{}",
                p.name
            );
            // Long mode needs PAE; AVX needs XSAVE; AVX2 needs leaf 7.
            assert!(p.features[6] & 1 << 29 == 0 || p.features[1] & 1 << 6 != 0);
            assert!(p.features[0] & 1 << 28 == 0 || p.features[0] & 1 << 26 != 0);
            assert!(p.features[2] == 0 || p.last_basic >= 7, "{}", p.name);
        }
        assert_eq!(profile("Intel Pentium").map(|p| p.signature), Some(0x52c));
        assert_eq!(profile("host"), None);
    }

    #[test]
    fn features_have_names() {
        assert_eq!(
            feature_names(&[1 << 9, 0, 1 << 5, 0, 1 << 31, 0, 1]),
            ["SSSE3", "AVX2", "0x7.EDX[31]", "0x80000001.EDX[0]"]
        );
    }
}
