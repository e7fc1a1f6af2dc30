//! Interrupt lines, and the traits of the controllers they end at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};

/// Hears the levels of all lines, of each in the order of its changes. Called with the line's lock
/// held, and that of the device that changed it: may take controller locks, but no device's, and
/// drives no line (a router of PCI lines may drive ISA lines).
pub trait IrqSink: Send + Sync {
    /// ISA line `irq` (0 to 15) changed to `level`.
    fn isa(&self, irq: u8, level: bool) {
        let _ = (irq, level);
    }
    /// PCI line `pirq` (0 to 3 = PIRQA to PIRQD at the south bridge) changed to `level`.
    fn pirq(&self, pirq: u8, level: bool) {
        let _ = (pirq, level);
    }
}

/// An interrupt as the bus carries it: I/O APIC redirection entries and MSI writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApicMessage {
    /// Destination field: physical APIC id or logical set (8 bits; 32 in x2APIC mode).
    pub destination: u32,
    /// Whether `destination` is logical.
    pub logical: bool,
    /// Delivery mode (SDM vol. 3, 11.6.1): 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT,
    /// 6 start-up, 7 ExtINT.
    pub mode: u8,
    /// Vector.
    pub vector: u8,
    /// Level triggered (needs an EOI broadcast).
    pub level: bool,
}

/// The VM's interrupt controller as the vCPUs see it: local APICs with the 8259 pair behind them.
pub trait InterruptController: Send + Sync {
    /// Whether vCPU `cpu` would get a vector from [`InterruptController::acknowledge`] now.
    fn pending(&self, cpu: usize) -> bool;
    /// INTA cycle: takes the highest pending vector. `None` when it vanished.
    fn acknowledge(&self, cpu: usize) -> Option<u8>;
    /// Task priority as CR8 sees it (0 to 15).
    fn cr8(&self, cpu: usize) -> u8;
    /// Sets the task priority through CR8.
    fn set_cr8(&self, cpu: usize, value: u8);
    /// Reads IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register. `None`: #GP.
    fn read_msr(&self, cpu: usize, msr: u32) -> Option<u64>;
    /// Writes one. False: #GP.
    fn write_msr(&self, cpu: usize, msr: u32, value: u64) -> bool;
    /// Carries a message to the local APICs it addresses (I/O APIC, MSI).
    fn deliver(&self, message: ApicMessage);
    /// A level-triggered vector was finished at a local APIC: I/O APICs look at their lines again.
    /// Sinks are added with [`InterruptController::add_eoi_sink`].
    fn add_eoi_sink(&self, sink: Arc<dyn EoiSink>);
    /// The PIC's INTR output changed (wired to LINT0 of the first local APIC, or straight to the
    /// first vCPU while its APIC is disabled).
    fn set_extint(&self, level: bool);
    /// Who answers the INTA cycle for ExtINT: the PIC.
    fn set_pic(&self, pic: Arc<dyn PicAcknowledge>);
    /// Power-on state of vCPU `cpu`'s local APIC.
    fn reset_cpu(&self, cpu: usize);
}

/// Hears EOI broadcasts. Called with no local APIC lock held.
pub trait EoiSink: Send + Sync {
    /// `vector` was finished.
    fn eoi(&self, vector: u8);
}

/// The 8259 pair's INTA cycle.
pub trait PicAcknowledge: Send + Sync {
    /// The vector to take (a spurious one when the request vanished).
    fn acknowledge(&self) -> u8;
}

/// What interrupt controllers tell vCPUs. Cheap, callable with any lock held.
pub trait CpuSignals: Send + Sync {
    /// Number of vCPUs.
    fn count(&self) -> usize;
    /// [`InterruptController::pending`] of `cpu` may have become true (or false).
    fn set_intr(&self, cpu: usize, pending: bool);
    /// NMI to `cpu`.
    fn nmi(&self, cpu: usize);
    /// SMI to `cpu`.
    fn smi(&self, cpu: usize);
    /// INIT to `cpu`.
    fn init(&self, cpu: usize);
    /// Start-up IPI to `cpu` with its vector (start address `vector << 12`).
    fn sipi(&self, cpu: usize, vector: u8);
}

/// Buttons on the ACPI device.
pub trait AcpiButtons {
    /// The power button was pressed.
    fn power_button(&mut self);
    /// The sleep button was pressed.
    fn sleep_button(&mut self);
    /// Whether the guest enabled ACPI (SCI_EN).
    fn guest_entered_acpi(&self) -> bool;
    /// Whether the guest handled the last power button event.
    fn power_button_handled(&self) -> bool;
}

/// Which wire a line drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// ISA interrupt 0 to 15.
    Isa(u8),
    /// PIRQA to PIRQD as 0 to 3.
    Pirq(u8),
}

/// The wires of the machine. Several sources may drive one wire; it is high while any is.
#[derive(Default)]
pub struct Hub {
    isa: [Mutex<WireState>; 16],
    pirq: [Mutex<WireState>; 4],
    sinks: RwLock<Vec<Arc<dyn IrqSink>>>,
}

