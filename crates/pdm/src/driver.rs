//! Interfaces between devices and the drivers attached below them.

use std::sync::Arc;

/// Why a block operation failed.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The host's disk is full: pause the VM and try the same operation again on resume.
    #[error("no space left on the host for {0}")]
    DiskFull(String),
    /// Read-only medium.
    #[error("medium is read-only")]
    ReadOnly,
    /// Past the end of the medium.
    #[error("access past the end of the medium")]
    OutOfRange,
    /// No medium in the drive.
    #[error("no medium")]
    NoMedium,
    /// Anything else; the guest sees a medium error.
    #[error("{0}")]
    Io(String),
}

/// A disk, CD or floppy image (or an empty drive) below a storage device. Blocking calls.
pub trait BlockDriver: Send {
    /// Whether a medium is in.
    fn present(&self) -> bool {
        true
    }
    /// Bytes of the medium; 0 without one.
    fn size(&self) -> u64;
    /// Whether writes are refused.
    fn read_only(&self) -> bool;
    /// What kind of drive it is.
    fn kind(&self) -> DriveKind;
    /// Geometry stored with the image (cylinders, heads, sectors), if any.
    fn geometry(&self) -> Option<(u32, u32, u32)> {
        None
    }
    /// Serial number, model and firmware revision to show the guest.
    fn identity(&self) -> Identity {
        Identity::default()
    }
    /// Fills `data` from `offset` (bytes).
    ///
    /// # Errors
    /// See [`BlockError`].
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BlockError>;
    /// Writes `data` at `offset` (bytes).
    ///
    /// # Errors
    /// See [`BlockError`].
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BlockError>;
    /// Returns when all that was written before survives a crash of the host.
    ///
    /// # Errors
    /// See [`BlockError`].
    fn flush(&mut self) -> Result<(), BlockError>;
    /// The guest does not need the range any more; it may read as zeros after.
    ///
    /// # Errors
    /// See [`BlockError`].
    fn discard(&mut self, offset: u64, len: u64) -> Result<(), BlockError>;
    /// The guest locks or frees the tray.
    fn set_locked(&mut self, locked: bool) {
        let _ = locked;
    }
    /// The guest ejects the medium. False when the host refuses.
    fn eject(&mut self) -> bool {
        false
    }
}

/// Kind of drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriveKind {
    /// Hard disk.
    Disk,
    /// CD or DVD.
    Dvd,
    /// Floppy.
    Floppy,
}

/// What a drive says of itself. Empty strings: the device's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// At most 20 bytes ASCII.
    pub serial: String,
    /// At most 40 bytes ASCII.
    pub model: String,
    /// At most 8 bytes ASCII.
    pub firmware: String,
    /// Report a non-rotating medium.
    pub non_rotational: bool,
    /// Offer TRIM to the guest.
    pub discard: bool,
}

/// Takes changes of removable media.
pub trait MediaSink {
    /// Replaces the driver of `unit` (an empty drive is a driver that is not `present`). The guest
    /// is told as the drive would. Returns the old one. `force` overrides a locked tray.
    ///
    /// # Errors
    /// Gives the new driver back when there is no such unit or the guest has locked the tray.
    fn change_medium(
        &mut self,
        unit: u32,
        driver: Box<dyn BlockDriver>,
        force: bool,
    ) -> Result<Option<Box<dyn BlockDriver>>, Box<dyn BlockDriver>>;
}

/// The host side of a serial or parallel port.
pub trait CharDriver: Send {
    /// Sends bytes; returns how many were taken (0: busy, try again). Never blocks.
    fn send(&mut self, data: &[u8]) -> usize;
    /// Starts delivering received bytes to `input` from a thread of the driver's own. `input`
    /// returns how many bytes were taken; the driver offers the rest again after a pause or after
    /// [`CharDriver::input_ready`].
    fn start(&mut self, input: Arc<dyn CharInput>);
    /// The device has room for more input.
    fn input_ready(&mut self) {}
    /// Line settings changed (real ports follow them): baud, data bits, parity ('N', 'E', 'O',
    /// 'M', 'S'), stop bits.
    fn set_params(&mut self, baud: u32, data_bits: u8, parity: char, stop_bits: u8) {
        let _ = (baud, data_bits, parity, stop_bits);
    }
    /// Modem outputs: DTR and RTS.
    fn set_modem(&mut self, dtr: bool, rts: bool) {
        let _ = (dtr, rts);
    }
    /// Break condition.
    fn set_break(&mut self, on: bool) {
        let _ = on;
    }
}

/// Where received bytes go. The VM implements it by locking the device and calling its
/// [`CharSink`].
pub trait CharInput: Send + Sync {
    /// Offers bytes; returns how many were taken.
    fn receive(&self, data: &[u8]) -> usize;
    /// Modem inputs changed: CTS, DSR, RI, DCD.
    fn modem(&self, cts: bool, dsr: bool, ri: bool, dcd: bool);
}

/// The device's side of [`CharInput`].
pub trait CharSink {
    /// Takes received bytes; returns how many (limited by the FIFO).
    fn receive(&mut self, data: &[u8]) -> usize;
    /// Modem inputs changed.
    fn modem(&mut self, cts: bool, dsr: bool, ri: bool, dcd: bool);
}
