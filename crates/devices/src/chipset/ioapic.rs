//! 82093AA I/O APIC: 24 inputs at 0xFEC00000.
//!
//! Source: Intel 82093AA datasheet (290566); the EOI register is that of the 0x20 version. ISA
//! interrupt 0 comes in at pin 2, the others at the pin of their number, PIRQA to PIRQD at pins
//! 16 to 19. Lines here say whether an interrupt is asserted, so the polarity bit is kept and has
//! no effect.

use std::fmt::Write;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use parking_lot::Mutex;
use pdm::cfgm::Node;
use pdm::irq::{ApicMessage, EoiSink, InterruptController, IrqSink};
use pdm::{Device, DeviceReg, Error, Host, Mmio, Result, ssm};

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "ioapic",
    description: "I/O APIC",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const SAVED_VERSION: u32 = 1;
/// Where the registers are.
pub const ADDRESS: u64 = 0xfec0_0000;
const PINS: usize = 24;
const PRIORITY: i32 = 20;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const DELIVERY_STATUS: u64 = 1 << 12;
/// What of a redirection entry can be written.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

struct Chip {
    state: Mutex<State>,
    controller: Option<Arc<dyn InterruptController>>,
}

struct State {
    select: u8,
    id: u8,
    table: [u64; PINS],
    lines: u32,
}

impl State {
    fn new(lines: u32) -> Self {
        Self {
            select: 0,
            id: 0,
            table: [MASKED; PINS],
            lines,
        }
    }
}

impl Chip {
    fn set_pin(&self, pin: usize, level: bool) {
        let mut state = self.state.lock();
        let bit = 1 << pin;
        let rising = level && state.lines & bit == 0;
        state.lines = if level {
            state.lines | bit
        } else {
            state.lines & !bit
        };
        // An edge at a masked pin is lost (datasheet 3.2.4, interrupt mask).
        if rising || state.table[pin] & LEVEL != 0 {
            self.service(&mut state, pin);
        }
    }

    /// Sends the message of a pin that rose, or of a level pin when it is time.
    fn service(&self, state: &mut State, pin: usize) {
        let entry = state.table[pin];
        let level = entry & LEVEL != 0;
        let waits = level && (state.lines >> pin & 1 == 0 || entry & REMOTE_IRR != 0);
        if entry & MASKED != 0 || waits {
            return;
        }
        let mode = (entry >> 8 & 7) as u8;
        if level && mode < 2 {
            state.table[pin] |= REMOTE_IRR;
        }
        if let Some(controller) = &self.controller {
            controller.deliver(ApicMessage {
                destination: (entry >> 56) as u32,
                logical: entry >> 11 & 1 != 0,
                mode,
                vector: entry as u8,
                level,
            });
        }
    }

    fn end(&self, vector: u8) {
        let mut state = self.state.lock();
        for pin in 0..PINS {
            let entry = state.table[pin];
            if entry as u8 == vector && entry & LEVEL != 0 && entry & REMOTE_IRR != 0 {
                state.table[pin] &= !REMOTE_IRR;
                self.service(&mut state, pin);
            }
        }
    }

    fn read(&self, offset: u64) -> u32 {
        let state = self.state.lock();
        match offset & 0xf0 {
            SELECT => state.select.into(),
            WINDOW => match state.select {
                0 | 2 => u32::from(state.id) << 24,
                1 => (PINS as u32 - 1) << 16 | 0x20,
                n => match state.table.get(usize::from(n.wrapping_sub(0x10)) / 2) {
                    Some(entry) if n >= 0x10 => (entry >> (32 * (n & 1))) as u32,
                    _ => 0,
                },
            },
            _ => 0,
        }
    }

