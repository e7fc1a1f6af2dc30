# SYSCALL and SYSRET several times over, with what they depend on changed in between; STAC and CLAC;
# and the short system instructions that translated code has in line (SDM vol. 2).
.include "lib.inc"

.set EFER, 0xc0000080
.set STAR, 0xc0000081
.set LSTAR, 0xc0000082
.set SFMASK, 0xc0000084

.macro SETMSR number, low, high
    mov ecx, \number
    mov eax, \low
    mov edx, \high
    wrmsr
.endm

# To user code with flags r11; it comes back to `label` by SYSCALL.
.macro TO_USER
    mov rcx, WINDOW
    sysretq
.endm

# What user code at WINDOW does. It notes the flags it was given and the code segment.
user:
    setc r8b
    seto r9b
    setz r10b
    mov r12d, cs
    mov al, 0x7f
    add al, 1
    stc
    syscall
user_end:
.set SET, 0xa93        # OF, IF, SF, AF, CF and the fixed bit

# Checks what every SYSCALL leaves. r15 is the number of the round.
.macro ENTERED first, flags
    pushfq
    pop rbp
    mov r13d, cs
    mov r14d, ss
    cmp rbp, \flags
    CHECK \first
    cmp r11, SET
    CHECK \first + 1
    mov rax, WINDOW + (user_end - user)
    cmp rcx, rax
    CHECK \first + 2
    cmp r13d, KERNEL_CODE
    CHECK \first + 3
    cmp r14d, KERNEL_DATA
    CHECK \first + 4
    cmp r12d, USER_CODE
    CHECK \first + 5
.endm

main:
    mov qword ptr [PT], 0x200000 | 7
    mov edi, 0x200000
    lea rsi, [rip + user]
    mov ecx, user_end - user
    rep movsb
    mov ecx, EFER
    rdmsr
    or eax, 1
    wrmsr
    SETMSR STAR, 0, 0x00080008
    lea rax, [rip + entry]
    mov ecx, LSTAR
    mov edx, 0
    wrmsr
    SETMSR SFMASK, 0x257fd5, 0
    xor r15d, r15d
    mov r11d, 0xa03            # OF, IF, CF
    TO_USER

entry:
    ENTERED 1, 2
    cmp r8b, 1
    CHECK 7
    cmp r9b, 1
    CHECK 8
    cmp r10b, 0
    CHECK 9
    inc r15d
    cmp r15d, 5
    je 1f
    mov r11d, 0xa03
    TO_USER
1:  # Another handler.
    lea rax, [rip + entry2]
    mov ecx, LSTAR
    mov edx, 0
    wrmsr
    mov r11d, 0x242            # ZF, IF
    TO_USER

entry2:
    ENTERED 11, 2
    cmp r8b, 0
    CHECK 17
    cmp r9b, 0
    CHECK 18
    cmp r10b, 1
    CHECK 19
    inc r15d
    cmp r15d, 9
    je 1f
    mov r11d, 0x242
    TO_USER
1:  # Flags that are kept.
    SETMSR SFMASK, 0x200, 0
    lea rax, [rip + entry3]
    mov ecx, LSTAR
    mov edx, 0
    wrmsr
    mov r11d, 0x202
    TO_USER

entry3:
    ENTERED 21, 0x893
    inc r15d
    cmp r15d, 12
    je 1f
    mov r11d, 0x202
    TO_USER
1:  # A target that is not canonical, each time anew: #GP, here or there.
    cli
    mov ebx, 3
2:  RESUME 3f
    mov qword ptr [rip + vector], 0
    mov rcx, 0x800000000000
    mov r11d, 2
    sysretq
3:  cmp qword ptr [rip + vector], 13
    CHECK 31
    dec ebx
    jnz 2b

    # SMAP: user pages are open between STAC and CLAC.
    mov rax, cr4
    or eax, 0x200000
    mov cr4, rax
    mov ebx, 4
4:  stac
    mov rsi, [WINDOW]
    pushfq
    pop rbp
    clac
    bt ebp, 18
    setc al
    cmp al, 1
    CHECK 32
    RESUME 5f
    mov qword ptr [rip + vector], 0
    mov rsi, [WINDOW]
5:  cmp qword ptr [rip + vector], 14
    CHECK 33
    cmp qword ptr [rip + error], 1
    CHECK 34
    dec ebx
    jnz 4b

    # VERW: the zero flag, where it is looked at; the fault, where it is not.
    xor eax, eax
    mov word ptr [rip + selector], KERNEL_DATA
    verw [rip + selector]
    CHECK 35
    mov eax, KERNEL_CODE
    verw ax
    setz al
    cmp al, 0
    CHECK 36
    RESUME 6f
    mov qword ptr [rip + vector], 0
    verw [WINDOW + 0x1000]
    xor eax, eax
6:  cmp qword ptr [rip + vector], 14
    CHECK 37

    # FS and GS bases.
    RESUME 7f
    mov qword ptr [rip + vector], 0
    rdfsbase rax
7:  cmp qword ptr [rip + vector], 6
    CHECK 38
    mov rax, cr4
    or eax, 0x10000
    mov cr4, rax
    mov rax, 0xffff800012345678
    stc
    wrgsbase rax
    setc bl
    rdgsbase r11
    cmp rax, r11
    CHECK 39
    cmp bl, 1
    CHECK 40
    mov r10d, 0x1000
    wrfsbase r10d
    rdfsbase rsi
    cmp rsi, 0x1000
    CHECK 41
    RESUME 8f
    mov qword ptr [rip + vector], 0
    mov rax, 0x800000000000
    wrfsbase rax
8:  cmp qword ptr [rip + vector], 13
    CHECK 42
    rdfsbase rsi
    cmp rsi, 0x1000
    CHECK 43

    # Selectors, control registers, the direction flag.
    mov rbx, -1
    mov bx, ds
    mov rax, 0xffffffffffff0000 + KERNEL_DATA
    cmp rbx, rax
    CHECK 44
    mov r10, -1
    mov r10d, cs
    cmp r10, KERNEL_CODE
    CHECK 45
    mov dword ptr [rip + selector], -1
    mov word ptr [rip + selector], cs
    cmp dword ptr [rip + selector], 0xffff0000 + KERNEL_CODE
    CHECK 46
    mov rax, cr3
    cmp rax, 0x1000
    CHECK 47
    mov r11, cr4
    bt r11, 16
    setc al
    cmp al, 1
    CHECK 48
    lea rdi, [rip + selector + 4]
    std
    stosb
    cld
    stosb
    lea rax, [rip + selector + 4]
    cmp rdi, rax
    CHECK 49
    stc
    rdtsc
    setc bl
    cmp bl, 1
    CHECK 50
    xor eax, eax
    hlt

.balign 8
selector: .quad 0
