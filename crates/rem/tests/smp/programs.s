# What the vCPUs of tests/smp.rs execute, each from the start of a slot of 256 bytes.
# All end in HLT; RAX says how: 0 is well.
        .intel_syntax noprefix
        .code64

# 0: adds 1 to [rsi] rdx times.
        .org 0x000
1:      lock inc qword ptr [rsi]
        dec     rdx
        jnz     1b
        xor     eax, eax
        hlt

# 1: the same with compare and exchange.
        .org 0x100
1:      mov     rax, [rsi]
2:      lea     rcx, [rax + 1]
        lock cmpxchg [rsi], rcx
        jne     2b
        dec     rdx
        jnz     1b
        xor     eax, eax
        hlt

# 2: adds 1 to [rdi] rdx times with an ordinary instruction, under a lock at [rsi].
        .org 0x200
1:      mov     eax, 1
2:      xchg    [rsi], eax
        test    eax, eax
        jz      3f
        pause
        jmp     1b
3:      inc     qword ptr [rdi]
        mov     dword ptr [rsi], 0
        dec     rdx
        jnz     1b
        xor     eax, eax
        hlt

# 3: rdx rounds: waits until [rdi] is the number of the round, calls the function at r8, which must
#    return that number, and puts it into [rsi]; -1 there means that it returned something else.
        .org 0x300
        mov     r13, rdx
        xor     r12d, r12d
1:      inc     r12
2:      cmp     [rdi], r12
        je      3f
        pause
        jmp     2b
3:      cpuid
        call    r8
        cmp     eax, r12d
        jne     4f
        mov     [rsi], r12
        cmp     r12, r13
        jne     1b
        xor     eax, eax
        hlt
4:      mov     qword ptr [rsi], -1
        mov     eax, 1
        hlt

# 4: the other side: writes the number into the function (MOV EAX, imm32; RET), then into [rdi].
        .org 0x400
        xor     r12d, r12d
1:      inc     r12
        mov     [r8 + 1], r12d
        mov     [rdi], r12
2:      cmp     [rsi], r12
        je      3f
        cmp     qword ptr [rsi], -1
        je      4f
        pause
        jmp     2b
3:      cmp     r12, rdx
        jne     1b
4:      xor     eax, eax
        hlt

# 5: rdx times, for each of four pages from r8 on: takes the lock at [rsi + 8 * page], makes the
#    function there return another number, calls it, and gives the lock back.
        .org 0x500
        mov     r13, rdx
        mov     r14, rdi
1:      add     r14, 4
        mov     r12, r14
        and     r12, 3
        mov     rbx, r12
        shl     rbx, 12
        add     rbx, r8
2:      mov     eax, 1
        xchg    [rsi + 8 * r12], rax
        test    eax, eax
        jz      3f
        pause
        jmp     2b
3:      inc     r14
        mov     [rbx + 1], r14d
        call    rbx
        mov     qword ptr [rsi + 8 * r12], 0
        cmp     eax, r14d
        jne     4f
        dec     r13
        jnz     1b
        xor     eax, eax
        hlt
4:      mov     eax, 1
        hlt

# 6: rdx times: reads [rsi] and forgets how it got there.
        .org 0x600
1:      mov     rax, [rsi]
        invlpg  [rsi]
        dec     rdx
        jnz     1b
        xor     eax, eax
        hlt

# 7: rdx times: adds r8 to the page-table entry at [rdi] and clears its accessed bit.
        .org 0x700
1:      lock add [rdi], r8
        lock btr qword ptr [rdi], 5
        dec     rdx
        jnz     1b
        xor     eax, eax
        hlt
        .org 0x800
