//! String instructions, with their repeat prefixes.
//!
//! Elements go one by one, as the manual says, except where nobody can tell: runs of elements in
//! plain memory that stay in one page are moved at once.

use cpu::bits::rflags;
use cpu::{Fault, Seg};
use iced_x86::{Code, Instruction, OpKind};

use super::flags::compare_flags;
use super::operand::mask;
use super::{As, Flow, Sys, port};

const PAGE: usize = pgm::PAGE_SIZE as usize;

/// Bytes moved before interrupts are looked at again.
const BUDGET_BYTES: u64 = 64 << 10;

/// Elements moved one by one before interrupts are looked at again.
const BUDGET_SLOW: u64 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Movs,
    Stos,
    Lods,
    Scas,
    Cmps,
    Ins,
    Outs,
}

/// One string instruction on its way.
#[derive(Clone, Copy)]
struct Run {
    op: Op,
    /// Bytes of an element.
    unit: usize,
    /// Bytes of SI, DI and CX that count.
    width: usize,
    /// Segment of the source.
    source: Seg,
    down: bool,
    repeat: bool,
    /// REPNE on SCAS and CMPS: go on while ZF is clear.
    until_equal: bool,
}

/// Operation and element size of a string instruction.
fn decode(code: Code) -> Option<(Op, usize)> {
    Some(match code {
        Code::Movsb_m8_m8 => (Op::Movs, 1),
        Code::Movsw_m16_m16 => (Op::Movs, 2),
        Code::Movsd_m32_m32 => (Op::Movs, 4),
        Code::Movsq_m64_m64 => (Op::Movs, 8),
        Code::Stosb_m8_AL => (Op::Stos, 1),
        Code::Stosw_m16_AX => (Op::Stos, 2),
        Code::Stosd_m32_EAX => (Op::Stos, 4),
        Code::Stosq_m64_RAX => (Op::Stos, 8),
        Code::Lodsb_AL_m8 => (Op::Lods, 1),
        Code::Lodsw_AX_m16 => (Op::Lods, 2),
        Code::Lodsd_EAX_m32 => (Op::Lods, 4),
        Code::Lodsq_RAX_m64 => (Op::Lods, 8),
        Code::Scasb_AL_m8 => (Op::Scas, 1),
        Code::Scasw_AX_m16 => (Op::Scas, 2),
        Code::Scasd_EAX_m32 => (Op::Scas, 4),
        Code::Scasq_RAX_m64 => (Op::Scas, 8),
        Code::Cmpsb_m8_m8 => (Op::Cmps, 1),
        Code::Cmpsw_m16_m16 => (Op::Cmps, 2),
        Code::Cmpsd_m32_m32 => (Op::Cmps, 4),
        Code::Cmpsq_m64_m64 => (Op::Cmps, 8),
        Code::Insb_m8_DX => (Op::Ins, 1),
        Code::Insw_m16_DX => (Op::Ins, 2),
        Code::Insd_m32_DX => (Op::Ins, 4),
        Code::Outsb_DX_m8 => (Op::Outs, 1),
        Code::Outsw_DX_m16 => (Op::Outs, 2),
        Code::Outsd_DX_m32 => (Op::Outs, 4),
        _ => return None,
    })
}

fn width(insn: &Instruction) -> usize {
    for op in 0..insn.op_count() {
        match insn.op_kind(op) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => return 2,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => return 4,
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => return 8,
            _ => {}
        }
    }
    8
}

/// Runs a string instruction; `None` if it is not one. With RFLAGS.TF set, one element at a time.
pub(super) fn execute(sys: &mut Sys<'_>, insn: &Instruction) -> Option<Fault<Flow>> {
    let (op, unit) = decode(insn.code())?;
    let run = Run {
        op,
        unit,
        width: width(insn),
        source: sys.segment(insn),
        down: sys.state.rflags & rflags::DF != 0,
        repeat: insn.has_rep_prefix() || insn.has_repne_prefix(),
        until_equal: insn.has_repne_prefix(),
    };
    Some(run.all(sys))
}

impl Run {
    fn all(&self, sys: &mut Sys<'_>) -> Fault<Flow> {
        let mut left = if self.repeat {
            sys.gpr(1, self.width)
        } else {
            1
        };
        // The port's permission comes before the count.
        if matches!(self.op, Op::Ins | Op::Outs) {
            let dx = sys.gpr(2, 2) as u16;
            port::check(sys, dx, self.unit)?;
        }
        if left == 0 {
            return Ok(Flow::Next);
        }
        let stepping = self.repeat && sys.state.rflags & rflags::TF != 0;
        let mut budget = BUDGET_BYTES;
        loop {
            let most = if stepping { 1 } else { left };
            let (done, stop) = self.some(sys, most)?;
            left -= done;
            if self.repeat {
                sys.set_gpr(1, self.width, left);
            }
            if stop || left == 0 {
                return Ok(Flow::Next);
            }
            let cost = if done == 1 {
                BUDGET_BYTES / BUDGET_SLOW
            } else {
                done * self.unit as u64
            };
            budget = budget.saturating_sub(cost);
            // A breakpoint's trap follows the element that hit it.
            let trapped = sys.debug != 0 || sys.mem.watched();
            if budget == 0 || stepping || trapped {
                return Ok(Flow::Repeat);
            }
        }
    }

    /// Up to `most` elements. Gives how many, and whether the condition of REPE or REPNE ended
    /// the instruction. SI and DI are advanced.
    fn some(&self, sys: &mut Sys<'_>, most: u64) -> Fault<(u64, bool)> {
        let mut stop = false;
        let done = match self.op {
            Op::Movs => self.movs(sys, most)?,
            Op::Stos => self.stos(sys, most)?,
            Op::Lods => self.lods(sys, most)?,
            Op::Ins => self.ins(sys, most)?,
            Op::Outs => self.outs(sys, most)?,
            Op::Scas | Op::Cmps => {
                let (done, equal) = self.compare(sys, most)?;
                stop = equal == self.until_equal;
                done
            }
        };
        if !matches!(self.op, Op::Stos | Op::Scas | Op::Ins) {
            self.advance(sys, 6, done);
        }
        if !matches!(self.op, Op::Lods | Op::Outs) {
            self.advance(sys, 7, done);
        }
        Ok((done, stop))
    }

    fn advance(&self, sys: &mut Sys<'_>, index: usize, elements: u64) {
        let by = elements * self.unit as u64;
        let old = sys.state.gpr[index];
        let new = if self.down {
            old.wrapping_sub(by)
        } else {
            old.wrapping_add(by)
        };
        sys.set_gpr(index, self.width, new);
    }

    /// Linear address of the element at index register `index`, and how many elements from there
    /// on (at most `most`) are in the same page of plain memory.
    fn span(&self, sys: &mut Sys<'_>, index: usize, most: u64, write: bool) -> Fault<(u64, u64)> {
        let seg = if index == 7 { Seg::Es } else { self.source };
        let offset = sys.gpr(index, self.width);
        let unit = self.unit as u64;
        let at = sys.linear_at(seg, offset, self.unit, write)?;
        sys.need_aligned(at, self.unit)?;
        let in_page = at % PAGE as u64;
        let fit = if in_page + unit > PAGE as u64 {
            1
        } else if self.down {
            (in_page / unit + 1).min((offset / unit).saturating_add(1))
        } else {
            let to_wrap = (mask(self.width) - offset) / unit;
            ((PAGE as u64 - in_page) / unit).min(to_wrap.saturating_add(1))
        };
        let n = fit.min(most);
        if n <= 1 || !sys.mem.is_memory(at, write) {
            return Ok((at, 1));
        }
        let low = if self.down {
            offset - (n - 1) * unit
        } else {
            offset
        };
        // Segment limits are bytes; the run must be inside as a whole.
        let inside = sys.linear_at(seg, low, (n * unit) as usize, write).is_ok();
        Ok((at, if inside { n } else { 1 }))
    }

    /// Lowest address of `n` elements of which the first is at `at`.
    fn lowest(&self, at: u64, n: u64) -> u64 {
        if self.down {
            at.wrapping_sub((n - 1) * self.unit as u64)
        } else {
            at
        }
    }

    fn movs(&self, sys: &mut Sys<'_>, most: u64) -> Fault<u64> {
        let (from, n) = self.span(sys, 6, most, false)?;
        let (to, m) = self.span(sys, 7, n, true)?;
        let mut n = n.min(m);
        let unit = self.unit as u64;
        // Distance by which the destination runs ahead of the source: what is written is read
        // again if it is less than the whole.
        let ahead = if self.down {
            from.wrapping_sub(to)
        } else {
            to.wrapping_sub(from)
        };
        let mut read = n;
        if ahead != 0 && ahead < n * unit {
            read = (ahead / unit).max(1);
            if self.down || !ahead.is_multiple_of(unit) {
                n = read;
            }
        }
        let (len, read) = ((n * unit) as usize, (read * unit) as usize);
        if read == len {
            let source = self.lowest(from, n);
            sys.mem.copy(source, self.lowest(to, n), len, As::Current)?;
            return Ok(n);
        }
        let mut buffer = [0; PAGE];
        let source = self.lowest(from, (read / self.unit) as u64);
        sys.mem.read(source, &mut buffer[..read], As::Current)?;
        for i in read..len {
            buffer[i] = buffer[i - read];
        }
        sys.mem
            .write(self.lowest(to, n), &buffer[..len], As::Current)?;
        Ok(n)
    }

