/* The readers' and lockers' scenarios: where each stands, and what the writers do meanwhile. */
#include "overtake.h"

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

static void touch(struct overtaking *o) { put(o, ACT_TOUCH, o->trial->action.key, 8); }

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
    static struct overtaking o;
    o = (struct overtaking){.trial = trial};
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

static void lock_is_free(struct trial *trial) { (void)trial; }

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
static const struct mix large_too = {
    .weight = {[ACT_SET] = 60, [ACT_GET] = 60}, .keys = 60,
    .value_bytes_min = 8, .value_bytes_max = 500};

typedef const struct effects *effects;
static bool plain(effects e) { return e->before.found && e->before.codec == KV_CODEC_BYTES; }
static bool small(effects e) { return plain(e) && !e->was_main && e->before.version > 150; }
static bool in_main(effects e) { return plain(e) && e->was_main && e->before.version > 150; }
static bool large(effects e) { return plain(e) && e->before.value_bytes > 350; }
static bool missing(effects e) { return !e->existed; }
static bool counter(effects e) { return e->before.found && e->before.codec == KV_CODEC_COUNTER; }

#define REACH(plan, mix, wanted) {"", plan, mix, ACT_GET, 8, 90, wanted, LOCK_FREE, false}
#define STATE(mix, wanted) REACH(&roomy, &mix, wanted)
#define BY_HAND REACH(&narrow, &fill, NULL)

const struct overtake overtakes[] = {
    {"reader-overwrite", STATE(fill, small), TASK_READ, NULL, overwrite_once},
    {"reader-overwrite-round", STATE(fill, small), TASK_READ, NULL, overwrite_small_round},
    {"reader-overwrite-main", STATE(fill, in_main), TASK_READ, NULL, overwrite_main_round},
    {"reader-overwrite-large", STATE(large_too, large), TASK_READ, NULL, overwrite_large_round},
    {"reader-evict-small", STATE(fill, small), TASK_READ, NULL, others_round},
    {"reader-evict-main", STATE(fill, in_main), TASK_READ, NULL, others_round},
    {"reader-evict-large", STATE(large_too, large), TASK_READ, NULL, others_large_round},
    {"reader-delete-and-set", STATE(fill, small), TASK_READ, NULL, delete_and_set},
    {"reader-of-nothing", STATE(fill, missing), TASK_READ, NULL, overwrite_once},
    {"reader-counter", STATE(fill, counter), TASK_READ, NULL, increment},
    {"reader-touch", STATE(fill, small), TASK_READ, NULL, touch},
    {"reader-flush", STATE(fill, in_main), TASK_READ, NULL, flush},
    {"reader-empty-middle", BY_HAND, TASK_READ, last_of_three, empty_middle},
    {"reader-trim-last", BY_HAND, TASK_READ, middle_of_three, empty_last},
    {"reader-trim-own", BY_HAND, TASK_READ, last_of_three, empty_last_and_return},
    {"batch-overwrite", STATE(fill, small), TASK_READ_IN_STEPS, NULL, overwrite_once},
    {"batch-overwrite-round", STATE(fill, small), TASK_READ_IN_STEPS, NULL, overwrite_small_round},
    {"batch-evict-main", STATE(fill, in_main), TASK_READ_IN_STEPS, NULL, others_round},
    {"batch-delete-and-set", STATE(fill, small), TASK_READ_IN_STEPS, NULL, delete_and_set},
    {"batch-counter", STATE(fill, counter), TASK_READ_IN_STEPS, NULL, increment},
    {"batch-trim-own", BY_HAND, TASK_READ_IN_STEPS, last_of_three, empty_last_and_return},
    {"scan-overwrite", STATE(fill, small), TASK_SCAN, NULL, overwrite_small_round},
    {"scan-evict", STATE(fill, in_main), TASK_SCAN, NULL, others_round},
    {"scan-empty-middle", BY_HAND, TASK_SCAN, last_of_three, empty_middle},
    {"scan-trim-last", BY_HAND, TASK_SCAN, middle_of_three, empty_last_and_return},
    {"lock-both-try", BY_HAND, TASK_TRY_LOCK, lock_is_free, try_too},
    {"lock-both-steal", BY_HAND, TASK_STEAL, owner_dies, steal_too},
};
const uint32_t overtake_count = sizeof overtakes / sizeof overtakes[0];
