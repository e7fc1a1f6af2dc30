//! PCI configuration mechanism 1 (ports 0xCF8 and 0xCFC) and the reset control register 0xCF9.
//!
//! Sources: PCI Local Bus Specification 3.0, 3.2.2.3.2; 82371SB (PIIX3) datasheet, 2.5.1.3 (RC).
//! This is a device without a PCI function of its own because the bus locks the function an access
//! goes to.

use std::fmt::Write;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use pdm::cfgm::Node;
use pdm::pci::Bus;
use pdm::{Device, DeviceReg, Host, Pio, Result, VmControl, VmRequest, ssm};

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "pciconf",
    description: "PCI configuration ports and reset control",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const SAVED_VERSION: u32 = 1;
const ADDRESS: u16 = 0xcf8;
const RESET_CONTROL: u16 = 0xcf9;
const DATA: u16 = 0xcfc;
/// Configuration accesses go to PCI while set.
const ENABLE: u32 = 1 << 31;
/// RC bit 1: hard reset; bit 2: do it (on its rising edge).
const RC_HARD: u8 = 2;
const RC_RESET: u8 = 4;

struct PciConf {
    bus: Arc<Bus>,
    vm: Arc<dyn VmControl>,
    address: u32,
    reset_control: u8,
}

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    address: u32,
    #[n(1)]
    reset_control: u8,
}

fn construct(_: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    host.map_pio(ADDRESS, 8)?;
    Ok(Box::new(PciConf {
        bus: host.pci_bus(),
        vm: host.vm(),
        address: 0,
        reset_control: 0,
    }))
}

impl PciConf {
    /// Bus, device/function and register that a data port access goes to.
    fn target(&self, port: u16) -> Option<(u8, u8, usize)> {
        let [low, devfn, bus, _] = self.address.to_le_bytes();
        let register = usize::from(low & 0xfc) + usize::from(port & 3);
        (self.address & ENABLE != 0).then_some((bus, devfn, register))
    }
}

impl Pio for PciConf {
    fn read(&mut self, port: u16, size: u8) -> u32 {
        match (port, size) {
            (ADDRESS, 4) => self.address,
            (RESET_CONTROL, 1) => self.reset_control.into(),
            (DATA.., _) => {
                let mut data = [0xff; 4];
                if let Some((bus, devfn, register)) = self.target(port) {
                    let len = usize::from(size.clamp(1, 4));
                    self.bus.read_config(bus, devfn, register, &mut data[..len]);
                }
                u32::from_le_bytes(data)
            }
            _ => u32::MAX,
        }
    }

    fn write(&mut self, port: u16, size: u8, value: u32) {
        match (port, size) {
            (ADDRESS, 4) => self.address = value & 0x80ff_fffc,
            (RESET_CONTROL, 1) => {
                let old = self.reset_control;
                self.reset_control = value as u8 & (RC_HARD | RC_RESET);
                if self.reset_control & !old & RC_RESET != 0 {
                    self.vm.request(VmRequest::Reset);
                }
            }
            (DATA.., _) => {
                if let Some((bus, devfn, register)) = self.target(port) {
                    let data = value.to_le_bytes();
                    let len = usize::from(size.clamp(1, 4));
                    self.bus.write_config(bus, devfn, register, &data[..len]);
                }
            }
            _ => {}
        }
    }
}

impl Device for PciConf {
    fn reset(&mut self) {
        self.address = 0;
        self.reset_control = 0;
    }

    fn save(&self) -> Result<Vec<u8>> {
        ssm::encode(&Saved {
            address: self.address,
            reset_control: self.reset_control,
        })
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let saved: Saved = ssm::decode(version, SAVED_VERSION, data)?;
        self.address = saved.address;
        self.reset_control = saved.reset_control;
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        writeln!(out, "address {:#010x}", self.address)?;
        for (devfn, config) in self.bus.functions() {
            let id = u16::from_le_bytes([config[0], config[1]]);
            let device = u16::from_le_bytes([config[2], config[3]]);
            let (slot, function) = (devfn >> 3, devfn & 7);
            write!(out, "00:{slot:02x}.{function} {id:04x}:{device:04x}")?;
            let [command, _, _, _, revision, interface, sub, base] = [
                config[4], config[5], config[6], config[7], config[8], config[9], config[10],
                config[11],
            ];
            write!(
                out,
                " class {base:02x}{sub:02x}{interface:02x} rev {revision:02x}"
            )?;
            writeln!(
                out,
                " command {command:02x} irq {} pin {}",
                config[0x3c], config[0x3d]
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
    use pdm::pci::Function;
    use pdm::testing::TestHost;

    #[test]
    fn configuration_space_is_reached_through_the_ports() {
        let mut host = TestHost::default();
        let function = Function::new(3, 1, 0x8086, 0x7113, 0x068000, 3);
        let _handle = host.pci_function(function).unwrap();
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        let io = dev.pio().unwrap();
        assert_eq!(io.read(0xcfc, 4), u32::MAX);
        io.write(0xcf8, 4, 0x8000_0000 | 3 << 11 | 1 << 8);
        assert_eq!(io.read(0xcfc, 4), 0x7113_8086);
        assert_eq!(io.read(0xcfe, 2) & 0xffff, 0x7113);
        io.write(0xcf8, 4, 0x8000_0000 | 9 << 11);
        assert_eq!(io.read(0xcfc, 4), u32::MAX);
    }

    #[test]
    fn only_the_rising_edge_of_the_reset_bit_resets() {
        let mut host = TestHost::default();
        let mut dev = construct(&Node::default(), 0, &mut host).unwrap();
        let io = dev.pio().unwrap();
        io.write(0xcf9, 1, 2);
        assert!(host.recorder.requests.lock().is_empty());
        io.write(0xcf9, 1, 6);
        io.write(0xcf9, 1, 6);
        assert_eq!(*host.recorder.requests.lock(), [VmRequest::Reset]);
    }
}
