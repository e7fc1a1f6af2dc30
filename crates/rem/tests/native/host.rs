//! Runs code on the host's CPU, at privilege 3 with given registers, until it raises an exception.
//!
//! The kernel turns the exception into a signal whose frame has everything. The handler does not
//! return: it goes back to the caller's stack, so that a run costs one exception and no call.

use std::arch::global_asm;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::layout::{
    CODE, CODE_SIZE, DATA, DATA_SIZE, End, LOCAL, PAGES, Page, SPARE, Start, has_avx512,
    upper_parts,
};

unsafe extern "C" {
    /// Returns the signal's context.
    fn native_enter(start: *const Start) -> *mut libc::ucontext_t;
    fn native_signal();
    fn native_stop();
    fn native_limit(sel: u64) -> u64;
    static mut native_harness: Harness;
}

/// What the assembly below reads and writes.
#[repr(C)]
struct Harness {
    rsp: u64,
    fs: u64,
    active: u64,
    context: u64,
    /// DS, ES, FS, GS at the exception.
    sel: [u64; 4],
    base: [u64; 2],
    chain: u64,
    signal: u64,
}

global_asm!(
    ".local native_harness_space",
    ".comm native_harness_space, 128, 64",
    ".global native_harness",
    ".set native_harness, native_harness_space",
    ".global native_enter",
    "native_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rip + native_harness], rsp",
    "rdfsbase rax",
    "mov [rip + native_harness + 8], rax",
    "mov eax, 0xe7",
    "xor edx, edx",
    "xrstor64 [rdi + 256]",
    "mov rax, [rdi + 144]",
    "mov es, ax",
    "mov rax, [rdi + 168]",
    "mov ds, ax",
    "mov rax, [rdi + 176]",
    "mov fs, ax",
    "test eax, eax",
    "jnz 2f",
    "mov rax, [rdi + 192]",
    "wrfsbase rax",
    "2: mov rax, [rdi + 184]",
    "mov gs, ax",
    "test eax, eax",
    "jnz 2f",
    "mov rax, [rdi + 200]",
    "wrgsbase rax",
    // A return to a 16-bit stack leaves the upper part of RSP as it is here.
    "2: mov esp, 0x30001000",
    "push qword ptr [rdi + 160]",
    "push qword ptr [rdi + 32]",
    "push qword ptr [rdi + 128]",
    "push qword ptr [rdi + 152]",
    "push qword ptr [rdi + 136]",
    "mov rax, [rdi + 0]",
    "mov rcx, [rdi + 8]",
    "mov rdx, [rdi + 16]",
    "mov rbx, [rdi + 24]",
    "mov rbp, [rdi + 40]",
    "mov rsi, [rdi + 48]",
    "mov r8, [rdi + 64]",
    "mov r9, [rdi + 72]",
    "mov r10, [rdi + 80]",
    "mov r11, [rdi + 88]",
    "mov r12, [rdi + 96]",
    "mov r13, [rdi + 104]",
    "mov r14, [rdi + 112]",
    "mov r15, [rdi + 120]",
    "mov rdi, [rdi + 56]",
    "mov qword ptr [rip + native_harness + 16], 1",
    "iretq",
    // A signal of an exception.
    ".global native_signal",
    "native_signal:",
    // AC above all.
    "push 0x202",
    "popfq",
    "cmp qword ptr [rip + native_harness + 16], 0",
    "jne 3f",
    "jmp [rip + native_harness + 80]",
    // The watchdog's signal.
    ".global native_stop",
    "native_stop:",
    "push 0x202",
    "popfq",
    "cmp qword ptr [rip + native_harness + 16], 0",
    "jne 3f",
    "ret",
    "3: mov qword ptr [rip + native_harness + 16], 0",
    "mov [rip + native_harness + 88], rdi",
    "mov [rip + native_harness + 24], rdx",
    "mov eax, ds",
    "mov [rip + native_harness + 32], rax",
    "mov eax, es",
    "mov [rip + native_harness + 40], rax",
    "mov eax, fs",
    "mov [rip + native_harness + 48], rax",
    "mov eax, gs",
    "mov [rip + native_harness + 56], rax",
    "rdfsbase rax",
    "mov [rip + native_harness + 64], rax",
    "rdgsbase rax",
    "mov [rip + native_harness + 72], rax",
    "xor eax, eax",
    "mov ds, ax",
    "mov es, ax",
    "mov fs, ax",
    "mov gs, ax",
    "mov rax, [rip + native_harness + 8]",
    "wrfsbase rax",
    "mov rsp, [rip + native_harness]",
    // NT as well.
    "push 0x202",
    "popfq",
    "mov rax, rdx",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".global native_limit",
    "native_limit:",
    "xor eax, eax",
    "lsl rax, rdi",
    "ret",
);

