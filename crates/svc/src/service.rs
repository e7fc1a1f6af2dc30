//! The service's life: one per configuration, ready, serving, and gone when nobody needs it.

use crate::forward;
use crate::space::Space;
use crate::state::Svc;
use anyhow::{Context, Result, bail};
use api::ipc::{Server, paths};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How the service runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// End when nobody has been connected for `grace`.
    pub auto_shutdown: bool,
    pub grace: Duration,
}

/// Serves until it is time to end. Says `ready` on standard output once clients can connect.
///
/// # Errors
/// When another service runs for this configuration, or `VirtualBox.xml` cannot be read.
pub fn run(options: &Options) -> Result<()> {
    let home = std::path::absolute(iprt::path::config_dir()?)?;
    let runtime = paths::runtime_folder().context("the socket folder")?;
    let _lock = only_one(&runtime)?;
    std::fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
    start_log(&home);
    // The client's folder must not stay busy because of us.
    std::env::set_current_dir("/")?;
    let svc = Svc::new(home, runtime.clone())?;
    // Before anybody can ask: machines that went on without a service.
    forward::find_running(&svc);
    let socket = paths::service_socket(&runtime);
    let listen = || {
        Server::listen(&socket, Arc::new(Space(svc.clone())))
            .with_context(|| format!("cannot listen at {}", socket.display()))
    };
    let mut server = listen()?;
    let mut out = std::io::stdout();
    // Whoever started us may be gone.
    let _ = out.write_all(b"ready\n").and_then(|()| out.flush());
    detach_output();
    tracing::info!("VBoxSVC {} serves {}", crate::VERSION, socket.display());
    loop {
        svc.wait_until_idle(options.grace);
        if !options.auto_shutdown || forward::machines_run(&svc) {
            continue;
        }
        // From here on nobody new finds us. Whoever came at the last moment is served on; a client
        // that was not accepted any more tries again.
        server.stop();
        std::thread::sleep(Duration::from_millis(50));
        if svc.is_idle() {
            tracing::info!("nobody is connected; ending");
            return Ok(());
        }
        server = listen()?;
    }
}

/// The right to be the service. A predecessor that is just ending is waited for.
fn only_one(runtime: &std::path::Path) -> Result<File> {
    let path = runtime.join("svc.lock");
    let lock = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let start = Instant::now();
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(rustix::io::Errno::WOULDBLOCK) if start.elapsed() < Duration::from_secs(10) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                bail!("another VBoxSVC serves this configuration already")
            }
            Err(e) => return Err(e).context("cannot lock svc.lock"),
        }
    }
}

/// `VBoxSVC.log` beside `VirtualBox.xml`. A service without a log still serves.
fn start_log(home: &std::path::Path) {
    match iprt::log::ReleaseLog::create(&home.join("VBoxSVC.log"), 3) {
        Ok(log) => {
            let subscriber = iprt::log::LogSubscriber::new(Arc::new(log), tracing::Level::INFO);
            let _ = tracing::subscriber::set_global_default(subscriber);
        }
        Err(e) => eprintln!("VBoxSVC: no log: {e}"),
    }
}

/// The client that started us reads standard output to its end.
fn detach_output() {
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
