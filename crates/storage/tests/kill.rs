//! A process that writes to a disk is killed at random moments. Whatever it was told to be flushed
//! is there afterwards, everything else is either old or new, and qemu-img finds no fault.
//!
//! The number of rounds is 20, or what `OXBOX_KILL_ROUNDS` says.

mod kit;

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use kit::MIB;
use kit::Random;
use kit::contents;
use kit::create;
use kit::create_child;
use kit::qemu_img;
use kit::qemu_img_ok;
use storage::Container;
use storage::CreateParams;
use storage::Error;
use storage::OpenMode;
use storage::Progress;
use storage::Variant;

const SIZE: u64 = 48 * MIB;
const SECTORS: u64 = SIZE / 512;

/// The killed process is this test binary again, told by these variables what to do.
const CHAIN: &str = "OXBOX_KILL_CHAIN";
const SEED: &str = "OXBOX_KILL_SEED";

#[derive(Clone, Copy)]
enum Step {
    /// First sector and number of sectors.
    Write(u64, u64),
    Discard(u64, u64),
    Flush,
    Compact,
}

/// The same steps for the same seed, without end.
fn steps(seed: u64) -> impl Iterator<Item = (u64, Step)> {
    let mut random = Random(seed);
    (1..).map(move |number| {
        let at = random.below(SECTORS);
        let len = (1 + random.below(3000)).min(SECTORS - at);
        let step = match random.below(24) {
            0..=14 => Step::Write(at, len),
            15..=17 => Step::Discard(at, len),
            18..=22 => Step::Flush,
            _ => Step::Compact,
        };
        (number, step)
    })
}

/// What step `number` of `seed` writes to a sector: recognisable, and different everywhere.
fn pattern(seed: u64, number: u64, sector: u64) -> [u8; 512] {
    let mut data = [0; 512];
    Random(seed ^ (number << 32) ^ sector).fill(&mut data);
    data[..8].copy_from_slice(&sector.to_le_bytes());
    data
}

/// Runs in a process of its own, and only there: writes until it is killed.
#[test]
fn writer_process() {
    let (Ok(chain), Ok(seed)) = (std::env::var(CHAIN), std::env::var(SEED)) else {
        return;
    };
    let seed = seed.parse().unwrap();
    let chain: Vec<&Path> = chain.split(':').map(Path::new).collect();
    let mut disk = Container::open_chain(&chain, OpenMode::ReadWrite).unwrap();
    let mut pipe = std::io::stdout();
    for (number, step) in steps(seed) {
        match step {
            Step::Write(at, len) => {
                let data: Vec<u8> = (at..at + len)
                    .flat_map(|sector| pattern(seed, number, sector))
                    .collect();
                disk.write_at(at * 512, &data).unwrap();
            }
            Step::Discard(at, len) => disk.discard(at * 512, len * 512).unwrap(),
            Step::Compact => match disk.top_image().compact(&mut Progress::none()) {
                Err(Error::Unsupported { .. }) => {}
                done => done.unwrap(),
            },
            Step::Flush => {
                disk.flush().unwrap();
                writeln!(pipe, "\nFLUSHED {number}").unwrap();
                pipe.flush().unwrap();
            }
        }
    }
}

/// Starts the writer, kills it somewhere in its work, and returns its last acknowledged flush.
fn run_and_kill(chain: &[PathBuf], seed: u64, random: &mut Random) -> u64 {
    let chain: Vec<_> = chain.iter().map(|path| path.to_str().unwrap()).collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["writer_process", "--exact", "--nocapture"])
        .env(CHAIN, chain.join(":"))
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut flushed = 0;
    let mut wanted = random.below(8);
    let mut note = |line: std::io::Result<String>| {
        if let Some(number) = line.unwrap().strip_prefix("FLUSHED ") {
            flushed = number.parse().unwrap();
            true
        } else {
            false
        }
    };
    while wanted > 0 {
        let line = lines.next().expect("the writer died by itself");
        wanted -= u64::from(note(line));
    }
    thread::sleep(Duration::from_micros(random.below(30_000)));
    child.kill().unwrap();
    // What it acknowledged before it died counts as well.
    for line in lines {
        note(line);
    }
    child.wait().unwrap();
    flushed
}

/// Compares the disk with what it held before the round and the steps of the round.
fn check_contents(before: &[u8], now: &[u8], seed: u64, flushed: u64, what: &str) {
    let sectors = SECTORS as usize;
    // Steps that may have reached a sector, oldest first; `None` stands for the old contents.
    let mut allowed: Vec<Vec<Option<(u64, bool)>>> = vec![vec![None]; sectors];
    let mut flushes_after = 0;
    for (number, step) in steps(seed) {
        let (at, len, discard) = match step {
            Step::Write(at, len) => (at, len, false),
            Step::Discard(at, len) => (at, len, true),
            Step::Compact => continue,
            Step::Flush => {
                flushes_after += u64::from(number > flushed);
                // The one after the last acknowledged may have happened, the next may not.
                if flushes_after == 2 {
                    break;
                }
                continue;
            }
        };
        for choices in &mut allowed[at as usize..(at + len) as usize] {
            if number < flushed {
                choices.clear();
            }
            choices.push(Some((number, discard)));
        }
    }
    for (sector, choices) in allowed.iter().enumerate() {
        let range = sector * 512..(sector + 1) * 512;
        let data = &now[range.clone()];
        let fits = choices.iter().any(|choice| match choice {
            None => data == &before[range.clone()],
            Some((_, true)) => data == [0; 512],
            Some((number, false)) => data == pattern(seed, *number, sector as u64),
        });
        assert!(
            fits,
            "{what}: sector {sector:#x} starts {:?}; flushed {flushed}, allowed {choices:?}",
            &data[..16]
        );
    }
}

fn rounds() -> u64 {
    match std::env::var("OXBOX_KILL_ROUNDS") {
        Ok(text) => text
            .parse()
            .expect("OXBOX_KILL_ROUNDS must be a number of rounds"),
        Err(_) => 20,
    }
}

#[test]
fn acknowledged_flushes_survive_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut chains = Vec::new();
    for (name, variant) in [
        ("dynamic.vdi", Variant::Dynamic),
        ("fixed.vdi", Variant::Fixed),
    ] {
        drop(create(
            &path(name),
            "VDI",
            &CreateParams::new(SIZE, variant),
        ));
        chains.push(vec![path(name)]);
    }
    let mut base = create(
        &path("base.vdi"),
        "VDI",
        &CreateParams::new(SIZE, Variant::Dynamic),
    );
    for block in 0..24 {
        let data: Vec<u8> = (0..MIB).map(|i| (i / 512 % 251) as u8 | 1).collect();
        base.write_at(block * 2 * MIB, &data).unwrap();
    }
    base.flush().unwrap();
    drop(base);
    drop(create_child(&[&path("base.vdi")], &path("child.vdi"), SIZE));
    chains.push(vec![path("base.vdi"), path("child.vdi")]);

    let mut random = Random(0xD1ED);
    for round in 0..rounds() {
        let chain = &chains[(round % 3) as usize];
        let refs: Vec<&Path> = chain.iter().map(PathBuf::as_path).collect();
        let top = refs[refs.len() - 1];
        let what = format!("round {round}, {}", top.display());
        let open =
            |mode| Container::open_chain(&refs, mode).unwrap_or_else(|e| panic!("{what}: {e}"));
        let before = contents(&open(OpenMode::ReadOnly));
        let seed = 1000 + round;
        let flushed = run_and_kill(chain, seed, &mut random);

        let disk = open(OpenMode::ReadOnly);
        let report = disk.images()[refs.len() - 1].check().unwrap();
        assert!(report.errors.is_empty(), "{what}: {report:?}");
        let now = contents(&disk);
        drop(disk);
        check_contents(&before, &now, seed, flushed, &what);

        // The next writer tidies up, and a compaction that was interrupted is done again; then there
        // is nothing left to complain about.
        let mut disk = open(OpenMode::ReadWrite);
        disk.write_at(0, &now[..512]).unwrap();
        disk.flush().unwrap();
        let report = disk.top_image().check().unwrap();
        if report.notes.iter().any(|note| note.contains("unused")) {
            disk.top_image().compact(&mut Progress::none()).unwrap();
        }
        drop(disk);
        let disk = open(OpenMode::ReadOnly);
        let report = disk.images()[refs.len() - 1].check().unwrap();
        assert!(
            report.errors.is_empty() && report.notes.is_empty(),
            "{what}: {report:?}"
        );
        assert_eq!(contents(&disk), now, "{what}");
        drop(disk);
        if refs.len() == 1 {
            qemu_img_ok(&[&"check", &"-f", &"vdi", &top]);
            let raw = path("compare.raw");
            std::fs::write(&raw, &now).unwrap();
            qemu_img_ok(&[&"compare", &"-f", &"vdi", &"-F", &"raw", &top, &raw]);
        }
    }
}

