//! What can be wrong with a package.

use std::io;
use std::path::{Path, PathBuf};

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a package could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused.
    #[error("cannot {action} '{path}': {source}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The descriptor is not what it must be.
    #[error("the descriptor is invalid: {0}")]
    Descriptor(String),
    /// The archive is damaged, or has something in it that packages do not have.
    #[error("the archive is invalid: {0}")]
    Archive(String),
    /// The manifest is not what it must be.
    #[error("the manifest is invalid: {0}")]
    Manifest(String),
    /// A file is not the one that the manifest describes.
    #[error(
        "the {algorithm} digest of '{name}' does not match the manifest: it was changed or damaged"
    )]
    Digest {
        algorithm: &'static str,
        name: String,
    },
    /// The descriptor refers to a file that is not in the package.
    #[error("the package has no file '{0}'")]
    Missing(String),
    /// Whoever asked does not want it any more.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn descriptor(text: impl Into<String>) -> Self {
        Self::Descriptor(text.into())
    }

    pub(crate) fn archive(text: impl Into<String>) -> Self {
        Self::Archive(text.into())
    }
}
