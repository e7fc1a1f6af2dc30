//! The Bochs VBE display interface: modes beyond the VGA's own.
//!
//! Facts: Bochs VBE DISPI description (VBE version 0xB0C5) and the register use of Linux's
//! `bochs-drm`.

pub const INDEX_ID: u16 = 0;
const INDEX_XRES: u16 = 1;
const INDEX_YRES: u16 = 2;
const INDEX_BPP: u16 = 3;
const INDEX_ENABLE: u16 = 4;
const INDEX_BANK: u16 = 5;
const INDEX_VIRT_WIDTH: u16 = 6;
const INDEX_VIRT_HEIGHT: u16 = 7;
const INDEX_X_OFFSET: u16 = 8;
const INDEX_Y_OFFSET: u16 = 9;
const INDEX_MEMORY_64K: u16 = 10;

const ENABLED: u16 = 0x01;
const GETCAPS: u16 = 0x02;
const DAC_8BIT: u16 = 0x20;
const NO_CLEAR: u16 = 0x80;

const MAX_X: u16 = 4096;
const MAX_Y: u16 = 4096;

/// Guest-visible state behind ports 0x1CE and 0x1CF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispi {
    pub index: u16,
    pub id: u16,
    pub xres: u16,
    pub yres: u16,
    pub bpp: u16,
    pub enable: u16,
    pub bank: u16,
    pub virt_width: u16,
    pub virt_height: u16,
    pub x_offset: u16,
    pub y_offset: u16,
}

impl Default for Dispi {
    fn default() -> Self {
        Self {
            index: 0,
            id: 0xb0c5,
            xres: 0,
            yres: 0,
            bpp: 8,
            enable: 0,
            bank: 0,
            virt_width: 0,
            virt_height: 0,
            x_offset: 0,
            y_offset: 0,
        }
    }
}

/// What a register write changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Nothing,
    /// The window shows something else.
    Window,
    /// A mode was set and video memory is to be cleared.
    Clear,
}

impl Dispi {
    /// Whether a DISPI mode is on.
    pub fn on(&self) -> bool {
        self.enable & ENABLED != 0
    }

    /// Whether DAC entries have eight bits.
    pub fn wide_dac(&self) -> bool {
        self.enable & DAC_8BIT != 0
    }

    /// Bytes from line to line (in 4-bit modes: of one plane).
    pub fn pitch(&self) -> u32 {
        self.bytes_of(self.virt_width)
    }

    fn bytes_of(&self, pixels: u16) -> u32 {
        let pixels = u32::from(pixels);
        match self.bpp {
            4 => pixels / 8,
            15 => pixels * 2,
            bpp => pixels * u32::from(bpp / 8),
        }
    }

    /// First byte shown (in 4-bit modes: first group).
    pub fn start(&self) -> u32 {
        u32::from(self.y_offset)
            .wrapping_mul(self.pitch())
            .wrapping_add(self.bytes_of(self.x_offset))
    }

    /// Bytes of memory a line of `pitch` may use up: planes count four times.
    fn memory(&self, vram: u32) -> u32 {
        if self.bpp == 4 { vram / 4 } else { vram }
    }

    /// Reads register `index`.
    pub fn read(&self, index: u16, vram: u32) -> u16 {
        let caps = self.enable & GETCAPS != 0;
        match index {
            INDEX_ID => self.id,
            INDEX_XRES if caps => MAX_X,
            INDEX_YRES if caps => MAX_Y,
            INDEX_BPP if caps => 32,
            INDEX_XRES => self.xres,
            INDEX_YRES => self.yres,
            INDEX_BPP => self.bpp,
            INDEX_ENABLE => self.enable,
            INDEX_BANK => self.bank,
            INDEX_VIRT_WIDTH => self.virt_width,
            INDEX_VIRT_HEIGHT => self.virt_height,
            INDEX_X_OFFSET => self.x_offset,
            INDEX_Y_OFFSET => self.y_offset,
            INDEX_MEMORY_64K => (vram >> 16) as u16,
            _ => 0,
        }
    }

    /// Writes register `index`. Values that do not fit are dropped.
    pub fn write(&mut self, index: u16, value: u16, vram: u32) -> Change {
        match index {
            INDEX_ID if (0xb0c0..=0xb0c5).contains(&value) => self.id = value,
            INDEX_XRES if !self.on() && value <= MAX_X && value & 7 == 0 => self.xres = value,
            INDEX_YRES if !self.on() && value <= MAX_Y => self.yres = value,
            INDEX_BPP if !self.on() => {
                let value = if value == 0 { 8 } else { value };
                if matches!(value, 4 | 8 | 15 | 16 | 24 | 32) {
                    self.bpp = value;
                }
            }
            INDEX_ENABLE => return self.set_enable(value, vram),
            INDEX_BANK => {
                let banks = (self.memory(vram) >> 16).max(1);
                if u32::from(value) < banks {
                    self.bank = value;
                    return Change::Window;
                }
            }
            INDEX_VIRT_WIDTH if self.on() => {
                let width = value.max(self.xres) & !7;
                let pitch = self.bytes_of(width).max(1);
                let height = self.memory(vram) / pitch;
                if height >= u32::from(self.yres) {
                    self.virt_width = width;
                    self.virt_height = height.min(0xffff) as u16;
                }
            }
            INDEX_X_OFFSET if self.on() => self.x_offset = value,
            INDEX_Y_OFFSET if self.on() => self.y_offset = value,
            _ => {}
        }
        Change::Nothing
    }

    fn set_enable(&mut self, value: u16, vram: u32) -> Change {
        let was_on = self.on();
        let pitch = self.bytes_of(self.xres).max(1);
        let fits =
            self.xres > 0 && self.yres > 0 && pitch * u32::from(self.yres) <= self.memory(vram);
        if value & ENABLED != 0 && !was_on {
            if !fits {
                return Change::Nothing;
            }
            self.virt_width = self.xres;
            self.virt_height = (self.memory(vram) / pitch).min(0xffff) as u16;
            self.x_offset = 0;
            self.y_offset = 0;
            self.bank = 0;
            self.enable = value;
            return if value & NO_CLEAR == 0 {
                Change::Clear
            } else {
                Change::Window
            };
        }
        self.enable = value;
        if value & ENABLED == 0 {
            self.bank = 0;
        }
        Change::Window
    }
}
