//! Results compared with those of the host's processor.
#![allow(unsafe_code)] // runs single instructions natively on local buffers

use cpu::Seg;
use cpu::bits::{cr4, rflags};

use super::machine::{Machine, sel};
use crate::sys::Flow;

/// Where the buffer is in the machine.
const AT: u64 = 0x10_0000;
const LEN: usize = 0x6000;

/// Small and fast pseudo-random numbers.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Regs {
    rax: u64,
    rcx: u64,
    rsi: u64,
    rdi: u64,
    flags: u64,
}

/// Runs one string instruction on this processor; pointers are relative to `buffer`.
macro_rules! native {
    ($text:literal, $regs:expr, $buffer:expr) => {{
        let base = $buffer.as_mut_ptr() as u64;
        let (mut rax, mut rcx) = ($regs.rax, $regs.rcx);
        let (mut rsi, mut rdi) = ($regs.rsi + base, $regs.rdi + base);
        let mut flags = $regs.flags;
        // SAFETY: the callers keep all elements inside `buffer`; DF is cleared afterwards.
        unsafe {
            std::arch::asm!(
                "push {f}",
                "popfq",
                $text,
                "pushfq",
                "pop {f}",
                "cld",
                f = inout(reg) flags,
                inout("rax") rax,
                inout("rcx") rcx,
                inout("rsi") rsi,
                inout("rdi") rdi,
            );
        }
        Regs {
            rax,
            rcx,
            rsi: rsi.wrapping_sub(base),
            rdi: rdi.wrapping_sub(base),
            flags,
        }
    }};
}

fn run_native(index: usize, r: Regs, b: &mut [u8]) -> Regs {
    match index {
        0 => native!("rep movsb", r, b),
        1 => native!("rep movsw", r, b),
        2 => native!("rep movsd", r, b),
        3 => native!("rep movsq", r, b),
        4 => native!("rep stosb", r, b),
        5 => native!("rep stosw", r, b),
        6 => native!("rep stosd", r, b),
        7 => native!("rep stosq", r, b),
        8 => native!("rep lodsb", r, b),
        9 => native!("rep lodsw", r, b),
        10 => native!("rep lodsd", r, b),
        11 => native!("rep lodsq", r, b),
        12 => native!("repe scasb", r, b),
        13 => native!("repne scasw", r, b),
        14 => native!("repne scasd", r, b),
        15 => native!("repe scasq", r, b),
        16 => native!("repe cmpsb", r, b),
        17 => native!("repe cmpsw", r, b),
        18 => native!("repne cmpsd", r, b),
        19 => native!("repne cmpsq", r, b),
        20 => native!("movsd", r, b),
        21 => native!("scasb", r, b),
        22 => native!("cmpsq", r, b),
        _ => native!("lodsb", r, b),
    }
}

const CODES: [(&[u8], u64); 24] = [
    (&[0xf3, 0xa4], 1),
    (&[0xf3, 0x66, 0xa5], 2),
    (&[0xf3, 0xa5], 4),
    (&[0xf3, 0x48, 0xa5], 8),
    (&[0xf3, 0xaa], 1),
    (&[0xf3, 0x66, 0xab], 2),
    (&[0xf3, 0xab], 4),
    (&[0xf3, 0x48, 0xab], 8),
    (&[0xf3, 0xac], 1),
    (&[0xf3, 0x66, 0xad], 2),
    (&[0xf3, 0xad], 4),
    (&[0xf3, 0x48, 0xad], 8),
    (&[0xf3, 0xae], 1),
    (&[0xf2, 0x66, 0xaf], 2),
    (&[0xf2, 0xaf], 4),
    (&[0xf3, 0x48, 0xaf], 8),
    (&[0xf3, 0xa6], 1),
    (&[0xf3, 0x66, 0xa7], 2),
    (&[0xf2, 0xa7], 4),
    (&[0xf2, 0x48, 0xa7], 8),
    (&[0xa5], 4),
    (&[0xae], 1),
    (&[0x48, 0xa7], 8),
    (&[0xac], 1),
];

const ARITH: u64 = rflags::ARITH;

