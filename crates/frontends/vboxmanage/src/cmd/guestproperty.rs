//! `guestproperty`.

use super::{Command, Form, form};
use crate::args::{Arg, Args, Opt, flag, value};
use crate::cx::Cx;
use crate::error::{During, Failure, Result};
use crate::time;
use api::Remote;
use api::client::{GuestPropertyChangedEvent, Machine};
use api::types::{LockType, VBoxEventType};
use std::io::Write;
use std::time::{Duration, Instant};

pub const COMMAND: Command = Command {
    name: "guestproperty",
    aliases: &[],
    usage,
    forms,
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage guestproperty get <uuid | vmname> <property-name> [--verbose]

  VBoxManage guestproperty enumerate <uuid | vmname> [--no-timestamp] [--no-flags] [--relative]
      [--old-format] [patterns...]

  VBoxManage guestproperty set <uuid | vmname> <property-name> [property-value [--flags=flags]]

  VBoxManage guestproperty unset <uuid | vmname> <property-name>

  VBoxManage guestproperty wait <uuid | vmname> <patterns> [--timeout=milliseconds]
      [--fail-on-timeout]\n"
        .to_owned()
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let action = args.required("action: get, enumerate, set, unset or wait")?;
    match action.as_str() {
        "get" => get(cx, args),
        "enumerate" => enumerate(cx, args),
        "set" => set(cx, args),
        "unset" | "delete" => unset(cx, args),
        "wait" => wait(cx, args),
        _ => Err(Failure::syntax(format!("Invalid parameter '{action}'"))),
    }
}

fn forms() -> Vec<Form> {
    vec![
        form("get", &[flag(&["--verbose", "-v"])]),
        form("enumerate", ENUMERATE),
        form("set", &[value(&["--flags"])]),
        form("unset", &[]),
        form("delete", &[]),
        form("wait", WAIT),
    ]
}

fn target(args: &mut Args) -> Result<(String, String)> {
    let machine = args.required("machine name or UUID")?;
    Ok((machine, args.required("property name")?))
}

fn get(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let (machine, name) = target(args)?;
    let verbose = match args.take().as_deref() {
        None => false,
        Some("--verbose" | "-verbose" | "-v") => true,
        Some(word) => return Err(Failure::syntax(format!("Invalid parameter '{word}'"))),
    };
    args.end()?;
    let (value, timestamp, flags) = cx
        .machine(&machine)?
        .get_guest_property(&name)
        .during("GetGuestProperty(Bstr(pszName).raw(), value.asOutParam(), &i64Timestamp, flags.asOutParam())")?;
    if value.is_empty() {
        writeln!(cx.out, "No value set!")?;
        return Ok(());
    }
    writeln!(cx.out, "Value: {value}")?;
    if verbose {
        writeln!(cx.out, "Timestamp: {timestamp} ns\nFlags: {flags}")?;
    }
    Ok(())
}

fn set(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let (machine, name) = target(args)?;
    let (mut value, mut flags) = (None, None);
    while let Some(word) = args.take() {
        match word.as_str() {
            "--flags" | "-flags" => flags = Some(args.required("value of --flags")?),
            _ if word.starts_with("--flags=") => {
                flags = word.split_once('=').map(|f| f.1.to_owned())
            }
            _ if value.is_none() => value = Some(word),
            _ => return Err(Failure::syntax(format!("Invalid parameter '{word}'"))),
        }
    }
    let locked = cx.lock(&machine, LockType::Shared)?;
    let (machine, value) = (&locked.machine, value.unwrap_or_default());
    match flags {
        _ if value.is_empty() => machine
            .delete_guest_property(&name)
            .during("DeleteGuestProperty(Bstr(pszName).raw())"),
        None => machine
            .set_guest_property_value(&name, &value)
            .during("SetGuestPropertyValue(Bstr(pszName).raw(), Bstr(pszValue).raw())"),
        Some(flags) => machine.set_guest_property(&name, &value, &flags).during(
            "SetGuestProperty(Bstr(pszName).raw(), Bstr(pszValue).raw(), Bstr(pszFlags).raw())",
        ),
    }?;
    locked.save()
}

fn unset(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let (machine, name) = target(args)?;
    args.end()?;
    let locked = cx.lock(&machine, LockType::Shared)?;
    locked
        .machine
        .delete_guest_property(&name)
        .during("DeleteGuestProperty(Bstr(pszName).raw())")?;
    locked.save()
}

