//! Settings files as they are found in the wild, changed and saved, and hostile ones.
//!
//! The fixtures are our own, shaped like files of VirtualBox 4.1, 4.3, 5.2 and 7.0.

use std::fs;
use std::path::Path;

use settings::model::*;
use settings::{Error, GlobalFile, MachineFile, Version};

const V1_12: &str = include_str!("fixtures/v1.12-linux.vbox");
const V1_14: &str = include_str!("fixtures/v1.14-windows.vbox");
const V1_16: &str = include_str!("fixtures/v1.16-macosx.vbox");
const V1_19: &str = include_str!("fixtures/v1.19-linux.vbox");
const MACHINES: [&str; 4] = [V1_12, V1_14, V1_16, V1_19];
const GLOBAL: &str = include_str!("fixtures/VirtualBox.xml");

fn machine(text: &str) -> MachineFile {
    MachineFile::from_text(text, "/vm/N/N.vbox").unwrap_or_else(|e| panic!("{e}"))
}

/// `text` after `change`, as its lines that differ from `text`: `-` gone, `+` come.
fn diff(text: &str, change: impl FnOnce(&mut Machine)) -> Vec<String> {
    let mut file = machine(text);
    change(&mut file.content);
    let new = file.to_text().unwrap();
    assert_eq!(machine(&new).content, file.content, "reads back as meant");
    let gone = text
        .lines()
        .filter(|l| !new.lines().any(|n| n == *l))
        .map(|l| format!("-{}", l.trim()));
    let come = new
        .lines()
        .filter(|l| !text.lines().any(|n| n == *l))
        .map(|l| format!("+{}", l.trim()));
    gone.chain(come)
        .filter(|l| !l.contains("<VirtualBox "))
        .collect()
}

#[test]
fn unchanged_files_stay_as_they_are() {
    for text in MACHINES {
        assert_eq!(machine(text).to_text().unwrap(), text);
    }
    let file = GlobalFile::from_text(GLOBAL, "/x/VirtualBox.xml").unwrap();
    assert_eq!(file.to_text().unwrap(), GLOBAL);
}

#[test]
fn a_change_and_its_undoing_leave_the_same_bytes() {
    for text in MACHINES {
        // Writers put their own platform there.
        let text = text
            .replace("-windows\"", "-linux\"")
            .replace("-macosx\"", "-linux\"");
        let mut file = machine(&text);
        let description = std::mem::replace(&mut file.content.description, "x\ny".to_owned());
        file.content.hardware.memory_mb += 4;
        let mut file = machine(&file.to_text().unwrap());
        file.content.description = description;
        file.content.hardware.memory_mb -= 4;
        assert_eq!(file.to_text().unwrap(), text);
    }
}

#[test]
fn a_file_made_from_the_content_alone_says_the_same() {
    for text in MACHINES {
        let content = machine(text).content;
        let new = MachineFile::create("/vm/N/N.vbox", content.clone())
            .to_text()
            .unwrap();
        assert_eq!(machine(&new).content, content);
        // And it is in the style of the files it was made after: written again, nothing moves.
        let mut again = machine(&new);
        again.content.name.push('x');
        let renamed = again.to_text().unwrap();
        assert_eq!(renamed.lines().filter(|l| !new.contains(*l)).count(), 1);
    }
    let content = GlobalFile::from_text(GLOBAL, "x").unwrap().content;
    let new = GlobalFile::create("x", content.clone()).to_text().unwrap();
    assert_eq!(GlobalFile::from_text(new, "x").unwrap().content, content);
}

