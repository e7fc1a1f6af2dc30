//! The page walk (SDM vol. 3, chapter 4).

use cpu::bits::{cr0, cr4, efer};
use cpu::{Exception, Fault, State};
use pgm::PhysMap;

/// Width of guest-physical addresses that paging accepts: entries with higher address bits set
/// are malformed. CPUID leaf 8000_0008 says the same.
pub const PHYS_BITS: u32 = 40;

/// Bits of a paging-structure entry.
pub mod entry {
    /// Present.
    pub const P: u64 = 1 << 0;
    /// Writable.
    pub const RW: u64 = 1 << 1;
    /// User.
    pub const US: u64 = 1 << 2;
    /// Accessed.
    pub const A: u64 = 1 << 5;
    /// Dirty (leaf entries).
    pub const D: u64 = 1 << 6;
    /// Maps a large page.
    pub const PS: u64 = 1 << 7;
    /// Global (leaf entries).
    pub const G: u64 = 1 << 8;
    /// No execution.
    pub const NX: u64 = 1 << 63;
}

/// Bits of a #PF error code.
pub mod code {
    /// The page was present.
    pub const P: u32 = 1 << 0;
    /// A write.
    pub const W: u32 = 1 << 1;
    /// A user access.
    pub const U: u32 = 1 << 2;
    /// A malformed entry.
    pub const RSVD: u32 = 1 << 3;
    /// An instruction fetch.
    pub const ID: u32 = 1 << 4;
}

/// What is tried at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// A write (or read for ownership).
    pub write: bool,
    /// An instruction fetch.
    pub exec: bool,
    /// On behalf of privilege level 3.
    pub user: bool,
    /// SMAP does not apply: an explicit access with RFLAGS.AC set.
    pub smap_open: bool,
}

/// Where an address leads, and what the mapping allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walk {
    /// Guest-physical address of the byte asked for.
    pub gpa: u64,
    /// Bytes of the page: 4 KiB, 2 MiB, 4 MiB or 1 GiB.
    pub size: u64,
    /// All entries have R/W set. (With CR0.WP clear, supervisor writes do not need it.)
    pub writable: bool,
    /// All entries have U/S set.
    pub user: bool,
    /// No entry has NX set.
    pub exec: bool,
    /// The translation stays valid over CR3 loads.
    pub global: bool,
    /// The dirty bit is set: further writes need no walk.
    pub dirty: bool,
    /// Address and contents of the entry that maps a page of 4 KiB, if it has 8 bytes.
    leaf: Option<(u64, u64)>,
}

impl Walk {
    /// Whether the page that lies `pages` further is mapped by the same table, with the same rights,
    /// accessed and dirty as this one is, to the memory that lies as much further.
    pub fn goes_on(&self, phys: &PhysMap, pages: i64) -> bool {
        const SAME: u64 = 0x000f_ffff_ffff_f000
            | entry::P
            | entry::RW
            | entry::US
            | entry::A
            | entry::D
            | entry::NX;
        let Some((at, value)) = self.leaf else {
            return false;
        };
        let there = at.wrapping_add_signed(8 * pages);
        there & !0xfff == at & !0xfff
            && read(phys, there, 8) & SAME == (value & SAME).wrapping_add_signed(pages << 12)
    }
}

/// The paging mode in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Bits32,
    Pae,
    Long,
}

impl Mode {
    /// Bytes of an entry.
    fn entry(self) -> usize {
        if self == Self::Bits32 { 4 } else { 8 }
    }
}

/// Outcome of one try that a concurrent change of an entry makes worthless.
struct Changed;

/// Translates `linear` (canonical, or below 4 GiB outside of long mode), sets accessed and dirty
/// bits.
///
/// # Errors
/// #PF with its error code; nothing was changed then.
pub fn walk(state: &State, phys: &PhysMap, linear: u64, access: Access) -> Fault<Walk> {
    if state.cr0 & cr0::PG == 0 {
        return Ok(Walk {
            gpa: linear & 0xffff_ffff,
            size: pgm::PAGE_SIZE,
            writable: true,
            user: true,
            exec: true,
            global: false,
            dirty: true,
            leaf: None,
        });
    }
    loop {
        if let Ok(result) = attempt(state, phys, linear, access) {
            return result;
        }
    }
}

/// What lies between CR3 and a page.
#[derive(Clone, Copy)]
struct Steps {
    mode: Mode,
    /// The combined rights of the upper levels, and of all: R/W, U/S, NX.
    above: (bool, bool, bool),
    rights: (bool, bool, bool),
    /// Addresses and contents of the upper levels' entries.
    upper: [(u64, u64); 3],
    depth: usize,
    /// The entry that maps the page.
    at: u64,
    value: u64,
    shift: u32,
    large: bool,
}

impl Steps {
    /// # Errors
    /// Bits of the error code of #PF.
    fn to(state: &State, phys: &PhysMap, linear: u64) -> Result<Self, u32> {
        let nxe = state.efer & efer::NXE != 0;
        let (mode, mut table, mut shift) = if state.efer & efer::LMA != 0 {
            (Mode::Long, state.cr3 & ADDRESS, 39)
        } else if state.cr4 & cr4::PAE != 0 {
            let pdpte = state.pdpte[(linear >> 30) as usize & 3];
            if pdpte & entry::P == 0 {
                return Err(0);
            }
            (Mode::Pae, pdpte & ADDRESS, 21)
        } else {
            (Mode::Bits32, state.cr3 & 0xffff_f000, 22)
        };
        let bits = if mode == Mode::Bits32 { 10 } else { 9 };
        let (mut rw, mut us, mut nx) = (true, true, false);
        let mut upper = [(0, 0); 3];
        let mut depth = 0;
        loop {
            let index = linear >> shift & ((1 << bits) - 1);
            let at = table + index * mode.entry() as u64;
            let value = read(phys, at, mode.entry());
            if value & entry::P == 0 {
                return Err(0);
            }
            let large = value & entry::PS != 0
                && match mode {
                    Mode::Bits32 => shift == 22 && state.cr4 & cr4::PSE != 0,
                    Mode::Pae | Mode::Long => matches!(shift, 21 | 30),
                };
            if value & reserved(mode, shift, large, nxe) != 0 {
                return Err(code::P | code::RSVD);
            }
            let above = (rw, us, nx);
            rw &= value & entry::RW != 0;
            us &= value & entry::US != 0;
            nx |= mode != Mode::Bits32 && value & entry::NX != 0;
            if large || shift == 12 {
                return Ok(Self {
                    mode,
                    above,
                    rights: (rw, us, nx),
                    upper,
                    depth,
                    at,
                    value,
                    shift,
                    large,
                });
            }
            upper[depth] = (at, value);
            depth += 1;
            table = value & ADDRESS;
            shift -= bits;
        }
    }

    /// Whether the pages of two addresses are mapped by the same table.
    fn same_table(&self, a: u64, b: u64) -> bool {
        let pages = 0x1000 / self.mode.entry() as u64;
        a / (pages << 12) == b / (pages << 12)
    }

    /// Those to `linear`, whose page is mapped by the same table; `None` when it is not present.
    fn beside(mut self, state: &State, phys: &PhysMap, linear: u64) -> Option<Self> {
        let size = self.mode.entry() as u64;
        let index = linear >> 12 & (0x1000 / size - 1);
        self.at = self.at & !0xfff | (index * size);
        self.value = read(phys, self.at, self.mode.entry());
        let nxe = state.efer & efer::NXE != 0;
        if self.value & entry::P == 0 || self.value & reserved(self.mode, 12, false, nxe) != 0 {
            return None;
        }
        let (rw, us, nx) = self.above;
        let value = self.value;
        self.rights = (
            rw && value & entry::RW != 0,
            us && value & entry::US != 0,
            nx || self.mode != Mode::Bits32 && value & entry::NX != 0,
        );
        Some(self)
    }

    /// Where they lead `linear`, with `value` in the entry that maps the page.
    fn end(&self, state: &State, linear: u64, value: u64) -> Walk {
        let size = 1u64 << self.shift;
        let base = if self.large && self.mode == Mode::Bits32 {
            value & 0xffc0_0000 | (value >> 13 & 0xff) << 32
        } else {
            value & ADDRESS & !(size - 1)
        };
        let (rw, us, nx) = self.rights;
        Walk {
            gpa: base | linear & (size - 1),
            size,
            writable: rw,
            user: us,
            exec: !nx,
            global: value & entry::G != 0 && state.cr4 & cr4::PGE != 0,
            dirty: value & entry::D != 0,
            leaf: (self.shift == 12 && self.mode != Mode::Bits32).then_some((self.at, value)),
        }
    }
}

