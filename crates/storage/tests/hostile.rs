//! Files that are damaged or made to do damage: an error that names the file and the place, no
//! panic, no memory that the file does not justify, and no change to the file.

mod kit;

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::cell::Cell;
use std::path::Path;

use kit::MIB;
use kit::Random;
use kit::create;
use kit::create_child;
use kit::fast_folder;
use storage::Container;
use storage::CreateParams;
use storage::Error;
use storage::OpenMode;
use storage::Progress;
use storage::Variant;
use storage::media_info;

/// Remembers the largest allocation of each thread.
struct Meter;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

#[allow(
    unsafe_code,
    reason = "an allocator is the only way to see allocations"
)]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: the caller keeps the rules of `alloc`, which are the same here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static METER: Meter = Meter;

/// What a drive would do with the file. Errors are fine; panics and large allocations are not.
fn use_it(path: &Path) -> Result<(), Error> {
    let len = std::fs::metadata(path).unwrap().len() as usize;
    LARGEST.with(|largest| largest.set(0));
    let _ = media_info(path);
    let opened = match Container::open(path, OpenMode::ReadWrite) {
        Err(Error::ReadOnly { .. }) => Container::open(path, OpenMode::ReadOnly),
        other => other,
    };
    let largest = LARGEST.with(Cell::get);
    assert!(
        largest <= 8 * len + (1 << 20),
        "{largest} bytes were allocated for a file of {len}"
    );
    let mut disk = opened?;
    let size = disk.size();
    let mut data = [0; 4096];
    for at in [
        0,
        size / 2 / 512 * 512,
        size.saturating_sub(4096) / 512 * 512,
    ] {
        if at + 4096 <= size {
            disk.read_at(at, &mut data)?;
            if disk.mode() == OpenMode::ReadWrite {
                disk.write_at(at, &[0x5A; 4096])?;
            }
        }
    }
    if disk.mode() == OpenMode::ReadWrite {
        disk.discard(0, size.min(3 * MIB))?;
    }
    disk.images()[0].check()?;
    disk.flush()
}

fn with_bytes<R>(path: &Path, bytes: &[u8], act: impl FnOnce(&Path) -> R) -> R {
    std::fs::write(path, bytes).unwrap();
    act(path)
}

/// A small image with some blocks, as bytes.
fn sample(folder: &Path, variant: Variant) -> Vec<u8> {
    let path = folder.join(format!("{variant:?}.vdi"));
    let mut params = CreateParams::new(5 * MIB, variant);
    params.comment = "sample".into();
    let mut disk = create(&path, "VDI", &params);
    for block in [4, 0, 2] {
        disk.write_at(block * MIB, &[block as u8 + 1; 1024])
            .unwrap();
    }
    disk.flush().unwrap();
    drop(disk);
    std::fs::read(path).unwrap()
}

#[test]
fn a_truncated_image_is_refused_wherever_it_ends() {
    let folder = fast_folder();
    let victim = folder.path().join("victim.vdi");
    for variant in [Variant::Dynamic, Variant::Fixed] {
        let good = sample(folder.path(), variant);
        let header_fields = (0..0x1D8).step_by(4).chain([511, 512, 513]);
        let rest = [
            MIB - 1,
            MIB,
            MIB + 4,
            MIB + 23,
            MIB + 24,
            2 * MIB - 1,
            2 * MIB,
            2 * MIB + 1,
        ];
        let rest = rest.map(|at| at as usize);
        let end = [
            good.len() - MIB as usize,
            good.len() - MIB as usize / 2,
            good.len() - 512,
        ];
        for at in header_fields.chain(rest).chain(end) {
            let error = with_bytes(&victim, &good[..at], |path| {
                Container::open(path, OpenMode::ReadWrite).err()
            });
            let error = error.unwrap_or_else(|| panic!("{variant:?} cut at {at:#x} was opened"));
            assert!(
                matches!(error, Error::Corrupt { .. }),
                "{variant:?} cut at {at:#x}: {error}"
            );
            assert!(error.to_string().contains("victim.vdi"), "{error}");
            assert_eq!(std::fs::read(&victim).unwrap(), good[..at], "was changed");
        }
    }
}

