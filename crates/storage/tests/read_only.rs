//! VHDX and DMG, which are only read: against what qemu-img makes of them, or reads.

mod kit;

use std::path::Path;

use kit::MIB;
use kit::Random;
use kit::assert_same;
use kit::contents;
use kit::fast_folder;
use kit::qemu_img_ok;
use storage::Container;
use storage::CreateParams;
use storage::Error;
use storage::MediaKind;
use storage::OpenMode;
use storage::Progress;
use storage::Variant;
use storage::media_info;

fn data() -> Vec<u8> {
    let mut data = vec![0; 9 * MIB as usize + 512];
    Random(3).fill(&mut data[MIB as usize + 1024..2 * MIB as usize]);
    data[5 * MIB as usize..8 * MIB as usize].fill(0x42);
    let end = data.len() - 512;
    data[end..].fill(9);
    data
}

/// It opens for reading only, reads as it should, in pieces as well, and can be converted.
fn reads(path: &Path, kind: MediaKind, format: &str, data: &[u8]) {
    let info = media_info(path).unwrap();
    assert_eq!((info.format, info.kind), (format, kind));
    assert!(matches!(
        Container::open(path, OpenMode::ReadWrite),
        Err(Error::ReadOnly { .. })
    ));
    let mut disk = Container::open(path, OpenMode::ReadOnly).unwrap();
    let all = contents(&disk);
    assert_same(&all[..data.len()], data, format);
    assert!(all[data.len()..].iter().all(|b| *b == 0));
    let mut random = Random(8);
    let mut part = vec![0; 70_000];
    for _ in 0..50 {
        let at = random.below((data.len() - part.len()) as u64) as usize;
        disk.read_at(at as u64, &mut part).unwrap();
        assert_same(&part, &data[at..at + part.len()], "a part");
    }
    assert!(disk.write_at(0, &[1; 512]).is_err());
    let params = CreateParams::new(disk.size(), Variant::Dynamic);
    let vdi = path.with_extension("vdi");
    let format = storage::format_by_id("VDI").unwrap();
    let copy = storage::clone_to_new(&disk, &vdi, format, &params, &mut Progress::none()).unwrap();
    assert_same(&contents(&copy), &all, "the copy");
    drop(copy);
    std::fs::remove_file(vdi).unwrap();
}

#[test]
fn vhdx_images_that_qemu_made_are_read() {
    let folder = fast_folder();
    let data = data();
    for (name, options) in [
        ("a.vhdx", "subformat=dynamic"),
        ("b.vhdx", "subformat=fixed,block_size=1048576"),
        (
            "c.img",
            "subformat=dynamic,block_size=2097152,block_state_zero=off",
        ),
    ] {
        let path = folder.path().join(name);
        kit::make_vhdx(&path, &data, options);
        reads(&path, MediaKind::HardDisk, "VHDX", &data);
    }
    let params = CreateParams::new(MIB, Variant::Dynamic);
    let new = folder.path().join("new.vhdx");
    let made = storage::create_image(&new, "VHDX", &params, &mut Progress::none());
    assert!(matches!(made, Err(Error::Unsupported { .. })) && !new.exists());
}

/// The interleaved entries of sector bitmaps: one after 4096 blocks of 1 MiB.
#[test]
fn a_large_vhdx_has_bitmaps_between_its_blocks() {
    let folder = fast_folder();
    let path = folder.path().join("large.vhdx");
    qemu_img_ok(&[
        &"create",
        &"-f",
        &"vhdx",
        &"-o",
        &"block_size=1048576",
        &path,
        &"10G",
    ]);
    let write = |at: &str| format!("write -P 17 {at} 1M");
    let status = std::process::Command::new("qemu-io")
        .args(["-f", "vhdx", "-c", &write("4095M"), "-c", &write("4096M")])
        .args(["-c", &write("8193M")])
        .arg(&path)
        .output()
        .unwrap();
    assert!(status.status.success());
    let disk = Container::open(&path, OpenMode::ReadOnly).unwrap();
    let mut block = vec![0; MIB as usize];
    for (at, byte) in [
        (4094, 0),
        (4095, 17),
        (4096, 17),
        (4097, 0),
        (8192, 0),
        (8193, 17),
        (8194, 0),
    ] {
        disk.read_at(at * MIB, &mut block).unwrap();
        assert!(block.iter().all(|b| *b == byte), "MiB {at}");
    }
}

#[test]
fn a_vhdx_that_was_not_closed_says_so() {
    let folder = fast_folder();
    let path = folder.path().join("open.vhdx");
    kit::make_vhdx(&path, &data(), "subformat=dynamic");
    let mut bytes = std::fs::read(&path).unwrap();
    for at in [65536, 131_072] {
        bytes[at + 48] = 1;
    }
    std::fs::write(&path, &bytes).unwrap();
    let error = Container::open(&path, OpenMode::ReadOnly).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    kit::seal_vhdx(&mut bytes);
    std::fs::write(&path, &bytes).unwrap();
    let error = Container::open(&path, OpenMode::ReadOnly).unwrap_err();
    assert!(error.to_string().contains("was not closed"), "{error}");
}

#[test]
fn dmg_images_are_read_as_qemu_reads_them() {
    let folder = fast_folder();
    let (data, path) = (data(), folder.path().join("image.dmg"));
    std::fs::write(&path, kit::dmg(&data)).unwrap();
    let raw = folder.path().join("raw");
    std::fs::write(&raw, &data).unwrap();
    qemu_img_ok(&[&"compare", &"-f", &"dmg", &"-F", &"raw", &path, &raw]);
    reads(&path, MediaKind::Dvd, "DMG", &data);
    // By its end, under another name.
    let other = folder.path().join("image.img");
    std::fs::rename(&path, &other).unwrap();
    reads(&other, MediaKind::Dvd, "DMG", &data);
}

#[test]
fn dmg_images_with_other_compression_say_so() {
    let folder = fast_folder();
    let path = folder.path().join("image.dmg");
    let good = String::from_utf8_lossy(&kit::dmg(&[1; 512])).into_owned();
    // One run of kind 0x80000005 at byte 204 of the table, which is a multiple of three.
    let text = "gAAABQ";
    assert!(good.contains(text));
    let bytes = kit::dmg(&[1; 512]);
    let at = bytes.windows(6).position(|w| w == text.as_bytes()).unwrap();
    for (kind, name) in [("gAAABg", "bzip2"), ("gAAABw", "LZFSE"), ("gAAACA", "LZMA")] {
        let mut bytes = bytes.clone();
        bytes[at..at + 6].copy_from_slice(kind.as_bytes());
        std::fs::write(&path, bytes).unwrap();
        let error = Container::open(&path, OpenMode::ReadOnly).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}
