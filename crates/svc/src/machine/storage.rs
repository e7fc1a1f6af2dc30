//! Storage controllers and attachments of a machine.

use super::MachineObject;
use crate::conv::{self, FromModel, ToModel, invalid, not_found};
use crate::media::{self, Media};
use crate::medium;
use crate::state::is_running;
use crate::view::{View, When, immutable};
use api::types::*;
use api::{Call, Error, ObjRef, Val, Wire, client};
use settings::model::{AttachedDevice, AttachedMedium, Machine, StorageController};
use uuid::Uuid;

/// "No such controller".
pub fn no_controller(name: &str) -> Error {
    not_found(format!(
        "Could not find a storage controller named '{name}'"
    ))
}

/// "Nothing there".
pub fn no_device(name: &str, port: i32, device: i32) -> Error {
    not_found(format!(
        "No storage device attached to device slot {device} on port {port} of controller '{name}'"
    ))
}

/// The API's struct for one attachment.
pub fn attachment_at(
    view: &View,
    controller: &StorageController,
    d: &AttachedDevice,
) -> MediumAttachment {
    MediumAttachment {
        machine: view.path(""),
        medium: match &d.medium {
            AttachedMedium::None => ObjRef::null(),
            AttachedMedium::Image(id) => medium::path(*id),
            AttachedMedium::HostDrive(drive) => crate::host::drive_path(drive),
        },
        controller: controller.name.clone(),
        port: FromModel::from_model(&d.port),
        device: FromModel::from_model(&d.device),
        type_: FromModel::from_model(&d.kind),
        passthrough: d.passthrough,
        temporary_eject: d.temp_eject,
        is_ejected: false,
        non_rotational: d.non_rotational,
        discard: d.discard,
        hot_pluggable: d.hot_pluggable,
        bandwidth_group: ObjRef::null(),
    }
}

fn slot(controller: &StorageController, port: i32, device: i32) -> api::Result<(u32, u32)> {
    let max = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let (ports, devices) = (
        max(controller.port_count),
        max(controller.kind.devices_per_port()),
    );
    if port < 0 || port >= ports || device < 0 || device >= devices {
        return Err(invalid(format!(
            "The port and/or device parameter are out of range: port={port} (must be in range [0, {}]), device={device} (must be in range [0, {}])",
            ports - 1,
            devices - 1
        )));
    }
    Ok((port.unsigned_abs(), device.unsigned_abs()))
}

impl MachineObject {
    /// Where a controller's object is: names may hold anything, paths may not.
    pub(super) fn controller_path(&self, name: &str) -> ObjRef {
        self.0
            .path(&format!("StorageController/{}", crate::space::encode(name)))
    }

    pub(super) fn attachments(&self, of: Option<&str>) -> api::Result<Vec<MediumAttachment>> {
        self.0.get(|m| {
            if let Some(name) = of.filter(|n| m.hardware.controller(n).is_none()) {
                return Err(no_controller(name));
            }
            let wanted = m
                .hardware
                .storage
                .iter()
                .filter(|c| of.is_none_or(|n| n == c.name));
            Ok(wanted
                .flat_map(|c| c.devices.iter().map(|d| attachment_at(&self.0, c, d)))
                .collect())
        })?
    }

    pub(super) fn add_controller(&self, name: String, bus: StorageBus) -> api::Result<ObjRef> {
        let kind = conv::default_controller(bus)
            .ok_or_else(|| invalid(format!("Invalid connection type: {}", bus as u32)))?;
        if name.is_empty() {
            return Err(invalid("A storage controller needs a name"));
        }
        self.0.set(|m| {
            let list = &mut m.hardware.storage;
            if list.iter().any(|c| c.name == name) {
                return Err(Error::new(
                    ResultCode::VBOX_E_OBJECT_IN_USE,
                    format!("Storage controller named '{name}' already exists"),
                ));
            }
            let same = list.iter().filter(|c| conv::bus(c.kind) == bus).count();
            if same >= crate::system::max_controllers(bus) as usize {
                let text = "Too many storage controllers of this type";
                return Err(Error::new(ResultCode::VBOX_E_MAXIMUM_REACHED, text));
            }
            let mut controller = StorageController::new(name.clone(), kind);
            controller.instance = u32::try_from(same).unwrap_or(0);
            list.push(controller);
            Ok(())
        })?;
        self.controllers_changed(&name);
        Ok(self.controller_path(&name))
    }

    pub(super) fn remove_controller(&self, name: &str) -> api::Result<()> {
        self.0.set(|m| {
            let before = m.hardware.storage.len();
            m.hardware.storage.retain(|c| c.name != name);
            if m.hardware.storage.len() == before {
                Err(no_controller(name))
            } else {
                Ok(())
            }
        })?;
        self.controllers_changed(name);
        Ok(())
    }

    fn controllers_changed(&self, name: &str) {
        self.0.svc.fire(
            VBoxEventType::OnStorageControllerChanged,
            vec![
                ("machinId", self.0.id.to_string().into_val()),
                ("controllerName", Val::from(name)),
            ],
        );
    }

    /// Changes one attached device.
    pub(super) fn device(
        &self,
        when: When,
        name: &str,
        port: i32,
        device: i32,
        f: impl FnOnce(&mut AttachedDevice),
    ) -> api::Result<()> {
        self.0.change(when, |m| {
            f(find(m, name, port, device)?);
            Ok(())
        })
    }

    /// What an argument of an attach or mount call stands for.
    fn medium_argument(&self, cx: &Call, medium: &ObjRef) -> api::Result<AttachedMedium> {
        if medium.is_null() {
            return Ok(AttachedMedium::None);
        }
        if let Some(drive) = crate::host::drive_of(medium) {
            return Ok(AttachedMedium::HostDrive(drive));
        }
        let known = cx.local(medium).is_some();
        medium::id_of(medium)
            .filter(|_| known)
            .map(AttachedMedium::Image)
            .ok_or_else(|| invalid("The medium is unknown"))
    }

    pub(super) fn attach(
        &self,
        cx: &Call,
        name: &str,
        port: i32,
        device: i32,
        kind: DeviceType,
        medium: &ObjRef,
    ) -> api::Result<()> {
        let what = self.medium_argument(cx, medium)?;
        if what == AttachedMedium::None && kind == DeviceType::HardDisk {
            return Err(invalid("A hard disk cannot be attached without a medium"));
        }
        let attached_kind = kind.to_model()?;
        // Nothing is checked for a machine that may not change anyway.
        self.0.entry(|e| {
            let runs = is_running(e.state) || e.vm.is_some();
            if (e.registered && !self.0.mutable) || runs {
                Err(immutable(e.state))
            } else {
                Ok(())
            }
        })?;
        if let AttachedMedium::Image(id) = what {
            self.check_medium(id, kind, Some((name, port, device)))?;
        }
        self.0.set(|m| {
            let controller = m.hardware.controller_mut(name).ok_or_else(|| no_controller(name))?;
            let (p, d) = slot(controller, port, device)?;
            if controller.device(p, d).is_some() {
                return Err(Error::new(
                    ResultCode::VBOX_E_OBJECT_IN_USE,
                    format!("Device is already attached to port {port}, device {device} of controller '{name}' of this virtual machine"),
                ));
            }
            controller.devices.push(AttachedDevice {
                kind: attached_kind,
                port: p,
                device: d,
                medium: what.clone(),
                ..AttachedDevice::default()
            });
            controller.devices.sort_by_key(|d| (d.port, d.device));
            Ok(())
        })?;
        self.medium_changed(name, port, device);
        Ok(())
    }

