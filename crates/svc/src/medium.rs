//! `IMedium` and `IMediumFormat`.

use crate::conv::{FromModel, ToModel, file_error, invalid, not_found};
use crate::media::{Medium, must_be_free, open_error, uses, visible_state};
use crate::state::{State, Svc};
use api::progress::Progress;
use api::types::*;
use api::{Call, Error, ObjRef, Val, Wire, server};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::{Container, CreateParams, Layout, OpenMode, Variant};
use uuid::Uuid;

pub struct MediumObject {
    pub svc: Arc<Svc>,
    pub id: Uuid,
}

/// Where a medium's object is.
pub fn path(id: Uuid) -> ObjRef {
    ObjRef::new(format!("/Medium/{}", id.simple()))
}

/// The inverse of [`path`].
pub fn id_of(reference: &ObjRef) -> Option<Uuid> {
    crate::space::uuid(reference.path().strip_prefix("/Medium/")?)
}

impl MediumObject {
    fn get<R>(&self, f: impl FnOnce(&Medium) -> R) -> api::Result<R> {
        self.svc.with(|s| s.media.get(self.id).map(f))
    }

    /// Reads with the file's header known.
    fn info<R>(&self, f: impl FnOnce(&Medium) -> R) -> api::Result<R> {
        self.svc.with(|s| {
            let medium = s.media.get_mut(self.id)?;
            if medium.info.is_none() && medium.state == MediumState::NotCreated {
                // Known from a settings file, not looked at yet; a new one has no file.
                if medium.location.exists() || medium.registry.is_some() {
                    medium.refresh();
                }
            }
            Ok(f(medium))
        })
    }

    /// Changes what settings files keep, and writes the file that keeps it.
    fn change(&self, f: impl FnOnce(&mut Medium) -> api::Result<()>) -> api::Result<()> {
        self.svc.with(|s| {
            f(s.media.get_mut(self.id)?)?;
            let registry = s.media.get(self.id)?.registry;
            save_registry(s, registry)
        })?;
        let medium = path(self.id);
        self.svc.fire(
            VBoxEventType::OnMediumConfigChanged,
            vec![("medium", Val::Obj(medium))],
        );
        Ok(())
    }

    /// Runs a storage operation as a progress; the medium is in `state` meanwhile.
    fn run(
        &self,
        what: String,
        state: MediumState,
        work: impl FnOnce(&mut storage::Progress<'_>) -> storage::Result<()> + Send + 'static,
        done: impl FnOnce(&mut State, Uuid) + Send + 'static,
    ) -> api::Result<Arc<Progress>> {
        let (svc, id) = (self.svc.clone(), self.id);
        let before = svc.with(|s| {
            let medium = s.media.get_mut(id)?;
            Ok::<_, Error>(std::mem::replace(&mut medium.state, state))
        })?;
        let progress = Progress::spawn(what, true, move |progress| {
            let mut report = |percent| {
                progress.set_percent(percent);
                if progress.is_canceled() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            let result = work(&mut storage::Progress::new(&mut report));
            svc.with(|s| {
                if let Ok(medium) = s.media.get_mut(id) {
                    medium.state = before;
                }
                if result.is_ok() {
                    done(s, id);
                }
            });
            result.map_err(|e| match e {
                storage::Error::Cancelled => {
                    Error::new(ResultCode::E_ABORT, "The operation was cancelled")
                }
                e => file_error(format!("{e} ({})", e.status())),
            })
        });
        self.svc.track(&progress);
        Ok(progress)
    }

    /// The files of the medium and what it is stacked on, base first, none of them in use.
    fn chain_files(&self) -> api::Result<Vec<PathBuf>> {
        self.svc.with(|s| {
            must_be_free(s, s.media.get(self.id)?)?;
            let mut files = Vec::new();
            for id in s.media.chain(self.id).into_iter().rev() {
                files.push(s.media.get(id)?.location.clone());
            }
            Ok(files)
        })
    }

    fn clone_into(
        &self,
        cx: &Call,
        target: &ObjRef,
        variant: &[MediumVariant],
        parent: Option<&ObjRef>,
        size: Option<i64>,
    ) -> api::Result<ObjRef> {
        if parent.is_some_and(|p| !p.is_null()) {
            return Err(Error::not_implemented("IMedium", "cloneTo with a parent"));
        }
        let source = self.chain_files()?;
        let target_id = id_of(target).ok_or_else(|| invalid("The target is no medium"))?;
        let (name, location, format, exists) = self.svc.with(|s| {
            let t = s.media.get(target_id)?;
            must_be_free(s, t)?;
            let exists = t.state == MediumState::Created || t.registry.is_some();
            Ok::<_, Error>((
                s.media.get(self.id)?.name(),
                t.location.clone(),
                t.format.clone(),
                exists,
            ))
        })?;
        let (variant, layout) = wanted_variant(variant)?;
        let size = size.map(checked_size).transpose()?;
        let format = storage::format_by_id(&format).ok_or_else(|| no_format(&format))?;
        if let Some(folder) = location.parent().filter(|_| !exists) {
            std::fs::create_dir_all(folder)
                .map_err(|e| file_error(format!("Could not create '{}': {e}", folder.display())))?;
        }
        let work = move |progress: &mut storage::Progress<'_>| {
            let files: Vec<&Path> = source.iter().map(PathBuf::as_path).collect();
            let source = Container::open_chain(&files, OpenMode::ReadOnly)?;
            if exists {
                let mut target = Container::open(&location, OpenMode::ReadWrite)?;
                return storage::clone_into(&source, &mut target, progress);
            }
            let mut params = CreateParams::new(size.unwrap_or(source.size()), variant);
            params.uuid = target_id;
            params.layout = layout;
            storage::clone_to_new(&source, &location, format, &params, progress).map(drop)
        };
        let target = Self {
            svc: self.svc.clone(),
            id: target_id,
        };
        let what = format!("Creating clone medium '{name}'");
        let progress = target.run(what, MediumState::Creating, work, |s, id| {
            if let Ok(m) = s.media.get_mut(id) {
                m.refresh();
            }
        })?;
        Ok(cx.export(progress))
    }
}

fn no_format(id: &str) -> Error {
    invalid(format!("Invalid medium storage format '{id}'"))
}

fn checked_size(size: i64) -> api::Result<u64> {
    match u64::try_from(size) {
        Ok(size) if size > 0 => Ok(size.div_ceil(storage::SECTOR) * storage::SECTOR),
        _ => Err(invalid(format!("Invalid medium size {size}"))),
    }
}

fn wanted_variant(flags: &[MediumVariant]) -> api::Result<(Variant, Layout)> {
    let (mut variant, mut layout) = (Variant::Dynamic, Layout::Default);
    for flag in flags {
        match flag {
            MediumVariant::Standard | MediumVariant::NoCreateDir | MediumVariant::VdiZeroExpand => {
            }
            MediumVariant::Fixed => variant = Variant::Fixed,
            MediumVariant::VmdkSplit2G => layout = Layout::Split2G,
            MediumVariant::VmdkStreamOptimized => layout = Layout::StreamOptimized,
            // There are no others for these servers.
            MediumVariant::VmdkESX => (variant, layout) = (Variant::Fixed, Layout::Esx),
            other => {
                return Err(Error::new(
                    ResultCode::VBOX_E_NOT_SUPPORTED,
                    format!("The medium variant {} is not supported", other.name()),
                ));
            }
        }
    }
    Ok((variant, layout))
}

/// Writes the settings file that keeps a registry: a machine's, or `VirtualBox.xml` for nil.
pub fn save_registry(state: &mut State, owner: Option<Uuid>) -> api::Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    if owner.is_nil() {
        let folder = state.global.folder().to_owned();
        let registry = state.media.registry(owner, &folder);
        return state.global.change(|g| {
            g.media = registry;
            Ok(())
        });
    }
    let folder = state.machine(owner)?.folder().to_owned();
    let registry = state.media.registry(owner, &folder);
    let entry = state.machine_mut(owner)?;
    entry.settings_mut()?.media.clone_from(&registry);
    if let Some(pending) = &mut entry.pending {
        pending.media = registry;
    }
    if entry.registered {
        entry.save()
    } else {
        Ok(())
    }
}

/// Takes a medium off the list.
fn close(svc: &Svc, id: Uuid) -> api::Result<()> {
    let kind = svc.with(|s| {
        let medium = s.media.get(id)?;
        let (location, kind, registry) = (medium.location.clone(), medium.kind, medium.registry);
        must_be_free(s, medium)?;
        let users = uses(s, id).len();
        if users > 0 {
            return Err(Error::new(
                ResultCode::VBOX_E_OBJECT_IN_USE,
                format!(
                    "Cannot close medium '{}' because it is still attached to {users} virtual machines",
                    location.display()
                ),
            ));
        }
        let children = s.media.children(id).count();
        if children > 0 {
            return Err(Error::new(
                ResultCode::VBOX_E_OBJECT_IN_USE,
                format!(
                    "Cannot close medium '{}' because it has {children} child media",
                    location.display()
                ),
            ));
        }
        let removed = s.media.remove(id);
        if let Err(e) = save_registry(s, registry) {
            if let Some(medium) = removed {
                s.media.insert(medium);
            }
            return Err(e);
        }
        Ok(kind)
    })?;
    svc.fire(
        VBoxEventType::OnMediumRegistered,
        vec![
            ("mediumId", id.to_string().into_val()),
            ("mediumType", kind.into_val()),
            ("registered", Val::Bool(false)),
        ],
    );
    Ok(())
}

/// Takes a medium off the list and deletes its file.
pub fn delete(svc: &Svc, id: Uuid) -> api::Result<()> {
    let location = svc.with(|s| s.media.get(id).map(|m| m.location.clone()))?;
    close(svc, id)?;
    match storage::remove_image(&location) {
        Ok(()) | Err(storage::Error::NotFound { .. }) => Ok(()),
        Err(e) => Err(file_error(format!(
            "Could not delete the medium storage unit '{}': {e}",
            location.display()
        ))),
    }
}

impl server::IMedium for MediumObject {
    crate::fields! {
        description: String = description;
        auto_reset: bool = auto_reset;
        type_: MediumType = disk_type;
    }

    fn id(&self, _cx: &Call) -> api::Result<String> {
        Ok(self.id.to_string())
    }
    fn set_description(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.change(|m| {
            m.description = value;
            Ok(())
        })
    }
    fn state(&self, _cx: &Call) -> api::Result<MediumState> {
        self.info(|_| ())?;
        self.svc
            .with(|s| s.media.get(self.id).map(|m| visible_state(s, m)))
    }
    fn refresh_state(&self, cx: &Call) -> api::Result<MediumState> {
        self.svc.with(|s| {
            let medium = s.media.get_mut(self.id)?;
            let settled = matches!(
                medium.state,
                MediumState::Created | MediumState::Inaccessible
            );
            if settled || medium.registry.is_some() || medium.location.exists() {
                medium.refresh();
            }
            Ok::<_, Error>(())
        })?;
        server::IMedium::state(self, cx)
    }
    fn variant(&self, _cx: &Call) -> api::Result<Vec<MediumVariant>> {
        self.info(|m| {
            let Some((variant, layout)) = m.variant() else {
                return Vec::new();
            };
            let flags: Vec<MediumVariant> = match variant {
                Variant::Fixed => Some(MediumVariant::Fixed),
                Variant::Differencing => Some(MediumVariant::Diff),
                Variant::Dynamic => None,
            }
            .into_iter()
            .chain(match layout {
                Layout::Default => None,
                Layout::Split2G => Some(MediumVariant::VmdkSplit2G),
                Layout::StreamOptimized => Some(MediumVariant::VmdkStreamOptimized),
                Layout::Esx => Some(MediumVariant::VmdkESX),
                Layout::RawDisk => Some(MediumVariant::VmdkRawDisk),
            })
            .collect();
            match flags.is_empty() {
                true => vec![MediumVariant::Standard],
                false => flags,
            }
        })
    }
    fn location(&self, _cx: &Call) -> api::Result<String> {
        self.get(|m| m.location.to_string_lossy().into_owned())
    }
    fn set_location(&self, _cx: &Call, value: String) -> api::Result<()> {
        let location = absolute(&value)?;
        self.svc.with(|s| must_be_free(s, s.media.get(self.id)?))?;
        self.change(|m| {
            m.location = location;
            m.refresh();
            Ok(())
        })
    }
    fn name(&self, _cx: &Call) -> api::Result<String> {
        self.get(Medium::name)
    }
    fn device_type(&self, _cx: &Call) -> api::Result<DeviceType> {
        self.get(|m| m.kind)
    }
    fn host_drive(&self, _cx: &Call) -> api::Result<bool> {
        Ok(false)
    }
    fn size(&self, _cx: &Call) -> api::Result<i64> {
        self.info(|m| {
            m.info
                .as_ref()
                .map_or(0, |i| FromModel::from_model(&i.size_on_disk))
        })
    }
    fn logical_size(&self, _cx: &Call) -> api::Result<i64> {
        self.info(|m| {
            m.info
                .as_ref()
                .map_or(0, |i| FromModel::from_model(&i.size))
        })
    }
    fn format(&self, _cx: &Call) -> api::Result<String> {
        self.get(|m| m.format.clone())
    }
    fn medium_format(&self, _cx: &Call) -> api::Result<ObjRef> {
        self.get(|m| crate::mediumformat::path(&m.format))
    }
    fn set_type_(&self, _cx: &Call, value: MediumType) -> api::Result<()> {
        let kind = value.to_model()?;
        if self
            .svc
            .with(|s| uses(s, self.id).iter().any(|u| u.current))
        {
            let text = "Cannot change the type of a medium while it is attached to a machine";
            return Err(Error::new(ResultCode::VBOX_E_INVALID_OBJECT_STATE, text));
        }
        self.change(|m| {
            if m.kind != DeviceType::HardDisk || m.parent.is_some() {
                return Err(invalid("Cannot change the type of this medium"));
            }
            m.disk_type = kind;
            Ok(())
        })
    }
    fn set_auto_reset(&self, _cx: &Call, value: bool) -> api::Result<()> {
        self.change(|m| {
            if m.parent.is_none() {
                return Err(Error::new(
                    ResultCode::VBOX_E_NOT_SUPPORTED,
                    format!("Medium '{}' is not differencing", m.location.display()),
                ));
            }
            m.auto_reset = value;
            Ok(())
        })
    }
    fn allowed_types(&self, _cx: &Call) -> api::Result<Vec<MediumType>> {
        self.get(|m| match m.kind {
            DeviceType::HardDisk if m.parent.is_none() => MediumType::ALL.to_vec(),
            DeviceType::HardDisk => vec![MediumType::Normal],
            _ => vec![MediumType::Readonly],
        })
    }
    fn parent(&self, _cx: &Call) -> api::Result<ObjRef> {
        self.get(|m| m.parent.map_or(ObjRef::null(), path))
    }
    fn children(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        Ok(self
            .svc
            .with(|s| s.media.children(self.id).map(|m| path(m.id)).collect()))
    }
    fn base(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(self.svc.with(|s| {
            s.media
                .chain(self.id)
                .last()
                .copied()
                .map_or(ObjRef::null(), path)
        }))
    }
    fn read_only(&self, _cx: &Call) -> api::Result<bool> {
        self.svc.with(|s| {
            let medium = s.media.get(self.id)?;
            let by_type = matches!(
                medium.disk_type,
                settings::model::HardDiskType::Immutable
                    | settings::model::HardDiskType::Readonly
                    | settings::model::HardDiskType::MultiAttach
            );
            Ok(by_type
                || medium.kind == DeviceType::DVD
                || s.media.children(self.id).next().is_some())
        })
    }
    fn last_access_error(&self, _cx: &Call) -> api::Result<String> {
        self.info(|m| m.error.clone())
    }
    fn machine_ids(&self, _cx: &Call) -> api::Result<Vec<String>> {
        Ok(self.svc.with(|s| {
            uses(s, self.id)
                .iter()
                .map(|u| u.machine.to_string())
                .collect()
        }))
    }
    fn get_snapshot_ids(&self, _cx: &Call, machine_id: String) -> api::Result<Vec<String>> {
        let machine =
            iprt::uuid::parse(&machine_id).ok_or_else(|| invalid("Invalid machine UUID"))?;
        Ok(self.svc.with(|s| {
            let mut ids = Vec::new();
            for user in uses(s, self.id).iter().filter(|u| u.machine == machine) {
                // The machine's own UUID stands for its present state, and comes first.
                ids.extend(user.current.then(|| machine.to_string()));
                ids.extend(user.snapshots.iter().map(Uuid::to_string));
            }
            ids
        }))
    }
    fn close(&self, _cx: &Call) -> api::Result<()> {
        close(&self.svc, self.id)
    }
    fn get_property(&self, _cx: &Call, name: String) -> api::Result<String> {
        self.get(|m| m.properties.get(&name).cloned())?
            .ok_or_else(|| not_found(format!("Property '{name}' does not exist")))
    }
    fn set_property(&self, _cx: &Call, name: String, value: String) -> api::Result<()> {
        self.change(|m| {
            if value.is_empty() {
                m.properties.remove(&name);
            } else {
                m.properties.insert(name, value);
            }
            Ok(())
        })
    }
    fn get_properties(&self, _cx: &Call, names: String) -> api::Result<(Vec<String>, Vec<String>)> {
        self.get(|m| {
            let wanted = |n: &String| names.is_empty() || names.split(',').any(|w| w == n);
            m.properties
                .iter()
                .filter(|(n, _)| wanted(n))
                .map(|(n, v)| (v.clone(), n.clone()))
                .unzip()
        })
    }
    fn create_base_storage(
        &self,
        cx: &Call,
        size: i64,
        variant: Vec<MediumVariant>,
    ) -> api::Result<ObjRef> {
        let (size, variant_flags) = (checked_size(size)?, variant);
        let (variant, layout) = wanted_variant(&variant_flags)?;
        let (location, format) = self.svc.with(|s| {
            let medium = s.media.get(self.id)?;
            if medium.state != MediumState::NotCreated || medium.registry.is_some() {
                let text = format!(
                    "Storage for the medium '{}' is already created",
                    medium.location.display()
                );
                return Err(Error::new(ResultCode::VBOX_E_INVALID_OBJECT_STATE, text));
            }
            Ok((medium.location.clone(), medium.format.clone()))
        })?;
        let backend = storage::format_by_id(&format).ok_or_else(|| no_format(&format))?;
        if let Some(folder) = location.parent()
            && !variant_flags.contains(&MediumVariant::NoCreateDir)
        {
            std::fs::create_dir_all(folder)
                .map_err(|e| file_error(format!("Could not create '{}': {e}", folder.display())))?;
        }
        let mut params = CreateParams::new(size, variant);
        params.uuid = self.id;
        params.layout = layout;
        let kind = if variant == Variant::Fixed {
            "fixed"
        } else {
            "dynamic"
        };
        let what = format!(
            "Creating {kind} medium storage unit '{}'",
            location.display()
        );
        let work = move |progress: &mut storage::Progress<'_>| {
            let mut image = backend.create(&location, &params, progress)?;
            image.flush()
        };
        let progress = self.run(what, MediumState::Creating, work, |s, id| {
            if let Ok(m) = s.media.get_mut(id) {
                m.refresh();
            }
        })?;
        Ok(cx.export(progress))
    }
    fn delete_storage(&self, cx: &Call) -> api::Result<ObjRef> {
        let location = self.get(|m| m.location.clone())?;
        delete(&self.svc, self.id)?;
        let what = format!("Deleting medium storage unit '{}'", location.display());
        Ok(cx.export(Progress::done(what)))
    }
    fn resize(&self, cx: &Call, size: i64) -> api::Result<ObjRef> {
        let (size, files) = (checked_size(size)?, self.chain_files()?);
        let name = self.get(Medium::name)?;
        let work = move |progress: &mut storage::Progress<'_>| {
            let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
            let mut disk = Container::open_chain(&files, OpenMode::ReadWrite)?;
            disk.resize(size, progress)?;
            disk.flush()
        };
        let what = format!("Resizing medium '{name}'");
        let progress = self.run(what, MediumState::LockedWrite, work, |s, id| {
            if let Ok(m) = s.media.get_mut(id) {
                m.refresh();
            }
        })?;
        Ok(cx.export(progress))
    }
    fn compact(&self, cx: &Call) -> api::Result<ObjRef> {
        let files = self.chain_files()?;
        let name = self.get(Medium::name)?;
        let work = move |progress: &mut storage::Progress<'_>| {
            let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
            let mut disk = Container::open_chain(&files, OpenMode::ReadWrite)?;
            disk.top_image().compact(progress)?;
            disk.flush()
        };
        let what = format!("Compacting medium '{name}'");
        let progress = self.run(what, MediumState::LockedWrite, work, |s, id| {
            if let Ok(m) = s.media.get_mut(id) {
                m.refresh();
            }
        })?;
        Ok(cx.export(progress))
    }
    fn clone_to(
        &self,
        cx: &Call,
        target: ObjRef,
        variant: Vec<MediumVariant>,
        parent: ObjRef,
    ) -> api::Result<ObjRef> {
        self.clone_into(cx, &target, &variant, Some(&parent), None)
    }
    fn clone_to_base(
        &self,
        cx: &Call,
        target: ObjRef,
        variant: Vec<MediumVariant>,
    ) -> api::Result<ObjRef> {
        self.clone_into(cx, &target, &variant, None, None)
    }
    fn resize_and_clone_to(
        &self,
        cx: &Call,
        target: ObjRef,
        size: i64,
        variant: Vec<MediumVariant>,
        parent: ObjRef,
    ) -> api::Result<ObjRef> {
        self.clone_into(cx, &target, &variant, Some(&parent), Some(size))
    }
    fn move_to(&self, cx: &Call, location: String) -> api::Result<ObjRef> {
        let mut to = absolute(&location)?;
        self.svc.with(|s| must_be_free(s, s.media.get(self.id)?))?;
        let from = self.get(|m| m.location.clone())?;
        if to.is_dir() {
            to.push(from.file_name().unwrap_or_default());
        }
        if to.exists() {
            return Err(file_error(format!(
                "Could not move to '{}': it exists (VERR_ALREADY_EXISTS)",
                to.display()
            )));
        }
        // A rename keeps the file whole at any moment; across file systems there is no such thing.
        std::fs::rename(&from, &to).map_err(|e| {
            file_error(format!(
                "Could not move '{}' to '{}': {e}",
                from.display(),
                to.display()
            ))
        })?;
        self.change(|m| {
            m.location.clone_from(&to);
            Ok(())
        })?;
        Ok(cx.export(Progress::done(format!(
            "Moving medium '{}'",
            from.display()
        ))))
    }
}
api::object!(MediumObject: IMedium);