const ENUMERATE: &[Opt] = &[
    value(&["--patterns", "-p"]),
    flag(&["--no-timestamp", "-t"]),
    flag(&["--no-flags", "-f"]),
    flag(&["--relative", "-r"]),
    flag(&["--old-format", "-o"]),
];

#[derive(Debug, Default)]
struct Style {
    no_timestamp: bool,
    no_flags: bool,
    relative: bool,
    old: bool,
}

fn enumerate(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let (mut words, mut patterns, mut style) = (Vec::new(), Vec::new(), Style::default());
    while let Some(arg) = args.next(ENUMERATE)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--patterns" => patterns.push(given.value),
                "--no-timestamp" => style.no_timestamp = true,
                "--no-flags" => style.no_flags = true,
                "--relative" => style.relative = true,
                _ => style.old = true,
            },
            Arg::Word(word) => words.push(word),
        }
    }
    let mut words = words.into_iter();
    let machine = words
        .next()
        .ok_or_else(|| Failure::syntax("Missing machine name or UUID"))?;
    patterns.extend(words);
    let machine = cx.machine(&machine)?;
    let (names, values, timestamps, flags) = machine
        .enumerate_guest_properties(&patterns.join("|"))
        .during("EnumerateGuestProperties(Bstr(strPatterns).raw(), ...)")?;
    let mut all: Vec<Property> = Vec::new();
    for (((name, value), timestamp), flags) in
        names.into_iter().zip(values).zip(timestamps).zip(flags)
    {
        all.push(Property {
            name,
            value,
            timestamp,
            flags,
        });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    print(cx.out, &all, &style, now_nanos())
}

fn now_nanos() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

struct Property {
    name: String,
    value: String,
    /// Nanoseconds since 1970.
    timestamp: i64,
    flags: String,
}

/// Names are padded to the longest one that is no longer than this.
const MAX_NAME_COLUMN: usize = 48;
const MAX_VALUE_COLUMN: usize = 28;

