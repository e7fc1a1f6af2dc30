//! Every format and every variant behaves like an array of bytes in memory.

mod kit;

use std::ops::ControlFlow;
use std::path::Path;

use kit::MIB;
use kit::assert_same;
use kit::contents;
use kit::create;
use kit::create_child;
use proptest::prelude::*;
use storage::Container;
use storage::CreateParams;
use storage::Error;
use storage::FORMATS;
use storage::Geometry;
use storage::Layout;
use storage::OpenMode;
use storage::Progress;
use storage::RunState;
use storage::Variant;
use storage::capability;
use storage::media_info;

const SIZE: u64 = 6 * MIB - 1024;
const SECTORS: u64 = SIZE / 512;

/// Chains of one format and of several.
const CHAINS: [[&str; 3]; 8] = [
    ["0.vdi", "1.vdi", "2.vdi"],
    ["0.vhd", "1.vhd", "2.vhd"],
    ["0.vmdk", "1.vmdk", "2.vmdk"],
    ["0.qcow", "1.qcow", "2.qcow"],
    ["0.qed", "1.qed", "2.qed"],
    ["p0.vdi", "p1.qcow", "p2.qed"],
    ["m0.vhd", "m1.vdi", "m2.vhd"],
    ["n0.vmdk", "n1.vdi", "n2.vmdk"],
];

#[derive(Debug, Clone)]
enum Step {
    Write { at: u64, len: u64, byte: u8 },
    Discard { at: u64, len: u64 },
    Flush,
    Reopen,
    Grow(u64),
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..SECTORS, prop_oneof![1..9u64, 2000..5000u64])
        .prop_map(|(at, len)| (at * 512, len.min(SECTORS - at) * 512));
    let block = (0..6u64).prop_map(|b| (b * MIB, MIB.min(SIZE - b * MIB)));
    let range = prop_oneof![3 => range, 1 => block];
    prop_oneof![
        6 => (range.clone(), any::<u8>()).prop_map(|((at, len), byte)| Step::Write { at, len, byte }),
        1 => range.clone().prop_map(|(at, len)| Step::Write { at, len, byte: 0 }),
        2 => range.prop_map(|(at, len)| Step::Discard { at, len }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => (1..3000u64).prop_map(|sectors| Step::Grow(sectors * 512)),
        1 => Just(Step::Compact),
    ]
}

/// One disk and the bytes that it must hold.
struct Pair<'a> {
    chain: &'a [&'a Path],
    disk: Option<Container>,
    model: Vec<u8>,
}

impl Pair<'_> {
    fn run(&mut self, step: &Step) {
        let mut disk = self.disk.take().unwrap();
        match *step {
            Step::Write { at, len, byte } => {
                // Not one value only: an exchange of sectors must show.
                let data: Vec<u8> = (0..len)
                    .map(|i| if byte == 0 { 0 } else { byte ^ (i / 512) as u8 })
                    .collect();
                disk.write_at(at, &data).unwrap();
                self.model[at as usize..][..len as usize].copy_from_slice(&data);
            }
            Step::Discard { at, len } => {
                disk.discard(at, len).unwrap();
                self.model[at as usize..][..len as usize].fill(0);
            }
            Step::Flush => disk.flush().unwrap(),
            Step::Reopen => {
                drop(disk);
                disk = Container::open_chain(self.chain, OpenMode::ReadWrite).unwrap();
            }
            Step::Grow(bytes) => {
                let size = disk.size() + bytes;
                let top = &disk.images()[disk.images().len() - 1];
                // Only VMDK children keep their size.
                let fixed = top.format() == "VMDK" && top.variant() == Variant::Differencing;
                match disk.resize(size, &mut Progress::none()) {
                    Ok(()) if !fixed => self.model.resize(size as usize, 0),
                    Err(Error::Unsupported { .. }) if fixed => {}
                    other => panic!("{other:?}"),
                }
            }
            Step::Compact => match disk.top_image().compact(&mut Progress::none()) {
                Ok(()) => {}
                // Only VDI can be compacted.
                Err(Error::Unsupported { .. }) if disk.top_image().format() != "VDI" => {}
                Err(e) => panic!("{e}"),
            },
        }
        self.disk = Some(disk);
    }

    fn check(&self, what: &str) {
        let disk = self.disk.as_ref().unwrap();
        assert_same(&contents(disk), &self.model, what);
        let report = disk.images().last().unwrap().check().unwrap();
        assert!(report.errors.is_empty(), "{report:?}");
        // Runs cover the disk, and what they call zero is zero.
        let mut at = 0;
        while at < disk.size() {
            let run = disk.run_at(at, disk.size() - at).unwrap();
            assert!(run.len > 0 && at + run.len <= disk.size());
            let bytes = &self.model[at as usize..][..run.len as usize];
            match run.state {
                RunState::Data => {}
                RunState::Zero => assert!(bytes.iter().all(|b| *b == 0)),
                RunState::Absent => panic!("a container has no absent bytes"),
            }
            at += run.len;
        }
    }
}

fn like_memory(chain: &[&Path], disk: Container, steps: &[Step]) {
    let model = contents(&disk);
    let mut pair = Pair {
        chain,
        disk: Some(disk),
        model,
    };
    for step in steps {
        pair.run(step);
    }
    pair.check("at the end");
    pair.run(&Step::Reopen);
    pair.check("after reopening");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bases_are_like_memory(steps in proptest::collection::vec(step(), 1..25)) {
        for format in FORMATS {
            for (variant, layout) in layouts(*format) {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join(format!("disk.{}", format.id().to_lowercase()));
                let mut params = CreateParams::new(SIZE, variant);
                params.layout = layout;
                let disk = create(&path, format.id(), &params);
                like_memory(&[&path], disk, &steps);
            }
        }
    }

    #[test]
    fn chains_are_like_memory(
        below in proptest::collection::vec(step(), 1..15),
        middle in proptest::collection::vec(step(), 1..15),
        above in proptest::collection::vec(step(), 1..25),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for names in CHAINS {
            let [base, child, grandchild] = names.map(path);
            let format = base.extension().unwrap().to_str().unwrap();
            let disk = create(&base, format, &CreateParams::new(SIZE, Variant::Dynamic));
            like_memory(&[&base], disk, &below);
            // Larger and smaller than the parent.
            let disk = create_child(&[&base], &child, SIZE + 5 * MIB);
            like_memory(&[&base, &child], disk, &middle);
            let disk = create_child(&[&base, &child], &grandchild, SIZE);
            like_memory(&[&base, &child, &grandchild], disk, &above);
        }
    }
}

/// The kinds of base images that can be written at any place.
fn layouts(format: &dyn storage::Format) -> Vec<(Variant, Layout)> {
    let mut all = Vec::new();
    for (flag, variant) in [
        (capability::CREATE_DYNAMIC, Variant::Dynamic),
        (capability::CREATE_FIXED, Variant::Fixed),
    ] {
        if format.capabilities() & flag != 0 {
            all.push((variant, Layout::Default));
        }
    }
    if format.capabilities() & capability::CREATE_SPLIT_2G != 0 {
        all.extend([
            (Variant::Dynamic, Layout::Split2G),
            (Variant::Fixed, Layout::Split2G),
            (Variant::Fixed, Layout::Esx),
        ]);
    }
    all
}

/// The formats of which there can be new images.
fn made() -> impl Iterator<Item = &'static dyn storage::Format> {
    let all = FORMATS.iter().copied();
    all.filter(|format| !layouts(*format).is_empty())
}

fn has_comment(format: &dyn storage::Format) -> bool {
    ["VDI", "VMDK"].contains(&format.id())
}

#[test]
fn formats_describe_what_they_made() {
    for format in made() {
        let folder = tempfile::tempdir().unwrap();
        for (variant, layout) in layouts(format) {
            let extension = format.id().to_lowercase();
            let path = folder
                .path()
                .join(format!("{variant:?}-{layout:?}.{extension}"));
            let mut params = CreateParams::new(SIZE, variant);
            params.layout = layout;
            params.comment = "a comment".into();
            let disk = create(&path, format.id(), &params);
            // While it is open for writing elsewhere.
            let info = media_info(&path).unwrap();
            assert_eq!((info.format, info.size), (format.id(), SIZE));
            if format.capabilities() & capability::UUID != 0 {
                assert_eq!(info.uuid, Some(params.uuid));
                assert_eq!((info.variant, info.layout), (variant, layout));
            }
            if has_comment(format) {
                assert_eq!(info.comment, "a comment");
            }
            if variant == Variant::Fixed {
                assert!(info.size_on_disk >= SIZE);
            }
            drop(disk);
            assert!(matches!(
                format.create(&path, &params, &mut Progress::none()),
                Err(Error::AlreadyExists { .. })
            ));
            assert!(path.exists());
            let mut unaligned = CreateParams::new(SIZE + 1, variant);
            unaligned.layout = layout;
            let other = folder.path().join("unaligned");
            assert!(
                format
                    .create(&other, &unaligned, &mut Progress::none())
                    .is_err()
            );
            assert!(!other.exists());
            let files = storage::image_files(&path).unwrap();
            assert!(files.iter().all(|file| file.exists()), "{files:?}");
            storage::remove_image(&path).unwrap();
            assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        }
    }
}

