//! `import` and `export`: packages of our own making in, machines out, and back.

use super::common::{Home, Said};
use std::path::{Path, PathBuf};
use std::process::Command;

const HEAD: &str = r#"<?xml version="1.0"?>
<Envelope ovf:version="1.0" xml:lang="en-US" xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:vbox="http://www.virtualbox.org/ovf/machine">
  <References><File ovf:href="box-disk1.vdi" ovf:id="file1"/></References>
  <DiskSection>
    <Info>Disks</Info>
    <Disk ovf:capacity="2097152" ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:format="http://www.virtualbox.org/VDI" vbox:uuid="b0a4c5d2-5a36-4d1c-9a34-0c55e1d4a101"/>
  </DiskSection>
  <NetworkSection><Info>Networks</Info><Network ovf:name="NAT"/></NetworkSection>
  <VirtualSystem ovf:id="box">
    <Info>A virtual machine</Info>
"#;

const HARDWARE: &str = r#"
    <OperatingSystemSection ovf:id="96"><Info>OS</Info><Description>Debian_64</Description></OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Hardware</Info>
      <System><vssd:VirtualSystemType>virtualbox-2.2</vssd:VirtualSystemType></System>
      <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
      <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>384</rasd:VirtualQuantity></Item>
      <Item><rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>PIIX4</rasd:ResourceSubType><rasd:ResourceType>5</rasd:ResourceType></Item>
      <Item><rasd:Address>1</rasd:Address><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceSubType>PIIX4</rasd:ResourceSubType><rasd:ResourceType>5</rasd:ResourceType></Item>
      <Item><rasd:Address>0</rasd:Address><rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceSubType>AHCI</rasd:ResourceSubType><rasd:ResourceType>20</rasd:ResourceType></Item>
      <Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>/disk/vmdisk1</rasd:HostResource><rasd:InstanceID>6</rasd:InstanceID><rasd:Parent>5</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
      <Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:InstanceID>7</rasd:InstanceID><rasd:Parent>4</rasd:Parent><rasd:ResourceType>15</rasd:ResourceType></Item>
      <Item><rasd:Connection>NAT</rasd:Connection><rasd:InstanceID>8</rasd:InstanceID><rasd:ResourceSubType>E1000</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType></Item>
    </VirtualHardwareSection>
"#;

const MACHINE: &str = r#"
    <vbox:Machine ovf:required="false" version="1.12-linux" uuid="{6f4b1c4e-30c4-4ad0-bb0a-2f66a0bb1f77}" name="box" OSType="Debian_64" snapshotFolder="Snapshots" lastStateChange="2020-02-02T10:20:30Z">
      <ovf:Info>Complete VirtualBox machine configuration in VirtualBox format</ovf:Info>
      <ExtraData><ExtraDataItem name="from" value="the box"/></ExtraData>
      <Hardware version="2">
        <CPU count="2"/>
        <Memory RAMSize="384"/>
        <Network>
          <Adapter slot="0" enabled="true" MACAddress="080027AABBCC" cable="true" type="82540EM"><NAT><Forwarding name="ssh" proto="1" hostport="2222" guestport="22"/></NAT></Adapter>
        </Network>
      </Hardware>
      <StorageControllers>
        <StorageController name="Fast Disks" type="AHCI" PortCount="4" useHostIOCache="false" Bootable="true">
          <AttachedDevice type="HardDisk" port="2" device="0"><Image uuid="{b0a4c5d2-5a36-4d1c-9a34-0c55e1d4a101}"/></AttachedDevice>
          <AttachedDevice passthrough="false" type="DVD" port="3" device="0"/>
        </StorageController>
      </StorageControllers>
    </vbox:Machine>
"#;

const TAIL: &str = "  </VirtualSystem>\n</Envelope>\n";

fn run(program: &str, folder: &Path, arguments: &[&str]) -> String {
    let out = Command::new(program)
        .current_dir(folder)
        .args(arguments)
        .output()
        .expect("the program runs");
    assert!(out.status.success(), "{program} {arguments:?}: {out:?}");
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// A folder with a disk of random-looking contents as `raw` and as the package's image.
fn package(home: &Home, middle: &str) -> PathBuf {
    let folder = PathBuf::from(home.path("package"));
    std::fs::create_dir(&folder).expect("folder");
    let mut raw = vec![0_u8; 2 << 20];
    for (n, b) in raw.iter_mut().enumerate().take(1 << 20) {
        *b = (n * 31 + n / 257) as u8;
    }
    std::fs::write(folder.join("raw"), raw).expect("disk");
    let (raw, vdi) = (folder.join("raw"), folder.join("box-disk1.vdi"));
    let path = |p: &Path| p.to_str().expect("UTF-8").to_owned();
    home.ok(&["convertfromraw", &path(&raw), &path(&vdi)]);
    std::fs::write(folder.join("box.ovf"), format!("{HEAD}{middle}{TAIL}")).expect("descriptor");
    folder
}

fn same_disk(package: &Path, image: &str) {
    run("qemu-img", package, &["compare", "-f", "raw", "raw", image]);
}

/// Everything below a folder, for "nothing is left behind".
fn tree(folder: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = vec![PathBuf::from(folder)];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
            }
            all.push(entry.path().to_string_lossy().into_owned());
        }
    }
    all.sort();
    all
}

/// `/Suggested VM name "(.+?)"/` and its like.
fn quoted<'a>(text: &'a str, before: &str) -> &'a str {
    let rest = text.split_once(&format!("{before} \"")).expect(before).1;
    rest.split_once('"').expect("a quote").0
}

/// `/(\d+): Hard disk image: source image=.+, target path=(.+),/`.
fn disk_unit(text: &str) -> (String, String) {
    let line = text
        .lines()
        .find(|l| l.contains("Hard disk image:"))
        .expect("disk");
    let (number, rest) = line
        .split_once(": Hard disk image: source image=")
        .expect("form");
    let rest = rest.split_once(", target path=").expect("path").1;
    let path = rest.rsplit_once(',').expect("comma").0;
    (number.trim().to_owned(), path.to_owned())
}

#[test]
fn a_box_as_vagrant_imports_it() {
    let home = Home::new();
    let folder = package(&home, HARDWARE);
    let ovf = folder.join("box.ovf");
    let ovf = ovf.to_str().expect("UTF-8");
    home.ok(&["import", ovf, "--dry-run"]);
    let said = home.ok(&["import", "-n", ovf]);
    assert!(
        said.starts_with(&format!("Interpreting {ovf}...\nOK.\nDisks:\n")),
        "{said}"
    );
    assert!(said.contains(
        "  vmdisk1\t2097152\t-1\thttp://www.virtualbox.org/VDI\tbox-disk1.vdi\t-1\t-1\n\nVirtual system 0:\n"
    ));
    for line in [
        " 0: Suggested OS type: \"Debian_64\"\n    (change with \"--vsys 0 --ostype <type>\"; use \"list ostypes\" to list all possible values)\n",
        " 1: Suggested VM name \"box\"\n",
        "Number of CPUs: 2\n",
        "Guest memory: 384 MB\n",
        "Network adapter: orig NAT, config 3, extra slot=0;type=NAT\n",
        ": CD-ROM\n",
        ": IDE controller, type PIIX4\n",
        ": SATA controller, type AHCI\n",
    ] {
        assert!(said.contains(line), "{line}{said}");
    }
    assert_eq!(home.ok(&["list", "vms"]), "");
    let file = quoted(&said, "Suggested VM settings file name");
    assert_eq!(file, home.path("VirtualBox VMs/box/box.vbox"));
    let (unit, target) = disk_unit(&said);
    assert_eq!(target, "box-disk1.vdi");

    let base = Path::new(file).parent().expect("folder").join(&target);
    let disk = base
        .to_str()
        .expect("UTF-8")
        .replace("/box/", "/box_1700000000000_1234/");
    let line = [
        "import",
        ovf,
        "--vsys",
        "0",
        "--vmname",
        "box_1700000000000_1234",
        "--vsys",
        "0",
        "--unit",
        &unit,
        "--disk",
        &disk,
    ];
    let said = home.run(&line);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("100%"));
    assert!(said.out.ends_with("Successfully imported the appliance.\n"));
    assert!(
        said.out
            .contains("VM name specified with --vmname: \"box_1700000000000_1234\"")
    );

    let vm = "box_1700000000000_1234";
    assert!(
        home.ok(&["list", "vms"])
            .starts_with(&format!("\"{vm}\" {{"))
    );
    assert_eq!(
        home.value(vm, "CfgFile"),
        home.path(&format!("VirtualBox VMs/{vm}/{vm}.vbox"))
    );
    assert_eq!(home.value(vm, "cpus"), "2");
    assert_eq!(home.value(vm, "memory"), "384");
    assert_eq!(home.value(vm, "nic1"), "nat");
    assert_eq!(home.value(vm, "SATA Controller-0-0"), disk);
    assert_eq!(home.value(vm, "IDE Controller-1-0"), "emptydrive");
    same_disk(&folder, &disk);
    // The next one with that name gets another.
    home.ok(&["import", ovf]);
    let again = home.ok(&["import", "-n", ovf]);
    assert_eq!(quoted(&again, "Suggested VM name"), "box_1");
    home.ok(&["unregistervm", vm, "--delete"]);
    assert!(!Path::new(&disk).exists());
}

