//! Serial ports and pseudo terminals of the host.
//!
//! Modem lines and breaks longer than the host's standard one are not passed on.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::termios::{ControlModes, OptionalActions, tcgetattr, tcsetattr};

use super::{Error, LinkDriver};

/// Opens a terminal device in raw mode.
pub fn open(path: &Path) -> Result<LinkDriver, Error> {
    let flags = rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .map_err(|e| Error::host("open", path.display(), e))?;
    let mut modes =
        tcgetattr(&file).map_err(|e| Error::host("use as a terminal", path.display(), e))?;
    modes.make_raw();
    modes.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
    modes.control_modes &= !ControlModes::CRTSCTS;
    tcsetattr(&file, OptionalActions::Now, &modes)
        .map_err(|e| Error::host("set the mode of", path.display(), e))?;
    let control = file
        .try_clone()
        .map_err(|e| Error::host("open", path.display(), e))?;
    LinkDriver::fixed(file.into(), path.display().to_string(), Some(control))
}

/// Sets speed and format. What the device cannot do is left as it is.
pub fn set_params(device: &File, baud: u32, data_bits: u8, parity: char, stop_bits: u8) {
    let Ok(mut modes) = tcgetattr(device) else {
        return;
    };
    // Speeds the host does not know keep the former one.
    let _ = modes.set_speed(baud);
    let c = &mut modes.control_modes;
    *c &= !(ControlModes::CSIZE
        | ControlModes::PARENB
        | ControlModes::PARODD
        | ControlModes::CMSPAR
        | ControlModes::CSTOPB);
    *c |= match data_bits {
        5 => ControlModes::CS5,
        6 => ControlModes::CS6,
        7 => ControlModes::CS7,
        _ => ControlModes::CS8,
    };
    *c |= match parity {
        'O' => ControlModes::PARENB | ControlModes::PARODD,
        'E' => ControlModes::PARENB,
        'M' => ControlModes::PARENB | ControlModes::PARODD | ControlModes::CMSPAR,
        'S' => ControlModes::PARENB | ControlModes::CMSPAR,
        _ => ControlModes::empty(),
    };
    if stop_bits > 1 {
        *c |= ControlModes::CSTOPB;
    }
    let _ = tcsetattr(device, OptionalActions::Now, &modes);
}

/// Sends a break of the host's standard length.
pub fn send_break(device: &File) {
    let _ = rustix::termios::tcsendbreak(device);
}
