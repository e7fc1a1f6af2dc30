//! `createvm`.

use super::{Command, form};
use crate::args::{Arg, Args, Opt, flag, value};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};

pub const COMMAND: Command = Command {
    name: "createvm",
    aliases: &[],
    usage,
    forms: || vec![form("", OPTIONS).without(&["--cipher", "--password", "--password-id"])],
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage createvm <--name=name> [--basefolder=basefolder] [--default]
      [--groups=group-ID,...] [--ostype=ostype] [--register] [--uuid=UUID]\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    value(&["--name", "-n"]),
    value(&["--groups", "-g"]),
    value(&["--basefolder", "-p"]),
    value(&["--ostype", "-o"]),
    value(&["--uuid", "-u"]),
    flag(&["--register", "-r"]),
    flag(&["--default", "-d"]),
    value(&["--cipher", "-c"]),
    value(&["--password-id", "-i"]),
    value(&["--password", "-w"]),
    value(&["--platform-architecture"]),
];

#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    name: String,
    groups: Vec<String>,
    base_folder: String,
    os_type: String,
    flags: String,
    register: bool,
    default: bool,
    cipher: String,
    password_id: String,
    password_file: String,
}

fn parse(args: &mut Args) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--name" => wanted.name = given.value,
                "--groups" => wanted.groups = super::modifyvm::groups(&given.value),
                "--basefolder" => wanted.base_folder = given.value,
                "--ostype" => wanted.os_type = given.value,
                "--uuid" => {
                    if !crate::media::is_uuid(&given.value) {
                        return Err(Failure::syntax(format!(
                            "Invalid UUID format: {}",
                            given.value
                        )));
                    }
                    wanted.flags = format!("UUID={}", given.value);
                }
                "--register" => wanted.register = true,
                "--default" => wanted.default = true,
                "--cipher" => wanted.cipher = given.value,
                "--password-id" => wanted.password_id = given.value,
                "--password" => wanted.password_file = given.value,
                _ if given.value.eq_ignore_ascii_case("x86") => {}
                _ => return Err(given.invalid()),
            },
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    if wanted.name.is_empty() {
        return Err(Failure::syntax("Parameter --name is required"));
    }
    Ok(wanted)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    let groups: Vec<&str> = wanted.groups.iter().map(String::as_str).collect();
    let vbox = cx.vbox()?;
    let mut file = String::new();
    if !wanted.base_folder.is_empty() {
        let base = absolute(&wanted.base_folder)?;
        let group = groups.first().copied().unwrap_or_default();
        file = vbox
            .compose_machine_filename(&wanted.name, group, &wanted.flags, &base)
            .during("ComposeMachineFilename(bstrName.raw(), bstrPrimaryGroup.raw(), createFlags.raw(), bstrBaseFolder.raw(), bstrSettingsFile.asOutParam())")?;
    }
    let password = match wanted.password_file.as_str() {
        "" => String::new(),
        file => crate::password_of(file)?,
    };
    let machine = vbox
        .create_machine(
            &file,
            &wanted.name,
            &groups,
            &wanted.os_type,
            &wanted.flags,
            &wanted.cipher,
            &wanted.password_id,
            &password,
        )
        .during("CreateMachine(bstrSettingsFile.raw(), bstrName.raw(), ComSafeArrayAsInParam(groups), bstrOsTypeId.raw(), createFlags.raw(), bstrCipher.raw(), bstrPasswordId.raw(), Bstr(strPassword).raw(), machine.asOutParam())")?;
    if wanted.default {
        machine
            .apply_defaults("")
            .during("ApplyDefaults(Bstr().raw())")?;
    }
    let done = if wanted.register {
        vbox.register_machine(&machine)
            .during("RegisterMachine(machine)")?;
        "created and registered"
    } else {
        machine.save_settings().during("SaveSettings()")?;
        "created"
    };
    let (id, path) = (machine.id()?, machine.settings_file_path()?);
    write!(
        cx.out,
        "Virtual machine '{}' is {done}.\nUUID: {id}\nSettings file: '{path}'\n",
        wanted.name
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Wanted> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())))
    }

    #[test]
    fn options_of_docker_machine() {
        let wanted = parsed(&["--basefolder", "/x", "--name", "n", "--register"]).expect("known");
        assert_eq!(
            wanted,
            Wanted {
                name: "n".into(),
                base_folder: "/x".into(),
                register: true,
                ..Wanted::default()
            }
        );
    }

    #[test]
    fn a_name_and_nothing_unknown() {
        assert!(matches!(parsed(&["--register"]), Err(Failure::Syntax(_))));
        assert!(matches!(
            parsed(&["--name", "x", "y"]),
            Err(Failure::Syntax(_))
        ));
        assert!(matches!(
            parsed(&["--name", "x", "--uuid", "1"]),
            Err(Failure::Syntax(_))
        ));
        let uuid = "0b3a5d0e-7e54-4b6b-9d3d-0123456789ab";
        let wanted = parsed(&["--name=x", "--uuid", uuid, "--groups", "/a,/b"]).expect("known");
        assert_eq!(wanted.flags, format!("UUID={uuid}"));
        assert_eq!(wanted.groups, ["/a", "/b"]);
    }
}
