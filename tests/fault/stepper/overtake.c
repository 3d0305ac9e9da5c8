/* Stopping a reader at each of its instructions, letting writers do much, and letting it finish.
 *
 * This is for what no kill shows: bytes that are used again under a reader's eyes, chains that
 * change while it walks them, two who take the same lock. What it returns must have been true at
 * some moment between its beginning and its end. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "trial.h"

#define HISTORY_MAX 2048u
#define PATIENCE_SECONDS 60u
#define READ_INSTRUCTIONS_MAX 100000u

struct overtaking {
    struct trial *trial;
    struct seen history[HISTORY_MAX]; /* what the reader may say of its key */
    uint32_t history_count;
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
    void (*arrange)(struct trial *trial); /* or NULL: the state by hand, and the key */
    void (*writers)(struct overtaking *o);
};

static void note(struct overtaking *o) {
    struct trial *trial = o->trial;
    const struct world *live = &trial->worlds.live;
    struct seen seen =
        observe(live, &trial->keys.key[trial->action.key], trial->action.now_ms);
    if (o->history_count == 0 || !same_seen(&seen, &o->history[o->history_count - 1]))
        o->history[o->history_count < HISTORY_MAX ? o->history_count++ : HISTORY_MAX - 1] = seen;
    if (trial->scenario->kind != ACT_SWEEP) /* which marks a scan here */
        return;
    for (uint32_t key = 0; key < KEYS; key++) {
        bool found = observe(live, &trial->keys.key[key], trial->action.now_ms).found;
        o->always[key] &= found;
        o->ever[key] |= found;
    }
}

static void put(struct overtaking *o, enum kind kind, uint32_t key, uint32_t value_bytes) {
    struct trial *trial = o->trial;
    struct kv_owner owner = owner_of(&trial->worlds, SURVIVOR);
    struct action action = {.kind = kind, .key = key, .value_bytes = value_bytes,
                            .id = ++o->next_id, .delta = 7, .now_ms = trial->action.now_ms};
    uint64_t version;
    perform(&trial->worlds.live.table, &owner, &trial->keys, &action, &version);
    note(o);
}

/* What the writers do. */

static void overwrite_once(struct overtaking *o) {
    put(o, ACT_SET, o->trial->action.key, 80);
}

static void increment(struct overtaking *o) { put(o, ACT_INCR, o->trial->action.key, 8); }

static void expire_later(struct overtaking *o) { put(o, ACT_TOUCH, o->trial->action.key, 8); }

static void flush(struct overtaking *o) {
    put(o, ACT_FLUSH, 0, 8);
    put(o, ACT_SWEEP, 0, 8);
}

/* Until all bytes of one log, or of both, have been used again. */
static void lap(struct overtaking *o, bool small, bool main_log, bool own, uint32_t value_bytes) {
    const struct kv_table *table = &o->trial->worlds.live.table;
    struct kv_shard *header = shard_header(table, SHARD);
    uint64_t small_end = LOAD(header->small_head) + table->geometry.small_capacity + 128;
    uint64_t main_end = LOAD(header->main_head) + table->geometry.main_capacity + 128;
    for (uint32_t i = 0; i < 1000; i++) {
        if ((!small || LOAD(header->small_head) >= small_end) &&
            (!main_log || LOAD(header->main_head) >= main_end))
            return;
        uint32_t key = own ? o->trial->action.key : random_below(&o->random, KEYS_USED);
        if (own || key != o->trial->action.key)
            put(o, ACT_SET, key, value_bytes);
    }
}

static void overwrite_small_round(struct overtaking *o) { lap(o, true, false, true, 80); }
static void overwrite_main_round(struct overtaking *o) { lap(o, false, true, true, 80); }
static void overwrite_large_round(struct overtaking *o) { lap(o, false, true, true, 500); }
static void others_round(struct overtaking *o) { lap(o, true, true, false, 80); }
static void others_large_round(struct overtaking *o) { lap(o, false, true, false, 500); }

static void delete_and_set(struct overtaking *o) {
    put(o, ACT_DELETE, o->trial->action.key, 8);
    lap(o, true, false, false, 80);
    put(o, ACT_SET, o->trial->action.key, 80);
}

/* The states of the chain family: three buckets and more, filled in order by the crowd. */

static void fill_chain(struct trial *trial, uint32_t count) {
    struct overtaking o = {.trial = trial};
    trial->action.now_ms = 1000000;
    for (uint32_t i = 0; i < count; i++)
        put(&o, ACT_SET, KEYS_USED + i, 16);
}

static void last_of_three(struct trial *trial) {
    trial->action.key = KEYS_USED + 3 * KV_BUCKET_ENTRIES - 1;
    fill_chain(trial, 3 * KV_BUCKET_ENTRIES);
}

static void middle_of_three(struct trial *trial) {
    trial->action.key = KEYS_USED + 2 * KV_BUCKET_ENTRIES - 1;
    fill_chain(trial, 3 * KV_BUCKET_ENTRIES);
}

static void empty_bucket(struct overtaking *o, uint32_t number) {
    for (uint32_t i = 0; i < KV_BUCKET_ENTRIES; i++)
        put(o, ACT_DELETE, KEYS_USED + number * KV_BUCKET_ENTRIES + i, 8);
}

