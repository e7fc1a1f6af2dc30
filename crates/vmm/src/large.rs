//! The caretaker that turns guest RAM in use into large host pages.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use pgm::{LARGE_PAGE, Large, Ram};

/// Time between two rounds.
const ROUND: Duration = Duration::from_millis(500);
/// Large pages made in one round: each takes the host some milliseconds, during which a vCPU that
/// uses the memory waits.
const MAKE: usize = 16;
/// Pieces looked at in one round.
const LOOK: usize = 1024;

/// Ends the caretaker.
#[derive(Default)]
pub(crate) struct Stop {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Now.
    pub fn end(&self) {
        *self.ended.lock() = true;
        self.changed.notify_all();
    }

    /// Waits for the next round; false: there is none.
    fn next(&self) -> bool {
        let mut ended = self.ended.lock();
        if !*ended {
            self.changed.wait_for(&mut ended, ROUND);
        }
        !*ended
    }
}

/// Works on the RAM offsets `range` until all of them are in large pages, the host refuses, or
/// `stop` says so.
pub(crate) fn care(ram: &Arc<Ram>, range: &Range<u64>, stop: &Stop) {
    if let Err(e) = ram.want_large() {
        tracing::warn!(target: "PGM", "no large pages for guest memory: {e}");
        return;
    }
    let mut left: Vec<u64> = (range.start.next_multiple_of(LARGE_PAGE)..range.end)
        .step_by(LARGE_PAGE as usize)
        .filter(|at| at + LARGE_PAGE <= range.end)
        .collect();
    let total = left.len();
    let mut at = 0;
    while !left.is_empty() && stop.next() {
        let mut made = 0;
        for _ in 0..LOOK.min(left.len()) {
            at %= left.len();
            match ram.make_large(left[at]) {
                Ok(Large::Yes) => {
                    left.swap_remove(at);
                    made += 1;
                    if made == MAKE || left.is_empty() {
                        break;
                    }
                }
                Ok(Large::NotYet) => at += 1,
                Ok(Large::No) => {
                    at += 1;
                    break;
                }
                Err(e) => {
                    let done = total - left.len();
                    tracing::warn!(
                        target: "PGM",
                        "{done} of {total} pieces of guest memory are large pages; no more: {e}"
                    );
                    return;
                }
            }
        }
    }
    let done = total - left.len();
    tracing::info!(target: "PGM", "{done} of {total} pieces of guest memory were large pages");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_told() {
        let ram = Ram::new(4 * LARGE_PAGE).unwrap();
        let stop = Arc::new(Stop::default());
        let thread = {
            let (ram, stop) = (ram.clone(), stop.clone());
            std::thread::spawn(move || care(&ram, &(0..ram.size()), &stop))
        };
        stop.end();
        thread.join().unwrap();
    }
}
