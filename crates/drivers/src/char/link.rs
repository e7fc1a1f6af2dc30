//! Byte streams both ways: sockets and terminals, each with a thread that moves the bytes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use pdm::driver::{CharDriver, CharInput};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{Error, device};

/// Bytes of output that wait at most.
const OUTPUT_MAX: usize = 64 << 10;
/// Bytes of input taken at once.
const INPUT_MAX: usize = 4096;
/// How often a port that had no room is offered its input again, in milliseconds.
const RETRY_MS: i64 = 10;
/// How often a client tries to connect again.
const RECONNECT_MS: i64 = 1000;

/// How a connection comes about.
enum Source {
    UnixListener(UnixListener, PathBuf),
    TcpListener(TcpListener),
    UnixClient(PathBuf),
    TcpClient(String),
    /// A device that stays open.
    Fixed,
}

/// What the port's side and the thread share.
struct Shared {
    queue: Mutex<Queue>,
    wake: OwnedFd,
}

#[derive(Default)]
struct Queue {
    output: VecDeque<u8>,
    /// Somebody is at the other end.
    connected: bool,
    stop: bool,
}

impl Shared {
    fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// A port connected to a stream.
pub struct LinkDriver {
    shared: Arc<Shared>,
    parts: Option<(Source, Option<File>, String)>,
    thread: Option<JoinHandle<()>>,
    terminal: Option<File>,
    /// A socket file to remove at the end.
    remove: Option<PathBuf>,
}

fn tcp_address(text: &str) -> Result<String, Error> {
    if text.parse::<u16>().is_ok_and(|port| port != 0) {
        return Ok(format!("127.0.0.1:{text}"));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.into()),
        _ => Err(Error::Address(text.into())),
    }
}

fn unix_file(stream: UnixStream) -> std::io::Result<File> {
    stream.set_nonblocking(true)?;
    Ok(OwnedFd::from(stream).into())
}

fn tcp_file(stream: TcpStream) -> std::io::Result<File> {
    stream.set_nonblocking(true)?;
    // Characters are typed one by one.
    let _ = stream.set_nodelay(true);
    Ok(OwnedFd::from(stream).into())
}

impl LinkDriver {
    fn new(source: Source, connection: Option<File>, name: String) -> Result<Self, Error> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::host("make a wake-up event for", &name, e))?;
        let remove = match &source {
            Source::UnixListener(_, path) => Some(path.clone()),
            _ => None,
        };
        let queue = Queue {
            connected: connection.is_some(),
            ..Queue::default()
        };
        Ok(Self {
            shared: Arc::new(Shared {
                queue: Mutex::new(queue),
                wake,
            }),
            parts: Some((source, connection, name)),
            thread: None,
            terminal: None,
            remove,
        })
    }

    /// Listens on a Unix socket at `path`, for this user only. A socket left behind by a process
    /// that is gone is replaced.
    ///
    /// # Errors
    /// [`Error::InUse`] when somebody listens there, [`Error::NotASocket`], [`Error::Host`].
    pub fn unix_server(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let fail = |e: std::io::Error| Error::host("listen on", path.display(), e);
        if let Ok(meta) = std::fs::symlink_metadata(path) {
            if !meta.file_type().is_socket() {
                return Err(Error::NotASocket(name));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(Error::InUse(name));
            }
            std::fs::remove_file(path).map_err(fail)?;
        }
        let listener = UnixListener::bind(path).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, private).map_err(fail)?;
        Self::new(Source::UnixListener(listener, path.to_owned()), None, name)
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// [`Error::Host`] when nobody listens there.
    pub fn unix_client(path: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(path)
            .and_then(unix_file)
            .map_err(|e| Error::host("connect to", path.display(), e))?;
        let name = path.display().to_string();
        Self::new(Source::UnixClient(path.to_owned()), Some(stream), name)
    }

    /// Listens for a TCP client; see [`super::Mode::TcpServer`].
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::InUse`], [`Error::Host`].
    pub fn tcp_server(address: &str) -> Result<Self, Error> {
        let address = tcp_address(address)?;
        let listener = TcpListener::bind(&address).map_err(|e| match e.kind() {
            ErrorKind::AddrInUse => Error::InUse(address.clone()),
            _ => Error::host("listen on", &address, e),
        })?;
        listener
            .set_nonblocking(true)
            .map_err(|e| Error::host("listen on", &address, e))?;
        Self::new(Source::TcpListener(listener), None, address)
    }

    /// Connects to a TCP server.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Host`].
    pub fn tcp_client(address: &str) -> Result<Self, Error> {
        let address = tcp_address(address)?;
        let stream = TcpStream::connect(&address)
            .and_then(tcp_file)
            .map_err(|e| Error::host("connect to", &address, e))?;
        Self::new(Source::TcpClient(address.clone()), Some(stream), address)
    }

    /// A non-blocking descriptor that stays open; `terminal` takes line settings.
    pub(super) fn fixed(
        descriptor: OwnedFd,
        name: String,
        terminal: Option<File>,
    ) -> Result<Self, Error> {
        let mut driver = Self::new(Source::Fixed, Some(descriptor.into()), name)?;
        driver.terminal = terminal;
        Ok(driver)
    }
}

