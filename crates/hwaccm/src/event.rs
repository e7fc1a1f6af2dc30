//! What to do about an exit: a function of the exit, the bus and the physical map only.

use cpu::bits::msr;
use cpu::{Bus, Exit};
use pgm::{PhysMap, Target};

/// Why KVM_RUN returned, without KVM's types.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// `in` or `rep ins`: units of `size` bytes fill `data`.
    PortIn {
        port: u16,
        size: u8,
        data: &'a mut [u8],
    },
    /// `out` or `rep outs`.
    PortOut { port: u16, size: u8, data: &'a [u8] },
    /// Read of something that is no slot.
    MmioRead { gpa: u64, data: &'a mut [u8] },
    /// Write to something that is no writable slot.
    MmioWrite { gpa: u64, data: &'a [u8] },
    /// RDMSR that KVM does not answer.
    ReadMsr {
        index: u32,
        value: &'a mut u64,
        error: &'a mut u8,
    },
    /// WRMSR that KVM does not answer.
    WriteMsr {
        index: u32,
        value: u64,
        error: &'a mut u8,
    },
    /// HLT.
    Halt,
    /// Triple fault.
    Shutdown,
    /// Kicked, or interrupts became possible.
    Interrupted,
    /// Breakpoint or step of a debugger.
    Debug,
    /// This KVM cannot go on from here.
    Failed(String),
}

/// Serves `event`; `Some` leaves the engine.
pub(crate) fn handle(event: Event<'_>, cpu: usize, bus: &dyn Bus, phys: &PhysMap) -> Option<Exit> {
    match event {
        Event::PortIn { port, size, data } if data.len() == usize::from(size) => {
            let value = bus.port_read(cpu, port, size).to_le_bytes();
            data.copy_from_slice(&value[..data.len().min(4)]);
        }
        Event::PortIn { port, size, data } => bus.port_read_string(cpu, port, size, data),
        Event::PortOut { port, size, data } if data.len() == usize::from(size) => {
            let mut value = [0; 4];
            value[..data.len()].copy_from_slice(data);
            bus.port_write(cpu, port, size, u32::from_le_bytes(value));
        }
        Event::PortOut { port, size, data } => bus.port_write_string(cpu, port, size, data),
        Event::MmioRead { gpa, data } => match phys.lookup(gpa).read {
            Target::Mmio(handler, offset) => handler.read(cpu, offset, data),
            _ => phys.read(gpa, data),
        },
        Event::MmioWrite { gpa, data } => match phys.lookup(gpa).write {
            Target::Mmio(handler, offset) => handler.write(cpu, offset, data),
            _ => phys.write(gpa, data),
        },
        Event::ReadMsr {
            index,
            value,
            error,
        } => match known_msr(index).then(|| bus.apic_msr_read(cpu, index)) {
            Some(Some(v)) => *value = v,
            _ => *error = 1,
        },
        Event::WriteMsr {
            index,
            value,
            error,
        } => {
            if !known_msr(index) || !bus.apic_msr_write(cpu, index, value) {
                *error = 1;
            }
        }
        Event::Halt => return Some(Exit::Halted),
        Event::Shutdown => return Some(Exit::TripleFault),
        Event::Debug => return Some(Exit::Debug),
        Event::Interrupted => {}
        Event::Failed(reason) => return Some(Exit::EngineSwitch(format!("KVM: {reason}"))),
    }
    None
}

/// MSRs that live in the machine's local APIC.
fn known_msr(index: u32) -> bool {
    matches!(
        index,
        msr::APIC_BASE | msr::TSC_DEADLINE | msr::X2APIC_FIRST..=msr::X2APIC_LAST
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct FakeBus {
        log: Mutex<Vec<String>>,
        signals: Arc<cpu::Signals>,
    }

    impl FakeBus {
        fn note(&self, text: String) {
            self.log.lock().unwrap().push(text);
        }
    }

    impl Bus for FakeBus {
        fn port_read(&self, _: usize, port: u16, size: u8) -> u32 {
            self.note(format!("in{size} {port:#x}"));
            0x1122_3344
        }
        fn port_write(&self, _: usize, port: u16, size: u8, value: u32) {
            self.note(format!("out{size} {port:#x} {value:#x}"));
        }
        fn port_read_string(&self, _: usize, port: u16, size: u8, data: &mut [u8]) {
            self.note(format!("ins{size} {port:#x} {}", data.len()));
        }
        fn port_write_string(&self, _: usize, port: u16, size: u8, data: &[u8]) {
            self.note(format!("outs{size} {port:#x} {}", data.len()));
        }
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
        fn apic_msr_read(&self, _: usize, msr: u32) -> Option<u64> {
            (msr == 0x802).then_some(7)
        }
        fn apic_msr_write(&self, _: usize, msr: u32, _: u64) -> bool {
            msr == 0x80b
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
        fn signals(&self, _: usize) -> &Arc<cpu::Signals> {
            &self.signals
        }
    }

    fn fixture() -> (FakeBus, Arc<PhysMap>) {
        (
            FakeBus::default(),
            PhysMap::new(pgm::Ram::new(1 << 16).unwrap()),
        )
    }

    #[test]
    fn single_and_string_port_accesses_are_told_apart() {
        let (bus, phys) = fixture();
        let mut data = [0; 2];
        let event = Event::PortIn {
            port: 0x60,
            size: 2,
            data: &mut data,
        };
        assert_eq!(handle(event, 0, &bus, &phys), None);
        assert_eq!(data, [0x44, 0x33]);
        let event = Event::PortOut {
            port: 0x80,
            size: 1,
            data: &[9],
        };
        assert_eq!(handle(event, 0, &bus, &phys), None);
        let mut sector = [0; 512];
        let event = Event::PortIn {
            port: 0x1f0,
            size: 2,
            data: &mut sector,
        };
        assert_eq!(handle(event, 0, &bus, &phys), None);
        assert_eq!(
            *bus.log.lock().unwrap(),
            ["in2 0x60", "out1 0x80 0x9", "ins2 0x1f0 512"]
        );
    }

    #[test]
    fn only_apic_registers_are_answered_and_the_rest_faults() {
        let (bus, phys) = fixture();
        let read = |index| {
            let (mut value, mut error) = (0, 0);
            let event = Event::ReadMsr {
                index,
                value: &mut value,
                error: &mut error,
            };
            assert_eq!(handle(event, 0, &bus, &phys), None);
            (value, error)
        };
        assert_eq!(read(0x802), (7, 0));
        assert_eq!(read(0x803), (0, 1));
        assert_eq!(read(0xc001_0015), (0, 1));
        let mut error = 0;
        let event = Event::WriteMsr {
            index: 0x80b,
            value: 0,
            error: &mut error,
        };
        assert_eq!(handle(event, 0, &bus, &phys), None);
        assert_eq!(error, 0);
    }

    #[test]
    fn what_ends_a_run() {
        let (bus, phys) = fixture();
        assert_eq!(handle(Event::Halt, 0, &bus, &phys), Some(Exit::Halted));
        assert_eq!(
            handle(Event::Shutdown, 0, &bus, &phys),
            Some(Exit::TripleFault)
        );
        assert_eq!(handle(Event::Interrupted, 0, &bus, &phys), None);
        assert_eq!(
            handle(Event::Failed("x".into()), 0, &bus, &phys),
            Some(Exit::EngineSwitch("KVM: x".into()))
        );
    }

    #[test]
    fn absent_memory_reads_as_ones() {
        let (bus, phys) = fixture();
        let mut data = [0; 4];
        let event = Event::MmioRead {
            gpa: 0xd000_0000,
            data: &mut data,
        };
        assert_eq!(handle(event, 0, &bus, &phys), None);
        assert_eq!(data, [0xff; 4]);
    }
}
