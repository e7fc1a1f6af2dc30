//! The VGA's own registers: sequencer, CRTC, graphics and attribute controller, DAC.
//!
//! Facts: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem".

/// Guest-visible state behind ports 0x3B0 to 0x3DF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regs {
    pub misc: u8,
    pub feature: u8,
    pub enable: u8,
    pub seq_index: u8,
    pub seq: [u8; 8],
    pub crtc_index: u8,
    pub crtc: [u8; 32],
    pub gfx_index: u8,
    pub gfx: [u8; 16],
    /// Bits 0 to 4 index, bit 5 "palette address source": the screen is on.
    pub attr_index: u8,
    pub attr: [u8; 32],
    /// The next write to 0x3C0 is data.
    pub attr_data: bool,
    pub pel_mask: u8,
    pub dac_write: u8,
    pub dac_read: u8,
    /// Component 0 to 2 of the entry being accessed.
    pub dac_part: u8,
    /// The last index write was for reading.
    pub dac_reading: bool,
    /// 256 entries of red, green, blue as written.
    pub dac: Vec<u8>,
}

impl Default for Regs {
    fn default() -> Self {
        Self {
            misc: 1,
            feature: 0,
            enable: 1,
            seq_index: 0,
            seq: [0; 8],
            crtc_index: 0,
            crtc: [0; 32],
            gfx_index: 0,
            gfx: [0; 16],
            attr_index: 0,
            attr: [0; 32],
            attr_data: false,
            pel_mask: 0xff,
            dac_write: 0,
            dac_read: 0,
            dac_part: 0,
            dac_reading: false,
            dac: vec![0; 768],
        }
    }
}

const SEQ_MASK: [u8; 8] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0, 0, 0xff];
const GFX_MASK: [u8; 16] = [
    0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff, 0, 0, 0, 0, 0, 0, 0,
];

impl Regs {
    /// Whether the CRTC answers at `port`: 0x3Dx in colour, 0x3Bx in monochrome operation.
    fn crtc_here(&self, port: u16) -> bool {
        let colour = self.misc & 1 != 0;
        match port & 0xfff0 {
            0x3d0 => colour,
            0x3b0 => !colour,
            _ => true,
        }
    }

    /// Reads a port, except input status 1 (which [`Regs::status_read`] belongs to).
    pub fn read(&mut self, port: u16) -> u8 {
        if !self.crtc_here(port) {
            return 0xff;
        }
        match port {
            0x3c0 => self.attr_index,
            0x3c1 => self.attr[usize::from(self.attr_index & 0x1f)],
            // Input status 0: a colour monitor answers the sense line.
            0x3c2 => 0x10,
            0x3c3 => self.enable,
            0x3c4 => self.seq_index,
            0x3c5 => self.seq[usize::from(self.seq_index & 7)],
            0x3c6 => self.pel_mask,
            0x3c7 => {
                if self.dac_reading {
                    3
                } else {
                    0
                }
            }
            0x3c8 => self.dac_write,
            0x3c9 => {
                let at = usize::from(self.dac_read) * 3 + usize::from(self.dac_part.min(2));
                self.dac_part += 1;
                if self.dac_part > 2 {
                    self.dac_part = 0;
                    self.dac_read = self.dac_read.wrapping_add(1);
                }
                self.dac[at]
            }
            0x3ca => self.feature,
            0x3cc => self.misc,
            0x3ce => self.gfx_index,
            0x3cf => self.gfx[usize::from(self.gfx_index & 0x0f)],
            0x3b4 | 0x3d4 => self.crtc_index,
            0x3b5 | 0x3d5 => self.crtc[usize::from(self.crtc_index & 0x1f)],
            _ => 0xff,
        }
    }

    /// Input status 1 was read: the attribute controller expects an index next.
    pub fn status_read(&mut self, port: u16) -> bool {
        let here = self.crtc_here(port);
        if here {
            self.attr_data = false;
        }
        here
    }

