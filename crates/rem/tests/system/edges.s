# Which instruction a fault belongs to, which of several comes first, and what is unchanged then.
.include "lib.inc"

.set BAD, 0x8000000000000000
.set UNMAPPED, WINDOW + 0x1000

# Vector and return address.
.macro CAME number, expected, place
    cmp qword ptr [rip + vector], \expected
    CHECK \number
    lea rax, [rip + \place]
    cmp rax, [rip + frame_rip]
    CHECK \number + 1
.endm

main:
    # Exceptions on a stack of their own.
    lea rax, [rip + stack_end]
    mov [0x7800 + 36], rax
    .irp v, 6, 12, 13, 14, 16
    mov byte ptr [0x8000 + 16 * \v + 4], 1
    .endr
    mov qword ptr [PT], 0x200003
    mov qword ptr [PT + 8], 0

    # ---- jumps to where no code can be are refused before they do anything
    mov rax, BAD
    push rax
    mov rbx, rsp
    RESUME 1f
ret_near: ret
1:  CAME 1, 13, ret_near
    cmp rbx, [rip + frame_rsp]
    CHECK 3
    RESUME 1f
ret_more: ret 16
1:  CAME 4, 13, ret_more
    cmp rbx, [rip + frame_rsp]
    CHECK 6
    mov rcx, BAD
    RESUME 1f
jmp_register: jmp rcx
1:  CAME 7, 13, jmp_register
    RESUME 1f
jmp_memory: jmp [rsp]
1:  CAME 9, 13, jmp_memory
    mov qword ptr [rsp - 8], 0x1234
    RESUME 1f
call_memory: call [rsp]
1:  CAME 11, 13, call_memory
    cmp rbx, [rip + frame_rsp]
    CHECK 13
    cmp qword ptr [rsp - 8], 0x1234
    CHECK 14
    pop rax
    # A target that is canonical and not there is the target's own fault.
    mov ebx, UNMAPPED
    push rbx
    mov rbx, rsp
    RESUME 1f
    ret
1:  cmp qword ptr [rip + vector], 14
    CHECK 15
    mov eax, UNMAPPED
    cmp rax, [rip + frame_rip]
    CHECK 16
    lea rax, [rbx + 8]
    cmp rax, [rip + frame_rsp]
    CHECK 17
    pop rax

    # ---- an x87 exception that waits comes before the operand's faults
    fninit
    fldcw [rip + unmask]
    fld1
    fldz
    fdivp
    mov edi, UNMAPPED
    RESUME 1f
load: fld qword ptr [rdi]
1:  CAME 20, 16, load
    RESUME 1f
mmx: paddb mm0, [rdi]
1:  CAME 22, 16, mmx
    # It does not matter to instructions that do not wait.
    RESUME 1f
status: fnstsw [rdi]
1:  CAME 24, 14, status
    fninit

    # ---- CLFLUSH is checked as a read
    RESUME 1f
flush: clflush [rdi + 5]
1:  CAME 26, 14, flush
    cmp qword ptr [rip + error], 0
    CHECK 28
    mov eax, UNMAPPED + 5
    cmp rax, [rip + frame_cr2]
    CHECK 29
    mov rbp, BAD
    RESUME 1f
flush_stack: clflush [rbp]
1:  CAME 30, 12, flush_stack
    clflush [rip + unmask]

    # ---- 64-bit code: prefixes of SS and DS change nothing, not even the vector
    mov rsi, BAD
    RESUME 1f
table_ss: .byte 0x36
    sldt [rsi]
1:  CAME 32, 13, table_ss
    RESUME 1f
table_ds: .byte 0x3e
    sldt [rbp]
1:  CAME 34, 12, table_ds
    # Alignment is looked at first.
    RESUME 1f
aligned: movaps xmm0, [rbp]
1:  CAME 36, 12, aligned
    RESUME 1f
misaligned: movaps xmm0, [rbp + 1]
1:  CAME 38, 13, misaligned

    # ---- bytes that an undefined opcode does not need are not fetched
    mov word ptr [0x200ffe], 0x040f
    RESUME 1f
    mov eax, WINDOW + 0xffe
    jmp rax
1:  cmp qword ptr [rip + vector], 6
    CHECK 40
    # LZCNT's are.
    mov word ptr [0x200ffe], 0xbd0f
    RESUME 1f
    mov eax, WINDOW + 0xffe
    jmp rax
1:  cmp qword ptr [rip + vector], 14
    CHECK 41
    mov eax, UNMAPPED
    cmp rax, [rip + frame_cr2]
    CHECK 42

    # ---- at level 3: ports are refused whatever the count is; SYSEXIT is #GP
    lea rsi, [rip + user]
    mov edi, 0x201000
    mov ecx, user_end - user
    rep movsb
    mov qword ptr [PT + 8], 0x201005
    .irp at, 0, 16, 32
    RESUME 1f
    push USER_DATA
    push 0
    push 2
    push USER_CODE
    push WINDOW + 0x1000 + \at
    iretq
1:  cmp qword ptr [rip + vector], 13
    CHECK 43 + \at
    mov eax, WINDOW + 0x1002 + \at
    cmp rax, [rip + frame_rip]
    CHECK 44 + \at
    .endr
    xor eax, eax
    hlt

.balign 16
user:
    xor ecx, ecx
    rep outsb
    .balign 16
    xor ecx, ecx
    rep insd
    .balign 16
    nop
    nop
    .byte 0x0f, 0x35
user_end:

unmask: .word 0x37b
.balign 16
stack: .fill 512, 1, 0
stack_end:
