//! Translation of one block: decode, find which flags are live, emit.

mod flow;
mod stack;

use cpu::Exception;
use cpu::bits::rflags;
use iced_x86::{
    Decoder, DecoderOptions, Encoder, Instruction, InstructionInfoFactory, OpAccess, OpKind,
    Register, RflagsBits,
};

use crate::classify::{self, Kind};
use crate::ctx::{self, Call};
use crate::emit::{Code, T0, T1};
use crate::mode::Mode;
use crate::site::{Action, Exec, Link, Site, Wire};

/// Instructions in a block, at most.
const MAX_INSTRUCTIONS: usize = 96;

/// A finished translation, with code offsets counted from its own start.
pub struct Translation {
    /// The code.
    pub code: Vec<u8>,
    /// Entry without a poll.
    pub entry: u32,
    /// Entry that polls first.
    pub entry_poll: u32,
    /// Memory accesses; `block` still to be set.
    pub sites: Vec<Site>,
    /// Helper calls.
    pub execs: Vec<Exec>,
    /// Jumps out.
    pub links: Vec<Link>,
    /// Places of the `arg` immediates to raise by the number the entry gets: position and kind.
    pub args: Vec<(u32, ArgKind)>,
    /// Code offset and offset from the first instruction, for each instruction in order.
    pub map: Vec<(u32, u16)>,
    /// Bytes of guest code covered.
    pub guest_len: u32,
}

/// What an `arg` immediate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgKind {
    /// A [`Site`].
    Site,
    /// An [`Exec`].
    Exec,
    /// A [`Link`].
    Link,
    /// The block itself.
    Block,
}

/// What is translated.
pub struct Input<'a> {
    /// Mode of the code.
    pub mode: Mode,
    /// Offset of the first instruction in CS.
    pub rip: u64,
    /// Code bytes from there; they end at the page's end, or (when the next page could be read)
    /// up to 15 bytes later.
    pub bytes: &'a [u8],
    /// How many of `bytes` lie in the first page: no instruction starts beyond.
    pub in_page: usize,
    /// Table for indirect jumps of this mode.
    pub jc_table: usize,
}

struct Insn {
    insn: Instruction,
    kind: Kind,
    /// Flags are needed before the instruction (by it or later).
    live: bool,
}

/// One memory access to emit; the offset is in T0.
struct Access {
    seg: usize,
    size: u32,
    read: bool,
    write: bool,
    /// Flags were set aside.
    saved: bool,
    /// Take them back after.
    restore: bool,
    last: bool,
}

struct Builder<'a> {
    input: &'a Input<'a>,
    hot: Code,
    cold: Code,
    to_cold: Vec<(u32, u32)>,
    sites: Vec<Site>,
    execs: Vec<Exec>,
    links: Vec<Link>,
    args_hot: Vec<(u32, ArgKind)>,
    args_cold: Vec<(u32, ArgKind)>,
    link_wires: Vec<(usize, LinkWire)>,
    encoder: Encoder,
    info: InstructionInfoFactory,
    insn: Instruction,
}

enum LinkWire {
    Hot(u32),
    SlotHot(u32),
    SlotCold(u32),
}

/// Translates the block that starts at `input.rip`. `slot` gives a free slot for each cross-page
/// jump (`None`: out of slots, the jump is never wired).
pub fn translate(input: &Input<'_>, slot: &mut dyn FnMut() -> Option<u32>) -> Translation {
    let insns = decode(input);
    let live_in = insns.first().is_none_or(|i| i.live);
    let mut b = Builder {
        input,
        hot: Code::default(),
        cold: Code::default(),
        to_cold: Vec::new(),
        sites: Vec::new(),
        execs: Vec::new(),
        links: Vec::new(),
        args_hot: Vec::new(),
        args_cold: Vec::new(),
        link_wires: Vec::new(),
        encoder: Encoder::new(64),
        info: InstructionInfoFactory::new(),
        insn: Instruction::default(),
    };
    b.poll(live_in);
    let entry = b.hot.here();
    let mut map = Vec::with_capacity(insns.len());
    let mut next = input.rip;
    let mut open = true;
    for i in &insns {
        map.push((b.hot.here(), (i.insn.ip().wrapping_sub(input.rip)) as u16));
        b.insn = i.insn;
        next = i.insn.next_ip() & input.mode.ip_mask();
        open = b.instruction(i);
    }
    if open {
        b.exit(next, None);
    }
    let guest_len = insns
        .last()
        .map_or(0, |i| (i.insn.next_ip() - input.rip) as u32);
    b.finish(entry, map, guest_len, slot)
}

