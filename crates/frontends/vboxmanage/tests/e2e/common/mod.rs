//! A settings folder with a service of its own, and a VM process that this test program plays.

pub mod vm;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Tells this program, started as `VBoxHeadless`, which machine to play.
pub const ROLE: &str = "OXBOX_TEST_ROLE";

/// The service, built from the present sources. `./test` has built everything before.
fn service() -> &'static Path {
    static SERVICE: OnceLock<PathBuf> = OnceLock::new();
    SERVICE.get_or_init(|| {
        let manage = Path::new(env!("CARGO_BIN_EXE_VBoxManage"));
        let program = manage.with_file_name("VBoxSVC");
        if std::env::var_os("OXBOX_E2E").is_none() || !program.exists() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "-p", "svc", "--bin", "VBoxSVC"]);
            if manage.parent().is_some_and(|p| p.ends_with("release")) {
                build.arg("--release");
            }
            let built = build.status().expect("cargo runs");
            assert!(
                built.success() || program.exists(),
                "VBoxSVC does not build"
            );
        }
        program
    })
}

pub struct Home {
    folder: tempfile::TempDir,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Home {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).expect("bin");
        std::fs::create_dir(folder.path().join("home")).expect("home");
        symlink(service(), bin.join("VBoxSVC")).expect("link");
        let this = std::env::current_exe().expect("this program");
        // Arguments as the service gives them: --comment NAME --startvm UUID ...
        let script = format!(
            "#!/bin/sh\n{ROLE}=$4 exec '{}' --exact role --nocapture >&2\n",
            this.display()
        );
        let headless = bin.join("VBoxHeadless");
        std::fs::write(&headless, script).expect("script");
        std::fs::set_permissions(&headless, std::fs::Permissions::from_mode(0o755)).expect("mode");
        Self { folder }
    }

    pub fn path(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.to_str().expect("UTF-8").to_owned()
    }

    pub fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_VBoxManage"));
        command
            .args(line)
            .env("VBOX_USER_HOME", self.folder.path().join("home"))
            .env("HOME", self.folder.path())
            .env("VBOX_APP_HOME", self.folder.path().join("bin"))
            .env("OXBOX_SVC_GRACE_MS", "500")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, line: &[&str]) -> Said {
        said(self.command(line).output().expect("VBoxManage runs"))
    }

    /// Waits until the service, which nobody uses any more, has ended.
    pub fn wait_for_service_end(&self) {
        let home = self.folder.path().join("home");
        let runtime = api::ipc::paths::runtime_folder_of(&home).expect("socket folder");
        let socket = api::ipc::paths::service_socket(&runtime);
        for _ in 0..1000 {
            if !socket.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
        panic!("the service never ends");
    }

    /// Standard output of a command that must succeed, and must not look like an error to Vagrant.
    pub fn ok(&self, line: &[&str]) -> String {
        let said = self.run(line);
        assert_eq!(said.code, 0, "{line:?}: {said:?}");
        assert!(
            !said.err.contains("VBoxManage: error:"),
            "{line:?}: {said:?}"
        );
        said.out
    }

    /// Standard error of a command that must fail, and say so as VirtualBox does.
    pub fn fails(&self, line: &[&str]) -> String {
        let said = self.run(line);
        assert_eq!(said.code, 1, "{line:?}: {said:?}");
        assert!(
            said.err.contains("VBoxManage: error: "),
            "{line:?}: {said:?}"
        );
        said.err
    }

    /// `showvminfo --machinereadable`: the values of a key, in order.
    pub fn values(&self, machine: &str, key: &str) -> Vec<String> {
        let info = self.ok(&["showvminfo", machine, "--machinereadable"]);
        let plain = info
            .lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(k, _)| k.trim_matches('"') == key);
        plain.map(|(_, v)| v.trim_matches('"').to_owned()).collect()
    }

    pub fn value(&self, machine: &str, key: &str) -> String {
        self.values(machine, key).join(",")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // The service ends by itself; its sockets lie elsewhere.
        let home = self.folder.path().join("home");
        if let Ok(runtime) = api::ipc::paths::runtime_folder_of(&home) {
            let _ = std::fs::remove_dir_all(runtime);
        }
    }
}

pub fn said(output: Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Said {
        code: output.status.code().expect("an exit code"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}
