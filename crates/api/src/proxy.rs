//! The client's end of an object: what the generated types are made of.

use crate::ipc::{self, Peer};
use crate::meta::Op;
use crate::value::{ObjRef, Val};
use crate::{Error, Result, ResultCode};
use std::sync::Arc;

/// A reference to a remote object. Dropping the last clone of a counted one (session, progress,
/// listener, event) releases it at the other end.
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    peer: Arc<Peer>,
    path: ObjRef,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if ipc::is_counted(self.path.path()) {
            self.peer.release_later(&self.path);
        }
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.path.path())
    }
}

impl PartialEq for Proxy {
    fn eq(&self, other: &Self) -> bool {
        self.0.path == other.0.path
    }
}

/// A typed client object.
pub trait Remote: Sized {
    const INTERFACE: &'static str;
    fn from_proxy(proxy: Proxy) -> Self;
    fn proxy(&self) -> &Proxy;

    /// The same object seen through another interface; calls fail when it has not got it.
    fn cast<T: Remote>(&self) -> T {
        T::from_proxy(self.proxy().clone())
    }
}

/// An object whose interface this version's IDL does not hold.
#[derive(Debug, Clone, PartialEq)]
pub struct AnyObject(Proxy);

impl Remote for AnyObject {
    const INTERFACE: &'static str = "IManagedObjectRef";
    fn from_proxy(proxy: Proxy) -> Self {
        Self(proxy)
    }
    fn proxy(&self) -> &Proxy {
        &self.0
    }
}

/// A type that a reply may hold.
pub trait Receive: Sized {
    /// A struct that is a reply's only value arrives as its fields: D-Bus signatures of the two
    /// are the same to the decoder.
    const IS_STRUCT: bool = false;

    fn receive(val: Val, peer: &Arc<Peer>) -> Option<Self>;
}

/// A type that a reply may hold in arrays.
pub trait ReceiveElement: Receive {}

crate::receive_plain!(bool, i16, u16, i32, u32, i64, f64, String, ObjRef);

impl Receive for Vec<u8> {
    fn receive(val: Val, _peer: &Arc<Peer>) -> Option<Self> {
        crate::Wire::from_val(val)
    }
}

impl Receive for Proxy {
    fn receive(val: Val, peer: &Arc<Peer>) -> Option<Self> {
        match val {
            Val::Obj(path) if !path.is_null() => Some(Proxy::new(peer.clone(), path)),
            _ => None,
        }
    }
}

impl Receive for AnyObject {
    fn receive(val: Val, peer: &Arc<Peer>) -> Option<Self> {
        Proxy::receive(val, peer).map(Self)
    }
}

impl ReceiveElement for AnyObject {}

impl<T: ReceiveElement> Receive for Vec<T> {
    fn receive(val: Val, peer: &Arc<Peer>) -> Option<Self> {
        match val {
            Val::List(_, items) => items.into_iter().map(|v| T::receive(v, peer)).collect(),
            _ => None,
        }
    }
}

impl<T: Remote + Receive> Receive for Option<T> {
    fn receive(val: Val, peer: &Arc<Peer>) -> Option<Self> {
        match &val {
            Val::Obj(path) if path.is_null() => Some(None),
            _ => T::receive(val, peer).map(Some),
        }
    }
}

/// The results of one call.
pub struct Reply {
    values: std::vec::IntoIter<Val>,
    peer: Arc<Peer>,
    what: String,
}

impl Reply {
    pub(crate) fn take<T: Receive>(&mut self) -> Result<T> {
        self.values
            .next()
            .and_then(|v| T::receive(v, &self.peer))
            .ok_or_else(|| {
                Error::new(
                    ResultCode::NS_ERROR_CALL_FAILED,
                    format!("unexpected reply to {}", self.what),
                )
            })
    }

    pub(crate) fn single<T: Receive>(mut self) -> Result<T> {
        if T::IS_STRUCT && self.values.len() != 1 {
            self.values = vec![Val::Struct(self.values.collect())].into_iter();
        }
        self.take()
    }

    pub(crate) fn end(self) -> Result<()> {
        Ok(())
    }
}

impl Proxy {
    pub fn new(peer: Arc<Peer>, path: ObjRef) -> Self {
        Self(Arc::new(Inner { peer, path }))
    }

    pub fn peer(&self) -> &Arc<Peer> {
        &self.0.peer
    }

    pub fn path(&self) -> &ObjRef {
        &self.0.path
    }

    fn raw(&self, interface: &str, op: Op<'_>, args: Vec<Val>) -> Result<Reply> {
        let values = self.0.peer.call(self.0.path.path(), interface, op, args)?;
        Ok(Reply {
            values: values.into_iter(),
            peer: self.0.peer.clone(),
            what: format!("{interface}::{}", op.member()),
        })
    }

    pub(crate) fn get<T: Receive>(&self, interface: &str, name: &str) -> Result<T> {
        self.raw(interface, Op::Get(name), Vec::new())?.single()
    }

    pub(crate) fn set(&self, interface: &str, name: &str, value: Val) -> Result<()> {
        self.raw(interface, Op::Set(name), vec![value])?.end()
    }

    pub(crate) fn call(&self, interface: &str, name: &str, args: Vec<Val>) -> Result<Reply> {
        self.raw(interface, Op::Call(name), args)
    }
}

/// An object argument.
pub(crate) fn reference(object: &impl Remote) -> Val {
    Val::Obj(object.proxy().path().clone())
}

pub(crate) fn optional<T: Remote>(object: Option<&T>) -> Val {
    object.map_or(Val::Obj(ObjRef::null()), reference)
}

pub(crate) fn references<T: Remote>(objects: &[T]) -> Val {
    Val::List("o", objects.iter().map(reference).collect())
}

impl From<&str> for Val {
    fn from(text: &str) -> Self {
        Val::Str(text.to_owned())
    }
}

impl From<&[&str]> for Val {
    fn from(texts: &[&str]) -> Self {
        Val::List("s", texts.iter().map(|t| Val::from(*t)).collect())
    }
}
