# Code that is mapped at several addresses. Two pages of it, then a page of data of each place's own,
# then nothing. RSI: somewhere with eight bytes.
.intel_syntax noprefix
.org 0
start:
    lea rax, [rip + value]
    mov rbx, [rip + value]
    add qword ptr [rip + count], 5
    mov r8, [rip + count]
    call leaf
after:
    lea r9, [rip + after]
    sub r9, rdx
    mov r10, [rip + value]
    lea r11, [rip + count]
    sub r11, rax
    add r10, r11
    mov rbp, r10
    call [rip + table]
returned:
    sub rdx, rax
    push rdx
    sgdt [rip + gdtr]
    push [rip + value]
    pop r15
    add r15, [rsi]
    mov r12d, 10
    xor r13d, r13d
1:  add r13, [rip + value]
    dec r12d
    jnz 1b
    mov ecx, 5
2:  inc r13
    loop 2b
    lea rdi, [rip + run]
    push rsi
    lea rsi, [rip + value]
    mov ecx, 2
    rep movsq
    pop rsi
    movdqu xmm0, [rip + run]
    movq rcx, xmm0
    fxsave [rip + image]
    jmp across
leaf:
    mov rdx, [rsp]
    ret
divide:
    mov rax, [rip + value]
    xor ecx, ecx
divide_at:
    div ecx
load:
    inc eax
load_at:
    mov rdx, [rip + hole]
store:
    lea rdi, [rip + hole]
store_at:
    mov [rdi + 8], rax
    ud2
.org 0xff0
across:
    pop rdx
.org 0xff9
split:
    mov r14, 0x1122334455667788
    call next
next:
    pop rdi
    sub rdi, rax
end:
    ud2
# The data page, which is not part of the code's.
.org 0x2000
value:
.org 0x2008
count:
.org 0x2010
table:
.org 0x2020
gdtr:
.org 0x2100
run:
.org 0x2200
image:
.org 0x3800
hole:
