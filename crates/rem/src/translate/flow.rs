//! Ways out of a block: jumps, loops, helper calls.

use cpu::Exception;
use iced_x86::{Instruction, OpAccess, OpKind};

use super::{Builder, Insn, LinkWire, Variant, count_bytes, is_scratch, number};
use crate::ctx::{self, Call};
use crate::emit::{T0, T1};
use crate::site::{Action, Exec, Link, Wire};

impl Builder<'_> {
    /// Target of an indirect branch in register `to`, T0 or T1. Flags are parked.
    pub(super) fn branch_target(&mut self, i: &Insn, to: u8) {
        let insn = i.insn;
        if insn.op0_kind() == OpKind::Register {
            let r = insn.op0_register();
            let n = number(r).0;
            let from = if is_scratch(r) {
                self.hot.load(to, ctx::gpr(n.into()));
                to
            } else {
                n
            };
            match r.size() {
                2 => self.hot.movzx16(to, from),
                4 => self.hot.mov32(to, from),
                _ => self.hot.mov(to, from),
            }
            return;
        }
        let size = insn.memory_size().size() as u32;
        let at = self.reach_operand(i, size, OpAccess::Read);
        self.load_zx(to, size, at);
        self.done();
    }

    /// Leaves for the target in T0, with flags parked. `undo` takes the stack pointer back to where
    /// the instruction found it.
    pub(super) fn jump_indirect(&mut self, undo: i32) {
        let index = self.refusal(undo);
        if self.input.mode.one() {
            self.args_hot.push(self.hot.here());
            return self.hot.call(Call::Jump, index);
        }
        self.jump_through(self.input.jc_table, index);
    }

    /// The same through the given table for indirect jumps; `index` is a [`Builder::refusal`].
    pub(super) fn jump_through(&mut self, table: usize, index: u32) {
        let stub = self.cold.here();
        self.args_cold.push(stub);
        self.cold.call(Call::Jump, index);
        let miss = self.hot.jmp_indirect(ctx::jc(table));
        self.to_cold.push((miss, stub));
    }

    /// What happens when the instruction under way goes where no code can be.
    pub(super) fn refusal(&mut self, undo: i32) -> u32 {
        self.execs.push(Exec {
            action: Action::Raise(Exception::gp(0)),
            rip: self.insn.ip() & self.input.mode.ip_mask(),
            resume: 0,
            parked: self.parked,
            same_mode: false,
            undo,
        });
        self.execs.len() as u32 - 1
    }

    /// Leaves for `target`: from here, or from the conditional jump whose displacement is at `jcc`.
    pub(super) fn exit(&mut self, target: u64, jcc: Option<u32>) {
        let mode = &self.input.mode;
        let index = self.links.len();
        let source = self.insn.ip() & mode.ip_mask();
        if !mode.can_reach(target) && target != self.insn.next_ip() & mode.ip_mask() {
            let stub = self.cold.here();
            self.args_cold.push(stub);
            let index = self.refusal(0);
            self.cold.call(Call::Exec, index);
            let at = jcc.unwrap_or_else(|| self.hot.jmp());
            return self.to_cold.push((at, stub));
        }
        let same_page = mode.linear(target) >> 12 == mode.linear(self.input.rip) >> 12;
        let stub = self.cold.here();
        self.args_cold.push(stub);
        self.cold.call(Call::Link, index as u32);
        let mut wire = None;
        if mode.one() {
            let at = jcc.unwrap_or_else(|| self.hot.jmp());
            self.to_cold.push((at, stub));
        } else if same_page {
            let at = jcc.unwrap_or_else(|| self.hot.jmp());
            self.to_cold.push((at, stub));
            wire = Some(LinkWire::Hot(at));
        } else {
            match jcc {
                None => {
                    self.hot.jmp_gs(0);
                    wire = Some(LinkWire::SlotHot(self.hot.here() - 4));
                }
                Some(at) => {
                    let via = self.cold.here();
                    self.cold.jmp_gs(0);
                    self.to_cold.push((at, via));
                    wire = Some(LinkWire::SlotCold(self.cold.here() - 4));
                }
            }
        }
        if let Some(wire) = wire {
            self.link_wires.push((index, wire));
        }
        let poll = !same_page || target <= source;
        // A jump back within the page is a loop's.
        let variant = match same_page && poll {
            true => Variant::Trace,
            false => Variant::Plain,
        };
        self.links.push(Link {
            target,
            poll,
            parked: self.parked,
            crosses: false,
            variant,
            wire: Wire::None,
            stub,
        });
    }

    /// Leaves the usual way at each of `jumps` for a helper that executes the instruction; with
    /// `resume` the code goes on here afterwards.
    pub(super) fn slow(&mut self, jumps: &[u32], resume: bool) {
        let stub = self.cold.here();
        self.to_cold.extend(jumps.iter().map(|at| (*at, stub)));
        self.args_cold.push(stub);
        self.cold.call(Call::Exec, self.execs.len() as u32);
        self.execs.push(Exec {
            action: Action::Execute(self.insn),
            rip: self.insn.ip() & self.input.mode.ip_mask(),
            resume: if resume { self.hot.here() } else { 0 },
            parked: self.parked,
            same_mode: false,
            undo: 0,
        });
    }

    pub(super) fn loop_(&mut self, insn: &Instruction) {
        use iced_x86::Mnemonic as M;
        let mode = self.input.mode;
        let taken = insn.near_branch_target() & mode.ip_mask();
        let next = insn.next_ip() & mode.ip_mask();
        let counts = matches!(insn.mnemonic(), M::Loop | M::Loope | M::Loopne);
        if counts && !mode.can_reach(taken) {
            return self.exec(Action::Execute(*insn), false);
        }
        let bytes = count_bytes(insn, mode.bitness());
        if counts {
            match bytes {
                8 => self.hot.lea(true, 1, Some(1), None, -1),
                4 => self.hot.lea(false, 1, Some(1), None, -1),
                _ => {
                    self.hot.lea(false, T0, Some(1), None, -1);
                    self.hot.mov16(1, T0);
                }
            }
        }
        // LOOPE and LOOPNE also end on the zero flag.
        match insn.mnemonic() {
            M::Loope => {
                let at = self.hot.jcc(5);
                self.exit(next, Some(at));
            }
            M::Loopne => {
                let at = self.hot.jcc(4);
                self.exit(next, Some(at));
            }
            _ => {}
        }
        // Branch on the count without touching flags; a 16-bit count is tested in a copy.
        if bytes == 2 {
            self.hot.mov(T1, 1);
            self.hot.movzx16(1, 1);
            self.hot.jrcxz(false, 8); // over: mov rcx, r11 (3) + jmp (5)
            self.hot.mov(1, T1);
        } else {
            self.hot.jrcxz(bytes == 8, 5);
        }
        let nonzero = self.hot.jmp();
        if bytes == 2 {
            self.hot.mov(1, T1);
        }
        let (zero, other) = if counts { (next, taken) } else { (taken, next) };
        self.exit(other, Some(nonzero));
        self.exit(zero, None);
    }

    pub(super) fn exec(&mut self, action: Action, goes_on: bool) {
        let index = self.execs.len() as u32;
        self.args_hot.push(self.hot.here());
        self.hot.call(Call::Exec, index);
        let resume = if goes_on && !self.input.mode.one() {
            self.hot.here()
        } else {
            0
        };
        let rip = self.insn.ip() & self.input.mode.ip_mask();
        self.execs.push(Exec {
            action,
            rip,
            resume,
            parked: self.parked,
            same_mode: false,
            undo: 0,
        });
        self.parked = false;
    }
}
