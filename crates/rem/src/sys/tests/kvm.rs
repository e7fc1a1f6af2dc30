//! Random instructions in random situations, compared with the host's processor through KVM.
//! Skipped where there is no KVM.
#![allow(unsafe_code)] // registers the machine's memory with KVM

use cpu::bits::{cr0, cr4, rflags};
use cpu::{Seg, SegReg, State, attr};
use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug, kvm_guest_debug_arch, kvm_regs,
    kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use super::machine::{CODE, HANDLER, LDT, Machine, STACK0, STACK3, TABLES, TSS, sel};
use super::native::Random;
use crate::sys::{Event, Flow};

/// A KVM guest whose memory is that of `machine`.
struct Oracle {
    vcpu: VcpuFd,
    _vm: VmFd,
    machine: Machine,
}

const MEMORY: u64 = 4 << 20;

impl Oracle {
    fn new() -> Option<Self> {
        let vm = Kvm::new().ok()?.create_vm().ok()?;
        vm.set_tss_address(0xfffb_d000).ok()?;
        let machine = Machine::protected();
        let base = machine.mem.phys.ram().base() as u64;
        // SAFETY: the pool lives in `machine`, which outlives the guest (fields drop in order).
        unsafe {
            vm.set_user_memory_region(kvm_userspace_memory_region {
                slot: 0,
                flags: 0,
                guest_phys_addr: 0,
                memory_size: MEMORY,
                userspace_addr: base,
            })
            .ok()?;
        }
        let vcpu = vm.create_vcpu(0).ok()?;
        Some(Self {
            vcpu,
            _vm: vm,
            machine,
        })
    }

    /// Runs from `state` until the instruction at linear address `stop` is reached. `Err` says
    /// what happened instead.
    fn run(&mut self, state: &State, stops: [u64; 4]) -> Result<State, String> {
        let mut sregs = self.vcpu.get_sregs().unwrap();
        fill_sregs(state, &mut sregs);
        self.vcpu.set_sregs(&sregs).unwrap();
        let g = &state.gpr;
        self.vcpu
            .set_regs(&kvm_regs {
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
                rip: state.rip,
                rflags: state.rflags,
            })
            .unwrap();
        let mut events = self.vcpu.get_vcpu_events().unwrap();
        events.exception.injected = 0;
        events.exception.pending = 0;
        events.interrupt.injected = 0;
        events.interrupt.shadow = 0;
        events.nmi.injected = 0;
        events.nmi.pending = 0;
        events.nmi.masked = 0;
        events.triple_fault.pending = 0;
        self.vcpu.set_vcpu_events(&events).unwrap();
        let mut arch = kvm_guest_debug_arch::default();
        arch.debugreg[..4].copy_from_slice(&stops);
        arch.debugreg[7] = 0x4ff;
        self.vcpu
            .set_guest_debug(&kvm_guest_debug {
                control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
                pad: 0,
                arch,
            })
            .unwrap();
        match self.vcpu.run() {
            Ok(VcpuExit::Debug(_)) => {}
            Ok(other) => return Err(format!("{other:?}")),
            Err(e) => return Err(e.to_string()),
        }
        let regs = self.vcpu.get_regs().unwrap();
        let sregs = self.vcpu.get_sregs().unwrap();
        let mut out = state.clone();
        out.gpr = [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
            regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ];
        out.rip = regs.rip;
        out.rflags = regs.rflags;
        let segs = [sregs.es, sregs.cs, sregs.ss, sregs.ds, sregs.fs, sregs.gs];
        for (to, from) in out.seg.iter_mut().zip(segs) {
            *to = from_kvm(&from);
        }
        out.ldtr = from_kvm(&sregs.ldt);
        out.tr = from_kvm(&sregs.tr);
        (out.cr0, out.cr2, out.cr3, out.cr4) = (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4);
        out.efer = sregs.efer;
        Ok(out)
    }
}

fn to_kvm(reg: &SegReg) -> kvm_segment {
    let bit = |b: u32| u8::from(reg.has(b));
    kvm_segment {
        base: reg.base,
        limit: reg.limit,
        selector: reg.sel,
        type_: (reg.attr & attr::TYPE) as u8,
        present: bit(attr::P),
        dpl: reg.dpl(),
        db: bit(attr::DB),
        s: bit(attr::S),
        l: bit(attr::L),
        g: bit(attr::G),
        avl: bit(attr::AVL),
        unusable: bit(attr::UNUSABLE),
        padding: 0,
    }
}

