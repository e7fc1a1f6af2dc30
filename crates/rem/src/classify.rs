//! What the translator does with an instruction, by what it is.

use cpu::Exception;
use iced_x86::{
    Code as Op, CpuidFeature as F, EncodingKind, Instruction, Mnemonic as M, OpKind, Register,
};

use crate::mode::Mode;
use crate::translate;
use crate::vector;

/// How an instruction is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Re-emitted; an explicit memory operand is translated.
    Copy,
    /// Does nothing a guest can see (prefetch, cache-line hints, endbr).
    Nothing,
    /// CLFLUSH and its like: only the address is checked.
    Touch,
    /// PAUSE: the vCPU waits for another one.
    Pause,
    /// Executed by `sys::execute`; the block goes on.
    Exec,
    /// Executed by `sys::execute`; the block goes on if the mode is still the same.
    ExecSame,
    /// Executed by `sys::execute`; the block ends.
    ExecEnd,
    /// Like `Exec`, on the FPU image.
    ExecFpu,
    /// Raises an exception when reached.
    Raise(Exception),
    /// Near direct jump.
    Jmp,
    /// Conditional jump.
    Jcc,
    /// LOOP, LOOPE, LOOPNE, JCXZ.
    Loop,
    /// Near indirect jump.
    JmpIndirect,
    /// Near direct call.
    Call,
    /// Near indirect call.
    CallIndirect,
    /// Near return.
    Ret,
    /// PUSH of a register, immediate or memory.
    Push,
    /// POP to a general register.
    Pop,
    /// LEAVE.
    Leave,
    /// LEA.
    Lea,
    /// BT, BTS, BTR, BTC with a register bit offset into memory.
    BitString,
    /// MOVS or STOS without REP.
    StringOne,
    /// MOVS or STOS with REP, flat and with pointers of full size.
    StringRep,
    /// CLI at privilege level 0.
    Cli,
    /// STI at privilege level 0, not at the end of a block.
    Sti,
    /// PUSHFQ.
    Pushf,
    /// MOV to DS, ES, FS or GS from a register in real mode.
    MovSegment,
    /// MOV to DS, ES, FS or GS from a register at privilege level 0 of protected mode.
    LoadSegment,
    /// Far JMP, CALL and RET that may lead to code of the same mode.
    Far,
    /// PUSH of a segment register outside of 64-bit mode.
    PushSegment,
    /// SWAPGS at privilege level 0.
    Swapgs,
    /// STAC (true) and CLAC at privilege level 0: the code goes on in another mode.
    SetAc(bool),
    /// STD (true) and CLD.
    SetDf(bool),
    /// SYSCALL in 64-bit mode.
    Syscall,
    /// SYSRET to 64-bit mode, at privilege level 0.
    Sysret,
    /// RDTSC and RDTSCP.
    ReadTsc,
    /// MOV from a segment register.
    ReadSeg,
    /// MOV from CR0, CR2, CR3 or CR4 at privilege level 0.
    ReadCr,
    /// RDFSBASE and the like.
    Base,
    /// VERW in 64-bit mode. What processors do besides, nothing here needs.
    Verw,
    /// Masked vector access, done element by element.
    ExecVector,
    /// The first AVX-512 instruction: from here on its registers are in use.
    TakeUpper,
}

/// What of the floating-point unit an instruction needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fp {
    None,
    X87,
    Mmx,
    Sse,
    Avx,
    Avx512,
}

