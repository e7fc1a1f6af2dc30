/* Rows that run programs of Debian packages, with the loader and the libraries beside them. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#ifdef __x86_64__
#define PART "/amd64"
#define TRIPLET "x86_64-linux-gnu"
#define LOADER "ld-linux-x86-64.so.2"
#else
#define PART "/i386"
#define TRIPLET "i386-linux-gnu"
#define LOADER "ld-linux.so.2"
#endif

static const char *path(char out[256], const char *folder, const char *rest)
{
    snprintf(out, 256, "%s%s", folder, rest);
    return out;
}

/* Hashes (FNV-1a) what a program writes to its standard output. Aborts when it fails. */
static uint64_t output_of(const char *program, const char *const arguments[])
{
    char loader[256], libraries[256], file[256], python_home[256], buffer[16384];
    const char *argv[16] = {path(loader, bench_root, PART "/lib/" TRIPLET "/" LOADER), "--library-path",
                            path(libraries, bench_root, PART "/lib/" TRIPLET), path(file, bench_root, program)};
    uint64_t hash = 0xcbf29ce484222325u;
    int ends[2], status = 0, at = 4;
    pid_t child;
    ssize_t got;

    while (*arguments && at < 15)
        argv[at++] = *arguments++;
    if (pipe(ends) || (child = fork()) < 0)
        abort();
    if (child == 0) {
        setenv("PYTHONHOME", path(python_home, bench_root, PART "/usr"), 1);
        setenv("PYTHONHASHSEED", "0", 1);
        dup2(ends[1], 1);
        close(ends[0]);
        close(ends[1]);
        /* A static program is started as it is. */
        if (strstr(program, "busybox"))
            execv(argv[3], (char *const *)(argv + 3));
        else
            execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    close(ends[1]);
    while ((got = read(ends[0], buffer, sizeof buffer)) > 0)
        for (ssize_t i = 0; i < got; i++)
            hash = (hash ^ (unsigned char)buffer[i]) * 0x100000001b3u;
    close(ends[0]);
    waitpid(child, &status, 0);
    return status == 0 ? hash : (uint64_t)status;
}

static uint64_t script(const char *program, const char *option, const char *name, uint64_t count)
{
    char file[256], times[32];
    const char *with[] = {option, path(file, bench_root, name), times, NULL};
    const char *without[] = {file, times, NULL};

    path(file, bench_root, name);
    snprintf(times, sizeof times, "%llu", (unsigned long long)count);
    return output_of(program, option ? with : without);
}

/* A unit is so long that starting the interpreter counts for little. */
uint64_t run_lua(uint64_t count)
{
    return script(PART "/usr/bin/lua5.4", NULL, "/mix.lua", count * 32);
}

uint64_t run_python(uint64_t count)
{
    return script(PART "/usr/bin/python3.11", "-IS", "/mix.py", count * 16);
}

static FILE *scratch_file(char name[256], const char *rest)
{
    FILE *file = fopen(path(name, bench_scratch, rest), "w");
    if (!file)
        abort();
    return file;
}

/* gzip -9 of 256 KiB of words and numbers. */
uint64_t run_gzip(uint64_t count)
{
    static const char *const words[] = {"memory", "page", "of", "the", "guest", "is", "not", "translated", "yet"};
    char name[256];
    const char *arguments[] = {"-9nc", name, NULL};
    FILE *file = scratch_file(name, "/text");
    uint64_t hash = 0;
    uint32_t state = 5;

    while (ftell(file) < 1 << 18) {
        state = next_random(state);
        if (state >> 29)
            fprintf(file, "%s ", words[(state >> 16) % 9]);
        else
            fprintf(file, "%u\n", state >> 12);
    }
    fclose(file);
    while (count--)
        hash = output_of(PART "/usr/bin/gzip", arguments);
    unlink(name);
    return hash;
}

/* tcc compiles a generated file of 20,000 functions, some 180,000 lines: so long that starting it
   counts for little, which is another row's matter. The object names its source, so that the names
   are relative to the scratch folder. */
uint64_t run_compiler(uint64_t count)
{
    static const char source[] = "input.c", object[] = "input.o";
    const char *arguments[] = {"-c", source, "-o", object, NULL};
    uint64_t hash = 0;
    FILE *file;

    if (chdir(bench_scratch) || !(file = fopen(source, "w")))
        abort();
    for (int i = 0; i < 20000; i++)
        fprintf(file,
                "struct s%d { int a, b[%d]; struct s%d *next; };\n"
                "static int f%d(struct s%d *p, int n)\n{\n    int sum = %d;\n"
                "    for (int i = 0; i < n && p; i++, p = p->next)\n"
                "        sum += p->a * p->b[i %% %d] ^ (i << %d);\n"
                "    return sum > %d ? sum - n : sum + n;\n}\n"
                "int (*pointer%d)(struct s%d *, int) = f%d;\n",
                i, i % 9 + 1, i, i, i, i * 7, i % 9 + 1, i % 13, i * 3, i, i, i);
    fclose(file);
    while (count--)
        hash = output_of(PART "/usr/bin/tcc", arguments);
    if ((file = fopen(object, "r"))) {
        for (int byte; (byte = getc(file)) != EOF;)
            hash = (hash ^ (unsigned)byte) * 0x100000001b3u;
        fclose(file);
    }
    unlink(source);
    unlink(object);
    return hash;
}

#ifdef __x86_64__
/* A shell loop with a subshell in each round. */
uint64_t run_shell(uint64_t count)
{
    char text[256];
    const char *arguments[] = {"sh", "-c", text, NULL};

    snprintf(text, sizeof text, "i=0; s=0; while [ $i -lt %llu ]; do i=$((i+1)); v=$(echo $i); s=$((s+v)); done; echo $s",
             (unsigned long long)count);
    return output_of(PART "/bin/busybox", arguments);
}
#endif
