//! Replacing a file whole: after a crash at any point the old or the new content is there.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::lock::FileLock;

/// `X-tmp`, the name a file has while it is being written.
const TMP_SUFFIX: &str = "-tmp";
/// `X-prev`, the name VirtualBox keeps the content before the last save under.
const PREV_SUFFIX: &str = "-prev";

/// `path` with `suffix` appended to its last component: `a/X.vbox` -> `a/X.vbox-prev`.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Writes `data` to `path` so that it is there whole or not at all, on disk when this returns.
///
/// With `keep_prev`, what was there before stays as `X-prev`. See [`Replacement`] for the rest.
pub fn replace(path: &Path, data: &[u8], keep_prev: bool) -> Result<(), Error> {
    Replacement::begin(path)?.commit(data, keep_prev)
}

/// The exclusive right to replace one file, held from [`begin`](Self::begin) to the commit or drop.
///
/// The lock is on `X-tmp`, which becomes `X` by the rename: no lock file stays behind, and a
/// `X-tmp` left by a crash is taken over by the next writer. Between `begin` and `commit` the
/// holder can read the present file and be sure that no other `Replacement` changes it.
#[derive(Debug)]
pub struct Replacement {
    target: PathBuf,
    tmp: FileLock,
    committed: bool,
}

impl Replacement {
    /// Claims `path`. Fails with [`Error::Locked`] when somebody else is replacing it right now.
    ///
    /// A symbolic link is followed: its target is what gets replaced.
    pub fn begin(path: &Path) -> Result<Self, Error> {
        let target = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(e) if e.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(e) => return Err(Error::io("find", path, e)),
        };
        let tmp_path = with_suffix(&target, TMP_SUFFIX);
        // A predecessor may rename its X-tmp away between our open and our lock: then the lock is
        // on a file that is X by now, and the next round creates a new one.
        for _ in 0..64 {
            let tmp = FileLock::exclusive(&tmp_path).map_err(|e| match e {
                Error::Locked { holder, .. } => Error::Locked {
                    path: target.clone(),
                    holder,
                },
                other => other,
            })?;
            if tmp.is_current() {
                return Ok(Self {
                    target,
                    tmp,
                    committed: false,
                });
            }
        }
        Err(Error::Locked {
            path: target,
            holder: " by a stream of other writers".to_owned(),
        })
    }

    /// The file that will be replaced.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Writes, syncs and renames. The permissions of the old file are kept; a new one gets 0600.
    ///
    /// On an error the old file is untouched.
    pub fn commit(mut self, data: &[u8], keep_prev: bool) -> Result<(), Error> {
        let tmp_path = self.tmp.path();
        let file = self.tmp.file();
        file.set_len(0)
            .map_err(|e| Error::io("truncate", tmp_path, e))?;
        let mut out = file;
        out.write_all(data)
            .map_err(|e| Error::io("write", tmp_path, e))?;
        if let Ok(old) = fs::metadata(&self.target) {
            let mode = fs::Permissions::from_mode(old.permissions().mode() & 0o7777);
            // A file system without permissions (FAT, shared folders) refuses; nothing is lost.
            let _ = file.set_permissions(mode);
        }
        file.sync_all()
            .map_err(|e| Error::io("sync", tmp_path, e))?;
        if keep_prev {
            keep_previous(&self.target)?;
        }
        fs::rename(tmp_path, &self.target).map_err(|e| Error::io("replace", &self.target, e))?;
        self.committed = true;
        sync_parent(&self.target)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.committed {
            // Still locked, so it is ours; what cannot be removed is taken over next time.
            let _ = fs::remove_file(self.tmp.path());
        }
    }
}

/// Makes `X-prev` the present content of `X`, without a moment in which `X` is missing.
fn keep_previous(path: &Path) -> Result<(), Error> {
    let prev = with_suffix(path, PREV_SUFFIX);
    let step = with_suffix(path, "-prev-tmp");
    let _ = fs::remove_file(&step);
    match fs::hard_link(path, &step) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        // No hard links here (FAT, shared folders): a copy does as well.
        Err(_) => copy_synced(path, &step)?,
    }
    fs::rename(&step, &prev).map_err(|e| Error::io("replace", &prev, e))
}

/// Copies a file and syncs the copy. An existing `to` is overwritten.
pub fn copy_synced(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to).map_err(|e| Error::io("copy to", to, e))?;
    let copy = File::open(to).map_err(|e| Error::io("open", to, e))?;
    copy.sync_all().map_err(|e| Error::io("sync", to, e))
}

/// Makes a rename, creation or removal in the folder of `path` durable.
pub fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let dir = File::open(parent).map_err(|e| Error::io("open", parent, e))?;
    match dir.sync_all() {
        Ok(()) => Ok(()),
        // Some network and FUSE file systems do not sync folders; there is nothing more to do.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        Err(e) => Err(Error::io("sync", parent, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn replaces_and_keeps_the_previous() {
        let dir = tempfile::tempdir().unwrap();
        let x = dir.path().join("X.vbox");
        replace(&x, b"1", true).unwrap();
        assert_eq!(names(dir.path()), ["X.vbox"]);
        assert_eq!(
            fs::metadata(&x).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&x, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&x, b"22", true).unwrap();
        replace(&x, b"333", true).unwrap();
        assert_eq!(names(dir.path()), ["X.vbox", "X.vbox-prev"]);
        assert_eq!(fs::read(&x).unwrap(), b"333");
        assert_eq!(fs::read(with_suffix(&x, "-prev")).unwrap(), b"22");
        assert_eq!(
            fs::metadata(&x).unwrap().permissions().mode() & 0o777,
            0o640
        );
    }

    #[test]
    fn takes_over_a_leftover_and_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        let x = dir.path().join("X");
        fs::write(
            with_suffix(&x, "-tmp"),
            b"half written, longer than the new one",
        )
        .unwrap();
        replace(&x, b"new", false).unwrap();
        assert_eq!(fs::read(&x).unwrap(), b"new");
        drop(Replacement::begin(&x).unwrap());
        assert_eq!(names(dir.path()), ["X"]);
    }

    #[test]
    fn second_writer_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let x = dir.path().join("X");
        let first = Replacement::begin(&x).unwrap();
        let err = Replacement::begin(&x).unwrap_err();
        assert!(
            matches!(&err, Error::Locked { path, .. } if *path == x),
            "{err}"
        );
        first.commit(b"a", false).unwrap();
        replace(&x, b"b", false).unwrap();
    }

    #[test]
    fn follows_a_symbolic_link() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        let link = dir.path().join("link");
        fs::write(&real, b"old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace(&link, b"new", false).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
    }

    #[test]
    fn many_writers_leave_one_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let x = dir.path().join("X");
        replace(&x, &[b'0'; 4096], false).unwrap();
        std::thread::scope(|s| {
            for n in b'1'..=b'4' {
                let x = &x;
                s.spawn(move || {
                    for _ in 0..20 {
                        match replace(x, &[n; 4096], true) {
                            Ok(()) | Err(Error::Locked { .. }) => {}
                            Err(e) => panic!("{e}"),
                        }
                        let seen = fs::read(x).unwrap();
                        assert!(seen.len() == 4096 && seen.iter().all(|b| *b == seen[0]));
                    }
                });
            }
        });
        assert!(!with_suffix(&x, "-tmp").exists());
    }
}
