//! IOM: which device answers a port or a memory-mapped register.

use std::cell::Cell;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use pdm::{Device, DeviceReg, Shared};
use pgm::{PhysHandler, PhysMap, RegionId, RegionKind};

/// How long a bus master that reaches the registers of a device in use waits for it. Two devices
/// may reach for each other: one then reads all ones.
const NESTED_WAIT: Duration = Duration::from_millis(5);

/// A device of the configuration, before and after it is built.
pub(crate) struct DeviceSlot {
    pub reg: &'static DeviceReg,
    pub instance: u32,
    device: OnceLock<Shared>,
    /// Modem inputs that a driver reported before the device was built.
    early_modem: Mutex<Option<[bool; 4]>>,
}

thread_local! {
    /// Devices this thread has locked.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

struct Inside;

impl Inside {
    fn enter() -> Self {
        INSIDE.set(INSIDE.get() + 1);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(INSIDE.get() - 1);
    }
}

impl DeviceSlot {
    /// A slot for a device that is about to be built.
    pub fn new(reg: &'static DeviceReg, instance: u32) -> Arc<Self> {
        Arc::new(Self {
            reg,
            instance,
            device: OnceLock::new(),
            early_modem: Mutex::new(None),
        })
    }

    /// The device is built.
    pub fn fill(&self, device: Box<dyn Device>) {
        let _ = self.device.set(pdm::share(device));
        let early = self.early_modem.lock().take();
        if let Some([cts, dsr, ri, dcd]) = early {
            pdm::driver::CharInput::modem(self, cts, dsr, ri, dcd);
        }
    }

    /// Runs `f` with the device's lock held. `None` while the device is not built.
    pub fn with<R>(&self, f: impl FnOnce(&mut dyn Device) -> R) -> Option<R> {
        let mut device = self.device.get()?.lock();
        let _inside = Inside::enter();
        Some(f(device.as_mut()))
    }

    /// Like [`DeviceSlot::with`], but gives up on a device in use when the caller holds another.
    fn with_or_skip<R>(&self, f: impl FnOnce(&mut dyn Device) -> R) -> Option<R> {
        if INSIDE.get() == 0 {
            return self.with(f);
        }
        let mut device = self.device.get()?.try_lock_for(NESTED_WAIT)?;
        let _inside = Inside::enter();
        Some(f(device.as_mut()))
    }
}

impl pdm::pci::Owner for DeviceSlot {
    fn with_pci(&self, f: &mut dyn FnMut(&mut dyn pdm::pci::PciDevice)) {
        self.with(|d| {
            if let Some(pci) = d.pci() {
                f(pci);
            }
        });
    }
}

impl pdm::driver::CharInput for DeviceSlot {
    fn receive(&self, data: &[u8]) -> usize {
        // A device that is not built yet takes nothing, one without input swallows all.
        self.with(|d| d.char_input().map_or(data.len(), |c| c.receive(data)))
            .unwrap_or(0)
    }
    fn modem(&self, cts: bool, dsr: bool, ri: bool, dcd: bool) {
        {
            let mut early = self.early_modem.lock();
            if self.device.get().is_none() {
                *early = Some([cts, dsr, ri, dcd]);
                return;
            }
        }
        self.with(|d| {
            if let Some(c) = d.char_input() {
                c.modem(cts, dsr, ri, dcd);
            }
        });
    }
}

/// All I/O ports.
pub(crate) struct Ports {
    /// For each port, 1 + the device that answers.
    table: Box<[AtomicU16]>,
    ranges: Mutex<Vec<Range>>,
}

struct Range {
    device: u16,
    first: u16,
    count: u16,
    /// Not shown while false.
    shown: bool,
    fixed: bool,
}

impl Range {
    fn holds(&self, port: u16) -> bool {
        self.shown && port >= self.first && port - self.first < self.count
    }
}

impl Ports {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            table: (0..=u16::MAX).map(|_| AtomicU16::new(0)).collect(),
            ranges: Mutex::default(),
        })
    }

    /// The device at `port`.
    pub fn device(&self, port: u16) -> Option<usize> {
        match self.table[usize::from(port)].load(Ordering::Relaxed) {
            0 => None,
            n => Some(usize::from(n) - 1),
        }
    }

    /// Claims ports for good.
    pub fn claim(&self, device: usize, first: u16, count: u16) -> pdm::Result<()> {
        let mut ranges = self.ranges.lock();
        let end = u32::from(first) + u32::from(count);
        if count == 0 || end > 0x10000 {
            return Err(pdm::Error::Resource(format!(
                "{count} ports at {first:#x} do not exist"
            )));
        }
        let taken = ranges
            .iter()
            .find(|r| r.fixed && (0..count).any(|i| r.holds(first + i)));
        if let Some(r) = taken {
            return Err(pdm::Error::Resource(format!(
                "ports at {first:#x} are taken (range at {:#x})",
                r.first
            )));
        }
        ranges.push(Range {
            device: device as u16,
            first,
            count,
            shown: true,
            fixed: true,
        });
        self.fill(&ranges, first, count);
        Ok(())
    }

    /// A range that is moved later.
    pub fn movable(self: &Arc<Self>, device: usize, count: u16) -> Arc<MovablePorts> {
        let mut ranges = self.ranges.lock();
        ranges.push(Range {
            device: device as u16,
            first: 0,
            count,
            shown: false,
            fixed: false,
        });
        Arc::new(MovablePorts {
            ports: self.clone(),
            index: ranges.len() - 1,
        })
    }

    /// Fixed ranges win, then the earlier registered.
    fn fill(&self, ranges: &[Range], first: u16, count: u16) {
        for port in (0..count).filter_map(|i| first.checked_add(i)) {
            let find = |fixed| ranges.iter().find(|r| r.fixed == fixed && r.holds(port));
            let owner = find(true).or_else(|| find(false));
            self.table[usize::from(port)]
                .store(owner.map_or(0, |r| r.device + 1), Ordering::Relaxed);
        }
    }

    /// All shown ranges as (first, count, device), sorted, for the debugger.
    pub fn list(&self) -> Vec<(u16, u16, usize)> {
        let ranges = self.ranges.lock();
        let shown = ranges.iter().filter(|r| r.shown);
        let mut all: Vec<_> = shown
            .map(|r| (r.first, r.count, usize::from(r.device)))
            .collect();
        all.sort_unstable();
        all
    }
}

/// Movable I/O ports of one device.
pub(crate) struct MovablePorts {
    ports: Arc<Ports>,
    index: usize,
}

impl pdm::PioRange for MovablePorts {
    fn set(&self, first: Option<u16>) {
        let mut ranges = self.ports.ranges.lock();
        let Some(range) = ranges.get_mut(self.index) else {
            return;
        };
        let (old, count) = (range.first, range.count);
        let first = first.filter(|f| u32::from(*f) + u32::from(count) <= 0x10000);
        range.shown = first.is_some();
        range.first = first.unwrap_or(0);
        let new = range.first;
        self.ports.fill(&ranges, old, count);
        self.ports.fill(&ranges, new, count);
    }
}

/// One region of memory-mapped registers.
pub(crate) struct MmioGlue {
    pub slot: Weak<DeviceSlot>,
    pub region: u32,
}

impl PhysHandler for MmioGlue {
    fn read(&self, vcpu: usize, offset: u64, data: &mut [u8]) {
        let done = self.slot.upgrade().and_then(|slot| {
            slot.with_or_skip(|d| {
                let m = d.mmio()?;
                m.read(vcpu, self.region, offset, data);
                Some(())
            })
            .flatten()
        });
        if done.is_none() {
            data.fill(0xff);
        }
    }
    fn write(&self, vcpu: usize, offset: u64, data: &[u8]) {
        if let Some(slot) = self.slot.upgrade() {
            slot.with_or_skip(|d| {
                if let Some(m) = d.mmio() {
                    m.write(vcpu, self.region, offset, data);
                }
            });
        }
    }
}

/// Memory-mapped registers that move.
pub(crate) struct MovableMmio {
    pub phys: Weak<PhysMap>,
    pub handler: Arc<MmioGlue>,
    pub size: u64,
    pub priority: i32,
    pub shown: Mutex<Option<(u64, RegionId)>>,
}

impl pdm::MmioRange for MovableMmio {
    fn set(&self, gpa: Option<u64>) {
        let Some(phys) = self.phys.upgrade() else {
            return;
        };
        let mut shown = self.shown.lock();
        if shown.map(|(at, _)| at) == gpa {
            return;
        }
        let old: Vec<_> = shown.iter().map(|(_, id)| *id).collect();
        let kind = RegionKind::Mmio(self.handler.clone());
        let new: Vec<_> = gpa
            .iter()
            .map(|at| (*at, self.size, self.priority, kind.clone()))
            .collect();
        let ids = phys.swap(&old, &new);
        *shown = gpa.zip(ids.first().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdm::PioRange;

    #[test]
    fn fixed_ports_win_over_movable_ones_which_come_back() {
        let ports = Ports::new();
        ports.claim(3, 0x60, 1).unwrap();
        assert!(ports.claim(4, 0x5f, 2).is_err());
        assert!(ports.claim(4, 0xffff, 2).is_err());
        let a = ports.movable(5, 4);
        let b = ports.movable(6, 4);
        a.set(Some(0x5e));
        assert_eq!(ports.device(0x5e), Some(5));
        assert_eq!(ports.device(0x60), Some(3));
        b.set(Some(0x5e));
        a.set(Some(0xfffe));
        assert_eq!(ports.device(0x5f), Some(6));
        assert_eq!(ports.device(0xfffe), None, "would pass the end");
        b.set(None);
        assert_eq!(ports.device(0x5f), None);
        assert_eq!(ports.device(0x60), Some(3));
    }
}
