//! Where the sockets are: one folder per user and configuration, open to its owner only.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The folder of this user's and configuration's sockets, made when missing. It is short, because
/// a socket's path holds 107 bytes at most, and the same whoever asks: login session, cron, CI.
/// `VBOX_IPC_SOCKETID` adds to its name.
///
/// # Errors
/// When the folder cannot be made, or belongs to somebody else or is open to others.
pub fn runtime_folder() -> io::Result<PathBuf> {
    runtime_folder_of(&iprt::path::config_dir().map_err(io::Error::other)?)
}

/// See [`runtime_folder`], for a given configuration folder.
///
/// # Errors
/// See [`runtime_folder`].
pub fn runtime_folder_of(config: &Path) -> io::Result<PathBuf> {
    let tag = iprt::path::instance_tag(config);
    let uid = rustix::process::geteuid().as_raw();
    let folder = PathBuf::from(format!("/tmp/.oxbox-{uid}-{tag}-ipc"));
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