/// Decodes up to the end of the block and marks where flags are live.
fn decode(input: &Input<'_>) -> Vec<Insn> {
    let mode = &input.mode;
    let mut insns: Vec<Insn> = Vec::new();
    let mut decoder =
        Decoder::with_ip(mode.bitness(), input.bytes, input.rip, DecoderOptions::NONE);
    let max = if mode.one() { 1 } else { MAX_INSTRUCTIONS };
    while insns.len() < max && decoder.position() < input.in_page {
        let insn = decoder.decode();
        let end = insn.next_ip().wrapping_sub(1);
        let mut kind = classify::classify(&insn, mode);
        if insn.is_invalid() && !insns.is_empty() {
            // Perhaps it only reaches into a page that could not be read: start there.
            break;
        }
        if kind != Kind::Nothing && classify::hidden(&insn) {
            kind = Kind::Raise(Exception::ud());
        }
        if end > mode.cs_limit {
            if !insns.is_empty() {
                break;
            }
            kind = Kind::Raise(Exception::gp(0));
        }
        let ends = ends_block(kind);
        insns.push(Insn {
            insn,
            kind,
            live: true,
        });
        if ends {
            break;
        }
    }
    let mut live = u64::MAX;
    for i in insns.iter_mut().rev() {
        let (reads, kills) = flags_effect(&i.insn, i.kind);
        if i.kind == Kind::Jcc {
            live = rflags::ARITH;
        }
        live = live & !kills | reads;
        i.live = live & rflags::ARITH != 0;
    }
    insns
}

fn ends_block(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::ExecEnd
            | Kind::Raise(_)
            | Kind::Jmp
            | Kind::Loop
            | Kind::JmpIndirect
            | Kind::Call
            | Kind::CallIndirect
            | Kind::Ret
    )
}

/// Arithmetic flags an instruction reads, and those it always overwrites.
fn flags_effect(insn: &Instruction, kind: Kind) -> (u64, u64) {
    let convert = |bits: u32| {
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
    };
    match kind {
        Kind::Pause
        | Kind::Exec
        | Kind::ExecEnd
        | Kind::ExecFpu
        | Kind::ExecVector
        | Kind::Raise(_) => (rflags::ARITH, 0),
        Kind::Copy | Kind::BitString => {
            let reads = convert(insn.rflags_read());
            // Flags that the manual leaves undefined count as overwritten.
            let kills = if may_leave_flags(insn) {
                0
            } else {
                convert(insn.rflags_modified())
            };
            (reads, kills)
        }
        Kind::Jcc | Kind::Loop => (convert(insn.rflags_read()), 0),
        _ => (0, 0),
    }
}

/// Shifts and rotates whose count may be zero change no flags then.
fn may_leave_flags(insn: &Instruction) -> bool {
    use iced_x86::Mnemonic as M;
    let shift = matches!(
        insn.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    );
    if !shift {
        return false;
    }
    let count = insn.op_count() - 1;
    match insn.op_kind(count) {
        OpKind::Immediate8 => insn.immediate8() & 0x1f == 0,
        OpKind::Register => true,
        _ => false,
    }
}

/// Number of a general register of any size, and whether it is AH to BH.
fn number(r: Register) -> (u8, bool) {
    match r {
        Register::AH => (0, true),
        Register::CH => (1, true),
        Register::DH => (2, true),
        Register::BH => (3, true),
        _ => (r.full_register().number() as u8, false),
    }
}

fn is_scratch(r: Register) -> bool {
    matches!(r.full_register(), Register::R10 | Register::R11) && r.is_gpr()
}

