//! The local APICs of all processors, and with them the interrupt controller the vCPUs see.
//!
//! xAPIC registers are at 0xFEE00000 (one page, each processor sees its own), x2APIC registers are
//! MSRs 0x800 to 0x83F. The page moves with IA32_APIC_BASE of the first processor; systems that
//! move it at all move it on all processors alike.
//!
//! The guest's TSC is taken to be virtual time times `TscFrequency` (Hz, default 1 GHz): the VMM
//! has it run that way.
//!
//! Configuration: `TscFrequency`; `Mode` 0 no local APIC (the PIC interrupts the first processor
//! directly), 1 xAPIC, 2 xAPIC and x2APIC (default).

mod chip;
mod saved;
#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use pdm::cfgm::Node;
use pdm::irq::{ApicMessage, CpuSignals, EoiSink, InterruptController, PicAcknowledge};
use pdm::{Clock, Device, DeviceReg, Host, Mmio, MmioRange, Result, Timer, TimerSink};

use chip::{Effect, Lapic, reg};
use saved::SAVED_VERSION;

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "apic",
    description: "local APICs",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const MSR_APIC_BASE: u32 = 0x1b;
const MSR_TSC_DEADLINE: u32 = 0x6e0;
const MSR_X2APIC: u32 = 0x800;
const MSR_X2APIC_LAST: u32 = 0x8ff;
/// Over RAM and ROM.
const PRIORITY: i32 = 20;

/// All local APICs. Lock order: nothing is called with a local APIC's lock held but signals and
/// timers.
struct Apics {
    cpus: Vec<Mutex<Lapic>>,
    timers: Vec<Timer>,
    signals: Arc<dyn CpuSignals>,
    clock: Arc<dyn Clock>,
    tsc_hz: u64,
    mode: u64,
    /// The registers' page.
    page: Arc<dyn MmioRange>,
    sinks: RwLock<Vec<Arc<dyn EoiSink>>>,
    pic: RwLock<Option<Arc<dyn PicAcknowledge>>>,
}

impl Apics {
    /// Runs `f` on a local APIC and tells its processor what came of it.
    fn with<R>(&self, cpu: usize, f: impl FnOnce(&mut Lapic) -> R) -> Option<R> {
        let mut lapic = self.cpus.get(cpu)?.lock();
        let result = f(&mut lapic);
        let pending = lapic.pending();
        if pending != lapic.intr {
            lapic.intr = pending;
            self.signals.set_intr(cpu, pending);
        }
        Some(result)
    }

    fn look<R>(&self, cpu: usize, f: impl FnOnce(&Lapic) -> R) -> Option<R> {
        Some(f(&self.cpus.get(cpu)?.lock()))
    }

    /// Puts the page where the first processor has it.
    fn place_page(&self) {
        let base = self.look(0, |l| l.base & chip::BASE_ADDRESS);
        self.page.set(base.filter(|_| self.mode != 0));
    }

    fn arm(&self, cpu: usize) {
        let now = self.clock.now_ns();
        let deadline = self.look(cpu, |l| l.deadline(now, self.tsc_hz)).flatten();
        if let Some(timer) = self.timers.get(cpu) {
            match deadline {
                Some(at) => timer.arm(at),
                None => timer.disarm(),
            }
        }
    }

