//! Whole machines, driven through `VBoxManage` only, with the software engine unless said.
//!
//! Run one with `cargo test --release -p testkit --test e2e NAME`. `OXBOX_LONG=1` asks for the long
//! variants, `OXBOX_SHOTS=FOLDER` keeps the screenshots, `OXBOX_E2E=require` makes missing
//! surroundings a failure.

mod api;
mod compiler;
mod copies;
mod debian;
mod full_disk;
mod installer;
mod kill;
mod memory;
mod memtest;
mod old_home;
mod small;
mod smp;
mod soak;

use std::time::Duration;

/// Generous: what a test waits for is an event, and a slow host is not a fault.
const MINUTE: Duration = Duration::from_secs(60);
