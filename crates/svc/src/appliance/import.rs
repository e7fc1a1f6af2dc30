//! Making machines of a package's.

use super::description::{Entry, last};
use super::undo::Undo;
use super::{Parts, canceled, disk, interpret};
use crate::conv::{ToModel, bus, file_error, invalid};
use crate::machine::{check_name, checked_groups, commit, defaults, name_is_free, register_path};
use crate::media::Medium;
use crate::state::{Entry as MachineEntry, Svc};
use crate::store::MachineFile;
use crate::virtualbox::VirtualBoxObject;
use api::progress::Progress;
use api::types::VirtualSystemDescriptionType as T;
use api::types::{self, DeviceType, ImportOptions, StorageBus, VBoxEventType};
use api::{Val, Wire};
use ovf::{Package, VirtualSystem};
use settings::model::{self as m, AttachedMedium, Machine, NetworkMode, StorageControllerType};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Makes all machines, or none. Their UUIDs.
pub fn import(
    svc: &Arc<Svc>,
    package: &Package,
    systems: &[Vec<Entry>],
    options: &[ImportOptions],
    progress: &Progress,
) -> api::Result<Vec<Uuid>> {
    let images = systems.iter().flatten().filter(|e| is_image(e)).count();
    let mut parts = Parts::new(progress, images);
    let mut undo = Undo::new(svc.clone());
    for (system, entries) in package.envelope().systems.iter().zip(systems) {
        let mut import = Import {
            svc,
            package,
            system,
            entries,
            options,
            undo: &mut undo,
        };
        import.run(&mut parts)?;
    }
    if progress.is_canceled() {
        return Err(canceled());
    }
    let (machines, media) = undo.keep();
    for id in media {
        let kind = svc.with(|s| s.media.get(id).map(|m| m.kind));
        let fields = vec![
            ("mediumId", id.to_string().into_val()),
            (
                "mediumType",
                kind.unwrap_or(DeviceType::HardDisk).into_val(),
            ),
            ("registered", Val::Bool(true)),
        ];
        svc.fire(VBoxEventType::OnMediumRegistered, fields);
    }
    for id in &machines {
        let fields = vec![
            ("machineId", id.to_string().into_val()),
            ("registered", Val::Bool(true)),
        ];
        svc.fire(VBoxEventType::OnMachineRegistered, fields);
    }
    Ok(machines)
}

fn is_image(entry: &Entry) -> bool {
    match entry.kind {
        T::HardDiskImage => true,
        T::CDROM => !entry.ovf.is_empty(),
        _ => false,
    }
}

struct Import<'a> {
    svc: &'a Arc<Svc>,
    package: &'a Package,
    system: &'a VirtualSystem,
    entries: &'a [Entry],
    options: &'a [ImportOptions],
    undo: &'a mut Undo,
}

/// An image of the package and the medium it became.
struct Image<'a> {
    entry: &'a Entry,
    id: Uuid,
}

impl Import<'_> {
    fn has(&self, option: ImportOptions) -> bool {
        self.options.contains(&option)
    }

    fn value(&self, kind: T) -> Option<&str> {
        last(self.entries, kind).map(|e| e.value.as_str())
    }

    fn run(&mut self, parts: &mut Parts<'_>) -> api::Result<()> {
        let name = self.value(T::Name).unwrap_or(&self.system.id).to_owned();
        check_name(&name)?;
        let group = self.value(T::PrimaryGroup).filter(|g| !g.is_empty());
        let groups = checked_groups(vec![group.unwrap_or("/").to_owned()])?;
        let file = self.settings_file(&name, &groups[0])?;
        if file.exists() {
            return Err(file_error(format!(
                "Machine settings file '{}' already exists",
                file.display()
            )));
        }
        let id = Uuid::new_v4();
        self.svc.with(|s| name_is_free(s, &name, id))?;
        let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
        self.undo.make_folder(&folder)?;

        let extension = interpret::settings_of(self.system).and_then(Result::ok);
        let from_extension = extension.is_some();
        let mut machine = match extension {
            Some(machine) => self.known(machine)?,
            None => self.described()?,
        };
        machine.uuid = id;
        machine.name = name;
        machine.groups = groups;
        machine.last_state_change = iprt::time::Timestamp::now();
        self.chosen(&mut machine)?;

        let mut images = Vec::new();
        let wanted: Vec<&Entry> = self.entries.iter().filter(|e| is_image(e)).collect();
        for entry in wanted {
            let made = self.image(entry, &folder, id, parts)?;
            images.push(Image { entry, id: made });
            parts.next();
        }
        if from_extension {
            self.reattach(&mut machine, &images)?;
        } else {
            for image in &images {
                let kind = match image.entry.kind {
                    T::CDROM => m::DeviceType::Dvd,
                    _ => m::DeviceType::HardDisk,
                };
                attach(
                    &mut machine,
                    self.entries,
                    image.entry,
                    kind,
                    Some(image.id),
                )?;
            }
        }

        self.svc.with(|s| {
            name_is_free(s, &machine.name, id)?;
            let contents = MachineFile::create(file.clone(), machine.clone());
            s.machines.push(MachineEntry::new(id, file, Ok(contents)));
            self.undo.machine(id);
            commit(s, id, machine)?;
            register_path(s, id)?;
            s.machine_mut(id)?.registered = true;
            Ok(())
        })
    }

    /// The suggested file, unless the name, the group or the folder that it was made of changed.
    fn settings_file(&self, name: &str, group: &str) -> api::Result<PathBuf> {
        if let Some(entry) = last(self.entries, T::SettingsFile)
            && entry.value != entry.suggested
        {
            let path = PathBuf::from(&entry.value);
            return match path.is_absolute() {
                true => Ok(path),
                false => {
                    let base = self.value(T::BaseFolder).unwrap_or_default();
                    let mut path = Path::new(base).join(path);
                    if path.extension().is_none() {
                        path.set_extension("vbox");
                    }
                    let path = std::path::absolute(path);
                    path.map_err(|e| invalid(format!("Invalid settings file: {e}")))
                }
            };
        }
        let changed = last(self.entries, T::BaseFolder).filter(|e| e.value != e.suggested);
        let base = changed.map_or("", |e| e.value.as_str());
        VirtualBoxObject(self.svc.clone()).compose(name, group, base)
    }

    // --- The machine ------------------------------------------------------------------------------

    /// The machine that VirtualBox described, made one of this computer.
    fn known(&self, mut machine: Machine) -> api::Result<Machine> {
        machine.media = m::MediaRegistry::default();
        machine.snapshot = None;
        machine.current_snapshot = None;
        machine.state_file = None;
        machine.aborted = false;
        machine.current_state_modified = true;
        Machine::DEFAULT_SNAPSHOT_FOLDER.clone_into(&mut machine.snapshot_folder);
        for card in &mut machine.hardware.network {
            let keeps = self.has(ImportOptions::KeepAllMACs)
                || self.has(ImportOptions::KeepNATMACs) && card.mode == NetworkMode::Nat;
            if card.enabled && (!keeps || card.mac.is_empty()) {
                card.mac = crate::host::random_mac();
            }
        }
        Ok(machine)
    }

    /// A machine of the generic description.
    fn described(&self) -> api::Result<Machine> {
        let os = self.value(T::OS).unwrap_or("Other");
        let mut machine = Machine::new(Uuid::nil(), "", os);
        defaults::create(&mut machine)?;
        let os = crate::ostypes::find(os).map(crate::ostypes::OsType::to_api);
        let hardware = &mut machine.hardware;
        hardware.adapter_mut(0).enabled = false;
        if let Some(os) = os {
            hardware.display.vram_mb = os.recommended_vram;
            hardware.hpet = os.recommended_hpet;
            if os.recommended_rtc_use_utc {
                hardware.rtc = m::RtcZone::Utc;
            }
        }
        for (number, entry) in self.of(T::NetworkAdapter).enumerate() {
            let slot = slot_of(entry).unwrap_or(u32::try_from(number).unwrap_or(0));
            card(&mut machine, slot, entry)?;
        }
        if let Some(sound) = last(self.entries, T::SoundCard) {
            let audio = &mut machine.hardware.audio;
            audio.enabled = true;
            audio.enabled_out = true;
            audio.use_default = true;
            let number = sound.value.trim().parse().ok();
            let kind = number.and_then(types::AudioControllerType::from_number);
            audio.controller = kind
                .unwrap_or(types::AudioControllerType::AC97)
                .to_model()?;
        }
        if self.of(T::USBController).next().is_some() {
            machine.hardware.usb.controllers.push(m::UsbController {
                name: "OHCI".to_owned(),
                kind: m::UsbControllerType::Ohci,
            });
        }
        if self.of(T::Floppy).next().is_some() {
            let kind = StorageControllerType::I82078;
            let mut floppy = m::StorageController::new("Floppy Controller", kind);
            floppy.devices.push(m::AttachedDevice {
                kind: m::DeviceType::Floppy,
                ..m::AttachedDevice::default()
            });
            machine.hardware.storage.push(floppy);
        }
        for entry in self.entries {
            if let Some(kind) = controller_of(entry) {
                add_controller(&mut machine, kind);
            }
        }
        // Drives without a disc; one that has no place goes where the first is free.
        for entry in self.of(T::CDROM).filter(|e| !is_image(e)) {
            let placed = attach(&mut machine, self.entries, entry, m::DeviceType::Dvd, None);
            if placed.is_err() {
                attach_drive(&mut machine);
            }
        }
        Ok(machine)
    }

    fn of(&self, kind: T) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |e| e.kind == kind)
    }

    /// What the client may have chosen.
    fn chosen(&self, machine: &mut Machine) -> api::Result<()> {
        if let Some(os) = self.value(T::OS) {
            let known = crate::ostypes::find(os);
            let known = known.ok_or_else(|| invalid(format!("Guest OS type '{os}' is invalid")))?;
            known.id.clone_into(&mut machine.os_type);
        }
        let number = |kind: T, what: &str, min: u32, max: u32| {
            let Some(text) = self.value(kind) else {
                return Ok(None);
            };
            let number = text.trim().parse::<u32>().ok();
            match number.filter(|n| (min..=max).contains(n)) {
                Some(number) => Ok(Some(number)),
                None => Err(invalid(format!(
                    "Invalid {what}: {text} (must be in range [{min}, {max}])"
                ))),
            }
        };
        let (min, max) = (crate::system::MIN_RAM, crate::system::MAX_RAM);
        if let Some(count) = number(T::CPU, "virtual CPU count", 1, crate::system::MAX_CPUS)? {
            machine.hardware.cpu.count = count;
            if count > 1 {
                machine.hardware.bios.ioapic = true;
            }
        }
        if let Some(memory) = number(T::Memory, "RAM size", min, max)? {
            machine.hardware.memory_mb = memory;
        }
        if let Some(text) = self.value(T::Description) {
            text.clone_into(&mut machine.description);
        }
        // What was taken out.
        let was = |kinds: &[ovf::ResourceType]| {
            self.system
                .items
                .iter()
                .any(|i| kinds.contains(&i.resource_type))
        };
        if was(&[ovf::ResourceType::SOUND]) && self.of(T::SoundCard).next().is_none() {
            machine.hardware.audio.enabled = false;
        }
        if was(&[ovf::ResourceType::USB]) && self.of(T::USBController).next().is_none() {
            machine.hardware.usb.controllers.clear();
        }
        for entry in self.entries {
            let Some(slot) = slot_of(entry) else { continue };
            let changed = entry.value != entry.suggested || entry.extra != entry.suggested_extra;
            match entry.kind {
                T::Ignore => machine.hardware.adapter_mut(slot).enabled = false,
                T::NetworkAdapter if changed => card(machine, slot, entry)?,
                _ => {}
            }
        }
        Ok(())
    }

    // --- Images ------------------------------------------------------------------------------------

    fn image(
        &mut self,
        entry: &Entry,
        folder: &Path,
        machine: Uuid,
        parts: &Parts<'_>,
    ) -> api::Result<Uuid> {
        let envelope = self.package.envelope();
        let disk = envelope.disk(&entry.reference);
        let file_id = disk.map_or(Some(entry.reference.as_str()), |d| d.file_ref.as_deref());
        let file = file_id.and_then(|id| envelope.file(id));
        if disk.is_none() && file.is_none() {
            return Err(invalid(format!(
                "There is no disk '{}' in the package",
                entry.reference
            )));
        }
        let mut path = iprt::path::absolute_from(Path::new(&entry.value), folder);
        let id = Uuid::new_v4();
        let is_disk = entry.kind == T::HardDiskImage;
        let default = disk.map(|d| ovf::DiskFormat::of_url(&d.format));
        let mut format = match disk::format_of(&path).filter(|_| is_disk) {
            Some(format) => format,
            None if !is_disk => "RAW",
            None => match default.flatten() {
                Some(ovf::DiskFormat::Vmdk) => "VMDK",
                Some(ovf::DiskFormat::Vhd) => "VHD",
                _ => "VDI",
            },
        };
        if is_disk && self.has(ImportOptions::ImportToVDI) {
            format = "VDI";
            path.set_extension("vdi");
        }
        let path = free_path(&path);
        if let Some(parent) = path.parent() {
            self.undo.make_folder(parent)?;
        }
        self.undo.file(&path);
        let target = disk::Target { path, format, id };
        match (is_disk, file) {
            (false, Some(file)) => disk::import_plain(self.package, file, &target.path, parts)?,
            _ => {
                let capacity = disk.map_or(0, |d| d.capacity);
                disk::import(self.package, file, capacity, &target, parts)?;
            }
        }
        let kind = if is_disk {
            DeviceType::HardDisk
        } else {
            DeviceType::DVD
        };
        let mut medium = Medium::new(id, kind, target.path, format.to_owned());
        medium.registry = Some(machine);
        medium.refresh();
        self.svc.with(|s| s.media.insert(medium));
        self.undo.medium(id);
        Ok(id)
    }

    /// Puts the images where the machine had their originals, which the descriptor's disks name.
    fn reattach(&self, machine: &mut Machine, images: &[Image<'_>]) -> api::Result<()> {
        let original = |image: &Image<'_>| {
            let disk = self.package.envelope().disk(&image.entry.reference)?;
            iprt::uuid::parse(disk.uuid.as_deref()?)
        };
        let mut placed: Vec<Uuid> = Vec::new();
        let mut unknown = Vec::new();
        for (c, controller) in machine.hardware.storage.iter_mut().enumerate() {
            for (d, device) in controller.devices.iter_mut().enumerate() {
                let AttachedMedium::Image(was) = device.medium else {
                    // A drive of another computer.
                    device.medium = AttachedMedium::None;
                    continue;
                };
                device.medium = match images.iter().find(|i| original(i) == Some(was)) {
                    Some(image) => {
                        placed.push(image.id);
                        AttachedMedium::Image(image.id)
                    }
                    None => {
                        if device.kind == m::DeviceType::HardDisk && !self.is_ignored(was) {
                            unknown.push((c, d));
                        }
                        AttachedMedium::None
                    }
                };
            }
        }
        // Packages whose disks lost their UUIDs: in order.
        let left = images.iter().filter(|i| i.entry.kind == T::HardDiskImage);
        let mut left = left.filter(|i| original(i).is_none());
        for (c, d) in unknown {
            let device = machine
                .hardware
                .storage
                .get_mut(c)
                .and_then(|c| c.devices.get_mut(d));
            if let (Some(device), Some(image)) = (device, left.next()) {
                placed.push(image.id);
                device.medium = AttachedMedium::Image(image.id);
            }
        }
        for controller in &mut machine.hardware.storage {
            let empty = |d: &m::AttachedDevice| {
                d.kind == m::DeviceType::HardDisk && d.medium == AttachedMedium::None
            };
            controller.devices.retain(|d| !empty(d));
        }
        for image in images {
            let moved = image.entry.extra != image.entry.suggested_extra;
            if moved {
                let medium = AttachedMedium::Image(image.id);
                for controller in &mut machine.hardware.storage {
                    controller.devices.retain(|d| d.medium != medium);
                }
            }
            if moved || !placed.contains(&image.id) {
                let kind = match image.entry.kind {
                    T::CDROM => m::DeviceType::Dvd,
                    _ => m::DeviceType::HardDisk,
                };
                attach(machine, self.entries, image.entry, kind, Some(image.id))?;
            }
        }
        Ok(())
    }

    /// Whether the client does not want the disk of that original.
    fn is_ignored(&self, original: Uuid) -> bool {
        let disks = self.package.envelope().disks.iter();
        let mut same =
            disks.filter(|d| d.uuid.as_deref().and_then(iprt::uuid::parse) == Some(original));
        same.any(|d| {
            let mut ignored = self.entries.iter().filter(|e| e.kind == T::Ignore);
            ignored.any(|e| e.reference == d.id)
        })
    }
}

