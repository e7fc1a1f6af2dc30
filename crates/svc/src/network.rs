//! `INetworkAdapter` and `INATEngine`.

use crate::conv::{FromModel, ToModel, invalid};
use crate::fields;
use crate::view::{View, When};
use api::types::*;
use api::{Call, ObjRef, Val, Wire, client, server};
use settings::model as m;

pub struct NetworkAdapter {
    pub view: View,
    pub slot: u32,
}

impl NetworkAdapter {
    fn get<R>(&self, f: impl FnOnce(&m::NetworkAdapter) -> R) -> api::Result<R> {
        self.view.get(|m| f(&m.hardware.adapter(self.slot)))
    }

    fn set(&self, f: impl FnOnce(&mut m::NetworkAdapter) -> api::Result<()>) -> api::Result<()> {
        self.view.set(|m| f(m.hardware.adapter_mut(self.slot)))?;
        self.changed();
        Ok(())
    }

    /// A setting that a running machine takes over; `change_adapter` when what the card is plugged
    /// into changed.
    fn set_live(
        &self,
        change_adapter: bool,
        f: impl Fn(&mut m::NetworkAdapter) -> api::Result<()>,
    ) -> api::Result<()> {
        let before = self.view.get(|m| m.hardware.adapter(self.slot))?;
        self.view
            .change(When::Any, |m| f(m.hardware.adapter_mut(self.slot)))?;
        if let Some(vm) = self.view.entry(|e| Ok(e.vm.clone()))? {
            let control: client::InternalSessionControl = crate::forward::control(&vm);
            if let Err(e) = control.on_network_adapter_change(self.slot, change_adapter) {
                self.view.change(When::Any, |m| {
                    *m.hardware.adapter_mut(self.slot) = before;
                    Ok(())
                })?;
                return Err(e);
            }
        }
        self.changed();
        Ok(())
    }

    fn changed(&self) {
        let adapter = self.view.path(&format!("NetworkAdapter/{}", self.slot));
        let kind = VBoxEventType::OnNetworkAdapterChanged;
        self.view
            .svc
            .fire(kind, vec![("networkAdapter", Val::Obj(adapter))]);
    }
}

/// 12 hex digits, upper case, no multicast address.
fn checked_mac(mac: &str) -> api::Result<String> {
    let mac = mac.to_ascii_uppercase();
    let digits = mac.len() == 12 && mac.bytes().all(|b| b.is_ascii_hexdigit());
    let multicast = mac
        .as_bytes()
        .get(1)
        .is_some_and(|b| !b"02468ACE".contains(b));
    match (digits, multicast) {
        (true, false) => Ok(mac),
        (true, true) => Err(invalid(format!(
            "Invalid MAC address '{mac}': the second digit of a unicast address is even"
        ))),
        _ => Err(invalid(format!(
            "Invalid MAC address '{mac}': must be 12 hexadecimal digits"
        ))),
    }
}

impl server::INetworkAdapter for NetworkAdapter {
    fields! {
        adapter_type / set_adapter_type: NetworkAdapterType = kind;
        slot: u32 = slot;
        enabled: bool = enabled;
        mac_address: String = mac;
        attachment_type: NetworkAttachmentType = mode;
        bridged_interface: String = bridged;
        host_only_interface: String = host_only;
        host_only_network: String = host_only_network;
        internal_network: String = internal;
        nat_network: String = nat_network;
        generic_driver: String = generic.driver;
        cloud_network: String = cloud_network;
        cable_connected: bool = cable;
        line_speed / set_line_speed: u32 = speed;
        promisc_mode_policy: NetworkAdapterPromiscModePolicy = promiscuous;
        trace_enabled: bool = trace;
        trace_file: String = trace_file;
        boot_priority / set_boot_priority: u32 = boot_priority;
    }

