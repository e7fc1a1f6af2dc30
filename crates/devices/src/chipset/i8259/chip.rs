//! One 8259A as a pure model: no bus, no time.
//!
//! Source: Intel 8259A datasheet (231468). The 8080 mode (ICW4 bit 0 clear) is not there: the
//! INTA cycle always gives one vector.

/// Which command byte the data port expects next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Init {
    /// Operating: the data port is the mask register.
    #[default]
    Ready,
    /// ICW2: vector base.
    Vector,
    /// ICW3: cascade wiring.
    Cascade,
    /// ICW4: modes.
    Mode,
}

/// One controller.
#[derive(Debug, Clone, Default)]
pub struct Chip {
    /// Requests latched by an edge.
    pub edges: u8,
    /// In service.
    pub isr: u8,
    /// Mask.
    pub imr: u8,
    /// Levels of the inputs.
    pub lines: u8,
    /// Level-triggered inputs.
    pub elcr: u8,
    /// Vector of input 0.
    pub base: u8,
    /// Input with the lowest priority.
    pub lowest: u8,
    /// Initialization sequence.
    pub init: Init,
    /// ICW1 (level mode, single, ICW4 follows).
    pub icw1: u8,
    /// ICW4 (automatic EOI, special fully nested).
    pub icw4: u8,
    /// Rotate priorities on automatic EOI.
    pub rotate_auto: bool,
    /// Special mask mode.
    pub special_mask: bool,
    /// The next read polls.
    pub poll: bool,
    /// Reads of the command port give the ISR.
    pub read_isr: bool,
    /// Input 2 is the other controller: follows its output as a level.
    pub master: bool,
}

const ICW1_ICW4: u8 = 1;
const ICW1_SINGLE: u8 = 2;
const ICW1_LEVEL: u8 = 8;
const ICW4_AUTO_EOI: u8 = 2;
const ICW4_NESTED: u8 = 0x10;
const CASCADE: u8 = 4;

impl Chip {
    /// Power-on state; `elcr` and input levels are set elsewhere.
    pub fn new(master: bool) -> Self {
        Self {
            lowest: 7,
            master,
            ..Self::default()
        }
    }

    fn level_mask(&self) -> u8 {
        let all = if self.icw1 & ICW1_LEVEL != 0 {
            0xff
        } else {
            self.elcr
        };
        all | if self.master { CASCADE } else { 0 }
    }

    /// The interrupt request register.
    pub fn irr(&self) -> u8 {
        let levels = self.level_mask();
        self.edges & !levels | self.lines & levels
    }

    /// An input changed. In edge mode the request stays latched when the line drops before the
    /// acknowledge: devices here pulse their lines, and no guest relies on losing an interrupt.
    pub fn set_line(&mut self, input: u8, level: bool) {
        let bit = 1 << (input & 7);
        if level {
            self.edges |= bit & !self.lines;
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
    }

    /// Distance of the highest-priority set bit from the top priority; 8 when none is set.
    fn rank(&self, set: u8) -> u32 {
        let turn = u32::from(self.lowest.wrapping_add(1) & 7);
        set.rotate_right(turn).trailing_zeros()
    }

    /// The input that asks for service, if INT is active.
    pub fn request(&self) -> Option<u8> {
        if self.init != Init::Ready {
            return None;
        }
        let mut busy = self.isr;
        if self.special_mask {
            busy &= !self.imr;
        }
        if self.master && self.icw4 & ICW4_NESTED != 0 {
            busy &= !CASCADE;
        }
        let best = self.rank(self.irr() & !self.imr);
        let turn = u32::from(self.lowest) + 1;
        (best < self.rank(busy)).then_some(((best + turn) & 7) as u8)
    }

    /// INTA for `input`.
    pub fn acknowledge(&mut self, input: u8) {
        let bit = 1 << (input & 7);
        self.edges &= !bit;
        if self.icw4 & ICW4_AUTO_EOI == 0 {
            self.isr |= bit;
        } else if self.rotate_auto {
            self.lowest = input & 7;
        }
    }

    /// Reads the command port (`data` false) or the data port.
    pub fn read(&mut self, data: bool) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.request() {
                Some(input) => {
                    self.acknowledge(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match data {
            true => self.imr,
            false if self.read_isr => self.isr,
            false => self.irr(),
        }
    }

    /// Writes the command port (`data` false) or the data port.
    pub fn write(&mut self, data: bool, value: u8) {
        if data {
            self.write_data(value);
        } else if value & 0x10 != 0 {
            self.icw1(value);
        } else if value & 8 != 0 {
            self.ocw3(value);
        } else {
            self.ocw2(value);
        }
    }

    fn icw1(&mut self, value: u8) {
        self.icw1 = value;
        if value & ICW1_ICW4 == 0 {
            self.icw4 = 0;
        }
        self.edges = 0;
        self.isr = 0;
        self.imr = 0;
        self.lowest = 7;
        self.rotate_auto = false;
        self.special_mask = false;
        self.poll = false;
        self.read_isr = false;
        self.init = Init::Vector;
    }

    fn write_data(&mut self, value: u8) {
        let mode = if self.icw1 & ICW1_ICW4 != 0 {
            Init::Mode
        } else {
            Init::Ready
        };
        self.init = match self.init {
            Init::Ready => {
                self.imr = value;
                Init::Ready
            }
            Init::Vector => {
                self.base = value & 0xf8;
                if self.icw1 & ICW1_SINGLE != 0 {
                    mode
                } else {
                    Init::Cascade
                }
            }
            // The wiring is the board's: input 2 and slave number 2.
            Init::Cascade => mode,
            Init::Mode => {
                self.icw4 = value;
                Init::Ready
            }
        };
    }

    fn ocw2(&mut self, value: u8) {
        let input = value & 7;
        let command = value >> 5;
        match command {
            // End of interrupt: of the highest in service, or of the named one.
            1 | 5 => {
                let busy = if self.special_mask {
                    self.isr & !self.imr
                } else {
                    self.isr
                };
                let rank = self.rank(busy);
                if rank < 8 {
                    let done = ((rank + u32::from(self.lowest) + 1) & 7) as u8;
                    self.isr &= !(1 << done);
                    if command == 5 {
                        self.lowest = done;
                    }
                }
            }
            3 | 7 => {
                self.isr &= !(1 << input);
                if command == 7 {
                    self.lowest = input;
                }
            }
            0 => self.rotate_auto = false,
            4 => self.rotate_auto = true,
            6 => self.lowest = input,
            _ => {}
        }
    }

    fn ocw3(&mut self, value: u8) {
        if value & 2 != 0 {
            self.read_isr = value & 1 != 0;
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
        if value & 4 != 0 {
            self.poll = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chip() -> Chip {
        let mut chip = Chip::new(false);
        for (data, value) in [(false, 0x11), (true, 0x20), (true, 4), (true, 1)] {
            chip.write(data, value);
        }
        chip
    }

    #[test]
    fn fixed_priority_and_nesting() {
        let mut c = chip();
        c.set_line(5, true);
        c.set_line(3, true);
        assert_eq!(c.request(), Some(3));
        c.acknowledge(3);
        assert_eq!((c.request(), c.isr, c.irr()), (None, 8, 0x20));
        c.set_line(1, true);
        assert_eq!(c.request(), Some(1));
        c.acknowledge(1);
        c.write(false, 0x20);
        assert_eq!(c.isr, 8);
        c.write(false, 0x63);
        assert_eq!((c.isr, c.request()), (0, Some(5)));
    }

    #[test]
    fn edges_latch_and_levels_follow() {
        let mut c = chip();
        c.set_line(4, true);
        c.set_line(4, false);
        assert_eq!(c.irr(), 0x10);
        c.acknowledge(4);
        c.write(false, 0x20);
        assert_eq!(c.irr(), 0);
        c.elcr = 0x10;
        c.set_line(4, true);
        c.acknowledge(4);
        assert_eq!(c.irr(), 0x10);
        c.set_line(4, false);
        assert_eq!(c.irr(), 0);
    }

    #[test]
    fn rotation_special_mask_and_poll() {
        let mut c = chip();
        c.set_line(0, true);
        c.acknowledge(0);
        c.write(false, 0xa0); // rotate on non-specific EOI
        assert_eq!(c.lowest, 0);
        c.set_line(0, false);
        c.set_line(0, true);
        c.set_line(7, true);
        assert_eq!(c.request(), Some(7));
        c.write(false, 0xc7); // 7 lowest again
        assert_eq!(c.request(), Some(0));
        c.acknowledge(0);
        assert_eq!(c.request(), None);
        c.write(false, 0x68); // special mask
        c.write(true, 1);
        assert_eq!(c.request(), Some(7));
        c.write(false, 0x0c); // poll
        assert_eq!(c.read(false), 0x87);
        c.write(false, 0x0c);
        assert_eq!(c.read(false), 0);
        c.write(false, 0x0b);
        assert_eq!(c.read(false), 0x81);
    }

    #[test]
    fn automatic_end_and_initialization() {
        let mut c = chip();
        c.write(false, 0x13); // single, ICW4
        c.write(true, 0x48);
        assert_eq!(c.request(), None);
        c.write(true, 3);
        c.write(true, 0xf0);
        assert_eq!((c.base, c.imr), (0x48, 0xf0));
        c.set_line(2, true);
        c.write(false, 0x80);
        c.acknowledge(2);
        assert_eq!((c.isr, c.lowest), (0, 2));
    }
}
