/* Rows that live in the kernel. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
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
