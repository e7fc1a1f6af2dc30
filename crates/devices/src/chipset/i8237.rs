//! The 8237A pair with its page registers: ISA DMA.
//!
//! Source: Intel 8237A datasheet (231466); page registers at the places of the PC AT. Controller 0
//! moves bytes, controller 1 (ports 0xC0 to 0xDF) words. Devices ask for transfers through
//! [`pdm::dma::IsaDma`]; memory-to-memory transfers, software requests and the cascade's own
//! channel keep their registers and move nothing.

use std::fmt::Write;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use parking_lot::Mutex;
use pdm::cfgm::Node;
use pdm::dma::{IsaDma, Transfer};
use pdm::{Device, DeviceReg, Error, Host, Pio, Result, ssm};
use pgm::PhysMap;

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "8237A",
    description: "8237A DMA controllers",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const SAVED_VERSION: u32 = 1;
const PAGES: u16 = 0x80;
/// Page register (offset from 0x80) of each channel.
const PAGE_OF: [usize; 8] = [7, 3, 1, 2, 15, 11, 9, 10];

const MODE_DECREMENT: u8 = 0x20;
const MODE_AUTO: u8 = 0x10;
const COMMAND_DISABLE: u8 = 4;

/// What a channel is set up for (mode register bits 3:2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Verify,
    ToMemory,
    FromMemory,
    Illegal,
}

#[derive(Debug, Clone, Copy, Default, Encode, Decode)]
struct Channel {
    #[n(0)]
    base_address: u16,
    #[n(1)]
    base_count: u16,
    #[n(2)]
    address: u16,
    #[n(3)]
    count: u16,
    #[n(4)]
    mode: u8,
}

#[derive(Debug, Clone, Default, Encode, Decode)]
struct Chip {
    #[n(0)]
    channels: [Channel; 4],
    #[n(1)]
    command: u8,
    /// Terminal counts reached.
    #[n(2)]
    status: u8,
    #[n(3)]
    request: u8,
    #[n(4)]
    mask: u8,
    /// The next byte is the high one.
    #[n(5)]
    high: bool,
}

#[derive(Clone)]
struct State {
    chips: [Chip; 2],
    pages: [u8; 16],
}

impl State {
    fn new() -> Self {
        let chip = Chip {
            mask: 15,
            ..Chip::default()
        };
        Self {
            chips: [chip.clone(), chip],
            pages: [0; 16],
        }
    }
}

impl Channel {
    fn kind(&self) -> Kind {
        match self.mode >> 2 & 3 {
            0 => Kind::Verify,
            1 => Kind::ToMemory,
            2 => Kind::FromMemory,
            _ => Kind::Illegal,
        }
    }
}

impl Chip {
    /// Reads register 0 to 15.
    fn read(&mut self, register: u16) -> u8 {
        match register {
            0..=7 => {
                let channel = &self.channels[usize::from(register / 2)];
                let word = if register & 1 == 0 {
                    channel.address
                } else {
                    channel.count
                };
                let [low, high] = word.to_le_bytes();
                self.high = !self.high;
                if self.high { low } else { high }
            }
            8 => std::mem::take(&mut self.status),
            15 => self.mask | 0xf0,
            // Register 13 is the temporary register of memory-to-memory transfers.
            13 => 0,
            _ => 0xff,
        }
    }

    fn write(&mut self, register: u16, value: u8) {
        let bit = 1 << (value & 3);
        match register {
            0..=7 => {
                let high = self.high;
                self.high = !high;
                let channel = &mut self.channels[usize::from(register / 2)];
                let (base, current) = if register & 1 == 0 {
                    (&mut channel.base_address, &mut channel.address)
                } else {
                    (&mut channel.base_count, &mut channel.count)
                };
                let mut bytes = base.to_le_bytes();
                bytes[usize::from(high)] = value;
                *base = u16::from_le_bytes(bytes);
                *current = *base;
            }
            8 => self.command = value,
            9 if value & 4 != 0 => self.request |= bit,
            9 => self.request &= !bit,
            10 if value & 4 != 0 => self.mask |= bit,
            10 => self.mask &= !bit,
            11 => self.channels[usize::from(value & 3)].mode = value,
            12 => self.high = false,
            13 => {
                // Master clear leaves addresses, counts and modes.
                self.command = 0;
                self.status = 0;
                self.request = 0;
                self.mask = 15;
                self.high = false;
            }
            14 => self.mask = 0,
            15 => self.mask = value & 15,
            _ => {}
        }
    }
}

