//! Values as they cross the connection, and their conversion to and from D-Bus.
//!
//! The generated code speaks [`Val`] only, so one small decoder and one small encoder serve all
//! interfaces. Object references travel as object paths (`o`), null as the path `/`, enums as
//! `u`, `octet[]` as `ay`, structs as D-Bus structs.

use crate::{Error, ResultCode};
use zbus::wire::Signature;
use zbus::{Array, ObjectPath, Structure, Variant};

/// One value of a call's arguments or results.
#[derive(Debug, Clone, PartialEq)]
pub enum Val {
    Bool(bool),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Str(String),
    Obj(ObjRef),
    Bytes(Vec<u8>),
    /// Elements, and the D-Bus signature of one element (needed when there is none).
    List(&'static str, Vec<Val>),
    Struct(Vec<Val>),
    /// A value in a D-Bus variant; decoding takes the variant off.
    Var(Box<Val>),
    /// `a{sv}`, for the standard Properties interface and signals.
    Dict(Vec<(String, Val)>),
}

/// A reference to an object at the other end of the connection: its path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjRef(String);

impl ObjRef {
    /// Wraps a path; anything that is not a D-Bus object path becomes null.
    pub fn new(path: impl Into<String>) -> Self {
        let path = path.into();
        if ObjectPath::try_from(path.as_str()).is_ok() {
            Self(path)
        } else {
            Self::null()
        }
    }

    /// The null reference, `/` on the wire.
    pub fn null() -> Self {
        Self("/".to_owned())
    }

    pub fn is_null(&self) -> bool {
        self.0 == "/"
    }

    pub fn path(&self) -> &str {
        &self.0
    }
}

/// A type that has a place in the IDL.
pub trait Wire: Sized {
    /// Its D-Bus signature.
    const SIG: &'static str;
    fn into_val(self) -> Val;
    /// The value back; `None` when the peer sent another type or an unknown enum value.
    fn from_val(val: Val) -> Option<Self>;
}

macro_rules! wire {
    ($($t:ty, $sig:literal, $variant:ident;)*) => {$(
        impl Wire for $t {
            const SIG: &'static str = $sig;
            fn into_val(self) -> Val {
                Val::$variant(self)
            }
            fn from_val(val: Val) -> Option<Self> {
                match val {
                    Val::$variant(v) => Some(v),
                    _ => None,
                }
            }
        }
    )*};
}

wire! {
    bool, "b", Bool;
    i16, "n", I16;
    u16, "q", U16;
    i32, "i", I32;
    u32, "u", U32;
    i64, "x", I64;
    f64, "d", F64;
    String, "s", Str;
    ObjRef, "o", Obj;
    Vec<u8>, "ay", Bytes;
}

/// Element types of arrays; `u8` is not one of them because `octet[]` has its own variant.
pub trait Element: Wire {
    const ARRAY_SIG: &'static str;
}

macro_rules! elements {
    ($($t:ty, $sig:literal;)*) => {$(
        impl Element for $t {
            const ARRAY_SIG: &'static str = $sig;
        }
    )*};
}

elements! {
    bool, "ab";
    i32, "ai";
    u32, "au";
    i64, "ax";
    String, "as";
    ObjRef, "ao";
}

impl<T: Element> Wire for Vec<T> {
    const SIG: &'static str = T::ARRAY_SIG;
    fn into_val(self) -> Val {
        Val::List(T::SIG, self.into_iter().map(T::into_val).collect())
    }
    fn from_val(val: Val) -> Option<Self> {
        match val {
            Val::List(_, items) => items.into_iter().map(T::from_val).collect(),
            // An empty `ay` decodes as bytes, every other array as a list.
            _ => None,
        }
    }
}

/// The arguments of a call, taken one after the other in the order of the IDL.
pub struct Args {
    values: std::vec::IntoIter<Val>,
}

impl Args {
    pub fn new(values: Vec<Val>) -> Self {
        Self {
            values: values.into_iter(),
        }
    }

    /// The next argument.
    ///
    /// # Errors
    /// `E_INVALIDARG` when it is missing or of another type.
    pub fn take<T: Wire>(&mut self) -> Result<T, Error> {
        let val = self.values.next().ok_or_else(|| {
            Error::new(
                ResultCode::E_INVALIDARG,
                format!("missing argument of type '{}'", T::SIG),
            )
        })?;
        T::from_val(val).ok_or_else(|| {
            Error::new(
                ResultCode::E_INVALIDARG,
                format!("an argument of type '{}' was expected", T::SIG),
            )
        })
    }

    /// # Errors
    /// `E_INVALIDARG` when arguments are left over.
    pub fn end(mut self) -> Result<(), Error> {
        match self.values.next() {
            None => Ok(()),
            Some(_) => Err(Error::new(ResultCode::E_INVALIDARG, "too many arguments")),
        }
    }

    /// All that is left.
    pub fn into_vec(self) -> Vec<Val> {
        self.values.collect()
    }
}

/// Encodes one value.
pub(crate) fn to_variant(val: Val) -> zbus::Result<Variant<'static>> {
    Ok(match val {
        Val::Bool(v) => Variant::Bool(v),
        Val::U8(v) => Variant::U8(v),
        Val::I16(v) => Variant::I16(v),
        Val::U16(v) => Variant::U16(v),
        Val::I32(v) => Variant::I32(v),
        Val::U32(v) => Variant::U32(v),
        Val::I64(v) => Variant::I64(v),
        Val::U64(v) => Variant::U64(v),
        Val::F64(v) => Variant::F64(v),
        // D-Bus strings end with a zero byte and hold none.
        Val::Str(v) => Variant::Str(v.replace('\0', "\u{fffd}").into()),
        Val::Obj(v) => Variant::ObjectPath(ObjectPath::try_from(v.0)?),
        Val::Bytes(v) => Variant::Array(Array::from(v)),
        Val::List(sig, items) => {
            let mut array = Array::new(&Signature::try_from(sig)?);
            for item in items {
                array.append(to_variant(item)?)?;
            }
            Variant::Array(array)
        }
        Val::Struct(fields) => Variant::Structure(to_structure(fields)?),
        Val::Var(v) => Variant::Variant(Box::new(to_variant(*v)?)),
        Val::Dict(entries) => {
            let mut dict = zbus::Dict::new(&Signature::Str, &Signature::Variant);
            for (key, v) in entries {
                let value = Variant::Variant(Box::new(to_variant(v)?));
                dict.append(Variant::Str(key.into()), value)?;
            }
            Variant::Dict(dict)
        }
    })
}

/// Encodes a whole argument list.
pub(crate) fn to_structure(fields: Vec<Val>) -> zbus::Result<Structure<'static>> {
    let mut builder = Structure::builder();
    for field in fields {
        builder = builder.append_field(to_variant(field)?);
    }
    builder.build()
}

/// Decodes one value; a variant is unwrapped, file descriptors and dictionaries have no place in
/// the IDL.
pub(crate) fn from_variant(value: Variant<'_>) -> Option<Val> {
    Some(match value {
        Variant::U8(v) => Val::U8(v),
        Variant::Bool(v) => Val::Bool(v),
        Variant::I16(v) => Val::I16(v),
        Variant::U16(v) => Val::U16(v),
        Variant::I32(v) => Val::I32(v),
        Variant::U32(v) => Val::U32(v),
        Variant::I64(v) => Val::I64(v),
        Variant::U64(v) => Val::U64(v),
        Variant::F64(v) => Val::F64(v),
        Variant::Str(v) => Val::Str(v.as_str().to_owned()),
        Variant::ObjectPath(v) => Val::Obj(ObjRef(v.as_str().to_owned())),
        Variant::Variant(v) => from_variant(*v)?,
        Variant::Structure(s) => Val::Struct(
            s.into_fields()
                .into_iter()
                .map(from_variant)
                .collect::<Option<_>>()?,
        ),
        Variant::Array(array) => {
            if *array.element_signature() == Signature::U8 {
                Val::Bytes(Vec::<u8>::try_from(array).ok()?)
            } else {
                let sig = static_signature(array.element_signature());
                let items = array.inner().iter();
                Val::List(
                    sig,
                    items
                        .map(|v| from_variant(v.try_clone().ok()?))
                        .collect::<Option<_>>()?,
                )
            }
        }
        Variant::Dict(dict) => Val::Dict(
            dict.iter()
                .map(|(k, v)| match (k, from_variant(v.try_clone().ok()?)?) {
                    (Variant::Str(k), v) => Some((k.as_str().to_owned(), v)),
                    _ => None,
                })
                .collect::<Option<_>>()?,
        ),
        Variant::Signature(_) | Variant::Fd(_) => return None,
    })
}

/// Basic element signatures by name; element lists of other types are only read, so theirs may
/// stay empty.
fn static_signature(sig: &Signature) -> &'static str {
    match sig {
        Signature::Bool => "b",
        Signature::I32 => "i",
        Signature::U32 => "u",
        Signature::I64 => "x",
        Signature::Str => "s",
        Signature::ObjectPath => "o",
        _ => "",
    }
}

/// Decodes a message body into its arguments.
pub(crate) fn body_values(body: &zbus::message::Body) -> Result<Vec<Val>, Error> {
    let bad = |e: &dyn std::fmt::Display| {
        Error::new(
            ResultCode::E_INVALIDARG,
            format!("malformed message body: {e}"),
        )
    };
    match body.signature() {
        Signature::Unit => Ok(Vec::new()),
        // A screenshot is megabytes: not one boxed value per byte.
        Signature::Array(child) if *child.signature() == Signature::U8 => Ok(vec![Val::Bytes(
            body.deserialize::<Vec<u8>>().map_err(|e| bad(&e))?,
        )]),
        _ => {
            let s: Structure<'_> = body.deserialize().map_err(|e| bad(&e))?;
            s.into_fields()
                .into_iter()
                .map(from_variant)
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| bad(&"a type without a place in this API"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(values: Vec<Val>) -> Vec<Val> {
        let message = zbus::Message::method_call("/x", "M").and_then_build(values.clone());
        body_values(&message.body()).expect("decodes")
    }

    trait Build {
        fn and_then_build(self, values: Vec<Val>) -> zbus::Message;
    }

    impl Build for zbus::message::Builder<'_> {
        fn and_then_build(self, values: Vec<Val>) -> zbus::Message {
            crate::ipc::build_body(self, values).expect("encodes")
        }
    }

    #[test]
    fn every_kind_of_value_survives_the_wire() {
        let values = vec![
            Val::Bool(true),
            Val::I16(-2),
            Val::U32(7),
            Val::I64(i64::MIN),
            Val::F64(0.5),
            Val::Str("grün".into()),
            Val::Obj(ObjRef::new("/Machine/x")),
            Val::Bytes(vec![1, 2, 3]),
            Val::List("s", vec![Val::Str("a".into()), Val::Str("b".into())]),
            Val::List("o", Vec::new()),
        ];
        assert_eq!(round_trip(values.clone()), values);
        for v in values {
            assert_eq!(round_trip(vec![v.clone()]), vec![v]);
        }
        assert_eq!(round_trip(Vec::new()), Vec::new());
        let s = Val::Struct(vec![Val::I32(1), Val::Str("x".into())]);
        let two = vec![s.clone(), Val::Bool(false)];
        assert_eq!(round_trip(two.clone()), two);
        let list = vec![Val::List("(is)", vec![s.clone()])];
        let Some(Val::List(_, items)) = round_trip(list).pop() else {
            panic!("no list")
        };
        assert_eq!(items, vec![s]);
    }

    #[test]
    fn paths_are_checked() {
        assert!(ObjRef::new("no path").is_null());
        assert_eq!(ObjRef::new("/Machine/1").path(), "/Machine/1");
    }
}
