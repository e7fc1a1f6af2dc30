/* Rows that mix the things programs do: lists, matrices, state machines, checksums, records. */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static uint32_t crc(uint32_t sum, uint32_t value)
{
    for (int i = 0; i < 32; i++, value >>= 1)
        sum = (sum ^ value) & 1 ? sum >> 1 ^ 0xedb88320u : sum >> 1;
    return sum;
}

struct node {
    struct node *next;
    int32_t key, value;
};

/* Merge sort of a linked list. */
static struct node *sort(struct node *list)
{
    struct node *slow = list, *fast, *half, head, *tail = &head;

    if (!list || !list->next)
        return list;
    for (fast = list->next; fast && fast->next; fast = fast->next->next)
        slow = slow->next;
    half = sort(slow->next);
    slow->next = NULL;
    list = sort(list);
    while (list && half) {
        struct node **least = list->key <= half->key ? &list : &half;
        tail->next = *least;
        tail = *least;
        *least = tail->next;
    }
    tail->next = list ? list : half;
    return head.next;
}

static uint32_t lists(uint32_t seed)
{
    enum { N = 64 };
    static struct node nodes[N];
    struct node *list = NULL;
    uint32_t sum = 0;

    for (int i = 0; i < N; i++) {
        seed = next_random(seed);
        nodes[i] = (struct node){list, (int32_t)(seed >> 20), i};
        list = &nodes[i];
    }
    list = sort(list);
    for (struct node *n = list; n; n = n->next)
        sum = sum * 31 + (uint32_t)n->value;
    return sum;
}

static uint32_t matrices(uint32_t seed)
{
    enum { N = 12 };
    static int16_t a[N][N], b[N][N];
    uint32_t sum = 0;

    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (int16_t)(seed % 97 + (uint32_t)(i * j));
            b[i][j] = (int16_t)(i - j);
        }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            int32_t s = 0;
            for (int k = 0; k < N; k++)
                s += a[i][k] * b[k][j];
            sum += (uint32_t)(s >> 2 & 0x3ff);
        }
    return sum;
}

/* Tells integers, decimals, words and the rest apart in a text. */
static uint32_t states(const char *text)
{
    enum state { START, INTEGER, DECIMAL, WORD, OTHER, STATES } state = START;
    uint32_t seen[STATES] = {0};

    for (; *text; text++) {
        char c = *text;
        if (c == ',') {
            seen[state]++;
            state = START;
            continue;
        }
        switch (state) {
        case START:
            state = (c >= '0' && c <= '9') || c == '-' ? INTEGER : c >= 'a' && c <= 'z' ? WORD : OTHER;
            break;
        case INTEGER:
            state = c == '.' ? DECIMAL : c >= '0' && c <= '9' ? INTEGER : OTHER;
            break;
        case DECIMAL:
            state = c >= '0' && c <= '9' ? DECIMAL : OTHER;
            break;
        case WORD:
            state = c >= 'a' && c <= 'z' ? WORD : OTHER;
            break;
        default:
            break;
        }
    }
    return seen[INTEGER] | seen[DECIMAL] << 8 | seen[WORD] << 16 | seen[OTHER] << 24;
}

/* A list, a matrix, a state machine and a CRC in turn. */
uint64_t run_coremix(uint64_t count)
{
    static char text[] = "12,word,3.25,-7,a9,name,0.5.5,x,88,-,19.75,end,!,42,";
    uint32_t sum = 0;

    while (count--) {
        sum = 0;
        for (uint32_t i = 1; i <= 16; i++) {
            text[0] = (char)('0' + i % 10);
            sum = crc(sum, lists(i));
            sum = crc(sum, matrices(i));
            sum = crc(sum, states(text));
        }
    }
    return sum;
}

enum kind { FIRST, SECOND, THIRD };
struct record {
    struct record *other;
    enum kind kind;
    int number;
    char name[32];
};

static __attribute__((noinline)) enum kind choose(char a, char b)
{
    return a == b ? FIRST : a < b ? SECOND : THIRD;
}

static __attribute__((noinline)) int longer(const char *a, const char *b)
{
    int at = 2;
    while (at <= 2)
        if (choose(a[at], b[at + 1]) != FIRST)
            at++;
        else
            return 0;
    return strcmp(a, b) > 0;
}

static __attribute__((noinline)) void change(struct record *r, int by)
{
    struct record *other = r->other;

    *other = *r;
    other->number += by;
    other->kind = r->kind == FIRST ? SECOND : FIRST;
    if (other->kind == FIRST)
        r->number = other->number / 3;
    else
        r->kind = other->kind;
}

/* Records copied, strings compared, small procedures called. */
uint64_t run_drystring(uint64_t count)
{
    struct record a = {NULL, FIRST, 0, ""}, b = {NULL, SECOND, 0, ""};
    uint64_t sum = 0;

    while (count--) {
        a = (struct record){&b, FIRST, 5, "some program, first string"};
        b = (struct record){&a, SECOND, 9, ""};
        sum = 0;
        for (int i = 0; i < 100; i++) {
            char text[32];
            strcpy(text, i & 1 ? "some program, other string" : "some program, extra string");
            __asm__ volatile("" : : "r"(text) : "memory");
            sum = sum * 3 + (uint64_t)longer(a.name, text);
            change(&a, i);
            a.other = &b;
            strcpy(b.name, text);
            sum += (uint64_t)(unsigned)b.number + (uint64_t)choose(a.name[i % 16], text[i % 16]);
        }
    }
    return sum;
}