#[test]
fn header_fields_with_extreme_values_do_no_harm() {
    let folder = fast_folder();
    let victim = folder.path().join("victim.vdi");
    let good = sample(folder.path(), Variant::Dynamic);
    let values = [
        0,
        1,
        2,
        3,
        4,
        5,
        0x180,
        0x190,
        0x200,
        511,
        512,
        0x1000,
        0x7FFF_FFFF,
        0x8000_0000,
        0xFFFF_FE00,
        0xFFFF_FFFE,
        0xFFFF_FFFF,
        0x0010_0000,
        0x0020_0000,
        0x0400_0000,
    ];
    let mut refused = 0;
    for at in (0x40..0x1D8).step_by(4) {
        for value in values {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            refused += usize::from(with_bytes(&victim, &bytes, use_it).is_err());
        }
    }
    assert!(
        refused > 150,
        "only {refused} of the changed headers were refused"
    );
}

#[track_caller]
fn refused(folder: &Path, good: &[u8], at: usize, value: u32, says: &str) {
    let victim = folder.join("victim.vdi");
    let mut bytes = good.to_vec();
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let error = with_bytes(&victim, &bytes, use_it).unwrap_err().to_string();
    assert!(
        error.contains(says) && error.contains("victim.vdi"),
        "{error}"
    );
    assert_eq!(std::fs::read(&victim).unwrap(), bytes, "was changed");
}

#[test]
fn each_lie_gets_its_own_answer() {
    let folder = fast_folder();
    let folder = folder.path();
    let good = sample(folder, Variant::Dynamic);
    let map = MIB as usize;
    refused(folder, &good, 0x40, 0, "signature");
    refused(folder, &good, 0x44, 1, "version 0.1");
    refused(folder, &good, 0x48, 0x17F, "too short");
    refused(folder, &good, 0x48, u32::MAX, "block map cannot be");
    refused(folder, &good, 0x4C, 3, "undo images");
    refused(folder, &good, 0x4C, 9, "image type 9");
    refused(folder, &good, 0x154, 0, "block map cannot be");
    refused(folder, &good, 0x154, 0x10_0001, "block map cannot be");
    refused(folder, &good, 0x154, 0xFFFF_FE00, "overlap");
    refused(folder, &good, 0x158, 0x10_0000, "overlap");
    refused(folder, &good, 0x158, 0xFFFF_FE00, "the file ends at");
    refused(folder, &good, 0x170, 1, "number of sectors");
    refused(folder, &good, 0x174, 0x7FFF_FFFF, "blocks do not fit");
    refused(folder, &good, 0x178, 0, "not a block size");
    refused(folder, &good, 0x178, 0x8000_0000, "not a block size");
    refused(folder, &good, 0x17C, 512, "extra data");
    refused(folder, &good, 0x180, 4, "blocks do not fit");
    refused(folder, &good, 0x180, u32::MAX, "blocks do not fit");
    refused(folder, &good, 0x180, 0x4_0001, "overlap");
    // The sample's blocks 4, 0 and 2 are in slots 0, 1 and 2.
    refused(folder, &good, map + 4, 1, "shares slot 1");
    refused(folder, &good, map + 4, 3, "block 1 is said to end");
    refused(
        folder,
        &good,
        map + 4,
        0xFFFF_FFFD,
        "block 1 is said to end",
    );
    // A parent that is not there.
    refused(folder, &good, 0x4C, 4, "without its parent");
}

