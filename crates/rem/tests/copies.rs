//! The same code at several addresses: what was translated at one is copied for the others.
#![allow(clippy::unwrap_used)]

mod guest;

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use cpu::{Seg, attr};
use guest::{CODE, DATA, Guest, PML4};
use rem::Windows;

/// RAM of the code's two pages, of another second page, and of the data pages of the places.
const FIRST: u64 = 0x10_0000;
const SECOND: u64 = 0x10_3000;
const OTHER: u64 = 0x10_5000;
const OWN: u64 = 0x11_0000;
const STACK_PAGE: u64 = 0x12_0000;
/// Page tables.
const TABLES: u64 = 0x20_0000;

const LONG: [u64; 4] = [
    0x5555_5555_4000,
    0x5612_3456_7000,
    0x7f65_4321_0000,
    0x7ea9_8765_4000,
];
const NARROW: [u64; 3] = [0x5655_5000, 0xf7d0_1000, 0x0804_8000];
const LONG_STACK: u64 = 0x7ffd_1234_5000;
const NARROW_STACK: u64 = 0xffe1_2000;

/// Code and the offsets of its labels.
struct Program {
    code: Vec<u8>,
    labels: Vec<(String, u64)>,
}

impl Program {
    fn at(&self, label: &str) -> u64 {
        self.labels.iter().find(|(n, _)| n == label).unwrap().1
    }
}

fn assemble(name: &str, bits: &str) -> Program {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/copies")
        .join(name);
    let folder = tempfile::tempdir().unwrap();
    let (object, binary) = (folder.path().join("o"), folder.path().join("b"));
    let run = |c: &mut Command| {
        let out = c.output().expect("binutils are needed");
        assert!(out.status.success(), "{c:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    run(Command::new("as")
        .args([bits, "-o"])
        .arg(&object)
        .arg(source));
    run(Command::new("objcopy")
        .args(["-O", "binary", "-j", ".text"])
        .arg(&object)
        .arg(&binary));
    let labels = run(Command::new("nm").arg(&object))
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let value = u64::from_str_radix(words.next().unwrap(), 16).unwrap();
            (words.nth(1).unwrap().to_owned(), value)
        })
        .collect();
    Program {
        code: std::fs::read(binary).unwrap(),
        labels,
    }
}

fn long() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| assemble("long.s", "--64"))
}

fn compat() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| assemble("compat.s", "--32"))
}

struct Machine {
    g: Guest,
    tables: u64,
}

impl Machine {
    /// The program at all places, each with data of its own.
    fn new(program: &Program, places: &[u64], stack: u64, windows: Windows) -> Self {
        Self::of(Guest::with_windows(&[], windows), program, places, stack)
    }

    fn of(g: Guest, program: &Program, places: &[u64], stack: u64) -> Self {
        let mut m = Self { g, tables: TABLES };
        m.g.phys.write(FIRST, &program.code[..0x1000]);
        m.g.phys.write(SECOND, &program.code[0x1000..0x2000]);
        m.g.phys.write(OTHER, &program.code[0x1000..0x2000]);
        m.map(stack, STACK_PAGE);
        for (n, place) in places.iter().enumerate() {
            let own = own(n);
            m.map(*place, FIRST);
            m.map(place + 0x1000, SECOND);
            m.map(place + 0x2000, own);
            m.put(own, word(n));
            if let Some((_, leaf)) = program.labels.iter().find(|(n, _)| n == "leaf") {
                m.put(own + 16, place + leaf);
            }
        }
        m.put(DATA, 0x1000);
        m
    }

    fn put(&self, at: u64, value: u64) {
        self.g.phys.write(at, &value.to_le_bytes());
    }

    fn map(&mut self, linear: u64, ram: u64) {
        let mut table = PML4;
        for shift in [39, 30, 21] {
            let at = table + 8 * (linear >> shift & 511);
            table = self.g.get(at) & !0xfff;
            if table == 0 {
                table = self.tables;
                self.tables += 0x1000;
                self.put(at, table | 7);
            }
        }
        self.put(table + 8 * (linear >> 12 & 511), ram | 7);
    }

