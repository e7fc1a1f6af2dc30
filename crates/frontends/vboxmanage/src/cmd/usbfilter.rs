//! `usbfilter`: which USB devices a machine takes, or none gets.

use super::{Command, Form, form};
use crate::args::{Arg, Args, Given, Opt, parse_integer, value};
use crate::cx::Cx;
use crate::error::{During, Failure, Result};
use crate::out::yes_no;
use api::Remote;
use api::client::{HostUSBDeviceFilter, USBDeviceFilter};
use api::types::{LockType, USBDeviceFilterAction};

pub const COMMAND: Command = Command {
    name: "usbfilter",
    aliases: &[],
    usage,
    forms,
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage usbfilter add <index,0-N> <--target=uuid | vmname | global> <--name=string>
      <--action=ignore | hold> [--active=yes | no] [--vendorid=XXXX] [--productid=XXXX]
      [--revision=IIFF] [--manufacturer=string] [--product=string] [--port=hex]
      [--remote=yes | no] [--serialnumber=string] [--maskedinterfaces=XXXXXXXX]

  VBoxManage usbfilter modify <index,0-N> <--target=uuid | vmname | global> [--name=string]
      [--action=ignore | hold] [--active=yes | no] [--vendorid=XXXX] [--productid=XXXX]
      [--revision=IIFF] [--manufacturer=string] [--product=string] [--port=hex]
      [--remote=yes | no] [--serialnumber=string] [--maskedinterfaces=XXXXXXXX]

  VBoxManage usbfilter remove <index,0-N> <--target=uuid | vmname | global>\n"
        .to_owned()
}

fn forms() -> Vec<Form> {
    vec![
        form("add", OPTIONS),
        form("modify", OPTIONS),
        form("remove", TARGET),
    ]
}

const TARGET: &[Opt] = &[value(&["--target"])];

const OPTIONS: &[Opt] = &[
    value(&["--target"]),
    value(&["--name"]),
    value(&["--action"]),
    value(&["--active"]),
    value(&["--vendorid"]),
    value(&["--productid"]),
    value(&["--revision"]),
    value(&["--manufacturer"]),
    value(&["--product"]),
    value(&["--port"]),
    value(&["--remote"]),
    value(&["--serialnumber"]),
    value(&["--maskedinterfaces"]),
];

const ACTIONS: &[(&str, USBDeviceFilterAction)] = &[
    ("ignore", USBDeviceFilterAction::Ignore),
    ("hold", USBDeviceFilterAction::Hold),
];

#[derive(Debug, Default)]
struct Wanted {
    index: u32,
    /// A machine; none for all.
    machine: Option<String>,
    name: Option<String>,
    action: Option<USBDeviceFilterAction>,
    changes: Vec<Given>,
}

fn parse(args: &mut Args, table: &[Opt], add: bool) -> Result<Wanted> {
    let index = args.required("USB filter index")?;
    let mut wanted = Wanted {
        index: parse_integer(&index)
            .ok_or_else(|| Failure::syntax(format!("Invalid index '{index}'")))?,
        ..Wanted::default()
    };
    let mut target = None;
    while let Some(arg) = args.next(table)? {
        let given = match arg {
            Arg::Opt(_, given) => given,
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        };
        match given.name {
            "--target" => target = Some(given.value),
            "--name" => wanted.name = Some(given.value),
            "--action" => wanted.action = Some(given.one_of(ACTIONS)?),
            "--active" | "--remote" => {
                given.on()?;
                wanted.changes.push(given);
            }
            "--maskedinterfaces" => {
                given.integer::<u32>()?;
                wanted.changes.push(given);
            }
            _ => wanted.changes.push(given),
        }
    }
    let target = target.ok_or_else(|| Failure::syntax("Missing required option: --target"))?;
    wanted.machine = Some(target).filter(|t| t != "global");
    if add && wanted.name.is_none() {
        return Err(Failure::syntax("Missing required option: --name"));
    }
    match (&wanted.machine, wanted.action) {
        (Some(_), Some(_)) => Err(Failure::syntax(
            "The option --action is for global filters only",
        )),
        (None, None) if add => Err(Failure::syntax("Missing required option: --action")),
        _ => Ok(wanted),
    }
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let action = args.required("subcommand")?;
    let table = match action.as_str() {
        "add" | "modify" => OPTIONS,
        "remove" => TARGET,
        _ => return Err(Failure::syntax(format!("Invalid parameter '{action}'"))),
    };
    let wanted = parse(args, table, action == "add")?;
    match &wanted.machine {
        Some(machine) => of_machine(cx, machine, &action, &wanted),
        None => global(cx, &action, &wanted),
    }
}

fn of_machine(cx: &mut Cx<'_>, machine: &str, action: &str, wanted: &Wanted) -> Result {
    let locked = cx.lock(machine, LockType::Write)?;
    let filters = locked.machine.usb_device_filters()?;
    match action {
        "add" => {
            let filter =
                filters.create_device_filter(wanted.name.as_deref().unwrap_or_default())?;
            filter.set_active(true)?;
            change(&filter, wanted)?;
            filters
                .insert_device_filter(wanted.index, &filter)
                .during("InsertDeviceFilter(cmd.mIndex, flt)")?;
        }
        "modify" => change(at(&filters.device_filters()?, wanted.index)?, wanted)?,
        _ => filters
            .remove_device_filter(wanted.index)
            .during("RemoveDeviceFilter(cmd.mIndex, flt.asOutParam())")
            .map(drop)?,
    }
    locked.save()
}

