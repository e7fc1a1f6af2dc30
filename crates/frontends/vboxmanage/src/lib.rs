//! `VBoxManage`: the command line of the Main API.
//!
//! One file per command in `cmd/`, listed in `cmd::COMMANDS`. A command reads its arguments by a
//! table of options (`args`), talks to the service through `cx::Cx`, writes results to standard
//! output, and progress and errors, in VirtualBox's words (`error`), to standard error.

mod args;
mod cmd;
mod completion;
mod coverage;
mod cx;
mod error;
mod grammar;
mod media;
mod names;
mod out;
mod progress;
mod reference;
mod response;
mod time;
mod version;

use args::Args;
use cmd::Command;
use cx::Cx;
use error::{Failure, Result};
use std::io::{BufWriter, Write};
use std::process::ExitCode;

/// What is generated of the commands' tables: paths in the repository, and what is there.
pub fn documents() -> Vec<(&'static str, String)> {
    vec![
        ("docs/vboxmanage-coverage.md", coverage::document()),
        ("completions/VBoxManage.bash", completion::bash()),
        ("completions/_VBoxManage", completion::zsh()),
        ("completions/VBoxManage.fish", completion::fish()),
    ]
}

/// The program: one command line, and its exit code.
pub fn main() -> ExitCode {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut err = std::io::stderr().lock();
    let line = std::env::args_os()
        .skip(1)
        .map(|a| a.to_string_lossy().into_owned());
    ExitCode::from(run(line.collect(), &mut out, &mut err))
}

/// One command line; the exit code.
fn run(line: Vec<String>, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let mut command = None;
    let mut cx = Cx::new(out, err);
    let result = dispatch(&mut cx, line, &mut command);
    // What was written before an error belongs before it.
    let flushed = cx.out.flush().map_err(Failure::from);
    match result.and(flushed) {
        Ok(()) => 0,
        Err(failure) => {
            // With standard error closed there is nobody to tell.
            let _ = report(cx.err, &failure, command);
            failure.exit_code()
        }
    }
}

/// Lines of usage that may follow a syntax error.
const MAX_USAGE: usize = 30;

fn report(
    err: &mut dyn Write,
    failure: &Failure,
    command: Option<&Command>,
) -> std::io::Result<()> {
    let name = command.map_or_else(String::new, |c| format!(" {}", c.name));
    if let Failure::Syntax(_) = failure {
        write!(err, "{}", version::LOGO)?;
    }
    failure.print(&format!("VBoxManage{name}"), err)?;
    if let Failure::Syntax(_) = failure {
        let usage = command.map_or_else(cmd::help::overview, |c| (c.usage)());
        if usage.lines().count() > MAX_USAGE {
            // The error would be out of sight.
            writeln!(err, "\nSee 'VBoxManage help{name}'.")?;
        } else {
            write!(err, "\nUsage:\n\n{usage}")?;
        }
    }
    err.flush()
}

/// Global options, then the command.
fn dispatch(cx: &mut Cx<'_>, line: Vec<String>, command: &mut Option<&'static Command>) -> Result {
    let mut args = Args::new(response::expand(line)?);
    let mut password = None;
    loop {
        let Some(word) = args.take() else {
            return cmd::help::print_overview(cx);
        };
        match word.as_str() {
            "--version" | "-version" | "-Version" | "-V" | "-v" => {
                writeln!(cx.out, "{}r{}", version::VERSION, version::REVISION)?;
                return Ok(());
            }
            "--dump-build-type" => {
                writeln!(cx.out, "release")?;
                return Ok(());
            }
            "--nologo" | "-nologo" | "-q" => {}
            "--detailed-progress" | "-d" => cx.detailed = true,
            "--settingspw" => password = Some(args.required("password of --settingspw")?),
            "--settingspwfile" => {
                let file = args.required("file of --settingspwfile")?;
                password = Some(password_of(&file)?);
            }
            "help" | "--help" | "-help" | "-h" | "-?" => return cmd::help::run(cx, &mut args),
            "commands" => return cmd::help::print_names(cx),
            name => {
                let Some(found) = cmd::find(name) else {
                    return Err(Failure::syntax(if name.starts_with('-') {
                        format!("Unknown option: {name}")
                    } else {
                        format!("Invalid command '{name}'")
                    }));
                };
                *command = Some(found);
                if let Some(password) = password {
                    cx.vbox()?.set_settings_secret(&password)?;
                }
                return run_command(cx, found, &mut args);
            }
        }
    }
}

fn run_command(cx: &mut Cx<'_>, command: &'static Command, args: &mut Args) -> Result {
    let Some(run) = command.run else {
        return Err(Failure::message(format!(
            "The command '{}' is not available in this version of Oxbox yet",
            command.name
        )));
    };
    match args.peek() {
        Some("--help" | "-help" | "-h" | "-?") => cmd::help::print_usage(cx, command),
        None => {
            write!(cx.err, "{}Usage:\n\n{}", version::LOGO, (command.usage)())?;
            Err(Failure::Silent(error::FAILURE))
        }
        Some(_) => match run(cx, args) {
            Err(Failure::Help) => cmd::help::print_usage(cx, command),
            result => result,
        },
    }
}

/// The first line of a password file, or of standard input for `stdin`.
fn password_of(file: &str) -> Result<String> {
    let text = match file {
        "stdin" => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(file),
    };
    text.map(|t| t.lines().next().unwrap_or_default().to_owned())
        .map_err(|e| Failure::message(format!("Cannot read password file '{file}': {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &[&str]) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let line = line.iter().map(|s| (*s).to_owned()).collect();
        let code = run(line, &mut out, &mut err);
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (code, text(out), text(err))
    }

    #[test]
    fn the_version_is_all_there_is_to_say() {
        for option in ["--version", "-v", "-V", "-version", "-Version"] {
            assert_eq!(
                said(&[option]),
                (0, "7.0.20_Oxboxr1\n".into(), String::new())
            );
        }
    }

    /// Vagrant cuts at `_`, then at `r`; Packer's pattern is `^([.0-9]+)(?:_(?:RC|OSEr)[0-9]+)?`.
    #[test]
    fn tools_understand_the_version() {
        let (_, out, _) = said(&["--version"]);
        let vagrant = out.split('_').next().and_then(|v| v.split('r').next());
        assert_eq!(vagrant, Some("7.0.20"));
        let packer: String = out
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        assert_eq!(packer, "7.0.20");
    }

    #[test]
    fn unknown_commands_and_options_are_syntax_errors() {
        let (code, out, err) = said(&["frobnicate"]);
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(
            err.contains("\nVBoxManage: error: Invalid command 'frobnicate'\n"),
            "{err}"
        );
        assert!(err.ends_with("\nSee 'VBoxManage help'.\n"), "{err}");
        let (code, _, err) = said(&["startvm", "x", "--odd"]);
        assert_eq!(code, 2);
        assert!(err.contains("\nUsage:\n\n  VBoxManage startvm "), "{err}");
        let (code, _, err) = said(&["--frobnicate"]);
        assert_eq!(code, 2);
        assert!(err.contains("VBoxManage: error: Unknown option: --frobnicate\n"));
    }

    #[test]
    fn help_is_no_error() {
        for line in [&["help"][..], &[], &["--help"], &["-?"]] {
            let (code, out, err) = said(line);
            assert_eq!((code, err.as_str()), (0, ""), "{line:?}");
            assert!(out.contains("VBoxManage startvm"), "{line:?}");
        }
        for line in [&["startvm", "--help"][..], &["startvm", "x", "--help"]] {
            let (code, out, err) = said(line);
            assert_eq!((code, err.as_str()), (0, ""));
            assert!(out.contains("VBoxManage startvm"), "{out}");
        }
    }

    #[test]
    fn every_command_has_help() {
        for command in cmd::COMMANDS {
            let (code, out, err) = said(&["help", command.name]);
            assert_eq!((code, err.as_str()), (0, ""), "{}", command.name);
            let start = format!("{}Usage:\n\n  VBoxManage {}", version::LOGO, command.name);
            assert!(out.starts_with(&start), "{out}");
            let missing = out.contains("is not available in this version of Oxbox yet");
            assert_eq!(missing, command.run.is_none(), "{out}");
        }
        let (code, out, err) = said(&["help", "frobnicate"]);
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(
            err.contains("VBoxManage: error: Invalid command 'frobnicate'\n"),
            "{err}"
        );
    }

    #[test]
    fn a_command_without_arguments_shows_its_usage() {
        let (code, out, err) = said(&["startvm"]);
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains("VBoxManage startvm"), "{err}");
        assert!(!err.contains("error:"), "{err}");
    }

    #[test]
    fn commands_without_a_room_say_so() {
        let (code, out, err) = said(&["unattended", "x"]);
        assert_eq!((code, out.as_str()), (1, ""));
        assert_eq!(
            err,
            "VBoxManage: error: The command 'unattended' is not available in this version of Oxbox yet\n"
        );
    }

    /// All that is wrong with these can be told without the service.
    #[test]
    fn wrong_command_lines_exit_with_2() {
        for line in [
            &["list", "frobnicate"][..],
            &["createvm", "--colour", "red"],
            &["createvm", "--ostype", "Debian_64"],
            &["showvminfo", "--details"],
            &["startvm", "x", "--type"],
            &["startvm", "--type", "headless"],
            &["controlvm", "x"],
            &["controlvm", "x", "frobnicate"],
            &["modifyvm", "x", "--memory", "much"],
            &["modifyvm", "x", "--frobnicate", "1"],
            &["modifyvm", "x", "--nic37", "nat"],
            &["storagectl", "x"],
            &["storageattach", "x", "--port", "0"],
            &["createmedium", "disk", "--size", "10"],
            &["createmedium", "disk", "--filename", "x"],
            &["convertfromraw", "x"],
            &["clonemedium", "x"],
            &["closemedium", "disk"],
            &["setproperty", "machinefolder"],
            &["setproperty", "frobnicate", "x"],
            &["guestproperty", "frobnicate", "x"],
            &["snapshot", "x"],
            &["debugvm", "x"],
        ] {
            let (code, out, err) = said(line);
            assert_eq!((code, out.as_str()), (2, ""), "{line:?}: {err}");
            assert!(err.contains("VBoxManage: error: "), "{line:?}");
            let usage = format!("VBoxManage {}", line[0]);
            let see = format!("See 'VBoxManage help {}'.", line[0]);
            assert!(err.contains(&usage) || err.contains(&see), "{line:?}");
        }
    }
}
