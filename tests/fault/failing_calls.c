// Makes one system call of a server's processes fail, once: a library to preload.
//
// The file $KVSERVE_FAILING_CALLS is mapped by all of them. A test writes into it which call shall
// fail, with which errno, and how many of its kind go before it; the first process that gets there
// fails, and no other after it. So it knows nothing of who calls what, and no call is left out
// because a test did not think of it.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

struct order {
    char call[16];
    int error;
    _Atomic int left;  // calls until it fails; it has failed when this is below 0
};

static struct order *order;

__attribute__((constructor)) static void attach(void)
{
    const char *path = getenv("KVSERVE_FAILING_CALLS");
    int (*true_open)(const char *, int, ...) =
        (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    void *(*true_mmap)(void *, size_t, int, int, int, off_t) =
        (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
    int descriptor = path ? true_open(path, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0)
        return;
    void *memory =
        true_mmap(NULL, sizeof *order, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (memory != MAP_FAILED)
        order = memory;
}

static int fails(const char *call)
{
    if (!order || atomic_load(&order->left) < 0 || strcmp(order->call, call) != 0)
        return 0;
    if (atomic_fetch_sub(&order->left, 1) != 0)
        return 0;
    errno = order->error;
    return 1;
}

#define TRUE_CALL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static mode_t mode_of(int flags, va_list rest)
{
    return flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(rest, unsigned) : 0;
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode_t mode = mode_of(flags, rest);                                                        \
        va_end(rest);                                                                              \
        return fails("open") ? -1 : TRUE_CALL(name)(path, flags, mode);                            \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                               \
    int name(int directory, const char *path, int flags, ...)                                      \
    {                                                                                              \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode_t mode = mode_of(flags, rest);                                                        \
        va_end(rest);                                                                              \
        return fails("open") ? -1 : TRUE_CALL(name)(directory, path, flags, mode);                 \
    }
OPENAT(openat)
OPENAT(openat64)

#define MMAP(name, offset_type)                                                                    \
    void *name(void *at, size_t size, int rights, int flags, int descriptor, offset_type offset)   \
    {                                                                                              \
        return fails("mmap") ? MAP_FAILED                                                          \
                             : TRUE_CALL(name)(at, size, rights, flags, descriptor, offset);       \
    }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

pid_t fork(void)
{
    return fails("fork") ? -1 : TRUE_CALL(fork)();
}

int pipe2(int ends[2], int flags)
{
    return fails("pipe") ? -1 : TRUE_CALL(pipe2)(ends, flags);
}

int socketpair(int domain, int type, int protocol, int ends[2])
{
    return fails("socketpair") ? -1 : TRUE_CALL(socketpair)(domain, type, protocol, ends);
}

int epoll_create1(int flags)
{
    return fails("epoll_create") ? -1 : TRUE_CALL(epoll_create1)(flags);
}

int epoll_ctl(int epoll, int operation, int descriptor, struct epoll_event *event)
{
    return fails("epoll_ctl") ? -1 : TRUE_CALL(epoll_ctl)(epoll, operation, descriptor, event);
}

int shm_open(const char *path, int flags, mode_t mode)
{
    return fails("shm_open") ? -1 : TRUE_CALL(shm_open)(path, flags, mode);
}

mqd_t mq_open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    struct mq_attr *attributes = flags & O_CREAT ? va_arg(rest, struct mq_attr *) : NULL;
    va_end(rest);
    return fails("mq_open") ? -1 : TRUE_CALL(mq_open)(path, flags, mode, attributes);
}

sem_t *sem_open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    unsigned value = flags & O_CREAT ? va_arg(rest, unsigned) : 0;
    va_end(rest);
    return fails("sem_open") ? SEM_FAILED : TRUE_CALL(sem_open)(path, flags, mode, value);
}

int dup2(int from, int to)
{
    return fails("dup2") ? -1 : TRUE_CALL(dup2)(from, to);
}

ssize_t read(int descriptor, void *bytes, size_t count)
{
    return fails("read") ? -1 : TRUE_CALL(read)(descriptor, bytes, count);
}

ssize_t write(int descriptor, const void *bytes, size_t count)
{
    return fails("write") ? -1 : TRUE_CALL(write)(descriptor, bytes, count);
}
