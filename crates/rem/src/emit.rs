//! The few host instructions the translator adds around the guest's own, as bytes.
//!
//! Registers are numbers in encoding order (0 RAX to 15 R15). [`T0`] and [`T1`] are scratch.

use crate::ctx::{self, Part};
use crate::host::{self, Extract};

/// Scratch register 0 (R10): addresses.
pub const T0: u8 = 10;
/// Scratch register 1 (R11).
pub const T1: u8 = 11;

/// For [`At::base`]: the displacement is all.
pub const NO_BASE: u8 = 16;

/// Where the translator's own moves find memory: `[base + disp]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Base register, or [`NO_BASE`].
    pub base: u8,
    /// Displacement.
    pub disp: i32,
    /// Through a part of the window.
    pub part: Option<Part>,
    /// The address is truncated to 32 bits first.
    pub short: bool,
}

impl At {
    /// `[T0 + disp]`, a host address.
    pub const fn t0(disp: i32) -> Self {
        Self {
            base: T0,
            disp,
            part: None,
            short: false,
        }
    }
}

/// Code under construction. Positions are offsets from its start.
#[derive(Default)]
pub struct Code {
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Code {
    /// Current position.
    pub fn here(&self) -> u32 {
        self.bytes.len() as u32
    }

    /// Raw bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn disp(&mut self, disp: i32) {
        self.put(&disp.to_le_bytes());
    }

    fn rex(w: bool, reg: u8, index: u8, base: u8) -> u8 {
        0x40 | u8::from(w) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3
    }

    /// `op reg, gs:[disp]` (or the reverse, by opcode), 64-bit or 32-bit.
    fn gs_op(&mut self, w: bool, op: u8, reg: u8, disp: i32) {
        self.put(&[
            0x65,
            Self::rex(w, reg, 0, 0),
            op,
            0x04 | (reg & 7) << 3,
            0x25,
        ]);
        self.disp(disp);
    }

    /// `mov reg, gs:[disp]`, 64-bit.
    pub fn load(&mut self, reg: u8, disp: i32) {
        self.gs_op(true, 0x8b, reg, disp);
    }

    /// `mov reg32, gs:[disp]`.
    pub fn load32(&mut self, reg: u8, disp: i32) {
        self.gs_op(false, 0x8b, reg, disp);
    }

    /// `mov gs:[disp], reg`, 64-bit.
    pub fn store(&mut self, disp: i32, reg: u8) {
        self.gs_op(true, 0x89, reg, disp);
    }

    /// `mov gs:[disp], reg32`.
    pub fn store32(&mut self, disp: i32, reg: u8) {
        self.gs_op(false, 0x89, reg, disp);
    }

    /// `mov gs:[disp], reg8` (the low byte).
    pub fn store8(&mut self, disp: i32, reg: u8) {
        self.gs_op(false, 0x88, reg, disp);
    }

    /// `mov word gs:[disp], imm`.
    pub fn store_imm16(&mut self, disp: i32, imm: u16) {
        self.put(&[0x65, 0x66, 0xc7, 0x04, 0x25]);
        self.disp(disp);
        self.put(&imm.to_le_bytes());
    }

    /// `movzx reg32, word gs:[disp]`.
    pub fn load16(&mut self, reg: u8, disp: i32) {
        let rex = Self::rex(false, reg, 0, 0);
        self.put(&[0x65, rex, 0x0f, 0xb7, 0x04 | (reg & 7) << 3, 0x25]);
        self.disp(disp);
    }

    /// `and reg32, gs:[disp]`. Changes flags.
    pub fn and_from_gs(&mut self, reg: u8, disp: i32) {
        self.gs_op(false, 0x23, reg, disp);
    }

    /// `cmp dword gs:[disp], imm`. Changes flags.
    pub fn cmp_gs_imm(&mut self, disp: i32, imm: u32) {
        self.put(&[0x65, 0x81, 0x3c, 0x25]);
        self.disp(disp);
        self.put(&imm.to_le_bytes());
    }

