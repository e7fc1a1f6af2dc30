//! What the generated enums, structs and client types expand to.

/// An IDL enum. Values that repeat an earlier number become constants.
#[doc(hidden)]
#[macro_export]
macro_rules! wire_enum {
    ($name:ident { $($value:ident = $number:literal,)* } [$($alias:ident = $of:ident,)*]) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types)]
        #[repr(u32)]
        pub enum $name {
            $($value = $number,)*
        }

        #[allow(non_upper_case_globals)]
        impl $name {
            $(pub const $alias: Self = Self::$of;)*

            /// All values, in the order of the IDL.
            pub const ALL: &'static [Self] = &[$(Self::$value,)*];

            /// The value's name as VirtualBox spells it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$value => stringify!($value),)*
                }
            }

            pub fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$value),)*
                    _ => None,
                }
            }
        }

        impl Wire for $name {
            const SIG: &'static str = "u";
            fn into_val(self) -> Val {
                Val::U32(self as u32)
            }
            fn from_val(val: Val) -> Option<Self> {
                match val {
                    Val::U32(n) => Self::from_number(n),
                    _ => None,
                }
            }
        }

        impl Element for $name {
            const ARRAY_SIG: &'static str = "au";
        }

        $crate::receive_plain!($name);
    };
}

/// An IDL struct as the server fills it: objects are references.
#[doc(hidden)]
#[macro_export]
macro_rules! wire_struct {
    ($name:ident $sig:literal { $($field:ident: $type:ty,)* }) => {
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(pub $field: $type,)*
        }

        impl Wire for $name {
            const SIG: &'static str = $sig;
            fn into_val(self) -> Val {
                Val::Struct(vec![$(Wire::into_val(self.$field),)*])
            }
            fn from_val(val: Val) -> Option<Self> {
                let Val::Struct(fields) = val else { return None };
                let mut fields = fields.into_iter();
                let this = Self { $($field: Wire::from_val(fields.next()?)?,)* };
                fields.next().is_none().then_some(this)
            }
        }

        impl Element for $name {
            const ARRAY_SIG: &'static str = concat!("a", $sig);
        }

        impl $crate::proxy::Receive for $name {
            const IS_STRUCT: bool = true;
            fn receive(val: Val, _peer: &std::sync::Arc<$crate::ipc::Peer>) -> Option<Self> {
                Wire::from_val(val)
            }
        }

        impl $crate::proxy::ReceiveElement for $name {}
    };
}

/// An IDL struct as a client gets it: objects can be called.
#[doc(hidden)]
#[macro_export]
macro_rules! client_struct {
    ($name:ident = $wire:ty { $($field:ident: $type:ty,)* }) => {
        #[derive(Debug, Clone)]
        pub struct $name {
            $(pub $field: $type,)*
        }

        impl $crate::proxy::Receive for $name {
            const IS_STRUCT: bool = true;
            fn receive(val: Val, peer: &std::sync::Arc<$crate::ipc::Peer>) -> Option<Self> {
                let Val::Struct(fields) = val else { return None };
                let mut fields = fields.into_iter();
                let this = Self {
                    $($field: <$type as $crate::proxy::Receive>::receive(fields.next()?, peer)?,)*
                };
                fields.next().is_none().then_some(this)
            }
        }

        impl $crate::proxy::ReceiveElement for $name {}
    };
}

/// What every client type of an interface has.
#[doc(hidden)]
#[macro_export]
macro_rules! client_interface {
    ($name:ident, $interface:literal) => {
        impl $crate::proxy::Remote for $name {
            const INTERFACE: &'static str = $interface;
            fn from_proxy(proxy: Proxy) -> Self {
                Self(proxy)
            }
            fn proxy(&self) -> &Proxy {
                &self.0
            }
        }

        impl $crate::proxy::Receive for $name {
            fn receive(val: Val, peer: &std::sync::Arc<$crate::ipc::Peer>) -> Option<Self> {
                Proxy::receive(val, peer).map(Self)
            }
        }

        impl $crate::proxy::ReceiveElement for $name {}

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0 == other.0
            }
        }
    };
}

/// Results that hold no object need no connection to be understood.
#[doc(hidden)]
#[macro_export]
macro_rules! receive_plain {
    ($($type:ty),+) => {$(
        impl $crate::proxy::Receive for $type {
            fn receive(
                val: $crate::Val,
                _peer: &std::sync::Arc<$crate::ipc::Peer>,
            ) -> Option<Self> {
                $crate::value::Wire::from_val(val)
            }
        }

        impl $crate::proxy::ReceiveElement for $type {}
    )+};
}
