//! `Hardware`.

use super::network::adapter;
use super::storage::{controller, has_bus_twice, has_classic_drives};
use super::{Done, Xml};
use crate::model::*;
use crate::version::Version;

pub(super) fn hardware(x: &mut Xml<'_>, h: &mut Hardware) -> Done {
    x.always("Hardware", |x| contents(x, h))
}

/// The storage controllers, if this version has them beside `Hardware`.
pub(super) fn storage_beside(x: &mut Xml<'_>, h: &mut Hardware) -> Done {
    if x.version().storage_inside_hardware() {
        return Ok(());
    }
    storage_controllers(x, h)
}

fn storage_controllers(x: &mut Xml<'_>, h: &mut Hardware) -> Done {
    x.need_if(!has_classic_drives(&h.storage), Version::V1_9);
    x.need_if(has_bus_twice(&h.storage), Version::V1_11);
    x.container("StorageControllers", |x| {
        x.list("StorageController", &mut h.storage, controller)
    })
}

fn contents(x: &mut Xml<'_>, h: &mut Hardware) -> Done {
    let usual = x.version().default_hardware_version();
    if x.version().has_hardware_version() {
        x.explicit("version", &mut h.version, usual)?;
    } else {
        x.rare("version", &mut h.version, usual)?;
    }
    x.since(Version::V1_20)
        .rare("architecture", &mut h.architecture, Architecture::X86)?;
    x.since(Version::V1_9).optional("uuid", &mut h.uuid)?;
    x.child("CPU", |x| cpu(x, &mut h.cpu))?;
    x.child("Memory", |x| {
        x.explicit("RAMSize", &mut h.memory_mb, 128)?;
        x.range("RAMSize", h.memory_mb, 4..=2_097_152)?;
        x.since(Version::V1_10)
            .attr("PageFusion", &mut h.page_fusion, false)
    })?;
    x.since(Version::V1_9).child("Firmware", |x| {
        x.rare("type", &mut h.firmware, FirmwareType::Bios)
    })?;
    x.since(Version::V1_10).child("HID", |x| {
        x.attr("Pointing", &mut h.pointing, PointingHid::Ps2Mouse)?;
        x.attr("Keyboard", &mut h.keyboard, KeyboardHid::Ps2Keyboard)?;
        let touch = h.pointing == PointingHid::UsbMultiTouch;
        x.need_if(touch, Version::V1_14);
        x.need_if(
            h.pointing == PointingHid::UsbMultiTouchScreenPlusPad,
            Version::V1_19,
        );
        Ok(())
    })?;
    x.since(Version::V1_10).flag("HPET", &mut h.hpet, false)?;
    x.since(Version::V1_11).child("Chipset", |x| {
        x.attr("type", &mut h.chipset, ChipsetType::Piix3)?;
        x.need_if(h.chipset == ChipsetType::Armv8Virtual, Version::V1_20);
        Ok(())
    })?;
    x.since(Version::V1_19)
        .child("Iommu", |x| x.rare("type", &mut h.iommu, IommuType::None))?;
    paravirt(x, &mut h.paravirt)?;
    boot(x, &mut h.boot_order)?;
    x.child("Display", |x| display(x, &mut h.display))?;
    if x.has("VideoCapture") || !(x.reading() || h.video_capture.beside_hardware) {
        x.since(Version::V1_14)
            .child("VideoCapture", |x| video_capture(x, &mut h.video_capture))?;
    }
    x.child("RemoteDisplay", |x| {
        remote_display(x, &mut h.remote_display)
    })?;
    x.child("BIOS", |x| bios(x, &mut h.bios))?;
    x.since(Version::V1_19)
        .child("TrustedPlatformModule", |x| {
            x.rare("type", &mut h.tpm.kind, TpmType::None)?;
            x.rare("location", &mut h.tpm.location, String::new())
        })?;
    usb(x, &mut h.usb)?;
    x.container("Network", |x| {
        x.list("Adapter", &mut h.network, adapter)?;
        if x.reading() {
            h.network.sort_by_key(|a| a.slot);
        }
        Ok(())
    })?;
    ports(x, h)?;
    x.child("AudioAdapter", |x| audio(x, &mut h.audio))?;
    x.since(Version::V1_10).child("RTC", |x| {
        x.explicit("localOrUTC", &mut h.rtc, RtcZone::Local)
    })?;
    x.container("SharedFolders", |x| {
        x.list("SharedFolder", &mut h.shared_folders, |x, f| {
            x.required("name", &mut f.name)?;
            x.required("hostPath", &mut f.host_path)?;
            x.explicit("writable", &mut f.writable, true)?;
            x.since(Version::V1_11)
                .explicit("autoMount", &mut f.auto_mount, false)?;
            x.since(Version::V1_17).rare(
                "autoMountPoint",
                &mut f.auto_mount_point,
                String::new(),
            )?;
            x.since(Version::V1_20)
                .rare("symlinkPolicy", &mut f.symlink_policy, String::new())
        })
    })?;
    x.child("Clipboard", |x| {
        x.attr("mode", &mut h.clipboard.mode, TransferMode::Disabled)?;
        x.since(Version::V1_17).rare(
            "fileTransfersEnabled",
            &mut h.clipboard.file_transfers,
            false,
        )
    })?;
    x.since(Version::V1_13).child("DragAndDrop", |x| {
        x.attr("mode", &mut h.drag_and_drop, TransferMode::Disabled)
    })?;
    x.since(Version::V1_10).child("IO", |x| io(x, &mut h.io))?;
    x.since(Version::V1_12).container("HostPci", |x| {
        x.container("Devices", |x| {
            x.list("Device", &mut h.host_pci, |x, d| {
                x.required("host", &mut d.host)?;
                x.required("guest", &mut d.guest)?;
                x.explicit("name", &mut d.name, String::new())
            })
        })
    })?;
    x.since(Version::V1_12).child("EmulatedUSB", |x| {
        x.flag("CardReader", &mut h.card_reader, false)
    })?;
    x.child("Guest", |x| {
        x.attr("memoryBalloonSize", &mut h.guest.balloon_mb, 0)?;
        x.rare(
            "statisticsUpdateInterval",
            &mut h.guest.statistics_interval,
            0,
        )
    })?;
    x.container("GuestProperties", |x| {
        x.rare(
            "notificationPatterns",
            &mut h.notification_patterns,
            String::new(),
        )?;
        x.list("GuestProperty", &mut h.guest_properties, |x, p| {
            x.required("name", &mut p.name)?;
            x.explicit("value", &mut p.value, String::new())?;
            x.explicit("timestamp", &mut p.timestamp, 0)?;
            x.explicit("flags", &mut p.flags, String::new())
        })
    })?;
    x.since(Version::V1_14).child("Frontend", |x| {
        x.rare("default", &mut h.default_frontend, String::new())
    })?;
    if x.version().storage_inside_hardware() {
        storage_controllers(x, h)?;
    }
    Ok(())
}

