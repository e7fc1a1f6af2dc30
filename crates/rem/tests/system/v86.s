# Virtual-8086 mode: entry, frames, what IOPL guards, the port map, virtual interrupts and redirected
# INT n (SDM vol. 3, chapter 21).
.include "lib32.inc"

# Where the 16-bit code is: linear 0x2000.
.set REAL, 0x200
.set VM, 0x20000
.set IOPL3, 0x3000
.set VIF, 0x80000
.set VIP, 0x100000
.set REDIRECT, 0x68
.set PORTS, 0x88

# Runs the code at `label` with these flags, SS:SP 0300:1000, and DS to GS as below.
.macro V86 label, flags
    RESUME 1f
    push 0x404
    push 0x403
    push 0x401
    push 0x402
    push 0x300
    push 0x1000
    push \flags
    push REAL
    push offset \label - code16
    iret
1:
.endm

# The exception that came, and where.
.macro AT number, expected, code, place
    CAME \number, \expected, \code
    SAME \number+2, [frame_eip], "offset \place - code16"
.endm

main:
    cld
    mov edi, REAL * 16
    mov esi, offset code16
    mov ecx, code16_end - code16
    rep movsb
    # A TSS with both maps: all ports and interrupts denied but some.
    DESCRIPTOR TSS0, tss, 0x1ff, TSS32, 0
    mov eax, TSS0
    ltr ax
    mov word ptr [tss + 0x66], PORTS
    mov edi, offset tss + REDIRECT
    mov ecx, 0x200 - REDIRECT
    mov al, 0xff
    rep stosb
    # Ports 0x70 and 0x71; 0x77.
    mov byte ptr [tss + PORTS + 0xe], 0x7c
    IDT_GATE 3, CODE0, vectors+3*16, INT32|DPL3
    IDT_GATE 4, CODE0, vectors+4*16, INT32|DPL3
    IDT_GATE 32, CODE0, vectors+32*16, INT32|DPL3

    # ---- entry, and the frame of an interrupt
    V86 segments, VM|IOPL3|0x202
    AT 1, 32, 0, segments_end
    SAME 4, [frame_cs], REAL
    mov eax, [frame_flags]
    and eax, 0x3f200
    cmp eax, VM|IOPL3|0x200
    CHECK 5
    SAME 6, [frame_esp], 0xff8
    SAME 7, [frame_ss], 0x300
    SAME 8, [frame_v86_es], 0x402
    SAME 9, [frame_v86_ds], 0x500
    SAME 10, [frame_v86_fs], 0x403
    SAME 11, [frame_v86_gs], 0x404
    SAME 12, [frame_ds], 0
    mov eax, [frame_flags_now]
    and eax, 0x20300
    cmp eax, 0
    CHECK 13
    SAME 14, [frame_esp_at], "offset stack0_end - 44"
    # What it read and wrote: 16 times the selector plus the offset.
    cmp word ptr [0x2ffe + 0x1000], REAL
    CHECK 15
    cmp word ptr [0x3ffc], 0x401
    CHECK 16
    cmp word ptr [0x5010], 0xbeef
    CHECK 17

    # ---- IOPL guards these
    .irp n, cli, sti, pushf, popf, int, iret, pushfd
    V86 try_\n, VM|2
    AT 20, 13, 0, try_\n
    .endr
    # HLT and the privileged ones are guarded by the level itself.
    .irp n, hlt, lgdt, cr, clts
    V86 try_\n, VM|IOPL3|2
    AT 24, 13, 0, try_\n
    .endr
    # Others are not known.
    .irp n, sldt, str, lldt, verr, lar, arpl
    V86 try_\n, VM|IOPL3|2
    AT 28, 6, 0, try_\n
    .endr
    # INT3 and INTO do not ask for IOPL.
    V86 int_3, VM|2
    AT 32, 3, 0, int_3_end
    V86 into, VM|2
    AT 36, 4, 0, into_end
    # A gate's DPL counts.
    V86 int_33, VM|IOPL3|2
    AT 40, 13, 33*8+2, int_33
    # A handler at another level than 0 is refused, with its selector.
    IDT_GATE 34, CODE3&~3, vectors+34*16, INT32|DPL3
    V86 int_34, VM|IOPL3|2
    AT 44, 13, CODE3&~3, int_34

    # ---- with IOPL 3 they work
    V86 flags_free, VM|IOPL3|0x202
    AT 48, 32, 0, flags_free_end
    mov eax, [frame_flags]
    and eax, 0x37200
    cmp eax, VM|IOPL3
    CHECK 51
    # PUSHF with interrupts on; after CLI; after POPF that tried to change IOPL.
    mov ax, [0x3ffe]
    and ax, 0x7200
    cmp ax, 0x3200
    CHECK 52
    mov ax, [0x3ffc]
    and ax, 0x7200
    cmp ax, 0x3000
    CHECK 53
    mov ax, [0x3ffa]
    and ax, 0x7200
    cmp ax, 0x7200
    CHECK 54
    # IRET goes on in virtual-8086 mode.
    V86 iret_here, VM|IOPL3|2
    AT 55, 32, 0, iret_here_end
    SAME 58, [frame_cs], "REAL - 1"

    # ---- limits: 64 KiB
    V86 beyond_data, VM|2
    AT 60, 13, 0, beyond_data
    V86 beyond_stack, VM|2
    AT 64, 12, 0, beyond_stack

    # ---- ports: the map counts, whatever IOPL is
    V86 port_70, VM|2
    AT 68, 3, 0, port_70_end
    V86 port_72, VM|IOPL3|2
    AT 72, 13, 0, port_72
    # A word at 0x70 is allowed, at 0x71 not; 0x77 is, a word there is not.
    V86 port_70w, VM|2
    AT 76, 3, 0, port_70w_end
    V86 port_71w, VM|2
    AT 80, 13, 0, port_71w
    V86 port_77, VM|2
    AT 84, 3, 0, port_77_end
    V86 port_77w, VM|2
    AT 88, 13, 0, port_77w
    # Beyond the limit of the TSS.
    mov edx, 0x3000
    V86 port_far, VM|2
    AT 92, 13, 0, port_far

    # ---- the extensions
    mov eax, 1
    cpuid
    test edx, 2
    jz done
    mov eax, cr4
    or eax, 1
    mov cr4, eax
    # CLI, STI and PUSHF act on VIF.
    V86 virtual, VM|0x202
    AT 100, 3, 0, virtual_end
    mov eax, [frame_flags]
    and eax, 0x1f3200
    cmp eax, VM|VIF|0x200
    CHECK 103
    mov ax, [0x3ffe]
    and ax, 0x3200
    cmp ax, 0x3000
    CHECK 104
    mov ax, [0x3ffc]
    and ax, 0x3200
    cmp ax, 0x3200
    CHECK 105
    # POPF and IRET set it, and leave IF and IOPL alone.
    V86 virtual_popf, VM|VIF|0x202
    AT 106, 3, 0, virtual_popf_end
    mov eax, [frame_flags]
    and eax, 0x1f3200
    cmp eax, VM|0x200
    CHECK 109
    V86 virtual_iret, VM|2
    AT 110, 3, 0, virtual_iret_end
    mov eax, [frame_flags]
    and eax, 0x1f3200
    cmp eax, VM|VIF
    CHECK 113
    # While an interrupt is pending STI and its like fault.
    V86 try_sti, VM|VIP|2
    AT 114, 13, 0, try_sti
    V86 virtual_iret, VM|VIP|2
    AT 118, 13, 0, virtual_iret_it
    # POPF with TF is not allowed, and 32-bit operands are not.
    V86 popf_tf, VM|2
    AT 122, 13, 0, popf_tf_it
    V86 try_pushfd, VM|2
    AT 126, 13, 0, try_pushfd
    # INT n that the map does not hold back goes to the program's own handler.
    mov byte ptr [tss + REDIRECT + 0x60 / 8], 0xfe
    mov dword ptr [4 * 0x60], REAL << 16 | offset_of_handler
    V86 redirected, VM|VIF|0x202
    AT 130, 3, 0, handler_end
    SAME 133, [frame_esp], 0xffa
    mov eax, [frame_flags]
    and eax, 0x1f3200
    cmp eax, VM|0x200
    CHECK 134
    mov eax, offset redirected_end - code16
    cmp [0x3ffa], ax
    CHECK 135
    cmp word ptr [0x3ffc], REAL
    CHECK 136
    mov ax, [0x3ffe]
    and ax, 0x3200
    cmp ax, 0x3200
    CHECK 137
    # With IOPL 3 too, but the frame has IF itself.
    V86 redirected, VM|IOPL3|0x202
    AT 138, 3, 0, handler_end
    mov eax, [frame_flags]
    and eax, 0x1f3200
    cmp eax, VM|IOPL3
    CHECK 141
    # Another vector, or IOPL 3 and no redirection.
    V86 redirected_61, VM|2
    AT 142, 13, 0, redirected_61
    IDT_GATE 0x3e, CODE0, vectors+0x3e*16, INT32|DPL3
    V86 int_3e, VM|IOPL3|2
    AT 146, 0x3e, 0, int_3e_end
done:
    xor eax, eax
    jmp finish

.balign 16
.code16
code16:
segments:
    mov ax, cs
    push ax
    mov ax, ds
    push ax
    mov ax, 0x500
    mov ds, ax
    mov word ptr ds:[0x10], 0xbeef
    push ss
    push 0
    int 32
segments_end:
try_cli: cli
try_sti: sti
try_pushf: pushf
try_popf: popf
try_int: int 32
try_iret: iret
try_pushfd: pushfd
try_hlt: hlt
try_lgdt: lgdt ds:[0]
try_cr: mov eax, cr0
try_clts: clts
try_sldt: sldt ax
try_str: str ax
try_lldt: lldt ax
try_verr: verr ax
try_lar: lar ax, ax
try_arpl: .byte 0x63, 0xc0
int_3: int3
int_3_end:
into:
    mov al, 0x7f
    inc al
    into
into_end:
int_33: int 33
int_34: int 34
flags_free:
    pushf
    cli
    pushf
    push 0x4202
    popf
    pushf
    push 2
    popf
    int 32
flags_free_end:
iret_here:
    push 2
    push REAL - 1
    push offset iret_here_on - code16 + 16
    iret
iret_here_on:
    int 32
.set iret_here_end, . + 16
beyond_data: mov ax, ds:[0xffff]

beyond_stack: mov ax, ss:[0xffff]
port_70: in al, 0x70
    int3
port_70_end:
port_72: in al, 0x72
port_70w: in ax, 0x70
    int3
port_70w_end:
port_71w: in ax, 0x71
port_77: in al, 0x77
    int3
port_77_end:
port_77w: in ax, 0x77
port_far: in al, dx
virtual:
    cli
    pushf
    sti
    pushf
    int3
virtual_end:
virtual_popf:
    push 2
    popf
    int3
virtual_popf_end:
virtual_iret:
    push 0x202
    push REAL
    push offset virtual_iret_on - code16
virtual_iret_it:
    iret
virtual_iret_on:
    int3
virtual_iret_end:
popf_tf:
    push 0x102
popf_tf_it:
    popf
redirected: int 0x60
redirected_end:
redirected_61: int 0x61
int_3e: int 0x3e
int_3e_end:
handler: int3
handler_end:
.set offset_of_handler, handler - code16
code16_end:
