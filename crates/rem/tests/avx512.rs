//! AVX-512 on the engine. Hosts that lack it have nothing to show here.

#![allow(clippy::unwrap_used)]

mod guest;

use guest::{CODE, DATA, Guest};

/// The last page that is mapped ends here.
const END: u64 = 4 << 20;

fn guest(code: &[u8]) -> Option<Guest> {
    let has = std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vl");
    if !has {
        eprintln!("the host has no AVX-512: not tested");
        return None;
    }
    let mut g = Guest::new(code);
    g.s.xcr0 = 0xe7;
    g.s.gpr[6] = DATA;
    g.s.gpr[7] = DATA + 0x1000;
    Some(g)
}

fn word(g: &Guest, at: u64) -> u32 {
    g.get(at) as u32
}

fn fill(g: &Guest, at: u64, values: impl Iterator<Item = u32>) {
    for (i, v) in values.enumerate() {
        g.phys.write(at + 4 * i as u64, &v.to_le_bytes());
    }
}

/// vmovdqu64 zmm17, [rsi]; vpaddd zmm18, zmm17, [rsi+64]; vpaddd zmm19, zmm17, [rsi+4]{1to16};
/// mov eax, 0x5555; kmovw k1, eax; vmovdqu32 [rdi]{k1}, zmm18; vmovdqu64 [rdi+64], zmm19;
/// vpcmpltud k2, zmm17, zmm18; kmovq [rdi+128], k2; cpuid; vmovdqu64 [rdi+136], zmm18;
/// vextracti64x4 [rdi+200], zmm0, 1; hlt
const BASICS: [u8; 82] = [
    0x62, 0xe1, 0xfe, 0x48, 0x6f, 0xe, 0x62, 0xe1, 0x75, 0x40, 0xfe, 0x56, 0x1, 0x62, 0xe1, 0x75,
    0x50, 0xfe, 0x5e, 0x1, 0xb8, 0x55, 0x55, 0x0, 0x0, 0xc5, 0xf8, 0x92, 0xc8, 0x62, 0xe1, 0x7e,
    0x49, 0x7f, 0x17, 0x62, 0xe1, 0xfe, 0x48, 0x7f, 0x5f, 0x1, 0x62, 0xb3, 0x75, 0x40, 0x1e, 0xd2,
    0x1, 0xc4, 0xe1, 0xf8, 0x91, 0x97, 0x80, 0x0, 0x0, 0x0, 0xf, 0xa2, 0x62, 0xe1, 0xfe, 0x48,
    0x7f, 0x97, 0x88, 0x0, 0x0, 0x0, 0x62, 0xf3, 0xfd, 0x48, 0x3b, 0x87, 0xc8, 0x0, 0x0, 0x0, 0x1,
    0xf4,
];

/// mov eax, 0xff; kmovd k3, eax; vmovdqu32 zmm1{k3}{z}, [rsi]; vpaddd zmm2{k3}{z}, zmm1, [rsi];
/// vmovdqu32 [rdi]{k3}, zmm2; vpcompressd [rdi-32]{k3}, zmm2; hlt
const MASKED: [u8; 35] = [
    0xb8, 0xff, 0x0, 0x0, 0x0, 0xc5, 0xfb, 0x92, 0xd8, 0x62, 0xf1, 0x7e, 0xcb, 0x6f, 0xe, 0x62,
    0xf1, 0x75, 0xcb, 0xfe, 0x16, 0x62, 0xf1, 0x7e, 0x4b, 0x7f, 0x17, 0x62, 0xf2, 0x7d, 0x4b, 0x8b,
    0x57, 0xf8, 0xf4,
];

/// mov eax, 0x1ff; kmovd k3, eax; vmovdqu32 zmm1{k3}{z}, [rsi]; hlt
const FAULTING: [u8; 16] = [
    0xb8, 0xff, 0x1, 0x0, 0x0, 0xc5, 0xfb, 0x92, 0xd8, 0x62, 0xf1, 0x7e, 0xcb, 0x6f, 0xe, 0xf4,
];

/// vmovdqu32 zmm16, [rdi]; kxnorw k1, k1, k1; vpgatherdd zmm20{k1}, [rsi+zmm16*4];
/// kxnorw k2, k2, k2; vpscatterdd [rdi+zmm16*4+64]{k2}, zmm20; kmovw eax, k1; kmovw ebx, k2; hlt
const GATHERING: [u8; 38] = [
    0x62, 0xe1, 0x7e, 0x48, 0x6f, 0x7, 0xc5, 0xf4, 0x46, 0xc9, 0x62, 0xe2, 0x7d, 0x41, 0x90, 0x24,
    0x86, 0xc5, 0xec, 0x46, 0xd2, 0x62, 0xe2, 0x7d, 0x42, 0xa0, 0x64, 0x87, 0x10, 0xc5, 0xf8, 0x93,
    0xc1, 0xc5, 0xf8, 0x93, 0xda, 0xf4,
];

/// xsetbv(0xe7); xsave [rdi]; ones to zmm0, zmm31 and k7; xsave [rdi+4096]; vpxor xmm0, xmm0, xmm0;
/// xrstor [rdi]; kmovq rbx, k7; vmovdqu64 [rsi], zmm31; xrstor [rdi+4096]; kmovq rcx, k7;
/// vmovdqu64 [rsi+64], zmm0; vmovdqu64 [rsi+128], zmm31; hlt
const SAVING: [u8; 96] = [
    0x31, 0xc9, 0xb8, 0xe7, 0x0, 0x0, 0x0, 0x31, 0xd2, 0xf, 0x1, 0xd1, 0xb8, 0xff, 0xff, 0xff,
    0xff, 0xba, 0xff, 0xff, 0xff, 0xff, 0xf, 0xae, 0x27, 0x62, 0xf3, 0x7d, 0x48, 0x25, 0xc0, 0xff,
    0x62, 0x3, 0x5, 0x40, 0x25, 0xff, 0xff, 0xc4, 0xe1, 0xc4, 0x46, 0xff, 0xf, 0xae, 0xa7, 0x0,
    0x10, 0x0, 0x0, 0xc5, 0xf9, 0xef, 0xc0, 0xf, 0xae, 0x2f, 0xc4, 0xe1, 0xfb, 0x93, 0xdf, 0x62,
    0x61, 0xfe, 0x48, 0x7f, 0x3e, 0xf, 0xae, 0xaf, 0x0, 0x10, 0x0, 0x0, 0xc4, 0xe1, 0xfb, 0x93,
    0xcf, 0x62, 0xf1, 0xfe, 0x48, 0x7f, 0x46, 0x1, 0x62, 0x61, 0xfe, 0x48, 0x7f, 0x7e, 0x2, 0xf4,
];

#[test]
fn registers_and_masks_are_copied_and_survive_helpers() {
    let Some(mut g) = guest(&BASICS) else { return };
    fill(&g, DATA, (0..16).map(|i| i * 0x1111_1111));
    fill(&g, DATA + 64, (0..16).map(|i| 0x8000_0000 + i));
    assert_eq!(g.run(), None);
    let out = DATA + 0x1000;
    for i in 0..16u32 {
        let at = |n: u64| word(&g, out + n + 4 * u64::from(i));
        let a = i * 0x1111_1111;
        let sum = a.wrapping_add(0x8000_0000 + i);
        assert_eq!(at(0), if i % 2 == 0 { sum } else { 0 });
        assert_eq!(at(64), a.wrapping_add(0x1111_1111), "broadcast");
        assert_eq!(g.get(out + 128) >> i & 1, u64::from(a < sum));
        assert_eq!(at(136), sum, "after CPUID");
    }
    assert_ne!(g.s.upper.live, 0);
    assert_eq!(g.s.upper.opmask[8], 0x55);
    assert_eq!(word(&g, out + 200), 0, "upper half of ZMM0 started as zero");
}

#[test]
fn what_is_masked_out_does_not_fault() {
    let Some(mut g) = guest(&MASKED) else { return };
    fill(&g, END - 32, 1..9);
    (g.s.gpr[6], g.s.gpr[7]) = (END - 32, END - 32);
    assert_eq!(g.run(), None);
    for i in 0..8 {
        assert_eq!(word(&g, END - 32 + 4 * i), 2 * (i as u32 + 1));
        assert_eq!(word(&g, END - 64 + 4 * i), 2 * (i as u32 + 1));
    }
    let Some(mut g) = guest(&FAULTING) else {
        return;
    };
    g.s.gpr[6] = END - 32;
    let f = g.run().unwrap();
    assert_eq!((f.0, f.1, g.s.cr2), (14, CODE + 9, END));
}

#[test]
fn gathers_and_scatters_go_element_by_element() {
    let Some(mut g) = guest(&GATHERING) else {
        return;
    };
    fill(&g, DATA, (0..64).map(|i| 1000 + i));
    fill(&g, DATA + 0x1000, (0..16).map(|i| 3 * i));
    assert_eq!(g.run(), None);
    for i in 0..16 {
        assert_eq!(word(&g, DATA + 0x1040 + 12 * i), 1000 + 3 * i as u32);
    }
    assert_eq!((g.s.gpr[0], g.s.gpr[3]), (0, 0), "the masks are used up");
}

#[test]
fn the_save_area_tells_what_is_in_use() {
    let Some(mut g) = guest(&SAVING) else { return };
    g.s.xcr0 = 1;
    assert_eq!(g.run(), None);
    let area = DATA + 0x1000;
    assert_eq!(g.get(area + 512), 7);
    assert_eq!(g.get(area + 0x1000 + 512), 0xe7);
    assert_eq!((g.s.gpr[3], g.s.gpr[1]), (0, u64::MAX));
    for i in 0..8 {
        assert_eq!(g.get(DATA + 8 * i), 0);
        assert_eq!(g.get(DATA + 64 + 8 * i), u64::MAX);
        assert_eq!(g.get(DATA + 128 + 8 * i), u64::MAX);
    }
}

#[test]
fn without_permission_it_is_undefined() {
    let Some(mut g) = guest(&BASICS) else { return };
    g.s.xcr0 = 7;
    assert_eq!(g.run().map(|f| (f.0, f.1)), Some((6, CODE)));
    assert_eq!(g.s.upper.live, 0);
}

#[test]
fn the_first_instruction_is_executed_before_it_traps() {
    // vpbroadcastd zmm1, eax; nop; hlt
    let Some(mut g) = guest(&[0x62, 0xf2, 0x7d, 0x48, 0x7c, 0xc8, 0x90, 0xf4]) else {
        return;
    };
    g.s.gpr[0] = 0x1234_5678;
    g.s.rflags |= cpu::bits::rflags::TF;
    let f = g.run().unwrap();
    assert_eq!((f.0, f.1), (1, CODE + 6));
    let xmm1 = &g.s.fpu.0[176..180];
    assert_eq!(xmm1, 0x1234_5678u32.to_le_bytes());
}