/// The path, or with the first number behind its name that makes it new.
fn free_path(path: &Path) -> PathBuf {
    let stem = path
        .file_stem()
        .map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let extension = path
        .extension()
        .map(|e| format!(".{}", e.to_string_lossy()));
    let extension = extension.unwrap_or_default();
    let mut free = path.to_owned();
    let mut number = 0_u64;
    while free.symlink_metadata().is_ok() {
        number += 1;
        free.set_file_name(format!("{stem}_{number}{extension}"));
    }
    free
}

fn slot_of(entry: &Entry) -> Option<u32> {
    let slot = entry.option("slot")?.parse().ok()?;
    (slot < 8).then_some(slot)
}

/// Switches a network card on as an item says.
fn card(machine: &mut Machine, slot: u32, entry: &Entry) -> api::Result<()> {
    let kind = entry.value.trim().parse().ok();
    let kind = kind.and_then(types::NetworkAdapterType::from_number);
    let kind = kind.ok_or_else(|| invalid(format!("Invalid network adapter '{}'", entry.value)))?;
    let name = entry.option("name").unwrap_or_default().to_owned();
    let card = machine.hardware.adapter_mut(slot.min(7));
    card.enabled = true;
    card.kind = kind.to_model()?;
    if card.mac.is_empty() {
        card.mac = crate::host::random_mac();
    }
    match entry
        .option("type")
        .unwrap_or("NAT")
        .to_ascii_lowercase()
        .as_str()
    {
        "null" => card.mode = NetworkMode::Null,
        "bridged" => (card.mode, card.bridged) = (NetworkMode::Bridged, name),
        "internal" => (card.mode, card.internal) = (NetworkMode::Internal, name),
        "hostonly" => (card.mode, card.host_only) = (NetworkMode::HostOnly, name),
        "natnetwork" => (card.mode, card.nat_network) = (NetworkMode::NatNetwork, name),
        "generic" => {
            card.mode = NetworkMode::Generic;
            card.generic.driver = name;
        }
        _ => card.mode = NetworkMode::Nat,
    }
    Ok(())
}

