/* Judging one state as if the victim had been killed in it: by readers who take no lock, by a
 * survivor who takes the lock over, by the invariants, and by working on. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "trial.h"

#define VIOLATIONS_TOLD 4u

void complain(struct trial *trial, const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (trial->tally->violations++ < 20)
        (void)fprintf(stderr, "VIOLATION %s, seed %lu, instruction %lu: %s\n", trial->name,
                      (unsigned long)trial->seed, (unsigned long)trial->instruction, text);
}

/* Whether the dry run did what its caller was told. Everything later is measured by it. */
static void check_promise(struct trial *trial) {
    const struct action *action = &trial->action;
    struct seen *before = &trial->before[action->key], *after = &trial->after[action->key];
    struct seen promise = *before;
    uint64_t highest = 0, lost = 0;
    if (trial->effects.status == KV_DONE)
        promise = promised(action, before, trial->effects.version);
    if (action->kind == ACT_INCR && trial->effects.status == KV_DONE) {
        if (after->version <= before->version)
            complain(trial, "an incr gave no new version");
        promise.version = after->version;
    }
    if (!same_seen(after, &promise))
        complain(trial, "the action itself did not do what it says");
    for (uint32_t key = 0; key < KEYS; key++) {
        if (trial->before[key].version > highest)
            highest = trial->before[key].version;
        if (key == action->key || action->kind == ACT_FLUSH)
            continue;
        lost += trial->before[key].found && !trial->after[key].found;
        if (trial->after[key].found && !same_seen(&trial->before[key], &trial->after[key]))
            complain(trial, "the action changed another key, %u", key);
    }
    if (action->kind <= ACT_CAS && trial->effects.status == KV_DONE &&
        trial->effects.version <= highest)
        complain(trial, "a version was given out twice");
    if (lost > trial->effects.count[KV_EVICTIONS] + trial->effects.count[KV_INDEX_EVICTIONS])
        complain(trial, "%lu keys vanished that nobody evicted", (unsigned long)lost);
}

/* Notes what readers see before the action and after it; the live world stands before it. */
void trial_expect(struct trial *trial) {
    observe_all(&trial->worlds.live, &trial->keys, trial->action.now_ms, trial->before);
    trial->effects = effects_of(&trial->worlds, &trial->keys, &trial->action);
    observe_all(&trial->worlds.scratch, &trial->keys, trial->action.now_ms, trial->after);
    memset(trial->gone_over, 0, sizeof trial->gone_over);
    check_promise(trial);
    events_expect(trial);
}

/* Between cas and cell of a counter the old number has the new version, and only that. */
static bool half_counted(const struct trial *trial, uint32_t key, const struct seen *seen) {
    return trial->action.kind == ACT_INCR && key == trial->action.key && seen->found &&
           same_value(seen, &trial->before[key]) &&
           seen->version == trial->after[key].version &&
           seen->expiry_ms == trial->before[key].expiry_ms;
}

/* V11. Every key is as before or as after the action, and never as before again. */
static void check_readers(struct trial *trial, const struct seen seen[KEYS], const char *when) {
    uint32_t before = 0, after = 0;
    for (uint32_t key = 0; key < KEYS; key++) {
        bool old = same_seen(&seen[key], &trial->before[key]);
        bool new = same_seen(&seen[key], &trial->after[key]);
        before += old && !new;
        after += new && !old;
        if (seen[key].contended)
            complain(trial, "V11 %s: key %u leads behind the tail", when, key);
        else if (seen[key].torn)
            complain(trial, "V11 %s: the value of key %u is torn", when, key);
        else if (!old && !new && !half_counted(trial, key, &seen[key]))
            complain(trial, "V11 %s: key %u is %s", when, key,
                     seen[key].found ? "what it never was" : "missing");
        else if (trial->gone_over[key] && !new)
            complain(trial, "V11 %s: key %u went back", when, key);
        trial->gone_over[key] |= new && !old;
    }
    if (trial->action.kind == ACT_FLUSH && before > 0 && after > 0)
        complain(trial, "V11 %s: a flush ended some keys before others", when);
}

