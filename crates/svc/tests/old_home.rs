//! Configuration folders of VirtualBox before 4.0: machines in `Machines/NAME/NAME.xml`, disks in
//! `HardDisks/`, all media in `VirtualBox.xml`. They work where they are, and stay what they are.

mod common;

use api::client;
use api::types::*;
use common::Service;
use std::path::PathBuf;

/// Not used here; keeps the helper processes of the other test files apart.
#[test]
fn role() {}

const MACHINE: &str = "{0b1e0000-1000-4000-8000-0000000000aa}";
const BASE: &str = "0b1e0000-0001-4000-8000-0000000000aa";
const DIFF: &str = "0b1e0000-0002-4000-8000-0000000000aa";

/// A home as VirtualBox 3.0 left it, with a snapshot.
struct OldHome {
    service: Service,
    machine: PathBuf,
    global: PathBuf,
}

fn hardware(memory: u32) -> String {
    format!(
        r#"<Hardware version="2">
      <CPU count="1">
        <PAE enabled="false"/>
      </CPU>
      <Memory RAMSize="{memory}"/>
      <Display VRAMSize="8" monitorCount="1" accelerate3D="false" accelerate2DVideo="false"/>
      <RemoteDisplay enabled="false" port="3389" authType="Null"/>
      <BIOS>
        <ACPI enabled="true"/>
        <IOAPIC enabled="false"/>
      </BIOS>
      <DVDDrive passthrough="false"/>
      <FloppyDrive enabled="false"/>
      <USBController enabled="false" enabledEhci="false"/>
      <Network>
        <Adapter slot="0" enabled="true" MACAddress="080027123456" cable="true" speed="0" type="Am79C973">
          <NAT/>
        </Adapter>
      </Network>
    </Hardware>"#
    )
}

fn storage(disk: &str) -> String {
    format!(
        r#"<StorageControllers>
      <StorageController name="IDE Controller" type="PIIX4" PortCount="2">
        <AttachedDevice type="HardDisk" port="0" device="0">
          <Image uuid="{{{disk}}}"/>
        </AttachedDevice>
      </StorageController>
    </StorageControllers>"#
    )
}

impl OldHome {
    fn new() -> Self {
        let service = Service::prepare();
        let home = service.home();
        let machine = home.join("Machines/old/old.xml");
        for folder in ["Machines/old/Snapshots", "HardDisks"] {
            std::fs::create_dir_all(home.join(folder)).expect("folder");
        }
        let (now, then) = (hardware(64), hardware(48));
        let (diff, base) = (storage(DIFF), storage(BASE));
        let snapshot = "{0b1e0000-0003-4000-8000-0000000000aa}";
        let text = format!(
            r#"<?xml version="1.0"?>
<!-- Sun VirtualBox Machine Configuration -->
<VirtualBox xmlns="http://www.innotek.de/VirtualBox-settings" version="1.8-linux">
  <Machine uuid="{MACHINE}" name="old" OSType="Debian" currentSnapshot="{snapshot}" lastStateChange="2009-12-01T10:00:00Z">
    <ExtraData>
      <ExtraDataItem name="GUI/Fullscreen" value="off"/>
    </ExtraData>
    <Snapshot uuid="{snapshot}" name="first" timeStamp="2009-11-01T10:00:00Z">
    {then}
    {base}
    </Snapshot>
    {now}
    {diff}
  </Machine>
</VirtualBox>
"#
        );
        std::fs::write(&machine, text).expect("machine");
        let global = home.join("VirtualBox.xml");
        let text = format!(
            r#"<?xml version="1.0"?>
<!-- Sun VirtualBox Global Configuration -->
<VirtualBox xmlns="http://www.innotek.de/VirtualBox-settings" version="1.7-linux">
  <Global>
    <ExtraData/>
    <MachineRegistry>
      <MachineEntry uuid="{MACHINE}" src="Machines/old/old.xml"/>
    </MachineRegistry>
    <MediaRegistry>
      <HardDisks>
        <HardDisk uuid="{{{BASE}}}" location="HardDisks/old.vdi" format="VDI" type="Normal">
          <HardDisk uuid="{{{DIFF}}}" location="Machines/old/Snapshots/{{{DIFF}}}.vdi" format="VDI"/>
        </HardDisk>
        <HardDisk uuid="{{0b1e0000-0000-4000-8000-0000000000aa}}" location="HardDisks/lost.vdi" format="VDI" type="Normal"/>
      </HardDisks>
      <DVDImages/>
      <FloppyImages/>
    </MediaRegistry>
    <USBDeviceFilters/>
    <SystemProperties defaultMachineFolder="Machines" defaultHardDiskFolder="HardDisks" defaultHardDiskFormat="VDI" remoteDisplayAuthLibrary="VRDPAuth" webServiceAuthLibrary="VRDPAuth" LogHistoryCount="3"/>
  </Global>
</VirtualBox>
"#
        );
        std::fs::write(&global, text).expect("global");
        Self {
            service,
            machine,
            global,
        }
    }

    fn texts(&self) -> [String; 2] {
        [&self.machine, &self.global].map(|p| std::fs::read_to_string(p).expect("text"))
    }
}

fn change(
    client: &api::connect::Client,
    machine: &client::Machine,
    f: impl FnOnce(&client::Machine),
) {
    let session = client.session().expect("session");
    machine
        .lock_machine(&session, LockType::Write)
        .expect("lock");
    let mutable = session.machine().expect("machine").expect("there");
    f(&mutable);
    mutable.save_settings().expect("save");
    session.unlock_machine().expect("unlock");
}

#[test]
fn a_home_before_4_0_is_listed_and_changed_in_place() {
    let mut home = OldHome::new();
    let [machine_text, global_text] = home.texts();
    home.service.run();
    let client = home.service.client();
    let vbox = client.virtualbox();

    let machine = vbox.find_machine("old").expect("listed");
    assert!(machine.accessible().expect("accessible"));
    assert_eq!(machine.memory_size().expect("memory"), 64);
    assert_eq!(machine.snapshot_count().expect("count"), 1);
    let path = machine.settings_file_path().expect("path");
    assert_eq!(PathBuf::from(path), home.machine);
    let disks = vbox.hard_disks().expect("disks");
    assert_eq!(disks.len(), 2);
    let folder = home.service.home();
    let disk = machine
        .get_medium("IDE Controller", 0, 0)
        .expect("attached")
        .expect("there");
    assert_eq!(disk.id().expect("id"), DIFF);
    let base = disk.base().expect("base");
    assert_eq!(
        base.location().expect("location"),
        folder.join("HardDisks/old.vdi").to_str().expect("UTF-8")
    );
    let attached = machine.medium_attachments().expect("attachments");
    assert_eq!(attached.len(), 2, "the DVD drive is one");
    assert_eq!(home.texts(), [machine_text.clone(), global_text.clone()]);

    // A change within what 3.0 knew: the same version, the same places, no other change.
    change(&client, &machine, |m| m.set_memory_size(96).expect("set"));
    let [machine_now, global_now] = home.texts();
    let expected = machine_text.replace("RAMSize=\"64\"", "RAMSize=\"96\"");
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(plain(&machine_now), plain(&expected));
    assert_eq!(global_now, global_text);

    // A new disk goes into the registry that such machines have.
    let new = home.service.path("home/HardDisks/new.vdi");
    let medium = vbox
        .create_medium("VDI", &new, AccessMode::ReadWrite, DeviceType::HardDisk)
        .expect("medium");
    let progress = medium
        .create_base_storage(1 << 20, &[MediumVariant::Standard])
        .expect("create");
    progress.finish().expect("created");
    change(&client, &machine, |m| {
        m.attach_device("IDE Controller", 0, 1, DeviceType::HardDisk, Some(&medium))
            .expect("attach");
    });
    let [machine_now, global_now] = home.texts();
    assert!(
        machine_now.contains("version=\"1.8-linux\""),
        "{machine_now}"
    );
    assert!(!machine_now.contains("MediaRegistry"), "{machine_now}");
    assert!(global_now.contains("version=\"1.7-linux\""), "{global_now}");
    assert!(global_now.contains("location=\"HardDisks/new.vdi\""));
    assert!(global_now.contains("remoteDisplayAuthLibrary=\"VRDPAuth\""));
    let order = ["old.vdi", "lost.vdi", "new.vdi"].map(|n| global_now.find(n).expect("kept"));
    assert!(order.is_sorted(), "{global_now}");

    // New machines are where new machines are, and have their media with them.
    let new = vbox
        .create_machine("", "young", &[], "Debian_64", "", "", "", "")
        .expect("create");
    vbox.register_machine(&new).expect("register");
    let path = new.settings_file_path().expect("path");
    assert_eq!(path, home.service.path("VirtualBox VMs/young/young.vbox"));
    assert!(home.texts()[1].contains("version=\"1.7-linux\""));
    drop(client);

    // And all that survives the service.
    home.service.kill();
    home.service.run();
    let client = home.service.client();
    let machine = client.virtualbox().find_machine("old").expect("found");
    assert_eq!(machine.medium_attachments().expect("attachments").len(), 3);
    assert_eq!(client.virtualbox().machines().expect("machines").len(), 2);
}

#[test]
fn what_3_0_does_not_know_raises_the_file_and_leaves_the_old_one() {
    let mut home = OldHome::new();
    let [machine_text, _] = home.texts();
    home.service.run();
    let client = home.service.client();
    let machine = client.virtualbox().find_machine("old").expect("listed");
    change(&client, &machine, |m| {
        m.set_cpu_execution_cap(50).expect("set");
    });
    let [now, _] = home.texts();
    assert!(now.contains("version=\"1.11-linux\""), "{now}");
    assert!(!now.contains("<DVDDrive"), "{now}");
    let backup = home.machine.with_file_name("old-1.8-linux.xml");
    assert_eq!(std::fs::read_to_string(backup).expect("kept"), machine_text);

    // Its name changes, its folder with it, and the images in there.
    change(&client, &machine, |m| m.set_name("older").expect("set"));
    let folder = home.service.home().join("Machines/older");
    assert_eq!(
        PathBuf::from(machine.settings_file_path().expect("path")),
        folder.join("older.xml")
    );
    assert!(folder.join("older.xml").exists());
    let [_, global] = [(); 2].map(|()| std::fs::read_to_string(&home.global).expect("text"));
    assert!(global.contains("Machines/older/Snapshots/"), "{global}");
    assert!(global.contains("older.xml"), "{global}");
}

#[test]
fn a_home_is_what_the_environment_says() {
    let mut old = OldHome::new();
    let mut new = Service::prepare();
    old.service.run();
    new.run();
    let machines = |s: &Service| s.client().virtualbox().machines().expect("machines").len();
    assert_eq!((machines(&old.service), machines(&new)), (1, 0));
    let home = |s: &Service| PathBuf::from(s.client().virtualbox().home_folder().expect("home"));
    assert_eq!(home(&old.service), old.service.home());
    assert_eq!(home(&new), new.home());
}
