//! How other threads reach a vCPU.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Bits of [`Signals`].
pub mod signal {
    /// The interrupt controller has a vector for the vCPU.
    pub const INTR: u32 = 1 << 0;
    /// NMI.
    pub const NMI: u32 = 1 << 1;
    /// SMI.
    pub const SMI: u32 = 1 << 2;
    /// INIT.
    pub const INIT: u32 = 1 << 3;
    /// Start-up IPI; the vector is in [`super::Signals::sipi_vector`].
    pub const SIPI: u32 = 1 << 4;
    /// A timer is due: TM wants to run on the vCPU's thread.
    pub const TIMER: u32 = 1 << 5;
    /// The VM has a request for the vCPU's thread (pause, reset, power off, debugger).
    pub const REQUEST: u32 = 1 << 6;
    /// The physical map changed: flush TLBs. Handled inside engines.
    pub const FLUSH: u32 = 1 << 7;
    /// Code pages were written by others: see the engine's queue. Handled inside engines.
    pub const CODE: u32 = 1 << 8;
    /// What makes an engine come back to EM.
    pub const LEAVE: u32 = INIT | SIPI | TIMER | REQUEST;
    /// What wakes a halted vCPU.
    pub const WAKE: u32 = INTR | NMI | SMI | LEAVE;
}

type Kick = Box<dyn Fn() + Send + Sync>;

/// Pending signals of one vCPU.
#[derive(Default)]
pub struct Signals {
    bits: AtomicU32,
    sipi: AtomicU8,
    kick: Mutex<Option<Kick>>,
    sleeping: Mutex<bool>,
    wake: Condvar,
}

impl Signals {
    /// Raises `bits`, makes a running engine look, and wakes a sleeping vCPU.
    pub fn raise(&self, bits: u32) {
        let old = self.bits.fetch_or(bits, Ordering::SeqCst);
        if old & bits != bits {
            if let Some(kick) = &*self.kick.lock() {
                kick();
            }
            if bits & signal::WAKE != 0 && *self.sleeping.lock() {
                self.wake.notify_all();
            }
        }
    }

    /// Clears `bits` and returns which of them were set.
    pub fn take(&self, bits: u32) -> u32 {
        self.bits.fetch_and(!bits, Ordering::SeqCst) & bits
    }

    /// The bits set now.
    pub fn get(&self) -> u32 {
        self.bits.load(Ordering::SeqCst)
    }

    /// Raises SIPI with its vector.
    pub fn raise_sipi(&self, vector: u8) {
        self.sipi.store(vector, Ordering::SeqCst);
        self.raise(signal::SIPI);
    }

    /// Vector of the last start-up IPI.
    pub fn sipi_vector(&self) -> u8 {
        self.sipi.load(Ordering::SeqCst)
    }

    /// Says what makes a running engine look at the bits (`None`: nothing runs). Called with a
    /// lock held: must be cheap and raise nothing.
    pub fn set_kick(&self, kick: Option<Kick>) {
        *self.kick.lock() = kick;
    }

    /// Sleeps until one of `bits` is set, at most `limit`. Returns the bits then set.
    pub fn sleep(&self, bits: u32, limit: Option<Duration>) -> u32 {
        let deadline = limit.map(|l| std::time::Instant::now() + l);
        let mut sleeping = self.sleeping.lock();
        *sleeping = true;
        while self.get() & bits == 0 {
            match deadline {
                None => self.wake.wait(&mut sleeping),
                Some(d) => {
                    if self.wake.wait_until(&mut sleeping, d).timed_out() {
                        break;
                    }
                }
            }
        }
        *sleeping = false;
        self.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_sleeper_wakes_for_its_bits_only() {
        let s = Arc::new(Signals::default());
        let t = {
            let s = s.clone();
            std::thread::spawn(move || s.sleep(signal::WAKE, None))
        };
        s.raise(signal::FLUSH);
        s.raise(signal::INTR);
        assert_eq!(t.join().unwrap() & signal::INTR, signal::INTR);
        assert_eq!(s.take(signal::INTR | signal::NMI), signal::INTR);
    }
}
