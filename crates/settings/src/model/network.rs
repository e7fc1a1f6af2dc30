//! Network cards and what they are plugged into.

use std::collections::BTreeMap;

use super::enums::*;

/// A network card.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkAdapter {
    /// 0 to 7 (35 with the ICH9 chipset).
    pub slot: u32,
    pub enabled: bool,
    pub kind: NetworkAdapterType,
    /// 12 upper-case hex digits; empty in a card that never was on.
    pub mac: String,
    pub cable: bool,
    /// Reported speed in kbit/s, 0 for the model's own.
    pub speed: u32,
    /// 0 for none, 1 is the highest.
    pub boot_priority: u32,
    pub trace: bool,
    pub trace_file: String,
    pub bandwidth_group: String,
    pub promiscuous: PromiscuousPolicy,
    /// What it is attached to.
    pub mode: NetworkMode,
    /// Remembered settings of the attachments that are not in use (`DisabledModes`).
    pub nat: Nat,
    pub bridged: String,
    pub internal: String,
    pub host_only: String,
    pub generic: GenericDriver,
    pub nat_network: String,
    pub host_only_network: String,
    pub cloud_network: String,
}

impl NetworkAdapter {
    /// A card that is off.
    pub fn new(slot: u32) -> Self {
        Self {
            slot,
            enabled: false,
            kind: NetworkAdapterType::Am79C973,
            mac: String::new(),
            cable: true,
            speed: 0,
            boot_priority: 0,
            trace: false,
            trace_file: String::new(),
            bandwidth_group: String::new(),
            promiscuous: PromiscuousPolicy::Deny,
            mode: NetworkMode::Null,
            nat: Nat::default(),
            bridged: String::new(),
            internal: String::new(),
            host_only: String::new(),
            generic: GenericDriver::default(),
            nat_network: String::new(),
            host_only_network: String::new(),
            cloud_network: String::new(),
        }
    }
}

impl Default for NetworkAdapter {
    fn default() -> Self {
        Self::new(0)
    }
}

/// What a card is attached to. The details of each mode are kept beside it in the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum NetworkMode {
    #[default]
    Null,
    Nat,
    Bridged,
    Internal,
    HostOnly,
    Generic,
    NatNetwork,
    /// 1.19.
    HostOnlyNetwork,
    /// 1.18.
    Cloud,
}

/// The built-in NAT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat {
    /// Guest network in CIDR form; empty for 10.0.x.0/24.
    pub network: String,
    /// Host address that outgoing connections are bound to.
    pub host_ip: String,
    pub mtu: u32,
    /// Socket buffers and initial TCP windows in KiB, 0 for the default.
    pub sock_send: u32,
    pub sock_recv: u32,
    pub tcp_send: u32,
    pub tcp_recv: u32,
    /// Whether the guest reaches services on the host's loopback (1.19).
    pub localhost_reachable: bool,
    pub dns: NatDns,
    pub alias: NatAlias,
    pub tftp: NatTftp,
    /// Port forwarding, by name.
    pub forwards: Vec<NatForward>,
}

impl Default for Nat {
    fn default() -> Self {
        Self {
            network: String::new(),
            host_ip: String::new(),
            mtu: 0,
            sock_send: 0,
            sock_recv: 0,
            tcp_send: 0,
            tcp_recv: 0,
            // As every version before 1.19 behaves: off needs 1.19.
            localhost_reachable: true,
            dns: NatDns::default(),
            alias: NatAlias::default(),
            tftp: NatTftp::default(),
            forwards: Vec::new(),
        }
    }
}

/// Name resolution of the NAT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatDns {
    pub pass_domain: bool,
    pub use_proxy: bool,
    pub use_host_resolver: bool,
}

impl Default for NatDns {
    fn default() -> Self {
        Self {
            pass_domain: true,
            use_proxy: false,
            use_host_resolver: false,
        }
    }
}

/// Aliasing switches of the NAT.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NatAlias {
    pub logging: bool,
    pub proxy_only: bool,
    pub use_same_ports: bool,
}

/// Boot server of the NAT.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NatTftp {
    pub prefix: String,
    pub boot_file: String,
    pub next_server: String,
}

/// One forwarded port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NatForward {
    pub name: String,
    pub proto: NatProtocol,
    pub host_ip: String,
    pub host_port: u16,
    pub guest_ip: String,
    pub guest_port: u16,
}

/// Protocol of a forwarded port, `0` and `1` in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum NatProtocol {
    #[default]
    Udp,
    Tcp,
}

/// Attachment through a named driver outside the product.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GenericDriver {
    pub driver: String,
    pub properties: BTreeMap<String, String>,
}
