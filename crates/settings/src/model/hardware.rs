//! The hardware of a machine, at present or in a snapshot.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::enums::*;
use super::network::NetworkAdapter;
use super::storage::StorageController;

/// Everything below `Hardware`, and the storage controllers wherever the file has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Hardware {
    /// Version of the hardware shown to the guest: 1 in machines of VirtualBox 2.0, else 2.
    pub version: u32,
    /// What processors the machine has (1.20).
    pub architecture: Architecture,
    /// Hardware UUID shown to the guest; none means the machine's own.
    pub uuid: Option<Uuid>,
    pub cpu: Cpu,
    /// RAM in MiB, 4 to 2,097,152.
    pub memory_mb: u32,
    pub page_fusion: bool,
    pub firmware: FirmwareType,
    pub pointing: PointingHid,
    pub keyboard: KeyboardHid,
    pub hpet: bool,
    pub chipset: ChipsetType,
    pub iommu: IommuType,
    pub paravirt: Paravirt,
    /// Boot devices in order; positions beyond the list are `None`.
    pub boot_order: [BootDevice; 4],
    pub display: Display,
    pub video_capture: VideoCapture,
    pub remote_display: RemoteDisplay,
    pub bios: Bios,
    pub tpm: Tpm,
    pub usb: Usb,
    /// Network cards by rising slot. A slot that is not here has a card that is off.
    pub network: Vec<NetworkAdapter>,
    /// Serial ports by rising slot, 0 to 3.
    pub serial: Vec<SerialPort>,
    /// Parallel ports by rising slot, 0 to 1.
    pub parallel: Vec<ParallelPort>,
    pub audio: Audio,
    pub rtc: RtcZone,
    pub shared_folders: Vec<SharedFolder>,
    pub clipboard: Clipboard,
    pub drag_and_drop: TransferMode,
    pub io: Io,
    pub host_pci: Vec<HostPciDevice>,
    pub card_reader: bool,
    pub guest: Guest,
    pub guest_properties: Vec<GuestProperty>,
    /// Patterns whose changes are announced, `|` between them.
    pub notification_patterns: String,
    /// Front end started by default (`gui`, `headless`); empty is the product's choice (1.14).
    pub default_frontend: String,
    pub storage: Vec<StorageController>,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            version: 2,
            architecture: Architecture::X86,
            uuid: None,
            cpu: Cpu::default(),
            memory_mb: 128,
            page_fusion: false,
            firmware: FirmwareType::Bios,
            pointing: PointingHid::Ps2Mouse,
            keyboard: KeyboardHid::Ps2Keyboard,
            hpet: false,
            chipset: ChipsetType::Piix3,
            iommu: IommuType::None,
            paravirt: Paravirt::default(),
            boot_order: Self::DEFAULT_BOOT_ORDER,
            display: Display::default(),
            video_capture: VideoCapture::default(),
            remote_display: RemoteDisplay::default(),
            bios: Bios::default(),
            tpm: Tpm::default(),
            usb: Usb::default(),
            network: Vec::new(),
            serial: Vec::new(),
            parallel: Vec::new(),
            audio: Audio::default(),
            rtc: RtcZone::Local,
            shared_folders: Vec::new(),
            clipboard: Clipboard::default(),
            drag_and_drop: TransferMode::Disabled,
            io: Io::default(),
            host_pci: Vec::new(),
            card_reader: false,
            guest: Guest::default(),
            guest_properties: Vec::new(),
            notification_patterns: String::new(),
            default_frontend: String::new(),
            storage: Vec::new(),
        }
    }
}

impl Hardware {
    /// Floppy, DVD, hard disk.
    pub const DEFAULT_BOOT_ORDER: [BootDevice; 4] = [
        BootDevice::Floppy,
        BootDevice::Dvd,
        BootDevice::HardDisk,
        BootDevice::None,
    ];

    /// The storage controller of that name.
    pub fn controller(&self, name: &str) -> Option<&StorageController> {
        self.storage.iter().find(|c| c.name == name)
    }

    /// The storage controller of that name.
    pub fn controller_mut(&mut self, name: &str) -> Option<&mut StorageController> {
        self.storage.iter_mut().find(|c| c.name == name)
    }

    /// The network card in `slot`; one that is off where the file has none.
    pub fn adapter(&self, slot: u32) -> NetworkAdapter {
        self.network
            .iter()
            .find(|a| a.slot == slot)
            .cloned()
            .unwrap_or(NetworkAdapter::new(slot))
    }

    /// The network card in `slot`, made if the file has none.
    pub fn adapter_mut(&mut self, slot: u32) -> &mut NetworkAdapter {
        let at = slot_index(&mut self.network, slot, |a| a.slot, NetworkAdapter::new);
        &mut self.network[at]
    }

    /// The serial port in `slot`; one that is off where the file has none.
    pub fn serial_port(&self, slot: u32) -> SerialPort {
        self.serial
            .iter()
            .find(|p| p.slot == slot)
            .cloned()
            .unwrap_or(SerialPort::new(slot))
    }

    /// The serial port in `slot`, made if the file has none.
    pub fn serial_port_mut(&mut self, slot: u32) -> &mut SerialPort {
        let at = slot_index(&mut self.serial, slot, |p| p.slot, SerialPort::new);
        &mut self.serial[at]
    }

    /// The parallel port in `slot`; one that is off where the file has none.
    pub fn parallel_port(&self, slot: u32) -> ParallelPort {
        self.parallel
            .iter()
            .find(|p| p.slot == slot)
            .cloned()
            .unwrap_or(ParallelPort::new(slot))
    }

    /// The parallel port in `slot`, made if the file has none.
    pub fn parallel_port_mut(&mut self, slot: u32) -> &mut ParallelPort {
        let at = slot_index(&mut self.parallel, slot, |p| p.slot, ParallelPort::new);
        &mut self.parallel[at]
    }

    /// The guest property of that name.
    pub fn guest_property(&self, name: &str) -> Option<&GuestProperty> {
        self.guest_properties.iter().find(|p| p.name == name)
    }
}

/// Index of the item for `slot` in a list kept by rising slot, inserted if missing.
fn slot_index<T>(list: &mut Vec<T>, slot: u32, of: fn(&T) -> u32, new: fn(u32) -> T) -> usize {
    let at = list
        .iter()
        .position(|item| of(item) >= slot)
        .unwrap_or(list.len());
    if list.get(at).is_none_or(|item| of(item) != slot) {
        list.insert(at, new(slot));
    }
    at
}

/// Processors and the switches of the engines.
#[derive(Debug, Clone, PartialEq)]
pub struct Cpu {
    /// Number of virtual CPUs.
    pub count: u32,
    pub hotplug: bool,
    /// Share of host CPU time in percent, 1 to 100.
    pub execution_cap: u32,
    /// CPUID profile, `host` if empty (1.16).
    pub profile: String,
    /// CPUID portability level, 0 to 3 (1.15).
    pub portability_level: u32,
    pub hw_virt: bool,
    pub nested_paging: bool,
    pub vpid: bool,
    pub unrestricted_execution: bool,
    pub large_pages: bool,
    pub hw_virt_force: bool,
    pub use_native_api: bool,
    pub virt_vmsave_vmload: bool,
    pub pae: bool,
    pub long_mode: bool,
    pub apic: bool,
    pub x2apic: bool,
    /// Shows the guest a made-up CPU name (1.10).
    pub synthetic: bool,
    pub triple_fault_reset: bool,
    pub nested_hw_virt: bool,
    pub ibpb_on_vm_exit: bool,
    pub ibpb_on_vm_entry: bool,
    pub spec_ctrl: bool,
    pub spec_ctrl_by_host: bool,
    pub l1d_flush_on_scheduling: bool,
    pub l1d_flush_on_vm_entry: bool,
    pub mds_clear_on_scheduling: bool,
    pub mds_clear_on_vm_entry: bool,
    /// CPUID leaves that are overridden.
    pub cpuid: Vec<CpuIdLeaf>,
    /// With `hotplug`: the CPUs that are plugged in.
    pub plugged: Vec<u32>,
}

impl Default for Cpu {
    fn default() -> Self {
        Self {
            count: 1,
            hotplug: false,
            execution_cap: 100,
            profile: String::new(),
            portability_level: 0,
            hw_virt: true,
            nested_paging: true,
            vpid: true,
            unrestricted_execution: true,
            large_pages: false,
            hw_virt_force: false,
            use_native_api: false,
            virt_vmsave_vmload: true,
            pae: true,
            long_mode: true,
            apic: true,
            x2apic: false,
            synthetic: false,
            triple_fault_reset: false,
            nested_hw_virt: false,
            ibpb_on_vm_exit: false,
            ibpb_on_vm_entry: false,
            spec_ctrl: false,
            spec_ctrl_by_host: false,
            l1d_flush_on_scheduling: true,
            l1d_flush_on_vm_entry: false,
            mds_clear_on_scheduling: true,
            mds_clear_on_vm_entry: false,
            cpuid: Vec::new(),
            plugged: Vec::new(),
        }
    }
}

/// One overridden CPUID leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuIdLeaf {
    pub id: u32,
    pub subleaf: u32,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// Paravirtualization.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Paravirt {
    pub provider: ParavirtProvider,
    /// Debug options, `key=value` with commas.
    pub debug: String,
}

/// Graphics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Display {
    pub controller: GraphicsController,
    /// Video memory in MiB, 0 to 256.
    pub vram_mb: u32,
    /// Screens, 1 to 64.
    pub monitors: u32,
    pub accelerate_3d: bool,
    pub accelerate_2d_video: bool,
}

impl Default for Display {
    fn default() -> Self {
        Self {
            controller: GraphicsController::VBoxVga,
            vram_mb: 8,
            monitors: 1,
            accelerate_3d: false,
            accelerate_2d_video: false,
        }
    }
}

/// Recording of the screens (1.14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoCapture {
    /// Whether the file has it beside `Hardware`, as products from 6.0 on do.
    pub beside_hardware: bool,
    pub enabled: bool,
    pub file: String,
    /// One bit per screen that is recorded.
    pub screens: u64,
    pub width: u32,
    pub height: u32,
    /// Kilobits per second.
    pub rate: u32,
    pub fps: u32,
    /// Seconds, 0 without limit.
    pub max_time: u32,
    /// MiB, 0 without limit.
    pub max_size: u32,
    pub options: String,
}

impl Default for VideoCapture {
    fn default() -> Self {
        Self {
            beside_hardware: false,
            enabled: false,
            file: String::new(),
            screens: u64::MAX,
            width: 1024,
            height: 768,
            rate: 512,
            fps: 25,
            max_time: 0,
            max_size: 0,
            options: String::new(),
        }
    }
}

/// Remote display server (VRDE).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteDisplay {
    pub enabled: bool,
    pub auth_type: AuthType,
    /// Milliseconds.
    pub auth_timeout: u32,
    pub auth_library: String,
    pub ext_pack: String,
    pub allow_multi_connection: bool,
    pub reuse_single_connection: bool,
    /// Server properties: `TCP/Ports`, `TCP/Address`, `VideoChannel/Enabled`, ...
    pub properties: BTreeMap<String, String>,
}

impl Default for RemoteDisplay {
    fn default() -> Self {
        Self {
            enabled: false,
            auth_type: AuthType::Null,
            auth_timeout: 5000,
            auth_library: String::new(),
            ext_pack: String::new(),
            allow_multi_connection: false,
            reuse_single_connection: false,
            properties: BTreeMap::new(),
        }
    }
}

/// Firmware settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bios {
    pub acpi: bool,
    pub ioapic: bool,
    pub apic_mode: ApicMode,
    pub logo_fade_in: bool,
    pub logo_fade_out: bool,
    /// Milliseconds.
    pub logo_display_time: u32,
    pub logo_image_path: String,
    pub boot_menu: BootMenuMode,
    /// Guest's clock minus host's clock, milliseconds.
    pub time_offset_ms: i64,
    pub pxe_debug: bool,
    /// File with the non-volatile memory (1.18); empty if there is none yet.
    pub nvram_path: String,
    /// Password and wrapped key of an encrypted one (1.19).
    pub nvram_key_id: String,
    pub nvram_key_store: String,
    /// Whether SMBIOS shows the hardware UUID's first fields little-endian.
    pub smbios_uuid_little_endian: bool,
    pub auto_serial_number: bool,
}

impl Default for Bios {
    fn default() -> Self {
        Self {
            acpi: true,
            ioapic: false,
            apic_mode: ApicMode::Apic,
            logo_fade_in: true,
            logo_fade_out: true,
            logo_display_time: 0,
            logo_image_path: String::new(),
            boot_menu: BootMenuMode::MessageAndMenu,
            time_offset_ms: 0,
            pxe_debug: false,
            nvram_path: String::new(),
            nvram_key_id: String::new(),
            nvram_key_store: String::new(),
            smbios_uuid_little_endian: false,
            auto_serial_number: false,
        }
    }
}

/// Trusted platform module (1.19).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tpm {
    pub kind: TpmType,
    pub location: String,
}

