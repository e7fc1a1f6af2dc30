//! Character drivers: what a serial or parallel port is connected to.
//!
//! All modes are VirtualBox's. None ever blocks the guest: output waits in a bounded buffer, and
//! when that is full the port is told to try again. A server without a client drops output, as a
//! cable without a terminal does.

mod device;
mod file;
mod link;

use std::path::PathBuf;

use pdm::driver::CharDriver;

pub use file::FileDriver;
pub use link::LinkDriver;

/// What a port is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// A Unix stream socket.
    HostPipe {
        /// Its path.
        path: PathBuf,
        /// Whether we make it and wait for a client; else we connect to it.
        server: bool,
    },
    /// A serial port or pseudo terminal of the host.
    HostDevice {
        /// Its path (`/dev/ttyS0`, `/dev/pts/3`).
        path: PathBuf,
    },
    /// Everything sent goes into a file, which is emptied first.
    RawFile {
        /// Its path.
        path: PathBuf,
    },
    /// Waits for a TCP client. `address` is `PORT`, for clients on this host only, or
    /// `ADDRESS:PORT`.
    TcpServer {
        /// Where to listen.
        address: String,
    },
    /// Connects to a TCP server, `HOST:PORT`.
    TcpClient {
        /// Where to connect.
        address: String,
    },
}

/// Why a port could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused.
    #[error("cannot {action} '{target}': {source}")]
    Host {
        /// What was tried.
        action: &'static str,
        /// Path or address.
        target: String,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
    /// The address is not one.
    #[error("'{0}' is not a TCP address: PORT or HOST:PORT is expected")]
    Address(String),
    /// Someone else listens there.
    #[error("'{0}' is in use: another machine or program is listening on it")]
    InUse(String),
    /// Something that is not a socket is in the way.
    #[error("'{0}' exists and is not a socket: remove it or choose another path")]
    NotASocket(String),
}

impl Error {
    fn host(
        action: &'static str,
        target: impl std::fmt::Display,
        source: impl Into<std::io::Error>,
    ) -> Self {
        Self::Host {
            action,
            target: target.to_string(),
            source: source.into(),
        }
    }
}

/// Connects a port.
///
/// # Errors
/// [`Error`] naming the path or address.
pub fn open(mode: &Mode) -> Result<Box<dyn CharDriver>, Error> {
    Ok(match mode {
        Mode::RawFile { path } => Box::new(FileDriver::create(path)?),
        Mode::HostDevice { path } => Box::new(device::open(path)?),
        Mode::HostPipe { path, server: true } => Box::new(LinkDriver::unix_server(path)?),
        Mode::HostPipe {
            path,
            server: false,
        } => Box::new(LinkDriver::unix_client(path)?),
        Mode::TcpServer { address } => Box::new(LinkDriver::tcp_server(address)?),
        Mode::TcpClient { address } => Box::new(LinkDriver::tcp_client(address)?),
    })
}

/// A port that is there and connected to nothing: output is lost.
pub struct NullDriver;

impl CharDriver for NullDriver {
    fn send(&mut self, data: &[u8]) -> usize {
        data.len()
    }
    fn start(&mut self, _: std::sync::Arc<dyn pdm::driver::CharInput>) {}
}

#[cfg(test)]
mod tests;