fn cpu(x: &mut Xml<'_>, c: &mut Cpu) -> Done {
    use Version as V;
    x.attr("count", &mut c.count, 1)?;
    x.range("count", c.count, 1..=256)?;
    x.since(V::V1_10).attr("hotplug", &mut c.hotplug, false)?;
    x.since(V::V1_11)
        .rare("executionCap", &mut c.execution_cap, 100)?;
    x.range("executionCap", c.execution_cap, 1..=100)?;
    x.since(V::V1_16)
        .rare("CpuProfile", &mut c.profile, String::new())?;
    x.since(V::V1_15)
        .rare("CpuIdPortabilityLevel", &mut c.portability_level, 0)?;

    x.flag("HardwareVirtEx", &mut c.hw_virt, true)?;
    x.flag("HardwareVirtExNestedPaging", &mut c.nested_paging, true)?;
    x.flag("HardwareVirtExVPID", &mut c.vpid, true)?;
    x.since(V::V1_14)
        .flag("HardwareVirtExUX", &mut c.unrestricted_execution, true)?;
    x.child("PAE", |x| x.explicit("enabled", &mut c.pae, true))?;
    x.since(V::V1_14).child("LongMode", |x| {
        x.explicit("enabled", &mut c.long_mode, true)
    })?;
    x.since(V::V1_10).child("HardwareVirtExLargePages", |x| {
        x.explicit("enabled", &mut c.large_pages, false)
    })?;
    x.since(V::V1_11)
        .flag("HardwareVirtForce", &mut c.hw_virt_force, false)?;
    let rare = |x: &mut Xml<'_>, since, name: &str, value: &mut bool, default| {
        x.since(since)
            .child(name, |x| x.rare("enabled", value, default))
    };
    rare(
        x,
        V::V1_17,
        "HardwareVirtExUseNativeApi",
        &mut c.use_native_api,
        false,
    )?;
    rare(
        x,
        V::V1_18,
        "HardwareVirtExVirtVmsaveVmload",
        &mut c.virt_vmsave_vmload,
        true,
    )?;
    rare(x, V::V1_10, "SyntheticCpu", &mut c.synthetic, false)?;
    rare(
        x,
        V::V1_13,
        "TripleFaultReset",
        &mut c.triple_fault_reset,
        false,
    )?;
    rare(x, V::V1_16, "APIC", &mut c.apic, true)?;
    rare(x, V::V1_16, "X2APIC", &mut c.x2apic, false)?;
    let pair =
        |x: &mut Xml<'_>, name: &str, a: (&str, &mut bool, bool), b: (&str, &mut bool, bool)| {
            x.since(V::V1_16).child(name, |x| {
                x.rare(a.0, a.1, a.2)?;
                x.rare(b.0, b.1, b.2)
            })
        };
    let vmexit = ("vmexit", &mut c.ibpb_on_vm_exit, false);
    pair(
        x,
        "IBPBOn",
        vmexit,
        ("vmentry", &mut c.ibpb_on_vm_entry, false),
    )?;
    rare(x, V::V1_16, "SpecCtrl", &mut c.spec_ctrl, false)?;
    rare(
        x,
        V::V1_16,
        "SpecCtrlByHost",
        &mut c.spec_ctrl_by_host,
        false,
    )?;
    let scheduling = ("scheduling", &mut c.l1d_flush_on_scheduling, true);
    pair(
        x,
        "L1DFlushOn",
        scheduling,
        ("vmentry", &mut c.l1d_flush_on_vm_entry, false),
    )?;
    let scheduling = ("scheduling", &mut c.mds_clear_on_scheduling, true);
    pair(
        x,
        "MDSClearOn",
        scheduling,
        ("vmentry", &mut c.mds_clear_on_vm_entry, false),
    )?;
    rare(x, V::V1_17, "NestedHWVirt", &mut c.nested_hw_virt, false)?;

    x.since(V::V1_10).child("CpuTree", |x| {
        x.list("Cpu", &mut c.plugged, |x, id| x.required("id", id))
    })?;
    x.since(V::V1_10).child("CpuIdTree", |x| {
        x.list("CpuIdLeaf", &mut c.cpuid, |x, leaf| {
            x.required("id", &mut leaf.id)?;
            x.since(V::V1_16).rare("subleaf", &mut leaf.subleaf, 0)?;
            x.explicit("eax", &mut leaf.eax, 0)?;
            x.explicit("ebx", &mut leaf.ebx, 0)?;
            x.explicit("ecx", &mut leaf.ecx, 0)?;
            x.explicit("edx", &mut leaf.edx, 0)
        })
    })
}

