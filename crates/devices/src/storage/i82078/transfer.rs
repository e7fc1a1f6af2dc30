//! Commands that move data: read, write, verify, format, read ID.

use pdm::VmRequest;
use pdm::driver::BlockError;

use super::media::{Drive, Format, SECTOR};
use super::{DMA_CHANNEL, Floppy, Phase, dor, st0};

/// Status register 1.
const ST1_MISSING_ADDRESS: u8 = 0x01;
const ST1_NOT_WRITABLE: u8 = 0x02;
const ST1_NO_DATA: u8 = 0x04;
const ST1_OVERRUN: u8 = 0x10;
const ST1_DATA_ERROR: u8 = 0x20;
const ST1_END: u8 = 0x80;
/// Status register 2.
const ST2_DATA_ERROR: u8 = 0x20;
const ST2_WRONG_CYLINDER: u8 = 0x10;

/// What is done with each sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Read,
    Write,
    Verify,
    Format,
}

impl Kind {
    /// From its number in a saved state.
    pub fn from_number(n: u8) -> Option<Self> {
        [Self::Read, Self::Write, Self::Verify, Self::Format]
            .get(usize::from(n))
            .copied()
    }
}

/// A transfer under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    pub kind: Kind,
    pub unit: u8,
    /// Head from the drive select byte; the address mark's own is `h`.
    pub head: u8,
    pub c: u8,
    pub h: u8,
    pub r: u8,
    pub n: u8,
    pub eot: u8,
    pub multi_track: bool,
    /// Sectors left: of a format, or of a verify with a count (0: until EOT).
    pub count: u16,
    pub fill: u8,
    pub pio: bool,
    pub buffer: Vec<u8>,
    pub pos: usize,
    /// The terminal count came.
    pub terminal: bool,
    /// The host's disk is full: try again on resume.
    pub stalled: bool,
}

impl Transfer {
    /// Whether the host reads the data register.
    pub fn to_host(&self) -> bool {
        self.kind == Kind::Read
    }
}

impl Floppy {
    /// A command of the read/write/format family.
    pub(super) fn start_transfer(&mut self, command: u8, p: &[u8]) {
        let unit = p[0] & 3;
        let head = p[0] >> 2 & 1;
        let kind = match command & 0x1f {
            0x0a => return self.read_id(unit, head),
            0x0d => Kind::Format,
            0x05 | 0x09 => Kind::Write,
            0x16 => Kind::Verify,
            _ => Kind::Read,
        };
        let pio = self.state.non_dma();
        let mut t = Transfer {
            kind,
            unit,
            head,
            c: 0,
            h: head,
            r: 1,
            n: 2,
            eot: 0,
            multi_track: command & 0x80 != 0,
            count: 0,
            fill: 0,
            pio,
            buffer: Vec::new(),
            pos: 0,
            terminal: false,
            stalled: false,
        };
        if kind == Kind::Format {
            (t.n, t.count, t.fill) = (p[1], p[2].into(), p[4]);
            t.c = self.drive(unit).map_or(0, |d| d.track);
        } else {
            (t.c, t.h, t.r, t.n, t.eot) = (p[1], p[2], p[3], p[4], p[5]);
            // Verify with EC set takes its sector count from the last parameter.
            if kind == Kind::Verify && p[0] & 0x80 != 0 {
                t.count = if p[7] == 0 { 256 } else { p[7].into() };
            }
            self.state.last_eot = p[5];
        }
        let implied_seek = self.state.configure & 0x40 != 0 && kind != Kind::Format;
        if let Some(drive) = self.drive(unit).filter(|_| implied_seek) {
            drive.seek(t.c);
        }
        if command & 0x1f == 0x02 {
            // READ TRACK starts at the first sector.
            t.r = 1;
        }
        self.state.phase = Phase::Execution;
        self.transfer = Some(t);
        self.run();
    }

    fn read_id(&mut self, unit: u8, head: u8) {
        let rate = self.state.ccr;
        let found = self.drive(unit).and_then(|d| {
            let f = d.format()?;
            let here = d.track < f.tracks && head < f.heads && f.readable_at(rate);
            here.then_some(d.track)
        });
        match found {
            Some(track) => self.finish(head << 2 | unit, 0, 0, [track, head, 1, 2]),
            None => {
                let code = st0::ABNORMAL | head << 2 | unit;
                self.finish(code, ST1_MISSING_ADDRESS, 0, [0, head, 1, 2]);
            }
        }
    }

