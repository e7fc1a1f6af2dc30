//! CPUM: what CPUID answers. The host's leaves, cut to what every engine here can do.

use pdm::cfgm::Node;

/// Leaf 1, ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CX16, PCID, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE,
/// AVX, F16C, RDRAND. (MONITOR, VMX, SMX, EIST, TM2, PDCM, DCA are not; OSXSAVE follows CR4 and is
/// the engine's.)
const F1_ECX: u32 = 0x76da_3203;
/// Leaf 1, EDX: FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX
/// FXSR SSE SSE2.
const F1_EDX: u32 = 0x078b_fbff;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const AVX: u32 = 1 << 28;
const XSAVE: u32 = 1 << 26;
const HYPERVISOR: u32 = 1 << 31;
const HTT: u32 = 1 << 28;
const SEP_PAE: (u32, u32) = (1 << 11, 1 << 6);
/// Leaf 7, EBX: FSGSBASE TSC_ADJUST BMI1 AVX2 SMEP BMI2 ERMS INVPCID RDSEED ADX SMAP CLFLUSHOPT CLWB
/// SHA.
const F7_EBX: u32 = 0x219c_07ab;
/// Leaf 7, ECX: UMIP GFNI VAES VPCLMULQDQ.
const F7_ECX: u32 = 1 << 2 | 1 << 8 | 1 << 9 | 1 << 10;
/// Leaf 7, EDX: fast short REP MOVS.
const F7_EDX: u32 = 1 << 4;
/// What goes away without AVX: FMA AVX F16C; AVX2 and the VEX-only ones of leaf 7.
const NEEDS_AVX: (u32, u32, u32) = (1 << 12 | AVX | 1 << 29, 1 << 5, 1 << 9 | 1 << 10);
/// Leaf 0x80000001, ECX: LAHF CR8_LEGACY ABM SSE4A MISALIGNSSE 3DNOWPREFETCH.
const X1_ECX: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8;
/// Leaf 0x80000001, EDX: SYSCALL NX MMXEXT PDPE1GB RDTSCP LM, and on AMD copies of leaf 1.
const X1_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 22 | 1 << 26 | 1 << 27 | 1 << 29;
const X1_EDX_COPIES: u32 = 0x0183_f3ff;
const LONG_MODE: u32 = 1 << 29;
/// Physical address bits shown: what engines and the memory map can use.
const PHYS_BITS: u32 = 40;
const LAST_BASIC: u32 = 0xd;
const LAST_EXTENDED: u32 = 0x8000_0008;
const LAST_HYPERVISOR: u32 = 0x4000_0010;

/// A (leaf, subleaf) and its registers, as [`hwaccm::Vm::supported_cpuid`] gives them.
pub(crate) type Row = (u32, u32, [u32; 4]);

/// The CPUID model of one VM.
pub(crate) struct Cpum {
    cpus: u32,
    tsc_khz: u32,
    invariant_tsc: bool,
    hypervisor: bool,
    x2apic: bool,
    long_mode: bool,
    pae: bool,
    avx: bool,
    amd: bool,
    /// What the hardware engine can show, when the VM may use it.
    limit: Option<Vec<Row>>,
}

impl Cpum {
    /// Reads `CPUM/...`: `Paravirt` (`none` or `minimal`), `X2APIC`, `LongMode`, `PAE`.
    pub fn new(
        config: &Node,
        cpus: u32,
        tsc_hz: u64,
        invariant_tsc: bool,
        limit: Option<Vec<Row>>,
    ) -> pdm::Result<Self> {
        let empty = Node::default();
        let node = config.child("CPUM").unwrap_or(&empty);
        let hypervisor = match node.str("Paravirt", "minimal").as_str() {
            "none" => false,
            "minimal" => true,
            other => {
                return Err(pdm::Error::Config {
                    key: "CPUM/Paravirt".into(),
                    reason: format!("'{other}' is not 'none' or 'minimal'"),
                });
            }
        };
        let vendor = host(0, 0);
        let xcr0 = host(0xd, 0)[0];
        Ok(Self {
            cpus,
            tsc_khz: u32::try_from(tsc_hz / 1000).unwrap_or(u32::MAX),
            invariant_tsc,
            hypervisor,
            x2apic: node.bool("X2APIC", true)?,
            long_mode: node.bool("LongMode", true)?,
            pae: node.bool("PAE", true)?,
            avx: host(1, 0)[2] & (AVX | XSAVE) == AVX | XSAVE && xcr0 & 6 == 6,
            amd: vendor[1] == u32::from_le_bytes(*b"Auth")
                || vendor[1] == u32::from_le_bytes(*b"Hygo"),
            limit,
        })
    }

    /// The answer for `leaf`, `subleaf` on vCPU `cpu`. OSXSAVE, and the size in leaf 0xD that
    /// follows XCR0, are left to engines; the size given is the largest.
    pub fn cpuid(&self, cpu: usize, leaf: u32, subleaf: u32) -> [u32; 4] {
        let id = cpu as u32;
        // Beyond the last leaf: zeros (AMD) are simpler than the last leaf's data (Intel), and
        // nothing asks.
        match leaf {
            0 => {
                let h = host(0, 0);
                [h[0].min(LAST_BASIC), h[1], h[2], h[3]]
            }
            1 => self.features(id),
            2 if !self.amd => host(2, 0),
            4 if !self.amd => self.intel_caches(subleaf),
            // The APIC timer goes on in deep sleep states (ARAT).
            6 => [1 << 2, 0, 0, 0],
            7 if subleaf == 0 => self.features7(),
            0xb => self.topology(id, subleaf),
            0xd => self.xsave(subleaf),
            0x4000_0000 if self.hypervisor => {
                let s = b"VBoxVBoxVBox";
                let word = |i: usize| u32::from_le_bytes([s[i], s[i + 1], s[i + 2], s[i + 3]]);
                [LAST_HYPERVISOR, word(0), word(4), word(8)]
            }
            0x4000_0010 if self.hypervisor => [self.tsc_khz, 0, 0, 0],
            0x8000_0000 => {
                let h = host(leaf, 0);
                [h[0].min(LAST_EXTENDED), h[1], h[2], h[3]]
            }
            0x8000_0001 => self.extended(),
            0x8000_0002..=0x8000_0006 => host(leaf, 0),
            0x8000_0007 => [0, 0, 0, u32::from(self.invariant_tsc) << 8],
            0x8000_0008 => {
                let bits = (host(leaf, 0)[0] & 0xff).clamp(36, PHYS_BITS);
                let cores = if self.amd { self.cpus - 1 } else { 0 };
                [bits | 48 << 8, 0, cores, 0]
            }
            _ => [0; 4],
        }
    }

    /// What host and hardware engine both have.
    fn both(&self, leaf: u32) -> [u32; 4] {
        let mut h = host(leaf, 0);
        if let Some(rows) = &self.limit {
            let found = rows.iter().find(|(l, s, _)| *l == leaf && *s == 0);
            for (value, limit) in h.iter_mut().zip(found.map_or([0; 4], |(_, _, r)| *r)) {
                *value &= limit;
            }
        }
        h
    }

    fn features(&self, id: u32) -> [u32; 4] {
        let (h, both) = (host(1, 0), self.both(1));
        let mut ecx = both[2] & F1_ECX | TSC_DEADLINE;
        if self.x2apic {
            ecx |= X2APIC;
        }
        if self.hypervisor {
            ecx |= HYPERVISOR;
        }
        if !self.avx {
            ecx &= !(NEEDS_AVX.0 | XSAVE);
        }
        let mut edx = both[3] & F1_EDX | 1 << 9;
        if self.cpus > 1 {
            edx |= HTT;
        }
        if !self.pae {
            edx &= !SEP_PAE.1;
        }
        // Brand index 0, CLFLUSH of 64 bytes, logical processors, APIC id.
        let ebx = id << 24 | self.cpus.next_power_of_two().min(128) << 16 | 8 << 8;
        [h[0], ebx, ecx, edx]
    }

    fn features7(&self) -> [u32; 4] {
        let both = self.both(7);
        let (mut ebx, mut ecx) = (both[1] & F7_EBX, both[2] & F7_ECX);
        if !self.avx {
            ebx &= !NEEDS_AVX.1;
            ecx &= !NEEDS_AVX.2;
        }
        [0, ebx, ecx, both[3] & F7_EDX]
    }

    fn extended(&self) -> [u32; 4] {
        let both = self.both(0x8000_0001);
        let mut ecx = both[2] & X1_ECX;
        let mut edx = both[3] & X1_EDX;
        if self.amd {
            edx |= both[3] & X1_EDX_COPIES;
            if self.cpus > 1 {
                // CMP_LEGACY: the logical processors of leaf 1 are cores.
                ecx |= 2;
            }
        }
        if !self.long_mode {
            edx &= !(LONG_MODE | 1 << 11);
            ecx &= !1;
        }
        [host(0x8000_0001, 0)[0], 0, ecx, edx]
    }

    /// Cache parameters with the core counts of this machine.
    fn intel_caches(&self, subleaf: u32) -> [u32; 4] {
        let mut h = host(4, subleaf);
        if h[0] & 0x1f != 0 {
            let level = h[0] >> 5 & 7;
            let sharing = if level >= 3 { self.cpus - 1 } else { 0 };
            h[0] = h[0] & 0x3fff | sharing.min(0xfff) << 14 | (self.cpus - 1).min(63) << 26;
        }
        h
    }

    /// One thread a core, all cores in one package.
    fn topology(&self, id: u32, subleaf: u32) -> [u32; 4] {
        let shift = self.cpus.next_power_of_two().trailing_zeros();
        match subleaf {
            0 => [0, 1, 1 << 8, id],
            1 => [shift, self.cpus, 2 << 8 | 1, id],
            n => [0, 0, n & 0xff, id],
        }
    }

    fn xsave(&self, subleaf: u32) -> [u32; 4] {
        if !self.avx {
            return [0; 4];
        }
        match subleaf {
            0 => [7, 832, 832, 0],
            // XSAVEOPT.
            1 => [host(0xd, 1)[0] & 1, 0, 0, 0],
            2 => [256, 576, 0, 0],
            _ => [0; 4],
        }
    }
}

fn host(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpum(cpus: u32, limit: Option<Vec<Row>>) -> Cpum {
        Cpum::new(&Node::default(), cpus, 2_500_000_000, true, limit).unwrap()
    }

    #[test]
    fn nothing_is_shown_that_no_engine_has() {
        let c = cpum(2, None);
        let one = c.cpuid(1, 1, 0);
        assert_eq!(
            one[2] & (1 << 3 | 1 << 5 | 1 << 27),
            0,
            "MONITOR VMX OSXSAVE"
        );
        assert_eq!(one[1] >> 24, 1);
        let seven = c.cpuid(0, 7, 0);
        assert_eq!(
            seven[1] & (1 << 16 | 1 << 14 | 1 << 4 | 1 << 11),
            0,
            "AVX512 MPX HLE RTM"
        );
        assert_eq!(
            seven[2] & (1 << 3 | 1 << 5 | 1 << 7 | 1 << 22),
            0,
            "PKU WAITPKG CET RDPID"
        );
        assert_eq!(c.cpuid(0, 0x8000_0001, 0)[2] & 4, 0, "SVM");
        assert_eq!(c.cpuid(0, 0xd, 1)[0] & !1, 0, "XSAVEC XSAVES");
        assert_eq!(c.cpuid(0, 7, 1), [0; 4]);
    }

    #[test]
    fn masks_are_what_their_comments_say() {
        for bit in [0, 1, 9, 12, 13, 17, 19, 20, 22, 23, 25, 26, 28, 29, 30] {
            assert_ne!(F1_ECX & 1 << bit, 0, "bit {bit}");
        }
        assert_eq!(F1_ECX.count_ones(), 15);
        for bit in [0, 1, 3, 5, 7, 8, 9, 10, 18, 19, 20, 23, 24, 29] {
            assert_ne!(F7_EBX & 1 << bit, 0, "bit {bit}");
        }
        assert_eq!(F7_EBX.count_ones(), 14);
    }

    #[test]
    fn the_hypervisor_is_named_only_when_asked_for() {
        assert_eq!(
            &cpum(1, None).cpuid(0, 0x4000_0000, 0)[1].to_le_bytes(),
            b"VBox"
        );
        let mut config = Node::default();
        config.set_path("CPUM/Paravirt", "none");
        let c = Cpum::new(&config, 1, 1, true, None).unwrap();
        assert_eq!(c.cpuid(0, 0x4000_0000, 0), [0; 4]);
        assert_eq!(c.cpuid(0, 1, 0)[2] & HYPERVISOR, 0);
    }

    #[test]
    fn the_hardware_engine_limits_features() {
        let rows = vec![(1, 0, [0, 0, 1 << 19, 1])];
        let one = cpum(1, Some(rows)).cpuid(0, 1, 0);
        assert_eq!(one[2] & !(1 << 19 | TSC_DEADLINE | X2APIC | HYPERVISOR), 0);
    }
}
