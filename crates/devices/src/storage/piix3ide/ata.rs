//! Commands of hard disks.
//!
//! Facts: ATA/ATAPI-6 (INCITS 361), chapter 8; DATA SET MANAGEMENT from ATA8-ACS.

use super::drive::{BUFFER_MAX, Drive, Phase, SECTOR, error, status};
use super::{identify, smart};

/// Most sectors per interrupt of READ/WRITE MULTIPLE.
pub const MULTIPLE_MAX: u32 = 16;

impl Drive {
    /// Geometry to report: the image's own when it fits a task file, else the usual translation.
    pub fn geometry(&self) -> (u32, u32, u32) {
        let sectors = self.driver.size() / SECTOR as u64;
        match self.driver.geometry() {
            Some((c, h, s))
                if (1..=16383).contains(&c) && (1..=16).contains(&h) && (1..=63).contains(&s) =>
            {
                (c, h, s)
            }
            _ => ((sectors / (16 * 63)).clamp(1, 16383) as u32, 16, 63),
        }
    }

    /// Sectors of the disk.
    pub fn sectors(&self) -> u64 {
        (self.driver.size() / SECTOR as u64).min(1 << 48)
    }

    /// A command for a hard disk.
    pub fn ata_command(&mut self, command: u8) {
        self.disk.standby &= matches!(command, 0xe5 | 0x98 | 0xe0 | 0x94 | 0xe2 | 0x96);
        match command {
            0x06 => self.data_set_management(),
            0x10..=0x1f | 0x70..=0x7f => self.done(),
            0x20 | 0x21 => self.start_read(false, 1),
            0x24 => self.start_read(true, 1),
            0x29 => self.start_multiple(true, true),
            0xc4 => self.start_multiple(false, true),
            0x30 | 0x31 => self.start_write(false, 1),
            0x34 => self.start_write(true, 1),
            0x39 | 0xce => self.start_multiple(true, false),
            0xc5 => self.start_multiple(false, false),
            0x25 => self.start_dma(true, Phase::ReadDma, false),
            0xc8 | 0xc9 => self.start_dma(false, Phase::ReadDma, false),
            0x35 => self.start_dma(true, Phase::WriteDma, false),
            0x3d => self.start_dma(true, Phase::WriteDma, true),
            0xca | 0xcb => self.start_dma(false, Phase::WriteDma, false),
            0x27 => self.native_max(true),
            0xf8 => self.native_max(false),
            0x40 | 0x41 => self.verify(false),
            0x42 => self.verify(true),
            0x91 => {
                self.disk.heads = u32::from(self.task.device & 0x0f) + 1;
                self.disk.sectors = u32::from(self.task.count[0]);
                if self.disk.sectors == 0 {
                    return self.abort();
                }
                self.done();
            }
            0xb0 => smart::command(self),
            0xc6 => {
                let n = u32::from(self.task.count[0]);
                if n > MULTIPLE_MAX || (n != 0 && !n.is_power_of_two()) {
                    return self.abort();
                }
                self.disk.multiple = n;
                self.done();
            }
            // Power management: a virtual disk is always ready; CHECK POWER MODE shows the mode.
            0xe0 | 0x94 | 0xe2 | 0x96 => {
                self.disk.standby = true;
                self.done();
            }
            0xe1 | 0x95 | 0xe3 | 0x97 | 0xe6 | 0x99 => self.done(),
            0xe5 | 0x98 => {
                self.task.count[0] = if self.disk.standby { 0 } else { 0xff };
                self.done();
            }
            0xe7 | 0xea => self.flush(),
            0xec => {
                let data = identify::disk(self);
                self.offer_data(data);
            }
            0xef => self.set_features(),
            // The security feature set is not there, NOP and all else are not commands.
            _ => self.abort(),
        }
    }

    /// First sector and count of the command in the task file; `None` when out of range.
    fn range(&self, wide: bool) -> Option<(u64, u32)> {
        let t = &self.task;
        let byte = |i: usize, old: usize| u64::from(t.lba[i][old]);
        let (lba, count) = if wide {
            let low = byte(0, 0) | byte(1, 0) << 8 | byte(2, 0) << 16;
            let high = byte(0, 1) | byte(1, 1) << 8 | byte(2, 1) << 16;
            let n = u32::from(u16::from_be_bytes([t.count[1], t.count[0]]));
            (low | high << 24, if n == 0 { 0x1_0000 } else { n })
        } else {
            let n = u32::from(t.count[0]);
            let head = u64::from(t.device & 0x0f);
            let lba = if t.device & 0x40 != 0 {
                byte(0, 0) | byte(1, 0) << 8 | byte(2, 0) << 16 | head << 24
            } else {
                let cylinder = byte(1, 0) | byte(2, 0) << 8;
                let sector = byte(0, 0);
                if sector == 0
                    || sector > self.disk.sectors.into()
                    || head >= self.disk.heads.into()
                {
                    return None;
                }
                (cylinder * u64::from(self.disk.heads) + head) * u64::from(self.disk.sectors)
                    + sector
                    - 1
            };
            (lba, if n == 0 { 0x100 } else { n })
        };
        (lba + u64::from(count) <= self.sectors()).then_some((lba, count))
    }

    fn begin(&mut self, wide: bool, phase: Phase, block: u32) -> bool {
        let Some((lba, left)) = self.range(wide) else {
            self.fail(error::IDNF);
            return false;
        };
        self.job.phase = phase;
        self.job.lba = lba;
        self.job.left = left;
        self.job.block = block;
        self.task.error = 0;
        true
    }

    fn start_multiple(&mut self, wide: bool, reading: bool) {
        match (self.disk.multiple, reading) {
            (0, _) => self.abort(),
            (n, true) => self.start_read(wide, n),
            (n, false) => self.start_write(wide, n),
        }
    }

    fn start_read(&mut self, wide: bool, block: u32) {
        if self.begin(wide, Phase::ReadPio, block) {
            self.read_block();
        }
    }

    /// Reads the next block and offers it.
    pub fn read_block(&mut self) {
        let n = self.job.left.min(self.job.block.clamp(1, MULTIPLE_MAX));
        let len = n as usize * SECTOR;
        self.job.buffer.resize(len, 0);
        let offset = self.job.lba * SECTOR as u64;
        match self.driver.read(offset, &mut self.job.buffer) {
            Ok(()) => {
                self.job.lba += u64::from(n);
                self.job.left -= n;
                self.job.pos = 0;
                self.job.end = len;
                self.offer();
            }
            Err(e) => self.fail_with(e, false),
        }
    }

    fn start_write(&mut self, wide: bool, block: u32) {
        if self.driver.read_only() {
            return self.abort();
        }
        if self.begin(wide, Phase::WritePio, block) {
            self.ask_for_block();
            // The first block is asked for without an interrupt.
            self.irq = false;
        }
    }

    fn ask_for_block(&mut self) {
        let n = self.job.left.min(self.job.block.clamp(1, MULTIPLE_MAX));
        self.job.pos = 0;
        self.job.end = n as usize * SECTOR;
        self.job.buffer.resize(self.job.end, 0);
        self.offer();
    }

    /// The block is complete: writes it.
    pub fn write_block(&mut self) {
        let offset = self.job.lba * SECTOR as u64;
        if let Err(e) = self.driver.write(offset, &self.job.buffer) {
            return self.fail_with(e, true);
        }
        let n = (self.job.buffer.len() / SECTOR) as u32;
        self.job.lba += u64::from(n);
        self.job.left = self.job.left.saturating_sub(n);
        if self.job.left > 0 {
            self.ask_for_block();
        } else if self.disk.write_cache {
            self.done();
        } else {
            self.flush();
        }
    }

    fn start_dma(&mut self, wide: bool, phase: Phase, force_unit_access: bool) {
        if phase == Phase::WriteDma && self.driver.read_only() {
            return self.abort();
        }
        if self.begin(wide, phase, force_unit_access.into()) {
            self.task.status = status::DRDY | status::DSC | status::DRQ;
        }
    }

    fn data_set_management(&mut self) {
        if !self.driver.identity().discard || self.task.feature[0] != 1 {
            return self.abort();
        }
        let blocks = u32::from(u16::from_be_bytes([self.task.count[1], self.task.count[0]]));
        // What IDENTIFY word 105 allows.
        if blocks == 0 || blocks > identify::TRIM_BLOCKS.into() {
            return self.abort();
        }
        self.job.phase = Phase::Trim;
        self.job.left = blocks;
        self.task.status = status::DRDY | status::DSC | status::DRQ;
    }

    fn verify(&mut self, wide: bool) {
        let Some((lba, count)) = self.range(wide) else {
            return self.fail(error::IDNF);
        };
        let mut buffer = vec![0; BUFFER_MAX];
        let mut offset = lba * SECTOR as u64;
        let mut left = count as usize * SECTOR;
        while left > 0 {
            let n = left.min(buffer.len());
            if let Err(e) = self.driver.read(offset, &mut buffer[..n]) {
                return self.fail_with(e, false);
            }
            offset += n as u64;
            left -= n;
        }
        self.done();
    }

    fn native_max(&mut self, wide: bool) {
        let last = self.sectors().saturating_sub(1);
        let last = if wide { last } else { last.min(0x0fff_ffff) };
        let bytes = last.to_le_bytes();
        for i in 0..3 {
            self.task.lba[i] = [bytes[i], bytes[i + 3]];
        }
        if !wide {
            self.task.device = self.task.device & 0xf0 | bytes[3] & 0x0f;
        }
        self.done();
    }

    /// Also a command of CD drives.
    pub fn set_features(&mut self) {
        let mode = self.task.count[0];
        match self.task.feature[0] {
            0x02 => self.disk.write_cache = true,
            0x82 => {
                self.disk.write_cache = false;
                return self.flush();
            }
            0x03 => match (mode >> 3, mode & 7) {
                // PIO default and flow control modes.
                (0 | 1, _) => (self.disk.mwdma, self.disk.udma) = (0, 0),
                (4, n @ 0..=2) => (self.disk.mwdma, self.disk.udma) = (1 << n, 0),
                (8, n @ 0..=5) => (self.disk.mwdma, self.disk.udma) = (0, 1 << n),
                _ => return self.abort(),
            },
            0xaa => self.disk.look_ahead = true,
            0x55 => self.disk.look_ahead = false,
            // Advanced power and acoustic management, reverting at reset or not: accepted.
            0x05 | 0x85 | 0x42 | 0xc2 | 0x66 | 0xcc => {}
            _ => return self.abort(),
        }
        self.done();
    }
}
