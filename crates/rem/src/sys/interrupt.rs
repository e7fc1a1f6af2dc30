//! Entering the handlers of exceptions and interrupts (SDM vol. 3, chapter 6, 20.3 and 6.14).

use cpu::bits::{cr4, debugctl, rflags};
use cpu::{Exception, Fault, RunState, Seg, SegReg, Vector, attr};

use super::operand::mask;
use super::seg::{self, Descriptor, code_of, kind};
use super::stack::Stack;
use super::table::{inner_rsp, inner_stack, ist_rsp, tss_read};
use super::task::{self, Source};
use super::{As, Shutdown, Sys};

/// What is delivered to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A fault, trap or abort; `rip` is what the handler shall find as return address.
    Exception(Exception),
    /// INT n and its like; `rip` is at the instruction.
    SoftInt {
        /// Vector.
        vector: u8,
        /// Address of the next instruction: the return address.
        next_rip: u64,
        /// Which instruction.
        kind: SoftKind,
    },
    /// A maskable interrupt that was acknowledged.
    External(u8),
    /// NMI.
    Nmi,
}

/// The instructions that raise an interrupt: their checks differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SoftKind {
    /// INT n: sensitive to IOPL in virtual-8086 mode.
    IntN,
    /// INT3 and INTO: obey the gate's DPL.
    Trap,
    /// INT1: as privileged as hardware.
    Int1,
}

/// One delivery, reduced to what gates care about.
#[derive(Clone, Copy)]
struct Entry {
    vector: u8,
    code: Option<u32>,
    /// Caused by an instruction: the gate's DPL counts.
    soft: bool,
    /// Return address.
    rip: u64,
    /// RFLAGS to be pushed.
    flags: u64,
}

/// Delivers `event`. A fault on the way is delivered instead, or becomes #DF (SDM table 6-5).
/// The processor is running afterwards.
///
/// # Errors
/// [`Shutdown`] when delivery of #DF faults; [`cpu::State::run`] says so too.
pub fn deliver(sys: &mut Sys<'_>, event: Event) -> Result<(), Shutdown> {
    let mut event = event;
    loop {
        if let Event::Exception(e) = event {
            note(sys, e);
        }
        let Err(nested) = inject(sys, event) else {
            sys.state.run = RunState::Running;
            sys.state.shadow = false;
            if event == Event::Nmi {
                sys.state.nmi_blocked = true;
            }
            return Ok(());
        };
        event = match event {
            Event::Exception(first) if first.vector == Vector::Df => {
                sys.state.run = RunState::Shutdown;
                return Err(Shutdown);
            }
            Event::Exception(first) if doubles(first.vector, nested.vector) => {
                note(sys, nested);
                Event::Exception(Exception::new(Vector::Df))
            }
            _ => Event::Exception(nested),
        };
    }
}

/// INT n, INT3, INTO, INT1 as part of their instruction: faults are the instruction's.
pub(super) fn software(sys: &mut Sys<'_>, vector: u8, next_rip: u64, kind: SoftKind) -> Fault {
    inject(
        sys,
        Event::SoftInt {
            vector,
            next_rip,
            kind,
        },
    )
}

/// Registers that an exception sets before its handler runs.
fn note(sys: &mut Sys<'_>, e: Exception) {
    match e.vector {
        Vector::Pf => sys.state.cr2 = e.address,
        Vector::Db => {
            sys.state.dr[6] |= e.address;
            sys.state.dr[7] &= !super::control::dr7::GD;
            // Branch stepping has to be asked for again (SDM vol. 3, 17.4.4).
            sys.state.debugctl &= !debugctl::BTF;
        }
        _ => {}
    }
}

fn doubles(first: Vector, second: Vector) -> bool {
    let contributory = |v| {
        matches!(
            v,
            Vector::De | Vector::Ts | Vector::Np | Vector::Ss | Vector::Gp
        )
    };
    match first {
        Vector::Pf => second == Vector::Pf || contributory(second),
        v if contributory(v) => contributory(second),
        _ => false,
    }
}

