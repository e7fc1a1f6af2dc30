//! File locks between processes (`flock`): they end with the process, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::Error;

/// A lock on a file, held until dropped. The file stays behind; an empty lock file means nothing.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    path: PathBuf,
}

impl FileLock {
    /// Locks `path` for this holder alone, creating an empty file (mode 0600) where there is none.
    ///
    /// Never waits. Fails with [`Error::Locked`] when anybody else holds it, also another
    /// [`FileLock`] of this process.
    pub fn exclusive(path: &Path) -> Result<Self, Error> {
        let file = open_private(path)?;
        try_lock(&file, path, true)?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Locks an existing file against exclusive holders; any number may share it. Never waits.
    pub fn shared(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        try_lock(&file, path, false)?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// The locked file, open for reading and, when exclusive, writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The path it was locked by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to the locked file (nobody renamed or removed it).
    pub fn is_current(&self) -> bool {
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }
}

impl Drop for FileLock {
    /// Closing alone is not enough: a child process that another thread is starting right now has
    /// inherited the open file, and with it the lock, until it runs its program.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

fn open_private(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io("open", path, e))
}

fn try_lock(file: &File, path: &Path, exclusive: bool) -> Result<(), Error> {
    let got = if exclusive {
        file.try_lock()
    } else {
        file.try_lock_shared()
    };
    match got {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let holder = holder(file).map(|h| format!(" by {h}")).unwrap_or_default();
            Err(Error::Locked {
                path: path.to_owned(),
                holder,
            })
        }
        Err(TryLockError::Error(e)) => Err(Error::io("lock", path, e)),
    }
}

/// Who holds a lock on this file, from `/proc/locks`: `process 123 (VBoxSVC)`.
///
/// A hint for people only: the holder may be gone by the time it is read, and a holder in another
/// PID namespace has no number here.
fn holder(file: &File) -> Option<String> {
    let wanted = file.metadata().ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| lock_owner(line, wanted))?;
    if pid == std::process::id() {
        return Some("this process".to_owned());
    }
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    Some(match name {
        Some(name) => format!("process {pid} ({})", name.trim_end()),
        None => format!("process {pid}"),
    })
}

/// The owner in a line like `1: FLOCK  ADVISORY  WRITE 123 08:01:4711 0 EOF` if it is about inode
/// `wanted`. The device is not compared: stacked file systems show another one there than in stat.
fn lock_owner(line: &str, wanted: u64) -> Option<u32> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    // A waiter's line has `->` after the number; it does not hold anything.
    let [_, "FLOCK", _, _, pid, place, ..] = fields[..] else {
        return None;
    };
    let inode: u64 = place.rsplit(':').next()?.parse().ok()?;
    let pid: u32 = pid.parse().ok()?;
    (inode == wanted && pid != 0).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_exclusive_or_many_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let held = FileLock::exclusive(&path).unwrap();
        let err = FileLock::exclusive(&path).unwrap_err();
        assert!(matches!(err, Error::Locked { .. }), "{err}");
        assert!(err.to_string().contains("is already locked"), "{err}");
        assert!(FileLock::shared(&path).is_err());
        drop(held);
        let a = FileLock::shared(&path).unwrap();
        let b = FileLock::shared(&path).unwrap();
        assert!(FileLock::exclusive(&path).is_err());
        drop((a, b));
        FileLock::exclusive(&path).unwrap();
    }

    #[test]
    fn notices_when_its_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let held = FileLock::exclusive(&path).unwrap();
        assert!(held.is_current());
        std::fs::rename(&path, dir.path().join("y")).unwrap();
        assert!(!held.is_current());
    }

    #[test]
    fn reads_lines_of_the_lock_table() {
        let line = "1: FLOCK  ADVISORY  WRITE 123 08:01:4711 0 EOF";
        assert_eq!(lock_owner(line, 4711), Some(123));
        assert_eq!(lock_owner(line, 4712), None);
        assert_eq!(
            lock_owner("1: -> FLOCK ADVISORY WRITE 9 08:01:4711 0 EOF", 4711),
            None
        );
        assert_eq!(lock_owner("nonsense", 1), None);
    }
}
