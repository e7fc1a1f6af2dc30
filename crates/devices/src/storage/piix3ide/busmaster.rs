//! One channel of the PIIX bus master: moves data between a drive and guest memory along a table
//! of physical regions.
//!
//! Facts: Programming Interface for Bus Master IDE Controller 1.0; Intel 82371AB data sheet, 2.7.

use pgm::PhysMap;

const COMMAND_START: u8 = 0x01;
const COMMAND_TO_MEMORY: u8 = 0x08;
const STATUS_ACTIVE: u8 = 0x01;
const STATUS_ERROR: u8 = 0x02;
const STATUS_IRQ: u8 = 0x04;
const STATUS_CAPABLE: u8 = 0x60;

/// Guest-visible state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusMaster {
    pub command: u8,
    pub status: u8,
    pub table: u32,
}

impl BusMaster {
    /// Whether it runs: started by the guest and not at the end of its table.
    pub fn started(&self) -> bool {
        self.command & COMMAND_START != 0 && self.status & STATUS_ACTIVE != 0
    }

    /// Whether it moves data to memory.
    pub fn to_memory(&self) -> bool {
        self.command & COMMAND_TO_MEMORY != 0
    }

    /// Reads a byte of the register block (offset 0 to 7).
    pub fn read(&self, offset: u16) -> u8 {
        match offset & 7 {
            0 => self.command,
            2 => self.status,
            at @ 4..=7 => (self.table >> (8 * (at - 4))) as u8,
            _ => 0,
        }
    }

    /// Writes a byte. True when the guest has just started the transfer.
    pub fn write(&mut self, offset: u16, value: u8) -> bool {
        match offset & 7 {
            0 => {
                let started = value & !self.command & COMMAND_START != 0;
                self.command = value & (COMMAND_START | COMMAND_TO_MEMORY);
                if started {
                    self.status |= STATUS_ACTIVE;
                } else if self.command & COMMAND_START == 0 {
                    self.status &= !STATUS_ACTIVE;
                }
                started
            }
            2 => {
                let clear = value & (STATUS_ERROR | STATUS_IRQ);
                self.status = self.status & !clear & !STATUS_CAPABLE | value & STATUS_CAPABLE;
                false
            }
            at @ 4..=7 => {
                let shift = 8 * (at - 4);
                let byte = if at == 4 { value & 0xfc } else { value };
                self.table = self.table & !(0xff << shift) | u32::from(byte) << shift;
                false
            }
            _ => false,
        }
    }

    /// The drive raised its interrupt.
    pub fn interrupt(&mut self) {
        self.status |= STATUS_IRQ;
    }

    /// The transfer ended; `left_over` says that the table describes more memory than was used,
    /// which leaves the engine active until the guest stops it.
    pub fn finish(&mut self, left_over: bool) {
        if !left_over {
            self.status &= !STATUS_ACTIVE;
        }
    }
}

/// Walks the table of physical regions.
pub struct Walker<'a> {
    phys: &'a PhysMap,
    next: u32,
    address: u32,
    left: u32,
    last: bool,
}

impl<'a> Walker<'a> {
    /// Starts at the table's first entry.
    pub fn new(bm: &BusMaster, phys: &'a PhysMap) -> Self {
        Self {
            phys,
            next: bm.table & !3,
            address: 0,
            left: 0,
            last: false,
        }
    }

    fn fetch(&mut self) -> bool {
        if self.left > 0 {
            return true;
        }
        if self.last {
            return false;
        }
        let mut entry = [0; 8];
        self.phys.read(self.next.into(), &mut entry);
        self.next = self.next.wrapping_add(8);
        self.address = u32::from_le_bytes([entry[0] & 0xfe, entry[1], entry[2], entry[3]]);
        let count = u32::from(u16::from_le_bytes([entry[4] & 0xfe, entry[5]]));
        self.left = if count == 0 { 0x1_0000 } else { count };
        self.last = entry[7] & 0x80 != 0;
        true
    }

    fn step(&mut self, want: usize) -> Option<(u64, usize)> {
        if !self.fetch() {
            return None;
        }
        let n = want.min(self.left as usize);
        let at = u64::from(self.address);
        self.address = self.address.wrapping_add(n as u32);
        self.left -= n as u32;
        Some((at, n))
    }

    /// Writes `data` to guest memory. False when the table ends first.
    pub fn store(&mut self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let Some((at, n)) = self.step(data.len()) else {
                return false;
            };
            self.phys.write(at, &data[..n]);
            data = &data[n..];
        }
        true
    }

    /// Fills `data` from guest memory. False when the table ends first.
    pub fn load(&mut self, mut data: &mut [u8]) -> bool {
        while !data.is_empty() {
            let Some((at, n)) = self.step(data.len()) else {
                return false;
            };
            self.phys.read(at, &mut data[..n]);
            data = &mut data[n..];
        }
        true
    }

    /// Whether the table describes more than was used.
    pub fn left_over(&self) -> bool {
        self.left > 0 || !self.last
    }
}
