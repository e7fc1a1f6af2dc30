/* flags: -mavx2 */
#include <immintrin.h>

#include "bench.h"

/* As the others, four points at a time; 0 where the processor has no AVX2. */
uint64_t run_mandel_avx2(uint64_t count)
{
    enum { SIDE = 48, LIMIT = 100 };
    const __m256d four = _mm256_set1_pd(4), step = _mm256_set_pd(3, 2, 1, 0);
    uint64_t sum = 0;

    if (!__builtin_cpu_supports("avx2"))
        return 0;
    while (count--) {
        sum = 0;
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < SIDE; x += 4) {
                __m256d cr = _mm256_mul_pd(_mm256_add_pd(_mm256_set1_pd(x), step), _mm256_set1_pd(3.0 / 64));
                __m256d ci = _mm256_set1_pd(y * (3.0 / 64) - 1.125), r = _mm256_setzero_pd(), i = r;
                __m256i n = _mm256_setzero_si256();
                long long counts[4];
                cr = _mm256_sub_pd(cr, _mm256_set1_pd(1.75));
                for (int turn = 0; turn < LIMIT; turn++) {
                    __m256d rr = _mm256_mul_pd(r, r), ii = _mm256_mul_pd(i, i);
                    __m256d inside = _mm256_cmp_pd(_mm256_add_pd(rr, ii), four, _CMP_LT_OQ);
                    if (_mm256_movemask_pd(inside) == 0)
                        break;
                    n = _mm256_sub_epi64(n, _mm256_castpd_si256(inside));
                    i = _mm256_add_pd(_mm256_mul_pd(_mm256_add_pd(r, r), i), ci);
                    r = _mm256_add_pd(_mm256_sub_pd(rr, ii), cr);
                }
                _mm256_storeu_si256((__m256i *)counts, n);
                for (int lane = 0; lane < 4; lane++)
                    sum = sum * 7 + (uint64_t)counts[lane];
            }
    }
    return sum;
}
