//! What every device of the registry must do: keep its state over save and load, bring nothing
//! down whatever a guest does, and refuse saved states that make no sense.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use pdm::cfgm::Node;
use pdm::dma::IsaDma;
use pdm::driver::{BlockDriver, BlockError, CharDriver, DriveKind};
use pdm::irq::{CpuSignals, InterruptController, IrqSink};
use pdm::testing::TestHost;
use pdm::{
    Clock, Device, DeviceReg, Host, IrqLine, MmioRange, PioRange, Result, Shared, Timer, VmControl,
    pci, share,
};
use pgm::{PhysMap, RamBlock};

/// Pseudo-random numbers (xorshift64*).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n.max(1)
    }
    /// A value as guests write them: often small or all ones, else anything.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.next() & 0xf,
            1 => 1 << self.below(64),
            2 => u64::MAX,
            3 => self.next() & 0xff,
            _ => self.next(),
        }
    }
}

/// A disk in memory.
struct MemoryDisk {
    data: Vec<u8>,
    kind: DriveKind,
}

impl BlockDriver for MemoryDisk {
    fn size(&self) -> u64 {
        self.data.len() as u64
    }
    fn read_only(&self) -> bool {
        self.kind == DriveKind::Dvd
    }
    fn kind(&self) -> DriveKind {
        self.kind
    }
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        let from = usize::try_from(offset).map_err(|_| BlockError::OutOfRange)?;
        let end = from.checked_add(data.len()).ok_or(BlockError::OutOfRange)?;
        data.copy_from_slice(self.data.get(from..end).ok_or(BlockError::OutOfRange)?);
        Ok(())
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let from = usize::try_from(offset).map_err(|_| BlockError::OutOfRange)?;
        let end = from.checked_add(data.len()).ok_or(BlockError::OutOfRange)?;
        let to = self.data.get_mut(from..end).ok_or(BlockError::OutOfRange)?;
        to.copy_from_slice(data);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
    fn discard(&mut self, _: u64, _: u64) -> Result<(), BlockError> {
        Ok(())
    }
}

/// Ports or registers that move.
struct Range {
    at: Mutex<Option<u64>>,
    region: u32,
    size: u64,
}

impl PioRange for Range {
    fn set(&self, first: Option<u16>) {
        *self.at.lock() = first.map(u64::from);
    }
}
impl MmioRange for Range {
    fn set(&self, gpa: Option<u64>) {
        *self.at.lock() = gpa;
    }
}

/// The bus's way to the device.
#[derive(Default)]
struct Owner(Mutex<Weak<Mutex<Box<dyn Device>>>>);

impl pci::Owner for Owner {
    fn with_pci(&self, f: &mut dyn FnMut(&mut dyn pci::PciDevice)) {
        let device = self.0.lock().upgrade();
        if let Some(device) = device
            && let Some(pci) = device.lock().pci()
        {
            f(pci);
        }
    }
}

/// The test host, with BARs that really arrive at the device.
#[derive(Default)]
struct RigHost {
    inner: TestHost,
    owner: Arc<Owner>,
    pio: Vec<Arc<Range>>,
    mmio: Vec<Arc<Range>>,
    functions: Vec<u8>,
}

