//! `sharedfolder`.

use super::{Command, form};
use crate::args::{Arg, Args, Opt, flag, value};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};
use api::types::LockType;

pub const COMMAND: Command = Command {
    name: "sharedfolder",
    aliases: &[],
    usage,
    forms: || ["add", "remove"].map(|word| form(word, OPTIONS)).into(),
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage sharedfolder add <uuid | vmname> <--name=name> <--hostpath=hostpath> [--readonly]
      [--transient] [--automount] [--auto-mount-point=path]

  VBoxManage sharedfolder remove <uuid | vmname> <--name=name> [--transient]\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    value(&["--name", "-n"]),
    value(&["--hostpath", "-p"]),
    flag(&["--readonly", "-r"]),
    flag(&["--transient", "-t"]),
    flag(&["--automount", "-a"]),
    value(&["--auto-mount-point"]),
];

#[derive(Debug, Default)]
struct Wanted {
    add: bool,
    machine: String,
    name: String,
    path: String,
    read_only: bool,
    transient: bool,
    auto_mount: bool,
    mount_point: String,
}

fn parse(args: &mut Args) -> Result<Wanted> {
    let action = args.required("action: add or remove")?;
    let add = match action.as_str() {
        "add" => true,
        "remove" => false,
        _ => return Err(Failure::syntax(format!("Invalid parameter '{action}'"))),
    };
    let mut wanted = Wanted {
        add,
        ..Wanted::default()
    };
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--name" => wanted.name = given.value,
                "--hostpath" => wanted.path = absolute(&given.value)?,
                "--readonly" => wanted.read_only = true,
                "--transient" => wanted.transient = true,
                "--automount" => wanted.auto_mount = true,
                _ => wanted.mount_point = given.value,
            },
            Arg::Word(word) if wanted.machine.is_empty() => wanted.machine = word,
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    if wanted.machine.is_empty() {
        return Err(Failure::syntax("No machine name or UUID given"));
    }
    if wanted.name.is_empty() {
        return Err(Failure::syntax("Parameter --name is required"));
    }
    if add && wanted.path.is_empty() {
        return Err(Failure::syntax("Parameter --hostpath is required"));
    }
    Ok(wanted)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    let kind = if wanted.transient {
        LockType::Shared
    } else {
        LockType::Write
    };
    let locked = cx.lock(&wanted.machine, kind)?;
    let (add, remove) = (
        "CreateSharedFolder(Bstr(name).raw(), Bstr(hostpath).raw(), fWritable, fAutoMount, Bstr(pszAutoMountPoint).raw())",
        "RemoveSharedFolder(Bstr(name).raw())",
    );
    if wanted.transient {
        let console = locked.console()?;
        if wanted.add {
            console
                .create_shared_folder(
                    &wanted.name,
                    &wanted.path,
                    !wanted.read_only,
                    wanted.auto_mount,
                    &wanted.mount_point,
                )
                .during(add)?;
        } else {
            console.remove_shared_folder(&wanted.name).during(remove)?;
        }
        return locked.unlock();
    }
    if wanted.add {
        locked
            .machine
            .create_shared_folder(
                &wanted.name,
                &wanted.path,
                !wanted.read_only,
                wanted.auto_mount,
                &wanted.mount_point,
            )
            .during(add)?;
    } else {
        locked
            .machine
            .remove_shared_folder(&wanted.name)
            .during(remove)?;
    }
    locked.save()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Wanted> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())))
    }

    #[test]
    fn vagrants_lines() {
        let add = [
            "add",
            "u",
            "--name",
            "vagrant",
            "--hostpath",
            "/p",
            "--automount",
        ];
        let wanted = parsed(&add).expect("known");
        assert!(wanted.add && wanted.auto_mount && !wanted.transient);
        assert!(
            !parsed(&["remove", "u", "--name", "vagrant"])
                .expect("known")
                .add
        );
        assert!(parsed(&["add", "u", "--name", "x"]).is_err());
        assert!(parsed(&["modify", "u", "--name", "x"]).is_err());
        assert!(parsed(&["remove", "u"]).is_err());
    }
}
