//! Writing descriptors, with VirtualBox's words, order and layout.
//!
//! Elements of an item stand in the alphabetical order of their CIM classes, which the schemas of
//! 1.0 and 2.0 demand.

use crate::MachineExtension;
use crate::machine::VBOX_NAMESPACE;
use crate::model::*;

const CIM: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_";

impl Envelope {
    /// The descriptor's text.
    pub fn to_xml(&self) -> String {
        let mut x = Xml::new(self.version);
        let namespace = self.version.namespace();
        let cim = |class: &str| format!("{CIM}{class}SettingData");
        let mut attributes = vec![
            ("ovf:version", self.version.text().to_owned()),
            ("xml:lang", "en-US".to_owned()),
            ("xmlns", namespace.to_owned()),
            ("xmlns:ovf", namespace.to_owned()),
            ("xmlns:rasd", cim("ResourceAllocation")),
            ("xmlns:vssd", cim("VirtualSystem")),
            (
                "xmlns:xsi",
                "http://www.w3.org/2001/XMLSchema-instance".to_owned(),
            ),
            ("xmlns:vbox", VBOX_NAMESPACE.to_owned()),
        ];
        if self.version == Version::V2_0 {
            attributes.push(("xmlns:sasd", cim("StorageAllocation") + ".xsd"));
            attributes.push(("xmlns:epasd", cim("EthernetPortAllocation") + ".xsd"));
        }
        x.open("Envelope", &borrowed(&attributes));
        x.open("References", &[]);
        for file in &self.files {
            let size = file.size.map(|s| s.to_string()).unwrap_or_default();
            x.empty(
                "File",
                &[
                    ("ovf:id", &file.id),
                    ("ovf:href", &file.href),
                    ("ovf:size", &size),
                    ("ovf:compression", &file.compression),
                ],
            );
        }
        x.close();
        x.section(
            "DiskSection",
            &[],
            "List of the virtual disks used in the package",
        );
        for disk in &self.disks {
            let populated = disk.populated.map(|s| s.to_string()).unwrap_or_default();
            x.empty(
                "Disk",
                &[
                    ("ovf:capacity", &disk.capacity.to_string()),
                    ("ovf:diskId", &disk.id),
                    ("ovf:fileRef", disk.file_ref.as_deref().unwrap_or_default()),
                    ("ovf:format", &disk.format),
                    ("ovf:populatedSize", &populated),
                    ("vbox:uuid", disk.uuid.as_deref().unwrap_or_default()),
                ],
            );
        }
        x.close();
        x.section(
            "NetworkSection",
            &[],
            "Logical networks used in the package",
        );
        for network in &self.networks {
            x.open("Network", &[("ovf:name", &network.name)]);
            x.leaf("Description", &network.description);
            x.close();
        }
        x.close();
        let collection = self.systems.len() != 1;
        if collection {
            x.content("VirtualSystemCollection", "VirtualBox");
            x.leaf("Info", "A collection of virtual machines");
        }
        for system in &self.systems {
            write_system(&mut x, system);
        }
        if collection {
            x.close();
        }
        x.close();
        x.out
    }
}

fn write_system(x: &mut Xml, system: &VirtualSystem) {
    x.content("VirtualSystem", &system.id);
    x.leaf("Info", "A virtual machine");
    if !system.name.is_empty() && x.version != Version::V0_9 {
        x.leaf("Name", &system.name);
    }
    if !system.product.is_empty() {
        let p = &system.product;
        x.section(
            "ProductSection",
            &[],
            "Meta-information about the installed software",
        );
        for (name, value) in [
            ("Product", &p.product),
            ("Vendor", &p.vendor),
            ("Version", &p.version),
            ("ProductUrl", &p.product_url),
            ("VendorUrl", &p.vendor_url),
        ] {
            if !value.is_empty() {
                x.leaf(name, value);
            }
        }
        x.close();
    }
    if !system.annotation.is_empty() {
        x.section("AnnotationSection", &[], "A human-readable annotation");
        x.leaf("Annotation", &system.annotation);
        x.close();
    }
    if !system.eula.is_empty() {
        x.section(
            "EulaSection",
            &[],
            "License agreement for the virtual system",
        );
        x.leaf("License", &system.eula);
        x.close();
    }
    x.section(
        "OperatingSystemSection",
        &[("ovf:id", &system.os.id.to_string())],
        "The kind of installed guest operating system",
    );
    x.leaf("Description", &system.os.description);
    if let Some(vbox) = &system.os.vbox_type {
        x.leaf_with("vbox:OSType", &[("ovf:required", "false")], vbox);
    }
    x.close();
    x.section(
        "VirtualHardwareSection",
        &[],
        "Virtual hardware requirements for a virtual machine",
    );
    x.open("System", &[]);
    if x.version == Version::V0_9 {
        x.leaf("vssd:Description", "Virtual Hardware Family");
        x.leaf("vssd:InstanceId", "0");
    } else {
        x.leaf("vssd:ElementName", "Virtual Hardware Family");
        x.leaf("vssd:InstanceID", "0");
    }
    x.leaf("vssd:VirtualSystemIdentifier", &system.id);
    x.leaf("vssd:VirtualSystemType", &system.system_type);
    x.close();
    for item in &system.items {
        write_item(x, item);
    }
    x.close();
    if let Some(machine) = &system.machine {
        write_machine(x, machine);
    }
    x.close();
}

