# Far calls, jumps and returns of real mode: offsets and stack pointers that wrap around, parameters,
# and code that is entered with several values of CS (SDM vol. 3, chapter 21).
.include "lib32.inc"

.set CODE16, 0x38
.set DATA16, 0x40
.set REAL, 0x200
.set ROUNDS, 40

main:
    DESCRIPTOR CODE16, 0x2000, 0xffff, CODE, 0
    DESCRIPTOR DATA16, 0, 0xffff, DATA, 0
    cld
    mov edi, REAL * 16
    mov esi, offset code16
    mov ecx, code16_end - code16
    rep movsb
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
    movzx eax, word ptr [0x500]
    jmp finish

.balign 16
.code16
.macro CHECK16 number
    je 9f
    mov ax, \number
    jmp failed
9:
.endm

code16:
    mov eax, DATA16
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    ljmp REAL, real - code16
real:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ax, 0x4000
    mov ss, ax
    mov sp, 0x8000

    # ---- calls in the same segment, and from another to the same linear address
    mov si, ROUNDS
    xor di, di
1:  lcall REAL, far_routine - code16
    cmp dx, REAL
    CHECK16 1
    lcall REAL - 1, far_routine - code16 + 16
    cmp dx, REAL - 1
    CHECK16 2
    push 7
    lcall REAL, far_imm - code16
    push cs
    call near_to_far
    mov ax, cs
    cmp ax, REAL
    CHECK16 3
    cmp sp, 0x8000
    CHECK16 4
    dec si
    jnz 1b
    cmp di, 4 * ROUNDS
    CHECK16 5
    # What is on the stack.
    mov bx, sp
    lcall REAL, far_routine - code16
after:
    cmp word ptr ss:[0x7ffe], REAL
    CHECK16 6
    cmp word ptr ss:[0x7ffc], offset after - code16
    CHECK16 7

    # ---- the stack pointer wraps: between the two words, and before both
    mov si, ROUNDS
2:  mov sp, 2
    lcall REAL, far_routine - code16
after2:
    cmp sp, 2
    CHECK16 8
    cmp word ptr ss:[0], REAL
    CHECK16 9
    cmp word ptr ss:[0xfffe], offset after2 - code16
    CHECK16 10
    mov sp, 0
    lcall REAL, far_routine - code16
after3:
    cmp sp, 0
    CHECK16 11
    cmp word ptr ss:[0xfffe], REAL
    CHECK16 12
    cmp word ptr ss:[0xfffc], offset after3 - code16
    CHECK16 13
    # The return's parameters lie at the other end.
    mov sp, 0
    push 7
    lcall REAL, far_imm - code16
    cmp sp, 0
    CHECK16 14
    dec si
    jnz 2b
    mov sp, 0x8000

    # ---- the upper half of ESP stays
    mov si, ROUNDS
3:  mov esp, 0x12348000
    lcall REAL, far_routine - code16
    cmp esp, 0x12348000
    CHECK16 15
    push 7
    lcall REAL, far_imm - code16
    cmp esp, 0x12348000
    CHECK16 16
    dec si
    jnz 3b
    mov esp, 0x8000

    # ---- flags are what they were
    mov si, ROUNDS
4:  stc
    lcall REAL, far_nothing - code16
    setc al
    clc
    lcall REAL, far_nothing - code16
    setc ah
    cmp ax, 1
    CHECK16 17
    dec si
    jnz 4b

    # ---- returns and jumps to the same code with another CS
    mov si, ROUNDS
5:  push REAL
    push offset 6f - code16
    lret
6:  mov ax, cs
    cmp ax, REAL
    CHECK16 18
    push REAL - 16
    push offset 6f - code16 + 256
    lret
6:  mov ax, cs
    cmp ax, REAL - 16
    CHECK16 19
    ljmp REAL, 6f - code16
6:  mov ax, cs
    cmp ax, REAL
    CHECK16 20
    ljmp REAL, 6f - code16
6:  dec si
    jnz 5b

    # ---- 32-bit operands
    mov si, ROUNDS
7:  data32 lcall REAL, far_wide - code16
    cmp sp, 0x8000
    CHECK16 21
    dec si
    jnz 7b
    xor ax, ax
failed:
    xor dx, dx
    mov ds, dx
    mov ds:[0x500], ax
    lgdt cs:[pointer - code16]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    data32 ljmp CODE0, offset back

far_routine:
    inc di
    mov dx, cs
    lret
far_imm:
    inc di
    lret 2
near_to_far:
    inc di
    lret
far_nothing:
    lret
far_wide:
    data32 lret
pointer:
    .word 0x1ff
    .long gdt
code16_end:
