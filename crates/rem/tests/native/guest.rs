//! Runs code in the engine: a long-mode machine whose user half looks like the host process.

use std::sync::Arc;

use cpu::bits::{cr0, cr4, efer, rflags};
use cpu::{Bus, Engine, Exit, Seg, SegReg, Signals, State, attr};
use pgm::{PhysMap, Ram, RegionKind, WriteFlags};

use crate::layout::{
    CODE, CODE_SIZE, DATA, End, LOCAL, PAGES, Page, Start, cache, descriptor, global, has_avx512,
    lookup, upper_parts,
};

struct NoBus(Arc<Signals>);

impl Bus for NoBus {
    fn port_read(&self, _: usize, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn port_write(&self, _: usize, _: u16, _: u8, _: u32) {}
    fn port_read_string(&self, _: usize, _: u16, _: u8, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write_string(&self, _: usize, _: u16, _: u8, _: &[u8]) {}
    fn interrupt_pending(&self, _: usize) -> bool {
        false
    }
    fn interrupt_acknowledge(&self, _: usize) -> Option<u8> {
        None
    }
    fn cr8(&self, _: usize) -> u8 {
        0
    }
    fn set_cr8(&self, _: usize, _: u8) {}
    fn apic_msr_read(&self, _: usize, _: u32) -> Option<u64> {
        None
    }
    fn apic_msr_write(&self, _: usize, _: u32, _: u64) -> bool {
        false
    }
    fn tsc(&self) -> u64 {
        0
    }
    fn tsc_delta(&self) -> Option<u64> {
        None
    }
    fn cpuid(&self, _: usize, leaf: u32, sub: u32) -> [u32; 4] {
        let r = std::arch::x86_64::__cpuid_count(leaf, sub);
        [r.eax, r.ebx, r.ecx, r.edx]
    }
    fn ferr(&self, _: usize) {}
    fn signals(&self, _: usize) -> &Arc<Signals> {
        &self.0
    }
}

/// A machine with RAM from 0 and one engine.
pub struct Guest {
    phys: Arc<PhysMap>,
    engine: Box<dyn Engine>,
    base: State,
}

/// Page tables, one after the other.
const TABLES: u64 = 0x1000;
/// What the exception handlers need, at linear address [`SYSTEM`].
const SYSTEM_PHYS: u64 = 0x10_0000;
/// Where user code cannot meet it.
const SYSTEM: u64 = 0xffff_9000_0000_0000;
const GDT: u64 = 0;
const LDT: u64 = 0x400;
const TSS: u64 = 0x800;
const IDT: u64 = 0x1000;
/// A HLT for each vector, 16 bytes apart.
const HANDLERS: u64 = 0x2000;
const STACK: u64 = 0x4000;
/// Vectors with an error code (SDM vol. 3, table 6-1).
const WITH_ERROR: u32 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17;

struct Tables {
    next: u64,
}

impl Tables {
    /// Maps one page, making tables as needed.
    fn map(&mut self, phys: &PhysMap, linear: u64, physical: u64, bits: u64) {
        let mut table = TABLES;
        for level in [39, 30, 21] {
            let at = table + (linear >> level & 511) * 8;
            let mut e = [0; 8];
            phys.read(at, &mut e);
            if e[0] & 1 == 0 {
                e = (self.next | 7).to_le_bytes();
                phys.write(at, &e);
                self.next += 0x1000;
            }
            table = u64::from_le_bytes(e) & !0xfff;
        }
        phys.write(
            table + (linear >> 12 & 511) * 8,
            &(physical | bits).to_le_bytes(),
        );
    }
}

impl Guest {
    /// Builds it. `limit15` is the limit of the host's global descriptor 15.
    pub fn new(limit15: u32, windows: rem::Windows, checks: rem::Checks) -> Self {
        let ram = Ram::new(1 << 30).unwrap();
        let block = ram.alloc(1 << 30).unwrap();
        let phys = PhysMap::new(ram);
        let kind = RegionKind::Memory {
            block,
            writes: WriteFlags::ReadWrite,
        };
        phys.add(0, 1 << 30, 0, kind).unwrap();
        const NX: u64 = 1 << 63;
        let mut tables = Tables {
            next: TABLES + 0x1000,
        };
        for (i, page) in (0..).zip(PAGES) {
            let at = DATA + 0x1000 * i;
            match page {
                Page::None => {}
                Page::Rw => tables.map(&phys, at, at, 7 | NX),
                Page::Ro => tables.map(&phys, at, at, 5 | NX),
            }
        }
        for at in (CODE..CODE + CODE_SIZE as u64).step_by(4096) {
            tables.map(&phys, at, at, 5);
        }
        for at in (0..STACK + 0x1000).step_by(4096) {
            tables.map(&phys, SYSTEM + at, SYSTEM_PHYS + at, 3);
        }
        let put = |at: u64, value: u64| phys.write(SYSTEM_PHYS + at, &value.to_le_bytes());
        for (i, d) in (0..).zip(global(limit15)) {
            put(GDT + 8 * i, d);
        }
        for (i, d) in (0..).zip(LOCAL) {
            put(LDT + 8 * i, d.descriptor());
        }
        for v in 0..256 {
            let handler = SYSTEM + HANDLERS + 16 * v;
            let dpl = if v == 3 || v == 4 { 3 } else { 0 };
            put(
                IDT + 16 * v,
                handler & 0xffff
                    | 0x10 << 16
                    | (0x8e | dpl << 5) << 40
                    | (handler & 0xffff_0000) << 32,
            );
            put(IDT + 16 * v + 8, handler >> 32);
            put(HANDLERS + 16 * v, 0xf4);
        }
        // RSP0 is at an odd place in the structure (SDM vol. 3, figure 8-11).
        phys.write(
            SYSTEM_PHYS + TSS + 4,
            &(SYSTEM + STACK + 0x1000).to_le_bytes(),
        );
        phys.write(SYSTEM_PHYS + TSS + 0x66, &0x68u16.to_le_bytes());
        let bus = Arc::new(NoBus(Arc::default()));
        let options = rem::Options {
            windows,
            checks,
            ..Default::default()
        };
        let engine =
            rem::Rem::with_peers(0, phys.clone(), bus, rem::Peers::new(), options).unwrap();
        let mut base = State::reset(0);
        base.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::ET | cr0::WP | cr0::MP | cr0::AM;
        base.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE;
        base.xcr0 = if has_avx512() { 0xe7 } else { 7 };
        base.cr3 = TABLES;
        base.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        base.gdtr.base = SYSTEM + GDT;
        base.gdtr.limit = 0x7f;
        base.idtr.base = SYSTEM + IDT;
        base.idtr.limit = 0xfff;
        base.ldtr = SegReg {
            base: SYSTEM + LDT,
            limit: LOCAL.len() as u32 * 8 - 1,
            attr: attr::P | 2,
            sel: 0x50,
        };
        base.tr = SegReg {
            base: SYSTEM + TSS,
            limit: 0x67,
            attr: attr::P | 11,
            sel: 0x40,
        };
        // Descriptors nobody can use, with the types they have on the host.
        put(GDT + 0x40, descriptor(0, 0x67, 0x8b, 0));
        put(GDT + 0x50, descriptor(0, 0x77, 0x82, 0));
        Self { phys, engine, base }
    }

    /// Writes code at an offset in the code area.
    pub fn write_code(&mut self, at: usize, bytes: &[u8]) {
        let n = bytes.len().min(CODE_SIZE - at);
        self.phys.write(CODE + at as u64, &bytes[..n]);
    }

    /// Writes the mapped pages of the data area.
    pub fn write_data(&mut self, data: &[u8]) {
        for (i, page) in PAGES.iter().enumerate() {
            if *page != Page::None {
                self.phys
                    .write(DATA + 4096 * i as u64, &data[4096 * i..4096 * (i + 1)]);
            }
        }
    }

    /// Reads the mapped pages of the data area.
    pub fn read_data(&self, data: &mut [u8]) {
        for (i, page) in PAGES.iter().enumerate() {
            if *page != Page::None {
                self.phys
                    .read(DATA + 4096 * i as u64, &mut data[4096 * i..4096 * (i + 1)]);
            }
        }
    }

    /// Runs from `start` to the first exception.
    ///
    /// # Errors
    /// What came instead of an exception.
    pub fn run(&mut self, start: &Start) -> Result<End, Exit> {
        let mut s = self.base.clone();
        s.gpr = start.gpr;
        s.rip = start.rip;
        s.rflags = start.flags | rflags::FIXED | rflags::IF;
        for seg in Seg::ALL {
            let sel = start.sel[seg as usize] as u16;
            s.seg[seg as usize] = cache(sel, lookup(sel));
        }
        for (seg, base) in [(Seg::Fs, start.fs), (Seg::Gs, start.gs)] {
            if s.seg[seg as usize].sel == 0 {
                s.seg[seg as usize].base = base;
            }
        }
        s.fpu.0.copy_from_slice(&start.fpu[..cpu::FPU_AREA]);
        s.fpu.0[512] = 7;
        if start.fpu[512] & 0xe0 != 0 {
            let [k, high, more] = upper_parts().map(|part| &start.fpu[part]);
            s.upper.opmask.copy_from_slice(k);
            s.upper.high.copy_from_slice(high);
            s.upper.more.copy_from_slice(more);
            s.upper.live = 1;
        }
        self.engine.state_changed();
        let exit = self.engine.run(&mut s);
        let handlers = SYSTEM + HANDLERS;
        if exit != Exit::Halted || !(handlers..handlers + 0x1000).contains(&s.rip) {
            return Err(exit);
        }
        let vector = ((s.rip - handlers) / 16) as u8;
        let mut pop = {
            let mut at = s.gpr[4] - SYSTEM + SYSTEM_PHYS;
            move |phys: &PhysMap| {
                let mut b = [0; 8];
                phys.read(at, &mut b);
                at += 8;
                u64::from_le_bytes(b)
            }
        };
        let p = &self.phys;
        let error = if vector < 32 && WITH_ERROR >> vector & 1 != 0 {
            pop(p)
        } else {
            0
        };
        let (rip, cs, flags, rsp, ss) = (pop(p), pop(p), pop(p), pop(p), pop(p));
        let mut gpr = s.gpr;
        gpr[4] = rsp;
        let sel = |seg: Seg| s.seg[seg as usize].sel;
        Ok(End {
            vector,
            error,
            cr2: if vector == 14 { s.cr2 } else { 0 },
            gpr,
            flags,
            rip,
            sel: [
                sel(Seg::Es),
                cs as u16,
                ss as u16,
                sel(Seg::Ds),
                sel(Seg::Fs),
                sel(Seg::Gs),
            ],
            base: [s.seg[Seg::Fs as usize].base, s.seg[Seg::Gs as usize].base],
            fpu: s.fpu.0,
            upper: [&s.upper.opmask[..], &s.upper.high, &s.upper.more].concat(),
        })
    }
}
