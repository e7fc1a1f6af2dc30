//! SSM: saved states in files.
//!
//! A file is `OXBOXSSM`, a format number, and frames: length and CRC-32 (little endian), then one
//! CBOR [`Unit`]. Units come in the order `pgm`, `tm`, `cpum` per vCPU, devices in registry order, `ram`
//! per non-zero MiB of the memory pool (deflated), `end`. A unit that is missing, unknown or left
//! over is an error that names it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use cpu::{DescTable, FPU_AREA, RunState, SegReg, State};
use flate2::Compression;
use flate2::read::{DeflateDecoder, DeflateEncoder};
use pdm::ssm::{Unit, decode, encode};
use pgm::PAGE_SIZE;

use crate::Error;
use crate::machine::Machine;
use crate::vm::Held;

const MAGIC: &[u8; 8] = b"OXBOXSSM";
const FORMAT: u32 = 1;
const PGM_VERSION: u32 = 1;
const TM_VERSION: u32 = 1;
const CPUM_VERSION: u32 = 2;
const RAM_VERSION: u32 = 1;
/// Bytes of the memory pool in one unit.
const CHUNK: u64 = 1 << 20;
/// Longest frame: video RAM of a device and its encoding.
const MAX_FRAME: u32 = 512 << 20;

fn bad(text: impl Into<String>) -> Error {
    Error::SavedState(text.into())
}

/// Writes the machine to `path`; what was there stays until all is on disk.
pub(crate) fn save(held: &Held<'_>, path: &Path) -> Result<(), Error> {
    let part = path.with_extension("part");
    let result = File::create(&part)
        .map_err(|e| bad(e.to_string()))
        .and_then(|file| {
            let mut out = BufWriter::new(file);
            write_all(held, &mut out)?;
            let file = out.into_inner().map_err(|e| bad(e.to_string()))?;
            file.sync_all().map_err(|e| bad(e.to_string()))?;
            std::fs::rename(&part, path).map_err(|e| bad(e.to_string()))
        });
    if result.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    result
}

fn write_all(held: &Held<'_>, out: &mut impl Write) -> Result<(), Error> {
    let io = |e: std::io::Error| bad(e.to_string());
    out.write_all(MAGIC).map_err(io)?;
    out.write_all(&FORMAT.to_le_bytes()).map_err(io)?;
    let mut unit = |name: &str, instance: u32, version: u32, data: Vec<u8>| {
        let unit = Unit {
            name: name.to_owned(),
            instance,
            version,
            data,
        };
        let bytes = encode(&unit)?;
        let len = u32::try_from(bytes.len())
            .ok()
            .filter(|n| *n <= MAX_FRAME)
            .ok_or_else(|| bad(format!("unit '{name}' is too large")))?;
        out.write_all(&len.to_le_bytes())
            .and_then(|()| out.write_all(&crc32fast::hash(&bytes).to_le_bytes()))
            .and_then(|()| out.write_all(&bytes))
            .map_err(io)
    };
    let machine = held.machine;
    unit("pgm", 0, PGM_VERSION, encode(&SavedPgm::of(machine))?)?;
    let now_ns = machine.tm.now();
    unit("tm", 0, TM_VERSION, encode(&SavedTm { now_ns })?)?;
    for (cpu, vcpu) in held.vcpus.iter().enumerate() {
        let inner = vcpu.inner.lock();
        let mut saved = SavedCpu::new(&inner.state);
        saved.returned = machine.trpm.returned(cpu);
        saved.cpuid = machine.cpum.table().rows();
        unit("cpum", cpu as u32, CPUM_VERSION, encode(&saved)?)?;
    }
    for slot in &machine.slots {
        if let Some(data) = slot.with(|d| d.save()) {
            unit(slot.reg.name, slot.instance, slot.reg.saved_version, data?)?;
        }
    }
    let ram = machine.phys.ram();
    let mut chunk = vec![0; CHUNK as usize];
    for start in (0..ram.used()).step_by(CHUNK as usize) {
        let len = CHUNK.min(ram.used() - start) as usize;
        let chunk = &mut chunk[..len];
        ram.read(start, chunk);
        if chunk.iter().any(|b| *b != 0) {
            let mut data = Vec::new();
            DeflateEncoder::new(&*chunk, Compression::fast())
                .read_to_end(&mut data)
                .map_err(io)?;
            unit("ram", (start / CHUNK) as u32, RAM_VERSION, data)?;
        }
    }
    unit("end", 0, 0, Vec::new())
}

