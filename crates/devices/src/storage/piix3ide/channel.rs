//! One IDE channel: two drives on a cable, their shared registers and the bus master's half.

use pdm::IrqLine;
use pgm::PhysMap;

use super::busmaster::BusMaster;
use super::drive::{Drive, status};

/// Device control bits.
const NIEN: u8 = 0x02;
const SRST: u8 = 0x04;

/// What an empty cable reads as: pulled up, with bit 7 pulled down (ATA/ATAPI-6, A.2).
const FLOATING: u8 = 0x7f;

/// State of a channel.
pub struct Channel {
    pub irq: IrqLine,
    pub drives: [Option<Drive>; 2],
    pub selected: usize,
    pub control: u8,
    pub bm: BusMaster,
}

impl Channel {
    /// A channel after power-on.
    pub fn new(irq: IrqLine, drives: [Option<Drive>; 2]) -> Self {
        let mut channel = Self {
            irq,
            drives,
            selected: 0,
            control: 0,
            bm: BusMaster::default(),
        };
        channel.power_on();
        channel
    }

    /// Power-on state.
    pub fn power_on(&mut self) {
        self.selected = 0;
        self.control = 0;
        self.bm = BusMaster::default();
        for drive in self.drives.iter_mut().flatten() {
            drive.power_on();
        }
        self.update_irq();
    }

    /// Brings the wire in line; the bus master latches rising edges.
    pub fn update_irq(&mut self) {
        let wanted = self.drives[self.selected].as_ref().is_some_and(|d| d.irq);
        let level = wanted && self.control & NIEN == 0;
        if level && !self.irq.level() {
            self.bm.interrupt();
        }
        self.irq.set(level);
    }

    /// Puts the wire where the saved registers have it, without a new edge for the bus master.
    pub fn restore_irq(&mut self) {
        let status = self.bm.status;
        self.update_irq();
        self.bm.status = status;
    }

    fn drive(&mut self) -> Option<&mut Drive> {
        self.drives[self.selected].as_mut()
    }

    fn empty(&self) -> bool {
        self.drives.iter().all(Option::is_none)
    }

    /// Reads register 1 to 7 of the command block, or 8 for the alternate status.
    pub fn read(&mut self, register: u16) -> u8 {
        if self.empty() {
            return FLOATING;
        }
        let high = usize::from(self.control & 0x80 != 0);
        // Where one drive is missing the other answers for it, with a status of 0.
        let absent = self.drives[self.selected].is_none();
        let at = if absent {
            1 - self.selected
        } else {
            self.selected
        };
        let selected = self.selected as u8;
        let Some(drive) = self.drives[at].as_mut() else {
            return FLOATING;
        };
        let t = &drive.task;
        match register {
            1 => t.error,
            2 => t.count[high],
            3..=5 => t.lba[usize::from(register) - 3][high],
            6 => t.device & !0x10 | 0xa0 | selected << 4,
            _ if absent => 0,
            7 => {
                let value = t.status;
                drive.irq = false;
                self.update_irq();
                value
            }
            _ => t.status,
        }
    }

    /// Writes register 1 to 7, or 8 for device control.
    pub fn write(&mut self, register: u16, value: u8, phys: &PhysMap) {
        match register {
            7 => self.command(value, phys),
            8 => self.write_control(value),
            _ => {
                // Any write to the command block looks at the last written value again.
                self.control &= !0x80;
                for drive in self.drives.iter_mut().flatten() {
                    if drive.task.status & (status::BSY | status::DRQ) != 0 && register != 6 {
                        continue;
                    }
                    let t = &mut drive.task;
                    let pair = match register {
                        1 => &mut t.feature,
                        2 => &mut t.count,
                        6 => {
                            t.device = value;
                            continue;
                        }
                        n => &mut t.lba[usize::from(n.clamp(3, 5)) - 3],
                    };
                    *pair = [value, pair[0]];
                }
                if register == 6 {
                    self.selected = usize::from(value >> 4 & 1);
                    self.update_irq();
                }
            }
        }
    }

    fn write_control(&mut self, value: u8) {
        let was = std::mem::replace(&mut self.control, value);
        if value & SRST != 0 {
            for drive in self.drives.iter_mut().flatten() {
                drive.signal_reset();
                drive.task.status = status::BSY;
            }
        } else if was & SRST != 0 {
            self.selected = 0;
            for drive in self.drives.iter_mut().flatten() {
                drive.signal_reset();
            }
        }
        self.update_irq();
    }

    fn command(&mut self, command: u8, phys: &PhysMap) {
        if self.control & SRST != 0 {
            return;
        }
        // EXECUTE DEVICE DIAGNOSTIC is for both drives, whichever is selected.
        if command == 0x90 {
            self.selected = 0;
            for drive in self.drives.iter_mut().flatten() {
                drive.signal_reset();
            }
            if let Some(drive) = self.drive() {
                drive.irq = true;
            }
            return self.update_irq();
        }
        let Some(drive) = self.drive() else { return };
        let busy = drive.task.status & (status::BSY | status::DRQ) != 0;
        if busy && !(drive.is_cd() && command == 0x08) {
            return;
        }
        drive.irq = false;
        self.update_irq();
        if let Some(drive) = self.drive() {
            match drive.is_cd() {
                true => drive.atapi_command(command),
                false => drive.ata_command(command),
            }
        }
        self.run_dma(phys);
        self.update_irq();
    }

    /// Moves data when both the drive and the bus master are ready for it.
    pub fn run_dma(&mut self, phys: &PhysMap) {
        if !self.bm.started() {
            return;
        }
        let waiting = self.drives.iter_mut().flatten().find(|d| d.wants_dma());
        if let Some(drive) = waiting {
            drive.run_dma(&mut self.bm, phys);
        }
    }

    /// Data port, reading.
    pub fn read_data(&mut self, data: &mut [u8]) {
        match self.drive() {
            Some(drive) => drive.read_data(data),
            None => data.fill(if self.empty() { FLOATING } else { 0 }),
        }
        self.update_irq();
    }

    /// Data port, writing.
    pub fn write_data(&mut self, data: &[u8], phys: &PhysMap) {
        if let Some(drive) = self.drive() {
            drive.write_data(data);
        }
        // The last word of a packet may start a DMA transfer.
        self.run_dma(phys);
        self.update_irq();
    }

    /// The VM goes on after a full disk.
    pub fn retry(&mut self, phys: &PhysMap) {
        for drive in self.drives.iter_mut().flatten() {
            drive.retry();
        }
        self.run_dma(phys);
        self.update_irq();
    }
}
