//! SMART: the values of a drive in good health.
//!
//! Facts: ATA/ATAPI-6, 8.55 (commands), annex of SFF-8035i 2.0 (attribute tables).

use super::drive::{Drive, SECTOR};

/// Attribute: id, flags, value, worst, raw, threshold.
const ATTRIBUTES: [(u8, u16, u8, u8, u64, u8); 9] = [
    (1, 0x0f, 100, 100, 0, 6),    // raw read error rate
    (3, 0x03, 100, 100, 16, 0),   // spin-up time
    (4, 0x12, 100, 100, 100, 20), // start/stop count
    (5, 0x13, 100, 100, 0, 36),   // reallocated sectors
    (9, 0x12, 100, 100, 1, 0),    // power-on hours
    (12, 0x12, 100, 100, 1, 0),   // power cycles
    (194, 0x22, 69, 69, 31, 50),  // temperature
    (197, 0x12, 100, 100, 0, 0),  // pending sectors
    (198, 0x10, 100, 100, 0, 0),  // uncorrectable sectors
];

/// Makes the last byte complete the sum to zero.
fn checked(mut data: Vec<u8>) -> Vec<u8> {
    let sum = data[..SECTOR - 1]
        .iter()
        .fold(0u8, |a, b| a.wrapping_add(*b));
    data[SECTOR - 1] = sum.wrapping_neg();
    data
}

fn values(drive: &Drive) -> Vec<u8> {
    let mut data = vec![0; SECTOR];
    data[0] = 0x10;
    for (slot, (id, flags, value, worst, raw, _)) in
        data[2..362].chunks_exact_mut(12).zip(ATTRIBUTES)
    {
        slot[0] = id;
        slot[1..3].copy_from_slice(&flags.to_le_bytes());
        slot[3] = value;
        slot[4] = worst;
        slot[5..11].copy_from_slice(&raw.to_le_bytes()[..6]);
    }
    // Off-line collection done, last self test passed.
    data[362] = if drive.disk.self_test.is_some() {
        0x82
    } else {
        0x80
    };
    data[363] = 0;
    data[364..366].copy_from_slice(&288u16.to_le_bytes());
    // Off-line immediate, self tests, abort on command, surface scan.
    data[367] = 0x79;
    // Saves before standby, autosave; error logging.
    data[368] = 3;
    data[370] = 1;
    data[372] = 2;
    data[373] = 54;
    checked(data)
}

fn thresholds() -> Vec<u8> {
    let mut data = vec![0; SECTOR];
    data[0] = 0x10;
    for (slot, (id, .., threshold)) in data[2..362].chunks_exact_mut(12).zip(ATTRIBUTES) {
        slot[0] = id;
        slot[1] = threshold;
    }
    checked(data)
}

fn log(drive: &Drive, address: u8) -> Option<Vec<u8>> {
    let mut data = vec![0; SECTOR];
    match address {
        // Directory: one sector each of the summary error log and the self test log.
        0 => {
            data[0] = 1;
            data[2] = 1;
            data[12] = 1;
            return Some(data);
        }
        1 => data[0] = 1,
        6 => {
            data[0] = 1;
            if let Some(kind) = drive.disk.self_test {
                // One entry: kind, completed without error, at one hour.
                data[2] = kind;
                data[4] = 1;
                data[508] = 1;
            }
        }
        _ => return None,
    }
    Some(checked(data))
}

/// SMART command; the subcommand is in the features register.
pub fn command(drive: &mut Drive) {
    let t = &drive.task;
    let key = t.lba[1][0] == 0x4f && t.lba[2][0] == 0xc2;
    let sub = t.feature[0];
    if !key || (!drive.disk.smart && sub != 0xd8) {
        return drive.abort();
    }
    match sub {
        0xd0 => {
            let data = values(drive);
            drive.offer_data(data);
        }
        0xd1 => drive.offer_data(thresholds()),
        0xd2 => {
            match drive.task.count[0] {
                0 => drive.disk.smart_autosave = false,
                0xf1 => drive.disk.smart_autosave = true,
                _ => return drive.abort(),
            }
            drive.done();
        }
        0xd3 => drive.done(),
        0xd4 => {
            match drive.task.lba[0][0] {
                kind @ (1 | 2 | 0x81 | 0x82) => drive.disk.self_test = Some(kind),
                0 | 0x7f => {}
                _ => return drive.abort(),
            }
            drive.done();
        }
        0xd5 => match log(drive, drive.task.lba[0][0]) {
            Some(data) if drive.task.count[0] == 1 => drive.offer_data(data),
            _ => drive.abort(),
        },
        0xd8 | 0xd9 => {
            drive.disk.smart = sub == 0xd8;
            drive.done();
        }
        0xda => {
            // The key unchanged: no threshold is exceeded.
            drive.task.lba[1][0] = 0x4f;
            drive.task.lba[2][0] = 0xc2;
            drive.done();
        }
        _ => drive.abort(),
    }
}
