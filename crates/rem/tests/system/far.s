# Far transfers and loads of segment registers that are made again and again: each sees what its
# descriptor is at the time, and what the registers of the tables are (SDM vol. 3, chapter 5).
.include "lib32.inc"

.set SLOT, 0x38
.set OTHER, 0x40
.set SHORT, 0x48
.set LOCAL, 0x50
.set CODE16, 0x58
.set TASKSEL, 0x60
.set IN_LDT, 0x0c
# Far from all code, so that writing is not seen.
.set STACK, 0x300000
.set TABLE2, 0x310000
.set LDTAT, 0x320000
.set ROUNDS, 40

.macro LOOP_START
    mov esi, ROUNDS
6:
.endm
.macro LOOP_END
    dec esi
    jnz 6b
.endm

# Loads FS; the instruction is always the same.
load_fs:
    mov eax, [selector]
    mov fs, eax
    ret
# FS:[0].
read_fs:
    call load_fs
    mov eax, fs:[0]
    ret
# Calls far; EAX counts.
call_other:
    lcall OTHER, offset called
    ret
called:
    inc edi
    mov edx, cs
    lret
called_imm:
    inc edi
    lret 8
selector: .long SLOT
pointer2: .word 0x1ff
    .long TABLE2
short_pointer: .word SLOT - 1
    .long gdt

main:
    mov esp, STACK
    mov dword ptr [0x200000], 0x11111111
    mov dword ptr [0x201000], 0x22222222
    mov dword ptr [0x202000], 0x33333333

    # ---- the descriptor of a selector changes between two loads
    DESCRIPTOR SLOT, 0x200000, 0xfff, DATA, 4
    LOOP_START
    call read_fs
    cmp eax, 0x11111111
    CHECK 1
    LOOP_END
    LOOP_START
    DESCRIPTOR SLOT, 0x201000, 0xfff, DATA, 4
    call read_fs
    cmp eax, 0x22222222
    CHECK 2
    DESCRIPTOR SLOT, 0x200000, 0xfff, DATA, 4
    call read_fs
    cmp eax, 0x11111111
    CHECK 3
    LOOP_END
    # Its limit too.
    call read_fs
    DESCRIPTOR SLOT, 0x200000, 0, DATA, 4
    call load_fs
    mov al, fs:[0]
    RESUME 1f
    mov al, fs:[1]
1:  CAME 4, 13, 0
    # Not present, and not a segment any more.
    DESCRIPTOR SLOT, 0x200000, 0xfff, DATA&~0x80, 4
    RESUME 1f
    call load_fs
1:  CAME 6, 11, SLOT
    mov dword ptr [gdt + SLOT + 4], 0
    RESUME 1f
    call load_fs
1:  CAME 8, 13, SLOT
    # A load marks the descriptor each time.
    DESCRIPTOR SLOT, 0x200000, 0xfff, DATA, 4
    call load_fs
    call load_fs
    and byte ptr [gdt + SLOT + 5], 0xfe
    call load_fs
    test byte ptr [gdt + SLOT + 5], 1
    setz al
    cmp al, 0
    CHECK 10

    # ---- another table, and a shorter one
    mov esi, offset gdt
    mov edi, TABLE2
    mov ecx, 128
    rep movsd
    mov byte ptr [TABLE2 + SLOT + 3], 0x10
    call read_fs
    cmp eax, 0x11111111
    CHECK 11
    lgdt [pointer2]
    call read_fs
    cmp eax, 0x22222222
    CHECK 12
    lgdt [short_pointer]
    RESUME 1f
    call load_fs
1:  CAME 13, 13, SLOT
    lgdt [gdt_pointer]
    call read_fs
    cmp eax, 0x11111111
    CHECK 15

    # ---- selectors of the local table
    DESCRIPTOR LOCAL, LDTAT, 0xfff, LDT, 0
    mov eax, [gdt + SLOT]
    mov [LDTAT + (IN_LDT & ~7)], eax
    mov eax, [gdt + SLOT + 4]
    mov [LDTAT + (IN_LDT & ~7) + 4], eax
    mov eax, LOCAL
    lldt ax
    mov dword ptr [selector], IN_LDT
    LOOP_START
    call read_fs
    cmp eax, 0x11111111
    CHECK 16
    LOOP_END
    mov byte ptr [LDTAT + (IN_LDT & ~7) + 3], 0x20
    call read_fs
    cmp eax, 0x33333333
    CHECK 17
    xor eax, eax
    lldt ax
    RESUME 1f
    call load_fs
