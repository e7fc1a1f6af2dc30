//! `ISession`: a client's lock on one machine, and how machines are locked and unlocked.

use crate::forward;
use crate::state::{Entry, Svc, is_running, lock};
use crate::view::View;
use api::types::{LockType, MachineState, ResultCode, SessionState, SessionType};
use api::{Call, Error, ObjRef, server};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// One session of one client.
pub struct Session {
    pub svc: Arc<Svc>,
    /// The client's connection.
    pub peer: u64,
    pub client_pid: Option<u32>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    name: String,
    machine: Option<Uuid>,
    kind: SessionKind,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum SessionKind {
    #[default]
    None,
    Write,
    /// Joined a lock that was there.
    Shared,
    /// Joined a VM's lock.
    Remote,
}

impl Session {
    pub fn new(svc: Arc<Svc>, cx: &Call) -> Arc<Self> {
        Arc::new(Self {
            svc,
            peer: cx.peer.id(),
            client_pid: cx.peer.pid(),
            inner: Mutex::default(),
        })
    }

    /// The machine it holds.
    pub fn machine(&self) -> Option<Uuid> {
        lock(&self.inner).machine
    }

    fn name(&self) -> String {
        lock(&self.inner).name.clone()
    }

    fn hold(&self, machine: Uuid, kind: SessionKind) {
        let mut inner = lock(&self.inner);
        inner.machine = Some(machine);
        inner.kind = kind;
    }

    fn let_go(&self) {
        let mut inner = lock(&self.inner);
        inner.machine = None;
        inner.kind = SessionKind::None;
    }

