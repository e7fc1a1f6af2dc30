//! `setextradata` and `getextradata`.

use super::Command;
use crate::args::Args;
use crate::cx::Cx;
use crate::error::{During, Result};
use api::client::{Machine, VirtualBox};

pub const SET: Command = Command {
    name: "setextradata",
    aliases: &[],
    usage: || "  VBoxManage setextradata <global | uuid | vmname> <keyname> [value]\n".to_owned(),
    forms: super::plain,
    run: Some(set),
};

pub const GET: Command = Command {
    name: "getextradata",
    aliases: &[],
    usage: || {
        "  VBoxManage getextradata <global | uuid | vmname> <keyname | enumerate>\n".to_owned()
    },
    forms: super::plain,
    run: Some(get),
};

fn set(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let target = args.required("machine name, UUID or 'global'")?;
    let key = args.required("key name")?;
    // Without a value the key is removed.
    let value = args.take().unwrap_or_default();
    args.end()?;
    let call = "SetExtraData(Bstr(a->argv[1]).raw(), Bstr(a->argv[2]).raw())";
    if target == "global" {
        return cx.vbox()?.set_extra_data(&key, &value).during(call);
    }
    cx.machine(&target)?
        .set_extra_data(&key, &value)
        .during(call)
}

fn get(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let target = args.required("machine name, UUID or 'global'")?;
    let key = args.required("key name")?;
    args.end()?;
    let holder = if target == "global" {
        Holder::Global(cx.vbox()?)
    } else {
        Holder::Machine(cx.machine(&target)?)
    };
    if key == "enumerate" {
        for key in holder.keys()? {
            let value = holder.value(&key)?;
            writeln!(cx.out, "Key: {key}, Value: {value}")?;
        }
        return Ok(());
    }
    let value = holder
        .value(&key)
        .during("GetExtraData(Bstr(a->argv[1]).raw(), value.asOutParam())")?;
    if value.is_empty() {
        writeln!(cx.out, "No value set!")?;
    } else {
        writeln!(cx.out, "Value: {value}")?;
    }
    Ok(())
}

/// What has extra data.
enum Holder {
    Global(VirtualBox),
    Machine(Machine),
}

impl Holder {
    fn keys(&self) -> api::Result<Vec<String>> {
        match self {
            Self::Global(vbox) => vbox.get_extra_data_keys(),
            Self::Machine(machine) => machine.get_extra_data_keys(),
        }
    }

    fn value(&self, key: &str) -> api::Result<String> {
        match self {
            Self::Global(vbox) => vbox.get_extra_data(key),
            Self::Machine(machine) => machine.get_extra_data(key),
        }
    }
}
