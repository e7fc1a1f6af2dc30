/*
 * The benchmark set, one static program, built for 64 and for 32 bits.
 *
 *   bench SECONDS ROW,ROW,...    runs those rows on any Linux; the 32-bit one's are named ROW.32
 *
 * As a guest's first process it prints when it was reached, takes the two words from the serial
 * port, runs the rows of both programs and powers off.
 *
 * Output, one line per row: BENCH <name> <nanoseconds per unit of work> <checksum>
 * The checksum is the same wherever the row is right.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define ENTRY(name) {#name, run_##name},
static const struct row rows[] = {
    COMPUTE_ROWS(ENTRY)
#ifdef __x86_64__
    SYSTEM_ROWS(ENTRY)
#endif
};
#ifdef __x86_64__
#define SUFFIX ""
#else
#define SUFFIX ".32"
#endif
#define PROGRAM_32 "/bench32"

const char *bench_root = "", *bench_scratch = "/tmp", *bench_self = "/init";

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Grows the amount of work until a run takes long enough, then takes the best of three. The first
   and the last unit of work have the same result. */
static void measure(const struct row *row, double seconds)
{
    uint64_t enough = (uint64_t)(seconds * 1e9), best, took, sum, last, count = 1;

    printf("BENCH-ROW %s" SUFFIX "\n", row->name);
    fflush(stdout);
    sum = row->run(1);
    for (;;) {
        uint64_t start = now_ns();
        row->run(count);
        best = now_ns() - start;
        if (best >= enough / 2)
            break;
        count = best * 16 < enough ? count * 8 : count * 2;
    }
    /* A single unit that takes seconds is steady enough. */
    for (int i = 0; i < 2 && best < 4 * enough; i++) {
        uint64_t start = now_ns();
        row->run(count);
        took = now_ns() - start;
        if (took < best)
            best = took;
    }
    if ((last = row->run(1)) != sum) {
        printf("BENCH-WRONG %s" SUFFIX ": %016llx at first, then %016llx\n", row->name, (unsigned long long)sum,
               (unsigned long long)last);
        return;
    }
    printf("BENCH %s" SUFFIX " %.1f %016llx\n", row->name, (double)best / (double)count, (unsigned long long)sum);
    fflush(stdout);
}

static int wanted(const char *list, const char *name)
{
    char word[64];
    size_t length = (size_t)snprintf(word, sizeof word, "%s" SUFFIX, name);

    while (*list) {
        size_t here = strcspn(list, ",");
        if (here == length && memcmp(list, word, length) == 0)
            return 1;
        list += here + (list[here] == ',');
    }
    return 0;
}

static void run_rows(double seconds, const char *list)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (wanted(list, rows[i].name))
            measure(&rows[i], seconds);
}

/* The guest's first process: what it needs of a system, then the request. */
static void first_process(void)
{
    static char request[4096], list[4096];
    char seconds[32] = "";
    struct termios line;
    int console = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
    pid_t child;

    if (console < 0) {
        mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
        console = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
    }
    for (int i = 0; console >= 0 && i < 3; i++)
        dup2(console, i);
    if (tcgetattr(0, &line) == 0) {
        line.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
        tcsetattr(0, TCSANOW, &line);
    }
    printf("BENCH-INIT\n");
    fflush(stdout);
    mkdir("/tmp", 0777);
    mount("tmpfs", "/tmp", "tmpfs", 0, NULL);
    mkdir("/proc", 0777);
    mount("proc", "/proc", "proc", 0, NULL);
    if (fgets(request, sizeof request, stdin) && sscanf(request, "%31s %4095s", seconds, list) == 2) {
        run_rows(atof(seconds), list);
        if ((child = fork()) == 0) {
            execl(PROGRAM_32, PROGRAM_32, seconds, list, (char *)NULL);
            _exit(1);
        }
        waitpid(child, NULL, 0);
    }
    printf("BENCH-END\n");
    fflush(stdout);
    tcdrain(1);
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    if (getpid() == 1)
        first_process();
    /* What the forkexec row starts. */
    if (argc == 2 && strcmp(argv[1], "exit") == 0)
        _exit(3);
    if (argc != 3) {
        fprintf(stderr, "usage: bench SECONDS ROW,ROW,...\n");
        return 2;
    }
    if (getenv("BENCH_ROOT"))
        bench_root = getenv("BENCH_ROOT");
    if (getenv("BENCH_SCRATCH"))
        bench_scratch = getenv("BENCH_SCRATCH");
    bench_self = strcmp(argv[0], PROGRAM_32) == 0 ? PROGRAM_32 : argv[0];
    run_rows(atof(argv[1]), argv[2]);
    return 0;
}
