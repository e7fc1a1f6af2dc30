//! System management mode.

use cpu::bits::{cr0, rflags};
use cpu::{RunState, Seg, Vector};

use super::machine::{CODE, Machine};
use crate::sys::{Flow, enter_smm};

const MAP: u64 = 0x3_fe00;
const RSM: [u8; 2] = [0x0f, 0xaa];

fn text(m: &Machine) -> String {
    format!("{:?}", m.state)
}

#[test]
fn entry_saves_what_rsm_restores() {
    let machines: [fn() -> Machine; 4] = [
        Machine::real,
        Machine::protected,
        Machine::v86,
        Machine::long,
    ];
    for make in machines {
        let mut m = make();
        for (n, r) in m.state.gpr.iter_mut().enumerate() {
            *r = 0x1111_2222_3333_4440 + n as u64;
        }
        m.state.rflags |= rflags::IF | rflags::CF;
        let before = text(&m);
        m.with(enter_smm).unwrap();
        let s = &m.state;
        assert!(s.smm && s.nmi_blocked);
        assert_eq!((s.rip, s.rflags), (0x8000, rflags::FIXED));
        assert_eq!(s.seg[Seg::Cs as usize].base, 0x3_0000);
        assert_eq!(s.seg[Seg::Cs as usize].sel, 0x3000);
        assert_eq!(s.seg[Seg::Ds as usize].limit, u32::MAX);
        assert_eq!(s.cr0 & (cr0::PE | cr0::PG), 0);
        assert_eq!((s.cr4, s.efer), (0, 0));
        assert_eq!(m.get(MAP + 0xfc, 4), 0x2_0064);
        assert_eq!(m.get(MAP + 0x1f8, 8), 0x1111_2222_3333_4440, "RAX");
        assert_eq!(m.get(MAP + 0x180, 8), 0x1111_2222_3333_444f, "R15");
        m.ok(&RSM);
        assert_eq!(text(&m), before);
        assert_eq!(m.fault(&RSM), (Vector::Ud, 0));
    }
}

#[test]
fn handlers_can_move_the_base_and_end_a_halt() {
    let mut m = Machine::protected();
    m.state.run = RunState::Halted;
    m.with(enter_smm).unwrap();
    assert_eq!(m.state.run, RunState::Running);
    m.put(MAP + 0x100, 4, 0x2_0000);
    assert_eq!(m.ok(&RSM), Flow::Halt);
    assert_eq!(m.state.run, RunState::Halted);
    m.with(enter_smm).unwrap();
    assert_eq!(m.state.seg[Seg::Cs as usize].base, 0x2_0000);
    m.put(0x2_fe00 + 0xc9, 1, 0);
    m.put(0x2_fe00 + 0x178, 8, CODE + 5);
    assert_eq!(m.ok(&RSM), Flow::Jump);
    assert_eq!((m.state.run, m.state.rip), (RunState::Running, CODE + 5));
}

#[test]
fn a_map_that_is_no_state_shuts_down() {
    // CR0: paging without protection; CR4 and EFER: bits that are none; GDTR: not canonical.
    for (offset, value) in [
        (0x158, 1 << 31),
        (0x148, 1 << 40),
        (0xd0, 1 << 12),
        (0x68, 1 << 50),
        (0xd0, 1 << 10),
    ] {
        let mut m = Machine::protected();
        m.with(enter_smm).unwrap();
        m.put(MAP + offset, 8, value);
        assert_eq!(m.ok(&RSM), Flow::Shutdown, "{offset:#x}");
    }
}
