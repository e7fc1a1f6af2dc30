/* Digests over 64 MiB: a buffer of 1 MiB, taken 64 times. */
#include <math.h>
#include <string.h>

#include "bench.h"

enum { BUFFER = 1 << 20, TIMES = 64 };

static const unsigned char *buffer(void)
{
    static unsigned char data[BUFFER];
    uint32_t state = 7;

    for (unsigned i = 0; i < sizeof data; i++) {
        state = next_random(state);
        data[i] = (unsigned char)(state >> 24);
    }
    return data;
}

static uint32_t rotr(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

/* The constants of FIPS 180-4: fractional bits of cube roots of the first primes. */
static void sha256_constants(uint32_t k[64])
{
    unsigned n = 0;
    for (unsigned p = 2; n < 64; p++) {
        unsigned d = 2;
        while (d * d <= p && p % d)
            d++;
        if (d * d > p) {
            long double root = cbrtl((long double)p);
            k[n++] = (uint32_t)((root - floorl(root)) * 4294967296.0L);
        }
    }
}

static void sha256_block(uint32_t h[8], const uint32_t k[64], const unsigned char *p)
{
    uint32_t w[64], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], last = h[7];

    for (int i = 0; i < 16; i++, p += 4)
        w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    for (int i = 16; i < 64; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (rotr(x, 7) ^ rotr(x, 18) ^ x >> 3) + (rotr(y, 17) ^ rotr(y, 19) ^ y >> 10);
    }
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = last + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i];
        uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        last = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e, h[5] += f, h[6] += g, h[7] += last;
}

/* SHA-256's compression function. */
uint64_t run_sha256(uint64_t count)
{
    const unsigned char *data = buffer();
    uint32_t k[64], h[8];

    sha256_constants(k);
    memset(h, 0, sizeof h);
    while (count--) {
        for (int i = 0; i < 8; i++)
            h[i] = 0x6a09e667u * (unsigned)(i + 1);
        for (int time = 0; time < TIMES; time++)
            for (unsigned i = 0; i < BUFFER; i += 64)
                sha256_block(h, k, data + i);
    }
    return (uint64_t)h[0] << 32 | h[7];
}

static void md5_block(uint32_t h[4], const uint32_t k[64], const unsigned char *p)
{
    static const unsigned char shift[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], x[16];

    memcpy(x, p, sizeof x);
    for (unsigned i = 0; i < 64; i++) {
        uint32_t f, sum;
        unsigned at;
        switch (i / 16) {
        case 0: f = (b & c) | (~b & d), at = i; break;
        case 1: f = (b & d) | (c & ~d), at = (5 * i + 1) % 16; break;
        case 2: f = b ^ c ^ d, at = (3 * i + 5) % 16; break;
        default: f = c ^ (b | ~d), at = 7 * i % 16; break;
        }
        sum = a + f + k[i] + x[at];
        a = d, d = c, c = b;
        b += rotr(sum, 32u - shift[i / 16][i % 4]);
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d;
}

/* MD5's compression function (RFC 1321; its constants are sines). */
uint64_t run_md5(uint64_t count)
{
    const unsigned char *data = buffer();
    uint32_t k[64], h[4] = {0};

    for (int i = 0; i < 64; i++)
        k[i] = (uint32_t)(fabs(sin(i + 1)) * 4294967296.0);
    while (count--) {
        h[0] = 0x67452301, h[1] = 0xefcdab89, h[2] = 0x98badcfe, h[3] = 0x10325476;
        for (int time = 0; time < TIMES; time++)
            for (unsigned i = 0; i < BUFFER; i += 64)
                md5_block(h, k, data + i);
    }
    return (uint64_t)h[0] << 32 | h[3];
}
