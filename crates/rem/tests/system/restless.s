# Code that is written again and again, in every turn of a loop, so that an engine may treat it in a
# way of its own (SDM vol. 3, 8.1.3: what is written is seen after a jump).
.include "lib.inc"

.set TURNS, 300
.set PLACE, 0x202100

# Copies a function to PLACE.
.macro TURN name, length
    lea rsi, [rip + \name]
    mov edi, PLACE
    mov ecx, \length
    rep movsb
.endm

main:
    # Immediate operands of each form: R8D is their source, R9 what the function should return.
    xor ebp, ebp
1:  imul r8d, ebp, 0x1234567
    mov [rip + f1 - 4], r8d
    mov [rip + f2 - 4], r8d
    mov [rip + f3 - 1], r8b
    mov r9, r8
    not r9
    mov [rip + f4 - 8], r9
    mov [rip + f5 - 4], r8d
    mov [rip + f6 - 1], r8b
    mov [rip + f7 - 4], r8d
    mov [rip + f8 - 1], r8b
    TURN forms, (forms_end - forms)
    # The same by hand.
    mov eax, r8d
    movsxd rcx, r8d
    add rax, rcx
    movsx rcx, r8b
    xor rax, rcx
    add rax, r9
    mov edx, r8d
    cmp eax, edx
    adc rax, 5
    movsx ecx, r8b
    sbb eax, ecx
    rol rax, 7
    mov r10d, r8d
    add rax, r10
    movsx rcx, r8b
    and rcx, rax
    mov r9, rcx
    lea r9, [r9 + rax]
    mov rdi, PLACE
    push rbp
    call rdi
    pop rbp
    cmp rax, r9
    CHECK 1
    inc ebp
    cmp ebp, TURNS
    jne 1b

    # Flags that live into the function: CF of turns that are odd.
    xor ebp, ebp
2:  mov [rip + flags + 2], bpl
    TURN flags, (flags_end - flags)
    mov rdi, PLACE
    xor eax, eax
    bt ebp, 0
    call rdi
    mov ecx, ebp
    and ecx, 1
    movsx edx, bpl
    add ecx, edx
    cmp eax, ecx
    CHECK 2
    inc ebp
    cmp ebp, TURNS
    jne 2b

    # Other instructions every third turn.
    mov byte ptr [rip + flags + 2], 9
    xor ebp, ebp
3:  TURN flags, (flags_end - flags)
    mov eax, ebp
    xor edx, edx
    mov ecx, 3
    div ecx
    mov ebx, 10
    test edx, edx
    jnz 4f
    mov dword ptr [PLACE], 0x90c3c031    # xor eax, eax; ret
    xor ebx, ebx
4:  mov rdi, PLACE
    mov eax, 1
    clc
    call rdi
    cmp eax, ebx
    CHECK 3
    inc ebp
    cmp ebp, TURNS
    jne 3b

    # An instruction that is on two pages, and whose parts are written in turn.
    xor ebp, ebp
6:  lea rax, [rbp * 2 + rbp]
    shl rax, 9
    or rax, 0xb8
    mov rdi, 0x202ffd
    mov [rdi], rax
    mov byte ptr [rdi + 5], 0xc3
    call rdi
    lea ecx, [rbp * 2 + rbp]
    add ecx, ecx
    cmp eax, ecx
    CHECK 4
    inc ebp
    cmp ebp, TURNS
    jne 6b

    # Data beside the code, and a store to what follows it.
    mov dword ptr [PLACE + 0x200], 0
    xor ebp, ebp
7:  mov [rip + b1 - 4], ebp
    TURN beside, (beside_end - beside)
    mov rdi, PLACE
    mov r8, PLACE + 0x200
    lea r9, [rdi + b2 - beside - 1]
    lea ebx, [rbp + 3]
    and ebx, 0x7f
    call rdi
    lea ecx, [rbx + rbp]
    cmp eax, ecx
    CHECK 5
    inc ebp
    cmp dword ptr [PLACE + 0x200], ebp
    CHECK 6
    cmp ebp, TURNS
    jne 7b

    # Vector registers are what they were.
    mov rax, cr4
    or rax, 0x40600
    mov cr4, rax
    xor ecx, ecx
    xor edx, edx
    mov eax, 7
    xsetbv
    mov rax, 0x0123456789abcdef
    movq xmm0, rax
    punpcklqdq xmm0, xmm0
    vinsertf128 ymm0, ymm0, xmm0, 1
    xor ebp, ebp
8:  mov [rip + flags + 2], bpl
    TURN flags, (flags_end - flags)
    mov rdi, PLACE
    call rdi
    vextractf128 xmm1, ymm0, 1
    pcmpeqb xmm1, xmm0
    pmovmskb ecx, xmm1
    cmp ecx, 0xffff
    CHECK 7
    vmovq rcx, xmm0
    cmp rcx, [rip + pattern]
    CHECK 8
    inc ebp
    cmp ebp, 60
    jne 8b
    # A turn later the code has calmed down, or not: it is the same.
    xor eax, eax
    hlt

pattern: .quad 0x0123456789abcdef

forms:
    mov eax, 0x11111111
f1: add rax, 0x11111111
f2: xor rax, 0x11
f3: movabs rcx, 0x1111111111111111
f4: add rax, rcx
    mov edx, 0x11111111
f5: cmp eax, edx
    adc rax, 5
    sbb eax, 0x11
f6: rol rax, 7
    mov r10d, 0x11111111
f7: add rax, r10
    mov rcx, rax
    and rcx, 0x11
f8: lea rax, [rax + rcx]
    ret
forms_end:

flags:
    adc eax, 0x11
    ret
flags_end:

beside:
    mov eax, 0x11111111
b1: inc dword ptr [r8]
    mov [r9], bl
    add eax, 0x55
b2: ret
beside_end:
