//! A configuration folder of VirtualBox 3.0: its machine is listed, edited and started where it is.

use std::fs;

use anyhow::{Context, Result, ensure};
use testkit::{Home, need};

#[test]
fn machine_of_3_0_in_place() {
    need(
        "machine_of_3_0_in_place",
        || Ok((Home::new()?, Home::new()?)),
        |(maker, home)| in_place(&maker, &home),
    );
}

/// The disk is made in one home; the other one is written as VirtualBox 3.0 would have.
fn in_place(maker: &Home, home: &Home) -> Result<()> {
    for folder in ["HardDisks", "Machines/old"] {
        fs::create_dir_all(home.path().join(folder))?;
    }
    let disk = home.path().join("HardDisks/old.vdi");
    let name = disk.to_string_lossy().into_owned();
    maker.manage(&["createmedium", "disk", "--filename", &name, "--size", "4"])?;
    let info = maker.manage(&["showmediuminfo", "disk", &name])?;
    let uuid = info
        .lines()
        .find_map(|line| line.strip_prefix("UUID:"))
        .context("the disk has a UUID")?
        .trim();
    let machine = home.path().join("Machines/old/old.xml");
    let global = home.path().join("VirtualBox.xml");
    let id = "{0b1e0000-1000-4000-8000-0000000000bb}";
    let root = "<?xml version=\"1.0\"?>\n<VirtualBox xmlns=\"http://www.innotek.de/VirtualBox-settings\" version=\"1.7-linux\">";
    let machine_text = format!(
        r#"{root}
  <Machine uuid="{id}" name="old" OSType="Other" lastStateChange="2009-06-01T10:00:00Z">
    <ExtraData/>
    <Hardware version="2">
      <CPU count="1"/>
      <Memory RAMSize="32"/>
      <Display VRAMSize="8"/>
      <RemoteDisplay enabled="false" port="3389" authType="Null"/>
      <BIOS>
        <IOAPIC enabled="false"/>
      </BIOS>
      <DVDDrive passthrough="false"/>
      <FloppyDrive enabled="true"/>
      <USBController enabled="false" enabledEhci="false"/>
    </Hardware>
    <StorageControllers>
      <StorageController name="IDE Controller" type="PIIX4" PortCount="2">
        <AttachedDevice type="HardDisk" port="0" device="0">
          <Image uuid="{{{uuid}}}"/>
        </AttachedDevice>
      </StorageController>
    </StorageControllers>
  </Machine>
</VirtualBox>
"#
    );
    let global_text = format!(
        r#"{root}
  <Global>
    <MachineRegistry>
      <MachineEntry uuid="{id}" src="Machines/old/old.xml"/>
    </MachineRegistry>
    <MediaRegistry>
      <HardDisks>
        <HardDisk uuid="{{{uuid}}}" location="HardDisks/old.vdi" format="VDI" type="Normal"/>
      </HardDisks>
    </MediaRegistry>
    <SystemProperties defaultMachineFolder="Machines" defaultHardDiskFolder="HardDisks"/>
  </Global>
</VirtualBox>
"#
    );
    fs::write(&machine, &machine_text)?;
    fs::write(&global, &global_text)?;

    let list = home.manage(&["list", "vms"])?;
    ensure!(list.trim() == format!("\"old\" {id}"), "listed: {list}");
    let info = home.manage(&["showvminfo", "old", "--machinereadable"])?;
    for line in [
        "memory=32".to_owned(),
        format!("CfgFile=\"{}\"", machine.display()),
        format!("\"IDE Controller-0-0\"=\"{name}\""),
        "\"IDE Controller-1-0\"=\"emptydrive\"".to_owned(),
        "\"Floppy Controller-0-0\"=\"emptydrive\"".to_owned(),
    ] {
        ensure!(info.lines().any(|l| l == line), "no {line} in:\n{info}");
    }
    ensure!(fs::read_to_string(&machine)? == machine_text, "only read");

    home.manage(&["modifyvm", "old", "--memory", "48"])?;
    let edited = fs::read_to_string(&machine)?;
    ensure!(edited.contains("version=\"1.7-linux\"") && edited.contains("RAMSize=\"48\""));
    ensure!(
        fs::read_to_string(&global)? == global_text,
        "no reason to write it"
    );

    home.manage(&["startvm", "old", "--type", "headless"])?;
    let info = home.manage(&["showvminfo", "old", "--machinereadable"])?;
    ensure!(info.contains("VMState=\"running\""), "{info}");
    home.manage(&["controlvm", "old", "poweroff"])?;
    let after = fs::read_to_string(&machine)?;
    ensure!(after.contains("version=\"1.7-linux\""), "raised: {after}");
    ensure!(!after.contains("MediaRegistry"), "converted: {after}");
    ensure!(home.path().join("Machines/old/Logs/VBox.log").exists());
    ensure!(disk.exists() && fs::read_to_string(&global)? == global_text);
    Ok(())
}
