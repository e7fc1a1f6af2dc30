//! What a test finds around it: the programs under test, guest images, a usable `/dev/kvm`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Runs a test that drives whole machines. `needs` gathers what it needs; when that fails the
/// test is skipped with the reason, or fails when `OXBOX_E2E=require` is set (as `./test` does).
///
/// # Panics
/// When the body fails: this is the one place where a test's error becomes a panic.
pub fn need<T>(test: &str, needs: impl FnOnce() -> Result<T>, body: impl FnOnce(T) -> Result<()>) {
    match needs() {
        Ok(found) => {
            if let Err(error) = body(found) {
                panic!("{test}: {error:?}");
            }
        }
        Err(error) if std::env::var("OXBOX_E2E").is_ok_and(|value| value == "require") => {
            panic!("{test}: surroundings missing: {error:#}");
        }
        Err(error) => skip(test, &format!("{error:#}")),
    }
}

/// Says that a test did not run. Written past the test harness' capture, so that it is always seen
/// and `./test` can count it.
pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {}\n", reason.replace('\n', " "));
    // Nothing is lost but the remark when standard error is closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// True when the long variants of tests are asked for (`OXBOX_LONG=1`).
pub fn is_long() -> bool {
    std::env::var("OXBOX_LONG").is_ok_and(|value| value == "1")
}

/// The folder with the programs: `OXBOX_BIN`, or where cargo put this test's own program.
///
/// # Errors
/// When one of the programs is not there.
pub(crate) fn programs() -> Result<PathBuf> {
    let folder = match std::env::var_os("OXBOX_BIN") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe().context("path of this program")?;
            own.parent()
                .and_then(Path::parent)
                .context("folder of this program")?
                .to_owned()
        }
    };
    for name in ["VBoxManage", "VBoxSVC", "VBoxHeadless"] {
        ensure!(
            folder.join(name).is_file(),
            "no {name} in {} (build it, or set OXBOX_BIN)",
            folder.display()
        );
    }
    Ok(folder)
}

/// Has a script of `guests/` make its artefact and returns the path of that.
///
/// # Errors
/// When the script fails; its last line says why.
pub fn guest(script: &str, arguments: &[&str]) -> Result<PathBuf> {
    Ok(PathBuf::from(guest_text(script, arguments)?))
}

/// Runs a script of `guests/` and returns what it prints.
///
/// # Errors
/// As [`guest`].
pub fn guest_text(script: &str, arguments: &[&str]) -> Result<String> {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests");
    let made = Command::new(guests.join(script))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start guests/{script}"))?;
    if !made.status.success() {
        let log = String::from_utf8_lossy(&made.stderr);
        bail!(
            "guests/{script} {} failed: {}",
            arguments.join(" "),
            log.lines().last().unwrap_or_default()
        );
    }
    Ok(String::from_utf8_lossy(&made.stdout).trim().to_owned())
}

/// Succeeds where `/dev/kvm` can be opened.
///
/// # Errors
/// Why it cannot.
pub fn kvm() -> Result<()> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .context("open /dev/kvm")?;
    Ok(())
}