impl Host for RigHost {
    fn map_pio(&mut self, first: u16, count: u16) -> Result<()> {
        self.inner.map_pio(first, count)
    }
    fn movable_pio(&mut self, count: u16) -> Arc<dyn PioRange> {
        let (at, size) = (Mutex::default(), count.into());
        self.pio.push(Arc::new(Range {
            at,
            region: 0,
            size,
        }));
        self.pio[self.pio.len() - 1].clone()
    }
    fn map_mmio(&mut self, region: u32, gpa: u64, size: u64, priority: i32) -> Result<()> {
        self.inner.map_mmio(region, gpa, size, priority)
    }
    fn movable_mmio(&mut self, region: u32, size: u64, _: i32) -> Arc<dyn MmioRange> {
        let at = Mutex::default();
        self.mmio.push(Arc::new(Range { at, region, size }));
        self.mmio[self.mmio.len() - 1].clone()
    }
    fn isa_irq(&mut self, irq: u8) -> IrqLine {
        self.inner.isa_irq(irq)
    }
    fn pci_function(&mut self, function: pci::Function) -> Result<pci::Handle> {
        self.functions
            .push(function.device << 3 | function.function);
        let owner: Arc<dyn pci::Owner> = self.owner.clone();
        self.inner.bus.add(function, Arc::downgrade(&owner))
    }
    fn pci_bus(&mut self) -> Arc<pci::Bus> {
        self.inner.pci_bus()
    }
    fn timer(&mut self, id: u32, name: &'static str) -> Timer {
        self.inner.timer(id, name)
    }
    fn clock(&self) -> Arc<dyn Clock> {
        self.inner.clock()
    }
    fn phys(&self) -> Arc<PhysMap> {
        self.inner.phys()
    }
    fn alloc_ram(&mut self, size: u64) -> Result<RamBlock> {
        self.inner.alloc_ram(size)
    }
    fn block(&mut self, lun: u32) -> Option<Box<dyn BlockDriver>> {
        self.inner.block(lun)
    }
    fn char(&mut self, lun: u32) -> Option<Box<dyn CharDriver>> {
        self.inner.char(lun)
    }
    fn vm(&self) -> Arc<dyn VmControl> {
        self.inner.vm()
    }
    fn add_irq_sink(&mut self, sink: Arc<dyn IrqSink>) {
        self.inner.add_irq_sink(sink);
    }
    fn set_interrupt_controller(&mut self, controller: Arc<dyn InterruptController>) {
        self.inner.set_interrupt_controller(controller);
    }
    fn interrupt_controller(&self) -> Option<Arc<dyn InterruptController>> {
        self.inner.interrupt_controller()
    }
    fn set_isa_dma(&mut self, dma: Arc<dyn IsaDma>) {
        self.inner.set_isa_dma(dma);
    }
    fn isa_dma(&self) -> Option<Arc<dyn IsaDma>> {
        self.inner.isa_dma()
    }
    fn cpus(&self) -> Arc<dyn CpuSignals> {
        self.inner.cpus()
    }
    fn add_firmware_file(&mut self, name: &str, data: Vec<u8>) {
        self.inner.add_firmware_file(name, data);
    }
    fn firmware_files(&self) -> Arc<Mutex<BTreeMap<String, Vec<u8>>>> {
        self.inner.firmware_files()
    }
    fn cpu_count(&self) -> u32 {
        self.inner.cpu_count()
    }
    fn ram_size(&self) -> (u64, u64) {
        self.inner.ram_size()
    }
}

/// A device alone in its machine.
struct Rig {
    host: RigHost,
    device: Shared,
    _rom: tempfile::NamedTempFile,
}

fn build(reg: &DeviceReg) -> Rig {
    let mut host = RigHost::default();
    for (lun, kind) in [DriveKind::Disk, DriveKind::Disk, DriveKind::Dvd]
        .iter()
        .enumerate()
    {
        let data = vec![lun as u8; 1 << 20];
        let disk = Box::new(MemoryDisk { data, kind: *kind });
        host.inner.blocks.insert(lun as u32, disk);
    }
    // The only value without a default: the firmware's file.
    let rom = tempfile::NamedTempFile::new().unwrap();
    rom.as_file().set_len(0x4_0000).unwrap();
    let mut config = Node::default();
    if reg.name == "pcbios" {
        config.set("BiosRom", rom.path().to_str().unwrap());
    }
    let device =
        (reg.construct)(&config, 0, &mut host).unwrap_or_else(|e| panic!("{}: {e}", reg.name));
    let device = share(device);
    *host.owner.0.lock() = Arc::downgrade(&device);
    device.lock().reset();
    let rig = Rig {
        host,
        device,
        _rom: rom,
    };
    rig.open_bars();
    rig
}

impl Rig {
    /// Puts each BAR somewhere and turns decoding on, as firmware does.
    fn open_bars(&self) {
        for devfn in &self.host.functions {
            let bus = &self.host.inner.bus;
            for bar in 0..6usize {
                let offset = 0x10 + bar * 4;
                let mut old = [0; 4];
                bus.read_config(0, *devfn, offset, &mut old);
                let address = if old[0] & 1 != 0 {
                    0xc000 + bar as u32 * 0x400
                } else {
                    0xe000_0000 + bar as u32 * 0x0400_0000
                };
                bus.write_config(0, *devfn, offset, &address.to_le_bytes());
            }
            bus.write_config(0, *devfn, 4, &[7, 0]);
            let mut id = [0; 4];
            bus.read_config(0, *devfn, 0, &mut id);
            if id == [0x86, 0x80, 0x13, 0x71] {
                // The power management function has its ports behind registers of its own.
                for (offset, data) in [
                    (0x40, [1, 6]),
                    (0x80, [1, 0]),
                    (0x90, [1, 7]),
                    (0xd2, [9, 0]),
                ] {
                    bus.write_config(0, *devfn, offset, &data);
                }
            }
        }
    }