#[test]
fn a_huge_sparse_file_costs_no_more_than_its_map() {
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim.vdi");
    let mut bytes = sample(folder.path(), Variant::Dynamic);
    // 2^32 - 1 blocks in a file that is long enough for their map, but is all hole.
    bytes[0x180..0x184].copy_from_slice(&u32::MAX.to_le_bytes());
    bytes[0x158..0x15C].copy_from_slice(&0xFFFF_FE00u32.to_le_bytes());
    std::fs::write(&victim, &bytes).unwrap();
    let file = std::fs::File::options().write(true).open(&victim).unwrap();
    file.set_len(1 << 40).unwrap();
    LARGEST.with(|largest| largest.set(0));
    assert!(Container::open(&victim, OpenMode::ReadOnly).is_err());
    assert!(LARGEST.with(Cell::get) < 1 << 20);
}

#[test]
fn random_damage_does_no_harm() {
    let folder = fast_folder();
    let victim = folder.path().join("victim.vdi");
    let good = sample(folder.path(), Variant::Dynamic);
    let mut random = Random(0x0D15C);
    for round in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..1 + random.below(6) {
            // In the header's fields or in the map.
            let at = match random.below(3) {
                0 => MIB + random.below(24),
                _ => 0x40 + random.below(0x198),
            };
            bytes[at as usize] = match random.below(3) {
                0 => 0,
                1 => 0xFF,
                _ => random.next() as u8,
            };
        }
        if round % 4 == 0 {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
        }
        let _ = with_bytes(&victim, &bytes, use_it);
    }
    for _ in 0..50 {
        let mut bytes = vec![0; random.below(8192) as usize];
        random.fill(&mut bytes);
        let _ = with_bytes(&victim, &bytes, use_it);
        let raw = folder.path().join("victim.img");
        let _ = with_bytes(&raw, &bytes, use_it);
    }
}

#[test]
fn a_wrong_count_in_the_header_is_reported_and_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim.vdi");
    let mut bytes = sample(folder.path(), Variant::Dynamic);
    bytes[0x184] = 1;
    std::fs::write(&victim, &bytes).unwrap();
    let mut disk = Container::open(&victim, OpenMode::ReadWrite).unwrap();
    let report = disk.images()[0].check().unwrap();
    assert_eq!(report.errors.len(), 1, "{report:?}");
    disk.write_at(MIB, &[1; 512]).unwrap();
    assert!(disk.images()[0].check().unwrap().errors.is_empty());
    let mut old = [0; 512];
    for block in [4, 0, 2] {
        disk.read_at(block * MIB, &mut old).unwrap();
        assert_eq!(
            old,
            [block as u8 + 1; 512],
            "block {block} was written over"
        );
    }
}

#[test]
fn strange_paths_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| Container::open(path, OpenMode::ReadWrite).unwrap_err();
    assert!(matches!(
        open(&folder.path().join("none.vdi")),
        Error::NotFound { .. }
    ));
    assert!(matches!(
        open(folder.path()),
        Error::Io { .. } | Error::Unsupported { .. }
    ));
    assert!(matches!(
        open(Path::new("/dev/zero")),
        Error::Unsupported { .. }
    ));
    assert!(matches!(
        open(Path::new("/dev/null")),
        Error::Unsupported { .. }
    ));
    let empty = folder.path().join("empty.vdi");
    std::fs::write(&empty, b"").unwrap();
    assert!(matches!(open(&empty), Error::Corrupt { .. }));
    let empty = folder.path().join("empty.img");
    std::fs::write(&empty, b"").unwrap();
    assert!(matches!(open(&empty), Error::Corrupt { .. }));
    // A differencing image alone, and a chain on a raw base.
    let base = folder.path().join("base.vdi");
    let child = folder.path().join("child.vdi");
    drop(create(
        &base,
        "VDI",
        &CreateParams::new(MIB, Variant::Dynamic),
    ));
    drop(create_child(&[&base], &child, MIB));
    assert!(matches!(open(&child), Error::InvalidParameter { .. }));
    let raw = folder.path().join("base.raw");
    drop(create(
        &raw,
        "RAW",
        &CreateParams::new(MIB, Variant::Dynamic),
    ));
    let error = Container::open_chain(&[&raw, &child], OpenMode::ReadWrite).unwrap_err();
    assert!(matches!(error, Error::ParentMismatch { .. }), "{error}");
    // A folder that does not exist.
    let nowhere = folder.path().join("nowhere").join("a.vdi");
    let params = CreateParams::new(MIB, Variant::Dynamic);
    assert!(storage::create_image(&nowhere, "VDI", &params, &mut Progress::none()).is_err());
}

