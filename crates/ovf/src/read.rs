//! Reading descriptors.
//!
//! Elements and attributes are found by their local names, whatever their namespace: products
//! differ in prefixes, and 0.9 has sections and machines as `Section` and `Content` with their
//! kind in `xsi:type`.

use crate::MachineExtension;
use crate::error::{Error, Result};
use crate::machine::VBOX_NAMESPACE;
use crate::model::*;

/// Largest descriptor that is read. Real ones are below 1 MiB.
pub(crate) const MAX_DESCRIPTOR: u64 = 16 << 20;
const MAX_NODES: u32 = 1 << 20;
/// Most attributes of one element and namespace declarations of one file: the XML parser's time is
/// quadratic in both.
const MAX_ATTRIBUTES: usize = 256;
const MAX_NAMESPACES: usize = 64;
/// Deepest nesting. Machines without their snapshots are some ten levels deep.
const MAX_DEPTH: usize = 256;

type Node<'a, 'i> = roxmltree::Node<'a, 'i>;

/// Parses XML that costs no more than its length justifies.
pub(crate) fn parse_xml(text: &str) -> Result<roxmltree::Document<'_>> {
    check_shape(text)?;
    let options = roxmltree::ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..roxmltree::ParsingOptions::default()
    };
    roxmltree::Document::parse_with_options(text, options)
        .map_err(|e| Error::descriptor(e.to_string()))
}

impl Envelope {
    /// Reads a descriptor.
    ///
    /// # Errors
    /// [`Error::Descriptor`] when it is no XML, no envelope, or its parts contradict each other.
    pub fn parse(text: &str) -> Result<Self> {
        let document = parse_xml(text.trim_start_matches('\u{feff}'))?;
        let text = document.input_text();
        let root = document.root_element();
        if root.tag_name().name() != "Envelope" {
            return Err(Error::descriptor("the root element is not an Envelope"));
        }
        let mut envelope = Self {
            version: version(root)?,
            ..Self::default()
        };
        for node in elements(root) {
            match kind(node) {
                "References" => {
                    envelope.files = all(node, "File").map(file).collect::<Result<_>>()?
                }
                "DiskSection" => {
                    envelope.disks = all(node, "Disk").map(disk).collect::<Result<_>>()?
                }
                "NetworkSection" => envelope.networks = all(node, "Network").map(network).collect(),
                _ => systems(node, text, &mut envelope.systems),
            }
        }
        for disk in &envelope.disks {
            if let Some(id) = disk
                .file_ref
                .as_deref()
                .filter(|id| envelope.file(id).is_none())
            {
                let text = format!("disk '{}' refers to the unknown file '{id}'", disk.id);
                return Err(Error::Descriptor(text));
            }
        }
        unique("file", envelope.files.iter().map(|f| f.id.as_str()))?;
        unique("disk", envelope.disks.iter().map(|d| d.id.as_str()))?;
        Ok(envelope)
    }
}

fn unique<'a>(what: &str, ids: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for id in ids {
        if !seen.insert(id) {
            return Err(Error::Descriptor(format!(
                "there are two {what}s with the ID '{id}'"
            )));
        }
    }
    Ok(())
}

fn version(root: Node<'_, '_>) -> Result<Version> {
    let namespace = root.tag_name().namespace().unwrap_or_default();
    let all = [Version::V0_9, Version::V1_0, Version::V2_0];
    if let Some(known) = all.into_iter().find(|v| v.namespace() == namespace) {
        return Ok(known);
    }
    match attribute(root, "version") {
        Some(text) => all
            .into_iter()
            .find(|v| text.starts_with(v.text()))
            .ok_or_else(|| Error::Descriptor(format!("OVF version {text} is not supported"))),
        None => Err(Error::Descriptor(format!(
            "'{namespace}' is no namespace of OVF 0.9, 1.0 or 2.0"
        ))),
    }
}

