//! How a client reaches the service: connect, and start it when nobody has.

use crate::ipc::{ObjectSpace, Peer, paths};
use crate::proxy::{Proxy, Remote};
use crate::value::ObjRef;
use crate::{Error, Result, ResultCode, client};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Where the root object is.
pub const ROOT: &str = "/VirtualBox";

/// A client's connection to the service.
#[derive(Debug, Clone)]
pub struct Client {
    peer: Arc<Peer>,
}

impl Client {
    /// Connects to this user's service, starting it when it does not run.
    ///
    /// # Errors
    /// `NS_ERROR_FAILURE` when the service cannot be started or reached.
    pub fn connect() -> Result<Self> {
        Self::connect_with(None)
    }

    /// Like [`Client::connect`], with objects that the service may call back.
    ///
    /// # Errors
    /// See [`Client::connect`].
    pub fn connect_with(space: Option<Arc<dyn ObjectSpace>>) -> Result<Self> {
        let runtime = paths::runtime_folder().map_err(|e| failure("the socket folder", &e))?;
        let socket = paths::service_socket(&runtime);
        let mut last = None;
        // A service that is about to end may accept a client and be gone before it answers.
        for _ in 0..5 {
            let stream = match UnixStream::connect(&socket) {
                Ok(stream) => stream,
                Err(e)
                    if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
                {
                    start_service(&runtime, &socket)?
                }
                Err(e) => return Err(failure("connecting to VBoxSVC", &e)),
            };
            match Peer::connect(stream, space.clone()) {
                Ok(peer) => return Ok(Self { peer }),
                Err(e) if e.code == ResultCode::E_ACCESSDENIED => return Err(e),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| Error::connection("VBoxSVC does not answer")))
    }

    /// A client on a connection made by other means.
    pub fn from_peer(peer: Arc<Peer>) -> Self {
        Self { peer }
    }

    /// The root object.
    pub fn virtualbox(&self) -> client::VirtualBox {
        self.object(ROOT)
    }

    /// A new session object; it is released, and its lock with it, when the last clone of the
    /// returned object is dropped or this process ends.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn session(&self) -> Result<client::Session> {
        let manager: client::WebsessionManager = self.object(ROOT);
        manager.get_session_object(&self.virtualbox())
    }

    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// The object at a path, without asking whether it exists.
    pub fn object<T: Remote>(&self, path: &str) -> T {
        T::from_proxy(Proxy::new(self.peer.clone(), ObjRef::new(path)))
    }
}

fn failure(what: &str, error: &std::io::Error) -> Error {
    Error::new(ResultCode::NS_ERROR_FAILURE, format!("{what}: {error}"))
}

/// An executable of this product: in the folder named by `VBOX_APP_HOME`, else beside the running
/// one (tests run one folder further down).
///
/// # Errors
/// `VBOX_E_FILE_ERROR` naming the places searched.
pub fn executable(name: &str) -> Result<PathBuf> {
    let mut folders = Vec::new();
    if let Some(folder) = std::env::var_os("VBOX_APP_HOME").filter(|f| !f.is_empty()) {
        folders.push(PathBuf::from(folder));
    } else if let Ok(own) = std::env::current_exe() {
        folders.extend(own.ancestors().skip(1).take(2).map(Path::to_owned));
    }
    folders
        .iter()
        .map(|f| f.join(name))
        .find(|p| p.is_file())
        .ok_or_else(|| {
            let places: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
            let text = format!(
                "The executable {name} was not found in {}",
                places.join(" or ")
            );
            Error::new(ResultCode::VBOX_E_FILE_ERROR, text)
        })
}

/// Starts the service and connects; of several clients that try at once, one starts it.
fn start_service(runtime: &Path, socket: &Path) -> Result<UnixStream> {
    let lock = File::create(runtime.join("start.lock")).map_err(|e| failure("start.lock", &e))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| failure("start.lock", &e.into()))?;
    if let Ok(stream) = UnixStream::connect(socket) {
        return Ok(stream);
    }
    let program = executable("VBoxSVC")?;
    let mut child = Command::new(&program)
        .arg("--auto-shutdown")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Ctrl-C in the client's terminal is not meant for the service.
        .process_group(0)
        .spawn()
        .map_err(|e| failure(&format!("starting {}", program.display()), &e))?;
    // The service says "ready", or what is wrong, and closes its standard output.
    let mut answer = String::new();
    if let Some(out) = child.stdout.take() {
        out.take(64 * 1024)
            .read_to_string(&mut answer)
            .map_err(|e| failure("waiting for VBoxSVC", &e))?;
    }
    if answer.trim() != "ready" {
        let text = format!("VBoxSVC did not start: {}", answer.trim());
        return Err(Error::new(ResultCode::NS_ERROR_FAILURE, text));
    }
    UnixStream::connect(socket).map_err(|e| failure("connecting to VBoxSVC", &e))
}
