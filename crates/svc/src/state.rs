//! What the service knows: machines, media, global settings, who is connected. One lock guards
//! it; nothing that waits for another process happens under that lock.

use crate::conv::not_found;
use crate::media::Media;
use crate::session::Session;
use crate::store::{GlobalFile, MachineFile};
use api::event::{Event, EventSource};
use api::ipc::Peer;
use api::progress::Progress;
use api::types::{LockType, MachineState, SessionState, VBoxEventType};
use api::{Error, ResultCode, Val, Wire};
use settings::model::Machine;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// The service.
pub struct Svc {
    /// Folder of `VirtualBox.xml`.
    pub home: PathBuf,
    /// Folder of the sockets.
    pub runtime: PathBuf,
    /// Events of `IVirtualBox`.
    pub events: Arc<EventSource>,
    state: Mutex<State>,
    peers: Mutex<HashMap<u64, Arc<Peer>>>,
    idle: Condvar,
    progresses: Mutex<Vec<Weak<Progress>>>,
    /// Counted references into VM processes that clients hold.
    pub(crate) forwarded: Mutex<crate::forward::Held>,
}

/// What the lock guards.
pub struct State {
    pub global: GlobalFile,
    pub machines: Vec<Entry>,
    pub media: Media,
}

/// One machine.
pub struct Entry {
    pub id: Uuid,
    /// The settings file.
    pub path: PathBuf,
    pub registered: bool,
    /// The saved settings, or why they cannot be read.
    pub contents: Result<MachineFile, Error>,
    /// The session machine's settings while the machine is locked.
    pub pending: Option<Machine>,
    /// An unregistered machine changed since it was saved.
    pub unsaved: bool,
    pub state: MachineState,
    /// Milliseconds since the epoch.
    pub since: i64,
    pub session_state: SessionState,
    pub session_name: String,
    /// Who locked it, and how.
    pub owner: Option<(Weak<Session>, LockType)>,
    /// Sessions that joined the owner's lock.
    pub shared: Vec<Weak<Session>>,
    /// The connection to the VM process.
    pub vm: Option<Arc<Peer>>,
    /// Process id of the VM process.
    pub vm_pid: u32,
    pub launch: Option<Launch>,
}

/// A `launchVMProcess` that has not come to its end.
#[derive(Clone)]
pub struct Launch {
    pub progress: Arc<Progress>,
    pub session: Weak<Session>,
    pub pid: u32,
}

impl Entry {
    /// An unlocked machine that is off, or aborted or saved as its settings say.
    pub fn new(id: Uuid, path: PathBuf, contents: Result<MachineFile, Error>) -> Self {
        let state = match contents.as_ref().map(|c| c.machine()) {
            Ok(m) if m.state_file.is_some() && m.aborted => MachineState::AbortedSaved,
            Ok(m) if m.state_file.is_some() => MachineState::Saved,
            Ok(m) if m.aborted => MachineState::Aborted,
            _ => MachineState::PoweredOff,
        };
        let since = contents
            .as_ref()
            .map_or(0, |c| c.machine().last_state_change.unix() * 1000);
        Self {
            id,
            path,
            registered: false,
            contents,
            pending: None,
            unsaved: false,
            state,
            since,
            session_state: SessionState::Unlocked,
            session_name: String::new(),
            owner: None,
            shared: Vec::new(),
            vm: None,
            vm_pid: 0,
            launch: None,
        }
    }

    /// The saved settings.
    ///
    /// # Errors
    /// `E_ACCESSDENIED` for an inaccessible machine.
    pub fn settings(&self) -> api::Result<&Machine> {
        self.contents
            .as_ref()
            .map(|c| c.machine())
            .map_err(|_| limited())
    }

    /// See [`Entry::settings`].
    ///
    /// # Errors
    /// See [`Entry::settings`].
    pub fn settings_mut(&mut self) -> api::Result<&mut Machine> {
        self.contents
            .as_mut()
            .map(|c| c.machine_mut())
            .map_err(|_| limited())
    }

    /// The name, for messages also of a machine that cannot be read.
    pub fn name(&self) -> String {
        self.settings()
            .map_or_else(|_| self.id.to_string(), |m| m.name.clone())
    }

    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Writes settings that changed outside a session (extra data, state).
    ///
    /// # Errors
    /// `VBOX_E_FILE_ERROR` when the file cannot be written.
    pub fn save(&mut self) -> api::Result<()> {
        match &mut self.contents {
            Ok(file) => file.save(),
            Err(_) => Err(limited()),
        }
    }
}

fn limited() -> Error {
    Error::new(
        ResultCode::E_ACCESSDENIED,
        "The object functionality is limited",
    )
}

/// Whether a VM process runs or is about to.
pub fn is_running(state: MachineState) -> bool {
    !matches!(
        state,
        MachineState::Null
            | MachineState::PoweredOff
            | MachineState::Saved
            | MachineState::Teleported
            | MachineState::Aborted
            | MachineState::AbortedSaved
    )
}

/// Milliseconds since the epoch.
pub fn now() -> i64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(0)
}

impl State {
    /// The machine of that UUID.
    ///
    /// # Errors
    /// `VBOX_E_OBJECT_NOT_FOUND` when it is gone.
    pub fn machine(&self, id: Uuid) -> api::Result<&Entry> {
        self.machines
            .iter()
            .find(|m| m.id == id)
            .ok_or_else(|| unknown(id))
    }

    /// Whether a machine's settings can be read; looks again when they could not.
    ///
    /// # Errors
    /// There is no such machine.
    pub fn accessible_now(&mut self, id: Uuid) -> api::Result<bool> {
        let entry = self.machine_mut(id)?;
        if entry.contents.is_ok() {
            return Ok(true);
        }
        let file = crate::store::MachineFile::open(&entry.path);
        let Some(file) = file.ok().filter(|f| f.machine().uuid == entry.id) else {
            return Ok(false);
        };
        let registered = entry.registered;
        *entry = Entry::new(entry.id, entry.path.clone(), Ok(file));
        entry.registered = registered;
        let folder = entry.folder().to_owned();
        let registry = entry.settings()?.media.clone();
        self.media.load(&registry, &folder, Some(id));
        Ok(true)
    }

    /// See [`State::machine`].
    ///
    /// # Errors
    /// See [`State::machine`].
    pub fn machine_mut(&mut self, id: Uuid) -> api::Result<&mut Entry> {
        self.machines
            .iter_mut()
            .find(|m| m.id == id)
            .ok_or_else(|| unknown(id))
    }

    /// A registered machine by UUID, name or settings file.
    ///
    /// # Errors
    /// VirtualBox's `VBOX_E_OBJECT_NOT_FOUND`.
    pub fn find(&self, name_or_id: &str) -> api::Result<&Entry> {
        let registered = || self.machines.iter().filter(|m| m.registered);
        if let Some(id) = iprt::uuid::parse(name_or_id) {
            return registered().find(|m| m.id == id).ok_or_else(|| {
                not_found(format!(
                    "Could not find a registered machine with UUID {{{id}}}"
                ))
            });
        }
        let by_name = |m: &&Entry| m.settings().is_ok_and(|s| s.name == name_or_id);
        let by_file = |m: &&Entry| m.path.as_os_str() == name_or_id;
        registered()
            .find(by_name)
            .or_else(|| registered().find(by_file))
            .ok_or_else(|| {
                not_found(format!(
                    "Could not find a registered machine named '{name_or_id}'"
                ))
            })
    }
}

fn unknown(id: Uuid) -> Error {
    not_found(format!(
        "Could not find a registered machine with UUID {{{id}}}"
    ))
}