    fn write(&self, offset: u64, value: u32) {
        let mut state = self.state.lock();
        match offset & 0xf0 {
            SELECT => state.select = value as u8,
            WINDOW => match state.select {
                0 => state.id = (value >> 24) as u8 & 15,
                n @ 0x10.. => {
                    let pin = usize::from(n - 0x10) / 2;
                    let shift = 32 * (n & 1);
                    if let Some(entry) = state.table.get_mut(pin) {
                        let mask = WRITABLE & (0xffff_ffff << shift);
                        *entry = *entry & !mask | u64::from(value) << shift & mask;
                        if *entry & LEVEL == 0 {
                            // Switching to edge is how software without an EOI register clears it.
                            *entry &= !REMOTE_IRR;
                        } else {
                            self.service(&mut state, pin);
                        }
                    }
                }
                _ => {}
            },
            EOI => {
                drop(state);
                self.end(value as u8);
            }
            _ => {}
        }
    }
}

impl IrqSink for Chip {
    fn isa(&self, irq: u8, level: bool) {
        // Pin 0 is the PIC's output on boards that wire it, pin 2 the timer.
        match irq {
            0 => self.set_pin(2, level),
            2 => {}
            n => self.set_pin(usize::from(n & 15), level),
        }
    }
    fn pirq(&self, pirq: u8, level: bool) {
        self.set_pin(16 + usize::from(pirq & 3), level);
    }
}

impl EoiSink for Chip {
    fn eoi(&self, vector: u8) {
        self.end(vector);
    }
}

struct IoApic {
    chip: Arc<Chip>,
}

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    select: u8,
    #[n(1)]
    id: u8,
    #[n(2)]
    table: Vec<u64>,
    #[n(3)]
    lines: u32,
}

fn construct(_: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    host.map_mmio(0, ADDRESS, 0x1000, PRIORITY)?;
    let controller = host.interrupt_controller();
    let chip = Arc::new(Chip {
        state: Mutex::new(State::new(0)),
        controller: controller.clone(),
    });
    host.add_irq_sink(chip.clone());
    if let Some(controller) = controller {
        controller.add_eoi_sink(chip.clone());
    }
    Ok(Box::new(IoApic { chip }))
}

impl Mmio for IoApic {
    fn read(&mut self, _: usize, _: u32, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let byte = (offset & 15) as usize;
        if byte < 4 && offset < 0x100 {
            let bytes = self.chip.read(offset).to_le_bytes();
            data.iter_mut()
                .zip(&bytes[byte..])
                .for_each(|(d, b)| *d = *b);
        }
    }

    fn write(&mut self, _: usize, _: u32, offset: u64, data: &[u8]) {
        if offset & 15 != 0 || offset >= 0x100 {
            return;
        }
        let mut bytes = [0; 4];
        bytes.iter_mut().zip(data).for_each(|(b, d)| *b = *d);
        // The select register is a byte; the others are written as doublewords.
        if data.len() >= 4 || offset == SELECT {
            self.chip.write(offset, u32::from_le_bytes(bytes));
        }
    }
}

impl Device for IoApic {
    fn reset(&mut self) {
        let mut state = self.chip.state.lock();
        *state = State::new(state.lines);
    }

    fn save(&self) -> Result<Vec<u8>> {
        let state = self.chip.state.lock();
        ssm::encode(&Saved {
            select: state.select,
            id: state.id,
            table: state.table.to_vec(),
            lines: state.lines,
        })
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let saved: Saved = ssm::decode(version, SAVED_VERSION, data)?;
        let table = saved
            .table
            .try_into()
            .map_err(|_| Error::SavedState("the I/O APIC has 24 entries".into()))?;
        *self.chip.state.lock() = State {
            select: saved.select,
            id: saved.id,
            table,
            lines: saved.lines,
        };
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        let state = self.chip.state.lock();
        for (pin, entry) in state.table.iter().enumerate() {
            let masked = if entry & MASKED != 0 {
                "masked"
            } else {
                "open"
            };
            let trigger = if entry & LEVEL != 0 { "level" } else { "edge" };
            let irr = if entry & (REMOTE_IRR | DELIVERY_STATUS) != 0 {
                " irr"
            } else {
                ""
            };
            let line = state.lines >> pin & 1;
            let (vector, mode, to) = (entry & 0xff, entry >> 8 & 7, entry >> 56);
            writeln!(
                out,
                "{pin:2}: vector {vector:02x} mode {mode} to {to:02x} {trigger} {masked}{irr} line {line}"
            )?;
        }
        Ok(())
    }