fn inject(sys: &mut Sys<'_>, event: Event) -> Fault {
    let flags = sys.state.rflags;
    let rip = sys.state.rip;
    let mut entry = Entry {
        vector: 0,
        code: None,
        soft: false,
        rip,
        flags,
    };
    match event {
        Event::Exception(e) => {
            entry.vector = e.vector as u8;
            if e.vector.has_error_code() {
                entry.code = Some(e.code);
            }
            // Faults may be resumed past an instruction breakpoint (SDM vol. 3, 17.3.1.1).
            if !matches!(
                e.vector,
                Vector::Db | Vector::Bp | Vector::Of | Vector::Df | Vector::Mc | Vector::Nmi
            ) {
                entry.flags |= rflags::RF;
            }
        }
        Event::SoftInt {
            vector,
            next_rip,
            kind,
        } => {
            entry.vector = vector;
            entry.rip = next_rip;
            entry.soft = kind != SoftKind::Int1;
            entry.flags &= !rflags::RF;
            if kind == SoftKind::IntN && sys.v86() {
                if redirected(sys, vector)? {
                    return real(sys, entry);
                }
                if sys.iopl() < 3 {
                    return Err(Exception::gp(0));
                }
            }
        }
        Event::External(vector) => entry.vector = vector,
        Event::Nmi => entry.vector = 2,
    }
    if sys.state.cr0 & cpu::bits::cr0::PE == 0 {
        return real(sys, entry);
    }
    let done = if sys.state.long_mode() {
        long(sys, entry)
    } else {
        protected(sys, entry)
    };
    done.map_err(|mut e| {
        if matches!(e.vector, Vector::Ts | Vector::Np | Vector::Ss | Vector::Gp) && !entry.soft {
            e.code |= 1;
        }
        e
    })
}

/// Whether INT n in virtual-8086 mode goes to the task's own real-mode handler: CR4.VME and a
/// clear bit in the TSS's redirection map (SDM vol. 3, 20.3.3).
fn redirected(sys: &mut Sys<'_>, vector: u8) -> Fault<bool> {
    if sys.state.cr4 & cr4::VME == 0 || super::table::is_tss16(sys) {
        return Ok(false);
    }
    let io_map = tss_read(sys, 102, 2).map_err(to_gp)?;
    let Some(map) = io_map.checked_sub(32) else {
        return Ok(false);
    };
    let bits = tss_read(sys, map + u64::from(vector >> 3), 1).map_err(to_gp)?;
    Ok(bits >> (vector & 7) & 1 == 0)
}

fn to_gp(e: Exception) -> Exception {
    if e.vector == Vector::Ts {
        Exception::gp(0)
    } else {
        e
    }
}

/// The real-mode interrupt table; also redirected INT n in virtual-8086 mode, whose table is at
/// linear address 0.
fn real(sys: &mut Sys<'_>, entry: Entry) -> Fault {
    let v86 = sys.v86();
    let at = 4 * u64::from(entry.vector);
    let (base, who) = if v86 {
        (0, As::Current)
    } else {
        if at + 3 > u64::from(sys.state.idtr.limit) {
            return Err(Exception::gp(u32::from(entry.vector) * 8 + 2));
        }
        (sys.state.idtr.base, As::System)
    };
    let target = sys.mem.read_u(sys.wrap(base.wrapping_add(at)), 4, who)?;
    let mut flags = entry.flags;
    let virtualised = v86 && sys.iopl() < 3;
    if virtualised {
        // The handler sees VIF as IF and an IOPL of 3.
        flags = flags & !rflags::IF | rflags::IOPL;
        if sys.state.rflags & rflags::VIF != 0 {
            flags |= rflags::IF;
        }
    }
    let mut stack = Stack::current(sys);
    stack.push(sys, 2, flags)?;
    let cs = u64::from(sys.state.seg[Seg::Cs as usize].sel);
    stack.push(sys, 2, cs)?;
    stack.push(sys, 2, entry.rip)?;
    stack.commit(sys);

    let sel = (target >> 16) as u16;
    let cs = &mut sys.state.seg[Seg::Cs as usize];
    if v86 {
        *cs = seg::v86(sel);
    } else {
        cs.sel = sel;
        cs.base = u64::from(sel) << 4;
    }
    sys.state.rip = target & 0xffff;
    let f = &mut sys.state.rflags;
    *f &= !(rflags::TF | rflags::RF);
    if virtualised {
        *f &= !rflags::VIF;
    } else {
        *f &= !(rflags::IF | rflags::AC);
    }
    Ok(())
}

