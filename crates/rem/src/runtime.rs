//! Calls from translated code.

use cpu::{Exception, Fault, Vector};
use iced_x86::Mnemonic;

use crate::core::Core;
use crate::ctx::{Call, Class, Ctx, WINDOW_TABLE};
use crate::site::{Action, Mark, Mask, Range, Site};
use crate::sys::{self, Flow};
use crate::tlb::Place;
use crate::translate::Variant;
use crate::{fpu, thunks, vector};

/// Entry from the thunks: handles call `kind`, returns the host address to go on at.
#[allow(unsafe_code)]
pub extern "C" fn helper(ctx: *mut Ctx, kind: u32) -> u64 {
    // SAFETY: the thunk passes the context GS points at, which `Rem::run` owns exclusively while
    // translated code runs; its `core` belongs to the same engine and is a separate allocation.
    let (ctx, core) = unsafe { (&mut *ctx, &mut *(*ctx).core) };
    core.stats.calls[kind as usize & 7] += 1;
    let state = &mut ctx.state;
    state.rflags = state.rflags & !cpu::bits::rflags::ARITH | ctx.hflags & cpu::bits::rflags::ARITH;
    core.adopt(ctx);
    match kind {
        k if k == Call::Mem as u32 => memory(ctx, core),
        k if k == Call::Seg as u32 => segment(ctx, core),
        k if k == Call::Store as u32 => stored(ctx, core),
        k if k == Call::Exec as u32 => exec(ctx, core),
        k if k == Call::Link as u32 => link(ctx, core),
        k if k == Call::Jump as u32 => jump(ctx, core),
        k if k == Call::Poll as u32 => {
            ctx.state.rip = core.blocks.rip(ctx.arg);
            core.recheck(ctx, ctx.arg);
            core.dispatch(ctx)
        }
        _ => host_fault(ctx, core),
    }
}

/// The arithmetic flags that are parked, if they are, become the guest's.
fn take_parked_flags(ctx: &mut Ctx, parked: bool) {
    if parked {
        let saved = ctx.flagsave;
        let low = saved >> 8 & 0xff;
        let of = (saved & 1) << 11;
        let arith = cpu::bits::rflags::ARITH;
        ctx.state.rflags = ctx.state.rflags & !arith | (low | of) & arith;
    }
}

fn fault(ctx: &mut Ctx, core: &mut Core, site: &Site, e: Exception) -> u64 {
    take_parked_flags(ctx, site.parked);
    if site.waits && fpu::pending() {
        return unmasked(ctx, core, site.rip);
    }
    core.raise(ctx, e, site.rip);
    core.dispatch(ctx)
}

fn memory(ctx: &mut Ctx, core: &mut Core) -> u64 {
    let site = core.blocks.site(ctx.arg);
    if let Some(range) = site.cluster {
        return match cluster(ctx, core, &site, range) {
            Ok(Some(host)) => host,
            Ok(None) => split(ctx, core, &site, range),
            Err(e) => fault(ctx, core, &site, e),
        };
    }
    match access(ctx, core, &site) {
        Ok(Some(host)) => host,
        // Once more, in a block that knows nothing of memory yet.
        Ok(None) => {
            core.together();
            take_parked_flags(ctx, site.parked);
            ctx.state.rip = site.rip;
            core.dispatch(ctx)
        }
        Err(e) => fault(ctx, core, &site, e),
    }
}

