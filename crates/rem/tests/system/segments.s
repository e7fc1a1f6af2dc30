# Segments: limits of every kind, types, null selectors, what loading checks and marks, ends of code
# segments, and real mode with large segments (SDM vol. 3, chapters 3 and 5).
.include "lib32.inc"

.set SMALL, 0x38
.set PAGES, 0x40
.set DOWN16, 0x48
.set DOWN32, 0x50
.set READ, 0x58
.set EXEC, 0x60
.set ABSENT, 0x68
.set TOP, 0x70
.set TINY, 0x78
.set STACK16, 0x80
.set CODE16, 0x88
.set FRESH, 0x90
.set DATA16, 0x98
.set LDT3, 0xa0

# Loads ES.
.macro LOAD selector
    mov eax, \selector
    mov es, eax
.endm

# This access must be good, or raise an exception with error code 0.
.macro GOOD number, insn:vararg
    RESUME 8f
    \insn
    jmp 7f
8:  mov eax, \number
    jmp finish
7:
.endm
.macro BAD number, expected, insn:vararg
    push es
    RESUME 8f
    \insn
8:  pop es
    CAME \number, \expected, 0
.endm

main:
    DESCRIPTOR SMALL, data, 0xfff, DATA, 4
    DESCRIPTOR PAGES, data, 0, DATA, 0xc
    DESCRIPTOR DOWN16, 0x8000, 0xfff, DOWN, 0
    DESCRIPTOR DOWN32, 0x8000, 0xfff, DOWN, 4
    DESCRIPTOR READ, data, 0xfff, 0x91, 4
    DESCRIPTOR EXEC, data, 0xfff, 0x99, 4
    DESCRIPTOR ABSENT, data, 0xfff, DATA&~0x80, 4
    DESCRIPTOR TOP, 0xfffff000, 0xfffff, DATA, 0xc

    # ---- limits up
    LOAD SMALL
    GOOD 1, mov al, es:[0xfff]
    BAD 2, 13, mov al, es:[0x1000]
    GOOD 4, mov eax, es:[0xffc]
    BAD 5, 13, mov eax, es:[0xffd]
    BAD 7, 13, mov es:[0xffd], eax
    BAD 9, 13, mov eax, es:[0xfffffffe]
    BAD 11, 13, fld tbyte ptr es:[0xff7]
    GOOD 13, fld tbyte ptr es:[0xff6]
    fninit
    LOAD PAGES
    GOOD 14, mov eax, es:[0xffc]
    BAD 15, 13, mov eax, es:[0xffd]
    # A flat segment ends at its end.
    LOAD DATA0
    BAD 17, 13, mov eax, es:[0xfffffffd]
    mov ebp, 0xfffffffe
    BAD 19, 12, mov eax, [ebp]
    # One with a base wraps around: linear 0xffffffff and 0 to 2.
    LOAD TOP
    mov dword ptr [0], 0x44332211
    GOOD 21, mov eax, es:[0xfff]
    shr eax, 8
    cmp eax, 0x332211
    CHECK 22
    GOOD 23, mov eax, es:[0x1001]
    cmp al, 0x22
    CHECK 24

    # ---- limits down: 0x1000 to 0xffff, or to the end
    LOAD DOWN16
    BAD 25, 13, mov al, es:[0xfff]
    GOOD 27, mov al, es:[0x1000]
    GOOD 28, mov eax, es:[0xfffc]
    BAD 29, 13, mov eax, es:[0xfffd]
    BAD 31, 13, mov al, es:[0x10000]
    LOAD DOWN32
    BAD 33, 13, mov al, es:[0xfff]
    GOOD 35, mov al, es:[0x1000]
    GOOD 36, mov al, es:[0x10000]
    BAD 37, 13, mov eax, es:[0xfffffffd]
    BAD 39, 13, mov eax, es:[0xffd]
    # A whole segment that grows down has nothing.
    DESCRIPTOR FRESH, 0, 0xfffff, DOWN, 0xc
    LOAD FRESH
    BAD 41, 13, mov al, es:[0x1000]

    # ---- types
    LOAD READ
    GOOD 43, mov al, es:[0]
    BAD 44, 13, mov es:[0], al
    BAD 46, 13, inc byte ptr es:[0]
    BAD 48, 13, mov byte ptr cs:[data], 1
    GOOD 50, mov al, cs:[data]
    mov ebx, 0
    LOAD 0
    BAD 51, 13, mov al, es:[data]
    LOAD 3
    BAD 53, 13, mov al, es:[data]

    # ---- loading
    RESUME 1f
    LOAD EXEC
1:  CAME 55, 13, EXEC
    RESUME 1f
    LOAD ABSENT
1:  CAME 57, 11, ABSENT
    RESUME 1f
    LOAD TSS0
1:  CAME 59, 13, TSS0
    RESUME 1f
    LOAD 0x200
1:  CAME 61, 13, 0x200
    RESUME 1f
    LOAD 0x14
1:  CAME 63, 13, 0x14
    RESUME 1f
    LOAD DATA0|3
1:  CAME 65, 13, DATA0
    RESUME 1f
    LOAD CODE3
1:  # Readable code of level 3 is fine for level 0.
    cmp dword ptr [vector], -1
    CHECK 67
    mov eax, READ
    RESUME 1f
    mov ss, eax
1:  CAME 68, 13, READ
    mov eax, ABSENT
    RESUME 1f
    mov ss, eax
