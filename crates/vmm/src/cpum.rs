//! CPUM: what CPUID answers.
//!
//! The answers are one table, made when the VM is: the host's leaves (or a profile's), cut to what
//! every engine here can do and to a portability level, then with the leaves of the settings put
//! in. Features that host or engine lack never come in by any of these ways. A saved state brings
//! its table along, so a guest keeps the processor it started on.

use std::collections::BTreeMap;
use std::sync::Arc;

use cpu::profile::{FEATURE_WORDS, PROFILES, Profile, feature_names, profile};
use parking_lot::RwLock;
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
const PAE: u32 = 1 << 6;
/// Leaf 7, EBX: FSGSBASE TSC_ADJUST BMI1 AVX2 SMEP BMI2 ERMS INVPCID RDSEED ADX SMAP CLFLUSHOPT CLWB
/// SHA.
const F7_EBX: u32 = 0x219c_07ab;
/// Leaf 7, ECX: UMIP GFNI VAES VPCLMULQDQ.
const F7_ECX: u32 = 1 << 2 | 1 << 8 | 1 << 9 | 1 << 10;
/// Leaf 7, EBX: AVX512 F DQ IFMA CD BW VL.
const F7_EBX_512: u32 = 1 << 16 | 1 << 17 | 1 << 21 | 1 << 28 | 1 << 30 | 1 << 31;
/// Leaf 7, ECX: AVX512 VBMI VBMI2 VNNI BITALG VPOPCNTDQ.
const F7_ECX_512: u32 = 1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14;
/// F, DQ, CD, BW and VL: with fewer there is no AVX-512 at all.
const BASE_512: u32 = 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31;
/// XSAVE components of AVX-512: opmask, upper halves, upper registers; offset and bytes.
const XSAVE_512: [(u32, u32, u32); 3] = [(5, 832, 64), (6, 896, 512), (7, 1408, 1024)];
/// Leaf 7, EDX: fast short REP MOVS.
const F7_EDX: u32 = 1 << 4;
/// Leaf 7, EDX: SPEC_CTRL and ARCH_CAPABILITIES. The software engine shows them to say that the
/// guest's kernel need not guard itself against speculation: what it would do (page tables of its
/// own, retpolines, clearing of buffers) has no effect on translated code, and costs much.
const SPEC_CTRL: u32 = 1 << 26;
const ARCH_CAPABILITIES: u32 = 1 << 29;
/// The same for AMD's processors. Leaf 0x80000021, EAX: automatic IBRS, SRSO_NO; ECX: TSA_SQ_NO,
/// TSA_L1_NO (APM vol. 3, appendix E; AMD "Technical guidance for mitigating transient scheduler
/// attacks").
const X21: [u32; 4] = [1 << 8 | 1 << 29, 0, 1 << 1 | 1 << 2, 0];
const LAST_EXTENDED_X21: u32 = 0x8000_0021;
/// Leaves 0x80000005 and 0x80000006 of AMD's profiles, whatever the host is (Linux divides by the
/// associativity): TLBs of 32 and 24 pages; 16 KiB of first-level cache for data, 4 ways, and 64 KiB
/// for code, 2 ways; TLBs of 1024 and 512 pages, 2 MiB of second level, 16 ways; lines of 64 bytes
/// (APM vol. 3, appendix E.4.5 and E.4.6).
const AMD_CACHES: [[u32; 4]; 2] = [
    [0xff20_ff18, 0xff20_ff20, 0x1004_0140, 0x4002_0140],
    [0x6400_6400, 0x6400_4200, 0x0800_8140, 0],
];
/// Leaf 0x80000006 of Intel's: 256 KiB of second level, 8 ways, lines of 64 bytes (SDM vol. 2,
/// CPUID); the leaf before it is empty.
const INTEL_CACHES: [[u32; 4]; 2] = [[0; 4], [0, 0, 0x0100_6040, 0]];
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

