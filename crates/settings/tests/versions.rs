//! Files of every format version from 1.3 to 1.20 and of every platform: read, changed, saved, and
//! raised to newer versions.
//!
//! The fixtures are our own, shaped like files of VirtualBox 2.0 to 7.1; their names say version
//! and platform.

use std::fs;
use std::path::{Path, PathBuf};

use settings::model::*;
use settings::{GlobalFile, MachineFile, Version};

/// Name and text of the fixtures whose names start with `prefix`.
fn fixtures(prefix: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut all: Vec<(String, String)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .filter(|(name, _)| name.starts_with(prefix))
        .collect();
    all.sort();
    all
}

fn fixture(name: &str) -> MachineFile {
    let all = fixtures(name);
    let [(name, text)] = &all[..] else {
        panic!("{name}: {} fixtures", all.len())
    };
    machine(name, text)
}

fn machine(name: &str, text: &str) -> MachineFile {
    MachineFile::from_text(text, Path::new("/vm").join(name)).unwrap_or_else(|e| panic!("{e}"))
}

fn global(name: &str, text: &str) -> GlobalFile {
    GlobalFile::from_text(text, Path::new("/home").join(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// `1.N` and the platform in a fixture's name.
fn said(name: &str) -> (String, String) {
    let (_, rest) = name.split_once("1.").unwrap();
    let (minor, rest) = rest.split_once('-').unwrap();
    let (platform, _) = rest.split_once('.').unwrap();
    (format!("1.{minor}"), platform.to_owned())
}

/// The text as this platform would have written it.
fn as_written_here(text: &str, platform: &str) -> String {
    let here = settings::version::host_platform();
    text.replacen(&format!("-{platform}\""), &format!("-{here}\""), 1)
}

#[test]
fn every_version_is_there() {
    let names: Vec<String> = fixtures("v1.").into_iter().map(|(n, _)| n).collect();
    for minor in Version::OLDEST.minor()..=Version::NEWEST.minor() {
        let start = format!("v1.{minor}-");
        assert!(names.iter().any(|n| n.starts_with(&start)), "{start}");
    }
}

#[test]
fn every_machine_is_read_and_stays_as_it_is() {
    for (name, text) in fixtures("v1.") {
        let file = machine(&name, &text);
        let version = file.version_on_disk().unwrap();
        assert_eq!(version.to_string(), said(&name).0, "{name}");
        assert_eq!(file.version(), version, "{name}");
        assert!(!file.is_modified());
        assert_eq!(file.to_text().unwrap(), text, "{name}");
    }
    for (name, text) in fixtures("global-1.") {
        let file = global(&name, &text);
        assert_eq!(file.version_on_disk().unwrap().to_string(), said(&name).0);
        assert_eq!(file.to_text().unwrap(), text, "{name}");
    }
}

#[test]
fn what_changed_is_read_back_and_its_undoing_restores_the_bytes() {
    for (name, text) in fixtures("v1.") {
        let mut file = machine(&name, &text);
        let read = file.version_on_disk().unwrap();
        file.content.hardware.memory_mb += 4;
        file.content.extra_data.insert("k".into(), "v".into());
        let changed = file.to_text().unwrap();
        let mut again = machine(&name, &changed);
        assert_eq!(again.content, file.content, "{name}\n{changed}");
        let written = again.version_on_disk().unwrap();
        assert_eq!(written, read.max(Version::OLDEST_WRITTEN), "{name}");

        again.content.hardware.memory_mb -= 4;
        again.content.extra_data.remove("k");
        let undone = again.to_text().unwrap();
        if written == read {
            let (_, platform) = said(&name);
            let gone: Vec<&str> = text.lines().filter(|l| !undone.contains(l)).collect();
            assert_eq!(
                undone,
                as_written_here(&text, &platform),
                "{name}: {gone:?}"
            );
        }
        let original = machine(&name, &text).content;
        assert_eq!(machine(&name, &undone).content, original, "{name}");
    }
}

#[test]
fn a_change_touches_only_its_line() {
    for (name, text) in fixtures("v1.") {
        let mut file = machine(&name, &text);
        if file.version_on_disk().unwrap() < Version::OLDEST_WRITTEN {
            continue;
        }
        file.content.hardware.memory_mb += 4;
        let new = file.to_text().unwrap();
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let (before, after) = (lines(&text), lines(&new));
        assert_eq!(before.len(), after.len(), "{name}");
        let differ: Vec<&String> = before
            .iter()
            .zip(&after)
            .filter(|(a, b)| a != b && !a.contains("<VirtualBox "))
            .map(|(a, _)| a)
            .collect();
        assert_eq!(differ.len(), 1, "{name}: {differ:?}");
        assert!(differ[0].contains("RAMSize"), "{name}: {differ:?}");
    }
}

#[test]
fn globals_change_and_change_back() {
    for (name, text) in fixtures("global-1.") {
        let mut file = global(&name, &text);
        let read = file.version_on_disk().unwrap();
        let entry = MachineEntry {
            uuid: uuid::Uuid::from_u128(7),
            src: "/new/new.vbox".into(),
        };
        file.content.machines.push(entry);
        let changed = file.to_text().unwrap();
        let mut again = global(&name, &changed);
        assert_eq!(again.content, file.content, "{name}\n{changed}");
        assert_eq!(
            again.version_on_disk().unwrap(),
            read.max(Version::OLDEST_WRITTEN)
        );
        again.content.machines.pop();
        let undone = again.to_text().unwrap();
        if read >= Version::OLDEST_WRITTEN {
            let (_, platform) = said(&name);
            assert_eq!(undone, as_written_here(&text, &platform), "{name}");
        }
    }
}

/// Newer products write some of their settings into files of older versions: that alone is no
/// reason to raise them.
#[test]
fn what_an_old_file_already_says_does_not_raise_it() {
    let (name, text) = &fixtures("v1.11")[0];
    let text = text.replace("<Machine ", "<Machine icon=\"aWNvbg==\" ");
    let mut file = machine(name, &text);
    file.content.hardware.memory_mb += 4;
    assert_eq!(file.version(), Version::V1_11);
    let new = file.to_text().unwrap();
    assert!(new.contains("1.11-") && new.contains("icon="), "{new}");
    assert_eq!(machine(name, &new).content, file.content);
    file.content.hardware.cpu.x2apic = true;
    assert_eq!(file.version(), Version::V1_16);
    // Where the layout has no room, the file must rise.
    let (name, text) = &fixtures("v1.9")[0];
    let text = text.replace("\"1.9-", "\"1.7-");
    let mut file = machine(name, &text);
    assert_eq!(file.version(), Version::V1_7);
    file.content.hardware.memory_mb += 4;
    assert_eq!(file.version(), Version::V1_9);
    assert_eq!(
        machine(name, &file.to_text().unwrap()).content,
        file.content
    );
}

/// Editors and version control change line ends and indentation.
#[test]
fn other_white_space_is_the_same_file() {
    for (name, text) in fixtures("v1.") {
        let other = text.replace('\n', "\r\n").replace("    ", "\t");
        let other = format!("\u{feff}{other}");
        let mut file = machine(&name, &other);
        assert_eq!(file.to_text().unwrap(), other);
        file.content.hardware.memory_mb += 4;
        let new = file.to_text().unwrap();
        assert_eq!(machine(&name, &new).content, file.content, "{name}");
    }
}

/// Every machine raised to every version that follows, by a setting that needs it.
#[test]
fn raised_files_say_the_same_as_before() {
    type Change = fn(&mut Machine);
    let changes: &[(u16, Change)] = &[
        (9, |m| m.teleporter.port = 1),
        (10, |m| m.hardware.hpet ^= true),
        (11, |m| m.hardware.cpu.execution_cap = 40),
        (12, |m| {
            m.hardware.adapter_mut(3).promiscuous = PromiscuousPolicy::AllowAll;
        }),
        (13, |m| m.groups = vec!["/raised".into()]),
        (14, |m| m.icon = "aWNvbg==".into()),
        (15, |m| {
            m.hardware.paravirt.provider = ParavirtProvider::Minimal
        }),
        (16, |m| m.hardware.cpu.spec_ctrl ^= true),
        (17, |m| m.process_priority = ProcessPriority::Low),
        (18, |m| m.hardware.bios.nvram_path = "x.nvram".into()),
        (19, |m| m.hardware.iommu = IommuType::Intel),
        (20, |m| m.execution_engine = "Interpreter".into()),
    ];
    for (name, text) in fixtures("v1.") {
        for (minor, change) in changes {
            let mut file = machine(&name, &text);
            let read = file.version_on_disk().unwrap();
            let before = file.content.clone();
            change(&mut file.content);
            if file.content == before {
                continue;
            }
            let needed = Version::from_minor(*minor).unwrap();
            assert_eq!(file.version(), read.max(needed), "{name} to {needed}");
            let raised = file.to_text().unwrap();
            let again = machine(&name, &raised);
            assert_eq!(again.content, file.content, "{name} to {needed}\n{raised}");
        }
    }
}

/// What foreign programs put into a file stays, in its place and through every change of layout.
#[test]
fn foreign_content_survives_every_version() {
    for (name, text) in fixtures("v1.") {
        let marked = text
            .replace("<Memory RAM", "<Memory foreign=\"f1\" RAM")
            .replace("<Image uuid=", "<Image foreign=\"f2\" uuid=")
            .replacen("<Network>", "<Foreign a=\"f3\"/>\n<Network>", 1)
            .replace("<Adapter slot=\"0\"", "<Adapter foreign=\"f4\" slot=\"0\"")
            .replacen("<ExtraData", "<!-- f5 -->\n<ExtraData", 1);
        let count = |text: &str, what: &str| text.matches(what).count();
        for raise in [false, true] {
            let mut file = machine(&name, &marked);
            if raise {
                file.content.hardware.iommu = IommuType::Amd;
            }
            file.content.hardware.memory_mb += 4;
            let new = file.to_text().unwrap();
            assert_eq!(machine(&name, &new).content, file.content, "{name}");
            for mark in ["f1", "f2", "f3", "f4"] {
                let expected = count(&marked, &format!("\"{mark}\""));
                assert_eq!(
                    count(&new, &format!("\"{mark}\"")),
                    expected,
                    "{name} {mark}\n{new}"
                );
            }
            assert_eq!(count(&new, "<!-- f5 -->"), count(&marked, "<!-- f5 -->"));
        }
    }
}

#[test]
fn the_old_version_is_kept_beside_the_raised_file() {
    for (name, text) in fixtures("v1.") {
        let dir = tempfile::tempdir().unwrap();
        let (version, platform) = said(&name);
        let extension = name.rsplit('.').next().unwrap();
        let path = dir.path().join(format!("a machine.{extension}"));
        fs::write(&path, &text).unwrap();
        let backup = dir
            .path()
            .join(format!("a machine-{version}-{platform}.{extension}"));

        let mut file = MachineFile::load(&path).unwrap();
        file.save().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "not touched");
        file.content.hardware.memory_mb += 4;
        file.save().unwrap();
        let old = file.version_on_disk().unwrap().to_string() == version;
        assert_eq!(backup.exists(), !old, "{name}");

        file.content.hardware.iommu = IommuType::Amd;
        let before = fs::read_to_string(&path).unwrap();
        let from = file.version_on_disk().unwrap();
        file.save().unwrap();
        if from < Version::V1_19 && old {
            // The first save put this platform into the file.
            let here = settings::version::host_platform();
            let name = format!("a machine-{version}-{here}.{extension}");
            let kept = fs::read_to_string(dir.path().join(name)).unwrap();
            assert_eq!(kept, before);
        } else if !old {
            assert_eq!(fs::read_to_string(&backup).unwrap(), text, "{name}");
        }
        assert_eq!(MachineFile::load(&path).unwrap().content, file.content);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("VirtualBox.xml");
    let (_, text) = &fixtures("global-1.3")[0];
    fs::write(&path, text).unwrap();
    let mut file = GlobalFile::load(&path).unwrap();
    file.content.extra_data.insert("a".into(), "b".into());
    file.save().unwrap();
    let backup = dir.path().join("VirtualBox-1.3-linux.xml");
    assert_eq!(&fs::read_to_string(backup).unwrap(), text);
    assert!(dir.path().join("VirtualBox.xml-prev").exists());
}

#[test]
fn a_file_made_from_the_content_says_the_same() {
    for (name, text) in fixtures("v1.") {
        let content = machine(&name, &text).content;
        let new = MachineFile::create(PathBuf::from("/vm/n"), content.clone());
        let new = new.to_text().unwrap();
        assert_eq!(machine(&name, &new).content, content, "{name}\n{new}");
    }
    for (name, text) in fixtures("global-1.") {
        let content = global(&name, &text).content;
        let new = GlobalFile::create(PathBuf::from("/vm/n"), content.clone());
        let new = new.to_text().unwrap();
        assert_eq!(global(&name, &new).content, content, "{name}");
    }
}

// What the files mean, one part of the history after the other.

fn media(controller: &StorageController) -> Vec<(DeviceType, u32, u32, bool)> {
    let there = |d: &AttachedDevice| d.medium != AttachedMedium::None;
    controller
        .devices
        .iter()
        .map(|d| (d.kind, d.port, d.device, there(d)))
        .collect()
}

#[test]
fn before_1_7_attachments_become_controllers() {
    use DeviceType::{Dvd, Floppy, HardDisk};
    let m = fixture("v1.3").content;
    assert_eq!(m.os_type, "Debian");
    let h = &m.hardware;
    assert_eq!(h.version, 1);
    assert!(h.cpu.hw_virt, "the file leaves it to the default");
    let names: Vec<&str> = h.storage.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["IDE Controller", "Floppy Controller"]);
    assert_eq!(h.storage[0].kind, StorageControllerType::Piix3);
    assert_eq!(
        media(&h.storage[0]),
        [
            (HardDisk, 0, 0, true),
            (HardDisk, 0, 1, true),
            (Dvd, 1, 0, true)
        ]
    );
    assert_eq!(media(&h.storage[1]), [(Floppy, 0, 0, true)]);
    let drive = AttachedMedium::HostDrive("/dev/hdc".into());
    assert_eq!(h.storage[0].devices[2].medium, drive);
    assert_eq!(h.adapter(0).mode, NetworkMode::Bridged);
    assert_eq!(h.adapter(0).bridged, "vbox0");
    assert_eq!(h.remote_display.properties["TCP/Ports"], "3389");
    assert_eq!(h.remote_display.properties["TCP/Address"], "192.168.1.10");
    assert_eq!(h.guest.statistics_interval, 5);
    assert_eq!(h.usb.filters[1].name, "other \"x\"");
    assert!(h.serial[0].enabled && h.parallel[0].enabled);

    let m = fixture("v1.4").content;
    assert_eq!((m.os_type.as_str(), m.name.as_str()), ("WindowsXP", "Büro"));
    assert_eq!(m.description, "Zeile eins\nZeile zwei & drei");
    let h = &m.hardware;
    assert_eq!(h.version, 2);
    let sata = h.controller("SATA Controller").unwrap();
    assert_eq!(sata.port_count, 4);
    assert_eq!(media(sata), [(HardDisk, 0, 0, true)]);
    let ide = h.controller("IDE Controller").unwrap();
    assert_eq!(media(ide), [(HardDisk, 0, 0, true), (Dvd, 1, 0, true)]);
    assert_eq!(h.adapter(0).nat.network, "10.0.7.0/24");
    assert_eq!(h.shared_folders[0].host_path, "D:\\Daten\\Öffentlich");

    let m = fixture("v1.5").content;
    let snapshot = m.find_snapshot(m.current_snapshot.unwrap()).unwrap();
    assert_eq!(snapshot.hardware.memory_mb, 128);
    assert_eq!(snapshot.hardware.storage.len(), 2);
    assert_ne!(
        snapshot.hardware.storage[0].devices[0].medium,
        m.hardware.storage[0].devices[0].medium
    );
    assert_eq!(m.hardware.bios.time_offset_ms, -3_600_000);
    assert!(!m.hardware.cpu.hw_virt);

    let m = fixture("v1.6").content;
    let ide = &m.hardware.storage[0];
    assert_eq!(ide.kind, StorageControllerType::Piix4);
    assert_eq!(
        media(ide),
        [
            (HardDisk, 0, 0, true),
            (Dvd, 1, 0, true),
            (HardDisk, 1, 1, true)
        ]
    );
    assert!(m.state_file.unwrap().ends_with(".sav"));
}

#[test]
fn from_1_7_to_1_10() {
    let m = fixture("v1.7").content;
    assert!(m.aborted);
    let h = &m.hardware;
    assert_eq!(h.adapter(1).mode, NetworkMode::HostOnly);
    assert_eq!(h.remote_display.properties["TCP/Ports"], "43399");
    assert!(h.remote_display.allow_multi_connection);
    let floppy = h.controller("Floppy Controller").unwrap();
    let a = AttachedMedium::HostDrive("A:".into());
    assert_eq!(floppy.devices[0].medium, a);
    let dvd = m.snapshot.as_ref().unwrap().hardware.storage[0]
        .device(1, 0)
        .unwrap()
        .clone();
    assert!(dvd.passthrough);
    assert_eq!(dvd.medium, AttachedMedium::HostDrive("D:".into()));

    let h = fixture("v1.8").content.hardware;
    assert!(h.display.accelerate_2d_video && h.display.accelerate_3d);
    assert_eq!(h.adapter(0).bridged, "en1: AirPort");
    assert_eq!(h.storage.len(), 3);

    let m = fixture("v1.9").content;
    assert_eq!(m.teleporter.port, 6000);
    assert_eq!(m.hardware.firmware, FirmwareType::Efi);
    assert_eq!(m.hardware.storage[0].devices.len(), 3);
    assert!(m.hardware.uuid.is_some());

    let h = fixture("v1.10").content.hardware;
    assert_eq!(h.cpu.plugged, [0, 1, 3]);
    assert_eq!(h.cpu.cpuid[1].id, 0x8000_0001);
    assert!(h.cpu.synthetic && h.hpet);
    assert_eq!(h.rtc, RtcZone::Utc);
    let nat = h.adapter(0).nat;
    assert_eq!((nat.mtu, nat.sock_send, nat.tcp_send), (1400, 64, 16));
    assert!(nat.dns.use_proxy && nat.alias.proxy_only);
    assert_eq!(nat.tftp.prefix, "C:\\tftp");
    assert_eq!(nat.forwards[1].proto, NatProtocol::Udp);
    assert_eq!(h.adapter(1).internal, "lab");
    let vrde = &h.remote_display.properties;
    assert_eq!(vrde["TCP/Ports"], "3389-3399,4000");
    assert_eq!(vrde["VideoChannel/Quality"], "75");
    assert_eq!(
        h.guest_properties[2].flags,
        "TRANSIENT, TRANSRESET, RDONLYHOST"
    );
    assert_eq!(h.shared_folders[0].host_path, "\\\\server\\share");
    assert!(!h.storage[0].use_host_io_cache);
}

#[test]
fn from_1_11_to_1_20() {
    let m = fixture("v1.11").content;
    assert_eq!(m.media.hard_disks.len(), 3);
    assert_eq!(m.media.hard_disks[1].kind, HardDiskType::MultiAttach);
    assert!(m.media.hard_disks[0].children[0].auto_reset);
    assert_eq!(m.media.hard_disks[2].properties.len(), 2);
    assert_eq!(
        m.hardware.io.bandwidth_groups[0].max_bytes_per_sec,
        20 << 20
    );
    assert_eq!(m.hardware.storage[1].instance, 1);

    let h = fixture("v1.12-macosx").content.hardware;
    assert_eq!(h.adapter(0).generic.properties["dport"], "10001");
    assert_eq!(h.host_pci[0].host, 0x100);
    assert!(h.card_reader && h.storage[0].devices[1].temp_eject);

    let m = fixture("v1.13").content;
    assert!(m.directory_includes_uuid && !m.name_sync);
    assert_eq!(
        m.hardware.io.bandwidth_groups[0].max_bytes_per_sec,
        1_000_001
    );
    assert_eq!((m.groups.len(), m.autostart.delay), (2, 30));
    assert_eq!(m.snapshot_folder, "F:\\Snaps");

    // Newer products leave defaults out of older versions as well.
    let h = fixture("v1.15-windows").content.hardware;
    assert_eq!(h.network.len(), 29);
    assert!(h.adapter(0).cable && !h.adapter(35).cable);
    assert!(h.audio.enabled_out && !h.audio.enabled_in);
    assert_eq!(h.paravirt.provider, ParavirtProvider::Default);
    let silent = |name: &str| fixture(name).content.hardware.paravirt.provider;
    assert_eq!(silent("v1.14"), ParavirtProvider::Legacy);
    assert_eq!(silent("v1.18"), ParavirtProvider::Default);

    let m = fixture("v1.15-linux").content;
    let mut depth = 0;
    let mut open = m.snapshot.as_deref();
    while let Some(snapshot) = open {
        depth += 1;
        open = snapshot.children.first();
    }
    assert_eq!(depth, 19);
    let mut disks = 0;
    let mut open = m.media.hard_disks.first();
    while let Some(disk) = open {
        disks += 1;
        open = disk.children.first();
    }
    assert_eq!(disks, 20);
    let h = &m.hardware;
    assert_eq!(h.video_capture.max_size, 100);
    assert_eq!(h.serial[2].mode, PortMode::Tcp);

    let m = fixture("v1.17").content;
    let keys = &m.media.hard_disks[0].properties;
    assert_eq!(keys["CRYPT/KeyId"], "pw");
    assert_eq!(m.hardware.cpu.cpuid[0].subleaf, 1);
    assert_eq!(m.hardware.serial[0].path, "\\\\.\\pipe\\com1");

    let h = fixture("v1.18").content.hardware;
    assert_eq!(h.adapter(0).mode, NetworkMode::Cloud);
    assert!(!h.cpu.virt_vmsave_vmload && h.bios.smbios_uuid_little_endian);
    assert!(h.video_capture.beside_hardware);
    assert_eq!((h.video_capture.max_time, h.video_capture.fps), (30, 10));

    let m = fixture("v1.20-linux").content;
    let h = &m.hardware;
    assert_eq!(m.encryption.state_key_id, "k");
    assert_eq!(m.execution_engine, "Default");
    assert!(h.cpu.x2apic && h.cpu.large_pages && h.bios.ioapic);
    assert_eq!(h.cpu.count, 2);
    assert_eq!((h.chipset, h.rtc), (ChipsetType::Ich9, RtcZone::Utc));
    assert_eq!(h.shared_folders[0].symlink_policy, "forbidden");
    let h = fixture("v1.20-macosx").content.hardware;
    assert_eq!(h.architecture, Architecture::Arm);
    assert_eq!(h.chipset, ChipsetType::Armv8Virtual);
    assert_eq!(h.firmware, FirmwareType::Efi);
    assert_eq!(h.bios.nvram_path, "n.nvram");
}

#[test]
fn old_registries() {
    let (name, text) = &fixtures("global-1.3")[0];
    let g = global(name, text).content;
    let disks = &g.media.hard_disks;
    let formats: Vec<&str> = disks.iter().map(|d| d.format.as_str()).collect();
    assert_eq!(formats, ["VDI", "iSCSI", "VMDK", "VHD"]);
    assert_eq!(disks[0].location, "VDI/etch.vdi");
    assert!(disks[0].children[0].location.starts_with("Machines/etch/"));
    assert_eq!(disks[1].location, "10.0.0.9|iqn.x");
    assert_eq!(disks[1].kind, HardDiskType::Writethrough);
    assert_eq!(disks[1].properties["InitiatorSecret"], "p");
    assert_eq!(g.media.dvds[0].location, "/iso/etch.iso");
    assert_eq!(g.system.vrde_auth_library, "VRDPAuth");
    assert_eq!(g.system.default_machine_folder, "Machines");

    let (name, text) = &fixtures("global-1.7")[0];
    let g = global(name, text).content;
    assert_eq!(g.machines[0].src, "Machines\\XP prof\\XP prof.xml");
    assert_eq!(g.media.hard_disks[0].children.len(), 1);
    assert_eq!(g.usb_filters[0].action, UsbFilterAction::Hold);

    let (name, text) = &fixtures("global-1.16")[0];
    let g = global(name, text).content;
    assert_eq!(g.usb_sources[0].address, "10.0.0.7:3240");
    assert_eq!(g.nat_networks[0].forwards6.len(), 1);
    let (name, text) = &fixtures("global-1.19")[0];
    let g = global(name, text).content;
    assert_eq!(g.host_only_networks[0].lower_ip, "192.168.57.1");
    assert_eq!(g.cloud_networks[0].profile, "DEFAULT");
}

/// Drives as machines before 1.9 have them keep a file at 1.7; any others need 1.9.
#[test]
fn drives_decide_between_1_7_and_1_9() {
    let after = |change: fn(&mut Hardware)| {
        let mut file = fixture("v1.7");
        change(&mut file.content.hardware);
        let text = file.to_text().unwrap();
        assert_eq!(machine("x", &text).content, file.content, "{text}");
        file.version()
    };
    let ide = |h: &mut Hardware| h.controller_mut("IDE Controller").unwrap().devices.len();
    assert_eq!(ide(&mut fixture("v1.7").content.hardware), 2);
    let dvd = |h: &mut Hardware| h.storage[0].devices.pop().unwrap();
    assert_eq!(
        dvd(&mut fixture("v1.7").content.hardware).kind,
        DeviceType::Dvd
    );

    assert_eq!(
        after(|h| h.storage[0].devices[1].medium = AttachedMedium::None),
        Version::V1_7
    );
    assert_eq!(
        after(|h| h.storage.retain(|c| c.name != "Floppy Controller")),
        Version::V1_7
    );
    assert_eq!(after(|h| h.storage[0].devices[1].device = 1), Version::V1_9);
    assert_eq!(after(|h| drop(h.storage[0].devices.pop())), Version::V1_9);
    assert_eq!(
        after(|h| h.storage.last_mut().unwrap().name = "Floppies".into()),
        Version::V1_9
    );
    assert_eq!(
        after(|h| {
            let mut second = h.storage[1].clone();
            second.name = "SATA 2".into();
            second.instance = 1;
            second.devices.clear();
            h.storage.push(second);
        }),
        Version::V1_11
    );
    assert_eq!(
        after(|h| drop(
            h.remote_display
                .properties
                .insert("TCP/Ports".into(), "1-9".into())
        )),
        Version::V1_10
    );
    assert_eq!(
        after(|h| drop(
            h.remote_display
                .properties
                .insert("VNCPassword".into(), "x".into())
        )),
        Version::V1_11
    );
}
