//! A machine for tests: a few megabytes of memory, a processor, devices that take notes.

use std::sync::{Arc, Mutex};

use cpu::bits::{cr0, cr4, efer, rflags};
use cpu::{Bus, Exception, Fault, Seg, SegReg, Signals, State, Vector, attr};
use iced_x86::{Decoder, DecoderOptions};
use pgm::{PhysMap, Ram, RegionKind, WriteFlags};

use crate::sys::walk::{self, Access};
use crate::sys::{As, Event, Flow, Flush, LinearMemory, Shutdown, Sys, deliver, execute};

pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
pub const TSS_B: u64 = 0x3800;
pub const TSS16: u64 = 0x3c00;
pub const LDT: u64 = 0x4000;
/// Page tables: four pages of top levels, then what tests put there.
pub const TABLES: u64 = 0x8000;
pub const CODE: u64 = 0x2_0000;
/// Initial stack pointers of levels 0 and 3.
pub const STACK0: u64 = 0x3_0000;
pub const STACK3: u64 = 0x3_8000;
/// Where handlers are.
pub const HANDLER: u64 = 0x5_0000;

pub mod sel {
    pub const CODE0: u16 = 0x08;
    pub const DATA0: u16 = 0x10;
    pub const CODE3: u16 = 0x18 | 3;
    pub const DATA3: u16 = 0x20 | 3;
    /// 32-bit TSS at `TSS`.
    pub const TSS: u16 = 0x28;
    pub const CODE64: u16 = 0x38;
    /// Data, bytes 0 to 0xfff.
    pub const SMALL: u16 = 0x40;
    /// Data, expand-down, bytes from 0x1000.
    pub const DOWN: u16 = 0x48;
    /// 32-bit call gate to CODE0, DPL 3, two parameters.
    pub const GATE: u16 = 0x50;
    pub const CONFORMING: u16 = 0x58;
    pub const ABSENT: u16 = 0x60;
    pub const READ_ONLY: u16 = 0x68;
    pub const EXECUTE_ONLY: u16 = 0x70;
    /// 16-byte descriptor in long mode.
    pub const LDT: u16 = 0x78;
    pub const TSS_B: u16 = 0x88;
    pub const TSS16: u16 = 0x90;
    /// Task gate to TSS_B.
    pub const TASK: u16 = 0x98;
    pub const CODE64_3: u16 = 0xa0 | 3;
    pub const STACK16: u16 = 0xa8;
    pub const CODE16: u16 = 0xb0;
    /// 64-bit call gate to CODE64 (16 bytes).
    pub const GATE64: u16 = 0xb8;
}

/// A descriptor from base, limit field and attributes laid out as [`SegReg::attr`].
pub fn descriptor(base: u64, limit: u64, attr: u32) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | u64::from(attr & 0xf0ff) << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56
}

/// A gate: type, DPL, target.
pub fn gate(kind: u32, dpl: u64, sel: u16, offset: u64, count: u64) -> u64 {
    offset & 0xffff
        | u64::from(sel) << 16
        | count << 32
        | u64::from(kind | 0x80) << 40
        | dpl << 45
        | (offset >> 16 & 0xffff) << 48
}

#[derive(Default)]
pub struct Devices {
    pub log: Mutex<Vec<String>>,
    signals: Arc<Signals>,
    pub amd: bool,
    /// A processor without any feature.
    pub plain: bool,
}

impl Devices {
    fn note(&self, what: String) {
        self.log.lock().unwrap().push(what);
    }
}

impl Bus for Devices {
    fn port_read(&self, _: usize, port: u16, size: u8) -> u32 {
        self.note(format!("in {port:#x} {size}"));
        0x8765_4321
    }
    fn port_write(&self, _: usize, port: u16, size: u8, value: u32) {
        self.note(format!("out {port:#x} {size} {value:#x}"));
    }
    fn port_read_string(&self, _: usize, port: u16, size: u8, data: &mut [u8]) {
        self.note(format!("ins {port:#x} {size} {}", data.len()));
        for (i, b) in data.iter_mut().enumerate() {
            *b = i as u8;
        }
    }
    fn port_write_string(&self, _: usize, port: u16, size: u8, data: &[u8]) {
        self.note(format!("outs {port:#x} {size} {data:x?}"));
    }
    fn interrupt_pending(&self, _: usize) -> bool {
        false
    }
    fn interrupt_acknowledge(&self, _: usize) -> Option<u8> {
        None
    }
    fn cr8(&self, _: usize) -> u8 {
        5
    }
    fn set_cr8(&self, _: usize, value: u8) {
        self.note(format!("cr8 {value}"));
    }
    fn apic_msr_read(&self, _: usize, msr: u32) -> Option<u64> {
        (msr == cpu::bits::msr::APIC_BASE).then_some(0xfee0_0900)
    }
    fn apic_msr_write(&self, _: usize, msr: u32, _: u64) -> bool {
        msr == cpu::bits::msr::APIC_BASE
    }
    fn tsc(&self) -> u64 {
        1_000_000
    }
    fn tsc_delta(&self) -> Option<u64> {
        None
    }
    fn cpuid(&self, _: usize, leaf: u32, _: u32) -> [u32; 4] {
        match leaf {
            _ if self.plain => [1, 0, 0, 0],
            0 if self.amd => [0xd, u32::from_le_bytes(*b"Auth"), 0, 0],
            0 => [0xd, 0, 0, 0],
            0xd => [7, 0, 832, 0],
            // Everything there is, but for MONITOR and the APERF pair.
            1 => [leaf, 0, !(1 << 3), !0],
            7 | 0x8000_0001 => [leaf, !0, !0, !0],
            _ => [leaf, 0, 0, 0],
        }
    }
    fn ferr(&self, _: usize) {
        self.note("ferr".into());
    }
    fn signals(&self, _: usize) -> &Arc<Signals> {
        &self.signals
    }
}

/// Memory that walks the page tables on every access.
pub struct Memory {
    pub phys: Arc<PhysMap>,
    state: State,
}

impl Memory {
    fn each_page(
        &self,
        addr: u64,
        len: usize,
        who: As,
        write: bool,
        mut f: impl FnMut(u64, std::ops::Range<usize>),
    ) -> Fault {
        let access = Access {
            write,
            exec: false,
            user: match who {
                As::Current => self.state.cpl() == 3,
                As::System => false,
                As::User => true,
            },
            smap_open: who == As::Current && self.state.rflags & rflags::AC != 0,
        };
        let mut done = 0;
        while done < len {
            let at = addr.wrapping_add(done as u64);
            let n = (len - done).min((0x1000 - at % 0x1000) as usize);
            let walk = walk::walk(&self.state, &self.phys, at, access)?;
            f(walk.gpa, done..done + n);
            done += n;
        }
        Ok(())
    }
}

impl LinearMemory for Memory {
    fn read(&mut self, addr: u64, data: &mut [u8], who: As) -> Fault {
        let phys = self.phys.clone();
        let mut copy = vec![0; data.len()];
        self.each_page(addr, data.len(), who, false, |gpa, range| {
            phys.read(gpa, &mut copy[range]);
        })?;
        data.copy_from_slice(&copy);
        Ok(())
    }
    fn write(&mut self, addr: u64, data: &[u8], who: As) -> Fault {
        self.probe_write(addr, data.len(), who)?;
        self.each_page(addr, data.len(), who, true, |gpa, range| {
            self.phys.write(gpa, &data[range]);
        })
    }
    fn probe_write(&mut self, addr: u64, len: usize, who: As) -> Fault {
        self.each_page(addr, len, who, true, |_, _| {})
    }
    fn is_memory(&mut self, addr: u64, write: bool) -> bool {
        let mut memory = false;
        let found = self.each_page(addr, 1, As::Current, write, |gpa, _| {
            memory = matches!(self.phys.lookup(gpa).read, pgm::Target::Ram(_));
        });
        found.is_ok() && memory
    }
    fn phys(&self) -> &PhysMap {
        &self.phys
    }
    fn context_changed(&mut self, state: &State) {
        self.state = state.clone();
    }
}