/// Decides for `insn` in `mode`.
pub fn classify(insn: &Instruction, mode: &Mode) -> Kind {
    use Kind::*;
    if insn.is_invalid() {
        return Raise(Exception::ud());
    }
    if let Some(e) = unavailable(insn, mode) {
        return Raise(e);
    }
    if mode.avx512() && !mode.upper() && requirement(insn) == Some(Fp::Avx512) {
        return TakeUpper;
    }
    match insn.mnemonic() {
        M::Jmp => match insn.op0_kind() {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => Jmp,
            _ if translate::direct_far(insn, mode) => Far,
            _ if far(insn) => ExecEnd,
            _ => JmpIndirect,
        },
        M::Call => match insn.op0_kind() {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => Call,
            _ if translate::direct_far(insn, mode) => Far,
            _ if far(insn) => ExecEnd,
            _ => CallIndirect,
        },
        M::Retf if translate::direct_far(insn, mode) => Far,
        M::Ret => Ret,
        M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz => Loop,
        _ if insn.is_jcc_short_or_near() => Jcc,
        M::Push => match insn.op0_kind() {
            OpKind::Register if insn.op0_register().is_segment_register() => {
                match mode.one() || mode.aligned() || mode.code64() {
                    true => Exec,
                    false => PushSegment,
                }
            }
            _ => Push,
        },
        M::Pop => match insn.op0_kind() {
            OpKind::Register if insn.op0_register().is_segment_register() => ExecSame,
            OpKind::Register => Pop,
            _ => Exec,
        },
        M::Leave => Leave,
        M::Lea => Lea,
        M::Mov if (0..2).any(|i| special_register(insn.op_register(i))) => {
            let from = insn.op1_register();
            if from.is_segment_register() && !mode.one() {
                ReadSeg
            } else if from.is_segment_register() {
                Exec
            } else if from.is_cr()
                && matches!(from.number(), 0 | 2 | 3 | 4)
                && mode.ring0()
                && !mode.one()
            {
                ReadCr
            } else if !insn.op0_register().is_segment_register() {
                ExecEnd
            } else if mode.plain_real()
                && insn.op1_kind() == OpKind::Register
                && !matches!(insn.op0_register(), Register::SS | Register::CS)
                && !mode.flat(insn.op0_register().number())
            {
                MovSegment
            } else if mode.ring0()
                && !mode.plain_real()
                && !mode.code64()
                && !mode.one()
                && insn.op1_kind() == OpKind::Register
                && !matches!(insn.op0_register(), Register::SS | Register::CS)
            {
                LoadSegment
            } else {
                ExecSame
            }
        }
        M::Bt | M::Bts | M::Btr | M::Btc
            if insn.op0_kind() == OpKind::Memory && insn.op1_kind() == OpKind::Register =>
        {
            BitString
        }
        _ if vector::handles(insn) => ExecVector,
        // Hints, and fences that the host runs itself below.
        M::Prefetch
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Prefetchwt1
        | M::Prefetchit0
        | M::Prefetchit1
        | M::Cldemote
        | M::Nop
        | M::Reservednop
        | M::Endbr32
        | M::Endbr64 => Nothing,
        M::Clflush | M::Clflushopt | M::Clwb => Touch,
        M::Pause => Pause,
        // Without REP they are two ordinary accesses.
        M::Movsb | M::Movsw | M::Movsq | M::Stosb | M::Stosw | M::Stosd | M::Stosq
            if !repeated(insn) =>
        {
            StringOne
        }
        M::Movsd if string(insn) && !repeated(insn) => StringOne,
        M::Movsb | M::Movsw | M::Movsq | M::Stosb | M::Stosw | M::Stosd | M::Stosq
            if runs(insn, mode) =>
        {
            StringRep
        }
        M::Movsd if string(insn) && runs(insn, mode) => StringRep,
        M::Movsb
        | M::Movsw
        | M::Movsq
        | M::Stosb
        | M::Stosw
        | M::Stosd
        | M::Stosq
        | M::Lodsb
        | M::Lodsw
        | M::Lodsd
        | M::Lodsq
        | M::Scasb
        | M::Scasw
        | M::Scasd
        | M::Scasq
        | M::Cmpsb
        | M::Cmpsw
        | M::Cmpsq
        | M::Insb
        | M::Insw
        | M::Insd
        | M::Outsb
        | M::Outsw
        | M::Outsd => Exec,
        M::Movsd | M::Cmpsd if string(insn) => Exec,
        M::Cli if mode.ring0() && !mode.one() => Cli,
        M::Sti if mode.ring0() && !mode.one() => Sti,
        M::Pushfq if mode.code64() && !mode.one() => Pushf,
        M::Swapgs if mode.code64() && mode.ring0() && !mode.one() => Swapgs,
        M::Stac | M::Clac if mode.ring0() && !mode.one() && mode.bitness() >= 32 => {
            SetAc(insn.mnemonic() == M::Stac)
        }
        M::Std | M::Cld if !mode.one() => SetDf(insn.mnemonic() == M::Std),
        // Breakpoints on the target's page want a look at it first.
        M::Syscall if mode.code64() && !mode.one() && !mode.debug() => Syscall,
        M::Sysretq if mode.code64() && mode.ring0() && !mode.one() && !mode.debug() => Sysret,
        M::Rdtsc | M::Rdtscp if !mode.one() => ReadTsc,
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase if mode.code64() && !mode.one() => {
            Base
        }
        M::Verw if mode.code64() && !mode.one() => Verw,
        M::In
        | M::Out
        | M::Cpuid
        | M::Rdtsc
        | M::Rdtscp
        | M::Rdpmc
        | M::Pushf
        | M::Pushfd
        | M::Pushfq
        | M::Sgdt
        | M::Sidt
        | M::Sldt
        | M::Str
        | M::Smsw
        | M::Lar
        | M::Lsl
        | M::Verr
        | M::Verw
        | M::Arpl
        | M::Bound
        | M::Pusha
        | M::Pushad
        | M::Popa
        | M::Popad
        | M::Enter
        | M::Xlatb
        | M::Aaa
        | M::Aas
        | M::Aam
        | M::Aad
        | M::Daa
        | M::Das
        | M::Salc
        | M::Rdmsr
        | M::Std
        | M::Cld
        | M::Cli
        | M::Swapgs
        | M::Rdfsbase
        | M::Rdgsbase
        | M::Wrfsbase
        | M::Wrgsbase
        | M::Xgetbv
        | M::Lgdt
        | M::Lidt
        | M::Invd
        | M::Wbinvd
        | M::Monitor
        | M::Clts => {
            if insn.mnemonic() == M::Clts {
                ExecEnd
            } else {
                Exec
            }
        }
        M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss | M::Popf | M::Popfd | M::Popfq => ExecSame,
        M::Lldt
        | M::Ltr
        | M::Lmsw
        | M::Iret
        | M::Iretd
        | M::Iretq
        | M::Retf
        | M::Int
        | M::Int1
        | M::Int3
        | M::Into
        | M::Syscall
        | M::Sysret
        | M::Sysretq
        | M::Sysenter
        | M::Sysexit
        | M::Sysexitq
        | M::Sti
        | M::Hlt
        | M::Mwait
        | M::Invlpg
        | M::Invpcid
        | M::Wrmsr
        | M::Xsetbv
        | M::Stac
        | M::Clac
        | M::Rsm => ExecEnd,
        M::Fxsave
        | M::Fxsave64
        | M::Fxrstor
        | M::Fxrstor64
        | M::Xsave
        | M::Xsave64
        | M::Xsaveopt
        | M::Xsaveopt64
        | M::Xrstor
        | M::Xrstor64
        | M::Fnsave
        | M::Fsave
        | M::Frstor
        | M::Fnstenv
        | M::Fstenv
        | M::Fldenv => ExecFpu,
        M::Ud0 | M::Ud1 | M::Ud2 | M::Vmcall | M::Vmmcall => Raise(Exception::ud()),
        _ if insn.is_string_instruction() => Exec,
        _ if insn.is_privileged() => ExecEnd,
        _ => Copy,
    }
}

fn far(insn: &Instruction) -> bool {
    matches!(insn.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32)
        || insn.is_jmp_far_indirect()
        || insn.is_call_far_indirect()
}

/// Whether the host's own instruction can do a repeated MOVS or STOS: operands at plain linear
/// addresses as wide as the mode has them, nothing to be looked at between elements.
fn runs(insn: &Instruction, mode: &Mode) -> bool {
    let to = match mode.bitness() {
        64 => OpKind::MemoryESRDI,
        _ => OpKind::MemoryESEDI,
    };
    let seg = match insn.op1_kind() {
        OpKind::Register => 0,
        _ => insn.memory_segment().number(),
    };
    insn.op0_kind() == to
        && mode.bitness() != 16
        && mode.flat(0)
        && mode.flat(seg)
        && !mode.one()
        && !mode.aligned()
}

fn repeated(insn: &Instruction) -> bool {
    insn.has_rep_prefix() || insn.has_repne_prefix()
}

/// The string forms of MOVSD and CMPSD (their SSE namesakes have a vector register).
fn string(insn: &Instruction) -> bool {
    matches!(insn.code(), Op::Movsd_m32_m32 | Op::Cmpsd_m32_m32)
}

fn special_register(r: Register) -> bool {
    r.is_segment_register() || r.is_cr() || r.is_dr() || r.is_tr()
}

/// Whether `insn` waits for an unmasked x87 exception and raises it before it does anything else
/// (SDM vol. 1, 8.6).
pub fn waits(insn: &Instruction) -> bool {
    let silent = matches!(
        insn.mnemonic(),
        M::Fninit
            | M::Fnclex
            | M::Fnstcw
            | M::Fnstsw
            | M::Fnstenv
            | M::Fnsave
            | M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64
    );
    !silent && matches!(requirement(insn), Some(Fp::X87 | Fp::Mmx))
}

