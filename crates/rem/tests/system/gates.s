# Changes of privilege through call gates, interrupt gates and trap gates: stacks, frames, flags and
# error codes (SDM vol. 3, 5.8 and 6.12).
.include "lib32.inc"

.set GATE0, 0x38
.set GATE16, 0x40
.set CONF, 0x48
.set LEVEL1, 0x50
.set STACK1, 0x58
.set ABSENT, 0x60
.set INNER, 0x68
.set BADSS, 0x70

.macro KEEP n
    .set i, 0
    .rept \n
    mov eax, [esp + 4 * i]
    mov [seen + 4 * i], eax
    .set i, i + 1
    .endr
.endm

.macro BAD_STACK number, ss, vector, code
    mov dword ptr [tss + 8], \ss
    mov dword ptr [seen], 0
    RESUME 1f
    TO_USER call_gate0, "offset stack3_end", 2
1:  CAME \number, 3, 0
    SAME \number+2, [seen], \vector
    SAME \number+3, [seen+4], \code
.endm

main:
    IDT_GATE 3, CODE0, vectors+3*16, INT32|DPL3
    # ---- call gates
    # At the same level: no other stack, CS and EIP are pushed.
    GDT_GATE GATE0, CODE0, same_level, CALL32
    mov ebx, esp
    lcall GATE0, 0x12345678
after_same:
    cmp esp, ebx
    CHECK 1
    SAME 2, [seen], "offset after_same"
    SAME 3, [seen + 4], CODE0
    lea ebx, [ebx - 8]
    SAME 4, [seen + 8], ebx
    # A gate that the privilege level is not good enough for; its selector is the error code.
    mov [saved_esp], esp
    RESUME 1f
    TO_USER try_gate0, "offset stack3_end", 2
1:  CAME 5, 13, GATE0
    SAME 7, [frame_cs], CODE3
    # To an inner level, with three parameters.
    GDT_GATE GATE0, CODE0, inner, CALL32|DPL3, 3
    RESUME 1f
    TO_USER call_inner, "offset stack3_end", 2
1:  CAME 8, 3, 0
    SAME 10, [frame_cs], CODE3
    SAME 11, [seen], "offset inner_return"
    SAME 12, [seen + 4], CODE3
    SAME 13, [seen + 8], 33
    SAME 14, [seen + 12], 22
    SAME 15, [seen + 16], 11
    SAME 16, [seen + 20], "offset stack3_end - 12"
    SAME 17, [seen + 24], DATA3
    SAME 18, [seen + 28], "offset stack0_end - 28"
    SAME 19, [seen + 32], DATA0
    # RET 12 released the parameters on both stacks.
    SAME 20, [frame_esp], "offset stack3_end"
    SAME 21, [frame_ss], DATA3
    # Data segments of the inner level are null for the outer one.
    SAME 22, [user_ds], 0
    SAME 23, [user_es], DATA3
    # A conforming code segment is entered at the caller's level.
    DESCRIPTOR CONF, 0, 0xfffff, CONFORMING, 0xc
    GDT_GATE GATE0, CONF, conforming, CALL32|DPL3
    RESUME 1f
    TO_USER call_conforming, "offset stack3_end", 2
1:  CAME 24, 3, 0
    SAME 26, [frame_cs], "CONF | 3"
    SAME 27, [frame_ss], DATA3
    # A 16-bit gate: 16-bit frame and offset.
    mov edi, 0x500
    mov esi, offset sixteen
    mov ecx, sixteen_end - sixteen
    rep movsb
    GATE gdt+GATE16, CODE0, 0x5a5a0500, CALL16
    mov ebx, esp
    push 0x77777777
    lcall GATE16, 0
after_16:
    pop ecx
    cmp esp, ebx
    CHECK 28
    mov eax, offset after_16
    cmp [0x600], ax
    CHECK 29
    cmp word ptr [0x602], CODE0
    CHECK 30
    cmp dword ptr [0x604], 0x77777777
    CHECK 31
    # Gates that are not present, and targets that are bad.
    GDT_GATE GATE0, CODE0, same_level, CALL32&~0x80
    RESUME 1f
    lcall GATE0, 0
1:  CAME 32, 11, GATE0
    GDT_GATE GATE0, 0, same_level, CALL32
    RESUME 1f
    lcall GATE0, 0
