//! The first part of a machine's description: what it is and what it runs on.

use super::sheet::Sheet;
use crate::error::{Result, known};
use crate::names::*;
use crate::time;
use api::client::{Machine, VirtualBox};
use api::types::*;

pub fn identity(s: &mut Sheet<'_>, vbox: &VirtualBox, m: &Machine) -> Result {
    s.text("name", "Name:", Some(m.name()?))?;
    // 7.0 prints the same line for people and machines.
    let cipher = known(m.get_encryption_settings());
    let encrypted = matches!(cipher, Ok(Some((cipher, _))) if !cipher.is_empty());
    writeln!(s.out, "Encryption:     {}", crate::out::enabled(encrypted))?;
    s.text("groups", "Groups:", Some(m.groups()?.join(",")))?;
    let os = m.os_type_id()?;
    let title = match vbox.get_guest_os_type(&os) {
        Ok(known) => known.description,
        Err(_) => os,
    };
    s.text("ostype", "Guest OS:", Some(title))?;
    s.text("UUID", "UUID:", Some(m.id()?))?;
    s.text("CfgFile", "Config file:", Some(m.settings_file_path()?))?;
    s.text("SnapFldr", "Snapshot folder:", Some(m.snapshot_folder()?))?;
    s.text("LogFldr", "Log folder:", Some(m.log_folder()?))?;
    s.text("hardwareuuid", "Hardware UUID:", Some(m.hardware_uuid()?))
}

pub fn hardware(s: &mut Sheet<'_>, m: &Machine) -> Result {
    let cpu = |property| known(m.get_cpu_property(property));
    s.number("memory", "Memory size:", Some(m.memory_size()?), "MB")?;
    s.switch(
        "pagefusion",
        "Page Fusion:",
        known(m.page_fusion_enabled())?,
    )?;
    let vram = known(m.graphics_adapter()?.vram_size())?;
    s.number("vram", "VRAM size:", vram, "MB")?;
    s.number(
        "cpuexecutioncap",
        "CPU exec cap:",
        known(m.cpu_execution_cap())?,
        "%",
    )?;
    s.switch("hpet", "HPET:", known(m.hpet_enabled())?)?;
    let profile = known(m.cpu_profile())?.filter(|p| !p.is_empty());
    s.text(
        "cpu-profile",
        "CPUProfile:",
        profile.or(Some("host".to_owned())),
    )?;
    let chipset = known(m.chipset_type())?.map(|c| word_of(CHIPSETS, c));
    s.text("chipset", "Chipset:", chipset)?;
    let firmware = known(m.firmware_type())?.map(|f| word_of(FIRMWARE, f));
    s.text("firmware", "Firmware:", firmware)?;
    s.number("cpus", "Number of CPUs:", Some(m.cpu_count()?), "")?;
    s.switch("pae", "PAE:", cpu(CPUPropertyType::PAE)?)?;
    s.switch("longmode", "Long Mode:", cpu(CPUPropertyType::LongMode)?)?;
    s.switch(
        "triplefaultreset",
        "Triple Fault Reset:",
        cpu(CPUPropertyType::TripleFaultReset)?,
    )?;
    s.switch("apic", "APIC:", cpu(CPUPropertyType::APIC)?)?;
    s.switch("x2apic", "X2APIC:", cpu(CPUPropertyType::X2APIC)?)?;
    s.switch(
        "nested-hw-virt",
        "Nested VT-x/AMD-V:",
        cpu(CPUPropertyType::HWVirt)?,
    )?;
    s.number(
        "cpuid-portability-level",
        "CPUID Portability Level:",
        known(m.cpuid_portability_level())?,
        "",
    )?;
    cpuid(s, m)
}

