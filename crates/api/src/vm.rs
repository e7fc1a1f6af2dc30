//! The VM process's side of its tie to the service: it listens on the socket `vm-UUID`, the
//! service connects there, and whatever the machine does is reported over that connection. When
//! the service dies, the machine goes on; the next service finds the socket and asks.

use crate::connect::Client;
use crate::ipc::{ObjectSpace, Peer, Server, paths};
use crate::meta::Object;
use crate::proxy::{Proxy, Remote};
use crate::types::{MachineState, ResultCode};
use crate::{Call, Error, ObjRef, Result, client, server};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where a VM process exports its `IInternalSessionControl`.
pub const SESSION_CONTROL: &str = "/Session";
/// Where a VM process exports its `IConsole`; the console's objects are below.
pub const CONSOLE: &str = "/Console";

/// What the service asks of a running machine.
pub trait VmHooks: Send + Sync + 'static {
    /// See `IInternalSessionControl::onMediumChange`; attachments are in the session machine.
    ///
    /// # Errors
    /// When the machine cannot change the medium now.
    fn medium_changed(&self, controller: &str, port: i32, device: i32, force: bool) -> Result<()>;
    /// See `IInternalSessionControl::onNetworkAdapterChange`.
    ///
    /// # Errors
    /// When the machine cannot change the adapter now.
    fn network_adapter_changed(&self, slot: u32, change_adapter: bool) -> Result<()>;
    /// Power off without saving, and end the process.
    fn uninitialize(&self);
}

/// The tie.
pub struct VmLink {
    machine: String,
    session_name: String,
    state: Mutex<State>,
    hooks: Arc<dyn VmHooks>,
    objects: Arc<dyn ObjectSpace>,
    server: OnceLock<Server>,
}

struct State {
    machine: MachineState,
    since: i64,
    service: Option<client::InternalMachineControl>,
    power_up: Option<(i32, String)>,
}

impl VmLink {
    /// Listens for the service and tells it so. `session` holds the machine's VM lock; `objects`
    /// resolves [`CONSOLE`] and what is below it, from both the service's and forwarded calls.
    /// The machine starts in the state `Starting`.
    ///
    /// # Errors
    /// When the socket cannot be made or the service refuses.
    pub fn start(
        session: &client::Session,
        machine_id: &str,
        session_name: &str,
        objects: Arc<dyn ObjectSpace>,
        hooks: Arc<dyn VmHooks>,
    ) -> Result<Arc<Self>> {
        let link = Arc::new(Self {
            machine: machine_id.to_owned(),
            session_name: session_name.to_owned(),
            state: Mutex::new(State {
                machine: MachineState::Starting,
                since: now(),
                service: None,
                power_up: None,
            }),
            hooks,
            objects,
            server: OnceLock::new(),
        });
        let socket = |e: std::io::Error| {
            Error::new(
                ResultCode::NS_ERROR_FAILURE,
                format!("the machine's socket: {e}"),
            )
        };
        let path = paths::vm_socket(&paths::runtime_folder().map_err(socket)?, machine_id);
        let server = Server::listen(&path, Arc::new(Space(link.clone()))).map_err(socket)?;
        let _ = link.server.set(server);
        let machine = session.machine()?.ok_or_else(|| {
            Error::new(
                ResultCode::VBOX_E_INVALID_SESSION_STATE,
                "the session holds no machine",
            )
        })?;
        machine
            .cast::<client::InternalMachineControl>()
            .attach_vm_process()?;
        Ok(link)
    }

    /// Reports a new machine state.
    pub fn set_state(&self, machine: MachineState) {
        let service = {
            let mut state = self.lock();
            state.machine = machine;
            state.since = now();
            state.service.clone()
        };
        // Without a service there is nobody to tell; the next one asks.
        if let Some(Err(e)) = service.map(|s| s.update_state(machine)) {
            tracing::warn!("state {} not reported: {e}", machine.name());
        }
    }

    pub fn state(&self) -> MachineState {
        self.lock().machine
    }

    /// Reports how power-up went, which completes `launchVMProcess`. Call once; on success after
    /// [`VmLink::set_state`] with `Running`.
    pub fn power_up_done(&self, result: &Result<()>) {
        let (code, text) = match result {
            Ok(()) => (0, String::new()),
            Err(e) => (e.code.0.cast_signed(), e.text.clone()),
        };
        let service = {
            let mut state = self.lock();
            state.power_up = Some((code, text.clone()));
            state.service.clone()
        };
        if let Some(Err(e)) = service.map(|s| s.end_power_up(code, &text)) {
            tracing::warn!("the end of power-up was not reported: {e}");
        }
    }

    /// The service as it sees this machine, while it is there: for guest properties, ejected
    /// media and runtime errors.
    pub fn service(&self) -> Option<client::InternalMachineControl> {
        self.lock().service.clone()
    }

    /// The machine's settings as the present service has them, while it is there. Unlike the
    /// session machine of the first lock, this survives a change of services.
    pub fn settings(&self) -> Option<client::Machine> {
        self.service().map(|s| s.cast())
    }

    /// Takes the socket away. Call when the machine is off and reported so, before the process
    /// ends; a socket left behind means that the machine aborted.
    pub fn stop(&self) {
        if let Some(server) = self.server.get() {
            server.stop();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since the epoch.
fn now() -> i64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(0)
}

struct Space(Arc<VmLink>);

impl ObjectSpace for Space {
    fn resolve(&self, peer: &Arc<Peer>, path: &str) -> Option<Arc<dyn Object>> {
        if path == SESSION_CONTROL {
            return Some(Arc::new(SessionControl(self.0.clone())));
        }
        self.0.objects.resolve(peer, path)
    }

    fn children(&self, path: &str) -> Vec<String> {
        self.0.objects.children(path)
    }

    fn connected(&self, peer: &Arc<Peer>) {
        self.0.objects.connected(peer);
    }

    fn disconnected(&self, peer: &Arc<Peer>) {
        let mut state = self.0.lock();
        if state
            .service
            .as_ref()
            .is_some_and(|s| Arc::ptr_eq(s.proxy().peer(), peer))
        {
            state.service = None;
        }
        drop(state);
        self.0.objects.disconnected(peer);
    }
}

struct SessionControl(Arc<VmLink>);

impl server::IInternalSessionControl for SessionControl {
    fn machine_id(&self, _cx: &Call) -> Result<String> {
        Ok(self.0.machine.clone())
    }
    fn machine_state(&self, _cx: &Call) -> Result<MachineState> {
        Ok(self.0.lock().machine)
    }
    fn last_state_change(&self, _cx: &Call) -> Result<i64> {
        Ok(self.0.lock().since)
    }
    fn pid(&self, _cx: &Call) -> Result<u32> {
        Ok(std::process::id())
    }
    fn session_name(&self, _cx: &Call) -> Result<String> {
        Ok(self.0.session_name.clone())
    }
    fn assign_machine(&self, cx: &Call, control: ObjRef) -> Result<()> {
        let service = Proxy::new(cx.peer.clone(), control);
        self.0.lock().service = Some(client::InternalMachineControl::from_proxy(service));
        Ok(())
    }
    fn on_medium_change(
        &self,
        _cx: &Call,
        controller: String,
        port: i32,
        device: i32,
        force: bool,
    ) -> Result<()> {
        self.0
            .hooks
            .medium_changed(&controller, port, device, force)
    }
    fn on_network_adapter_change(&self, _cx: &Call, slot: u32, change: bool) -> Result<()> {
        self.0.hooks.network_adapter_changed(slot, change)
    }
    fn uninitialize(&self, _cx: &Call) -> Result<()> {
        self.0.hooks.uninitialize();
        Ok(())
    }
}
crate::object!(SessionControl: IInternalSessionControl);

/// Locks a machine for a VM process: connects to the service, finds the machine by name or UUID
/// and takes the VM lock.
///
/// # Errors
/// The service's own: unknown machine, machine already locked.
pub fn lock_machine(name_or_id: &str) -> Result<(Client, client::Session, client::Machine)> {
    let client = Client::connect()?;
    let machine = client.virtualbox().find_machine(name_or_id)?;
    let session = client.session()?;
    machine.lock_machine(&session, crate::types::LockType::VM)?;
    let mutable = session.machine()?.ok_or_else(|| {
        Error::new(
            ResultCode::VBOX_E_INVALID_SESSION_STATE,
            "the session holds no machine",
        )
    })?;
    Ok((client, session, mutable))
}
