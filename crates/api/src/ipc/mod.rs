//! Connections: D-Bus messages, peer to peer, over Unix sockets.
//!
//! Both ends of a connection are a [`Peer`]: either may call the other's objects. zbus frames and
//! authenticates; everything above (dispatch, object lifetimes, blocking calls) is here. Its
//! event loop runs on two threads that nobody else sees; incoming calls are answered on threads
//! that may block.

mod peer;
mod server;
mod standard;

pub mod paths;

pub use peer::{Call, Peer, SignalHandler};
pub use server::Server;

use crate::meta::Object;
use crate::value::{Val, to_structure};
use std::sync::{Arc, OnceLock};

/// The objects one side of a connection offers.
pub trait ObjectSpace: Send + Sync + 'static {
    /// The object at a path; counted references (`/ref/N`) are resolved before this is asked.
    fn resolve(&self, peer: &Arc<Peer>, path: &str) -> Option<Arc<dyn Object>>;

    /// Names of the objects one level below `path`, for introspection.
    fn children(&self, _path: &str) -> Vec<String> {
        Vec::new()
    }

    fn connected(&self, _peer: &Arc<Peer>) {}

    /// The connection is gone, and with it every reference its client had.
    fn disconnected(&self, _peer: &Arc<Peer>) {}
}

/// Whether the object at a path lives as long as somebody refers to it.
pub(crate) fn is_counted(path: &str) -> bool {
    path.contains(REF_PREFIX)
}

/// Counted references of one connection: `/ref/17`; of a VM process, seen through the service,
/// `/VM/ID/ref/17`.
pub(crate) const REF_PREFIX: &str = "/ref/";

/// The event loop behind all connections of this process.
pub(crate) fn runtime() -> &'static tokio::runtime::Handle {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .max_blocking_threads(1024)
                .thread_name("api-ipc")
                .enable_all()
                .build()
                // Without threads or epoll there is no program to go on with.
                .unwrap_or_else(|e| panic!("cannot start the connection threads: {e}"))
        })
        .handle()
}

/// Completes a message with its arguments.
pub(crate) fn build_body(
    builder: zbus::message::Builder<'_>,
    mut values: Vec<Val>,
) -> zbus::Result<zbus::Message> {
    match values.len() {
        0 => builder.build(&()),
        1 => match values.remove(0) {
            Val::Bytes(bytes) => builder.build(&bytes),
            value => builder.build(&to_structure(vec![value])?),
        },
        _ => builder.build(&to_structure(values)?),
    }
}
