//! What the engines of one machine's vCPUs have to settle among themselves: writes to code that
//! another one has translated, and operations during which all others stand still.
//!
//! An engine that is about to translate code from a page makes sure that from then on every write
//! to the page is seen. Other engines may hold the page's host address in their TLBs and write
//! without telling anybody, so they are asked to drop it, and the asker waits: an engine answers
//! at its next instruction boundary, and one that is not inside [`crate::Rem::run`] before it
//! executes anything again. Whoever waits answers others in the meantime, so nobody waits forever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use cpu::{Signals, signal};
use parking_lot::{Mutex, RwLock};
use pgm::{PageFlags, Ram};

/// Writes that are kept one by one; beyond, whole pages are dropped.
const EXACT: usize = 64;
/// Pages to be made unwritable that are kept one by one; beyond, all are.
const UNWRITE: usize = 256;
/// Looks at another engine before the host's core is offered to others.
const SPINS: u32 = 200;

/// The engines of one machine.
#[derive(Default)]
pub struct Peers {
    all: RwLock<Vec<Arc<Peer>>>,
    /// 1 + the vCPU that wants to be alone; 0: nobody.
    alone: AtomicU32,
}

/// What others want of an engine.
#[derive(Default)]
pub struct Work {
    /// Writes to pages with its translations: RAM offset, bytes.
    pub writes: Vec<(u64, u64)>,
    /// Pages of which it must forget all translations.
    pub pages: Vec<u64>,
}

#[derive(Default)]
struct Queue {
    work: Work,
    /// Pages that must not be written directly any more.
    unwrite: Vec<u64>,
    /// There were too many: all pages.
    unwrite_all: bool,
    /// Requests of this kind so far.
    asked: u64,
}

/// The side of an engine that others reach.
pub struct Peer {
    cpu: usize,
    ram: Arc<Ram>,
    signals: Arc<Signals>,
    /// The engine may execute guest code.
    running: AtomicBool,
    queue: Mutex<Queue>,
    /// How many requests of [`Queue::asked`] were carried out.
    done: AtomicU64,
}

/// Pages an engine must stop writing to directly.
pub enum Unwrite {
    /// None.
    Nothing,
    /// These.
    Pages(Vec<u64>),
    /// All.
    All,
}

impl Peer {
    fn bit(&self) -> u32 {
        1 << (self.cpu & 31)
    }

    /// What there is to do, once.
    pub fn take_work(&self) -> Work {
        std::mem::take(&mut self.queue.lock().work)
    }

    /// Carries out what others wait for: `drop` gets the pages whose host addresses must go.
    pub fn answer(&self, mut drop: impl FnMut(Unwrite)) {
        let (pages, asked) = {
            let mut queue = self.queue.lock();
            if queue.asked == self.done.load(Ordering::Relaxed) {
                return;
            }
            let pages = std::mem::take(&mut queue.unwrite);
            let what = match std::mem::take(&mut queue.unwrite_all) {
                true => Unwrite::All,
                false if pages.is_empty() => Unwrite::Nothing,
                false => Unwrite::Pages(pages),
            };
            (what, queue.asked)
        };
        drop(pages);
        self.done.store(asked, Ordering::SeqCst);
    }

    /// Asks for `page` not to be written directly any more; returns what [`Peer::done`] will be.
    fn ask(&self, page: u64) -> u64 {
        let asked = {
            let mut queue = self.queue.lock();
            if queue.unwrite.len() < UNWRITE {
                queue.unwrite.push(page);
            } else {
                queue.unwrite_all = true;
            }
            queue.asked += 1;
            queue.asked
        };
        self.signals.raise(signal::CODE);
        asked
    }
}

impl pgm::Listener for Peer {
    fn mapping_changed(&self) {
        self.signals.raise(signal::FLUSH);
    }

    fn code_written(&self, offset: u64, len: u64, users: u32) {
        if users & self.bit() == 0 {
            return;
        }
        {
            let mut queue = self.queue.lock();
            let work = &mut queue.work;
            if work.writes.last() == Some(&(offset, len)) {
                // It is there already; the signal may have been taken, though.
            } else if work.writes.len() < EXACT {
                work.writes.push((offset, len));
            } else {
                // All of the page goes, so further writes to it need no report. The bit comes back
                // only after the engine has taken this work, which the lock orders.
                work.pages.push(offset & !(pgm::PAGE_SIZE - 1));
                let bit = PageFlags::code(self.cpu);
                self.ram.flags(offset).fetch_and(!bit, Ordering::SeqCst);
            }
        }
        self.signals.raise(signal::CODE);
    }
}

impl Peers {
    /// No engines yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A new engine of vCPU `cpu`.
    pub(crate) fn join(&self, cpu: usize, ram: Arc<Ram>, signals: Arc<Signals>) -> Arc<Peer> {
        let peer = Arc::new(Peer {
            cpu,
            ram,
            signals,
            running: AtomicBool::new(false),
            queue: Mutex::default(),
            done: AtomicU64::new(0),
        });
        self.all.write().push(peer.clone());
        peer
    }

    /// The engine is no more.
    pub(crate) fn leave(&self, own: &Arc<Peer>) {
        self.end(own);
        self.all.write().retain(|p| !Arc::ptr_eq(p, own));
    }

    fn others(&self, own: &Arc<Peer>) -> Vec<Arc<Peer>> {
        let all = self.all.read();
        let others = all.iter().filter(|p| !Arc::ptr_eq(p, own));
        others.cloned().collect()
    }

    /// Whether there is more than one engine.
    pub(crate) fn several(&self) -> bool {
        self.all.read().len() > 1
    }

    /// Whether `own` has to stand still because another wants to be alone.
    pub(crate) fn stopped(&self, own: &Peer) -> bool {
        let alone = self.alone.load(Ordering::SeqCst);
        alone != 0 && alone != own.cpu as u32 + 1
    }

    /// `own` begins to execute guest code, when nobody wants to be alone.
    pub(crate) fn begin(&self, own: &Peer) {
        loop {
            own.running.store(true, Ordering::SeqCst);
            if !self.stopped(own) {
                return;
            }
            own.running.store(false, Ordering::SeqCst);
            let mut tries = 0;
            while self.stopped(own) {
                pause(&mut tries);
            }
        }
    }

    /// `own` executes no guest code until it begins again.
    pub(crate) fn end(&self, own: &Peer) {
        own.running.store(false, Ordering::SeqCst);
        self.release(own);
    }

    /// Stands aside while another is alone.
    pub(crate) fn stand_aside(&self, own: &Peer) {
        if self.stopped(own) {
            own.running.store(false, Ordering::SeqCst);
            self.begin(own);
        }
    }

    /// Returns when no other engine can write to the page at RAM offset `page` without seeing its
    /// [`PageFlags::CODE`]. `answer` carries out what others wait for.
    pub(crate) fn unwrite(&self, own: &Arc<Peer>, page: u64, mut answer: impl FnMut()) {
        let others = self.others(own);
        let asked: Vec<u64> = others.iter().map(|p| p.ask(page)).collect();
        for (other, asked) in others.iter().zip(asked) {
            let mut tries = 0;
            while other.running.load(Ordering::SeqCst) && other.done.load(Ordering::SeqCst) < asked
            {
                answer();
                pause(&mut tries);
            }
        }
    }

    /// Returns when all other engines stand still; they do until [`Peers::release`]. `answer`
    /// carries out what others wait for.
    pub(crate) fn alone(&self, own: &Arc<Peer>, mut answer: impl FnMut()) {
        let me = own.cpu as u32 + 1;
        while let Err(holder) =
            self.alone
                .compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst)
        {
            if holder == me {
                return;
            }
            self.stand_aside(own);
            answer();
        }
        let others = self.others(own);
        for other in &others {
            other.signals.raise(signal::CODE);
        }
        for other in &others {
            let mut tries = 0;
            while other.running.load(Ordering::SeqCst) {
                answer();
                pause(&mut tries);
            }
        }
    }

    /// The others go on. Nothing happens when `own` was not alone.
    pub(crate) fn release(&self, own: &Peer) {
        let me = own.cpu as u32 + 1;
        let _ = self
            .alone
            .compare_exchange(me, 0, Ordering::SeqCst, Ordering::Relaxed);
    }
}

/// One look at something that another thread is about to change was in vain.
fn pause(tries: &mut u32) {
    *tries += 1;
    if *tries < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgm::Listener;

    fn two() -> (Arc<Peers>, Arc<Peer>, Arc<Peer>) {
        let ram = Ram::new(1 << 20).unwrap();
        let peers = Peers::new();
        let a = peers.join(0, ram.clone(), Arc::default());
        let b = peers.join(1, ram, Arc::default());
        (peers, a, b)
    }

    #[test]
    fn nobody_waits_for_an_engine_outside_of_guest_code() {
        let (peers, a, b) = two();
        peers.unwrite(&a, 0x1000, || {});
        peers.alone(&a, || {});
        peers.release(&a);
        let mut seen = Vec::new();
        b.answer(|what| {
            if let Unwrite::Pages(pages) = what {
                seen = pages;
            }
        });
        assert_eq!(seen, [0x1000]);
        assert_ne!(b.signals.get() & signal::CODE, 0);
    }

    #[test]
    fn two_that_ask_each_other_both_get_their_answer() {
        let (peers, a, b) = two();
        peers.begin(&a);
        peers.begin(&b);
        std::thread::scope(|s| {
            for own in [&a, &b] {
                let peers = &peers;
                s.spawn(move || {
                    for page in 0..2000u64 {
                        peers.unwrite(own, page << 12, || own.answer(|_| {}));
                    }
                    peers.end(own);
                });
            }
        });
    }

    #[test]
    fn alone_means_alone() {
        let (peers, a, b) = two();
        let shared = AtomicU64::new(0);
        std::thread::scope(|s| {
            for own in [&a, &b] {
                let (peers, value) = (&peers, &shared);
                s.spawn(move || {
                    peers.begin(own);
                    for _ in 0..2000 {
                        peers.alone(own, || own.answer(|_| {}));
                        let old = value.load(Ordering::Relaxed);
                        std::hint::spin_loop();
                        value.store(old + 1, Ordering::Relaxed);
                        peers.release(own);
                        peers.stand_aside(own);
                    }
                    peers.end(own);
                });
            }
        });
        assert_eq!(shared.into_inner(), 4000);
    }

    #[test]
    fn many_writes_become_whole_pages_that_need_no_report() {
        let (_, _, b) = two();
        let bit = PageFlags::code(1);
        b.ram.flags(0x2000).fetch_or(bit, Ordering::SeqCst);
        b.code_written(0x2000, 8, 1);
        assert!(b.take_work().writes.is_empty(), "it is for another");
        for i in 0..EXACT as u64 + 1 {
            b.code_written(0x2000 + 8 * i, 8, 2);
            b.code_written(0x2000 + 8 * i, 8, 2);
        }
        assert_eq!(b.ram.flags(0x2000).load(Ordering::SeqCst) & bit, 0);
        let work = b.take_work();
        assert_eq!(work.writes.len(), EXACT);
        assert_eq!(work.pages[0], 0x2000);
    }
}