fn paravirt(x: &mut Xml<'_>, p: &mut Paravirt) -> Done {
    // Where products leave it out: before 1.16 they write `Default` like any other word.
    let absent = if x.version().omits_defaults() {
        ParavirtProvider::Default
    } else {
        ParavirtProvider::Legacy
    };
    x.since(Version::V1_15).child("Paravirt", |x| {
        x.attr("provider", &mut p.provider, absent)?;
        x.since(Version::V1_16)
            .rare("debug", &mut p.debug, String::new())
    })
}

/// Positions count from 1. From 1.16 on, the default order is left out.
fn boot(x: &mut Xml<'_>, order: &mut [BootDevice; 4]) -> Done {
    let mut items: Vec<(u32, BootDevice)> = if x.reading() {
        Vec::new()
    } else if x.version().omits_defaults() && *order == Hardware::DEFAULT_BOOT_ORDER {
        return Ok(());
    } else {
        (1..).zip(*order).collect()
    };
    if x.reading() && !x.has("Boot") {
        *order = Hardware::DEFAULT_BOOT_ORDER;
        return Ok(());
    }
    x.child("Boot", |x| {
        x.list("Order", &mut items, |x, (position, device)| {
            x.required("position", position)?;
            x.range("position", *position, 1..=4)?;
            x.explicit("device", device, BootDevice::None)
        })
    })?;
    if x.reading() {
        *order = [BootDevice::None; 4];
        for (position, device) in items {
            if let Some(slot) = order.get_mut((position as usize).wrapping_sub(1)) {
                *slot = device;
            }
        }
    }
    Ok(())
}

