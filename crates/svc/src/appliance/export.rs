//! Writing machines to a package.

use super::description::{Description, Entry, last};
use super::{Parts, canceled, disk, io_error, package_error};
use crate::conv::{FromModel, bus, file_error, invalid};
use crate::media::must_be_free;
use crate::state::{Svc, is_running};
use crate::view::immutable;
use VirtualSystemDescriptionType as T;
use api::Error;
use api::progress::Progress;
use api::types::*;
use ovf::{
    Algorithm, Content, DiskFormat, Envelope, File, Item, MachineExtension, Manifest, Network,
    OperatingSystem, Product, ResourceType, Version, VirtualSystem,
};
use settings::model::{
    AttachedDevice, AttachedMedium, DeviceType as Kind, Machine, NetworkMode, StorageController,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// A machine to be written.
#[derive(Debug, Clone)]
pub struct Export {
    machine: Uuid,
}

/// Where the package goes, and what it is.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    /// File name without extension; all files of the package start with it.
    stem: String,
    archive: bool,
    version: Version,
    manifest: bool,
    images: bool,
    strip: Option<ExportOptions>,
}

impl Target {
    pub fn new(version: Version, options: &[ExportOptions], path: &str) -> api::Result<Self> {
        let path = PathBuf::from(path);
        let extension = path
            .extension()
            .map(|e| e.to_string_lossy().to_ascii_lowercase());
        let archive = match extension.as_deref() {
            Some("ovf") => false,
            Some("ova") => true,
            _ => {
                return Err(invalid(
                    "Appliance file name must have .ovf or .ova extension",
                ));
            }
        };
        let stem = path
            .file_stem()
            .and_then(|s| s.to_str())
            .unwrap_or_default()
            .to_owned();
        if !path.is_absolute() || !ovf::is_plain_name(&stem) || stem.len() > 200 {
            return Err(invalid(format!(
                "Invalid appliance file '{}'",
                path.display()
            )));
        }
        let has = |option| options.contains(&option);
        let strip = [
            ExportOptions::StripAllMACs,
            ExportOptions::StripAllNonNATMACs,
        ];
        Ok(Self {
            stem,
            archive,
            version,
            manifest: has(ExportOptions::CreateManifest),
            images: has(ExportOptions::ExportDVDImages),
            strip: strip.into_iter().find(|o| has(*o)),
            path,
        })
    }
}

