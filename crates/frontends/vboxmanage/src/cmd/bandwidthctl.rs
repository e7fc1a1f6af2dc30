//! `bandwidthctl`.

use super::{Command, form};
use crate::args::{Arg, Args, Opt, flag, value};
use crate::cx::Cx;
use crate::error::{During, Failure, Result};
use api::client::BandwidthControl;
use api::types::{BandwidthGroupType, LockType};
use std::io::Write;

pub const COMMAND: Command = Command {
    name: "bandwidthctl",
    aliases: &[],
    usage,
    forms: || {
        let of = |word| form(word, OPTIONS);
        ["add", "list", "remove", "set"].map(of).into()
    },
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage bandwidthctl <uuid | vmname> add <name> <--limit=limit> <--type=disk | network>

  VBoxManage bandwidthctl <uuid | vmname> list [--machinereadable]

  VBoxManage bandwidthctl <uuid | vmname> remove <name>

  VBoxManage bandwidthctl <uuid | vmname> set <name> <--limit=limit>

      A limit is a number of megabytes a second, or with a letter: k, m, g for kilobits, megabits,
      gigabits, K, M, G for kilobytes, megabytes, gigabytes. 0 is no limit.\n"
        .to_owned()
}

const TYPES: &[(&str, BandwidthGroupType)] = &[
    ("disk", BandwidthGroupType::Disk),
    ("network", BandwidthGroupType::Network),
];

const OPTIONS: &[Opt] = &[
    value(&["--type", "-t"]),
    value(&["--limit", "-l"]),
    flag(&["--machinereadable", "-M"]),
];

#[derive(Debug, Default)]
struct Wanted {
    machine: String,
    action: String,
    name: String,
    kind: Option<BandwidthGroupType>,
    /// Bytes a second.
    limit: Option<i64>,
    machine_readable: bool,
}

/// Bytes a second of `--limit`.
fn limit(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)? {
        "k" => 1000 / 8,
        "m" => 1_000_000 / 8,
        "g" => 1_000_000_000 / 8,
        "K" => 1 << 10,
        "" | "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    let number: i64 = digits.parse().ok()?;
    if number < 0 {
        return None;
    }
    number.checked_mul(unit)
}

fn parse(args: &mut Args) -> Result<Wanted> {
    let mut wanted = Wanted {
        machine: args.required("machine name or UUID")?,
        action: args.required("action: add, list, remove or set")?,
        ..Wanted::default()
    };
    if !matches!(wanted.action.as_str(), "add" | "list" | "remove" | "set") {
        return Err(Failure::syntax(format!(
            "Invalid parameter '{}'",
            wanted.action
        )));
    }
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--type" => wanted.kind = Some(given.one_of(TYPES)?),
                "--limit" => {
                    wanted.limit = Some(limit(&given.value).ok_or_else(|| given.invalid())?);
                }
                _ => wanted.machine_readable = true,
            },
            Arg::Word(word) if wanted.name.is_empty() => wanted.name = word,
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    let needs_limit = matches!(wanted.action.as_str(), "add" | "set");
    if wanted.action != "list" && wanted.name.is_empty() {
        return Err(Failure::syntax("Bandwidth group name missing"));
    }
    if needs_limit && wanted.limit.is_none() {
        return Err(Failure::syntax("Parameter --limit is required"));
    }
    if wanted.action == "add" && wanted.kind.is_none() {
        return Err(Failure::syntax("Parameter --type is required"));
    }
    Ok(wanted)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    if wanted.action == "list" {
        let control = cx.machine(&wanted.machine)?.bandwidth_control()?;
        return list(cx.out, &control, wanted.machine_readable);
    }
    let kind = if wanted.action == "set" {
        LockType::Shared
    } else {
        LockType::Write
    };
    let locked = cx.lock(&wanted.machine, kind)?;
    let control = locked.machine.bandwidth_control()?;
    let (name, limit) = (wanted.name.as_str(), wanted.limit.unwrap_or_default());
    match wanted.action.as_str() {
        "add" => control
            .create_bandwidth_group(name, wanted.kind.unwrap_or(BandwidthGroupType::Disk), limit)
            .during("CreateBandwidthGroup(name.raw(), enmType, cMaxBytesPerSec)")?,
        "set" => control
            .get_bandwidth_group(name)
            .and_then(|group| group.set_max_bytes_per_sec(limit))
            .during("COMSETTER(MaxBytesPerSec)((LONG64)cMaxBytesPerSec)")?,
        _ => control
            .delete_bandwidth_group(name)
            .during("DeleteBandwidthGroup(name.raw())")?,
    }
    locked.save()
}

fn list(out: &mut dyn Write, control: &BandwidthControl, machine_readable: bool) -> Result {
    let groups = control.get_all_bandwidth_groups()?;
    if groups.is_empty() && !machine_readable {
        writeln!(out, "Bandwidth groups:  <none>")?;
    }
    for (index, group) in groups.iter().enumerate() {
        let (name, limit) = (group.name()?, group.max_bytes_per_sec()?);
        let kind = group.type_()?.name();
        if machine_readable {
            let name = crate::out::escaped(&name);
            writeln!(out, "Group{}=\"{name},{kind},{limit}\"", index + 1)?;
        } else {
            writeln!(out, "Name: '{name}', Type: {kind}, Limit: {}", text(limit))?;
        }
    }
    Ok(())
}

/// A limit with its largest unit.
fn text(limit: i64) -> String {
    match limit {
        0 => "none (disabled)".to_owned(),
        _ if limit % (1 << 20) == 0 => format!("{} Mbytes/sec ({limit} bytes/sec)", limit >> 20),
        _ if limit % (1 << 10) == 0 => format!("{} Kbytes/sec ({limit} bytes/sec)", limit >> 10),
        _ => format!("{limit} bytes/sec"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_units() {
        for (written, bytes) in [
            ("20", Some(20 << 20)),
            ("20M", Some(20 << 20)),
            ("8k", Some(1000)),
            ("100m", Some(12_500_000)),
            ("1K", Some(1024)),
            ("0", Some(0)),
            ("-1", None),
            ("1x", None),
            ("9223372036854775807G", None),
            ("", None),
        ] {
            assert_eq!(limit(written), bytes, "{written}");
        }
    }

    #[test]
    fn actions_have_their_arguments() {
        let parsed = |line: &[&str]| parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())));
        assert!(parsed(&["vm", "add", "g", "--type", "disk", "--limit", "20M"]).is_ok());
        assert!(parsed(&["vm", "list", "--machinereadable"]).is_ok());
        for wrong in [
            &["vm"][..],
            &["vm", "odd"],
            &["vm", "add", "g", "--limit", "1"],
            &["vm", "add", "g", "--type", "disk"],
            &["vm", "set", "g"],
            &["vm", "remove"],
        ] {
            assert!(
                matches!(parsed(wrong), Err(Failure::Syntax(_))),
                "{wrong:?}"
            );
        }
    }
}
