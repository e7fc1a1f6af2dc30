//! Networks that belong to no machine, as `VirtualBox.xml` keeps them: `INATNetwork`,
//! `IHostOnlyNetwork`, `IDHCPServer`. What would carry their packets has no room yet: starting one
//! answers `E_NOTIMPL`.

use crate::conv::{ToModel, invalid, not_found};
use crate::fields;
use crate::space::encode;
use crate::state::Svc;
use api::types::*;
use api::{Call, Error, ObjRef, server};
use settings::model as m;
use std::net::Ipv4Addr;
use std::sync::Arc;
use uuid::Uuid;

/// Longest name of a network.
const MAX_NAME: usize = 200;

fn checked_name(name: &str) -> api::Result<()> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(invalid(format!(
            "Invalid network name '{}'",
            name.escape_debug()
        )));
    }
    Ok(())
}

fn address(text: &str) -> api::Result<Ipv4Addr> {
    text.parse()
        .map_err(|_| invalid(format!("Invalid IPv4 address '{text}'")))
}

/// A mask's bits are all in front.
fn mask(text: &str) -> api::Result<u32> {
    let bits = u32::from(address(text)?);
    if bits.leading_ones() + bits.trailing_zeros() != 32 || bits == 0 {
        return Err(invalid(format!("Invalid network mask '{text}'")));
    }
    Ok(bits)
}

/// The first address and the prefix length of `a.b.c.d/n`.
fn network(text: &str) -> api::Result<(Ipv4Addr, u32)> {
    let wrong = || invalid(format!("Invalid IPv4 network '{text}'"));
    let (base, bits) = text.split_once('/').ok_or_else(wrong)?;
    let base = u32::from(base.parse::<Ipv4Addr>().map_err(|_| wrong())?);
    let bits: u32 = bits.parse().map_err(|_| wrong())?;
    // Host, gateway, name server and a guest need room.
    if !(1..=29).contains(&bits) {
        return Err(wrong());
    }
    Ok((Ipv4Addr::from(base & (u32::MAX << (32 - bits))), bits))
}

/// A range of addresses of one network.
fn checked_range(mask_text: &str, all: &[&str]) -> api::Result<()> {
    let mask = mask(mask_text)?;
    let mut networks = Vec::new();
    for text in all {
        networks.push(u32::from(address(text)?) & mask);
    }
    if networks.windows(2).any(|w| w[0] != w[1]) {
        let text = format!(
            "{} are not of one network with mask {mask_text}",
            all.join(", ")
        );
        return Err(invalid(text));
    }
    Ok(())
}

fn exists(what: &str, name: &str) -> Error {
    let text = format!("{what} '{name}' already exists");
    Error::new(ResultCode::VBOX_E_OBJECT_IN_USE, text)
}

fn missing(what: &str, name: &str) -> Error {
    not_found(format!("{what} '{name}' could not be found"))
}

/// The last word of a reference of that kind.
fn key(kind: &str, reference: &ObjRef) -> api::Result<String> {
    let path = reference.path().strip_prefix('/').unwrap_or_default();
    path.strip_prefix(kind)
        .and_then(|rest| crate::space::decode(rest.strip_prefix('/')?))
        .ok_or_else(|| invalid(format!("The argument is no {kind}")))
}

fn path(kind: &str, key: &str) -> ObjRef {
    ObjRef::new(format!("/{kind}/{}", encode(key)))
}

/// Getters and setters of one entry of a list of `VirtualBox.xml`.
macro_rules! entry {
    ($object:ident, $model:ident, $list:ident, $key:ident, $what:literal) => {
        pub struct $object {
            pub svc: Arc<Svc>,
            pub key: String,
        }

        impl $object {
            fn get<R>(&self, f: impl FnOnce(&m::$model) -> R) -> api::Result<R> {
                self.svc.with(|s| {
                    let mut all = s.global.settings().$list.iter();
                    all.find(|n| n.$key == self.key)
                        .map(f)
                        .ok_or_else(|| missing($what, &self.key))
                })
            }
            fn set(&self, f: impl FnOnce(&mut m::$model) -> api::Result<()>) -> api::Result<()> {
                self.svc.with(|s| {
                    s.global.change(|g| {
                        let found = g.$list.iter_mut().find(|n| n.$key == self.key);
                        f(found.ok_or_else(|| missing($what, &self.key))?)
                    })
                })
            }
        }

        /// All of them.
        impl $object {
            pub fn all(svc: &Svc) -> Vec<ObjRef> {
                svc.with(|s| {
                    let all = s.global.settings().$list.iter();
                    all.map(|n| path(stringify!($object), &n.$key)).collect()
                })
            }
            /// The first that `is` says is the one called `name`.
            pub fn find(
                svc: &Svc,
                name: &str,
                is: impl Fn(&m::$model) -> bool,
            ) -> api::Result<ObjRef> {
                svc.with(|s| {
                    let mut all = s.global.settings().$list.iter();
                    all.find(|n| is(n))
                        .map(|n| path(stringify!($object), &n.$key))
                        .ok_or_else(|| missing($what, name))
                })
            }
            fn add(svc: &Svc, new: m::$model) -> api::Result<ObjRef> {
                let made = path(stringify!($object), &new.$key);
                svc.with(|s| {
                    s.global.change(|g| {
                        g.$list.push(new);
                        Ok(())
                    })
                })?;
                Ok(made)
            }
            pub fn remove(svc: &Svc, reference: &ObjRef) -> api::Result<()> {
                let key = key(stringify!($object), reference)?;
                svc.with(|s| {
                    s.global.change(|g| {
                        let before = g.$list.len();
                        g.$list.retain(|n| n.$key != key);
                        match g.$list.len() == before {
                            true => Err(missing($what, &key)),
                            false => Ok(()),
                        }
                    })
                })
            }
        }
    };
}

entry!(NatNetwork, NatNetwork, nat_networks, name, "NAT network");
entry!(
    HostOnlyNetwork,
    HostOnlyNetwork,
    host_only_networks,
    id,
    "Host-only network"
);
entry!(
    DhcpServer,
    DhcpServer,
    dhcp_servers,
    network_name,
    "DHCP server of network"
);

/// Rules as the API lists them.
fn rules(forwards: &[m::NatForward]) -> Vec<String> {
    let line = |f: &m::NatForward| {
        let proto = match f.proto {
            m::NatProtocol::Tcp => "tcp",
            m::NatProtocol::Udp => "udp",
        };
        format!(
            "{}:{proto}:[{}]:{}:[{}]:{}",
            f.name, f.host_ip, f.host_port, f.guest_ip, f.guest_port
        )
    };
    forwards.iter().map(line).collect()
}

impl NatNetwork {
    pub fn create(svc: &Svc, name: &str) -> api::Result<ObjRef> {
        checked_name(name)?;
        if Self::find(svc, name, |n| n.name == name).is_ok() {
            return Err(exists("NAT network", name));
        }
        let new = m::NatNetwork {
            name: name.to_owned(),
            network: "10.0.2.0/24".to_owned(),
            ipv6_prefix: prefix_for("10.0.2.0/24"),
            ..m::NatNetwork::default()
        };
        Self::add(svc, new)
    }
}

/// VirtualBox's IPv6 prefix of a network without one: a private one, told apart by the IPv4 network.
fn prefix_for(text: &str) -> String {
    let [_, b, c, _] = network(text).map_or([0; 4], |(base, _)| base.octets());
    format!("fd17:625c:f037:{:x}::/64", u16::from_be_bytes([b, c]))
}

impl server::INATNetwork for NatNetwork {
    fields! {
        network_name: String = name;
        enabled / set_enabled: bool = enabled;
        network: String = network;
        ipv6_enabled / set_ipv6_enabled: bool = ipv6;
        ipv6_prefix: String = ipv6_prefix;
        advertise_default_ipv6_route_enabled / set_advertise_default_ipv6_route_enabled: bool = advertise_default_ipv6_route;
        need_dhcp_server / set_need_dhcp_server: bool = need_dhcp;
        loopback_ip6: i32 = loopback6;
    }

