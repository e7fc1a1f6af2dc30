/* Each run does COUNT units of work and returns a checksum of the last one. */
#include <stdint.h>

struct row {
    const char *name;
    uint64_t (*run)(uint64_t count);
};

uint64_t run_sieve(uint64_t count);
uint64_t run_qsort(uint64_t count);
uint64_t run_sha256(uint64_t count);
uint64_t run_memcpy(uint64_t count);
uint64_t run_matmul(uint64_t count);
uint64_t run_fib(uint64_t count);
uint64_t run_nbody(uint64_t count);
uint64_t run_strings(uint64_t count);
uint64_t run_getppid(uint64_t count);
uint64_t run_pipe(uint64_t count);
uint64_t run_fork(uint64_t count);
uint64_t run_pagetouch(uint64_t count);