/// The areas, as the harness writes them.
pub struct Host {
    code: *mut u8,
    data: *mut u8,
}

/// Counts runs, for the watchdog.
static RUNS: AtomicU64 = AtomicU64::new(0);
static THREAD: AtomicI32 = AtomicI32::new(0);

fn map(at: u64, size: usize, prot: i32, fd: i32, offset: usize) -> *mut u8 {
    let fixed = if at == 0 {
        0
    } else {
        libc::MAP_FIXED_NOREPLACE
    };
    // SAFETY: the fixed addresses are unused in a test process (its own mappings are far above).
    let p = unsafe {
        libc::mmap(
            at as *mut libc::c_void,
            size,
            prot,
            libc::MAP_SHARED | libc::MAP_POPULATE | fixed,
            fd,
            offset as libc::off_t,
        )
    };
    assert!(
        p != libc::MAP_FAILED && (at == 0 || p as u64 == at),
        "cannot map the test area"
    );
    p.cast()
}

/// Lets the watchdog's signal through again.
fn allow_watchdog() {
    // SAFETY: plain system calls on a set of our own.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR1);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
    }
}

/// The limit of the host's global descriptor 15, which is the number of the processor: the thread
/// stays on this one.
pub fn limit15() -> u32 {
    // SAFETY: plain system calls on a set of our own.
    unsafe {
        let mut here: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut here);
        libc::sched_setaffinity(0, size_of_val(&here), &raw const here);
    }
    // SAFETY: LSL touches nothing.
    unsafe { native_limit(0x7b) as u32 }
}

impl Host {
    /// Maps the areas and installs handlers in front of the engine's, which must be there already
    /// (on this thread).
    pub fn new() -> Self {
        // SAFETY: plain system calls.
        let fd = unsafe { libc::memfd_create(c"areas".as_ptr(), 0) };
        assert!(fd >= 0);
        // SAFETY: as above.
        assert_eq!(
            unsafe { libc::ftruncate(fd, (CODE_SIZE + DATA_SIZE + 4096) as libc::off_t) },
            0
        );
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let code = map(0, CODE_SIZE, rw, fd, 0);
        let data = map(0, DATA_SIZE, rw, fd, CODE_SIZE);
        map(CODE, CODE_SIZE, libc::PROT_READ | libc::PROT_EXEC, fd, 0);
        for (i, page) in PAGES.iter().enumerate() {
            let prot = match page {
                Page::None => continue,
                Page::Rw => rw,
                Page::Ro => libc::PROT_READ,
            };
            map(DATA + 4096 * i as u64, 4096, prot, fd, CODE_SIZE + 4096 * i);
        }
        for (i, l) in LOCAL.iter().enumerate() {
            let flags = u32::from(l.big)
                | u32::from(l.contents) << 1
                | u32::from(l.restricted) << 3
                | u32::from(l.pages) << 4
                | u32::from(l.absent) << 5;
            let entry = [i as u32, l.base, l.limit, flags];
            // SAFETY: the kernel reads one `user_desc`.
            let r = unsafe { libc::syscall(libc::SYS_modify_ldt, 0x11, entry.as_ptr(), 16) };
            assert_eq!(r, 0, "modify_ldt {i}: {}", std::io::Error::last_os_error());
        }
        map(SPARE, 4096, rw, fd, CODE_SIZE + DATA_SIZE);
        Self::handlers();
        Self { code, data }
    }

