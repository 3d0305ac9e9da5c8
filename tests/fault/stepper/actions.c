/* Carrying out actions as production does, lock, change, unlock; reading as clients do.
 *
 * A value tells its own identity: eight bytes of an id that is used once, then a pattern that
 * depends on the id, the length and the place, so that any mixture of two values is noticed. */
#include "actions.h"

#include <stdio.h>

#include "world.h"

#define RETRIES_MAX 64
#define ID_BYTES 8u
#define ACQUIRE_MS 3

static void name_key(struct keys *keys, uint32_t number, uint32_t name,
                     const struct kv_table *table) {
    static const char tail[] = "-and-a-longer-name-than-others";
    int length = snprintf((char *)keys->bytes[number], KEY_BYTES_MAX, "k%u%.*s", name,
                          (int)(name % 11 == 0 ? sizeof tail - 1 : name % 7), tail);
    keys->key[number] = (struct kv_key){.bytes = keys->bytes[number],
                                        .length = (uint32_t)length,
                                        .flags = name & 1 ? KV_FLAG_TEXT_KEY : 0};
    kv_locate(table, &keys->key[number]);
}

/* The crowd's keys all have bucket 0 for their home. */
void keys_make(struct keys *keys, const struct kv_table *table) {
    uint32_t name = 0;
    memset(keys, 0, sizeof *keys);
    for (; name < KEYS_USED; name++)
        name_key(keys, name, name, table);
    for (uint32_t number = KEYS_USED; number < KEYS; name++) {
        name_key(keys, number, name, table);
        if (home_of(table, keys->key[number].hash) == 0 && keys->key[number].length < 16)
            number++;
    }
}

static uint8_t pattern(uint64_t id, uint32_t value_bytes, uint32_t place) {
    return (uint8_t)(id * 167 + value_bytes * 13 + place * 31 + (place >> 3));
}

static void fill_value(uint8_t *bytes, uint64_t id, uint32_t value_bytes) {
    memcpy(bytes, &id, ID_BYTES);
    for (uint32_t i = ID_BYTES; i < value_bytes; i++)
        bytes[i] = pattern(id, value_bytes, i);
}

static enum kv_status change(struct kv_table *table, const struct kv_key *key,
                             const struct action *action, const uint8_t *bytes,
                             uint64_t *version) {
    static const int64_t initial = 100;
    struct kv_value value = {bytes, action->value_bytes, KV_CODEC_BYTES, action->expiry_ms};
    int64_t result;
    switch (action->kind) {
    case ACT_SET:
    case ACT_ADD:
    case ACT_REPLACE:
    case ACT_CAS:
        return kv_store(table, key, &value, (enum kv_condition)action->kind, action->expected,
                        action->now_ms, version);
    case ACT_DELETE:
        return kv_delete(table, key, action->now_ms);
    case ACT_TOUCH:
        return kv_touch(table, key, action->expiry_ms, action->now_ms);
    case ACT_INCR:
        return kv_increment(table, key, action->delta, &initial, action->expiry_ms,
                            action->now_ms, &result);
    case ACT_FLUSH:
        kv_flush(table, SHARD, action->now_ms);
        return KV_DONE;
    case ACT_SWEEP:
        kv_sweep(table, SHARD, 0, table->geometry.buckets, action->now_ms);
        return KV_DONE;
    default:
        return KV_DONE;
    }
}

static void get(const struct kv_table *table, const struct kv_key *key) {
    struct kv_view view;
    bool hit = kv_find(table, key, &view) == KV_DONE && kv_view_intact(&view);
    if (hit)
        (void)kv_view_touch(table, &view);
    kv_count_read(table, hit);
}

/* Carries an action out. KV_BUSY: the lock could not be had. */
enum kv_status perform(struct kv_table *table, const struct kv_owner *owner,
                       const struct keys *keys, const struct action *action, uint64_t *version) {
    uint8_t bytes[VALUE_BYTES_MAX];
    const struct kv_key *key = &keys->key[action->key];
    if (action->kind == ACT_GET) {
        get(table, key);
        return KV_DONE;
    }
    if (action->kind == ACT_TAKEOVER) {
        if (!kv_take_from_dead(table, owner, SHARD))
            return KV_BUSY;
        kv_release(table, owner, SHARD);
        return KV_DONE;
    }
    if (action->kind <= ACT_CAS)
        fill_value(bytes, action->id, action->value_bytes);
    if (!kv_try_acquire(table, owner, SHARD) &&
        kv_acquire(table, owner, SHARD, ACQUIRE_MS) != KV_DONE)
        return KV_BUSY;
    enum kv_status status = change(table, key, action, bytes, version);
    kv_release(table, owner, SHARD);
    return status;
}

