//! The system firmware ROM: the whole image ends at 4 GiB, its last 128 KiB show at 0xE0000 too.
//!
//! It also hands the firmware its SMBIOS tables.
//!
//! Configuration: `BiosRom`, path of the image; `Uuid` and the `Dmi` strings of [`smbios`].

use std::fmt::Write;
use std::fs::File;
use std::io::Read;

use super::smbios;
use pdm::cfgm::Node;
use pdm::{Device, DeviceReg, Error, Host, Result};
use pgm::{RamBlock, RegionKind, WriteFlags};

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "pcbios",
    description: "system firmware",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const SAVED_VERSION: u32 = 1;
const MIN_ROM: u64 = 0x1_0000;
const MAX_ROM: u64 = 16 << 20;
const LOW_END: u64 = 0x10_0000;
const LOW_SIZE: u64 = 0x2_0000;
const ROM_PRIORITY: i32 = 1;

struct PcBios {
    path: String,
    rom: RamBlock,
}

fn construct(config: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    let path = config.str("BiosRom", "");
    if path.is_empty() {
        return Err(Error::Config {
            key: "BiosRom".into(),
            reason: "the path of the firmware image is missing".into(),
        });
    }
    let image = read_image(&path)?;
    let rom = map_image(&image, host)?;
    for (name, data) in smbios::files(config, env!("CARGO_PKG_VERSION"))? {
        host.add_firmware_file(name, data);
    }
    Ok(Box::new(PcBios { path, rom }))
}

fn read_image(path: &str) -> Result<Vec<u8>> {
    let bad = |reason: String| Error::File {
        what: path.to_owned(),
        reason,
    };
    let explain = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => {
            bad("the firmware is missing; the Debian package 'seabios' has it".into())
        }
        _ => bad(e.to_string()),
    };
    let mut image = Vec::new();
    let file = File::open(path).map_err(explain)?;
    file.take(MAX_ROM + 1)
        .read_to_end(&mut image)
        .map_err(explain)?;
    let size = image.len() as u64;
    if !(MIN_ROM..=MAX_ROM).contains(&size) || !size.is_multiple_of(MIN_ROM) {
        let text = format!("{size} bytes is no size of a firmware image (64 KiB steps to 16 MiB)");
        return Err(bad(text));
    }
    Ok(image)
}

fn map_image(image: &[u8], host: &mut dyn Host) -> Result<RamBlock> {
    let size = image.len() as u64;
    let rom = host.alloc_ram(size)?;
    let phys = host.phys();
    phys.ram().write(rom.offset, image);
    let show = |gpa: u64, size: u64, skip: u64| {
        let offset = rom.offset + skip;
        let kind = RegionKind::Memory {
            block: RamBlock { offset, size },
            writes: WriteFlags::ReadOnly,
        };
        phys.add(gpa, size, ROM_PRIORITY, kind)
    };
    show((1 << 32) - size, size, 0)?;
    let low = size.min(LOW_SIZE);
    show(LOW_END - low, low, size - low)?;
    Ok(rom)
}

impl Device for PcBios {
    fn reset(&mut self) {}

    fn save(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        if version != SAVED_VERSION || !data.is_empty() {
            return Err(Error::SavedState("the firmware has no state".into()));
        }
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        writeln!(out, "{}: {} KiB", self.path, self.rom.size >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdm::testing::TestHost;

    #[test]
    fn the_end_of_the_image_shows_at_both_places() {
        let mut host = TestHost::default();
        let mut image = vec![0; 0x4_0000];
        image[0x3_fff0] = 0xea;
        image[0x2_0000] = 0x55;
        map_image(&image, &mut host).unwrap();
        let get = |gpa| {
            let mut byte = [0];
            host.phys.read(gpa, &mut byte);
            byte[0]
        };
        assert_eq!(
            (get(0xffff_fff0), get(0xf_fff0), get(0xe_0000)),
            (0xea, 0xea, 0x55)
        );
    }

    #[test]
    fn a_missing_image_names_the_package() {
        let mut host = TestHost::default();
        let mut config = Node::default();
        assert!(matches!(
            construct(&config, 0, &mut host),
            Err(Error::Config { .. })
        ));
        config.set("BiosRom", "/nonexistent/bios.bin");
        let error = construct(&config, 0, &mut host).err().unwrap();
        assert!(error.to_string().contains("seabios"));
    }
}
