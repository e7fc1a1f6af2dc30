//! Snapshots of machines that are off: taking, restoring and deleting them.
//!
//! The settings file is what counts. Images are made before it names them, and go after it has
//! stopped to. A deleted snapshot leaves the tree first; its images are merged after that, so
//! that whatever is interrupted, each state that the file names reads as it should.

use super::MachineObject;
use super::locking::save_global_media;
use super::storage::adopt_media;
use crate::conv::{file_error, invalid, not_found};
use crate::media::{Medium, attached, open_error, snapshots, uses};
use crate::state::{State, Svc};
use crate::view::{View, immutable};
use api::progress::Progress;
use api::types::*;
use api::{Error, ObjRef, Wire};
use settings::model::{AttachedMedium, HardDiskType, Hardware, Machine, Snapshot};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::ParentLink;
use uuid::Uuid;

/// Deepest tree of snapshots, as in VirtualBox.
const MAX_DEPTH: usize = 250;

impl MachineObject {
    /// `takeSnapshot`; the UUID is the new snapshot's.
    pub(super) fn take(
        &self,
        name: String,
        description: String,
    ) -> api::Result<(Arc<Progress>, Uuid)> {
        let id = Uuid::new_v4();
        let work = Work::begin(&self.0, MachineState::Snapshotting)?;
        let what = "Taking a snapshot of the virtual machine";
        let progress = work.spawn(what, VBoxEventType::OnSnapshotTaken, id, move |work, _| {
            work.take(id, name, description)
        });
        Ok((progress, id))
    }

    /// `restoreSnapshot`.
    pub(super) fn restore(&self, snapshot: &ObjRef) -> api::Result<Arc<Progress>> {
        let id = snapshot
            .path()
            .rsplit('/')
            .next()
            .and_then(crate::space::uuid)
            .ok_or_else(|| invalid("The snapshot is unknown"))?;
        self.get(|m| m.find_snapshot(id).map(drop))?
            .ok_or_else(|| no_snapshot(id))?;
        let work = Work::begin(&self.0, MachineState::RestoringSnapshot)?;
        let what = "Restoring snapshot";
        Ok(work.spawn(
            what,
            VBoxEventType::OnSnapshotRestored,
            id,
            move |work, _| work.restore(id),
        ))
    }

    /// `deleteSnapshot`.
    pub(super) fn remove_snapshot(&self, id: &str) -> api::Result<Arc<Progress>> {
        let id = iprt::uuid::parse(id).ok_or_else(|| invalid("Not a UUID"))?;
        self.0.svc.with(|s| may_delete(s, self.0.id, id))?;
        let work = Work::begin(&self.0, MachineState::DeletingSnapshot)?;
        let what = "Deleting snapshot";
        Ok(work.spawn(
            what,
            VBoxEventType::OnSnapshotDeleted,
            id,
            move |work, p| work.delete(id, p),
        ))
    }
}

fn no_snapshot(id: Uuid) -> Error {
    not_found(format!("Could not find a snapshot with UUID {{{id}}}"))
}

/// One operation on a machine, which is in a state of its own meanwhile.
struct Work {
    svc: Arc<Svc>,
    machine: Uuid,
    before: MachineState,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.svc.with(|s| {
            if let Ok(entry) = s.machine_mut(self.machine) {
                entry.state = self.before;
            }
        });
        self.svc.fire_state(self.machine, self.before);
    }
}

impl Work {
    fn begin(view: &View, state: MachineState) -> api::Result<Self> {
        let before = view.entry(|e| {
            e.settings()?;
            if !view.mutable {
                return Err(immutable(e.state));
            }
            match e.state {
                MachineState::PoweredOff | MachineState::Aborted if e.vm.is_none() => {}
                MachineState::Saved | MachineState::AbortedSaved => {
                    return Err(unsupported("a saved state"));
                }
                MachineState::Running | MachineState::Paused => {
                    return Err(unsupported("a running machine"));
                }
                other => return Err(immutable(other)),
            }
            Ok(std::mem::replace(&mut e.state, state))
        })?;
        view.svc.fire_state(view.id, state);
        Ok(Self {
            svc: view.svc.clone(),
            machine: view.id,
            before,
        })
    }

