//! `IMachine`.

mod clone;
mod control;
pub mod defaults;
pub mod info;
mod locking;
mod moving;
pub mod snapshots;
mod storage;

pub use locking::{check_name, name_is_free, register_path};
pub use snapshots::commit;

use crate::conv::{self, FromModel, ToModel, invalid};
use crate::view::{View, When};
use crate::{constants, fields};
use api::types::*;
use api::{Call, ObjRef, server};
use settings::model::Machine;
use std::path::PathBuf;
use std::sync::Arc;

/// A machine, as its [`View`] lets it be seen.
pub struct MachineObject(pub View);

impl MachineObject {
    fn get<R>(&self, f: impl FnOnce(&Machine) -> R) -> api::Result<R> {
        self.0.get(f)
    }

    fn set(&self, f: impl FnOnce(&mut Machine) -> api::Result<()>) -> api::Result<()> {
        self.0.set(f)
    }

    /// The folder of the settings file.
    fn folder(&self) -> api::Result<PathBuf> {
        self.0.entry(|e| Ok(e.folder().to_owned()))
    }

    /// Paths of objects that are numbered from 0.
    fn numbered(&self, prefix: &str, count: usize) -> Vec<ObjRef> {
        (0..count)
            .map(|n| self.0.path(&format!("{prefix}/{n}")))
            .collect()
    }
}

/// A value inside its limits, or VirtualBox's refusal.
fn limited(what: &str, value: u32, min: u32, max: u32, unit: &str) -> api::Result<u32> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(invalid(format!(
        "Invalid {what}: {value}{unit} (must be in range [{min}, {max}]{unit})"
    )))
}

impl server::IMachine for MachineObject {
    fields! {
        os_type_id: String = os_type;
        cpu_hot_plug_enabled / set_cpu_hot_plug_enabled: bool = hardware.cpu.hotplug;
        cpu_count: u32 = hardware.cpu.count;
        cpu_execution_cap: u32 = hardware.cpu.execution_cap;
        cpuid_portability_level: u32 = hardware.cpu.portability_level;
        cpu_profile / set_cpu_profile: String = hardware.cpu.profile;
        memory_size: u32 = hardware.memory_mb;
        memory_balloon_size / set_memory_balloon_size: u32 = hardware.guest.balloon_mb;
        page_fusion_enabled / set_page_fusion_enabled: bool = hardware.page_fusion;
        firmware_type / set_firmware_type: FirmwareType = hardware.firmware;
        pointing_hid_type / set_pointing_hid_type: PointingHIDType = hardware.pointing;
        keyboard_hid_type / set_keyboard_hid_type: KeyboardHIDType = hardware.keyboard;
        hpet_enabled / set_hpet_enabled: bool = hardware.hpet;
        chipset_type / set_chipset_type: ChipsetType = hardware.chipset;
        iommu_type / set_iommu_type: IommuType = hardware.iommu;
        emulated_usb_card_reader_enabled / set_emulated_usb_card_reader_enabled: bool = hardware.card_reader;
        clipboard_mode / set_clipboard_mode: ClipboardMode = hardware.clipboard.mode;
        clipboard_file_transfers_enabled / set_clipboard_file_transfers_enabled: bool = hardware.clipboard.file_transfers;
        dn_d_mode / set_dn_d_mode: DnDMode = hardware.drag_and_drop;
        teleporter_enabled / set_teleporter_enabled: bool = teleporter.enabled;
        teleporter_port / set_teleporter_port: u32 = teleporter.port;
        teleporter_address / set_teleporter_address: String = teleporter.address;
        paravirt_provider / set_paravirt_provider: ParavirtProvider = hardware.paravirt.provider;
        paravirt_debug / set_paravirt_debug: String = hardware.paravirt.debug;
        io_cache_enabled / set_io_cache_enabled: bool = hardware.io.cache;
        io_cache_size / set_io_cache_size: u32 = hardware.io.cache_size_mb;
        tracing_enabled / set_tracing_enabled: bool = tracing.enabled;
        tracing_config / set_tracing_config: String = tracing.config;
        allow_tracing_to_access_vm / set_allow_tracing_to_access_vm: bool = tracing.allow_access_to_vm;
        autostart_enabled / set_autostart_enabled: bool = autostart.enabled;
        autostart_delay / set_autostart_delay: u32 = autostart.delay;
        autostop_type / set_autostop_type: AutostopType = autostart.autostop;
        default_frontend / set_default_frontend: String = hardware.default_frontend;
        vm_process_priority / set_vm_process_priority: VMProcPriority = process_priority;
        description: String = description;
        name: String = name;
        current_state_modified: bool = current_state_modified;
    }

