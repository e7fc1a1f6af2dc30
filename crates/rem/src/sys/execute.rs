//! The dispatch: which function carries out which instruction.

use cpu::bits::rflags;
use cpu::{Exception, Fault, Seg};
use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};

use super::interrupt::{SoftKind, software};
use super::operand::{canonical, seg_of};
use super::seg::{load_ldt, load_tr};
use super::{
    Flow, Sys, bcd, control, cpuid, flags, fpu, iret, msr, port, query, smm, stackops, string,
    syscall, transfer,
};

/// Carries out `insn`, which `state.rip` points at. On [`Flow::Next`] `rip` is past it.
///
/// [`cpu::State::shadow`] and RFLAGS.RF are over after an instruction that completed, unless it
/// set them itself. Single-step traps are the caller's: with RFLAGS.TF set, repeated string
/// instructions come back after each element.
///
/// # Errors
/// The exception it raised; it can be started again. Instructions not known here are #UD.
pub fn execute(sys: &mut Sys<'_>, insn: &Instruction) -> Fault<Flow> {
    let next = sys.next_rip(insn);
    let shadow = std::mem::replace(&mut sys.state.shadow, false);
    let flow = match string::execute(sys, insn) {
        Some(result) => result,
        None => dispatch(sys, insn, next),
    };
    match flow {
        Ok(Flow::Next) => {
            sys.state.rip = next;
            sys.state.rflags &= !rflags::RF;
        }
        // What interrupts a string instruction finds RF set (SDM vol. 3, 17.3.1.1).
        Ok(Flow::Repeat) => sys.state.rflags |= rflags::RF,
        Ok(_) => {}
        Err(_) => sys.state.shadow = shadow,
    }
    flow
}

/// What `result` completes as.
fn next(result: Fault) -> Fault<Flow> {
    result.map(|()| Flow::Next)
}

fn done() -> Fault<Flow> {
    Ok(Flow::Next)
}

fn dispatch(sys: &mut Sys<'_>, insn: &Instruction, next_rip: u64) -> Fault<Flow> {
    match insn.mnemonic() {
        M::Mov => next(mov(sys, insn)),
        M::Jmp | M::Call | M::Ret | M::Retf => branch(sys, insn, next_rip),
        M::Loop | M::Loope | M::Loopne => transfer::count_down(sys, insn),
        M::Iret => iret::iret(sys, 2, next_rip),
        M::Iretd => iret::iret(sys, 4, next_rip),
        M::Iretq => iret::iret(sys, 8, next_rip),
        M::Int | M::Int1 | M::Int3 | M::Into => soft_interrupt(sys, insn, next_rip),
        M::Syscall => syscall::syscall(sys, next_rip),
        M::Sysret => syscall::sysret(sys, false),
        M::Sysretq => syscall::sysret(sys, true),
        M::Sysenter => syscall::sysenter(sys),
        M::Sysexit => syscall::sysexit(sys, false),
        M::Sysexitq => syscall::sysexit(sys, true),
        M::Rsm => smm::rsm(sys),
        M::Hlt => control::hlt(sys, next_rip),
        M::Push | M::Pop | M::Pusha | M::Pushad | M::Popa | M::Popad | M::Enter | M::Leave => {
            next(stack(sys, insn))
        }
        M::Pushf
        | M::Pushfd
        | M::Pushfq
        | M::Popf
        | M::Popfd
        | M::Popfq
        | M::Cli
        | M::Sti
        | M::Cld
        | M::Std
        | M::Clc
        | M::Stc
        | M::Cmc
        | M::Lahf
        | M::Sahf
        | M::Clac
        | M::Stac => next(flag(sys, insn)),
        M::In => next(port::input(sys, insn)),
        M::Out => next(port::output(sys, insn)),
        M::Aaa | M::Aas | M::Aam | M::Aad | M::Daa | M::Das | M::Salc => next(adjust(sys, insn)),
        M::Fxsave
        | M::Fxsave64
        | M::Fxrstor
        | M::Fxrstor64
        | M::Xsave
        | M::Xsave64
        | M::Xsaveopt
        | M::Xsaveopt64
        | M::Xrstor
        | M::Xrstor64
        | M::Fnsave
        | M::Fsave
        | M::Frstor
        | M::Fnstenv
        | M::Fstenv
        | M::Fldenv => next(floating(sys, insn)),
        M::Lds => next(stackops::load_pointer(sys, insn, Seg::Ds)),
        M::Les => next(stackops::load_pointer(sys, insn, Seg::Es)),
        M::Lss => next(stackops::load_pointer(sys, insn, Seg::Ss)),
        M::Lfs => next(stackops::load_pointer(sys, insn, Seg::Fs)),
        M::Lgs => next(stackops::load_pointer(sys, insn, Seg::Gs)),
        M::Xlatb => next(stackops::xlat(sys, insn)),
        M::Cmpxchg8b => next(stackops::cmpxchg_pair(sys, insn, 4)),
        M::Cmpxchg16b => next(stackops::cmpxchg_pair(sys, insn, 8)),
        M::Lar => next(query::lar(sys, insn)),
        M::Lsl => next(query::lsl(sys, insn)),
        M::Verr => next(query::verify(sys, insn, false)),
        M::Verw => next(query::verify(sys, insn, true)),
        M::Arpl => next(query::arpl(sys, insn)),
        M::Bound => next(query::bound(sys, insn)),
        _ => next(system(sys, insn)),
    }
}

fn mov(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    let (to, from) = (insn.op0_register(), insn.op1_register());
    if to.is_segment_register() {
        if to == Register::CS {
            return Err(Exception::ud());
        }
        let sel = sys.read_op(insn, 1, 2)? as u16;
        super::load_segment(sys, seg_of(to), sel)?;
        sys.state.shadow = to == Register::SS;
        Ok(())
    } else if from.is_segment_register() {
        let sel = sys.get(from);
        sys.write_op(insn, 0, 2, sel)
    } else if to.is_cr() {
        let value = sys.get(from);
        control::write_cr(sys, to.number(), value)
    } else if from.is_cr() {
        let value = control::read_cr(sys, from.number())?;
        sys.set(to, value);
        Ok(())
    } else if to.is_dr() {
        let value = sys.get(from);
        control::write_dr(sys, to.number(), value)
    } else if from.is_dr() {
        let value = control::read_dr(sys, from.number())?;
        sys.set(to, value);
        Ok(())
    } else {
        Err(Exception::ud())
    }
}

fn branch(sys: &mut Sys<'_>, insn: &Instruction, next_rip: u64) -> Fault<Flow> {
    let far_size = match insn.code() {
        Code::Jmp_ptr1616 | Code::Jmp_m1616 | Code::Call_ptr1616 | Code::Call_m1616 => Some(2),
        Code::Jmp_ptr1632 | Code::Jmp_m1632 | Code::Call_ptr1632 | Code::Call_m1632 => Some(4),
        Code::Jmp_m1664 | Code::Call_m1664 => Some(8),
        _ => None,
    };
    let call = insn.mnemonic() == M::Call;
    if let Some(size) = far_size {
        let (sel, offset) = transfer::far_operand(sys, insn, size)?;
        return if call {
            transfer::call_far(sys, sel, offset, size, next_rip)
        } else {
            transfer::jump_far(sys, sel, offset, next_rip)
        };
    }
    let release = if insn.op_count() > 0 && insn.op0_kind() == OpKind::Immediate16 {
        u64::from(insn.immediate16())
    } else {
        0
    };
    let size = match insn.code() {
        Code::Retfw | Code::Retfw_imm16 => return transfer::ret_far(sys, 2, release),
        Code::Retfd | Code::Retfd_imm16 => return transfer::ret_far(sys, 4, release),
        Code::Retfq | Code::Retfq_imm16 => return transfer::ret_far(sys, 8, release),
        Code::Retnw | Code::Retnw_imm16 => return transfer::ret_near(sys, 2, release),
        Code::Retnd | Code::Retnd_imm16 => return transfer::ret_near(sys, 4, release),
        Code::Retnq | Code::Retnq_imm16 => return transfer::ret_near(sys, 8, release),
        Code::Jmp_rm16 | Code::Call_rm16 | Code::Call_rel16 => 2,
        Code::Jmp_rm32 | Code::Call_rm32 | Code::Call_rel32_32 => 4,
        _ => 8,
    };
    let target = match insn.op0_kind() {
        OpKind::Register | OpKind::Memory => sys.read_op(insn, 0, size)?,
        _ => transfer::near_target(sys, insn),
    };
    if call {
        transfer::call_near(sys, insn, target, size)
    } else {
        transfer::near(sys, target)
    }
}

fn soft_interrupt(sys: &mut Sys<'_>, insn: &Instruction, next_rip: u64) -> Fault<Flow> {
    let (vector, kind) = match insn.mnemonic() {
        M::Int => (insn.immediate8(), SoftKind::IntN),
        M::Int1 => (1, SoftKind::Int1),
        M::Int3 => (3, SoftKind::Trap),
        _ if sys.state.rflags & rflags::OF == 0 => return done(),
        _ => (4, SoftKind::Trap),
    };
    software(sys, vector, next_rip, kind)?;
    Ok(Flow::Jump)
}

fn stack(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    match insn.code() {
        Code::Pushaw => stackops::pusha(sys, 2),
        Code::Pushad => stackops::pusha(sys, 4),
        Code::Popaw => stackops::popa(sys, 2),
        Code::Popad => stackops::popa(sys, 4),
        Code::Enterw_imm16_imm8 => stackops::enter(sys, insn, 2),
        Code::Enterd_imm16_imm8 => stackops::enter(sys, insn, 4),
        Code::Enterq_imm16_imm8 => stackops::enter(sys, insn, 8),
        Code::Leavew => stackops::leave(sys, 2),
        Code::Leaved => stackops::leave(sys, 4),
        Code::Leaveq => stackops::leave(sys, 8),
        _ if insn.mnemonic() == M::Push => stackops::push(sys, insn),
        // POP CS is an opcode of the 8086 only.
        Code::Popw_CS => Err(Exception::ud()),
        _ => stackops::pop(sys, insn),
    }
}

fn flag(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    match insn.mnemonic() {
        M::Pushf => return flags::pushf(sys, 2),
        M::Pushfd => return flags::pushf(sys, 4),
        M::Pushfq => return flags::pushf(sys, 8),
        M::Popf => return flags::popf(sys, 2),
        M::Popfd => return flags::popf(sys, 4),
        M::Popfq => return flags::popf(sys, 8),
        M::Cli => return flags::cli(sys),
        M::Sti => return flags::sti(sys),
        M::Clac => return flags::set_ac(sys, false),
        M::Stac => return flags::set_ac(sys, true),
        M::Cld => sys.put_flag(rflags::DF, false),
        M::Std => sys.put_flag(rflags::DF, true),
        M::Clc => sys.put_flag(rflags::CF, false),
        M::Stc => sys.put_flag(rflags::CF, true),
        M::Cmc => sys.state.rflags ^= rflags::CF,
        M::Lahf => flags::lahf(sys),
        _ => flags::sahf(sys),
    }
    Ok(())
}

fn adjust(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    match insn.mnemonic() {
        M::Aaa => bcd::ascii(sys, false),
        M::Aas => bcd::ascii(sys, true),
        M::Daa => bcd::decimal(sys, false),
        M::Das => bcd::decimal(sys, true),
        M::Aad => bcd::aad(sys, insn.immediate8()),
        M::Salc => bcd::salc(sys),
        _ => return bcd::aam(sys, insn.immediate8()),
    }
    Ok(())
}

fn floating(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    match insn.code() {
        Code::Fxsave_m512byte => fpu::fxsave(sys, insn, false),
        Code::Fxsave64_m512byte => fpu::fxsave(sys, insn, true),
        Code::Fxrstor_m512byte => fpu::fxrstor(sys, insn, false),
        Code::Fxrstor64_m512byte => fpu::fxrstor(sys, insn, true),
        Code::Xsave_mem | Code::Xsaveopt_mem => fpu::xsave(sys, insn, false),
        Code::Xsave64_mem | Code::Xsaveopt64_mem => fpu::xsave(sys, insn, true),
        Code::Xrstor_mem => fpu::xrstor(sys, insn, false),
        Code::Xrstor64_mem => fpu::xrstor(sys, insn, true),
        Code::Fnsave_m94byte | Code::Fsave_m94byte => fpu::fnsave(sys, insn, 14),
        Code::Fnsave_m108byte | Code::Fsave_m108byte => fpu::fnsave(sys, insn, 28),
        Code::Frstor_m94byte => fpu::frstor(sys, insn, 14),
        Code::Frstor_m108byte => fpu::frstor(sys, insn, 28),
        Code::Fnstenv_m14byte | Code::Fstenv_m14byte => fpu::fnstenv(sys, insn, 14),
        Code::Fnstenv_m28byte | Code::Fstenv_m28byte => fpu::fnstenv(sys, insn, 28),
        Code::Fldenv_m14byte => fpu::fldenv(sys, insn, 14),
        Code::Fldenv_m28byte => fpu::fldenv(sys, insn, 28),
        _ => Err(Exception::ud()),
    }
}

/// Instructions of operating systems.
fn system(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    match insn.mnemonic() {
        M::Lgdt => sys.state.gdtr = control::load_table(sys, insn, table_size(insn))?,
        M::Lidt => sys.state.idtr = control::load_table(sys, insn, table_size(insn))?,
        M::Sgdt => return control::store_table(sys, insn, sys.state.gdtr),
        M::Sidt => return control::store_table(sys, insn, sys.state.idtr),
        M::Sldt | M::Str => {
            sys.need_protected()?;
            control::need_umip(sys)?;
            let reg = if insn.mnemonic() == M::Sldt {
                &sys.state.ldtr
            } else {
                &sys.state.tr
            };
            let sel = u64::from(reg.sel);
            return sys.write_op(insn, 0, 2, sel);
        }
        M::Smsw => {
            control::need_umip(sys)?;
            let value = sys.state.cr0;
            return sys.write_op(insn, 0, 2, value);
        }
        M::Lldt | M::Ltr => {
            sys.need_protected()?;
            sys.need_cpl0()?;
            let sel = sys.read_op(insn, 0, 2)? as u16;
            if insn.mnemonic() == M::Ltr {
                return load_tr(sys, sel);
            }
            return load_ldt(sys, sel, cpu::Vector::Gp);
        }
        M::Lmsw => {
            sys.need_cpl0()?;
            let value = sys.read_op(insn, 0, 2)?;
            return control::lmsw(sys, value);
        }
        M::Clts => return control::clts(sys),
        M::Invlpg => return control::invlpg(sys, insn),
        M::Invpcid => return control::invpcid(sys, insn),
        // Caches are the host's: nothing is ever stale.
        M::Invd | M::Wbinvd | M::Wbnoinvd => return sys.need_cpl0(),
        M::Xgetbv => return control::xgetbv(sys),
        M::Xsetbv => return control::xsetbv(sys),
        M::Cpuid => return cpuid::cpuid(sys),
        M::Rdmsr => return msr::rdmsr(sys),
        M::Wrmsr => return msr::wrmsr(sys),
        M::Rdtsc => return msr::rdtsc(sys),
        M::Rdtscp => return msr::rdtscp(sys),
        M::Rdpmc => return msr::rdpmc(sys),
        M::Rdpid => {
            let aux = sys.state.tsc_aux;
            sys.set(insn.op0_register(), aux);
        }
        M::Swapgs => return syscall::swapgs(sys),
        M::Rdfsbase => return syscall::read_base(sys, insn, Seg::Fs),
        M::Rdgsbase => return syscall::read_base(sys, insn, Seg::Gs),
        M::Wrfsbase => return syscall::write_base(sys, insn, Seg::Fs),
        M::Wrgsbase => return syscall::write_base(sys, insn, Seg::Gs),
        // MWAIT may end at any time; memory is not watched, so it ends at once.
        M::Monitor | M::Mwait => return idle(sys, insn),
        M::Nop | M::Pause => {}
        other => {
            tracing::debug!(?other, rip = sys.state.rip, "instruction raises #UD");
            return Err(Exception::ud());
        }
    }
    Ok(())
}

/// Operand size of LGDT and LIDT.
fn table_size(insn: &Instruction) -> usize {
    match insn.code() {
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 2,
        Code::Lgdt_m1632 | Code::Lidt_m1632 => 4,
        _ => 8,
    }
}

fn idle(sys: &mut Sys<'_>, insn: &Instruction) -> Fault {
    let shown = cpuid::has(sys, cpuid::feature::MONITOR);
    if !shown || sys.v86() || sys.state.cpl() != 0 {
        return Err(Exception::ud());
    }
    if insn.mnemonic() == M::Monitor {
        let offset = if sys.state.code64() {
            sys.state.gpr[0]
        } else {
            sys.gpr(0, 4)
        };
        if sys.gpr(1, 4) != 0 || sys.state.code64() && !canonical(offset) {
            return Err(Exception::gp(0));
        }
    } else if sys.gpr(1, 4) > 1 {
        return Err(Exception::gp(0));
    }
    Ok(())
}
