//! `storageattach`.

use super::{Command, form};
use crate::args::{Arg, Args, Given, Opt, flag, value};
use crate::cx::{Cx, Locked};
use crate::error::{During, Failure, Result};
use crate::media;
use crate::names::{DRIVES, MEDIUM_TYPES, is_online};
use api::ResultCode;
use api::client::{Machine, Medium, StorageController};
use api::types::*;

pub const COMMAND: Command = Command {
    name: "storageattach",
    aliases: &[],
    usage,
    forms: || vec![form("", OPTIONS).without(ISCSI)],
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage storageattach <uuid | vmname> <--storagectl=name> [--bandwidthgroup=name | none]
      [--comment=text] [--device=number] [--discard=on | off] [--forceunmount]
      [--hotpluggable=on | off]
      [--medium=none | emptydrive | additions | UUID | filename | host:drive]
      [--mtype=normal | writethrough | immutable | shareable | readonly | multiattach]
      [--nonrotational=on | off] [--passthrough=on | off] [--port=number] [--setparentuuid=UUID]
      [--setuuid=UUID] [--tempeject=on | off] [--type=dvddrive | fdd | hdd]\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    value(&["--storagectl", "-s"]),
    value(&["--port", "-p"]),
    value(&["--device", "-d"]),
    value(&["--type", "-t"]),
    value(&["--medium", "-m"]),
    value(&["--mtype", "-M"]),
    value(&["--passthrough", "-h"]),
    value(&["--tempeject"]),
    value(&["--nonrotational"]),
    value(&["--discard", "-u"]),
    value(&["--hotpluggable", "-o"]),
    value(&["--bandwidthgroup", "-b"]),
    flag(&["--forceunmount", "-f"]),
    value(&["--comment", "-C"]),
    value(&["--setuuid", "-q"]),
    value(&["--setparentuuid", "-Q"]),
    value(&["--server"]),
    value(&["--target"]),
    value(&["--tport"]),
    value(&["--lun"]),
    value(&["--encodedlun"]),
    value(&["--username"]),
    value(&["--password"]),
    value(&["--passwordfile"]),
    value(&["--initiator"]),
    flag(&["--intnet"]),
];

#[derive(Debug, Default)]
struct Wanted {
    machine: String,
    controller: String,
    port: Option<i32>,
    device: Option<i32>,
    kind: Option<DeviceType>,
    medium: Option<String>,
    medium_type: Option<MediumType>,
    force: bool,
    comment: Option<String>,
    set_uuid: Option<String>,
    set_parent_uuid: Option<String>,
    /// Switches of the drive, after it is attached.
    switches: Vec<Given>,
}

/// What is for iSCSI targets only.
const ISCSI: &[&str] = &[
    "--server",
    "--target",
    "--tport",
    "--lun",
    "--encodedlun",
    "--username",
    "--password",
    "--passwordfile",
    "--initiator",
    "--intnet",
];

fn parse(args: &mut Args) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    while let Some(arg) = args.next(OPTIONS)? {
        let given = match arg {
            Arg::Opt(_, given) => given,
            Arg::Word(word) if wanted.machine.is_empty() => {
                wanted.machine = word;
                continue;
            }
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        };
        match given.name {
            "--storagectl" => wanted.controller = given.value,
            "--port" => wanted.port = Some(given.within(0, i32::MAX)?),
            "--device" => wanted.device = Some(given.within(0, i32::MAX)?),
            "--type" => wanted.kind = Some(given.one_of(DRIVES)?),
            "--medium" => wanted.medium = Some(given.value),
            "--mtype" => wanted.medium_type = Some(given.one_of(MEDIUM_TYPES)?),
            "--forceunmount" => wanted.force = true,
            "--comment" => wanted.comment = Some(given.value),
            "--setuuid" | "--setparentuuid" => {
                let value = Some(given.value.clone());
                if !given.value.is_empty() && !media::is_uuid(&given.value) {
                    return Err(given.invalid());
                }
                match given.name {
                    "--setuuid" => wanted.set_uuid = value,
                    _ => wanted.set_parent_uuid = value,
                }
            }
            "--passthrough" | "--tempeject" | "--nonrotational" | "--discard"
            | "--hotpluggable" => {
                given.on()?;
                wanted.switches.push(given);
            }
            "--bandwidthgroup" => wanted.switches.push(given),
            _ => {
                return Err(Failure::message(
                    "iSCSI targets are not available in this version of Oxbox yet",
                ));
            }
        }
    }
    if wanted.machine.is_empty() || wanted.controller.is_empty() {
        return Err(Failure::syntax(if wanted.machine.is_empty() {
            "Machine name or UUID not specified"
        } else {
            "Storage controller name not specified"
        }));
    }
    Ok(wanted)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    let machine = cx.machine(&wanted.machine)?;
    // A running machine takes changes of media; everything else needs it for itself.
    let shared = is_online(machine.state()?);
    let kind = if shared {
        LockType::Shared
    } else {
        LockType::Write
    };
    let locked = cx.lock_machine(&machine, kind)?;
    attach(cx, &locked, &wanted)?;
    locked.save()
}

