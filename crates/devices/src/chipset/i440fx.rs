//! Intel 440FX (82441FX PMC) host bridge: PCI function 00:00.0, shadow RAM and SMRAM windows.
//!
//! Source: 82441FX/82442FX datasheet (290549), 3.2.18 (PAM) and 3.2.20 (SMRAM). DRAM timing, row
//! boundary and error registers keep what is written and have no effect: the size of RAM is the
//! VM's. D_CLS closes the open window only: in system management mode data and code see SMRAM.

use std::fmt::Write;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use pdm::cfgm::Node;
use pdm::pci::{CONFIG_SIZE, Function, Handle, PciDevice};
use pdm::{Device, DeviceReg, Error, Host, Result, ssm};
use pgm::{PhysMap, RamBlock, RegionId, RegionKind, Target, WriteFlags};

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "i440fx",
    description: "Intel 440FX host bridge",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const SAVED_VERSION: u32 = 1;
const PAM: usize = 0x59;
const SMRAM: usize = 0x72;
/// SMRAM register: opened to everyone, closed for data, locked, enabled.
const D_OPEN: u8 = 0x40;
const D_CLOSED: u8 = 0x20;
const D_LOCKED: u8 = 0x10;
const ENABLED: u8 = 0x08;
/// C_BASE_SEG: the only place is 0xA0000.
const BASE_SEGMENT: u8 = 0x02;

const SHADOW_START: u64 = 0xc_0000;
const SHADOW_SIZE: u64 = 0x4_0000;
const SMRAM_START: u64 = 0xa_0000;
const SMRAM_SIZE: u64 = 0x2_0000;
/// Over RAM (0), ROM (1) and legacy video (below 10).
const PRIORITY: i32 = 2;
const SMRAM_PRIORITY: i32 = 10;

/// Shadow areas: start, bytes, PAM register, bit of its attribute field.
const AREAS: [(u64, u64, usize, u8); 13] = {
    let mut areas = [(0xf_0000, 0x1_0000, PAM, 4); 13];
    let mut i = 0;
    while i < 12 {
        let start = SHADOW_START + i as u64 * 0x4000;
        areas[i] = (start, 0x4000, PAM + 1 + i / 2, (i as u8 % 2) * 4);
        i += 1;
    }
    areas
};

struct I440fx {
    phys: Arc<PhysMap>,
    pci: Handle,
    shadow: RamBlock,
    smram: RamBlock,
    /// All ones: what reads give where no ROM answers behind a write-only area.
    nothing: RamBlock,
    regions: Vec<RegionId>,
    /// PAM and SMRAM registers that `regions` was made from.
    shown: [u8; 8],
    /// D_LCK was set: SMRAM is read-only until reset.
    locked: bool,
}

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    config: Vec<u8>,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    shadow: Vec<u8>,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    smram: Vec<u8>,
    #[n(3)]
    locked: bool,
}

fn construct(_: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    let mut function = Function::new(0, 0, 0x8086, 0x1237, 0x06_0000, 2);
    function.config[SMRAM] = BASE_SEGMENT;
    // PMCCFG, DETURBO, DBC, DRAM control and timing, PAM, DRB, FDHC, MTT, SMRAM, error registers.
    function.writable[0x50..0x59].fill(0xff);
    function.writable[PAM] = 0x30;
    function.writable[PAM + 1..PAM + 7].fill(0x33);
    function.writable[0x60..0x69].fill(0xff);
    function.writable[0x70] = 0xff;
    function.writable[0x71] = 0xff;
    function.writable[SMRAM] = D_OPEN | D_CLOSED | D_LOCKED | ENABLED;
    function.writable[0x90] = 0xff;
    function.writable[0x93] = 0xff;
    let pci = host.pci_function(function)?;
    let phys = host.phys();
    let nothing = host.alloc_ram(0x1_0000)?;
    phys.ram().write(nothing.offset, &[0xff; 0x1_0000]);
    let mut bridge = I440fx {
        phys,
        pci,
        shadow: host.alloc_ram(SHADOW_SIZE)?,
        smram: host.alloc_ram(SMRAM_SIZE)?,
        nothing,
        regions: Vec::new(),
        shown: [0; 8],
        locked: false,
    };
    bridge.show();
    Ok(Box::new(bridge))
}

/// PAM0 to PAM6 and SMRAM.
fn registers(config: &[u8; CONFIG_SIZE]) -> [u8; 8] {
    let mut all = [0; 8];
    all[..7].copy_from_slice(&config[PAM..PAM + 7]);
    all[7] = config[SMRAM];
    all
}

impl I440fx {
    /// Makes the memory map follow the registers.
    fn show(&mut self) {
        let now = self.pci.with_config(|c| registers(c));
        self.apply(now);
    }

    fn apply(&mut self, now: [u8; 8]) {
        if now == self.shown {
            return;
        }
        self.shown = now;
        let writes_only =
            |(_, _, register, bit): &(u64, u64, usize, u8)| now[register - PAM] >> bit & 3 == 2;
        if AREAS.iter().any(writes_only) {
            // What is behind our own regions can only be seen without them.
            self.phys.swap(&std::mem::take(&mut self.regions), &[]);
        }
        let mut add: Vec<(u64, u64, i32, RegionKind)> = Vec::new();
        let mut last = 0;
        for (start, size, register, bit) in AREAS {
            let attribute = now[register - PAM] >> bit & 3;
            let block = part(self.shadow, start - SHADOW_START, size);
            let kind = match attribute {
                0 => None,
                1 => Some(memory(block, WriteFlags::ReadOnly)),
                2 => Some(RegionKind::Split {
                    read: self.behind(start, size),
                    write: block,
                }),
                _ => Some(memory(block, WriteFlags::ReadWrite)),
            };
            match (kind, add.last_mut()) {
                // Neighbours of one kind become one region.
                (Some(_), Some((gpa, bytes, _, RegionKind::Memory { block, .. })))
                    if attribute == last && attribute & 1 != 0 && *gpa + *bytes == start =>
                {
                    *bytes += size;
                    block.size += size;
                }
                (Some(kind), _) => add.push((start, size, PRIORITY, kind)),
                (None, _) => {}
            }
            last = attribute;
        }
        if now[7] & (D_OPEN | D_CLOSED | ENABLED) == D_OPEN | ENABLED {
            let kind = memory(self.smram, WriteFlags::ReadWrite);
            add.push((SMRAM_START, SMRAM_SIZE, SMRAM_PRIORITY, kind));
        }
        let enabled = now[7] & ENABLED != 0;
        self.phys
            .set_smram(enabled.then_some((SMRAM_START, self.smram)));
        self.regions = self.phys.swap(&self.regions, &add);
    }

    /// The memory that answers reads at `gpa` when the bridge does not.
    fn behind(&self, gpa: u64, size: u64) -> RamBlock {
        match self.phys.lookup(gpa).read {
            Target::Ram(offset) => RamBlock { offset, size },
            _ => part(self.nothing, 0, size),
        }
    }

    fn contents(&self, block: RamBlock) -> Vec<u8> {
        let mut data = vec![0; block.size as usize];
        self.phys.ram().read(block.offset, &mut data);
        data
    }
}

fn part(block: RamBlock, skip: u64, size: u64) -> RamBlock {
    let offset = block.offset + skip;
    RamBlock { offset, size }
}

fn memory(block: RamBlock, writes: WriteFlags) -> RegionKind {
    RegionKind::Memory { block, writes }
}

impl PciDevice for I440fx {
    fn bar_moved(&mut self, _: usize, _: Option<u64>) {}

    fn config_written(&mut self, _: usize, _: usize, config: &mut [u8; CONFIG_SIZE]) {
        if self.locked {
            config[SMRAM] = self.shown[7];
        } else if config[SMRAM] & D_LOCKED != 0 {
            // Locking closes the window for good.
            config[SMRAM] &= !D_OPEN;
            self.locked = true;
        }
        self.apply(registers(config));
    }
}

impl Device for I440fx {
    fn reset(&mut self) {
        self.pci.reset();
        self.locked = false;
        self.show();
    }

    fn save(&self) -> Result<Vec<u8>> {
        ssm::encode(&Saved {
            config: self.pci.save(),
            shadow: self.contents(self.shadow),
            smram: self.contents(self.smram),
            locked: self.locked,
        })
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let saved: Saved = ssm::decode(version, SAVED_VERSION, data)?;
        if saved.shadow.len() as u64 != SHADOW_SIZE || saved.smram.len() as u64 != SMRAM_SIZE {
            return Err(Error::SavedState("shadow RAM has the wrong length".into()));
        }
        self.pci.load(&saved.config)?;
        self.phys.ram().write(self.shadow.offset, &saved.shadow);
        self.phys.ram().write(self.smram.offset, &saved.smram);
        self.locked = saved.locked;
        self.show();
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        for (start, size, register, bit) in AREAS {
            let attribute = self.shown[register - PAM] >> bit & 3;
            let (read, write) = match attribute {
                0 => ("ROM", "nowhere"),
                1 => ("RAM", "nowhere"),
                2 => ("ROM", "RAM"),
                _ => ("RAM", "RAM"),
            };
            let end = start + size - 1;
            writeln!(out, "{start:05x}-{end:05x}: reads {read}, writes {write}")?;
        }
        writeln!(out, "SMRAM register {:#04x}", self.shown[7])
    }

    fn pci(&mut self) -> Option<&mut dyn PciDevice> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdm::testing::TestHost;

    struct Rig {
        host: TestHost,
        dev: Box<dyn Device>,
    }

    /// A bridge with 0xAA "ROM" below it.
    fn rig() -> Rig {
        let mut host = TestHost::default();
        let rom = host.alloc_ram(0x4_0000).unwrap();
        host.phys.ram().write(rom.offset, &[0xaa; 0x4_0000]);
        let kind = memory(rom, WriteFlags::ReadOnly);
        host.phys.add(SHADOW_START, 0x4_0000, 1, kind).unwrap();
        let dev = construct(&Node::default(), 0, &mut host).unwrap();
        Rig { host, dev }
    }

    impl Rig {
        fn set(&mut self, register: usize, value: u8) {
            let mut config = [0; CONFIG_SIZE];
            self.host.bus.write_config(0, 0, register, &[value]);
            self.host.bus.read_config(0, 0, 0, &mut config);
            let pci = self.dev.pci().unwrap();
            pci.config_written(register, 1, &mut config);
            self.host
                .bus
                .write_config(0, 0, register, &config[register..=register]);
        }
        fn get(&self, gpa: u64) -> u8 {
            let mut byte = [0];
            self.host.phys.read(gpa, &mut byte);
            byte[0]
        }
    }

    #[test]
    fn shadow_attributes_steer_reads_and_writes() {
        let mut rig = rig();
        rig.host.phys.write(0xf_1000, &[1]);
        assert_eq!(rig.get(0xf_1000), 0xaa);
        rig.set(PAM, 0x20);
        rig.host.phys.write(0xf_1000, &[2]);
        assert_eq!(rig.get(0xf_1000), 0xaa);
        rig.set(PAM, 0x10);
        assert_eq!(rig.get(0xf_1000), 2);
        rig.host.phys.write(0xf_1000, &[3]);
        assert_eq!(rig.get(0xf_1000), 2);
        rig.set(PAM, 0x30);
        rig.host.phys.write(0xf_1000, &[4]);
        assert_eq!(rig.get(0xf_1000), 4);
        assert_eq!(rig.get(0xc_4000), 0xaa);
        for register in PAM + 1..PAM + 7 {
            rig.set(register, 0x33);
        }
        rig.host.phys.write(0xd_ffff, &[5, 6]);
        assert_eq!((rig.get(0xd_ffff), rig.get(0xe_0000)), (5, 6));
        assert_eq!(rig.dev_regions(), 1);
        let saved = rig.dev.save().unwrap();
        rig.dev.reset();
        assert_eq!(rig.get(0xe_0000), 0xaa);
        rig.dev.load(SAVED_VERSION, &saved).unwrap();
        assert_eq!(rig.get(0xe_0000), 6);
        assert_eq!(rig.dev.save().unwrap(), saved);
    }

    impl Rig {
        /// Pieces of memory that show our shadow RAM.
        fn dev_regions(&self) -> usize {
            let pieces = self.host.phys.memory_pieces();
            let ours = |p: &&(u64, u64, u64, bool)| p.0 >= SHADOW_START && p.0 < 0x10_0000 && p.3;
            pieces.iter().filter(ours).count()
        }
    }

    #[test]
    fn smram_opens_and_locks() {
        let mut rig = rig();
        rig.set(SMRAM, D_OPEN | ENABLED);
        rig.host.phys.write(0xa_0000, &[7]);
        rig.set(SMRAM, ENABLED);
        assert_ne!(rig.get(0xa_0000), 7);
        rig.set(SMRAM, D_OPEN | ENABLED);
        assert_eq!(rig.get(0xa_0000), 7);
        rig.set(SMRAM, D_OPEN | D_LOCKED | ENABLED);
        rig.set(SMRAM, D_OPEN | ENABLED);
        assert_ne!(rig.get(0xa_0000), 7);
    }
}
