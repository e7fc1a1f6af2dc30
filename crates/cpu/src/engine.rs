//! The seam between engines and the machine.

use std::sync::Arc;

use crate::{Signals, State};

/// Why [`Engine::run`] came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// [`Signals`] has something to do outside of the engine (see `signal::LEAVE`).
    Signalled,
    /// HLT (or MWAIT) with interrupts possible: [`State::run`] says `Halted`.
    Halted,
    /// Triple fault: the machine resets or stops.
    TripleFault,
    /// A debugger's breakpoint or step ended.
    Debug,
    /// This engine cannot go on, another one may from the same state; the reason for the log.
    EngineSwitch(String),
    /// Nothing can go on (a bug or the host's failure); the reason for the log.
    Fatal(String),
}

/// Something that executes guest instructions of one vCPU.
pub trait Engine: Send {
    /// `REM` or `HWACCM`.
    fn name(&self) -> &'static str;

    /// Runs `state` until something must be done outside. Interrupts, NMIs and SMIs signalled in
    /// the meantime are delivered inside; port and MMIO accesses go to the machine through
    /// [`Bus`] and the physical map.
    fn run(&mut self, state: &mut State) -> Exit;

    /// The host's view of state may have been changed from outside (reset, load, debugger): drop
    /// what was derived from it (TLBs; translations stay valid).
    fn state_changed(&mut self);

    /// Named counters for `debugvm statistics`.
    fn statistics(&self) -> Vec<(String, u64)>;
}

/// What engines ask of the machine. One per VM; implemented by the VMM.
pub trait Bus: Send + Sync {
    /// Reads `size` (1, 2, 4) bytes at a port.
    fn port_read(&self, cpu: usize, port: u16, size: u8) -> u32;
    /// Writes to a port.
    fn port_write(&self, cpu: usize, port: u16, size: u8, value: u32);
    /// `rep ins`: fills `data` with units of `size` bytes.
    fn port_read_string(&self, cpu: usize, port: u16, size: u8, data: &mut [u8]);
    /// `rep outs`.
    fn port_write_string(&self, cpu: usize, port: u16, size: u8, data: &[u8]);
    /// Whether an interrupt vector waits for `cpu`.
    fn interrupt_pending(&self, cpu: usize) -> bool;
    /// Takes the vector (INTA).
    fn interrupt_acknowledge(&self, cpu: usize) -> Option<u8>;
    /// Gives back a vector that was acknowledged and could not be delivered: the next
    /// [`Bus::interrupt_acknowledge`] has it. Engines that deliver what they take never call it.
    fn interrupt_return(&self, cpu: usize, vector: u8) {
        let _ = (cpu, vector);
    }
    /// CR8.
    fn cr8(&self, cpu: usize) -> u8;
    /// CR8.
    fn set_cr8(&self, cpu: usize, value: u8);
    /// APIC_BASE, TSC_DEADLINE and x2APIC MSRs; `None`: #GP.
    fn apic_msr_read(&self, cpu: usize, msr: u32) -> Option<u64>;
    /// False: #GP.
    fn apic_msr_write(&self, cpu: usize, msr: u32, value: u64) -> bool;
    /// The machine's time-stamp counter before a vCPU's own offset.
    fn tsc(&self) -> u64;
    /// Constant to add to the host's TSC to get [`Bus::tsc`], while the VM runs; engines may use
    /// RDTSC with it. `None` when the host's TSC cannot be used.
    fn tsc_delta(&self) -> Option<u64>;
    /// What CPUID answers.
    fn cpuid(&self, cpu: usize, leaf: u32, subleaf: u32) -> [u32; 4];
    /// FERR#: an unmasked x87 exception with CR0.NE clear (IRQ 13).
    fn ferr(&self, cpu: usize);
    /// Signals of `cpu`.
    fn signals(&self, cpu: usize) -> &Arc<Signals>;
}
