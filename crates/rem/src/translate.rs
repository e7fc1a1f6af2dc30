//! Translation of one block: decode, find which flags are live and which accesses share a probe,
//! emit.
//!
//! While code runs, the guest's arithmetic flags are in the host's flags or, when a probe needed
//! those, *parked* in [`ctx::FLAGSAVE`]. They come back before an instruction that reads flags or
//! leaves some unchanged; jumps out of a block carry them either way.

mod analyze;
mod checked;
mod cluster;
mod encode;
mod far;
mod flow;
mod gates;
mod memory;
mod segments;
mod stack;
mod strings;
mod system;
#[cfg(test)]
mod tests;

use cpu::Exception;
use iced_x86::{Encoder, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};

use crate::classify::Kind;
use crate::ctx::{self, Call, Part};
use crate::emit::{Code, T0, T1};
use crate::features::Features;
use crate::mode::Mode;
use crate::site::{Action, Exec, Link, Mark, Site, Wire};
use crate::window::{self, Reaches};
use cluster::Cluster;

pub use checked::{Checked, Source};
pub use far::direct as direct_far;

const PAGE: u64 = pgm::PAGE_SIZE;

/// A finished translation, with code offsets counted from its own start.
pub struct Translation {
    /// The code.
    pub code: Vec<u8>,
    /// Entries: without a poll, polling first, and with flags parked, polling too.
    pub entries: [u32; 3],
    /// Memory accesses.
    pub sites: Vec<Site>,
    /// Helper calls.
    pub execs: Vec<Exec>,
    /// Jumps out.
    pub links: Vec<Link>,
    /// Places of the `arg` immediates, which number sites, execs or links and are to name the block
    /// too.
    pub args: Vec<u32>,
    /// Places of immediates that are where the code is plus a constant: 64-bit ones in 64-bit code,
    /// else 32-bit ones.
    pub rips: Vec<u32>,
    /// With these changed, the translation does for the same code elsewhere, where [`movable`].
    pub movable: bool,
    /// For each instruction in order: code offset, and its place in the page with [`PARKED`] when
    /// flags are parked while it executes.
    pub map: Vec<(u32, u16)>,
    /// Bytes of guest code covered.
    pub guest_len: u32,
    /// The last of it is a near call.
    pub calls: bool,
    /// Code offsets of instructions on the window whose faults mean something else.
    pub marks: Vec<(u32, Mark)>,
    /// Ranges of the page, as offsets, that the translation depends on beyond its own bytes.
    pub peeks: Vec<(u16, u16)>,
    /// What it compares with the guest's code itself.
    pub checked: Option<Checked>,
}

/// Mark in [`Translation::map`].
pub const PARKED: u16 = 1 << 15;

/// Farther than any direct jump or operand relative to RIP reaches.
const REACH: u64 = 1 << 32;

/// Whether translations of code at offset `rip` may be used for the same code elsewhere, if that is
/// movable too. Then what depends on the address in more than a sum is alike in both places:
/// offsets in CS are linear addresses, none of those near wraps, is not canonical or can be written
/// in 32 bits, and on the window all are in the same part.
pub fn movable(mode: &Mode, rip: u64) -> bool {
    if mode.one() || mode.debug() {
        return false;
    }
    match mode.bitness() {
        64 => {
            let distance = (rip as i64).unsigned_abs();
            (1 << 40..(1 << 47) - REACH).contains(&distance)
                && (!mode.window() || window::is_high(rip - REACH) && window::is_high(rip + REACH))
        }
        32 => {
            let flat = mode.cs_base == 0 && mode.cs_limit == u32::MAX.into();
            flat && (0x1000..0xffff_e000).contains(&rip)
        }
        _ => false,
    }
}

/// What is translated.
pub struct Input<'a> {
    /// Mode of the code.
    pub mode: Mode,
    /// Offset of the first instruction in CS.
    pub rip: u64,
    /// The code page and up to 15 bytes of the next, as far as `known` tells.
    pub code: &'a [u8],
    /// Range of `code` that was read.
    pub known: (usize, usize),
    /// Place of the first instruction in `code`.
    pub at: usize,
    /// Its number.
    pub mode_id: u32,
    /// Numbers of the modes that differ from it in RFLAGS.AC: clear, set.
    pub ac_modes: [u32; 2],
    /// Table for indirect jumps of this mode.
    pub jc_table: usize,
    /// What is to be made of it.
    pub variant: Variant,
    /// Instruction sets of the guest's processor.
    pub features: &'a Features,
    /// For code of restless pages.
    pub source: Option<Source<'a>>,
    /// For modes with one.
    pub window: Option<Window<'a>>,
}