/// What a machine is made of, for `IMachine::exportTo`.
pub fn describe(
    svc: &Svc,
    machine: &Machine,
    location: &str,
) -> api::Result<(Export, Description)> {
    let stem = Path::new(location)
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned());
    let stem = stem
        .filter(|s| !s.is_empty())
        .unwrap_or_else(|| machine.name.clone());
    let hardware = &machine.hardware;
    let mut all = Vec::new();
    let mut add = |kind, reference: &str, ovf: &str, value: &str, extra: &str| {
        all.push(Entry::new(kind, reference, ovf, value, extra));
        all.len() - 1
    };
    let os = ovf::cim_id(&machine.os_type).to_string();
    add(T::OS, "", &os, &machine.os_type, "");
    add(T::Name, "", &machine.name, &machine.name, "");
    if !machine.description.is_empty() {
        add(
            T::Description,
            "",
            &machine.description,
            &machine.description,
            "",
        );
    }
    let (cpus, memory) = (
        hardware.cpu.count.to_string(),
        hardware.memory_mb.to_string(),
    );
    add(T::CPU, "", &cpus, &cpus, "");
    add(T::Memory, "", &memory, &memory, "");
    let mut controllers = Vec::new();
    for (number, controller) in hardware.storage.iter().enumerate() {
        let model = controller.kind.as_str();
        let kind = match bus(controller.kind) {
            StorageBus::IDE => T::HardDiskControllerIDE,
            StorageBus::SATA | StorageBus::PCIe => T::HardDiskControllerSATA,
            StorageBus::SCSI => T::HardDiskControllerSCSI,
            StorageBus::SAS => T::HardDiskControllerSAS,
            StorageBus::VirtioSCSI => T::HardDiskControllerVirtioSCSI,
            _ => continue,
        };
        controllers.push((number, add(kind, &number.to_string(), "", model, "")));
    }
    let mut disks = 0;
    for (number, controller) in hardware.storage.iter().enumerate() {
        for device in &controller.devices {
            let entry = controllers.iter().find(|(n, _)| *n == number);
            let channel = channel(controller, device);
            let extra = entry.map_or(String::new(), |(_, entry)| {
                format!("controller={entry};channel={channel}")
            });
            let location = match device.medium {
                AttachedMedium::Image(id) => {
                    svc.with(|s| s.media.get(id).map(|m| m.location.clone()))?
                }
                _ => PathBuf::new(),
            };
            let location = location.to_string_lossy();
            match device.kind {
                Kind::HardDisk if entry.is_some() => {
                    disks += 1;
                    let name = format!("{stem}-disk{disks:03}.vmdk");
                    add(
                        T::HardDiskImage,
                        &number.to_string(),
                        &name,
                        &location,
                        &extra,
                    );
                }
                Kind::HardDisk => {}
                Kind::Dvd => {
                    add(T::CDROM, "", "", &location, &extra);
                }
                Kind::Floppy => {
                    add(T::Floppy, "", "", &location, &extra);
                }
            }
        }
    }
    for card in hardware.network.iter().filter(|c| c.enabled) {
        let kind = NetworkAdapterType::from_model(&card.kind) as u32;
        let mode = network_name(card.mode);
        let extra = format!("slot={};type={mode}", card.slot);
        add(T::NetworkAdapter, "", mode, &kind.to_string(), &extra);
    }
    if !hardware.usb.controllers.is_empty() {
        add(T::USBController, "", "", "", "");
    }
    if hardware.audio.enabled {
        let kind = AudioControllerType::from_model(&hardware.audio.controller) as u32;
        add(T::SoundCard, "", "ensoniq1371", &kind.to_string(), "");
    }
    let export = Export {
        machine: machine.uuid,
    };
    Ok((export, Description::new(all)))
}

fn channel(controller: &StorageController, device: &AttachedDevice) -> u32 {
    let per_port = controller.kind.devices_per_port();
    device
        .port
        .saturating_mul(per_port)
        .saturating_add(device.device)
}

fn network_name(mode: NetworkMode) -> &'static str {
    match mode {
        NetworkMode::Nat => "NAT",
        NetworkMode::Bridged => "Bridged",
        NetworkMode::Internal => "Internal",
        NetworkMode::HostOnly | NetworkMode::HostOnlyNetwork => "HostOnly",
        NetworkMode::NatNetwork => "NATNetwork",
        NetworkMode::Generic => "Generic",
        NetworkMode::Null | NetworkMode::Cloud => "Null",
    }
}

/// An image to be put into the package.
struct Image {
    medium: Uuid,
    kind: Kind,
    /// Base first.
    chain: Vec<PathBuf>,
    name: String,
}

/// A machine as it is when it is written.
struct Source {
    machine: Machine,
    images: Vec<Image>,
}

