/* One death after the other: each victim begins with what the ones before it left behind.
 *
 * A death between entry and head leaves a record beyond the head, and one between a copy and the
 * tail's advance leaves the tail's record dead and the reserve the smaller. Seldom, that is
 * nothing; here it is the rule: what is not won back after each is missed soon. */
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

/* When a victim dies. */
enum moment {
    AFTER_CHANGES, /* after so many changes of the table, whatever they were */
    BEFORE_HEAD,   /* when an entry leads beyond its log's head */
    AFTER_HEAD      /* when M's head has moved */
};

static bool any(const struct effects *effects) { return effects->version > 300; }

const struct scenario storm_scenario = {
    "storm", &plan, &mix, ACT_SET, 8, 120, any, LOCK_FREE, false};

static bool leads_beyond_head(const struct world *world) {
    for (uint32_t number = 0; number < bucket_count(&world->table); number++) {
        const struct kv_bucket *bucket = bucket_at(&world->table, SHARD, number);
        for (uint32_t slot = 0; slot < KV_BUCKET_ENTRIES; slot++) {
            uint64_t entry = LOAD(bucket->entry[slot]);
            struct ring ring = ring_of(&world->table, SHARD, entry_in_main(entry));
            uint64_t tail = LOAD(*ring.tail);
            if (entry != 0 && entry_distance(entry, tail) >= LOAD(*ring.head) - tail)
                return true;
        }
    }
    return false;
}

/* Steps to the victim's moment, or to its end if that does not come. */
static bool step_to_death(struct trial *trial, int pid, uint32_t changes, enum moment moment) {
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
        if (moment == AFTER_HEAD && LOAD(header->main_head) != head)
            return true;
        if (moment == BEFORE_HEAD && leads_beyond_head(&worlds->live))
            return true;
        if (moment == AFTER_CHANGES && !world_same(&worlds->live, worlds->scratch.segments)) {
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

/* Eight as it comes, then forty in a row at one moment: what each of these leaves behind adds up,
 * as long as none comes to its end. */
static enum moment moment_of(uint32_t death) {
    if (death / 8 % 6 == 0)
        return AFTER_CHANGES;
    return death / 48 % 2 == 0 ? AFTER_HEAD : BEFORE_HEAD;
}

/* The live world has been reached. So many die in it. */
void die_in_turn(struct trial *trial, uint32_t deaths) {
    uint64_t random = trial->seed, next_id = UINT64_C(1) << 32;
    uint64_t now_ms = trial->action.now_ms;
    for (uint32_t i = 0; i < deaths && trial->tally->violations == 0; i++) {
        enum moment moment = moment_of(i);
        random_action(&mix, &random, &next_id, ++now_ms, &trial->action);
        if (random_below(&random, 4) == 0)
            trial->action.value_bytes = 200 + random_below(&random, 480);
        trial_expect(trial);
        int pid = child_start(trial, TASK_ACT, true);
        if (!step_to_death(trial, pid, 1 + random_below(&random, STATES_MAX), moment))
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
