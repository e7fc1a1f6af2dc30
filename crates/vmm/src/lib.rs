//! The VM object: everything of one virtual machine between the settings and the host.
//!
//! [`Vm::new`] builds a machine from a CFGM tree, a device registry and the drivers to attach;
//! from then on [`Vm`] is driven by requests (run, pause, reset, power off, save).
//!
//! Modules, by VirtualBox's names:
//! * `em` runs the vCPU threads and picks engines; `engines` knows which there are;
//! * `iom` dispatches ports and memory-mapped registers;
//! * `tm` keeps virtual time and timers;
//! * `trpm` holds interrupts on their way to a vCPU;
//! * `cpum` decides what CPUID answers;
//! * `pdm_host` builds devices; `ssm` saves and loads; `dbgf` lets debuggers look.
//!
//! Left out: several PCI buses, memory and CPU hot-plug.

mod bus;
mod cpum;
mod dbgf;
mod em;
mod engines;
mod error;
mod iom;
mod large;
mod machine;
mod pdm_host;
mod ssm;
mod tm;
mod trpm;
mod vm;

pub use engines::EngineChoice;
pub use error::Error;
pub use pdm_host::Attachments;
pub use vm::{Vm, VmEvents, VmState};
