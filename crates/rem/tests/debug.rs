//! Breakpoints, single steps, alignment checks, limits of decoding, and SMIs on the engine.

#![allow(clippy::unwrap_used)]

mod guest;

use cpu::RunState;
use cpu::bits::{cr0, cr4, dr6, rflags};
use guest::{CODE, DATA, Guest};

/// `mov [DATA], eax; mov ecx, [DATA]; nop; hlt`
const STORE_LOAD: [u8; 16] = [
    0x89, 0x04, 0x25, 0, 0, 2, 0, 0x8b, 0x0c, 0x25, 0, 0, 2, 0, 0x90, 0xf4,
];

#[test]
fn data_breakpoints_trap_after_the_access() {
    let mut g = Guest::new(&STORE_LOAD);
    assert_eq!(g.run(), None, "the page is in the TLB");
    g.level(0);
    g.s.gpr[0] = 77;
    g.breakpoint(1, DATA, 1, 3);
    let f = g.run().unwrap();
    assert_eq!((f.0, f.1), (1, CODE + 7));
    assert_eq!(g.hit(), 2);
    assert_eq!(g.get(DATA), 77, "it is a trap");
    assert_eq!(f.2 & rflags::RF, 0);
    assert_eq!(g.resume(f, 0), None, "reads are not watched");
    // Accesses of both kinds, and one byte in the middle.
    g.level(0);
    g.breakpoint(1, DATA + 2, 3, 0);
    let f = g.run().unwrap();
    assert_eq!((f.1, g.hit()), (CODE + 7, 2));
    let f = g.resume(f, 0).unwrap();
    assert_eq!((f.1, g.hit()), (CODE + 14, 2));
    assert_eq!(g.resume(f, 0), None);
    // A neighbour on the same page.
    g.level(0);
    g.breakpoint(1, DATA + 4, 3, 3);
    assert_eq!(g.run(), None);
}

#[test]
fn repeated_string_instructions_trap_in_the_middle() {
    // rep stosd; hlt
    let mut g = Guest::new(&[0xf3, 0xab, 0xf4]);
    g.s.gpr[7] = DATA;
    g.s.gpr[1] = 8;
    g.breakpoint(0, DATA + 12, 1, 3);
    let f = g.run().unwrap();
    assert_eq!((f.0, f.1), (1, CODE));
    assert_eq!(f.2 & rflags::RF, rflags::RF);
    assert_eq!((g.s.gpr[1], g.s.gpr[7]), (4, DATA + 16));
    assert_eq!(g.resume(f, 0), None);
    assert_eq!((g.s.gpr[1], g.s.gpr[7]), (0, DATA + 32));
}

#[test]
fn code_breakpoints_fault_before_the_instruction_unless_resumed() {
    // inc eax; inc eax; inc eax; jmp to the first; (7 bytes) ...
    let code = [
        0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0x83, 0xf8, 5, 0x72, 0xf5, 0xf4,
    ];
    let mut g = Guest::new(&code);
    assert_eq!(g.run(), None);
    g.level(0);
    g.s.gpr[0] = 0;
    g.breakpoint(2, CODE + 2, 0, 0);
    let f = g.run().unwrap();
    assert_eq!((f.0, f.1, g.s.gpr[0]), (1, CODE + 2, 1));
    assert_eq!(g.hit(), 4);
    let again = g.resume(f, 0).unwrap();
    assert_eq!(
        (again.1, g.s.gpr[0]),
        (CODE + 2, 1),
        "without RF it comes again"
    );
    let next = g.resume(f, rflags::RF).unwrap();
    assert_eq!(
        (next.1, g.s.gpr[0]),
        (CODE + 2, 4),
        "with RF, once round the loop"
    );
    assert_eq!(g.resume(next, rflags::RF), None);
}

#[test]
fn io_breakpoints_trap_and_count_every_element() {
    // out 0x43, al; rep outsb; hlt
    let mut g = Guest::new(&[0xe6, 0x43, 0xf3, 0x6e, 0xf4]);
    g.s.gpr[6] = DATA;
    g.s.gpr[1] = 2;
    g.s.gpr[2] = 0x41;
    // Ports 0x40 to 0x43.
    g.breakpoint(3, 0x40, 2, 3);
    let f = g.run().unwrap();
    assert_eq!((f.1, g.hit()), (CODE + 2, 8));
    let f = g.resume(f, 0).unwrap();
    assert_eq!((f.1, g.s.gpr[1], g.hit()), (CODE + 2, 1, 8));
    let f = g.resume(f, 0).unwrap();
    assert_eq!((f.1, g.s.gpr[1]), (CODE + 4, 0));
    assert_eq!(*g.bus.1.lock().unwrap(), [0x43, 0x41, 0x41]);
    g.s.cr4 &= !cr4::DE;
    g.level(0);
    assert_eq!(g.run(), None, "without CR4.DE there is no such breakpoint");
}

#[test]
fn single_steps_stop_after_each_instruction() {
    // nop; jmp +1; hlt; cpuid; hlt
    let mut g = Guest::new(&[0x90, 0xeb, 1, 0xf4, 0x0f, 0xa2, 0xf4]);
    g.s.rflags |= rflags::TF;
    let mut at = Vec::new();
    let mut f = g.run().unwrap();
    while f.1 != CODE + 6 {
        at.push(f.1 - CODE);
        assert_eq!((f.0, g.hit()), (1, dr6::BS));
        f = g.resume(f, 0).unwrap();
    }
    assert_eq!(at, [1, 4]);
    // With BTF only the jump traps; the trap takes BTF away.
    g.level(0);
    g.s.rflags |= rflags::TF;
    g.s.debugctl = 2;
    let f = g.run().unwrap();
    assert_eq!((f.1, g.s.debugctl), (CODE + 4, 0));
}

#[test]
fn a_load_of_ss_holds_traps_off() {
    // mov ss, [DATA]; nop; hlt, in 64-bit code a null selector will do.
    let mut g = Guest::new(&[0x8e, 0x14, 0x25, 0, 0, 2, 0, 0x90, 0xf4]);
    g.breakpoint(0, DATA, 3, 1);
    g.s.rflags |= rflags::TF;
    let f = g.run().unwrap();
    assert_eq!((f.0, f.1), (1, CODE + 8), "after the NOP");
    assert_eq!(g.hit(), 1 | dr6::BS);
}

#[test]
fn debug_registers_can_be_guarded() {
    // mov rax, dr6
    let mut g = Guest::new(&[0x0f, 0x21, 0xf0, 0xf4]);
    g.s.dr[7] |= 1 << 13;
    let f = g.run().unwrap();
    assert_eq!((f.0, f.1, g.hit()), (1, CODE, dr6::BD));
    assert_eq!(g.s.dr[7] & 1 << 13, 0);
    assert_eq!(g.resume(f, 0), None);
}

#[test]
fn instructions_of_more_than_15_bytes_are_general_protection_faults() {
    let nop = |n: usize| [vec![0x66; n], vec![0x90, 0xf4]].concat();
    for (code, vector) in [
        (nop(14), None),
        (nop(15), Some(13)),
        (nop(20), Some(13)),
        // add eax, [rax + disp32] with twelve prefixes
        (
            [[0x3e; 12].as_slice(), &[0x03, 0x80, 0, 0, 0, 0]].concat(),
            Some(13),
        ),
        // UD2 with prefixes, LOCK on what cannot be locked, an opcode that is none.
        (vec![0x66, 0x66, 0x0f, 0x0b], Some(6)),
        (vec![0xf0, 0x90], Some(6)),
        (vec![0xf0, 0x01, 0xc0], Some(6)),
        (vec![0x0f, 0x04], Some(6)),
        (vec![0x06], Some(6)),
        (vec![0x0f, 0xff, 0xc0], Some(6)),
        (vec![0x0f, 0xb9, 0xc0], Some(6)),
    ] {
        let mut g = Guest::new(&code);
        assert_eq!(g.run().map(|f| f.0), vector, "{code:x?}");
    }
}

#[test]
fn alignment_is_checked_at_level_three_only() {
    let mut code = STORE_LOAD;
    code[3] = 2;
    for level in [0, 3] {
        let mut g = Guest::new(&code);
        g.s.cr0 |= cr0::AM;
        g.level(level);
        g.s.rflags |= rflags::AC;
        let f = g.run();
        if level == 0 {
            assert_eq!(f, None);
            continue;
        }
        let f = f.unwrap();
        assert_eq!((f.0, f.1), (17, CODE));
        assert_eq!(g.get(g.s.gpr[4]), 0, "error code");
        // Aligned, or unchecked, it goes through up to the HLT, which is not for level 3.
        g.level(3);
        assert_eq!(g.run().unwrap().0, 13);
    }
    // Pushes too: push rax with a stack pointer of 4 modulo 8; movsd from an odd address.
    for (code, sp) in [
        (&[0x50, 0xf4][..], 4),
        (&[0xa5, 0xf4], 0),
        (&[0xf3, 0xa5, 0xf4], 0),
    ] {
        let mut g = Guest::new(code);
        g.s.cr0 |= cr0::AM;
        g.level(3);
        g.s.rflags |= rflags::AC;
        g.s.gpr[4] += sp;
        g.s.gpr[6] = DATA + 1;
        g.s.gpr[7] = DATA + 0x100;
        g.s.gpr[1] = 2;
        assert_eq!(g.run().unwrap().0, 17, "{code:x?}");
    }
}

#[test]
fn an_smi_goes_to_its_handler_and_rsm_back() {
    // inc eax; hlt. The handler at 0x38000: inc byte [0x20000] (DS is flat, address size 16 needs
    // a prefix); rsm.
    let mut g = Guest::new(&[0xff, 0xc0, 0xf4]);
    g.phys
        .write(0x3_8000, &[0x67, 0xfe, 0x05, 0, 0, 2, 0, 0x0f, 0xaa]);
    g.s.gpr[0] = 1;
    g.bus.0.raise(cpu::signal::SMI);
    assert_eq!(g.run(), None);
    assert_eq!((g.s.gpr[0], g.get(DATA) & 0xff), (2, 1));
    assert!(!g.s.smm && g.s.code64());
    // A halted processor is halted again.
    g.s.run = RunState::Halted;
    g.bus.0.raise(cpu::signal::SMI);
    let rip = g.s.rip;
    assert_eq!(g.run(), None);
    assert_eq!((g.s.rip, g.get(DATA) & 0xff), (rip, 2));
}
