//! `VirtualBox.xml`: what belongs to the user and not to one machine.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::enums::*;
use super::hardware::UsbFilter;
use super::network::NatForward;
use super::storage::MediaRegistry;

/// What `VirtualBox.xml` says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Global {
    pub extra_data: BTreeMap<String, String>,
    /// Registered machines in order of registration.
    pub machines: Vec<MachineEntry>,
    /// Media of no machine, and those of machines before 4.0.
    pub media: MediaRegistry,
    pub dhcp_servers: Vec<DhcpServer>,
    pub nat_networks: Vec<NatNetwork>,
    /// 1.19.
    pub host_only_networks: Vec<HostOnlyNetwork>,
    /// 1.18.
    pub cloud_networks: Vec<CloudNetwork>,
    pub usb_filters: Vec<UsbFilter>,
    /// Where USB devices come from beside the host itself (1.16).
    pub usb_sources: Vec<UsbDeviceSource>,
    pub system: SystemProperties,
}

/// A registered machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MachineEntry {
    pub uuid: Uuid,
    /// Path of the settings file as stored; relative ones are below the configuration folder.
    pub src: String,
}

/// A DHCP server of a host-only or internal network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DhcpServer {
    pub network_name: String,
    pub ip: String,
    pub mask: String,
    pub lower_ip: String,
    pub upper_ip: String,
    pub enabled: bool,
    pub options: Vec<DhcpOption>,
}

/// One DHCP option for all clients of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DhcpOption {
    /// Option number (RFC 2132).
    pub name: u32,
    pub value: String,
    /// 0 as VirtualBox writes the option's type, 1 for hex bytes.
    pub encoding: u32,
}

/// A NAT network shared by machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatNetwork {
    pub name: String,
    pub enabled: bool,
    /// IPv4 network in CIDR form.
    pub network: String,
    pub ipv6: bool,
    pub ipv6_prefix: String,
    pub advertise_default_ipv6_route: bool,
    pub need_dhcp: bool,
    /// Last part of the address that reaches the host's IPv6 loopback.
    pub loopback6: u32,
    pub forwards4: Vec<NatForward>,
    pub forwards6: Vec<NatForward>,
    pub loopback4: Vec<Loopback4>,
}

impl Default for NatNetwork {
    fn default() -> Self {
        Self {
            name: String::new(),
            enabled: true,
            network: String::new(),
            ipv6: false,
            ipv6_prefix: String::new(),
            advertise_default_ipv6_route: false,
            need_dhcp: true,
            loopback6: 0,
            forwards4: Vec::new(),
            forwards6: Vec::new(),
            loopback4: Vec::new(),
        }
    }
}

/// A host-only network without an interface of its own (1.19).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostOnlyNetwork {
    pub name: String,
    pub mask: String,
    pub lower_ip: String,
    pub upper_ip: String,
    /// A UUID.
    pub id: String,
    pub enabled: bool,
}

/// A network of a cloud provider that machines can join (1.18).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CloudNetwork {
    pub name: String,
    pub provider: String,
    pub profile: String,
    pub id: String,
    pub enabled: bool,
}

/// A source of USB devices, such as a USB/IP server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsbDeviceSource {
    pub id: String,
    pub backend: String,
    pub address: String,
    pub properties: BTreeMap<String, String>,
}

/// A host loopback address shown in a NAT network at an offset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loopback4 {
    pub address: String,
    pub offset: u32,
}

/// The product's settings (`VBoxManage setproperty`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemProperties {
    /// Where new machines go; empty for `~/VirtualBox VMs`.
    pub default_machine_folder: String,
    /// Before 4.0 only.
    pub default_hard_disk_folder: String,
    pub default_hard_disk_format: String,
    pub vrde_auth_library: String,
    pub web_service_auth_library: String,
    pub default_vrde_ext_pack: String,
    /// Old log files kept per machine.
    pub log_history_count: u32,
    pub proxy_mode: ProxyMode,
    pub proxy_url: String,
    pub exclusive_hw_virt: bool,
    pub autostart_database_path: String,
    pub default_frontend: String,
    pub logging_level: String,
    pub language_id: String,
}

impl Default for SystemProperties {
    fn default() -> Self {
        Self {
            default_machine_folder: String::new(),
            default_hard_disk_folder: String::new(),
            default_hard_disk_format: "VDI".to_owned(),
            vrde_auth_library: "VBoxAuth".to_owned(),
            web_service_auth_library: "VBoxAuth".to_owned(),
            default_vrde_ext_pack: String::new(),
            log_history_count: 3,
            proxy_mode: ProxyMode::System,
            proxy_url: String::new(),
            exclusive_hw_virt: true,
            autostart_database_path: String::new(),
            default_frontend: String::new(),
            logging_level: String::new(),
            language_id: String::new(),
        }
    }
}