/// Leaves of CPUID that the settings override.
fn cpuid(s: &mut Sheet<'_>, m: &Machine) -> Result {
    let mut leaves = Vec::new();
    // The service answers with an error behind the last one.
    while let Ok(leaf) = m.get_cpuid_leaf_by_ordinal(u32::try_from(leaves.len()).unwrap_or(0)) {
        leaves.push(leaf);
        if leaves.len() == 256 {
            break;
        }
    }
    if leaves.is_empty() {
        return s.label("CPUID overrides:", "None");
    }
    s.label(
        "CPUID overrides:",
        "Leaf no.  EAX      EBX      ECX      EDX",
    )?;
    for (leaf, subleaf, eax, ebx, ecx, edx) in leaves {
        if s.machine {
            writeln!(
                s.out,
                "cpuid={leaf:08x}/{subleaf:08x},{eax:08x},{ebx:08x},{ecx:08x},{edx:08x}"
            )?;
        } else {
            s.label(
                "",
                format_args!("{leaf:08x}/{subleaf:03x}  {eax:08x} {ebx:08x} {ecx:08x} {edx:08x}"),
            )?;
        }
    }
    Ok(())
}

pub fn firmware(s: &mut Sheet<'_>, m: &Machine) -> Result {
    let bios = m.bios_settings()?;
    let menu = known(bios.boot_menu_mode())?.map(|mode| {
        let human = match mode {
            BIOSBootMenuMode::Disabled => "disabled",
            BIOSBootMenuMode::MenuOnly => "menu only",
            BIOSBootMenuMode::MessageAndMenu => "message and menu",
        };
        (word_of(BOOT_MENUS, mode), human)
    });
    s.words("bootmenu", "Boot menu mode:", menu)?;
    for position in 1..=4 {
        let device = m.get_boot_order(position)?;
        let words = (word_of(BOOT_DEVICES, device), boot_device_text(device));
        s.words(
            &format!("boot{position}"),
            &format!("Boot Device {position}:"),
            Some(words),
        )?;
    }
    s.switch("acpi", "ACPI:", known(bios.acpi_enabled())?)?;
    s.switch("ioapic", "IOAPIC:", known(bios.ioapic_enabled())?)?;
    let apic = known(bios.apic_mode())?.map(|mode| {
        let human = match mode {
            APICMode::Disabled => "disabled",
            APICMode::APIC => "APIC",
            APICMode::X2APIC => "x2APIC",
        };
        (word_of(APIC_MODES, mode), human)
    });
    s.words("biosapic", "BIOS APIC mode:", apic)?;
    s.number(
        "biossystemtimeoffset",
        "Time offset:",
        known(bios.time_offset())?,
        "ms",
    )?;
    let nvram = match known(m.non_volatile_store())? {
        Some(store) => known(store.non_volatile_storage_file())?,
        None => None,
    };
    s.text("BIOS NVRAM File", "BIOS NVRAM File:", nvram)?;
    let utc = known(m.rtc_use_utc())?;
    if s.machine {
        s.switch("rtcuseutc", "", utc)
    } else {
        s.text(
            "",
            "RTC:",
            utc.map(|utc| if utc { "UTC" } else { "local time" }),
        )
    }
}

pub fn engines(s: &mut Sheet<'_>, m: &Machine) -> Result {
    use HWVirtExPropertyType as P;
    for (key, label, property) in [
        ("hwvirtex", "Hardware Virtualization:", P::Enabled),
        ("nestedpaging", "Nested Paging:", P::NestedPaging),
        ("largepages", "Large Pages:", P::LargePages),
        ("vtxvpid", "VT-x VPID:", P::VPID),
        (
            "vtxux",
            "VT-x Unrestricted Exec.:",
            P::UnrestrictedExecution,
        ),
        (
            "virtvmsavevmload",
            "AMD-V Virt. Vmsave/Vmload:",
            P::VirtVmsaveVmload,
        ),
    ] {
        s.switch(key, label, known(m.get_hw_virt_ex_property(property))?)?;
    }
    let iommu = known(m.iommu_type())?.map(|kind| {
        let human = match kind {
            IommuType::None => "None",
            IommuType::Automatic => "Automatic",
            IommuType::AMD => "AMD",
            IommuType::Intel => "Intel",
        };
        (word_of(IOMMUS, kind), human)
    });
    s.words("iommu", "IOMMU:", iommu)?;
    let words = |p| (word_of(PARAVIRT, p), paravirt_text(p));
    let provider = known(m.paravirt_provider())?.map(words);
    s.words("paravirtprovider", "Paravirt. Provider:", provider)?;
    let effective = known(m.get_effective_paravirt_provider())?.map(words);
    s.words(
        "effparavirtprovider",
        "Effective Paravirt. Prov.:",
        effective,
    )?;
    let debug = known(m.paravirt_debug())?.filter(|d| !d.is_empty());
    s.text("paravirtdebug", "Paravirt. Debug:", debug)
}

fn paravirt_text(provider: ParavirtProvider) -> &'static str {
    match provider {
        ParavirtProvider::None => "None",
        ParavirtProvider::Default => "Default",
        ParavirtProvider::Legacy => "Legacy",
        ParavirtProvider::Minimal => "Minimal",
        ParavirtProvider::HyperV => "HyperV",
        ParavirtProvider::KVM => "KVM",
    }
}

pub fn state(s: &mut Sheet<'_>, m: &Machine) -> Result {
    let (state, changed) = (m.state()?, m.last_state_change()?);
    let since = time::iso(changed);
    let since = since.trim_end_matches('Z');
    if s.machine {
        s.key("VMState", state_word(state))?;
        s.key("VMStateChangeTime", since)?;
        let file = known(m.state_file_path())?.unwrap_or_default();
        if !file.is_empty() {
            s.key("VMStateFile", file)?;
        }
        return Ok(());
    }
    s.label(
        "State:",
        format_args!("{} (since {since})", state_text(state)),
    )
}

pub fn display(s: &mut Sheet<'_>, m: &Machine) -> Result {
    let adapter = m.graphics_adapter()?;
    let controller = known(adapter.graphics_controller_type())?.map(|kind| {
        let human = match kind {
            GraphicsControllerType::Null => "None",
            GraphicsControllerType::VBoxVGA => "VBoxVGA",
            GraphicsControllerType::VMSVGA => "VMSVGA",
            GraphicsControllerType::VBoxSVGA => "VBoxSVGA",
        };
        (word_of(GRAPHICS, kind), human)
    });
    s.words("graphicscontroller", "Graphics Controller:", controller)?;
    s.number(
        "monitorcount",
        "Monitor count:",
        known(adapter.monitor_count())?,
        "",
    )?;
    s.switch(
        "accelerate3d",
        "3D Acceleration:",
        known(adapter.accelerate3d_enabled())?,
    )?;
    s.switch(
        "accelerate2dvideo",
        "2D Video Acceleration:",
        known(adapter.accelerate2d_video_enabled())?,
    )?;
    s.switch(
        "teleporterenabled",
        "Teleporter Enabled:",
        known(m.teleporter_enabled())?,
    )?;
    s.number(
        "teleporterport",
        "Teleporter Port:",
        known(m.teleporter_port())?,
        "",
    )?;
    s.text(
        "teleporteraddress",
        "Teleporter Address:",
        known(m.teleporter_address())?,
    )?;
    // The service keeps a hash and gives nothing back.
    let password = known(m.teleporter_password())?.unwrap_or_default();
    s.text("teleporterpassword", "Teleporter Password:", Some(password))?;
    s.switch(
        "tracing-enabled",
        "Tracing Enabled:",
        known(m.tracing_enabled())?,
    )?;
    s.switch(
        "tracing-allow-vm-access",
        "Allow Tracing to Access VM:",
        known(m.allow_tracing_to_access_vm())?,
    )?;
    s.text(
        "tracing-config",
        "Tracing Configuration:",
        known(m.tracing_config())?,
    )?;
    s.switch(
        "autostart-enabled",
        "Autostart Enabled:",
        known(m.autostart_enabled())?,
    )?;
    s.number(
        "autostart-delay",
        "Autostart Delay:",
        known(m.autostart_delay())?,
        "",
    )?;
    s.text(
        "defaultfrontend",
        "Default Frontend:",
        known(m.default_frontend())?,
    )?;
    let priority = known(m.vm_process_priority())?.map(|p| word_of(PRIORITIES, p));
    s.text("vmprocpriority", "VM process priority:", priority)
}
