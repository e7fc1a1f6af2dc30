# Code that changes itself: the same linear address is seen at once (SDM vol. 3, 8.1.3 of 2023; a
# store through another linear address needs a serialising instruction).
.include "lib.inc"

main:
    # The next instruction, in the same block.
    mov byte ptr [rip + 1f + 1], 7
1:  mov al, 0
    cmp al, 7
    CHECK 1
    # One further on in a loop, differently in each turn.
    xor ecx, ecx
    xor edx, edx
2:  inc ecx
    mov [rip + 3f + 2], cl
3:  add edx, 0x7f
    cmp ecx, 100
    jne 2b
    cmp edx, 5050
    CHECK 2
    # The opcode of what follows a jump, on the next page.
    mov edi, 0x201fff
    mov byte ptr [rdi], 0x90
    mov byte ptr [rdi + 1], 0xc3
    xor eax, eax
    call rdi
    # INC EAX across the pages.
    mov byte ptr [rdi], 0xff
    mov byte ptr [rdi + 1], 0xc0
    mov byte ptr [rdi + 2], 0xc3
    call rdi
    call rdi
    cmp eax, 2
    CHECK 3
    # Only the second page's part: DEC EAX.
    mov byte ptr [rdi + 1], 0xc8
    call rdi
    cmp eax, 1
    CHECK 4
    # By a string instruction.
    mov byte ptr [rdi + 1], 0xc0
    mov al, 0xc3
    mov ecx, 4
    lea rdi, [rip + 5f]
    rep stosb
    xor eax, eax
    call 5f
    jmp 6f
    .balign 16
5:  inc eax
    inc eax
    ret
6:  cmp eax, 0
    CHECK 5
    # Through another linear address, with CPUID between.
    mov qword ptr [PT], 0x202003
    mov edi, WINDOW
    invlpg [rdi]
    mov byte ptr [0x202000], 0xb0
    mov byte ptr [0x202001], 1
    mov byte ptr [0x202002], 0xc3
    call rdi
    cmp al, 1
    CHECK 6
    mov byte ptr [0x202001], 2
    xor eax, eax
    cpuid
    call rdi
    cmp al, 2
    CHECK 7
    # A page that gets other memory: INVLPG makes it seen.
    mov byte ptr [0x203000], 0xb0
    mov byte ptr [0x203001], 3
    mov byte ptr [0x203002], 0xc3
    mov qword ptr [PT], 0x203003
    invlpg [rdi]
    call rdi
    cmp al, 3
    CHECK 8
    # The same by a load of CR3.
    mov qword ptr [PT], 0x202003
    mov rax, cr3
    mov cr3, rax
    call rdi
    cmp al, 2
    CHECK 9
    xor eax, eax
    hlt
