//! The IDE function of the PIIX3 or PIIX4 south bridge, 00:01.1: two channels at the legacy ports,
//! bus-master DMA, hard disks and CD drives.
//!
//! Facts: Intel 82371FB/SB (PIIX3) and 82371AB (PIIX4) data sheets, ATA/ATAPI-6, MMC-5.
//! Timing registers are stored without effect. A command is done when its last register is written:
//! block drivers are called in the caller's thread. All waiting happens in [`drive::Job`], so a
//! worker can take a job over later: a command that found the host's disk full waits there, busy,
//! until [`Device::resume`].
//!
//! Not there: the security feature set, queued commands, SET MAX ADDRESS.

mod ata;
mod atapi;
mod busmaster;
mod channel;
mod discinfo;
mod drive;
mod identify;
mod saved;
mod smart;

use std::sync::Arc;

use pdm::cfgm::Node;
use pdm::driver::{BlockDriver, MediaSink};
use pdm::pci::{self, Bar, PciDevice};
use pdm::{Device, DeviceReg, Error, Host, Pio, PioRange, Result};
use pgm::PhysMap;

use channel::Channel;
use drive::Drive;
use saved::SAVED_VERSION;

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "piix3ide",
    description: "PIIX3/PIIX4 IDE controller",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const VENDOR_INTEL: u16 = 0x8086;
const ID_PIIX3: u16 = 0x7010;
const ID_PIIX4: u16 = 0x7111;
/// IDE with bus master, both channels in compatibility mode.
const CLASS_IDE: u32 = 0x01_0180;
const PCI_DEVICE: u8 = 1;
const PCI_FUNCTION: u8 = 1;
const BAR_BUS_MASTER: usize = 4;
const BUS_MASTER_PORTS: u16 = 16;

/// Command block, control block and interrupt of the channels.
const CHANNELS: [(u16, u16, u8); 2] = [(0x1f0, 0x3f6, 14), (0x170, 0x376, 15)];

struct Ide {
    pci: pci::Handle,
    bus_master: Arc<dyn PioRange>,
    bus_master_base: Option<u16>,
    phys: Arc<PhysMap>,
    channels: [Channel; 2],
}

fn construct(config: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    let id = match config.str("Type", "PIIX4").as_str() {
        "PIIX3" => ID_PIIX3,
        "PIIX4" => ID_PIIX4,
        other => {
            return Err(Error::Config {
                key: "Type".into(),
                reason: format!("'{other}' is not one of PIIX3, PIIX4"),
            });
        }
    };
    let revision = if id == ID_PIIX4 { 1 } else { 0 };
    let mut function = pci::Function::new(
        PCI_DEVICE,
        PCI_FUNCTION,
        VENDOR_INTEL,
        id,
        CLASS_IDE,
        revision,
    )
    .bar(
        BAR_BUS_MASTER,
        Bar::Io {
            size: BUS_MASTER_PORTS.into(),
        },
    );
    // Status: DEVSEL medium, fast back-to-back.
    function.config[6] = 0x80;
    function.config[7] = 0x02;
    // Timing registers; the PIIX4 adds Ultra DMA control and timing.
    let timing = if id == ID_PIIX4 {
        0x40..0x4c
    } else {
        0x40..0x45
    };
    function.writable[timing].fill(0xff);
    let mut channels = Vec::new();
    for (i, (command, control, irq)) in CHANNELS.into_iter().enumerate() {
        host.map_pio(command, 8)?;
        host.map_pio(control, 1)?;
        let drives = [0, 1].map(|d| {
            let unit = i as u32 * 2 + d;
            let driver = host.block(unit)?;
            Some(Drive::new(driver, unit, host.vm()))
        });
        channels.push(Channel::new(host.isa_irq(irq), drives));
    }
    let channels = channels
        .try_into()
        .map_err(|_| Error::Resource("IDE channels".into()))?;
    Ok(Box::new(Ide {
        pci: host.pci_function(function)?,
        bus_master: host.movable_pio(BUS_MASTER_PORTS),
        bus_master_base: None,
        phys: host.phys(),
        channels,
    }))
}

/// What a port is.
enum Port {
    Data(usize),
    Register(usize, u16),
    BusMaster(usize, u16),
    None,
}

impl Ide {
    fn port(&self, port: u16) -> Port {
        for (i, (command, control, _)) in CHANNELS.into_iter().enumerate() {
            if port == command {
                return Port::Data(i);
            } else if port > command && port < command + 8 {
                return Port::Register(i, port - command);
            } else if port == control {
                return Port::Register(i, 8);
            }
        }
        match self.bus_master_base.map(|base| port.wrapping_sub(base)) {
            Some(at) if at < BUS_MASTER_PORTS => Port::BusMaster(usize::from(at >> 3), at & 7),
            _ => Port::None,
        }
    }