1:  CAME 34, 13, 0
    GDT_GATE GATE0, DATA0, same_level, CALL32
    RESUME 1f
    lcall GATE0, 0
1:  CAME 36, 13, DATA0
    DESCRIPTOR ABSENT, 0, 0xfffff, CODE&~0x80, 0xc
    GDT_GATE GATE0, ABSENT, same_level, CALL32
    RESUME 1f
    lcall GATE0, 0
1:  CAME 38, 11, ABSENT
    # Beyond the table.
    RESUME 1f
    lcall 0x200, 0
1:  CAME 40, 13, 0x200
    # JMP through a gate to an inner level is not possible.
    GDT_GATE GATE0, CODE0, inner, CALL32|DPL3
    RESUME 1f
    TO_USER jump_gate0, "offset stack3_end", 2
1:  CAME 42, 13, CODE0
    # Inner stacks that are bad: #TS with the selector, #SS when it is not there.
    # The fault needs a stack as well: a handler at the faulting level has one.
    DESCRIPTOR BADSS, 0, 0xfffff, DATA&~0x80, 0xc
    IDT_GATE 10, CONF, handler_ts, TRAP32
    IDT_GATE 12, CONF, handler_ss, TRAP32
    BAD_STACK 110, CODE0, 10, CODE0
    BAD_STACK 114, DATA3, 10, DATA3&~3
    BAD_STACK 118, BADSS, 12, BADSS
    BAD_STACK 122, 0x200, 10, 0x200
    BAD_STACK 126, 0, 10, 0
    IDT_GATE 3, CODE0, vectors+3*16, INT32
    jmp interrupts

# ---- interrupt and trap gates
interrupts:
    mov dword ptr [tss + 4], offset stack0_end
    mov dword ptr [tss + 8], DATA0
    IDT_GATE 10, CODE0, vectors+160, INT32
    IDT_GATE 12, CODE0, vectors+192, INT32
    IDT_GATE 13, CODE0, vectors+208, INT32
    # An interrupt gate clears IF, a trap gate does not; both clear TF and NT.
    IDT_GATE 40, CODE0, vectors+40*16, INT32|DPL3
    IDT_GATE 41, CODE0, vectors+41*16, TRAP32|DPL3
    IDT_GATE 42, CODE0, vectors+42*16, INT32
    RESUME 1f
    push 0x4202
    popfd
    int 40
int40:
1:  CAME 60, 40, 0
    SAME 62, [frame_eip], "offset int40"
    mov eax, [frame_flags_now]
    test eax, 0x4300
    CHECK 63
    mov eax, [frame_flags]
    and eax, 0x4300
    cmp eax, 0x4200
    CHECK 64
    RESUME 1f
    push 0x202
    popfd
    int 41
1:  CAME 65, 41, 0
    mov eax, [frame_flags_now]
    and eax, 0x300
    cmp eax, 0x200
    CHECK 67
    cli
    push 2
    popfd
    # From level 3: the stack of the TSS.
    RESUME 1f
    TO_USER int_40, "offset stack3_end - 20", 0x202
1:  CAME 68, 40, 0
    SAME 70, [frame_esp], "offset stack3_end - 20"
    SAME 71, [frame_ss], DATA3
    SAME 72, [frame_esp_at], "offset stack0_end - 28"
    SAME 73, [frame_eip], "offset int_40 + 2"
    # A gate of level 0: the IDT's bit and the vector in the error code.
    RESUME 1f
    TO_USER int_42, "offset stack3_end", 2
1:  CAME 74, 13, "42 * 8 + 2"
    SAME 76, [frame_eip], "offset int_42"
    # The processor itself is not asked for its level: #BR, #DE.
    RESUME 1f
    TO_USER divide, "offset stack3_end", 2
1:  CAME 77, 0, 0
    SAME 79, [frame_eip], "offset divide + 2"
    # INT3 and INTO are.
    RESUME 1f
    TO_USER int_3, "offset stack3_end", 2
1:  CAME 80, 13, "3 * 8 + 2"
    IDT_GATE 3, CODE0, vectors+3*16, INT32|DPL3
    IDT_GATE 4, CODE0, vectors+4*16, INT32|DPL3
    RESUME 1f
    TO_USER into, "offset stack3_end", 2
1:  CAME 82, 4, 0
    SAME 84, [frame_eip], "offset into_after"
    # BOUND.
    RESUME 1f
    TO_USER bound, "offset stack3_end", 2
1:  CAME 85, 5, 0
    SAME 87, [frame_eip], "offset bound_fails"
    # Gates that are not present, of no known type, beyond the limit.
    IDT_GATE 42, CODE0, vectors+42*16, INT32&~0x80
    RESUME 1f
    int 42
1:  CAME 88, 11, "42 * 8 + 2"
    IDT_GATE 42, CODE0, vectors+42*16, CALL32
    RESUME 1f
    int 42
1:  CAME 90, 13, "42 * 8 + 2"
    RESUME 1f
    int 64
1:  CAME 92, 13, "64 * 8 + 2"
    # A handler's segment that is bad: its selector; hardware adds EXT.
    IDT_GATE 42, DATA0, vectors+42*16, INT32
    RESUME 1f
    int 42
1:  CAME 94, 13, DATA0
    IDT_GATE 0, DATA0, vectors, INT32
    RESUME 1f
    xor ecx, ecx
    div ecx
1:  # A contributory fault after #DE is a double fault.
    CAME 96, 8, 0
    IDT_GATE 0, CODE0, vectors, INT32
    IDT_GATE 6, DATA0, vectors, INT32
    RESUME 1f
    ud2
1:  CAME 98, 13, "DATA0 | 1"
    IDT_GATE 6, CODE0, vectors+6*16, INT32
    # A 16-bit gate pushes 16 bits.
    IDT_GATE 43, CODE0, 0x5a5a0540, INT16
    mov edi, 0x540
    mov esi, offset handler16
    mov ecx, handler16_end - handler16
    rep movsb
    mov ebx, esp
    int 43
after_43:
    cmp esp, ebx
    CHECK 100
    mov eax, offset after_43
    cmp [0x600], ax
    CHECK 101
    cmp word ptr [0x602], CODE0
    CHECK 102
    xor eax, eax
    jmp finish

same_level:
    KEEP 2
    mov [seen + 8], esp
    retf

inner:
    mov ax, DATA0
    mov ds, ax
    KEEP 7
    mov [seen + 28], esp
    mov [seen + 32], ss
    # ES is good for level 3 as well.
    mov ax, DATA3
    mov es, ax
    retf 12

conforming:
    int3
    retf

try_gate0:
call_gate0:
    lcall GATE0, 0
jump_gate0:
    ljmp GATE0, 0

call_inner:
    mov ax, DATA3
    mov ds, ax
    push 11
    push 22
    push 33
    lcall GATE0, 0
inner_return:
    mov bx, ds
    mov cx, es
    mov ax, DATA3
    mov ds, ax
    mov [user_ds], bx
    mov [user_es], cx
    int3

call_conforming:
    lcall GATE0, 0
int_40:
    int 40
int_42:
    int 42
divide:
    xor ecx, ecx
    div ecx
int_3:
    int3
into:
    mov al, 0x7f
    add al, 1
    into
into_after:
    nop
bound:
    mov ax, DATA3
    mov ds, ax
    mov eax, 5
    bound eax, [bounds]
    mov eax, 11
bound_fails:
    bound eax, [bounds]
# At level 3: puts the stack right and says what came.
handler_ts:
    push 10
    jmp 1f
handler_ss:
    push 12
1:  push DATA3
    pop ds
    pop dword ptr [seen]
    pop dword ptr [seen + 4]
    mov dword ptr [tss + 8], DATA0
    int3

.code32
sixteen:
    mov ax, [esp]
    mov [0x600], ax
    mov ax, [esp + 2]
    mov [0x602], ax
    mov eax, [esp + 4]
    mov [0x604], eax
    # The return address has 16 bits; what was cut off is put back.
    pop ax
    pop cx
    movzx eax, ax
    add eax, 0x100000
    push CODE0
    push eax
    retf
sixteen_end:
handler16:
    mov ax, [esp]
    mov [0x600], ax
    mov ax, [esp + 2]
    mov [0x602], ax
    pop ax
    add esp, 4
    movzx eax, ax
    add eax, 0x100000
    push eax
    ret
handler16_end:

.set low_code, 0x500
.balign 4
bounds: .long 0, 10
saved_esp: .long 0
user_ds: .long 0
user_es: .long 0
seen: .fill 16, 4, 0