    /// Writes a port.
    pub fn write(&mut self, port: u16, value: u8) {
        if !self.crtc_here(port) {
            return;
        }
        match port {
            0x3c0 => {
                if self.attr_data {
                    self.write_attr(value);
                } else {
                    self.attr_index = value & 0x3f;
                }
                self.attr_data = !self.attr_data;
            }
            0x3c2 => self.misc = value,
            0x3c3 => self.enable = value & 1,
            0x3c4 => self.seq_index = value & 7,
            0x3c5 => {
                let at = usize::from(self.seq_index & 7);
                self.seq[at] = value & SEQ_MASK[at];
            }
            0x3c6 => self.pel_mask = value,
            0x3c7 => {
                self.dac_read = value;
                self.dac_part = 0;
                self.dac_reading = true;
            }
            0x3c8 => {
                self.dac_write = value;
                self.dac_part = 0;
                self.dac_reading = false;
            }
            0x3c9 => {
                let at = usize::from(self.dac_write) * 3 + usize::from(self.dac_part.min(2));
                self.dac[at] = value;
                self.dac_part += 1;
                if self.dac_part > 2 {
                    self.dac_part = 0;
                    self.dac_write = self.dac_write.wrapping_add(1);
                }
            }
            0x3ce => self.gfx_index = value & 0x0f,
            0x3cf => {
                let at = usize::from(self.gfx_index & 0x0f);
                self.gfx[at] = value & GFX_MASK[at];
            }
            0x3b4 | 0x3d4 => self.crtc_index = value & 0x1f,
            0x3b5 | 0x3d5 => self.write_crtc(value),
            0x3ba | 0x3da => self.feature = value & 0x1f,
            _ => {}
        }
    }

    fn write_attr(&mut self, value: u8) {
        let at = usize::from(self.attr_index & 0x1f);
        self.attr[at] = match at {
            0x00..=0x0f => value & 0x3f,
            0x10 => value & !0x10,
            0x12 => value & 0x3f,
            0x13 | 0x14 => value & 0x0f,
            _ => value,
        };
    }

    fn write_crtc(&mut self, value: u8) {
        let at = usize::from(self.crtc_index & 0x1f);
        let protected = self.crtc[0x11] & 0x80 != 0;
        match at {
            // Bit 4 of the overflow register, line compare, is never protected.
            7 if protected => self.crtc[7] = self.crtc[7] & !0x10 | value & 0x10,
            0..=7 if protected => {}
            _ => self.crtc[at] = value,
        }
    }

    /// Displayed scan lines of a frame.
    pub fn lines(&self) -> u32 {
        let c = &self.crtc;
        let overflow = u32::from(c[7]);
        (u32::from(c[0x12]) | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1
    }

    /// All scan lines of a frame.
    pub fn total_lines(&self) -> u32 {
        let c = &self.crtc;
        let overflow = u32::from(c[7]);
        (u32::from(c[6]) | (overflow & 1) << 8 | (overflow & 0x20) << 4) + 2
    }

    /// First scan line of the vertical retrace.
    pub fn retrace_line(&self) -> u32 {
        let c = &self.crtc;
        let overflow = u32::from(c[7]);
        u32::from(c[0x10]) | (overflow & 4) << 6 | (overflow & 0x80) << 2
    }

    /// Scan line after which the display starts again at address 0.
    pub fn line_compare(&self) -> u32 {
        let c = &self.crtc;
        u32::from(c[0x18]) | u32::from(c[7] & 0x10) << 4 | u32::from(c[9] & 0x40) << 3
    }

    /// Address counter at the top of the screen.
    pub fn start_address(&self) -> u32 {
        u32::from(self.crtc[0x0c]) << 8 | u32::from(self.crtc[0x0d])
    }

    /// Address counter steps from row to row.
    pub fn pitch(&self) -> u32 {
        u32::from(self.crtc[0x13]) * 2
    }

    /// Whether the attribute controller and the sequencer let anything through.
    pub fn screen_on(&self) -> bool {
        self.attr_index & 0x20 != 0 && self.seq[1] & 0x20 == 0
    }

    /// Whether a graphics mode is set.
    pub fn graphics(&self) -> bool {
        self.gfx[6] & 1 != 0
    }
}
