//! SMBIOS tables for the firmware: what `dmidecode` and guest tools read of the machine.
//!
//! Source: DMTF DSP0134 2.5, with VirtualBox's strings. Each string can be changed in the
//! firmware's configuration (`DmiSystemVendor` and so on, see the lists below); the value
//! `<EMPTY>` leaves one out.

use pdm::cfgm::Node;
use pdm::{Error, Result};

/// The firmware file with the structures.
pub const TABLES_FILE: &str = "etc/smbios/smbios-tables";
/// The firmware file with the entry point.
pub const ANCHOR_FILE: &str = "etc/smbios/smbios-anchor";

/// Longest string a guest is shown.
const MAX_STRING: usize = 64;

/// A structure being written: fixed part, then strings.
struct Structure {
    fixed: Vec<u8>,
    strings: Vec<u8>,
    count: u8,
}

impl Structure {
    fn new(kind: u8, handle: u16) -> Self {
        let mut fixed = vec![kind, 0];
        fixed.extend(handle.to_le_bytes());
        Self {
            fixed,
            strings: Vec::new(),
            count: 0,
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.fixed.extend_from_slice(bytes);
        self
    }

    /// Adds a string and its number; an empty one is number 0.
    fn text(&mut self, text: &str) -> &mut Self {
        let kept: Vec<u8> = text
            .bytes()
            .filter(|b| (0x20..0x7f).contains(b))
            .take(MAX_STRING)
            .collect();
        if kept.is_empty() || text == "<EMPTY>" {
            self.fixed.push(0);
        } else {
            self.count += 1;
            self.fixed.push(self.count);
            self.add(&kept);
        }
        self
    }

    fn add(&mut self, text: &[u8]) {
        self.strings.extend_from_slice(text);
        self.strings.push(0);
    }

    fn finish(mut self, out: &mut Tables) {
        self.fixed[1] = self.fixed.len() as u8;
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        self.strings.push(0);
        let size = self.fixed.len() + self.strings.len();
        out.largest = out.largest.max(size);
        out.count += 1;
        out.data.append(&mut self.fixed);
        out.data.append(&mut self.strings);
    }
}

#[derive(Default)]
struct Tables {
    data: Vec<u8>,
    largest: usize,
    count: u16,
}

/// The structures and the entry point, for the firmware to place.
///
/// `config` is the firmware's node; `Uuid` are the 16 bytes of the machine's UUID in its text
/// order.
///
/// # Errors
/// [`Error::Config`] when a number is out of range or the UUID has another length.
pub fn files(config: &Node, version: &str) -> Result<[(&'static str, Vec<u8>); 2]> {
    let text = |key: &str, default: &str| config.str(key, default);
    let byte =
        |key: &str, default: u64| Ok::<_, Error>(config.int_in(key, default, 0..=255)? as u8);
    let mut tables = Tables::default();

    let mut bios = Structure::new(0, 0);
    bios.text(&text("DmiBIOSVendor", "innotek GmbH"));
    bios.text(&text("DmiBIOSVersion", "VirtualBox"));
    bios.bytes(&0xe000u16.to_le_bytes());
    bios.text(&text("DmiBIOSReleaseDate", "12/01/2006"));
    // 128 KiB ROM; ISA, PCI, shadowing, CD boot, selectable boot; ACPI.
    bios.bytes(&[1])
        .bytes(&0x0001_9090u64.to_le_bytes())
        .bytes(&[0x01, 0x00]);
    let release = [
        byte("DmiBIOSReleaseMajor", 0)?,
        byte("DmiBIOSReleaseMinor", 0)?,
    ];
    let firmware = [
        byte("DmiBIOSFirmwareMajor", 0)?,
        byte("DmiBIOSFirmwareMinor", 0)?,
    ];
    bios.bytes(&release).bytes(&firmware);
    bios.finish(&mut tables);

    let mut system = Structure::new(1, 1);
    system.text(&text("DmiSystemVendor", "innotek GmbH"));
    system.text(&text("DmiSystemProduct", "VirtualBox"));
    system.text(&text("DmiSystemVersion", "1.2"));
    system.text(&text("DmiSystemSerial", "0"));
    system.bytes(&uuid(config)?);
    system.bytes(&[6]); // woken by the power switch
    system.text(&text("DmiSystemSKU", "<EMPTY>"));
    system.text(&text("DmiSystemFamily", "Virtual Machine"));
    system.finish(&mut tables);

    let mut board = Structure::new(2, 8);
    board.text(&text("DmiBoardVendor", "Oracle Corporation"));
    board.text(&text("DmiBoardProduct", "VirtualBox"));
    board.text(&text("DmiBoardVersion", "1.2"));
    board.text(&text("DmiBoardSerial", "0"));
    board.text(&text("DmiBoardAssetTag", "<EMPTY>"));
    board.bytes(&[9]); // hosting, replaceable
    board.text(&text("DmiBoardLocInChass", "<EMPTY>"));
    board
        .bytes(&3u16.to_le_bytes())
        .bytes(&[byte("DmiBoardBoardType", 10)?, 0]);
    board.finish(&mut tables);

    let mut chassis = Structure::new(3, 3);
    chassis.text(&text("DmiChassisVendor", "Oracle Corporation"));
    chassis.bytes(&[byte("DmiChassisType", 1)?]);
    chassis.text(&text("DmiChassisVersion", "<EMPTY>"));
    chassis.text(&text("DmiChassisSerial", "<EMPTY>"));
    chassis.text(&text("DmiChassisAssetTag", "<EMPTY>"));
    // Safe states, no security; no heights, cords or elements.
    chassis.bytes(&[3, 3, 3, 2]).bytes(&[0; 8]);
    chassis.finish(&mut tables);

    let mut oem = Structure::new(11, 5);
    oem.bytes(&[2]);
    for (key, default) in [
        ("DmiOEMVBoxVer", format!("vboxVer_{version}")),
        ("DmiOEMVBoxRev", "vboxRev_0".into()),
    ] {
        let line = text(key, &default);
        let kept: Vec<u8> = line
            .bytes()
            .filter(|b| (0x20..0x7f).contains(b))
            .take(MAX_STRING)
            .collect();
        oem.add(if kept.is_empty() { b"-" } else { &kept });
    }
    oem.finish(&mut tables);

    Structure::new(127, 0xfeff).finish(&mut tables);
    let anchor = anchor(&tables);
    Ok([(TABLES_FILE, tables.data), (ANCHOR_FILE, anchor)])
}

/// The UUID in SMBIOS order: the first three fields little-endian.
fn uuid(config: &Node) -> Result<[u8; 16]> {
    let Some(bytes) = config.bytes("Uuid") else {
        return Ok([0; 16]);
    };
    let mut uuid: [u8; 16] = bytes.try_into().map_err(|_| Error::Config {
        key: "Uuid".into(),
        reason: "16 bytes are expected".into(),
    })?;
    uuid[..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    Ok(uuid)
}

/// The 2.5 entry point; the firmware fills in the address and both checksums.
fn anchor(tables: &Tables) -> Vec<u8> {
    let mut out = b"_SM_\0\x1f\x02\x05".to_vec();
    out.extend((tables.largest as u16).to_le_bytes());
    out.extend([0; 6]);
    out.extend(b"_DMI_\0");
    out.extend((tables.data.len() as u16).to_le_bytes());
    out.extend([0; 4]);
    out.extend(tables.count.to_le_bytes());
    out.push(0x25);
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |s, b| s.wrapping_sub(*b));
    out[0x15] = sum(&out[0x10..0x1f]);
    out[4] = sum(&out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Structures as (type, fixed part, strings).
    fn parse(mut data: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
        let mut all = Vec::new();
        while !data.is_empty() {
            let len = usize::from(data[1]);
            let end = len + data[len..].windows(2).position(|w| w == [0, 0]).unwrap() + 2;
            let text = data[len..end].split(|b| *b == 0).filter(|s| !s.is_empty());
            let strings = text
                .map(|s| String::from_utf8(s.to_vec()).unwrap())
                .collect();
            all.push((data[0], data[..len].to_vec(), strings));
            data = &data[end..];
        }
        all
    }

    #[test]
    fn the_machine_says_it_is_virtualbox() {
        let mut config = Node::default();
        config.set("Uuid", (0..16).collect::<Vec<u8>>());
        config
            .set("DmiSystemSerial", "a\nb")
            .set("DmiBoardAssetTag", "<EMPTY>");
        let [(_, tables), (_, anchor)] = files(&config, "4.0").unwrap();
        let all = parse(&tables);
        let kinds: Vec<_> = all.iter().map(|s| s.0).collect();
        assert_eq!(kinds, [0, 1, 2, 3, 11, 127]);
        assert_eq!(all[0].2, ["innotek GmbH", "VirtualBox", "12/01/2006"]);
        assert_eq!(
            all[1].2,
            ["innotek GmbH", "VirtualBox", "1.2", "ab", "Virtual Machine"]
        );
        assert_eq!(all[1].1[8..16], [3, 2, 1, 0, 5, 4, 7, 6]);
        assert_eq!(all[4].2, ["vboxVer_4.0", "vboxRev_0"]);
        let lengths: Vec<_> = all.iter().map(|s| s.1.len()).collect();
        assert_eq!(lengths, [24, 27, 15, 21, 5, 4]);
        assert_eq!(anchor.len(), 31);
        assert_eq!(anchor.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
        assert_eq!(anchor[0x1c], 6);
    }
}