    fn spawn(
        self,
        what: &str,
        event: VBoxEventType,
        snapshot: Uuid,
        work: impl FnOnce(&Self, &Progress) -> api::Result<()> + Send + 'static,
    ) -> Arc<Progress> {
        let svc = self.svc.clone();
        let progress = Progress::spawn(what, false, move |progress| {
            let result = self
                .svc
                .with(|s| settle(s, self.machine))
                .and_then(|()| work(&self, progress));
            let (svc, machine) = (self.svc.clone(), self.machine);
            // The machine is free again before anybody hears that it is over.
            drop(self);
            if result.is_ok() {
                svc.fire(
                    event,
                    vec![
                        ("machineId", machine.to_string().into_val()),
                        ("snapshotId", snapshot.to_string().into_val()),
                    ],
                );
                svc.fire_data(machine);
            }
            result
        });
        svc.track(&progress);
        progress
    }

    fn take(&self, id: Uuid, name: String, description: String) -> api::Result<()> {
        let (now, depth) = self.svc.with(|s| {
            let now = present(s, self.machine)?;
            let keeper = keeper(s, self.machine)?;
            adopt_media(&mut s.media, keeper, &now);
            let depth = now.current_snapshot.map_or(0, |c| depth_of(&now, c));
            Ok::<_, Error>((now, depth))
        })?;
        if depth >= MAX_DEPTH {
            let text = format!("The machine has snapshots {MAX_DEPTH} deep, which is the limit");
            return Err(Error::new(ResultCode::VBOX_E_MAXIMUM_REACHED, text));
        }
        let (swaps, made) = self.new_images(&now.hardware)?;
        let result = self.svc.with(|s| {
            let mut new = present(s, self.machine)?;
            let mut hardware = Box::new(new.hardware.clone());
            super::info::drop_transient(&mut hardware.guest_properties);
            let snapshot = Snapshot {
                uuid: id,
                name,
                description,
                time: iprt::time::Timestamp::now(),
                state_file: None,
                hardware,
                children: Vec::new(),
            };
            swap(&mut new.hardware, &swaps);
            match new.current_snapshot {
                Some(current) => find_mut(&mut new, current)
                    .ok_or_else(|| no_snapshot(current))?
                    .children
                    .push(snapshot),
                None => new.snapshot = Some(Box::new(snapshot)),
            }
            new.current_snapshot = Some(id);
            new.current_state_modified = false;
            commit(s, self.machine, new)
        });
        self.keep_or_undo(result, &made)
    }

    fn restore(&self, id: Uuid) -> api::Result<()> {
        let hardware = self.svc.with(|s| {
            let settings = s.machine(self.machine)?.settings()?;
            let found = settings.find_snapshot(id).ok_or_else(|| no_snapshot(id))?;
            Ok::<_, Error>(found.hardware.clone())
        })?;
        let (swaps, made) = self.new_images(&hardware)?;
        let result = self.svc.with(|s| {
            let mut new = s.machine(self.machine)?.settings()?.clone();
            let old: Vec<Uuid> = attached(&new.hardware).collect();
            new.hardware = *hardware;
            swap(&mut new.hardware, &swaps);
            new.current_snapshot = Some(id);
            new.current_state_modified = false;
            let before = s.media.clone();
            let mut files = Vec::new();
            for top in old {
                // What was written since the last snapshot; a disk that came in later is only
                // detached.
                let Ok(medium) = s.media.get(top) else {
                    continue;
                };
                let ours = medium.parent.is_some_and(|p| {
                    snapshots(&new)
                        .iter()
                        .any(|s| attached(&s.hardware).any(|a| a == p))
                });
                let elsewhere = attached(&new.hardware).any(|a| a == top)
                    || uses(s, top)
                        .iter()
                        .any(|u| u.machine != self.machine || !u.snapshots.is_empty());
                if ours && !elsewhere && s.media.children(top).next().is_none() {
                    files.extend(s.media.remove(top).map(|m| m.location));
                }
            }
            if let Err(e) = commit(s, self.machine, new) {
                s.media = before;
                return Err(e);
            }
            Ok(files)
        });
        let files = match result {
            Ok(files) => files,
            Err(e) => return self.keep_or_undo(Err(e), &made),
        };
        for file in files {
            remove_file(&file);
        }
        Ok(())
    }

    /// Differencing images for the disks of a state: which stands in for which.
    #[allow(clippy::type_complexity, reason = "two plain collections")]
    fn new_images(
        &self,
        hardware: &Hardware,
    ) -> api::Result<(BTreeMap<Uuid, Uuid>, Vec<(Uuid, PathBuf)>)> {
        let (parents, folder) = self.svc.with(|s| {
            let entry = s.machine(self.machine)?;
            let settings = entry.settings()?;
            let folder = match settings.snapshot_folder.as_str() {
                "" => Machine::DEFAULT_SNAPSHOT_FOLDER,
                folder => folder,
            };
            let folder = settings::resolve_path(folder, entry.folder());
            let mut parents: Vec<(Uuid, PathBuf, Option<Uuid>)> = Vec::new();
            for id in attached(hardware) {
                let medium = s.media.get(id)?;
                if takes_part(s, medium) {
                    parents.push((id, medium.location.clone(), medium.registry));
                }
            }
            Ok::<_, Error>((parents, folder))
        })?;
        let (mut swaps, mut made) = (BTreeMap::new(), Vec::new());
        if parents.is_empty() {
            return Ok((swaps, made));
        }
        std::fs::create_dir_all(&folder)
            .map_err(|e| file_error(format!("Could not create '{}': {e}", folder.display())))?;
        for (parent, location, registry) in parents {
            let id = Uuid::new_v4();
            let format = storage::child_format(&location).map_err(|e| open_error(&location, &e));
            let format = match format {
                Ok(format) => format,
                Err(e) => return self.keep_or_undo(Err(e), &made).map(|()| (swaps, made)),
            };
            let extension = crate::mediumformat::extension(format);
            let path = folder.join(format!("{{{id}}}.{extension}"));
            let created = storage::create_child(&path, format, id, &location)
                .and_then(|mut image| image.flush())
                .map_err(|e| open_error(&location, &e));
            made.push((id, path.clone()));
            if let Err(e) = created {
                return self.keep_or_undo(Err(e), &made).map(|()| (swaps, made));
            }
            self.svc.with(|s| {
                let mut medium =
                    Medium::new(id, DeviceType::HardDisk, path, format.id().to_owned());
                medium.parent = Some(parent);
                medium.registry = registry.or(Some(self.machine));
                medium.refresh();
                s.media.insert(medium);
            });
            swaps.insert(parent, id);
        }
        sync_folder(&folder);
        Ok((swaps, made))
    }

    /// Takes new images away again after a failure.
    fn keep_or_undo(&self, result: api::Result<()>, made: &[(Uuid, PathBuf)]) -> api::Result<()> {
        if result.is_err() {
            for (id, path) in made {
                self.svc.with(|s| s.media.remove(*id));
                remove_file(path);
            }
        }
        result
    }

    fn delete(&self, id: Uuid, progress: &Progress) -> api::Result<()> {
        let mut obsolete = self.svc.with(|s| {
            may_delete(s, self.machine, id)?;
            let mut new = present(s, self.machine)?;
            let snapshot = take_out(&mut new, id).ok_or_else(|| no_snapshot(id))?;
            commit(s, self.machine, new)?;
            Ok::<_, Error>(attached(&snapshot.hardware).collect::<Vec<_>>())
        })?;
        obsolete.extend(self.svc.with(|s| leftovers(s, self.machine))?);
        for medium in obsolete {
            self.collapse(medium, progress)?;
        }
        Ok(())
    }

    /// Takes an image that no state uses out of its chain.
    fn collapse(&self, id: Uuid, progress: &Progress) -> api::Result<()> {
        let Some(plan) = self.svc.with(|s| plan(s, self.machine, id))? else {
            return Ok(());
        };
        let mut report = |percent| {
            progress.set_percent(percent);
            ControlFlow::Continue(())
        };
        let mut report = storage::Progress::new(&mut report);
        let failed = |e: storage::Error| file_error(format!("{e} ({})", e.status()));
        let relink_all = |link: ParentLink| {
            plan.above
                .iter()
                .try_for_each(|(_, file)| storage::relink(file, link))
        };
        let files: Vec<&Path> = plan.chain.iter().map(PathBuf::as_path).collect();
        let Some((child, child_file)) = &plan.child else {
            self.forget(id, None, &[])?;
            return Ok(());
        };
        if plan.chain.len() == 2 {
            storage::merge_into_base(&plan.file, child_file, &mut report).map_err(failed)?;
            storage::link_to(&plan.file)
                .and_then(relink_all)
                .map_err(failed)?;
            let above: Vec<Uuid> = plan.above.iter().map(|(id, _)| *id).collect();
            return self.forget(*child, Some(id), &above);
        }
        relink_all(ParentLink::new(*child, Uuid::nil()))
            .and_then(|()| storage::merge_into_child(&files, &mut report))
            .and_then(|()| relink_all(storage::link_to(child_file)?))
            .map_err(failed)?;
        let parent = self.svc.with(|s| s.media.get(id).map(|m| m.parent))?;
        self.forget(id, parent, &[*child])
    }

    /// Takes a medium out of the settings, then its file away. `children` go to `heir`, and so
    /// does its place in the machine's states.
    fn forget(&self, id: Uuid, heir: Option<Uuid>, children: &[Uuid]) -> api::Result<()> {
        let file = self.svc.with(|s| {
            let before = s.media.clone();
            let removed = s.media.remove(id);
            for child in children {
                s.media.get_mut(*child)?.parent = heir;
            }
            let mut new = present(s, self.machine)?;
            if let Some(heir) = heir {
                replace_all(&mut new, &BTreeMap::from([(id, heir)]));
                if let Ok(medium) = s.media.get_mut(heir) {
                    medium.refresh();
                }
            }
            if let Err(e) = commit(s, self.machine, new) {
                s.media = before;
                return Err(e);
            }
            Ok(removed.map(|m| m.location))
        })?;
        if let Some(file) = file {
            remove_file(&file);
        }
        Ok(())
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(
        ResultCode::VBOX_E_NOT_SUPPORTED,
        format!(
            "Snapshots of {what} are not available in this version of Oxbox; power the machine off first"
        ),
    )
}

/// The settings that a session sees.
fn present(state: &State, machine: Uuid) -> api::Result<Machine> {
    let entry = state.machine(machine)?;
    match &entry.pending {
        Some(pending) => Ok(pending.clone()),
        None => entry.settings().cloned(),
    }
}

fn keeper(state: &State, machine: Uuid) -> api::Result<Uuid> {
    Ok(match &state.machine(machine)?.contents {
        Ok(file) if !file.can_keep_media() => Uuid::nil(),
        _ => machine,
    })
}

/// Saves a machine's settings with all media registries that are not as their files say.
pub fn commit(state: &mut State, machine: Uuid, mut new: Machine) -> api::Result<()> {
    let others: Vec<Uuid> = state
        .machines
        .iter()
        .filter(|e| e.id != machine && e.registered)
        .filter(|e| {
            let known = e.settings().map(|m| &m.media);
            known.is_ok_and(|m| *m != state.media.registry(e.id, e.folder()))
        })
        .map(|e| e.id)
        .collect();
    save_global_media(state)?;
    for other in others {
        crate::medium::save_registry(state, Some(other))?;
    }
    let folder = state.machine(machine)?.folder().to_owned();
    new.media = state.media.registry(machine, &folder);
    let entry = state.machine_mut(machine)?;
    let mut stored = new.clone();
    super::info::drop_transient(&mut stored.hardware.guest_properties);
    let old = std::mem::replace(entry.settings_mut()?, stored);
    if let Err(e) = entry.save() {
        *entry.settings_mut()? = old;
        return Err(e);
    }
    if entry.pending.is_some() {
        entry.pending = Some(new);
    }
    Ok(())
}

/// Whether a snapshot puts a differencing image on this medium.
fn takes_part(state: &State, medium: &Medium) -> bool {
    let base = state.media.chain(medium.id).last().copied();
    let kind = base
        .and_then(|b| state.media.get(b).ok())
        .map_or(HardDiskType::Normal, |m| m.disk_type);
    medium.kind == DeviceType::HardDisk
        && !matches!(
            kind,
            HardDiskType::Writethrough | HardDiskType::Shareable | HardDiskType::Readonly
        )
}

fn swap(hardware: &mut Hardware, swaps: &BTreeMap<Uuid, Uuid>) {
    let devices = hardware.storage.iter_mut().flat_map(|c| &mut c.devices);
    for device in devices {
        if let AttachedMedium::Image(id) = &mut device.medium
            && let Some(new) = swaps.get(id)
        {
            *id = *new;
        }
    }
}

/// The same in the present state and all snapshots.
fn replace_all(machine: &mut Machine, swaps: &BTreeMap<Uuid, Uuid>) {
    swap(&mut machine.hardware, swaps);
    let mut open: Vec<&mut Snapshot> = machine.snapshot.as_deref_mut().into_iter().collect();
    while let Some(snapshot) = open.pop() {
        swap(&mut snapshot.hardware, swaps);
        open.extend(&mut snapshot.children);
    }
}

/// The snapshot of that UUID, to be changed.
pub fn find_mut(machine: &mut Machine, id: Uuid) -> Option<&mut Snapshot> {
    let mut open: Vec<&mut Snapshot> = machine.snapshot.as_deref_mut().into_iter().collect();
    while let Some(snapshot) = open.pop() {
        if snapshot.uuid == id {
            return Some(snapshot);
        }
        open.extend(&mut snapshot.children);
    }
    None
}

fn parent_of(machine: &Machine, id: Uuid) -> Option<Uuid> {
    snapshots(machine)
        .into_iter()
        .find(|s| s.children.iter().any(|c| c.uuid == id))
        .map(|s| s.uuid)
}

fn depth_of(machine: &Machine, id: Uuid) -> usize {
    let (mut depth, mut at) = (1, id);
    while let Some(parent) = parent_of(machine, at) {
        depth += 1;
        at = parent;
    }
    depth
}

/// Takes a snapshot with at most one child out of the tree; what hung on it moves up.
fn take_out(machine: &mut Machine, id: Uuid) -> Option<Snapshot> {
    let parent = parent_of(machine, id);
    let mut gone = match parent {
        Some(parent) => {
            let siblings = &mut find_mut(machine, parent)?.children;
            let at = siblings.iter().position(|s| s.uuid == id)?;
            let mut gone = siblings.remove(at);
            for (n, child) in std::mem::take(&mut gone.children).into_iter().enumerate() {
                siblings.insert(at + n, child);
            }
            gone
        }
        None => *machine.snapshot.take().filter(|s| s.uuid == id)?,
    };
    if parent.is_none() {
        machine.snapshot = std::mem::take(&mut gone.children).pop().map(Box::new);
    }
    if machine.current_snapshot == Some(id) {
        machine.current_snapshot = parent;
        machine.current_state_modified = true;
    }
    Some(gone)
}

/// Refuses what VirtualBox refuses: more than one state that depends on the snapshot.
fn may_delete(state: &State, machine: Uuid, id: Uuid) -> api::Result<()> {
    let settings = state.machine(machine)?.settings()?;
    let snapshot = settings.find_snapshot(id).ok_or_else(|| no_snapshot(id))?;
    let refused = |text| Error::new(ResultCode::VBOX_E_INVALID_OBJECT_STATE, text);
    if snapshot.children.len() > 1 {
        return Err(refused(format!(
            "Snapshot '{}' of the machine '{}' cannot be deleted, because it has {} child snapshots, which is more than the one snapshot allowed for deletion",
            snapshot.name,
            settings.name,
            snapshot.children.len()
        )));
    }
    if snapshot.children.len() == 1
        && settings.current_snapshot == Some(id)
        && parent_of(settings, id).is_none()
    {
        return Err(refused(format!(
            "Snapshot '{}' cannot be deleted: the present state and another snapshot are both based on it",
            snapshot.name
        )));
    }
    for medium in attached(&snapshot.hardware) {
        let Ok(medium) = state.media.get(medium) else {
            continue;
        };
        let children = state.media.children(medium.id).count();
        if takes_part(state, medium) && children > 1 {
            return Err(refused(format!(
                "Hard disk '{}' has more than one child hard disk ({children})",
                medium.location.display()
            )));
        }
    }
    Ok(())
}

/// What is to be done to take an image out of its chain.
struct Plan {
    file: PathBuf,
    /// Files of the chain up to the child, base first.
    chain: Vec<PathBuf>,
    child: Option<(Uuid, PathBuf)>,
    /// The child's children.
    above: Vec<(Uuid, PathBuf)>,
}

fn plan(state: &State, machine: Uuid, id: Uuid) -> api::Result<Option<Plan>> {
    let Ok(medium) = state.media.get(id) else {
        return Ok(None);
    };
    let normal = state
        .media
        .chain(id)
        .last()
        .and_then(|b| state.media.get(*b).ok())
        .is_some_and(|b| b.disk_type == HardDiskType::Normal);
    if medium.kind != DeviceType::HardDisk || !uses(state, id).is_empty() {
        return Ok(None);
    }
    let children: Vec<&Medium> = state.media.children(id).collect();
    let child = match children.as_slice() {
        [] if medium.parent.is_some() => None,
        [one] if normal => Some(*one),
        _ => return Ok(None),
    };
    if let Some(child) = child {
        // A clone's disk stays what it is.
        let foreign = |id| uses(state, id).iter().any(|u| u.machine != machine);
        if foreign(child.id) || child.registry != medium.registry || child.auto_reset {
            return Ok(None);
        }
    }
    let top = child.map_or(id, |c| c.id);
    let mut chain = Vec::new();
    for link in state.media.chain(top).into_iter().rev() {
        chain.push(state.media.get(link)?.location.clone());
    }
    Ok(Some(Plan {
        file: medium.location.clone(),
        chain,
        child: child.map(|c| (c.id, c.location.clone())),
        above: state
            .media
            .children(top)
            .filter(|m| m.id != top && child.is_some())
            .map(|m| (m.id, m.location.clone()))
            .collect(),
    }))
}

/// Snapshot images of a machine that no state uses: a merge of theirs was interrupted.
fn leftovers(state: &State, machine: Uuid) -> api::Result<Vec<Uuid>> {
    Ok(state
        .media
        .all()
        .filter(|m| m.registry == Some(machine) && m.parent.is_some())
        .filter(|m| m.name() == format!("{{{}}}.vdi", m.id))
        .filter(|m| uses(state, m.id).is_empty())
        .filter(|m| state.media.children(m.id).count() == 1)
        .map(|m| m.id)
        .collect())
}

/// Takes in what a merge had done to the images when it was interrupted: an image that already
/// names a lower one as its parent holds all that was between them.
pub fn settle(state: &mut State, machine: Uuid) -> api::Result<()> {
    let settings = state.machine(machine)?.settings()?;
    let mut tops: Vec<Uuid> = attached(&settings.hardware).collect();
    for snapshot in snapshots(settings) {
        tops.extend(attached(&snapshot.hardware));
    }
    tops.sort_unstable();
    tops.dedup();
    let mut obsolete = Vec::new();
    for top in tops {
        for id in state.media.chain(top) {
            let Ok(medium) = state.media.get(id) else {
                continue;
            };
            let Some(known) = medium.parent else { continue };
            let named = storage::media_info(&medium.location)
                .ok()
                .and_then(|i| i.parent)
                .map(|p| p.uuid)
                .filter(|p| *p != known);
            let Some(named) = named else { continue };
            let between = state.media.chain(known);
            let Some(end) = between.iter().position(|b| *b == named) else {
                continue;
            };
            obsolete.extend(between.into_iter().take(end));
            state.media.get_mut(id)?.parent = Some(named);
        }
    }
    if obsolete.is_empty() {
        return Ok(());
    }
    let mut files = Vec::new();
    for id in obsolete {
        if uses(state, id).is_empty() && state.media.children(id).next().is_none() {
            files.extend(state.media.remove(id).map(|m| m.location));
        }
    }
    let new = present(state, machine)?;
    commit(state, machine, new)?;
    for file in files {
        remove_file(&file);
    }
    Ok(())
}

/// A file that the settings do not name any more; one that stays costs only space.
fn remove_file(path: &Path) {
    match storage::remove_image(path) {
        Ok(()) | Err(storage::Error::NotFound { .. }) => {}
        Err(e) => tracing::warn!("'{}' could not be deleted: {e}", path.display()),
    }
}

fn sync_folder(folder: &Path) {
    if let Err(e) = std::fs::File::open(folder).and_then(|f| f.sync_all()) {
        tracing::warn!("'{}' could not be flushed: {e}", folder.display());
    }
}
