/* Rows that only compute. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

/* Primes below 64 Ki, by bytes. */
uint64_t run_sieve(uint64_t count)
{
    enum { N = 65536 };
    static unsigned char composite[N];
    uint64_t primes = 0;

    while (count--) {
        primes = 0;
        memset(composite, 0, N);
        for (unsigned i = 2; i < N; i++) {
            if (composite[i])
                continue;
            primes++;
            for (unsigned j = i * 2; j < N; j += i)
                composite[j] = 1;
        }
    }
    return primes;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The C library's sort of 4096 numbers: indirect calls and unpredictable branches. */
uint64_t run_qsort(uint64_t count)
{
    enum { N = 4096 };
    static uint32_t values[N];
    uint32_t state = 1;

    while (count--) {
        state = 1;
        for (unsigned i = 0; i < N; i++)
            values[i] = state = next_random(state);
        qsort(values, N, sizeof values[0], by_value);
    }
    return values[0] ^ ((uint64_t)values[N / 2] << 32);
}

/* The C library's copy of 256 KiB. */
uint64_t run_memcpy(uint64_t count)
{
    enum { N = 262144 };
    static unsigned char from[N], to[N];

    for (unsigned i = 0; i < N; i++)
        from[i] = (unsigned char)(i * 31);
    while (count--) {
        from[count % N]++;
        memcpy(to, from, N);
        __asm__ volatile("" : : "r"(to) : "memory");
    }
    return to[N - 1];
}

/* A product of two 96 by 96 matrices of doubles. */
uint64_t run_matmul(uint64_t count)
{
    enum { N = 96 };
    static double a[N][N], b[N][N], c[N][N];
    double sum = 0;

    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (double)(i * 3 + j % 7) / 8;
            b[i][j] = (double)(j * 5 + i % 3) / 4;
        }
    while (count--) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double s = 0;
                for (int k = 0; k < N; k++)
                    s += a[i][k] * b[k][j];
                c[i][j] = s;
            }
        __asm__ volatile("" : : "r"(c) : "memory");
    }
    for (int i = 0; i < N; i++)
        sum += c[i][N - 1 - i];
    return (uint64_t)sum;
}

/* Five bodies, 1000 steps: scalar floating point with divisions and square roots. */
uint64_t run_nbody(uint64_t count)
{
    enum { N = 5 };
    double x[N][3], v[N][3], m[N];

    while (count--) {
        for (int i = 0; i < N; i++) {
            m[i] = 1.0 / (1 + i * 8);
            for (int d = 0; d < 3; d++) {
                x[i][d] = i * 2.5 + d * 0.75 * i;
                v[i][d] = (i - 2) * 0.125 * (d - 1);
            }
        }
        for (int step = 0; step < 1000; step++) {
            for (int i = 0; i < N; i++)
                for (int j = i + 1; j < N; j++) {
                    double r[3], square = 0.01, force;
                    for (int d = 0; d < 3; d++) {
                        r[d] = x[i][d] - x[j][d];
                        square += r[d] * r[d];
                    }
                    force = 0.001 / (square * sqrt(square));
                    for (int d = 0; d < 3; d++) {
                        v[i][d] -= r[d] * m[j] * force;
                        v[j][d] += r[d] * m[i] * force;
                    }
                }
            for (int i = 0; i < N; i++)
                for (int d = 0; d < 3; d++)
                    x[i][d] += v[i][d] * 0.001;
        }
    }
    return (uint64_t)(fabs(x[0][0] + x[4][2]) * 1e6);
}

/* strlen, memchr, strcmp and strstr on short and long strings. */
uint64_t run_strings(uint64_t count)
{
    static char text[4096], copy[4096];
    uint64_t sum = 0;

    for (unsigned i = 0; i < sizeof text - 1; i++)
        text[i] = (char)('a' + i * 7 % 23);
    memcpy(text + 4000, "needle in hay", 13);
    memcpy(copy, text, sizeof text);
    while (count--) {
        sum = 0;
        for (unsigned i = 0; i < 16; i++) {
            char *from = text + i * 3;
            __asm__ volatile("" : "+r"(from) : : "memory");
            sum += strlen(from);
            sum += (uint64_t)((char *)memchr(from, 'n', 4096 - i * 3) - from);
            sum += (uint64_t)(strcmp(from, copy + i * 3) == 0);
            sum += (uint64_t)(strstr(from, "needle") - from);
        }
    }
    return sum;
}
