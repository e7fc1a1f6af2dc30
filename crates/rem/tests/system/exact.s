# Faults in the middle of long blocks and loops: registers, flags and memory are those of the
# instructions before, whatever the engine does ahead of time.
.include "lib.inc"

.set HOLE, WINDOW + 0x1000
.set A, 0x200000

# All registers and the arithmetic flags, as the handler found them.
.macro KEEP
    mov [rip + kept + 0], rcx
    mov [rip + kept + 8], rdx
    mov [rip + kept + 16], rbx
    mov [rip + kept + 24], rsi
    mov [rip + kept + 32], r8
    mov [rip + kept + 40], r9
    mov [rip + kept + 48], r10
    mov [rip + kept + 56], r11
    movq [rip + kept + 64], xmm1
.endm

main:
    mov qword ptr [PT], A + 3
    mov qword ptr [PT + 8], 0
    # Eight steps, each with a store of its own; rdi moves the hole from one to the next. Step n has
    # been done exactly when the fault is at a later one.
    xor ebp, ebp
    mov r15d, 9
next:
    # Clear the field.
    mov edi, A + 0xf00
    mov ecx, 32
    xor eax, eax
    rep stosq
    # The store of step ebp is the first one in the hole.
    mov edi, HOLE
    mov eax, ebp
    shl eax, 3
    sub rdi, rax
    xor ecx, ecx
    mov edx, 1
    xor ebx, ebx
    mov esi, 100
    xor r8d, r8d
    mov r9d, 5
    mov r10d, 6
    mov r11d, 7
    pxor xmm1, xmm1
    RESUME stopped
    mov eax, 1
    movq xmm0, rax
.macro STEP n
    inc ecx
    lea edx, [rdx + rdx]
    add ebx, ecx
    sub esi, 3
    paddq xmm1, xmm0
    xor r8, rsi
    add r9, 1
    add r10, r9
    sub r11, r10
    cmp ecx, 4
step\n: mov [rdi + 8 * \n], r10
    # Without a reader the flags of the CMP may be lost (ARCHITECTURE.md).
    setl r12b
    setp r12b
    setc r12b
.endm
    STEP 0
    STEP 1
    STEP 2
    STEP 3
    STEP 4
    STEP 5
    STEP 6
    STEP 7
    mov qword ptr [rip + vector], 0
stopped:
    KEEP
    # Once more in a slow and certain way: the same steps in a loop, up to where it must have stopped.
    cmp ebp, 8
    je all_done
    cmp qword ptr [rip + vector], 14
    CHECK 1
    mov eax, HOLE
    cmp rax, [rip + frame_cr2]
    CHECK 2
    lea rax, [rip + places]
    mov rax, [rax + 8 * rbp]
    lea r14, [rip + _start]
    add rax, r14
    cmp rax, [rip + frame_rip]
    CHECK 3
all_done:
    mov r12, rdi
    xor ecx, ecx
    mov edx, 1
    xor ebx, ebx
    mov esi, 100
    xor r8d, r8d
    mov r9d, 5
    mov r10d, 6
    mov r11d, 7
    mov r13d, ebp
    cmp ebp, 8
    je 1f
    inc r13d
1:  inc ecx
    lea edx, [rdx + rdx]
    add ebx, ecx
    sub esi, 3
    xor r8, rsi
    add r9, 1
    add r10, r9
    sub r11, r10
    # What was stored before is there.
    cmp ecx, r13d
    jae 2f
    lea eax, [rcx - 1]
    cmp r10, [r12 + 8 * rax]
    CHECK 4
2:  cmp ecx, r13d
    jb 1b
    cmp rcx, [rip + kept + 0]
    CHECK 5
    cmp rdx, [rip + kept + 8]
    CHECK 6
    cmp rbx, [rip + kept + 16]
    CHECK 7
    cmp rsi, [rip + kept + 24]
    CHECK 8
    cmp r8, [rip + kept + 32]
    CHECK 9
    cmp r9, [rip + kept + 40]
    CHECK 10
    cmp r10, [rip + kept + 48]
    CHECK 11
    cmp r11, [rip + kept + 56]
    CHECK 12
    mov eax, ecx
    cmp rax, [rip + kept + 64]
    CHECK 13
    # The flags of the CMP: the fault's frame has them.
    cmp ebp, 8
    je 4f
    cmp ecx, 4
    pushfq
    pop rax
    mov rcx, [rip + frame_flags]
    and eax, 0x8d5
    and ecx, 0x8d5
    cmp eax, ecx
    CHECK 14
4:  inc ebp
    cmp ebp, r15d
    jb next

    # ---- a loop that runs into the hole: all but the last turn have been made
    mov edi, A + 0xf00
    mov ecx, 32
    xor eax, eax
    rep stosq
    mov edi, HOLE - 0x80
    xor ecx, ecx
    RESUME 1f
turn:
    add ecx, 3
    mov [rdi], ecx
    mov [rdi + 4], ecx
    add rdi, 8
    cmp ecx, 1000
    jne turn
1:  cmp ecx, 51
    CHECK 20
    mov eax, HOLE
    cmp rdi, rax
    CHECK 21
    cmp dword ptr [A + 0xffc], 48
    CHECK 22
    # And one whose second store faults: the first one was made.
    mov edi, HOLE - 0x84
    xor ecx, ecx
    RESUME 1f
turn2:
    add ecx, 3
    mov [rdi], ecx
second: mov [rdi + 4], ecx
    add rdi, 8
    cmp ecx, 1000
    jne turn2
1:  cmp ecx, 51
    CHECK 23
    lea rax, [rip + second]
    cmp rax, [rip + frame_rip]
    CHECK 24
    cmp dword ptr [A + 0xffc], 51
    CHECK 25

    # ---- PUSH, POP, CALL, LEAVE: the stack pointer is that of before the instruction
    mov rbx, rsp
    mov byte ptr [0x8000 + 16 * 14 + 4], 1
    lea rax, [rip + stack_end]
    mov [0x7800 + 36], rax
    lea rax, [rip + vectors + 14 * 16]
    mov [0x8000 + 16 * 14], ax
    mov word ptr [0x8000 + 16 * 14 + 2], KERNEL_CODE
    mov byte ptr [0x8000 + 16 * 14 + 5], 0x8e
    shr eax, 16
    mov [0x8000 + 16 * 14 + 6], ax
    mov dword ptr [0x8000 + 16 * 14 + 8], 0
.macro STACK number, sp, address, insn:vararg
    RESUME 8f
    mov esp, \sp
    \insn
8:  cmp qword ptr [rip + vector], 14
    CHECK \number
    mov eax, \sp
    cmp rax, [rip + frame_rsp]
    CHECK \number + 1
    mov eax, \address
    cmp rax, [rip + frame_cr2]
    CHECK \number + 2
    mov qword ptr [rip + vector], 0
.endm
    STACK 30, HOLE+0x10, HOLE+8, push rax
    STACK 33, HOLE+0x10, HOLE+8, call main
    STACK 36, HOLE, HOLE, pop rax
    STACK 39, HOLE-4, HOLE, pop rax
    STACK 42, HOLE, HOLE, ret
    STACK 45, HOLE, HOLE, ret 8
    STACK 48, HOLE, HOLE, popfq
    STACK 51, HOLE+0x10, HOLE+8, pushfq
    mov ebp, HOLE
    STACK 57, HOLE-0x100, HOLE, leave
    cmp ebp, HOLE
    CHECK 60
    STACK 61, HOLE+0x30, HOLE+0x28, enter 16, 0
    mov rsp, rbx
    # POP to memory that faults: the pointer stays, and addresses by it are those after.
    mov edi, HOLE
    mov rsp, rbx
    push 7
    mov rbx, rsp
    RESUME 1f
    pop qword ptr [rdi]
1:  cmp rbx, [rip + frame_rsp]
    CHECK 64
    xor eax, eax
    hlt

.balign 8
places:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    .quad step\n - _start
    .endr
kept: .fill 9, 8, 0
.balign 16
stack: .fill 256, 1, 0
stack_end:
