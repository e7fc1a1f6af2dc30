//! `movevm`.

use super::{Command, form};
use crate::args::{Arg, Args, Opt, value};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};
use crate::progress;
use api::types::LockType;

pub const COMMAND: Command = Command {
    name: "movevm",
    aliases: &[],
    usage: || {
        "  VBoxManage movevm <uuid | vmname> [--type=basic] [--folder=folder-name]\n".to_owned()
    },
    forms: || vec![form("", OPTIONS)],
    run: Some(run),
};

const OPTIONS: &[Opt] = &[value(&["--type", "-t"]), value(&["--folder", "-f"])];

#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    machine: String,
    folder: String,
}

fn parse(args: &mut Args) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) if given.name == "--folder" => {
                wanted.folder = absolute(&given.value)?;
            }
            Arg::Opt(_, given) => given.one_of(&[("basic", ())])?,
            Arg::Word(word) if wanted.machine.is_empty() => wanted.machine = word,
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    if wanted.machine.is_empty() {
        return Err(Failure::syntax("VM name required"));
    }
    Ok(wanted)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    let locked = cx.lock(&wanted.machine, LockType::Write)?;
    let moving = locked
        .machine
        .move_to(&wanted.folder, "basic")
        .during("MoveTo(bstrTargetFolder.raw(), Bstr(pszType).raw(), progress.asOutParam())")?;
    progress::show(cx, &moving, "Move VM failed")?;
    let place = match wanted.folder.as_str() {
        "" => "the same location",
        folder => folder,
    };
    writeln!(cx.out, "Machine has been successfully moved into {place}")?;
    locked.unlock()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_and_where_to() {
        let parsed = |line: &[&str]| parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())));
        let wanted = parsed(&["deb", "--type", "basic", "--folder", "/x"]).expect("known");
        assert_eq!(
            (wanted.machine.as_str(), wanted.folder.as_str()),
            ("deb", "/x")
        );
        for wrong in [
            &[][..],
            &["--folder", "/x"],
            &["deb", "--type", "odd"],
            &["deb", "x"],
        ] {
            assert!(
                matches!(parsed(wrong), Err(Failure::Syntax(_))),
                "{wrong:?}"
            );
        }
    }
}
