//! The host side of PDM chains: what devices' drivers do with files, sockets and terminals.
//!
//! * [`block`]: disk, CD and floppy images of `storage`, and empty drives.
//! * [`char`]: what serial and parallel ports are connected to.

pub mod block;
pub mod char;
