/* What a means of sending a message must be able to do. Two processes, a message there and one back. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

enum { THERE, BACK, DIRECTIONS };

struct means {
    const char *name;
    void (*open)(size_t size); /* both directions, before the fork; leaves no name behind */
    void (*send)(int direction, const char *message, size_t size);
    void (*receive)(int direction, char *message, size_t size);
};

/* Set before `open`. Who polls asks again and again instead of sleeping in the kernel; where both
 * processes share a core it yields in between. */
extern bool polls, same_core;

const struct means *find_means(const char *name);
void relax(void);
void *shared(size_t size);
void remove_sysv(void); /* the only object that no end of a process removes */
_Noreturn void fail(const char *what);
