//! The host file under an image: positioned I/O, locking, sparse ranges, and errors that name the
//! file. Everything an image does to its file goes through here, so that tests can make any single
//! operation fail and can replay a power cut.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Seek;
use std::io::SeekFrom;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::FallocateFlags;
use rustix::fs::FlockOperation;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::Error;
use crate::OpenMode;
use crate::Result;

/// Zeros are written in pieces of this size where the host cannot make holes.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

#[derive(Debug)]
pub(crate) struct HostFile {
    path: PathBuf,
    file: File,
    mode: OpenMode,
    #[cfg(test)]
    pub(crate) probe: Option<faults::Probe>,
}

impl HostFile {
    /// Opens and locks: shared for readers, exclusive for a writer.
    pub(crate) fn open(path: &Path, mode: OpenMode) -> Result<Self> {
        let this = Self::open_unlocked(path, mode)?;
        this.lock(match mode {
            OpenMode::ReadOnly => FlockOperation::NonBlockingLockShared,
            OpenMode::ReadWrite => FlockOperation::NonBlockingLockExclusive,
        })?;
        Ok(this)
    }

    /// For a look at the header only: the contents may change at any time.
    pub(crate) fn open_unlocked(path: &Path, mode: OpenMode) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(mode == OpenMode::ReadWrite)
            // A FIFO must not stop us here: its type is checked next. Files ignore the flag.
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(path)
            .map_err(|e| Error::host(path, "open", 0, e))?;
        let kind = file
            .metadata()
            .map_err(|e| Error::host(path, "examine", 0, e))?
            .file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::unsupported(
                path,
                "this is neither a file nor a block device",
            ));
        }
        Ok(Self::new(path, file, mode))
    }

    /// Creates a file that did not exist, locked for writing.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|e| Error::host(path, "create", 0, e))?;
        let this = Self::new(path, file, OpenMode::ReadWrite);
        this.lock(FlockOperation::NonBlockingLockExclusive)?;
        Ok(this)
    }

    fn new(path: &Path, file: File, mode: OpenMode) -> Self {
        Self {
            path: path.to_path_buf(),
            file,
            mode,
            #[cfg(test)]
            probe: faults::take(),
        }
    }

    fn lock(&self, operation: FlockOperation) -> Result<()> {
        match rustix::fs::flock(&self.file, operation) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(Error::Locked {
                path: self.path.clone(),
            }),
            // Some network file systems have no locks; the image is still worth opening.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK | Errno::INVAL) => {
                tracing::warn!(path = %self.path.display(), "the host file system has no locks");
                Ok(())
            }
            Err(e) => Err(self.error("lock", 0, e.into())),
        }
    }

    fn error(&self, action: &'static str, offset: u64, source: io::Error) -> Error {
        Error::host(&self.path, action, offset, source)
    }

    /// Called before each operation that changes the file. An operation that is to fail may have
    /// its effect all the same, or half of it.
    #[cfg(test)]
    fn before(&self, operation: faults::Operation<'_>, offset: u64) -> Result<()> {
        let Some(probe) = &self.probe else {
            return Ok(());
        };
        probe.check(&operation).map_err(|e| {
            if let (faults::Operation::Write(_, data), true) = (operation, probe.leaks()) {
                // Whole sectors, or the little that is written whole.
                let done = match data.len() {
                    len @ 0..=512 => len,
                    len => (len / 2).next_multiple_of(512),
                };
                let _ = self.file.write_all_at(&data[..done], offset);
            }
            self.error("write", offset, e)
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn mode(&self) -> OpenMode {
        self.mode
    }

    pub(crate) fn require_writable(&self) -> Result<()> {
        match self.mode {
            OpenMode::ReadWrite => Ok(()),
            OpenMode::ReadOnly => Err(Error::ReadOnly {
                path: self.path.clone(),
            }),
        }
    }

    /// Length in bytes, of block devices too.
    pub(crate) fn len(&self) -> Result<u64> {
        (&self.file)
            .seek(SeekFrom::End(0))
            .map_err(|e| self.error("find the length of", 0, e))
    }

    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buf, offset)
            .map_err(|e| self.error("read", offset, e))
    }

    /// Reads what there is; bytes after the end of the file become zeros.
    pub(crate) fn read_padded(&self, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        let mut at = offset;
        while !buf.is_empty() {
            match self.file.read_at(buf, at) {
                Ok(0) => {
                    buf.fill(0);
                    return Ok(());
                }
                Ok(n) => {
                    buf = &mut buf[n..];
                    at += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.error("read", at, e)),
            }
        }
        Ok(())
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        #[cfg(test)]
        self.before(faults::Operation::Write(offset, data), offset)?;
        self.file
            .write_all_at(data, offset)
            .map_err(|e| self.error("write", offset, e))
    }

    pub(crate) fn set_len(&self, len: u64) -> Result<()> {
        #[cfg(test)]
        self.before(faults::Operation::SetLen(len), len)?;
        self.file
            .set_len(len)
            .map_err(|e| self.error("change the length of", len, e))
    }

    /// Waits for the data, and for the length where it changed.
    pub(crate) fn sync(&self) -> Result<()> {
        #[cfg(test)]
        self.before(faults::Operation::Sync, 0)?;
        self.file.sync_data().map_err(|e| self.error("flush", 0, e))
    }

    /// Makes a range of the file read as zeros and gives its space back.
    pub(crate) fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.zero_with(
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset,
            len,
        )
    }

    /// Makes a range of the file read as zeros and keeps its space.
    pub(crate) fn zero_kept(&self, offset: u64, len: u64) -> Result<()> {
        self.zero_with(
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
            offset,
            len,
        )
    }

    fn zero_with(&self, how: FallocateFlags, offset: u64, len: u64) -> Result<()> {
        #[cfg(test)]
        self.before(faults::Operation::Zero(offset, len), offset)?;
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, how, offset, len) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {
                let end = (offset + len).min(self.len()?);
                let mut at = offset;
                while at < end {
                    let n = (end - at).min(ZEROS.len() as u64);
                    self.file
                        .write_all_at(&ZEROS[..n as usize], at)
                        .map_err(|e| self.error("write", at, e))?;
                    at += n;
                }
                Ok(())
            }
            Err(e) => Err(self.error("write", offset, e.into())),
        }
    }

    /// Reserves space on the host for a range, which makes the file longer where needed. Old
    /// contents stay; new bytes are zero.
    pub(crate) fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset + len;
        #[cfg(test)]
        self.before(faults::Operation::SetLen(end.max(self.len()?)), offset)?;
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), offset, len) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let mut at = self.len()?.max(offset);
                while at < end {
                    let n = (end - at).min(ZEROS.len() as u64);
                    self.file
                        .write_all_at(&ZEROS[..n as usize], at)
                        .map_err(|e| self.error("write", at, e))?;
                    at += n;
                }
                Ok(())
            }
            Err(e) => Err(self.error("reserve space for", offset, e.into())),
        }
    }

    /// Whether the file has data at `offset`, and where that changes. `None` when the host cannot
    /// say, or when the file ends before `offset`.
    pub(crate) fn data_run(&self, offset: u64) -> Option<(bool, u64)> {
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) if data > offset => Some((false, data)),
            Ok(_) => rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(offset))
                .ok()
                .filter(|hole| *hole > offset)
                .map(|hole| (true, hole)),
            // No data up to the end of the file.
            Err(Errno::NXIO) => self.len().ok().filter(|l| *l > offset).map(|l| (false, l)),
            Err(_) => None,
        }
    }
}

