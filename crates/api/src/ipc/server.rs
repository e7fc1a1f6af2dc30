//! The listening end.

use super::{ObjectSpace, Peer, runtime};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A socket that accepts clients until it is dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Listens at `path`, replacing a socket that a dead process left there: the caller makes
    /// sure, by a lock, that no live process listens.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(path: &Path, space: Arc<dyn ObjectSpace>) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let _in_runtime = runtime().enter();
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let task = runtime().spawn(accept(listener, space));
        Ok(Self {
            path: path.to_owned(),
            task,
        })
    }

    /// Takes the socket away: nobody finds this process any more, clients already here stay.
    pub fn stop(&self) {
        let _ = std::fs::remove_file(&self.path);
        self.task.abort();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept(listener: tokio::net::UnixListener, space: Arc<dyn ObjectSpace>) {
    let guid = zbus::Guid::generate();
    loop {
        let stream = match listener
            .accept()
            .await
            .and_then(|(stream, _)| stream.into_std())
        {
            Ok(stream) => stream,
            Err(e) => {
                // Out of file descriptors, most likely: wait for some to come free.
                tracing::warn!("a client could not be accepted: {e}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let (space, guid) = (space.clone(), guid.to_owned());
        tokio::spawn(async move {
            if let Err(e) = Peer::start(stream, Some(space), Some(guid)).await {
                tracing::warn!("a client was refused: {e}");
            }
        });
    }
}
