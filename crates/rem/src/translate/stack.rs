//! Instructions that use the stack, and the moves between T0's memory and registers.

use iced_x86::{OpAccess, OpKind};

use super::{Access, Builder, Insn, is_scratch, number};
use crate::ctx;
use crate::emit::{T0, T1};

impl Builder<'_> {
    /// T0 = stack pointer + `delta`, truncated to the stack's size.
    pub(super) fn stack_address(&mut self, delta: i32) {
        let bytes = self.input.mode.stack_bytes();
        self.hot.lea(bytes == 8, T0, Some(4), None, delta);
        if bytes == 2 {
            self.hot.movzx16(T0, T0);
        }
    }

    pub(super) fn push_address(&mut self, size: u32) {
        self.stack_address(-(size as i32));
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

    /// `mov [T0], reg` of `size` bytes.
    pub(super) fn store_to(&mut self, reg: u8, size: u32) {
        let r = (reg >> 3) << 2;
        let modrm = (reg & 7) << 3 | 2;
        match size {
            1 => self.hot.put(&[0x41 | r, 0x88, modrm]),
            2 => self.hot.put(&[0x66, 0x41 | r, 0x89, modrm]),
            4 => self.hot.put(&[0x41 | r, 0x89, modrm]),
            _ => self.hot.put(&[0x49 | r, 0x89, modrm]),
        }
    }

    /// `mov reg, [T0]` of `size` bytes, zero-extending.
    pub(super) fn load_zx(&mut self, reg: u8, size: u32) {
        let r = (reg >> 3) << 2;
        let modrm = (reg & 7) << 3 | 2;
        match size {
            1 => self.hot.put(&[0x41 | r, 0x0f, 0xb6, modrm]),
            2 => self.hot.put(&[0x41 | r, 0x0f, 0xb7, modrm]),
            4 => self.hot.put(&[0x41 | r, 0x8b, modrm]),
            _ => self.hot.put(&[0x49 | r, 0x8b, modrm]),
        }
    }

    /// `mov reg, [T0]` of `size` bytes, keeping the rest for 2.
    pub(super) fn load_from(&mut self, reg: u8, size: u32) {
        let r = (reg >> 3) << 2;
        let modrm = (reg & 7) << 3 | 2;
        match size {
            2 => self.hot.put(&[0x66, 0x41 | r, 0x8b, modrm]),
            _ => self.load_zx(reg, size),
        }
    }

    pub(super) fn store_constant(&mut self, value: u64, size: u32) {
        self.hot.imm(T1, value);
        self.store_to(T1, size);
    }

    pub(super) fn push(&mut self, i: &Insn) {
        let insn = i.insn;
        let size = -insn.stack_pointer_increment() as u32;
        if i.live {
            self.hot.save_flags();
        }
        match insn.op0_kind() {
            OpKind::Memory => {
                self.address(&insn, 0);
                let a = self.memory_access(&insn, size, OpAccess::Read, i.live);
                self.access(&Access {
                    restore: false,
                    ..a
                });
                self.load_zx(T1, size);
                self.hot.store(ctx::tmp(1), T1);
                self.push_address(size);
                self.access(&self.stack_access(size, true, i.live, true, false));
                self.hot.load(T1, ctx::tmp(1));
                self.store_to(T1, size);
            }
            OpKind::Register => {
                let r = insn.op0_register();
                let n = number(r).0;
                self.push_address(size);
                self.access(&self.stack_access(size, true, i.live, true, false));
                if is_scratch(r) {
                    self.hot.load(T1, ctx::gpr(n.into()));
                    self.store_to(T1, size);
                } else {
                    self.store_to(n, size);
                }
            }
            _ => {
                self.push_address(size);
                self.access(&self.stack_access(size, true, i.live, true, false));
                self.store_constant(insn.immediate(0), size);
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
        if i.live {
            self.hot.save_flags();
        }
        self.stack_address(0);
        self.access(&self.stack_access(size, false, i.live, true, false));
        if n == 4 {
            if size == 2 {
                self.load_zx(T1, size);
                self.move_stack(size as i32);
                self.hot.mov16(4, T1);
            } else {
                self.load_from(4, size);
            }
        } else if is_scratch(r) {
            self.hot.load(T1, ctx::gpr(n.into()));
            self.load_from(T1, size);
            self.hot.store(ctx::gpr(n.into()), T1);
            self.move_stack(size as i32);
        } else {
            self.load_from(n, size);
            self.move_stack(size as i32);
        }
        self.done();
    }

    pub(super) fn leave(&mut self, i: &Insn) {
        let insn = i.insn;
        let size = match insn.code() {
            iced_x86::Code::Leavew => 2,
            iced_x86::Code::Leaved => 4,
            _ => 8,
        };
        if i.live {
            self.hot.save_flags();
        }
        let stack = self.input.mode.stack_bytes();
        match stack {
            8 => self.hot.mov(T0, 5),
            4 => self.hot.mov32(T0, 5),
            _ => self.hot.movzx16(T0, 5),
        }
        self.access(&self.stack_access(size, false, i.live, true, false));
        self.load_zx(T1, size);
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
