//! Hardware task switches.

use cpu::bits::{cr0, rflags};
use cpu::{Seg, Vector};

use super::machine::{CODE, GDT, HANDLER, Machine, STACK0, STACK3, TSS, TSS_B, TSS16, gate, sel};
use crate::sys::{Event, Flow};

/// Fills the 32-bit TSS B: code at `HANDLER` at level `cpl`.
fn prepare(m: &mut Machine, cpl: u8) {
    let (cs, ss) = if cpl == 0 {
        (sel::CODE0, sel::DATA0)
    } else {
        (sel::CODE3, sel::DATA3)
    };
    m.put(TSS_B + 0x20, 4, HANDLER);
    m.put(TSS_B + 0x24, 4, 2 | rflags::SF);
    for i in 0..8 {
        m.put(TSS_B + 0x28 + 4 * i, 4, 0x100 + i);
    }
    m.put(TSS_B + 0x28 + 16, 4, 0x4_0000);
    for i in 0..6 {
        m.put(TSS_B + 0x48 + 4 * i, 4, u64::from(ss));
    }
    m.put(TSS_B + 0x4c, 4, u64::from(cs));
}

fn busy(m: &Machine, s: u16) -> bool {
    m.get(GDT + u64::from(s & !7) + 5, 1) & 2 != 0
}

const CALL_B: [u8; 7] = [0x9a, 0, 0, 0, 0, sel::TSS_B as u8, 0];
const JMP_B: [u8; 7] = [0xea, 0, 0, 0, 0, sel::TSS_B as u8, 0];

#[test]
fn a_jump_leaves_one_task_and_enters_the_other() {
    let mut m = Machine::protected();
    prepare(&mut m, 3);
    m.state.gpr[0] = 0xaaaa;
    m.state.dr[7] |= 0x3;
    assert_eq!(m.ok(&JMP_B), Flow::Jump);
    assert_eq!((m.state.rip, m.state.cpl()), (HANDLER, 3));
    assert_eq!((m.sel(Seg::Cs), m.sel(Seg::Gs)), (sel::CODE3, sel::DATA3));
    assert_eq!((m.state.gpr[0], m.state.gpr[7]), (0x100, 0x107));
    assert_eq!(m.state.rflags, 2 | rflags::SF);
    assert_eq!(m.state.tr.sel, sel::TSS_B);
    assert_ne!(m.state.cr0 & cr0::TS, 0);
    assert_eq!(m.state.dr[7] & 0xff, 2);
    assert!(!busy(&m, sel::TSS) && busy(&m, sel::TSS_B));
    assert_eq!(m.get(TSS + 0x20, 4), CODE + 7);
    assert_eq!(m.get(TSS + 0x28, 4), 0xaaaa);
    assert_eq!(m.get(TSS + 0x4c, 2), u64::from(sel::CODE0));
}

#[test]
fn a_call_nests_and_iret_comes_back() {
    let mut m = Machine::protected();
    prepare(&mut m, 0);
    m.ok(&CALL_B);
    assert_ne!(m.state.rflags & rflags::NT, 0);
    assert_eq!(m.get(TSS_B, 2), u64::from(sel::TSS));
    assert!(busy(&m, sel::TSS) && busy(&m, sel::TSS_B));
    // A task in use cannot be entered again.
    assert_eq!(m.fault(&CALL_B), (Vector::Gp, u32::from(sel::TSS_B)));

    m.ok(&[0xcf]);
    assert_eq!((m.state.rip, m.state.gpr[4]), (CODE + 7, STACK0));
    assert_eq!(m.state.tr.sel, sel::TSS);
    assert_eq!(m.state.rflags & rflags::NT, 0);
    assert!(busy(&m, sel::TSS) && !busy(&m, sel::TSS_B));
    assert_eq!(m.get(TSS_B + 0x24, 4) & rflags::NT, 0);
    assert_eq!(m.get(TSS_B + 0x20, 4), HANDLER + 1);
}

#[test]
fn a_task_gate_in_the_idt_pushes_the_error_code_in_the_new_task() {
    let mut m = Machine::protected();
    prepare(&mut m, 0);
    m.level(3);
    m.idt(13, gate(5, 0, sel::TSS_B, 0, 0));
    m.raise(cpu::Exception::gp(0x55));
    assert_eq!((m.state.rip, m.state.tr.sel), (HANDLER, sel::TSS_B));
    assert_eq!(m.stack(1, 4), [0x55]);
    assert_eq!(m.get(TSS + 0x38, 4), STACK3);
    m.state.gpr[4] += 4;
    m.ok(&[0xcf]);
    assert_eq!((m.state.rip, m.state.cpl()), (CODE, 3));
}

#[test]
fn sixteen_bit_tasks() {
    let mut m = Machine::protected();
    m.put(TSS16 + 0x0e, 2, 0x1234);
    m.put(TSS16 + 0x10, 2, 2);
    m.put(TSS16 + 0x1a, 2, 0x8000);
    for (offset, s) in [
        (0x22, sel::DATA0),
        (0x24, sel::CODE16),
        (0x26, sel::STACK16),
        (0x28, sel::DATA0),
    ] {
        m.put(TSS16 + offset, 2, u64::from(s));
    }
    m.ok(&[0x9a, 0, 0, 0, 0, sel::TSS16 as u8, 0]);
    assert_eq!((m.state.rip, m.sel(Seg::Cs)), (0x1234, sel::CODE16));
    assert_eq!((m.state.gpr[4], m.sel(Seg::Fs)), (0x8000, 0));
    m.ok(&[0x66, 0xcf]);
    assert_eq!(m.state.rip, CODE + 7);
    assert_eq!(m.get(TSS16 + 0x0e, 2), 0x1236);
}

#[test]
fn what_is_wrong_with_the_new_task_is_its_own_fault() {
    let mut m = Machine::protected();
    prepare(&mut m, 0);
    m.put(TSS_B + 0x50, 4, u64::from(sel::READ_ONLY));
    let e = m.run(&JMP_B).unwrap_err();
    assert_eq!((e.vector, e.code), (Vector::Ts, u32::from(sel::READ_ONLY)));
    // The switch has happened.
    assert_eq!((m.state.rip, m.state.tr.sel), (HANDLER, sel::TSS_B));

    // A TSS that is too short is the old task's.
    let mut m = Machine::protected();
    prepare(&mut m, 0);
    m.put(GDT + u64::from(sel::TSS_B), 2, 0x66);
    assert_eq!(m.fault(&JMP_B), (Vector::Ts, u32::from(sel::TSS_B)));
}

#[test]
fn the_trap_bit_raises_debug_in_the_new_task() {
    let mut m = Machine::protected();
    prepare(&mut m, 0);
    m.put(TSS_B + 0x64, 2, 1);
    let e = m.run(&JMP_B).unwrap_err();
    assert_eq!((e.vector, e.address), (Vector::Db, 1 << 15));
    assert_eq!(m.state.rip, HANDLER);
}

#[test]
fn a_task_of_virtual_8086_mode() {
    let mut m = Machine::protected();
    prepare(&mut m, 0);
    m.put(TSS_B + 0x20, 4, 0x10);
    m.put(TSS_B + 0x24, 4, 2 | rflags::VM);
    m.put(TSS_B + 0x4c, 4, 0x1234);
    m.deliver(Event::External(0x40)).unwrap();
    m.ok(&JMP_B);
    assert_eq!(m.state.cpl(), 3);
    assert_eq!(m.state.seg[Seg::Cs as usize].base, 0x12340);
}
