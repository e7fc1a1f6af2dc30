//! What the VM offers a device while it is being built.

use std::sync::Arc;

use pgm::{PhysMap, RamBlock};

use crate::dma::IsaDma;
use crate::driver::{BlockDriver, CharDriver};
use crate::irq::{InterruptController, IrqLine, IrqSink};
use crate::{Clock, Result, Timer, pci};

/// What a device may ask of the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmRequest {
    /// Reset the machine (port 0xCF9, keyboard controller, triple fault).
    Reset,
    /// Power off (ACPI S5).
    PowerOff,
    /// Suspend to RAM was asked for (ACPI S1/S3).
    Sleep,
    /// Pause the VM and tell the user why; [`crate::Device::resume`] runs when it goes on.
    Suspend(String),
    /// A message for the user and the log; the VM goes on.
    Message(String),
}

/// Takes requests from devices. Never blocks: the VM acts on them soon, from another thread or at
/// the next exit of the vCPU.
pub trait VmControl: Send + Sync {
    /// Hands a request over.
    fn request(&self, request: VmRequest);
}

/// Registration services for one device instance. Everything handed out belongs to the instance
/// and is taken back when the VM ends.
pub trait Host {
    /// Claims `count` I/O ports from `first`; accesses arrive at [`crate::Device::pio`].
    ///
    /// # Errors
    /// [`crate::Error::Resource`] when one of them is taken.
    fn map_pio(&mut self, first: u16, count: u16) -> Result<()>;

    /// A handle with which ports can be moved later (PCI I/O BARs, PM base): starts unmapped.
    fn movable_pio(&mut self, count: u16) -> Arc<dyn PioRange>;

    /// Claims memory-mapped registers at a fixed place; accesses arrive at
    /// [`crate::Device::mmio`] with `region`. Higher `priority` hides lower (RAM is 0, ROM 1).
    ///
    /// # Errors
    /// [`crate::Error::Memory`] for a bad range.
    fn map_mmio(&mut self, region: u32, gpa: u64, size: u64, priority: i32) -> Result<()>;

    /// A handle with which registers can be moved later; starts unmapped.
    fn movable_mmio(&mut self, region: u32, size: u64, priority: i32) -> Arc<dyn MmioRange>;

    /// The level of an ISA interrupt line (0 to 15).
    fn isa_irq(&mut self, irq: u8) -> IrqLine;

    /// Makes a PCI function. Its configuration space is kept by PDM; BAR moves and special
    /// registers arrive at [`crate::Device::pci`].
    ///
    /// # Errors
    /// [`crate::Error::Resource`] when the slot is taken.
    fn pci_function(&mut self, function: pci::Function) -> Result<pci::Handle>;

    /// The PCI bus itself, for the host bridge.
    fn pci_bus(&mut self) -> Arc<pci::Bus>;

    /// A one-shot timer on virtual time; expiry arrives at [`crate::Device::timers`] with `id`.
    fn timer(&mut self, id: u32, name: &'static str) -> Timer;

    /// Virtual time.
    fn clock(&self) -> Arc<dyn Clock>;

    /// Guest-physical memory (bus mastering, memory regions of the device's own).
    fn phys(&self) -> Arc<PhysMap>;

    /// Memory of the device's own (video RAM, ROM image), zero filled, at least `size` bytes.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] when the pool is full.
    fn alloc_ram(&mut self, size: u64) -> Result<RamBlock>;

    /// The block driver attached at unit `lun`, if one is.
    fn block(&mut self, lun: u32) -> Option<Box<dyn BlockDriver>>;

    /// The character driver attached at `lun`, if one is.
    fn char(&mut self, lun: u32) -> Option<Box<dyn CharDriver>>;

    /// Requests to the VM.
    fn vm(&self) -> Arc<dyn VmControl>;

    /// Makes this device's object one that hears all interrupt lines (PIC, I/O APIC, PIIX3 router).
    fn add_irq_sink(&mut self, sink: Arc<dyn IrqSink>);

    /// Makes `controller` the VM's interrupt controller toward the vCPUs (local APICs with the PIC
    /// behind them). There is one.
    fn set_interrupt_controller(&mut self, controller: Arc<dyn InterruptController>);

    /// The controller that was set, for the PIC, I/O APICs and devices with message interrupts.
    /// `None` until the local APICs are built.
    fn interrupt_controller(&self) -> Option<Arc<dyn InterruptController>>;

    /// Makes `dma` the machine's ISA DMA. There is one.
    fn set_isa_dma(&mut self, dma: Arc<dyn IsaDma>);

    /// The ISA DMA that was set, for devices on that bus. `None` until the 8237 pair is built.
    fn isa_dma(&self) -> Option<Arc<dyn IsaDma>>;

    /// The signals toward the vCPUs, for interrupt controllers.
    fn cpus(&self) -> Arc<dyn crate::irq::CpuSignals>;

    /// A place where firmware tables meet: devices add fw_cfg files here, the fw_cfg device shows
    /// them (name up to 55 bytes, at most 64 MiB each).
    fn add_firmware_file(&mut self, name: &str, data: Vec<u8>);

    /// All firmware files added so far, by name. Read by the fw_cfg device at reset, after all
    /// devices were built.
    fn firmware_files(
        &self,
    ) -> Arc<parking_lot::Mutex<std::collections::BTreeMap<String, Vec<u8>>>>;

    /// The number of vCPUs.
    fn cpu_count(&self) -> u32;

    /// Bytes of RAM below 4 GiB and above it.
    fn ram_size(&self) -> (u64, u64);
}

/// Movable I/O ports.
pub trait PioRange: Send + Sync {
    /// Shows the ports at `first` (`None`: nowhere). A range that would pass 0xFFFF is not shown.
    fn set(&self, first: Option<u16>);
}

/// Movable memory-mapped registers.
pub trait MmioRange: Send + Sync {
    /// Shows the registers at `gpa` (`None`: nowhere).
    fn set(&self, gpa: Option<u64>);
}
