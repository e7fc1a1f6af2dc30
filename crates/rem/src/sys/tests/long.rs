//! Long mode.

use cpu::bits::{cr0, cr4, efer, rflags};
use cpu::{Exception, Seg, Vector, attr};

use super::machine::{
    CODE, GDT, HANDLER, IDT, LDT, Machine, STACK0, STACK3, TABLES, TSS, gate, sel,
};
use crate::sys::{Event, Flow, Flush};

#[test]
fn interrupts_align_the_stack_and_always_save_it() {
    let mut m = Machine::long();
    m.state.gpr[4] = STACK0 - 3;
    m.state.rflags |= rflags::IF;
    let flags = m.state.rflags;
    m.deliver(Event::External(0x30)).unwrap();
    assert_eq!(m.state.gpr[4], STACK0 - 16 - 40);
    let frame = [
        CODE,
        u64::from(sel::CODE64),
        flags,
        STACK0 - 3,
        u64::from(sel::DATA0),
    ];
    assert_eq!(m.stack(5, 8), frame);
    m.ok(&[0x48, 0xcf]);
    assert_eq!((m.state.gpr[4], m.state.rflags), (STACK0 - 3, flags));
    assert_eq!(m.sel(Seg::Ss), sel::DATA0);
}

#[test]
fn from_level_3_ss_becomes_null_and_the_ist_is_used() {
    let mut m = Machine::long();
    m.level3_long();
    m.put(IDT + 16 * 14 + 4, 1, 1);
    m.raise(Exception::pf(0x1234_5000, 4));
    assert_eq!((m.sel(Seg::Ss), m.state.cpl()), (0, 0));
    assert_eq!(m.state.gpr[4], ((STACK0 - 0x805) & !15) - 48);
    assert_eq!(m.stack(2, 8), [4, CODE]);
    assert_eq!(m.state.rip, HANDLER + 14);
    m.state.gpr[4] += 8;
    m.ok(&[0x48, 0xcf]);
    assert_eq!((m.state.cpl(), m.state.gpr[4]), (3, STACK3));

    // Without IST: RSP0.
    m.deliver(Event::External(0x30)).unwrap();
    assert_eq!(m.state.gpr[4], STACK0 - 0x100 - 40);
}

#[test]
fn iret_to_compatibility_mode_and_interrupts_from_it() {
    let mut m = Machine::long();
    for (i, v) in [
        0x1234,
        u64::from(sel::CODE3),
        2 | rflags::IF,
        0x1_0000_8000,
        u64::from(sel::DATA3),
    ]
    .into_iter()
    .enumerate()
    {
        m.put(STACK0 - 64 + 8 * i as u64, 8, v);
    }
    m.state.gpr[4] = STACK0 - 64;
    m.ok(&[0x48, 0xcf]);
    assert!(!m.state.code64());
    assert_eq!((m.state.cpl(), m.state.gpr[4]), (3, 0x8000));
    m.deliver(Event::External(0x30)).unwrap();
    assert!(m.state.code64());
    assert_eq!(m.stack(2, 8), [0x1234, u64::from(sel::CODE3)]);
}

#[test]
fn handlers_must_be_64_bit_code() {
    let mut m = Machine::long();
    m.put(IDT + 16 * 0x30, 8, gate(14, 0, sel::CODE0, HANDLER, 0));
    m.deliver(Event::External(0x30)).unwrap();
    assert_eq!(m.state.rip, HANDLER + 13);
    assert_eq!(m.stack(1, 8), [u64::from(sel::CODE0) | 1]);
}

#[test]
fn syscall_and_sysret() {
    let mut m = Machine::long();
    m.level3_long();
    m.state.star = 0x0023 << 48 | 0x0008 << 32;
    m.state.lstar = 0x5_4321;
    m.state.sfmask = rflags::IF | rflags::TF;
    m.state.rflags |= rflags::IF | rflags::CF;
    let flags = m.state.rflags;
    assert_eq!(m.ok(&[0x0f, 0x05]), Flow::Jump);
    assert_eq!((m.state.rip, m.state.cpl()), (0x5_4321, 0));
    assert_eq!((m.state.gpr[1], m.state.gpr[11]), (CODE + 2, flags));
    assert_eq!(m.state.rflags, flags & !rflags::IF);
    assert_eq!((m.sel(Seg::Cs), m.sel(Seg::Ss)), (0x08, 0x10));
    assert!(m.state.code64());
    // sysretq
    m.ok(&[0x48, 0x0f, 0x07]);
    assert_eq!((m.state.rip, m.state.cpl()), (CODE + 2, 3));
    assert_eq!((m.sel(Seg::Cs), m.sel(Seg::Ss)), (0x33, 0x2b));
    assert!(m.state.code64());
    assert_eq!(m.state.rflags, flags);
    // sysretl from level 0
    m.ok(&[0x0f, 0x05]);
    m.ok(&[0x0f, 0x07]);
    assert_eq!(m.sel(Seg::Cs), 0x23);
    assert!(!m.state.code64());
    // In compatibility mode only AMD's processors have SYSCALL.
    assert_eq!(m.fault(&[0x0f, 0x05]).0, Vector::Ud);
    m.bus.amd = true;
    m.state.cstar = 0x5_0000;
    m.ok(&[0x0f, 0x05]);
    assert_eq!(m.state.rip, 0x5_0000);
    // A return address that is not canonical faults at level 0, on Intel's processors.
    m.state.gpr[1] = 1 << 47;
    m.bus.amd = false;
    m.load(Seg::Cs, sel::CODE64);
    assert_eq!(m.fault(&[0x48, 0x0f, 0x07]), (Vector::Gp, 0));
    m.state.efer &= !efer::SCE;
    assert_eq!(m.fault(&[0x0f, 0x05]).0, Vector::Ud);
}

#[test]
fn sysenter_and_sysexit() {
    let mut m = Machine::long();
    m.level3_long();
    assert_eq!(m.fault(&[0x0f, 0x34]), (Vector::Gp, 0));
    m.state.sysenter_cs = 0x08;
    m.state.sysenter_eip = 0x5_0000;
    m.state.sysenter_esp = 0x4_0000;
    m.state.rflags |= rflags::IF;
    m.ok(&[0x0f, 0x34]);
    assert_eq!((m.state.rip, m.state.gpr[4]), (0x5_0000, 0x4_0000));
    assert_eq!((m.state.cpl(), m.state.rflags & rflags::IF), (0, 0));
    m.state.gpr[2] = 0x1234;
    m.state.gpr[1] = 0x5678;
    // sysexitq
    m.ok(&[0x48, 0x0f, 0x35]);
    assert_eq!((m.state.rip, m.state.gpr[4]), (0x1234, 0x5678));
    assert_eq!((m.sel(Seg::Cs), m.sel(Seg::Ss)), (0x2b, 0x33));
    assert_eq!(m.fault(&[0x0f, 0x35]), (Vector::Gp, 0));
}

#[test]
fn swapgs_and_base_instructions() {
    let mut m = Machine::long();
    m.state.kernel_gs_base = 0x1111;
    m.state.seg[Seg::Gs as usize].base = 0x2222;
    m.ok(&[0x0f, 0x01, 0xf8]);
    assert_eq!(m.state.seg[Seg::Gs as usize].base, 0x1111);
    assert_eq!(m.state.kernel_gs_base, 0x2222);
    // rdgsbase rax; wrfsbase rax
    assert_eq!(m.fault(&[0xf3, 0x48, 0x0f, 0xae, 0xc8]).0, Vector::Ud);
    m.state.cr4 |= cr4::FSGSBASE;
    m.ok(&[0xf3, 0x48, 0x0f, 0xae, 0xc8]);
    assert_eq!(m.state.gpr[0], 0x1111);
    m.ok(&[0xf3, 0x48, 0x0f, 0xae, 0xd0]);
    assert_eq!(m.state.seg[Seg::Fs as usize].base, 0x1111);
    m.state.gpr[0] = 1 << 60;
    assert_eq!(m.fault(&[0xf3, 0x48, 0x0f, 0xae, 0xd0]), (Vector::Gp, 0));
    m.level3_long();
    assert_eq!(m.fault(&[0x0f, 0x01, 0xf8]), (Vector::Gp, 0));
}