    fn apply(&self, cpu: usize, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Timer => self.arm(cpu),
            Effect::Ipi => self.send(cpu),
            Effect::Eoi(vector) => {
                let sinks = self.sinks.read().clone();
                for sink in sinks {
                    sink.eoi(vector);
                }
            }
        }
    }

    /// Writes a register and does what follows; false when there is no such register.
    fn write(&self, cpu: usize, register: u8, value: u32) -> bool {
        let now = self.clock.now_ns();
        match self.with(cpu, |l| l.write(register, value, now)).flatten() {
            Some(effect) => {
                self.apply(cpu, effect);
                true
            }
            None => false,
        }
    }

    /// Sends what the ICR of `cpu` says.
    fn send(&self, cpu: usize) {
        let Some((icr, x2apic)) = self.look(cpu, |l| (l.icr, l.x2apic())) else {
            return;
        };
        let mode = (icr >> 8 & 7) as u8;
        let (level, assert) = (icr >> 15 & 1 != 0, icr >> 14 & 1 != 0);
        if mode == 5 && level && !assert {
            // INIT level de-assert only synchronises arbitration ids, which are gone.
            return;
        }
        let vector = icr as u8;
        if matches!(mode, 0 | 1) && vector < 16 {
            self.with(cpu, |l| l.error(chip::SEND_ILLEGAL));
            return;
        }
        let destination = if x2apic {
            (icr >> 32) as u32
        } else {
            (icr >> 56) as u32
        };
        let message = ApicMessage {
            destination,
            logical: icr >> 11 & 1 != 0,
            mode,
            vector,
            level: false,
        };
        match icr >> 18 & 3 {
            0 => self.deliver(message),
            1 => self.deliver_to(cpu, message),
            2 => (0..self.cpus.len()).for_each(|n| self.deliver_to(n, message)),
            _ => {
                let others = (0..self.cpus.len()).filter(|n| *n != cpu);
                others.for_each(|n| self.deliver_to(n, message));
            }
        }
    }

    fn deliver_to(&self, cpu: usize, message: ApicMessage) {
        if self.look(cpu, |l| l.enabled()) != Some(true) {
            return;
        }
        match message.mode {
            0 | 1 => {
                self.with(cpu, |l| l.accept(message.vector, message.level));
            }
            2 => self.signals.smi(cpu),
            4 => self.signals.nmi(cpu),
            5 => {
                self.with(cpu, Lapic::init);
                self.arm(cpu);
                self.signals.init(cpu);
            }
            6 => self.signals.sipi(cpu, message.vector),
            7 => {
                self.with(cpu, |l| l.ext_message = true);
            }
            _ => {}
        }
    }

    /// Registers that an x2APIC MSR access reaches beyond the plain ones, and reserved bits.
    fn write_x2apic(&self, cpu: usize, register: u8, value: u64) -> bool {
        if register == reg::ICR {
            if value & 0xfff3_3000 != 0 {
                return false;
            }
            self.with(cpu, |l| l.icr = value);
            self.send(cpu);
            return true;
        }
        let allowed: u64 = match register {
            reg::EOI | reg::ESR => 0,
            reg::TPR | reg::SELF_IPI => 0xff,
            reg::SVR => 0x3ff,
            reg::LVT => 0x7_10ff,
            0x33 | 0x34 => 0x1_17ff,
            0x35 | 0x36 => 0x1_f7ff,
            reg::LVT_LAST => 0x1_10ff,
            reg::INITIAL => 0xffff_ffff,
            reg::DIVIDE => 0xb,
            _ => return false,
        };
        value & !allowed == 0 && self.write(cpu, register, value as u32)
    }
}

impl InterruptController for Apics {
    fn pending(&self, cpu: usize) -> bool {
        self.look(cpu, Lapic::pending).unwrap_or(false)
    }

    fn acknowledge(&self, cpu: usize) -> Option<u8> {
        if self.look(cpu, Lapic::takes_extint)? {
            let pic = self.pic.read().clone();
            self.with(cpu, |l| l.ext_message = false);
            if let Some(pic) = pic {
                return Some(pic.acknowledge());
            }
        }
        self.with(cpu, Lapic::acknowledge).flatten()
    }

    fn cr8(&self, cpu: usize) -> u8 {
        self.look(cpu, |l| l.tpr >> 4).unwrap_or(0)
    }

    fn set_cr8(&self, cpu: usize, value: u8) {
        self.with(cpu, |l| l.tpr = value << 4);
    }

