//! Control registers, MSRs, ports and flags.

use cpu::bits::{cr0, cr4, msr, rflags};
use cpu::{Fault, RunState, Seg, Vector};

use super::machine::{CODE, Machine, STACK0, TSS, sel};
use crate::sys::{Flow, Flush};

fn rdmsr(m: &mut Machine, index: u32) -> Fault<u64> {
    m.state.gpr[1] = u64::from(index);
    m.run(&[0x0f, 0x32])?;
    Ok(m.state.gpr[2] << 32 | m.state.gpr[0])
}

fn wrmsr(m: &mut Machine, index: u32, value: u64) -> Fault {
    m.state.gpr[1] = u64::from(index);
    m.state.gpr[0] = value & 0xffff_ffff;
    m.state.gpr[2] = value >> 32;
    m.run(&[0x0f, 0x30]).map(drop)
}

#[test]
fn msrs_keep_what_was_written() {
    let mut m = Machine::long();
    let canonical = 0xffff_8000_1234_5678;
    for index in [
        msr::LSTAR,
        msr::CSTAR,
        msr::FS_BASE,
        msr::GS_BASE,
        msr::KERNEL_GS_BASE,
        msr::SYSENTER_EIP,
        msr::SYSENTER_ESP,
        msr::STAR,
    ] {
        wrmsr(&mut m, index, canonical).unwrap();
        assert_eq!(rdmsr(&mut m, index), Ok(canonical), "{index:#x}");
    }
    for index in [msr::LSTAR, msr::GS_BASE, msr::SYSENTER_EIP] {
        assert!(wrmsr(&mut m, index, 1 << 50).is_err(), "{index:#x}");
    }
    for (i, index) in [0x250, 0x258, 0x259, 0x268, 0x26f].into_iter().enumerate() {
        let value = 0x0606_0606_0606_0600 | [0, 1, 4, 5, 6][i];
        wrmsr(&mut m, index, value).unwrap();
        assert_eq!(rdmsr(&mut m, index), Ok(value));
    }
    assert!(wrmsr(&mut m, 0x250, 7).is_err());
    assert!(wrmsr(&mut m, msr::PAT, 2).is_err());
    wrmsr(&mut m, msr::PAT, 0x0007_0106_0007_0106).unwrap();
    for (index, value) in [(0x200, 0xff_1234_5006), (0x201, 0xff_1234_5800)] {
        wrmsr(&mut m, index, value).unwrap();
        assert_eq!(rdmsr(&mut m, index), Ok(value));
    }
    // A type that is none, reserved bits, an address that is too wide.
    for (index, value) in [(0x200, 2), (0x200, 0x100), (0x20f, 1), (0x20f, 1 << 40)] {
        assert!(
            wrmsr(&mut m, index, value).is_err(),
            "{index:#x} {value:#x}"
        );
    }
    wrmsr(&mut m, msr::DEBUGCTL, 3).unwrap();
    assert_eq!(rdmsr(&mut m, msr::DEBUGCTL), Ok(3));
    assert!(wrmsr(&mut m, msr::DEBUGCTL, 1 << 16).is_err());
    assert!(rdmsr(&mut m, 0x1234_5678).is_err());
    assert!(rdmsr(&mut m, 0xc001_0015).is_err());
    assert_eq!(rdmsr(&mut m, msr::APIC_BASE), Ok(0xfee0_0900));
    m.level3_long();
    assert_eq!(m.fault(&[0x0f, 0x32]), (Vector::Gp, 0));
}

#[test]
fn the_time_stamp_counter_and_its_adjustment_move_together() {
    let mut m = Machine::protected();
    assert_eq!(rdmsr(&mut m, msr::TSC), Ok(1_000_000));
    wrmsr(&mut m, msr::TSC, 5_000).unwrap();
    assert_eq!(rdmsr(&mut m, msr::TSC), Ok(5_000));
    assert_eq!(
        rdmsr(&mut m, msr::TSC_ADJUST),
        Ok(5_000u64.wrapping_sub(1_000_000))
    );
    wrmsr(&mut m, msr::TSC_ADJUST, 7).unwrap();
    m.ok(&[0x0f, 0x31]);
    assert_eq!(m.state.gpr[0], 1_000_007);
    m.level(3);
    m.state.cr4 |= cr4::TSD;
    assert_eq!(m.fault(&[0x0f, 0x31]), (Vector::Gp, 0));
}

#[test]
fn control_registers_refuse_impossible_values() {
    let cases = [
        (0u8, cr0::PG),
        (0, cr0::PE | cr0::NW),
        (4, 1 << 31),
        (4, cr4::PCIDE),
    ];
    for (cr, value) in cases {
        let mut m = Machine::protected();
        m.state.gpr[0] = value;
        let code = [0x0f, 0x22, 0xc0 | cr << 3];
        assert_eq!(m.fault(&code), (Vector::Gp, 0), "cr{cr} {value:#x}");
    }
    let mut m = Machine::protected();
    m.state.gpr[0] = 0;
    // CR0.ET cannot be cleared.
    m.ok(&[0x0f, 0x22, 0xc0]);
    assert_eq!(m.state.cr0, cr0::ET);
    let mut m = Machine::protected();
    m.level(3);
    assert_eq!(m.fault(&[0x0f, 0x20, 0xc0]), (Vector::Gp, 0));
    assert_eq!(m.fault(&[0x0f, 0x06]), (Vector::Gp, 0));
}

#[test]
fn lmsw_cannot_leave_protected_mode() {
    let mut m = Machine::protected();
    m.state.gpr[0] = cr0::TS;
    m.ok(&[0x0f, 0x01, 0xf0]);
    assert_eq!(m.state.cr0 & 0xf, cr0::PE | cr0::TS);
    m.ok(&[0x0f, 0x06]);
    assert_eq!(m.state.cr0 & 0xf, cr0::PE);
    // smsw ax
    m.state.gpr[0] = 0xffff_ffff;
    m.ok(&[0x66, 0x0f, 0x01, 0xe0]);
    assert_eq!(m.state.gpr[0], 0xffff_0000 | m.state.cr0 & 0xffff);
}

#[test]
fn what_needs_flushing_is_told() {
    let mut m = Machine::long();
    m.state.gpr[0] = m.state.cr3;
    m.ok(&[0x0f, 0x22, 0xd8]);
    assert_eq!(m.flush, Flush::Switch { keep: false });
    // invlpg [rax]
    m.state.gpr[0] = 0x1234;
    m.ok(&[0x0f, 0x01, 0x38]);
    assert_eq!(m.flush, Flush::Page(0x1234));
    m.state.gpr[0] = m.state.cr4 | cr4::PGE;
    m.ok(&[0x0f, 0x22, 0xe0]);
    assert_eq!(m.flush, Flush::All);
    m.ok(&[0x0f, 0x22, 0xe0]);
    assert_eq!(m.flush, Flush::None);
    assert_eq!(Flush::Page(1).merge(Flush::Page(2)), Flush::All);
    assert_eq!(Flush::None.merge(Flush::NonGlobal), Flush::NonGlobal);
}

#[test]
fn umip_hides_the_tables_from_user_code() {
    for code in [
        &[0x0f, 0x01, 0x05, 0, 0x90, 0, 0][..],
        &[0x0f, 0x01, 0x0d, 0, 0x90, 0, 0],
        &[0x0f, 0x00, 0xc0],
        &[0x0f, 0x00, 0xc8],
        &[0x0f, 0x01, 0xe0],
    ] {
        let mut m = Machine::protected();
        m.level(3);
        m.ok(code);
        m.state.cr4 |= cr4::UMIP;
        assert_eq!(m.fault(code), (Vector::Gp, 0), "{code:02x?}");
    }
}

#[test]
fn ports_need_iopl_or_a_clear_bit() {
    let mut m = Machine::protected();
    m.level(3);
    // The map starts at 104 and reaches to the limit.
    m.put(TSS + 104 + 0x60 / 8, 1, 0xfe);
    assert_eq!(m.ok(&[0xe4, 0x60]), Flow::Next);
    assert_eq!(m.state.gpr[0] & 0xff, 0x21);
    // The word's second byte is not allowed.
    assert_eq!(m.fault(&[0x66, 0xe5, 0x60]), (Vector::Gp, 0));
    // Past the limit.
    m.state.gpr[2] = 0x1000;
    assert_eq!(m.fault(&[0xec]), (Vector::Gp, 0));
    m.iopl(3);
    m.ok(&[0xed]);
    assert_eq!(m.state.gpr[0], 0x8765_4321);
    let mut m = Machine::v86();
    m.iopl(3);
    m.put(TSS + 104, 1, 0xff);
    assert_eq!(m.fault(&[0xe4, 0x01]), (Vector::Gp, 0));
}

#[test]
fn string_ports_move_blocks() {
    let mut m = Machine::protected();
    m.state.gpr[2] = 0x1f0;
    m.state.gpr[1] = 256;
    m.state.gpr[7] = 0x9000;
    // rep insw
    m.ok(&[0xf3, 0x66, 0x6d]);
    assert_eq!(m.bytes(0x91fe, 2), [0xfe, 0xff]);
    assert_eq!((m.state.gpr[1], m.state.gpr[7]), (0, 0x9200));
    m.state.gpr[6] = 0x9002;
    // outsb
    m.ok(&[0x6e]);
    let log = m.bus.log.lock().unwrap().clone();
    assert_eq!(log, ["ins 0x1f0 2 512", "out 0x1f0 1 0x2"]);
}

#[test]
fn a_fault_in_rep_ins_loses_no_data() {
    let mut m = Machine::protected();
    m.load(Seg::Es, sel::SMALL);
    m.state.gpr[2] = 0x1f0;
    m.state.gpr[1] = 4;
    m.state.gpr[7] = 0xffc;
    let e = m.run(&[0xf3, 0x66, 0x6d]).unwrap_err();
    assert_eq!((e.vector, e.code), (Vector::Gp, 0));
    assert_eq!((m.state.gpr[1], m.state.gpr[7]), (2, 0x1000));
    assert_eq!(m.state.rip, CODE);
    assert_eq!(*m.bus.log.lock().unwrap(), ["ins 0x1f0 2 4"]);
}

#[test]
fn popf_respects_privilege() {
    // Level, IOPL, popped value, bits of it that must arrive.
    let all = rflags::ALL & !(rflags::RF | rflags::VM | rflags::VIF | rflags::VIP);
    for (cpl, iopl, lost) in [(0, 0, 0), (3, 0, rflags::IF | rflags::IOPL), (3, 3, 0)] {
        let mut m = Machine::protected();
        m.level(cpl);
        m.iopl(iopl);
        let sp = m.state.gpr[4];
        m.put(sp, 4, u64::from(u32::MAX));
        m.ok(&[0x9d]);
        assert_eq!(m.state.rflags, all & !lost, "{cpl} {iopl}");
    }
    let mut m = Machine::protected();
    m.state.rflags |= rflags::RF | rflags::ID;
    m.ok(&[0x9c]);
    assert_eq!(m.stack(1, 4), [2 | rflags::ID]);
    assert_eq!(m.state.gpr[4], STACK0 - 4);
}

#[test]
fn sti_and_stack_switches_hold_off_interrupts_for_one_instruction() {
    let mut m = Machine::protected();
    m.ok(&[0xfb]);
    assert!(m.state.shadow);
    m.ok(&[0xfc]);
    assert!(!m.state.shadow);
    // With IF already set there is nothing to hold off.
    m.ok(&[0xfb]);
    assert!(!m.state.shadow);
    // pop ss
    m.put(STACK0, 4, u64::from(sel::DATA0));
    m.ok(&[0x17]);
    assert!(m.state.shadow);
}

#[test]
fn hlt_halts_behind_itself() {
    let mut m = Machine::protected();
    assert_eq!(m.ok(&[0xf4]), Flow::Halt);
    assert_eq!((m.state.rip, m.state.run), (CODE + 1, RunState::Halted));
    m.deliver(crate::sys::Event::External(0x40)).unwrap();
    assert_eq!(m.state.run, RunState::Running);
    assert_eq!(m.stack(1, 4), [CODE + 1]);
    m.level(3);
    assert_eq!(m.fault(&[0xf4]), (Vector::Gp, 0));
}

#[test]
fn descriptor_queries() {
    let mut m = Machine::protected();
    m.level(3);
    // Selector, LAR accepts, LSL accepts, VERR accepts, VERW accepts (at level 3).
    let cases = [
        (sel::DATA3, true, true, true, true),
        (sel::DATA0, false, false, false, false),
        (sel::CODE3, true, true, true, false),
        (sel::CONFORMING, true, true, true, false),
        (sel::GATE, true, false, false, false),
        (0, false, false, false, false),
        (0xff00, false, false, false, false),
    ];
    for (s, lar, lsl, verr, verw) in cases {
        for (code, want) in [
            (&[0x0f, 0x02, 0xd8][..], lar),
            (&[0x0f, 0x03, 0xd8], lsl),
            (&[0x0f, 0x00, 0xe0], verr),
            (&[0x0f, 0x00, 0xe8], verw),
        ] {
            m.state.gpr[0] = u64::from(s);
            m.ok(code);
            let got = m.state.rflags & rflags::ZF != 0;
            assert_eq!(got, want, "{s:#x} {code:02x?}");
        }
    }
    m.state.gpr[0] = u64::from(sel::DATA3);
    m.ok(&[0x0f, 0x03, 0xd8]);
    assert_eq!(m.state.gpr[3], 0xffff_ffff);
    m.ok(&[0x0f, 0x02, 0xd8]);
    assert_eq!(m.state.gpr[3], 0x00c0_f200);
}

#[test]
fn xsetbv_and_xgetbv() {
    let mut m = Machine::long();
    m.state.gpr[1] = 0;
    assert_eq!(m.fault(&[0x0f, 0x01, 0xd0]).0, Vector::Ud);
    m.state.cr4 |= cr4::OSXSAVE;
    for (value, fine) in [
        (1, true),
        (3, true),
        (7, true),
        (5, false),
        (2, false),
        (0xf, false),
    ] {
        m.state.gpr[0] = value;
        m.state.gpr[2] = 0;
        assert_eq!(m.run(&[0x0f, 0x01, 0xd1]).is_ok(), fine, "{value:#x}");
    }
    m.ok(&[0x0f, 0x01, 0xd0]);
    assert_eq!(m.state.gpr[0], 7);
    // CPUID mirrors CR4.OSXSAVE.
    m.state.gpr[0] = 1;
    m.ok(&[0x0f, 0xa2]);
    assert_ne!(m.state.gpr[1] & 1 << 27, 0);
}

#[test]
fn registers_of_absent_features_do_not_exist() {
    let mut m = Machine::long();
    // TSC_AUX is there, APERF is not shown, FEATURE_CONTROL is Intel's, HWCR AMD's.
    assert!(rdmsr(&mut m, msr::TSC_AUX).is_ok());
    assert!(rdmsr(&mut m, 0xe8).is_err());
    assert!(rdmsr(&mut m, msr::MISC_ENABLE).is_ok());
    assert!(rdmsr(&mut m, 0xc001_0015).is_err());
    m.bus.amd = true;
    assert!(rdmsr(&mut m, msr::MISC_ENABLE).is_err());
    assert_eq!(rdmsr(&mut m, 0xc001_0015), Ok(1 << 24));

    let mut m = Machine::protected();
    m.bus.plain = true;
    for index in [msr::TSC, msr::EFER, msr::PAT, msr::STAR, msr::MTRRCAP] {
        assert!(rdmsr(&mut m, index).is_err(), "{index:#x}");
    }
    for bit in 0..32 {
        m.state.gpr[0] = 1 << bit;
        assert_eq!(
            m.fault(&[0x0f, 0x22, 0xe0]),
            (Vector::Gp, 0),
            "CR4 bit {bit}"
        );
    }
}

#[test]
fn amd_processors_have_no_sysenter_in_long_mode() {
    let mut m = Machine::long();
    m.state.sysenter_cs = u64::from(sel::CODE0);
    m.bus.amd = true;
    assert_eq!(m.fault(&[0x0f, 0x34]), (Vector::Ud, 0));
    assert_eq!(m.fault(&[0x0f, 0x35]), (Vector::Ud, 0));
}

#[test]
fn monitor_is_there_only_when_cpuid_says_so() {
    let mut m = Machine::protected();
    assert_eq!(m.fault(&[0x0f, 0x01, 0xc8]), (Vector::Ud, 0));
    assert_eq!(m.fault(&[0x0f, 0x01, 0xc9]), (Vector::Ud, 0));
}
