/* One scenario under trial: its worlds, what a reader may see, and what was found. */
#ifndef STEPPER_TRIAL_H
#define STEPPER_TRIAL_H

#include "scenarios.h"

/* How much was done; summed over all scenarios. */
struct tally {
    uint64_t scenarios;
    uint64_t instructions;
    uint64_t inside_lock;
    uint64_t states;
    uint64_t kills;
    uint64_t interleavings;
    uint64_t violations;
};

#define TOLD_MAX 256u

/* An event, as far as one tells it from another. */
struct told {
    uint32_t kind;
    uint32_t key; /* its number; KEYS if it has none */
    uint64_t version;
};

struct trial {
    const char *name;
    const struct scenario *scenario;
    struct worlds worlds;
    struct keys keys;
    struct action action;
    struct effects effects;
    enum part actor;
    uint64_t seed;
    uint64_t instruction;          /* where we are, for messages */
    struct seen before[KEYS];      /* what readers saw when the action began */
    struct seen after[KEYS];       /* and what they see when it is done */
    bool gone_over[KEYS];          /* seen as after: never again as before */
    struct kv_feed_cursor feed_start; /* where the feed stood when the action began */
    struct told told[TOLD_MAX];       /* and what the action tells */
    uint32_t told_count;
    uint8_t *verify_scratch;
    struct tally *tally;
};

/* Prints a violation and counts it. */
__attribute__((format(printf, 2, 3))) void complain(struct trial *trial, const char *format, ...);

/* judge.c */
void trial_expect(struct trial *trial);
void judge_copy(struct trial *trial);
void check_invariants(struct trial *trial, const char *when);

/* events.c */
void events_begin(struct trial *trial);
void events_expect(struct trial *trial);
void events_judge(struct trial *trial, const struct seen seen[KEYS]);
void events_succeed(struct trial *trial);
void events_check_watch(struct trial *trial, const uint8_t *first, const uint8_t *last);

/* work.c */
void work_on(struct trial *trial, struct seen model[KEYS]);

/* child.c */
enum task {
    TASK_ACT,
    TASK_READ,
    TASK_READ_IN_STEPS,
    TASK_WATCH,
    TASK_SCAN,
    TASK_TRY_LOCK,
    TASK_STEAL
};
int child_start(struct trial *trial, enum task task, bool lives);
bool child_step(struct trial *trial, int pid);
bool child_enter(struct trial *trial, int pid);
bool child_finish(struct trial *trial, int pid);
void child_kill(int pid);
int holder_start(struct trial *trial);

/* killer.c */
void kill_everywhere(struct trial *trial, uint32_t kills, uint32_t turns, uint32_t sample);

/* storm.c */
extern const struct scenario storm_scenario;
void die_in_turn(struct trial *trial, uint32_t deaths);

/* midway.c */
void read_midway(struct trial *trial, uint8_t *const *states, size_t count, uint32_t turns);

/* overtake.c */
struct overtake;
void overtake_everywhere(struct trial *trial, const struct overtake *overtake, uint32_t sample);

#endif
