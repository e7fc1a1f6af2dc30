# Error codes of page faults for each combination of rights and access (SDM vol. 3, 4.6 and 4.7).
.include "lib.inc"

.set WP, 0x10000
.set SMEP, 0x100000
.set SMAP, 0x200000
.set AC, 0x40000
.set NX, 1 << 63
# A bit above the physical addresses there are.
.set RESERVED, 1 << 51
.set NONE, 0xffff

# Entry, CR0.WP, CR4 bits, RFLAGS.AC, access, error code.
.set KREAD, 0
.set KWRITE, 1
.set KEXEC, 2
.set UREAD, 3
.set UWRITE, 4
.set UEXEC, 5
.macro ROW entry, cr0, cr4, flags, access, expected
    .quad \entry, \cr0, \cr4, \flags, \access, \expected
.endm

main:
    # The user's code: reads, writes, jumps; a breakpoint when nothing came of it.
    lea rsi, [rip + user]
    mov edi, 0x201000
    mov ecx, 48
    rep movsb
    # The page that is looked at: RET for the kernel, a breakpoint for the user.
    mov byte ptr [0x200000], 0xc3
    mov byte ptr [0x200010], 0xcc
    mov qword ptr [PT + 8], 0x201005
    lea rbx, [rip + rows]
    xor ebp, ebp
next:
    inc ebp
    mov rax, [rbx]
    or rax, 0x200000
    mov [PT], rax
    mov edi, WINDOW
    invlpg [rdi]
    invlpg [rdi + 0x1000]
    mov rax, cr0
    and eax, ~WP
    or rax, [rbx + 8]
    mov cr0, rax
    mov rax, cr4
    and eax, ~(SMEP | SMAP)
    or rax, [rbx + 16]
    mov cr4, rax
    mov qword ptr [rip + vector], 3
    mov qword ptr [rip + error], 0
    RESUME looked
    mov eax, [rbx + 32]
    cmp eax, UREAD
    jae from_user
    push [rbx + 24]
    popfq
    cmp eax, KWRITE
    je 1f
    ja 2f
    mov al, [rdi]
    jmp looked
1:  mov byte ptr [rdi + 0x20], 1
    jmp looked
2:  call rdi
    jmp looked
from_user:
    sub eax, UREAD
    shl eax, 4
    lea rcx, [rax + WINDOW + 0x1000]
    push USER_DATA
    push 0
    push 2
    push USER_CODE
    push rcx
    iretq
looked:
    push 2
    popfq
    mov rcx, [rbx + 40]
    cmp ecx, NONE
    je 3f
    cmp qword ptr [rip + vector], 14
    jne wrong
    cmp rcx, [rip + error]
    jne wrong
    mov rax, [rip + frame_cr2]
    and eax, ~0x3f
    cmp rax, WINDOW
    jne wrong
    jmp 4f
3:  cmp qword ptr [rip + vector], 3
    jne wrong
4:  add rbx, 48
    lea rax, [rip + rows_end]
    cmp rbx, rax
    jb next
    xor eax, eax
    hlt
wrong:
    mov eax, ebp
    hlt

.balign 16
user:
    mov al, [rdi]
    int3
    .balign 16
    mov byte ptr [rdi + 0x20], 1
    int3
    .balign 16
    lea rax, [rdi + 0x10]
    jmp rax

.balign 8
rows:
    # Not present: P clear; W, U and I/D tell the access.
    ROW 0, WP, 0, 0, KREAD, 0
    ROW 0, WP, 0, 0, KWRITE, 2
    ROW 0, WP, 0, 0, KEXEC, 0x10
    ROW 0, WP, 0, 0, UREAD, 4
    ROW 0, WP, 0, 0, UWRITE, 6
    ROW 0, WP, 0, 0, UEXEC, 0x14
    # Supervisor pages.
    ROW 3, WP, 0, 0, KREAD, NONE
    ROW 3, WP, 0, 0, KWRITE, NONE
    ROW 3, WP, 0, 0, KEXEC, NONE
    ROW 3, WP, 0, 0, UREAD, 5
    ROW 3, WP, 0, 0, UWRITE, 7
    ROW 3, WP, 0, 0, UEXEC, 0x15
    # Read-only ones, with and without WP.
    ROW 1, WP, 0, 0, KREAD, NONE
    ROW 1, WP, 0, 0, KWRITE, 3
    ROW 1, 0, 0, 0, KWRITE, NONE
    ROW 5, WP, 0, 0, UREAD, NONE
    ROW 5, WP, 0, 0, UWRITE, 7
    ROW 5, 0, 0, 0, UWRITE, 7
    ROW 5, WP, 0, 0, KWRITE, 3
    ROW 5, 0, 0, 0, KWRITE, NONE
    # User pages.
    ROW 7, WP, 0, 0, KREAD, NONE
    ROW 7, WP, 0, 0, KWRITE, NONE
    ROW 7, WP, 0, 0, KEXEC, NONE
    ROW 7, WP, 0, 0, UREAD, NONE
    ROW 7, WP, 0, 0, UWRITE, NONE
    ROW 7, WP, 0, 0, UEXEC, NONE
    # No execution.
    ROW 3 | NX, WP, 0, 0, KREAD, NONE
    ROW 3 | NX, WP, 0, 0, KEXEC, 0x11
    ROW 7 | NX, WP, 0, 0, UREAD, NONE
    ROW 7 | NX, WP, 0, 0, UEXEC, 0x15
    ROW NX, WP, 0, 0, UEXEC, 0x14
    # SMEP keeps the kernel from executing what is the user's.
    ROW 7, WP, SMEP, 0, KEXEC, 0x11
    ROW 7, WP, SMEP, 0, KREAD, NONE
    ROW 7, WP, SMEP, 0, UEXEC, NONE
    ROW 3, WP, SMEP, 0, KEXEC, NONE
    # SMAP from touching it, unless AC is set; with WP clear as well.
    ROW 7, WP, SMAP, 0, KREAD, 1
    ROW 7, WP, SMAP, 0, KWRITE, 3
    ROW 7, 0, SMAP, 0, KWRITE, 3
    ROW 7, WP, SMAP, AC, KREAD, NONE
    ROW 7, WP, SMAP, AC, KWRITE, NONE
    ROW 5, WP, SMAP, AC, KWRITE, 3
    ROW 7, WP, SMAP, 0, KEXEC, NONE
    ROW 7, WP, SMAP, 0, UREAD, NONE
    ROW 3, WP, SMAP, 0, KREAD, NONE
    # Reserved bits: P and RSVD, whatever the rights.
    ROW 7 | RESERVED, WP, 0, 0, KREAD, 9
    ROW 7 | RESERVED, WP, 0, 0, KWRITE, 0xb
    ROW 7 | RESERVED, WP, 0, 0, KEXEC, 0x19
    ROW 7 | RESERVED, WP, 0, 0, UREAD, 0xd
    ROW 7 | RESERVED, WP, 0, 0, UWRITE, 0xf
    ROW 3 | RESERVED, WP, 0, 0, UEXEC, 0x1d
    ROW RESERVED, WP, 0, 0, UREAD, 4
rows_end:
