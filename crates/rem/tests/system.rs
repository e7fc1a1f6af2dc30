//! Programs that check the system side of the processor against the manual, in `system/*.s`. Each
//! says in RAX which check failed; 0 means none. They are assembled with the packaged binutils.
//!
//! Those of 64-bit mode find paging and tables made for them (`lib.inc`); those of protected mode
//! start with nothing but flat segments and make their own (`lib32.inc`), so that any machine that
//! can load them runs them, too.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use cpu::bits::{cr0, cr4, efer};
use cpu::{Bus, Exit, Seg, SegReg, Signals, State, attr, signal};
use pgm::{PhysMap, Ram, RegionKind, WriteFlags};

/// Two devices: the A20 gate at port 0x92, and one that asks for interrupt 32, once, when a string is
/// read from any port.
struct Machine {
    phys: Arc<PhysMap>,
    signals: Arc<Signals>,
    asks: AtomicBool,
    asked: AtomicBool,
}

impl Bus for Machine {
    fn port_read(&self, _: usize, port: u16, _: u8) -> u32 {
        match port {
            0x92 => u32::from(self.phys.a20()) << 1,
            _ => u32::MAX,
        }
    }
    fn port_write(&self, _: usize, port: u16, _: u8, value: u32) {
        if port == 0x92 {
            self.phys.set_a20(value & 2 != 0);
        }
    }
    fn port_read_string(&self, _: usize, _: u16, _: u8, data: &mut [u8]) {
        data.fill(0xff);
        if !self.asked.swap(true, SeqCst) {
            self.asks.store(true, SeqCst);
            self.signals.raise(signal::INTR);
        }
    }
    fn port_write_string(&self, _: usize, _: u16, _: u8, _: &[u8]) {}
    fn interrupt_pending(&self, _: usize) -> bool {
        self.asks.load(SeqCst)
    }
    fn interrupt_acknowledge(&self, _: usize) -> Option<u8> {
        self.asks.swap(false, SeqCst).then_some(32)
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
    fn cpuid(&self, _: usize, leaf: u32, sub: u32) -> [u32; 4] {
        let r = std::arch::x86_64::__cpuid_count(leaf, sub);
        [r.eax, r.ebx, r.ecx, r.edx]
    }
    fn ferr(&self, _: usize) {}
    fn signals(&self, _: usize) -> &Arc<Signals> {
        &self.signals
    }
}

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const WINDOW_PD: u64 = 0x5000;
const WINDOW_PT: u64 = 0x6000;
const GDT: u64 = 0x7000;
const TSS: u64 = 0x7800;
const IDT: u64 = 0x8000;
const STACK: u64 = 0x18000;
/// Where programs are.
const PROGRAM: u64 = 0x10_0000;
/// Bytes from the program's start to its vectors (the jump at `_start`, aligned).
const VECTORS: u64 = PROGRAM + 16;

/// What a program starts in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Protected mode without paging, flat segments.
    Flat,
    /// 64-bit mode.
    Long,
}

