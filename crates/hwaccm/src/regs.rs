//! [`cpu::State`] to and from KVM's register structures. Pure conversions.

use cpu::bits::{cr0, cr4, efer};
use cpu::{DescTable, FPU_AREA, Seg, SegReg, State, attr};
use kvm_bindings::{
    kvm_debugregs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_xsave,
};
use pgm::PhysMap;

pub(crate) fn regs_in(s: &State) -> kvm_regs {
    let g = &s.gpr;
    kvm_regs {
        rax: g[0],
        rcx: g[1],
        rdx: g[2],
        rbx: g[3],
        rsp: g[4],
        rbp: g[5],
        rsi: g[6],
        rdi: g[7],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: s.rip,
        rflags: s.rflags,
    }
}

pub(crate) fn regs_out(r: &kvm_regs, s: &mut State) {
    s.gpr = [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ];
    s.rip = r.rip;
    s.rflags = r.rflags;
}

fn segment_in(s: &SegReg) -> kvm_segment {
    let bit = |b: u32| u8::from(s.attr & b != 0);
    let unusable = bit(attr::UNUSABLE) | u8::from(s.attr & attr::P == 0);
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.sel,
        type_: (s.attr & attr::TYPE) as u8,
        present: bit(attr::P),
        dpl: s.dpl(),
        db: bit(attr::DB),
        s: bit(attr::S),
        l: bit(attr::L),
        g: bit(attr::G),
        avl: bit(attr::AVL),
        unusable,
        padding: 0,
    }
}

fn segment_out(k: &kvm_segment) -> SegReg {
    let bit = |on: u8, b: u32| if on != 0 { b } else { 0 };
    SegReg {
        base: k.base,
        limit: k.limit,
        sel: k.selector,
        attr: u32::from(k.type_) & attr::TYPE
            | bit(k.s, attr::S)
            | u32::from(k.dpl & 3) << attr::DPL_SHIFT
            | bit(k.present, attr::P)
            | bit(k.avl, attr::AVL)
            | bit(k.l, attr::L)
            | bit(k.db, attr::DB)
            | bit(k.g, attr::G)
            | bit(k.unusable, attr::UNUSABLE),
    }
}

fn table_in(t: &DescTable) -> kvm_dtable {
    kvm_dtable {
        base: t.base,
        limit: t.limit,
        ..Default::default()
    }
}

fn table_out(t: &kvm_dtable) -> DescTable {
    DescTable {
        base: t.base,
        limit: t.limit,
    }
}

/// CR8 and APIC_BASE live in the machine's local APIC and are passed in.
pub(crate) fn sregs_in(s: &State, cr8: u8, apic_base: u64) -> kvm_sregs {
    let seg = |i: Seg| segment_in(&s.seg[i as usize]);
    kvm_sregs {
        cs: seg(Seg::Cs),
        ds: seg(Seg::Ds),
        es: seg(Seg::Es),
        fs: seg(Seg::Fs),
        gs: seg(Seg::Gs),
        ss: seg(Seg::Ss),
        tr: segment_in(&s.tr),
        ldt: segment_in(&s.ldtr),
        gdt: table_in(&s.gdtr),
        idt: table_in(&s.idtr),
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: cr8.into(),
        efer: s.efer,
        apic_base,
        interrupt_bitmap: [0; 4],
    }
}

/// The vector KVM holds queued is in `interrupt_bitmap` and handled by the caller.
pub(crate) fn sregs_out(k: &kvm_sregs, s: &mut State) {
    for (i, seg) in [
        (Seg::Es, &k.es),
        (Seg::Cs, &k.cs),
        (Seg::Ss, &k.ss),
        (Seg::Ds, &k.ds),
        (Seg::Fs, &k.fs),
        (Seg::Gs, &k.gs),
    ] {
        s.seg[i as usize] = segment_out(seg);
    }
    s.tr = segment_out(&k.tr);
    s.ldtr = segment_out(&k.ldt);
    s.gdtr = table_out(&k.gdt);
    s.idtr = table_out(&k.idt);
    (s.cr0, s.cr2, s.cr3, s.cr4, s.efer) = (k.cr0, k.cr2, k.cr3, k.cr4, k.efer);
}

/// The PDPTE registers, which KVM keeps to itself, from memory (SDM vol. 3, 4.4.1).
pub(crate) fn load_pdpte(s: &mut State, phys: &PhysMap) {
    if s.cr0 & cr0::PG != 0 && s.cr4 & cr4::PAE != 0 && s.efer & efer::LMA == 0 {
        let mut data = [0; 32];
        phys.read(s.cr3 & 0xffff_ffe0, &mut data);
        for (entry, bytes) in s.pdpte.iter_mut().zip(data.chunks_exact(8)) {
            *entry = bytes
                .iter()
                .rev()
                .fold(0, |value, b| value << 8 | u64::from(*b));
        }
    }
}

pub(crate) fn debug_in(s: &State) -> kvm_debugregs {
    kvm_debugregs {
        db: [s.dr[0], s.dr[1], s.dr[2], s.dr[3]],
        dr6: s.dr[6],
        dr7: s.dr[7],
        ..Default::default()
    }
}

pub(crate) fn debug_out(k: &kvm_debugregs, s: &mut State) {
    s.dr[..4].copy_from_slice(&k.db);
    s.dr[6] = k.dr6;
    s.dr[7] = k.dr7;
}

