//! `movevm`: everything of a machine goes along, or nothing does.

use super::common::Home;
use std::path::Path;

/// A machine with a disk of its folder that has a snapshot, one from elsewhere, a CD and a log.
fn machine(home: &Home) {
    home.ok(&["createvm", "--name", "deb", "--register"]);
    home.ok(&["storagectl", "deb", "--name", "IDE", "--add", "ide"]);
    std::fs::write(home.path("cd.iso"), vec![0; 4096]).expect("a CD");
    std::fs::create_dir(home.path("disks")).expect("folder");
    for (port, device, kind, file) in [
        ("0", "0", "hdd", "VirtualBox VMs/deb/own.vdi"),
        ("0", "1", "hdd", "disks/far.vmdk"),
        ("1", "0", "dvddrive", "cd.iso"),
    ] {
        if kind == "hdd" {
            let format = if file.ends_with("vmdk") {
                "VMDK"
            } else {
                "VDI"
            };
            home.ok(&[
                "createmedium",
                "disk",
                "--filename",
                file,
                "--size",
                "2",
                "--format",
                format,
            ]);
        }
        home.ok(&[
            "storageattach",
            "deb",
            "--storagectl",
            "IDE",
            "--port",
            port,
            "--device",
            device,
            "--type",
            kind,
            "--medium",
            file,
        ]);
    }
    home.ok(&["snapshot", "deb", "take", "one"]);
    let logs = home.path("VirtualBox VMs/deb/Logs");
    std::fs::create_dir_all(&logs).expect("logs");
    std::fs::write(format!("{logs}/VBox.log"), "text").expect("log");
}

/// All files below a folder, sorted.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(folder).to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => open.push(path),
                path => found.push(path.to_str().expect("UTF-8").to_owned()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_machine_goes_to_another_folder_with_all_it_has() {
    let home = Home::new();
    machine(&home);
    home.ok(&[
        "clonevm",
        "deb",
        "--snapshot",
        "one",
        "--options",
        "link",
        "--name",
        "child",
        "--register",
    ]);
    std::fs::write(home.path("VirtualBox VMs/deb/notes.txt"), "mine").expect("notes");
    let target = home.path("new place");
    let out = home.ok(&["movevm", "deb", "--folder", "new place"]);
    assert_eq!(
        out,
        format!("Machine has been successfully moved into {target}\n")
    );

    let folder = home.path("new place/deb");
    assert_eq!(home.value("deb", "CfgFile"), format!("{folder}/deb.vbox"));
    assert_eq!(home.value("deb", "LogFldr"), format!("{folder}/Logs"));
    assert_eq!(home.value("deb", "SnapFldr"), format!("{folder}/Snapshots"));
    assert_eq!(
        home.value("deb", "IDE-1-0"),
        home.path("cd.iso"),
        "CDs stay"
    );
    for key in ["IDE-0-0", "IDE-0-1"] {
        let disk = home.value("deb", key);
        assert!(disk.starts_with(&format!("{folder}/Snapshots/")), "{disk}");
        assert!(Path::new(&disk).is_file(), "{disk}");
    }
    for file in ["own.vdi", "Logs/VBox.log", "deb.vbox", "deb.vbox-prev"] {
        assert!(Path::new(&format!("{folder}/{file}")).is_file(), "{file}");
    }
    // What is not the machine's stays.
    assert_eq!(
        files(&home.path("VirtualBox VMs/deb")),
        [home.path("VirtualBox VMs/deb/notes.txt")]
    );
    // A disk from elsewhere that a clone uses too is not this machine's alone.
    let far = home.path("disks/far.vmdk");
    assert_eq!(files(&home.path("disks")), std::slice::from_ref(&far));
    let settings = std::fs::read_to_string(format!("{folder}/deb.vbox")).expect("settings");
    assert!(settings.contains("location=\"own.vdi\""), "{settings}");
    assert!(
        settings.contains(&format!("location=\"{far}\"")),
        "{settings}"
    );

    // A service that starts anew finds all of it, and the clone that stands on it.
    home.wait_for_service_end();
    assert!(
        home.ok(&["list", "hdds"])
            .contains(&format!("Location:       {folder}/own.vdi\n"))
    );
    assert!(!home.ok(&["list", "hdds"]).contains("inaccessible"));
    for name in ["deb", "child"] {
        assert_eq!(home.value(name, "VMState"), "poweroff");
    }
    // And back, where the user's file still lies.
    home.ok(&["movevm", "deb", "--folder", "VirtualBox VMs"]);
    assert!(!Path::new(&folder).exists());
    assert_eq!(
        home.value("deb", "CfgFile"),
        home.path("VirtualBox VMs/deb/deb.vbox")
    );
}

#[test]
fn without_a_folder_the_images_come_to_the_machine() {
    let home = Home::new();
    home.ok(&["createvm", "--name", "deb", "--register"]);
    home.ok(&["storagectl", "deb", "--name", "IDE", "--add", "ide"]);
    home.ok(&[
        "createmedium",
        "disk",
        "--filename",
        "far.vdi",
        "--size",
        "2",
    ]);
    home.ok(&[
        "storageattach",
        "deb",
        "--storagectl",
        "IDE",
        "--port",
        "0",
        "--device",
        "0",
        "--type",
        "hdd",
        "--medium",
        "far.vdi",
    ]);
    let out = home.ok(&["movevm", "deb"]);
    assert_eq!(
        out,
        "Machine has been successfully moved into the same location\n"
    );
    assert_eq!(
        home.value("deb", "IDE-0-0"),
        home.path("VirtualBox VMs/deb/far.vdi")
    );
    assert!(!Path::new(&home.path("far.vdi")).exists());
}

#[test]
fn a_move_that_fails_changes_nothing() {
    let home = Home::new();
    machine(&home);
    let all = || {
        let mut all = files(&home.path("VirtualBox VMs"));
        all.extend(files(&home.path("disks")));
        all
    };
    let (before, info) = (all(), home.ok(&["showvminfo", "deb", "--machinereadable"]));
    // Something has the name of the last folder.
    std::fs::create_dir_all(home.path("odd/deb")).expect("folder");
    std::fs::write(home.path("odd/deb/Logs"), "a file").expect("file");
    let err = home.fails(&["movevm", "deb", "--folder", "odd"]);
    assert!(err.contains("VBoxManage: error: Move VM failed\n"), "{err}");
    assert!(err.contains("VBOX_E_FILE_ERROR"), "{err}");
    assert_eq!(all(), before);
    assert_eq!(files(&home.path("odd")), [home.path("odd/deb/Logs")]);
    assert_eq!(home.ok(&["showvminfo", "deb", "--machinereadable"]), info);
    // Nothing is written over.
    std::fs::create_dir_all(home.path("full/deb")).expect("folder");
    std::fs::write(home.path("full/deb/own.vdi"), "a disk").expect("file");
    let err = home.fails(&["movevm", "deb", "--folder", "full"]);
    assert!(err.contains("VERR_ALREADY_EXISTS"), "{err}");
    let err = home.fails(&["movevm", "deb", "--folder", "VirtualBox VMs/deb"]);
    assert!(err.contains("E_INVALIDARG"), "{err}");
    assert_eq!(all(), before);
    home.wait_for_service_end();
    assert_eq!(home.ok(&["showvminfo", "deb", "--machinereadable"]), info);
    let err = home.fails(&["movevm", "none"]);
    assert!(
        err.contains("Could not find a registered machine named 'none'"),
        "{err}"
    );
}
