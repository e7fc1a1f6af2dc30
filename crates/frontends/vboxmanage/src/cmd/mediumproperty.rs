//! `mediumproperty`, formerly `hdproperty`.

use super::{Command, form};
use crate::args::Args;
use crate::cx::Cx;
use crate::error::{During, Failure, Result};
use crate::media;

pub const COMMAND: Command = Command {
    name: "mediumproperty",
    aliases: &["hdproperty"],
    usage,
    forms: || ["set", "get", "delete"].map(|word| form(word, &[])).into(),
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage mediumproperty [disk | dvd | floppy] set <uuid | filename> <name> <value>

  VBoxManage mediumproperty [disk | dvd | floppy] get <uuid | filename> <name>

  VBoxManage mediumproperty [disk | dvd | floppy] delete <uuid | filename> <name>\n"
        .to_owned()
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let kind = media::image_kind(args);
    let action = args.required("action: set, get or delete")?;
    if !matches!(action.as_str(), "set" | "get" | "delete") {
        return Err(Failure::syntax(format!("Invalid parameter '{action}'")));
    }
    let what = args.required("medium name or UUID")?;
    let name = args.required("property name")?;
    let value = match action.as_str() {
        "set" => args.required("property value")?,
        _ => String::new(),
    };
    args.end()?;
    let opened = media::open_any(cx, &what, kind)?;
    let done = if action == "get" {
        opened
            .medium
            .get_property(&name)
            .during("GetProperty(Bstr(pszProperty).raw(), bstrVal.asOutParam())")
            .and_then(|value| Ok(writeln!(cx.out, "{name}={value}")?))
    } else {
        opened
            .medium
            .set_property(&name, &value)
            .during("SetProperty(Bstr(pszProperty).raw(), Bstr(pszValue).raw())")
    };
    done.and(opened.forget())
}
