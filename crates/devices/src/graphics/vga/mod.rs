//! VGA with the Bochs VBE display interface, as PCI function 00:02.0.
//!
//! * Ports 0x3B0 to 0x3DF and the window 0xA0000 to 0xBFFFF are the IBM VGA's ([`regs`], [`mem`]).
//! * Ports 0x1CE and 0x1CF are the DISPI ([`dispi`]), for linear modes.
//! * BAR 0 shows video RAM as memory: the guest writes it at full speed. BAR 2 shows both register
//!   sets (VGA at 0x400, DISPI at 0x500), as Linux's `bochs-drm` uses them. The ROM BAR holds the
//!   video BIOS from the file that `VgaRom` names; without that value there is no ROM.
//!
//! Where 256-colour memory is plain bytes (chain-4, linear modes), the window itself is mapped as
//! memory too. Not there: the light pen, interrupts at vertical retrace, EDID.
//!
//! The contents of video RAM belong to the VM's RAM unit of a saved state; this device saves
//! registers.

mod cp437;
mod dispi;
mod mem;
mod regs;
mod render;
mod saved;

use std::sync::Arc;

use pdm::cfgm::Node;
use pdm::pci::{self, Bar, PciDevice};
use pdm::{
    Clock, Device, DeviceReg, DisplaySource, Error, Frame, Host, Mmio, MmioRange, Pio, Result,
    TextScreen,
};
use pgm::{RamBlock, RegionId, RegionKind, WriteFlags};

use dispi::{Change, Dispi};
use mem::{Layout, Vram};
use regs::Regs;
use saved::SAVED_VERSION;

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "vga",
    description: "VGA with Bochs VBE extensions",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

/// PCI identity: vendor, device, subsystem vendor and device. The first is what the Bochs and QEMU
/// video BIOSes and drivers look for.
const IDS: (u16, u16, u16, u16) = (0x1234, 0x1111, 0x1af4, 0x1100);
const REVISION: u8 = 2;
const CLASS_VGA: u32 = 0x03_0000;
const PCI_DEVICE: u8 = 2;

const BAR_VRAM: usize = 0;
const BAR_REGISTERS: usize = 2;
const BAR_ROM: usize = 6;

const REGION_WINDOW: u32 = 0;
const REGION_REGISTERS: u32 = 1;
const REGISTERS_SIZE: u64 = 0x1000;

const WINDOW: u64 = 0xa_0000;
/// RAM is at priority 0, so the window lies above it, and its direct mapping above that.
const PRIORITY_WINDOW: i32 = 1;
const PRIORITY_DIRECT: i32 = 2;
const PRIORITY_BAR: i32 = 1;

/// Memory sizes the device can have, and the usual one.
const VRAM_MIN: u64 = 1 << 20;
const VRAM_MAX: u64 = 256 << 20;
const VRAM_DEFAULT: u64 = 16 << 20;

struct Vga {
    // Wiring.
    clock: Arc<dyn Clock>,
    pci: pci::Handle,
    registers: Arc<dyn MmioRange>,
    vram: Vram,
    rom: Option<RamBlock>,
    // Where memory is shown now.
    vram_region: Option<RegionId>,
    rom_region: Option<RegionId>,
    /// The window mapped as memory: its region, address, length and place in video RAM.
    direct: Option<(RegionId, (u64, u32, u32))>,
    // Guest-visible state.
    regs: Regs,
    dispi: Dispi,
    latch: u32,
}

