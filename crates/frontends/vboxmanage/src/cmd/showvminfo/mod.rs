//! `showvminfo`. The order of the lines is VirtualBox 7.0's: tools rely on some of it.

mod devices;
mod network;
mod sheet;
mod storage;
mod system;

use super::{Command, form, snapshot};
use crate::args::{Arg, Args, Opt, flag, value};
use crate::cx::Cx;
use crate::error::{During, Failure, Result, known};
use crate::names::is_online;
use api::client::{Console, Machine};
use api::types::LockType;
use sheet::Sheet;

pub const COMMAND: Command = Command {
    name: "showvminfo",
    aliases: &[],
    usage,
    forms: || vec![form("", OPTIONS).without(&["--password", "--password-id"])],
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage showvminfo <uuid | vmname> [--details] [--machinereadable] [--password-id=id]
      [--password=file]

  VBoxManage showvminfo <uuid | vmname> --log=index\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    flag(&["--details", "-D", "--verbose"]),
    flag(&["--machinereadable", "-M"]),
    value(&["--log", "-l"]),
    value(&["--password-id"]),
    value(&["--password"]),
];

#[derive(Debug, Default)]
struct Wanted {
    machine: String,
    machine_readable: bool,
    log: Option<u32>,
}

fn parse(args: &mut Args) -> Result<Wanted> {
    let (mut wanted, mut machine) = (Wanted::default(), None);
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--machinereadable" => wanted.machine_readable = true,
                "--log" => wanted.log = Some(given.integer()?),
                "--details" => {}
                _ => {
                    return Err(Failure::message(
                        "Encrypted machines are not available in this version of Oxbox yet",
                    ));
                }
            },
            Arg::Word(word) if machine.is_none() => machine = Some(word),
            // 4.0's form of the option.
            Arg::Word(word) if word == "details" => {}
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    wanted.machine = machine.ok_or_else(|| Failure::syntax("VM name or UUID required"))?;
    Ok(wanted)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    let machine = cx.machine(&wanted.machine)?;
    if let Some(index) = wanted.log {
        return log(cx, &machine, index);
    }
    show(cx, &machine, wanted.machine_readable)
}

/// Bytes of a log read at a time.
const CHUNK: i64 = 256 * 1024;

fn log(cx: &mut Cx<'_>, machine: &Machine, index: u32) -> Result {
    let mut at = 0;
    loop {
        let bytes = machine
            .read_log(index, at, CHUNK)
            .during("ReadLog(uLogIdx, uOffset, _1M, ComSafeArrayAsOutParam(aLogData))")?;
        if bytes.is_empty() {
            return Ok(());
        }
        cx.out.write_all(&bytes)?;
        at += i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    }
}

/// The description for people, as `list -l` shows it too.
pub fn print_human(cx: &mut Cx<'_>, machine: &Machine) -> Result {
    show(cx, machine, false)
}

fn show(cx: &mut Cx<'_>, machine: &Machine, machine_readable: bool) -> Result {
    if !machine.accessible()? {
        return inaccessible(cx, machine, machine_readable);
    }
    let live = Live::open(cx, machine)?;
    let vbox = cx.vbox()?;
    let mut sheet = Sheet {
        out: cx.out,
        machine: machine_readable,
    };
    let s = &mut sheet;
    system::identity(s, &vbox, machine)?;
    system::hardware(s, machine)?;
    system::firmware(s, machine)?;
    system::engines(s, machine)?;
    system::state(s, machine)?;
    system::display(s, machine)?;
    storage::show(s, machine)?;
    network::show(s, &vbox, machine)?;
    devices::input_and_ports(s, &vbox, machine)?;
    devices::session(s, machine, live.console())?;
    devices::remote_display(s, machine)?;
    devices::usb(s, machine, live.console().is_some())?;
    devices::shared_folders(s, machine, live.console())?;
    devices::recording(s, machine)?;
    let description = machine.description()?;
    if !description.is_empty() {
        s.key("description", &description)?;
        s.line(format_args!("Description:\n{description}"))?;
    }
    if machine.snapshot_count()? > 0 {
        s.line("* Snapshots:\n")?;
        let style = if machine_readable {
            snapshot::Style::Machine
        } else {
            snapshot::Style::Human
        };
        snapshot::print(s.out, machine, style)?;
    }
    devices::guest(s, machine, live.console())
}

fn inaccessible(cx: &mut Cx<'_>, machine: &Machine, machine_readable: bool) -> Result {
    let id = machine.id()?;
    if machine_readable {
        write!(cx.out, "name=\"<inaccessible>\"\nUUID=\"{id}\"\n")?;
        return Ok(());
    }
    write!(
        cx.out,
        "Name:                        <inaccessible!>\nUUID:                        {id}\n"
    )?;
    let file = machine.settings_file_path()?;
    writeln!(cx.out, "Config file:                 {file}")?;
    writeln!(cx.out, "Access error details:")?;
    if let Some(error) = machine.access_error()? {
        writeln!(cx.out, "{}", error.text()?)?;
    }
    Ok(())
}

/// What a running machine's process adds. A machine that stops meanwhile has nothing to add.
struct Live {
    session: Option<(api::client::Session, Console)>,
}

impl Live {
    fn open(cx: &mut Cx<'_>, machine: &Machine) -> Result<Self> {
        let mut session = None;
        if is_online(machine.state()?) {
            let own = cx.client()?.session()?;
            if machine.lock_machine(&own, LockType::Shared).is_ok()
                && let Ok(Some(console)) = own.console()
            {
                session = Some((own, console));
            }
        }
        Ok(Self { session })
    }

    fn console(&self) -> Option<&Console> {
        self.session.as_ref().map(|(_, console)| console)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some((session, _)) = &self.session {
            // Released with the connection in any case.
            let _ = session.unlock_machine();
        }
    }
}

/// What a running machine answers; a failure means that it does not any more.
fn live<T>(result: api::Result<T>) -> Option<T> {
    known(result).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Wanted> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())))
    }

    #[test]
    fn options_stand_anywhere() {
        for line in [["u", "--machinereadable"], ["--machinereadable", "u"]] {
            let wanted = parsed(&line).expect("known");
            assert!(wanted.machine_readable);
            assert_eq!(wanted.machine, "u");
        }
        assert_eq!(parsed(&["u", "--log", "0"]).expect("known").log, Some(0));
        assert!(parsed(&["u", "--details", "-details"]).is_ok());
        assert!(parsed(&["u", "v"]).is_err());
        assert!(parsed(&["--details"]).is_err());
        assert!(parsed(&["u", "--log", "x"]).is_err());
    }
}
