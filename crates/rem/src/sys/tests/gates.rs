//! Interrupt gates, call gates, returns and faults on the way, in 32-bit protected mode.

use cpu::bits::{cr0, rflags};
use cpu::{Exception, RunState, Seg, Vector};

use super::machine::{CODE, HANDLER, IDT, Machine, STACK0, STACK3, TSS, gate, sel};
use crate::sys::{Event, Flow, Shutdown};

/// Level 3 with interrupts on.
fn user() -> Machine {
    let mut m = Machine::protected();
    m.level(3);
    m.state.rflags |= rflags::IF | rflags::TF | rflags::ZF;
    m
}

#[test]
fn an_exception_of_level_3_arrives_on_the_stack_of_level_0() {
    let mut m = user();
    let flags = m.state.rflags;
    m.raise(Exception::gp(0x1234));
    assert_eq!(m.state.rip, HANDLER + 13);
    assert_eq!((m.sel(Seg::Cs), m.sel(Seg::Ss)), (sel::CODE0, sel::DATA0));
    assert_eq!(m.state.cpl(), 0);
    assert_eq!(m.state.gpr[4], STACK0 - 0x100 - 24);
    let frame = [
        0x1234,
        CODE,
        u64::from(sel::CODE3),
        flags | rflags::RF,
        STACK3,
        u64::from(sel::DATA3),
    ];
    assert_eq!(m.stack(6, 4), frame);
    let gone = rflags::IF | rflags::TF | rflags::RF | rflags::NT | rflags::VM;
    assert_eq!(m.state.rflags, flags & !gone);
}

#[test]
fn an_interrupt_at_level_0_stays_on_its_stack_and_a_trap_gate_leaves_if() {
    let mut m = Machine::protected();
    m.state.rflags |= rflags::IF;
    m.idt(0x40, gate(15, 0, sel::CODE0, HANDLER, 0));
    m.deliver(Event::External(0x40)).unwrap();
    assert_eq!(m.state.gpr[4], STACK0 - 12);
    assert_ne!(m.state.rflags & rflags::IF, 0);
    assert_eq!(m.stack(1, 4), [CODE]);
}

#[test]
fn sixteen_bit_gates_push_words() {
    let mut m = Machine::protected();
    m.idt(0x40, gate(6, 0, sel::CODE0, 0xabcd_1234, 0));
    m.deliver(Event::External(0x40)).unwrap();
    assert_eq!(m.state.gpr[4], STACK0 - 6);
    assert_eq!(m.state.rip, 0x1234);
}

#[test]
fn int_n_obeys_the_gates_dpl_but_hardware_does_not() {
    let mut m = user();
    assert_eq!(m.fault(&[0xcd, 0x40]), (Vector::Gp, 0x40 * 8 + 2));
    assert_eq!(m.fault(&[0xcc]), (Vector::Gp, 3 * 8 + 2));
    m.idt(0x40, gate(14, 3, sel::CODE0, HANDLER, 0));
    assert_eq!(m.ok(&[0xcd, 0x40]), Flow::Jump);
    // The return address is behind the instruction.
    assert_eq!(m.stack(1, 4), [CODE + 2]);
    let mut m = user();
    assert_eq!(m.ok(&[0xf1]), Flow::Jump);
    assert_eq!(m.state.rip, HANDLER + 1);
}

#[test]
fn into_acts_on_overflow_only() {
    let mut m = Machine::protected();
    assert_eq!(m.ok(&[0xce]), Flow::Next);
    assert_eq!(m.state.rip, CODE + 1);
    m.state.rflags |= rflags::OF;
    assert_eq!(m.ok(&[0xce]), Flow::Jump);
    assert_eq!(m.state.rip, HANDLER + 4);
}

#[test]
fn faults_of_delivery_name_what_is_wrong() {
    // Gate's raw value, vector expected, error code expected; EXT is set for an external one.
    let vector = 0x40;
    let idt = vector * 8 + 2;
    let cases = [
        (0, Vector::Gp, idt | 1),
        (gate(12, 0, sel::CODE0, 0, 0), Vector::Gp, idt | 1),
        (
            gate(14, 0, sel::CODE0, 0, 0) & !(1 << 47),
            Vector::Np,
            idt | 1,
        ),
        (gate(14, 0, 0, 0, 0), Vector::Gp, 1),
        (gate(14, 0, 0x7f8, 0, 0), Vector::Gp, 0x7f8 | 1),
        (
            gate(14, 0, sel::DATA0, 0, 0),
            Vector::Gp,
            u32::from(sel::DATA0) | 1,
        ),
        (
            gate(14, 0, sel::ABSENT, 0, 0),
            Vector::Gp,
            u32::from(sel::ABSENT) | 1,
        ),
    ];
    for (raw, vector_wanted, code) in cases {
        let mut m = Machine::protected();
        m.idt(u64::from(vector), raw);
        m.deliver(Event::External(vector as u8)).unwrap();
        assert_eq!(m.state.rip, HANDLER + vector_wanted as u64, "{raw:#x}");
        assert_eq!(m.stack(2, 4), [u64::from(code), CODE], "{raw:#x}");
    }
}

