//! Whole sessions of commands against a real service: what is printed, where, and exit codes.

use super::common::{Home, said};
use std::io::Write;
use std::process::Stdio;

/// The UUID of `createvm`'s second line.
fn uuid_of(out: &str) -> String {
    let line = out.lines().nth(1).expect("a second line");
    line.strip_prefix("UUID: ").expect("UUID").to_owned()
}

#[test]
fn a_machine_from_creation_to_removal() {
    let home = Home::new();
    let file = home.path("VirtualBox VMs/deb/deb.vbox");
    let out = home.ok(&[
        "createvm",
        "--name",
        "deb",
        "--ostype",
        "Debian_64",
        "--register",
    ]);
    let id = uuid_of(&out);
    assert_eq!(
        out,
        format!(
            "Virtual machine 'deb' is created and registered.\nUUID: {id}\nSettings file: '{file}'\n"
        )
    );
    assert_eq!(home.ok(&["list", "vms"]), format!("\"deb\" {{{id}}}\n"));
    assert_eq!(home.ok(&["list", "runningvms"]), "");
    // A second one of that name.
    let err = home.fails(&["createvm", "--name", "deb", "--register"]);
    assert!(err.contains("VBoxManage: error: Details: code "), "{err}");
    assert!(
        err.contains("VBoxManage: error: Context: \"CreateMachine("),
        "{err}"
    );

    let quiet = home.run(&[
        "modifyvm", "deb", "--memory", "512", "--cpus=2", "-vram", "32", "--hpet", "on",
    ]);
    assert_eq!(
        (quiet.code, quiet.out.as_str(), quiet.err.as_str()),
        (0, "", "")
    );
    home.ok(&[
        "modifyvm",
        "deb",
        "--boot1",
        "disk",
        "--boot2",
        "none",
        "--uart1",
        "0x3F8",
        "4",
        "--uartmode1",
        "file",
        "log",
        "--natpf1",
        "ssh,tcp,127.0.0.1,2222,,22",
        "--natpf1",
        "web,tcp,,8080,,80",
        "--macaddress1",
        "080027B9DDCA",
        "--groups",
        "/a/b",
        "--description",
        "a \"quoted\" text",
    ]);
    for (key, value) in [
        ("memory", "512"),
        ("cpus", "2"),
        ("vram", "32"),
        ("hpet", "on"),
        ("boot1", "disk"),
        ("boot2", "none"),
        ("uart1", "0x03f8,4"),
        ("Forwarding(0)", "ssh,tcp,127.0.0.1,2222,,22"),
        ("Forwarding(1)", "web,tcp,,8080,,80"),
        ("macaddress1", "080027B9DDCA"),
        ("groups", "/a/b"),
        ("VMState", "poweroff"),
        ("ostype", "Debian (64-bit)"),
    ] {
        assert_eq!(home.value("deb", key), value, "{key}");
    }
    assert_eq!(
        home.value("deb", "uartmode1"),
        format!("file,{}", home.path("log"))
    );
    let info = home.ok(&["showvminfo", &id, "--machinereadable"]);
    assert!(
        info.contains("description=\"a \\\"quoted\\\" text\"\n"),
        "{info}"
    );
    home.ok(&[
        "modifyvm", "deb", "--natpf1", "delete", "web", "--nic2", "none",
    ]);
    assert_eq!(home.values("deb", "Forwarding(1)"), [""; 0]);

    // A failure leaves everything as it was.
    let err = home.fails(&["modifyvm", "deb", "--cpus", "3", "--memory", "1"]);
    assert!(err.contains("E_INVALIDARG (0x80070057)"), "{err}");
    assert_eq!(home.value("deb", "cpus"), "2");

    home.ok(&["modifyvm", "deb", "--name", "new"]);
    assert_eq!(home.ok(&["list", "vms"]), format!("\"new\" {{{id}}}\n"));
    home.ok(&["unregistervm", "new"]);
    assert_eq!(home.ok(&["list", "vms"]), "");
    let file = home.path("VirtualBox VMs/a/b/new/new.vbox");
    let registered = home.run(&["registervm", &file]);
    let file = if registered.code == 0 {
        file
    } else {
        // The groups were set after the machine got its folder.
        let file = home.path("VirtualBox VMs/new/new.vbox");
        home.ok(&["registervm", &file]);
        file
    };
    home.ok(&["unregistervm", "--delete", "new"]);
    assert!(!std::path::Path::new(&file).exists());
}

#[test]
fn errors_are_virtualboxs() {
    let home = Home::new();
    for name in ["nope", "0b3a5d0e-7e54-4b6b-9d3d-0123456789ab"] {
        let err = home.fails(&["showvminfo", name]);
        let lines: Vec<&str> = err.lines().collect();
        let first = if name == "nope" {
            "VBoxManage: error: Could not find a registered machine named 'nope'".to_owned()
        } else {
            format!("VBoxManage: error: Could not find a registered machine with UUID {{{name}}}")
        };
        assert_eq!(lines[0], first);
        assert_eq!(
            lines[1],
            "VBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001), component VirtualBoxWrap, interface IVirtualBox, callee nsISupports"
        );
        assert!(lines[2].starts_with("VBoxManage: error: Context: \"FindMachine(Bstr(VMNameOrUuid).raw(), machine.asOutParam())\" at line "), "{err}");
        assert_eq!(lines.len(), 3, "{err}");
    }
    home.ok(&["createvm", "--name", "m", "--register"]);
    let err = home.fails(&["controlvm", "m", "acpipowerbutton"]);
    assert_eq!(
        err,
        "VBoxManage: error: Machine 'm' is not currently running.\n"
    );
    let err = home.fails(&[
        "storageattach",
        "m",
        "--storagectl",
        "IDE",
        "--port",
        "0",
        "--device",
        "0",
        "--medium",
        "none",
    ]);
    assert_eq!(
        err,
        "VBoxManage: error: Could not find a controller named 'IDE'\n"
    );
    assert_eq!(home.run(&["modifyvm", "m", "--odd", "1"]).code, 2);
    let err = home.fails(&["modifyvm", "m", "--ostype", "Odd"]);
    assert!(err.contains("'Odd'"), "{err}");
}

#[test]
fn the_service_and_the_command_line_say_the_same_version() {
    let home = Home::new();
    let version = home.ok(&["--version"]);
    home.ok(&["list", "hostonlyifs"]);
    let service = std::process::Command::new(home.path("bin/VBoxSVC"))
        .arg("--version")
        .output()
        .expect("VBoxSVC runs");
    assert_eq!(said(service).out, version);
}

