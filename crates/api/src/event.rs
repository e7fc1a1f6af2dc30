//! `IEventSource` for whoever has events, and the events themselves.

use crate::ipc::Peer;
use crate::meta::{Interface, Object, Op};
use crate::progress::{LOOK, timeout};
use crate::types::{ResultCode, VBoxEventType};
use crate::value::{Args, ObjRef, Val, Wire};
use crate::{Call, Error, Result, server, tables};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Events that a passive listener may have waiting; one that never asks loses the oldest.
const MAX_QUEUE: usize = 16_384;

/// One event. Its interface's attributes are data, so no event needs code of its own.
#[derive(Debug)]
pub struct Event {
    kind: VBoxEventType,
    interface: &'static Interface,
    fields: Vec<(&'static str, Val)>,
    source: Mutex<ObjRef>,
}

impl Event {
    /// An event with the attributes of its interface; one that is missing answers `E_NOTIMPL`.
    pub fn new(kind: VBoxEventType, fields: Vec<(&'static str, Val)>) -> Arc<Self> {
        let source = Mutex::new(ObjRef::null());
        Arc::new(Self {
            kind,
            interface: tables::event_interface(kind),
            fields,
            source,
        })
    }

    fn is_a(&self, name: &str) -> bool {
        let mut next = Some(self.interface);
        while let Some(i) = next {
            if i.name == name {
                return true;
            }
            next = i.extends;
        }
        false
    }

    fn matches(&self, interest: &[VBoxEventType]) -> bool {
        interest.iter().any(|i| match i {
            VBoxEventType::Any => true,
            VBoxEventType::MachineEvent => self.is_a("IMachineEvent"),
            VBoxEventType::SnapshotEvent => self.is_a("ISnapshotEvent"),
            VBoxEventType::Vetoable => self.is_a("IVetoEvent"),
            VBoxEventType::InputEvent => matches!(
                self.kind,
                VBoxEventType::OnKeyboardLedsChanged
                    | VBoxEventType::OnMousePointerShapeChanged
                    | VBoxEventType::OnMouseCapabilityChanged
                    | VBoxEventType::OnGuestKeyboard
                    | VBoxEventType::OnGuestMouse
            ),
            kind => *kind == self.kind,
        })
    }
}

impl Object for Event {
    fn interfaces(&self) -> Vec<&'static Interface> {
        vec![self.interface]
    }

    fn dispatch(&self, interface: &str, _cx: &Call, op: Op<'_>, _args: Args) -> Result<Vec<Val>> {
        match op {
            Op::Get("type") => Ok(vec![self.kind.into_val()]),
            Op::Get("source") => Ok(vec![Val::Obj(lock(&self.source).clone())]),
            Op::Get("waitable") => Ok(vec![Val::Bool(false)]),
            Op::Call("setProcessed") => Ok(Vec::new()),
            Op::Call("waitProcessed") => Ok(vec![Val::Bool(true)]),
            Op::Get(name) => match self.fields.iter().find(|(n, _)| *n == name) {
                Some((_, value)) => Ok(vec![value.clone()]),
                None => Err(Error::not_implemented(interface, name)),
            },
            op => Err(Error::not_implemented(interface, op.member())),
        }
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// A client's ear, made by `createListener`; it lives as long as the client holds it.
pub struct Listener {
    peer: Arc<Peer>,
    state: Mutex<ListenerState>,
    ready: Condvar,
}

#[derive(Default)]
struct ListenerState {
    interest: Vec<VBoxEventType>,
    active: bool,
    queue: VecDeque<Arc<Event>>,
    ended: bool,
}

impl server::IEventListener for Listener {}
crate::object!(Listener: IEventListener; released = |listener: &Listener, _| listener.end());

impl Listener {
    fn end(&self) {
        lock(&self.state).ended = true;
        self.ready.notify_all();
    }
}

/// Where events of an object come from. Register it under `path`.
pub struct EventSource {
    path: ObjRef,
    listeners: Mutex<Vec<Arc<Listener>>>,
}

impl EventSource {
    pub fn new(path: &str) -> Arc<Self> {
        Arc::new(Self {
            path: ObjRef::new(path),
            listeners: Mutex::default(),
        })
    }

    /// Where it is registered.
    pub fn path(&self) -> ObjRef {
        self.path.clone()
    }

    /// Gives the event to every listener that wants it; never waits.
    pub fn fire(&self, event: &Arc<Event>) {
        lock(&event.source).clone_from(&self.path);
        let mut listeners = lock(&self.listeners);
        listeners.retain(|l| !lock(&l.state).ended && !l.peer.is_closed());
        for listener in listeners.iter() {
            let mut state = lock(&listener.state);
            if !event.matches(&state.interest) {
                continue;
            }
            if state.active {
                let fields = event.fields.iter();
                let mut values: Vec<_> = fields
                    .map(|(name, v)| ((*name).to_owned(), v.clone()))
                    .collect();
                values.push(("type".to_owned(), event.kind.into_val()));
                let interface = event.interface.name;
                listener.peer.emit(
                    self.path.path(),
                    interface,
                    "Event",
                    vec![Val::Dict(values)],
                );
                continue;
            }
            if state.queue.len() >= MAX_QUEUE {
                tracing::warn!(
                    "a listener of {:?} does not fetch its events",
                    listener.peer
                );
                state.queue.pop_front();
            }
            state.queue.push_back(event.clone());
            listener.ready.notify_all();
        }
    }

    fn find(&self, cx: &Call, reference: &ObjRef) -> Result<Arc<Listener>> {
        let object = cx.local(reference);
        let same = |l: &&Arc<Listener>| {
            object
                .as_ref()
                .is_some_and(|o| std::ptr::addr_eq(Arc::as_ptr(o), Arc::as_ptr(l)))
        };
        lock(&self.listeners)
            .iter()
            .find(same)
            .cloned()
            .ok_or_else(|| {
                Error::new(
                    ResultCode::VBOX_E_OBJECT_NOT_FOUND,
                    "Listener was never registered",
                )
            })
    }
}

impl server::IEventSource for EventSource {
    fn create_listener(&self, cx: &Call) -> Result<ObjRef> {
        let listener = Arc::new(Listener {
            peer: cx.peer.clone(),
            state: Mutex::default(),
            ready: Condvar::new(),
        });
        // Found again by `find`; without interest it gets nothing yet.
        lock(&self.listeners).push(listener.clone());
        Ok(cx.export(listener))
    }

    fn register_listener(
        &self,
        cx: &Call,
        listener: ObjRef,
        interesting: Vec<VBoxEventType>,
        active: bool,
    ) -> Result<()> {
        let listener = self.find(cx, &listener)?;
        let mut state = lock(&listener.state);
        state.interest = interesting;
        state.active = active;
        Ok(())
    }

    fn unregister_listener(&self, cx: &Call, listener: ObjRef) -> Result<()> {
        let listener = self.find(cx, &listener)?;
        listener.end();
        lock(&self.listeners).retain(|l| !Arc::ptr_eq(l, &listener));
        Ok(())
    }

    fn get_event(&self, cx: &Call, listener: ObjRef, timeout_ms: i32) -> Result<ObjRef> {
        let listener = self.find(cx, &listener)?;
        let end = timeout(timeout_ms).map(|t| Instant::now() + t);
        let mut state = lock(&listener.state);
        if state.active {
            let text = "Listener must be passive";
            return Err(Error::new(ResultCode::VBOX_E_INVALID_OBJECT_STATE, text));
        }
        loop {
            if let Some(event) = state.queue.pop_front() {
                return Ok(cx.export(event));
            }
            let left = end.map_or(LOOK, |e| {
                e.saturating_duration_since(Instant::now()).min(LOOK)
            });
            if left.is_zero() || state.ended || cx.peer.is_closed() {
                return Ok(ObjRef::null());
            }
            let waited = listener.ready.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn event_processed(&self, cx: &Call, listener: ObjRef, _event: ObjRef) -> Result<()> {
        self.find(cx, &listener).map(|_| ())
    }
}
crate::object!(EventSource: IEventSource);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
