/* How fast a message goes from one process to another, by each means that Linux has.
 *
 * usage: carriers MEANS SIZE latency|stream block|poll CORE CORE SECONDS
 *
 * Two processes, pinned to a core each. `latency`: a message goes there and one of the same size
 * comes back; prints the median and the 99th percentile of that round trip in nanoseconds.
 * `stream`: messages go one way, as fast as they are taken; prints messages a second. `poll` asks
 * again and again instead of sleeping in the kernel; where both share a core, it yields in between.
 * All is opened before the fork and unlinked at once, so that nothing is left behind. */
#define _GNU_SOURCE
#include "means.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SAMPLES_MAX = 1 << 20, DIRECT_READS = 100, REWRITE_NS = 1000000, GRACE_SECONDS = 20 };

static uint64_t samples[SAMPLES_MAX];

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void pin(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        fail("sched_setaffinity");
}

static int compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void print_samples(size_t count, double divisor)
{
    qsort(samples, count, sizeof *samples, compare);
    printf("%.1f %.1f\n", (double)samples[count / 2] / divisor,
           (double)samples[count * 99 / 100] / divisor);
}

/* The first byte of a message says whether it is the last. */
static void answer(const struct means *means, char *message, size_t size, bool each)
{
    do {
        means->receive(THERE, message, size);
        if (each || message[0])
            means->send(BACK, message, size);
    } while (!message[0]);
}

static void ask(const struct means *means, char *message, size_t size, bool each, double seconds)
{
    uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9), now = begin;
    size_t count = 0;
    do {
        uint64_t sent = now;
        message[0] = now >= end || count + 1 == SAMPLES_MAX * (each ? 1u : 1024u);
        bool last = message[0];
        means->send(THERE, message, size);
        if (each || last)
            means->receive(BACK, message, size);
        now = now_ns();
        if (each)
            samples[count] = now - sent;
        count++;
        if (last)
            break;
    } while (true);
    if (each)
        print_samples(count, 1);
    else
        printf("%.1f\n", (double)count / ((double)(now - begin) / 1e9));
}

/* No message at all: one process reads what the other rewrites now and then. A version before and
 * after the copy tells whether it is whole, as in a seqlock. */

struct record {
    _Alignas(64) _Atomic uint64_t version;
    char bytes[1 << 20];
};

static void rewrite(struct record *record, const char *message, size_t size)
{
    for (uint64_t version = 0;; version += 2) {
        atomic_store_explicit(&record->version, version + 1, memory_order_relaxed);
        atomic_thread_fence(memory_order_release);
        memcpy(record->bytes, message, size);
        atomic_store_explicit(&record->version, version + 2, memory_order_release);
        nanosleep(&(struct timespec){.tv_nsec = REWRITE_NS}, NULL);
    }
}

static void read_record(struct record *record, char *message, size_t size)
{
    for (;;) {
        uint64_t version = atomic_load_explicit(&record->version, memory_order_acquire);
        memcpy(message, record->bytes, size);
        atomic_thread_fence(memory_order_acquire);
        if (version % 2 == 0 &&
            version == atomic_load_explicit(&record->version, memory_order_relaxed))
            return;
        relax();
    }
}

static void read_directly(struct record *record, char *message, size_t size, bool each,
                          double seconds)
{
    uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9), now = begin;
    size_t count = 0;
    for (; now < end && count < SAMPLES_MAX; count++) {
        uint64_t started = now;
        for (int reads = 0; reads < DIRECT_READS; reads++)
            read_record(record, message, size);
        now = now_ns();
        samples[count] = now - started;
    }
    if (each)
        print_samples(count, DIRECT_READS);
    else
        printf("%.1f\n", (double)count * DIRECT_READS / ((double)(now - begin) / 1e9));
}

static void stop(int number)
{
    remove_sysv();
    _exit(128 + number);
}

int main(int count, char **words)
{
    if (count != 8)
        return 2;
    const struct means *means = find_means(words[1]);
    bool directly = strcmp(words[1], "direct") == 0, each = strcmp(words[3], "latency") == 0;
    if (means == NULL && !directly)
        return 2;
    size_t size = strtoul(words[2], NULL, 10);
    polls = strcmp(words[4], "poll") == 0;
    int core = atoi(words[5]), other_core = atoi(words[6]);
    same_core = core == other_core;
    double seconds = atof(words[7]);
    char *message = calloc(1, size);
    struct record *record = directly ? shared(sizeof *record) : NULL;

    signal(SIGALRM, stop);
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    alarm((unsigned)seconds + GRACE_SECONDS); /* a hang must end */
    if (means != NULL)
        means->open(size);
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        signal(SIGTERM, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != parent)
            return 1;
        pin(other_core);
        if (directly)
            rewrite(record, message, size);
        answer(means, message, size, each);
        return 0;
    }
    pin(core);
    if (directly)
        read_directly(record, message, size, each, seconds);
    else
        ask(means, message, size, each, seconds);
    remove_sysv();
    kill(child, SIGTERM);
    waitpid(child, NULL, 0);
    return 0;
}
