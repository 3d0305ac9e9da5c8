/* A reader and a writer, instruction by instruction in turns.
 *
 * What a writer does to a reader, it does through the shared segments. So the states that a
 * stepped writer left behind are laid before a stepped reader one after the other, at random
 * moments: any interleaving of the two, without stopping a real writer. */
#include <stdlib.h>

#include "trial.h"

#define STRIDE_MAX 60u /* instructions of the reader between two states of the writer */
#define SKIP_MAX 4u    /* states that the writer may be ahead in one go */
#define LEAD_MAX 6u    /* states before the feed's oldest event is given up */

/* A key that the action deals with: its own, or one whose record it moved or removed. */
static uint32_t choose_key(const struct trial *trial, const struct world *first,
                           const struct world *last, uint64_t *random) {
    for (uint32_t tries = 0; tries < KEYS; tries++) {
        struct kv_view old, new;
        uint32_t key = random_below(random, KEYS);
        if (kv_find(&first->table, &trial->keys.key[key], &old) != KV_DONE)
            continue;
        if (kv_find(&last->table, &trial->keys.key[key], &new) != KV_DONE ||
            new.position != old.position)
            return key;
    }
    return trial->action.key;
}

static bool acceptable(const struct trial *trial, uint32_t key, const struct seen *seen) {
    const struct seen *before = &trial->before[key], *after = &trial->after[key];
    bool own = key == trial->action.key;
    if (same_seen(seen, before) || same_seen(seen, after))
        return true;
    if (own && !seen->found && !seen->contended && trial->effects.own_passed)
        return true;
    /* The cells of a counter are read one after the other: gets asks a worker instead. */
    return own && trial->action.kind == ACT_INCR && seen->found &&
           (same_value(seen, before) || same_value(seen, after));
}

/* One process, before which the writer's states pass. Returns the last of them; count if it
 * crashed. */
static size_t pass_before(struct trial *trial, enum task task, uint8_t *const *states, size_t count,
                          uint64_t *random) {
    struct worlds *worlds = &trial->worlds;
    size_t state = 0;
    memcpy(worlds->live.segments, states[0], worlds->live.bytes);
    int pid = child_start(trial, task, false);
    trial->instruction = 0;
    bool alive = child_enter(trial, pid);
    while (alive && state + 1 < count && LOAD(worlds->control->phase) != CHILD_PHASE_DONE) {
        for (uint32_t i = random_below(random, STRIDE_MAX) + 1; alive && i > 0; i--) {
            if (LOAD(worlds->control->phase) == CHILD_PHASE_DONE)
                break;
            alive = child_step(trial, pid);
            trial->instruction++;
        }
        state += 1 + random_below(random, SKIP_MAX);
        state = state < count ? state : count - 1;
        memcpy(worlds->live.segments, states[state], worlds->live.bytes);
    }
    if (!alive || (LOAD(worlds->control->phase) != CHILD_PHASE_DONE && !child_finish(trial, pid)))
        return count;
    child_kill(pid);
    trial->tally->interleavings++;
    return state;
}

static void read_in_turns(struct trial *trial, uint8_t *const *states, size_t count, uint32_t key,
                          uint64_t *random) {
    uint32_t own = trial->action.key;
    trial->action.key = key;
    enum task task = random_below(random, 2) == 0 ? TASK_READ : TASK_READ_IN_STEPS;
    size_t last = pass_before(trial, task, states, count, random);
    trial->action.key = own;
    struct seen seen = recognize(&trial->worlds.control->carried);
    if (last < count && !acceptable(trial, key, &seen))
        complain(trial, "V11: a reader in turns with the writer saw key %u %s", key,
                 seen.torn ? "torn" : (seen.found ? "as it never was" : "missing"));
}

static uint64_t oldest_event(const struct world *world, const uint8_t *segments) {
    size_t place = (size_t)((const uint8_t *)world->feed.ring - world->segments);
    return LOAD(((const struct kv_feed_ring *)(const void *)(segments + place))->oldest);
}

/* A consumer of the feed that has fallen a lap behind, on whose event the next one is written. It
 * begins a few states before that. */
static void watch_in_turns(struct trial *trial, uint8_t *const *states, size_t count,
                           uint64_t *random) {
    struct world *live = &trial->worlds.live;
    uint64_t oldest = oldest_event(live, states[0]);
    size_t first = 0;
    while (first + 1 < count && oldest_event(live, states[first + 1]) == oldest)
        first++;
    uint32_t before = random_below(random, LEAD_MAX);
    first = first > before ? first - before : 0;
    if (first + 1 >= count)
        return; /* the action tells nothing */
    memcpy(live->segments, states[first], live->bytes);
    if (kv_feed_begin(&live->feed, &trial->feed_start, true) != KV_FEED_EVENT)
        complain(trial, "F1: the feed cannot be read");
    size_t last = pass_before(trial, TASK_WATCH, states + first, count - first, random);
    if (last < count - first)
        events_check_watch(trial, states[first], states[first + last]);
}

/* `turns` readers, and as many watchers, beside the writer whose states these are. */
void read_midway(struct trial *trial, uint8_t *const *states, size_t count, uint32_t turns) {
    struct worlds *worlds = &trial->worlds;
    uint64_t random = trial->seed * 13 + count;
    for (uint32_t i = 0; count > 1 && i < turns; i++) {
        memcpy(worlds->live.segments, states[0], worlds->live.bytes);
        memcpy(worlds->scratch.segments, states[count - 1], worlds->scratch.bytes);
        uint32_t key = random_below(&random, 2) == 0
                           ? trial->action.key
                           : choose_key(trial, &worlds->live, &worlds->scratch, &random);
        read_in_turns(trial, states, count, key, &random);
        watch_in_turns(trial, states, count, &random);
    }
}