/* Reads as a client does: find, in steps as for a batch or at once, copy, look whether the copy is
 * whole. */
void carry(const struct kv_table *table, const struct kv_key *key, uint64_t now_ms, bool in_steps,
           struct carried *carried) {
    struct kv_view view;
    carried->status = KV_CONTENDED;
    if (in_steps) {
        kv_prefetch_bucket(table, key, &view);
        kv_prefetch_record(table, key, &view);
    }
    for (int retries = 0; retries < RETRIES_MAX; retries++) {
        bool begun = in_steps && retries == 0;
        enum kv_status status = (begun ? kv_find_prefetched : kv_find)(table, key, &view);
        if (status != KV_DONE) {
            carried->status = status;
            return;
        }
        if (view.value_bytes > VALUE_BYTES_MAX) {
            if (!kv_view_intact(&view))
                continue;
        } else if (view.codec == KV_CODEC_COUNTER) {
            carried->number = kv_view_counter(&view);
        } else {
            memcpy(carried->bytes, view.value, view.value_bytes);
        }
        if (!kv_view_intact(&view))
            continue;
        bool over = view.expiry_ms != 0 && view.expiry_ms <= now_ms;
        carried->status =
            over || kv_view_flushed(table, key->shard, &view) ? KV_MISSING : KV_DONE;
        carried->codec = view.codec;
        carried->value_bytes = view.value_bytes;
        carried->version = view.cas;
        carried->expiry_ms = view.expiry_ms;
        return;
    }
}

/* What was carried home, looked at byte by byte. */
struct seen recognize(const struct carried *carried) {
    struct seen seen = {.found = carried->status == KV_DONE,
                        .contended = carried->status == KV_CONTENDED};
    if (!seen.found)
        return seen;
    seen.codec = carried->codec;
    seen.value_bytes = carried->value_bytes;
    seen.version = carried->version;
    seen.expiry_ms = carried->expiry_ms;
    if (seen.codec == KV_CODEC_COUNTER) {
        seen.number = carried->number;
        return seen;
    }
    seen.torn = seen.codec != KV_CODEC_BYTES || seen.value_bytes < ID_BYTES ||
                seen.value_bytes > VALUE_BYTES_MAX;
    if (seen.torn)
        return seen;
    memcpy(&seen.id, carried->bytes, ID_BYTES);
    for (uint32_t i = ID_BYTES; i < seen.value_bytes; i++)
        seen.torn |= carried->bytes[i] != pattern(seen.id, seen.value_bytes, i);
    return seen;
}

struct seen observe(const struct world *world, const struct kv_key *key, uint64_t now_ms) {
    struct carried carried;
    carry(&world->table, key, now_ms, false, &carried);
    return recognize(&carried);
}

void observe_all(const struct world *world, const struct keys *keys, uint64_t now_ms,
                 struct seen seen[KEYS]) {
    for (uint32_t key = 0; key < KEYS; key++)
        seen[key] = observe(world, &keys->key[key], now_ms);
}

/* The same but for version and expiry. */
bool same_value(const struct seen *one, const struct seen *other) {
    if (one->torn || other->torn || one->contended || other->contended)
        return false;
    if (!one->found || !other->found)
        return one->found == other->found;
    return one->codec == other->codec && one->value_bytes == other->value_bytes &&
           one->id == other->id && one->number == other->number;
}

bool same_seen(const struct seen *one, const struct seen *other) {
    return same_value(one, other) &&
           (!one->found ||
            (one->version == other->version && one->expiry_ms == other->expiry_ms));
}

/* What a reader must see of the action's key after the action succeeded. An incr's version is not
 * told to its caller; it is left as it was. */
struct seen promised(const struct action *action, const struct seen *before, uint64_t version) {
    struct seen after = *before;
    switch (action->kind) {
    case ACT_SET:
    case ACT_ADD:
    case ACT_REPLACE:
    case ACT_CAS:
        return (struct seen){.found = true, .codec = KV_CODEC_BYTES,
                             .value_bytes = action->value_bytes, .id = action->id,
                             .version = version, .expiry_ms = action->expiry_ms};
    case ACT_DELETE:
    case ACT_FLUSH:
        return (struct seen){0};
    case ACT_TOUCH:
        after.expiry_ms = action->expiry_ms;
        return after;
    case ACT_INCR:
        if (before->found) {
            after.number += action->delta;
            return after;
        }
        return (struct seen){.found = true, .codec = KV_CODEC_COUNTER,
                             .value_bytes = KV_COUNTER_BYTES, .number = 100 + action->delta,
                             .expiry_ms = action->expiry_ms};
    default:
        return after;
    }
}
