//! One local APIC as a model: registers, priorities and the timer's arithmetic.
//!
//! Source: Intel SDM volume 3, chapter 11 (Advanced Programmable Interrupt Controller). Version
//! 0x14 with six local vectors; no EOI-broadcast suppression, no CMCI. The timer's input runs at
//! 1 GHz of virtual time.

/// Offsets of registers in units of 16 bytes (the x2APIC MSR number less 0x800).
pub mod reg {
    #![allow(missing_docs)]
    pub const ID: u8 = 0x02;
    pub const VERSION: u8 = 0x03;
    pub const TPR: u8 = 0x08;
    pub const APR: u8 = 0x09;
    pub const PPR: u8 = 0x0a;
    pub const EOI: u8 = 0x0b;
    pub const LDR: u8 = 0x0d;
    pub const DFR: u8 = 0x0e;
    pub const SVR: u8 = 0x0f;
    pub const ISR: u8 = 0x10;
    pub const TMR: u8 = 0x18;
    pub const IRR: u8 = 0x20;
    pub const ESR: u8 = 0x28;
    pub const ICR: u8 = 0x30;
    pub const ICR_HIGH: u8 = 0x31;
    pub const LVT: u8 = 0x32;
    pub const LVT_LAST: u8 = 0x37;
    pub const INITIAL: u8 = 0x38;
    pub const CURRENT: u8 = 0x39;
    pub const DIVIDE: u8 = 0x3e;
    pub const SELF_IPI: u8 = 0x3f;
}

/// Address in IA32_APIC_BASE, as wide as physical addresses are here.
pub const BASE_ADDRESS: u64 = 0xff_ffff_f000;
/// IA32_APIC_BASE bits.
pub const BASE_BSP: u64 = 1 << 8;
/// x2APIC mode.
pub const BASE_X2APIC: u64 = 1 << 10;
/// Global enable.
pub const BASE_ENABLE: u64 = 1 << 11;
/// Where the registers are at power-on (and always, here).
pub const DEFAULT_ADDRESS: u64 = 0xfee0_0000;

/// Local vectors.
pub const TIMER: usize = 0;
/// See [`TIMER`].
pub const LINT0: usize = 3;
/// See [`TIMER`].
pub const ERROR: usize = 5;
const LVT_WRITABLE: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
const MASKED: u32 = 1 << 16;
/// Delivery mode ExtINT in a local vector.
const EXTINT: u32 = 7 << 8;
const SOFTWARE_ENABLE: u32 = 1 << 8;

/// Error status bits.
pub const SEND_ILLEGAL: u32 = 1 << 5;
const RECEIVE_ILLEGAL: u32 = 1 << 6;
/// See [`SEND_ILLEGAL`].
pub const ILLEGAL_REGISTER: u32 = 1 << 7;

/// Shortest period the timer delivers at, in nanoseconds: shorter ones would let a guest keep the
/// host busy with nothing else.
const MIN_PERIOD: u64 = 20_000;

/// What the timer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerMode {
    /// Counts down once.
    OneShot,
    /// Starts over.
    Periodic,
    /// Fires when the TSC reaches a value.
    Deadline,
    /// Reserved encoding.
    Stopped,
}

/// What a register write leads to beyond this APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The timer's deadline changed.
    Timer,
    /// The ICR was written: send it.
    Ipi,
    /// A level-triggered vector was finished.
    Eoi(u8),
}

/// Registers of one local APIC.
#[derive(Debug, Clone)]
pub struct Lapic {
    /// Number of the processor, which is its initial APIC id.
    pub index: u32,
    /// IA32_APIC_BASE.
    pub base: u64,
    /// xAPIC id (bits 7:0).
    pub id: u8,
    pub tpr: u8,
    pub ldr: u32,
    pub dfr: u32,
    pub svr: u32,
    pub isr: [u32; 8],
    pub tmr: [u32; 8],
    pub irr: [u32; 8],
    pub esr: u32,
    /// Errors since the ESR was last written.
    pub errors: u32,
    pub icr: u64,
    pub lvt: [u32; 6],
    pub initial: u32,
    pub divide: u32,
    /// Virtual time at which the count was `initial`.
    pub start_ns: u64,
    /// The one-shot timer has not expired yet.
    pub running: bool,
    pub tsc_deadline: u64,
    /// The PIC's output, where wired to LINT0.
    pub extint: bool,
    /// An ExtINT message arrived (from an I/O APIC).
    pub ext_message: bool,
    /// What the processor was last told.
    pub intr: bool,
}

/// Highest set bit of a 256-bit register.
fn highest(set: &[u32; 8]) -> Option<u8> {
    let word = set.iter().rposition(|w| *w != 0)?;
    Some((word * 32 + 31 - set[word].leading_zeros() as usize) as u8)
}

fn bit(set: &[u32; 8], vector: u8) -> bool {
    set[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
}

fn put(set: &mut [u32; 8], vector: u8, value: bool) {
    let word = &mut set[usize::from(vector >> 5)];
    let mask = 1 << (vector & 31);
    *word = if value { *word | mask } else { *word & !mask };
}

impl Lapic {
    /// Power-on state. The firmware of every PC opens LINT0 of the boot processor to the PIC
    /// before it turns interrupts on; boards do it at reset for firmware that does not.
    pub fn new(index: u32, enabled: bool) -> Self {
        let mut base = DEFAULT_ADDRESS;
        if index == 0 {
            base |= BASE_BSP;
        }
        if enabled {
            base |= BASE_ENABLE;
        }
        let mut lapic = Self {
            index,
            base,
            id: index as u8,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [MASKED; 6],
            initial: 0,
            divide: 0,
            start_ns: 0,
            running: false,
            tsc_deadline: 0,
            extint: false,
            ext_message: false,
            intr: false,
        };
        if index == 0 {
            lapic.lvt[LINT0] = EXTINT;
        }
        lapic
    }

    /// INIT: power-on state but for id, base and wires.
    pub fn init(&mut self) {
        let fresh = Self::new(self.index, true);
        *self = Self {
            base: self.base,
            id: self.id,
            extint: self.extint,
            intr: self.intr,
            ..fresh
        };
        if self.x2apic() {
            self.ldr = self.x2apic_ldr();
        }
    }

    /// Globally enabled.
    pub fn enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    /// In x2APIC mode.
    pub fn x2apic(&self) -> bool {
        self.base & (BASE_ENABLE | BASE_X2APIC) == BASE_ENABLE | BASE_X2APIC
    }

    fn software_enabled(&self) -> bool {
        self.enabled() && self.svr & SOFTWARE_ENABLE != 0
    }

    fn x2apic_ldr(&self) -> u32 {
        (self.index >> 4) << 16 | 1 << (self.index & 15)
    }

    /// The id by which messages find it.
    pub fn apic_id(&self) -> u32 {
        if self.x2apic() {
            self.index
        } else {
            self.id.into()
        }
    }

    /// Sets IA32_APIC_BASE; false for a forbidden mode change (SDM vol. 3, 11.12.5).
    pub fn set_base(&mut self, value: u64, x2apic_allowed: bool) -> bool {
        let known = BASE_ADDRESS | BASE_BSP | BASE_X2APIC | BASE_ENABLE;
        let mode = |base: u64| base & (BASE_ENABLE | BASE_X2APIC);
        const XAPIC: u64 = BASE_ENABLE;
        const X2APIC: u64 = BASE_ENABLE | BASE_X2APIC;
        let legal = match (mode(self.base), mode(value)) {
            (_, BASE_X2APIC) => false,
            (0, X2APIC) | (X2APIC, XAPIC) => false,
            (XAPIC, X2APIC) => x2apic_allowed,
            _ => true,
        };
        if !legal || value & !known != 0 {
            return false;
        }
        let (old, new) = (mode(self.base), mode(value));
        self.base = value;
        if new == 0 && old != 0 {
            self.init();
            self.id = self.index as u8;
        } else if new == X2APIC && old != X2APIC {
            self.ldr = self.x2apic_ldr();
            self.icr &= 0xffff_ffff;
        }
        true
    }

    /// Processor priority: the higher class of TPR and the vector in service.
    pub fn ppr(&self) -> u8 {
        let service = highest(&self.isr).unwrap_or(0);
        if self.tpr & 0xf0 >= service & 0xf0 {
            self.tpr
        } else {
            service & 0xf0
        }
    }

    /// The vector of its own that would be taken now.
    pub fn vector(&self) -> Option<u8> {
        if !self.software_enabled() {
            return None;
        }
        highest(&self.irr).filter(|v| v & 0xf0 > self.ppr() & 0xf0)
    }

    /// Whether the PIC would be asked for the next vector.
    pub fn takes_extint(&self) -> bool {
        let open = !self.enabled() || self.lvt[LINT0] & (MASKED | EXTINT) == EXTINT;
        self.extint && open || self.ext_message
    }

    /// Whether an interrupt is pending for the processor.
    pub fn pending(&self) -> bool {
        self.takes_extint() || self.vector().is_some()
    }

    /// Moves the highest vector into service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.vector()?;
        put(&mut self.irr, vector, false);
        put(&mut self.isr, vector, true);
        Some(vector)
    }

    /// A fixed interrupt arrives.
    pub fn accept(&mut self, vector: u8, level: bool) {
        if !self.software_enabled() {
            return;
        }
        if vector < 16 {
            self.error(RECEIVE_ILLEGAL);
            return;
        }
        put(&mut self.irr, vector, true);
        put(&mut self.tmr, vector, level);
    }

    /// Records an error and raises the error interrupt when it is a new one.
    pub fn error(&mut self, error: u32) {
        let new = error & !self.errors != 0;
        self.errors |= error;
        let lvt = self.lvt[ERROR];
        if new && lvt & MASKED == 0 && lvt as u8 >= 16 {
            self.accept(lvt as u8, false);
        }
    }

    fn eoi(&mut self) -> Effect {
        let Some(vector) = highest(&self.isr) else {
            return Effect::None;
        };
        put(&mut self.isr, vector, false);
        if bit(&self.tmr, vector) {
            Effect::Eoi(vector)
        } else {
            Effect::None
        }
    }

    /// Whether a message with this destination is for it.
    pub fn matches(&self, destination: u32, logical: bool) -> bool {
        if !self.enabled() {
            return false;
        }
        if !logical {
            let broadcast = destination == 0xff || destination == u32::MAX;
            return broadcast || destination == self.apic_id();
        }
        if self.x2apic() {
            let cluster = destination >> 16 == self.ldr >> 16;
            return destination == u32::MAX || cluster && destination & self.ldr & 0xffff != 0;
        }
        let own = self.ldr >> 24;
        let set = destination & 0xff;
        if self.dfr >> 28 == 0xf {
            own & set != 0
        } else {
            let cluster = set >> 4 == 0xf || set >> 4 == own >> 4;
            cluster && own & set & 0xf != 0
        }
    }

    /// Reads a register; `None` when there is none.
    pub fn read(&self, register: u8, now: u64) -> Option<u32> {
        let x2 = self.x2apic();
        Some(match register {
            reg::ID if x2 => self.index,
            reg::ID => u32::from(self.id) << 24,
            reg::VERSION => 0x0005_0014,
            reg::TPR => self.tpr.into(),
            reg::APR if !x2 => 0,
            reg::PPR => self.ppr().into(),
            reg::EOI if !x2 => 0,
            reg::LDR => self.ldr,
            reg::DFR if !x2 => self.dfr,
            reg::SVR => self.svr,
            reg::ISR..0x18 => self.isr[usize::from(register & 7)],
            reg::TMR..0x20 => self.tmr[usize::from(register & 7)],
            reg::IRR..0x28 => self.irr[usize::from(register & 7)],
            reg::ESR => self.esr,
            reg::ICR => self.icr as u32,
            reg::ICR_HIGH if !x2 => (self.icr >> 32) as u32,
            reg::LVT..=reg::LVT_LAST => self.lvt[usize::from(register - reg::LVT)],
            reg::INITIAL => self.initial,
            reg::CURRENT => self.current(now),
            reg::DIVIDE => self.divide,
            _ => return None,
        })
    }

    /// Writes a register; `None` when there is none or it cannot be written.
    pub fn write(&mut self, register: u8, value: u32, now: u64) -> Option<Effect> {
        let x2 = self.x2apic();
        match register {
            reg::ID if !x2 => self.id = (value >> 24) as u8,
            reg::TPR => self.tpr = value as u8,
            reg::EOI => return Some(self.eoi()),
            reg::LDR if !x2 => self.ldr = value & 0xff00_0000,
            reg::DFR if !x2 => self.dfr = value | 0x0fff_ffff,
            reg::SVR => {
                self.svr = value & 0x3ff;
                if value & SOFTWARE_ENABLE == 0 {
                    self.lvt.iter_mut().for_each(|l| *l |= MASKED);
                }
                return Some(Effect::Timer);
            }
            reg::ESR => self.esr = std::mem::take(&mut self.errors),
            reg::ICR => {
                self.icr = self.icr & !0xffff_ffff | u64::from(value & 0x000c_cfff);
                return Some(Effect::Ipi);
            }
            reg::ICR_HIGH if !x2 => {
                self.icr = self.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32;
            }
            reg::LVT..=reg::LVT_LAST => return Some(self.write_lvt(register - reg::LVT, value)),
            reg::INITIAL => {
                if self.timer_mode() != TimerMode::Deadline {
                    self.initial = value;
                    self.start_ns = now;
                    self.running = value != 0;
                }
                return Some(Effect::Timer);
            }
            reg::DIVIDE => {
                // The count goes on from where it is at the new speed.
                let current = self.current(now);
                self.divide = value & 0xb;
                let passed = u64::from(self.initial.saturating_sub(current));
                self.start_ns = now.saturating_sub(passed * self.divisor());
                return Some(Effect::Timer);
            }
            reg::SELF_IPI if x2 => {
                self.accept(value as u8, false);
            }
            _ => return None,
        }
        Some(Effect::None)
    }

    fn write_lvt(&mut self, index: u8, value: u32) -> Effect {
        let index = usize::from(index);
        let old = self.timer_mode();
        let mut value = value & LVT_WRITABLE[index];
        if !self.software_enabled() {
            value |= MASKED;
        }
        self.lvt[index] = value;
        if index != TIMER {
            return Effect::None;
        }
        let new = self.timer_mode();
        if (new == TimerMode::Deadline) != (old == TimerMode::Deadline) {
            self.initial = 0;
            self.running = false;
            self.tsc_deadline = 0;
        }
        Effect::Timer
    }

    /// The timer's mode.
    pub fn timer_mode(&self) -> TimerMode {
        match self.lvt[TIMER] >> 17 & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::Deadline,
            _ => TimerMode::Stopped,
        }
    }

    fn divisor(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        1 << ((code + 1) & 7)
    }

    fn period(&self) -> u64 {
        u64::from(self.initial) * self.divisor()
    }

    fn current(&self, now: u64) -> u32 {
        let ticks = now.saturating_sub(self.start_ns) / self.divisor();
        let initial = u64::from(self.initial);
        let left = match self.timer_mode() {
            _ if initial == 0 => 0,
            TimerMode::OneShot if self.running => initial.saturating_sub(ticks),
            TimerMode::Periodic => initial - ticks % initial,
            _ => 0,
        };
        left as u32
    }

    /// Virtual time of the next expiry that interrupts. `tsc_hz` is the speed of the TSC.
    pub fn deadline(&self, now: u64, tsc_hz: u64) -> Option<u64> {
        if self.lvt[TIMER] & MASKED != 0 || !self.software_enabled() {
            return None;
        }
        let period = self.period();
        match self.timer_mode() {
            TimerMode::OneShot if self.running => Some(self.start_ns + period),
            TimerMode::Periodic if period != 0 => {
                let passed = now.saturating_sub(self.start_ns) / period;
                let next = self.start_ns.saturating_add((passed + 1) * period);
                Some(next.max(self.start_ns + MIN_PERIOD))
            }
            TimerMode::Deadline if self.tsc_deadline != 0 => {
                let ns = u128::from(self.tsc_deadline) * 1_000_000_000 / u128::from(tsc_hz);
                Some(u64::try_from(ns).unwrap_or(u64::MAX).saturating_add(1))
            }
            _ => None,
        }
    }

    /// The host timer expired: fires when it is really time.
    pub fn expired(&mut self, now: u64, tsc_hz: u64) {
        let due = match self.timer_mode() {
            TimerMode::OneShot => {
                let due = self.running && now >= self.start_ns + self.period();
                self.running &= !due;
                due
            }
            TimerMode::Periodic if self.initial != 0 => {
                let passed = now.saturating_sub(self.start_ns) / self.period();
                self.start_ns += passed * self.period();
                passed > 0
            }
            TimerMode::Deadline => {
                let tsc = u128::from(now) * u128::from(tsc_hz) / 1_000_000_000;
                let due = self.tsc_deadline != 0 && tsc >= self.tsc_deadline.into();
                if due {
                    self.tsc_deadline = 0;
                }
                due
            }
            _ => false,
        };
        let lvt = self.lvt[TIMER];
        if due && lvt & MASKED == 0 {
            self.accept(lvt as u8, false);
        }
    }
}
