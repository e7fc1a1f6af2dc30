//! Where a user's files are: configuration, machines, sockets.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use crate::Error;

/// Longest socket path the system takes (`sun_path`), its terminating zero not counted.
pub const MAX_SOCKET_PATH: usize = 107;

/// The longest file name this module's callers append to [`runtime_dir`].
const SOCKET_NAME_ROOM: usize = 32;

/// The user's home folder.
pub fn home_dir() -> Result<PathBuf, Error> {
    std::env::home_dir()
        .filter(|p| p.is_absolute())
        .ok_or(Error::NoHome)
}

/// The folder with `VirtualBox.xml`; it may not exist yet.
///
/// `VBOX_USER_HOME`; else `~/.VirtualBox` if it exists; else `VirtualBox` below `XDG_CONFIG_HOME`
/// or `~/.config` if that exists; else, for a new user, `~/.VirtualBox`.
pub fn config_dir() -> Result<PathBuf, Error> {
    let dir = config_dir_from(|name| std::env::var_os(name), home_dir, Path::is_dir)?;
    std::path::absolute(&dir).map_err(|e| Error::io("find", &dir, e))
}

fn config_dir_from(
    env: impl Fn(&str) -> Option<OsString>,
    home: impl Fn() -> Result<PathBuf, Error>,
    is_dir: impl Fn(&Path) -> bool,
) -> Result<PathBuf, Error> {
    let path_var = |name| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(dir) = path_var("VBOX_USER_HOME") {
        return Ok(dir);
    }
    let home = home()?;
    let classic = home.join(".VirtualBox");
    if is_dir(&classic) {
        return Ok(classic);
    }
    let xdg = path_var("XDG_CONFIG_HOME").filter(|p| p.is_absolute());
    let newer = xdg
        .unwrap_or_else(|| home.join(".config"))
        .join("VirtualBox");
    Ok(if is_dir(&newer) { newer } else { classic })
}

/// Where new machines go unless the user set another folder: `~/VirtualBox VMs`.
pub fn default_machine_folder() -> Result<PathBuf, Error> {
    Ok(home_dir()?.join("VirtualBox VMs"))
}

/// The folder for this user's sockets, made if missing, mode 0700, verified to be ours.
///
/// `XDG_RUNTIME_DIR/oxbox`, else `/tmp/.oxbox-UID-ipc` where the variable is unset, its folder not
/// ours, or too long for a socket path.
pub fn runtime_dir() -> Result<PathBuf, Error> {
    let uid = rustix::process::geteuid().as_raw();
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    // Not TMPDIR: it is per session on some systems, and all clients must find one socket.
    runtime_dir_from(xdg, Path::new("/tmp"), uid)
}

fn runtime_dir_from(xdg: Option<PathBuf>, tmp: &Path, uid: u32) -> Result<PathBuf, Error> {
    if let Some(base) = xdg.filter(|p| p.is_absolute()) {
        let dir = base.join("oxbox");
        let fits = dir.as_os_str().len() + 1 + SOCKET_NAME_ROOM <= MAX_SOCKET_PATH;
        if fits && check_private(&base, uid).is_ok() && private_dir(&dir, uid).is_ok() {
            return Ok(dir);
        }
    }
    let dir = tmp.join(format!(".oxbox-{uid}-ipc"));
    private_dir(&dir, uid)?;
    Ok(dir)
}

/// Makes `dir` with mode 0700 if it is missing, then verifies it.
fn private_dir(dir: &Path, uid: u32) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(Error::io("create", dir, e)),
    }
    check_private(dir, uid)
}

/// Refuses a folder that another user could have put there or can reach into.
fn check_private(dir: &Path, uid: u32) -> Result<(), Error> {
    let bad = |reason: String| Error::NotPrivate {
        path: dir.to_owned(),
        reason,
    };
    let meta = fs::symlink_metadata(dir).map_err(|e| Error::io("examine", dir, e))?;
    if !meta.is_dir() {
        return Err(bad("it is not a folder".to_owned()));
    }
    if meta.uid() != uid {
        return Err(bad(format!(
            "it belongs to user {}, not to user {uid}",
            meta.uid()
        )));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(bad(format!(
            "its mode is {:o}, it must be 700",
            meta.mode() & 0o777
        )));
    }
    Ok(())
}

/// A short name for one configuration folder, so that each has its own service: 16 hex digits.
///
/// The same folder by another spelling or link gives the same tag. `VBOX_IPC_SOCKETID` overrides
/// as in VirtualBox; it is hashed along, since it may hold anything.
pub fn instance_tag(config_dir: &Path) -> String {
    let real = fs::canonicalize(config_dir)
        .or_else(|_| std::path::absolute(config_dir))
        .unwrap_or_else(|_| config_dir.to_owned());
    let mut hash = fnv1a(0xcbf2_9ce4_8422_2325, real.as_os_str().as_bytes());
    if let Some(id) = std::env::var_os("VBOX_IPC_SOCKETID") {
        hash = fnv1a(hash, b"\0");
        hash = fnv1a(hash, id.as_bytes());
    }
    format!("{hash:016x}")
}

