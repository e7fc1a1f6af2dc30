//! Settings files as the service uses them: errors become result codes, and a save that failed
//! leaves what is in memory as it was.

use crate::conv::file_error;
use api::{Error, ResultCode};
use settings::model::{Global, Machine};
use std::path::{Path, PathBuf};

/// A machine's settings file.
#[derive(Debug)]
pub struct MachineFile(settings::MachineFile);

impl MachineFile {
    /// A new file, written by the first [`MachineFile::save`].
    pub fn create(path: PathBuf, machine: Machine) -> Self {
        Self(settings::MachineFile::create(path, machine))
    }

    /// # Errors
    /// Why the machine is inaccessible.
    pub fn open(path: &Path) -> api::Result<Self> {
        settings::MachineFile::load(path)
            .map(Self)
            .map_err(|e| load_error(&e))
    }

    pub fn machine(&self) -> &Machine {
        &self.0.content
    }

    pub fn machine_mut(&mut self) -> &mut Machine {
        &mut self.0.content
    }

    /// Whether the file has a place for media. Those of machines before 4.0 are all in
    /// `VirtualBox.xml`, and stay there as long as the file stays what it is.
    pub fn can_keep_media(&self) -> bool {
        self.0
            .version_on_disk()
            .is_none_or(|v| v >= settings::Version::V1_11)
    }

    /// # Errors
    /// `VBOX_E_FILE_ERROR`.
    pub fn save(&mut self) -> api::Result<()> {
        let folder = self.0.folder();
        std::fs::create_dir_all(folder)
            .map_err(|e| file_error(format!("Could not create '{}': {e}", folder.display())))?;
        self.0.save().map_err(|e| save_error(&e))
    }

    /// The file was moved.
    pub fn set_path(&mut self, path: PathBuf) {
        self.0.set_path(path);
    }
}

/// `VirtualBox.xml`.
#[derive(Debug)]
pub struct GlobalFile(settings::GlobalFile);

impl GlobalFile {
    /// Opens it, or makes it for a new user.
    ///
    /// # Errors
    /// When it cannot be read: nothing is ever written over it then.
    pub fn open(home: &Path) -> api::Result<Self> {
        let path = home.join("VirtualBox.xml");
        if path.exists() {
            return settings::GlobalFile::load(path)
                .map(Self)
                .map_err(|e| load_error(&e));
        }
        std::fs::create_dir_all(home)
            .map_err(|e| file_error(format!("Could not create '{}': {e}", home.display())))?;
        let mut file = Self(settings::GlobalFile::create(path, Global::default()));
        file.save()?;
        Ok(file)
    }

    pub fn settings(&self) -> &Global {
        &self.0.content
    }

    /// The folder it is in.
    pub fn folder(&self) -> &Path {
        self.0.folder()
    }

    /// Changes the settings and saves them, or leaves both alone.
    ///
    /// # Errors
    /// Those of `f`, and `VBOX_E_FILE_ERROR`.
    pub fn change<R>(&mut self, f: impl FnOnce(&mut Global) -> api::Result<R>) -> api::Result<R> {
        let before = self.0.content.clone();
        let result = f(&mut self.0.content).and_then(|r| self.save().map(|()| r));
        if result.is_err() {
            self.0.content = before;
        }
        result
    }

    fn save(&mut self) -> api::Result<()> {
        self.0.save().map_err(|e| save_error(&e))
    }
}

fn load_error(error: &settings::Error) -> Error {
    match error {
        settings::Error::File(e) if e.io_kind() == Some(std::io::ErrorKind::NotFound) => {
            let text =
                format!("Runtime error opening the settings file: {e} (VERR_FILE_NOT_FOUND)");
            Error::new(ResultCode::VBOX_E_FILE_ERROR, text)
        }
        settings::Error::File(e) => file_error(e),
        e => Error::new(ResultCode::VBOX_E_XML_ERROR, e.to_string()),
    }
}

fn save_error(error: &settings::Error) -> Error {
    file_error(format!("Could not save the settings: {error}"))
}
