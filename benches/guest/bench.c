/*
 * The benchmark set, one static program. Run as `bench [SECONDS]` on any Linux, or as a guest's
 * first process: then it prints when it was reached, runs everything, and powers off.
 *
 * Output, one line per row: BENCH <name> <nanoseconds per unit of work> <checksum>
 * The checksum is the same wherever the row is right.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

static const struct row rows[] = {
    {"sieve", run_sieve},     {"qsort", run_qsort},         {"sha256", run_sha256},
    {"memcpy", run_memcpy},   {"matmul", run_matmul},       {"fib", run_fib},
    {"nbody", run_nbody},     {"strings", run_strings},     {"getppid", run_getppid},
    {"pipe", run_pipe},       {"fork", run_fork},           {"pagetouch", run_pagetouch},
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Grows the amount of work until a run takes long enough, then takes the best of three. */
static void measure(const struct row *row, double seconds)
{
    uint64_t enough = (uint64_t)(seconds * 1e9), best, took, sum, count = 1;

    sum = row->run(1);
    for (;;) {
        uint64_t start = now_ns();
        row->run(count);
        best = now_ns() - start;
        if (best >= enough / 2)
            break;
        count = best * 8 < enough ? count * 4 : count * 2;
    }
    for (int i = 0; i < 2; i++) {
        uint64_t start = now_ns();
        row->run(count);
        took = now_ns() - start;
        if (took < best)
            best = took;
    }
    printf("BENCH %s %.1f %016llx\n", row->name, (double)best / (double)count, (unsigned long long)sum);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int first = getpid() == 1;
    double seconds = argc > 1 ? atof(argv[1]) : 0.3;

    if (first) {
        int console = open("/dev/ttyS0", O_RDWR);
        if (console < 0) {
            mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
            console = open("/dev/ttyS0", O_RDWR);
        }
        for (int i = 0; console >= 0 && i < 3; i++)
            dup2(console, i);
        seconds = getenv("bench") ? atof(getenv("bench")) : 0;
        printf("BENCH-INIT\n");
        fflush(stdout);
    }
    for (size_t i = 0; seconds > 0 && i < sizeof rows / sizeof rows[0]; i++)
        measure(&rows[i], seconds);
    printf("BENCH-END\n");
    fflush(stdout);
    if (first) {
        tcdrain(1);
        reboot(RB_POWER_OFF);
        for (;;)
            pause();
    }
    return 0;
}
