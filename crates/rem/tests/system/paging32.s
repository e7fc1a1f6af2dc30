# Paging of 32-bit mode: with and without PAE, large pages, WP, NX, reserved bits, accessed and dirty
# bits, PDPTEs (SDM vol. 3, 4.3, 4.4 and 4.7).
.include "lib32.inc"

.set PG, 0x80000000
.set WP, 0x10000
.set PSE, 0x10
.set PAE, 0x20
# Tables, and the address that is looked at: entry 0x200 of the directory, 0x80000000.
.set PD, 0x200000
.set PT, 0x201000
.set PDPT, 0x202000
.set PD0, 0x203000
.set PD2, 0x204000
.set PT2, 0x205000
.set LOOK, 0x80000000
.set PAGE, 0x300000

# The access must be good, or raise a page fault with this code at this address.
.macro GOOD number, insn:vararg
    RESUME 8f
    \insn
    jmp 7f
8:  mov eax, \number
    jmp finish
7:
.endm
.macro FAULT number, code, at, insn:vararg
    RESUME 8f
    \insn
8:  CAME \number, 14, \code
    SAME \number+2, [frame_cr2], \at
.endm
# Level 3 runs `label` to an exception.
.macro USER number, label, vector, code
    RESUME 8f
    TO_USER \label, "offset stack3_end", 2
8:  CAME \number, \vector, \code
.endm

.macro FLUSH
    mov eax, cr3
    mov cr3, eax
.endm

main:
    IDT_GATE 3, CODE0, vectors+3*16, INT32|DPL3
    mov dword ptr [PAGE], 0x11111111
    mov dword ptr [PAGE + 0x100000], 0x22222222
    # ---- two levels; the first 4 MiB one to one, for level 3 as well, by a table
    mov edi, PD
    xor eax, eax
    mov ecx, 0x6000 / 4
    rep stosd
    mov edi, PT
    mov eax, 7
    mov ecx, 1024
1:  stosd
    add eax, 0x1000
    loop 1b
    mov dword ptr [PD], PT + 7
    mov eax, PD
    mov cr3, eax
    mov eax, cr0
    or eax, PG | WP
    mov cr0, eax
    jmp 1f
1:  FAULT 1, 0, LOOK+4, mov eax, ds:[LOOK+4]
    FAULT 4, 2, LOOK+4, mov ds:[LOOK+4], eax
    # A table of its own.
    mov dword ptr [PD + 0x800], PT2 + 7
    mov dword ptr [PT2], PAGE + 3
    GOOD 7, mov eax, ds:[LOOK]
    cmp eax, 0x11111111
    CHECK 8
    # Accessed in both levels, dirty not yet.
    mov eax, [PD + 0x800]
    and eax, 0xfff
    cmp eax, 0x27
    CHECK 9
    mov eax, [PT2]
    and eax, 0xfff
    cmp eax, 0x23
    CHECK 10
    GOOD 11, mov dword ptr ds:[LOOK+8], 5
    mov eax, [PT2]
    and eax, 0xfff
    cmp eax, 0x63
    CHECK 12
    # Rights are those of both levels.
    mov dword ptr [PD + 0x800], PT2 + 5
    FLUSH
    FAULT 13, 3, LOOK, mov ds:[LOOK], eax
    mov eax, cr0
    and eax, ~WP
    mov cr0, eax
    GOOD 16, mov ds:[LOOK+8], eax
    or eax, WP
    mov eax, cr0
    or eax, WP
    mov cr0, eax
    USER 17, read_it, 14, 5
    mov dword ptr [PT2], PAGE + 7
    FLUSH
    USER 19, read_it, 3, 0
    USER 21, write_it, 14, 7
    mov dword ptr [PD + 0x800], PT2 + 3
    FLUSH
    USER 23, read_it, 14, 5

    # ---- pages of 4 MiB: bit 7 is ignored without PSE
    mov dword ptr [PD + 0x800], PT2 + 0x87
    FLUSH
    GOOD 25, mov eax, ds:[LOOK]
    cmp eax, 0x11111111
    CHECK 26
    mov eax, cr4
    or eax, PSE
    mov cr4, eax
    mov dword ptr [PD + 0x800], 0x87
    FLUSH
    GOOD 27, mov eax, ds:[LOOK + PAGE + 0x100000 - 0x100000]
    cmp eax, 0x11111111
    CHECK 28
    mov eax, [PD + 0x800]
    and eax, 0xfff
    cmp eax, 0xa7
    CHECK 29
    # Reserved bit 21.
    mov dword ptr [PD + 0x800], 0x200087
    FLUSH
    FAULT 30, 9, LOOK+PAGE, mov eax, ds:[LOOK+PAGE]
    # A page fault does not change the entries of the levels above.
    mov dword ptr [PD + 0x800], 0

    # ---- the TLB: an entry stays until INVLPG or CR3
    mov dword ptr [PD + 0x800], PT2 + 7
    mov dword ptr [PT2], PAGE + 7
    GOOD 33, mov eax, ds:[LOOK]
    mov dword ptr [PT2], PAGE + 0x1007
    mov dword ptr [PAGE + 0x1000], 0x33333333
    invlpg ds:[LOOK]
    mov eax, ds:[LOOK]
    cmp eax, 0x33333333
    CHECK 34
    mov dword ptr [PT2], PAGE + 7
    FLUSH
    mov eax, ds:[LOOK]
    cmp eax, 0x11111111
    CHECK 35

    # ---- an instruction over two pages: the first byte that is not there
    mov dword ptr [PT2 + 4], 0
    FAULT 36, 0, LOOK+0x1000, mov eax, ds:[LOOK+0xffe]
    FAULT 39, 2, LOOK+0x1000, mov ds:[LOOK+0xffe], eax
    # Nothing was written.
    mov dword ptr [PAGE + 0xffc], 0x77777777
    FAULT 42, 2, LOOK+0x1000, mov ds:[LOOK+0xffd], eax
    cmp dword ptr [PAGE + 0xffc], 0x77777777
    CHECK 45
    # PUSHA in the middle.
    mov [saved_esp], esp
    mov esp, LOOK + 0x1008
    mov dword ptr [PT2 + 4], PAGE + 0x1007
    mov dword ptr [PT2], 0
    FLUSH
    mov dword ptr [resume], offset 1f
    mov eax, [saved_esp]
    mov [resume_esp], eax
    mov dword ptr [resume_ss], DATA0
    # The fault needs a stack: a task's.
    DESCRIPTOR FREE, tss2, 0x67, TSS32, 0
    mov dword ptr [tss2 + 0x1c], PD
    mov dword ptr [tss2 + 0x20], offset stack_fault
    mov dword ptr [tss2 + 0x24], 2
    mov dword ptr [tss2 + 0x38], offset stack3_end
    .irp o, 0x48, 0x50, 0x54, 0x58, 0x5c
    mov dword ptr [tss2 + \o], DATA0
    .endr
    mov dword ptr [tss2 + 0x4c], CODE0
    mov dword ptr [tss + 0x1c], PD
    IDT_GATE 14, FREE, 0, TASK
