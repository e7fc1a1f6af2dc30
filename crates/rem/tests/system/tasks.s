# Hardware task switches: JMP, CALL, IRET, task gates, exceptions by task gate; busy bits, back link,
# NT, CR0.TS, T, LDT; 16-bit TSSs; what is refused (SDM vol. 3, chapter 8).
.include "lib32.inc"

.set TSSA, 0x38
.set TSSB, 0x40
.set GATEA, 0x48
.set TSS_16, 0x50
.set LDTA, 0x58
.set ABSENT, 0x60
.set LOCAL, 0x0c

# Type byte of a TSS descriptor.
.macro TYPE number, selector, type
    cmp byte ptr [gdt + \selector + 5], \type
    CHECK \number
.endm

# TSS `at` starts at `eip` with flat segments and its own stack. Uses EAX, ECX, EDI.
.macro MAKE at, eip, sp
    mov edi, offset \at
    mov ecx, 0x68 / 4
    xor eax, eax
    rep stosd
    mov dword ptr [\at + 0x20], offset \eip
    mov dword ptr [\at + 0x24], 0x202
    mov dword ptr [\at + 0x28], 0x11111111
    mov dword ptr [\at + 0x38], offset \sp
    mov dword ptr [\at + 0x3c], 0x22222222
    .irp o, 0x48, 0x50, 0x54, 0x58, 0x5c
    mov dword ptr [\at + \o], DATA0
    .endr
    mov dword ptr [\at + 0x4c], CODE0
    mov word ptr [\at + 0x66], 0x68
.endm

main:
    DESCRIPTOR TSSA, tss_a, 0x67, TSS32, 0
    DESCRIPTOR TSSB, tss_b, 0x67, TSS32, 0
    DESCRIPTOR TSS_16, tss_16, 0x2b, TSS16, 0
    DESCRIPTOR LDTA, ldt_a, 0xf, LDT, 0
    DESCRIPTOR ABSENT, 0, 0xfffff, CODE&~0x80, 0xc
    mov dword ptr [ldt_a + 8], 0x0000ffff
    mov dword ptr [ldt_a + 12], 0x00cf9300
    # ---- JMP
    MAKE tss_a, jumped, stack_a_end
    clts
    mov ebx, 0xb0b0b0b0
    ljmp TSSA, 0x12345678
back_from_jump:
    cmp ebx, 0xb0b0b0b0
    CHECK 1
    TYPE 2, TSSA, 0x89
    TYPE 3, TSS0, 0x8b
    str ax
    cmp ax, TSS0
    CHECK 4
    jmp calls
jumped:
    cmp eax, 0x11111111
    CHECK 5
    cmp ebp, 0x22222222
    CHECK 6
    cmp esp, offset stack_a_end
    CHECK 7
    TYPE 8, TSSA, 0x8b
    TYPE 9, TSS0, 0x89
    pushfd
    pop eax
    and eax, 0x4700
    cmp eax, 0x200
    CHECK 10
    SAME 11, [tss + 0x20], "offset back_from_jump"
    SAME 12, [tss + 0x34], 0xb0b0b0b0
    cmp word ptr [tss + 0x4c], CODE0
    CHECK 13
    cmp word ptr [tss_a], 0
    CHECK 14
    mov eax, cr0
    and eax, 8
    cmp eax, 8
    CHECK 15
    str ax
    cmp ax, TSSA
    CHECK 16
    ljmp TSS0, 0

    # ---- CALL and IRET
calls:
    MAKE tss_a, called, stack_a_end
    lcall TSSA, 0
    TYPE 20, TSSA, 0x89
    TYPE 21, TSS0, 0x8b
    # NT is clear in the image that IRET saved.
    mov eax, [tss_a + 0x24]
    and eax, 0x4000
    cmp eax, 0
    CHECK 22
    # Once more, through a gate: it goes on behind its IRET.
    GDT_GATE GATEA, TSSA, 0, TASK
    lcall GATEA, 0
    cmp dword ptr [rounds], 2
    CHECK 23
    # And by an interrupt.
    IDT_GATE 45, TSSA, 0, TASK
    int 45
