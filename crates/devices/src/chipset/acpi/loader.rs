//! The table loader script: how the firmware places tables and fixes pointers and checksums.
//!
//! Interface: the public "etc/table-loader" format, 128-byte little-endian commands.

const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
const COMMAND_SIZE: usize = 128;
const NAME_SIZE: usize = 56;

/// Where the firmware puts a file.
#[derive(Debug, Clone, Copy)]
pub enum Zone {
    /// Anywhere below 4 GiB.
    High = 1,
    /// The 0xF0000 segment.
    FSegment = 2,
}

/// A script being written.
#[derive(Default)]
pub struct Script(Vec<u8>);

fn file(name: &str) -> [u8; NAME_SIZE] {
    let mut field = [0; NAME_SIZE];
    field.iter_mut().zip(name.bytes()).for_each(|(f, b)| *f = b);
    field
}

impl Script {
    fn command(&mut self, code: u32, parts: &[&[u8]]) {
        let end = self.0.len() + COMMAND_SIZE;
        self.0.extend(code.to_le_bytes());
        parts.iter().for_each(|p| self.0.extend_from_slice(p));
        self.0.resize(end, 0);
    }

    /// Loads `name`, aligned to `align` bytes.
    pub fn allocate(&mut self, name: &str, align: u32, zone: Zone) {
        self.command(
            ALLOCATE,
            &[&file(name), &align.to_le_bytes(), &[zone as u8]],
        );
    }

    /// Adds the address of `source` to the `size`-byte field at `offset` of `target`.
    pub fn pointer(&mut self, target: &str, offset: usize, size: u8, source: &str) {
        let offset = (offset as u32).to_le_bytes();
        self.command(
            ADD_POINTER,
            &[&file(target), &file(source), &offset, &[size]],
        );
    }

    /// Sets the byte at `offset` so that `len` bytes from `start` sum to zero.
    pub fn checksum(&mut self, name: &str, offset: usize, start: usize, len: usize) {
        let words = [offset, start, len].map(|w| (w as u32).to_le_bytes());
        self.command(
            ADD_CHECKSUM,
            &[&file(name), &words[0], &words[1], &words[2]],
        );
    }

    /// The file's contents.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}