#[test]
fn int_n_past_the_tables_limit_is_its_own_fault() {
    let mut m = Machine::protected();
    m.state.idtr.limit = 0x40 * 8 + 6;
    assert_eq!(m.fault(&[0xcd, 0x40]), (Vector::Gp, 0x40 * 8 + 2));
}

#[test]
fn bad_stacks_of_level_0_are_invalid_tss() {
    for (ss, vector, code) in [
        (0, Vector::Ts, 1),
        (sel::DATA3, Vector::Ts, u32::from(sel::DATA3 & !3) | 1),
        (sel::READ_ONLY, Vector::Ts, u32::from(sel::READ_ONLY) | 1),
        (sel::ABSENT, Vector::Ss, u32::from(sel::ABSENT) | 1),
    ] {
        let mut m = user();
        m.put(TSS + 8, 2, u64::from(ss));
        // The handlers of the resulting faults run at level 3, where there is a stack.
        for v in [10, 12] {
            m.idt(v, gate(14, 3, sel::CODE3 & !3, HANDLER + v, 0));
        }
        m.deliver(Event::External(0x40)).unwrap();
        assert_eq!(m.state.rip, HANDLER + vector as u64, "{ss:#x}");
        assert_eq!(m.stack(1, 4), [u64::from(code)], "{ss:#x}");
    }
}

#[test]
fn contributory_faults_double_and_a_third_shuts_down() {
    let mut m = Machine::protected();
    m.idt(13, 0);
    m.raise(Exception::gp(7));
    assert_eq!(m.state.rip, HANDLER + 8);
    assert_eq!(m.stack(2, 4), [0, CODE]);

    m.idt(8, 0);
    assert_eq!(m.deliver(Event::Exception(Exception::gp(7))), Err(Shutdown));
    assert_eq!(m.state.run, RunState::Shutdown);
}

#[test]
fn benign_then_contributory_is_delivered_serially() {
    let mut m = Machine::protected();
    m.idt(6, 0);
    m.raise(Exception::ud());
    assert_eq!(m.state.rip, HANDLER + 13);
    assert_eq!(m.stack(1, 4), [6 * 8 + 2 + 1]);
}

#[test]
fn a_page_fault_sets_cr2_and_doubles_on_another() {
    let mut m = Machine::protected();
    m.raise(Exception::pf(0xdead_b000, 6));
    assert_eq!((m.state.cr2, m.state.rip), (0xdead_b000, HANDLER + 14));
    assert_eq!(m.stack(1, 4), [6]);

    // The IDT on a page that is not there.
    let mut m = Machine::protected();
    m.state.cr0 |= cr0::PG;
    m.state.cr3 = 0x10_0000;
    assert_eq!(
        m.deliver(Event::Exception(Exception::pf(0x1000, 0))),
        Err(Shutdown)
    );
    assert_eq!(m.state.cr2, IDT + 14 * 8);
}

#[test]
fn debug_exceptions_set_dr6_and_open_the_debug_registers() {
    let mut m = Machine::protected();
    m.state.dr[7] |= 1 << 13;
    m.state.gpr[0] = 1;
    // mov dr0, eax
    let e = m.run(&[0x0f, 0x23, 0xc0]).unwrap_err();
    assert_eq!(e.vector, Vector::Db);
    m.raise(e);
    assert_ne!(m.state.dr[6] & 1 << 13, 0);
    assert_eq!(m.state.dr[7] & 1 << 13, 0);
    assert_eq!(m.stack(1, 4), [CODE]);
    m.ok(&[0x0f, 0x23, 0xc0]);
    assert_eq!(m.state.dr[0], 1);
}

#[test]
fn nmi_blocks_until_iret() {
    let mut m = Machine::protected();
    m.deliver(Event::Nmi).unwrap();
    assert!(m.state.nmi_blocked);
    m.ok(&[0xcf]);
    assert!(!m.state.nmi_blocked);
    assert_eq!(m.state.rip, CODE);
}

