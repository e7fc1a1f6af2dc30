//! Intel 82371AB (PIIX4) power management function at 00:07.0: ACPI fixed hardware, SMI command
//! ports, SMBus; and the ACPI tables that describe the machine ([`tables`]).
//!
//! Source: 82371AB datasheet (290562), chapters 7 (function 3 registers) and 10; ACPI 2.0, 4.7.
//! A write of the enable or disable code to port 0xB2 does at once what an SMI handler would do,
//! and, while APMC_EN is set, also raises an SMI on the first processor. Without `SMM` the function
//! says at reset that SMIs are already set up, so that firmware leaves them alone, and raises none.
//! The SMBus host is an idle controller with no devices: every transaction ends with a device
//! error. General-purpose event 0 has status and enable registers and no sources.
//!
//! Configuration: `SMM` (off by default), and see [`tables::Machine`].

mod aml;
mod dsdt;
mod loader;
pub mod tables;
#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use pdm::cfgm::Node;
use pdm::irq::{AcpiButtons, CpuSignals};
use pdm::pci::{CONFIG_SIZE, Function, Handle, PciDevice};
use pdm::{
    Clock, Device, DeviceReg, Host, IrqLine, Pio, PioRange, Result, Timer, TimerSink, VmControl,
    VmRequest, ssm,
};

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "acpi",
    description: "PIIX4 power management and ACPI tables",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

const SAVED_VERSION: u32 = 1;

/// Where the firmware puts the power management ports; the tables say so too.
pub const PM_BASE: u16 = 0x600;
/// Interrupt of ACPI events.
pub const SCI: u8 = 9;
/// SMI command port.
pub const SMI_COMMAND: u16 = 0xb2;
/// Written to the SMI command port: enter ACPI mode.
pub const ACPI_ENABLE: u8 = 0xa1;
/// Leave it.
pub const ACPI_DISABLE: u8 = 0xa0;
/// PM timer in Hz.
const PM_HZ: u128 = 3_579_545;
/// The timer's status bit is set each time bit 23 changes.
const PM_HALF: u64 = 1 << 23;

const PMBASE: usize = 0x40;
const DEVACTB: usize = 0x58;
/// In the last byte of DEVACTB: writes to port 0xB2 raise an SMI.
const APMC_EN: u8 = 0x02;
const PMREGMISC: usize = 0x80;
const SMBBASE: usize = 0x90;
const SMBHSTCFG: usize = 0xd2;

/// PM1 status and enable bits.
const TIMER: u16 = 1;
const GLOBAL: u16 = 1 << 5;
const POWER_BUTTON: u16 = 1 << 8;
const SLEEP_BUTTON: u16 = 1 << 9;
const RTC: u16 = 1 << 10;
const WAKE: u16 = 1 << 15;
/// PM1 control.
const SCI_EN: u16 = 1;
const GLOBAL_RELEASE: u16 = 1 << 2;
const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE: u16 = 7 << 10;
/// Sleep type codes: the PIIX4's soft off is 0; the tables name this and suspend to RAM.
pub const TYPE_OFF: u8 = 0;
/// Suspend (the request is handed to the VM).
pub const TYPE_SUSPEND: u8 = 1;

struct Acpi {
    /// The processors, when SMIs are raised.
    smi: Option<Arc<dyn CpuSignals>>,
    pci: Handle,
    clock: Arc<dyn Clock>,
    vm: Arc<dyn VmControl>,
    sci: IrqLine,
    overflow: Timer,
    pm_ports: Arc<dyn PioRange>,
    smb_ports: Arc<dyn PioRange>,
    pm_base: Option<u16>,
    smb_base: Option<u16>,
    regs: Registers,
}

#[derive(Default, Clone)]
struct Registers {
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u16,
    gpe_enable: u16,
    /// Half periods of the PM timer up to which the overflow was noted.
    halves: u64,
    /// APMC and APMS (ports 0xB2, 0xB3).
    apm: [u8; 2],
    /// SMBus registers 0 to 15; 0 is the status.
    smb: [u8; 16],
    /// The last power button event was taken by the guest.
    button_handled: bool,
}