1:  CAME 18, 13, IN_LDT
    mov dword ptr [selector], SLOT

    # ---- far calls and returns
    mov dword ptr [gdt + OTHER], 0x0000ffff
    mov dword ptr [gdt + OTHER + 4], 0x00cf9b00
    xor edi, edi
    LOOP_START
    call call_other
    cmp edx, OTHER
    CHECK 20
    mov eax, cs
    cmp eax, CODE0
    CHECK 21
    cmp esp, STACK
    CHECK 22
    LOOP_END
    cmp edi, ROUNDS
    CHECK 23
    # The return releases parameters.
    LOOP_START
    push 1
    push 2
    lcall OTHER, offset called_imm
    cmp esp, STACK
    CHECK 24
    push 1
    push 2
    push cs
    call called_imm
    cmp esp, STACK
    CHECK 25
    LOOP_END
    cmp edi, 3 * ROUNDS
    CHECK 26
    # What is on the stack: CS above the offset.
    mov dword ptr [STACK - 8], -1
    call call_other
    cmp dword ptr [STACK - 8], CODE0
    CHECK 27
    # No longer present, or data.
    and byte ptr [gdt + OTHER + 5], 0x7f
    mov ebx, edi
    RESUME 1f
    call call_other
1:  CAME 28, 11, OTHER
    mov byte ptr [gdt + OTHER + 5], DATA
    RESUME 1f
    call call_other
1:  CAME 30, 13, OTHER
    cmp ebx, edi
    CHECK 32
    # A limit that the target lies beyond: nothing is done but what the stack has.
    mov dword ptr [gdt + OTHER], 0x00000fff
    mov dword ptr [gdt + OTHER + 4], 0x00409b00
    mov esp, STACK
    RESUME 1f
    call call_other
1:  CAME 33, 13, 0
    cmp ebx, edi
    CHECK 35
    cmp word ptr [frame_cs], CODE0
    CHECK 36
    mov dword ptr [gdt + OTHER], 0x0000ffff
    mov dword ptr [gdt + OTHER + 4], 0x00cf9b00
    mov esp, STACK
    call call_other
    inc ebx
    cmp ebx, edi
    CHECK 37
    # A return to a segment that has gone meanwhile.
    mov esi, 3
5:  mov esp, STACK
    push OTHER
    push offset 1f
    RESUME 2f
    lret
1:  mov eax, cs
    cmp eax, OTHER
    CHECK 38
    dec esi
    jz 3f
    ljmp CODE0, offset 5b
3:  ljmp CODE0, offset 3f
3:  and byte ptr [gdt + OTHER + 5], 0x7f
    mov esi, 100
    jmp 5b
2:  CAME 39, 11, OTHER
    cmp esi, 100
    CHECK 41
    mov esp, STACK

    # ---- segment registers on the stack
    LOOP_START
    call load_fs
    push fs
    push cs
    pushw ds
    cmp esp, STACK - 10
    CHECK 46
    cmp word ptr [STACK - 4], SLOT
    CHECK 47
    cmp word ptr [STACK - 8], CODE0
    CHECK 48
    cmp word ptr [STACK - 10], DATA0
    CHECK 49
    add esp, 10
    LOOP_END

    # ---- 16-bit code at two bases runs from the same linear address
    mov dword ptr [gdt + CODE16], 0x0000ffff
    mov dword ptr [gdt + CODE16 + 4], 0x00009b02
    mov esi, offset small
    mov edi, 0x20000
    mov ecx, small_end - small
    rep movsb
    mov esi, ROUNDS
4:  mov dword ptr [gdt + CODE16], 0x0000ffff
    lcall CODE16, 0
    cmp eax, 6
    CHECK 42
    # The same code 16 bytes into a segment that starts earlier.
    mov dword ptr [gdt + CODE16], 0xfff0ffff
    mov byte ptr [gdt + CODE16 + 4], 0x01
    lcall CODE16, 16
    cmp eax, 22
    CHECK 43
    mov byte ptr [gdt + CODE16 + 4], 0x02
    dec esi
    jnz 4b

    # ---- a jump to another task is still one where jumps to code were
    mov esi, 2
    DESCRIPTOR TASKSEL, 0x330000, 0x67, TSS32, 0
    mov dword ptr [0x330000 + 0x20], offset task
    mov dword ptr [0x330000 + 0x24], 2
    mov dword ptr [0x330000 + 0x38], STACK - 64
    mov dword ptr [0x330000 + 0x48], DATA0
    mov dword ptr [0x330000 + 0x4c], CODE0
    mov dword ptr [0x330000 + 0x50], DATA0
    mov dword ptr [0x330000 + 0x54], DATA0
    mov dword ptr [0x330000 + 0x58], SLOT
    mov dword ptr [0x330000 + 0x5c], DATA0
    mov dword ptr [0x330000 + 0x60], 0
    mov dword ptr [0x330000 + 0x64], 0x680000
    lcall TASKSEL, 0
    call read_fs
    cmp eax, 0x11111111
    CHECK 44
    cmp dword ptr [0x203000], 0x11111111
    CHECK 45
    xor eax, eax
    jmp finish

task:
    mov eax, fs:[0]
    mov [0x203000], eax
    call read_fs
    mov [0x203000], eax
    iret

.code16
# Leaves the offset of its middle.
small:
    xor eax, eax
    call 1f
1:  pop ax
    data32 lret
small_end:
