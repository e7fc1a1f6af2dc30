//! What can go wrong with an image: which file, where in it, and what to do about it.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use rustix::io::Errno;
use uuid::Uuid;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host file system has no room (or no quota) left. The image is consistent and the call
    /// may be repeated: a VM pauses on this error and goes on when there is room again.
    #[error(
        "no space left on the host disk for '{}' (at offset {offset:#x}): free some space and try again",
        path.display()
    )]
    DiskFull { path: PathBuf, offset: u64 },

    /// The host refused an operation on the file.
    #[error("cannot {action} '{}' (at offset {offset:#x}): {source}", path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        offset: u64,
        source: io::Error,
    },

    #[error("the image file '{}' does not exist", path.display())]
    NotFound { path: PathBuf },

    #[error(
        "'{}' already exists: choose another name or remove it first",
        path.display()
    )]
    AlreadyExists { path: PathBuf },

    #[error(
        "'{}' is in use by another process: power off the machine or close the program that uses it",
        path.display()
    )]
    Locked { path: PathBuf },

    /// The file claims to be of this format but its contents contradict themselves.
    #[error(
        "'{}' is not a usable {format} image: {what} (at offset {offset:#x}): restore it from a backup",
        path.display()
    )]
    Corrupt {
        path: PathBuf,
        format: &'static str,
        offset: u64,
        what: String,
    },

    #[error("'{}': {what}", path.display())]
    Unsupported { path: PathBuf, what: String },

    #[error("'{}' is open for reading only", path.display())]
    ReadOnly { path: PathBuf },

    #[error(
        "access to bytes {offset:#x} to {offset:#x}+{len:#x} of '{}' is outside its {size} bytes",
        path.display()
    )]
    OutOfRange {
        path: PathBuf,
        offset: u64,
        len: u64,
        size: u64,
    },

    #[error("'{}': {what}", path.display())]
    InvalidParameter { path: PathBuf, what: String },

    /// A differencing image does not belong to the image it was stacked on.
    #[error(
        "the parent of '{}' must have {field} {expected}, but '{}' has {found}",
        child.display(),
        parent.display()
    )]
    ParentMismatch {
        child: PathBuf,
        parent: PathBuf,
        /// `UUID` or `modification UUID`.
        field: &'static str,
        expected: Uuid,
        found: Uuid,
    },

    /// A differencing VMDK without UUIDs does not belong to the image it was stacked on.
    #[error(
        "the parent of '{}' must have content ID {expected:08x}, which '{}' has not: it was written to since, or is another image",
        child.display(),
        parent.display()
    )]
    ParentContent {
        child: PathBuf,
        parent: PathBuf,
        expected: u32,
        found: Option<u32>,
    },

    #[error("the operation was cancelled")]
    Cancelled,

    /// The source of a conversion could not be read.
    #[error("cannot read the source at byte {offset}: {source}")]
    Source { offset: u64, source: io::Error },
}

impl Error {
    /// Turns a failed host call into the error that fits it best.
    pub(crate) fn host(path: &Path, action: &'static str, offset: u64, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::DiskFull { path, offset },
            Some(Errno::NOENT) => Self::NotFound { path },
            Some(Errno::EXIST) => Self::AlreadyExists { path },
            _ => Self::Io {
                path,
                action,
                offset,
                source,
            },
        }
    }

    pub(crate) fn corrupt(
        path: &Path,
        format: &'static str,
        offset: u64,
        what: impl Into<String>,
    ) -> Self {
        Self::Corrupt {
            path: path.to_path_buf(),
            format,
            offset,
            what: what.into(),
        }
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported {
            path: path.to_path_buf(),
            what: what.into(),
        }
    }

    pub(crate) fn invalid(path: &Path, what: impl Into<String>) -> Self {
        Self::InvalidParameter {
            path: path.to_path_buf(),
            what: what.into(),
        }
    }

    /// The VirtualBox status name that its error texts end with, such as `VERR_FILE_NOT_FOUND`.
    pub fn status(&self) -> &'static str {
        match self {
            Self::DiskFull { .. } => "VERR_DISK_FULL",
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => "VERR_ACCESS_DENIED",
                io::ErrorKind::UnexpectedEof => "VERR_EOF",
                io::ErrorKind::ReadOnlyFilesystem => "VERR_WRITE_PROTECT",
                _ => "VERR_DEV_IO_ERROR",
            },
            Self::NotFound { .. } => "VERR_FILE_NOT_FOUND",
            Self::AlreadyExists { .. } => "VERR_ALREADY_EXISTS",
            Self::Locked { .. } => "VERR_FILE_LOCK_VIOLATION",
            Self::Corrupt { .. } => "VERR_VD_INVALID_HEADER",
            Self::Unsupported { .. } => "VERR_NOT_SUPPORTED",
            Self::ReadOnly { .. } => "VERR_VD_IMAGE_READ_ONLY",
            Self::OutOfRange { .. } | Self::InvalidParameter { .. } => "VERR_INVALID_PARAMETER",
            Self::ParentMismatch { .. } | Self::ParentContent { .. } => "VERR_VD_NOT_OPENED",
            Self::Cancelled => "VERR_CANCELLED",
            Self::Source { .. } => "VERR_READ_ERROR",
        }
    }
}