after_int:
    cmp dword ptr [rounds], 3
    CHECK 24
    jmp refusals
called:
    inc dword ptr [rounds]
    TYPE 25, TSSA, 0x8b
    TYPE 26, TSS0, 0x8b
    cmp word ptr [tss_a], TSS0
    CHECK 27
    pushfd
    pop eax
    test eax, 0x4000
    setnz al
    cmp al, 1
    CHECK 28
    iret
    jmp called

    # ---- what is refused
refusals:
    # The task itself is busy.
    RESUME 1f
    ljmp TSS0, 0
1:  CAME 30, 13, TSS0
    RESUME 1f
    lcall TSS0, 0
1:  CAME 32, 13, TSS0
    GDT_GATE GATEA, TSS0, 0, TASK
    RESUME 1f
    lcall GATEA, 0
1:  CAME 34, 13, TSS0
    # Not there; too short.
    DESCRIPTOR TSSA, tss_a, 0x67, TSS32&~0x80, 0
    RESUME 1f
    ljmp TSSA, 0
1:  CAME 36, 11, TSSA
    DESCRIPTOR TSSA, tss_a, 0x66, TSS32, 0
    RESUME 1f
    ljmp TSSA, 0
1:  CAME 38, 10, TSSA
    DESCRIPTOR TSSA, tss_a, 0x67, TSS32, 0
    # A gate to what is no TSS.
    GDT_GATE GATEA, DATA0, 0, TASK
    RESUME 1f
    lcall GATEA, 0
1:  CAME 40, 13, DATA0
    # Level 3 may not use descriptors of level 0.
    RESUME 1f
    TO_USER jump_a, "offset stack3_end", 2
1:  CAME 42, 13, TSSA
    # IRET with NT and a back link to what is not busy.
    mov word ptr [tss], TSSA
    RESUME 1f
    push 0x4002
    popfd
    iret
1:  CAME 44, 10, TSSA
    push 2
    popfd
    mov word ptr [tss], 0
    # A gate of level 3 in the table lets level 3 switch, and come back at level 3.
    MAKE tss_a, called, stack_a_end
    GDT_GATE GATEA, TSSA, 0, TASK|DPL3
    RESUME 1f
    TO_USER call_gate_a, "offset stack3_end", 2
1:  CAME 46, 13, 0
    SAME 48, [frame_cs], CODE3
    cmp dword ptr [rounds], 4
    CHECK 49

    # ---- an exception with an error code
    MAKE tss_b, fault_task, stack_b_end
    IDT_GATE 13, TSSB, 0, TASK
    mov eax, 0x200
faults:
    mov ds, eax
after_fault:
    cmp dword ptr [fault_code], 0x200
    CHECK 50
    TYPE 51, TSSB, 0x89
    IDT_GATE 13, CODE0, vectors+13*16, INT32
    jmp new_task_faults
fault_task:
    pop dword ptr [fault_code]
    cmp esp, offset stack_b_end
    CHECK 52
    cmp word ptr [tss_b], TSS0
    CHECK 53
    SAME 54, [tss + 0x20], "offset faults"
    # RF is set in the image of what faulted.
    mov eax, [tss + 0x24]
    and eax, 0x10000
    cmp eax, 0x10000
    CHECK 55
    mov dword ptr [tss + 0x20], offset after_fault
    iret
    jmp fault_task

    # ---- faults that are the new task's
.macro NEW_TASK_FAULT number, field, value, vector, code
    MAKE tss_a, never, stack_a_end
    mov dword ptr [tss_a + \field], \value
    MAKE tss_b, judge, stack_b_end
    mov dword ptr [fault_code], -1
    IDT_GATE \vector, TSSB, 0, TASK
    ljmp TSSA, 0
    # `judge` has come back here.
    SAME \number, [fault_code], \code
    cmp word ptr [tss_b], TSSA
    CHECK \number + 1
    SAME \number+2, [tss_a + 0x20], "offset never"
    TYPE \number+3, TSSA, 0x8b
    IDT_GATE \vector, CODE0, vectors+\vector*16, INT32
    mov byte ptr [gdt + TSSA + 5], TSS32
    mov byte ptr [gdt + TSSB + 5], TSS32
