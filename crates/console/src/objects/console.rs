//! `IConsole`.

use std::sync::Arc;

use api::progress::Progress;
use api::types::{DeviceActivity, DeviceType, MachineState, ResultCode};
use api::{Call, Error, ObjRef, Result, server};

use super::{Core, below, vm_error};

/// The console of the machine.
pub struct ConsoleObject(pub Arc<Core>);

impl ConsoleObject {
    fn acpi<R>(&self, f: impl FnOnce(&mut dyn pdm::irq::AcpiButtons) -> R) -> Result<R> {
        self.0.vm()?.acpi(f).ok_or_else(|| {
            Error::new(
                ResultCode::VBOX_E_PDM_ERROR,
                "The virtual machine has no ACPI device",
            )
        })
    }
}

impl server::IConsole for ConsoleObject {
    fn machine(&self, _: &Call) -> Result<ObjRef> {
        Ok(self.0.machine.clone())
    }
    fn state(&self, _: &Call) -> Result<MachineState> {
        Ok(self
            .0
            .link()
            .map_or(MachineState::Starting, |link| link.state()))
    }
    fn guest(&self, _: &Call) -> Result<ObjRef> {
        Ok(below("Guest"))
    }
    fn keyboard(&self, _: &Call) -> Result<ObjRef> {
        Ok(below("Keyboard"))
    }
    fn mouse(&self, _: &Call) -> Result<ObjRef> {
        Ok(below("Mouse"))
    }
    fn display(&self, _: &Call) -> Result<ObjRef> {
        Ok(below("Display"))
    }
    fn debugger(&self, _: &Call) -> Result<ObjRef> {
        Ok(below("Debugger"))
    }
    fn event_source(&self, _: &Call) -> Result<ObjRef> {
        Ok(self.0.events.path())
    }
    fn usb_devices(&self, _: &Call) -> Result<Vec<ObjRef>> {
        Ok(Vec::new())
    }
    fn remote_usb_devices(&self, _: &Call) -> Result<Vec<ObjRef>> {
        Ok(Vec::new())
    }
    fn shared_folders(&self, _: &Call) -> Result<Vec<ObjRef>> {
        Ok(Vec::new())
    }
    fn power_button_handled(&self, _: &Call) -> Result<bool> {
        self.acpi(|b| b.power_button_handled())
    }
    fn guest_entered_acpi_mode(&self, _: &Call) -> Result<bool> {
        self.acpi(|b| b.guest_entered_acpi())
    }
    fn power_down(&self, cx: &Call) -> Result<ObjRef> {
        let vm = self.0.vm()?.clone();
        if let Some(link) = self.0.link() {
            link.set_state(MachineState::Stopping);
        }
        // Off before the caller has its reference. That one is counted before: the process ends once
        // the machine is off and nobody holds an operation, and this call must be answered first.
        let progress = Progress::new("Powering off virtual machine", false);
        let reference = cx.export(progress.clone());
        self.0.keep(&progress);
        progress.complete(vm.power_off().map_err(vm_error));
        Ok(reference)
    }
    fn reset(&self, _: &Call) -> Result<()> {
        self.0.vm()?.reset().map_err(vm_error)
    }
    fn pause(&self, _: &Call) -> Result<()> {
        self.0.vm()?.pause().map_err(vm_error)
    }
    fn resume(&self, _: &Call) -> Result<()> {
        self.0.vm()?.resume().map_err(vm_error)
    }
    fn power_button(&self, _: &Call) -> Result<()> {
        tracing::info!(target: "CONSOLE", "power button");
        self.acpi(|b| b.power_button())
    }
    fn sleep_button(&self, _: &Call) -> Result<()> {
        tracing::info!(target: "CONSOLE", "sleep button");
        self.acpi(|b| b.sleep_button())
    }
    fn get_device_activity(&self, _: &Call, type_: Vec<DeviceType>) -> Result<Vec<DeviceActivity>> {
        Ok(type_.iter().map(|_| DeviceActivity::Idle).collect())
    }
}
api::object!(ConsoleObject: IConsole);
