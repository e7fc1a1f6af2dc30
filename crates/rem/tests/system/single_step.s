# Single steps (SDM vol. 3, 18.3.1.4): a trap after each instruction that starts with TF set, after
# each turn of a REP, none after a load of SS, and DR6.BS says what it was.
.include "lib.inc"

main:
    lea rax, [rip + stepped]
    mov [rip + hook], rax
    mov edi, 0x201000
    # Three instructions and the POPF that ends it: the trap after POPF's predecessor counts too.
    mov qword ptr [rip + count], 0
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    nop
    inc ecx
    add ecx, 2
    push 2
    popfq
    cmp qword ptr [rip + count], 5
    CHECK 1
    mov rax, [rip + frame_dr6]
    test eax, 0x4000
    setz al
    test al, al
    CHECK 2
    # A repeated string instruction traps after each turn.
    mov qword ptr [rip + count], 0
    mov ecx, 5
    mov edx, 0
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    rep stosb
    push 2
    popfq
    cmp qword ptr [rip + count], 7
    CHECK 3
    # MOV to SS holds the trap off until the next instruction is done.
    mov qword ptr [rip + count], 0
    mov ecx, ss
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    mov ss, ecx
    nop
    push 2
    popfq
    cmp qword ptr [rip + count], 3
    CHECK 4
    # Jumps, taken and not, and calls.
    mov qword ptr [rip + count], 0
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    jmp 1f
    nop
1:  call 2f
    push 2
    popfq
    jmp 3f
2:  ret
3:  cmp qword ptr [rip + count], 5
    CHECK 5
    # The frame has the flags after the instruction: the last one was the POPF that cleared TF.
    mov rax, [rip + frame_flags]
    and eax, 0x100
    cmp eax, 0
    CHECK 6
    xor eax, eax
    hlt

# Goes back to what was interrupted. `common` has removed vector and error code.
stepped:
    pushfq
    pop rax
    test eax, 0x100
    jnz bad
    cmp qword ptr [rip + vector], 1
    jne bad
    mov rax, [rip + save_rax]
    iretq
bad:
    mov eax, 99
    hlt
