/* The table of scenarios. Each says how to come into a state and how to tell that the action takes
 * the wanted path; one that is never found fails the run. */
#include "scenarios.h"

/* Logs of 1 and 6 KiB: a dozen records in S, some eighty in M. */
static const struct plan roomy = {12, 4, 2, 1024, 6144, 768};
/* So few buckets that chains grow and the index is full before the logs are. */
static const struct plan narrow = {2, 3, 2, 1024, 8192, 768};
/* One chain for all, and no more overflow than it needs to be full. */
static const struct plan single = {1, 2, 1, 1024, 8192, 768};

static const struct mix fill = {
    .weight = {[ACT_SET] = 60, [ACT_GET] = 40, [ACT_INCR] = 8, [ACT_DELETE] = 6, [ACT_TOUCH] = 2},
    .keys = KEYS_USED, .value_bytes_min = 8, .value_bytes_max = 90};
static const struct mix few = { /* of few keys: overwrites make holes in M */
    .weight = {[ACT_SET] = 80, [ACT_GET] = 20, [ACT_INCR] = 6, [ACT_DELETE] = 4},
    .keys = 40, .value_bytes_min = 8, .value_bytes_max = 90};
static const struct mix read_often = {
    .weight = {[ACT_SET] = 40, [ACT_GET] = 200}, .keys = 130,
    .value_bytes_min = 8, .value_bytes_max = 90};
static const struct mix expiring = {
    .weight = {[ACT_SET] = 70, [ACT_GET] = 20, [ACT_TOUCH] = 8, [ACT_DELETE] = 2},
    .keys = KEYS_USED, .value_bytes_min = 8, .value_bytes_max = 90, .expiring_percent = 50};
static const struct mix coming_and_going = {
    .weight = {[ACT_SET] = 60, [ACT_DELETE] = 40, [ACT_INCR] = 5}, .keys = 70, .crowd = true,
    .value_bytes_min = 8, .value_bytes_max = 24};
static const struct mix crowded = {
    .weight = {[ACT_SET] = 90, [ACT_GET] = 20, [ACT_DELETE] = 3}, .keys = 120, .crowd = true,
    .value_bytes_min = 8, .value_bytes_max = 24};
static const struct mix crowded_expiring = {
    .weight = {[ACT_SET] = 90, [ACT_DELETE] = 3, [ACT_SWEEP] = 1}, .keys = 60, .crowd = true,
    .value_bytes_min = 8, .value_bytes_max = 24, .expiring_percent = 70};
static const struct mix emptying = { /* in bursts: so a bucket before the last becomes empty */
    .weight = {[ACT_SET] = 90, [ACT_DELETE] = 2, [ACT_FLUSH] = 3, [ACT_SWEEP] = 6}, .keys = 60,
    .crowd = true, .value_bytes_min = 8, .value_bytes_max = 24};
static const struct mix flushing = {
    .weight = {[ACT_SET] = 80, [ACT_GET] = 20, [ACT_FLUSH] = 2}, .keys = KEYS_USED,
    .value_bytes_min = 8, .value_bytes_max = 90};

typedef const struct effects *effects;

