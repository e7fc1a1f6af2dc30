//! `startvm`.

use super::{Command, form};
use crate::args::{Arg, Args, Opt, value};
use crate::cx::Cx;
use crate::error::{During, Failure, Result};

pub const COMMAND: Command = Command {
    name: "startvm",
    aliases: &[],
    usage,
    forms: || vec![form("", OPTIONS).without(&["--password", "--password-id"])],
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage startvm <uuid | vmname>... [--putenv=name[=value]]
      [--type=gui | headless | sdl | separate]\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    value(&["--type", "-t"]),
    value(&["--putenv", "-E"]),
    value(&["--password", "-p"]),
    value(&["--password-id", "-i"]),
];

/// The front ends of VirtualBox; `capture` and `vrdp` are 4.0's words.
const TYPES: &[(&str, &str)] = &[
    ("gui", "gui"),
    ("sdl", "sdl"),
    ("headless", "headless"),
    ("vrdp", "headless"),
    ("capture", "headless"),
    ("separate", "separate"),
];

#[derive(Debug, Default)]
struct Wanted {
    machines: Vec<String>,
    front_end: String,
    environment: Vec<String>,
}

fn parse(args: &mut Args) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--type" => wanted.front_end = given.one_of(TYPES)?.to_owned(),
                "--putenv" => wanted.environment.push(given.value),
                _ => {
                    return Err(Failure::message(
                        "Encrypted machines are not available in this version of Oxbox yet",
                    ));
                }
            },
            Arg::Word(word) => wanted.machines.push(word),
        }
    }
    if wanted.machines.is_empty() {
        return Err(Failure::syntax("at least one VM name or uuid required"));
    }
    Ok(wanted)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    let mut result = Ok(());
    for name in &wanted.machines {
        // Each machine is tried; the last failure decides.
        if let Err(failure) = start(cx, name, &wanted) {
            if result.is_err() {
                report_and_go_on(cx, &result)?;
            }
            result = Err(failure);
        }
    }
    result
}

fn report_and_go_on(cx: &mut Cx<'_>, result: &Result) -> Result {
    if let Err(failure) = result {
        failure.print("VBoxManage startvm", cx.err)?;
    }
    Ok(())
}

fn start(cx: &mut Cx<'_>, name: &str, wanted: &Wanted) -> Result {
    let machine = cx.machine(name)?;
    let session = cx.client()?.session()?;
    let environment: Vec<&str> = wanted.environment.iter().map(String::as_str).collect();
    writeln!(cx.out, "Waiting for VM \"{name}\" to power on...")?;
    cx.out.flush()?;
    let progress = machine
        .launch_vm_process(&session, &wanted.front_end, &environment)
        .during("LaunchVMProcess(a->session, sessionType.raw(), ComSafeArrayAsInParam(aBstrEnv), progress.asOutParam())")?;
    progress
        .finish()
        .during("progress->WaitForCompletion(-1)")?;
    writeln!(cx.out, "VM \"{name}\" has been successfully started.")?;
    // The machine runs whatever becomes of this session.
    let _ = session.unlock_machine();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Wanted> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())))
    }

    #[test]
    fn machines_and_type_in_any_order() {
        for line in [
            ["a", "--type", "headless", "b"],
            ["--type=headless", "a", "b", "--putenv=X=1"],
        ] {
            let wanted = parsed(&line).expect("known");
            assert_eq!(wanted.machines, ["a", "b"]);
            assert_eq!(wanted.front_end, "headless");
        }
        assert_eq!(
            parsed(&["a", "-type", "vrdp"]).expect("4.0").front_end,
            "headless"
        );
        assert_eq!(parsed(&["a"]).expect("default").front_end, "");
        assert!(matches!(
            parsed(&["--type", "gui"]),
            Err(Failure::Syntax(_))
        ));
        assert!(matches!(
            parsed(&["a", "--type", "x"]),
            Err(Failure::Syntax(_))
        ));
    }
}
