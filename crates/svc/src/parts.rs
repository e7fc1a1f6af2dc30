//! The small parts of a machine that are attributes and little else.

use crate::conv::{ToModel, invalid, not_found};
use crate::view::View;
use crate::{constants, fields};
use api::types::*;
use api::{Call, Error, ObjRef, server};
use settings::model as m;

/// An object that reads and writes one part of the settings.
macro_rules! part {
    ($name:ident: $model:ty = $($field:ident).+) => {
        pub struct $name(pub View);

        impl $name {
            #[allow(dead_code)]
            fn get<R>(&self, f: impl FnOnce(&$model) -> R) -> api::Result<R> {
                self.0.get(|m| f(&m.$($field).+))
            }
            #[allow(dead_code)]
            fn set(&self, f: impl FnOnce(&mut $model) -> api::Result<()>) -> api::Result<()> {
                self.0.set(|m| f(&mut m.$($field).+))
            }
        }
    };
}

part!(BiosSettings: m::Bios = hardware.bios);

impl server::IBIOSSettings for BiosSettings {
    fields! {
        logo_fade_in / set_logo_fade_in: bool = logo_fade_in;
        logo_fade_out / set_logo_fade_out: bool = logo_fade_out;
        logo_display_time / set_logo_display_time: u32 = logo_display_time;
        logo_image_path / set_logo_image_path: String = logo_image_path;
        boot_menu_mode / set_boot_menu_mode: BIOSBootMenuMode = boot_menu;
        acpi_enabled / set_acpi_enabled: bool = acpi;
        ioapic_enabled / set_ioapic_enabled: bool = ioapic;
        apic_mode / set_apic_mode: APICMode = apic_mode;
        time_offset / set_time_offset: i64 = time_offset_ms;
        pxe_debug_enabled / set_pxe_debug_enabled: bool = pxe_debug;
        smbios_uuid_little_endian / set_smbios_uuid_little_endian: bool = smbios_uuid_little_endian;
    }
}
api::object!(BiosSettings: IBIOSSettings);

part!(GraphicsAdapter: m::Display = hardware.display);

impl server::IGraphicsAdapter for GraphicsAdapter {
    fields! {
        graphics_controller_type / set_graphics_controller_type: GraphicsControllerType = controller;
        vram_size: u32 = vram_mb;
        accelerate3d_enabled / set_accelerate3d_enabled: bool = accelerate_3d;
        accelerate2d_video_enabled / set_accelerate2d_video_enabled: bool = accelerate_2d_video;
        monitor_count: u32 = monitors;
    }

    fn set_vram_size(&self, _cx: &Call, value: u32) -> api::Result<()> {
        if value > crate::system::MAX_VRAM {
            return Err(invalid(format!(
                "Invalid VRAM size: {value} MB (must be in range [0, {}] MB)",
                crate::system::MAX_VRAM
            )));
        }
        self.set(|d| {
            d.vram_mb = value;
            Ok(())
        })
    }
    fn set_monitor_count(&self, _cx: &Call, value: u32) -> api::Result<()> {
        if !(1..=64).contains(&value) {
            return Err(invalid(format!(
                "Invalid monitor count: {value} (must be in range [1, 64])"
            )));
        }
        self.set(|d| {
            d.monitors = value;
            Ok(())
        })
    }
}
api::object!(GraphicsAdapter: IGraphicsAdapter);

part!(VrdeServer: m::RemoteDisplay = hardware.remote_display);

impl server::IVRDEServer for VrdeServer {
    fields! {
        enabled / set_enabled: bool = enabled;
        auth_type / set_auth_type: AuthType = auth_type;
        auth_timeout / set_auth_timeout: u32 = auth_timeout;
        allow_multi_connection / set_allow_multi_connection: bool = allow_multi_connection;
        reuse_single_connection / set_reuse_single_connection: bool = reuse_single_connection;
        vrde_ext_pack / set_vrde_ext_pack: String = ext_pack;
        auth_library / set_auth_library: String = auth_library;
    }

    fn vrde_properties(&self, _cx: &Call) -> api::Result<Vec<String>> {
        self.get(|r| r.properties.keys().cloned().collect())
    }
    fn get_vrde_property(&self, _cx: &Call, key: String) -> api::Result<String> {
        self.get(|r| r.properties.get(&key).cloned().unwrap_or_default())
    }
    fn set_vrde_property(&self, _cx: &Call, key: String, value: String) -> api::Result<()> {
        self.set(|r| {
            if value.is_empty() {
                r.properties.remove(&key);
            } else {
                r.properties.insert(key, value);
            }
            Ok(())
        })
    }
}
api::object!(VrdeServer: IVRDEServer);

part!(Tpm: m::Tpm = hardware.tpm);

impl server::ITrustedPlatformModule for Tpm {
    fields! {
        type_ / set_type_: TpmType = kind;
        location / set_location: String = location;
    }
}
api::object!(Tpm: ITrustedPlatformModule);

part!(NvramStore: m::Bios = hardware.bios);

impl server::INvramStore for NvramStore {
    constants! {
        key_id: String = String::new();
        key_store: String = String::new();
    }
    fn non_volatile_storage_file(&self, _cx: &Call) -> api::Result<String> {
        let (folder, default) = self.0.entry(|e| {
            let name = e.path.with_extension("nvram");
            Ok((e.folder().to_owned(), name.to_string_lossy().into_owned()))
        })?;
        self.get(|b| match b.nvram_path.as_str() {
            "" => default,
            stored => settings::resolve_path(stored, &folder)
                .to_string_lossy()
                .into_owned(),
        })
    }
}
api::object!(NvramStore: INvramStore);

/// Recording has no room yet: it is off, and turning it on says so.
pub struct RecordingSettings;

