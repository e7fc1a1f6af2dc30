//! One counter of an 8254 as a pure function of time in input clocks.
//!
//! Source: Intel 8254 datasheet (231164). Time is the number of the input clock; a count written
//! at clock `t` is taken to be loaded at `t` (the chip loads it one clock later). In mode 3 odd
//! counts are high for (N+1)/2 clocks.

/// A counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// 0 to 5.
    pub mode: u8,
    /// Counts in decimal.
    pub bcd: bool,
    /// 1 low byte, 2 high byte, 3 both.
    pub access: u8,
    /// Clocks per run: 1 to 65536 (10000 in decimal).
    pub count: u32,
    /// Clock at which `count` was loaded; with the gate closed in modes 0 and 4, the run is
    /// frozen after `frozen` clocks instead.
    pub start: u64,
    /// Clocks run when the gate closed.
    pub frozen: Option<u64>,
    /// A run is under way (a count was loaded, or the trigger came in modes 1 and 5).
    pub running: bool,
    /// Count to take up at clock `.1` (modes 2, 3) or at the next trigger (modes 1, 5).
    pub next: Option<(u32, u64)>,
    /// Count register not loaded yet.
    pub null_count: bool,
    /// Low byte of a two-byte write.
    pub low: Option<u8>,
    /// A two-byte read has given the low byte.
    pub read_high: bool,
    /// Latched count.
    pub latch: Option<u16>,
    /// Latched status.
    pub status: Option<u8>,
    /// GATE input.
    pub gate: bool,
}

impl Counter {
    /// Power-on state (undefined on the chip).
    pub fn new(gate: bool) -> Self {
        Self {
            mode: 3,
            bcd: false,
            access: 3,
            count: 0x1_0000,
            start: 0,
            frozen: None,
            running: false,
            next: None,
            null_count: true,
            low: None,
            read_high: false,
            latch: None,
            status: None,
            gate,
        }
    }

    fn modulus(&self) -> u64 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// Clocks since the run began.
    fn elapsed(&self, now: u64) -> u64 {
        self.frozen.unwrap_or(now.saturating_sub(self.start))
    }

    fn periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// Takes up a new count whose time has come.
    pub fn sync(&mut self, now: u64) {
        if let Some((count, at)) = self.next
            && self.periodic()
            && now >= at
        {
            self.start = at;
            self.count = count;
            self.next = None;
            self.null_count = false;
        }
    }

    /// The OUT pin.
    pub fn out(&self, now: u64) -> bool {
        let count = u64::from(self.count);
        let run = self.elapsed(now);
        match self.mode {
            0 => self.running && run >= count,
            1 => !self.running || run >= count,
            2 => !self.running || !self.gate || run % count != count - 1,
            3 => !self.running || !self.gate || run % count < count.div_ceil(2),
            _ => !self.running || run != count,
        }
    }

    /// The counting element.
    fn value(&self, now: u64) -> u16 {
        let count = u64::from(self.count);
        let run = self.elapsed(now);
        let left = match self.mode {
            _ if !self.running => count,
            2 => count - run % count,
            // Counts by two, twice per period.
            3 => {
                let half = count.div_ceil(2);
                let phase = run % count;
                let phase = if phase < half { phase } else { phase - half };
                (count & !1).saturating_sub(2 * phase).max(2)
            }
            _ => {
                let modulus = self.modulus();
                (count + modulus - run % modulus) % modulus
            }
        };
        let value = left % self.modulus();
        if self.bcd {
            to_bcd(value as u16)
        } else {
            value as u16
        }
    }

    /// Next clock after `now` at which OUT rises while the gate stays as it is, for the interrupt.
    pub fn next_rise(&self, now: u64) -> Option<u64> {
        let count = u64::from(self.count);
        if !self.running || self.frozen.is_some() {
            return None;
        }
        match self.mode {
            0 | 1 => Some(self.start + count).filter(|t| *t > now),
            2 | 3 if self.gate => {
                let natural = self.start + (self.elapsed(now) / count + 1) * count;
                Some(natural)
            }
            4 | 5 => Some(self.start + count + 1).filter(|t| *t > now),
            _ => None,
        }
    }

    /// Control word (bits 5:0) for this counter.
    pub fn control(&mut self, word: u8, now: u64) {
        let access = word >> 4 & 3;
        if access == 0 {
            self.latch_count(now);
            return;
        }
        let mode = word >> 1 & 7;
        *self = Self {
            mode: if mode > 5 { mode & 3 } else { mode },
            bcd: word & 1 != 0,
            access,
            count: self.count,
            latch: self.latch,
            status: self.status,
            ..Self::new(self.gate)
        };
    }

    /// Counter latch command.
    pub fn latch_count(&mut self, now: u64) {
        if self.latch.is_none() {
            self.latch = Some(self.value(now));
        }
    }

    /// Status latch of the read-back command.
    pub fn latch_status(&mut self, now: u64) {
        if self.status.is_none() {
            let out = u8::from(self.out(now)) << 7;
            let null = u8::from(self.null_count) << 6;
            self.status = Some(out | null | self.access << 4 | self.mode << 1 | u8::from(self.bcd));
        }
    }

