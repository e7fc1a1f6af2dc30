//! What the settings files say, as plain data. No file is touched here.
//!
//! Defaults are those of a file that does not mention the setting. Paths are as stored: relative
//! to the machine folder if inside it; see [`crate::resolve_path`] and [`crate::store_path`].

mod enums;
mod global;
mod hardware;
mod machine;
mod network;
mod storage;

pub use enums::*;
pub use global::*;
pub use hardware::*;
pub use machine::*;
pub use network::*;
pub use storage::*;
