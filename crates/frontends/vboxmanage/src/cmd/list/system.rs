//! What the service knows and is set to.

use crate::cmd::natnetwork;
use crate::cx::Cx;
use crate::error::{Result, known};
use crate::names::{AUDIO_DRIVERS, word_of};
use crate::out::{field, on_off, yes_no};
use api::types::*;

/// Column of the values of `list systemproperties`.
const WIDTH: usize = 33;

/// `list ostypes`.
pub fn os_types(cx: &mut Cx<'_>) -> Result {
    for os in cx.vbox()?.guest_os_types()? {
        write!(
            cx.out,
            "ID:          {}\nDescription: {}\nFamily ID:   {}\nFamily Desc: {}\n64 bit:      {}\n\n",
            os.id, os.description, os.family_id, os.family_description, os.is64_bit
        )?;
    }
    Ok(())
}

/// `list intnets`.
pub fn internal_networks(cx: &mut Cx<'_>) -> Result {
    for name in cx.vbox()?.internal_networks()? {
        writeln!(cx.out, "Name:        {name}")?;
    }
    Ok(())
}

/// `list groups`.
pub fn groups(cx: &mut Cx<'_>) -> Result {
    for group in cx.vbox()?.machine_groups()? {
        writeln!(cx.out, "\"{group}\"")?;
    }
    Ok(())
}

/// `list natnets`.
pub fn nat_networks(cx: &mut Cx<'_>) -> Result {
    for network in cx.vbox()?.nat_networks()? {
        natnetwork::describe(cx.out, &network)?;
    }
    Ok(())
}

/// `list extpacks`: there is nothing that one would add.
pub fn extension_packs(cx: &mut Cx<'_>) -> Result {
    writeln!(cx.out, "Extension Packs: 0")?;
    Ok(())
}

/// `list screenshotformats`.
pub fn screenshot_formats(cx: &mut Cx<'_>) -> Result {
    let formats = cx.vbox()?.system_properties()?.screen_shot_formats()?;
    writeln!(cx.out, "Supported {} screen shot formats:", formats.len())?;
    for format in formats {
        writeln!(cx.out, "  BitmapFormat_{}", format.name())?;
    }
    Ok(())
}

/// `list cpu-profiles`.
pub fn cpu_profiles(cx: &mut Cx<'_>) -> Result {
    let system = cx.vbox()?.system_properties()?;
    let profiles = known(system.get_cpu_profiles(CPUArchitecture::AMD64, ""))?;
    for profile in profiles.unwrap_or_default() {
        let (name, title) = (profile.name()?, profile.full_name()?);
        writeln!(cx.out, "{name}: {title}")?;
    }
    Ok(())
}

/// `list hddbackends`.
pub fn backends(cx: &mut Cx<'_>) -> Result {
    let formats = cx.vbox()?.system_properties()?.medium_formats()?;
    writeln!(cx.out, "Supported hard disk backends:\n")?;
    for (index, format) in formats.iter().enumerate() {
        let capabilities = format
            .capabilities()?
            .iter()
            .fold(0, |all, c| all | *c as u32);
        let (extensions, types) = format.describe_file_extensions()?;
        let extensions: Vec<String> = extensions
            .iter()
            .zip(types)
            .map(|(extension, kind)| {
                let kind = match kind {
                    DeviceType::DVD => "DVD",
                    DeviceType::Floppy => "Floppy",
                    _ => "HardDisk",
                };
                format!("{extension} ({kind})")
            })
            .collect();
        let (id, name) = (format.id()?, format.name()?);
        writeln!(
            cx.out,
            "Backend {index}: id='{id}' description='{name}' capabilities={capabilities:#06x} extensions='{}' properties=()",
            extensions.join(",")
        )?;
    }
    Ok(())
}

