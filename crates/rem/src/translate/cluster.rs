//! Which memory accesses of a block lie so close together that one TLB probe serves all of them.
//!
//! Every general register has a symbolic value: an unknown (numbered) plus a known offset. Two
//! accesses whose addresses are the same unknowns plus offsets a little apart make a cluster. Its
//! probe covers the whole range; where that does not lie in one page of plain memory, the block's
//! split translation takes over, which has no clusters.

use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::analyze::ends_block;
use super::memory::is_plain_lea;
use super::{By, Input, Insn, Shown, Use, Variant, Window, for_64_bit, is_scratch, seg_number};
use crate::classify::Kind;
use crate::ctx::{CLUSTERS, Part};
use crate::window::{Reach, part_of};

/// Bytes a cluster may span: wide enough for a stack frame, small enough to lie in one page mostly.
const SPAN: i64 = 512;

/// Base numbers from here on are those of FS and GS, where only the window has accesses with a base.
const SEGMENTS: u32 = u32::MAX - 1;

/// A cluster of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cluster {
    /// Some access writes.
    pub write: bool,
    /// Bytes covered.
    pub span: u32,
    /// The host address is needed again after T0 was used for something else.
    pub keep: bool,
    /// Its probe is done.
    pub ready: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    base: u32,
    index: u32,
    scale: u32,
    /// Helper calls may change the mappings: clusters end there.
    epoch: u32,
}

struct Planned {
    insn: usize,
    stack: bool,
    key: Key,
    offset: i64,
    size: i64,
    write: bool,
}

/// Value of a register: unknown number (0: none), and offset.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    offset: i64,
}

struct Tracker<'a> {
    input: &'a Input<'a>,
    registers: [Symbol; 16],
    fresh: u32,
    epoch: u32,
    planned: Vec<Planned>,
}

/// Finds the clusters and notes them in the instructions.
pub(super) fn plan(
    input: &Input<'_>,
    insns: &mut [Insn],
    info: &mut InstructionInfoFactory,
) -> Vec<Cluster> {
    let wide = input.mode.code64() || input.mode.bitness() == 32 && input.mode.stack_bytes() == 4;
    let split = input.variant == Variant::Split;
    if split || !wide || input.mode.one() || input.mode.aligned() || input.mode.debug() {
        return Vec::new();
    }
    let mut t = Tracker {
        input,
        registers: [Symbol { id: 0, offset: 0 }; 16],
        fresh: 0,
        epoch: 0,
        planned: Vec::with_capacity(insns.len()),
    };
    for n in 0..16 {
        t.forget(n);
    }
    for (n, i) in insns.iter().enumerate() {
        t.step(n, i, info);
    }
    let planned = t.planned;
    match input.window {
        Some(window) => {
            assign_window(input, window, insns, &planned);
            Vec::new()
        }
        None => assign(input, insns, &planned),
    }
}

/// Linear address of a memory operand that has no registers in it but RIP.
pub(super) fn fixed(insn: &Instruction, input: &Input<'_>) -> Option<u64> {
    if insn.is_ip_rel_memory_operand() {
        return Some(insn.ip_rel_memory_address());
    }
    let registers = (insn.memory_base(), insn.memory_index());
    if registers != (Register::None, Register::None) || seg_number(insn.memory_segment()) >= 4 {
        return None;
    }
    let disp = insn.memory_displacement64();
    Some(match input.mode.code64() {
        true => disp,
        false => disp & 0xffff_ffff,
    })
}

/// Accesses on the window at the same registers and places near each other.
struct Near {
    key: Key,
    /// Place of the first.
    offset: i64,
    /// It, as a number in the block, and whether it is on the stack.
    first: (usize, bool),
    by: By,
}

/// How far from a checked address another one may be: what is there is in the same part of the
/// window or in the empty space around it.
const NEAR: u64 = 1 << 28;

