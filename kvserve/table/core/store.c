/* Every change of the table. The caller holds the shard's lock, and may be killed anywhere.
 *
 * Each change is told to the feed inside the lock, after it can be seen: so a key's events have the
 * order of its changes, and who reads the key on an event finds it changed. Here new values and
 * touches are told, in evict.c whatever goes. */
#include "places.h"

/* A live record of this key; what is there but gone is unlinked on the way. */
static struct place find_live(struct operation *op, const struct kv_key *key) {
    struct place place = find_place(op, key);
    if (place.entry != NULL && is_gone(op, place.record)) {
        unlink_place(op, &place, KV_EXPIRATIONS);
        place.entry = NULL;
    }
    return place;
}

/* The only way to a cas: taken before it is used, so that no record's is above the sequence. */
static uint64_t next_cas(struct kv_shard *header) {
    uint64_t cas = LOAD(header->sequence) + 1;
    STORE_RELEASE(header->sequence, cas);
    return cas;
}

static void write_record(struct kv_record *record, const struct kv_key *key,
                         const struct kv_value *value, uint64_t cas) {
    STORE(record->shape, make_shape(key->length, value->length, value->codec, key->flags));
    STORE(record->expiry_ms, value->expiry_ms);
    STORE(record->cas, cas);
    memcpy(record->bytes, key->bytes, key->length);
    memcpy(record->bytes + value_offset(key->length, value->codec), value->bytes, value->length);
}

/* Writes the record and publishes it: over `old`, or in a free slot if that is nowhere. */
static uint64_t insert(struct operation *op, const struct kv_key *key,
                       const struct kv_value *value, uint64_t length) {
    struct place old = find_place(op, key);
    /* Which log: an overwrite stays where it is, but large records never go to S. */
    bool large = length > op->t->geometry.small_capacity / 4;
    bool main_log = large || (old.entry != NULL ? old.main_log : ghost_take(op, key->hash));
    op->spared = old.entry;
    for (;;) {
        make_room(op, main_log, length);
        /* That may have moved the very record that we overwrite. */
        old = find_place(op, key);
        if (old.entry == NULL || old.main_log == main_log || main_log)
            break;
        main_log = true;
    }
    struct place slot = old.entry != NULL ? old : claim_slot(op, key);
    struct ring ring = ring_of(op->t, op->shard, main_log);
    uint64_t cas = next_cas(op->header);
    uint64_t position;
    struct kv_record *record = append(&ring, length, &position);
    write_record(record, key, value, cas);
    publish_head(&ring, position, length);
    STORE_RELEASE(*slot.entry, make_entry(key->hash, main_log, position));
    if (old.entry != NULL)
        account(op, old.main_log, -(int64_t)old.length, -1);
    account(op, main_log, (int64_t)length, 1);
    tell(op, KV_EVENT_SET, record);
    return cas;
}

static uint64_t length_for(const struct kv_key *key, const struct kv_value *value) {
    return record_length((struct shape){value->length, key->length, value->codec, 0});
}

enum kv_status kv_store(struct kv_table *t, const struct kv_key *key, const struct kv_value *value,
                        enum kv_condition condition, uint64_t expected, uint64_t now_ms,
                        uint64_t *version) {
    uint64_t length = length_for(key, value);
    if (value->length > t->geometry.value_bytes_max || length > t->geometry.largest_record)
        return KV_TOO_LARGE;
    struct operation op = begin(t, key->shard, now_ms);
    struct place old = find_live(&op, key);
    if (condition == KV_ADD && old.entry != NULL)
        return KV_REFUSED;
    if ((condition == KV_REPLACE || condition == KV_CAS) && old.entry == NULL)
        return KV_MISSING;
    if (condition == KV_CAS && LOAD(old.record->cas) != expected)
        return KV_REFUSED;
    *version = insert(&op, key, value, length);
    count(op.header, KV_SETS);
    return KV_DONE;
}

enum kv_status kv_delete(struct kv_table *t, const struct kv_key *key, uint64_t now_ms) {
    struct operation op = begin(t, key->shard, now_ms);
    struct place old = find_live(&op, key);
    if (old.entry == NULL)
        return KV_MISSING;
    unlink_place(&op, &old, KV_DELETES);
    return KV_DONE;
}

