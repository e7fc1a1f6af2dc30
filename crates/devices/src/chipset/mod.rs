//! The PC's chipset: an Intel 440FX host bridge with a PIIX3 south bridge, a PIIX4 power
//! management function, and the interrupt controllers, timers and firmware ports around them.

pub mod acpi;
pub mod apic;
pub mod debugcon;
pub mod fwcfg;
pub mod hpet;
pub mod i440fx;
pub mod i8237;
pub mod i8254;
pub mod i8259;
pub mod ioapic;
pub mod mc146818;
pub mod pcbios;
pub mod pciconf;
pub mod piix3isa;
pub mod smbios;
