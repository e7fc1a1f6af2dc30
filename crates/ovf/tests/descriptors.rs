//! Descriptors of all three versions, as VirtualBox and others shape them: read, written, read.

use ovf::{DiskFormat, Envelope, ResourceType, Version};
use proptest::prelude::*;

const BOX: &str = include_str!("data/box-1.0.ovf");
const OLD: &str = include_str!("data/old-0.9.ovf");
const NEW: &str = include_str!("data/new-2.0.ovf");

fn read(text: &str) -> Envelope {
    Envelope::parse(text).expect("a descriptor")
}

#[test]
fn a_box_of_virtualbox() {
    let envelope = read(BOX);
    assert_eq!(envelope.version, Version::V1_0);
    assert_eq!(envelope.files[0].href, "box-disk001.vmdk");
    let disk = envelope.disk("vmdisk1").expect("disk");
    assert_eq!(disk.capacity, 10 << 30);
    assert_eq!(DiskFormat::of_url(&disk.format), Some(DiskFormat::Vmdk));
    assert_eq!(
        disk.uuid.as_deref(),
        Some("b0a4c5d2-5a36-4d1c-9a34-0c55e1d4a101")
    );
    let [system] = envelope.systems.as_slice() else {
        panic!("one machine");
    };
    assert_eq!(system.product.product, "Sheep & Goats");
    assert_eq!(system.product.version, "3.1");
    assert_eq!(system.eula, "Do as you like.\nNo warranty.");
    assert_eq!(system.os.vbox_type.as_deref(), Some("Debian_64"));
    assert_eq!(ovf::guest_os(system.os.id), "Debian_64");
    let kinds: Vec<u32> = system.items.iter().map(|i| i.resource_type.0).collect();
    assert_eq!(kinds, [3, 4, 20, 17, 10]);
    assert_eq!(system.items[1].bytes(), Some(512 << 20));
    assert_eq!(system.items[3].resource("disk"), Some("vmdisk1"));

    let machine = system.machine.as_ref().expect("extension");
    assert_eq!(machine.attribute("version"), Some("1.15-linux"));
    assert!(machine.attribute("required").is_none());
    let settings = machine.to_settings();
    assert!(settings.contains("<VirtualBox xmlns=\"http://www.virtualbox.org/\""));
    assert!(settings.contains("value=\"1 &lt; 2\""));
    assert!(!settings.contains("Info"));
}

#[test]
fn a_package_before_the_standard() {
    let envelope = read(OLD);
    assert_eq!(envelope.version, Version::V0_9);
    assert!(envelope.files[0].is_gzip());
    assert_eq!(envelope.disks[0].capacity, 8 << 30);
    assert_eq!(envelope.disks[0].populated, Some(99));
    assert_eq!(envelope.networks[0].name, "VM Network");
    let system = &envelope.systems[0];
    assert_eq!((system.id.as_str(), system.os.id), ("old", 36));
    assert_eq!(system.eula, "one\ntwo");
    assert_eq!(system.system_type, "vmx-04");
    assert_eq!(system.items[2].address, "1");
    assert_eq!(system.items[3].parent, system.items[2].instance_id);
}

#[test]
fn a_collection_with_the_items_of_the_second_version() {
    let envelope = read(NEW);
    assert_eq!(envelope.version, Version::V2_0);
    assert_eq!(envelope.disks[1].file_ref, None);
    assert_eq!(envelope.disks[1].capacity, 4 << 20);
    let names: Vec<&str> = envelope.systems.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    let first = &envelope.systems[0];
    assert_eq!(
        (first.name.as_str(), first.annotation.as_str()),
        ("The First", "Notes")
    );
    assert_eq!(first.items[0].resource("disk"), Some("d"));
    assert_eq!(first.items[1].resource_type, ResourceType::ETHERNET);
    assert_eq!(first.items[1].connection, "Bridged");
}

#[test]
fn what_is_written_is_read_again() {
    for text in [BOX, OLD, NEW] {
        for version in [Version::V0_9, Version::V1_0, Version::V2_0] {
            let mut envelope = read(text);
            envelope.version = version;
            if version == Version::V0_9 {
                // It has no place for these.
                envelope.systems.iter_mut().for_each(|s| s.name.clear());
            }
            let written = envelope.to_xml();
            assert_eq!(read(&written), envelope, "{written}");
        }
    }
    // The box is as VirtualBox writes one, so nothing changes but attributes' order.
    let written = read(BOX).to_xml();
    assert_eq!(
        written.replace(
            "ovf:id=\"file1\" ovf:href=\"box-disk001.vmdk\"",
            "ovf:href=\"box-disk001.vmdk\" ovf:id=\"file1\""
        ),
        BOX
    );
}

#[test]
fn contradictions_are_refused() {
    for (from, to) in [
        ("ovf:fileRef=\"file1\"", "ovf:fileRef=\"file2\""),
        ("ovf:capacity=\"10737418240\"", "ovf:capacity=\"${size}\""),
        ("ovf:capacity=\"10737418240\"", "ovf:capacity=\"-1\""),
        ("ovf:id=\"file1\"", ""),
        (
            "<References>",
            "<References><File ovf:id=\"file1\" ovf:href=\"x\"/>",
        ),
        (
            "<?xml version=\"1.0\"?>",
            "<!DOCTYPE a [<!ENTITY b \"c\">]>",
        ),
        ("</Envelope>", ""),
    ] {
        assert!(BOX.contains(from));
        let changed = BOX.replace(from, to);
        assert!(Envelope::parse(&changed).is_err(), "{from} -> {to}");
    }
    assert!(Envelope::parse("<Machine/>").is_err());
    assert!(Envelope::parse("<Envelope/>").is_err());
    let deep = "<a>".repeat(100_000);
    assert!(Envelope::parse(&deep).is_err());
    let wide: String = (0..100_000).map(|n| format!(" a{n}=\"\"")).collect();
    assert!(Envelope::parse(&format!("<Envelope{wide}/>")).is_err());
}

fn mutated() -> impl Strategy<Value = String> {
    let change = (any::<prop::sample::Index>(), 0_usize..40, ".{0,8}");
    let changes = prop::collection::vec(change, 1..6);
    (prop::sample::select(vec![BOX, OLD, NEW]), changes).prop_map(|(text, changes)| {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, length, with) in changes {
            let at = at.index(chars.len() + 1);
            let end = (at + length).min(chars.len());
            chars.splice(at..end, with.chars());
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Anything is read or refused; what is read can be written and read to the same.
    #[test]
    fn damaged_descriptors(text in mutated()) {
        if let Ok(mut envelope) = Envelope::parse(&text) {
            for system in &mut envelope.systems {
                if let Some(machine) = system.machine.take() {
                    let _ = machine.to_settings();
                }
            }
            let written = envelope.to_xml();
            prop_assert!(Envelope::parse(&written).is_ok(), "{}", written);
        }
    }
}
