//! `import`: the items of a package's machines are listed, with the changes that the command line
//! makes to them, and unless it is a dry run the machines are made.

mod units;

use super::{Command, form};
use crate::args::{Arg, Args, Opt, flag, value};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};
use crate::progress;
use api::types::*;
use units::{System, Unit};

pub const COMMAND: Command = Command {
    name: "import",
    aliases: &[],
    usage,
    forms: || vec![form("", OPTIONS)],
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage import <ovfname | ovaname> [--dry-run]
      [--options=keepallmacs | keepnatmacs | importtovdi]
      [--vsys=n] [--ostype=ostype] [--vmname=name] [--settingsfile=file]
      [--basefolder=folder] [--group=group] [--memory=MB] [--cpus=n]
      [--description=text] [--eula=show | accept]
      [--unit=n] [--ignore] [--scsitype=BusLogic | LsiLogic] [--disk=path]
      [--controller=index] [--port=n]\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    flag(&["--dry-run", "--dryrun", "-n"]),
    flag(&["--detailed-progress", "-P"]),
    value(&["--options"]),
    value(&["--vsys", "-s"]),
    value(&["--ostype", "-o"]),
    value(&["--vmname", "-V"]),
    value(&["--settingsfile", "-S"]),
    value(&["--basefolder", "-p"]),
    value(&["--group", "-g"]),
    value(&["--memory", "-m"]),
    value(&["--cpus", "-c"]),
    value(&["--description", "-d"]),
    value(&["--eula", "-L"]),
    value(&["--unit", "-u"]),
    flag(&["--ignore", "-x"]),
    value(&["--scsitype", "-T"]),
    value(&["--type", "-t"]),
    value(&["--disk", "-D"]),
    value(&["--controller", "-C"]),
    value(&["--port", "-E"]),
];

#[derive(Debug, Default)]
struct Wanted {
    file: String,
    dry_run: bool,
    options: Vec<ImportOptions>,
    systems: Vec<System>,
}

