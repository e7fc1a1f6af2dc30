//! Video memory as the legacy window shows it.
//!
//! The four planes are kept interleaved: *group* n, the 32 bits at byte 4n of video RAM, holds byte
//! n of planes 0 to 3. One step of the CRTC's address counter is one group in every mode, and a
//! chain-4 address is a plain byte address of video RAM, so that 256-colour modes can be mapped
//! straight into the guest.

use std::sync::Arc;

use pgm::{PhysMap, RamBlock};

use super::regs::Regs;

/// Video RAM.
#[derive(Clone)]
pub struct Vram {
    pub phys: Arc<PhysMap>,
    pub block: RamBlock,
    /// Bytes the guest knows of.
    pub size: u32,
}

impl Vram {
    /// Copies out; past the end reads as ones.
    pub fn read(&self, at: u32, data: &mut [u8]) {
        let left = self.size.saturating_sub(at).min(data.len() as u32) as usize;
        self.phys
            .ram()
            .read(self.block.offset + u64::from(at), &mut data[..left]);
        data[left..].fill(0xff);
    }

    /// Group `n`, plane 0 in the low byte. Addresses wrap at the end of memory.
    pub fn group(&self, n: u32) -> u32 {
        let mut bytes = [0; 4];
        self.read(n.wrapping_mul(4) % self.size, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn set_group(&self, n: u32, value: u32) {
        let at = n.wrapping_mul(4) % self.size;
        self.phys
            .write_ram(self.block.offset + u64::from(at), &value.to_le_bytes());
    }

    /// Fills everything with zeros.
    pub fn clear(&self) {
        let zeros = [0; 4096];
        for at in (0..self.size).step_by(zeros.len()) {
            self.phys
                .write_ram(self.block.offset + u64::from(at), &zeros);
        }
    }
}

/// How the window's addresses reach the planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Byte addresses of video RAM (chain-4, and VBE modes of 8 bits and more).
    Linear,
    /// Even addresses to planes 0 and 2, odd ones to 1 and 3.
    OddEven,
    /// One address for all four planes.
    Planar,
}

/// The window's place inside 0xA0000 to 0xBFFFF as offset and length, from graphics register 6.
pub fn window(regs: &Regs) -> (u32, u32) {
    match regs.gfx[6] >> 2 & 3 {
        0 => (0, 0x2_0000),
        1 => (0, 0x1_0000),
        2 => (0x1_0000, 0x8000),
        _ => (0x1_8000, 0x8000),
    }
}

/// Each of the low four bits to a byte of ones.
pub fn expand(bits: u8) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut i = 0;
        while i < 16 {
            let mut plane = 0;
            while plane < 4 {
                if i >> plane & 1 != 0 {
                    table[i] |= 0xff << (plane * 8);
                }
                plane += 1;
            }
            i += 1;
        }
        table
    };
    TABLE[usize::from(bits & 0x0f)]
}

/// Reads one byte through the graphics controller, filling the latches.
pub fn read(vram: &Vram, regs: &Regs, latch: &mut u32, layout: Layout, addr: u32) -> u8 {
    let gfx = &regs.gfx;
    let (group, plane) = match layout {
        Layout::Linear => (addr >> 2, addr & 3),
        Layout::OddEven => (addr >> 1, u32::from(gfx[4] & 2) | addr & 1),
        Layout::Planar => (addr, u32::from(gfx[4] & 3)),
    };
    *latch = vram.group(group);
    if gfx[5] & 8 == 0 || layout == Layout::Linear {
        return (*latch >> (plane * 8)) as u8;
    }
    // Read mode 1: pixels equal to the compare colour in the planes that count.
    let differs = (*latch ^ expand(gfx[2])) & expand(gfx[7]);
    !((differs | differs >> 8 | differs >> 16 | differs >> 24) as u8)
}

/// Writes one byte through the graphics controller.
pub fn write(vram: &Vram, regs: &Regs, latch: u32, layout: Layout, addr: u32, value: u8) {
    let (group, planes) = match layout {
        Layout::Linear => (addr >> 2, 1 << (addr & 3)),
        Layout::OddEven => (addr >> 1, 5 << (addr & 1)),
        Layout::Planar => (addr, 0x0f),
    };
    let planes = planes & regs.seq[2];
    if planes == 0 {
        return;
    }
    let gfx = &regs.gfx;
    let rotated = value.rotate_right(u32::from(gfx[3] & 7));
    let splat = |byte: u8| u32::from(byte) * 0x0101_0101;
    let mut mask = splat(gfx[8]);
    let data = match gfx[5] & 3 {
        0 => {
            let set_reset = expand(gfx[1]);
            splat(rotated) & !set_reset | expand(gfx[0]) & set_reset
        }
        1 => latch,
        2 => expand(value),
        _ => {
            mask &= splat(rotated);
            expand(gfx[0])
        }
    };
    let result = if gfx[5] & 3 == 1 {
        latch
    } else {
        let mixed = match gfx[3] >> 3 & 3 {
            0 => data,
            1 => data & latch,
            2 => data | latch,
            _ => data ^ latch,
        };
        mixed & mask | latch & !mask
    };
    let keep = !expand(planes);
    let old = if keep == 0 {
        0
    } else {
        vram.group(group) & keep
    };
    vram.set_group(group, old | result & !keep);
}

/// Whether a write of a byte in [`Layout::Linear`] just stores it.
pub fn plain_writes(regs: &Regs) -> bool {
    let g = &regs.gfx;
    regs.seq[2] & 0x0f == 0x0f && g[1] & 0x0f == 0 && g[3] == 0 && g[5] & 3 == 0 && g[8] == 0xff
}
