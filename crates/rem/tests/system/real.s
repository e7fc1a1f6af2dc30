# Real mode: interrupts through the table, limits, segments that protected mode made larger, operand
# and address sizes by prefix, and the way there and back (SDM vol. 3, 10.9 and chapter 21).
.include "lib32.inc"

.set CODE16, 0x38
.set DATA16, 0x40
.set BIG, 0x48
# The 16-bit code is at linear 0x2000: paragraph 0x200.
.set REAL, 0x200

main:
    DESCRIPTOR CODE16, 0x2000, 0xffff, CODE, 0
    DESCRIPTOR DATA16, 0, 0xffff, DATA, 0
    DESCRIPTOR BIG, 0, 0xfffff, DATA, 8
    cld
    mov edi, REAL * 16
    mov esi, offset code16
    mov ecx, code16_end - code16
    rep movsb
    mov dword ptr [0x180000], 0x600dcafe
    ljmp CODE16, 0
.balign 16
.code32
back:
    mov ax, DATA0
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov esp, offset stack_end
    lidt [idt_pointer]
    movzx eax, word ptr [0x500]
    cmp eax, 0
    jne finish
    # ---- 16-bit code of protected mode with a 32-bit stack
    mov eax, DATA0
    RESUME 1f
    ljmp CODE16, protected16 - code16
1:  CAME 200, 3, 0
    SAME 202, [frame_eip], "protected16_end - code16"
    cmp ebx, 0x11112222
    CHECK 203
    cmp ecx, 0x33334444
    CHECK 204
    xor eax, eax
    jmp finish

.balign 16
.code16
.macro CHECK16 number
    je 9f
    mov ax, \number
    jmp failed
9:
.endm
# A vector of the table.
.macro VECTOR number, label
    mov word ptr ds:[4 * \number], offset \label - code16
    mov word ptr ds:[4 * \number + 2], REAL
.endm

code16:
    mov eax, DATA16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov eax, BIG
    mov fs, ax
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    ljmp REAL, real - code16
real:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7000
    mov word ptr ds:[0x500], 0
    lidt cs:[table - code16]

    # ---- FS kept its limit: loads change the base only
    mov ebx, 0x180000
    mov eax, fs:[ebx]
    cmp eax, 0x600dcafe
    CHECK16 1
    mov ax, 0x1000
    mov fs, ax
    mov ebx, 0x170000
    mov eax, fs:[ebx]
    cmp eax, 0x600dcafe
    CHECK16 2
    # DS has 64 KiB.
    VECTOR 13, general
    VECTOR 12, stack_limit
    mov ebx, 0x180000
    mov bp, offset 1f - code16
    mov byte ptr ds:[0x510], 0
    mov eax, ds:[ebx]
1:  cmp byte ptr ds:[0x510], 13
    CHECK16 3
    mov bp, offset 1f - code16
    mov ax, ds:[0xffff]
1:  cmp byte ptr ds:[0x510], 13 + 13
    CHECK16 4
    mov byte ptr ds:[0x510], 0
    mov bp, offset 1f - code16
    mov ax, ss:[0xffff]
1:  cmp byte ptr ds:[0x510], 12
    CHECK16 5

    # ---- INT: flags, CS and IP on the stack; IF and TF off; IRET puts all back
    VECTOR 0x60, handler
    pushf
    pop ax
    or ax, 0x201
    push ax
    popf
    mov dx, sp
    int 0x60
int_after:
    pushf
    pop bx
    cmp sp, dx
    CHECK16 6
    and bx, 0x201
    cmp bx, 0x201
    CHECK16 7
    cli
    cmp word ptr ds:[0x512], offset int_after - code16
    CHECK16 8
    cmp word ptr ds:[0x514], REAL
    CHECK16 9
    mov ax, ds:[0x516]
    and ax, 0x201
    cmp ax, 0x201
    CHECK16 10
    mov ax, ds:[0x518]
    and ax, 0x200
    CHECK16 11
    # A division: the return address is that of the instruction.
    VECTOR 0, divided
    mov bp, offset 1f - code16
    xor cx, cx
divide:
    div cx
1:  cmp word ptr ds:[0x512], offset divide - code16
    CHECK16 12
    # INT3, INTO.
    VECTOR 3, handler
    VECTOR 4, handler
    int3
int3_after:
    cmp word ptr ds:[0x512], offset int3_after - code16
    CHECK16 13
    mov al, 0x7f
    inc al
    into
into_after:
    cmp word ptr ds:[0x512], offset into_after - code16
    CHECK16 14
    # A table that ends before the vector.
    lidt cs:[short_table - code16]
    mov byte ptr ds:[0x510], 0
    mov bp, offset 1f - code16
    int 0x60