fn construct(config: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    let mut function = Function::new(7, 0, 0x8086, 0x7113, 0x06_8000, 3);
    let initial = &mut function.config;
    initial[6] = 0x80;
    initial[7] = 0x02;
    initial[PMBASE] = 1;
    let smm = config.bool("SMM", false)?;
    if !smm {
        initial[DEVACTB + 3] = APMC_EN;
    }
    initial[SMBBASE] = 1;
    // The pin exists for the SMBus interrupt; the SCI is not routed through it.
    initial[0x3d] = 1;
    function.writable[PMBASE] = 0xc0;
    function.writable[PMBASE + 1] = 0xff;
    function.writable[0x44..0x80].fill(0xff);
    function.writable[PMREGMISC] = 1;
    function.writable[SMBBASE] = 0xf0;
    function.writable[SMBBASE + 1] = 0xff;
    function.writable[SMBHSTCFG..SMBHSTCFG + 4].fill(0xff);
    let machine = tables::Machine::new(config, host)?;
    for (name, data) in machine.files() {
        host.add_firmware_file(name, data);
    }
    host.map_pio(SMI_COMMAND, 2)?;
    Ok(Box::new(Acpi {
        smi: smm.then(|| host.cpus()),
        pci: host.pci_function(function)?,
        clock: host.clock(),
        vm: host.vm(),
        sci: host.isa_irq(SCI),
        overflow: host.timer(0, "ACPI timer overflow"),
        pm_ports: host.movable_pio(64),
        smb_ports: host.movable_pio(16),
        pm_base: None,
        smb_base: None,
        regs: Registers::default(),
    }))
}

impl Acpi {
    fn ticks(&self) -> u64 {
        (u128::from(self.clock.now_ns()) * PM_HZ / 1_000_000_000) as u64
    }

    /// Notes overflows of the PM timer up to now.
    fn count(&mut self) {
        let halves = self.ticks() / PM_HALF;
        if halves != self.regs.halves {
            self.regs.halves = halves;
            self.regs.status |= TIMER;
        }
    }

    /// The interrupt line, and the next overflow that matters.
    fn update(&mut self) {
        self.count();
        let r = &self.regs;
        let events = r.status & r.enable & (TIMER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC)
            != 0
            || r.gpe_status & r.gpe_enable != 0;
        self.sci.set(events && r.control & SCI_EN != 0);
        if r.enable & TIMER != 0 && r.status & TIMER == 0 {
            let next = u128::from(r.halves + 1) * u128::from(PM_HALF) * 1_000_000_000;
            let at = u64::try_from(next.div_ceil(PM_HZ)).unwrap_or(u64::MAX);
            self.overflow.arm(at);
        } else {
            self.overflow.disarm();
        }
    }

    fn set_control(&mut self, value: u16) {
        // Going back to legacy mode is not a matter of this bit: firmware owns it.
        let kept = self.regs.control & SCI_EN;
        self.regs.control =
            value & !(SLEEP_ENABLE | GLOBAL_RELEASE | SCI_EN) | value & SCI_EN | kept;
        if value & SLEEP_ENABLE != 0 {
            match ((value & SLEEP_TYPE) >> 10) as u8 {
                TYPE_OFF => self.vm.request(VmRequest::PowerOff),
                TYPE_SUSPEND => {
                    self.regs.status |= WAKE;
                    self.vm.request(VmRequest::Sleep);
                }
                other => {
                    let text =
                        format!("the guest asked for sleep type {other}, which is none here");
                    tracing::debug!("{text}");
                }
            }
        }
    }

    /// The 16-bit register at an even offset.
    fn pm_word(&mut self, offset: u16) -> u16 {
        match offset {
            0x00 => {
                self.count();
                self.regs.status
            }
            0x02 => self.regs.enable,
            0x04 => self.regs.control,
            0x08 => self.ticks() as u16,
            0x0a => (self.ticks() >> 16) as u16 & 0xff,
            0x0c => self.regs.gpe_status,
            0x0e => self.regs.gpe_enable,
            _ => 0,
        }
    }