#[test]
fn values_are_understood() {
    let old = machine(V1_12);
    assert_eq!(old.version(), Version::V1_12);
    let m = &old.content;
    assert_eq!(m.extra_data.values().last().unwrap(), "Café \"A&B\"");
    let h = &m.hardware;
    assert_eq!(h.memory_mb, 384);
    assert_eq!(h.usb.controllers.len(), 2);
    assert_eq!(h.usb.filters[0].vendor_id, "0951");
    assert_eq!(h.paravirt.provider, ParavirtProvider::Legacy);
    assert_eq!(h.io.bandwidth_groups[0].max_bytes_per_sec, 20 << 20);
    assert_eq!(h.bios.time_offset_ms, -3_600_000);
    assert_eq!(h.serial[0].mode, PortMode::HostPipe);
    assert!(h.serial[0].server);
    assert_eq!(
        (h.serial_port(1).io_base, h.serial_port(2).io_base),
        (0x2f8, 0x3e8)
    );
    assert!(
        h.audio.enabled_in && h.audio.enabled_out,
        "one switch for both in 1.12"
    );
    assert_eq!(h.adapter(0).mode, NetworkMode::Nat);
    assert_eq!(h.adapter(0).nat.forwards[0].host_port, 2222);
    assert!(h.adapter(0).nat.localhost_reachable);
    assert_eq!(h.adapter(1).mode, NetworkMode::Null);
    assert_eq!(h.storage[0].devices[1].kind, DeviceType::Dvd);

    let m = machine(V1_14).content;
    assert_eq!(m.name, "Win 7 \u{2013} Bj\u{f6}rn");
    assert!(
        m.description
            .starts_with("First line\nsecond line with <tags> & \"quotes\"\n")
    );
    let current = m.find_snapshot(m.current_snapshot.unwrap()).unwrap();
    assert_eq!(current.name, "updated");
    assert_eq!(current.hardware.storage[0].devices.len(), 1);
    assert_eq!(m.media.hard_disks[0].children[0].children.len(), 1);
    assert_eq!(m.hardware.adapter(0).mode, NetworkMode::Bridged);
    assert_eq!(m.hardware.adapter(0).internal, "intnet");
    assert_eq!(
        m.hardware.storage[1].devices[0].medium,
        AttachedMedium::HostDrive("A:".into())
    );
    assert_eq!(m.groups, ["/Kunden/B\u{f6}rse"]);

    let h = machine(V1_16).content.hardware;
    assert_eq!(h.boot_order[0], BootDevice::HardDisk);
    assert_eq!(h.display.vram_mb, 8, "left out, so the default");
    assert_eq!(h.network[1].promiscuous, PromiscuousPolicy::AllowNetwork);
    assert!(h.audio.enabled_out && !h.audio.enabled_in);
    assert!(h.cpu.x2apic && h.cpu.ibpb_on_vm_exit && !h.cpu.ibpb_on_vm_entry);

    let m = machine(V1_19).content;
    assert_eq!(m.hardware.storage.len(), 2);
    assert_eq!(m.hardware.firmware, FirmwareType::Efi);
    assert_eq!(m.hardware.iommu, IommuType::Intel);
    assert_eq!(m.hardware.tpm.kind, TpmType::V2_0);
    assert_eq!(m.hardware.network[2].mode, NetworkMode::HostOnlyNetwork);
    assert_eq!(m.snapshot.unwrap().hardware.storage[0].port_count, 2);
    assert_eq!(m.autostart.autostop, AutostopType::AcpiShutdown);

    let g = GlobalFile::from_text(GLOBAL, "x").unwrap().content;
    assert_eq!(g.machines.len(), 2);
    assert!(g.dhcp_servers[0].enabled && !g.system.exclusive_hw_virt);
    assert_eq!(g.nat_networks[0].forwards4[0].guest_port, 80);
}