    /// Ends the lock; the owner's end takes everybody's.
    fn unlock(self: &Arc<Self>) {
        let Some(id) = self.machine() else { return };
        let event = self.svc.with(|state| {
            self.let_go();
            let entry = state.machine_mut(id).ok()?;
            let is_self = |w: &Weak<Self>| w.upgrade().is_some_and(|s| Arc::ptr_eq(&s, self));
            entry.shared.retain(|s| s.strong_count() > 0 && !is_self(s));
            let owns = entry
                .owner
                .as_ref()
                .is_some_and(|(s, _)| is_self(s) || s.strong_count() == 0);
            // A VM's lock lasts as long as its process, which has a connection of its own.
            if !owns || entry.vm.is_some() {
                return None;
            }
            Some(release(entry))
        });
        if let Some(changed) = event {
            self.svc.fire_session(id, SessionState::Unlocked);
            if let Some(state) = changed {
                self.svc.fire_state(id, state);
            }
        }
    }
}

/// Takes all locks off a machine. Gives the new state if that changes: a machine whose VM process
/// went away without a word has aborted.
pub fn release(entry: &mut Entry) -> Option<MachineState> {
    for session in std::mem::take(&mut entry.shared) {
        if let Some(session) = session.upgrade() {
            session.let_go();
        }
    }
    if let Some((session, _)) = entry.owner.take()
        && let Some(session) = session.upgrade()
    {
        session.let_go();
    }
    if is_running(entry.state) {
        crate::machine::info::keep_guest_properties(entry);
    }
    entry.pending = None;
    entry.session_name.clear();
    entry.session_state = if entry.launch.is_some() {
        SessionState::Spawning
    } else {
        SessionState::Unlocked
    };
    // Work on snapshots goes on without its client.
    let works = matches!(
        entry.state,
        MachineState::Snapshotting
            | MachineState::RestoringSnapshot
            | MachineState::DeletingSnapshot
    );
    if !is_running(entry.state) || works {
        return None;
    }
    // Before the guest ran there was nothing to abort.
    entry.state = match entry.state {
        MachineState::Starting => MachineState::PoweredOff,
        _ => MachineState::Aborted,
    };
    entry.since = crate::state::now();
    let aborted = entry.state == MachineState::Aborted;
    let since = iprt::time::Timestamp::from_unix(entry.since / 1000);
    if let Ok(settings) = entry.settings_mut() {
        settings.aborted = aborted;
        settings.last_state_change = since;
    }
    if let Err(e) = entry.save() {
        tracing::error!("the state of '{}' could not be saved: {e}", entry.name());
    }
    Some(entry.state)
}

/// How long a VM that has ended may take to let go of its machine.
const LETTING_GO: Duration = Duration::from_secs(5);

/// Waits until a VM that has ended has unlocked its machine: a client that saw it end may go on with
/// the machine at once.
pub fn let_go(svc: &Svc, id: Uuid) {
    let end = Instant::now() + LETTING_GO;
    let ending = || {
        svc.with(|state| {
            let entry = state.machine(id)?;
            let vm = matches!(entry.owner, Some((_, LockType::VM))) || entry.vm.is_some();
            let held = matches!(
                entry.session_state,
                SessionState::Locked | SessionState::Unlocking
            );
            Ok::<_, Error>(vm && held && !is_running(entry.state))
        })
    };
    while matches!(ending(), Ok(true)) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// `IMachine::lockMachine`.
pub fn lock_machine(
    svc: &Arc<Svc>,
    id: Uuid,
    session: &Arc<Session>,
    kind: LockType,
) -> api::Result<()> {
    if session.machine().is_some() {
        return Err(busy());
    }
    let_go(svc, id);
    let spawned = svc.with(|state| {
        let entry = state.machine_mut(id)?;
        if !entry.registered {
            let text = format!("The machine '{}' is not registered", entry.name());
            return Err(Error::new(ResultCode::E_UNEXPECTED, text));
        }
        let settings = entry.settings()?.clone();
        let launch = entry.launch.clone();
        match entry.session_state {
            SessionState::Unlocked => {}
            SessionState::Spawning
                if kind == LockType::VM
                    && launch
                        .as_ref()
                        .is_some_and(|l| Some(l.pid) == session.client_pid) => {}
            SessionState::Locked if kind == LockType::Shared => {
                let vm = matches!(entry.owner, Some((_, LockType::VM))) || entry.vm.is_some();
                if !vm && !matches!(entry.owner, Some((_, LockType::Shared))) {
                    return Err(locked(entry));
                }
                session.hold(
                    id,
                    if vm {
                        SessionKind::Remote
                    } else {
                        SessionKind::Shared
                    },
                );
                entry.shared.push(Arc::downgrade(session));
                return Ok(None);
            }
            _ => return Err(locked(entry)),
        }
        if !matches!(kind, LockType::Shared | LockType::Write | LockType::VM) {
            return Err(crate::conv::invalid("Invalid lock type"));
        }
        entry.pending = Some(settings);
        entry.session_state = SessionState::Locked;
        // A process started here has the name of the front end that was asked for.
        if kind != LockType::VM || !session.name().is_empty() {
            entry.session_name = session.name();
        }
        entry.owner = Some((Arc::downgrade(session), kind));
        session.hold(id, SessionKind::Write);
        if kind == LockType::VM {
            entry.state = MachineState::Starting;
            entry.since = crate::state::now();
            entry.vm_pid = session.client_pid.unwrap_or(0);
            // The client that asked for the start shares the VM's lock from here on.
            if let Some(waiting) = launch.and_then(|l| l.session.upgrade())
                && waiting.machine().is_none()
            {
                waiting.hold(id, SessionKind::Remote);
                entry.shared.push(Arc::downgrade(&waiting));
            }
        }
        Ok(Some(kind))
    })?;
    if let Some(kind) = spawned {
        svc.fire_session(id, SessionState::Locked);
        if kind == LockType::VM {
            svc.fire_state(id, MachineState::Starting);
        }
    }
    Ok(())
}

/// The answer when another session is in the way.
pub fn locked(entry: &Entry) -> Error {
    Error::new(
        ResultCode::VBOX_E_INVALID_OBJECT_STATE,
        format!(
            "The machine '{}' is already locked by a session (or being locked or unlocked)",
            entry.name()
        ),
    )
}

/// The answer when the caller's session holds a machine already.
pub fn busy() -> Error {
    Error::new(
        ResultCode::VBOX_E_INVALID_OBJECT_STATE,
        "The given session is busy",
    )
}

/// The session object that an argument refers to.
///
/// # Errors
/// `E_INVALIDARG` when it is none of the caller's sessions.
pub fn session_of(cx: &Call, reference: &ObjRef) -> api::Result<Arc<Session>> {
    cx.local(reference)
        .and_then(|o| {
            o.as_any()
                .downcast_ref::<SessionObject>()
                .map(|s| s.0.clone())
        })
        .ok_or_else(|| crate::conv::invalid("The argument is not a session of this client"))
}

/// What the client holds.
pub struct SessionObject(pub Arc<Session>);

impl server::ISession for SessionObject {
    fn state(&self, _cx: &Call) -> api::Result<SessionState> {
        Ok(match self.0.machine() {
            Some(_) => SessionState::Locked,
            None => SessionState::Unlocked,
        })
    }

    fn type_(&self, _cx: &Call) -> api::Result<SessionType> {
        match lock(&self.0.inner).kind {
            SessionKind::None => Err(not_locked()),
            SessionKind::Write => Ok(SessionType::WriteLock),
            SessionKind::Shared => Ok(SessionType::Shared),
            SessionKind::Remote => Ok(SessionType::Remote),
        }
    }

    fn name(&self, _cx: &Call) -> api::Result<String> {
        Ok(self.0.name())
    }

    fn set_name(&self, _cx: &Call, value: String) -> api::Result<()> {
        lock(&self.0.inner).name = value;
        Ok(())
    }

    fn machine(&self, _cx: &Call) -> api::Result<ObjRef> {
        let id = self.0.machine().ok_or_else(not_locked)?;
        Ok(View {
            svc: self.0.svc.clone(),
            id,
            mutable: true,
            snapshot: None,
        }
        .path(""))
    }

    fn console(&self, _cx: &Call) -> api::Result<ObjRef> {
        let id = self.0.machine().ok_or_else(not_locked)?;
        let running = self.0.svc.with(|s| s.machine(id).map(|e| e.vm.is_some()))?;
        Ok(if running {
            forward::path(id, api::vm::CONSOLE)
        } else {
            ObjRef::null()
        })
    }

    fn unlock_machine(&self, _cx: &Call) -> api::Result<()> {
        if self.0.machine().is_none() {
            return Err(not_locked());
        }
        self.0.unlock();
        Ok(())
    }
}
api::object!(SessionObject: ISession; released = |session: &SessionObject, _| session.0.unlock());

fn not_locked() -> Error {
    Error::new(
        ResultCode::E_UNEXPECTED,
        "The session is not locked (session state: Unlocked)",
    )
}
