//! Decoding a block, and where its arithmetic flags are live.

use cpu::Exception;
use cpu::bits::rflags;
use iced_x86::{Decoder, Instruction, OpKind, Register, RflagsBits};

use super::checked::{self, Immediate};
use super::{Input, Insn, PAGE, Use, Variant};
use crate::classify::{self, Kind};
use crate::restless::is_soft;

/// Instructions in a block, at most.
const MAX_INSTRUCTIONS: usize = 96;

/// Instructions looked at beyond a jump to find out whether flags are dead there.
const PEEK: usize = 8;

/// Instructions up to which a trace goes around its loop.
const TRACE_INSTRUCTIONS: usize = 64;

/// Jumps a trace follows besides those to its start.
const TRACE_JUMPS: usize = 4;

/// A block's instructions in the order of execution.
pub(super) struct Decoded {
    pub insns: Vec<Insn>,
    /// Bytes from the first instruction on, without a gap.
    pub len: usize,
    /// Ranges of the page (offsets) beyond those bytes that the translation depends on.
    pub peeks: Vec<(u16, u16)>,
    /// Some target is not relative to where the code is.
    pub bound: bool,
}

/// Decodes up to the end of the block and marks where flags are live. A trace goes on beyond jumps
/// back to its start, several times around, and beyond plain jumps within the page.
pub(super) fn decode(input: &Input<'_>) -> Decoded {
    let mode = &input.mode;
    let mut insns: Vec<Insn> = Vec::with_capacity(16);
    let options = input.features.options();
    let decoder_at = |code, ip| Decoder::with_ip(mode.bitness(), code, ip, options);
    let mut decoder = decoder_at(input.bytes(), input.rip);
    let max = if mode.one() { 1 } else { MAX_INSTRUCTIONS };
    // Where the run of instructions under way starts, and how much of it was there before.
    let (mut start, mut room) = (input.at, input.in_page());
    let (mut len, mut around, mut jumps) = (0, 0, 0);
    let mut peeks = Vec::new();
    let mut bound = false;
    while insns.len() < max && decoder.position() < room {
        let mut insn = decoder.decode();
        input.features.adjust(&mut insn);
        let end = insn.next_ip().wrapping_sub(1);
        let mut kind = classify::classify(&insn, mode);
        if insn.is_invalid() && !insns.is_empty() {
            // Perhaps it only reaches into a page that could not be read: start there.
            break;
        }
        if insn.is_invalid() && insns.is_empty() && too_long(input.bytes(), mode.bitness(), options)
        {
            kind = Kind::Raise(Exception::gp(0));
        } else if input.features.hides(&insn) {
            kind = Kind::Raise(Exception::ud());
        }
        if end > mode.cs_limit {
            if !insns.is_empty() {
                break;
            }
            kind = Kind::Raise(Exception::gp(0));
        }
        if input.source.is_some() && !insns.is_empty() && decoder.position() > room {
            // Of a checked translation all is in one page.
            break;
        }
        let soft = soft(input, &decoder, &insn, kind);
        if start == input.at {
            len = len.max(decoder.position());
        } else if let Some(last) = peeks.last_mut() {
            *last = (start as u16, (start + decoder.position()) as u16);
        }
        bound |= insn.op0_kind() == OpKind::NearBranch16 || insn.memory_base() == Register::EIP;
        insns.push(Insn {
            insn,
            kind,
            live: true,
            touches: false,
            follow: false,
            operand: Use::SINGLE,
            stack: Use::SINGLE,
            soft,
        });
        if input.variant == Variant::Trace && matches!(kind, Kind::Jmp | Kind::Jcc) {
            let target = insn.near_branch_target() & mode.ip_mask();
            if target == input.rip {
                around = if around == 0 { insns.len() } else { around };
                if insns.len() + around > TRACE_INSTRUCTIONS {
                    break;
                }
                (start, room) = (input.at, input.in_page());
                decoder = decoder_at(input.bytes(), input.rip);
            } else if kind == Kind::Jmp
                && jumps < TRACE_JUMPS
                && let Some(at) = in_page(input, target)
            {
                jumps += 1;
                (start, room) = (at, input.page_end() - at);
                peeks.push((at as u16, at as u16));
                decoder = decoder_at(&input.code[at..input.page_end()], target);
            } else if kind == Kind::Jmp {
                break;
            } else {
                continue;
            }
            if let Some(i) = insns.last_mut() {
                i.follow = true;
            }
            continue;
        }
        let writes = |i: &Insn| input.source.is_some() && checked::may_write_code(i);
        if ends_block(kind) || insns.last().is_some_and(writes) {
            break;
        }
    }
    // Interrupts come one instruction after STI and loads of SS: that one must be in the block.
    let holds_off = |i: &&mut Insn| matches!(i.kind, Kind::Sti | Kind::ExecSame);
    if let Some(i) = insns.last_mut().filter(holds_off) {
        i.kind = Kind::ExecEnd;
    }
    mark_live(input, &mut insns, &mut peeks);
    Decoded {
        insns,
        len,
        peeks,
        bound,
    }
}

/// The immediate operand of `insn`, just decoded, if it is soft.
fn soft(
    input: &Input<'_>,
    decoder: &Decoder<'_>,
    insn: &Instruction,
    kind: Kind,
) -> Option<Immediate> {
    let source = input.source.filter(|_| matches!(kind, Kind::Copy))?;
    let offsets = decoder.get_constant_offsets(insn);
    let at = input.place(insn) + offsets.immediate_offset();
    let size = offsets.immediate_size();
    (at..at + size)
        .any(|n| is_soft(source.soft, n))
        .then(|| Immediate::of(insn, at, size))?
}

/// Place in the page of code at `target`, if it is in the same page.
fn in_page(input: &Input<'_>, target: u64) -> Option<usize> {
    let mode = &input.mode;
    let linear = mode.linear(target);
    let same = linear & !(PAGE - 1) == mode.linear(input.rip) & !(PAGE - 1);
    let at = (linear & (PAGE - 1)) as usize;
    // Where a segment wraps, offsets and places in the page part.
    let straight = target.wrapping_sub(input.rip) == (at as u64).wrapping_sub(input.at as u64);
    let known = at >= input.known.0 && at < input.page_end();
    (same && straight && known && target <= mode.cs_limit).then_some(at)
}

fn mark_live(input: &Input<'_>, insns: &mut [Insn], peeks: &mut Vec<(u16, u16)>) {
    // An exit is looked beyond only where that can spare something: when memory is accessed between
    // it and the last instruction that overwrites all flags.
    let mut pays = Vec::with_capacity(insns.len());
    let mut accessed = false;
    for i in insns.iter() {
        let effect = Effect::of(&i.insn, i.kind);
        accessed |= has_access(i);
        pays.push(accessed);
        if effect.kills == rflags::ARITH {
            accessed = false;
        }
    }
    let mut live = rflags::ARITH;
    let last = insns.len().wrapping_sub(1);
    for (n, i) in insns.iter_mut().enumerate().rev() {
        let effect = Effect::of(&i.insn, i.kind);
        let exit = match i.kind {
            Kind::Jcc if i.follow => Some(i.insn.next_ip()),
            Kind::Jmp if i.follow && n != last => None,
            Kind::Jcc | Kind::Jmp | Kind::Call => Some(i.insn.near_branch_target()),
            _ if n == last && !ends_block(i.kind) => Some(i.insn.next_ip()),
            _ => None,
        };
        if let Some(target) = exit {
            let dead = pays[n] && dead_at(input, target & input.mode.ip_mask(), peeks);
            let there = if dead { 0 } else { rflags::ARITH };
            live = if n == last && i.kind != Kind::Jcc {
                there
            } else if n == last {
                // It also falls through to where nobody looked.
                rflags::ARITH
            } else {
                live | there
            };
        }
        live = live & !effect.kills | effect.reads;
        i.live = live != 0;
        i.touches = effect.touches;
    }
}

/// Whether emitting the instruction may change the host's flags before it executes.
fn has_access(i: &Insn) -> bool {
    match i.kind {
        Kind::Nothing | Kind::Jcc | Kind::Jmp | Kind::Lea | Kind::Loop | Kind::Raise(_) => false,
        Kind::Copy => (0..i.insn.op_count()).any(|n| i.insn.op_kind(n) == OpKind::Memory),
        _ => true,
    }
}

/// Whether the code at `target` overwrites all arithmetic flags before it reads any, as far as this
/// page tells.
fn dead_at(input: &Input<'_>, target: u64, peeks: &mut Vec<(u16, u16)>) -> bool {
    let mode = &input.mode;
    if input.source.is_some() {
        return false;
    }
    let Some(at) = in_page(input, target) else {
        return false;
    };
    let code = &input.code[at..input.page_end()];
    let mut decoder = Decoder::with_ip(mode.bitness(), code, target, input.features.options());
    let mut open = rflags::ARITH;
    for _ in 0..PEEK {
        let mut insn = decoder.decode();
        input.features.adjust(&mut insn);
        if insn.is_invalid() || insn.next_ip().wrapping_sub(1) > mode.cs_limit {
            return false;
        }
        let kind = classify::classify(&insn, mode);
        if ends_block(kind) || matches!(kind, Kind::Jcc) {
            return false;
        }
        let effect = Effect::of(&insn, kind);
        if effect.reads & open != 0 {
            return false;
        }
        open &= !effect.kills;
        if open == 0 {
            peeks.push((at as u16, (at + decoder.position()) as u16));
            return true;
        }
    }
    false
}

