//! Packet commands of CD and DVD drives.
//!
//! Facts: ATA/ATAPI-6 chapter 9.8 (PACKET protocol), MMC-5 (commands), SPC-3 (sense data).
//! A medium is one data track in mode 1; raw sectors are made up without error correction bytes.

use pdm::driver::{BlockDriver, BlockError};

use super::busmaster::{BusMaster, Walker};
use super::drive::{Drive, Job, Phase, REASON_COMMAND, REASON_TO_HOST, status};
use super::{discinfo, identify};

/// Bytes of user data in a block.
pub const BLOCK: usize = 2048;
/// Bytes of a raw CD sector.
pub const RAW_BLOCK: usize = 2352;
/// Blocks read at once.
const CHUNK_BLOCKS: u32 = 16;
/// Bytes of a packet.
const PACKET: usize = 12;

/// Sense key, additional sense code and qualifier.
pub type Sense = (u8, u8, u8);

pub const NO_SENSE: Sense = (0, 0, 0);
const NOT_PRESENT: Sense = (2, 0x3a, 0);
const READ_ERROR: Sense = (3, 0x11, 0);
const BAD_COMMAND: Sense = (5, 0x20, 0);
const OUT_OF_RANGE: Sense = (5, 0x21, 0);
pub const BAD_FIELD: Sense = (5, 0x24, 0);
const LOCKED: Sense = (5, 0x53, 2);
const MEDIUM_CHANGED: Sense = (6, 0x28, 0);

/// What a CD drive remembers between commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CdState {
    pub sense: Sense,
    /// The medium was changed: 2 = "not present" is to be reported first, 1 = "may have changed".
    pub attention: u8,
    /// Media event of GET EVENT STATUS NOTIFICATION: 0 none, 1 eject request, 2 new medium,
    /// 3 removal.
    pub event: u8,
    pub locked: bool,
    pub tray_open: bool,
}

/// A medium's blocks.
pub fn blocks(driver: &dyn BlockDriver) -> u32 {
    if !driver.present() {
        return 0;
    }
    u32::try_from(driver.size() / BLOCK as u64).unwrap_or(u32::MAX)
}

fn be16(p: &[u8; PACKET], at: usize) -> usize {
    usize::from(u16::from_be_bytes([p[at], p[at + 1]]))
}

fn be32(p: &[u8; PACKET], at: usize) -> u32 {
    u32::from_be_bytes([p[at], p[at + 1], p[at + 2], p[at + 3]])
}

impl Drive {
    /// A command for a CD drive.
    pub fn atapi_command(&mut self, command: u8) {
        match command {
            0x08 => self.signal_reset(),
            0xa0 => {
                self.job = Job {
                    phase: Phase::Packet,
                    buffer: vec![0; PACKET],
                    end: PACKET,
                    ..Job::default()
                };
                self.task.count[0] = REASON_COMMAND;
                self.task.error = 0;
                self.task.status = status::DRDY | status::DRQ;
            }
            0xa1 => {
                let data = identify::cd(self);
                self.offer_data(data);
            }
            // Read commands of disks end with the signature, so that hosts can tell.
            0xec | 0x20 | 0x21 => {
                self.task.sign(self.kind);
                self.abort();
            }
            0xef => self.set_features(),
            0xe0..=0xe3 | 0xe6 | 0x94..=0x97 | 0x99 => self.done(),
            0xe5 | 0x98 => {
                self.task.count[0] = 0xff;
                self.done();
            }
            _ => self.abort(),
        }
    }

    fn packet_done(&mut self) {
        self.done();
        self.cd.sense = NO_SENSE;
        self.task.count[0] = REASON_COMMAND | REASON_TO_HOST;
    }

    fn packet_failed(&mut self, sense: Sense) {
        self.fail(sense.0 << 4 | super::drive::error::ABRT);
        self.cd.sense = sense;
        self.task.count[0] = REASON_COMMAND | REASON_TO_HOST;
    }

    /// The packet is complete.
    pub fn packet_arrived(&mut self) {
        let mut p = [0; PACKET];
        let n = self.job.buffer.len().min(PACKET);
        p[..n].copy_from_slice(&self.job.buffer[..n]);
        let limit = match usize::from(self.task.byte_count()) {
            0 | 0xffff => 0xfffe,
            n => n,
        };
        self.job = Job {
            limit,
            ..Job::default()
        };
        self.packet(&p);
    }

