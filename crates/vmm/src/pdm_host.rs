//! PDM: builds the devices of the configuration tree.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use pdm::cfgm::Node;
use pdm::dma::IsaDma;
use pdm::driver::{BlockDriver, CharDriver, CharInput};
use pdm::irq::{CpuSignals, Hub, InterruptController, IrqSink, Wire};
use pdm::time::TimerOps;
use pdm::{Clock, DeviceReg, Host, IrqLine, MmioRange, PioRange, Result, Timer, VmControl, pci};
use pgm::{PhysMap, RamBlock, RegionKind};

use crate::Error;
use crate::iom::{DeviceSlot, MmioGlue, MovableMmio, Ports};
use crate::tm::{Tm, TmTimer};
use crate::trpm::Trpm;

/// Drivers to attach below devices, by device name, instance and unit.
#[derive(Default)]
pub struct Attachments {
    blocks: BTreeMap<(String, u32, u32), Box<dyn BlockDriver>>,
    chars: BTreeMap<(String, u32, u32), Box<dyn CharDriver>>,
}

impl Attachments {
    /// Attaches a disk, CD or floppy drive.
    pub fn block(&mut self, device: &str, instance: u32, lun: u32, driver: Box<dyn BlockDriver>) {
        self.blocks
            .insert((device.to_owned(), instance, lun), driver);
    }

    /// Attaches the host side of a serial port.
    pub fn char(&mut self, device: &str, instance: u32, lun: u32, driver: Box<dyn CharDriver>) {
        self.chars
            .insert((device.to_owned(), instance, lun), driver);
    }
}

/// What devices are built from.
pub(crate) struct Parts {
    pub phys: Arc<PhysMap>,
    pub ports: Arc<Ports>,
    pub tm: Arc<Tm>,
    pub trpm: Trpm,
    pub hub: Arc<Hub>,
    pub pci: Arc<pci::Bus>,
    pub control: Arc<dyn VmControl>,
    pub ram_size: (u64, u64),
}

/// Builds all devices below `Devices` in the order of `registry`.
pub(crate) fn build(
    config: &Node,
    registry: &'static [DeviceReg],
    parts: &Parts,
    mut attachments: Attachments,
) -> Result<Vec<Arc<DeviceSlot>>, Error> {
    let empty = Node::default();
    let devices = config.child("Devices").unwrap_or(&empty);
    if let Some((name, _)) = devices
        .children()
        .find(|(name, _)| !registry.iter().any(|r| r.name == *name))
    {
        return Err(Error::UnknownDevice(name.to_owned()));
    }
    let mut slots: Vec<Arc<DeviceSlot>> = Vec::new();
    let mut shared = Shared::default();
    for reg in registry {
        let Some(node) = devices.child(reg.name) else {
            continue;
        };
        for instance in 0..reg.max_instances {
            let Some(node) = node.child(&instance.to_string()) else {
                continue;
            };
            let slot = DeviceSlot::new(reg, instance);
            let mut host = BuildHost {
                parts,
                shared: &mut shared,
                attachments: &mut attachments,
                slot: &slot,
                index: slots.len(),
            };
            let device =
                (reg.construct)(node.child("Config").unwrap_or(&empty), instance, &mut host)
                    .map_err(|source| Error::Device {
                        device: reg.name.to_owned(),
                        instance,
                        source,
                    })?;
            slot.fill(device);
            slots.push(slot);
        }
    }
    Ok(slots)
}

/// What earlier devices left for later ones.
#[derive(Default)]
struct Shared {
    dma: Option<Arc<dyn IsaDma>>,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

/// The host of one device while it is built.
struct BuildHost<'a> {
    parts: &'a Parts,
    shared: &'a mut Shared,
    attachments: &'a mut Attachments,
    slot: &'a Arc<DeviceSlot>,
    index: usize,
}

impl BuildHost<'_> {
    fn key(&self, lun: u32) -> (String, u32, u32) {
        (self.slot.reg.name.to_owned(), self.slot.instance, lun)
    }

    fn glue(&self, region: u32) -> Arc<MmioGlue> {
        Arc::new(MmioGlue {
            slot: Arc::downgrade(self.slot),
            region,
        })
    }
}

