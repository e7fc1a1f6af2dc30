//! One machine, from its creation to its removal.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{Font, Home, Picture, Serial, eventually};

/// What a test's machine is made of. Everything else is VirtualBox's default.
#[derive(Default)]
pub struct Plan<'a> {
    pub os_type: &'a str,
    pub memory_mib: u32,
    /// Virtual processors; 0 counts as one.
    pub cpus: u32,
    /// A raw disk image, copied into a VDI of the machine's own.
    pub disk: Option<&'a Path>,
    pub dvd: Option<&'a Path>,
    pub floppy: Option<&'a Path>,
    /// The hardware engine may be chosen; without it the software engine is forced.
    pub hardware: bool,
}

/// A registered machine of a [`Home`].
pub struct Machine<'a> {
    home: &'a Home,
    name: String,
    serial: PathBuf,
}

impl<'a> Machine<'a> {
    /// Creates and registers the machine.
    ///
    /// # Errors
    /// When a command fails.
    pub fn create(home: &'a Home, name: &str, plan: &Plan<'_>) -> Result<Machine<'a>> {
        let folder = home.path().to_string_lossy().into_owned();
        let memory = plan.memory_mib.to_string();
        let cpus = plan.cpus.max(1).to_string();
        home.manage(&[
            "createvm",
            "--name",
            name,
            "--ostype",
            plan.os_type,
            "--register",
            "--basefolder",
            &folder,
        ])?;
        let machine = Machine::registered(home, name)?;
        machine.modify(&[
            "--memory",
            &memory,
            "--cpus",
            &cpus,
            "--hwvirtex",
            if plan.hardware { "on" } else { "off" },
        ])?;
        machine.modify(&[
            "--boot1", "floppy", "--boot2", "dvd", "--boot3", "disk", "--boot4", "none",
        ])?;
        if plan.disk.is_some() || plan.dvd.is_some() {
            home.manage(&[
                "storagectl",
                name,
                "--name",
                "IDE",
                "--add",
                "ide",
                "--controller",
                "PIIX4",
            ])?;
        }
        if let Some(raw) = plan.disk {
            let vdi = home
                .path()
                .join(format!("{name}.vdi"))
                .to_string_lossy()
                .into_owned();
            home.manage(&[
                "convertfromraw",
                &raw.to_string_lossy(),
                &vdi,
                "--format",
                "VDI",
            ])?;
            machine.attach("IDE", "0", "hdd", &vdi)?;
        }
        if let Some(image) = plan.dvd {
            machine.attach("IDE", "1", "dvddrive", &image.to_string_lossy())?;
        }
        if let Some(image) = plan.floppy {
            home.manage(&["storagectl", name, "--name", "Floppy", "--add", "floppy"])?;
            machine.attach("Floppy", "0", "fdd", &image.to_string_lossy())?;
        }
        Ok(machine)
    }

    /// A machine that is registered already; it gets a serial port of its own.
    ///
    /// # Errors
    /// When the command fails.
    pub fn registered(home: &'a Home, name: &str) -> Result<Machine<'a>> {
        let machine = Machine {
            home,
            name: name.to_owned(),
            serial: home.path().join(format!("{name}.serial")),
        };
        let socket = machine.serial.to_string_lossy().into_owned();
        machine.modify(&["--uart1", "0x3F8", "4", "--uartmode1", "server", &socket])?;
        Ok(machine)
    }

    /// `VBoxManage modifyvm` with `options`.
    ///
    /// # Errors
    /// What VBoxManage says.
    pub fn modify(&self, options: &[&str]) -> Result<String> {
        self.home
            .manage(&[&["modifyvm", self.name.as_str()], options].concat())
    }

    fn attach(&self, controller: &str, port: &str, kind: &str, medium: &str) -> Result<String> {
        let place = [
            "--storagectl",
            controller,
            "--port",
            port,
            "--device",
            "0",
            "--type",
            kind,
            "--medium",
            medium,
        ];
        self.home
            .manage(&[&["storageattach", self.name.as_str()], &place[..]].concat())
    }

    /// Starts it headless and connects to its serial port.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&self) -> Result<Serial> {
        self.home
            .manage(&["startvm", &self.name, "--type", "headless"])?;
        Serial::connect(&self.serial)
    }

    /// `VBoxManage controlvm NAME ARGUMENTS`.
    ///
    /// # Errors
    /// When it fails.
    pub fn control(&self, arguments: &[&str]) -> Result<String> {
        self.home
            .manage(&[&["controlvm", self.name.as_str()], arguments].concat())
    }

    /// The state by its short name, as `showvminfo --machinereadable` gives it.
    ///
    /// # Errors
    /// When the command fails or prints no state.
    pub fn state(&self) -> Result<String> {
        let info = self
            .home
            .manage(&["showvminfo", &self.name, "--machinereadable"])?;
        let state = info
            .lines()
            .find_map(|line| line.strip_prefix("VMState=\"")?.strip_suffix('"'));
        match state {
            Some(state) => Ok(state.to_owned()),
            None => bail!("no VMState in:\n{info}"),
        }
    }

    /// # Errors
    /// When the machine is not in `state` within `limit`.
    pub fn wait_state(&self, state: &str, limit: Duration) -> Result<()> {
        let mut last = String::new();
        eventually(&format!("state {state}"), limit, || {
            last = self.state()?;
            Ok((last == state).then_some(()))
        })
        .map_err(|error| error.context(format!("the machine is {last}")))
    }

    /// # Errors
    /// When no screenshot can be taken.
    pub fn screen(&self) -> Result<Picture> {
        let path = self.picture_path();
        self.control(&["screenshotpng", &path.to_string_lossy()])?;
        Picture::read(&path)
    }

    /// Waits until the text screen shows `wanted`; returns the whole text.
    ///
    /// # Errors
    /// After `limit`, with what it showed last.
    pub fn wait_screen(&self, wanted: &str, limit: Duration) -> Result<String> {
        let font = Font::load()?;
        let start = Instant::now();
        loop {
            let text = self.screen()?.text(&font);
            if text.contains(wanted) {
                self.keep_picture(wanted);
                return Ok(text);
            }
            if start.elapsed() > limit {
                self.keep_picture("failed");
                bail!("no {wanted:?} on the screen within {limit:?}; it showed:\n{text}");
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Copies the last screenshot into the folder `OXBOX_SHOTS`, when that is set.
    pub fn keep_picture(&self, title: &str) {
        if let Some(folder) = std::env::var_os("OXBOX_SHOTS") {
            let title = title.replace(|character: char| !character.is_ascii_alphanumeric(), "-");
            // A picture for people: the test's verdict does not depend on it.
            let _ = std::fs::create_dir_all(&folder);
            let _ = std::fs::copy(
                self.picture_path(),
                Path::new(&folder).join(format!("{}-{title}.png", self.name)),
            );
        }
    }

    fn picture_path(&self) -> PathBuf {
        self.home.path().join(format!("{}.png", self.name))
    }

    /// The machine's release log.
    ///
    /// # Errors
    /// When it cannot be shown.
    pub fn log(&self) -> Result<String> {
        self.home.manage(&["showvminfo", &self.name, "--log", "0"])
    }
}