    fn set_network_name(&self, _cx: &Call, value: String) -> api::Result<()> {
        checked_name(&value)?;
        if value != self.key && Self::find(&self.svc, &value, |n| n.name == value).is_ok() {
            return Err(exists("NAT network", &value));
        }
        self.set(|n| {
            n.name = value;
            Ok(())
        })
    }
    fn set_network(&self, _cx: &Call, value: String) -> api::Result<()> {
        let (base, bits) = network(&value)?;
        self.set(|n| {
            let followed = n.ipv6_prefix.is_empty() || n.ipv6_prefix == prefix_for(&n.network);
            n.network = format!("{base}/{bits}");
            if followed {
                n.ipv6_prefix = prefix_for(&n.network);
            }
            Ok(())
        })
    }
    fn set_ipv6_prefix(&self, _cx: &Call, value: String) -> api::Result<()> {
        let base = value.strip_suffix("/64");
        if !value.is_empty()
            && base
                .and_then(|b| b.parse::<std::net::Ipv6Addr>().ok())
                .is_none()
        {
            return Err(invalid(format!("Invalid IPv6 prefix '{value}'")));
        }
        self.set(|n| {
            n.ipv6_prefix = match value.is_empty() {
                true => prefix_for(&n.network),
                false => value,
            };
            Ok(())
        })
    }
    fn set_loopback_ip6(&self, _cx: &Call, value: i32) -> api::Result<()> {
        let value = u32::try_from(value).map_err(|_| invalid("Negative loopback offset"))?;
        self.set(|n| {
            n.loopback6 = value;
            Ok(())
        })
    }
    fn gateway(&self, _cx: &Call) -> api::Result<String> {
        let (base, _) = network(&self.get(|n| n.network.clone())?)?;
        Ok(Ipv4Addr::from(u32::from(base).saturating_add(1)).to_string())
    }
    fn event_source(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(ObjRef::new("/VirtualBox/EventSource"))
    }
    fn port_forward_rules4(&self, _cx: &Call) -> api::Result<Vec<String>> {
        self.get(|n| rules(&n.forwards4))
    }
    fn port_forward_rules6(&self, _cx: &Call) -> api::Result<Vec<String>> {
        self.get(|n| rules(&n.forwards6))
    }
    fn local_mappings(&self, _cx: &Call) -> api::Result<Vec<String>> {
        let line = |l: &m::Loopback4| format!("{}={}", l.address, l.offset);
        self.get(|n| n.loopback4.iter().map(line).collect())
    }
    fn add_local_mapping(&self, _cx: &Call, host: String, offset: i32) -> api::Result<()> {
        if !address(&host)?.is_loopback() {
            return Err(invalid(format!("'{host}' is no loopback address")));
        }
        let offset = u32::try_from(offset).map_err(|_| invalid("Negative loopback offset"))?;
        self.set(|n| {
            n.loopback4
                .retain(|l| l.address != host && l.offset != offset);
            // Offset 0 only takes the mapping away.
            if offset != 0 {
                n.loopback4.push(m::Loopback4 {
                    address: host,
                    offset,
                });
            }
            Ok(())
        })
    }
    fn add_port_forward_rule(
        &self,
        _cx: &Call,
        ipv6: bool,
        name: String,
        proto: NATProtocol,
        host_ip: String,
        host_port: u16,
        guest_ip: String,
        guest_port: u16,
    ) -> api::Result<()> {
        checked_name(&name)?;
        if name.contains(':') {
            return Err(invalid(format!("Invalid rule name '{name}'")));
        }
        let proto = proto.to_model()?;
        self.set(|n| {
            let list = if ipv6 {
                &mut n.forwards6
            } else {
                &mut n.forwards4
            };
            let taken = |f: &m::NatForward| {
                f.name == name
                    || ((f.proto, f.host_port) == (proto, host_port) && f.host_ip == host_ip)
            };
            if list.iter().any(taken) {
                return Err(invalid("A NAT rule of this name already exists"));
            }
            list.push(m::NatForward {
                name,
                proto,
                host_ip,
                host_port,
                guest_ip,
                guest_port,
            });
            Ok(())
        })
    }
    fn remove_port_forward_rule(&self, _cx: &Call, ipv6: bool, name: String) -> api::Result<()> {
        self.set(|n| {
            let list = if ipv6 {
                &mut n.forwards6
            } else {
                &mut n.forwards4
            };
            let at = list.iter().position(|f| f.name == name);
            let at = at.ok_or_else(|| invalid(format!("There is no NAT rule named '{name}'")))?;
            list.remove(at);
            Ok(())
        })
    }
}
api::object!(NatNetwork: INATNetwork);

impl HostOnlyNetwork {
    pub fn create(svc: &Svc, name: &str) -> api::Result<ObjRef> {
        checked_name(name)?;
        if Self::find(svc, name, |n| n.name == name).is_ok() {
            return Err(exists("Host-only network", name));
        }
        let new = m::HostOnlyNetwork {
            name: name.to_owned(),
            mask: "255.255.255.0".to_owned(),
            lower_ip: "192.168.56.1".to_owned(),
            upper_ip: "192.168.56.199".to_owned(),
            id: Uuid::new_v4().to_string(),
            enabled: true,
        };
        Self::add(svc, new)
    }

    fn set_address(&self, f: impl FnOnce(&mut m::HostOnlyNetwork)) -> api::Result<()> {
        self.set(|n| {
            f(n);
            mask(&n.mask)?;
            address(&n.lower_ip)?;
            address(&n.upper_ip).map(drop)
        })
    }
}

