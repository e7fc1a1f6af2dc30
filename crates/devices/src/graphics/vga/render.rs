//! Pictures out of registers and video RAM.
//!
//! A VGA mode gives the monitor's dots: 320x200 comes out as 640x400. DISPI modes give their
//! pixels.

use pdm::{Frame, TextScreen};

use super::cp437;
use super::dispi::Dispi;
use super::mem::Vram;
use super::regs::Regs;

/// What to draw from.
pub struct Source<'a> {
    pub regs: &'a Regs,
    pub dispi: &'a Dispi,
    pub vram: &'a Vram,
    /// Virtual time, for what blinks.
    pub now_ns: u64,
}

/// Size of a text mode.
struct Text {
    columns: u32,
    rows: u32,
    cell_width: u32,
    cell_height: u32,
    /// Dots per dot: 2 at half the dot clock.
    stretch: u32,
}

impl Source<'_> {
    /// Width, height and bits per pixel (0 for text).
    pub fn mode(&self) -> (u32, u32, u32) {
        if self.dispi.on() {
            let d = self.dispi;
            return (d.xres.into(), d.yres.into(), d.bpp.into());
        }
        if !self.regs.graphics() {
            let t = self.text_mode();
            return (
                t.columns * t.cell_width * t.stretch,
                t.rows * t.cell_height,
                0,
            );
        }
        let depth = match self.regs.gfx[5] & 0x60 {
            0 => 4,
            0x20 => 2,
            _ => 8,
        };
        let width = (u32::from(self.regs.crtc[1]) + 1) * 8 * self.stretch();
        (width, self.regs.lines(), depth)
    }

    fn stretch(&self) -> u32 {
        1 + u32::from(self.regs.seq[1] >> 3 & 1)
    }

    fn text_mode(&self) -> Text {
        let r = self.regs;
        let cell_height = u32::from(r.crtc[9] & 0x1f) + 1;
        Text {
            columns: u32::from(r.crtc[1]) + 1,
            rows: (r.lines() >> (r.crtc[9] >> 7))
                .div_ceil(cell_height)
                .min(256),
            cell_width: if r.seq[1] & 1 != 0 { 8 } else { 9 },
            cell_height,
            stretch: self.stretch(),
        }
    }

    /// DAC entry as 0x00RRGGBB.
    fn colour(&self, index: u8) -> u32 {
        let at = usize::from(index & self.regs.pel_mask) * 3;
        let wide = |v: u8| match self.dispi.wide_dac() {
            true => u32::from(v),
            false => u32::from(v & 0x3f) << 2 | u32::from(v & 0x3f) >> 4,
        };
        let dac = &self.regs.dac;
        wide(dac[at]) << 16 | wide(dac[at + 1]) << 8 | wide(dac[at + 2])
    }

    /// The sixteen colours of the attribute controller.
    fn palette16(&self) -> [u32; 16] {
        let a = &self.regs.attr;
        std::array::from_fn(|i| {
            let i = i & usize::from(a[0x12] & 0x0f);
            let index = if a[0x10] & 0x80 != 0 {
                a[i] & 0x0f | (a[0x14] & 3) << 4
            } else {
                a[i] & 0x3f
            };
            self.colour(index | (a[0x14] & 0x0c) << 4)
        })
    }

    fn palette256(&self) -> Vec<u32> {
        (0..=255).map(|i| self.colour(i)).collect()
    }

    /// The picture.
    pub fn frame(&self) -> Frame {
        let (width, height, _) = self.mode();
        let mut frame = Frame {
            width,
            height,
            pixels: vec![0; width as usize * height as usize],
        };
        if self.dispi.on() {
            self.draw_dispi(&mut frame);
        } else if !self.regs.screen_on() {
            // Blank: black.
        } else if self.regs.graphics() {
            self.draw_graphics(&mut frame);
        } else {
            self.draw_text(&mut frame);
        }
        frame
    }

    fn draw_dispi(&self, frame: &mut Frame) {
        let d = self.dispi;
        let (pitch, start) = (d.pitch(), d.start());
        let width = frame.width as usize;
        if d.bpp == 4 {
            let palette = self.palette16();
            for (y, line) in frame.pixels.chunks_exact_mut(width).enumerate() {
                let row = start.wrapping_add(pitch.wrapping_mul(y as u32));
                for (x, dots) in line.chunks_exact_mut(8).enumerate() {
                    planar_dots(self.vram.group(row.wrapping_add(x as u32)), &palette, dots);
                }
            }
            return;
        }
        let palette = if d.bpp == 8 {
            self.palette256()
        } else {
            Vec::new()
        };
        let bytes = usize::from(d.bpp.div_ceil(8));
        let mut raw = vec![0; width * bytes];
        for (y, line) in frame.pixels.chunks_exact_mut(width).enumerate() {
            self.vram
                .read(start.wrapping_add(pitch.wrapping_mul(y as u32)), &mut raw);
            for (out, p) in line.iter_mut().zip(raw.chunks_exact(bytes)) {
                *out = match d.bpp {
                    8 => palette[usize::from(p[0])],
                    15 => rgb(u16::from_le_bytes([p[0], p[1]]), 5),
                    16 => rgb(u16::from_le_bytes([p[0], p[1]]), 6),
                    _ => u32::from_le_bytes([p[0], p[1], p[2], 0]),
                };
            }
        }
    }

    fn draw_graphics(&self, frame: &mut Frame) {
        let r = self.regs;
        let stretch = self.stretch() as usize;
        let chars = usize::from(r.crtc[1]) + 1;
        let palette16 = self.palette16();
        let wide = r.gfx[5] & 0x40 != 0;
        let palette256 = if wide { self.palette256() } else { Vec::new() };
        let interleaved = r.gfx[5] & 0x20 != 0;
        // One character more than shown, for panning.
        let mut dots = vec![0; (chars + 1) * 8];
        let mut last = None;
        for (y, line) in frame
            .pixels
            .chunks_exact_mut(frame.width as usize)
            .enumerate()
        {
            let (address, pan) = self.line_address(y as u32);
            if last != Some(address) {
                for (x, out) in dots.chunks_exact_mut(8).enumerate() {
                    let group = self.vram.group(address.wrapping_add(x as u32));
                    if wide {
                        for (i, two) in out.chunks_exact_mut(2).enumerate() {
                            two.fill(palette256[(group >> (8 * i)) as usize & 0xff]);
                        }
                    } else if interleaved {
                        interleaved_dots(group, &palette16, out);
                    } else {
                        planar_dots(group, &palette16, out);
                    }
                }
                last = Some(address);
            }
            let shown = dots.iter().skip(pan.min(8));
            for (out, dot) in line.chunks_exact_mut(stretch).zip(shown) {
                out.fill(*dot);
            }
        }
    }

    /// Address counter at the start of scan line `y`, and dots to shift left.
    fn line_address(&self, y: u32) -> (u32, usize) {
        let r = self.regs;
        let rows = u32::from(r.crtc[9] & 0x1f) + 1;
        let double = r.crtc[9] >> 7;
        let split = y > r.line_compare();
        let (top, start) = match split {
            true => (r.line_compare() + 1, 0),
            false => (0, r.start_address() + u32::from(r.crtc[8] >> 5 & 3)),
        };
        let mut scan = (y - top) >> double;
        if !split {
            scan += u32::from(r.crtc[8] & 0x1f);
        }
        let mut address = start + scan / rows * r.pitch();
        // CGA and Hercules layouts take address bits 13 and 14 from the row scan counter. In word
        // mode the counter sits one bit higher on the address lines.
        let word = u32::from(r.crtc[0x17] & 0x40 == 0);
        for bit in 0..2 {
            if r.crtc[0x17] >> bit & 1 == 0 {
                let line = 13 + bit - word;
                address = address & !(1 << line) | ((scan % rows) >> bit & 1) << line;
            }
        }
        let pan = if split && r.attr[0x10] & 0x20 != 0 {
            0
        } else {
            usize::from(r.attr[0x13] & 7)
        };
        (address & 0xffff, pan)
    }

    /// Character and attribute at a cell.
    fn cell(&self, address: u32) -> (u8, u8) {
        let group = self.vram.group(address & 0xffff);
        (group as u8, (group >> 8) as u8)
    }

    /// Group of the first line of the fonts for attribute bit 3 clear and set.
    fn fonts(&self) -> [u32; 2] {
        let s = u32::from(self.regs.seq[3]);
        [s & 3 | s >> 2 & 4, s >> 2 & 3 | s >> 3 & 4]
            .map(|map| (map & 3) * 0x4000 + (map >> 2) * 0x2000)
    }

    fn draw_text(&self, frame: &mut Frame) {
        let r = self.regs;
        let t = self.text_mode();
        let palette = self.palette16();
        let fonts = self.fonts();
        let mode = r.attr[0x10];
        let blink_off = self.now_ns / 500_000_000 % 2 == 1;
        let cursor_at = u32::from(r.crtc[0x0e]) << 8 | u32::from(r.crtc[0x0f]);
        let cursor_shown =
            r.crtc[0x0a] & 0x20 == 0 && (self.now_ns / 250_000_000).is_multiple_of(2);
        let cursor_lines = u32::from(r.crtc[0x0a] & 0x1f)..=u32::from(r.crtc[0x0b] & 0x1f);
        let (width, stretch) = (frame.width as usize, t.stretch as usize);
        for row in 0..t.rows {
            for column in 0..t.columns {
                let address = r.start_address() + row * r.pitch() + column;
                let (code, attr) = self.cell(address);
                let font = fonts[usize::from(attr >> 3 & 1)] + u32::from(code) * 32;
                let blinks = mode & 8 != 0 && attr & 0x80 != 0;
                let background = if mode & 8 != 0 {
                    attr >> 4 & 7
                } else {
                    attr >> 4
                };
                let (fg, bg) = (
                    palette[usize::from(attr & 0x0f)],
                    palette[usize::from(background)],
                );
                let ninth = mode & 4 != 0 && (0xc0..=0xdf).contains(&code);
                let underline = mode & 2 != 0 && attr & 0x77 == 1;
                for y in 0..t.cell_height {
                    let mut bits = (self.vram.group(font + y) >> 16) as u8;
                    if blinks && blink_off {
                        bits = 0;
                    }
                    if underline && y == u32::from(r.crtc[0x14] & 0x1f) {
                        bits = 0xff;
                    }
                    let cursor =
                        cursor_shown && address & 0xffff == cursor_at && cursor_lines.contains(&y);
                    let line = (row * t.cell_height + y) as usize * width;
                    let at = line + (column * t.cell_width) as usize * stretch;
                    let cell = &mut frame.pixels[at..at + t.cell_width as usize * stretch];
                    for (x, out) in cell.chunks_exact_mut(stretch).enumerate() {
                        let on = match x {
                            0..8 => bits & 0x80 >> x != 0,
                            _ => ninth && bits & 1 != 0,
                        };
                        out.fill(if on || cursor { fg } else { bg });
                    }
                }
            }
        }
    }

    /// The characters of a text mode.
    pub fn text(&self) -> Option<TextScreen> {
        if self.dispi.on() || self.regs.graphics() {
            return None;
        }
        let t = self.text_mode();
        let r = self.regs;
        let row = |row| {
            let line: String = (0..t.columns)
                .map(|c| cp437::to_char(self.cell(r.start_address() + row * r.pitch() + c).0))
                .collect();
            line.trim_end_matches(' ').to_owned()
        };
        Some(TextScreen {
            columns: t.columns,
            rows: (0..t.rows).map(row).collect(),
        })
    }
}

