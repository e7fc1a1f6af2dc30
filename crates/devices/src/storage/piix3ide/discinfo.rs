//! Data structures that describe a CD drive and its medium (MMC-5, chapters 5 to 7).

use pdm::driver::BlockDriver;

use super::atapi::blocks;

const PROFILE_CD_ROM: u16 = 0x08;
const PROFILE_DVD_ROM: u16 = 0x10;
/// Blocks of the longest CD, 99 minutes; anything larger is a DVD.
const CD_MAX_BLOCKS: u32 = 99 * 60 * 75;

/// Minute, second and frame of a block.
pub fn msf(lba: u32) -> [u8; 3] {
    let frame = lba.saturating_add(150);
    [
        (frame / 4500) as u8,
        (frame / 75 % 60) as u8,
        (frame % 75) as u8,
    ]
}

fn address(lba: u32, as_msf: bool) -> [u8; 4] {
    if as_msf {
        let [m, s, f] = msf(lba);
        [0, m, s, f]
    } else {
        lba.to_be_bytes()
    }
}

/// Puts the length of what follows into the first two bytes.
fn with_length(mut data: Vec<u8>) -> Vec<u8> {
    let len = (data.len() - 2) as u16;
    data[..2].copy_from_slice(&len.to_be_bytes());
    data
}

/// READ TOC/PMA/ATIP of a disc with one data track. `first` is the track or session asked for.
pub fn toc(total: u32, format: u8, as_msf: bool, first: u8) -> Option<Vec<u8>> {
    let mut data = vec![0, 0, 1, 1];
    match format {
        0 => {
            if first > 1 && first != 0xaa {
                return None;
            }
            if first <= 1 {
                data.extend([0, 0x14, 1, 0]);
                data.extend(address(0, as_msf));
            }
            data.extend([0, 0x14, 0xaa, 0]);
            data.extend(address(total, as_msf));
        }
        1 => {
            data.extend([0, 0x14, 1, 0]);
            data.extend(address(0, as_msf));
        }
        2 => {
            // Full table: first track, last track, lead-out, track 1.
            let end = msf(total);
            for (point, p) in [
                (0xa0, [1, 0, 0]),
                (0xa1, [1, 0, 0]),
                (0xa2, end),
                (1, msf(0)),
            ] {
                data.extend([1, 0x14, 0, point, 0, 0, 0, 0, p[0], p[1], p[2]]);
            }
        }
        _ => return None,
    }
    Some(with_length(data))
}

/// GET CONFIGURATION from feature `start`; `kind` 0 all, 1 the current ones, 2 just this one.
pub fn configuration(driver: &dyn BlockDriver, start: u16, kind: u8) -> Vec<u8> {
    let current = match blocks(driver) {
        0 => 0,
        n if n > CD_MAX_BLOCKS => PROFILE_DVD_ROM,
        _ => PROFILE_CD_ROM,
    };
    let present = current != 0;
    let mut data = vec![0; 8];
    data[6..8].copy_from_slice(&current.to_be_bytes());
    let profile = |p: u16| {
        let [high, low] = p.to_be_bytes();
        [high, low, u8::from(p == current), 0]
    };
    let mut profiles = profile(PROFILE_DVD_ROM).to_vec();
    profiles.extend(profile(PROFILE_CD_ROM));
    // Code, version/persistent/current, data.
    let features: [(u16, u8, bool, Vec<u8>); 6] = [
        (0, 3, true, profiles),
        // Core: ATAPI interface.
        (1, 0x0b, true, vec![0, 0, 0, 2, 1, 0, 0, 0]),
        // Removable medium: tray, eject, lock.
        (3, 0x0b, true, vec![0x29, 0, 0, 0]),
        // Random readable: 2048 bytes, blocking 16.
        (0x10, 0, present, vec![0, 0, 8, 0, 0, 0x10, 0, 0]),
        (0x1e, 8, current == PROFILE_CD_ROM, vec![0, 0, 0, 0]),
        (0x1f, 8, current == PROFILE_DVD_ROM, vec![0, 0, 0, 0]),
    ];
    for (code, flags, now, body) in features {
        let wanted = match kind {
            2 => code == start,
            1 => code >= start && now,
            _ => code >= start,
        };
        if wanted {
            data.extend(code.to_be_bytes());
            data.push(flags & !1 | u8::from(now));
            data.push(body.len() as u8);
            data.extend(body);
        }
    }
    let len = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&len.to_be_bytes());
    data
}

/// MODE SENSE. `page` is byte 2 of the packet: page control and code. `None` for unknown pages and
/// saved values.
pub fn mode_pages(driver: &dyn BlockDriver, page: u8, locked: bool, long: bool) -> Option<Vec<u8>> {
    if page >> 6 == 3 {
        return None;
    }
    let changeable = page >> 6 == 1;
    let recovery = vec![0x01, 0x06, 0, 5, 0, 0, 0, 0];
    let mut capabilities = vec![0x2a, 0x12, 0x3b, 0, 0x71, 0x60, 0x29, 0];
    if locked {
        capabilities[6] |= 2;
    }
    // Speeds (24x in kB/s), two volume levels, 512 KiB buffer, current speed.
    capabilities.extend([0x10, 0x89, 0, 2, 2, 0, 0x10, 0x89, 0, 0, 0, 0]);
    let mut body = Vec::new();
    for mut one in [recovery, capabilities] {
        if page & 0x3f == one[0] || page & 0x3f == 0x3f {
            if changeable {
                one[2..].fill(0);
            }
            body.extend(one);
        }
    }
    if body.is_empty() {
        return None;
    }
    let medium = match blocks(driver) {
        0 => 0x70,
        _ => 1,
    };
    let mut data = if long {
        vec![0, 0, medium, 0, 0, 0, 0, 0]
    } else {
        vec![0, medium, 0, 0]
    };
    data.extend(body);
    if long {
        return Some(with_length(data));
    }
    data[0] = (data.len() - 1) as u8;
    Some(data)
}

/// READ DISC INFORMATION of a finished disc.
pub fn disc_information() -> Vec<u8> {
    let mut data = vec![0; 34];
    // Last session complete, disc complete.
    data[2] = 0x0e;
    data[3..7].copy_from_slice(&[1, 1, 1, 1]);
    data[7] = 0x20;
    data[16..24].fill(0xff);
    with_length(data)
}

/// READ TRACK INFORMATION of the one track.
pub fn track_information(total: u32) -> Vec<u8> {
    let mut data = vec![0; 36];
    data[2] = 1;
    data[3] = 1;
    data[5] = 4;
    data[6] = 1;
    data[24..28].copy_from_slice(&total.to_be_bytes());
    with_length(data)
}

/// READ DVD STRUCTURE: physical format information and copyright of a DVD-ROM.
pub fn dvd_structure(total: u32, format: u8) -> Option<Vec<u8>> {
    if total <= CD_MAX_BLOCKS {
        return None;
    }
    match format {
        0 => {
            let mut data = vec![0; 4 + 2048];
            data[4] = 1;
            data[5] = 0x0f;
            data[6] = 1;
            // The data area starts at 0x30000.
            data[9..12].copy_from_slice(&0x3_0000u32.to_be_bytes()[1..]);
            let last = 0x3_0000u32.saturating_add(total - 1).min(0xff_ffff);
            data[13..16].copy_from_slice(&last.to_be_bytes()[1..]);
            Some(with_length(data))
        }
        1 => Some(with_length(vec![0; 8])),
        _ => None,
    }
}
