//! QCOW, QED and Parallels images, written in turn by us and by QEMU.

mod kit;

use std::path::Path;
use std::process::Command;

use kit::MIB;
use kit::Random;
use kit::assert_same;
use kit::contents;
use kit::create;
use kit::create_child;
use kit::fast_folder;
use kit::qemu_img;
use kit::qemu_img_ok;
use storage::Container;
use storage::CreateParams;
use storage::Error;
use storage::OpenMode;
use storage::Progress;
use storage::Variant;
use storage::media_info;

/// The name of the format for QEMU, options for a new image, and whether it can be checked.
const KINDS: &[(&str, &str, bool)] = &[
    ("qcow2", "compat=0.10", true),
    ("qcow2", "compat=1.1", true),
    ("qcow2", "compat=1.1,cluster_size=512,refcount_bits=1", true),
    ("qcow2", "compat=1.1,cluster_size=2M,refcount_bits=64", true),
    ("qcow2", "compat=1.1,cluster_size=4k,refcount_bits=8", true),
    ("qcow2", "compat=1.1,preallocation=metadata", true),
    ("qcow", "", false),
    ("parallels", "", true),
    ("parallels", "cluster_size=64k", true),
    ("qed", "", true),
    ("qed", "cluster_size=4096,table_size=2", true),
];

fn options(format: &str, path: &Path) -> String {
    format!("driver={format},file.filename={}", path.display())
}

/// Runs commands of qemu-io on an image.
fn qemu_io(format: &str, path: &Path, commands: &[String]) {
    let mut command = Command::new("qemu-io");
    command.args(["-f", format]);
    for text in commands {
        command.args(["-c", text]);
    }
    let output = command.arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && !text.contains("failed"),
        "{text}"
    );
}

/// qemu-img finds no fault and reads the same bytes as we do and as they should be.
#[track_caller]
fn agree(format: &str, checks: bool, path: &Path, model: &[u8]) {
    let disk = Container::open(path, OpenMode::ReadOnly).unwrap();
    assert_same(&contents(&disk), model, "our own reading");
    let report = disk.images()[0].check().unwrap();
    assert!(
        report.errors.is_empty() && report.notes.is_empty(),
        "{report:?}"
    );
    if checks {
        qemu_img_ok(&[&"check", &"--image-opts", &options(format, path)]);
    }
    let raw = path.with_extension("compare");
    std::fs::write(&raw, model).unwrap();
    qemu_img_ok(&[&"compare", &"-f", &format, &"-F", &"raw", &path, &raw]);
}

/// Writes by us and by QEMU in turn, at random places.
fn in_turn(format: &str, checks: bool, path: &Path, model: &mut [u8], seed: u64) {
    let mut random = Random(seed);
    for round in 0..4 {
        let sectors = model.len() as u64 / 512;
        let mut commands = Vec::new();
        let mut ranges = Vec::new();
        for i in 0..10 {
            let at = random.below(sectors) * 512;
            let len = (1 + random.below(700)) * 512;
            ranges.push((at, len.min(sectors * 512 - at), i % 4, random.next() as u8));
        }
        match round % 2 {
            0 => {
                let mut disk = Container::open(path, OpenMode::ReadWrite).unwrap();
                for (at, len, kind, byte) in ranges {
                    let part = &mut model[at as usize..][..len as usize];
                    if kind == 3 {
                        part.fill(0);
                        disk.discard(at, len).unwrap();
                    } else {
                        part.fill(byte);
                        disk.write_at(at, part).unwrap();
                    }
                }
                assert_same(&contents(&disk), model, "before closing");
                let report = disk.images()[0].check().unwrap();
                assert!(report.errors.is_empty(), "{report:?}");
            }
            _ => {
                for (at, len, kind, byte) in ranges {
                    let part = &mut model[at as usize..][..len as usize];
                    if kind == 3 {
                        part.fill(0);
                        commands.push(format!("write -z {at} {len}"));
                    } else {
                        part.fill(byte);
                        commands.push(format!("write -P {byte} {at} {len}"));
                    }
                }
                qemu_io(format, path, &commands);
            }
        }
        agree(format, checks, path, model);
    }
}

#[test]
fn images_that_qemu_made_are_written_in_turn() {
    let folder = fast_folder();
    for (i, (format, more, checks)) in KINDS.iter().enumerate() {
        let path = folder.path().join(format!("{i}.img.{format}"));
        match *more {
            "" => qemu_img_ok(&[&"create", &"-f", format, &path, &"12582912"]),
            more => qemu_img_ok(&[&"create", &"-f", format, &"-o", &more, &path, &"12582912"]),
        };
        let mut model = vec![0; 12 * MIB as usize];
        in_turn(format, *checks, &path, &mut model, i as u64);
        // And after growth.
        let mut disk = Container::open(&path, OpenMode::ReadWrite).unwrap();
        disk.resize(30 * MIB + 512, &mut Progress::none()).unwrap();
        drop(disk);
        model.resize(30 * MIB as usize + 512, 0);
        agree(format, *checks, &path, &model);
        in_turn(format, *checks, &path, &mut model, 100 + i as u64);
    }
}

#[test]
fn images_that_we_made_are_written_in_turn() {
    let folder = fast_folder();
    for (id, format) in [
        ("QCOW", "qcow2"),
        ("QED", "qed"),
        ("Parallels", "parallels"),
    ] {
        let path = folder.path().join(format!("disk.{format}"));
        let params = CreateParams::new(20 * MIB + 512, Variant::Dynamic);
        drop(create(&path, id, &params));
        let mut model = vec![0; 20 * MIB as usize + 512];
        agree(format, true, &path, &model);
        in_turn(format, true, &path, &mut model, 5);
        let info = media_info(&path).unwrap();
        assert_eq!((info.format, info.size), (id, params.size));
    }
}

/// More than one block of counts, more than one table, and a larger table of counts.
#[test]
fn reference_counts_grow_with_the_file() {
    let folder = fast_folder();
    let path = folder.path().join("disk.qcow2");
    // A table of 64 entries for blocks of 256 counts: 8 MiB.
    let more = "cluster_size=512,compat=0.10";
    qemu_img_ok(&[&"create", &"-f", &"qcow2", &"-o", &more, &path, &"25165824"]);
    let mut model = vec![0; 24 * MIB as usize];
    Random(7).fill(&mut model);
    let mut disk = Container::open(&path, OpenMode::ReadWrite).unwrap();
    disk.write_at(0, &model[..3 * MIB as usize]).unwrap();
    disk.flush().unwrap();
    disk.write_at(3 * MIB, &model[3 * MIB as usize..]).unwrap();
    drop(disk);
    agree("qcow2", true, &path, &model);
    let mut disk = Container::open(&path, OpenMode::ReadWrite).unwrap();
    disk.resize(100 * MIB, &mut Progress::none()).unwrap();
    drop(disk);
    model.resize(100 * MIB as usize, 0);
    agree("qcow2", true, &path, &model);
}

#[test]
fn compressed_clusters_are_read_and_replaced() {
    let folder = fast_folder();
    let raw = folder.path().join("source.raw");
    let mut model = vec![0; 8 * MIB as usize];
    for (i, piece) in model.chunks_mut(3000).enumerate() {
        piece.fill((i % 251) as u8);
    }
    Random(3).fill(&mut model[MIB as usize..2 * MIB as usize]);
    std::fs::write(&raw, &model).unwrap();
    for (format, more, checks) in [
        ("qcow2", "compat=1.1", true),
        ("qcow2", "compat=0.10,cluster_size=4k", true),
    ] {
        let mut model = model.clone();
        let path = folder.path().join(format!("packed.{}.qcow2", more.len()));
        qemu_img_ok(&[&"convert", &"-c", &"-O", &format, &"-o", &more, &raw, &path]);
        assert!(path.metadata().unwrap().len() < 4 * MIB);
        agree(format, checks, &path, &model);
        in_turn(format, checks, &path, &mut model, 31);
    }
}

/// qemu-img fails to make one of version 1, so it is made here: one table, two compressed clusters.
#[test]
fn compressed_clusters_of_version_1_are_read_and_replaced() {
    let folder = fast_folder();
    let path = folder.path().join("packed.qcow");
    let mut model = vec![0; MIB as usize];
    let mut file = vec![0; 0x2000];
    file[..8].copy_from_slice(b"QFI\xfb\0\0\0\x01");
    file[24..32].copy_from_slice(&MIB.to_be_bytes());
    file[32..34].copy_from_slice(&[12, 9]);
    file[40..48].copy_from_slice(&48_u64.to_be_bytes());
    file[48..56].copy_from_slice(&0x1000_u64.to_be_bytes());
    for (cluster, byte) in [(1_usize, 0x77), (5, 0x12)] {
        let data = &mut model[cluster * 4096..][..4096];
        data.fill(byte);
        data[100] = 1;
        let mut packer = flate2::Compress::new(flate2::Compression::best(), false);
        let mut packed = vec![0; 4096];
        packer
            .compress(data, &mut packed, flate2::FlushCompress::Finish)
            .unwrap();
        packed.truncate(packer.total_out() as usize);
        let entry = 1 << 63 | (packed.len() as u64) << 51 | file.len() as u64;
        file[0x1000 + 8 * cluster..][..8].copy_from_slice(&entry.to_be_bytes());
        file.extend(packed);
    }
    std::fs::write(&path, file).unwrap();
    agree("qcow", false, &path, &model);
    in_turn("qcow", false, &path, &mut model, 77);
}

#[test]
fn children_name_their_parents_by_file() {
    let folder = fast_folder();
    let path = |name: &str| folder.path().join(name);
    for (base, child, format) in [
        ("base.qcow", "child.qcow", "qcow2"),
        ("base.qed", "child.qed", "qed"),
        ("base.vdi", "over.qcow", "qcow2"),
    ] {
        let (base, child) = (path(base), path(child));
        let id = base.extension().unwrap().to_str().unwrap();
        let mut disk = create(&base, id, &CreateParams::new(9 * MIB, Variant::Dynamic));
        disk.write_at(MIB - 512, &[0x11; 5 << 20]).unwrap();
        drop(disk);
        let mut disk = create_child(&[&base], &child, 9 * MIB);
        disk.write_at(2 * MIB + 1024, &[0x22; 1 << 19]).unwrap();
        disk.discard(3 * MIB + 512, MIB).unwrap();
        let model = contents(&disk);
        drop(disk);
        assert_eq!(media_info(&child).unwrap().variant, Variant::Differencing);
        qemu_img_ok(&[&"check", &"-f", &format, &child]);
        let raw = path("raw");
        std::fs::write(&raw, &model).unwrap();
        qemu_img_ok(&[&"compare", &"-f", &format, &"-F", &"raw", &child, &raw]);
        assert!(Container::open(&child, OpenMode::ReadOnly).is_err());
        let other = path("other.vdi");
        let _ = std::fs::remove_file(&other);
        drop(create(
            &other,
            "VDI",
            &CreateParams::new(9 * MIB, Variant::Dynamic),
        ));
        let wrong = Container::open_chain(&[&other, &child], OpenMode::ReadOnly);
        assert!(matches!(wrong, Err(Error::InvalidParameter { .. })));
    }
    // One of QEMU's on ours.
    let (base, theirs) = (path("base.qcow"), path("theirs.qcow2"));
    qemu_img_ok(&[
        &"create", &"-f", &"qcow2", &"-F", &"qcow2", &"-b", &base, &theirs,
    ]);
    qemu_io("qcow2", &theirs, &["write -P 7 4096 70000".into()]);
    let disk = Container::open_chain(&[&base, &theirs], OpenMode::ReadOnly).unwrap();
    let mut model = contents(&Container::open(&base, OpenMode::ReadOnly).unwrap());
    model[4096..74096].fill(7);
    assert_same(&contents(&disk), &model, "QEMU's child");
}

#[test]
fn what_cannot_be_written_says_why() {
    let folder = fast_folder();
    let path = |name: &str| folder.path().join(name);
    let make = |name: &str, options: &str| {
        let path = path(name);
        qemu_img_ok(&[
            &"create", &"-f", &"qcow2", &"-o", &options, &path, &"4194304",
        ]);
        path
    };
    let error = |path: &Path, mode| Container::open(path, mode).unwrap_err().to_string();
    // Snapshots: readable, not writable.
    let snapshots = make("snapshots.qcow2", "compat=1.1");
    qemu_io("qcow2", &snapshots, &["write -P 9 0 65536".into()]);
    qemu_img_ok(&[&"snapshot", &"-c", &"one", &snapshots]);
    qemu_io("qcow2", &snapshots, &["write -P 8 0 512".into()]);
    let text = error(&snapshots, OpenMode::ReadWrite);
    assert!(text.contains("internal snapshots"), "{text}");
    let disk = Container::open(&snapshots, OpenMode::ReadOnly).unwrap();
    let data = contents(&disk);
    assert!(data[..512].iter().all(|b| *b == 8) && data[512..65536].iter().all(|b| *b == 9));
    // What cannot be read at all.
    let external = format!("data_file={}", path("data.raw").display());
    let external = make("external.qcow2", &external);
    let text = error(&external, OpenMode::ReadOnly);
    assert!(text.contains("external data file"), "{text}");
    let subclusters = make("subclusters.qcow2", "extended_l2=on");
    let text = error(&subclusters, OpenMode::ReadOnly);
    assert!(text.contains("subclusters"), "{text}");
    let (made, _) = qemu_img(&[
        &"create",
        &"-f",
        &"qcow2",
        &"-o",
        &"compression_type=zstd",
        &path("zstd.qcow2"),
        &"4194304",
    ]);
    if made {
        let text = error(&path("zstd.qcow2"), OpenMode::ReadOnly);
        assert!(text.contains("zstd"), "{text}");
    }
    let bitmap = make("bitmap.qcow2", "compat=1.1");
    qemu_img_ok(&[&"bitmap", &"--add", &bitmap, &"changes"]);
    let text = error(&bitmap, OpenMode::ReadWrite);
    assert!(text.contains("bitmaps"), "{text}");
    assert!(Container::open(&bitmap, OpenMode::ReadOnly).is_ok());
}