#[test]
fn an_archive_with_virtualbox_settings() {
    let home = Home::new();
    let folder = package(&home, &format!("{HARDWARE}{MACHINE}"));
    let digests = run("sha1sum", &folder, &["box.ovf", "box-disk1.vdi"]);
    let digests: String = digests
        .lines()
        .filter_map(|l| l.split_once("  "))
        .map(|(digest, name)| format!("SHA1 ({name}) = {digest}\n"))
        .collect();
    std::fs::write(folder.join("box.mf"), &digests).expect("manifest");
    run(
        "tar",
        &folder,
        &[
            "-cf",
            "box.ova",
            "--format=ustar",
            "box.ovf",
            "box.mf",
            "box-disk1.vdi",
        ],
    );
    let ova = folder.join("box.ova");
    let ova = ova.to_str().expect("UTF-8");
    home.ok(&[
        "import", ova, "--vsys", "0", "--cpus", "1", "--memory", "256", "--group", "/a/b",
    ]);
    assert_eq!(
        home.value("box", "CfgFile"),
        home.path("VirtualBox VMs/a/b/box/box.vbox")
    );
    assert_eq!(
        (home.value("box", "cpus"), home.value("box", "memory")),
        ("1".into(), "256".into())
    );
    assert_eq!(home.value("box", "Forwarding(0)"), "ssh,tcp,,2222,,22");
    assert_eq!(
        home.ok(&["getextradata", "box", "from"]),
        "Value: the box\n"
    );
    assert_eq!(home.value("box", "Fast Disks-3-0"), "emptydrive");
    let disk = home.value("box", "Fast Disks-2-0");
    assert_eq!(disk, home.path("VirtualBox VMs/a/b/box/box-disk1.vdi"));
    same_disk(&folder, &disk);
    assert_ne!(
        home.value("box", "UUID"),
        "6f4b1c4e-30c4-4ad0-bb0a-2f66a0bb1f77"
    );
    assert_ne!(home.value("box", "macaddress1"), "080027AABBCC");
    home.ok(&["import", ova, "--options", "keepallmacs"]);
    assert_eq!(home.value("box_1", "macaddress1"), "080027AABBCC");
    // Without its disk.
    let (unit, _) = disk_unit(&home.ok(&["import", "-n", ova]));
    let said = home.ok(&["import", ova, "--vsys", "0", "--unit", &unit, "--ignore"]);
    assert!(said.contains(" -- disabled\n"));
    assert_eq!(home.value("box_2", "Fast Disks-2-0"), "none");

    // A damaged disk: nothing stays.
    let before = (
        tree(&home.path("VirtualBox VMs")),
        home.ok(&["list", "hdds"]),
    );
    let damaged = digests.lines().map(|l| match l.contains(".vdi") {
        true => format!("{}{:040}\n", &l[..l.len() - 40], 0),
        false => format!("{l}\n"),
    });
    std::fs::write(folder.join("box.mf"), damaged.collect::<String>()).expect("manifest");
    run(
        "tar",
        &folder,
        &["-cf", "bad.ova", "box.ovf", "box.mf", "box-disk1.vdi"],
    );
    let bad = folder.join("bad.ova");
    let err = home.fails(&["import", bad.to_str().expect("UTF-8")]);
    assert!(err.contains("Appliance import failed"), "{err}");
    assert!(
        err.contains("the SHA1 digest of 'box-disk1.vdi' does not match"),
        "{err}"
    );
    assert_eq!(
        (
            tree(&home.path("VirtualBox VMs")),
            home.ok(&["list", "hdds"])
        ),
        before
    );
    let err = home.fails(&["import", folder.join("box.ovf").to_str().expect("UTF-8")]);
    assert!(err.contains("does not match"), "{err}");
}

