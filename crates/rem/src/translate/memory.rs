//! Memory operands: address, segment, TLB probe; and the instructions that are little else.

use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind, Register};

use super::encode::segment_of;
use super::{
    Builder, By, Fixed, Input, Insn, Shown, Use, Variant, for_64_bit, is_scratch, number,
    seg_number, writes_memory,
};
use crate::classify;
use crate::ctx::{self, Call, Part};
use crate::emit::{At, NO_BASE, T0, T1};
use crate::mask::mask_of;
use crate::site::{Action, Link, Site, Wire};

/// One memory access to emit.
#[derive(Clone, Copy)]
pub(super) struct Access {
    pub seg: usize,
    pub size: u32,
    pub read: bool,
    pub write: bool,
    pub last: bool,
}

/// Whether the host wants aligned operands of the SHA instructions, as Intel's processors do.
fn sha_aligned() -> bool {
    static AMD: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    !AMD.get_or_init(|| std::arch::x86_64::__cpuid(0).ecx == u32::from_le_bytes(*b"cAMD"))
}

/// Whether the memory operand of `insn`, of `size` bytes, has to be aligned in every case (SDM vol.
/// 2, tables 2-17 and 2-18).
fn must_align(insn: &Instruction, size: u32) -> bool {
    use Mnemonic as M;
    if !matches!(size, 16 | 32 | 64) {
        return false;
    }
    match insn.mnemonic() {
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => false,
        M::Pcmpestri | M::Pcmpestrm | M::Pcmpistri | M::Pcmpistrm => false,
        M::Pcmpestri64 | M::Pcmpestrm64 => false,
        M::Sha1msg1
        | M::Sha1msg2
        | M::Sha1nexte
        | M::Sha1rnds4
        | M::Sha256msg1
        | M::Sha256msg2
        | M::Sha256rnds2 => sha_aligned(),
        M::Vmovaps
        | M::Vmovapd
        | M::Vmovdqa
        | M::Vmovdqa32
        | M::Vmovdqa64
        | M::Vmovntps
        | M::Vmovntpd
        | M::Vmovntdq
        | M::Vmovntdqa
        | M::Cmpxchg16b => true,
        _ => {
            insn.encoding() == iced_x86::EncodingKind::Legacy
                && size == 16
                && (0..insn.op_count())
                    .any(|i| insn.op_register(i).is_xmm() || insn.op_register(i).is_mm())
        }
    }
}