    fn set_enabled(&self, _cx: &Call, value: bool) -> api::Result<()> {
        self.set(|a| {
            a.enabled = value;
            if value && a.mac.is_empty() {
                a.mac = crate::host::random_mac();
            }
            Ok(())
        })
    }
    fn set_mac_address(&self, _cx: &Call, value: String) -> api::Result<()> {
        let mac = if value.is_empty() {
            crate::host::random_mac()
        } else {
            checked_mac(&value)?
        };
        self.set(|a| {
            a.mac = mac;
            Ok(())
        })
    }
    fn set_attachment_type(&self, _cx: &Call, value: NetworkAttachmentType) -> api::Result<()> {
        let mode: m::NetworkMode = value.to_model()?;
        self.set_live(true, |a| {
            a.mode = mode;
            if mode == m::NetworkMode::Internal && a.internal.is_empty() {
                a.internal = "intnet".to_owned();
            }
            Ok(())
        })
    }
    fn set_bridged_interface(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set_live(true, |a| {
            a.bridged.clone_from(&value);
            Ok(())
        })
    }
    fn set_host_only_interface(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set_live(true, |a| {
            a.host_only.clone_from(&value);
            Ok(())
        })
    }
    fn set_host_only_network(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set_live(true, |a| {
            a.host_only_network.clone_from(&value);
            Ok(())
        })
    }
    fn set_internal_network(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set_live(true, |a| {
            a.internal.clone_from(&value);
            Ok(())
        })
    }
    fn set_nat_network(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set_live(true, |a| {
            a.nat_network.clone_from(&value);
            Ok(())
        })
    }
    fn set_generic_driver(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set_live(true, |a| {
            a.generic.driver.clone_from(&value);
            Ok(())
        })
    }
    fn set_cable_connected(&self, _cx: &Call, value: bool) -> api::Result<()> {
        self.set_live(false, |a| {
            a.cable = value;
            Ok(())
        })
    }
    fn set_promisc_mode_policy(
        &self,
        _cx: &Call,
        value: NetworkAdapterPromiscModePolicy,
    ) -> api::Result<()> {
        let policy: m::PromiscuousPolicy = value.to_model()?;
        self.set_live(false, |a| {
            a.promiscuous = policy;
            Ok(())
        })
    }
    fn set_trace_enabled(&self, _cx: &Call, value: bool) -> api::Result<()> {
        self.set_live(false, |a| {
            a.trace = value;
            Ok(())
        })
    }
    fn set_trace_file(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set_live(false, |a| {
            a.trace_file.clone_from(&value);
            Ok(())
        })
    }
    fn nat_engine(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(self
            .view
            .path(&format!("NetworkAdapter/{}/NATEngine", self.slot)))
    }
    fn bandwidth_group(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(ObjRef::null())
    }
    fn get_property(&self, _cx: &Call, key: String) -> api::Result<String> {
        self.get(|a| a.generic.properties.get(&key).cloned().unwrap_or_default())
    }
    fn set_property(&self, _cx: &Call, key: String, value: String) -> api::Result<()> {
        self.set(|a| {
            if value.is_empty() {
                a.generic.properties.remove(&key);
            } else {
                a.generic.properties.insert(key, value);
            }
            Ok(())
        })
    }
    fn get_properties(&self, _cx: &Call, names: String) -> api::Result<(Vec<String>, Vec<String>)> {
        self.get(|a| {
            let wanted =
                |n: &&String| names.is_empty() || names.split(',').any(|w| w == n.as_str());
            let all = || a.generic.properties.iter().filter(|(n, _)| wanted(n));
            (
                all().map(|(_, v)| v.clone()).collect(),
                all().map(|(n, _)| n.clone()).collect(),
            )
        })
    }
}
api::object!(NetworkAdapter: INetworkAdapter);

pub struct NatEngine {
    pub view: View,
    pub slot: u32,
}

impl NatEngine {
    fn get<R>(&self, f: impl FnOnce(&m::Nat) -> R) -> api::Result<R> {
        self.view.get(|m| f(&m.hardware.adapter(self.slot).nat))
    }
    fn set(&self, f: impl FnOnce(&mut m::Nat) -> api::Result<()>) -> api::Result<()> {
        self.view
            .set(|m| f(&mut m.hardware.adapter_mut(self.slot).nat))
    }

    fn redirected(&self, rule: &m::NatForward, removed: bool) {
        self.view.svc.fire(
            VBoxEventType::OnNATRedirect,
            vec![
                ("machineId", self.view.id.to_string().into_val()),
                ("slot", Val::U32(self.slot)),
                ("remove", Val::Bool(removed)),
                ("name", Val::from(rule.name.as_str())),
                ("proto", NATProtocol::from_model(&rule.proto).into_val()),
                ("hostIP", Val::from(rule.host_ip.as_str())),
                ("hostPort", Val::I32(rule.host_port.into())),
                ("guestIP", Val::from(rule.guest_ip.as_str())),
                ("guestPort", Val::I32(rule.guest_port.into())),
            ],
        );
    }
}

