//! Random instruction sequences.

use iced_x86::{
    Code, DecoderOptions, Encoder, EncodingKind, Instruction, InstructionInfoFactory,
    Mnemonic as M, OpAccess, OpCodeOperandKind as K, OpKind, Register as R, RoundingControl,
};

use crate::codes;
use crate::layout::{
    CODE, CODE_SIZE, CODE32, CODE64, DATA, DATA_SIZE, FIRST_DATA, FLAT, LOCAL, PAGES, Page, SPARE,
    Start, cache, lookup, selector, upper_parts,
};

/// SplitMix64: small, seedable, good enough.
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    /// One of `of`.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
    /// Values that find bugs more often than uniform ones.
    pub fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(256),
            1 => self.below(256).wrapping_neg(),
            2 => 1 << self.below(64),
            3 => (1u64 << self.below(64)).wrapping_sub(1),
            _ => self.next(),
        }
    }
}

/// One sequence.
pub struct Sequence {
    /// Bits of the code segment.
    pub bits: u32,
    /// Offset of the first instruction in the code area.
    pub at: usize,
    /// The code, with a HLT at its end.
    pub bytes: Vec<u8>,
    /// What it starts with.
    pub start: Start,
    /// It has jumps besides indirect ones.
    pub jumps: bool,
    /// Codes chosen for it.
    pub codes: Vec<Code>,
}

/// Makes sequences.
pub struct Generator {
    codes: [Vec<Code>; 3],
    /// Those that work with general registers only.
    general: [Vec<Code>; 3],
    /// Those of AVX-512.
    evex: [Vec<Code>; 3],
    info: InstructionInfoFactory,
}

/// What a sequence is made of.
pub enum Item {
    Bytes(Vec<u8>),
    /// An opcode, bytes of its displacement, and the item it goes to.
    Jump(Vec<u8>, usize, usize),
}

struct Draw<'a> {
    rng: &'a mut Rng,
    bits: u32,
    /// Bases of ES, CS, SS, DS, FS, GS.
    base: [u64; 6],
    /// Offset in the code segment of what is drawn.
    ip: u64,
    setup: Vec<Instruction>,
    /// The instruction has room for 32 vector registers.
    evex: bool,
}

impl Generator {
    /// With every form that is allowed.
    pub fn new() -> Self {
        let all = [codes::codes(16), codes::codes(32), codes::codes(64)];
        let part = |evex: bool| {
            let wanted = |c: &Code| codes::is_avx512(*c) == evex;
            all.each_ref()
                .map(|of| of.iter().copied().filter(wanted).collect::<Vec<_>>())
        };
        let (codes, evex) = (part(false), part(true));
        let general = codes
            .each_ref()
            .map(|of| of.iter().copied().filter(|c| codes::general(*c)).collect());
        Self {
            codes,
            general,
            evex,
            info: InstructionInfoFactory::new(),
        }
    }

    /// Forms for `bits`-bit code.
    pub fn codes(&self, bits: u32) -> Vec<Code> {
        let n = bits.trailing_zeros() as usize - 4;
        [&self.codes[n][..], &self.evex[n]].concat()
    }

    /// The sequence of one seed.
    pub fn sequence(&mut self, rng: &mut Rng) -> Sequence {
        let bits = rng.pick(&[64, 64, 64, 32, 32, 16]);
        let mut start = Start::default();
        segments(rng, bits, &mut start);
        let mut base = [0; 6];
        for (b, sel) in base.iter_mut().zip(start.sel) {
            *b = cache(sel as u16, lookup(sel as u16)).base;
        }
        for (i, b) in [(4, start.fs), (5, start.gs)] {
            if start.sel[i] == 0 {
                base[i] = b;
            }
        }
        registers(rng, bits, &base, &mut start);
        let evex = rng.one_in(4) && !self.evex[0].is_empty();
        if evex && !rng.one_in(4) {
            upper_registers(rng, &mut start);
        }
        // In the middle of a page, across two, or running off the last.
        let at = match rng.below(8) {
            0 => 0x1000 - rng.below(64) as usize,
            1 => 0x2000 - rng.below(64) as usize,
            2 => CODE_SIZE - 1 - rng.below(48) as usize,
            _ => rng.below(0x2000) as usize,
        };
        // Inside the segment's limit.
        let at = if start.sel[1] == selector(1).into() {
            at.min(0x2e80)
        } else {
            at
        };
        start.rip = CODE + at as u64 - base[1];
        let mut used = Vec::new();
        let count = 1 + rng.below(12) as usize;
        let mut items = Vec::new();
        let mut ip = start.rip;
        // First instruction of a loop that is being made, and where it ends.
        let mut turn: Option<(usize, usize)> = None;
        let (mut unknown, mut jumped) = (0, false);
        while items.len() < count {
            if let Some((first, last)) = turn
                && items.len() >= last
            {
                turn = None;
                if let Some(item) = repeat(rng, bits, first, &items, &mut self.info)
                    && items[first..]
                        .iter()
                        .all(|i| undefined(bits, i, unknown, true).is_some())
                    && undefined(bits, &item, unknown, true).is_some()
                {
                    jumped = true;
                    ip += item.len() as u64;
                    items.push(item);
                    continue;
                }
            }
            let mut draw = Draw {
                rng,
                bits,
                base,
                ip,
                setup: Vec::new(),
                evex: false,
            };
            let item = if draw.rng.one_in(10) {
                Some(flow(&mut draw, items.len(), count))
            } else if turn.is_none() && draw.rng.one_in(16) {
                let last = items.len() + 2 + draw.rng.below(4) as usize;
                turn = Some((items.len() + 1, last));
                let times = draw.rng.below(8) as u8 + 1;
                Some(Item::Bytes(match bits {
                    16 => vec![0x66, 0xb9, times, 0, 0, 0],
                    _ => vec![0xb9, times, 0, 0, 0],
                }))
            } else if draw.rng.one_in(60) {
                draw.garbage().map(Item::Bytes)
            } else {
                let code = {
                    let of = match draw.rng.below(5) {
                        0..=2 if evex => &self.evex,
                        0..=2 => &self.general,
                        _ => &self.codes,
                    };
                    let of = &of[bits.trailing_zeros() as usize - 4];
                    of[draw.rng.below(of.len() as u64) as usize]
                };
                let bytes = draw.instruction(code);
                if bytes.is_some() {
                    used.push(code);
                }
                bytes.map(Item::Bytes)
            };
            // What was encoded may be something else on today's processors.
            let item = item.filter(|item| match item {
                Item::Bytes(bytes) => {
                    (&mut iced_x86::Decoder::new(bits, bytes, DecoderOptions::NONE))
                        .into_iter()
                        .all(|i| i.is_invalid() || codes::harmless(&i))
                }
                Item::Jump(..) => true,
            });
            // Nothing reads flags that the manual leaves undefined.
            if let Some(item) = item
                && let Some(after) = undefined(bits, &item, unknown, jumped)
            {
                unknown = after;
                jumped |= matches!(item, Item::Jump(..));
                ip += item.len() as u64;
                items.push(item);
            }
        }
        // Nothing jumps past the instruction that loads a loop's counter.
        for i in 0..items.len() {
            let Item::Jump(_, _, first) = items[i] else {
                continue;
            };
            for (j, item) in items[..first.min(i)].iter_mut().enumerate() {
                match item {
                    Item::Jump(_, _, to) if first <= i && j < first && (first..=i).contains(to) => {
                        *to = first - 1;
                    }
                    _ => {}
                }
            }
        }
        // A return goes back to before what left flags undefined.
        let (mut open, mut read) = (0, 0);
        for item in &items {
            for i in &mut item.decode(bits) {
                open |= i.rflags_undefined();
                read |= i.rflags_read();
            }
        }
        let calls = items
            .iter()
            .any(|i| matches!(i, Item::Jump(op, ..) if op[0] == 0xe8));
        if calls && open & read != 0 {
            for item in &mut items {
                let returns = item.decode(bits).iter().any(|i| i.mnemonic() == M::Ret);
                if returns {
                    *item = Item::Bytes(vec![0x90; item.len()]);
                }
            }
        }
        let bytes = assemble(&items);
        let jumps = items.iter().any(|i| matches!(i, Item::Jump(..)));
        Sequence {
            jumps,
            bits,
            at,
            bytes,
            start,
            codes: used,
        }
    }
}

impl Item {
    /// Its instructions, jumps without displacement.
    fn decode(&self, bits: u32) -> Vec<Instruction> {
        let bytes = match self {
            Item::Bytes(bytes) => bytes.clone(),
            Item::Jump(op, size, _) => [op.clone(), vec![0; *size]].concat(),
        };
        iced_x86::Decoder::new(bits, &bytes, DecoderOptions::NONE)
            .into_iter()
            .collect()
    }

    fn len(&self) -> usize {
        match self {
            Item::Bytes(b) => b.len(),
            Item::Jump(op, size, _) => op.len() + size,
        }
    }
}

/// Flags (iced's bits) that are undefined after `item` if those in `before` are before it; `None`
/// when it reads one of them. After a jump nothing becomes defined for sure.
pub fn undefined(bits: u32, item: &Item, before: u32, jumped: bool) -> Option<u32> {
    let mut out = before;
    for insn in item.decode(bits) {
        // The last ones may go on as code of another size, which is other code.
        let all = matches!(
            insn.mnemonic(),
            M::Pushf | M::Pushfd | M::Pushfq | M::Lahf | M::Salc | M::Retf
        ) || insn.is_call_far()
            || insn.is_jmp_far()
            || insn.is_call_far_indirect()
            || insn.is_jmp_far_indirect();
        if insn.rflags_read() & out != 0 || all && out != 0 {
            return None;
        }
        // A count of zero changes nothing, so it defines nothing.
        let by_count = (0..insn.op_count())
            .any(|i| insn.op_register(i) == R::CL || insn.op_kind(i) == OpKind::Immediate8);
        let by_count = by_count || insn.has_rep_prefix() || insn.has_repne_prefix();
        if !by_count && !jumped {
            out &= !(insn.rflags_written() | insn.rflags_cleared() | insn.rflags_set());
        }
        out |= insn.rflags_undefined();
    }
    Some(out)
}

/// Flags that may be undefined at `rip`, the place of an exception.
pub fn undefined_at(s: &Sequence, rip: u64) -> u32 {
    let decoder =
        || iced_x86::Decoder::with_ip(s.bits, &s.bytes, s.start.rip, DecoderOptions::NONE);
    if !decoder().iter().any(|insn| insn.ip() == rip) || decoder().iter().any(|i| i.is_invalid()) {
        // Some branch left the sequence, or the bytes may be read in several ways.
        return (0..s.bytes.len()).fold(0, |all, from| {
            let mut d = iced_x86::Decoder::new(s.bits, &s.bytes[from..], DecoderOptions::NONE);
            all | d.decode().rflags_undefined()
        });
    }
    let mut out = 0;
    for insn in &mut decoder() {
        // With jumps, later ones may have run before.
        if insn.ip() == rip && !s.jumps {
            break;
        }
        let bytes = &s.bytes[(insn.ip() - s.start.rip) as usize..][..insn.len()];
        out = match undefined(s.bits, &Item::Bytes(bytes.to_vec()), out, s.jumps) {
            Some(out) => out,
            None => out | insn.rflags_undefined(),
        };
    }
    out
}

fn assemble(items: &[Item]) -> Vec<u8> {
    let mut offsets = vec![0];
    for i in items {
        offsets.push(offsets[offsets.len() - 1] + i.len());
    }
    let mut bytes = Vec::new();
    for (i, item) in items.iter().enumerate() {
        match item {
            Item::Bytes(b) => bytes.extend(b),
            Item::Jump(op, size, to) => {
                bytes.extend(op);
                let displacement = offsets[*to] as i64 - offsets[i + 1] as i64;
                bytes.extend(&displacement.to_le_bytes()[..*size]);
            }
        }
    }
    bytes.push(0xf4);
    bytes
}

/// Segment registers and their bases.
fn segments(rng: &mut Rng, bits: u32, start: &mut Start) {
    let data = |rng: &mut Rng| match rng.below(12) {
        0 => FLAT,
        1 => 0,
        _ => selector(FIRST_DATA + rng.below((LOCAL.len() - FIRST_DATA) as u64) as usize),
    };
    let loadable = |sel: u16| sel >> 3 != 13 || sel & 4 == 0;
    let any = |rng: &mut Rng| loop {
        let sel = data(rng);
        if loadable(sel) {
            break sel;
        }
    };
    if bits == 64 {
        let base = |rng: &mut Rng| match rng.below(4) {
            0 => 0,
            // Below where the host has its own.
            1 => rng.next() >> 18,
            _ => DATA + rng.below(0x4000),
        };
        start.fs = base(rng);
        start.gs = base(rng);
        if rng.one_in(8) {
            start.sel[3] = FLAT.into();
        }
        return;
    }
    start.sel[1] = match bits {
        16 => selector(0),
        _ => rng.pick(&[CODE32, CODE32, selector(1), selector(2)]),
    }
    .into();
    for i in [0, 3, 4, 5] {
        start.sel[i] = if rng.one_in(3) && bits == 32 {
            FLAT
        } else {
            any(rng)
        }
        .into();
    }
    start.sel[2] = loop {
        let sel = if rng.one_in(2) && bits == 32 {
            FLAT
        } else {
            data(rng)
        };
        // Writable and present.
        if cache(sel, lookup(sel)).attr & 0x82 == 0x82 {
            break sel;
        }
    }
    .into();
}

/// A linear address inside the data area that may be written, away from edges.
fn inside(rng: &mut Rng) -> u64 {
    DATA + 0x1000 + 0x80 + rng.below(0x1f00)
}

