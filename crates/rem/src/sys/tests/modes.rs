//! Real and virtual-8086 mode.

use cpu::bits::{cr0, cr4, rflags};
use cpu::{Exception, Seg, SegReg, Vector};

use super::machine::{CODE, HANDLER, Machine, STACK0, TSS, sel};
use crate::sys::{Event, Flow};

#[test]
fn real_mode_interrupts_go_through_the_vector_table_and_back() {
    let mut m = Machine::real();
    m.state.rflags |= rflags::IF | rflags::TF | rflags::CF;
    let flags = m.state.rflags;
    assert_eq!(m.ok(&[0xcd, 0x13]), Flow::Jump);
    assert_eq!((m.sel(Seg::Cs), m.state.rip), (0x5000, 0x13));
    assert_eq!(m.state.seg[Seg::Cs as usize].base, 0x5_0000);
    assert_eq!(m.stack(3, 2), [2, CODE >> 4, flags]);
    assert_eq!(m.state.rflags & (rflags::IF | rflags::TF), 0);
    m.ok(&[0xcf]);
    assert_eq!((m.state.rip, m.state.rflags), (2, flags));
    assert_eq!(u64::from(m.sel(Seg::Cs)), CODE >> 4);
}

#[test]
fn real_mode_pushes_no_error_codes() {
    let mut m = Machine::real();
    m.raise(Exception::gp(0));
    assert_eq!((m.state.rip, m.state.gpr[4]), (13, 0x1000 - 6));
}

#[test]
fn real_mode_loads_keep_limits_so_unreal_mode_works() {
    let mut m = Machine::real();
    m.state.seg[Seg::Ds as usize].limit = u32::MAX;
    m.state.gpr[0] = 0x1234;
    // mov ds, ax
    m.ok(&[0x8e, 0xd8]);
    let ds = m.state.seg[Seg::Ds as usize];
    assert_eq!((ds.base, ds.limit), (0x12340, u32::MAX));
    // addr32 lodsb past 64 KiB
    m.put(0x12340 + 0x2_0000, 1, 0x77);
    m.state.gpr[6] = 0x2_0000;
    m.ok(&[0x67, 0xac]);
    assert_eq!(m.state.gpr[0] & 0xff, 0x77);
    // With an ordinary limit it is #GP.
    m.state.seg[Seg::Ds as usize].limit = 0xffff;
    assert_eq!(m.fault(&[0x67, 0xac]).0, Vector::Gp);
}

#[test]
fn real_mode_far_transfers() {
    let mut m = Machine::real();
    m.ok(&[0x9a, 0x34, 0x12, 0x00, 0x20]);
    assert_eq!((m.sel(Seg::Cs), m.state.rip), (0x2000, 0x1234));
    assert_eq!(m.stack(2, 2), [5, CODE >> 4]);
    m.ok(&[0xcb]);
    assert_eq!((m.state.rip, m.state.gpr[4]), (5, 0x1000));
    // A word at offset 0xffff is outside of the segment.
    m.state.gpr[6] = 0xffff;
    assert_eq!(m.fault(&[0xad]).0, Vector::Gp);
    m.state.gpr[4] = 1;
    assert_eq!(m.fault(&[0x9c]).0, Vector::Ss);
}

#[test]
fn switching_to_protected_mode_and_back_keeps_hidden_parts() {
    let mut m = Machine::protected();
    let cs = m.state.seg[Seg::Cs as usize];
    m.state.gpr[0] = m.state.cr0 & !cr0::PE;
    m.ok(&[0x0f, 0x22, 0xc0]);
    assert_eq!(m.state.seg[Seg::Cs as usize], cs);
    assert_eq!(m.state.cpl(), 0);
    // jmp 0x1000:0x10 with a 32-bit offset
    m.ok(&[0xea, 0x10, 0, 0, 0, 0x00, 0x10]);
    let after = m.state.seg[Seg::Cs as usize];
    assert_eq!((after.base, after.limit), (0x1_0000, cs.limit));
}

#[test]
fn virtual_8086_interrupts_save_all_segments_and_iret_brings_them_back() {
    let mut m = Machine::v86();
    m.state.rflags |= rflags::IF;
    for (s, v) in [(Seg::Es, 1), (Seg::Ds, 2), (Seg::Fs, 3), (Seg::Gs, 4)] {
        m.state.seg[s as usize] = crate::sys::seg::v86(v);
    }
    let before = (m.state.seg, m.state.rflags, m.state.gpr[4]);
    m.deliver(Event::External(0x40)).unwrap();
    assert!(m.state.protected());
    assert_eq!((m.state.cpl(), m.state.rip), (0, HANDLER + 0x40));
    let frame = [0, CODE >> 4, before.1, 0x1000, 0x3000, 1, 2, 3, 4];
    assert_eq!(m.stack(9, 4), frame);
    assert_eq!(m.state.gpr[4], STACK0 - 0x100 - 36);
    assert_eq!(m.sel(Seg::Ds), 0);
    m.ok(&[0xcf]);
    assert_eq!((m.state.seg, m.state.rflags, m.state.gpr[4]), before);
    assert_eq!(m.state.cpl(), 3);
}

#[test]
fn sensitive_instructions_of_virtual_8086_mode_need_iopl_3() {
    let sensitive: [&[u8]; 6] = [&[0xfa], &[0xfb], &[0x9c], &[0x9d], &[0xcd, 0x21], &[0xcf]];
    for code in sensitive {
        let mut m = Machine::v86();
        assert_eq!(m.fault(code), (Vector::Gp, 0), "{code:02x?}");
    }
    let mut m = Machine::v86();
    m.iopl(3);
    m.ok(&[0xfb]);
    assert_ne!(m.state.rflags & rflags::IF, 0);
    m.ok(&[0x9c]);
    m.ok(&[0x9d]);
    m.ok(&[0xfa]);
    // INT n with IOPL 3 and without VME: the gate's DPL counts.
    assert_eq!(m.fault(&[0xcd, 0x21]), (Vector::Gp, 0x21 * 8 + 2));
}

#[test]
fn vme_redirects_int_n_and_virtualises_the_interrupt_flag() {
    let mut m = Machine::v86();
    m.state.cr4 |= cr4::VME;
    // Redirection map in front of the I/O map; INT 0x22 stays with the monitor.
    m.put(TSS + 102, 2, 104 + 32);
    m.put(TSS + 104 + 4, 1, 1 << 2);
    m.put(4 * 0x21, 4, 0x6000 << 16 | 0x77);
    m.ok(&[0xfb]);
    assert_ne!(m.state.rflags & rflags::VIF, 0);
    assert_eq!(m.state.rflags & rflags::IF, 0);
    let flags = m.state.rflags;
    m.ok(&[0xcd, 0x21]);
    assert!(!m.state.protected());
    assert_eq!((m.sel(Seg::Cs), m.state.rip), (0x6000, 0x77));
    let pushed = (flags | rflags::IF | rflags::IOPL) & 0xffff;
    assert_eq!(m.stack(3, 2), [3, CODE >> 4, pushed]);
    assert_eq!(m.state.rflags & rflags::VIF, 0);
    m.ok(&[0xcf]);
    assert_eq!((m.state.rflags, m.state.rip), (flags, 3));

    assert_eq!(m.fault(&[0xcd, 0x22]), (Vector::Gp, 0));
    m.state.rflags |= rflags::VIP;
    assert_eq!(m.fault(&[0xfb]), (Vector::Gp, 0));
}

#[test]
fn protected_virtual_interrupts_are_for_level_3() {
    let mut m = Machine::protected();
    m.level(3);
    assert_eq!(m.fault(&[0xfb]), (Vector::Gp, 0));
    m.state.cr4 |= cr4::PVI;
    m.ok(&[0xfb]);
    assert_eq!(m.state.rflags & (rflags::VIF | rflags::IF), rflags::VIF);
    m.ok(&[0xfa]);
    assert_eq!(m.state.rflags & rflags::VIF, 0);
}

#[test]
fn instructions_of_protected_mode_do_not_exist_elsewhere() {
    // sldt, str, lldt, ltr, verr, verw, lar, lsl (all on AX)
    let codes: [&[u8]; 8] = [
        &[0x0f, 0x00, 0xc0],
        &[0x0f, 0x00, 0xc8],
        &[0x0f, 0x00, 0xd0],
        &[0x0f, 0x00, 0xd8],
        &[0x0f, 0x00, 0xe0],
        &[0x0f, 0x00, 0xe8],
        &[0x0f, 0x02, 0xc0],
        &[0x0f, 0x03, 0xc0],
    ];
    for code in codes {
        assert_eq!(Machine::real().fault(code).0, Vector::Ud, "{code:02x?}");
        assert_eq!(Machine::v86().fault(code).0, Vector::Ud, "{code:02x?}");
    }
}

#[test]
fn loads_in_virtual_8086_mode_reset_the_limit() {
    let mut m = Machine::v86();
    m.state.gpr[0] = u64::from(sel::DATA0);
    m.ok(&[0x8e, 0xd8]);
    let mut want = SegReg::real(sel::DATA0);
    want.attr |= cpu::attr::DPL;
    assert_eq!(m.state.seg[Seg::Ds as usize], want);
}