fn from_kvm(seg: &kvm_segment) -> SegReg {
    let bit = |on: u8, b: u32| if on != 0 { b } else { 0 };
    SegReg {
        base: seg.base,
        limit: seg.limit,
        sel: seg.selector,
        attr: u32::from(seg.type_)
            | u32::from(seg.dpl) << attr::DPL_SHIFT
            | bit(seg.present, attr::P)
            | bit(seg.db, attr::DB)
            | bit(seg.s, attr::S)
            | bit(seg.l, attr::L)
            | bit(seg.g, attr::G)
            | bit(seg.avl, attr::AVL)
            | bit(seg.unusable, attr::UNUSABLE),
    }
}

fn fill_sregs(state: &State, s: &mut kvm_sregs) {
    let seg = |i: Seg| to_kvm(&state.seg[i as usize]);
    s.es = seg(Seg::Es);
    s.cs = seg(Seg::Cs);
    s.ss = seg(Seg::Ss);
    s.ds = seg(Seg::Ds);
    s.fs = seg(Seg::Fs);
    s.gs = seg(Seg::Gs);
    s.ldt = to_kvm(&state.ldtr);
    s.tr = to_kvm(&state.tr);
    (s.gdt.base, s.gdt.limit) = (state.gdtr.base, state.gdtr.limit);
    (s.idt.base, s.idt.limit) = (state.idtr.base, state.idtr.limit);
    (s.cr0, s.cr2, s.cr3, s.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
    s.efer = state.efer;
}

/// Makes what processors may keep as they like the same.
fn normal(mut s: State) -> State {
    let real = s.cr0 & cr0::PE == 0;
    for reg in &mut s.seg {
        if reg.has(attr::UNUSABLE) {
            *reg = SegReg {
                sel: reg.sel,
                base: 0,
                limit: 0,
                attr: attr::UNUSABLE,
            };
        }
        // Accessed bits are compared in the tables.
        reg.attr &= !attr::ACCESSED;
        if real {
            reg.attr = 0;
        }
    }
    for reg in [&mut s.ldtr, &mut s.tr] {
        if reg.has(attr::UNUSABLE) {
            *reg = SegReg {
                sel: reg.sel,
                attr: attr::UNUSABLE,
                ..SegReg::default()
            };
        }
    }
    s.cr0 |= cr0::NE;
    s
}

/// Instructions, by the bitness of the code they run in.
const BOTH: &[&[u8]] = &[
    &[0x8e, 0xc0],
    &[0x8e, 0xd8],
    &[0x8e, 0xd0],
    &[0x8e, 0xe0],
    &[0x0f, 0x02, 0xd8],
    &[0x0f, 0x03, 0xd8],
    &[0x0f, 0x00, 0xe0],
    &[0x0f, 0x00, 0xe8],
    &[0x0f, 0x00, 0xd0],
    &[0x0f, 0x00, 0xd8],
    &[0x0f, 0x00, 0xc0],
    &[0x0f, 0x00, 0xc8],
    &[0x9c],
    &[0x9d],
    &[0x66, 0x9c],
    &[0x66, 0x9d],
    &[0xfa],
    &[0xfb],
    &[0xcd, 0x40],
    &[0xcd, 0x41],
    &[0xcd, 0xf0],
    &[0xcc],
    &[0xcf],
    &[0x66, 0xcf],
    &[0xcb],
    &[0x66, 0xcb],
    &[0xca, 8, 0],
    &[0xc8, 0x10, 0x00, 0x00],
    &[0xc8, 0x08, 0x00, 0x03],
    &[0xc9],
    &[0x0f, 0xa1],
    &[0x0f, 0xa0],
    &[0xf3, 0xa4],
    &[0xf3, 0xab],
    &[0xf2, 0xae],
    &[0xa7],
    &[0x0f, 0x01, 0xe0],
    &[0x0f, 0x06],
    &[0x0f, 0xb2, 0x1e],
    &[0x0f, 0xb4, 0x1e],
    &[0xff, 0x1e],
    &[0xff, 0x2e],
    &[0x8f, 0x06],
    &[0x9e],
    &[0x9f],
];

/// Not in 64-bit mode.
const LEGACY: &[&[u8]] = &[
    &[0x06],
    &[0x07],
    &[0x1f],
    &[0x17],
    &[0x60],
    &[0x61],
    &[0x66, 0x60],
    &[0x66, 0x61],
    &[0x27],
    &[0x2f],
    &[0x37],
    &[0x3f],
    &[0xd4, 10],
    &[0xd5, 10],
    &[0xce],
    &[0x63, 0xd8],
    &[0x62, 0x1e],
    &[0xc4, 0x1e],
    &[0xc5, 0x1e],
    &[0xd6],
];

const LONG: &[&[u8]] = &[
    &[0x48, 0xcf],
    &[0x48, 0xcb],
    &[0x48, 0xff, 0x1e],
    &[0x48, 0xff, 0x2e],
    &[0x0f, 0x05],
    &[0x48, 0x0f, 0x07],
    &[0x0f, 0x07],
    &[0x0f, 0x01, 0xf8],
    &[0xf3, 0x48, 0xa5],
];

const SELECTORS: [u16; 22] = [
    0,
    3,
    sel::CODE0,
    sel::DATA0,
    sel::CODE3,
    sel::DATA3,
    sel::CODE3 & !3,
    sel::DATA3 & !3,
    sel::SMALL,
    sel::DOWN,
    sel::GATE,
    sel::GATE | 3,
    sel::CONFORMING,
    sel::CONFORMING | 3,
    sel::ABSENT,
    sel::READ_ONLY,
    sel::EXECUTE_ONLY,
    sel::LDT,
    sel::CODE64,
    sel::CODE64_3,
    sel::STACK16,
    0xff8,
];

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
    from[random.next(from.len() as u64) as usize]
}

