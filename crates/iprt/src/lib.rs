//! IPRT: the few things every room needs that std and the crates lack.
//!
//! - [`file`]: replacing a file so that a crash leaves the old one or the new one;
//! - [`local`]: the host's time zone;
//! - [`lock`]: file locks that can name their holder;
//! - [`log`]: rotated release logs in VirtualBox's look, also as a tracing subscriber;
//! - [`path`]: the configuration folder, the machine folder, the per-user socket folder;
//! - [`status`]: `VERR_*` and `VINF_*` codes;
//! - [`time`]: UTC time stamps as settings files and logs write them;
//! - [`uuid`]: UUIDs in VirtualBox's two spellings.

pub mod file;
pub mod local;
pub mod lock;
pub mod log;
pub mod path;
pub mod status;
pub mod time;
pub mod uuid;

use std::io;
use std::path::{Path, PathBuf};

/// Why a host file operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} '{path}': {source}", path = path.display())]
    Io {
        /// What was tried, as a verb phrase: `open`, `rename to`.
        action: &'static str,
        /// The file it was tried on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another process or another part of this one holds the lock.
    #[error("'{path}' is already locked{holder}", path = path.display())]
    Locked {
        /// The locked file.
        path: PathBuf,
        /// ` by process 123 (VBoxSVC)` where the system tells, else empty.
        holder: String,
    },
    /// A folder that must be private to this user is not.
    #[error("'{path}' cannot be used as a private folder: {reason}", path = path.display())]
    NotPrivate {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The user has no home folder (no `HOME`, no entry in the user database).
    #[error("the user has no home folder; set HOME or VBOX_USER_HOME")]
    NoHome,
}

impl Error {
    /// Wraps a system error with what was tried on which file.
    pub fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// The system error underneath, where there is one.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } => Some(source.kind()),
            _ => None,
        }
    }
}
