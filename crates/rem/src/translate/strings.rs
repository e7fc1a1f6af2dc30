//! String instructions.

use iced_x86::{OpAccess, OpKind};

use super::memory::Access;
use super::{Builder, Insn};
use crate::ctx::{self, Call};
use crate::emit::{At, T0, T1};
use crate::site::{Action, Exec, Mark};
use cpu::bits::rflags;

/// Elements that a repeated instruction does on the window at once, at most: while it runs nobody
/// looks for interrupts.
const WINDOW_RUN: u32 = 1 << 20;

impl Builder<'_> {
    /// MOVS or STOS with the direction flag clear; otherwise a helper does it.
    pub(super) fn string_one(&mut self, i: &Insn) {
        let insn = i.insn;
        let size = insn.memory_size().size() as u32;
        let movs = insn.op1_kind() != OpKind::Register;
        let bytes = match insn.op0_kind() {
            OpKind::MemoryESDI => 2,
            OpKind::MemoryESEDI => 4,
            _ => 8,
        };
        self.park(i);
        self.hot.test_gs(ctx::RFLAGS, rflags::DF as u32);
        let down = self.hot.jcc(5);
        if movs {
            self.pointer(6, bytes);
            let a = self.memory_access(&insn, size, OpAccess::Read);
            self.access(&a);
            self.load_zx(T1, size, At::t0(0));
            self.hot.store(ctx::tmp(1), T1);
            self.done();
        }
        self.pointer(7, bytes);
        let a = self.memory_access(&insn, size, OpAccess::Write);
        self.access(&Access { seg: 0, ..a });
        if movs {
            self.hot.load(T1, ctx::tmp(1));
            self.store_to(T1, size, At::t0(0));
            self.advance(6, bytes, size);
        } else {
            self.store_to(0, size, At::t0(0));
        }
        self.advance(7, bytes, size);
        self.done();
        let after = self.hot.here();
        self.by_helper(i, &[down], after);
    }

    /// Out of line, for jumps at `from`: the helper, then on at `after` with flags parked as there.
    fn by_helper(&mut self, i: &Insn, from: &[u32], after: u32) {
        let stub = self.cold.here();
        self.to_cold.extend(from.iter().map(|at| (*at, stub)));
        let index = self.execs.len() as u32;
        self.args_cold.push(self.cold.here());
        self.cold.call(Call::Exec, index);
        let rip = i.insn.ip() & self.input.mode.ip_mask();
        let resume = if self.input.mode.one() { 0 } else { after };
        self.execs.push(Exec {
            action: Action::Execute(i.insn),
            rip,
            resume,
            parked: self.parked,
            same_mode: false,
            undo: 0,
        });
    }

    /// Repeated MOVS or STOS, by the host's own instruction: on the window, or where both operands
    /// lie in one page each that the TLB has.
    pub(super) fn string_rep(&mut self, i: &Insn) {
        let insn = i.insn;
        let size = insn.memory_size().size() as u32;
        let movs = insn.op1_kind() != OpKind::Register;
        let long = self.input.mode.code64();
        self.park(i);
        self.hot.test_gs(ctx::RFLAGS, rflags::DF as u32);
        let mut helped = vec![self.hot.jcc(5)];
        let pointers: &[u8] = if movs { &[6, 7] } else { &[7] };
        if !long {
            self.hot.mov32(1, 1);
        }
        let most = match self.input.window {
            Some(_) => WINDOW_RUN,
            None => 4096 / size,
        };
        self.hot.put(&[0x48, 0x81, 0xf9]); // cmp rcx, most
        self.hot.put(&most.to_le_bytes());
        helped.push(self.hot.jcc(7)); // ja
        if self.input.window.is_some() {
            for n in pointers {
                if !long {
                    self.hot.mov32(*n, *n);
                }
                self.hot.window_delta(*n);
                self.hot.store(ctx::run_delta(*n), T1);
                self.hot.lea(true, *n, Some(*n), Some((T1, 1)), 0);
            }
            let mark = if movs { Mark::Movs } else { Mark::Stos };
            self.marks.push((self.hot.here(), mark));
            self.rep(size, movs);
            for n in pointers {
                self.hot.sub_gs(*n, ctx::run_delta(*n));
                if !long {
                    self.hot.mov32(*n, *n);
                }
            }
        } else {
            self.hot.put(&[0x48, 0x85, 0xc9]); // test rcx, rcx
            let none = self.hot.jcc(4);
            for n in pointers {
                let table = ctx::tlb(self.input.mode.class(), *n == 7);
                helped.extend(self.run_in_page(*n, size, table));
                self.hot.store(ctx::tmp(*n as usize & 1), T0);
            }
            for n in pointers {
                self.hot.lea(long, T1, Some(*n), Some((1, size as u8)), 0);
                self.hot.store(ctx::run_delta(*n), T1);
                self.hot.load(*n, ctx::tmp(*n as usize & 1));
            }
            self.rep(size, movs);
            for n in pointers {
                self.hot.load(*n, ctx::run_delta(*n));
            }
            let after = self.hot.here();
            self.hot.fix(none, after);
        }
        let after = self.hot.here();
        self.by_helper(i, &helped, after);
    }

    /// T0 = host address of what register `n` points at, if RCX elements of `size` bytes from there
    /// lie in the page and the TLB has it. Returns places of jumps that are taken otherwise.
    fn run_in_page(&mut self, n: u8, size: u32, table: i32) -> Vec<u32> {
        let bytes = if self.input.mode.code64() { 8 } else { 4 };
        self.pointer(n, bytes);
        let mut out = vec![self.hot.probe(table, 1)];
        // The place in the page is the host's too.
        self.hot.mov32(T1, n);
        self.hot.and32(T1, 0xfff);
        self.hot.lea(true, T1, Some(T1), Some((1, size as u8)), 0);
        self.hot.put(&[0x49, 0x81, 0xfb]); // cmp r11, 4096
        self.hot.put(&4096u32.to_le_bytes());
        out.push(self.hot.jcc(7)); // ja
        out
    }

    /// The host's REP MOVS or REP STOS.
    fn rep(&mut self, size: u32, movs: bool) {
        self.hot.put(&[0xf3]);
        match size {
            2 => self.hot.put(&[0x66]),
            8 => self.hot.put(&[0x48]),
            _ => {}
        }
        let opcode = if movs { 0xa4 } else { 0xaa };
        self.hot.put(&[opcode | u8::from(size > 1)]);
    }

    /// T0 = register `n`, truncated to the address size.
    fn pointer(&mut self, n: u8, bytes: usize) {
        match bytes {
            2 => self.hot.movzx16(T0, n),
            4 => self.hot.mov32(T0, n),
            _ => self.hot.mov(T0, n),
        }
    }

    /// Adds `delta` to register `n` in the address size. May use T0.
    fn advance(&mut self, n: u8, bytes: usize, delta: u32) {
        match bytes {
            8 => self.hot.lea(true, n, Some(n), None, delta as i32),
            4 => self.hot.lea(false, n, Some(n), None, delta as i32),
            _ => {
                self.hot.lea(false, T0, Some(n), None, delta as i32);
                self.hot.mov16(n, T0);
            }
        }
    }
}
