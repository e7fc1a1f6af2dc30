//! One end of a connection.

use super::{ObjectSpace, REF_PREFIX, build_body, runtime, standard};
use crate::meta::{INTERFACE_PREFIX, Object, Op};
use crate::value::{ObjRef, Val, body_values};
use crate::{Error, Result, ResultCode};
use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zbus::export::futures_core::Stream;
use zbus::message::{Flags, Header, Type};
use zbus::{Message, MessageStream};

/// Calls of one client that may be under way at once; further ones wait in its socket.
const MAX_CALLS: usize = 256;

/// How long a client may take to authenticate.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// Receives signals: object path, interface without prefix, member, arguments.
pub type SignalHandler = Box<dyn Fn(&str, &str, &str, Vec<Val>) + Send + Sync>;

/// Counted references that the other end holds: path, object, count.
type Refs = HashMap<String, (Arc<dyn Object>, u32)>;

/// One end of a connection: calls the other end's objects and answers for its own.
pub struct Peer {
    id: u64,
    pid: Option<u32>,
    connection: zbus::Connection,
    space: Option<Arc<dyn ObjectSpace>>,
    refs: Mutex<Refs>,
    signals: Mutex<Option<SignalHandler>>,
    closed: AtomicBool,
}

/// Who calls, and which object was called.
pub struct Call {
    pub peer: Arc<Peer>,
    /// Path of the object called.
    pub path: String,
}

impl Call {
    /// Hands a counted reference to the caller: the object lives until the caller releases it or
    /// its connection ends. The same object gets the same path.
    pub fn export(&self, object: Arc<dyn Object>) -> ObjRef {
        self.peer.export(object)
    }

    /// The local object behind an argument.
    pub fn local(&self, reference: &ObjRef) -> Option<Arc<dyn Object>> {
        self.peer.resolve(reference.path())
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "peer {} (pid {:?})", self.id, self.pid)
    }
}

impl Peer {
    /// Connects to a server; `space` holds the objects that the server may call back.
    ///
    /// # Errors
    /// `NS_ERROR_CALL_FAILED` when the other end does not authenticate.
    pub fn connect(stream: UnixStream, space: Option<Arc<dyn ObjectSpace>>) -> Result<Arc<Self>> {
        runtime().block_on(Self::start(stream, space, None))
    }

    /// The server's side of [`Peer::connect`].
    pub(super) async fn start(
        stream: UnixStream,
        space: Option<Arc<dyn ObjectSpace>>,
        guid: Option<zbus::Guid<'static>>,
    ) -> Result<Arc<Self>> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let pid = peer_of_this_user(&stream)?;
        stream.set_nonblocking(true).map_err(Error::connection)?;
        let mut builder = zbus::connection::Builder::unix_stream(stream).p2p();
        if let Some(guid) = guid {
            builder = builder.server(guid);
        }
        let stream = tokio::time::timeout(HANDSHAKE, builder.build_message_stream())
            .await
            .map_err(|_| Error::connection("no answer to the handshake"))?
            .map_err(Error::connection)?;
        let peer = Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            pid,
            connection: zbus::Connection::from(&stream),
            space,
            refs: Mutex::default(),
            signals: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        if let Some(space) = &peer.space {
            space.connected(&peer);
        }
        tokio::spawn(peer.clone().receive(stream));
        Ok(peer)
    }

    /// Unique among the connections of this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Process id of the other end, where the system told.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Whether the other end is gone. Calls that block look at this now and then.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) || self.connection.is_closed()
    }

    /// Ends the connection.
    pub fn close(&self) {
        let connection = self.connection.clone();
        runtime().spawn(async move { connection.close().await });
    }

    /// Installs what gets the signals that come in.
    pub fn on_signal(&self, handler: SignalHandler) {
        *lock(&self.signals) = Some(handler);
    }

    /// Calls an object of the other end and waits for the reply.
    ///
    /// # Errors
    /// The object's own error, or `NS_ERROR_CALL_FAILED` when the connection is lost.
    pub fn call(
        &self,
        path: &str,
        interface: &str,
        op: Op<'_>,
        args: Vec<Val>,
    ) -> Result<Vec<Val>> {
        let full = format!("{INTERFACE_PREFIX}{interface}");
        let (interface, member, args) = match op {
            Op::Call(member) => (full, member, args),
            Op::Get(name) => (
                standard::PROPERTIES.to_owned(),
                "Get",
                vec![Val::Str(full), Val::from(name)],
            ),
            Op::Set(name) => {
                let value = args.into_iter().next().unwrap_or(Val::Bool(false));
                let args = vec![Val::Str(full), Val::from(name), Val::Var(Box::new(value))];
                (standard::PROPERTIES.to_owned(), "Set", args)
            }
        };
        self.call_raw(path, &interface, member, args)
    }

    /// Calls by full D-Bus names, standard interfaces included.
    ///
    /// # Errors
    /// See [`Peer::call`].
    pub fn call_raw(
        &self,
        path: &str,
        interface: &str,
        member: &str,
        args: Vec<Val>,
    ) -> Result<Vec<Val>> {
        let body = match crate::value::to_structure(args.clone()) {
            _ if args.is_empty() => None,
            Ok(body) => Some(body),
            Err(e) => return Err(Error::new(ResultCode::E_INVALIDARG, e.to_string())),
        };
        let none: Option<&str> = None;
        let reply = runtime().block_on(async {
            match &body {
                Some(body) => {
                    self.connection
                        .call_method(none, path, Some(interface), member, body)
                        .await
                }
                None => {
                    self.connection
                        .call_method(none, path, Some(interface), member, &())
                        .await
                }
            }
        });
        match reply {
            Ok(message) => body_values(&message.body()),
            Err(zbus::Error::MethodError(name, text, message)) => {
                Err(remote_error(name.as_str(), text, &message))
            }
            Err(e) => Err(Error::connection(e)),
        }
    }

    /// Sends a signal from one of this end's objects.
    pub fn emit(&self, path: &str, interface: &str, member: &str, args: Vec<Val>) {
        let message = Message::signal(path, format!("{INTERFACE_PREFIX}{interface}"), member);
        match build_body(message.sender(standard::UNIQUE_NAME), args) {
            Ok(message) => self.send_later(message),
            Err(e) => tracing::warn!("signal {interface}.{member} not sent: {e}"),
        }
    }

    /// Tells the other end that a counted reference is no longer held; does not wait.
    pub(crate) fn release_later(&self, path: &ObjRef) {
        let message = Message::method_call(path.path().to_owned(), "release")
            .interface(format!("{INTERFACE_PREFIX}IManagedObjectRef"))
            .with_flags(Flags::NO_REPLY_EXPECTED);
        if let Ok(message) = message.build(&()) {
            self.send_later(message);
        }
    }

    fn send_later(&self, message: Message) {
        let connection = self.connection.clone();
        runtime().spawn(async move {
            // A lost connection ends its receive loop; nothing to add here.
            let _ = connection.send(&message).await;
        });
    }

    /// See [`Call::export`].
    pub fn export(&self, object: Arc<dyn Object>) -> ObjRef {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut refs = lock(&self.refs);
        for (path, (known, count)) in refs.iter_mut() {
            if Arc::ptr_eq(known, &object) {
                *count = count.saturating_add(1);
                return ObjRef::new(path.clone());
            }
        }
        let path = format!("{REF_PREFIX}{}", NEXT.fetch_add(1, Ordering::Relaxed));
        refs.insert(path.clone(), (object, 1));
        ObjRef::new(path)
    }

    /// Gives back one reference that [`Call::export`] handed out.
    pub(super) fn release(self: &Arc<Self>, path: &str) {
        let gone = {
            let mut refs = lock(&self.refs);
            let Some((_, count)) = refs.get_mut(path) else {
                return;
            };
            *count -= 1;
            if *count == 0 { refs.remove(path) } else { None }
        };
        if let Some((object, _)) = gone {
            object.released(self);
        }
    }

    /// The object that a path of this end stands for.
    pub fn resolve(self: &Arc<Self>, path: &str) -> Option<Arc<dyn Object>> {
        if path.starts_with(REF_PREFIX) {
            return lock(&self.refs).get(path).map(|(object, _)| object.clone());
        }
        self.space.as_ref()?.resolve(self, path)
    }

    pub(super) fn space(&self) -> Option<&Arc<dyn ObjectSpace>> {
        self.space.as_ref()
    }

    async fn receive(self: Arc<Self>, mut stream: MessageStream) {
        let room = Arc::new(tokio::sync::Semaphore::new(MAX_CALLS));
        loop {
            let next = std::future::poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await;
            let message = match next {
                Some(Ok(message)) => message,
                Some(Err(e)) => {
                    tracing::debug!("connection {} ends: {e}", self.id);
                    break;
                }
                None => break,
            };
            match message.message_type() {
                Type::MethodCall => {
                    let Ok(permit) = room.clone().acquire_owned().await else {
                        break;
                    };
                    let peer = self.clone();
                    tokio::task::spawn_blocking(move || {
                        peer.answer(&message);
                        drop(permit);
                    });
                }
                Type::Signal => self.signal(&message),
                _ => {}
            }
        }
        self.closed.store(true, Ordering::Release);
        // Objects may block while they end; that is not this thread's business.
        let peer = self.clone();
        tokio::task::spawn_blocking(move || {
            let refs = std::mem::take(&mut *lock(&peer.refs));
            for (object, _) in refs.into_values() {
                object.released(&peer);
            }
            if let Some(space) = &peer.space {
                space.disconnected(&peer);
            }
        });
    }

    fn answer(self: &Arc<Self>, message: &Message) {
        let header = message.header();
        let quiet = message
            .primary_header()
            .flags()
            .contains(Flags::NO_REPLY_EXPECTED);
        let result = self.handle(&header, message);
        if quiet {
            return;
        }
        let reply = match result {
            Ok(values) => build_body(
                Message::method_return(&header).sender(standard::UNIQUE_NAME),
                values,
            ),
            Err(error) => error_reply(&header, error),
        };
        let sent = reply.map(|message| runtime().block_on(self.connection.send(&message)));
        if let Err(e) | Ok(Err(e)) = sent {
            tracing::debug!("no reply to connection {}: {e}", self.id);
        }
    }

    fn handle(self: &Arc<Self>, header: &Header<'_>, message: &Message) -> Result<Vec<Val>> {
        let path = header.path().map_or("/", |p| p.as_str());
        let interface = header.interface().map_or("", |i| i.as_str());
        let member = header.member().map_or("", |m| m.as_str());
        let values = body_values(&message.body())?;
        let cx = Call {
            peer: self.clone(),
            path: path.to_owned(),
        };
        standard::handle(&cx, interface, member, values)
    }

    fn signal(&self, message: &Message) {
        let header = message.header();
        let (Some(path), Some(interface), Some(member)) =
            (header.path(), header.interface(), header.member())
        else {
            return;
        };
        let interface = interface.as_str();
        let interface = interface
            .strip_prefix(INTERFACE_PREFIX)
            .unwrap_or(interface);
        if let (Some(handler), Ok(args)) = (&*lock(&self.signals), body_values(&message.body())) {
            handler(path.as_str(), interface, member.as_str(), args);
        }
    }
}

