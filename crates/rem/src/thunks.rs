//! The way into and out of translated code, in assembly.
#![allow(unsafe_code)] // assembly that switches stacks and register contents

use std::arch::global_asm;
use std::mem::offset_of;

use cpu::{State, Upper};

use crate::ctx::{Call, Ctx, gpr, gs};

#[allow(improper_ctypes)] // the assembly uses fields of `Ctx` by offset only
unsafe extern "C" {
    /// Runs translated code at `host` until a call returns [`exit_address`].
    fn rem_enter(ctx: *mut Ctx, host: u64);
    fn rem_exit();
    fn rem_thunk_mem();
    fn rem_thunk_seg();
    fn rem_thunk_store();
    fn rem_thunk_exec();
    fn rem_thunk_link();
    fn rem_thunk_jump();
    fn rem_thunk_poll();
    fn rem_thunk_fault();
}

/// The address a call returns to leave translated code.
pub fn exit_address() -> u64 {
    rem_exit as *const () as u64
}

/// The thunk's address for `call`.
pub fn address(call: Call) -> u64 {
    let f: unsafe extern "C" fn() = match call {
        Call::Mem => rem_thunk_mem,
        Call::Seg => rem_thunk_seg,
        Call::Store => rem_thunk_store,
        Call::Exec => rem_thunk_exec,
        Call::Link => rem_thunk_link,
        Call::Jump => rem_thunk_jump,
        Call::Poll => rem_thunk_poll,
        Call::Fault => rem_thunk_fault,
    };
    f as *const () as u64
}

/// Runs translated code at `host` with the state in `ctx`.
///
/// # Safety
/// GS must point at `ctx`, which must be fully set up, and `host` must be an entry of a valid
/// translation in its cache.
pub unsafe fn enter(ctx: *mut Ctx, host: u64) {
    // SAFETY: the caller's promise; the assembly keeps the C ABI.
    unsafe { rem_enter(ctx, host) }
}

