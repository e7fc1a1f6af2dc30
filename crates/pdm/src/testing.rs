//! A [`Host`] for unit tests of devices: real wires, PCI bus, memory and a clock set by hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pgm::{PhysMap, Ram, RamBlock, RegionKind, WriteFlags};

use crate::dma::IsaDma;
use crate::driver::{BlockDriver, CharDriver};
use crate::host::{Host, MmioRange, PioRange, VmControl, VmRequest};
use crate::irq::{CpuSignals, Hub, InterruptController, IrqSink, Wire};
use crate::time::TimerOps;
use crate::{Clock, IrqLine, Result, Timer, pci};

/// Virtual time that only tests move.
#[derive(Default)]
pub struct TestClock(AtomicU64);

impl TestClock {
    /// Goes forward by `ns`.
    pub fn advance(&self, ns: u64) {
        self.0.fetch_add(ns, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn wall_ns(&self) -> u64 {
        // 2024-02-29 12:00:00 UTC, a leap day.
        1_709_208_000_000_000_000 + self.now_ns()
    }
}

/// A timer that records its deadline; tests read it and call the device's `expired` themselves.
#[derive(Default)]
pub struct TestTimer(Mutex<Option<u64>>);

impl TimerOps for TestTimer {
    fn arm(&self, deadline_ns: u64) {
        *self.0.lock() = Some(deadline_ns);
    }
    fn disarm(&self) {
        *self.0.lock() = None;
    }
    fn deadline(&self) -> Option<u64> {
        *self.0.lock()
    }
}

/// Records what devices tell the VM and the vCPUs.
#[derive(Default)]
pub struct Recorder {
    /// Requests in order.
    pub requests: Mutex<Vec<VmRequest>>,
    /// Signals in order, as text (`intr 0 true`, `nmi 1`).
    pub signals: Mutex<Vec<String>>,
}

impl VmControl for Recorder {
    fn request(&self, request: VmRequest) {
        self.requests.lock().push(request);
    }
}

impl CpuSignals for Recorder {
    fn count(&self) -> usize {
        2
    }
    fn set_intr(&self, cpu: usize, pending: bool) {
        self.signals.lock().push(format!("intr {cpu} {pending}"));
    }
    fn nmi(&self, cpu: usize) {
        self.signals.lock().push(format!("nmi {cpu}"));
    }
    fn smi(&self, cpu: usize) {
        self.signals.lock().push(format!("smi {cpu}"));
    }
    fn init(&self, cpu: usize) {
        self.signals.lock().push(format!("init {cpu}"));
    }
    fn sipi(&self, cpu: usize, vector: u8) {
        self.signals.lock().push(format!("sipi {cpu} {vector:#x}"));
    }
}

/// A range that records where it was put.
#[derive(Default)]
pub struct TestRange(pub Mutex<Option<u64>>);

impl PioRange for TestRange {
    fn set(&self, first: Option<u16>) {
        *self.0.lock() = first.map(u64::from);
    }
}
impl MmioRange for TestRange {
    fn set(&self, gpa: Option<u64>) {
        *self.0.lock() = gpa;
    }
}

/// The host. Fields are open to tests.
pub struct TestHost {
    /// Wires.
    pub hub: Arc<Hub>,
    /// Bus 0.
    pub bus: Arc<pci::Bus>,
    /// 16 MiB of RAM at 0 (pool of 64 MiB).
    pub phys: Arc<PhysMap>,
    /// Time.
    pub clock: Arc<TestClock>,
    /// Requests and signals.
    pub recorder: Arc<Recorder>,
    /// Fixed ports claimed: first, count.
    pub ports: Vec<(u16, u16)>,
    /// Fixed MMIO claimed: region, address, size.
    pub mmio: Vec<(u32, u64, u64)>,
    /// Timers by id.
    pub timers: BTreeMap<u32, Timer>,
    /// Movable port ranges in order of creation.
    pub pio_ranges: Vec<Arc<TestRange>>,
    /// Movable MMIO ranges in order of creation.
    pub mmio_ranges: Vec<Arc<TestRange>>,
    /// Drivers to hand out.
    pub blocks: BTreeMap<u32, Box<dyn BlockDriver>>,
    /// Drivers to hand out.
    pub chars: BTreeMap<u32, Box<dyn CharDriver>>,
    /// Sinks added.
    pub sinks: Vec<Arc<dyn IrqSink>>,
    /// The controller set.
    pub controller: Option<Arc<dyn InterruptController>>,
    /// The ISA DMA set.
    pub dma: Option<Arc<dyn IsaDma>>,
    /// Firmware files.
    pub files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    owner: Arc<dyn pci::Owner>,
}

struct NoOwner;
impl pci::Owner for NoOwner {
    fn with_pci(&self, _: &mut dyn FnMut(&mut dyn pci::PciDevice)) {}
}

impl Default for TestHost {
    fn default() -> Self {
        let hub = Hub::new();
        let ram = Ram::new(64 << 20).expect("test memory");
        let block = ram.alloc(16 << 20).expect("test memory");
        let phys = PhysMap::new(ram);
        let kind = RegionKind::Memory {
            block,
            writes: WriteFlags::ReadWrite,
        };
        phys.add(0, block.size, 0, kind).expect("test memory");
        Self {
            bus: pci::Bus::new(hub.clone()),
            hub,
            phys,
            clock: Arc::default(),
            recorder: Arc::default(),
            ports: Vec::new(),
            mmio: Vec::new(),
            timers: BTreeMap::new(),
            pio_ranges: Vec::new(),
            mmio_ranges: Vec::new(),
            blocks: BTreeMap::new(),
            chars: BTreeMap::new(),
            sinks: Vec::new(),
            controller: None,
            dma: None,
            files: Arc::default(),
            owner: Arc::new(NoOwner),
        }
    }
}

impl Host for TestHost {
    fn map_pio(&mut self, first: u16, count: u16) -> Result<()> {
        self.ports.push((first, count));
        Ok(())
    }
    fn movable_pio(&mut self, _: u16) -> Arc<dyn PioRange> {
        let range = Arc::new(TestRange::default());
        self.pio_ranges.push(range.clone());
        range
    }
    fn map_mmio(&mut self, region: u32, gpa: u64, size: u64, _: i32) -> Result<()> {
        self.mmio.push((region, gpa, size));
        Ok(())
    }
    fn movable_mmio(&mut self, _: u32, _: u64, _: i32) -> Arc<dyn MmioRange> {
        let range = Arc::new(TestRange::default());
        self.mmio_ranges.push(range.clone());
        range
    }
    fn isa_irq(&mut self, irq: u8) -> IrqLine {
        self.hub.line(Wire::Isa(irq))
    }
    fn pci_function(&mut self, function: pci::Function) -> Result<pci::Handle> {
        self.bus.add(function, Arc::downgrade(&self.owner))
    }
    fn pci_bus(&mut self) -> Arc<pci::Bus> {
        self.bus.clone()
    }
    fn timer(&mut self, id: u32, _: &'static str) -> Timer {
        let timer = Timer::new(Arc::new(TestTimer::default()));
        self.timers.insert(id, timer.clone());
        timer
    }
    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }
    fn phys(&self) -> Arc<PhysMap> {
        self.phys.clone()
    }
    fn alloc_ram(&mut self, size: u64) -> Result<RamBlock> {
        Ok(self.phys.ram().alloc(size)?)
    }
    fn block(&mut self, lun: u32) -> Option<Box<dyn BlockDriver>> {
        self.blocks.remove(&lun)
    }
    fn char(&mut self, lun: u32) -> Option<Box<dyn CharDriver>> {
        self.chars.remove(&lun)
    }
    fn vm(&self) -> Arc<dyn VmControl> {
        self.recorder.clone()
    }
    fn add_irq_sink(&mut self, sink: Arc<dyn IrqSink>) {
        self.hub.add_sink(sink.clone());
        self.sinks.push(sink);
    }
    fn set_interrupt_controller(&mut self, controller: Arc<dyn InterruptController>) {
        self.controller = Some(controller);
    }
    fn interrupt_controller(&self) -> Option<Arc<dyn InterruptController>> {
        self.controller.clone()
    }
    fn set_isa_dma(&mut self, dma: Arc<dyn IsaDma>) {
        self.dma = Some(dma);
    }
    fn isa_dma(&self) -> Option<Arc<dyn IsaDma>> {
        self.dma.clone()
    }
    fn cpus(&self) -> Arc<dyn CpuSignals> {
        self.recorder.clone()
    }
    fn add_firmware_file(&mut self, name: &str, data: Vec<u8>) {
        self.files.lock().insert(name.to_owned(), data);
    }
    fn firmware_files(&self) -> Arc<Mutex<BTreeMap<String, Vec<u8>>>> {
        self.files.clone()
    }
    fn cpu_count(&self) -> u32 {
        1
    }
    fn ram_size(&self) -> (u64, u64) {
        (16 << 20, 0)
    }
}
