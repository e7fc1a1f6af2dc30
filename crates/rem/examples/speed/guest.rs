//! Runs user code in the engine, in 64-bit mode: memory from 0 on is at [`BASE`].

use std::sync::Arc;

use cpu::bits::{cr0, cr4, efer};
use cpu::{Bus, Engine, Exit, Seg, SegReg, Signals, State, attr};
use pgm::{PhysMap, Ram, RegionKind, WriteFlags};

use crate::host::{BASE, CODE, DATA, Regs};

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
    fn cpuid(&self, _: usize, _: u32, _: u32) -> [u32; 4] {
        [0; 4]
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
}

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;

impl Guest {
    /// Builds it: page tables at 4 KiB, everything mapped with 2 MiB pages.
    pub fn new(windows: rem::Windows, checks: rem::Checks) -> Self {
        let ram = Ram::new(1 << 30).unwrap();
        let block = ram.alloc(1 << 30).unwrap();
        let phys = PhysMap::new(ram);
        let kind = RegionKind::Memory {
            block,
            writes: WriteFlags::ReadWrite,
        };
        phys.add(0, 1 << 30, 0, kind).unwrap();
        phys.write(PML4 + (BASE >> 39) * 8, &(PDPT | 7).to_le_bytes());
        phys.write(PDPT, &(PD | 7).to_le_bytes());
        for i in 0..512u64 {
            phys.write(PD + 8 * i, &(i << 21 | 0x87).to_le_bytes());
        }
        let bus = Arc::new(NoBus(Arc::default()));
        let options = rem::Options {
            windows,
            checks,
            ..Default::default()
        };
        let engine =
            rem::Rem::with_peers(0, phys.clone(), bus, rem::Peers::new(), options).unwrap();
        Self { phys, engine }
    }

    /// Runs `code` followed by HLT, which ends in a triple fault; registers and data are changed to
    /// the outcome.
    pub fn run(&mut self, code: &[u8], regs: &mut Regs, data: &mut [u8]) -> Exit {
        let mut all = code.to_vec();
        all.push(0xf4);
        self.phys.write(CODE - BASE, &all);
        self.phys.write(DATA - BASE, data);
        let mut s = State::reset(0);
        s.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::ET | cr0::WP;
        s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
        s.xcr0 = 7;
        s.cr3 = PML4;
        s.efer = efer::LME | efer::LMA;
        let user = attr::P | attr::S | attr::RW | attr::ACCESSED | attr::G | 3 << attr::DPL_SHIFT;
        let flat = user | attr::DB;
        s.seg = [SegReg {
            base: 0,
            limit: u32::MAX,
            attr: flat,
            sel: 0x13,
        }; 6];
        let code = user | attr::CODE | attr::L;
        s.seg[Seg::Cs as usize] = SegReg {
            base: 0,
            limit: u32::MAX,
            attr: code,
            sel: 0xb,
        };
        s.rip = CODE;
        s.gpr = regs.gpr;
        s.rflags = regs.flags & cpu::bits::rflags::ARITH | 2;
        s.fpu.0[..512].copy_from_slice(&regs.fx);
        for (n, y) in regs.ymm.iter().enumerate() {
            s.fpu.0[160 + 16 * n..176 + 16 * n].copy_from_slice(&y[..16]);
            s.fpu.0[576 + 16 * n..592 + 16 * n].copy_from_slice(&y[16..]);
        }
        self.engine.state_changed();
        let exit = self.engine.run(&mut s);
        regs.gpr = s.gpr;
        regs.flags = s.rflags;
        regs.fx.copy_from_slice(&s.fpu.0[..512]);
        for (n, y) in regs.ymm.iter_mut().enumerate() {
            y[..16].copy_from_slice(&s.fpu.0[160 + 16 * n..176 + 16 * n]);
            y[16..].copy_from_slice(&s.fpu.0[576 + 16 * n..592 + 16 * n]);
        }
        self.phys.read(DATA - BASE, data);
        exit
    }
}
