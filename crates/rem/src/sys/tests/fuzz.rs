//! Random instructions in random situations: nothing panics, and what faults can be started again.

use cpu::bits::rflags;
use cpu::{Seg, SegReg, attr};

use super::machine::{HANDLER, LDT, Machine, STACK3, sel};
use super::native::Random;
use crate::sys::{Event, Flow};

/// Instructions, by the bitness of the code they run in.
const BOTH: &[&[u8]] = &[
    &[0x8e, 0xc0],
    &[0x8e, 0xd8],
    &[0x8e, 0xd0],
    &[0x8e, 0xe0],
    &[0x0f, 0x02, 0xd8],
    &[0x0f, 0x03, 0xd8],
    &[0x0f, 0x00, 0xe0],
    &[0x0f, 0x00, 0xe8],
    &[0x0f, 0x00, 0xd0],
    &[0x0f, 0x00, 0xd8],
    &[0x0f, 0x00, 0xc0],
    &[0x0f, 0x00, 0xc8],
    &[0x9c],
    &[0x9d],
    &[0x66, 0x9c],
    &[0x66, 0x9d],
    &[0xfa],
    &[0xfb],
    &[0xcd, 0x40],
    &[0xcd, 0x41],
    &[0xcd, 0xf0],
    &[0xcc],
    &[0xcf],
    &[0x66, 0xcf],
    &[0xcb],
    &[0x66, 0xcb],
    &[0xca, 8, 0],
    &[0xc8, 0x10, 0x00, 0x00],
    &[0xc8, 0x08, 0x00, 0x03],
    &[0xc9],
    &[0x0f, 0xa1],
    &[0x0f, 0xa0],
    &[0xf3, 0xa4],
    &[0xf3, 0xab],
    &[0xf2, 0xae],
    &[0xa7],
    &[0x0f, 0x01, 0xe0],
    &[0x0f, 0x06],
    &[0x0f, 0xb2, 0x1e],
    &[0x0f, 0xb4, 0x1e],
    &[0xff, 0x1e],
    &[0xff, 0x2e],
    &[0x8f, 0x06],
    &[0x9e],
    &[0x9f],
];

/// Not in 64-bit mode.
const LEGACY: &[&[u8]] = &[
    &[0x06],
    &[0x07],
    &[0x1f],
    &[0x17],
    &[0x60],
    &[0x61],
    &[0x66, 0x60],
    &[0x66, 0x61],
    &[0x27],
    &[0x2f],
    &[0x37],
    &[0x3f],
    &[0xd4, 10],
    &[0xd5, 10],
    &[0xce],
    &[0x63, 0xd8],
    &[0x62, 0x1e],
    &[0xc4, 0x1e],
    &[0xc5, 0x1e],
    &[0xd6],
];

const LONG: &[&[u8]] = &[
    &[0x48, 0xcf],
    &[0x48, 0xcb],
    &[0x48, 0xff, 0x1e],
    &[0x48, 0xff, 0x2e],
    &[0x0f, 0x05],
    &[0x48, 0x0f, 0x07],
    &[0x0f, 0x07],
    &[0x0f, 0x01, 0xf8],
    &[0xf3, 0x48, 0xa5],
];

const SELECTORS: [u16; 22] = [
    0,
    3,
    sel::CODE0,
    sel::DATA0,
    sel::CODE3,
    sel::DATA3,
    sel::CODE3 & !3,
    sel::DATA3 & !3,
    sel::SMALL,
    sel::DOWN,
    sel::GATE,
    sel::GATE | 3,
    sel::CONFORMING,
    sel::CONFORMING | 3,
    sel::ABSENT,
    sel::READ_ONLY,
    sel::EXECUTE_ONLY,
    sel::LDT,
    sel::CODE64,
    sel::CODE64_3,
    sel::STACK16,
    0xff8,
];

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
    from[random.next(from.len() as u64) as usize]
}

/// A machine in some mode, with registers and stacks full of things worth trying.
fn situation(random: &mut Random) -> (Machine, u32, &'static str) {
    let (mut m, bits, name) = match random.next(7) {
        0 => (Machine::real(), 16, "real"),
        1 => (Machine::v86(), 16, "v86"),
        2 | 3 => (Machine::protected(), 32, "protected"),
        4 | 5 => (Machine::long(), 64, "long"),
        _ => {
            let mut m = Machine::long();
            m.level(0);
            (m, 32, "compatibility")
        }
    };
    // Wherever a transfer ends, nothing goes on from there.
    for start in [0x1_0000, 0x4_0000] {
        m.mem.phys.write(start, &[0xf4; 0x1_8000]);
    }
    if m.state.protected() && random.next(2) == 1 {
        m.level(3);
        if bits == 64 {
            m.level3_long();
        }
    }
    if m.state.protected() {
        let gate3 = super::machine::gate(15, 3, sel::CODE0, HANDLER + 0x41, 0);
        if m.state.long_mode() {
            let gate3 = super::machine::gate(15, 3, sel::CODE64, HANDLER + 0x41, 0);
            m.put(super::machine::IDT + 16 * 0x41, 8, gate3);
            m.put(super::machine::IDT + 16 * 0x41 + 8, 8, 0);
            m.put(super::machine::IDT + 16 * 0x40, 8, gate3 & !(3 << 45));
            m.put(super::machine::IDT + 16 * 0x40 + 8, 8, 0);
            m.state.star = 0x0023 << 48 | 0x0008 << 32;
            m.state.idtr.limit = 0x42 * 16 - 1;
        } else {
            m.idt(0x41, gate3);
        }
        m.put(LDT, 8, 0);
    }
    m.state.ldtr = SegReg {
        attr: attr::UNUSABLE,
        ..SegReg::default()
    };
    m.iopl(random.next(4));
    m.state.rflags |= random.next(4096) & (rflags::ARITH | rflags::DF);
    if random.next(2) == 1 {
        m.state.rflags |= rflags::IF;
    }
    for r in [0, 1, 2, 3, 6, 7] {
        m.state.gpr[r] = match random.next(6) {
            4 => u64::MAX - random.next(64),
            5 => 1 << random.next(64),
            0 => random.next(0x1_0000),
            1 => u64::from(pick(random, &SELECTORS)),
            2 => 0x1_0000 + random.next(0x8000),
            _ => random.next(64),
        };
    }
    // BP-relative frames for ENTER and LEAVE.
    m.state.gpr[5] = m.state.gpr[4] + 8 * random.next(8);
    // Something like a return frame on the stack, in units of each size.
    let ss = if bits == 64 {
        0
    } else {
        m.state.seg[Seg::Ss as usize].base
    };
    let top = ss + m.state.gpr[4];
    let unit = pick(random, &[2usize, 4, 8]);
    for i in 0..10 {
        let value = match i {
            0 => match random.next(4) {
                0 => random.next(0x1_0000),
                _ => HANDLER + 0x100 + random.next(64),
            },
            1 | 4 => u64::from(pick(random, &SELECTORS)),
            2 => {
                let flags = random.next(1 << 22) & rflags::ALL;
                // Tracing, nesting and virtual interrupts are other tests.
                flags & !(rflags::TF | rflags::NT | rflags::VIP | rflags::VIF | rflags::RF)
            }
            3 => STACK3 - 0x800,
            _ => u64::from(pick(random, &SELECTORS)),
        };
        m.put(top + (i * unit) as u64, unit, value);
    }
    (m, bits, name)
}

/// Gives memory operands their address: a pointer with a random selector at 0x600 in DS.
fn complete(random: &mut Random, m: &mut Machine, bits: u32, code: &[u8]) -> Vec<u8> {
    let mut code = code.to_vec();
    let modrm = code.last().copied().unwrap_or(0);
    let with_memory = code.len() >= 2 && matches!(modrm, 0x1e | 0x2e | 0x06) && {
        let opcode = code[code.len() - 2];
        matches!(opcode, 0xb2 | 0xb4 | 0xff | 0x8f | 0x62 | 0xc4 | 0xc5)
    };
    if with_memory {
        let at = if bits == 64 {
            0x600
        } else {
            m.state.seg[Seg::Ds as usize].base + 0x600
        };
        let size = if code[0] == 0x48 {
            8
        } else if bits == 16 {
            2
        } else {
            4
        };
        m.put(at, size, HANDLER + 0x100);
        m.put(at + size as u64, 2, u64::from(pick(random, &SELECTORS)));
        let last = code.len() - 1;
        match bits {
            16 => code.extend([0x00, 0x06]),
            32 => {
                code[last] = modrm & 0x38 | 5;
                code.extend([0x00, 0x06, 0, 0]);
            }
            _ => {
                code[last] = modrm & 0x38 | 4;
                code.extend([0x25, 0x00, 0x06, 0, 0]);
            }
        }
    }
    code
}

#[test]
fn faults_leave_everything_restartable_and_can_be_delivered() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut completed, mut faulted) = (0, 0);
    for round in 0..5_000 {
        let (mut m, bits, name) = situation(&mut random);
        let table = match random.next(3) {
            0 if bits == 64 => LONG,
            0 => LEGACY,
            _ => BOTH,
        };
        if bits == 64 && table == LEGACY {
            continue;
        }
        let code = pick(&mut random, table);
        let code = complete(&mut random, &mut m, bits, code);
        let what = format!("round {round}, {name}, {code:02x?}");
        let before = m.state.clone();
        let mut result = m.run(&code);
        // Repeated instructions are given up after a while: their counts may be astronomic.
        for _ in 0..3 {
            if result == Ok(Flow::Repeat) {
                assert_eq!(m.state.rip, before.rip, "{what}");
                result = m.run(&code);
            }
        }
        let Err(e) = result else {
            completed += 1;
            continue;
        };
        faulted += 1;
        let string = matches!(code.last(), Some(0xa4 | 0xa5 | 0xa7 | 0xab | 0xae));
        if !string {
            assert_eq!(m.state.gpr, before.gpr, "{what}");
            assert_eq!(m.state.rflags, before.rflags, "{what}");
        }
        assert_eq!(m.state.rip, before.rip, "{what}");
        assert_eq!(m.state.seg, before.seg, "{what}");
        assert_eq!(m.state.gpr[4], before.gpr[4], "{what}");
        // A string instruction may have overwritten the tables before it faulted.
        let delivered = m.deliver(Event::Exception(e));
        assert!(string || delivered.is_ok(), "{what}");
    }
    assert!(completed > 500 && faulted > 500, "{completed} {faulted}");
}
