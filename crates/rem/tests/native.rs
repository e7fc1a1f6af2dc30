//! The host's CPU is the oracle: random instruction sequences run natively and in the engine until
//! they raise an exception, which the last instruction does if nothing before it does. The
//! exception (vector, error code, address), registers, flags, x87 and vector state, segments and
//! memory must be equal then.
//!
//! `OXBOX_NATIVE_SEED` and `OXBOX_NATIVE_COUNT` choose the first seed and how many sequences run;
//! with `OXBOX_NATIVE_KEEP=1` a difference is printed and the run goes on; `OXBOX_NATIVE_STRICT=1`
//! compares also arithmetic flags that no instruction of the sequence can read any more (see
//! ARCHITECTURE.md); `OXBOX_NATIVE_EXACT=1` takes no excuses (which of several faults of one
//! instruction comes first); `OXBOX_NATIVE_COVERAGE=1` lists instruction forms that never ran to
//! their end.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

#[path = "native/codes.rs"]
mod codes;
#[path = "native/generate.rs"]
mod generate;
#[path = "native/guest.rs"]
mod guest;
#[path = "native/host.rs"]
mod host;
#[path = "native/layout.rs"]
mod layout;

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use generate::{Generator, Rng, Sequence};
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Formatter, MemorySize, Mnemonic as M, OpKind,
    Register,
};
use layout::{DATA, DATA_SIZE, End, PAGES, Page, cache, lookup};

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// RFLAGS bits of iced's set (OF SF ZF AF CF PF from bit 0).
fn rflags(iced: u32) -> u64 {
    let table = [0x800, 0x80, 0x40, 0x10, 1, 4];
    (0..6)
        .filter(|i| iced >> i & 1 != 0)
        .map(|i| table[i])
        .sum()
}

/// The instruction at `rip`, and whether the sequence reaches it.
fn at(s: &Sequence, rip: u64) -> Option<iced_x86::Instruction> {
    let from = rip.wrapping_sub(s.start.rip) as usize;
    let insn = Decoder::with_ip(s.bits, s.bytes.get(from..)?, rip, DecoderOptions::NONE)
        .into_iter()
        .next()?;
    (!insn.is_invalid()).then_some(insn)
}

/// Arithmetic flags that are written before anything from `rip` on reads them.
fn dead(s: &Sequence, rip: u64, depth: u32) -> u64 {
    let (mut dead, mut read) = (0, 0);
    let from = rip.wrapping_sub(s.start.rip) as usize;
    let Some(code) = s.bytes.get(from..) else {
        return 0;
    };
    for insn in &mut Decoder::with_ip(s.bits, code, rip, DecoderOptions::NONE) {
        if insn.is_invalid() || depth == 0 {
            break;
        }
        read |= rflags(insn.rflags_read());
        let written = insn.rflags_written()
            | insn.rflags_cleared()
            | insn.rflags_set()
            | insn.rflags_undefined();
        dead |= rflags(written) & !read;
        let target = insn.near_branch_target();
        dead |= !read
            & match insn.flow_control() {
                FlowControl::Next => continue,
                FlowControl::UnconditionalBranch | FlowControl::Call => {
                    self::dead(s, target, depth - 1)
                }
                FlowControl::ConditionalBranch => {
                    self::dead(s, target, depth - 1) & self::dead(s, insn.next_ip(), depth - 1)
                }
                _ => 0,
            };
        break;
    }
    dead
}

/// Whether a sequence of 64-bit code has repeated string instructions with addresses of 32 bits.
fn short_repeat(s: &Sequence) -> bool {
    Decoder::with_ip(64, &s.bytes, s.start.rip, DecoderOptions::NONE)
        .into_iter()
        .any(|i| {
            let address = [0, 1].map(|n| i.op_kind(n));
            (i.has_rep_prefix() || i.has_repne_prefix())
                && i.is_string_instruction()
                && address
                    .iter()
                    .any(|k| matches!(k, OpKind::MemoryESEDI | OpKind::MemorySegESI))
        })
}