    /// Reads the data port.
    pub fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let value = self.latch.unwrap_or_else(|| self.value(now));
        let [low, high] = value.to_le_bytes();
        match self.access {
            1 => {
                self.latch = None;
                low
            }
            2 => {
                self.latch = None;
                high
            }
            _ if self.read_high => {
                self.read_high = false;
                self.latch = None;
                high
            }
            _ => {
                self.read_high = true;
                low
            }
        }
    }

    /// Writes the data port.
    pub fn write(&mut self, value: u8, now: u64) {
        let raw = match (self.access, self.low.take()) {
            (1, _) => value.into(),
            (2, _) => u16::from(value) << 8,
            (_, None) => {
                self.low = Some(value);
                if self.mode == 0 {
                    // The first byte stops the run and takes OUT down.
                    self.running = false;
                }
                return;
            }
            (_, Some(low)) => u16::from_le_bytes([low, value]),
        };
        let count = match if self.bcd { from_bcd(raw) } else { raw.into() } {
            0 => self.modulus() as u32,
            n => n,
        };
        match self.mode {
            0 | 4 => {
                self.load(count, now);
                self.frozen = (!self.gate).then_some(0);
            }
            1 | 5 => {
                self.next = Some((count, u64::MAX));
                self.null_count = true;
            }
            _ if self.running && self.gate => {
                // The run under way is finished first.
                let period = u64::from(self.count);
                let run = self.elapsed(now);
                self.next = Some((count, self.start + (run / period + 1) * period));
                self.null_count = true;
            }
            _ => self.load(count, now),
        }
    }

    fn load(&mut self, count: u32, now: u64) {
        self.count = count;
        self.start = now;
        self.frozen = None;
        self.running = true;
        self.next = None;
        self.null_count = false;
    }

    /// Drives GATE.
    pub fn set_gate(&mut self, gate: bool, now: u64) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        match self.mode {
            0 | 4 if self.running => {
                if gate {
                    self.start = now.saturating_sub(self.frozen.take().unwrap_or(0));
                } else {
                    self.frozen = Some(self.elapsed(now));
                }
            }
            2 | 3 if self.running => {
                // Closing stops the count, opening starts it over.
                if gate {
                    let count = self.next.map_or(self.count, |(count, _)| count);
                    self.load(count, now);
                } else {
                    self.frozen = Some(self.elapsed(now));
                }
            }
            1 | 5 if gate => {
                if let Some((count, _)) = self.next {
                    self.load(count, now);
                } else if !self.null_count {
                    self.load(self.count, now);
                }
            }
            _ => {}
        }
    }
}

fn from_bcd(value: u16) -> u32 {
    (0..4)
        .rev()
        .fold(0, |n, i| n * 10 + u32::from(value >> (4 * i) & 15).min(9))
}

fn to_bcd(value: u16) -> u16 {
    (value % 10) | (value / 10 % 10) << 4 | (value / 100 % 10) << 8 | (value / 1000 % 10) << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(control: u8, count: u16) -> Counter {
        let mut c = Counter::new(true);
        c.control(0x30 | control, 0);
        c.write(count as u8, 0);
        c.write((count >> 8) as u8, 0);
        c
    }

    fn read(c: &mut Counter, now: u64) -> u16 {
        u16::from_le_bytes([c.read(now), c.read(now)])
    }

    #[test]
    fn mode_0_rises_at_the_end_and_goes_on() {
        let mut c = counter(0, 1000);
        assert_eq!(
            (c.out(999), c.out(1000), c.next_rise(0)),
            (false, true, Some(1000))
        );
        assert_eq!((read(&mut c, 400), read(&mut c, 1001)), (600, 0xffff));
        c.set_gate(false, 500);
        assert_eq!((read(&mut c, 900), c.next_rise(900)), (500, None));
        c.set_gate(true, 900);
        assert_eq!(c.next_rise(900), Some(1400));
        c.write(1, 1000);
        assert!(!c.out(5000));
    }

    #[test]
    fn modes_1_and_5_wait_for_the_trigger() {
        let mut c = counter(0xa, 10);
        assert_eq!(c.next_rise(0), None);
        c.set_gate(false, 50);
        c.set_gate(true, 60);
        assert_eq!((c.out(69), c.out(70), c.out(71)), (true, false, true));
        let mut c = counter(2, 10);
        assert!(c.out(5));
        c.set_gate(false, 50);
        c.set_gate(true, 60);
        assert_eq!((c.out(61), c.out(70)), (false, true));
    }

    #[test]
    fn modes_2_and_3_repeat_and_change_at_the_end_of_a_period() {
        let mut c = counter(4, 100);
        assert_eq!((c.out(98), c.out(99), c.out(100)), (true, false, true));
        assert_eq!((c.next_rise(0), c.next_rise(100)), (Some(100), Some(200)));
        c.write(50, 110);
        c.write(0, 110);
        assert!(c.null_count);
        assert_eq!(read(&mut c, 150), 50);
        c.sync(200);
        assert_eq!((c.next_rise(200), c.null_count), (Some(250), false));
        let mut c = counter(6, 5);
        let wave: Vec<_> = (0..10).map(|t| c.out(t)).collect();
        assert_eq!(wave[..5], [true, true, true, false, false]);
        assert_eq!(wave[..5], wave[5..]);
        c.set_gate(false, 4);
        assert!(c.out(4));
    }

    #[test]
    fn latches_hold_until_read_and_status_tells() {
        let mut c = counter(4, 1000);
        c.latch_count(100);
        c.latch_count(200);
        c.latch_status(300);
        assert_eq!(c.read(300), 0x80 | 0x34);
        assert_eq!(read(&mut c, 400), 900);
        assert_eq!(read(&mut c, 400), 600);
    }

    #[test]
    fn decimal_counts() {
        let mut c = counter(1, 0x1000);
        assert_eq!(read(&mut c, 1), 0x0999);
        assert_eq!(read(&mut c, 1001), 0x9999);
        let c = counter(5, 0);
        assert_eq!(c.next_rise(0), Some(10_000));
    }
}