    /// A medium of the right kind that no other machine writes to.
    fn check_medium(
        &self,
        id: Uuid,
        kind: DeviceType,
        at: Option<(&str, i32, i32)>,
    ) -> api::Result<()> {
        self.0.svc.with(|state| {
            let medium = state.media.get(id)?;
            if medium.kind != kind {
                return Err(invalid(format!(
                    "Cannot attach medium '{}' to a drive of type {}",
                    medium.location.display(),
                    kind.name()
                )));
            }
            if kind != DeviceType::HardDisk
                || matches!(medium.disk_type, settings::model::HardDiskType::Shareable)
            {
                return Ok(());
            }
            if state.media.children(id).next().is_some() {
                return Err(Error::new(
                    ResultCode::VBOX_E_OBJECT_IN_USE,
                    format!(
                        "Cannot attach medium '{}': it has differencing images, which this version does not create on attaching",
                        medium.location.display()
                    ),
                ));
            }
            let users = media::uses(state, id);
            let Some(user) = users.iter().find(|u| u.current) else { return Ok(()) };
            let name = state.machine(user.machine)?.name();
            let location = medium.location.display();
            let text = match at.filter(|_| user.machine == self.0.id) {
                Some((controller, port, device)) => format!(
                    "Medium '{location}' is already attached to this virtual machine; it cannot go to port {port}, device {device} of controller '{controller}' as well"
                ),
                None => format!("Medium '{location}' is already attached to the machine '{name}'"),
            };
            Err(Error::new(ResultCode::VBOX_E_OBJECT_IN_USE, text))
        })
    }

    pub(super) fn detach(&self, name: &str, port: i32, device: i32) -> api::Result<()> {
        self.0.set(|m| {
            find(m, name, port, device)?;
            let controller = m
                .hardware
                .controller_mut(name)
                .ok_or_else(|| no_controller(name))?;
            controller.devices.retain(|d| {
                (i64::from(d.port), i64::from(d.device)) != (i64::from(port), i64::from(device))
            });
            Ok(())
        })?;
        self.medium_changed(name, port, device);
        Ok(())
    }

    pub(super) fn mount(
        &self,
        cx: &Call,
        name: &str,
        port: i32,
        device: i32,
        medium: &ObjRef,
        force: bool,
    ) -> api::Result<()> {
        let what = self.medium_argument(cx, medium)?;
        let kind = self.0.get(|m| {
            let mut m = m.clone();
            find(&mut m, name, port, device).map(|d| DeviceType::from_model(&d.kind))
        })??;
        if kind == DeviceType::HardDisk {
            return Err(invalid(format!(
                "The device at port {port}, device {device} of controller '{name}' of this virtual machine is not removeable"
            )));
        }
        if let AttachedMedium::Image(id) = what {
            self.check_medium(id, kind, None)?;
        }
        let mut old = AttachedMedium::None;
        self.device(When::Any, name, port, device, |d| {
            old = std::mem::replace(&mut d.medium, what)
        })?;
        // A running machine changes its drive now, and may refuse: then so do we.
        let vm = self.0.entry(|e| Ok(e.vm.clone()))?;
        if let Some(vm) = vm {
            let control: client::InternalSessionControl = crate::forward::control(&vm);
            if let Err(e) = control.on_medium_change(name, port, device, force) {
                self.device(When::Any, name, port, device, |d| d.medium = old)?;
                return Err(e);
            }
        }
        self.medium_changed(name, port, device);
        Ok(())
    }

    fn medium_changed(&self, name: &str, port: i32, device: i32) {
        let found = self.attachments(Some(name)).unwrap_or_default().into_iter();
        if let Some(a) = { found }.find(|a| (a.port, a.device) == (port, device)) {
            let fields = vec![("mediumAttachment", a.into_val())];
            self.0.svc.fire(VBoxEventType::OnMediumChanged, fields);
        }
    }
}

fn find<'a>(
    m: &'a mut Machine,
    name: &str,
    port: i32,
    device: i32,
) -> api::Result<&'a mut AttachedDevice> {
    let controller = m
        .hardware
        .controller_mut(name)
        .ok_or_else(|| no_controller(name))?;
    let at = (i64::from(port), i64::from(device));
    controller
        .devices
        .iter_mut()
        .find(|d| (i64::from(d.port), i64::from(d.device)) == at)
        .ok_or_else(|| no_device(name, port, device))
}

/// Gives attached media that no settings file keeps to `owner`: a machine, or nil for
/// `VirtualBox.xml`.
pub fn adopt_media(media: &mut Media, owner: Uuid, machine: &Machine) {
    let tops: Vec<Uuid> = media::attached(&machine.hardware).collect();
    let all: Vec<Uuid> = tops.into_iter().flat_map(|t| media.chain(t)).collect();
    for id in all {
        if let Ok(medium) = media.get_mut(id) {
            medium.registry.get_or_insert(owner);
        }
    }
}
