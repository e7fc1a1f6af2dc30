//! `extpack`: there is nothing that an extension pack would add, so that none can be installed.

use super::{Command, Form, form};
use crate::args::{Arg, Args, Opt, flag};
use crate::cx::Cx;
use crate::error::{Failure, Result};

pub const COMMAND: Command = Command {
    name: "extpack",
    aliases: &[],
    usage: || {
        "  VBoxManage extpack uninstall [--force] <name>

  VBoxManage extpack cleanup\n"
            .to_owned()
    },
    forms,
    run: Some(run),
};

fn forms() -> Vec<Form> {
    vec![form("uninstall", UNINSTALL), form("cleanup", &[])]
}

const UNINSTALL: &[Opt] = &[flag(&["--force"])];

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let action = args.required("subcommand")?;
    match action.as_str() {
        "install" => Err(Failure::message(
            "Extension packs are not available in this version of Oxbox yet",
        )),
        "uninstall" => {
            let mut name = None;
            while let Some(arg) = args.next(UNINSTALL)? {
                match arg {
                    Arg::Opt(..) => {}
                    Arg::Word(word) if name.is_none() => name = Some(word),
                    Arg::Word(_) => return Err(Failure::syntax("Too many extension pack names")),
                }
            }
            let name = name.ok_or_else(|| Failure::syntax("No extension pack name was given"))?;
            Err(Failure::message(format!(
                "Failed to uninstall \"{name}\"\nThe extension pack is not installed"
            )))
        }
        "cleanup" => {
            args.end()?;
            writeln!(cx.out, "Successfully performed extension pack cleanup")?;
            Ok(())
        }
        _ => Err(Failure::syntax(format!("Invalid parameter '{action}'"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_none() {
        let said = |line: &[&str]| {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let line = line.iter().map(|s| (*s).to_owned());
            let result = run(&mut Cx::new(&mut out, &mut err), &mut Args::new(line));
            (result, String::from_utf8(out).expect("UTF-8"))
        };
        let (result, out) = said(&["cleanup"]);
        result.expect("nothing to do");
        assert_eq!(out, "Successfully performed extension pack cleanup\n");
        assert!(matches!(
            said(&["uninstall", "x"]).0,
            Err(Failure::Message(_))
        ));
        assert!(matches!(
            said(&["install", "x"]).0,
            Err(Failure::Message(_))
        ));
        assert!(matches!(said(&["uninstall"]).0, Err(Failure::Syntax(_))));
    }
}
