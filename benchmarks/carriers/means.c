/* The means themselves: descriptors, message queues, a ring in shared memory. */
#define _GNU_SOURCE
#include "means.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RING_BYTES = 1 << 22, SLOTS_MAX = 64, QUEUE_DEPTH = 8 };

bool polls, same_core;

_Noreturn void fail(const char *what)
{
    perror(what);
    exit(1);
}

void relax(void)
{
    if (same_core)
        sched_yield();
#if defined(__x86_64__)
    else
        __builtin_ia32_pause();
#endif
}

/* After an attempt that found nothing. Anything but "nothing there" is an error. */
static void again(const char *what)
{
    if (errno != EINTR && errno != EAGAIN && errno != ENOMSG)
        fail(what);
    if (polls)
        relax();
}

/* Whatever is a pair of descriptors. */

static int to[DIRECTIONS], from[DIRECTIONS];

static void write_all(int direction, const char *message, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t part = write(to[direction], message + done, size - done);
        if (part < 0)
            again("write");
        else
            done += (size_t)part;
    }
}

static void read_all(int direction, char *message, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t part = read(from[direction], message + done, size - done);
        if (part == 0)
            exit(1);
        if (part < 0)
            again("read");
        else
            done += (size_t)part;
    }
}

static void unblock_if_polled(void)
{
    for (int direction = THERE; direction < DIRECTIONS && polls; direction++) {
        fcntl(to[direction], F_SETFL, fcntl(to[direction], F_GETFL) | O_NONBLOCK);
        fcntl(from[direction], F_SETFL, fcntl(from[direction], F_GETFL) | O_NONBLOCK);
    }
}

static void open_pipes(size_t size)
{
    (void)size;
    for (int direction = THERE; direction < DIRECTIONS; direction++) {
        int ends[2];
        if (pipe(ends) != 0)
            fail("pipe");
        from[direction] = ends[0];
        to[direction] = ends[1];
    }
    unblock_if_polled();
}

static void open_fifos(size_t size)
{
    (void)size;
    for (int direction = THERE; direction < DIRECTIONS; direction++) {
        char path[64];
        snprintf(path, sizeof path, "fifo.%d.%d", getpid(), direction);
        if (mkfifo(path, 0600) != 0)
            fail("mkfifo");
        from[direction] = open(path, O_RDONLY | O_NONBLOCK);
        to[direction] = open(path, O_WRONLY);
        unlink(path);
        if (from[direction] < 0 || to[direction] < 0)
            fail("open");
        fcntl(from[direction], F_SETFL, 0);
    }
    unblock_if_polled();
}

static void both_ways(const int ends[2])
{
    to[THERE] = from[BACK] = ends[0];
    to[BACK] = from[THERE] = ends[1];
    unblock_if_polled();
}

static void open_unix(size_t size)
{
    (void)size;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
        fail("socketpair");
    both_ways(ends);
}

static void open_tcp(size_t size)
{
    (void)size;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), ends[2];
    if (bind(listener, (struct sockaddr *)&address, length) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &length) != 0)
        fail("listen");
    ends[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(ends[0], (struct sockaddr *)&address, length) != 0)
        fail("connect");
    ends[1] = accept(listener, NULL, NULL);
    close(listener);
    for (int end = 0; end < 2; end++)
        if (setsockopt(ends[end], IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)) != 0)
            fail("TCP_NODELAY");
    both_ways(ends);
}

/* POSIX message queues. */

static mqd_t queues[DIRECTIONS];

static void open_queues(size_t size)
{
    struct mq_attr wanted = {.mq_maxmsg = QUEUE_DEPTH, .mq_msgsize = (long)size};
    for (int direction = THERE; direction < DIRECTIONS; direction++) {
        char name[64];
        snprintf(name, sizeof name, "/carriers.%d.%d", getpid(), direction);
        int flags = O_RDWR | O_CREAT | O_EXCL | (polls ? O_NONBLOCK : 0);
        queues[direction] = mq_open(name, flags, 0600, &wanted);
        if (queues[direction] == (mqd_t)-1)
            fail("mq_open");
        mq_unlink(name);
    }
}

static void send_queue(int direction, const char *message, size_t size)
{
    while (mq_send(queues[direction], message, size, 0) != 0)
        again("mq_send");
}

static void receive_queue(int direction, char *message, size_t size)
{
    while (mq_receive(queues[direction], message, size, NULL) < 0)
        again("mq_receive");
}

/* System V message queues: one for both directions, told apart by the message's type. */

static int sysv = -1;
static struct {
    long type;
    char bytes[1 << 16];
} letter;

void remove_sysv(void)
{
    if (sysv >= 0)
        msgctl(sysv, IPC_RMID, NULL);
}

static void open_sysv(size_t size)
{
    if (size > sizeof letter.bytes)
        exit(1);
    sysv = msgget(IPC_PRIVATE, 0600);
    if (sysv < 0)
        fail("msgget");
}

static void send_sysv(int direction, const char *message, size_t size)
{
    letter.type = direction + 1;
    memcpy(letter.bytes, message, size);
    while (msgsnd(sysv, &letter, size, polls ? IPC_NOWAIT : 0) != 0)
        again("msgsnd");
}

static void receive_sysv(int direction, char *message, size_t size)
{
    while (msgrcv(sysv, &letter, size, direction + 1, polls ? IPC_NOWAIT : 0) < 0)
        again("msgrcv");
    memcpy(message, letter.bytes, size);
}

/* A ring in shared memory for one writer and one reader. Blocking, a semaphore counts the full
 * slots and one the empty ones; polled, the two positions are enough. */

struct ring {
    _Alignas(64) _Atomic uint64_t head; /* the writer's */
    _Alignas(64) _Atomic uint64_t tail; /* the reader's */
    _Alignas(64) sem_t full;
    sem_t empty;
    _Alignas(64) char slots[2 * RING_BYTES];
};

static struct ring *rings;
static uint64_t slots;

void *shared(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    return memory;
}

static void open_rings(size_t size)
{
    slots = RING_BYTES / size < SLOTS_MAX ? RING_BYTES / size : SLOTS_MAX;
    rings = shared(DIRECTIONS * sizeof *rings);
    for (int direction = THERE; direction < DIRECTIONS; direction++) {
        sem_init(&rings[direction].full, 1, 0);
        sem_init(&rings[direction].empty, 1, (unsigned)slots);
    }
}

static void wait_for(sem_t *count)
{
    while (sem_wait(count) != 0)
        ;
}

static void send_ring(int direction, const char *message, size_t size)
{
    struct ring *ring = &rings[direction];
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    if (!polls)
        wait_for(&ring->empty);
    while (head - atomic_load_explicit(&ring->tail, memory_order_acquire) == slots)
        relax();
    memcpy(ring->slots + head % slots * size, message, size);
    atomic_store_explicit(&ring->head, head + 1, memory_order_release);
    if (!polls)
        sem_post(&ring->full);
}

static void receive_ring(int direction, char *message, size_t size)
{
    struct ring *ring = &rings[direction];
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (!polls)
        wait_for(&ring->full);
    while (atomic_load_explicit(&ring->head, memory_order_acquire) == tail)
        relax();
    memcpy(message, ring->slots + tail % slots * size, size);
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
    if (!polls)
        sem_post(&ring->empty);
}

static const struct means all_means[] = {
    {"pipe", open_pipes, write_all, read_all},
    {"fifo", open_fifos, write_all, read_all},
    {"mqueue", open_queues, send_queue, receive_queue},
    {"sysv", open_sysv, send_sysv, receive_sysv},
    {"unix", open_unix, write_all, read_all},
    {"tcp", open_tcp, write_all, read_all},
    {"ring", open_rings, send_ring, receive_ring},
};

const struct means *find_means(const char *name)
{
    for (size_t index = 0; index < sizeof all_means / sizeof *all_means; index++)
        if (strcmp(all_means[index].name, name) == 0)
            return &all_means[index];
    return NULL;
}