/// A location as clients give it; relative ones are below the client's folder, which only it
/// knows.
pub fn absolute(location: &str) -> api::Result<PathBuf> {
    let path = Path::new(location);
    if !path.is_absolute() || location.contains('\0') {
        let text = format!("Invalid medium location '{location}': it must be an absolute path");
        return Err(file_error(text));
    }
    Ok(iprt::path::absolute_from(path, Path::new("/")))
}

/// `IVirtualBox::openMedium`.
pub fn open(svc: &Svc, location: &str, kind: DeviceType) -> api::Result<Uuid> {
    if !matches!(
        kind,
        DeviceType::HardDisk | DeviceType::DVD | DeviceType::Floppy
    ) {
        return Err(invalid(format!(
            "Device type must be HardDisk, DVD or Floppy, not {}",
            kind.name()
        )));
    }
    if let Some(id) = iprt::uuid::parse(location) {
        let known = svc.with(|s| s.media.get(id).is_ok_and(|m| m.kind == kind));
        return if known {
            Ok(id)
        } else {
            Err(not_found(format!(
                "Could not find an open {} with UUID {{{id}}}",
                word(kind)
            )))
        };
    }
    let path = absolute(location)?;
    if let Some(id) = svc.with(|s| s.media.by_location(&path, kind).map(|m| m.id)) {
        return Ok(id);
    }
    let info = storage::media_info(&path).map_err(|e| open_error(&path, &e))?;
    if kind == DeviceType::HardDisk
        && crate::media::device_type(info.kind) != kind
        && info.format != "RAW"
    {
        return Err(file_error(format!(
            "'{}' is not a hard disk image",
            path.display()
        )));
    }
    // Images without a place for a UUID get one for as long as they are known.
    let own = info.uuid.filter(|_| kind == DeviceType::HardDisk);
    let id = own.unwrap_or_else(iprt::uuid::random);
    let mut medium = Medium::new(id, kind, path.clone(), info.format.to_owned());
    medium.parent = info.parent.map(|p| p.uuid);
    medium.refresh();
    svc.with(|s| {
        if let Some(parent) = medium.parent
            && s.media.get(parent).is_err()
        {
            return Err(not_found(format!(
                "Parent medium with UUID {{{parent}}} of the medium '{}' is not found in the media registry",
                path.display()
            )));
        }
        if let Ok(other) = s.media.get(id) {
            return Err(Error::new(
                ResultCode::E_INVALIDARG,
                format!(
                    "Cannot register the hard disk '{}' {{{id}}} because a hard disk '{}' with UUID {{{id}}} already exists",
                    path.display(),
                    other.location.display()
                ),
            ));
        }
        s.media.insert(medium);
        Ok(())
    })?;
    announce(svc, id, kind);
    Ok(id)
}

