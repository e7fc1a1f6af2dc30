//! Saving a machine's settings, and taking machines out of the registry.

use super::MachineObject;
use super::storage::adopt_media;
use crate::conv::{file_error, invalid};
use crate::media::{attached, snapshots};
use crate::medium;
use crate::session;
use crate::state::{State, is_running};
use api::progress::Progress;
use api::types::*;
use api::{Error, ObjRef, Val, Wire};
use settings::model::Machine;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

impl MachineObject {
    /// See [`State::accessible_now`].
    pub(super) fn accessible_now(&self) -> api::Result<bool> {
        self.0.svc.with(|state| state.accessible_now(self.0.id))
    }

    pub(super) fn rename(&self, name: String) -> api::Result<()> {
        check_name(&name)?;
        let id = self.0.id;
        self.0.svc.with(|state| name_is_free(state, &name, id))?;
        self.set(|m| {
            m.name = name;
            Ok(())
        })
    }

    /// `saveSettings`.
    pub(super) fn save(&self) -> api::Result<()> {
        let id = self.0.id;
        self.0.svc.with(|state| {
            let entry = state.machine(id)?;
            entry.settings()?;
            if entry.registered && !self.0.mutable {
                return Err(crate::view::immutable(entry.state));
            }
            let mut new = match (&entry.pending, self.0.mutable) {
                (Some(pending), true) => pending.clone(),
                _ => entry.settings()?.clone(),
            };
            name_is_free(state, &new.name, id)?;
            let running = is_running(state.machine(id)?.state);
            if !running {
                follow_name(state, id, &new)?;
            }
            let keeper = match &state.machine(id)?.contents {
                Ok(file) if !file.can_keep_media() => Uuid::nil(),
                _ => id,
            };
            adopt_media(&mut state.media, keeper, &new);
            save_global_media(state)?;
            let folder = state.machine(id)?.folder().to_owned();
            new.media = state.media.registry(id, &folder);
            new.current_state_modified = true;
            let entry = state.machine_mut(id)?;
            let mut stored = new.clone();
            super::info::drop_transient(&mut stored.hardware.guest_properties);
            let old = std::mem::replace(entry.settings_mut()?, stored);
            if let Err(e) = entry.save() {
                *entry.settings_mut()? = old;
                return Err(e);
            }
            entry.unsaved = false;
            if self.0.mutable {
                entry.pending = Some(new);
            }
            if entry.registered {
                register_path(state, id)
            } else {
                Ok(())
            }
        })?;
        self.0.svc.fire_data(id);
        Ok(())
    }

    pub(super) fn discard(&self) -> api::Result<()> {
        self.0.entry(|e| {
            if self.0.mutable {
                e.pending = Some(e.settings()?.clone());
            } else if !e.registered {
                // What was never saved has nothing to go back to.
                if let Ok(file) = crate::store::MachineFile::open(&e.path) {
                    e.contents = Ok(file);
                }
                e.unsaved = false;
            }
            Ok(())
        })
    }

    /// `unregister`.
    pub(super) fn take_out(&self, mode: CleanupMode) -> api::Result<Vec<ObjRef>> {
        let id = self.0.id;
        session::let_go(&self.0.svc, id);
        let media = self.0.svc.with(|state| {
            let entry = state.machine(id)?;
            if !entry.registered {
                let text = format!("The machine '{}' is not registered", entry.name());
                return Err(Error::new(ResultCode::VBOX_E_INVALID_OBJECT_STATE, text));
            }
            if entry.session_state != SessionState::Unlocked {
                return Err(Error::new(
                    ResultCode::VBOX_E_INVALID_OBJECT_STATE,
                    format!(
                        "Cannot unregister the machine '{}' while it is locked",
                        entry.name()
                    ),
                ));
            }
            let Ok(settings) = entry.settings() else {
                remove_registration(state, id)?;
                state.machines.retain(|m| m.id != id);
                return Ok(Vec::new());
            };
            let name = settings.name.clone();
            let has_snapshots = settings.snapshot.is_some();
            let own = attached(&settings.hardware).collect::<BTreeSet<Uuid>>();
            let in_snapshots = snapshots(settings);
            let mut used: BTreeSet<Uuid> = own;
            used.extend(in_snapshots.iter().flat_map(|s| attached(&s.hardware)));
            if mode == CleanupMode::UnregisterOnly && (has_snapshots || !used.is_empty()) {
                let what = if has_snapshots {
                    "snapshots"
                } else {
                    "media attached to it"
                };
                return Err(Error::new(
                    ResultCode::VBOX_E_INVALID_OBJECT_STATE,
                    format!("Cannot unregister the machine '{name}' because it has {what}"),
                ));
            }
            // What other machines use in any state, and what that is stacked on.
            let mut others: BTreeSet<Uuid> = BTreeSet::new();
            for other in state.machines.iter().filter(|m| m.id != id) {
                let Ok(settings) = other.settings() else {
                    continue;
                };
                others.extend(attached(&settings.hardware));
                for snapshot in snapshots(settings) {
                    others.extend(attached(&snapshot.hardware));
                }
            }
            let tops: Vec<Uuid> = others.iter().copied().collect();
            others.extend(tops.into_iter().flat_map(|t| state.media.chain(t)));
            let clone = state
                .media
                .all()
                .find(|m| m.registry == Some(id) && m.parent.is_some() && others.contains(&m.id));
            if let Some(clone) = clone {
                let text = format!(
                    "Cannot unregister the machine '{name}' because a linked clone of it uses '{}'",
                    clone.location.display()
                );
                return Err(Error::new(ResultCode::VBOX_E_OBJECT_IN_USE, text));
            }
            let mut with_parents = Vec::new();
            for id in &used {
                for link in state.media.chain(*id) {
                    if !with_parents.contains(&link) {
                        with_parents.push(link);
                    }
                }
            }
            remove_registration(state, id)?;
            let entry = state.machine_mut(id)?;
            entry.registered = false;
            if let Ok(settings) = entry.settings_mut()
                && mode != CleanupMode::UnregisterOnly
            {
                for device in settings
                    .hardware
                    .storage
                    .iter_mut()
                    .flat_map(|c| &mut c.devices)
                {
                    device.medium = settings::model::AttachedMedium::None;
                }
            }
            let wanted = |kind: DeviceType| match mode {
                CleanupMode::Full => true,
                CleanupMode::DetachAllReturnHardDisksOnly => kind == DeviceType::HardDisk,
                CleanupMode::DetachAllReturnHardDisksAndVMRemovable => true,
                _ => false,
            };
            let mut returned = Vec::new();
            for link in with_parents {
                let Ok(medium) = state.media.get(link) else {
                    continue;
                };
                if wanted(medium.kind) && !others.contains(&link) {
                    returned.push(link);
                }
            }
            // Media of this machine's registry that nobody gets are forgotten with it.
            let keep: BTreeSet<Uuid> = returned.iter().copied().chain(others).collect();
            state.media.forget_owner(id, &keep);
            for link in &returned {
                // A linked clone's disk is in the file of the machine it was made of.
                if let Ok(medium) = state.media.get_mut(*link)
                    && medium.registry == Some(id)
                {
                    medium.registry = None;
                }
            }
            Ok(returned)
        })?;
        self.0.svc.fire(
            VBoxEventType::OnMachineRegistered,
            vec![
                ("machineId", id.to_string().into_val()),
                ("registered", Val::Bool(false)),
            ],
        );
        Ok(media.into_iter().map(medium::path).collect())
    }

    /// `deleteConfig`: the settings, logs, saved state and the media given, then the folder.
    pub(super) fn delete_files(&self, media: &[ObjRef]) -> api::Result<Arc<Progress>> {
        let id = self.0.id;
        let media: Vec<Uuid> = media.iter().filter_map(medium::id_of).collect();
        let (path, name) = self.0.svc.with(|state| {
            let entry = state.machine(id)?;
            if entry.registered {
                let text = "Cannot delete settings of a registered machine";
                return Err(Error::new(ResultCode::VBOX_E_INVALID_VM_STATE, text));
            }
            Ok((entry.path.clone(), entry.name()))
        })?;
        let svc = self.0.svc.clone();
        let progress = Progress::spawn(format!("Deleting '{name}'"), false, move |progress| {
            let count = u32::try_from(media.len() + 1).unwrap_or(u32::MAX);
            for (done, medium) in media.iter().enumerate() {
                progress.set_percent(u32::try_from(done).unwrap_or(0) * 100 / count);
                medium::delete(&svc, *medium)?;
            }
            svc.with(|state| state.machines.retain(|m| m.id != id));
            remove_machine_files(&path)
        });
        self.0.svc.track(&progress);
        Ok(progress)
    }
}

/// The settings file with its copies, the logs, and the folders if they are empty then.
fn remove_machine_files(path: &Path) -> api::Result<()> {
    let gone = |path: &Path| match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file_error(format!(
            "Could not delete '{}': {e}",
            path.display()
        ))),
        _ => Ok(()),
    };
    gone(path)?;
    for suffix in ["-prev", "-tmp"] {
        gone(&iprt::file::with_suffix(path, suffix))?;
    }
    gone(&path.with_extension("nvram"))?;
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    let logs = folder.join("Logs");
    for entry in std::fs::read_dir(&logs).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("VBox") {
            gone(&entry.path())?;
        }
    }
    // Whatever else is there is not ours to delete.
    for folder in [&logs, &folder.join("Snapshots"), folder] {
        let _ = std::fs::remove_dir(folder);
    }
    Ok(())
}

