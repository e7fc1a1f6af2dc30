//! Firmware configuration device: how the firmware learns what machine it runs on.
//!
//! Interface: the public fw_cfg specification (ports 0x510 selector, 0x511 data, 0x514 DMA address;
//! signature "QEMU"; file directory at key 0x19). Nothing can be written by the guest.
//!
//! Configuration: `Uuid` (16 bytes), `BootMenu` (0 or 1), `BootMenuWait` (milliseconds),
//! `BootOrder` (text of the `bootorder` file, one device path a line), `Files/NAME` (bytes or text
//! of further files).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use parking_lot::Mutex;
use pdm::cfgm::Node;
use pdm::{Device, DeviceReg, Error, Host, Pio, Result, ssm};
use pgm::PhysMap;

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "fwcfg",
    description: "firmware configuration",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const SAVED_VERSION: u32 = 1;
const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const DMA: u16 = 0x514;

const KEY_SIGNATURE: u16 = 0x00;
const KEY_ID: u16 = 0x01;
const KEY_UUID: u16 = 0x02;
const KEY_RAM_SIZE: u16 = 0x03;
const KEY_NO_GRAPHICS: u16 = 0x04;
const KEY_CPUS: u16 = 0x05;
const KEY_BOOT_MENU: u16 = 0x0e;
const KEY_MAX_CPUS: u16 = 0x0f;
const KEY_DIRECTORY: u16 = 0x19;
const KEY_FIRST_FILE: u16 = 0x20;
const KEY_IRQ0_OVERRIDE: u16 = 0x8002;
const KEY_NONE: u16 = 0xffff;

/// Traditional and DMA interface.
const FEATURES: u32 = 3;
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";
const DMA_ERROR: u32 = 1;
const DMA_READ: u32 = 2;
const DMA_SKIP: u32 = 4;
const DMA_SELECT: u32 = 8;
const DMA_WRITE: u32 = 16;

const MAX_NAME: usize = 55;
const MAX_FILE: usize = 64 << 20;
const MAX_FILES: usize = 1024;
/// Most bytes one DMA command moves; no item is longer, and past its end there are only zeros.
const MAX_DMA: u32 = MAX_FILE as u32 + 0x10_0000;

type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

struct FwCfg {
    phys: Arc<PhysMap>,
    files: Files,
    /// Items that are no files.
    fixed: BTreeMap<u16, Vec<u8>>,
    /// All items, made anew at reset.
    items: BTreeMap<u16, Arc<Vec<u8>>>,
    names: Vec<(String, u16)>,
    key: u16,
    offset: u32,
    dma_address: u64,
}

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    key: u16,
    #[n(1)]
    offset: u32,
    #[n(2)]
    dma_address: u64,
}

fn construct(config: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    host.map_pio(SELECTOR, 2)?;
    host.map_pio(DMA, 8)?;
    let (low, high) = host.ram_size();
    let cpus = host.cpu_count() as u16;
    let mut uuid = config.bytes("Uuid").unwrap_or_default();
    uuid.resize(16, 0);
    let menu = config.int_in("BootMenu", 1, 0..=1)? as u16;
    let mut fixed = BTreeMap::new();
    fixed.insert(KEY_SIGNATURE, b"QEMU".to_vec());
    fixed.insert(KEY_ID, FEATURES.to_le_bytes().to_vec());
    fixed.insert(KEY_UUID, uuid);
    fixed.insert(KEY_RAM_SIZE, (low + high).to_le_bytes().to_vec());
    fixed.insert(KEY_NO_GRAPHICS, 0u16.to_le_bytes().to_vec());
    fixed.insert(KEY_CPUS, cpus.to_le_bytes().to_vec());
    fixed.insert(KEY_MAX_CPUS, cpus.to_le_bytes().to_vec());
    fixed.insert(KEY_BOOT_MENU, menu.to_le_bytes().to_vec());
    fixed.insert(KEY_IRQ0_OVERRIDE, 1u32.to_le_bytes().to_vec());
    host.add_firmware_file("etc/e820", e820(low, high));
    if config.get("BootMenuWait").is_some() {
        let wait = config.int_in("BootMenuWait", 0, 0..=600_000)?;
        host.add_firmware_file("etc/boot-menu-wait", wait.to_le_bytes().to_vec());
    }
    let order = config.str("BootOrder", "");
    if !order.is_empty() {
        let mut order = order.into_bytes();
        order.push(0);
        host.add_firmware_file("bootorder", order);
    }
    if let Some(files) = config.child("Files") {
        for (name, _) in files.values() {
            let data = files.bytes(name).ok_or_else(|| Error::Config {
                key: format!("Files/{name}"),
                reason: "a file's contents are bytes or text".into(),
            })?;
            host.add_firmware_file(name, data);
        }
    }
    Ok(Box::new(FwCfg {
        phys: host.phys(),
        files: host.firmware_files(),
        fixed,
        items: BTreeMap::new(),
        names: Vec::new(),
        key: KEY_SIGNATURE,
        offset: 0,
        dma_address: 0,
    }))
}

