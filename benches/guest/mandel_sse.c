/* flags: -msse2 -mfpmath=sse */
#include "bench.h"
#include "mandel_body.h"

uint64_t run_mandel_sse(uint64_t count)
{
    uint64_t sum = 0;
    while (count--) {
        __asm__ volatile("" : : : "memory");
        sum = mandelbrot();
    }
    return sum;
}