    fn mmio(&mut self) -> Option<&mut dyn Mmio> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdm::irq::{PicAcknowledge, Wire};
    use pdm::testing::TestHost;

    /// Records messages.
    #[derive(Default)]
    struct Log(Mutex<Vec<ApicMessage>>);
    impl InterruptController for Log {
        fn pending(&self, _: usize) -> bool {
            false
        }
        fn acknowledge(&self, _: usize) -> Option<u8> {
            None
        }
        fn cr8(&self, _: usize) -> u8 {
            0
        }
        fn set_cr8(&self, _: usize, _: u8) {}
        fn read_msr(&self, _: usize, _: u32) -> Option<u64> {
            None
        }
        fn write_msr(&self, _: usize, _: u32, _: u64) -> bool {
            false
        }
        fn deliver(&self, message: ApicMessage) {
            self.0.lock().push(message);
        }
        fn add_eoi_sink(&self, _: Arc<dyn EoiSink>) {}
        fn set_extint(&self, _: bool) {}
        fn set_pic(&self, _: Arc<dyn PicAcknowledge>) {}
        fn reset_cpu(&self, _: usize) {}
    }

    fn set(dev: &mut dyn Device, pin: u8, entry: u64) {
        let mmio = dev.mmio().unwrap();
        for half in [1u8, 0] {
            mmio.write(0, 0, 0, &[0x10 + pin * 2 + half]);
            let word = (entry >> (32 * half)) as u32;
            mmio.write(0, 0, 0x10, &word.to_le_bytes());
        }
    }

    #[test]
    fn edges_and_levels() {
        let mut host = TestHost::default();
        let log = Arc::new(Log::default());
        host.controller = Some(log.clone());
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        set(&mut *dev, 2, 0x0100_0000_0000_0031);
        let timer = host.hub.line(Wire::Isa(0));
        timer.pulse();
        timer.pulse();
        let message = log.0.lock()[0];
        assert_eq!(
            (message.vector, message.destination, message.level),
            (0x31, 1, false)
        );
        assert_eq!(log.0.lock().len(), 2);
        set(&mut *dev, 17, LEVEL | 0x55);
        let pirq = host.hub.line(Wire::Pirq(1));
        pirq.set(true);
        assert_eq!(log.0.lock().len(), 3);
        let saved = dev.save().unwrap();
        let mmio = dev.mmio().unwrap();
        mmio.write(0, 0, EOI, &0x55u32.to_le_bytes()); // still high: again
        assert_eq!(log.0.lock().len(), 4);
        pirq.set(false);
        mmio.write(0, 0, EOI, &0x55u32.to_le_bytes());
        assert_eq!(log.0.lock().len(), 4);
        dev.load(SAVED_VERSION, &saved).unwrap();
        assert_eq!(dev.save().unwrap(), saved);
    }

    #[test]
    fn an_edge_while_masked_is_lost() {
        let mut host = TestHost::default();
        let log = Arc::new(Log::default());
        host.controller = Some(log.clone());
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        host.hub.line(Wire::Isa(1)).pulse();
        set(&mut *dev, 1, 0x39);
        assert_eq!(log.0.lock().len(), 0);
        let mut data = [0; 4];
        let mmio = dev.mmio().unwrap();
        mmio.write(0, 0, 0, &[1]);
        mmio.read(0, 0, 0x10, &mut data);
        assert_eq!(data, [0x20, 0, 23, 0]);
    }
}
