//! `clonevm`.

use super::{Command, form};
use crate::args::{Arg, Args, Opt, flag, value};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};
use crate::progress;
use api::types::*;

pub const COMMAND: Command = Command {
    name: "clonevm",
    aliases: &[],
    usage,
    forms: || vec![form("", OPTIONS)],
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage clonevm <vmname | uuid> [--basefolder=basefolder] [--groups=group,...]
      [--mode=machine | machinechildren | all] [--name=name]
      [--options=keepallmacs,keepnatmacs,keepdisknames,keephwuuids,link] [--register]
      [--snapshot=snapshot-name] [--uuid=uuid]\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    value(&["--snapshot", "-s"]),
    value(&["--name", "-n"]),
    value(&["--groups", "-g"]),
    value(&["--mode", "-m"]),
    value(&["--options", "-o"]),
    flag(&["--register", "-r"]),
    value(&["--basefolder", "-p"]),
    value(&["--uuid", "-u"]),
];

#[derive(Debug)]
struct Wanted {
    source: String,
    snapshot: Option<String>,
    name: Option<String>,
    groups: Vec<String>,
    mode: CloneMode,
    options: Vec<CloneOptions>,
    register: bool,
    base_folder: String,
    flags: String,
}

fn option(text: &str) -> Option<CloneOptions> {
    Some(match text.to_ascii_lowercase().as_str() {
        "link" => CloneOptions::Link,
        "keepallmacs" => CloneOptions::KeepAllMACs,
        "keepnatmacs" => CloneOptions::KeepNATMACs,
        "keepdisknames" => CloneOptions::KeepDiskNames,
        "keephwuuids" => CloneOptions::KeepHwUUIDs,
        _ => return None,
    })
}

fn parse(args: &mut Args) -> Result<Wanted> {
    let mut wanted = Wanted {
        source: String::new(),
        snapshot: None,
        name: None,
        groups: Vec::new(),
        mode: CloneMode::MachineState,
        options: Vec::new(),
        register: false,
        base_folder: String::new(),
        flags: String::new(),
    };
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--snapshot" => wanted.snapshot = Some(given.value),
                "--name" => wanted.name = Some(given.value),
                "--groups" => wanted.groups = super::modifyvm::groups(&given.value),
                "--mode" => {
                    wanted.mode = match given.value.to_ascii_lowercase().as_str() {
                        "machine" => CloneMode::MachineState,
                        "machinechildren" | "machineandchildren" => {
                            CloneMode::MachineAndChildStates
                        }
                        "all" => CloneMode::AllStates,
                        _ => {
                            let text = format!("Invalid clone mode '{}'", given.value);
                            return Err(Failure::syntax(text));
                        }
                    }
                }
                "--options" => {
                    for word in given.value.split(',').filter(|w| !w.is_empty()) {
                        let option = option(word).ok_or_else(|| {
                            Failure::syntax(format!("Invalid clone options '{}'", given.value))
                        })?;
                        wanted.options.push(option);
                    }
                }
                "--register" => wanted.register = true,
                "--basefolder" => wanted.base_folder = given.value,
                _ if crate::media::is_uuid(&given.value) => {
                    wanted.flags = format!("UUID={}", given.value);
                }
                _ => {
                    return Err(Failure::syntax(format!(
                        "Invalid UUID format: {}",
                        given.value
                    )));
                }
            },
            Arg::Word(word) if wanted.source.is_empty() => wanted.source = word,
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    if wanted.source.is_empty() {
        return Err(Failure::syntax("VM name required"));
    }
    Ok(wanted)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    let mut source = cx.machine(&wanted.source)?;
    let name = match wanted.name {
        Some(name) => name,
        None => format!("{} Clone", source.name()?),
    };
    if let Some(snapshot) = &wanted.snapshot {
        source = source
            .find_snapshot(snapshot)
            .during("FindSnapshot(Bstr(pszSnapshotName).raw(), srcSnapshot.asOutParam())")?
            .machine()?;
    }
    let groups: Vec<&str> = wanted.groups.iter().map(String::as_str).collect();
    let base = match wanted.base_folder.as_str() {
        "" => String::new(),
        folder => absolute(folder)?,
    };
    let vbox = cx.vbox()?;
    let group = groups.first().copied().unwrap_or_default();
    let file = vbox
        .compose_machine_filename(&name, group, &wanted.flags, &base)
        .during("ComposeMachineFilename(Bstr(pszTrgName).raw(), bstrPrimaryGroup.raw(), NULL, Bstr(pszTrgBaseFolder).raw(), bstrSettingsFile.asOutParam())")?;
    let target = vbox
        .create_machine(&file, &name, &groups, "", &wanted.flags, "", "", "")
        .during("CreateMachine(bstrSettingsFile.raw(), Bstr(pszTrgName).raw(), ComSafeArrayAsInParam(groups), NULL, createFlags.raw(), trgMachine.asOutParam())")?;
    let cloning = source
        .clone_to(&target, wanted.mode, &wanted.options)
        .during(
            "CloneTo(trgMachine, mode, ComSafeArrayAsInParam(options), progress.asOutParam())",
        )?;
    progress::show(cx, &cloning, "Clone VM failed")?;
    if wanted.register {
        vbox.register_machine(&target)
            .during("RegisterMachine(trgMachine)")?;
    }
    writeln!(cx.out, "Machine has been successfully cloned as \"{name}\"")?;
    Ok(())
}
