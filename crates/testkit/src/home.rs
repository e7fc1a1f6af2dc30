//! A settings folder with its own service, and the processes that serve it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::surroundings::programs;

/// A temporary `VBOX_USER_HOME`. Dropping it ends every process that works for it.
pub struct Home {
    folder: TempDir,
    programs: PathBuf,
}

/// The processes that work for one home, by program name.
pub type Processes = Vec<(String, Pid)>;

impl Home {
    /// # Errors
    /// When the programs are not built or no folder can be made.
    pub fn new() -> Result<Home> {
        let programs = programs()?;
        let folder = tempfile::Builder::new()
            .prefix("oxbox-e2e-")
            .tempdir()
            .context("make a settings folder")?;
        Ok(Home { folder, programs })
    }

    /// The folder itself; machines lie in it too.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `VBoxManage ARGUMENTS`, ready to start.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("VBoxManage"));
        command
            .args(arguments)
            .env("VBOX_USER_HOME", self.path())
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Another program that is to find this home, and Oxbox's programs in `PATH`.
    pub fn other(&self, program: impl AsRef<OsStr>) -> Command {
        let mut folders = vec![self.programs.clone()];
        if let Some(path) = std::env::var_os("PATH") {
            folders.extend(std::env::split_paths(&path));
        }
        let mut command = Command::new(program);
        command
            .env("PATH", std::env::join_paths(folders).unwrap_or_default())
            .env("VBOX_USER_HOME", self.path())
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    /// Runs `VBoxManage ARGUMENTS` whatever comes of it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn try_manage(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments)
            .output()
            .with_context(|| format!("start VBoxManage {}", arguments.join(" ")))
    }

    /// Runs `VBoxManage ARGUMENTS` and returns its standard output.
    ///
    /// # Errors
    /// When it fails, with all it said.
    pub fn manage(&self, arguments: &[&str]) -> Result<String> {
        let done = self.try_manage(arguments)?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        if !done.status.success() {
            let errors = String::from_utf8_lossy(&done.stderr);
            bail!(
                "VBoxManage {} failed ({}):\n{text}{errors}",
                arguments.join(" "),
                done.status
            );
        }
        Ok(text)
    }

    /// Every living process that was started with this home as its `VBOX_USER_HOME`.
    pub fn processes(&self) -> Processes {
        let wanted = format!("VBOX_USER_HOME={}", self.path().display());
        let mut found = Processes::new();
        let Ok(entries) = fs::read_dir("/proc") else {
            return found;
        };
        for entry in entries.flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
                .and_then(Pid::from_raw)
            else {
                continue;
            };
            let Ok(environment) = fs::read(entry.path().join("environ")) else {
                continue;
            };
            if environment
                .split(|&byte| byte == 0)
                .any(|variable| variable == wanted.as_bytes())
                && let Ok(program) = fs::read_link(entry.path().join("exe"))
                && let Some(name) = program.file_name()
            {
                found.push((name.to_string_lossy().into_owned(), pid));
            }
        }
        found
    }

    /// The processes of one program, `VBoxSVC` for one.
    pub fn processes_of(&self, program: &str) -> Vec<Pid> {
        self.processes()
            .into_iter()
            .filter(|(name, _)| name == program)
            .map(|(_, pid)| pid)
            .collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for (_, pid) in self.processes() {
            // It may have ended by itself meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
