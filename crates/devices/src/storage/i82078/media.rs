//! Floppy formats by size, and a drive's state.

use pdm::driver::BlockDriver;

pub const SECTOR: usize = 512;

/// Data rates as the rate select bits of DSR and CCR.
const RATE_500: u8 = 0;
const RATE_300: u8 = 1;
const RATE_250: u8 = 2;
const RATE_1000: u8 = 3;

/// Layout of a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    pub tracks: u8,
    pub heads: u8,
    pub sectors: u8,
    /// Rates at which a drive reads it.
    rates: [u8; 2],
}

const fn format(tracks: u8, heads: u8, sectors: u8, rates: [u8; 2]) -> Format {
    Format {
        tracks,
        heads,
        sectors,
        rates,
    }
}

/// Known formats in order of size. Double density reads at 250 kbit/s, or 300 in a 1.2 MB drive.
const FORMATS: [Format; 11] = [
    format(40, 1, 8, [RATE_250, RATE_300]),
    format(40, 1, 9, [RATE_250, RATE_300]),
    format(40, 2, 8, [RATE_250, RATE_300]),
    format(40, 2, 9, [RATE_250, RATE_300]),
    format(80, 2, 9, [RATE_250, RATE_300]),
    format(80, 2, 15, [RATE_500, RATE_500]),
    format(80, 2, 18, [RATE_500, RATE_500]),
    format(80, 2, 21, [RATE_500, RATE_500]),
    format(82, 2, 21, [RATE_500, RATE_500]),
    format(83, 2, 21, [RATE_500, RATE_500]),
    format(80, 2, 36, [RATE_1000, RATE_1000]),
];

impl Format {
    fn bytes(&self) -> u64 {
        u64::from(self.tracks) * u64::from(self.heads) * u64::from(self.sectors) * SECTOR as u64
    }

    /// The smallest format that holds `size` bytes, or the largest there is.
    pub fn for_size(size: u64) -> Self {
        let fits = FORMATS.into_iter().find(|f| f.bytes() >= size);
        fits.unwrap_or(FORMATS[FORMATS.len() - 1])
    }

    /// Whether the medium can be read at a rate.
    pub fn readable_at(&self, rate: u8) -> bool {
        self.rates.contains(&(rate & 3))
    }
}

/// A drive.
pub struct Drive {
    pub driver: Box<dyn BlockDriver>,
    /// Cylinder the heads are at.
    pub track: u8,
    /// The disk change line.
    pub changed: bool,
}

impl Drive {
    /// A drive whose medium was just put in.
    pub fn new(driver: Box<dyn BlockDriver>) -> Self {
        Self {
            driver,
            track: 0,
            changed: true,
        }
    }

    /// Layout of the medium, if one is in.
    pub fn format(&self) -> Option<Format> {
        let present = self.driver.present() && self.driver.size() > 0;
        present.then(|| Format::for_size(self.driver.size()))
    }

    /// Moves the heads. Stepping with a medium in clears the disk change line.
    pub fn seek(&mut self, track: u8) {
        self.track = track;
        if self.driver.present() {
            self.changed = false;
        }
    }

    /// Byte of the image where a sector starts.
    pub fn offset(format: &Format, track: u8, head: u8, sector: u8) -> u64 {
        let row = u64::from(track) * u64::from(format.heads) + u64::from(head);
        (row * u64::from(format.sectors) + u64::from(sector) - 1) * SECTOR as u64
    }
}
