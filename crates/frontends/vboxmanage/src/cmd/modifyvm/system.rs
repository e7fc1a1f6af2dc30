//! Settings of the machine as a whole: name, memory, processors, firmware, starting.

use super::{Change, Setting, call, groups, number, on_or, switch, text, word};
use crate::args::{Args, Given, flag, numbered, parse_integer, value};
use crate::cx::absolute;
use crate::error::{During, Failure, Result};
use crate::names::*;
use api::client::Machine;
use api::types::*;

/// A switch of the processor.
macro_rules! cpu {
    ($names:expr, $property:ident) => {
        Setting {
            opt: value($names),
            values: "on | off",
            read: |g, _| switch(&g, |m, v| m.set_cpu_property(CPUPropertyType::$property, v)),
        }
    };
}

/// A switch of hardware virtualization. No engine needs it: the software engine runs everything.
macro_rules! virt {
    ($names:expr, $property:ident) => {
        Setting {
            opt: value($names),
            values: "on | off",
            read: |g, _| {
                switch(&g, |m, v| {
                    m.set_hw_virt_ex_property(HWVirtExPropertyType::$property, v)
                })
            },
        }
    };
}

/// An option that one setter takes as it is.
macro_rules! plain {
    ($names:expr, $values:literal, $how:ident($($arg:expr),*) $set:expr) => {
        Setting {
            opt: value($names),
            values: $values,
            read: |g, _| $how(&g, $($arg,)* $set),
        }
    };
}

pub const SETTINGS: &[Setting] = &[
    plain!(&["--name"], "name", text("") Machine::set_name),
    Setting {
        opt: value(&["--groups"]),
        values: "group,...",
        read: |g, _| {
            let all = groups(&g.value);
            call(&g, move |m| {
                m.set_groups(&all.iter().map(String::as_str).collect::<Vec<_>>())
            })
        },
    },
    plain!(&["--description"], "text", text("") Machine::set_description),
    plain!(&["--os-type", "--ostype"], "ID", text("") Machine::set_os_type_id),
    Setting {
        opt: value(&["--icon-file", "--iconfile"]),
        values: "file",
        read: icon,
    },
    plain!(&["--memory"], "MB", number() Machine::set_memory_size),
    plain!(&["--page-fusion", "--pagefusion"], "on | off", switch() Machine::set_page_fusion_enabled),
    plain!(
        &["--vram"],
        "MB",
        number() | m,
        v | m.graphics_adapter()?.set_vram_size(v)
    ),
    plain!(
        &["--acpi"],
        "on | off",
        switch() | m,
        v | m.bios_settings()?.set_acpi_enabled(v)
    ),
    plain!(
        &["--ioapic"],
        "on | off",
        switch() | m,
        v | m.bios_settings()?.set_ioapic_enabled(v)
    ),
    plain!(&["--hardware-uuid", "--hardwareuuid"], "UUID", text("") Machine::set_hardware_uuid),
    plain!(&["--cpus"], "count", number() Machine::set_cpu_count),
    plain!(&["--cpu-hotplug", "--cpuhotplug"], "on | off", switch() Machine::set_cpu_hot_plug_enabled),
    plain!(&["--plug-cpu", "--plugcpu"], "ID", number() Machine::hot_plug_cpu),
    plain!(&["--unplug-cpu", "--unplugcpu"], "ID", number() Machine::hot_unplug_cpu),
    plain!(&["--cpu-execution-cap", "--cpuexecutioncap"], "percent", number() Machine::set_cpu_execution_cap),
    cpu!(&["--pae", "--x86-pae"], PAE),
    cpu!(&["--long-mode", "--longmode", "--x86-long-mode"], LongMode),
    cpu!(&["--ibpb-on-vm-exit"], IBPBOnVMExit),
    cpu!(&["--ibpb-on-vm-entry"], IBPBOnVMEntry),
    cpu!(&["--spec-ctrl"], SpecCtrl),
    cpu!(&["--l1d-flush-on-sched"], L1DFlushOnEMTScheduling),
    cpu!(&["--l1d-flush-on-vm-entry"], L1DFlushOnVMEntry),
    cpu!(&["--mds-clear-on-sched"], MDSClearOnEMTScheduling),
    cpu!(&["--mds-clear-on-vm-entry"], MDSClearOnVMEntry),
    plain!(&["--cpu-profile"], "host | profile", text("") Machine::set_cpu_profile),
    plain!(&["--hpet", "--x86-hpet"], "on | off", switch() Machine::set_hpet_enabled),
    virt!(&["--hwvirtex", "--x86-hwvirtex"], Enabled),
    virt!(
        &["--nested-paging", "--nestedpaging", "--x86-nested-paging"],
        NestedPaging
    ),
    virt!(
        &["--large-pages", "--largepages", "--x86-large-pages"],
        LargePages
    ),
    virt!(&["--vtx-vpid", "--vtxvpid", "--x86-vtx-vpid"], VPID),
    virt!(
        &["--vtx-ux", "--vtxux", "--x86-vtx-ux"],
        UnrestrictedExecution
    ),
    virt!(
        &["--virt-vmsave-vmload", "--x86-virt-vmsave-vmload"],
        VirtVmsaveVmload
    ),
    cpu!(&["--nested-hw-virt", "--x86-nested-hw-virt"], HWVirt),
    plain!(&["--paravirt-provider", "--paravirtprovider"], "none | default | legacy | minimal | hyperv | kvm",
        word(PARAVIRT) Machine::set_paravirt_provider),
    plain!(&["--paravirt-debug", "--paravirtdebug"], "key=value,...", text("") Machine::set_paravirt_debug),
    cpu!(&["--apic", "--x86-apic"], APIC),
    cpu!(&["--x2apic", "--x86-x2apic"], X2APIC),
    cpu!(
        &[
            "--triple-fault-reset",
            "--triplefaultreset",
            "--x86-triple-fault-reset"
        ],
        TripleFaultReset
    ),
    plain!(&["--cpuid-portability-level", "--x86-cpuid-portability-level"], "level",
        number() Machine::set_cpuid_portability_level),
    Setting {
        opt: value(&["--cpuid-set", "--cpuidset", "--x86-cpuid-set"]),
        values: "leaf[:subleaf] eax ebx ecx edx",
        read: cpuid_set,
    },
    Setting {
        opt: value(&["--cpuid-remove", "--cpuidremove", "--x86-cpuid-remove"]),
        values: "leaf[:subleaf]",
        read: |g, _| {
            let (leaf, subleaf) = cpuid_leaf(&g.value).ok_or_else(|| g.invalid())?;
            call(&g, move |m| m.remove_cpuid_leaf(leaf, subleaf))
        },
    },
    Setting {
        opt: flag(&[
            "--cpuid-remove-all",
            "--cpuidremoveall",
            "--x86-cpuid-remove-all",
        ]),
        values: "",
        read: |g, _| call(&g, Machine::remove_all_cpuid_leaves),
    },
    plain!(&["--rtc-use-utc", "--rtcuseutc"], "on | off", switch() Machine::set_rtc_use_utc),
    plain!(
        &["--graphicscontroller", "--graphics-controller"],
        "none | vboxvga | vmsvga | vboxsvga",
        word(GRAPHICS) | m,
        v | m.graphics_adapter()?.set_graphics_controller_type(v)
    ),
    plain!(
        &["--monitor-count", "--monitorcount"],
        "count",
        number() | m,
        v | m.graphics_adapter()?.set_monitor_count(v)
    ),
    plain!(
        &["--accelerate-3d", "--accelerate3d"],
        "on | off",
        switch() | m,
        v | m.graphics_adapter()?.set_accelerate3d_enabled(v)
    ),
    plain!(
        &["--accelerate-2d-video", "--accelerate2dvideo"],
        "on | off",
        switch() | m,
        v | m.graphics_adapter()?.set_accelerate2d_video_enabled(v)
    ),
    plain!(&["--firmware"], "bios | efi | efi32 | efi64", word(FIRMWARE) Machine::set_firmware_type),
    plain!(&["--chipset"], "piix3 | ich9", word(CHIPSETS) Machine::set_chipset_type),
    plain!(&["--iommu"], "none | automatic | amd | intel", word(IOMMUS) Machine::set_iommu_type),
    plain!(
        &["--tpm-type"],
        "none | 1.2 | 2.0 | host | swtpm",
        word(TPMS) | m,
        v | m.trusted_platform_module()?.set_type_(v)
    ),
    plain!(
        &["--tpm-location"],
        "location",
        text("none") | m,
        v | m.trusted_platform_module()?.set_location(v)
    ),
    plain!(
        &["--bios-logo-fade-in", "--bioslogofadein"],
        "on | off",
        switch() | m,
        v | m.bios_settings()?.set_logo_fade_in(v)
    ),
    plain!(
        &["--bios-logo-fade-out", "--bioslogofadeout"],
        "on | off",
        switch() | m,
        v | m.bios_settings()?.set_logo_fade_out(v)
    ),
    plain!(
        &["--bios-logo-display-time", "--bioslogodisplaytime"],
        "msec",
        number() | m,
        v | m.bios_settings()?.set_logo_display_time(v)
    ),
    plain!(
        &["--bios-logo-image-path", "--bioslogoimagepath"],
        "path",
        text("") | m,
        v | m.bios_settings()?.set_logo_image_path(v)
    ),
    plain!(
        &["--bios-boot-menu", "--biosbootmenu"],
        "disabled | menuonly | messageandmenu",
        word(BOOT_MENUS) | m,
        v | m.bios_settings()?.set_boot_menu_mode(v)
    ),
    plain!(
        &["--bios-apic", "--biosapic"],
        "disabled | apic | x2apic",
        word(APIC_MODES) | m,
        v | m.bios_settings()?.set_apic_mode(v)
    ),
    Setting {
        opt: value(&["--bios-system-time-offset", "--biossystemtimeoffset"]),
        values: "msec",
        read: |g, _| {
            let offset = g.integer()?;
            call(&g, move |m| m.bios_settings()?.set_time_offset(offset))
        },
    },
    plain!(
        &["--bios-pxe-debug", "--biospxedebug"],
        "on | off",
        switch() | m,
        v | m.bios_settings()?.set_pxe_debug_enabled(v)
    ),
    plain!(
        &["--system-uuid-le"],
        "on | off",
        switch() | m,
        v | m.bios_settings()?.set_smbios_uuid_little_endian(v)
    ),
    Setting {
        opt: numbered(&["--boot"]),
        values: "none | floppy | dvd | disk | net",
        read: |g, _| {
            let position = g.slot(4)? + 1;
            let device = g.one_of(BOOT_DEVICES)?;
            call(&g, move |m| m.set_boot_order(position, device))
        },
    },
    Setting {
        opt: value(&["--snapshot-folder", "--snapshotfolder"]),
        values: "default | path",
        read: |g, _| {
            let folder = match g.value.as_str() {
                "default" => String::new(),
                path => absolute(path)?,
            };
            call(&g, move |m| m.set_snapshot_folder(&folder))
        },
    },
    plain!(&["--teleporter"], "on | off", switch() Machine::set_teleporter_enabled),
    plain!(&["--teleporter-port", "--teleporterport"], "port", number() Machine::set_teleporter_port),
    plain!(&["--teleporter-address", "--teleporteraddress"], "address", text("") Machine::set_teleporter_address),
    plain!(&["--teleporter-password", "--teleporterpassword"], "password", text("") Machine::set_teleporter_password),
    plain!(&["--tracing-enabled"], "on | off", switch() Machine::set_tracing_enabled),
    plain!(&["--tracing-config"], "text", text("") Machine::set_tracing_config),
    plain!(&["--tracing-allow-vm-access"], "on | off", switch() Machine::set_allow_tracing_to_access_vm),
    plain!(&["--autostart-enabled"], "on | off", switch() Machine::set_autostart_enabled),
    plain!(&["--autostart-delay"], "seconds", number() Machine::set_autostart_delay),
    plain!(&["--default-frontend", "--defaultfrontend"], "default | name",
        text("default") Machine::set_default_frontend),
    plain!(&["--vm-process-priority"], "default | flat | low | normal | high",
        word(PRIORITIES) Machine::set_vm_process_priority),
    plain!(&["--guest-memory-balloon", "--guestmemoryballoon"], "MB", number() Machine::set_memory_balloon_size),
    Setting {
        opt: value(&["--guest-statistics-interval", "--gueststatisticsinterval"]),
        values: "seconds",
        read: |g, _| {
            // A running guest's affair: there is nothing to keep in the settings.
            let seconds: u32 = g.integer()?;
            Ok(Box::new(move |_| match seconds {
                0 => Ok(()),
                _ => Err(Failure::message(
                    "Guest statistics are not available in this version of Oxbox yet",
                )),
            }))
        },
    },
    plain!(
        &["--recording", "--videocap"],
        "on | off",
        switch() | m,
        v | m.recording_settings()?.set_enabled(v)
    ),
    plain!(
        &["--guest-debug-provider"],
        "none | native | gdb | kd",
        word(&[
            ("none", GuestDebugProvider::None),
            ("native", GuestDebugProvider::Native),
            ("gdb", GuestDebugProvider::GDB),
            ("kd", GuestDebugProvider::KD),
        ]) | m,
        v | m.guest_debug_control()?.set_debug_provider(v)
    ),
    plain!(
        &["--guest-debug-io-provider"],
        "none | tcp | udp | ipc",
        word(&[
            ("none", GuestDebugIoProvider::None),
            ("tcp", GuestDebugIoProvider::TCP),
            ("udp", GuestDebugIoProvider::UDP),
            ("ipc", GuestDebugIoProvider::IPC),
        ]) | m,
        v | m.guest_debug_control()?.set_debug_io_provider(v)
    ),
    plain!(
        &["--guest-debug-address"],
        "address",
        text("") | m,
        v | m.guest_debug_control()?.set_debug_address(v)
    ),
    plain!(
        &["--guest-debug-port"],
        "port",
        number() | m,
        v | m.guest_debug_control()?.set_debug_port(v)
    ),
    Setting {
        opt: value(&["--usbcardreader", "--usb-card-reader"]),
        values: "on | off",
        read: |g, _| {
            let on = on_or(&g.value, "none").ok_or_else(|| g.invalid())?;
            call(&g, move |m| m.set_emulated_usb_card_reader_enabled(on))
        },
    },
];

