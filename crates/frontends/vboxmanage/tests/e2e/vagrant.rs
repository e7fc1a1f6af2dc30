//! The calls of Vagrant's VirtualBox provider, in its order, and what it reads from them. Where it
//! uses a regular expression, the expression stands beside the code that does the same.

use super::common::{Home, Said};

/// Exit 0, and nothing on standard error that matches `/VBoxManage([.a-z]+?): error:/` or
/// `/failed to open \/dev\/vboxnetctl/i`.
fn vagrant(home: &Home, line: &[&str]) -> String {
    home.ok(line)
}

/// `^"(.+?)" \{(.+?)\}$`.
fn machines(list: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (name, id) = line.strip_prefix('"')?.split_once("\" {")?;
        Some((name.to_owned(), id.strip_suffix('}')?.to_owned()))
    };
    list.lines().filter_map(pair).collect()
}

/// `^KEY="(.+?)"$`.
fn value<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix("=\"")?.strip_suffix('"'))
        .filter(|v| !v.is_empty())
}

/// `/^nic(\d+)=".+?"$/` then `/^Forwarding.+?="(.+?),.+?,(.*?),(.+?),.*?,(.+?)"$/`: adapter, name,
/// host IP, host port, guest port.
fn forwards(info: &str) -> Vec<(u32, String, String, u16, u16)> {
    let (mut nic, mut all) = (0, Vec::new());
    for line in info.lines() {
        if let Some(rest) = line.strip_prefix("nic")
            && let Some((number, _)) = rest.split_once("=\"")
            && let Ok(number) = number.parse()
        {
            nic = number;
        }
        if line.starts_with("Forwarding")
            && let Some((_, rule)) = line.split_once("=\"")
        {
            let fields: Vec<&str> = rule.trim_end_matches('"').split(',').collect();
            let port = |i: usize| fields[i].parse().expect("a port");
            all.push((
                nic,
                fields[0].to_owned(),
                fields[2].to_owned(),
                port(3),
                port(5),
            ));
        }
    }
    all
}

#[test]
fn the_parts_of_vagrant_up_that_have_their_rooms() {
    let home = Home::new();
    // Version: before `_`, then before `r`, one of the accepted ones.
    let version = vagrant(&home, &["--version"]);
    let version = version.split('_').next().and_then(|v| v.split('r').next());
    assert!(version.is_some_and(|v| v.starts_with("7.0.") && v != "4.2.14"));
    assert!(home.run(&["--version"]).err.is_empty());
    // Health check.
    vagrant(&home, &["list", "hostonlyifs"]);

    vagrant(
        &home,
        &[
            "createvm",
            "--name",
            "box 1",
            "--ostype",
            "Ubuntu_64",
            "--register",
        ],
    );
    let all = machines(&vagrant(&home, &["list", "vms"]));
    assert_eq!((all.len(), all[0].0.as_str()), (1, "box 1"));
    let id = all[0].1.as_str();

    // Existence and state.
    vagrant(&home, &["showvminfo", id]);
    let info = vagrant(&home, &["showvminfo", id, "--machinereadable"]);
    assert!(!info.lines().any(|l| l == "name=\"<inaccessible>\""));
    assert_eq!(value(&info, "VMState"), Some("poweroff"));
    let gone: Said = home.run(&["showvminfo", "0b3a5d0e-7e54-4b6b-9d3d-0123456789ab"]);
    assert!(gone.code != 0 && gone.err.contains("VBOX_E_OBJECT_NOT_FOUND"));

    // MAC, name, machine folder.
    vagrant(&home, &["modifyvm", id, "--macaddress1", "auto"]);
    vagrant(&home, &["modifyvm", id, "--macaddress1", "080027B9DDCA"]);
    let properties = vagrant(&home, &["list", "systemproperties"]);
    let folder = properties
        .lines()
        .find_map(|l| Some(l.strip_prefix("Default machine folder:")?.trim_start()));
    assert_eq!(folder, Some(home.path("VirtualBox VMs").as_str()));
    vagrant(&home, &["modifyvm", id, "--name", "proj_default_1"]);
    let info = vagrant(&home, &["showvminfo", id, "--machinereadable"]);
    let file = home.path("VirtualBox VMs/proj_default_1/proj_default_1.vbox");
    assert_eq!(value(&info, "CfgFile"), Some(file.as_str()));
    assert!(std::path::Path::new(&file).exists());

    // Networks and forwards.
    let mut none = vec!["modifyvm".to_owned(), id.to_owned()];
    for nic in 2..=8 {
        none.extend([format!("--nic{nic}"), "none".to_owned()]);
    }
    vagrant(&home, &none.iter().map(String::as_str).collect::<Vec<_>>());
    vagrant(
        &home,
        &[
            "modifyvm",
            id,
            "--nic1",
            "nat",
            "--nic2",
            "hostonly",
            "--hostonlyadapter2",
            "vboxnet0",
            "--cableconnected2",
            "on",
            "--nic3",
            "intnet",
            "--intnet3",
            "inner",
            "--cableconnected3",
            "on",
            "--nic4",
            "bridged",
            "--bridgeadapter4",
            "eth0",
            "--cableconnected4",
            "on",
        ],
    );
    vagrant(
        &home,
        &[
            "modifyvm",
            id,
            "--natpf1",
            "ssh,tcp,127.0.0.1,2222,,22",
            "--natpf1",
            "tcp8080,tcp,,8080,,80",
        ],
    );
    let info = vagrant(&home, &["showvminfo", id, "--machinereadable"]);
    assert_eq!(
        forwards(&info),
        [
            (1, "ssh".to_owned(), "127.0.0.1".to_owned(), 2222, 22),
            (1, "tcp8080".to_owned(), String::new(), 8080, 80),
        ]
    );
    for (key, wanted) in [
        ("nic1", "nat"),
        ("nic2", "hostonly"),
        ("hostonlyadapter2", "vboxnet0"),
        ("nic3", "intnet"),
        ("intnet3", "inner"),
        ("nic4", "bridged"),
        ("bridgeadapter4", "eth0"),
        ("nic5", "none"),
        ("macaddress1", "080027B9DDCA"),
    ] {
        assert_eq!(value(&info, key), Some(wanted), "{key}");
    }
    vagrant(
        &home,
        &[
            "modifyvm", id, "--natpf1", "delete", "ssh", "--natpf1", "delete", "tcp8080",
        ],
    );
    let info = vagrant(&home, &["showvminfo", id, "--machinereadable"]);
    assert!(forwards(&info).is_empty());

    // Shared folders.
    vagrant(
        &home,
        &[
            "setextradata",
            id,
            "VBoxInternal2/SharedFoldersEnableSymlinksCreate/vagrant",
            "1",
        ],
    );
    vagrant(
        &home,
        &[
            "sharedfolder",
            "add",
            id,
            "--name",
            "vagrant",
            "--hostpath",
            &home.path(""),
            "--automount",
        ],
    );
    let info = vagrant(&home, &["showvminfo", id, "--machinereadable"]);
    assert_eq!(
        value(&info, "SharedFolderNameMachineMapping1"),
        Some("vagrant")
    );
    vagrant(&home, &["sharedfolder", "remove", id, "--name", "vagrant"]);

    // Defaults.
    vagrant(&home, &["modifyvm", id, "--rtcuseutc", "on"]);
    vagrant(
        &home,
        &[
            "modifyvm",
            id,
            "--natdnsproxy1",
            "off",
            "--natdnshostresolver1",
            "off",
        ],
    );

    // Disks: UUID = text after the last `:`.
    vagrant(
        &home,
        &["storagectl", id, "--name", "IDE Controller", "--add", "ide"],
    );
    let made = vagrant(
        &home,
        &[
            "createmedium",
            "--filename",
            &home.path("x.vdi"),
            "--sizebyte",
            "1073741824",
            "--format",
            "VDI",
        ],
    );
    let disk = made.rsplit(':').next().map(str::trim).expect("UUID");
    vagrant(
        &home,
        &[
            "storageattach",
            id,
            "--storagectl",
            "IDE Controller",
            "--port",
            "0",
            "--device",
            "0",
            "--type",
            "hdd",
            "--medium",
            &home.path("x.vdi"),
            "--comment",
            "This disk is managed by Vagrant",
        ],
    );
    let info = vagrant(&home, &["showvminfo", id, "--machinereadable"]);
    assert_eq!(
        value(&info, "storagecontrollername0"),
        Some("IDE Controller")
    );
    assert!(
        info.contains(&format!("\"IDE Controller-ImageUUID-0-0\"=\"{disk}\"\n")),
        "{info}"
    );
    let list = vagrant(&home, &["list", "hdds"]);
    let block = list
        .split("\n\n")
        .find(|b| b.contains(disk))
        .expect("the disk");
    let entry = |key: &str| {
        let found = block
            .lines()
            .filter_map(|l| l.split_once(':'))
            .find(|(k, _)| *k == key);
        found.map(|(_, v)| v.trim().to_owned())
    };
    assert_eq!(entry("Location"), Some(home.path("x.vdi")));
    assert_eq!(entry("Storage format").as_deref(), Some("VDI"));
    assert_eq!(entry("Capacity").as_deref(), Some("1024 MBytes"));
    vagrant(
        &home,
        &[
            "storageattach",
            id,
            "--storagectl",
            "IDE Controller",
            "--port",
            "0",
            "--device",
            "0",
            "--medium",
            "none",
        ],
    );
    vagrant(
        &home,
        &[
            "modifymedium",
            &home.path("x.vdi"),
            "--resizebyte",
            "2147483648",
        ],
    );
    vagrant(&home, &["closemedium", disk, "--delete"]);

    // Boot, as seen from outside, and the way back.
    let started = vagrant(&home, &["startvm", id, "--type", "headless"]);
    // /VM ".+?" has been successfully started/
    assert!(started.contains(&format!("VM \"{id}\" has been successfully started")));
    let info = vagrant(&home, &["showvminfo", id, "--machinereadable"]);
    assert_eq!(value(&info, "VMState"), Some("running"));
    assert_eq!(
        vagrant(
            &home,
            &["guestproperty", "get", id, "/VirtualBox/GuestAdd/Version"]
        ),
        "No value set!\n"
    );
    vagrant(&home, &["controlvm", id, "poweroff"]);
    let info = vagrant(&home, &["showvminfo", id, "--machinereadable"]);
    assert_eq!(value(&info, "VMState"), Some("poweroff"));
    vagrant(&home, &["unregistervm", id, "--delete"]);
    assert!(machines(&vagrant(&home, &["list", "vms"])).is_empty());
}