/// Makes all accesses of a cluster, which starts at T0, possible at once. `None`: they are not.
fn cluster(ctx: &mut Ctx, core: &mut Core, site: &Site, range: Range) -> Fault<Option<u64>> {
    let (start, span) = (ctx.t0, u64::from(range.span));
    let class = core.mode.class();
    let linear = start.wrapping_add(range.first.into());
    if core.mmu.watches.data
        || site.aligned && linear & (u64::from(site.size) - 1) != 0
        || start & 0xfff > 0x1000 - span
        || core.mode.code64() && !sys::canonical(start)
    {
        return Ok(None);
    }
    // Only what the instruction itself does may mark the page dirty.
    let Place::Ram(offset) = core.mmu.resolve(&mut ctx.tlb, linear, class, site.write)? else {
        return Ok(None);
    };
    let offset = offset - u64::from(range.first);
    let writable = if site.write {
        !reports(core, offset, span)
    } else {
        !range.write || core.mmu.has(&ctx.tlb, linear, class, true)
    };
    if !writable {
        return Ok(None);
    }
    ctx.t0 = core.mmu.ram().base() as u64 + offset;
    Ok(Some(core.blocks.cache.address(site.resume)))
}

/// Goes on in a translation without clusters, from the site's instruction on.
fn split(ctx: &mut Ctx, core: &mut Core, site: &Site, range: Range) -> u64 {
    let generation = core.blocks.generation;
    take_parked_flags(ctx, site.parked);
    ctx.state.rip = site.rip;
    match core.find(ctx, site.rip, Variant::Split) {
        Ok(Some(block)) => {
            ctx.hflags = ctx.state.rflags;
            if core.blocks.generation == generation {
                core.blocks.wire(ctx, range.link, block, core.global);
            }
            core.blocks.entry(block, false)
        }
        Ok(None) => core.dispatch(ctx),
        Err(e) => {
            core.raise(ctx, e, site.rip);
            core.dispatch(ctx)
        }
    }
}

/// Makes the access at T0 possible: directly, or through the bounce buffer. `None`: not now.
fn access(ctx: &mut Ctx, core: &mut Core, site: &Site) -> Fault<Option<u64>> {
    let linear = ctx.t0;
    let size = u64::from(site.size);
    let class = core.mode.class();
    let long = core.mode.code64();
    // A mask without a bit keeps this away, too.
    let any = site
        .mask
        .is_none_or(|mask| selected(ctx, mask, site.size) != 0);
    if site.aligned && any && linear & (size - 1) != 0 {
        return Err(Exception::gp(0));
    }
    if !reachable(core, site, linear, size) && site.mask.is_none() {
        return Err(refused(site));
    }
    if core.mode.aligned() && misaligned(linear, size) {
        return Err(Exception::new(Vector::Ac));
    }
    if core.mmu.watches.data {
        let hits = core.mmu.watches.hits(linear, size, site.write);
        if hits != 0 && !core.mode.one() {
            // Once more, in a block that ends with the instruction.
            core.single = true;
            return Ok(None);
        }
        core.debug |= hits;
    }
    let room = 0x1000 - (linear & 0xfff);
    core.bounce.clear();
    if site.write && !core.blocks.has_room_for_bounce() {
        core.forget_all(ctx);
        return Ok(None);
    }
    if let Some(mask) = site.mask {
        if let Some(host) = masked(ctx, core, site, mask)? {
            return Ok(Some(host));
        }
    } else if size <= room {
        let place = core.mmu.resolve(&mut ctx.tlb, linear, class, site.write)?;
        if let Place::Ram(offset) = place {
            ctx.t0 = core.mmu.ram().base() as u64 + offset;
            if !site.write || !reports(core, offset, size) {
                if site.write {
                    core.written_beside(ctx, offset, site.rip);
                }
                return Ok(Some(core.blocks.cache.address(site.resume)));
            }
            // Written where it is, so that a locked instruction is one towards other vCPUs.
            core.bounce.push((place, size as usize));
            core.in_place = true;
            return Ok(Some(bounce_code(ctx, core)));
        }
        core.bounce.push((place, size as usize));
    } else {
        let next = linear.wrapping_add(room);
        let next = if long { next } else { next & 0xffff_ffff };
        let first = resolve(ctx, core, linear, class, site.write)?;
        let second = resolve(ctx, core, next, class, site.write)?;
        core.bounce.push((first, room as usize));
        core.bounce.push((second, (size - room) as usize));
    }
    if site.locked && core.peers.several() && core.alone(ctx) {
        return Ok(None);
    }
    // Same alignment as the guest's address, so that alignment faults stay what they are.
    let shift = (linear & 63) as usize;
    // FIST and FST with an unmasked exception store nothing: what is there is written back then.
    let mut at = shift;
    for (place, len) in &core.bounce {
        if site.read || matches!(place, Place::Ram(_)) {
            core.mmu.read_place(place, &mut ctx.bounce.0[at..at + len]);
        }
        at += len;
    }
    ctx.t0 = &raw const ctx.bounce as u64 + shift as u64;
    ctx.tmp[3] = shift as u64;
    if !site.write {
        return Ok(Some(core.blocks.cache.address(site.resume)));
    }
    Ok(Some(bounce_code(ctx, core)))
}

/// Finds the places of the bytes that a mask selects; the others may be anywhere. Gives where to go
/// on when the whole access can be made in memory.
fn masked(ctx: &mut Ctx, core: &mut Core, site: &Site, mask: Mask) -> Fault<Option<u64>> {
    let (linear, class) = (ctx.t0, core.mode.class());
    let selected = selected(ctx, mask, site.size);
    let element = usize::from(mask.element.max(1));
    let wanted = |byte: usize| selected >> (byte / element) & 1 != 0;
    let size = usize::from(site.size);
    let mut start = 0;
    while start < size {
        let here = linear.wrapping_add(start as u64);
        let in_page = (0x1000 - (here & 0xfff)) as usize;
        let mut end = start + 1;
        while end < size && wanted(end) == wanted(start) && end - start < in_page {
            end += 1;
        }
        let place = if wanted(start) {
            // Elements are refused as a whole, wherever pages end.
            let first = start / element * element;
            let whole = end.next_multiple_of(element) - first;
            if !reachable(core, site, linear.wrapping_add(first as u64), whole as u64) {
                return Err(refused(site));
            }
            let here = if core.mode.code64() {
                here
            } else {
                here & 0xffff_ffff
            };
            resolve(ctx, core, here, class, site.write)?
        } else {
            Place::Nothing
        };
        core.bounce.push((place, end - start));
        start = end;
    }
    // All of it on one page of memory?
    if let [(Place::Ram(offset), _)] = core.bounce[..]
        && !(site.write && reports(core, offset, size as u64))
    {
        ctx.t0 = core.mmu.ram().base() as u64 + offset;
        return Ok(Some(core.blocks.cache.address(site.resume)));
    }
    Ok(None)
}

/// The elements of an operand of `size` bytes that a mask selects, as bits from the first on.
fn selected(ctx: &Ctx, mask: Mask, size: u8) -> u64 {
    let at = usize::from(mask.register & 7) * 8;
    let mut k = [0; 8];
    k.copy_from_slice(&ctx.state.upper.opmask[at..at + 8]);
    let bits = u32::from(mask.bits.clamp(1, 64));
    let mut k = u64::from_le_bytes(k) & u64::MAX >> (64 - bits);
    if mask.packed {
        return u64::MAX.checked_shr(64 - k.count_ones()).unwrap_or(0);
    }
    let elements = u32::from((size / mask.element.max(1)).max(1));
    let mut left = bits;
    while left > elements {
        left -= elements;
        k |= k >> elements;
    }
    k & u64::MAX >> (64 - elements.min(64))
}

/// Whether addresses are canonical, or inside a flat segment, which ends where linear memory does.
fn reachable(core: &Core, site: &Site, linear: u64, size: u64) -> bool {
    if core.mode.code64() {
        sys::canonical(linear) && sys::canonical(linear.wrapping_add(size - 1))
    } else {
        !core.mode.flat(site.seg.into()) || linear + size <= 1 << 32
    }
}

/// What an access raises that is not.
fn refused(site: &Site) -> Exception {
    if site.seg == 2 {
        Exception::ss(0)
    } else {
        Exception::gp(0)
    }
}

