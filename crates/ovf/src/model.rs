//! What a descriptor says.

use crate::MachineExtension;

/// Version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Version {
    /// Before it was a standard.
    V0_9,
    #[default]
    V1_0,
    V2_0,
}

impl Version {
    /// The namespace of the elements.
    pub fn namespace(self) -> &'static str {
        match self {
            Self::V0_9 => "http://www.vmware.com/schema/ovf/1/envelope",
            Self::V1_0 => "http://schemas.dmtf.org/ovf/envelope/1",
            Self::V2_0 => "http://schemas.dmtf.org/ovf/envelope/2",
        }
    }

    /// `0.9`, `1.0`, `2.0`.
    pub fn text(self) -> &'static str {
        match self {
            Self::V0_9 => "0.9",
            Self::V1_0 => "1.0",
            Self::V2_0 => "2.0",
        }
    }
}

/// A whole descriptor.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Envelope {
    pub version: Version,
    pub files: Vec<File>,
    pub disks: Vec<Disk>,
    pub networks: Vec<Network>,
    pub systems: Vec<VirtualSystem>,
}

impl Envelope {
    /// The file of that ID.
    pub fn file(&self, id: &str) -> Option<&File> {
        self.files.iter().find(|f| f.id == id)
    }

    /// The disk of that ID.
    pub fn disk(&self, id: &str) -> Option<&Disk> {
        self.disks.iter().find(|d| d.id == id)
    }
}

/// A file of the package.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct File {
    pub id: String,
    /// Name relative to the descriptor. See [`is_plain_name`](crate::is_plain_name).
    pub href: String,
    /// Bytes, as stored.
    pub size: Option<u64>,
    /// `gzip`, `identity` or empty.
    pub compression: String,
}

impl File {
    /// Whether the stored bytes are gzip's.
    pub fn is_gzip(&self) -> bool {
        self.compression.eq_ignore_ascii_case("gzip")
    }
}

/// A virtual disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disk {
    /// `vmdisk1`.
    pub id: String,
    /// Bytes.
    pub capacity: u64,
    /// Bytes in use, where the package says.
    pub populated: Option<u64>,
    /// ID of its file; none for a blank disk.
    pub file_ref: Option<String>,
    /// URL of the format.
    pub format: String,
    /// VirtualBox's `vbox:uuid`, which connects it to the machine extension.
    pub uuid: Option<String>,
}

/// Formats that VirtualBox's URLs name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    Vmdk,
    Vhd,
    Vdi,
    Iso,
}

impl DiskFormat {
    /// The URL that VirtualBox writes. VMDK is the stream-optimised kind.
    pub fn url(self) -> &'static str {
        match self {
            Self::Vmdk => {
                "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
            }
            Self::Vhd => "http://go.microsoft.com/fwlink/?LinkId=137171",
            Self::Vdi => "http://www.virtualbox.org/VDI",
            Self::Iso => "http://www.ecma-international.org/publications/standards/Ecma-119.htm",
        }
    }

    /// What a URL names; products spell theirs in several ways.
    pub fn of_url(url: &str) -> Option<Self> {
        let url = url.to_ascii_lowercase();
        let has = |word: &str| url.contains(word);
        if has("vmdk") {
            Some(Self::Vmdk)
        } else if has("linkid=137171") || has("vhd") {
            Some(Self::Vhd)
        } else if has("vdi") {
            Some(Self::Vdi)
        } else if has("ecma-119") {
            Some(Self::Iso)
        } else {
            None
        }
    }
}

/// A logical network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Network {
    pub name: String,
    pub description: String,
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VirtualSystem {
    pub id: String,
    /// Name for people, where it is not the ID.
    pub name: String,
    pub os: OperatingSystem,
    pub product: Product,
    /// Free text.
    pub annotation: String,
    /// License that has to be accepted before the machine may be used.
    pub eula: String,
    /// `virtualbox-2.2`, `vmx-07`: families of virtual hardware, blanks between them.
    pub system_type: String,
    /// Virtual hardware.
    pub items: Vec<Item>,
    /// VirtualBox's own settings.
    pub machine: Option<MachineExtension>,
}

/// What runs in a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperatingSystem {
    /// Number in CIM's list; see [`guest_os`](crate::guest_os).
    pub id: u32,
    pub description: String,
    /// VirtualBox's type ID.
    pub vbox_type: Option<String>,
}

/// Who made it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Product {
    pub product: String,
    pub product_url: String,
    pub vendor: String,
    pub vendor_url: String,
    pub version: String,
}