    fn stos(&self, sys: &mut Sys<'_>, most: u64) -> Fault<u64> {
        let (to, n) = self.span(sys, 7, most, true)?;
        let value = sys.gpr(0, self.unit).to_le_bytes();
        if n == 1 {
            sys.mem.write(to, &value[..self.unit], As::Current)?;
            return Ok(1);
        }
        let len = n as usize * self.unit;
        if value[..self.unit].iter().all(|b| *b == value[0]) {
            sys.mem
                .fill(self.lowest(to, n), len, value[0], As::Current)?;
            return Ok(n);
        }
        let mut buffer = [0; PAGE];
        let buffer = &mut buffer[..len];
        let mut done = self.unit;
        buffer[..done].copy_from_slice(&value[..done]);
        while done < buffer.len() {
            let more = done.min(buffer.len() - done);
            buffer.copy_within(..more, done);
            done += more;
        }
        sys.mem.write(self.lowest(to, n), buffer, As::Current)?;
        Ok(n)
    }

    fn lods(&self, sys: &mut Sys<'_>, most: u64) -> Fault<u64> {
        let (from, n) = self.span(sys, 6, most, false)?;
        // Only the last element of a run stays.
        let by = (n - 1) * self.unit as u64;
        let last = if self.down {
            from.wrapping_sub(by)
        } else {
            from.wrapping_add(by)
        };
        let value = sys.mem.read_u(last, self.unit, As::Current)?;
        sys.set_gpr(0, self.unit, value);
        Ok(n)
    }

    /// SCAS and CMPS: compares until the repeat condition fails. Gives the number of elements
    /// compared and whether the last were equal.
    fn compare(&self, sys: &mut Sys<'_>, most: u64) -> Fault<(u64, bool)> {
        let (right_at, mut n) = self.span(sys, 7, most, false)?;
        let (mut left, mut right) = ([0; PAGE], [0; PAGE]);
        // The operand at DI is looked at first, as AMD's processors do.
        if self.op == Op::Cmps {
            sys.mem
                .read(right_at, &mut right[..self.unit], As::Current)?;
            let (left_at, m) = self.span(sys, 6, n, false)?;
            n = n.min(m);
            let len = n as usize * self.unit;
            let low = self.lowest(left_at, n);
            sys.mem.read(low, &mut left[..len], As::Current)?;
        }
        // A device is read once.
        if self.op == Op::Scas || n > 1 {
            let len = n as usize * self.unit;
            let low = self.lowest(right_at, n);
            sys.mem.read(low, &mut right[..len], As::Current)?;
        }

        let accumulator = sys.gpr(0, self.unit);
        let element = |buffer: &[u8], i: usize| {
            let i = if self.down { n as usize - 1 - i } else { i };
            let mut b = [0; 8];
            b[..self.unit].copy_from_slice(&buffer[i * self.unit..(i + 1) * self.unit]);
            u64::from_le_bytes(b)
        };
        let (mut a, mut b, mut done) = (0, 0, 0);
        while done < n as usize {
            b = element(&right, done);
            a = if self.op == Op::Cmps {
                element(&left, done)
            } else {
                accumulator
            };
            done += 1;
            if (a == b) == self.until_equal {
                break;
            }
        }
        let flags = compare_flags(a, b, self.unit);
        sys.state.rflags = sys.state.rflags & !rflags::ARITH | flags;
        Ok((done as u64, a == b))
    }

    fn ins(&self, sys: &mut Sys<'_>, most: u64) -> Fault<u64> {
        let (to, mut n) = self.span(sys, 7, most, true)?;
        let dx = sys.gpr(2, 2) as u16;
        port::watch(sys, dx, self.unit);
        if self.down || sys.debug != 0 {
            n = 1;
        }
        let mut buffer = [0; PAGE];
        let data = &mut buffer[..n as usize * self.unit];
        // What a device gives cannot be given back.
        sys.mem.probe_write(to, data.len(), As::Current)?;
        if n == 1 {
            let value = sys.bus.port_read(sys.cpu, dx, self.unit as u8);
            data.copy_from_slice(&value.to_le_bytes()[..self.unit]);
        } else {
            sys.bus.port_read_string(sys.cpu, dx, self.unit as u8, data);
        }
        sys.mem.write(to, data, As::Current)?;
        Ok(n)
    }

    fn outs(&self, sys: &mut Sys<'_>, most: u64) -> Fault<u64> {
        let (from, mut n) = self.span(sys, 6, most, false)?;
        let dx = sys.gpr(2, 2) as u16;
        port::watch(sys, dx, self.unit);
        if self.down || sys.debug != 0 {
            n = 1;
        }
        let mut buffer = [0; PAGE];
        let data = &mut buffer[..n as usize * self.unit];
        sys.mem.read(from, data, As::Current)?;
        if n == 1 {
            let mut value = [0; 4];
            value[..self.unit].copy_from_slice(data);
            let value = u32::from_le_bytes(value);
            sys.bus.port_write(sys.cpu, dx, self.unit as u8, value);
        } else {
            sys.bus
                .port_write_string(sys.cpu, dx, self.unit as u8, data);
        }
        Ok(n)
    }
}
