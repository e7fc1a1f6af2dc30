//! What an import or export has made, gone again unless it came to its end.

use crate::state::Svc;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Removes everything that was noted here when it is dropped before [`Undo::keep`].
pub struct Undo {
    svc: Arc<Svc>,
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    media: Vec<Uuid>,
    machines: Vec<Uuid>,
    kept: bool,
}

impl Undo {
    pub fn new(svc: Arc<Svc>) -> Self {
        Self {
            svc,
            files: Vec::new(),
            folders: Vec::new(),
            media: Vec::new(),
            machines: Vec::new(),
            kept: false,
        }
    }

    /// Makes a folder and those above it that are not there yet.
    pub fn make_folder(&mut self, folder: &Path) -> api::Result<()> {
        let missing: Vec<PathBuf> = folder
            .ancestors()
            .take_while(|f| !f.exists())
            .map(Path::to_owned)
            .collect();
        // Outermost first, removed in the opposite order.
        self.folders.extend(missing.into_iter().rev());
        std::fs::create_dir_all(folder).map_err(|e| super::io_error("create", folder, &e))
    }

    /// A file that was not there before.
    pub fn file(&mut self, path: &Path) {
        self.files.push(path.to_owned());
    }

    pub fn medium(&mut self, id: Uuid) {
        self.media.push(id);
    }

    pub fn machine(&mut self, id: Uuid) {
        self.machines.push(id);
    }

    /// All is well: nothing is removed. The machines and the media.
    pub fn keep(mut self) -> (Vec<Uuid>, Vec<Uuid>) {
        self.kept = true;
        (
            std::mem::take(&mut self.machines),
            std::mem::take(&mut self.media),
        )
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (machines, media) = (&self.machines, &self.media);
        self.svc.with(|s| {
            for id in machines {
                if let Ok(entry) = s.machine(*id) {
                    self.files.push(entry.path.clone());
                    let mut previous = entry.path.clone().into_os_string();
                    previous.push("-prev");
                    self.files.push(previous.into());
                }
                s.machines.retain(|m| m.id != *id);
            }
            for id in media {
                s.media.remove(*id);
            }
            let known = |id: Uuid| machines.contains(&id);
            let registered = &s.global.settings().machines;
            if registered.iter().any(|m| known(m.uuid)) {
                let removed = s.global.change(|g| {
                    g.machines.retain(|m| !known(m.uuid));
                    Ok(())
                });
                if let Err(e) = removed {
                    tracing::warn!("a failed import stays registered: {e}");
                }
            }
        });
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
        for folder in self.folders.iter().rev() {
            // Somebody may have put something there.
            let _ = std::fs::remove_dir(folder);
        }
    }
}
