//! Virtual time as devices see it. TM implements it.

use std::sync::Arc;

/// Virtual time: nanoseconds since power-on, standing still while the VM is paused.
pub trait Clock: Send + Sync {
    /// Now, in virtual nanoseconds. Never goes back.
    fn now_ns(&self) -> u64;
    /// The wall clock as the guest shall see it, in nanoseconds since 1970-01-01 UTC.
    fn wall_ns(&self) -> u64;
}

/// Hears timers expire.
pub trait TimerSink {
    /// Timer `id` of this device expired; it is disarmed. Re-arm it from the deadline that was
    /// set, not from now, to keep a period.
    fn expired(&mut self, id: u32);
}

/// What TM does for a [`Timer`].
pub trait TimerOps: Send + Sync {
    /// Arms the timer for the virtual time `deadline_ns`, replacing an earlier deadline. A
    /// deadline in the past expires at once, from another call chain.
    fn arm(&self, deadline_ns: u64);
    /// Disarms it; an expiry that is under way may still arrive.
    fn disarm(&self);
    /// The deadline, while armed.
    fn deadline(&self) -> Option<u64>;
}

/// A one-shot timer on virtual time.
#[derive(Clone)]
pub struct Timer(Arc<dyn TimerOps>);

impl Timer {
    /// Wraps TM's side.
    pub fn new(ops: Arc<dyn TimerOps>) -> Self {
        Self(ops)
    }
    /// See [`TimerOps::arm`].
    pub fn arm(&self, deadline_ns: u64) {
        self.0.arm(deadline_ns);
    }
    /// See [`TimerOps::disarm`].
    pub fn disarm(&self) {
        self.0.disarm();
    }
    /// See [`TimerOps::deadline`].
    pub fn deadline(&self) -> Option<u64> {
        self.0.deadline()
    }
}
