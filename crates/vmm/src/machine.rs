//! What all parts of a running VM share.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use pdm::cfgm::Node;
use pdm::irq::{Hub, Wire};
use pdm::{Device, IrqLine, VmControl, VmRequest};
use pgm::PhysMap;

use crate::cpum::Cpum;
use crate::iom::{DeviceSlot, Ports};
use crate::tm::Tm;
use crate::trpm::Trpm;
use crate::vm::Request;

/// The machine below the VM object. Devices hold parts of it, never the whole.
pub(crate) struct Machine {
    pub config: Node,
    pub phys: Arc<PhysMap>,
    pub ports: Arc<Ports>,
    pub tm: Arc<Tm>,
    pub trpm: Trpm,
    pub cpum: Cpum,
    pub pci: Arc<pdm::pci::Bus>,
    pub slots: Vec<Arc<DeviceSlot>>,
    /// IRQ 13.
    pub ferr: IrqLine,
    pub requests: Sender<Request>,
    /// Bytes of RAM; they are the first of the memory pool.
    pub ram_bytes: u64,
}

impl Machine {
    /// Runs the timers that are due.
    pub fn run_timers(&self) {
        self.tm.run_due(|device, id| self.expired(device, id));
    }

    /// Timer `id` of device number `device` is due.
    pub fn expired(&self, device: usize, id: u32) {
        if let Some(slot) = self.slots.get(device) {
            slot.with(|d| {
                if let Some(t) = d.timers() {
                    t.expired(id);
                }
            });
        }
    }

    /// Runs `f` on each device in order.
    pub fn each_device(&self, mut f: impl FnMut(&DeviceSlot, &mut dyn Device)) {
        for slot in &self.slots {
            slot.with(|d| f(slot, d));
        }
    }

    /// The first device for which `f` has something.
    pub fn first<R>(&self, mut f: impl FnMut(&mut dyn Device) -> Option<R>) -> Option<R> {
        self.slots.iter().find_map(|s| s.with(&mut f).flatten())
    }

    /// The line of IRQ 13 on `hub`.
    pub fn ferr_line(hub: &Arc<Hub>) -> IrqLine {
        hub.line(Wire::Isa(13))
    }
}

/// Hands requests of devices to the VM's thread.
pub(crate) struct Control(pub Sender<Request>);

impl VmControl for Control {
    fn request(&self, request: VmRequest) {
        // After the VM has ended nobody acts on it.
        let _ = self.0.send(Request::Device(request));
    }
}
