//! The ACPI tables and how the firmware is handed them.
//!
//! Source: ACPI 2.0 (FADT revision 3) and 6.4, chapter 5; IA-PC HPET specification 1.0a, 3.2.4.

use pdm::cfgm::Node;
use pdm::{Host, Result};

use super::loader::{Script, Zone};
use super::{ACPI_DISABLE, ACPI_ENABLE, PM_BASE, SCI, SMI_COMMAND, dsdt};
use crate::chipset::{hpet, ioapic};

const TABLES: &str = "etc/acpi/tables";
const RSDP: &str = "etc/acpi/rsdp";
const SCRIPT: &str = "etc/table-loader";

const HEADER: usize = 36;
const OEM: &[u8; 6] = b"VBOX  ";
const CREATOR: &[u8; 4] = b"OXBX";

/// What the tables depend on.
///
/// Configuration of the `acpi` device: `IOAPIC`, `HpetEnabled`, `FdcEnabled` (default 1, 0, 1),
/// `SerialNIoPortBase` and `SerialNIrq` for N 0 to 3, `ParallelNIoPortBase` and `ParallelNIrq` for
/// N 0 and 1 (base 0: not there).
#[derive(Debug, Clone)]
pub struct Machine {
    /// Processors.
    pub cpus: u32,
    /// An I/O APIC is there.
    pub ioapic: bool,
    /// An HPET is there.
    pub hpet: bool,
    /// A floppy controller is there.
    pub floppy: bool,
    /// Ports and interrupts of COM1 to COM4.
    pub serial: [Option<(u16, u8)>; 4],
    /// Ports and interrupts of LPT1 and LPT2.
    pub parallel: [Option<(u16, u8)>; 2],
    /// Bytes of RAM below 4 GiB.
    pub low_ram: u64,
}

impl Machine {
    /// From the configuration.
    ///
    /// # Errors
    /// [`pdm::Error::Config`] for values out of range.
    pub fn new(config: &Node, host: &dyn Host) -> Result<Self> {
        let port = |class: &str, n: usize, irq: u64| {
            let base = config.int_in(&format!("{class}{n}IoPortBase"), 0, 0..=0xfff8)?;
            let irq = config.int_in(&format!("{class}{n}Irq"), irq, 0..=15)?;
            Ok::<_, pdm::Error>((base != 0).then_some((base as u16, irq as u8)))
        };
        Ok(Self {
            cpus: host.cpu_count().max(1),
            ioapic: config.bool("IOAPIC", true)?,
            hpet: config.bool("HpetEnabled", false)?,
            floppy: config.bool("FdcEnabled", true)?,
            serial: [
                port("Serial", 0, 4)?,
                port("Serial", 1, 3)?,
                port("Serial", 2, 4)?,
                port("Serial", 3, 3)?,
            ],
            parallel: [port("Parallel", 0, 7)?, port("Parallel", 1, 5)?],
            low_ram: host.ram_size().0,
        })
    }

    /// First address of the PCI memory window. The firmware assigns from the same places.
    pub fn pci_start(&self) -> u32 {
        match self.low_ram {
            0..=0x8000_0000 => 0x8000_0000,
            0x8000_0001..=0xc000_0000 => 0xc000_0000,
            _ => 0xe000_0000,
        }
    }

    /// The firmware files: tables, root pointer, and the script that places them.
    pub fn files(&self) -> [(&'static str, Vec<u8>); 3] {
        let mut blob = Blob::default();
        blob.script.allocate(TABLES, 64, Zone::High);
        blob.script.allocate(RSDP, 16, Zone::FSegment);
        // The FACS wants 64-byte alignment: it comes first.
        blob.data.extend(facs());
        let dsdt = blob.table(b"DSDT", 2, b"VBOXBIOS", &dsdt::definition(self), &[]);
        let mut entries = vec![blob.table(
            b"FACP",
            3,
            b"VBOXFACP",
            &fadt(0, dsdt),
            &[(36, 4), (40, 4), (140, 8)],
        )];
        if self.ioapic {
            entries.push(blob.table(b"APIC", 1, b"VBOXAPIC", &self.madt(), &[]));
        }
        if self.hpet {
            entries.push(blob.table(b"HPET", 1, b"VBOXHPET", &hpet_table(), &[]));
        }
        let narrow: Vec<u8> = entries
            .iter()
            .flat_map(|e| (*e as u32).to_le_bytes())
            .collect();
        let wide: Vec<u8> = entries
            .iter()
            .flat_map(|e| (*e as u64).to_le_bytes())
            .collect();
        let at = |size: usize| (0..entries.len()).map(move |i| (HEADER + i * size, size as u8));
        let rsdt = blob.table(b"RSDT", 1, b"VBOXRSDT", &narrow, &at(4).collect::<Vec<_>>());
        let xsdt = blob.table(b"XSDT", 1, b"VBOXXSDT", &wide, &at(8).collect::<Vec<_>>());
        let mut script = blob.script;
        script.pointer(RSDP, 16, 4, TABLES);
        script.pointer(RSDP, 24, 8, TABLES);
        script.checksum(RSDP, 8, 0, 20);
        script.checksum(RSDP, 32, 0, 36);
        let pointer = rsdp(rsdt as u32, xsdt as u64);
        [
            (TABLES, blob.data),
            (RSDP, pointer),
            (SCRIPT, script.finish()),
        ]
    }

    fn madt(&self) -> Vec<u8> {
        let mut body = 0xfee0_0000u32.to_le_bytes().to_vec();
        body.extend(1u32.to_le_bytes()); // a PIC pair is there, too
        for cpu in 0..self.cpus.min(255) as u8 {
            body.extend([0, 8, cpu, cpu, 1, 0, 0, 0]);
        }
        body.extend([1, 12, 0, 0]);
        body.extend((ioapic::ADDRESS as u32).to_le_bytes());
        body.extend(0u32.to_le_bytes());
        // The timer comes in at pin 2; the SCI is a level, active high.
        body.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
        body.extend([2, 10, 0, SCI, SCI, 0, 0, 0, 0x0d, 0]);
        // LINT1 of all processors is NMI.
        body.extend([4, 6, 0xff, 0, 0, 1]);
        body
    }
}

/// Tables that go into one file, with the script that fixes them.
#[derive(Default)]
struct Blob {
    data: Vec<u8>,
    script: Script,
}

impl Blob {
    /// Appends a table. `pointers` are fields (offset in the table, bytes) that hold offsets in
    /// this file. Gives the table's own offset.
    fn table(
        &mut self,
        sign: &[u8; 4],
        revision: u8,
        id: &[u8; 8],
        body: &[u8],
        pointers: &[(usize, u8)],
    ) -> usize {
        self.data.resize(self.data.len().next_multiple_of(16), 0);
        let start = self.data.len();
        let len = HEADER + body.len();
        self.data.extend(sign);
        self.data.extend((len as u32).to_le_bytes());
        self.data.extend([revision, 0]);
        self.data.extend(OEM);
        self.data.extend(id);
        self.data.extend(1u32.to_le_bytes());
        self.data.extend(CREATOR);
        self.data.extend(1u32.to_le_bytes());
        self.data.extend(body);
        for (offset, size) in pointers {
            self.script.pointer(TABLES, start + offset, *size, TABLES);
        }
        self.script.checksum(TABLES, start + 9, start, len);
        start
    }
}

fn facs() -> Vec<u8> {
    let mut facs = b"FACS".to_vec();
    facs.extend(64u32.to_le_bytes());
    facs.resize(64, 0);
    facs[32] = 1;
    facs
}

/// A generic address in I/O space; no bits: not there.
fn port(address: u16, bits: u8) -> Vec<u8> {
    let mut out = vec![1, bits, 0, 0];
    out.extend(u64::from(address).to_le_bytes());
    out
}

/// The fixed description without its header. `facs` and `dsdt` are offsets in the file.
fn fadt(facs: usize, dsdt: usize) -> Vec<u8> {
    const WBINVD: u32 = 1;
    const PROC_C1: u32 = 1 << 2;
    const RTC_NOT_FIXED: u32 = 1 << 6;
    const RESET_REGISTER: u32 = 1 << 10;
    let mut t = Vec::new();
    let word = |t: &mut Vec<u8>, value: u32| t.extend(value.to_le_bytes());
    let event: u32 = PM_BASE.into();
    word(&mut t, facs as u32);
    word(&mut t, dsdt as u32);
    t.extend([0, 1]); // desktop
    t.extend(u16::from(SCI).to_le_bytes());
    word(&mut t, SMI_COMMAND.into());
    t.extend([ACPI_ENABLE, ACPI_DISABLE, 0, 0]);
    // PM1a and PM1b events, PM1a and PM1b control, PM2, timer, GPE0, GPE1.
    for block in [event, 0, event + 4, 0, 0, event + 8, event + 0xc, 0] {
        word(&mut t, block);
    }
    t.extend([4, 2, 0, 4, 4, 0, 0, 0]);
    // C2 and C3 latencies that say there is no such state; no cache flush; no duty cycle.
    t.extend([0xff, 0x0f, 0xff, 0x0f, 0, 0, 0, 0, 0, 0]);
    t.extend([0, 0, 0x32]); // no day or month alarm; the century's place
    t.extend([3, 0, 0]); // legacy devices, 8042
    word(&mut t, WBINVD | PROC_C1 | RTC_NOT_FIXED | RESET_REGISTER);
    t.extend([1, 8, 0, 1]);
    t.extend(0xcf9u64.to_le_bytes());
    t.extend([6, 0, 0, 0]);
    t.extend(0u64.to_le_bytes());
    t.extend((dsdt as u64).to_le_bytes());
    let blocks = [
        (0, 32),
        (0, 0),
        (4, 16),
        (0, 0),
        (0, 0),
        (8, 32),
        (0xc, 32),
        (0, 0),
    ];
    for (offset, bits) in blocks {
        t.extend(port(if bits == 0 { 0 } else { PM_BASE + offset }, bits));
    }
    t
}

fn hpet_table() -> Vec<u8> {
    let mut body = hpet::TABLE_ID.to_le_bytes().to_vec();
    body.extend([0, 0, 0, 0]);
    body.extend(hpet::ADDRESS.to_le_bytes());
    body.push(0);
    body.extend(hpet::MIN_TICK.to_le_bytes());
    body.push(0);
    body
}

fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut out = b"RSD PTR \0".to_vec();
    out.extend(OEM);
    out.push(2);
    out.extend(rsdt.to_le_bytes());
    out.extend(36u32.to_le_bytes());
    out.extend(xsdt.to_le_bytes());
    out.extend([0; 4]);
    out
}
