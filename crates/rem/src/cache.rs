//! The code cache: memory to write and to execute.
#![allow(unsafe_code)] // two mappings, and writes into them

use rustix::mm::{MapFlags, ProtFlags};

use crate::Error;

/// A bump-allocated arena for translations (part 0), the last quarter of it for copies of them
/// (part 1). Offsets name places in it.
pub struct Cache {
    write: *mut u8,
    exec: *mut u8,
    size: usize,
    /// Where each part ends.
    used: [usize; 2],
}

// SAFETY: the mappings belong to the value; a vCPU's thread is its only user.
unsafe impl Send for Cache {}

/// What a huge page of the host has.
const HUGE: usize = 2 << 20;

impl Cache {
    /// Maps an arena of `size` bytes (a multiple of the page size).
    ///
    /// Memory to write and to execute at the same address can have huge pages, with which code runs
    /// a good deal faster. Hosts that do not allow such memory get it mapped twice.
    pub fn new(size: usize) -> Result<Self, Error> {
        let host = |e: rustix::io::Errno| Error::CodeCache(e.into());
        Self::once(size)
            .or_else(|_| Self::twice(size))
            .map_err(host)
    }

    fn once(size: usize) -> rustix::io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping of our own at an address the kernel picks.
        let map: *mut u8 =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), size + HUGE, prot, flags) }?
                .cast();
        let before = map.align_offset(HUGE);
        // SAFETY: what lies before and behind `size` bytes at a multiple of `HUGE`: parts of the
        // fresh mapping that nothing uses. Advice changes no contents.
        let start = unsafe {
            let start = map.add(before);
            if before > 0 {
                rustix::mm::munmap(map.cast(), before)?;
            }
            rustix::mm::munmap(start.add(size).cast(), HUGE - before)?;
            // Without huge pages it is only slower.
            let _ = rustix::mm::madvise(start.cast(), size, rustix::mm::Advice::LinuxHugepage);
            start
        };
        Ok(Self {
            write: start,
            exec: start,
            size,
            used: Self::starts(size),
        })
    }

    fn twice(size: usize) -> rustix::io::Result<Self> {
        let fd = rustix::fs::memfd_create("oxbox-code", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, size as u64)?;
        let map = |prot| {
            // SAFETY: a fresh shared mapping of our own descriptor at an address the kernel picks.
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), size, prot, MapFlags::SHARED, &fd, 0) }
        };
        let write: *mut u8 = map(ProtFlags::READ | ProtFlags::WRITE)?.cast();
        let exec = match map(ProtFlags::READ | ProtFlags::EXEC) {
            Ok(p) => p.cast(),
            Err(e) => {
                // SAFETY: unmaps what was mapped above; nothing points into it.
                let _ = unsafe { rustix::mm::munmap(write.cast(), size) };
                return Err(e);
            }
        };
        Ok(Self {
            write,
            exec,
            size,
            used: Self::starts(size),
        })
    }

    fn starts(size: usize) -> [usize; 2] {
        [0, (size / 4 * 3) & !0xfff]
    }

    fn ends(&self) -> [usize; 2] {
        [Self::starts(self.size)[1], self.size]
    }

    /// The part that offset `at` is in.
    pub fn part(&self, at: u32) -> usize {
        usize::from(at as usize >= Self::starts(self.size)[1])
    }

    /// Whether `len` bytes at `at` hold code.
    fn has(&self, at: u32, len: usize) -> bool {
        let part = self.part(at);
        let at = at as usize;
        at + len <= self.used[part]
    }

    /// Bytes left in a part.
    pub fn left(&self, part: usize) -> usize {
        self.ends()[part] - self.used[part]
    }

    /// Bytes used.
    pub fn used(&self) -> usize {
        let starts = Self::starts(self.size);
        (0..2).map(|part| self.used[part] - starts[part]).sum()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.used = Self::starts(self.size);
    }

    /// Forgets all copies.
    pub fn clear_copies(&mut self) {
        self.used[1] = Self::starts(self.size)[1];
    }

    /// Gives the memory of an arena that was just cleared back to the host.
    pub fn give_back(&mut self) {
        debug_assert_eq!(self.used(), 0);
        let advice = match self.write == self.exec {
            true => rustix::mm::Advice::LinuxDontNeed,
            false => rustix::mm::Advice::LinuxRemove,
        };
        // SAFETY: the whole writable mapping, of which nothing is in use; it reads as zeros after.
        // Without it the memory is merely kept.
        let _ = unsafe { rustix::mm::madvise(self.write.cast(), self.size, advice) };
    }

    /// Appends code at a multiple of 16 and returns its offset; `None` when it does not fit.
    pub fn push(&mut self, code: &[u8]) -> Option<u32> {
        self.push_to(0, code)
    }

    /// The same in either part.
    pub fn push_to(&mut self, part: usize, code: &[u8]) -> Option<u32> {
        let at = self.take(part, code.len())?;
        // SAFETY: `at .. at + len` lies inside the writable mapping.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.write.add(at), code.len()) };
        Some(at as u32)
    }

    /// Appends a copy of the `len` bytes of code at `from` to the copies; see [`Cache::push`].
    pub fn push_copy(&mut self, from: u32, len: u32) -> Option<u32> {
        if !self.has(from, len as usize) {
            return None;
        }
        let (from, len) = (from as usize, len as usize);
        let at = self.take(1, len)?;
        // SAFETY: both ranges lie inside the writable mapping, the second one where nothing was.
        unsafe { std::ptr::copy_nonoverlapping(self.write.add(from), self.write.add(at), len) };
        Some(at as u32)
    }

    fn take(&mut self, part: usize, len: usize) -> Option<usize> {
        let at = self.used[part].next_multiple_of(16);
        if at.checked_add(len)? > self.ends()[part] {
            return None;
        }
        self.used[part] = at + len;
        Some(at)
    }

    /// The `len` bytes of code at `at`, to be changed before anything leads to them.
    pub fn code(&mut self, at: u32, len: u32) -> &mut [u8] {
        assert!(self.has(at, len as usize), "code at {at:#x}");
        let (at, len) = (at as usize, len as usize);
        // SAFETY: initialised bytes inside the writable mapping, which only `self` reaches; Rust
        // code has no references into the executable one.
        unsafe { std::slice::from_raw_parts_mut(self.write.add(at), len) }
    }

    /// A copy of code already there.
    pub fn copy(&self, from: u32, to: u32) -> Vec<u8> {
        assert!(
            from <= to && self.has(from, (to - from) as usize),
            "code range {from:#x}..{to:#x}"
        );
        // SAFETY: the range was checked and holds initialised bytes.
        unsafe {
            std::slice::from_raw_parts(self.write.add(from as usize), (to - from) as usize).to_vec()
        }
    }

    /// Points the 32-bit displacement at `at` (the last four bytes of a jump) to `target`.
    pub fn patch(&mut self, at: u32, target: u32) {
        assert!(self.has(at, 4), "patch at {at:#x}");
        let rel = (i64::from(target) - i64::from(at) - 4) as i32;
        // SAFETY: inside the mapping; the one thread that executes this cache is the caller, so no
        // one executes the bytes while they change.
        unsafe {
            self.write
                .add(at as usize)
                .cast::<i32>()
                .write_unaligned(rel)
        };
    }

    /// Address at which the code at `offset` executes.
    pub fn address(&self, offset: u32) -> u64 {
        self.exec as u64 + u64::from(offset)
    }

    /// The offset that executes at `address`, if it is in the arena.
    pub fn offset(&self, address: u64) -> Option<u32> {
        let at = address.checked_sub(self.exec as u64)?;
        let at = u32::try_from(at).ok()?;
        ((at as usize) < self.size && self.has(at, 1)).then_some(at)
    }

    /// Address range in which code executes.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.exec as u64..self.exec as u64 + self.size as u64
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let twice = (self.write != self.exec).then_some(self.exec);
        for map in [self.write].into_iter().chain(twice) {
            // SAFETY: unmaps what `new` mapped; translations are not executing (the owner drops).
            let _ = unsafe { rustix::mm::munmap(map.cast(), self.size) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn what_is_written_is_what_executes() {
        for make in [Cache::once, Cache::twice] {
            let mut cache = make(1 << 21).unwrap();
            // mov eax, 7; ret
            let at = cache.push(&[0xb8, 7, 0, 0, 0, 0xc3]).unwrap();
            assert_eq!(cache.offset(cache.address(at)), Some(at));
            // SAFETY: the function was just written, and touches nothing but EAX.
            let f: extern "C" fn() -> u32 = unsafe { std::mem::transmute(cache.address(at)) };
            assert_eq!(f(), 7);
            assert!(cache.push(&[0xcc; 1 << 21]).is_none());
            cache.clear();
            cache.give_back();
            assert_eq!(cache.code(at, 0), []);
            cache.push(&[0x90]).unwrap();
            assert_eq!(cache.copy(0, 1), [0x90]);
        }
    }
}