/// 64-bit FNV-1a: stable across builds, which std's hasher does not promise.
fn fnv1a(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// `path` relative to `base` if it lies below it, else `path` itself. No file system access.
pub fn relative_to<'a>(path: &'a Path, base: &Path) -> &'a Path {
    match path.strip_prefix(base) {
        Ok(rest) if !rest.as_os_str().is_empty() => rest,
        _ => path,
    }
}

/// `path` made absolute against `base`, with `.` and `..` resolved in the text. No file system
/// access, so a `..` behind a symbolic link goes to the link's own parent.
pub fn absolute_from(path: &Path, base: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in base.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn config(vars: &[(&str, &str)], dirs: &[&str]) -> PathBuf {
        config_dir_from(
            |name| {
                vars.iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| OsString::from(v))
            },
            || Ok(PathBuf::from("/home/u")),
            |dir| dirs.iter().any(|d| Path::new(d) == dir),
        )
        .unwrap()
    }

    #[test]
    fn configuration_folder_rules() {
        let (classic, newer) = ("/home/u/.VirtualBox", "/home/u/.config/VirtualBox");
        assert_eq!(config(&[], &[]), Path::new(classic));
        assert_eq!(config(&[], &[newer]), Path::new(newer));
        assert_eq!(config(&[], &[classic, newer]), Path::new(classic));
        assert_eq!(
            config(&[("VBOX_USER_HOME", "/v")], &[classic]),
            Path::new("/v")
        );
        assert_eq!(config(&[("VBOX_USER_HOME", "")], &[]), Path::new(classic));
        let xdg = [("XDG_CONFIG_HOME", "/x")];
        assert_eq!(config(&xdg, &["/x/VirtualBox"]), Path::new("/x/VirtualBox"));
        assert_eq!(config(&xdg, &[newer]), Path::new(classic));
    }

    #[test]
    fn socket_folder_is_private_or_refused() {
        let uid = rustix::process::geteuid().as_raw();
        let tmp = tempfile::tempdir().unwrap();
        let fallback = tmp.path().join(format!(".oxbox-{uid}-ipc"));
        assert_eq!(runtime_dir_from(None, tmp.path(), uid).unwrap(), fallback);
        assert_eq!(fs::metadata(&fallback).unwrap().mode() & 0o777, 0o700);

        let xdg = tmp.path().join("run");
        private_dir(&xdg, uid).unwrap();
        let got = runtime_dir_from(Some(xdg.clone()), tmp.path(), uid).unwrap();
        assert_eq!(got, xdg.join("oxbox"));
        fs::set_permissions(&xdg, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(
            runtime_dir_from(Some(xdg), tmp.path(), uid).unwrap(),
            fallback
        );

        fs::set_permissions(&fallback, fs::Permissions::from_mode(0o770)).unwrap();
        let err = runtime_dir_from(None, tmp.path(), uid).unwrap_err();
        assert!(err.to_string().contains("mode is 770"), "{err}");
        fs::remove_dir(&fallback).unwrap();
        std::os::unix::fs::symlink(tmp.path(), &fallback).unwrap();
        let err = runtime_dir_from(None, tmp.path(), uid).unwrap_err();
        assert!(err.to_string().contains("not a folder"), "{err}");
        fs::remove_file(&fallback).unwrap();
        let err = runtime_dir_from(None, tmp.path(), uid + 1).unwrap_err();
        assert!(err.to_string().contains("belongs to user"), "{err}");
    }

    #[test]
    fn a_folder_has_one_tag() {
        let tmp = tempfile::tempdir().unwrap();
        let tag = instance_tag(tmp.path());
        assert_eq!(tag.len(), 16);
        assert_eq!(instance_tag(&tmp.path().join(".")), tag);
        assert_ne!(instance_tag(&tmp.path().join("other")), tag);
    }

    #[test]
    fn paths_relative_and_absolute() {
        let base = Path::new("/vm/N");
        assert_eq!(
            relative_to(Path::new("/vm/N/N.vdi"), base),
            Path::new("N.vdi")
        );
        assert_eq!(
            relative_to(Path::new("/vm/N2/N.vdi"), base),
            Path::new("/vm/N2/N.vdi")
        );
        assert_eq!(relative_to(base, base), base);
        assert_eq!(
            absolute_from(Path::new("Snapshots/x"), base),
            Path::new("/vm/N/Snapshots/x")
        );
        assert_eq!(
            absolute_from(Path::new("../M/./x"), base),
            Path::new("/vm/M/x")
        );
        assert_eq!(absolute_from(Path::new("/../../a"), base), Path::new("/a"));
    }
}
