use std::sync::Arc;

use parking_lot::Mutex;
use pdm::cfgm::Node;
use pdm::driver::{BlockDriver, BlockError, DriveKind, Identity};
use pdm::testing::TestHost;
use pdm::{Device, VmRequest};

use super::REG;

#[derive(Default)]
struct Medium {
    data: Vec<u8>,
    full: bool,
    flushes: u32,
    discarded: Vec<(u64, u64)>,
    locked: bool,
}

#[derive(Clone)]
struct Image {
    medium: Arc<Mutex<Medium>>,
    kind: DriveKind,
    present: bool,
}

impl Image {
    fn new(kind: DriveKind, size: usize) -> Self {
        let data = (0..size).map(|i| (i / 512 * 7 + i % 512) as u8).collect();
        Self {
            medium: Arc::new(Mutex::new(Medium {
                data,
                ..Medium::default()
            })),
            kind,
            present: true,
        }
    }
}

impl BlockDriver for Image {
    fn present(&self) -> bool {
        self.present
    }
    fn size(&self) -> u64 {
        if self.present {
            self.medium.lock().data.len() as u64
        } else {
            0
        }
    }
    fn read_only(&self) -> bool {
        self.kind == DriveKind::Dvd
    }
    fn kind(&self) -> DriveKind {
        self.kind
    }
    fn identity(&self) -> Identity {
        Identity {
            discard: true,
            ..Identity::default()
        }
    }
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        let medium = self.medium.lock();
        let at = offset as usize;
        let from = medium
            .data
            .get(at..at + data.len())
            .ok_or(BlockError::OutOfRange)?;
        data.copy_from_slice(from);
        Ok(())
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let mut medium = self.medium.lock();
        if medium.full {
            return Err(BlockError::DiskFull("disk.vdi".into()));
        }
        let at = offset as usize;
        let to = medium
            .data
            .get_mut(at..at + data.len())
            .ok_or(BlockError::OutOfRange)?;
        to.copy_from_slice(data);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        self.medium.lock().flushes += 1;
        Ok(())
    }
    fn discard(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.medium.lock().discarded.push((offset, len));
        Ok(())
    }
    fn set_locked(&mut self, locked: bool) {
        self.medium.lock().locked = locked;
    }
    fn eject(&mut self) -> bool {
        self.present = false;
        true
    }
}

struct Bench {
    dev: Box<dyn Device>,
    host: TestHost,
    disk: Arc<Mutex<Medium>>,
    cd: Arc<Mutex<Medium>>,
}

const BM: u16 = 0xc000;

impl Bench {
    /// A disk as primary master, a CD as secondary master.
    fn new() -> Self {
        let mut host = TestHost::default();
        let disk = Image::new(DriveKind::Disk, 8 << 20);
        let cd = Image::new(DriveKind::Dvd, 1 << 20);
        let (d, c) = (disk.medium.clone(), cd.medium.clone());
        host.blocks.insert(0, Box::new(disk));
        host.blocks.insert(2, Box::new(cd));
        let mut dev = (REG.construct)(&Node::default(), 0, &mut host).unwrap();
        dev.pci().unwrap().bar_moved(4, Some(BM.into()));
        Self {
            dev,
            host,
            disk: d,
            cd: c,
        }
    }

    fn out(&mut self, port: u16, value: u8) {
        self.dev.pio().unwrap().write(port, 1, value.into());
    }
    fn inp(&mut self, port: u16) -> u8 {
        self.dev.pio().unwrap().read(port, 1) as u8
    }
    fn data(&mut self, base: u16, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.dev.pio().unwrap().read_string(base, 2, &mut data);
        data
    }
    /// Command on the primary master with a 28-bit address.
    fn command(&mut self, lba: u32, count: u8, command: u8) -> u8 {
        let b = lba.to_le_bytes();
        for (r, v) in [
            (2, count),
            (3, b[0]),
            (4, b[1]),
            (5, b[2]),
            (6, 0xe0 | b[3]),
            (7, command),
        ] {
            self.out(0x1f0 + r, v);
        }
        self.inp(0x1f7)
    }
    /// The same with 48 bits.
    fn command_ext(&mut self, lba: u64, count: u16, command: u8) -> u8 {
        let b = lba.to_le_bytes();
        let n = count.to_le_bytes();
        for (r, v) in [(2, n[1]), (3, b[3]), (4, b[4]), (5, b[5])] {
            self.out(0x1f0 + r, v);
        }
        for (r, v) in [
            (2, n[0]),
            (3, b[0]),
            (4, b[1]),
            (5, b[2]),
            (6, 0x40),
            (7, command),
        ] {
            self.out(0x1f0 + r, v);
        }
        self.inp(0x1f7)
    }
    fn prd(&mut self, entries: &[(u32, u16)]) {
        for (i, (at, n)) in entries.iter().enumerate() {
            let mut e = at.to_le_bytes().to_vec();
            e.extend(n.to_le_bytes());
            let last = i + 1 == entries.len();
            e.extend([0, if last { 0x80 } else { 0 }]);
            self.host.phys.write(0x1000 + i as u64 * 8, &e);
        }
    }
    fn bus_master(&mut self, channel: u16, to_memory: bool) {
        let base = BM + channel * 8;
        self.out(base + 2, 6);
        self.dev.pio().unwrap().write(base + 4, 4, 0x1000);
        self.out(base, if to_memory { 8 } else { 0 });
        self.out(base, if to_memory { 9 } else { 1 });
    }
    /// Packet command on the secondary master by programmed I/O; `None` on an error.
    fn packet(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        self.out(0x176, 0);
        self.out(0x171, 0);
        self.out(0x174, 0x00);
        self.out(0x175, 0x08);
        self.out(0x177, 0xa0);
        assert_eq!((self.inp(0x177) & 8, self.inp(0x172)), (8, 1));
        let mut p = packet.to_vec();
        p.resize(12, 0);
        self.dev.pio().unwrap().write_string(0x170, 2, &p);
        let mut all = Vec::new();
        loop {
            let status = self.inp(0x177);
            if status & 8 == 0 {
                assert_eq!(self.inp(0x172), 3);
                return (status & 1 == 0).then_some(all);
            }
            assert_eq!(self.inp(0x172), 2);
            let n = usize::from(self.inp(0x174)) | usize::from(self.inp(0x175)) << 8;
            assert!(n <= 0x800);
            all.extend(self.data(0x170, n));
        }
    }
    fn sense(&mut self) -> (u8, u8) {
        let s = self.packet(&[3, 0, 0, 0, 18]).unwrap();
        (s[2], s[12])
    }
}

fn word(data: &[u8], n: usize) -> u16 {
    u16::from_le_bytes([data[2 * n], data[2 * n + 1]])
}

#[test]
fn identify_tells_geometry_and_sums_to_zero() {
    let mut b = Bench::new();
    assert_eq!(b.command(0, 0, 0xec), 0x58);
    let id = b.data(0x1f0, 512);
    assert_eq!((word(&id, 1), word(&id, 3), word(&id, 6)), (16, 16, 63));
    assert_eq!(word(&id, 60), 16384);
    assert_eq!(word(&id, 100), 16384);
    assert_eq!(&id[54..68], b"BVXOH RADDSI K");
    assert_eq!(id.iter().fold(0u8, |a, x| a.wrapping_add(*x)), 0);
    assert_eq!(b.inp(0x1f7), 0x50);
    b.out(0x176, 0);
    b.out(0x177, 0xec);
    assert_eq!(b.inp(0x177) & 1, 1);
    assert_eq!((b.inp(0x174), b.inp(0x175)), (0x14, 0xeb));
    b.out(0x177, 0xa1);
    let id = b.data(0x170, 512);
    assert_eq!(word(&id, 0), 0x85c0);
}

#[test]
fn absent_drives_are_seen_as_absent() {
    let mut b = Bench::new();
    b.out(0x1f6, 0xb0);
    assert_eq!(b.inp(0x1f7), 0);
    b.out(0x1f7, 0xec);
    assert_eq!(b.inp(0x1f7), 0);
    let mut empty = (REG.construct)(&Node::default(), 0, &mut TestHost::default()).unwrap();
    assert_eq!(empty.pio().unwrap().read(0x1f7, 1), 0x7f);
}

#[test]
fn sectors_by_programmed_io_with_an_interrupt_each() {
    let mut b = Bench::new();
    assert_eq!(b.command(5, 3, 0x20), 0x58);
    let got = b.data(0x1f0, 3 * 512);
    assert_eq!(got, b.disk.lock().data[5 * 512..8 * 512]);
    assert_eq!(b.inp(0x1f7), 0x50);
    assert_eq!(b.command(9, 2, 0x30), 0x58);
    b.dev.pio().unwrap().write_string(0x1f0, 2, &[0xab; 1024]);
    assert_eq!(b.inp(0x1f7), 0x50);
    assert_eq!(b.disk.lock().data[9 * 512..11 * 512], [0xab; 1024]);
    // Multiple mode must be set first.
    assert_eq!(b.command(0, 4, 0xc4) & 1, 1);
    assert_eq!(b.command(0, 4, 0xc6), 0x50);
    assert_eq!(b.command(0, 5, 0xc4), 0x58);
    assert_eq!(b.data(0x1f0, 5 * 512), b.disk.lock().data[..5 * 512]);
    // 48-bit, CHS and out of range.
    assert_eq!(b.command_ext(100, 1, 0x24), 0x58);
    assert_eq!(b.data(0x1f0, 512), b.disk.lock().data[51200..51712]);
    for (r, v) in [(2, 1), (3, 2), (4, 0), (5, 0), (6, 0xa1), (7, 0x20)] {
        b.out(0x1f0 + r, v);
    }
    assert_eq!(b.data(0x1f0, 512), b.disk.lock().data[64 * 512..65 * 512]);
    assert_eq!(b.command(16383, 2, 0x20), 0x51);
    assert_eq!(b.inp(0x1f1), 0x10);
}

#[test]
fn dma_moves_along_the_region_table() {
    let mut b = Bench::new();
    b.prd(&[(0x2000, 1000), (0x8000, 24 + 512)]);
    assert_eq!(b.command_ext(7, 3, 0x25) & 8, 8);
    b.bus_master(0, true);
    assert_eq!(b.inp(BM + 2) & 7, 4);
    assert_eq!(b.inp(0x1f7), 0x50);
    let mut got = vec![0; 1536];
    b.host.phys.read(0x2000, &mut got[..1000]);
    b.host.phys.read(0x8000, &mut got[1000..]);
    assert_eq!(got, b.disk.lock().data[7 * 512..10 * 512]);
    // Writing, with the engine started before the command.
    b.prd(&[(0x2000, 0)]);
    b.out(BM, 0);
    b.bus_master(0, false);
    b.host.phys.write(0x2000, &[0x5c; 65536]);
    assert_eq!(b.command(200, 128, 0xca), 0x50);
    assert_eq!(b.disk.lock().data[200 * 512..328 * 512], [0x5c; 65536]);
    // A table that is too short.
    b.prd(&[(0x2000, 512)]);
    b.command(0, 2, 0xc8);
    b.out(BM, 0);
    b.bus_master(0, true);
    assert_eq!(b.inp(0x1f7) & 1, 1);
    // TRIM.
    b.prd(&[(0x3000, 512)]);
    b.host.phys.write(0x3000, &[0; 512]);
    b.host.phys.write(0x3000, &(10u64 | 4 << 48).to_le_bytes());
    b.out(0x1f1, 1);
    b.command_ext(0, 1, 0x06);
    b.out(BM, 0);
    b.bus_master(0, false);
    assert_eq!(b.inp(0x1f7), 0x50);
    assert_eq!(b.disk.lock().discarded, [(5120, 2048)]);
}

#[test]
fn interrupts_obey_nien_and_selection() {
    let mut b = Bench::new();
    b.command(0, 0, 0xe7);
    assert_eq!(b.disk.lock().flushes, 1);
    b.out(0x3f6, 2);
    b.out(0x1f7, 0xe7);
    b.out(BM + 2, 4);
    assert_eq!(b.inp(BM + 2) & 4, 0);
    b.out(0x3f6, 0);
    assert_eq!(
        b.inp(BM + 2) & 4,
        4,
        "the pending interrupt shows when enabled"
    );
    assert_eq!(b.inp(0x3f6), 0x50, "alternate status does not acknowledge");
    b.out(0x3f6, 4);
    assert_eq!(b.inp(0x3f6), 0x80);
    b.out(0x3f6, 0);
    assert_eq!(
        (b.inp(0x1f7), b.inp(0x1f1), b.inp(0x1f2), b.inp(0x1f3)),
        (0x50, 1, 1, 1)
    );
}

#[test]
fn a_full_host_disk_keeps_the_write_until_resumed() {
    for dma in [false, true] {
        let mut b = Bench::new();
        b.disk.lock().full = true;
        if dma {
            b.prd(&[(0x2000, 512)]);
            b.host.phys.write(0x2000, &[0x77; 512]);
            b.command(3, 1, 0xca);
            b.bus_master(0, false);
        } else {
            b.command(3, 1, 0x30);
            b.dev.pio().unwrap().write_string(0x1f0, 2, &[0x77; 512]);
        }
        assert_eq!(b.inp(0x3f6), 0x80);
        let requests = b.host.recorder.requests.lock().clone();
        assert!(
            matches!(&requests[..], [VmRequest::Suspend(m)] if m.contains("DrvVD_DISKFULL") && m.contains("disk.vdi"))
        );
        let saved = b.dev.save().unwrap();
        let mut fresh = Bench::new();
        fresh.host.phys.write(0x2000, &[0x77; 512]);
        fresh.prd(&[(0x2000, 512)]);
        fresh.dev.load(1, &saved).unwrap();
        fresh.dev.resume();
        assert_eq!(fresh.inp(0x1f7), 0x50, "dma {dma}");
        assert_eq!(fresh.disk.lock().data[3 * 512..4 * 512], [0x77; 512]);
    }
}

#[test]
fn smart_data_as_smartctl_reads_it() {
    let mut b = Bench::new();
    let smart = |b: &mut Bench, sub: u8, low: u8| {
        b.out(0x1f1, sub);
        b.command(0xc24f00 | u32::from(low), 1, 0xb0)
    };
    assert_eq!(smart(&mut b, 0xda, 0), 0x50);
    assert_eq!((b.inp(0x1f4), b.inp(0x1f5)), (0x4f, 0xc2));
    assert_eq!(smart(&mut b, 0xd4, 1), 0x50);
    for (sub, low) in [(0xd0, 0), (0xd1, 0), (0xd5, 1), (0xd5, 6)] {
        assert_eq!(smart(&mut b, sub, low), 0x58, "{sub:x}");
        let data = b.data(0x1f0, 512);
        assert_eq!(data.iter().fold(0u8, |a, x| a.wrapping_add(*x)), 0);
    }
    assert_eq!(smart(&mut b, 0xd9, 0), 0x50);
    assert_eq!(smart(&mut b, 0xd0, 0), 0x51);
    b.out(0x1f1, 0xd8);
    assert_eq!(b.command(0, 1, 0xb0), 0x51, "without the key");
}

#[test]
fn cd_commands() {
    let mut b = Bench::new();
    assert_eq!((b.inp(0x174), b.inp(0x175)), (0x14, 0xeb));
    assert_eq!(b.packet(&[0]).unwrap(), []);
    let inquiry = b.packet(&[0x12, 0, 0, 0, 36]).unwrap();
    assert_eq!((inquiry[0], inquiry.len()), (5, 36));
    assert_eq!(b.packet(&[0x25]).unwrap(), [0, 0, 1, 0xff, 0, 0, 8, 0]);
    let read = b.packet(&[0x28, 0, 0, 0, 0, 3, 0, 0, 20]).unwrap();
    assert_eq!(read, b.cd.lock().data[3 * 2048..23 * 2048]);
    let raw = b.packet(&[0xbe, 0, 0, 0, 0, 3, 0, 0, 1, 0xf8]).unwrap();
    assert_eq!(raw[12..16], [0, 2, 3, 1]);
    assert_eq!(raw[16..2064], read[..2048]);
    assert_eq!(b.packet(&[0x28, 0, 0, 0, 2, 0, 0, 0, 1]), None);
    assert_eq!(b.sense(), (5, 0x21));
    assert_eq!(b.sense(), (0, 0));
    let toc = b.packet(&[0x43, 0, 0, 0, 0, 0, 0, 0, 255]).unwrap();
    assert_eq!(
        toc,
        [
            0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 2, 0
        ]
    );
    assert_eq!(
        b.packet(&[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 28]).unwrap().len(),
        28
    );
    let config = b.packet(&[0x46, 0, 0, 0, 0, 0, 0, 0, 64]).unwrap();
    assert_eq!(config[6..8], [0, 8]);
    for p in [[0x51, 34], [0x52, 36]] {
        assert_eq!(
            b.packet(&[p[0], 0, 0, 0, 0, 0, 0, 0, p[1]]).unwrap().len(),
            p[1] as usize
        );
    }
    assert_eq!(
        b.packet(&[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8]).unwrap().len(),
        8
    );
    assert_eq!(b.packet(&[0xff]), None);
    assert_eq!(b.sense(), (5, 0x20));
}

#[test]
fn cd_by_dma() {
    let mut b = Bench::new();
    b.prd(&[(0x2_0000, 40960)]);
    b.out(0x176, 0);
    b.out(0x171, 1);
    b.out(0x177, 0xa0);
    let p = [0x28, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0];
    b.dev.pio().unwrap().write_string(0x170, 2, &p);
    b.bus_master(1, true);
    assert_eq!(b.inp(BM + 10) & 7, 4);
    assert_eq!((b.inp(0x177), b.inp(0x172)), (0x50, 3));
    let mut got = vec![0; 40960];
    b.host.phys.read(0x2_0000, &mut got);
    assert_eq!(got, b.cd.lock().data[2048..21 * 2048]);
}

#[test]
fn changing_media_is_announced() {
    let mut b = Bench::new();
    b.packet(&[0x1e, 0, 0, 0, 1]).unwrap();
    assert!(b.cd.lock().locked);
    let new = || Box::new(Image::new(DriveKind::Dvd, 4096)) as Box<dyn BlockDriver>;
    assert!(
        b.dev
            .media()
            .unwrap()
            .change_medium(2, new(), false)
            .is_err()
    );
    assert!(
        b.dev
            .media()
            .unwrap()
            .change_medium(0, new(), true)
            .is_err()
    );
    let event = b.packet(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]).unwrap();
    assert_eq!(event[4] & 0xf, 1, "eject request");
    assert!(b.dev.media().unwrap().change_medium(2, new(), true).is_ok());
    assert_eq!(b.packet(&[0]), None);
    assert_eq!(b.sense(), (2, 0x3a));
    assert_eq!(b.packet(&[0]), None);
    assert_eq!(b.sense(), (6, 0x28));
    assert!(b.packet(&[0]).is_some());
    assert_eq!(b.packet(&[0x25]).unwrap()[3], 1);
    b.packet(&[0x1e, 0, 0, 0, 0]).unwrap();
    b.packet(&[0x1b, 0, 0, 0, 2]).unwrap();
    assert_eq!(b.packet(&[0]), None);
    assert_eq!(b.sense(), (2, 0x3a));
}

#[test]
fn state_survives_saving_in_the_middle_of_work() {
    let mut b = Bench::new();
    b.command(5, 3, 0x20);
    b.data(0x1f0, 700);
    b.out(0x176, 0);
    b.out(0x174, 0);
    b.out(0x175, 8);
    b.out(0x177, 0xa0);
    let p = [0x28, 0, 0, 0, 0, 3, 0, 0, 20, 0, 0, 0];
    b.dev.pio().unwrap().write_string(0x170, 2, &p);
    b.data(0x170, 3000);
    let data = b.dev.save().unwrap();
    let mut fresh = Bench::new();
    fresh.dev.load(1, &data).unwrap();
    assert_eq!(fresh.dev.save().unwrap(), data);
    let rest = fresh.data(0x1f0, 3 * 512 - 700);
    assert_eq!(rest, b.disk.lock().data[5 * 512 + 700..8 * 512]);
    assert_eq!(
        fresh.data(0x170, 100),
        b.cd.lock().data[3 * 2048 + 3000..][..100]
    );
    fresh.dev.reset();
    let mut text = String::new();
    fresh.dev.info("", &mut text).unwrap();
    assert!(text.contains("drive 0: Disk"), "{text}");
}