/// Whether `bytes` begin with an instruction of more than 15 bytes, which is #GP and not #UD (SDM
/// vol. 3, 6.15, interrupt 13): too many prefixes, or a good instruction once those without an
/// effect are taken out.
fn too_long(bytes: &[u8], bitness: u32, options: u32) -> bool {
    let group = |b: u8| match b {
        0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => 0x26,
        0xf2 | 0xf3 => 0xf2,
        b => b,
    };
    let is_prefix = |b: &u8| matches!(group(*b), 0x26 | 0xf2 | 0x66 | 0x67 | 0xf0);
    let prefixes = bytes.iter().take_while(|b| is_prefix(b)).count();
    if prefixes >= 15 {
        return true;
    }
    // Of each group the last one counts.
    let (before, rest) = bytes.split_at(prefixes);
    let mut short: Vec<u8> = Vec::with_capacity(bytes.len());
    for (i, b) in before.iter().enumerate() {
        if before[i + 1..]
            .iter()
            .all(|later| group(*later) != group(*b))
        {
            short.push(*b);
        }
    }
    let dropped = prefixes - short.len();
    short.extend(rest);
    let mut decoder = Decoder::new(bitness, &short, options);
    let insn = decoder.decode();
    dropped > 0 && !insn.is_invalid() && insn.len() + dropped > 15
}

pub(super) fn ends_block(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::ExecEnd
            | Kind::Raise(_)
            | Kind::TakeUpper
            | Kind::SetAc(_)
            | Kind::Syscall
            | Kind::Sysret
            | Kind::Jmp
            | Kind::Loop
            | Kind::JmpIndirect
            | Kind::Call
            | Kind::CallIndirect
            | Kind::Ret
            | Kind::Far
    )
}

/// What an instruction does with the arithmetic flags.
struct Effect {
    /// Read by it.
    reads: u64,
    /// Overwritten by it whatever happens.
    kills: u64,
    /// The instruction itself, as the host executes it, reads or writes flags.
    touches: bool,
}

impl Effect {
    fn of(insn: &Instruction, kind: Kind) -> Effect {
        match kind {
            // When these fault, the flags that they would have overwritten are of no interest.
            Kind::Sysret => Effect {
                reads: 0,
                kills: rflags::ARITH,
                touches: false,
            },
            Kind::ExecEnd if is_iret(insn) => Effect {
                reads: 0,
                kills: rflags::ARITH,
                touches: true,
            },
            Kind::Pause
            | Kind::Exec
            | Kind::ExecSame
            | Kind::ExecEnd
            | Kind::ExecFpu
            | Kind::ExecVector
            | Kind::Raise(_) => Effect {
                reads: rflags::ARITH,
                kills: 0,
                touches: true,
            },
            Kind::Copy | Kind::BitString => {
                let reads = convert(insn.rflags_read());
                let changes = convert(insn.rflags_modified());
                Effect {
                    reads,
                    // Flags that the manual leaves undefined count as overwritten.
                    kills: if may_leave_flags(insn) { 0 } else { changes },
                    // The decoder knows counts that change no defined flag; hosts may change others.
                    touches: reads | changes != 0 || is_shift(insn),
                }
            }
            Kind::Pushf | Kind::Syscall | Kind::Far | Kind::LoadSegment => Effect {
                reads: rflags::ARITH,
                kills: 0,
                touches: false,
            },
            Kind::Jcc | Kind::Loop => Effect {
                reads: convert(insn.rflags_read()),
                kills: 0,
                touches: true,
            },
            _ => Effect {
                reads: 0,
                kills: 0,
                touches: false,
            },
        }
    }
}

fn is_iret(insn: &Instruction) -> bool {
    use iced_x86::Mnemonic as M;
    matches!(insn.mnemonic(), M::Iret | M::Iretd | M::Iretq)
}

fn convert(bits: u32) -> u64 {
    if bits == 0 {
        return 0;
    }
    let mut out = 0;
    for (from, to) in [
        (RflagsBits::CF, rflags::CF),
        (RflagsBits::PF, rflags::PF),
        (RflagsBits::AF, rflags::AF),
        (RflagsBits::ZF, rflags::ZF),
        (RflagsBits::SF, rflags::SF),
        (RflagsBits::OF, rflags::OF),
    ] {
        if bits & from != 0 {
            out |= to;
        }
    }
    out
}

fn is_shift(insn: &Instruction) -> bool {
    use iced_x86::Mnemonic as M;
    matches!(
        insn.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    )
}

/// Shifts and rotates whose count may be zero change no flags then.
fn may_leave_flags(insn: &Instruction) -> bool {
    if !is_shift(insn) {
        return false;
    }
    let count = insn.op_count() - 1;
    match insn.op_kind(count) {
        OpKind::Immediate8 => insn.immediate8() & 0x1f == 0,
        OpKind::Register => true,
        _ => false,
    }
}
