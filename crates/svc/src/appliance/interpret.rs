//! What the machines of a package would become here.

use super::description::{Description, Entry};
use crate::ostypes;
use crate::state::Svc;
use crate::virtualbox::VirtualBoxObject;
use VirtualSystemDescriptionType as T;
use api::types::*;
use ovf::{Envelope, Item, Package, ResourceType, VirtualSystem};
use settings::model as m;
use std::sync::Arc;

/// Network cards that a machine of this chipset has.
const MAX_CARDS: usize = 8;

/// `IAppliance::disks`: ID, capacity, size in use, format, file, file's size, size of its pieces
/// and, where there is one, compression; -1 where the package does not say.
pub fn disk_lines(envelope: &Envelope) -> Vec<String> {
    let line = |disk: &ovf::Disk| {
        let file = disk.file_ref.as_deref().and_then(|id| envelope.file(id));
        let number = |n: Option<u64>| n.map_or("-1".to_owned(), |n| n.to_string());
        let mut fields = vec![
            disk.id.clone(),
            disk.capacity.to_string(),
            number(disk.populated),
            disk.format.clone(),
            file.map_or(String::new(), |f| f.href.clone()),
            number(file.and_then(|f| f.size)),
            "-1".to_owned(),
        ];
        if let Some(file) = file.filter(|f| !f.compression.is_empty()) {
            fields.push(file.compression.clone());
        }
        fields.join("\t")
    };
    envelope.disks.iter().map(line).collect()
}

/// The settings that VirtualBox put into the package, if they are there.
pub fn settings_of(system: &VirtualSystem) -> Option<Result<m::Machine, settings::Error>> {
    let text = system.machine.as_ref()?.to_settings();
    let file = settings::MachineFile::from_text(text, "vbox:Machine");
    Some(file.map(|f| f.content))
}

/// One description per machine, and warnings.
pub fn interpret(
    svc: &Arc<Svc>,
    package: &Package,
) -> api::Result<(Vec<Description>, Vec<String>)> {
    let (mut all, mut warnings, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for system in &package.envelope().systems {
        let mut description = Interpreter {
            svc,
            envelope: package.envelope(),
            system,
            settings: None,
            entries: Vec::new(),
            warnings: &mut warnings,
        };
        match settings_of(system) {
            Some(Ok(settings)) => description.settings = Some(settings),
            Some(Err(e)) => {
                let text = format!(
                    "The VirtualBox settings of '{}' cannot be used, so its generic description is: {e}",
                    system.id
                );
                description.warnings.push(text);
            }
            None => {}
        }
        description.identity(&mut names)?;
        description.hardware();
        let entries = description.entries;
        all.push(Description::new(entries));
    }
    Ok((all, warnings))
}

struct Interpreter<'a> {
    svc: &'a Arc<Svc>,
    envelope: &'a Envelope,
    system: &'a VirtualSystem,
    settings: Option<m::Machine>,
    entries: Vec<Entry>,
    warnings: &'a mut Vec<String>,
}

