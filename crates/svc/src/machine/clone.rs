//! `IMachine::cloneTo`: another machine with a copy of this one's disks, or with differencing
//! images on those of a snapshot; with or without its snapshots.

use super::MachineObject;
use super::snapshots::commit;
use crate::conv::{file_error, invalid};
use crate::media::{Medium, attached, must_be_free, open_error};
use crate::state::{State, Svc, is_running};
use crate::view::immutable;
use api::progress::Progress;
use api::types::*;
use api::{Error, ObjRef};
use settings::model::{AttachedMedium, Hardware, Machine, NetworkMode, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::{Container, CreateParams, OpenMode, Variant};
use uuid::Uuid;

/// How a disk of the clone comes to be.
enum Way {
    /// All that its source shows, in one image.
    Whole,
    /// A differencing image on its source.
    Linked,
    /// A differencing image on this disk of the clone, with what its source holds itself.
    Layer(Uuid),
    /// An empty one.
    Fresh(Uuid),
}

/// A disk of the clone.
struct Disk {
    /// Disk of the machine that it takes the place of.
    source: Uuid,
    /// Files of that: base first.
    chain: Vec<PathBuf>,
    registry: Option<Uuid>,
    way: Way,
    id: Uuid,
    path: PathBuf,
}

/// What is cloned.
struct Plan {
    /// The state that the clone is in.
    machine: Machine,
    /// The snapshot at the root of its tree, as it is in the machine.
    root: Option<Snapshot>,
    /// Disks whose ancestors are not cloned.
    bases: BTreeSet<Uuid>,
    /// The clone's state is the root's: its disks get differencing images on the root's.
    at_root: bool,
}

impl Plan {
    /// `source` has the hardware of `snapshot`, if there is one.
    fn new(mut source: Machine, snapshot: Option<Uuid>, mode: CloneMode) -> api::Result<Self> {
        let tree = source.snapshot.take();
        let mut plan = Self {
            bases: attached(&source.hardware).collect(),
            machine: source,
            root: None,
            at_root: false,
        };
        let current = plan.machine.current_snapshot.take();
        match (mode, snapshot) {
            (CloneMode::AllStates, None) => {
                plan.root = tree.map(|tree| *tree);
                plan.bases.clear();
                plan.machine.current_snapshot = current;
            }
            (CloneMode::AllStates, Some(_)) => {
                return Err(invalid(
                    "All states of a machine can be cloned from the machine only, not from a snapshot",
                ));
            }
            (CloneMode::MachineAndChildStates, Some(id)) => {
                plan.root = tree.and_then(|tree| find(*tree, id));
                plan.machine.current_snapshot = Some(id);
                plan.machine.current_state_modified = false;
                plan.at_root = true;
            }
            _ => {}
        }
        let saved = plan.snapshots().iter().any(|s| s.state_file.is_some());
        if saved {
            return Err(Error::not_implemented(
                "IMachine",
                "cloneTo with snapshots of running machines",
            ));
        }
        Ok(plan)
    }

    /// The snapshots to be cloned, parents first.
    fn snapshots(&self) -> Vec<&Snapshot> {
        let mut all: Vec<&Snapshot> = self.root.iter().collect();
        let mut at = 0;
        while let Some(snapshot) = all.get(at) {
            let children = &snapshot.children;
            all.extend(children);
            at += 1;
        }
        all
    }

    /// Disks to be cloned with the one that each is based on, parents first.
    fn layers(&self, s: &State) -> api::Result<Vec<(Uuid, Option<Uuid>)>> {
        let mut layers: Vec<(Uuid, Option<Uuid>)> = Vec::new();
        let states = self.snapshots().into_iter().map(|s| &*s.hardware);
        for hardware in states.chain([&self.machine.hardware]) {
            for top in attached(hardware) {
                if s.media.get(top)?.kind != DeviceType::HardDisk {
                    continue;
                }
                let chain = s.media.chain(top);
                let base = chain.iter().position(|id| self.bases.contains(id));
                let mut parent = None;
                for id in chain[..base.map_or(chain.len(), |at| at + 1)].iter().rev() {
                    if !layers.iter().any(|(known, _)| known == id) {
                        layers.push((*id, parent));
                    }
                    parent = Some(*id);
                }
            }
        }
        Ok(layers)
    }
}

/// Takes the snapshot `id` with its children out of a tree.
fn find(tree: Snapshot, id: Uuid) -> Option<Snapshot> {
    let mut open = vec![tree];
    while let Some(snapshot) = open.pop() {
        if snapshot.uuid == id {
            return Some(snapshot);
        }
        open.extend(snapshot.children);
    }
    None
}

impl MachineObject {
    pub(super) fn clone_into(
        &self,
        target: &ObjRef,
        mode: CloneMode,
        options: &[CloneOptions],
    ) -> api::Result<Arc<Progress>> {
        let has = |option| options.contains(&option);
        let link = has(CloneOptions::Link);
        if link && self.0.snapshot.is_none() {
            return Err(invalid("A linked clone can be made of a snapshot only"));
        }
        if link && mode != CloneMode::MachineState {
            return Err(invalid("A linked clone has one state of the machine only"));
        }
        let mut plan = Plan::new(self.get(Machine::clone)?, self.0.snapshot, mode)?;
        let target = target
            .path()
            .strip_prefix("/Machine/")
            .and_then(crate::space::uuid)
            .ok_or_else(|| invalid("The target is no machine of this service"))?;
        let disks = self.disks(&plan, target, link, has(CloneOptions::KeepDiskNames))?;
        let source = &mut plan.machine;
        let hardware_id = source.hardware.uuid.unwrap_or(source.uuid);
        source.hardware.uuid = has(CloneOptions::KeepHwUUIDs).then_some(hardware_id);
        if !has(CloneOptions::KeepAllMACs) {
            let keep_nat = has(CloneOptions::KeepNATMACs);
            change_macs(&mut source.hardware, keep_nat);
            let mut open: Vec<&mut Snapshot> = plan.root.iter_mut().collect();
            while let Some(snapshot) = open.pop() {
                change_macs(&mut snapshot.hardware, keep_nat);
                open.extend(&mut snapshot.children);
            }
        }
        let svc = self.0.svc.clone();
        let progress = Progress::spawn("Cloning Machine", true, move |progress| {
            let mut made = Vec::new();
            let result = disks
                .iter()
                .try_for_each(|disk| {
                    made.push((disk.id, disk.path.clone()));
                    make(&svc, disk, target, progress)
                })
                .and_then(|()| finish(&svc, target, plan, &disks));
            if result.is_err() {
                for (id, path) in made.into_iter().rev() {
                    // Nothing that was there before has this UUID.
                    if svc.with(|s| s.media.remove(id)).is_some() {
                        let _ = storage::remove_image(&path);
                    }
                }
            }
            result
        });
        self.0.svc.track(&progress);
        Ok(progress)
    }

    fn disks(
        &self,
        plan: &Plan,
        target: Uuid,
        link: bool,
        keep_names: bool,
    ) -> api::Result<Vec<Disk>> {
        self.0.svc.with(|s| {
            let entry = s.machine(self.0.id)?;
            if is_running(entry.state) && self.0.snapshot.is_none() {
                return Err(immutable(entry.state));
            }
            let entry = s.machine(target)?;
            if entry.registered {
                return Err(immutable(entry.state));
            }
            let (folder, name) = (entry.folder().to_owned(), entry.name());
            let child =
                |id: Uuid, extension: &str| folder.join(format!("Snapshots/{{{id}}}.{extension}"));
            let now: Vec<Uuid> = attached(&plan.machine.hardware).collect();
            let mut disks: Vec<Disk> = Vec::new();
            for (source, parent) in plan.layers(s)? {
                let medium = s.media.get(source)?;
                if !link && self.0.snapshot.is_none() && now.contains(&source) {
                    must_be_free(s, medium)?;
                }
                let mut chain = Vec::new();
                for link in s.media.chain(source).into_iter().rev() {
                    chain.push(s.media.get(link)?.location.clone());
                }
                let id = Uuid::new_v4();
                let stem = medium.location.file_stem().map(|n| n.to_string_lossy());
                let based = parent.and_then(|p| disks.iter().find(|d| d.source == p));
                let bases = disks.iter().filter(|d| matches!(d.way, Way::Whole));
                let (way, path) = match (link, based, stem) {
                    (true, ..) => {
                        let format = storage::child_format(&medium.location)
                            .map_err(|e| open_error(&medium.location, &e))?;
                        let extension = crate::mediumformat::extension(format);
                        (Way::Linked, child(id, extension))
                    }
                    (_, Some(based), _) => (Way::Layer(based.id), child(id, "vdi")),
                    (.., Some(stem)) if keep_names => {
                        (Way::Whole, folder.join(format!("{stem}.vdi")))
                    }
                    _ => {
                        let number = bases.count() + 1;
                        (Way::Whole, folder.join(format!("{name}-disk{number}.vdi")))
                    }
                };
                disks.push(Disk {
                    source,
                    chain,
                    registry: medium.registry,
                    way,
                    id,
                    path,
                });
            }
            if plan.at_root {
                let fresh: Vec<Disk> = disks
                    .iter()
                    .filter(|d| now.contains(&d.source))
                    .map(|d| d.below())
                    .collect();
                disks.extend(fresh);
            }
            Ok(disks)
        })
    }
}

impl Disk {
    /// A disk in the same folder that is based on this one and has nothing of its own.
    fn below(&self) -> Self {
        let id = Uuid::new_v4();
        let folder = self.path.parent().unwrap_or(Path::new(""));
        Self {
            source: self.source,
            chain: Vec::new(),
            registry: self.registry,
            way: Way::Fresh(self.id),
            id,
            path: folder.join(format!("Snapshots/{{{id}}}.vdi")),
        }
    }
}

fn change_macs(hardware: &mut Hardware, keep_nat: bool) {
    for card in &mut hardware.network {
        let keeps = keep_nat && card.mode == NetworkMode::Nat;
        if !keeps && !card.mac.is_empty() {
            card.mac = crate::host::random_mac();
        }
    }
}

fn make(svc: &Svc, disk: &Disk, target: Uuid, progress: &Progress) -> api::Result<()> {
    if let Some(folder) = disk.path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|e| file_error(format!("Could not create '{}': {e}", folder.display())))?;
    }
    let mut report = |percent| {
        progress.set_percent(percent);
        match progress.is_canceled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let mut report = storage::Progress::new(&mut report);
    let vdi: &dyn storage::Format = &storage::format::vdi::Vdi;
    let (mut format, mut parent) = (vdi, None);
    let made = match disk.way {
        Way::Whole => copy(disk, &mut report),
        Way::Linked => {
            let Some(last) = disk.chain.last() else {
                return Err(invalid("A disk without a file cannot be cloned"));
            };
            parent = Some(disk.source);
            storage::child_format(last).and_then(|child| {
                format = child;
                storage::create_child(&disk.path, child, disk.id, last)?.flush()
            })
        }
        Way::Layer(below) | Way::Fresh(below) => {
            parent = Some(below);
            let mut files = svc.with(|s| {
                let chain = s.media.chain(below).into_iter().rev();
                chain
                    .map(|id| s.media.get(id).map(|m| m.location.clone()))
                    .collect::<api::Result<Vec<PathBuf>>>()
            })?;
            layer(disk, &mut files, &mut report)
        }
    };
    made.map_err(|e| match e {
        storage::Error::Cancelled => Error::new(ResultCode::E_ABORT, "The operation was cancelled"),
        e => open_error(disk.chain.last().unwrap_or(&disk.path), &e),
    })?;
    svc.with(|s| {
        let file = disk.path.clone();
        let mut medium = Medium::new(disk.id, DeviceType::HardDisk, file, format.id().to_owned());
        medium.registry = match disk.way {
            Way::Linked => disk.registry,
            _ => Some(target),
        };
        medium.parent = parent;
        medium.refresh();
        s.media.insert(medium);
    });
    Ok(())
}

fn copy(disk: &Disk, progress: &mut storage::Progress<'_>) -> storage::Result<()> {
    let files: Vec<&Path> = disk.chain.iter().map(PathBuf::as_path).collect();
    let source = Container::open_chain(&files, OpenMode::ReadOnly)?;
    let mut params = CreateParams::new(source.size(), Variant::Dynamic);
    params.uuid = disk.id;
    storage::clone_to_new(
        &source,
        &disk.path,
        &storage::format::vdi::Vdi,
        &params,
        progress,
    )
    .map(drop)
}

/// A differencing image on the last of `files`, base first.
fn layer(
    disk: &Disk,
    files: &mut Vec<PathBuf>,
    progress: &mut storage::Progress<'_>,
) -> storage::Result<()> {
    let Some(parent) = files.last() else {
        return Ok(());
    };
    let vdi = &storage::format::vdi::Vdi;
    storage::create_child(&disk.path, vdi, disk.id, parent)?.flush()?;
    let Some(source) = disk.chain.last() else {
        return Ok(());
    };
    files.push(disk.path.clone());
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    storage::copy_layer(source, &files, progress)
}

/// The settings: all of the source's, except who the machine and its snapshots are.
fn finish(svc: &Svc, target: Uuid, plan: Plan, disks: &[Disk]) -> api::Result<()> {
    let fresh = |d: &&Disk| matches!(d.way, Way::Fresh(_));
    let media = |fresh_too: bool| -> BTreeMap<Uuid, Uuid> {
        let copies = disks.iter().filter(|d| !fresh(d));
        let fresh = disks.iter().filter(|d| fresh_too && fresh(d));
        copies.chain(fresh).map(|d| (d.source, d.id)).collect()
    };
    let snapshots = plan.snapshots();
    let ids: BTreeMap<Uuid, Uuid> = snapshots.iter().map(|s| (s.uuid, Uuid::new_v4())).collect();
    let mut root = plan.root;
    let mut open: Vec<&mut Snapshot> = root.iter_mut().collect();
    while let Some(snapshot) = open.pop() {
        snapshot.uuid = ids.get(&snapshot.uuid).copied().unwrap_or(snapshot.uuid);
        reattach(&mut snapshot.hardware, &media(false));
        open.extend(&mut snapshot.children);
    }
    svc.with(|s| {
        let old = s.machine(target)?.settings()?;
        let current = plan.machine.current_snapshot;
        let mut new = Machine {
            uuid: target,
            name: old.name.clone(),
            groups: old.groups.clone(),
            last_state_change: old.last_state_change,
            snapshot_folder: old.snapshot_folder.clone(),
            state_file: None,
            aborted: false,
            current_snapshot: current.and_then(|id| ids.get(&id).copied()),
            snapshot: root.map(Box::new),
            current_state_modified: plan.machine.current_state_modified || current.is_none(),
            ..plan.machine
        };
        reattach(&mut new.hardware, &media(true));
        commit(s, target, new)?;
        s.machine_mut(target)?.unsaved = false;
        Ok(())
    })
}

/// Puts the clone's disks where the machine has its own.
fn reattach(hardware: &mut Hardware, media: &BTreeMap<Uuid, Uuid>) {
    let devices = hardware.storage.iter_mut().flat_map(|c| &mut c.devices);
    for device in devices {
        if let AttachedMedium::Image(id) = &mut device.medium
            && let Some(own) = media.get(id)
        {
            *id = *own;
        }
    }
}