    /// `test reg32, imm`. Changes flags.
    pub fn test32(&mut self, reg: u8, imm: u32) {
        self.put(&[Self::rex(false, 0, 0, reg), 0xf7, 0xc0 | reg & 7]);
        self.put(&imm.to_le_bytes());
    }

    /// `cmp reg32, imm`, for T0 and T1. Changes flags.
    pub fn cmp_imm(&mut self, reg: u8, imm: u32) {
        self.put(&[0x41, 0x81, 0xf8 | reg & 7]);
        self.put(&imm.to_le_bytes());
    }

    /// `shr reg, count`, 64-bit or 32-bit. Changes flags.
    pub fn shr(&mut self, w: bool, reg: u8, count: u8) {
        self.put(&[Self::rex(w, 0, 0, reg), 0xc1, 0xe8 | reg & 7, count]);
    }

    /// `movdqu gs:[disp], xmm0`, or the reverse.
    pub fn xmm0(&mut self, store: bool, disp: i32) {
        let op = if store { 0x7f } else { 0x6f };
        self.put(&[0x65, 0xf3, 0x0f, op, 0x04, 0x25]);
        self.disp(disp);
    }

    /// `movdqu xmm0, [r10 + disp]; pxor xmm0, [rip + 0]`; returns the place of the displacement.
    pub fn xor_source(&mut self, disp: i32) -> u32 {
        self.put(&[0xf3, 0x41, 0x0f, 0x6f, 0x82]);
        self.disp(disp);
        self.put(&[0x66, 0x0f, 0xef, 0x05, 0, 0, 0, 0]);
        self.here() - 4
    }

    /// `or reg32, imm8`. Changes flags.
    pub fn or_imm8(&mut self, reg: u8, imm: u8) {
        self.put(&[Self::rex(false, 0, 0, reg), 0x83, 0xc8 | reg & 7, imm]);
    }

    /// `mov gs:[disp], reg16`.
    pub fn store16(&mut self, disp: i32, reg: u8) {
        let rex = Self::rex(false, reg, 0, 0);
        self.put(&[0x65, 0x66, rex, 0x89, 0x04 | (reg & 7) << 3, 0x25]);
        self.disp(disp);
    }

    /// `mov dword gs:[disp], imm`.
    pub fn store_imm32(&mut self, disp: i32, imm: u32) {
        self.put(&[0x65, 0xc7, 0x04, 0x25]);
        self.disp(disp);
        self.put(&imm.to_le_bytes());
    }

    /// `add reg, gs:[disp]`. Changes flags.
    pub fn add_gs(&mut self, w: bool, reg: u8, disp: i32) {
        self.gs_op(w, 0x03, reg, disp);
    }

    /// `sub reg, gs:[disp]`, 64-bit. Changes flags.
    pub fn sub_gs(&mut self, reg: u8, disp: i32) {
        self.gs_op(true, 0x2b, reg, disp);
    }

    /// `cmp reg, gs:[disp]`, 64-bit. Changes flags.
    pub fn cmp_gs(&mut self, reg: u8, disp: i32) {
        self.gs_op(true, 0x3b, reg, disp);
    }

    /// `test dword gs:[disp], mask`. Changes flags.
    pub fn test_gs(&mut self, disp: i32, mask: u32) {
        self.put(&[0x65, 0xf7, 0x04, 0x25]);
        self.disp(disp);
        self.put(&mask.to_le_bytes());
    }

    /// `cmp dword gs:[disp], 0`. Changes flags.
    pub fn cmp_gs_zero(&mut self, disp: i32) {
        self.put(&[0x65, 0x83, 0x3c, 0x25]);
        self.disp(disp);
        self.put(&[0]);
    }

    /// `and dword gs:[disp], imm`. Changes flags.
    pub fn and_gs(&mut self, disp: i32, imm: u32) {
        self.put(&[0x65, 0x81, 0x24, 0x25]);
        self.disp(disp);
        self.put(&imm.to_le_bytes());
    }

    /// `or dword gs:[disp], imm`. Changes flags.
    pub fn or_gs(&mut self, disp: i32, imm: u32) {
        self.put(&[0x65, 0x81, 0x0c, 0x25]);
        self.disp(disp);
        self.put(&imm.to_le_bytes());
    }

