//! Pages whose code is written again and again: by a guest's JIT, by code that patches itself, by
//! data that lies beside code.
//!
//! Translations of such a page are *checked*: each looks itself whether the guest's bytes are those
//! it was made from, and the page is written like any other. Where rewritten code differed in
//! immediate operands only, these are *soft* from then on: the translation takes them from the
//! guest's code, and does not compare them. After a while without the guest changing anything else
//! (see [`Restless::calm`]) a page's code gets ordinary translations again.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::time::{Duration, Instant};

use iced_x86::Decoder;

use crate::blocks::Mix;
use crate::mode::Mode;

/// Dropped translations in a row that make a page restless.
const LIMIT: u32 = 4;
/// How soon one has to follow the other.
const SOON: Duration = Duration::from_millis(2);
/// How long translations are checked at first, and at most: it doubles each time.
const PATIENCE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(6)];
/// Pages that are known of at most.
const PAGES: usize = 1024;

/// The bytes of a page that are soft: a bit for each.
pub type Soft = [u64; pgm::PAGE_SIZE as usize / 64];

/// Whether byte `at` of the page is.
pub fn is_soft(soft: &Soft, at: usize) -> bool {
    soft[at / 64 % soft.len()] >> (at % 64) & 1 != 0
}

/// Which pages have checked translations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks {
    /// None.
    Never,
    /// Restless ones.
    Auto,
    /// All: for tests.
    Always,
}

struct Page {
    /// Translations dropped in a row, and when the last one was.
    dropped: (u32, Instant),
    /// How long translations are checked next time.
    patience: Duration,
    /// Until when they are.
    until: Option<Instant>,
    soft: Box<Soft>,
}

/// What is known of pages, by RAM offset.
pub struct Restless {
    which: Checks,
    pages: HashMap<u64, Page, BuildHasherDefault<Mix>>,
    /// How many have checked translations.
    checked: usize,
    /// Times a page became restless.
    pub times: u64,
}

/// No byte is soft.
static HARD: Soft = [0; _];

impl Restless {
    /// Nothing is known yet.
    pub fn new(which: Checks) -> Self {
        Self {
            which,
            pages: HashMap::default(),
            checked: 0,
            times: 0,
        }
    }

    /// A translation on `page` was dropped because the guest wrote to its code. True: the page is
    /// restless from now on.
    pub fn dropped(&mut self, page: u64) -> bool {
        if self.which != Checks::Auto {
            return false;
        }
        let now = Instant::now();
        if !self.make_room(page) {
            return false;
        }
        let p = self.page(page, now);
        let soon = now.duration_since(p.dropped.1) < SOON;
        p.dropped = (if soon { p.dropped.0 + 1 } else { 1 }, now);
        if p.until.is_some() || p.dropped.0 < LIMIT {
            return false;
        }
        p.dropped.0 = 0;
        p.until = Some(now + p.patience);
        p.patience = (p.patience * 2).min(PATIENCE[1]);
        self.checked += 1;
        self.times += 1;
        true
    }

    /// Whether `page` may be known of, too.
    fn make_room(&mut self, page: u64) -> bool {
        if self.pages.len() >= PAGES && !self.pages.contains_key(&page) {
            self.pages.retain(|_, p| p.until.is_some());
        }
        self.pages.len() < PAGES || self.pages.contains_key(&page)
    }

    fn page(&mut self, page: u64, now: Instant) -> &mut Page {
        self.pages.entry(page).or_insert_with(|| Page {
            dropped: (0, now),
            patience: PATIENCE[0],
            until: None,
            soft: Box::new([0; _]),
        })
    }

    /// The soft bytes of a restless page.
    pub fn soft(&self, page: u64) -> Option<&Soft> {
        if self.which == Checks::Always {
            return Some(self.pages.get(&page).map_or(&HARD, |p| &p.soft));
        }
        if self.checked == 0 {
            return None;
        }
        let p = self.pages.get(&page)?;
        p.until.map(|_| &*p.soft)
    }

    /// Code at `at` in the page was `old` when it was translated and is `new` now. What differs is
    /// soft, if it is in immediate operands only.
    pub fn changed(&mut self, page: u64, at: usize, old: &[u8], new: &[u8], mode: &Mode) {
        let mut differs = old.iter().zip(new).map(|(a, b)| a != b);
        let mut decoder = Decoder::new(mode.bitness(), old, iced_x86::DecoderOptions::NONE);
        let mut places = Vec::new();
        while decoder.can_decode() {
            let from = decoder.position();
            let insn = decoder.decode();
            let c = decoder.get_constant_offsets(&insn);
            let immediate = match c.has_immediate() {
                true => c.immediate_offset()..c.immediate_offset() + c.immediate_size(),
                false => 0..0,
            };
            for n in 0..insn.len() {
                if differs.next() == Some(true) {
                    if !immediate.contains(&n) {
                        return;
                    }
                    places.push(at + from + n);
                }
            }
        }
        if !self.make_room(page) {
            return;
        }
        let p = self.page(page, Instant::now());
        for n in places.into_iter().filter(|n| *n < pgm::PAGE_SIZE as usize) {
            p.soft[n / 64] |= 1 << (n % 64);
        }
    }

    /// Pages whose time is over: their translations are ordinary ones from now on.
    pub fn calm(&mut self) -> Vec<u64> {
        if self.checked == 0 {
            return Vec::new();
        }
        let now = Instant::now();
        let over = |p: &Page| p.until.is_some_and(|t| t <= now);
        let calm: Vec<u64> = (self.pages.iter())
            .filter(|(_, p)| over(p))
            .map(|(page, _)| *page)
            .collect();
        for page in &calm {
            if let Some(p) = self.pages.get_mut(page) {
                p.until = None;
            }
        }
        self.checked -= calm.len();
        calm
    }
}
