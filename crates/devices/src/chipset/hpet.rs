//! High precision event timer: one block of three comparators at 0xFED00000, counting at 100 MHz.
//!
//! Source: IA-PC HPET Specification 1.0a. Comparators 0 to 2 are all periodic capable and 64 bits
//! wide, and reach interrupts 5, 10 and 11; message interrupts (FSB) are not there. With legacy
//! replacement comparator 0 drives IRQ0 and comparator 1 IRQ8 in place of the 8254 and the clock.

use std::fmt::Write;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use pdm::cfgm::Node;
use pdm::{Clock, Device, DeviceReg, Error, Host, IrqLine, Mmio, Result, Timer, TimerSink, ssm};

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "hpet",
    description: "high precision event timer",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const SAVED_VERSION: u32 = 1;
/// Where the registers are.
pub const ADDRESS: u64 = 0xfed0_0000;
/// Event timer block id: vendor 8086, legacy replacement, 64-bit counter, 3 comparators, rev 1.
pub const TABLE_ID: u32 = 0x8086_a201;
/// Shortest period in clocks that loses no interrupts.
pub const MIN_TICK: u16 = 2000;
const SIZE: u64 = 0x400;
const PRIORITY: i32 = 20;
const COUNT: usize = 3;
/// Nanoseconds per clock.
const CLOCK_NS: u64 = 10;
const CAPABILITIES: u64 = (CLOCK_NS * 1_000_000) << 32 | TABLE_ID as u64;

const ENABLE: u64 = 1;
const LEGACY: u64 = 2;

const LEVEL: u64 = 1 << 1;
const INTERRUPT: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const SET_VALUE: u64 = 1 << 6;
const NARROW: u64 = 1 << 8;
const ROUTE_SHIFT: u32 = 9;
/// Interrupts a comparator can be routed to.
const ROUTES: [u8; 3] = [5, 10, 11];
/// Periodic and 64-bit capable, and the routes.
const TIMER_CAPABILITIES: u64 = 1 << 4 | 1 << 5 | (1 << 5 | 1 << 10 | 1 << 11) << 32;
const TIMER_WRITABLE: u64 = LEVEL | INTERRUPT | PERIODIC | SET_VALUE | NARROW | 31 << ROUTE_SHIFT;

#[derive(Debug, Clone, Copy, Default)]
struct Comparator {
    config: u64,
    value: u64,
    period: u64,
}

struct Hpet {
    clock: Arc<dyn Clock>,
    timers: Vec<Timer>,
    legacy: [IrqLine; 2],
    /// By comparator and route.
    lines: Vec<[IrqLine; 3]>,
    config: u64,
    status: u64,
    /// Main counter at `since`, or for good while stopped.
    counter: u64,
    since_ns: u64,
    comparators: [Comparator; COUNT],
}

fn construct(_: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    host.map_mmio(0, ADDRESS, SIZE, PRIORITY)?;
    Ok(Box::new(Hpet {
        clock: host.clock(),
        timers: (0..COUNT as u32)
            .map(|n| host.timer(n, "HPET comparator"))
            .collect(),
        legacy: [host.isa_irq(0), host.isa_irq(8)],
        lines: (0..COUNT)
            .map(|_| ROUTES.map(|irq| host.isa_irq(irq)))
            .collect(),
        config: 0,
        status: 0,
        counter: 0,
        since_ns: 0,
        comparators: [Comparator::default(); COUNT],
    }))
}

impl Comparator {
    fn mask(&self) -> u64 {
        if self.config & NARROW != 0 {
            0xffff_ffff
        } else {
            u64::MAX
        }
    }

    /// Clocks until the next match; `None` when it is more than the counter's life away.
    fn distance(&self, counter: u64) -> Option<u64> {
        let mask = self.mask();
        let left = self.value.wrapping_sub(counter) & mask;
        match left {
            0 if mask != u64::MAX => Some(1 << 32),
            0 => None,
            n => Some(n).filter(|n| *n < 1 << 62),
        }
    }

