/* flags: -mfpmath=387 */
#include "bench.h"
#include "mandel_body.h"

uint64_t run_mandel_x87(uint64_t count)
{
    uint64_t sum = 0;
    while (count--) {
        __asm__ volatile("" : : : "memory");
        sum = mandelbrot();
    }
    return sum;
}