    /// Runs user code at `rip` to its exception: vector and offset from `place`.
    fn run(&mut self, place: u64, label: u64, stack: u64, long: bool) -> (u64, u64) {
        self.g.level(3);
        self.g.s.seg[Seg::Ss as usize].attr |= attr::DB;
        if !long {
            let cs = &mut self.g.s.seg[Seg::Cs as usize];
            cs.attr = cs.attr & !attr::L | attr::DB;
        }
        self.g.s.rip = place + label;
        self.g.s.gpr[4] = stack + 0x800;
        let frame = self.g.run().unwrap();
        (frame.0, frame.1.wrapping_sub(place))
    }

    /// Level 0 writes a byte at a RAM address that is mapped one to one.
    fn poke(&mut self, at: u64, value: u8) {
        let mut code = vec![0xc6, 0x04, 0x25];
        code.extend((at as u32).to_le_bytes());
        code.extend([value, 0xf4]);
        self.g.phys.write(CODE, &code);
        self.g.level(0);
        assert_eq!(self.g.run(), None);
    }
}

/// RAM of the data page of place `n`.
fn own(n: usize) -> u64 {
    let skip = if n < 16 { 0 } else { 0x2_0000 };
    OWN + skip + 0x1000 * n as u64
}

fn word(n: usize) -> u64 {
    0x1234_5678 + 0x1_0000_0001 * n as u64
}

/// Runs the 64-bit program at place `n` the `times`th time and checks everything it leaves.
fn check_long(m: &mut Machine, n: usize, times: u64, pointer: (u64, u64), tail: u64) {
    check_at(m, LONG[n], n, times, pointer, tail);
}

fn check_at(m: &mut Machine, place: u64, n: usize, times: u64, pointer: (u64, u64), tail: u64) {
    let p = long();
    m.g.s.gpr[6] = pointer.0;
    let came = m.run(place, 0, LONG_STACK, true);
    assert_eq!(came, (6, p.at("end")), "place {n}");
    let g = m.g.s.gpr;
    let w = word(n);
    assert_eq!(g[0], place + 0x2000, "lea");
    assert_eq!(g[3], w, "load");
    assert_eq!(g[8], 5 * times, "read, modify, write");
    assert_eq!(g[9], 0, "return address");
    assert_eq!(g[5], w + 8, "scratch registers");
    let returned = p.at("returned").wrapping_sub(0x2000);
    assert_eq!(g[2], returned, "indirect call");
    assert_eq!(g[15], w + pointer.1, "push, pop, pointer");
    assert_eq!(g[13], 10 * w + 5, "loops");
    assert_eq!(g[1], w, "string and vector");
    assert_eq!(g[14], tail, "code over a page end");
    assert_eq!(
        g[7].wrapping_add(0x2000),
        p.at("next"),
        "call on the second page"
    );
    let own = own(n);
    assert_eq!(m.g.get(own + 32) & 0xffff, m.g.s.gdtr.limit.into(), "sgdt");
    assert_eq!(m.g.get(own + 0x200) & 0xffff, 0x37f, "fxsave");
}

const TAIL: u64 = 0x1122_3344_5566_7788;

#[test]
fn code_of_64_bits_runs_at_each_of_its_addresses() {
    for windows in [Windows::Never, Windows::Always] {
        let mut m = Machine::new(long(), &LONG, LONG_STACK, windows);
        for times in 1..=3 {
            for (n, place) in LONG.iter().enumerate() {
                check_long(&mut m, n, times, (place + 0x2000, word(n)), TAIL);
            }
        }
        let copied = m.g.counter("/REM/Blocks/Copied");
        assert!(copied >= 20, "{copied}");
        // Now the pointer is in the window's other part, for one place only, then for all.
        check_long(&mut m, 2, 4, (DATA, 0x1000), TAIL);
        check_long(&mut m, 0, 4, (LONG[0] + 0x2000, word(0)), TAIL);
        for (n, times) in [(0, 5), (1, 4), (2, 5), (3, 4)] {
            check_long(&mut m, n, times, (DATA, 0x1000), TAIL);
        }
    }
}

#[test]
fn copies_are_made_again_when_their_room_was_full() {
    let places: Vec<u64> = (0..180)
        .map(|n| 0x5555_0000_0000 + n * 0x4_5000 + ((n % 2) << 40))
        .collect();
    for windows in [Windows::Never, Windows::Always] {
        let g = Guest::with_options(
            &[],
            rem::Options {
                windows,
                code_cache: *rem::CODE_CACHE_RANGE.start(),
                ..Default::default()
            },
        );
        let mut m = Machine::of(g, long(), &places, LONG_STACK);
        let mut times = [0; 180];
        for turn in 0..400 {
            let n = turn * 37 % 180;
            times[n] += 1;
            let pointer = (places[n] + 0x2000, word(n));
            check_at(&mut m, places[n], n, times[n], pointer, TAIL);
        }
        for (n, place) in places.iter().enumerate() {
            check_at(
                &mut m,
                *place,
                n,
                times[n] + 1,
                (place + 0x2000, word(n)),
                TAIL,
            );
        }
        assert!(m.g.counter("/REM/Blocks/CopyFlushes") >= 1);
        assert_eq!(m.g.counter("/REM/Blocks/FullFlushes"), 0);
    }
}

