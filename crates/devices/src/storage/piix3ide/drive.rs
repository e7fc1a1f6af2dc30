//! What hard disks and CD drives have in common: registers, the current command's data, interrupt.

use std::sync::Arc;

use pdm::driver::{BlockDriver, BlockError, DriveKind};
use pdm::{VmControl, VmRequest};
use pgm::PhysMap;

use super::atapi::CdState;
use super::busmaster::{BusMaster, Walker};

/// Status register bits (ATA/ATAPI-6, 7.15).
pub mod status {
    pub const ERR: u8 = 0x01;
    pub const DRQ: u8 = 0x08;
    pub const DSC: u8 = 0x10;
    pub const DRDY: u8 = 0x40;
    pub const BSY: u8 = 0x80;
}

/// Error register bits (7.11).
pub mod error {
    pub const NM: u8 = 0x02;
    pub const ABRT: u8 = 0x04;
    pub const IDNF: u8 = 0x10;
    pub const UNC: u8 = 0x40;
}

/// Interrupt reason bits of packet commands, in the sector count register.
pub const REASON_COMMAND: u8 = 1;
pub const REASON_TO_HOST: u8 = 2;

pub const SECTOR: usize = 512;
/// Bytes moved per step of a DMA transfer.
pub const DMA_CHUNK: usize = 128 << 10;
/// The most a drive buffers for programmed I/O.
pub const BUFFER_MAX: usize = 64 << 10;

/// The task file. Index 1 of pairs is the value written before the last one (ATA/ATAPI-6, 6.20).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFile {
    pub feature: [u8; 2],
    pub count: [u8; 2],
    pub lba: [[u8; 2]; 3],
    pub device: u8,
    pub status: u8,
    pub error: u8,
}

impl TaskFile {
    /// Puts a drive's signature there.
    pub fn sign(&mut self, kind: DriveKind) {
        let (mid, high) = match kind {
            DriveKind::Dvd => (0x14, 0xeb),
            _ => (0, 0),
        };
        self.count = [1, 0];
        self.lba = [[1, 0], [mid, 0], [high, 0]];
        self.device &= 0x10;
    }

    /// Byte count register of packet commands.
    pub fn byte_count(&self) -> u16 {
        u16::from_le_bytes([self.lba[1][0], self.lba[2][0]])
    }

    /// Sets it.
    pub fn set_byte_count(&mut self, n: u16) {
        [self.lba[1][0], self.lba[2][0]] = n.to_le_bytes();
    }
}

/// What the current command is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Phase {
    /// No command.
    #[default]
    Idle,
    /// Disk sectors to the host.
    ReadPio,
    /// Disk sectors from the host.
    WritePio,
    /// A buffer to the host, then done.
    DataIn,
    /// A buffer from the host that is dropped, then done.
    DataOut,
    /// Disk sectors by DMA.
    ReadDma,
    WriteDma,
    /// A list of ranges to trim by DMA.
    Trim,
    /// Writing back caches.
    Flush,
    /// Waits for a command packet.
    Packet,
    /// Packet data to the host, in pieces of the byte count limit.
    PacketIn,
    /// Packet parameters from the host.
    PacketOut,
    /// Packet data by DMA.
    PacketDma,
}

impl Phase {
    /// From its number in a saved state.
    pub fn from_number(n: u8) -> Option<Self> {
        const ALL: [Phase; 13] = [
            Phase::Idle,
            Phase::ReadPio,
            Phase::WritePio,
            Phase::DataIn,
            Phase::DataOut,
            Phase::ReadDma,
            Phase::WriteDma,
            Phase::Trim,
            Phase::Flush,
            Phase::Packet,
            Phase::PacketIn,
            Phase::PacketOut,
            Phase::PacketDma,
        ];
        ALL.get(usize::from(n)).copied()
    }
}

/// The current command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Job {
    pub phase: Phase,
    /// Next sector or block.
    pub lba: u64,
    /// Sectors or blocks not moved yet (beyond what `buffer` holds).
    pub left: u32,
    /// Sectors per interrupt.
    pub block: u32,
    /// Data of the data port; `pos..end` is what DRQ offers now.
    pub buffer: Vec<u8>,
    pub pos: usize,
    pub end: usize,
    /// Byte count limit of a packet command.
    pub limit: usize,
    /// The host's disk is full: try again on resume.
    pub stalled: bool,
}

/// Settings of a disk that commands change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskState {
    /// Heads and sectors per track of the current translation.
    pub heads: u32,
    pub sectors: u32,
    pub multiple: u32,
    /// Transfer modes as identify words 63 and 88 show them (high byte: selected).
    pub mwdma: u8,
    pub udma: u8,
    pub write_cache: bool,
    pub look_ahead: bool,
    pub smart: bool,
    pub smart_autosave: bool,
    pub self_test: Option<u8>,
    pub standby: bool,
}

/// A drive at one end of the cable.
pub struct Drive {
    pub driver: Box<dyn BlockDriver>,
    pub kind: DriveKind,
    /// Shown when the driver gives no serial number.
    pub unit: u32,
    pub vm: Arc<dyn VmControl>,
    pub task: TaskFile,
    pub job: Job,
    /// INTRQ.
    pub irq: bool,
    pub disk: DiskState,
    pub cd: CdState,
    scratch: Vec<u8>,
}

impl Drive {
    /// A drive after power-on.
    pub fn new(driver: Box<dyn BlockDriver>, unit: u32, vm: Arc<dyn VmControl>) -> Self {
        let kind = driver.kind();
        let mut drive = Self {
            driver,
            kind,
            unit,
            vm,
            task: TaskFile::default(),
            job: Job::default(),
            irq: false,
            disk: DiskState {
                heads: 16,
                sectors: 63,
                multiple: 0,
                mwdma: 0,
                udma: 0,
                write_cache: true,
                look_ahead: true,
                smart: true,
                smart_autosave: true,
                self_test: None,
                standby: false,
            },
            cd: CdState::default(),
            scratch: Vec::new(),
        };
        drive.power_on();
        drive
    }

    /// Power-on state.
    pub fn power_on(&mut self) {
        let (_, heads, sectors) = self.geometry();
        self.disk = DiskState {
            heads,
            sectors,
            multiple: 0,
            mwdma: 0,
            udma: 0,
            write_cache: true,
            look_ahead: true,
            smart: true,
            smart_autosave: true,
            self_test: None,
            standby: false,
        };
        self.cd = CdState::default();
        self.driver.set_locked(false);
        self.task = TaskFile::default();
        self.signal_reset();
    }

    /// Software or device reset: signature and status, no interrupt.
    pub fn signal_reset(&mut self) {
        self.job = Job::default();
        self.irq = false;
        self.disk.standby = false;
        self.task.sign(self.kind);
        self.task.error = 1;
        self.task.status = match self.kind {
            DriveKind::Dvd => 0,
            _ => status::DRDY | status::DSC,
        };
    }

    /// Whether it is a CD drive.
    pub fn is_cd(&self) -> bool {
        self.kind == DriveKind::Dvd
    }

    /// Ends the command with success.
    pub fn done(&mut self) {
        self.job = Job::default();
        self.task.status = status::DRDY | status::DSC;
        self.task.error = 0;
        self.irq = true;
    }

    /// Ends the command with an error register value.
    pub fn fail(&mut self, error: u8) {
        self.job = Job::default();
        self.task.status = status::DRDY | status::DSC | status::ERR;
        self.task.error = error;
        self.irq = true;
    }

    /// Ends an unknown or impossible command.
    pub fn abort(&mut self) {
        self.fail(error::ABRT);
    }

