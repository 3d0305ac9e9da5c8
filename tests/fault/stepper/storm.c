/* One death after the other: each victim begins with what the ones before it left behind.
 *
 * A death between head and entry leaves a record that nobody can reach, and one between a copy
 * and the tail's advance uses up the reserve. Seldom, that is nothing; here it is the rule. */
#define _GNU_SOURCE
#include <unistd.h>

#include "trial.h"

#define PATIENCE_SECONDS 20u
#define STATES_MAX 30u

static const struct plan plan = {12, 4, 2, 1024, 6144, 768};
static const struct mix mix = {
    .weight = {[ACT_SET] = 70, [ACT_ADD] = 4, [ACT_REPLACE] = 4, [ACT_DELETE] = 8,
               [ACT_TOUCH] = 3, [ACT_INCR] = 8, [ACT_SWEEP] = 2, [ACT_FLUSH] = 1},
    .keys = 80, .value_bytes_min = 8, .value_bytes_max = 120, .expiring_percent = 10};

static bool any(const struct effects *effects) { return effects->version > 300; }

const struct scenario storm_scenario = {
    "storm", &plan, &mix, ACT_SET, 8, 120, any, LOCK_FREE, false};

/* Steps until the table has changed so often, or, for the unlucky, until M's head has moved. */
static bool step_to_death(struct trial *trial, int pid, uint32_t changes, bool unlucky) {
    struct worlds *worlds = &trial->worlds;
    struct kv_shard *header = shard_header(&worlds->live.table, SHARD);
    uint64_t head = LOAD(header->main_head);
    trial->instruction = 0;
    if (!child_enter(trial, pid))
        return false;
    world_copy(&worlds->scratch, &worlds->live);
    while (changes > 0 && LOAD(worlds->control->phase) != CHILD_PHASE_DONE) {
        if (!child_step(trial, pid))
            return false;
        trial->instruction++;
        if (unlucky && LOAD(header->main_head) != head)
            return true;
        if (!unlucky && !world_same(&worlds->live, worlds->scratch.segments)) {
            world_copy(&worlds->scratch, &worlds->live);
            changes--;
        }
    }
    return true;
}

/* The survivor clears up after the victim, this time in the live world. */
static void bury(struct trial *trial) {
    struct kv_table *table = &trial->worlds.live.table;
    struct kv_owner survivor = owner_of(&trial->worlds, SURVIVOR);
    kv_feed_open(&trial->worlds.live.feed, trial->action.now_ms);
    if (lock_word(&trial->worlds.live) == 0)
        return;
    if (!kv_take_from_dead(table, &survivor, SHARD))
        complain(trial, "V10: the lock cannot be taken from the dead");
    kv_release(table, &survivor, SHARD);
}

/* The live world has been reached. So many die in it. */
void die_in_turn(struct trial *trial, uint32_t deaths) {
    uint64_t random = trial->seed, next_id = UINT64_C(1) << 32;
    uint64_t now_ms = trial->action.now_ms;
    for (uint32_t i = 0; i < deaths && trial->tally->violations == 0; i++) {
        bool unlucky = i / 8 % 6 != 0; /* forty in a row: they eat up all of the reserve */
        random_action(&mix, &random, &next_id, ++now_ms, &trial->action);
        if (random_below(&random, 4) == 0)
            trial->action.value_bytes = 200 + random_below(&random, 480);
        trial_expect(trial);
        int pid = child_start(trial, TASK_ACT, true);
        if (!step_to_death(trial, pid, 1 + random_below(&random, STATES_MAX), unlucky))
            return;
        child_kill(pid);
        trial->tally->kills++;
        trial->tally->instructions += trial->instruction;
        world_copy(&trial->worlds.scratch, &trial->worlds.live);
        alarm(PATIENCE_SECONDS);
        judge_copy(trial);
        bury(trial);
    }
}
