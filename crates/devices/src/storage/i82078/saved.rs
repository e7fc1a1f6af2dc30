//! Saved state of the floppy controller.

use minicbor::{Decode, Encode};
use pdm::{Error, Result, ssm};

use super::transfer::{Kind, Transfer};
use super::{Floppy, Phase, State};

/// Layout version.
pub const SAVED_VERSION: u32 = 1;

#[derive(Encode, Decode)]
struct Saved {
    /// DOR, DSR, TDR, CCR, specify (2), configure, precompensation, perpendicular, last EOT.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    registers: Vec<u8>,
    #[n(1)]
    phase: u8,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    bytes: Vec<u8>,
    #[n(3)]
    sense: Vec<(u8, u8)>,
    #[n(4)]
    interrupt: bool,
    #[n(5)]
    locked: bool,
    /// Present, track, changed.
    #[n(6)]
    drives: Vec<Option<(u8, bool)>>,
    #[n(7)]
    transfer: Option<SavedTransfer>,
}

#[derive(Encode, Decode)]
struct SavedTransfer {
    /// Kind, unit, head, C, H, R, N, EOT, fill.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    values: Vec<u8>,
    #[n(1)]
    multi_track: bool,
    #[n(2)]
    count: u16,
    #[n(3)]
    pio: bool,
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    buffer: Vec<u8>,
    #[n(5)]
    pos: u32,
    #[n(6)]
    terminal: bool,
    #[n(7)]
    stalled: bool,
}

/// Writes the state.
pub fn save(f: &Floppy) -> Result<Vec<u8>> {
    let s = &f.state;
    let transfer = f.transfer.as_ref().map(|t| SavedTransfer {
        values: vec![
            t.kind as u8,
            t.unit,
            t.head,
            t.c,
            t.h,
            t.r,
            t.n,
            t.eot,
            t.fill,
        ],
        multi_track: t.multi_track,
        count: t.count,
        pio: t.pio,
        buffer: t.buffer.clone(),
        pos: t.pos as u32,
        terminal: t.terminal,
        stalled: t.stalled,
    });
    ssm::encode(&Saved {
        registers: vec![
            s.dor,
            s.dsr,
            s.tdr,
            s.ccr,
            s.specify[0],
            s.specify[1],
            s.configure,
            s.precompensation,
            s.perpendicular,
            s.last_eot,
        ],
        phase: s.phase as u8,
        bytes: s.bytes.iter().copied().collect(),
        sense: s.sense.iter().copied().collect(),
        interrupt: s.interrupt,
        locked: s.locked,
        drives: f
            .drives
            .iter()
            .map(|d| d.as_ref().map(|d| (d.track, d.changed)))
            .collect(),
        transfer,
    })
}

/// Takes it over.
pub fn load(f: &mut Floppy, version: u32, data: &[u8]) -> Result<()> {
    let s: Saved = ssm::decode(version, SAVED_VERSION, data)?;
    let bad = |what: &str| Error::SavedState(format!("floppy controller: {what}"));
    let r: [u8; 10] = s.registers.try_into().map_err(|_| bad("bad registers"))?;
    let phase = match s.phase {
        0 => Phase::Command,
        1 => Phase::Execution,
        2 => Phase::Result,
        _ => return Err(bad("unknown phase")),
    };
    let empty_result = phase == Phase::Result && s.bytes.is_empty();
    if s.bytes.len() > 17 || s.sense.len() > 4 || empty_result || s.drives.len() != f.drives.len() {
        return Err(bad("bad queue"));
    }
    f.transfer = match s.transfer {
        None => None,
        Some(t) => {
            let v: [u8; 9] = t.values.try_into().map_err(|_| bad("bad transfer"))?;
            let kind = Kind::from_number(v[0]).ok_or_else(|| bad("unknown transfer"))?;
            let pos = t.pos as usize;
            let short = kind == Kind::Format && t.buffer.len() != 4;
            if t.buffer.len() > 512 || pos > t.buffer.len() || short {
                return Err(bad("bad transfer buffer"));
            }
            Some(Transfer {
                kind,
                unit: v[1] & 3,
                head: v[2] & 1,
                c: v[3],
                h: v[4],
                r: v[5],
                n: v[6],
                eot: v[7],
                fill: v[8],
                multi_track: t.multi_track,
                count: t.count,
                pio: t.pio,
                buffer: t.buffer,
                pos,
                terminal: t.terminal,
                stalled: t.stalled,
            })
        }
    };
    for (drive, saved) in f.drives.iter_mut().zip(s.drives) {
        match (drive, saved) {
            (Some(drive), Some((track, changed))) => {
                drive.track = track;
                drive.changed = changed;
            }
            (None, None) => {}
            _ => return Err(bad("saved with other drives attached")),
        }
    }
    f.state = State {
        dor: r[0],
        dsr: r[1],
        tdr: r[2],
        ccr: r[3],
        phase,
        bytes: s.bytes.into(),
        sense: s.sense.into(),
        interrupt: s.interrupt,
        specify: [r[4], r[5]],
        configure: r[6],
        precompensation: r[7],
        perpendicular: r[8],
        locked: s.locked,
        last_eot: r[9],
    };
    Ok(())
}
