//! The UART itself: registers, FIFOs and interrupt logic, without ports, timers or back end.
//!
//! Facts: National Semiconductor PC16550D data sheet (register bits, interrupt priorities, FIFO
//! trigger levels, time-out interrupt), TI TL16C750 data sheet (64-byte FIFO).

use std::collections::VecDeque;

/// Which chip to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// No FIFOs.
    I16450,
    /// 16-byte FIFOs.
    I16550A,
    /// 16- or 64-byte FIFOs.
    I16750,
}

/// Interrupt enable register bits.
pub mod ier {
    pub const RDA: u8 = 1;
    pub const THRE: u8 = 2;
    pub const LINE: u8 = 4;
    pub const MODEM: u8 = 8;
}

/// Line status register bits.
pub mod lsr {
    pub const DR: u8 = 0x01;
    pub const OE: u8 = 0x02;
    pub const PE: u8 = 0x04;
    pub const FE: u8 = 0x08;
    pub const BI: u8 = 0x10;
    pub const THRE: u8 = 0x20;
    pub const TEMT: u8 = 0x40;
    pub const FIFO_ERR: u8 = 0x80;
    /// Bits that raise a line status interrupt and are cleared by reading.
    pub const ERRORS: u8 = OE | PE | FE | BI;
}

/// Modem control register bits.
pub mod mcr {
    pub const DTR: u8 = 0x01;
    pub const RTS: u8 = 0x02;
    pub const OUT1: u8 = 0x04;
    pub const OUT2: u8 = 0x08;
    pub const LOOP: u8 = 0x10;
}

const IIR_NONE: u8 = 1;
const IIR_LINE: u8 = 6;
const IIR_RDA: u8 = 4;
const IIR_TIMEOUT: u8 = 0xc;
const IIR_THRE: u8 = 2;
const IIR_MODEM: u8 = 0;
const LCR_DLAB: u8 = 0x80;
const LCR_BREAK: u8 = 0x40;

/// What a register write asks of the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// There is something to send.
    Transmit,
    /// Speed or format changed.
    Params,
    /// Modem outputs changed.
    Modem,
    /// The break condition changed.
    Break(bool),
    /// The receive FIFO has room again.
    Room,
}

/// A received character with its error bits.
pub type RxChar = (u8, u8);

/// Guest-visible state.
#[derive(Debug, Clone)]
pub struct Uart {
    pub model: Model,
    pub divisor: u16,
    pub ier: u8,
    pub fcr: u8,
    pub lcr: u8,
    pub mcr: u8,
    /// Error bits of the character at the top, and overrun.
    pub line_errors: u8,
    /// Status lines in the upper half, deltas in the lower.
    pub msr: u8,
    pub scr: u8,
    pub rx: VecDeque<RxChar>,
    pub tx: VecDeque<u8>,
    /// The transmitter holding register became empty and nobody read IIR since.
    pub thre_pending: bool,
    /// Characters have been waiting for four character times.
    pub timeout_pending: bool,
    /// Levels of CTS, DSR, RI and DCD at the connector, as MSR bits 4 to 7.
    pub inputs: u8,
}

impl Uart {
    /// Power-on state with the given connector levels.
    pub fn new(model: Model, inputs: u8) -> Self {
        Self {
            model,
            divisor: 12,
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            line_errors: 0,
            msr: inputs & 0xf0,
            scr: 0,
            rx: VecDeque::new(),
            tx: VecDeque::new(),
            thre_pending: false,
            timeout_pending: false,
            inputs: inputs & 0xf0,
        }
    }

    /// Whether the FIFOs are on.
    pub fn fifo_on(&self) -> bool {
        self.model != Model::I16450 && self.fcr & 1 != 0
    }

    /// Characters each direction holds.
    pub fn depth(&self) -> usize {
        match (self.fifo_on(), self.model, self.fcr & 0x20 != 0) {
            (false, ..) => 1,
            (true, Model::I16750, true) => 64,
            (true, ..) => 16,
        }
    }

    fn trigger(&self) -> usize {
        if !self.fifo_on() {
            return 1;
        }
        let level = usize::from(self.fcr >> 6);
        match self.depth() {
            64 => [1, 16, 32, 56][level],
            _ => [1, 4, 8, 14][level],
        }
    }

    /// Bits per second of the line.
    pub fn baud(&self) -> u32 {
        115_200 / u32::from(self.divisor.max(1))
    }

    /// Data bits, parity letter and stop bits.
    pub fn format(&self) -> (u8, char, u8) {
        let parity = match self.lcr >> 3 & 7 {
            1 => 'O',
            3 => 'E',
            5 => 'M',
            7 => 'S',
            _ => 'N',
        };
        (5 + (self.lcr & 3), parity, 1 + (self.lcr >> 2 & 1))
    }

    /// Nanoseconds one character takes on the line.
    pub fn char_ns(&self) -> u64 {
        let (data, parity, stop) = self.format();
        let bits = 1 + u64::from(data) + u64::from(parity != 'N') + u64::from(stop);
        bits * 1_000_000_000 / u64::from(self.baud().max(1))
    }

    /// Whether the chip is wired to itself.
    pub fn looped(&self) -> bool {
        self.mcr & mcr::LOOP != 0
    }

    /// Room for received characters from outside.
    pub fn room(&self) -> usize {
        if self.looped() {
            0
        } else {
            self.depth().saturating_sub(self.rx.len())
        }
    }

    /// A character arrives. A full FIFO loses it and reports overrun.
    pub fn receive(&mut self, data: u8, errors: u8) {
        if self.rx.len() >= self.depth() {
            self.line_errors |= lsr::OE;
            // Without FIFO the new character takes the old one's place.
            if self.fifo_on() {
                return;
            }
            self.rx.clear();
        }
        let mask = (0x1fu16 << (self.lcr & 3)) as u8 | 0x1f;
        self.rx.push_back((data & mask, errors));
        if self.rx.len() == 1 {
            self.line_errors |= errors;
        }
        self.timeout_pending = false;
    }

    /// Four character times passed without a character coming or going.
    pub fn timeout(&mut self) {
        self.timeout_pending = self.fifo_on() && !self.rx.is_empty();
    }

    /// Whether the time-out clock has to run.
    pub fn wants_timeout(&self) -> bool {
        self.fifo_on() && !self.rx.is_empty() && !self.timeout_pending
    }

    /// The first `n` characters of the transmitter left.
    pub fn sent(&mut self, n: usize) {
        self.tx.drain(..n.min(self.tx.len()));
        if n > 0 && self.tx.is_empty() {
            self.thre_pending = true;
        }
    }

    /// Connector levels changed (MSR bits 4 to 7).
    pub fn set_inputs(&mut self, inputs: u8) {
        self.inputs = inputs & 0xf0;
        if !self.looped() {
            self.change_msr(self.inputs);
        }
    }

    fn change_msr(&mut self, levels: u8) {
        let old = self.msr & 0xf0;
        let changed = (old ^ levels) >> 4;
        // RI counts only its trailing edge.
        let ri = 0x04 & (old & !levels) >> 4;
        self.msr = levels | self.msr & 0x0f | changed & 0x0b | ri;
    }

    fn loop_levels(&self) -> u8 {
        let m = self.mcr;
        (m & mcr::RTS) << 3 | (m & mcr::DTR) << 5 | (m & mcr::OUT1) << 4 | (m & mcr::OUT2) << 4
    }

    fn line_status(&self) -> u8 {
        let mut value = self.line_errors;
        if !self.rx.is_empty() {
            value |= lsr::DR;
        }
        if self.tx.is_empty() {
            value |= lsr::THRE | lsr::TEMT;
        }
        if self.fifo_on() && self.rx.iter().any(|(_, e)| *e != 0) {
            value |= lsr::FIFO_ERR;
        }
        value
    }

    /// The highest pending interrupt as IIR bits 0 to 3.
    fn pending(&self) -> u8 {
        if self.ier & ier::LINE != 0 && self.line_errors & lsr::ERRORS != 0 {
            IIR_LINE
        } else if self.ier & ier::RDA != 0 && self.rx.len() >= self.trigger() {
            IIR_RDA
        } else if self.ier & ier::RDA != 0 && self.timeout_pending {
            IIR_TIMEOUT
        } else if self.ier & ier::THRE != 0 && self.thre_pending {
            IIR_THRE
        } else if self.ier & ier::MODEM != 0 && self.msr & 0x0f != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    /// Level of the interrupt wire; on a PC the OUT2 output gates it.
    pub fn irq(&self) -> bool {
        self.mcr & mcr::OUT2 != 0 && self.pending() != IIR_NONE
    }

    /// Reads register `reg` (0 to 7).
    pub fn read(&mut self, reg: u16) -> (u8, Effect) {
        let dlab = self.lcr & LCR_DLAB != 0;
        let value = match reg & 7 {
            0 if dlab => self.divisor as u8,
            1 if dlab => (self.divisor >> 8) as u8,
            0 => {
                let value = self.rx.pop_front().map_or(0, |(c, _)| c);
                self.line_errors |= self.rx.front().map_or(0, |(_, e)| *e);
                self.timeout_pending = false;
                return (value, Effect::Room);
            }
            1 => self.ier,
            2 => {
                let cause = self.pending();
                if cause == IIR_THRE {
                    self.thre_pending = false;
                }
                let fifo = if self.fifo_on() { 0xc0 } else { 0 };
                cause | fifo | if self.depth() == 64 { 0x20 } else { 0 }
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => {
                let value = self.line_status();
                self.line_errors = 0;
                if let Some(top) = self.rx.front_mut() {
                    top.1 = 0;
                }
                value
            }
            6 => {
                let value = self.msr;
                self.msr &= 0xf0;
                value
            }
            _ => self.scr,
        };
        (value, Effect::None)
    }

    /// Writes register `reg` (0 to 7).
    pub fn write(&mut self, reg: u16, value: u8) -> Effect {
        let dlab = self.lcr & LCR_DLAB != 0;
        match reg & 7 {
            0 if dlab => {
                self.divisor = self.divisor & 0xff00 | u16::from(value);
                Effect::Params
            }
            1 if dlab => {
                self.divisor = self.divisor & 0xff | u16::from(value) << 8;
                Effect::Params
            }
            0 => self.transmit(value),
            1 => {
                let enabled = value & !self.ier;
                self.ier = value & 0x0f;
                // Enabling the interrupt with an empty transmitter raises it at once.
                if enabled & ier::THRE != 0 && self.tx.is_empty() {
                    self.thre_pending = true;
                }
                Effect::None
            }
            2 => self.write_fcr(value),
            3 => {
                let old = std::mem::replace(&mut self.lcr, value);
                if (old ^ value) & LCR_BREAK != 0 {
                    let on = value & LCR_BREAK != 0;
                    if self.looped() {
                        if on {
                            self.receive(0, lsr::BI);
                        }
                        return Effect::None;
                    }
                    return Effect::Break(on);
                }
                if (old ^ value) & 0x3f != 0 {
                    Effect::Params
                } else {
                    Effect::None
                }
            }
            4 => {
                let allowed = if self.model == Model::I16750 {
                    0x3f
                } else {
                    0x1f
                };
                let was_looped = self.looped();
                self.mcr = value & allowed;
                let levels = if self.looped() {
                    self.loop_levels()
                } else {
                    self.inputs
                };
                self.change_msr(levels);
                if was_looped && !self.looped() {
                    Effect::Room
                } else {
                    Effect::Modem
                }
            }
            7 => {
                self.scr = value;
                Effect::None
            }
            // LSR is for factory tests; MSR deltas are read-only.
            _ => Effect::None,
        }
    }

    fn transmit(&mut self, value: u8) -> Effect {
        self.thre_pending = false;
        if self.looped() {
            self.receive(value, 0);
            self.thre_pending = true;
            return Effect::None;
        }
        if self.tx.len() >= self.depth() {
            // The holding register, or the last place of the FIFO, is overwritten.
            self.tx.pop_back();
        }
        self.tx.push_back(value);
        Effect::Transmit
    }

    fn write_fcr(&mut self, value: u8) -> Effect {
        if self.model == Model::I16450 {
            return Effect::None;
        }
        let toggled = (self.fcr ^ value) & 1 != 0;
        // The 64-byte bit is changed with DLAB only; the others need bit 0 set.
        let wide = match self.lcr & LCR_DLAB != 0 {
            true => value & 0x20,
            false => self.fcr & 0x20,
        };
        if toggled || value & 3 == 3 {
            self.rx.clear();
            self.timeout_pending = false;
            self.line_errors = 0;
        }
        if (toggled || value & 5 == 5) && !self.tx.is_empty() {
            self.tx.clear();
            self.thre_pending = true;
        }
        self.fcr = if value & 1 != 0 {
            value & 0xc9 | wide
        } else {
            0
        };
        Effect::Room
    }
}
