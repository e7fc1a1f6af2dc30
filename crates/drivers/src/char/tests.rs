use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use pdm::driver::CharInput;

use super::{Error, Mode, open};

/// A port with so many places; waits are woken by arrivals.
struct Port {
    state: Mutex<(Vec<u8>, usize)>,
    changed: Condvar,
}

impl Port {
    fn new(room: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new((Vec::new(), room)),
            changed: Condvar::new(),
        })
    }
    fn wait_for(&self, want: &[u8]) {
        let mut state = self.state.lock();
        while state.0 != want {
            self.changed.wait(&mut state);
        }
    }
    fn give_room(&self, more: usize) {
        self.state.lock().1 += more;
    }
}

impl CharInput for Port {
    fn receive(&self, data: &[u8]) -> usize {
        let mut state = self.state.lock();
        let n = data.len().min(state.1);
        state.1 -= n;
        state.0.extend_from_slice(&data[..n]);
        self.changed.notify_all();
        n
    }
    fn modem(&self, _: bool, _: bool, _: bool, _: bool) {}
}

fn read_exact(stream: &mut impl Read, n: usize) -> Vec<u8> {
    let mut got = vec![0; n];
    stream.read_exact(&mut got).unwrap();
    got
}

#[test]
fn unix_server_talks_reconnects_and_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("com1");
    let mode = Mode::HostPipe {
        path: path.clone(),
        server: true,
    };
    let mut driver = open(&mode).unwrap();
    let port = Port::new(100);
    driver.start(port.clone());
    assert_eq!(driver.send(b"nobody hears this"), 17);
    assert!(matches!(open(&mode), Err(Error::InUse(_))));
    for word in [b"one", b"two"] {
        let mut client = UnixStream::connect(&path).unwrap();
        port.state.lock().0.clear();
        client.write_all(word).unwrap();
        port.wait_for(word);
        assert_eq!(driver.send(b"echo"), 4);
        assert_eq!(read_exact(&mut client, 4), b"echo");
    }
    drop(driver);
    assert!(!path.exists());
}

#[test]
fn a_stale_socket_is_replaced_and_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("com1");
    drop(UnixListener::bind(&path).unwrap());
    let mode = Mode::HostPipe {
        path: path.clone(),
        server: true,
    };
    drop(open(&mode).unwrap());
    std::fs::write(&path, "text").unwrap();
    let error = open(&mode).err().unwrap().to_string();
    assert!(
        error.contains("com1") && error.contains("not a socket"),
        "{error}"
    );
}

#[test]
fn a_port_without_room_gets_its_input_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peer");
    let listener = UnixListener::bind(&path).unwrap();
    let mut driver = open(&Mode::HostPipe {
        path,
        server: false,
    })
    .unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    let port = Port::new(2);
    driver.start(port.clone());
    peer.write_all(b"abcdef").unwrap();
    port.wait_for(b"ab");
    port.give_room(4);
    driver.input_ready();
    port.wait_for(b"abcdef");
}

#[test]
fn output_is_bounded_when_the_peer_does_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peer");
    let listener = UnixListener::bind(&path).unwrap();
    let mut driver = open(&Mode::HostPipe {
        path,
        server: false,
    })
    .unwrap();
    let (_peer, _) = listener.accept().unwrap();
    let chunk = [b'x'; 4096];
    let mut sent = 0;
    loop {
        match driver.send(&chunk) {
            0 => break,
            n => sent += n,
        }
    }
    assert_eq!(sent, 64 << 10);
}

#[test]
fn tcp_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = open(&Mode::TcpClient { address }).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    let port = Port::new(100);
    client.start(port.clone());
    peer.write_all(b"hello").unwrap();
    port.wait_for(b"hello");
    client.send(b"there");
    assert_eq!(read_exact(&mut peer, 5), b"there");
    // A server on a port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = free.local_addr().unwrap().port().to_string();
    let mode = Mode::TcpServer {
        address: number.clone(),
    };
    assert!(matches!(open(&mode), Err(Error::InUse(_))));
    drop(free);
    let mut server = open(&mode).unwrap();
    let port = Port::new(100);
    server.start(port.clone());
    let mut peer = TcpStream::connect(format!("127.0.0.1:{number}")).unwrap();
    peer.write_all(b"hi").unwrap();
    port.wait_for(b"hi");
    assert!(matches!(
        open(&Mode::TcpServer {
            address: "nonsense".into()
        }),
        Err(Error::Address(_))
    ));
}

#[test]
fn a_pseudo_terminal_carries_raw_bytes() {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let path = PathBuf::from(name.to_str().unwrap());
    let mut driver = open(&Mode::HostDevice { path }).unwrap();
    let port = Port::new(100);
    driver.start(port.clone());
    driver.set_params(9600, 8, 'N', 1);
    let mut master = std::fs::File::from(master);
    master.write_all(b"\x03line\n\xff").unwrap();
    port.wait_for(b"\x03line\n\xff");
    driver.send(b"out\n");
    assert_eq!(read_exact(&mut master, 4), b"out\n");
}

#[test]
fn a_file_takes_everything_and_errors_name_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.txt");
    std::fs::write(&path, "old").unwrap();
    let mut driver = open(&Mode::RawFile { path: path.clone() }).unwrap();
    assert_eq!(driver.send(b"new text"), 8);
    assert_eq!(std::fs::read(&path).unwrap(), b"new text");
    let missing = dir.path().join("no/such/place");
    for mode in [
        Mode::RawFile {
            path: missing.clone(),
        },
        Mode::HostDevice {
            path: missing.clone(),
        },
        Mode::HostPipe {
            path: missing.clone(),
            server: false,
        },
        Mode::HostPipe {
            path: missing.clone(),
            server: true,
        },
    ] {
        let error = open(&mode).err().unwrap().to_string();
        assert!(error.contains("no/such/place"), "{error}");
    }
    let not_a_terminal = open(&Mode::HostDevice { path }).err().unwrap().to_string();
    assert!(not_a_terminal.contains("as a terminal"), "{not_a_terminal}");
}
