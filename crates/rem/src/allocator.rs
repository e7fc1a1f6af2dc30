//! What the engine asks of the C library's allocator: bookkeeping of translations is many small
//! pieces that are freed together, and their memory is to go back to the host then.
#![allow(unsafe_code)] // calls to the allocator

/// Free memory at the end of a thread's heap is kept up to this size, and larger pieces are
/// mapped each for itself, bytes. Left alone, glibc raises both to dozens of MiB by and by, after
/// which a heap that was full once is kept (mallopt(3), `M_TRIM_THRESHOLD`).
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 1 << 20;

/// Sets the allocator up. May be called again.
pub fn prepare() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets parameters of the allocator, at any time, from any thread. Refused, it only
    // keeps more.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
    }
}

/// Gives free memory back to the host.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it only returns free memory of the allocator.
    unsafe {
        libc::malloc_trim(0);
    }
}
