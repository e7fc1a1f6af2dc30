//! Large host pages below guest memory.
//!
//! A shared mapping gets large pages only where the host's administrator allows it
//! (`shmem_enabled`), but the kernel makes them on request (MADV_COLLAPSE, Linux 6.1): it moves
//! the small pages of 2 MiB into a large one. So a pool starts with small pages, and a caretaker
//! asks for those pieces that the guest uses.
#![allow(unsafe_code)] // advice about, and a look at, the pool's own mapping

use std::io;

use crate::{PAGE_SIZE, Ram};

/// Bytes of a large page.
pub const LARGE_PAGE: u64 = 2 << 20;

/// What came of [`Ram::make_large`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Large {
    /// The piece is one large page now.
    Yes,
    /// The guest uses too little of it.
    NotYet,
    /// The host has no room just now, or the pool ends before the piece does.
    No,
}

/// Share of a piece that must be in use already: the rest of it is allocated with it.
const IN_USE: usize = 2;

impl Ram {
    /// Says that large pages are wanted, for hosts that give them by themselves.
    ///
    /// # Errors
    /// When the host has none for such memory.
    pub fn want_large(&self) -> io::Result<()> {
        self.advise(0, self.size(), libc::MADV_HUGEPAGE)
    }

    /// Turns the [`LARGE_PAGE`] bytes around RAM offset `offset` into one large page if half of
    /// them is in use.
    ///
    /// # Errors
    /// When the host does not do that at all.
    pub fn make_large(&self, offset: u64) -> io::Result<Large> {
        let start = offset & !(LARGE_PAGE - 1);
        if start + LARGE_PAGE > self.size() {
            return Ok(Large::No);
        }
        let mut present = [0u8; (LARGE_PAGE / PAGE_SIZE) as usize];
        // SAFETY: the range lies in the pool's mapping (checked above), and `present` has a byte
        // for each of its pages.
        let r = unsafe {
            libc::mincore(
                self.base().add(start as usize).cast(),
                LARGE_PAGE as usize,
                present.as_mut_ptr(),
            )
        };
        if r != 0 {
            return Err(io::Error::last_os_error());
        }
        let used = present.iter().filter(|p| **p & 1 != 0).count();
        if used < present.len() / IN_USE {
            return Ok(Large::NotYet);
        }
        match self.advise(start, LARGE_PAGE, libc::MADV_COLLAPSE) {
            Ok(()) => Ok(Large::Yes),
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EAGAIN | libc::ENOMEM | libc::EBUSY)
                ) =>
            {
                Ok(Large::No)
            }
            Err(e) => Err(e),
        }
    }

    fn advise(&self, start: u64, len: u64, advice: i32) -> io::Result<()> {
        // SAFETY: the range lies in the pool's mapping, and neither advice changes what is in it.
        let r =
            unsafe { libc::madvise(self.base().add(start as usize).cast(), len as usize, advice) };
        if r == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_becomes_large_once_it_is_used_and_keeps_its_bytes() {
        let ram = Ram::new(2 * LARGE_PAGE + PAGE_SIZE).unwrap();
        if ram.want_large().is_err() {
            return; // The host has no such thing.
        }
        assert_eq!(ram.make_large(LARGE_PAGE).unwrap(), Large::NotYet);
        assert_eq!(ram.make_large(2 * LARGE_PAGE).unwrap(), Large::No);
        for page in 0..300 {
            ram.write(LARGE_PAGE + page * PAGE_SIZE, &[page as u8, 1]);
        }
        // Whether there is a large page is the host's affair; what it holds is not.
        let _ = ram.make_large(LARGE_PAGE + 5);
        for page in 0..300 {
            let mut got = [0; 3];
            ram.read(LARGE_PAGE + page * PAGE_SIZE, &mut got);
            assert_eq!(got, [page as u8, 1, 0]);
        }
    }
}