    fn handlers() {
        // The engine's alternate stack is taken away while a handler runs, until it returns, which
        // ours do not.
        const STACK: usize = 64 << 10;
        let stack = Box::leak(vec![0u8; STACK].into_boxed_slice());
        let stack = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: STACK,
        };
        // SAFETY: the stack is leaked, so it stays for the thread's life.
        assert_eq!(
            unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) },
            0
        );
        let signals = [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGTRAP,
            libc::SIGUSR1,
        ];
        for signal in signals {
            // SAFETY: the handlers are the assembly above.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let f = if signal == libc::SIGUSR1 {
                    native_stop
                } else {
                    native_signal
                };
                action.sa_sigaction = f as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                // The watchdog must not use the stack before the context there was read.
                libc::sigaddset(&mut action.sa_mask, libc::SIGUSR1);
                let mut old: libc::sigaction = std::mem::zeroed();
                assert_eq!(libc::sigaction(signal, &action, &mut old), 0);
                if signal == libc::SIGSEGV {
                    native_harness.chain = old.sa_sigaction as u64;
                }
                allow_watchdog();
                THREAD.store(libc::gettid(), Ordering::Relaxed);
            }
        }
        std::thread::spawn(|| {
            let (mut last, mut since) = (0, 0);
            loop {
                std::thread::sleep(std::time::Duration::from_millis(5));
                let now = RUNS.load(Ordering::Relaxed);
                since = if now == last { since + 1 } else { 0 };
                last = now;
                // Odd: a run is under way.
                if now % 2 == 1 && since >= 3 {
                    // SAFETY: the thread lives as long as the test.
                    unsafe {
                        libc::syscall(
                            libc::SYS_tgkill,
                            libc::getpid(),
                            THREAD.load(Ordering::Relaxed),
                            libc::SIGUSR1,
                        );
                    }
                }
            }
        });
    }

    /// Fills the code area with HLT, or with `bytes` at `at`.
    pub fn write_code(&mut self, at: usize, bytes: &[u8]) {
        let n = bytes.len().min(CODE_SIZE - at);
        // SAFETY: inside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.code.add(at), n) };
    }

    /// The data area.
    pub fn data(&mut self) -> &mut [u8] {
        // SAFETY: the mapping's size; borrowed from `self`.
        unsafe { std::slice::from_raw_parts_mut(self.data, DATA_SIZE) }
    }

    /// Runs from `start` to the first exception; `None` when none came in time.
    pub fn run(&mut self, start: &Start) -> Option<End> {
        RUNS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the code was generated to reach nothing but the areas, and everything else that
        // changes is put back by the handler.
        let (uc, h) = unsafe {
            let uc = native_enter(start);
            (&*uc, &*std::ptr::addr_of!(native_harness))
        };
        RUNS.fetch_add(1, Ordering::Relaxed);
        if h.signal == libc::SIGUSR1 as u64 {
            allow_watchdog();
            return None;
        }
        let g = |r: i32| uc.uc_mcontext.gregs[r as usize] as u64;
        use libc::*;
        let vector = g(REG_TRAPNO) as u8;
        let cs = g(REG_CSGSFS);
        let mut end = End {
            vector,
            error: g(REG_ERR),
            cr2: if vector == 14 { g(REG_CR2) } else { 0 },
            gpr: [
                REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8,
                REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
            ]
            .map(g),
            flags: g(REG_EFL),
            rip: g(REG_RIP),
            sel: [h.sel[1], cs, cs >> 48, h.sel[0], h.sel[2], h.sel[3]].map(|s| s as u16),
            base: h.base,
            fpu: [0; cpu::FPU_AREA],
            upper: vec![0; 1600],
        };
        // SAFETY: the kernel stored an XSAVE image of at least this size.
        unsafe {
            std::ptr::copy_nonoverlapping(
                uc.uc_mcontext.fpregs.cast(),
                end.fpu.as_mut_ptr(),
                cpu::FPU_AREA,
            );
        }
        if has_avx512() {
            let mut to = 0;
            for part in upper_parts() {
                let (from, len) = (part.start, part.len());
                // SAFETY: as above; the host's area has these components.
                unsafe {
                    let area: *const u8 = uc.uc_mcontext.fpregs.cast();
                    let target = end.upper[to..to + len].as_mut_ptr();
                    std::ptr::copy_nonoverlapping(area.add(from), target, len);
                }
                to += len;
            }
        }
        allow_watchdog();
        Some(end)
    }
}
