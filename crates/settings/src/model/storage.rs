//! Storage controllers, what is attached to them, and the media a machine or the product knows.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::enums::*;

/// A storage controller.
#[derive(Debug, Clone, PartialEq)]
pub struct StorageController {
    /// Unique in the machine.
    pub name: String,
    pub kind: StorageControllerType,
    pub port_count: u32,
    /// Number among the controllers of one bus.
    pub instance: u32,
    pub use_host_io_cache: bool,
    pub bootable: bool,
    /// AHCI: which ports also answer as IDE primary master, primary slave, secondary master and
    /// secondary slave.
    pub ide_emulation_ports: [u32; 4],
    pub devices: Vec<AttachedDevice>,
}

impl StorageController {
    /// An empty controller with the model's usual number of ports and host I/O cache setting.
    pub fn new(name: impl Into<String>, kind: StorageControllerType) -> Self {
        use StorageControllerType as T;
        Self {
            name: name.into(),
            kind,
            port_count: kind.ports().2,
            instance: 0,
            use_host_io_cache: matches!(kind, T::Piix3 | T::Piix4 | T::Ich6 | T::I82078),
            bootable: true,
            ide_emulation_ports: Self::DEFAULT_IDE_EMULATION_PORTS,
            devices: Vec::new(),
        }
    }

    /// Ports 0 to 3.
    pub const DEFAULT_IDE_EMULATION_PORTS: [u32; 4] = [0, 1, 2, 3];

    /// What is attached at a port.
    pub fn device(&self, port: u32, device: u32) -> Option<&AttachedDevice> {
        self.devices
            .iter()
            .find(|d| (d.port, d.device) == (port, device))
    }
}

impl Default for StorageController {
    fn default() -> Self {
        Self::new("", StorageControllerType::Ahci)
    }
}

/// A drive or disk at a controller's port.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AttachedDevice {
    pub kind: DeviceType,
    pub port: u32,
    /// 0, or 1 where a port takes two.
    pub device: u32,
    /// Host drive: the guest may send it raw commands.
    pub passthrough: bool,
    /// The guest's eject lasts only until the next start.
    pub temp_eject: bool,
    /// Tell the guest it is a solid-state disk.
    pub non_rotational: bool,
    /// Pass the guest's trims on.
    pub discard: bool,
    pub hot_pluggable: bool,
    pub bandwidth_group: String,
    pub medium: AttachedMedium,
}

/// What is in a drive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AttachedMedium {
    /// An empty drive.
    #[default]
    None,
    /// An image in a media registry.
    Image(Uuid),
    /// A drive of the host, by its device path.
    HostDrive(String),
}

/// Images known to a machine or to the product.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MediaRegistry {
    /// Base disks with the trees of their differencing images.
    pub hard_disks: Vec<HardDisk>,
    pub dvds: Vec<Image>,
    pub floppies: Vec<Image>,
}

impl MediaRegistry {
    /// Whether nothing is registered.
    pub fn is_empty(&self) -> bool {
        self.hard_disks.is_empty() && self.dvds.is_empty() && self.floppies.is_empty()
    }

    /// The hard disk of that UUID, base or differencing.
    pub fn hard_disk(&self, uuid: Uuid) -> Option<&HardDisk> {
        let mut open: Vec<&HardDisk> = self.hard_disks.iter().collect();
        while let Some(disk) = open.pop() {
            if disk.uuid == uuid {
                return Some(disk);
            }
            open.extend(&disk.children);
        }
        None
    }
}

/// A hard disk image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HardDisk {
    pub uuid: Uuid,
    /// As stored: a path, relative to the machine folder if inside it (see
    /// [`resolve_path`](crate::resolve_path)), or what the format takes (`server|target`).
    pub location: String,
    /// `VDI`, `VMDK`, ...
    pub format: String,
    /// Meaningful for base images only.
    pub kind: HardDiskType,
    /// Differencing image of an immutable disk: emptied at each start.
    pub auto_reset: bool,
    pub description: String,
    pub properties: BTreeMap<String, String>,
    /// Differencing images on top of this one.
    pub children: Vec<HardDisk>,
}

/// A DVD or floppy image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Image {
    pub uuid: Uuid,
    /// As stored, like [`HardDisk::location`].
    pub location: String,
    /// Usually empty (`RAW`).
    pub format: String,
    pub description: String,
    pub properties: BTreeMap<String, String>,
}