/// Takes out what is not compared.
fn normalise(end: &mut End, s: &Sequence, strict: bool) {
    // Pointers of the last x87 instruction are the host's own.
    end.fpu[6..24].fill(0);
    end.fpu[28..32].fill(0);
    for n in 0..8 {
        end.fpu[42 + 16 * n..48 + 16 * n].fill(0);
    }
    end.fpu[416..576].fill(0);
    // The kernel says "protection violation" for all of its half.
    if end.vector == 14 && end.cr2 >= 0x7fff_ffff_f000 {
        end.error &= !1;
    }
    // The kernel makes all null selectors 0 when it switches tasks.
    for sel in &mut end.sel {
        *sel = if *sel < 4 { 0 } else { *sel };
    }
    // Interrupts of the host lose this part on 16-bit stacks.
    if s.bits != 64 {
        end.gpr[4] &= 0xffff_ffff;
    }
    // With addresses of 32 bits, Intel's processors shorten the registers of a repeated string
    // instruction even if it does nothing at all; AMD's do not.
    if s.bits == 64 && short_repeat(s) {
        for n in [1, 6, 7] {
            end.gpr[n] &= 0xffff_ffff;
        }
    }
    end.flags &= !rflags(generate::undefined_at(s, end.rip));
    if !strict {
        // Another code segment may have other instructions at the place.
        let same = u64::from(end.sel[1]) == s.start.sel[1];
        end.flags &= !if same { dead(s, end.rip, 6) } else { 0x8d5 };
    }
}

fn listing(s: &Sequence) -> String {
    let mut out = String::new();
    let mut format = iced_x86::NasmFormatter::new();
    for insn in &mut Decoder::with_ip(s.bits, &s.bytes, s.start.rip, DecoderOptions::NONE) {
        let mut text = String::new();
        format.format(&insn, &mut text);
        let from = (insn.ip() - s.start.rip) as usize;
        let bytes = &s.bytes[from..from + insn.len()];
        let _ = writeln!(out, "  {:#x}: {text:44} {bytes:02x?}", insn.ip());
    }
    out
}

fn difference(
    s: &Sequence,
    native: &End,
    engine: &End,
    native_data: &[u8],
    engine_data: &[u8],
) -> Option<String> {
    let mut r = String::new();
    let mut differ = |what: &str, a: u64, b: u64| {
        if a != b {
            let _ = writeln!(r, "  {what}: native {a:#x} engine {b:#x}");
        }
    };
    differ("vector", native.vector.into(), engine.vector.into());
    differ("error", native.error, engine.error);
    differ("cr2", native.cr2, engine.cr2);
    differ("rip", native.rip, engine.rip);
    differ("flags", native.flags, engine.flags);
    for i in 0..16 {
        differ(&format!("r{i}"), native.gpr[i], engine.gpr[i]);
    }
    for (i, name) in ["es", "cs", "ss", "ds", "fs", "gs"].iter().enumerate() {
        differ(name, native.sel[i].into(), engine.sel[i].into());
    }
    differ("fs base", native.base[0], engine.base[0]);
    differ("gs base", native.base[1], engine.base[1]);
    for i in 0..native.fpu.len() {
        let (a, b) = (native.fpu[i], engine.fpu[i]);
        let what = match i {
            0..160 => format!("fx[{i}]"),
            160..416 => format!("xmm{}[{}]", (i - 160) / 16, i % 16),
            _ => format!("ymm{}[{}]", (i - 576) / 16, 16 + i % 16),
        };
        differ(&what, a.into(), b.into());
    }
    for (i, (a, b)) in native.upper.iter().zip(&engine.upper).enumerate() {
        let what = match i {
            0..64 => format!("k{}[{}]", i / 8, i % 8),
            64..576 => format!("zmm{}[{}]", (i - 64) / 32, 32 + i % 32),
            _ => format!("zmm{}[{}]", 16 + (i - 576) / 64, i % 64),
        };
        differ(&what, (*a).into(), (*b).into());
    }
    let mut bytes = 0;
    for i in 0..DATA_SIZE {
        if native_data[i] != engine_data[i] && PAGES[i / 4096] != Page::None {
            bytes += 1;
            if bytes <= 32 {
                differ(
                    &format!("data[{:#x}]", DATA + i as u64),
                    native_data[i].into(),
                    engine_data[i].into(),
                );
            }
        }
    }
    if r.is_empty() {
        return None;
    }
    let mut head = format!(
        "  ends: native {} engine {}, native at {:#x}\n",
        native.vector, engine.vector, native.rip
    );
    for (i, chunk) in s.start.gpr.chunks(4).enumerate() {
        let _ = writeln!(head, "  start r{}: {chunk:x?}", 4 * i);
    }
    let _ = writeln!(
        head,
        "  flags {:#x} sel {:x?} fs {:#x} gs {:#x}",
        s.start.flags, s.start.sel, s.start.fs, s.start.gs
    );
    if s.start.sel.iter().any(|sel| sel & 4 != 0) {
        for sel in s.start.sel {
            let c = cache(sel as u16, lookup(sel as u16));
            let _ = writeln!(
                head,
                "  {:x}: base {:#x} limit {:#x} {:#x}",
                c.sel, c.base, c.limit, c.attr
            );
        }
    }
    Some(r + &head)
}

/// Known freedom of the architecture, and differences between processors: not mistakes.
fn excused(s: &Sequence, native: &End, engine: &End) -> bool {
    // ICEBP raises #DB as a trap; hypervisors that intercept it say it was a fault.
    let linear = native
        .rip
        .wrapping_add(cache(native.sel[1], lookup(native.sel[1])).base);
    let code = s
        .bytes
        .get(linear.wrapping_sub(layout::CODE + s.at as u64) as usize..);
    let byte = code.and_then(|c| c.first());
    if byte == Some(&0xf1) && native.vector == 1 && engine.rip == native.rip + 1 {
        return true;
    }
    // The host has the harness's own page there.
    if engine.vector == 14 && engine.cr2 & !0xfff == layout::SPARE {
        return true;
    }
    // And the engine's windows above the first TiB.
    if engine.vector == 14 && (1..0x7f).contains(&(engine.cr2 >> 40)) {
        return true;
    }
    // Intel's processors find out about an unmasked exception of an x87 store before they look at its
    // operand, and go on to the next instruction; AMD's look at the operand first.
    let store = at(s, engine.rip).is_some_and(|i| {
        use M::{Fbstp, Fist, Fistp, Fisttp, Fst, Fstp};
        matches!(i.mnemonic(), Fbstp | Fist | Fistp | Fisttp | Fst | Fstp)
            && i.op0_kind() == OpKind::Memory
    });
    if store && matches!(engine.vector, 12..=14) && native.fpu[2] & 0x80 != 0 {
        return true;
    }
    // What an address is made of may have been shortened before (see `normalise`).
    if s.bits == 64 && short_repeat(s) && native.vector == 14 && engine.vector == 14 {
        return native.cr2 as u32 == engine.cr2 as u32;
    }
    // As the code segment there reads it.
    let attributes = cache(native.sel[1], lookup(native.sel[1])).attr;
    let bits = match (
        attributes & cpu::attr::L != 0,
        attributes & cpu::attr::DB != 0,
    ) {
        (true, _) => 64,
        (false, true) => 32,
        (false, false) => 16,
    };
    let decoded = code.and_then(|c| {
        Decoder::with_ip(bits, c, native.rip, DecoderOptions::NONE)
            .into_iter()
            .next()
    });
    let Some(insn) = decoded.filter(|i| !i.is_invalid()) else {
        return false;
    };
    if env("OXBOX_NATIVE_EXACT", 0) != 0 {
        return false;
    }
    let memory = |v: u8| matches!(v, 12..=14);
    match insn.mnemonic() {
        // Which of two operands is looked at first, and what is loaded before a later fault.
        M::Cmpsb
        | M::Cmpsw
        | M::Cmpsd
        | M::Cmpsq
        | M::Popa
        | M::Popad
        | M::Enter
        | M::Iret
        | M::Iretd
        | M::Iretq
        | M::Retf
        | M::Movsb
        | M::Movsw
        | M::Movsd
        | M::Movsq
        | M::Insb
        | M::Insw
        | M::Insd
        | M::Outsb
        | M::Outsw
        | M::Outsd => memory(native.vector) && memory(engine.vector),
        // With nothing to store, faults are the processor's choice.
        M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => memory(native.vector),
        // What is checked before the stack.
        M::Call => memory(native.vector) && memory(engine.vector),
        M::Jmp if insn.is_jmp_far() || insn.is_jmp_far_indirect() => {
            memory(native.vector) && memory(engine.vector)
        }
        // Ten bytes are accessed as eight and two.
        _ if matches!(insn.memory_size(), MemorySize::Float80 | MemorySize::Bcd) => {
            memory(native.vector) && memory(engine.vector)
        }
        // Intel's processors read and compare one bound before they read the other one.
        M::Bound => (memory(native.vector) || native.vector == 5) && memory(engine.vector),
        // They have these instructions' ModRM byte, which may be beyond the page's end; AMD's do not.
        M::Ud0 | M::Ud1 => native.vector == 14 && native.error & 0x10 != 0 && engine.vector == 6,
        // They switch the x87 unit to MMX before the store faults.
        M::Movd | M::Movq | M::Movntq if insn.op1_register().is_mm() => {
            memory(native.vector) && memory(engine.vector)
        }
        // They convert, with what that does to MXCSR, before they look where the result goes.
        M::Vcvtps2ph => (memory(native.vector) || native.vector == 19) && memory(engine.vector),
        // 64 bytes are accessed as two halves: the first one's page comes before the limit that the
        // second one passes.
        _ if bits != 64 && insn.memory_size().size() == 64 && native.vector == 14 => {
            memory(engine.vector)
        }
        // Elements may be refused one by one.
        _ if insn.op_mask() != Register::None => memory(native.vector) && memory(engine.vector),
        M::Vcompresspd
        | M::Vcompressps
        | M::Vpcompressb
        | M::Vpcompressw
        | M::Vpcompressd
        | M::Vpcompressq => memory(native.vector) && memory(engine.vector),
        // Which elements a gather has when it faults.
        _ if insn.is_vsib() => memory(native.vector),
        // What lies beyond 4 GiB of a segment without a limit: a fault or not, as the processor
        // likes (SDM vol. 3, 5.3).
        _ if bits != 64 && native.vector == 14 && native.cr2 > 0xffff_ffff - 64 => {
            matches!(engine.vector, 12 | 13)
        }
        // The address that is told of an element on two pages.
        M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq => {
            native.vector == 14 && engine.vector == 14 && (native.cr2 ^ engine.cr2) < 0x1000
        }
        // AMD's processors want offsets to be canonical, too; the manual, linear addresses (SDM
        // vol. 1, 3.3.7.1).
        _ if s.bits == 64 && matches!(insn.memory_segment(), Register::FS | Register::GS) => {
            native.vector == 13 && engine.vector == 14
        }
        _ => false,
    }
}

