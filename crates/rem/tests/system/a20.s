# The A20 gate (port 0x92): with it closed, bit 20 of physical addresses is 0 for data, code and
# writes, also for what was read before.
.include "lib32.inc"

.set HIGH, 0x500000
.set LOW, 0x400000

main:
    # What runs while the gate is closed must be where it makes no difference.
    mov edi, 0x2000
    mov esi, offset below
    mov ecx, below_end - below
    rep movsb
    mov eax, 0x2000
    jmp eax

below:
    mov esp, 0x7000
    mov ecx, 3
1:  mov dword ptr [HIGH], 0x11111111
    mov dword ptr [LOW], 0x22222222
    # MOV EAX, imm; RET: two functions.
    mov byte ptr [HIGH + 0x100], 0xb8
    mov dword ptr [HIGH + 0x101], 1
    mov byte ptr [HIGH + 0x105], 0xc3
    mov byte ptr [LOW + 0x100], 0xb8
    mov dword ptr [LOW + 0x101], 2
    mov byte ptr [LOW + 0x105], 0xc3
    mov ebx, HIGH + 0x100
    call ebx
    mov edi, 1
    cmp eax, 1
    jne 2f
    mov edi, 2
    cmp dword ptr [HIGH], 0x11111111
    jne 2f
    in al, 0x92
    and al, 0xfc
    out 0x92, al
    mov edi, 3
    cmp dword ptr [HIGH], 0x22222222
    jne 2f
    call ebx
    mov edi, 4
    cmp eax, 2
    jne 2f
    mov dword ptr [HIGH + 8], 0x33333333
    mov edi, 5
    cmp dword ptr [LOW + 8], 0x33333333
    jne 2f
    mov dword ptr [HIGH + 0x101], 7
    call ebx
    mov edi, 6
    cmp eax, 7
    jne 2f
    # Addresses with bit 20 clear are what they were.
    mov edi, 7
    cmp dword ptr [LOW], 0x22222222
    jne 2f
    in al, 0x92
    or al, 2
    and al, 0xfe
    out 0x92, al
    mov edi, 8
    cmp dword ptr [HIGH], 0x11111111
    jne 2f
    call ebx
    mov edi, 9
    cmp eax, 1
    jne 2f
    mov edi, 10
    cmp dword ptr [LOW + 8], 0x33333333
    jne 2f
    dec ecx
    jnz 1b
    xor edi, edi
2:  in al, 0x92
    or al, 2
    and al, 0xfe
    out 0x92, al
    mov eax, offset done
    jmp eax
below_end:
done:
    mov esp, offset stack_end
    mov eax, edi
    jmp finish
