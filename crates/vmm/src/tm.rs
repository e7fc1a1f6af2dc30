//! TM: virtual time and timers.
//!
//! There is one counter: the guest's time-stamp counter. It is the host's plus a constant
//! ([`Tm::tsc_delta`]) where the host's is invariant, so engines may use RDTSC directly; otherwise
//! it counts nanoseconds of the host's monotonic clock. It stands still while the VM is paused.
//! Virtual time in nanoseconds is exactly the counter divided by its frequency.
//!
//! Due timers are run by the timer thread, so that they neither wait for a vCPU to leave its engine
//! nor take its time. While vCPU 0 sleeps in HLT it wakes for them itself and runs them: an idle
//! machine wakes one thread for a tick, not two.
#![allow(unsafe_code)] // RDTSC and CPUID intrinsics

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

/// No deadline.
const NEVER: u64 = u64::MAX;
/// How often timers that fire at once again are run in one go: periodic ones catch up this far.
const MAX_PASSES: u32 = 16;
/// Fraction bits of [`Tm::ns_per_tick`].
const SHIFT: u32 = 60;

/// Virtual time of one VM.
pub(crate) struct Tm {
    source: Source,
    /// Nanoseconds for one tick, fixed point with [`SHIFT`] fraction bits.
    ns_per_tick: u64,
    running: AtomicBool,
    /// Guest minus host counter, while running.
    delta: AtomicU64,
    /// Guest counter, while stopped.
    stopped_at: AtomicU64,
    /// Where `wall_start` was taken.
    origin: Instant,
    /// Wall clock at `origin` as the guest sees it, nanoseconds.
    wall_start: i64,
    timers: Mutex<Timers>,
    changed: Condvar,
    next: AtomicU64,
    ended: AtomicBool,
}

/// The host's counter.
#[derive(Clone, Copy)]
struct Source {
    /// Ticks a second.
    hz: u64,
    /// RDTSC; otherwise the monotonic clock in nanoseconds.
    native: bool,
}

#[derive(Default)]
struct Timers {
    all: Vec<TimerState>,
    /// (deadline, index into `all`).
    queue: BTreeSet<(u64, usize)>,
    /// What the timer thread waits for.
    watched: u64,
    /// vCPU 0 sleeps and wakes by itself.
    halted: bool,
    /// The timer thread runs timers just now.
    firing: bool,
}

struct TimerState {
    device: usize,
    id: u32,
    name: &'static str,
    deadline: Option<u64>,
}

impl Tm {
    /// Time 0, standing still. `wall_offset_ns` is added to the host's wall clock.
    pub fn new(wall_offset_ns: i64) -> Arc<Self> {
        let source = host_counter();
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos() as i64);
        Arc::new(Self {
            source,
            ns_per_tick: ((1_000_000_000u128 << SHIFT) / u128::from(source.hz)) as u64,
            running: AtomicBool::new(false),
            delta: AtomicU64::new(0),
            stopped_at: AtomicU64::new(0),
            origin: Instant::now(),
            wall_start: wall.saturating_add(wall_offset_ns),
            timers: Mutex::new(Timers {
                watched: NEVER,
                ..Timers::default()
            }),
            changed: Condvar::new(),
            next: AtomicU64::new(NEVER),
            ended: AtomicBool::new(false),
        })
    }

    fn host_ticks(&self) -> u64 {
        if self.source.native {
            read_tsc()
        } else {
            self.origin.elapsed().as_nanos() as u64
        }
    }

    /// Virtual nanoseconds since power-on.
    pub fn now(&self) -> u64 {
        let wide = (u128::from(self.tsc()) * u128::from(self.ns_per_tick)) >> SHIFT;
        u64::try_from(wide).unwrap_or(NEVER - 1)
    }

    /// The wall clock as the guest sees it; goes on while the VM is paused.
    pub fn wall_ns(&self) -> u64 {
        let passed = self.origin.elapsed().as_nanos() as i64;
        self.wall_start.saturating_add(passed).max(0) as u64
    }

    /// Lets time run.
    pub fn start(&self) {
        if !self.running.load(Ordering::Acquire) {
            let stopped = self.stopped_at.load(Ordering::Relaxed);
            self.delta
                .store(stopped.wrapping_sub(self.host_ticks()), Ordering::Release);
            self.running.store(true, Ordering::Release);
            self.poke();
        }
    }

    /// Stops time, when no timer is being run. No vCPU executes.
    pub fn stop(&self) {
        let mut timers = self.timers.lock();
        while timers.firing {
            self.changed.wait(&mut timers);
        }
        if self.running.load(Ordering::Acquire) {
            self.stopped_at.store(self.tsc(), Ordering::Release);
            self.running.store(false, Ordering::Release);
        }
    }

    /// The machine's time-stamp counter.
    pub fn tsc(&self) -> u64 {
        if self.running.load(Ordering::Acquire) {
            self.host_ticks()
                .wrapping_add(self.delta.load(Ordering::Acquire))
        } else {
            self.stopped_at.load(Ordering::Acquire)
        }
    }

    /// What to add to the host's counter to get [`Tm::tsc`].
    pub fn tsc_delta(&self) -> Option<u64> {
        self.source
            .native
            .then(|| self.delta.load(Ordering::Acquire))
    }

    /// Ticks a second of [`Tm::tsc`].
    pub fn tsc_hz(&self) -> u64 {
        self.source.hz
    }

    /// Takes saved virtual time over; the counter follows. Time stands still.
    pub fn load(&self, now_ns: u64) {
        let ticks = u128::from(now_ns) * u128::from(self.source.hz) / 1_000_000_000;
        self.stopped_at.store(
            u64::try_from(ticks).unwrap_or(u64::MAX / 2),
            Ordering::Release,
        );
    }

    /// A new timer of device `device`.
    pub fn add(&self, device: usize, id: u32, name: &'static str) -> usize {
        let mut timers = self.timers.lock();
        timers.all.push(TimerState {
            device,
            id,
            name,
            deadline: None,
        });
        timers.all.len() - 1
    }

    fn set(&self, index: usize, deadline: Option<u64>) {
        let mut guard = self.timers.lock();
        let timers = &mut *guard;
        let Some(timer) = timers.all.get_mut(index) else {
            return;
        };
        if let Some(old) = timer.deadline.take() {
            timers.queue.remove(&(old, index));
        }
        if let Some(at) = deadline {
            timer.deadline = Some(at);
            timers.queue.insert((at, index));
        }
        let next = timers.next();
        self.next.store(next, Ordering::Release);
        if next < timers.watched && !timers.halted {
            timers.watched = next;
            self.changed.notify_all();
        }
    }

    fn deadline(&self, index: usize) -> Option<u64> {
        self.timers.lock().all.get(index)?.deadline
    }

    /// Runs the timers that are due: `fire(device, id)` for each. Called by vCPU 0's thread.
    /// Timers that are armed for the past again and again wait for a later call.
    pub fn run_due(&self, fire: impl FnMut(usize, u32)) {
        self.fire_due(fire);
        let mut timers = self.timers.lock();
        self.watch(&mut timers);
    }

    fn fire_due(&self, mut fire: impl FnMut(usize, u32)) {
        for _ in 0..MAX_PASSES {
            if !self.due() {
                break;
            }
            for (device, id) in self.take_due() {
                fire(device, id);
            }
        }
    }

    /// Disarms the timers that are due, earliest first.
    fn take_due(&self) -> Vec<(usize, u32)> {
        let now = self.now();
        let mut guard = self.timers.lock();
        let timers = &mut *guard;
        let mut due = Vec::new();
        while let Some((at, index)) = timers.queue.first().copied()
            && at <= now
        {
            timers.queue.remove(&(at, index));
            let timer = &mut timers.all[index];
            timer.deadline = None;
            due.push((timer.device, timer.id));
        }
        self.next.store(timers.next(), Ordering::Release);
        due
    }

    /// Makes the timer thread look at the next deadline if it looks at a later one.
    fn watch(&self, timers: &mut Timers) {
        let next = timers.next();
        if next < timers.watched && !timers.halted {
            timers.watched = next;
            self.changed.notify_all();
        }
    }

    /// Whether a timer is due.
    pub fn due(&self) -> bool {
        let next = self.next.load(Ordering::Acquire);
        next != NEVER && next <= self.now()
    }

    /// How long vCPU 0 may sleep; from now until [`Tm::awake`] it watches the deadlines itself.
    /// `None`: no timer is armed.
    pub fn asleep(&self) -> Option<Duration> {
        let mut timers = self.timers.lock();
        timers.halted = true;
        match timers.next() {
            NEVER => None,
            next => Some(Duration::from_nanos(next.saturating_sub(self.now()))),
        }
    }

    /// vCPU 0 woke.
    pub fn awake(&self) {
        self.timers.lock().halted = false;
    }

    fn poke(&self) {
        let _timers = self.timers.lock();
        self.changed.notify_all();
    }

    /// Ends the timer thread.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.poke();
    }

    /// The timer thread: runs timers as [`Tm::run_due`] does, until [`Tm::end`].
    pub fn serve(&self, mut fire: impl FnMut(usize, u32)) {
        let mut timers = self.timers.lock();
        while !self.ended.load(Ordering::SeqCst) {
            let next = timers.next();
            let stopped = !self.running.load(Ordering::Acquire);
            let left = next.saturating_sub(self.now());
            if next == NEVER || stopped || timers.halted {
                // Whoever arms timers, wakes, starts time or ends all this, tells.
                timers.watched = NEVER;
                self.changed.wait(&mut timers);
            } else if left > 0 {
                timers.watched = next;
                self.changed
                    .wait_for(&mut timers, Duration::from_nanos(left));
            } else {
                // No need to be told of timers armed meanwhile.
                timers.watched = 0;
                timers.firing = true;
                drop(timers);
                {
                    let _firing = Firing(self);
                    self.fire_due(&mut fire);
                }
                timers = self.timers.lock();
            }
        }
    }

    /// Names and deadlines of all timers, for the debugger.
    pub fn list(&self) -> Vec<(&'static str, usize, Option<u64>)> {
        let timers = self.timers.lock();
        let row = |t: &TimerState| (t.name, t.device, t.deadline);
        timers.all.iter().map(row).collect()
    }
}