/// The error as a D-Bus error message: `org.oxbox.Error.NAME (text, code, component, interface)`.
fn error_reply(header: &Header<'_>, error: Error) -> zbus::Result<Message> {
    let name = match error.code.name() {
        "" => "NS_ERROR_FAILURE",
        name => name,
    };
    let builder = Message::error(header, format!("{INTERFACE_PREFIX}Error.{name}"));
    let values = vec![
        Val::Str(error.text),
        Val::U32(error.code.0),
        Val::Str(error.component),
        Val::Str(error.interface),
    ];
    build_body(builder.sender(standard::UNIQUE_NAME), values)
}

/// The error that [`error_reply`] sent; of other programs' errors name and text are kept.
fn remote_error(name: &str, text: Option<String>, message: &Message) -> Error {
    let mut values = body_values(&message.body()).unwrap_or_default().into_iter();
    match (values.next(), values.next(), values.next(), values.next()) {
        (
            Some(Val::Str(text)),
            Some(Val::U32(code)),
            Some(Val::Str(component)),
            Some(Val::Str(interface)),
        ) => Error {
            code: ResultCode(code),
            text,
            component,
            interface,
        },
        _ => Error::connection(format!("{name}: {}", text.unwrap_or_default())),
    }
}

/// Refuses a socket whose other end runs under another account; its process id otherwise.
fn peer_of_this_user(stream: &UnixStream) -> Result<Option<u32>> {
    let credentials = rustix::net::sockopt::socket_peercred(stream).map_err(Error::connection)?;
    if credentials.uid != rustix::process::geteuid() {
        return Err(Error::new(
            ResultCode::E_ACCESSDENIED,
            format!("the other end belongs to user {}", credentials.uid.as_raw()),
        ));
    }
    Ok(u32::try_from(credentials.pid.as_raw_nonzero().get()).ok())
}

/// A poisoned lock only means that another call panicked; the tables stay usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
