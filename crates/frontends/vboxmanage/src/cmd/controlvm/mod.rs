//! `controlvm`: one entry per action. Arguments are understood before the machine is asked for.

mod actions;
mod keys;

use super::{Command, Form, form};
use crate::args::{Args, Opt, flag};
use crate::cx::{Cx, Locked};
use crate::error::{Failure, Result};
use api::client::Console;
use api::types::LockType;

pub const COMMAND: Command = Command {
    name: "controlvm",
    aliases: &[],
    usage,
    forms,
    run: Some(run),
};

pub struct Action {
    pub name: &'static str,
    /// The number of an adapter or port follows the name.
    pub numbered: bool,
    /// Its arguments, for the usage text.
    pub values: &'static str,
    pub run: fn(&mut Cx<'_>, &Target, &mut Args) -> Result,
}

/// What an action is about.
pub struct Target {
    machine: String,
    /// The action as typed.
    pub action: String,
    /// Of a numbered action; 0 otherwise.
    pub number: u32,
}

/// Actions of VirtualBox whose room is not built yet.
const NOT_YET: &[&str] = &[
    "usbattach",
    "usbdetach",
    "setscreenlayout",
    "webcam",
    "recording",
    "videocap",
    "addencpassword",
    "removeencpassword",
    "removeallencpasswords",
    "setcredentials",
    "teleport",
    "vrdevideochannelquality",
    "vm-process-priority",
    "autostart-enabled",
    "autostart-delay",
    "audioin",
    "audioout",
];

fn usage() -> String {
    let mut text = String::new();
    for action in actions::ACTIONS {
        let number = if action.numbered { "N" } else { "" };
        let line = format!(
            "  VBoxManage controlvm <uuid | vmname> {}{number} {}",
            action.name, action.values
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn forms() -> Vec<Form> {
    let all = actions::ACTIONS.iter().map(|action| {
        let number = if action.numbered { "N" } else { "" };
        // A plain word in front of the values belongs to the action's name.
        let second = action.values.split_whitespace().next().unwrap_or_default();
        let plain = second.bytes().all(|b| b.is_ascii_lowercase());
        let words = format!(
            "{}{number} {}",
            action.name,
            if plain { second } else { "" }
        );
        let options = if action.values == "[--force]" {
            FORCE
        } else {
            &[]
        };
        form(words.trim(), options)
    });
    all.collect()
}

const FORCE: &[Opt] = &[flag(&["--force"])];

fn find(word: &str) -> Option<(&'static Action, u32)> {
    actions::ACTIONS.iter().find_map(|action| {
        let rest = word.strip_prefix(action.name)?;
        match (action.numbered, rest) {
            (false, "") => Some((action, 0)),
            (true, digits)
                if (1..=2).contains(&digits.len())
                    && digits.bytes().all(|b| b.is_ascii_digit()) =>
            {
                Some((action, digits.parse().ok()?))
            }
            _ => None,
        }
    })
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let machine = args.required("machine name or UUID")?;
    let word = args.required("action")?;
    let Some((action, number)) = find(&word) else {
        if NOT_YET.contains(&word.trim_end_matches(|c: char| c.is_ascii_digit())) {
            return Err(Failure::message(format!(
                "The action '{word}' of controlvm is not available in this version of Oxbox yet"
            )));
        }
        return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
    };
    let target = Target {
        machine,
        action: word,
        number,
    };
    (action.run)(cx, &target, args)
}

impl Target {
    /// Joins the running machine's lock.
    fn open(&self, cx: &mut Cx<'_>) -> Result<(Locked, Console)> {
        let not_running = || {
            Failure::message(format!(
                "Machine '{}' is not currently running.",
                self.machine
            ))
        };
        let machine = cx.machine(&self.machine)?;
        // A shared lock of a machine that nobody runs would be a lock of its own.
        if !crate::names::is_online(machine.state()?) {
            return Err(not_running());
        }
        let locked = cx.lock_machine(&machine, LockType::Shared)?;
        match locked.session.console()? {
            Some(console) => Ok((locked, console)),
            None => Err(not_running()),
        }
    }

    /// The 0-based adapter or port.
    fn slot(&self) -> Result<u32> {
        self.number
            .checked_sub(1)
            .ok_or_else(|| Failure::syntax(format!("Invalid parameter '{}'", self.action)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_found_with_their_numbers() {
        assert_eq!(
            find("setlinkstate1").map(|(a, n)| (a.name, n)),
            Some(("setlinkstate", 1))
        );
        assert_eq!(
            find("nicpromisc12").map(|(a, n)| (a.name, n)),
            Some(("nicpromisc", 12))
        );
        assert!(find("setlinkstate").is_none());
        assert!(find("pause1").is_none());
        for action in actions::ACTIONS {
            assert!(!NOT_YET.contains(&action.name), "{}", action.name);
        }
    }
}
