//! The API objects of a running machine.

mod console;
mod debugger;
mod display;
mod guest;
mod keyboard;
mod mouse;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use api::event::{Event, EventSource};
use api::ipc::{ObjectSpace, Peer};
use api::progress::Progress;
use api::types::ResultCode;
use api::vm::{CONSOLE, VmLink};
use api::{Error, ObjRef, Object};
use vmm::Vm;

pub use console::ConsoleObject;

/// What all objects of one running machine share.
pub struct Core {
    /// The session machine, which lives in the service.
    pub machine: ObjRef,
    /// Events of the console.
    pub events: Arc<EventSource>,
    keyboard_events: Arc<EventSource>,
    mouse_events: Arc<EventSource>,
    guest_events: Arc<EventSource>,
    vm: OnceLock<Arc<Vm>>,
    link: OnceLock<Arc<VmLink>>,
    /// Operations that clients may still look at.
    progress: Mutex<Vec<Arc<Progress>>>,
}

impl Core {
    /// Objects of a machine that is being built.
    pub fn new(machine: ObjRef) -> Arc<Self> {
        let source = |name: &str| EventSource::new(&format!("{CONSOLE}/{name}"));
        Arc::new(Self {
            machine,
            events: source("EventSource"),
            keyboard_events: source("KeyboardEventSource"),
            mouse_events: source("MouseEventSource"),
            guest_events: source("GuestEventSource"),
            vm: OnceLock::new(),
            link: OnceLock::new(),
            progress: Mutex::default(),
        })
    }

    /// The machine is built.
    pub fn set_vm(&self, vm: Arc<Vm>) {
        let _ = self.vm.set(vm);
    }

    /// The service is there.
    pub fn set_link(&self, link: Arc<VmLink>) {
        let _ = self.link.set(link);
    }

    /// The machine.
    ///
    /// # Errors
    /// `VBOX_E_INVALID_VM_STATE` while it is being built.
    pub fn vm(&self) -> api::Result<&Arc<Vm>> {
        self.vm.get().ok_or_else(|| {
            Error::new(
                ResultCode::VBOX_E_INVALID_VM_STATE,
                "The virtual machine is not powered up",
            )
        })
    }

    /// The tie to the service.
    pub fn link(&self) -> Option<&Arc<VmLink>> {
        self.link.get()
    }

    /// Gives an event to whoever listens.
    pub fn fire(&self, event: &Arc<Event>) {
        self.events.fire(event);
    }

    fn keep(&self, progress: &Arc<Progress>) {
        let mut all = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|p| Arc::strong_count(p) > 1);
        all.push(progress.clone());
    }

    /// Whether a client still holds an operation.
    pub fn watched(&self) -> bool {
        let mut all = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|p| Arc::strong_count(p) > 1);
        !all.is_empty()
    }
}

/// A reference to one of the console's objects.
fn below(name: &str) -> ObjRef {
    ObjRef::new(format!("{CONSOLE}/{name}"))
}

/// An error of the VM object as the API has it.
pub fn vm_error(e: vmm::Error) -> Error {
    let code = match &e {
        vmm::Error::State { .. } | vmm::Error::Ended => ResultCode::VBOX_E_INVALID_VM_STATE,
        vmm::Error::NoInfo(_) => ResultCode::VBOX_E_OBJECT_NOT_FOUND,
        vmm::Error::SavedState(_) => ResultCode::VBOX_E_FILE_ERROR,
        _ => ResultCode::VBOX_E_VM_ERROR,
    };
    Error::new(code, crate::sentence(&e.to_string()))
}

/// The objects below [`CONSOLE`].
pub struct Space(pub Arc<Core>);

impl ObjectSpace for Space {
    fn resolve(&self, _: &Arc<Peer>, path: &str) -> Option<Arc<dyn Object>> {
        let core = self.0.clone();
        let rest = path.strip_prefix(CONSOLE)?;
        match rest {
            "" => Some(Arc::new(ConsoleObject(core))),
            "/Display" => Some(Arc::new(display::DisplayObject(core))),
            "/Keyboard" => Some(Arc::new(keyboard::KeyboardObject(core))),
            "/Mouse" => Some(Arc::new(mouse::MouseObject(core))),
            "/Debugger" => Some(Arc::new(debugger::DebuggerObject(core))),
            "/Guest" => Some(Arc::new(guest::GuestObject(core))),
            "/EventSource" => Some(core.events.clone()),
            "/KeyboardEventSource" => Some(core.keyboard_events.clone()),
            "/MouseEventSource" => Some(core.mouse_events.clone()),
            "/GuestEventSource" => Some(core.guest_events.clone()),
            _ => None,
        }
    }

    fn children(&self, path: &str) -> Vec<String> {
        let names: &[&str] = match path {
            CONSOLE => &["Display", "Keyboard", "Mouse", "Debugger", "Guest"],
            _ => &[],
        };
        names.iter().map(|n| (*n).to_owned()).collect()
    }
}