fn seg_number(r: Register) -> usize {
    match r {
        Register::ES => 0,
        Register::CS => 1,
        Register::SS => 2,
        Register::FS => 4,
        Register::GS => 5,
        _ => 3,
    }
}

impl Builder<'_> {
    fn poll(&mut self, flags_live: bool) {
        if self.input.mode.one() {
            return;
        }
        let stub = self.cold.here();
        self.args_cold.push((stub, ArgKind::Block));
        self.cold.call(Call::Poll, 0);
        if flags_live {
            // mov r11, rcx; mov ecx, [poll]; jrcxz ok; mov rcx, r11; jmp stub; ok: mov rcx, r11
            self.hot.mov(T1, 1);
            self.hot.load32(1, ctx::POLL);
            self.hot.jrcxz(true, 8);
            self.hot.mov(1, T1);
            let at = self.hot.jmp();
            self.to_cold.push((at, stub));
            self.hot.mov(1, T1);
        } else {
            self.hot.cmp_gs_zero(ctx::POLL);
            let at = self.hot.jcc(5);
            self.to_cold.push((at, stub));
        }
    }

    /// Emits one instruction; false when the block ends with it.
    fn instruction(&mut self, i: &Insn) -> bool {
        let mode = self.input.mode;
        let insn = i.insn;
        match i.kind {
            Kind::Nothing => {}
            Kind::Pause => self.exec(Action::Pause(insn.len() as u8), true),
            Kind::Copy => self.copy(i),
            Kind::Exec => self.exec(Action::Execute(insn), true),
            Kind::ExecFpu => self.exec(Action::ExecuteFpu(insn), true),
            Kind::ExecEnd => {
                self.exec(Action::Execute(insn), false);
                return false;
            }
            Kind::Raise(e) => {
                self.exec(Action::Raise(e), false);
                return false;
            }
            Kind::Jmp => {
                self.exit(insn.near_branch_target() & mode.ip_mask(), None);
                return false;
            }
            Kind::Jcc => {
                let cc = insn.condition_code() as u8 - 1;
                let at = self.hot.jcc(cc);
                self.exit(insn.near_branch_target() & mode.ip_mask(), Some(at));
            }
            Kind::Loop => {
                self.loop_(&insn);
                return false;
            }
            Kind::JmpIndirect => {
                if i.live && insn.op0_kind() == OpKind::Memory {
                    self.hot.save_flags();
                }
                self.branch_target(i, true);
                self.hot.mov(T0, T1);
                self.jump_indirect();
                return false;
            }
            Kind::Call => {
                if i.live {
                    self.hot.save_flags();
                }
                let size = -insn.stack_pointer_increment() as u32;
                self.push_address(size);
                self.access(&self.stack_access(size, true, i.live, true, true));
                self.store_constant(insn.next_ip() & mode.ip_mask(), size);
                self.move_stack(-(size as i32));
                self.done();
                self.exit(insn.near_branch_target() & mode.ip_mask(), None);
                return false;
            }
            Kind::CallIndirect => {
                if i.live {
                    self.hot.save_flags();
                }
                self.branch_target(i, false);
                self.hot.store(ctx::tmp(1), T1);
                let size = -insn.stack_pointer_increment() as u32;
                self.push_address(size);
                self.access(&self.stack_access(size, true, i.live, true, true));
                self.store_constant(insn.next_ip() & mode.ip_mask(), size);
                self.move_stack(-(size as i32));
                self.done();
                self.hot.load(T0, ctx::tmp(1));
                self.jump_indirect();
                return false;
            }
            Kind::Ret => {
                if i.live {
                    self.hot.save_flags();
                }
                let extra = if insn.op_count() > 0 {
                    i32::from(insn.immediate16())
                } else {
                    0
                };
                let size = (insn.stack_pointer_increment() - extra) as u32;
                self.stack_address(0);
                self.access(&self.stack_access(size, false, i.live, true, true));
                self.load_zx(T1, size);
                if mode.stack_bytes() == 2 {
                    self.hot.store(ctx::tmp(1), T1);
                    self.move_stack(size as i32 + extra);
                    self.hot.load(T0, ctx::tmp(1));
                } else {
                    self.move_stack(size as i32 + extra);
                    self.hot.mov(T0, T1);
                }
                self.done();
                self.jump_indirect();
                return false;
            }
            Kind::Push => self.push(i),
            Kind::Pop => self.pop(i),
            Kind::Leave => self.leave(i),
            Kind::Lea => self.lea(&insn),
            Kind::BitString => self.bit_string(i),
            Kind::StringOne => self.string_one(i),
            Kind::ExecVector => self.exec(Action::ExecuteVector(insn), true),
        }
        true
    }

    // ---- memory ----

    /// Leaves the offset of the memory operand in T0: truncated to the address size, without the
    /// segment base. `extra` is added. Keeps flags, may use T1.
    fn address(&mut self, insn: &Instruction, extra: i32) {
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let disp = insn.memory_displacement64();
        if insn.is_ip_rel_memory_operand() {
            self.hot.imm(T0, insn.ip_rel_memory_address());
            return;
        }
        let reg_size = if base != Register::None {
            base.size()
        } else {
            index.size()
        };
        let bytes = match (base, index) {
            (Register::None, Register::None) => match insn.memory_displ_size() {
                2 => 2,
                8 => 8,
                _ if self.input.mode.code64() && !self.has_address_prefix(insn) => 8,
                _ => 4,
            },
            _ => reg_size,
        };
        if (base, index) == (Register::None, Register::None) {
            let mask = if bytes == 8 {
                u64::MAX
            } else {
                (1 << (bytes * 8)) - 1
            };
            self.hot.imm(T0, disp.wrapping_add(extra as u64) & mask);
            return;
        }
        let base = self.address_register(base, T0);
        let index = self.address_register(index, T1);
        let disp = disp.wrapping_add(extra as u64) as i32;
        let scaled = index.map(|x| (x, insn.memory_index_scale() as u8));
        self.hot.lea(bytes == 8, T0, base, scaled, disp);
        if bytes == 2 {
            self.hot.movzx16(T0, T0);
        }
    }

    fn has_address_prefix(&self, insn: &Instruction) -> bool {
        let from = insn.ip().wrapping_sub(self.input.rip) as usize;
        let bytes = &self.input.bytes[from.min(self.input.bytes.len())..];
        bytes
            .iter()
            .take_while(|b| {
                matches!(
                    b,
                    0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
                )
            })
            .any(|b| *b == 0x67)
    }

    fn address_register(&mut self, r: Register, scratch: u8) -> Option<u8> {
        if r == Register::None {
            return None;
        }
        let n = r.full_register().number() as u8;
        if is_scratch(r) {
            self.hot.load(scratch, ctx::gpr(n.into()));
            return Some(scratch);
        }
        Some(n)
    }

    /// Segment check, base and TLB probe for the offset in T0; leaves the host address there.
    fn access(&mut self, a: &Access) {
        let mode = self.input.mode;
        let index = self.sites.len() as u32;
        if mode.code64() {
            if a.seg >= 4 {
                self.hot.add_gs(true, T0, ctx::seg_base(a.seg));
            }
        } else if !mode.flat(a.seg) || (a.seg == 1 && a.write) {
            let stub = self.cold.here();
            self.args_cold.push((stub, ArgKind::Site));
            self.cold.call(Call::Seg, index);
            self.hot.lea(true, T1, Some(T0), None, a.size as i32 - 1);
            self.hot.cmp_gs(T1, ctx::seg_limit(a.seg, a.write));
            let at = self.hot.jcc(15); // jg
            self.to_cold.push((at, stub));
            self.hot.add_gs(false, T0, ctx::seg_base(a.seg));
        }
        let probe = self.hot.here();
        if mode.aligned() && matches!(a.size, 2 | 4 | 8 | 10) {
            let stub = self.cold.here();
            self.args_cold.push((stub, ArgKind::Site));
            self.cold.call(Call::Mem, index);
            let low = if a.size == 10 { 7 } else { a.size as u8 - 1 };
            self.hot.put(&[0x41, 0xf6, 0xc2, low]); // test r10b, low
            let at = self.hot.jcc(5);
            self.to_cold.push((at, stub));
        }
        let table = ctx::tlb(mode.class(), a.write);
        let miss = self.hot.probe(table, a.size);
        let stub = self.cold.here();
        self.to_cold.push((miss, stub));
        self.cold.unprobe(table);
        self.args_cold.push((self.cold.here(), ArgKind::Site));
        self.cold.call(Call::Mem, index);
        let resume = self.hot.here();
        if a.saved && a.restore {
            self.hot.restore_flags();
        }
        self.sites.push(Site {
            block: 0,
            rip: self.insn.ip() & mode.ip_mask(),
            len: self.insn.len() as u8,
            seg: a.seg as u8,
            size: a.size as u8,
            write: a.write,
            read: a.read,
            locked: a.read
                && a.write
                && (self.insn.has_lock_prefix()
                    || self.insn.mnemonic() == iced_x86::Mnemonic::Xchg),
            saved: a.saved,
            last: a.last,
            probe,
            resume,
            done: resume,
            bounce: 0,
        });
    }

    /// The last access's instruction is complete here.
    fn done(&mut self) {
        let here = self.hot.here();
        if let Some(site) = self.sites.last_mut() {
            site.done = here;
        }
    }

    fn memory_access(
        &self,
        insn: &Instruction,
        size: u32,
        access: OpAccess,
        saved: bool,
    ) -> Access {
        let write = !matches!(
            access,
            OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess
        );
        Access {
            seg: seg_number(insn.memory_segment()),
            size,
            read: access != OpAccess::Write,
            write,
            saved,
            restore: true,
            last: false,
        }
    }

    fn stack_access(
        &self,
        size: u32,
        write: bool,
        saved: bool,
        restore: bool,
        last: bool,
    ) -> Access {
        Access {
            seg: 2,
            size,
            read: !write,
            write,
            saved,
            restore,
            last,
        }
    }

    // ---- ordinary instructions ----

    fn copy(&mut self, i: &Insn) {
        let mut insn = i.insn;
        let memory = (0..insn.op_count()).find(|&n| insn.op_kind(n) == OpKind::Memory);
        let Some(memory) = memory else {
            return self.copy_registers(&insn);
        };
        let size = insn.memory_size().size() as u32;
        if size == 0 || size > 64 || !for_64_bit(&mut insn) {
            return self.exec(Action::Execute(i.insn), true);
        }
        let access = self.info.info(&insn).op_access(memory);
        if i.live {
            self.hot.save_flags();
        }
        self.address(&insn, 0);
        self.access(&self.memory_access(&insn, size, access, i.live));
        self.emit_on_memory(insn);
        self.done();
    }

    /// Emits `insn` with its memory operand at the host address in T0.
    fn emit_on_memory(&mut self, mut insn: Instruction) {
        at_scratch(&mut insn);
        let operands: Vec<(u32, Register)> = (0..insn.op_count())
            .filter(|&n| insn.op_kind(n) == OpKind::Register)
            .map(|n| (n, insn.op_register(n)))
            .filter(|(_, r)| r.is_gpr())
            .collect();
        let uses = |r: Register| {
            operands
                .iter()
                .any(|(_, o)| o.is_gpr() && o.full_register() == r)
        };
        let (uses10, uses11) = (uses(Register::R10), uses(Register::R11));
        let high = operands.iter().any(|(_, r)| number(*r).1);
        if high || (uses10 && uses11) {
            // No scratch register fits: borrow one the instruction does not use.
            let borrow = [Register::RBX, Register::RSI, Register::RDI, Register::RBP]
                .into_iter()
                .find(|b| !uses(*b))
                .unwrap_or(Register::RBP);
            let n = borrow.number() as u8;
            insn.set_memory_base(borrow);
            self.hot.store(ctx::tmp(0), n);
            self.hot.mov(n, T0);
            let written = self.load_scratch_operands(&insn);
            self.encode(&insn);
            self.store_scratch_operands(written);
            self.hot.load(n, ctx::tmp(0));
            return;
        }
        if uses10 || uses11 {
            let guest = if uses10 { 10 } else { 11 };
            let mut written = false;
            let accesses: Vec<OpAccess> = {
                let info = self.info.info(&insn);
                operands.iter().map(|(n, _)| info.op_access(*n)).collect()
            };
            for ((n, r), access) in operands.iter().zip(accesses) {
                if is_scratch(*r) {
                    written |= writes(access);
                    insn.set_op_register(*n, with_number(*r));
                }
            }
            self.hot.load(T1, ctx::gpr(guest));
            self.encode(&insn);
            if written {
                self.hot.store(ctx::gpr(guest), T1);
            }
            return;
        }
        self.encode(&insn);
    }

    /// Loads guest R10 and R11 where `insn` names them; returns which it writes.
    fn load_scratch_operands(&mut self, insn: &Instruction) -> [bool; 2] {
        let mut used = [false; 2];
        let mut written = [false; 2];
        let accesses: Vec<OpAccess> = {
            let info = self.info.info(insn);
            (0..insn.op_count()).map(|n| info.op_access(n)).collect()
        };
        for n in 0..insn.op_count() {
            let r = insn.op_register(n);
            if insn.op_kind(n) == OpKind::Register && is_scratch(r) {
                let which = usize::from(r.full_register() == Register::R11);
                used[which] = true;
                written[which] |= writes(accesses[n as usize]);
            }
        }
        for (which, scratch) in [(0, T0), (1, T1)] {
            if used[which] {
                self.hot.load(scratch, ctx::gpr(10 + which));
            }
        }
        written
    }

    fn store_scratch_operands(&mut self, written: [bool; 2]) {
        for (which, scratch) in [(0, T0), (1, T1)] {
            if written[which] {
                self.hot.store(ctx::gpr(10 + which), scratch);
            }
        }
    }

    fn copy_registers(&mut self, insn: &Instruction) {
        if !self.input.mode.code64() {
            let mut copy = *insn;
            if !for_64_bit(&mut copy) {
                return self.exec(Action::Execute(*insn), true);
            }
            return self.encode(&copy);
        }
        let scratch = (0..insn.op_count())
            .any(|n| insn.op_kind(n) == OpKind::Register && is_scratch(insn.op_register(n)));
        let written = if scratch {
            self.load_scratch_operands(insn)
        } else {
            [false; 2]
        };
        let from = insn.ip().wrapping_sub(self.input.rip) as usize;
        self.hot.put(&self.input.bytes[from..from + insn.len()]);
        self.store_scratch_operands(written);
    }

    fn encode(&mut self, insn: &Instruction) {
        match self.encoder.encode(insn, 0) {
            Ok(_) => {
                let bytes = self.encoder.take_buffer();
                self.hot.put(&bytes);
                self.encoder.set_buffer({
                    let mut b = bytes;
                    b.clear();
                    b
                });
            }
            Err(_) => {
                let _ = self.encoder.take_buffer();
                self.exec(Action::Raise(Exception::ud()), true);
            }
        }
    }

    fn lea(&mut self, insn: &Instruction) {
        let dest = insn.op0_register();
        self.address(insn, 0);
        let n = number(dest).0;
        let scratch = is_scratch(dest);
        match (dest.size(), scratch) {
            (8, false) => self.hot.mov(n, T0),
            (4, false) => self.hot.mov32(n, T0),
            (2, false) => self.hot.mov16(n, T0),
            (size, _) => {
                if size == 2 {
                    self.hot.load(T1, ctx::gpr(n.into()));
                    self.hot.mov16(T1, T0);
                } else if size == 4 {
                    self.hot.mov32(T1, T0);
                } else {
                    self.hot.mov(T1, T0);
                }
                self.hot.store(ctx::gpr(n.into()), T1);
            }
        }
    }

    fn bit_string(&mut self, i: &Insn) {
        let mut insn = i.insn;
        let reg = insn.op1_register();
        let bytes = reg.size();
        if i.live {
            self.hot.save_flags();
        }
        self.address(&insn, 0);
        let n = number(reg).0;
        let from = if is_scratch(reg) {
            self.hot.load(T1, ctx::gpr(n.into()));
            T1
        } else {
            n
        };
        self.hot.sign_extend(T1, from, bytes);
        self.hot.store(ctx::tmp(2), T1);
        let shift = (bytes * 8).trailing_zeros() as u8;
        self.hot.put(&[0x49, 0xc1, 0xfb, shift]); // sar r11, shift
        let narrow = !self.input.mode.code64();
        self.hot
            .lea(!narrow, T0, Some(T0), Some((T1, bytes as u8)), 0);
        if narrow && self.input.mode.bitness() == 16 && insn.memory_base().size() == 2 {
            self.hot.movzx16(T0, T0);
        }
        self.hot.load(T1, ctx::tmp(2));
        self.hot.put(&[0x49, 0x83, 0xe3, (bytes * 8 - 1) as u8]); // and r11, bits - 1
        self.hot.store(ctx::tmp(2), T1);
        let access = self.info.info(&insn).op_access(0);
        self.access(&self.memory_access(&insn, bytes as u32, access, i.live));
        self.hot.load(T1, ctx::tmp(2));
        let t1 = match bytes {
            2 => Register::R11W,
            4 => Register::R11D,
            _ => Register::R11,
        };
        insn.set_op_register(1, t1);
        at_scratch(&mut insn);
        self.encode(&insn);
        self.done();
    }

    /// MOVS or STOS with the direction flag clear; otherwise a helper does it.
    fn string_one(&mut self, i: &Insn) {
        let insn = i.insn;
        let size = insn.memory_size().size() as u32;
        let movs = insn.op1_kind() != OpKind::Register;
        let bytes = match insn.op0_kind() {
            OpKind::MemoryESDI => 2,
            OpKind::MemoryESEDI => 4,
            _ => 8,
        };
        if i.live {
            self.hot.save_flags();
        }
        self.hot.test_gs(ctx::RFLAGS, rflags::DF as u32);
        let down = self.hot.jcc(5);
        if movs {
            self.pointer(6, bytes);
            let a = self.memory_access(&insn, size, OpAccess::Read, i.live);
            self.access(&Access {
                restore: false,
                ..a
            });
            self.load_zx(T1, size);
            self.hot.store(ctx::tmp(1), T1);
            self.done();
        }
        self.pointer(7, bytes);
        let a = self.memory_access(&insn, size, OpAccess::Write, i.live);
        self.access(&Access { seg: 0, ..a });
        if movs {
            self.hot.load(T1, ctx::tmp(1));
            self.store_to(T1, size);
            self.advance(6, bytes, size);
        } else {
            self.store_to(0, size);
        }
        self.advance(7, bytes, size);
        self.done();
        let after = self.hot.here();
        // Out of line: the flags come back, then the helper, then on.
        let stub = self.cold.here();
        self.to_cold.push((down, stub));
        if i.live {
            self.cold.restore_flags();
        }
        let index = self.execs.len() as u32;
        self.args_cold.push((self.cold.here(), ArgKind::Exec));
        self.cold.call(Call::Exec, index);
        let rip = insn.ip() & self.input.mode.ip_mask();
        let resume = if self.input.mode.one() { 0 } else { after };
        self.execs.push(Exec {
            action: Action::Execute(insn),
            rip,
            resume,
        });
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

    // ---- putting it together ----

    fn finish(
        mut self,
        entry: u32,
        map: Vec<(u32, u16)>,
        guest_len: u32,
        slot: &mut dyn FnMut() -> Option<u32>,
    ) -> Translation {
        let base = self.hot.here();
        for (index, wire) in &self.link_wires {
            let link = &mut self.links[*index];
            link.wire = match *wire {
                LinkWire::Hot(at) => Wire::Patch(at),
                LinkWire::SlotHot(at) | LinkWire::SlotCold(at) => {
                    let code = if matches!(wire, LinkWire::SlotHot(_)) {
                        &mut self.hot
                    } else {
                        &mut self.cold
                    };
                    match slot() {
                        Some(n) => {
                            let at = at as usize;
                            code.bytes[at..at + 4]
                                .copy_from_slice(&ctx::slot(n as usize).to_le_bytes());
                            Wire::Slot(n)
                        }
                        None => Wire::None,
                    }
                }
            };
        }
        for link in &mut self.links {
            link.stub += base;
        }
        let mut code = self.hot;
        code.put(&self.cold.bytes);
        for (at, target) in self.to_cold {
            code.fix(at, base + target);
        }
        // `mov dword gs:[arg], imm`: the immediate is the last four of twelve bytes.
        let args = (self.args_hot.iter().map(|(at, k)| (at + 8, *k)))
            .chain(self.args_cold.iter().map(|(at, k)| (base + at + 8, *k)))
            .collect();
        Translation {
            code: code.bytes,
            entry,
            entry_poll: 0,
            sites: self.sites,
            execs: self.execs,
            links: self.links,
            args,
            map,
            guest_len,
        }
    }
}

