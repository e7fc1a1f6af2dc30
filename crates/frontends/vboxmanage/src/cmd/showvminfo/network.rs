//! Network adapters. Vagrant needs `nicN=` before that adapter's `Forwarding(i)=` lines.

use super::sheet::Sheet;
use crate::error::{Result, known};
use crate::names::{ADAPTERS, ATTACHMENTS, PROMISCUOUS, word_of};
use crate::out::on_off;
use api::client::{Machine, NetworkAdapter, VirtualBox};
use api::types::NetworkAttachmentType as Mode;

/// An adapter that is there, read at once.
#[derive(Debug, Clone)]
struct Adapter {
    number: u32,
    mode: Mode,
    /// What it is connected to, by the mode's own name for it.
    network: String,
    mac: String,
    cable: bool,
    trace: bool,
    trace_file: String,
    kind: &'static str,
    speed: u32,
    boot_priority: u32,
    promiscuous: &'static str,
    bandwidth_group: String,
    nat: Option<Nat>,
}

#[derive(Debug, Clone)]
struct Nat {
    /// MTU, socket send and receive buffers, TCP send and receive windows; 0 is the default.
    settings: (u32, u32, u32, u32, u32),
    rules: Vec<String>,
}

pub fn show(s: &mut Sheet<'_>, vbox: &VirtualBox, m: &Machine) -> Result {
    let chipset = m.chipset_type()?;
    let count = vbox
        .system_properties()?
        .get_max_network_adapters(chipset)?;
    for slot in 0..count.min(36) {
        let adapter = m.get_network_adapter(slot)?;
        let read = if adapter.enabled()? {
            Some(read(slot + 1, &adapter)?)
        } else {
            None
        };
        print(s, slot + 1, read.as_ref())?;
    }
    Ok(())
}

fn read(number: u32, a: &NetworkAdapter) -> Result<Adapter> {
    let mode = a.attachment_type()?;
    let network = match mode {
        Mode::Null => String::new(),
        Mode::NAT => a.nat_engine()?.network()?,
        Mode::Bridged => a.bridged_interface()?,
        Mode::Internal => a.internal_network()?,
        Mode::HostOnly => a.host_only_interface()?,
        Mode::Generic => a.generic_driver()?,
        Mode::NATNetwork => a.nat_network()?,
        Mode::HostOnlyNetwork => a.host_only_network()?,
        Mode::Cloud => a.cloud_network()?,
    };
    let nat = if mode == Mode::NAT {
        let engine = a.nat_engine()?;
        Some(Nat {
            settings: known(engine.get_network_settings())?.unwrap_or_default(),
            rules: engine.redirects()?,
        })
    } else {
        None
    };
    let group = match known(a.bandwidth_group())?.flatten() {
        Some(group) => group.name()?,
        None => String::new(),
    };
    Ok(Adapter {
        number,
        mode,
        network,
        mac: a.mac_address()?,
        cable: a.cable_connected()?,
        trace: known(a.trace_enabled())?.unwrap_or(false),
        trace_file: known(a.trace_file())?.unwrap_or_default(),
        kind: word_of(ADAPTERS, a.adapter_type()?),
        speed: known(a.line_speed())?.unwrap_or(0),
        boot_priority: known(a.boot_priority())?.unwrap_or(0),
        promiscuous: known(a.promisc_mode_policy())?.map_or("deny", |p| word_of(PROMISCUOUS, p)),
        bandwidth_group: group,
        nat,
    })
}

fn print(s: &mut Sheet<'_>, number: u32, adapter: Option<&Adapter>) -> Result {
    match adapter {
        None if s.machine => s.key(&format!("nic{number}"), "none"),
        None => s.label(&format!("NIC {number}:"), "disabled"),
        Some(a) if s.machine => machine(s, a),
        Some(a) => human(s, a),
    }
}

fn machine(s: &mut Sheet<'_>, a: &Adapter) -> Result {
    let n = a.number;
    let network = match a.mode {
        Mode::Null => None,
        Mode::NAT => Some("natnet"),
        Mode::Bridged => Some("bridgeadapter"),
        Mode::Internal => Some("intnet"),
        Mode::HostOnly => Some("hostonlyadapter"),
        Mode::Generic => Some("generic"),
        Mode::NATNetwork => Some("nat-network"),
        Mode::HostOnlyNetwork => Some("hostonly-network"),
        Mode::Cloud => Some("cloud-network"),
    };
    if let Some(key) = network {
        let unnamed = a.mode == Mode::NAT && a.network.is_empty();
        s.key(
            &format!("{key}{n}"),
            if unnamed { "nat" } else { &a.network },
        )?;
    }
    s.key(&format!("macaddress{n}"), &a.mac)?;
    s.key(&format!("cableconnected{n}"), on_off(a.cable))?;
    s.key(&format!("nic{n}"), word_of(ATTACHMENTS, a.mode))?;
    s.key(&format!("nictype{n}"), a.kind)?;
    s.key(&format!("nicspeed{n}"), a.speed.to_string())?;
    let Some(nat) = &a.nat else { return Ok(()) };
    let (mtu, send, receive, tcp_send, tcp_receive) = nat.settings;
    s.key("mtu", mtu.to_string())?;
    for (key, size) in [
        ("sockSnd", send),
        ("sockRcv", receive),
        ("tcpWndSnd", tcp_send),
        ("tcpWndRcv", tcp_receive),
    ] {
        s.key(key, buffer(size).to_string())?;
    }
    for (i, rule) in nat.rules.iter().enumerate() {
        s.key(&format!("Forwarding({i})"), fields(rule).join(","))?;
    }
    Ok(())
}