fn display(x: &mut Xml<'_>, d: &mut Display) -> Done {
    x.since(Version::V1_14)
        .rare("controller", &mut d.controller, GraphicsController::VBoxVga)?;
    x.need_if(
        d.controller == GraphicsController::QemuRamFb,
        Version::V1_20,
    );
    x.attr("VRAMSize", &mut d.vram_mb, 8)?;
    x.range("VRAMSize", d.vram_mb, 0..=256)?;
    x.attr("monitorCount", &mut d.monitors, 1)?;
    x.range("monitorCount", d.monitors, 1..=64)?;
    x.attr("accelerate3D", &mut d.accelerate_3d, false)?;
    x.since(Version::V1_8)
        .attr("accelerate2DVideo", &mut d.accelerate_2d_video, false)
}

/// What products from 6.0 on have beside `Hardware`.
pub(super) fn recording_beside(x: &mut Xml<'_>, h: &mut Hardware) -> Done {
    if x.has("VideoCapture") {
        h.video_capture.beside_hardware = true;
    }
    if !h.video_capture.beside_hardware {
        return Ok(());
    }
    x.since(Version::V1_14)
        .child("VideoCapture", |x| video_capture(x, &mut h.video_capture))
}

fn video_capture(x: &mut Xml<'_>, v: &mut VideoCapture) -> Done {
    x.rare("enabled", &mut v.enabled, false)?;
    x.rare("screens", &mut v.screens, u64::MAX)?;
    x.rare("file", &mut v.file, String::new())?;
    x.rare("horzRes", &mut v.width, 1024)?;
    x.rare("vertRes", &mut v.height, 768)?;
    x.rare("rate", &mut v.rate, 512)?;
    x.rare("fps", &mut v.fps, 25)?;
    x.rare("maxTime", &mut v.max_time, 0)?;
    x.rare("maxSize", &mut v.max_size, 0)?;
    x.rare("options", &mut v.options, String::new())
}

fn remote_display(x: &mut Xml<'_>, r: &mut RemoteDisplay) -> Done {
    x.attr("enabled", &mut r.enabled, false)?;
    x.attr("authType", &mut r.auth_type, AuthType::Null)?;
    x.rare("authTimeout", &mut r.auth_timeout, 5000)?;
    x.rare("allowMultiConnection", &mut r.allow_multi_connection, false)?;
    x.rare(
        "reuseSingleConnection",
        &mut r.reuse_single_connection,
        false,
    )?;
    x.since(Version::V1_11)
        .rare("authLibrary", &mut r.auth_library, String::new())?;
    x.since(Version::V1_11)
        .rare("VRDEExtPack", &mut r.ext_pack, String::new())?;
    for (name, value) in &r.properties {
        x.need_if(true, crate::shape::remote_display_property(name, value));
    }
    x.child("VRDEProperties", |x| x.map("Property", &mut r.properties))
}

fn bios(x: &mut Xml<'_>, b: &mut Bios) -> Done {
    x.flag("ACPI", &mut b.acpi, true)?;
    x.child("IOAPIC", |x| x.attr("enabled", &mut b.ioapic, false))?;
    x.since(Version::V1_16)
        .child("APIC", |x| x.rare("mode", &mut b.apic_mode, ApicMode::Apic))?;
    x.child("Logo", |x| {
        x.attr("fadeIn", &mut b.logo_fade_in, true)?;
        x.attr("fadeOut", &mut b.logo_fade_out, true)?;
        x.attr("displayTime", &mut b.logo_display_time, 0)?;
        x.rare("imagePath", &mut b.logo_image_path, String::new())
    })?;
    x.child("BootMenu", |x| {
        x.attr("mode", &mut b.boot_menu, BootMenuMode::MessageAndMenu)
    })?;
    x.child("TimeOffset", |x| x.attr("value", &mut b.time_offset_ms, 0))?;
    x.flag("PXEDebug", &mut b.pxe_debug, false)?;
    x.since(Version::V1_18).child("NVRAM", |x| {
        x.rare("path", &mut b.nvram_path, String::new())?;
        x.since(Version::V1_19)
            .rare("keyId", &mut b.nvram_key_id, String::new())?;
        x.since(Version::V1_19)
            .rare("keyStore", &mut b.nvram_key_store, String::new())
    })?;
    // Products write these two into older versions, and do not raise files for them.
    x.child("SmbiosUuidLittleEndian", |x| {
        x.rare("enabled", &mut b.smbios_uuid_little_endian, false)
    })?;
    x.child("AutoSerialNumGen", |x| {
        x.rare("enabled", &mut b.auto_serial_number, false)
    })
}

fn usb(x: &mut Xml<'_>, u: &mut Usb) -> Done {
    if x.version().usb_controller_list() {
        return x.container("USB", |x| {
            x.container("Controllers", |x| {
                x.list("Controller", &mut u.controllers, |x, c| {
                    x.required("name", &mut c.name)?;
                    x.required("type", &mut c.kind)?;
                    x.need_if(c.kind == UsbControllerType::Xhci, Version::V1_15);
                    Ok(())
                })
            })?;
            x.container("DeviceFilters", |x| {
                x.list("DeviceFilter", &mut u.filters, filter)
            })
        });
    }
    // One controller in all: OHCI, with or without EHCI on top.
    let ohci = UsbController {
        name: "OHCI".to_owned(),
        kind: UsbControllerType::Ohci,
    };
    let ehci = UsbController {
        name: "EHCI".to_owned(),
        kind: UsbControllerType::Ehci,
    };
    let mut enabled = u.controllers.contains(&ohci);
    let mut with_ehci = enabled && u.controllers.contains(&ehci);
    x.need_if(
        u.controllers.len() != usize::from(enabled) + usize::from(with_ehci),
        Version::V1_14,
    );
    x.need_if(
        u.controllers
            .iter()
            .any(|c| c.kind == UsbControllerType::Xhci),
        Version::V1_15,
    );
    x.child("USBController", |x| {
        x.explicit("enabled", &mut enabled, false)?;
        x.explicit("enabledEhci", &mut with_ehci, false)?;
        x.list("DeviceFilter", &mut u.filters, filter)
    })?;
    if x.reading() {
        u.controllers = [(enabled, ohci), (enabled && with_ehci, ehci)]
            .into_iter()
            .filter_map(|(on, controller)| on.then_some(controller))
            .collect();
    }
    Ok(())
}

pub(super) fn filter(x: &mut Xml<'_>, f: &mut UsbFilter) -> Done {
    x.required("name", &mut f.name)?;
    x.explicit("active", &mut f.active, false)?;
    for (name, value) in [
        ("vendorId", &mut f.vendor_id),
        ("productId", &mut f.product_id),
        ("revision", &mut f.revision),
        ("manufacturer", &mut f.manufacturer),
        ("product", &mut f.product),
        ("serialNumber", &mut f.serial_number),
        ("port", &mut f.port),
        ("remote", &mut f.remote),
    ] {
        x.rare(name, value, String::new())?;
    }
    x.rare("maskedInterfaces", &mut f.masked_interfaces, 0)
}

