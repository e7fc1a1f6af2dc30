//! Cloning and converting.

mod kit;

use std::io;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use kit::MIB;
use kit::Random;
use kit::assert_same;
use kit::contents;
use kit::create;
use kit::create_child;
use storage::Container;
use storage::CreateParams;
use storage::Error;
use storage::FORMATS;
use storage::OpenMode;
use storage::Progress;
use storage::Variant;
use storage::capability;
use storage::clone_into;
use storage::clone_to_new;
use storage::convert_from_reader;
use storage::format_by_id;

/// The formats of which there can be new images.
fn made() -> impl Iterator<Item = &'static dyn storage::Format> {
    let all = FORMATS.iter().copied();
    all.filter(|format| format.capabilities() & capability::CREATE_DYNAMIC != 0)
}

const SIZE: u64 = 10 * MIB - 512;

fn source(folder: &Path) -> Container {
    let base = folder.join("source.vdi");
    let mut disk = create(&base, "VDI", &CreateParams::new(SIZE, Variant::Dynamic));
    let mut random = Random(5);
    let mut data = vec![0; MIB as usize + 700 * 512];
    random.fill(&mut data);
    disk.write_at(3 * MIB + 512, &data).unwrap();
    disk.write_at(SIZE - 512, &data[..512]).unwrap();
    drop(disk);
    let mut disk = create_child(&[&base], &folder.join("child.vdi"), SIZE);
    disk.discard(4 * MIB, MIB).unwrap();
    disk.write_at(MIB, &data[..4096]).unwrap();
    disk
}

#[test]
fn clones_in_every_format_are_equal_and_hold_no_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let expected = contents(&source);
    for format in made() {
        for variant in [Variant::Dynamic, Variant::Fixed] {
            if variant == Variant::Fixed && format.capabilities() & capability::CREATE_FIXED == 0 {
                continue;
            }
            let path = folder.path().join(format!("{variant:?}.{}", format.id()));
            let mut seen = Vec::new();
            let mut listener = |percent| {
                seen.push(percent);
                ControlFlow::Continue(())
            };
            let params = CreateParams::new(SIZE, variant);
            let clone = clone_to_new(
                &source,
                &path,
                format,
                &params,
                &mut Progress::new(&mut listener),
            )
            .unwrap();
            assert_same(&contents(&clone), &expected, format.id());
            assert_eq!((seen.first(), seen.last()), (Some(&0), Some(&100)));
            if (format.id(), variant) == ("VDI", Variant::Dynamic) {
                // Blocks 1, 3 and 9; the discarded fourth is gone.
                assert_eq!(clone.images()[0].check().unwrap().allocated, 3);
            }
        }
    }
}

#[test]
fn a_cancelled_clone_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    for format in made() {
        let path = folder.path().join("cancelled");
        let mut listener = |percent| match percent {
            0..40 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        };
        let result = clone_to_new(
            &source,
            &path,
            format,
            &CreateParams::new(SIZE, Variant::Dynamic),
            &mut Progress::new(&mut listener),
        );
        assert!(matches!(result, Err(Error::Cancelled)));
        assert!(!path.exists());
    }
}

#[test]
fn an_existing_disk_is_overwritten_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let mut expected = contents(&source);
    expected.resize(12 * MIB as usize, 0);
    for format in made() {
        let path = folder.path().join(format!("existing.{}", format.id()));
        let params = CreateParams::new(12 * MIB, Variant::Dynamic);
        let mut target = create(&path, format.id(), &params);
        target.write_at(0, &vec![0xAA; 12 * MIB as usize]).unwrap();
        clone_into(&source, &mut target, &mut Progress::none()).unwrap();
        assert_same(&contents(&target), &expected, format.id());
        let small = folder.path().join(format!("small.{}", format.id()));
        let mut small = create(
            &small,
            format.id(),
            &CreateParams::new(MIB, Variant::Dynamic),
        );
        let error = clone_into(&source, &mut small, &mut Progress::none()).unwrap_err();
        assert!(matches!(error, Error::InvalidParameter { .. }), "{error}");
    }
}

/// Gives odd pieces, is interrupted at times, and may end in an error.
struct Stream {
    data: Vec<u8>,
    at: usize,
    calls: usize,
    fails: bool,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.calls += 1;
        if self.calls.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let n = buf.len().min(4097).min(self.data.len() - self.at);
        if n == 0 && self.fails {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        buf[..n].copy_from_slice(&self.data[self.at..][..n]);
        self.at += n;
        Ok(n)
    }
}

#[test]
fn a_stream_becomes_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = vec![0; SIZE as usize];
    Random(9).fill(&mut expected[2 * MIB as usize..4 * MIB as usize + 100]);
    let vdi = format_by_id("vdi").unwrap();
    let params = CreateParams::new(SIZE, Variant::Dynamic);
    // The stream ends before the disk does, in the middle of a sector.
    let stream = |fails| Stream {
        data: expected[..4 * MIB as usize + 100].to_vec(),
        at: 0,
        calls: 0,
        fails,
    };
    let path = folder.path().join("disk.vdi");
    let none = &mut Progress::none();
    let disk = convert_from_reader(&mut stream(false), &path, vdi, &params, none).unwrap();
    assert_same(&contents(&disk), &expected, "converted");
    assert_eq!(disk.images()[0].check().unwrap().allocated, 3);
    drop(disk);
    let disk = Container::open(&path, OpenMode::ReadOnly).unwrap();
    assert_same(&contents(&disk), &expected, "reopened");

    let path = folder.path().join("broken.vdi");
    let result = convert_from_reader(&mut stream(true), &path, vdi, &params, none);
    assert!(matches!(result, Err(Error::Source { .. })), "{result:?}");
    assert!(!path.exists());
}
