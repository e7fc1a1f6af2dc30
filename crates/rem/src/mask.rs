//! AVX-512 masks on memory operands: which bytes an instruction accesses at all.

use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

use crate::site::Mask;

/// How the mask of `insn` selects parts of its memory operand; `None` when the whole operand is
/// accessed whatever the mask is (SDM vol. 2, 2.8: the exception classes with NF in their names).
pub fn mask_of(insn: &Instruction) -> Option<Mask> {
    if insn.op_mask() == Register::None || insn.is_vsib() {
        return None;
    }
    (0..insn.op_count()).find(|n| insn.op_kind(*n) == OpKind::Memory)?;
    let name = format!("{:?}", insn.mnemonic());
    if always_whole(insn, &name) {
        return None;
    }
    let starts = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
    // The operand without EVEX.b.
    let full = insn.op_code().memory_size();
    let element = match insn.mnemonic() {
        M::Vpdpbusd | M::Vpdpbusds | M::Vpdpwssd | M::Vpdpwssds => 4,
        M::Vpmuldq | M::Vpmuludq => 8,
        _ => full.element_size(),
    };
    let spread = starts(&["Vbroadcast", "Vpbroadcast"]);
    // One bit for each element of the destination, which may be more than there are in memory.
    let (element, bits) = if spread {
        let unit = match insn.mnemonic() {
            M::Vpbroadcastb => 1,
            M::Vpbroadcastw => 2,
            M::Vpbroadcastq | M::Vbroadcastsd => 8,
            _ if name.contains("64x") => 8,
            _ => 4,
        };
        (unit, insn.op0_register().size() / unit)
    } else if insn.is_broadcast() {
        (insn.memory_size().size(), full.size() / element.max(1))
    } else {
        (element, full.size() / element.max(1))
    };
    Some(Mask {
        register: insn.op_mask().number() as u8,
        element: element as u8,
        bits: bits.clamp(1, 64) as u8,
        packed: starts(&["Vcompress", "Vpcompress", "Vexpand", "Vpexpand"]),
    })
}

/// Whether the mask of `insn` keeps no fault away.
fn always_whole(insn: &Instruction, name: &str) -> bool {
    let prefixes = [
        "Valign",
        "Vdbpsadbw",
        "Vextract",
        "Vgf2p8affine",
        "Vinsert",
        "Vmovddup",
        "Vmovshdup",
        "Vmovsldup",
        "Vpack",
        "Vpalignr",
        "Vpconflict",
        "Vperm",
        "Vpmaddubsw",
        "Vpmaddwd",
        "Vpmultishift",
        "Vpshuf",
        "Vpunpck",
        "Vshuf",
        "Vunpck",
        "Vpermi2",
        "Vpermt2",
    ];
    // Shifts by a count in memory, which all elements share.
    let shared = matches!(
        insn.mnemonic(),
        M::Vpsllw
            | M::Vpslld
            | M::Vpsllq
            | M::Vpsraw
            | M::Vpsrad
            | M::Vpsraq
            | M::Vpsrlw
            | M::Vpsrld
            | M::Vpsrlq
    ) && insn.op_kind(2) == OpKind::Memory;
    shared || name != "Vpshufbitqmb" && prefixes.iter().any(|p| name.starts_with(p))
}
