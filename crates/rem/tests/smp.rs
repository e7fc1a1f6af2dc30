//! Several vCPUs on threads: atomicity of locked instructions wherever they go, code that another
//! vCPU or a device writes, page-table bits that are set while others change the entry.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::sync::{Arc, OnceLock};

use cpu::bits::{cr0, cr4, efer};
use cpu::{Bus, Exit, RunState, Seg, SegReg, Signals, State, attr};
use pgm::{PhysMap, Ram, RegionKind, WriteFlags};

struct NoBus(Vec<Arc<Signals>>);

impl Bus for NoBus {
    fn port_read(&self, _: usize, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn port_write(&self, _: usize, _: u16, _: u8, _: u32) {}
    fn port_read_string(&self, _: usize, _: u16, _: u8, data: &mut [u8]) {
        data.fill(0xff);
    }
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
    fn cpuid(&self, _: usize, _: u32, _: u32) -> [u32; 4] {
        [0; 4]
    }
    fn ferr(&self, _: usize) {}
    fn signals(&self, cpu: usize) -> &Arc<Signals> {
        &self.0[cpu]
    }
}

const MIB: u64 = 1 << 20;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PT: u64 = 0x4000;
/// The 2 MiB at [`SMALL`] are mapped by [`PT`] in 4 KiB pages, each pair of them swapped.
const SMALL: u64 = 4 * MIB;
const CODE: u64 = MIB;
const DATA: u64 = 2 * MIB;
const STACKS: u64 = 3 * MIB;
/// A page where the map has registers of a device.
const DEVICE: u64 = 12 * MIB;

/// What to execute: number of the program, RDI, RSI, RDX, R8.
type Task = (u64, u64, u64, u64, u64);

struct Machine {
    phys: Arc<PhysMap>,
}

/// Registers that keep what is written, in no way atomic themselves.
struct Register(parking_lot::Mutex<[u8; 8]>);

impl pgm::PhysHandler for Register {
    fn read(&self, _: usize, _: u64, data: &mut [u8]) {
        let n = data.len().min(8);
        data[..n].copy_from_slice(&self.0.lock()[..n]);
    }
    fn write(&self, _: usize, _: u64, data: &[u8]) {
        let n = data.len().min(8);
        self.0.lock()[..n].copy_from_slice(&data[..n]);
    }
}

impl Machine {
    fn new() -> Self {
        let ram = Ram::new(16 * MIB).unwrap();
        let block = ram.alloc(16 * MIB).unwrap();
        let phys = PhysMap::new(ram);
        let kind = RegionKind::Memory {
            block,
            writes: WriteFlags::ReadWrite,
        };
        phys.add(0, 16 * MIB, 0, kind).unwrap();
        let device = Arc::new(Register(parking_lot::Mutex::default()));
        phys.add(DEVICE, 0x1000, 1, RegionKind::Mmio(device))
            .unwrap();
        phys.write(PML4, &(PDPT | 3).to_le_bytes());
        phys.write(PDPT, &(PD | 3).to_le_bytes());
        for i in 0..8u64 {
            phys.write(PD + 8 * i, &((i * 2 * MIB) | 0x83).to_le_bytes());
        }
        phys.write(PD + 8 * (SMALL / (2 * MIB)), &(PT | 3).to_le_bytes());
        for i in 0..512u64 {
            let page = SMALL + ((i ^ 1) << 12);
            phys.write(PT + 8 * i, &(page | 3).to_le_bytes());
        }
        phys.write(CODE, programs());
        Self { phys }
    }

    fn value(&self, gpa: u64) -> u64 {
        let mut b = [0; 8];
        self.phys.read(gpa, &mut b);
        u64::from_le_bytes(b)
    }

    /// MOV EAX, 0; RET.
    fn function(&self, gpa: u64) {
        self.phys.write(gpa, &[0xb8, 0, 0, 0, 0, 0xc3]);
    }

