//! Storage controllers and what is attached to them.

use super::sheet::Sheet;
use crate::error::Result;
use crate::names::{CONTROLLERS, word_of};
use crate::out::on_off;
use api::client::{Machine, MediumAttachment, StorageController};
use api::types::*;

/// A controller, read at once.
#[derive(Debug)]
struct Controller {
    name: String,
    kind: &'static str,
    bus: StorageBus,
    instance: u32,
    max_ports: u32,
    ports: u32,
    devices_per_port: u32,
    bootable: bool,
    drives: Vec<Drive>,
}

/// A drive of a controller.
#[derive(Debug)]
struct Drive {
    port: i32,
    device: i32,
    kind: DeviceType,
    /// Location and UUID of what is in it.
    medium: Option<(String, String)>,
    passthrough: bool,
    temporary_eject: bool,
    ejected: bool,
    hot_pluggable: bool,
    non_rotational: bool,
    discard: bool,
}

pub fn show(s: &mut Sheet<'_>, m: &Machine) -> Result {
    let controllers = m
        .storage_controllers()?
        .iter()
        .map(|c| read(m, c))
        .collect::<Result<Vec<_>>>()?;
    print(s, &controllers)
}

fn read(m: &Machine, c: &StorageController) -> Result<Controller> {
    let name = c.name()?;
    let drives = m
        .get_medium_attachments_of_controller(&name)?
        .into_iter()
        .map(drive)
        .collect::<Result<_>>()?;
    Ok(Controller {
        kind: word_of(CONTROLLERS, c.controller_type()?),
        bus: c.bus()?,
        instance: c.instance()?,
        max_ports: c.max_port_count()?,
        ports: c.port_count()?,
        devices_per_port: c.max_devices_per_port_count()?,
        bootable: c.bootable()?,
        name,
        drives,
    })
}

fn drive(a: MediumAttachment) -> Result<Drive> {
    let medium = match &a.medium {
        Some(medium) => Some((medium.location()?, medium.id()?)),
        None => None,
    };
    Ok(Drive {
        port: a.port,
        device: a.device,
        kind: a.type_,
        medium,
        passthrough: a.passthrough,
        temporary_eject: a.temporary_eject,
        ejected: a.is_ejected,
        hot_pluggable: a.hot_pluggable,
        non_rotational: a.non_rotational,
        discard: a.discard,
    })
}

fn print(s: &mut Sheet<'_>, controllers: &[Controller]) -> Result {
    if !s.machine {
        let none = if controllers.is_empty() {
            " <none>"
        } else {
            ""
        };
        s.line(format_args!("Storage Controllers:{none}"))?;
    }
    for (i, c) in controllers.iter().enumerate() {
        if s.machine {
            s.key(&format!("storagecontrollername{i}"), &c.name)?;
            s.key(&format!("storagecontrollertype{i}"), c.kind)?;
            s.key(
                &format!("storagecontrollerinstance{i}"),
                c.instance.to_string(),
            )?;
            s.key(
                &format!("storagecontrollermaxportcount{i}"),
                c.max_ports.to_string(),
            )?;
            s.key(
                &format!("storagecontrollerportcount{i}"),
                c.ports.to_string(),
            )?;
            s.key(&format!("storagecontrollerbootable{i}"), on_off(c.bootable))?;
            continue;
        }
        let bootable = if c.bootable { ", Bootable" } else { "" };
        s.line(format_args!(
            "#{i}: '{}', Type: {}, Instance: {}, Ports: {} (max {}){bootable}",
            c.name, c.kind, c.instance, c.ports, c.max_ports
        ))?;
        for drive in &c.drives {
            human_drive(s, drive)?;
        }
    }
    if s.machine {
        for c in controllers {
            machine_drives(s, c)?;
        }
    }
    Ok(())
}

fn human_drive(s: &mut Sheet<'_>, drive: &Drive) -> Result {
    let place = format!("  Port {}, Unit {}:", drive.port, drive.device);
    let Some((location, id)) = &drive.medium else {
        let ejected = if drive.ejected { ", ejected" } else { "" };
        return s.line(format_args!("{place} Empty{ejected}"));
    };
    let mut notes = String::new();
    for (is, note) in [
        (drive.passthrough, ", passthrough enabled"),
        (drive.temporary_eject, ", temp eject"),
        (drive.ejected, ", ejected"),
        (drive.hot_pluggable, ", hot-pluggable"),
        (drive.non_rotational, ", nonrotational"),
        (drive.discard, ", discards unused blocks"),
    ] {
        if is {
            notes.push_str(note);
        }
    }
    s.line(format_args!("{place} UUID: {id}{notes}"))?;
    s.line(format_args!("    Location: \"{location}\""))
}