impl Builder<'_> {
    /// Leaves the offset of the memory operand in T0: truncated to the address size, without the
    /// segment base. `extra` is added. Keeps flags, may use T1.
    pub(super) fn address(&mut self, insn: &Instruction, extra: i32) {
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let disp = insn.memory_displacement64();
        if insn.is_ip_rel_memory_operand() {
            let at = insn.ip_rel_memory_address();
            return self.set_rip(T0, at.wrapping_add(extra as u64));
        }
        let reg_size = if base != Register::None {
            base.size()
        } else {
            index.size()
        };
        let bytes = match (base, index) {
            (Register::None, Register::None) => match insn.memory_displ_size() {
                2 => 2,
                8 => 8,
                _ if self.input.mode.code64() && !self.has_address_prefix(insn) => 8,
                _ => 4,
            },
            _ => reg_size,
        };
        if (base, index) == (Register::None, Register::None) {
            let mask = if bytes == 8 {
                u64::MAX
            } else {
                (1 << (bytes * 8)) - 1
            };
            self.hot.imm(T0, disp.wrapping_add(extra as u64) & mask);
            return;
        }
        let base = self.address_register(base, T0);
        let index = self.address_register(index, T1);
        let disp = disp.wrapping_add(extra as u64) as i32;
        let scaled = index.map(|x| (x, insn.memory_index_scale() as u8));
        self.hot.lea(bytes == 8, T0, base, scaled, disp);
        if bytes == 2 {
            self.hot.movzx16(T0, T0);
        }
    }

    fn has_address_prefix(&self, insn: &Instruction) -> bool {
        let bytes = self.source(insn);
        bytes
            .iter()
            .take_while(|b| {
                matches!(
                    b,
                    0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
                )
            })
            .any(|b| *b == 0x67)
    }

    fn address_register(&mut self, r: Register, scratch: u8) -> Option<u8> {
        if r == Register::None {
            return None;
        }
        let n = r.full_register().number() as u8;
        if is_scratch(r) {
            self.hot.load(scratch, ctx::gpr(n.into()));
            return Some(scratch);
        }
        Some(n)
    }

    /// The guest's bytes of `insn` and what follows them.
    fn source(&self, insn: &Instruction) -> &[u8] {
        let from = self.input.place(insn);
        &self.input.code[from.min(self.input.code.len())..]
    }

    /// Makes an access reachable, and says where it is. `address` puts the access's offset plus a
    /// constant into T0; `direct`, if there is one, is a register and a displacement that name it
    /// too. Flags are parked as far as needed. Afterwards T1 is free, but not T0.
    pub(super) fn reach(
        &mut self,
        i: &Insn,
        u: Use,
        a: Access,
        direct: Option<(u8, i32)>,
        address: impl FnOnce(&mut Self, i32),
    ) -> At {
        if let Some(shown) = u.window {
            return self.reach_window(shown, direct, |b| address(b, 0));
        }
        let Some(n) = u.cluster else {
            self.park(i);
            address(self, 0);
            self.access(&a);
            self.t0 = None;
            return At::t0(0);
        };
        let delta = i32::from(u.delta);
        let c = self.clusters[usize::from(n)];
        if c.ready && self.t0 != Some(n) && !c.keep {
            debug_assert!(false, "a cluster's address was lost");
            return self.reach(i, Use::SINGLE, a, direct, address);
        }
        if c.ready {
            if self.t0 != Some(n) {
                self.hot.load(T0, ctx::cluster(n.into()));
            }
        } else {
            self.park(i);
            address(self, -delta);
            self.probe_cluster(n, delta as u32, &a);
            self.clusters[usize::from(n)].ready = true;
        }
        self.t0 = Some(n);
        At::t0(delta)
    }

    /// The same for an access through the window.
    fn reach_window(
        &mut self,
        shown: Shown,
        direct: Option<(u8, i32)>,
        address: impl FnOnce(&mut Self),
    ) -> At {
        let (base, disp) = match direct {
            Some(direct) => direct,
            None => {
                address(self);
                (T0, 0)
            }
        };
        let long = self.input.mode.code64();
        if let By::Part(part) = shown.by {
            if shown.check {
                self.hot.check_window(base, part);
            }
            return At {
                base,
                disp,
                part: Some(part),
                short: !long && base != T0,
            };
        }
        if let By::Kept(n) = shown.by {
            self.hot.load(T1, ctx::cluster(n.into()));
        } else {
            if disp != 0 {
                self.hot.lea(true, T0, Some(base), None, disp);
            }
            self.hot.window_delta(if disp != 0 { T0 } else { base });
        }
        if let By::Table(Some(n)) = shown.by {
            self.hot.store(ctx::cluster(n.into()), T1);
        }
        self.hot.lea(true, T0, Some(base), Some((T1, 1)), disp);
        At::t0(0)
    }

    /// One probe for a whole cluster, whose start is in T0. Where that fails the block's split
    /// translation goes on from this instruction.
    fn probe_cluster(&mut self, n: u8, first: u32, a: &Access) {
        let mode = self.input.mode;
        let c = self.clusters[usize::from(n)];
        let link = self.links.len();
        let index = self.sites.len() as u32;
        let table = ctx::tlb(mode.class(), c.write);
        let probe = self.hot.here();
        let miss = self.hot.probe(table, c.span);
        let stub = self.cold.here();
        self.to_cold.push((miss, stub));
        self.cold.unprobe(table);
        self.args_cold.push(self.cold.here());
        self.cold.call(Call::Mem, index);
        let resume = self.hot.here();
        if c.keep {
            self.hot.store(ctx::cluster(n.into()), T0);
        }
        let rip = self.insn.ip() & mode.ip_mask();
        self.links.push(Link {
            target: rip,
            poll: false,
            parked: self.parked,
            crosses: false,
            variant: Variant::Split,
            wire: Wire::Patch(miss),
            stub,
        });
        self.sites.push(Site {
            rip,
            len: self.insn.len() as u8,
            seg: a.seg as u8,
            size: a.size as u8,
            aligned: must_align(&self.insn, a.size),
            write: a.write,
            read: a.read,
            locked: self.is_locked(a),
            parked: self.parked,
            parked_after: false,
            waits: classify::waits(&self.insn),
            last: false,
            mask: None,
            cluster: Some(crate::site::Range {
                span: c.span as u16,
                first: first as u16,
                write: c.write,
                link: link as u32,
            }),
            probe,
            resume,
            done: resume,
        });
    }

    /// Segment check, base and TLB probe for the offset in T0; leaves the host address there.
    pub(super) fn access(&mut self, a: &Access) {
        let mode = self.input.mode;
        let index = self.sites.len() as u32;
        if mode.code64() {
            if a.seg >= 4 {
                self.hot.add_gs(true, T0, ctx::seg_base(a.seg));
            }
        } else if !mode.flat(a.seg) || (a.seg == 1 && a.write) {
            let stub = self.cold.here();
            self.args_cold.push(stub);
            self.cold.call(Call::Seg, index);
            self.hot.lea(true, T1, Some(T0), None, a.size as i32 - 1);
            self.hot.cmp_gs(T1, ctx::seg_limit(a.seg, a.write));
            let at = self.hot.jcc(15); // jg
            self.to_cold.push((at, stub));
            self.hot.add_gs(false, T0, ctx::seg_base(a.seg));
        }
        let probe = self.hot.here();
        if mode.aligned() && matches!(a.size, 2 | 4 | 8 | 10) {
            let stub = self.cold.here();
            self.args_cold.push(stub);
            self.cold.call(Call::Mem, index);
            let low = if a.size == 10 { 7 } else { a.size as u8 - 1 };
            self.hot.put(&[0x41, 0xf6, 0xc2, low]); // test r10b, low
            let at = self.hot.jcc(5);
            self.to_cold.push((at, stub));
        }
        let table = ctx::tlb(mode.class(), a.write);
        let miss = self.hot.probe(table, a.size);
        let stub = self.cold.here();
        self.to_cold.push((miss, stub));
        self.cold.unprobe(table);
        self.args_cold.push(self.cold.here());
        self.cold.call(Call::Mem, index);
        let resume = self.hot.here();
        self.open_site = Some(index as usize);
        self.sites.push(Site {
            rip: self.insn.ip() & mode.ip_mask(),
            len: self.insn.len() as u8,
            seg: a.seg as u8,
            size: a.size as u8,
            aligned: must_align(&self.insn, a.size),
            write: a.write,
            read: a.read,
            locked: self.is_locked(a),
            parked: self.parked,
            parked_after: self.parked,
            waits: classify::waits(&self.insn),
            last: a.last,
            mask: mask_of(&self.insn),
            cluster: None,
            probe,
            resume,
            done: resume,
        });
    }

    /// The instruction under way reads and writes as one towards other vCPUs.
    fn is_locked(&self, a: &Access) -> bool {
        a.read
            && a.write
            && (self.insn.has_lock_prefix() || self.insn.mnemonic() == iced_x86::Mnemonic::Xchg)
    }

    /// The last access's instruction is complete here.
    pub(super) fn done(&mut self) {
        let here = self.hot.here();
        if let Some(n) = self.open_site.take() {
            self.sites[n].done = here;
            self.sites[n].parked_after = self.parked;
        }
    }

    pub(super) fn memory_access(&self, insn: &Instruction, size: u32, access: OpAccess) -> Access {
        Access {
            seg: self.segment(insn),
            size,
            read: access != OpAccess::Write,
            write: writes_memory(access),
            last: false,
        }
    }

    /// Number of the operand's segment register. 64-bit mode does not look at prefixes of the four
    /// that have no base there (SDM vol. 2, 2.1.1), not even to tell #SS from #GP.
    fn segment(&self, insn: &Instruction) -> usize {
        let segment = seg_number(insn.memory_segment());
        if segment >= 4 || !self.input.mode.code64() {
            return segment;
        }
        match insn.memory_base() {
            Register::RSP | Register::RBP | Register::ESP | Register::EBP => 2,
            _ => 3,
        }
    }

    /// Makes the explicit memory operand reachable; see [`Builder::reach`].
    pub(super) fn reach_operand(&mut self, i: &Insn, size: u32, access: OpAccess) -> At {
        let insn = i.insn;
        let a = self.memory_access(&insn, size, access);
        if i.operand.window.is_some() {
            match i.operand.fixed(&insn, self.input) {
                Some(Fixed::Host(at)) => {
                    match insn.is_ip_rel_memory_operand() {
                        true => self.set_rip(T0, at),
                        false => self.hot.imm(T0, at),
                    }
                    return At::t0(0);
                }
                Some(Fixed::Low(disp)) => {
                    self.bound |= insn.is_ip_rel_memory_operand();
                    return At {
                        base: NO_BASE,
                        disp,
                        part: Some(Part::Low),
                        short: false,
                    };
                }
                None => {}
            }
            return self.reach(i, i.operand, a, self.direct(&insn), |b, _| {
                b.address(&insn, 0);
                if a.seg >= 4 {
                    b.hot.load(T1, ctx::seg_base(a.seg));
                    b.hot.lea(true, T0, Some(T0), Some((T1, 1)), 0);
                }
            });
        }
        self.reach(i, i.operand, a, None, |b, extra| b.address(&insn, extra))
    }

    /// The one register and the displacement that are the memory operand's address.
    fn direct(&self, insn: &Instruction) -> Option<(u8, i32)> {
        let base = insn.memory_base();
        let plain = base != Register::None
            && insn.memory_index() == Register::None
            && !insn.is_ip_rel_memory_operand()
            && self.segment(insn) < 4
            && !is_scratch(base);
        plain.then(|| {
            let n = base.full_register().number() as u8;
            (n, insn.memory_displacement64() as i32)
        })
    }

    /// Emits an instruction on the window with the guest's own operand, if that is possible.
    fn copy_on_window(&mut self, i: &Insn) -> bool {
        let insn = &i.insn;
        let Some(Shown {
            by: By::Part(part),
            check,
        }) = i.operand.window
        else {
            return false;
        };
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let plain = (base, index) != (Register::None, Register::None)
            && !insn.is_ip_rel_memory_operand()
            && self.segment(insn) < 4
            && !is_scratch(base)
            && !is_scratch(index)
            && !names_scratch(insn);
        let long = self.input.mode.code64();
        let mut copy = *insn;
        if !plain || long && insn.len() > 14 || !for_64_bit(&mut copy) {
            return false;
        }
        if check && long {
            let checked = match self.direct(insn) {
                Some((register, _)) => register,
                None => {
                    self.address(insn, 0);
                    T0
                }
            };
            self.hot.check_window(checked, part);
        }
        if long && insn.segment_prefix() == Register::None {
            let bytes = self.source(insn)[..insn.len()].to_vec();
            self.hot.segment(part);
            self.hot.put(&bytes);
        } else {
            copy.set_segment_prefix(segment_of(part));
            self.encode(&copy);
        }
        true
    }

    // ---- ordinary instructions ----

    pub(super) fn copy(&mut self, i: &Insn) {
        let mut insn = i.insn;
        let memory = (0..insn.op_count()).find(|&n| insn.op_kind(n) == OpKind::Memory);
        let Some(memory) = memory else {
            return self.copy_registers(i);
        };
        let size = insn.memory_size().size() as u32;
        if size == 0 || size > 64 || !for_64_bit(&mut insn) {
            return self.exec(Action::Execute(i.insn), true);
        }
        if i.operand.window.is_some() {
            // Nothing changes flags before the instruction. If it faults they are as it finds them.
            self.unpark(i);
            if self.copy_on_window(i) {
                return;
            }
        }
        let access = self.info.info(&insn).op_access(memory);
        let at = self.reach_operand(i, size, access);
        self.unpark(i);
        self.emit_on_memory(insn, at);
        self.done();
    }

    fn copy_registers(&mut self, i: &Insn) {
        if let Some(soft) = i.soft {
            return self.copy_soft(i, soft);
        }
        let insn = &i.insn;
        if !self.input.mode.code64()
            && matches!(insn.mnemonic(), Mnemonic::Vzeroupper | Mnemonic::Vzeroall)
        {
            return self.zero_vectors(insn.mnemonic() == Mnemonic::Vzeroall);
        }
        // BSF and BSR may stand for TZCNT and LZCNT of processors that lack those.
        let other = matches!(insn.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr);
        if !self.input.mode.code64() || other && !names_scratch(insn) {
            let mut copy = *insn;
            if !for_64_bit(&mut copy) {
                return self.exec(Action::Execute(*insn), true);
            }
            self.unpark(i);
            return self.encode(&copy);
        }
        self.unpark(i);
        let written = if names_scratch(insn) {
            self.load_scratch_operands(insn)
        } else {
            [false; 2]
        };
        if other {
            self.encode(insn);
        } else {
            let bytes = self.source(insn)[..insn.len()].to_vec();
            self.hot.put(&bytes);
        }
        self.store_scratch_operands(written);
    }

    /// VZEROUPPER and VZEROALL for the eight registers that are there outside of 64-bit mode.
    fn zero_vectors(&mut self, all: bool) {
        // vmovaps xmm, xmm; vpxor xmm, xmm, xmm
        for n in 0..8u8 {
            match all {
                false => self.hot.put(&[0xc5, 0xf8, 0x28, 0xc0 | n << 3 | n]),
                true => self
                    .hot
                    .put(&[0xc5, 0xf9 & !(n << 3), 0xef, 0xc0 | n << 3 | n]),
            }
        }
    }

    pub(super) fn lea(&mut self, insn: &Instruction) {
        let dest = insn.op0_register();
        let n = number(dest).0;
        let scratch = is_scratch(dest);
        if is_plain_lea(self.input, insn) {
            let bytes = self.source(insn)[..insn.len()].to_vec();
            return self.hot.put(&bytes);
        }
        self.address(insn, 0);
        match (dest.size(), scratch) {
            (8, false) => self.hot.mov(n, T0),
            (4, false) => self.hot.mov32(n, T0),
            (2, false) => self.hot.mov16(n, T0),
            (size, _) => {
                if size == 2 {
                    self.hot.load(T1, ctx::gpr(n.into()));
                    self.hot.mov16(T1, T0);
                } else if size == 4 {
                    self.hot.mov32(T1, T0);
                } else {
                    self.hot.mov(T1, T0);
                }
                self.hot.store(ctx::gpr(n.into()), T1);
            }
        }
    }

    /// CLFLUSH and its like are checked as reads of a byte (SDM vol. 2); the host's caches are
    /// never behind.
    pub(super) fn touch(&mut self, i: &Insn) {
        let a = Access {
            read: false,
            ..self.memory_access(&i.insn, 1, OpAccess::Read)
        };
        let insn = i.insn;
        let u = Use {
            window: None,
            ..i.operand
        };
        self.reach(i, u, a, None, |b, extra| b.address(&insn, extra));
        self.done();
    }

    pub(super) fn bit_string(&mut self, i: &Insn) {
        let mut insn = i.insn;
        let reg = insn.op1_register();
        let bytes = reg.size();
        self.park(i);
        self.address(&insn, 0);
        let n = number(reg).0;
        let from = if is_scratch(reg) {
            self.hot.load(T1, ctx::gpr(n.into()));
            T1
        } else {
            n
        };
        self.hot.sign_extend(T1, from, bytes);
        self.hot.store(ctx::tmp(2), T1);
        let shift = (bytes * 8).trailing_zeros() as u8;
        self.hot.put(&[0x49, 0xc1, 0xfb, shift]); // sar r11, shift
        // The whole address wraps at the address size.
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let wrap = match (base, index) {
            (Register::None, Register::None) => insn.memory_displ_size() as usize,
            (Register::None, _) => index.size(),
            _ => base.size(),
        };
        let narrow = wrap < 8;
        self.hot
            .lea(!narrow, T0, Some(T0), Some((T1, bytes as u8)), 0);
        if wrap == 2 {
            self.hot.movzx16(T0, T0);
        }
        self.hot.load(T1, ctx::tmp(2));
        self.hot.put(&[0x49, 0x83, 0xe3, (bytes * 8 - 1) as u8]); // and r11, bits - 1
        self.hot.store(ctx::tmp(2), T1);
        let access = self.info.info(&insn).op_access(0);
        let a = self.memory_access(&insn, bytes as u32, access);
        self.access(&a);
        self.unpark(i);
        self.hot.load(T1, ctx::tmp(2));
        let t1 = match bytes {
            2 => Register::R11W,
            4 => Register::R11D,
            _ => Register::R11,
        };
        insn.set_op_register(1, t1);
        self.at_scratch(&mut insn, At::t0(0));
        self.encode(&insn);
        self.done();
    }
}

/// Whether a register operand is R10 or R11.
fn names_scratch(insn: &Instruction) -> bool {
    (0..insn.op_count())
        .any(|n| insn.op_kind(n) == OpKind::Register && is_scratch(insn.op_register(n)))
}

/// Whether the host's own LEA, from the same bytes, does the same.
pub(super) fn is_plain_lea(input: &Input<'_>, insn: &Instruction) -> bool {
    let (base, index) = (insn.memory_base(), insn.memory_index());
    let full = if input.mode.code64() { 8 } else { 4 };
    let fits = |r: Register| r == Register::None || r.size() == full && !is_scratch(r);
    let dest = insn.op0_register();
    base != Register::None
        && !insn.is_ip_rel_memory_operand()
        && fits(base)
        && fits(index)
        && !is_scratch(dest)
        && dest.size() <= full
        && (input.mode.code64() || input.mode.bitness() == 32)
}