#[test]
fn licenses_and_wrong_lines() {
    let home = Home::new();
    let license = "<EulaSection><Info>e</Info><License>Be nice.</License></EulaSection>";
    let folder = package(&home, &format!("{license}{HARDWARE}"));
    let ovf = folder.join("box.ovf");
    let ovf = ovf.to_str().expect("UTF-8");
    let err = home.fails(&["import", ovf]);
    assert!(err.contains("Cannot import until the license agreement listed above is accepted."));
    let said = home.ok(&["import", ovf, "-n", "--vsys", "0", "--eula", "show"]);
    assert!(said.contains("\n\nBe nice.\n\n"), "{said}");
    let said = home.ok(&["import", ovf, "--vsys", "0", "--eula", "accept"]);
    assert!(said.contains("End-user license agreement (accepted)\n"));

    for (line, text) in [
        (
            &["import", ovf, "--vsys", "1", "--vmname", "x"][..],
            "contains only 1 virtual system(s).",
        ),
        (
            &["import", ovf, "--vsys", "0", "--unit", "99", "--ignore"],
            "Invalid index 99",
        ),
        (&["import", "-n"], "Not enough arguments"),
    ] {
        let said = home.run(line);
        assert!(said.code == 2 && said.err.contains(text), "{said:?}");
    }
    let err = home.fails(&["import", "no-such.ovf"]);
    assert!(
        err.contains("Appliance read failed") && err.contains("VBOX_E_FILE_ERROR"),
        "{err}"
    );
    std::fs::write(folder.join("no.ovf"), "<x/>").expect("file");
    let err = home.fails(&["import", folder.join("no.ovf").to_str().expect("UTF-8")]);
    assert!(err.contains("VBOX_E_XML_ERROR"), "{err}");
}