fn machine_drives(s: &mut Sheet<'_>, c: &Controller) -> Result {
    for port in 0..i32::try_from(c.ports).unwrap_or(i32::MAX) {
        for device in 0..i32::try_from(c.devices_per_port).unwrap_or(i32::MAX) {
            let found = c
                .drives
                .iter()
                .find(|d| (d.port, d.device) == (port, device));
            let key = |what: &str| format!("{}-{what}{port}-{device}", c.name);
            let Some(drive) = found else {
                s.quoted_key(&key(""), "none")?;
                continue;
            };
            let removable = drive.kind != DeviceType::HardDisk;
            match &drive.medium {
                Some((location, id)) => {
                    s.quoted_key(&key(""), location)?;
                    s.quoted_key(&key("ImageUUID-"), id)?;
                    if drive.passthrough {
                        s.quoted_key(&key("dvdpassthrough-"), "on")?;
                    }
                    if removable {
                        s.quoted_key(&key("tempeject-"), on_off(drive.temporary_eject))?;
                    }
                }
                None => s.quoted_key(&key(""), "emptydrive")?,
            }
            if removable {
                s.quoted_key(&key("IsEjected-"), on_off(drive.ejected))?;
                continue;
            }
            if matches!(c.bus, StorageBus::SATA | StorageBus::USB) {
                s.quoted_key(&key("hot-pluggable-"), on_off(drive.hot_pluggable))?;
            }
            s.quoted_key(&key("nonrotational-"), on_off(drive.non_rotational))?;
            s.quoted_key(&key("discard-"), on_off(drive.discard))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sheet::tests::printed;
    use super::*;

    fn drive(port: i32, kind: DeviceType, medium: Option<&str>) -> Drive {
        Drive {
            port,
            device: 0,
            kind,
            medium: medium.map(|m| (m.to_owned(), "u".to_owned())),
            passthrough: false,
            temporary_eject: false,
            ejected: false,
            hot_pluggable: false,
            non_rotational: kind == DeviceType::HardDisk,
            discard: false,
        }
    }

    #[test]
    fn a_controller_with_a_disk_and_an_empty_drive() {
        let controllers = [Controller {
            name: "SATA".into(),
            kind: "IntelAhci",
            bus: StorageBus::SATA,
            instance: 0,
            max_ports: 30,
            ports: 3,
            devices_per_port: 1,
            bootable: true,
            drives: vec![
                drive(0, DeviceType::HardDisk, Some("/d.vdi")),
                drive(1, DeviceType::DVD, None),
            ],
        }];
        let [human, machine] = printed(|s| print(s, &controllers));
        assert_eq!(
            human,
            "Storage Controllers:\n\
             #0: 'SATA', Type: IntelAhci, Instance: 0, Ports: 3 (max 30), Bootable\n\
             \x20 Port 0, Unit 0: UUID: u, nonrotational\n\
             \x20   Location: \"/d.vdi\"\n\
             \x20 Port 1, Unit 0: Empty\n"
        );
        assert_eq!(
            machine,
            "storagecontrollername0=\"SATA\"\n\
             storagecontrollertype0=\"IntelAhci\"\n\
             storagecontrollerinstance0=\"0\"\n\
             storagecontrollermaxportcount0=\"30\"\n\
             storagecontrollerportcount0=\"3\"\n\
             storagecontrollerbootable0=\"on\"\n\
             \"SATA-0-0\"=\"/d.vdi\"\n\
             \"SATA-ImageUUID-0-0\"=\"u\"\n\
             \"SATA-hot-pluggable-0-0\"=\"off\"\n\
             \"SATA-nonrotational-0-0\"=\"on\"\n\
             \"SATA-discard-0-0\"=\"off\"\n\
             \"SATA-1-0\"=\"emptydrive\"\n\
             \"SATA-IsEjected-1-0\"=\"off\"\n\
             \"SATA-2-0\"=\"none\"\n"
        );
        assert_eq!(
            printed(|s| print(s, &[]))[0],
            "Storage Controllers: <none>\n"
        );
    }
}