/* The keys of the other home, so many that their chain takes what ours gave back. */
static void fill_other_chain(struct overtaking *o) {
    const struct kv_table *table = &o->trial->worlds.live.table;
    for (uint32_t key = 0; key < KEYS_USED; key++)
        if (home_of(table, o->trial->keys.key[key].hash) != 0)
            put(o, ACT_SET, key, 16);
}

static void empty_middle(struct overtaking *o) {
    empty_bucket(o, 1);
    fill_other_chain(o);
}

static void empty_last(struct overtaking *o) {
    empty_bucket(o, 2);
    fill_other_chain(o);
}

static void empty_last_and_return(struct overtaking *o) {
    empty_last(o);
    put(o, ACT_SET, o->trial->action.key, 16);
}

/* The states of the lock family. */

static void owner_dies(struct trial *trial) {
    struct kv_owner victim = owner_of(&trial->worlds, VICTIM);
    if (!kv_try_acquire(&trial->worlds.live.table, &victim, SHARD))
        give_up("the lock is not free when a scenario begins");
}

static void nothing(struct trial *trial) { (void)trial; }

static void try_too(struct overtaking *o) {
    struct kv_owner survivor = owner_of(&o->trial->worlds, SURVIVOR);
    o->survivor_won = kv_try_acquire(&o->trial->worlds.live.table, &survivor, SHARD);
}

static void steal_too(struct overtaking *o) {
    struct kv_owner survivor = owner_of(&o->trial->worlds, SURVIVOR);
    o->survivor_won = kv_take_from_dead(&o->trial->worlds.live.table, &survivor, SHARD);
}

/* The table of overtakings. */

static const struct plan roomy = {12, 4, 2, 1024, 6144, 768};
static const struct plan narrow = {2, 3, 2, 1024, 8192, 768};
static const struct mix fill = {
    .weight = {[ACT_SET] = 60, [ACT_GET] = 40, [ACT_INCR] = 8, [ACT_DELETE] = 6},
    .keys = KEYS_USED, .value_bytes_min = 8, .value_bytes_max = 90};
static const struct mix with_large = {
    .weight = {[ACT_SET] = 60, [ACT_GET] = 60}, .keys = 60,
    .value_bytes_min = 8, .value_bytes_max = 500};

typedef const struct effects *effects;
static bool plain(effects e) { return e->before.found && e->before.codec == KV_CODEC_BYTES; }
static bool small(effects e) { return plain(e) && !e->was_main && e->before.version > 150; }
static bool in_main(effects e) { return plain(e) && e->was_main && e->before.version > 150; }
static bool large(effects e) { return plain(e) && e->before.value_bytes > 350; }
static bool missing(effects e) { return !e->existed; }
static bool counter(effects e) { return e->before.found && e->before.codec == KV_CODEC_COUNTER; }

/* A state that is reached, and the scan's mark; kind is that of the action on the key. */
#define READS(mix, wanted) {"", &roomy, mix, ACT_GET, 8, 90, wanted, LOCK_FREE, false}
#define SCANS(mix, wanted) {"", &roomy, mix, ACT_SWEEP, 8, 90, wanted, LOCK_FREE, false}
#define CHAIN(kind) {"", &narrow, &fill, kind, 8, 90, NULL, LOCK_FREE, false}

static const struct overtake overtakes[] = {
    {"reader-overwrite", READS(&fill, small), TASK_READ, NULL, overwrite_once},
    {"reader-overwrite-round", READS(&fill, small), TASK_READ, NULL, overwrite_small_round},
    {"reader-overwrite-main", READS(&fill, in_main), TASK_READ, NULL, overwrite_main_round},
    {"reader-overwrite-large", READS(&with_large, large), TASK_READ, NULL,
     overwrite_large_round},
    {"reader-evict-small", READS(&fill, small), TASK_READ, NULL, others_round},
    {"reader-evict-main", READS(&fill, in_main), TASK_READ, NULL, others_round},
    {"reader-evict-large", READS(&with_large, large), TASK_READ, NULL, others_large_round},
    {"reader-delete-and-set", READS(&fill, small), TASK_READ, NULL, delete_and_set},
    {"reader-of-nothing", READS(&fill, missing), TASK_READ, NULL, overwrite_once},
    {"reader-counter", READS(&fill, counter), TASK_READ, NULL, increment},
    {"reader-touch", READS(&fill, small), TASK_READ, NULL, expire_later},
    {"reader-flush", READS(&fill, in_main), TASK_READ, NULL, flush},
    {"reader-empty-middle", CHAIN(ACT_GET), TASK_READ, last_of_three, empty_middle},
    {"reader-trim-last", CHAIN(ACT_GET), TASK_READ, middle_of_three, empty_last},
    {"reader-trim-own", CHAIN(ACT_GET), TASK_READ, last_of_three, empty_last_and_return},
    {"scan-overwrite", SCANS(&fill, small), TASK_SCAN, NULL, overwrite_small_round},
    {"scan-evict", SCANS(&fill, in_main), TASK_SCAN, NULL, others_round},
    {"scan-empty-middle", CHAIN(ACT_SWEEP), TASK_SCAN, last_of_three, empty_middle},
    {"scan-trim-last", CHAIN(ACT_SWEEP), TASK_SCAN, middle_of_three, empty_last_and_return},
    {"lock-both-try", CHAIN(ACT_GET), TASK_TRY_LOCK, nothing, try_too},
    {"lock-both-steal", CHAIN(ACT_GET), TASK_STEAL, owner_dies, steal_too},
};
const uint32_t overtake_count = sizeof overtakes / sizeof overtakes[0];

