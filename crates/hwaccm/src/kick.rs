//! Making KVM_RUN return from another thread.
#![allow(unsafe_code)] // a signal without effect, sent to one thread

use std::sync::Once;

/// The signal that interrupts KVM_RUN. Its handler does nothing.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 3
}

/// Installs the handler, once per process.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    extern "C" fn nothing(_: libc::c_int) {}
    ONCE.call_once(|| {
        // SAFETY: an all-zero sigaction is valid; the handler touches nothing. No SA_RESTART, so
        // that KVM_RUN returns EINTR; SA_ONSTACK because other engines run translated code whose
        // stack pointer is the guest's.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(signal(), &action, std::ptr::null_mut());
        }
    });
}

/// The calling thread's id.
pub(crate) fn this_thread() -> libc::pid_t {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) as libc::pid_t }
}

/// Interrupts `thread` of this process, unless it is the caller.
pub(crate) fn interrupt(thread: libc::pid_t) {
    if thread != this_thread() {
        // SAFETY: a signal with an empty handler (installed before any thread id is handed out).
        unsafe {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal());
        }
    }
}