    fn packet(&mut self, p: &[u8; PACKET]) {
        // These work whatever happened to the medium.
        match p[0] {
            0x12 => return self.inquiry(p),
            0x03 => return self.request_sense(p),
            0x46 => {
                let data =
                    discinfo::configuration(self.driver.as_ref(), be16(p, 2) as u16, p[1] & 3);
                return self.reply(data, be16(p, 7));
            }
            0x4a => return self.event_status(p),
            _ => {}
        }
        match self.cd.attention {
            2 => {
                self.cd.attention = 1;
                return self.packet_failed(NOT_PRESENT);
            }
            1 if self.driver.present() => {
                self.cd.attention = 0;
                return self.packet_failed(MEDIUM_CHANGED);
            }
            _ => {}
        }
        match p[0] {
            0x1b => return self.start_stop(p[4]),
            0x1e => {
                self.cd.locked = p[4] & 1 != 0;
                self.driver.set_locked(self.cd.locked);
                return self.packet_done();
            }
            0x15 => return self.take_parameters(p[4].into()),
            0x55 => return self.take_parameters(be16(p, 7)),
            0x1a => {
                let data = discinfo::mode_pages(self.driver.as_ref(), p[2], self.cd.locked, false);
                return self.reply_or_bad_field(data, p[4].into());
            }
            0x5a => {
                let data = discinfo::mode_pages(self.driver.as_ref(), p[2], self.cd.locked, true);
                return self.reply_or_bad_field(data, be16(p, 7));
            }
            0xbd => {
                let open = if self.cd.tray_open { 0x10 } else { 0 };
                return self.reply(vec![0, open, 0, 0, 0, 1, 0, 0], be16(p, 8));
            }
            // Speed is what the host gives.
            0xbb => return self.packet_done(),
            _ => {}
        }
        let known = matches!(
            p[0],
            0x00 | 0x25 | 0x28 | 0x2b | 0xa8 | 0x42 | 0x43 | 0x51 | 0x52 | 0xad | 0xb9 | 0xbe
        );
        if !known {
            return self.packet_failed(BAD_COMMAND);
        }
        if !self.driver.present() || self.cd.tray_open {
            return self.packet_failed(NOT_PRESENT);
        }
        let total = blocks(self.driver.as_ref());
        match p[0] {
            0x00 => self.packet_done(),
            0x25 => {
                let mut data = total.saturating_sub(1).to_be_bytes().to_vec();
                data.extend((BLOCK as u32).to_be_bytes());
                self.reply(data, 8);
            }
            0x28 => self.read_blocks(be32(p, 2), be16(p, 7) as u32, BLOCK),
            0xa8 => self.read_blocks(be32(p, 2), be32(p, 6), BLOCK),
            0x2b => match be32(p, 2) < total {
                true => self.packet_done(),
                false => self.packet_failed(OUT_OF_RANGE),
            },
            0x42 => {
                // Sub-channel: no audio status to report.
                let mut data = vec![0, 0x15, 0, 0];
                if p[2] & 0x40 == 0 {
                    data.clear();
                    data.extend([0, 0x15, 0, 0]);
                }
                self.reply(data, be16(p, 7));
            }
            0x43 => {
                let format = match p[2] & 0x0f {
                    0 => p[9] >> 6,
                    n => n,
                };
                let toc = discinfo::toc(total, format, p[1] & 2 != 0, p[6]);
                self.reply_or_bad_field(toc, be16(p, 7));
            }
            0x51 => self.reply(discinfo::disc_information(), be16(p, 7)),
            0x52 => self.reply(discinfo::track_information(total), be16(p, 7)),
            0xad => {
                let data = discinfo::dvd_structure(total, p[7]);
                self.reply_or_bad_field(data, be16(p, 8));
            }
            0xbe => {
                let count = u32::from_be_bytes([0, p[6], p[7], p[8]]);
                self.read_cd(be32(p, 2), count, p[9]);
            }
            _ => {
                let frame =
                    |m: u8, s: u8, f: u8| (u32::from(m) * 60 + u32::from(s)) * 75 + u32::from(f);
                let (from, to) = (frame(p[3], p[4], p[5]), frame(p[6], p[7], p[8]));
                if from < 150 || to < from {
                    return self.packet_failed(BAD_FIELD);
                }
                self.read_cd(from - 150, to - from, p[9]);
            }
        }
    }