static bool done(effects e) { return e->status == KV_DONE; }
static uint64_t kept(effects e) {
    return e->count[KV_PROMOTIONS] + e->count[KV_CLEANED] + e->count[KV_REINSERTIONS];
}
static bool calm(effects e) { /* nothing had to make room */
    return done(e) && e->small_reclaimed + e->main_reclaimed == 0 && e->linked == 0 &&
           e->count[KV_INDEX_EVICTIONS] + e->count[KV_EXPIRATIONS] == 0;
}
static bool full(effects e) { /* so that the state is not that of an empty table */
    return e->version > 150;
}
static bool new_key(effects e) { return calm(e) && full(e) && !e->existed; }
static bool over_small(effects e) { return calm(e) && full(e) && e->before.found && !e->was_main; }
static bool over_main(effects e) { return calm(e) && full(e) && e->before.found && e->was_main; }
static bool grown(effects e) { return done(e) && e->before.found && !e->was_main && e->is_main; }
static bool to_ghost(effects e) {
    return done(e) && e->count[KV_EVICTIONS] > 0 && kept(e) == 0 && e->main_reclaimed == 0;
}
static bool promotes(effects e) {
    return done(e) && e->count[KV_PROMOTIONS] > 0 && e->count[KV_CLEANED] == 0;
}
static bool cleans(effects e) { return done(e) && e->count[KV_CLEANED] > 1; }
static bool reinserts(effects e) { return done(e) && e->count[KV_REINSERTIONS] > 0; }
static bool evicts_main(effects e) {
    return done(e) && e->main_reclaimed > 0 && e->count[KV_EVICTIONS] > 1;
}
static bool ghost_hit(effects e) { return done(e) && e->count[KV_GHOST_HITS] > 0 && e->is_main; }
static bool pads_small(effects e) { return done(e) && e->small_pad; }
static bool pads_main(effects e) { return done(e) && e->main_pad; }
static bool bumps(effects e) { return done(e) && e->linked == 1 && e->pool_used == 1; }
static bool takes_freed(effects e) { return done(e) && e->linked == 1 && e->pool_used == 0; }
static bool index_evicts(effects e) { return done(e) && e->count[KV_INDEX_EVICTIONS] == 1; }
static bool own_promoted(effects e) {
    return done(e) && e->own_passed && !e->was_main && e->is_main &&
           e->count[KV_PROMOTIONS] > 0;
}
static bool own_spared(effects e) {
    return done(e) && e->own_passed && !e->was_main && e->count[KV_EVICTIONS] == 1 &&
           e->small_reclaimed > 0;
}
static bool own_kept_in_main(effects e) { return done(e) && e->own_passed && e->was_main; }
static bool expires(effects e) {
    return done(e) && e->count[KV_EXPIRATIONS] > 0 && e->small_reclaimed > 0;
}
static bool over_expired(effects e) {
    return done(e) && !e->before.found && e->existed && e->count[KV_EXPIRATIONS] > 0;
}
static bool deletes(effects e) { return done(e) && e->linked == 0; }
static bool trims(effects e) { return done(e) && e->linked == -1; }
static bool trims_two(effects e) { return done(e) && e->linked == -2; }
static bool any(effects e) { return done(e); }
static uint64_t written(effects e) { return e->small_written + e->main_written; }
static bool in_place(effects e) { return done(e) && written(e) == 0; }
static bool written_anew(effects e) {
    return calm(e) && e->before.version > 150 && written(e) > 0;
}
static bool increments(effects e) { return done(e) && e->before.found; }
static bool starts_counter(effects e) { return done(e) && !e->before.found; }
static bool refused(effects e) { return e->status == KV_REFUSED; }
static bool replaces(effects e) { return done(e) && e->before.found; }
static bool flushes(effects e) { return done(e) && e->before.found; }
static bool sweeps(effects e) { return e->count[KV_EXPIRATIONS] > 1; }
static bool sweeps_and_trims(effects e) { return e->linked < 0 && sweeps(e); }
static bool after_flush(effects e) { return done(e) && e->existed && !e->before.found; }
static bool busy(effects e) { return e->before.found; }

