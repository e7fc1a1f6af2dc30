//! Parallel ports: a standard (SPP) port with the PS/2 direction bit.
//!
//! Facts: IBM PS/2 Hardware Interface Technical Reference, "Parallel Port Controller". With a
//! character driver below, every strobe sends one byte and the port answers as a ready printer;
//! without one it is a connector with nothing plugged in. Not there: EPP and ECP.

use minicbor::{Decode, Encode};
use pdm::cfgm::Node;
use pdm::driver::CharDriver;
use pdm::{Device, DeviceReg, Host, IrqLine, Pio, Result, ssm};

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "parallel",
    description: "parallel port",
    saved_version: SAVED_VERSION,
    max_instances: 3,
    construct,
};

const SAVED_VERSION: u32 = 1;

/// Ports and interrupts of LPT1 to LPT3.
const DEFAULTS: [(u64, u64); 3] = [(0x378, 7), (0x278, 5), (0x3bc, 7)];

mod control {
    pub const STROBE: u8 = 0x01;
    pub const INIT: u8 = 0x04;
    pub const SELECT: u8 = 0x08;
    pub const IRQ: u8 = 0x10;
    pub const INPUT: u8 = 0x20;
    pub const MASK: u8 = 0x3f;
}

mod status {
    /// Active low lines read as 1: no error, not busy (inverted), no acknowledge pulse.
    pub const READY: u8 = 0xdf;
    pub const BUSY_OFF: u8 = 0x80;
    /// Nothing connected: lines pulled up; BUSY is inverted.
    pub const OPEN: u8 = 0x7f;
}

struct Parallel {
    irq: IrqLine,
    driver: Option<Box<dyn CharDriver>>,
    base: u16,
    data: u8,
    control: u8,
    /// The driver did not take the byte: the printer is busy and the strobe is tried again when
    /// the guest looks.
    waiting: bool,
}

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    data: u8,
    #[n(1)]
    control: u8,
    #[n(2)]
    waiting: bool,
}

fn construct(config: &Node, instance: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    let (base, irq) = DEFAULTS[instance as usize % DEFAULTS.len()];
    let base = config.int_in("IOBase", base, 0x100..=0xfffc)? as u16 & !3;
    let irq = config.int_in("IRQ", irq, 0..=15)? as u8;
    host.map_pio(base, 3)?;
    Ok(Box::new(Parallel {
        irq: host.isa_irq(irq),
        driver: host.char(0),
        base,
        data: 0,
        control: control::INIT | control::SELECT,
        waiting: false,
    }))
}

impl Parallel {
    fn strobe(&mut self) {
        let taken = match &mut self.driver {
            Some(driver) => driver.send(&[self.data]) > 0,
            None => return,
        };
        self.waiting = !taken;
        // The printer acknowledges with a pulse.
        if taken && self.control & control::IRQ != 0 {
            self.irq.pulse();
        }
    }

    fn status(&mut self) -> u8 {
        if self.waiting {
            self.strobe();
        }
        match (&self.driver, self.waiting) {
            (None, _) => status::OPEN,
            (_, true) => status::READY & !status::BUSY_OFF,
            (_, false) => status::READY,
        }
    }

    fn read_byte(&mut self, register: u16) -> u8 {
        match register {
            // Turned round, nobody drives the lines.
            0 if self.control & control::INPUT != 0 => 0xff,
            0 => self.data,
            1 => self.status(),
            2 => self.control | 0xc0,
            _ => 0xff,
        }
    }

    fn write_byte(&mut self, register: u16, value: u8) {
        match register {
            0 => self.data = value,
            2 => {
                let was = std::mem::replace(&mut self.control, value & control::MASK);
                if value & !was & control::STROBE != 0 {
                    self.strobe();
                }
            }
            _ => {}
        }
    }
}

impl Device for Parallel {
    fn reset(&mut self) {
        self.data = 0;
        self.control = control::INIT | control::SELECT;
        self.waiting = false;
        self.irq.set(false);
    }

    fn save(&self) -> Result<Vec<u8>> {
        ssm::encode(&Saved {
            data: self.data,
            control: self.control,
            waiting: self.waiting,
        })
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let saved: Saved = ssm::decode(version, SAVED_VERSION, data)?;
        self.data = saved.data;
        self.control = saved.control & control::MASK;
        self.waiting = saved.waiting;
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        writeln!(
            out,
            "at {:#05x}: data {:02x} control {:02x} connected {} waiting {}",
            self.base,
            self.data,
            self.control,
            self.driver.is_some(),
            self.waiting
        )
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
}

impl Pio for Parallel {
    fn read(&mut self, port: u16, size: u8) -> u32 {
        let first = port.wrapping_sub(self.base);
        (0..u16::from(size.min(4))).fold(0, |value, i| {
            value | u32::from(self.read_byte(first.wrapping_add(i))) << (8 * i)
        })
    }

    fn write(&mut self, port: u16, size: u8, value: u32) {
        let first = port.wrapping_sub(self.base);
        for i in 0..u16::from(size.min(4)) {
            self.write_byte(first.wrapping_add(i), (value >> (8 * i)) as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use pdm::driver::CharInput;
    use pdm::testing::TestHost;
    use std::sync::Arc;

    struct Printer(Arc<Mutex<Vec<u8>>>);
    impl CharDriver for Printer {
        fn send(&mut self, data: &[u8]) -> usize {
            self.0.lock().extend_from_slice(data);
            data.len()
        }
        fn start(&mut self, _: Arc<dyn CharInput>) {}
    }

    #[test]
    fn an_open_connector_and_a_printer() {
        let mut host = TestHost::default();
        let mut open = (REG.construct)(&Node::default(), 0, &mut host).unwrap();
        let pio = open.pio().unwrap();
        pio.write(0x378, 1, 0xa5);
        assert_eq!(pio.read(0x378, 1), 0xa5, "the probe of every driver");
        assert_eq!(pio.read(0x379, 1), 0x7f);
        let paper = Arc::new(Mutex::new(Vec::new()));
        host.chars.insert(0, Box::new(Printer(paper.clone())));
        let mut dev = (REG.construct)(&Node::default(), 1, &mut host).unwrap();
        let pio = dev.pio().unwrap();
        for byte in b"hi" {
            assert_eq!(pio.read(0x279, 1), 0xdf);
            pio.write(0x278, 1, (*byte).into());
            pio.write(0x27a, 1, 0x0d);
            pio.write(0x27a, 1, 0x0c);
        }
        assert_eq!(*paper.lock(), b"hi");
        let data = dev.save().unwrap();
        open.load(1, &data).unwrap();
        assert_eq!(open.save().unwrap(), data);
    }
}
