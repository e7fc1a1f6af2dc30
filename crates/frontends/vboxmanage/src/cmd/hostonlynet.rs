//! `hostonlynet` and `hostonlyif`: host-only networks as the settings keep them. Interfaces of the
//! host have no room yet.

use super::{Command, Form, form};
use crate::args::{Arg, Args, Opt, flag, value};
use crate::cx::Cx;
use crate::error::{During, Failure, Result};
use api::client::HostOnlyNetwork;

pub const COMMAND: Command = Command {
    name: "hostonlynet",
    aliases: &[],
    usage,
    forms,
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage hostonlynet add <--name=netname> [--id=netid] <--netmask=mask>
      <--lower-ip=address> <--upper-ip=address> [--enable | --disable]

  VBoxManage hostonlynet modify <--name=netname | --id=netid> [--lower-ip=address]
      [--upper-ip=address] [--netmask=mask] [--enable | --disable]

  VBoxManage hostonlynet remove <--name=netname | --id=netid>\n"
        .to_owned()
}

fn forms() -> Vec<Form> {
    ["add", "modify", "remove"]
        .map(|word| form(word, OPTIONS))
        .into()
}

const OPTIONS: &[Opt] = &[
    value(&["--name", "-n"]),
    value(&["--id", "-u"]),
    value(&["--netmask", "-m"]),
    value(&["--lower-ip", "--lowerip", "-l"]),
    value(&["--upper-ip", "--upperip", "-h"]),
    flag(&["--enable", "-e"]),
    flag(&["--disable", "-d"]),
];

#[derive(Debug, Default)]
struct Wanted {
    name: String,
    id: String,
    mask: Option<String>,
    lower: Option<String>,
    upper: Option<String>,
    enabled: Option<bool>,
}

fn parse(args: &mut Args, add: bool) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--name" => wanted.name = given.value,
                "--id" if !crate::media::is_uuid(&given.value) => return Err(given.invalid()),
                "--id" => wanted.id = given.value,
                "--netmask" => wanted.mask = Some(given.value),
                "--lower-ip" => wanted.lower = Some(given.value),
                "--upper-ip" => wanted.upper = Some(given.value),
                name => wanted.enabled = Some(name == "--enable"),
            },
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    if add && wanted.name.is_empty() {
        return Err(Failure::syntax("The --name parameter must be specified"));
    }
    if wanted.name.is_empty() && wanted.id.is_empty() {
        return Err(Failure::syntax(
            "Either --name or --id parameter must be specified",
        ));
    }
    for (option, value) in [
        ("--netmask", &wanted.mask),
        ("--lower-ip", &wanted.lower),
        ("--upper-ip", &wanted.upper),
    ] {
        if add && value.is_none() {
            let text = format!("The {option} parameter must be specified");
            return Err(Failure::syntax(text));
        }
    }
    Ok(wanted)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let action = args.required("subcommand")?;
    if !matches!(action.as_str(), "add" | "modify" | "remove") {
        return Err(Failure::syntax(format!("Invalid parameter '{action}'")));
    }
    let add = action == "add";
    let wanted = parse(args, add)?;
    let vbox = cx.vbox()?;
    let network = if add {
        vbox.create_host_only_network(&wanted.name).wanted(
            "Failed to create host-only network",
            "CreateHostOnlyNetwork(strNetworkName.raw(), hostOnlyNetwork.asOutParam())",
        )?
    } else if wanted.id.is_empty() {
        vbox.find_host_only_network_by_name(&wanted.name).wanted(
            "Host-only network not found",
            "FindHostOnlyNetworkByName(name, net)",
        )?
    } else {
        vbox.find_host_only_network_by_id(&wanted.id).wanted(
            "Host-only network not found",
            "FindHostOnlyNetworkById(id, net)",
        )?
    };
    if action == "remove" {
        return vbox.remove_host_only_network(&network).wanted(
            "Failed to remove host-only network",
            "RemoveHostOnlyNetwork(net)",
        );
    }
    let changed = change(&network, &wanted, add);
    if changed.is_err() && add {
        // Half of a new network is none. Its id may be the one it was to get.
        let made = vbox.find_host_only_network_by_name(&wanted.name)?;
        vbox.remove_host_only_network(&made)?;
    }
    changed
}

