//! The Intel 82078 floppy controller with up to two drives, on ISA DMA channel 2 and interrupt 6.
//!
//! Facts: Intel 82078 44-pin data sheet (commands, status registers, reset and polling). A medium's
//! format follows from its size; other sector sizes than 512 bytes are not found on it. Seeks take
//! no time. Not there: the scan commands, "format and
//! write" and "drive specification", which answer as invalid, and
//! status registers A and B, which an AT does not have.

mod media;
mod saved;
mod transfer;

use std::collections::VecDeque;
use std::sync::Arc;

use pdm::cfgm::Node;
use pdm::dma::IsaDma;
use pdm::driver::{BlockDriver, MediaSink};
use pdm::{Device, DeviceReg, Host, IrqLine, Pio, Result, VmControl};

use media::Drive;
use saved::SAVED_VERSION;
use transfer::Transfer;

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "i82078",
    description: "82078 floppy controller",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const BASE: u16 = 0x3f0;
const IRQ: u8 = 6;
const DMA_CHANNEL: u8 = 2;

mod dor {
    pub const NOT_RESET: u8 = 0x04;
    pub const DMA_GATE: u8 = 0x08;
}

mod msr {
    pub const RQM: u8 = 0x80;
    pub const DIO: u8 = 0x40;
    pub const NON_DMA: u8 = 0x20;
    pub const BUSY: u8 = 0x10;
}

/// Status register 0: interrupt codes and bits.
mod st0 {
    pub const ABNORMAL: u8 = 0x40;
    pub const INVALID: u8 = 0x80;
    pub const POLLING: u8 = 0xc0;
    pub const SEEK_END: u8 = 0x20;
    pub const EQUIPMENT_CHECK: u8 = 0x10;
}

/// What the data register is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
enum Phase {
    /// Command and parameter bytes come in.
    #[default]
    Command,
    /// Data bytes are moved.
    Execution,
    /// Result bytes go out.
    Result,
}

/// Guest-visible state besides the drives and the transfer.
#[derive(Debug, Clone, Default)]
struct State {
    dor: u8,
    dsr: u8,
    tdr: u8,
    ccr: u8,
    phase: Phase,
    /// Command and parameters, or results left.
    bytes: VecDeque<u8>,
    /// ST0 and cylinder of interrupts not sensed yet.
    sense: VecDeque<(u8, u8)>,
    interrupt: bool,
    specify: [u8; 2],
    configure: u8,
    precompensation: u8,
    perpendicular: u8,
    locked: bool,
    /// Last "sectors per track or EOT", for DUMPREG.
    last_eot: u8,
}

impl State {
    fn non_dma(&self) -> bool {
        self.specify[1] & 1 != 0
    }
}

struct Floppy {
    irq: IrqLine,
    dma: Option<Arc<dyn IsaDma>>,
    vm: Arc<dyn VmControl>,
    drives: [Option<Drive>; 2],
    state: State,
    transfer: Option<Transfer>,
}

fn construct(_: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    // 0x3F6 is the disk controller's.
    host.map_pio(BASE, 6)?;
    host.map_pio(BASE + 7, 1)?;
    Ok(Box::new(Floppy {
        irq: host.isa_irq(IRQ),
        dma: host.isa_dma(),
        vm: host.vm(),
        drives: [0, 1].map(|unit| host.block(unit).map(Drive::new)),
        state: State::default(),
        transfer: None,
    }))
}

/// Parameter bytes of a command; `None` for codes that are not commands.
fn parameters(command: u8) -> Option<usize> {
    Some(match command {
        0x08 | 0x0e | 0x10 | 0x14 | 0x18 | 0x2e | 0x94 => 0,
        0x04 | 0x07 | 0x12 | 0x17 | 0x33 => 1,
        0x03 | 0x0f | 0x8f | 0xcf => 2,
        0x13 => 3,
        0x4e => 16,
        _ => match command & 0x1f {
            0x0a if command & 0xa0 == 0 => 1,
            0x0d if command & 0xa0 == 0 => 5,
            0x02 if command & 0x80 == 0 => 8,
            0x05 | 0x09 if command & 0x20 == 0 => 8,
            0x06 | 0x0c | 0x16 => 8,
            _ => return None,
        },
    })
}

impl Floppy {
    fn update_irq(&self) {
        let s = &self.state;
        let gate = s.dor & dor::DMA_GATE != 0;
        self.irq.set(s.interrupt && gate);
    }

    fn raise(&mut self) {
        self.state.interrupt = true;
        self.update_irq();
    }

    fn lower(&mut self) {
        self.state.interrupt = false;
        self.update_irq();
    }

    /// Enters reset: everything except what LOCK protects.
    fn enter_reset(&mut self) {
        self.transfer = None;
        let s = &mut self.state;
        s.phase = Phase::Command;
        s.bytes.clear();
        s.sense.clear();
        s.perpendicular &= 0x3c;
        if !s.locked {
            s.configure = 0;
            s.precompensation = 0;
        }
        self.lower();
    }