    constants! {
        parent: ObjRef = ObjRef::new(api::connect::ROOT);
        settings_aux_file_path: String = String::new();
        usb_proxy_available: bool = false;
        state_key_id: String = String::new();
        state_key_store: String = String::new();
        log_key_id: String = String::new();
        log_key_store: String = String::new();
        pci_device_assignments: Vec<PCIDeviceAttachment> = Vec::new();
    }

    // --- What the service knows beyond the settings -------------------------------------------

    fn id(&self, _cx: &Call) -> api::Result<String> {
        Ok(self.0.id.to_string())
    }
    fn accessible(&self, _cx: &Call) -> api::Result<bool> {
        self.accessible_now()
    }
    fn access_error(&self, cx: &Call) -> api::Result<ObjRef> {
        let error = self.0.entry(|e| Ok(e.contents.as_ref().err().cloned()))?;
        Ok(error.map_or(ObjRef::null(), |e| {
            cx.export(Arc::new(api::progress::ErrorInfo(e)))
        }))
    }
    fn settings_file_path(&self, _cx: &Call) -> api::Result<String> {
        self.0.entry(|e| Ok(e.path.to_string_lossy().into_owned()))
    }
    fn settings_modified(&self, _cx: &Call) -> api::Result<bool> {
        self.0.entry(|e| {
            let pending = e.pending.as_ref().filter(|_| self.0.mutable);
            Ok(e.unsaved || pending.is_some_and(|p| e.settings().is_ok_and(|s| s != p)))
        })
    }
    fn session_state(&self, _cx: &Call) -> api::Result<SessionState> {
        self.0.entry(|e| Ok(e.session_state))
    }
    fn session_name(&self, _cx: &Call) -> api::Result<String> {
        self.0.entry(|e| Ok(e.session_name.clone()))
    }
    fn session_pid(&self, _cx: &Call) -> api::Result<u32> {
        self.0.entry(|e| Ok(e.vm_pid))
    }
    fn state(&self, _cx: &Call) -> api::Result<MachineState> {
        self.0.entry(|e| Ok(e.state))
    }
    fn last_state_change(&self, _cx: &Call) -> api::Result<i64> {
        self.0.entry(|e| Ok(e.since))
    }
    fn hardware_version(&self, _cx: &Call) -> api::Result<String> {
        self.get(|m| m.hardware.version.to_string())
    }
    fn state_file_path(&self, _cx: &Call) -> api::Result<String> {
        let folder = self.folder()?;
        self.get(|m| {
            m.state_file
                .as_deref()
                .map_or(String::new(), |f| absolute(f, &folder))
        })
    }
    fn snapshot_folder(&self, _cx: &Call) -> api::Result<String> {
        let folder = self.folder()?;
        self.get(|m| match m.snapshot_folder.as_str() {
            "" => absolute(Machine::DEFAULT_SNAPSHOT_FOLDER, &folder),
            stored => absolute(stored, &folder),
        })
    }
    fn set_snapshot_folder(&self, _cx: &Call, value: String) -> api::Result<()> {
        let folder = self.folder()?;
        let path = settings::resolve_path(&value, &folder);
        let stored = settings::store_path(&path, &folder).ok_or_else(|| invalid("not a path"))?;
        self.set(|m| {
            m.snapshot_folder = match value.is_empty() {
                true => Machine::DEFAULT_SNAPSHOT_FOLDER.to_owned(),
                false => stored,
            };
            Ok(())
        })
    }
    fn log_folder(&self, _cx: &Call) -> api::Result<String> {
        Ok(self.folder()?.join("Logs").to_string_lossy().into_owned())
    }

    // --- Settings with rules --------------------------------------------------------------------