#[test]
fn there_is_one_writer_or_there_are_readers() {
    for format in made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder
            .path()
            .join(format!("disk.{}", format.id().to_lowercase()));
        let disk = create(
            &path,
            format.id(),
            &CreateParams::new(SIZE, Variant::Dynamic),
        );
        for mode in [OpenMode::ReadWrite, OpenMode::ReadOnly] {
            let error = Container::open(&path, mode).unwrap_err();
            assert!(matches!(error, Error::Locked { .. }), "{error}");
            assert!(error.to_string().contains("in use"), "{error}");
        }
        drop(disk);
        let mut reader = Container::open(&path, OpenMode::ReadOnly).unwrap();
        let _second = Container::open(&path, OpenMode::ReadOnly).unwrap();
        assert!(matches!(
            Container::open(&path, OpenMode::ReadWrite),
            Err(Error::Locked { .. })
        ));
        assert!(matches!(
            reader.write_at(0, &[1; 512]),
            Err(Error::ReadOnly { .. })
        ));
        assert!(reader.discard(0, 512).is_err());
        assert!(reader.resize(SIZE * 2, &mut Progress::none()).is_err());
        assert!(reader.top_image().compact(&mut Progress::none()).is_err());
        assert!(reader.flush().is_ok());
    }
}

#[test]
fn accesses_outside_the_disk_are_refused() {
    for format in made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder
            .path()
            .join(format!("disk.{}", format.id().to_lowercase()));
        let mut disk = create(
            &path,
            format.id(),
            &CreateParams::new(SIZE, Variant::Dynamic),
        );
        for (at, len) in [(SIZE, 512), (SIZE - 512, 1024), (u64::MAX - 511, 512)] {
            let mut data = vec![1; len as usize];
            assert!(disk.read_at(at, &mut data).is_err());
            assert!(disk.write_at(at, &data).is_err());
            assert!(disk.discard(at, len).is_err());
            assert!(disk.run_at(at, len).is_err());
        }
        assert!(disk.resize(SIZE - 512, &mut Progress::none()).is_err());
        assert!(disk.resize(SIZE + 1, &mut Progress::none()).is_err());
    }
}

#[test]
fn an_image_remembers_its_metadata_and_changes_its_modification_uuid_once_a_session() {
    for format in ["VDI", "VMDK"] {
        remembers_its_metadata(format);
    }
}

fn remembers_its_metadata(format: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let mut disk = create(&path, format, &CreateParams::new(SIZE, Variant::Dynamic));
    let created = disk.top_image().meta();
    disk.write_at(0, &[1; 512]).unwrap();
    let first = disk.top_image().meta();
    assert_ne!(first.modification, created.modification);
    disk.write_at(MIB, &[1; 512]).unwrap();
    assert_eq!(disk.top_image().meta(), first);
    drop(disk);
    let disk = Container::open(&path, OpenMode::ReadWrite).unwrap();
    assert_eq!(disk.images()[0].meta(), first, "reading changes nothing");
    drop(disk);
    let mut disk = Container::open(&path, OpenMode::ReadWrite).unwrap();
    let mut meta = first.clone();
    meta.comment = "changed".into();
    meta.logical = Geometry {
        cylinders: 12,
        heads: 16,
        sectors: 63,
    };
    disk.top_image().set_meta(&meta).unwrap();
    drop(disk);
    let disk = Container::open(&path, OpenMode::ReadOnly).unwrap();
    assert_eq!(disk.images()[0].meta(), meta);
    drop(disk);
    let mut disk = Container::open(&path, OpenMode::ReadWrite).unwrap();
    disk.top_image().set_meta(&meta).unwrap();
    disk.write_at(0, &[1; 512]).unwrap();
    assert_ne!(
        disk.top_image().meta().modification,
        meta.modification,
        "a write after a change of metadata shows"
    );
}