#[test]
fn iret_goes_back_to_level_3_and_drops_privileged_segments() {
    let mut m = user();
    let before = (m.state.rflags, m.state.gpr[4], m.state.seg);
    m.deliver(Event::External(0x40)).unwrap();
    m.load(Seg::Es, sel::DATA0);
    m.load(Seg::Fs, sel::CONFORMING);
    assert_eq!(m.ok(&[0xcf]), Flow::Jump);
    assert_eq!(m.state.cpl(), 3);
    assert_eq!((m.state.rflags, m.state.gpr[4]), (before.0, before.1));
    let same = |s: Seg| m.state.seg[s as usize].sel == before.2[s as usize].sel;
    assert!(same(Seg::Cs) && same(Seg::Ss) && same(Seg::Ds));
    assert_eq!(m.sel(Seg::Es), 0);
    assert_eq!(m.sel(Seg::Fs), sel::CONFORMING);
    // es lodsb
    assert_eq!(m.fault(&[0x26, 0xac]), (Vector::Gp, 0));
}

#[test]
fn iret_at_level_3_cannot_change_iopl_or_if() {
    let mut m = Machine::protected();
    m.level(3);
    m.state.rflags |= rflags::IF;
    for (i, v) in [
        CODE + 9,
        u64::from(sel::CODE3),
        rflags::IOPL | rflags::CF | 2,
    ]
    .into_iter()
    .enumerate()
    {
        m.put(STACK3 + 4 * i as u64, 4, v);
    }
    m.ok(&[0xcf]);
    assert_eq!(m.state.rip, CODE + 9);
    assert_eq!(m.state.rflags, rflags::IF | rflags::CF | 2);
}

#[test]
fn iret_checks_its_frame() {
    for (cs, code) in [
        (0, 0),
        (sel::DATA0, u32::from(sel::DATA0)),
        (sel::CODE0 | 3, u32::from(sel::CODE0)),
        (0xfff8, 0xfff8),
    ] {
        let mut m = Machine::protected();
        m.put(STACK0 + 4, 4, u64::from(cs));
        m.put(STACK0 + 8, 4, 2);
        assert_eq!(m.fault(&[0xcf]), (Vector::Gp, code), "{cs:#x}");
    }
}

#[test]
fn a_call_gate_copies_parameters_and_a_far_return_releases_them() {
    let mut m = Machine::protected();
    m.level(3);
    m.put(STACK3, 4, 0x1111);
    m.put(STACK3 + 4, 4, 0x2222);
    // call GATE:0
    m.ok(&[0x9a, 0, 0, 0, 0, sel::GATE as u8, 0]);
    assert_eq!((m.state.cpl(), m.state.rip), (0, HANDLER));
    let frame = [
        CODE + 7,
        u64::from(sel::CODE3),
        0x1111,
        0x2222,
        STACK3,
        u64::from(sel::DATA3),
    ];
    assert_eq!(m.stack(6, 4), frame);
    // retf 8
    m.ok(&[0xca, 8, 0]);
    assert_eq!((m.state.cpl(), m.state.rip), (3, CODE + 7));
    assert_eq!(m.state.gpr[4], STACK3 + 8);
}

#[test]
fn far_transfers_check_privilege() {
    let far = |opcode: u8, sel: u16| [opcode, 0, 0, 2, 0, sel as u8, (sel >> 8) as u8];
    let jmp = |sel| far(0xea, sel);
    let mut m = Machine::protected();
    m.level(3);
    for s in [
        sel::CODE0,
        sel::DATA3 & !3,
        sel::EXECUTE_ONLY,
        sel::TSS,
        0xf000,
    ] {
        let (vector, code) = m.fault(&jmp(s));
        assert_eq!((vector, code), (Vector::Gp, u32::from(s)), "{s:#x}");
    }
    assert_eq!(m.fault(&jmp(0)), (Vector::Gp, 0));
    // A jump through a gate may not change the level.
    assert_eq!(
        m.fault(&jmp(sel::GATE)),
        (Vector::Gp, u32::from(sel::CODE0))
    );
    // Conforming code runs at the caller's level.
    m.ok(&jmp(sel::CONFORMING));
    assert_eq!(m.sel(Seg::Cs), sel::CONFORMING | 3);
    assert_eq!((m.state.cpl(), m.state.rip), (3, 0x2_0000));
    // A far call at the same level pushes CS and the return address.
    let mut m = Machine::protected();
    m.ok(&far(0x9a, sel::CODE0));
    assert_eq!(m.stack(2, 4), [CODE + 7, u64::from(sel::CODE0)]);
    // Returns may not go inward.
    let mut m = Machine::protected();
    m.level(3);
    m.put(STACK3 + 4, 4, u64::from(sel::CODE0));
    assert_eq!(m.fault(&[0xcb]), (Vector::Gp, u32::from(sel::CODE0)));
}