    fn read_byte(&mut self, port: u16) -> u8 {
        match self.port(port) {
            Port::Data(channel) => {
                let mut byte = [0];
                self.channels[channel].read_data(&mut byte);
                byte[0]
            }
            Port::Register(channel, register) => self.channels[channel].read(register),
            Port::BusMaster(channel, at) => self.channels[channel].bm.read(at),
            Port::None => 0xff,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8) {
        let phys = self.phys.clone();
        match self.port(port) {
            Port::Data(channel) => self.channels[channel].write_data(&[value], &phys),
            Port::Register(channel, register) => {
                self.channels[channel].write(register, value, &phys)
            }
            Port::BusMaster(channel, at) => {
                let channel = &mut self.channels[channel];
                if channel.bm.write(at, value) {
                    channel.run_dma(&phys);
                    channel.update_irq();
                }
            }
            Port::None => {}
        }
    }

    fn move_bus_master(&mut self, address: Option<u64>) {
        self.bus_master_base = address.and_then(|a| u16::try_from(a).ok());
        self.bus_master.set(self.bus_master_base);
    }
}

impl Device for Ide {
    fn reset(&mut self) {
        for (_, address) in self.pci.reset() {
            self.move_bus_master(address);
        }
        for channel in &mut self.channels {
            channel.power_on();
        }
    }

    fn resume(&mut self) {
        let phys = self.phys.clone();
        for channel in &mut self.channels {
            channel.retry(&phys);
        }
    }

    fn save(&self) -> Result<Vec<u8>> {
        saved::save(self)
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        for (_, address) in saved::load(self, version, data)? {
            self.move_bus_master(address);
        }
        for channel in &mut self.channels {
            channel.restore_irq();
        }
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        for (i, channel) in self.channels.iter().enumerate() {
            writeln!(
                out,
                "channel {i}: drive {} selected, control {:02x}, interrupt {}, {:x?}",
                channel.selected,
                channel.control,
                channel.irq.level(),
                channel.bm
            )?;
            for (d, drive) in channel.drives.iter().enumerate() {
                let Some(drive) = drive else {
                    writeln!(out, "  drive {d}: none")?;
                    continue;
                };
                writeln!(
                    out,
                    "  drive {d}: {:?}, {} bytes{}",
                    drive.kind,
                    drive.driver.size(),
                    if drive.job.stalled {
                        ", waits for room on the host"
                    } else {
                        ""
                    }
                )?;
                writeln!(out, "    {:x?}", drive.task)?;
                let j = &drive.job;
                writeln!(
                    out,
                    "    {:?} at {:#x}, {} left, buffer {}..{}",
                    j.phase, j.lba, j.left, j.pos, j.end
                )?;
            }
        }
        Ok(())
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
    fn pci(&mut self) -> Option<&mut dyn PciDevice> {
        Some(self)
    }
    fn media(&mut self) -> Option<&mut dyn MediaSink> {
        Some(self)
    }
}

impl Pio for Ide {
    fn read(&mut self, port: u16, size: u8) -> u32 {
        let mut bytes = [0; 4];
        let n = usize::from(size.clamp(1, 4));
        if let Port::Data(channel) = self.port(port) {
            self.channels[channel].read_data(&mut bytes[..n]);
        } else {
            for (byte, at) in bytes[..n].iter_mut().zip(0..) {
                *byte = self.read_byte(port.wrapping_add(at));
            }
        }
        u32::from_le_bytes(bytes)
    }

    fn write(&mut self, port: u16, size: u8, value: u32) {
        let bytes = value.to_le_bytes();
        let n = usize::from(size.clamp(1, 4));
        if let Port::Data(channel) = self.port(port) {
            let phys = self.phys.clone();
            self.channels[channel].write_data(&bytes[..n], &phys);
        } else {
            for (byte, at) in bytes[..n].iter().zip(0..) {
                self.write_byte(port.wrapping_add(at), *byte);
            }
        }
    }

    fn read_string(&mut self, port: u16, size: u8, data: &mut [u8]) {
        if let Port::Data(channel) = self.port(port) {
            return self.channels[channel].read_data(data);
        }
        for unit in data.chunks_mut(usize::from(size.clamp(1, 4))) {
            let bytes = Pio::read(self, port, size).to_le_bytes();
            unit.copy_from_slice(&bytes[..unit.len()]);
        }
    }

    fn write_string(&mut self, port: u16, size: u8, data: &[u8]) {
        if let Port::Data(channel) = self.port(port) {
            let phys = self.phys.clone();
            return self.channels[channel].write_data(data, &phys);
        }
        for unit in data.chunks(usize::from(size.clamp(1, 4))) {
            let mut bytes = [0; 4];
            bytes[..unit.len()].copy_from_slice(unit);
            Pio::write(self, port, size, u32::from_le_bytes(bytes));
        }
    }
}

impl PciDevice for Ide {
    fn bar_moved(&mut self, bar: usize, address: Option<u64>) {
        if bar == BAR_BUS_MASTER {
            self.move_bus_master(address);
        }
    }
}

impl MediaSink for Ide {
    fn change_medium(
        &mut self,
        unit: u32,
        driver: Box<dyn BlockDriver>,
        force: bool,
    ) -> Result<Option<Box<dyn BlockDriver>>, Box<dyn BlockDriver>> {
        let channel = self.channels.get_mut(unit as usize / 2);
        match channel.and_then(|c| c.drives[unit as usize % 2].as_mut()) {
            Some(drive) if drive.is_cd() => drive.change_medium(driver, force).map(Some),
            _ => Err(driver),
        }
    }
}

#[cfg(test)]
mod tests;
