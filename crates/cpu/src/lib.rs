//! CPUM: the guest CPU's architectural state, and the seam between engines and the rest of the VM.
//!
//! * [`State`] is everything a vCPU has; every engine starts from it and gives it back, so a VM
//!   may change engines at any instruction boundary.
//! * [`Engine`] is what REM and HWACCM implement; [`Exit`] is what leaves it.
//! * [`Bus`] is what an engine may ask of the machine: ports, interrupts, MSRs of the APIC, time.
//! * [`Signals`] is how other threads reach a running vCPU.
//!
//! References are to the Intel 64 and IA-32 Architectures Software Developer's Manual (SDM).

pub mod bits;
mod engine;
mod exception;
pub mod profile;
mod signals;
mod state;

pub use engine::{Bus, Engine, Exit};
pub use exception::{Exception, Fault, Vector};
pub use signals::{Signals, signal};
pub use state::{DescTable, FPU_AREA, Fpu, RunState, Seg, SegReg, State, Upper, attr};
