//! Media on command lines: found by UUID or file, kept only as long as before, described.

use crate::args::{Args, choose};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result, known};
use crate::names::{IMAGES, MEDIUM_TYPES, word_of};
use crate::out::field;
use api::client::{Medium, VirtualBox};
use api::types::*;
use std::io::Write;

/// Whether the text is a UUID, with or without braces.
pub fn is_uuid(text: &str) -> bool {
    let bare = text
        .strip_prefix('{')
        .and_then(|t| t.strip_suffix('}'))
        .unwrap_or(text);
    bare.len() == 36
        && bare.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

/// The optional first word of the medium commands: `disk`, `dvd` or `floppy`.
pub fn image_kind(args: &mut Args) -> Option<DeviceType> {
    let kind = choose(args.peek()?, IMAGES)?;
    args.take();
    Some(kind)
}

/// A medium, and whether the service knew it before it was asked for.
pub struct Opened {
    pub medium: Medium,
    was_known: bool,
}

impl Opened {
    /// Lets go of a medium that was opened for this command only.
    pub fn forget(self) -> Result {
        if !self.was_known {
            self.medium.close()?;
        }
        Ok(())
    }
}

/// Finds a medium by UUID or opens it by file.
pub fn open(cx: &mut Cx<'_>, what: &str, kind: DeviceType, mode: AccessMode) -> Result<Opened> {
    let vbox = cx.vbox()?;
    let location = if is_uuid(what) {
        what.to_owned()
    } else {
        absolute(what)?
    };
    let was_known = is_uuid(what) || is_known(&vbox, &location, kind)?;
    let medium = vbox
        .open_medium(&location, kind, mode, false)
        .during("OpenMedium(Bstr(pszFilenameOrUuid).raw(), enmDevType, enmAccessMode, fForceNewUuidOnOpen, pMedium.asOutParam())")?;
    Ok(Opened { medium, was_known })
}

/// Finds a medium of whichever kind it is.
pub fn open_any(cx: &mut Cx<'_>, what: &str, kind: Option<DeviceType>) -> Result<Opened> {
    if let Some(kind) = kind {
        return open(cx, what, kind, AccessMode::ReadWrite);
    }
    // A hard disk, unless it is known as something else.
    let vbox = cx.vbox()?;
    let wanted = if is_uuid(what) {
        what.trim_matches(['{', '}']).to_lowercase()
    } else {
        absolute(what)?
    };
    for kind in [DeviceType::DVD, DeviceType::Floppy] {
        for medium in of_kind(&vbox, kind)? {
            if medium.id()? == wanted || medium.location()? == wanted {
                return Ok(Opened {
                    medium,
                    was_known: true,
                });
            }
        }
    }
    open(cx, what, DeviceType::HardDisk, AccessMode::ReadWrite)
}

/// The media without parents of one kind.
pub fn of_kind(vbox: &VirtualBox, kind: DeviceType) -> api::Result<Vec<Medium>> {
    match kind {
        DeviceType::DVD => vbox.dvd_images(),
        DeviceType::Floppy => vbox.floppy_images(),
        _ => vbox.hard_disks(),
    }
}

fn is_known(vbox: &VirtualBox, location: &str, kind: DeviceType) -> Result<bool> {
    let mut left = of_kind(vbox, kind)?;
    while let Some(medium) = left.pop() {
        if medium.location()? == location {
            return Ok(true);
        }
        left.extend(medium.children()?);
    }
    Ok(false)
}

/// `--variant` words; several are separated by commas.
pub fn variants(words: &str) -> Result<Vec<MediumVariant>> {
    words
        .split(',')
        .map(|word| {
            let is = |names: &[&str]| names.iter().any(|n| word.eq_ignore_ascii_case(n));
            let variant = match word {
                _ if is(&["standard", "default"]) => MediumVariant::Standard,
                _ if is(&["fixed", "static"]) => MediumVariant::Fixed,
                _ if is(&["diff", "differencing"]) => MediumVariant::Diff,
                _ if is(&["split2g", "split", "vmdksplit2g"]) => MediumVariant::VmdkSplit2G,
                _ if is(&["stream", "streamoptimized"]) => MediumVariant::VmdkStreamOptimized,
                _ if is(&["esx"]) => MediumVariant::VmdkESX,
                _ if is(&["formatted"]) => MediumVariant::Formatted,
                _ if is(&["rawdisk"]) => MediumVariant::VmdkRawDisk,
                _ => {
                    let text = format!("Invalid medium variant '{words}'");
                    return Err(Failure::syntax(text));
                }
            };
            Ok(variant)
        })
        .collect()
}

/// `Format variant:` of a medium.
fn variant_text(variants: &[MediumVariant]) -> String {
    let has = |v| variants.contains(&v);
    let base = if has(MediumVariant::Diff) {
        "differencing"
    } else if has(MediumVariant::Fixed) {
        "fixed"
    } else {
        "dynamic"
    };
    let special = if has(MediumVariant::VmdkSplit2G) {
        "split2G"
    } else if has(MediumVariant::VmdkStreamOptimized) {
        "streamOptimized"
    } else if has(MediumVariant::VmdkESX) {
        "ESX"
    } else if has(MediumVariant::VmdkRawDisk) {
        "rawdisk"
    } else {
        "default"
    };
    format!("{base} {special}")
}

fn state_text(state: MediumState) -> &'static str {
    match state {
        MediumState::NotCreated => "not created",
        MediumState::Created => "created",
        MediumState::LockedRead => "locked read",
        MediumState::LockedWrite => "locked write",
        MediumState::Inaccessible => "inaccessible",
        MediumState::Creating => "creating",
        MediumState::Deleting => "deleting",
    }
}