.endm

new_task_faults:
    NEW_TASK_FAULT 60, 0x4c, ABSENT, 11, ABSENT
    NEW_TASK_FAULT 64, 0x4c, 0, 10, 0
    NEW_TASK_FAULT 68, 0x4c, DATA0, 10, DATA0
    NEW_TASK_FAULT 72, 0x50, CODE0, 10, CODE0
    NEW_TASK_FAULT 76, 0x50, 0, 10, 0
    NEW_TASK_FAULT 80, 0x54, 0x200, 10, 0x200
    NEW_TASK_FAULT 84, 0x60, DATA0, 10, DATA0
    jmp debug_bit
judge:
    pop dword ptr [fault_code]
    ljmp TSS0, 0

    # ---- the T bit: a trap before the first instruction
debug_bit:
    MAKE tss_a, never, stack_a_end
    mov word ptr [tss_a + 0x64], 1
    xor eax, eax
    mov dr6, eax
    mov dword ptr [vector], -1
    mov dword ptr [resume], offset trapped
    mov dword ptr [resume_esp], offset stack_a_end
    mov dword ptr [resume_ss], DATA0
    ljmp TSSA, 0
after_trap:
    jmp local_table
trapped:
    CAME 90, 1, 0
    SAME 92, [frame_eip], "offset never"
    mov eax, [frame_dr6]
    and eax, 0xe00f
    cmp eax, 0x8000
    CHECK 93
    mov dword ptr [tss + 0x20], offset after_trap
    ljmp TSS0, 0

    # ---- the LDT comes with the task
local_table:
    MAKE tss_a, local_task, stack_a_end
    mov dword ptr [tss_a + 0x60], LDTA
    mov dword ptr [tss_a + 0x5c], LOCAL
    ljmp TSSA, 0
    sldt ax
    cmp ax, 0
    CHECK 95
    jmp sixteen
local_task:
    sldt ax
    cmp ax, LDTA
    CHECK 96
    mov ax, gs
    cmp ax, LOCAL
    CHECK 97
    mov eax, gs:[0x100000]
    cmp eax, [0x100000]
    CHECK 98
    ljmp TSS0, 0

    # ---- a 16-bit TSS: addresses of its task have 16 bits
sixteen:
    mov edi, 0x500
    mov esi, offset code16
    mov ecx, code16_end - code16
    rep movsb
    mov edi, offset tss_16
    mov ecx, 0x2c
    xor eax, eax
    rep stosb
    mov word ptr [tss_16 + 0x0e], 0x500
    mov word ptr [tss_16 + 0x10], 2
    mov word ptr [tss_16 + 0x12], 0x7777
    mov word ptr [tss_16 + 0x1a], 0x4000
    mov word ptr [tss_16 + 0x22], DATA0
    mov word ptr [tss_16 + 0x24], CODE0
    mov word ptr [tss_16 + 0x26], DATA0
    mov word ptr [tss_16 + 0x28], DATA0
    mov ebx, 0x12345678
    lcall TSS_16, 0
    cmp ebx, 0x12345678
    CHECK 100
    SAME 101, [0x600], 0x7777
    mov ax, [0x604]
    cmp ax, 0
    CHECK 102
    cmp word ptr [tss_16], TSS0
    CHECK 103
    cmp word ptr [tss_16 + 0x12], 0x9999
    CHECK 104
    TYPE 105, TSS_16, 0x81
    xor eax, eax
    jmp finish
code16:
    movzx eax, ax
    mov [0x600], eax
    mov ax, fs
    mov [0x604], ax
    mov eax, 0x99999999
    iret
code16_end:

jump_a:
    ljmp TSSA, 0
call_gate_a:
    lcall GATEA, 0
    hlt
never:
    mov eax, 0xbad
    jmp finish

.balign 16
rounds: .long 0
fault_code: .long 0
ldt_a: .quad 0, 0
tss_a: .fill 0x68, 1, 0
tss_b: .fill 0x68, 1, 0
tss_16: .fill 0x30, 1, 0
stack_a: .fill 256, 4, 0
stack_a_end:
stack_b: .fill 256, 4, 0
stack_b_end:
