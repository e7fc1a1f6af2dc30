//! HWACCM: the hardware engine, on Linux's KVM.
//!
//! * [`probe`] says whether `/dev/kvm` really runs real-mode, protected-mode and long-mode code here.
//! * [`Vm`] is one KVM virtual machine: memory slots that follow the physical map.
//! * [`Kvm`] is one vCPU behind [`cpu::Engine`].
//!
//! KVM's own interrupt controllers are not used: the machine's local APICs, I/O APIC and 8259s
//! decide, and vectors are handed over one by one. Instructions that this host's KVM cannot emulate
//! leave [`cpu::Engine::run`] as [`cpu::Exit::EngineSwitch`] with the state of the instruction
//! boundary before them, so that the software engine goes on.
//!
//! Left out: masking of address line 20 (KVM has no such thing, guests that close the gate see it
//! open) and SMM (an SMI asks for the software engine).

mod cpuid;
mod engine;
mod event;
mod ioctl;
mod kick;
mod probe;
mod regs;
mod slots;
mod vm;

pub use engine::Kvm;
pub use probe::{Probed, probe};
pub use vm::Vm;

/// Why KVM cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// `/dev/kvm` is missing or closed to this user.
    #[error("cannot open /dev/kvm: {0}")]
    Open(String),
    /// A KVM call failed.
    #[error("KVM: {call} failed: {reason}")]
    Call {
        /// Which one.
        call: &'static str,
        /// The host's reason.
        reason: String,
    },
    /// This KVM lacks something.
    #[error("KVM lacks {0}")]
    Missing(&'static str),
    /// The test programs ended with wrong results.
    #[error("KVM failed its probe in {mode}: {reason}")]
    Probe {
        /// `real mode`, `protected mode` or `long mode`.
        mode: &'static str,
        /// What went wrong.
        reason: String,
    },
}

impl Error {
    fn call(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |e| Self::Call {
            call,
            reason: e.to_string(),
        }
    }
}
