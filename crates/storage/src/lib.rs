//! VD: virtual disk containers.
//!
//! An [`Image`] is one file of one [`Format`]; a [`Container`] stacks images (a base and its
//! differencing children) into the disk that a drive model reads and writes. Everything here is
//! synchronous, knows nothing of machines, and treats every file as hostile: headers are checked
//! before they are believed, and nothing is allocated that the file's own length does not justify.
//!
//! Power-cut rules that every format keeps:
//! 1. what was written before a successful [`Image::flush`] survives any crash after it;
//! 2. a crash at any moment never changes bytes that were flushed before and not written since;
//! 3. a full host disk ([`Error::DiskFull`]) leaves the image consistent, and the same call can be
//!    made again once there is room.

mod bytes;
mod container;
mod convert;
mod error;
mod host;
mod image;
mod info;
mod merge;
mod zero;

pub mod format;

pub use container::Container;
pub use convert::{clone_into, clone_to_new, convert_from_reader, copy_layer};
pub use error::{Error, Result};
pub use format::{
    FORMATS, child_format, create_child, create_image, format_by_id, image_files, open_image,
    probe, remove_image,
};
pub use image::{
    CheckReport, CreateParams, Ends, Format, Geometry, Image, Layout, MediaKind, Meta, OpenMode,
    ParentLink, Progress, Run, RunState, Variant, capability,
};
pub use info::{MediaInfo, media_info};
pub use merge::{link_to, merge_into_base, merge_into_child, relink};

/// Bytes in one sector of every virtual hard disk and floppy.
pub const SECTOR: u64 = 512;
