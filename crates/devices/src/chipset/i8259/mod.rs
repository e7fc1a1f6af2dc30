//! The 8259A pair at ports 0x20 and 0xA0 with the edge/level registers 0x4D0 and 0x4D1.
//!
//! The pair's output is the machine's ExtINT: it goes to the local APICs, which come back for the
//! vector. Source of the edge/level registers: 82371SB datasheet, 2.5.4.

mod chip;

use std::fmt::Write;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use parking_lot::Mutex;
use pdm::cfgm::Node;
use pdm::irq::{InterruptController, IrqSink, PicAcknowledge};
use pdm::{Device, DeviceReg, Error, Host, Pio, Result, ssm};

use chip::{Chip, Init};

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "i8259",
    description: "8259A interrupt controllers",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const SAVED_VERSION: u32 = 1;
/// Inputs whose trigger mode can be chosen: not the timer, keyboard, cascade, clock and FPU.
const ELCR_MASK: [u8; 2] = [0xf8, 0xde];

/// The pair, shared between its ports, the interrupt lines and the local APICs.
struct Pair {
    state: Mutex<State>,
    controller: Option<Arc<dyn InterruptController>>,
}

struct State {
    chips: [Chip; 2],
    output: bool,
}

impl Pair {
    /// Runs `f` and lets the outputs follow.
    fn with<R>(&self, f: impl FnOnce(&mut [Chip; 2]) -> R) -> R {
        let mut state = self.state.lock();
        let result = f(&mut state.chips);
        let slave = state.chips[1].request().is_some();
        state.chips[0].set_line(2, slave);
        let output = state.chips[0].request().is_some();
        if output != state.output {
            state.output = output;
            if let Some(controller) = &self.controller {
                controller.set_extint(output);
            }
        }
        result
    }
}

impl IrqSink for Pair {
    fn isa(&self, irq: u8, level: bool) {
        // Input 2 is the cascade; the wire ends nowhere.
        if irq != 2 {
            self.with(|chips| chips[usize::from(irq >> 3 & 1)].set_line(irq & 7, level));
        }
    }
}

impl PicAcknowledge for Pair {
    fn acknowledge(&self) -> u8 {
        self.with(|chips| {
            let [master, slave] = chips;
            let Some(input) = master.request() else {
                // Spurious: input 7's vector, nothing in service.
                return master.base | 7;
            };
            master.acknowledge(input);
            if input != 2 {
                return master.base | input;
            }
            match slave.request() {
                Some(input) => {
                    slave.acknowledge(input);
                    slave.base | input
                }
                None => slave.base | 7,
            }
        })
    }
}

struct I8259 {
    pair: Arc<Pair>,
}

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    master: SavedChip,
    #[n(1)]
    slave: SavedChip,
}

#[derive(Encode, Decode)]
struct SavedChip {
    #[n(0)]
    edges: u8,
    #[n(1)]
    isr: u8,
    #[n(2)]
    imr: u8,
    #[n(3)]
    lines: u8,
    #[n(4)]
    elcr: u8,
    #[n(5)]
    base: u8,
    #[n(6)]
    lowest: u8,
    #[n(7)]
    init: u8,
    #[n(8)]
    icw1: u8,
    #[n(9)]
    icw4: u8,
    #[n(10)]
    rotate_auto: bool,
    #[n(11)]
    special_mask: bool,
    #[n(12)]
    poll: bool,
    #[n(13)]
    read_isr: bool,
}

impl From<&Chip> for SavedChip {
    fn from(c: &Chip) -> Self {
        Self {
            edges: c.edges,
            isr: c.isr,
            imr: c.imr,
            lines: c.lines,
            elcr: c.elcr,
            base: c.base,
            lowest: c.lowest,
            init: c.init as u8,
            icw1: c.icw1,
            icw4: c.icw4,
            rotate_auto: c.rotate_auto,
            special_mask: c.special_mask,
            poll: c.poll,
            read_isr: c.read_isr,
        }
    }
}

impl SavedChip {
    fn chip(self, master: bool) -> Result<Chip> {
        let init = match self.init {
            0 => Init::Ready,
            1 => Init::Vector,
            2 => Init::Cascade,
            3 => Init::Mode,
            n => return Err(Error::SavedState(format!("8259 initialization step {n}"))),
        };
        Ok(Chip {
            edges: self.edges,
            isr: self.isr,
            imr: self.imr,
            lines: self.lines,
            elcr: self.elcr & ELCR_MASK[usize::from(!master)],
            base: self.base & 0xf8,
            lowest: self.lowest & 7,
            init,
            icw1: self.icw1,
            icw4: self.icw4,
            rotate_auto: self.rotate_auto,
            special_mask: self.special_mask,
            poll: self.poll,
            read_isr: self.read_isr,
            master,
        })
    }
}

