//! Serial ports: a 16450, 16550A or 16750 at COM1 to COM4's places.
//!
//! Output is handed to the character driver as fast as it takes it; the line speed is not imitated
//! unless `Throttle` is set. The transmitter-empty interrupt comes when the last character left.
//! Automatic flow control of the 16750 (AFE) is stored and has no effect: no driver overruns us.

mod saved;
mod uart;

use std::sync::Arc;

use pdm::cfgm::Node;
use pdm::driver::{CharDriver, CharSink};
use pdm::{Clock, Device, DeviceReg, Error, Host, IrqLine, Pio, Result, Timer, TimerSink};

use saved::SAVED_VERSION;
use uart::{Effect, Model, Uart};

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "serial",
    description: "16550A serial port",
    saved_version: SAVED_VERSION,
    max_instances: 4,
    construct,
};

/// Ports and interrupts of COM1 to COM4.
const DEFAULTS: [(u64, u64); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

const TIMER_TIMEOUT: u32 = 0;
const TIMER_TRANSMIT: u32 = 1;

/// How long to wait before offering bytes again to a driver that is busy.
const RETRY_NS: u64 = 1_000_000;

/// CTS, DSR and DCD as MSR bits: what a connected cable shows.
const CONNECTED: u8 = 0xb0;

struct Serial {
    // Configuration and wiring.
    irq: IrqLine,
    clock: Arc<dyn Clock>,
    timeout: Timer,
    transmit: Timer,
    driver: Option<Box<dyn CharDriver>>,
    throttle: bool,
    base: u16,
    // Guest-visible state.
    uart: Uart,
}

fn construct(config: &Node, instance: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    let (base, irq) = DEFAULTS[instance as usize % 4];
    let base = config.int_in("IOBase", base, 0x100..=0xfff8)? as u16 & !7;
    let irq = config.int_in("IRQ", irq, 0..=15)? as u8;
    let model = match config.str("UartType", "16550A").as_str() {
        "16450" => Model::I16450,
        "16550A" => Model::I16550A,
        "16750" => Model::I16750,
        other => {
            return Err(Error::Config {
                key: "UartType".into(),
                reason: format!("'{other}' is not one of 16450, 16550A, 16750"),
            });
        }
    };
    host.map_pio(base, 8)?;
    let driver = host.char(0);
    let inputs = if driver.is_some() { CONNECTED } else { 0 };
    Ok(Box::new(Serial {
        irq: host.isa_irq(irq),
        clock: host.clock(),
        timeout: host.timer(TIMER_TIMEOUT, "serial receive time-out"),
        transmit: host.timer(TIMER_TRANSMIT, "serial transmit"),
        driver,
        throttle: config.bool("Throttle", false)?,
        base,
        uart: Uart::new(model, inputs),
    }))
}

impl Serial {
    /// Brings wire and time-out clock in line with the registers.
    fn update(&mut self) {
        self.irq.set(self.uart.irq());
        if self.uart.wants_timeout() {
            if self.timeout.deadline().is_none() {
                self.restart_timeout();
            }
        } else {
            self.timeout.disarm();
        }
    }

    fn restart_timeout(&mut self) {
        self.timeout
            .arm(self.clock.now_ns() + 4 * self.uart.char_ns());
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Transmit => {
                // The interrupt of the former character ends before the next one's begins.
                self.irq.set(self.uart.irq());
                if self.throttle {
                    if self.transmit.deadline().is_none() {
                        self.transmit.arm(self.clock.now_ns() + self.uart.char_ns());
                    }
                } else if self.transmit.deadline().is_none() {
                    self.send();
                }
            }
            Effect::Params => {
                let (data, parity, stop) = self.uart.format();
                let baud = self.uart.baud();
                if let Some(driver) = &mut self.driver {
                    driver.set_params(baud, data, parity, stop);
                }
            }
            Effect::Modem => {
                let mcr = self.uart.mcr;
                if let Some(driver) = &mut self.driver
                    && mcr & uart::mcr::LOOP == 0
                {
                    driver.set_modem(mcr & uart::mcr::DTR != 0, mcr & uart::mcr::RTS != 0);
                }
            }
            Effect::Break(on) => {
                if let Some(driver) = &mut self.driver {
                    driver.set_break(on);
                }
            }
            Effect::Room => {
                self.timeout.disarm();
                let room = self.uart.room();
                if let Some(driver) = &mut self.driver
                    && room > 0
                {
                    driver.input_ready();
                }
            }
        }
        self.update();
    }

    fn send(&mut self) {
        let (head, _) = self.uart.tx.as_slices();
        let limit = if self.throttle { 1 } else { head.len() };
        let offered = &head[..limit.min(head.len())];
        let taken = match &mut self.driver {
            Some(driver) => driver.send(offered).min(offered.len()),
            // Nobody listens: the bits leave into the air.
            None => offered.len(),
        };
        self.uart.sent(taken);
        if !self.uart.tx.is_empty() {
            let wait = if taken == 0 { RETRY_NS } else { 0 };
            let wait = if self.throttle {
                wait.max(self.uart.char_ns())
            } else {
                wait
            };
            self.transmit.arm(self.clock.now_ns() + wait);
        }
    }
}