fn attach(cx: &mut Cx<'_>, locked: &Locked, wanted: &Wanted) -> Result {
    let machine = &locked.machine;
    let controller = match machine.get_storage_controller_by_name(&wanted.controller) {
        Ok(controller) => controller,
        Err(e) if e.code == ResultCode::VBOX_E_OBJECT_NOT_FOUND => {
            return Err(Failure::message(format!(
                "Could not find a controller named '{}'",
                wanted.controller
            )));
        }
        Err(e) => return Err(e.into()),
    };
    let place = Place {
        machine,
        controller: &wanted.controller,
        port: place(wanted.port, controller.max_port_count()?, "--port")?,
        device: place(
            wanted.device,
            controller.max_devices_per_port_count()?,
            "--device",
        )?,
    };
    if let Some(medium) = &wanted.medium {
        match medium.as_str() {
            "none" => place.empty(wanted)?,
            "emptydrive" => place.empty_drive(&controller, wanted)?,
            _ => place.insert(cx, &controller, wanted, medium)?,
        }
    }
    place.switches(wanted)
}

/// `--port` and `--device` may be left out where there is only one.
fn place(given: Option<i32>, count: u32, option: &str) -> Result<i32> {
    match given {
        Some(number) => Ok(number),
        None if count == 1 => Ok(0),
        None => Err(Failure::syntax(format!("Parameter {option} is required"))),
    }
}

/// Where a drive is.
struct Place<'a> {
    machine: &'a Machine,
    controller: &'a str,
    port: i32,
    device: i32,
}

