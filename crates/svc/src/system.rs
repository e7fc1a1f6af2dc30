//! `ISystemProperties`: limits of this version, and the user's preferences.

use crate::constants;
use crate::conv::{self, FromModel, ToModel, file_error, invalid};
use crate::state::Svc;
use api::types::*;
use api::{Call, ObjRef, server};
use settings::model as m;
use std::sync::Arc;

/// MiB.
pub const MIN_RAM: u32 = 4;
/// MiB; what settings files can hold.
pub const MAX_RAM: u32 = 2_097_152;
/// MiB.
pub const MAX_VRAM: u32 = 256;
/// The machine model has one virtual CPU so far, settings may hold more.
pub const MAX_CPUS: u32 = 64;
pub const SERIAL_PORTS: u32 = 4;
pub const PARALLEL_PORTS: u32 = 2;

/// Controllers of one bus in a machine.
pub fn max_controllers(bus: StorageBus) -> u32 {
    match bus {
        StorageBus::Null => 0,
        StorageBus::IDE | StorageBus::Floppy | StorageBus::USB => 1,
        _ => 8,
    }
}

pub struct SystemObject(pub Arc<Svc>);

impl SystemObject {
    fn get<R>(&self, f: impl FnOnce(&m::SystemProperties) -> R) -> api::Result<R> {
        Ok(self.0.with(|s| f(&s.global.settings().system)))
    }

    fn set(&self, f: impl FnOnce(&mut m::SystemProperties) -> api::Result<()>) -> api::Result<()> {
        self.0.with(|s| s.global.change(|g| f(&mut g.system)))
    }
}

/// Where new machines go.
pub fn machine_folder(properties: &m::SystemProperties) -> api::Result<String> {
    // The second is what it was before 4.0, below the configuration folder: the machines there stay,
    // new ones go where new ones go.
    if !matches!(properties.default_machine_folder.as_str(), "" | "Machines") {
        return Ok(properties.default_machine_folder.clone());
    }
    iprt::path::default_machine_folder()
        .map(|p| p.to_string_lossy().into_owned())
        .map_err(file_error)
}

fn kinds(bus: StorageBus) -> api::Result<m::StorageControllerType> {
    conv::default_controller(bus).ok_or_else(|| invalid("Invalid storage bus"))
}

impl server::ISystemProperties for SystemObject {
    crate::fields! {
        exclusive_hw_virt / set_exclusive_hw_virt: bool = exclusive_hw_virt;
        logging_level / set_logging_level: String = logging_level;
        default_hard_disk_format: String = default_hard_disk_format;
        vrde_auth_library: String = vrde_auth_library;
        web_service_auth_library: String = web_service_auth_library;
        default_vrde_ext_pack / set_default_vrde_ext_pack: String = default_vrde_ext_pack;
        log_history_count / set_log_history_count: u32 = log_history_count;
        autostart_database_path / set_autostart_database_path: String = autostart_database_path;
        default_frontend / set_default_frontend: String = default_frontend;
        proxy_mode / set_proxy_mode: ProxyMode = proxy_mode;
        proxy_url / set_proxy_url: String = proxy_url;
        language_id / set_language_id: String = language_id;
    }

    constants! {
        min_guest_ram: u32 = MIN_RAM;
        max_guest_ram: u32 = MAX_RAM;
        min_guest_vram: u32 = 0;
        max_guest_vram: u32 = MAX_VRAM;
        min_guest_cpu_count: u32 = 1;
        max_guest_cpu_count: u32 = MAX_CPUS;
        max_guest_monitors: u32 = 64;
        info_vd_size: i64 = 2 << 40;
        serial_port_count: u32 = SERIAL_PORTS;
        parallel_port_count: u32 = PARALLEL_PORTS;
        max_boot_position: u32 = 4;
        raw_mode_supported: bool = false;
        free_disk_space_warning: i64 = 0;
        free_disk_space_percent_warning: u32 = 0;
        free_disk_space_error: i64 = 0;
        free_disk_space_percent_error: u32 = 0;
        default_crypto_ext_pack: String = String::new();
        default_audio_driver: AudioDriverType = AudioDriverType::Null;
        default_additions_iso: String = String::new();
        screen_shot_formats: Vec<BitmapFormat> = vec![BitmapFormat::BGR0, BitmapFormat::BGRA, BitmapFormat::RGBA, BitmapFormat::PNG];
        supported_paravirt_providers: Vec<ParavirtProvider> = vec![ParavirtProvider::None, ParavirtProvider::Default];
        supported_firmware_types: Vec<FirmwareType> = vec![FirmwareType::BIOS];
        supported_pointing_hid_types: Vec<PointingHIDType> = vec![PointingHIDType::PS2Mouse];
        supported_keyboard_hid_types: Vec<KeyboardHIDType> = vec![KeyboardHIDType::PS2Keyboard];
        supported_graphics_controller_types: Vec<GraphicsControllerType> = vec![GraphicsControllerType::VBoxVGA];
        supported_network_attachment_types: Vec<NetworkAttachmentType> = vec![NetworkAttachmentType::Null];
        supported_port_modes: Vec<PortMode> = vec![PortMode::Disconnected, PortMode::HostPipe, PortMode::HostDevice, PortMode::RawFile, PortMode::TCP];
        supported_uart_types: Vec<UartType> = vec![UartType::U16550A];
        supported_storage_buses: Vec<StorageBus> = vec![StorageBus::IDE, StorageBus::Floppy];
        supported_storage_controller_types: Vec<StorageControllerType> = vec![StorageControllerType::PIIX3, StorageControllerType::PIIX4, StorageControllerType::I82078];
        supported_chipset_types: Vec<ChipsetType> = vec![ChipsetType::PIIX3];
        supported_iommu_types: Vec<IommuType> = vec![IommuType::None];
        supported_tpm_types: Vec<TpmType> = vec![TpmType::None];
        supported_usb_controller_types: Vec<USBControllerType> = Vec::new();
        supported_audio_driver_types: Vec<AudioDriverType> = vec![AudioDriverType::Null];
        supported_audio_controller_types: Vec<AudioControllerType> = Vec::new();
        supported_clipboard_modes: Vec<ClipboardMode> = vec![ClipboardMode::Disabled];
        supported_dn_d_modes: Vec<DnDMode> = vec![DnDMode::Disabled];
        supported_vm_proc_priorities: Vec<VMProcPriority> = vec![VMProcPriority::Default];
        supported_autostop_types: Vec<AutostopType> = vec![AutostopType::Disabled];
    }

