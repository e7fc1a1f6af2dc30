//! Does KVM work here? Three short programs with known results.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cpu::bits::{cr0, cr4, efer};
use cpu::{Bus, DescTable, Engine, Exit, Seg, SegReg, Signals, State, attr, signal};
use pgm::{PhysMap, Ram, RegionKind, WriteFlags};

use crate::{Error, Kvm, Vm};

/// Guest-physical addresses of the test machine: code, data, descriptor table, page tables.
const CODE: u64 = 0x1000;
const DATA: u64 = 0x5000;
const GDT: u64 = 0x6000;
const TABLES: u64 = 0x8000;
const MEMORY: u64 = 0x10000;
/// A program that runs longer than this hangs. (It needs microseconds.)
const LIMIT: Duration = Duration::from_secs(5);

/// How far KVM can be trusted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// All programs gave the right results.
    Complete,
    /// The basic ones did; what did not, for the log. Some paravirtual hosts emulate the guest's
    /// kernel mode and know only part of it: what looks like a triple fault there may be the
    /// host's limit, so it is left to the software engine to find out.
    Partial(String),
}

/// Whether KVM runs guests here, and why not. Found out once per process.
///
/// # Errors
/// The reason, for the log.
pub fn probe() -> Result<Probed, Error> {
    static RESULT: OnceLock<Result<Probed, Error>> = OnceLock::new();
    RESULT
        .get_or_init(|| {
            real_mode()?;
            protected_mode("protected mode", 0)?;
            long_mode("long mode", &[])?;
            let more = [
                protected_mode("32-bit paging", cr0::PG),
                long_mode("long mode with SSE", &SSE),
            ];
            let failed: Vec<_> = more
                .into_iter()
                .filter_map(|r| r.err().map(|e| e.to_string()))
                .collect();
            Ok(if failed.is_empty() {
                Probed::Complete
            } else {
                Probed::Partial(failed.join("; "))
            })
        })
        .clone()
}

/// mov ax, 0x1234; mov bx, 7; mul bx; push ax; pop cx; out 0x80, al; hlt
fn real_mode() -> Result<(), Error> {
    let mode = "real mode";
    let code = [
        0xb8, 0x34, 0x12, 0xbb, 0x07, 0x00, 0xf7, 0xe3, 0x50, 0x59, 0xe6, 0x80, 0xf4,
    ];
    let mut state = State::reset(0);
    state.seg[Seg::Cs as usize] = SegReg {
        attr: state.seg[Seg::Cs as usize].attr,
        ..SegReg::real(0)
    };
    state.rip = CODE;
    state.gpr[4] = 0x4000;
    let machine = Machine::new(mode, &code)?;
    machine.run(&mut state)?;
    machine.expect("CX", state.gpr[1] & 0xffff, 0x7f6c)?;
    machine.expect("RIP", state.rip, CODE + code.len() as u64)?;
    let port = *machine
        .bus
        .port
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    machine.expect("port 0x80", port.into(), 0x6c)
}

/// mov ax, 0x10; mov ds, ax; mov ecx, 1000; xor edx, edx; l: add edx, ecx; dec ecx; jnz l;
/// mov [0x5000], edx; hlt
fn protected_mode(mode: &'static str, paging: u64) -> Result<(), Error> {
    let code = [
        0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0xb9, 0xe8, 0x03, 0x00, 0x00, 0x31, 0xd2, 0x01, 0xca,
        0x49, 0x75, 0xfb, 0x89, 0x15, 0x00, 0x50, 0x00, 0x00, 0xf4,
    ];
    let machine = Machine::new(mode, &code)?;
    // One 4-MiB page, present, writable.
    machine.phys.write(TABLES, &0x83u32.to_le_bytes());
    let mut state = flat_state();
    state.cr0 |= cr0::PE | paging;
    state.cr4 = cr4::PSE;
    machine.run(&mut state)?;
    machine.expect("EDX", state.gpr[2], 500_500)?;
    machine.expect("DS", state.seg[Seg::Ds as usize].sel.into(), 0x10)?;
    machine.expect("memory", machine.data() & 0xffff_ffff, 500_500)
}