/// The window that user code reaches memory through.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    /// What to add to an address in its high part, and in its low part.
    pub high: u64,
    /// See `high`.
    pub low: u64,
    /// What is known of the code's instructions.
    pub reaches: &'a Reaches,
    /// RAM offset of the code page.
    pub page: u64,
}

/// Kinds of translations of the same code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// The usual one.
    Plain,
    /// Every access gets a probe of its own: for code whose clusters do not lie in one page.
    Split,
    /// For the start of a loop: goes around it several times.
    Trace,
}

impl Input<'_> {
    /// Code from the first instruction on.
    fn bytes(&self) -> &[u8] {
        let to = self.known.1.min(self.code.len());
        &self.code[self.at.min(to)..to]
    }

    /// Place of an instruction in `code`.
    fn place(&self, insn: &Instruction) -> usize {
        (self.at as u64).wrapping_add(insn.ip().wrapping_sub(self.rip)) as usize
    }

    /// End of what is known of the first page.
    fn page_end(&self) -> usize {
        self.known.1.min(PAGE as usize)
    }

    /// How many bytes lie in the first page: no instruction starts beyond.
    fn in_page(&self) -> usize {
        self.page_end() - self.at
    }
}

/// How an access is reached.
#[derive(Debug, Clone, Copy)]
struct Use {
    /// The cluster it belongs to.
    cluster: Option<u8>,
    /// Bytes from the cluster's start.
    delta: u16,
    /// Through the window.
    window: Option<Shown>,
}

/// An access through the window.
#[derive(Debug, Clone, Copy)]
struct Shown {
    /// Where in it.
    by: By,
    /// Whether the address is in that part is not known yet.
    check: bool,
}

/// How the address in the window is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// It is in this part.
    Part(Part),
    /// By a look into the table of constants; kept for others, if a number is given.
    Table(Option<u8>),
    /// By the constant that another access has kept.
    Kept(u8),
}

impl Use {
    /// By a probe of its own.
    const SINGLE: Use = Use {
        cluster: None,
        delta: 0,
        window: None,
    };

    /// Where an operand is that is always at the same place in the window.
    fn fixed(&self, insn: &Instruction, input: &Input<'_>) -> Option<Fixed> {
        let (_, window) = (self.window?, input.window?);
        let linear = cluster::fixed(insn, input)?;
        let part = crate::window::part_of(linear)?;
        if let (Part::Low, Ok(disp)) = (part, i32::try_from(linear)) {
            return Some(Fixed::Low(disp));
        }
        let delta = match part {
            Part::Low => window.low,
            Part::High => window.high,
        };
        Some(Fixed::Host(linear.wrapping_add(delta)))
    }
}

/// The place of an operand that does not move.
enum Fixed {
    /// A displacement in the low part.
    Low(i32),
    /// A host address.
    Host(u64),
}

struct Insn {
    insn: Instruction,
    kind: Kind,
    /// Flags are needed before the instruction (by it or later).
    live: bool,
    /// The host's execution of it reads or writes flags.
    touches: bool,
    /// A jump whose target comes next in the translation.
    follow: bool,
    /// Its memory operand.
    operand: Use,
    /// Its stack access.
    stack: Use,
    /// Its immediate operand, if that is soft.
    soft: Option<checked::Immediate>,
}

impl Insn {
    /// How its stack access is reached, or that of its operand.
    fn reach_mut(&mut self, stack: bool) -> &mut Use {
        match stack {
            true => &mut self.stack,
            false => &mut self.operand,
        }
    }
}