    fn default_machine_folder(&self, _cx: &Call) -> api::Result<String> {
        self.get(machine_folder)?
    }
    fn set_default_machine_folder(&self, _cx: &Call, value: String) -> api::Result<()> {
        if !value.is_empty() && !std::path::Path::new(&value).is_absolute() {
            let text = format!("Given default machine folder '{value}' is not fully qualified");
            return Err(invalid(text));
        }
        self.set(|s| {
            s.default_machine_folder = value;
            Ok(())
        })
    }
    fn set_default_hard_disk_format(&self, _cx: &Call, value: String) -> api::Result<()> {
        let format = storage::format_by_id(&value)
            .ok_or_else(|| invalid(format!("Invalid medium storage format '{value}'")))?;
        self.set(|s| {
            format.id().clone_into(&mut s.default_hard_disk_format);
            Ok(())
        })
    }
    fn set_vrde_auth_library(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set(|s| {
            s.vrde_auth_library = if value.is_empty() {
                "VBoxAuth".into()
            } else {
                value
            };
            Ok(())
        })
    }
    fn set_web_service_auth_library(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set(|s| {
            s.web_service_auth_library = if value.is_empty() {
                "VBoxAuth".into()
            } else {
                value
            };
            Ok(())
        })
    }
    fn medium_formats(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        Ok(storage::FORMATS
            .iter()
            .map(|f| crate::mediumformat::path(f.id()))
            .collect())
    }
    fn get_max_network_adapters(&self, _cx: &Call, chipset: ChipsetType) -> api::Result<u32> {
        match chipset {
            ChipsetType::PIIX3 => Ok(8),
            ChipsetType::ICH9 => Ok(36),
            ChipsetType::Null => Err(invalid("Invalid chipset type")),
        }
    }
    fn get_max_network_adapters_of_type(
        &self,
        cx: &Call,
        chipset: ChipsetType,
        _kind: NetworkAttachmentType,
    ) -> api::Result<u32> {
        self.get_max_network_adapters(cx, chipset)
    }
    fn get_max_devices_per_port_for_storage_bus(
        &self,
        _cx: &Call,
        bus: StorageBus,
    ) -> api::Result<u32> {
        Ok(kinds(bus)?.devices_per_port())
    }
    fn get_min_port_count_for_storage_bus(&self, _cx: &Call, bus: StorageBus) -> api::Result<u32> {
        Ok(kinds(bus)?.ports().0)
    }
    fn get_max_port_count_for_storage_bus(&self, _cx: &Call, bus: StorageBus) -> api::Result<u32> {
        Ok(kinds(bus)?.ports().1)
    }
    fn get_max_instances_of_storage_bus(
        &self,
        _cx: &Call,
        _chipset: ChipsetType,
        bus: StorageBus,
    ) -> api::Result<u32> {
        Ok(max_controllers(bus))
    }
    fn get_device_types_for_storage_bus(
        &self,
        _cx: &Call,
        bus: StorageBus,
    ) -> api::Result<Vec<DeviceType>> {
        Ok(match bus {
            StorageBus::Null => return Err(invalid("Invalid storage bus")),
            StorageBus::Floppy => vec![DeviceType::Floppy],
            StorageBus::PCIe => vec![DeviceType::HardDisk],
            _ => vec![DeviceType::DVD, DeviceType::HardDisk],
        })
    }
    fn get_storage_bus_for_storage_controller_type(
        &self,
        _cx: &Call,
        kind: StorageControllerType,
    ) -> api::Result<StorageBus> {
        Ok(conv::bus(kind.to_model()?))
    }
    fn get_storage_controller_types_for_storage_bus(
        &self,
        _cx: &Call,
        bus: StorageBus,
    ) -> api::Result<Vec<StorageControllerType>> {
        let all = m::StorageControllerType::ALL
            .iter()
            .filter(|k| conv::bus(**k) == bus);
        Ok(all.map(StorageControllerType::from_model).collect())
    }
    fn get_default_io_cache_setting_for_storage_controller(
        &self,
        _cx: &Call,
        kind: StorageControllerType,
    ) -> api::Result<bool> {
        Ok(m::StorageController::new("", kind.to_model()?).use_host_io_cache)
    }
    fn get_storage_controller_hotplug_capable(
        &self,
        _cx: &Call,
        kind: StorageControllerType,
    ) -> api::Result<bool> {
        use StorageControllerType as T;
        Ok(matches!(kind, T::IntelAhci | T::USB | T::VirtioSCSI))
    }
    fn get_max_instances_of_usb_controller_type(
        &self,
        _cx: &Call,
        _chipset: ChipsetType,
        _kind: USBControllerType,
    ) -> api::Result<u32> {
        Ok(1)
    }
    fn get_cpu_profiles(
        &self,
        _cx: &Call,
        _architecture: CPUArchitecture,
        pattern: String,
    ) -> api::Result<Vec<ObjRef>> {
        Ok(crate::cpuprofile::matching(&pattern))
    }
}
api::object!(SystemObject: ISystemProperties);