    /// Result phase with an interrupt.
    fn finish(&mut self, st0: u8, st1: u8, st2: u8, chrn: [u8; 4]) {
        self.transfer = None;
        self.result(&[st0, st1, st2, chrn[0], chrn[1], chrn[2], chrn[3]]);
        self.raise();
    }

    fn end(&mut self, t: &Transfer, st1: u8, st2: u8) {
        let bad = if st1 != 0 || st2 != 0 {
            st0::ABNORMAL
        } else {
            0
        };
        self.finish(bad | t.head << 2 | t.unit, st1, st2, [t.c, t.h, t.r, t.n]);
    }

    /// The medium of the transfer, or the status bits that say why there is none.
    fn medium(&mut self, t: &Transfer) -> Result<Format, (u8, u8)> {
        let rate = self.state.ccr;
        let missing = (ST1_MISSING_ADDRESS, 0);
        let drive = self.drive(t.unit).ok_or(missing)?;
        let format = drive.format().ok_or(missing)?;
        if !format.readable_at(rate) || t.head >= format.heads || drive.track >= format.tracks {
            return Err(missing);
        }
        let writes = matches!(t.kind, Kind::Write | Kind::Format);
        if writes && drive.driver.read_only() {
            return Err((ST1_NOT_WRITABLE, 0));
        }
        if t.kind != Kind::Format {
            if t.c != drive.track {
                return Err((ST1_NO_DATA, ST2_WRONG_CYLINDER));
            }
            if t.h != t.head || t.n != 2 || t.r == 0 || t.r > format.sectors {
                return Err((ST1_NO_DATA, 0));
            }
        } else if t.n != 2 {
            return Err((ST1_NO_DATA, 0));
        }
        Ok(format)
    }

    /// Goes on as far as possible: to the end with DMA, to the next sector without.
    fn run(&mut self) {
        while let Some(mut t) = self.transfer.take() {
            if let Err((st1, st2)) = self.sector(&mut t) {
                return self.end(&t, st1, st2);
            }
            let waiting = t.stalled || (t.pio && t.pos < t.buffer.len());
            if waiting {
                self.transfer = Some(t);
                return;
            }
            if self.advance(&mut t) {
                return;
            }
            self.transfer = Some(t);
        }
    }

    /// One sector: with DMA all of it; without, offers or asks for its bytes.
    fn sector(&mut self, t: &mut Transfer) -> Result<(), (u8, u8)> {
        let format = self.medium(t)?;
        match t.kind {
            Kind::Read | Kind::Verify => {
                t.buffer = vec![0; SECTOR];
                self.read_sector(t, &format)?;
                if t.kind == Kind::Verify {
                    t.buffer.clear();
                } else if t.pio {
                    t.pos = 0;
                    self.raise();
                } else {
                    let moved = self.dma(|dma| dma.to_memory(DMA_CHANNEL, &t.buffer));
                    t.terminal = moved.terminal;
                    if moved.moved == 0 {
                        return Err((ST1_OVERRUN, 0));
                    }
                }
            }
            Kind::Write | Kind::Format => {
                let want = if t.kind == Kind::Format { 4 } else { SECTOR };
                if t.pio {
                    t.buffer = vec![0; want];
                    t.pos = 0;
                    self.raise();
                    return Ok(());
                }
                t.buffer = vec![0; want];
                let moved = self.dma(|dma| dma.from_memory(DMA_CHANNEL, &mut t.buffer));
                t.terminal = moved.terminal;
                if moved.moved == 0 {
                    return Err((ST1_OVERRUN, 0));
                }
                self.store(t)?;
            }
        }
        Ok(())
    }

    fn dma(
        &self,
        f: impl FnOnce(&dyn pdm::dma::IsaDma) -> pdm::dma::Transfer,
    ) -> pdm::dma::Transfer {
        match &self.dma {
            Some(dma) if self.state.dor & dor::DMA_GATE != 0 => f(dma.as_ref()),
            _ => pdm::dma::Transfer::default(),
        }
    }

    fn read_sector(&mut self, t: &mut Transfer, format: &Format) -> Result<(), (u8, u8)> {
        let offset = Drive::offset(format, t.c, t.head, t.r);
        let Some(drive) = self.drive(t.unit) else {
            return Err((ST1_MISSING_ADDRESS, 0));
        };
        // An image shorter than its format ends with zeros.
        if offset + SECTOR as u64 > drive.driver.size() {
            return Ok(());
        }
        drive
            .driver
            .read(offset, &mut t.buffer)
            .map_err(|_| (ST1_DATA_ERROR, ST2_DATA_ERROR))
    }

