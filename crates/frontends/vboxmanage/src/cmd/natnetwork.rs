//! `natnetwork`: networks that machines share, as the settings keep them.

use super::{Command, Form, form};
use crate::args::{Arg, Args, Given, Opt, flag, value};
use crate::cx::Cx;
use crate::error::{During, Failure, Result, known};
use crate::out::yes_no;
use api::client::NATNetwork;
use api::types::NATProtocol;
use std::io::Write;

pub const COMMAND: Command = Command {
    name: "natnetwork",
    aliases: &["natnet"],
    usage,
    forms,
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage natnetwork add <--netname=name> <--network=network> [--enable | --disable]
      [--dhcp=on | off] [--ipv6=on | off] [--ipv6-default=on | off] [--ipv6-prefix=prefix]
      [--loopback-4=rule]... [--loopback-6=offset] [--port-forward-4=rule]...
      [--port-forward-6=rule]...

  VBoxManage natnetwork list [filter-pattern]

  VBoxManage natnetwork modify <--netname=name> [--network=network] [--enable | --disable]
      [--dhcp=on | off] [--ipv6=on | off] [--ipv6-default=on | off] [--ipv6-prefix=prefix]
      [--loopback-4=rule | delete address]... [--loopback-6=offset]
      [--port-forward-4=rule | delete name]... [--port-forward-6=rule | delete name]...

  VBoxManage natnetwork remove <--netname=name>

  VBoxManage natnetwork start <--netname=name>

  VBoxManage natnetwork stop <--netname=name>

      A forwarding rule is name:tcp|udp:[hostip]:hostport:[guestip]:guestport, a loopback rule
      address=offset.\n"
        .to_owned()
}

fn forms() -> Vec<Form> {
    vec![
        form("add", OPTIONS),
        form("list", &[]),
        form("modify", OPTIONS),
        form("remove", NAME),
        form("start", NAME),
        form("stop", NAME),
    ]
}

const NAME: &[Opt] = &[value(&["--netname", "-t"])];

const OPTIONS: &[Opt] = &[
    value(&["--netname", "-t"]),
    value(&["--network", "-n"]),
    flag(&["--enable", "-e"]),
    flag(&["--disable", "-d"]),
    value(&["--dhcp", "-h"]),
    value(&["--ipv6", "-6"]),
    value(&["--ipv6-default"]),
    value(&["--ipv6-prefix"]),
    value(&["--loopback-4", "-l"]),
    value(&["--loopback-6", "-L"]),
    value(&["--port-forward-4", "-p"]),
    value(&["--port-forward-6", "-P"]),
];

type Change = Box<dyn FnOnce(&NATNetwork) -> Result>;

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let action = args.required("subcommand")?;
    match action.as_str() {
        "add" | "modify" => configure(cx, args, action == "add"),
        "list" => {
            let pattern = args.take();
            args.end()?;
            list(cx, pattern.as_deref())
        }
        "remove" | "start" | "stop" => {
            let name = name(args)?;
            let vbox = cx.vbox()?;
            let Some(network) = find(cx, &name)? else {
                return Err(Failure::message("NATNetwork server does not exist"));
            };
            match action.as_str() {
                "remove" => vbox
                    .remove_nat_network(&network)
                    .wanted("Failed to remove nat network", "RemoveNATNetwork(net)"),
                "start" => network.start().wanted("Failed to start network", "Start()"),
                _ => network.stop().wanted("Failed to stop network", "Stop()"),
            }
        }
        _ => Err(Failure::syntax(format!("Invalid parameter '{action}'"))),
    }
}