struct Builder<'a> {
    input: &'a Input<'a>,
    hot: Code,
    cold: Code,
    to_cold: Vec<(u32, u32)>,
    sites: Vec<Site>,
    execs: Vec<Exec>,
    links: Vec<Link>,
    /// Places of calls.
    args_hot: Vec<u32>,
    args_cold: Vec<u32>,
    /// See [`Translation::rips`]; all are in `hot`.
    rips: Vec<u32>,
    /// Something depends on the address that is not in `rips`.
    bound: bool,
    link_wires: Vec<(usize, LinkWire)>,
    encoder: Encoder,
    info: InstructionInfoFactory,
    insn: Instruction,
    clusters: Vec<Cluster>,
    /// The cluster whose host address is in T0.
    t0: Option<u8>,
    /// The flags are parked.
    parked: bool,
    /// A site whose instruction is not complete yet.
    open_site: Option<usize>,
    /// See [`Translation::marks`].
    marks: Vec<(u32, Mark)>,
    /// T0 is where the host has the block's code.
    source_in_t0: bool,
}

enum LinkWire {
    Hot(u32),
    SlotHot(u32),
    SlotCold(u32),
}

/// Translates the block that starts at `input.rip`.
pub fn translate(input: &Input<'_>) -> Translation {
    let analyze::Decoded {
        mut insns,
        len,
        peeks,
        bound,
    } = analyze::decode(input);
    let mut info = InstructionInfoFactory::new();
    let clusters = cluster::plan(input, &mut insns, &mut info);
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
        rips: Vec::new(),
        bound,
        link_wires: Vec::new(),
        encoder: Encoder::new(64),
        info,
        insn: Instruction::default(),
        clusters,
        t0: None,
        parked: false,
        open_site: None,
        marks: Vec::new(),
        source_in_t0: false,
    };
    let checked = input.source.map(|s| (s.host, b.checked(&insns, len)));
    let entries = match &checked {
        Some((host, checked)) => b.checked_entries(live_in, *host, checked),
        None => b.entries(live_in, &insns),
    };
    let mut map = Vec::with_capacity(insns.len());
    let mut next = input.rip;
    let mut open = true;
    for i in &insns {
        let at = b.hot.here();
        b.insn = i.insn;
        next = match i.follow {
            true => i.insn.near_branch_target(),
            false => i.insn.next_ip(),
        } & input.mode.ip_mask();
        open = b.instruction(i);
        let parked = if b.parked { PARKED } else { 0 };
        map.push((at, input.place(&i.insn) as u16 | parked));
    }
    if open {
        b.exit(next, None);
    }
    let mut t = b.finish();
    (t.entries, t.map) = (entries, map);
    (t.guest_len, t.peeks) = (len as u32, peeks);
    t.calls = input.variant != Variant::Trace
        && (insns.last()).is_some_and(|i| matches!(i.kind, Kind::Call | Kind::CallIndirect));
    t.checked = checked.map(|(_, checked)| checked);
    t
}