impl server::IHostOnlyNetwork for HostOnlyNetwork {
    fields! {
        network_name: String = name;
        enabled / set_enabled: bool = enabled;
        network_mask: String = mask;
        lower_ip: String = lower_ip;
        upper_ip: String = upper_ip;
        id: String = id;
    }

    fn set_network_name(&self, _cx: &Call, value: String) -> api::Result<()> {
        checked_name(&value)?;
        let other = |n: &m::HostOnlyNetwork| n.name == value && n.id != self.key;
        if Self::find(&self.svc, &value, other).is_ok() {
            return Err(exists("Host-only network", &value));
        }
        self.set(|n| {
            n.name = value;
            Ok(())
        })
    }
    fn set_network_mask(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set_address(|n| n.mask = value)
    }
    fn set_lower_ip(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set_address(|n| n.lower_ip = value)
    }
    fn set_upper_ip(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set_address(|n| n.upper_ip = value)
    }
    fn set_id(&self, _cx: &Call, value: String) -> api::Result<()> {
        let id = iprt::uuid::parse(&value)
            .ok_or_else(|| invalid(format!("Invalid UUID '{value}'")))?
            .to_string();
        let taken = |n: &m::HostOnlyNetwork| n.id == id && n.id != self.key;
        if Self::find(&self.svc, &id, taken).is_ok() {
            return Err(exists("Host-only network", &id));
        }
        self.set(|n| {
            n.id = id;
            Ok(())
        })
    }
    /// The host has the first address.
    fn host_ip(&self, _cx: &Call) -> api::Result<String> {
        let (lower, bits) = self.get(|n| (n.lower_ip.clone(), n.mask.clone()))?;
        let base = u32::from(address(&lower)?) & mask(&bits)?;
        Ok(Ipv4Addr::from(base.saturating_add(1)).to_string())
    }
}
api::object!(HostOnlyNetwork: IHostOnlyNetwork);

impl DhcpServer {
    pub fn create(svc: &Svc, name: &str) -> api::Result<ObjRef> {
        checked_name(name)?;
        if Self::find(svc, name, |n| n.network_name == name).is_ok() {
            return Err(exists("DHCP server of network", name));
        }
        let new = m::DhcpServer {
            network_name: name.to_owned(),
            ip: "0.0.0.0".to_owned(),
            mask: "0.0.0.0".to_owned(),
            lower_ip: "0.0.0.0".to_owned(),
            upper_ip: "0.0.0.0".to_owned(),
            ..m::DhcpServer::default()
        };
        Self::add(svc, new)
    }
}

impl server::IDHCPServer for DhcpServer {
    fields! {
        enabled / set_enabled: bool = enabled;
        ip_address: String = ip;
        network_mask: String = mask;
        network_name: String = network_name;
        lower_ip: String = lower_ip;
        upper_ip: String = upper_ip;
    }

    fn event_source(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(ObjRef::new("/VirtualBox/EventSource"))
    }
    fn set_configuration(
        &self,
        _cx: &Call,
        ip: String,
        mask: String,
        lower: String,
        upper: String,
    ) -> api::Result<()> {
        checked_range(&mask, &[&ip, &lower, &upper])?;
        if u32::from(address(&lower)?) > u32::from(address(&upper)?) {
            return Err(invalid(format!("{lower} is above {upper}")));
        }
        self.set(|s| {
            (s.ip, s.mask, s.lower_ip, s.upper_ip) = (ip, mask, lower, upper);
            Ok(())
        })
    }
}
api::object!(DhcpServer: IDHCPServer);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_masks_are_checked() {
        let (base, bits) = network("192.168.15.77/24").expect("a network");
        assert_eq!((base.to_string().as_str(), bits), ("192.168.15.0", 24));
        for wrong in [
            "",
            "10.0.2.0",
            "10.0.2.0/33",
            "10.0.2.0/30",
            "10.0.2/24",
            "x/24",
            "10.0.2.0/0",
        ] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
        assert!(
            mask("255.255.255.0").is_ok()
                && mask("255.0.255.0").is_err()
                && mask("0.0.0.0").is_err()
        );
        assert!(checked_range("255.255.255.0", &["10.0.0.1", "10.0.0.9"]).is_ok());
        assert!(checked_range("255.255.255.0", &["10.0.0.1", "10.0.1.9"]).is_err());
        assert_eq!(prefix_for("10.0.2.0/24"), "fd17:625c:f037:2::/64");
    }
}
