//! `list`.

mod host;
mod machines;
mod media;
mod system;

use super::{Command, Form, dhcpserver, form, hostonlynet, usbfilter};
use crate::args::{Arg, Args, Opt, flag, value};
use crate::cx::Cx;
use crate::error::{Failure, Result};

pub const COMMAND: Command = Command {
    name: "list",
    aliases: &[],
    usage,
    forms,
    run: Some(run),
};

/// How to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    pub long: bool,
    pub sorted: bool,
}

/// Something that can be listed.
struct What {
    names: &'static [&'static str],
    run: fn(&mut Cx<'_>, Style) -> Result,
}

const fn what(names: &'static [&'static str], run: fn(&mut Cx<'_>, Style) -> Result) -> What {
    What { names, run }
}

const LISTS: &[What] = &[
    what(&["vms"], |cx, style| machines::list(cx, style, false)),
    what(&["runningvms"], |cx, style| machines::list(cx, style, true)),
    what(&["ostypes"], |cx, _| system::os_types(cx)),
    what(&["hostdvds"], |cx, _| host::drives(cx, true)),
    what(&["hostfloppies"], |cx, _| host::drives(cx, false)),
    what(&["intnets"], |cx, _| system::internal_networks(cx)),
    what(&["bridgedifs"], |cx, _| host::interfaces(cx, true)),
    what(&["hostonlyifs"], |cx, _| host::interfaces(cx, false)),
    what(&["hostonlynets"], |cx, _| hostonlynet::list(cx)),
    what(&["natnets", "natnetworks"], |cx, _| {
        system::nat_networks(cx)
    }),
    what(&["dhcpservers"], |cx, _| dhcpserver::list(cx)),
    what(&["hostinfo"], |cx, _| host::info(cx)),
    what(&["hostcpuids"], |cx, _| host::cpuids(cx)),
    what(&["hddbackends"], |cx, _| system::backends(cx)),
    what(&["hdds"], |cx, style| media::list(cx, style, media::DISKS)),
    what(&["dvds"], |cx, style| media::list(cx, style, media::DVDS)),
    what(&["floppies"], |cx, style| {
        media::list(cx, style, media::FLOPPIES)
    }),
    what(&["usbhost"], |cx, _| host::usb_devices(cx)),
    what(&["usbfilters"], |cx, _| usbfilter::list(cx)),
    what(&["systemproperties"], |cx, _| system::properties(cx)),
    what(&["extpacks"], |cx, _| system::extension_packs(cx)),
    what(&["groups"], |cx, _| system::groups(cx)),
    what(&["webcams"], |cx, _| host::webcams(cx)),
    what(&["screenshotformats"], |cx, _| {
        system::screenshot_formats(cx)
    }),
    what(&["cloudproviders"], |_, _| Ok(())),
    what(&["cloudprofiles"], |_, _| Ok(())),
    what(&["cloudnets"], |_, _| Ok(())),
    what(&["cpu-profiles"], |cx, _| system::cpu_profiles(cx)),
    what(&["hostdrives"], |cx, _| host::host_drives(cx)),
];

fn usage() -> String {
    let mut text = "  VBoxManage list [--long] [--platform-arch=x86] [--sorted] [".to_owned();
    let names: Vec<&str> = LISTS
        .iter()
        .filter_map(|l| l.names.first().copied())
        .collect();
    for (index, line) in names.chunks(7).enumerate() {
        if index > 0 {
            text.push_str(" |");
        }
        text.push_str("\n      ");
        text.push_str(&line.join(" | "));
    }
    text.push_str("]\n");
    text
}

const OPTIONS: &[Opt] = &[
    flag(&["--long", "-l"]),
    flag(&["--sorted", "-s"]),
    value(&["--platform-arch"]),
    // Ansible gives it behind the command.
    value(&["--settingspwfile"]),
];

fn forms() -> Vec<Form> {
    let names = LISTS.iter().flat_map(|l| l.names);
    names.map(|name| form(name, OPTIONS)).collect()
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let (mut style, mut lists) = (Style::default(), Vec::new());
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--long" => style.long = true,
                "--sorted" => style.sorted = true,
                "--settingspwfile" => {
                    let password = crate::password_of(&given.value)?;
                    cx.vbox()?.set_settings_secret(&password)?;
                }
                _ if given.value.eq_ignore_ascii_case("x86") => {}
                _ => return Err(given.invalid()),
            },
            Arg::Word(word) => {
                let found = LISTS.iter().find(|l| l.names.contains(&word.as_str()));
                lists
                    .push(found.ok_or_else(|| {
                        Failure::syntax(format!("Unknown subcommand \"{word}\""))
                    })?);
            }
        }
    }
    if lists.is_empty() {
        return Err(Failure::syntax("Missing subcommand for \"list\" command."));
    }
    lists.iter().try_for_each(|list| (list.run)(cx, style))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything 4.0 and 7.0 can list.
    #[test]
    fn all_lists_are_known() {
        for name in
            "vms runningvms ostypes hostdvds hostfloppies bridgedifs hostonlyifs dhcpservers \
            hostinfo hostcpuids hddbackends hdds dvds floppies usbhost usbfilters systemproperties \
            extpacks cloudnets cloudprofiles cloudproviders cpu-profiles groups hostdrives \
            hostonlynets intnets natnets natnetworks screenshotformats webcams"
                .split_whitespace()
        {
            assert!(LISTS.iter().any(|l| l.names.contains(&name)), "{name}");
        }
    }
}