    fn set_name(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.rename(value)
    }
    fn set_description(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.0.change(When::Any, |m| {
            m.description = value;
            Ok(())
        })
    }
    fn set_os_type_id(&self, _cx: &Call, value: String) -> api::Result<()> {
        let known = crate::ostypes::find(&value)
            .ok_or_else(|| conv::not_found(format!("Guest OS type '{value}' is invalid")))?;
        self.set(|m| {
            known.id.clone_into(&mut m.os_type);
            Ok(())
        })
    }
    fn groups(&self, _cx: &Call) -> api::Result<Vec<String>> {
        self.get(|m| {
            if m.groups.is_empty() {
                vec!["/".to_owned()]
            } else {
                m.groups.clone()
            }
        })
    }
    fn set_groups(&self, _cx: &Call, value: Vec<String>) -> api::Result<()> {
        let groups = checked_groups(value)?;
        self.set(|m| {
            m.groups = groups;
            Ok(())
        })
    }
    fn hardware_uuid(&self, _cx: &Call) -> api::Result<String> {
        self.get(|m| m.hardware.uuid.unwrap_or(m.uuid).to_string())
    }
    fn set_hardware_uuid(&self, _cx: &Call, value: String) -> api::Result<()> {
        let uuid = iprt::uuid::parse(&value)
            .ok_or_else(|| invalid(format!("Invalid hardware UUID '{value}'")))?;
        self.set(|m| {
            m.hardware.uuid = (uuid != m.uuid).then_some(uuid);
            Ok(())
        })
    }
    fn set_cpu_count(&self, _cx: &Call, value: u32) -> api::Result<()> {
        let value = limited("virtual CPU count", value, 1, crate::system::MAX_CPUS, "")?;
        self.set(|m| {
            m.hardware.cpu.count = value;
            Ok(())
        })
    }
    fn set_cpu_execution_cap(&self, _cx: &Call, value: u32) -> api::Result<()> {
        let value = limited("CPU execution cap", value, 1, 100, "%")?;
        self.set(|m| {
            m.hardware.cpu.execution_cap = value;
            Ok(())
        })
    }
    fn set_cpuid_portability_level(&self, _cx: &Call, value: u32) -> api::Result<()> {
        let value = limited("CPUID portability level", value, 0, 3, "")?;
        self.set(|m| {
            m.hardware.cpu.portability_level = value;
            Ok(())
        })
    }
    fn set_memory_size(&self, _cx: &Call, value: u32) -> api::Result<()> {
        let value = limited(
            "RAM size",
            value,
            crate::system::MIN_RAM,
            crate::system::MAX_RAM,
            " MB",
        )?;
        self.set(|m| {
            m.hardware.memory_mb = value;
            Ok(())
        })
    }
    fn rtc_use_utc(&self, _cx: &Call) -> api::Result<bool> {
        self.get(|m| m.hardware.rtc == settings::model::RtcZone::Utc)
    }
    fn set_rtc_use_utc(&self, _cx: &Call, value: bool) -> api::Result<()> {
        self.set(|m| {
            m.hardware.rtc = if value {
                settings::model::RtcZone::Utc
            } else {
                settings::model::RtcZone::Local
            };
            Ok(())
        })
    }
    fn get_boot_order(&self, _cx: &Call, position: u32) -> api::Result<DeviceType> {
        let at = boot_position(position)?;
        self.get(|m| conv::boot_device(m.hardware.boot_order[at]))
    }
    fn set_boot_order(&self, _cx: &Call, position: u32, device: DeviceType) -> api::Result<()> {
        let (at, device) = (boot_position(position)?, conv::to_boot_device(device)?);
        self.set(|m| {
            m.hardware.boot_order[at] = device;
            Ok(())
        })
    }
    fn get_cpu_property(&self, _cx: &Call, property: CPUPropertyType) -> api::Result<bool> {
        self.get(|m| info::cpu_property(&mut m.hardware.cpu.clone(), property).map(|p| *p))?
    }
    fn set_cpu_property(
        &self,
        _cx: &Call,
        property: CPUPropertyType,
        value: bool,
    ) -> api::Result<()> {
        self.set(|m| {
            *info::cpu_property(&mut m.hardware.cpu, property)? = value;
            Ok(())
        })
    }
    fn get_hw_virt_ex_property(
        &self,
        _cx: &Call,
        property: HWVirtExPropertyType,
    ) -> api::Result<bool> {
        self.get(|m| info::hw_virt_property(&mut m.hardware.cpu.clone(), property).map(|p| *p))?
    }
    fn set_hw_virt_ex_property(
        &self,
        _cx: &Call,
        property: HWVirtExPropertyType,
        value: bool,
    ) -> api::Result<()> {
        self.set(|m| {
            *info::hw_virt_property(&mut m.hardware.cpu, property)? = value;
            Ok(())
        })
    }
    fn get_effective_paravirt_provider(&self, _cx: &Call) -> api::Result<ParavirtProvider> {
        self.get(info::effective_paravirt)
    }
    fn get_cpu_status(&self, _cx: &Call, cpu: u32) -> api::Result<bool> {
        self.get(|m| {
            let c = &m.hardware.cpu;
            if c.hotplug {
                c.plugged.contains(&cpu) || cpu == 0
            } else {
                cpu < c.count
            }
        })
    }
    fn get_cpuid_leaf_by_ordinal(
        &self,
        _cx: &Call,
        ordinal: u32,
    ) -> api::Result<(u32, u32, u32, u32, u32, u32)> {
        self.get(|m| {
            let leaf = m.hardware.cpu.cpuid.get(ordinal as usize);
            leaf.map(|l| (l.id, l.subleaf, l.eax, l.ebx, l.ecx, l.edx))
        })?
        .ok_or_else(|| invalid(format!("Invalid CPUID leaf ordinal {ordinal}")))
    }
    fn set_cpuid_leaf(
        &self,
        _cx: &Call,
        id: u32,
        subleaf: u32,
        eax: u32,
        ebx: u32,
        ecx: u32,
        edx: u32,
    ) -> api::Result<()> {
        self.set(|m| {
            let leaves = &mut m.hardware.cpu.cpuid;
            leaves.retain(|l| (l.id, l.subleaf) != (id, subleaf));
            leaves.push(settings::model::CpuIdLeaf {
                id,
                subleaf,
                eax,
                ebx,
                ecx,
                edx,
            });
            leaves.sort_by_key(|l| (l.id, l.subleaf));
            Ok(())
        })
    }
    fn remove_cpuid_leaf(&self, _cx: &Call, id: u32, subleaf: u32) -> api::Result<()> {
        self.set(|m| {
            m.hardware
                .cpu
                .cpuid
                .retain(|l| (l.id, l.subleaf) != (id, subleaf));
            Ok(())
        })
    }
    fn remove_all_cpuid_leaves(&self, _cx: &Call) -> api::Result<()> {
        self.set(|m| {
            m.hardware.cpu.cpuid.clear();
            Ok(())
        })
    }

