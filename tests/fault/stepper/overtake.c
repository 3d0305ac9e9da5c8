/* Stopping a reader at each of its instructions, letting writers do much, and letting it finish.
 *
 * This is for what no kill shows: bytes that are used again under a reader's eyes, chains that
 * change while it walks them, two who take the same lock. What it returns must have been true at
 * some moment between its beginning and its end. (A scan is stopped at a sample of them.) */
#define _GNU_SOURCE
#include "overtake.h"

#include <stdlib.h>
#include <unistd.h>

#define PATIENCE_SECONDS 60u
#define INSTRUCTIONS_MAX 100000u
#define ENOUGH 20u /* violations; more tell no more */
#define SCAN_POINTS 120u /* a scan has thousands of instructions: not at each, but at so many */

void note(struct overtaking *o) {
    struct trial *trial = o->trial;
    const struct world *live = &trial->worlds.live;
    struct seen seen =
        observe(live, &trial->keys.key[trial->action.key], trial->action.now_ms);
    bool news = o->history_count == 0 || !same_seen(&seen, &o->history[o->history_count - 1]);
    if (news && o->history_count == HISTORY_MAX)
        give_up("the writers do more than the history holds");
    if (news)
        o->history[o->history_count++] = seen;
    for (uint32_t key = 0; o->scans && key < KEYS; key++) {
        bool found = observe(live, &trial->keys.key[key], trial->action.now_ms).found;
        o->always[key] &= found;
        o->ever[key] |= found;
    }
}

static bool remembers(const struct overtaking *o, const struct seen *seen) {
    for (uint32_t i = 0; i < o->history_count; i++) {
        const struct seen *moment = &o->history[i];
        /* A counter's cell and version are two reads; gets asks a worker instead. */
        bool counter = seen->found && seen->codec == KV_CODEC_COUNTER;
        if (same_seen(seen, moment) || (counter && same_value(seen, moment)))
            return true;
    }
    return false;
}

static void check_read(struct overtaking *o) {
    struct seen seen = recognize(&o->trial->worlds.control->carried);
    if (seen.contended)
        complain(o->trial, "V11: a reader that was overtaken once gave up");
    else if (!remembers(o, &seen))
        complain(o->trial, "V11: an overtaken reader saw its key %s",
                 seen.torn ? "torn" : (seen.found ? "as it never was" : "missing"));
}

/* What is there throughout is met at least once; nothing is met that never was. */
static void check_scan(struct overtaking *o) {
    struct trial *trial = o->trial;
    const struct control *control = trial->worlds.control;
    const struct kv_table *table = &trial->worlds.live.table;
    uint32_t home = home_of(table, trial->keys.key[trial->action.key].hash);
    bool met[KEYS] = {false};
    for (uint32_t i = 0; i < control->met_count; i++) {
        uint32_t key = 0;
        while (key < KEYS &&
               (trial->keys.key[key].length != control->met[i].length ||
                memcmp(trial->keys.bytes[key], control->met[i].bytes, control->met[i].length)))
            key++;
        if (key == KEYS || !o->ever[key])
            complain(trial, "V11: an overtaken scan met a key that never was");
        else
            met[key] = true;
    }
    for (uint32_t key = 0; key < KEYS; key++)
        if (o->always[key] && !met[key] && home_of(table, trial->keys.key[key].hash) == home)
            complain(trial, "V11: an overtaken scan missed key %u, there throughout", key);
}

static void check_lock(struct overtaking *o) {
    struct trial *trial = o->trial;
    struct worlds *worlds = &trial->worlds;
    bool child_won = LOAD(worlds->control->won) != 0;
    uint64_t word = worlds->word[child_won ? trial->actor : SURVIVOR];
    if (child_won == o->survivor_won)
        complain(trial, "V10: %s got the lock", child_won ? "both" : "neither");
    else if (!kv_lock_same_owner(lock_word(&worlds->live), word))
        complain(trial, "V10: the lock does not name its owner");
    world_copy(&worlds->scratch, &worlds->live);
    check_invariants(trial, "after two wanted the lock");
}

static void check(struct overtaking *o, enum task task) {
    if (task == TASK_READ || task == TASK_READ_IN_STEPS)
        check_read(o);
    else if (task == TASK_SCAN)
        check_scan(o);
    else
        check_lock(o);
}

/* Overtakes it after n instructions; returns how many it had done when it was stopped. */
static uint64_t overtake_at(struct trial *trial, const struct overtake *overtake, uint64_t n,
                            bool writers) {
    static struct overtaking o;
    o = (struct overtaking){.trial = trial, .scans = overtake->task == TASK_SCAN,
                            .random = trial->seed, .next_id = UINT64_C(1) << 40};
    memset(o.always, 1, sizeof o.always);
    note(&o);
    trial->instruction = 0;
    int pid = child_start(trial, overtake->task, true);
    if (!child_enter(trial, pid))
        return 0;
    while (trial->instruction < n &&
           LOAD(trial->worlds.control->phase) != CHILD_PHASE_DONE) {
        if (!child_step(trial, pid))
            return 0;
        trial->instruction++;
    }
    alarm(PATIENCE_SECONDS);
    if (writers)
        overtake->writers(&o);
    if (LOAD(trial->worlds.control->phase) != CHILD_PHASE_DONE && !child_finish(trial, pid))
        return trial->instruction;
    if (writers)
        check(&o, overtake->task);
    child_kill(pid);
    trial->tally->interleavings++;
    return trial->instruction;
}

static void overtake_all(struct trial *trial, const struct overtake *overtake, uint32_t sample) {
    struct world *live = &trial->worlds.live;
    uint64_t random = trial->seed;
    uint8_t *start = malloc(live->bytes);
    if (start == NULL)
        give_up("no memory");
    memcpy(start, live->segments, live->bytes);
    uint64_t instructions = overtake_at(trial, overtake, INSTRUCTIONS_MAX, false);
    trial->tally->instructions += instructions;
    if (overtake->task == TASK_SCAN && sample == 0)
        sample = SCAN_POINTS;
    for (uint64_t n = 0; n <= instructions && trial->tally->violations < ENOUGH; n++) {
        if (sample != 0 && random_below(&random, (uint32_t)instructions + 1) >= sample)
            continue;
        memcpy(live->segments, start, live->bytes);
        overtake_at(trial, overtake, n, true);
    }
    free(start);
}

void overtake_everywhere(struct trial *trial, const struct overtake *overtake, uint32_t sample) {
    struct effects effects;
    uint64_t random = trial->seed;
    trial->actor = SUCCESSOR;
    if (overtake->arrange != NULL)
        overtake->arrange(trial);
    else if (!scenario_reach(&overtake->reach, &trial->worlds, &trial->keys, &random,
                             &trial->action, &effects)) {
        complain(trial, "no state was found to read in");
        return;
    }
    overtake_all(trial, overtake, sample);
}
