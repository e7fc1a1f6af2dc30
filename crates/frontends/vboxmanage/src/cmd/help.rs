//! `help`, `commands`, and the usage texts.

use super::{COMMANDS, Command, find};
use crate::args::Args;
use crate::cx::Cx;
use crate::error::{Failure, Result};
use crate::reference;
use crate::version::LOGO;

/// `help [COMMAND]`.
pub fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let Some(name) = args.take() else {
        return print_overview(cx);
    };
    match find(&name) {
        Some(command) => print_usage(cx, command),
        None => Err(Failure::syntax(format!("Invalid command '{name}'"))),
    }
}

pub fn print_overview(cx: &mut Cx<'_>) -> Result {
    write!(cx.out, "{LOGO}Usage:\n\n{}", overview())?;
    Ok(())
}

pub fn print_usage(cx: &mut Cx<'_>, command: &Command) -> Result {
    if command.run.is_some() {
        write!(cx.out, "{LOGO}Usage:\n\n{}", (command.usage)())?;
        return Ok(());
    }
    write!(
        cx.out,
        "{LOGO}Usage:\n\n{}\n  The command '{}' is not available in this version of Oxbox yet.\n",
        reference::usage(command.name),
        command.name
    )?;
    Ok(())
}

/// `commands`.
pub fn print_names(cx: &mut Cx<'_>) -> Result {
    for command in COMMANDS {
        writeln!(cx.out, "{}", command.name)?;
    }
    Ok(())
}

/// The general part and every command's usage.
pub fn overview() -> String {
    let mut text = String::from(
        "  VBoxManage [-V | --version] [--dump-build-type] [-q | --nologo]\n\
         \x20     [-d | --detailed-progress] [--settingspw=password] [--settingspwfile=file]\n\
         \x20     [@response-file] subcommand\n\n\
         \x20 VBoxManage help [subcommand]\n\n\
         \x20 VBoxManage commands\n\n",
    );
    for command in COMMANDS.iter().filter(|c| c.run.is_some()) {
        text.push_str(&(command.usage)());
        text.push('\n');
    }
    let missing: Vec<&str> = COMMANDS
        .iter()
        .filter(|c| c.run.is_none())
        .map(|c| c.name)
        .collect();
    text.push_str("  Commands of VirtualBox that this version does not have yet:\n");
    for names in missing.chunks(8) {
        text.push_str(&format!("      {}\n", names.join(" ")));
    }
    text
}
