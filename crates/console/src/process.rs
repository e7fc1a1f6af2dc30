//! The life of a VM process: lock, build, run, end.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use api::event::Event;
use api::ipc::ObjectSpace;
use api::types::{DeviceType, MachineState, ResultCode, VBoxEventType};
use api::value::{Val, Wire};
use api::vm::{VmHooks, VmLink, lock_machine};
use api::{Error, Remote, Result, client};
use iprt::log::{DEFAULT_HISTORY, LogSubscriber, ReleaseLog};
use vmm::{Attachments, Vm, VmEvents, VmState};

use crate::objects::{Core, Space, vm_error};
use crate::settings::{Drive, Settings, drives};
use crate::{backends, machine};

/// How long an ended process stays for clients that look at their last operation.
const LINGER: Duration = Duration::from_secs(3);

/// Runs the machine `name_or_id` until it is off.
///
/// # Errors
/// When it cannot be locked or powered up; the service has been told.
pub fn run(name_or_id: &str, front_end: &str) -> Result<()> {
    let (client, session, machine) = lock_machine(name_or_id)?;
    let id = machine.id()?;
    let log = open_log(Path::new(&machine.log_folder()?));
    let version = client.virtualbox().version()?;
    tracing::info!(target: "CONSOLE", "{version} ({front_end}), process {}", std::process::id());
    let core = Core::new(machine.proxy().path().clone());
    let (ended, wait) = channel();
    let hooks = Arc::new(Hooks {
        core: core.clone(),
        machine: machine.clone(),
        ended: ended.clone(),
    });
    let objects: Arc<dyn ObjectSpace> = Arc::new(Space(core.clone()));
    let link = VmLink::start(&session, &id, front_end, objects, hooks)?;
    core.set_link(link.clone());
    stop_on_signals(ended.clone());

    let powered = power_up(&core, &link, &machine, &client.virtualbox(), ended);
    let result = match powered {
        Ok(vm) => {
            link.power_up_done(&Ok(()));
            until_off(&vm, &wait);
            Ok(())
        }
        Err(e) => {
            tracing::error!(target: "CONSOLE", "the machine did not start: {e}");
            link.power_up_done(&Err(e.clone()));
            Err(e)
        }
    };
    link.set_state(MachineState::PoweredOff);
    let until = Instant::now() + LINGER;
    while core.watched() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    link.stop();
    // The service may be gone, and then there is no lock to give back.
    let _ = session.unlock_machine();
    if let Some(log) = log {
        let _ = log.sync();
    }
    result
}

/// `VBox.log` in the machine's folder; a machine runs without one too.
fn open_log(folder: &Path) -> Option<Arc<ReleaseLog>> {
    match ReleaseLog::create(&folder.join("VBox.log"), DEFAULT_HISTORY) {
        Ok(log) => {
            let log = Arc::new(log);
            let subscriber = LogSubscriber::new(log.clone(), tracing::Level::INFO);
            let _ = tracing::subscriber::set_global_default(subscriber);
            Some(log)
        }
        Err(e) => {
            eprintln!("warning: no log: {e}");
            None
        }
    }
}

fn power_up(
    core: &Arc<Core>,
    link: &Arc<VmLink>,
    machine: &client::Machine,
    vbox: &client::VirtualBox,
    ended: Sender<()>,
) -> Result<Arc<Vm>> {
    let settings = Settings::read(machine, vbox)?;
    tracing::info!(
        target: "CONSOLE",
        "machine '{}' {{{}}}: {} MB RAM, {} processors, {} MB video memory",
        settings.name, settings.id, settings.memory, settings.cpus, settings.vram
    );
    for what in &settings.left_out {
        tracing::warn!(target: "CONSOLE", "{what} is not part of this version of Oxbox: the guest does not see it");
    }
    let tree = machine::tree(&settings)?;
    let mut attachments = Attachments::default();
    for drive in &settings.drives {
        let (device, unit) = machine::place(&settings.controllers, drive)?;
        let opened = backends::drive(drive, eject_hook(core, drive))?;
        attachments.block(device, 0, unit, opened);
        for image in &drive.images {
            tracing::info!(target: "CONSOLE", "{device}, unit {unit}: '{}'", image.display());
        }
    }
    for port in &settings.serial {
        attachments.char("serial", port.slot, 0, backends::serial(port)?);
    }
    let events = Arc::new(Reporter {
        core: core.clone(),
        link: link.clone(),
        ended,
    });
    let vm = Vm::new(tree, devices::registry::DEVICES, attachments, events).map_err(vm_error)?;
    core.set_vm(vm.clone());
    vm.resume().map_err(vm_error)?;
    Ok(vm)
}

/// Tells the service that the guest ejected a medium. From a thread of its own: the drive is in
/// the middle of a command.
fn eject_hook(core: &Arc<Core>, drive: &Drive) -> impl FnMut() -> bool + Send + use<> {
    let core = Arc::downgrade(core);
    let (controller, port, device) = (drive.controller.clone(), drive.port, drive.device);
    move || {
        let (core, controller) = (core.clone(), controller.clone());
        std::thread::spawn(move || {
            let service = core.upgrade().and_then(|c| c.link()?.service());
            if let Some(Err(e)) = service.map(|s| s.eject_medium(&controller, port, device)) {
                tracing::warn!(target: "CONSOLE", "an ejected medium was not reported: {e}");
            }
        });
        true
    }
}

/// Waits for the machine's end. A word on `wait` asks for it.
fn until_off(vm: &Arc<Vm>, wait: &Receiver<()>) {
    while vm.state() != VmState::Off {
        if is_asked(wait, PATIENCE) && vm.state() != VmState::Off {
            let _ = vm.power_off();
        }
    }
    vm.join();
}

/// How often the machine's state is looked at even if nobody says a word.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a word; whether there was one.
fn is_asked(wait: &Receiver<()>, patience: Duration) -> bool {
    match wait.recv_timeout(patience) {
        Ok(()) => true,
        Err(RecvTimeoutError::Timeout) => false,
        // Nobody is left who could ask.
        Err(RecvTimeoutError::Disconnected) => {
            std::thread::sleep(patience);
            false
        }
    }
}

/// SIGTERM, SIGINT and SIGHUP pull the plug.
fn stop_on_signals(ended: Sender<()>) {
    use tokio::signal::unix::{SignalKind, signal};
    let body = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        else {
            return;
        };
        runtime.block_on(async {
            let (Ok(mut term), Ok(mut int), Ok(mut hup)) = (
                signal(SignalKind::terminate()),
                signal(SignalKind::interrupt()),
                signal(SignalKind::hangup()),
            ) else {
                return;
            };
            loop {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                    _ = hup.recv() => {}
                }
                tracing::info!(target: "CONSOLE", "a signal ends the machine");
                let _ = ended.send(());
            }
        });
    };
    if let Err(e) = std::thread::Builder::new()
        .name("signals".into())
        .spawn(body)
    {
        tracing::warn!(target: "CONSOLE", "signals end this process at once: {e}");
    }
}

/// Carries what happens to the machine to the service and to listeners.
struct Reporter {
    core: Arc<Core>,
    link: Arc<VmLink>,
    ended: Sender<()>,
}

impl Reporter {
    fn runtime_error(&self, fatal: bool, id: &str, message: &str) {
        self.core.fire(&Event::new(
            VBoxEventType::OnRuntimeError,
            vec![
                ("fatal", Val::Bool(fatal)),
                ("id", id.to_owned().into_val()),
                ("message", message.to_owned().into_val()),
            ],
        ));
        let service = self.link.service();
        if let Some(Err(e)) = service.map(|s| s.report_runtime_error(fatal, id, message)) {
            tracing::warn!(target: "CONSOLE", "not reported: {e}");
        }
    }
}

impl VmEvents for Reporter {
    fn state_changed(&self, state: VmState, reason: Option<&str>) {
        let machine = match state {
            VmState::Created => return,
            VmState::Running => MachineState::Running,
            VmState::Paused => MachineState::Paused,
            VmState::Stuck => MachineState::Stuck,
            VmState::Off => {
                let _ = self.ended.send(());
                // Reported at the very end, when the disks are closed.
                return;
            }
        };
        self.link.set_state(machine);
        self.core.fire(&Event::new(
            VBoxEventType::OnStateChanged,
            vec![("state", machine.into_val())],
        ));
        if let Some(reason) = reason {
            let id = match state {
                VmState::Stuck => "HostError",
                _ => "DrvVD_DISKFULL",
            };
            self.runtime_error(state == VmState::Stuck, id, reason);
        }
    }

    fn message(&self, text: &str) {
        self.runtime_error(false, "DeviceMessage", text);
    }
}

/// What the service asks of this process.
struct Hooks {
    core: Arc<Core>,
    machine: client::Machine,
    ended: Sender<()>,
}

impl VmHooks for Hooks {
    fn medium_changed(&self, controller: &str, port: i32, device: i32, force: bool) -> Result<()> {
        let vm = self.core.vm()?;
        // A service that was started again knows the machine by what it gave to the link.
        let service = self.core.link().and_then(|link| link.service());
        let machine = service.map_or_else(|| self.machine.clone(), |s| s.cast());
        let all = drives(&machine)?;
        let found = all
            .iter()
            .find(|d| d.controller == controller && d.port == port && d.device == device);
        let Some(drive) = found.filter(|d| d.kind != DeviceType::HardDisk) else {
            return Err(Error::new(
                ResultCode::VBOX_E_NOT_SUPPORTED,
                "Only the media of DVD and floppy drives change while the machine runs",
            ));
        };
        let bus = machine.get_storage_controller_by_name(controller)?;
        let controller = crate::settings::Controller {
            name: controller.to_owned(),
            bus: bus.bus()?,
            kind: bus.controller_type()?,
        };
        let (name, unit) = crate::machine::place(&[controller], drive)?;
        let driver = backends::drive(drive, eject_hook(&self.core, drive))?;
        match vm.change_medium(name, 0, unit, driver, force) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(
                ResultCode::VBOX_E_INVALID_OBJECT_STATE,
                "The guest has locked the drive; force the change to override it",
            )),
        }
    }

    fn network_adapter_changed(&self, _: u32, _: bool) -> Result<()> {
        Err(Error::new(
            ResultCode::VBOX_E_NOT_SUPPORTED,
            "Network adapters are not part of this version of Oxbox",
        ))
    }

    fn uninitialize(&self) {
        let _ = self.ended.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_word_ends_a_machine() {
        let (ended, wait) = channel();
        let soon = Duration::from_millis(1);
        assert!(!is_asked(&wait, soon), "time alone does not");
        ended.send(()).expect("received");
        assert!(is_asked(&wait, soon));
        drop(ended);
        assert!(!is_asked(&wait, soon), "nor does a sender that is gone");
    }
}