    /// All ports decoded now: first, count.
    fn ports(&self) -> Vec<(u16, u16)> {
        let moved = self.host.pio.iter().filter_map(|r| {
            let first = u16::try_from((*r.at.lock())?).ok()?;
            Some((first, r.size as u16))
        });
        self.host.inner.ports.iter().copied().chain(moved).collect()
    }

    /// All registers decoded now: region, size.
    fn registers(&self) -> Vec<(u32, u64)> {
        let fixed = self
            .host
            .inner
            .mmio
            .iter()
            .map(|(region, _, size)| (*region, *size));
        let moved = self.host.mmio.iter().filter(|r| r.at.lock().is_some());
        fixed.chain(moved.map(|r| (r.region, r.size))).collect()
    }

    /// One thing a guest or the world does. `settle`: no writes to configuration space.
    fn poke(&self, rng: &mut Rng, settle: bool) {
        match rng.below(16) {
            0 => self.host.inner.clock.advance(rng.next() % 50_000_000),
            1 => self.expire(rng),
            2 if !settle => self.configure(rng),
            3..=5 => self.mmio(rng),
            6 => self.world(rng),
            _ => self.pio(rng),
        }
    }

    fn expire(&self, rng: &mut Rng) {
        let armed: Vec<_> = self.host.inner.timers.iter().collect();
        if armed.is_empty() {
            return;
        }
        let (id, timer) = armed[rng.below(armed.len())];
        let Some(deadline) = timer.deadline() else {
            return;
        };
        let now = self.host.inner.clock.now_ns();
        // Beyond an hour nobody waits.
        if deadline > now + 3_600_000_000_000 {
            return;
        }
        self.host.inner.clock.advance(deadline.saturating_sub(now));
        timer.disarm();
        if let Some(sink) = self.device.lock().timers() {
            sink.expired(*id);
        }
    }

    fn configure(&self, rng: &mut Rng) {
        let functions = &self.host.functions;
        if functions.is_empty() {
            return;
        }
        let devfn = functions[rng.below(functions.len())];
        let bytes = rng.value().to_le_bytes();
        let len = 1 << rng.below(3);
        let offset = rng.below(256 / len) * len;
        self.host
            .inner
            .bus
            .write_config(0, devfn, offset, &bytes[..len]);
        let mut data = [0; 4];
        self.host
            .inner
            .bus
            .read_config(0, devfn, offset, &mut data[..len]);
        if rng.below(4) == 0 {
            self.open_bars();
        }
    }

    fn pio(&self, rng: &mut Rng) {
        let ports = self.ports();
        if ports.is_empty() {
            return;
        }
        let (first, count) = ports[rng.below(ports.len())];
        let port = first.wrapping_add(rng.below(count.into()) as u16);
        let size = 1u8 << rng.below(3);
        let value = rng.value() as u32;
        let mut device = self.device.lock();
        let Some(io) = device.pio() else { return };
        match rng.below(8) {
            0 => {
                let mut data = vec![0; usize::from(size) * (1 + rng.below(600))];
                io.read_string(port, size, &mut data);
            }
            1 => {
                let data = vec![value as u8; usize::from(size) * (1 + rng.below(600))];
                io.write_string(port, size, &data);
            }
            2..=3 => {
                io.read(port, size);
            }
            _ => {
                let mask = u32::MAX >> (32 - 8 * u32::from(size));
                io.write(port, size, value & mask);
            }
        }
    }

    fn mmio(&self, rng: &mut Rng) {
        let registers = self.registers();
        if registers.is_empty() {
            return;
        }
        let (region, size) = registers[rng.below(registers.len())];
        let mut data = rng.value().to_le_bytes();
        let len = if rng.below(2) == 0 {
            4
        } else {
            1 + rng.below(8)
        }
        .min(size as usize);
        // Registers crowd at the start; the end of the region matters, too.
        let span = if rng.below(2) == 0 {
            size.min(0x400)
        } else {
            size
        };
        let mut offset = rng.next() % (span - (len as u64).min(span) + 1);
        match rng.below(4) {
            0 => {}
            1 => offset &= !3,
            2 => offset &= !0xf,
            _ => offset = (offset & 3) << 4,
        }
        let mut device = self.device.lock();
        let Some(mmio) = device.mmio() else { return };
        // A second processor exists on the bus even where this machine has one.
        let vcpu = rng.below(2);
        if rng.below(3) == 0 {
            mmio.read(vcpu, region, offset, &mut data[..len]);
        } else {
            mmio.write(vcpu, region, offset, &data[..len]);
        }
    }