    /// Executes one task on each vCPU, at once, and `beside` on a thread of its own.
    fn run(&self, tasks: &[Task], beside: impl FnOnce(&PhysMap) + Send) {
        let signals = tasks.iter().map(|_| Arc::default()).collect();
        let bus = Arc::new(NoBus(signals));
        let peers = rem::Peers::new();
        let start = std::sync::Barrier::new(tasks.len());
        std::thread::scope(|s| {
            for (cpu, task) in tasks.iter().enumerate() {
                let (phys, bus) = (self.phys.clone(), bus.clone());
                let (peers, start) = (peers.clone(), &start);
                s.spawn(move || {
                    let options = rem::Options {
                        code_cache: 8 << 20,
                        ..Default::default()
                    };
                    let mut engine = rem::Rem::with_peers(cpu, phys, bus, peers, options).unwrap();
                    let mut state = state(cpu as u64, *task);
                    start.wait();
                    while state.run == RunState::Running {
                        let exit = engine.run(&mut state);
                        assert!(matches!(exit, Exit::Halted | Exit::Signalled), "{exit:?}");
                    }
                    assert_eq!(state.gpr[0], 0, "vCPU {cpu} of task {task:x?}");
                });
            }
            beside(&self.phys);
        });
    }
}

fn state(cpu: u64, (program, rdi, rsi, rdx, r8): Task) -> State {
    let mut s = State::reset(0);
    s.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::ET | cr0::WP;
    s.cr4 = cr4::PAE | cr4::OSFXSR;
    s.cr3 = PML4;
    s.efer = efer::LME | efer::LMA;
    let flat = attr::P | attr::S | attr::RW | attr::ACCESSED | attr::G | attr::DB;
    s.seg = [SegReg {
        base: 0,
        limit: u32::MAX,
        attr: flat,
        sel: 0x10,
    }; 6];
    s.seg[Seg::Cs as usize].attr =
        attr::P | attr::S | attr::RW | attr::ACCESSED | attr::CODE | attr::G | attr::L;
    s.rip = CODE + 0x100 * program;
    s.rflags = 2;
    s.gpr[2] = rdx;
    s.gpr[4] = STACKS + 0x1000 * (cpu + 1);
    s.gpr[6] = rsi;
    s.gpr[7] = rdi;
    s.gpr[8] = r8;
    s
}

/// `smp/programs.s`, assembled.
fn programs() -> &'static [u8] {
    static CODE: OnceLock<Vec<u8>> = OnceLock::new();
    CODE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (object, binary) = (folder.path().join("o"), folder.path().join("bin"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/smp/programs.s");
        let run = |command: &mut Command| {
            let done = command.status();
            assert!(
                done.as_ref().is_ok_and(|s| s.success()),
                "{command:?}: {done:?}"
            );
        };
        run(Command::new("as")
            .args(["--64", "-o"])
            .arg(&object)
            .arg(source));
        run(Command::new("objcopy")
            .args(["-O", "binary", "-j", ".text"])
            .arg(&object)
            .arg(&binary));
        std::fs::read(binary).unwrap()
    })
}

/// Where a counter is: plain memory, a page with code, across pages that are not neighbours, a
/// device's register.
const PLACES: [(u64, u64); 4] = [
    (DATA, 500_000),
    (CODE + 0xf00, 8_000),
    (SMALL + 0x1ffd, 2_000),
    (DEVICE, 2_000),
];

#[test]
fn locked_additions_are_atomic_everywhere() {
    for program in [0, 1] {
        for (place, rounds) in PLACES {
            let m = Machine::new();
            m.run(&[(program, 0, place, rounds, 0); 3], |_| {});
            let got = if place == SMALL + 0x1ffd {
                // Byte 0x1ffd of the window is byte 0xffd of its first frame, then frame 3.
                let mut b = [0; 8];
                m.phys.read(SMALL + 0xffd, &mut b[..3]);
                m.phys.read(SMALL + 0x3000, &mut b[3..]);
                u64::from_le_bytes(b)
            } else {
                m.value(place)
            };
            assert_eq!(got, 3 * rounds, "program {program} at {place:#x}");
        }
    }
}

#[test]
fn a_lock_protects_wherever_it_is() {
    for (place, rounds) in PLACES {
        let m = Machine::new();
        m.run(&[(2, DATA + 0x800, place, rounds / 4, 0); 3], |_| {});
        assert_eq!(
            m.value(DATA + 0x800),
            3 * (rounds / 4),
            "lock at {place:#x}"
        );
    }
}

#[test]
fn code_written_by_another_vcpu_is_seen() {
    // The words both wait for: on a page of their own, and beside the code.
    for (words, rounds) in [(DATA, 3_000), (DATA + 0x2800, 1_000)] {
        let m = Machine::new();
        let function = DATA + 0x2000;
        m.function(function);
        let (go, done) = (words, words + 0x40);
        m.run(
            &[
                (3, go, done, rounds, function),
                (4, go, done, rounds, function),
            ],
            |_| {},
        );
        assert_eq!(m.value(done), rounds);
    }
}

#[test]
fn code_written_by_a_device_is_seen() {
    let m = Machine::new();
    let function = DATA + 0x2000;
    m.function(function);
    let (go, done, rounds) = (DATA, DATA + 0x40, 2_000);
    m.run(&[(3, go, done, rounds, function)], |phys| {
        let read = |gpa: u64| {
            let mut b = [0; 8];
            phys.read(gpa, &mut b);
            u64::from_le_bytes(b)
        };
        for round in 1..=rounds {
            phys.write(function + 1, &(round as u32).to_le_bytes());
            phys.write(go, &round.to_le_bytes());
            while read(done) != round {
                assert_ne!(read(done), u64::MAX, "round {round}");
                std::thread::yield_now();
            }
        }
    });
}

#[test]
fn pages_of_code_go_from_one_writer_to_the_next() {
    let m = Machine::new();
    for page in 0..4 {
        m.function(DATA + 0x1000 * (page + 1));
    }
    let task = |cpu: u64| (5, cpu << 24, DATA, 2_000, DATA + 0x1000);
    m.run(&[task(0), task(1), task(2), task(3)], |_| {});
}

#[test]
fn accessed_bits_are_set_without_losing_other_changes() {
    let m = Machine::new();
    let rounds = 2_000;
    let entry = PT + 8 * 5;
    let software = 1u64 << 52;
    let touch = (6, 0, SMALL + 0x5000, 20_000, 0);
    m.run(&[touch, touch, (7, entry, 0, rounds, software)], |_| {});
    let value = m.value(entry);
    assert_eq!(value >> 52, rounds);
    assert_eq!(value & 0x000f_ffff_ffff_f01f, (SMALL + 0x4000) | 3);
}
