/* Calls of every kind, code made at run time, copies by one instruction. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

static __attribute__((noinline)) unsigned fib(unsigned n)
{
    __asm__ volatile("");
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

/* Recursive calls and returns. */
uint64_t run_fib(uint64_t count)
{
    uint64_t result = 0;
    while (count--)
        result = fib(20);
    return result;
}

typedef uint32_t operation(uint32_t);
static uint32_t add(uint32_t x) { return x + 17; }
static uint32_t mix(uint32_t x) { return x ^ x >> 3; }
static uint32_t multiply(uint32_t x) { return x * 5; }
static uint32_t turn(uint32_t x) { return x << 7 | x >> 25; }

/* 4096 calls through a table of functions, in an order that is hard to foresee. */
uint64_t run_indirect(uint64_t count)
{
    static operation *const table[] = {add, mix, multiply, turn};
    uint32_t x = 1, state;

    while (count--) {
        x = 1;
        state = 3;
        for (int i = 0; i < 4096; i++) {
            state = next_random(state);
            x = table[state >> 30](x);
        }
    }
    return x;
}

/* Writes a function of 32 additions, calls it 16 times, and does it again elsewhere on the page. */
uint64_t run_jit(uint64_t count)
{
    enum { SIZE = 4096, ADDITIONS = 32, SLOT = 256 };
    unsigned char *page = mmap(NULL, SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t sum = 0;

    if (page == MAP_FAILED)
        abort();
    while (count--) {
        sum = 0;
        for (uint32_t round = 0; round < 16; round++) {
            unsigned char *start = page + round * SLOT, *p = start;
            uint32_t (*made)(void);
            uint32_t value = round;
            *p++ = 0xb8; /* mov eax, imm32 */
            memcpy(p, &value, 4);
            p += 4;
            for (uint32_t i = 0; i < ADDITIONS; i++) {
                value = i * 77 + round + (uint32_t)count;
                *p++ = 0x05; /* add eax, imm32 */
                memcpy(p, &value, 4);
                p += 4;
            }
            *p = 0xc3;
            memcpy(&made, &start, sizeof made);
            for (int i = 0; i < 16; i++)
                sum += made();
        }
    }
    munmap(page, SIZE);
    return sum;
}

/* REP MOVSB and REP MOVS of the native word, 64 KiB each. */
uint64_t run_repmovs(uint64_t count)
{
    enum { N = 65536 };
    static unsigned char from[N], to[N];

    for (unsigned i = 0; i < N; i++)
        from[i] = (unsigned char)(i * 31);
    while (count--) {
        void *d = to, *s = from;
        size_t n = N;
        __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
        d = to, s = from, n = N / sizeof(long);
#ifdef __x86_64__
        __asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
#else
        __asm__ volatile("rep movsl" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
#endif
    }
    return to[N - 1] | (uint64_t)to[N / 3] << 8;
}