impl server::IRecordingSettings for RecordingSettings {
    constants! {
        enabled: bool = false;
        screens: Vec<ObjRef> = Vec::new();
    }
}
api::object!(RecordingSettings: IRecordingSettings);

part!(GuestDebugControl: m::GuestDebug = guest_debug);

impl server::IGuestDebugControl for GuestDebugControl {
    fields! {
        debug_provider / set_debug_provider: GuestDebugProvider = provider;
        debug_io_provider / set_debug_io_provider: GuestDebugIoProvider = io;
        debug_address / set_debug_address: String = address;
        debug_port / set_debug_port: u32 = port;
    }
}
api::object!(GuestDebugControl: IGuestDebugControl);

/// Sound: the machine has one adapter.
pub struct AudioSettings(pub View);

impl server::IAudioSettings for AudioSettings {
    fn adapter(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(self.0.path("AudioSettings/Adapter"))
    }
}
api::object!(AudioSettings: IAudioSettings);

part!(AudioAdapter: m::Audio = hardware.audio);

impl server::IAudioAdapter for AudioAdapter {
    fields! {
        enabled / set_enabled: bool = enabled;
        enabled_in / set_enabled_in: bool = enabled_in;
        enabled_out / set_enabled_out: bool = enabled_out;
        audio_controller / set_audio_controller: AudioControllerType = controller;
        audio_codec / set_audio_codec: AudioCodecType = codec;
        audio_driver / set_audio_driver: AudioDriverType = driver;
    }
    constants! {
        properties_list: Vec<String> = Vec::new();
    }
}
api::object!(AudioAdapter: IAudioAdapter);

part!(BandwidthControl: m::Io = hardware.io);

impl server::IBandwidthControl for BandwidthControl {
    fn num_groups(&self, _cx: &Call) -> api::Result<u32> {
        self.get(|io| u32::try_from(io.bandwidth_groups.len()).unwrap_or(u32::MAX))
    }
    fn create_bandwidth_group(
        &self,
        _cx: &Call,
        name: String,
        kind: BandwidthGroupType,
        max: i64,
    ) -> api::Result<()> {
        let group = m::BandwidthGroup {
            name,
            kind: kind.to_model()?,
            max_bytes_per_sec: max.to_model()?,
        };
        self.set(|io| {
            if io.bandwidth_groups.iter().any(|g| g.name == group.name) {
                let text = format!("Bandwidth group named '{}' already exists", group.name);
                return Err(Error::new(ResultCode::VBOX_E_OBJECT_IN_USE, text));
            }
            io.bandwidth_groups.push(group);
            Ok(())
        })
    }
    fn delete_bandwidth_group(&self, _cx: &Call, name: String) -> api::Result<()> {
        self.set(|io| {
            let before = io.bandwidth_groups.len();
            io.bandwidth_groups.retain(|g| g.name != name);
            if io.bandwidth_groups.len() == before {
                return Err(not_found(format!(
                    "Could not find a bandwidth group named '{name}'"
                )));
            }
            Ok(())
        })
    }
    fn get_all_bandwidth_groups(&self, cx: &Call) -> api::Result<Vec<ObjRef>> {
        let names = self.get(|io| {
            io.bandwidth_groups
                .iter()
                .map(|g| g.name.clone())
                .collect::<Vec<_>>()
        })?;
        Ok(names.into_iter().map(|name| self.group(cx, name)).collect())
    }
    fn get_bandwidth_group(&self, cx: &Call, name: String) -> api::Result<ObjRef> {
        if !self.get(|io| io.bandwidth_groups.iter().any(|g| g.name == name))? {
            return Err(not_found(format!(
                "Could not find a bandwidth group named '{name}'"
            )));
        }
        Ok(self.group(cx, name))
    }
}
api::object!(BandwidthControl: IBandwidthControl);

impl BandwidthControl {
    fn group(&self, cx: &Call, name: String) -> ObjRef {
        cx.export(std::sync::Arc::new(BandwidthGroup {
            view: self.0.clone(),
            name,
        }))
    }
}

/// One limit.
pub struct BandwidthGroup {
    view: View,
    name: String,
}

impl BandwidthGroup {
    fn get<R>(&self, f: impl FnOnce(&m::BandwidthGroup) -> R) -> api::Result<R> {
        self.view
            .get(|m| {
                m.hardware
                    .io
                    .bandwidth_groups
                    .iter()
                    .find(|g| g.name == self.name)
                    .map(f)
            })?
            .ok_or_else(|| crate::view::gone("The bandwidth group"))
    }
}

impl server::IBandwidthGroup for BandwidthGroup {
    fields! {
        name: String = name;
        type_: BandwidthGroupType = kind;
        max_bytes_per_sec: i64 = max_bytes_per_sec;
    }
    fn reference(&self, _cx: &Call) -> api::Result<u32> {
        self.view.get(|m| {
            let h = &m.hardware;
            let disks = h
                .storage
                .iter()
                .flat_map(|c| &c.devices)
                .map(|d| &d.bandwidth_group);
            let all = disks.chain(h.network.iter().map(|n| &n.bandwidth_group));
            u32::try_from(all.filter(|g| **g == self.name).count()).unwrap_or(u32::MAX)
        })
    }
    fn set_max_bytes_per_sec(&self, _cx: &Call, value: i64) -> api::Result<()> {
        let max = value.to_model()?;
        self.view.set(|m| {
            let mut groups = m.hardware.io.bandwidth_groups.iter_mut();
            match groups.find(|g| g.name == self.name) {
                Some(group) => group.max_bytes_per_sec = max,
                None => return Err(crate::view::gone("The bandwidth group")),
            }
            Ok(())
        })
    }
}
api::object!(BandwidthGroup: IBandwidthGroup);
