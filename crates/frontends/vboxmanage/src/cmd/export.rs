//! `export`.

use super::{Command, form};
use crate::args::{Arg, Args, Given, Opt, flag, value};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};
use crate::progress;
use api::types::*;

pub const COMMAND: Command = Command {
    name: "export",
    aliases: &[],
    usage,
    forms: || vec![form("", OPTIONS)],
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage export <vmname | uuid> ... <--output=filename.ova | filename.ovf>
      [--legacy09 | --ovf09 | --ovf10 | --ovf20] [--manifest] [--iso]
      [--options=manifest,iso,nomacs,nomacsbutnat]
      [--vsys=virtual-system-number] [--description=description-info]
      [--eula=license-text] [--eulafile=filename] [--product=product-name]
      [--producturl=product-URL] [--vendor=vendor-name] [--vendorurl=vendor-URL]
      [--version=version-info] [--vmname=vmname]\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    value(&["--output", "-o"]),
    flag(&["--legacy09", "-l"]),
    flag(&["--ovf09"]),
    flag(&["--ovf10"]),
    flag(&["--ovf20"]),
    flag(&["--opc10"]),
    flag(&["--manifest", "-m"]),
    flag(&["--iso", "-I"]),
    value(&["--options"]),
    value(&["--vsys", "-s"]),
    value(&["--product"]),
    value(&["--producturl"]),
    value(&["--vendor"]),
    value(&["--vendorurl"]),
    value(&["--version"]),
    value(&["--description"]),
    value(&["--eula"]),
    value(&["--eulafile"]),
    value(&["--vmname"]),
];

#[derive(Debug, Default)]
struct Wanted {
    machines: Vec<String>,
    output: String,
    format: &'static str,
    options: Vec<ExportOptions>,
    /// Number of the machine, what, and the text.
    texts: Vec<(usize, VirtualSystemDescriptionType, String)>,
}

fn kind_of(name: &str) -> Option<VirtualSystemDescriptionType> {
    use VirtualSystemDescriptionType as T;
    Some(match name {
        "--product" => T::Product,
        "--producturl" => T::ProductUrl,
        "--vendor" => T::Vendor,
        "--vendorurl" => T::VendorUrl,
        "--version" => T::Version,
        "--description" => T::Description,
        "--eula" | "--eulafile" => T::License,
        "--vmname" => T::Name,
        _ => return None,
    })
}

fn options(given: &Given) -> Result<Vec<ExportOptions>> {
    let words = given.value.split(',').filter(|w| !w.is_empty());
    words
        .map(|word| match word.to_ascii_lowercase().as_str() {
            "manifest" => Ok(ExportOptions::CreateManifest),
            "iso" => Ok(ExportOptions::ExportDVDImages),
            "nomacs" => Ok(ExportOptions::StripAllMACs),
            "nomacsbutnat" => Ok(ExportOptions::StripAllNonNATMACs),
            _ => Err(Failure::syntax(format!(
                "Invalid export options '{}'",
                given.value
            ))),
        })
        .collect()
}

fn parse(args: &mut Args) -> Result<Wanted> {
    let mut wanted = Wanted {
        format: "ovf-1.0",
        ..Wanted::default()
    };
    let mut system = None;
    while let Some(arg) = args.next(OPTIONS)? {
        let given = match arg {
            Arg::Opt(_, given) => given,
            Arg::Word(word) => {
                wanted.machines.push(word);
                continue;
            }
        };
        match given.name {
            "--output" if !wanted.output.is_empty() => {
                return Err(Failure::syntax("You can only specify --output once."));
            }
            "--output" => wanted.output = given.value,
            "--legacy09" | "--ovf09" => wanted.format = "ovf-0.9",
            "--ovf10" => wanted.format = "ovf-1.0",
            "--ovf20" => wanted.format = "ovf-2.0",
            "--opc10" => wanted.format = "opc-1.0",
            "--manifest" => wanted.options.push(ExportOptions::CreateManifest),
            "--iso" => wanted.options.push(ExportOptions::ExportDVDImages),
            "--options" => wanted.options.extend(options(&given)?),
            "--vsys" => system = Some(given.integer::<usize>()?),
            name => {
                let Some(system) = system else {
                    return Err(Failure::syntax(format!(
                        "Option \"{}\" requires preceding --vsys option.",
                        given.typed
                    )));
                };
                let Some(kind) = kind_of(name) else {
                    return Err(Failure::syntax(format!("Unknown option: {}", given.typed)));
                };
                let text = match name {
                    "--eulafile" => std::fs::read_to_string(&given.value).map_err(|e| {
                        let text = format!("Cannot read license file \"{}\"", given.value);
                        Failure::message(format!(
                            "{text} which should be included in the virtual system {system}: {e}"
                        ))
                    })?,
                    _ => given.value,
                };
                wanted.texts.push((system, kind, text));
            }
        }
    }
    if wanted.machines.is_empty() {
        return Err(Failure::syntax(
            "At least one machine must be specified with the export command.",
        ));
    }
    if wanted.output.is_empty() {
        return Err(Failure::syntax(
            "Missing --output argument with export command.",
        ));
    }
    let count = wanted.machines.len();
    if let Some((system, ..)) = wanted.texts.iter().find(|(s, ..)| *s >= count) {
        return Err(Failure::syntax(format!(
            "Invalid index {system} with -vsys option; you specified only {count} virtual system(s)."
        )));
    }
    Ok(wanted)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    let output = absolute(&wanted.output)?;
    let mut machines = Vec::new();
    for name in &wanted.machines {
        machines.push(cx.machine(name)?);
    }
    let appliance = cx
        .vbox()?
        .create_appliance()
        .during("CreateAppliance(pAppliance.asOutParam())")?;
    for (number, machine) in machines.iter().enumerate() {
        let description = machine
            .export_to(&appliance, &output)
            .during("ExportTo(pAppliance, Bstr(pszAbsFilePath).raw(), pVSD.asOutParam())")?;
        for (_, kind, text) in wanted.texts.iter().filter(|(s, ..)| *s == number) {
            description
                .remove_description_by_type(*kind)
                .during("RemoveDescriptionByType(type)")?;
            description
                .add_description(*kind, text, text)
                .during("AddDescription(type, Bstr(value).raw(), Bstr(value).raw())")?;
        }
    }
    let writing = appliance
        .write(wanted.format, &wanted.options, &output)
        .during("Write(Bstr(strOvfFormat).raw(), ComSafeArrayAsInParam(options), Bstr(pszAbsFilePath).raw(), progress.asOutParam())")?;
    progress::show(cx, &writing, "Appliance write failed")?;
    writeln!(
        cx.out,
        "Successfully exported {} machine(s).",
        machines.len()
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(line: &[&str]) -> Result<Wanted> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())))
    }

    #[test]
    fn machines_formats_and_texts() {
        let w = wanted(&[
            "a",
            "b",
            "-o",
            "x.ova",
            "--ovf20",
            "--manifest",
            "--options",
            "iso,nomacs",
            "--vsys",
            "1",
            "--product",
            "P",
            "--eula",
            "E",
        ])
        .expect("right");
        assert_eq!(w.machines, ["a", "b"]);
        assert_eq!((w.output.as_str(), w.format), ("x.ova", "ovf-2.0"));
        assert_eq!(w.options.len(), 3);
        let texts: Vec<_> = w.texts.iter().map(|(s, _, t)| (*s, t.as_str())).collect();
        assert_eq!(texts, [(1, "P"), (1, "E")]);
    }

    #[test]
    fn wrong_lines() {
        for line in [
            &["a"][..],
            &["-o", "x.ova"],
            &["a", "-o", "x.ova", "--product", "P"],
            &["a", "-o", "x.ova", "--vsys", "1", "--product", "P"],
            &["a", "-o", "x.ova", "--options", "fast"],
            &["a", "-o", "x.ova", "-o", "y.ova"],
        ] {
            assert!(matches!(wanted(line), Err(Failure::Syntax(_))), "{line:?}");
        }
    }
}