#[test]
fn string_instructions_do_what_the_host_does() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut m = Machine::long();
    for round in 0..3000 {
        let index = round % CODES.len();
        let (code, unit) = CODES[index];
        let down = random.next(2) == 1;
        let near = random.next(3) == 0;
        // Mostly equal contents, so that comparisons run for a while.
        let fill = random.next(256) as u8;
        let mut buffer = vec![fill; LEN];
        for _ in 0..random.next(8) {
            buffer[random.next(LEN as u64) as usize] ^= 1;
        }
        if near {
            for b in &mut buffer {
                *b = random.next(256) as u8;
            }
        }
        let most = if random.next(4) == 0 { 1200 } else { 40 };
        let count = random.next(most);
        let span = count.max(1) * unit;
        let room = LEN as u64 - 2 * span - 16;
        let place = |random: &mut Random| {
            let at = span + random.next(room);
            at + if down { 8 } else { 0 }
        };
        let rsi = place(&mut random);
        let rdi = if near {
            (rsi + random.next(40))
                .saturating_sub(20)
                .clamp(span, LEN as u64 - span - 8)
        } else {
            place(&mut random)
        };
        let regs = Regs {
            rax: u64::from_le_bytes([fill; 8]) ^ random.next(3) << 62,
            rcx: count,
            rsi,
            rdi,
            flags: 0x202 | random.next(2048) & ARITH | if down { rflags::DF } else { 0 },
        };
        m.mem.phys.write(AT, &buffer);
        let want = run_native(index, regs, &mut buffer);

        m.state.gpr[0] = regs.rax;
        m.state.gpr[1] = regs.rcx;
        m.state.gpr[6] = regs.rsi + AT;
        m.state.gpr[7] = regs.rdi + AT;
        m.state.rflags = regs.flags;
        let rip = m.state.rip;
        while m.ok(code) == Flow::Repeat {
            assert_eq!(m.state.rip, rip);
        }
        let got = Regs {
            rax: m.state.gpr[0],
            rcx: m.state.gpr[1],
            rsi: m.state.gpr[6] - AT,
            rdi: m.state.gpr[7] - AT,
            flags: m.state.rflags,
        };
        assert_eq!(got, want, "round {round}, {code:02x?}, {regs:?}");
        assert!(
            m.bytes(AT, LEN) == buffer,
            "round {round}, {code:02x?}, {regs:?}"
        );
    }
}

#[test]
fn sixteen_bit_pointers_wrap_inside_64_kib() {
    let mut m = Machine::real();
    m.state.gpr[6] = 0xffff_fffe;
    m.state.gpr[7] = 0x1234_8000;
    m.state.gpr[1] = 0xabcd_0004;
    let ds = m.state.seg[Seg::Ds as usize].base;
    for (offset, byte) in [(0xfffe, 1), (0xffff, 2), (0, 3), (1, 4)] {
        m.put(ds + offset, 1, byte);
    }
    m.ok(&[0xf3, 0xa4]);
    assert_eq!(m.bytes(ds + 0x8000, 4), [1, 2, 3, 4]);
    assert_eq!(m.state.gpr[6], 0xffff_0002);
    assert_eq!(m.state.gpr[7], 0x1234_8004);
    assert_eq!(m.state.gpr[1], 0xabcd_0000);
}

#[test]
fn repeats_stop_at_the_faulting_element_and_for_single_steps() {
    let mut m = Machine::protected();
    m.load(Seg::Es, sel::SMALL);
    m.state.gpr[7] = 0xff0;
    m.state.gpr[1] = 100;
    let e = m.run(&[0xf3, 0xab]).unwrap_err();
    assert_eq!(e.vector, cpu::Vector::Gp);
    assert_eq!((m.state.gpr[7], m.state.gpr[1]), (0x1000, 96));

    let mut m = Machine::long();
    // Two pages; the second is not there.
    m.state.gpr[7] = 0x3f_ff80;
    m.state.gpr[1] = 0x100;
    let e = m.run(&[0xf3, 0x48, 0xab]).unwrap_err();
    assert_eq!((e.address, e.code), (0x40_0000, 2));
    assert_eq!((m.state.gpr[7], m.state.gpr[1]), (0x40_0000, 0xf0));

    let mut m = Machine::protected();
    m.state.rflags |= rflags::TF;
    m.state.gpr[7] = 0x9000;
    m.state.gpr[1] = 2;
    assert_eq!(m.ok(&[0xf3, 0xab]), Flow::Repeat);
    assert_eq!(m.state.gpr[1], 1);
    assert_eq!(m.ok(&[0xf3, 0xab]), Flow::Next);

    // A megabyte does not go in one piece.
    let mut m = Machine::protected();
    m.state.gpr[7] = 0x10_0000;
    m.state.gpr[1] = 0x10_0000;
    assert_eq!(m.ok(&[0xf3, 0xaa]), Flow::Repeat);
    assert!(m.state.gpr[1] > 0xe_0000);
}

