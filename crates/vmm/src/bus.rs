//! What engines ask of the machine.

use std::sync::Arc;

use cpu::{Bus, Signals};
use pdm::{Device, Pio};

use crate::machine::Machine;

/// Clears the FERR# latch (PC/AT).
const FERR_CLEAR: u16 = 0xf0;

fn all_ones(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

impl Machine {
    /// Runs `f` on the device at `port`.
    fn at<R>(&self, port: u16, f: impl FnOnce(&mut dyn Pio) -> R) -> Option<R> {
        let slot = self.slots.get(self.ports.device(port)?)?;
        slot.with(|d: &mut dyn Device| d.pio().map(f)).flatten()
    }
}

impl Bus for Machine {
    fn port_read(&self, _: usize, port: u16, size: u8) -> u32 {
        let ones = all_ones(size);
        self.at(port, |p| p.read(port, size) & ones).unwrap_or(ones)
    }

    fn port_write(&self, _: usize, port: u16, size: u8, value: u32) {
        let value = value & all_ones(size);
        if self.at(port, |p| p.write(port, size, value)).is_none() && port == FERR_CLEAR {
            self.ferr.set(false);
        }
    }

    fn port_read_string(&self, _: usize, port: u16, size: u8, data: &mut [u8]) {
        if self.at(port, |p| p.read_string(port, size, data)).is_none() {
            data.fill(0xff);
        }
    }

    fn port_write_string(&self, _: usize, port: u16, size: u8, data: &[u8]) {
        self.at(port, |p| p.write_string(port, size, data));
    }

    fn interrupt_pending(&self, cpu: usize) -> bool {
        self.trpm.pending(cpu)
    }

    fn interrupt_acknowledge(&self, cpu: usize) -> Option<u8> {
        self.trpm.acknowledge(cpu)
    }

    fn interrupt_return(&self, cpu: usize, vector: u8) {
        self.trpm.give_back(cpu, vector);
    }

    fn cr8(&self, cpu: usize) -> u8 {
        self.trpm.controller().map_or(0, |c| c.cr8(cpu))
    }

    fn set_cr8(&self, cpu: usize, value: u8) {
        if let Some(c) = self.trpm.controller() {
            c.set_cr8(cpu, value);
        }
    }

    fn apic_msr_read(&self, cpu: usize, msr: u32) -> Option<u64> {
        self.trpm.controller()?.read_msr(cpu, msr)
    }

    fn apic_msr_write(&self, cpu: usize, msr: u32, value: u64) -> bool {
        self.trpm
            .controller()
            .is_some_and(|c| c.write_msr(cpu, msr, value))
    }

    fn tsc(&self) -> u64 {
        self.tm.tsc()
    }

    fn tsc_delta(&self) -> Option<u64> {
        self.tm.tsc_delta()
    }

    fn cpuid(&self, cpu: usize, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.cpum.cpuid(cpu, leaf, subleaf)
    }

    fn ferr(&self, _: usize) {
        self.ferr.set(true);
    }

    fn signals(&self, cpu: usize) -> &Arc<Signals> {
        &self.trpm.cpus.signals[cpu]
    }
}
