//! The page walk.

use cpu::bits::{cr0, cr4, efer};
use cpu::{State, Vector};

use super::machine::{Machine, TABLES};
use crate::sys::walk::{self, Access, entry, walk};

const LINEAR: u64 = 0x0040_5123;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Bits32,
    Pae,
    Long,
}

/// Builds tables in which `LINEAR`'s last level is `leaf`, a 4 KiB page.
fn build(m: &mut Machine, mode: Mode, leaf: u64) {
    m.state.cr0 |= cr0::PG;
    m.state.cr3 = TABLES;
    let all = entry::P | entry::RW | entry::US;
    let next = |i: u64| (TABLES + i * 0x1000) | all;
    match mode {
        Mode::Bits32 => {
            m.put(TABLES + 4 * (LINEAR >> 22), 4, next(3));
            m.put(TABLES + 0x3000 + 4 * (LINEAR >> 12 & 0x3ff), 4, leaf);
        }
        Mode::Pae | Mode::Long => {
            m.state.cr4 |= cr4::PAE;
            if mode == Mode::Long {
                m.state.efer |= efer::LMA | efer::LME;
                m.put(TABLES, 8, next(1));
                m.put(TABLES + 0x1000, 8, next(2));
            } else {
                m.state.pdpte = [(TABLES + 0x2000) | 1, 0, 0, 0];
            }
            m.put(TABLES + 0x2000 + 8 * (LINEAR >> 21), 8, next(3));
            m.put(TABLES + 0x3000 + 8 * (LINEAR >> 12 & 0x1ff), 8, leaf);
        }
    }
}

fn at(m: &Machine, access: Access) -> cpu::Fault<walk::Walk> {
    walk(&m.state, &m.mem.phys, LINEAR, access)
}

/// What the manual's rules (SDM vol. 3, 4.6.1 and 4.7) say, in its own order.
fn expected(state: &State, leaf: u64, access: Access, nx_works: bool) -> Option<u32> {
    let smep = state.cr4 & cr4::SMEP != 0;
    let mut code = 0;
    if access.write {
        code |= 2;
    }
    if access.user {
        code |= 4;
    }
    if access.exec && (smep || nx_works) {
        code |= 16;
    }
    if leaf & 1 == 0 {
        return Some(code);
    }
    let user_page = leaf & 4 != 0;
    let writable = leaf & 2 != 0;
    let nx = leaf >> 63 != 0 && nx_works;
    let permitted = match (access.user, access.exec, access.write) {
        (true, true, _) => user_page && !nx,
        (true, false, false) => user_page,
        (true, false, true) => user_page && writable,
        (false, true, _) => !nx && (!user_page || !smep),
        (false, false, write) => {
            let smap = user_page && state.cr4 & cr4::SMAP != 0 && !access.smap_open;
            let protected = write && !writable && state.cr0 & cr0::WP != 0;
            !smap && !protected
        }
    };
    if permitted { None } else { Some(code | 1) }
}

#[test]
fn every_combination_of_rights_and_access_has_the_manuals_outcome() {
    for mode in [Mode::Bits32, Mode::Pae, Mode::Long] {
        for bits in 0..1u64 << 12 {
            let on = |i: u32| bits >> i & 1 != 0;
            let mut m = Machine::real_quick();
            let mut leaf = 0x6000 | bits & 7;
            let nxe = on(3) && mode != Mode::Bits32;
            if on(4) && nxe {
                leaf |= entry::NX;
            }
            if nxe {
                m.state.efer |= efer::NXE;
            }
            build(&mut m, mode, leaf);
            for (bit, flag) in [(5, cr4::SMEP), (6, cr4::SMAP)] {
                if on(bit) {
                    m.state.cr4 |= flag;
                }
            }
            if on(7) {
                m.state.cr0 |= cr0::WP;
            }
            let access = Access {
                write: on(8) && !on(9),
                exec: on(9),
                user: on(10),
                smap_open: on(11),
            };
            let want = expected(&m.state, leaf, access, nxe);
            match (at(&m, access), want) {
                (Ok(w), None) => {
                    assert_eq!(w.gpa, 0x6123);
                    assert_eq!((w.writable, w.user), (leaf & 2 != 0, leaf & 4 != 0));
                }
                (Err(e), Some(code)) => {
                    assert_eq!((e.vector, e.address), (Vector::Pf, LINEAR));
                    assert_eq!(e.code, code, "{mode:?} {leaf:#x} {access:?}");
                }
                (got, want) => panic!("{mode:?} {leaf:#x} {access:?}: {got:?}, not {want:?}"),
            }
        }
    }
}

#[test]
fn accessed_and_dirty_bits_are_set_only_by_accesses_that_succeed() {
    for mode in [Mode::Bits32, Mode::Pae, Mode::Long] {
        let mut m = Machine::real();
        build(&mut m, mode, 0x6000 | entry::P);
        let size = if mode == Mode::Bits32 { 4 } else { 8 };
        let (upper, leaf) = match mode {
            Mode::Bits32 => (TABLES + 4, TABLES + 0x3000 + 4 * 5),
            _ => (TABLES + 0x2010, TABLES + 0x3028),
        };
        let user = Access {
            user: true,
            ..Access::default()
        };
        assert!(at(&m, user).is_err());
        assert_eq!(m.get(upper, size) & entry::A, 0);
        assert_eq!(m.get(leaf, size) & entry::A, 0);

        assert!(!at(&m, Access::default()).unwrap().dirty);
        assert_eq!(m.get(upper, size) & (entry::A | entry::D), entry::A);
        assert_eq!(m.get(leaf, size) & (entry::A | entry::D), entry::A);

        let write = Access {
            write: true,
            ..Access::default()
        };
        assert!(at(&m, write).unwrap().dirty);
        assert_ne!(m.get(leaf, size) & entry::D, 0);
        assert_eq!(m.get(upper, size) & entry::D, 0);
    }
}

#[test]
fn large_pages_keep_their_low_address_bits() {
    let mut m = Machine::real();
    build(&mut m, Mode::Bits32, 0);
    m.state.cr4 |= cr4::PSE;
    // PSE-36: bits 13 to 20 are address bits 32 to 39.
    m.put(TABLES + 4, 4, 0x00c0_0000 | 3 << 13 | 0x80 | 7);
    let w = at(&m, Access::default()).unwrap();
    assert_eq!((w.gpa, w.size), (0x3_00c0_5123, 4 << 20));

    let mut m = Machine::real();
    build(&mut m, Mode::Long, 0);
    m.put(TABLES + 0x2010, 8, 0x0120_0000 | 0x180 | 7);
    m.state.cr4 |= cr4::PGE;
    let w = at(&m, Access::default()).unwrap();
    assert_eq!((w.gpa, w.size, w.global), (0x0120_5123, 2 << 20, true));

    m.put(TABLES + 0x1000, 8, 0x1_4000_0000 | 0x80 | 7);
    let w = at(&m, Access::default()).unwrap();
    assert_eq!((w.gpa, w.size), (0x1_4040_5123, 1 << 30));
}

#[test]
fn reserved_bits_are_reported() {
    let leaf = 0x6007;
    // Mode, table entry, its size, what is in it.
    let cases = [
        (Mode::Bits32, TABLES + 4, 4, 1 << 21 | 0x87),
        (Mode::Pae, TABLES + 0x3028, 8, leaf | 1 << 55),
        (Mode::Pae, TABLES + 0x3028, 8, leaf | 1 << 63),
        (Mode::Pae, TABLES + 0x2010, 8, 0x2000 | 0x87),
        (Mode::Long, TABLES + 0x3028, 8, leaf | 1 << 50),
        (Mode::Long, TABLES + 0x3028, 8, leaf | 1 << 63),
        (Mode::Long, TABLES, 8, (TABLES + 0x1000) | 0x87),
        (Mode::Long, TABLES + 0x1000, 8, 0x20_0087),
    ];
    for (mode, entry, size, value) in cases {
        let mut m = Machine::real();
        build(&mut m, mode, leaf);
        m.state.cr4 |= cr4::PSE;
        m.put(entry, size, value);
        let e = at(&m, Access::default()).unwrap_err();
        assert_eq!(e.code, 9, "{mode:?} {value:#x}");
    }
}

#[test]
fn pae_loads_its_directory_pointers_with_cr3_and_checks_them() {
    let mut m = Machine::protected();
    m.state.cr4 |= cr4::PAE;
    m.put(0x7020, 8, 0x9001);
    // mov cr3, eax; mov cr0, ebx
    m.state.gpr[0] = 0x7020;
    m.ok(&[0x0f, 0x22, 0xd8]);
    assert_eq!(m.state.pdpte[0], 0);
    m.state.gpr[3] = m.state.cr0 | cr0::PG;
    m.ok(&[0x0f, 0x22, 0xc3]);
    assert_eq!(m.state.pdpte[0], 0x9001);

    m.put(0x9000, 8, 0x87);
    m.put(0x7040, 8, 0x9003);
    m.state.gpr[0] = 0x7040;
    assert_eq!(m.fault(&[0x0f, 0x22, 0xd8]), (Vector::Gp, 0));
}

#[test]
fn a_look_finds_what_a_walk_found_and_changes_nothing() {
    for mode in [Mode::Bits32, Mode::Pae, Mode::Long] {
        let mut m = Machine::real();
        let (size, table) = if mode == Mode::Bits32 {
            (4, 0x3ff)
        } else {
            (8, 0x1ff)
        };
        build(&mut m, mode, 0x6000 | entry::P | entry::US);
        let beside = |n: u64| LINEAR + (n << 12);
        let place = |n: u64| TABLES + 0x3000 + size * (beside(n) >> 12 & table);
        m.put(
            place(1),
            size as usize,
            0x8000 | entry::P | entry::RW | entry::US,
        );
        let look = |m: &Machine| {
            let mut looker = walk::Looker::new(&m.state, &m.mem.phys);
            [0, 1, 2].map(|n| looker.look(beside(n)))
        };
        // Nobody has been there: what is not accessed is in no TLB.
        assert_eq!(look(&m), [None; 3], "{mode:?}");
        let walked = [(0, false), (1, true)].map(|(n, write)| {
            let access = Access {
                write,
                user: true,
                ..Access::default()
            };
            walk(&m.state, &m.mem.phys, beside(n), access).ok()
        });
        assert!(walked.iter().all(Option::is_some));
        assert_eq!(look(&m), [walked[0], walked[1], None], "{mode:?}");
        // The guest takes a right away, and the accessed bit.
        m.put(
            place(1),
            size as usize,
            0x8000 | entry::P | entry::US | entry::A | entry::D,
        );
        m.put(place(0), size as usize, 0x6000 | entry::P | entry::US);
        let [first, second, _] = look(&m);
        assert_eq!(first, None);
        assert!(second.is_some_and(|w| !w.writable && w.dirty && w.gpa == 0x8123));
    }
}
