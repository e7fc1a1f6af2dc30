#ifdef __x86_64__
/* Rows that live in the kernel. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

/* The cheapest system call. */
uint64_t run_getppid(uint64_t count)
{
    while (count--)
        syscall(SYS_getppid);
    return 0;
}

/* A byte to another process and back: two context switches. */
uint64_t run_pipe(uint64_t count)
{
    int to[2], from[2];
    char byte = 1;
    pid_t child;

    if (pipe(to) || pipe(from) || (child = fork()) < 0)
        abort();
    if (child == 0) {
        close(to[1]);
        while (read(to[0], &byte, 1) == 1)
            if (write(from[1], &byte, 1) != 1)
                break;
        _exit(0);
    }
    while (count--)
        if (write(to[1], &byte, 1) != 1 || read(from[0], &byte, 1) != 1)
            abort();
    close(to[1]);
    close(to[0]);
    close(from[0]);
    close(from[1]);
    waitpid(child, NULL, 0);
    return byte;
}

/* A process that ends at once. */
uint64_t run_fork(uint64_t count)
{
    int status = 0;

    while (count--) {
        pid_t child = fork();
        if (child == 0)
            _exit(3);
        waitpid(child, &status, 0);
    }
    return (uint64_t)WEXITSTATUS(status);
}

/* First touch of 256 fresh pages. */
uint64_t run_pagetouch(uint64_t count)
{
    enum { PAGES = 256, PAGE = 4096 };
    uint64_t sum = 0;

    while (count--) {
        volatile char *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            abort();
        sum = 0;
        for (int i = 0; i < PAGES; i++) {
            p[i * PAGE] = 1;
            sum += (uint64_t)p[i * PAGE];
        }
        munmap((void *)p, PAGES * PAGE);
    }
    return sum;
}

/* Reading the clock, in whatever way the kernel gives to programs. */
uint64_t run_clock(uint64_t count)
{
    struct timespec t;
    while (count--)
        clock_gettime(CLOCK_MONOTONIC, &t);
    return 0;
}

/* A process that starts a program, which ends at once. */
uint64_t run_forkexec(uint64_t count)
{
    int status = 0;

    while (count--) {
        pid_t child = fork();
        if (child == 0) {
            execl(bench_self, bench_self, "exit", (char *)NULL);
            _exit(4);
        }
        waitpid(child, &status, 0);
    }
    return (uint64_t)WEXITSTATUS(status);
}

/* Mapping, protecting and unmapping 16 pages with one of them touched. */
uint64_t run_mmap(uint64_t count)
{
    while (count--) {
        char *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            abort();
        p[4096] = 1;
        mprotect(p, 65536, PROT_READ);
        munmap(p, 65536);
    }
    return 0;
}

/* Two processes that give way to each other. */
uint64_t run_yield(uint64_t count)
{
    pid_t child = fork();

    if (child < 0)
        abort();
    if (child == 0)
        for (;;)
            sched_yield();
    while (count--)
        sched_yield();
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return 0;
}

static void wait_for(int *word, int value)
{
    int now;
    while ((now = __atomic_load_n(word, __ATOMIC_ACQUIRE)) != value)
        syscall(SYS_futex, word, FUTEX_WAIT, now, NULL, NULL, 0);
}

static void set(int *word, int value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* A word in shared memory goes to and fro between two processes. */
uint64_t run_futex(uint64_t count)
{
    int *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child;

    if (word == MAP_FAILED || (child = fork()) < 0)
        abort();
    if (child == 0)
        for (;;) {
            wait_for(word, 1);
            set(word, 0);
        }
    while (count--) {
        set(word, 1);
        wait_for(word, 0);
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    munmap(word, 4096);
    return 0;
}

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
    caught += number == SIGUSR1;
}

/* A signal to itself, handled. */
uint64_t run_signal(uint64_t count)
{
    struct sigaction action = {.sa_handler = on_signal};

    sigaction(SIGUSR1, &action, NULL);
    while (count--) {
        caught = 0;
        kill(getpid(), SIGUSR1);
    }
    return (uint64_t)caught;
}

/* A file in memory is made, written, looked at and deleted. */
uint64_t run_files(uint64_t count)
{
    char name[256];
    uint64_t sum = 0;

    while (count--) {
        int file;
        snprintf(name, sizeof name, "%s/file%u", bench_scratch, (unsigned)(count % 64));
        file = open(name, O_CREAT | O_RDWR | O_EXCL, 0600);
        if (file < 0 || write(file, name, 200) != 200)
            abort();
        sum = (uint64_t)lseek(file, 0, SEEK_CUR);
        close(file);
        unlink(name);
    }
    return sum;
}

static uint64_t jobs(unsigned number, uint64_t count)
{
    int status, failed = 0;

    for (unsigned i = 0; i < number; i++) {
        pid_t child = fork();
        if (child == 0) {
            run_coremix(count * 64);
            _exit(0);
        }
    }
    while (wait(&status) > 0)
        failed |= status;
    return (uint64_t)failed;
}

/* The same work by one process, and by each of two at once. */
uint64_t run_onejob(uint64_t count)
{
    return jobs(1, count);
}

uint64_t run_twojobs(uint64_t count)
{
    return jobs(2, count);
}
#endif