/* Takes a key out until it has been written to the store behind the table. */
enum kv_status kv_withdraw(struct kv_table *t, const struct kv_key *key, uint64_t now_ms) {
    struct operation op = begin(t, key->shard, now_ms);
    struct place old = find_live(&op, key);
    if (old.entry == NULL)
        return KV_MISSING;
    unlink_place(&op, &old, KV_WITHDRAWALS);
    return KV_DONE;
}

/* Deletes the key only if it still has this version. */
enum kv_status kv_delete_version(struct kv_table *t, const struct kv_key *key, uint64_t version,
                                 uint64_t now_ms) {
    struct operation op = begin(t, key->shard, now_ms);
    struct place old = find_live(&op, key);
    if (old.entry == NULL)
        return KV_MISSING;
    if (LOAD(old.record->cas) != version)
        return KV_REFUSED;
    unlink_place(&op, &old, KV_DELETES);
    return KV_DONE;
}

enum kv_status kv_touch(struct kv_table *t, const struct kv_key *key, uint64_t expiry_ms,
                        uint64_t now_ms) {
    struct operation op = begin(t, key->shard, now_ms);
    struct place old = find_live(&op, key);
    if (old.entry == NULL)
        return KV_MISSING;
    STORE_RELEASE(old.record->expiry_ms, expiry_ms);
    tell(&op, KV_EVENT_TOUCH, old.record);
    count(op.header, KV_TOUCHES);
    return KV_DONE;
}

/* A counter changes in place: first its cas, then its cell. A kill between the two leaves the old
 * number under a new version, which makes somebody's cas fail that might have succeeded. The other
 * order would let a cas succeed that must fail. */
enum kv_status kv_increment(struct kv_table *t, const struct kv_key *key, int64_t delta,
                            const int64_t *initial, uint64_t expiry_ms, uint64_t now_ms,
                            int64_t *result) {
    struct operation op = begin(t, key->shard, now_ms);
    struct place old = find_live(&op, key);
    if (old.entry == NULL) {
        if (initial == NULL)
            return KV_MISSING;
        if (__builtin_add_overflow(*initial, delta, result))
            return KV_OVERFLOW;
        struct kv_value value = {(const uint8_t *)result, KV_COUNTER_BYTES, KV_CODEC_COUNTER,
                                 expiry_ms};
        uint64_t length = length_for(key, &value);
        if (length > t->geometry.largest_record)
            return KV_TOO_LARGE;
        insert(&op, key, &value, length);
        count(op.header, KV_INCREMENTS);
        return KV_DONE;
    }
    struct shape shape = shape_of(LOAD(old.record->shape));
    if (shape.codec != KV_CODEC_COUNTER)
        return KV_NOT_COUNTER;
    _Atomic uint64_t *cell = counter_cell(old.record, shape.key_bytes);
    if (__builtin_add_overflow((int64_t)LOAD(*cell), delta, result))
        return KV_OVERFLOW;
    STORE_RELEASE(old.record->cas, next_cas(op.header));
    STORE_RELEASE(*cell, (uint64_t)*result);
    tell(&op, KV_EVENT_SET, old.record);
    uint8_t reads = LOAD(*old.hint);
    if (reads < 3) /* it was read as well, or counters that nobody gets would be evicted */
        STORE(*old.hint, (uint8_t)(reads + 1));
    count(op.header, KV_INCREMENTS);
    return KV_DONE;
}

/* Ends all records of the shard by one store; the sweeper and the evictions collect them. */
void kv_flush(struct kv_table *t, uint32_t shard, uint64_t now_ms) {
    struct kv_shard *header = shard_header(t, shard);
    STORE_RELEASE(header->flush_mark, LOAD(header->sequence));
    STORE(header->small_live, 0);
    STORE(header->main_live, 0);
    STORE(header->items, 0);
    count(header, KV_FLUSHES);
    if (t->feed != NULL)
        kv_feed_emit(t->feed, KV_EVENT_FLUSH, NULL, 0, 0, LOAD(header->flush_mark), now_ms);
}

/* Unlinks what is gone in `count` buckets and their overflow chains, from `bucket` on; returns the
 * bucket to go on with, 0 after the last. */
uint32_t kv_sweep(struct kv_table *t, uint32_t shard, uint32_t bucket, uint32_t buckets,
                  uint64_t now_ms) {
    struct operation op = begin(t, shard, now_ms);
    for (; buckets > 0 && bucket < t->geometry.buckets; buckets--, bucket++)
        sweep_chain(&op, bucket);
    return bucket < t->geometry.buckets ? bucket : 0;
}
