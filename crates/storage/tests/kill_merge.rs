//! A process that merges images of a chain is killed at random moments: the disk reads the same
//! afterwards, and a second try finishes the job.
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
use std::time::Instant;

use kit::MIB;
use kit::Random;
use kit::assert_same;
use kit::contents;
use kit::create;
use kit::create_child;
use kit::qemu_img_ok;
use storage::Container;
use storage::CreateParams;
use storage::OpenMode;
use storage::Progress;
use storage::Variant;

const SIZE: u64 = 40 * MIB;

/// The killed process is this test binary again: images to merge, base first.
const CHAIN: &str = "OXBOX_MERGE_CHAIN";

#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// The middle one of three images into the one on top.
    Up,
    /// The upper one of two images into the base.
    Down,
}

fn merge(chain: &[&Path]) -> storage::Result<()> {
    match *chain {
        [base, child] => storage::merge_into_base(base, child, &mut Progress::none()),
        _ => storage::merge_into_child(chain, &mut Progress::none()),
    }
}

/// Runs in a process of its own, and only there.
#[test]
fn merging_process() {
    let Ok(chain) = std::env::var(CHAIN) else {
        return;
    };
    let chain: Vec<&Path> = chain.split(':').map(Path::new).collect();
    println!("\nSTARTED");
    std::io::stdout().flush().unwrap();
    merge(&chain).unwrap();
    println!("\nMERGED");
}

/// Starts the process and kills it `after` it has begun; whether it had finished by then.
fn run_and_kill(chain: &[&Path], after: Duration) -> bool {
    let chain: Vec<_> = chain.iter().map(|path| path.to_str().unwrap()).collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["merging_process", "--exact", "--nocapture"])
        .env(CHAIN, chain.join(":"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(
        lines.any(|line| line == "STARTED"),
        "it did not get to its work"
    );
    thread::sleep(after);
    child.kill().unwrap();
    let finished = lines.any(|line| line == "MERGED");
    child.wait().unwrap();
    finished
}

/// Writes runs of data and some discards, so that blocks of all kinds lie above each other.
fn scribble(disk: &mut Container, random: &mut Random) {
    let mut data = vec![0; 2 * MIB as usize];
    for _ in 0..30 {
        let at = random.below(SIZE / 512) * 512;
        let len = ((1 + random.below(3000)) * 512).min(SIZE - at);
        if random.below(5) == 0 {
            disk.discard(at, len).unwrap();
        } else {
            let data = &mut data[..len as usize];
            random.fill(data);
            disk.write_at(at, data).unwrap();
        }
    }
    disk.flush().unwrap();
}

/// Three images; what they show, and what a merge of them takes.
struct Original {
    files: Vec<PathBuf>,
    disk: Vec<u8>,
    time: Duration,
}

fn original(folder: &Path, way: Way, random: &mut Random) -> Original {
    let count = if way == Way::Up { 3 } else { 2 };
    let files: Vec<PathBuf> = ["base.vdi", "middle.vdi", "top.vdi"][..count]
        .iter()
        .map(|name| folder.join(name))
        .collect();
    for file in &files {
        let _ = std::fs::remove_file(file);
    }
    let params = CreateParams::new(SIZE, Variant::Dynamic);
    let mut disk = create(&files[0], "VDI", &params);
    scribble(&mut disk, random);
    drop(disk);
    for n in 1..count {
        let below: Vec<&Path> = files[..n].iter().map(PathBuf::as_path).collect();
        scribble(&mut create_child(&below, &files[n], SIZE), random);
    }
    let refs: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let disk = contents(&Container::open_chain(&refs, OpenMode::ReadOnly).unwrap());
    let copies = copied(&files, &folder.join("timed"));
    let refs: Vec<&Path> = copies.iter().map(PathBuf::as_path).collect();
    let started = Instant::now();
    merge(&refs).unwrap();
    Original {
        files,
        disk,
        time: started.elapsed(),
    }
}

fn copied(files: &[PathBuf], folder: &Path) -> Vec<PathBuf> {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir(folder).unwrap();
    let copy = |file: &PathBuf| {
        let to = folder.join(file.file_name().unwrap());
        std::fs::copy(file, &to).unwrap();
        to
    };
    files.iter().map(copy).collect()
}

fn rounds() -> u64 {
    match std::env::var("OXBOX_KILL_ROUNDS") {
        Ok(text) => text
            .parse()
            .expect("OXBOX_KILL_ROUNDS must be a number of rounds"),
        Err(_) => 20,
    }
}

/// How often a merge was killed in its midst.
fn merges_are_killed(way: Way, seed: u64) -> u64 {
    let folder = kit::fast_folder();
    let mut random = Random(seed);
    let mut interrupted = 0;
    let mut made = original(folder.path(), way, &mut random);
    for round in 0..rounds() {
        if round % 25 == 24 {
            made = original(folder.path(), way, &mut random);
        }
        let files = copied(&made.files, &folder.path().join("round"));
        let chain: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let after = made.time.as_micros() as u64 * random.below(120) / 100;
        let finished = run_and_kill(&chain, Duration::from_micros(after));
        interrupted += u64::from(!finished);
        let what = format!("round {round}, killed after {after} us");

        // The topmost image says by itself whether the one in the middle has been left out.
        let short = [chain[0], chain[chain.len() - 1]];
        let done = way == Way::Up && Container::open_chain(&short, OpenMode::ReadOnly).is_ok();
        let now: &[&Path] = if done { &short } else { &chain };
        assert!(!finished || done || way == Way::Down, "{what}: not merged");
        let disk = Container::open_chain(now, OpenMode::ReadOnly)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_same(&contents(&disk), &made.disk, &what);
        for image in disk.images() {
            let report = image.check().unwrap();
            assert!(report.errors.is_empty(), "{what}: {report:?}");
        }
        drop(disk);

        if !done {
            merge(&chain).unwrap_or_else(|e| panic!("{what}: the second try: {e}"));
        }
        let merged: &[&Path] = if way == Way::Up { &short } else { &chain[..1] };
        let disk = Container::open_chain(merged, OpenMode::ReadOnly)
            .unwrap_or_else(|e| panic!("{what}, merged: {e}"));
        assert_same(&contents(&disk), &made.disk, &format!("{what}, merged"));
        drop(disk);
        qemu_img_ok(&[&"check", &"-f", &"vdi", &merged[0]]);
    }
    interrupted
}

#[test]
fn a_merge_into_the_child_survives_sigkill() {
    let interrupted = merges_are_killed(Way::Up, 0xC41D);
    assert!(
        interrupted > 0,
        "all merges were done before they were killed"
    );
}

#[test]
fn a_merge_into_the_base_survives_sigkill() {
    let interrupted = merges_are_killed(Way::Down, 0xBA5E);
    assert!(
        interrupted > 0,
        "all merges were done before they were killed"
    );
}
