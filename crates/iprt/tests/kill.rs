//! A writer that is killed at any moment leaves a whole file, old or new, and no lock.

use std::path::Path;
use std::process::{Command, Stdio};

const WRITER: &str = "IPRT_TEST_WRITER_FILE";

/// Files of growing numbers, each of one repeated line.
fn content(n: u32) -> String {
    format!("{n}\n").repeat(2000)
}

/// The number in a file, if the file is whole.
fn whole(path: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(path).ok()?;
    let n = text.lines().next()?.parse().ok()?;
    (text == content(n)).then_some(n)
}

/// Not a test of its own: what the killed process runs.
#[test]
fn writer() {
    let Some(path) = std::env::var_os(WRITER) else {
        return;
    };
    let start = whole(Path::new(&path)).unwrap_or(0);
    for n in start + 1.. {
        iprt::file::replace(Path::new(&path), content(n).as_bytes(), true).unwrap();
    }
}

#[test]
fn killed_writers_leave_whole_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("X");
    iprt::file::replace(&path, content(0).as_bytes(), false).unwrap();
    let mut last = 0;
    for round in 0..25u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer"])
            .env(WRITER, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Killed somewhere in the first few writes; what it was doing differs every time.
        loop {
            let now = whole(&path).expect("a reader sees whole files at every moment");
            if now > last + round % 5 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let now = whole(&path).expect("the file is whole after the kill");
        assert!(now > last);
        last = now;
        let prev = whole(&iprt::file::with_suffix(&path, "-prev")).expect("so is the previous one");
        assert!(prev == now || prev + 1 == now, "{prev} {now}");
    }
    // The lock went with its holder, and what is left over is taken over.
    iprt::file::replace(&path, content(0).as_bytes(), false).unwrap();
    assert!(!iprt::file::with_suffix(&path, "-tmp").exists());
}
