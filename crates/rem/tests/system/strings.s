# String instructions that stop half way: at a page that is not there, at each turn of a single step,
# at an interrupt; and that go on from there (SDM vol. 2, REP).
.include "lib.inc"

.set A, 0x200000
.set B, 0x201000
.set HOLE, WINDOW + 0x1000

# The state a stopped instruction must have.
.macro STOPPED number, place, count, source, target
    cmp qword ptr [rip + vector], 14
    CHECK \number
    lea rax, [rip + \place]
    cmp rax, [rip + frame_rip]
    CHECK \number + 1
    mov rax, \count
    cmp rcx, rax
    CHECK \number + 2
    mov rax, \source
    cmp rsi, rax
    CHECK \number + 3
    mov rax, \target
    cmp rdi, rax
    CHECK \number + 4
.endm

main:
    mov qword ptr [PT], A + 3
    mov qword ptr [PT + 8], 0
    # ---- up into the hole: 0x18 bytes fit
.macro MOVS number, insn, unit
    mov qword ptr [PT + 8], 0
    mov eax, HOLE
    invlpg [rax]
    mov esi, A + 0x400
    mov edi, HOLE - 0x18
    mov ecx, 0x40 / \unit
    RESUME 1f
move\@: rep \insn
1:  STOPPED \number, move\@, 0x28/\unit, A+0x418, HOLE
    cmp qword ptr [rip + error], 2
    CHECK \number + 5
    mov eax, HOLE
    cmp rax, [rip + frame_cr2]
    CHECK \number + 6
    # RF is set in the frame of a fault.
    mov rax, [rip + frame_flags]
    and eax, 0x10000
    cmp eax, 0x10000
    CHECK \number + 7
    # And on, once the page is there.
    mov qword ptr [PT + 8], B + 3
    rep \insn
    mov esi, A + 0x400
    mov edi, HOLE - 0x18
    mov ecx, 0x40
    repe cmpsb
    CHECK \number + 8
.endm
    mov edi, A
    mov ecx, 0x1000
    mov eax, 1
2:  stosb
    imul eax, eax, 37
    inc eax
    loop 2b
    MOVS 1, movsb, 1
    MOVS 11, movsd, 4
    MOVS 21, movsq, 8
    # An element that is only half there is not written at all.
    mov qword ptr [PT + 8], 0
    mov eax, HOLE
    invlpg [rax]
    mov edi, HOLE - 0x13
    mov ecx, 8
    mov qword ptr [A + 0xff8], 0
    mov esi, 0
    RESUME 1f
    mov rax, 0x1122334455667788
store: rep stosq
1:  STOPPED 31, store, 6, 0, HOLE-3
    mov eax, [A + 0xffc]
    shr eax, 8
    cmp eax, 0
    CHECK 36
    # Down from above the window's end into what is not there.
    mov qword ptr [PT + 8], B + 3
    mov qword ptr [PT], 0
    mov eax, WINDOW
    invlpg [rax]
    std
    mov esi, B + 0x100
    mov edi, HOLE + 0x10
    mov ecx, 0x20
    RESUME 1f
down: rep movsb
1:  cld
    STOPPED 40, down, 0xf, B+0xef, HOLE-1
    # Reads: LODS, SCAS, CMPS stop with registers and flags of the last turn.
    mov qword ptr [PT], A + 3
    mov qword ptr [PT + 8], 0
    mov eax, HOLE
    invlpg [rax]
    mov edi, HOLE - 8
    mov ecx, 100
    mov esi, 0
    RESUME 1f
    mov al, [A + 0xff8]
    inc al
    repe scasb
1:  # It found a difference before the hole.
    cmp rcx, 99
    CHECK 45
    mov byte ptr [A + 0xff8], 7
    mov dword ptr [A + 0xff9], 0x07070707
    mov dword ptr [A + 0xffc], 0x07070707
    mov edi, HOLE - 8
    mov ecx, 100
    RESUME 1f
    mov eax, 7
scan2: repe scasb
1:  STOPPED 46, scan2, 92, 0, HOLE
    mov rax, [rip + frame_flags]
    and eax, 0x40
    cmp eax, 0x40
    CHECK 51
    mov esi, HOLE - 8
    mov edi, A + 0xff8
    mov ecx, 100
    RESUME 1f
compare: repe cmpsw
1:  STOPPED 52, compare, 96, HOLE, A+0x1000
    mov esi, HOLE - 8
    mov edi, 0
    mov ecx, 3
    RESUME 1f
loads: rep lodsd
1:  STOPPED 57, loads, 1, HOLE, 0
    # With a count of zero nothing is touched.
    mov edi, HOLE
    mov esi, HOLE
    xor ecx, ecx
    rep movsq
    mov eax, 5
    cmp eax, 5
    repne scasb
    CHECK 62

    # ---- an interrupt in the middle: a port raises one while it is read
    mov qword ptr [PT + 8], B + 3
    mov byte ptr [0x8000 + 16 * 32 + 5], 0x8e
    lea rax, [rip + interrupted]
    mov [0x8000 + 16 * 32], ax
    mov word ptr [0x8000 + 16 * 32 + 2], KERNEL_CODE
    shr rax, 16
    mov [0x8000 + 16 * 32 + 6], ax
    mov edx, 0xf0
    mov edi, 0x300000
    mov ecx, 0x30000
    mov rbp, rsp
    sti
ports: rep insb
    cli
    cmp dword ptr [rip + interrupts], 1
    CHECK 70
    cmp rcx, 0
    CHECK 71
    cmp rdi, 0x330000
    CHECK 72
    mov rax, [rip + seen_rcx]
    add rax, [rip + seen_rdi]
    cmp rax, 0x330000
    CHECK 73
    cmp qword ptr [rip + seen_rcx], 0
    setne al
    cmp al, 1
    CHECK 74
    xor eax, eax
    hlt

interrupted:
    inc dword ptr [rip + interrupts]
    mov [rip + seen_rcx], rcx
    mov [rip + seen_rdi], rdi
    push rax
    lea rax, [rip + ports]
    cmp rax, [rsp + 8]
    jne 1f
    pop rax
    iretq
1:  mov eax, 75
    hlt
.balign 8
interrupts: .quad 0
seen_rcx: .quad 0
seen_rdi: .quad 0