/// Sends accesses through the window. Of those at the same registers only the first is checked: the
/// others are so near that, if that one is in the part of the window, they are in it or fault.
fn assign_window(input: &Input<'_>, window: Window<'_>, insns: &mut [Insn], planned: &[Planned]) {
    let long = input.mode.code64();
    let mut groups: Vec<Near> = Vec::new();
    let mut kept = 0;
    for p in planned {
        let insn = insns[p.insn].insn;
        let offset = window.page + (input.place(&insn) as u64 & 0xfff);
        let known = window.reaches.get(offset);
        if known == Some(Reach::Probe) {
            continue;
        }
        let fixed = (!p.stack).then(|| fixed(&insn, input)).flatten();
        let shown = if let Some(linear) = fixed {
            let Some(part) = part_of(linear) else {
                continue;
            };
            Shown {
                by: By::Part(part),
                check: false,
            }
        } else if !long {
            Shown {
                by: By::Part(Part::Low),
                check: false,
            }
        } else if let Some(group) = groups
            .iter_mut()
            .find(|g| g.key == p.key && p.offset.wrapping_sub(g.offset).unsigned_abs() < NEAR)
        {
            if let By::Table(number) = &mut group.by {
                let n = match *number {
                    Some(n) => n,
                    None if kept < CLUSTERS => {
                        *number = Some(kept as u8);
                        kept += 1;
                        kept as u8 - 1
                    }
                    None => continue,
                };
                let (first, stack) = group.first;
                if let Some(shown) = &mut insns[first].reach_mut(stack).window {
                    shown.by = By::Table(Some(n));
                }
                Shown {
                    by: By::Kept(n),
                    check: false,
                }
            } else {
                Shown {
                    by: group.by,
                    check: false,
                }
            }
        } else {
            // Programs that are linked at low addresses have most of their data there.
            let frame = p.stack || insn.memory_base() == Register::RSP;
            let high = frame || p.key.base >= SEGMENTS || input.rip >> 40 != 0;
            let by = match known {
                Some(Reach::Part(part)) => By::Part(part),
                Some(_) => By::Table(None),
                None if high => By::Part(Part::High),
                None => By::Part(Part::Low),
            };
            Shown {
                by,
                check: matches!(by, By::Part(_)),
            }
        };
        let any = !matches!(shown.by, By::Part(_));
        if !p.stack && borrows(&insn, any) {
            continue;
        }
        if fixed.is_none() && matches!(shown.by, By::Table(_)) || shown.check {
            groups.push(Near {
                key: p.key,
                offset: p.offset,
                first: (p.insn, p.stack),
                by: shown.by,
            });
        }
        insns[p.insn].reach_mut(p.stack).window = Some(shown);
    }
}

fn assign(input: &Input<'_>, insns: &mut [Insn], planned: &[Planned]) -> Vec<Cluster> {
    struct Group {
        key: Key,
        min: i64,
        end: i64,
        write: bool,
        uses: u32,
    }
    let narrow = !input.mode.code64();
    let mut groups: Vec<Group> = Vec::new();
    let mut member = Vec::with_capacity(planned.len());
    for p in planned {
        let near = groups.iter().position(|g| {
            let shift = distance(p.offset, g.min, narrow);
            g.key == p.key && (shift + p.size).max(g.end - g.min) - shift.min(0) <= SPAN
        });
        let at = near.unwrap_or_else(|| {
            groups.push(Group {
                key: p.key,
                min: p.offset,
                end: p.offset + p.size,
                write: false,
                uses: 0,
            });
            groups.len() - 1
        });
        let g = &mut groups[at];
        let shift = distance(p.offset, g.min, narrow);
        let end = (g.min + shift + p.size).max(g.end);
        g.min = g.min.min(g.min + shift);
        g.end = end;
        g.write |= p.write;
        g.uses += 1;
        member.push(at);
    }
    let mut clusters = Vec::new();
    let numbers: Vec<Option<u8>> = groups
        .iter()
        .map(|g| {
            (g.uses > 1 && clusters.len() < CLUSTERS).then(|| {
                clusters.push(Cluster {
                    write: g.write,
                    span: (g.end - g.min) as u32,
                    keep: false,
                    ready: false,
                });
                clusters.len() as u8 - 1
            })
        })
        .collect();
    for (p, at) in planned.iter().zip(member) {
        let delta = distance(p.offset, groups[at].min, narrow) as u16;
        let u = Use {
            cluster: numbers[at],
            delta,
            window: None,
        };
        *insns[p.insn].reach_mut(p.stack) = u;
    }
    find_kept(input, insns, &mut clusters);
    clusters
}

/// Whether an instruction whose operand the window has would need a register of the guest's for
/// itself: it must not fault then.
fn borrows(insn: &Instruction, any: bool) -> bool {
    let named = |r: Register| {
        (0..insn.op_count()).any(|n| {
            insn.op_kind(n) == OpKind::Register && insn.op_register(n).full_register() == r
        })
    };
    let high = (0..insn.op_count()).any(|n| is_high(insn.op_register(n)));
    let (base, index) = (insn.memory_base(), insn.memory_index());
    let as_it_is = !any
        && (base, index) != (Register::None, Register::None)
        && !insn.is_ip_rel_memory_operand()
        && seg_number(insn.memory_segment()) < 4;
    named(Register::R10) && named(Register::R11) || high && !as_it_is
}

/// `a - b`; addresses of 32-bit code wrap.
fn distance(a: i64, b: i64, narrow: bool) -> i64 {
    let d = a.wrapping_sub(b);
    if narrow { i64::from(d as i32) } else { d }
}

/// Marks clusters whose host address must be kept in memory.
fn find_kept(input: &Input<'_>, insns: &[Insn], clusters: &mut [Cluster]) {
    let mut t0 = None;
    let mut seen = [false; CLUSTERS];
    for i in insns {
        let mut any = false;
        if i.operand.cluster.is_none() && has_memory(&i.insn) {
            t0 = None;
        }
        for u in [i.operand, i.stack] {
            let Some(c) = u.cluster else { continue };
            any = true;
            if !std::mem::replace(&mut seen[usize::from(c)], true) || t0 == Some(c) {
                t0 = Some(c);
                continue;
            }
            clusters[usize::from(c)].keep = true;
            t0 = Some(c);
        }
        if uses_t0(input, i, any) {
            t0 = None;
        }
    }
}

/// Whether T0 no longer holds a cluster's address after the instruction is emitted.
pub(super) fn uses_t0(input: &Input<'_>, i: &Insn, clustered: bool) -> bool {
    if i.soft.is_some() {
        return true;
    }
    match i.kind {
        Kind::Nothing | Kind::Jcc | Kind::Jmp | Kind::Cli | Kind::Sti | Kind::SetDf(_) => false,
        Kind::ReadSeg | Kind::ReadCr => has_memory(&i.insn),
        Kind::Lea => !is_plain_lea(input, &i.insn),
        Kind::Push | Kind::Pop => i.stack.cluster.is_none(),
        Kind::Copy if clustered || !has_memory(&i.insn) => {
            let registers = (0..i.insn.op_count()).map(|n| i.insn.op_register(n));
            let mut copy = i.insn;
            registers.into_iter().any(|r| is_scratch(r) || is_high(r))
                || !input.mode.code64() && !for_64_bit(&mut copy)
        }
        _ => true,
    }
}

fn is_high(r: Register) -> bool {
    matches!(r, Register::AH | Register::BH | Register::CH | Register::DH)
}

fn has_memory(insn: &Instruction) -> bool {
    (0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory)
}

impl Tracker<'_> {
    fn forget(&mut self, register: usize) {
        self.fresh += 1;
        self.registers[register] = Symbol {
            id: self.fresh,
            offset: 0,
        };
    }

    /// Whole-register writes that keep the symbolic value: their size.
    fn full(&self) -> usize {
        if self.input.mode.code64() { 8 } else { 4 }
    }

    fn step(&mut self, n: usize, i: &Insn, info: &mut InstructionInfoFactory) {
        let insn = &i.insn;
        match i.kind {
            Kind::Nothing | Kind::Jcc | Kind::Cli | Kind::Sti | Kind::Swapgs | Kind::SetDf(_) => {}
            Kind::ReadSeg | Kind::ReadCr if !has_memory(insn) => {
                self.forget(insn.op0_register().full_register().number() & 15);
            }
            Kind::Pushf => self.registers[4].offset -= 8,
            Kind::Copy => self.copy(n, insn, info),
            Kind::Lea => {
                let to = insn.op0_register();
                let value = self.address(insn).filter(|(k, _)| k.index == 0);
                let number = to.full_register().number() & 15;
                match value {
                    Some((key, offset)) if to.size() == self.full() => {
                        self.registers[number] = Symbol {
                            id: key.base,
                            offset,
                        };
                    }
                    _ => self.forget(number),
                }
            }
            Kind::Push => {
                if insn.op0_kind() == OpKind::Memory {
                    self.operand(n, insn, false);
                }
                self.push(n, insn);
            }
            Kind::Call => self.push(n, insn),
            Kind::CallIndirect => {
                if insn.op0_kind() == OpKind::Memory {
                    self.operand(n, insn, false);
                }
                self.push(n, insn);
            }
            Kind::JmpIndirect => {
                if insn.op0_kind() == OpKind::Memory {
                    self.operand(n, insn, false);
                }
            }
            Kind::Pop => {
                let size = i64::from(insn.stack_pointer_increment());
                self.stack(n, 0, size, false);
                self.registers[4].offset += size;
                self.forget(insn.op0_register().full_register().number() & 15);
            }
            Kind::Ret => {
                let size = i64::from(if insn.op_count() > 0 {
                    insn.stack_pointer_increment() - i32::from(insn.immediate16())
                } else {
                    insn.stack_pointer_increment()
                });
                self.stack(n, 0, size, false);
            }
            Kind::Leave => {
                self.registers[4] = self.registers[5];
                let size = match insn.code() {
                    iced_x86::Code::Leavew => 2,
                    iced_x86::Code::Leaved => 4,
                    _ => 8,
                };
                self.stack(n, 0, size, false);
                self.registers[4].offset += size;
                self.forget(5);
            }
            Kind::Jmp => {}
            kind if ends_block(kind) => {}
            // A helper or a longer sequence: anything may change.
            _ => {
                self.epoch += 1;
                for r in 0..16 {
                    self.forget(r);
                }
            }
        }
    }

    fn push(&mut self, n: usize, insn: &Instruction) {
        let size = -i64::from(insn.stack_pointer_increment());
        self.stack(n, -size, size, true);
        self.registers[4].offset -= size;
    }

    fn stack(&mut self, n: usize, delta: i64, size: i64, write: bool) {
        if !self.input.mode.flat(2) {
            return;
        }
        let rsp = self.registers[4];
        self.planned.push(Planned {
            insn: n,
            stack: true,
            key: Key {
                base: rsp.id,
                index: 0,
                scale: 1,
                epoch: self.epoch,
            },
            offset: rsp.offset.wrapping_add(delta),
            size,
            write,
        });
    }

    fn operand(&mut self, n: usize, insn: &Instruction, write: bool) {
        if crate::mask::mask_of(insn).is_some() && !self.input.mode.window() {
            // Parts that are masked out may be anywhere.
            return;
        }
        let size = insn.memory_size().size() as i64;
        let seg = seg_number(insn.memory_segment());
        if size == 0 || size > 64 || seg == 1 && !self.input.mode.code64() {
            return;
        }
        let mode = &self.input.mode;
        if mode.window() && mode.code64() && seg >= 4 {
            return self.thread_local(n, insn, seg, size, write);
        }
        if !mode.flat(seg) {
            return;
        }
        if let Some((key, offset)) = self.address(insn) {
            self.planned.push(Planned {
                insn: n,
                stack: false,
                key,
                offset,
                size,
                write,
            });
        }
    }

    /// An access at a constant distance from the base of FS or GS.
    fn thread_local(&mut self, n: usize, insn: &Instruction, seg: usize, size: i64, write: bool) {
        let registers = (insn.memory_base(), insn.memory_index());
        let disp = insn.memory_displacement64() as i64;
        if registers != (Register::None, Register::None) || disp.unsigned_abs() >= NEAR {
            return;
        }
        self.planned.push(Planned {
            insn: n,
            stack: false,
            key: Key {
                base: SEGMENTS + (seg == 5) as u32,
                index: 0,
                scale: 1,
                epoch: self.epoch,
            },
            offset: disp,
            size,
            write,
        });
    }

    /// Symbolic address of the memory operand, if it has one of full size.
    fn address(&self, insn: &Instruction) -> Option<(Key, i64)> {
        let mut key = Key {
            base: 0,
            index: 0,
            scale: 1,
            epoch: self.epoch,
        };
        if insn.is_ip_rel_memory_operand() {
            return Some((key, insn.ip_rel_memory_address() as i64));
        }
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let full = |r: Register| r == Register::None || r.is_gpr() && r.size() == self.full();
        if !full(base) || !full(index) || (base, index) == (Register::None, Register::None) {
            return None;
        }
        let disp = insn.memory_displacement64() as i64;
        let disp = if self.input.mode.code64() {
            disp
        } else {
            i64::from(disp as i32)
        };
        if disp.unsigned_abs() >= NEAR {
            return None;
        }
        let mut offset = disp;
        if base != Register::None {
            let s = self.registers[base.full_register().number() & 15];
            key.base = s.id;
            offset = offset.wrapping_add(s.offset);
        }
        if index != Register::None {
            let s = self.registers[index.full_register().number() & 15];
            let scale = insn.memory_index_scale();
            key.index = s.id;
            key.scale = scale;
            offset = offset.wrapping_add(s.offset.wrapping_mul(i64::from(scale)));
        }
        Some((key, offset))
    }

    fn copy(&mut self, n: usize, insn: &Instruction, info: &mut InstructionInfoFactory) {
        let memory = (0..insn.op_count()).find(|&o| insn.op_kind(o) == OpKind::Memory);
        let simple = insn.op_count() == 2 && insn.op0_kind() == OpKind::Register;
        let to = insn.op0_register();
        match insn.mnemonic() {
            Mnemonic::Cmp | Mnemonic::Test if memory.is_none() => return,
            Mnemonic::Mov if simple && to.is_gpr() => {
                if memory.is_some() {
                    self.operand(n, insn, false);
                }
                let number = to.full_register().number() & 15;
                let from = insn.op1_register();
                if insn.op1_kind() == OpKind::Register && to.size() == self.full() {
                    self.registers[number] = self.registers[from.full_register().number() & 15];
                } else {
                    self.forget(number);
                }
                return;
            }
            Mnemonic::Mov if memory == Some(0) => {
                self.operand(n, insn, true);
                return;
            }
            Mnemonic::Add | Mnemonic::Sub
                if simple && to.size() == self.full() && is_immediate(insn.op1_kind()) =>
            {
                let by = insn.immediate(1) as i64;
                let by = if self.full() == 4 {
                    i64::from(by as i32)
                } else {
                    by
                };
                let r = &mut self.registers[to.full_register().number() & 15];
                r.offset = if insn.mnemonic() == Mnemonic::Add {
                    r.offset.wrapping_add(by)
                } else {
                    r.offset.wrapping_sub(by)
                };
                return;
            }
            Mnemonic::Inc | Mnemonic::Dec if memory.is_none() && to.size() == self.full() => {
                let by = if insn.mnemonic() == Mnemonic::Inc {
                    1
                } else {
                    -1
                };
                let r = &mut self.registers[to.full_register().number() & 15];
                r.offset = r.offset.wrapping_add(by);
                return;
            }
            _ => {}
        }
        let info = info.info(insn);
        if let Some(o) = memory {
            let write = super::writes_memory(info.op_access(o));
            let mut copy = *insn;
            if for_64_bit(&mut copy) {
                self.operand(n, insn, write);
            } else {
                self.epoch += 1;
            }
        }
        for u in info.used_registers() {
            let written = !matches!(
                u.access(),
                OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
            );
            if written && u.register().is_gpr() {
                self.forget(u.register().full_register().number() & 15);
            }
        }
    }
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32
            | OpKind::Immediate32to64
    )
}
