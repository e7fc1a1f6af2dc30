use pdm::cfgm::Node;
use pdm::testing::TestHost;
use pdm::{Device, Error};

use super::{REG, REGION_REGISTERS, REGION_WINDOW};

struct Bench {
    dev: Box<dyn Device>,
    host: TestHost,
}

impl Bench {
    fn new() -> Self {
        let mut host = TestHost::default();
        let mut node = Node::default();
        node.set("VRamSize", 4u64 << 20);
        let dev = (REG.construct)(&node, 0, &mut host).unwrap();
        Self { dev, host }
    }

    fn out(&mut self, port: u16, value: u8) {
        self.dev.pio().unwrap().write(port, 1, value.into());
    }
    fn out16(&mut self, port: u16, value: u16) {
        self.dev.pio().unwrap().write(port, 2, value.into());
    }
    fn inp(&mut self, port: u16) -> u8 {
        self.dev.pio().unwrap().read(port, 1) as u8
    }
    fn vbe(&mut self, index: u16, value: u16) {
        self.out16(0x1ce, index);
        self.out16(0x1cf, value);
    }
    fn vbe_read(&mut self, index: u16) -> u16 {
        self.out16(0x1ce, index);
        self.dev.pio().unwrap().read(0x1cf, 2) as u16
    }
    /// Through the address space where memory is mapped, else through the device, as a CPU would.
    fn poke(&mut self, gpa: u64, data: &[u8]) {
        if let pgm::Target::Ram(at) = self.host.phys.lookup(gpa).write
            && self.direct()
        {
            return self.host.phys.ram().write(at, data);
        }
        let mmio = self.dev.mmio().unwrap();
        mmio.write(0, REGION_WINDOW, gpa - 0xa_0000, data);
    }
    fn peek(&mut self, gpa: u64) -> u8 {
        let mut byte = [0];
        if self.direct() {
            self.host.phys.read(gpa, &mut byte);
        } else {
            let mmio = self.dev.mmio().unwrap();
            mmio.read(0, REGION_WINDOW, gpa - 0xa_0000, &mut byte);
        }
        byte[0]
    }
    fn direct(&self) -> bool {
        let mut text = String::new();
        self.dev.info("", &mut text).unwrap();
        text.contains("window memory")
    }

    /// Sets a mode from the values of IBM's tables.
    fn mode(&mut self, misc: u8, seq: [u8; 5], crtc: [u8; 25], gfx: [u8; 9], attr10: u8) {
        self.out(0x3c2, misc);
        for (i, v) in seq.iter().enumerate() {
            self.out16(0x3c4, i as u16 | u16::from(*v) << 8);
        }
        self.out16(0x3d4, 0x0011);
        for (i, v) in crtc.iter().enumerate() {
            self.out16(0x3d4, i as u16 | u16::from(*v) << 8);
        }
        for (i, v) in gfx.iter().enumerate() {
            self.out16(0x3ce, i as u16 | u16::from(*v) << 8);
        }
        self.inp(0x3da);
        for i in 0..16 {
            self.out(0x3c0, i);
            self.out(0x3c0, i);
        }
        for (i, v) in [
            (0x10, attr10),
            (0x11, 0),
            (0x12, 15),
            (0x13, if attr10 & 4 != 0 { 8 } else { 0 }),
        ] {
            self.out(0x3c0, i);
            self.out(0x3c0, v);
        }
        self.out(0x3c0, 0x20);
        self.out(0x3c8, 0);
        for i in 0..=255u8 {
            for part in [i, i / 2, i / 4] {
                self.out(0x3c9, part & 63);
            }
        }
    }

    fn text_mode(&mut self) {
        self.mode(
            0x67,
            [3, 0, 3, 0, 2],
            [
                0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0,
                0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
            ],
            [0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff],
            0x0c,
        );
    }

    fn mode_12h(&mut self) {
        self.mode(
            0xe3,
            [3, 1, 0x0f, 0, 6],
            [
                0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0, 0x40, 0, 0, 0, 0, 0, 0, 0xea,
                0x8c, 0xdf, 0x28, 0, 0xe7, 0x04, 0xe3, 0xff,
            ],
            [0, 0, 0, 0, 0, 0, 5, 0x0f, 0xff],
            1,
        );
    }

    fn mode_13h(&mut self) {
        self.mode(
            0x63,
            [3, 1, 0x0f, 0, 0x0e],
            [
                0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0, 0x41, 0, 0, 0, 0, 0, 0, 0x9c,
                0x8e, 0x8f, 0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff,
            ],
            [0, 0, 0, 0, 0, 0x40, 5, 0x0f, 0xff],
            0x41,
        );
    }
}

fn dac(i: u8) -> u32 {
    let wide = |v: u8| u32::from(v & 63) << 2 | u32::from(v & 63) >> 4;
    wide(i) << 16 | wide(i / 2) << 8 | wide(i / 4)
}

#[test]
fn text_with_font_attributes_and_cursor() {
    let mut b = Bench::new();
    b.text_mode();
    // A font: glyph of 'A' with its left and right columns set, loaded as a BIOS does.
    b.out16(0x3c4, 0x0402);
    b.out16(0x3c4, 0x0604);
    b.out16(0x3ce, 0x0005);
    b.out16(0x3ce, 0x0406);
    b.poke(0xa_0000 + 0x41 * 32, &[0x81; 16]);
    b.text_mode();
    b.poke(0xb_8000, b"A\x1e");
    b.poke(0xb_8000 + 162, &[0xc9, 7]);
    assert_eq!((b.peek(0xb_8000), b.peek(0xb_8001)), (b'A', 0x1e));
    b.out16(0x3d4, 0x500f);
    b.out16(0x3d4, 0x000e);
    let screen = b.dev.display().unwrap().text().unwrap();
    assert_eq!((screen.columns, screen.rows.len()), (80, 25));
    assert_eq!(screen.rows[0], "A");
    assert_eq!(screen.rows[1], " ╔");
    let frame = b.dev.display().unwrap().frame();
    assert_eq!((frame.width, frame.height), (720, 400));
    assert_eq!(frame.pixels[..9], [14, 1, 1, 1, 1, 1, 1, 14, 1].map(dac));
    let cursor = (16 + 13) * 720;
    assert_eq!(
        frame.pixels[cursor],
        dac(0),
        "attribute 0: cursor in its own foreground"
    );
    assert_eq!(b.dev.display().unwrap().mode(), (720, 400, 0));
}

#[test]
fn planar_write_and_read_modes() {
    let mut b = Bench::new();
    b.mode_12h();
    // Write mode 2 puts a colour.
    b.out16(0x3ce, 0x0205);
    b.poke(0xa_0000, &[0x05]);
    let frame = b.dev.display().unwrap().frame();
    assert_eq!((frame.width, frame.height), (640, 480));
    assert_eq!(frame.pixels[..8], [dac(5); 8]);
    // Write mode 0 with set/reset and bit mask changes one pixel after a latch load.
    b.out16(0x3ce, 0x0005);
    b.out16(0x3ce, 0x0a00);
    b.out16(0x3ce, 0x0f01);
    b.out16(0x3ce, 0x8008);
    b.peek(0xa_0000);
    b.poke(0xa_0000, &[0]);
    let frame = b.dev.display().unwrap().frame();
    assert_eq!((frame.pixels[0], frame.pixels[1]), (dac(10), dac(5)));
    // Read mode 1 finds it.
    b.out16(0x3ce, 0x0805);
    b.out16(0x3ce, 0x0a02);
    b.out16(0x3ce, 0x0f07);
    assert_eq!(b.peek(0xa_0000), 0x80);
    // Write mode 1 copies latches, XOR inverts.
    b.out16(0x3ce, 0x0105);
    b.poke(0xa_0050, &[0]);
    b.out16(0x3ce, 0x0205);
    b.out16(0x3ce, 0x1803);
    b.out16(0x3ce, 0xff08);
    b.peek(0xa_0050);
    b.poke(0xa_0050, &[0x0f]);
    let frame = b.dev.display().unwrap().frame();
    assert_eq!((frame.pixels[640], frame.pixels[641]), (dac(5), dac(10)));
    // Write mode 3: the data is a mask.
    b.out16(0x3ce, 0x0003);
    b.out16(0x3ce, 0x0700);
    b.out16(0x3ce, 0x0305);
    b.peek(0xa_0051);
    b.poke(0xa_0051, &[0x0f]);
    let frame = b.dev.display().unwrap().frame();
    assert_eq!(
        (frame.pixels[640 + 8], frame.pixels[640 + 15]),
        (dac(0), dac(7))
    );
}

#[test]
fn chain_4_is_mapped_as_memory_and_mode_x_is_not() {
    let mut b = Bench::new();
    b.mode_13h();
    assert!(b.direct());
    b.poke(0xa_0000, &[1, 2, 3, 4, 5]);
    b.poke(0xa_0000 + 320, &[9]);
    let frame = b.dev.display().unwrap().frame();
    assert_eq!((frame.width, frame.height), (640, 400));
    assert_eq!(frame.pixels[..6], [1, 1, 2, 2, 3, 3].map(dac));
    assert_eq!(frame.pixels[640 * 2], dac(9));
    // Mode X: planes by the map mask.
    b.out16(0x3c4, 0x0604);
    assert!(!b.direct());
    b.out16(0x3c4, 0x0202);
    b.poke(0xa_0000, &[77]);
    let frame = b.dev.display().unwrap().frame();
    assert_eq!(frame.pixels[..6], [1, 1, 77, 77, 3, 3].map(dac));
    assert!(b.dev.display().unwrap().text().is_none());
}

#[test]
fn dispi_modes_banks_and_virtual_screens() {
    let mut b = Bench::new();
    for id in 0xb0c0..=0xb0c5 {
        b.vbe(0, id);
        assert_eq!(b.vbe_read(0), id);
    }
    b.vbe(0, 0xbeef);
    assert_eq!(b.vbe_read(0), 0xb0c5);
    assert_eq!(b.vbe_read(10), 64);
    b.vbe(4, 2);
    assert!(b.vbe_read(1) >= 1600);
    b.vbe(4, 0);
    for (bpp, pixel, shown) in [
        (32, vec![3, 2, 1, 0], 0x010203),
        (24, vec![3, 2, 1], 0x010203),
        (16, vec![0x1f, 0xf8], 0xff00ff),
        (15, vec![0xe0, 0x03], 0x00ff00),
    ] {
        b.vbe(4, 0);
        b.vbe(1, 800);
        b.vbe(2, 600);
        b.vbe(3, bpp);
        b.vbe(4, 0x41);
        let bytes = u64::from(bpp).div_ceil(8);
        let at = 800 * bytes * 200 + 8 * bytes;
        b.vbe(5, (at >> 16) as u16);
        b.poke(0xa_0000 + (at & 0xffff), &pixel);
        let frame = b.dev.display().unwrap().frame();
        assert_eq!((frame.width, frame.height), (800, 600));
        assert_eq!(frame.pixels[800 * 200 + 8], shown, "{bpp}");
        assert_eq!(frame.pixels[0], 0, "cleared");
        b.vbe(9, 200);
        b.vbe(8, 8);
        assert_eq!(b.dev.display().unwrap().frame().pixels[0], shown);
    }
    b.vbe(6, 1024);
    assert_eq!(b.vbe_read(6), 1024);
    assert_eq!(b.vbe_read(7), 2048);
    b.vbe(4, 0);
    b.vbe(1, 4096);
    b.vbe(2, 4096);
    b.vbe(3, 32);
    b.vbe(4, 1);
    assert_eq!(b.vbe_read(4), 0, "does not fit");
}

#[test]
fn bars_show_memory_and_registers() {
    let mut b = Bench::new();
    let devfn = 2 << 3;
    let mut id = [0; 4];
    b.host.bus.read_config(0, devfn, 0, &mut id);
    assert_eq!(id, [0x34, 0x12, 0x11, 0x11]);
    let pci = b.dev.pci().unwrap();
    pci.bar_moved(0, Some(0xe000_0000));
    pci.bar_moved(2, Some(0xf000_0000));
    b.host.phys.write(0xe000_0000 + 5, &[0x42]);
    let mut byte = [0];
    b.host.phys.read(0xe000_0000 + 5, &mut byte);
    assert_eq!(byte, [0x42]);
    assert_eq!(*b.host.mmio_ranges[0].0.lock(), Some(0xf000_0000));
    let mmio = b.dev.mmio().unwrap();
    mmio.write(0, REGION_REGISTERS, 0x502, &640u16.to_le_bytes());
    let mut word = [0; 2];
    mmio.read(0, REGION_REGISTERS, 0x502, &mut word);
    assert_eq!(u16::from_le_bytes(word), 640);
    mmio.write(0, REGION_REGISTERS, 0x404, &[2]);
    mmio.write(0, REGION_REGISTERS, 0x405, &[0x0f]);
    assert_eq!(b.inp(0x3c5), 0x0f);
    b.dev.reset();
}

#[test]
fn retrace_follows_the_clock() {
    let mut b = Bench::new();
    b.text_mode();
    let mut seen = [false; 4];
    for _ in 0..2000 {
        b.host.clock.advance(10_000);
        let status = b.inp(0x3da);
        seen[usize::from(status & 1 | status >> 2 & 2)] = true;
    }
    assert_eq!(seen, [true, true, false, true]);
}

#[test]
fn state_survives_saving_in_the_middle_of_work() {
    let mut b = Bench::new();
    b.mode_12h();
    b.out(0x3c0, 0x31);
    b.out(0x3c7, 9);
    b.inp(0x3c9);
    b.vbe(1, 640);
    let data = b.dev.save().unwrap();
    let mut fresh = Bench::new();
    fresh.dev.load(1, &data).unwrap();
    assert_eq!(fresh.dev.save().unwrap(), data);
    assert_eq!(fresh.dev.display().unwrap().mode(), (640, 480, 4));
    assert!(fresh.dev.load(1, &data[1..]).is_err());
}

#[test]
fn a_missing_rom_names_the_package() {
    let mut node = Node::default();
    node.set("VgaRom", "/nonexistent/vgabios.bin");
    match (REG.construct)(&node, 0, &mut TestHost::default()) {
        Err(Error::File { what, reason }) => {
            assert_eq!(what, "/nonexistent/vgabios.bin");
            assert!(reason.contains("'seabios'"), "{reason}");
        }
        _ => panic!("expected a file error"),
    }
}