/// Whether flags get parked before an instruction touches them.
fn parks_first(insns: &[Insn]) -> bool {
    for i in insns {
        if i.touches || !i.live {
            return false;
        }
        let memory = (0..i.insn.op_count()).any(|n| i.insn.op_kind(n) == OpKind::Memory);
        let probes = match i.kind {
            Kind::Copy => memory && i.operand.window.is_none(),
            Kind::Push | Kind::Pop | Kind::Leave | Kind::Call => {
                i.stack.window.is_none() || memory && i.operand.window.is_none()
            }
            Kind::Ret | Kind::JmpIndirect | Kind::CallIndirect | Kind::Far => true,
            _ => false,
        };
        if probes {
            return true;
        }
    }
    false
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
    /// Emits the ways in: places of the one without a poll, with one, and with flags parked, which
    /// polls too.
    fn entries(&mut self, live_in: bool, insns: &[Insn]) -> [u32; 3] {
        if self.input.mode.one() {
            if live_in {
                self.hot.restore_flags();
            }
            return [self.hot.here(), self.hot.here(), 0];
        }
        if !live_in {
            let stub = self.poll_stub(false);
            self.poll(stub);
            return [self.hot.here(), 0, 0];
        }
        if parks_first(insns) {
            // Parked is what they will be.
            self.hot.save_flags();
            self.parked = true;
            let parked = self.hot.here();
            let stub = self.poll_stub(true);
            self.poll(stub);
            return [0, 0, parked];
        }
        let stub = self.poll_stub(false);
        // mov r11, rcx; mov ecx, [poll]; jrcxz ok; mov rcx, r11; jmp stub; ok: mov rcx, r11
        self.hot.mov(T1, 1);
        self.hot.load32(1, ctx::POLL);
        self.hot.jrcxz(true, 8);
        self.hot.mov(1, T1);
        let at = self.hot.jmp();
        self.to_cold.push((at, stub));
        self.hot.mov(1, T1);
        let over = self.hot.jmp();
        let parked = self.hot.here();
        let stub = self.poll_stub(true);
        self.poll(stub);
        self.hot.restore_flags();
        let entry = self.hot.here();
        self.hot.fix(over, entry);
        [entry, 0, parked]
    }

    /// The same for a translation that compares the guest's code first. All ways in poll.
    fn checked_entries(&mut self, live_in: bool, host: u64, checked: &Checked) -> [u32; 3] {
        // Flags that this code does not need may be needed by what has taken its place.
        self.hot.save_flags();
        self.parked = true;
        let parked = self.hot.here();
        let stub = self.poll_stub(true);
        self.poll(stub);
        self.check_source(host, checked);
        self.parked = live_in;
        [0, 0, parked]
    }

    /// Code that calls when the poll word is set.
    fn poll_stub(&mut self, parked: bool) -> u32 {
        let stub = self.cold.here();
        if parked {
            self.cold.restore_flags();
        }
        self.args_cold.push(self.cold.here());
        self.cold.call(Call::Poll, 0);
        stub
    }

    /// Polls, where the host's flags are free.
    fn poll(&mut self, stub: u32) {
        self.hot.cmp_gs_zero(ctx::POLL);
        let at = self.hot.jcc(5);
        self.to_cold.push((at, stub));
    }

    /// The host's flags are about to be changed by a sequence around the guest's instruction.
    fn park(&mut self, i: &Insn) {
        if i.live && !self.parked {
            self.hot.save_flags();
        }
        self.parked = i.live;
    }

    /// The guest's instruction is about to execute on the host's flags.
    fn unpark(&mut self, i: &Insn) {
        if i.touches {
            if self.parked && i.live {
                self.hot.restore_flags();
            }
            self.parked = false;
        } else {
            self.parked &= i.live;
        }
    }

    /// Emits one instruction; false when the block ends with it.
    fn instruction(&mut self, i: &Insn) -> bool {
        let goes_on = self.emit(i);
        let clustered = i.operand.cluster.is_some() || i.stack.cluster.is_some();
        if cluster::uses_t0(self.input, i, clustered) {
            self.t0 = None;
            self.source_in_t0 &= i.soft.is_some();
        }
        self.source_in_t0 &= !clustered;
        goes_on
    }

    fn emit(&mut self, i: &Insn) -> bool {
        let mode = self.input.mode;
        let insn = i.insn;
        match i.kind {
            Kind::Nothing => {}
            Kind::Touch => self.touch(i),
            Kind::Pause => self.exec(Action::Pause(insn.len() as u8), true),
            Kind::Copy => self.copy(i),
            Kind::Exec => self.exec(Action::Execute(insn), true),
            Kind::ExecSame => {
                self.exec(Action::Execute(insn), true);
                if let Some(e) = self.execs.last_mut() {
                    e.same_mode = true;
                }
            }
            Kind::ExecFpu => self.exec(Action::ExecuteFpu(insn), true),
            Kind::ExecEnd => {
                self.exec(Action::Execute(insn), false);
                return false;
            }
            Kind::Raise(e) => {
                self.exec(Action::Raise(e), false);
                return false;
            }
            Kind::Jmp if i.follow => self.parked &= i.live,
            Kind::Jmp => {
                self.parked &= i.live;
                self.exit(insn.near_branch_target() & mode.ip_mask(), None);
                return false;
            }
            Kind::Jcc => {
                self.unpark(i);
                let cc = insn.condition_code() as u8 - 1;
                let (cc, to) = match i.follow {
                    true => (cc ^ 1, insn.next_ip()),
                    false => (cc, insn.near_branch_target()),
                };
                let at = self.hot.jcc(cc);
                self.exit(to & mode.ip_mask(), Some(at));
            }
            Kind::Loop => {
                self.unpark(i);
                self.loop_(&insn);
                return false;
            }
            Kind::JmpIndirect => {
                self.park(i);
                self.branch_target(i, T0);
                self.jump_indirect(0);
                return false;
            }
            // Refused before the return address is pushed.
            Kind::Call if !mode.can_reach(insn.near_branch_target() & mode.ip_mask()) => {
                // The stack's faults come first, as on AMD's processors.
                let size = -insn.stack_pointer_increment() as u32;
                let at = self.push_access(i, size, true);
                self.marks.push((self.hot.here(), Mark::Write));
                self.load_zx(T1, size, at);
                self.done();
                self.exec(Action::Raise(Exception::gp(0)), false);
                return false;
            }
            Kind::Call => {
                let size = -insn.stack_pointer_increment() as u32;
                let at = self.push_access(i, size, true);
                self.store_return(size, at);
                self.move_stack(-(size as i32));
                self.done();
                self.exit(insn.near_branch_target() & mode.ip_mask(), None);
                return false;
            }
            Kind::CallIndirect => {
                self.park(i);
                self.branch_target(i, T1);
                self.hot.store(ctx::tmp(1), T1);
                let size = -insn.stack_pointer_increment() as u32;
                let at = self.push_access(i, size, true);
                // What is overwritten comes back if the target is refused.
                self.marks.push((self.hot.here(), Mark::Write));
                self.load_zx(T1, size, at);
                self.hot.store(ctx::tmp(4), T1);
                self.store_return(size, at);
                self.move_stack(-(size as i32));
                self.done();
                self.hot.load(T0, ctx::tmp(1));
                self.jump_indirect(size as i32);
                return false;
            }
            Kind::Ret => {
                self.ret(i);
                return false;
            }
            Kind::Far => {
                self.far(i);
                return false;
            }
            Kind::PushSegment => self.push_segment(i),
            Kind::LoadSegment => self.load_segment(i),
            Kind::Cli => self.cli(i),
            Kind::Sti => self.sti(i),
            Kind::Pushf => self.pushf(i),
            Kind::Swapgs => self.swapgs(),
            Kind::SetAc(on) => {
                self.set_ac(i, on);
                return false;
            }
            Kind::SetDf(on) => self.set_df(i, on),
            Kind::Syscall => {
                self.syscall(i);
                return false;
            }
            Kind::Sysret => {
                self.sysret(i);
                return false;
            }
            Kind::ReadTsc => self.read_tsc(i),
            Kind::ReadSeg => self.read_segment(i),
            Kind::ReadCr => self.read_cr(&insn),
            Kind::Base => self.base(i),
            Kind::Verw => self.verw(i),
            Kind::MovSegment => self.mov_segment(&insn),
            Kind::Push => self.push(i),
            Kind::Pop => self.pop(i),
            Kind::Leave => self.leave(i),
            Kind::Lea => self.lea(&insn),
            Kind::BitString => self.bit_string(i),
            Kind::StringOne => self.string_one(i),
            Kind::StringRep => self.string_rep(i),
            Kind::ExecVector => self.exec(Action::ExecuteVector(insn), true),
            Kind::TakeUpper => {
                self.exec(Action::TakeUpper, false);
                return false;
            }
        }
        true
    }

    // ---- putting it together ----

    /// Joins the parts; the caller fills in what is known of the guest's side.
    fn finish(mut self) -> Translation {
        while self.input.source.is_some() && !self.hot.here().is_multiple_of(16) {
            // Constants are aligned.
            self.hot.put(&[0xcc]);
        }
        let base = self.hot.here();
        for (index, wire) in &self.link_wires {
            self.links[*index].wire = match *wire {
                LinkWire::Hot(at) => Wire::Patch(at),
                LinkWire::SlotHot(at) => Wire::Slot(at),
                LinkWire::SlotCold(at) => Wire::Slot(base + at),
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
        let args = (self.args_hot.iter().map(|at| at + 8))
            .chain(self.args_cold.iter().map(|at| base + at + 8))
            .collect();
        Translation {
            code: code.bytes,
            entries: [0; 3],
            sites: self.sites,
            execs: self.execs,
            links: self.links,
            args,
            rips: self.rips,
            movable: !self.bound && movable(&self.input.mode, self.input.rip),
            map: Vec::new(),
            marks: self.marks,
            guest_len: 0,
            calls: false,
            peeks: Vec::new(),
            checked: None,
        }
    }
}

fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

/// Whether an access to memory of this kind needs write permission.
fn writes_memory(access: OpAccess) -> bool {
    !matches!(
        access,
        OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess
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
