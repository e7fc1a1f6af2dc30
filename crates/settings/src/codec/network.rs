//! Network cards and their attachments.

use super::{Done, Xml};
use crate::model::*;
use crate::value::Value;
use crate::version::Version;

/// Attachments by their element; which one is under the card itself is the one in use.
const MODES: &[(&str, NetworkMode)] = &[
    ("NAT", NetworkMode::Nat),
    ("BridgedInterface", NetworkMode::Bridged),
    ("InternalNetwork", NetworkMode::Internal),
    ("HostOnlyInterface", NetworkMode::HostOnly),
    ("GenericInterface", NetworkMode::Generic),
    ("NATNetwork", NetworkMode::NatNetwork),
    ("HostOnlyNetwork", NetworkMode::HostOnlyNetwork),
    ("CloudNetwork", NetworkMode::Cloud),
];

pub(super) fn adapter(x: &mut Xml<'_>, a: &mut NetworkAdapter) -> Done {
    x.required("slot", &mut a.slot)?;
    x.range("slot", a.slot, 0..=35)?;
    x.attr("enabled", &mut a.enabled, false)?;
    x.rare("MACAddress", &mut a.mac, String::new())?;
    check_mac(x, &a.mac)?;
    let plugged = x.version().cables_are_plugged();
    x.attr("cable", &mut a.cable, plugged)?;
    x.attr("speed", &mut a.speed, 0)?;
    x.since(Version::V1_10)
        .rare("bootPriority", &mut a.boot_priority, 0)?;
    x.rare("trace", &mut a.trace, false)?;
    x.rare("tracefile", &mut a.trace_file, String::new())?;
    // What a file means that does not name the model is PCnet FAST III.
    x.explicit("type", &mut a.kind, NetworkAdapterType::Am79C973)?;
    x.since(Version::V1_12)
        .rare("bandwidthGroup", &mut a.bandwidth_group, String::new())?;
    let deny = PromiscuousPolicy::Deny;
    x.since(Version::V1_12)
        .rare("promiscuousModePolicy", &mut a.promiscuous, deny)?;

    if x.reading() {
        let used = MODES.iter().find(|(name, _)| x.has(name));
        a.mode = used.map_or(NetworkMode::Null, |(_, mode)| *mode);
    }
    let used = a.mode;
    let before = a.clone();
    x.since(Version::V1_10).container("DisabledModes", |x| {
        for (name, mode) in MODES.iter().filter(|(_, mode)| *mode != used) {
            since(x, *mode).child(name, |x| details(x, *mode, a))?;
        }
        Ok(())
    })?;
    for (name, mode) in MODES.iter().filter(|(_, mode)| *mode == used) {
        if let Some(version) = mode_since(*mode) {
            x.need_if(true, version);
        }
        x.always(name, |x| details(x, *mode, a))?;
    }
    debug_assert!(x.reading() || before == *a, "writing changes nothing");
    Ok(())
}

fn check_mac(x: &Xml<'_>, mac: &str) -> Done {
    let valid = mac.len() == 12 && mac.bytes().all(|b| b.is_ascii_hexdigit());
    if x.reading() && !mac.is_empty() && !valid {
        return Err(x.fault("MACAddress", "must be 12 hexadecimal digits"));
    }
    Ok(())
}

fn mode_since(mode: NetworkMode) -> Option<Version> {
    match mode {
        NetworkMode::Generic => Some(Version::V1_12),
        NetworkMode::NatNetwork => Some(Version::V1_14),
        NetworkMode::Cloud => Some(Version::V1_18),
        NetworkMode::HostOnlyNetwork => Some(Version::V1_19),
        _ => None,
    }
}

fn since<'x, 'a>(x: &'x mut Xml<'a>, mode: NetworkMode) -> &'x mut Xml<'a> {
    match mode_since(mode) {
        Some(version) => x.since(version),
        None => x,
    }
}

/// What is inside the element of an attachment.
fn details(x: &mut Xml<'_>, mode: NetworkMode, a: &mut NetworkAdapter) -> Done {
    let none = String::new();
    match mode {
        NetworkMode::Null => Ok(()),
        NetworkMode::Nat => nat(x, &mut a.nat),
        NetworkMode::Bridged => x.rare("name", &mut a.bridged, none),
        NetworkMode::Internal => x.rare("name", &mut a.internal, none),
        NetworkMode::HostOnly => x.rare("name", &mut a.host_only, none),
        NetworkMode::NatNetwork => x.rare("name", &mut a.nat_network, none),
        NetworkMode::HostOnlyNetwork => x.rare("name", &mut a.host_only_network, none),
        NetworkMode::Cloud => x.rare("name", &mut a.cloud_network, none),
        NetworkMode::Generic => {
            x.rare("driver", &mut a.generic.driver, none)?;
            x.map("Property", &mut a.generic.properties)
        }
    }
}

fn nat(x: &mut Xml<'_>, n: &mut Nat) -> Done {
    x.rare("network", &mut n.network, String::new())?;
    let details = Version::V1_10;
    x.since(details)
        .rare("hostip", &mut n.host_ip, String::new())?;
    x.since(details).rare("mtu", &mut n.mtu, 0)?;
    x.since(details).rare("sockrcv", &mut n.sock_recv, 0)?;
    x.since(details).rare("socksnd", &mut n.sock_send, 0)?;
    x.since(details).rare("tcprcv", &mut n.tcp_recv, 0)?;
    x.since(details).rare("tcpsnd", &mut n.tcp_send, 0)?;
    let absent = x.version().nat_reaches_localhost();
    x.since(Version::V1_19)
        .rare("localhost-reachable", &mut n.localhost_reachable, absent)?;
    x.since(details).child("DNS", |x| {
        x.rare("pass-domain", &mut n.dns.pass_domain, true)?;
        x.rare("use-proxy", &mut n.dns.use_proxy, false)?;
        x.rare("use-host-resolver", &mut n.dns.use_host_resolver, false)
    })?;
    x.since(details).child("Alias", |x| {
        x.rare("logging", &mut n.alias.logging, false)?;
        x.rare("proxy-only", &mut n.alias.proxy_only, false)?;
        x.rare("use-same-ports", &mut n.alias.use_same_ports, false)
    })?;
    x.since(details).child("TFTP", |x| {
        x.rare("prefix", &mut n.tftp.prefix, String::new())?;
        x.rare("boot-file", &mut n.tftp.boot_file, String::new())?;
        x.rare("next-server", &mut n.tftp.next_server, String::new())
    })?;
    x.since(details)
        .list("Forwarding", &mut n.forwards, forward)
}

pub(super) fn forward(x: &mut Xml<'_>, f: &mut NatForward) -> Done {
    x.rare("name", &mut f.name, String::new())?;
    x.explicit("proto", &mut f.proto, NatProtocol::Udp)?;
    x.rare("hostip", &mut f.host_ip, String::new())?;
    x.rare("hostport", &mut f.host_port, 0)?;
    x.rare("guestip", &mut f.guest_ip, String::new())?;
    x.rare("guestport", &mut f.guest_port, 0)
}

impl Value for NatProtocol {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "0" => Ok(Self::Udp),
            "1" => Ok(Self::Tcp),
            _ => Err("must be 0 (UDP) or 1 (TCP)".to_owned()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Udp => "0",
            Self::Tcp => "1",
        }
        .to_owned()
    }
}
