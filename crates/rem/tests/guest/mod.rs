//! A machine in 64-bit mode with one engine. Each handler is a HLT: the engine comes back with the
//! frame on the stack.
#![allow(dead_code)] // each test program uses a part

use std::sync::{Arc, Mutex};

use cpu::bits::{cr0, cr4, dr6, efer};
use cpu::{Bus, Engine, Exit, RunState, Seg, SegReg, Signals, State, attr};
use pgm::{PhysMap, Ram, RegionKind, WriteFlags};

#[derive(Default)]
pub struct Ports(pub Arc<Signals>, pub Mutex<Vec<u16>>);

impl Bus for Ports {
    fn port_read(&self, _: usize, _: u16, _: u8) -> u32 {
        0
    }
    fn port_write(&self, _: usize, port: u16, _: u8, _: u32) {
        self.1.lock().unwrap().push(port);
    }
    fn port_read_string(&self, _: usize, _: u16, _: u8, data: &mut [u8]) {
        data.fill(0);
    }
    fn port_write_string(&self, _: usize, port: u16, size: u8, data: &[u8]) {
        let n = data.len() / usize::from(size);
        self.1.lock().unwrap().extend(vec![port; n]);
    }
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
    fn cpuid(&self, _: usize, leaf: u32, subleaf: u32) -> [u32; 4] {
        // A processor that says nothing hides nothing, but the save area has to be somewhere.
        match (leaf, subleaf) {
            (0xd, 0) => [0xe7, 0, 2432, 0],
            (0xd, 5) => [64, 832, 0, 0],
            (0xd, 6) => [512, 896, 0, 0],
            (0xd, 7) => [1024, 1408, 0, 0],
            _ => [0; 4],
        }
    }
    fn ferr(&self, _: usize) {}
    fn signals(&self, _: usize) -> &Arc<Signals> {
        &self.0
    }
}

pub const PML4: u64 = 0x1000;
pub const GDT: u64 = 0x4000;
pub const IDT: u64 = 0x5000;
pub const HANDLERS: u64 = 0x6000;
pub const TSS: u64 = 0x7000;
pub const STACK: u64 = 0x9000;
pub const CODE: u64 = 0x10000;
pub const DATA: u64 = 0x20000;

pub struct Guest {
    pub phys: Arc<PhysMap>,
    pub bus: Arc<Ports>,
    engine: Box<dyn Engine>,
    pub s: State,
}

/// What a handler found: vector, return address, flags.
pub type Frame = (u64, u64, u64);

impl Guest {
    /// 64-bit mode at level 0, everything mapped one to one, `code` at [`CODE`].
    pub fn new(code: &[u8]) -> Self {
        Self::with_windows(code, rem::Windows::Auto)
    }

    /// The same, with user code going through a window or not.
    pub fn with_windows(code: &[u8], windows: rem::Windows) -> Self {
        Self::with_options(
            code,
            rem::Options {
                windows,
                ..rem::Options::default()
            },
        )
    }

    /// The same, with an engine of one's own choice.
    pub fn with_options(code: &[u8], options: rem::Options) -> Self {
        let ram = Ram::new(8 << 20).unwrap();
        let block = ram.alloc(4 << 20).unwrap();
        let phys = PhysMap::new(ram);
        let writes = WriteFlags::ReadWrite;
        phys.add(0, 4 << 20, 0, RegionKind::Memory { block, writes })
            .unwrap();
        let put = |at: u64, value: u64| phys.write(at, &value.to_le_bytes());
        put(PML4, 0x2007);
        put(0x2000, 0x3007);
        put(0x3000, 0x87);
        put(0x3008, 0x20_0087);
        put(GDT + 8, 0x00af_9b00_0000_ffff);
        for vector in 0..256 {
            let target = HANDLERS + vector;
            put(IDT + 16 * vector, 0x8e00 << 32 | 8 << 16 | target);
        }
        put(TSS + 4, STACK);
        phys.write(HANDLERS, &[0xf4; 256]);
        phys.write(CODE, code);
        let bus = Arc::<Ports>::default();
        let peers = rem::Peers::new();
        let engine = rem::Rem::with_peers(0, phys.clone(), bus.clone(), peers, options).unwrap();
        let mut s = State::reset(0);
        s.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::ET | cr0::WP;
        s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::DE | cr4::OSXSAVE;
        s.cr3 = PML4;
        s.efer = efer::LME | efer::LMA;
        s.gdtr.base = GDT;
        s.idtr.base = IDT;
        s.idtr.limit = 0xfff;
        s.tr = SegReg {
            base: TSS,
            limit: 0x67,
            attr: attr::P | 11,
            sel: 0x28,
        };
        let mut g = Self {
            phys,
            bus,
            engine,
            s,
        };
        g.level(0);
        g
    }

    pub fn level(&mut self, cpl: u32) {
        let flat = attr::P | attr::S | attr::RW | attr::ACCESSED | attr::G;
        let dpl = cpl << attr::DPL_SHIFT;
        let reg = |more: u32, sel: u16| SegReg {
            base: 0,
            limit: u32::MAX,
            attr: flat | dpl | more,
            sel: sel | cpl as u16,
        };
        self.s.seg = [reg(attr::DB, 0x10); 6];
        self.s.seg[Seg::Cs as usize] = reg(attr::CODE | attr::L, 8);
        self.s.rip = CODE;
        self.s.gpr[4] = STACK - 0x200;
        self.s.rflags = 2;
    }

    pub fn get(&self, at: u64) -> u64 {
        let mut b = [0; 8];
        self.phys.read(at, &mut b);
        u64::from_le_bytes(b)
    }

    /// One of the engine's counters.
    pub fn counter(&self, name: &str) -> u64 {
        let all = self.engine.statistics();
        all.into_iter().find(|(n, _)| n == name).unwrap().1
    }

    /// Enables breakpoint `n`.
    pub fn breakpoint(&mut self, n: usize, at: u64, rw: u64, len: u64) {
        self.s.dr[n] = at;
        self.s.dr[7] |= 2 << (2 * n) | (rw | len << 2) << (16 + 4 * n);
    }

    /// Runs to a HLT: of a handler (its frame), or of the code (`None`).
    pub fn run(&mut self) -> Option<Frame> {
        self.engine.state_changed();
        assert_eq!(self.engine.run(&mut self.s), Exit::Halted);
        assert_eq!(self.s.run, RunState::Halted);
        self.s.run = RunState::Running;
        let vector = self.s.rip.wrapping_sub(HANDLERS + 1);
        if vector > 255 {
            return None;
        }
        let sp = self.s.gpr[4]
            + if matches!(vector, 8 | 10..=14 | 17) {
                8
            } else {
                0
            };
        Some((vector, self.get(sp), self.get(sp + 16)))
    }

    /// Goes back to where the frame says, with `more` flags.
    pub fn resume(&mut self, frame: Frame, more: u64) -> Option<Frame> {
        self.s.gpr[4] = STACK - 0x200;
        self.s.rip = frame.1;
        self.s.rflags = frame.2 | more;
        self.s.dr[6] = 0xffff_0ff0;
        self.run()
    }

    pub fn hit(&self) -> u64 {
        self.s.dr[6] & (dr6::B | dr6::BS | dr6::BD)
    }
}