fn human(s: &mut Sheet<'_>, a: &Adapter) -> Result {
    let n = a.number;
    let network = |what: &str| format!("{what} '{}'", a.network);
    let attachment = match a.mode {
        Mode::Null => "none".to_owned(),
        Mode::NAT if a.network.is_empty() => "NAT".to_owned(),
        Mode::NAT => format!("NAT ({})", a.network),
        Mode::Bridged => network("Bridged Interface"),
        Mode::Internal => network("Internal Network"),
        Mode::HostOnly => network("Host-only Interface"),
        Mode::Generic => network("Generic"),
        Mode::NATNetwork => network("NAT Network"),
        Mode::HostOnlyNetwork => network("Host Only Network"),
        Mode::Cloud => network("Cloud Network"),
    };
    let or_none = |text: &str| {
        if text.is_empty() {
            "none".to_owned()
        } else {
            text.to_owned()
        }
    };
    s.label(
        &format!("NIC {n}:"),
        format_args!(
            "MAC: {}, Attachment: {attachment}, Cable connected: {}, Trace: {} (file: {}), Type: {}, Reported speed: {} Mbps, Boot priority: {}, Promisc Policy: {}, Bandwidth group: {}",
            a.mac,
            on_off(a.cable),
            on_off(a.trace),
            or_none(&a.trace_file),
            a.kind,
            a.speed / 1000,
            a.boot_priority,
            a.promiscuous,
            or_none(&a.bandwidth_group)
        ),
    )?;
    let Some(nat) = &a.nat else { return Ok(()) };
    let (mtu, send, receive, tcp_send, tcp_receive) = nat.settings;
    s.line(format_args!(
        "NIC {n} Settings:  MTU: {mtu}, Socket (send: {}, receive: {}), TCP Window (send:{}, receive: {})",
        buffer(send),
        buffer(receive),
        buffer(tcp_send),
        buffer(tcp_receive)
    ))?;
    for (i, rule) in nat.rules.iter().enumerate() {
        let [name, protocol, host_ip, host_port, guest_ip, guest_port] = fields(rule);
        s.line(format_args!(
            "NIC {n} Rule({i}):   name = {name}, protocol = {protocol}, host ip = {host_ip}, host port = {host_port}, guest ip = {guest_ip}, guest port = {guest_port}"
        ))?;
    }
    Ok(())
}

/// Sizes in KiB; 0 stands for 64.
fn buffer(size: u32) -> u32 {
    if size == 0 { 64 } else { size }
}

/// The fields of a rule as the API gives it, the protocol as a word.
fn fields(rule: &str) -> [&str; 6] {
    let mut all = rule.split(',');
    let mut fields = [(); 6].map(|()| all.next().unwrap_or_default());
    fields[1] = match fields[1] {
        "0" => "udp",
        "1" => "tcp",
        word => word,
    };
    fields
}

#[cfg(test)]
mod tests {
    use super::super::sheet::tests::printed;
    use super::*;

    fn adapter() -> Adapter {
        Adapter {
            number: 1,
            mode: Mode::NAT,
            network: String::new(),
            mac: "080027B9DDCA".into(),
            cable: true,
            trace: false,
            trace_file: String::new(),
            kind: "82540EM",
            speed: 0,
            boot_priority: 0,
            promiscuous: "deny",
            bandwidth_group: String::new(),
            nat: Some(Nat {
                settings: (0, 0, 0, 0, 0),
                rules: vec!["ssh,1,127.0.0.1,2222,,22".into()],
            }),
        }
    }

    #[test]
    fn nat_with_a_forward() {
        let [human, machine] = printed(|s| print(s, 1, Some(&adapter())));
        assert_eq!(
            human,
            "NIC 1:                       MAC: 080027B9DDCA, Attachment: NAT, Cable connected: on, Trace: off (file: none), Type: 82540EM, Reported speed: 0 Mbps, Boot priority: 0, Promisc Policy: deny, Bandwidth group: none\n\
             NIC 1 Settings:  MTU: 0, Socket (send: 64, receive: 64), TCP Window (send:64, receive: 64)\n\
             NIC 1 Rule(0):   name = ssh, protocol = tcp, host ip = 127.0.0.1, host port = 2222, guest ip = , guest port = 22\n"
        );
        assert_eq!(
            machine,
            "natnet1=\"nat\"\n\
             macaddress1=\"080027B9DDCA\"\n\
             cableconnected1=\"on\"\n\
             nic1=\"nat\"\n\
             nictype1=\"82540EM\"\n\
             nicspeed1=\"0\"\n\
             mtu=\"0\"\n\
             sockSnd=\"64\"\n\
             sockRcv=\"64\"\n\
             tcpWndSnd=\"64\"\n\
             tcpWndRcv=\"64\"\n\
             Forwarding(0)=\"ssh,tcp,127.0.0.1,2222,,22\"\n"
        );
    }

    #[test]
    fn other_modes_and_none() {
        let host_only = Adapter {
            number: 2,
            mode: Mode::HostOnly,
            network: "vboxnet0".into(),
            nat: None,
            ..adapter()
        };
        let [human, machine] = printed(|s| print(s, 2, Some(&host_only)));
        assert!(
            human.contains("Attachment: Host-only Interface 'vboxnet0', "),
            "{human}"
        );
        assert!(
            machine.starts_with("hostonlyadapter2=\"vboxnet0\"\nmacaddress2=\"080027B9DDCA\"\n"),
            "{machine}"
        );
        assert!(machine.contains("nic2=\"hostonly\"\n"), "{machine}");
        let [human, machine] = printed(|s| print(s, 3, None));
        assert_eq!(human, "NIC 3:                       disabled\n");
        assert_eq!(machine, "nic3=\"none\"\n");
    }
}