// Guest registers are saved to and loaded from `Ctx::state`. R10 and R11 are scratch: they travel
// in T0/T1. While code that uses the window runs, the FS base is the window's: Rust gets its own
// back first. Host flags travel in `hflags`; POPF is slow, so they come back through SAHF.
global_asm!(
    ".macro REM_THUNK name, index",
    ".global \\name",
    "\\name:",
    "mov gs:[{t0}], r10",
    "mov gs:[{t1}], r11",
    "mov r10d, \\index",
    "jmp rem_call",
    ".endm",
    "REM_THUNK rem_thunk_mem, 0",
    "REM_THUNK rem_thunk_seg, 1",
    "REM_THUNK rem_thunk_store, 2",
    "REM_THUNK rem_thunk_exec, 3",
    "REM_THUNK rem_thunk_link, 4",
    "REM_THUNK rem_thunk_jump, 5",
    "REM_THUNK rem_thunk_poll, 6",
    "REM_THUNK rem_thunk_fault, 7",
    "rem_call:",
    "mov gs:[{g} + 0], rax",
    "mov gs:[{g} + 8], rcx",
    "mov gs:[{g} + 16], rdx",
    "mov gs:[{g} + 24], rbx",
    "mov gs:[{g} + 32], rsp",
    "mov gs:[{g} + 40], rbp",
    "mov gs:[{g} + 48], rsi",
    "mov gs:[{g} + 56], rdi",
    "mov gs:[{g} + 64], r8",
    "mov gs:[{g} + 72], r9",
    "mov gs:[{g} + 96], r12",
    "mov gs:[{g} + 104], r13",
    "mov gs:[{g} + 112], r14",
    "mov gs:[{g} + 120], r15",
    "mov rsp, gs:[{host_rsp}]",
    "pushfq",
    "pop rax",
    "mov gs:[{hflags}], rax",
    // Translated code never sets it, and Rust relies on that.
    "cld",
    "cmp dword ptr gs:[{window}], 0",
    "je 2f",
    "mov rax, gs:[{host_fs}]",
    "wrfsbase rax",
    "2:",
    "mov rdi, gs:[{this}]",
    "cmp dword ptr gs:[{live}], 0",
    "jne rem_save_upper",
    "rem_upper_saved:",
    "cmp dword ptr gs:[{avx}], 0",
    "je 2f",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovdqu [rdi + {ymm} + 32 * \\n], ymm\\n",
    ".endr",
    "vzeroupper",
    "jmp 3f",
    "2:",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "movdqu [rdi + {ymm} + 32 * \\n], xmm\\n",
    ".endr",
    "3:",
    "mov esi, r10d",
    "call {helper}",
    "rem_return:",
    // RAX: where to go on.
    "mov gs:[{target}], rax",
    "cmp dword ptr gs:[{window}], 0",
    "je 2f",
    "mov rax, gs:[{window_fs}]",
    "wrfsbase rax",
    "2:",
    "mov rdi, gs:[{this}]",
    "cmp dword ptr gs:[{avx}], 0",
    "je 2f",
    // With zeros in all upper halves they are left as VZEROUPPER left them. Zeros that are loaded
    // count as values: each instruction of SSE would wait for what was in its register before.
    "vpxor xmm0, xmm0, xmm0",
    "vpxor xmm1, xmm1, xmm1",
    "cmp dword ptr gs:[{live}], 0",
    "je 4f",
    ".irp n, 0,2,4,6,8,10,12,14",
    "vpor ymm0, ymm0, [rdi + {upper} + 64 + 32 * \\n]",
    "vpor ymm1, ymm1, [rdi + {upper} + 96 + 32 * \\n]",
    ".endr",
    "vpor ymm0, ymm0, ymm1",
    "vextracti128 xmm1, ymm0, 1",
    "4:",
    ".irp n, 0,2,4,6,8,10,12,14",
    "vpor xmm0, xmm0, [rdi + {ymm} + 32 * \\n + 16]",
    "vpor xmm1, xmm1, [rdi + {ymm} + 32 * \\n + 48]",
    ".endr",
    "vpor xmm0, xmm0, xmm1",
    "vptest xmm0, xmm0",
    "vzeroupper",
    "jz 2f",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovdqu ymm\\n, [rdi + {ymm} + 32 * \\n]",
    ".endr",
    "cmp dword ptr gs:[{live}], 0",
    "je 3f",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vinserti64x4 zmm\\n, zmm\\n, [rdi + {upper} + 64 + 32 * \\n], 1",
    ".endr",
    "jmp 3f",
    "2:",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "movdqu xmm\\n, [rdi + {ymm} + 32 * \\n]",
    ".endr",
    "3:",
    "cmp dword ptr gs:[{live}], 0",
    "jne rem_load_upper",
    "rem_upper_loaded:",
    "mov rax, gs:[{hflags}]",
    "mov ecx, eax",
    "shr ecx, 11",
    "and ecx, 1",
    "mov ah, al",
    "mov al, cl",
    "add al, 0x7f",
    "sahf",
    "mov rax, gs:[{g} + 0]",
    "mov rcx, gs:[{g} + 8]",
    "mov rdx, gs:[{g} + 16]",
    "mov rbx, gs:[{g} + 24]",
    "mov rsp, gs:[{g} + 32]",
    "mov rbp, gs:[{g} + 40]",
    "mov rsi, gs:[{g} + 48]",
    "mov rdi, gs:[{g} + 56]",
    "mov r8, gs:[{g} + 64]",
    "mov r9, gs:[{g} + 72]",
    "mov r12, gs:[{g} + 96]",
    "mov r13, gs:[{g} + 104]",
    "mov r14, gs:[{g} + 112]",
    "mov r15, gs:[{g} + 120]",
    "mov r10, gs:[{t0}]",
    "mov r11, gs:[{t1}]",
    "jmp gs:[{target}]",
    // What AVX-512 adds, only while the guest uses it.
    "rem_save_upper:",
    ".irp n, 0,1,2,3,4,5,6,7",
    "kmovq [rdi + {upper} + 8 * \\n], k\\n",
    ".endr",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vextracti64x4 [rdi + {upper} + 64 + 32 * \\n], zmm\\n, 1",
    ".endr",
    ".irp n, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "vmovdqu64 [rdi + {upper} + 576 + 64 * (\\n - 16)], zmm\\n",
    ".endr",
    "jmp rem_upper_saved",
    "rem_load_upper:",
    ".irp n, 0,1,2,3,4,5,6,7",
    "kmovq k\\n, [rdi + {upper} + 8 * \\n]",
    ".endr",
    ".irp n, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "vmovdqu64 zmm\\n, [rdi + {upper} + 576 + 64 * (\\n - 16)]",
    ".endr",
    "jmp rem_upper_loaded",
    ".global rem_enter",
    "rem_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 8",
    "mov gs:[{host_rsp}], rsp",
    "mov rax, rsi",
    "jmp rem_return",
    ".global rem_exit",
    "rem_exit:",
    "cmp dword ptr gs:[{window}], 0",
    "je 2f",
    "mov rax, gs:[{host_fs}]",
    "wrfsbase rax",
    "2:",
    "mov rsp, gs:[{host_rsp}]",
    "cmp dword ptr gs:[{avx}], 0",
    "je 2f",
    "vzeroupper",
    "2:",
    "add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    t0 = const gs(offset_of!(Ctx, t0)),
    t1 = const gs(offset_of!(Ctx, t1)),
    g = const gpr(0),
    host_rsp = const gs(offset_of!(Ctx, host_rsp)),
    hflags = const gs(offset_of!(Ctx, hflags)),
    this = const gs(offset_of!(Ctx, this)),
    target = const gs(offset_of!(Ctx, target)),
    window = const gs(offset_of!(Ctx, window)),
    window_fs = const gs(offset_of!(Ctx, window_fs)),
    host_fs = const gs(offset_of!(Ctx, host_fs)),
    avx = const gs(offset_of!(Ctx, avx)),
    live = const gs(offset_of!(Ctx, state) + offset_of!(State, upper) + offset_of!(Upper, live)),
    upper = const offset_of!(Ctx, state) + offset_of!(State, upper),
    ymm = const offset_of!(Ctx, ymm),
    helper = sym crate::runtime::helper,
);
