//! The firmware's debug port 0x402: characters written become log lines (target `firmware`).
//!
//! Reading gives 0xE9, by which firmware recognises that somebody listens.

use std::fmt::Write;

use minicbor::{Decode, Encode};
use pdm::cfgm::Node;
use pdm::{Device, DeviceReg, Error, Host, Pio, Result, ssm};

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "debugcon",
    description: "firmware debug port",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const SAVED_VERSION: u32 = 1;
const PORT: u16 = 0x402;
const PRESENT: u32 = 0xe9;
const MAX_LINE: usize = 256;
/// Lines logged between two resets; the rest is dropped so that a guest cannot fill the log.
const MAX_LINES: u32 = 4000;

#[derive(Default)]
struct DebugCon {
    line: Vec<u8>,
    lines: u32,
}

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    line: Vec<u8>,
    #[n(1)]
    lines: u32,
}

fn construct(_: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    host.map_pio(PORT, 1)?;
    Ok(Box::<DebugCon>::default())
}

impl DebugCon {
    fn put(&mut self, byte: u8) {
        if byte != b'\n' {
            self.line.push(byte);
        }
        if byte == b'\n' || self.line.len() >= MAX_LINE {
            self.lines = self.lines.saturating_add(1);
            if self.lines <= MAX_LINES {
                let text = String::from_utf8_lossy(&self.line);
                tracing::info!(target: "firmware", "{}", text.trim_end());
            } else if self.lines == MAX_LINES + 1 {
                tracing::info!(target: "firmware", "further lines are dropped");
            }
            self.line.clear();
        }
    }
}

impl Pio for DebugCon {
    fn read(&mut self, _: u16, _: u8) -> u32 {
        PRESENT
    }
    fn write(&mut self, _: u16, _: u8, value: u32) {
        self.put(value as u8);
    }
}

impl Device for DebugCon {
    fn reset(&mut self) {
        *self = Self::default();
    }
    fn save(&self) -> Result<Vec<u8>> {
        ssm::encode(&Saved {
            line: self.line.clone(),
            lines: self.lines,
        })
    }
    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let saved: Saved = ssm::decode(version, SAVED_VERSION, data)?;
        if saved.line.len() >= MAX_LINE {
            return Err(Error::SavedState("debug line is too long".into()));
        }
        self.line = saved.line;
        self.lines = saved.lines;
        Ok(())
    }
    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        let line = String::from_utf8_lossy(&self.line);
        writeln!(out, "{} lines so far; current line: {line}", self.lines)
    }
    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_counted() {
        let mut port = DebugCon::default();
        for byte in b"SeaBIOS\nx" {
            port.write(PORT, 1, (*byte).into());
        }
        assert_eq!((port.lines, port.line.as_slice()), (1, b"x".as_slice()));
        for _ in 0..3 * MAX_LINE {
            port.write(PORT, 1, b'a'.into());
        }
        assert!(port.line.len() < MAX_LINE);
        assert_eq!(port.read(PORT, 1), 0xe9);
    }
}