#[test]
fn decimal_adjustments_match_the_manuals_examples() {
    // AL before, flags before, instruction, AX after, flags after (of ZF SF PF AF CF).
    let (cf, af, pf, zf, sf) = (rflags::CF, rflags::AF, rflags::PF, rflags::ZF, rflags::SF);
    let cases: [(u64, u64, &[u8], u64, u64); 12] = [
        (0xae, sf, &[0x27], 0x14, pf | af | cf),
        (0x2e, 0, &[0x27], 0x34, af),
        (0x9a, 0, &[0x27], 0x00, pf | af | cf | zf),
        (0xee, sf | pf | af | cf, &[0x2f], 0x88, sf | pf | af | cf),
        (0x05, cf, &[0x2f], 0xa5, sf | pf | cf),
        (0x01, af, &[0x2f], 0xfb, sf | af | cf),
        (0x000b, 0, &[0x37], 0x0101, pf | af | cf),
        (0x0005, 0, &[0x37], 0x0005, pf),
        (0x0205, af, &[0x3f], 0x000f, pf | af | cf),
        (0x0044, 0, &[0xd4, 10], 0x0608, 0),
        (0x0608, 0, &[0xd5, 10], 0x0044, pf | af),
        (0x0100, cf, &[0xd6], 0x01ff, cf),
    ];
    for (before, flags, code, after, flags_after) in cases {
        let mut m = Machine::protected();
        m.state.gpr[0] = before;
        m.state.rflags |= flags;
        m.ok(code);
        assert_eq!(m.state.gpr[0], after, "{before:#x} {code:02x?}");
        let got = m.state.rflags & (cf | af | pf | zf | sf);
        assert_eq!(got, flags_after, "{before:#x} {code:02x?}");
    }
    let mut m = Machine::protected();
    assert_eq!(m.fault(&[0xd4, 0]).0, cpu::Vector::De);
}

#[repr(align(64))]
struct Area([u8; 1024]);