/// What goes away at each portability level above 0, in the order of [`FEATURE_WORDS`]. Level 1
/// leaves what x86-64-v3 processors have in common, 2 those of x86-64-v2, 3 the first ones with 64
/// bits.
const PORTABLE: [[u32; 7]; 3] = [
    [
        0,
        0,
        // AVX512 (nine bits), RDSEED ADX CLFLUSHOPT CLWB SHA.
        1 << 16 | 1 << 17 | 1 << 18 | 1 << 19 | 1 << 21 | 1 << 23 | 1 << 24 | 0xf << 28,
        // UMIP GFNI VAES VPCLMULQDQ and AVX512 sets.
        u32::MAX,
        u32::MAX,
        1 << 6 | 1 << 7,
        0,
    ],
    [
        // FMA MOVBE AES-NI's VEX forms go with AVX; XSAVE AVX F16C RDRAND PCLMULQDQ AES PCID.
        1 << 1 | 1 << 12 | 1 << 17 | 1 << 22 | 1 << 25 | 1 << 26 | 1 << 28 | 1 << 29 | 1 << 30,
        0,
        u32::MAX,
        u32::MAX,
        u32::MAX,
        // LZCNT SSE4A MISALIGNSSE PREFETCHW.
        1 << 5 | 1 << 6 | 1 << 7 | 1 << 8,
        1 << 26,
    ],
    [
        // All but CX16, the APIC's bits and the hypervisor's.
        !(1 << 13 | X2APIC | TSC_DEADLINE | HYPERVISOR),
        0,
        u32::MAX,
        u32::MAX,
        u32::MAX,
        u32::MAX,
        1 << 26 | 1 << 27,
    ],
];

/// A (leaf, subleaf) and its registers, as [`hwaccm::Vm::supported_cpuid`] gives them.
pub(crate) type Row = (u32, u32, [u32; 4]);

/// All answers, but for the fields that tell processors apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Table(BTreeMap<(u32, u32), [u32; 4]>);

impl Table {
    fn get(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let subleaf = if has_subleaves(leaf) { subleaf } else { 0 };
        self.0.get(&(leaf, subleaf)).copied().unwrap_or_default()
    }

    fn set(&mut self, leaf: u32, subleaf: u32, value: [u32; 4]) {
        if value != [0; 4] {
            self.0.insert((leaf, subleaf), value);
        }
    }

    /// The feature words.
    pub fn features(&self) -> [u32; 7] {
        FEATURE_WORDS.map(|(leaf, register)| self.get(leaf, 0)[register])
    }

    /// For saved states.
    pub fn rows(&self) -> Vec<Row> {
        let rows = self.0.iter();
        rows.map(|((leaf, sub), r)| (*leaf, *sub, *r)).collect()
    }

    /// From a saved state.
    pub fn from_rows(rows: &[Row]) -> Self {
        Self(rows.iter().map(|(l, s, r)| ((*l, *s), *r)).collect())
    }
}

fn has_subleaves(leaf: u32) -> bool {
    matches!(leaf, 4 | 7 | 0xb | 0xd | 0x8000_001d)
}

/// The CPUID model of one VM.
pub(crate) struct Cpum {
    cpus: u32,
    /// Features that could be shown here.
    possible: [u32; 7],
    table: RwLock<Arc<Table>>,
}

/// What the table is made from.
struct Maker<'a> {
    cpus: u32,
    tsc_khz: u32,
    invariant_tsc: bool,
    hypervisor: bool,
    x2apic: bool,
    long_mode: bool,
    pae: bool,
    avx: bool,
    avx512: bool,
    immune: bool,
    portability: usize,
    profile: Option<&'static Profile>,
    /// What the hardware engine can show, when the VM may use it.
    limit: Option<&'a [Row]>,
}

impl Cpum {
    /// Reads `CPUM/...`: `Paravirt` (`none` or `minimal`), `X2APIC`, `LongMode`, `PAE`,
    /// `GuestCpuName` (a profile, `host` by default), `PortableCpuIdLevel` (0 to 3), `AVX512`,
    /// `SpeculationImmune` (whether the software engine tells the guest that it need not guard
    /// itself against speculation), and `Leaves/n` with `Leaf`, `Subleaf`, `Eax`, `Ebx`, `Ecx`, `Edx`.
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
        let name = node.str("GuestCpuName", "host");
        let profile = match name.as_str() {
            "" | "host" => None,
            name => Some(profile(name).ok_or_else(|| pdm::Error::Config {
                key: "CPUM/GuestCpuName".into(),
                reason: format!(
                    "there is no CPU profile '{name}'; known are host, {}",
                    PROFILES.iter().map(|p| p.name).collect::<Vec<_>>().join(", ")
                ),
            })?),
        };
        let xcr0 = host(0xd, 0)[0];
        let maker = Maker {
            cpus,
            tsc_khz: u32::try_from(tsc_hz / 1000).unwrap_or(u32::MAX),
            invariant_tsc,
            hypervisor,
            x2apic: node.bool("X2APIC", true)?,
            long_mode: node.bool("LongMode", true)?,
            pae: node.bool("PAE", true)?,
            avx: host(1, 0)[2] & (AVX | XSAVE) == AVX | XSAVE && xcr0 & 6 == 6,
            // Registers of AVX-512 are kept by the software engine only.
            avx512: node.bool("AVX512", true)? && limit.is_none() && xcr0 & 0xe6 == 0xe6,
            immune: node.bool("SpeculationImmune", true)? && limit.is_none(),
            portability: node.int_in("PortableCpuIdLevel", 0, 0..=3)? as usize,
            profile,
            limit: limit.as_deref(),
        };
        let possible = maker.possible();
        let mut table = maker.table(&possible);
        for (_, leaf) in node.child("Leaves").unwrap_or(&empty).children() {
            let word = |key| {
                leaf.int_in(key, 0, 0..=u64::from(u32::MAX))
                    .map(|v| v as u32)
            };
            let at = (word("Leaf")?, word("Subleaf")?);
            let mut value = [word("Eax")?, word("Ebx")?, word("Ecx")?, word("Edx")?];
            for ((l, register), can) in FEATURE_WORDS.iter().zip(possible) {
                if at == (*l, 0) {
                    value[*register] &= can;
                }
            }
            table.0.insert(at, value);
        }
        tracing::info!(target: "CPUM", "{}", describe(&table));
        Ok(Self {
            cpus,
            possible,
            table: RwLock::new(Arc::new(table)),
        })
    }

    /// The answer for `leaf`, `subleaf` on vCPU `cpu`. OSXSAVE, and the size in leaf 0xD that
    /// follows XCR0, are left to engines; the size given is the largest.
    pub fn cpuid(&self, cpu: usize, leaf: u32, subleaf: u32) -> [u32; 4] {
        let id = cpu as u32;
        let table = self.table.read();
        // Beyond the last leaf: zeros (AMD) are simpler than the last leaf's data (Intel), and
        // nothing asks.
        let mut r = table.get(leaf, subleaf);
        match leaf {
            1 => r[1] |= id << 24,
            0xb if table.get(0, 0)[0] >= 0xb => {
                r[2] = r[2] & !0xff | subleaf & 0xff;
                r[3] = id;
            }
            _ => {}
        }
        r
    }

    /// The table in force.
    pub fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// Takes over the table of a saved state.
    ///
    /// # Errors
    /// Which features the guest may have seen that are not to be had here.
    pub fn adopt(&self, table: Table) -> Result<(), String> {
        let mut missing = table.features();
        for (word, can) in missing.iter_mut().zip(self.possible) {
            *word &= !can;
        }
        // What the guest has made of them when it started does not change.
        missing[4] &= !(SPEC_CTRL | ARCH_CAPABILITIES);
        if missing != [0; 7] {
            return Err(format!(
                "the processor here lacks features of the one it was saved on: {}",
                feature_names(&missing).join(", ")
            ));
        }
        let cores = |t: &Table| t.get(1, 0)[1] >> 16 & 0xff;
        if cores(&table) != cores(&self.table.read()) {
            return Err(format!(
                "it was saved with another number of processors than {}",
                self.cpus
            ));
        }
        *self.table.write() = Arc::new(table);
        Ok(())
    }
}

fn describe(table: &Table) -> String {
    let brand: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .flat_map(|leaf| table.get(leaf, 0))
        .flat_map(u32::to_le_bytes)
        .take_while(|b| *b != 0)
        .collect();
    format!(
        "guest CPU '{}' {:#x}: {}",
        String::from_utf8_lossy(&brand).trim(),
        table.get(1, 0)[0],
        feature_names(&table.features()).join(" ")
    )
}

impl Maker<'_> {
    fn table(&self, possible: &[u32; 7]) -> Table {
        let mut t = Table::default();
        let mut shown = *possible;
        if let Some(p) = self.profile {
            for (word, has) in shown.iter_mut().zip(p.features) {
                *word &= has;
            }
            // What the machine adds to any processor of its generation.
            if p.features[0] != 0 {
                shown[0] |= possible[0] & (X2APIC | TSC_DEADLINE);
            }
            shown[0] |= possible[0] & HYPERVISOR;
            shown[1] |= possible[1] & HTT;
        }
        for level in &PORTABLE[..self.portability] {
            for (word, off) in shown.iter_mut().zip(level) {
                *word &= !off;
            }
        }
        shown[4] |= possible[4] & (SPEC_CTRL | ARCH_CAPABILITIES);
        if shown[0] & XSAVE == 0 {
            shown[0] &= !NEEDS_AVX.0;
        }
        if shown[0] & AVX == 0 || shown[2] & BASE_512 != BASE_512 {
            shown[2] &= !F7_EBX_512;
            shown[3] &= !F7_ECX_512;
        }
        if shown[0] & AVX == 0 {
            shown[0] &= !NEEDS_AVX.0;
            shown[2] &= !NEEDS_AVX.1;
            shown[3] &= !NEEDS_AVX.2;
        }
        let vendor = self.vendor();
        let amd =
            vendor[1] == u32::from_le_bytes(*b"Auth") || vendor[1] == u32::from_le_bytes(*b"Hygo");
        let last = match self.profile {
            Some(p) => p.last_basic,
            None => host(0, 0)[0].min(LAST_BASIC),
        };
        t.set(0, 0, [last, vendor[1], vendor[2], vendor[3]]);
        let signature = self.profile.map_or_else(|| host(1, 0)[0], |p| p.signature);
        // Brand index 0, CLFLUSH of 64 bytes, logical processors; the APIC id is put in later.
        let ebx = self.cpus.next_power_of_two().min(128) << 16 | 8 << 8;
        t.set(1, 0, [signature, ebx, shown[0], shown[1]]);
        if last >= 2 && !amd {
            t.set(2, 0, self.descriptors());
        }
        if last >= 4 && !amd {
            for subleaf in 0..4 {
                t.set(4, subleaf, self.intel_caches(subleaf));
            }
        }
        if last >= 6 {
            // The APIC timer goes on in deep sleep states (ARAT).
            t.set(6, 0, [1 << 2, 0, 0, 0]);
        }
        if last >= 7 {
            t.set(7, 0, [0, shown[2], shown[3], shown[4]]);
        }
        if last >= 0xb {
            let shift = self.cpus.next_power_of_two().trailing_zeros();
            t.set(0xb, 0, [0, 1, 1 << 8, 0]);
            t.set(0xb, 1, [shift, self.cpus, 2 << 8, 0]);
        }
        if last >= 0xd && shown[0] & XSAVE != 0 {
            t.set(0xd, 0, [7, 832, 832, 0]);
            // XSAVEOPT.
            t.set(0xd, 1, [host(0xd, 1)[0] & 1, 0, 0, 0]);
            t.set(0xd, 2, [256, 576, 0, 0]);
            if shown[2] & F7_EBX_512 != 0 {
                let mut xcr0 = 7;
                let mut size = 832;
                for (bit, offset, bytes) in XSAVE_512 {
                    xcr0 |= 1 << bit;
                    size = size.max(offset + bytes);
                    t.set(0xd, bit, [bytes, offset, 0, 0]);
                }
                t.set(0xd, 0, [xcr0, size, size, 0]);
            }
        }
        self.extended(&mut t, &shown, amd);
        if self.hypervisor {
            let s = b"VBoxVBoxVBox";
            let word = |i: usize| u32::from_le_bytes([s[i], s[i + 1], s[i + 2], s[i + 3]]);
            t.set(0x4000_0000, 0, [LAST_HYPERVISOR, word(0), word(4), word(8)]);
            t.set(0x4000_0010, 0, [self.tsc_khz, 0, 0, 0]);
        }
        t
    }

    fn extended(&self, t: &mut Table, shown: &[u32; 7], amd: bool) {
        let last = match self.profile {
            Some(p) => p.last_extended,
            None => host(0x8000_0000, 0)[0].min(LAST_EXTENDED),
        };
        if last == 0 {
            return;
        }
        let immune = self.immune && amd && last >= LAST_EXTENDED;
        let last = if immune { LAST_EXTENDED_X21 } else { last };
        let vendor = if amd { self.vendor() } else { [0; 4] };
        t.set(0x8000_0000, 0, [last, vendor[1], vendor[2], vendor[3]]);
        let signature = match self.profile {
            Some(p) if amd => p.signature,
            Some(_) => 0,
            None => host(0x8000_0001, 0)[0],
        };
        let mut ecx = shown[5];
        if amd && self.cpus > 1 {
            // CMP_LEGACY: the logical processors of leaf 1 are cores.
            ecx |= 2;
        }
        t.set(0x8000_0001, 0, [signature, 0, ecx, shown[6]]);
        for leaf in 0x8000_0002..=last.min(0x8000_0006) {
            let value = match (self.profile, leaf) {
                (Some(p), 0x8000_0002..=0x8000_0004) => {
                    let mut brand = [0; 48];
                    brand[..p.brand.len()].copy_from_slice(p.brand.as_bytes());
                    let from = (leaf - 0x8000_0002) as usize * 16;
                    std::array::from_fn(|i| {
                        let at = from + 4 * i;
                        u32::from_le_bytes([brand[at], brand[at + 1], brand[at + 2], brand[at + 3]])
                    })
                }
                (Some(_), 0x8000_0005..=0x8000_0006) => {
                    let caches = if amd { AMD_CACHES } else { INTEL_CACHES };
                    caches[(leaf - 0x8000_0005) as usize]
                }
                _ => host(leaf, 0),
            };
            t.set(leaf, 0, value);
        }
        if last >= 0x8000_0007 {
            t.set(
                0x8000_0007,
                0,
                [0, 0, 0, u32::from(self.invariant_tsc) << 8],
            );
        }
        if last >= 0x8000_0008 {
            // The software engine's page walk has its own width; hardware has the host's.
            let bits = match self.limit {
                Some(_) => (host(0x8000_0008, 0)[0] & 0xff).clamp(36, PHYS_BITS),
                None => PHYS_BITS,
            };
            let cores = if amd { self.cpus - 1 } else { 0 };
            t.set(0x8000_0008, 0, [bits | 48 << 8, 0, cores, 0]);
        }
        if immune {
            t.set(LAST_EXTENDED_X21, 0, X21);
        }
    }

    fn vendor(&self) -> [u32; 4] {
        match self.profile {
            None => host(0, 0),
            Some(p) => {
                let word = |i: usize| {
                    let v = p.vendor;
                    u32::from_le_bytes([v[i], v[i + 1], v[i + 2], v[i + 3]])
                };
                [0, word(0), word(8), word(4)]
            }
        }
    }

    /// What host and hardware engine both have.
    fn both(&self, leaf: u32) -> [u32; 4] {
        let mut h = host(leaf, 0);
        if let Some(rows) = self.limit {
            let found = rows.iter().find(|(l, s, _)| *l == leaf && *s == 0);
            for (value, limit) in h.iter_mut().zip(found.map_or([0; 4], |(_, _, r)| *r)) {
                *value &= limit;
            }
        }
        h
    }

    /// The feature words that could be shown.
    fn possible(&self) -> [u32; 7] {
        let (one, seven, more) = (self.both(1), self.both(7), self.both(0x8000_0001));
        let mut w = [
            one[2] & F1_ECX | TSC_DEADLINE,
            one[3] & F1_EDX | 1 << 9,
            seven[1] & (F7_EBX | F7_EBX_512),
            seven[2] & (F7_ECX | F7_ECX_512),
            seven[3] & F7_EDX,
            more[2] & X1_ECX,
            // The copies of leaf 1 are AMD's; a profile may be AMD's anywhere.
            more[3] & X1_EDX | one[3] & X1_EDX_COPIES & F1_EDX | 1 << 9,
        ];
        let host_is_amd = host(0, 0)[1] == u32::from_le_bytes(*b"Auth")
            || host(0, 0)[1] == u32::from_le_bytes(*b"Hygo");
        let amd = self
            .profile
            .map_or(host_is_amd, |p| p.vendor == b"AuthenticAMD");
        if !amd {
            w[6] &= X1_EDX & !(1 << 22);
        }
        for (on, word, bits) in [
            (self.x2apic, 0, X2APIC),
            (self.hypervisor, 0, HYPERVISOR),
            (self.cpus > 1, 1, HTT),
            (self.immune, 4, ARCH_CAPABILITIES),
            (self.immune && !amd, 4, SPEC_CTRL),
        ] {
            if on {
                w[word] |= bits;
            }
        }
        if !self.avx || !self.avx512 || w[2] & BASE_512 != BASE_512 {
            w[2] &= !F7_EBX_512;
            w[3] &= !F7_ECX_512;
        }
        if !self.avx {
            w[0] &= !(NEEDS_AVX.0 | XSAVE);
            w[2] &= !NEEDS_AVX.1;
            w[3] &= !NEEDS_AVX.2;
        }
        if !self.pae {
            w[1] &= !PAE;
            w[6] &= !PAE;
        }
        if !self.long_mode {
            w[6] &= !(LONG_MODE | 1 << 11);
            w[5] &= !1;
        }
        w
    }

    /// Leaf 2: cache and TLB descriptors.
    fn descriptors(&self) -> [u32; 4] {
        match self.profile {
            None => host(2, 0),
            // Code and data TLBs of 4-KiB pages, 32 + 32 KiB first level, 2 MiB second level
            // (SDM vol. 2, table 3-12: 01, 03, 2C, 30, 7D).
            Some(_) => [0x7d30_2c01, 0, 0, 0x0000_0003],
        }
    }

    /// Cache parameters with the core counts of this machine.
    fn intel_caches(&self, subleaf: u32) -> [u32; 4] {
        let mut h = host(4, subleaf);
        if h[0] & 0x1f == 0 {
            return [0; 4];
        }
        let level = h[0] >> 5 & 7;
        let sharing = if level >= 3 { self.cpus - 1 } else { 0 };
        h[0] = h[0] & 0x3fff | sharing.min(0xfff) << 14 | (self.cpus - 1).min(63) << 26;
        h
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
        assert_eq!(seven[1] & (1 << 14 | 1 << 4 | 1 << 11), 0, "MPX HLE RTM");
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

    fn with(keys: &[(&str, &str)]) -> Cpum {
        let mut config = Node::default();
        for (key, value) in keys {
            match value.parse::<u64>() {
                Ok(number) => config.set_path(key, number),
                Err(_) => config.set_path(key, *value),
            }
        }
        Cpum::new(&config, 1, 2_000_000_000, true, None).unwrap()
    }

    #[test]
    fn a_profile_replaces_the_host() {
        let c = with(&[("CPUM/GuestCpuName", "Intel Pentium")]);
        assert_eq!(c.cpuid(0, 0, 0), [1, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
        let one = c.cpuid(0, 1, 0);
        assert_eq!(one[0], 0x52c);
        assert_eq!(one[3], 0x3bf);
        assert_eq!(one[2] & !HYPERVISOR, 0);
        for leaf in [2, 4, 7, 0xb, 0xd, 0x8000_0000, 0x8000_0001] {
            assert_eq!(c.cpuid(0, leaf, 0), [0; 4], "{leaf:#x}");
        }
        let c = with(&[("CPUM/GuestCpuName", "Intel Core2 T7600 2.33GHz")]);
        assert_eq!(c.cpuid(0, 0x8000_0001, 0)[3] & LONG_MODE, LONG_MODE);
        assert_eq!(c.cpuid(0, 1, 0)[2] & (AVX | XSAVE | 1 << 20), 0);
        let brand: Vec<u8> = (2..5)
            .flat_map(|n| c.cpuid(0, 0x8000_0000 + n, 0))
            .flat_map(u32::to_le_bytes)
            .collect();
        assert!(brand.starts_with(b"Intel(R) Core(TM)2 CPU"));
        let mut config = Node::default();
        config.set_path("CPUM/GuestCpuName", "Zilog Z80");
        let e = Cpum::new(&config, 1, 1, true, None).err().unwrap();
        assert!(e.to_string().contains("Intel Pentium"), "{e}");
    }

    #[test]
    fn avx512_comes_as_a_whole() {
        let c = with(&[]);
        let (seven, d) = (c.cpuid(0, 7, 0), c.cpuid(0, 0xd, 0));
        let shown = seven[1] & F7_EBX_512 != 0;
        assert_eq!(shown, seven[1] & BASE_512 == BASE_512);
        assert_eq!(d[0] & 0xe0, if shown { 0xe0 } else { 0 });
        if shown {
            assert_eq!((d[1], d[2]), (2432, 2432));
            assert_eq!(c.cpuid(0, 0xd, 7), [1024, 1408, 0, 0]);
        }
        let c = with(&[("CPUM/AVX512", "0")]);
        assert_eq!(c.cpuid(0, 7, 0)[1] & F7_EBX_512, 0);
        assert_eq!(c.cpuid(0, 7, 0)[2] & F7_ECX_512, 0);
        assert_eq!(c.cpuid(0, 0xd, 0)[2] & !0x340, 0);
        // With hardware virtualization in reach, too.
        let rows = vec![(1, 0, [!0; 4]), (7, 0, [!0; 4])];
        assert_eq!(cpum(1, Some(rows)).cpuid(0, 7, 0)[1] & F7_EBX_512, 0);
    }

    #[test]
    fn profiles_bring_their_caches() {
        for p in PROFILES.iter().filter(|p| p.last_extended >= 0x8000_0006) {
            let c = with(&[("CPUM/GuestCpuName", p.name)]);
            let amd = p.vendor == b"AuthenticAMD";
            let (one, two) = (c.cpuid(0, 0x8000_0005, 0), c.cpuid(0, 0x8000_0006, 0));
            for first_level in [one[2], one[3]] {
                assert_eq!(first_level >> 16 & 0xff != 0, amd, "{}", p.name);
            }
            assert_ne!(two[2] >> 16, 0, "{}", p.name);
        }
    }

    #[test]
    fn the_software_engine_says_that_speculation_needs_no_guard() {
        for profile in ["host", "Intel Core i7-6700K", "AMD FX-8150 Eight-Core"] {
            let c = with(&[
                ("CPUM/GuestCpuName", profile),
                ("CPUM/PortableCpuIdLevel", "1"),
            ]);
            let amd = c.cpuid(0, 0, 0)[1] == u32::from_le_bytes(*b"Auth");
            let bits = c.cpuid(0, 7, 0)[3] & (SPEC_CTRL | ARCH_CAPABILITIES);
            let expected = if amd { 0 } else { SPEC_CTRL };
            assert_eq!(bits, expected | ARCH_CAPABILITIES, "{profile}");
            let x21 = if amd { X21 } else { [0; 4] };
            assert_eq!(c.cpuid(0, LAST_EXTENDED_X21, 0), x21, "{profile}");
        }
        let none = with(&[("CPUM/SpeculationImmune", "0")]);
        let rows = vec![(7, 0, [!0; 4])];
        for c in [none, cpum(1, Some(rows))] {
            assert_eq!(c.cpuid(0, 7, 0)[3] & (SPEC_CTRL | ARCH_CAPABILITIES), 0);
            assert_eq!(c.cpuid(0, LAST_EXTENDED_X21, 0), [0; 4]);
        }
    }

    #[test]
    fn levels_of_portability_take_features_away_one_after_the_other() {
        let mut last = with(&[]).table().features();
        for level in ["1", "2", "3"] {
            let now = with(&[("CPUM/PortableCpuIdLevel", level)])
                .table()
                .features();
            for (n, l) in now.iter().zip(last) {
                assert_eq!(n & !l, 0, "level {level}");
            }
            last = now;
        }
        assert_eq!(last[0] & (AVX | 1 << 9 | 1 << 20), 0, "AVX SSSE3 SSE4.2");
        assert_eq!(last[2], 0);
        assert_ne!(last[6] & LONG_MODE, 0);
    }

    #[test]
    fn leaves_of_the_settings_come_in_without_what_is_impossible() {
        let c = with(&[
            ("CPUM/Leaves/0/Leaf", "7"),
            ("CPUM/Leaves/0/Ebx", "4294967295"),
            ("CPUM/Leaves/1/Leaf", "2147483650"),
            ("CPUM/Leaves/1/Eax", "1094861636"),
        ]);
        assert_eq!(c.cpuid(0, 7, 0), [0, with(&[]).possible[2], 0, 0]);
        assert_eq!(c.cpuid(0, 0x8000_0002, 0), [0x4142_4344, 0, 0, 0]);
    }

    #[test]
    fn a_saved_table_is_taken_over_or_refused_by_name() {
        let old = with(&[("CPUM/PortableCpuIdLevel", "2")]);
        let new = with(&[]);
        let table = Table::from_rows(&old.table().rows());
        assert_eq!(table, *old.table());
        new.adopt(table.clone()).unwrap();
        assert_eq!(new.cpuid(0, 1, 0), old.cpuid(0, 1, 0));
        let mut impossible = table;
        let one = impossible.0.get_mut(&(1, 0)).unwrap();
        one[2] |= 1 << 5;
        let e = new.adopt(impossible).unwrap_err();
        assert!(e.contains("0x1.ECX[5]"), "{e}");
    }

    #[test]
    fn the_hardware_engine_limits_features() {
        let rows = vec![(1, 0, [0, 0, 1 << 19, 1])];
        let one = cpum(1, Some(rows)).cpuid(0, 1, 0);
        assert_eq!(one[2] & !(1 << 19 | TSC_DEADLINE | X2APIC | HYPERVISOR), 0);
    }
}
