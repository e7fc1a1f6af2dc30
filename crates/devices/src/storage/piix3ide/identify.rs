//! IDENTIFY DEVICE and IDENTIFY PACKET DEVICE data (ATA/ATAPI-6, 8.15 and 8.16).

use super::ata::MULTIPLE_MAX;
use super::drive::Drive;

/// 512-byte blocks of ranges that one TRIM takes.
pub const TRIM_BLOCKS: u16 = 8;

struct Words([u16; 256]);

impl Words {
    /// ATA text: two characters a word, the first in the high byte, padded with blanks.
    fn text(&mut self, first: usize, words: usize, text: &str) {
        let ascii = |i: usize| match text.as_bytes().get(i) {
            Some(c @ 0x20..=0x7e) => u16::from(*c),
            _ => 0x20,
        };
        for i in 0..words {
            self.0[first + i] = ascii(2 * i) << 8 | ascii(2 * i + 1);
        }
    }

    fn wide(&mut self, first: usize, words: usize, value: u64) {
        for i in 0..words {
            self.0[first + i] = (value >> (16 * i)) as u16;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        // Integrity word: signature A5 and a byte that makes the sum of all bytes zero.
        self.0[255] = 0xa5;
        let bytes: Vec<u8> = self.0.iter().flat_map(|w| w.to_le_bytes()).collect();
        let sum = bytes.iter().fold(0u8, |a, b| a.wrapping_add(*b));
        let mut bytes = bytes;
        bytes[511] = sum.wrapping_neg();
        bytes
    }
}

fn names(w: &mut Words, drive: &Drive, model: &str) {
    let id = drive.driver.identity();
    let or = |given: String, default: String| if given.is_empty() { default } else { given };
    w.text(
        10,
        10,
        &or(id.serial, format!("VB00000000-0000000{}", drive.unit & 7)),
    );
    w.text(23, 4, &or(id.firmware, "1.0".into()));
    w.text(27, 20, &or(id.model, model.into()));
}

/// Data of a hard disk.
pub fn disk(drive: &Drive) -> Vec<u8> {
    let id = drive.driver.identity();
    let (cylinders, heads, per_track) = drive.geometry();
    let sectors = drive.sectors();
    let d = &drive.disk;
    let mut w = Words([0; 256]);
    w.0[0] = 0x0040;
    w.0[1] = cylinders as u16;
    w.0[3] = heads as u16;
    w.0[6] = per_track as u16;
    names(&mut w, drive, "VBOX HARDDISK");
    w.0[20] = 3;
    w.0[21] = 512;
    w.0[47] = 0x8000 | MULTIPLE_MAX as u16;
    w.0[48] = 1;
    // DMA, LBA, IORDY that can be disabled.
    w.0[49] = 0x0f00;
    w.0[50] = 0x4000;
    w.0[51] = 0x0200;
    w.0[52] = 0x0200;
    w.0[53] = 7;
    let track = u64::from(d.heads) * u64::from(d.sectors);
    let current = (sectors / track.max(1)).min(65535);
    w.0[54] = current as u16;
    w.0[55] = d.heads as u16;
    w.0[56] = d.sectors as u16;
    w.wide(57, 2, current * track);
    w.0[59] = if d.multiple != 0 {
        0x100 | d.multiple as u16
    } else {
        0
    };
    w.wide(60, 2, sectors.min(0x0fff_ffff));
    w.0[63] = 7 | u16::from(d.mwdma) << 8;
    w.0[64] = 3;
    w.0[65..=68].fill(120);
    w.0[80] = 0x007e;
    // SMART, power management, write cache, look-ahead.
    w.0[82] = 0x0069;
    // 48-bit addresses, FLUSH CACHE and FLUSH CACHE EXT.
    w.0[83] = 0x7400;
    // SMART error log and self test, WRITE DMA FUA EXT.
    w.0[84] = 0x4043;
    w.0[85] =
        0x0008 | u16::from(d.smart) | u16::from(d.write_cache) << 5 | u16::from(d.look_ahead) << 6;
    w.0[86] = 0x3400;
    w.0[87] = 0x4043;
    w.0[88] = 0x3f | u16::from(d.udma) << 8;
    // Hardware reset result: 80-conductor cable, device number known by jumper.
    w.0[93] = if drive.unit & 1 == 0 { 0x600b } else { 0x6b00 };
    w.wide(100, 4, sectors);
    w.0[106] = 0x4000;
    if id.discard {
        w.0[69] = 0x4020;
        w.0[105] = TRIM_BLOCKS;
        w.0[169] = 1;
    }
    if id.non_rotational {
        w.0[217] = 1;
    }
    w.finish()
}

/// Data of a CD drive.
pub fn cd(drive: &Drive) -> Vec<u8> {
    let d = &drive.disk;
    let mut w = Words([0; 256]);
    // ATAPI, CD-ROM, removable, 50 us DRQ, 12-byte packets.
    w.0[0] = 0x85c0;
    names(&mut w, drive, "VBOX CD-ROM");
    w.0[20] = 3;
    w.0[21] = 512;
    w.0[48] = 1;
    w.0[49] = 0x0b00;
    w.0[53] = 7;
    w.0[63] = 7 | u16::from(d.mwdma) << 8;
    w.0[64] = 3;
    w.0[65..=68].fill(120);
    w.0[71] = 30;
    w.0[72] = 30;
    w.0[80] = 0x007e;
    // PACKET and DEVICE RESET commands.
    w.0[82] = 0x0210;
    w.0[83] = 0x4000;
    w.0[84] = 0x4000;
    w.0[85] = 0x0210;
    w.0[87] = 0x4000;
    w.0[88] = 0x3f | u16::from(d.udma) << 8;
    w.0[93] = if drive.unit & 1 == 0 { 0x600b } else { 0x6b00 };
    w.finish()
}