    /// Ends the command with what the driver said, or keeps it for later when the host's disk is
    /// full.
    pub fn fail_with(&mut self, e: BlockError, writing: bool) {
        match e {
            BlockError::DiskFull(file) => {
                self.job.stalled = true;
                self.task.status = status::BSY;
                self.vm.request(VmRequest::Suspend(format!(
                    "DrvVD_DISKFULL: the host has no space left for '{file}'; the machine is \
                     paused and goes on with the same write when resumed"
                )));
            }
            BlockError::ReadOnly => self.abort(),
            BlockError::OutOfRange => self.fail(error::IDNF),
            BlockError::NoMedium => self.fail(error::NM | error::ABRT),
            BlockError::Io(reason) => {
                tracing::warn!(unit = self.unit, reason, "disk error");
                self.fail(if writing { error::ABRT } else { error::UNC });
            }
        }
    }

    /// Offers `buffer[pos..end]` to the host.
    pub fn offer(&mut self) {
        self.task.status = status::DRDY | status::DSC | status::DRQ;
        self.task.error = 0;
        self.irq = true;
    }

    /// Offers a whole buffer, then ends the command.
    pub fn offer_data(&mut self, data: Vec<u8>) {
        self.job.end = data.len();
        self.job.buffer = data;
        self.job.pos = 0;
        self.job.phase = Phase::DataIn;
        self.offer();
    }

    /// Whether the command waits for the bus master.
    pub fn wants_dma(&self) -> bool {
        !self.job.stalled
            && matches!(
                self.job.phase,
                Phase::ReadDma | Phase::WriteDma | Phase::Trim | Phase::PacketDma
            )
    }

    /// Does the whole DMA transfer.
    pub fn run_dma(&mut self, bm: &mut BusMaster, phys: &PhysMap) {
        let reading = matches!(self.job.phase, Phase::ReadDma | Phase::PacketDma);
        if reading != bm.to_memory() {
            // The engine would move data the wrong way: the drive gives up.
            bm.finish(true);
            return self.abort();
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut walker = Walker::new(bm, phys);
        let result = match self.job.phase {
            Phase::ReadDma => self.read_dma(&mut walker, &mut scratch),
            Phase::WriteDma => self.write_dma(&mut walker, &mut scratch),
            Phase::Trim => self.trim(&mut walker),
            _ => {
                self.packet_dma(&mut walker, bm);
                self.scratch = scratch;
                return;
            }
        };
        self.scratch = scratch;
        match result {
            Ok(()) => {
                bm.finish(walker.left_over());
                self.done();
            }
            Err(DmaError::ShortTable) => {
                bm.finish(false);
                self.abort();
            }
            Err(DmaError::Block(e)) => {
                self.fail_with(e, !reading);
                if !self.job.stalled {
                    bm.finish(true);
                }
            }
        }
    }

    fn read_dma(&mut self, walker: &mut Walker<'_>, scratch: &mut Vec<u8>) -> Result<(), DmaError> {
        let mut offset = self.job.lba * SECTOR as u64;
        let mut left = self.job.left as usize * SECTOR;
        while left > 0 {
            let n = left.min(DMA_CHUNK);
            if scratch.len() < n {
                scratch.resize(n, 0);
            }
            self.driver.read(offset, &mut scratch[..n])?;
            if !walker.store(&scratch[..n]) {
                return Err(DmaError::ShortTable);
            }
            offset += n as u64;
            left -= n;
        }
        Ok(())
    }

    fn write_dma(
        &mut self,
        walker: &mut Walker<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), DmaError> {
        let mut offset = self.job.lba * SECTOR as u64;
        let mut left = self.job.left as usize * SECTOR;
        while left > 0 {
            let n = left.min(DMA_CHUNK);
            if scratch.len() < n {
                scratch.resize(n, 0);
            }
            if !walker.load(&mut scratch[..n]) {
                return Err(DmaError::ShortTable);
            }
            self.driver.write(offset, &scratch[..n])?;
            offset += n as u64;
            left -= n;
        }
        if self.job.block != 0 || !self.disk.write_cache {
            // Forced unit access, or the guest switched the write cache off.
            self.driver.flush()?;
        }
        Ok(())
    }

    fn trim(&mut self, walker: &mut Walker<'_>) -> Result<(), DmaError> {
        let total = self.driver.size() / SECTOR as u64;
        for _ in 0..self.job.left {
            let mut list = [0; SECTOR];
            if !walker.load(&mut list) {
                return Err(DmaError::ShortTable);
            }
            for range in list.chunks_exact(8) {
                // 48 bits of address, 16 bits of length.
                let entry = u64::from_le_bytes(range.try_into().unwrap_or_default());
                let (lba, len) = (entry & 0xffff_ffff_ffff, entry >> 48);
                if len == 0 {
                    continue;
                }
                if lba + len > total {
                    return Err(BlockError::OutOfRange.into());
                }
                self.driver
                    .discard(lba * SECTOR as u64, len * SECTOR as u64)?;
            }
        }
        Ok(())
    }

    /// The VM goes on: what was given up for lack of space is tried again. DMA is restarted by the
    /// channel.
    pub fn retry(&mut self) {
        if !std::mem::take(&mut self.job.stalled) {
            return;
        }
        match self.job.phase {
            Phase::WritePio => self.write_block(),
            Phase::Flush => self.flush(),
            _ => {}
        }
    }

    /// Writes caches back.
    pub fn flush(&mut self) {
        self.job.phase = Phase::Flush;
        match self.driver.flush() {
            Ok(()) => self.done(),
            Err(e) => self.fail_with(e, true),
        }
    }

    /// Takes bytes out of the data port.
    pub fn read_data(&mut self, data: &mut [u8]) {
        let mut done = 0;
        while done < data.len() {
            let n = self.available(false).min(data.len() - done);
            if n == 0 {
                data[done..].fill(0);
                return;
            }
            let from = self.job.pos;
            data[done..done + n].copy_from_slice(&self.job.buffer[from..from + n]);
            done += n;
            self.advance(n);
        }
    }

    /// Puts bytes into the data port.
    pub fn write_data(&mut self, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let n = self.available(true).min(data.len() - done);
            if n == 0 {
                return;
            }
            let to = self.job.pos;
            self.job.buffer[to..to + n].copy_from_slice(&data[done..done + n]);
            done += n;
            self.advance(n);
        }
    }

    /// Bytes the data port takes or gives now.
    fn available(&self, writing: bool) -> usize {
        let out = matches!(
            self.job.phase,
            Phase::WritePio | Phase::DataOut | Phase::Packet | Phase::PacketOut
        );
        if self.task.status & status::DRQ == 0 || out != writing {
            return 0;
        }
        let end = self.job.end.min(self.job.buffer.len());
        end.saturating_sub(self.job.pos)
    }

    fn advance(&mut self, n: usize) {
        self.job.pos += n;
        if self.job.pos < self.job.end {
            return;
        }
        match self.job.phase {
            Phase::ReadPio if self.job.left == 0 => self.finish_read(),
            Phase::ReadPio => self.read_block(),
            Phase::WritePio => self.write_block(),
            Phase::DataIn => self.finish_read(),
            Phase::DataOut => self.done(),
            Phase::Packet => self.packet_arrived(),
            Phase::PacketIn => self.next_packet_piece(),
            Phase::PacketOut => self.packet_parameters_arrived(),
            _ => {}
        }
    }

    /// The last byte of a read was taken: done, without an interrupt.
    fn finish_read(&mut self) {
        self.job = Job::default();
        self.task.status = status::DRDY | status::DSC;
    }
}

/// Why a DMA transfer ended early.
pub enum DmaError {
    /// The table of regions is shorter than the transfer.
    ShortTable,
    Block(BlockError),
}

impl From<BlockError> for DmaError {
    fn from(e: BlockError) -> Self {
        Self::Block(e)
    }
}