/// Whether a write to memory has to be reported when it is done.
fn reports(core: &Core, offset: u64, size: u64) -> bool {
    let users = core.mmu.give(offset) & pgm::PageFlags::CODE;
    users & !pgm::PageFlags::code(core.cpu) != 0 || users != 0 && core.blocks.covers(offset, size)
}

fn resolve(ctx: &mut Ctx, core: &mut Core, linear: u64, class: Class, write: bool) -> Fault<Place> {
    core.mmu.resolve(&mut ctx.tlb, linear, class, write)
}

/// The copy of a store's code that reports back when the store is done.
fn bounce_code(ctx: &Ctx, core: &mut Core) -> u64 {
    core.blocks.bounce(ctx.arg).unwrap_or_else(|| {
        core.exit = Some(cpu::Exit::Fatal("code cache is full".into()));
        thunks::exit_address()
    })
}

fn stored(ctx: &mut Ctx, core: &mut Core) -> u64 {
    let site = core.blocks.site(ctx.arg);
    let mut at = ctx.tmp[3] as usize & 63;
    for (place, len) in std::mem::take(&mut core.bounce) {
        match place {
            Place::Ram(offset) if core.in_place => core.mmu.written(offset, len),
            _ => core.mmu.write_place(&place, &ctx.bounce.0[at..at + len]),
        }
        at += len;
    }
    core.in_place = false;
    core.together();
    let attended = core.attend_memory(ctx);
    ctx.state.rip = site.rip;
    if (core.forget_written(ctx) || attended) && !site.last {
        // The rest of the block, or what it knows of memory, may be stale.
        take_parked_flags(ctx, site.parked_after);
        ctx.state.rip = site.rip.wrapping_add(site.len.into()) & core.mode.ip_mask();
        return core.dispatch(ctx);
    }
    core.blocks.cache.address(site.done)
}

fn segment(ctx: &mut Ctx, core: &mut Core) -> u64 {
    let site = core.blocks.site(ctx.arg);
    let offset = ctx.t0;
    let seg = cpu::Seg::ALL[usize::from(site.seg) % 6];
    let size = usize::from(site.size);
    match core.with_sys(ctx, |sys| sys.linear_at(seg, offset, size, site.write)) {
        Ok(linear) => {
            ctx.t0 = linear;
            core.blocks.cache.address(site.probe)
        }
        Err(_)
            if site
                .mask
                .is_some_and(|m| inside(ctx, core, &site, m, offset)) =>
        {
            let base = ctx.state.seg[seg as usize].base;
            ctx.t0 = base.wrapping_add(offset) & 0xffff_ffff;
            core.blocks.cache.address(site.probe)
        }
        Err(e) => {
            // Alignment is looked at before the limit.
            let linear = ctx.state.seg[seg as usize].base.wrapping_add(offset);
            let e = if site.aligned && linear & (size as u64 - 1) != 0 {
                Exception::gp(0)
            } else {
                e
            };
            fault(ctx, core, &site, e)
        }
    }
}

/// Whether the elements that a mask selects are inside the segment.
fn inside(ctx: &mut Ctx, core: &mut Core, site: &Site, mask: Mask, offset: u64) -> bool {
    let seg = cpu::Seg::ALL[usize::from(site.seg) % 6];
    let selected = selected(ctx, mask, site.size);
    let size = usize::from(site.size);
    let element = usize::from(mask.element.max(1));
    core.with_sys(ctx, |sys| {
        (0..size.div_ceil(element))
            .filter(|i| selected >> i & 1 != 0)
            .all(|i| {
                let at = offset.wrapping_add((i * element) as u64);
                sys.linear_at(seg, at, element, site.write).is_ok()
            })
    })
}