#[test]
fn machines_are_written_and_come_back() {
    let home = Home::new();
    home.ok(&[
        "createvm",
        "--name",
        "one",
        "--ostype",
        "Ubuntu_64",
        "--register",
    ]);
    home.ok(&[
        "modifyvm",
        "one",
        "--memory",
        "300",
        "--cpus",
        "2",
        "--description",
        "Ein Gerät",
    ]);
    home.ok(&[
        "modifyvm",
        "one",
        "--natpf1",
        "ssh,tcp,,2222,,22",
        "--audio-enabled",
        "on",
    ]);
    home.ok(&["storagectl", "one", "--name", "IDE", "--add", "ide"]);
    let iso = home.path("cd.iso");
    std::fs::write(&iso, vec![3; 4096]).expect("iso");
    home.ok(&[
        "storageattach",
        "one",
        "--storagectl",
        "IDE",
        "--port",
        "1",
        "--device",
        "0",
        "--type",
        "dvddrive",
        "--medium",
        &iso,
    ]);
    home.ok(&[
        "createvm",
        "--name",
        "two",
        "--ostype",
        "Debian",
        "--register",
    ]);
    let mac = home.value("one", "macaddress1");

    for (format, algorithm) in [
        ("--ovf09", "SHA1"),
        ("--ovf10", "SHA1"),
        ("--ovf20", "SHA256"),
    ] {
        let out = home.path(&format!("out{format}.ova"));
        let said = home.ok(&[
            "export",
            "one",
            "two",
            "--output",
            &out,
            format,
            "--options",
            "manifest,iso",
            "--vsys",
            "0",
            "--product",
            "P",
            "--eula",
            "Be nice.",
        ]);
        assert_eq!(said, "Successfully exported 2 machine(s).\n");
        let stem = format!("out{format}");
        let folder = PathBuf::from(home.path(""));
        let listed = run("tar", &folder, &["tf", &out]);
        assert_eq!(
            listed,
            format!("{stem}.ovf\n{stem}.mf\n{stem}-disk001.iso\n")
        );
        let manifest = run("tar", &folder, &["-xOf", &out, &format!("{stem}.mf")]);
        assert!(
            manifest.starts_with(&format!("{algorithm}({stem}.ovf)= ")),
            "{manifest}"
        );

        let line = [
            "import",
            &out,
            "--options",
            "keepallmacs",
            "--vsys",
            "0",
            "--eula",
            "accept",
        ];
        let said = home.ok(&line);
        assert!(said.contains("Product (ignored): P\n"), "{said}");
        let name = quoted(&said, "Suggested VM name");
        assert_eq!(home.value(name, "memory"), "300");
        assert_eq!(home.value(name, "cpus"), "2");
        assert_eq!(home.value(name, "description"), "Ein Gerät");
        assert_eq!(home.value(name, "macaddress1"), mac);
        assert_eq!(home.value(name, "Forwarding(0)"), "ssh,tcp,,2222,,22");
        let cd = home.value(name, "IDE-1-0");
        assert_eq!(std::fs::read(&cd).expect("its CD"), vec![3; 4096], "{cd}");
    }
    // No leftovers of archives, and nothing is written over.
    let hidden = |f: &String| f.rsplit('/').next().is_some_and(|n| n.starts_with(".out"));
    assert!(!tree(&home.path("")).iter().any(hidden));
    let err = home.fails(&["export", "one", "-o", &home.path("out--ovf10.ova")]);
    assert!(
        err.contains("already exists") && err.contains("VBOX_E_FILE_ERROR"),
        "{err}"
    );
    let err = home.fails(&["export", "one", "-o", &home.path("nowhere/x.ova")]);
    assert!(err.contains("Appliance write failed"), "{err}");
    let err = home.fails(&["export", "one", "-o", &home.path("x.zip")]);
    assert!(err.contains(".ovf or .ova"), "{err}");

    // As a folder, without the CD and the MAC address.
    let out = home.path("plain.ovf");
    home.ok(&[
        "export",
        "one",
        "-o",
        &out,
        "--options",
        "nomacs",
        "--vsys",
        "0",
        "--vmname",
        "renamed",
    ]);
    let text = std::fs::read_to_string(&out).expect("descriptor");
    assert!(text.contains("<VirtualSystem ovf:id=\"renamed\">"));
    assert!(!text.contains(&mac) && !text.contains("cd.iso"));
    home.ok(&["import", &out]);
    assert_eq!(home.value("renamed", "IDE-1-0"), "emptydrive");
}

/// With a disk, there and back; as long as there is no VMDK, a refusal that says so.
#[test]
fn a_disk_is_written_and_comes_back() {
    let home = Home::new();
    let folder = package(&home, HARDWARE);
    let ovf = folder.join("box.ovf");
    home.ok(&["import", ovf.to_str().expect("UTF-8")]);
    let out = home.path("disk.ova");
    let said: Said = home.run(&["export", "box", "-o", &out, "--manifest"]);
    if said.err.contains("VMDK images cannot be made yet") {
        assert_eq!(said.code, 1);
        assert!(!Path::new(&out).exists());
        let hidden = |f: &String| f.contains("/.disk");
        assert!(!tree(&home.path("")).iter().any(hidden));
        return;
    }
    assert_eq!(said.code, 0, "{said:?}");
    run("tar", &folder, &["xf", &out]);
    let info = run("qemu-img", &folder, &["info", "disk-disk001.vmdk"]);
    assert!(info.contains("streamOptimized"), "{info}");
    same_disk(&folder, "disk-disk001.vmdk");
    home.ok(&["import", &out]);
    let disk = home.value("box_1", "SATA Controller-0-0");
    assert!(disk.ends_with("/box_1/disk-disk001.vmdk"), "{disk}");
    same_disk(&folder, &disk);
    home.ok(&["import", &out, "--options", "importtovdi"]);
    let disk = home.value("box_2", "SATA Controller-0-0");
    assert!(disk.ends_with("/box_2/disk-disk001.vdi"), "{disk}");
    same_disk(&folder, &disk);
}
