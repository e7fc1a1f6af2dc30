//! `debugvm`: a look into a running machine.

use super::{Command, form};
use crate::args::{Arg, Args, Opt, flag, value};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};
use api::client::MachineDebugger;
use api::types::LockType;

pub const COMMAND: Command = Command {
    name: "debugvm",
    aliases: &[],
    usage,
    forms: || ACTIONS.iter().map(|word| form(word, OPTIONS)).collect(),
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage debugvm <uuid | vmname> dumpvmcore <--filename=name>

  VBoxManage debugvm <uuid | vmname> info <item> [args...]

  VBoxManage debugvm <uuid | vmname> injectnmi

  VBoxManage debugvm <uuid | vmname> getregisters [--cpu=id] <reg-name>...

  VBoxManage debugvm <uuid | vmname> setregisters [--cpu=id] <reg-name=value>...

  VBoxManage debugvm <uuid | vmname> statistics [--reset] [--descriptions] [--pattern=pattern]

  VBoxManage debugvm <uuid | vmname> osdetect | osinfo | osdmesg [--lines=count]

  VBoxManage debugvm <uuid | vmname> stack [--cpu=id]\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    value(&["--filename", "-f"]),
    value(&["--cpu", "-c"]),
    flag(&["--reset", "-r"]),
    flag(&["--descriptions", "-d"]),
    value(&["--pattern", "-p"]),
    value(&["--lines", "-n"]),
];

#[derive(Debug, Default)]
struct Wanted {
    machine: String,
    action: String,
    words: Vec<String>,
    file: String,
    cpu: u32,
    reset: bool,
    descriptions: bool,
    pattern: String,
    lines: u32,
}

const ACTIONS: &[&str] = &[
    "dumpvmcore",
    "dumpguestcore",
    "info",
    "injectnmi",
    "getregisters",
    "setregisters",
    "statistics",
    "osdetect",
    "osinfo",
    "osdmesg",
    "stack",
];

fn parse(args: &mut Args) -> Result<Wanted> {
    let mut wanted = Wanted {
        machine: args.required("machine name or UUID")?,
        action: args.required("debug command")?,
        ..Wanted::default()
    };
    if !ACTIONS.contains(&wanted.action.as_str()) {
        return Err(Failure::syntax(format!(
            "Invalid parameter '{}'",
            wanted.action
        )));
    }
    if wanted.action == "info" {
        // Everything behind the item is for it.
        while let Some(word) = args.take() {
            wanted.words.push(word);
        }
    }
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--filename" => wanted.file = absolute(&given.value)?,
                "--cpu" => wanted.cpu = given.integer()?,
                "--reset" => wanted.reset = true,
                "--descriptions" => wanted.descriptions = true,
                "--pattern" => wanted.pattern = given.value,
                _ => wanted.lines = given.integer()?,
            },
            Arg::Word(word) => wanted.words.push(word),
        }
    }
    let needs_words = matches!(
        wanted.action.as_str(),
        "info" | "getregisters" | "setregisters"
    );
    if needs_words && wanted.words.is_empty() {
        return Err(Failure::syntax(format!(
            "Missing argument of '{}'",
            wanted.action
        )));
    }
    if !needs_words && let Some(word) = wanted.words.first() {
        return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
    }
    Ok(wanted)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    let locked = cx.lock(&wanted.machine, LockType::Shared)?;
    let debugger = locked.console()?.debugger()?;
    perform(cx, &debugger, &wanted)?;
    locked.unlock()
}

fn perform(cx: &mut Cx<'_>, debugger: &MachineDebugger, wanted: &Wanted) -> Result {
    match wanted.action.as_str() {
        "info" => {
            let (item, rest) = wanted.words.split_first().ok_or(Failure::Silent(1))?;
            let text = debugger
                .info(item, &rest.join(" "))
                .during("Info(Bstr(pszInfo).raw(), Bstr(strArgs).raw(), bstrInfo.asOutParam())")?;
            write!(cx.out, "{text}")?;
        }
        "statistics" if wanted.reset => debugger
            .reset_stats(&wanted.pattern)
            .during("ResetStats(Bstr(pszPattern).raw())")?,
        "statistics" => {
            let text = debugger
                .get_stats(&wanted.pattern, wanted.descriptions)
                .during(
                    "GetStats(Bstr(pszPattern).raw(), fWithDescriptions, bstrStats.asOutParam())",
                )?;
            write!(cx.out, "{text}")?;
            if !text.ends_with('\n') {
                writeln!(cx.out)?;
            }
        }
        "getregisters" => registers(cx, debugger, wanted)?,
        "setregisters" => {
            for word in &wanted.words {
                let (name, value) = word.split_once('=').ok_or_else(|| {
                    Failure::syntax(format!("Missing value of register '{word}'"))
                })?;
                debugger
                    .set_register(wanted.cpu, name, value)
                    .during("SetRegister(idCpu, bstrName.raw(), bstrValue.raw())")?;
            }
        }
        "injectnmi" => debugger.inject_nmi().during("InjectNMI()")?,
        "dumpvmcore" | "dumpguestcore" => {
            if wanted.file.is_empty() {
                return Err(Failure::syntax("Missing --filename"));
            }
            debugger
                .dump_guest_core(&wanted.file, "")
                .during("DumpGuestCore(bstrFilename.raw(), bstrCompression.raw())")?;
        }
        "osdetect" => {
            let name = debugger
                .detect_os()
                .during("DetectOS(bstrName.asOutParam())")?;
            writeln!(cx.out, "Detected: {name}")?;
        }
        "osinfo" => {
            let (name, version) = (debugger.os_name()?, debugger.os_version()?);
            writeln!(cx.out, "Name:    {name}\nVersion: {version}")?;
        }
        "osdmesg" => {
            let text = debugger
                .query_os_kernel_log(wanted.lines)
                .during("QueryOSKernelLog(uMaxMessages, bstrDmesg.asOutParam())")?;
            write!(cx.out, "{text}")?;
        }
        _ => {
            let text = debugger
                .dump_guest_stack(wanted.cpu)
                .during("DumpGuestStack(idCpu, bstrGuestStack.asOutParam())")?;
            write!(cx.out, "{text}")?;
        }
    }
    Ok(())
}

/// `name = value` for each register asked for; `all` asks for every one.
fn registers(cx: &mut Cx<'_>, debugger: &MachineDebugger, wanted: &Wanted) -> Result {
    for word in &wanted.words {
        if word == "all" {
            let (names, values) = debugger
                .get_registers(wanted.cpu)
                .during("GetRegisters(idCpu, ComSafeArrayAsOutParam(aBstrNames), ComSafeArrayAsOutParam(aBstrValues))")?;
            let width = names.iter().map(String::len).max().unwrap_or(0);
            for (name, value) in names.iter().zip(values) {
                writeln!(cx.out, "{name:<width$} = {value}")?;
            }
        } else {
            let value = debugger
                .get_register(wanted.cpu, word)
                .during("GetRegister(idCpu, bstrName.raw(), bstrValue.asOutParam())")?;
            writeln!(cx.out, "{word} = {value}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Wanted> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())))
    }

    #[test]
    fn actions_and_their_options() {
        let wanted =
            parsed(&["vm", "statistics", "--pattern", "/REM/*", "--descriptions"]).expect("known");
        assert_eq!(
            (wanted.pattern.as_str(), wanted.descriptions),
            ("/REM/*", true)
        );
        let wanted = parsed(&["vm", "info", "pic", "--verbose"]).expect("words for the item");
        assert_eq!(wanted.words, ["pic", "--verbose"]);
        let wanted = parsed(&["vm", "getregisters", "--cpu", "1", "rip", "rsp"]).expect("known");
        assert_eq!((wanted.cpu, wanted.words.len()), (1, 2));
        for wrong in [
            &["vm"][..],
            &["vm", "frobnicate"],
            &["vm", "info"],
            &["vm", "getregisters"],
            &["vm", "statistics", "x"],
            &["vm", "getregisters", "--cpu", "x", "rip"],
        ] {
            assert!(
                matches!(parsed(wrong), Err(Failure::Syntax(_))),
                "{wrong:?}"
            );
        }
    }
}
