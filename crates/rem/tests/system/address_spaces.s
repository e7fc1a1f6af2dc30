# Two address spaces with PCIDs that map code and data at the same address to different pages: what
# loads of CR3 keep, and what they and INVPCID take away (SDM vol. 3, 4.10.4).
.include "lib.inc"

.set A, 0x1000 | 1              # CR3 of the first space, PCID 1
.set B, 0x300000 | 2
.set PT_B, 0x303000

# Loads CR3; with `keep` 1, what is known under the PCID stays.
.macro SPACE which, keep
    mov rax, \which
    .if \keep
    bts rax, 63
    .endif
    mov cr3, rax
.endm

# Calls the code at WINDOW, and reads the data behind it: both say which page it is.
.macro EXPECT number, page
    mov rcx, WINDOW
    call rcx
    cmp eax, \page
    CHECK \number
    call near_window
    cmp eax, \page
    CHECK \number
    mov eax, [rcx + 0x800]
    cmp eax, \page
    CHECK \number
    mov [rcx + 0x804], eax
.endm

.macro INVALIDATE kind, pcid, address
    mov qword ptr [rip + descriptor], \pcid
    mov rax, \address
    mov [rip + descriptor + 8], rax
    mov eax, \kind
    invpcid rax, [rip + descriptor]
.endm

# A page of code and data that says `page`.
.macro PAGE at, page
    mov byte ptr [\at], 0xb8        # mov eax, page; ret
    mov dword ptr [\at + 1], \page
    mov byte ptr [\at + 5], 0xc3
    mov dword ptr [\at + 0x800], \page
.endm

main:
    PAGE 0x200000, 1
    PAGE 0x202000, 2
    PAGE 0x204000, 3
    mov qword ptr [PT], 0x200000 | 3
    mov qword ptr [0x300000], 0x301000 | 7
    mov rax, [0x2000]
    mov [0x301000], rax
    mov qword ptr [0x301008], 0x302000 | 7
    mov qword ptr [0x302000], PT_B | 7
    mov qword ptr [PT_B], 0x202000 | 3
    mov rax, cr4
    or eax, 0x20000
    mov cr4, rax
    SPACE A, 0
    SPACE B, 0

    mov ebx, 8
1:  SPACE A, 1
    EXPECT 1, 1
    SPACE B, 1
    EXPECT 2, 2
    dec ebx
    jnz 1b

    # A load of CR3 that keeps nothing.
    mov qword ptr [PT], 0x204000 | 3
    SPACE A, 0
    EXPECT 3, 3
    SPACE B, 1
    EXPECT 4, 2
    # INVPCID of all of another space, and of an address in it.
    mov qword ptr [PT], 0x200000 | 3
    INVALIDATE 1, 1, 0
    SPACE A, 1
    EXPECT 5, 1
    SPACE B, 1
    EXPECT 6, 2
    mov qword ptr [PT], 0x204000 | 3
    INVALIDATE 0, 1, WINDOW
    SPACE A, 1
    EXPECT 7, 3
    SPACE B, 1
    # Of all spaces, without and with global pages.
    mov qword ptr [PT], 0x200000 | 3
    INVALIDATE 3, 0, 0
    SPACE A, 1
    EXPECT 8, 1
    SPACE B, 1
    mov qword ptr [PT], 0x204000 | 3
    INVALIDATE 2, 0, 0
    SPACE A, 1
    EXPECT 9, 3
    # Of the current one, and INVLPG.
    mov qword ptr [PT], 0x200000 | 3
    INVALIDATE 1, 1, 0
    EXPECT 10, 1
    mov qword ptr [PT], 0x204000 | 3
    mov rcx, WINDOW
    invlpg [rcx]
    EXPECT 11, 3
    SPACE B, 1
    SPACE A, 1
    EXPECT 12, 3

    # A PCID that gets another table: translations are the PCID's.
    SPACE B, 1
    SPACE 0x300001, 0
    EXPECT 13, 2
    SPACE B, 1
    SPACE A, 0
    EXPECT 14, 3

    # Code that changes while its space is not in use.
    SPACE B, 1
    PAGE 0x204000, 4
    SPACE A, 1
    EXPECT 15, 4
    # PCIDs off (CR3 must have none), and the usual rules again.
    SPACE 0x1000, 0
    mov rax, cr4
    and eax, ~0x20000
    mov cr4, rax
    EXPECT 16, 4
    mov qword ptr [PT], 0x200000 | 3
    mov rax, cr3
    mov cr3, rax
    EXPECT 17, 1
    xor eax, eax
    hlt

# A direct jump that leads to another page.
near_window:
    jmp WINDOW

.balign 16
descriptor: .quad 0, 0