impl Place<'_> {
    /// What is there now.
    fn attachment(&self) -> Result<Option<api::client::MediumAttachment>> {
        let found = self
            .machine
            .get_medium_attachment(self.controller, self.port, self.device);
        match found {
            Ok(attachment) => Ok(Some(attachment)),
            Err(e) if e.code == ResultCode::VBOX_E_OBJECT_NOT_FOUND => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// `--medium none`: the drive goes, with what is in it. Of a running machine only the medium of
    /// a removable drive can go.
    fn empty(&self, wanted: &Wanted) -> Result {
        let online = is_online(self.machine.state()?);
        let attachment = self.attachment()?;
        if online
            && attachment
                .as_ref()
                .is_some_and(|a| a.type_ != DeviceType::HardDisk)
        {
            return self.mount(None, wanted.force);
        }
        if attachment.is_none() {
            return Err(Failure::message(format!(
                "No drive attached to device slot {} on port {} of controller '{}'",
                self.device, self.port, self.controller
            )));
        }
        self.machine
            .detach_device(self.controller, self.port, self.device)
            .during("DetachDevice(Bstr(pszCtl).raw(), port, device)")
    }

    /// `--medium emptydrive`.
    fn empty_drive(&self, controller: &StorageController, wanted: &Wanted) -> Result {
        let kind = match self.attachment()? {
            Some(there) if wanted.kind.is_none_or(|k| k == there.type_) => {
                if there.type_ == DeviceType::HardDisk {
                    return Err(Failure::syntax(
                        "A hard disk cannot be replaced by an empty drive",
                    ));
                }
                return self.mount(None, wanted.force);
            }
            _ => wanted.kind.map_or_else(|| removable(controller), Ok)?,
        };
        if kind == DeviceType::HardDisk {
            return Err(Failure::syntax("A hard disk drive cannot be empty"));
        }
        self.attach(kind, None)
    }

    /// A medium goes in; the drive is made when it is not there.
    fn insert(
        &self,
        cx: &mut Cx<'_>,
        controller: &StorageController,
        wanted: &Wanted,
        what: &str,
    ) -> Result {
        let there = self.attachment()?;
        let kind = match (wanted.kind, &there) {
            (Some(kind), _) => kind,
            (None, Some(there)) => there.type_,
            (None, None) if what == "additions" => DeviceType::DVD,
            (None, None) if controller.bus()? == StorageBus::Floppy => DeviceType::Floppy,
            (None, None) => {
                return Err(Failure::syntax(
                    "Argument --type must be specified for an empty device slot",
                ));
            }
        };
        let medium = find(cx, what, kind)?;
        self.prepare(&medium, wanted)?;
        match there {
            Some(there) if there.type_ == kind && kind != DeviceType::HardDisk => {
                self.mount(Some(&medium), wanted.force)
            }
            Some(_) => {
                self.machine
                    .detach_device(self.controller, self.port, self.device)
                    .during("DetachDevice(Bstr(pszCtl).raw(), port, device)")?;
                self.attach(kind, Some(&medium))
            }
            None => self.attach(kind, Some(&medium)),
        }
    }

    /// What options say about the medium itself.
    fn prepare(&self, medium: &Medium, wanted: &Wanted) -> Result {
        if wanted.set_uuid.is_some() || wanted.set_parent_uuid.is_some() {
            medium
                .set_ids(
                    wanted.set_uuid.is_some(),
                    wanted.set_uuid.as_deref().unwrap_or_default(),
                    wanted.set_parent_uuid.is_some(),
                    wanted.set_parent_uuid.as_deref().unwrap_or_default(),
                )
                .during("SetIds(fSetNewUuid, bstrNewUuid.raw(), fSetNewParentUuid, bstrNewParentUuid.raw())")?;
        }
        if let Some(kind) = wanted.medium_type
            && medium.type_()? != kind
        {
            medium
                .set_type_(kind)
                .wanted("Failed to set medium type", "COMSETTER(Type)(mediumType)")?;
        }
        if let Some(comment) = &wanted.comment {
            medium
                .set_description(comment)
                .during("COMSETTER(Description)(Bstr(pszComment).raw())")?;
        }
        Ok(())
    }

    fn attach(&self, kind: DeviceType, medium: Option<&Medium>) -> Result {
        match medium {
            Some(_) => self
                .machine
                .attach_device(self.controller, self.port, self.device, kind, medium)
                .during(
                    "AttachDevice(Bstr(pszCtl).raw(), port, device, DeviceType, pMedium2Mount)",
                ),
            None => self
                .machine
                .attach_device_without_medium(self.controller, self.port, self.device, kind)
                .during("AttachDeviceWithoutMedium(Bstr(pszCtl).raw(), port, device, deviceType)"),
        }
    }

    fn mount(&self, medium: Option<&Medium>, force: bool) -> Result {
        self.machine
            .mount_medium(self.controller, self.port, self.device, medium, force)
            .during("MountMedium(Bstr(pszCtl).raw(), port, device, pMedium2Mount, fForceUnmount)")
    }

    fn switches(&self, wanted: &Wanted) -> Result {
        let (m, c, p, d) = (self.machine, self.controller, self.port, self.device);
        for switch in &wanted.switches {
            match switch.name {
                "--passthrough" => m.passthrough_device(c, p, d, switch.on()?),
                "--tempeject" => m.temporary_eject_device(c, p, d, switch.on()?),
                "--nonrotational" => m.non_rotational_device(c, p, d, switch.on()?),
                "--discard" => m.set_auto_discard_for_device(c, p, d, switch.on()?),
                "--hotpluggable" => m.set_hot_pluggable_for_device(c, p, d, switch.on()?),
                _ if switch.value == "none" => m.set_no_bandwidth_group_for_device(c, p, d),
                _ => {
                    let group = m
                        .bandwidth_control()?
                        .get_bandwidth_group(&switch.value)
                        .during("GetBandwidthGroup(Bstr(pszBandwidthGroup).raw(), bwGroup.asOutParam())")?;
                    m.set_bandwidth_group_for_device(c, p, d, Some(&group))
                }
            }
            .during(switch.name)?;
        }
        Ok(())
    }
}

/// The kind of drive without a medium that a controller takes.
fn removable(controller: &StorageController) -> Result<DeviceType> {
    Ok(match controller.bus()? {
        StorageBus::Floppy => DeviceType::Floppy,
        _ => DeviceType::DVD,
    })
}

/// The medium that `--medium` names.
fn find(cx: &mut Cx<'_>, what: &str, kind: DeviceType) -> Result<Medium> {
    if let Some(drive) = what.strip_prefix("host:") {
        let host = cx.vbox()?.host()?;
        return match kind {
            DeviceType::DVD => host.find_host_dvd_drive(drive).wanted(
                &format!("Invalid host DVD drive name \"{what}\""),
                "FindHostDVDDrive(Bstr(pszMedium + 5).raw(), pMedium2Mount.asOutParam())",
            ),
            DeviceType::Floppy => host.find_host_floppy_drive(drive).wanted(
                &format!("Invalid host floppy drive name \"{what}\""),
                "FindHostFloppyDrive(Bstr(pszMedium + 5).raw(), pMedium2Mount.asOutParam())",
            ),
            _ => Err(Failure::syntax("host: is only for DVD and floppy drives")),
        };
    }
    if what == "iscsi" {
        return Err(Failure::message(
            "iSCSI targets are not available in this version of Oxbox yet",
        ));
    }
    if what == "additions" {
        if kind != DeviceType::DVD {
            return Err(Failure::syntax("'additions' is only for DVD drives"));
        }
        let image = cx.vbox()?.system_properties()?.default_additions_iso()?;
        if image.is_empty() {
            return Err(Failure::message(
                "Cannot find the Guest Additions disc image",
            ));
        }
        return Ok(media::open(cx, &image, kind, AccessMode::ReadOnly)?.medium);
    }
    let mode = match kind {
        DeviceType::DVD => AccessMode::ReadOnly,
        _ => AccessMode::ReadWrite,
    };
    Ok(media::open(cx, what, kind, mode)?.medium)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Wanted> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())))
    }

    #[test]
    fn lines_of_tools() {
        let packer = [
            "vm",
            "--storagectl",
            "IDE",
            "--port",
            "0",
            "--device",
            "1",
            "--type",
            "dvddrive",
            "--medium",
            "/x.iso",
            "--nonrotational",
            "on",
            "--discard",
            "off",
        ];
        let wanted = parsed(&packer).expect("known");
        assert_eq!((wanted.port, wanted.device), (Some(0), Some(1)));
        assert_eq!(wanted.kind, Some(DeviceType::DVD));
        assert_eq!(wanted.switches.len(), 2);
        let vagrant = [
            "vm",
            "--storagectl",
            "SATA",
            "--port",
            "0",
            "--device",
            "0",
            "--type",
            "hdd",
            "--medium",
            "/x.vdi",
            "--comment",
            "text",
        ];
        assert_eq!(
            parsed(&vagrant).expect("known").comment.as_deref(),
            Some("text")
        );
    }

    #[test]
    fn wrong_lines() {
        for wrong in [
            &["vm", "--port", "0"][..],
            &["--storagectl", "IDE"],
            &["vm", "--storagectl", "IDE", "--port", "-1"],
            &["vm", "--storagectl", "IDE", "--type", "tape"],
            &["vm", "--storagectl", "IDE", "--mtype", "x"],
            &["vm", "--storagectl", "IDE", "--discard", "x"],
            &["vm", "--storagectl", "IDE", "--setuuid", "x"],
            &["vm", "--storagectl", "IDE", "x"],
        ] {
            assert!(
                matches!(parsed(wrong), Err(Failure::Syntax(_))),
                "{wrong:?}"
            );
        }
        let iscsi = parsed(&["vm", "--storagectl", "x", "--server", "y"]);
        assert!(matches!(iscsi, Err(Failure::Message(_))));
    }
}
