//! Layouts of files before 1.11 and from 1.20 on, and the one between, which `codec` describes.
//!
//! [`to_plain`] makes the layout between of what a file has, for reading; [`from_plain`] makes a
//! file's layout, for writing. Elements and attributes are moved as they are, with what is foreign
//! in them and where they came from. Nothing before 1.7 is ever written.

use crate::dom::{Attribute, Element, Node};
use crate::version::Version;

/// Names that the controllers of files without controllers get; VirtualBox's own.
const IDE_CONTROLLER: &str = "IDE Controller";
const SATA_CONTROLLER: &str = "SATA Controller";
pub(crate) const FLOPPY_CONTROLLER: &str = "Floppy Controller";

/// Whether files of this version have a layout of their own.
pub(crate) fn differs(version: Version) -> bool {
    version < Version::V1_11 || version.has_platform()
}

/// Turns `Machine` or `Global` of a file into the layout between.
pub(crate) fn to_plain(element: &mut Element, version: Version) {
    match element.name.as_str() {
        _ if !differs(version) => {}
        "Machine" => {
            if version < Version::V1_5 {
                new_os_type(element);
            }
            holders(element, &|holder| {
                if version < Version::V1_5 {
                    new_spellings(holder);
                }
                if version.disk_attachments() {
                    attachments_in(holder);
                }
                if version.drives_in_hardware() {
                    drives_in(holder);
                }
                if version.remote_display_attributes() {
                    remote_display_in(holder);
                }
                if version.has_platform() {
                    platform_in(holder);
                }
            });
        }
        "Global" if version < Version::V1_11 => {
            if version < Version::V1_4 {
                disk_registry_in(element);
            }
            if let Some(system) = element.child_mut("SystemProperties") {
                rename_attribute(system, "remoteDisplayAuthLibrary", "VRDEAuthLibrary");
            }
        }
        _ => {}
    }
}

/// Turns `Machine` or `Global` in the layout between into that of a version that is written.
pub(crate) fn from_plain(element: &mut Element, version: Version) {
    match element.name.as_str() {
        _ if !differs(version) => {}
        "Machine" => holders(element, &|holder| {
            if version.drives_in_hardware() {
                drives_out(holder);
            }
            if version.remote_display_attributes() {
                remote_display_out(holder);
            }
            if version.has_platform() {
                platform_out(holder);
            }
        }),
        "Global" if version < Version::V1_11 => {
            if let Some(system) = element.child_mut("SystemProperties") {
                rename_attribute(system, "VRDEAuthLibrary", "remoteDisplayAuthLibrary");
            }
        }
        _ => {}
    }
}

/// Turns what precedes 1.19 into its shape: `StorageControllers` goes into the `Hardware` before
/// it, in the machine and in its snapshots.
pub(crate) fn move_storage_inside(machine: &mut Element) {
    holders(machine, &|holder| {
        if holder.child("Hardware").is_some()
            && let Some(storage) = holder.take_child("StorageControllers")
        {
            let hardware = holder.child_or_new("Hardware");
            hardware.children.push(Node::Element(storage));
        }
    });
}

/// Calls `f` with every element that has a `Hardware`: the machine and its snapshots.
fn holders(element: &mut Element, f: &dyn Fn(&mut Element)) {
    if !element.is("Snapshots") {
        f(element);
    }
    for node in &mut element.children {
        if let Node::Element(child) = node
            && (child.is("Snapshot") || child.is("Snapshots"))
        {
            holders(child, f);
        }
    }
}

fn rename_attribute(element: &mut Element, from: &str, to: &str) {
    if element.attribute(to).is_none()
        && let Some(attribute) = element.attributes.iter_mut().find(|a| a.name == from)
    {
        attribute.name = to.to_owned();
    }
}

fn rename_child(element: &mut Element, from: &str, to: &str) {
    if element.child(to).is_none()
        && let Some(child) = element.child_mut(from)
    {
        child.name = to.to_owned();
    }
}

/// An element of ours with attributes, at the place of the file where what it says came from.
fn made(name: &str, offset: usize, attributes: &[(&str, &str)]) -> Element {
    let mut element = Element::new(name);
    element.offset = offset;
    for (name, value) in attributes {
        element.set(name, (*value).to_owned());
    }
    element
}

/// What attribute `from` of `source` says, as attribute `to` of `target`.
fn copy_attribute(source: &Element, from: &str, target: &mut Element, to: &str) {
    if let Some(attribute) = source.attribute(from) {
        target.attributes.push(Attribute {
            name: to.to_owned(),
            ..attribute.clone()
        });
    }
}

// Before 1.5.

/// IDs of guest OS types before 1.5, and those since.
const OS_TYPES: &[(&str, &str)] = &[
    ("unknown", "Other"),
    ("dos", "DOS"),
    ("win31", "Windows31"),
    ("win95", "Windows95"),
    ("win98", "Windows98"),
    ("winme", "WindowsMe"),
    ("winnt4", "WindowsNT4"),
    ("win2k", "Windows2000"),
    ("winxp", "WindowsXP"),
    ("win2k3", "Windows2003"),
    ("winvista", "WindowsVista"),
    ("win2k8", "Windows2008"),
    ("os2warp3", "OS2Warp3"),
    ("os2warp4", "OS2Warp4"),
    ("os2warp45", "OS2Warp45"),
    ("ecs", "OS2eCS"),
    ("linux22", "Linux22"),
    ("linux24", "Linux24"),
    ("linux26", "Linux26"),
    ("archlinux", "ArchLinux"),
    ("debian", "Debian"),
    ("opensuse", "OpenSUSE"),
    ("fedoracore", "Fedora"),
    ("gentoo", "Gentoo"),
    ("mandriva", "Mandriva"),
    ("redhat", "RedHat"),
    ("ubuntu", "Ubuntu"),
    ("xandros", "Xandros"),
    ("freebsd", "FreeBSD"),
    ("openbsd", "OpenBSD"),
    ("netbsd", "NetBSD"),
    ("netware", "Netware"),
    ("solaris", "Solaris"),
    ("opensolaris", "OpenSolaris"),
    ("l4", "L4"),
];

fn new_os_type(machine: &mut Element) {
    if let Some(attribute) = machine.attributes.iter_mut().find(|a| a.name == "OSType")
        && let Some((_, new)) = OS_TYPES.iter().find(|(old, _)| *old == attribute.value)
    {
        attribute.value = (*new).to_owned();
    }
}

/// Names whose case changed, the bridged interface's old name, and the third value that hardware
/// virtualization could have (`default`).
fn new_spellings(holder: &mut Element) {
    let Some(hardware) = holder.child_mut("Hardware") else {
        return;
    };
    rename_child(hardware, "Uart", "UART");
    rename_child(hardware, "Lpt", "LPT");
    if let Some(display) = hardware.child_mut("Display") {
        rename_attribute(display, "MonitorCount", "monitorCount");
        rename_attribute(display, "Accelerate3D", "accelerate3D");
    }
    if let Some(guest) = hardware.child_mut("Guest") {
        rename_attribute(guest, "MemoryBalloonSize", "memoryBalloonSize");
        rename_attribute(
            guest,
            "StatisticsUpdateInterval",
            "statisticsUpdateInterval",
        );
    }
    let virt = hardware
        .child_mut("CPU")
        .and_then(|cpu| cpu.child_mut("HardwareVirtEx"));
    if let Some(virt) = virt
        && virt.value("enabled").eq_ignore_ascii_case("default")
    {
        virt.take_attribute("enabled");
    }
    let adapters = hardware.child_mut("Network").into_iter();
    for node in adapters.flat_map(|network| &mut network.children) {
        if let Node::Element(adapter) = node {
            rename_child(adapter, "HostInterface", "BridgedInterface");
        }
    }
}

// Before 1.7.

