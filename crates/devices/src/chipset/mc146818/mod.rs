//! MC146818A real-time clock with 256 bytes of battery-backed RAM, at ports 0x70 to 0x73.
//!
//! Source: Motorola MC146818A datasheet; the second bank is the PIIX's (82371AB, 4.2). The time is
//! the host's plus an offset that setting the clock changes. A divider reset stops the clock; the
//! first second after it ends half a second later. Daylight saving (DSE) and the square wave are
//! kept in register B and have no effect. Bit 7 of port 0x70 is kept: there is no source of NMI.
//!
//! RAM and time survive a reset, as a battery makes them.
//!
//! Configuration: `UseUTC` (default 1), `LocalOffset` (seconds east of UTC, as two's complement;
//! used when not UTC), and see [`cmos`] for `BootDevice0` to `3`, `FloppyType0`/`1`,
//! `HardDiskType0`/`1`.

mod cmos;
mod time;

use std::fmt::Write;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use pdm::cfgm::Node;
use pdm::{Clock, Device, DeviceReg, Error, Host, IrqLine, Pio, Result, Timer, TimerSink, ssm};

use time::{Moment, from_bcd, to_bcd};

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "mc146818",
    description: "MC146818A clock and CMOS RAM",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const SAVED_VERSION: u32 = 1;
const SECOND_NS: i64 = 1_000_000_000;

const SECONDS: usize = 0;
const MINUTES: usize = 2;
const HOURS: usize = 4;
const WEEKDAY: usize = 6;
const DAY: usize = 7;
const MONTH: usize = 8;
const YEAR: usize = 9;
const REG_A: usize = 10;
const REG_B: usize = 11;
const REG_C: usize = 12;
const REG_D: usize = 13;
const CENTURY: usize = 0x32;

/// Register A: update in progress.
const UIP: u8 = 0x80;
/// Register B: hold the time, interrupt enables, binary, 24 hours.
const SET: u8 = 0x80;
const INTERRUPTS: u8 = 0x70;
const PIE: u8 = 0x40;
const BINARY: u8 = 4;
const HOURS_24: u8 = 2;
/// Register C flags.
const IRQF: u8 = 0x80;
const PF: u8 = 0x40;
const AF: u8 = 0x20;
const UF: u8 = 0x10;
/// How long before the end of a second an update is under way (244 us notice, 1984 us update).
const UPDATE_NS: i64 = 2_228_000;
/// Valid RAM and time.
const VRT: u8 = 0x80;

const TIMER_SECOND: u32 = 0;
const TIMER_PERIODIC: u32 = 1;
/// The time base.
const BASE_HZ: u128 = 32_768;

struct Rtc {
    clock: Arc<dyn Clock>,
    second: Timer,
    periodic: Timer,
    irq: IrqLine,
    ram: [u8; 256],
    /// Bank 0 and bank 1 index.
    index: [u8; 2],
    nmi_off: bool,
    /// The clock shows the wall clock plus this.
    offset_ns: i64,
    /// Tick of the periodic rate that was last looked at.
    periodic_seen: u64,
}

fn construct(config: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    host.map_pio(0x70, 4)?;
    let mut offset_ns = 0;
    if !config.bool("UseUTC", true)? {
        let seconds = config.int("LocalOffset", 0)? as i64;
        if seconds.abs() > 86_400 {
            return Err(Error::Config {
                key: "LocalOffset".into(),
                reason: "more than a day".into(),
            });
        }
        offset_ns = seconds * SECOND_NS;
    }
    let mut ram = [0; 256];
    cmos::fill(&mut ram, config, host)?;
    ram[REG_A] = 0x26;
    ram[REG_B] = HOURS_24;
    ram[REG_D] = VRT;
    let mut rtc = Rtc {
        clock: host.clock(),
        second: host.timer(TIMER_SECOND, "clock second"),
        periodic: host.timer(TIMER_PERIODIC, "clock periodic"),
        irq: host.isa_irq(8),
        ram,
        index: [0; 2],
        nmi_off: false,
        offset_ns,
        periodic_seen: 0,
    };
    rtc.show();
    rtc.arm_second();
    Ok(Box::new(rtc))
}