/// Machines, also those in collections of machines.
fn systems(node: Node<'_, '_>, text: &str, out: &mut Vec<VirtualSystem>) {
    match kind(node) {
        "VirtualSystem" => out.push(system(node, text)),
        "VirtualSystemCollection" => {
            for child in elements(node) {
                systems(child, text, out);
            }
        }
        _ => {}
    }
}

fn system(node: Node<'_, '_>, text: &str) -> VirtualSystem {
    let mut system = VirtualSystem {
        id: attribute(node, "id").unwrap_or_default().to_owned(),
        name: child_text(node, "Name"),
        ..VirtualSystem::default()
    };
    for section in elements(node) {
        match kind(section) {
            "OperatingSystemSection" => {
                system.os = OperatingSystem {
                    id: attribute(section, "id")
                        .and_then(|v| v.trim().parse().ok())
                        .unwrap_or(0),
                    description: child_text(section, "Description"),
                    vbox_type: child(section, "OSType").map(text_of),
                };
            }
            // A package of several products: the first one is the machine's.
            "ProductSection" if system.product.is_empty() => {
                system.product = Product {
                    product: child_text(section, "Product"),
                    product_url: child_text(section, "ProductUrl"),
                    vendor: child_text(section, "Vendor"),
                    vendor_url: child_text(section, "VendorUrl"),
                    version: child_text(section, "FullVersion"),
                };
                if system.product.version.is_empty() {
                    system.product.version = child_text(section, "Version");
                }
            }
            "AnnotationSection" => system.annotation = child_text(section, "Annotation"),
            "EulaSection" => {
                let license = child_text(section, "License");
                if !system.eula.is_empty() && !license.is_empty() {
                    system.eula.push('\n');
                }
                system.eula.push_str(&license);
            }
            "VirtualHardwareSection" => hardware(section, &mut system),
            "Machine" if section.tag_name().namespace() == Some(VBOX_NAMESPACE) => {
                system.machine = Some(MachineExtension::from_node(section, text));
            }
            _ => {}
        }
    }
    system
}

fn hardware(section: Node<'_, '_>, system: &mut VirtualSystem) {
    for node in elements(section) {
        match node.tag_name().name() {
            "System" => system.system_type = child_text(node, "VirtualSystemType"),
            "Item" | "StorageItem" | "EthernetPortItem" => system.items.extend(item(node)),
            _ => {}
        }
    }
}

fn item(node: Node<'_, '_>) -> Option<Item> {
    let text = |names: &[&str]| {
        let found = elements(node).find(|n| names.contains(&n.tag_name().name()));
        found.map(text_of).unwrap_or_default()
    };
    let kind = text(&["ResourceType"]).trim().parse().ok()?;
    Some(Item {
        resource_type: ResourceType(kind),
        instance_id: text(&["InstanceID", "InstanceId"]),
        sub_type: text(&["ResourceSubType"]),
        caption: match text(&["Caption"]) {
            caption if caption.is_empty() => text(&["ElementName"]),
            caption => caption,
        },
        description: text(&["Description"]),
        // 0.9 has a bus number in its place.
        address: text(&["Address", "BusNumber"]),
        address_on_parent: text(&["AddressOnParent"]),
        parent: text(&["Parent"]),
        host_resource: text(&["HostResource"]),
        connection: text(&["Connection"]),
        quantity: text(&["VirtualQuantity"]).trim().parse().ok(),
        allocation_units: text(&["AllocationUnits"]),
        automatic_allocation: text(&["AutomaticAllocation"]).trim().parse().ok(),
    })
}

fn file(node: Node<'_, '_>) -> Result<File> {
    let value = |name| attribute(node, name).map(str::to_owned);
    Ok(File {
        id: value("id").ok_or_else(|| Error::descriptor("a File has no id"))?,
        href: value("href").ok_or_else(|| Error::descriptor("a File has no href"))?,
        size: attribute(node, "size").and_then(|v| v.trim().parse().ok()),
        compression: value("compression").unwrap_or_default(),
    })
}