    /// `movzx reg32, byte gs:[disp]`.
    pub fn load8(&mut self, reg: u8, disp: i32) {
        let rex = Self::rex(false, reg, 0, 0);
        self.put(&[0x65, rex, 0x0f, 0xb6, 0x04 | (reg & 7) << 3, 0x25]);
        self.disp(disp);
    }

    /// `and reg32, imm`. Changes flags.
    pub fn and32(&mut self, reg: u8, imm: u32) {
        self.put(&[Self::rex(false, 0, 0, reg), 0x81, 0xe0 | reg & 7]);
        self.put(&imm.to_le_bytes());
    }

    /// `shl reg32, count`. Changes flags.
    pub fn shl32(&mut self, reg: u8, count: u8) {
        self.put(&[Self::rex(false, 0, 0, reg), 0xc1, 0xe0 | reg & 7, count]);
    }

    /// `or to32, from32`. Changes flags.
    pub fn or32(&mut self, to: u8, from: u8) {
        let modrm = 0xc0 | (from & 7) << 3 | to & 7;
        self.put(&[Self::rex(false, from, 0, to), 0x09, modrm]);
    }

    /// `mov to, from`, 64-bit.
    pub fn mov(&mut self, to: u8, from: u8) {
        self.put(&[
            Self::rex(true, from, 0, to),
            0x89,
            0xc0 | (from & 7) << 3 | to & 7,
        ]);
    }

    /// `mov to32, from32`: zero-extends.
    pub fn mov32(&mut self, to: u8, from: u8) {
        self.put(&[
            Self::rex(false, from, 0, to),
            0x89,
            0xc0 | (from & 7) << 3 | to & 7,
        ]);
    }

    /// `mov to16, from16`: keeps the upper bits.
    pub fn mov16(&mut self, to: u8, from: u8) {
        self.put(&[
            0x66,
            Self::rex(false, from, 0, to),
            0x89,
            0xc0 | (from & 7) << 3 | to & 7,
        ]);
    }

    /// `movzx to32, from16`.
    pub fn movzx16(&mut self, to: u8, from: u8) {
        self.put(&[
            Self::rex(false, to, 0, from),
            0x0f,
            0xb7,
            0xc0 | (to & 7) << 3 | from & 7,
        ]);
    }

    /// `movsx`/`movsxd` to 64 bits from a 16- or 32-bit register.
    pub fn sign_extend(&mut self, to: u8, from: u8, from_bytes: usize) {
        let rex = Self::rex(true, to, 0, from);
        let modrm = 0xc0 | (to & 7) << 3 | from & 7;
        match from_bytes {
            2 => self.put(&[rex, 0x0f, 0xbf, modrm]),
            4 => self.put(&[rex, 0x63, modrm]),
            _ => self.mov(to, from),
        }
    }

    /// `mov reg, imm`, shortest form.
    pub fn imm(&mut self, reg: u8, value: u64) {
        if u32::try_from(value).is_ok() {
            self.put(&[Self::rex(false, 0, 0, reg), 0xb8 | reg & 7]);
            self.put(&(value as u32).to_le_bytes());
        } else if i32::try_from(value as i64).is_ok() {
            self.put(&[Self::rex(true, 0, 0, reg), 0xc7, 0xc0 | reg & 7]);
            self.put(&(value as u32).to_le_bytes());
        } else {
            self.imm64(reg, value);
        }
    }

    /// `mov reg, imm64`.
    pub fn imm64(&mut self, reg: u8, value: u64) {
        self.put(&[Self::rex(true, 0, 0, reg), 0xb8 | reg & 7]);
        self.put(&value.to_le_bytes());
    }

    /// `lea to, [base + index * scale + disp]`, 64-bit or 32-bit result.
    pub fn lea(&mut self, w: bool, to: u8, base: Option<u8>, index: Option<(u8, u8)>, disp: i32) {
        let (x, scale) = index.unwrap_or((4, 1));
        let b = base.unwrap_or(5);
        self.put(&[
            Self::rex(
                w,
                to,
                if index.is_some() { x } else { 0 },
                if base.is_some() { b } else { 0 },
            ),
            0x8d,
        ]);
        let reg = (to & 7) << 3;
        let sib = (scale.trailing_zeros() as u8) << 6 | (x & 7) << 3 | b & 7;
        match (base, disp) {
            // No base: SIB with disp32 only.
            (None, _) => {
                self.put(&[reg | 4, sib]);
                self.disp(disp);
            }
            (Some(_), 0) if b & 7 != 5 => self.put(&[reg | 4, sib]),
            (Some(_), -128..=127) => self.put(&[0x40 | reg | 4, sib, disp as u8]),
            (Some(_), _) => {
                self.put(&[0x80 | reg | 4, sib]);
                self.disp(disp);
            }
        }
    }

    /// An instruction on memory at `at` with register `reg` (or opcode extension): `prefix` (66 or
    /// nothing), REX, `op`, ModRM.
    pub fn memory(&mut self, prefix: &[u8], w: bool, op: &[u8], reg: u8, at: At) {
        if let Some(part) = at.part {
            self.segment(part);
        }
        if at.short {
            self.put(&[0x67]);
        }
        self.put(prefix);
        if at.base == NO_BASE {
            self.put(&[Self::rex(w, reg, 0, 0)]);
            self.put(op);
            self.put(&[(reg & 7) << 3 | 4, 0x25]);
            return self.disp(at.disp);
        }
        self.put(&[Self::rex(w, reg, 0, at.base)]);
        self.put(op);
        let modrm = (reg & 7) << 3 | at.base & 7;
        let (length, disp) = match at.disp {
            0 if at.base & 7 != 5 => (0, 0),
            -128..=127 => (1, at.disp),
            _ => (2, at.disp),
        };
        self.put(&[length << 6 | modrm]);
        if at.base & 7 == 4 {
            self.put(&[0x24]); // no index
        }
        match length {
            0 => {}
            1 => self.put(&[disp as u8]),
            _ => self.disp(disp),
        }
    }

    /// The prefix of the segment that a part of the window is reached through.
    pub fn segment(&mut self, part: Part) {
        self.put(match part {
            Part::High => &[0x64],
            Part::Low => &[0x65],
        });
    }

    /// Faults unless the address in `reg` is in this part of the window. Uses T1, keeps flags.
    pub fn check_window(&mut self, reg: u8, part: Part) {
        // pext r11, reg, gs:[mask]
        let vvvv = (!reg & 0xf) << 3;
        self.put(&[0x65, 0xc4, 0x62, 0x82 | vvvv, 0xf5, 0x1c, 0x25]);
        self.disp(ctx::WINDOW_MASK);
        self.put(&[0x65, 0x45, 0x0f, 0xb6, 0x9b]); // movzx r11d, byte gs:[r11 + table]
        self.disp(ctx::window_check(part));
    }

    /// T1 = what to add to the address in `reg` for its place in the window. Keeps flags.
    pub fn window_delta(&mut self, reg: u8) {
        let b = if reg >= 8 { 0x43 } else { 0x63 };
        self.put(&[0xc4, b, 0xfb, 0xf0, 0xd8 | reg & 7, 40]); // rorx r11, reg, 40
        self.put(&[0x45, 0x0f, 0xb6, 0xdb]); // movzx r11d, r11b
        self.put(&[0x65, 0x4e, 0x8b, 0x1c, 0xdd]); // mov r11, gs:[r11 * 8 + deltas]
        self.disp(ctx::WINDOW_DELTAS);
    }

    /// TLB probe for `size` bytes at the linear address in T0: leaves the host address in T0, or
    /// goes to the place patched into the returned position (a 32-bit displacement) with T0 less
    /// the entry's tag and T1 as index. Changes flags.
    pub fn probe(&mut self, table: i32, size: u32) -> u32 {
        self.tlb_index();
        self.put(&[0x65, 0x4e, 0x2b, 0x14, 0xdd]); // sub r10, gs:[r11 * 8 + tag]
        self.disp(table);
        self.put(&[0x49, 0x81, 0xfa]); // cmp r10, limit
        self.put(&(4096 - size).to_le_bytes());
        let at = self.jcc(7); // ja
        self.put(&[0x65, 0x4e, 0x03, 0x14, 0xdd]); // add r10, gs:[r11 * 8 + host]
        self.disp(table + ctx::TLB_HOST);
        at
    }