fn attempt(
    state: &State,
    phys: &PhysMap,
    linear: u64,
    access: Access,
) -> Result<Fault<Walk>, Changed> {
    let fault = |bits: u32| {
        let nxe = state.efer & efer::NXE != 0;
        let fetch = access.exec && (state.cr4 & cr4::SMEP != 0 || nxe && state.cr4 & cr4::PAE != 0);
        let code = bits
            | if access.write { code::W } else { 0 }
            | if access.user { code::U } else { 0 }
            | if fetch { code::ID } else { 0 };
        Ok(Err(Exception::pf(linear, code)))
    };
    let steps = match Steps::to(state, phys, linear) {
        Ok(steps) => steps,
        Err(bits) => return fault(bits),
    };
    let (rw, us, nx) = steps.rights;
    if !allowed(state, access, rw, us, nx) {
        return fault(code::P);
    }
    let size = steps.mode.entry();
    for (at, value) in &steps.upper[..steps.depth] {
        set(phys, *at, size, *value, value | entry::A)?;
    }
    let dirty = if access.write { entry::D } else { 0 };
    let value = steps.value;
    let value = set(phys, steps.at, size, value, value | entry::A | dirty)?;
    Ok(Ok(steps.end(state, linear, value)))
}

/// Looks where addresses lead, without changing anything; for many in order.
pub struct Looker<'a> {
    state: &'a State,
    phys: &'a PhysMap,
    /// The address that was looked at last, in a page of 4 KiB.
    last: Option<(u64, Steps)>,
}

impl<'a> Looker<'a> {
    /// For looks at one time: upper levels are read once, as processors keep them.
    pub fn new(state: &'a State, phys: &'a PhysMap) -> Self {
        Self {
            state,
            phys,
            last: None,
        }
    }

    /// Where `linear` leads, if a processor could have that in its TLB: with paging on, and all
    /// entries present and accessed.
    pub fn look(&mut self, linear: u64) -> Option<Walk> {
        if self.state.cr0 & cr0::PG == 0 {
            return None;
        }
        let steps = match self.last {
            Some((last, steps)) if steps.same_table(last, linear) => {
                steps.beside(self.state, self.phys, linear)?
            }
            _ => Steps::to(self.state, self.phys, linear).ok()?,
        };
        if steps.shift == 12 {
            self.last = Some((linear, steps));
        }
        let accessed = steps.upper[..steps.depth]
            .iter()
            .fold(steps.value, |all, (_, value)| all & value);
        (accessed & entry::A != 0).then(|| steps.end(self.state, linear, steps.value))
    }
}

/// Address bits of an entry.
const ADDRESS: u64 = ((1 << PHYS_BITS) - 1) & !0xfff;

/// Bits that must be clear in a present entry.
fn reserved(mode: Mode, shift: u32, large: bool, nxe: bool) -> u64 {
    if mode == Mode::Bits32 {
        return if large { 1 << 21 } else { 0 };
    }
    let mut bits = 0x000f_ffff_ffff_f000 & !ADDRESS;
    if mode == Mode::Pae {
        bits |= 0x7ff << 52;
    }
    if !nxe {
        bits |= entry::NX;
    }
    if shift == 39 {
        bits |= entry::PS;
    }
    if large {
        // Address bits below the page's size; bit 12 is PAT.
        bits |= ((1u64 << shift) - 1) & !0x1fff;
    }
    bits
}

/// Whether the combined rights of all levels permit the access (SDM vol. 3, 4.6.1).
fn allowed(state: &State, access: Access, rw: bool, us: bool, nx: bool) -> bool {
    if access.exec {
        return !nx
            && if access.user {
                us
            } else {
                !(us && state.cr4 & cr4::SMEP != 0)
            };
    }
    if access.user {
        return us && (rw || !access.write);
    }
    let smap = us && state.cr4 & cr4::SMAP != 0 && !access.smap_open;
    !smap && (rw || !access.write || state.cr0 & cr0::WP == 0)
}

fn read(phys: &PhysMap, gpa: u64, size: usize) -> u64 {
    phys.load(gpa, size)
}

fn set(phys: &PhysMap, gpa: u64, size: usize, old: u64, new: u64) -> Result<u64, Changed> {
    if old == new || phys.compare_exchange(gpa, size, old, new) {
        Ok(new)
    } else {
        Err(Changed)
    }
}

/// Whether CR3 loads fill the PDPTE registers: PAE paging outside of long mode.
pub fn uses_pdptes(cr0: u64, cr4: u64, efer: u64) -> bool {
    cr0 & cr0::PG != 0 && cr4 & cr4::PAE != 0 && efer & efer::LMA == 0
}

/// Reads the four PDPTEs that `cr3` points to.
///
/// # Errors
/// #GP(0) when a present one has reserved bits set (SDM vol. 3, 4.4.1).
pub fn read_pdptes(phys: &PhysMap, cr3: u64) -> Fault<[u64; 4]> {
    let mut pdpte = [0; 4];
    for (i, value) in pdpte.iter_mut().enumerate() {
        *value = read(phys, (cr3 & 0xffff_ffe0) + 8 * i as u64, 8);
        if *value & entry::P != 0 && *value & (!ADDRESS & !0xe19) != 0 {
            return Err(Exception::gp(0));
        }
    }
    Ok(pdpte)
}
