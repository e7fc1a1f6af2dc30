//! Settings of the network adapters.

use super::{Change, Setting, call};
use crate::args::{Args, Given, numbered};
use crate::error::{During, Failure, Result};
use crate::names::*;
use api::client::{Machine, NATEngine, NetworkAdapter};
use api::types::*;

/// Adapters of the ICH9 chipset; the service knows what the machine's own has.
const MAX_ADAPTERS: u32 = 36;

/// What one call changes at an adapter.
fn adapter(
    given: &Given,
    f: impl FnOnce(&NetworkAdapter) -> api::Result<()> + 'static,
) -> Result<Change> {
    let slot = given.slot(MAX_ADAPTERS)?;
    call(given, move |m| f(&m.get_network_adapter(slot)?))
}

fn adapter_switch(
    given: &Given,
    f: fn(&NetworkAdapter, bool) -> api::Result<()>,
) -> Result<Change> {
    let on = given.on()?;
    adapter(given, move |a| f(a, on))
}

fn adapter_text(
    given: &Given,
    empty: &str,
    f: fn(&NetworkAdapter, &str) -> api::Result<()>,
) -> Result<Change> {
    let value = if !empty.is_empty() && given.value == empty {
        String::new()
    } else {
        given.value.clone()
    };
    adapter(given, move |a| f(a, &value))
}

fn nat_switch(given: &Given, f: fn(&NATEngine, bool) -> api::Result<()>) -> Result<Change> {
    let on = given.on()?;
    adapter(given, move |a| f(&a.nat_engine()?, on))
}

fn nat_text(given: &Given, f: fn(&NATEngine, &str) -> api::Result<()>) -> Result<Change> {
    let value = given.value.clone();
    adapter(given, move |a| f(&a.nat_engine()?, &value))
}

/// An option of the adapters.
macro_rules! nic {
    ($names:expr, $values:literal, $how:ident($($arg:expr),*) $set:expr) => {
        Setting {
            opt: numbered($names),
            values: $values,
            read: |g, _| $how(&g, $($arg,)* $set),
        }
    };
}