fn construct(config: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    let size = config.int_in("VRamSize", VRAM_DEFAULT, VRAM_MIN..=VRAM_MAX)?;
    let size = size.next_multiple_of(64 << 10) as u32;
    let rom = match config.str("VgaRom", "") {
        path if path.is_empty() => None,
        path => Some(load_rom(&path)?),
    };
    for (first, count) in [(0x3b0, 12), (0x3c0, 16), (0x3d0, 16), (0x1ce, 2)] {
        host.map_pio(first, count)?;
    }
    host.map_mmio(REGION_WINDOW, WINDOW, 0x2_0000, PRIORITY_WINDOW)?;
    let (vendor, device, sub_vendor, sub_device) = IDS;
    let mut function = pci::Function::new(PCI_DEVICE, 0, vendor, device, CLASS_VGA, REVISION)
        .subsystem(sub_vendor, sub_device)
        .bar(
            BAR_VRAM,
            Bar::Memory {
                size: size.next_power_of_two(),
                prefetch: true,
            },
        )
        .bar(
            BAR_REGISTERS,
            Bar::Memory {
                size: REGISTERS_SIZE as u32,
                prefetch: false,
            },
        );
    if let Some(rom) = &rom {
        function.rom_size = (rom.len() as u32).next_power_of_two();
    }
    let phys = host.phys();
    let rom = match rom {
        Some(data) => {
            let block = host.alloc_ram((data.len() as u64).next_power_of_two())?;
            phys.ram().write(block.offset, &data);
            Some(block)
        }
        None => None,
    };
    let block = host.alloc_ram(size.into())?;
    Ok(Box::new(Vga {
        clock: host.clock(),
        pci: host.pci_function(function)?,
        registers: host.movable_mmio(REGION_REGISTERS, REGISTERS_SIZE, PRIORITY_BAR),
        vram: Vram { phys, block, size },
        rom,
        vram_region: None,
        rom_region: None,
        direct: None,
        regs: Regs::default(),
        dispi: Dispi::default(),
        latch: 0,
    }))
}

/// Reads and checks an option ROM image (PCI Firmware Specification 3.0, 5.2).
fn load_rom(path: &str) -> Result<Vec<u8>> {
    let fail = |reason: String| Error::File {
        what: path.to_owned(),
        reason,
    };
    let data = std::fs::read(path).map_err(|e| {
        fail(format!(
            "cannot read the video BIOS: {e} (Debian's package 'seabios' has \
             /usr/share/seabios/vgabios-stdvga.bin)"
        ))
    })?;
    if !data.starts_with(&[0x55, 0xaa]) || data.len() > 256 << 10 {
        return Err(fail("this is not an option ROM of up to 256 KiB".into()));
    }
    let mut data = data;
    data.resize(data.len().next_multiple_of(4096), 0xff);
    Ok(data)
}

impl Vga {
    fn layout(&self) -> Layout {
        let vbe_linear = self.dispi.on() && self.dispi.bpp != 4;
        if vbe_linear || self.regs.seq[4] & 8 != 0 {
            Layout::Linear
        } else if self.regs.seq[4] & 4 == 0 {
            Layout::OddEven
        } else {
            Layout::Planar
        }
    }

    /// Address behind the window's byte `offset`, with the bank added; `None` where nothing is
    /// decoded.
    fn window_address(&self, offset: u64) -> Option<u32> {
        if self.dispi.on() {
            let at = u32::try_from(offset).ok().filter(|at| *at < 0x1_0000)?;
            return Some((u32::from(self.dispi.bank) << 16) + at);
        }
        if self.regs.misc & 2 == 0 {
            return None;
        }
        let (first, len) = mem::window(&self.regs);
        let at = u32::try_from(offset).ok()?.checked_sub(first)?;
        (at < len).then_some(at)
    }

    /// Maps the window as memory, or not, as the registers say now.
    fn update_window(&mut self) {
        let wanted = self.direct_window();
        if self.direct.map(|(_, place)| place) == wanted {
            return;
        }
        if let Some((id, _)) = self.direct.take() {
            self.vram.phys.remove(id);
        }
        let Some((gpa, len, at)) = wanted else { return };
        let block = RamBlock {
            offset: self.vram.block.offset + u64::from(at),
            size: len.into(),
        };
        if let Ok(id) = self.show(gpa, block, WriteFlags::ReadWrite, PRIORITY_DIRECT) {
            self.direct = Some((id, (gpa, len, at)));
        }
    }

    fn direct_window(&self) -> Option<(u64, u32, u32)> {
        let plain = mem::plain_writes(&self.regs) || self.dispi.on();
        if self.layout() != Layout::Linear || !plain {
            return None;
        }
        let (first, len, at) = if self.dispi.on() {
            (0, 0x1_0000, u32::from(self.dispi.bank) << 16)
        } else {
            let (first, len) = mem::window(&self.regs);
            (first, len, self.window_address(first.into())?)
        };
        let end = at.checked_add(len)?;
        (end <= self.vram.size).then_some((WINDOW + u64::from(first), len, at))
    }

