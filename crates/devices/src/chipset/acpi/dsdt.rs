//! The differentiated system description: what is on the board.

use super::aml::*;
use super::tables::Machine;
use super::{PM_BASE, TYPE_OFF};
use crate::chipset::hpet;

const LINKS: [&str; 4] = ["LNKA", "LNKB", "LNKC", "LNKD"];
const ROUTES: [&str; 4] = ["PRQA", "PRQB", "PRQC", "PRQD"];
/// Interrupts a PCI link may be given.
const LINK_CHOICE: [u32; 4] = [5, 9, 10, 11];

/// The definition block (without table header).
pub fn definition(machine: &Machine) -> Vec<u8> {
    let processors = (0..machine.cpus.min(255)).map(|n| processor(&format!("C{n:03X}"), n as u8));
    let mut system = host_bridge(machine);
    for link in 0..4 {
        system.extend(link_device(link));
    }
    if machine.hpet {
        system.extend(simple(
            "HPET",
            "PNP0103",
            0,
            &[memory32(hpet::ADDRESS as u32, 0x400)],
        ));
    }
    list([
        scope("\\_PR_", processors.collect::<Vec<_>>().concat()),
        // What _PIC was told: 0 is the PIC pair, 1 the I/O APIC.
        name("\\PICF", int(0)),
        method("\\_PIC", 1, store(arg0(), "\\PICF")),
        scope("\\_SB_", system),
        name(
            "\\_S5_",
            package(&[int(TYPE_OFF.into()), int(TYPE_OFF.into()), int(0), int(0)]),
        ),
    ])
}

fn host_bridge(machine: &Machine) -> Vec<u8> {
    let windows = resources(&[
        bus_numbers(0, 0xff),
        io(0xcf8, 8),
        io_window(0, 0xcf7),
        io_window(0xd00, 0xffff),
        memory_window(0xa_0000, 0xb_ffff, true),
        memory_window(0xc_0000, 0xd_ffff, true),
        memory_window(machine.pci_start(), 0xfebf_ffff, false),
    ]);
    let apic = package(&routing(|pirq| [int(0), int(16 + pirq as u64)]));
    let pic = package(&routing(|pirq| {
        [path(&format!("\\_SB_.{}", LINKS[pirq])), int(0)]
    }));
    let body = list([
        name("_HID", eisa_id("PNP0A03")),
        name("_ADR", int(0)),
        name("_BBN", int(0)),
        name("_UID", int(0)),
        name("_CRS", windows),
        name("PRTA", apic),
        name("PRTP", pic),
        method(
            "_PRT",
            0,
            list([when(path("\\PICF"), give(path("PRTA"))), give(path("PRTP"))]),
        ),
        isa_bridge(machine),
    ]);
    device("PCI0", body)
}

/// A routing entry for each slot and pin; INTA of slot 1 is PIRQA.
fn routing(target: impl Fn(usize) -> [Vec<u8>; 2]) -> Vec<Vec<u8>> {
    let pins = (0..32usize).flat_map(|slot| (0..4usize).map(move |pin| (slot, pin)));
    pins.filter(|(slot, _)| *slot != 0)
        .map(|(slot, pin)| {
            let [source, index] = target((slot + pin + 3) % 4);
            let address = int((slot as u64) << 16 | 0xffff);
            package(&[address, int(pin as u64), source, index])
        })
        .collect()
}

fn link_device(link: usize) -> Vec<u8> {
    let route = format!("\\_SB_.PCI0.ISA_.{}", ROUTES[link]);
    let read = || path(&route);
    let current = list([
        name("BUF0", resources(&[interrupts(&[0])])),
        dword_field(path("BUF0"), 5, "IRQN"),
        store(and(read(), int(0x0f), None), "IRQN"),
        give(path("BUF0")),
    ]);
    let set = list([dword_field(arg0(), 5, "IRQN"), store(path("IRQN"), &route)]);
    let status = list([
        when(and(read(), int(0x80), None), give(int(9))),
        give(int(11)),
    ]);
    let body = list([
        name("_HID", eisa_id("PNP0C0F")),
        name("_UID", int(link as u64 + 1)),
        name("_PRS", resources(&[interrupts(&LINK_CHOICE)])),
        method("_STA", 0, status),
        method("_DIS", 0, or(read(), int(0x80), &route)),
        serialized("_CRS", 0, current),
        serialized("_SRS", 1, set),
    ]);
    device(LINKS[link], body)
}

/// A device that is always there, with fixed resources.
fn simple(at: &str, id: &str, unit: u64, descriptors: &[Vec<u8>]) -> Vec<u8> {
    let body = list([
        name("_HID", eisa_id(id)),
        name("_UID", int(unit)),
        name("_STA", int(15)),
        name("_CRS", resources(descriptors)),
    ]);
    device(at, body)
}

fn isa_bridge(machine: &Machine) -> Vec<u8> {
    let mut body = list([
        name("_ADR", int(0x0001_0000)),
        pci_region("PIRQ", 0x60, 4),
        byte_fields("PIRQ", &ROUTES),
        simple(
            "PIC_",
            "PNP0000",
            0,
            &[io(0x20, 2), io(0xa0, 2), io(0x4d0, 2), irq(2)],
        ),
        simple(
            "DMAC",
            "PNP0200",
            0,
            &[io(0, 16), io(0x80, 16), io(0xc0, 32), dma(4)],
        ),
        simple("TIMR", "PNP0100", 0, &[io(0x40, 4), irq(0)]),
        simple("RTC_", "PNP0B00", 0, &[io(0x70, 4), irq(8)]),
        simple("KBD_", "PNP0303", 0, &[io(0x60, 1), io(0x64, 1), irq(1)]),
        simple("MOU_", "PNP0F13", 0, &[irq(12)]),
        simple("SPKR", "PNP0800", 0, &[io(0x61, 1)]),
        simple("FPU_", "PNP0C04", 0, &[io(0xf0, 16), irq(13)]),
        simple(
            "MBRD",
            "PNP0C02",
            0,
            &[
                io(0x92, 1),
                io(0xb2, 2),
                io(0x402, 1),
                io(0x510, 12),
                io(PM_BASE, 64),
                io(PM_BASE + 0x100, 16),
            ],
        ),
    ]);
    if machine.floppy {
        body.extend(simple(
            "FDC0",
            "PNP0700",
            0,
            &[io(0x3f0, 6), io(0x3f7, 1), irq(6), dma(2)],
        ));
    }
    for (n, port) in machine.serial.iter().enumerate() {
        if let Some((base, line)) = port {
            let at = format!("COM{}", n + 1);
            body.extend(simple(
                &at,
                "PNP0501",
                n as u64 + 1,
                &[io(*base, 8), irq(*line)],
            ));
        }
    }
    for (n, port) in machine.parallel.iter().enumerate() {
        if let Some((base, line)) = port {
            let at = format!("LPT{}", n + 1);
            body.extend(simple(
                &at,
                "PNP0400",
                n as u64 + 1,
                &[io(*base, 8), irq(*line)],
            ));
        }
    }
    device("ISA_", body)
}
