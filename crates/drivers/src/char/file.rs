//! Output into a file.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pdm::driver::{CharDriver, CharInput};

use super::Error;

/// Writes what is sent to a file. Nothing ever arrives.
pub struct FileDriver {
    file: File,
    path: PathBuf,
    /// A failure was logged; the next one is only logged after a success.
    failed: bool,
}

impl FileDriver {
    /// Creates or empties the file.
    ///
    /// # Errors
    /// [`Error::Host`] when the host refuses.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let file = File::create(path).map_err(|e| Error::host("create", path.display(), e))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            failed: false,
        })
    }
}

impl CharDriver for FileDriver {
    fn send(&mut self, data: &[u8]) -> usize {
        match self.file.write(data) {
            Ok(n) => {
                self.failed = false;
                n
            }
            // A full disk holds the port back until there is room; anything else loses the bytes.
            Err(e) => {
                if !self.failed {
                    tracing::warn!(path = %self.path.display(), error = %e, "serial output file");
                    self.failed = true;
                }
                match e.kind() {
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::Interrupted => 0,
                    _ => data.len(),
                }
            }
        }
    }

    fn start(&mut self, _: Arc<dyn CharInput>) {}
}
