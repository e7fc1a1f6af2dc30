//! Host signals inside translated code become guest exceptions.
#![allow(unsafe_code)] // signal handlers

use std::arch::global_asm;
use std::cell::Cell;
use std::mem::offset_of;
use std::sync::{Once, OnceLock};

use crate::ctx::{Call, Ctx, HostFault, gs};
use crate::host;

thread_local! {
    /// Execution range of the code cache this thread runs, and its context.
    static CURRENT: Cell<(u64, u64, *mut Ctx)> = const { Cell::new((0, 0, std::ptr::null_mut())) };
    static READY: Cell<bool> = const { Cell::new(false) };
}

const SIGNALS: [i32; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
];
/// The handler's stack is used even if the interrupted stack pointer lies in it (sigaltstack(2)).
const SS_AUTODISARM: i32 = 1 << 31;
/// What was installed before, for signals that are not ours.
static OLD: [OnceLock<libc::sigaction>; 5] = [const { OnceLock::new() }; 5];

/// Says which code cache this thread executes from now on.
pub fn set_current(range: std::ops::Range<u64>, ctx: *mut Ctx) {
    CURRENT.with(|c| c.set((range.start, range.end, ctx)));
}

/// Prepares the process and this thread: handlers, an alternate stack (translated code's stack
/// pointer is the guest's), and no other signals on this thread.
pub fn prepare_thread() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(install);
    if READY.with(|r| r.replace(true)) {
        return;
    }
    const STACK: usize = 256 << 10;
    // SAFETY: the stack is leaked: it stays valid for the thread's life. The mask blocks signals
    // whose handlers could run on the guest's stack pointer.
    unsafe {
        let stack = Box::leak(vec![0u8; STACK].into_boxed_slice());
        let ss = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            // The guest may point its stack anywhere, this one included.
            ss_flags: SS_AUTODISARM,
            ss_size: STACK,
        };
        libc::sigaltstack(&ss, std::ptr::null_mut());
        let mut set = std::mem::zeroed();
        libc::sigfillset(&mut set);
        for s in SIGNALS {
            libc::sigdelset(&mut set, s);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

fn install() {
    for (i, signal) in SIGNALS.into_iter().enumerate() {
        // SAFETY: installs a handler that is async-signal-safe: it reads a constant-initialised
        // thread local and edits the saved context.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let entry: *const () = match host::has_fsgsbase() {
                true => rem_signal as *const (),
                false => handler as *const (),
            };
            action.sa_sigaction = entry as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            let mut old = std::mem::zeroed();
            if libc::sigaction(signal, &action, &mut old) == 0 {
                let _ = OLD[i].set(old);
            }
        }
    }
}

unsafe extern "C" {
    fn rem_signal();
}

// Code that uses the window runs with another FS base than Rust's thread locals need. A GS base
// other than 0 is a context's.
global_asm!(
    ".global rem_signal",
    "rem_signal:",
    "rdgsbase rax",
    "test rax, rax",
    "jz {handler}",
    "cmp dword ptr [rax + {window}], 0",
    "je {handler}",
    "mov rax, [rax + {host_fs}]",
    "wrfsbase rax",
    "jmp {handler}",
    handler = sym handler,
    window = const gs(offset_of!(Ctx, window)),
    host_fs = const gs(offset_of!(Ctx, host_fs)),
);

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let (start, end, ctx) = CURRENT.with(Cell::get);
    // SAFETY: the kernel passes a valid ucontext; `ctx` belongs to the engine that runs on this
    // thread, whose code the instruction pointer is in.
    unsafe {
        let uc = &mut *context.cast::<libc::ucontext_t>();
        let regs = &mut uc.uc_mcontext.gregs;
        let rip = regs[libc::REG_RIP as usize] as u64;
        if (start..end).contains(&rip) {
            (*ctx).fault = HostFault {
                trap: regs[libc::REG_TRAPNO as usize] as u64,
                rip,
                address: regs[libc::REG_CR2 as usize] as u64,
                code: regs[libc::REG_ERR as usize] as u64,
            };
            regs[libc::REG_RIP as usize] = (*ctx).thunks[Call::Fault as usize] as i64;
            return;
        }
        // Not ours: what was installed before takes it; by default the process ends.
        let i = SIGNALS.iter().position(|s| *s == signal).unwrap_or(0);
        let Some(old) = OLD[i].get() else {
            libc::signal(signal, libc::SIG_DFL);
            return;
        };
        if old.sa_sigaction == libc::SIG_DFL || old.sa_sigaction == libc::SIG_IGN {
            libc::signal(signal, libc::SIG_DFL);
            return;
        }
        let f: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
            std::mem::transmute(old.sa_sigaction);
        f(signal, info, context);
    }
}
