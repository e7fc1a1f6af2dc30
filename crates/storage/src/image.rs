//! The two traits that every format implements, and the plain types they speak in.

use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;

use uuid::Uuid;

use crate::Error;
use crate::MediaInfo;
use crate::Result;

/// Flags of VirtualBox's `MediumFormatCapabilities`, as `list hddbackends` prints them.
pub mod capability {
    pub const UUID: u32 = 0x01;
    pub const CREATE_FIXED: u32 = 0x02;
    pub const CREATE_DYNAMIC: u32 = 0x04;
    pub const CREATE_SPLIT_2G: u32 = 0x08;
    pub const DIFFERENCING: u32 = 0x10;
    pub const ASYNCHRONOUS: u32 = 0x20;
    pub const FILE: u32 = 0x40;
    pub const VFS: u32 = 0x200;
    pub const DISCARD: u32 = 0x400;
    pub const PREFERRED: u32 = 0x800;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Any number of readers share an image.
    ReadOnly,
    /// One writer, and no reader beside it.
    ReadWrite,
}

/// The drive that a medium goes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    HardDisk,
    Dvd,
    Floppy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Grows when blocks are first written.
    Dynamic,
    /// Takes its full size on the host from the start.
    Fixed,
    /// Holds what differs from a parent image.
    Differencing,
}

/// How an image lies in its files: the second half of VirtualBox's medium variants. Only VMDK has
/// others than the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    #[default]
    Default,
    /// `VmdkSplit2G`: files of less than 2 GiB each, which any host file system can hold.
    Split2G,
    /// `VmdkStreamOptimized`: compressed, written once from start to end, read only after that.
    StreamOptimized,
    /// `VmdkESX`: for VMware's servers.
    Esx,
    /// `VmdkRawDisk`: the data are a disk or partitions of the host.
    RawDisk,
}

/// Cylinders, heads and sectors; all zero where nobody has decided yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Geometry {
    pub cylinders: u32,
    pub heads: u32,
    pub sectors: u32,
}

/// The parent of a differencing image, as it was when the child was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParentLink {
    pub uuid: Uuid,
    /// Nil when it was not recorded: the parent is taken in any state.
    pub modification: Uuid,
    /// The parent's content ID, where that is a VMDK.
    pub cid: Option<u32>,
}

impl ParentLink {
    /// A link to an image in the state that its modification UUID names; a nil one is any state.
    pub fn new(uuid: Uuid, modification: Uuid) -> Self {
        Self {
            uuid,
            modification,
            cid: None,
        }
    }

    /// A link to an image that is named by its file alone: see [`Image::parent_file`].
    pub fn by_file() -> Self {
        Self::new(Uuid::nil(), Uuid::nil())
    }
}

/// What an image records about itself. Formats without a place for a field give its default and
/// refuse to store anything else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    pub uuid: Option<Uuid>,
    /// Changes with the first write of every session, so that children can tell.
    pub modification: Option<Uuid>,
    pub parent: Option<ParentLink>,
    /// VMDK's own modification number, which VMware's children check.
    pub cid: Option<u32>,
    pub comment: String,
    pub physical: Geometry,
    /// The geometry the BIOS shows.
    pub logical: Geometry,
}

/// What to create.
#[derive(Debug, Clone)]
pub struct CreateParams {
    /// Bytes; a multiple of 512.
    pub size: u64,
    pub variant: Variant,
    pub layout: Layout,
    pub uuid: Uuid,
    /// Required for [`Variant::Differencing`], refused for the others.
    pub parent: Option<ParentLink>,
    /// The parent's file, for formats that write it down as a hint.
    pub parent_path: Option<PathBuf>,
    pub comment: String,
}

impl CreateParams {
    /// A base image with a new UUID and no comment.
    pub fn new(size: u64, variant: Variant) -> Self {
        Self {
            size,
            variant,
            layout: Layout::Default,
            uuid: Uuid::new_v4(),
            parent: None,
            parent_path: None,
            comment: String::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// The image holds these bytes.
    Data,
    /// These bytes are zero, whatever a parent holds.
    Zero,
    /// The image says nothing: the parent's bytes, or zeros in a base image.
    Absent,
}

/// A stretch of an image that is all in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Bytes; never zero for a query of at least one byte inside the image.
    pub len: u64,
    pub state: RunState,
}

/// Where a long operation reports its percentage, and where it learns that it was cancelled.
#[derive(Default)]
pub struct Progress<'a> {
    callback: Option<&'a mut dyn FnMut(u32) -> ControlFlow<()>>,
    last: Option<u32>,
}

impl<'a> Progress<'a> {
    /// `callback` gets each new percentage (0 to 100, rising); `Break` cancels the operation.
    pub fn new(callback: &'a mut dyn FnMut(u32) -> ControlFlow<()>) -> Self {
        Self {
            callback: Some(callback),
            last: None,
        }
    }

    /// Reports to nobody.
    pub fn none() -> Self {
        Self::default()
    }

    /// Tells the listener that `done` of `total` is behind us. [`Error::Cancelled`] if it wants
    /// no more. A rising percentage only: a smaller value than before is not repeated.
    pub fn report(&mut self, done: u64, total: u64) -> Result<()> {
        let percent = if total == 0 {
            100
        } else {
            (u128::from(done.min(total)) * 100 / u128::from(total)) as u32
        };
        if self.last.is_some_and(|last| percent <= last) {
            return Ok(());
        }
        self.last = Some(percent);
        match self.callback.as_mut().map(|callback| callback(percent)) {
            Some(ControlFlow::Break(())) => Err(Error::Cancelled),
            Some(ControlFlow::Continue(())) | None => Ok(()),
        }
    }
}

/// What [`Image::check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Blocks that have data in the file.
    pub allocated: u64,
    /// Contradictions that cost nobody data and that the next writer repairs.
    pub notes: Vec<String>,
    /// Contradictions that mean data is lost or doubtful.
    pub errors: Vec<String>,
}

/// The two ends of a file, by which formats know theirs.
#[derive(Debug, Clone, Default)]
pub struct Ends {
    /// The first 512 bytes, or what there is of them.
    pub head: Vec<u8>,
    /// The last 512 bytes; empty in a shorter file.
    pub tail: Vec<u8>,
    /// Length of the file in bytes.
    pub len: u64,
}

/// One image format. The list of all is [`crate::FORMATS`].
pub trait Format: Sync {
    /// VirtualBox's backend name: `VDI`, `RAW`.
    fn id(&self) -> &'static str;

    fn description(&self) -> &'static str;

    /// A sum of [`capability`] flags.
    fn capabilities(&self) -> u32;

    /// File name endings (lower case, no dot) and the kind of medium each stands for.
    fn extensions(&self) -> &'static [(&'static str, MediaKind)];

    /// Whether the file is of this format, by its contents and, where contents say nothing, by its
    /// name.
    fn probe(&self, path: &Path, ends: &Ends) -> Option<MediaKind>;

    /// All files of an image, the one it is opened by first. Nothing outside its folder.
    fn files(&self, path: &Path) -> Result<Vec<PathBuf>> {
        Ok(vec![path.to_path_buf()])
    }

    /// What can be told without a lock and without reading more than the header, so that media of
    /// a running machine can be listed.
    fn info(&self, path: &Path, kind: MediaKind) -> Result<MediaInfo>;

    /// Opens and locks an image after checking all of its metadata.
    fn open(&self, path: &Path, mode: OpenMode, kind: MediaKind) -> Result<Box<dyn Image>>;

    /// Creates the file, which must not exist, and opens it for writing. Nothing is left behind
    /// when this fails or is cancelled.
    fn create(
        &self,
        path: &Path,
        params: &CreateParams,
        progress: &mut Progress<'_>,
    ) -> Result<Box<dyn Image>>;
}

/// One open image file. Callers that share one hold it in a mutex.
///
/// Dropping an image gives up its lock but does not wait for the disk: [`Image::flush`] first.
pub trait Image: Send {
    /// The format's name, as [`Format::id`].
    fn format(&self) -> &'static str;

    fn path(&self) -> &Path;

    fn mode(&self) -> OpenMode;

    fn variant(&self) -> Variant;

    fn layout(&self) -> Layout {
        Layout::Default
    }

    /// Logical size in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// Bytes that are allocated together; 512 where the format does not allocate.
    fn block_size(&self) -> u32;

    /// Length of the image's file(s) in bytes: what VirtualBox calls "size on disk".
    fn size_on_disk(&self) -> Result<u64>;

    fn meta(&self) -> Meta;

    /// The parent's file, in formats that know their parent by that alone.
    fn parent_file(&self) -> Option<PathBuf> {
        None
    }

    /// Stores new metadata. The modification UUID is taken from `meta` as it is.
    fn set_meta(&mut self, meta: &Meta) -> Result<()>;

    /// The state of the bytes at `offset` and how far it reaches, at most `len` bytes.
    /// [`Error::OutOfRange`] unless all `len` bytes are inside the image.
    fn run_at(&self, offset: u64, len: u64) -> Result<Run>;

    /// Fills `buf`; absent bytes read as zeros.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Writes all of `buf`. On a differencing image, a block that is absent must be written whole
    /// ([`Container::write_at`](crate::Container::write_at) sees to it).
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<()>;

    /// Waits until everything written so far is on the host's stable storage.
    fn flush(&mut self) -> Result<()>;

    /// Makes the bytes read as zeros and gives their space back to the host where possible. The
    /// same rule about absent blocks holds as for [`Image::write_at`].
    fn discard(&mut self, offset: u64, len: u64) -> Result<()>;

    /// Grows the image to `size` bytes (a multiple of 512); new bytes are zero or the parent's.
    fn resize(&mut self, size: u64, progress: &mut Progress<'_>) -> Result<()>;

    /// Gives blocks that hold only zeros back to the host and makes the file as short as it can be.
    fn compact(&mut self, progress: &mut Progress<'_>) -> Result<()>;

    /// Looks for contradictions in the metadata beyond those that opening refuses.
    fn check(&self) -> Result<CheckReport>;
}

/// Refuses an access that leaves the image.
pub(crate) fn check_range(path: &Path, offset: u64, len: u64, size: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::OutOfRange {
            path: path.to_path_buf(),
            offset,
            len,
            size,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_rises_and_can_cancel() {
        let mut seen = Vec::new();
        let mut listener = |percent| {
            seen.push(percent);
            if percent >= 50 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let mut progress = Progress::new(&mut listener);
        assert!(progress.report(0, 10).is_ok());
        assert!(progress.report(1, 10).is_ok());
        assert!(progress.report(0, 10).is_ok());
        assert!(matches!(progress.report(5, 10), Err(Error::Cancelled)));
        assert_eq!(seen, [0, 10, 50]);
    }

    #[test]
    fn ranges_that_overflow_are_outside() {
        let path = Path::new("x");
        assert!(check_range(path, 512, 512, 1024).is_ok());
        assert!(check_range(path, 1024, 0, 1024).is_ok());
        assert!(check_range(path, 1024, 1, 1024).is_err());
        assert!(check_range(path, u64::MAX, 2, 1024).is_err());
    }
}
