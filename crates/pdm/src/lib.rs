//! PDM: what a device or driver may use, as traits and plain types.
//!
//! A device is built by its [`DeviceReg::construct`] from its own CFGM [`cfgm::Node`] and a
//! [`Host`], through which it gets everything: ports, memory-mapped registers, interrupt lines, PCI
//! functions, timers, guest memory and the drivers attached below it. It never sees an engine, the
//! API, XML or a host path.
//!
//! Each device sits behind one mutex ([`Shared`]); its methods are called with that lock held, from
//! any vCPU or I/O thread. Lock order: device -> interrupt controller -> local APIC. A device may
//! call [`IrqLine::set`], [`Timer`], guest memory and its drivers from inside its methods; it must
//! not touch another device.
//!
//! Bad accesses: the bus answers all ones for what nobody claims; a device answers what its
//! datasheet says for the rest and never panics.

pub mod cfgm;
mod device;
pub mod dma;
pub mod driver;
mod host;
pub mod irq;
pub mod pci;
pub mod ssm;
pub mod testing;
pub mod time;

pub use device::{
    Device, DeviceReg, DisplaySource, Frame, KeyboardSink, Mmio, MouseEvent, MouseSink, Pio,
    Shared, TextScreen, share,
};
pub use host::{Host, MmioRange, PioRange, VmControl, VmRequest};
pub use irq::IrqLine;
pub use time::{Clock, Timer, TimerSink};

/// Why a device could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value in the device's configuration is missing or out of range.
    #[error("configuration value '{key}': {reason}")]
    Config {
        /// Path of the value below the device's node.
        key: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A file the device needs (firmware, option ROM) is missing or unusable.
    #[error("{what}: {reason}")]
    File {
        /// Path of the file.
        what: String,
        /// What is wrong, and the package that has it where known.
        reason: String,
    },
    /// A port, MMIO, PCI or IRQ resource is taken or out of range.
    #[error("resource conflict: {0}")]
    Resource(String),
    /// Guest memory could not be had.
    #[error(transparent)]
    Memory(#[from] pgm::Error),
    /// Saved data does not fit this device.
    #[error("saved state: {0}")]
    SavedState(String),
}

/// Result of PDM operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;