fn name(args: &mut Args) -> Result<String> {
    let mut name = None;
    while let Some(arg) = args.next(NAME)? {
        match arg {
            Arg::Opt(_, given) => name = Some(given.value),
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    name.ok_or_else(|| Failure::syntax("Missing --netname argument"))
}

fn find(cx: &mut Cx<'_>, name: &str) -> Result<Option<NATNetwork>> {
    match cx.vbox()?.find_nat_network_by_name(name) {
        Ok(network) => Ok(Some(network)),
        Err(e) if e.code == api::ResultCode::VBOX_E_OBJECT_NOT_FOUND => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn configure(cx: &mut Cx<'_>, args: &mut Args, add: bool) -> Result {
    let (name, changes, has_network) = parse(args)?;
    if add && !has_network {
        return Err(Failure::syntax("Missing --network argument"));
    }
    let vbox = cx.vbox()?;
    let network = match (find(cx, &name)?, add) {
        (Some(_), true) => return Err(Failure::message("NATNetwork server already exists")),
        (None, false) => return Err(Failure::message("NATNetwork server does not exist")),
        (Some(network), false) => network,
        (None, true) => vbox.create_nat_network(&name).wanted(
            "Failed to create nat network",
            "CreateNATNetwork(Bstr(pNetName).raw(), net.asOutParam())",
        )?,
    };
    let changed = changes.into_iter().try_for_each(|change| change(&network));
    if changed.is_err() && add {
        // Half of a new network is none.
        vbox.remove_nat_network(&network)?;
    }
    changed
}

fn parse(args: &mut Args) -> Result<(String, Vec<Change>, bool)> {
    let (mut name, mut has_network) = (None, false);
    let mut changes: Vec<Change> = Vec::new();
    while let Some(arg) = args.next(OPTIONS)? {
        let given = match arg {
            Arg::Opt(_, given) => given,
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        };
        match given.name {
            "--netname" => name = Some(given.value),
            "--network" => {
                has_network = true;
                changes.push(Box::new(move |n| {
                    n.set_network(&given.value).wanted(
                        "Failed to set network",
                        "COMSETTER(Network)(Bstr(pPrefixIPv4).raw())",
                    )
                }));
            }
            "--enable" => changes.push(Box::new(|n| Ok(n.set_enabled(true)?))),
            "--disable" => changes.push(Box::new(|n| Ok(n.set_enabled(false)?))),
            "--dhcp" => {
                let on = given.on()?;
                changes.push(Box::new(move |n| Ok(n.set_need_dhcp_server(on)?)));
            }
            "--ipv6" => {
                let on = given.on()?;
                changes.push(Box::new(move |n| Ok(n.set_ipv6_enabled(on)?)));
            }
            "--ipv6-default" => {
                let on = given.on()?;
                changes.push(Box::new(move |n| {
                    Ok(n.set_advertise_default_ipv6_route_enabled(on)?)
                }));
            }
            "--ipv6-prefix" => {
                changes.push(Box::new(move |n| Ok(n.set_ipv6_prefix(&given.value)?)));
            }
            "--loopback-6" => {
                let offset = given.integer()?;
                changes.push(Box::new(move |n| Ok(n.set_loopback_ip6(offset)?)));
            }
            "--loopback-4" => changes.push(loopback(given, args)?),
            "--port-forward-4" => changes.push(forward(given, args, false)?),
            _ => changes.push(forward(given, args, true)?),
        }
    }
    let name = name.ok_or_else(|| Failure::syntax("Missing --netname argument"))?;
    Ok((name, changes, has_network))
}

fn loopback(given: Given, args: &mut Args) -> Result<Change> {
    if given.value == "delete" {
        let address = args.more(&given)?;
        return Ok(Box::new(move |n| Ok(n.add_local_mapping(&address, 0)?)));
    }
    let rule = given.value.split_once('=');
    let rule = rule.and_then(|(a, o)| Some((a.to_owned(), o.parse::<i32>().ok()?)));
    let (address, offset) = rule.ok_or_else(|| given.invalid())?;
    Ok(Box::new(
        move |n| Ok(n.add_local_mapping(&address, offset)?),
    ))
}

fn forward(given: Given, args: &mut Args, ipv6: bool) -> Result<Change> {
    if given.value == "delete" {
        let name = args.more(&given)?;
        return Ok(Box::new(move |n| {
            n.remove_port_forward_rule(ipv6, &name).wanted(
                "Failed to delete rule",
                "RemovePortForwardRule(fIPv6, rule)",
            )
        }));
    }
    let rule = rule(&given.value).ok_or_else(|| given.invalid())?;
    Ok(Box::new(move |n| {
        n.add_port_forward_rule(
            ipv6,
            &rule.name,
            rule.proto,
            &rule.host_ip,
            rule.host_port,
            &rule.guest_ip,
            rule.guest_port,
        )
        .wanted("Failed to add rule", "AddPortForwardRule(fIPv6, rule)")
    }))
}

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    name: String,
    proto: NATProtocol,
    host_ip: String,
    host_port: u16,
    guest_ip: String,
    guest_port: u16,
}

/// `name:proto:[hostip]:hostport:[guestip]:guestport`; addresses may hold colons of their own.
fn rule(text: &str) -> Option<Rule> {
    let (name, rest) = text.split_once(':')?;
    let (proto, rest) = rest.split_once(":[")?;
    let (host_ip, rest) = rest.split_once("]:")?;
    let (host_port, rest) = rest.split_once(":[")?;
    let (guest_ip, guest_port) = rest.split_once("]:")?;
    let proto = match proto {
        "tcp" => NATProtocol::TCP,
        "udp" => NATProtocol::UDP,
        _ => return None,
    };
    Some(Rule {
        name: Some(name).filter(|n| !n.is_empty())?.to_owned(),
        proto,
        host_ip: host_ip.to_owned(),
        host_port: host_port.parse().ok()?,
        guest_ip: guest_ip.to_owned(),
        guest_port: guest_port.parse().ok()?,
    })
}

/// `natnetwork list`: those whose names match; `*` is the one wildcard.
fn list(cx: &mut Cx<'_>, pattern: Option<&str>) -> Result {
    let networks = cx.vbox()?.nat_networks()?;
    writeln!(cx.out, "NAT Networks:\n")?;
    let mut count = 0;
    for network in networks {
        let name = network.network_name()?;
        if pattern.is_none_or(|p| matches(p, &name)) {
            describe(cx.out, &network)?;
            count += 1;
        }
    }
    let s = if count == 1 { "" } else { "s" };
    writeln!(cx.out, "{count} network{s} found")?;
    Ok(())
}

/// One network of `natnetwork list` and `list natnets`.
pub fn describe(out: &mut dyn Write, n: &NATNetwork) -> Result {
    let route = known(n.advertise_default_ipv6_route_enabled())?.unwrap_or_default();
    for (label, value) in [
        ("Name:", n.network_name()?),
        ("Network:", n.network()?),
        ("Gateway:", n.gateway()?),
        ("DHCP Server:", yes_no_text(n.need_dhcp_server()?)),
        ("IPv6:", yes_no_text(n.ipv6_enabled()?)),
        ("IPv6 Prefix:", n.ipv6_prefix()?),
        ("IPv6 Default:", yes_no_text(route)),
        ("Enabled:", yes_no_text(n.enabled()?)),
    ] {
        writeln!(out, "{label:<13} {value}")?;
    }
    let loopbacks = n.local_mappings()?;
    for (title, lines) in [
        ("Port-forwarding (ipv4)", n.port_forward_rules4()?),
        ("Port-forwarding (ipv6)", n.port_forward_rules6()?),
        ("loopback mappings (ipv4)", loopbacks),
    ] {
        if !lines.is_empty() {
            writeln!(out, "{title}")?;
        }
        for line in lines {
            writeln!(out, "        {line}")?;
        }
    }
    writeln!(out)?;
    Ok(())
}

fn yes_no_text(yes: bool) -> String {
    let word = yes_no(yes);
    word.get(..1).unwrap_or_default().to_uppercase() + word.get(1..).unwrap_or_default()
}

fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = rest.get(at + part.len()..).unwrap_or_default();
        last = Some(part);
    }
    match last {
        None => rest.is_empty(),
        Some(part) => part.is_empty() || name.ends_with(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_six_parts() {
        let ssh = rule("ssh:tcp:[]:1022:[192.168.15.5]:22").expect("a rule");
        assert_eq!(
            (ssh.name.as_str(), ssh.host_port, ssh.guest_port),
            ("ssh", 1022, 22)
        );
        assert_eq!(
            (ssh.host_ip.as_str(), ssh.guest_ip.as_str()),
            ("", "192.168.15.5")
        );
        let six = rule("web:udp:[::1]:80:[fd17::2]:8080").expect("a rule");
        assert_eq!(
            (six.host_ip.as_str(), six.guest_ip.as_str()),
            ("::1", "fd17::2")
        );
        for wrong in [
            "",
            "ssh",
            "ssh:tcp:[]:70000:[]:22",
            "ssh:odd:[]:1:[]:2",
            ":tcp:[]:1:[]:2",
            "a:tcp::1::2",
        ] {
            assert_eq!(rule(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn patterns_have_stars() {
        for (pattern, name) in [
            ("a", "a"),
            ("*", "x"),
            ("nat*", "natnet1"),
            ("*net1", "natnet1"),
            ("n*t*1", "natnet1"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("b*", "ab"), ("*b", "ba"), ("", "x")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn wrong_lines_are_found_without_the_service() {
        let parsed = |line: &[&str]| parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())));
        assert!(
            parsed(&[
                "--netname",
                "n",
                "--network",
                "10.0.0.0/24",
                "--dhcp",
                "on",
                "--port-forward-4",
                "delete",
                "x"
            ])
            .is_ok()
        );
        for wrong in [
            &[][..],
            &["--netname", "n", "--dhcp", "maybe"],
            &["--netname", "n", "--port-forward-4", "x"],
            &["--netname", "n", "--loopback-4", "x"],
            &["--netname", "n", "y"],
        ] {
            assert!(
                matches!(parsed(wrong), Err(Failure::Syntax(_))),
                "{wrong:?}"
            );
        }
    }
}
