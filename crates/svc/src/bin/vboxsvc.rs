//! VBoxSVC: one per user and configuration, started by the first client.

use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let mut options = svc::Options {
        auto_shutdown: false,
        grace: Duration::from_secs(5),
    };
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--auto-shutdown" => options.auto_shutdown = true,
            "--version" | "-v" => {
                println!("{}r{}", svc::VERSION, svc::REVISION);
                return ExitCode::SUCCESS;
            }
            "--address" => {
                return match api::ipc::paths::runtime_folder() {
                    Ok(folder) => {
                        let socket = api::ipc::paths::service_socket(&folder);
                        println!("unix:path={}", socket.display());
                        ExitCode::SUCCESS
                    }
                    Err(e) => {
                        eprintln!("VBoxSVC: the socket folder: {e}");
                        ExitCode::FAILURE
                    }
                };
            }
            "--help" | "-h" => {
                println!(
                    "Usage: VBoxSVC [--auto-shutdown] | --address | --version\n\n\
                     Serves the machines of one user. Clients start it when they need it, with\n\
                     --auto-shutdown: it then ends a few seconds after the last of them.\n\
                     --address prints where, as a D-Bus address, and does nothing else.\n\
                     OXBOX_SVC_GRACE_MS sets how long it waits for another one."
                );
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!("VBoxSVC: unknown argument '{other}'; see --help");
                return ExitCode::from(2);
            }
        }
    }
    if let Some(grace) = std::env::var("OXBOX_SVC_GRACE_MS")
        .ok()
        .and_then(|g| g.parse().ok())
    {
        options.grace = Duration::from_millis(grace);
    }
    match svc::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Standard output is what a client that started us reads.
            println!("{e:#}");
            eprintln!("VBoxSVC: {e:#}");
            ExitCode::FAILURE
        }
    }
}
