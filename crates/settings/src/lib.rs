//! Settings: the machine files (`NAME.vbox`) and the user's `VirtualBox.xml`.

//!
//! [`MachineFile::load`] and [`GlobalFile::load`] give the content as plain data ([`model`]), to be
//! changed in place and saved. What the data does not model survives in the file.
//!
//! `dom` is the XML tree, `codec` the one description of every setting, `merge` brings changes into
//! the tree of an existing file, `shape` turns the oldest and newest files' layout into the one
//! `codec` describes, `file` loads and saves, [`version`] has the format's history.

mod codec;
mod dom;
mod file;
mod merge;
pub mod model;
mod shape;
mod value;
pub mod version;

pub use file::{Error, GlobalFile, MachineFile, SettingsFile};
pub use version::Version;

use std::path::{Path, PathBuf};

/// A stored path made absolute: relative ones are below `folder`, the folder of the settings file.
pub fn resolve_path(stored: &str, folder: &Path) -> PathBuf {
    iprt::path::absolute_from(Path::new(stored), folder)
}

/// How a path is stored: relative if it is below `folder`, else as it is. None if it is not UTF-8,
/// which XML cannot hold.
pub fn store_path(path: &Path, folder: &Path) -> Option<String> {
    iprt::path::relative_to(path, folder)
        .to_str()
        .map(str::to_owned)
}
