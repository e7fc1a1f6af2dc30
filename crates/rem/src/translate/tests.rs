//! A translation moved to another address is the one that the translator makes there.

use cpu::bits::{cr0, cr4, efer};
use cpu::{Seg, SegReg, State, attr};

use super::{Input, REACH, Translation, Variant, Window, movable, translate};
use crate::blocks;
use crate::features::Features;
use crate::features::tests::Cpuid;
use crate::mode::Mode;
use crate::site::Action;
use crate::window::Reaches;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1);
        self.0 >> 31
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn mode(long: bool, cpl: u32) -> Mode {
    let mut s = State::reset(0);
    s.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::ET | cr0::WP;
    s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXSAVE;
    s.xcr0 = 7;
    s.efer = if long { efer::LME | efer::LMA } else { 0 };
    let flat = attr::P | attr::S | attr::RW | attr::ACCESSED | attr::G | cpl << attr::DPL_SHIFT;
    let data = SegReg {
        base: 0,
        limit: u32::MAX,
        attr: flat | attr::DB,
        sel: 0x10 | cpl as u16,
    };
    s.seg = [data; 6];
    let kind = if long { attr::L } else { attr::DB };
    s.seg[Seg::Cs as usize].attr = flat | attr::CODE | kind;
    Mode::of(&s)
}

/// What is compared: all of a translation but for code and addresses, as text.
fn rest(t: &Translation, by: u64, mask: u64) -> String {
    let sites: Vec<_> = (t.sites.iter().copied())
        .map(|mut s| {
            s.rip = s.rip.wrapping_add(by) & mask;
            s
        })
        .collect();
    let execs: Vec<_> = (t.execs.iter().copied())
        .map(|mut e| {
            e.rip = e.rip.wrapping_add(by) & mask;
            e.action = e.action.moved(by);
            let parts = match &e.action {
                Action::Execute(i) | Action::ExecuteFpu(i) | Action::ExecuteVector(i) => (
                    i.ip() & mask,
                    i.memory_displacement64(),
                    i.near_branch_target() & mask,
                ),
                _ => (0, 0, 0),
            };
            (e, parts)
        })
        .collect();
    let links: Vec<_> = (t.links.iter().copied())
        .map(|mut l| {
            l.target = l.target.wrapping_add(by) & mask;
            l
        })
        .collect();
    let parts = (t.entries, &t.args, &t.rips, &t.map, &t.marks, &t.peeks);
    format!("{sites:?} {execs:?} {links:?} {parts:?} {}", t.guest_len)
}

#[test]
fn moved_code_is_the_code_that_would_be_made_there() {
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let features = Features::of(&Cpuid([0; 4], [0; 4]), 0);
    let amd = Features::of(
        &Cpuid([1, u32::from_le_bytes(*b"Auth"), 0, 0], [u32::MAX; 4]),
        0,
    );
    let mut r = Random(7);
    let (mut moved, mut rips) = (0, 0);
    for round in 0..15_000 {
        let mut code = vec![0; 0x100f];
        if round % 3 == 0 {
            code.fill_with(|| r.next() as u8);
        } else {
            let page = r.below(own.len() as u64 / 0x1000 - 1) as usize * 0x1000;
            code.copy_from_slice(&own[page..page + 0x100f]);
        }
        let long = r.below(3) != 0;
        let cpl = r.below(2) as u32 * 3;
        let mut mode = mode(long, cpl);
        if cpl == 3 && r.below(2) == 0 {
            mode = mode.windowed();
        }
        let at = r.below(0x1000);
        let places = match (long, cpl) {
            (true, 3) => [0x55, 0x56, 0x7e, 0x7f]
                .map(|slot| slot << 40 | (r.next() << 12 & 0xff_ffff_f000) | at),
            (true, _) => [1, 2, 3, 4].map(|n| !0 << 47 | n << 42 | r.next() << 12 | at),
            (false, _) => [1, 2, 3, 4].map(|n| n << 28 | (r.next() << 12 & 0xfff_f000) | at),
        };
        let reaches = Reaches::default();
        let variant = [Variant::Plain, Variant::Split, Variant::Trace][r.below(3) as usize];
        let made: Vec<_> = (places.iter())
            .filter(|rip| movable(&mode, **rip))
            .map(|rip| {
                let t = translate(&Input {
                    mode,
                    rip: *rip,
                    code: &code,
                    known: (0, code.len()),
                    at: at as usize,
                    mode_id: 1,
                    ac_modes: [1, 2],
                    jc_table: 0,
                    variant,
                    features: if round % 2 == 0 { &features } else { &amd },
                    source: None,
                    window: mode.window().then_some(Window {
                        high: 0x1234 << 40,
                        low: 0x4321 << 40,
                        reaches: &reaches,
                        page: 0x5000,
                    }),
                });
                (*rip, t)
            })
            .collect();
        let Some(((from, first), others)) = made.split_first() else {
            continue;
        };
        for (rip, t) in others {
            assert_eq!(first.movable, t.movable, "round {round}");
            if !first.movable {
                continue;
            }
            let by = rip.wrapping_sub(*from);
            let mut copy = first.code.clone();
            blocks::relocate(&mut copy, &first.rips, &mode, by);
            let text = || format!("round {round}, {mode:?}, {variant:?}, {from:#x} to {rip:#x}");
            assert!(copy == t.code, "{}", text());
            let mask = mode.ip_mask();
            assert_eq!(rest(first, by, mask), rest(t, 0, mask), "{}", text());
            (moved, rips) = (moved + 1, rips + first.rips.len());
        }
    }
    assert!(moved > 30_000 && rips > 5_000, "{moved} {rips}");
}

#[test]
fn code_near_an_edge_stays_where_it_is() {
    let (user, kernel) = (mode(true, 3), mode(true, 0));
    let windowed = user.windowed();
    let narrow = mode(false, 3);
    for (mode, rip, expected) in [
        (user, 0x40_1000, false),
        (user, 0x5555_5555_4000, true),
        (user, (1 << 47) - 0x2000, false),
        (windowed, 0x5555_5555_4000, true),
        (windowed, 0x1111_1111_1000, false),
        (windowed, (0x55 << 40) + REACH / 2, false),
        (windowed, (0x57 << 40) - 0x1000, false),
        (kernel, 0xffff_ffff_8100_0000, false),
        (kernel, 0xffff_c000_0000_0000, true),
        (user.single(), 0x5555_5555_4000, false),
        (narrow, 0x5655_6000, true),
        (narrow, 0xfff, false),
        (narrow, 0xffff_f000, false),
    ] {
        assert_eq!(movable(&mode, rip), expected, "{mode:?} {rip:#x}");
    }
}