fn exec(ctx: &mut Ctx, core: &mut Core) -> u64 {
    let e = core.blocks.exec(ctx.arg);
    ctx.state.rip = e.rip;
    take_parked_flags(ctx, e.parked);
    if let Action::Execute(insn) = &e.action {
        core.stats.helped[insn.code() as usize] += 1;
    }
    let live = ctx.state.upper.live;
    let result = match e.action {
        Action::Raise(exception) => Err(exception),
        Action::Pause(len) => {
            core.pause();
            ctx.state.rip = e.rip.wrapping_add(len.into()) & core.mode.ip_mask();
            Ok(Flow::Next)
        }
        Action::TakeUpper => {
            ctx.state.upper.live = 1;
            Ok(Flow::Jump)
        }
        Action::Execute(insn) => core.with_sys(ctx, |sys| sys::execute(sys, &insn)),
        Action::ExecuteVector(insn) => vector::execute(ctx, core, &insn).map(|()| {
            ctx.state.rip = insn.next_ip() & core.mode.ip_mask();
            Flow::Next
        }),
        Action::ExecuteFpu(insn) => {
            fpu::save(ctx);
            let r = core.with_sys(ctx, |sys| sys::execute(sys, &insn));
            fpu::load(ctx);
            r
        }
    };
    if let (Ok(flow @ (Flow::Next | Flow::Jump)), Action::Execute(insn)) = (&result, &e.action) {
        core.keep_descriptor(ctx, insn, *flow == Flow::Jump);
    }
    match result {
        Ok(Flow::Next)
            if e.resume != 0
                && *ctx.poll.get_mut() == 0
                && core.debug | core.mmu.hits == 0
                && ctx.state.upper.live == live
                && (!e.same_mode || core.stays(ctx)) =>
        {
            ctx.hflags = ctx.state.rflags;
            return core.blocks.cache.address(e.resume);
        }
        // Not executed yet: no single-step trap either.
        Ok(Flow::Jump) if matches!(e.action, Action::TakeUpper) => core.step = false,
        Ok(Flow::Jump) if software_interrupt(&e.action) => {
            core.step = false;
            return core.go_on(ctx);
        }
        // SYSCALL traps by what it leaves of TF.
        Ok(Flow::Jump) if is(&e.action, |m| m == Mnemonic::Syscall) => {
            core.step &= ctx.state.rflags & cpu::bits::rflags::TF != 0;
            core.open_gate(ctx, 0);
        }
        Ok(Flow::Jump) if is(&e.action, |m| m == Mnemonic::Sysretq) => core.open_gate(ctx, 1),
        Ok(Flow::Jump) if is(&e.action, |m| m == Mnemonic::Rsm) => core.blocks.close_gates(ctx),
        Ok(Flow::Next) if is(&e.action, |m| m == Mnemonic::Wrmsr) => {
            let index = ctx.state.gpr[1] as u32;
            core.msr_written(ctx, index);
        }
        Ok(Flow::Next) if loads_ss(&e.action) => core.inhibit = true,
        Ok(Flow::Jump) if live == ctx.state.upper.live => return core.go_on(ctx),
        Ok(Flow::Next | Flow::Jump | Flow::Halt) => {}
        // Not finished: no single-step trap yet.
        Ok(Flow::Repeat) => {}
        Ok(Flow::Shutdown) => core.exit = Some(cpu::Exit::TripleFault),
        Err(exception) => {
            // After a task switch the fault belongs to the new task.
            let rip = ctx.state.rip;
            core.raise(ctx, exception, rip);
        }
    }
    core.dispatch(ctx)
}

/// Whether an access of `size` bytes has to be aligned and is not (SDM vol. 3, table 6-7; the
/// 10-byte floating-point format counts as 8).
fn misaligned(linear: u64, size: u64) -> bool {
    let to = if size == 10 { 8 } else { size };
    matches!(to, 2 | 4 | 8) && linear & (to - 1) != 0
}

fn is(action: &Action, what: impl Fn(Mnemonic) -> bool) -> bool {
    matches!(action, Action::Execute(i) if what(i.mnemonic()))
}

/// MOV and POP to SS hold traps off.
fn loads_ss(action: &Action) -> bool {
    matches!(action, Action::Execute(i) if i.op0_register() == iced_x86::Register::SS
        && matches!(i.mnemonic(), Mnemonic::Mov | Mnemonic::Pop))
}