/// Takes [`Timers::firing`] back, even when a device panics.
struct Firing<'a>(&'a Tm);

impl Drop for Firing<'_> {
    fn drop(&mut self) {
        self.0.timers.lock().firing = false;
        self.0.changed.notify_all();
    }
}

impl Timers {
    fn next(&self) -> u64 {
        self.queue.first().map_or(NEVER, |(at, _)| *at)
    }
}

/// A device's timer.
pub(crate) struct TmTimer {
    pub tm: Arc<Tm>,
    pub index: usize,
}

impl pdm::time::TimerOps for TmTimer {
    fn arm(&self, deadline_ns: u64) {
        self.tm.set(self.index, Some(deadline_ns.min(NEVER - 1)));
    }
    fn disarm(&self) {
        self.tm.set(self.index, None);
    }
    fn deadline(&self) -> Option<u64> {
        self.tm.deadline(self.index)
    }
}

impl pdm::Clock for Tm {
    fn now_ns(&self) -> u64 {
        self.now()
    }
    fn wall_ns(&self) -> u64 {
        Tm::wall_ns(self)
    }
}

fn read_tsc() -> u64 {
    // SAFETY: every 64-bit x86 processor has RDTSC, and Linux leaves it open to programs.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The counter to use and its frequency. Measured once per process.
fn host_counter() -> Source {
    static FOUND: std::sync::OnceLock<Source> = std::sync::OnceLock::new();
    *FOUND.get_or_init(|| {
        let last = core::arch::x86_64::__cpuid(0x8000_0000).eax;
        let invariant =
            last >= 0x8000_0007 && core::arch::x86_64::__cpuid(0x8000_0007).edx & 1 << 8 != 0;
        let (start, began) = sample();
        std::thread::sleep(Duration::from_millis(20));
        let (end, ended) = sample();
        let ns = ended.duration_since(began).as_nanos().max(1);
        let hz = u128::from(end.wrapping_sub(start)) * 1_000_000_000 / ns;
        // Guests read the frequency as whole kHz from CPUID.
        let hz = u64::try_from((hz + 500) / 1000 * 1000).unwrap_or(0);
        // The fixed-point factor of `Tm` has room for these.
        if invariant && (200_000_000..100_000_000_000).contains(&hz) {
            Source { hz, native: true }
        } else {
            Source {
                hz: 1_000_000_000,
                native: false,
            }
        }
    })
}

/// A reading of both clocks at one moment: the closest of several attempts.
fn sample() -> (u64, Instant) {
    let mut best = (u64::MAX, 0, Instant::now());
    for _ in 0..50 {
        let before = read_tsc();
        let at = Instant::now();
        let after = read_tsc();
        let width = after.wrapping_sub(before);
        if width < best.0 {
            best = (width, before + width / 2, at);
        }
    }
    (best.1, best.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_while_stopped() {
        let tm = Tm::new(0);
        let (now, tsc) = (tm.now(), tm.tsc());
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!((tm.now(), tm.tsc()), (now, tsc));
        tm.start();
        std::thread::sleep(Duration::from_millis(2));
        tm.stop();
        assert!(tm.now() >= now + 2_000_000 && tm.tsc() > tsc);
    }

    #[test]
    fn virtual_time_is_the_counter_over_its_frequency() {
        let tm = Tm::new(0);
        for now in [0, 1_000, 86_400_000_000_000, 1 << 60] {
            tm.load(now);
            let exact = u128::from(tm.tsc()) * 1_000_000_000 / u128::from(tm.tsc_hz());
            assert!(u128::from(tm.now()).abs_diff(exact) <= 1 + (now >> 58) as u128);
            assert!(tm.now().abs_diff(now) <= 10);
        }
    }

    #[test]
    fn due_timers_fire_in_order_and_rearming_waits() {
        let tm = Tm::new(0);
        let (a, b) = (tm.add(1, 10, "a"), tm.add(2, 20, "b"));
        tm.load(1000);
        tm.set(a, Some(900));
        tm.set(b, Some(500));
        let mut fired = Vec::new();
        tm.run_due(|device, id| fired.push((device, id)));
        assert_eq!(fired, [(2, 20), (1, 10)]);
        tm.set(a, Some(2000));
        assert!(!tm.due());
        assert!(tm.asleep().is_some_and(|d| d >= Duration::from_nanos(1000)));
        tm.set(a, None);
        assert_eq!(tm.asleep(), None);
    }

    #[test]
    fn a_timer_that_is_always_due_does_not_hang() {
        let tm = Tm::new(0);
        let a = tm.add(0, 0, "a");
        tm.load(1000);
        tm.set(a, Some(1));
        let mut fired = 0;
        tm.run_due(|_, _| {
            fired += 1;
            tm.set(a, Some(1));
        });
        assert_eq!(fired, MAX_PASSES);
        assert!(tm.due());
    }

    #[test]
    fn the_timer_thread_runs_timers_until_it_is_ended() {
        let tm = Tm::new(0);
        let a = tm.add(0, 0, "a");
        let (tx, rx) = std::sync::mpsc::channel();
        let thread = {
            let tm = tm.clone();
            std::thread::spawn(move || tm.serve(|_, _| tx.send(()).unwrap_or(())))
        };
        tm.set(a, Some(1_000_000));
        tm.start();
        rx.recv_timeout(Duration::from_secs(10)).unwrap();
        tm.set(a, Some(tm.now() + 1_000_000));
        rx.recv_timeout(Duration::from_secs(10)).unwrap();
        // What becomes due while the thread is at it still is its own.
        while tm.timers.lock().firing {
            std::thread::yield_now();
        }
        // Asleep, vCPU 0 looks after the timers.
        tm.asleep();
        tm.set(a, Some(tm.now()));
        assert!(rx.recv_timeout(Duration::from_millis(20)).is_err());
        tm.awake();
        let mut ran = 0;
        tm.run_due(|_, _| ran += 1);
        assert_eq!(ran, 1);
        tm.set(a, Some(tm.now()));
        rx.recv_timeout(Duration::from_secs(10)).unwrap();
        tm.stop();
        tm.end();
        thread.join().unwrap();
    }
}
