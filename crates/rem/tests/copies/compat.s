# The same for 32-bit code. EBP: a data page.
.intel_syntax noprefix
.code32
start:
    call here
here:
    pop ebx
    mov eax, [ebx + 0x2000 - 5]
    add dword ptr [ebp + 8], 3
    mov edx, [ebp + 8]
    call leaf
after:
    sub esi, ebx
    push ebx
    mov ecx, 7
    xor edi, edi
1:  add edi, [ebp]
    dec ecx
    jnz 1b
    mov ecx, 4
2:  inc edi
    loop 2b
    sgdt [ebp + 32]
    pop ebx
    lea ecx, [ebx + leaf - here]
    push esi
    call ecx
back:
    sub esi, ebx
    pop ecx
    jmp across
leaf:
    mov esi, [esp]
    ret
.org 0xffd
across:
    add eax, 0x11223344
end:
    ud2
.org 0x2000
