//! Random loops over memory against the host: accesses that share a probe, traces around loops,
//! flags parked over jumps, page edges inside of what one probe covers.
#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    dead_code
)]

#[path = "../examples/speed/guest.rs"]
mod guest;
#[path = "../examples/speed/host.rs"]
mod host;

use host::{DATA, DATA_SIZE, Regs};

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1);
        (self.0 >> 33) % n
    }
}

/// One instruction on `[rsi + d]`, `[rdi + d]`, the stack or registers only.
fn step(r: &mut Random, code: &mut Vec<u8>) {
    let d = (r.below(96) as i8 - 48).to_le_bytes()[0];
    let rsi = 0x46; // ModRM [rsi + disp8], register 0
    let rdi = 0x47;
    let base = if r.below(2) == 0 { rsi } else { rdi };
    let reg = (r.below(3) as u8) << 3; // rax, rcx is the counter, rdx
    let reg = if reg == 8 { 0x18 } else { reg }; // rbx instead of rcx
    match r.below(24) {
        // call over: a routine that pushes, adds and returns with its flags; they are used after.
        22 => code.extend([
            0xe8, 2, 0, 0, 0, 0xeb, 7, 0x53, 0x48, 0x01, 0xd0, 0x5b, 0xc3, 0x90, 0x48, 0x13, 0xc3,
        ]),
        23 => code.extend([0x48, 0x29, 0xd0, 0x53, 0x5b, 0x0f, 0x92, 0xc3]), // flags over push, pop
        0..=2 => code.extend([0x48, 0x8b, base | reg, d]),                   // mov r, [m]
        3..=5 => code.extend([0x48, 0x89, base | reg, d]),                   // mov [m], r
        6 => code.extend([0x48, 0x01, base | reg, d]),                       // add [m], r
        7 => code.extend([0x48, 0x13, base | reg, d]),                       // adc r, [m]
        8 => code.extend([0x88, base | reg, d]),                             // mov [m], r8
        9 => code.extend([0x48, 0x83, 0xc6, r.below(24) as u8]),             // add rsi, n
        10 => code.extend([0x48, 0x83, 0xef, r.below(16) as u8]),            // sub rdi, n
        11 => code.extend([0x48, 0xff, 0xc7]),                               // inc rdi
        12 => code.extend([0x53, 0x50, 0x5a, 0x5b]), // push rbx; push rax; pop rdx; pop rbx
        13 => code.extend([0x4c, 0x8b, base, d, 0x4c, 0x01, 0xc0]), // mov r8, [m]; add rax, r8
        14 => code.extend([0x4c, 0x8b, base | 0x10, d, 0x4d, 0x01, 0xd3]), // mov r10, [m]; add r11, r10
        15 => code.extend([0x4c, 0x89, base | 0x18, d]),                   // mov [m], r11
        16 => code.extend([
            0x48,
            0x39,
            0xd0,
            0x48,
            0x8b,
            base | 0x18,
            d,
            0x72,
            0x03,
            0x48,
            0xff,
            0xc0,
        ]), // cmp rax, rdx; mov rbx, [m]; jb +3; inc rax
        17 => code.extend([0x48, 0x8d, base | 0x10, d, 0x48, 0x8b, 0x02]), // lea rdx, [m]; mov rax, [rdx]
        18 => code.extend([0x48, 0x39, 0xd8, 0x88, base | 0x10, d, 0x0f, 0x92, 0xc0]), // cmp rax, rbx; mov [m], dl; setb al
        19 => code.extend([0xeb, 0x02, 0x0f, 0x0b]), // jmp over ud2
        20 => code.extend([0x48, 0x8b, 0x04, 0x8e]), // mov rax, [rsi + rcx * 4]
        _ => code.extend([0xc5, 0xfe, 0x6f, base, d, 0xc5, 0xfe, 0x7f, base, d ^ 1]), // vmovdqu
    }
}

/// A loop of a few steps, entered at its start or in the middle.
fn program(r: &mut Random) -> Vec<u8> {
    let mut code = Vec::new();
    for (opcode, at) in [(0xbe, 0x2000u64), (0xbf, 0x3000)] {
        let at = DATA + at - 0x100 + r.below(0x200);
        code.extend([0x48, opcode]); // mov rsi / rdi, at
        code.extend(at.to_le_bytes());
    }
    code.push(0xb9); // mov ecx, n
    code.extend((1 + r.below(40) as u32).to_le_bytes());
    let start = code.len();
    for _ in 0..1 + r.below(7) {
        step(r, &mut code);
    }
    code.extend([0x48, 0xff, 0xc9]); // dec rcx
    let back = start as i64 - (code.len() as i64 + 6);
    code.extend([0x0f, 0x85]); // jnz start
    code.extend((back as i32).to_le_bytes());
    code
}

#[test]
fn loops_match_the_host() {
    let count: u64 = std::env::var("OXBOX_NATIVE_COUNT").map_or(4000, |n| n.parse().unwrap());
    host::prepare();
    let kinds = [rem::Windows::Never, rem::Windows::Always]
        .map(|windows| [rem::Checks::Never, rem::Checks::Auto].map(|checks| (windows, checks)))
        .concat();
    let new = |(windows, checks): &_| guest::Guest::new(*windows, *checks);
    let mut engines: Vec<_> = kinds.iter().map(new).collect();
    for seed in 0..count {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let code = program(&mut r);
        let mut regs = Regs::default();
        for g in &mut regs.gpr {
            *g = r.below(1 << 31) * r.below(1 << 31);
        }
        // The stack too may lie across a page edge.
        regs.gpr[4] = DATA + 0x1000 + 8 * r.below(8);
        regs.flags = 2;
        regs.fx[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
        regs.fx[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        let data: Vec<u8> = (0..DATA_SIZE).map(|_| r.below(256) as u8).collect();
        let (mut a, mut native) = (regs.clone(), data.clone());
        host::run(&code, &mut a, &mut native);
        for (engine, kind) in engines.iter_mut().zip(&kinds) {
            let (mut b, mut ours) = (regs.clone(), data.clone());
            let exit = engine.run(&code, &mut b, &mut ours);
            let flags = cpu::bits::rflags::ARITH;
            let text = || format!("seed {seed}, {kind:?}, exit {exit:?}, code {code:02x?}");
            assert_eq!(a.gpr, b.gpr, "{}", text());
            assert_eq!(a.flags & flags, b.flags & flags, "{}", text());
            assert_eq!(a.ymm, b.ymm, "{}", text());
            assert!(native == ours, "memory differs: {}", text());
        }
    }
}