    /// The user and other machines.
    fn world(&self, rng: &mut Rng) {
        let mut device = self.device.lock();
        if let Some(keyboard) = device.keyboard() {
            keyboard.put_scancode(rng.next() as u8);
        }
        if let Some(mouse) = device.mouse() {
            mouse.put_mouse_event(pdm::MouseEvent {
                dx: rng.next() as i32 >> 20,
                dy: rng.next() as i32 >> 4,
                dz: rng.next() as i32 >> 28,
                buttons: rng.next() as u8,
            });
        }
        if let Some(chars) = device.char_input() {
            chars.receive(&rng.next().to_le_bytes());
            chars.modem(true, false, rng.below(2) == 0, true);
        }
        if let Some(acpi) = device.acpi() {
            acpi.power_button();
        }
        if let Some(display) = device.display() {
            display.mode();
            if rng.below(64) == 0 {
                display.frame();
                display.text();
            }
        }
        let mut text = String::new();
        if rng.below(16) == 0 {
            device.info("", &mut text).unwrap();
        }
    }

    fn save(&self) -> Vec<u8> {
        self.device.lock().save().unwrap()
    }
}

#[test]
fn every_state_survives_save_and_load() {
    for reg in devices::registry::DEVICES {
        let mut changed = false;
        for seed in 1..=4u64 {
            let mut rng = Rng(seed << 32 | 0x1234_5678);
            let busy = build(reg);
            (0..3000).for_each(|_| busy.poke(&mut rng, seed % 2 == 0));
            let first = busy.save();
            let fresh = build(reg);
            let blank = fresh.save();
            changed |= first.is_empty() || first != blank;
            // TM restores virtual time before devices load.
            fresh
                .host
                .inner
                .clock
                .advance(busy.host.inner.clock.now_ns());
            fresh.device.lock().reset();
            let loaded = fresh.device.lock().load(reg.saved_version, &first);
            loaded.unwrap_or_else(|e| panic!("{} seed {seed}: {e}", reg.name));
            let second = fresh.save();
            assert!(
                first == second,
                "{} seed {seed}: the state changed by loading it",
                reg.name
            );
            // Both go on alike.
            assert_eq!(busy.ports(), fresh.ports(), "{} seed {seed}", reg.name);
            assert_eq!(
                busy.registers(),
                fresh.registers(),
                "{} seed {seed}",
                reg.name
            );
        }
        assert!(
            changed,
            "{}: nothing that was done changed its state",
            reg.name
        );
    }
}

#[test]
fn no_guest_brings_a_device_down() {
    for reg in devices::registry::DEVICES {
        let mut rng = Rng(0x0bad_5eed);
        let rig = build(reg);
        for n in 0..100_000 {
            rig.poke(&mut rng, false);
            if n % 20_000 == 19_999 {
                rig.device.lock().reset();
                rig.open_bars();
            }
        }
    }
}

#[test]
fn damaged_states_are_refused_or_harmless() {
    for reg in devices::registry::DEVICES {
        let mut rng = Rng(0xdada);
        let busy = build(reg);
        (0..1000).for_each(|_| busy.poke(&mut rng, true));
        let good = busy.save();
        let rig = build(reg);
        let load = |version: u32, data: &[u8]| rig.device.lock().load(version, data);
        assert!(
            load(reg.saved_version + 1, &good).is_err(),
            "{}: version",
            reg.name
        );
        let longer = [&good[..], &[0]].concat();
        assert!(
            load(reg.saved_version, &longer).is_err(),
            "{}: left over",
            reg.name
        );
        for _ in 0..200 {
            let mut bad = good.clone();
            if bad.is_empty() {
                break;
            }
            // Most of a big state is memory contents; damage the numbers in front, too.
            let span = if rng.below(2) == 0 {
                bad.len()
            } else {
                bad.len().min(200)
            };
            let at = rng.below(span);
            match rng.below(3) {
                0 => bad.truncate(at),
                1 => bad[at] ^= 1 << rng.below(8),
                _ => bad[at] = rng.next() as u8,
            }
            if load(reg.saved_version, &bad).is_ok() {
                (0..50).for_each(|_| rig.poke(&mut rng, true));
            }
        }
    }
}
