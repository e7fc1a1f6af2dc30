//! The host side of a machine's drives and ports.

use std::path::Path;
use std::sync::Arc;

use api::types::{DeviceType, PortMode, ResultCode};
use api::{Error, Result};
use drivers::block::{EmptyDrive, ImageDriver};
use drivers::char::{self, Mode, NullDriver};
use parking_lot::Mutex;
use pdm::driver::{BlockDriver, CharDriver, Identity};
use storage::{Container, MediaKind, OpenMode};

use crate::settings::{Drive, Serial};

fn kind(drive: &Drive) -> Result<MediaKind> {
    match drive.kind {
        DeviceType::HardDisk => Ok(MediaKind::HardDisk),
        DeviceType::DVD => Ok(MediaKind::Dvd),
        DeviceType::Floppy => Ok(MediaKind::Floppy),
        other => Err(Error::new(
            ResultCode::VBOX_E_NOT_SUPPORTED,
            format!("A drive cannot be of the type {}", other.name()),
        )),
    }
}

/// Opens the medium of a drive. `ejected` runs when the guest ejects it.
///
/// # Errors
/// `VBOX_E_FILE_ERROR` with the image's own words.
pub fn drive(
    drive: &Drive,
    ejected: impl FnMut() -> bool + Send + 'static,
) -> Result<Box<dyn BlockDriver>> {
    let kind = kind(drive)?;
    if drive.images.is_empty() {
        return Ok(Box::new(EmptyDrive::new(kind)));
    }
    let mode = if drive.read_only {
        OpenMode::ReadOnly
    } else {
        OpenMode::ReadWrite
    };
    let paths: Vec<&Path> = drive.images.iter().map(AsRef::as_ref).collect();
    let container = match paths.as_slice() {
        [one] => Container::open_as(one, kind, mode),
        chain => Container::open_chain(chain, mode),
    };
    let container = container.map_err(|e| {
        Error::new(
            ResultCode::VBOX_E_FILE_ERROR,
            super::sentence(&e.to_string()),
        )
    })?;
    let identity = Identity {
        non_rotational: drive.non_rotational,
        discard: drive.discard,
        ..Identity::default()
    };
    let driver = ImageDriver::new(Arc::new(Mutex::new(container)), kind, identity);
    Ok(Box::new(driver.on_eject(Box::new(ejected))))
}

/// Connects a serial port.
///
/// # Errors
/// `VBOX_E_FILE_ERROR` naming the path or address.
pub fn serial(port: &Serial) -> Result<Box<dyn CharDriver>> {
    let path = || port.path.clone().into();
    let address = || port.path.clone();
    let mode = match (port.mode, port.server) {
        (PortMode::Disconnected, _) => return Ok(Box::new(NullDriver)),
        (PortMode::HostPipe, server) => Mode::HostPipe {
            path: path(),
            server,
        },
        (PortMode::HostDevice, _) => Mode::HostDevice { path: path() },
        (PortMode::RawFile, _) => Mode::RawFile { path: path() },
        (PortMode::TCP, true) => Mode::TcpServer { address: address() },
        (PortMode::TCP, false) => Mode::TcpClient { address: address() },
    };
    char::open(&mode).map_err(|e| {
        let text = format!("Serial port {}: {e}", port.slot + 1);
        Error::new(ResultCode::VBOX_E_FILE_ERROR, text)
    })
}