fn construct(_: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    host.map_pio(0x20, 2)?;
    host.map_pio(0xa0, 2)?;
    host.map_pio(0x4d0, 2)?;
    let state = State {
        chips: [Chip::new(true), Chip::new(false)],
        output: false,
    };
    let controller = host.interrupt_controller();
    let pair = Arc::new(Pair {
        state: Mutex::new(state),
        controller: controller.clone(),
    });
    host.add_irq_sink(pair.clone());
    if let Some(controller) = controller {
        controller.set_pic(pair.clone());
    }
    Ok(Box::new(I8259 { pair }))
}

impl Pio for I8259 {
    fn read(&mut self, port: u16, _: u8) -> u32 {
        let which = usize::from(if port & 0x400 != 0 {
            port & 1
        } else {
            port >> 7 & 1
        });
        let value = self.pair.with(|chips| match port {
            0x4d0 | 0x4d1 => chips[which].elcr,
            _ => chips[which].read(port & 1 != 0),
        });
        value.into()
    }

    fn write(&mut self, port: u16, size: u8, value: u32) {
        let value16 = value as u16;
        let value = value as u8;
        self.pair.with(|chips| match port {
            0x4d0 | 0x4d1 => {
                chips[usize::from(port & 1)].elcr = value & ELCR_MASK[usize::from(port & 1)];
                if port == 0x4d0 && size == 2 {
                    chips[1].elcr = (value16 >> 8) as u8 & ELCR_MASK[1];
                }
            }
            _ => {
                let chip = &mut chips[usize::from(port >> 7 & 1)];
                chip.write(port & 1 != 0, value);
                if port & 1 == 0 && size == 2 {
                    chip.write(true, (value16 >> 8) as u8);
                }
            }
        });
    }
}

impl Device for I8259 {
    fn reset(&mut self) {
        self.pair.with(|chips| {
            for (chip, master) in chips.iter_mut().zip([true, false]) {
                // The wires keep their levels.
                let lines = chip.lines;
                *chip = Chip::new(master);
                chip.lines = lines;
            }
        });
    }

    fn save(&self) -> Result<Vec<u8>> {
        let state = self.pair.state.lock();
        ssm::encode(&Saved {
            master: (&state.chips[0]).into(),
            slave: (&state.chips[1]).into(),
        })
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let saved: Saved = ssm::decode(version, SAVED_VERSION, data)?;
        let loaded = [saved.master.chip(true)?, saved.slave.chip(false)?];
        self.pair.with(|chips| *chips = loaded);
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        let state = self.pair.state.lock();
        for (name, c) in ["master", "slave"].iter().zip(&state.chips) {
            writeln!(
                out,
                "{name}: irr {:02x} isr {:02x} imr {:02x} lines {:02x} elcr {:02x} base {:02x} \
                 lowest {} icw4 {:02x} special mask {}",
                c.irr(),
                c.isr,
                c.imr,
                c.lines,
                c.elcr,
                c.base,
                c.lowest,
                c.icw4,
                c.special_mask
            )?;
        }
        writeln!(out, "INTR {}", if state.output { "high" } else { "low" })
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdm::irq::Wire;
    use pdm::testing::TestHost;

    fn pair() -> (TestHost, Arc<Pair>) {
        let mut host = TestHost::default();
        let state = State {
            chips: [Chip::new(true), Chip::new(false)],
            output: false,
        };
        let pair = Arc::new(Pair {
            state: Mutex::new(state),
            controller: None,
        });
        host.add_irq_sink(pair.clone());
        let mut dev = I8259 { pair: pair.clone() };
        let io = dev.pio().unwrap();
        for (port, base, wiring) in [(0x20, 8u32, 4), (0xa0, 0x70, 2)] {
            io.write(port, 1, 0x11);
            io.write(port + 1, 1, base);
            io.write(port + 1, 1, wiring);
            io.write(port + 1, 1, 1);
            io.write(port + 1, 1, 0);
        }
        (host, pair)
    }

    #[test]
    fn the_slave_comes_through_the_cascade() {
        let (host, pair) = pair();
        let line = host.hub.line(Wire::Isa(14));
        line.set(true);
        assert!(pair.state.lock().output);
        assert_eq!(pair.acknowledge(), 0x76);
        assert!(!pair.state.lock().output);
        let mut dev = I8259 { pair: pair.clone() };
        let io = dev.pio().unwrap();
        io.write(0x20, 1, 0x0b);
        assert_eq!(io.read(0x20, 1), 4);
        host.hub.line(Wire::Isa(12)).pulse();
        io.write(0xa0, 1, 0x20);
        io.write(0x20, 1, 0x20);
        assert_eq!(pair.acknowledge(), 0x74);
    }

    #[test]
    fn a_vanished_level_request_is_spurious() {
        let (host, pair) = pair();
        let mut dev = I8259 { pair: pair.clone() };
        dev.pio().unwrap().write(0x4d0, 2, 0xffff);
        assert_eq!(dev.pio().unwrap().read(0x4d1, 1), 0xde);
        let line = host.hub.line(Wire::Isa(5));
        line.set(true);
        line.set(false);
        assert_eq!(pair.acknowledge(), 15);
        assert_eq!(pair.state.lock().chips[0].isr, 0);
    }
}
