//! `modifymedium`, formerly `modifyhd`.

use super::{Command, form};
use crate::args::{Arg, Args, Given, Opt, flag, value};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};
use crate::names::MEDIUM_TYPES;
use crate::{media, progress};
use api::client::Medium;

pub const COMMAND: Command = Command {
    name: "modifymedium",
    aliases: &["modifyhd", "modifyvdi"],
    usage,
    forms: || vec![form("", OPTIONS)],
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage modifymedium [disk | dvd | floppy] <UUID | filename> [--autoreset=on | off]
      [--compact] [--description=description] [--move=path] [--property=name=[value]]
      [--resize=megabytes | --resizebyte=bytes] [--setlocation=path]
      [--type=normal | writethrough | immutable | shareable | readonly | multiattach]\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    value(&["--type", "-t"]),
    value(&["--autoreset", "-z"]),
    value(&["--property", "-p"]),
    flag(&["--compact", "-c"]),
    value(&["--resize", "-r"]),
    value(&["--resizebyte", "-R"]),
    value(&["--move", "-m"]),
    value(&["--setlocation", "-l"]),
    value(&["--description", "-d"]),
];

fn parse(args: &mut Args) -> Result<(String, Vec<Given>)> {
    let (mut what, mut changes) = (None, Vec::new());
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => {
                // Wrong values are found before anything is changed.
                match given.name {
                    "--type" => drop(given.one_of(MEDIUM_TYPES)?),
                    "--autoreset" => drop(given.on()?),
                    "--resize" => drop(given.within(1, i64::MAX >> 20)?),
                    "--resizebyte" => drop(given.within(1, i64::MAX)?),
                    "--property" if !given.value.contains('=') => {
                        return Err(Failure::syntax("Invalid --property argument"));
                    }
                    _ => {}
                }
                changes.push(given);
            }
            Arg::Word(word) if what.is_none() => what = Some(word),
            // 3.x: `modifyhd FILE compact`.
            Arg::Word(word) if word == "compact" => changes.push(Given {
                name: "--compact",
                typed: word,
                number: 0,
                value: String::new(),
            }),
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    let what = what.ok_or_else(|| Failure::syntax("Medium name or UUID required"))?;
    if changes.is_empty() {
        return Err(Failure::syntax("No operation specified"));
    }
    Ok((what, changes))
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let kind = media::image_kind(args);
    let (what, changes) = parse(args)?;
    let opened = media::open_any(cx, &what, kind)?;
    let mut result = Ok(());
    for change in &changes {
        result = apply(cx, &opened.medium, change);
        if result.is_err() {
            break;
        }
    }
    result.and(opened.forget())
}

fn apply(cx: &mut Cx<'_>, medium: &Medium, change: &Given) -> Result {
    match change.name {
        "--type" => medium.set_type_(change.one_of(MEDIUM_TYPES)?).wanted(
            "Failed to set medium type",
            "COMSETTER(Type)(enmMediumType)",
        ),
        "--autoreset" => medium
            .set_auto_reset(change.on()?)
            .during("COMSETTER(AutoReset)(AutoReset)"),
        "--property" => {
            let (name, value) = change.value.split_once('=').unwrap_or_default();
            medium
                .set_property(name, value)
                .during("SetProperty(Bstr(pszKey).raw(), Bstr(pszValue).raw())")
        }
        "--compact" => {
            let progress = medium.compact().during("Compact(pProgress.asOutParam())")?;
            progress::show(cx, &progress, "Failed to compact medium")
        }
        "--resize" | "--resizebyte" => {
            let size = match change.name {
                "--resize" => change.within(1, i64::MAX >> 20)? << 20,
                _ => change.within(1, i64::MAX)?,
            };
            let progress = medium
                .resize(size)
                .during("Resize(cbResize, pProgress.asOutParam())")?;
            progress::show(cx, &progress, "Failed to resize medium")
        }
        "--move" => {
            let progress = medium
                .move_to(&absolute(&change.value)?)
                .during("MoveTo(Bstr(pszNewLocation).raw(), pProgress.asOutParam())")?;
            progress::show(cx, &progress, "Failed to move medium")?;
            let id = medium.id()?;
            writeln!(cx.out, "Move medium with UUID {id} finished")?;
            Ok(())
        }
        "--setlocation" => {
            medium
                .set_location(&absolute(&change.value)?)
                .during("COMSETTER(Location)(Bstr(pszNewLocation).raw())")?;
            let id = medium.id()?;
            writeln!(cx.out, "Set new location of medium with UUID {id} finished")?;
            Ok(())
        }
        _ => {
            medium
                .set_description(&change.value)
                .during("COMSETTER(Description)(Bstr(pszDescription).raw())")?;
            writeln!(cx.out, "Medium description has been changed.")?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<(String, Vec<Given>)> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())))
    }

    #[test]
    fn changes_are_checked_first() {
        let (what, changes) = parsed(&["x.vdi", "--resize", "100", "--compact"]).expect("known");
        assert_eq!((what.as_str(), changes.len()), ("x.vdi", 2));
        assert!(parsed(&["x.vdi"]).is_err());
        assert!(parsed(&["--compact"]).is_err());
        assert!(parsed(&["x.vdi", "--type", "odd"]).is_err());
        assert!(parsed(&["x.vdi", "--resize", "-1"]).is_err());
        assert!(parsed(&["x.vdi", "--property", "nothing"]).is_err());
        assert_eq!(
            parsed(&["x.vdi", "compact"]).expect("3.x").1[0].name,
            "--compact"
        );
    }
}