impl Device for Serial {
    fn reset(&mut self) {
        self.uart = Uart::new(self.uart.model, self.uart.inputs);
        self.timeout.disarm();
        self.transmit.disarm();
        self.update();
    }

    fn save(&self) -> Result<Vec<u8>> {
        saved::save(
            &self.uart,
            self.timeout.deadline(),
            self.transmit.deadline(),
        )
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let (timeout, transmit) = saved::load(version, data, &mut self.uart)?;
        for (timer, deadline) in [(&self.timeout, timeout), (&self.transmit, transmit)] {
            match deadline {
                Some(at) => timer.arm(at),
                None => timer.disarm(),
            }
        }
        self.irq.set(self.uart.irq());
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        let u = &self.uart;
        let (data, parity, stop) = u.format();
        writeln!(out, "{:?} at {:#05x}", u.model, self.base)?;
        writeln!(out, "line {} {data}{parity}{stop}", u.baud())?;
        writeln!(
            out,
            "IER {:02x} FCR {:02x} LCR {:02x} MCR {:02x} MSR {:02x} errors {:02x}",
            u.ier, u.fcr, u.lcr, u.mcr, u.msr, u.line_errors
        )?;
        writeln!(
            out,
            "receive {} transmit {} of {}, interrupt {}",
            u.rx.len(),
            u.tx.len(),
            u.depth(),
            self.irq.level()
        )
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
    fn timers(&mut self) -> Option<&mut dyn TimerSink> {
        Some(self)
    }
    fn char_input(&mut self) -> Option<&mut dyn CharSink> {
        Some(self)
    }
}

impl Pio for Serial {
    fn read(&mut self, port: u16, size: u8) -> u32 {
        let mut value = 0;
        // A wide access is that many narrow ones at ascending ports.
        for i in 0..u16::from(size.min(4)) {
            let (byte, effect) = self.uart.read(port.wrapping_sub(self.base).wrapping_add(i));
            value |= u32::from(byte) << (8 * i);
            self.apply(effect);
        }
        value
    }

    fn write(&mut self, port: u16, size: u8, value: u32) {
        for i in 0..u16::from(size.min(4)) {
            let reg = port.wrapping_sub(self.base).wrapping_add(i);
            let effect = self.uart.write(reg, (value >> (8 * i)) as u8);
            self.apply(effect);
        }
    }
}

impl TimerSink for Serial {
    fn expired(&mut self, id: u32) {
        match id {
            TIMER_TIMEOUT => {
                self.timeout.disarm();
                self.uart.timeout();
            }
            _ => {
                self.transmit.disarm();
                if !self.uart.tx.is_empty() {
                    self.send();
                }
            }
        }
        self.update();
    }
}

impl CharSink for Serial {
    fn receive(&mut self, data: &[u8]) -> usize {
        let n = self.uart.room().min(data.len());
        for byte in &data[..n] {
            self.uart.receive(*byte, 0);
        }
        if n > 0 {
            self.timeout.disarm();
            self.update();
        }
        n
    }

    fn modem(&mut self, cts: bool, dsr: bool, ri: bool, dcd: bool) {
        let levels =
            u8::from(cts) << 4 | u8::from(dsr) << 5 | u8::from(ri) << 6 | u8::from(dcd) << 7;
        self.uart.set_inputs(levels);
        self.update();
    }
}

#[cfg(test)]
mod tests;
