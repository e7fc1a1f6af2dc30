//! TRPM: interrupts on their way from the controllers to the vCPUs.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};

use cpu::{Signals, signal};
use pdm::irq::{CpuSignals, InterruptController};

/// Signals of all vCPUs; what controllers talk to.
pub(crate) struct Cpus {
    pub signals: Vec<Arc<Signals>>,
}

impl CpuSignals for Cpus {
    fn count(&self) -> usize {
        self.signals.len()
    }
    fn set_intr(&self, cpu: usize, pending: bool) {
        if let Some(s) = self.signals.get(cpu) {
            if pending {
                s.raise(signal::INTR);
            } else {
                s.take(signal::INTR);
            }
        }
    }
    fn nmi(&self, cpu: usize) {
        self.raise(cpu, signal::NMI);
    }
    fn smi(&self, cpu: usize) {
        self.raise(cpu, signal::SMI);
    }
    fn init(&self, cpu: usize) {
        self.raise(cpu, signal::INIT);
    }
    fn sipi(&self, cpu: usize, vector: u8) {
        if let Some(s) = self.signals.get(cpu) {
            s.raise_sipi(vector);
        }
    }
}

impl Cpus {
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            signals: (0..count).map(|_| Arc::default()).collect(),
        })
    }

    fn raise(&self, cpu: usize, bit: u32) {
        if let Some(s) = self.signals.get(cpu) {
            s.raise(bit);
        }
    }
}

const NONE: u16 = u16::MAX;

/// The interrupt controller with vectors that engines gave back in front of it.
pub(crate) struct Trpm {
    pub cpus: Arc<Cpus>,
    controller: OnceLock<Arc<dyn InterruptController>>,
    returned: Vec<AtomicU16>,
}

impl Trpm {
    pub fn new(cpus: Arc<Cpus>) -> Self {
        Self {
            returned: cpus.signals.iter().map(|_| AtomicU16::new(NONE)).collect(),
            controller: OnceLock::new(),
            cpus,
        }
    }

    /// Sets the controller; the first one stays.
    pub fn set_controller(&self, controller: Arc<dyn InterruptController>) {
        let _ = self.controller.set(controller);
    }

    pub fn controller(&self) -> Option<&Arc<dyn InterruptController>> {
        self.controller.get()
    }

    pub fn pending(&self, cpu: usize) -> bool {
        self.returned(cpu).is_some() || self.controller().is_some_and(|c| c.pending(cpu))
    }

    pub fn acknowledge(&self, cpu: usize) -> Option<u8> {
        if let Some(slot) = self.returned.get(cpu)
            && slot.load(Ordering::Relaxed) != NONE
        {
            return u8::try_from(slot.swap(NONE, Ordering::SeqCst)).ok();
        }
        self.controller()?.acknowledge(cpu)
    }

    /// Takes a vector back that could not be delivered.
    pub fn give_back(&self, cpu: usize, vector: u8) {
        if let Some(slot) = self.returned.get(cpu) {
            slot.store(vector.into(), Ordering::SeqCst);
            self.cpus.set_intr(cpu, true);
        }
    }

    /// The vector given back, for saved states.
    pub fn returned(&self, cpu: usize) -> Option<u8> {
        let value = self.returned.get(cpu)?.load(Ordering::SeqCst);
        u8::try_from(value).ok()
    }

    /// No vector is on its way (reset).
    pub fn reset(&self) {
        for slot in &self.returned {
            slot.store(NONE, Ordering::SeqCst);
        }
        for s in &self.cpus.signals {
            s.take(signal::INTR | signal::NMI | signal::SMI | signal::INIT | signal::SIPI);
        }
    }

    /// Raises INTR where a vector waits (after a load).
    pub fn refresh(&self) {
        for cpu in 0..self.returned.len() {
            let pending = self.pending(cpu);
            self.cpus.set_intr(cpu, pending);
        }
    }
}