impl Host for BuildHost<'_> {
    fn map_pio(&mut self, first: u16, count: u16) -> Result<()> {
        self.parts.ports.claim(self.index, first, count)
    }

    fn movable_pio(&mut self, count: u16) -> Arc<dyn PioRange> {
        self.parts.ports.movable(self.index, count)
    }

    fn map_mmio(&mut self, region: u32, gpa: u64, size: u64, priority: i32) -> Result<()> {
        let kind = RegionKind::Mmio(self.glue(region));
        self.parts.phys.add(gpa, size, priority, kind)?;
        Ok(())
    }

    fn movable_mmio(&mut self, region: u32, size: u64, priority: i32) -> Arc<dyn MmioRange> {
        Arc::new(MovableMmio {
            phys: Arc::downgrade(&self.parts.phys),
            handler: self.glue(region),
            size,
            priority,
            shown: Mutex::new(None),
        })
    }

    fn isa_irq(&mut self, irq: u8) -> IrqLine {
        self.parts.hub.line(Wire::Isa(irq))
    }

    fn pci_function(&mut self, function: pci::Function) -> Result<pci::Handle> {
        let owner: Arc<dyn pci::Owner> = self.slot.clone();
        self.parts.pci.add(function, Arc::downgrade(&owner))
    }

    fn pci_bus(&mut self) -> Arc<pci::Bus> {
        self.parts.pci.clone()
    }

    fn timer(&mut self, id: u32, name: &'static str) -> Timer {
        let index = self.parts.tm.add(self.index, id, name);
        let tm = self.parts.tm.clone();
        let ops: Arc<dyn TimerOps> = Arc::new(TmTimer { tm, index });
        Timer::new(ops)
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.parts.tm.clone()
    }

    fn phys(&self) -> Arc<PhysMap> {
        self.parts.phys.clone()
    }

    fn alloc_ram(&mut self, size: u64) -> Result<RamBlock> {
        Ok(self.parts.phys.ram().alloc(size)?)
    }

    fn block(&mut self, lun: u32) -> Option<Box<dyn BlockDriver>> {
        self.attachments.blocks.remove(&self.key(lun))
    }

    fn char(&mut self, lun: u32) -> Option<Box<dyn CharDriver>> {
        let mut driver = self.attachments.chars.remove(&self.key(lun))?;
        let input: Arc<dyn CharInput> = self.slot.clone();
        driver.start(input);
        Some(driver)
    }

    fn vm(&self) -> Arc<dyn VmControl> {
        self.parts.control.clone()
    }

    fn add_irq_sink(&mut self, sink: Arc<dyn IrqSink>) {
        self.parts.hub.add_sink(sink);
    }

    fn set_interrupt_controller(&mut self, controller: Arc<dyn InterruptController>) {
        self.parts.trpm.set_controller(controller);
    }

    fn interrupt_controller(&self) -> Option<Arc<dyn InterruptController>> {
        self.parts.trpm.controller().cloned()
    }

    fn set_isa_dma(&mut self, dma: Arc<dyn IsaDma>) {
        self.shared.dma = Some(dma);
    }

    fn isa_dma(&self) -> Option<Arc<dyn IsaDma>> {
        self.shared.dma.clone()
    }

    fn cpus(&self) -> Arc<dyn CpuSignals> {
        self.parts.trpm.cpus.clone()
    }

    fn add_firmware_file(&mut self, name: &str, data: Vec<u8>) {
        self.shared.files.lock().insert(name.to_owned(), data);
    }

    fn firmware_files(&self) -> Arc<Mutex<BTreeMap<String, Vec<u8>>>> {
        self.shared.files.clone()
    }

    fn cpu_count(&self) -> u32 {
        self.parts.trpm.cpus.signals.len() as u32
    }

    fn ram_size(&self) -> (u64, u64) {
        self.parts.ram_size
    }
}
