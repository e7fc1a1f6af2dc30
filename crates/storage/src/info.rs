//! What `showmediuminfo` and `list hdds` show of a medium.

use std::path::Path;

use uuid::Uuid;

use crate::Layout;
use crate::MediaKind;
use crate::ParentLink;
use crate::Result;
use crate::Variant;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaInfo {
    /// Backend name, such as `VDI`.
    pub format: &'static str,
    pub kind: MediaKind,
    pub variant: Variant,
    pub layout: Layout,
    /// Logical size in bytes.
    pub size: u64,
    /// File length in bytes.
    pub size_on_disk: u64,
    /// `None` for formats without a place for it.
    pub uuid: Option<Uuid>,
    pub modification: Option<Uuid>,
    pub parent: Option<ParentLink>,
    /// VMDK's content ID.
    pub cid: Option<u32>,
    /// The value of the property `AllocationBlockSize`, where the format has blocks.
    pub block_size: Option<u32>,
    pub comment: String,
}

/// Describes an image without locking it, so this works while a machine uses it.
pub fn media_info(path: &Path) -> Result<MediaInfo> {
    let (format, kind) = crate::probe(path)?;
    format.info(path, kind)
}
