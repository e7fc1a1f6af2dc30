//! The items of a machine in a package: what the command line makes of them, and how they are shown.

use crate::args::Given;
use crate::error::{Failure, Result};
use VirtualSystemDescriptionType as T;
use api::types::*;
use std::collections::BTreeMap;
use std::io::Write;

/// What the command line says of a machine.
#[derive(Debug, Default)]
pub struct System {
    values: BTreeMap<&'static str, String>,
    pub units: BTreeMap<usize, Unit>,
}

impl System {
    pub fn set(&mut self, name: &'static str, given: &Given) -> Result {
        match name {
            "--eula" => {
                given.one_of(&[("show", ()), ("accept", ())])?;
            }
            "--cpus" | "--memory" => {
                given.integer::<u32>()?;
            }
            _ => {}
        }
        self.values.insert(name, given.value.clone());
        Ok(())
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

/// What it says of an item.
#[derive(Debug, Default)]
pub struct Unit {
    pub ignore: bool,
    pub disk: Option<String>,
    pub controller: Option<u32>,
    pub port: Option<u32>,
    pub scsi: Option<&'static str>,
}

impl Unit {
    pub fn set(&mut self, name: &str, given: &Given) -> Result {
        match name {
            "--ignore" => self.ignore = true,
            "--disk" => self.disk = Some(given.value.clone()),
            "--controller" => self.controller = Some(given.integer()?),
            "--port" => self.port = Some(given.integer()?),
            _ => {
                let words = [("BusLogic", "BusLogic"), ("LsiLogic", "LsiLogic")];
                self.scsi = Some(given.one_of(&words)?);
            }
        }
        Ok(())
    }
}

struct Item {
    kind: T,
    original: String,
    value: String,
    extra: String,
    enabled: bool,
}

/// The items in their order.
pub struct Listing {
    system: usize,
    items: Vec<Item>,
}

/// What a kind of item is called on the command line and in the list: option, `Suggested ...`, and
/// the same when it was given.
fn of_system(kind: T) -> Option<(&'static str, &'static str, &'static str)> {
    Some(match kind {
        T::OS => ("--ostype", "OS type", "OS type"),
        T::Name => ("--vmname", "VM name", "VM name"),
        T::PrimaryGroup => ("--group", "VM group", "VM group"),
        T::SettingsFile => (
            "--settingsfile",
            "VM settings file name",
            "VM settings file name",
        ),
        T::BaseFolder => ("--basefolder", "VM base folder", "VM base folder"),
        T::CPU => ("--cpus", "Number of CPUs", "No. of CPUs"),
        T::Memory => ("--memory", "Guest memory", "Guest memory"),
        T::Description => ("--description", "Description", "Description"),
        _ => return None,
    })
}

impl Listing {
    pub fn new(
        system: usize,
        kinds: Vec<T>,
        originals: Vec<String>,
        values: Vec<String>,
        extras: Vec<String>,
    ) -> Self {
        let rest = originals.into_iter().zip(values).zip(extras);
        let items = kinds.into_iter().zip(rest);
        Self {
            system,
            items: items
                .map(|(kind, ((original, value), extra))| Item {
                    kind,
                    original,
                    value,
                    extra,
                    enabled: true,
                })
                .collect(),
        }
    }

    /// Makes the changes. `path` tells the settings file of a name, group and base folder.
    pub fn apply(
        &mut self,
        wanted: &System,
        path: &dyn Fn(&str, &str, &str) -> Result<String>,
    ) -> Result {
        for item in &mut self.items {
            if let Some((option, ..)) = of_system(item.kind)
                && let Some(value) = wanted.value(option)
            {
                item.value = match item.kind {
                    T::BaseFolder => crate::cx::absolute(value)?,
                    _ => value.to_owned(),
                };
            }
        }
        let moved = ["--vmname", "--group", "--basefolder"];
        if wanted.value("--settingsfile").is_none()
            && moved.iter().any(|o| wanted.value(o).is_some())
        {
            let value = |kind| {
                let found = self.items.iter().find(|i| i.kind == kind);
                found.map_or("", |i| i.value.as_str())
            };
            let (name, group) = (value(T::Name), value(T::PrimaryGroup));
            let file = path(name, group, value(T::BaseFolder))?;
            let items = self.items.iter_mut();
            for item in items.filter(|i| i.kind == T::SettingsFile) {
                item.value.clone_from(&file);
            }
        }
        let count = self.items.len();
        for (number, unit) in &wanted.units {
            let Some(item) = self.items.get_mut(*number) else {
                return Err(Failure::syntax(format!(
                    "Invalid index {number} with -unit option; virtual system {} has only {count} unit(s).",
                    self.system
                )));
            };
            item.apply(unit);
        }
        Ok(())
    }

    /// Whether there is no license, or it was accepted.
    pub fn is_licensed(&self, wanted: &System) -> bool {
        let accepted = wanted
            .value("--eula")
            .is_some_and(|v| v.eq_ignore_ascii_case("accept"));
        accepted || self.items.iter().all(|i| i.kind != T::License)
    }

    /// What `setFinalValues` takes.
    pub fn into_final(self) -> (Vec<bool>, Vec<String>, Vec<String>) {
        let mut all = (Vec::new(), Vec::new(), Vec::new());
        for item in self.items {
            all.0.push(item.enabled);
            all.1.push(item.value);
            all.2.push(item.extra);
        }
        all
    }

    pub fn print(&self, wanted: &System, out: &mut dyn Write) -> Result {
        let none = Unit::default();
        for (number, item) in self.items.iter().enumerate() {
            let unit = wanted.units.get(&number).unwrap_or(&none);
            write!(out, "{number:2}: ")?;
            if of_system(item.kind).is_some() {
                self.print_value(item, wanted, out)?;
            } else {
                self.print_unit(number, item, unit, wanted, out)?;
            }
        }
        Ok(())
    }

    fn print_value(&self, item: &Item, wanted: &System, out: &mut dyn Write) -> Result {
        let Some((option, suggested, given)) = of_system(item.kind) else {
            return Ok(());
        };
        let (n, value) = (self.system, &item.value);
        let shown = match item.kind {
            T::CPU => format!(": {value}"),
            T::Memory => format!(": {value} MB"),
            T::OS => format!(": \"{value}\""),
            _ => format!(" \"{value}\""),
        };
        if wanted.value(option).is_some() {
            let shown = shown.trim_start_matches(':').trim_start();
            writeln!(out, "{given} specified with {option}: {shown}")?;
            return Ok(());
        }
        let prefix = match item.kind {
            T::CPU | T::Memory | T::Description => "",
            _ => "Suggested ",
        };
        writeln!(out, "{prefix}{suggested}{shown}")?;
        let hint = match item.kind {
            T::OS => "<type>\"; use \"list ostypes\" to list all possible values)",
            T::Name => "<name>\")",
            T::PrimaryGroup => "<group>\")",
            T::SettingsFile => "<filename>\")",
            T::BaseFolder => "<path>\")",
            T::CPU => "<n>\")",
            T::Memory => "<MB>\")",
            _ => "<desc>\")",
        };
        writeln!(out, "    (change with \"--vsys {n} {option} {hint}")?;
        Ok(())
    }

    fn print_unit(
        &self,
        number: usize,
        item: &Item,
        unit: &Unit,
        wanted: &System,
        out: &mut dyn Write,
    ) -> Result {
        let n = self.system;
        let ignored = |text: &str| format!("{text} (ignored): {}\n", item.value);
        let disable = format!("disable with \"--vsys {n} --unit {number} --ignore\")\n");
        let or_disabled = |text: String| match item.enabled {
            true => format!("{text}\n    ({disable}"),
            false => format!("{text} -- disabled\n"),
        };
        let controller = |bus: &str| or_disabled(format!("{bus} controller, type {}", item.value));
        let text = match item.kind {
            T::Product => ignored("Product"),
            T::Vendor => ignored("Vendor"),
            T::Version => ignored("Version"),
            T::ProductUrl => ignored("ProductUrl"),
            T::VendorUrl => ignored("VendorUrl"),
            T::License => match wanted
                .value("--eula")
                .map(str::to_ascii_lowercase)
                .as_deref()
            {
                Some("accept") => "End-user license agreement (accepted)\n".to_owned(),
                Some(_) => format!(
                    "End-user license agreement\n    (accept with \"--vsys {n} --eula accept\"):\n\n{}\n\n",
                    item.value
                ),
                None => format!(
                    "End-user license agreement\n    (display with \"--vsys {n} --eula show\";\n    accept with \"--vsys {n} --eula accept\")\n"
                ),
            },
            T::HardDiskControllerIDE => controller("IDE"),
            T::HardDiskControllerSATA => controller("SATA"),
            T::HardDiskControllerSAS => controller("SAS"),
            T::HardDiskControllerVirtioSCSI => controller("VirtioSCSI"),
            T::HardDiskControllerSCSI => match (item.enabled, unit.scsi) {
                (false, _) => controller("SCSI"),
                (true, Some(model)) => format!(
                    "SCSI controller, type set with --unit {number} --scsitype: \"{model}\"\n"
                ),
                (true, None) => format!(
                    "SCSI controller, type {}\n    (change with \"--vsys {n} --unit {number} --scsitype {{BusLogic|LsiLogic}}\";\n    {disable}",
                    item.value
                ),
            },
            T::HardDiskImage => self.disk(number, item, unit, &disable),
            T::CDROM => or_disabled("CD-ROM".to_owned()),
            T::Floppy => or_disabled("Floppy".to_owned()),
            T::NetworkAdapter if !item.enabled => "Network adapter -- disabled\n".to_owned(),
            T::NetworkAdapter => format!(
                "Network adapter: orig {}, config {}, extra {}\n",
                item.original, item.value, item.extra
            ),
            T::USBController => or_disabled("USB controller".to_owned()),
            T::SoundCard => match item.enabled {
                true => or_disabled(format!(
                    "Sound card (appliance expects \"{}\", can change on import)",
                    item.original
                )),
                false => "Sound card -- disabled\n".to_owned(),
            },
            other => format!("{} {}\n", other.name(), item.value),
        };
        out.write_all(text.as_bytes())?;
        Ok(())
    }

    fn disk(&self, number: usize, item: &Item, unit: &Unit, disable: &str) -> String {
        let (n, source) = (self.system, &item.original);
        if !item.enabled {
            return format!("Hard disk image: source image={source} -- disabled\n");
        }
        let line = format!(
            "Hard disk image: source image={source}, target path={}, {}\n",
            item.value, item.extra
        );
        if unit.disk.is_some() || unit.controller.is_some() || unit.port.is_some() {
            return line;
        }
        format!(
            "{line}    (change target path with \"--vsys {n} --unit {number} --disk path\";\n    change controller with \"--vsys {n} --unit {number} --controller <index>\";\n    change controller port with \"--vsys {n} --unit {number} --port <n>\";\n    {disable}"
        )
    }
}

impl Item {
    fn apply(&mut self, unit: &Unit) {
        let can_go = !matches!(
            self.kind,
            T::OS
                | T::Name
                | T::PrimaryGroup
                | T::SettingsFile
                | T::BaseFolder
                | T::CPU
                | T::Memory
                | T::Description
                | T::License
        );
        if unit.ignore && can_go {
            self.enabled = false;
        }
        match self.kind {
            T::HardDiskControllerSCSI => {
                if let Some(model) = unit.scsi {
                    model.clone_into(&mut self.value);
                }
            }
            T::HardDiskImage => {
                if let Some(path) = &unit.disk {
                    self.value.clone_from(path);
                }
                let place = |name: &str, new: Option<u32>| {
                    let old = self.extra.split(';').find_map(|p| p.strip_prefix(name));
                    new.map_or(old.unwrap_or("0").to_owned(), |n| n.to_string())
                };
                if unit.controller.is_some() || unit.port.is_some() {
                    let controller = place("controller=", unit.controller);
                    let channel = place("channel=", unit.port);
                    self.extra = format!("controller={controller};channel={channel}");
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (T, &'static str, &'static str, &'static str);

    fn listing() -> Listing {
        let rows: [Row; 11] = [
            (T::OS, "96", "Debian_64", ""),
            (T::Name, "box", "box_1", ""),
            (T::PrimaryGroup, "/", "/", ""),
            (T::SettingsFile, "", "/vms/box_1/box_1.vbox", ""),
            (T::BaseFolder, "", "/vms", ""),
            (T::CPU, "2", "2", ""),
            (T::Memory, "512", "512", ""),
            (T::NetworkAdapter, "NAT", "3", "slot=0;type=NAT"),
            (T::HardDiskControllerSATA, "AHCI", "AHCI", ""),
            (
                T::HardDiskImage,
                "box-disk001.vmdk",
                "box-disk001.vmdk",
                "controller=8;channel=0",
            ),
            (T::SoundCard, "ensoniq1371", "0", ""),
        ];
        let column = |pick: fn(&Row) -> &'static str| rows.iter().map(move |r| pick(r).to_owned());
        Listing::new(
            0,
            rows.iter().map(|r| r.0).collect(),
            column(|r| r.1).collect(),
            column(|r| r.2).collect(),
            column(|r| r.3).collect(),
        )
    }

    fn shown(wanted: &System) -> String {
        let mut list = listing();
        list.apply(wanted, &|name, _, base| {
            Ok(format!("{base}/{name}/{name}.vbox"))
        })
        .expect("units");
        let mut out = Vec::new();
        list.print(wanted, &mut out).expect("memory");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn every_item_says_how_to_change_it() {
        assert_eq!(
            shown(&System::default()),
            r#" 0: Suggested OS type: "Debian_64"
    (change with "--vsys 0 --ostype <type>"; use "list ostypes" to list all possible values)
 1: Suggested VM name "box_1"
    (change with "--vsys 0 --vmname <name>")
 2: Suggested VM group "/"
    (change with "--vsys 0 --group <group>")
 3: Suggested VM settings file name "/vms/box_1/box_1.vbox"
    (change with "--vsys 0 --settingsfile <filename>")
 4: Suggested VM base folder "/vms"
    (change with "--vsys 0 --basefolder <path>")
 5: Number of CPUs: 2
    (change with "--vsys 0 --cpus <n>")
 6: Guest memory: 512 MB
    (change with "--vsys 0 --memory <MB>")
 7: Network adapter: orig NAT, config 3, extra slot=0;type=NAT
 8: SATA controller, type AHCI
    (disable with "--vsys 0 --unit 8 --ignore")
 9: Hard disk image: source image=box-disk001.vmdk, target path=box-disk001.vmdk, controller=8;channel=0
    (change target path with "--vsys 0 --unit 9 --disk path";
    change controller with "--vsys 0 --unit 9 --controller <index>";
    change controller port with "--vsys 0 --unit 9 --port <n>";
    disable with "--vsys 0 --unit 9 --ignore")
10: Sound card (appliance expects "ensoniq1371", can change on import)
    (disable with "--vsys 0 --unit 10 --ignore")
"#
        );
    }

    #[test]
    fn changes_are_shown() {
        let mut wanted = System::default();
        wanted.values.insert("--vmname", "x".to_owned());
        wanted.values.insert("--memory", "256".to_owned());
        let unit = Unit {
            disk: Some("/vms/x/d.vmdk".to_owned()),
            port: Some(3),
            ..Unit::default()
        };
        wanted.units.insert(9, unit);
        let off = Unit {
            ignore: true,
            ..Unit::default()
        };
        wanted.units.insert(10, off);
        let shown = shown(&wanted);
        for line in [
            " 1: VM name specified with --vmname: \"x\"\n",
            " 3: Suggested VM settings file name \"/vms/x/x.vbox\"\n",
            " 6: Guest memory specified with --memory: 256 MB\n",
            " 9: Hard disk image: source image=box-disk001.vmdk, target path=/vms/x/d.vmdk, controller=8;channel=3\n",
            "10: Sound card -- disabled\n",
        ] {
            assert!(shown.contains(line), "{line}{shown}");
        }
    }
}
