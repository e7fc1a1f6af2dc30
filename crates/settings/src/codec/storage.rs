//! Storage controllers and media registries.

use super::{Done, Xml};
use crate::model::*;
use crate::version::Version;

pub(super) fn controller(x: &mut Xml<'_>, c: &mut StorageController) -> Done {
    use StorageControllerType as T;
    x.required("name", &mut c.name)?;
    x.required("type", &mut c.kind)?;
    x.need_if(c.kind == T::LsiLogicSas, Version::V1_10);
    x.need_if(c.kind == T::Usb, Version::V1_15);
    x.need_if(c.kind == T::NvMe, Version::V1_16);
    x.need_if(c.kind == T::VirtioScsi, Version::V1_18);
    x.explicit("PortCount", &mut c.port_count, c.kind.ports().2)?;
    x.range("PortCount", c.port_count, 1..=256)?;
    x.since(Version::V1_10)
        .explicit("useHostIOCache", &mut c.use_host_io_cache, true)?;
    x.since(Version::V1_11)
        .explicit("Bootable", &mut c.bootable, true)?;
    x.since(Version::V1_9)
        .rare("Instance", &mut c.instance, 0)?;
    if c.kind == T::Ahci {
        let names = [
            "IDE0MasterEmulationPort",
            "IDE0SlaveEmulationPort",
            "IDE1MasterEmulationPort",
            "IDE1SlaveEmulationPort",
        ];
        let usual = StorageController::DEFAULT_IDE_EMULATION_PORTS;
        for ((name, port), usual) in names.iter().zip(&mut c.ide_emulation_ports).zip(usual) {
            x.explicit(name, port, usual)?;
        }
    }
    x.list("AttachedDevice", &mut c.devices, device)
}

/// Whether the drives are what every machine had before 1.9: one DVD drive as secondary master of
/// the first IDE controller, and at most one floppy drive at a controller of its own.
pub(super) fn has_classic_drives(all: &[StorageController]) -> bool {
    use StorageControllerType as T;
    let is_ide = |c: &&StorageController| matches!(c.kind, T::Piix3 | T::Piix4 | T::Ich6);
    let plain = |d: &AttachedDevice, kind, port| {
        let bare = AttachedDevice {
            medium: d.medium.clone(),
            passthrough: d.passthrough && kind == DeviceType::Dvd,
            kind,
            port,
            ..AttachedDevice::default()
        };
        *d == bare
    };
    let of_kind = |kind| {
        all.iter()
            .flat_map(|c| &c.devices)
            .filter(move |d| d.kind == kind)
            .count()
    };
    let dvd = all.iter().find(is_ide).and_then(|c| c.device(1, 0));
    let dvd_fits =
        of_kind(DeviceType::Dvd) == 1 && dvd.is_some_and(|d| plain(d, DeviceType::Dvd, 1));

    let mut controllers = all.iter().filter(|c| c.kind == T::I82078);
    let floppies_fit = match (controllers.next(), controllers.next()) {
        (None, _) => of_kind(DeviceType::Floppy) == 0,
        (Some(c), None) => {
            let bare = StorageController {
                devices: c.devices.clone(),
                ..StorageController::new(crate::shape::FLOPPY_CONTROLLER, T::I82078)
            };
            let one = matches!(&c.devices[..], [d] if plain(d, DeviceType::Floppy, 0));
            *c == bare && one && of_kind(DeviceType::Floppy) == 1
        }
        _ => false,
    };
    dvd_fits && floppies_fit
}

/// Whether there are two controllers of one bus, which 1.11 brought.
pub(super) fn has_bus_twice(all: &[StorageController]) -> bool {
    use StorageControllerType as T;
    let bus = |c: &StorageController| match c.kind {
        T::Piix3 | T::Piix4 | T::Ich6 => T::Piix3,
        T::LsiLogic | T::BusLogic => T::LsiLogic,
        other => other,
    };
    (0..all.len()).any(|n| all[..n].iter().any(|c| bus(c) == bus(&all[n])))
}

fn device(x: &mut Xml<'_>, d: &mut AttachedDevice) -> Done {
    // A drive says whether it passes commands through; a disk cannot.
    if x.reading() || d.kind == DeviceType::Dvd {
        x.explicit("passthrough", &mut d.passthrough, false)?;
    } else {
        x.rare("passthrough", &mut d.passthrough, false)?;
    }
    x.rare("tempeject", &mut d.temp_eject, false)?;
    x.rare("nonrotational", &mut d.non_rotational, false)?;
    x.since(Version::V1_13)
        .rare("discard", &mut d.discard, false)?;
    x.required("type", &mut d.kind)?;
    x.since(Version::V1_15)
        .explicit("hotpluggable", &mut d.hot_pluggable, false)?;
    x.required("port", &mut d.port)?;
    x.range("port", d.port, 0..=255)?;
    x.required("device", &mut d.device)?;
    x.range("device", d.device, 0..=1)?;
    x.since(Version::V1_11)
        .rare("bandwidthGroup", &mut d.bandwidth_group, String::new())?;

    let mut image: Vec<uuid::Uuid> = Vec::new();
    let mut drive: Vec<String> = Vec::new();
    match &d.medium {
        AttachedMedium::None => {}
        AttachedMedium::Image(uuid) => image.push(*uuid),
        AttachedMedium::HostDrive(src) => drive.push(src.clone()),
    }
    x.list("Image", &mut image, |x, uuid| x.required("uuid", uuid))?;
    x.list("HostDrive", &mut drive, |x, src| x.required("src", src))?;
    if x.reading() {
        d.medium = match (image.pop(), drive.pop()) {
            (None, None) => AttachedMedium::None,
            (Some(uuid), None) if image.is_empty() => AttachedMedium::Image(uuid),
            (None, Some(src)) if drive.is_empty() => AttachedMedium::HostDrive(src),
            _ => return Err(x.fault("", "there is more than one medium in the drive")),
        };
    }
    Ok(())
}

pub(super) fn media_registry(x: &mut Xml<'_>, m: &mut MediaRegistry) -> Done {
    x.container("HardDisks", |x| {
        x.list("HardDisk", &mut m.hard_disks, base_disk)
    })?;
    x.container("DVDImages", |x| x.list("Image", &mut m.dvds, image))?;
    x.container("FloppyImages", |x| x.list("Image", &mut m.floppies, image))
}

fn base_disk(x: &mut Xml<'_>, d: &mut HardDisk) -> Done {
    hard_disk(x, d, true)
}

fn hard_disk(x: &mut Xml<'_>, d: &mut HardDisk, base: bool) -> Done {
    x.required("uuid", &mut d.uuid)?;
    x.required("location", &mut d.location)?;
    x.explicit("format", &mut d.format, "VDI".to_owned())?;
    if base {
        x.explicit("type", &mut d.kind, HardDiskType::Normal)?;
    } else {
        x.rare("type", &mut d.kind, HardDiskType::Normal)?;
    }
    x.rare("autoReset", &mut d.auto_reset, false)?;
    x.text("Description", &mut d.description)?;
    x.map("Property", &mut d.properties)?;
    x.list("HardDisk", &mut d.children, |x, child| {
        hard_disk(x, child, false)
    })
}

fn image(x: &mut Xml<'_>, i: &mut Image) -> Done {
    x.required("uuid", &mut i.uuid)?;
    x.required("location", &mut i.location)?;
    x.rare("format", &mut i.format, String::new())?;
    x.text("Description", &mut i.description)?;
    x.map("Property", &mut i.properties)
}