pub const SETTINGS: &[Setting] = &[
    Setting {
        opt: numbered(&["--nic"]),
        values: "none | null | nat | bridged | intnet | hostonly | hostonlynet | generic | natnetwork",
        read: |g, _| {
            let mode = attachment(&g)?;
            adapter(&g, move |a| attach(a, mode))
        },
    },
    Setting {
        opt: numbered(&["--nic-type", "--nictype"]),
        values: "Am79C970A | Am79C973 | 82540EM | 82543GC | 82545EM | virtio",
        read: |g, _| {
            let kind = g.one_of(ADAPTERS)?;
            adapter(&g, move |a| a.set_adapter_type(kind))
        },
    },
    nic!(&["--cable-connected", "--cableconnected"], "on | off",
        adapter_switch() NetworkAdapter::set_cable_connected),
    nic!(&["--nic-trace", "--nictrace"], "on | off", adapter_switch() NetworkAdapter::set_trace_enabled),
    nic!(&["--nic-trace-file", "--nictracefile"], "file", adapter_text("") NetworkAdapter::set_trace_file),
    Setting {
        opt: numbered(&["--nic-property", "--nicproperty"]),
        values: "name=[value]",
        read: |g, _| {
            let (name, value) = g.value.split_once('=').ok_or_else(|| g.invalid())?;
            let (name, value) = (name.to_owned(), value.to_owned());
            adapter(&g, move |a| a.set_property(&name, &value))
        },
    },
    Setting {
        opt: numbered(&["--nic-speed", "--nicspeed"]),
        values: "kbps",
        read: |g, _| {
            let speed = g.integer()?;
            adapter(&g, move |a| a.set_line_speed(speed))
        },
    },
    Setting {
        opt: numbered(&["--nic-boot-prio", "--nicbootprio"]),
        values: "0-4",
        read: |g, _| {
            let priority = g.within(0, 4)?;
            adapter(&g, move |a| a.set_boot_priority(priority))
        },
    },
    Setting {
        opt: numbered(&["--nic-promisc", "--nicpromisc"]),
        values: "deny | allow-vms | allow-all",
        read: |g, _| {
            let policy = g.one_of(PROMISCUOUS)?;
            adapter(&g, move |a| a.set_promisc_mode_policy(policy))
        },
    },
    Setting {
        opt: numbered(&["--nic-bandwidth-group", "--nicbandwidthgroup"]),
        values: "none | name",
        read: |g, _| {
            let (slot, name) = (g.slot(MAX_ADAPTERS)?, g.value.clone());
            call(&g, move |m| {
                let adapter = m.get_network_adapter(slot)?;
                if name == "none" {
                    return adapter.set_bandwidth_group(None);
                }
                let group = m.bandwidth_control()?.get_bandwidth_group(&name)?;
                adapter.set_bandwidth_group(Some(&group))
            })
        },
    },
    nic!(&["--bridge-adapter", "--bridgeadapter"], "none | device",
        adapter_text("none") NetworkAdapter::set_bridged_interface),
    nic!(&["--host-only-adapter", "--hostonlyadapter"], "none | device",
        adapter_text("none") NetworkAdapter::set_host_only_interface),
    nic!(&["--host-only-net"], "network", adapter_text("") NetworkAdapter::set_host_only_network),
    nic!(&["--intnet"], "network", adapter_text("none") NetworkAdapter::set_internal_network),
    nic!(&["--nat-network", "--natnetwork"], "network", adapter_text("none") NetworkAdapter::set_nat_network),
    nic!(&["--nic-generic-drv", "--nicgenericdrv"], "driver",
        adapter_text("") NetworkAdapter::set_generic_driver),
    nic!(&["--mac-address", "--macaddress"], "auto | MAC",
        adapter_text("auto") NetworkAdapter::set_mac_address),
    Setting {
        opt: numbered(&["--nat-net", "--natnet"]),
        values: "network | default",
        read: |g, _| {
            let network = match g.value.as_str() {
                "default" => String::new(),
                network => network.to_owned(),
            };
            adapter(&g, move |a| a.nat_engine()?.set_network(&network))
        },
    },
    Setting {
        opt: numbered(&["--nat-pf", "--natpf"]),
        values: "[name],tcp | udp,[hostip],hostport,[guestip],guestport",
        read: forward,
    },
    Setting {
        opt: numbered(&["--nat-settings", "--natsettings"]),
        values: "[mtu],[socksnd],[sockrcv],[tcpsnd],[tcprcv]",
        read: nat_settings,
    },
    nic!(&["--nat-tftp-prefix", "--nattftpprefix"], "prefix", nat_text() NATEngine::set_tftp_prefix),
    nic!(&["--nat-tftp-file", "--nattftpfile"], "file", nat_text() NATEngine::set_tftp_boot_file),
    nic!(&["--nat-tftp-server", "--nattftpserver"], "IP", nat_text() NATEngine::set_tftp_next_server),
    nic!(&["--nat-bind-ip", "--natbindip"], "IP", nat_text() NATEngine::set_host_ip),
    nic!(&["--nat-dns-pass-domain", "--natdnspassdomain"], "on | off",
        nat_switch() NATEngine::set_dns_pass_domain),
    nic!(&["--nat-dns-proxy", "--natdnsproxy"], "on | off", nat_switch() NATEngine::set_dns_proxy),
    nic!(&["--nat-dns-host-resolver", "--natdnshostresolver"], "on | off",
        nat_switch() NATEngine::set_dns_use_host_resolver),
    nic!(&["--nat-localhostreachable", "--nat-localhost-reachable"], "on | off",
        nat_switch() NATEngine::set_localhost_reachable),
    Setting {
        opt: numbered(&["--nat-alias-mode", "--nataliasmode"]),
        values: "default | [log],[proxyonly],[sameports]",
        read: |g, _| {
            let mode = alias_mode(&g.value).ok_or_else(|| g.invalid())?;
            adapter(&g, move |a| a.nat_engine()?.set_alias_mode(mode))
        },
    },
];

/// `None` stands for no card at all.
fn attachment(given: &Given) -> Result<Option<NetworkAttachmentType>> {
    if given.value.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    given.one_of(ATTACHMENTS).map(Some)
}

fn attach(adapter: &NetworkAdapter, mode: Option<NetworkAttachmentType>) -> api::Result<()> {
    match mode {
        None => adapter.set_enabled(false),
        Some(mode) => {
            adapter.set_enabled(true)?;
            adapter.set_attachment_type(mode)
        }
    }
}

/// A rule of `--natpfN` and `controlvm natpfN`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Forward {
    name: String,
    protocol: NATProtocol,
    host_ip: String,
    host_port: u16,
    guest_ip: String,
    guest_port: u16,
}