impl Rtc {
    /// Now, in nanoseconds since 1970 as the clock counts.
    fn now(&self) -> i64 {
        let wall = i64::try_from(self.clock.wall_ns()).unwrap_or(i64::MAX);
        wall.saturating_add(self.offset_ns)
    }

    /// Whether time stands still: being set, or the divider held in reset.
    fn stopped(&self) -> bool {
        self.ram[REG_B] & SET != 0 || self.divider_reset()
    }

    fn divider_reset(&self) -> bool {
        self.ram[REG_A] & 0x60 == 0x60
    }

    fn encode(&self, value: u8) -> u8 {
        if self.ram[REG_B] & BINARY != 0 {
            value
        } else {
            to_bcd(value)
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.ram[REG_B] & BINARY != 0 {
            value
        } else {
            from_bcd(value)
        }
    }

    /// Puts the time into the registers.
    fn show(&mut self) {
        if self.stopped() {
            return;
        }
        let m = Moment::from_seconds(self.now().div_euclid(SECOND_NS));
        self.ram[SECONDS] = self.encode(m.second);
        self.ram[MINUTES] = self.encode(m.minute);
        self.ram[HOURS] = if self.ram[REG_B] & HOURS_24 != 0 {
            self.encode(m.hour)
        } else {
            let hour = (m.hour + 11) % 12 + 1;
            self.encode(hour) | if m.hour >= 12 { 0x80 } else { 0 }
        };
        self.ram[WEEKDAY] = self.encode(m.weekday);
        self.ram[DAY] = self.encode(m.day);
        self.ram[MONTH] = self.encode(m.month);
        self.ram[YEAR] = self.encode(m.year.rem_euclid(100) as u8);
        // The century is RAM to the chip: the firmware keeps it in decimal digits.
        self.ram[CENTURY] = to_bcd(m.year.div_euclid(100).rem_euclid(100) as u8);
    }

    /// Makes the clock go on from what the registers say, `part` nanoseconds into that second.
    fn take(&mut self, part: i64) {
        let hours = self.ram[HOURS];
        let hour = if self.ram[REG_B] & HOURS_24 != 0 {
            self.decode(hours)
        } else {
            self.decode(hours & 0x7f) % 12 + if hours & 0x80 != 0 { 12 } else { 0 }
        };
        let century = i64::from(from_bcd(self.ram[CENTURY]));
        let m = Moment {
            year: century * 100 + i64::from(self.decode(self.ram[YEAR])),
            month: self.decode(self.ram[MONTH]),
            day: self.decode(self.ram[DAY]),
            weekday: 0,
            hour,
            minute: self.decode(self.ram[MINUTES]),
            second: self.decode(self.ram[SECONDS]),
        };
        let shown = m
            .to_seconds()
            .saturating_mul(SECOND_NS)
            .saturating_add(part);
        self.offset_ns = self
            .offset_ns
            .saturating_add(shown.saturating_sub(self.now()));
        self.arm_second();
    }

    fn arm_second(&self) {
        if self.stopped() {
            self.second.disarm();
            return;
        }
        let left = SECOND_NS - self.now().rem_euclid(SECOND_NS);
        // A wall clock that is being slewed may be a little short of the second when we wake.
        self.second
            .arm(self.clock.now_ns() + left.max(100_000) as u64);
    }

    /// Clocks of the time base per periodic interrupt, 0 when off.
    fn period(&self) -> u128 {
        match self.ram[REG_A] & 15 {
            0 => 0,
            // The first two rates repeat 256 and 128 Hz.
            rate @ 1..=2 => 1 << (rate + 6),
            rate => 1 << (rate - 1),
        }
    }

    fn periodic_ticks(&self) -> u64 {
        let period = self.period().max(1);
        (u128::from(self.clock.now_ns()) * BASE_HZ / 1_000_000_000 / period) as u64
    }

    fn arm_periodic(&mut self) {
        self.periodic_seen = self.periodic_ticks();
        let period = self.period();
        if period == 0 || self.ram[REG_B] & PIE == 0 || self.divider_reset() {
            self.periodic.disarm();
            return;
        }
        let next = (u128::from(self.periodic_seen) + 1) * period * 1_000_000_000;
        self.periodic
            .arm(u64::try_from(next.div_ceil(BASE_HZ)).unwrap_or(u64::MAX));
    }

    /// Sets flags of register C.
    fn flag(&mut self, flags: u8) {
        self.ram[REG_C] |= flags;
        self.update_irq();
    }

    fn update_irq(&mut self) {
        let pending = self.ram[REG_C] & self.ram[REG_B] & INTERRUPTS != 0;
        self.ram[REG_C] = self.ram[REG_C] & !IRQF | if pending { IRQF } else { 0 };
        self.irq.set(pending);
    }

    /// Whether the alarm registers match the time; codes from 0xC0 match anything.
    fn alarm(&self) -> bool {
        [(1, SECONDS), (3, MINUTES), (5, HOURS)]
            .iter()
            .all(|(alarm, time)| self.ram[*alarm] >= 0xc0 || self.ram[*alarm] == self.ram[*time])
    }

    /// Address in RAM that a data port names.
    fn address(&self, port: u16) -> usize {
        let bank = usize::from(port >> 1 & 1);
        usize::from(self.index[bank]) + bank * 128
    }

    fn read_ram(&mut self, at: usize) -> u8 {
        match at {
            REG_A => {
                let part = self.now().rem_euclid(SECOND_NS);
                let updating = !self.stopped() && part >= SECOND_NS - UPDATE_NS;
                self.ram[REG_A] & !UIP | if updating { UIP } else { 0 }
            }
            REG_C => {
                // The flag shows without its interrupt being enabled, too.
                if self.period() != 0 && self.periodic_ticks() != self.periodic_seen {
                    self.periodic_seen = self.periodic_ticks();
                    self.ram[REG_C] |= PF;
                }
                self.update_irq();
                let value = std::mem::take(&mut self.ram[REG_C]);
                self.update_irq();
                value
            }
            REG_D => VRT,
            0..REG_A | CENTURY => {
                self.show();
                self.ram[at]
            }
            _ => self.ram[at & 0xff],
        }
    }

    fn write_ram(&mut self, at: usize, value: u8) {
        match at {
            REG_A => {
                let was = self.stopped();
                self.show();
                let reset_before = self.divider_reset();
                self.ram[REG_A] = value & !UIP;
                if was && !self.stopped() {
                    self.take(if reset_before { SECOND_NS / 2 } else { 0 });
                }
                self.arm_second();
                self.arm_periodic();
            }
            REG_B => {
                let was = self.stopped();
                self.show();
                let mode_changed = (value ^ self.ram[REG_B]) & (BINARY | HOURS_24) != 0;
                // Setting holds off update interrupts.
                let value = if value & SET != 0 { value & !UF } else { value };
                self.ram[REG_B] = value;
                if was && !self.stopped() {
                    self.take(0);
                } else if mode_changed {
                    self.show();
                }
                self.update_irq();
                self.arm_second();
                self.arm_periodic();
            }
            REG_C | REG_D => {}
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY => {
                self.show();
                self.ram[at] = value;
                if !self.stopped() {
                    self.take(self.now().rem_euclid(SECOND_NS));
                }
            }
            _ => self.ram[at & 0xff] = value,
        }
    }
}

impl Pio for Rtc {
    fn read(&mut self, port: u16, _: u8) -> u32 {
        match port {
            0x71 | 0x73 => self.read_ram(self.address(port)).into(),
            0x72 => self.index[1].into(),
            // The index port cannot be read on the PIIX.
            _ => 0xff,
        }
    }