impl CharDriver for LinkDriver {
    fn send(&mut self, data: &[u8]) -> usize {
        let mut queue = self.shared.queue.lock();
        if !queue.connected {
            return data.len();
        }
        let n = data
            .len()
            .min(OUTPUT_MAX - queue.output.len().min(OUTPUT_MAX));
        let was_empty = queue.output.is_empty();
        queue.output.extend(&data[..n]);
        drop(queue);
        if was_empty && n > 0 {
            self.shared.wake();
        }
        n
    }

    fn start(&mut self, input: Arc<dyn CharInput>) {
        let Some((source, connection, name)) = self.parts.take() else {
            return;
        };
        let worker = Worker {
            shared: self.shared.clone(),
            source,
            connection,
            name: name.clone(),
            input,
            pending: Vec::new(),
        };
        match std::thread::Builder::new()
            .name("char".into())
            .spawn(move || worker.run())
        {
            Ok(thread) => self.thread = Some(thread),
            Err(e) => tracing::error!(target = %name, error = %e, "no thread for a serial port"),
        }
    }

    fn input_ready(&mut self) {
        self.shared.wake();
    }

    fn set_params(&mut self, baud: u32, data_bits: u8, parity: char, stop_bits: u8) {
        if let Some(terminal) = &self.terminal {
            device::set_params(terminal, baud, data_bits, parity, stop_bits);
        }
    }

    fn set_break(&mut self, on: bool) {
        if let Some(terminal) = self.terminal.as_ref().filter(|_| on) {
            device::send_break(terminal);
        }
    }
}

impl Drop for LinkDriver {
    fn drop(&mut self) {
        self.shared.queue.lock().stop = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // The thread itself may hold the last reference to the port.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
        if let Some(path) = &self.remove {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The thread's side.
struct Worker {
    shared: Arc<Shared>,
    source: Source,
    connection: Option<File>,
    name: String,
    input: Arc<dyn CharInput>,
    /// Input the port had no room for.
    pending: Vec<u8>,
}

impl Worker {
    fn run(mut self) {
        loop {
            let (stop, output) = {
                let queue = self.shared.queue.lock();
                (queue.stop, !queue.output.is_empty())
            };
            if stop {
                return;
            }
            self.wait(output);
            self.drain_wake();
            if self.connection.is_none() {
                self.connect();
            }
            let alive = self.deliver() && self.receive() && self.transmit();
            if !alive {
                self.disconnect();
            }
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&self, output: bool) {
        let mut fds = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        let mut timeout = None;
        match &self.connection {
            Some(connection) => {
                let mut events = PollFlags::empty();
                if self.pending.is_empty() {
                    events |= PollFlags::IN;
                } else {
                    timeout = Some(RETRY_MS);
                }
                if output {
                    events |= PollFlags::OUT;
                }
                // Without events a hang-up would still be reported, again and again.
                if !events.is_empty() {
                    fds.push(PollFd::from_borrowed_fd(connection.as_fd(), events));
                }
            }
            None => match &self.source {
                Source::UnixListener(l, _) => fds.push(PollFd::new(l, PollFlags::IN)),
                Source::TcpListener(l) => fds.push(PollFd::new(l, PollFlags::IN)),
                Source::UnixClient(_) | Source::TcpClient(_) => timeout = Some(RECONNECT_MS),
                Source::Fixed => {}
            },
        }
        let timeout = timeout.map(|ms| Timespec {
            tv_sec: ms / 1000,
            tv_nsec: ms % 1000 * 1_000_000,
        });
        // An interrupted wait is just a short one.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    fn drain_wake(&self) {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut counter);
    }

    fn connect(&mut self) {
        let connection = match &self.source {
            Source::UnixListener(l, _) => l.accept().and_then(|(s, _)| unix_file(s)),
            Source::TcpListener(l) => l.accept().and_then(|(s, _)| tcp_file(s)),
            Source::UnixClient(path) => UnixStream::connect(path).and_then(unix_file),
            Source::TcpClient(address) => TcpStream::connect(address).and_then(tcp_file),
            Source::Fixed => return,
        };
        if let Ok(connection) = connection {
            self.connection = Some(connection);
            self.shared.queue.lock().connected = true;
            tracing::info!(target = %self.name, "serial port connected");
        }
    }

    fn disconnect(&mut self) {
        self.connection = None;
        let mut queue = self.shared.queue.lock();
        queue.connected = false;
        queue.output.clear();
        tracing::info!(target = %self.name, "serial port disconnected");
    }

    /// Offers the port what it had no room for. Always true: it says nothing about the connection.
    fn deliver(&mut self) -> bool {
        if !self.pending.is_empty() {
            let n = self.input.receive(&self.pending).min(self.pending.len());
            self.pending.drain(..n);
        }
        true
    }

    fn receive(&mut self) -> bool {
        let Some(connection) = self.connection.as_mut().filter(|_| self.pending.is_empty()) else {
            return true;
        };
        let mut buffer = [0; INPUT_MAX];
        match connection.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.pending = buffer[..n].to_vec();
                self.deliver()
            }
            Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    fn transmit(&mut self) -> bool {
        let Some(connection) = &mut self.connection else {
            return true;
        };
        // Copied, so that the port is not held up by the host.
        let chunk: Vec<u8> = {
            let queue = self.shared.queue.lock();
            queue.output.iter().take(INPUT_MAX).copied().collect()
        };
        if chunk.is_empty() {
            return true;
        }
        match connection.write(&chunk) {
            Ok(n) => {
                let mut queue = self.shared.queue.lock();
                let n = n.min(queue.output.len());
                queue.output.drain(..n);
                true
            }
            Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }
}
