//! Where the sockets are: one folder per user and configuration, open to its owner only.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The configuration folder: `VBOX_USER_HOME`, else `~/.VirtualBox` or `~/.config/VirtualBox`,
/// whichever exists; the latter for a new user.
///
/// # Errors
/// When neither `VBOX_USER_HOME` nor `HOME` is set.
pub fn user_home() -> io::Result<PathBuf> {
    if let Some(home) = env::var_os("VBOX_USER_HOME").filter(|h| !h.is_empty()) {
        return std::path::absolute(home);
    }
    let home = env::var_os("HOME")
        .filter(|h| !h.is_empty())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "neither VBOX_USER_HOME nor HOME is set",
            )
        })?;
    let old = Path::new(&home).join(".VirtualBox");
    if old.is_dir() {
        return Ok(old);
    }
    let config = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .unwrap_or_else(|| Path::new(&home).join(".config"));
    Ok(config.join("VirtualBox"))
}

/// The folder of this user's and configuration's sockets, made when missing. It is short, because
/// a socket's path holds 107 bytes at most, and the same whoever asks: login session, cron, CI.
/// `VBOX_IPC_SOCKETID` adds to its name.
///
/// # Errors
/// When the folder cannot be made, or belongs to somebody else or is open to others.
pub fn runtime_folder() -> io::Result<PathBuf> {
    let home = user_home()?;
    let home = fs::canonicalize(&home).unwrap_or(home);
    let mut hasher = DefaultHasher::new();
    home.hash(&mut hasher);
    env::var_os("VBOX_IPC_SOCKETID").hash(&mut hasher);
    let uid = rustix::process::geteuid().as_raw();
    let folder = PathBuf::from(format!("/tmp/.oxbox-{uid}-{:016x}-ipc", hasher.finish()));
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    // Not through a symbolic link that somebody else put there.
    let meta = fs::symlink_metadata(&folder)?;
    if !meta.is_dir() || meta.uid() != uid || meta.permissions().mode() & 0o077 != 0 {
        let text = format!(
            "{} is not a folder that only its owner can use",
            folder.display()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(folder)
}

/// The service's socket.
pub fn service_socket(runtime: &Path) -> PathBuf {
    runtime.join("svc")
}

/// The socket of a running VM's process; `machine` is its UUID without braces.
pub fn vm_socket(runtime: &Path, machine: &str) -> PathBuf {
    runtime.join(format!("vm-{machine}"))
}
