//! What each guest-physical address is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use parking_lot::RwLock;

use crate::{Error, PAGE_SIZE, Ram, RamBlock};

/// A device's memory-mapped registers. `offset` counts from the start of the region.
///
/// Called without any lock of the map held, from any thread.
pub trait PhysHandler: Send + Sync {
    /// Fills `data` (1 to 8 bytes for a CPU access) with what the registers read as.
    fn read(&self, vcpu: usize, offset: u64, data: &mut [u8]);
    /// Writes `data` (1 to 8 bytes for a CPU access) to the registers.
    fn write(&self, vcpu: usize, offset: u64, data: &[u8]);
}

/// Whether writes reach the memory behind a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFlags {
    /// They change it.
    ReadWrite,
    /// They are dropped (ROM, write-protected shadow RAM).
    ReadOnly,
}

/// What a region holds.
#[derive(Clone)]
pub enum RegionKind {
    /// Memory: reads come from `block`.
    Memory {
        /// Backing memory; as long as the region.
        block: RamBlock,
        /// Whether writes change `block`.
        writes: WriteFlags,
    },
    /// Reads come from `read`, writes go to `write` (a PAM area that shadows ROM).
    Split {
        /// Memory that is read.
        read: RamBlock,
        /// Memory that is written.
        write: RamBlock,
    },
    /// Registers of a device.
    Mmio(Arc<dyn PhysHandler>),
}

/// Names a region added to a [`PhysMap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegionId(u64);

#[derive(Clone)]
struct Region {
    id: RegionId,
    gpa: u64,
    size: u64,
    priority: i32,
    kind: RegionKind,
}

/// Where one access goes.
#[derive(Clone)]
pub enum Target {
    /// RAM offset of the byte asked for.
    Ram(u64),
    /// A device's registers, with the offset of the byte asked for.
    Mmio(Arc<dyn PhysHandler>, u64),
    /// Nothing: reads give all ones, writes are dropped.
    Nothing,
}

/// What [`PhysMap::lookup`] found at an address.
#[derive(Clone)]
pub struct PageLookup {
    /// Where reads go.
    pub read: Target,
    /// Where writes go.
    pub write: Target,
}

/// log2 of the bytes that an entry of [`PhysMap::plain`] speaks for.
const CHUNK_BITS: u32 = 21;
/// Mark of an entry that holds a RAM offset; those are multiples of the page size.
const PLAIN: u64 = 1;

/// Told of changes. Called with no lock held, from the thread that made the change.
pub trait Listener: Send + Sync {
    /// Some guest-physical addresses now mean something else: cached lookups are stale.
    fn mapping_changed(&self);
    /// Memory whose page has [`PageFlags::CODE`] was written by someone else than the engine's
    /// own fast path. `offset` is a RAM offset, `len` bytes do not cross a page; bit n of `users`
    /// says that vCPU n has translations on the page.
    fn code_written(&self, offset: u64, len: u64, users: u32);
}

/// A flattened piece: no two overlap, sorted by address.
#[derive(Clone)]
struct Flat {
    gpa: u64,
    size: u64,
    /// Offset of `gpa` in the region.
    skip: u64,
    kind: RegionKind,
}

/// The guest-physical address space of one VM.
pub struct PhysMap {
    ram: Arc<Ram>,
    regions: RwLock<Vec<Region>>,
    flat: RwLock<Arc<Vec<Flat>>>,
    listeners: RwLock<Vec<Arc<dyn Listener>>>,
    next_id: AtomicU64,
    a20: AtomicBool,
    /// For each 2 MiB from address 0 on that are one piece of plain memory: its RAM offset and
    /// [`PLAIN`]; 0 for all else. What page walks and DMA touch is nearly always found here, without
    /// a lock.
    plain: Box<[AtomicU64]>,
    /// Memory that only processors in system management mode see, and where.
    smram: RwLock<Option<(u64, RamBlock)>>,
}

impl PhysMap {
    /// An empty address space over `ram`, A20 open.
    pub fn new(ram: Arc<Ram>) -> Arc<Self> {
        let chunks = (ram.size() + (4 << 30)) >> CHUNK_BITS;
        Arc::new(Self {
            ram,
            plain: (0..chunks).map(|_| AtomicU64::new(0)).collect(),
            regions: RwLock::default(),
            flat: RwLock::default(),
            listeners: RwLock::default(),
            next_id: AtomicU64::new(1),
            a20: AtomicBool::new(true),
            smram: RwLock::default(),
        })
    }

    /// The memory pool.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// Adds a listener for the life of the map.
    pub fn subscribe(&self, listener: Arc<dyn Listener>) {
        self.listeners.write().push(listener);
    }

    /// Shows `kind` at `gpa`. Where regions overlap, the higher `priority` wins, and of equals the
    /// later one. Memory must be page aligned; registers may be any size.
    ///
    /// # Errors
    /// [`Error::BadRegion`] for an empty, wrapping or (memory) unaligned range.
    pub fn add(
        &self,
        gpa: u64,
        size: u64,
        priority: i32,
        kind: RegionKind,
    ) -> Result<RegionId, Error> {
        let memory = !matches!(kind, RegionKind::Mmio(_));
        let aligned = gpa.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE);
        let fits = match &kind {
            RegionKind::Memory { block, .. } => block.size >= size,
            RegionKind::Split { read, write } => read.size >= size && write.size >= size,
            RegionKind::Mmio(_) => true,
        };
        if size == 0 || gpa.checked_add(size).is_none() || (memory && !aligned) || !fits {
            return Err(Error::BadRegion { gpa, size });
        }
        let id = RegionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        self.change(|regions| {
            regions.push(Region {
                id,
                gpa,
                size,
                priority,
                kind,
            })
        });
        Ok(id)
    }

    /// Takes a region away. Unknown ids are ignored.
    pub fn remove(&self, id: RegionId) {
        self.change(|regions| regions.retain(|r| r.id != id));
    }

    /// Replaces what a region shows, in place. Unknown ids are ignored.
    pub fn replace(&self, id: RegionId, kind: RegionKind) {
        self.change(|regions| {
            if let Some(r) = regions.iter_mut().find(|r| r.id == id) {
                r.kind = kind;
            }
        });
    }

    /// Removes and adds several regions as one change (one notification): `remove` first.
    pub fn swap(&self, remove: &[RegionId], add: &[(u64, u64, i32, RegionKind)]) -> Vec<RegionId> {
        let ids: Vec<_> = add
            .iter()
            .map(|_| RegionId(self.next_id.fetch_add(1, Ordering::Relaxed)))
            .collect();
        self.change(|regions| {
            regions.retain(|r| !remove.contains(&r.id));
            for ((gpa, size, priority, kind), id) in add.iter().zip(&ids) {
                if *size > 0 && gpa.checked_add(*size).is_some() {
                    let (gpa, size, priority) = (*gpa, *size, *priority);
                    regions.push(Region {
                        id: *id,
                        gpa,
                        size,
                        priority,
                        kind: kind.clone(),
                    });
                }
            }
        });
        ids
    }

    /// Shows `block` at `gpa` to processors in system management mode only; `None`: nothing.
    pub fn set_smram(&self, window: Option<(u64, RamBlock)>) {
        *self.smram.write() = window;
        self.notify(|l| l.mapping_changed());
    }

    /// Whether `gpa` lies in the window of [`PhysMap::set_smram`].
    pub fn in_smram(&self, gpa: u64) -> bool {
        let window = *self.smram.read();
        window.is_some_and(|(start, block)| gpa.wrapping_sub(start) < block.size)
    }

    /// [`PhysMap::lookup`] for a processor in system management mode.
    pub fn lookup_smm(&self, gpa: u64) -> PageLookup {
        match *self.smram.read() {
            Some((start, block)) if gpa.wrapping_sub(start) < block.size => {
                let ram = Target::Ram(block.offset + (gpa - start));
                PageLookup {
                    read: ram.clone(),
                    write: ram,
                }
            }
            _ => self.lookup(gpa),
        }
    }

    /// [`PhysMap::read`] for a processor in system management mode; the bytes do not cross a page.
    pub fn read_smm(&self, gpa: u64, data: &mut [u8]) {
        match self.lookup_smm(gpa).read {
            Target::Ram(offset) if self.in_smram(gpa) => self.ram.read(offset, data),
            _ => self.read(gpa, data),
        }
    }

    /// Opens or masks address line 20 (the keyboard controller's and port 0x92's gate).
    pub fn set_a20(&self, open: bool) {
        if self.a20.swap(open, Ordering::SeqCst) != open {
            self.notify(|l| l.mapping_changed());
        }
    }

    /// Whether address line 20 is open.
    pub fn a20(&self) -> bool {
        self.a20.load(Ordering::Relaxed)
    }

    fn change(&self, edit: impl FnOnce(&mut Vec<Region>)) {
        {
            let mut regions = self.regions.write();
            edit(&mut regions);
            let flat = flatten(&regions);
            self.note_plain(&flat);
            *self.flat.write() = Arc::new(flat);
        }
        self.notify(|l| l.mapping_changed());
    }

    fn note_plain(&self, flat: &[Flat]) {
        let size = 1u64 << CHUNK_BITS;
        for (i, entry) in self.plain.iter().enumerate() {
            let start = (i as u64) << CHUNK_BITS;
            let value = match find(flat, start) {
                Some(f) if f.gpa + f.size - start >= size => match f.at(start) {
                    PageLookup {
                        read: Target::Ram(read),
                        write: Target::Ram(write),
                    } if read == write => read | PLAIN,
                    _ => 0,
                },
                _ => 0,
            };
            entry.store(value, Ordering::Release);
        }
    }

    /// RAM offset of `gpa` when it is memory that reads and writes reach alike, and so is all of
    /// its page. `None` says nothing.
    fn plain(&self, gpa: u64) -> Option<u64> {
        let entry = self.plain.get(usize::try_from(gpa >> CHUNK_BITS).ok()?)?;
        let entry = entry.load(Ordering::Acquire);
        (entry & PLAIN != 0 && self.a20())
            .then(|| (entry & !PLAIN) + (gpa & ((1 << CHUNK_BITS) - 1)))
    }

    fn notify(&self, tell: impl Fn(&dyn Listener)) {
        let listeners = self.listeners.read().clone();
        for l in &listeners {
            tell(l.as_ref());
        }
    }

    fn mask(&self, gpa: u64) -> u64 {
        if self.a20() { gpa } else { gpa & !(1 << 20) }
    }

    /// What the byte at `gpa` is, for reads and for writes.
    pub fn lookup(&self, gpa: u64) -> PageLookup {
        if let Some(offset) = self.plain(gpa) {
            return PageLookup {
                read: Target::Ram(offset),
                write: Target::Ram(offset),
            };
        }
        let gpa = self.mask(gpa);
        let flat = self.flat.read().clone();
        match find(&flat, gpa) {
            Some(f) => f.at(gpa),
            None => PageLookup {
                read: Target::Nothing,
                write: Target::Nothing,
            },
        }
    }

    /// Whether the whole page of `gpa` is one kind of memory: a piece boundary inside the page
    /// (small MMIO windows) means a lookup of one byte does not speak for its neighbours.
    pub fn page_is_uniform(&self, gpa: u64) -> bool {
        if self.plain(gpa).is_some() {
            return true;
        }
        let page = self.mask(gpa) & !(PAGE_SIZE - 1);
        let flat = self.flat.read();
        match find(&flat, page) {
            Some(f) => f.gpa + f.size - page >= PAGE_SIZE,
            None => !flat
                .iter()
                .any(|f| f.gpa < page + PAGE_SIZE && f.gpa + f.size > page),
        }
    }

    /// Reads guest-physical memory, as a bus master does; registers of devices are reached too.
    pub fn read(&self, gpa: u64, data: &mut [u8]) {
        if step(gpa, data.len()) == data.len()
            && let Some(offset) = self.plain(gpa)
        {
            return self.ram.read(offset, data);
        }
        let flat = self.flat.read().clone();
        let mut done = 0;
        while done < data.len() {
            let at = self.mask(gpa.wrapping_add(done as u64));
            let n = step(at, data.len() - done);
            let part = &mut data[done..done + n];
            match find(&flat, at).map(|f| (f.at(at).read, f.gpa + f.size - at)) {
                Some((Target::Ram(offset), left)) if left >= n as u64 => {
                    self.ram.read(offset, part)
                }
                Some((Target::Mmio(handler, offset), _)) => handler.read(0, offset, part),
                _ => part.fill(0xff),
            }
            done += n;
        }
    }

    /// The naturally aligned unit of `size` (4 or 8) bytes at `gpa`: entries of page tables.
    pub fn load(&self, gpa: u64, size: usize) -> u64 {
        let found = self
            .plain(gpa)
            .and_then(|offset| self.ram.load(offset, size));
        found.unwrap_or_else(|| {
            let mut b = [0; 8];
            self.read(gpa, &mut b[..size.min(8)]);
            u64::from_le_bytes(b)
        })
    }

    /// Writes guest-physical memory, as a bus master does. Writes to pages with translated code
    /// are reported to the listeners.
    pub fn write(&self, gpa: u64, data: &[u8]) {
        let flat = self.flat.read().clone();
        let mut done = 0;
        while done < data.len() {
            let at = self.mask(gpa.wrapping_add(done as u64));
            let n = step(at, data.len() - done);
            let part = &data[done..done + n];
            match find(&flat, at).map(|f| (f.at(at).write, f.gpa + f.size - at)) {
                Some((Target::Ram(offset), left)) if left >= n as u64 => {
                    self.write_ram(offset, part)
                }
                Some((Target::Mmio(handler, offset), _)) => handler.write(0, offset, part),
                _ => {}
            }
            done += n;
        }
    }

    /// Writes at a RAM offset, inside one page, reporting writes to translated code.
    pub fn write_ram(&self, offset: u64, data: &[u8]) {
        self.ram.write(offset, data);
        self.written(offset, data.len() as u64, 0);
    }

    /// Reports a write of `len` bytes at RAM offset `offset`, inside one page and already made, to
    /// the engines that have translations there, but for those with a bit set in `but`. Returns
    /// all that have, as [`Listener::code_written`]'s `users`.
    pub fn written(&self, offset: u64, len: u64, but: u32) -> u32 {
        // An engine sets its bit and then reads the code; the write was made and now the bit is
        // read. Whichever is first, one of the two sees the other.
        fence(Ordering::SeqCst);
        let users = (self.ram.flags(offset).load(Ordering::SeqCst) >> 32) as u32;
        if users & !but != 0 {
            self.notify(|l| l.code_written(offset, len, users & !but));
        }
        users
    }

    /// Atomically replaces the naturally aligned unit of `size` (4 or 8) bytes at `gpa` by `new`
    /// if it is `old`; false when it was something else. Page walkers set accessed and dirty bits
    /// with it. What is not writable memory is left alone and counts as replaced.
    pub fn compare_exchange(&self, gpa: u64, size: usize, old: u64, new: u64) -> bool {
        let Target::Ram(offset) = self.lookup(gpa).write else {
            return true;
        };
        let done = self.ram.compare_exchange(offset, size, old, new);
        if done {
            self.written(offset, size as u64, 0);
        }
        done
    }

    /// All pieces of memory, for engines that map memory into a hardware guest: (guest-physical
    /// address, RAM offset of what is read, bytes, whether writes go to the same place). Writes to
    /// the others must be made with [`PhysMap::write`].
    pub fn memory_pieces(&self) -> Vec<(u64, u64, u64, bool)> {
        let flat = self.flat.read();
        flat.iter()
            .filter_map(|f| {
                let (read, writable) = match &f.kind {
                    RegionKind::Memory { block, writes } => {
                        (block, matches!(writes, WriteFlags::ReadWrite))
                    }
                    RegionKind::Split { read, .. } => (read, false),
                    RegionKind::Mmio(_) => return None,
                };
                Some((f.gpa, read.offset + f.skip, f.size, writable))
            })
            .collect()
    }
}

impl Flat {
    fn at(&self, gpa: u64) -> PageLookup {
        let offset = self.skip + (gpa - self.gpa);
        match &self.kind {
            RegionKind::Memory { block, writes } => {
                let ram = Target::Ram(block.offset + offset);
                let write = match writes {
                    WriteFlags::ReadWrite => ram.clone(),
                    WriteFlags::ReadOnly => Target::Nothing,
                };
                PageLookup { read: ram, write }
            }
            RegionKind::Split { read, write } => PageLookup {
                read: Target::Ram(read.offset + offset),
                write: Target::Ram(write.offset + offset),
            },
            RegionKind::Mmio(handler) => {
                let mmio = Target::Mmio(handler.clone(), offset);
                PageLookup {
                    read: mmio.clone(),
                    write: mmio,
                }
            }
        }
    }
}

/// Bytes that may be accessed at once from `gpa`: they stay inside one page.
fn step(gpa: u64, len: usize) -> usize {
    len.min((PAGE_SIZE - gpa % PAGE_SIZE) as usize)
}

fn find(flat: &[Flat], gpa: u64) -> Option<&Flat> {
    let i = flat.partition_point(|f| f.gpa <= gpa);
    flat[..i].last().filter(|f| gpa - f.gpa < f.size)
}

/// Cuts overlapping regions so that at each address only the winning one is left.
fn flatten(regions: &[Region]) -> Vec<Flat> {
    let mut edges: Vec<u64> = regions
        .iter()
        .flat_map(|r| [r.gpa, r.gpa + r.size])
        .collect();
    edges.sort_unstable();
    edges.dedup();
    let mut flat: Vec<Flat> = Vec::new();
    let mut last: Option<RegionId> = None;
    for pair in edges.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        let winner = regions
            .iter()
            .filter(|r| r.gpa <= start && end <= r.gpa + r.size)
            .max_by_key(|r| (r.priority, r.id.0));
        match (winner, flat.last_mut()) {
            (Some(w), Some(f)) if last == Some(w.id) && f.gpa + f.size == start => {
                f.size += end - start
            }
            (Some(w), _) => {
                flat.push(Flat {
                    gpa: start,
                    size: end - start,
                    skip: start - w.gpa,
                    kind: w.kind.clone(),
                });
            }
            (None, _) => {}
        }
        last = winner.map(|w| w.id);
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Regs;
    impl PhysHandler for Regs {
        fn read(&self, _: usize, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, _: usize, _: u64, _: &[u8]) {}
    }

    fn memory(block: RamBlock, writes: WriteFlags) -> RegionKind {
        RegionKind::Memory { block, writes }
    }

    #[test]
    fn higher_priority_hides_and_removal_uncovers() {
        let map = PhysMap::new(Ram::new(1 << 20).unwrap());
        let block = map.ram().alloc(1 << 16).unwrap();
        map.add(0, 1 << 16, 0, memory(block, WriteFlags::ReadWrite))
            .unwrap();
        map.write(0x3000, &[7]);
        let id = map
            .add(0x3000, 0x1000, 1, RegionKind::Mmio(Arc::new(Regs)))
            .unwrap();
        let mut got = [0; 2];
        map.read(0x3012, &mut got);
        assert_eq!(got, [0x12, 0x12]);
        map.remove(id);
        map.read(0x3000, &mut got);
        assert_eq!(got, [7, 0]);
    }

    #[test]
    fn rom_ignores_writes_and_split_separates_them() {
        let map = PhysMap::new(Ram::new(1 << 20).unwrap());
        let rom = map.ram().alloc(0x1000).unwrap();
        let ram = map.ram().alloc(0x1000).unwrap();
        map.ram().write(rom.offset, &[1]);
        let id = map
            .add(0xf0000, 0x1000, 0, memory(rom, WriteFlags::ReadOnly))
            .unwrap();
        map.write(0xf0000, &[9]);
        let mut got = [0];
        map.read(0xf0000, &mut got);
        assert_eq!(got, [1]);
        map.replace(
            id,
            RegionKind::Split {
                read: rom,
                write: ram,
            },
        );
        map.write(0xf0000, &[9]);
        map.read(0xf0000, &mut got);
        assert_eq!(got, [1]);
        map.ram().read(ram.offset, &mut got);
        assert_eq!(got, [9]);
    }

    #[test]
    fn smram_is_seen_in_smm_only() {
        let ram = Ram::new(4 << 20).unwrap();
        let (low, smram) = (ram.alloc(1 << 20).unwrap(), ram.alloc(0x2_0000).unwrap());
        let map = PhysMap::new(ram);
        map.add(0, 1 << 20, 0, memory(low, WriteFlags::ReadWrite))
            .unwrap();
        map.set_smram(Some((0xa_0000, smram)));
        map.ram().write(smram.offset + 4, &[7]);
        let mut b = [0];
        map.read(0xa_0004, &mut b);
        assert_eq!(b, [0]);
        map.read_smm(0xa_0004, &mut b);
        assert_eq!(b, [7]);
        assert!(map.in_smram(0xb_ffff) && !map.in_smram(0xc_0000));
        map.set_smram(None);
        map.read_smm(0xa_0004, &mut b);
        assert_eq!(b, [0]);
    }

    #[test]
    fn a20_folds_addresses() {
        let map = PhysMap::new(Ram::new(2 << 20).unwrap());
        let block = map.ram().alloc(2 << 20).unwrap();
        map.add(0, 2 << 20, 0, memory(block, WriteFlags::ReadWrite))
            .unwrap();
        map.write(0, &[5]);
        let mut got = [0];
        map.read(1 << 20, &mut got);
        assert_eq!(got, [0]);
        map.set_a20(false);
        map.read(1 << 20, &mut got);
        assert_eq!(got, [5]);
    }

    #[test]
    fn writes_to_code_pages_are_reported() {
        #[derive(Default)]
        struct Count(AtomicUsize);
        impl Listener for Count {
            fn mapping_changed(&self) {}
            fn code_written(&self, _: u64, _: u64, users: u32) {
                assert_eq!(users, 1 << 3);
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let map = PhysMap::new(Ram::new(1 << 20).unwrap());
        let block = map.ram().alloc(0x2000).unwrap();
        map.add(0, 0x2000, 0, memory(block, WriteFlags::ReadWrite))
            .unwrap();
        let count = Arc::new(Count::default());
        map.subscribe(count.clone());
        map.ram()
            .flags(0x1000)
            .fetch_or(crate::PageFlags::code(3), Ordering::Relaxed);
        map.write(0xfff, &[1]);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        map.write(0xfff, &[1, 2]);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
