//! `list hdds`, `dvds` and `floppies`.

use super::Style;
use crate::cx::Cx;
use crate::error::Result;
use crate::media::{describe, of_kind};
use api::client::{Medium, VirtualBox};
use api::types::DeviceType;

pub const DISKS: DeviceType = DeviceType::HardDisk;
pub const DVDS: DeviceType = DeviceType::DVD;
pub const FLOPPIES: DeviceType = DeviceType::Floppy;

pub fn list(cx: &mut Cx<'_>, style: Style, kind: DeviceType) -> Result {
    let vbox = cx.vbox()?;
    let mut all = of_kind(&vbox, kind)?;
    if style.sorted {
        let mut keyed = Vec::new();
        for medium in all {
            keyed.push((medium.location()?, medium));
        }
        keyed.sort_by(|a, b| a.0.cmp(&b.0));
        all = keyed.into_iter().map(|(_, m)| m).collect();
    }
    for medium in all {
        print(cx, &vbox, &medium, "base", style)?;
    }
    Ok(())
}

/// A medium and those that are stacked on it, a blank line behind each.
fn print(
    cx: &mut Cx<'_>,
    vbox: &VirtualBox,
    medium: &Medium,
    parent: &str,
    style: Style,
) -> Result {
    describe(cx.out, vbox, medium, parent, style.long)?;
    writeln!(cx.out)?;
    let id = medium.id()?;
    for child in medium.children()? {
        print(cx, vbox, &child, &id, style)?;
    }
    Ok(())
}