/// Makes the memory operand `[r10]`: the host address in T0.
fn at_scratch(insn: &mut Instruction) {
    insn.set_segment_prefix(Register::None);
    insn.set_memory_index(Register::None);
    insn.set_memory_index_scale(1);
    insn.set_memory_displacement64(0);
    insn.set_memory_displ_size(0);
    insn.set_memory_base(Register::R10);
}

fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

/// R11 of the size of `r`.
fn with_number(r: Register) -> Register {
    match r.size() {
        1 => Register::R11L,
        2 => Register::R11W,
        4 => Register::R11D,
        _ => Register::R11,
    }
}

/// Bytes of the count register of LOOP and JCXZ.
fn count_bytes(insn: &Instruction, bitness: u32) -> usize {
    use iced_x86::Code as C;
    match insn.code() {
        C::Jcxz_rel8_16 | C::Jcxz_rel8_32 => 2,
        C::Jecxz_rel8_16 | C::Jecxz_rel8_32 | C::Jecxz_rel8_64 => 4,
        C::Jrcxz_rel8_16 | C::Jrcxz_rel8_64 => 8,
        _ => {
            let name = format!("{:?}", insn.code());
            if name.ends_with("_CX") {
                2
            } else if name.ends_with("_ECX") {
                4
            } else if name.ends_with("_RCX") {
                8
            } else {
                bitness as usize / 8
            }
        }
    }
}