/// movq xmm0, rax; paddq xmm0, xmm0; psrlq xmm0, 1; movq rax, xmm0
const SSE: [u8; 19] = [
    0x66, 0x48, 0x0f, 0x6e, 0xc0, 0x66, 0x0f, 0xd4, 0xc0, 0x66, 0x0f, 0x73, 0xd0, 0x01, 0x66, 0x48,
    0x0f, 0x7e, 0xc0,
];

/// mov rax, 0x123456789abcdef0; `extra`, which keeps RAX; mov r8, rax; rol r8, 16;
/// mov [0x5000], r8; hlt
fn long_mode(mode: &'static str, extra: &[u8]) -> Result<(), Error> {
    let mut code = vec![0x48, 0xb8, 0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12];
    code.extend(extra);
    code.extend([
        0x49, 0x89, 0xc0, 0x49, 0xc1, 0xc0, 0x10, 0x4c, 0x89, 0x04, 0x25, 0x00, 0x50, 0x00, 0x00,
        0xf4,
    ]);
    let machine = Machine::new(mode, &code)?;
    // PML4 and PDPT entries, then one 2-MiB page, present, writable.
    for (at, entry) in [
        (TABLES, TABLES + 0x1003),
        (TABLES + 0x1000, TABLES + 0x2003),
        (TABLES + 0x2000, 0x83),
    ] {
        machine.phys.write(at, &entry.to_le_bytes());
    }
    let mut state = flat_state();
    state.cr0 |= cr0::PE | cr0::PG;
    state.cr4 = cr4::PAE | cr4::OSFXSR;
    state.efer = efer::LME | efer::LMA;
    let cs = &mut state.seg[Seg::Cs as usize];
    cs.attr = cs.attr & !attr::DB | attr::L;
    machine.run(&mut state)?;
    machine.expect("R8", state.gpr[8], 0x5678_9abc_def0_1234)?;
    machine.expect("memory", machine.data(), 0x5678_9abc_def0_1234)
}

/// 32-bit flat segments, paging tables at [`TABLES`], not yet switched on.
fn flat_state() -> State {
    let mut state = State::reset(0);
    let flat = attr::P | attr::S | attr::RW | attr::ACCESSED | attr::DB | attr::G;
    for seg in &mut state.seg {
        *seg = SegReg {
            base: 0,
            limit: u32::MAX,
            attr: flat,
            sel: 0x10,
        };
    }
    let cs = &mut state.seg[Seg::Cs as usize];
    (cs.attr, cs.sel) = (flat | attr::CODE, 8);
    state.gdtr = DescTable {
        base: GDT,
        limit: 0x17,
    };
    state.cr0 &= !(cr0::CD | cr0::NW);
    state.cr3 = TABLES;
    state.rip = CODE;
    state.gpr = [0; 16];
    state.gpr[4] = 0x4000;
    state
}

struct Machine {
    mode: &'static str,
    phys: Arc<PhysMap>,
    bus: Arc<TestBus>,
    vm: Arc<Vm>,
}

impl Machine {
    fn new(mode: &'static str, code: &[u8]) -> Result<Self, Error> {
        let memory = |e: pgm::Error| Error::Probe {
            mode,
            reason: e.to_string(),
        };
        let ram = Ram::new(MEMORY).map_err(memory)?;
        let phys = PhysMap::new(ram);
        let block = phys.ram().alloc(MEMORY).map_err(memory)?;
        let kind = RegionKind::Memory {
            block,
            writes: WriteFlags::ReadWrite,
        };
        phys.add(0, MEMORY, 0, kind).map_err(memory)?;
        phys.write(CODE, code);
        // Null, flat 32-bit code, flat data.
        for (i, descriptor) in [0u64, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff]
            .iter()
            .enumerate()
        {
            phys.write(GDT + 8 * i as u64, &descriptor.to_le_bytes());
        }
        let vm = Vm::new(phys.clone(), Probed::Complete)?;
        let bus = Arc::new(TestBus {
            cpuid: vm.supported_cpuid()?,
            ..TestBus::default()
        });
        Ok(Self {
            mode,
            phys,
            bus,
            vm,
        })
    }

