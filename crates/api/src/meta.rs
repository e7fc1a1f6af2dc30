//! The shape of the interfaces, as generated tables: for introspection and generic callers.

use crate::{Args, Call, Result, Val};

/// Prefix of the D-Bus names of all interfaces: `org.oxbox.IMachine`.
pub const INTERFACE_PREFIX: &str = "org.oxbox.";

/// One interface of the IDL.
#[derive(Debug)]
pub struct Interface {
    /// `IMachine`.
    pub name: &'static str,
    /// The interface it extends.
    pub extends: Option<&'static Interface>,
    pub attributes: &'static [Attribute],
    pub methods: &'static [Method],
}

#[derive(Debug)]
pub struct Attribute {
    pub name: &'static str,
    /// D-Bus signature.
    pub sig: &'static str,
    pub writable: bool,
}

#[derive(Debug)]
pub struct Method {
    pub name: &'static str,
    pub ins: &'static [Param],
    pub outs: &'static [Param],
}

#[derive(Debug)]
pub struct Param {
    pub name: &'static str,
    pub sig: &'static str,
}

/// What is asked of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    Get(&'a str),
    Set(&'a str),
    Call(&'a str),
}

impl<'a> Op<'a> {
    pub fn member(self) -> &'a str {
        match self {
            Op::Get(m) | Op::Set(m) | Op::Call(m) => m,
        }
    }
}

/// An object that can be called over a connection. The macro [`crate::object!`] writes it for
/// types that implement generated traits.
pub trait Object: Send + Sync + std::any::Any {
    /// The interfaces, most derived first.
    fn interfaces(&self) -> Vec<&'static Interface>;

    /// Answers one call.
    ///
    /// # Errors
    /// Whatever the member answers; `E_NOTIMPL` for one without an implementation.
    fn dispatch(&self, interface: &str, cx: &Call, op: Op<'_>, args: Args) -> Result<Vec<Val>>;

    /// For an object that stands for one in another process: the whole call is handed over
    /// instead of looked up in the interface tables.
    fn forward(
        &self,
        _cx: &Call,
        _interface: &str,
        _member: &str,
        _args: &[Val],
    ) -> Option<Result<Vec<Val>>> {
        None
    }

    /// The client dropped its last reference, or died.
    fn released(&self, _peer: &std::sync::Arc<crate::ipc::Peer>) {}

    fn as_any(&self) -> &dyn std::any::Any;
}

/// Implements [`Object`] for a type that implements the generated traits named.
#[macro_export]
macro_rules! object {
    ($type:ty: $($interface:ident),+ $(; released = $released:expr)?) => {
        impl $crate::Object for $type {
            fn interfaces(&self) -> Vec<&'static $crate::meta::Interface> {
                vec![$(<dyn $crate::server::$interface>::INTERFACE),+]
            }
            fn dispatch(
                &self,
                interface: &str,
                cx: &$crate::Call,
                op: $crate::meta::Op<'_>,
                args: $crate::Args,
            ) -> $crate::Result<Vec<$crate::Val>> {
                $(if interface == stringify!($interface) {
                    return (self as &dyn $crate::server::$interface).dispatch(cx, op, args);
                })+
                Err($crate::Error::not_implemented(interface, op.member()))
            }
            $(fn released(&self, peer: &std::sync::Arc<$crate::ipc::Peer>) {
                let released: fn(&$type, &std::sync::Arc<$crate::ipc::Peer>) = $released;
                released(self, peer);
            })?
            fn as_any(&self) -> &dyn std::any::Any {
                self
            }
        }
    };
}