    /// Writes the complete buffer: a sector, or a formatted one whose id arrived.
    fn store(&mut self, t: &mut Transfer) -> Result<(), (u8, u8)> {
        let format = self.medium(t)?;
        let (head, sector, data) = if t.kind == Kind::Format {
            (t.head, t.buffer[2], vec![t.fill; SECTOR])
        } else {
            (t.head, t.r, t.buffer.clone())
        };
        if sector == 0 || sector > format.sectors {
            return Err((ST1_NO_DATA, 0));
        }
        let offset = Drive::offset(&format, t.c, head, sector);
        let Some(drive) = self.drive(t.unit) else {
            return Err((ST1_MISSING_ADDRESS, 0));
        };
        match drive.driver.write(offset, &data) {
            Ok(()) => {
                t.stalled = false;
                Ok(())
            }
            Err(BlockError::DiskFull(file)) => {
                t.stalled = true;
                self.vm.request(VmRequest::Suspend(format!(
                    "DrvVD_DISKFULL: the host has no space left for '{file}'; the machine is \
                     paused and goes on with the same write when resumed"
                )));
                Ok(())
            }
            Err(BlockError::ReadOnly) => Err((ST1_NOT_WRITABLE, 0)),
            Err(_) => Err((ST1_DATA_ERROR, ST2_DATA_ERROR)),
        }
    }

    /// Steps to the next sector. True when the transfer has ended.
    fn advance(&mut self, t: &mut Transfer) -> bool {
        if t.kind == Kind::Format {
            t.count = t.count.saturating_sub(1);
            let done = t.count == 0 || t.terminal;
            if done {
                self.end(t, 0, 0);
            }
            return done;
        }
        let counted = t.kind == Kind::Verify && t.count > 0;
        if counted {
            t.count -= 1;
        }
        let last = counted && t.count == 0;
        let end_of_track = t.r >= t.eot;
        if !end_of_track {
            t.r += 1;
        } else {
            t.r = 1;
            let other_side = t.multi_track && t.head == 0;
            if t.multi_track {
                t.head ^= 1;
                t.h ^= 1;
            }
            if !other_side {
                t.c = t.c.wrapping_add(1);
                // The end of the cylinder without a terminal count is an error, except for verify.
                let st1 = match t.terminal || last || t.kind == Kind::Verify {
                    true => 0,
                    false => ST1_END,
                };
                self.end(t, st1, 0);
                return true;
            }
        }
        if t.terminal || last {
            self.end(t, 0, 0);
            return true;
        }
        false
    }

    /// The data register is read in the execution phase.
    pub(super) fn pio_read(&mut self) -> u8 {
        let Some(t) = self.transfer.as_mut().filter(|t| t.pio && t.to_host()) else {
            return 0;
        };
        let byte = t.buffer.get(t.pos).copied().unwrap_or(0);
        t.pos += 1;
        let complete = t.pos >= t.buffer.len();
        self.lower();
        if complete {
            self.sector_complete();
        }
        byte
    }

    /// The data register is written in the execution phase.
    pub(super) fn pio_write(&mut self, byte: u8) {
        let Some(t) = self.transfer.as_mut() else {
            return;
        };
        if !t.pio || t.to_host() || t.stalled {
            return;
        }
        if let Some(place) = t.buffer.get_mut(t.pos) {
            *place = byte;
        }
        t.pos += 1;
        let complete = t.pos >= t.buffer.len();
        self.lower();
        if complete {
            self.stored();
        }
    }

    /// Writes what the host gave, then goes on.
    fn stored(&mut self) {
        let Some(mut t) = self.transfer.take() else {
            return;
        };
        if let Err((st1, st2)) = self.store(&mut t) {
            return self.end(&t, st1, st2);
        }
        self.transfer = Some(t);
        if self.transfer.as_ref().is_some_and(|t| !t.stalled) {
            self.sector_complete();
        }
    }

    fn sector_complete(&mut self) {
        let Some(mut t) = self.transfer.take() else {
            return;
        };
        if !self.advance(&mut t) {
            self.transfer = Some(t);
            self.run();
        }
    }

    /// The VM goes on after a full disk.
    pub(super) fn retry(&mut self) {
        if self.transfer.as_ref().is_some_and(|t| t.stalled) {
            self.stored();
        }
    }
}
