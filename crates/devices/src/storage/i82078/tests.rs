use std::sync::Arc;

use parking_lot::Mutex;
use pdm::cfgm::Node;
use pdm::dma::{IsaDma, Transfer};
use pdm::driver::{BlockDriver, BlockError, DriveKind};
use pdm::testing::TestHost;
use pdm::{Device, VmRequest};

use super::REG;

#[derive(Default)]
struct Medium {
    data: Vec<u8>,
    full: bool,
}

struct Image(Arc<Mutex<Medium>>);

impl BlockDriver for Image {
    fn size(&self) -> u64 {
        self.0.lock().data.len() as u64
    }
    fn read_only(&self) -> bool {
        false
    }
    fn kind(&self) -> DriveKind {
        DriveKind::Floppy
    }
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        let at = offset as usize;
        data.copy_from_slice(&self.0.lock().data[at..at + data.len()]);
        Ok(())
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let mut medium = self.0.lock();
        if medium.full {
            return Err(BlockError::DiskFull("floppy.img".into()));
        }
        let at = offset as usize;
        medium.data[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
    fn discard(&mut self, _: u64, _: u64) -> Result<(), BlockError> {
        Ok(())
    }
}

/// A channel of so many bytes: a buffer and how far it is used.
#[derive(Default)]
struct Channel(Mutex<(Vec<u8>, usize)>);

impl Channel {
    fn program(&self, data: Vec<u8>) {
        *self.0.lock() = (data, 0);
    }
}

impl IsaDma for Channel {
    fn from_memory(&self, channel: u8, data: &mut [u8]) -> Transfer {
        assert_eq!(channel, 2);
        let (buffer, at) = &mut *self.0.lock();
        let n = data.len().min(buffer.len() - *at);
        data[..n].copy_from_slice(&buffer[*at..*at + n]);
        *at += n;
        Transfer {
            moved: n,
            terminal: n > 0 && *at == buffer.len(),
        }
    }
    fn to_memory(&self, channel: u8, data: &[u8]) -> Transfer {
        assert_eq!(channel, 2);
        let (buffer, at) = &mut *self.0.lock();
        let n = data.len().min(buffer.len() - *at);
        buffer[*at..*at + n].copy_from_slice(&data[..n]);
        *at += n;
        Transfer {
            moved: n,
            terminal: n > 0 && *at == buffer.len(),
        }
    }
}

struct Bench {
    dev: Box<dyn Device>,
    host: TestHost,
    medium: Arc<Mutex<Medium>>,
    dma: Arc<Channel>,
}

impl Bench {
    fn new(size: usize) -> Self {
        let data = (0..size).map(|i| (i / 512 * 3 + i % 512) as u8).collect();
        let medium = Arc::new(Mutex::new(Medium { data, full: false }));
        let mut host = TestHost::default();
        let dma = Arc::new(Channel::default());
        host.dma = Some(dma.clone());
        host.blocks.insert(0, Box::new(Image(medium.clone())));
        let dev = (REG.construct)(&Node::default(), 0, &mut host).unwrap();
        let mut bench = Self {
            dev,
            host,
            medium,
            dma,
        };
        bench.out(2, 0x1c);
        for unit in 0..4 {
            assert_eq!(bench.run(&[8]), [0xc0 | unit, 0]);
        }
        bench
    }
    fn out(&mut self, reg: u16, value: u8) {
        self.dev.pio().unwrap().write(0x3f0 + reg, 1, value.into());
    }
    fn inp(&mut self, reg: u16) -> u8 {
        self.dev.pio().unwrap().read(0x3f0 + reg, 1) as u8
    }
    /// Gives a command and takes its result.
    fn run(&mut self, bytes: &[u8]) -> Vec<u8> {
        for byte in bytes {
            assert_eq!(self.inp(4) & 0xc0, 0x80);
            self.out(5, *byte);
        }
        self.result()
    }
    fn result(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while self.inp(4) & 0xf0 == 0xd0 {
            all.push(self.inp(5));
        }
        all
    }
    fn seek(&mut self, track: u8) {
        self.run(&[0x0f, 0, track]);
        assert_eq!(self.run(&[8]), [0x20, track]);
    }
}

#[test]
fn commands_without_data() {
    let mut b = Bench::new(1_474_560);
    assert_eq!(b.run(&[0x10]), [0x90]);
    assert_eq!(b.run(&[0x1f]), [0x80]);
    assert_eq!(b.run(&[8]), [0x80], "nothing to sense");
    b.run(&[0x03, 0xdf, 0x02]);
    b.run(&[0x13, 0, 0x57, 0]);
    assert_eq!(b.run(&[0x94]), [0x10]);
    assert_eq!(b.run(&[0x0e]), [0, 0, 0, 0, 0xdf, 2, 0, 0x80, 0x57, 0]);
    assert_eq!(b.inp(7), 0x80, "the medium is new");
    b.seek(7);
    assert_eq!(b.inp(7), 0);
    b.run(&[0x07, 0]);
    assert_eq!(b.run(&[8]), [0x20, 0]);
    assert_eq!(b.run(&[0x04, 0]), [0x38]);
    b.run(&[0x07, 1]);
    assert_eq!(b.run(&[8]), [0x71, 0], "no second drive");
    // Polling off (0x10 in CONFIGURE, kept by LOCK): a reset makes no interrupt.
    b.out(4, 0x80);
    assert_eq!(b.run(&[8]), [0x80]);
}

#[test]
fn reads_and_writes_by_dma() {
    let mut b = Bench::new(1_474_560);
    b.seek(3);
    // Multi-track over the end of head 0.
    b.dma.program(vec![0; 4 * 512]);
    let result = b.run(&[0xe6, 0, 3, 0, 17, 2, 18, 0x1b, 0xff]);
    assert_eq!(result, [0x04, 0, 0, 3, 1, 3, 2]);
    let at = (3 * 36 + 16) * 512;
    assert_eq!(b.dma.0.lock().0, b.medium.lock().data[at..at + 2048]);
    b.dma.program(vec![0xee; 512]);
    let result = b.run(&[0xc5, 4, 3, 1, 18, 2, 18, 0x1b, 0xff]);
    assert_eq!(result, [0, 0, 0, 4, 0, 1, 2]);
    let at = (3 * 36 + 35) * 512;
    assert_eq!(b.medium.lock().data[at..at + 512], [0xee; 512]);
    // Wrong cylinder, missing sector, no DMA programmed.
    assert_eq!(
        b.run(&[0xe6, 0, 5, 0, 1, 2, 18, 0x1b, 0xff])[1..3],
        [4, 0x10]
    );
    assert_eq!(
        b.run(&[0xe6, 0, 3, 0, 19, 2, 19, 0x1b, 0xff])[..2],
        [0x40, 4]
    );
    b.dma.program(Vec::new());
    assert_eq!(
        b.run(&[0xe6, 0, 3, 0, 1, 2, 18, 0x1b, 0xff])[..2],
        [0x40, 0x10]
    );
}

#[test]
fn reads_and_writes_by_programmed_io() {
    let mut b = Bench::new(737_280);
    b.out(7, 2);
    b.run(&[0x03, 0xdf, 0x03]);
    b.seek(0);
    for byte in [0x46, 0, 0, 0, 2, 2, 3, 0x1b, 0xff] {
        b.out(5, byte);
    }
    let mut got = Vec::new();
    while b.inp(4) & 0xf0 == 0xf0 {
        got.push(b.inp(5));
    }
    assert_eq!(got, b.medium.lock().data[512..1536]);
    assert_eq!(
        b.result()[..3],
        [0x40, 0x80, 0],
        "end of track without terminal count"
    );
    for byte in [0x45, 0, 0, 0, 1, 2, 1, 0x1b, 0xff] {
        b.out(5, byte);
    }
    for _ in 0..512 {
        assert_eq!(b.inp(4), 0xb0);
        b.out(5, 0x42);
    }
    assert_eq!(b.result().len(), 7);
    assert_eq!(b.medium.lock().data[..512], [0x42; 512]);
}

#[test]
fn media_are_told_by_rate_and_formatted() {
    let mut b = Bench::new(737_280);
    assert_eq!(b.run(&[0x4a, 0])[..2], [0x40, 1], "500 kbit/s");
    b.out(7, 2);
    assert_eq!(b.run(&[0x4a, 4]), [4, 0, 0, 0, 1, 1, 2]);
    b.seek(1);
    let ids: Vec<u8> = (1..=9).flat_map(|r| [1, 0, r, 2]).collect();
    b.dma.program(ids);
    assert_eq!(b.run(&[0x4d, 0, 2, 9, 0x1b, 0xf6])[0], 0);
    let track = 18 * 512;
    assert_eq!(
        b.medium.lock().data[track..track + 9 * 512],
        [0xf6; 9 * 512]
    );
    let new = Image(Arc::new(Mutex::new(Medium {
        data: vec![0; 1_474_560],
        full: false,
    })));
    assert!(
        b.dev
            .media()
            .unwrap()
            .change_medium(0, Box::new(new), false)
            .is_ok()
    );
    assert_eq!(b.inp(7), 0x80);
}

#[test]
fn a_full_host_disk_keeps_the_write_and_state_survives() {
    let mut b = Bench::new(1_474_560);
    b.seek(0);
    b.medium.lock().full = true;
    b.dma.program(vec![0x11; 1024]);
    for byte in [0xc5, 0, 0, 0, 1, 2, 18, 0x1b, 0xff] {
        b.out(5, byte);
    }
    assert_eq!(b.inp(4), 0x10, "busy");
    let requests = b.host.recorder.requests.lock().clone();
    assert!(matches!(&requests[..], [VmRequest::Suspend(m)] if m.contains("floppy.img")));
    let saved = b.dev.save().unwrap();
    let mut fresh = Bench::new(1_474_560);
    fresh.dev.load(1, &saved).unwrap();
    assert_eq!(fresh.dev.save().unwrap(), saved);
    fresh.dma.program(vec![0x11; 512]);
    fresh.dev.resume();
    assert_eq!(fresh.result()[0], 0);
    assert_eq!(fresh.medium.lock().data[..1024], [0x11; 1024]);
    fresh.dev.reset();
    let mut text = String::new();
    fresh.dev.info("", &mut text).unwrap();
    assert!(text.contains("drive 1: none"), "{text}");
}