#[test]
fn a_chain_whose_parent_changed_or_is_another_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let [base, other, child] = ["base.vdi", "other.vdi", "child.vdi"].map(path);
    drop(create(
        &base,
        "VDI",
        &CreateParams::new(SIZE, Variant::Dynamic),
    ));
    drop(create(
        &other,
        "VDI",
        &CreateParams::new(SIZE, Variant::Dynamic),
    ));
    let uuid = uuid::Uuid::from_u128(77);
    drop(
        storage::create_child(&child, storage::child_format(&base).unwrap(), uuid, &base).unwrap(),
    );
    assert_eq!(media_info(&child).unwrap().uuid, Some(uuid));
    let open = |chain: &[&Path]| Container::open_chain(chain, OpenMode::ReadWrite);
    assert!(open(&[&base, &child]).is_ok());
    assert!(matches!(
        open(&[&other, &child]),
        Err(Error::ParentMismatch { field: "UUID", .. })
    ));
    assert!(open(&[&child]).is_err());
    assert!(open(&[&base, &other]).is_err());
    assert!(open(&[]).is_err());
    let info = media_info(&child).unwrap();
    assert_eq!(info.variant, Variant::Differencing);
    assert_eq!(
        info.parent.unwrap().uuid,
        media_info(&base).unwrap().uuid.unwrap()
    );
    open(&[&base]).unwrap().write_at(0, &[1; 512]).unwrap();
    assert!(matches!(
        open(&[&base, &child]),
        Err(Error::ParentMismatch {
            field: "modification UUID",
            ..
        })
    ));
}

#[test]
fn a_chain_of_sixty_images_reads_through() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..60)
        .map(|i| folder.path().join(format!("{i}.vdi")))
        .collect();
    let chain: Vec<&Path> = paths.iter().map(|p| p.as_path()).collect();
    let mut model = vec![0; SIZE as usize];
    for i in 0..chain.len() {
        let mut disk = match i {
            0 => create(chain[0], "VDI", &CreateParams::new(SIZE, Variant::Dynamic)),
            _ => create_child(&chain[..i], chain[i], SIZE),
        };
        let at = i * 512 * 150;
        disk.write_at(at as u64, &[i as u8 + 1; 512]).unwrap();
        model[at..at + 512].fill(i as u8 + 1);
    }
    let disk = Container::open_chain(&chain, OpenMode::ReadOnly).unwrap();
    assert_same(&contents(&disk), &model, "60 images");
}

#[test]
fn compacting_gives_back_the_space_of_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vdi");
    let mut disk = create(&path, "VDI", &CreateParams::new(40 * MIB, Variant::Dynamic));
    for block in 0..40 {
        disk.write_at(block * MIB, &[block as u8 + 1; 512]).unwrap();
    }
    for block in (0..40).filter(|b| b % 4 != 0) {
        disk.write_at(block * MIB, &[0; 512]).unwrap();
    }
    let mut seen = Vec::new();
    disk.top_image()
        .compact(&mut Progress::new(&mut |percent| {
            seen.push(percent);
            ControlFlow::Continue(())
        }))
        .unwrap();
    assert_eq!(seen.last(), Some(&100));
    drop(disk);
    let disk = Container::open(&path, OpenMode::ReadOnly).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 12 * MIB);
    let report = disk.images()[0].check().unwrap();
    assert_eq!(
        (report.allocated, report.notes.len()),
        (10, 0),
        "{report:?}"
    );
    for block in 0..40 {
        let mut data = [0xFF; 512];
        disk.read_at(block * MIB, &mut data).unwrap();
        let expected = if block % 4 == 0 { block as u8 + 1 } else { 0 };
        assert_eq!(data, [expected; 512], "block {block}");
    }
}

#[test]
fn any_file_goes_into_a_cd_drive_and_none_is_written_there() {
    use storage::MediaKind;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no-extension");
    std::fs::write(&path, vec![9; 5000]).unwrap();
    let mut disk = Container::open_as(&path, MediaKind::Dvd, OpenMode::ReadWrite).unwrap();
    assert_eq!((disk.size(), disk.mode()), (6144, OpenMode::ReadOnly));
    assert!(disk.write_at(0, &[0; 2048]).is_err());
    assert!(Container::open_as(&path, MediaKind::HardDisk, OpenMode::ReadWrite).is_err());
    let vdi = folder.path().join("disk.vdi");
    drop(create(
        &vdi,
        "VDI",
        &CreateParams::new(SIZE, Variant::Dynamic),
    ));
    assert!(Container::open_as(&vdi, MediaKind::Dvd, OpenMode::ReadOnly).is_err());
    assert!(Container::open_as(&vdi, MediaKind::HardDisk, OpenMode::ReadWrite).is_ok());
}

/// A child process inherits open files between its fork and its exec; the lock must not live on
/// in it.
#[test]
fn closing_gives_up_the_lock_even_while_processes_are_started() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vdi");
    drop(create(
        &path,
        "VDI",
        &CreateParams::new(SIZE, Variant::Dynamic),
    ));
    let starter = std::thread::spawn(|| {
        for _ in 0..300 {
            std::process::Command::new("true").status().unwrap();
        }
    });
    while !starter.is_finished() {
        drop(Container::open(&path, OpenMode::ReadWrite).unwrap());
    }
    starter.join().unwrap();
}