fn print(out: &mut dyn Write, all: &[Property], style: &Style, now: i64) -> Result {
    if all.is_empty() {
        writeln!(out, "No properties found.")?;
        return Ok(());
    }
    let longest = |f: &dyn Fn(&Property) -> usize, max: usize| {
        all.iter().map(f).filter(|n| *n <= max).max().unwrap_or(0)
    };
    let name_width = longest(&|p| p.name.chars().count(), MAX_NAME_COLUMN);
    let value_width = longest(&|p| p.value.chars().count(), MAX_VALUE_COLUMN);
    for p in all {
        if style.old {
            writeln!(
                out,
                "Name: {}, value: {}, timestamp: {}, flags: {}",
                p.name, p.value, p.timestamp, p.flags
            )?;
            continue;
        }
        let quoted = format!("'{}'", p.value);
        let width = value_width + 2;
        let mut line = format!("{:<name_width$} = {quoted:<width$}", p.name);
        if !style.no_timestamp {
            if style.relative {
                line.push_str(&format!(
                    " @ {}s ago",
                    now.saturating_sub(p.timestamp) / 1_000_000_000
                ));
            } else {
                line.push_str(&format!(" @ {}", time::iso_of_nanos(p.timestamp)));
            }
        }
        if !style.no_flags && !p.flags.is_empty() {
            line.push_str(&format!(" {}", p.flags));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

const WAIT: &[Opt] = &[value(&["--timeout", "-t"]), flag(&["--fail-on-timeout"])];

/// How long one question for an event takes at most, in milliseconds.
const SLICE_MS: i32 = 1000;

fn wait(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let (mut words, mut limit, mut fail) = (Vec::new(), None, false);
    while let Some(arg) = args.next(WAIT)? {
        match arg {
            Arg::Opt(_, given) if given.name == "--timeout" => {
                limit = Some(Duration::from_millis(given.integer::<u32>()?.into()));
            }
            Arg::Opt(..) => fail = true,
            Arg::Word(word) => words.push(word),
        }
    }
    let [machine, patterns] = <[String; 2]>::try_from(words)
        .map_err(|_| Failure::syntax("Machine and patterns required"))?;
    let machine = cx.machine(&machine)?;
    let source = cx.vbox()?.event_source()?;
    let listener = source.create_listener()?;
    source.register_listener(&listener, &[VBoxEventType::OnGuestPropertyChanged], false)?;
    let end = limit.map(|l| Instant::now() + l);
    let found = loop {
        let left = end.map_or(SLICE_MS, |e| {
            let left = e.saturating_duration_since(Instant::now()).as_millis();
            i32::try_from(left).unwrap_or(SLICE_MS).min(SLICE_MS)
        });
        if let Some(event) = source.get_event(&listener, left)? {
            let change = event.cast::<GuestPropertyChangedEvent>();
            let line = changed(&machine, &change, &patterns)?;
            source.event_processed(&listener, &event)?;
            if let Some(line) = line {
                writeln!(cx.out, "{line}")?;
                break true;
            }
        }
        if end.is_some_and(|e| Instant::now() >= e) {
            writeln!(
                cx.err,
                "Time out or interruption while waiting for a notification."
            )?;
            break false;
        }
    };
    source.unregister_listener(&listener)?;
    if !found && fail {
        return Err(Failure::Silent(2));
    }
    Ok(())
}

/// The line of a change that is waited for.
fn changed(
    machine: &Machine,
    change: &GuestPropertyChangedEvent,
    patterns: &str,
) -> Result<Option<String>> {
    let name = change.name()?;
    if change.machine_id()? != machine.id()? || !patterns.split('|').any(|p| matches(p, &name)) {
        return Ok(None);
    }
    let (value, flags) = (change.value()?, change.flags()?);
    Ok(Some(format!(
        "Name: {name}, value: {value}, flags: {flags}"
    )))
}

/// `*` stands for any text, `?` for any character; nothing at all for everything.
fn matches(pattern: &str, text: &str) -> bool {
    fn rest(pattern: &[char], text: &[char]) -> bool {
        // The last star seen, and how much of the text it has taken.
        let (mut p, mut t, mut star) = (0, 0, None);
        while t < text.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(c) if *c == '?' || Some(c) == text.get(t) => {
                    p += 1;
                    t += 1;
                }
                _ => match star {
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        p = at + 1;
                        t = taken + 1;
                    }
                    None => return false,
                },
            }
        }
        pattern
            .get(p..)
            .unwrap_or_default()
            .iter()
            .all(|c| *c == '*')
    }
    pattern.is_empty()
        || rest(
            &pattern.chars().collect::<Vec<_>>(),
            &text.chars().collect::<Vec<_>>(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(style: &Style) -> String {
        let all = [
            Property {
                name: "/VirtualBox/GuestInfo/Net/0/V4/IP".into(),
                value: "10.0.2.15".into(),
                timestamp: 1_675_649_927_191_000_000,
                flags: "TRANSIENT, TRANSRESET".into(),
            },
            Property {
                name: "/x".into(),
                value: "1".into(),
                timestamp: 0,
                flags: String::new(),
            },
        ];
        let mut out = Vec::new();
        print(&mut out, &all, style, 10_000_000_000).expect("memory");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn listings() {
        assert_eq!(
            printed(&Style::default()),
            "/VirtualBox/GuestInfo/Net/0/V4/IP = '10.0.2.15' @ 2023-02-06T02:18:47.191000000Z TRANSIENT, TRANSRESET\n\
             /x                                = '1'         @ 1970-01-01T00:00:00.000000000Z\n"
        );
        let old = Style {
            old: true,
            ..Style::default()
        };
        assert_eq!(
            printed(&old),
            "Name: /VirtualBox/GuestInfo/Net/0/V4/IP, value: 10.0.2.15, timestamp: 1675649927191000000, flags: TRANSIENT, TRANSRESET\n\
             Name: /x, value: 1, timestamp: 0, flags: \n"
        );
        let mut out = Vec::new();
        print(&mut out, &[], &Style::default(), 0).expect("memory");
        assert_eq!(out, b"No properties found.\n");
    }

    #[test]
    fn patterns() {
        assert!(matches("", "x"));
        assert!(matches(
            "/Virtual*/Net/?/V4/*",
            "/VirtualBox/GuestInfo/Net/0/V4/IP"
        ));
        assert!(matches("*a*b", "xaaxb"));
        assert!(!matches("/a", "/ab"));
        assert!(!matches("/a?", "/a"));
    }
}