#[test]
fn a_change_touches_only_its_place() {
    assert_eq!(
        diff(V1_16, |m| m.hardware.cpu.count = 4),
        [r#"-<CPU count="2">"#, r#"+<CPU count="4">"#]
    );
    assert_eq!(
        diff(V1_16, |m| m.hardware.adapter_mut(1).mode =
            NetworkMode::Bridged),
        [
            "-<HostOnlyInterface name=\"vboxnet0\"/>",
            "+<DisabledModes>",
            "+<HostOnlyInterface name=\"vboxnet0\"/>",
            "+</DisabledModes>",
            "+<BridgedInterface/>"
        ]
        .iter()
        .map(|s| s.to_string())
        .collect::<Vec<_>>()
    );
    assert_eq!(
        diff(V1_12, |m| m.hardware.adapter_mut(0).nat.forwards.clear()),
        [
            r#"-<Forwarding name="ssh" proto="1" hostip="127.0.0.1" hostport="2222" guestport="22"/>"#
        ]
    );
    assert_eq!(
        diff(V1_16, |m| m.hardware.display.vram_mb = 32),
        [r#"+<Display VRAMSize="32"/>"#]
    );
    assert_eq!(diff(V1_16, |m| m.aborted = false).len(), 2);
    assert_eq!(
        diff(V1_14, |m| {
            m.hardware.usb.filters.remove(0);
        }),
        [r#"-<DeviceFilter name="cam" active="true" vendorId="046d"/>"#]
    );
}

#[test]
fn foreign_content_survives_in_its_place() {
    let text = V1_16
        .replace("<Memory RAMSize", "<Memory future=\"1\" RAMSize")
        .replace("<Paravirt ", "<!-- a note -->\n      <Quantum qubits=\"7\">\n        <Cat alive=\"maybe\"/>\n      </Quantum>\n      <Paravirt ")
        .replace("<IBPBOn vmexit=\"true\"/>", "<IBPBOn vmexit=\"true\" vmfuture=\"x\"/>")
        .replace("    <Hardware>", "    <o:ext xmlns:o=\"urn:o\" o:a=\"&#xE9;\"/>\n    <Hardware>");
    let expected = text
        .replace("-macosx\"", "-linux\"")
        .replace("RAMSize=\"1024\"", "RAMSize=\"2048\"")
        .replace(" vmexit=\"true\"", "")
        .replace(" aborted=\"true\"", "");
    let mut file = machine(&text);
    file.content.hardware.memory_mb = 2048;
    file.content.hardware.cpu.ibpb_on_vm_exit = false;
    file.content.aborted = false;
    assert_eq!(file.to_text().unwrap(), expected);
}

#[test]
fn explicit_defaults_and_odd_styles_survive() {
    let text = "<?xml version='1.0' encoding=\"UTF-8\"?><VirtualBox xmlns='http://www.virtualbox.org/'\n version='1.16-linux'><Machine name='n' uuid='7E57AB1E-7e57-4ab1-8e57-ab1e7e57ab1e'><Hardware><Display VRAMSize='0x8' monitorCount='01'/></Hardware></Machine></VirtualBox>";
    let mut file = machine(text);
    assert_eq!(file.to_text().unwrap(), text);
    file.content.hardware.display.monitors = 2;
    let new = file.to_text().unwrap();
    assert!(
        new.contains("<Display VRAMSize=\"0x8\" monitorCount=\"2\"/>"),
        "{new}"
    );
    assert!(new.contains("uuid=\"7E57AB1E-"), "{new}");
}

#[test]
fn the_version_rises_only_when_needed() {
    let needs = |text: &str, change: fn(&mut Machine)| {
        let mut file = machine(text);
        change(&mut file.content);
        let text = file.to_text().unwrap();
        assert_eq!(machine(&text).content, file.content);
        assert_eq!(machine(&text).version_on_disk(), Some(file.version()));
        file.version()
    };
    let usb3 = |m: &mut Machine| {
        m.hardware.usb.controllers.push(UsbController {
            name: "xHCI".into(),
            kind: UsbControllerType::Xhci,
        })
    };
    assert_eq!(needs(V1_12, |m| m.hardware.memory_mb = 512), Version::V1_12);
    assert_eq!(
        needs(V1_12, |m| m.groups = vec!["/".into()]),
        Version::V1_12
    );
    assert_eq!(
        needs(V1_12, |m| m.groups = vec!["/g".into()]),
        Version::V1_13
    );
    assert_eq!(
        needs(V1_12, |m| m.hardware.io.bandwidth_groups[0]
            .max_bytes_per_sec = 1),
        Version::V1_13
    );
    assert_eq!(
        needs(V1_12, |m| m.hardware.display.controller =
            GraphicsController::Vmsvga),
        Version::V1_14
    );
    assert_eq!(
        needs(V1_12, |m| m.hardware.cpu.long_mode = false),
        Version::V1_14
    );
    assert_eq!(needs(V1_12, usb3), Version::V1_15);
    assert_eq!(
        needs(V1_12, |m| m.hardware.paravirt.provider =
            ParavirtProvider::Kvm),
        Version::V1_15
    );
    assert_eq!(
        needs(V1_14, |m| m.hardware.audio.enabled_in = false),
        Version::V1_15
    );
    assert_eq!(
        needs(V1_14, |m| m.hardware.cpu.x2apic = true),
        Version::V1_16
    );
    assert_eq!(
        needs(V1_16, |m| m.process_priority = ProcessPriority::Low),
        Version::V1_17
    );
    assert_eq!(
        needs(V1_16, |m| m.hardware.bios.nvram_path = "N.nvram".into()),
        Version::V1_18
    );
    assert_eq!(
        needs(V1_16, |m| m
            .hardware
            .adapter_mut(0)
            .nat
            .localhost_reachable = false),
        Version::V1_19
    );
    assert_eq!(
        needs(V1_19, |m| m.hardware = Hardware::default()),
        Version::V1_19
    );

    let new = MachineFile::create("x", Machine::new(uuid::Uuid::nil(), "n", "Debian_64"));
    // Paravirtualization other than `Legacy` is what a new machine has.
    assert_eq!(new.version(), Version::V1_15);
}

#[test]
fn raising_moves_the_storage_controllers_with_what_is_foreign_in_them() {
    let text = V1_14.replace(
        "<Image uuid=\"{d15c0000-0000-4000-8000-000000000001}\"/>",
        "<Image uuid=\"{d15c0000-0000-4000-8000-000000000001}\" foreign=\"f\"/>",
    );
    let mut file = machine(&text);
    file.content.hardware.iommu = IommuType::Intel;
    let new = file.to_text().unwrap();
    assert!(
        new.contains("version=\"1.19-linux\"")
            && new.contains("xmlns=\"http://www.virtualbox.org/\"")
    );
    assert!(new.contains("foreign=\"f\""), "{new}");
    assert_eq!(new.matches("<StorageControllers>").count(), 3);
    assert_eq!(
        new.matches("</StorageControllers>\n      </Hardware>")
            .count(),
        1
    );
    assert!(!new.contains("</Hardware>\n    <StorageControllers>"));
    assert_eq!(machine(&new).content, file.content);
}

#[test]
fn saving_keeps_the_previous_file_and_the_older_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("N.vbox");
    fs::write(&path, V1_12).unwrap();
    let mut file = MachineFile::load(&path).unwrap();
    file.save().unwrap();
    assert!(!dir.path().join("N.vbox-prev").exists(), "nothing to write");

    file.content.hardware.memory_mb = 400;
    assert!(file.is_modified());
    file.save().unwrap();
    assert!(!file.is_modified());
    assert_eq!(
        fs::read_to_string(dir.path().join("N.vbox-prev")).unwrap(),
        V1_12
    );

    let before = fs::read_to_string(&path).unwrap();
    file.content.hardware.cpu.x2apic = true;
    file.save().unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join("N-1.12-linux.vbox")).unwrap(),
        before
    );
    assert_eq!(MachineFile::load(&path).unwrap().content, file.content);
    assert_eq!(file.version_on_disk(), Some(Version::V1_16));
    assert!(!dir.path().join("N.vbox-tmp").exists());
}

#[test]
fn two_writers_do_not_undo_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("N.vbox");
    let mut first = MachineFile::create(&path, machine(V1_16).content);
    let mut rival = MachineFile::create(&path, Machine::default());
    first.save().unwrap();
    assert!(
        matches!(rival.save(), Err(Error::Changed { .. })),
        "the file is there by now"
    );

    let mut second = MachineFile::load(&path).unwrap();
    second.content.name = "second".into();
    second.save().unwrap();
    first.content.name = "first".into();
    let err = first.save().unwrap_err();
    assert!(matches!(err, Error::Changed { .. }), "{err}");
    assert_eq!(MachineFile::load(&path).unwrap().content.name, "second");

    let held = iprt::file::Replacement::begin(&path).unwrap();
    second.content.name = "third".into();
    let err = second.save().unwrap_err();
    assert!(
        matches!(err, Error::File(iprt::Error::Locked { .. })),
        "{err}"
    );
    drop(held);
    second.save().unwrap();
}

#[test]
fn settings_that_could_not_be_read_again_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("N.vbox");
    let mut content = machine(V1_16).content;
    content.hardware.memory_mb = 1;
    let err = MachineFile::create(&path, content).save().unwrap_err();
    assert!(matches!(err, Error::Invalid { .. }), "{err}");
    assert!(!path.exists());
}

fn broken(text: &str) -> String {
    match MachineFile::from_text(text, "/vm/N.vbox") {
        Err(e) => e.to_string(),
        Ok(_) => panic!("read without complaint: {text}"),
    }
}

#[test]
fn faults_say_where_and_what() {
    let at = |text: &str, line: u32, column: u32, what: &str| {
        let message = broken(text);
        let start = format!("'/vm/N.vbox', line {line}, column {column}: ");
        assert!(
            message.starts_with(&start) && message.contains(what),
            "{message}"
        );
    };
    at("", 1, 1, "");
    at("<a/>", 1, 1, "no settings file");
    at(
        "<VirtualBox xmlns='urn:x' version='1.16-linux'/>",
        1,
        1,
        "no settings file",
    );
    let open = "<VirtualBox xmlns='http://www.virtualbox.org/'\n version=";
    at(&format!("{open}'x'/>"), 2, 2, "1.16-linux");
    at(&format!("{open}'1.16-../x'/>"), 2, 2, "1.16-linux");
    at(&format!("{open}'1.16-linux'/>"), 1, 1, "no Machine");
    at(
        &V1_16.replace("{9e107d9d", "{9e107d9"),
        8,
        12,
        "'{9e107d9-372b",
    );
    at(
        &V1_16.replace("RAMSize=\"1024\"", "RAMSize=\"many\""),
        23,
        15,
        "Memory/@RAMSize: 'many' must be",
    );
    at(
        &V1_16.replace("RAMSize=\"1024\"", "RAMSize=\"3\""),
        23,
        15,
        "must be from 4 to",
    );
    at(
        &V1_16.replace("provider=\"KVM\"", "provider=\"ABC\""),
        24,
        17,
        "must be one of Default, None",
    );
    at(
        &V1_16.replace("MACAddress=\"02A0B1C2D3E4\"", "MACAddress=\"02\""),
        41,
        42,
        "12 hexadecimal",
    );
    at(&V1_16.replace("</CPU>", "</GPU>"), 22, 7, "");
    at(
        &V1_16.replace(" OSType", " name='2' OSType"),
        8,
        101,
        "name",
    );
    let twice = "<Image uuid=\"{b16b00b5-0001-4000-8000-aabbccddeeff}\"/>";
    at(
        &V1_16.replace(twice, &twice.repeat(2)),
        63,
        9,
        "more than one medium",
    );
    let lost = "currentSnapshot=\"{44444444";
    at(
        &V1_19.replace("currentSnapshot=\"{33333333", lost),
        8,
        93,
        "not one of the machine's snapshots",
    );

    assert!(broken(&V1_16.replace("1.16-macosx", "1.21-macosx")).contains("version 1.21"));
    assert!(broken(&V1_16.replace("1.16-macosx", "1.2-macosx")).contains("version 1.2;"));
    let encrypted = V1_16
        .replace("<Machine ", "<MachineEncrypted ")
        .replace("</Machine>", "</MachineEncrypted>");
    assert!(broken(&encrypted).contains("encrypted"));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("latin1.vbox");
    fs::write(&path, b"<VirtualBox\n name='\xe9'/>").unwrap();
    let message = MachineFile::load(&path).unwrap_err().to_string();
    assert!(
        message.contains("line 2, column 8: this is not UTF-8"),
        "{message}"
    );
    assert!(
        MachineFile::load(dir.path().join("none"))
            .unwrap_err()
            .to_string()
            .contains("cannot read")
    );
    assert!(MachineFile::load(dir.path()).is_err());
}

#[test]
fn hostile_files_are_refused_without_harm() {
    let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;\">]>";
    assert!(broken(&V1_16.replace("<VirtualBox ", &format!("{bomb}<VirtualBox "))).contains("DTD"));
    assert!(broken(&V1_16.replace("Ubuntu_64", "&b;")).contains("line 8"));
    assert!(broken(&"<Snapshots>".repeat(500_000)).contains("deeper"));
    let huge = V1_16.replace("Ubuntu_64", &"x".repeat(8 << 20));
    assert_eq!(machine(&huge).content.os_type.len(), 8 << 20);
    let huge = V1_16.replace("Ubuntu_64", &"x".repeat(17 << 20));
    assert!(broken(&huge).contains("larger than 16 MiB"));
}

/// A machine with snapshots or images nested as deep as files may be, on a thread's usual stack.
#[test]
fn deep_trees_fit_the_stack() {
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(|| {
            let mut content = machine(V1_16).content;
            for n in 0..250u128 {
                let below = content.snapshot.take();
                content.snapshot = Some(Box::new(Snapshot {
                    uuid: uuid::Uuid::from_u128(n),
                    name: n.to_string(),
                    children: below.into_iter().map(|s| *s).collect(),
                    ..Snapshot::default()
                }));
            }
            let text = MachineFile::create("x", content.clone()).to_text().unwrap();
            let mut read = machine(&text);
            assert_eq!(read.content, content);
            read.content.name.push('x');
            read.to_text().unwrap();

            let mut content = machine(V1_16).content;
            for _ in 0..500 {
                let below = std::mem::take(&mut content.media.hard_disks);
                content.media.hard_disks.push(HardDisk {
                    children: below,
                    ..HardDisk::default()
                });
            }
            let text = MachineFile::create("x", content.clone()).to_text().unwrap();
            assert_eq!(machine(&text).content.media.hard_disks.len(), 1);
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn truncated_and_damaged_files_never_panic() {
    // Every byte of the smallest file; of the others, a share that keeps this quick.
    for (text, step) in [(V1_16, 1), (V1_12, 7), (V1_14, 7), (V1_19, 7)] {
        for end in (0..text.trim_end().len()).step_by(step) {
            if let Some(part) = text.get(..end) {
                broken(part);
            }
        }
        // One byte replaced, all over the file.
        for n in (0..text.len()).step_by(step) {
            let mut bytes = text.as_bytes().to_vec();
            bytes[n] = b"<>&\"/=\0 9-{"[n % 11];
            let text = String::from_utf8(bytes).unwrap();
            if let Ok(mut file) = MachineFile::from_text(text, "x") {
                file.content.hardware.cpu.x2apic ^= true;
                let _ = file.to_text();
            }
        }
    }
    for end in 0..GLOBAL.trim_end().len() {
        assert!(GlobalFile::from_text(&GLOBAL[..end], "x").is_err());
    }
}

#[test]
fn guests_cannot_make_a_file_unwritable() {
    let mut file = machine(V1_16);
    file.content.hardware.guest_properties.push(GuestProperty {
        name: "/x\u{1}\u{0}\r\n\t\"<&>".into(),
        value: "\u{fffe}\u{1F600}]]>".into(),
        timestamp: u64::MAX,
        flags: String::new(),
    });
    let read = machine(&file.to_text().unwrap()).content;
    let property = &read.hardware.guest_properties[0];
    assert_eq!(property.name, "/x??\r\n\t\"<&>");
    assert_eq!(property.value, "?\u{1F600}]]>");
    assert_eq!(property.timestamp, u64::MAX);
}

#[test]
fn stored_paths() {
    let folder = Path::new("/vm/N");
    assert_eq!(
        settings::resolve_path("N.vdi", folder),
        Path::new("/vm/N/N.vdi")
    );
    assert_eq!(settings::resolve_path("/a/b", folder), Path::new("/a/b"));
    assert_eq!(
        settings::store_path(Path::new("/vm/N/Snapshots/x"), folder).unwrap(),
        "Snapshots/x"
    );
    assert_eq!(
        settings::store_path(Path::new("/vm/M/x"), folder).unwrap(),
        "/vm/M/x"
    );
}

mod random {
    use super::*;
    use proptest::prelude::*;

    /// Changes about half of the settings, steered by `bits`.
    fn scramble(m: &mut Machine, bits: &[u32], texts: &[String]) {
        let mut next = bits.iter().copied().cycle();
        let mut text = texts.iter().cloned().cycle();
        let mut n = || next.next().unwrap_or_default();
        let mut s = || text.next().unwrap_or_default();
        fn pick<T: Copy>(all: &[T], n: u32) -> T {
            all[n as usize % all.len()]
        }
        m.name = s();
        m.os_type = s();
        m.description = s();
        m.aborted = n() & 1 != 0;
        m.icon = s();
        m.process_priority = pick(ProcessPriority::ALL, n());
        m.extra_data = (0..n() % 4).map(|_| (s(), s())).collect();
        m.groups = (0..n() % 3).map(|_| format!("/{}", s())).collect();
        m.groups.retain(|g| g != "/");
        if m.groups.is_empty() {
            m.groups.push("/".to_owned());
        }
        m.state_file = Some(s()).filter(|s| !s.is_empty());
        let h = &mut m.hardware;
        h.cpu.count = n() % 32 + 1;
        h.cpu.long_mode = n() & 1 != 0;
        h.cpu.x2apic = n() & 1 != 0;
        h.cpu.cpuid = vec![CpuIdLeaf {
            id: n(),
            subleaf: n() % 2,
            eax: n(),
            ebx: n(),
            ecx: n(),
            edx: n(),
        }];
        h.memory_mb = n() % 10_000 + 4;
        h.paravirt.provider = pick(ParavirtProvider::ALL, n());
        h.boot_order = [n(), n(), n(), n()].map(|n| pick(BootDevice::ALL, n));
        h.display.controller = pick(GraphicsController::ALL, n());
        h.display.vram_mb = n() % 257;
        h.bios.time_offset_ms = i64::from(n()) - 99;
        h.usb.controllers = (0..n() % 3)
            .map(|_| UsbController {
                name: s(),
                kind: pick(UsbControllerType::ALL, n()),
            })
            .collect();
        h.usb.filters = (0..n() % 3)
            .map(|_| UsbFilter {
                name: s(),
                vendor_id: s(),
                active: n() & 1 != 0,
                ..Default::default()
            })
            .collect();
        for slot in 0..n() % 4 {
            let a = h.adapter_mut(slot);
            a.enabled = n() & 1 != 0;
            a.kind = pick(NetworkAdapterType::ALL, n());
            a.bridged = s();
            a.nat.localhost_reachable = n() & 1 != 0;
            a.nat.forwards = vec![NatForward {
                name: s(),
                guest_port: n() as u16,
                ..Default::default()
            }];
            a.mode = pick(
                &[
                    NetworkMode::Null,
                    NetworkMode::Nat,
                    NetworkMode::Bridged,
                    NetworkMode::Generic,
                    NetworkMode::NatNetwork,
                    NetworkMode::HostOnlyNetwork,
                    NetworkMode::Cloud,
                ],
                n(),
            );
        }
        h.serial_port_mut(n() % 4).mode = pick(PortMode::ALL, n());
        h.audio.driver = pick(AudioDriver::ALL, n());
        h.audio.enabled = n() & 1 != 0;
        h.audio.enabled_in = n() & 1 != 0;
        h.audio.enabled_out = n() & 1 != 0;
        h.io.bandwidth_groups = vec![BandwidthGroup {
            name: s(),
            kind: pick(BandwidthGroupType::ALL, n()),
            max_bytes_per_sec: u64::from(n()) << (n() % 20),
        }];
        h.storage = (0..n() % 3)
            .map(|port| {
                let kind = pick(StorageControllerType::ALL, n());
                let mut c = StorageController::new(s(), kind);
                c.use_host_io_cache = n() & 1 != 0;
                c.devices.push(AttachedDevice {
                    kind: pick(DeviceType::ALL, n()),
                    port,
                    discard: n() & 1 != 0,
                    hot_pluggable: n() & 1 != 0,
                    medium: match n() % 3 {
                        0 => AttachedMedium::None,
                        1 => AttachedMedium::Image(uuid::Uuid::from_u128(n().into())),
                        _ => AttachedMedium::HostDrive(s()),
                    },
                    ..AttachedDevice::default()
                });
                c
            })
            .collect();
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_is_written_is_read(
            base in 0usize..5,
            bits in prop::collection::vec(any::<u32>(), 40..90),
            // Anything XML can hold.
            texts in prop::collection::vec("[ -~\u{a0}-\u{d7ff}\u{e000}-\u{fffd}\t\n\r]{0,12}", 5..20),
        ) {
            let mut file = match MACHINES.get(base) {
                Some(text) => machine(text),
                None => MachineFile::create("x", Machine::default()),
            };
            scramble(&mut file.content, &bits, &texts);
            let text = file.to_text().unwrap();
            prop_assert_eq!(&machine(&text).content, &file.content, "{}", text);
        }
    }
}