/// Takes the file over into a machine whose devices were reset.
pub(crate) fn load(held: &Held<'_>, path: &Path) -> Result<(), Error> {
    let machine = held.machine;
    let file = File::open(path).map_err(|e| bad(format!("{}: {e}", path.display())))?;
    let mut units = Units(BufReader::new(file));
    units.header()?;
    machine.each_device(|_, d| d.reset());
    machine.trpm.reset();

    let pgm: SavedPgm = units.expect("pgm", 0, PGM_VERSION)?;
    let now = SavedPgm::of(machine);
    if pgm != now {
        return Err(bad(format!(
            "unit 'pgm': it was saved with {} bytes of memory in a pool of {}, here are {} in {}",
            pgm.ram, pgm.pool, now.ram, now.pool
        )));
    }
    let tm: SavedTm = units.expect("tm", 0, TM_VERSION)?;
    machine.tm.load(tm.now_ns);
    let mut returned = Vec::new();
    for (cpu, vcpu) in held.vcpus.iter().enumerate() {
        let saved: SavedCpu = units.expect("cpum", cpu as u32, CPUM_VERSION)?;
        if cpu == 0 {
            let table = crate::cpum::Table::from_rows(&saved.cpuid);
            machine
                .cpum
                .adopt(table)
                .map_err(|e| bad(format!("unit 'cpum': {e}")))?;
        }
        returned.push(saved.returned);
        let mut inner = vcpu.inner.lock();
        saved.apply(&mut inner.state)?;
        if let Some(engine) = &mut inner.engine {
            engine.state_changed();
        }
    }
    // Memory before devices: some derive what they show from it.
    let mut devices = Vec::new();
    let mut next = units.next()?;
    for slot in &machine.slots {
        if (next.name.as_str(), next.instance) != (slot.reg.name, slot.instance) {
            return Err(bad(format!(
                "unit '{}' #{} where '{}' #{} belongs",
                next.name, next.instance, slot.reg.name, slot.instance
            )));
        }
        devices.push(std::mem::replace(&mut next, units.next()?));
    }
    load_ram(machine, &mut units, next)?;
    for (slot, unit) in machine.slots.iter().zip(devices) {
        slot.with(|d| d.load(unit.version, &unit.data))
            .unwrap_or(Ok(()))
            .map_err(|e| bad(format!("unit '{}' #{}: {e}", unit.name, unit.instance)))?;
    }
    for (cpu, vector) in returned.into_iter().enumerate() {
        if let Some(vector) = vector {
            machine.trpm.give_back(cpu, vector);
        }
    }
    machine.trpm.refresh();
    Ok(())
}

fn load_ram(machine: &Machine, units: &mut Units<impl Read>, mut next: Unit) -> Result<(), Error> {
    let phys = &machine.phys;
    let ram = phys.ram();
    let mut now = vec![0; CHUNK as usize];
    for start in (0..ram.used()).step_by(CHUNK as usize) {
        let len = CHUNK.min(ram.used() - start) as usize;
        let mut wanted = vec![0; len];
        if next.name == "ram" && u64::from(next.instance) == start / CHUNK {
            if next.version != RAM_VERSION {
                return Err(bad(format!("unit 'ram': version {}", next.version)));
            }
            let mut decoder = DeflateDecoder::new(next.data.as_slice());
            decoder
                .read_exact(&mut wanted)
                .map_err(|e| bad(format!("unit 'ram' #{}: {e}", next.instance)))?;
            next = units.next()?;
        }
        ram.read(start, &mut now[..len]);
        let pages = wanted
            .chunks(PAGE_SIZE as usize)
            .zip(now.chunks(PAGE_SIZE as usize));
        for (i, (page, old)) in pages.enumerate() {
            if *page != old[..page.len()] {
                phys.write_ram(start + i as u64 * PAGE_SIZE, page);
            }
        }
    }
    if next.name != "end" {
        return Err(bad(format!(
            "unit '{}' #{} is left over",
            next.name, next.instance
        )));
    }
    Ok(())
}

struct Units<R>(R);

impl<R: Read> Units<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.0
            .read_exact(&mut bytes)
            .map_err(|e| bad(e.to_string()))?;
        Ok(bytes)
    }

    fn header(&mut self) -> Result<(), Error> {
        if &self.bytes::<8>()? != MAGIC {
            return Err(bad("not a saved state"));
        }
        match u32::from_le_bytes(self.bytes()?) {
            FORMAT => Ok(()),
            other => Err(bad(format!("format {other} is not known"))),
        }
    }

    fn next(&mut self) -> Result<Unit, Error> {
        let len = u32::from_le_bytes(self.bytes()?);
        let crc = u32::from_le_bytes(self.bytes()?);
        if len > MAX_FRAME {
            return Err(bad("a unit is too large"));
        }
        // Read as far as the file goes: a false length allocates nothing.
        let mut data = Vec::new();
        (&mut self.0)
            .take(len.into())
            .read_to_end(&mut data)
            .map_err(|e| bad(e.to_string()))?;
        if data.len() != len as usize {
            return Err(bad("the file ends early"));
        }
        if crc32fast::hash(&data) != crc {
            return Err(bad("a checksum is wrong"));
        }
        Ok(decode(0, 0, &data)?)
    }

    fn expect<T: for<'a> minicbor::Decode<'a, ()>>(
        &mut self,
        name: &str,
        instance: u32,
        version: u32,
    ) -> Result<T, Error> {
        let unit = self.next()?;
        if unit.name != name || unit.instance != instance {
            return Err(bad(format!(
                "unit '{}' #{} where '{name}' #{instance} belongs",
                unit.name, unit.instance
            )));
        }
        decode(unit.version, version, &unit.data)
            .map_err(|e| bad(format!("unit '{name}' #{instance}: {e}")))
    }
}

/// The layout of the memory pool, which follows from the configuration.
#[derive(PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
struct SavedPgm {
    #[n(0)]
    ram: u64,
    #[n(1)]
    pool: u64,
}

impl SavedPgm {
    fn of(machine: &Machine) -> Self {
        Self {
            ram: machine.config.int("RamSize", 0).unwrap_or(0),
            pool: machine.phys.ram().used(),
        }
    }
}

#[derive(minicbor::Encode, minicbor::Decode)]
struct SavedTm {
    #[n(0)]
    now_ns: u64,
}

/// [`State`] in words. Lists have fixed lengths, checked on load.
#[derive(minicbor::Encode, minicbor::Decode)]
struct SavedCpu {
    #[n(0)]
    gpr: Vec<u64>,
    #[n(1)]
    rip: u64,
    #[n(2)]
    rflags: u64,
    /// ES CS SS DS FS GS LDTR TR: base, limit, attributes, selector.
    #[n(3)]
    segments: Vec<(u64, u32, u32, u16)>,
    /// GDTR, IDTR.
    #[n(4)]
    tables: Vec<(u64, u16)>,
    /// CR0 CR2 CR3 CR4 XCR0.
    #[n(5)]
    control: Vec<u64>,
    #[n(6)]
    debug: Vec<u64>,
    /// In the order of [`msrs`].
    #[n(7)]
    msrs: Vec<u64>,
    #[n(8)]
    mtrr_fixed: Vec<u64>,
    #[n(9)]
    mtrr_var: Vec<u64>,
    #[n(10)]
    pdpte: Vec<u64>,
    #[n(11)]
    run: u32,
    #[n(12)]
    shadow: bool,
    #[n(13)]
    nmi_blocked: bool,
    #[n(14)]
    smm: bool,
    #[n(15)]
    smbase: u32,
    #[n(16)]
    #[cbor(with = "minicbor::bytes")]
    fpu: Vec<u8>,
    #[n(17)]
    returned: Option<u8>,
    /// AVX-512's part, when it is in use.
    #[n(20)]
    #[cbor(with = "minicbor::bytes")]
    upper: Vec<u8>,
    /// CPUID as the guest sees it: leaf, subleaf, registers.
    #[n(19)]
    cpuid: Vec<(u32, u32, [u32; 4])>,
}

/// New ones go to the end: older files have fewer, and the rest keeps its reset value.
fn msrs(s: &mut State) -> [&mut u64; 17] {
    [
        &mut s.efer,
        &mut s.star,
        &mut s.lstar,
        &mut s.cstar,
        &mut s.sfmask,
        &mut s.kernel_gs_base,
        &mut s.sysenter_cs,
        &mut s.sysenter_esp,
        &mut s.sysenter_eip,
        &mut s.pat,
        &mut s.misc_enable,
        &mut s.tsc_aux,
        &mut s.tsc_adjust,
        &mut s.tsc_offset,
        &mut s.mtrr_def,
        &mut s.debugctl,
        &mut s.spec_ctrl,
    ]
}

impl SavedCpu {
    fn new(state: &State) -> Self {
        let mut s = state.clone();
        let msrs = msrs(&mut s).into_iter().map(|v| *v).collect();
        let segment = |r: &SegReg| (r.base, r.limit, r.attr, r.sel);
        Self {
            gpr: s.gpr.to_vec(),
            rip: s.rip,
            rflags: s.rflags,
            segments: s.seg.iter().chain([&s.ldtr, &s.tr]).map(segment).collect(),
            tables: [&s.gdtr, &s.idtr]
                .iter()
                .map(|t| (t.base, t.limit))
                .collect(),
            control: vec![s.cr0, s.cr2, s.cr3, s.cr4, s.xcr0],
            debug: s.dr.to_vec(),
            msrs,
            mtrr_fixed: s.mtrr_fixed.to_vec(),
            mtrr_var: s.mtrr_var.as_flattened().to_vec(),
            pdpte: s.pdpte.to_vec(),
            run: s.run as u32,
            shadow: s.shadow,
            nmi_blocked: s.nmi_blocked,
            smm: s.smm,
            smbase: s.smbase,
            fpu: s.fpu.0.to_vec(),
            returned: None,
            upper: if s.upper.live == 0 {
                Vec::new()
            } else {
                [&s.upper.opmask[..], &s.upper.high, &s.upper.more].concat()
            },
            cpuid: Vec::new(),
        }
    }

    fn apply(&self, s: &mut State) -> Result<(), Error> {
        fn list<T: Copy, const N: usize>(from: &[T]) -> Result<[T; N], Error> {
            from.try_into()
                .map_err(|_| bad("unit 'cpum': a list has the wrong length"))
        }
        s.gpr = list(&self.gpr)?;
        s.rip = self.rip;
        s.rflags = self.rflags & cpu::bits::rflags::ALL | cpu::bits::rflags::FIXED;
        let segments: [_; 8] = list(&self.segments)?;
        let segments = segments.map(|(base, limit, attr, sel)| SegReg {
            base,
            limit,
            attr,
            sel,
        });
        s.seg.copy_from_slice(&segments[..6]);
        (s.ldtr, s.tr) = (segments[6], segments[7]);
        let tables: [_; 2] = list(&self.tables)?;
        [s.gdtr, s.idtr] = tables.map(|(base, limit)| DescTable { base, limit });
        [s.cr0, s.cr2, s.cr3, s.cr4, s.xcr0] = list(&self.control)?;
        s.dr = list(&self.debug)?;
        let registers = msrs(s);
        if self.msrs.len() > registers.len() {
            return Err(bad("unit 'cpum': unknown registers"));
        }
        for (to, from) in registers.into_iter().zip(&self.msrs) {
            *to = *from;
        }
        s.mtrr_fixed = list(&self.mtrr_fixed)?;
        let var: [u64; 16] = list(&self.mtrr_var)?;
        s.mtrr_var.as_flattened_mut().copy_from_slice(&var);
        s.pdpte = list(&self.pdpte)?;
        s.run = match self.run {
            0 => RunState::Running,
            1 => RunState::Halted,
            2 => RunState::WaitForSipi,
            3 => RunState::Shutdown,
            other => return Err(bad(format!("unit 'cpum': run state {other}"))),
        };
        s.shadow = self.shadow;
        s.nmi_blocked = self.nmi_blocked;
        s.smm = self.smm;
        s.smbase = self.smbase;
        s.fpu.0 = list::<u8, FPU_AREA>(&self.fpu)?;
        s.upper = cpu::Upper::reset();
        if !self.upper.is_empty() {
            let all: [u8; 1600] = list(&self.upper)?;
            s.upper.opmask.copy_from_slice(&all[..64]);
            s.upper.high.copy_from_slice(&all[64..576]);
            s.upper.more.copy_from_slice(&all[576..]);
            s.upper.live = 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_state_round_trips() {
        let mut s = State::reset(0);
        for (i, r) in s.gpr.iter_mut().enumerate() {
            *r = i as u64 + 100;
        }
        for (i, m) in msrs(&mut s).into_iter().enumerate() {
            *m = i as u64 + 1000;
        }
        s.mtrr_var[7] = [5, 6];
        s.run = RunState::Halted;
        s.shadow = true;
        s.fpu.0[800] = 3;
        s.upper.live = 1;
        s.upper.high[5] = 6;
        s.upper.more[1023] = 7;
        let mut back = State::reset(1);
        SavedCpu::new(&s).apply(&mut back).unwrap();
        assert_eq!(format!("{s:?}"), format!("{back:?}"));
    }

    #[test]
    fn wrong_lengths_and_frames_are_refused() {
        let mut saved = SavedCpu::new(&State::reset(0));
        saved.dr_pop();
        assert!(saved.apply(&mut State::reset(0)).is_err());
        let mut units = Units(&b"OXBOXSSM\x01\0\0\0\xff\xff\xff\x7f\0\0\0\0"[..]);
        units.header().unwrap();
        assert!(units.next().unwrap_err().to_string().contains("too large"));
        let mut units = Units(&b"\x08\0\0\0\0\0\0\0abc"[..]);
        assert!(units.next().unwrap_err().to_string().contains("ends early"));
    }

    impl SavedCpu {
        fn dr_pop(&mut self) {
            self.debug.pop();
        }
    }
}
