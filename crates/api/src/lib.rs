//! The Main API: one definition (`idl/`), from which come the server traits, their dispatch and
//! the typed client, and the connection that carries calls between processes.
//!
//! The wire is D-Bus, peer to peer over a Unix socket that only its owner can reach. Calls block;
//! each call that comes in is answered on a thread of its own. See `README.md` for how a client
//! connects and how a process exports objects.

mod error;
pub mod event;
mod generated;
pub mod ipc;
mod macros;
pub mod meta;
pub mod progress;
pub mod proxy;
pub mod value;
pub mod vm;

pub mod connect;

pub use error::{Error, Result};
pub use generated::types::{self, ResultCode};
pub use generated::{client, meta as tables, server};
pub use ipc::Call;
pub use meta::Object;
pub use proxy::Remote;
pub use value::{Args, ObjRef, Val, Wire};