/// Assembles one program.
fn assemble(name: &str, start: Start) -> Vec<u8> {
    let (bits, format) = match start {
        Start::Flat => ("--32", "elf_i386"),
        Start::Long => ("--64", "elf_x86_64"),
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system");
    let out = tempfile::tempdir().unwrap();
    let (object, binary) = (out.path().join("o"), out.path().join("b"));
    let run = |c: &mut Command| {
        let out = c.output().expect("binutils are needed");
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{name}: {text}");
    };
    run(Command::new("as")
        .args([bits, "-I"])
        .arg(&folder)
        .arg("-o")
        .arg(&object)
        .arg(folder.join(name)));
    let at = format!("{PROGRAM:#x}");
    run(Command::new("ld")
        .args(["-m", format, "-Ttext", &at, "--oformat", "binary", "-o"])
        .arg(&binary)
        .arg(&object));
    std::fs::read(binary).unwrap()
}

fn whole(code: u32) -> [SegReg; 6] {
    let common = attr::P | attr::S | attr::RW | attr::ACCESSED | attr::G;
    let reg = |more: u32, sel: u16| SegReg {
        base: 0,
        limit: u32::MAX,
        attr: common | more,
        sel,
    };
    let mut all = [reg(attr::DB, 0x10); 6];
    all[Seg::Cs as usize] = reg(attr::CODE | code, 8);
    all
}

fn flat() -> State {
    let mut s = State::reset(0);
    s.cr0 = cr0::PE | cr0::ET;
    s.seg = whole(attr::DB);
    s
}

fn long(phys: &PhysMap) -> State {
    let put = |at: u64, value: u64| phys.write(at, &value.to_le_bytes());
    put(PML4, PDPT | 7);
    put(PDPT, PD | 3);
    put(PDPT + 8, WINDOW_PD | 7);
    put(WINDOW_PD, WINDOW_PT | 7);
    for i in 0..8 {
        put(PD + 8 * i, i << 21 | 0x83);
    }
    for (i, d) in [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x67 | TSS << 16 | 0x8b << 40,
    ]
    .into_iter()
    .enumerate()
    {
        put(GDT + 8 * i as u64, d);
    }
    phys.write(TSS + 4, &STACK.to_le_bytes());
    for v in 0..32 {
        let at = VECTORS + 16 * v;
        let dpl = if v == 3 { 3 } else { 0 };
        put(
            IDT + 16 * v,
            at & 0xffff | 8 << 16 | (0x8e | dpl << 5) << 40 | (at >> 16) << 48,
        );
    }
    let mut s = State::reset(0);
    s.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::ET | cr0::WP;
    s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    s.cr3 = PML4;
    s.efer = efer::LME | efer::LMA | efer::NXE;
    s.gdtr.base = GDT;
    s.gdtr.limit = 0x3f;
    s.idtr.base = IDT;
    s.idtr.limit = 0x3ff;
    s.tr = SegReg {
        base: TSS,
        limit: 0x67,
        attr: attr::P | 11,
        sel: 0x28,
    };
    s.seg = whole(attr::L);
    s
}

fn run(name: &str, start: Start) -> (Exit, State) {
    let ram = Ram::new(16 << 20).unwrap();
    let block = ram.alloc(16 << 20).unwrap();
    let phys = PhysMap::new(ram);
    let kind = RegionKind::Memory {
        block,
        writes: WriteFlags::ReadWrite,
    };
    phys.add(0, 16 << 20, 0, kind).unwrap();
    phys.write(PROGRAM, &assemble(name, start));
    let bus = Arc::new(Machine {
        phys: phys.clone(),
        signals: Arc::default(),
        asks: AtomicBool::new(false),
        asked: AtomicBool::new(false),
    });
    let mut engine = rem::Rem::new(0, phys.clone(), bus).unwrap();
    let mut s = match start {
        Start::Flat => flat(),
        Start::Long => long(&phys),
    };
    s.rip = PROGRAM;
    s.gpr[4] = STACK - 0x800;
    engine.state_changed();
    let exit = engine.run(&mut s);
    (exit, s)
}

macro_rules! programs {
    ($start:expr, $($name:ident)*) => {$(
        #[test]
        fn $name() {
            let (exit, s) = run(concat!(stringify!($name), ".s"), $start);
            assert_eq!(exit, Exit::Halted, "at {:#x}", s.rip);
            assert_eq!(s.gpr[0], 0, "this check failed");
        }
    )*};
}

programs! {
    Start::Long,
    address_spaces
    edges
    exact
    page_faults
    restless
    self_modifying
    single_step
    strings
    system_calls
    tlb
}
programs! {
    Start::Flat,
    a20
    far
    far_real
    gates
    paging32
    real
    segments
    tasks
    v86
}