/// A wire. Its lock is held while sinks are told, so that they hear of changes in the order in
/// which they happen, whatever threads cause them.
#[derive(Default)]
struct WireState {
    /// Sources that drive it high, without the one that has taken it over.
    high: u32,
    /// One source has cut off the others (ISA only).
    taken: bool,
}

impl Hub {
    /// A hub with no sinks and all wires low.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds a controller.
    pub fn add_sink(&self, sink: Arc<dyn IrqSink>) {
        self.sinks.write().push(sink);
    }

    /// A new source on `wire` (numbers are taken modulo the count of wires), low.
    pub fn line(self: &Arc<Self>, wire: Wire) -> IrqLine {
        IrqLine {
            hub: self.clone(),
            wire,
            level: Arc::default(),
            owner: Arc::default(),
        }
    }

    fn state(&self, wire: Wire) -> MutexGuard<'_, WireState> {
        match wire {
            Wire::Isa(n) => self.isa[usize::from(n) % 16].lock(),
            Wire::Pirq(n) => self.pirq[usize::from(n) % 4].lock(),
        }
    }

    fn tell(&self, wire: Wire, up: bool) {
        for sink in self.sinks.read().iter() {
            match wire {
                Wire::Isa(n) => sink.isa(n % 16, up),
                Wire::Pirq(n) => sink.pirq(n % 4, up),
            }
        }
    }
}

/// One source of an interrupt wire, owned by a device. Clones are the same source.
#[derive(Clone)]
pub struct IrqLine {
    hub: Arc<Hub>,
    wire: Wire,
    /// Changed with the wire's lock held, like `owner`.
    level: Arc<AtomicBool>,
    /// This source has taken the wire over.
    owner: Arc<AtomicBool>,
}

impl IrqLine {
    /// Drives the line high or low. Setting the level it has changes nothing.
    pub fn set(&self, level: bool) {
        if self.level.load(Ordering::SeqCst) == level {
            return;
        }
        let mut wire = self.hub.state(self.wire);
        if self.level.swap(level, Ordering::SeqCst) == level {
            return;
        }
        let told = if self.owner.load(Ordering::SeqCst) {
            true
        } else {
            let before = wire.high;
            wire.high = if level { before + 1 } else { before - 1 };
            (before == 0 || wire.high == 0) && !wire.taken
        };
        if told {
            self.hub.tell(self.wire, level);
        }
    }

    /// Cuts all other sources off an ISA wire, or lets them back (HPET legacy replacement: the
    /// 8254 and the clock keep running unheard). At most one source of a wire does this; on PCI
    /// wires it has no effect.
    pub fn take_over(&self, on: bool) {
        let Wire::Isa(_) = self.wire else { return };
        let mut wire = self.hub.state(self.wire);
        if self.owner.swap(on, Ordering::SeqCst) == on {
            return;
        }
        let own = self.level();
        wire.taken = on;
        // While it owns the wire, this source is not among those counted.
        let (before, after) = if on {
            let before = wire.high > 0;
            wire.high -= u32::from(own);
            (before, own)
        } else {
            wire.high += u32::from(own);
            (own, wire.high > 0)
        };
        if before != after {
            self.hub.tell(self.wire, after);
        }
    }

    /// The level it drives.
    pub fn level(&self) -> bool {
        self.level.load(Ordering::SeqCst)
    }

    /// An edge: high, then low.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u8, bool)>>);
    impl IrqSink for Log {
        fn isa(&self, irq: u8, level: bool) {
            self.0.lock().push((irq, level));
        }
    }

    #[test]
    fn a_shared_wire_is_high_while_any_source_is() {
        let hub = Hub::new();
        let log = Arc::new(Log::default());
        hub.add_sink(log.clone());
        let (a, b) = (hub.line(Wire::Isa(5)), hub.line(Wire::Isa(5)));
        a.set(true);
        b.set(true);
        a.set(true);
        a.set(false);
        b.set(false);
        assert_eq!(*log.0.lock(), [(5, true), (5, false)]);
    }

    #[test]
    fn sinks_hear_of_changes_in_their_order() {
        let hub = Hub::new();
        let log = Arc::new(Log::default());
        hub.add_sink(log.clone());
        std::thread::scope(|s| {
            for _ in 0..3 {
                let line = hub.line(Wire::Isa(5));
                s.spawn(move || (0..2000).for_each(|_| line.pulse()));
            }
        });
        let log = log.0.lock();
        for (n, (_, level)) in log.iter().enumerate() {
            assert_eq!(*level, n % 2 == 0, "rises and falls take turns");
        }
        assert_eq!(log.len() % 2, 0);
    }

    #[test]
    fn a_source_can_take_a_wire_over() {
        let hub = Hub::new();
        let log = Arc::new(Log::default());
        hub.add_sink(log.clone());
        let (pit, hpet) = (hub.line(Wire::Isa(0)), hub.line(Wire::Isa(0)));
        pit.set(true);
        hpet.take_over(true);
        pit.pulse();
        hpet.pulse();
        pit.set(true);
        hpet.set(true);
        hpet.take_over(false);
        hpet.set(false);
        pit.set(false);
        let levels: Vec<_> = log.0.lock().iter().map(|(_, level)| *level).collect();
        assert_eq!(levels, [true, false, true, false, true, false]);
    }
}