/* An overflow bucket below the bump pointer is linked or free: none is lost. */
static void check_pool(struct trial *trial, const char *when) {
    const struct world *world = &trial->worlds.scratch;
    struct kv_shard *header = shard_header(&world->table, SHARD);
    uint32_t used = LOAD(header->overflow_used), free = 0;
    for (uint32_t next = LOAD(header->overflow_free); next != 0 && free <= used; free++)
        next = LOAD(bucket_at(&world->table, SHARD, world->table.geometry.buckets + next - 1)
                        ->next_free);
    if (linked_buckets(world) + free != used)
        complain(trial, "V7 %s: %u overflow buckets used, %u linked, %u free", when, used,
                 linked_buckets(world), free);
}

/* V1 to V9 on the scratch copy. */
void check_invariants(struct trial *trial, const char *when) {
    struct kv_table *table = &trial->worlds.scratch.table;
    struct kv_violation found[VIOLATIONS_TOLD];
    memset(trial->verify_scratch, 0, kv_verify_scratch_bytes(table));
    uint32_t count = kv_verify(table, SHARD, trial->verify_scratch, found, VIOLATIONS_TOLD);
    const char *wrong = kv_feed_verify(&trial->worlds.scratch.feed);
    if (wrong != NULL)
        complain(trial, "F1 %s: %s", when, wrong);
    for (uint32_t i = 0; i < count && i < VIOLATIONS_TOLD; i++)
        complain(trial, "V%u %s: at %lu", found[i].rule, when, (unsigned long)found[i].where);
    if (count == 0)
        check_pool(trial, when);
}

/* V10. The living keep their lock; it is free after they let go. */
static void wait_for_the_living(struct trial *trial) {
    struct kv_table *table = &trial->worlds.scratch.table;
    struct kv_owner survivor = owner_of(&trial->worlds, SURVIVOR);
    struct kv_owner holder = owner_of(&trial->worlds, HOLDER);
    if (kv_owner_dead(table, &survivor, lock_word(&trial->worlds.scratch)) ||
        kv_take_from_dead(table, &survivor, SHARD))
        complain(trial, "V10: the lock was taken from the living");
    kv_release(table, &holder, SHARD);
}

/* V10. The survivor gets the lock, by trying if it is free, else from the dead. */
static bool take_the_lock(struct trial *trial) {
    struct world *world = &trial->worlds.scratch;
    struct kv_owner survivor = owner_of(&trial->worlds, SURVIVOR);
    if (lock_word(world) != 0 && trial->scenario->lock == LOCK_OF_A_LIVING)
        wait_for_the_living(trial);
    uint64_t word = lock_word(world);
    bool was_free = word == 0;
    if (kv_try_acquire(&world->table, &survivor, SHARD) != was_free)
        complain(trial, "V10: the lock's word %lx cannot be tried", (unsigned long)word);
    if (!was_free) {
        uint32_t slot = kv_lock_slot(word);
        if (slot != (uint32_t)trial->actor && slot != VICTIM && slot != HOLDER)
            complain(trial, "V10: the lock's word %lx names nobody", (unsigned long)word);
        if (!kv_owner_dead(&world->table, &survivor, word) ||
            !kv_take_from_dead(&world->table, &survivor, SHARD))
            complain(trial, "V10: the lock cannot be taken from the dead");
    }
    bool ours = kv_lock_same_owner(lock_word(world), survivor.word);
    if (!ours)
        complain(trial, "V10: the survivor did not get the lock");
    return ours;
}

/* Judges the scratch copy, which it uses up. */
void judge_copy(struct trial *trial) {
    struct seen seen[KEYS], again[KEYS];
    struct world *world = &trial->worlds.scratch;
    struct kv_owner survivor = owner_of(&trial->worlds, SURVIVOR);
    uint64_t violations = trial->tally->violations;
    trial->tally->states++;
    observe_all(world, &trial->keys, trial->action.now_ms, seen);
    check_readers(trial, seen, "before the takeover");
    events_judge(trial, seen);
    if (!take_the_lock(trial))
        return;
    events_succeed(trial);
    check_invariants(trial, "after the takeover");
    observe_all(world, &trial->keys, trial->action.now_ms, again);
    for (uint32_t key = 0; key < KEYS; key++)
        if (!same_seen(&seen[key], &again[key]))
            complain(trial, "V11: the takeover changed key %u", key);
    kv_release(&world->table, &survivor, SHARD);
    if (lock_word(world) != 0)
        complain(trial, "V10: the lock is not free after its release");
    if (trial->tally->violations == violations) /* a damaged table cannot be worked on */
        work_on(trial, again);
}
