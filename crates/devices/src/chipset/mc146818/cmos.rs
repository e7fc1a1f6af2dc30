//! What the battery-backed RAM holds when a machine is first turned on.
//!
//! Places: the PC AT layout that every BIOS uses, and the bytes SeaBIOS reads (memory above
//! 16 MiB, above 4 GiB, processor count, boot order).

use pdm::cfgm::Node;
use pdm::{Error, Host, Result};

/// Fills `ram` from the VM's size and the configuration.
pub fn fill(ram: &mut [u8; 256], config: &Node, host: &dyn Host) -> Result<()> {
    let mut floppies = [0; 2];
    for (i, floppy) in floppies.iter_mut().enumerate() {
        *floppy = config.int_in(&format!("FloppyType{i}"), 0, 0..=5)? as u8;
    }
    ram[0x10] = floppies[0] << 4 | floppies[1];
    let mut disks = [0; 2];
    for (i, disk) in disks.iter_mut().enumerate() {
        *disk = config.int_in(&format!("HardDiskType{i}"), 0, 0..=255)? as u8;
    }
    ram[0x12] = disks[0].min(15) << 4 | disks[1].min(15);
    (ram[0x19], ram[0x1a]) = (disks[0], disks[1]);
    let drives = floppies.iter().filter(|f| **f != 0).count() as u8;
    // Equipment: floppies, FPU, PS/2 mouse.
    ram[0x14] = 0x06 | u8::from(drives > 0) | drives.saturating_sub(1) << 6;

    let (low, high) = host.ram_size();
    let kib = |bytes: u64, unit: u64| (bytes / unit).min(0xffff) as u16;
    let mut word = |at: usize, value: u16| {
        ram[at..at + 2].copy_from_slice(&value.to_le_bytes());
    };
    word(0x15, kib(low, 1024).min(640));
    let extended = kib(low.saturating_sub(1 << 20), 1024);
    word(0x17, extended);
    word(0x30, extended);
    word(0x34, kib(low.saturating_sub(16 << 20), 0x1_0000));
    let above = (high / 0x1_0000).min(0xff_ffff) as u32;
    ram[0x5b..0x5e].copy_from_slice(&above.to_le_bytes()[..3]);
    ram[0x5f] = host.cpu_count().saturating_sub(1).min(255) as u8;

    let mut order = 0u16;
    for (i, default) in ["FLOPPY", "DVD", "DISK", "NONE"].iter().enumerate() {
        let key = format!("BootDevice{i}");
        let device = match config.str(&key, default).as_str() {
            "FLOPPY" => 1,
            "DISK" | "IDE" => 2,
            "DVD" => 3,
            "LAN" => 4,
            "NONE" | "" => 0,
            other => {
                let reason = format!("'{other}' is not one of FLOPPY, DVD, DISK, LAN, NONE");
                return Err(Error::Config { key, reason });
            }
        };
        if device != 0 && order < 0x100 {
            // First device in the lowest digit.
            let digit = if order == 0 {
                0
            } else if order < 0x10 {
                4
            } else {
                8
            };
            order |= device << digit;
        }
    }
    ram[0x3d] = order as u8;
    // Bit 0: do not look for a boot signature on floppies.
    ram[0x38] = ((order >> 8) as u8) << 4 | 1;

    let sum: u16 = ram[0x10..=0x2d].iter().map(|b| u16::from(*b)).sum();
    ram[0x2e..0x30].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdm::testing::TestHost;

    #[test]
    fn memory_and_boot_order_are_where_the_firmware_looks() {
        let mut ram = [0; 256];
        let mut config = Node::default();
        config.set("BootDevice0", "DVD").set("BootDevice1", "NONE");
        config.set("BootDevice2", "LAN").set("BootDevice3", "DISK");
        config.set("FloppyType0", 4u64);
        fill(&mut ram, &config, &TestHost::default()).unwrap();
        assert_eq!(ram[0x15..0x19], [0x80, 2, 0, 0x3c]);
        assert_eq!((ram[0x34], ram[0x35], ram[0x5f]), (0, 0, 0));
        assert_eq!((ram[0x3d], ram[0x38]), (0x43, 0x21));
        assert_eq!((ram[0x10], ram[0x14]), (0x40, 0x07));
        config.set("BootDevice0", "TAPE");
        assert!(fill(&mut ram, &config, &TestHost::default()).is_err());
    }
}