    fn route(&self) -> u8 {
        (self.config >> ROUTE_SHIFT & 31) as u8
    }
}

impl Hpet {
    fn now(&self) -> u64 {
        if self.config & ENABLE == 0 {
            return self.counter;
        }
        let passed = self.clock.now_ns().saturating_sub(self.since_ns) / CLOCK_NS;
        self.counter.wrapping_add(passed)
    }

    fn line(&self, n: usize) -> Option<&IrqLine> {
        if self.config & LEGACY != 0 && n < 2 {
            return Some(&self.legacy[n]);
        }
        let route = self.comparators[n].route();
        let at = ROUTES.iter().position(|r| *r == route)?;
        Some(&self.lines[n][at])
    }

    fn arm(&self, n: usize) {
        let comparator = &self.comparators[n];
        let distance = comparator
            .distance(self.now())
            .filter(|_| self.config & ENABLE != 0);
        match distance {
            Some(clocks) => {
                let ns = clocks.saturating_mul(CLOCK_NS).min(u64::MAX / 4);
                // Whole clocks since the counter started, so that none is lost to rounding.
                let part = self.clock.now_ns().saturating_sub(self.since_ns) % CLOCK_NS;
                self.timers[n].arm((self.clock.now_ns() - part).saturating_add(ns));
            }
            None => self.timers[n].disarm(),
        }
    }

    fn arm_all(&self) {
        (0..COUNT).for_each(|n| self.arm(n));
    }

    /// All level-triggered lines and who owns IRQ0 and IRQ8.
    fn update_lines(&self) {
        let legacy = self.config & LEGACY != 0;
        self.legacy.iter().for_each(|l| l.take_over(legacy));
        for n in 0..COUNT {
            let config = self.comparators[n].config;
            let high =
                self.status >> n & 1 != 0 && config & (LEVEL | INTERRUPT) == LEVEL | INTERRUPT;
            let high = high && self.config & ENABLE != 0;
            let active = if high { self.line(n) } else { None };
            for line in self.lines[n].iter().chain(self.legacy.get(n)) {
                line.set(active.is_some_and(|a| std::ptr::eq(a, line)));
            }
        }
    }

    fn fire(&mut self, n: usize) {
        let config = self.comparators[n].config;
        if config & LEVEL != 0 {
            self.status |= 1 << n;
        }
        if config & INTERRUPT == 0 {
            return;
        }
        if let Some(line) = self.line(n) {
            if config & LEVEL != 0 {
                line.set(true)
            } else {
                line.pulse()
            }
        }
    }

