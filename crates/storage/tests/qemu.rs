//! Images against qemu-img, in both directions.

mod kit;

use std::path::Path;

use kit::MIB;
use kit::Random;
use kit::assert_same;
use kit::contents;
use kit::create;
use kit::create_child;
use kit::qemu_img_ok;
use storage::Container;
use storage::CreateParams;
use storage::Layout;
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
        "VMDK" => {
            let flat = disk.images()[0].variant() == Variant::Fixed;
            ("vmdk", !flat)
        }
        "QED" => ("qed", true),
        "QCOW" => match std::fs::read(path).unwrap()[7] {
            1 => ("qcow", false),
            _ => ("qcow2", true),
        },
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

/// QEMU's name for each kind of VMDK.
const SUBFORMATS: [(&str, Variant, Layout); 5] = [
    ("monolithicSparse", Variant::Dynamic, Layout::Default),
    ("monolithicFlat", Variant::Fixed, Layout::Default),
    ("twoGbMaxExtentSparse", Variant::Dynamic, Layout::Split2G),
    ("twoGbMaxExtentFlat", Variant::Fixed, Layout::Split2G),
    ("streamOptimized", Variant::Dynamic, Layout::StreamOptimized),
];

#[test]
fn qemu_reads_our_vmdks_after_writes_and_growth() {
    let folder = tempfile::tempdir().unwrap();
    for (name, variant, layout) in SUBFORMATS {
        if layout == Layout::StreamOptimized {
            continue;
        }
        let path = folder.path().join(format!("{name}.vmdk"));
        let mut random = Random(12);
        let mut params = CreateParams::new(20 * MIB + 512, variant);
        params.layout = layout;
        let mut disk = create(&path, "VMDK", &params);
        scribble(&mut disk, &mut random, 30);
        drop(disk);
        agree(&path);
        // A grain table serves 32 MiB.
        for size in [31 * MIB, 33 * MIB + 512, 100 * MIB] {
            let mut disk = Container::open(&path, OpenMode::ReadWrite).unwrap();
            disk.resize(size, &mut Progress::none()).unwrap();
            scribble(&mut disk, &mut random, 15);
            drop(disk);
            agree(&path);
        }
    }
}

#[test]
fn we_read_and_write_vmdks_that_qemu_made() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("source.raw");
    let mut data = vec![0; 12 * MIB as usize + 512];
    Random(3).fill(&mut data[2 * MIB as usize + 1024..5 * MIB as usize]);
    data[7 * MIB as usize..8 * MIB as usize].fill(0x42);
    std::fs::write(&raw, &data).unwrap();
    let version_2 = ("zeroed_grain=on,subformat=monolithicSparse", SUBFORMATS[0]);
    let plain = SUBFORMATS.map(|kind| ("", kind));
    for (more, (name, variant, layout)) in plain.into_iter().chain([version_2]) {
        let path = folder.path().join(format!("{name}{}.vmdk", more.len()));
        let options = match more {
            "" => format!("subformat={name}"),
            more => more.to_owned(),
        };
        qemu_img_ok(&[
            &"convert", &"-f", &"raw", &"-O", &"vmdk", &"-o", &options, &raw, &path,
        ]);
        let info = media_info(&path).unwrap();
        assert_eq!(
            (info.format, info.variant, info.layout, info.size),
            ("VMDK", variant, layout, data.len() as u64)
        );
        let stream = layout == Layout::StreamOptimized;
        let mode = match stream {
            true => OpenMode::ReadOnly,
            false => OpenMode::ReadWrite,
        };
        let mut disk = Container::open(&path, mode).unwrap();
        assert_same(&contents(&disk), &data, name);
        if stream {
            drop(disk);
            assert!(matches!(
                Container::open(&path, OpenMode::ReadWrite),
                Err(storage::Error::ReadOnly { .. })
            ));
            continue;
        }
        scribble(&mut disk, &mut Random(8), 10);
        disk.resize(80 * MIB, &mut Progress::none()).unwrap();
        scribble(&mut disk, &mut Random(9), 10);
        drop(disk);
        agree(&path);
    }
}

#[test]
fn any_image_becomes_a_stream_and_a_stream_any_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut source = create(
        &path("0.vdi"),
        "VDI",
        &CreateParams::new(70 * MIB + 1024, Variant::Dynamic),
    );
    scribble(&mut source, &mut Random(5), 30);
    source.write_at(50 * MIB, &[0x11; 1 << 20]).unwrap();
    let data = contents(&source);
    drop(source);
    let mut previous = path("0.vdi");
    for (number, (format, layout)) in [
        ("VMDK", Layout::StreamOptimized),
        ("VHD", Layout::Default),
        ("VMDK", Layout::StreamOptimized),
        ("VMDK", Layout::StreamOptimized),
        ("RAW", Layout::Default),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{}.{}", number + 1, format.to_lowercase());
        let source = Container::open(&previous, OpenMode::ReadOnly).unwrap();
        let mut params = CreateParams::new(source.size(), Variant::Dynamic);
        params.layout = layout;
        let format = storage::format_by_id(format).unwrap();
        let none = &mut Progress::none();
        drop(storage::clone_to_new(&source, &path(&name), format, &params, none).unwrap());
        let copy = Container::open(&path(&name), OpenMode::ReadOnly).unwrap();
        assert_same(&contents(&copy), &data, &name);
        assert_eq!(copy.images()[0].layout(), layout);
        if format.id() == "VMDK" {
            agree(&path(&name));
        }
        previous = path(&name);
    }
    // An empty one, and one whose last grain is not whole.
    for (name, end) in [("empty.vmdk", false), ("end.vmdk", true)] {
        let mut params = CreateParams::new(3 * MIB + 512, Variant::Dynamic);
        params.layout = Layout::StreamOptimized;
        let mut disk = create(&path(name), "VMDK", &params);
        if end {
            disk.write_at(3 * MIB, &[0x33; 512]).unwrap();
            let error = disk.write_at(0, &[1; 512]).unwrap_err();
            assert!(
                matches!(error, storage::Error::Unsupported { .. }),
                "{error}"
            );
        }
        disk.flush().unwrap();
        assert!(disk.write_at(3 * MIB, &[1; 512]).is_err(), "it is complete");
        drop(disk);
        agree(&path(name));
    }
}

/// Disks of several parts: everything meets at 2047 MiB.
#[test]
fn a_split_vmdk_is_one_disk_over_its_parts() {
    const PART: u64 = 2047 * MIB;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vmdk");
    let mut params = CreateParams::new(100 * MIB, Variant::Dynamic);
    params.layout = Layout::Split2G;
    let mut disk = create(&path, "VMDK", &params);
    let mut data = vec![0; 4 * MIB as usize];
    Random(77).fill(&mut data);
    let raw = folder.path().join("same.raw");
    let model = std::fs::File::create(&raw).unwrap();
    let mut put = |disk: &mut Container, at: u64| {
        use std::os::unix::fs::FileExt;
        disk.write_at(at, &data).unwrap();
        let mut back = vec![0; data.len()];
        disk.read_at(at, &mut back).unwrap();
        assert_same(&back, &data, "read back");
        model.write_all_at(&data, at).unwrap();
        data.rotate_left(512);
    };
    put(&mut disk, 0);
    disk.resize(PART + 10 * MIB, &mut Progress::none()).unwrap();
    put(&mut disk, PART - MIB - 512);
    disk.resize(3 * PART + MIB, &mut Progress::none()).unwrap();
    put(&mut disk, 2 * PART - 2 * MIB);
    put(&mut disk, 3 * PART - 3 * MIB);
    drop(disk);
    let names = ["disk.vmdk", "disk-s001.vmdk", "disk-s002.vmdk"];
    let files = storage::image_files(&path).unwrap();
    assert_eq!(files[..3], names.map(|name| folder.path().join(name)));
    assert_eq!(files.len(), 5);
    model.set_len(3 * PART + MIB).unwrap();
    qemu_img_ok(&[&"check", &"-f", &"vmdk", &path]);
    qemu_img_ok(&[&"compare", &"-f", &"vmdk", &"-F", &"raw", &path, &raw]);
}

#[test]
fn a_vmdk_child_is_one_for_qemu_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let params = CreateParams::new(20 * MIB + 512, Variant::Dynamic);
    let mut base = create(&path("base.vmdk"), "VMDK", &params);
    scribble(&mut base, &mut Random(1), 15);
    drop(base);
    let mut disk = create_child(&[&path("base.vmdk")], &path("child.vmdk"), 20 * MIB + 512);
    scribble(&mut disk, &mut Random(2), 15);
    disk.flush().unwrap();
    std::fs::write(path("raw"), contents(&disk)).unwrap();
    drop(disk);
    let (child, raw) = (path("child.vmdk"), path("raw"));
    qemu_img_ok(&[&"check", &"-f", &"vmdk", &child]);
    qemu_img_ok(&[&"compare", &"-f", &"vmdk", &"-F", &"raw", &child, &raw]);
    // And one of QEMU's on ours.
    let theirs = path("theirs.vmdk");
    let base = path("base.vmdk");
    qemu_img_ok(&[
        &"create", &"-f", &"vmdk", &"-F", &"vmdk", &"-b", &base, &theirs,
    ]);
    let disk = Container::open_chain(&[&base, &theirs], OpenMode::ReadOnly).unwrap();
    let below = contents(&Container::open(&base, OpenMode::ReadOnly).unwrap());
    assert_same(&contents(&disk), &below, "QEMU's child");
    drop(disk);
    let mut disk = Container::open(&base, OpenMode::ReadWrite).unwrap();
    disk.write_at(0, &[7; 512]).unwrap();
    drop(disk);
    let changed = Container::open_chain(&[&base, &theirs], OpenMode::ReadOnly);
    assert!(matches!(changed, Err(storage::Error::ParentContent { .. })));
    let (ok, _) = kit::qemu_img(&[&"compare", &"-f", &"vmdk", &"-F", &"raw", &child, &raw]);
    assert!(!ok, "QEMU sees that the parent changed");
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
