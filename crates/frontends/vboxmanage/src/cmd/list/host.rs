//! What the host has.

use crate::cx::Cx;
use crate::error::{Result, known};
use crate::out::{field, yes_no};
use crate::time;
use api::types::*;
use std::io::Write;

/// `list hostdvds` and `hostfloppies`.
pub fn drives(cx: &mut Cx<'_>, dvd: bool) -> Result {
    let host = cx.vbox()?.host()?;
    let drives = if dvd {
        host.dvd_drives()
    } else {
        host.floppy_drives()
    };
    for drive in known(drives)?.unwrap_or_default() {
        let (id, name) = (drive.id()?, drive.location()?);
        write!(cx.out, "UUID:         {id}\nName:         {name}\n\n")?;
    }
    Ok(())
}

/// A network interface of the host.
#[derive(Debug, Default)]
struct Interface {
    name: String,
    id: String,
    dhcp: bool,
    ip: String,
    mask: String,
    ipv6: String,
    ipv6_prefix: u32,
    mac: String,
    medium: &'static str,
    wireless: bool,
    status: &'static str,
    network: String,
}

/// `list bridgedifs` and `hostonlyifs`.
pub fn interfaces(cx: &mut Cx<'_>, bridged: bool) -> Result {
    let kind = if bridged {
        HostNetworkInterfaceType::Bridged
    } else {
        HostNetworkInterfaceType::HostOnly
    };
    let found = cx
        .vbox()?
        .host()?
        .find_host_network_interfaces_of_type(kind);
    for i in known(found)?.unwrap_or_default() {
        let medium = match i.medium_type()? {
            HostNetworkInterfaceMediumType::Ethernet => "Ethernet",
            HostNetworkInterfaceMediumType::PPP => "PPP",
            HostNetworkInterfaceMediumType::SLIP => "SLIP",
            HostNetworkInterfaceMediumType::Unknown => "Unknown",
        };
        let status = match i.status()? {
            HostNetworkInterfaceStatus::Up => "Up",
            HostNetworkInterfaceStatus::Down => "Down",
            HostNetworkInterfaceStatus::Unknown => "Unknown",
        };
        let interface = Interface {
            name: i.name()?,
            id: i.id()?,
            dhcp: i.dhcp_enabled()?,
            ip: i.ip_address()?,
            mask: i.network_mask()?,
            ipv6: i.ipv6_address()?,
            ipv6_prefix: i.ipv6_network_mask_prefix_length()?,
            mac: i.hardware_address()?,
            medium,
            wireless: known(i.wireless())?.unwrap_or(false),
            status,
            network: i.network_name()?,
        };
        print_interface(cx.out, &interface)?;
    }
    Ok(())
}

fn print_interface(out: &mut dyn Write, i: &Interface) -> Result {
    let dhcp = if i.dhcp { "Enabled" } else { "Disabled" };
    let wireless = if i.wireless { "Yes" } else { "No" };
    for (label, value) in [
        ("Name:", i.name.as_str()),
        ("GUID:", &i.id),
        ("DHCP:", dhcp),
        ("IPAddress:", &i.ip),
        ("NetworkMask:", &i.mask),
        ("IPV6Address:", &i.ipv6),
        ("IPV6NetworkMaskPrefixLength:", &i.ipv6_prefix.to_string()),
        ("HardwareAddress:", &i.mac),
        ("MediumType:", i.medium),
        ("Wireless:", wireless),
        ("Status:", i.status),
        ("VBoxNetworkName:", &i.network),
    ] {
        field(out, 17, label, value)?;
    }
    writeln!(out)?;
    Ok(())
}

/// `list hostinfo`.
pub fn info(cx: &mut Cx<'_>) -> Result {
    let host = cx.vbox()?.host()?;
    let now = known(host.utc_time())?;
    writeln!(cx.out, "Host Information:\n")?;
    if let Some(now) = now {
        writeln!(cx.out, "Host time: {}", time::iso(now))?;
    }
    let counts = [
        (
            "Processor online count",
            known(host.processor_online_count())?,
        ),
        ("Processor count", known(host.processor_count())?),
        (
            "Processor online core count",
            known(host.processor_online_core_count())?,
        ),
        ("Processor core count", known(host.processor_core_count())?),
    ];
    for (label, count) in counts {
        if let Some(count) = count {
            writeln!(cx.out, "{label}: {count}")?;
        }
    }
    use ProcessorFeature as F;
    for (label, feature) in [
        ("HW virtualization", F::HWVirtEx),
        ("PAE", F::PAE),
        ("long mode", F::LongMode),
        ("nested paging", F::NestedPaging),
        ("unrestricted guest", F::UnrestrictedGuest),
        ("nested HW virtualization", F::NestedHWVirt),
        ("virt. vmsave/vmload", F::VirtVmsaveVmload),
    ] {
        if let Some(has) = known(host.get_processor_feature(feature))? {
            writeln!(cx.out, "Processor supports {label}: {}", yes_no(has))?;
        }
    }
    for cpu in 0..known(host.processor_count())?.unwrap_or(0).min(1024) {
        match known(host.get_processor_speed(cpu))? {
            Some(0) | None => writeln!(cx.out, "Processor#{cpu} speed: unknown")?,
            Some(speed) => writeln!(cx.out, "Processor#{cpu} speed: {speed} MHz")?,
        }
        if let Some(text) = known(host.get_processor_description(cpu))? {
            writeln!(cx.out, "Processor#{cpu} description: {text}")?;
        }
    }
    for (label, size) in [
        ("Memory size", known(host.memory_size())?),
        ("Memory available", known(host.memory_available())?),
    ] {
        if let Some(size) = size {
            writeln!(cx.out, "{label}: {size} MByte")?;
        }
    }
    for (label, text) in [
        ("Operating system", known(host.operating_system())?),
        ("Operating system version", known(host.os_version())?),
    ] {
        if let Some(text) = text {
            writeln!(cx.out, "{label}: {text}")?;
        }
    }
    Ok(())
}

/// `list hostcpuids`.
pub fn cpuids(cx: &mut Cx<'_>) -> Result {
    let host = cx.vbox()?.host()?;
    writeln!(
        cx.out,
        "Host CPUIDs:\n\nLeaf no.  EAX      EBX      ECX      EDX"
    )?;
    for first in [0_u32, 0x8000_0000, 0xc000_0000] {
        let (last, ..) = host.get_processor_cpuid_leaf(0, first, 0)?;
        // A range that does not exist answers with something else.
        if last < first || last > first + 0x100 {
            continue;
        }
        for leaf in first..=last {
            let (eax, ebx, ecx, edx) = host.get_processor_cpuid_leaf(0, leaf, 0)?;
            writeln!(
                cx.out,
                "{leaf:08x}  {eax:08x} {ebx:08x} {ecx:08x} {edx:08x}"
            )?;
        }
    }
    Ok(())
}

/// `list usbhost`.
pub fn usb_devices(cx: &mut Cx<'_>) -> Result {
    let devices = known(cx.vbox()?.host()?.usb_devices())?.unwrap_or_default();
    none_of(cx, "Host USB Devices:", devices.len())
}

/// `list webcams`.
pub fn webcams(cx: &mut Cx<'_>) -> Result {
    let devices = known(cx.vbox()?.host()?.video_input_devices())?.unwrap_or_default();
    writeln!(cx.out, "Video Input Devices: {}", devices.len())?;
    Ok(())
}

/// A list whose entries this version cannot describe is empty as long as the service has none.
fn none_of(cx: &mut Cx<'_>, title: &str, count: usize) -> Result {
    writeln!(cx.out, "{title}\n")?;
    match count {
        0 => writeln!(cx.out, "<none>\n")?,
        count => writeln!(cx.out, "{count} that this version cannot describe\n")?,
    }
    Ok(())
}

/// `list hostdrives`.
pub fn host_drives(cx: &mut Cx<'_>) -> Result {
    let drives = known(cx.vbox()?.host()?.host_drives())?.unwrap_or_default();
    for drive in drives {
        field(cx.out, 17, "Drive:", drive.drive_path()?)?;
        let size = drive.size()?;
        field(cx.out, 17, "Size:", format_args!("{size} bytes"))?;
        field(
            cx.out,
            17,
            "Sector Size:",
            format_args!("{} bytes", drive.sector_size()?),
        )?;
        field(cx.out, 17, "Model:", drive.model()?)?;
        writeln!(cx.out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_as_vagrant_and_docker_machine_read_it() {
        let interface = Interface {
            name: "vboxnet0".into(),
            id: "786f6276-656e-4074-8000-0a0027000000".into(),
            ip: "192.168.56.1".into(),
            mask: "255.255.255.0".into(),
            ipv6: "fe80::800:27ff:fe00:0".into(),
            ipv6_prefix: 64,
            mac: "0a:00:27:00:00:00".into(),
            medium: "Ethernet",
            status: "Up",
            network: "HostInterfaceNetworking-vboxnet0".into(),
            ..Interface::default()
        };
        let mut out = Vec::new();
        print_interface(&mut out, &interface).expect("memory");
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            "Name:            vboxnet0\n\
             GUID:            786f6276-656e-4074-8000-0a0027000000\n\
             DHCP:            Disabled\n\
             IPAddress:       192.168.56.1\n\
             NetworkMask:     255.255.255.0\n\
             IPV6Address:     fe80::800:27ff:fe00:0\n\
             IPV6NetworkMaskPrefixLength: 64\n\
             HardwareAddress: 0a:00:27:00:00:00\n\
             MediumType:      Ethernet\n\
             Wireless:        No\n\
             Status:          Up\n\
             VBoxNetworkName: HostInterfaceNetworking-vboxnet0\n\n"
        );
    }
}
