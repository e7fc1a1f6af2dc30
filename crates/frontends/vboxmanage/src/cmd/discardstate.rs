//! `discardstate`.

use super::Command;
use crate::args::Args;
use crate::cx::Cx;
use crate::error::{During, Result};
use api::types::LockType;

pub const COMMAND: Command = Command {
    name: "discardstate",
    aliases: &[],
    usage: || "  VBoxManage discardstate <uuid | vmname>\n".to_owned(),
    forms: super::plain,
    run: Some(run),
};

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let name = args.required("machine name or UUID")?;
    args.end()?;
    let locked = cx.lock(&name, LockType::Write)?;
    locked
        .machine
        .discard_saved_state(true)
        .during("DiscardSavedState(true /* fDeleteFile */)")?;
    locked.unlock()
}
