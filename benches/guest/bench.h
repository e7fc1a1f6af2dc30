/* Each run does COUNT units of work and returns a checksum of the last one. */
#include <stdint.h>

struct row {
    const char *name;
    uint64_t (*run)(uint64_t count);
};

/* A generator that is the same everywhere. */
static inline uint32_t next_random(uint32_t state)
{
    return state * 1664525u + 1013904223u;
}

/* Where the packaged programs lie ("" in the guest), and a folder in memory. */
extern const char *bench_root, *bench_scratch;
/* The program itself, for rows that start it. */
extern const char *bench_self;

#define COMPUTE_ROWS(ROW)                                                                          \
    ROW(coremix) ROW(drystring) ROW(sieve) ROW(qsort) ROW(sha256) ROW(md5) ROW(gzip) ROW(fib)      \
    ROW(indirect) ROW(strings) ROW(memcpy) ROW(repmovs) ROW(jit) ROW(matmul) ROW(nbody)            \
    ROW(mandel_x87) ROW(mandel_sse) ROW(mandel_avx2) ROW(lua) ROW(python) ROW(compiler)
#define SYSTEM_ROWS(ROW)                                                                           \
    ROW(getppid) ROW(clock) ROW(pipe) ROW(fork) ROW(forkexec) ROW(pagetouch) ROW(mmap) ROW(yield)  \
    ROW(futex) ROW(signal) ROW(files) ROW(shell) ROW(onejob) ROW(twojobs)

#define DECLARE(name) uint64_t run_##name(uint64_t count);
COMPUTE_ROWS(DECLARE)
SYSTEM_ROWS(DECLARE)