    fn read_msr(&self, cpu: usize, msr: u32) -> Option<u64> {
        if self.mode == 0 {
            return None;
        }
        match msr {
            MSR_APIC_BASE => self.look(cpu, |l| l.base),
            MSR_TSC_DEADLINE => self.look(cpu, |l| l.tsc_deadline),
            MSR_X2APIC..=MSR_X2APIC_LAST => {
                let register = (msr - MSR_X2APIC) as u8;
                let now = self.clock.now_ns();
                let read = |l: &Lapic| match register {
                    _ if !l.x2apic() => None,
                    reg::ICR => Some(l.icr),
                    _ => l.read(register, now).map(u64::from),
                };
                self.look(cpu, read).flatten()
            }
            _ => None,
        }
    }

    fn write_msr(&self, cpu: usize, msr: u32, value: u64) -> bool {
        if self.mode == 0 {
            return false;
        }
        match msr {
            MSR_APIC_BASE => {
                let done = self.with(cpu, |l| l.set_base(value, self.mode == 2));
                self.arm(cpu);
                self.place_page();
                done == Some(true)
            }
            MSR_TSC_DEADLINE => {
                self.with(cpu, |l| {
                    if l.timer_mode() == chip::TimerMode::Deadline {
                        l.tsc_deadline = value;
                    }
                });
                self.arm(cpu);
                true
            }
            MSR_X2APIC..=MSR_X2APIC_LAST => {
                let x2apic = self.look(cpu, Lapic::x2apic) == Some(true);
                x2apic && self.write_x2apic(cpu, (msr - MSR_X2APIC) as u8, value)
            }
            _ => false,
        }
    }

    fn deliver(&self, message: ApicMessage) {
        let hit = |n: &usize| {
            self.look(*n, |l| l.matches(message.destination, message.logical)) == Some(true)
        };
        let targets = (0..self.cpus.len()).filter(hit);
        if message.mode == 1 {
            // Lowest priority: the processor doing the least important thing.
            let best = targets.min_by_key(|n| self.look(*n, Lapic::ppr));
            if let Some(cpu) = best {
                self.deliver_to(cpu, message);
            }
        } else {
            targets.for_each(|n| self.deliver_to(n, message));
        }
    }

    fn add_eoi_sink(&self, sink: Arc<dyn EoiSink>) {
        self.sinks.write().push(sink);
    }

    fn set_extint(&self, level: bool) {
        self.with(0, |l| l.extint = level);
    }

    fn set_pic(&self, pic: Arc<dyn PicAcknowledge>) {
        *self.pic.write() = Some(pic);
    }

    fn reset_cpu(&self, cpu: usize) {
        self.with(cpu, |l| {
            let fresh = Lapic::new(l.index, self.mode != 0);
            let (extint, intr) = (l.extint, l.intr);
            *l = Lapic {
                extint,
                intr,
                ..fresh
            };
        });
        self.arm(cpu);
    }
}

struct ApicDevice {
    apics: Arc<Apics>,
}

fn construct(config: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    let tsc_hz = config.int_in("TscFrequency", 1_000_000_000, 1_000_000..=100_000_000_000)?;
    let mode = config.int_in("Mode", 2, 0..=2)?;
    let count = host.cpu_count().max(1);
    let apics = Arc::new(Apics {
        cpus: (0..count)
            .map(|n| Mutex::new(Lapic::new(n, mode != 0)))
            .collect(),
        timers: (0..count)
            .map(|n| host.timer(n, "local APIC timer"))
            .collect(),
        signals: host.cpus(),
        clock: host.clock(),
        tsc_hz,
        mode,
        page: host.movable_mmio(0, 0x1000, PRIORITY),
        sinks: RwLock::default(),
        pic: RwLock::default(),
    });
    apics.place_page();
    host.set_interrupt_controller(apics.clone());
    Ok(Box::new(ApicDevice { apics }))
}

/// Register and byte within it that an offset names; `None` in the gaps between registers.
fn place(offset: u64) -> Option<(u8, usize)> {
    let register = u8::try_from(offset >> 4).ok()?;
    (offset & 0xc == 0).then_some((register, (offset & 3) as usize))
}

impl Mmio for ApicDevice {
    fn read(&mut self, vcpu: usize, _: u32, offset: u64, data: &mut [u8]) {
        let now = self.apics.clock.now_ns();
        let visible = self.apics.look(vcpu, |l| l.enabled() && !l.x2apic());
        if visible != Some(true) {
            data.fill(0xff);
            return;
        }
        data.fill(0);
        if let Some((register, byte)) = place(offset) {
            match self.apics.look(vcpu, |l| l.read(register, now)).flatten() {
                Some(value) => {
                    let bytes = value.to_le_bytes();
                    data.iter_mut()
                        .zip(&bytes[byte..])
                        .for_each(|(d, b)| *d = *b);
                }
                None => {
                    self.apics.with(vcpu, |l| l.error(chip::ILLEGAL_REGISTER));
                }
            }
        }
    }

    fn write(&mut self, vcpu: usize, _: u32, offset: u64, data: &[u8]) {
        let visible = self.apics.look(vcpu, |l| l.enabled() && !l.x2apic());
        // Registers are written as aligned doublewords; anything else has no defined effect.
        let (Some((register, 0)), Some(true), [a, b, c, d, ..]) = (place(offset), visible, data)
        else {
            return;
        };
        let value = u32::from_le_bytes([*a, *b, *c, *d]);
        if !self.apics.write(vcpu, register, value) {
            self.apics.with(vcpu, |l| l.error(chip::ILLEGAL_REGISTER));
        }
    }
}

impl TimerSink for ApicDevice {
    fn expired(&mut self, id: u32) {
        let now = self.apics.clock.now_ns();
        let cpu = id as usize;
        self.apics.with(cpu, |l| l.expired(now, self.apics.tsc_hz));
        self.apics.arm(cpu);
    }
}

impl Device for ApicDevice {
    fn reset(&mut self) {
        (0..self.apics.cpus.len()).for_each(|n| self.apics.reset_cpu(n));
        self.apics.place_page();
    }

    fn save(&self) -> Result<Vec<u8>> {
        saved::save(self.apics.cpus.iter().map(|c| c.lock().clone()))
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let loaded = saved::load(version, data, self.apics.cpus.len())?;
        for (cpu, state) in loaded.into_iter().enumerate() {
            self.apics.with(cpu, |l| {
                let intr = l.intr;
                *l = Lapic { intr, ..state };
            });
            self.apics.arm(cpu);
        }
        self.apics.place_page();
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        let now = self.apics.clock.now_ns();
        for cpu in &self.apics.cpus {
            let l = cpu.lock();
            writeln!(
                out,
                "APIC {}: base {:#x} tpr {:02x} ppr {:02x}",
                l.index,
                l.base,
                l.tpr,
                l.ppr()
            )?;
            writeln!(
                out,
                "  svr {:03x} ldr {:08x} dfr {:08x}",
                l.svr, l.ldr, l.dfr
            )?;
            writeln!(out, "  irr {:08x?}", l.irr)?;
            writeln!(out, "  isr {:08x?}", l.isr)?;
            writeln!(out, "  tmr {:08x?}", l.tmr)?;
            writeln!(
                out,
                "  lvt {:05x?} esr {:02x} icr {:016x}",
                l.lvt, l.esr, l.icr
            )?;
            let current = l.read(reg::CURRENT, now).unwrap_or(0);
            let (mode, initial, divide) = (l.timer_mode(), l.initial, l.divide);
            writeln!(
                out,
                "  timer {mode:?} initial {initial} current {current} divide {divide:x}"
            )?;
            writeln!(out, "  pending {} ExtINT {}", l.pending(), l.extint)?;
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
