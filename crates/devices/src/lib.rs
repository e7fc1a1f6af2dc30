//! Guest-visible devices: one file or folder each, listed in [`registry::DEVICES`].
//!
//! Depends on `pdm`, `pgm` (handles) and `iprt` only: a device never sees the engine, the API, XML
//! or a host path.

pub mod chipset;
pub mod graphics;
pub mod input;
pub mod parallel;
pub mod registry;
pub mod serial;
pub mod storage;