    // --- Parts ------------------------------------------------------------------------------------

    fn bios_settings(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(self.0.path("BIOSSettings"))
    }
    fn graphics_adapter(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(self.0.path("GraphicsAdapter"))
    }
    fn trusted_platform_module(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(self.0.path("TrustedPlatformModule"))
    }
    fn non_volatile_store(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(self.0.path("NvramStore"))
    }
    fn recording_settings(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(self.0.path("RecordingSettings"))
    }
    fn vrde_server(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(self.0.path("VRDEServer"))
    }
    fn guest_debug_control(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(self.0.path("GuestDebugControl"))
    }
    fn audio_settings(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(self.0.path("AudioSettings"))
    }
    fn bandwidth_control(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(self.0.path("BandwidthControl"))
    }
    fn usb_device_filters(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(self.0.path("USBDeviceFilters"))
    }
    fn usb_controllers(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        Ok(self.numbered(
            "USBController",
            self.get(|m| m.hardware.usb.controllers.len())?,
        ))
    }
    fn shared_folders(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        Ok(self.numbered(
            "SharedFolder",
            self.get(|m| m.hardware.shared_folders.len())?,
        ))
    }
    fn get_network_adapter(&self, _cx: &Call, slot: u32) -> api::Result<ObjRef> {
        let ich9 = self.get(|m| m.hardware.chipset == settings::model::ChipsetType::Ich9)?;
        slot_path(&self.0, "NetworkAdapter", slot, if ich9 { 36 } else { 8 })
    }
    fn get_serial_port(&self, _cx: &Call, slot: u32) -> api::Result<ObjRef> {
        slot_path(&self.0, "SerialPort", slot, crate::system::SERIAL_PORTS)
    }
    fn get_parallel_port(&self, _cx: &Call, slot: u32) -> api::Result<ObjRef> {
        slot_path(&self.0, "ParallelPort", slot, crate::system::PARALLEL_PORTS)
    }
    fn add_usb_controller(
        &self,
        _cx: &Call,
        name: String,
        kind: USBControllerType,
    ) -> api::Result<ObjRef> {
        let kind = kind.to_model()?;
        let at = self.0.change(When::Off, |m| {
            let list = &mut m.hardware.usb.controllers;
            if list.iter().any(|c| c.name == name || c.kind == kind) {
                let text = format!("USB controller named '{name}' or of its type already exists");
                return Err(api::Error::new(ResultCode::VBOX_E_OBJECT_IN_USE, text));
            }
            list.push(settings::model::UsbController { name, kind });
            Ok(list.len() - 1)
        })?;
        Ok(self.0.path(&format!("USBController/{at}")))
    }
    fn remove_usb_controller(&self, _cx: &Call, name: String) -> api::Result<()> {
        self.set(|m| {
            let before = m.hardware.usb.controllers.len();
            m.hardware.usb.controllers.retain(|c| c.name != name);
            if m.hardware.usb.controllers.len() == before {
                return Err(conv::not_found(format!(
                    "A USB controller named '{name}' does not exist"
                )));
            }
            Ok(())
        })
    }
    fn get_usb_controller_by_name(&self, _cx: &Call, name: String) -> api::Result<ObjRef> {
        let at = self.get(|m| {
            m.hardware
                .usb
                .controllers
                .iter()
                .position(|c| c.name == name)
        })?;
        at.map(|at| self.0.path(&format!("USBController/{at}")))
            .ok_or_else(|| {
                conv::not_found(format!("A USB controller named '{name}' does not exist"))
            })
    }
    fn get_usb_controller_count_by_type(
        &self,
        _cx: &Call,
        kind: USBControllerType,
    ) -> api::Result<u32> {
        self.get(|m| {
            let same = |c: &&settings::model::UsbController| {
                USBControllerType::from_model(&c.kind) == kind
            };
            u32::try_from(m.hardware.usb.controllers.iter().filter(same).count()).unwrap_or(0)
        })
    }
    fn create_shared_folder(
        &self,
        _cx: &Call,
        name: String,
        host_path: String,
        writable: bool,
        automount: bool,
        auto_mount_point: String,
    ) -> api::Result<()> {
        self.0.change(When::Any, |m| {
            let list = &mut m.hardware.shared_folders;
            if list.iter().any(|f| f.name == name) {
                let text = format!("Shared folder named '{name}' already exists");
                return Err(api::Error::new(ResultCode::VBOX_E_OBJECT_IN_USE, text));
            }
            list.push(settings::model::SharedFolder {
                name,
                host_path,
                writable,
                auto_mount: automount,
                auto_mount_point,
                ..settings::model::SharedFolder::default()
            });
            Ok(())
        })
    }
    fn remove_shared_folder(&self, _cx: &Call, name: String) -> api::Result<()> {
        self.0.change(When::Any, |m| {
            let before = m.hardware.shared_folders.len();
            m.hardware.shared_folders.retain(|f| f.name != name);
            if m.hardware.shared_folders.len() == before {
                return Err(conv::not_found(format!(
                    "Could not find a shared folder named '{name}'"
                )));
            }
            Ok(())
        })
    }