impl Interpreter<'_> {
    fn add(&mut self, kind: T, reference: &str, ovf: &str, value: &str, extra: &str) {
        self.entries
            .push(Entry::new(kind, reference, ovf, value, extra));
    }

    /// Who the machine is and where it goes.
    fn identity(&mut self, taken: &mut Vec<String>) -> api::Result<()> {
        let system = self.system;
        let own = self.settings.as_ref().map(|s| s.os_type.as_str());
        let os = own
            .or(system.os.vbox_type.as_deref())
            .and_then(ostypes::find)
            .map_or(ovf::guest_os(system.os.id), |t| t.id);
        self.add(T::OS, "", &system.os.id.to_string(), os, "");

        let wanted = match (&self.settings, system.name.as_str(), system.id.as_str()) {
            (Some(s), ..) if !s.name.is_empty() => s.name.clone(),
            (_, "", "") => "Appliance".to_owned(),
            (_, "", id) => id.to_owned(),
            (_, name, _) => name.to_owned(),
        };
        let (name, file) = self.free_name(&wanted, taken)?;
        let folder = crate::system::machine_folder;
        let folder = self.svc.with(|s| folder(&s.global.settings().system))?;
        let folder = self.svc.home.join(folder).to_string_lossy().into_owned();
        taken.push(name.clone());
        self.add(T::Name, "", &wanted, &name, "");
        self.add(T::PrimaryGroup, "", "/", "/", "");
        self.add(T::SettingsFile, "", "", &file, "");
        self.add(T::BaseFolder, "", "", &folder, "");

        let p = &system.product;
        let annotation = match &self.settings {
            Some(s) if system.annotation.is_empty() => &s.description,
            _ => &system.annotation,
        };
        let texts = [
            (T::Product, p.product.clone()),
            (T::ProductUrl, p.product_url.clone()),
            (T::Vendor, p.vendor.clone()),
            (T::VendorUrl, p.vendor_url.clone()),
            (T::Version, p.version.clone()),
            (T::Description, annotation.clone()),
            (T::License, system.eula.clone()),
        ];
        for (kind, text) in texts {
            if !text.is_empty() {
                self.add(kind, "", &text, &text, "");
            }
        }
        Ok(())
    }

    /// The name, or with the first number behind it that makes it new, and the settings file.
    fn free_name(&self, wanted: &str, taken: &[String]) -> api::Result<(String, String)> {
        let plain: String = wanted
            .chars()
            .map(|c| if c == '/' || c.is_control() { '_' } else { c })
            .take(60)
            .collect();
        let plain = match plain.as_str() {
            "." | ".." => "Appliance".to_owned(),
            _ => plain,
        };
        let vbox = VirtualBoxObject(self.svc.clone());
        let mut name = plain.clone();
        for number in 1.. {
            let file = vbox.compose(&name, "/", "")?;
            let known = self.svc.with(|s| {
                let mut machines = s.machines.iter();
                machines.any(|e| e.settings().is_ok_and(|m| m.name == name))
            });
            if !known && !taken.contains(&name) && !file.exists() {
                return Ok((name, file.to_string_lossy().into_owned()));
            }
            name = format!("{plain}_{number}");
        }
        Err(crate::conv::invalid("There is no free name"))
    }

    fn hardware(&mut self) {
        let items: Vec<&Item> = self.system.items.iter().collect();
        let of = |kind: ResourceType| {
            items
                .iter()
                .copied()
                .filter(move |i| i.resource_type == kind)
        };

        let own = self.settings.as_ref().map(|s| &s.hardware);
        let cpus = of(ResourceType::PROCESSOR).find_map(|i| i.quantity);
        let cpus = cpus.or(own.map(|h| h.cpu.count.into())).unwrap_or(1);
        let possible = cpus.clamp(1, crate::system::MAX_CPUS.into());
        if possible != cpus {
            self.warnings.push(format!(
                "The virtual system claims support for {cpus} CPUs, but at most {possible} are supported here"
            ));
        }
        self.add(T::CPU, "", &cpus.to_string(), &possible.to_string(), "");

        let memory = of(ResourceType::MEMORY)
            .find_map(Item::bytes)
            .map(|b| b >> 20);
        let recommended = || {
            let os = self.entries.iter().find(|e| e.kind == T::OS);
            let os = os.and_then(|e| ostypes::find(&e.value));
            os.map_or(128, |t| t.to_api().recommended_ram.into())
        };
        let own = self.settings.as_ref().map(|s| s.hardware.memory_mb.into());
        let memory = memory
            .filter(|m| *m > 0)
            .or(own)
            .unwrap_or_else(recommended);
        let possible = memory.clamp(crate::system::MIN_RAM.into(), crate::system::MAX_RAM.into());
        self.add(
            T::Memory,
            "",
            &memory.to_string(),
            &possible.to_string(),
            "",
        );

        if let Some(sound) = of(ResourceType::SOUND).next() {
            let card = match sound.sub_type.to_ascii_lowercase().as_str() {
                "sb16" => AudioControllerType::SB16,
                t if t.contains("hda") => AudioControllerType::HDA,
                _ => AudioControllerType::AC97,
            };
            self.add(
                T::SoundCard,
                "",
                &sound.sub_type,
                &(card as u32).to_string(),
                "",
            );
        }
        if of(ResourceType::USB).next().is_some() {
            self.add(T::USBController, "", "", "", "");
        }
        self.network(&of(ResourceType::ETHERNET).collect::<Vec<_>>());
        if of(ResourceType::FLOPPY).next().is_some() {
            self.add(T::Floppy, "", "", "", "");
        }
        let drives: Vec<&Item> = items
            .iter()
            .copied()
            .filter(|i| matches!(i.resource_type, ResourceType::CD | ResourceType::DVD))
            .collect();
        let first_drive = self.entries.len();
        for drive in &drives {
            let (reference, href) = self.image_of(drive);
            let name = href.rsplit('/').next().unwrap_or_default().to_owned();
            self.add(T::CDROM, &reference, &href, &name, "");
        }
        let controllers = self.controllers(&items);
        for (entry, drive) in (first_drive..).zip(drives) {
            if let Some(place) = place(drive, &controllers)
                && let Some(entry) = self.entries.get_mut(entry)
            {
                entry.extra.clone_from(&place);
                entry.suggested_extra = place;
            }
        }
        for disk in of(ResourceType::DISK) {
            let (reference, href) = self.image_of(disk);
            if self.envelope.disk(&reference).is_none() {
                let text = format!(
                    "Disk item {} refers to the unknown disk '{}' and is left out",
                    disk.instance_id, disk.host_resource
                );
                self.warnings.push(text);
                continue;
            }
            let Some(place) = place(disk, &controllers) else {
                let text = format!("Disk '{reference}' has no known controller and is left out");
                self.warnings.push(text);
                continue;
            };
            let plain = href.rsplit('/').next().unwrap_or_default();
            let plain = plain.strip_suffix(".gz").unwrap_or(plain);
            let name = match plain {
                "" => format!("{reference}.vdi"),
                name => name.to_owned(),
            };
            self.add(T::HardDiskImage, &reference, &href, &name, &place);
        }
    }

    /// ID and file of what a drive or disk has in it.
    fn image_of(&self, item: &Item) -> (String, String) {
        let href = |id: &str| {
            self.envelope
                .file(id)
                .map_or(String::new(), |f| f.href.clone())
        };
        if let Some(id) = item.resource("disk") {
            let file = self.envelope.disk(id).and_then(|d| d.file_ref.as_deref());
            return (id.to_owned(), file.map_or(String::new(), href));
        }
        match item.resource("file") {
            Some(id) => (id.to_owned(), href(id)),
            None => (String::new(), String::new()),
        }
    }

    fn network(&mut self, cards: &[&Item]) {
        let own = self.settings.as_ref().map(|s| {
            let on = s.hardware.network.iter().filter(|a| a.enabled);
            on.map(|a| (a.slot, a.kind)).collect::<Vec<_>>()
        });
        let os = self.entries.iter().find(|e| e.kind == T::OS);
        let usual = os
            .and_then(|e| ostypes::find(&e.value))
            .map_or(NetworkAdapterType::Am79C973, |t| t.to_api().adapter_type);
        if cards.len() > MAX_CARDS {
            self.warnings.push(format!(
                "The virtual system has {} network cards; {MAX_CARDS} are supported here",
                cards.len()
            ));
        }
        for (number, card) in cards.iter().take(MAX_CARDS).enumerate() {
            let kind = match card.sub_type.to_ascii_lowercase().as_str() {
                "pcnet32" => NetworkAdapterType::Am79C970A,
                "e1000" => NetworkAdapterType::I82540EM,
                // What VirtualCenter 3.5 wrote.
                "e10000" => NetworkAdapterType::I82545EM,
                "virtionet" | "virtio-net" => NetworkAdapterType::Virtio,
                _ => usual,
            };
            let modes = [
                "Null",
                "NAT",
                "Bridged",
                "Internal",
                "HostOnly",
                "Generic",
                "NATNetwork",
            ];
            let known = modes
                .into_iter()
                .find(|m| m.eq_ignore_ascii_case(card.connection.trim()));
            // Other products' networks are ones that machines share with their host.
            let mode = known.unwrap_or("Bridged");
            let slot = own
                .as_ref()
                .and_then(|o| o.get(number))
                .map_or(number as u32, |(slot, _)| *slot);
            self.add(
                T::NetworkAdapter,
                "",
                &card.connection,
                &(kind as u32).to_string(),
                &format!("slot={slot};type={mode}"),
            );
        }
    }

    /// Adds the controllers: instance ID, entry, and the channel that its first port is.
    fn controllers(&mut self, items: &[&Item]) -> Vec<Controller> {
        let mut found = Vec::new();
        for item in items {
            let model = item.sub_type.to_ascii_lowercase();
            let (kind, value) = match item.resource_type {
                ResourceType::IDE if model.contains("ich6") => (T::HardDiskControllerIDE, "ICH6"),
                ResourceType::IDE if model.contains("piix3") => (T::HardDiskControllerIDE, "PIIX3"),
                ResourceType::IDE => (T::HardDiskControllerIDE, "PIIX4"),
                ResourceType::SCSI | ResourceType::OTHER_STORAGE if model.contains("virtio") => {
                    (T::HardDiskControllerVirtioSCSI, "VirtioSCSI")
                }
                ResourceType::OTHER_STORAGE => {
                    if model.contains("nvme") {
                        self.warnings.push(
                            "An NVMe controller is described; its disks go to SATA".to_owned(),
                        );
                    }
                    (T::HardDiskControllerSATA, "AHCI")
                }
                ResourceType::SCSI if model.contains("sas") => {
                    (T::HardDiskControllerSAS, "LsiLogicSas")
                }
                ResourceType::SCSI if model.contains("buslogic") => {
                    (T::HardDiskControllerSCSI, "BusLogic")
                }
                ResourceType::SCSI => (T::HardDiskControllerSCSI, "LsiLogic"),
                _ => continue,
            };
            let second = item.resource_type == ResourceType::IDE && item.address.trim() == "1";
            found.push(Controller {
                instance: item.instance_id.clone(),
                entry: self.entries.len(),
                first_channel: if second { 2 } else { 0 },
            });
            self.add(kind, &item.instance_id, &item.sub_type, value, "");
        }
        found
    }
}

struct Controller {
    instance: String,
    entry: usize,
    first_channel: u32,
}

/// Where a disk or drive is attached.
fn place(item: &Item, controllers: &[Controller]) -> Option<String> {
    let found = controllers.iter().find(|c| c.instance == item.parent)?;
    let port: u32 = item.address_on_parent.trim().parse().unwrap_or(0);
    let channel = port.saturating_add(found.first_channel);
    Some(format!("controller={};channel={channel}", found.entry))
}
