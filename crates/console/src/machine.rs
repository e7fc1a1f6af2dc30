//! The configuration tree of a machine, from its settings. A pure function.

use api::types::{
    APICMode, BIOSBootMenuMode, DeviceType, ParavirtProvider, ResultCode, StorageBus, UartType,
};
use api::{Error, Result};
use devices::registry::{DEVICES, find};
use pdm::cfgm::Node;

use crate::settings::{Controller, Drive, Settings};

/// Extra data below this prefix is laid over the tree.
const INTERNAL: &str = "VBoxInternal/";
/// Where Debian's `seabios` package has its images.
const FIRMWARE: &str = "/usr/share/seabios/bios-256k.bin";
const VGA_FIRMWARE: &str = "/usr/share/seabios/vgabios-stdvga.bin";

/// Devices that are there only when something in the settings asks for them.
const OPTIONAL: &[&str] = &[
    "serial", "parallel", "hpet", "ioapic", "acpi", "piix3ide", "i82078",
];

fn refused(text: impl Into<String>) -> Error {
    Error::new(ResultCode::VBOX_E_NOT_SUPPORTED, text)
}

/// Builds the tree that [`vmm::Vm::new`] takes.
///
/// # Errors
/// `VBOX_E_NOT_SUPPORTED` for controllers that are not part of this build.
pub fn tree(s: &Settings) -> Result<Node> {
    let mut root = Node::default();
    root.set("Name", s.name.as_str())
        .set("UUID", s.id.as_str())
        .set("RamSize", u64::from(s.memory) << 20)
        .set("NumCPUs", u64::from(s.cpus));
    root.child_mut("HWACCM").set("Enabled", s.hwvirt);
    root.child_mut("PGM").set("LargePages", s.large_pages);
    let paravirt = match s.paravirt {
        ParavirtProvider::None | ParavirtProvider::Legacy => "none",
        _ => "minimal",
    };
    let cpum = root.child_mut("CPUM");
    cpum.set("Paravirt", paravirt)
        .set("PAE", s.pae)
        .set("LongMode", s.long_mode)
        .set("X2APIC", s.apic == APICMode::X2APIC)
        .set("GuestCpuName", s.cpu_profile.as_str())
        .set("PortableCpuIdLevel", u64::from(s.portability));
    for (n, leaf) in s.cpuid.iter().enumerate() {
        let node = cpum.child_mut("Leaves").child_mut(&n.to_string());
        for (key, value) in ["Leaf", "Subleaf", "Eax", "Ebx", "Ecx", "Edx"]
            .iter()
            .zip(leaf)
        {
            node.set(key, u64::from(*value));
        }
    }
    let offset = s.time_offset.saturating_mul(1_000_000);
    root.child_mut("TM")
        .set("UTCOffset", offset.cast_unsigned());

    for reg in DEVICES.iter().filter(|r| !OPTIONAL.contains(&r.name)) {
        config(&mut root, reg.name, 0);
    }
    for (name, wanted) in [("hpet", s.hpet), ("ioapic", s.ioapic), ("acpi", s.acpi)] {
        if wanted && find(name).is_some() {
            config(&mut root, name, 0);
        }
    }
    config(&mut root, "pcbios", 0).set("BiosRom", FIRMWARE);
    config(&mut root, "vga", 0)
        .set("VgaRom", VGA_FIRMWARE)
        .set("VRamSize", u64::from(s.vram) << 20);
    config(&mut root, "apic", 0).set(
        "Mode",
        match s.apic {
            APICMode::Disabled => 0u64,
            APICMode::APIC => 1,
            APICMode::X2APIC => 2,
        },
    );
    let uuid = iprt::uuid::parse(&s.hardware_uuid).unwrap_or_default();
    config(&mut root, "fwcfg", 0)
        .set("Uuid", uuid.as_bytes().to_vec())
        .set("BootMenu", s.boot_menu != BIOSBootMenuMode::Disabled);
    clock_chip(&mut root, s);
    storage(&mut root, s)?;
    for port in &s.serial {
        config(&mut root, "serial", port.slot)
            .set("IOBase", u64::from(port.io_base))
            .set("IRQ", u64::from(port.irq))
            .set(
                "UartType",
                match port.uart {
                    UartType::U16450 => "16450",
                    UartType::U16550A => "16550A",
                    UartType::U16750 => "16750",
                },
            );
    }
    for (key, value) in &s.extra_data {
        if let Some(path) = key.strip_prefix(INTERNAL).filter(|p| !p.is_empty()) {
            root.set_path(path, value.as_str());
        }
    }
    Ok(root)
}

fn config<'a>(root: &'a mut Node, device: &str, instance: u32) -> &'a mut Node {
    root.child_mut("Devices")
        .child_mut(device)
        .child_mut(&instance.to_string())
        .child_mut("Config")
}

fn clock_chip(root: &mut Node, s: &Settings) {
    let floppies: Vec<i32> = s
        .drives
        .iter()
        .filter(|d| d.kind == DeviceType::Floppy)
        .map(|d| d.device)
        .collect();
    let cmos = config(root, "mc146818", 0)
        .set("UseUTC", s.rtc_utc)
        .set("LocalOffset", s.seconds_east.cast_unsigned());
    for (i, device) in s.boot_order.iter().enumerate() {
        let name = match device {
            DeviceType::Floppy => "FLOPPY",
            DeviceType::DVD => "DVD",
            DeviceType::HardDisk => "DISK",
            DeviceType::Network => "LAN",
            _ => "NONE",
        };
        cmos.set(&format!("BootDevice{i}"), name);
    }
    for drive in floppies {
        // 3.5 inch, 1.44 MB.
        cmos.set(&format!("FloppyType{drive}"), 4u64);
    }
}

fn storage(root: &mut Node, s: &Settings) -> Result<()> {
    let mut ide = 0;
    for c in &s.controllers {
        match c.bus {
            StorageBus::IDE => {
                ide += 1;
                config(root, "piix3ide", 0).set("Type", c.kind.name());
            }
            StorageBus::Floppy => {
                config(root, "i82078", 0);
            }
            other => {
                return Err(refused(format!(
                    "Storage controller '{}': {} controllers are not part of this version of Oxbox",
                    c.name,
                    other.name()
                )));
            }
        }
    }
    if ide > 1 {
        return Err(refused("A machine has one IDE controller at most"));
    }
    Ok(())
}

/// The device below which a drive hangs, and its unit there.
///
/// # Errors
/// `VBOX_E_NOT_SUPPORTED` for controllers that are not part of this build.
pub fn place(controllers: &[Controller], drive: &Drive) -> Result<(&'static str, u32)> {
    let bus = controllers
        .iter()
        .find(|c| c.name == drive.controller)
        .map(|c| c.bus);
    let unit = match bus {
        Some(StorageBus::IDE) if (0..2).contains(&drive.port) && (0..2).contains(&drive.device) => {
            Some(("piix3ide", drive.port * 2 + drive.device))
        }
        Some(StorageBus::Floppy) if drive.port == 0 && (0..2).contains(&drive.device) => {
            Some(("i82078", drive.device))
        }
        _ => None,
    };
    match unit {
        Some((device, unit)) => Ok((device, unit.cast_unsigned())),
        None => Err(refused(format!(
            "There is no place {}:{} on the controller '{}'",
            drive.port, drive.device, drive.controller
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Serial;
    use api::types::{PortMode, StorageControllerType};

    fn settings() -> Settings {
        Settings {
            name: "t".into(),
            id: "8b1c4b1e-3f5c-4f57-9d7b-000000000001".into(),
            hardware_uuid: "8b1c4b1e-3f5c-4f57-9d7b-000000000001".into(),
            memory: 64,
            cpus: 1,
            vram: 16,
            hwvirt: true,
            large_pages: false,
            pae: true,
            long_mode: true,
            cpu_profile: "Intel Pentium".into(),
            portability: 1,
            cpuid: vec![[7, 0, 1, 2, 3, 4]],
            paravirt: ParavirtProvider::KVM,
            apic: APICMode::X2APIC,
            ioapic: true,
            acpi: true,
            hpet: false,
            rtc_utc: true,
            seconds_east: -3600,
            time_offset: -1500,
            boot_menu: BIOSBootMenuMode::MessageAndMenu,
            boot_order: vec![DeviceType::DVD, DeviceType::HardDisk],
            controllers: vec![Controller {
                name: "IDE".into(),
                bus: StorageBus::IDE,
                kind: StorageControllerType::PIIX4,
            }],
            drives: Vec::new(),
            serial: vec![Serial {
                slot: 1,
                io_base: 0x2f8,
                irq: 3,
                mode: PortMode::Disconnected,
                server: false,
                path: String::new(),
                uart: UartType::U16550A,
            }],
            extra_data: vec![
                ("GUI/X".into(), "1".into()),
                (
                    "VBoxInternal/Devices/pcbios/0/Config/BiosRom".into(),
                    "/x.bin".into(),
                ),
            ],
            left_out: Vec::new(),
        }
    }

    #[test]
    fn the_tree_says_what_the_settings_say() {
        let tree = tree(&settings()).unwrap();
        assert_eq!(tree.int("RamSize", 0).unwrap(), 64 << 20);
        let at = |path: &str, key: &str| tree.child(path).unwrap().str(key, "");
        assert_eq!(at("Devices/mc146818/0/Config", "BootDevice0"), "DVD");
        assert_eq!(at("Devices/serial/1/Config", "IRQ"), "3");
        assert_eq!(at("CPUM", "GuestCpuName"), "Intel Pentium");
        let leaf = tree.child("CPUM/Leaves/0").unwrap();
        assert_eq!(leaf.int("Leaf", 0).unwrap(), 7);
        assert_eq!(leaf.int("Edx", 0).unwrap(), 4);
        let clock = tree.child("Devices/mc146818/0/Config").unwrap();
        assert_eq!(clock.int("LocalOffset", 0).unwrap() as i64, -3600);
        assert!(tree.child("Devices/serial/0").is_none());
        assert!(tree.child("Devices/hpet").is_none());
        assert_eq!(at("Devices/pcbios/0/Config", "BiosRom"), "/x.bin");
        assert_eq!(
            tree.child("TM").unwrap().int("UTCOffset", 0).unwrap() as i64,
            -1_500_000_000
        );
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let mut s = settings();
        s.controllers[0].bus = StorageBus::SATA;
        let text = tree(&s).unwrap_err().text;
        assert!(text.contains("'IDE'") && text.contains("SATA"), "{text}");
    }

    #[test]
    fn drives_have_places() {
        let s = settings();
        let mut drive = Drive {
            controller: "IDE".into(),
            port: 1,
            device: 0,
            kind: DeviceType::DVD,
            images: Vec::new(),
            read_only: true,
            non_rotational: false,
            discard: false,
        };
        assert_eq!(place(&s.controllers, &drive).unwrap(), ("piix3ide", 2));
        drive.port = 2;
        assert!(place(&s.controllers, &drive).is_err());
        drive.controller = "Nowhere".into();
        assert!(place(&s.controllers, &drive).is_err());
    }
}
