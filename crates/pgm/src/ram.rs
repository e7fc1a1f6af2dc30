//! The memfd behind all directly accessible guest memory.
#![allow(unsafe_code)] // one mapping, and copies into and out of it

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags};

use crate::{Error, LARGE_PAGE};

/// Bytes in a guest page.
pub const PAGE_SIZE: u64 = 4096;

/// Bits kept for each page of [`Ram`].
pub struct PageFlags;

impl PageFlags {
    /// Written since the bit was last cleared.
    pub const DIRTY: u64 = 1;
    /// Some software engine may write to the page without being seen: it was given the page's host
    /// address while no bit of [`PageFlags::CODE`] was set.
    pub const WRITERS: u64 = 2;
    /// Software engines that hold translations of code on this page, one bit for each vCPU: writes
    /// must be reported to them.
    pub const CODE: u64 = 0xffff_ffff << 32;

    /// The bit of [`PageFlags::CODE`] for vCPU `cpu`.
    pub const fn code(cpu: usize) -> u64 {
        1 << (32 + (cpu & 31))
    }
}

/// A piece of [`Ram`]: its place and length in bytes, both multiples of [`PAGE_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamBlock {
    /// RAM offset of the first byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// One memfd, mapped once, from which RAM, video RAM and ROM images are allocated.
///
/// Guest memory is shared with the guest: any byte may change at any time. Accessors therefore copy
/// in and out and never hand out references.
pub struct Ram {
    fd: OwnedFd,
    base: *mut u8,
    size: u64,
    used: AtomicU64,
    flags: Box<[AtomicU64]>,
}

// SAFETY: `base` is a shared mapping that lives as long as the value; all access to it is by raw
// copies that tolerate concurrent changes, and no reference into it is ever made.
unsafe impl Send for Ram {}
// SAFETY: see `Send`.
unsafe impl Sync for Ram {}

impl Ram {
    /// Reserves a pool of `size` bytes (rounded up to pages). The host allocates pages when they
    /// are first touched.
    ///
    /// # Errors
    /// [`Error::Allocate`] when the host has no memory, address space or descriptor for it.
    pub fn new(size: u64) -> Result<Arc<Self>, Error> {
        let size = size.max(PAGE_SIZE).next_multiple_of(PAGE_SIZE);
        let fail = |e: rustix::io::Errno| Error::Allocate {
            size,
            source: e.into(),
        };
        let fd = rustix::fs::memfd_create("oxbox-guest-ram", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(fail)?;
        rustix::fs::ftruncate(&fd, size).map_err(fail)?;
        let len = usize::try_from(size).map_err(|_| fail(rustix::io::Errno::NOMEM))?;
        // Reserved with room to begin where a large page does.
        let room = len + LARGE_PAGE as usize;
        // SAFETY: a fresh mapping at an address the kernel picks.
        let reserved = unsafe {
            let none = MapFlags::PRIVATE | MapFlags::NORESERVE;
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, ProtFlags::empty(), none)
        }
        .map_err(fail)?
        .cast::<u8>();
        let before = reserved.align_offset(LARGE_PAGE as usize);
        // SAFETY: `before` is less than a large page, so `before + len` bytes lie in what was just
        // reserved; what is left at both ends is ours alone and given back.
        let base = unsafe {
            let base = rustix::mm::mmap(
                reserved.add(before).cast(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED,
                &fd,
                0,
            );
            if before > 0 {
                let _ = rustix::mm::munmap(reserved.cast(), before);
            }
            let after = room - before - len;
            if after > 0 {
                let _ = rustix::mm::munmap(reserved.add(before + len).cast(), after);
            }
            base
        }
        .map_err(fail)?;
        let flags = (0..size / PAGE_SIZE).map(|_| AtomicU64::new(0)).collect();
        Ok(Arc::new(Self {
            fd,
            base: base.cast(),
            size,
            used: AtomicU64::new(0),
            flags,
        }))
    }

    /// Takes `size` bytes (rounded up to pages, zero filled) out of the pool.
    ///
    /// # Errors
    /// [`Error::PoolFull`] when they do not fit.
    pub fn alloc(&self, size: u64) -> Result<RamBlock, Error> {
        let size = size.max(PAGE_SIZE).next_multiple_of(PAGE_SIZE);
        let take = |used: u64| used.checked_add(size).filter(|end| *end <= self.size);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .map(|offset| RamBlock { offset, size })
            .map_err(|used| Error::PoolFull {
                asked: size,
                left: self.size - used,
            })
    }

    /// Bytes taken out of the pool so far.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes in the pool.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The memfd, for engines that map it elsewhere (KVM slots need only the pointer).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Host address of the pool's first byte. Valid for [`Ram::size`] bytes while `self` lives;
    /// to be used by engines only, which must stay inside a block they looked up.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Flag bits of the page that holds RAM offset `offset`; see [`PageFlags`].
    pub fn flags(&self, offset: u64) -> &AtomicU64 {
        let page = (offset / PAGE_SIZE) as usize;
        &self.flags[page.min(self.flags.len() - 1)]
    }

    /// Copies guest memory out. Bytes past the end of the pool read as 0xFF.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let n = self.clamp(offset, data.len());
        // SAFETY: `clamp` keeps the source inside the mapping; the destination is a unique slice
        // outside of it.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base.add(offset as usize), data.as_mut_ptr(), n)
        };
        data[n..].fill(0xff);
    }

    /// The naturally aligned unit of `size` (4 or 8) bytes at `offset`, read at once. `None` when it
    /// is not that, or outside of the pool.
    pub fn load(&self, offset: u64, size: usize) -> Option<u64> {
        if !matches!(size, 4 | 8)
            || !offset.is_multiple_of(size as u64)
            || self.clamp(offset, size) < size
        {
            return None;
        }
        // SAFETY: inside the mapping (checked above), aligned (the mapping starts on a page), and
        // never referenced other than atomically or by raw copies.
        Some(unsafe {
            let at = self.base.add(offset as usize);
            if size == 4 {
                AtomicU32::from_ptr(at.cast())
                    .load(Ordering::Relaxed)
                    .into()
            } else {
                AtomicU64::from_ptr(at.cast()).load(Ordering::Relaxed)
            }
        })
    }

    /// Copies into guest memory and marks the pages dirty. Bytes past the end of the pool are
    /// dropped. Does not report writes to code pages: [`crate::PhysMap::write_ram`] does.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let n = self.clamp(offset, data.len());
        if n == 0 {
            return;
        }
        // SAFETY: `clamp` keeps the destination inside the mapping; the source is a slice outside
        // of it.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.base.add(offset as usize), n) };
        for page in offset / PAGE_SIZE..=(offset + n as u64 - 1) / PAGE_SIZE {
            self.flags[page as usize].fetch_or(PageFlags::DIRTY, Ordering::Relaxed);
        }
    }

    /// Replaces the naturally aligned unit of `size` (4 or 8) bytes at `offset` by `new` if it is
    /// `old`, atomically towards the guest's processors. False when it was something else.
    /// Units outside of the pool, unaligned, or of another size count as replaced.
    pub fn compare_exchange(&self, offset: u64, size: usize, old: u64, new: u64) -> bool {
        if !matches!(size, 4 | 8)
            || !offset.is_multiple_of(size as u64)
            || self.clamp(offset, size) < size
        {
            return true;
        }
        // SAFETY: inside the mapping (checked above), aligned (the mapping starts on a page), and
        // never referenced other than atomically or by raw copies.
        let done = unsafe {
            let at = self.base.add(offset as usize);
            if size == 4 {
                AtomicU32::from_ptr(at.cast())
                    .compare_exchange(old as u32, new as u32, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
            } else {
                AtomicU64::from_ptr(at.cast())
                    .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
            }
        };
        if done {
            self.flags(offset)
                .fetch_or(PageFlags::DIRTY, Ordering::Relaxed);
        }
        done
    }

    fn clamp(&self, offset: u64, len: usize) -> usize {
        if offset >= self.size {
            0
        } else {
            (self.size - offset).min(len as u64) as usize
        }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no pointer into it outlives `self` (see `base`).
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.size as usize) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_the_pool_ends() {
        let ram = Ram::new(3 * PAGE_SIZE).unwrap();
        let a = ram.alloc(1).unwrap();
        let b = ram.alloc(2 * PAGE_SIZE).unwrap();
        assert_eq!((a.offset, a.size, b.offset), (0, PAGE_SIZE, PAGE_SIZE));
        assert!(matches!(ram.alloc(1), Err(Error::PoolFull { left: 0, .. })));
    }

    #[test]
    fn compare_exchange_replaces_only_what_it_expects() {
        let ram = Ram::new(PAGE_SIZE).unwrap();
        ram.write(8, &[1, 0, 0, 0, 2, 0, 0, 0]);
        assert!(!ram.compare_exchange(8, 8, 1, 9));
        assert!(ram.compare_exchange(12, 4, 2, 3));
        assert!(ram.compare_exchange(8, 8, 3 << 32 | 1, 7));
        let mut got = [0; 8];
        ram.read(8, &mut got);
        assert_eq!(u64::from_le_bytes(got), 7);
    }

    #[test]
    fn access_past_the_end_is_harmless() {
        let ram = Ram::new(PAGE_SIZE).unwrap();
        ram.write(PAGE_SIZE - 2, &[1, 2, 3, 4]);
        let mut got = [0; 4];
        ram.read(PAGE_SIZE - 2, &mut got);
        assert_eq!(got, [1, 2, 0xff, 0xff]);
        ram.write(u64::MAX, &[1]);
    }
}