/// Puts something into the x87 unit, saves it as an image and in FNSAVE's layout.
fn native_x87() -> (Area, [u8; 108]) {
    let mut image = Area([0; 1024]);
    let mut saved = [0u8; 108];
    // SAFETY: saves to local buffers of the right size; FNSAVE leaves the unit initialised.
    unsafe {
        std::arch::asm!(
            "fninit",
            "fldpi",
            "fldz",
            "fld1",
            "fchs",
            "fld1",
            "fldz",
            "fdivp st(1), st",
            "ffree st(2)",
            "fxsave64 [{image}]",
            "fnsave [{saved}]",
            image = in(reg) image.0.as_mut_ptr(),
            saved = in(reg) saved.as_mut_ptr(),
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
    (image, saved)
}

#[test]
fn fnsave_and_frstor_follow_the_hosts_layout() {
    let (image, saved) = native_x87();
    let mut m = Machine::long();
    m.state.fpu.0[..416].copy_from_slice(&image.0[..416]);
    let before = m.state.fpu.clone();
    m.state.gpr[7] = AT;
    // fnsave [rdi]
    m.ok(&[0xdd, 0x37]);
    let got = m.bytes(AT, 108);
    // Control, status and tag words; then the registers. Pointers' selectors are not kept.
    assert_eq!(got[..12], saved[..12]);
    assert_eq!(got[28..], saved[28..]);
    assert_eq!(m.state.fpu.0[..6], [0x7f, 3, 0, 0, 0, 0]);
    // frstor [rdi]
    m.ok(&[0xdd, 0x27]);
    assert_eq!(m.state.fpu.0[..5], before.0[..5]);
    assert_eq!(m.state.fpu.0[32..160], before.0[32..160]);

    // The 16-bit layout of real mode.
    let mut m = Machine::real();
    m.state.fpu = before.clone();
    m.state.gpr[3] = 0x100;
    m.ok(&[0xd9, 0x37]);
    let at = m.state.seg[Seg::Ds as usize].base + 0x100;
    let (short, long) = (m.bytes(at, 14), saved);
    assert_eq!(short[..2], long[..2]);
    assert_eq!(short[2..4], long[4..6]);
    assert_eq!(short[4..6], long[8..10]);
}

#[test]
fn fxsave_round_trips_and_checks() {
    let (image, _) = native_x87();
    let mut m = Machine::long();
    m.state.fpu.0[..416].copy_from_slice(&image.0[..416]);
    m.state.fpu.0[24..28].copy_from_slice(&0x1fa0u32.to_le_bytes());
    let before = m.state.fpu.clone();
    m.state.gpr[7] = AT;
    // fxsave64 [rdi]; fxrstor64 [rdi]
    m.ok(&[0x48, 0x0f, 0xae, 0x07]);
    assert_eq!(m.bytes(AT, 24), before.0[..24]);
    m.state.fpu = cpu::Fpu::reset();
    m.ok(&[0x48, 0x0f, 0xae, 0x0f]);
    assert_eq!(m.state.fpu.0[..28], before.0[..28]);
    assert_eq!(m.state.fpu.0[32..416], before.0[32..416]);
    m.put(AT + 26, 2, 1);
    assert_eq!(m.fault(&[0x48, 0x0f, 0xae, 0x0f]), (cpu::Vector::Gp, 0));
    m.state.gpr[7] = AT + 8;
    assert_eq!(m.fault(&[0x0f, 0xae, 0x07]), (cpu::Vector::Gp, 0));
    m.state.cr0 |= cpu::bits::cr0::TS;
    assert_eq!(m.fault(&[0x0f, 0xae, 0x07]).0, cpu::Vector::Nm);
}

#[test]
fn xsave_writes_what_is_asked_and_xrstor_initialises_the_rest() {
    let mut m = Machine::long();
    m.state.gpr[7] = AT;
    m.state.gpr[0] = 6;
    assert_eq!(m.fault(&[0x0f, 0xae, 0x27]).0, cpu::Vector::Ud);
    m.state.cr4 |= cr4::OSXSAVE;
    m.state.xcr0 = 7;
    m.mem.phys.write(AT, &[0xee; 832]);
    m.put(AT + 512, 8, 1);
    m.put(AT + 520, 8, 0);
    for (i, b) in m.state.fpu.0[160..416].iter_mut().enumerate() {
        *b = i as u8;
    }
    m.state.fpu.0[576..832].fill(0x5a);
    let before = m.state.fpu.clone();
    // xsave [rdi] of SSE and AVX
    m.ok(&[0x0f, 0xae, 0x27]);
    assert_eq!(m.get(AT, 8), 0xeeee_eeee_eeee_eeee);
    assert_eq!(m.bytes(AT + 160, 256), before.0[160..416]);
    assert_eq!(m.bytes(AT + 576, 256), before.0[576..]);
    assert_eq!(m.get(AT + 512, 8), 7);

    // AVX is in its initial state, SSE comes from memory, x87 is not asked for.
    m.put(AT + 512, 8, 3);
    m.put(AT + 528, 8, 0);
    m.state.fpu.0[160..416].fill(0);
    // xrstor [rdi]: the header's reserved bytes are still garbage
    m.put(AT + 528, 8, 1);
    assert_eq!(m.fault(&[0x0f, 0xae, 0x2f]), (cpu::Vector::Gp, 0));
    m.put(AT + 528, 8, 0);
    m.ok(&[0x0f, 0xae, 0x2f]);
    assert_eq!(m.state.fpu.0[160..416], before.0[160..416]);
    assert!(m.state.fpu.0[576..].iter().all(|b| *b == 0));
    assert_eq!(m.state.fpu.0[..24], before.0[..24]);
    // The compacted form is refused.
    m.put(AT + 520, 8, 1 << 63);
    assert_eq!(m.fault(&[0x0f, 0xae, 0x2f]), (cpu::Vector::Gp, 0));
}