/// A kill may leave space that is used in vain, and no more.
#[test]
fn tables_of_other_formats_survive_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut chains = Vec::new();
    for (format, qemu) in [
        ("qcow", "qcow2"),
        ("qed", "qed"),
        ("parallels", "parallels"),
    ] {
        let base = path(&format!("base.{format}"));
        let params = CreateParams::new(SIZE, Variant::Dynamic);
        let mut disk = create(&base, format, &params);
        if format == "parallels" {
            drop(disk);
            chains.push((qemu, vec![base]));
            continue;
        }
        for block in 0..24 {
            let data: Vec<u8> = (0..MIB).map(|i| (i / 512 % 251) as u8 | 1).collect();
            disk.write_at(block * 2 * MIB, &data).unwrap();
        }
        disk.flush().unwrap();
        drop(disk);
        let child = path(&format!("child.{format}"));
        drop(create_child(&[&base], &child, SIZE));
        let alone = path(&format!("alone.{format}"));
        drop(create(&alone, format, &params));
        chains.push((qemu, vec![base, child]));
        chains.push((qemu, vec![alone]));
    }
    let mut random = Random(0x0D1E);
    for round in 0..rounds() {
        let (qemu, chain) = &chains[round as usize % chains.len()];
        let refs: Vec<&Path> = chain.iter().map(PathBuf::as_path).collect();
        let top = refs[refs.len() - 1];
        let what = format!("round {round}, {}", top.display());
        let open =
            |mode| Container::open_chain(&refs, mode).unwrap_or_else(|e| panic!("{what}: {e}"));
        let before = contents(&open(OpenMode::ReadOnly));
        let seed = 2000 + round;
        let flushed = run_and_kill(chain, seed, &mut random);
        let disk = open(OpenMode::ReadOnly);
        let report = disk.images()[refs.len() - 1].check().unwrap();
        assert!(report.errors.is_empty(), "{what}: {report:?}");
        let now = contents(&disk);
        drop(disk);
        check_contents(&before, &now, seed, flushed, &what);
        // QEMU finds nothing that a repair of what is used in vain does not put right.
        let (_, repair) = qemu_img(&[&"check", &"-f", qemu, &"-r", &"leaks", &top]);
        let (clean, text) = qemu_img(&[&"check", &"-f", qemu, &top]);
        // It cannot repair a QED.
        let only_leaks = text.contains("leaked clusters") && !text.contains("errors were found");
        let harmless = clean || *qemu == "qed" && only_leaks;
        assert!(harmless, "{what}: {repair}{text}");
        let raw = path("compare.raw");
        std::fs::write(&raw, &now).unwrap();
        qemu_img_ok(&[&"compare", &"-f", qemu, &"-F", &"raw", &top, &raw]);
        assert_eq!(contents(&open(OpenMode::ReadOnly)), now, "{what}");
    }
}