/// The exception that keeps `insn` from executing in `mode`, if one does.
fn unavailable(insn: &Instruction, mode: &Mode) -> Option<Exception> {
    let fp = requirement(insn)?;
    let nm = Exception::new(cpu::Vector::Nm);
    match fp {
        Fp::None => None,
        Fp::X87 if insn.mnemonic() == M::Wait => mode.wait_traps().then_some(nm),
        Fp::X87 => (mode.em() || mode.ts()).then_some(nm),
        Fp::Mmx if mode.em() => Some(Exception::ud()),
        Fp::Sse if mode.em() || !mode.osfxsr() => Some(Exception::ud()),
        Fp::Avx if !mode.avx() => Some(Exception::ud()),
        Fp::Avx512 if !mode.avx512() => Some(Exception::ud()),
        _ => mode.ts().then_some(nm),
    }
}

/// Sets of AVX-512 whose instructions on mask registers are not EVEX.
fn is_avx512(f: F) -> bool {
    matches!(f, F::AVX512F | F::AVX512BW | F::AVX512DQ)
}

/// What `insn` needs; `Some(None)` for ordinary ones, `None` when it needs nothing to be checked.
fn requirement(insn: &Instruction) -> Option<Fp> {
    let features = insn.cpuid_features();
    if insn.encoding() == EncodingKind::EVEX || features.iter().any(|f| is_avx512(*f)) {
        return Some(Fp::Avx512);
    }
    let mut fp = Fp::None;
    for f in features {
        fp = match f {
            F::FPU | F::FPU287 | F::FPU387 | F::FPU287XL_ONLY | F::FPU387SL_ONLY | F::FXSR => {
                Fp::X87
            }
            F::MMX => Fp::Mmx,
            F::SSE
            | F::SSE2
            | F::SSE3
            | F::SSSE3
            | F::SSE4_1
            | F::SSE4_2
            | F::AES
            | F::PCLMULQDQ
            | F::SHA
            | F::GFNI
            | F::SSE4A => Fp::Sse,
            F::AVX | F::AVX2 | F::FMA | F::F16C | F::VAES | F::VPCLMULQDQ => Fp::Avx,
            _ => continue,
        };
        if fp == Fp::Avx {
            break;
        }
    }
    // Members of these sets that touch no register of the unit, or those of another.
    match insn.mnemonic() {
        M::Fisttp => fp = Fp::X87,
        M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Sfence
        | M::Lfence
        | M::Mfence
        | M::Pause
        | M::Movnti
        | M::Clflush
        | M::Crc32
        | M::Popcnt
        | M::Xgetbv
        | M::Xsetbv
        | M::Monitor
        | M::Mwait => return None,
        _ => {}
    }
    let mmx_operand = (0..insn.op_count()).any(|i| insn.op_register(i).is_mm());
    if fp == Fp::Sse && mmx_operand && !(0..insn.op_count()).any(|i| insn.op_register(i).is_xmm()) {
        fp = Fp::Mmx;
    }
    (fp != Fp::None).then_some(fp)
}

#[cfg(test)]
mod tests {
    use cpu::bits::{cr0, cr4, efer};
    use cpu::{Seg, SegReg, State, attr};

    use super::*;

    fn mode(long: bool, big: bool, cpl: u32) -> Mode {
        let mut s = State::reset(0);
        s.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::ET | cr0::WP;
        s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXSAVE;
        s.xcr0 = 7;
        s.efer = if long { efer::LME | efer::LMA } else { 0 };
        let flat = attr::P | attr::S | attr::RW | attr::ACCESSED | attr::G;
        let flat = flat | cpl << attr::DPL_SHIFT;
        let size = if big { attr::DB } else { 0 };
        let data = SegReg {
            base: 0,
            limit: u32::MAX,
            attr: flat | size,
            sel: 0x10 | cpl as u16,
        };
        s.seg = [data; 6];
        let kind = if long { attr::L } else { size };
        s.seg[Seg::Cs as usize].attr = flat | attr::CODE | kind;
        Mode::of(&s)
    }

    /// What is not copied usually is not copied when it comes alone, either: STD would change how
    /// Rust runs.
    #[test]
    fn nothing_is_copied_only_when_it_is_stepped() {
        for (long, big, cpl) in [
            (true, false, 0),
            (true, false, 3),
            (false, true, 0),
            (false, true, 3),
            (false, false, 0),
            (false, false, 3),
        ] {
            let mode = mode(long, big, cpl);
            let mut looked = 0;
            for code in iced_x86::Code::values().filter(|c| *c != iced_x86::Code::INVALID) {
                let mut insn = Instruction::default();
                insn.set_code(code);
                let copied = |mode: &Mode| matches!(classify(&insn, mode), Kind::Copy);
                assert!(
                    copied(&mode) || !copied(&mode.single()),
                    "{code:?} at level {cpl}"
                );
                looked += usize::from(!copied(&mode));
            }
            assert!(looked > 300, "{looked}");
        }
    }
}
