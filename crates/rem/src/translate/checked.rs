//! Translations of restless pages (see [`crate::restless`]): they compare the guest's code with what
//! they were made from when they are entered.

use iced_x86::{Code, Instruction, MemoryOperand, Mnemonic, OpKind, Register};

use super::{Builder, Insn, PAGE, is_scratch};
use crate::ctx::{self, Call};
use crate::emit::{T0, T1};
use crate::restless::Soft;

/// The page of the code to translate, if that is restless.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// Where the host has it.
    pub host: u64,
    /// Its soft bytes.
    pub soft: &'a Soft,
}

/// What a checked translation was made from.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// The guest's code.
    pub bytes: Vec<u8>,
    /// Zero for the bytes that are not compared, all ones for others.
    pub mask: Vec<u8>,
}

impl Checked {
    /// Whether `now` does for `bytes`.
    pub fn holds(&self, now: &[u8]) -> bool {
        let pairs = self.bytes.iter().zip(now).zip(&self.mask);
        now.len() == self.bytes.len() && pairs.into_iter().all(|((a, b), m)| (a ^ b) & m == 0)
    }
}

/// An immediate operand that is taken from the guest's code whenever the instruction executes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Immediate {
    /// Its place in the page.
    pub at: u16,
    /// Bytes.
    pub size: u8,
    /// The instruction with another operand in its place.
    code: Code,
}

impl Immediate {
    /// For the immediate of `insn`, which has `size` bytes at `at`, if that can be.
    pub fn of(insn: &Instruction, at: usize, size: usize) -> Option<Self> {
        let to = insn.op0_register();
        let immediate = matches!(
            insn.op_kind(1),
            OpKind::Immediate8
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64
        );
        if insn.op_count() != 2
            || insn.op0_kind() != OpKind::Register
            || !immediate
            || is_scratch(to)
            || !(to.is_gpr32() || to.is_gpr64())
            || at + size > PAGE as usize
        {
            return None;
        }
        let [short, long] = match insn.mnemonic() {
            Mnemonic::Mov => [Code::Mov_r32_rm32, Code::Mov_r64_rm64],
            Mnemonic::Add => [Code::Add_r32_rm32, Code::Add_r64_rm64],
            Mnemonic::Or => [Code::Or_r32_rm32, Code::Or_r64_rm64],
            Mnemonic::Adc => [Code::Adc_r32_rm32, Code::Adc_r64_rm64],
            Mnemonic::Sbb => [Code::Sbb_r32_rm32, Code::Sbb_r64_rm64],
            Mnemonic::And => [Code::And_r32_rm32, Code::And_r64_rm64],
            Mnemonic::Sub => [Code::Sub_r32_rm32, Code::Sub_r64_rm64],
            Mnemonic::Xor => [Code::Xor_r32_rm32, Code::Xor_r64_rm64],
            Mnemonic::Cmp => [Code::Cmp_r32_rm32, Code::Cmp_r64_rm64],
            _ => return None,
        };
        Some(Self {
            at: at as u16,
            size: size as u8,
            code: if to.is_gpr64() { long } else { short },
        })
    }
}

/// Whether the instruction may write to code that follows it: a checked translation ends with it.
/// Pushes are left out: no stack is where it runs, and the manual asks for a jump in between (SDM
/// vol. 3, 8.1.3).
pub(super) fn may_write_code(i: &Insn) -> bool {
    use super::Kind as K;
    match i.kind {
        K::Exec | K::ExecSame | K::ExecFpu | K::ExecVector => true,
        K::StringOne | K::StringRep | K::BitString => true,
        K::Push | K::Verw => false,
        _ => {
            i.insn.op0_kind() == OpKind::Memory
                && !matches!(i.insn.mnemonic(), Mnemonic::Cmp | Mnemonic::Test)
        }
    }
}