#[test]
fn faults_tell_the_address_of_the_place() {
    for windows in [Windows::Never, Windows::Always] {
        let mut m = Machine::new(long(), &LONG, LONG_STACK, windows);
        let p = long();
        for _ in 0..2 {
            for place in LONG {
                let at = |label: &str| p.at(label);
                let came = m.run(place, at("divide"), LONG_STACK, true);
                assert_eq!(came, (0, at("divide_at")));
                let came = m.run(place, at("load"), LONG_STACK, true);
                assert_eq!(came, (14, at("load_at")));
                assert_eq!(m.g.s.cr2, place + 0x3800);
                let came = m.run(place, at("store"), LONG_STACK, true);
                assert_eq!(came, (14, at("store_at")));
                assert_eq!(m.g.s.cr2, place + 0x3808);
            }
        }
        assert!(m.g.counter("/REM/Blocks/Copied") >= 9);
    }
}

#[test]
fn a_write_to_the_code_changes_it_everywhere() {
    for windows in [Windows::Never, Windows::Always] {
        let mut m = Machine::new(long(), &LONG, LONG_STACK, windows);
        for n in [0, 1, 2] {
            check_long(&mut m, n, 1, (LONG[n] + 0x2000, word(n)), TAIL);
        }
        let before = m.g.counter("/REM/Blocks/Copied");
        // The lowest byte of the constant is still on the first page, the highest on the second.
        let at = long().at("split") + 2;
        m.poke(FIRST + at, 0x99);
        m.poke(SECOND + at + 7 - 0x1000, 0x77);
        let tail = TAIL & 0x00ff_ffff_ffff_ff00 | 0x7700_0000_0000_0099;
        for n in [1, 0, 2, 3] {
            let times = if n == 3 { 1 } else { 2 };
            check_long(&mut m, n, times, (LONG[n] + 0x2000, word(n)), tail);
        }
        assert!(m.g.counter("/REM/Blocks/Copied") > before);
    }
}

#[test]
fn code_with_another_second_page_is_no_copy() {
    for windows in [Windows::Never, Windows::Always] {
        let mut m = Machine::new(long(), &LONG, LONG_STACK, windows);
        m.map(LONG[1] + 0x1000, OTHER);
        m.put(OTHER + 2, m.g.get(OTHER + 2) & !0xff | 0x42);
        let tail = TAIL & 0x00ff_ffff_ffff_ffff | 0x42 << 56;
        for times in 1..=2 {
            for (n, place) in LONG.iter().enumerate() {
                let tail = if n == 1 { tail } else { TAIL };
                check_long(&mut m, n, times, (place + 0x2000, word(n)), tail);
            }
        }
    }
}

#[test]
fn code_of_32_bits_runs_at_each_of_its_addresses() {
    let p = compat();
    for windows in [Windows::Never, Windows::Always] {
        let mut m = Machine::new(p, &NARROW, NARROW_STACK, windows);
        for times in 1..=3 {
            for (n, place) in NARROW.iter().enumerate() {
                m.g.s.gpr[5] = place + 0x2000;
                let came = m.run(*place, 0, NARROW_STACK, false);
                assert_eq!(came, (6, p.at("end")), "place {n}");
                let g = m.g.s.gpr.map(|r| r & 0xffff_ffff);
                let w = word(n) & 0xffff_ffff;
                assert_eq!(g[0], w + 0x1122_3344);
                assert_eq!(g[3], place + p.at("here"));
                assert_eq!(g[2], 3 * times);
                assert_eq!(g[1], p.at("after") - p.at("here"));
                assert_eq!(g[6], p.at("back") - p.at("here"));
                assert_eq!(g[7], (7 * w + 4) & 0xffff_ffff);
            }
        }
        assert!(m.g.counter("/REM/Blocks/Copied") >= 10);
    }
}