fn parse(args: &mut Args) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    let (mut system, mut unit): (Option<usize>, Option<usize>) = (None, None);
    while let Some(arg) = args.next(OPTIONS)? {
        let given = match arg {
            Arg::Opt(_, given) => given,
            Arg::Word(word) if wanted.file.is_empty() => {
                wanted.file = word;
                continue;
            }
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        };
        match given.name {
            "--dry-run" => wanted.dry_run = true,
            "--detailed-progress" => {}
            "--options" => {
                for word in given.value.split(',').filter(|w| !w.is_empty()) {
                    wanted
                        .options
                        .push(match word.to_ascii_lowercase().as_str() {
                            "keepallmacs" => ImportOptions::KeepAllMACs,
                            "keepnatmacs" => ImportOptions::KeepNATMACs,
                            "importtovdi" => ImportOptions::ImportToVDI,
                            _ => {
                                let text = format!("Invalid import options '{}'", given.value);
                                return Err(Failure::syntax(text));
                            }
                        });
                }
            }
            "--vsys" => {
                const MOST: usize = 10_000;
                let number = given.within(0, MOST)?;
                if wanted.systems.len() <= number {
                    wanted.systems.resize_with(number + 1, System::default);
                }
                (system, unit) = (Some(number), None);
            }
            "--unit" if system.is_some() => unit = Some(given.integer()?),
            name => {
                let found = system
                    .and_then(|s| wanted.systems.get_mut(s))
                    .ok_or_else(|| {
                        Failure::syntax(format!(
                            "Option \"{}\" requires preceding --vsys option.",
                            given.typed
                        ))
                    })?;
                let of_unit = [
                    "--ignore",
                    "--scsitype",
                    "--type",
                    "--disk",
                    "--controller",
                    "--port",
                ];
                if !of_unit.contains(&name) {
                    found.set(name, &given)?;
                    continue;
                }
                let unit = unit.ok_or_else(|| {
                    Failure::syntax(format!(
                        "Option \"{}\" requires preceding --unit option.",
                        given.typed
                    ))
                })?;
                found
                    .units
                    .entry(unit)
                    .or_insert_with(Unit::default)
                    .set(name, &given)?;
            }
        }
    }
    if wanted.file.is_empty() {
        return Err(Failure::syntax(
            "Not enough arguments for \"import\" command.",
        ));
    }
    Ok(wanted)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    if wanted.file.contains("://") {
        return Err(Failure::message("Importing from a cloud is not supported"));
    }
    let file = absolute(&wanted.file)?;
    let vbox = cx.vbox()?;
    let appliance = vbox
        .create_appliance()
        .during("CreateAppliance(pAppliance.asOutParam())")?;
    let reading = appliance
        .read(&file)
        .during("Read(Bstr(pszAbsFilePath).raw(), progressRead.asOutParam())")?;
    progress::show(cx, &reading, "Appliance read failed")?;
    writeln!(cx.out, "Interpreting {file}...")?;
    appliance.interpret().during("Interpret()")?;
    writeln!(cx.out, "OK.")?;
    cx.out.flush()?;
    for warning in appliance.get_warnings()? {
        for line in warning.lines() {
            writeln!(cx.err, "VBoxManage: warning: {line}")?;
        }
    }
    let disks = appliance.disks()?;
    if !disks.is_empty() {
        writeln!(cx.out, "Disks:")?;
        for disk in disks {
            writeln!(cx.out, "  {disk}")?;
        }
        writeln!(cx.out)?;
    }
    let descriptions = appliance.virtual_system_descriptions()?;
    let count = descriptions.len();
    if wanted.systems.len() > count {
        return Err(Failure::syntax(format!(
            "Invalid index {} with -vsys option; the OVF contains only {count} virtual system(s).",
            wanted.systems.len() - 1
        )));
    }
    let none = System::default();
    let mut licensed = true;
    for (number, description) in descriptions.iter().enumerate() {
        let system = wanted.systems.get(number).unwrap_or(&none);
        writeln!(cx.out, "Virtual system {number}:")?;
        let (types, _, originals, values, extras) = description
            .get_description()
            .during("GetDescription(ComSafeArrayAsOutParam(retTypes), ...)")?;
        let mut list = units::Listing::new(number, types, originals, values, extras);
        let path = |name: &str, group: &str, base: &str| {
            vbox.compose_machine_filename(name, group, "", base)
                .during("ComposeMachineFilename(bstrMachineName.raw(), bstrPrimaryGroup.raw(), NULL, bstrBaseFolder.raw(), bstrSettingsFile.asOutParam())")
        };
        list.apply(system, &path)?;
        list.print(system, cx.out)?;
        licensed &= list.is_licensed(system);
        let (enabled, values, extras) = list.into_final();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let extras: Vec<&str> = extras.iter().map(String::as_str).collect();
        description
            .set_final_values(&enabled, &values, &extras)
            .during("SetFinalValues(ComSafeArrayAsInParam(aEnabled), ComSafeArrayAsInParam(retDisplayValues), ComSafeArrayAsInParam(retConfigValues))")?;
    }
    if wanted.dry_run {
        return Ok(());
    }
    if !licensed {
        return Err(Failure::message(
            "Cannot import until the license agreement listed above is accepted.",
        ));
    }
    cx.out.flush()?;
    let importing = appliance
        .import_machines(&wanted.options)
        .during("ImportMachines(ComSafeArrayAsInParam(options), progress.asOutParam())")?;
    progress::show(cx, &importing, "Appliance import failed")?;
    writeln!(cx.out, "Successfully imported the appliance.")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(line: &[&str]) -> Result<Wanted> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())))
    }

    #[test]
    fn options_belong_to_systems_and_units() {
        let w = wanted(&[
            "box.ovf",
            "--vsys",
            "0",
            "--vmname",
            "x",
            "--unit",
            "9",
            "--disk",
            "/d.vmdk",
            "--vsys",
            "1",
            "--cpus",
            "2",
            "--unit",
            "3",
            "--ignore",
            "-n",
            "--options",
            "ImportToVDI",
        ])
        .expect("right");
        assert!(w.dry_run);
        assert_eq!(w.systems.len(), 2);
        assert_eq!(w.options, [ImportOptions::ImportToVDI]);
        assert_eq!(w.systems[0].value("--vmname"), Some("x"));
        assert_eq!(w.systems[0].units[&9].disk.as_deref(), Some("/d.vmdk"));
        assert!(w.systems[1].units[&3].ignore);
    }

    #[test]
    fn wrong_lines() {
        for line in [
            &[][..],
            &["a.ovf", "b.ovf"],
            &["a.ovf", "--vmname", "x"],
            &["a.ovf", "--unit", "1"],
            &["a.ovf", "--vsys", "0", "--ignore"],
            &["a.ovf", "--vsys", "0", "--eula", "maybe"],
            &["a.ovf", "--vsys", "0", "--unit", "1", "--scsitype", "ide"],
            &["a.ovf", "--vsys", "99999999"],
            &["a.ovf", "--options", "fast"],
        ] {
            assert!(matches!(wanted(line), Err(Failure::Syntax(_))), "{line:?}");
        }
    }
}