/// INT n and the like clear TF on their way: no single-step trap follows.
fn software_interrupt(action: &Action) -> bool {
    use Mnemonic as M;
    is(action, |m| {
        matches!(m, M::Int | M::Int1 | M::Int3 | M::Into)
    })
}

fn link(ctx: &mut Ctx, core: &mut Core) -> u64 {
    let id = core.blocks.link_number(ctx.arg);
    let link = core.blocks.link(id);
    let target = link.target;
    take_parked_flags(ctx, link.parked);
    ctx.state.rip = target;
    if core.mode.one() || core.breaks(target) {
        return core.dispatch(ctx);
    }
    let generation = core.blocks.generation;
    match core.find(ctx, target, link.variant) {
        // A flush while translating took the link away.
        Ok(Some(block)) if core.blocks.generation == generation => {
            ctx.hflags = ctx.state.rflags;
            core.blocks.wire(ctx, id, block, core.global)
        }
        Ok(_) => core.dispatch(ctx),
        Err(e) => {
            core.raise(ctx, e, target);
            core.dispatch(ctx)
        }
    }
}

fn jump(ctx: &mut Ctx, core: &mut Core) -> u64 {
    let target = ctx.t0;
    take_parked_flags(ctx, true);
    if !core.mode.can_reach(target) {
        // The jump itself faults: as if it had touched neither stack nor stack pointer.
        let from = core.blocks.exec(ctx.arg);
        let sp = ctx.state.gpr[4].wrapping_add(from.undo as u64);
        let mask = u64::MAX >> (64 - 8 * core.mode.stack_bytes());
        if let Ok(size @ 1..=8) = usize::try_from(from.undo) {
            let (at, old) = (ctx.state.gpr[4] & mask, ctx.tmp[4]);
            // It was written a moment ago.
            let _ = core.with_sys(ctx, |sys| {
                let at = sys.linear_at(cpu::Seg::Ss, at, size, true)?;
                sys.mem.write_u(at, size, old, sys::As::Current)
            });
        }
        ctx.state.gpr[4] = match core.mode.stack_bytes() {
            2 => ctx.state.gpr[4] & !mask | sp & mask,
            _ => sp & mask,
        };
        core.raise(ctx, Exception::gp(0), from.rip);
        return core.dispatch(ctx);
    }
    ctx.state.rip = target;
    if core.mode.one() || *ctx.poll.get_mut() != 0 || core.breaks(target) {
        return core.dispatch(ctx);
    }
    match core.block_at(ctx, target) {
        Ok(Some(block)) => {
            ctx.hflags = ctx.state.rflags;
            let table = core.jc_table;
            let global = core.global;
            core.blocks.add_indirect(ctx, table, target, block, global);
            core.blocks.entry(block, true)
        }
        Ok(None) => core.dispatch(ctx),
        Err(e) => {
            core.raise(ctx, e, target);
            core.dispatch(ctx)
        }
    }
}

/// The instruction at `rip` waits for an unmasked x87 exception.
fn unmasked(ctx: &mut Ctx, core: &mut Core, rip: u64) -> u64 {
    if ctx.state.cr0 & cpu::bits::cr0::NE == 0 {
        // The external way: FERR# raises IRQ 13 and the instruction waits for it.
        core.bus.ferr(core.cpu);
        ctx.state.rip = rip;
    } else {
        core.raise(ctx, Exception::new(Vector::Mf), rip);
    }
    core.dispatch(ctx)
}