impl server::INATEngine for NatEngine {
    fields! {
        network / set_network: String = network;
        host_ip / set_host_ip: String = host_ip;
        tftp_prefix / set_tftp_prefix: String = tftp.prefix;
        tftp_boot_file / set_tftp_boot_file: String = tftp.boot_file;
        tftp_next_server / set_tftp_next_server: String = tftp.next_server;
        dns_pass_domain / set_dns_pass_domain: bool = dns.pass_domain;
        dns_proxy / set_dns_proxy: bool = dns.use_proxy;
        dns_use_host_resolver / set_dns_use_host_resolver: bool = dns.use_host_resolver;
        localhost_reachable / set_localhost_reachable: bool = localhost_reachable;
    }

    fn alias_mode(&self, _cx: &Call) -> api::Result<u32> {
        self.get(|n| {
            u32::from(n.alias.logging)
                | u32::from(n.alias.proxy_only) << 1
                | u32::from(n.alias.use_same_ports) << 2
        })
    }
    fn set_alias_mode(&self, _cx: &Call, value: u32) -> api::Result<()> {
        self.set(|n| {
            n.alias = m::NatAlias {
                logging: value & 1 != 0,
                proxy_only: value & 2 != 0,
                use_same_ports: value & 4 != 0,
            };
            Ok(())
        })
    }
    fn redirects(&self, _cx: &Call) -> api::Result<Vec<String>> {
        self.get(|n| {
            n.forwards
                .iter()
                .map(|f| {
                    format!(
                        "{},{},{},{},{},{}",
                        f.name,
                        NATProtocol::from_model(&f.proto) as u32,
                        f.host_ip,
                        f.host_port,
                        f.guest_ip,
                        f.guest_port
                    )
                })
                .collect()
        })
    }
    fn add_redirect(
        &self,
        _cx: &Call,
        name: String,
        proto: NATProtocol,
        host_ip: String,
        host_port: u16,
        guest_ip: String,
        guest_port: u16,
    ) -> api::Result<()> {
        let word = if proto == NATProtocol::TCP {
            "tcp"
        } else {
            "udp"
        };
        let name = match name.is_empty() {
            true => format!("{word}_{host_port}_{guest_port}"),
            false => name,
        };
        let proto = proto.to_model()?;
        let rule = m::NatForward {
            name,
            proto,
            host_ip,
            host_port,
            guest_ip,
            guest_port,
        };
        let added = rule.clone();
        self.set(|n| {
            let same = |f: &&m::NatForward| {
                f.name == rule.name
                    || ((f.proto, f.host_port) == (rule.proto, rule.host_port)
                        && f.host_ip == rule.host_ip)
            };
            if n.forwards.iter().find(same).is_some() {
                let text = "A NAT rule of this name already exists";
                return Err(invalid(text));
            }
            n.forwards.push(rule);
            Ok(())
        })?;
        self.redirected(&added, false);
        Ok(())
    }
    fn remove_redirect(&self, _cx: &Call, name: String) -> api::Result<()> {
        let mut removed = None;
        self.set(|n| {
            let at = n.forwards.iter().position(|f| f.name == name);
            let at = at.ok_or_else(|| invalid(format!("There is no NAT rule named '{name}'")))?;
            removed = Some(n.forwards.remove(at));
            Ok(())
        })?;
        if let Some(rule) = removed {
            self.redirected(&rule, true);
        }
        Ok(())
    }
    fn get_network_settings(&self, _cx: &Call) -> api::Result<(u32, u32, u32, u32, u32)> {
        self.get(|n| (n.mtu, n.sock_send, n.sock_recv, n.tcp_send, n.tcp_recv))
    }
    fn set_network_settings(
        &self,
        _cx: &Call,
        mtu: u32,
        sock_send: u32,
        sock_recv: u32,
        tcp_send: u32,
        tcp_recv: u32,
    ) -> api::Result<()> {
        self.set(|n| {
            (n.mtu, n.sock_send, n.sock_recv) = (mtu, sock_send, sock_recv);
            (n.tcp_send, n.tcp_recv) = (tcp_send, tcp_recv);
            Ok(())
        })
    }
}
api::object!(NatEngine: INATEngine);