/// The model of controller that an item is.
fn controller_of(entry: &Entry) -> Option<StorageControllerType> {
    use StorageControllerType as C;
    let model = entry.value.to_ascii_lowercase();
    Some(match (entry.kind, model.as_str()) {
        (T::HardDiskControllerIDE, "piix3") => C::Piix3,
        (T::HardDiskControllerIDE, "ich6") => C::Ich6,
        (T::HardDiskControllerIDE, _) => C::Piix4,
        (T::HardDiskControllerSATA, _) => C::Ahci,
        (T::HardDiskControllerSCSI, "buslogic") => C::BusLogic,
        (T::HardDiskControllerSCSI, _) => C::LsiLogic,
        (T::HardDiskControllerSAS, _) => C::LsiLogicSas,
        (T::HardDiskControllerVirtioSCSI, _) => C::VirtioScsi,
        _ => return None,
    })
}

/// VirtualBox's name for the controller of a bus.
fn controller_name(kind: StorageControllerType) -> &'static str {
    use StorageControllerType as C;
    match kind {
        C::Ahci => "SATA Controller",
        C::LsiLogic | C::BusLogic => "SCSI Controller",
        C::LsiLogicSas => "SAS Controller",
        C::VirtioScsi => "VirtioSCSI Controller",
        _ => "IDE Controller",
    }
}

/// One controller per bus is enough: the two channels of IDE are two items.
fn add_controller(machine: &mut Machine, kind: StorageControllerType) {
    let storage = &mut machine.hardware.storage;
    if storage.iter().all(|c| bus(c.kind) != bus(kind)) {
        let mut new = m::StorageController::new(controller_name(kind), kind);
        if kind == StorageControllerType::Ahci {
            new.port_count = kind.ports().1;
        }
        storage.push(new);
    }
}

/// Attaches an image, or an empty drive, where its item says.
fn attach(
    machine: &mut Machine,
    entries: &[Entry],
    entry: &Entry,
    kind: m::DeviceType,
    image: Option<Uuid>,
) -> api::Result<()> {
    let wrong = || {
        invalid(format!(
            "Invalid place of disk '{}': {}",
            entry.ovf, entry.extra
        ))
    };
    let controller: usize = entry
        .option("controller")
        .and_then(|v| v.parse().ok())
        .ok_or_else(wrong)?;
    let channel: u32 = entry
        .option("channel")
        .and_then(|v| v.parse().ok())
        .ok_or_else(wrong)?;
    let model = entries
        .get(controller)
        .and_then(controller_of)
        .ok_or_else(|| {
            invalid(format!(
                "Disk '{}' is attached to item {controller}, which is no controller in use",
                entry.ovf
            ))
        })?;
    add_controller(machine, model);
    let storage = &mut machine.hardware.storage;
    let found = storage
        .iter_mut()
        .find(|c| bus(c.kind) == bus(model))
        .ok_or_else(wrong)?;
    let per_port = found.kind.devices_per_port();
    let (port, device) = (channel / per_port, channel % per_port);
    if port >= found.kind.ports().1 {
        return Err(wrong());
    }
    found.port_count = found.port_count.max(port + 1);
    if found.device(port, device).is_some() {
        return Err(invalid(format!(
            "Two disks are attached to port {port} of '{}'",
            found.name
        )));
    }
    found.devices.push(m::AttachedDevice {
        kind,
        port,
        device,
        medium: image.map_or(AttachedMedium::None, AttachedMedium::Image),
        ..m::AttachedDevice::default()
    });
    Ok(())
}

/// An empty CD drive: the second IDE channel's first place, else the first free one.
fn attach_drive(machine: &mut Machine) {
    add_controller(machine, StorageControllerType::Piix4);
    let storage = &mut machine.hardware.storage;
    let Some(ide) = storage.iter_mut().find(|c| bus(c.kind) == StorageBus::IDE) else {
        return;
    };
    let places = [(1, 0), (1, 1), (0, 1), (0, 0)];
    if let Some((port, device)) = places
        .into_iter()
        .find(|(p, d)| ide.device(*p, *d).is_none())
    {
        ide.devices.push(m::AttachedDevice {
            kind: m::DeviceType::Dvd,
            port,
            device,
            ..m::AttachedDevice::default()
        });
    }
}