    fn read_register(&self, register: u64) -> u64 {
        match register {
            0x00 => CAPABILITIES,
            0x10 => self.config,
            0x20 => self.status,
            0xf0 => self.now(),
            0x100.. => {
                let n = ((register - 0x100) / 0x20) as usize;
                match (self.comparators.get(n), register & 0x18) {
                    (Some(c), 0) => c.config | TIMER_CAPABILITIES,
                    (Some(c), 8) => c.value & c.mask(),
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, register: u64, merge: impl Fn(u64) -> u64) {
        match register {
            0x10 => {
                let new = merge(self.config) & (ENABLE | LEGACY);
                if (new ^ self.config) & ENABLE != 0 {
                    self.counter = self.now();
                    self.since_ns = self.clock.now_ns();
                }
                self.config = new;
                self.update_lines();
                self.arm_all();
            }
            0x20 => {
                self.status &= !merge(0);
                self.update_lines();
            }
            // A running counter cannot be set.
            0xf0 if self.config & ENABLE == 0 => self.counter = merge(self.counter),
            0x100.. => {
                let n = ((register - 0x100) / 0x20) as usize;
                if n < COUNT {
                    self.write_comparator(n, register & 0x18, merge);
                }
            }
            _ => {}
        }
    }

    fn write_comparator(&mut self, n: usize, register: u64, merge: impl Fn(u64) -> u64) {
        let c = &mut self.comparators[n];
        match register {
            0 => {
                let mut new = merge(c.config) & TIMER_WRITABLE;
                let route = (new >> ROUTE_SHIFT & 31) as u8;
                if route != 0 && !ROUTES.contains(&route) {
                    // A route that is not there does not stick.
                    new = new & !(31 << ROUTE_SHIFT) | c.config & 31 << ROUTE_SHIFT;
                }
                c.config = new;
                if new & LEVEL == 0 {
                    self.status &= !(1 << n);
                }
                self.update_lines();
            }
            8 => {
                let mask = c.mask();
                let periodic = c.config & PERIODIC != 0;
                if !periodic || c.config & SET_VALUE != 0 {
                    c.value = merge(c.value) & mask;
                    c.period = if periodic { c.value } else { c.period };
                } else {
                    c.period = merge(c.period) & mask;
                }
                c.config &= !SET_VALUE;
            }
            _ => {}
        }
        self.arm(n);
    }
}

impl Mmio for Hpet {
    fn read(&mut self, _: usize, _: u32, offset: u64, data: &mut [u8]) {
        let skip = (offset & 7) as usize;
        let bytes = self.read_register(offset & !7).to_le_bytes();
        data.fill(0);
        data.iter_mut()
            .zip(&bytes[skip..])
            .for_each(|(d, b)| *d = *b);
    }

    fn write(&mut self, _: usize, _: u32, offset: u64, data: &[u8]) {
        let skip = (offset & 7) as usize;
        self.write_register(offset & !7, |old| {
            let mut bytes = old.to_le_bytes();
            bytes[skip..]
                .iter_mut()
                .zip(data)
                .for_each(|(b, d)| *b = *d);
            u64::from_le_bytes(bytes)
        });
    }
}

impl TimerSink for Hpet {
    fn expired(&mut self, id: u32) {
        let n = id as usize;
        if n >= COUNT || self.config & ENABLE == 0 {
            return;
        }
        let counter = self.now();
        let c = &mut self.comparators[n];
        let mask = c.mask();
        // How far past the match we are; an expiry that came early is none.
        let late = counter.wrapping_sub(c.value) & mask;
        if late > mask >> 1 {
            self.arm(n);
            return;
        }
        if c.config & PERIODIC != 0 && c.period != 0 {
            // Periods shorter than 20 us are taken several at a time.
            let least = c.period * u64::from(MIN_TICK).div_ceil(c.period);
            let periods = late / c.period * c.period;
            c.value = c.value.wrapping_add(periods).wrapping_add(least) & mask;
        }
        self.fire(n);
        self.arm(n);
    }
}

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    config: u64,
    #[n(1)]
    status: u64,
    #[n(2)]
    counter: u64,
    #[n(3)]
    since_ns: u64,
    #[n(4)]
    comparators: Vec<(u64, u64, u64)>,
}

impl Device for Hpet {
    fn reset(&mut self) {
        self.config = 0;
        self.status = 0;
        self.counter = 0;
        self.since_ns = 0;
        self.comparators = Default::default();
        self.update_lines();
        self.arm_all();
    }

    fn save(&self) -> Result<Vec<u8>> {
        let all = self.comparators.iter();
        ssm::encode(&Saved {
            config: self.config,
            status: self.status,
            counter: self.counter,
            since_ns: self.since_ns,
            comparators: all.map(|c| (c.config, c.value, c.period)).collect(),
        })
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let saved: Saved = ssm::decode(version, SAVED_VERSION, data)?;
        let all = saved
            .comparators
            .into_iter()
            .map(|(config, value, period)| Comparator {
                config: config & TIMER_WRITABLE,
                value,
                period,
            });
        self.comparators = all
            .collect::<Vec<_>>()
            .try_into()
            .map_err(|_| Error::SavedState("the HPET has three comparators".into()))?;
        self.config = saved.config & (ENABLE | LEGACY);
        self.status = saved.status & 7;
        self.counter = saved.counter;
        self.since_ns = saved.since_ns;
        self.update_lines();
        self.arm_all();
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        let (config, status, now) = (self.config, self.status, self.now());
        writeln!(out, "config {config:x} status {status:x} counter {now}")?;
        for (n, c) in self.comparators.iter().enumerate() {
            let (config, value, period) = (c.config, c.value, c.period);
            writeln!(out, "{n}: config {config:x} value {value} period {period}")?;
        }
        Ok(())
    }

    fn mmio(&mut self) -> Option<&mut dyn Mmio> {
        Some(self)
    }
    fn timers(&mut self) -> Option<&mut dyn TimerSink> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use pdm::irq::{IrqSink, Wire};
    use pdm::testing::TestHost;

    #[derive(Default)]
    struct Edges(Mutex<Vec<u8>>);
    impl IrqSink for Edges {
        fn isa(&self, irq: u8, level: bool) {
            if level {
                self.0.lock().push(irq);
            }
        }
    }

    fn put(dev: &mut dyn Device, at: u64, value: u64) {
        dev.mmio().unwrap().write(0, 0, at, &value.to_le_bytes());
    }
    fn get(dev: &mut dyn Device, at: u64) -> u64 {
        let mut data = [0; 8];
        dev.mmio().unwrap().read(0, 0, at, &mut data);
        u64::from_le_bytes(data)
    }
    fn step(host: &TestHost, dev: &mut dyn Device, id: u32) {
        let at = host.timers[&id].deadline().unwrap();
        host.clock.advance(at - host.clock.now_ns());
        dev.timers().unwrap().expired(id);
    }

    #[test]
    fn legacy_replacement_takes_irq_0_over() {
        let mut host = TestHost::default();
        let edges = Arc::new(Edges::default());
        host.hub.add_sink(edges.clone());
        let pit = host.hub.line(Wire::Isa(0));
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        pit.set(true);
        put(&mut *dev, 0x100, INTERRUPT | PERIODIC | SET_VALUE);
        put(&mut *dev, 0x108, 500_000);
        put(&mut *dev, 0x108, 100_000);
        put(&mut *dev, 0x10, ENABLE | LEGACY);
        for _ in 0..3 {
            step(&host, &mut *dev, 0);
        }
        assert_eq!(host.clock.now_ns(), 7_000_000);
        assert_eq!(get(&mut *dev, 0x108), 800_000);
        assert_eq!(*edges.0.lock(), [0, 0, 0, 0]);
        put(&mut *dev, 0x10, 0);
        pit.set(false);
        pit.set(true);
        assert_eq!(edges.0.lock().len(), 6);
    }

    #[test]
    fn level_one_shot_and_status() {
        let mut host = TestHost::default();
        let edges = Arc::new(Edges::default());
        host.hub.add_sink(edges.clone());
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        put(
            &mut *dev,
            0x140,
            LEVEL | INTERRUPT | NARROW | 11 << ROUTE_SHIFT,
        );
        put(&mut *dev, 0x148, 1000);
        put(&mut *dev, 0x10, ENABLE);
        step(&host, &mut *dev, 2);
        assert_eq!(
            (get(&mut *dev, 0x20), edges.0.lock().clone()),
            (4, vec![11])
        );
        put(&mut *dev, 0x20, 4);
        assert_eq!(get(&mut *dev, 0x20), 0);
        // 32 bits wide: it matches again when the low half comes round.
        assert_eq!(host.timers[&2].deadline(), Some(10_000 + (10 << 32)));
        assert_eq!(get(&mut *dev, 0xf0), 1000);
        put(&mut *dev, 0x120, 3 << ROUTE_SHIFT);
        assert_eq!(get(&mut *dev, 0x120) >> ROUTE_SHIFT & 31, 0);
        let saved = dev.save().unwrap();
        dev.load(SAVED_VERSION, &saved).unwrap();
        assert_eq!(dev.save().unwrap(), saved);
    }
}
