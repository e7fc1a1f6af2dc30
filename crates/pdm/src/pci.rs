//! PCI: configuration space, base address registers, and the one bus.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::IrqLine;
use crate::irq::{Hub, Wire};

/// Bytes of a function's configuration space.
pub const CONFIG_SIZE: usize = 256;

/// A base address register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bar {
    /// I/O ports, `size` a power of two from 4.
    Io {
        /// Ports.
        size: u32,
    },
    /// Memory, `size` a power of two from 16.
    Memory {
        /// Bytes.
        size: u32,
        /// Prefetchable.
        prefetch: bool,
    },
}

/// What a device asks for.
#[derive(Debug, Clone)]
pub struct Function {
    /// Device number 0 to 31.
    pub device: u8,
    /// Function number 0 to 7.
    pub function: u8,
    /// Initial configuration space: ids, class, revision, subsystem, header type, interrupt pin
    /// and device-specific registers.
    pub config: [u8; CONFIG_SIZE],
    /// Which bits the guest may change, byte by byte (command register, BARs and interrupt line
    /// are handled by the bus and need no bits here).
    pub writable: [u8; CONFIG_SIZE],
    /// Base address registers 0 to 5.
    pub bars: [Option<Bar>; 6],
    /// Expansion ROM size, a power of two from 2048, or 0.
    pub rom_size: u32,
}

impl Function {
    /// A function with the given ids. `class` is base class, subclass, programming interface as
    /// 0xBBSSPP.
    pub fn new(device: u8, function: u8, vendor: u16, id: u16, class: u32, revision: u8) -> Self {
        let mut config = [0; CONFIG_SIZE];
        config[0..2].copy_from_slice(&vendor.to_le_bytes());
        config[2..4].copy_from_slice(&id.to_le_bytes());
        config[8] = revision;
        config[9..12].copy_from_slice(&class.to_le_bytes()[..3]);
        Self {
            device,
            function,
            config,
            writable: [0; CONFIG_SIZE],
            bars: [None; 6],
            rom_size: 0,
        }
    }

    /// Sets the subsystem ids.
    pub fn subsystem(mut self, vendor: u16, id: u16) -> Self {
        self.config[0x2c..0x2e].copy_from_slice(&vendor.to_le_bytes());
        self.config[0x2e..0x30].copy_from_slice(&id.to_le_bytes());
        self
    }

    /// Uses interrupt pin INTA (1) to INTD (4).
    pub fn pin(mut self, pin: u8) -> Self {
        self.config[0x3d] = pin;
        self
    }

    /// Sets a BAR.
    pub fn bar(mut self, index: usize, bar: Bar) -> Self {
        self.bars[index] = Some(bar);
        self
    }
}

/// PCI callbacks of a device.
pub trait PciDevice {
    /// BAR `bar` (6: expansion ROM) is now decoded at `address`, or not at all.
    fn bar_moved(&mut self, bar: usize, address: Option<u64>);
    /// Bytes `offset .. offset + len` of the configuration space were written by the guest
    /// (after masking). `config` is the space; the device may change it.
    fn config_written(&mut self, offset: usize, len: usize, config: &mut [u8; CONFIG_SIZE]) {
        let _ = (offset, len, config);
    }
    /// Before a read, for registers whose value changes by itself.
    fn config_read(&mut self, offset: usize, config: &mut [u8; CONFIG_SIZE]) {
        let _ = (offset, config);
    }
}

/// State of one function. The VM's bus glue applies accesses; devices reach it by [`Handle`].
pub struct State {
    /// The function as registered.
    pub function: Function,
    /// The configuration space as the guest sees it.
    pub config: [u8; CONFIG_SIZE],
    decoded: [Option<u64>; 7],
}

/// A device's hold on its function.
#[derive(Clone)]
pub struct Handle {
    state: Arc<Mutex<State>>,
    irq: IrqLine,
}

impl Handle {
    /// Drives the function's INTx pin (nothing when it has none). Reflected in the status
    /// register's interrupt bit and masked by the command register's disable bit.
    pub fn set_irq(&self, level: bool) {
        let mut state = self.state.lock();
        state.config[6] = state.config[6] & !8 | u8::from(level) << 3;
        let masked = state.config[5] & 4 != 0;
        let has_pin = state.config[0x3d] != 0;
        drop(state);
        self.irq.set(level && has_pin && !masked);
    }

    /// Whether the guest lets the function be bus master.
    pub fn bus_master(&self) -> bool {
        self.state.lock().config[4] & 4 != 0
    }

    /// Reads configuration space.
    pub fn config(&self, offset: usize) -> u8 {
        self.state
            .lock()
            .config
            .get(offset)
            .copied()
            .unwrap_or(0xff)
    }

    /// Changes configuration space behind the guest's back (device-driven registers).
    pub fn with_config<R>(&self, f: impl FnOnce(&mut [u8; CONFIG_SIZE]) -> R) -> R {
        f(&mut self.state.lock().config)
    }

    /// The configuration space, for saved states.
    pub fn save(&self) -> Vec<u8> {
        self.state.lock().config.to_vec()
    }

    /// Takes a saved configuration space over; returns the BAR moves to apply with
    /// [`PciDevice::bar_moved`].
    ///
    /// # Errors
    /// [`crate::Error::SavedState`] when the length is wrong.
    pub fn load(&self, data: &[u8]) -> crate::Result<Vec<(usize, Option<u64>)>> {
        let config: [u8; CONFIG_SIZE] = data.try_into().map_err(|_| {
            crate::Error::SavedState("PCI configuration has the wrong length".into())
        })?;
        let mut state = self.state.lock();
        state.config = config;
        Ok(state.moved_bars())
    }

    /// Power-on state; returns the BAR moves to apply.
    pub fn reset(&self) -> Vec<(usize, Option<u64>)> {
        let mut state = self.state.lock();
        state.config = state.function.config;
        let moves = state.moved_bars();
        drop(state);
        self.irq.set(false);
        moves
    }
}

impl State {
    fn bar_offset(bar: usize) -> usize {
        if bar == 6 { 0x30 } else { 0x10 + bar * 4 }
    }

    fn word(&self, offset: usize) -> u32 {
        let c = &self.config;
        u32::from_le_bytes([c[offset], c[offset + 1], c[offset + 2], c[offset + 3]])
    }

    /// Where `bar` is decoded now.
    fn decode(&self, bar: usize) -> Option<u64> {
        let command = self.config[4];
        let value = self.word(Self::bar_offset(bar));
        if bar == 6 {
            let on = self.function.rom_size != 0 && command & 2 != 0 && value & 1 != 0;
            let at = value & !(self.function.rom_size.max(2048) - 1);
            return (on && at != 0).then_some(at.into());
        }
        match self.function.bars[bar]? {
            Bar::Io { size } => {
                let at = value & !(size.max(4) - 1) & 0xfffc;
                (command & 1 != 0 && at != 0).then_some(at.into())
            }
            Bar::Memory { size, .. } => {
                let at = value & !(size.max(16) - 1);
                let last = u64::from(at) + u64::from(size) - 1;
                // An all-ones BAR is the guest asking for the size.
                (command & 2 != 0 && at != 0 && last < 0xffff_ffff).then_some(at.into())
            }
        }
    }

    fn moved_bars(&mut self) -> Vec<(usize, Option<u64>)> {
        let mut moves = Vec::new();
        for bar in 0..7 {
            let now = self.decode(bar);
            if now != self.decoded[bar] {
                self.decoded[bar] = now;
                moves.push((bar, now));
            }
        }
        moves
    }

    /// Applies a guest write of `data` at `offset`; returns BAR moves.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Vec<(usize, Option<u64>)> {
        for (i, byte) in data.iter().enumerate() {
            let at = offset + i;
            if at >= CONFIG_SIZE {
                break;
            }
            let mask = self.write_mask(at);
            // The upper status byte's bits are cleared by writing ones.
            if at == 7 {
                self.config[7] &= !(byte & 0xf9);
            } else {
                self.config[at] = self.config[at] & !mask | byte & mask;
            }
        }
        self.moved_bars()
    }

    fn write_mask(&self, at: usize) -> u8 {
        let bar_mask =
            |size: u32, fixed: u32, byte: usize| (!(size - 1) & !fixed).to_le_bytes()[byte];
        match at {
            // I/O, memory, bus master, parity, SERR; interrupt disable.
            4 => 0x47,
            5 => 0x05,
            0x0c | 0x0d => 0xff,
            0x10..=0x27 => match self.function.bars[(at - 0x10) / 4] {
                Some(Bar::Io { size }) => bar_mask(size.max(4), 3, at % 4),
                Some(Bar::Memory { size, .. }) => bar_mask(size.max(16), 15, at % 4),
                None => self.function.writable[at],
            },
            0x30..=0x33 if self.function.rom_size != 0 => {
                bar_mask(self.function.rom_size.max(2048), 0x7fe, at % 4) | u8::from(at == 0x30)
            }
            0x3c => 0xff,
            _ => self.function.writable[at],
        }
    }
}

/// A function with the callback path to its device.
struct Slot {
    state: Arc<Mutex<State>>,
    owner: std::sync::Weak<dyn Owner>,
}

/// A function's state and, while its device lives, the way to it.
type Found = (Arc<Mutex<State>>, Option<Arc<dyn Owner>>);

/// How the bus reaches the device of a function; implemented by the VM (locks the device).
pub trait Owner: Send + Sync {
    /// Runs `f` on the device's [`PciDevice`] with its lock held.
    fn with_pci(&self, f: &mut dyn FnMut(&mut dyn PciDevice));
}

/// PCI bus 0.
pub struct Bus {
    hub: Arc<Hub>,
    slots: Mutex<Vec<(u8, Slot)>>,
}

impl Bus {
    /// An empty bus whose INTx pins end at `hub`.
    pub fn new(hub: Arc<Hub>) -> Arc<Self> {
        Arc::new(Self {
            hub,
            slots: Mutex::default(),
        })
    }

    /// Adds a function.
    ///
    /// # Errors
    /// [`crate::Error::Resource`] when the place is taken or out of range.
    pub fn add(
        &self,
        function: Function,
        owner: std::sync::Weak<dyn Owner>,
    ) -> crate::Result<Handle> {
        let devfn = function.device << 3 | function.function & 7;
        let mut slots = self.slots.lock();
        if function.device > 31 || slots.iter().any(|(d, _)| *d == devfn) {
            let place = format!("PCI 00:{:02x}.{}", function.device, function.function);
            return Err(crate::Error::Resource(place));
        }
        let mut function = function;
        for (i, bar) in function.bars.iter().enumerate() {
            function.config[0x10 + i * 4] |= match bar {
                Some(Bar::Io { .. }) => 1,
                Some(Bar::Memory { prefetch: true, .. }) => 8,
                _ => 0,
            };
        }
        // PIIX3 boards rotate the pins: INTA of device n ends at PIRQ (n + 0) mod 4 with the
        // offset that puts device 1 on PIRQA.
        let pin = function.config[0x3d].saturating_sub(1);
        let pirq = function.device.wrapping_add(pin).wrapping_sub(1) & 3;
        let irq = self.hub.line(Wire::Pirq(pirq));
        let config = function.config;
        let state = Arc::new(Mutex::new(State {
            function,
            config,
            decoded: [None; 7],
        }));
        slots.push((
            devfn,
            Slot {
                state: state.clone(),
                owner,
            },
        ));
        Ok(Handle { state, irq })
    }

    fn slot(&self, devfn: u8) -> Option<Found> {
        let slots = self.slots.lock();
        let (_, slot) = slots.iter().find(|(d, _)| *d == devfn)?;
        Some((slot.state.clone(), slot.owner.upgrade()))
    }

    /// Reads configuration space of `bus`, `devfn`. Absent functions read as all ones. Must not be
    /// called with a device's lock held except the host bridge's own.
    pub fn read_config(&self, bus: u8, devfn: u8, offset: usize, data: &mut [u8]) {
        data.fill(0xff);
        if bus != 0 {
            return;
        }
        let Some((state, owner)) = self.slot(devfn) else {
            return;
        };
        if let Some(owner) = owner {
            owner.with_pci(&mut |dev| {
                let mut config = state.lock().config;
                dev.config_read(offset, &mut config);
                state.lock().config = config;
            });
        }
        let state = state.lock();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = state.config.get(offset + i).copied().unwrap_or(0xff);
        }
    }

    /// Writes configuration space, telling the device what moved.
    pub fn write_config(&self, bus: u8, devfn: u8, offset: usize, data: &[u8]) {
        if bus != 0 {
            return;
        }
        let Some((state, owner)) = self.slot(devfn) else {
            return;
        };
        let moves = state.lock().write(offset, data);
        let Some(owner) = owner else { return };
        owner.with_pci(&mut |dev| {
            for (bar, address) in &moves {
                dev.bar_moved(*bar, *address);
            }
            let mut config = state.lock().config;
            dev.config_written(offset, data.len(), &mut config);
            state.lock().config = config;
        });
    }

    /// All functions present, as device/function numbers, for `info pci`.
    pub fn functions(&self) -> Vec<(u8, [u8; CONFIG_SIZE])> {
        let mut all: Vec<_> = self
            .slots
            .lock()
            .iter()
            .map(|(d, s)| (*d, s.state.lock().config))
            .collect();
        all.sort_by_key(|(d, _)| *d);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;
    impl Owner for Nobody {
        fn with_pci(&self, _: &mut dyn FnMut(&mut dyn PciDevice)) {}
    }

    #[test]
    fn bars_are_sized_and_moved() {
        let bus = Bus::new(Hub::new());
        let owner: Arc<dyn Owner> = Arc::new(Nobody);
        let f = Function::new(3, 0, 0x1234, 0x5678, 0x020000, 0)
            .bar(
                0,
                Bar::Memory {
                    size: 0x1000,
                    prefetch: false,
                },
            )
            .bar(1, Bar::Io { size: 0x20 });
        let handle = bus.add(f, Arc::downgrade(&owner)).unwrap();
        bus.write_config(0, 3 << 3, 0x10, &[0xff; 8]);
        let mut got = [0; 8];
        bus.read_config(0, 3 << 3, 0x10, &mut got);
        assert_eq!(got, [0, 0xf0, 0xff, 0xff, 0xe1, 0xff, 0xff, 0xff]);
        bus.write_config(0, 3 << 3, 4, &[3]);
        bus.write_config(0, 3 << 3, 0x10, &0xe000_0000u32.to_le_bytes());
        let data = handle.save();
        handle.reset();
        let moves = handle.load(&data).unwrap();
        assert!(moves.contains(&(0, Some(0xe000_0000))));
    }

    #[test]
    fn absent_functions_read_as_ones() {
        let bus = Bus::new(Hub::new());
        let mut got = [0; 4];
        bus.read_config(0, 0x80, 0, &mut got);
        assert_eq!(got, [0xff; 4]);
        bus.write_config(1, 0, 300, &[0; 4]);
    }
}