1:  CAME 70, 12, ABSENT
    xor eax, eax
    RESUME 1f
    mov ss, eax
1:  CAME 72, 13, 0
    mov eax, DATA3
    RESUME 1f
    mov ss, eax
1:  CAME 74, 13, DATA3&~3
    # The register keeps what it had.
    LOAD SMALL
    mov ebx, 0
    RESUME 1f
    mov eax, ABSENT
    mov es, eax
1:  mov es, [resume_ss]
    # The accessed bit is set by a load, not by a look.
    DESCRIPTOR FRESH, 0, 0xfff, 0x92, 4
    mov eax, FRESH
    lar ebx, eax
    verw ax
    cmp byte ptr [gdt + FRESH + 5], 0x92
    CHECK 76
    LOAD FRESH
    cmp byte ptr [gdt + FRESH + 5], 0x93
    CHECK 77
    LOAD DATA0

    # ---- LAR, LSL, VERR, VERW
    mov eax, READ
    lar ebx, eax
    CHECK 78
    cmp bh, 0x91
    CHECK 79
    lsl ebx, eax
    cmp ebx, 0xfff
    CHECK 80
    mov eax, PAGES
    lsl ebx, eax
    cmp ebx, 0xfff
    CHECK 81
    mov eax, DATA0
    lsl ebx, eax
    cmp ebx, -1
    CHECK 82
    mov eax, READ
    verr ax
    CHECK 83
    verw ax
    setne al
    cmp al, 1
    CHECK 84
    mov eax, EXEC
    verr ax
    setne al
    cmp al, 1
    CHECK 85
    # A privilege that is not enough: ZF clear, the register as it was.
    mov eax, DATA0 | 3
    mov ebx, 0x12345678
    lsl ebx, eax
    setne al
    cmp al, 1
    CHECK 86
    cmp ebx, 0x12345678
    CHECK 87
    xor eax, eax
    lar ebx, eax
    setne al
    cmp al, 1
    CHECK 88
    # ARPL.
    mov eax, 0x10
    mov ebx, 0x13
    arpl ax, bx
    CHECK 89
    cmp eax, 0x13
    CHECK 90

    # ---- stacks
    DESCRIPTOR STACK16, stack16, 0xfff, DATA, 0
    mov [saved_esp], esp
    mov eax, STACK16
    mov ss, eax
    # The upper half of ESP does not count.
    mov esp, 0x56780800
    push 0x11223344
    cmp esp, 0x567807fc
    CHECK 91
    cmp dword ptr [stack16 + 0x7fc], 0x11223344
    CHECK 92
    # Around from 0 it is beyond the limit.
    mov esp, 0x56780000
    mov dword ptr [resume], offset 1f
    mov dword ptr [resume_ss], DATA0
    mov eax, [saved_esp]
    mov [resume_esp], eax
    # The exception itself needs a stack: a task has one.
    DESCRIPTOR FRESH, tss2, 0x67, TSS32, 0
    mov dword ptr [tss2 + 0x20], offset stack_fault
    mov dword ptr [tss2 + 0x24], 2
    mov dword ptr [tss2 + 0x38], offset stack3_end
    .irp o, 0x48, 0x50, 0x54, 0x58, 0x5c
    mov dword ptr [tss2 + \o], DATA0
    .endr
    mov dword ptr [tss2 + 0x4c], CODE0
    IDT_GATE 12, FRESH, 0, TASK
push_it:
    push eax
    mov eax, 93
    jmp finish
stack_fault:
    pop eax
    cmp eax, 0
    CHECK 94
    SAME 95, [tss + 0x20], "offset push_it"
    SAME 96, [tss + 0x38], 0x56780000
    mov dword ptr [tss + 0x20], offset 1f
    mov eax, [saved_esp]
    mov [tss + 0x38], eax
    mov dword ptr [tss + 0x50], DATA0
    iret
1:  IDT_GATE 12, CODE0, vectors+12*16, INT32
    clts

    # ---- the end of a code segment: the jump that leaves it faults, walking over it faults after
    DESCRIPTOR TINY, code, code_end-code-1, CODE, 4
    .irp n, 1, 2, 3
    push 0x12345678
    mov ebx, esp
    RESUME 1f
    mov ecx, 2
    ljmp TINY, out\n - code
1:  CAME 100, 13, 0
    SAME 102, [frame_eip], "out\n - code"
    cmp ecx, 2
    CHECK 103
    pop eax
    cmp eax, 0x12345678
    CHECK 112
    .endr
    RESUME 1f
    ljmp TINY, last - code
1:  CAME 104, 13, 0
    SAME 106, [frame_eip], code_end-code
    # An instruction that is not there as a whole.
    DESCRIPTOR TINY, code, last-code, CODE, 4
    RESUME 1f
    ljmp TINY, out4 - code
1:  CAME 107, 13, 0
    RESUME 1f
refused: ljmp TINY, code_end - code
1:  CAME 109, 13, 0
    SAME 111, [frame_eip], "offset refused"
    jmp mixed

code:
out1: jmp $ + 0x10000
out2: loop $ + 0x70
out3: ret
out4: mov eax, 1
last: nop
code_end:

    # ---- 16-bit code with 32-bit prefixes
mixed:
    xor eax, eax
    jmp finish

.balign 16
saved_esp: .long 0
tss2: .fill 0x68, 1, 0
.balign 4096
data: .fill 4096, 1, 0
stack16: .fill 4096, 1, 0
