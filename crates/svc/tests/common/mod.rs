//! A service of its own for each test, and processes that play clients and VMs: this test program
//! again, told by the environment which part to play.

// Each test program uses its part of this.
#![allow(dead_code)]

use api::connect::Client;
use api::ipc::{Peer, paths};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Which part a process plays; see `role` in the tests.
pub const ROLE: &str = "OXBOX_TEST_ROLE";

pub struct Service {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Service {
    /// Folders and executables, but no process yet.
    pub fn prepare() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let bin = dir.path().join("bin");
        std::fs::create_dir_all(dir.path().join("home")).expect("home");
        std::fs::create_dir(&bin).expect("bin");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_VBoxSVC"), bin.join("VBoxSVC"))
            .expect("link");
        let this = std::env::current_exe().expect("this program");
        let script = format!(
            "#!/bin/sh\n{ROLE}=vm:$4 exec '{}' --exact role --nocapture >&2\n",
            this.display()
        );
        let headless = bin.join("VBoxHeadless");
        std::fs::write(&headless, script).expect("script");
        std::fs::set_permissions(&headless, std::fs::Permissions::from_mode(0o755)).expect("mode");
        Self { dir, child: None }
    }

    pub fn start() -> Self {
        let mut service = Self::prepare();
        service.run();
        service
    }

    /// Starts the process and waits until it is ready.
    pub fn run(&mut self) {
        let mut child = self.command(env!("CARGO_BIN_EXE_VBoxSVC"));
        let mut child = child
            .stdout(Stdio::piped())
            .spawn()
            .expect("VBoxSVC starts");
        let mut said = String::new();
        let out = child.stdout.take().expect("pipe");
        std::io::BufReader::new(out)
            .read_to_string(&mut said)
            .expect("its word");
        assert_eq!(said.trim(), "ready");
        self.child = Some(child);
    }

    /// A process in this service's environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("VBOX_USER_HOME", self.home())
            .env("HOME", self.dir.path())
            .env("VBOX_APP_HOME", self.dir.path().join("bin"))
            .env("OXBOX_SVC_GRACE_MS", "300")
            .stdin(Stdio::null());
        command
    }

    /// This program again, playing a part.
    pub fn player(&self, role: &str) -> Command {
        let this = std::env::current_exe().expect("this program");
        let mut command = self.command(this.to_str().expect("UTF-8"));
        command
            .args(["--exact", "role", "--nocapture"])
            .env(ROLE, role);
        command
    }

    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    pub fn path(&self, name: &str) -> String {
        self.dir
            .path()
            .join(name)
            .to_str()
            .expect("UTF-8")
            .to_owned()
    }

    pub fn runtime(&self) -> PathBuf {
        paths::runtime_folder_of(&self.home()).expect("socket folder")
    }

    pub fn try_client(&self) -> Option<Client> {
        let stream = UnixStream::connect(paths::service_socket(&self.runtime())).ok()?;
        Peer::connect(stream, None).ok().map(Client::from_peer)
    }

    pub fn client(&self) -> Client {
        self.try_client().expect("the service answers")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(self.runtime());
    }
}

/// Waits for something that must come true; long, because machines that test may be slow.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never happened: {what}");
}
