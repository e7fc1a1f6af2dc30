//! Drives real machines through `VBoxManage`, as a user does, for tests of the whole system.
//!
//! A [`Home`] is a settings folder of its own with its own service; a [`Machine`] lives in it and
//! is watched through its serial port ([`Serial`]) and its screen ([`Picture`], [`Font`]). What a
//! test needs from its surroundings (the programs, guest images) comes from [`need`]; a test
//! whose surroundings are missing says why and counts as skipped.

#![forbid(unsafe_code)]

mod home;
mod machine;
mod screen;
mod serial;
mod surroundings;

pub use home::{Home, Processes};
pub use machine::{Machine, Plan};
pub use screen::{Font, Picture};
pub use serial::Serial;
pub use surroundings::{guest, guest_text, is_long, kvm, need, skip};

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `look` again and again until it answers, at most for `limit`.
///
/// # Errors
/// `look`'s own error at once; after `limit`, an error that names `what`.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
