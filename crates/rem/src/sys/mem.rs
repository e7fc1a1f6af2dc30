//! Linear memory as single-instruction helpers see it.

use cpu::{Fault, State};
use pgm::PhysMap;

/// On whose behalf an access is made: page protection depends on it (SDM vol. 3, 4.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// The current privilege level; explicit (obeys SMAP with EFLAGS.AC).
    Current,
    /// Implicit supervisor access (descriptor tables, TSS, stacks of inner levels).
    System,
    /// A user access whatever the privilege level is.
    User,
}

/// Linear memory of one vCPU: paging is applied, faults come back as exceptions, registers of
/// devices are reached. Addresses are canonical or truncated to 32 bits by the caller.
pub trait LinearMemory {
    /// Reads `data.len()` bytes. A fault on any byte means nothing is returned.
    ///
    /// # Errors
    /// #PF.
    fn read(&mut self, addr: u64, data: &mut [u8], who: As) -> Fault;

    /// Writes `data`. All pages are checked before the first byte is written.
    ///
    /// # Errors
    /// #PF.
    fn write(&mut self, addr: u64, data: &[u8], who: As) -> Fault;

    /// Checks that `len` bytes could be written, as far as faults go.
    ///
    /// # Errors
    /// #PF.
    fn probe_write(&mut self, addr: u64, len: usize, who: As) -> Fault;

    /// Reads a little-endian unit of 1, 2, 4 or 8 bytes.
    ///
    /// # Errors
    /// #PF.
    fn read_u(&mut self, addr: u64, size: usize, who: As) -> Fault<u64> {
        let mut b = [0; 8];
        self.read(addr, &mut b[..size], who)?;
        Ok(u64::from_le_bytes(b))
    }

    /// Writes a little-endian unit of 1, 2, 4 or 8 bytes.
    ///
    /// # Errors
    /// #PF.
    fn write_u(&mut self, addr: u64, size: usize, value: u64, who: As) -> Fault {
        self.write(addr, &value.to_le_bytes()[..size], who)
    }

    /// Writes `len` bytes `value`, inside one page.
    ///
    /// # Errors
    /// #PF.
    fn fill(&mut self, addr: u64, len: usize, value: u8, who: As) -> Fault {
        self.write(addr, &vec![value; len], who)
    }

    /// Copies `len` bytes between pages, each inside one; they do not overlap.
    ///
    /// # Errors
    /// #PF.
    fn copy(&mut self, from: u64, to: u64, len: usize, who: As) -> Fault {
        let mut data = vec![0; len];
        self.read(from, &mut data, who)?;
        self.write(to, &data, who)
    }

    /// Whether the page of `addr` is plain memory for reads or writes: string instructions move
    /// many elements at once then. Registers of devices must see one access for each element, in
    /// order, so anything else is false.
    fn is_memory(&mut self, addr: u64, write: bool) -> bool;

    /// Whether an access since the last instruction hit a data breakpoint.
    fn watched(&self) -> bool {
        false
    }

    /// Guest-physical memory: PDPTEs are read from it.
    fn phys(&self) -> &PhysMap;

    /// Control registers or the privilege level changed in the middle of an instruction (a task
    /// switch): later accesses follow `state`.
    fn context_changed(&mut self, state: &State);
}