/// `IVirtualBox::createMedium`: known, but without a file yet.
pub fn create(svc: &Svc, format: &str, location: &str, kind: DeviceType) -> api::Result<Uuid> {
    let wanted = match format {
        "" => svc.with(|s| s.global.settings().system.default_hard_disk_format.clone()),
        given => given.to_owned(),
    };
    let backend = storage::format_by_id(&wanted).ok_or_else(|| no_format(&wanted))?;
    let path = absolute(location)?;
    if let Some(other) = svc.with(|s| s.media.by_location(&path, kind).map(|m| m.id)) {
        return Err(Error::new(
            ResultCode::VBOX_E_OBJECT_IN_USE,
            format!(
                "'{}' is known already, as medium {{{other}}}",
                path.display()
            ),
        ));
    }
    let id = iprt::uuid::random();
    svc.with(|s| {
        s.media
            .insert(Medium::new(id, kind, path, backend.id().to_owned()))
    });
    announce(svc, id, kind);
    Ok(id)
}

fn announce(svc: &Svc, id: Uuid, kind: DeviceType) {
    svc.fire(
        VBoxEventType::OnMediumRegistered,
        vec![
            ("mediumId", id.to_string().into_val()),
            ("mediumType", kind.into_val()),
            ("registered", Val::Bool(true)),
        ],
    );
}

fn word(kind: DeviceType) -> &'static str {
    match kind {
        DeviceType::DVD => "CD/DVD image",
        DeviceType::Floppy => "floppy image",
        _ => "hard disk",
    }
}