    fn write(&mut self, port: u16, size: u8, value: u32) {
        match port {
            0x70 => {
                self.index[0] = value as u8 & 0x7f;
                self.nmi_off = value & 0x80 != 0;
            }
            0x72 => self.index[1] = value as u8 & 0x7f,
            _ => self.write_ram(self.address(port), value as u8),
        }
        if size == 2 && port & 1 == 0 {
            self.write_ram(self.address(port), (value >> 8) as u8);
        }
    }
}

impl TimerSink for Rtc {
    fn expired(&mut self, id: u32) {
        if id == TIMER_SECOND {
            if !self.stopped() {
                self.show();
                let alarm = if self.alarm() { AF } else { 0 };
                self.flag(UF | alarm);
            }
            self.arm_second();
        } else {
            let due = self.periodic_ticks() != self.periodic_seen;
            self.arm_periodic();
            if due {
                self.flag(PF);
            }
        }
    }
}

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    ram: Vec<u8>,
    #[n(1)]
    index: [u8; 2],
    #[n(2)]
    nmi_off: bool,
    #[n(3)]
    offset_ns: i64,
    #[n(4)]
    periodic_seen: u64,
}

impl Device for Rtc {
    fn reset(&mut self) {
        self.show();
        self.index = [0; 2];
        self.nmi_off = false;
        self.ram[REG_B] &= !(INTERRUPTS | 8);
        self.ram[REG_C] = 0;
        self.update_irq();
        self.arm_second();
        self.arm_periodic();
    }

