//! Block drivers: a [`storage::Container`] below a drive, or nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use pdm::driver::{BlockDriver, BlockError, DriveKind, Identity};
use storage::{Container, MediaKind, OpenMode};

/// A container that the drive and the console share.
pub type SharedContainer = Arc<Mutex<Container>>;

/// Asked when the guest ejects; false refuses.
pub type EjectHook = Box<dyn FnMut() -> bool + Send>;

/// What the console sees of a drive that the guest uses.
#[derive(Debug, Clone, Default)]
pub struct DriveStatus {
    locked: Arc<AtomicBool>,
    ejected: Arc<AtomicBool>,
}

impl DriveStatus {
    /// Whether the guest locked the tray.
    pub fn locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    /// Whether the guest ejected the medium.
    pub fn ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }
}

/// An image in a drive.
pub struct ImageDriver {
    container: SharedContainer,
    kind: DriveKind,
    read_only: bool,
    geometry: Option<(u32, u32, u32)>,
    identity: Identity,
    status: DriveStatus,
    on_eject: Option<EjectHook>,
}

fn drive_kind(kind: MediaKind) -> DriveKind {
    match kind {
        MediaKind::HardDisk => DriveKind::Disk,
        MediaKind::Dvd => DriveKind::Dvd,
        MediaKind::Floppy => DriveKind::Floppy,
    }
}

impl ImageDriver {
    /// Puts `container` into a drive of `kind`. Empty fields of `identity` get what can be derived
    /// from the image: the serial number follows the base image's UUID, so that it outlives
    /// snapshots.
    pub fn new(container: SharedContainer, kind: MediaKind, mut identity: Identity) -> Self {
        let (read_only, geometry) = {
            let container = container.lock();
            let base = container.images().first().map(|image| image.meta());
            let meta = base.unwrap_or_default();
            if let Some(uuid) = meta.uuid
                && identity.serial.is_empty()
                && kind == MediaKind::HardDisk
            {
                let bytes = uuid.as_bytes();
                let first = uuid.as_fields().0;
                let last = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
                identity.serial = format!("VB{first:08x}-{last:08x}");
            }
            let g = meta.physical;
            let read_only = container.mode() == OpenMode::ReadOnly || kind == MediaKind::Dvd;
            let geometry = (g.cylinders != 0).then_some((g.cylinders, g.heads, g.sectors));
            (read_only, geometry)
        };
        Self {
            container,
            kind: drive_kind(kind),
            read_only,
            geometry,
            identity,
            status: DriveStatus::default(),
            on_eject: None,
        }
    }

    /// Calls `hook` when the guest ejects. Without one the guest may always eject.
    pub fn on_eject(mut self, hook: EjectHook) -> Self {
        self.on_eject = Some(hook);
        self
    }

    /// A view of the drive for the console.
    pub fn status(&self) -> DriveStatus {
        self.status.clone()
    }
}

fn block_error(e: storage::Error) -> BlockError {
    match e {
        storage::Error::DiskFull { path, .. } => BlockError::DiskFull(path.display().to_string()),
        storage::Error::ReadOnly { .. } => BlockError::ReadOnly,
        storage::Error::OutOfRange { .. } => BlockError::OutOfRange,
        e => BlockError::Io(e.to_string()),
    }
}

impl ImageDriver {
    fn with<T>(
        &mut self,
        f: impl FnOnce(&mut Container) -> storage::Result<T>,
    ) -> Result<T, BlockError> {
        if !self.present() {
            return Err(BlockError::NoMedium);
        }
        f(&mut self.container.lock()).map_err(block_error)
    }
}

impl BlockDriver for ImageDriver {
    fn present(&self) -> bool {
        !self.status.ejected()
    }