#[test]
fn disks_and_drives() {
    let home = Home::new();
    home.ok(&["createvm", "--name", "m", "--register"]);
    home.ok(&[
        "storagectl",
        "m",
        "--name",
        "IDE",
        "--add",
        "ide",
        "--controller",
        "PIIX4",
    ]);
    let disk = home.path("d.vdi");
    let made = home.run(&[
        "createmedium",
        "disk",
        "--filename",
        "d.vdi",
        "--size",
        "64",
    ]);
    assert_eq!(
        made.err,
        "0%...10%...20%...30%...40%...50%...60%...70%...80%...90%...100%\n"
    );
    let id = made
        .out
        .strip_prefix("Medium created. UUID: ")
        .expect("UUID")
        .trim_end()
        .to_owned();
    home.ok(&[
        "storageattach",
        "m",
        "--storagectl",
        "IDE",
        "--port",
        "0",
        "--device",
        "0",
        "--type",
        "hdd",
        "--medium",
        "d.vdi",
    ]);
    std::fs::write(home.path("cd.iso"), vec![7; 40 * 2048]).expect("image");
    home.ok(&[
        "storageattach",
        "m",
        "--storagectl",
        "IDE",
        "--port",
        "1",
        "--device",
        "0",
        "--type",
        "dvddrive",
        "--medium",
        "emptydrive",
    ]);
    assert_eq!(home.value("m", "IDE-1-0"), "emptydrive");
    home.ok(&[
        "storageattach",
        "m",
        "--storagectl",
        "IDE",
        "--port",
        "1",
        "--device",
        "0",
        "--type",
        "dvddrive",
        "--medium",
        "cd.iso",
    ]);
    assert_eq!(home.value("m", "IDE-1-0"), home.path("cd.iso"));
    assert_eq!(home.value("m", "IDE-0-0"), disk);
    assert_eq!(home.value("m", "IDE-ImageUUID-0-0"), id);
    assert_eq!(home.value("m", "IDE-0-1"), "none");
    assert_eq!(home.value("m", "storagecontrollertype0"), "PIIX4");
    let info = home.ok(&["showmediuminfo", "disk", "d.vdi"]);
    let machine = home.value("m", "UUID");
    let size = std::fs::metadata(&disk).expect("file").len() >> 20;
    assert_eq!(
        info,
        format!(
            "UUID:           {id}\n\
             Parent UUID:    base\n\
             State:          created\n\
             Type:           normal (base)\n\
             Location:       {disk}\n\
             Storage format: VDI\n\
             Format variant: dynamic default\n\
             Capacity:       64 MBytes\n\
             Size on disk:   {size} MBytes\n\
             Encryption:     disabled\n\
             In use by VMs:  m (UUID: {machine})\n"
        )
    );
    // Vagrant reads blocks of keys between empty lines.
    let list = home.ok(&["list", "hdds"]);
    assert!(list.ends_with("\n\n"), "{list}");
    assert!(
        list.contains("Capacity:       64 MBytes\nEncryption:     disabled\n"),
        "{list}"
    );
    assert!(
        home.ok(&["list", "dvds", "-l"])
            .contains(&home.path("cd.iso"))
    );
    let err = home.fails(&["closemedium", "disk", "d.vdi", "--delete"]);
    assert!(err.contains("Details: code "), "{err}");
    home.ok(&["modifymedium", "disk", "d.vdi", "--resize", "128"]);
    assert!(
        home.ok(&["showhdinfo", &id])
            .contains("Capacity:       128 MBytes\n")
    );
    // To raw and back.
    let cloned = home.ok(&["clonemedium", "d.vdi", "d.img", "--format", "RAW"]);
    assert!(
        cloned.starts_with("Clone medium created in format 'RAW'. UUID: "),
        "{cloned}"
    );
    assert_eq!(
        std::fs::metadata(home.path("d.img")).expect("file").len(),
        128 << 20
    );
    home.ok(&["clonehd", "d.img", "e.vdi", "--format", "VDI"]);
    home.ok(&[
        "storageattach",
        "m",
        "--storagectl",
        "IDE",
        "--port",
        "0",
        "--device",
        "0",
        "--medium",
        "none",
    ]);
    home.ok(&["closemedium", "disk", "d.vdi", "--delete"]);
    assert!(!std::path::Path::new(&disk).exists());
    // The removed disk's drive is gone, the other stays.
    assert_eq!(home.value("m", "IDE-0-0"), "none");
    home.ok(&["storagectl", "m", "--name", "IDE", "--remove"]);
    assert_eq!(home.values("m", "storagecontrollername0"), [""; 0]);
}

