//! `storagectl`.

use super::{Command, form};
use crate::args::{Arg, Args, Given, Opt, flag, numbered, value};
use crate::cx::Cx;
use crate::error::{During, Failure, Result};
use crate::names::{BUSES, CONTROLLERS};
use api::client::Machine;
use api::types::LockType;

pub const COMMAND: Command = Command {
    name: "storagectl",
    aliases: &[],
    usage,
    forms: || vec![form("", OPTIONS)],
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage storagectl <uuid | vmname> <--name=controller-name> [--add=floppy | ide | pcie |
      sas | sata | scsi | usb | virtio-scsi] [--controller=BusLogic | I82078 | ICH6 | IntelAhci |
      LSILogic | LSILogicSAS | NVMe | PIIX3 | PIIX4 | USB | VirtIO] [--bootable=on | off]
      [--hostiocache=on | off] [--portcount=count] [--remove] [--rename=new-name]\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    value(&["--name", "-n"]),
    value(&["--add", "-a"]),
    value(&["--controller", "-c"]),
    value(&["--portcount", "--sataportcount", "-p"]),
    flag(&["--remove", "-r"]),
    value(&["--rename", "-R"]),
    value(&["--hostiocache", "-i"]),
    value(&["--bootable", "-b"]),
    // 4.0's legacy mode of SATA ports, gone since.
    numbered(&["--sataideemulation"]),
];

fn parse(args: &mut Args) -> Result<(String, String, Vec<Given>)> {
    let (mut machine, mut name, mut changes) = (None, None, Vec::new());
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => {
                match given.name {
                    "--name" => {
                        name = Some(given.value);
                        continue;
                    }
                    "--add" => drop(given.one_of(BUSES)?),
                    "--controller" => drop(given.one_of(CONTROLLERS)?),
                    "--portcount" => drop(given.integer::<u32>()?),
                    "--hostiocache" | "--bootable" => drop(given.on()?),
                    _ => {}
                }
                changes.push(given);
            }
            Arg::Word(word) if machine.is_none() => machine = Some(word),
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    let machine = machine.ok_or_else(|| Failure::syntax("Too few parameters"))?;
    let name = name.ok_or_else(|| Failure::syntax("Storage controller name not specified"))?;
    Ok((machine, name, changes))
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let (machine, mut name, mut changes) = parse(args)?;
    let locked = cx.lock(&machine, LockType::Write)?;
    // A controller is there before it is changed, whatever the order of the options.
    changes.sort_by_key(|c| match c.name {
        "--remove" => 0,
        "--add" => 1,
        "--rename" => 3,
        _ => 2,
    });
    for change in &changes {
        apply(&locked.machine, &mut name, change)?;
    }
    locked.save()
}

fn apply(machine: &Machine, name: &mut String, change: &Given) -> Result {
    let controller = || {
        machine
            .get_storage_controller_by_name(name)
            .during("GetStorageControllerByName(Bstr(pszCtl).raw(), ctl.asOutParam())")
    };
    match change.name {
        "--remove" => machine
            .remove_storage_controller(name)
            .during("RemoveStorageController(Bstr(pszCtl).raw())"),
        "--add" => machine
            .add_storage_controller(name, change.one_of(BUSES)?)
            .during("AddStorageController(Bstr(pszCtl).raw(), StorageBus, ctl.asOutParam())")
            .map(drop),
        "--controller" => controller()?
            .set_controller_type(change.one_of(CONTROLLERS)?)
            .during("COMSETTER(ControllerType)(StorageControllerType)"),
        "--portcount" => controller()?
            .set_port_count(change.integer()?)
            .during("COMSETTER(PortCount)(portcount)"),
        "--hostiocache" => controller()?
            .set_use_host_io_cache(change.on()?)
            .during("COMSETTER(UseHostIOCache)(hostiocache)"),
        "--bootable" => machine
            .set_storage_controller_bootable(name, change.on()?)
            .during("SetStorageControllerBootable(Bstr(pszCtl).raw(), bootable)"),
        "--rename" => {
            controller()?
                .set_name(&change.value)
                .during("COMSETTER(Name)(Bstr(pszNewName).raw())")?;
            change.value.clone_into(name);
            Ok(())
        }
        _ => Err(Failure::message(format!(
            "Option '{}' is not supported any more",
            change.typed
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<(String, String, Vec<Given>)> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())))
    }

    #[test]
    fn lines_of_tools() {
        let docker = [
            "vm",
            "--name",
            "SATA",
            "--add",
            "sata",
            "--hostiocache",
            "on",
        ];
        let (machine, name, changes) = parsed(&docker).expect("known");
        assert_eq!(
            (machine.as_str(), name.as_str(), changes.len()),
            ("vm", "SATA", 2)
        );
        let packer = [
            "vm",
            "--name",
            "IDE",
            "--add",
            "ide",
            "--controller",
            "piix4",
            "--sataportcount",
            "2",
        ];
        assert_eq!(parsed(&packer).expect("known").2.len(), 3);
        for wrong in [
            &["vm", "--add", "ide"][..],
            &["--name", "IDE"],
            &["vm", "--name", "x", "--add", "mfm"],
            &["vm", "--name", "x", "--controller", "x"],
            &["vm", "--name", "x", "--bootable", "x"],
            &["vm", "--name", "x", "y"],
        ] {
            assert!(
                matches!(parsed(wrong), Err(Failure::Syntax(_))),
                "{wrong:?}"
            );
        }
    }
}