pub struct Machine {
    pub state: State,
    pub mem: Memory,
    pub bus: Devices,
    pub flush: Flush,
    /// I/O breakpoints that the last instruction hit.
    pub debug: u64,
}

impl Machine {
    /// Real mode: CS and DS at `CODE`, SS at 0.
    pub fn real() -> Self {
        let mut machine = Self::real_quick();
        for vector in 0..256u64 {
            machine.put(4 * vector, 4, 0x5000 << 16 | vector);
        }
        machine
    }

    /// [`Machine::real`] without an interrupt table.
    pub fn real_quick() -> Self {
        let phys = PhysMap::new(Ram::new(8 << 20).unwrap());
        let block = phys.ram().alloc(4 << 20).unwrap();
        let kind = RegionKind::Memory {
            block,
            writes: WriteFlags::ReadWrite,
        };
        phys.add(0, 4 << 20, 0, kind).unwrap();
        let mut state = State::reset(0);
        let code = SegReg::real((CODE >> 4) as u16);
        for s in Seg::ALL {
            state.seg[s as usize] = code;
        }
        state.seg[Seg::Cs as usize].attr |= attr::CODE;
        state.seg[Seg::Ss as usize] = SegReg::real(0x3000);
        state.gpr[4] = 0x1000;
        state.rip = 0;
        state.idtr.limit = 0x3ff;
        Self {
            mem: Memory {
                phys,
                state: state.clone(),
            },
            state,
            bus: Devices::default(),
            flush: Flush::None,
            debug: 0,
        }
    }

    /// 32-bit protected mode at level 0, flat, without paging. Handler of vector n: a 32-bit
    /// interrupt gate with DPL 0 to `HANDLER + n`.
    pub fn protected() -> Self {
        let mut m = Self::real();
        let flat = attr::P | attr::S | attr::DB | attr::G | attr::RW;
        let dpl3 = attr::DPL;
        let system = attr::P;
        let gdt = [
            (sel::CODE0, descriptor(0, 0xfffff, flat | attr::CODE)),
            (sel::DATA0, descriptor(0, 0xfffff, flat)),
            (sel::CODE3, descriptor(0, 0xfffff, flat | attr::CODE | dpl3)),
            (sel::DATA3, descriptor(0, 0xfffff, flat | dpl3)),
            (sel::TSS, descriptor(TSS, 0x1ff, system | 9)),
            (
                sel::CODE64,
                descriptor(0, 0, flat & !attr::DB | attr::CODE | attr::L),
            ),
            (sel::SMALL, descriptor(0, 0xfff, flat & !attr::G)),
            (sel::DOWN, descriptor(0, 0xfff, flat & !attr::G | attr::DC)),
            (sel::GATE, gate(12, 3, sel::CODE0, HANDLER, 2)),
            (
                sel::CONFORMING,
                descriptor(0, 0xfffff, flat | attr::CODE | attr::DC),
            ),
            (sel::ABSENT, descriptor(0, 0xfffff, flat & !attr::P)),
            (sel::READ_ONLY, descriptor(0, 0xfffff, flat & !attr::RW)),
            (
                sel::EXECUTE_ONLY,
                descriptor(0, 0xfffff, flat & !attr::RW | attr::CODE),
            ),
            (sel::LDT, descriptor(LDT, 0xff, system | 2)),
            (sel::TSS_B, descriptor(TSS_B, 0x67, system | 9)),
            (sel::TSS16, descriptor(TSS16, 0x2b, system | 1)),
            (sel::TASK, gate(5, 0, sel::TSS_B, 0, 0)),
            (
                sel::CODE64_3,
                descriptor(0, 0, flat & !attr::DB | attr::CODE | attr::L | dpl3),
            ),
            (
                sel::STACK16,
                descriptor(0, 0xffff, flat & !(attr::DB | attr::G)),
            ),
            (
                sel::CODE16,
                descriptor(0, 0xffff, flat & !(attr::DB | attr::G) | attr::CODE),
            ),
            (sel::GATE64, gate(12, 3, sel::CODE64, HANDLER, 0)),
        ];
        for (sel, raw) in gdt {
            m.put(GDT + u64::from(sel & !7), 8, raw);
        }
        for vector in 0..256 {
            m.idt(vector, gate(14, 0, sel::CODE0, HANDLER + vector, 0));
        }
        m.put(TSS + 4, 4, STACK0 - 0x100);
        m.put(TSS + 8, 2, u64::from(sel::DATA0));
        m.put(TSS + 102, 2, 104);
        m.state.gdtr.base = GDT;
        m.state.gdtr.limit = 0xff;
        m.state.idtr.base = IDT;
        m.state.idtr.limit = 0x7ff;
        m.state.cr0 |= cr0::PE;
        m.state.tr = SegReg {
            base: TSS,
            limit: 0x1ff,
            attr: system | 11,
            sel: sel::TSS,
        };
        m.put(
            GDT + u64::from(sel::TSS),
            8,
            descriptor(TSS, 0x1ff, system | 11),
        );
        m.level(0);
        m
    }

    /// Long mode at level 0 in 64-bit code; the first 4 MiB mapped to themselves, usable at
    /// level 3.
    pub fn long() -> Self {
        let mut m = Self::protected();
        m.put(TABLES, 8, (TABLES + 0x1000) | 7);
        m.put(TABLES + 0x1000, 8, (TABLES + 0x2000) | 7);
        m.put(TABLES + 0x2000, 8, 0x87);
        m.put(TABLES + 0x2008, 8, 0x20_0087);
        m.state.cr3 = TABLES;
        m.state.cr4 |= cr4::PAE;
        m.state.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        m.state.cr0 |= cr0::PG;
        for vector in 0..64 {
            m.put(
                IDT + 16 * vector,
                8,
                gate(14, 0, sel::CODE64, HANDLER + vector, 0),
            );
            m.put(IDT + 16 * vector + 8, 8, 0);
        }
        m.put(TSS + 4, 8, STACK0 - 0x100);
        // IST 1.
        m.put(TSS + 36, 8, STACK0 - 0x805);
        m.load(Seg::Cs, sel::CODE64);
        m.state.gpr[4] = STACK0;
        m
    }

    /// Goes to level 0 or 3 of flat 32-bit code, by decree.
    pub fn level(&mut self, cpl: u8) {
        let (code, data, sp) = if cpl == 0 {
            (sel::CODE0, sel::DATA0, STACK0)
        } else {
            (sel::CODE3, sel::DATA3, STACK3)
        };
        for s in Seg::ALL {
            self.load(s, data);
        }
        self.load(Seg::Cs, code);
        self.state.gpr[4] = sp;
        self.state.rip = CODE;
    }

    /// Level 3 of 64-bit code.
    pub fn level3_long(&mut self) {
        self.level(3);
        self.load(Seg::Cs, sel::CODE64_3);
    }

    /// Virtual-8086 mode with segments as in [`Machine::real`].
    pub fn v86() -> Self {
        let mut m = Self::protected();
        m.state.rflags |= rflags::VM;
        for s in Seg::ALL {
            m.state.seg[s as usize] = crate::sys::seg::v86((CODE >> 4) as u16);
        }
        m.state.seg[Seg::Ss as usize] = crate::sys::seg::v86(0x3000);
        m.state.gpr[4] = 0x1000;
        m.state.rip = 0;
        m
    }

    /// Fills a segment register from the GDT without checks.
    pub fn load(&mut self, seg: Seg, sel: u16) {
        let d = crate::sys::seg::Descriptor {
            low: self.get(GDT + u64::from(sel & !7), 8),
            high: 0,
            at: 0,
        };
        self.state.seg[seg as usize] = d.load(sel);
    }

    pub fn idt(&mut self, vector: u64, raw: u64) {
        self.put(IDT + 8 * vector, 8, raw);
    }

    pub fn iopl(&mut self, level: u64) {
        self.state.rflags = self.state.rflags & !rflags::IOPL | level << 12;
    }

    /// Writes guest-physical memory.
    pub fn put(&mut self, at: u64, size: usize, value: u64) {
        self.mem.phys.write(at, &value.to_le_bytes()[..size]);
    }

    pub fn get(&self, at: u64, size: usize) -> u64 {
        let mut b = [0; 8];
        self.mem.phys.read(at, &mut b[..size]);
        u64::from_le_bytes(b)
    }

    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut b = vec![0; len];
        self.mem.phys.read(at, &mut b);
        b
    }

    /// Does something with a [`Sys`] for this machine.
    pub fn with<T>(&mut self, f: impl FnOnce(&mut Sys<'_>) -> T) -> T {
        self.mem.state = self.state.clone();
        let mut sys = Sys {
            state: &mut self.state,
            mem: &mut self.mem,
            bus: &self.bus,
            cpu: 0,
            flush: Flush::None,
            debug: 0,
        };
        let result = f(&mut sys);
        self.flush = sys.flush;
        self.debug = sys.debug;
        result
    }

    /// Executes one instruction given as bytes, at the current `rip`.
    pub fn run(&mut self, code: &[u8]) -> Fault<Flow> {
        let cs = &self.state.seg[Seg::Cs as usize];
        let bitness = if self.state.code64() {
            64
        } else if cs.has(attr::DB) {
            32
        } else {
            16
        };
        // The address the decoder is told must not matter.
        let mut decoder = Decoder::with_ip(bitness, code, 0x7777, DecoderOptions::NONE);
        let insn = decoder.decode();
        assert!(!insn.is_invalid(), "{code:02x?} does not decode");
        assert_eq!(insn.len(), code.len(), "{code:02x?} is {insn:?}");
        self.with(|sys| execute(sys, &insn))
    }

    /// Executes an instruction that must complete.
    pub fn ok(&mut self, code: &[u8]) -> Flow {
        self.run(code)
            .unwrap_or_else(|e| panic!("{code:02x?} raised {e:x?}"))
    }

    /// Executes an instruction that must fault; nothing but the flags of [`State`] that matter
    /// for restarting is compared.
    pub fn fault(&mut self, code: &[u8]) -> (Vector, u32) {
        let before = (
            self.state.gpr,
            self.state.rip,
            self.state.rflags,
            self.state.seg,
        );
        let e = self
            .run(code)
            .err()
            .unwrap_or_else(|| panic!("{code:02x?} did not fault"));
        let after = (
            self.state.gpr,
            self.state.rip,
            self.state.rflags,
            self.state.seg,
        );
        assert_eq!(before, after, "{code:02x?} faulted half way");
        (e.vector, e.code)
    }

    pub fn deliver(&mut self, event: Event) -> Result<(), Shutdown> {
        self.with(|sys| deliver(sys, event))
    }

    pub fn raise(&mut self, e: Exception) {
        self.deliver(Event::Exception(e)).expect("delivered");
    }

    pub fn sel(&self, seg: Seg) -> u16 {
        self.state.seg[seg as usize].sel
    }

    /// `n` units of `size` bytes on the stack, from its top.
    pub fn stack(&self, n: usize, size: usize) -> Vec<u64> {
        let ss = &self.state.seg[Seg::Ss as usize];
        let (base, sp) = if self.state.code64() {
            (0, self.state.gpr[4])
        } else if ss.has(attr::DB) {
            (ss.base, self.state.gpr[4] & 0xffff_ffff)
        } else {
            (ss.base, self.state.gpr[4] & 0xffff)
        };
        (0..n)
            .map(|i| self.get(base + sp + (i * size) as u64, size))
            .collect()
    }
}