impl Svc {
    /// The service of one configuration folder; reads all settings.
    ///
    /// # Errors
    /// When `VirtualBox.xml` cannot be read.
    pub fn new(home: PathBuf, runtime: PathBuf) -> api::Result<Arc<Self>> {
        let global = GlobalFile::open(&home)?;
        let mut media = Media::default();
        media.load(&global.settings().media, &home, None);
        let mut machines: Vec<Entry> = Vec::new();
        for registered in &global.settings().machines {
            let path = settings::resolve_path(&registered.src, &home);
            let contents = MachineFile::open(&path).and_then(|file| {
                if file.machine().uuid == registered.uuid {
                    return Ok(file);
                }
                Err(Error::new(
                    ResultCode::NS_ERROR_FAILURE,
                    format!(
                        "Machine UUID {{{}}} in '{}' doesn't match its UUID {{{}}} in the registry file '{}'",
                        file.machine().uuid,
                        path.display(),
                        registered.uuid,
                        home.join("VirtualBox.xml").display()
                    ),
                ))
            });
            let mut entry = Entry::new(registered.uuid, path, contents);
            entry.registered = true;
            if let Ok(m) = entry.settings() {
                media.load(&m.media, entry.folder(), Some(entry.id));
            }
            machines.push(entry);
        }
        Ok(Arc::new(Self {
            home,
            runtime,
            events: EventSource::new("/VirtualBox/EventSource"),
            state: Mutex::new(State {
                global,
                machines,
                media,
            }),
            peers: Mutex::default(),
            idle: Condvar::new(),
            progresses: Mutex::default(),
            forwarded: Mutex::default(),
        }))
    }

    /// Works on the state.
    pub fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut lock(&self.state))
    }

    /// Makes a progress findable by `findProgressById`.
    pub fn track(&self, progress: &Arc<Progress>) {
        let mut all = lock(&self.progresses);
        all.retain(|p| p.strong_count() > 0);
        all.push(Arc::downgrade(progress));
    }

    /// Operations under way that a client may still ask for.
    pub fn progresses(&self) -> Vec<Arc<Progress>> {
        lock(&self.progresses)
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    pub fn fire(&self, kind: VBoxEventType, fields: Vec<(&'static str, Val)>) {
        self.events.fire(&Event::new(kind, fields));
    }

    /// Announces a machine's new state.
    pub fn fire_state(&self, id: Uuid, state: MachineState) {
        self.fire(
            VBoxEventType::OnMachineStateChanged,
            vec![
                ("machineId", id.to_string().into_val()),
                ("state", state.into_val()),
            ],
        );
    }

    /// Announces that a machine was locked or unlocked.
    pub fn fire_session(&self, id: Uuid, state: SessionState) {
        self.fire(
            VBoxEventType::OnSessionStateChanged,
            vec![
                ("machineId", id.to_string().into_val()),
                ("state", state.into_val()),
            ],
        );
    }

    /// Announces that a machine's settings were saved.
    pub fn fire_data(&self, id: Uuid) {
        self.fire(
            VBoxEventType::OnMachineDataChanged,
            vec![
                ("machineId", id.to_string().into_val()),
                ("temporary", Val::Bool(false)),
            ],
        );
    }

    pub(crate) fn peer_connected(&self, peer: &Arc<Peer>) {
        lock(&self.peers).insert(peer.id(), peer.clone());
        self.idle.notify_all();
    }

    pub(crate) fn peer_gone(&self, peer: &Arc<Peer>) {
        lock(&self.peers).remove(&peer.id());
        self.idle.notify_all();
    }

    /// Waits until nobody has been connected for `grace`.
    pub fn wait_until_idle(&self, grace: Duration) {
        let mut peers = lock(&self.peers);
        loop {
            let busy = !peers.is_empty();
            let wait = if busy {
                Duration::from_secs(3600)
            } else {
                grace
            };
            let (guard, timeout) = self
                .idle
                .wait_timeout(peers, wait)
                .unwrap_or_else(PoisonError::into_inner);
            peers = guard;
            if timeout.timed_out() && !busy && peers.is_empty() {
                return;
            }
        }
    }

    /// Whether anybody is connected.
    pub fn is_idle(&self) -> bool {
        lock(&self.peers).is_empty()
    }
}

/// A panic of one call must not end the service for all others.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