/// `components`: the XSTATE_BV bits this host has (x87 and SSE always, AVX perhaps).
pub(crate) fn xsave_in(s: &State, components: u64) -> kvm_xsave {
    let mut k = kvm_xsave::default();
    for (word, bytes) in k.region.iter_mut().zip(s.fpu.0.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    // XSTATE_BV; XCOMP_BV and the rest of the header must be zero.
    k.region[128..144].fill(0);
    k.region[128] = components as u32 & 7;
    k
}

pub(crate) fn xsave_out(k: &kvm_xsave, s: &mut State) {
    let mut area = [0; FPU_AREA];
    for (bytes, word) in area.chunks_exact_mut(4).zip(&k.region) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let present = k.region[128];
    let reset = cpu::Fpu::reset().0;
    // Components that are not present are in their initial state (SDM vol. 1, 13.6). MXCSR is
    // there with SSE or AVX.
    if present & 1 == 0 {
        area[..24].copy_from_slice(&reset[..24]);
        area[32..160].fill(0);
    }
    if present & 2 == 0 {
        area[160..416].fill(0);
    }
    if present & 6 == 0 {
        area[24..28].copy_from_slice(&reset[24..28]);
    }
    if present & 4 == 0 {
        area[576..832].fill(0);
    }
    area[512..576].fill(0);
    area[512] = 7;
    s.fpu.0 = area;
}

/// The MSRs that are part of the state, and where.
fn msr_fields(s: &mut State) -> Vec<(u32, &mut u64)> {
    use cpu::bits::msr::*;
    let mut all = vec![
        (STAR, &mut s.star),
        (LSTAR, &mut s.lstar),
        (CSTAR, &mut s.cstar),
        (SFMASK, &mut s.sfmask),
        (KERNEL_GS_BASE, &mut s.kernel_gs_base),
        (SYSENTER_CS, &mut s.sysenter_cs),
        (SYSENTER_ESP, &mut s.sysenter_esp),
        (SYSENTER_EIP, &mut s.sysenter_eip),
        (PAT, &mut s.pat),
        (MISC_ENABLE, &mut s.misc_enable),
        (TSC_AUX, &mut s.tsc_aux),
        (MTRR_DEF_TYPE, &mut s.mtrr_def),
    ];
    let fixed = [MTRR_FIX64K, MTRR_FIX16K_80000, MTRR_FIX16K_A0000]
        .into_iter()
        .chain(MTRR_FIX4K_C0000..=MTRR_FIX4K_F8000);
    all.extend(fixed.zip(&mut s.mtrr_fixed));
    all.extend((MTRR_PHYSBASE0..).zip(s.mtrr_var.as_flattened_mut()));
    all
}

/// MSR numbers in a fixed order.
pub(crate) fn msr_list() -> Vec<kvm_msr_entry> {
    let mut s = State::reset(0);
    msrs_in(&mut s)
}

/// MSR values to set. (`s` is only read.)
pub(crate) fn msrs_in(s: &mut State) -> Vec<kvm_msr_entry> {
    msr_fields(s)
        .into_iter()
        .map(|(index, value)| kvm_msr_entry {
            index,
            data: *value,
            ..Default::default()
        })
        .collect()
}

/// Takes MSR values over; those not in `found` stay.
pub(crate) fn msrs_out(found: &[kvm_msr_entry], s: &mut State) {
    for (index, field) in msr_fields(s) {
        if let Some(m) = found.iter().find(|m| m.index == index) {
            *field = m.data;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy_state() -> State {
        let mut s = State::reset(0);
        for (i, r) in s.gpr.iter_mut().enumerate() {
            *r = i as u64 * 0x1_0000_0001;
        }
        s.seg[Seg::Fs as usize] = SegReg {
            base: 0x7fff_1234,
            limit: 0xffff_ffff,
            attr: attr::P | attr::S | attr::RW | attr::G | attr::DB | 3 << attr::DPL_SHIFT,
            sel: 0x33,
        };
        s.ldtr.attr = attr::UNUSABLE;
        s.mtrr_var[3] = [0x1006, 0xffff_f800];
        s.mtrr_fixed[10] = 0x0505_0505_0505_0505;
        s.lstar = 0xffff_ffff_8100_0000;
        s.dr[7] = 0x455;
        s.fpu.0[576] = 9;
        s.fpu.0[160] = 8;
        s
    }

    #[test]
    fn state_survives_the_round_trip() {
        let mut from = busy_state();
        let mut to = State::reset(1);
        regs_out(&regs_in(&from), &mut to);
        sregs_out(&sregs_in(&from, 0, 0), &mut to);
        debug_out(&debug_in(&from), &mut to);
        xsave_out(&xsave_in(&from, 7), &mut to);
        msrs_out(&msrs_in(&mut from), &mut to);
        to.run = from.run;
        assert_eq!(format!("{from:?}"), format!("{to:?}"));
    }

    #[test]
    fn absent_components_are_in_their_initial_state() {
        let mut s = busy_state();
        let mut k = xsave_in(&s, 7);
        k.region[128] = 0;
        xsave_out(&k, &mut s);
        assert_eq!(s.fpu, cpu::Fpu::reset());
    }

    #[test]
    fn pdptes_come_from_memory_in_pae_only() {
        let ram = pgm::Ram::new(1 << 16).unwrap();
        let phys = PhysMap::new(ram);
        let block = phys.ram().alloc(1 << 16).unwrap();
        let kind = pgm::RegionKind::Memory {
            block,
            writes: pgm::WriteFlags::ReadWrite,
        };
        phys.add(0, 1 << 16, 0, kind).unwrap();
        phys.write(0x1020, &[1, 0x20]);
        let mut s = State::reset(0);
        s.cr3 = 0x1020;
        load_pdpte(&mut s, &phys);
        assert_eq!(s.pdpte, [0; 4]);
        (s.cr0, s.cr4) = (cr0::PG | cr0::PE, cr4::PAE);
        load_pdpte(&mut s, &phys);
        assert_eq!(s.pdpte, [0x2001, 0, 0, 0]);
    }
}