#[test]
fn call_gates_of_long_mode() {
    let mut m = Machine::long();
    m.level3_long();
    m.put(GDT + u64::from(sel::GATE64) + 8, 8, 0);
    m.put(0xf000, 4, 0);
    m.put(0xf004, 2, u64::from(sel::GATE64));
    // call far [0xf000]
    m.ok(&[0xff, 0x1c, 0x25, 0x00, 0xf0, 0x00, 0x00]);
    assert_eq!((m.state.cpl(), m.state.rip), (0, HANDLER));
    assert_eq!(m.state.gpr[4], STACK0 - 0x100 - 32);
    let frame = [
        CODE + 7,
        u64::from(sel::CODE64_3),
        STACK3,
        u64::from(sel::DATA3),
    ];
    assert_eq!(m.stack(4, 8), frame);
    assert_eq!(m.sel(Seg::Ss), 0);
    // retfq
    m.ok(&[0x48, 0xcb]);
    assert_eq!((m.state.cpl(), m.state.gpr[4]), (3, STACK3));
}

#[test]
fn long_mode_is_entered_and_left_through_cr0() {
    let mut m = Machine::protected();
    m.state.cr3 = TABLES;
    let long = Machine::long();
    for page in 0..3 {
        for i in 0..2 {
            let at = TABLES + page * 0x1000 + 8 * i;
            m.put(at, 8, long.get(at, 8));
        }
    }
    m.state.cr4 |= cr4::PAE;
    // wrmsr EFER.LME
    m.state.gpr[1] = 0xc000_0080;
    m.state.gpr[0] = efer::LME;
    m.state.gpr[2] = 0;
    m.ok(&[0x0f, 0x30]);
    m.state.gpr[0] = m.state.cr0 | cr0::PG;
    m.ok(&[0x0f, 0x22, 0xc0]);
    assert!(m.state.long_mode() && !m.state.code64());
    assert_eq!(m.flush, Flush::All);
    // LME may not change now, PAE may not go.
    m.state.gpr[0] = 0;
    assert_eq!(m.fault(&[0x0f, 0x30]), (Vector::Gp, 0));
    assert_eq!(m.fault(&[0x0f, 0x22, 0xe0]), (Vector::Gp, 0));
    // jmp CODE64:CODE
    m.ok(&[0xea, 0, 0, 2, 0, sel::CODE64 as u8, 0]);
    assert!(m.state.code64());
    // From 64-bit code paging cannot be switched off.
    m.state.gpr[0] = m.state.cr0 & !cr0::PG;
    assert_eq!(m.fault(&[0x0f, 0x22, 0xc0]), (Vector::Gp, 0));
    m.load(Seg::Cs, sel::CODE0);
    m.ok(&[0x0f, 0x22, 0xc0]);
    assert!(!m.state.long_mode());
    assert_ne!(m.state.efer & efer::LME, 0);
}

#[test]
fn null_stack_selectors_are_for_inner_levels_of_64_bit_code() {
    let mut m = Machine::long();
    m.state.gpr[0] = 0;
    m.ok(&[0x8e, 0xd0]);
    assert_eq!(m.state.cpl(), 0);
    m.ok(&[0x9c]);
    m.level3_long();
    m.state.gpr[0] = 3;
    assert_eq!(m.fault(&[0x8e, 0xd0]), (Vector::Gp, 0));
}

#[test]
fn descriptors_of_tables_have_16_bytes() {
    let mut m = Machine::long();
    m.put(GDT + u64::from(sel::LDT) + 8, 8, 0xffff_8000);
    m.state.gpr[0] = u64::from(sel::LDT);
    m.ok(&[0x0f, 0x00, 0xd0]);
    assert_eq!(m.state.ldtr.base, 0xffff_8000_0000_0000 | LDT);
    m.put(GDT + u64::from(sel::LDT) + 12, 4, 0x1f00);
    assert_eq!(
        m.fault(&[0x0f, 0x00, 0xd0]),
        (Vector::Gp, u32::from(sel::LDT))
    );
    // ltr
    m.put(
        GDT + u64::from(sel::TSS),
        8,
        super::machine::descriptor(TSS, 0x67, attr::P | 9),
    );
    m.put(GDT + u64::from(sel::TSS) + 8, 8, 0);
    m.state.gpr[0] = u64::from(sel::TSS);
    m.ok(&[0x0f, 0x00, 0xd8]);
    assert_eq!((m.state.tr.base, m.state.tr.attr & 0xf), (TSS, 11));
    // Busy now.
    assert_eq!(
        m.fault(&[0x0f, 0x00, 0xd8]),
        (Vector::Gp, u32::from(sel::TSS))
    );
}