/// Error code that names an IDT entry.
fn idt_code(vector: u8) -> u32 {
    u32::from(vector) * 8 + 2
}

fn read_gate(sys: &mut Sys<'_>, entry: &Entry, size: u64) -> Fault<Descriptor> {
    let offset = u64::from(entry.vector) * size;
    let code = idt_code(entry.vector);
    if offset + size - 1 > u64::from(sys.state.idtr.limit) {
        return Err(Exception::gp(code));
    }
    let at = sys.wrap(sys.state.idtr.base.wrapping_add(offset));
    let low = sys.mem.read_u(at, 8, As::System)?;
    let high = if size == 16 {
        sys.mem.read_u(at.wrapping_add(8), 8, As::System)?
    } else {
        0
    };
    let gate = Descriptor { low, high, at };
    let known = match gate.system() {
        Some(kind::INT32 | kind::TRAP32) => true,
        Some(kind::TASK_GATE | kind::INT16 | kind::TRAP16) => size == 8,
        _ => false,
    };
    if !known || entry.soft && gate.dpl() < sys.state.cpl() {
        return Err(Exception::gp(code));
    }
    if !gate.present() {
        return Err(Exception::np(code));
    }
    Ok(gate)
}

/// Reads and checks a handler's code segment. Gives the privilege level it will run at.
fn handler_cs(sys: &mut Sys<'_>, sel: u16) -> Fault<(Descriptor, u8)> {
    if sel & !3 == 0 {
        return Err(Exception::gp(0));
    }
    let d = seg::fetch(sys, sel, Vector::Gp)?;
    let cpl = sys.state.cpl();
    let long = sys.state.long_mode();
    let size_ok = !long || d.has(attr::L) && !d.has(attr::DB);
    if !d.is_code() || d.dpl() > cpl || !size_ok {
        return Err(Exception::gp(code_of(sel)));
    }
    if !d.present() {
        return Err(Exception::np(code_of(sel)));
    }
    Ok((d, if d.is_conforming() { cpl } else { d.dpl() }))
}

/// Flags after an entry through a gate of type `gate`.
fn enter_flags(sys: &mut Sys<'_>, gate: u32) {
    let f = &mut sys.state.rflags;
    *f &= !(rflags::TF | rflags::NT | rflags::RF | rflags::VM);
    if matches!(gate, kind::INT16 | kind::INT32) {
        *f &= !rflags::IF;
    }
}

fn protected(sys: &mut Sys<'_>, entry: Entry) -> Fault {
    let gate = read_gate(sys, &entry, 8)?;
    let gate_kind = gate.system().unwrap_or(0);
    if gate_kind == kind::TASK_GATE {
        return task_gate(sys, &gate, entry);
    }
    let size = if matches!(gate_kind, kind::INT32 | kind::TRAP32) {
        4
    } else {
        2
    };
    let sel = gate.gate_selector();
    let (mut cs, level) = handler_cs(sys, sel)?;
    let cpl = sys.state.cpl();
    let v86 = sys.v86();
    if v86 && level != 0 {
        return Err(Exception::gp(code_of(sel)));
    }
    let offset = gate.gate_offset() & mask(size);
    let old = sys.state.seg;
    let old_sp = sys.state.gpr[4];
    let (mut stack, ss) = if level < cpl {
        let (ss, sp) = inner_stack(sys, level)?;
        let ss = seg::stack_segment(sys, ss, level, Vector::Ts)?;
        let mut stack = Stack::switched(ss, sp, false, level);
        seg::check_target(sys, &cs, offset)?;
        if v86 {
            for s in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                stack.push(sys, size, u64::from(old[s as usize].sel))?;
            }
        }
        stack.push(sys, size, u64::from(old[Seg::Ss as usize].sel))?;
        stack.push(sys, size, old_sp)?;
        (stack, Some(ss))
    } else {
        seg::check_target(sys, &cs, offset)?;
        (Stack::current(sys), None)
    };
    stack.push(sys, size, entry.flags)?;
    stack.push(sys, size, u64::from(old[Seg::Cs as usize].sel))?;
    stack.push(sys, size, entry.rip)?;
    if let Some(code) = entry.code {
        stack.push(sys, size, u64::from(code))?;
    }

    seg::load_cs(sys, sel, &mut cs, level)?;
    if let Some(ss) = ss {
        sys.state.seg[Seg::Ss as usize] = ss;
    }
    if v86 {
        for s in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
            sys.state.seg[s as usize] = seg::null(0, 0);
        }
    }
    stack.commit(sys);
    sys.state.rip = offset;
    enter_flags(sys, gate_kind);
    Ok(())
}

fn task_gate(sys: &mut Sys<'_>, gate: &Descriptor, entry: Entry) -> Fault {
    let sel = gate.gate_selector();
    let tss = task::available_tss(sys, sel)?;
    task::switch(sys, sel, tss, Source::Call, entry.rip, entry.flags)?;
    if let Some(code) = entry.code {
        let size = if super::table::is_tss16(sys) { 2 } else { 4 };
        let mut stack = Stack::current(sys).at_level(sys.state.cpl());
        stack.push(sys, size, u64::from(code))?;
        stack.commit(sys);
    }
    task::check_rip(sys)
}

fn long(sys: &mut Sys<'_>, entry: Entry) -> Fault {
    let gate = read_gate(sys, &entry, 16)?;
    let sel = gate.gate_selector();
    let (mut cs, level) = handler_cs(sys, sel)?;
    let cpl = sys.state.cpl();
    let offset = gate.gate_offset();
    let ist = gate.gate_count() & 7;
    let old_ss = sys.state.seg[Seg::Ss as usize];
    let old_cs = sys.state.seg[Seg::Cs as usize].sel;
    let old_rsp = sys.state.gpr[4];
    let rsp = if ist != 0 {
        ist_rsp(sys, ist)?
    } else if level < cpl {
        inner_rsp(sys, level)?
    } else if sys.state.code64() {
        old_rsp
    } else {
        // From compatibility mode the stack pointer is what its code could see of it.
        old_rsp & mask(Stack::current(sys).width())
    };
    let ss = if level < cpl {
        seg::null(u16::from(level), level)
    } else {
        SegReg {
            attr: old_ss.attr & !attr::DPL | u32::from(level) << attr::DPL_SHIFT,
            ..old_ss
        }
    };
    seg::check_target(sys, &cs, offset)?;
    let mut stack = Stack::switched(ss, rsp & !0xf, true, level);
    stack.push(sys, 8, u64::from(old_ss.sel))?;
    stack.push(sys, 8, old_rsp)?;
    stack.push(sys, 8, entry.flags)?;
    stack.push(sys, 8, u64::from(old_cs))?;
    stack.push(sys, 8, entry.rip)?;
    if let Some(code) = entry.code {
        stack.push(sys, 8, u64::from(code))?;
    }

    seg::load_cs(sys, sel, &mut cs, level)?;
    sys.state.seg[Seg::Ss as usize] = ss;
    stack.commit(sys);
    sys.state.rip = offset;
    enter_flags(sys, gate.system().unwrap_or(0));
    Ok(())
}