    // --- Storage: storage.rs ----------------------------------------------------------------------

    fn storage_controllers(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        let names = self.get(|m| {
            m.hardware
                .storage
                .iter()
                .map(|c| c.name.clone())
                .collect::<Vec<_>>()
        })?;
        Ok(names.iter().map(|n| self.controller_path(n)).collect())
    }
    fn medium_attachments(&self, _cx: &Call) -> api::Result<Vec<MediumAttachment>> {
        self.attachments(None)
    }
    fn get_medium_attachments_of_controller(
        &self,
        _cx: &Call,
        name: String,
    ) -> api::Result<Vec<MediumAttachment>> {
        self.attachments(Some(&name))
    }
    fn get_medium_attachment(
        &self,
        _cx: &Call,
        name: String,
        port: i32,
        device: i32,
    ) -> api::Result<MediumAttachment> {
        let all = self.attachments(Some(&name))?;
        all.into_iter()
            .find(|a| (a.port, a.device) == (port, device))
            .ok_or_else(|| storage::no_device(&name, port, device))
    }
    fn get_medium(&self, cx: &Call, name: String, port: i32, device: i32) -> api::Result<ObjRef> {
        Ok(self.get_medium_attachment(cx, name, port, device)?.medium)
    }
    fn add_storage_controller(
        &self,
        _cx: &Call,
        name: String,
        bus: StorageBus,
    ) -> api::Result<ObjRef> {
        self.add_controller(name, bus)
    }
    fn get_storage_controller_by_name(&self, _cx: &Call, name: String) -> api::Result<ObjRef> {
        let known = self.get(|m| m.hardware.controller(&name).is_some())?;
        if known {
            Ok(self.controller_path(&name))
        } else {
            Err(storage::no_controller(&name))
        }
    }
    fn get_storage_controller_by_instance(
        &self,
        _cx: &Call,
        bus: StorageBus,
        instance: u32,
    ) -> api::Result<ObjRef> {
        let name = self.get(|m| {
            let mut all = m.hardware.storage.iter();
            all.find(|c| conv::bus(c.kind) == bus && c.instance == instance)
                .map(|c| c.name.clone())
        })?;
        name.map(|n| self.controller_path(&n)).ok_or_else(|| {
            conv::not_found(format!(
                "Could not find a storage controller with instance number {instance}"
            ))
        })
    }
    fn remove_storage_controller(&self, _cx: &Call, name: String) -> api::Result<()> {
        self.remove_controller(&name)
    }
    fn set_storage_controller_bootable(
        &self,
        _cx: &Call,
        name: String,
        bootable: bool,
    ) -> api::Result<()> {
        self.set(|m| {
            m.hardware
                .controller_mut(&name)
                .ok_or_else(|| storage::no_controller(&name))?
                .bootable = bootable;
            Ok(())
        })
    }
    fn attach_device(
        &self,
        cx: &Call,
        name: String,
        port: i32,
        device: i32,
        kind: DeviceType,
        medium: ObjRef,
    ) -> api::Result<()> {
        self.attach(cx, &name, port, device, kind, &medium)
    }
    fn attach_device_without_medium(
        &self,
        cx: &Call,
        name: String,
        port: i32,
        device: i32,
        kind: DeviceType,
    ) -> api::Result<()> {
        self.attach(cx, &name, port, device, kind, &ObjRef::null())
    }
    fn detach_device(&self, _cx: &Call, name: String, port: i32, device: i32) -> api::Result<()> {
        self.detach(&name, port, device)
    }
    fn mount_medium(
        &self,
        cx: &Call,
        name: String,
        port: i32,
        device: i32,
        medium: ObjRef,
        force: bool,
    ) -> api::Result<()> {
        self.mount(cx, &name, port, device, &medium, force)
    }
    fn unmount_medium(
        &self,
        cx: &Call,
        name: String,
        port: i32,
        device: i32,
        force: bool,
    ) -> api::Result<()> {
        self.mount(cx, &name, port, device, &ObjRef::null(), force)
    }
    fn passthrough_device(
        &self,
        _cx: &Call,
        name: String,
        port: i32,
        device: i32,
        passthrough: bool,
    ) -> api::Result<()> {
        self.device(When::Any, &name, port, device, |d| {
            d.passthrough = passthrough
        })
    }
    fn temporary_eject_device(
        &self,
        _cx: &Call,
        name: String,
        port: i32,
        device: i32,
        temporary: bool,
    ) -> api::Result<()> {
        self.device(When::Any, &name, port, device, |d| d.temp_eject = temporary)
    }
    fn non_rotational_device(
        &self,
        _cx: &Call,
        name: String,
        port: i32,
        device: i32,
        non_rotational: bool,
    ) -> api::Result<()> {
        self.device(When::Off, &name, port, device, |d| {
            d.non_rotational = non_rotational
        })
    }
    fn set_auto_discard_for_device(
        &self,
        _cx: &Call,
        name: String,
        port: i32,
        device: i32,
        discard: bool,
    ) -> api::Result<()> {
        self.device(When::Off, &name, port, device, |d| d.discard = discard)
    }
    fn set_hot_pluggable_for_device(
        &self,
        _cx: &Call,
        name: String,
        port: i32,
        device: i32,
        hot: bool,
    ) -> api::Result<()> {
        self.device(When::Off, &name, port, device, |d| d.hot_pluggable = hot)
    }
    fn set_no_bandwidth_group_for_device(
        &self,
        _cx: &Call,
        name: String,
        port: i32,
        device: i32,
    ) -> api::Result<()> {
        self.device(When::Any, &name, port, device, |d| {
            d.bandwidth_group.clear()
        })
    }

    // --- Life: locking.rs, control.rs -------------------------------------------------------------

    fn lock_machine(&self, cx: &Call, session: ObjRef, kind: LockType) -> api::Result<()> {
        let session = crate::session::session_of(cx, &session)?;
        crate::session::lock_machine(&self.0.svc, self.0.id, &session, kind)
    }
    fn launch_vm_process(
        &self,
        cx: &Call,
        session: ObjRef,
        name: String,
        environment: Vec<String>,
    ) -> api::Result<ObjRef> {
        let session = crate::session::session_of(cx, &session)?;
        Ok(cx.export(self.launch(&session, &name, &environment)?))
    }
    fn apply_defaults(&self, _cx: &Call, _flags: String) -> api::Result<()> {
        self.set(defaults::apply)
    }
    fn save_settings(&self, _cx: &Call) -> api::Result<()> {
        self.save()
    }
    fn discard_settings(&self, _cx: &Call) -> api::Result<()> {
        self.discard()
    }
    fn unregister(&self, _cx: &Call, mode: CleanupMode) -> api::Result<Vec<ObjRef>> {
        self.take_out(mode)
    }
    fn delete_config(&self, cx: &Call, media: Vec<ObjRef>) -> api::Result<ObjRef> {
        Ok(cx.export(self.delete_files(&media)?))
    }
    fn can_show_console_window(&self, _cx: &Call) -> api::Result<bool> {
        Ok(false)
    }