1:  cmp byte ptr ds:[0x510], 13
    CHECK16 15
    # Elsewhere.
    lidt cs:[other_table - code16]
    mov word ptr ds:[0x8000 + 4 * 5], offset handler - code16
    mov word ptr ds:[0x8000 + 4 * 5 + 2], REAL
    int 5
int5_after:
    cmp word ptr ds:[0x512], offset int5_after - code16
    CHECK16 16
    lidt cs:[table - code16]

    # ---- the stack wraps around at 64 KiB
    mov sp, 0
    push 0x1234
    cmp sp, 0xfffe
    CHECK16 17
    cmp word ptr ds:[0xfffe], 0x1234
    CHECK16 18
    pop ax
    cmp sp, 0
    CHECK16 19
    mov sp, 0x7000
    # The upper half of ESP does not count, and stays.
    mov esp, 0xabcd7000
    push eax
    cmp esp, 0xabcd6ffc
    CHECK16 20
    pop eax
    mov esp, 0x7000

    # ---- sizes by prefix
    mov eax, 0x12345678
    push eax
    pop bx
    pop cx
    cmp bx, 0x5678
    CHECK16 21
    cmp cx, 0x1234
    CHECK16 22
    data32 call near32
    cmp sp, 0x7000
    CHECK16 23
    # A far call with a 32-bit offset, and its return.
    data32 lcall REAL, far32 - code16
    cmp sp, 0x7000
    CHECK16 24
    mov esi, 0x9000
    mov edi, 0x9100
    mov ecx, 4
    mov dword ptr ds:[0x9000], 0x87654321
    addr32 rep movsb
    cmp dword ptr ds:[0x9100], 0x87654321
    CHECK16 25
    cmp ecx, 0
    CHECK16 26
    # LOOP counts CX, with the prefix ECX.
    mov ecx, 0x10001
    loop bad_loop
    mov ecx, 0x10001
    addr32 loop 1f
bad_loop:
    mov ax, 27
    jmp failed
1:  cmp ecx, 0x10000
    CHECK16 28
    # A jump whose 32-bit target is beyond 64 KiB faults itself.
    mov byte ptr ds:[0x510], 0
    mov bp, offset 1f - code16
    mov eax, 0x10000 + failed - code16
    jmp eax
1:  cmp byte ptr ds:[0x510], 13
    CHECK16 29
    # Segments wrap around linear memory only at 1 MiB and more: FFFF:0010 is 0x100000.
    mov ax, 0xffff
    mov es, ax
    mov eax, es:[0x10]
    mov ebx, 0xf0000
    cmp eax, fs:[ebx]
    CHECK16 30
    # ---- what is not there
    VECTOR 6, general_ud
    .irp n, sldt, str, lldt, ltr, verr, verw, lar, lsl, arpl
    mov byte ptr ds:[0x510], 0
    mov bp, offset 1f - code16
    call try_\n
1:  add sp, 2
    cmp byte ptr ds:[0x510], 6
    CHECK16 31
    .endr
    mov sp, 0x7000
    jmp leave
failed:
    xor bx, bx
    mov ds, bx
    mov ds:[0x500], ax
leave:
    lgdt cs:[tables - code16]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    data32 ljmp CODE0, offset back

try_sldt: sldt ax
try_str: str ax
try_lldt: lldt ax
try_ltr: ltr ax
try_verr: verr ax
try_verw: verw ax
try_lar: lar ax, ax
try_lsl: lsl ax, ax
try_arpl: .byte 0x63, 0xc0

# Exceptions go on at BP.
general:
    mov al, 13
    jmp 1f
general_ud:
    mov al, 6
    jmp 1f
stack_limit:
    mov al, 12
1:  add sp, 6
    add ds:[0x510], al
    jmp bp
divided:
    pop ax
    mov ds:[0x512], ax
    add sp, 4
    jmp bp
# Keeps frame and flags.
handler:
    push ax
    pushf
    pop ax
    mov ds:[0x518], ax
    push bp
    mov bp, sp
    mov ax, [bp + 4]
    mov ds:[0x512], ax
    mov ax, [bp + 6]
    mov ds:[0x514], ax
    mov ax, [bp + 8]
    mov ds:[0x516], ax
    pop bp
    pop ax
    iret
near32:
    data32 ret
far32:
    data32 retf

# In protected mode, with SS 32-bit and flat.
protected16:
    mov esp, offset stack_end
    push 0x1111
    push 0x2222
    mov ebx, [esp]
    data32 push 0x33334444
    pop ecx
    int3
protected16_end:

.balign 4
table: .word 0x3ff
    .long 0
short_table: .word 0x60 * 4 + 2
    .long 0
other_table: .word 0x3ff
    .long 0x8000
tables: .word 0x1ff
    .long gdt
code16_end:
