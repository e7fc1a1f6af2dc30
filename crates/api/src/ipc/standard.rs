//! Dispatch of incoming calls, and what every D-Bus peer answers: the standard interfaces, and
//! the few bus calls that stock clients make before anything else.

use super::{Call, REF_PREFIX};
use crate::meta::{INTERFACE_PREFIX, Interface, Object, Op};
use crate::value::{Args, Val};
use crate::{Error, Result, ResultCode};
use std::fmt::Write as _;

pub(super) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The name this end gives itself and its clients; clients that expect a bus insist on one.
pub(super) const UNIQUE_NAME: &str = ":1.1";

/// Answers one call.
pub(super) fn handle(cx: &Call, interface: &str, member: &str, args: Vec<Val>) -> Result<Vec<Val>> {
    match interface {
        "org.freedesktop.DBus" => return bus(member),
        "org.freedesktop.DBus.Peer" => return peer(member),
        _ => {}
    }
    let object = cx.peer.resolve(&cx.path);
    let forwarded = object
        .as_ref()
        .and_then(|o| o.forward(cx, interface, member, &args));
    if let Some(result) = forwarded {
        return result;
    }
    if interface == "org.freedesktop.DBus.Introspectable" {
        return Ok(vec![Val::Str(introspect(cx, object.as_deref()))]);
    }
    let object = object.ok_or_else(|| no_object(&cx.path))?;
    if interface == PROPERTIES {
        return properties(cx, &*object, member, args);
    }
    let name = interface
        .strip_prefix(INTERFACE_PREFIX)
        .unwrap_or(interface);
    if name == "IManagedObjectRef" || (name.is_empty() && member == "release") {
        return managed(cx, &*object, member);
    }
    let method = lineage(&*object)
        .into_iter()
        .filter(|i| name.is_empty() || i.name == name)
        .find_map(|i| Some((i, i.methods.iter().find(|m| m.name == member)?)));
    match method {
        Some((declaring, _)) => object
            .dispatch(declaring.name, cx, Op::Call(member), Args::new(args))
            .map_err(|e| e.from_interface(declaring.name)),
        None => Err(Error::not_implemented(name, member)),
    }
}

fn no_object(path: &str) -> Error {
    let text = if path.starts_with(REF_PREFIX) {
        format!("Invalid managed object reference \"{path}\"")
    } else {
        format!("There is no object {path}")
    };
    Error::new(ResultCode::VBOX_E_OBJECT_NOT_FOUND, text)
}

/// All interfaces of an object and those they extend.
fn lineage(object: &dyn Object) -> Vec<&'static Interface> {
    let mut all: Vec<&'static Interface> = Vec::new();
    for interface in object.interfaces() {
        let mut next = Some(interface);
        while let Some(i) = next {
            if !all.iter().any(|known| std::ptr::eq(*known, i)) {
                all.push(i);
            }
            next = i.extends;
        }
    }
    all
}

fn bus(member: &str) -> Result<Vec<Val>> {
    let name = || Val::from(UNIQUE_NAME);
    match member {
        "Hello" | "GetNameOwner" => Ok(vec![name()]),
        "AddMatch" | "RemoveMatch" => Ok(Vec::new()),
        "NameHasOwner" => Ok(vec![Val::Bool(true)]),
        "RequestName" | "ReleaseName" => Ok(vec![Val::U32(1)]),
        "ListNames" | "ListActivatableNames" => Ok(vec![Val::List(
            "s",
            vec![Val::from("org.freedesktop.DBus"), name()],
        )]),
        "GetConnectionUnixUser" => Ok(vec![Val::U32(rustix::process::geteuid().as_raw())]),
        "GetConnectionUnixProcessID" => Ok(vec![Val::U32(std::process::id())]),
        "GetId" => Ok(vec![Val::from("00000000000000000000000000000001")]),
        _ => Err(Error::not_implemented("org.freedesktop.DBus", member)),
    }
}

fn peer(member: &str) -> Result<Vec<Val>> {
    match member {
        "Ping" => Ok(Vec::new()),
        "GetMachineId" => {
            let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
            Ok(vec![Val::from(id.trim())])
        }
        _ => Err(Error::not_implemented("org.freedesktop.DBus.Peer", member)),
    }
}

fn managed(cx: &Call, object: &dyn Object, member: &str) -> Result<Vec<Val>> {
    match member {
        "release" => {
            cx.peer.release(&cx.path);
            Ok(Vec::new())
        }
        "interfaceName" => Ok(vec![Val::from(
            object.interfaces().first().map_or("", |i| i.name),
        )]),
        _ => Err(Error::not_implemented("IManagedObjectRef", member)),
    }
}

fn properties(cx: &Call, object: &dyn Object, member: &str, args: Vec<Val>) -> Result<Vec<Val>> {
    let mut args = Args::new(args);
    let interface: String = args.take()?;
    let name = interface
        .strip_prefix(INTERFACE_PREFIX)
        .unwrap_or(&interface);
    let all = lineage(object);
    let declared = |attribute: &str| {
        all.iter()
            .copied()
            .filter(|i| name.is_empty() || i.name == name)
            .find_map(|i| Some((i, i.attributes.iter().find(|a| a.name == attribute)?)))
    };
    match member {
        "Get" => {
            let attribute: String = args.take()?;
            args.end()?;
            if name == "IManagedObjectRef" {
                return managed(cx, object, &attribute).map(wrap);
            }
            let (i, _) =
                declared(&attribute).ok_or_else(|| Error::not_implemented(name, &attribute))?;
            object
                .dispatch(i.name, cx, Op::Get(&attribute), Args::new(Vec::new()))
                .map(wrap)
                .map_err(|e| e.from_interface(i.name))
        }
        "Set" => {
            let attribute: String = args.take()?;
            let value = args.into_vec();
            let (i, a) =
                declared(&attribute).ok_or_else(|| Error::not_implemented(name, &attribute))?;
            if !a.writable {
                let text = format!("{}::{attribute} is read-only", i.name);
                return Err(Error::new(ResultCode::E_INVALIDARG, text));
            }
            object
                .dispatch(i.name, cx, Op::Set(&attribute), Args::new(value))
                .map_err(|e| e.from_interface(i.name))
        }
        "GetAll" => {
            let mut entries = Vec::new();
            for i in all.iter().filter(|i| name.is_empty() || i.name == name) {
                for a in i.attributes {
                    let value = object.dispatch(i.name, cx, Op::Get(a.name), Args::new(Vec::new()));
                    if let Some(value) = value.ok().and_then(|v| v.into_iter().next()) {
                        entries.push((a.name.to_owned(), value));
                    }
                }
            }
            Ok(vec![Val::Dict(entries)])
        }
        _ => Err(Error::not_implemented(PROPERTIES, member)),
    }
}

/// Properties.Get answers with a variant.
fn wrap(values: Vec<Val>) -> Vec<Val> {
    values.into_iter().map(|v| Val::Var(Box::new(v))).collect()
}

fn introspect(cx: &Call, object: Option<&dyn Object>) -> String {
    let mut xml = String::from(
        "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\" \
         \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n<node>\n",
    );
    if let Some(object) = object {
        for interface in lineage(object) {
            describe(&mut xml, interface);
        }
        xml.push_str(STANDARD);
    }
    for child in cx
        .peer
        .space()
        .map(|s| s.children(&cx.path))
        .unwrap_or_default()
    {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(xml, " <node name=\"{child}\"/>");
    }
    xml.push_str("</node>\n");
    xml
}

const STANDARD: &str = " <interface name=\"org.freedesktop.DBus.Properties\">\n  \
  <method name=\"Get\"><arg name=\"interface\" type=\"s\" direction=\"in\"/><arg name=\"name\" type=\"s\" direction=\"in\"/><arg name=\"value\" type=\"v\" direction=\"out\"/></method>\n  \
  <method name=\"Set\"><arg name=\"interface\" type=\"s\" direction=\"in\"/><arg name=\"name\" type=\"s\" direction=\"in\"/><arg name=\"value\" type=\"v\" direction=\"in\"/></method>\n  \
  <method name=\"GetAll\"><arg name=\"interface\" type=\"s\" direction=\"in\"/><arg name=\"values\" type=\"a{sv}\" direction=\"out\"/></method>\n \
  </interface>\n <interface name=\"org.freedesktop.DBus.Introspectable\">\n  \
  <method name=\"Introspect\"><arg name=\"xml\" type=\"s\" direction=\"out\"/></method>\n </interface>\n";

fn describe(xml: &mut String, interface: &Interface) {
    let _ = writeln!(
        xml,
        " <interface name=\"{INTERFACE_PREFIX}{}\">",
        interface.name
    );
    for a in interface.attributes {
        let access = if a.writable { "readwrite" } else { "read" };
        let _ = writeln!(
            xml,
            "  <property name=\"{}\" type=\"{}\" access=\"{access}\"/>",
            a.name, a.sig
        );
    }
    for m in interface.methods {
        let _ = write!(xml, "  <method name=\"{}\">", m.name);
        for (params, direction) in [(m.ins, "in"), (m.outs, "out")] {
            for p in params {
                let _ = write!(
                    xml,
                    "<arg name=\"{}\" type=\"{}\" direction=\"{direction}\"/>",
                    p.name, p.sig
                );
            }
        }
        xml.push_str("</method>\n");
    }
    xml.push_str(" </interface>\n");
}