fn change(network: &HostOnlyNetwork, wanted: &Wanted, add: bool) -> Result {
    if let Some(mask) = &wanted.mask {
        network.set_network_mask(mask)?;
    }
    if let Some(lower) = &wanted.lower {
        network.set_lower_ip(lower)?;
    }
    if let Some(upper) = &wanted.upper {
        network.set_upper_ip(upper)?;
    }
    if let Some(enabled) = wanted.enabled {
        network.set_enabled(enabled)?;
    }
    if !add && !wanted.id.is_empty() && !wanted.name.is_empty() {
        network.set_network_name(&wanted.name)?;
    }
    // Last: the reference goes by it.
    if add && !wanted.id.is_empty() {
        network.set_id(&wanted.id)?;
    }
    Ok(())
}

/// `list hostonlynets`.
pub fn list(cx: &mut Cx<'_>) -> Result {
    for network in cx.vbox()?.host_only_networks()? {
        let (name, id) = (network.network_name()?, network.id()?);
        let state = if network.enabled()? {
            "Enabled"
        } else {
            "Disabled"
        };
        write!(
            cx.out,
            "Name:            {name}\nGUID:            {id}\n\nState:           {state}\n\
             NetworkMask:     {}\nLowerIP:         {}\nUpperIP:         {}\n\
             VBoxNetworkName: hostonly-{name}\n\n",
            network.network_mask()?,
            network.lower_ip()?,
            network.upper_ip()?
        )?;
    }
    Ok(())
}

pub const INTERFACES: Command = Command {
    name: "hostonlyif",
    aliases: &[],
    usage: || {
        "  VBoxManage hostonlyif ipconfig <ifname> [--dhcp | --ip=IPv4-address --netmask=IPv4-netmask |
      --ipv6=IPv6-address --netmasklengthv6=length]

  VBoxManage hostonlyif create

  VBoxManage hostonlyif remove <ifname>\n"
            .to_owned()
    },
    forms: || {
        vec![
            form("ipconfig", IP_CONFIG),
            // Parsed, and refused as long as there is nothing to make it with.
            form("remove", &[]),
        ]
    },
    run: Some(interfaces),
};

const IP_CONFIG: &[Opt] = &[
    flag(&["--dhcp", "-d"]),
    value(&["--ip", "-a"]),
    value(&["--netmask", "-m"]),
    value(&["--ipv6", "-b"]),
    value(&["--netmasklengthv6", "-l"]),
];

fn interfaces(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let action = args.required("subcommand")?;
    match action.as_str() {
        "create" => {
            args.end()?;
            Err(Failure::message(
                "Host-only interfaces are not available in this version of Oxbox yet",
            ))
        }
        "remove" => {
            let name = args.required("interface name")?;
            args.end()?;
            let host = cx.vbox()?.host()?;
            let found = host
                .find_host_network_interface_by_name(&name)
                .during("FindHostNetworkInterfaceByName(Bstr(name).raw(), hif.asOutParam())")?;
            host.remove_host_only_network_interface(&found.id()?)
                .during("RemoveHostOnlyNetworkInterface(guid.raw(), progress.asOutParam())")
                .map(drop)
        }
        "ipconfig" => {
            let name = args.required("interface name")?;
            let (mut dhcp, mut ip, mut mask) = (false, None, "255.255.255.0".to_owned());
            let (mut ipv6, mut length) = (None, 64_u32);
            while let Some(arg) = args.next(IP_CONFIG)? {
                match arg {
                    Arg::Opt(_, given) => match given.name {
                        "--dhcp" => dhcp = true,
                        "--ip" => ip = Some(given.value),
                        "--netmask" => mask = given.value,
                        "--ipv6" => ipv6 = Some(given.value),
                        _ => length = given.within(1, 128)?,
                    },
                    Arg::Word(word) => {
                        return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
                    }
                }
            }
            if usize::from(dhcp) + usize::from(ip.is_some()) + usize::from(ipv6.is_some()) != 1 {
                return Err(Failure::syntax(
                    "You must specify one of --dhcp, --ip and --ipv6",
                ));
            }
            let found = cx
                .vbox()?
                .host()?
                .find_host_network_interface_by_name(&name)
                .during("FindHostNetworkInterfaceByName(Bstr(pszName).raw(), hif.asOutParam())")?;
            match (ip, ipv6) {
                (Some(ip), _) => found
                    .enable_static_ip_config(&ip, &mask)
                    .during("EnableStaticIPConfig(Bstr(pIp).raw(), Bstr(pNetmask).raw())"),
                (_, Some(ip)) => found
                    .enable_static_ip_config_v6(&ip, length)
                    .during("EnableStaticIPConfigV6(Bstr(pIpv6).raw(), (ULONG)uNetmasklengthv6)"),
                _ => found
                    .enable_dynamic_ip_config()
                    .during("EnableDynamicIPConfig()"),
            }
        }
        _ => Err(Failure::syntax(format!("Invalid parameter '{action}'"))),
    }
}