const struct scenario scenarios[] = {
    {"set-new", &roomy, &fill, ACT_SET, 8, 90, new_key, LOCK_FREE, true},
    {"overwrite", &roomy, &few, ACT_SET, 8, 90, over_small, LOCK_FREE, true},
    {"overwrite-main", &roomy, &few, ACT_SET, 8, 90, over_main, LOCK_FREE, false},
    {"overwrite-larger", &roomy, &fill, ACT_SET, 260, 600, grown, LOCK_FREE, false},
    {"overwrite-own-promoted", &roomy, &few, ACT_SET, 8, 90, own_promoted, LOCK_FREE, false},
    {"overwrite-own-kept", &roomy, &few, ACT_SET, 8, 90, own_kept_in_main, LOCK_FREE, true},
    {"overwrite-own-spared", &roomy, &fill, ACT_SET, 8, 90, own_spared, LOCK_FREE, false},
    {"overwrite-expired", &roomy, &expiring, ACT_SET, 8, 90, over_expired, LOCK_FREE, false},
    {"evict-to-ghost", &roomy, &fill, ACT_SET, 8, 90, to_ghost, LOCK_FREE, true},
    {"promote", &roomy, &fill, ACT_SET, 8, 90, promotes, LOCK_FREE, true},
    {"clean", &roomy, &few, ACT_SET, 8, 90, cleans, LOCK_FREE, true},
    {"clean-for-large", &roomy, &few, ACT_SET, 400, 600, cleans, LOCK_FREE, false},
    {"reinsert", &roomy, &read_often, ACT_SET, 8, 90, reinserts, LOCK_FREE, false},
    {"reinsert-for-large", &roomy, &read_often, ACT_SET, 400, 600, reinserts, LOCK_FREE, false},
    {"evict-main", &roomy, &fill, ACT_SET, 300, 600, evicts_main, LOCK_FREE, false},
    {"expire-at-tail", &roomy, &expiring, ACT_SET, 8, 90, expires, LOCK_FREE, false},
    {"ghost-hit", &roomy, &fill, ACT_SET, 8, 90, ghost_hit, LOCK_FREE, false},
    {"pad-small", &roomy, &fill, ACT_SET, 8, 90, pads_small, LOCK_FREE, false},
    {"pad-main", &roomy, &fill, ACT_SET, 260, 600, pads_main, LOCK_FREE, false},
    {"overflow-bump", &narrow, &crowded, ACT_SET, 8, 24, bumps, LOCK_FREE, true},
    {"overflow-freed", &narrow, &coming_and_going, ACT_SET, 8, 24, takes_freed, LOCK_FREE, true},
    {"index-evict", &single, &crowded, ACT_SET, 8, 24, index_evicts, LOCK_FREE, false},
    {"delete", &roomy, &fill, ACT_DELETE, 8, 90, deletes, LOCK_FREE, false},
    {"delete-trims", &narrow, &coming_and_going, ACT_DELETE, 8, 24, trims, LOCK_FREE, true},
    {"delete-trims-two", &narrow, &emptying, ACT_DELETE, 8, 24, trims_two, LOCK_FREE, false},
    {"touch", &roomy, &expiring, ACT_TOUCH, 8, 90, in_place, LOCK_FREE, false},
    {"touch-first", &roomy, &fill, ACT_TOUCH, 8, 90, written_anew, LOCK_FREE, true},
    {"touch-own-promoted", &roomy, &few, ACT_TOUCH, 8, 90, own_promoted, LOCK_FREE, false},
    {"incr", &roomy, &fill, ACT_INCR, 8, 90, increments, LOCK_FREE, false},
    {"incr-new", &roomy, &fill, ACT_INCR, 8, 90, starts_counter, LOCK_FREE, false},
    {"add", &roomy, &fill, ACT_ADD, 8, 90, any, LOCK_FREE, false},
    {"add-refused", &roomy, &fill, ACT_ADD, 8, 90, refused, LOCK_FREE, false},
    {"replace", &roomy, &fill, ACT_REPLACE, 8, 90, replaces, LOCK_FREE, false},
    {"cas", &roomy, &fill, ACT_CAS, 8, 90, replaces, LOCK_FREE, false},
    {"get", &roomy, &fill, ACT_GET, 8, 90, flushes, LOCK_FREE, false},
    {"flush", &roomy, &flushing, ACT_FLUSH, 8, 90, flushes, LOCK_FREE, true},
    {"set-after-flush", &roomy, &flushing, ACT_SET, 8, 90, after_flush, LOCK_FREE, false},
    {"sweep", &roomy, &expiring, ACT_SWEEP, 8, 90, sweeps, LOCK_FREE, false},
    {"sweep-trims", &narrow, &crowded_expiring, ACT_SWEEP, 8, 24, sweeps_and_trims, LOCK_FREE,
     true},
    {"lock-with-waiters", &roomy, &few, ACT_SET, 8, 90, over_small, LOCK_HAS_WAITERS, false},
    {"lock-of-a-dead", &roomy, &few, ACT_SET, 8, 90, over_small, LOCK_OF_A_DEAD, false},
    {"lock-of-a-former", &roomy, &few, ACT_SET, 8, 90, over_small, LOCK_OF_A_FORMER, false},
    {"lock-of-a-living", &roomy, &few, ACT_ACQUIRE, 8, 90, busy, LOCK_OF_A_LIVING, false},
};
const uint32_t scenario_count = sizeof scenarios / sizeof scenarios[0];