    /// Writes the bytes of `mask` of the register at an even offset.
    fn set_pm_word(&mut self, offset: u16, value: u16, mask: u16) {
        let merge = |old: u16| old & !mask | value & mask;
        match offset {
            0x00 => {
                self.count();
                let cleared = value & mask;
                if cleared & self.regs.status & POWER_BUTTON != 0 {
                    self.regs.button_handled = true;
                }
                self.regs.status &= !cleared;
            }
            0x02 => {
                self.regs.enable =
                    merge(self.regs.enable) & (TIMER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC);
            }
            0x04 => self.set_control(merge(self.regs.control)),
            0x0c => self.regs.gpe_status &= !(value & mask),
            0x0e => self.regs.gpe_enable = merge(self.regs.gpe_enable),
            _ => {}
        }
        self.update();
    }

    fn pm_read(&mut self, offset: u16, size: u8) -> u32 {
        let mut value = 0;
        for i in 0..u16::from(size.min(4)) {
            let at = offset + i;
            let byte = self.pm_word(at & !1) >> (8 * (at & 1)) & 0xff;
            value |= u32::from(byte) << (8 * i);
        }
        if offset == 8 && size == 4 {
            // One moment, not two halves.
            value = self.ticks() as u32 & 0xff_ffff;
        }
        value
    }

    fn pm_write(&mut self, offset: u16, size: u8, value: u32) {
        let mut i = 0;
        while i < u16::from(size.min(4)) {
            let at = offset + i;
            let word = (value >> (8 * i)) as u16;
            if at & 1 == 0 && i + 1 < u16::from(size) {
                self.set_pm_word(at, word, 0xffff);
                i += 2;
            } else {
                let shift = 8 * (at & 1);
                self.set_pm_word(at & !1, (word & 0xff) << shift, 0xff << shift);
                i += 1;
            }
        }
    }

    fn smb_read(&mut self, offset: u16) -> u8 {
        self.regs
            .smb
            .get(usize::from(offset))
            .copied()
            .unwrap_or(0xff)
    }

    fn smb_write(&mut self, offset: u16, value: u8) {
        match offset {
            // Status: write ones to clear.
            0 | 1 => self.regs.smb[usize::from(offset)] &= !value,
            // Control: a started transaction finds nobody.
            2 => {
                self.regs.smb[2] = value & 0x1f;
                if value & 0x40 != 0 {
                    self.regs.smb[0] |= 0x04;
                }
            }
            3..=15 => self.regs.smb[usize::from(offset)] = value,
            _ => {}
        }
    }

    fn place(&mut self, config: &[u8; CONFIG_SIZE]) {
        let base = |at: usize, mask: u16, on: bool| {
            let port = u16::from_le_bytes([config[at], config[at + 1]]) & mask;
            (on && port != 0).then_some(port)
        };
        let pm = base(PMBASE, 0xffc0, config[PMREGMISC] & 1 != 0);
        let smb = base(SMBBASE, 0xfff0, config[SMBHSTCFG] & 1 != 0);
        if pm != self.pm_base {
            self.pm_base = pm;
            self.pm_ports.set(pm);
        }
        if smb != self.smb_base {
            self.smb_base = smb;
            self.smb_ports.set(smb);
        }
    }

    fn button(&mut self, bit: u16) {
        self.regs.status |= bit;
        if bit == POWER_BUTTON {
            self.regs.button_handled = false;
        }
        self.update();
    }
}

/// Offset of `port` in a window of `size` ports at `base`.
fn inside(port: u16, base: Option<u16>, size: u16) -> Option<u16> {
    port.checked_sub(base?).filter(|offset| *offset < size)
}

impl Pio for Acpi {
    fn read(&mut self, port: u16, size: u8) -> u32 {
        if let SMI_COMMAND | 0xb3 = port {
            return self.regs.apm[usize::from(port - SMI_COMMAND)].into();
        }
        if let Some(offset) = inside(port, self.pm_base, 64) {
            return self.pm_read(offset, size);
        }
        match inside(port, self.smb_base, 16) {
            Some(offset) => self.smb_read(offset).into(),
            None => u32::MAX,
        }
    }