fn write_item(x: &mut Xml, item: &Item) {
    let (element, prefix) = match (x.version, item.resource_type) {
        (Version::V2_0, ResourceType::DISK | ResourceType::CD | ResourceType::DVD) => {
            ("StorageItem", "sasd")
        }
        (Version::V2_0, ResourceType::ETHERNET) => ("EthernetPortItem", "epasd"),
        _ => ("Item", "rasd"),
    };
    let old = x.version == Version::V0_9;
    let quantity = item.quantity.map(|q| q.to_string()).unwrap_or_default();
    let automatic = item
        .automatic_allocation
        .map(|a| a.to_string())
        .unwrap_or_default();
    let kind = item.resource_type.0.to_string();
    let (address, instance, name) = match old {
        true => ("BusNumber", "InstanceId", ""),
        false => ("Address", "InstanceID", item.caption.as_str()),
    };
    x.open(element, &[]);
    let mut all = [
        (address, item.address.as_str()),
        ("AddressOnParent", &item.address_on_parent),
        ("AllocationUnits", &item.allocation_units),
        ("AutomaticAllocation", &automatic),
        ("Caption", &item.caption),
        ("Connection", &item.connection),
        ("Description", &item.description),
        ("ElementName", name),
        ("HostResource", &item.host_resource),
        (instance, &item.instance_id),
        ("Parent", &item.parent),
        ("ResourceSubType", &item.sub_type),
        ("ResourceType", &kind),
        ("VirtualQuantity", &quantity),
    ];
    all.sort_by_key(|(name, _)| *name);
    for (name, value) in all {
        if !value.is_empty() {
            x.leaf(&format!("{prefix}:{name}"), value);
        }
    }
    x.close();
}

fn write_machine(x: &mut Xml, machine: &MachineExtension) {
    let mut attributes = vec![("ovf:required", "false")];
    let prefixes = machine.namespaces.iter();
    let prefixes: Vec<(String, &str)> = prefixes
        .map(|(prefix, uri)| (format!("xmlns:{prefix}"), uri.as_str()))
        .collect();
    attributes.extend(prefixes.iter().map(|(n, v)| (n.as_str(), *v)));
    let own = machine.attributes.iter();
    attributes.extend(own.map(|(n, v)| (n.as_str(), v.as_str())));
    x.open("vbox:Machine", &attributes);
    x.leaf(
        "ovf:Info",
        "Complete VirtualBox machine configuration in VirtualBox format",
    );
    x.raw(&machine.inner);
    x.close();
}

fn borrowed<'a>(attributes: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    attributes.iter().map(|(n, v)| (*n, v.as_str())).collect()
}

/// Text between tags.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            // XML has no way to say these.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// An attribute's value, line breaks and tabs included.
pub(crate) fn escape_attribute(text: &str) -> String {
    escape(text).replace('\n', "&#10;").replace('\t', "&#9;")
}

/// A document under way.
struct Xml {
    version: Version,
    out: String,
    open: Vec<String>,
}

impl Xml {
    fn new(version: Version) -> Self {
        Self {
            version,
            out: "<?xml version=\"1.0\"?>\n".to_owned(),
            open: Vec::new(),
        }
    }

    fn tag(&mut self, name: &str, attributes: &[(&str, &str)], end: &str) {
        let indent = "  ".repeat(self.open.len());
        self.out.push_str(&format!("{indent}<{name}"));
        for (name, value) in attributes.iter().filter(|(_, v)| !v.is_empty()) {
            let value = escape_attribute(value);
            self.out.push_str(&format!(" {name}=\"{value}\""));
        }
        self.out.push_str(end);
    }

    /// Attributes without a value are left out.
    fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(name, attributes, ">\n");
        self.open.push(name.to_owned());
    }

    fn close(&mut self) {
        if let Some(name) = self.open.pop() {
            let indent = "  ".repeat(self.open.len());
            self.out.push_str(&format!("{indent}</{name}>\n"));
        }
    }

    fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(name, attributes, "/>\n");
    }

    fn leaf(&mut self, name: &str, text: &str) {
        self.leaf_with(name, &[], text);
    }

    fn leaf_with(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.tag(name, attributes, ">");
        self.out.push_str(&format!("{}</{name}>\n", escape(text)));
    }

    fn raw(&mut self, text: &str) {
        let indent = "  ".repeat(self.open.len());
        self.out.push_str(&format!("{indent}{text}\n"));
    }

    /// A section with its `Info`.
    fn section(&mut self, name: &str, attributes: &[(&str, &str)], info: &str) {
        if self.version == Version::V0_9 {
            let kind = format!("ovf:{name}_Type");
            let mut attributes = attributes.to_vec();
            attributes.push(("xsi:type", &kind));
            self.open("Section", &attributes);
        } else {
            self.open(name, attributes);
        }
        self.leaf("Info", info);
    }

    /// A machine or a collection of them.
    fn content(&mut self, name: &str, id: &str) {
        if self.version == Version::V0_9 {
            let kind = format!("ovf:{name}_Type");
            self.open("Content", &[("ovf:id", id), ("xsi:type", &kind)]);
        } else {
            self.open(name, &[("ovf:id", id)]);
        }
    }
}