#[test]
fn a_raw_image_from_standard_input() {
    let home = Home::new();
    let mut child = home
        .command(&[
            "convertfromraw",
            "stdin",
            "x.vdi",
            "1048576",
            "--format",
            "VDI",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("VBoxManage runs");
    child
        .stdin
        .take()
        .expect("pipe")
        .write_all(b"boot2docker, please format-me")
        .expect("write");
    let done = said(child.wait_with_output().expect("it ends"));
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert_eq!(
        done.out,
        "Converting from raw image file=\"stdin\" to file=\"x.vdi\"...\nCreating dynamic image with size 1048576 bytes (1MB)...\n"
    );
    home.ok(&["clonemedium", "x.vdi", "x.img", "--format", "RAW"]);
    let back = std::fs::read(home.path("x.img")).expect("image");
    assert!(back.starts_with(b"boot2docker, please format-me\0"));
    assert_eq!(back.len(), 1 << 20);
}

#[test]
fn preferences_extra_data_and_guest_properties() {
    let home = Home::new();
    home.ok(&["createvm", "--name", "m", "--register"]);
    home.ok(&["setproperty", "machinefolder", "elsewhere"]);
    // Vagrant: /Default machine folder:\s+(?<folder>.+?)$/i
    let properties = home.ok(&["list", "systemproperties"]);
    let folder = properties
        .lines()
        .find_map(|l| l.strip_prefix("Default machine folder:"))
        .expect("the line");
    assert_eq!(folder, format!("          {}", home.path("elsewhere")));
    home.ok(&["setproperty", "machinefolder", "default"]);
    for target in ["global", "m"] {
        assert_eq!(
            home.ok(&["getextradata", target, "GUI/x"]),
            "No value set!\n"
        );
        home.ok(&["setextradata", target, "GUI/x", "a b"]);
        assert_eq!(home.ok(&["getextradata", target, "GUI/x"]), "Value: a b\n");
        assert!(
            home.ok(&["getextradata", target, "enumerate"])
                .contains("Key: GUI/x, Value: a b\n")
        );
        home.ok(&["setextradata", target, "GUI/x"]);
        assert_eq!(
            home.ok(&["getextradata", target, "GUI/x"]),
            "No value set!\n"
        );
    }
    assert_eq!(
        home.ok(&["guestproperty", "get", "m", "/x"]),
        "No value set!\n"
    );
    assert_eq!(
        home.ok(&["guestproperty", "enumerate", "m"]),
        "No properties found.\n"
    );
    home.ok(&[
        "guestproperty",
        "set",
        "m",
        "/x",
        "1",
        "--flags",
        "RDONLYGUEST",
    ]);
    assert_eq!(home.ok(&["guestproperty", "get", "m", "/x"]), "Value: 1\n");
    let verbose = home.ok(&["guestproperty", "get", "m", "/x", "--verbose"]);
    assert!(verbose.ends_with(" ns\nFlags: RDONLYGUEST\n"), "{verbose}");
    assert!(
        home.ok(&["guestproperty", "enumerate", "m"])
            .starts_with("/x = '1' @ 20")
    );
    home.ok(&["guestproperty", "delete", "m", "/x"]);
    assert_eq!(
        home.ok(&["guestproperty", "get", "m", "/x"]),
        "No value set!\n"
    );
}

/// Every command that Vagrant's health checks and parsers need, on an empty configuration.
#[test]
fn every_list_works() {
    let home = Home::new();
    for what in [
        "vms",
        "runningvms",
        "ostypes",
        "hostdvds",
        "hostfloppies",
        "intnets",
        "bridgedifs",
        "hostonlyifs",
        "hostonlynets",
        "natnets",
        "dhcpservers",
        "hostinfo",
        "hddbackends",
        "hdds",
        "dvds",
        "floppies",
        "usbhost",
        "usbfilters",
        "systemproperties",
        "extpacks",
        "groups",
        "webcams",
        "screenshotformats",
        "cloudproviders",
        "cpu-profiles",
        "hostdrives",
    ] {
        for style in [
            &["list", what][..],
            &["list", "-l", what],
            &["list", what, "--sorted"],
        ] {
            home.ok(style);
        }
    }
    assert_eq!(
        home.ok(&["list", "usbhost"]),
        "Host USB Devices:\n\n<none>\n\n"
    );
    let types = home.ok(&["list", "ostypes"]);
    assert!(
        types.contains("ID:          Ubuntu_64\nDescription: Ubuntu (64-bit)\n"),
        "{types}"
    );
    let backends = home.ok(&["list", "hddbackends"]);
    assert!(
        backends.contains("id='VDI' description='VDI' capabilities=0x"),
        "{backends}"
    );
}

/// Ansible's inventory: a host begins at a line whose key starts with `Name` and whose value has no
/// comma.
#[test]
fn long_lists_are_what_ansible_reads() {
    let home = Home::new();
    for name in ["one", "two"] {
        home.ok(&["createvm", "--name", name, "--register", "--groups", "/g"]);
    }
    let list = home.ok(&["list", "-l", "--sorted", "vms"]);
    let hosts: Vec<&str> = list
        .lines()
        .filter_map(|l| l.split_once(':'))
        .filter(|(k, v)| k.starts_with("Name") && !v.contains(','))
        .map(|(_, v)| v.trim())
        .collect();
    assert_eq!(hosts, ["one", "two"]);
    assert_eq!(list.matches("Groups:                      /g\n").count(), 2);
}

/// A broken settings file: the machine is listed, and says what is wrong with it.
#[test]
fn an_inaccessible_machine() {
    let home = Home::new();
    let out = home.ok(&["createvm", "--name", "m", "--register"]);
    let id = uuid_of(&out);
    // The service must read the file again.
    home.wait_for_service_end();
    std::fs::write(home.path("VirtualBox VMs/m/m.vbox"), "<VirtualBox").expect("write");
    assert_eq!(
        home.ok(&["list", "vms"]),
        format!("\"<inaccessible>\" {{{id}}}\n")
    );
    assert_eq!(
        home.ok(&["showvminfo", &id, "--machinereadable"]),
        format!("name=\"<inaccessible>\"\nUUID=\"{id}\"\n")
    );
    assert!(
        home.ok(&["showvminfo", &id])
            .starts_with("Name:                        <inaccessible!>\n")
    );
}

#[test]
fn a_running_machine() {
    let home = Home::new();
    let id = uuid_of(&home.ok(&["createvm", "--name", "m", "--register"]));
    // As VirtualBox, it echoes what it was given.
    let started = home.run(&["startvm", &id, "--type", "headless"]);
    assert_eq!(
        (started.code, started.out.as_str(), started.err.as_str()),
        (
            0,
            format!("Waiting for VM \"{id}\" to power on...\nVM \"{id}\" has been successfully started.\n").as_str(),
            ""
        )
    );
    assert_eq!(home.value("m", "VMState"), "running");
    assert_eq!(home.value("m", "SessionName"), "headless");
    assert_eq!(
        home.ok(&["list", "runningvms"]),
        format!("\"m\" {{{id}}}\n")
    );
    let info = home.ok(&["showvminfo", "m", "--machinereadable"]);
    assert!(info.contains("VideoMode=\"720,400,0\"@0,0 1\n"), "{info}");
    let err = home.fails(&["modifyvm", "m", "--memory", "64"]);
    assert!(err.contains("is already locked"), "{err}");
    home.fails(&["startvm", "m", "--type", "headless"]);
    home.fails(&["unregistervm", "m"]);

    home.ok(&["controlvm", "m", "pause"]);
    assert_eq!(home.value("m", "VMState"), "paused");
    // docker-machine gives a word too many.
    home.ok(&["controlvm", "m", "resume", "--type", "headless"]);
    assert_eq!(home.value("m", "VMState"), "running");
    home.ok(&["controlvm", "m", "keyboardputscancode", "1c", "9c"]);
    home.ok(&["controlvm", "m", "keyboardputstring", "root", "\n"]);
    std::fs::write(home.path("text"), "Echo \"x\"\n").expect("write");
    home.ok(&["controlvm", "m", "keyboardputfile", "text"]);
    let typed = home.ok(&["debugvm", "m", "info", "typed"]);
    assert_eq!(
        typed,
        "1c9c1393189818981494\
         1c9c2a1292aa2eae23a31898\
         39b92a28a8aa2dad2a28a8aa1c9c\n"
    );
    home.ok(&["controlvm", "m", "acpipowerbutton"]);
    home.ok(&["controlvm", "m", "screenshotpng", "shot.png"]);
    assert_eq!(
        std::fs::read(home.path("shot.png")).expect("picture"),
        b"\x89PNG 720x400"
    );
    home.ok(&["controlvm", "m", "setlinkstate1", "off"]);
    assert_eq!(home.value("m", "cableconnected1"), "off");
    assert_eq!(
        home.fails(&["controlvm", "m", "keyboardputscancode", "xyz"]),
        "VBoxManage: error: Error: 'xyz' is not a hex byte!\n"
    );
    let err = home.fails(&["controlvm", "m", "reset"]);
    assert!(err.contains("E_NOTIMPL"), "{err}");

    let off = home.run(&["controlvm", "m", "poweroff"]);
    assert_eq!((off.code, off.out.as_str()), (0, ""));
    assert_eq!(
        off.err,
        "0%...10%...20%...30%...40%...50%...60%...70%...80%...90%...100%\n"
    );
    assert_eq!(home.value("m", "VMState"), "poweroff");
    home.ok(&["unregistervm", "m", "--delete"]);
}

#[test]
fn waiting_for_a_guest_property() {
    let home = Home::new();
    home.ok(&["createvm", "--name", "m", "--register"]);
    let late = home.run(&[
        "guestproperty",
        "wait",
        "m",
        "/a*",
        "--timeout",
        "50",
        "--fail-on-timeout",
    ]);
    assert_eq!(late.code, 2, "{late:?}");
    assert_eq!(
        late.err,
        "Time out or interruption while waiting for a notification.\n"
    );
    let mut waiting = home
        .command(&[
            "guestproperty",
            "wait",
            "m",
            "/other|/a*",
            "--timeout",
            "60000",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("VBoxManage runs");
    // It may not listen yet when the first change is made.
    let mut value = 0;
    while waiting.try_wait().expect("it is ours").is_none() {
        value += 1;
        home.ok(&["guestproperty", "set", "m", "/b", "no"]);
        home.ok(&["guestproperty", "set", "m", "/a/b", &value.to_string()]);
    }
    let done = said(waiting.wait_with_output().expect("it ended"));
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert!(done.out.starts_with("Name: /a/b, value: "), "{done:?}");
    assert!(done.out.ends_with(", flags: \n"), "{done:?}");
}

/// Listings must not fail because somebody changes, makes or removes machines meanwhile.
#[test]
fn listings_while_machines_change() {
    let home = Home::new();
    home.ok(&["createvm", "--name", "m", "--register"]);
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for round in 0..8 {
                home.ok(&["modifyvm", "m", "--memory", &(64 + round).to_string()]);
                home.ok(&["createvm", "--name", "n", "--register"]);
                home.ok(&["unregistervm", "n", "--delete"]);
            }
        });
        while !changes.is_finished() {
            home.ok(&["showvminfo", "m", "--machinereadable"]);
            home.ok(&["list", "vms", "-l"]);
        }
    });
}

#[test]
fn a_response_file_and_what_is_not_there_yet() {
    let home = Home::new();
    std::fs::write(
        home.path("line"),
        "createvm --name 'two words' --register\n",
    )
    .expect("write");
    home.ok(&["@line"]);
    assert!(home.ok(&["list", "vms"]).starts_with("\"two words\" {"));
    let none = home.run(&["snapshot", "two words", "list", "--machinereadable"]);
    assert_eq!(
        (none.code, none.out.as_str()),
        (1, "This machine does not have any snapshots\n")
    );
    for line in [
        &["unattended", "install", "two words", "--iso", "x.iso"][..],
        &["controlvm", "two words", "usbattach", "x"],
        &["modifyvm", "two words", "--pciattach", "1:0.0"],
    ] {
        home.fails(line);
    }
}
