//! The one ordered list of devices. Construction order follows it; save, load, conformance tests
//! and `debugvm info` loop over it.

use pdm::DeviceReg;

/// All devices this build has.
pub static DEVICES: &[DeviceReg] = &[
    // Chipset: the host bridge before the ROM, the local APICs before what signals them.
    crate::chipset::apic::REG,
    crate::chipset::ioapic::REG,
    crate::chipset::i8259::REG,
    crate::chipset::i8237::REG,
    crate::chipset::i8254::REG,
    crate::chipset::mc146818::REG,
    crate::chipset::hpet::REG,
    crate::chipset::pciconf::REG,
    crate::chipset::i440fx::REG,
    crate::chipset::piix3isa::REG,
    crate::chipset::pcbios::REG,
    crate::chipset::acpi::REG,
    crate::chipset::fwcfg::REG,
    crate::chipset::debugcon::REG,
    crate::graphics::vga::REG,
    crate::storage::piix3ide::REG,
    crate::storage::i82078::REG,
    crate::input::pckbd::REG,
    crate::serial::REG,
    crate::parallel::REG,
];

/// The row of `name`.
pub fn find(name: &str) -> Option<&'static DeviceReg> {
    DEVICES.iter().find(|d| d.name == name)
}