/// Serial and parallel ports. Where a port is unless the file says so depends on its slot.
fn ports(x: &mut Xml<'_>, h: &mut Hardware) -> Done {
    x.container("UART", |x| {
        x.list("Port", &mut h.serial, |x, p| {
            x.required("slot", &mut p.slot)?;
            x.range("slot", p.slot, 0..=3)?;
            let usual = SerialPort::new(p.slot);
            x.explicit("enabled", &mut p.enabled, false)?;
            x.hex("IOBase", &mut p.io_base, usual.io_base)?;
            x.range("IOBase", p.io_base, 0..=0xffff)?;
            x.explicit("IRQ", &mut p.irq, usual.irq)?;
            x.range("IRQ", p.irq, 0..=255)?;
            x.explicit("hostMode", &mut p.mode, PortMode::Disconnected)?;
            x.need_if(p.mode == PortMode::Tcp, Version::V1_15);
            x.rare("path", &mut p.path, String::new())?;
            x.rare("server", &mut p.server, false)?;
            x.since(Version::V1_17)
                .rare("uartType", &mut p.uart, UartType::U16550A)
        })?;
        if x.reading() {
            h.serial.sort_by_key(|p| p.slot);
        }
        Ok(())
    })?;
    x.container("LPT", |x| {
        x.list("Port", &mut h.parallel, |x, p| {
            x.required("slot", &mut p.slot)?;
            x.range("slot", p.slot, 0..=1)?;
            let usual = ParallelPort::new(p.slot);
            x.explicit("enabled", &mut p.enabled, false)?;
            x.hex("IOBase", &mut p.io_base, usual.io_base)?;
            x.range("IOBase", p.io_base, 0..=0xffff)?;
            x.explicit("IRQ", &mut p.irq, usual.irq)?;
            x.range("IRQ", p.irq, 0..=255)?;
            x.rare("path", &mut p.path, String::new())
        })?;
        if x.reading() {
            h.parallel.sort_by_key(|p| p.slot);
        }
        Ok(())
    })
}

fn audio(x: &mut Xml<'_>, a: &mut Audio) -> Done {
    x.attr("controller", &mut a.controller, AudioController::Ac97)?;
    x.need_if(a.controller == AudioController::Hda, Version::V1_11);
    x.since(Version::V1_14)
        .rare("codec", &mut a.codec, AudioCodec::Default)?;
    x.since(Version::V1_19)
        .rare("useDefault", &mut a.use_default, false)?;
    x.attr("driver", &mut a.driver, AudioDriver::Null)?;
    x.need_if(a.driver == AudioDriver::Default, Version::V1_19);
    x.explicit("enabled", &mut a.enabled, false)?;
    let default = x.version().audio_directions_follow() && a.enabled;
    x.since(Version::V1_15)
        .rare("enabledIn", &mut a.enabled_in, default)?;
    x.since(Version::V1_15)
        .rare("enabledOut", &mut a.enabled_out, default)
}

fn io(x: &mut Xml<'_>, io: &mut Io) -> Done {
    x.child("IoCache", |x| {
        x.attr("enabled", &mut io.cache, true)?;
        x.attr("size", &mut io.cache_size_mb, 5)
    })?;
    x.since(Version::V1_11).container("BandwidthGroups", |x| {
        x.list("BandwidthGroup", &mut io.bandwidth_groups, |x, g| {
            x.required("name", &mut g.name)?;
            x.required("type", &mut g.kind)?;
            x.need_if(g.kind == BandwidthGroupType::Network, Version::V1_12);
            bandwidth(x, &mut g.max_bytes_per_sec)
        })
    })
}

fn bandwidth(x: &mut Xml<'_>, bytes: &mut u64) -> Done {
    const MIB: u64 = 1 << 20;
    if x.version().bandwidth_in_bytes() {
        return x.explicit("maxBytesPerSec", bytes, 0);
    }
    x.need_if(!bytes.is_multiple_of(MIB), Version::V1_13);
    let mut mib = *bytes / MIB;
    x.explicit("maxMbPerSec", &mut mib, 0)?;
    if x.reading() {
        *bytes = mib.saturating_mul(MIB);
    }
    Ok(())
}