/// A picture larger than this is none for a list of machines, in bytes.
const MAX_ICON: u64 = 256 * 1024;

fn icon(given: Given, _: &mut Args) -> Result<Change> {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::message(format!("Cannot read icon file \"{}\": {e}", given.value))
    };
    let size = std::fs::metadata(&given.value)
        .map_err(|e| failed(&e))?
        .len();
    if size > MAX_ICON {
        return Err(failed(&"it is larger than 256 KiB"));
    }
    let picture = std::fs::read(&given.value).map_err(|e| failed(&e))?;
    call(&given, move |m| m.set_icon(&picture))
}

/// `leaf` or `leaf:subleaf`, hexadecimal as in 4.0 whatever the prefix.
fn cpuid_leaf(text: &str) -> Option<(u32, u32)> {
    let (leaf, subleaf) = text.split_once(':').unwrap_or((text, "0"));
    Some((hexadecimal(leaf)?, hexadecimal(subleaf)?))
}

fn hexadecimal(text: &str) -> Option<u32> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    parse_integer(&format!("0x{digits}"))
}

fn cpuid_set(given: Given, args: &mut Args) -> Result<Change> {
    let (leaf, subleaf) = cpuid_leaf(&given.value).ok_or_else(|| given.invalid())?;
    let mut registers = [0; 4];
    for register in &mut registers {
        let text = args.more(&given)?;
        *register = hexadecimal(&text)
            .ok_or_else(|| Failure::syntax(format!("Invalid {} argument '{text}'", given.typed)))?;
    }
    let [eax, ebx, ecx, edx] = registers;
    Ok(Box::new(move |m| {
        m.set_cpuid_leaf(leaf, subleaf, eax, ebx, ecx, edx)
            .during("SetCPUIDLeaf(idx, idxSub, aValue[0], aValue[1], aValue[2], aValue[3])")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuid_leaves_are_hexadecimal() {
        assert_eq!(cpuid_leaf("80000001"), Some((0x8000_0001, 0)));
        assert_eq!(cpuid_leaf("0x7:1"), Some((7, 1)));
        assert_eq!(cpuid_leaf("x"), None);
        assert_eq!(cpuid_leaf("-1"), None);
        assert_eq!(cpuid_leaf("100000000"), None);
    }
}
