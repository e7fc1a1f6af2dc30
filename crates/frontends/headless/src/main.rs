//! `VBoxHeadless`: runs one machine without a window.

use std::process::ExitCode;

/// What this program says it is, with the revision after `r`. The service says the same.
const VERSION: &str = "7.0.20_Oxboxr1";

const USAGE: &str = "\
Usage:
   -s, -startvm, --startvm <name|uuid>   Start given VM (required argument)
   -c, -comment, --comment <text>        Text for the process list, no effect
   -V, --version                         Show the version and exit
   -h, --help                            Show this help and exit

The machine ends when the guest powers off, or when this process gets SIGTERM, SIGINT or SIGHUP.";

#[derive(Debug, PartialEq, Eq)]
enum Command {
    Start(String),
    Version,
    Help,
}

fn parse(args: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut args = args.peekable();
    let mut machine = None;
    while let Some(arg) = args.next() {
        let mut value = |what: &str| args.next().ok_or_else(|| format!("{arg} needs {what}"));
        match arg.as_str() {
            "-s" | "-startvm" | "--startvm" => machine = Some(value("the name of a machine")?),
            "-c" | "-comment" | "--comment" => drop(value("a text")?),
            "-V" | "-version" | "--version" => return Ok(Command::Version),
            "-h" | "-help" | "--help" | "-?" => return Ok(Command::Help),
            // Remote display is not part of this version: what would switch it off is granted.
            "-v" | "-vrde" | "--vrde" => match value("on, off or config")?.as_str() {
                "off" | "config" => {}
                other => {
                    return Err(format!(
                        "remote display '{other}' is not part of this version of Oxbox"
                    ));
                }
            },
            other => return Err(format!("unknown option '{other}'")),
        }
    }
    machine
        .map(Command::Start)
        .ok_or_else(|| "--startvm is missing".into())
}

fn main() -> ExitCode {
    let machine = match parse(std::env::args().skip(1)) {
        Ok(Command::Start(machine)) => machine,
        Ok(Command::Version) => {
            println!("{VERSION}");
            return ExitCode::SUCCESS;
        }
        Ok(Command::Help) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("VBoxHeadless: error: {e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // Nothing started from here gains rights by set-user-id files.
    if let Err(e) = rustix::thread::set_no_new_privs(true) {
        eprintln!("VBoxHeadless: warning: no_new_privs: {e}");
    }
    match console::process::run(&machine, "headless") {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("VBoxHeadless: error: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Command, String> {
        parse(args.iter().map(|a| (*a).to_owned()))
    }

    #[test]
    fn what_the_service_passes_is_understood() {
        assert_eq!(
            parsed(&["--comment", "deb", "--startvm", "u-u-i-d"]),
            Ok(Command::Start("u-u-i-d".into()))
        );
        assert_eq!(
            parsed(&["-s", "x", "--vrde", "off"]),
            Ok(Command::Start("x".into()))
        );
    }

    #[test]
    fn wrong_lines_are_refused() {
        assert!(parsed(&[]).is_err());
        assert!(parsed(&["--startvm"]).is_err());
        assert!(parsed(&["--startvm", "x", "--vrde", "on"]).is_err());
        assert!(parsed(&["x"]).is_err());
    }
}
