//! `IMachine::cloneTo`: another machine with a copy of this one's disks, or with differencing
//! images on those of a snapshot.

use super::MachineObject;
use super::snapshots::commit;
use crate::conv::{file_error, invalid};
use crate::media::{Medium, attached, must_be_free, open_error};
use crate::state::{Svc, is_running};
use crate::view::immutable;
use api::progress::Progress;
use api::types::*;
use api::{Error, ObjRef};
use settings::model::{AttachedMedium, Hardware, Machine, NetworkMode};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::{Container, CreateParams, OpenMode, Variant};
use uuid::Uuid;

/// A disk of the source and what becomes of it.
struct Disk {
    source: Uuid,
    /// Base first.
    chain: Vec<PathBuf>,
    registry: Option<Uuid>,
    id: Uuid,
    path: PathBuf,
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
        let mut source = self.get(Machine::clone)?;
        if mode != CloneMode::MachineState && source.snapshot.is_some() {
            return Err(Error::not_implemented(
                "IMachine",
                "cloneTo with the snapshots of the machine",
            ));
        }
        let target = target
            .path()
            .strip_prefix("/Machine/")
            .and_then(crate::space::uuid)
            .ok_or_else(|| invalid("The target is no machine of this service"))?;
        if !has(CloneOptions::KeepAllMACs) {
            for card in &mut source.hardware.network {
                let keeps = has(CloneOptions::KeepNATMACs) && card.mode == NetworkMode::Nat;
                if !keeps && !card.mac.is_empty() {
                    card.mac = crate::host::random_mac();
                }
            }
        }
        let hardware_id = source.hardware.uuid.unwrap_or(source.uuid);
        source.hardware.uuid = has(CloneOptions::KeepHwUUIDs).then_some(hardware_id);
        let disks = self.disks(
            &source.hardware,
            target,
            link,
            has(CloneOptions::KeepDiskNames),
        )?;
        let svc = self.0.svc.clone();
        let progress = Progress::spawn("Cloning Machine", true, move |progress| {
            let mut made = Vec::new();
            let result = disks
                .iter()
                .try_for_each(|disk| {
                    made.push((disk.id, disk.path.clone()));
                    make(&svc, disk, target, link, progress)
                })
                .and_then(|()| finish(&svc, target, source, &disks));
            if result.is_err() {
                for (id, path) in made {
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
        hardware: &Hardware,
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
            let mut disks: Vec<Disk> = Vec::new();
            for source in attached(hardware) {
                let medium = s.media.get(source)?;
                if medium.kind != DeviceType::HardDisk || disks.iter().any(|d| d.source == source) {
                    continue;
                }
                if !link && self.0.snapshot.is_none() {
                    must_be_free(s, medium)?;
                }
                let mut chain = Vec::new();
                for link in s.media.chain(source).into_iter().rev() {
                    chain.push(s.media.get(link)?.location.clone());
                }
                let id = Uuid::new_v4();
                let stem = medium.location.file_stem().map(|n| n.to_string_lossy());
                let path = match (link, stem) {
                    (true, _) => {
                        let child = storage::child_format(&medium.location)
                            .map_err(|e| open_error(&medium.location, &e))?;
                        let extension = crate::mediumformat::extension(child);
                        folder.join(format!("Snapshots/{{{id}}}.{extension}"))
                    }
                    (_, Some(stem)) if keep_names => folder.join(format!("{stem}.vdi")),
                    _ => folder.join(format!("{name}-disk{}.vdi", disks.len() + 1)),
                };
                disks.push(Disk {
                    source,
                    chain,
                    registry: medium.registry,
                    id,
                    path,
                });
            }
            Ok(disks)
        })
    }
}

fn make(svc: &Svc, disk: &Disk, target: Uuid, link: bool, progress: &Progress) -> api::Result<()> {
    let Some(last) = disk.chain.last() else {
        return Err(invalid("A disk without a file cannot be cloned"));
    };
    if let Some(folder) = disk.path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|e| file_error(format!("Could not create '{}': {e}", folder.display())))?;
    }
    let mut format: &dyn storage::Format = &storage::format::vdi::Vdi;
    let made = if link {
        storage::child_format(last).and_then(|child| {
            format = child;
            storage::create_child(&disk.path, child, disk.id, last)?.flush()
        })
    } else {
        let mut report = |percent| {
            progress.set_percent(percent);
            match progress.is_canceled() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        copy(disk, &mut storage::Progress::new(&mut report))
    };
    made.map_err(|e| match e {
        storage::Error::Cancelled => Error::new(ResultCode::E_ABORT, "The operation was cancelled"),
        e => open_error(last, &e),
    })?;
    svc.with(|s| {
        let file = disk.path.clone();
        let mut medium = Medium::new(disk.id, DeviceType::HardDisk, file, format.id().to_owned());
        medium.registry = Some(target);
        if link {
            medium.parent = Some(disk.source);
            medium.registry = disk.registry;
        }
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

/// The settings: all of the source's, except who the machine is.
fn finish(svc: &Svc, target: Uuid, source: Machine, disks: &[Disk]) -> api::Result<()> {
    svc.with(|s| {
        let old = s.machine(target)?.settings()?;
        let mut new = Machine {
            uuid: target,
            name: old.name.clone(),
            groups: old.groups.clone(),
            last_state_change: old.last_state_change,
            snapshot_folder: old.snapshot_folder.clone(),
            state_file: None,
            aborted: false,
            current_snapshot: None,
            snapshot: None,
            current_state_modified: true,
            ..source
        };
        let devices = new.hardware.storage.iter_mut().flat_map(|c| &mut c.devices);
        for device in devices {
            if let AttachedMedium::Image(id) = &mut device.medium
                && let Some(disk) = disks.iter().find(|d| d.source == *id)
            {
                *id = disk.id;
            }
        }
        commit(s, target, new)?;
        s.machine_mut(target)?.unsaved = false;
        Ok(())
    })
}
