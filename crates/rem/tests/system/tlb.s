# What the TLB may keep and what each instruction throws away: INVLPG, CR3, global pages, PCIDs,
# INVPCID; large pages (SDM vol. 3, 4.10). Entries may go at any time, so a stale one is never
# asked for; only that a new one is seen where it must be.
.include "lib.inc"

.set PML4, 0x1000
.set PDPT, 0x2000
.set PGE, 0x80
.set PCIDE, 0x20000
.set ONE, 0x200000
.set TWO, 0x201000
# Another set of tables that shares all but the window.
.set PML4_B, 0x203000
.set PDPT_B, 0x204000
.set PD_B, 0x205000
.set PT_B, 0x206000

# The window's page is `page` with these bits.
.macro MAP page, bits
    mov qword ptr [PT], \page + \bits
.endm
# What is seen there now.
.macro SEE number, value
    cmp dword ptr [rdi], \value
    CHECK \number
.endm

main:
    mov dword ptr [ONE], 1
    mov dword ptr [TWO], 2
    mov edi, WINDOW
    MAP ONE, 3
    invlpg [rdi]
    SEE 1, 1
    MAP TWO, 3
    invlpg [rdi]
    SEE 2, 2
    # Any address of the page does.
    MAP ONE, 3
    invlpg [rdi + 0xfff]
    SEE 3, 1
    MAP TWO, 3
    mov rax, cr3
    mov cr3, rax
    SEE 4, 2
    # Not-present entries are not kept at all.
    MAP ONE, 2
    invlpg [rdi]
    RESUME 1f
    mov eax, [rdi]
1:  cmp qword ptr [rip + vector], 14
    CHECK 5
    MAP ONE, 3
    SEE 6, 1
    # More rights are found after the fault that lacked them (4.10.4.3).
    MAP ONE, 1
    invlpg [rdi]
    RESUME 1f
    mov dword ptr [rdi], 1
1:  cmp qword ptr [rip + vector], 14
    CHECK 7
    MAP ONE, 3
    mov dword ptr [rdi], 1
    # Dirty is set again after it was cleared.
    MAP ONE, 3
    invlpg [rdi]
    mov dword ptr [rdi], 1
    test byte ptr [PT], 0x40
    setz al
    test al, al
    CHECK 8
    # Accessed, too, with what uses the entry being a fetch.
    mov byte ptr [ONE + 0x10], 0xc3
    MAP ONE, 3
    invlpg [rdi]
    lea rax, [rdi + 0x10]
    call rax
    mov eax, [PT]
    and eax, 0x60
    cmp eax, 0x20
    CHECK 9

    # ---- global pages: CR3 keeps them, INVLPG and a change of CR4.PGE do not
    mov rax, cr4
    or rax, PGE
    mov cr4, rax
    MAP ONE, 0x103
    SEE 10, 1
    MAP TWO, 0x103
    invlpg [rdi]
    SEE 11, 2
    MAP ONE, 0x103
    mov rax, cr4
    and rax, ~PGE
    mov cr4, rax
    SEE 12, 1
    MAP TWO, 0x103
    or rax, PGE
    mov cr4, rax
    SEE 13, 2
    # CR0.PG, WP and the like flush everything, too: here WP takes a right away.
    mov rax, cr0
    and rax, ~0x10000
    mov cr0, rax
    MAP ONE, 0x101
    invlpg [rdi]
    mov dword ptr [rdi], 1
    or rax, 0x10000
    mov cr0, rax
    RESUME 1f
    mov dword ptr [rdi], 1
1:  cmp qword ptr [rip + vector], 14
    CHECK 14
    # A global translation of one address space is not the other's once it was asked to go.
    MAP ONE, 0x103
    invlpg [rdi]

    # ---- two address spaces
    mov esi, PML4
    mov edi, PML4_B
    mov ecx, 512 * 2
    rep movsq
    mov qword ptr [PML4_B], PDPT_B + 7
    mov qword ptr [PDPT_B + 8], PD_B + 7
    mov qword ptr [PD_B], PT_B + 7
    mov qword ptr [PT_B], TWO + 3
    mov edi, WINDOW
    MAP ONE, 3
    invlpg [rdi]
    mov ebx, PML4
    mov ebp, PML4_B
    mov ecx, 20
1:  mov cr3, rbp
    SEE 15, 2
    mov cr3, rbx
    SEE 16, 1
    loop 1b

    # ---- PCIDs
    mov eax, 1
    cpuid
    test ecx, 1 << 17
    jz large
    mov rax, cr4
    or rax, PCIDE
    mov cr4, rax
    # 1 and 2, with entries kept (bit 63) or not.
    mov rbx, PML4 + 1
    mov rbp, PML4_B + 2
    mov cr3, rbx
    SEE 20, 1
    mov cr3, rbp
    SEE 21, 2
    mov ecx, 10
    bts rbx, 63
    bts rbp, 63