    fn show(
        &self,
        gpa: u64,
        block: RamBlock,
        writes: WriteFlags,
        priority: i32,
    ) -> Result<RegionId, pgm::Error> {
        let kind = RegionKind::Memory { block, writes };
        self.vram.phys.add(gpa, block.size, priority, kind)
    }

    fn place(&mut self, bar: usize, address: Option<u64>) {
        match bar {
            BAR_VRAM => {
                if let Some(id) = self.vram_region.take() {
                    self.vram.phys.remove(id);
                }
                let block = RamBlock {
                    offset: self.vram.block.offset,
                    size: self.vram.size.into(),
                };
                self.vram_region = address.and_then(|gpa| {
                    self.show(gpa, block, WriteFlags::ReadWrite, PRIORITY_BAR)
                        .ok()
                });
            }
            BAR_REGISTERS => self.registers.set(address),
            BAR_ROM => {
                if let Some(id) = self.rom_region.take() {
                    self.vram.phys.remove(id);
                }
                self.rom_region = address.zip(self.rom).and_then(|(gpa, block)| {
                    self.show(gpa, block, WriteFlags::ReadOnly, PRIORITY_BAR)
                        .ok()
                });
            }
            _ => {}
        }
    }

    fn source(&self) -> render::Source<'_> {
        render::Source {
            regs: &self.regs,
            dispi: &self.dispi,
            vram: &self.vram,
            now_ns: self.clock.now_ns(),
        }
    }

    /// Input status 1: display enable and vertical retrace follow the clock, at the VGA's line
    /// rate of 31.5 kHz.
    fn input_status_1(&self) -> u8 {
        const LINE_NS: u64 = 31_778;
        let total = u64::from(self.regs.total_lines()).clamp(200, 2048);
        let now = self.clock.now_ns() % (total * LINE_NS);
        let (line, dot) = (now / LINE_NS, now % LINE_NS);
        let shown = u64::from(self.regs.lines()).min(total - 20);
        let retrace = u64::from(self.regs.retrace_line()).clamp(shown, total - 8);
        let blank = line >= shown || dot > LINE_NS * 4 / 5;
        let in_retrace = line >= retrace && line < retrace + 8;
        u8::from(blank) | u8::from(in_retrace) << 3
    }

    fn read_port(&mut self, port: u16) -> u8 {
        match port {
            0x3ba | 0x3da => {
                let status = self.input_status_1();
                if self.regs.status_read(port) {
                    status
                } else {
                    0xff
                }
            }
            _ => self.regs.read(port),
        }
    }

    fn write_port(&mut self, port: u16, value: u8) {
        self.regs.write(port, value);
        // Only these decide where the window lies and what a write does.
        if matches!(port, 0x3c2 | 0x3c5 | 0x3cf) {
            self.update_window();
        }
    }

    fn write_dispi(&mut self, index: u16, value: u16) {
        match self.dispi.write(index, value, self.vram.size) {
            Change::Nothing => return,
            Change::Window => {}
            Change::Clear => self.vram.clear(),
        }
        self.update_window();
    }
}

impl Device for Vga {
    fn reset(&mut self) {
        self.regs = Regs::default();
        self.dispi = Dispi::default();
        self.latch = 0;
        for (bar, address) in self.pci.reset() {
            self.place(bar, address);
        }
        self.update_window();
    }

