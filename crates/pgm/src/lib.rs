//! PGM: guest-physical memory.
//!
//! * [`Ram`] is the one memfd that holds everything the guest may access directly: RAM, video RAM
//!   and ROM images. Each allocation is a [`RamBlock`]; a *RAM offset* (a `u64` below
//!   [`Ram::size`]) names one byte of it for good, whatever guest-physical address shows it.
//! * [`PhysMap`] says what each guest-physical page is: memory (which part of [`Ram`], and whether
//!   writes reach it) or a handler of a device.
//!
//! PGM knows neither devices nor engines. Engines ask it for host pointers ([`PhysMap::lookup`]) and
//! listen for changes ([`PhysMap::subscribe`]); devices read and write through [`PhysMap::read`]
//! and [`PhysMap::write`].
//!
//! Every access to guest memory goes through this crate or through an engine's own fast path.

mod large;
mod map;
mod ram;

pub use large::{LARGE_PAGE, Large};
pub use map::{
    Listener, PageLookup, PhysHandler, PhysMap, RegionId, RegionKind, Target, WriteFlags,
};
pub use ram::{PAGE_SIZE, PageFlags, Ram, RamBlock};

/// What can go wrong when guest memory is set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host gave no memory or no file descriptor for it.
    #[error("cannot allocate {size} bytes of guest memory: {source}")]
    Allocate {
        /// Bytes asked for.
        size: u64,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
    /// The reserved space of [`Ram`] is used up.
    #[error("guest memory pool is full: {asked} bytes asked, {left} bytes left")]
    PoolFull {
        /// Bytes asked for.
        asked: u64,
        /// Bytes left in the pool.
        left: u64,
    },
    /// A region is not page aligned, empty, or passes the end of the address space.
    #[error("bad guest-physical region: address {gpa:#x}, {size:#x} bytes")]
    BadRegion {
        /// First guest-physical address.
        gpa: u64,
        /// Bytes.
        size: u64,
    },
}
