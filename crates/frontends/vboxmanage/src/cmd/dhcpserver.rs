//! `dhcpserver`: the servers of host-only and internal networks, as the settings keep them.

use super::{Command, Form, form};
use crate::args::{Arg, Args, Opt, flag, value};
use crate::cx::Cx;
use crate::error::{During, Failure, Result};
use api::client::DHCPServer;

pub const COMMAND: Command = Command {
    name: "dhcpserver",
    aliases: &[],
    usage,
    forms,
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage dhcpserver add <--network=netname | --interface=ifname> <--server-ip=address>
      <--netmask=mask> <--lower-ip=address> <--upper-ip=address> <--enable | --disable>

  VBoxManage dhcpserver modify <--network=netname | --interface=ifname> [--server-ip=address]
      [--lower-ip=address] [--upper-ip=address] [--netmask=mask] [--enable | --disable]

  VBoxManage dhcpserver remove <--network=netname | --interface=ifname>

  VBoxManage dhcpserver start <--network=netname | --interface=ifname>

  VBoxManage dhcpserver restart <--network=netname | --interface=ifname>

  VBoxManage dhcpserver stop <--network=netname | --interface=ifname>

  VBoxManage dhcpserver findlease <--network=netname | --interface=ifname> <--mac-address=mac>\n"
        .to_owned()
}

fn forms() -> Vec<Form> {
    let of = |word| {
        form(
            word,
            if matches!(word, "add" | "modify") {
                OPTIONS
            } else {
                NETWORK
            },
        )
    };
    ["add", "modify", "remove", "start", "restart", "stop"]
        .map(of)
        .into_iter()
        .chain([form("findlease", LEASE)])
        .collect()
}

/// Which server it is about.
const NETWORK: &[Opt] = &[
    value(&["--network", "--netname", "-n"]),
    value(&["--interface", "--ifname", "-f"]),
];

const LEASE: &[Opt] = &[
    value(&["--network", "--netname", "-n"]),
    value(&["--interface", "--ifname", "-f"]),
    value(&["--mac-address", "-m"]),
];

const OPTIONS: &[Opt] = &[
    value(&["--network", "--netname", "-n"]),
    value(&["--interface", "--ifname", "-f"]),
    value(&["--server-ip", "--ip", "-a"]),
    value(&["--netmask", "-m"]),
    value(&["--lower-ip", "--lowerip", "-l"]),
    value(&["--upper-ip", "--upperip", "-u"]),
    flag(&["--enable", "-e"]),
    flag(&["--disable", "-d"]),
];

/// Settings of clients and groups, whose room is not built yet.
const NOT_YET: &[&str] = &[
    "--global",
    "--group",
    "--vm",
    "--nic",
    "--fixed-address",
    "--set-opt",
    "--set-opt-hex",
    "--del-opt",
    "--force-opt",
    "--unforce-opt",
    "--suppress-opt",
    "--unsuppress-opt",
    "--min-lease-time",
    "--default-lease-time",
    "--max-lease-time",
    "--remove-config",
    "--zap-options",
    "--zap-conditions",
    "--del-mac",
    "--options",
];

#[derive(Debug, Default)]
struct Wanted {
    network: Option<String>,
    ip: Option<String>,
    mask: Option<String>,
    lower: Option<String>,
    upper: Option<String>,
    enabled: Option<bool>,
    mac: Option<String>,
}

fn parse(args: &mut Args, table: &[Opt]) -> Result<(String, Wanted)> {
    let mut wanted = Wanted::default();
    loop {
        let option = args.peek().unwrap_or_default();
        let bare = option.split('=').next().unwrap_or_default();
        if NOT_YET.contains(&bare) || bare.starts_with("--incl-") || bare.starts_with("--excl-") {
            return Err(Failure::message(format!(
                "The option '{bare}' of dhcpserver is not available in this version of Oxbox yet"
            )));
        }
        let given = match args.next(table)? {
            None => break,
            Some(Arg::Opt(_, given)) => given,
            Some(Arg::Word(word)) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        };
        match given.name {
            "--network" | "--interface" if wanted.network.is_some() => {
                let text = "Either --network or --interface must be given, and once";
                return Err(Failure::syntax(text));
            }
            "--network" => wanted.network = Some(given.value),
            // The name that the network of an interface has.
            "--interface" => {
                wanted.network = Some(format!("HostInterfaceNetworking-{}", given.value));
            }
            "--server-ip" => wanted.ip = Some(given.value),
            "--netmask" => wanted.mask = Some(given.value),
            "--lower-ip" => wanted.lower = Some(given.value),
            "--upper-ip" => wanted.upper = Some(given.value),
            "--mac-address" => wanted.mac = Some(given.value),
            name => wanted.enabled = Some(name == "--enable"),
        }
    }
    let network = wanted.network.clone().ok_or_else(|| {
        Failure::syntax(
            "You need to specify either --network or --interface to identify the DHCP server",
        )
    })?;
    Ok((network, wanted))
}

