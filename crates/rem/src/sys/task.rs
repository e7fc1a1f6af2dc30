//! Hardware task switches (SDM vol. 3, chapter 8).

use cpu::bits::{cr0, rflags};
use cpu::{Exception, Fault, Seg, Vector};

use super::seg::{self, Descriptor, code_of, kind, raise};
use super::{As, Flush, Sys, walk};

/// What switches to another task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// JMP.
    Jump,
    /// CALL, exception or interrupt: the new task is nested in the old one.
    Call,
    /// IRET with NT set.
    Iret,
}

/// Offsets in a TSS.
struct Layout {
    /// Bytes of most fields.
    unit: u64,
    ip: u64,
    flags: u64,
    /// First of eight.
    gpr: u64,
    /// First of `segs`.
    seg: u64,
    segs: usize,
    ldt: u64,
    /// Smallest valid limit.
    limit: u32,
}

const TSS16: Layout = Layout {
    unit: 2,
    ip: 0x0e,
    flags: 0x10,
    gpr: 0x12,
    seg: 0x22,
    segs: 4,
    ldt: 0x2a,
    limit: 0x2b,
};

const TSS32: Layout = Layout {
    unit: 4,
    ip: 0x20,
    flags: 0x24,
    gpr: 0x28,
    seg: 0x48,
    segs: 6,
    ldt: 0x60,
    limit: 0x67,
};

const CR3: u64 = 0x1c;
const TRAP: u64 = 0x64;

fn layout(kind: u32) -> &'static Layout {
    if matches!(kind, kind::TSS16 | kind::TSS16_BUSY) {
        &TSS16
    } else {
        &TSS32
    }
}

/// The available TSS a task gate names.
///
/// # Errors
/// #GP, #NP with the selector.
pub(super) fn available_tss(sys: &mut Sys<'_>, sel: u16) -> Fault<Descriptor> {
    if sel & !3 == 0 || sel & 4 != 0 {
        return Err(Exception::gp(code_of(sel)));
    }
    let d = seg::fetch(sys, sel, Vector::Gp)?;
    if !matches!(d.system(), Some(kind::TSS16 | kind::TSS32)) {
        return Err(Exception::gp(code_of(sel)));
    }
    if !d.present() {
        return Err(Exception::np(code_of(sel)));
    }
    Ok(d)
}

/// IRET with NT set: back to the task that the current one is nested in.
///
/// # Errors
/// #TS, #NP, #PF.
pub(super) fn return_from_nested(sys: &mut Sys<'_>, next_rip: u64) -> Fault {
    let sel = super::table::tss_read(sys, 0, 2)? as u16;
    if sel & !3 == 0 || sel & 4 != 0 {
        return Err(Exception::ts(code_of(sel)));
    }
    let d = seg::fetch(sys, sel, Vector::Ts)?;
    if !matches!(d.system(), Some(kind::TSS16_BUSY | kind::TSS32_BUSY)) {
        return Err(Exception::ts(code_of(sel)));
    }
    if !d.present() {
        return Err(Exception::np(code_of(sel)));
    }
    let flags = sys.state.rflags & !rflags::NT;
    switch(sys, sel, d, Source::Iret, next_rip, flags)?;
    check_rip(sys)
}

/// Saves the current task, with `rip` and `flags` to resume it at, and loads the one of `sel`.
/// Faults before the switch leave everything as it was; those after it are the new task's.
///
/// # Errors
/// #TS, #NP, #SS, #PF; #DB when the new task asks for it.
pub(super) fn switch(
    sys: &mut Sys<'_>,
    sel: u16,
    mut new: Descriptor,
    source: Source,
    rip: u64,
    flags: u64,
) -> Fault {
    let to = layout(new.system().unwrap_or(0));
    let old_tr = sys.state.tr;
    let from = layout(old_tr.attr & 0xf);
    if new.limit() < to.limit || old_tr.limit < from.limit {
        let bad = if new.limit() < to.limit {
            sel
        } else {
            old_tr.sel
        };
        return Err(Exception::ts(code_of(bad)));
    }

    // Everything that may fault in the old task comes first.
    let mut image = [0; 0x68];
    let image = &mut image[..to.limit as usize + 1];
    sys.mem.read(new.base(), image, As::System)?;
    sys.mem
        .probe_write(old_tr.base, from.limit as usize + 1, As::System)?;
    if source == Source::Call {
        sys.mem.probe_write(new.base(), 2, As::System)?;
    }
    let load_cr3 = to.unit == 4 && sys.state.cr0 & cr0::PG != 0;
    let new_cr3 = field(image, CR3, 4);
    let pdptes = load_cr3 && walk::uses_pdptes(sys.state.cr0, sys.state.cr4, sys.state.efer);
    let pdptes = if pdptes {
        let read = walk::read_pdptes(sys.mem.phys(), new_cr3);
        Some(read.map_err(|_| Exception::ts(code_of(sel)))?)
    } else {
        None
    };

    if source != Source::Call {
        let mut old = seg::fetch(sys, old_tr.sel, Vector::Ts)?;
        seg::set_busy(sys, &mut old, false)?;
    }
    save(sys, from, old_tr.base, rip, flags)?;
    if source == Source::Call {
        sys.mem
            .write_u(new.base(), 2, u64::from(old_tr.sel), As::System)?;
    }
    if source != Source::Iret {
        seg::set_busy(sys, &mut new, true)?;
    }

    sys.state.tr = new.load(sel);
    sys.state.cr0 |= cr0::TS;
    sys.state.dr[7] &= !super::control::dr7::LOCAL;
    if load_cr3 {
        sys.state.cr3 = new_cr3;
        if let Some(pdptes) = pdptes {
            sys.state.pdpte = pdptes;
        }
        sys.flush = sys.flush.merge(Flush::NonGlobal);
    }
    load(sys, to, image, source)?;
    if to.unit == 4 && field(image, TRAP, 1) & 1 != 0 {
        return Err(Exception {
            address: super::control::dr6::BT,
            ..Exception::new(Vector::Db)
        });
    }
    Ok(())
}

fn field(image: &[u8], offset: u64, size: usize) -> u64 {
    let mut b = [0; 8];
    let at = offset as usize;
    if let Some(bytes) = image.get(at..at + size) {
        b[..size].copy_from_slice(bytes);
    }
    u64::from_le_bytes(b)
}

fn save(sys: &mut Sys<'_>, to: &Layout, base: u64, rip: u64, flags: u64) -> Fault {
    let unit = to.unit as usize;
    let put = |sys: &mut Sys<'_>, offset: u64, size: usize, value: u64| {
        let at = sys.wrap(base.wrapping_add(offset));
        sys.mem.write_u(at, size, value, As::System)
    };
    put(sys, to.ip, unit, rip)?;
    put(sys, to.flags, unit, flags)?;
    for i in 0..8 {
        let value = sys.state.gpr[i];
        put(sys, to.gpr + i as u64 * to.unit, unit, value)?;
    }
    for i in 0..to.segs {
        let sel = u64::from(sys.state.seg[i].sel);
        put(sys, to.seg + i as u64 * to.unit, 2, sel)?;
    }
    Ok(())
}

fn load(sys: &mut Sys<'_>, from: &Layout, image: &[u8], source: Source) -> Fault {
    let unit = from.unit as usize;
    sys.state.rip = field(image, from.ip, unit);
    let mut flags = field(image, from.flags, unit) & rflags::ALL | rflags::FIXED;
    if source == Source::Call {
        flags |= rflags::NT;
    }
    sys.state.rflags = flags;
    for i in 0..8 {
        sys.state.gpr[i] = field(image, from.gpr + i as u64 * from.unit, unit);
    }
    let mut sels = [0; 6];
    for (i, sel) in sels.iter_mut().enumerate().take(from.segs) {
        *sel = field(image, from.seg + i as u64 * from.unit, 2) as u16;
    }
    let ldt = field(image, from.ldt, 2) as u16;

    // Selectors are in place before their descriptors are looked at.
    let v86 = flags & rflags::VM != 0;
    let cpl = if v86 {
        3
    } else {
        sels[Seg::Cs as usize] as u8 & 3
    };
    for (reg, sel) in sys.state.seg.iter_mut().zip(sels) {
        *reg = if v86 {
            seg::v86(sel)
        } else {
            seg::null(sel, cpl)
        };
    }
    sys.state.ldtr = seg::null(ldt, 0);
    sys.mem.context_changed(sys.state);
    seg::load_ldt(sys, ldt, Vector::Ts)?;
    if v86 {
        return Ok(());
    }
    let cs = sels[Seg::Cs as usize];
    code_segment(sys, cs, cpl)?;
    let ss = seg::stack_segment(sys, sels[Seg::Ss as usize], cpl, Vector::Ts)?;
    sys.state.seg[Seg::Ss as usize] = ss;
    for s in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
        let reg = seg::data_segment(sys, sels[s as usize], cpl, Vector::Ts)?;
        sys.state.seg[s as usize] = reg;
    }
    Ok(())
}

fn code_segment(sys: &mut Sys<'_>, sel: u16, cpl: u8) -> Fault {
    let bad = raise(Vector::Ts, code_of(sel));
    if sel & !3 == 0 {
        return Err(bad);
    }
    let mut d = seg::fetch(sys, sel, Vector::Ts)?;
    let privileged = if d.is_conforming() {
        d.dpl() <= cpl
    } else {
        d.dpl() == cpl
    };
    if !d.is_code() || !privileged {
        return Err(bad);
    }
    if !d.present() {
        return Err(Exception::np(code_of(sel)));
    }
    seg::load_cs(sys, sel, &mut d, cpl)
}

/// The last check of a switch: the new task's first instruction is inside its code segment.
///
/// # Errors
/// #GP(0).
pub(super) fn check_rip(sys: &Sys<'_>) -> Fault {
    if sys.state.rip <= u64::from(sys.state.seg[Seg::Cs as usize].limit) {
        Ok(())
    } else {
        Err(Exception::gp(0))
    }
}
