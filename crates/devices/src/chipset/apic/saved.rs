//! Saved state of the local APICs.

use minicbor::{Decode, Encode};
use pdm::{Error, Result, ssm};

use super::chip::Lapic;

/// Layout version.
pub const SAVED_VERSION: u32 = 1;

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    cpus: Vec<SavedLapic>,
}

#[derive(Encode, Decode)]
struct SavedLapic {
    #[n(0)]
    base: u64,
    #[n(1)]
    id: u8,
    #[n(2)]
    tpr: u8,
    #[n(3)]
    ldr: u32,
    #[n(4)]
    dfr: u32,
    #[n(5)]
    svr: u32,
    #[n(6)]
    isr: [u32; 8],
    #[n(7)]
    tmr: [u32; 8],
    #[n(8)]
    irr: [u32; 8],
    #[n(9)]
    esr: u32,
    #[n(10)]
    errors: u32,
    #[n(11)]
    icr: u64,
    #[n(12)]
    lvt: [u32; 6],
    #[n(13)]
    initial: u32,
    #[n(14)]
    divide: u32,
    #[n(15)]
    start_ns: u64,
    #[n(16)]
    running: bool,
    #[n(17)]
    tsc_deadline: u64,
    #[n(18)]
    extint: bool,
    #[n(19)]
    ext_message: bool,
}

/// Writes all local APICs.
pub fn save(cpus: impl Iterator<Item = Lapic>) -> Result<Vec<u8>> {
    let cpus = cpus
        .map(|l| SavedLapic {
            base: l.base,
            id: l.id,
            tpr: l.tpr,
            ldr: l.ldr,
            dfr: l.dfr,
            svr: l.svr,
            isr: l.isr,
            tmr: l.tmr,
            irr: l.irr,
            esr: l.esr,
            errors: l.errors,
            icr: l.icr,
            lvt: l.lvt,
            initial: l.initial,
            divide: l.divide,
            start_ns: l.start_ns,
            running: l.running,
            tsc_deadline: l.tsc_deadline,
            extint: l.extint,
            ext_message: l.ext_message,
        })
        .collect();
    ssm::encode(&Saved { cpus })
}

/// Reads `count` local APICs back.
pub fn load(version: u32, data: &[u8], count: usize) -> Result<Vec<Lapic>> {
    let saved: Saved = ssm::decode(version, SAVED_VERSION, data)?;
    if saved.cpus.len() != count {
        let text = format!(
            "{} local APICs saved, this VM has {count}",
            saved.cpus.len()
        );
        return Err(Error::SavedState(text));
    }
    let back = |(index, s): (usize, SavedLapic)| {
        // `start_ns` bounds keep the timer's arithmetic far from overflow.
        if s.start_ns > u64::MAX / 4 {
            return Err(Error::SavedState(
                "local APIC timer start is out of range".into(),
            ));
        }
        Ok(Lapic {
            index: index as u32,
            base: s.base,
            id: s.id,
            tpr: s.tpr,
            ldr: s.ldr,
            dfr: s.dfr,
            svr: s.svr,
            isr: s.isr,
            tmr: s.tmr,
            irr: s.irr,
            esr: s.esr,
            errors: s.errors,
            icr: s.icr,
            lvt: s.lvt,
            initial: s.initial,
            divide: s.divide & 0xb,
            start_ns: s.start_ns,
            running: s.running,
            tsc_deadline: s.tsc_deadline,
            extint: s.extint,
            ext_message: s.ext_message,
            intr: false,
        })
    };
    saved.cpus.into_iter().enumerate().map(back).collect()
}