/// USB host controllers and filters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usb {
    pub controllers: Vec<UsbController>,
    pub filters: Vec<UsbFilter>,
}

/// One USB host controller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsbController {
    pub name: String,
    pub kind: UsbControllerType,
}

/// Which host USB devices a machine takes; empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsbFilter {
    pub name: String,
    pub active: bool,
    pub vendor_id: String,
    pub product_id: String,
    pub revision: String,
    pub manufacturer: String,
    pub product: String,
    pub serial_number: String,
    pub port: String,
    pub remote: String,
    pub masked_interfaces: u32,
    /// Global filters only.
    pub action: UsbFilterAction,
}

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SerialPort {
    /// 0 to 3.
    pub slot: u32,
    pub enabled: bool,
    pub io_base: u32,
    pub irq: u32,
    pub mode: PortMode,
    /// Pipe, device, file, or `host:port`.
    pub path: String,
    /// For pipes and TCP: this side listens.
    pub server: bool,
    pub uart: UartType,
}

impl SerialPort {
    /// A disconnected port at the PC's usual place for `slot` (COM1 to COM4).
    pub fn new(slot: u32) -> Self {
        let (io_base, irq) = match slot {
            1 => (0x2f8, 3),
            2 => (0x3e8, 4),
            3 => (0x2e8, 3),
            _ => (0x3f8, 4),
        };
        Self {
            slot,
            io_base,
            irq,
            ..Self::default()
        }
    }
}

/// A parallel port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParallelPort {
    /// 0 to 1.
    pub slot: u32,
    pub enabled: bool,
    pub io_base: u32,
    pub irq: u32,
    pub path: String,
}

impl ParallelPort {
    /// A port that is off, at the PC's usual place for `slot`.
    pub fn new(slot: u32) -> Self {
        let (io_base, irq) = if slot == 1 { (0x278, 5) } else { (0x378, 7) };
        Self {
            slot,
            enabled: false,
            io_base,
            irq,
            path: String::new(),
        }
    }
}

/// Sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audio {
    pub controller: AudioController,
    pub codec: AudioCodec,
    pub driver: AudioDriver,
    /// Use whatever driver is the host's default, not `driver`.
    pub use_default: bool,
    pub enabled: bool,
    pub enabled_in: bool,
    pub enabled_out: bool,
}

impl Default for Audio {
    fn default() -> Self {
        Self {
            controller: AudioController::Ac97,
            codec: AudioCodec::Default,
            driver: AudioDriver::Null,
            use_default: false,
            enabled: false,
            enabled_in: false,
            enabled_out: false,
        }
    }
}

/// A host folder shown to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFolder {
    pub name: String,
    pub host_path: String,
    pub writable: bool,
    pub auto_mount: bool,
    pub auto_mount_point: String,
    /// Which symbolic links the guest may follow and make (1.20); empty for the default.
    pub symlink_policy: String,
}

impl Default for SharedFolder {
    fn default() -> Self {
        Self {
            name: String::new(),
            host_path: String::new(),
            writable: true,
            auto_mount: false,
            auto_mount_point: String::new(),
            symlink_policy: String::new(),
        }
    }
}

/// Shared clipboard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clipboard {
    pub mode: TransferMode,
    pub file_transfers: bool,
}

/// I/O cache and bandwidth limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Io {
    pub cache: bool,
    /// MiB.
    pub cache_size_mb: u32,
    pub bandwidth_groups: Vec<BandwidthGroup>,
}

impl Default for Io {
    fn default() -> Self {
        Self {
            cache: true,
            cache_size_mb: 5,
            bandwidth_groups: Vec::new(),
        }
    }
}

/// A limit shared by several disks or network cards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BandwidthGroup {
    pub name: String,
    pub kind: BandwidthGroupType,
    /// 0 without limit.
    pub max_bytes_per_sec: u64,
}

/// A host PCI device given to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostPciDevice {
    /// Host address, bus << 8 | device << 3 | function.
    pub host: u32,
    /// Guest address, the same way.
    pub guest: u32,
    pub name: String,
}

/// Guest additions related settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guest {
    /// Balloon in MiB.
    pub balloon_mb: u32,
    /// Seconds between statistics, 0 for none.
    pub statistics_interval: u32,
}

/// A guest property.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestProperty {
    pub name: String,
    pub value: String,
    /// Nanoseconds since 1970.
    pub timestamp: u64,
    /// `TRANSIENT, RDONLYGUEST`, ...
    pub flags: String,
}