    fn write(&mut self, port: u16, size: u8, value: u32) {
        if port == SMI_COMMAND {
            self.regs.apm[0] = value as u8;
            match value as u8 {
                ACPI_ENABLE => self.regs.control |= SCI_EN,
                ACPI_DISABLE => self.regs.control &= !SCI_EN,
                _ => {}
            }
            self.update();
            if let Some(cpus) = &self.smi
                && self.pci.with_config(|c| c[DEVACTB + 3] & APMC_EN != 0)
            {
                cpus.smi(0);
            }
        } else if port == SMI_COMMAND + 1 {
            self.regs.apm[1] = value as u8;
        } else if let Some(offset) = inside(port, self.pm_base, 64) {
            self.pm_write(offset, size, value);
        } else if let Some(offset) = inside(port, self.smb_base, 16) {
            self.smb_write(offset, value as u8);
        }
    }
}

impl PciDevice for Acpi {
    fn bar_moved(&mut self, _: usize, _: Option<u64>) {}

    fn config_written(&mut self, _: usize, _: usize, config: &mut [u8; CONFIG_SIZE]) {
        self.place(config);
    }
}

impl TimerSink for Acpi {
    fn expired(&mut self, _: u32) {
        self.update();
    }
}

impl AcpiButtons for Acpi {
    fn power_button(&mut self) {
        self.button(POWER_BUTTON);
    }
    fn sleep_button(&mut self) {
        self.button(SLEEP_BUTTON);
    }
    fn guest_entered_acpi(&self) -> bool {
        self.regs.control & SCI_EN != 0
    }
    fn power_button_handled(&self) -> bool {
        self.regs.button_handled
    }
}

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    config: Vec<u8>,
    #[n(1)]
    status: u16,
    #[n(2)]
    enable: u16,
    #[n(3)]
    control: u16,
    #[n(4)]
    gpe_status: u16,
    #[n(5)]
    gpe_enable: u16,
    #[n(6)]
    halves: u64,
    #[n(7)]
    apm: [u8; 2],
    #[n(8)]
    smb: [u8; 16],
    #[n(9)]
    button_handled: bool,
}

impl Device for Acpi {
    fn reset(&mut self) {
        self.pci.reset();
        let config = self.pci.with_config(|c| *c);
        self.place(&config);
        self.regs = Registers {
            halves: self.ticks() / PM_HALF,
            ..Registers::default()
        };
        self.update();
    }

    fn save(&self) -> Result<Vec<u8>> {
        let r = self.regs.clone();
        ssm::encode(&Saved {
            config: self.pci.save(),
            status: r.status,
            enable: r.enable,
            control: r.control,
            gpe_status: r.gpe_status,
            gpe_enable: r.gpe_enable,
            halves: r.halves,
            apm: r.apm,
            smb: r.smb,
            button_handled: r.button_handled,
        })
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let s: Saved = ssm::decode(version, SAVED_VERSION, data)?;
        self.pci.load(&s.config)?;
        let config = self.pci.with_config(|c| *c);
        self.place(&config);
        self.regs = Registers {
            status: s.status,
            enable: s.enable,
            control: s.control,
            gpe_status: s.gpe_status,
            gpe_enable: s.gpe_enable,
            halves: s.halves.min(u64::MAX / 4),
            apm: s.apm,
            smb: s.smb,
            button_handled: s.button_handled,
        };
        self.update();
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn Write) -> std::fmt::Result {
        let r = &self.regs;
        writeln!(
            out,
            "PM ports {:x?}, SMBus ports {:x?}",
            self.pm_base, self.smb_base
        )?;
        writeln!(
            out,
            "PM1 status {:04x} enable {:04x} control {:04x}",
            r.status, r.enable, r.control
        )?;
        writeln!(
            out,
            "GPE0 status {:04x} enable {:04x}",
            r.gpe_status, r.gpe_enable
        )?;
        writeln!(
            out,
            "timer {:06x}, SCI {}",
            self.ticks() & 0xff_ffff,
            self.sci.level()
        )
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
    fn pci(&mut self) -> Option<&mut dyn PciDevice> {
        Some(self)
    }
    fn timers(&mut self) -> Option<&mut dyn TimerSink> {
        Some(self)
    }
    fn acpi(&mut self) -> Option<&mut dyn AcpiButtons> {
        Some(self)
    }
}
