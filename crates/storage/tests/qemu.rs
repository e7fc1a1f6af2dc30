//! Images against qemu-img, in both directions.

mod kit;

use std::path::Path;

use kit::MIB;
use kit::Random;
use kit::assert_same;
use kit::contents;
use kit::create;
use kit::qemu_img_ok;
use storage::Container;
use storage::CreateParams;
use storage::OpenMode;
use storage::Progress;
use storage::Variant;
use storage::media_info;

fn scribble(disk: &mut Container, random: &mut Random, times: u64) {
    let mut data = vec![0; 3 * MIB as usize];
    random.fill(&mut data);
    let sectors = disk.size() / 512;
    for i in 0..times {
        let at = random.below(sectors);
        let len = (1 + random.below(4096)).min(sectors - at);
        match i % 5 {
            4 => disk.discard(at * 512, len * 512).unwrap(),
            _ => {
                let from = random.below(1000) as usize;
                disk.write_at(at * 512, &data[from..from + len as usize * 512])
                    .unwrap();
            }
        }
    }
}

/// qemu-img finds no fault with the image and reads the same bytes as we do.
fn agree(path: &Path) {
    let disk = Container::open(path, OpenMode::ReadOnly).unwrap();
    let (driver, checks) = match disk.images()[0].format() {
        "VDI" => ("vdi", true),
        // Without the option QEMU takes the geometry for the size of other programs' images.
        "VHD" => ("vpc,force_size_calc=current_size", false),
        "VMDK" => ("vmdk", disk.images()[0].variant() == Variant::Dynamic),
        other => panic!("{other}"),
    };
    let options = format!("driver={driver},file.filename={}", path.display());
    if checks {
        qemu_img_ok(&[&"check", &"--image-opts", &options]);
    }
    let raw = path.with_extension("compare");
    std::fs::write(&raw, contents(&disk)).unwrap();
    let raw_options = format!("driver=raw,file.filename={}", raw.display());
    qemu_img_ok(&[&"compare", &"--image-opts", &options, &raw_options]);
    let info = qemu_img_ok(&[&"info", &"--image-opts", &options]);
    assert!(info.contains(&format!("({} bytes)", disk.size())), "{info}");
    let report = disk.images()[0].check().unwrap();
    assert!(
        report.errors.is_empty() && report.notes.is_empty(),
        "{report:?}"
    );
    std::fs::remove_file(raw).unwrap();
}

#[test]
fn qemu_reads_our_vhds_after_writes_and_growth() {
    let folder = tempfile::tempdir().unwrap();
    for variant in [Variant::Dynamic, Variant::Fixed] {
        let path = folder.path().join(format!("{variant:?}.vhd"));
        let mut random = Random(12);
        let mut disk = create(&path, "VHD", &CreateParams::new(20 * MIB + 512, variant));
        scribble(&mut disk, &mut random, 30);
        drop(disk);
        agree(&path);
        // 300 MiB outgrow the first sector of the block table.
        for size in [33 * MIB, 33 * MIB + 512, 300 * MIB] {
            let mut disk = Container::open(&path, OpenMode::ReadWrite).unwrap();
            disk.resize(size, &mut Progress::none()).unwrap();
            scribble(&mut disk, &mut random, 15);
            drop(disk);
            agree(&path);
        }
    }
}

#[test]
fn we_read_and_write_vhds_that_qemu_made() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("source.raw");
    let mut data = vec![0; 12 * MIB as usize];
    Random(3).fill(&mut data[2 * MIB as usize + 1024..5 * MIB as usize]);
    std::fs::write(&raw, &data).unwrap();
    for (name, options, variant) in [
        ("d.vhd", "subformat=dynamic,force_size=on", Variant::Dynamic),
        ("f.vhd", "subformat=fixed,force_size=on", Variant::Fixed),
    ] {
        let path = folder.path().join(name);
        qemu_img_ok(&[
            &"convert", &"-f", &"raw", &"-O", &"vpc", &"-o", &options, &raw, &path,
        ]);
        let info = media_info(&path).unwrap();
        assert_eq!(
            (info.format, info.variant, info.size),
            ("VHD", variant, 12 * MIB)
        );
        let mut disk = Container::open(&path, OpenMode::ReadWrite).unwrap();
        assert_same(&contents(&disk), &data, name);
        scribble(&mut disk, &mut Random(8), 10);
        disk.resize(280 * MIB, &mut Progress::none()).unwrap();
        scribble(&mut disk, &mut Random(9), 10);
        drop(disk);
        agree(&path);
    }
}

#[test]
fn qemu_reads_our_images_after_writes_growth_and_compaction() {
    let folder = tempfile::tempdir().unwrap();
    for variant in [Variant::Dynamic, Variant::Fixed] {
        let path = folder.path().join(format!("{variant:?}.vdi"));
        let mut random = Random(11);
        let mut disk = create(&path, "VDI", &CreateParams::new(20 * MIB + 512, variant));
        scribble(&mut disk, &mut random, 30);
        drop(disk);
        agree(&path);
        let mut disk = Container::open(&path, OpenMode::ReadWrite).unwrap();
        disk.resize(33 * MIB, &mut Progress::none()).unwrap();
        scribble(&mut disk, &mut random, 30);
        disk.discard(5 * MIB, 9 * MIB).unwrap();
        drop(disk);
        agree(&path);
        let mut disk = Container::open(&path, OpenMode::ReadWrite).unwrap();
        disk.top_image().compact(&mut Progress::none()).unwrap();
        drop(disk);
        agree(&path);
    }
}

#[test]
fn we_read_and_write_images_that_qemu_made() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("source.raw");
    let mut data = vec![0; 12 * MIB as usize];
    Random(3).fill(&mut data[2 * MIB as usize + 1024..5 * MIB as usize]);
    Random(4).fill(&mut data[11 * MIB as usize..]);
    std::fs::write(&raw, &data).unwrap();
    for (name, options, variant) in [
        ("dynamic.vdi", "static=off", Variant::Dynamic),
        ("static.vdi", "static=on", Variant::Fixed),
    ] {
        let path = folder.path().join(name);
        qemu_img_ok(&[
            &"convert", &"-f", &"raw", &"-O", &"vdi", &"-o", &options, &raw, &path,
        ]);
        let info = media_info(&path).unwrap();
        assert_eq!(
            (info.format, info.variant, info.size),
            ("VDI", variant, 12 * MIB)
        );
        let mut disk = Container::open(&path, OpenMode::ReadWrite).unwrap();
        assert_same(&contents(&disk), &data, name);
        let report = disk.images()[0].check().unwrap();
        assert!(
            report.errors.is_empty() && report.notes.is_empty(),
            "{report:?}"
        );
        // There is no gap after QEMU's map: growing beyond 128 blocks moves blocks away.
        scribble(&mut disk, &mut Random(8), 10);
        disk.resize(300 * MIB, &mut Progress::none()).unwrap();
        scribble(&mut disk, &mut Random(9), 10);
        drop(disk);
        agree(&path);
    }
}

#[test]
fn qemu_goes_on_writing_where_we_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vdi");
    let mut disk = create(&path, "VDI", &CreateParams::new(16 * MIB, Variant::Dynamic));
    scribble(&mut disk, &mut Random(21), 6);
    drop(disk);
    let raw = folder.path().join("more.raw");
    let mut data = vec![0; 16 * MIB as usize];
    Random(22).fill(&mut data);
    std::fs::write(&raw, &data).unwrap();
    qemu_img_ok(&[&"convert", &"-n", &"-f", &"raw", &"-O", &"vdi", &raw, &path]);
    let disk = Container::open(&path, OpenMode::ReadOnly).unwrap();
    assert_same(&contents(&disk), &data, "written by qemu-img");
    assert!(disk.images()[0].check().unwrap().errors.is_empty());
}

#[test]
fn a_disk_that_outgrows_its_map_keeps_its_contents() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vdi");
    let mut disk = create(&path, "VDI", &CreateParams::new(10 * MIB, Variant::Dynamic));
    scribble(&mut disk, &mut Random(31), 10);
    let before = contents(&disk);
    // One MiB of map serves 256 GiB.
    disk.resize(700 << 30, &mut Progress::none()).unwrap();
    disk.write_at((700 << 30) - 512, &[0x77; 512]).unwrap();
    drop(disk);
    qemu_img_ok(&[&"check", &"-f", &"vdi", &path]);
    let disk = Container::open(&path, OpenMode::ReadOnly).unwrap();
    let mut start = vec![0; before.len()];
    disk.read_at(0, &mut start).unwrap();
    assert_same(&start, &before, "the first 10 MiB");
    let mut end = [0; 512];
    disk.read_at((700 << 30) - 512, &mut end).unwrap();
    assert_eq!(end, [0x77; 512]);
    let raw = folder.path().join("end.raw");
    let skip = format!("{}", 700 * 2048 * 1024 - 1);
    let (input, output) = (
        format!("if={}", path.display()),
        format!("of={}", raw.display()),
    );
    let skip = format!("skip={skip}");
    qemu_img_ok(&[
        &"dd", &"-f", &"vdi", &"-O", &"raw", &"bs=512", &skip, &input, &output,
    ]);
    assert_same(
        &std::fs::read(raw).unwrap(),
        &[0x77; 512],
        "read by qemu-img",
    );
}

#[test]
fn a_fixed_vhd_is_one_whatever_its_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["disk.vhd", "disk.img"] {
        let path = folder.path().join(name);
        qemu_img_ok(&[
            &"create",
            &"-q",
            &"-f",
            &"vpc",
            &"-o",
            &"subformat=fixed,force_size=on",
            &path,
            &"4M",
        ]);
        let info = media_info(&path).unwrap();
        assert_eq!((info.format, info.variant), ("VHD", Variant::Fixed));
        assert_eq!(info.size, 4 * MIB);
    }
}

#[test]
fn a_vdi_stays_one_when_its_guest_writes_a_vhd_footer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vdi");
    let mut disk = create(&path, "VDI", &CreateParams::new(2 * MIB, Variant::Dynamic));
    disk.write_at(0, &vec![1; 2 * MIB as usize]).unwrap();
    disk.flush().unwrap();
    let data = std::fs::metadata(&path).unwrap().len() - 512;
    let mut footer = [0; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[48..56].copy_from_slice(&data.to_be_bytes());
    disk.write_at(2 * MIB - 512, &footer).unwrap();
    drop(disk);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[data as usize..], footer, "the file ends with it");
    let disk = Container::open(&path, OpenMode::ReadOnly).unwrap();
    assert_eq!(disk.images()[0].format(), "VDI");
}
