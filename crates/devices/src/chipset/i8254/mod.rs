//! The 8254 timer at ports 0x40 to 0x43 and system control port 0x61.
//!
//! Counter 0 drives IRQ0, counter 1 the refresh toggle, counter 2 the speaker (no sound). In modes
//! 2 and 3 IRQ0 shows only the rising edge of OUT, as a short low pulse: that is all an
//! edge-triggered input sees of the wave. Counter 1 keeps its registers; the refresh toggle runs at
//! the fixed 15 us of every PC.

mod chip;

use std::fmt::Write;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use pdm::cfgm::Node;
use pdm::{Clock, Device, DeviceReg, Error, Host, IrqLine, Pio, Result, Timer, TimerSink, ssm};

use chip::Counter;

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "i8254",
    description: "8254 interval timer",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const SAVED_VERSION: u32 = 1;
/// Input clock in Hz.
pub const FREQUENCY: u64 = 1_193_182;
/// Clocks per refresh.
const REFRESH: u64 = 18;
/// Shortest time between two interrupts, in clocks (about 50 us).
const MIN_INTERVAL: u64 = 60;
const CONTROL: u16 = 0x43;
const SYSTEM: u16 = 0x61;

struct I8254 {
    clock: Arc<dyn Clock>,
    timer: Timer,
    irq: IrqLine,
    counters: [Counter; 3],
    /// Clock of the last rising edge of OUT0 that was looked at.
    seen: u64,
    /// Speaker data and the NMI enable bits of port 0x61.
    system: u8,
}

fn construct(_: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    host.map_pio(0x40, 4)?;
    host.map_pio(SYSTEM, 1)?;
    Ok(Box::new(I8254 {
        clock: host.clock(),
        timer: host.timer(0, "8254 counter 0"),
        irq: host.isa_irq(0),
        counters: power_on(),
        seen: 0,
        system: 0,
    }))
}

fn power_on() -> [Counter; 3] {
    [Counter::new(true), Counter::new(true), Counter::new(false)]
}

/// Virtual time of the start of input clock `tick`.
fn ns(tick: u64) -> u64 {
    let ns = (u128::from(tick) * 1_000_000_000).div_ceil(u128::from(FREQUENCY));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

impl I8254 {
    fn now(&self) -> u64 {
        (u128::from(self.clock.now_ns()) * u128::from(FREQUENCY) / 1_000_000_000) as u64
    }

    /// The level of IRQ0 and the next edge, after counter 0 was written.
    fn restart(&mut self) {
        let now = self.now();
        self.counters[0].sync(now);
        self.irq.set(self.counters[0].out(now));
        self.seen = now;
        self.arm();
    }

    fn arm(&self) {
        let counter = &self.counters[0];
        let after = match counter.mode {
            2 | 3 => self
                .seen
                .max((self.seen + MIN_INTERVAL).saturating_sub(counter.count.into())),
            _ => self.seen,
        };
        match counter.next_rise(after) {
            Some(tick) => self.timer.arm(ns(tick)),
            None => self.timer.disarm(),
        }
    }

    fn read_system(&mut self) -> u8 {
        let now = self.now();
        self.counters[2].sync(now);
        let gate = u8::from(self.counters[2].gate);
        let out = u8::from(self.counters[2].out(now));
        gate | self.system | ((now / REFRESH) as u8 & 1) << 4 | out << 5
    }
}

impl Pio for I8254 {
    fn read(&mut self, port: u16, _: u8) -> u32 {
        let now = self.now();
        match port {
            SYSTEM => self.read_system().into(),
            CONTROL => 0xff,
            _ => {
                let counter = &mut self.counters[usize::from(port & 3).min(2)];
                counter.sync(now);
                counter.read(now).into()
            }
        }
    }

    fn write(&mut self, port: u16, _: u8, value: u32) {
        let value = value as u8;
        let now = self.now();
        self.counters.iter_mut().for_each(|c| c.sync(now));
        match (port, value >> 6) {
            (SYSTEM, _) => {
                self.system = value & 0x0e;
                self.counters[2].set_gate(value & 1 != 0, now);
            }
            (CONTROL, 3) => {
                for (i, counter) in self.counters.iter_mut().enumerate() {
                    if value >> (i + 1) & 1 != 0 {
                        if value & 0x20 == 0 {
                            counter.latch_count(now);
                        }
                        if value & 0x10 == 0 {
                            counter.latch_status(now);
                        }
                    }
                }
            }
            (CONTROL, which) => {
                self.counters[usize::from(which)].control(value & 0x3f, now);
                if which == 0 && value & 0x30 != 0 {
                    self.restart();
                }
            }
            _ => {
                let which = usize::from(port & 3).min(2);
                self.counters[which].write(value, now);
                if which == 0 {
                    self.restart();
                }
            }
        }
    }
}

impl TimerSink for I8254 {
    fn expired(&mut self, _: u32) {
        let now = self.now();
        let before = self.seen;
        let due = self.counters[0]
            .next_rise(before)
            .is_some_and(|tick| tick <= now);
        self.counters[0].sync(now);
        self.seen = now;
        if due {
            self.irq.set(false);
            self.irq.set(true);
        }
        self.arm();
    }
}

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    counters: Vec<SavedCounter>,
    #[n(1)]
    seen: u64,
    #[n(2)]
    system: u8,
    #[n(3)]
    irq: bool,
}