/// `[name],tcp|udp,[hostip],hostport,[guestip],guestport`.
fn port_forward(rule: &str) -> Option<Forward> {
    let [name, protocol, host_ip, host_port, guest_ip, guest_port] =
        <[&str; 6]>::try_from(rule.split(',').map(str::trim).collect::<Vec<_>>()).ok()?;
    let protocol = match protocol {
        _ if protocol.eq_ignore_ascii_case("tcp") => NATProtocol::TCP,
        _ if protocol.eq_ignore_ascii_case("udp") => NATProtocol::UDP,
        _ => return None,
    };
    Some(Forward {
        name: name.to_owned(),
        protocol,
        host_ip: host_ip.to_owned(),
        host_port: host_port.parse().ok()?,
        guest_ip: guest_ip.to_owned(),
        guest_port: guest_port.parse().ok()?,
    })
}

/// What a port forwarding option does to the NAT engine.
pub type NatChange = Box<dyn FnOnce(&NATEngine) -> Result>;

/// A rule to add, or `delete` and the name of one to remove.
pub fn remove_or_add_forward(given: &Given, args: &mut Args) -> Result<NatChange> {
    if given.value == "delete" {
        let name = args.more(given)?;
        return Ok(Box::new(move |nat| {
            nat.remove_redirect(&name)
                .during("RemoveRedirect(Bstr(ValueUnion.psz).raw())")
        }));
    }
    let rule = port_forward(&given.value).ok_or_else(|| given.invalid())?;
    Ok(Box::new(move |nat| {
        nat.add_redirect(
            &rule.name,
            rule.protocol,
            &rule.host_ip,
            rule.host_port,
            &rule.guest_ip,
            rule.guest_port,
        )
        .during("AddRedirect(Bstr(strName).raw(), proto, Bstr(strHostIp).raw(), RTStrToUInt16(strHostPort), Bstr(strGuestIp).raw(), RTStrToUInt16(strGuestPort))")
    }))
}

fn forward(given: Given, args: &mut Args) -> Result<Change> {
    let slot = given.slot(MAX_ADAPTERS)?;
    let change = remove_or_add_forward(&given, args)?;
    Ok(Box::new(move |m: &Machine| {
        change(&m.get_network_adapter(slot)?.nat_engine()?)
    }))
}

fn nat_settings(given: Given, _: &mut Args) -> Result<Change> {
    let numbers: Option<Vec<u32>> = given
        .value
        .split(',')
        .map(|n| {
            if n.is_empty() {
                Some(0)
            } else {
                n.parse().ok()
            }
        })
        .collect();
    let mut numbers = numbers.unwrap_or_default();
    if numbers.is_empty() || numbers.len() > 5 {
        return Err(given.invalid());
    }
    numbers.resize(5, 0);
    let [mtu, send, receive, tcp_send, tcp_receive] =
        <[u32; 5]>::try_from(numbers).map_err(|_| Failure::Silent(crate::error::FAILURE))?;
    adapter(&given, move |a| {
        a.nat_engine()?
            .set_network_settings(mtu, send, receive, tcp_send, tcp_receive)
    })
}

/// Bits: 1 log, 2 proxy only, 4 same ports.
fn alias_mode(words: &str) -> Option<u32> {
    if words.eq_ignore_ascii_case("default") {
        return Some(0);
    }
    words.split(',').try_fold(0, |mode, word| {
        Some(
            mode | match word {
                "" => 0,
                _ if word.eq_ignore_ascii_case("log") => 1,
                _ if word.eq_ignore_ascii_case("proxyonly") => 2,
                _ if word.eq_ignore_ascii_case("sameports") => 4,
                _ => return None,
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_vagrant() {
        let rule = port_forward("ssh,tcp,127.0.0.1,2222,,22").expect("a rule");
        assert_eq!(
            (rule.name.as_str(), rule.host_ip.as_str()),
            ("ssh", "127.0.0.1")
        );
        assert_eq!((rule.host_port, rule.guest_port), (2222, 22));
        assert_eq!(
            port_forward(",UDP,,53,,53").expect("a rule").protocol,
            NATProtocol::UDP
        );
        for wrong in [
            "",
            "ssh",
            "a,icmp,,1,,2",
            "a,tcp,,1,,",
            "a,tcp,,65536,,1",
            "a,tcp,,1,,2,3",
        ] {
            assert_eq!(port_forward(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn alias_modes_are_bits() {
        assert_eq!(alias_mode("default"), Some(0));
        assert_eq!(alias_mode("log,,sameports"), Some(5));
        assert_eq!(alias_mode("odd"), None);
    }
}
