//! `closemedium`.

use super::{Command, form};
use crate::args::{Arg, Args, Opt, flag};
use crate::cx::Cx;
use crate::error::{During, Failure, Result};
use crate::{media, progress};

pub const COMMAND: Command = Command {
    name: "closemedium",
    aliases: &[],
    usage: || {
        "  VBoxManage closemedium [disk | dvd | floppy] <UUID | filename> [--delete]\n".to_owned()
    },
    forms: || vec![form("", OPTIONS)],
    run: Some(run),
};

const OPTIONS: &[Opt] = &[flag(&["--delete", "-r"])];

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let kind = media::image_kind(args);
    let (mut what, mut delete) = (None, false);
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(..) => delete = true,
            Arg::Word(word) if what.is_none() => what = Some(word),
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    let what = what.ok_or_else(|| Failure::syntax("Medium name or UUID required"))?;
    let medium = media::open_any(cx, &what, kind)?.medium;
    if delete {
        let deleting = medium
            .delete_storage()
            .during("DeleteStorage(pProgress.asOutParam())")?;
        return progress::show(cx, &deleting, "Failed to delete medium");
    }
    medium.close().during("Close()")
}