impl Drop for HostFile {
    /// Closing alone is not enough: a child process that another thread is starting right now has
    /// inherited the open file, and with it the lock, until it runs its program.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Makes the name of a new file survive a power cut.
pub(crate) fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| Error::host(folder, "flush", 0, e))
}

/// Runs `make` on a new file at `path` and removes the file again if that fails.
pub(crate) fn create_or_remove<T>(
    path: &Path,
    make: impl FnOnce(HostFile) -> Result<T>,
) -> Result<T> {
    let made = make(HostFile::create(path)?).and_then(|made| {
        sync_folder_of(path)?;
        Ok(made)
    });
    if made.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(path);
    }
    made
}

/// Test hooks: fail the n-th change of a file, and record all changes for replay.
#[cfg(test)]
pub(crate) mod faults {
    use std::cell::RefCell;
    use std::io;
    use std::sync::Arc;
    use std::sync::Mutex;

    #[derive(Debug, Clone, PartialEq)]
    pub(crate) enum Change {
        Write(u64, Vec<u8>),
        SetLen(u64),
        Zero(u64, u64),
        Sync,
    }

    pub(crate) enum Operation<'a> {
        Write(u64, &'a [u8]),
        SetLen(u64),
        Zero(u64, u64),
        Sync,
    }

    #[derive(Debug, Default)]
    struct State {
        log: Vec<Change>,
        /// How many more operations succeed; `None` for all.
        fail_after: Option<u64>,
        /// Writes that fail take effect in part.
        leaky: bool,
    }

    #[derive(Debug, Clone, Default)]
    pub(crate) struct Probe(Arc<Mutex<State>>);

    thread_local! {
        static NEXT: RefCell<Option<Probe>> = const { RefCell::new(None) };
    }

    /// The next file that this thread opens gets the probe.
    pub(crate) fn arm(probe: &Probe) {
        NEXT.with(|next| *next.borrow_mut() = Some(probe.clone()));
    }

    pub(super) fn take() -> Option<Probe> {
        NEXT.with(|next| next.borrow_mut().take())
    }

    impl Probe {
        pub(crate) fn fail_after(&self, operations: Option<u64>) {
            self.0.lock().unwrap().fail_after = operations;
        }

        pub(crate) fn leak(&self) {
            self.0.lock().unwrap().leaky = true;
        }

        pub(super) fn leaks(&self) -> bool {
            self.0.lock().unwrap().leaky
        }

        pub(crate) fn log(&self) -> Vec<Change> {
            self.0.lock().unwrap().log.clone()
        }

        pub(super) fn check(&self, operation: &Operation<'_>) -> io::Result<()> {
            let mut state = self.0.lock().unwrap();
            match &mut state.fail_after {
                Some(0) => {
                    return Err(rustix::io::Errno::NOSPC.into());
                }
                Some(left) => *left -= 1,
                None => {}
            }
            state.log.push(match *operation {
                Operation::Write(offset, data) => Change::Write(offset, data.to_vec()),
                Operation::SetLen(len) => Change::SetLen(len),
                Operation::Zero(offset, len) => Change::Zero(offset, len),
                Operation::Sync => Change::Sync,
            });
            Ok(())
        }
    }
}
