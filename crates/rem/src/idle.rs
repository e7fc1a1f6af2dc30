//! Notices that a vCPU has had little to do, so that memory may be given back.

use std::time::{Duration, Instant};

/// What is looked at in one piece.
const WINDOW: Duration = Duration::from_secs(15);
/// A vCPU is idle when it sleeps all but one part in this many.
const BUSY: u32 = 20;

/// Where a vCPU spends its time.
pub struct Idle {
    since: Instant,
    slept: Duration,
    left: Instant,
}

impl Idle {
    /// Begins to look.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            slept: Duration::ZERO,
            left: now,
        }
    }

    /// The vCPU stops executing.
    pub fn leaves(&mut self, now: Instant) {
        self.left = now;
    }

    /// It goes on. True once in a while, when it has been idle all the while.
    pub fn enters(&mut self, now: Instant) -> bool {
        self.slept += now.saturating_duration_since(self.left);
        let window = now.saturating_duration_since(self.since);
        if window < WINDOW {
            return false;
        }
        let busy = window.saturating_sub(self.slept);
        self.since = now;
        self.slept = Duration::ZERO;
        busy * BUSY < window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Executes for `busy` of every 100 ms; how often it was found idle in a minute.
    fn found(busy: u64) -> usize {
        let mut now = Instant::now();
        let mut idle = Idle::new(now);
        let mut found = 0;
        for _ in 0..600 {
            found += usize::from(idle.enters(now));
            now += Duration::from_millis(busy);
            idle.leaves(now);
            now += Duration::from_millis(100 - busy);
        }
        found
    }

    #[test]
    fn only_the_idle_are_found_idle() {
        assert_eq!(found(1), 3);
        assert_eq!(found(10), 0);
        assert_eq!(found(100), 0);
    }
}