fn disk(node: Node<'_, '_>) -> Result<Disk> {
    let value = |name| attribute(node, name).map(str::to_owned);
    let id = value("diskId").ok_or_else(|| Error::descriptor("a Disk has no diskId"))?;
    let bytes = |name: &str| -> Option<u64> {
        let unit = attribute(node, "capacityAllocationUnits").unwrap_or("byte");
        let count: u64 = attribute(node, name)?.trim().parse().ok()?;
        count.checked_mul(unit_bytes(unit)?)
    };
    Ok(Disk {
        capacity: bytes("capacity")
            .ok_or_else(|| Error::Descriptor(format!("disk '{id}' has no valid capacity")))?,
        populated: attribute(node, "populatedSize").and_then(|v| v.trim().parse().ok()),
        file_ref: value("fileRef").filter(|v| !v.is_empty()),
        format: value("format").unwrap_or_default(),
        uuid: value("uuid"),
        id,
    })
}

fn network(node: Node<'_, '_>) -> Network {
    Network {
        name: attribute(node, "name").unwrap_or_default().to_owned(),
        description: child_text(node, "Description"),
    }
}

// --- Finding things ---------------------------------------------------------------------------------

fn elements<'a, 'i>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(|n| n.is_element())
}

/// What a section or machine is.
fn kind<'a>(node: Node<'a, '_>) -> &'a str {
    let name = node.tag_name().name();
    if name != "Section" && name != "Content" {
        return name;
    }
    let kind = attribute(node, "type").unwrap_or_default();
    let kind = kind.rsplit(':').next().unwrap_or_default();
    kind.strip_suffix("_Type").unwrap_or(kind)
}

fn all<'a, 'i: 'a>(node: Node<'a, 'i>, name: &'a str) -> impl Iterator<Item = Node<'a, 'i>> {
    elements(node).filter(move |n| n.tag_name().name() == name)
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    elements(node).find(|n| n.tag_name().name() == name)
}

fn text_of(node: Node<'_, '_>) -> String {
    let texts = node.children().filter(|n| n.is_text());
    texts.filter_map(|n| n.text()).collect()
}

fn child_text(node: Node<'_, '_>, name: &str) -> String {
    child(node, name).map(text_of).unwrap_or_default()
}

/// The attribute of that local name.
fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attributes()
        .find(|a| a.name() == name)
        .map(|a| a.value())
}

/// Refuses what is well-formed but would cost the parser out of proportion.
fn check_shape(text: &str) -> Result<()> {
    if text.len() as u64 > MAX_DESCRIPTOR {
        return Err(Error::descriptor("the file is larger than 16 MiB"));
    }
    let (mut depth, mut namespaces) = (0_usize, 0);
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        rest = &rest[open..];
        let end_of = |mark: &str| rest.find(mark).map_or(rest.len(), |n| n + mark.len());
        let end = if rest.starts_with("<!--") {
            end_of("-->")
        } else if rest.starts_with("<![CDATA[") {
            end_of("]]>")
        } else if rest.starts_with("<?") {
            end_of("?>")
        } else if rest.starts_with("</") {
            depth = depth.saturating_sub(1);
            end_of(">")
        } else {
            let (end, attributes) = tag_end(rest);
            namespaces += rest[..end].matches("xmlns").count();
            if attributes > MAX_ATTRIBUTES || namespaces > MAX_NAMESPACES {
                return Err(Error::descriptor("too many attributes or namespaces"));
            }
            depth += usize::from(!rest[..end].ends_with("/>"));
            if depth > MAX_DEPTH {
                return Err(Error::descriptor("elements nest too deep"));
            }
            end
        };
        rest = &rest[end..];
    }
    Ok(())
}

/// Where a start tag ends, and how many attributes it has.
fn tag_end(tag: &str) -> (usize, usize) {
    let (mut quote, mut attributes) = (None, 0);
    for (n, b) in tag.bytes().enumerate() {
        match (quote, b) {
            (Some(q), b) if q == b => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(b),
            (None, b'=') => attributes += 1,
            (None, b'>') => return (n + 1, attributes),
            _ => {}
        }
    }
    (tag.len(), attributes)
}