impl Product {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Kinds of virtual hardware: CIM's resource types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceType(pub u32);

impl ResourceType {
    pub const OTHER: Self = Self(1);
    pub const PROCESSOR: Self = Self(3);
    pub const MEMORY: Self = Self(4);
    pub const IDE: Self = Self(5);
    pub const SCSI: Self = Self(6);
    pub const ETHERNET: Self = Self(10);
    pub const FLOPPY: Self = Self(14);
    pub const CD: Self = Self(15);
    pub const DVD: Self = Self(16);
    pub const DISK: Self = Self(17);
    /// SATA and NVMe controllers.
    pub const OTHER_STORAGE: Self = Self(20);
    pub const USB: Self = Self(23);
    pub const SOUND: Self = Self(35);
}

/// A piece of virtual hardware (`Item`, and 2.0's `StorageItem` and `EthernetPortItem`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub resource_type: ResourceType,
    pub instance_id: String,
    /// Model.
    pub sub_type: String,
    pub caption: String,
    pub description: String,
    /// Number of the channel of a controller.
    pub address: String,
    /// Port at the parent.
    pub address_on_parent: String,
    /// Instance ID of the controller it is attached to.
    pub parent: String,
    /// `/disk/ID` or `/file/ID`.
    pub host_resource: String,
    /// Name of the network it is plugged into.
    pub connection: String,
    pub quantity: Option<u64>,
    /// Unit of the quantity.
    pub allocation_units: String,
    pub automatic_allocation: Option<bool>,
}

impl Item {
    /// An item with nothing but what it is.
    pub fn new(resource_type: ResourceType, instance_id: u32) -> Self {
        Self {
            resource_type,
            instance_id: instance_id.to_string(),
            sub_type: String::new(),
            caption: String::new(),
            description: String::new(),
            address: String::new(),
            address_on_parent: String::new(),
            parent: String::new(),
            host_resource: String::new(),
            connection: String::new(),
            quantity: None,
            allocation_units: String::new(),
            automatic_allocation: None,
        }
    }

    /// The quantity in bytes; memory without a unit is in MiB.
    pub fn bytes(&self) -> Option<u64> {
        let unit = match self.allocation_units.trim() {
            "" => 1 << 20,
            unit => unit_bytes(unit)?,
        };
        self.quantity?.checked_mul(unit)
    }

    /// The ID in `host_resource` when it starts with `/KIND/` (1.0 and later write `ovf:/KIND/`).
    pub fn resource(&self, kind: &str) -> Option<&str> {
        let path = self.host_resource.trim();
        let path = path.strip_prefix("ovf:").unwrap_or(path);
        let rest = path.trim_start_matches('/').strip_prefix(kind)?;
        rest.strip_prefix('/')
    }
}

/// Bytes in a unit: `byte * 2^20`, `MegaBytes`, `MB`, ...
pub(crate) fn unit_bytes(unit: &str) -> Option<u64> {
    let unit: String = unit
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let power = |text: &str| -> Option<u64> {
        let (base, exponent) = text.split_once('^')?;
        base.parse::<u64>()
            .ok()?
            .checked_pow(exponent.parse().ok()?)
    };
    Some(match unit.as_str() {
        "byte" | "bytes" | "b" => 1,
        "kilobytes" | "kilobyte" | "kb" => 1 << 10,
        "megabytes" | "megabyte" | "mb" => 1 << 20,
        "gigabytes" | "gigabyte" | "gb" => 1 << 30,
        "terabytes" | "terabyte" | "tb" => 1 << 40,
        other => {
            let factor = other
                .strip_prefix("bytes*")
                .or_else(|| other.strip_prefix("byte*"))?;
            factor.parse().ok().or_else(|| power(factor))?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_in_their_spellings() {
        for (unit, bytes) in [
            ("MegaBytes", Some(1 << 20)),
            ("byte * 2^20", Some(1 << 20)),
            ("byte*2^30", Some(1 << 30)),
            ("bytes * 10^3", Some(1000)),
            ("MB", Some(1 << 20)),
            ("byte", Some(1)),
            ("byte * 1024", Some(1024)),
            ("byte * 2^99", None),
            ("hertz * 10^6", None),
            ("", None),
        ] {
            assert_eq!(unit_bytes(unit), bytes, "{unit}");
        }
        let mut item = Item::new(ResourceType::MEMORY, 1);
        item.quantity = Some(u64::MAX);
        assert_eq!(item.bytes(), None);
        item.quantity = Some(512);
        assert_eq!(item.bytes(), Some(512 << 20));
    }

    #[test]
    fn host_resources() {
        let mut item = Item::new(ResourceType::DISK, 1);
        for path in ["/disk/vmdisk1", "ovf:/disk/vmdisk1", "disk/vmdisk1"] {
            item.host_resource = path.to_owned();
            assert_eq!(item.resource("disk"), Some("vmdisk1"));
            assert_eq!(item.resource("file"), None);
        }
    }
}