/// A signal inside translated code: the guest's instruction faulted on the host.
fn host_fault(ctx: &mut Ctx, core: &mut Core) -> u64 {
    let (host, trap) = (ctx.fault.rip, ctx.fault.trap);
    let found = core.blocks.cache.offset(host);
    if let Some(at) = found
        && core.mode.window()
        && !core.mode.one()
        && matches!(trap, 13 | 14)
        && let Some(host) = window_fault(ctx, core, at)
    {
        return host;
    }
    let Some((rip, parked)) = found.and_then(|at| {
        core.blocks
            .guest_rip(at)
            .or_else(|| core.blocks.bounced_rip(at))
    }) else {
        core.exit = Some(cpu::Exit::Fatal(format!(
            "host trap {trap} at {host:#x} outside of guest code"
        )));
        return thunks::exit_address();
    };
    take_parked_flags(ctx, parked);
    let e = match trap {
        0 => Exception::new(Vector::De),
        6 => Exception::ud(),
        16 => return unmasked(ctx, core, rip),
        17 => Exception {
            vector: Vector::Ac,
            code: 0,
            address: 0,
        },
        19 => Exception::new(Vector::Xm),
        _ => Exception::gp(0),
    };
    core.raise(ctx, e, rip);
    core.dispatch(ctx)
}

/// A fault of code that uses the window, at cache offset `at`: the page is to be shown, or the
/// access was elsewhere. `None`: it has nothing to do with the window.
fn window_fault(ctx: &mut Ctx, core: &mut Core, at: u32) -> Option<u64> {
    let (rip, parked) = core.blocks.guest_rip(at)?;
    let address = ctx.fault.address;
    if ctx.fault.trap == 14
        && let Some(slot) = strayed(ctx, address)
    {
        // The block is made again, and does not look there.
        core.stats.strays += 1;
        let offset = core.blocks.drop_at(ctx, at, rip)?;
        core.reaches.stray(offset, slot);
        return Some(again(ctx, core, rip, parked));
    }
    let window = core.mmu.window.as_ref()?;
    if ctx.fault.trap == 14
        && let Some(linear) = window.linear(address)
        // An access over the end of the address space faults otherwise.
        && linear < (1 << if core.mode.code64() { 47 } else { 32 }) - 64
    {
        let write = ctx.fault.code & 2 != 0 || core.blocks.mark_at(at) == Some(Mark::Write);
        match core.mmu.show(linear, write) {
            Ok(true) => return Some(core.blocks.cache.address(at)),
            Ok(false) => {}
            Err(e) => {
                leave_run(ctx, core, at);
                take_parked_flags(ctx, parked);
                core.missing = Some((ctx.state.cr3, rip, linear));
                core.raise(ctx, e, rip);
                return Some(core.dispatch(ctx));
            }
        }
    }
    leave_run(ctx, core, at);
    let offset = core.blocks.ram_offset(at, rip)?;
    if core.reaches.unshown(offset) {
        core.blocks.drop_at(ctx, at, rip);
    }
    // Once more with probes, which know what this is.
    core.single = true;
    Some(again(ctx, core, rip, parked))
}

/// A repeated string instruction has host addresses in its registers: they become the guest's, with
/// what is done so far.
fn leave_run(ctx: &mut Ctx, core: &Core, at: u32) {
    let registers: &[usize] = match core.blocks.mark_at(at) {
        Some(Mark::Movs) => &[6, 7],
        Some(Mark::Stos) => &[7],
        _ => return,
    };
    let mask = match core.mode.code64() {
        true => u64::MAX,
        false => 0xffff_ffff,
    };
    for n in registers {
        let r = &mut ctx.state.gpr[*n];
        *r = r.wrapping_sub(ctx.run_deltas[n & 1]) & mask;
    }
}

/// Starts the instruction at `rip` anew.
fn again(ctx: &mut Ctx, core: &mut Core, rip: u64, parked: bool) -> u64 {
    take_parked_flags(ctx, parked);
    ctx.state.rip = rip;
    core.dispatch(ctx)
}

/// Bits 40 to 47 of the address that was not in the part of the window where it was looked for, if
/// that is what a fault at host address `at` says.
fn strayed(ctx: &Ctx, at: u64) -> Option<u64> {
    ctx.window_tables.iter().find_map(|table| {
        let place = at.wrapping_sub(&raw const *table as u64);
        (place < WINDOW_TABLE as u64).then_some(place / pgm::PAGE_SIZE)
    })
}
