//! `Global`.

use super::hardware::filter;
use super::network::forward;
use super::storage::media_registry;
use super::{Done, Xml};
use crate::model::*;
use crate::version::Version;

pub(super) fn global(x: &mut Xml<'_>, g: &mut Global) -> Done {
    x.always("ExtraData", |x| x.map("ExtraDataItem", &mut g.extra_data))?;
    x.always("MachineRegistry", |x| {
        x.list("MachineEntry", &mut g.machines, |x, m| {
            x.required("uuid", &mut m.uuid)?;
            x.required("src", &mut m.src)
        })
    })?;
    x.child("MediaRegistry", |x| {
        if x.reading() || !g.media.is_empty() {
            return media_registry(x, &mut g.media);
        }
        Ok(())
    })?;
    x.always("NetserviceRegistry", |x| {
        x.always("DHCPServers", |x| {
            x.list("DHCPServer", &mut g.dhcp_servers, dhcp_server)
        })?;
        x.since(Version::V1_14).child("NATNetworks", |x| {
            x.list("NATNetwork", &mut g.nat_networks, nat_network)
        })?;
        x.since(Version::V1_19).child("HostOnlyNetworks", |x| {
            x.list("HostOnlyNetwork", &mut g.host_only_networks, |x, n| {
                x.explicit("name", &mut n.name, String::new())?;
                x.rare("networkMask", &mut n.mask, String::new())?;
                x.rare("lowerIP", &mut n.lower_ip, String::new())?;
                x.rare("upperIP", &mut n.upper_ip, String::new())?;
                x.rare("id", &mut n.id, String::new())?;
                x.explicit("enabled", &mut n.enabled, true)
            })
        })?;
        x.since(Version::V1_18).child("CloudNetworks", |x| {
            x.list("CloudNetwork", &mut g.cloud_networks, |x, n| {
                x.explicit("name", &mut n.name, String::new())?;
                x.rare("providerShortName", &mut n.provider, String::new())?;
                x.rare("profileName", &mut n.profile, String::new())?;
                x.rare("id", &mut n.id, String::new())?;
                x.explicit("enabled", &mut n.enabled, true)
            })
        })
    })?;
    x.always("USBDeviceFilters", |x| {
        x.list("DeviceFilter", &mut g.usb_filters, |x, f| {
            filter(x, f)?;
            x.explicit("action", &mut f.action, UsbFilterAction::Ignore)
        })
    })?;
    x.always("SystemProperties", |x| system(x, &mut g.system))?;
    x.since(Version::V1_16).child("USBDeviceSources", |x| {
        x.list("USBDeviceSource", &mut g.usb_sources, |x, s| {
            x.explicit("id", &mut s.id, String::new())?;
            x.explicit("backend", &mut s.backend, String::new())?;
            x.explicit("address", &mut s.address, String::new())?;
            x.map("Property", &mut s.properties)
        })
    })
}

fn dhcp_server(x: &mut Xml<'_>, d: &mut DhcpServer) -> Done {
    x.required("networkName", &mut d.network_name)?;
    x.explicit("IPAddress", &mut d.ip, String::new())?;
    x.explicit("networkMask", &mut d.mask, String::new())?;
    x.explicit("lowerIP", &mut d.lower_ip, String::new())?;
    x.explicit("upperIP", &mut d.upper_ip, String::new())?;
    x.bit("enabled", &mut d.enabled)?;
    x.child("Options", |x| {
        x.list("Option", &mut d.options, |x, o| {
            x.required("name", &mut o.name)?;
            x.explicit("value", &mut o.value, String::new())?;
            x.rare("encoding", &mut o.encoding, 0)
        })
    })
}

fn nat_network(x: &mut Xml<'_>, n: &mut NatNetwork) -> Done {
    x.required("networkName", &mut n.name)?;
    x.explicit("enabled", &mut n.enabled, true)?;
    x.explicit("network", &mut n.network, String::new())?;
    x.explicit("ipv6", &mut n.ipv6, false)?;
    x.explicit("ipv6prefix", &mut n.ipv6_prefix, String::new())?;
    x.explicit(
        "advertiseDefaultIPv6Route",
        &mut n.advertise_default_ipv6_route,
        false,
    )?;
    x.explicit("needDhcp", &mut n.need_dhcp, true)?;
    x.rare("loopback6", &mut n.loopback6, 0)?;
    x.child("Mappings", |x| {
        x.list("Loopback4", &mut n.loopback4, |x, l| {
            x.required("address", &mut l.address)?;
            x.required("offset", &mut l.offset)
        })
    })?;
    x.child("PortForwarding4", |x| {
        x.list("Forwarding", &mut n.forwards4, forward)
    })?;
    x.child("PortForwarding6", |x| {
        x.list("Forwarding", &mut n.forwards6, forward)
    })
}

fn system(x: &mut Xml<'_>, s: &mut SystemProperties) -> Done {
    let none = String::new;
    x.rare(
        "defaultMachineFolder",
        &mut s.default_machine_folder,
        none(),
    )?;
    x.rare(
        "defaultHardDiskFolder",
        &mut s.default_hard_disk_folder,
        none(),
    )?;
    x.explicit(
        "defaultHardDiskFormat",
        &mut s.default_hard_disk_format,
        "VDI".to_owned(),
    )?;
    x.explicit(
        "VRDEAuthLibrary",
        &mut s.vrde_auth_library,
        "VBoxAuth".to_owned(),
    )?;
    x.explicit(
        "webServiceAuthLibrary",
        &mut s.web_service_auth_library,
        "VBoxAuth".to_owned(),
    )?;
    x.rare("defaultVRDEExtPack", &mut s.default_vrde_ext_pack, none())?;
    x.explicit("LogHistoryCount", &mut s.log_history_count, 3)?;
    x.rare("proxyMode", &mut s.proxy_mode, ProxyMode::System)?;
    x.rare("proxyUrl", &mut s.proxy_url, none())?;
    x.explicit("exclusiveHwVirt", &mut s.exclusive_hw_virt, true)?;
    x.rare(
        "autostartDatabasePath",
        &mut s.autostart_database_path,
        none(),
    )?;
    x.rare("defaultFrontend", &mut s.default_frontend, none())?;
    x.rare("LoggingLevel", &mut s.logging_level, none())?;
    x.rare("LanguageId", &mut s.language_id, none())
}