/// `list systemproperties`.
pub fn properties(cx: &mut Cx<'_>) -> Result {
    let vbox = cx.vbox()?;
    let system = vbox.system_properties()?;
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut add = |label: &str, value: Option<String>, unit: &str| {
        if let Some(value) = value {
            lines.push((label.to_owned(), format!("{value}{unit}")));
        }
    };
    let number = |n: api::Result<u32>| known(n).map(|n| n.map(|n| n.to_string()));
    add("API version:", Some(vbox.api_version()?), "");
    add(
        "Minimum guest RAM size:",
        number(system.min_guest_ram())?,
        " Megabytes",
    );
    add(
        "Maximum guest RAM size:",
        number(system.max_guest_ram())?,
        " Megabytes",
    );
    add(
        "Minimum video RAM size:",
        number(system.min_guest_vram())?,
        " Megabytes",
    );
    add(
        "Maximum video RAM size:",
        number(system.max_guest_vram())?,
        " Megabytes",
    );
    add(
        "Maximum guest monitor count:",
        number(system.max_guest_monitors())?,
        "",
    );
    add(
        "Minimum guest CPU count:",
        number(system.min_guest_cpu_count())?,
        "",
    );
    add(
        "Maximum guest CPU count:",
        number(system.max_guest_cpu_count())?,
        "",
    );
    let size = known(system.info_vd_size())?.map(|s| s.to_string());
    add("Virtual disk limit (info):", size, " Bytes");
    add(
        "Maximum Serial Port count:",
        number(system.serial_port_count())?,
        "",
    );
    add(
        "Maximum Parallel Port count:",
        number(system.parallel_port_count())?,
        "",
    );
    add(
        "Maximum Boot Position:",
        number(system.max_boot_position())?,
        "",
    );
    for (name, chipset) in [("PIIX3", ChipsetType::PIIX3), ("ICH9", ChipsetType::ICH9)] {
        let count = number(system.get_max_network_adapters(chipset))?;
        add(&format!("Maximum {name} Network Adapter count:"), count, "");
    }
    for (name, bus) in [
        ("IDE", StorageBus::IDE),
        ("SATA", StorageBus::SATA),
        ("SCSI", StorageBus::SCSI),
        ("SAS", StorageBus::SAS),
        ("NVMe", StorageBus::PCIe),
        ("virtio-scsi", StorageBus::VirtioSCSI),
        ("Floppy", StorageBus::Floppy),
    ] {
        for (chip, chipset) in [("PIIX3", ChipsetType::PIIX3), ("ICH9", ChipsetType::ICH9)] {
            let count = number(system.get_max_instances_of_storage_bus(chipset, bus))?;
            add(&format!("Maximum {chip} {name} Controllers:"), count, "");
        }
        let ports = number(system.get_max_port_count_for_storage_bus(bus))?;
        add(&format!("Maximum {name} Port count:"), ports, "");
        let devices = number(system.get_max_devices_per_port_for_storage_bus(bus))?;
        add(&format!("Maximum Devices per {name} Port:"), devices, "");
    }
    add(
        "Default machine folder:",
        Some(system.default_machine_folder()?),
        "",
    );
    let raw = known(system.raw_mode_supported())?;
    add("Raw-mode Supported:", raw.map(|r| yes_no(r).to_owned()), "");
    let exclusive = known(system.exclusive_hw_virt())?;
    add(
        "Exclusive HW virtualization use:",
        exclusive.map(|e| on_off(e).to_owned()),
        "",
    );
    add(
        "Default hard disk format:",
        known(system.default_hard_disk_format())?,
        "",
    );
    add("VRDE auth library:", known(system.vrde_auth_library())?, "");
    add(
        "Webservice auth. library:",
        known(system.web_service_auth_library())?,
        "",
    );
    add(
        "Remote desktop ExtPack:",
        known(system.default_vrde_ext_pack())?,
        "",
    );
    add(
        "VM encryption ExtPack:",
        known(system.default_crypto_ext_pack())?,
        "",
    );
    add(
        "Log history count:",
        number(system.log_history_count())?,
        "",
    );
    add("Default frontend:", known(system.default_frontend())?, "");
    let driver = known(system.default_audio_driver())?;
    add(
        "Default audio driver:",
        driver.map(|d| word_of(AUDIO_DRIVERS, d).to_owned()),
        "",
    );
    add(
        "Autostart database path:",
        known(system.autostart_database_path())?,
        "",
    );
    add(
        "Default Guest Additions ISO:",
        known(system.default_additions_iso())?,
        "",
    );
    add("Logging Level:", known(system.logging_level())?, "");
    let proxy = known(system.proxy_mode())?;
    add("Proxy Mode:", proxy.map(|p| p.name().to_owned()), "");
    add("Proxy URL:", known(system.proxy_url())?, "");
    add("User language:", known(system.language_id())?, "");
    for (label, value) in lines {
        field(cx.out, WIDTH, &label, value)?;
    }
    Ok(())
}