/// Writes the package, or leaves nothing behind.
pub fn write(
    svc: &Arc<Svc>,
    machines: &[(Export, Vec<Entry>)],
    target: &Target,
    progress: &Progress,
) -> api::Result<()> {
    let mut count = 0;
    let mut sources = Vec::new();
    for (export, _) in machines {
        sources.push(source(svc, export.machine, target, &mut count)?);
    }
    if target.path.symlink_metadata().is_ok() {
        return Err(file_error(format!(
            "Appliance file '{}' already exists (VERR_ALREADY_EXISTS)",
            target.path.display()
        )));
    }
    let images: usize = sources.iter().map(|s| s.images.len()).sum();
    let steps = images + usize::from(target.manifest) + usize::from(target.archive);
    let mut parts = Parts::new(progress, steps);
    let mut stage = Stage::new(target)?;

    let (mut files, mut disks, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for source in &sources {
        for image in &source.images {
            let path = stage.file(&image.name)?;
            let capacity = match image.kind {
                Kind::HardDisk => Some(disk::export(&image.chain, &path, &parts)?),
                _ => {
                    copy_image(&image.chain, &path, &parts)?;
                    None
                }
            };
            let size = std::fs::metadata(&path)
                .map_err(|e| io_error("read", &path, &e))?
                .len();
            let number = all.len() + 1;
            let file = File {
                id: format!("file{number}"),
                href: image.name.clone(),
                size: Some(size),
                compression: String::new(),
            };
            disks.push(ovf::Disk {
                id: format!("vmdisk{number}"),
                capacity: capacity.unwrap_or(size),
                populated: None,
                file_ref: Some(file.id.clone()),
                format: match capacity {
                    Some(_) => DiskFormat::Vmdk.url().to_owned(),
                    None => DiskFormat::Iso.url().to_owned(),
                },
                uuid: Some(image.medium.to_string()),
            });
            files.push(file);
            all.push((image.name.clone(), path));
            parts.next();
        }
    }
    let mut envelope = Envelope {
        version: target.version,
        files,
        disks,
        ..Envelope::default()
    };
    for (source, (_, entries)) in sources.into_iter().zip(machines) {
        let system = system(source, entries, &envelope, target)?;
        for card in system
            .items
            .iter()
            .filter(|i| i.resource_type == ResourceType::ETHERNET)
        {
            if envelope.networks.iter().all(|n| n.name != card.connection) {
                envelope.networks.push(Network {
                    name: card.connection.clone(),
                    description: "Logical network used by this appliance.".to_owned(),
                });
            }
        }
        envelope.systems.push(system);
    }
    let descriptor = (format!("{}.ovf", target.stem), envelope.to_xml());
    let manifest = match target.manifest {
        true => {
            let manifest = digests(target.version, &descriptor, &all, &parts)?;
            parts.next();
            Some((format!("{}.mf", target.stem), manifest.to_text()))
        }
        false => None,
    };
    stage.finish(target, descriptor, manifest, all, &parts)
}

/// The machine's present settings and the images that go with them.
fn source(svc: &Svc, id: Uuid, target: &Target, count: &mut usize) -> api::Result<Source> {
    svc.with(|s| {
        let entry = s.machine(id)?;
        if is_running(entry.state) {
            return Err(immutable(entry.state));
        }
        let machine = entry.settings()?.clone();
        let mut images = Vec::new();
        let devices = machine.hardware.storage.iter().flat_map(|c| &c.devices);
        for device in devices {
            let AttachedMedium::Image(medium) = device.medium else {
                continue;
            };
            let known = s.media.get(medium)?;
            let wanted = match device.kind {
                Kind::HardDisk => true,
                Kind::Dvd => target.images,
                Kind::Floppy => false,
            };
            if !wanted {
                continue;
            }
            must_be_free(s, known)?;
            let mut chain = Vec::new();
            for link in s.media.chain(medium).into_iter().rev() {
                chain.push(s.media.get(link)?.location.clone());
            }
            *count += 1;
            let extension = if device.kind == Kind::HardDisk {
                "vmdk"
            } else {
                "iso"
            };
            images.push(Image {
                medium,
                kind: device.kind,
                chain,
                name: format!("{}-disk{count:03}.{extension}", target.stem),
            });
        }
        Ok(Source { machine, images })
    })
}

fn copy_image(chain: &[PathBuf], to: &Path, parts: &Parts<'_>) -> api::Result<()> {
    use std::io::{Read, Write};
    let from = chain.last().map_or(Path::new(""), PathBuf::as_path);
    let mut source = std::fs::File::open(from).map_err(|e| io_error("open", from, &e))?;
    let total = source
        .metadata()
        .map_err(|e| io_error("read", from, &e))?
        .len();
    let mut out = std::fs::File::create_new(to).map_err(|e| io_error("create", to, &e))?;
    let mut piece = vec![0; 1 << 18];
    let mut done = 0;
    loop {
        let got = source
            .read(&mut piece)
            .map_err(|e| io_error("read", from, &e))?;
        if got == 0 {
            return Ok(());
        }
        let data = piece.get(..got).unwrap_or_default();
        out.write_all(data).map_err(|e| io_error("write", to, &e))?;
        done += got as u64;
        if !parts.of(done, total) {
            return Err(canceled());
        }
    }
}

fn digests(
    version: Version,
    descriptor: &(String, String),
    files: &[(String, PathBuf)],
    parts: &Parts<'_>,
) -> api::Result<Manifest> {
    let algorithm = match version {
        Version::V2_0 => Algorithm::Sha256,
        _ => Algorithm::Sha1,
    };
    let mut hasher = ovf::Hasher::new(algorithm);
    hasher.update(descriptor.1.as_bytes());
    let mut entries = vec![(descriptor.0.clone(), hasher.finish())];
    for (name, path) in files {
        let digest = ovf::digest_file(algorithm, path, &mut || parts.at(0));
        entries.push((name.clone(), digest.map_err(|e| package_error(path, &e))?));
    }
    Ok(Manifest { entries })
}

// --- The descriptor --------------------------------------------------------------------------------

fn system(
    source: Source,
    entries: &[Entry],
    envelope: &Envelope,
    target: &Target,
) -> api::Result<VirtualSystem> {
    let text = |kind| last(entries, kind).map_or(String::new(), |e| e.value.clone());
    let Source {
        mut machine,
        images,
    } = source;
    let name = match text(T::Name) {
        name if name.is_empty() => machine.name.clone(),
        name => name,
    };
    let annotation = text(T::Description);
    let items = items(&machine, &images, envelope);
    machine.name.clone_from(&name);
    machine.description.clone_from(&annotation);
    Ok(VirtualSystem {
        id: name,
        name: String::new(),
        os: OperatingSystem {
            id: ovf::cim_id(&machine.os_type),
            description: machine.os_type.clone(),
            vbox_type: Some(machine.os_type.clone()),
        },
        product: Product {
            product: text(T::Product),
            product_url: text(T::ProductUrl),
            vendor: text(T::Vendor),
            vendor_url: text(T::VendorUrl),
            version: text(T::Version),
        },
        annotation,
        eula: text(T::License),
        system_type: "virtualbox-2.2".to_owned(),
        items,
        machine: Some(extension(machine, &images, target)?),
    })
}

/// VirtualBox's own settings, without what is not in the package.
fn extension(
    mut machine: Machine,
    images: &[Image],
    target: &Target,
) -> api::Result<MachineExtension> {
    machine.media = settings::model::MediaRegistry::default();
    machine.snapshot = None;
    machine.current_snapshot = None;
    machine.state_file = None;
    machine.aborted = false;
    for device in machine
        .hardware
        .storage
        .iter_mut()
        .flat_map(|c| &mut c.devices)
    {
        if let AttachedMedium::Image(id) = device.medium
            && !images.iter().any(|i| i.medium == id)
        {
            device.medium = AttachedMedium::None;
        }
    }
    for card in &mut machine.hardware.network {
        match target.strip {
            Some(ExportOptions::StripAllNonNATMACs) if card.mode == NetworkMode::Nat => {}
            Some(_) => card.mac.clear(),
            None => {}
        }
    }
    let text = settings::MachineFile::create("machine.vbox", machine).to_text();
    let text = text.map_err(|e| Error::new(ResultCode::VBOX_E_XML_ERROR, e.to_string()))?;
    MachineExtension::from_settings(&text)
        .map_err(|e| Error::new(ResultCode::VBOX_E_XML_ERROR, e.to_string()))
}

/// The generic description.
fn items(machine: &Machine, images: &[Image], envelope: &Envelope) -> Vec<Item> {
    let hardware = &machine.hardware;
    let mut all = Items::default();
    let cpus = hardware.cpu.count;
    let cpu = all.add(
        ResourceType::PROCESSOR,
        &format!("{cpus} virtual CPU"),
        "Number of virtual CPUs",
    );
    cpu.quantity = Some(cpus.into());
    let megabytes = hardware.memory_mb;
    let memory = all.add(
        ResourceType::MEMORY,
        &format!("{megabytes} MB of memory"),
        "Memory Size",
    );
    memory.allocation_units = "MegaBytes".to_owned();
    memory.quantity = Some(megabytes.into());

    // For each controller its instance IDs: IDE has one per channel.
    let mut instances: Vec<Vec<String>> = Vec::new();
    let mut counts = [0_u32; 3];
    for controller in &hardware.storage {
        let (kind, name, what, at) = match bus(controller.kind) {
            StorageBus::IDE => (ResourceType::IDE, "ideController", "IDE Controller", 0),
            StorageBus::SATA | StorageBus::PCIe => (
                ResourceType::OTHER_STORAGE,
                "sataController",
                "SATA Controller",
                1,
            ),
            StorageBus::SCSI | StorageBus::SAS | StorageBus::VirtioSCSI => {
                (ResourceType::SCSI, "scsiController", "SCSI Controller", 2)
            }
            _ => {
                instances.push(Vec::new());
                continue;
            }
        };
        let sub_type = match bus(controller.kind) {
            StorageBus::SCSI | StorageBus::SAS => controller.kind.as_str().to_ascii_lowercase(),
            _ => controller.kind.as_str().to_owned(),
        };
        let channels = if kind == ResourceType::IDE { 2 } else { 1 };
        let mut own = Vec::new();
        for channel in 0..channels {
            let item = all.add(kind, &format!("{name}{}", counts[at]), what);
            item.address = match kind {
                ResourceType::IDE => channel.to_string(),
                _ => counts[at].to_string(),
            };
            item.sub_type.clone_from(&sub_type);
            own.push(item.instance_id.clone());
            counts[at] += 1;
        }
        instances.push(own);
    }
    if !hardware.usb.controllers.is_empty() {
        all.add(ResourceType::USB, "usb", "USB Controller").address = "0".to_owned();
    }
    if hardware.audio.enabled {
        let sound = all.add(ResourceType::SOUND, "sound", "Sound Card");
        sound.address_on_parent = "3".to_owned();
        sound.automatic_allocation = Some(false);
        sound.sub_type = "ensoniq1371".to_owned();
    }
    let (mut disks, mut drives) = (0, 0);
    for (controller, own) in hardware.storage.iter().zip(&instances) {
        for device in &controller.devices {
            let image = match device.medium {
                AttachedMedium::Image(id) => images.iter().find(|i| i.medium == id),
                _ => None,
            };
            let disk_id = image.and_then(|image| {
                let file = envelope.files.iter().find(|f| f.href == image.name)?;
                let mut disks = envelope.disks.iter();
                disks.find(|d| d.file_ref.as_deref() == Some(file.id.as_str()))
            });
            let resource = disk_id
                .map(|d| format!("/disk/{}", d.id))
                .unwrap_or_default();
            let channel = channel(controller, device);
            let (parent, at) = match own.as_slice() {
                [first, second] => (if channel < 2 { first } else { second }, channel % 2),
                [only] => (only, channel),
                _ => (&String::new(), channel),
            };
            let item = match device.kind {
                // A disk that is not in the package has no place in its description.
                Kind::HardDisk if resource.is_empty() => continue,
                Kind::HardDisk => {
                    disks += 1;
                    all.add(ResourceType::DISK, &format!("disk{disks}"), "Disk Image")
                }
                Kind::Dvd => {
                    drives += 1;
                    let name = format!("cdrom{drives}");
                    let item = all.add(ResourceType::CD, &name, "CD-ROM Drive");
                    item.automatic_allocation = Some(true);
                    item
                }
                Kind::Floppy => {
                    let item = all.add(ResourceType::FLOPPY, "floppy0", "Floppy Drive");
                    item.automatic_allocation = Some(true);
                    item
                }
            };
            item.address_on_parent = at.to_string();
            item.host_resource = resource;
            item.parent.clone_from(parent);
        }
    }
    for card in hardware.network.iter().filter(|c| c.enabled) {
        let network = network_name(card.mode);
        let item = all.add(
            ResourceType::ETHERNET,
            &format!("Ethernet adapter on '{network}'"),
            "",
        );
        item.automatic_allocation = Some(true);
        item.connection = network.to_owned();
        item.sub_type = match NetworkAdapterType::from_model(&card.kind) {
            NetworkAdapterType::I82540EM
            | NetworkAdapterType::I82543GC
            | NetworkAdapterType::I82545EM => "E1000",
            NetworkAdapterType::Virtio => "VirtioNet",
            _ => "PCNet32",
        }
        .to_owned();
    }
    all.0
}

#[derive(Default)]
struct Items(Vec<Item>);

impl Items {
    fn add(&mut self, kind: ResourceType, caption: &str, description: &str) -> &mut Item {
        let number = u32::try_from(self.0.len() + 1).unwrap_or(u32::MAX);
        let mut item = Item::new(kind, number);
        caption.clone_into(&mut item.caption);
        description.clone_into(&mut item.description);
        let at = self.0.len();
        self.0.push(item);
        &mut self.0[at]
    }
}

// --- The files -------------------------------------------------------------------------------------

/// The files of a package under way. A folder's are made in their places; those of an archive in a
/// folder beside it, which goes in the end.
struct Stage {
    folder: PathBuf,
    scratch: bool,
    made: Vec<PathBuf>,
}

impl Stage {
    fn new(target: &Target) -> api::Result<Self> {
        let folder = target.path.parent().unwrap_or(Path::new("/")).to_owned();
        if !folder.is_dir() {
            return Err(file_error(format!(
                "Could not create '{}': there is no such folder",
                target.path.display()
            )));
        }
        if !target.archive {
            return Ok(Self {
                folder,
                scratch: false,
                made: Vec::new(),
            });
        }
        let folder = folder.join(format!(".{}-{}", target.stem, Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).map_err(|e| io_error("create", &folder, &e))?;
        Ok(Self {
            folder,
            scratch: true,
            made: Vec::new(),
        })
    }

    /// The place of a new file.
    fn file(&mut self, name: &str) -> api::Result<PathBuf> {
        let path = self.folder.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(file_error(format!(
                "'{}' already exists (VERR_ALREADY_EXISTS)",
                path.display()
            )));
        }
        self.made.push(path.clone());
        Ok(path)
    }

    fn finish(
        mut self,
        target: &Target,
        descriptor: (String, String),
        manifest: Option<(String, String)>,
        files: Vec<(String, PathBuf)>,
        parts: &Parts<'_>,
    ) -> api::Result<()> {
        let texts = std::iter::once(descriptor).chain(manifest);
        if !target.archive {
            for (name, text) in texts {
                let path = self.file(&name)?;
                write_new(&path, text.as_bytes())?;
            }
            self.made.clear();
            return Ok(());
        }
        let texts = texts.map(|(name, text)| (name, Content::Text(text)));
        let files = files
            .into_iter()
            .map(|(name, path)| (name, Content::File(path)));
        let all: Vec<_> = texts.chain(files).collect();
        let path = self.file(&format!("{}.ova", target.stem))?;
        let out = std::fs::File::create_new(&path).map_err(|e| io_error("create", &path, &e))?;
        let mut out = std::io::BufWriter::with_capacity(1 << 18, out);
        let written = ovf::write_archive(&mut out, &all, &mut |done, of| parts.of(done, of));
        written.map_err(|e| package_error(&target.path, &e))?;
        let out = out
            .into_inner()
            .map_err(|e| io_error("write", &path, e.error()))?;
        out.sync_all().map_err(|e| io_error("write", &path, &e))?;
        // Unlike a rename, this does not replace what somebody made meanwhile.
        std::fs::hard_link(&path, &target.path)
            .or_else(|_| match target.path.exists() {
                true => Err(std::io::ErrorKind::AlreadyExists.into()),
                false => std::fs::rename(&path, &target.path),
            })
            .map_err(|e| io_error("create", &target.path, &e))
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> api::Result<()> {
    use std::io::Write;
    let made = std::fs::File::create_new(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    made.map_err(|e| io_error("create", path, &e))
}

impl Drop for Stage {
    fn drop(&mut self) {
        for path in &self.made {
            let _ = std::fs::remove_file(path);
        }
        if self.scratch {
            let _ = std::fs::remove_dir(&self.folder);
        }
    }
}
