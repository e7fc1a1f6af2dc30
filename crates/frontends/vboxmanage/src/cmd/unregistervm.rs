//! `unregistervm`.

use super::{Command, form};
use crate::args::{Arg, Args, Opt, flag};
use crate::cx::Cx;
use crate::error::{During, Failure, Result};
use crate::progress;
use api::types::CleanupMode;

pub const COMMAND: Command = Command {
    name: "unregistervm",
    aliases: &[],
    usage: || "  VBoxManage unregistervm <uuid | vmname> [--delete] [--delete-all]\n".to_owned(),
    forms: || vec![form("", OPTIONS)],
    run: Some(run),
};

const OPTIONS: &[Opt] = &[flag(&["--delete", "-d"]), flag(&["--delete-all"])];

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let (name, cleanup) = parse(args)?;
    let machine = cx.machine(&name)?;
    let media = machine.unregister(cleanup).during(
        "Unregister(fDeleteAll ? CleanupMode_DetachAllReturnHardDisksAndVMRemovable : fDelete ? CleanupMode_DetachAllReturnHardDisksOnly : CleanupMode_DetachAllReturnNone, ComSafeArrayAsOutParam(aMedia))",
    )?;
    if cleanup == CleanupMode::DetachAllReturnNone {
        return Ok(());
    }
    let done = machine
        .delete_config(&media)
        .during("DeleteConfig(ComSafeArrayAsInParam(aMedia), pProgress.asOutParam())")?;
    progress::show(cx, &done, "Machine delete failed")
}

fn parse(args: &mut Args) -> Result<(String, CleanupMode)> {
    let (mut name, mut cleanup) = (None, CleanupMode::DetachAllReturnNone);
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) if given.name == "--delete" => {
                cleanup = CleanupMode::DetachAllReturnHardDisksOnly;
            }
            Arg::Opt(..) => cleanup = CleanupMode::DetachAllReturnHardDisksAndVMRemovable,
            Arg::Word(word) if name.is_none() => name = Some(word),
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    let name = name.ok_or_else(|| Failure::syntax("VM name required"))?;
    Ok((name, cleanup))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_before_or_after_the_name() {
        for line in [["--delete", "vm"], ["vm", "--delete"]] {
            let (name, cleanup) = parse(&mut Args::new(line.map(str::to_owned))).expect("known");
            assert_eq!(name, "vm");
            assert_eq!(cleanup, CleanupMode::DetachAllReturnHardDisksOnly);
        }
        assert!(parse(&mut Args::new(["--delete".to_owned()])).is_err());
    }
}