    /// Leaves reset: the polling reports all four drives as changed.
    fn leave_reset(&mut self) {
        const POLL_DISABLED: u8 = 0x10;
        if self.state.configure & POLL_DISABLED == 0 {
            let drives = (0..4).map(|d| (st0::POLLING | d, 0));
            self.state.sense = drives.collect();
            self.raise();
        }
    }

    fn write_dor(&mut self, value: u8) {
        let was = std::mem::replace(&mut self.state.dor, value);
        match (was & dor::NOT_RESET != 0, value & dor::NOT_RESET != 0) {
            (true, false) => self.enter_reset(),
            (false, true) => self.leave_reset(),
            _ => {}
        }
        self.update_irq();
    }

    fn main_status(&self) -> u8 {
        let s = &self.state;
        if s.dor & dor::NOT_RESET == 0 {
            return 0;
        }
        match s.phase {
            Phase::Command if s.bytes.is_empty() => msr::RQM,
            Phase::Command => msr::RQM | msr::BUSY,
            Phase::Result => msr::RQM | msr::DIO | msr::BUSY,
            Phase::Execution => {
                let Some(t) = self.transfer.as_ref().filter(|t| t.pio && !t.stalled) else {
                    return msr::BUSY;
                };
                let dio = if t.to_host() { msr::DIO } else { 0 };
                msr::RQM | msr::NON_DMA | msr::BUSY | dio
            }
        }
    }

    fn read_data(&mut self) -> u8 {
        match self.state.phase {
            Phase::Result => {
                self.lower();
                let byte = self.state.bytes.pop_front().unwrap_or(0);
                if self.state.bytes.is_empty() {
                    self.state.phase = Phase::Command;
                }
                byte
            }
            Phase::Execution => self.pio_read(),
            Phase::Command => 0,
        }
    }

    fn write_data(&mut self, byte: u8) {
        if self.state.dor & dor::NOT_RESET == 0 {
            return;
        }
        match self.state.phase {
            Phase::Command => {
                self.state.bytes.push_back(byte);
                let command = self.state.bytes[0];
                match parameters(command) {
                    None => self.result(&[st0::INVALID]),
                    Some(n) if self.state.bytes.len() > n => {
                        let bytes: Vec<u8> = self.state.bytes.drain(..).collect();
                        self.execute(bytes[0], &bytes[1..]);
                    }
                    Some(_) => {}
                }
            }
            Phase::Execution => self.pio_write(byte),
            Phase::Result => {}
        }
    }

    /// Goes to the result phase, without interrupt.
    fn result(&mut self, bytes: &[u8]) {
        self.state.bytes = bytes.iter().copied().collect();
        self.state.phase = Phase::Result;
    }

    fn execute(&mut self, command: u8, p: &[u8]) {
        match command {
            0x03 => self.state.specify = [p[0], p[1]],
            0x04 => {
                let st3 = self.drive_status(p[0]);
                self.result(&[st3]);
            }
            0x07 => self.seek(p[0] & 3, 0),
            0x08 => self.sense_interrupt(),
            0x0e => self.dump_registers(),
            0x0f => self.seek(p[0] & 3, p[1]),
            0x8f | 0xcf => {
                // Relative seek; bit 6 says inward.
                let unit = usize::from(p[0] & 3);
                let now = self
                    .drives
                    .get(unit)
                    .and_then(Option::as_ref)
                    .map_or(0, |d| d.track);
                let to = match command {
                    0xcf => now.saturating_add(p[1]),
                    _ => now.saturating_sub(p[1]),
                };
                self.seek(p[0] & 3, to);
            }
            0x10 => self.result(&[0x90]),
            0x12 => {
                // The overwrite bit guards the drive bits.
                let keep = if p[0] & 0x80 != 0 { 0 } else { 0x3c };
                self.state.perpendicular = self.state.perpendicular & keep | p[0] & !keep & 0x3f;
            }
            0x13 => {
                self.state.configure = p[1];
                self.state.precompensation = p[2];
            }
            0x14 | 0x94 => {
                self.state.locked = command & 0x80 != 0;
                self.result(&[u8::from(self.state.locked) << 4]);
            }
            // 82078, first stepping.
            0x18 => self.result(&[0x01]),
            // Power-down mode, option: stored nowhere, reported as written.
            0x17 => self.result(&[p[0]]),
            0x33 => {}
            0x2e => self.save_registers(),
            0x4e => {
                self.state.precompensation = p[3];
                self.state.specify = [p[10], p[11]];
                self.state.locked = p[9] & 0x80 != 0;
                self.state.perpendicular = p[9] & 0x3f;
                self.state.configure = p[12];
            }
            _ => self.start_transfer(command, p),
        }
    }

    fn drive(&mut self, unit: u8) -> Option<&mut Drive> {
        self.drives.get_mut(usize::from(unit))?.as_mut()
    }

    fn seek(&mut self, unit: u8, track: u8) {
        let code = match self.drive(unit) {
            Some(drive) => {
                drive.seek(track);
                (st0::SEEK_END | unit, track)
            }
            // No track 0 signal ever comes.
            None => (
                st0::ABNORMAL | st0::SEEK_END | st0::EQUIPMENT_CHECK | unit,
                0,
            ),
        };
        self.state.sense.retain(|(s, _)| s & 3 != unit);
        self.state.sense.push_back(code);
        self.raise();
    }

    fn sense_interrupt(&mut self) {
        match self.state.sense.pop_front() {
            Some((code, track)) => self.result(&[code, track]),
            None => self.result(&[st0::INVALID]),
        }
        self.lower();
        if !self.state.sense.is_empty() {
            // After a reset one interrupt stands for all four; a second seek makes its own.
            let reset = self
                .state
                .sense
                .iter()
                .all(|(s, _)| s & 0xc0 == st0::POLLING);
            if !reset {
                self.raise();
            }
        }
    }

    fn drive_status(&mut self, select: u8) -> u8 {
        let unit = select & 3;
        let head = select & 4;
        match self.drive(unit) {
            Some(d) => {
                let protected = d.driver.present() && d.driver.read_only();
                let track0 = u8::from(d.track == 0) << 4;
                0x28 | unit | head | track0 | u8::from(protected) << 6
            }
            None => 0x28 | unit | head,
        }
    }

    fn dump_registers(&mut self) {
        let tracks = [0, 1].map(|u| self.drives[u].as_ref().map_or(0, |d| d.track));
        let s = &self.state;
        let lock = u8::from(s.locked) << 7 | s.perpendicular;
        let bytes = [
            tracks[0],
            tracks[1],
            0,
            0,
            s.specify[0],
            s.specify[1],
            s.last_eot,
            lock,
            s.configure,
            s.precompensation,
        ];
        self.result(&bytes);
    }

    fn save_registers(&mut self) {
        let s = &self.state;
        let lock = u8::from(s.locked) << 7 | s.perpendicular;
        let mut bytes = [0; 16];
        bytes[3] = s.precompensation;
        bytes[9] = lock;
        bytes[10] = s.specify[0];
        bytes[11] = s.specify[1];
        bytes[12] = s.configure;
        self.result(&bytes);
    }

    fn selected_motor_on(&self) -> bool {
        let unit = self.state.dor & 3;
        self.state.dor & 0x10 << unit != 0
    }

    fn disk_changed(&self) -> bool {
        let drive = self.drives.get(usize::from(self.state.dor & 3));
        let changed = drive.and_then(Option::as_ref);
        // A drive that is not there does not pull the line.
        changed.is_some_and(|d| d.changed) && self.selected_motor_on()
    }
}

impl Device for Floppy {
    fn reset(&mut self) {
        self.state = State::default();
        self.transfer = None;
        for drive in self.drives.iter_mut().flatten() {
            drive.track = 0;
            drive.changed = true;
        }
        self.update_irq();
    }

    fn resume(&mut self) {
        self.retry();
    }

    fn save(&self) -> Result<Vec<u8>> {
        saved::save(self)
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        saved::load(self, version, data)?;
        self.update_irq();
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        writeln!(
            out,
            "main status {:02x}, interrupt {}",
            self.main_status(),
            self.irq.level()
        )?;
        writeln!(out, "{:x?}", self.state)?;
        for (i, drive) in self.drives.iter().enumerate() {
            match drive {
                Some(d) => writeln!(
                    out,
                    "drive {i}: track {}, changed {}, {:?}",
                    d.track,
                    d.changed,
                    d.format()
                )?,
                None => writeln!(out, "drive {i}: none")?,
            }
        }
        if let Some(t) = &self.transfer {
            writeln!(out, "{t:x?}")?;
        }
        Ok(())
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
    fn media(&mut self) -> Option<&mut dyn MediaSink> {
        Some(self)
    }
}

impl Pio for Floppy {
    fn read(&mut self, port: u16, _: u8) -> u32 {
        let value = match port.wrapping_sub(BASE) {
            2 => self.state.dor,
            3 => self.state.tdr,
            4 => self.main_status(),
            5 => self.read_data(),
            7 => u8::from(self.disk_changed()) << 7,
            _ => 0xff,
        };
        value.into()
    }

    fn write(&mut self, port: u16, _: u8, value: u32) {
        let value = value as u8;
        match port.wrapping_sub(BASE) {
            2 => self.write_dor(value),
            3 => self.state.tdr = value & 3,
            4 => {
                self.state.dsr = value & 0x7f;
                self.state.ccr = value & 3;
                if value & 0x80 != 0 && self.state.dor & dor::NOT_RESET != 0 {
                    self.enter_reset();
                    self.leave_reset();
                }
            }
            5 => self.write_data(value),
            7 => self.state.ccr = value & 3,
            _ => {}
        }
    }
}

impl MediaSink for Floppy {
    fn change_medium(
        &mut self,
        unit: u32,
        driver: Box<dyn BlockDriver>,
        _: bool,
    ) -> Result<Option<Box<dyn BlockDriver>>, Box<dyn BlockDriver>> {
        match self.drives.get_mut(unit as usize).and_then(Option::as_mut) {
            Some(drive) => {
                drive.changed = true;
                Ok(Some(std::mem::replace(&mut drive.driver, driver)))
            }
            None => Err(driver),
        }
    }
}

#[cfg(test)]
mod tests;