/// Turns encodings that 64-bit mode lacks into equal ones it has. False: there is none.
fn for_64_bit(insn: &mut Instruction) -> bool {
    use iced_x86::Code as C;
    let code = match insn.code() {
        C::Inc_r16 => C::Inc_rm16,
        C::Inc_r32 => C::Inc_rm32,
        C::Dec_r16 => C::Dec_rm16,
        C::Dec_r32 => C::Dec_rm32,
        C::Mov_AL_moffs8 => C::Mov_r8_rm8,
        C::Mov_AX_moffs16 => C::Mov_r16_rm16,
        C::Mov_EAX_moffs32 => C::Mov_r32_rm32,
        C::Mov_RAX_moffs64 => C::Mov_r64_rm64,
        C::Mov_moffs8_AL => C::Mov_rm8_r8,
        C::Mov_moffs16_AX => C::Mov_rm16_r16,
        C::Mov_moffs32_EAX => C::Mov_rm32_r32,
        C::Mov_moffs64_RAX => C::Mov_rm64_r64,
        C::Add_rm8_imm8_82 => C::Add_rm8_imm8,
        C::Or_rm8_imm8_82 => C::Or_rm8_imm8,
        C::Adc_rm8_imm8_82 => C::Adc_rm8_imm8,
        C::Sbb_rm8_imm8_82 => C::Sbb_rm8_imm8,
        C::And_rm8_imm8_82 => C::And_rm8_imm8,
        C::Sub_rm8_imm8_82 => C::Sub_rm8_imm8,
        C::Xor_rm8_imm8_82 => C::Xor_rm8_imm8,
        C::Cmp_rm8_imm8_82 => C::Cmp_rm8_imm8,
        c if c.op_code().mode64() => return true,
        _ => return false,
    };
    insn.set_code(code);
    true
}
