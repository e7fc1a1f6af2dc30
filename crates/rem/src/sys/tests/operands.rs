//! Segment checks, effective addresses, stack instructions.

use cpu::bits::rflags;
use cpu::{Seg, Vector};

use super::machine::{CODE, Machine, STACK0, sel};

#[test]
fn limits_and_types_are_checked() {
    // Segment, offset, bytes (1 or 4), load allowed, store allowed.
    let cases = [
        (sel::SMALL, 0xfff, 1, true, true),
        (sel::SMALL, 0xffc, 4, true, true),
        (sel::SMALL, 0xffd, 4, false, false),
        (sel::SMALL, 0xffff_fffe, 4, false, false),
        (sel::DOWN, 0xfff, 1, false, false),
        (sel::DOWN, 0x1000, 4, true, true),
        (sel::DOWN, 0xffff_fffd, 4, false, false),
        (sel::READ_ONLY, 0x8_0000, 4, true, false),
        (sel::EXECUTE_ONLY, 0x8_0000, 4, false, false),
        (sel::CODE0, 0x8_0000, 4, true, false),
        (0, 0x8_0000, 4, false, false),
    ];
    for (s, offset, size, load, store) in cases {
        let mut m = Machine::protected();
        if s == 0 {
            m.state.gpr[0] = 0;
            // mov es, ax; mov ds, ax: null selectors load, but cannot be used.
            m.ok(&[0x8e, 0xc0]);
            m.ok(&[0x8e, 0xd8]);
        } else {
            m.load(Seg::Es, s);
            m.load(Seg::Ds, s);
        }
        m.state.gpr[6] = offset;
        m.state.gpr[7] = offset;
        let lods: &[u8] = if size == 1 { &[0xac] } else { &[0xad] };
        let stos: &[u8] = if size == 1 { &[0xaa] } else { &[0xab] };
        assert_eq!(m.run(lods).is_ok(), load, "load {s:#x}:{offset:#x}");
        assert_eq!(m.run(stos).is_ok(), store, "store {s:#x}:{offset:#x}");
        if !load {
            m.state.gpr[6] = offset;
            assert_eq!(m.fault(lods), (Vector::Gp, 0));
        }
    }
}

#[test]
fn loading_segment_registers_checks_them() {
    // Register field of MOV Sreg: ES 0, SS 2.
    let cases = [
        (0u8, sel::DATA0, 0, None),
        (0, sel::DATA0, 3, Some((Vector::Gp, sel::DATA0))),
        (0, sel::DATA3, 0, None),
        (0, sel::CONFORMING, 3, None),
        (
            0,
            sel::EXECUTE_ONLY,
            0,
            Some((Vector::Gp, sel::EXECUTE_ONLY)),
        ),
        (0, sel::ABSENT, 0, Some((Vector::Np, sel::ABSENT))),
        (0, sel::TSS, 0, Some((Vector::Gp, sel::TSS))),
        (0, 0xfff8, 0, Some((Vector::Gp, 0xfff8))),
        (0, sel::DATA0 | 4, 0, Some((Vector::Gp, sel::DATA0 | 4))),
        (0, 3, 3, None),
        (2, 0, 0, Some((Vector::Gp, 0))),
        (2, sel::DATA3, 0, Some((Vector::Gp, sel::DATA3 & !3))),
        (2, sel::READ_ONLY, 0, Some((Vector::Gp, sel::READ_ONLY))),
        (2, sel::ABSENT, 0, Some((Vector::Ss, sel::ABSENT))),
        (2, sel::DATA3, 3, None),
    ];
    for (field, s, cpl, want) in cases {
        let mut m = Machine::protected();
        m.level(cpl);
        m.state.gpr[0] = u64::from(s);
        let code = [0x8e, 0xc0 | field << 3];
        match want {
            None => {
                m.ok(&code);
                let reg = if field == 0 { Seg::Es } else { Seg::Ss };
                assert_eq!(m.sel(reg), s);
                assert_eq!(m.state.shadow, field == 2);
            }
            Some((vector, code_wanted)) => {
                assert_eq!(m.fault(&code), (vector, u32::from(code_wanted)), "{s:#x}");
            }
        }
    }
}

#[test]
fn descriptors_are_marked_accessed() {
    let mut m = Machine::protected();
    let at = super::machine::GDT + u64::from(sel::DATA3 & !3) + 5;
    assert_eq!(m.get(at, 1) & 1, 0);
    m.state.gpr[0] = u64::from(sel::DATA3);
    m.ok(&[0x8e, 0xc0]);
    assert_eq!(m.get(at, 1) & 1, 1);
}

#[test]
fn selectors_in_the_ldt_work_once_it_is_loaded() {
    let mut m = Machine::protected();
    m.state.gpr[0] = u64::from(sel::LDT);
    // lldt ax
    m.ok(&[0x0f, 0x00, 0xd0]);
    let data = m.get(super::machine::GDT + u64::from(sel::DATA0), 8);
    m.put(super::machine::LDT + 8, 8, data);
    m.state.gpr[0] = 0xc;
    m.ok(&[0x8e, 0xc0]);
    assert_eq!(m.sel(Seg::Es), 0xc);
    m.state.gpr[0] = 0;
    m.ok(&[0x0f, 0x00, 0xd0]);
    m.state.gpr[0] = 0xc;
    assert_eq!(m.fault(&[0x8e, 0xc0]), (Vector::Gp, 0xc));
}

#[test]
fn addresses_wrap_at_their_size() {
    let mut m = Machine::real();
    // les bx, [bp+si+0x7f00]: the sum is 16 bits wide, in SS.
    m.state.gpr[5] = 0xf000;
    m.state.gpr[6] = 0x1200;
    m.put(0x3_0000 + 0x8100, 4, 0x4567_89ab);
    m.ok(&[0xc4, 0x9a, 0x00, 0x7f]);
    assert_eq!((m.state.gpr[3], m.sel(Seg::Es)), (0x89ab, 0x4567));

    let mut m = Machine::long();
    // lgdt [rip+0x100] decoded at an address that is not the one it runs at
    m.state.rip = CODE;
    m.put(CODE + 7 + 0x100, 2, 0x1234);
    m.put(CODE + 7 + 0x102, 8, 0x5678);
    m.ok(&[0x0f, 0x01, 0x15, 0x00, 0x01, 0x00, 0x00]);
    assert_eq!((m.state.gdtr.limit, m.state.gdtr.base), (0x1234, 0x5678));
    // fs-relative and 32-bit addresses
    m.state.seg[Seg::Fs as usize].base = 0x10_0000;
    m.state.gpr[0] = 0xffff_ffff_0000_0040;
    m.put(0x10_0040, 2, 0x4321);
    m.ok(&[0x64, 0x67, 0x0f, 0x01, 0x10]);
    assert_eq!(m.state.gdtr.limit, 0x4321);
    // not canonical
    m.state.gpr[0] = 0x8000_0000_0000;
    assert_eq!(m.fault(&[0x0f, 0x01, 0x10]), (Vector::Gp, 0));
}

#[test]
fn pusha_and_popa_are_inverse_and_skip_the_stack_pointer() {
    for (push, pop, size) in [
        (&[0x60][..], &[0x61][..], 4),
        (&[0x66, 0x60], &[0x66, 0x61], 2),
    ] {
        let mut m = Machine::protected();
        for i in [0, 1, 2, 3, 5, 6, 7] {
            m.state.gpr[i] = 0x1111_0000 + i as u64;
        }
        let before = m.state.gpr;
        m.ok(push);
        assert_eq!(m.state.gpr[4], STACK0 - 8 * size);
        // The pushed stack pointer is the old one.
        let mask = (1 << (8 * size)) - 1;
        assert_eq!(m.stack(8, size as usize)[3], STACK0 & mask);
        m.ok(pop);
        assert_eq!(m.state.gpr, before);
    }
}

#[test]
fn enter_builds_nested_frames() {
    let mut m = Machine::protected();
    m.state.gpr[5] = STACK0 + 0x100;
    m.put(STACK0 + 0xfc, 4, 0xaaaa);
    m.put(STACK0 + 0xf8, 4, 0xbbbb);
    // enter 0x20, 3
    m.ok(&[0xc8, 0x20, 0x00, 0x03]);
    let frame = STACK0 - 4;
    assert_eq!(m.state.gpr[5], frame);
    assert_eq!(m.state.gpr[4], STACK0 - 16 - 0x20);
    m.state.gpr[4] = STACK0 - 16;
    assert_eq!(m.stack(4, 4), [frame, 0xbbbb, 0xaaaa, STACK0 + 0x100]);
    m.ok(&[0xc9]);
    assert_eq!((m.state.gpr[4], m.state.gpr[5]), (STACK0, STACK0 + 0x100));
}

#[test]
fn pop_to_memory_addresses_with_the_new_stack_pointer() {
    let mut m = Machine::protected();
    m.put(STACK0, 4, 0x1234_5678);
    // pop dword [esp+4]
    m.ok(&[0x8f, 0x44, 0x24, 0x04]);
    assert_eq!(m.get(STACK0 + 8, 4), 0x1234_5678);
    assert_eq!(m.state.gpr[4], STACK0 + 4);
    // A fault leaves the stack pointer.
    m.load(Seg::Ds, sel::SMALL);
    assert_eq!(m.fault(&[0x8f, 0x05, 0, 0x10, 0, 0]), (Vector::Gp, 0));
}

#[test]
fn sixteen_bit_stacks_wrap_and_keep_the_upper_half() {
    let mut m = Machine::protected();
    m.load(Seg::Ss, sel::STACK16);
    m.state.gpr[4] = 0xabcd_0000;
    // push es (32-bit operand: only the selector is written)
    m.put(0xfffc, 4, 0x5555_5555);
    m.ok(&[0x06]);
    assert_eq!(m.state.gpr[4], 0xabcd_fffc);
    assert_eq!(m.get(0xfffc, 4), 0x5555_0000 | u64::from(sel::DATA0));
}

#[test]
fn bound_and_arpl() {
    let mut m = Machine::protected();
    m.put(0x9000, 4, (-5i32) as u32 as u64);
    m.put(0x9004, 4, 10);
    for (index, inside) in [(-5i32, true), (10, true), (11, false), (-6, false)] {
        m.state.rip = CODE;
        m.state.gpr[0] = u64::from(index as u32);
        let got = m.run(&[0x62, 0x05, 0x00, 0x90, 0, 0]);
        assert_eq!(got.is_ok(), inside, "{index}");
        if let Err(e) = got {
            assert_eq!(e.vector, Vector::Br);
        }
    }
    m.state.gpr[0] = 0xffff_0010;
    m.state.gpr[3] = 3;
    m.ok(&[0x63, 0xd8]);
    assert_eq!(m.state.gpr[0] & 0xffff, 0x13);
    assert_ne!(m.state.rflags & rflags::ZF, 0);
    m.ok(&[0x63, 0xd8]);
    assert_eq!(m.state.rflags & rflags::ZF, 0);
}
