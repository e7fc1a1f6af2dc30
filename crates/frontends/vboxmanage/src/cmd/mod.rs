//! The commands. Each is one file: its usage, its table of options, what it does, its tests.

mod bandwidthctl;
mod clonemedium;
mod clonevm;
mod closemedium;
mod controlvm;
mod convertfromraw;
mod createmedium;
mod createvm;
mod debugvm;
mod dhcpserver;
mod discardstate;
mod export;
mod extpack;
mod extradata;
mod guestproperty;
pub mod help;
mod hostonlynet;
mod import;
mod internalcommands;
mod list;
mod mediumproperty;
mod metrics;
mod modifymedium;
mod modifyvm;
mod movevm;
mod natnetwork;
mod registervm;
mod setproperty;
mod sharedfolder;
mod showmediuminfo;
mod showvminfo;
mod snapshot;
mod startvm;
mod storageattach;
mod storagectl;
mod unregistervm;
mod usbfilter;

use crate::args::Args;
use crate::cx::Cx;
use crate::error::Result;
pub use crate::grammar::{Form, form, plain};

/// What a command does with its arguments.
pub type Run = fn(&mut Cx<'_>, &mut Args) -> Result;

pub struct Command {
    pub name: &'static str,
    /// Older names.
    pub aliases: &'static [&'static str],
    /// Every form of its command line, one or more lines each.
    pub usage: fn() -> String,
    /// Its forms and their options, as it parses them; none for one that is not there.
    pub forms: fn() -> Vec<Form>,
    /// `None` for a command of VirtualBox whose room is not built yet.
    pub run: Option<Run>,
}

/// Every command of VirtualBox 7.0, in the order its help shows them.
pub const COMMANDS: &[&Command] = &[
    &list::COMMAND,
    &showvminfo::COMMAND,
    &registervm::COMMAND,
    &unregistervm::COMMAND,
    &createvm::COMMAND,
    &modifyvm::COMMAND,
    &clonevm::COMMAND,
    &movevm::COMMAND,
    &not_yet("encryptvm"),
    &not_yet("cloud"),
    &not_yet("cloudprofile"),
    &import::COMMAND,
    &export::COMMAND,
    &not_yet("signova"),
    &startvm::COMMAND,
    &controlvm::COMMAND,
    &not_yet("unattended"),
    &discardstate::COMMAND,
    &not_yet("adoptstate"),
    &snapshot::COMMAND,
    &closemedium::COMMAND,
    &storageattach::COMMAND,
    &storagectl::COMMAND,
    &bandwidthctl::COMMAND,
    &showmediuminfo::COMMAND,
    &createmedium::COMMAND,
    &modifymedium::COMMAND,
    &clonemedium::COMMAND,
    &mediumproperty::COMMAND,
    &not_yet("encryptmedium"),
    &not_yet("checkmediumpwd"),
    &convertfromraw::COMMAND,
    &not_yet("mediumio"),
    &extradata::SET,
    &extradata::GET,
    &setproperty::COMMAND,
    &usbfilter::COMMAND,
    &sharedfolder::COMMAND,
    &guestproperty::COMMAND,
    &not_yet("guestcontrol"),
    &debugvm::COMMAND,
    &metrics::COMMAND,
    &natnetwork::COMMAND,
    &hostonlynet::INTERFACES,
    &hostonlynet::COMMAND,
    &dhcpserver::COMMAND,
    &not_yet("usbdevsource"),
    &extpack::COMMAND,
    &not_yet("updatecheck"),
    &not_yet("modifynvram"),
    &internalcommands::COMMAND,
];

const fn not_yet(name: &'static str) -> Command {
    Command {
        name,
        aliases: &[],
        usage: String::new,
        forms: Vec::new,
        run: None,
    }
}

/// The command of that name or older name.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS
        .iter()
        .copied()
        .find(|c| c.name == name || c.aliases.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = COMMANDS
            .iter()
            .flat_map(|c| c.aliases.iter().copied().chain([c.name]))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn old_names_lead_to_the_new_commands() {
        for (old, new) in [
            ("createhd", "createmedium"),
            ("createvdi", "createmedium"),
            ("modifyhd", "modifymedium"),
            ("modifyvdi", "modifymedium"),
            ("clonehd", "clonemedium"),
            ("clonevdi", "clonemedium"),
            ("showhdinfo", "showmediuminfo"),
            ("showvdiinfo", "showmediuminfo"),
            ("convertdd", "convertfromraw"),
            ("hdproperty", "mediumproperty"),
        ] {
            assert_eq!(find(old).map(|c| c.name), Some(new));
        }
    }

    #[test]
    fn every_usage_names_its_command() {
        for command in COMMANDS.iter().filter(|c| c.run.is_some()) {
            let usage = (command.usage)();
            assert!(
                usage.starts_with(&format!("  VBoxManage {} ", command.name)),
                "{}:\n{usage}",
                command.name
            );
            assert!(usage.ends_with('\n'), "{}", command.name);
            for line in usage.lines() {
                assert!(line.len() <= 160, "{}: {line}", command.name);
                assert!(
                    line.is_empty() || line.starts_with("  "),
                    "{}: {line:?}",
                    command.name
                );
            }
        }
    }
}