fn global(cx: &mut Cx<'_>, action: &str, wanted: &Wanted) -> Result {
    let host = cx.vbox()?.host()?;
    let apply = |filter: &HostUSBDeviceFilter| {
        if let Some(action) = wanted.action {
            filter.set_action(action)?;
        }
        change(&plain(filter), wanted)
    };
    match action {
        "add" => {
            let name = wanted.name.as_deref().unwrap_or_default();
            let filter = host.create_usb_device_filter(name)?;
            plain(&filter).set_active(true)?;
            apply(&filter)?;
            host.insert_usb_device_filter(wanted.index, &filter)
                .during("InsertUSBDeviceFilter(cmd.mIndex, flt)")
        }
        "modify" => apply(at(&host.usb_device_filters()?, wanted.index)?),
        _ => host
            .remove_usb_device_filter(wanted.index)
            .during("RemoveUSBDeviceFilter(cmd.mIndex)"),
    }
}

/// The part that machines' filters have too.
fn plain(filter: &HostUSBDeviceFilter) -> USBDeviceFilter {
    USBDeviceFilter::from_proxy(filter.proxy().clone())
}

fn at<T>(all: &[T], index: u32) -> Result<&T> {
    let found = usize::try_from(index).ok().and_then(|i| all.get(i));
    found.ok_or_else(|| Failure::message(format!("There is no USB device filter {index}")))
}

fn change(filter: &USBDeviceFilter, wanted: &Wanted) -> Result {
    if let Some(name) = &wanted.name {
        filter.set_name(name)?;
    }
    for given in &wanted.changes {
        let value = given.value.as_str();
        match given.name {
            "--active" => filter.set_active(given.on()?),
            "--vendorid" => filter.set_vendor_id(value),
            "--productid" => filter.set_product_id(value),
            "--revision" => filter.set_revision(value),
            "--manufacturer" => filter.set_manufacturer(value),
            "--product" => filter.set_product(value),
            "--port" => filter.set_port(value),
            "--remote" => filter.set_remote(yes_no(given.on()?)),
            "--serialnumber" => filter.set_serial_number(value),
            _ => filter.set_masked_interfaces(given.integer()?),
        }
        .during("usbfilter")?;
    }
    Ok(())
}

/// `list usbfilters`.
pub fn list(cx: &mut Cx<'_>) -> Result {
    let filters = cx.vbox()?.host()?.usb_device_filters()?;
    writeln!(cx.out, "Global USB Device Filters:\n")?;
    if filters.is_empty() {
        writeln!(cx.out, "<none>\n")?;
    }
    for (index, host) in filters.iter().enumerate() {
        let filter = plain(host);
        let action = host.action()?;
        let word = ACTIONS
            .iter()
            .find(|(_, a)| *a == action)
            .map_or("unknown", |(w, _)| w);
        for (label, value) in [
            ("Index:", index.to_string()),
            ("Active:", yes_no(filter.active()?).to_owned()),
            ("Name:", filter.name()?),
            ("VendorId:", filter.vendor_id()?),
            ("ProductId:", filter.product_id()?),
            ("Revision:", filter.revision()?),
            ("Manufacturer:", filter.manufacturer()?),
            ("Product:", filter.product()?),
            ("Serial Number:", filter.serial_number()?),
            ("Action:", word.to_owned()),
        ] {
            crate::out::field(cx.out, 18, label, value)?;
        }
        writeln!(cx.out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_a_target() {
        let parsed = |line: &[&str], add| {
            parse(
                &mut Args::new(line.iter().map(|s| (*s).to_owned())),
                OPTIONS,
                add,
            )
        };
        let wanted = parsed(
            &[
                "0",
                "--target",
                "deb",
                "--name",
                "stick",
                "--vendorid",
                "0951",
            ],
            true,
        );
        assert_eq!(wanted.expect("known").machine.as_deref(), Some("deb"));
        assert!(
            parsed(
                &["1", "--target", "global", "--name", "x", "--action", "hold"],
                true
            )
            .is_ok()
        );
        for wrong in [
            &["x", "--target", "deb", "--name", "n"][..],
            &["0", "--name", "n"],
            &["0", "--target", "deb"],
            &["0", "--target", "global", "--name", "n"],
            &["0", "--target", "deb", "--name", "n", "--action", "hold"],
            &["0", "--target", "deb", "--name", "n", "--active", "maybe"],
            &[
                "0",
                "--target",
                "deb",
                "--name",
                "n",
                "--maskedinterfaces",
                "x",
            ],
        ] {
            assert!(
                matches!(parsed(wrong, true), Err(Failure::Syntax(_))),
                "{wrong:?}"
            );
        }
    }
}
