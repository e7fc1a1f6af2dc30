//! The host's CPU is the oracle: random instruction sequences run natively and in the engine, and
//! registers, flags, vectors and memory must be equal afterwards.
//!
//! `OXBOX_NATIVE_SEED` and `OXBOX_NATIVE_COUNT` choose the first seed and how many sequences run.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

#[path = "native/generate.rs"]
mod generate;
#[path = "native/guest.rs"]
mod guest;
#[path = "native/host.rs"]
mod host;

use generate::Rng;
use host::{DATA, DATA_SIZE, Regs};

/// The fixed addresses serve one test at a time.
static AREAS: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

fn start(rng: &mut Rng) -> (Regs, Vec<u8>) {
    let mut regs = Regs::default();
    for r in &mut regs.gpr {
        *r = rng.value();
    }
    regs.gpr[4] = DATA + DATA_SIZE as u64 / 2;
    regs.flags = rng.next() & 0x8d5 | 2;
    regs.fx[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
    regs.fx[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    for y in &mut regs.ymm {
        for part in y.chunks_mut(8) {
            let v = if rng.below(2) == 0 {
                (rng.below(1000) as f64).to_bits()
            } else {
                rng.value()
            };
            part.copy_from_slice(&v.to_le_bytes());
        }
    }
    let data = (0..DATA_SIZE).map(|_| rng.next() as u8).collect();
    (regs, data)
}

/// Flags that the manual leaves undefined after `code`; `None` when it reads undefined ones.
fn undefined(code: &[u8]) -> Option<u64> {
    let mut out = 0;
    for insn in &mut iced_x86::Decoder::new(64, code, iced_x86::DecoderOptions::NONE) {
        if insn.rflags_read() & out != 0 {
            return None;
        }
        out |= insn.rflags_undefined();
        // A shift by CL may change nothing.
        let by_cl = (0..insn.op_count()).any(|i| insn.op_register(i) == iced_x86::Register::CL);
        if by_cl {
            continue;
        }
        out &= !(insn.rflags_written() | insn.rflags_cleared() | insn.rflags_set());
    }
    // iced's bits: OF SF ZF AF CF PF from bit 0.
    let table = [0x800, 0x80, 0x40, 0x10, 1, 4];
    Some((0..6).filter(|i| out >> i & 1 != 0).map(|i| table[i]).sum())
}

/// Pointers of the last x87 instruction are the host's own: not compared.
fn normalise(regs: &mut Regs) {
    regs.flags &= 0x8d5;
    regs.fx[6..24].fill(0);
    for n in 0..8 {
        regs.fx[32 + 16 * n + 10..48 + 16 * n].fill(0);
    }
    regs.fx[160..].fill(0);
    regs.fx[28..32].fill(0);
}

#[test]
fn random_sequences_match_the_host() {
    let first = env("OXBOX_NATIVE_SEED", 1);
    let count = env("OXBOX_NATIVE_COUNT", 3000);
    let _areas = AREAS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    host::prepare();
    let codes = generate::codes();
    assert!(codes.len() > 1500, "only {} codes", codes.len());
    let mut guest = guest::Guest::new();
    for seed in first..first + count {
        let mut rng = Rng(seed);
        let (regs, data) = start(&mut rng);
        let mut code = Vec::new();
        let mut listing = Vec::new();
        let n = 1 + rng.below(12);
        while (listing.len() as u64) < n {
            let c = codes[rng.below(codes.len() as u64) as usize];
            if let Some(bytes) = generate::instruction(&mut rng, c) {
                code.extend(&bytes);
                listing.push((c, bytes));
            }
        }
        let Some(ignored) = undefined(&code) else {
            continue;
        };
        let (mut native, mut native_data) = (regs.clone(), data.clone());
        host::run(&code, &mut native, &mut native_data);
        let (mut engine, mut engine_data) = (regs.clone(), data.clone());
        let exit = guest.run(&code, &mut engine, &mut engine_data);
        native.flags &= !ignored;
        engine.flags &= !ignored;
        normalise(&mut native);
        normalise(&mut engine);
        if exit != cpu::Exit::Halted || native != engine || native_data != engine_data {
            let mut report = format!("seed {seed}: exit {exit:?}\n");
            for (c, b) in &listing {
                report += &format!("  {c:?}: {b:02x?}\n");
            }
            for i in 0..16 {
                if native.gpr[i] != engine.gpr[i] {
                    report += &format!(
                        "  r{i}: native {:#x} engine {:#x} start {:#x}\n",
                        native.gpr[i], engine.gpr[i], regs.gpr[i]
                    );
                }
                if native.ymm[i] != engine.ymm[i] {
                    report += &format!(
                        "  ymm{i}: native {:02x?}\n         engine {:02x?}\n",
                        native.ymm[i], engine.ymm[i]
                    );
                }
            }
            if native.flags != engine.flags {
                report += &format!(
                    "  flags: native {:#x} engine {:#x}\n",
                    native.flags, engine.flags
                );
            }
            for i in 0..512 {
                if native.fx[i] != engine.fx[i] {
                    report += &format!(
                        "  fx[{i}]: native {:#x} engine {:#x}\n",
                        native.fx[i], engine.fx[i]
                    );
                }
            }
            for i in 0..DATA_SIZE {
                if native_data[i] != engine_data[i] {
                    report += &format!(
                        "  data[{i:#x}]: native {:#x} engine {:#x} start {:#x}\n",
                        native_data[i], engine_data[i], data[i]
                    );
                }
            }
            panic!("{report}");
        }
    }
}

#[test]
fn string_instructions_without_rep_match_the_host() {
    let moves: [&[u8]; 8] = [
        &[0xa4],
        &[0x66, 0xa5],
        &[0xa5],
        &[0x48, 0xa5],
        &[0xaa],
        &[0x66, 0xab],
        &[0xab],
        &[0x48, 0xab],
    ];
    let _areas = AREAS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    host::prepare();
    let mut guest = guest::Guest::new();
    for seed in 1..400 {
        let mut rng = Rng(seed);
        let (regs, data) = start(&mut rng);
        let mut code = Vec::new();
        for (reg, at) in [
            (0xbe, 0x1000 - rng.below(24)),
            (0xbf, 0x2000 - rng.below(24)),
        ] {
            code.extend([0x48, reg]);
            code.extend((DATA + at).to_le_bytes());
        }
        if rng.below(2) == 0 {
            code.push(0xfd);
        }
        // A comparison before each, so that live flags are crossed.
        for _ in 0..12 {
            code.extend([0x48, 0x39, 0xc1]);
            code.extend(moves[rng.below(8) as usize]);
            code.extend([0x0f, 0x92, 0xc2]);
        }
        code.push(0xfc);
        let (mut native, mut native_data) = (regs.clone(), data.clone());
        host::run(&code, &mut native, &mut native_data);
        let (mut engine, mut engine_data) = (regs.clone(), data.clone());
        let exit = guest.run(&code, &mut engine, &mut engine_data);
        normalise(&mut native);
        normalise(&mut engine);
        assert_eq!(exit, cpu::Exit::Halted, "seed {seed}");
        assert_eq!(native.gpr, engine.gpr, "seed {seed}");
        assert_eq!(native.flags, engine.flags, "seed {seed}");
        assert!(native_data == engine_data, "seed {seed}: memory differs");
    }
}