    fn inquiry(&mut self, p: &[u8; PACKET]) {
        if p[1] & 1 != 0 {
            return self.packet_failed(BAD_FIELD);
        }
        let mut data = vec![0x05, 0x80, 0x00, 0x21, 31, 0, 0, 0];
        data.extend(b"VBOX    CD-ROM          1.0 ");
        self.reply(data, be16(p, 3));
    }

    fn request_sense(&mut self, p: &[u8; PACKET]) {
        let (key, asc, ascq) = self.cd.sense;
        let mut data = vec![0; 18];
        data[0] = 0x70;
        data[2] = key;
        data[7] = 10;
        data[12] = asc;
        data[13] = ascq;
        self.reply(data, p[4].into());
        self.cd.sense = NO_SENSE;
    }

    fn event_status(&mut self, p: &[u8; PACKET]) {
        if p[1] & 1 == 0 {
            // Asynchronous notification is not there.
            return self.packet_failed(BAD_FIELD);
        }
        if p[4] & 0x10 == 0 {
            return self.reply(vec![0, 2, 0x80, 0x10], be16(p, 7));
        }
        let event = std::mem::take(&mut self.cd.event);
        let present = u8::from(self.driver.present() && !self.cd.tray_open) << 1;
        let media = present | u8::from(self.cd.tray_open);
        self.reply(vec![0, 6, 4, 0x10, event, media, 0, 0], be16(p, 7));
    }

    fn start_stop(&mut self, how: u8) {
        match how & 3 {
            2 if self.cd.locked => return self.packet_failed(LOCKED),
            2 => {
                if self.driver.present() && self.driver.eject() {
                    self.cd.event = 3;
                }
                self.cd.tray_open = true;
            }
            3 => self.cd.tray_open = false,
            _ => {}
        }
        self.packet_done();
    }

    /// Replaces the medium. The guest hears of it as a drive would tell.
    pub fn change_medium(
        &mut self,
        driver: Box<dyn BlockDriver>,
        force: bool,
    ) -> Result<Box<dyn BlockDriver>, Box<dyn BlockDriver>> {
        if self.cd.locked && !force && self.driver.present() {
            // The guest may give the medium free when it hears of the request.
            self.cd.event = 1;
            return Err(driver);
        }
        let had = self.driver.present();
        let old = std::mem::replace(&mut self.driver, driver);
        self.cd.tray_open = false;
        self.cd.event = if self.driver.present() { 2 } else { 3 };
        self.cd.attention = match (had, self.driver.present()) {
            (true, true) => 2,
            (_, true) => 1,
            (_, false) => 0,
        };
        if !self.driver.present() {
            self.cd.locked = false;
        }
        self.driver.set_locked(self.cd.locked);
        Ok(old)
    }

    fn reply_or_bad_field(&mut self, data: Option<Vec<u8>>, allocated: usize) {
        match data {
            Some(data) => self.reply(data, allocated),
            None => self.packet_failed(BAD_FIELD),
        }
    }

    /// Sends `data`, cut to what the host has room for.
    fn reply(&mut self, mut data: Vec<u8>, allocated: usize) {
        data.truncate(allocated);
        if data.is_empty() {
            return self.packet_done();
        }
        self.job.buffer = data;
        self.start_data_in();
    }

    fn start_data_in(&mut self) {
        self.job.pos = 0;
        self.job.end = 0;
        self.task.error = 0;
        if self.task.feature[0] & 1 != 0 {
            self.job.phase = Phase::PacketDma;
            self.task.count[0] = REASON_TO_HOST;
            self.task.status = status::DRDY | status::DRQ;
        } else {
            self.job.phase = Phase::PacketIn;
            self.next_packet_piece();
        }
    }

    fn read_cd(&mut self, lba: u32, count: u32, what: u8) {
        match what & 0xf8 {
            0 => self.packet_done(),
            0x10 => self.read_blocks(lba, count, BLOCK),
            0xf8 => self.read_blocks(lba, count, RAW_BLOCK),
            _ => self.packet_failed(BAD_FIELD),
        }
    }

    fn read_blocks(&mut self, lba: u32, count: u32, bytes: usize) {
        let total = u64::from(blocks(self.driver.as_ref()));
        if u64::from(lba) + u64::from(count) > total {
            return self.packet_failed(OUT_OF_RANGE);
        }
        if count == 0 {
            return self.packet_done();
        }
        self.job.lba = lba.into();
        self.job.left = count;
        self.job.block = bytes as u32;
        if let Err(sense) = self.load_chunk() {
            return self.packet_failed(sense);
        }
        self.start_data_in();
    }

    /// Reads the next blocks into the buffer.
    fn load_chunk(&mut self) -> Result<(), Sense> {
        let n = self.job.left.min(CHUNK_BLOCKS);
        let mut data = std::mem::take(&mut self.job.buffer);
        data.resize(n as usize * BLOCK, 0);
        let offset = self.job.lba * BLOCK as u64;
        self.driver.read(offset, &mut data).map_err(|e| match e {
            BlockError::NoMedium => NOT_PRESENT,
            BlockError::OutOfRange => OUT_OF_RANGE,
            e => {
                tracing::warn!(unit = self.unit, error = %e, "CD error");
                READ_ERROR
            }
        })?;
        if self.job.block as usize == RAW_BLOCK {
            data = raw_sectors(self.job.lba as u32, &data);
        }
        self.job.buffer = data;
        self.job.pos = 0;
        self.job.end = 0;
        self.job.lba += u64::from(n);
        self.job.left -= n;
        Ok(())
    }

    /// Offers the next piece of at most the byte count limit, or ends the command.
    pub fn next_packet_piece(&mut self) {
        if self.job.pos >= self.job.buffer.len() {
            if self.job.left == 0 {
                return self.packet_done();
            }
            if let Err(sense) = self.load_chunk() {
                return self.packet_failed(sense);
            }
        }
        let left = self.job.buffer.len() - self.job.pos;
        let mut n = left.min(self.job.limit.max(2));
        if n < left {
            // Only the last piece may be odd.
            n &= !1;
        }
        self.job.end = self.job.pos + n;
        self.task.set_byte_count(n as u16);
        self.task.count[0] = REASON_TO_HOST;
        self.offer();
    }

    /// Moves all data of a packet command by DMA.
    pub fn packet_dma(&mut self, walker: &mut Walker<'_>, bm: &mut BusMaster) {
        loop {
            if !walker.store(&self.job.buffer) {
                bm.finish(false);
                return self.packet_failed(BAD_FIELD);
            }
            if self.job.left == 0 {
                break;
            }
            if let Err(sense) = self.load_chunk() {
                bm.finish(true);
                return self.packet_failed(sense);
            }
        }
        bm.finish(walker.left_over());
        self.packet_done();
    }

    fn take_parameters(&mut self, len: usize) {
        if len == 0 {
            return self.packet_done();
        }
        let n = len.min(self.job.limit.max(2));
        self.job.phase = Phase::PacketOut;
        self.job.buffer = vec![0; n];
        self.job.pos = 0;
        self.job.end = n;
        self.task.set_byte_count(n as u16);
        self.task.count[0] = 0;
        self.offer();
    }

    /// MODE SELECT parameters: the pages' values have no effect on a virtual drive.
    pub fn packet_parameters_arrived(&mut self) {
        self.packet_done();
    }
}

/// Sync pattern, header and empty error correction around each block.
fn raw_sectors(lba: u32, data: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(data.len() / BLOCK * RAW_BLOCK);
    for (block, lba) in data.chunks_exact(BLOCK).zip(lba..) {
        raw.push(0);
        raw.extend([0xff; 10]);
        raw.push(0);
        let bcd = |v: u32| ((v / 10 % 10) << 4 | (v % 10)) as u8;
        let [m, s, f] = discinfo::msf(lba);
        raw.extend([bcd(m.into()), bcd(s.into()), bcd(f.into()), 1]);
        raw.extend_from_slice(block);
        raw.resize(raw.len() + RAW_BLOCK - BLOCK - 16, 0);
    }
    raw
}