/// A machine in some mode, with registers and stacks full of things worth trying.
fn situation(random: &mut Random) -> (Machine, u32, &'static str) {
    let (mut m, bits, name) = match random.next(7) {
        0 => (Machine::real(), 16, "real"),
        1 => (Machine::v86(), 16, "v86"),
        2 | 3 => (Machine::protected(), 32, "protected"),
        4 | 5 => (Machine::long(), 64, "long"),
        _ => {
            let mut m = Machine::long();
            m.level(0);
            (m, 32, "compatibility")
        }
    };
    if m.state.protected() && random.next(2) == 1 {
        m.level(3);
        if bits == 64 {
            m.level3_long();
        }
    }
    if m.state.protected() {
        let gate3 = super::machine::gate(15, 3, sel::CODE0, HANDLER + 0x41, 0);
        if m.state.long_mode() {
            let gate3 = super::machine::gate(15, 3, sel::CODE64, HANDLER + 0x41, 0);
            m.put(super::machine::IDT + 16 * 0x41, 8, gate3);
            m.put(super::machine::IDT + 16 * 0x41 + 8, 8, 0);
            m.put(super::machine::IDT + 16 * 0x40, 8, gate3 & !(3 << 45));
            m.put(super::machine::IDT + 16 * 0x40 + 8, 8, 0);
            m.state.star = 0x0023 << 48 | 0x0008 << 32;
            m.state.idtr.limit = 0x42 * 16 - 1;
        } else {
            m.idt(0x41, gate3);
        }
        m.put(LDT, 8, 0);
    }
    m.state.ldtr = SegReg {
        attr: attr::UNUSABLE,
        ..SegReg::default()
    };
    m.iopl(random.next(4));
    m.state.rflags |= random.next(4096) & (rflags::ARITH | rflags::DF);
    if random.next(2) == 1 {
        m.state.rflags |= rflags::IF;
    }
    for r in [0, 1, 2, 3, 6, 7] {
        m.state.gpr[r] = match random.next(4) {
            0 => random.next(0x1_0000),
            1 => u64::from(pick(random, &SELECTORS)),
            2 => 0x1_0000 + random.next(0x8000),
            _ => random.next(64),
        };
    }
    m.state.gpr[1] &= 0x3f;
    // BP-relative frames for ENTER and LEAVE.
    m.state.gpr[5] = m.state.gpr[4] + 8 * random.next(8);
    // Something like a return frame on the stack, in units of each size.
    let ss = if bits == 64 {
        0
    } else {
        m.state.seg[Seg::Ss as usize].base
    };
    let top = ss + m.state.gpr[4];
    let unit = pick(random, &[2usize, 4, 8]);
    for i in 0..10 {
        let value = match i {
            0 => match random.next(4) {
                0 => random.next(0x1_0000),
                _ => HANDLER + 0x100 + random.next(64),
            },
            1 | 4 => u64::from(pick(random, &SELECTORS)),
            2 => {
                let flags = random.next(1 << 22) & rflags::ALL;
                // Tracing, nesting and virtual interrupts are other tests.
                flags & !(rflags::TF | rflags::NT | rflags::VIP | rflags::VIF | rflags::RF)
            }
            3 => STACK3 - 0x800,
            _ => u64::from(pick(random, &SELECTORS)),
        };
        m.put(top + (i * unit) as u64, unit, value);
    }
    (m, bits, name)
}

/// Gives memory operands their address: a pointer with a random selector at 0x600 in DS.
fn complete(random: &mut Random, m: &mut Machine, bits: u32, code: &[u8]) -> Vec<u8> {
    let mut code = code.to_vec();
    let modrm = code.last().copied().unwrap_or(0);
    let with_memory = code.len() >= 2 && matches!(modrm, 0x1e | 0x2e | 0x06) && {
        let opcode = code[code.len() - 2];
        matches!(opcode, 0xb2 | 0xb4 | 0xff | 0x8f | 0x62 | 0xc4 | 0xc5)
    };
    if with_memory {
        let at = if bits == 64 {
            0x600
        } else {
            m.state.seg[Seg::Ds as usize].base + 0x600
        };
        let size = if code[0] == 0x48 {
            8
        } else if bits == 16 {
            2
        } else {
            4
        };
        m.put(at, size, HANDLER + 0x100);
        m.put(at + size as u64, 2, u64::from(pick(random, &SELECTORS)));
        let last = code.len() - 1;
        match bits {
            16 => code.extend([0x00, 0x06]),
            32 => {
                code[last] = modrm & 0x38 | 5;
                code.extend([0x00, 0x06, 0, 0]);
            }
            _ => {
                code[last] = modrm & 0x38 | 4;
                code.extend([0x25, 0x00, 0x06, 0, 0]);
            }
        }
    }
    code
}

#[test]
fn random_instructions_end_as_on_the_hosts_processor() {
    let Some(mut oracle) = Oracle::new() else {
        eprintln!("skipped: no KVM");
        return;
    };
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut compared = 0;
    let mut bad = Vec::new();
    for round in 0..6000 {
        let (mut m, bits, name) = situation(&mut random);
        let table = match random.next(3) {
            0 if bits == 64 => LONG,
            0 => LEGACY,
            _ => BOTH,
        };
        let code = pick(&mut random, table);
        let code = complete(&mut random, &mut m, bits, code);
        let linear = m.state.seg[Seg::Cs as usize].base + m.state.rip;
        m.mem.phys.write(linear, &code);

        let mut image = vec![0; MEMORY as usize];
        m.mem.phys.read(0, &mut image);
        oracle.machine.mem.phys.write(0, &image);

        let before = m.state.clone();
        loop {
            match m.run(&code) {
                Ok(Flow::Repeat) => {}
                Ok(_) => break,
                Err(e) => {
                    let _ = m.deliver(Event::Exception(e));
                    break;
                }
            }
        }
        let place = |s: &State| {
            let base = if s.code64() {
                0
            } else {
                s.seg[Seg::Cs as usize].base
            };
            base.wrapping_add(s.rip)
        };
        let end = place(&m.state);
        let gp = match before.cr0 & cr0::PE {
            0 => 0x5_0000,
            _ => HANDLER,
        };
        let stops = [end, gp + 13, gp + 6, gp + 8];
        let what = format!("round {round}, {name} at level {}, {code:02x?}", before.cpl());
        let theirs = match oracle.run(&before, stops) {
            Ok(state) => state,
            Err(e) => {
                if bad.len() < 12 {
                    bad.push(format!("{what}: KVM gave {e}, ours is at {end:#x}"));
                }
                oracle = Oracle::new().unwrap();
                continue;
            }
        };
        compared += 1;
        let (ours, theirs) = (normal(m.state.clone()), normal(theirs));
        let mut differences = Vec::new();
        macro_rules! compare {
            ($($field:ident)*) => { $(
                if ours.$field != theirs.$field {
                    differences.push(format!(
                        "{}: ours {:x?}, host's {:x?}",
                        stringify!($field), ours.$field, theirs.$field
                    ));
                }
            )* };
        }
        compare!(gpr rip rflags seg ldtr tr cr0 cr2 cr3 cr4 efer);
        let mut mine = vec![0; MEMORY as usize];
        m.mem.phys.read(0, &mut mine);
        oracle.machine.mem.phys.read(0, &mut image);
        if let Some(at) = (0..mine.len()).find(|i| mine[*i] != image[*i]) {
            differences.push(format!(
                "memory at {at:#x}: ours {:02x?}, host's {:02x?}",
                &mine[at..at + 8],
                &image[at..at + 8]
            ));
        }
        if !differences.is_empty() && bad.len() < 12 {
            bad.push(format!("{what}\n    {}", differences.join("\n    ")));
        }
    }
    assert!(bad.is_empty(), "{compared} compared\n{}", bad.join("\n"));
    assert!(compared > 5000, "only {compared} compared");
    let _ = (CODE, STACK0, TABLES, TSS, cr4::PAE);
}