    /// Runs to the HLT at the end.
    fn run(&self, state: &mut State) -> Result<(), Error> {
        let mut engine = Kvm::new(0, &self.vm, self.bus.clone())?;
        let signals = self.bus.signals.clone();
        let (done, waits) = channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if waits.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                signals.raise(signal::REQUEST);
            }
        });
        let exit = engine.run(state);
        drop(done);
        let _ = watchdog.join();
        match exit {
            Exit::Halted => Ok(()),
            Exit::Signalled => Err(self.failed("the test program hangs".into())),
            Exit::EngineSwitch(reason) | Exit::Fatal(reason) => Err(self.failed(reason)),
            other => Err(self.failed(format!("unexpected exit {other:?}"))),
        }
    }

    fn data(&self) -> u64 {
        let mut data = [0; 8];
        self.phys.read(DATA, &mut data);
        u64::from_le_bytes(data)
    }

    fn expect(&self, what: &str, got: u64, wanted: u64) -> Result<(), Error> {
        if got == wanted {
            Ok(())
        } else {
            Err(self.failed(format!("{what} is {got:#x} and not {wanted:#x}")))
        }
    }

    fn failed(&self, reason: String) -> Error {
        Error::Probe {
            mode: self.mode,
            reason,
        }
    }
}

/// A machine with one port.
#[derive(Default)]
struct TestBus {
    port: Mutex<u32>,
    signals: Arc<Signals>,
    cpuid: Vec<(u32, u32, [u32; 4])>,
}

impl Bus for TestBus {
    fn port_read(&self, _: usize, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn port_write(&self, _: usize, _: u16, _: u8, value: u32) {
        *self.port.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }
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
        Some(0)
    }
    fn cpuid(&self, _: usize, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.cpuid
            .iter()
            .find(|(l, s, _)| *l == leaf && *s == subleaf)
            .map_or([0; 4], |(_, _, r)| *r)
    }
    fn ferr(&self, _: usize) {}
    fn signals(&self, _: usize) -> &Arc<Signals> {
        &self.signals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a host without KVM the probe says why; with it, the programs give the right results.
    #[test]
    fn the_probe_passes_or_explains() {
        match probe() {
            Ok(probed) => println!("{probed:?}"),
            Err(e) => println!("no KVM here: {e}"),
        }
        assert_eq!(
            probe().map_err(|e| e.to_string()),
            probe().map_err(|e| e.to_string())
        );
    }

    #[test]
    fn a_kick_ends_an_endless_loop() {
        if probe().is_err() {
            return;
        }
        // jmp $
        let machine = Machine::new("test", &[0xeb, 0xfe]).unwrap();
        let mut state = flat_state();
        state.cr0 |= cr0::PE;
        let mut engine = Kvm::new(0, &machine.vm, machine.bus.clone()).unwrap();
        let signals = machine.bus.signals.clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            signals.raise(signal::TIMER);
        });
        assert_eq!(engine.run(&mut state), Exit::Signalled);
        other.join().unwrap();
        assert_eq!(state.rip, CODE);
        assert_eq!(engine.run(&mut state), Exit::Signalled, "not yet taken");
    }

    #[test]
    fn rom_ignores_writes_and_changes_of_the_map_are_seen() {
        if probe().is_err() {
            return;
        }
        // mov byte [0x20000], 7; mov al, [0x20000]; hlt
        let code = [0xc6, 0x05, 0, 0, 2, 0, 7, 0xa0, 0, 0, 2, 0, 0xf4];
        let machine = Machine::new("test", &code).unwrap();
        let mut state = flat_state();
        state.cr0 |= cr0::PE;
        let start = state.clone();
        let mut engine = Kvm::new(0, &machine.vm, machine.bus.clone()).unwrap();
        assert_eq!(engine.run(&mut state), Exit::Halted);
        assert_eq!(state.gpr[0] & 0xff, 0xff, "nothing there");
        let block = pgm::RamBlock {
            offset: 0x7000,
            size: 0x1000,
        };
        for (writes, expected) in [(WriteFlags::ReadOnly, 0), (WriteFlags::ReadWrite, 7)] {
            let kind = RegionKind::Memory { block, writes };
            let id = machine.phys.add(0x20000, 0x1000, 0, kind).unwrap();
            state = start.clone();
            engine.state_changed();
            assert_eq!(engine.run(&mut state), Exit::Halted);
            assert_eq!(state.gpr[0] & 0xff, expected);
            machine.phys.remove(id);
        }
    }
}