    /// T1 = TLB index of the linear address in T0. May change flags.
    fn tlb_index(&mut self) {
        match host::extract() {
            Extract::Pext => {
                self.put(&[0x65, 0xc4, 0x62, 0x2a, 0xf5, 0x1c, 0x25]); // pext r11d, r10d, gs:[mask]
                return self.disp(ctx::TLB_MASK);
            }
            Extract::Rorx => self.put(&[0xc4, 0x43, 0x7b, 0xf0, 0xda, 0x0c]), // rorx r11d, r10d, 12
            // mov r11d, r10d; shr r11d, 12
            Extract::Shr => self.put(&[0x45, 0x89, 0xd3, 0x41, 0xc1, 0xeb, 0x0c]),
        }
        self.put(&[0x45, 0x0f, 0xb7, 0xdb]); // movzx r11d, r11w
    }

    /// Undoes the subtraction of a failed probe: T0 is the linear address again.
    pub fn unprobe(&mut self, table: i32) {
        self.put(&[0x65, 0x4e, 0x03, 0x14, 0xdd]); // add r10, gs:[r11 * 8 + tag]
        self.disp(table);
    }

    /// Sets the arithmetic flags aside. Uses T1.
    pub fn save_flags(&mut self) {
        self.put(&[0x49, 0x89, 0xc3]); // mov r11, rax
        self.put(&[0x9f, 0x0f, 0x90, 0xc0]); // lahf; seto al
        self.put(&[0x65, 0x66, 0x89, 0x04, 0x25]); // mov gs:[flagsave], ax
        self.disp(ctx::FLAGSAVE);
        self.put(&[0x4c, 0x89, 0xd8]); // mov rax, r11
    }

    /// Takes the flags set aside back. Uses T1.
    pub fn restore_flags(&mut self) {
        self.put(&[0x49, 0x89, 0xc3]); // mov r11, rax
        self.put(&[0x65, 0x0f, 0xb7, 0x04, 0x25]); // movzx eax, word gs:[flagsave]
        self.disp(ctx::FLAGSAVE);
        self.put(&[0x04, 0x7f, 0x9e]); // add al, 0x7f; sahf
        self.put(&[0x4c, 0x89, 0xd8]); // mov rax, r11
    }

    /// `jcc rel32` with condition `cc`; returns the place of the displacement.
    pub fn jcc(&mut self, cc: u8) -> u32 {
        self.put(&[0x0f, 0x80 | cc, 0, 0, 0, 0]);
        self.here() - 4
    }

    /// `jmp rel32`; returns the place of the displacement.
    pub fn jmp(&mut self) -> u32 {
        self.put(&[0xe9, 0, 0, 0, 0]);
        self.here() - 4
    }

    /// `jmp gs:[disp]`.
    pub fn jmp_gs(&mut self, disp: i32) {
        self.put(&[0x65, 0xff, 0x24, 0x25]);
        self.disp(disp);
    }

    /// `jrcxz` (64-bit), `jecxz` (32-bit) over `skip` bytes.
    pub fn jrcxz(&mut self, w: bool, skip: u8) {
        if !w {
            self.put(&[0x67]);
        }
        self.put(&[0xe3, skip]);
    }

    /// Jump to the target in T0 through a table for indirect jumps. Changes flags. Returns the
    /// place of the displacement for targets that the table does not have.
    pub fn jmp_indirect(&mut self, table: i32) -> u32 {
        self.put(&[0x45, 0x0f, 0xb7, 0xda]); // movzx r11d, r10w
        self.put(&[0x45, 0x01, 0xdb]); // add r11d, r11d
        self.put(&[0x65, 0x4e, 0x3b, 0x14, 0xdd]); // cmp r10, gs:[r11 * 8 + tag]
        self.disp(table);
        let miss = self.jcc(5); // jne
        self.put(&[0x65, 0x42, 0xff, 0x24, 0xdd]); // jmp gs:[r11 * 8 + host]
        self.disp(table + ctx::JC_HOST);
        miss
    }