    fn size(&self) -> u64 {
        if self.present() {
            self.container.lock().size()
        } else {
            0
        }
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn kind(&self) -> DriveKind {
        self.kind
    }

    fn geometry(&self) -> Option<(u32, u32, u32)> {
        self.geometry
    }

    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        self.with(|c| c.read_at(offset, data))
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        self.with(|c| c.write_at(offset, data))
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        if self.read_only {
            return Ok(());
        }
        self.with(Container::flush)
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        self.with(|c| c.discard(offset, len))
    }

    fn set_locked(&mut self, locked: bool) {
        self.status.locked.store(locked, Ordering::Relaxed);
    }

    fn eject(&mut self) -> bool {
        let allowed = self.on_eject.as_mut().is_none_or(|hook| hook());
        if allowed {
            self.status.ejected.store(true, Ordering::Relaxed);
        }
        allowed
    }
}

/// A drive without a medium.
pub struct EmptyDrive(DriveKind);

impl EmptyDrive {
    /// An empty drive of `kind`.
    pub fn new(kind: MediaKind) -> Self {
        Self(drive_kind(kind))
    }
}

impl BlockDriver for EmptyDrive {
    fn present(&self) -> bool {
        false
    }
    fn size(&self) -> u64 {
        0
    }
    fn read_only(&self) -> bool {
        true
    }
    fn kind(&self) -> DriveKind {
        self.0
    }
    fn read(&mut self, _: u64, _: &mut [u8]) -> Result<(), BlockError> {
        Err(BlockError::NoMedium)
    }
    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), BlockError> {
        Err(BlockError::NoMedium)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
    fn discard(&mut self, _: u64, _: u64) -> Result<(), BlockError> {
        Err(BlockError::NoMedium)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn open(path: &Path, kind: MediaKind) -> ImageDriver {
        let container = Container::open_as(path, kind, OpenMode::ReadWrite).unwrap();
        ImageDriver::new(Arc::new(Mutex::new(container)), kind, Identity::default())
    }

    #[test]
    fn a_vdi_below_a_disk_keeps_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vdi");
        let params = storage::CreateParams::new(4 << 20, storage::Variant::Dynamic);
        storage::create_image(&path, "VDI", &params, &mut storage::Progress::none()).unwrap();
        let mut disk = open(&path, MediaKind::HardDisk);
        assert_eq!((disk.size(), disk.kind()), (4 << 20, DriveKind::Disk));
        assert!(
            disk.identity().serial.starts_with("VB"),
            "{:?}",
            disk.identity()
        );
        assert_eq!(disk.identity().serial.len(), 19);
        disk.write(1 << 20, &[7; 4096]).unwrap();
        disk.flush().unwrap();
        assert!(matches!(
            disk.write(4 << 20, &[0; 512]),
            Err(BlockError::OutOfRange)
        ));
        drop(disk);
        let mut got = [0; 4096];
        open(&path, MediaKind::HardDisk)
            .read(1 << 20, &mut got)
            .unwrap();
        assert_eq!(got, [7; 4096]);
    }

    #[test]
    fn a_cd_is_read_only_and_can_be_ejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cd.iso");
        std::fs::write(&path, vec![3; 8192]).unwrap();
        let mut cd = open(&path, MediaKind::Dvd);
        let status = cd.status();
        assert!(cd.read_only());
        assert!(matches!(cd.write(0, &[0; 512]), Err(BlockError::ReadOnly)));
        cd.set_locked(true);
        assert!(status.locked());
        assert!(cd.eject());
        assert!(status.ejected() && !cd.present() && cd.size() == 0);
        assert!(matches!(
            cd.read(0, &mut [0; 512]),
            Err(BlockError::NoMedium)
        ));
        let mut refusing = open(&path, MediaKind::Dvd).on_eject(Box::new(|| false));
        assert!(!refusing.eject() && refusing.present());
    }

    #[test]
    fn an_empty_drive_has_no_medium() {
        let mut drive = EmptyDrive::new(MediaKind::Floppy);
        assert!(!drive.present());
        assert!(matches!(
            drive.read(0, &mut [0; 512]),
            Err(BlockError::NoMedium)
        ));
    }
}
