/* What an overtaking is: somebody who is stopped, and what others do before he goes on. */
#ifndef STEPPER_OVERTAKE_H
#define STEPPER_OVERTAKE_H

#include "trial.h"

#define HISTORY_MAX 2048u

struct overtaking {
    struct trial *trial;
    struct seen history[HISTORY_MAX]; /* what the reader may say of its key */
    uint32_t history_count;
    bool scans;
    bool always[KEYS]; /* there at every moment; for scans */
    bool ever[KEYS];
    bool survivor_won;
    uint64_t random;
    uint64_t next_id;
};

struct overtake {
    const char *name;
    struct scenario reach; /* the state, and by its action the key that is read */
    enum task task;
    void (*arrange)(struct trial *trial); /* or NULL: the state made by hand, and the key */
    void (*writers)(struct overtaking *o);
};

extern const struct overtake overtakes[];
extern const uint32_t overtake_count;

/* Notes what could be read just now. Writers call it after each of their actions. */
void note(struct overtaking *o);

#endif
