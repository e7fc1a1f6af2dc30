//! Every single file operation fails once, and power is cut everywhere: what was flushed stays.

use std::path::Path;
use std::path::PathBuf;

use crate::Container;
use crate::CreateParams;
use crate::Error;
use crate::Format;
use crate::Image;
use crate::MediaKind;
use crate::Meta;
use crate::OpenMode;
use crate::Progress;
use crate::Variant;
use crate::host::HostFile;
use crate::host::faults;
use crate::host::faults::Change;
use crate::host::faults::Probe;

use uuid::Uuid;

use super::Vdi;
use super::header::Header;
use super::write_new;

/// Small blocks make small files. The tight layout has no gap between the map and the data, so
/// that growing has to move blocks.
const BLOCK: u64 = 4096;
const SIZE: u64 = 128 * BLOCK - 512;

/// A small generator, so that a failure can be repeated from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// One disk: its files and what it must hold.
struct Bench {
    folder: tempfile::TempDir,
    differencing: bool,
}

impl Bench {
    fn new(variant: Variant) -> Self {
        // In memory where possible: these tests flush thousands of times.
        let folder = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let bench = Self {
            folder,
            differencing: variant == Variant::Differencing,
        };
        let mut params = CreateParams::new(SIZE, variant);
        if bench.differencing {
            let base = CreateParams::new(SIZE, Variant::Dynamic);
            let mut base = Container::new(make(&bench.path("base.vdi"), &base)).unwrap();
            for block in 0..64 {
                base.write_at(block * 2 * BLOCK, &vec![0x80 | block as u8; BLOCK as usize])
                    .unwrap();
            }
            base.flush().unwrap();
            let meta = base.images()[0].meta();
            params.parent = Some(crate::ParentLink::new(
                meta.uuid.unwrap(),
                meta.modification.unwrap(),
            ));
        }
        drop(make(&bench.disk(), &params));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn disk(&self) -> PathBuf {
        self.path("disk.vdi")
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Container {
        if !self.differencing {
            return Container::open(path, mode).unwrap();
        }
        Container::open_chain(&[&self.path("base.vdi"), path], mode).unwrap()
    }

    /// Opens for writing with all changes of the topmost file going through `probe`.
    fn open_probed(&self, probe: &Probe) -> Container {
        let mut below = self
            .differencing
            .then(|| Container::open(&self.path("base.vdi"), OpenMode::ReadOnly).unwrap());
        faults::arm(probe);
        let top = Vdi
            .open(&self.disk(), OpenMode::ReadWrite, MediaKind::HardDisk)
            .unwrap();
        match below.take() {
            Some(mut below) => {
                below.push(top).unwrap();
                below
            }
            None => Container::new(top).unwrap(),
        }
    }

    fn contents(&self, path: &Path) -> Vec<u8> {
        let disk = self.open(path, OpenMode::ReadOnly);
        let mut all = vec![0; disk.size() as usize];
        disk.read_at(0, &mut all).unwrap();
        all
    }
}

/// A new image in the tight layout.
fn make(path: &Path, params: &CreateParams) -> Box<dyn Image> {
    let meta = Meta {
        uuid: Some(params.uuid),
        modification: Some(Uuid::new_v4()),
        parent: params.parent,
        ..Meta::default()
    };
    let header = Header::with_layout(params.size, BLOCK, 512, params.variant, meta, path).unwrap();
    let file = HostFile::create(path).unwrap();
    Box::new(write_new(file, header, &mut Progress::none()).unwrap())
}

/// One step of a workload, the same for the disk and for its model in memory.
#[derive(Debug, Clone)]
enum Step {
    Write(u64, u64, u8),
    Discard(u64, u64),
    Flush,
    Grow(u64),
    Compact,
}

impl Step {
    fn on_disk(&self, disk: &mut Container) -> crate::Result<()> {
        match *self {
            Self::Write(at, len, byte) => disk.write_at(at, &vec![byte; len as usize]),
            Self::Discard(at, len) => disk.discard(at, len),
            Self::Flush => disk.flush(),
            Self::Grow(size) => disk.resize(size, &mut Progress::none()),
            Self::Compact => disk.top_image().compact(&mut Progress::none()),
        }
    }

    fn on_model(&self, model: &mut Vec<u8>) {
        match *self {
            Self::Write(at, len, byte) => model[at as usize..(at + len) as usize].fill(byte),
            Self::Discard(at, len) => model[at as usize..(at + len) as usize].fill(0),
            Self::Grow(size) => model.resize(size as usize, 0),
            Self::Flush | Self::Compact => {}
        }
    }
}

fn workload(random: &mut Random, steps: usize) -> Vec<Step> {
    let mut size = SIZE;
    (0..steps)
        .map(|_| {
            let at = random.below(size / 512) * 512;
            let len = (1 + random.below(2 * BLOCK / 512)) * 512;
            let len = len.min(size - at);
            match random.below(20) {
                0..=10 => Step::Write(at, len, random.next() as u8),
                11..=13 => Step::Discard(at, len),
                14 => {
                    let at = at / BLOCK * BLOCK;
                    Step::Write(at, (4 * BLOCK).min(size - at), 0)
                }
                15..=17 => Step::Flush,
                18 => Step::Compact,
                _ => {
                    size += random.below(3) * BLOCK;
                    Step::Grow(size)
                }
            }
        })
        .collect()
}

fn assert_clean(disk: &Container) {
    let report = disk.images().last().unwrap().check().unwrap();
    assert!(report.errors.is_empty(), "{report:?}");
}

fn assert_same(left: &[u8], right: &[u8], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}: length");
    if let Some(at) = left.iter().zip(right).position(|(l, r)| l != r) {
        panic!(
            "{what}: byte {at:#x} is {:#x}, not {:#x}",
            left[at], right[at]
        );
    }
}

#[test]
fn any_failing_operation_leaves_the_image_whole_and_can_be_repeated() {
    for variant in [Variant::Dynamic, Variant::Fixed, Variant::Differencing] {
        full_disks(variant, &Probe::default());
        let leaky = Probe::default();
        leaky.leak();
        full_disks(variant, &leaky);
    }
}

fn full_disks(variant: Variant, probe: &Probe) {
    let bench = Bench::new(variant);
    let mut model = bench.contents(&bench.disk());
    let mut disk = bench.open_probed(probe);
    let mut random = Random(7);
    let mut failures = 0;
    for step in workload(&mut random, 150) {
        // The step fails at its first operation, then at its second, until it succeeds.
        for operations in 0.. {
            probe.fail_after(Some(operations));
            let done = step.on_disk(&mut disk);
            probe.fail_after(None);
            match done {
                Ok(()) => break,
                Err(Error::DiskFull { .. }) => failures += 1,
                // The header write of a layout switch failed: only opening it again helps.
                Err(Error::Unsupported { .. }) => {
                    drop(disk);
                    disk = bench.open_probed(probe);
                }
                Err(e) => panic!("{step:?}: {e}"),
            }
            if let Step::Write(at, len, byte) = step
                && random.below(3) == 0
            {
                // The guest gives up: each of the sectors may be written or not.
                let mut range = vec![0; len as usize];
                disk.read_at(at, &mut range).unwrap();
                let old = &mut model[at as usize..][..len as usize];
                for (new, old) in range.chunks(512).zip(old.chunks(512)) {
                    assert!(new == old || new.iter().all(|b| *b == byte), "{step:?}");
                }
                old.copy_from_slice(&range);
                // Something else gets the room that it would have had.
                let other = Step::Write(random.below(SIZE / 512) * 512, 512, 0xD0);
                other.on_disk(&mut disk).unwrap();
                other.on_model(&mut model);
                drop(disk);
                disk = bench.open_probed(probe);
            }
        }
        step.on_model(&mut model);
        let mut now = vec![0; disk.size() as usize];
        disk.read_at(0, &mut now).unwrap();
        assert_same(&now, &model, &format!("{variant:?} {step:?}"));
        assert_clean(&disk);
    }
    assert!(failures > 100, "only {failures} failures");
    disk.flush().unwrap();
    drop(disk);
    assert_same(&bench.contents(&bench.disk()), &model, "after reopening");
}

/// Writes a file as a power cut may leave it: everything up to the last flush, and of what came
/// after it any sectors in any order.
fn cut(before: &[u8], log: &[Change], random: &mut Random) -> Vec<u8> {
    let flushed = log
        .iter()
        .rposition(|change| *change == Change::Sync)
        .map_or(0, |at| at + 1);
    let mut file = before.to_vec();
    for change in &log[..flushed] {
        apply(&mut file, change, |_| true);
    }
    for change in &log[flushed..] {
        // All, nothing or a part of it.
        let mode = random.below(3);
        if mode == 0 && !matches!(change, Change::Write(..)) {
            continue;
        }
        apply(&mut file, change, |_| match mode {
            0 => false,
            1 => true,
            _ => random.below(2) == 0,
        });
    }
    file
}

fn apply(file: &mut Vec<u8>, change: &Change, mut keep: impl FnMut(u64) -> bool) {
    match change {
        Change::Sync => {}
        Change::SetLen(len) => file.resize(*len as usize, 0),
        Change::Zero(at, len) => {
            let end = ((at + len) as usize).min(file.len());
            let at = (*at as usize).min(end);
            file[at..end].fill(0);
        }
        Change::Write(at, data) => {
            let mut done = 0;
            while done < data.len() {
                let sector = (*at + done as u64) / 512;
                let n = (((sector + 1) * 512 - at) as usize).min(data.len());
                if keep(sector) {
                    let from = *at as usize + done;
                    let to = *at as usize + n;
                    if file.len() < to {
                        file.resize(to, 0);
                    }
                    file[from..to].copy_from_slice(&data[done..n]);
                }
                done = n;
            }
        }
    }
}

#[test]
fn a_power_cut_anywhere_keeps_what_was_flushed() {
    for variant in [Variant::Dynamic, Variant::Fixed, Variant::Differencing] {
        for seed in 0..5 {
            power_cuts(variant, seed);
        }
    }
}

fn power_cuts(variant: Variant, seed: u64) {
    let bench = Bench::new(variant);
    let before = std::fs::read(bench.disk()).unwrap();
    let probe = Probe::default();
    let mut model = bench.contents(&bench.disk());
    let mut disk = bench.open_probed(&probe);
    let mut random = Random(1000 + seed);
    // For each log position: the contents that were flushed, and the steps since then.
    let mut flushed = model.clone();
    let mut since: Vec<Step> = Vec::new();
    let victim = bench.path("cut.vdi");
    for step in workload(&mut random, 120) {
        let start = probe.log().len();
        step.on_disk(&mut disk).unwrap();
        since.push(step.clone());
        let log = probe.log();
        // The rare steps change the most.
        let cuts = match step {
            Step::Grow(_) | Step::Compact => 3 * (log.len() - start),
            _ => 1,
        };
        for _ in 0..cuts {
            let at = start + random.below((log.len() - start) as u64 + 1) as usize;
            std::fs::write(&victim, cut(&before, &log[..at], &mut random)).unwrap();
            let now = bench.contents(&victim);
            check_cut(&now, &flushed, &since);
            write_after_cut(&bench, &victim, now);
        }
        step.on_model(&mut model);
        if matches!(step, Step::Flush) {
            flushed = model.clone();
            since.clear();
        }
    }
}

/// The next writer can work with what a cut left.
fn write_after_cut(bench: &Bench, victim: &Path, mut expected: Vec<u8>) {
    let mut disk = bench.open(victim, OpenMode::ReadWrite);
    for at in [3 * BLOCK, SIZE - 512] {
        disk.write_at(at, &[0xEE; 512]).unwrap();
        expected[at as usize..][..512].fill(0xEE);
    }
    assert_clean(&disk);
    drop(disk);
    assert_same(&bench.contents(victim), &expected, "written after the cut");
}

/// Each sector must be what was flushed, or what a step since then made of it.
fn check_cut(now: &[u8], flushed: &[u8], since: &[Step]) {
    for (sector, data) in now.chunks(512).enumerate() {
        let at = sector as u64 * 512;
        let old = flushed
            .get(at as usize..at as usize + 512)
            .unwrap_or(&[0; 512]);
        let fits = data == old
            || since.iter().any(|step| match *step {
                Step::Write(from, len, byte) => {
                    (from..from + len).contains(&at) && data.iter().all(|b| *b == byte)
                }
                Step::Discard(from, len) => {
                    (from..from + len).contains(&at) && data.iter().all(|b| *b == 0)
                }
                _ => false,
            });
        assert!(
            fits,
            "sector {sector:#x} holds {:#x}, since: {since:?}",
            data[0]
        );
    }
}
