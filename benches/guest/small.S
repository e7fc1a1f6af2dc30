/*
 * Rows without an operating system: real mode, then flat and segmented 32-bit protected mode.
 * The BIOS loads all of it at 0:0x7c00; the stack lies on another page, since writes beside code are slow. Each row says BEGIN name, loops, and says DONE name and
 * EAX on the first serial port; the one who listens takes the time.
 */
.macro row name, times
    mov $text_\name, %si
    call begin
    xor %eax, %eax
    mov $\times, %ebp
1:
.endm

.macro done name
    dec %ebp
    jnz 1b
    mov $text_\name, %si
    call finish
    .pushsection .data
text_\name: .asciz "\name"
    .popsection
.endm

    .code16
    .text
    .globl _start
_start:
    cli
    cld
    ljmp $0, $real
real:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7000, %sp
    mov $ready, %si
    call print

row real_arith, 150000
    mov $200, %cx
2:  add %cx, %ax
    rol $3, %ax
    xor $0x55aa, %ax
    imul $7, %ax, %ax
    dec %cx
    jnz 2b
done real_arith

row real_memory, 60000
    mov $200, %cx
    mov $0x6000, %bx
2:  mov %ax, (%bx)
    add (%bx), %ax
    adc $1, %ax
    mov %ax, 2(%bx)
    incw 2(%bx)
    add 2(%bx), %ax
    loop 2b
done real_memory

row real_string, 12000
    push %ax
    xor %si, %si
    mov $0x2000, %bx
    mov %bx, %es
    xor %di, %di
    mov $4096, %cx
    rep movsw
    xor %di, %di
    mov $4096, %cx
    rep stosb
    xor %di, %di
    mov $64, %cx
2:  lodsb
    stosb
    loop 2b
    xor %ax, %ax
    mov %ax, %es
    pop %ax
    inc %ax
done real_string

row real_calls, 60000
    mov $50, %cx
2:  push %cx
    call 5f
    lcall $0, $far_routine
    pop %cx
    loop 2b
    jmp 6f
5:  add $3, %ax
    ret
6:
done real_calls

row real_segments, 40000
    mov $50, %cx
    mov $0x6000, %bx
2:  mov $0x1000, %dx
    mov %dx, %es
    mov %ax, %es:(%bx)
    mov $0x1100, %dx
    mov %dx, %fs
    add %fs:(%bx), %dx
    add %es:(%bx), %ax
    inc %ax
    xor %dx, %dx
    mov %dx, %es
    loop 2b
done real_segments

row real_interrupts, 200000
    movw $handler, 0x60 * 4
    movw $0, 0x60 * 4 + 2
    int $0x60
done real_interrupts

    lgdt table_of
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmp $8, $protected

far_routine:
    xor $5, %ax
    lret
handler:
    add $11, %ax
    iret

begin:
    push %si
    mov $word_begin, %si
    call print
    pop %si
    call print
    mov $newline, %si
    jmp print
finish:
    push %eax
    push %si
    mov $word_done, %si
    call print
    pop %si
    call print
    mov $' ', %al
    call put
    pop %ebx
    mov $8, %cx
8:  rol $4, %ebx
    mov %bl, %al
    and $15, %al
    add $'0', %al
    cmp $'9', %al
    jbe 9f
    add $39, %al
9:  call put
    dec %cx
    jnz 8b
    mov $newline, %si
print:
    lodsb
    test %al, %al
    jz 9f
    call put
    jmp print
9:  ret
put:
    push %eax
    mov $0x3fd, %dx
8:  in %dx, %al
    test $0x20, %al
    jz 8b
    pop %eax
    mov $0x3f8, %dx
    out %al, %dx
    ret

    .code32
protected:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x7000, %esp
    jmp rows32

.macro row32 name, times
    mov $text_\name, %esi
    call begin32
    xor %eax, %eax
    mov $\times, %ebp
1:
.endm
.macro done32 name
    dec %ebp
    jnz 1b
    mov $text_\name, %esi
    call finish32
    .pushsection .data
text_\name: .asciz "\name"
    .popsection
.endm

begin32:
    push %esi
    mov $word_begin, %esi
    call print32
    pop %esi
    call print32
    mov $newline, %esi
    jmp print32
finish32:
    push %eax
    push %esi
    mov $word_done, %esi
    call print32
    pop %esi
    call print32
    mov $' ', %al
    call put32
    pop %ebx
    mov $8, %ecx
8:  rol $4, %ebx
    mov %bl, %al
    and $15, %al
    add $'0', %al
    cmp $'9', %al
    jbe 9f
    add $39, %al
9:  call put32
    dec %ecx
    jnz 8b
    mov $newline, %esi
print32:
    lodsb
    test %al, %al
    jz 9f
    call put32
    jmp print32
9:  ret
put32:
    push %eax
    mov $0x3fd, %dx
8:  in %dx, %al
    test $0x20, %al
    jz 8b
    pop %eax
    mov $0x3f8, %dx
    out %al, %dx
    ret

rows32:
row32 flat_arith, 150000
    mov $200, %ecx
2:  add %ecx, %eax
    rol $3, %eax
    xor $0x55aa, %eax
    imul $7, %eax, %eax
    dec %ecx
    jnz 2b
done32 flat_arith

row32 flat_memory, 60000
    mov $200, %ecx
    mov $0x100000, %ebx
2:  mov %eax, (%ebx,%ecx,4)
    add (%ebx,%ecx,4), %eax
    adc $1, %eax
    incl (%ebx,%ecx,4)
    add (%ebx,%ecx,4), %eax
    dec %ecx
    jnz 2b
done32 flat_memory

row32 flat_string, 12000
    mov $0x100000, %esi
    mov $0x200000, %edi
    mov $4096, %ecx
    rep movsl
    mov $0x200000, %edi
    mov $4096, %ecx
    rep stosl
    inc %eax
done32 flat_string

row32 flat_calls, 60000
    mov $50, %ecx
2:  call 5f
    push %cs
    call 7f
    dec %ecx
    jnz 2b
    jmp 6f
5:  add $3, %eax
    ret
7:  xor $5, %eax
    lret
6:
done32 flat_calls

row32 flat_segments, 40000
    mov $50, %ecx
2:  mov $24, %edx
    mov %edx, %fs
    mov %eax, %fs:64
    mov $16, %edx
    mov %edx, %es
    add %fs:64, %eax
    inc %eax
    dec %ecx
    jnz 2b
done32 flat_segments

    mov $over, %esi
    call print32
9:  hlt
    jmp 9b

    .data
    .balign 8
table:
    .quad 0
    .quad 0x00cf9a000000ffff
    .quad 0x00cf92000000ffff
    .quad 0x0040920500000fff /* 4 KiB at 0x50000 */
table_of:
    .word . - table - 1
    .long table
ready: .asciz "BENCH-BOOT\nBENCH-INIT\n"
over: .asciz "BENCH-END\n"
word_begin: .asciz "BEGIN "
word_done: .asciz "DONE "
newline: .asciz "\n"