/// Images of the other formats, small, and what makes a changed one credible again.
struct Seed {
    name: &'static str,
    variant: Variant,
    layout: storage::Layout,
    /// Ranges of bytes worth changing; negative ones count from the end.
    targets: &'static [(i64, u64)],
    seal: fn(&mut [u8]),
}

/// The one's complement of the sum of all bytes, at `own`.
fn sum_up(raw: &mut [u8], own: usize) {
    raw[own..own + 4].fill(0);
    let sum: u32 = raw.iter().map(|b| u32::from(*b)).sum();
    raw[own..own + 4].copy_from_slice(&(!sum).to_be_bytes());
}

fn seal_vhd(bytes: &mut [u8]) {
    let len = bytes.len();
    if len > 2048 {
        sum_up(&mut bytes[..512], 64);
        sum_up(&mut bytes[512..1536], 36);
    }
    if len >= 512 {
        sum_up(&mut bytes[len - 512..], 64);
    }
}

const SEEDS: &[Seed] = &[
    Seed {
        name: "dynamic.vhd",
        variant: Variant::Dynamic,
        layout: storage::Layout::Default,
        targets: &[(0, 84), (512, 60), (1536, 12), (-512, 84)],
        seal: seal_vhd,
    },
    Seed {
        name: "fixed.vhd",
        variant: Variant::Fixed,
        layout: storage::Layout::Default,
        targets: &[(-512, 84)],
        seal: seal_vhd,
    },
    // Header, descriptor, the directories (at sectors 21 and 27) and what they lead to.
    Seed {
        name: "sparse.vmdk",
        variant: Variant::Dynamic,
        layout: storage::Layout::Default,
        targets: &[
            (0, 80),
            (512, 700),
            (21 * 512, 8),
            (22 * 512, 160),
            (26 * 512, 8),
            (27 * 512, 160),
        ],
        seal: |_| {},
    },
    Seed {
        name: "flat.vmdk",
        variant: Variant::Fixed,
        layout: storage::Layout::Default,
        targets: &[(0, 700)],
        seal: |_| {},
    },
    // Header, counts' table, counts, first table, the table behind it.
    Seed {
        name: "disk.qcow",
        variant: Variant::Dynamic,
        layout: storage::Layout::Default,
        targets: &[
            (0, 72),
            (0, 72),
            (0x10000, 8),
            (0x20000, 24),
            (0x30000, 8),
            (0x40000, 32),
            (0x40000, 640),
        ],
        seal: |_| {},
    },
    Seed {
        name: "disk.qed",
        variant: Variant::Dynamic,
        layout: storage::Layout::Default,
        targets: &[(0, 64), (0x10000, 8), (0x50000, 32), (0x50000, 640)],
        seal: |_| {},
    },
    Seed {
        name: "disk.parallels",
        variant: Variant::Dynamic,
        layout: storage::Layout::Default,
        targets: &[(0, 64), (16, 24), (64, 20)],
        seal: |_| {},
    },
    // The last sectors: tables, directory, footer and the markers before each.
    Seed {
        name: "stream.vmdk",
        variant: Variant::Dynamic,
        layout: storage::Layout::StreamOptimized,
        targets: &[(0, 80), (512, 700), (65536, 600), (-5120, 5120)],
        seal: |_| {},
    },
];