/// Eight dots of four planes.
fn planar_dots(group: u32, palette: &[u32; 16], out: &mut [u32]) {
    for (x, dot) in out.iter_mut().enumerate() {
        let bits = group >> (7 - x);
        let index = bits & 1 | bits >> 7 & 2 | bits >> 14 & 4 | bits >> 21 & 8;
        *dot = palette[index as usize];
    }
}

/// Eight dots of two bits: four in each of planes 0 and 1, with planes 2 and 3 as their upper bits.
fn interleaved_dots(group: u32, palette: &[u32; 16], out: &mut [u32]) {
    for (x, dot) in out.iter_mut().enumerate() {
        let shift = (x / 4) * 8 + (6 - 2 * (x % 4));
        let index = group >> shift & 3 | (group >> (shift + 16) & 3) << 2;
        *dot = palette[index as usize];
    }
}

/// A 5-`green`-5 pixel as 0x00RRGGBB.
fn rgb(p: u16, green: u32) -> u32 {
    let p = u32::from(p);
    let widen = |v: u32, bits: u32| v << (8 - bits) | v >> (2 * bits - 8);
    let (r, g, b) = (p >> (5 + green) & 31, p >> 5 & ((1 << green) - 1), p & 31);
    widen(r, 5) << 16 | widen(g, green) << 8 | widen(b, 5)
}