/// `HardDiskAttachments` beside `Hardware`, `SATAController` and the BIOS's `IDEController` in it
/// become storage controllers.
fn attachments_in(holder: &mut Element) {
    let Some(hardware) = holder.child_mut("Hardware") else {
        return;
    };
    let offset = hardware.offset;
    let ide_type = hardware
        .child_mut("BIOS")
        .and_then(|bios| bios.take_child("IDEController"));
    let sata = hardware.take_child("SATAController");
    let attachments = holder.take_child("HardDiskAttachments");
    if holder.child("StorageControllers").is_some() {
        return;
    }

    let mut ide = made("StorageController", offset, &[("name", IDE_CONTROLLER)]);
    match &ide_type {
        Some(old) if old.attribute("type").is_some() => {
            copy_attribute(old, "type", &mut ide, "type");
        }
        _ => ide.set("type", "PIIX3".to_owned()),
    }
    ide.set("PortCount", "2".to_owned());
    let new_sata = |offset| {
        made(
            "StorageController",
            offset,
            &[("name", SATA_CONTROLLER), ("type", "AHCI")],
        )
    };
    let on = |e: &Element| matches!(e.value("enabled"), "true" | "1" | "yes" | "on");
    let mut sata = sata.filter(on).map(|old| {
        let mut new = new_sata(old.offset);
        for attribute in old.attributes.iter().filter(|a| a.name != "enabled") {
            new.attributes.push(attribute.clone());
        }
        new
    });

    for old in attachments.iter().flat_map(|list| list.elements()) {
        let bus = old.value("bus").to_ascii_lowercase();
        let mut device = made("AttachedDevice", old.offset, &[("type", "HardDisk")]);
        // Before 1.3 the channel was part of the bus, and the devices had names.
        let old_channel = bus.strip_prefix("ide").filter(|n| !n.is_empty());
        match old_channel {
            Some(channel) => device.set("port", channel.to_owned()),
            None => copy_attribute(old, "channel", &mut device, "port"),
        }
        match old.value("device") {
            "master" => device.set("device", "0".to_owned()),
            "slave" => device.set("device", "1".to_owned()),
            _ => copy_attribute(old, "device", &mut device, "device"),
        }
        for name in ["port", "device"] {
            if device.attribute(name).is_none() {
                device.set(name, "0".to_owned());
            }
        }
        let mut image = made("Image", old.offset, &[]);
        copy_attribute(old, "hardDisk", &mut image, "uuid");
        device.children.push(Node::Element(image));
        let controller = if bus == "sata" {
            sata.get_or_insert_with(|| new_sata(old.offset))
        } else {
            &mut ide
        };
        controller.children.push(Node::Element(device));
    }
    let mut storage = made("StorageControllers", offset, &[]);
    storage.children.push(Node::Element(ide));
    storage.children.extend(sata.map(Node::Element));
    holder.children.push(Node::Element(storage));
}

// Before 1.9.

fn is_ide(controller: &Element) -> bool {
    let kind = controller.value("type");
    controller.is("StorageController")
        && ["PIIX3", "PIIX4", "ICH6"]
            .iter()
            .any(|known| known.eq_ignore_ascii_case(kind))
}

/// Port and device, for comparing; what is not a number comes first.
fn place(device: &Element) -> (u32, u32) {
    let number = |name| device.value(name).parse().unwrap_or_default();
    (number("port"), number("device"))
}

/// `DVDDrive` and `FloppyDrive` become attached devices: secondary master of the first IDE
/// controller, and the only drive of a floppy controller.
fn drives_in(holder: &mut Element) {
    let Some(hardware) = holder.child_mut("Hardware") else {
        return;
    };
    let dvd = hardware.take_child("DVDDrive");
    let floppy = hardware.take_child("FloppyDrive");
    if let Some(old) = dvd {
        let mut device = made("AttachedDevice", old.offset, &[]);
        copy_attribute(&old, "passthrough", &mut device, "passthrough");
        for (name, value) in [("type", "DVD"), ("port", "1"), ("device", "0")] {
            device.set(name, value.to_owned());
        }
        device.children = old.children;
        let storage = holder.child_or_new("StorageControllers");
        if !storage.elements().any(is_ide) {
            let new = [
                ("name", IDE_CONTROLLER),
                ("type", "PIIX4"),
                ("PortCount", "2"),
            ];
            let new = made("StorageController", old.offset, &new);
            storage.children.push(Node::Element(new));
        }
        let Some(controller) = find_mut(storage, is_ide) else {
            return;
        };
        let is_device = |e: &&Element| e.is("AttachedDevice");
        if !controller
            .elements()
            .filter(is_device)
            .any(|d| place(d) == (1, 0))
        {
            let behind = |n: &Node| matches!(n, Node::Element(e) if e.is("AttachedDevice") && place(e) > (1, 0));
            let at = controller.children.iter().position(behind);
            let at = at.unwrap_or(controller.children.len());
            controller.children.insert(at, Node::Element(device));
        }
    }
    let on = |e: &Element| !matches!(e.value("enabled"), "false" | "0" | "no" | "off");
    if let Some(old) = floppy.filter(on) {
        let mut controller = made(
            "StorageController",
            old.offset,
            &[
                ("name", FLOPPY_CONTROLLER),
                ("type", "I82078"),
                ("PortCount", "1"),
            ],
        );
        let mut device = made(
            "AttachedDevice",
            old.offset,
            &[("type", "Floppy"), ("port", "0"), ("device", "0")],
        );
        device.children = old.children;
        controller.children.push(Node::Element(device));
        let storage = holder.child_or_new("StorageControllers");
        storage.children.push(Node::Element(controller));
    }
}

fn find_mut(parent: &mut Element, is: impl Fn(&Element) -> bool) -> Option<&mut Element> {
    parent.children.iter_mut().find_map(|node| match node {
        Node::Element(e) if is(e) => Some(e),
        _ => None,
    })
}

fn take_where(parent: &mut Element, is: impl Fn(&Element) -> bool) -> Option<Element> {
    let at = parent
        .children
        .iter()
        .position(|node| matches!(node, Node::Element(e) if is(e)))?;
    match parent.children.remove(at) {
        Node::Element(e) => Some(e),
        _ => None,
    }
}

/// The inverse of [`drives_in`], for drives that are where it puts them.
fn drives_out(holder: &mut Element) {
    let storage = holder.child_or_new("StorageControllers");
    let dvd = find_mut(storage, is_ide).and_then(|ide| {
        let is_dvd =
            |e: &Element| e.is("AttachedDevice") && e.value("type") == "DVD" && place(e) == (1, 0);
        take_where(ide, is_dvd)
    });
    let floppy = take_where(storage, |e| {
        e.is("StorageController") && e.value("type") == "I82078"
    });
    let hardware = holder.child_or_new("Hardware");
    let at = hardware
        .position("BIOS")
        .map_or(hardware.children.len(), |at| at + 1);

    let mut drive = made("FloppyDrive", 0, &[]);
    drive.set("enabled", floppy.is_some().to_string());
    if let Some(device) = floppy.and_then(|mut f| f.take_child("AttachedDevice")) {
        drive.children = device.children;
    }
    hardware.children.insert(at, Node::Element(drive));
    if let Some(device) = dvd {
        let mut drive = made("DVDDrive", 0, &[]);
        copy_attribute(&device, "passthrough", &mut drive, "passthrough");
        drive.children = device.children;
        hardware.children.insert(at, Node::Element(drive));
    }
}

// Before 1.11.

/// Properties of the remote display that were attributes: of `RemoteDisplay`, and of `VideoChannel`.
const REMOTE_ATTRIBUTES: [(&str, &str); 2] = [("port", "TCP/Ports"), ("netAddress", "TCP/Address")];
const CHANNEL_ATTRIBUTES: [(&str, &str); 2] = [
    ("enabled", "VideoChannel/Enabled"),
    ("quality", "VideoChannel/Quality"),
];

/// The oldest version that can say a property of the remote display.
pub(crate) fn remote_display_property(name: &str, value: &str) -> Version {
    let fits = match name {
        "TCP/Ports" if value.parse::<u16>().is_ok() => return Version::V1_7,
        "TCP/Address" if !value.is_empty() => return Version::V1_7,
        // Lists and ranges of ports came later than single ones.
        "TCP/Ports" => !value.is_empty(),
        "VideoChannel/Enabled" => matches!(value, "true" | "false"),
        "VideoChannel/Quality" => value.parse::<u32>().is_ok(),
        _ => false,
    };
    if fits { Version::V1_10 } else { Version::V1_11 }
}

fn remote_display_in(holder: &mut Element) {
    let Some(display) = holder
        .child_mut("Hardware")
        .and_then(|hardware| hardware.child_mut("RemoteDisplay"))
    else {
        return;
    };
    let mut found: Vec<(&str, Attribute)> = Vec::new();
    for (name, property) in REMOTE_ATTRIBUTES {
        found.extend(display.take_attribute(name).map(|a| (property, a)));
    }
    if let Some(mut channel) = display.take_child("VideoChannel") {
        for (name, property) in CHANNEL_ATTRIBUTES {
            found.extend(channel.take_attribute(name).map(|a| (property, a)));
        }
    }
    for (property, attribute) in found {
        let list = display.child_or_new("VRDEProperties");
        let known = list.elements().any(|p| p.value("name") == property);
        if attribute.value.is_empty() || known {
            continue;
        }
        let new = made(
            "Property",
            attribute.offset,
            &[("name", property), ("value", &attribute.value)],
        );
        list.children.push(Node::Element(new));
    }
}

/// The inverse of [`remote_display_in`].
fn remote_display_out(holder: &mut Element) {
    let Some(display) = holder
        .child_mut("Hardware")
        .and_then(|hardware| hardware.child_mut("RemoteDisplay"))
    else {
        return;
    };
    let Some(mut list) = display.take_child("VRDEProperties") else {
        return;
    };
    let mut value = |name: &str| {
        let is = |e: &Element| e.is("Property") && e.value("name") == name;
        take_where(&mut list, is).and_then(|mut p| p.take_attribute("value"))
    };
    let enabled = display
        .attributes
        .iter()
        .position(|a| a.name == "enabled")
        .map_or(0, |at| at + 1);
    for (name, property) in REMOTE_ATTRIBUTES.into_iter().rev() {
        if let Some(attribute) = value(property) {
            let name = name.to_owned();
            display
                .attributes
                .insert(enabled, Attribute { name, ..attribute });
        }
    }
    let mut channel = Element::new("VideoChannel");
    for (name, property) in CHANNEL_ATTRIBUTES {
        if let Some(attribute) = value(property) {
            channel.set(name, attribute.value);
        }
    }
    if !channel.is_empty() {
        display.children.push(Node::Element(channel));
    }
    if !list.is_empty() {
        display.children.push(Node::Element(list));
    }
}

/// Before 1.4: `DiskRegistry`, in which every kind of image is an element of its own.
fn disk_registry_in(global: &mut Element) {
    rename_child(global, "DiskRegistry", "MediaRegistry");
    let Some(registry) = global.child_mut("MediaRegistry") else {
        return;
    };
    for node in &mut registry.children {
        if let Node::Element(list) = node {
            for node in &mut list.children {
                if let Node::Element(medium) = node {
                    if list.name == "HardDisks" {
                        old_hard_disk(medium);
                    } else {
                        rename_attribute(medium, "src", "location");
                    }
                }
            }
        }
    }
}

/// Old elements for a hard disk's image, and its format since.
const IMAGES: [(&str, &str); 5] = [
    ("VirtualDiskImage", "VDI"),
    ("VMDKImage", "VMDK"),
    ("VHDImage", "VHD"),
    ("ISCSIHardDisk", "iSCSI"),
    ("CustomHardDisk", ""),
];

fn old_hard_disk(disk: &mut Element) {
    if disk.name == "DiffHardDisk" {
        disk.name = "HardDisk".to_owned();
    }
    for (name, format) in IMAGES {
        let Some(image) = disk.take_child(name) else {
            continue;
        };
        copy_attribute(&image, "filePath", disk, "location");
        copy_attribute(&image, "location", disk, "location");
        copy_attribute(&image, "format", disk, "format");
        if disk.attribute("format").is_none() && !format.is_empty() {
            disk.set("format", format.to_owned());
        }
        if name == "ISCSIHardDisk" {
            let location = format!("{}|{}", image.value("server"), image.value("target"));
            disk.set("location", location);
            for (attribute, property) in [
                ("server", "TargetAddress"),
                ("target", "TargetName"),
                ("lun", "LUN"),
                ("userName", "InitiatorUsername"),
                ("password", "InitiatorSecret"),
            ] {
                if let Some(a) = image.attribute(attribute) {
                    let values = [("name", property), ("value", a.value.as_str())];
                    let property = made("Property", a.offset, &values);
                    disk.children.push(Node::Element(property));
                }
            }
        }
        disk.children.extend(image.children);
    }
    for node in &mut disk.children {
        if let Node::Element(child) = node
            && (child.is("HardDisk") || child.is("DiffHardDisk"))
        {
            old_hard_disk(child);
        }
    }
}

// From 1.20.

/// Children of `Hardware` that are in `Platform`.
const PLATFORM: [&str; 4] = ["Chipset", "Iommu", "HPET", "RTC"];

/// Children of `CPU` that are not about x86 processors, and stay in `Hardware`.
const COMMON_CPU: [&str; 2] = ["Cpu", "CpuTree"];

/// `Platform` goes back into `Hardware`, and what `Firmware` holds into `BIOS`.
fn platform_in(holder: &mut Element) {
    let platform = holder.take_child("Platform");
    if let Some(mut platform) = platform
        && holder.child("Hardware").is_some()
    {
        let hardware = holder.child_or_new("Hardware");
        // `Hardware` has none of its own.
        hardware.take_attribute("architecture");
        if let Some(architecture) = platform.take_attribute("architecture") {
            hardware.attributes.push(architecture);
        }
        let cpu = platform.take_child("CPU");
        let x86 = cpu
            .and_then(|mut cpu| cpu.take_child("x86"))
            .or_else(|| platform.take_child("x86"));
        for node in x86.into_iter().flat_map(|x86| x86.children) {
            match node {
                Node::Element(e) if PLATFORM.contains(&e.name.as_str()) => {
                    platform.children.push(Node::Element(e));
                }
                other => hardware.child_or_new("CPU").children.push(other),
            }
        }
        hardware.children.append(&mut platform.children);
    }
    let Some(hardware) = holder.child_mut("Hardware") else {
        return;
    };
    if let Some(firmware) = hardware.child_mut("Firmware") {
        let mut inside = std::mem::take(&mut firmware.children);
        if !inside.is_empty() {
            hardware.child_or_new("BIOS").children.append(&mut inside);
        }
    }
}

/// The inverse of [`platform_in`].
fn platform_out(holder: &mut Element) {
    let Some(at) = holder.position("Hardware") else {
        return;
    };
    let hardware = holder.child_or_new("Hardware");
    let mut platform = Element::new("Platform");
    match hardware.take_attribute("architecture") {
        Some(architecture) => platform.attributes.push(architecture),
        None => platform.set("architecture", "x86".to_owned()),
    }
    let mut x86 = Element::new("x86");
    if let Some(cpu) = hardware.child_mut("CPU") {
        let all = std::mem::take(&mut cpu.children);
        for node in all {
            match &node {
                Node::Element(e) if !COMMON_CPU.contains(&e.name.as_str()) => {
                    x86.children.push(node);
                }
                _ => cpu.children.push(node),
            }
        }
        if cpu.is_empty() {
            hardware.take_child("CPU");
        }
    }
    let mut cpu = Element::new("CPU");
    if !x86.is_empty() {
        cpu.children.push(Node::Element(x86));
    }
    platform.children.push(Node::Element(cpu));
    for name in PLATFORM {
        platform
            .children
            .extend(hardware.take_child(name).map(Node::Element));
    }
    if let Some(mut bios) = hardware.take_child("BIOS") {
        if hardware.position("Firmware").is_none() {
            let firmware = Node::Element(Element::new("Firmware"));
            let at = hardware.position("Memory").map_or(0, |at| at + 1);
            hardware.children.insert(at, firmware);
        }
        let firmware = hardware.child_or_new("Firmware");
        firmware.children.append(&mut bios.children);
    }
    holder.children.insert(at + 1, Node::Element(platform));
}