push_all:
    pusha
    mov eax, 46
    jmp finish
stack_fault:
    pop eax
    cmp eax, 2
    CHECK 47
    SAME 48, [tss + 0x20], "offset push_all"
    SAME 49, [tss + 0x38], LOOK+0x1008
    mov eax, cr2
    cmp eax, LOOK + 0xffc
    CHECK 50
    mov dword ptr [tss + 0x20], offset 1f
    mov eax, [saved_esp]
    mov [tss + 0x38], eax
    iret
1:  IDT_GATE 14, CODE0, vectors+14*16, INT32
    clts

    # ---- PAE
    mov eax, cr0
    and eax, ~PG
    mov cr0, eax
    jmp 1f
1:  mov dword ptr [PDPT], PD0 + 1
    mov dword ptr [PDPT + 16], PD2 + 1
    mov dword ptr [PD0], 0x87
    mov dword ptr [PD0 + 8], 0x200087
    mov dword ptr [PD2], PT2 + 7
    mov dword ptr [PT2], PAGE + 7
    mov dword ptr [PT2 + 4], 0
    mov eax, cr4
    or eax, PAE
    mov cr4, eax
    mov eax, PDPT
    mov cr3, eax
    mov eax, cr0
    or eax, PG
    mov cr0, eax
    jmp 1f
1:  GOOD 60, mov eax, ds:[LOOK]
    cmp eax, 0x11111111
    CHECK 61
    # The four entries are read when CR3 is loaded.
    mov dword ptr [PDPT + 16], 0
    invlpg ds:[LOOK]
    GOOD 62, mov eax, ds:[LOOK]
    FLUSH
    FAULT 63, 0, LOOK, mov eax, ds:[LOOK]
    # Reserved bits there: #GP of the load, CR3 as it was.
    mov dword ptr [PDPT + 16], PD2 + 7
    mov eax, PDPT + 0x20
    mov dword ptr [PDPT + 0x20 + 16], 0x1e7
    RESUME 8f
    mov cr3, eax
8:  CAME 66, 13, 0
    mov eax, cr3
    cmp eax, PDPT
    CHECK 68
    mov dword ptr [PDPT + 16], PD2 + 1
    FLUSH
    # 2 MiB, from 0x200000.
    mov dword ptr [PD2], 0x200087
    FLUSH
    GOOD 69, mov eax, ds:[LOOK+0x100000]
    cmp eax, 0x11111111
    CHECK 70
    mov dword ptr [PD2], 0x202087
    FLUSH
    FAULT 71, 9, LOOK, mov eax, ds:[LOOK]
    mov dword ptr [PD2], PT2 + 7
    # Bit 63 is reserved until NX is enabled.
    mov dword ptr [PT2 + 4 + 4], 0
    mov dword ptr [PT2], PAGE + 7
    mov dword ptr [PT2 + 4], 0x80000000
    mov byte ptr [PAGE + 0x20], 0xc3
    FLUSH
    FAULT 74, 9, LOOK, mov eax, ds:[LOOK]
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x800
    wrmsr
    FLUSH
    GOOD 77, mov eax, ds:[LOOK]
    mov ebx, LOOK + 0x20
    FAULT 78, 0x11, LOOK+0x20, call ebx
    mov dword ptr [PT2 + 4], 0
    FLUSH
    GOOD 81, call ebx
    # In the directory it is for all below.
    mov dword ptr [PD2 + 4], 0x80000000
    FLUSH
    FAULT 82, 0x11, LOOK+0x20, call ebx
    mov dword ptr [PD2 + 4], 0
    # An entry beyond the physical addresses.
    mov dword ptr [PT2 + 4], 0x80000
    FLUSH
    FAULT 85, 9, LOOK, mov eax, ds:[LOOK]
    mov dword ptr [PT2 + 4], 0
    FLUSH
    GOOD 88, mov eax, ds:[LOOK]

    # ---- without paging again
    mov eax, cr0
    and eax, ~PG
    mov cr0, eax
    jmp 1f
1:  xor eax, eax
    jmp finish

read_it:
    mov ax, DATA3
    mov ds, ax
    mov eax, ds:[LOOK]
    int3
write_it:
    mov ax, DATA3
    mov ds, ax
    mov ds:[LOOK], eax
    int3

.balign 4
saved_esp: .long 0
tss2: .fill 0x68, 1, 0
