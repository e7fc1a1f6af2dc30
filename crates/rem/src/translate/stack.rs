//! Instructions that use the stack, and the moves between T0's memory and registers.

use iced_x86::{OpAccess, OpKind};

use super::memory::Access;
use super::{Builder, Insn, is_scratch, number};
use crate::ctx;
use crate::emit::{At, T0, T1};

impl Builder<'_> {
    /// T0 = stack pointer + `delta`, truncated to the stack's size.
    pub(super) fn stack_address(&mut self, delta: i32) {
        let bytes = self.input.mode.stack_bytes();
        self.hot.lea(bytes == 8, T0, Some(4), None, delta);
        if bytes == 2 {
            self.hot.movzx16(T0, T0);
        }
    }

    /// Makes the stack at stack pointer + `delta` reachable; see [`Builder::reach`].
    pub(super) fn reach_stack(
        &mut self,
        i: &Insn,
        delta: i32,
        size: u32,
        write: bool,
        last: bool,
    ) -> At {
        let a = Access {
            seg: 2,
            size,
            read: !write,
            write,
            last,
        };
        self.reach(i, i.stack, a, Some((4, delta)), |b, extra| {
            b.stack_address(delta + extra)
        })
    }

    /// Makes the place of a push of `size` bytes reachable.
    pub(super) fn push_access(&mut self, i: &Insn, size: u32, last: bool) -> At {
        self.reach_stack(i, -(size as i32), size, true, last)
    }

    /// Adds `delta` to the stack pointer. With a 16-bit stack T0 is used.
    pub(super) fn move_stack(&mut self, delta: i32) {
        match self.input.mode.stack_bytes() {
            8 => self.hot.lea(true, 4, Some(4), None, delta),
            4 => self.hot.lea(false, 4, Some(4), None, delta),
            _ => {
                self.hot.lea(false, T0, Some(4), None, delta);
                self.hot.mov16(4, T0);
            }
        }
    }

    /// `mov [at], reg` of `size` bytes.
    pub(super) fn store_to(&mut self, reg: u8, size: u32, at: At) {
        match size {
            1 => self.hot.memory(&[], false, &[0x88], reg, at),
            2 => self.hot.memory(&[0x66], false, &[0x89], reg, at),
            _ => self.hot.memory(&[], size == 8, &[0x89], reg, at),
        }
    }

    /// `mov reg, [at]` of `size` bytes, zero-extending.
    pub(super) fn load_zx(&mut self, reg: u8, size: u32, at: At) {
        match size {
            1 => self.hot.memory(&[], false, &[0x0f, 0xb6], reg, at),
            2 => self.hot.memory(&[], false, &[0x0f, 0xb7], reg, at),
            _ => self.hot.memory(&[], size == 8, &[0x8b], reg, at),
        }
    }

    /// `mov reg, [at]` of `size` bytes, keeping the rest for 2.
    fn load_from(&mut self, reg: u8, size: u32, at: At) {
        match size {
            2 => self.hot.memory(&[0x66], false, &[0x8b], reg, at),
            _ => self.load_zx(reg, size, at),
        }
    }

    /// Uses T1.
    pub(super) fn store_constant(&mut self, value: u64, size: u32, at: At) {
        if size == 8 && i32::try_from(value as i64).is_ok() {
            // mov qword [at], imm32 (sign-extended)
            self.hot.memory(&[], true, &[0xc7], 0, at);
            return self.hot.put(&(value as u32).to_le_bytes());
        }
        self.hot.imm(T1, value);
        self.store_to(T1, size, at);
    }

    /// Stores the return address of the instruction under way. Uses T1.
    pub(super) fn store_return(&mut self, size: u32, at: At) {
        let value = self.insn.next_ip() & self.input.mode.ip_mask();
        match size {
            8 if !is_short(value) => {
                self.set_rip(T1, value);
                self.store_to(T1, size, at);
            }
            4 => {
                // mov dword [at], imm32
                self.hot.memory(&[], false, &[0xc7], 0, at);
                self.hot.put(&(value as u32).to_le_bytes());
                self.rips.push(self.hot.here() - 4);
            }
            _ => {
                self.bound = true;
                self.store_constant(value, size, at);
            }
        }
    }

    /// Sets a register to a value that is relative to where the code is.
    pub(super) fn set_rip(&mut self, reg: u8, value: u64) {
        if self.input.mode.code64() && !is_short(value) {
            self.hot.imm64(reg, value);
            self.rips.push(self.hot.here() - 8);
        } else {
            self.bound = true;
            self.hot.imm(reg, value);
        }
    }

    pub(super) fn push(&mut self, i: &Insn) {
        let insn = i.insn;
        let size = -insn.stack_pointer_increment() as u32;
        match insn.op0_kind() {
            OpKind::Memory => {
                let at = self.reach_operand(i, size, OpAccess::Read);
                self.load_zx(T1, size, at);
                self.done();
                self.hot.store(ctx::tmp(1), T1);
                let at = self.push_access(i, size, false);
                self.hot.load(T1, ctx::tmp(1));
                self.store_to(T1, size, at);
            }
            OpKind::Register => {
                let r = insn.op0_register();
                let n = number(r).0;
                let at = self.push_access(i, size, false);
                if is_scratch(r) {
                    self.hot.load(T1, ctx::gpr(n.into()));
                    self.store_to(T1, size, at);
                } else {
                    self.store_to(n, size, at);
                }
            }
            _ => {
                let at = self.push_access(i, size, false);
                self.store_constant(insn.immediate(0), size, at);
            }
        }
        self.move_stack(-(size as i32));
        self.done();
    }

    pub(super) fn pop(&mut self, i: &Insn) {
        let insn = i.insn;
        let size = insn.stack_pointer_increment() as u32;
        let r = insn.op0_register();
        let n = number(r).0;
        let at = self.reach_stack(i, 0, size, false, false);
        if n == 4 {
            if size == 2 {
                self.load_zx(T1, size, at);
                self.move_stack(size as i32);
                self.hot.mov16(4, T1);
            } else {
                self.load_from(4, size, at);
            }
        } else if is_scratch(r) {
            self.hot.load(T1, ctx::gpr(n.into()));
            self.load_from(T1, size, at);
            self.hot.store(ctx::gpr(n.into()), T1);
            self.move_stack(size as i32);
        } else {
            self.load_from(n, size, at);
            self.move_stack(size as i32);
        }
        self.done();
    }

    pub(super) fn ret(&mut self, i: &Insn) {
        let insn = i.insn;
        let extra = if insn.op_count() > 0 {
            i32::from(insn.immediate16())
        } else {
            0
        };
        let size = (insn.stack_pointer_increment() - extra) as u32;
        // Also where the access needs no probe any more: the way out wants the flags parked.
        self.park(i);
        let at = self.reach_stack(i, 0, size, false, true);
        if self.input.mode.stack_bytes() == 2 {
            self.load_zx(T1, size, at);
            self.hot.store(ctx::tmp(1), T1);
            self.move_stack(size as i32 + extra);
            self.hot.load(T0, ctx::tmp(1));
        } else {
            self.load_zx(T0, size, at);
            self.move_stack(size as i32 + extra);
        }
        self.done();
        self.jump_indirect(-(size as i32) - extra);
    }

    pub(super) fn leave(&mut self, i: &Insn) {
        let insn = i.insn;
        let size = match insn.code() {
            iced_x86::Code::Leavew => 2,
            iced_x86::Code::Leaved => 4,
            _ => 8,
        };
        let stack = self.input.mode.stack_bytes();
        let a = Access {
            seg: 2,
            size,
            read: true,
            write: false,
            last: false,
        };
        let at = self.reach(i, i.stack, a, Some((5, 0)), |b, extra| {
            b.hot.lea(stack == 8, T0, Some(5), None, extra);
            if stack == 2 {
                b.hot.movzx16(T0, T0);
            }
        });
        self.load_zx(T1, size, at);
        match stack {
            8 => self.hot.lea(true, 4, Some(5), None, size as i32),
            4 => self.hot.lea(false, 4, Some(5), None, size as i32),
            _ => {
                self.hot.lea(false, T0, Some(5), None, size as i32);
                self.hot.mov16(4, T0);
            }
        }
        match size {
            2 => self.hot.mov16(5, T1),
            4 => self.hot.mov32(5, T1),
            _ => self.hot.mov(5, T1),
        }
        self.done();
    }
}

/// Whether 32 bits are enough for a value.
fn is_short(value: u64) -> bool {
    u32::try_from(value).is_ok() || i32::try_from(value as i64).is_ok()
}
