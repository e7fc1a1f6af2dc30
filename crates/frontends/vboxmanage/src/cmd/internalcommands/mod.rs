//! `internalcommands`: image files as such, without the service. Nothing here knows whether a
//! machine uses a file; the image's own lock keeps it from being changed meanwhile.

mod images;
mod rawdisk;

use super::{Command, Form, form};
use crate::args::{Args, Opt, flag, value};
use crate::cx::Cx;
use crate::error::{Failure, Result};

pub const COMMAND: Command = Command {
    name: "internalcommands",
    aliases: &[],
    usage,
    forms,
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage internalcommands sethduuid <filepath> [uuid]

  VBoxManage internalcommands sethdparentuuid <filepath> <uuid>

  VBoxManage internalcommands dumphdinfo <filepath>

  VBoxManage internalcommands createrawvmdk -filename <filename> -rawdisk <diskname>

  VBoxManage internalcommands converttoraw [-format <fileformat>] <filename> <outputfile>

  VBoxManage internalcommands converthd [-srcformat VDI | VMDK | VHD | RAW]
      [-dstformat VDI | VMDK | VHD | RAW] <inputfile> <outputfile>\n"
        .to_owned()
}

fn forms() -> Vec<Form> {
    vec![
        form("sethduuid", &[]),
        form("sethdparentuuid", &[]),
        form("dumphdinfo", &[]),
        form("createrawvmdk", rawdisk::OPTIONS).without(rawdisk::MISSING),
        form("converttoraw", TO_RAW),
        form("converthd", CONVERT),
    ]
}

const TO_RAW: &[Opt] = &[value(&["--format"])];
const CONVERT: &[Opt] = &[value(&["--srcformat"]), value(&["--dstformat"])];

/// Of VirtualBox, without a room here.
const NOT_YET: &[&str] = &[
    "loadmap",
    "loadsyms",
    "listpartitions",
    "renamevmdk",
    "repairhd",
    "debuglog",
    "passwordhash",
    "gueststats",
    "modinstall",
    "moduninstall",
    "guiprops",
];

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let command = args.required("internal command")?;
    match command.as_str() {
        "sethduuid" => images::set_uuid(cx, args),
        "sethdparentuuid" => images::set_parent(cx, args),
        "dumphdinfo" => images::dump(cx, args),
        "createrawvmdk" => rawdisk::create(cx, args),
        "converttoraw" => images::convert(cx, args, TO_RAW, Some("RAW")),
        "converthd" => images::convert(cx, args, CONVERT, None),
        word if NOT_YET.contains(&word) => Err(Failure::message(format!(
            "The internal command '{word}' is not available in this version of Oxbox yet"
        ))),
        word => Err(Failure::syntax(format!("Invalid command '{word}'"))),
    }
}

/// A switch of a table here.
const fn switch(names: &'static [&'static str]) -> Opt {
    flag(names)
}