fn find(cx: &mut Cx<'_>, network: &str) -> Result<Option<DHCPServer>> {
    match cx.vbox()?.find_dhcp_server_by_network_name(network) {
        Ok(server) => Ok(Some(server)),
        Err(e) if e.code == api::ResultCode::VBOX_E_OBJECT_NOT_FOUND => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let action = args.required("subcommand")?;
    let table = match action.as_str() {
        "add" | "modify" => OPTIONS,
        "remove" | "start" | "restart" | "stop" => NETWORK,
        "findlease" => LEASE,
        _ => return Err(Failure::syntax(format!("Invalid parameter '{action}'"))),
    };
    let (network, wanted) = parse(args, table)?;
    if action == "add" {
        return add(cx, &network, wanted);
    }
    let Some(server) = find(cx, &network)? else {
        return Err(Failure::message(format!(
            "DHCP server does not exist: {network}"
        )));
    };
    match action.as_str() {
        "modify" => configure(&server, wanted),
        "remove" => cx
            .vbox()?
            .remove_dhcp_server(&server)
            .wanted("Failed to remove server", "RemoveDHCPServer(ptrDHCPServer)"),
        "start" => server
            .start("", "netflt")
            .wanted("Failed to start the server", "Start(trunkName, trunkType)"),
        "restart" => server
            .restart()
            .wanted("Failed to restart the server", "Restart()"),
        "stop" => server.stop().wanted("Failed to stop the server", "Stop()"),
        _ => {
            let mac = wanted
                .mac
                .ok_or_else(|| Failure::syntax("You need to specify a MAC address too look for"))?;
            let (address, state, ..) = server
                .find_lease_by_mac(&mac, 0)
                .during("FindLeaseByMAC(mac, type, ip, state, issued, expire)")?;
            writeln!(cx.out, "IP Address:  {address}\nState:       {state}")?;
            Ok(())
        }
    }
}

fn add(cx: &mut Cx<'_>, network: &str, wanted: Wanted) -> Result {
    let missing: Vec<&str> = [
        ("--server-ip", &wanted.ip),
        ("--netmask", &wanted.mask),
        ("--lower-ip", &wanted.lower),
        ("--upper-ip", &wanted.upper),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.is_none().then_some(name))
    .collect();
    if !missing.is_empty() {
        return Err(Failure::syntax(format!(
            "Missing required option(s): {}",
            missing.join(", ")
        )));
    }
    if find(cx, network)?.is_some() {
        return Err(Failure::message("DHCP server already exists"));
    }
    let vbox = cx.vbox()?;
    let server = vbox.create_dhcp_server(network).wanted(
        "Failed to create server",
        "CreateDHCPServer(network, ptrDHCPServer.asOutParam())",
    )?;
    let done = configure(&server, wanted);
    if done.is_err() {
        // Half of a new server is none.
        vbox.remove_dhcp_server(&server)?;
    }
    done
}

fn configure(server: &DHCPServer, wanted: Wanted) -> Result {
    let addresses = [&wanted.ip, &wanted.mask, &wanted.lower, &wanted.upper];
    if addresses.iter().any(|a| a.is_some()) {
        let or = |given: Option<String>, present: api::Result<String>| match given {
            Some(given) => Ok(given),
            None => present,
        };
        server
            .set_configuration(
                &or(wanted.ip, server.ip_address())?,
                &or(wanted.mask, server.network_mask())?,
                &or(wanted.lower, server.lower_ip())?,
                &or(wanted.upper, server.upper_ip())?,
            )
            .wanted(
                "Failed to set configuration",
                "SetConfiguration(serverIp, netmask, lowerIp, upperIp)",
            )?;
    }
    if let Some(enabled) = wanted.enabled {
        server.set_enabled(enabled)?;
    }
    Ok(())
}

/// `list dhcpservers`.
pub fn list(cx: &mut Cx<'_>) -> Result {
    for server in cx.vbox()?.dhcp_servers()? {
        let mask = server.network_mask()?;
        let enabled = if server.enabled()? { "Yes" } else { "No" };
        write!(
            cx.out,
            "NetworkName:    {}\nDhcpd IP:       {}\nLowerIPAddress: {}\nUpperIPAddress: {}\n\
             NetworkMask:    {mask}\nEnabled:        {enabled}\nGlobal Configuration:\n\
             \x20   minLeaseTime:     default\n    defaultLeaseTime: default\n\
             \x20   maxLeaseTime:     default\n    Forced options:   None\n\
             \x20   Suppressed opts.: None\n        1/legacy: {mask}\n\
             Groups:               None\nIndividual Configs:   None\n\n",
            server.network_name()?,
            server.ip_address()?,
            server.lower_ip()?,
            server.upper_ip()?
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_names_of_the_options() {
        let parsed = |line: &[&str]| {
            parse(
                &mut Args::new(line.iter().map(|s| (*s).to_owned())),
                OPTIONS,
            )
        };
        let old = "--ifname vboxnet0 --ip 1.2.3.4 --netmask 255.0.0.0 --lowerip 1.2.3.5 --upperip 1.2.3.9 --enable";
        let line: Vec<&str> = old.split(' ').collect();
        let (network, wanted) = parsed(&line).expect("known");
        assert_eq!(network, "HostInterfaceNetworking-vboxnet0");
        assert_eq!(
            (wanted.upper.as_deref(), wanted.enabled),
            (Some("1.2.3.9"), Some(true))
        );
        assert!(matches!(parsed(&["--enable"]), Err(Failure::Syntax(_))));
        assert!(matches!(
            parsed(&["--network", "n", "--ifname", "x"]),
            Err(Failure::Syntax(_))
        ));
        for room in ["--set-opt=6", "--group=g", "--incl-mac=x"] {
            let refused = parsed(&["--network", "n", room]);
            assert!(matches!(refused, Err(Failure::Message(t)) if t.contains("not available")));
        }
    }
}