    fn save(&self) -> Result<Vec<u8>> {
        saved::save(self)
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        for (bar, address) in saved::load(self, version, data)? {
            self.place(bar, address);
        }
        self.update_window();
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        let (width, height, depth) = self.source().mode();
        let r = &self.regs;
        writeln!(out, "{width}x{height}, {depth} bits per pixel (0: text)")?;
        writeln!(out, "video RAM {} KiB", self.vram.size >> 10)?;
        writeln!(
            out,
            "misc {:02x} attribute index {:02x}",
            r.misc, r.attr_index
        )?;
        writeln!(out, "sequencer  {:02x?}", &r.seq[..5])?;
        writeln!(out, "CRTC       {:02x?}", &r.crtc[..0x19])?;
        writeln!(out, "graphics   {:02x?}", &r.gfx[..9])?;
        writeln!(out, "attribute  {:02x?}", &r.attr[..0x15])?;
        writeln!(out, "{:x?}", self.dispi)?;
        let window = match self.direct {
            Some((_, (gpa, len, at))) => format!("memory: {gpa:#x}, {len:#x} bytes, from {at:#x}"),
            None => format!("{:?}", self.layout()),
        };
        writeln!(out, "window {window}")
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
    fn mmio(&mut self) -> Option<&mut dyn Mmio> {
        Some(self)
    }
    fn pci(&mut self) -> Option<&mut dyn PciDevice> {
        Some(self)
    }
    fn display(&mut self) -> Option<&mut dyn DisplaySource> {
        Some(self)
    }
}

impl Pio for Vga {
    fn read(&mut self, port: u16, size: u8) -> u32 {
        match port {
            0x1ce => return self.dispi.index.into(),
            // VirtualBox's extension: the size of video RAM.
            0x1cf if size == 4 && self.dispi.index == dispi::INDEX_ID => return self.vram.size,
            0x1cf => return self.dispi.read(self.dispi.index, self.vram.size).into(),
            _ => {}
        }
        (0..u16::from(size.min(4))).fold(0, |value, i| {
            let byte = self.read_port(port.wrapping_add(i));
            value | u32::from(byte) << (8 * i)
        })
    }

    fn write(&mut self, port: u16, size: u8, value: u32) {
        match port {
            0x1ce => self.dispi.index = value as u16,
            0x1cf => self.write_dispi(self.dispi.index, value as u16),
            _ => {
                // `out dx, ax` to an index port writes index and data.
                for i in 0..u16::from(size.min(4)) {
                    self.write_port(port.wrapping_add(i), (value >> (8 * i)) as u8);
                }
            }
        }
    }
}

/// Registers in BAR 2: VGA ports from 0x3C0 at 0x400, DISPI registers at 0x500.
enum Register {
    Port(u16),
    /// Index and which of its two bytes.
    Dispi(u16, u32),
    None,
}

fn register(offset: u64) -> Register {
    match offset {
        0x400..0x420 => Register::Port(0x3c0 + (offset - 0x400) as u16),
        0x500..0x516 => Register::Dispi((offset - 0x500) as u16 / 2, (offset & 1) as u32),
        _ => Register::None,
    }
}

impl Mmio for Vga {
    fn read(&mut self, _: usize, region: u32, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = if region == REGION_WINDOW {
                match self.window_address(at) {
                    Some(addr) => {
                        let layout = self.layout();
                        mem::read(&self.vram, &self.regs, &mut self.latch, layout, addr)
                    }
                    None => 0xff,
                }
            } else {
                match register(at) {
                    Register::Port(port) => self.read_port(port),
                    Register::Dispi(index, half) => {
                        (self.dispi.read(index, self.vram.size) >> (8 * half)) as u8
                    }
                    // No EDID and no extended registers here.
                    Register::None => 0,
                }
            };
        }
    }

    fn write(&mut self, _: usize, region: u32, offset: u64, data: &[u8]) {
        if region == REGION_WINDOW {
            let layout = self.layout();
            for (byte, at) in data.iter().zip(offset..) {
                if let Some(addr) = self.window_address(at) {
                    mem::write(&self.vram, &self.regs, self.latch, layout, addr, *byte);
                }
            }
            return;
        }
        let mut i = 0;
        while i < data.len() {
            match register(offset + i as u64) {
                Register::Port(port) => self.write_port(port, data[i]),
                // DISPI registers are written as whole words.
                Register::Dispi(index, 0) if i + 1 < data.len() => {
                    self.write_dispi(index, u16::from_le_bytes([data[i], data[i + 1]]));
                    i += 1;
                }
                Register::Dispi(index, 0) => self.write_dispi(index, data[i].into()),
                Register::Dispi(..) | Register::None => {}
            }
            i += 1;
        }
    }
}

impl PciDevice for Vga {
    fn bar_moved(&mut self, bar: usize, address: Option<u64>) {
        self.place(bar, address);
    }
}

impl DisplaySource for Vga {
    fn frame(&mut self) -> Frame {
        self.source().frame()
    }
    fn mode(&self) -> (u32, u32, u32) {
        self.source().mode()
    }
    fn text(&mut self) -> Option<TextScreen> {
        self.source().text()
    }
}

#[cfg(test)]
mod tests;