/// A name that can be a file name.
pub fn check_name(name: &str) -> api::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.len() > 200 {
        return Err(invalid(format!("Invalid machine name '{name}'")));
    }
    if name.chars().any(|c| c == '/' || c.is_control()) {
        let text = format!(
            "The machine name '{}' holds characters that file names cannot",
            name.escape_debug()
        );
        return Err(invalid(text));
    }
    Ok(())
}

/// No other registered machine has the name.
pub fn name_is_free(state: &State, name: &str, own: Uuid) -> api::Result<()> {
    let mut others = state
        .machines
        .iter()
        .filter(|m| m.registered && m.id != own);
    match others.find(|m| m.settings().is_ok_and(|s| s.name == name)) {
        Some(other) => Err(Error::new(
            ResultCode::VBOX_E_OBJECT_IN_USE,
            format!(
                "A machine named '{name}' already exists: '{}'",
                other.path.display()
            ),
        )),
        None => Ok(()),
    }
}

/// A renamed machine's folder and file follow its name, where they did so far.
fn follow_name(state: &mut State, id: Uuid, new: &Machine) -> api::Result<()> {
    let entry = state.machine(id)?;
    let old_name = entry.settings()?.name.clone();
    if old_name == new.name || !new.name_sync || !entry.path.exists() {
        return Ok(());
    }
    let old_file = entry.path.clone();
    let follows = |path: &Path, name: &str| path.file_stem().is_some_and(|s| s == name);
    if !follows(&old_file, &old_name) {
        return Ok(());
    }
    let old_folder = entry.folder().to_owned();
    let mut folder = old_folder.clone();
    let failed = |e: std::io::Error, to: &Path| {
        file_error(format!(
            "Could not rename '{}' to '{}': {e}",
            old_file.display(),
            to.display()
        ))
    };
    if old_folder
        .file_name()
        .is_some_and(|n| n == old_name.as_str())
    {
        folder.set_file_name(&new.name);
        if folder.exists() {
            return Err(failed(std::io::ErrorKind::AlreadyExists.into(), &folder));
        }
        std::fs::rename(&old_folder, &folder).map_err(|e| failed(e, &folder))?;
    }
    // Machines before 4.0 have `.xml`.
    let extension = old_file
        .extension()
        .map_or("vbox".into(), |e| e.to_string_lossy());
    let name = format!("{}.{extension}", new.name);
    let moved = |base: &Path| base.join(old_file.file_name().unwrap_or_default());
    let file = folder.join(&name);
    if let Err(e) = std::fs::rename(moved(&folder), &file) {
        let _ = std::fs::rename(&folder, &old_folder);
        return Err(failed(e, &file));
    }
    state.media.moved(&old_folder, &folder);
    let entry = state.machine_mut(id)?;
    entry.path.clone_from(&file);
    if let Ok(contents) = &mut entry.contents {
        contents.set_path(file);
    }
    Ok(())
}

/// Writes the media that `VirtualBox.xml` keeps, if they are others than it says.
pub(super) fn save_global_media(state: &mut State) -> api::Result<()> {
    let folder = state.global.folder().to_owned();
    let registry = state.media.registry(Uuid::nil(), &folder);
    if state.global.settings().media == registry {
        return Ok(());
    }
    state.global.change(|g| {
        g.media = registry;
        Ok(())
    })
}

/// Enters a machine and its present path into `VirtualBox.xml`.
pub fn register_path(state: &mut State, id: Uuid) -> api::Result<()> {
    let path: PathBuf = state.machine(id)?.path.clone();
    let src = path
        .to_str()
        .ok_or_else(|| file_error(format!("'{}' is not UTF-8", path.display())))?
        .to_owned();
    let known = state
        .global
        .settings()
        .machines
        .iter()
        .find(|m| m.uuid == id);
    if known.is_some_and(|m| m.src == src) {
        return Ok(());
    }
    state.global.change(|global| {
        match global.machines.iter_mut().find(|m| m.uuid == id) {
            // A relative path that leads there stays as the user's file has it.
            Some(known) if path.ends_with(&known.src) => {}
            Some(known) => known.src = src,
            None => global
                .machines
                .push(settings::model::MachineEntry { uuid: id, src }),
        }
        Ok(())
    })
}

fn remove_registration(state: &mut State, id: Uuid) -> api::Result<()> {
    state.global.change(|global| {
        global.machines.retain(|m| m.uuid != id);
        Ok(())
    })
}