#[test]
fn a_descriptor_names_no_files_of_other_folders() {
    let folder = fast_folder();
    let other = folder.path().join("secret");
    std::fs::write(&other, [0x55; 8192]).unwrap();
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let path = inner.join("disk.vmdk");
    let absolute = other.to_str().unwrap();
    for kind in ["monolithicFlat", "fullDevice", "vmfs"] {
        for name in [
            "../secret",
            "..",
            ".",
            "",
            "disk.vmdk",
            "./disk.vmdk",
            "..\\secret",
            absolute,
            "/dev/zero",
            "/dev/stdin",
        ] {
            let text = format!(
                "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\n\
                 createType=\"{kind}\"\nRW 16 FLAT \"{name}\" 0\n"
            );
            std::fs::write(&path, text).unwrap();
            for mode in [OpenMode::ReadOnly, OpenMode::ReadWrite] {
                let error = Container::open(&path, mode).unwrap_err();
                assert!(
                    matches!(error, Error::Unsupported { .. }),
                    "{kind} {name}: {error}"
                );
            }
            let info = media_info(&path).unwrap();
            assert!(info.size_on_disk < 4096, "{kind} {name}");
            assert_eq!(storage::image_files(&path).unwrap(), [path.as_path()]);
        }
    }
}

#[test]
fn random_damage_to_the_other_formats_does_no_harm() {
    let folder = fast_folder();
    for seed in SEEDS {
        let path = folder.path().join(seed.name);
        let format = path.extension().unwrap().to_str().unwrap();
        let mut params = CreateParams::new(5 * MIB, seed.variant);
        params.layout = seed.layout;
        let mut disk = create(&path, format, &params);
        for block in [0, 2, 4] {
            disk.write_at(block * MIB, &[block as u8 + 1; 1024])
                .unwrap();
        }
        disk.flush().unwrap();
        drop(disk);
        let good = std::fs::read(&path).unwrap();
        damage(&path, &good, seed.targets, seed.seal);
    }
}

fn damage(path: &Path, good: &[u8], targets: &[(i64, u64)], seal: fn(&mut [u8])) {
    let mut random = Random(0x0D15D);
    let (mut opened, mut refused) = (0, 0);
    for round in 0..300 {
        let mut bytes = good.to_vec();
        if round % 10 == 9 {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
        }
        for _ in 0..1 + random.below(3) {
            let (from, len) = targets[random.below(targets.len() as u64) as usize];
            let at = (from.rem_euclid(good.len() as i64)) as u64 + random.below(len);
            let value = match random.below(4) {
                0 => 0,
                1 => 0xFF,
                2 => 1 << random.below(8),
                _ => random.next() as u8,
            };
            if let Some(byte) = bytes.get_mut(at as usize) {
                *byte = value;
            }
        }
        // Some with checksums that give the damage away.
        if round % 5 != 0 {
            seal(&mut bytes);
        }
        match with_bytes(path, &bytes, use_it) {
            Ok(()) => opened += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(
        opened > 10 && refused > 30,
        "{}: {opened}, {refused}",
        path.display()
    );
}

#[test]
fn random_damage_to_images_that_are_only_read_does_no_harm() {
    let folder = fast_folder();
    let data: Vec<u8> = (0..2 * MIB).map(|i| (i / 700) as u8).collect();
    let path = folder.path().join("disk.vhdx");
    kit::make_vhdx(
        &path,
        &data,
        "subformat=dynamic,block_size=1048576,log_size=1048576",
    );
    let good = std::fs::read(&path).unwrap();
    // One header, regions, metadata and the table of blocks, where QEMU puts them.
    let targets = [
        (65536, 80),
        (131072, 80),
        (192 << 10, 80),
        (256 << 10, 80),
        (2 << 20, 200),
        (2 << 20 | 65536, 64),
        (3 << 20, 16),
    ];
    damage(&path, &good, &targets, kit::seal_vhdx);
    let path = folder.path().join("disk.dmg");
    let good = kit::dmg(&data);
    let list = good
        .windows(7)
        .position(|w| w == b"mish\0\0\0" || w == b"<plist ")
        .unwrap() as i64;
    damage(
        &path,
        &good,
        &[(-512, 512), (-512, 240), (list, 2000), (0, 400)],
        |_| {},
    );
}
