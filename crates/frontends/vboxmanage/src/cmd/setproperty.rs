//! `setproperty`: the user's preferences.

use super::{Command, form};
use crate::args::{Args, choose, on_off, parse_integer};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};
use api::types::ProxyMode;

pub const COMMAND: Command = Command {
    name: "setproperty",
    aliases: &[],
    usage,
    forms: || NAMES.iter().map(|word| form(word, &[])).collect(),
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage setproperty <property-name> <property-value>

      machinefolder default | folder             vrdeauthlibrary default | library
      websrvauthlibrary default | null | library vrdeextpack null | name
      hwvirtexclusive on | off                   autostartdbpath null | folder
      loghistorycount number                     defaultfrontend default | name
      logginglevel setting                       proxymode manual | noproxy | system
      proxyurl url                               language C | language-code\n"
        .to_owned()
}

const PROXY_MODES: &[(&str, ProxyMode)] = &[
    ("manual", ProxyMode::Manual),
    ("noproxy", ProxyMode::NoProxy),
    ("system", ProxyMode::System),
];

const NAMES: &[&str] = &[
    "machinefolder",
    "vrdeauthlibrary",
    "websrvauthlibrary",
    "vrdeextpack",
    "vrdelibrary",
    "hwvirtexclusive",
    "autostartdbpath",
    "loghistorycount",
    "defaultfrontend",
    "logginglevel",
    "proxymode",
    "proxyurl",
    "language",
];

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let name = args.required("property name")?;
    let Some(value) = args.take() else {
        return Err(Failure::syntax(format!(
            "Missing value of property '{name}'"
        )));
    };
    args.end()?;
    if !NAMES.contains(&name.as_str()) {
        return Err(Failure::syntax(format!("Invalid parameter '{name}'")));
    }
    let wrong = || Failure::syntax(format!("Invalid value '{value}' for property '{name}'"));
    // The word that stands for an empty value.
    let unless = |word: &str| if value == word { "" } else { value.as_str() };
    // Values are understood before the service is asked.
    let folder = absolute(&value)?;
    let switch = on_off(&value);
    let number = parse_integer::<u32>(&value);
    let proxy = choose(&value, PROXY_MODES);
    match name.as_str() {
        "hwvirtexclusive" if switch.is_none() => return Err(wrong()),
        "loghistorycount" if number.is_none() => return Err(wrong()),
        "proxymode" if proxy.is_none() => return Err(wrong()),
        _ => {}
    }
    let system = cx.vbox()?.system_properties()?;
    match name.as_str() {
        "machinefolder" => {
            let folder = if value == "default" { "" } else { &folder };
            system.set_default_machine_folder(folder)
        }
        "vrdeauthlibrary" => system.set_vrde_auth_library(unless("default")),
        "websrvauthlibrary" => system.set_web_service_auth_library(unless("default")),
        "vrdeextpack" | "vrdelibrary" => system.set_default_vrde_ext_pack(unless("null")),
        "hwvirtexclusive" => system.set_exclusive_hw_virt(switch.unwrap_or_default()),
        "autostartdbpath" => {
            let folder = if value == "null" { "" } else { &folder };
            system.set_autostart_database_path(folder)
        }
        "loghistorycount" => system.set_log_history_count(number.unwrap_or_default()),
        "defaultfrontend" => system.set_default_frontend(unless("default")),
        "logginglevel" => system.set_logging_level(&value),
        "proxymode" => system.set_proxy_mode(proxy.unwrap_or(ProxyMode::System)),
        "proxyurl" => system.set_proxy_url(&value),
        _ => system.set_language_id(&value),
    }
    .during("setproperty")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_found_without_the_service() {
        for line in [
            ["hwvirtexclusive", "maybe"],
            ["loghistorycount", "many"],
            ["proxymode", "odd"],
            ["frobnicate", "x"],
        ] {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut cx = Cx::new(&mut out, &mut err);
            let result = run(&mut cx, &mut Args::new(line.map(str::to_owned)));
            assert!(matches!(result, Err(Failure::Syntax(_))), "{line:?}");
        }
    }
}
