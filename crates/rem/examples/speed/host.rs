//! Runs code on the host's CPU with given registers.

use std::arch::global_asm;

/// Where the guest's memory is: addresses as Linux gives its programs, free on the host.
pub const BASE: u64 = 0x7e00_0000_0000;
/// Where the data buffer is, in the guest and on the host.
pub const DATA: u64 = BASE + 0x1000_0000;
/// Bytes of the data buffer.
pub const DATA_SIZE: usize = 0x4000;
/// Where the code is.
pub const CODE: u64 = BASE + 0x2000_0000;
/// Bytes of the code buffer.
pub const CODE_SIZE: usize = 0x4000;
/// A page for the harness itself, host only.
const HARNESS: u64 = 0x3000_0000;

/// Registers before and after.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub struct Regs {
    /// In encoding order.
    pub gpr: [u64; 16],
    /// RFLAGS.
    pub flags: u64,
    pad: [u64; 7],
    /// FXSAVE image; its vector part is not used.
    pub fx: [u8; 512],
    /// Vector registers.
    pub ymm: [[u8; 32]; 16],
}

impl Default for Regs {
    fn default() -> Self {
        Self {
            gpr: [0; 16],
            flags: 2,
            pad: [0; 7],
            fx: [0; 512],
            ymm: [[0; 32]; 16],
        }
    }
}

unsafe extern "C" {
    fn native_enter(regs: *mut Regs);
    fn native_exit();
}

// The harness page: +0 regs pointer, +8 exit address, +16 host stack, +24.. temporaries.
global_asm!(
    ".global native_enter",
    "native_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [0x30000000], rdi",
    "mov [0x30000010], rsp",
    "fxrstor64 [rdi + 192]",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovdqu ymm\\n, [rdi + 704 + 32 * \\n]",
    ".endr",
    "push qword ptr [rdi + 128]",
    "popfq",
    "mov rax, [rdi + 0]",
    "mov rcx, [rdi + 8]",
    "mov rdx, [rdi + 16]",
    "mov rbx, [rdi + 24]",
    "mov rsp, [rdi + 32]",
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
    "jmp qword ptr [0x30000020]",
    ".global native_exit",
    "native_exit:",
    "mov [0x30000028], rdi",
    "mov rdi, [0x30000000]",
    "mov [rdi + 0], rax",
    "mov [rdi + 8], rcx",
    "mov [rdi + 16], rdx",
    "mov [rdi + 24], rbx",
    "mov [rdi + 32], rsp",
    "mov [rdi + 40], rbp",
    "mov [rdi + 48], rsi",
    "mov [rdi + 64], r8",
    "mov [rdi + 72], r9",
    "mov [rdi + 80], r10",
    "mov [rdi + 88], r11",
    "mov [rdi + 96], r12",
    "mov [rdi + 104], r13",
    "mov [rdi + 112], r14",
    "mov [rdi + 120], r15",
    "mov rax, [0x30000028]",
    "mov [rdi + 56], rax",
    "mov rsp, [0x30000010]",
    "pushfq",
    "pop rax",
    "mov [rdi + 128], rax",
    "cld",
    "fxsave64 [rdi + 192]",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovdqu [rdi + 704 + 32 * \\n], ymm\\n",
    ".endr",
    "vzeroupper",
    "fninit",
    "mov dword ptr [0x30000030], 0x1f80",
    "ldmxcsr [0x30000030]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

fn map(at: u64, size: usize) {
    // SAFETY: the fixed addresses are unused in a test process (its own mappings are far above).
    let p = unsafe {
        libc::mmap(
            at as *mut libc::c_void,
            size,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    assert_eq!(p as u64, at, "cannot map the test area");
}

/// Maps the areas, once per process.
pub fn prepare() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(areas);
}

fn areas() {
    map(DATA, DATA_SIZE);
    map(CODE, CODE_SIZE);
    map(HARNESS, 4096);
}

/// Runs `code` (which falls through at its end) over `data`; both are changed to the outcome.
pub fn run(code: &[u8], regs: &mut Regs, data: &mut [u8]) {
    let mut all = code.to_vec();
    all.extend_from_slice(&[0xff, 0x24, 0x25]); // jmp [HARNESS + 8]
    all.extend_from_slice(&(HARNESS as u32 + 8).to_le_bytes());
    // SAFETY: the areas are mapped; the code was generated to touch only its data and registers.
    unsafe {
        std::ptr::copy_nonoverlapping(all.as_ptr(), CODE as *mut u8, all.len());
        std::ptr::copy_nonoverlapping(data.as_ptr(), DATA as *mut u8, data.len());
        *((HARNESS + 8) as *mut u64) = native_exit as *const () as u64;
        *((HARNESS + 0x20) as *mut u64) = CODE;
        native_enter(regs);
        std::ptr::copy_nonoverlapping(DATA as *const u8, data.as_mut_ptr(), data.len());
    }
}
