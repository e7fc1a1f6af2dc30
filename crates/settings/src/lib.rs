//! Settings: the machine files (`NAME.vbox`) and the user's `VirtualBox.xml`.

pub mod model;
mod value;
pub mod version;

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