#[test]
fn random_sequences_match_the_host() {
    let first = env("OXBOX_NATIVE_SEED", 1);
    let count = env("OXBOX_NATIVE_COUNT", 30_000);
    let keep = env("OXBOX_NATIVE_KEEP", 0) != 0;
    let strict = env("OXBOX_NATIVE_STRICT", 0) != 0;
    // Every second sequence through a window, or all of them, or none.
    let windows = env("OXBOX_NATIVE_WINDOWS", 2);
    let kinds = [rem::Windows::Never, rem::Windows::Always];
    // Every fourth one in translations that compare the code themselves.
    let checks = [rem::Checks::Never, rem::Checks::Always];
    let mut guests =
        [0, 1, 2, 3].map(|n| guest::Guest::new(host::limit15(), kinds[n & 1], checks[n >> 1]));
    for guest in &mut guests {
        // Once, so that the engine's signal handlers are there.
        guest.write_code(0, &[0xf4; layout::CODE_SIZE]);
        let _ = guest.run(&layout::Start::default());
    }
    let mut host = host::Host::new();
    let mut first_data = vec![0; DATA_SIZE];
    host.write_code(0, &[0xf4; layout::CODE_SIZE]);
    let mut generator = Generator::new();
    let mut done: HashMap<u32, HashSet<Code>> = HashMap::new();
    let mut vectors = [0u64; 32];
    let (mut late, mut wrong, mut unsteady) = (0, 0, 0);
    let mut data = vec![0; DATA_SIZE];
    let mut engine_data = vec![0; DATA_SIZE];
    let mut worst: HashMap<String, u32> = HashMap::new();
    for seed in first..first + count {
        let guest = &mut guests[match windows {
            0 | 1 => windows as usize,
            _ => seed as usize & 1,
        } | usize::from(seed & 6 == 0) << 1];
        let mut rng = Rng(seed);
        let s = generator.sequence(&mut rng);
        generate::fill(&mut rng, &mut data);
        host.data().copy_from_slice(&data);
        host.write_code(s.at, &s.bytes);
        if env("OXBOX_NATIVE_PRINT", 0) != 0 {
            eprintln!("seed {seed}\n{}", listing(&s));
        }
        let native = host.run(&s.start);
        let ends = vec![0xf4; s.bytes.len()];
        let Some(mut native) = native else {
            late += 1;
            host.write_code(s.at, &ends);
            continue;
        };
        guest.write_code(s.at, &s.bytes);
        guest.write_data(&data);
        let engine = guest.run(&s.start);
        guest.read_data(&mut engine_data);
        vectors[usize::from(native.vector & 31)] += 1;
        if native.rip == s.start.rip + s.bytes.len() as u64 - 1 && native.vector == 13 {
            done.entry(s.bits).or_default().extend(&s.codes);
        }
        let report = match engine {
            Err(exit) => Some(format!("  engine: {exit:?}, native {native:x?}\n")),
            Ok(mut engine) => {
                normalise(&mut native, &s, strict);
                normalise(&mut engine, &s, strict);
                difference(&s, &native, &engine, host.data(), &engine_data)
                    .filter(|_| !excused(&s, &native, &engine))
            }
        };
        // The host's kernel may have switched tasks half way, which changes null selectors that the
        // sequence then stores: what counts as native is what comes again.
        let report = report.filter(|_| {
            first_data.copy_from_slice(host.data());
            host.data().copy_from_slice(&data);
            host.run(&s.start).is_some_and(|mut again| {
                normalise(&mut again, &s, strict);
                let same = difference(&s, &native, &again, &first_data, host.data()).is_none();
                unsteady += u64::from(!same);
                same
            })
        });
        if let Some(report) = report {
            let text = format!("seed {seed}, {} bits\n{}{report}", s.bits, listing(&s));
            assert!(keep, "{text}");
            wrong += 1;
            let key = at(&s, native.rip).map_or("?".into(), |i| format!("{:?}", i.code()));
            let n = worst.entry(key).or_default();
            *n += 1;
            if *n <= 3 {
                eprintln!("{text}");
            }
        }
        host.write_code(s.at, &ends);
        guest.write_code(s.at, &ends);
    }
    println!(
        "{count} sequences, {wrong} differ, {late} took too long, {unsteady} came out otherwise a second time; by vector:"
    );
    for (v, n) in vectors.iter().enumerate().filter(|(_, n)| **n != 0) {
        println!("  {v}: {n}");
    }
    for (code, n) in worst {
        println!("  {n} at {code}");
    }
    for bits in [64, 32, 16] {
        let all = generator.codes(bits);
        let done = done.entry(bits).or_default();
        println!("{bits}-bit: {} of {} forms ran", done.len(), all.len());
        if env("OXBOX_NATIVE_COVERAGE", 0) != 0 {
            for c in all.iter().filter(|c| !done.contains(c)) {
                println!("  never: {c:?}");
            }
        }
    }
    assert_eq!(wrong, 0);
    assert!(
        unsteady <= 1 + count / 1_000_000,
        "{unsteady} differ natively"
    );
    assert!(late * 100 <= count, "{late} took too long");
}
