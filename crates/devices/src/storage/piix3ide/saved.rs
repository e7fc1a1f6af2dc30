//! Saved state of the IDE controller and its drives.

use minicbor::{Decode, Encode};
use pdm::{Error, Result, ssm};

use super::Ide;
use super::atapi::{CdState, RAW_BLOCK};
use super::busmaster::BusMaster;
use super::drive::{BUFFER_MAX, DiskState, Drive, Job, Phase, TaskFile};

/// Layout version.
pub const SAVED_VERSION: u32 = 1;

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pci: Vec<u8>,
    #[n(1)]
    channels: Vec<SavedChannel>,
}

#[derive(Encode, Decode)]
struct SavedChannel {
    #[n(0)]
    selected: u8,
    #[n(1)]
    control: u8,
    #[n(2)]
    bm_command: u8,
    #[n(3)]
    bm_status: u8,
    #[n(4)]
    bm_table: u32,
    #[n(5)]
    drives: Vec<Option<SavedDrive>>,
}

#[derive(Encode, Decode)]
struct SavedDrive {
    #[n(0)]
    cd: bool,
    /// Feature, count, three address bytes (each with the older value), device, status, error.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    task: Vec<u8>,
    #[n(2)]
    irq: bool,
    #[n(3)]
    phase: u8,
    #[n(4)]
    lba: u64,
    #[n(5)]
    left: u32,
    #[n(6)]
    block: u32,
    #[n(7)]
    #[cbor(with = "minicbor::bytes")]
    buffer: Vec<u8>,
    #[n(8)]
    pos: u32,
    #[n(9)]
    end: u32,
    #[n(10)]
    limit: u32,
    #[n(11)]
    stalled: bool,
    /// Heads, sectors, multiple.
    #[n(12)]
    translation: (u32, u32, u32),
    #[n(13)]
    modes: (u8, u8),
    /// Write cache, look-ahead, SMART, autosave, standby.
    #[n(14)]
    switches: (bool, bool, bool, bool, bool),
    #[n(15)]
    self_test: Option<u8>,
    #[n(16)]
    sense: (u8, u8, u8),
    #[n(17)]
    attention: u8,
    #[n(18)]
    event: u8,
    #[n(19)]
    locked: bool,
    #[n(20)]
    tray_open: bool,
    #[n(21)]
    size: u64,
}

fn save_drive(d: &Drive) -> SavedDrive {
    let t = &d.task;
    let mut task = vec![t.feature[0], t.feature[1], t.count[0], t.count[1]];
    task.extend(t.lba.iter().flatten());
    task.extend([t.device, t.status, t.error]);
    let (j, k, c) = (&d.job, &d.disk, &d.cd);
    SavedDrive {
        cd: d.is_cd(),
        task,
        irq: d.irq,
        phase: j.phase as u8,
        lba: j.lba,
        left: j.left,
        block: j.block,
        buffer: j.buffer.clone(),
        pos: j.pos as u32,
        end: j.end as u32,
        limit: j.limit as u32,
        stalled: j.stalled,
        translation: (k.heads, k.sectors, k.multiple),
        modes: (k.mwdma, k.udma),
        switches: (
            k.write_cache,
            k.look_ahead,
            k.smart,
            k.smart_autosave,
            k.standby,
        ),
        self_test: k.self_test,
        sense: c.sense,
        attention: c.attention,
        event: c.event,
        locked: c.locked,
        tray_open: c.tray_open,
        size: d.driver.size(),
    }
}

fn load_drive(d: &mut Drive, s: SavedDrive) -> Result<()> {
    let bad = |what: &str| Error::SavedState(format!("IDE unit {}: {what}", d.unit));
    if s.cd != d.is_cd() {
        return Err(bad("saved with another kind of drive"));
    }
    if !s.cd && s.size != d.driver.size() {
        return Err(bad("saved with a disk of another size"));
    }
    let task: [u8; 13] = s.task.try_into().map_err(|_| bad("bad task file"))?;
    let phase = Phase::from_number(s.phase).ok_or_else(|| bad("unknown phase"))?;
    let limit = BUFFER_MAX.max(16 * RAW_BLOCK);
    let (pos, end, len) = (s.pos as usize, s.end as usize, s.buffer.len());
    if len > limit || pos > end || end > len || s.limit > 0xffff || s.left > 0x0100_0000 {
        return Err(bad("bad buffer"));
    }
    if s.translation.0 == 0 || s.translation.1 == 0 || s.translation.2 > 16 || s.lba > 1 << 48 {
        return Err(bad("bad geometry"));
    }
    d.task = TaskFile {
        feature: [task[0], task[1]],
        count: [task[2], task[3]],
        lba: [[task[4], task[5]], [task[6], task[7]], [task[8], task[9]]],
        device: task[10],
        status: task[11],
        error: task[12],
    };
    d.irq = s.irq;
    d.job = Job {
        phase,
        lba: s.lba,
        left: s.left,
        block: s.block,
        buffer: s.buffer,
        pos,
        end,
        limit: s.limit as usize,
        stalled: s.stalled,
    };
    d.disk = DiskState {
        heads: s.translation.0,
        sectors: s.translation.1,
        multiple: s.translation.2,
        mwdma: s.modes.0,
        udma: s.modes.1,
        write_cache: s.switches.0,
        look_ahead: s.switches.1,
        smart: s.switches.2,
        smart_autosave: s.switches.3,
        self_test: s.self_test,
        standby: s.switches.4,
    };
    d.cd = CdState {
        sense: s.sense,
        attention: s.attention,
        event: s.event,
        locked: s.locked,
        tray_open: s.tray_open,
    };
    d.driver.set_locked(d.cd.locked);
    Ok(())
}

/// Writes the state.
pub fn save(ide: &Ide) -> Result<Vec<u8>> {
    let channels = ide.channels.iter().map(|c| SavedChannel {
        selected: c.selected as u8,
        control: c.control,
        bm_command: c.bm.command,
        bm_status: c.bm.status,
        bm_table: c.bm.table,
        drives: c
            .drives
            .iter()
            .map(|d| d.as_ref().map(save_drive))
            .collect(),
    });
    ssm::encode(&Saved {
        pci: ide.pci.save(),
        channels: channels.collect(),
    })
}

/// Takes it over; returns the BARs to place.
pub fn load(ide: &mut Ide, version: u32, data: &[u8]) -> Result<Vec<(usize, Option<u64>)>> {
    let s: Saved = ssm::decode(version, SAVED_VERSION, data)?;
    let bad = |what: &str| Error::SavedState(format!("IDE: {what}"));
    if s.channels.len() != 2 {
        return Err(bad("bad number of channels"));
    }
    for (channel, saved) in ide.channels.iter_mut().zip(s.channels) {
        if saved.drives.len() != 2 {
            return Err(bad("bad number of drives"));
        }
        channel.selected = usize::from(saved.selected & 1);
        channel.control = saved.control;
        channel.bm = BusMaster {
            command: saved.bm_command & 9,
            status: saved.bm_status,
            table: saved.bm_table,
        };
        for (drive, saved) in channel.drives.iter_mut().zip(saved.drives) {
            match (drive, saved) {
                (Some(drive), Some(saved)) => load_drive(drive, saved)?,
                (None, None) => {}
                _ => return Err(bad("saved with other drives attached")),
            }
        }
    }
    ide.pci.load(&s.pci)
}
