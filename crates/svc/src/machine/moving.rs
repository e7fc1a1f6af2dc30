//! `IMachine::moveTo`: a machine's files go to another folder, and its settings say so.
//!
//! What moves: the settings file with its copies, firmware variables, logs, saved states, and the
//! images that lie in the machine's folder, or are this machine's alone wherever they lie. What else
//! is in the folder is not the machine's and stays. Until the registry is written everything can be
//! put back, and is when anything fails.

use super::MachineObject;
use super::locking::{register_path, save_global_media};
use super::snapshots::commit;
use crate::conv::{file_error, invalid};
use crate::media::{attached, must_be_free, snapshots};
use crate::medium;
use crate::state::{State, Svc, is_running};
use crate::view::immutable;
use api::progress::Progress;
use api::types::*;
use api::{Error, Val};
use settings::model::{Machine, Snapshot};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// What goes where.
struct Plan {
    id: Uuid,
    /// The machine's folder.
    from: PathBuf,
    to: PathBuf,
    /// The settings file.
    file: PathBuf,
    new_file: PathBuf,
    moves: Vec<(PathBuf, PathBuf)>,
    /// Where each image was, and where it is then.
    images: Vec<(Uuid, PathBuf, PathBuf)>,
    old: Machine,
}

impl MachineObject {
    pub(super) fn move_into(&self, folder: &str, kind: &str) -> api::Result<Arc<Progress>> {
        if !matches!(kind, "" | "basic") {
            return Err(invalid(format!("The move type '{kind}' is not supported")));
        }
        let base = match folder {
            "" => None,
            folder => Some(medium::absolute(folder)?),
        };
        let plan = self.0.svc.with(|s| plan(s, &self.0, base))?;
        let svc = self.0.svc.clone();
        let progress = Progress::spawn("Moving Machine", true, move |progress| {
            let mut done = Done::default();
            let moved = done
                .make(&plan, progress)
                .and_then(|()| svc.with(|s| adopt(s, &plan)));
            if let Err(e) = moved {
                done.undo();
                svc.with(|s| forget(s, &plan));
                return Err(e);
            }
            done.finish(&plan.from);
            announce(&svc, &plan);
            Ok(())
        });
        self.0.svc.track(&progress);
        Ok(progress)
    }
}

fn plan(state: &mut State, view: &crate::view::View, base: Option<PathBuf>) -> api::Result<Plan> {
    let id = view.id;
    let entry = state.machine(id)?;
    let old = entry.settings()?.clone();
    if !view.mutable || is_running(entry.state) {
        return Err(immutable(entry.state));
    }
    let (file, from) = (entry.path.clone(), entry.folder().to_owned());
    let to = match base {
        Some(base) => base.join(&old.name),
        None => from.clone(),
    };
    let new_file = to.join(file.file_name().unwrap_or_default());
    if to.starts_with(&from) && to != from {
        let text = format!("Cannot move '{}' into itself", from.display());
        return Err(invalid(text));
    }
    let mut plan = Plan {
        id,
        from,
        to,
        file,
        new_file,
        moves: Vec::new(),
        images: Vec::new(),
        old,
    };
    plan.images(state)?;
    if plan.from != plan.to {
        plan.other_files();
    }
    for (_, target) in &plan.moves {
        if target.symlink_metadata().is_ok() {
            return Err(file_error(format!(
                "Could not move to '{}': it exists (VERR_ALREADY_EXISTS)",
                target.display()
            )));
        }
    }
    Ok(plan)
}

impl Plan {
    fn images(&mut self, state: &State) -> api::Result<()> {
        let mut own: BTreeSet<Uuid> = attached(&self.old.hardware).collect();
        own.extend(
            snapshots(&self.old)
                .iter()
                .flat_map(|s| attached(&s.hardware)),
        );
        own.extend(
            state
                .machine(self.id)?
                .pending
                .iter()
                .flat_map(|p| attached(&p.hardware)),
        );
        let own: BTreeSet<Uuid> = own.into_iter().flat_map(|i| state.media.chain(i)).collect();
        let others = others(state, self.id);
        for medium in state.media.all() {
            let inside = medium.location.starts_with(&self.from);
            let mine = own.contains(&medium.id) || medium.registry == Some(self.id);
            let alone = medium.kind == DeviceType::HardDisk
                && medium.registry == Some(self.id)
                && !others.contains(&medium.id);
            // Images in the folder that another machine keeps are not this one's to move.
            if !mine || !(inside || alone) {
                continue;
            }
            let target = match medium.location.strip_prefix(&self.from) {
                Ok(rest) => self.to.join(rest),
                Err(_) if medium.parent.is_some() => self.to.join("Snapshots").join(medium.name()),
                Err(_) => self.to.join(medium.name()),
            };
            if target == medium.location {
                continue;
            }
            must_be_free(state, medium)?;
            if self.images.iter().any(|(_, _, t)| *t == target) {
                let text = format!("Two images would become '{}'", target.display());
                return Err(file_error(text));
            }
            // Extents in folders of their own have their places in the descriptor.
            let (Some(folder), Some(new)) = (medium.location.parent(), target.parent()) else {
                continue;
            };
            let files = storage::image_files(&medium.location)
                .unwrap_or_else(|_| vec![medium.location.clone()]);
            for file in files {
                if let Ok(rest) = file.strip_prefix(folder)
                    && file.exists()
                {
                    self.moves.push((file.clone(), new.join(rest)));
                }
            }
            self.images
                .push((medium.id, medium.location.clone(), target));
        }
        Ok(())
    }

    /// Everything of the machine's own that is no image.
    fn other_files(&mut self) {
        let mut files = vec![
            self.file.clone(),
            iprt::file::with_suffix(&self.file, "-prev"),
        ];
        let (stem, extension) = (self.file.file_stem(), self.file.extension());
        for entry in std::fs::read_dir(&self.from)
            .into_iter()
            .flatten()
            .flatten()
        {
            // Copies of the file in older versions: NAME-1.9-linux.vbox.
            let path = entry.path();
            let backup = path.file_stem().zip(stem).is_some_and(|(name, stem)| {
                let rest = name.to_string_lossy();
                let rest = rest.strip_prefix(&*stem.to_string_lossy());
                rest.is_some_and(|r| {
                    r.strip_prefix('-')
                        .is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()))
                })
            });
            if backup && path.extension() == extension {
                files.push(path);
            }
        }
        files.push(match self.old.hardware.bios.nvram_path.as_str() {
            "" => self.file.with_extension("nvram"),
            stored => settings::resolve_path(stored, &self.from),
        });
        let states = snapshots(&self.old);
        let states = states.iter().filter_map(|s| s.state_file.as_ref());
        for stored in states.chain(&self.old.state_file) {
            files.push(settings::resolve_path(stored, &self.from));
        }
        let logs = std::fs::read_dir(self.from.join("Logs"));
        files.extend(logs.into_iter().flatten().flatten().map(|e| e.path()));
        files.dedup();
        for file in files.iter().filter(|f| f.is_file()) {
            if let Ok(rest) = file.strip_prefix(&self.from) {
                self.moves.push((file.clone(), self.to.join(rest)));
            }
        }
    }

    /// A path that settings keep, as it is to be kept.
    fn restored(&self, stored: &str) -> String {
        let path = settings::resolve_path(stored, &self.from);
        let path = match path.strip_prefix(&self.from) {
            Ok(rest) => self.to.join(rest),
            Err(_) => path,
        };
        settings::store_path(&path, &self.to).unwrap_or_else(|| stored.to_owned())
    }

    fn rewrite(&self, machine: &mut Machine) {
        if let Some(stored) = &mut machine.state_file {
            *stored = self.restored(stored);
        }
        for stored in [
            &mut machine.snapshot_folder,
            &mut machine.hardware.bios.nvram_path,
        ] {
            if !stored.is_empty() {
                *stored = self.restored(stored);
            }
        }
        let mut open: Vec<&mut Snapshot> = machine.snapshot.as_deref_mut().into_iter().collect();
        while let Some(snapshot) = open.pop() {
            let nvram = &mut snapshot.hardware.bios.nvram_path;
            if !nvram.is_empty() {
                *nvram = self.restored(nvram);
            }
            if let Some(stored) = &mut snapshot.state_file {
                *stored = self.restored(stored);
            }
            open.extend(&mut snapshot.children);
        }
    }
}

/// The media that machines besides this one use in any state, with what those are stacked on.
fn others(state: &State, id: Uuid) -> BTreeSet<Uuid> {
    let mut used: BTreeSet<Uuid> = BTreeSet::new();
    for machine in state.machines.iter().filter(|m| m.id != id) {
        if let Ok(settings) = machine.settings() {
            used.extend(attached(&settings.hardware));
            used.extend(
                snapshots(settings)
                    .iter()
                    .flat_map(|s| attached(&s.hardware)),
            );
        }
    }
    used.into_iter()
        .flat_map(|i| state.media.chain(i))
        .collect()
}

/// The registry and the settings say where everything is now.
fn adopt(state: &mut State, plan: &Plan) -> api::Result<()> {
    for (id, _, target) in &plan.images {
        let known = state.media.get_mut(*id)?;
        let sound = known.state == MediumState::Created;
        known.location.clone_from(target);
        known.refresh();
        if sound && known.state != MediumState::Created {
            return Err(file_error(known.error.clone()));
        }
    }
    let entry = state.machine_mut(plan.id)?;
    entry.path.clone_from(&plan.new_file);
    let mut new = match &entry.pending {
        Some(pending) => pending.clone(),
        None => entry.settings()?.clone(),
    };
    plan.rewrite(&mut new);
    if let Ok(contents) = &mut entry.contents {
        contents.set_path(plan.new_file.clone());
    }
    commit(state, plan.id, new)?;
    register_path(state, plan.id)
}

/// What [`adopt`] did is taken back; the files are where they were.
fn forget(state: &mut State, plan: &Plan) {
    for (id, source, _) in &plan.images {
        if let Ok(known) = state.media.get_mut(*id) {
            known.location.clone_from(source);
            known.refresh();
        }
    }
    let Ok(entry) = state.machine_mut(plan.id) else {
        return;
    };
    let changed = entry.path != plan.file;
    entry.path.clone_from(&plan.file);
    if let Ok(contents) = &mut entry.contents {
        contents.set_path(plan.file.clone());
    }
    if changed {
        let saved = commit(state, plan.id, plan.old.clone())
            .and_then(|()| save_global_media(state))
            .and_then(|()| register_path(state, plan.id));
        if let Err(e) = saved {
            tracing::error!("the settings of a machine that was not moved: {e}");
        }
    }
}

fn announce(svc: &Svc, plan: &Plan) {
    svc.fire_data(plan.id);
    for (id, ..) in &plan.images {
        svc.fire(
            VBoxEventType::OnMediumConfigChanged,
            vec![("medium", Val::Obj(medium::path(*id)))],
        );
    }
}

/// Files that have been moved, and folders made for them.
#[derive(Default)]
struct Done {
    renamed: Vec<(PathBuf, PathBuf)>,
    copied: Vec<(PathBuf, PathBuf)>,
    folders: Vec<PathBuf>,
}

impl Done {
    fn make(&mut self, plan: &Plan, progress: &Progress) -> api::Result<()> {
        for (index, (from, to)) in plan.moves.iter().enumerate() {
            if progress.is_canceled() {
                return Err(Error::new(
                    ResultCode::E_ABORT,
                    "The operation was cancelled",
                ));
            }
            let percent = index * 100 / plan.moves.len();
            progress.set_percent(u32::try_from(percent).unwrap_or(0));
            self.file(from, to).map_err(|e| {
                let (from, to) = (from.display(), to.display());
                file_error(format!("Could not move '{from}' to '{to}': {e}"))
            })?;
        }
        Ok(())
    }

    /// Across file systems a file is copied, and the original goes when all is done.
    fn file(&mut self, from: &Path, to: &Path) -> std::io::Result<()> {
        if let Some(folder) = to.parent() {
            let missing = folder.ancestors().take_while(|f| !f.exists());
            let missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
            // Outermost first, removed in the opposite order.
            self.folders.extend(missing.into_iter().rev());
            std::fs::create_dir_all(folder)?;
        }
        let pair = (from.to_owned(), to.to_owned());
        match std::fs::rename(from, to) {
            Err(e) if e.kind() == std::io::ErrorKind::CrossesDevices => {
                self.copied.push(pair);
                iprt::file::copy_synced(from, to).map_err(std::io::Error::other)
            }
            Ok(()) => {
                self.renamed.push(pair);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    fn undo(&self) {
        for (from, to) in self.renamed.iter().rev() {
            if let Err(e) = std::fs::rename(to, from) {
                tracing::error!("'{}' stays where it is: {e}", to.display());
            }
        }
        for (_, to) in &self.copied {
            let _ = std::fs::remove_file(to);
        }
        for folder in self.folders.iter().rev() {
            let _ = std::fs::remove_dir(folder);
        }
    }

    /// The originals of copies go, and folders that are empty now.
    fn finish(&self, folder: &Path) {
        for (from, _) in &self.copied {
            if let Err(e) = std::fs::remove_file(from) {
                tracing::warn!("'{}' is left behind: {e}", from.display());
            }
        }
        for folder in [&folder.join("Logs"), &folder.join("Snapshots"), folder] {
            let _ = std::fs::remove_dir(folder);
        }
    }
}