1:  mov cr3, rbx
    SEE 22, 1
    mov cr3, rbp
    SEE 23, 2
    loop 1b
    mov rax, cr3
    cmp rax, PML4_B + 2
    CHECK 24
    # INVLPG is for the PCID in use: this one sees the change.
    mov qword ptr [PT_B], ONE + 3
    invlpg [rdi]
    SEE 25, 1
    mov qword ptr [PT_B], TWO + 3
    invlpg [rdi]
    # A load with bit 63 clear throws away what the PCID had.
    mov cr3, rbx
    SEE 26, 1
    mov cr3, rbp
    MAP TWO, 3
    btr rbx, 63
    mov cr3, rbx
    SEE 27, 2
    # The other PCID still has its own.
    mov cr3, rbp
    SEE 28, 2
    mov eax, 7
    xor ecx, ecx
    push rbx
    cpuid
    test ebx, 1 << 10
    pop rbx
    jz no_invpcid
    # INVPCID of one address of another PCID.
    MAP ONE, 3
    lea rsi, [rip + descriptor]
    mov qword ptr [rsi], 1
    mov [rsi + 8], rdi
    xor eax, eax
    invpcid rax, [rsi]
    bts rbx, 63
    mov cr3, rbx
    SEE 29, 1
    # Of a whole PCID.
    mov cr3, rbp
    MAP TWO, 3
    mov eax, 1
    invpcid rax, [rsi]
    mov cr3, rbx
    SEE 30, 2
    # Of all, with and without global ones.
    mov cr3, rbp
    MAP ONE, 3
    mov eax, 3
    invpcid rax, [rsi]
    mov cr3, rbx
    SEE 31, 1
    mov cr3, rbp
    MAP TWO, 3
    mov eax, 2
    invpcid rax, [rsi]
    mov cr3, rbx
    SEE 32, 2
    # What it refuses: types, reserved bits, addresses.
    mov eax, 4
    RESUME 1f
    invpcid rax, [rsi]
1:  cmp qword ptr [rip + vector], 13
    CHECK 33
    mov qword ptr [rsi], 0x1001
    mov eax, 1
    RESUME 1f
    mov eax, 1
    invpcid rax, [rsi]
1:  cmp qword ptr [rip + vector], 13
    CHECK 34
    mov qword ptr [rsi], 1
    mov rax, 0x8000000000000000
    mov [rsi + 8], rax
    RESUME 1f
    xor eax, eax
    invpcid rax, [rsi]
1:  cmp qword ptr [rip + vector], 13
    CHECK 35
no_invpcid:
    # PCIDE cannot be cleared... it can; set only with PCID 0 in CR3.
    mov eax, PML4
    mov cr3, rax
    mov rax, cr4
    and rax, ~PCIDE
    mov cr4, rax
    mov ecx, PML4 + 8
    mov cr3, rcx
    or rax, PCIDE
    mov rcx, rax
    RESUME 1f
    mov cr4, rcx
1:  cmp qword ptr [rip + vector], 13
    CHECK 36
    mov eax, PML4
    mov cr3, rax

    # ---- large pages: 1 GiB and 2 MiB, and back to small ones
large:
    mov rax, [PDPT + 8]
    mov [rip + saved], rax
    mov eax, 0x80000001
    cpuid
    test edx, 1 << 26
    jz no_gib
    mov qword ptr [PDPT + 8], 0x83
    invlpg [rdi]
    cmp dword ptr [rdi + ONE], 1
    CHECK 40
    cmp dword ptr [rdi + TWO], 2
    CHECK 41
    mov qword ptr [PDPT + 8], 0x2083
    RESUME 1f
    invlpg [rdi]
    mov eax, [rdi + ONE]
1:  cmp qword ptr [rip + vector], 14
    CHECK 42
    cmp qword ptr [rip + error], 9
    CHECK 43
no_gib:
    mov rax, [rip + saved]
    mov [PDPT + 8], rax
    invlpg [rdi]
    mov rax, [0x5000]
    mov [rip + saved], rax
    mov qword ptr [0x5000], 0x200083
    invlpg [rdi]
    SEE 44, 1
    cmp dword ptr [rdi + 0x1000], 2
    CHECK 45
    # INVLPG of any address of the large page is for all of it.
    mov rax, [rip + saved]
    mov [0x5000], rax
    MAP TWO, 3
    mov qword ptr [PT + 8], ONE + 3
    invlpg [rdi + 0x100000]
    SEE 46, 2
    cmp dword ptr [rdi + 0x1000], 1
    CHECK 47
    xor eax, eax
    hlt

.balign 16
descriptor: .quad 0, 0
saved: .quad 0