    /// Calls Rust: `arg` and the thunk of `call`.
    pub fn call(&mut self, call: ctx::Call, arg: u32) {
        self.store_imm32(ctx::ARG, arg);
        self.jmp_gs(ctx::thunk(call));
    }

    /// Points the displacement at `at` to `target`, both positions of this code.
    pub fn fix(&mut self, at: u32, target: u32) {
        let rel = (i64::from(target) - i64::from(at) - 4) as i32;
        self.bytes[at as usize..at as usize + 4].copy_from_slice(&rel.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};

    fn text(emit: impl FnOnce(&mut Code)) -> Vec<String> {
        let mut code = Code::default();
        emit(&mut code);
        let mut f = NasmFormatter::new();
        Decoder::with_ip(64, &code.bytes, 0, DecoderOptions::NONE)
            .iter()
            .map(|i| {
                let mut s = String::new();
                f.format(&i, &mut s);
                s
            })
            .collect()
    }

    /// A displacement as the formatter writes it.
    fn signed(n: i32) -> String {
        let sign = if n < 0 { '-' } else { '+' };
        let text = format!("{:X}h", n.unsigned_abs());
        match text.starts_with(|c: char| c.is_ascii_digit()) {
            true => format!("{sign}{text}"),
            false => format!("{sign}0{text}"),
        }
    }

    /// An address as the formatter writes it.
    fn hex(n: i32) -> String {
        let text = format!("{:X}h", i64::from(n));
        match text.starts_with(|c: char| c.is_ascii_digit()) {
            true => text,
            false => format!("0{text}"),
        }
    }

    #[test]
    fn encodings_read_back_as_meant() {
        let got = text(|c| {
            c.load(9, 0x40);
            c.store(0x1234, 15);
            c.lea(true, T0, Some(13), None, 0);
            c.lea(false, T0, Some(4), Some((12, 4)), -300);
            c.lea(true, T0, None, Some((1, 8)), 16);
            c.lea(true, T0, None, None, 16);
            c.imm(T1, 0xffff_ffff_8000_0000);
            c.imm(T1, 5);
            c.mov16(4, T0);
            c.movzx16(T0, T0);
            c.sign_extend(T1, 2, 4);
            c.cmp_gs(T1, 8);
            c.cmp_gs_zero(8);
            c.test_gs(8, 0x400);
            c.jmp_indirect(0x100);
            c.add_gs(false, T0, 0x10);
            c.and_gs(8, 0xffff_fdff);
            c.store16(8, T1);
            c.or_gs(8, 0x200);
            c.load8(T1, 0x31);
            c.and32(T1, 0xd5);
            c.shl32(T0, 11);
            c.or32(T1, T0);
            c.store32(8, T0);
            c.store8(8, T1);
            c.store_imm16(8, 0x200);
            c.load16(T1, 8);
            c.and_from_gs(T1, 8);
            c.cmp_gs_imm(8, 0x1234);
            c.test32(T1, 0x100);
            c.shr(true, T0, 47);
            c.or_imm8(T1, 2);
        });
        assert_eq!(
            got,
            [
                "mov r9,[gs:40h]",
                "mov [gs:1234h],r15",
                "lea r10,[r13]",
                "lea r10d,[rsp+r12*4-12Ch]",
                "lea r10,[rcx*8+10h]",
                "lea r10,[10h]",
                "mov r11,0FFFFFFFF80000000h",
                "mov r11d,5",
                "mov sp,r10w",
                "movzx r10d,r10w",
                "movsxd r11,edx",
                "cmp r11,[gs:8]",
                "cmp dword [gs:8],0",
                "test dword [gs:8],400h",
                "movzx r11d,r10w",
                "add r11d,r11d",
                "cmp r10,[gs:r11*8+100h]",
                "jne near 000000000000007Bh",
                "jmp qword [gs:r11*8+108h]",
                "add r10d,[gs:10h]",
                "and dword [gs:8],0FFFFFDFFh",
                "mov [gs:8],r11w",
                "or dword [gs:8],200h",
                "movzx r11d,byte [gs:31h]",
                "and r11d,0D5h",
                "shl r10d,0Bh",
                "or r11d,r10d",
                "mov [gs:8],r10d",
                "mov [gs:8],r11b",
                "mov word [gs:8],200h",
                "movzx r11d,word [gs:8]",
                "and r11d,[gs:8]",
                "cmp dword [gs:8],1234h",
                "test r11d,100h",
                "shr r10,2Fh",
                "or r11d,2"
            ]
        );
    }

    #[test]
    fn window_accesses_read_back_as_meant() {
        let at = |base, disp, part, short| At {
            base,
            disp,
            part: Some(part),
            short,
        };
        let got = text(|c| {
            c.memory(&[], true, &[0x8b], 1, at(4, -8, Part::High, false));
            c.memory(&[], false, &[0x89], 12, at(5, 0, Part::Low, true));
            c.memory(
                &[0x66],
                false,
                &[0x8b],
                3,
                at(13, 0x1000, Part::High, false),
            );
            c.memory(&[], false, &[0x0f, 0xb6], 3, At::t0(0));
            c.memory(&[], true, &[0x8b], 3, at(12, 0, Part::Low, false));
            c.memory(
                &[],
                true,
                &[0x8b],
                9,
                at(NO_BASE, 0x40_0000, Part::Low, false),
            );
            c.check_window(4, Part::High);
            c.check_window(T0, Part::Low);
            c.window_delta(3);
            c.window_delta(13);
        });
        let check = |r: &str, part| {
            [
                format!("pext r11,{r},[gs:{}]", hex(ctx::WINDOW_MASK)),
                format!(
                    "movzx r11d,byte [gs:r11{}]",
                    signed(ctx::window_check(part))
                ),
            ]
        };
        let delta = |r: &str| {
            [
                format!("rorx r11,{r},28h"),
                "movzx r11d,r11b".to_owned(),
                format!("mov r11,[gs:r11*8{}]", signed(ctx::WINDOW_DELTAS)),
            ]
        };
        let moves = [
            "mov rcx,[fs:rsp-8]",
            "mov [gs:ebp],r12d",
            "mov bx,[fs:r13+1000h]",
            "movzx ebx,byte [r10]",
            "mov rbx,[gs:r12]",
            "mov r9,[gs:400000h]",
        ];
        let mut expected: Vec<String> = moves.iter().map(|s| (*s).to_owned()).collect();
        expected.extend(check("rsp", Part::High));
        expected.extend(check("r10", Part::Low));
        expected.extend(delta("rbx"));
        expected.extend(delta("r13"));
        assert_eq!(got, expected);
    }

    #[test]
    fn the_probe_is_what_the_comment_says() {
        let got = text(|c| {
            c.save_flags();
            c.probe(0x1000, 8);
            c.restore_flags();
        });
        let index: &[&str] = match host::extract() {
            Extract::Pext => &[&format!("pext r11d,r10d,[gs:{}]", hex(ctx::TLB_MASK))],
            Extract::Rorx => &["rorx r11d,r10d,0Ch", "movzx r11d,r11w"],
            Extract::Shr => &["mov r11d,r10d", "shr r11d,0Ch", "movzx r11d,r11w"],
        };
        let at = 5 + index.len();
        assert_eq!(got[5..at], *index);
        assert!(got[at + 2].starts_with("ja near "), "{got:?}");
        let got = [&got[..5], &got[at..at + 2], &got[at + 3..]].concat();
        assert_eq!(
            got,
            [
                "mov r11,rax",
                "lahf",
                "seto al",
                &format!("mov [gs:{}],ax", hex(ctx::FLAGSAVE)),
                "mov rax,r11",
                "sub r10,[gs:r11*8+1000h]",
                "cmp r10,0FF8h",
                "add r10,[gs:r11*8+81000h]",
                "mov r11,rax",
                &format!("movzx eax,word [gs:{}]", hex(ctx::FLAGSAVE)),
                "add al,7Fh",
                "sahf",
                "mov rax,r11"
            ]
            .map(|s: &str| s.to_owned())
        );
    }
}