    // --- Extra data, guest properties, logs, snapshots: info.rs --------------------------------------

    fn get_extra_data_keys(&self, _cx: &Call) -> api::Result<Vec<String>> {
        self.0
            .plain()
            .get(|m| m.extra_data.keys().cloned().collect())
    }
    fn get_extra_data(&self, _cx: &Call, key: String) -> api::Result<String> {
        self.0
            .plain()
            .get(|m| m.extra_data.get(&key).cloned().unwrap_or_default())
    }
    fn set_extra_data(&self, _cx: &Call, key: String, value: String) -> api::Result<()> {
        self.change_extra_data(key, value)
    }
    fn get_guest_property(&self, _cx: &Call, name: String) -> api::Result<(String, i64, String)> {
        self.properties(|h| {
            h.guest_property(&name).map_or_else(
                || (String::new(), 0, String::new()),
                |p| {
                    (
                        p.value.clone(),
                        FromModel::from_model(&p.timestamp),
                        p.flags.clone(),
                    )
                },
            )
        })
    }
    fn get_guest_property_value(&self, _cx: &Call, name: String) -> api::Result<String> {
        self.properties(|h| {
            h.guest_property(&name)
                .map_or(String::new(), |p| p.value.clone())
        })
    }
    fn get_guest_property_timestamp(&self, _cx: &Call, name: String) -> api::Result<i64> {
        self.properties(|h| {
            h.guest_property(&name)
                .map_or(0, |p| FromModel::from_model(&p.timestamp))
        })
    }
    fn set_guest_property(
        &self,
        _cx: &Call,
        name: String,
        value: String,
        flags: String,
    ) -> api::Result<()> {
        self.change_guest_property(&name, &value, Some(&flags), None)
    }
    fn set_guest_property_value(&self, _cx: &Call, name: String, value: String) -> api::Result<()> {
        self.change_guest_property(&name, &value, None, None)
    }
    fn delete_guest_property(&self, _cx: &Call, name: String) -> api::Result<()> {
        self.change_guest_property(&name, "", None, None)
    }
    fn enumerate_guest_properties(
        &self,
        _cx: &Call,
        patterns: String,
    ) -> api::Result<(Vec<String>, Vec<String>, Vec<i64>, Vec<String>)> {
        self.properties(|h| info::enumerate(&h.guest_properties, &patterns))
    }
    fn query_log_filename(&self, _cx: &Call, index: u32) -> api::Result<String> {
        Ok(self
            .log_file(index)?
            .map_or(String::new(), |f| f.to_string_lossy().into_owned()))
    }
    fn read_log(&self, _cx: &Call, index: u32, offset: i64, size: i64) -> api::Result<Vec<u8>> {
        self.log_bytes(index, offset, size)
    }
    fn current_snapshot(&self, _cx: &Call) -> api::Result<ObjRef> {
        let current = self.get(|m| m.current_snapshot)?;
        Ok(current.map_or(ObjRef::null(), |s| {
            self.0.path(&format!("Snapshot/{}", s.simple()))
        }))
    }
    fn snapshot_count(&self, _cx: &Call) -> api::Result<u32> {
        self.get(|m| m.snapshot.as_deref().map_or(0, info::count_snapshots))
    }
    fn take_snapshot(
        &self,
        cx: &Call,
        name: String,
        description: String,
        _pause: bool,
    ) -> api::Result<(ObjRef, String)> {
        let (progress, id) = self.take(name, description)?;
        Ok((cx.export(progress), id.to_string()))
    }
    fn clone_to(
        &self,
        cx: &Call,
        target: ObjRef,
        mode: CloneMode,
        options: Vec<CloneOptions>,
    ) -> api::Result<ObjRef> {
        let progress = self.clone_into(&target, mode, &options)?;
        Ok(cx.export(progress))
    }
    fn move_to(&self, cx: &Call, folder: String, kind: String) -> api::Result<ObjRef> {
        let progress = self.move_into(&folder, &kind)?;
        Ok(cx.export(progress))
    }
    fn export_to(&self, cx: &Call, appliance: ObjRef, location: String) -> api::Result<ObjRef> {
        let machine = self.get(Machine::clone)?;
        crate::appliance::add(cx, &appliance, &machine, &location)
    }
    fn restore_snapshot(&self, cx: &Call, snapshot: ObjRef) -> api::Result<ObjRef> {
        self.restore(&snapshot).map(|p| cx.export(p))
    }
    fn delete_snapshot(&self, cx: &Call, id: String) -> api::Result<ObjRef> {
        self.remove_snapshot(&id).map(|p| cx.export(p))
    }
    fn find_snapshot(&self, _cx: &Call, name_or_id: String) -> api::Result<ObjRef> {
        let found = self.get(|m| info::find_snapshot(m, &name_or_id))??;
        Ok(self.0.path(&format!("Snapshot/{}", found.simple())))
    }
}
api::object!(MachineObject: IMachine, IInternalMachineControl);

fn absolute(stored: &str, folder: &std::path::Path) -> String {
    settings::resolve_path(stored, folder)
        .to_string_lossy()
        .into_owned()
}

fn boot_position(position: u32) -> api::Result<usize> {
    match position {
        1..=4 => Ok(position as usize - 1),
        _ => Err(invalid(format!(
            "Invalid boot position: {position} (must be in range [1, 4])"
        ))),
    }
}

fn slot_path(view: &View, what: &str, slot: u32, count: u32) -> api::Result<ObjRef> {
    if slot >= count {
        let text = format!(
            "{what}::getSlot: Invalid slot number: {slot} (must be in range [0, {}])",
            count - 1
        );
        return Err(invalid(text));
    }
    Ok(view.path(&format!("{what}/{slot}")))
}

/// Groups start with `/`; none at all is the root group.
pub fn checked_groups(groups: Vec<String>) -> api::Result<Vec<String>> {
    let good = |g: &String| {
        g == "/" || (g.starts_with('/') && g[1..].split('/').all(|p| !p.is_empty() && p != ".."))
    };
    if let Some(bad) = groups.iter().find(|g| !g.is_empty() && !good(g)) {
        return Err(invalid(format!("Invalid machine group '{bad}'")));
    }
    let groups: Vec<String> = groups.into_iter().filter(|g| !g.is_empty()).collect();
    Ok(if groups.is_empty() {
        vec!["/".to_owned()]
    } else {
        groups
    })
}