/// The pair as devices see it.
struct Pair {
    state: Mutex<State>,
    phys: Arc<PhysMap>,
}

impl Pair {
    /// Runs a transfer of up to `len` bytes in pieces that are contiguous in memory. `piece` gets
    /// the address and the range of the device's data; a verify channel calls it not.
    fn run(
        &self,
        number: u8,
        want: Kind,
        len: usize,
        mut piece: impl FnMut(u64, usize, usize),
    ) -> Transfer {
        let mut done = Transfer::default();
        let mut state = self.state.lock();
        let State { chips, pages } = &mut *state;
        let wide = number >= 4;
        let unit = if wide { 2 } else { 1 };
        let Some(chip) = chips.get_mut(usize::from(number / 4)) else {
            return done;
        };
        let index = usize::from(number % 4);
        let kind = chip.channels[index].kind();
        let open = chip.mask >> index & 1 == 0 && chip.command & COMMAND_DISABLE == 0;
        let verify = kind == Kind::Verify && want == Kind::ToMemory;
        if number == 4 || !open || (kind != want && !verify) {
            return done;
        }
        let page = u64::from(pages[PAGE_OF[usize::from(number)]]);
        while done.moved + unit <= len && !done.terminal {
            let channel = &mut chip.channels[index];
            let left = (len - done.moved) / unit;
            let down = channel.mode & MODE_DECREMENT != 0;
            let to_wrap = 0x1_0000 - usize::from(channel.address);
            let units = if down {
                1
            } else {
                left.min(usize::from(channel.count) + 1).min(to_wrap)
            };
            let address = if wide {
                (page & 0xfe) << 16 | u64::from(channel.address) << 1
            } else {
                page << 16 | u64::from(channel.address)
            };
            if !verify {
                piece(address, done.moved, units * unit);
            }
            done.moved += units * unit;
            let step = units as u16;
            channel.address = if down {
                channel.address.wrapping_sub(1)
            } else {
                channel.address.wrapping_add(step)
            };
            done.terminal = usize::from(channel.count) + 1 == units;
            channel.count = channel.count.wrapping_sub(step);
            if done.terminal {
                chip.status |= 1 << index;
                chip.request &= !(1 << index);
                if channel.mode & MODE_AUTO != 0 {
                    channel.address = channel.base_address;
                    channel.count = channel.base_count;
                } else {
                    chip.mask |= 1 << index;
                }
            }
        }
        done
    }
}

impl IsaDma for Pair {
    fn from_memory(&self, channel: u8, data: &mut [u8]) -> Transfer {
        self.run(channel, Kind::FromMemory, data.len(), |address, at, len| {
            self.phys.read(address, &mut data[at..at + len]);
        })
    }

    fn to_memory(&self, channel: u8, data: &[u8]) -> Transfer {
        self.run(channel, Kind::ToMemory, data.len(), |address, at, len| {
            self.phys.write(address, &data[at..at + len]);
        })
    }
}

struct Dma {
    pair: Arc<Pair>,
}

fn construct(_: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    host.map_pio(0x00, 16)?;
    host.map_pio(PAGES, 16)?;
    host.map_pio(0xc0, 32)?;
    let pair = Arc::new(Pair {
        state: Mutex::new(State::new()),
        phys: host.phys(),
    });
    host.set_isa_dma(pair.clone());
    Ok(Box::new(Dma { pair }))
}

impl Pio for Dma {
    fn read(&mut self, port: u16, size: u8) -> u32 {
        let mut state = self.pair.state.lock();
        match port {
            0x00..=0x0f => state.chips[0].read(port).into(),
            0xc0..=0xdf => state.chips[1].read((port - 0xc0) / 2).into(),
            0x80..=0x8f => (0..u16::from(size.min(4))).fold(0, |value, i| {
                let byte = state.pages.get(usize::from(port - PAGES + i)).copied();
                value | u32::from(byte.unwrap_or(0xff)) << (8 * i)
            }),
            _ => u32::MAX,
        }
    }

    fn write(&mut self, port: u16, size: u8, value: u32) {
        let mut state = self.pair.state.lock();
        match port {
            0x00..=0x0f => state.chips[0].write(port, value as u8),
            0xc0..=0xdf => state.chips[1].write((port - 0xc0) / 2, value as u8),
            0x80..=0x8f => {
                for i in 0..u16::from(size.min(4)) {
                    if let Some(page) = state.pages.get_mut(usize::from(port - PAGES + i)) {
                        *page = (value >> (8 * i)) as u8;
                    }
                }
            }
            _ => {}
        }
    }
}

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    chips: Vec<Chip>,
    #[n(1)]
    pages: [u8; 16],
}

impl Device for Dma {
    fn reset(&mut self) {
        *self.pair.state.lock() = State::new();
    }

    fn save(&self) -> Result<Vec<u8>> {
        let state = self.pair.state.lock();
        ssm::encode(&Saved {
            chips: state.chips.to_vec(),
            pages: state.pages,
        })
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let saved: Saved = ssm::decode(version, SAVED_VERSION, data)?;
        let chips = saved
            .chips
            .try_into()
            .map_err(|_| Error::SavedState("there are two DMA controllers".into()))?;
        let pages = saved.pages;
        *self.pair.state.lock() = State { chips, pages };
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        let state = self.pair.state.lock();
        for (n, page) in PAGE_OF.iter().enumerate() {
            let chip = &state.chips[n / 4];
            let c = chip.channels[n % 4];
            let page = state.pages[*page];
            let masked = if chip.mask >> (n % 4) & 1 != 0 {
                "masked"
            } else {
                "open"
            };
            let (address, count, mode) = (c.address, c.count, c.mode);
            writeln!(
                out,
                "{n}: page {page:02x} address {address:04x} count {count:04x} mode {mode:02x} {masked}"
            )?;
        }
        Ok(())
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdm::testing::TestHost;

    fn setup(dev: &mut dyn Device, writes: &[(u16, u32)]) {
        let io = dev.pio().unwrap();
        writes
            .iter()
            .for_each(|(port, value)| io.write(*port, 1, *value));
    }

    #[test]
    fn a_floppy_read_reaches_memory_and_ends_at_the_count() {
        let mut host = TestHost::default();
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        let setup2 = [
            (0x0a, 6),
            (0x0c, 0),
            (4, 0),
            (4, 0x10),
            (5, 0xff),
            (5, 1),
            (0x81, 2),
            (0x0b, 0x46),
        ];
        setup(&mut *dev, &setup2);
        let dma = host.isa_dma().unwrap();
        assert_eq!(dma.to_memory(2, &[1; 512]), Transfer::default());
        setup(&mut *dev, &[(0x0a, 2)]);
        let first = dma.to_memory(2, &[7; 300]);
        assert_eq!(
            first,
            Transfer {
                moved: 300,
                terminal: false
            }
        );
        let io = dev.pio().unwrap();
        io.write(0x0c, 1, 0);
        assert_eq!((io.read(5, 1), io.read(5, 1)), (0xd3, 0));
        let saved = dev.save().unwrap();
        assert_eq!(
            dma.to_memory(2, &[8; 300]),
            Transfer {
                moved: 212,
                terminal: true
            }
        );
        let mut got = [0; 513];
        host.phys.read(0x2_1000, &mut got);
        assert_eq!((got[299], got[300], got[511], got[512]), (7, 8, 8, 0));
        let io = dev.pio().unwrap();
        assert_eq!((io.read(8, 1), io.read(8, 1), io.read(15, 1)), (4, 0, 0xff));
        dev.load(SAVED_VERSION, &saved).unwrap();
        assert_eq!(dev.save().unwrap(), saved);
    }

    #[test]
    fn words_auto_initialise_and_wrap_in_their_page() {
        let mut host = TestHost::default();
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        let words = [
            (0xd8, 0),
            (0xc4, 0xff),
            (0xc4, 0xff),
            (0xc6, 1),
            (0xc6, 0),
            (0x8b, 3),
            (0xd6, 0x59),
            (0xd4, 1),
        ];
        setup(&mut *dev, &words);
        host.phys.write(0x3_fffe, &[1, 2]);
        host.phys.write(0x2_0000, &[3, 4]);
        let dma = host.isa_dma().unwrap();
        let mut data = [0; 7];
        assert_eq!(
            dma.from_memory(5, &mut data),
            Transfer {
                moved: 4,
                terminal: true
            }
        );
        assert_eq!(data, [1, 2, 3, 4, 0, 0, 0]);
        assert_eq!(
            dma.from_memory(5, &mut data),
            Transfer {
                moved: 4,
                terminal: true
            }
        );
        assert_eq!(dma.to_memory(5, &[0; 4]), Transfer::default());
        assert_eq!(dma.from_memory(9, &mut data), Transfer::default());
    }
}