/// One field of a medium's description.
fn line(out: &mut dyn Write, label: &str, value: impl std::fmt::Display) -> Result {
    field(out, 16, label, value)
}

/// A medium as `showmediuminfo` and `list -l` describe it, or as `list` does.
pub fn describe(
    out: &mut dyn Write,
    vbox: &VirtualBox,
    medium: &Medium,
    parent: &str,
    long: bool,
) -> Result {
    line(out, "UUID:", medium.id()?)?;
    let disk = medium.device_type()? == DeviceType::HardDisk;
    if disk {
        line(out, "Parent UUID:", parent)?;
    }
    let state = medium.refresh_state()?;
    line(out, "State:", state_text(state))?;
    if state == MediumState::Inaccessible
        && let Some(error) = known(medium.last_access_error())?
        && long
    {
        line(out, "Access Error:", error.replace('\n', " "))?;
    }
    if long && let Some(text) = known(medium.description())?.filter(|t| !t.is_empty()) {
        line(out, "Description:", text)?;
    }
    let kind = word_of(MEDIUM_TYPES, medium.type_()?);
    match (disk, parent == "base") {
        (true, true) => line(out, "Type:", format_args!("{kind} (base)"))?,
        (true, false) => line(out, "Type:", format_args!("{kind} (differencing)"))?,
        (false, _) => line(out, "Type:", kind)?,
    }
    if disk && medium.parent()?.is_some() && long {
        let auto = known(medium.auto_reset())?.unwrap_or(false);
        line(out, "Auto-Reset:", crate::out::on_off(auto))?;
    }
    line(out, "Location:", medium.location()?)?;
    line(out, "Storage format:", medium.format()?)?;
    if long {
        line(out, "Format variant:", variant_text(&medium.variant()?))?;
    }
    let mebibytes = |bytes: i64| format!("{} MBytes", bytes >> 20);
    line(out, "Capacity:", mebibytes(medium.logical_size()?))?;
    if long {
        line(out, "Size on disk:", mebibytes(medium.size()?))?;
    }
    // No medium is encrypted as long as the service does not know what that is.
    let cipher = match medium.get_encryption_settings() {
        Ok((_, cipher)) if !cipher.is_empty() => Some(cipher),
        _ => None,
    };
    let encrypted = if cipher.is_some() {
        "enabled"
    } else {
        "disabled"
    };
    line(out, "Encryption:", encrypted)?;
    if let Some(cipher) = cipher.filter(|_| long) {
        line(out, "Cipher:", cipher)?;
    }
    if !long {
        return Ok(());
    }
    if let Some((values, names)) = known(medium.get_properties(""))? {
        for (name, value) in names.iter().zip(values) {
            line(out, "Property:", format_args!("{name}={value}"))?;
        }
    }
    users(out, vbox, medium)?;
    children(out, medium)
}

fn users(out: &mut dyn Write, vbox: &VirtualBox, medium: &Medium) -> Result {
    for (index, id) in medium.machine_ids()?.iter().enumerate() {
        let label = if index == 0 { "In use by VMs:" } else { "" };
        let Ok(machine) = vbox.find_machine(id) else {
            continue;
        };
        let mut text = format!("{} (UUID: {id})", machine.name()?);
        let snapshots = known(medium.get_snapshot_ids(id))?.unwrap_or_default();
        for snapshot in snapshots.iter().filter(|s| *s != id) {
            let name = machine.find_snapshot(snapshot)?.name()?;
            text.push_str(&format!(" [{name} (UUID: {snapshot})]"));
        }
        line(out, label, text)?;
    }
    Ok(())
}

fn children(out: &mut dyn Write, medium: &Medium) -> Result {
    for (index, child) in medium.children()?.iter().enumerate() {
        let label = if index == 0 { "Child UUIDs:" } else { "" };
        line(out, label, child.id()?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_told_from_files() {
        assert!(is_uuid("0b3a5d0e-7e54-4b6b-9d3d-0123456789ab"));
        assert!(is_uuid("{0B3A5D0E-7E54-4B6B-9D3D-0123456789AB}"));
        for file in [
            "",
            "disk.vdi",
            "0b3a5d0e",
            "0b3a5d0e-7e54-4b6b-9d3d-0123456789ab.vdi",
            "{0b3a5d0e-7e54-4b6b-9d3d-0123456789ab",
            "0b3a5d0ex7e54-4b6b-9d3d-0123456789ab",
        ] {
            assert!(!is_uuid(file), "{file}");
        }
    }

    #[test]
    fn variants_are_lists_of_words() {
        assert_eq!(
            variants("Fixed,Split2G").expect("known"),
            [MediumVariant::Fixed, MediumVariant::VmdkSplit2G]
        );
        assert!(variants("huge").is_err());
        assert_eq!(variant_text(&[MediumVariant::Standard]), "dynamic default");
        assert_eq!(
            variant_text(&[MediumVariant::VmdkStreamOptimized]),
            "dynamic streamOptimized"
        );
        assert_eq!(variant_text(&[MediumVariant::Fixed]), "fixed default");
    }
}
