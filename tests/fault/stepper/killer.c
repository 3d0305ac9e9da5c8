/* Killing the victim of a scenario at each of its instructions.
 *
 * The shared segments are all that survives a kill. So one child is stepped to its end, and
 * wherever an instruction changed the segments, a copy of them is judged as if the child had been
 * killed just there: its lease slot's record lock is not held, which is how the dead look. To
 * check that this is the same, other children, which do hold theirs, are killed at a sample of
 * instructions, and what they leave must be the copy, bit for bit. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "trial.h"

#define INSTRUCTIONS_MAX 1000000u
#define PATIENCE_SECONDS 20u
#define TAKEOVERS 3u /* of each scenario that asks for them */

/* A state that the child left behind: after this instruction, up to the next state's. */
struct state {
    uint64_t instruction;
    uint64_t digest;
    bool locked;
    uint8_t *segments;
};

struct history {
    struct state *state;
    size_t count;
    size_t room;
    uint64_t instructions;
};

static void remember(struct history *history, const struct trial *trial) {
    const struct world *live = &trial->worlds.live;
    if (history->count == history->room) {
        history->room = history->room ? history->room * 2 : 64;
        history->state = realloc(history->state, history->room * sizeof *history->state);
    }
    uint8_t *segments = malloc(live->bytes);
    if (history->state == NULL || segments == NULL)
        give_up("no memory");
    memcpy(segments, live->segments, live->bytes);
    history->state[history->count++] =
        (struct state){trial->instruction, world_digest(live), lock_word(live) != 0, segments};
}

static void forget(struct history *history) {
    for (size_t i = 0; i < history->count; i++)
        free(history->state[i].segments);
    free(history->state);
}

static bool owns_lock(const struct trial *trial) {
    return kv_lock_same_owner(lock_word(&trial->worlds.live), trial->worlds.word[trial->actor]);
}

/* One instruction of the victim, and what its surroundings do meanwhile. */
static bool step(struct trial *trial, int pid) {
    if (!child_step(trial, pid))
        return false;
    trial->instruction++;
    if (trial->scenario->lock == LOCK_HAS_WAITERS && owns_lock(trial))
        kv_lock_announce(kv_shard_lock(&trial->worlds.live.table, SHARD));
    return true;
}

/* Steps one child from its task's beginning to its end; remembers each state. */
static void record(struct trial *trial, struct history *history) {
    trial->instruction = 0;
    int pid = child_start(trial, TASK_ACT, false);
    if (!child_enter(trial, pid))
        return;
    remember(history, trial);
    while (LOAD(trial->worlds.control->phase) != CHILD_PHASE_DONE) {
        if (!step(trial, pid))
            return;
        trial->tally->inside_lock += owns_lock(trial);
        if (!world_same(&trial->worlds.live, history->state[history->count - 1].segments))
            remember(history, trial);
        if (trial->instruction > INSTRUCTIONS_MAX) {
            complain(trial, "the action does not end");
            break;
        }
    }
    history->instructions = trial->instruction;
    trial->tally->instructions += trial->instruction;
    child_kill(pid);
}

static void judge_states(struct trial *trial, const struct history *history, uint32_t sample) {
    uint64_t random = trial->seed * 31 + history->count;
    for (size_t i = 0; i < history->count; i++) {
        bool edge = i == 0 || i + 1 == history->count;
        if (sample != 0 && !edge && random_below(&random, (uint32_t)history->count) >= sample)
            continue;
        trial->instruction = history->state[i].instruction;
        memcpy(trial->worlds.scratch.segments, history->state[i].segments,
               trial->worlds.scratch.bytes);
        alarm(PATIENCE_SECONDS);
        judge_copy(trial);
    }
}

static const struct state *state_at(const struct history *history, uint64_t instruction) {
    size_t i = history->count - 1;
    while (history->state[i].instruction > instruction)
        i--;
    return &history->state[i];
}

/* Where the time of day decides when a sleeper looks again, no two runs are alike. */
static bool repeats_itself(const struct trial *trial) {
    return trial->scenario->lock == LOCK_FREE || trial->scenario->lock == LOCK_HAS_WAITERS;
}

static void kill_at(struct trial *trial, const struct history *history, uint64_t instruction) {
    struct worlds *worlds = &trial->worlds;
    struct kv_owner survivor = owner_of(worlds, SURVIVOR);
    trial->instruction = 0;
    int pid = child_start(trial, TASK_ACT, true);
    if (!child_enter(trial, pid))
        return;
    while (trial->instruction < instruction &&
           LOAD(worlds->control->phase) != CHILD_PHASE_DONE)
        if (!step(trial, pid))
            return;
    if (owns_lock(trial) && kv_owner_dead(&worlds->live.table, &survivor, lock_word(&worlds->live)))
        complain(trial, "V10: an owner who lives passes for dead");
    child_kill(pid);
    trial->tally->kills++;
    if (repeats_itself(trial) &&
        world_digest(&worlds->live) != state_at(history, instruction)->digest)
        complain(trial, "a real kill left something else than the copy that stands for it");
    world_copy(&worlds->scratch, &worlds->live);
    memset(trial->gone_over, 0, sizeof trial->gone_over);
    alarm(PATIENCE_SECONDS);
    judge_copy(trial);
}

static void kill_really(struct trial *trial, const struct history *history, uint32_t kills) {
    uint64_t random = trial->seed * 17 + history->instructions;
    const uint8_t *start = history->state[0].segments;
    for (uint32_t i = 0; i < kills; i++) {
        memcpy(trial->worlds.live.segments, start, trial->worlds.live.bytes);
        kill_at(trial, history, random_below(&random, (uint32_t)history->instructions + 1));
    }
}

/* What only the end of the victim's work shows. */
static void check_end(struct trial *trial) {
    int posts = 0;
    uint64_t word = lock_word(&trial->worlds.live);
    sem_getvalue(&trial->worlds.control->semaphore, &posts);
    if (trial->scenario->lock == LOCK_OF_A_LIVING) {
        if (!kv_lock_same_owner(word, trial->worlds.word[HOLDER]))
            complain(trial, "V10: who waited has taken the lock from the living");
    } else if (word != 0) {
        complain(trial, "V10: the lock is not free at the end");
    }
    if (trial->scenario->lock == LOCK_HAS_WAITERS && posts == 0)
        complain(trial, "V10: who waits is not woken");
}

/* The same for a successor who takes the lock over from the victim, dead in one of its states. */
static void kill_the_successor(struct trial *trial, const struct history *dead, uint32_t kills,
                               uint32_t sample) {
    size_t first = 0, locked = 0;
    for (size_t i = dead->count; i-- > 0;)
        if (dead->state[i].locked) {
            first = i;
            locked++;
        }
    trial->action.kind = ACT_TAKEOVER;
    trial->actor = SUCCESSOR;
    trial->effects = (struct effects){0};
    for (uint32_t i = 0; i < TAKEOVERS; i++) {
        struct history history = {0};
        size_t picked = first + locked * (2 * i + 1) / (2 * TAKEOVERS);
        memcpy(trial->worlds.live.segments, dead->state[picked].segments,
               trial->worlds.live.bytes);
        observe_all(&trial->worlds.live, &trial->keys, trial->action.now_ms, trial->before);
        memcpy(trial->after, trial->before, sizeof trial->after);
        memset(trial->gone_over, 0, sizeof trial->gone_over);
        events_begin(trial);
        record(trial, &history);
        judge_states(trial, &history, sample);
        kill_really(trial, &history, kills);
        forget(&history);
    }
}

/* The lock as the scenario's story has it. Returns the living holder's pid, 0 if there is none. */
static int tell_lock_story(struct trial *trial) {
    struct kv_table *table = &trial->worlds.live.table;
    struct kv_owner holder = owner_of(&trial->worlds, HOLDER);
    enum lock_story story = trial->scenario->lock;
    if (story == LOCK_FREE || story == LOCK_HAS_WAITERS)
        return 0;
    if (!kv_try_acquire(table, &holder, SHARD))
        give_up("the lock is not free when a scenario begins");
    if (story == LOCK_OF_A_FORMER)
        kv_join(table, HOLDER); /* the next in that slot */
    return story == LOCK_OF_A_DEAD ? 0 : holder_start(trial);
}

/* Lays the states before readers, see midway.c. */
static void read_along(struct trial *trial, const struct history *history, uint32_t turns) {
    uint8_t **states = malloc(history->count * sizeof *states);
    if (states == NULL)
        give_up("no memory");
    for (size_t i = 0; i < history->count; i++)
        states[i] = history->state[i].segments;
    read_midway(trial, states, history->count, turns);
    free(states);
}

/* Kills the victim everywhere. kills: how many real ones; turns: how many readers beside it;
 * sample: about how many states are judged, 0 for all. */
void kill_everywhere(struct trial *trial, uint32_t kills, uint32_t turns, uint32_t sample) {
    struct history history = {0};
    trial_expect(trial);
    if (trial->scenario->lock == LOCK_OF_A_LIVING)
        trial->effects.status = KV_BUSY;
    int holder = tell_lock_story(trial);
    record(trial, &history);
    check_end(trial);
    judge_states(trial, &history, sample);
    if (history.count > 0 && history.instructions > 0)
        kill_really(trial, &history, kills);
    if (history.count > 0)
        read_along(trial, &history, turns);
    if (holder != 0)
        child_kill(holder);
    if (trial->scenario->takeover && history.count > 0)
        kill_the_successor(trial, &history, kills, sample);
    forget(&history);
}