/// The `etc/e820` file: RAM below and above 4 GiB as (u64 address, u64 bytes, u32 type 1).
fn e820(low: u64, high: u64) -> Vec<u8> {
    let mut table = Vec::new();
    for (start, size) in [(0, low), (1 << 32, high)] {
        if size > 0 {
            table.extend_from_slice(&u64::to_le_bytes(start));
            table.extend_from_slice(&size.to_le_bytes());
            table.extend_from_slice(&1u32.to_le_bytes());
        }
    }
    table
}

impl FwCfg {
    /// Numbers the files in name order and makes the directory.
    fn collect(&mut self) {
        let files = self.files.lock();
        let fits = |(name, data): &(&String, &Vec<u8>)| {
            !name.is_empty() && name.len() <= MAX_NAME && data.len() <= MAX_FILE
        };
        self.items = self
            .fixed
            .iter()
            .map(|(k, v)| (*k, Arc::new(v.clone())))
            .collect();
        self.names.clear();
        let mut entries = Vec::new();
        for ((name, data), key) in files
            .iter()
            .filter(fits)
            .take(MAX_FILES)
            .zip(KEY_FIRST_FILE..)
        {
            let mut field = [0; MAX_NAME + 1];
            field[..name.len()].copy_from_slice(name.as_bytes());
            entries.extend_from_slice(&(data.len() as u32).to_be_bytes());
            entries.extend_from_slice(&key.to_be_bytes());
            entries.extend_from_slice(&[0, 0]);
            entries.extend_from_slice(&field);
            self.names.push((name.clone(), key));
            self.items.insert(key, Arc::new(data.clone()));
        }
        let mut directory = (self.names.len() as u32).to_be_bytes().to_vec();
        directory.append(&mut entries);
        self.items.insert(KEY_DIRECTORY, Arc::new(directory));
    }

    fn item(&mut self) -> Option<Arc<Vec<u8>>> {
        if self.items.is_empty() {
            self.collect();
        }
        self.items.get(&self.key).cloned()
    }

    fn select(&mut self, key: u16) {
        self.key = key;
        self.offset = 0;
    }

    /// Fills `data` from the selected item; zeros past its end.
    fn take(&mut self, data: &mut [u8]) {
        data.fill(0);
        if let Some(item) = self.item() {
            let start = item.len().min(self.offset as usize);
            let n = data.len().min(item.len() - start);
            data[..n].copy_from_slice(&item[start..start + n]);
        }
        self.offset = self.offset.saturating_add(data.len() as u32);
    }

    /// Runs the command block at `dma_address`: big-endian control, length, address.
    fn dma(&mut self) {
        let block = std::mem::take(&mut self.dma_address);
        let mut raw = [0; 16];
        self.phys.read(block, &mut raw);
        let word = |at: usize| u32::from_be_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let (control, length) = (word(0), word(4));
        let address = u64::from(word(8)) << 32 | u64::from(word(12));
        if control & DMA_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let mut failed = 0;
        if control & DMA_READ != 0 {
            if length > MAX_DMA {
                failed = DMA_ERROR;
            } else {
                self.copy_out(address, length);
            }
        } else if control & DMA_WRITE != 0 {
            failed = DMA_ERROR;
        } else if control & DMA_SKIP != 0 {
            self.offset = self.offset.saturating_add(length);
        }
        self.phys.write(block, &failed.to_be_bytes());
    }

    fn copy_out(&mut self, mut address: u64, mut length: u32) {
        let mut buffer = [0; 4096];
        while length > 0 {
            let n = length.min(4096);
            let part = &mut buffer[..n as usize];
            self.take(part);
            self.phys.write(address, part);
            address = address.wrapping_add(n.into());
            length -= n;
        }
    }
}

impl Pio for FwCfg {
    fn read(&mut self, port: u16, size: u8) -> u32 {
        match port {
            SELECTOR => self.key.into(),
            DATA => {
                let mut byte = [0];
                self.take(&mut byte);
                byte[0].into()
            }
            DMA.. => {
                let at = usize::from(port - DMA);
                let mut value = [0; 4];
                for (i, byte) in value.iter_mut().take(size.into()).enumerate() {
                    *byte = DMA_SIGNATURE.get(at + i).copied().unwrap_or(0xff);
                }
                u32::from_le_bytes(value)
            }
            _ => u32::MAX,
        }
    }

    fn write(&mut self, port: u16, size: u8, value: u32) {
        match (port, size) {
            (SELECTOR, 2) => self.select(value as u16),
            (DMA, 4) => self.dma_address = u64::from(value.swap_bytes()) << 32,
            (0x518, 4) => {
                self.dma_address = self.dma_address & !0xffff_ffff | u64::from(value.swap_bytes());
                self.dma();
            }
            _ => {}
        }
    }

    fn read_string(&mut self, port: u16, size: u8, data: &mut [u8]) {
        if port == DATA && size == 1 {
            self.take(data);
            return;
        }
        for unit in data.chunks_mut(size.max(1).into()) {
            let bytes = self.read(port, size).to_le_bytes();
            let n = unit.len().min(4);
            unit[..n].copy_from_slice(&bytes[..n]);
        }
    }
}

impl Device for FwCfg {
    fn reset(&mut self) {
        self.collect();
        self.select(KEY_SIGNATURE);
        self.dma_address = 0;
    }

    fn save(&self) -> Result<Vec<u8>> {
        ssm::encode(&Saved {
            key: self.key,
            offset: self.offset,
            dma_address: self.dma_address,
        })
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let saved: Saved = ssm::decode(version, SAVED_VERSION, data)?;
        self.key = saved.key;
        self.offset = saved.offset;
        self.dma_address = saved.dma_address;
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        if self.key == KEY_NONE {
            writeln!(out, "nothing selected")?;
        } else {
            writeln!(out, "selected {:#06x}, offset {}", self.key, self.offset)?;
        }
        for (name, key) in &self.names {
            let size = self.items.get(key).map_or(0, |d| d.len());
            writeln!(out, "{key:#06x} {name} {size} bytes")?;
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

    fn bytes(io: &mut dyn Pio, key: u16, n: usize) -> Vec<u8> {
        io.write(SELECTOR, 2, key.into());
        let mut data = vec![0; n];
        io.read_string(DATA, 1, &mut data);
        data
    }

    #[test]
    fn the_directory_lists_files_by_name() {
        let mut host = TestHost::default();
        let mut config = Node::default();
        config.set("BootOrder", "/a\n");
        let mut dev = construct(&config, 0, &mut host).unwrap();
        host.add_firmware_file("zz", vec![1, 2, 3]);
        dev.reset();
        let io = dev.pio().unwrap();
        assert_eq!(bytes(io, KEY_SIGNATURE, 5), b"QEMU\0");
        assert_eq!(bytes(io, KEY_RAM_SIZE, 8), (16u64 << 20).to_le_bytes());
        let directory = bytes(io, KEY_DIRECTORY, 4 + 3 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 3]);
        assert_eq!(&directory[12..22], b"bootorder\0");
        let last = &directory[4 + 128..];
        assert_eq!(
            (&last[..4], &last[8..11]),
            (&[0, 0, 0, 3][..], &b"zz\0"[..])
        );
        let key = u16::from_be_bytes([last[4], last[5]]);
        assert_eq!(bytes(io, key, 4), [1, 2, 3, 0]);
        assert_eq!(bytes(io, KEY_FIRST_FILE, 4), b"/a\n\0");
    }

    #[test]
    fn dma_selects_and_reads_and_refuses_writes() {
        let mut host = TestHost::default();
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        dev.reset();
        let phys = host.phys.clone();
        let mut run = |control: u32, length: u32| {
            let mut block = control.to_be_bytes().to_vec();
            block.extend(length.to_be_bytes());
            block.extend(0x2000u64.to_be_bytes());
            phys.write(0x1000, &block);
            let io = dev.pio().unwrap();
            assert_eq!(io.read(DMA, 4).to_le_bytes(), *b"QEMU");
            io.write(DMA, 4, 0);
            io.write(DMA + 4, 4, 0x1000u32.swap_bytes());
            let mut result = [9; 4];
            phys.read(0x1000, &mut result);
            u32::from_be_bytes(result)
        };
        assert_eq!(run(DMA_SELECT | DMA_READ, 4), 0);
        let mut got = [0; 4];
        phys.read(0x2000, &mut got);
        assert_eq!(&got, b"QEMU");
        assert_eq!(run(DMA_WRITE, 4), DMA_ERROR);
        assert_eq!(run(DMA_READ, u32::MAX), DMA_ERROR);
    }
}