impl Builder<'_> {
    /// What the block's instructions are made from.
    pub(super) fn checked(&self, insns: &[Insn], len: usize) -> Checked {
        let at = self.input.at;
        let mut checked = Checked {
            bytes: self.input.code[at..at + len].to_vec(),
            mask: vec![0xff; len],
        };
        for soft in insns.iter().filter_map(|i| i.soft) {
            let from = usize::from(soft.at) - at;
            checked.mask[from..from + usize::from(soft.size)].fill(0);
        }
        checked
    }

    /// Compares the guest's code with what the translation is made from; leaves the address of the
    /// first byte in T0. Flags are parked.
    pub(super) fn check_source(&mut self, host: u64, checked: &Checked) {
        let at = self.input.at;
        let stub = self.cold.here();
        self.cold.xmm0(false, ctx::VECTOR);
        self.cold.restore_flags();
        self.args_cold.push(self.cold.here());
        self.cold.call(Call::Poll, 0);

        self.hot.imm(T0, host.wrapping_add(at as u64));
        self.hot.xmm0(true, ctx::VECTOR);
        let end = at + checked.bytes.len();
        for from in (at..end).step_by(16) {
            // The last one lies in the page, too.
            let start = from.min(PAGE as usize - 16);
            let (mut bytes, mut mask) = ([0; 16], [0; 16]);
            let (to, of) = (from - start, from - at..end.min(start + 16) - at);
            bytes[to..to + of.len()].copy_from_slice(&checked.bytes[of.clone()]);
            mask[to..to + of.len()].copy_from_slice(&checked.mask[of]);
            if mask == [0; 16] {
                continue;
            }
            let bytes = self.constant(bytes);
            let place = self.hot.xor_source((start as i32) - (at as i32));
            self.to_cold.push((place, bytes));
            if mask == [0xff; 16] {
                self.hot.put(&[0x66, 0x0f, 0x38, 0x17, 0xc0]); // ptest xmm0, xmm0
            } else {
                let mask = self.constant(mask);
                self.hot.put(&[0x66, 0x0f, 0x38, 0x17, 0x05, 0, 0, 0, 0]); // ptest xmm0, [rip]
                self.to_cold.push((self.hot.here() - 4, mask));
            }
            let differs = self.hot.jcc(5);
            self.to_cold.push((differs, stub));
        }
        self.hot.xmm0(false, ctx::VECTOR);
        self.source_in_t0 = true;
    }

    /// Puts 16 bytes, aligned, where no code runs.
    fn constant(&mut self, bytes: [u8; 16]) -> u32 {
        while !self.cold.here().is_multiple_of(16) {
            self.cold.put(&[0xcc]);
        }
        let at = self.cold.here();
        self.cold.put(&bytes);
        at
    }

    /// An instruction on registers whose immediate operand is soft.
    pub(super) fn copy_soft(&mut self, i: &Insn, soft: Immediate) {
        let Some(source) = self.input.source else {
            return;
        };
        let at = self.input.at;
        self.unpark(i);
        if !self.source_in_t0 {
            self.hot.imm(T0, source.host.wrapping_add(at as u64));
            self.source_in_t0 = true;
        }
        let disp = i64::from(soft.at) - at as i64;
        let from = MemoryOperand::with_base_displ(Register::R10, disp);
        let to = i.insn.op0_register();
        let whole = usize::from(soft.size) == to.size();
        let operand = if to.is_gpr64() {
            Register::R11
        } else {
            Register::R11D
        };
        let made = if whole {
            Instruction::with2(soft.code, to, from)
        } else {
            // A sign-extended one: movsx r11, byte or dword [r10 + disp].
            let base = crate::emit::At::t0(disp as i32);
            let op: &[u8] = if soft.size == 1 {
                &[0x0f, 0xbe]
            } else {
                &[0x63]
            };
            self.hot.memory(&[], true, op, T1, base);
            Instruction::with2(soft.code, to, operand)
        };
        match made {
            Ok(insn) => self.encode(&insn),
            Err(_) => debug_assert!(false, "{:?} takes no operand", soft.code),
        }
    }
}