fn registers(rng: &mut Rng, bits: u32, base: &[u64; 6], start: &mut Start) {
    for r in &mut start.gpr {
        *r = if rng.one_in(3) {
            inside(rng).wrapping_sub(base[3])
        } else {
            rng.value()
        };
        if bits != 64 {
            *r &= 0xffff_ffff;
        }
    }
    let stack = match rng.below(10) {
        0 => DATA + 0x1000 + rng.below(32),
        1 => DATA + 0x3000 + rng.below(64),
        2 => DATA + 0x6000 - rng.below(64),
        _ => inside(rng) & !7,
    };
    start.gpr[4] = stack.wrapping_sub(base[2]);
    if bits != 64 {
        start.gpr[4] &= 0xffff_ffff;
        let ss = start.sel[2] as u16;
        if !cache(ss, lookup(ss)).has(cpu::attr::DB) {
            start.gpr[4] = SPARE | start.gpr[4] & 0xffff;
        }
    }
    let mut flags = rng.next() & 0x8d5 | 0x202;
    if rng.one_in(8) {
        flags |= 0x400;
    }
    start.flags = flags;
    let fpu = &mut start.fpu;
    if rng.one_in(3) {
        // Control word: masks, precision, rounding; status: top; tags.
        fpu[0] = 0x7f & (rng.next() as u8 | if rng.one_in(2) { 0x3f } else { 0 }) | 0x40;
        fpu[1] = rng.below(16) as u8;
        fpu[3] = (rng.below(8) << 3) as u8;
        fpu[4] = rng.next() as u8;
        for n in 0..8 {
            let v = match rng.below(4) {
                0 => 0x3fff_8000_0000_0000_0000u128 + (u128::from(rng.next() & 7) << 64),
                1 => u128::from(rng.next()) | 0x8000_0000_0000_0000 | 0x4003 << 64,
                _ => u128::from(rng.next()) | u128::from(rng.value() & 0xffff) << 64,
            };
            fpu[32 + 16 * n..42 + 16 * n].copy_from_slice(&v.to_le_bytes()[..10]);
        }
    }
    let mxcsr: u32 = match rng.below(4) {
        0 => rng.next() as u32 & 0xffc0 | 0x1f80,
        1 => rng.next() as u32 & 0xffc0,
        _ => 0x1f80,
    };
    fpu[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    for n in 0..16 {
        let kind = rng.below(4);
        for part in 0..4 {
            let v = match kind {
                0 => (rng.below(1000) as f64).to_bits(),
                1 => rng.below(0x800) | rng.below(0x800) << 32,
                _ => rng.value(),
            };
            let at = if part < 2 { 160 } else { 560 } + 16 * n + 8 * part;
            fpu[at..at + 8].copy_from_slice(&v.to_le_bytes());
        }
    }
}

/// Mask registers with some bits, and vectors beyond the 16 registers of 32 bytes.
fn upper_registers(rng: &mut Rng, start: &mut Start) {
    start.fpu[512] = 0xe7;
    for part in upper_parts() {
        for eight in start.fpu[part].chunks_mut(8) {
            let v = match rng.below(4) {
                0 => 0,
                1 => u64::MAX,
                _ => rng.value(),
            };
            eight.copy_from_slice(&v.to_le_bytes());
        }
    }
}

/// A transfer of control ahead inside the sequence.
fn flow(d: &mut Draw<'_>, here: usize, count: usize) -> Item {
    let to = here + 1 + d.rng.below((count - here) as u64) as usize;
    // Displacements have four bytes, in 16-bit code two.
    let wide = if d.bits == 16 { 2 } else { 4 };
    match d.rng.below(7) {
        0 => Item::Jump(vec![0xeb], 1, to),
        1 => Item::Jump(vec![0xe9], wide, to),
        2 | 3 => Item::Jump(vec![0x70 | d.rng.below(16) as u8], 1, to),
        4 => Item::Jump(vec![0x0f, 0x80 | d.rng.below(16) as u8], wide, to),
        5 => Item::Jump(vec![0xe8], wide, to),
        // LOOPs and JCXZ, with either counter.
        _ => {
            let mut op = vec![0xe0 | d.rng.below(4) as u8];
            if d.rng.one_in(3) {
                op.insert(0, 0x67);
            }
            Item::Jump(op, 1, to)
        }
    }
}

/// The end of a loop that starts at item `first`, if nothing in it writes the counter.
fn repeat(
    rng: &mut Rng,
    bits: u32,
    first: usize,
    items: &[Item],
    info: &mut InstructionInfoFactory,
) -> Option<Item> {
    let mut size = 0;
    for item in items.get(first..)? {
        size += item.len();
        let bytes = match item {
            Item::Bytes(bytes) => bytes,
            Item::Jump(op, ..) if (0xe0..0xe3).contains(&op[op.len() - 1]) => return None,
            Item::Jump(..) => continue,
        };
        for insn in &mut iced_x86::Decoder::new(bits, bytes, DecoderOptions::NONE) {
            let used = info.info(&insn).used_registers();
            if insn.is_invalid()
                || used
                    .iter()
                    .any(|u| u.register().full_register() == R::RCX && u.access() != OpAccess::Read)
            {
                return None;
            }
        }
    }
    // Kinds of LOOP take a counter as wide as addresses.
    (size < 100).then(|| Item::Jump(vec![0xe0 | rng.below(3) as u8], 1, first))
}

impl Draw<'_> {
    fn encode(&self, insns: &[Instruction]) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for i in insns {
            let mut e = Encoder::new(self.bits);
            e.encode(i, self.ip + bytes.len() as u64).ok()?;
            bytes.extend(e.take_buffer());
        }
        Some(bytes)
    }

    /// Bytes that are mostly an instruction.
    fn garbage(&mut self) -> Option<Vec<u8>> {
        let mut b: Vec<u8> = (0..15).map(|_| self.rng.next() as u8).collect();
        if self.rng.one_in(2) {
            b[0] = 0x0f;
        }
        let mut d = iced_x86::Decoder::with_ip(self.bits, &b, self.ip, DecoderOptions::NONE);
        let insn = d.decode();
        if !codes::harmless(&insn)
            || insn.flow_control() != iced_x86::FlowControl::Next
            || matches!(insn.mnemonic(), M::Popf | M::Popfd | M::Popfq)
        {
            return None;
        }
        b.truncate(insn.len());
        Some(b)
    }

    /// A general register. The stack pointer is rare: sequences use it as such.
    fn number(&mut self) -> u32 {
        let n = if self.bits == 64 {
            if self.rng.one_in(5) {
                10 + self.rng.below(2)
            } else {
                self.rng.below(16)
            }
        } else {
            self.rng.below(8)
        };
        if n == 4 && !self.rng.one_in(20) {
            return 0;
        }
        n as u32
    }

    fn gpr(&mut self, size: usize) -> R {
        let n = self.number();
        match size {
            1 if self.bits != 64 => R::AL + self.rng.below(8) as u32,
            1 if self.rng.one_in(5) => R::AH + (n & 3),
            1 => [
                R::AL,
                R::CL,
                R::DL,
                R::BL,
                R::SPL,
                R::BPL,
                R::SIL,
                R::DIL,
                R::R8L,
                R::R9L,
                R::R10L,
                R::R11L,
                R::R12L,
                R::R13L,
                R::R14L,
                R::R15L,
            ][n as usize],
            2 => R::AX + n,
            4 => R::EAX + n,
            _ => R::RAX + n,
        }
    }

    fn vector(&mut self, first: R) -> R {
        let n = match self.bits {
            64 if self.evex => 32,
            64 => 16,
            _ => 8,
        };
        first + self.rng.below(n) as u32
    }

    fn load(&mut self, r: R, value: u64) -> Option<()> {
        let insn = match r.size() {
            8 => Instruction::with2(Code::Mov_r64_imm64, r, value),
            4 => Instruction::with2(Code::Mov_r32_imm32, r, value as u32),
            _ => Instruction::with2(Code::Mov_r16_imm16, r, u32::from(value as u16)),
        };
        self.setup.push(insn.ok()?);
        Some(())
    }

    /// Where an operand may be: most often all right, often at an edge, sometimes far away.
    fn place(&mut self, size: usize) -> u64 {
        let size = size as u64;
        let edge = |i: u64| DATA + 0x1000 * i;
        match self.rng.below(24) {
            // Across two good pages.
            0 | 1 => edge(2) - self.rng.below(size + 2),
            // From good into bad pages and the reverse.
            2 => edge(self.rng.pick(&[3, 4, 6])) - self.rng.below(size + 2),
            3 => edge(self.rng.pick(&[1, 5])) - self.rng.below(size + 2),
            4 => edge(self.rng.below(PAGES.len() as u64)) + self.rng.below(4000),
            5 if self.bits == 64 => self.rng.value(),
            5 => self.rng.next() & 0xffff_ffff,
            6..=12 => inside(self.rng),
            _ => inside(self.rng) & !63,
        }
    }

    /// Sets the memory operand of `insn` so that it is at a chosen place.
    fn memory(&mut self, insn: &mut Instruction, vsib: Option<R>) -> Option<()> {
        let size = insn.memory_size().size().clamp(1, 64);
        let at = self.place(size);
        let mut sizes = match self.bits {
            64 => [8, 4],
            32 => [4, 2],
            _ => [2, 4],
        };
        if !self.rng.one_in(5) {
            sizes[1] = sizes[0];
        }
        let address = sizes[1];
        if vsib.is_some() && address == 2 {
            return None;
        }
        let segment = if self.rng.one_in(4) {
            let n = self.rng.below(6) as u32;
            insn.set_segment_prefix(R::ES + n);
            Some(n as usize)
        } else {
            None
        };
        // Setup code may come later in the draw, so registers are chosen first.
        let (base, index) = if address == 2 {
            self.rng.pick(&[
                (R::BX, R::SI),
                (R::BX, R::DI),
                (R::BP, R::SI),
                (R::BP, R::DI),
                (R::SI, R::None),
                (R::DI, R::None),
                (R::BP, R::None),
                (R::BX, R::None),
                (R::None, R::None),
            ])
        } else {
            let wide = address as usize;
            let base = match self.rng.below(10) {
                0 => R::None,
                1 if self.bits == 64 && vsib.is_none() => {
                    if address == 8 {
                        R::RIP
                    } else {
                        R::EIP
                    }
                }
                _ => self.gpr(wide),
            };
            let index = if let Some(v) = vsib {
                v
            } else if base == R::RIP || base == R::EIP || self.rng.one_in(2) {
                R::None
            } else {
                loop {
                    let r = self.gpr(wide);
                    if r.full_register() != R::RSP {
                        break r;
                    }
                }
            };
            if index == base && base != R::None {
                return None;
            }
            (base, index)
        };
        let stack = matches!(base.full_register(), R::RSP | R::RBP) && base != R::None;
        let segment = segment.unwrap_or(if stack { 2 } else { 3 });
        let segment_base = if self.bits == 64 && segment < 4 {
            0
        } else {
            self.base[segment]
        };
        let mask = match address {
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => u64::MAX,
        };
        let ea = at.wrapping_sub(segment_base) & mask;
        insn.set_memory_base(base);
        insn.set_memory_index(index);
        if base == R::RIP || base == R::EIP {
            insn.set_memory_displacement64(ea);
            insn.set_memory_displ_size(address);
            return Some(());
        }
        let scale = if address == 2 || index == R::None {
            1
        } else {
            1 << self.rng.below(4)
        };
        insn.set_memory_index_scale(scale);
        if base == R::None && index == R::None {
            insn.set_memory_displacement64(ea);
            insn.set_memory_displ_size(if address == 8 { 4 } else { address });
            return Some(());
        }
        // Without preparation: registers are as they are.
        if self.rng.one_in(8) {
            insn.set_memory_displacement64(self.rng.below(64) & mask);
            insn.set_memory_displ_size(1);
            return Some(());
        }
        let displacement = match self.rng.below(3) {
            0 => 0,
            1 => i64::from(self.rng.next() as i8),
            _ => i64::from(self.rng.value() as i32 >> self.rng.below(24)),
        } as u64;
        if displacement != 0 {
            insn.set_memory_displacement64(displacement & mask);
            insn.set_memory_displ_size(if displacement as i64 == i64::from(displacement as i8) {
                1
            } else if address == 8 {
                8
            } else {
                address
            });
        }
        if base == R::None {
            // Only an index: its multiple must do.
            let rest = ea.wrapping_sub(displacement) & mask;
            if vsib.is_none() {
                self.load(index, rest / u64::from(scale))?;
            }
            insn.set_memory_displ_size(if address == 8 { 8 } else { address });
            return Some(());
        }
        let scaled = if index == R::None || vsib.is_some() {
            0
        } else {
            self.rng.below(1 << 20) & mask
        };
        let rest = ea
            .wrapping_sub(displacement)
            .wrapping_sub(scaled.wrapping_mul(u64::from(scale)));
        self.load(base, rest & mask)?;
        if index != R::None && vsib.is_none() {
            self.load(index, scaled)?;
        }
        Some(())
    }

    /// A selector that some instruction may want.
    fn selector(&mut self) -> u16 {
        match self.rng.below(5) {
            0 => self
                .rng
                .pick(&[0, 3, FLAT, CODE32, CODE64, 0x10, 0x18, 0x40, 0x50]),
            1 => self.rng.below(0x78) as u16,
            _ => {
                selector(self.rng.below(LOCAL.len() as u64 + 1) as usize) - self.rng.below(4) as u16
            }
        }
    }

    /// Offsets for an implicit pointer in `segment`.
    fn pointer(&mut self, r: R, segment: usize) -> Option<()> {
        let base = if self.bits == 64 && segment < 4 {
            0
        } else {
            self.base[segment]
        };
        let at = self.place(16).wrapping_sub(base);
        self.load(r, at)
    }

    /// Bytes of one instruction of `code`, after what makes its operands interesting. `None` when
    /// this draw cannot be encoded.
    fn instruction(&mut self, code: Code) -> Option<Vec<u8>> {
        let op = code.op_code();
        let mut insn = Instruction::default();
        insn.set_code(code);
        self.evex = code.encoding() == EncodingKind::EVEX;
        let mut memory = false;
        let mut vsib = None;
        let mut immediates = 0;
        for i in 0..op.op_count() {
            let kind = op.op_kind(i);
            let reg = match kind {
                K::r8_or_mem
                | K::r16_or_mem
                | K::r32_or_mem
                | K::r64_or_mem
                | K::xmm_or_mem
                | K::ymm_or_mem
                | K::zmm_or_mem
                | K::k_or_mem
                | K::mm_or_mem
                    if self.rng.below(2) == 0 =>
                {
                    memory = true;
                    insn.set_op_kind(i, OpKind::Memory);
                    continue;
                }
                K::mem | K::mem_offs => {
                    memory = true;
                    insn.set_op_kind(i, OpKind::Memory);
                    continue;
                }
                K::mem_vsib32x | K::mem_vsib64x => {
                    memory = true;
                    vsib = Some(self.vector(R::XMM0));
                    insn.set_op_kind(i, OpKind::Memory);
                    continue;
                }
                K::mem_vsib32y | K::mem_vsib64y => {
                    memory = true;
                    vsib = Some(self.vector(R::YMM0));
                    insn.set_op_kind(i, OpKind::Memory);
                    continue;
                }
                K::mem_vsib32z | K::mem_vsib64z => {
                    memory = true;
                    vsib = Some(self.vector(R::ZMM0));
                    insn.set_op_kind(i, OpKind::Memory);
                    continue;
                }
                K::zmm_reg | K::zmm_rm | K::zmm_vvvv | K::zmm_or_mem => self.vector(R::ZMM0),
                K::k_reg | K::k_rm | K::k_vvvv | K::k_or_mem => R::K0 + self.rng.below(8) as u32,
                K::r8_reg | K::r8_opcode | K::r8_or_mem => self.gpr(1),
                K::r16_reg | K::r16_opcode | K::r16_rm | K::r16_or_mem => self.gpr(2),
                K::r32_reg | K::r32_opcode | K::r32_rm | K::r32_vvvv | K::r32_or_mem => self.gpr(4),
                K::r64_reg | K::r64_opcode | K::r64_rm | K::r64_vvvv | K::r64_or_mem => self.gpr(8),
                K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 | K::xmm_is5 | K::xmm_or_mem => {
                    self.vector(R::XMM0)
                }
                K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 | K::ymm_is5 | K::ymm_or_mem => {
                    self.vector(R::YMM0)
                }
                K::mm_reg | K::mm_rm | K::mm_or_mem => R::MM0 + self.rng.below(8) as u32,
                K::seg_reg => R::ES + self.rng.below(6) as u32,
                K::cr_reg => R::CR0 + self.rng.below(5) as u32,
                K::dr_reg => R::DR0 + self.rng.below(8) as u32,
                K::st0 => R::ST0,
                K::sti_opcode => R::ST0 + self.rng.below(8) as u32,
                K::es => R::ES,
                K::cs => R::CS,
                K::ss => R::SS,
                K::ds => R::DS,
                K::fs => R::FS,
                K::gs => R::GS,
                K::al => R::AL,
                K::cl => R::CL,
                K::ax => R::AX,
                K::dx => R::DX,
                K::eax => R::EAX,
                K::rax => R::RAX,
                K::imm8 | K::imm4_m2z if immediates > 0 => {
                    insn.set_op_kind(i, OpKind::Immediate8_2nd);
                    insn.set_immediate8_2nd(self.rng.below(40) as u8);
                    continue;
                }
                K::imm8 | K::imm4_m2z => {
                    immediates += 1;
                    insn.set_op_kind(i, OpKind::Immediate8);
                    insn.set_immediate8(if kind == K::imm8 {
                        self.rng.value() as u8
                    } else {
                        self.rng.below(16) as u8
                    });
                    continue;
                }
                K::imm8_const_1 => {
                    insn.set_op_kind(i, OpKind::Immediate8);
                    insn.set_immediate8(1);
                    continue;
                }
                K::imm8sex16 => {
                    insn.set_op_kind(i, OpKind::Immediate8to16);
                    insn.set_immediate8to16(i16::from(self.rng.value() as i8));
                    continue;
                }
                K::imm8sex32 => {
                    insn.set_op_kind(i, OpKind::Immediate8to32);
                    insn.set_immediate8to32(i32::from(self.rng.value() as i8));
                    continue;
                }
                K::imm8sex64 => {
                    insn.set_op_kind(i, OpKind::Immediate8to64);
                    insn.set_immediate8to64(i64::from(self.rng.value() as i8));
                    continue;
                }
                K::imm16 => {
                    immediates += 1;
                    insn.set_op_kind(i, OpKind::Immediate16);
                    insn.set_immediate16(if code.mnemonic() == M::Enter {
                        self.rng.below(64) as u16
                    } else {
                        self.rng.value() as u16
                    });
                    continue;
                }
                K::imm32 => {
                    insn.set_op_kind(i, OpKind::Immediate32);
                    insn.set_immediate32(self.rng.value() as u32);
                    continue;
                }
                K::imm32sex64 => {
                    insn.set_op_kind(i, OpKind::Immediate32to64);
                    insn.set_immediate32to64(i64::from(self.rng.value() as i32));
                    continue;
                }
                K::imm64 => {
                    insn.set_op_kind(i, OpKind::Immediate64);
                    insn.set_immediate64(self.rng.value());
                    continue;
                }
                K::seg_rSI | K::es_rDI | K::seg_rDI | K::seg_rBX_al => {
                    self.string_operand(&mut insn, i, kind)?;
                    continue;
                }
                K::farbr2_2 | K::farbr4_2 => {
                    let next = self.ip;
                    let sel = if self.rng.one_in(2) {
                        self.selector()
                    } else {
                        if self.bits == 16 { selector(0) } else { CODE32 }
                    };
                    insn.set_far_branch_selector(sel);
                    if kind == K::farbr2_2 {
                        insn.set_op_kind(i, OpKind::FarBranch16);
                        insn.set_far_branch16(next as u16);
                    } else {
                        insn.set_op_kind(i, OpKind::FarBranch32);
                        insn.set_far_branch32(next as u32);
                    }
                    continue;
                }
                _ => return None,
            };
            insn.set_op_kind(i, OpKind::Register);
            insn.set_op_register(i, reg);
        }
        self.masking(&mut insn, memory);
        if memory {
            if op.op_kinds().contains(&K::mem_offs) {
                insn.set_memory_displacement64(self.place(8).wrapping_sub(self.base[3]));
                let size = self.rng.pick(match self.bits {
                    64 => &[8, 4],
                    32 => &[4, 2],
                    _ => &[2, 4],
                });
                insn.set_memory_displ_size(size);
                let mask = u64::MAX >> (64 - 8 * size);
                insn.set_memory_displacement64(insn.memory_displacement64() & mask);
            } else {
                self.memory(&mut insn, vsib)?;
            }
            let lockable = op.can_use_lock_prefix() && insn.op0_kind() == OpKind::Memory;
            if lockable && self.rng.one_in(3) {
                insn.set_has_lock_prefix(true);
            }
        }
        self.prepare(&mut insn)?;
        let mut all = std::mem::take(&mut self.setup);
        all.push(insn);
        let mut bytes = self.encode(&all)?;
        if let [.., last, _] = &mut all[..]
            && matches!(code.mnemonic(), M::Jmp | M::Call)
            && op.op_count() == 1
            && insn.op0_kind() == OpKind::Register
        {
            // To what comes next.
            let next = self.ip + bytes.len() as u64;
            match last.op0_register().size() {
                8 => last.set_immediate64(next),
                4 => last.set_immediate32(next as u32),
                _ => last.set_immediate16(next as u16),
            }
            bytes = self.encode(&all)?;
        }
        let far = matches!(insn.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32);
        if far && let Some(last) = all.last_mut() {
            // The segment is the code's own most often; that is where the next instruction is.
            let next = self.ip + bytes.len() as u64;
            match insn.op0_kind() {
                OpKind::FarBranch16 => last.set_far_branch16(next as u16),
                _ => last.set_far_branch32(next as u32),
            }
            bytes = self.encode(&all)?;
        }
        // The upper half of the flags would come from anywhere.
        let wide = self.bits == 16 && code.mnemonic() == M::Popf;
        if !wide && !far && self.rng.one_in(16) {
            self.prefixes(&mut bytes, &all)?;
        }
        Some(bytes)
    }

    /// What EVEX has room for: a mask, zeroing, broadcasts, rounding.
    fn masking(&mut self, insn: &mut Instruction, memory: bool) {
        let op = insn.code().op_code();
        let must = op.require_op_mask_register();
        if must || op.can_use_op_mask_register() && self.rng.one_in(2) {
            insn.set_op_mask(R::K1 + self.rng.below(7) as u32);
            let to_memory = insn.op0_kind() == OpKind::Memory;
            if op.can_use_zeroing_masking() && !to_memory && self.rng.one_in(2) {
                insn.set_zeroing_masking(true);
            }
        }
        if memory {
            insn.set_is_broadcast(op.can_broadcast() && self.rng.one_in(3));
        } else if op.can_use_rounding_control() && self.rng.one_in(3) {
            insn.set_rounding_control(self.rng.pick(&[
                RoundingControl::RoundToNearest,
                RoundingControl::RoundDown,
                RoundingControl::RoundUp,
                RoundingControl::RoundTowardZero,
            ]));
        } else if op.can_suppress_all_exceptions() && self.rng.one_in(4) {
            insn.set_suppress_all_exceptions(true);
        }
    }

    /// Operands in the places that string instructions use.
    fn string_operand(&mut self, insn: &mut Instruction, i: u32, kind: K) -> Option<()> {
        let size = if self.rng.one_in(4) {
            match self.bits {
                64 | 16 => 4,
                _ => 2,
            }
        } else {
            self.bits as usize / 8
        };
        // Both operands of one instruction have one size.
        let size = match insn.op0_kind() {
            _ if i == 0 => size,
            OpKind::MemorySegSI | OpKind::MemoryESDI => 2,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => 4,
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => 8,
            _ => size,
        };
        let n = match size {
            2 => 0,
            4 => 1,
            _ => 2,
        };
        let r = |of: [R; 3]| of[n];
        let (kind, register, segment) = match kind {
            K::seg_rSI => (
                [
                    OpKind::MemorySegSI,
                    OpKind::MemorySegESI,
                    OpKind::MemorySegRSI,
                ][n],
                r([R::SI, R::ESI, R::RSI]),
                3,
            ),
            K::es_rDI => (
                [OpKind::MemoryESDI, OpKind::MemoryESEDI, OpKind::MemoryESRDI][n],
                r([R::DI, R::EDI, R::RDI]),
                0,
            ),
            K::seg_rDI => (
                [
                    OpKind::MemorySegDI,
                    OpKind::MemorySegEDI,
                    OpKind::MemorySegRDI,
                ][n],
                r([R::DI, R::EDI, R::RDI]),
                3,
            ),
            _ => {
                insn.set_memory_base(r([R::BX, R::EBX, R::RBX]));
                insn.set_memory_index(R::AL);
                (OpKind::Memory, r([R::BX, R::EBX, R::RBX]), 3)
            }
        };
        insn.set_op_kind(i, kind);
        let mut segment = segment;
        if segment == 3 && self.rng.one_in(6) {
            segment = self.rng.below(6) as usize;
            insn.set_segment_prefix(R::ES + segment as u32);
        }
        if !self.rng.one_in(8) {
            self.pointer(register, segment)?;
        }
        let code = insn.code();
        if insn.op_count() == 2 && i + 1 == insn.op_count() || insn.op_count() == 1 {
            let rep = code.op_code().can_use_rep_prefix();
            let repne = code.op_code().can_use_repne_prefix();
            if (rep || repne) && self.rng.one_in(2) {
                if repne && self.rng.one_in(2) {
                    insn.set_has_repne_prefix(true);
                } else {
                    insn.set_has_rep_prefix(true);
                }
                let count = self.rng.below(40);
                self.load(r([R::CX, R::ECX, R::RCX]), count)?;
            }
        }
        Some(())
    }

    /// What else an instruction needs to be interesting.
    fn prepare(&mut self, insn: &mut Instruction) -> Option<()> {
        match insn.mnemonic() {
            // Random quotients overflow nearly always.
            M::Div | M::Idiv if !self.rng.one_in(3) => {
                let small = self.rng.below(3);
                self.load(R::EDX, small)?;
            }
            // The target follows.
            M::Jmp | M::Call if insn.op0_kind() == OpKind::Register && !self.rng.one_in(6) => {
                self.load(insn.op0_register(), self.ip)?;
            }
            // No trap or alignment checks by accident; trap now and then.
            M::Popf | M::Popfd | M::Popfq => {
                let trap = if self.rng.one_in(6) { 0x100 } else { 0 };
                let flags = self.rng.next() & 0x4cd5 | trap;
                let code = match insn.mnemonic() {
                    M::Popf => Code::Push_imm16,
                    M::Popfd => Code::Pushd_imm32,
                    _ => Code::Pushq_imm32,
                };
                let push = match code {
                    Code::Pushq_imm32 => Instruction::with1(code, flags as i32),
                    _ => Instruction::with1(code, flags as u32),
                };
                self.setup.push(push.ok()?);
            }
            M::Mov | M::Lar | M::Lsl | M::Verr | M::Verw
                if insn.op0_register().is_segment_register() || insn.mnemonic() != M::Mov =>
            {
                let from = insn.op_register(insn.op_count() - 1);
                if from.is_gpr() {
                    let sel = self.selector();
                    self.load(from.full_register32(), sel.into())?;
                }
            }
            // A selector on the stack.
            M::Pop if insn.op0_register().is_segment_register() => {
                let sel = self.selector();
                let code = match self.bits {
                    64 => Code::Pushq_imm32,
                    32 => Code::Pushd_imm32,
                    _ => Code::Push_imm16,
                };
                let push = if self.bits == 64 {
                    Instruction::with1(code, i32::from(sel))
                } else {
                    Instruction::with1(code, u32::from(sel))
                };
                self.setup.push(push.ok()?);
            }
            // Backwards for long would make most pointers miss.
            M::Std if self.rng.one_in(2) => return None,
            _ => {}
        }
        Some(())
    }

    /// Puts redundant or meaningless prefixes before the last instruction of `bytes`.
    fn prefixes(&mut self, bytes: &mut Vec<u8>, all: &[Instruction]) -> Option<()> {
        let setup = self.encode(&all[..all.len() - 1])?.len();
        for _ in 0..1 + self.rng.below(3) {
            let p = self.rng.pick(&[
                0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x66, 0x67, 0xf2, 0xf3, 0x66, 0xf0,
            ]);
            bytes.insert(setup, p);
        }
        let mut d = iced_x86::Decoder::with_ip(
            self.bits,
            &bytes[setup..],
            self.ip + setup as u64,
            DecoderOptions::NONE,
        );
        let insn = d.decode();
        let same = insn.len() == bytes.len() - setup;
        // A LOCK that makes it invalid is as good.
        let lock =
            insn.is_invalid() && bytes[setup..].contains(&0xf0) && bytes.len() - setup <= 15 && {
                let rest: Vec<u8> = bytes[setup..]
                    .iter()
                    .copied()
                    .filter(|b| *b != 0xf0)
                    .collect();
                let mut d = iced_x86::Decoder::new(self.bits, &rest, DecoderOptions::NONE);
                let i = d.decode();
                codes::harmless(&i)
                    && i.len() == rest.len()
                    && !matches!(i.mnemonic(), M::Verr | M::Verw | M::Lsl)
            };
        // Its target was chosen for its length: it would lead into itself, where no one has looked
        // whether flags that are undefined get read.
        let own = insn.is_jmp_near_indirect() || insn.is_call_near_indirect();
        // With REX.B it is an exchange for some.
        let pause = insn.mnemonic() == M::Pause;
        (same && codes::harmless(&insn) && !pause && !own || lock).then_some(())
    }
}

/// Fills the mapped data pages.
pub fn fill(rng: &mut Rng, data: &mut [u8]) {
    for (i, page) in PAGES.iter().enumerate() {
        if *page != Page::None {
            for part in data[4096 * i..4096 * (i + 1)].chunks_mut(8) {
                part.copy_from_slice(&rng.next().to_le_bytes());
            }
        }
    }
    debug_assert!(data.len() == DATA_SIZE);
}
