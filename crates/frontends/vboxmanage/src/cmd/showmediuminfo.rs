//! `showmediuminfo`, formerly `showhdinfo`.

use super::Command;
use crate::args::Args;
use crate::cx::Cx;
use crate::error::{Failure, Result};
use crate::media;

pub const COMMAND: Command = Command {
    name: "showmediuminfo",
    aliases: &["showhdinfo", "showvdiinfo"],
    usage: || "  VBoxManage showmediuminfo [disk | dvd | floppy] <UUID | filename>\n".to_owned(),
    forms: super::plain,
    run: Some(run),
};

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let kind = media::image_kind(args);
    let what = args
        .take()
        .ok_or_else(|| Failure::syntax("Medium name or UUID required"))?;
    args.end()?;
    let opened = media::open_any(cx, &what, kind)?;
    let vbox = cx.vbox()?;
    let parent = match opened.medium.parent()? {
        Some(parent) => parent.id()?,
        None => "base".to_owned(),
    };
    let shown = media::describe(cx.out, &vbox, &opened.medium, &parent, true);
    shown.and(opened.forget())
}