#[derive(Encode, Decode)]
struct SavedCounter {
    #[n(0)]
    mode: u8,
    #[n(1)]
    bcd: bool,
    #[n(2)]
    access: u8,
    #[n(3)]
    count: u32,
    #[n(4)]
    start: u64,
    #[n(5)]
    frozen: Option<u64>,
    #[n(6)]
    running: bool,
    #[n(7)]
    next: Option<(u32, u64)>,
    #[n(8)]
    null_count: bool,
    #[n(9)]
    low: Option<u8>,
    #[n(10)]
    read_high: bool,
    #[n(11)]
    latch: Option<u16>,
    #[n(12)]
    status: Option<u8>,
    #[n(13)]
    gate: bool,
}

impl From<&Counter> for SavedCounter {
    fn from(c: &Counter) -> Self {
        Self {
            mode: c.mode,
            bcd: c.bcd,
            access: c.access,
            count: c.count,
            start: c.start,
            frozen: c.frozen,
            running: c.running,
            next: c.next,
            null_count: c.null_count,
            low: c.low,
            read_high: c.read_high,
            latch: c.latch,
            status: c.status,
            gate: c.gate,
        }
    }
}

impl SavedCounter {
    fn counter(self) -> Result<Counter> {
        const LATEST: u64 = u64::MAX / 4;
        let counts = 1..=0x1_0000;
        let valid = self.mode <= 5
            && (1..=3).contains(&self.access)
            && counts.contains(&self.count)
            && self.next.is_none_or(|(n, _)| counts.contains(&n))
            && self.start < LATEST
            && self.frozen.is_none_or(|f| f < LATEST);
        if !valid {
            return Err(Error::SavedState("8254 counter is out of range".into()));
        }
        Ok(Counter {
            mode: self.mode,
            bcd: self.bcd,
            access: self.access,
            count: self.count,
            start: self.start,
            frozen: self.frozen,
            running: self.running,
            next: self.next,
            null_count: self.null_count,
            low: self.low,
            read_high: self.read_high,
            latch: self.latch,
            status: self.status,
            gate: self.gate,
        })
    }
}

impl Device for I8254 {
    fn reset(&mut self) {
        self.counters = power_on();
        self.system = 0;
        self.timer.disarm();
        self.irq.set(false);
        self.seen = self.now();
    }

    fn save(&self) -> Result<Vec<u8>> {
        ssm::encode(&Saved {
            counters: self.counters.iter().map(SavedCounter::from).collect(),
            seen: self.seen,
            system: self.system,
            irq: self.irq.level(),
        })
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let saved: Saved = ssm::decode(version, SAVED_VERSION, data)?;
        let counters: Vec<_> = saved
            .counters
            .into_iter()
            .map(SavedCounter::counter)
            .collect::<Result<_>>()?;
        self.counters = counters
            .try_into()
            .map_err(|_| Error::SavedState("8254 has three counters".into()))?;
        self.seen = saved.seen.min(u64::MAX / 4);
        self.system = saved.system & 0x0e;
        self.irq.set(saved.irq);
        self.arm();
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        let now = self.now();
        for (i, c) in self.counters.iter().enumerate() {
            let hz = FREQUENCY / u64::from(c.count);
            let state = if c.running { "running" } else { "stopped" };
            let (mode, count, gate, level) = (c.mode, c.count, c.gate, c.out(now));
            writeln!(
                out,
                "{i}: mode {mode} count {count} ({hz} Hz) {state} gate {gate} out {level}"
            )?;
        }
        writeln!(out, "port 0x61 bits {:02x}", self.system)
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
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
    use pdm::irq::IrqSink;
    use pdm::testing::TestHost;

    #[derive(Default)]
    struct Edges(Mutex<u32>);
    impl IrqSink for Edges {
        fn isa(&self, irq: u8, level: bool) {
            *self.0.lock() += u32::from(irq == 0 && level);
        }
    }

    #[test]
    fn a_tick_comes_each_period() {
        let mut host = TestHost::default();
        let edges = Arc::new(Edges::default());
        host.hub.add_sink(edges.clone());
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
            dev.pio().unwrap().write(port, 1, value); // 11932: 100 Hz
        }
        let before = *edges.0.lock();
        for _ in 0..100 {
            let deadline = host.timers[&0].deadline().unwrap();
            host.clock.advance(deadline - host.clock.now_ns());
            dev.timers().unwrap().expired(0);
        }
        assert_eq!(*edges.0.lock() - before, 100);
        let second = host.clock.now_ns();
        assert!((1_000_000_000..1_000_100_000).contains(&second), "{second}");
    }

    #[test]
    fn tiny_counts_do_not_flood() {
        let mut host = TestHost::default();
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        for (port, value) in [(0x43, 0x14), (0x40, 2)] {
            dev.pio().unwrap().write(port, 1, value);
        }
        assert!(host.timers[&0].deadline().unwrap() >= 48_000);
        dev.timers().unwrap().expired(0);
        dev.pio().unwrap().write(0x43, 1, 0x30);
        assert_eq!(host.timers[&0].deadline(), None);
    }

    #[test]
    fn port_61_gates_counter_2_and_toggles() {
        let mut host = TestHost::default();
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        let io = dev.pio().unwrap();
        for (port, value) in [(0x61, 0), (0x43, 0xb0), (0x42, 0xa9), (0x42, 4), (0x61, 1)] {
            io.write(port, 1, value); // 1193: 1 ms in mode 0
        }
        assert_eq!(io.read(0x61, 1) & 0x21, 1);
        host.clock.advance(1_000_100);
        assert_eq!(io.read(0x61, 1) & 0x21, 0x21);
        let a = io.read(0x61, 1) & 0x10;
        host.clock.advance(15_086);
        assert_ne!(io.read(0x61, 1) & 0x10, a);
    }
}