    fn save(&self) -> Result<Vec<u8>> {
        ssm::encode(&Saved {
            ram: self.ram.to_vec(),
            index: self.index,
            nmi_off: self.nmi_off,
            offset_ns: self.offset_ns,
            periodic_seen: self.periodic_seen,
        })
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let saved: Saved = ssm::decode(version, SAVED_VERSION, data)?;
        self.ram = saved
            .ram
            .try_into()
            .map_err(|_| Error::SavedState("CMOS RAM has 256 bytes".into()))?;
        self.index = saved.index.map(|i| i & 0x7f);
        self.nmi_off = saved.nmi_off;
        self.offset_ns = saved.offset_ns;
        self.arm_second();
        self.arm_periodic();
        self.periodic_seen = saved.periodic_seen;
        self.update_irq();
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        let m = Moment::from_seconds(self.now().div_euclid(SECOND_NS));
        write!(out, "{}-{:02}-{:02} ", m.year, m.month, m.day)?;
        writeln!(out, "{:02}:{:02}:{:02}", m.hour, m.minute, m.second)?;
        let [a, b, c] = [self.ram[REG_A], self.ram[REG_B], self.ram[REG_C]];
        writeln!(
            out,
            "A {a:02x} B {b:02x} C {c:02x} NMI off {}",
            self.nmi_off
        )?;
        for (i, row) in self.ram.chunks(16).enumerate() {
            writeln!(out, "{:02x}: {row:02x?}", i * 16)?;
        }
        Ok(())
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
    use pdm::testing::TestHost;

    fn get(dev: &mut dyn Device, at: u8) -> u8 {
        let io = dev.pio().unwrap();
        io.write(0x70, 1, at.into());
        io.read(0x71, 1) as u8
    }
    fn put(dev: &mut dyn Device, at: u8, value: u8) {
        let io = dev.pio().unwrap();
        io.write(0x70, 1, at.into());
        io.write(0x71, 1, value.into());
    }
    fn date(dev: &mut dyn Device) -> Vec<u8> {
        [0x32, 9, 8, 7, 4, 2, 0].map(|at| get(dev, at)).to_vec()
    }
    fn make(host: &mut TestHost) -> Box<dyn Device> {
        construct(&Node::default(), 0, host).unwrap()
    }

    #[test]
    fn time_runs_and_formats_change() {
        let mut host = TestHost::default();
        let mut dev = make(&mut host);
        assert_eq!(date(&mut *dev), [0x20, 0x24, 2, 0x29, 0x12, 0, 0]);
        host.clock.advance(86_400_000_000_000 + 3_000_000_000);
        assert_eq!(date(&mut *dev), [0x20, 0x24, 3, 1, 0x12, 0, 3]);
        put(&mut *dev, 11, 4); // binary, 12 hours
        assert_eq!((get(&mut *dev, 9), get(&mut *dev, 4)), (24, 0x8c));
        host.clock.advance(12 * 3_600_000_000_000);
        assert_eq!(get(&mut *dev, 4), 12);
    }

    #[test]
    fn setting_the_clock_holds_and_moves_it() {
        let mut host = TestHost::default();
        let mut dev = make(&mut host);
        put(&mut *dev, 11, 0x82);
        for (at, value) in [
            (9, 0x99),
            (0x32, 0x19),
            (8, 0x12),
            (7, 0x31),
            (4, 0x23),
            (2, 0x59),
        ] {
            put(&mut *dev, at, value);
        }
        put(&mut *dev, 0, 0x58);
        host.clock.advance(5_000_000_000);
        assert_eq!(get(&mut *dev, 0), 0x58);
        put(&mut *dev, 11, 2);
        host.clock.advance(2_000_000_000);
        assert_eq!(date(&mut *dev), [0x20, 0, 1, 1, 0, 0, 0]);
        // A divider reset makes the next second come after half of one.
        put(&mut *dev, 10, 0x76);
        put(&mut *dev, 0, 0x10);
        put(&mut *dev, 10, 0x26);
        host.clock.advance(500_000_000);
        assert_eq!(get(&mut *dev, 0), 0x11);
    }

    #[test]
    fn interrupts_and_flags() {
        let mut host = TestHost::default();
        let mut dev = make(&mut host);
        put(&mut *dev, 1, 0x01);
        put(&mut *dev, 3, 0xff);
        put(&mut *dev, 5, 0xff);
        put(&mut *dev, 11, 0x32);
        let step = |host: &TestHost, dev: &mut dyn Device, id: u32| {
            let at = host.timers[&id].deadline().unwrap();
            host.clock.advance(at - host.clock.now_ns());
            dev.timers().unwrap().expired(id);
        };
        step(&host, &mut *dev, TIMER_SECOND);
        // The periodic flag shows too, without its interrupt.
        assert_eq!((get(&mut *dev, 12), get(&mut *dev, 12)), (0xf0, 0));
        step(&host, &mut *dev, TIMER_SECOND);
        assert_eq!(get(&mut *dev, 12), 0xd0);
        put(&mut *dev, 11, 0x42);
        let before = host.clock.now_ns();
        for _ in 0..1024 {
            step(&host, &mut *dev, TIMER_PERIODIC);
            assert_eq!(get(&mut *dev, 12) & 0xc0, 0xc0);
        }
        let passed = host.clock.now_ns() - before;
        assert!((999_000_000..=1_000_100_000).contains(&passed), "{passed}");
    }

    #[test]
    fn update_in_progress_shows_before_the_second_ends() {
        let mut host = TestHost::default();
        let mut dev = make(&mut host);
        assert_eq!(get(&mut *dev, 10), 0x26);
        host.clock.advance(998_000_000);
        assert_eq!(get(&mut *dev, 10), 0xa6);
    }

    #[test]
    fn local_time_and_second_bank() {
        let mut host = TestHost::default();
        let mut config = Node::default();
        config
            .set("UseUTC", false)
            .set("LocalOffset", -3600i64 as u64);
        let mut dev = construct(&config, 0, &mut host).unwrap();
        assert_eq!(get(&mut *dev, 4), 0x11);
        let io = dev.pio().unwrap();
        io.write(0x72, 1, 0x85);
        io.write(0x73, 1, 0x5a);
        assert_eq!((io.read(0x73, 1), io.read(0x72, 1)), (0x5a, 5));
        let saved = dev.save().unwrap();
        dev.load(SAVED_VERSION, &saved).unwrap();
        assert_eq!(dev.save().unwrap(), saved);
        dev.reset();
        assert_eq!(get(&mut *dev, 0x15), 0x80);
    }
}
