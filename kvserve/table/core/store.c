/* Every change of the table. The caller holds the shard's lock, and may be killed anywhere.
 *
 * Each change is emitted to the feed inside the lock, after it is visible: so a key's events have
 * the order of its changes, and a process that reads the key on an event finds it changed. This
 * file emits new values and touches, index.c emits removals. */
#include "operation.h"

/* The live record of this key; one that is there but gone is unlinked. */
static struct slot_ref find_live(struct operation *op, const struct kv_key *key) {
    struct slot_ref ref = find_slot(op, key);
    if (ref.entry != NULL && is_gone(op, ref.record)) {
        unlink_slot(op, &ref, KV_EXPIRATIONS);
        ref.entry = NULL;
    }
    return ref;
}

/* The only source of a cas. It is taken before it is used, so that no record's cas is above the
 * sequence. */
static uint64_t next_cas(struct kv_shard *header) {
    uint64_t cas = LOAD(header->sequence) + 1;
    STORE_RELEASE(header->sequence, cas);
    return cas;
}

/* The shape of the record that this key and value will make. */
static struct shape shape_for(const struct kv_key *key, const struct kv_value *value) {
    uint32_t flags = key->flags | (value->expiry_ms != 0 ? KV_FLAG_EXPIRY : 0) |
                     (value->codec & KV_VALUE_TAGGED ? KV_FLAG_TAGGED : 0);
    return (struct shape){value->length, key->length, value->codec & 0xff, flags};
}

/* Whether a record can be stored, with room for an expiry even if it has none: a touch may add
 * one. */
static bool admissible(const struct kv_table *t, struct shape shape) {
    shape.flags |= KV_FLAG_EXPIRY;
    return shape.value_bytes <= t->geometry.value_bytes_max &&
           record_length(shape) <= t->geometry.largest_record;
}

/* Writing a key again is a use of it, as reading it is. Without that, counters that no client reads
 * would be evicted; and of zipfian reads among as many sets, .007 more miss. */
static void note_use(const struct slot_ref *ref) {
    uint8_t uses = LOAD(*ref->hint);
    if (uses < 3)
        STORE(*ref->hint, (uint8_t)(uses + 1));
}

static void write_record(struct kv_record *record, struct shape shape, const uint8_t *key,
                         const struct kv_value *value, uint64_t cas) {
    STORE(record->shape,
          make_shape(shape.key_bytes, shape.value_bytes, shape.codec, shape.flags));
    STORE(record->cas, cas);
    if (shape.flags & KV_FLAG_EXPIRY)
        STORE(*expiry_cell(record), value->expiry_ms);
    memcpy(record->bytes + key_offset(shape), key, shape.key_bytes);
    memcpy(record->bytes + value_offset(shape), value->bytes, shape.value_bytes);
}

/* Makes room for a record of this key. Returns the old one's slot, if there is one, and the log
 * that has the room: an overwrite stays in its log, but large records never go to S. */
static struct slot_ref room_for(struct operation *op, const struct kv_key *key, uint64_t length,
                                bool *main_log) {
    struct slot_ref old = find_slot(op, key);
    bool large = length > op->t->geometry.small_capacity / 4;
    *main_log = large || (old.entry != NULL ? old.main_log : ghost_take(op, key->hash));
    op->spared = old.entry;
    op->ending = old.entry != NULL && old.main_log ? old.length : 0;
    for (;;) {
        make_room(op, *main_log, length);
        /* That may have moved the very record that we overwrite. */
        old = find_slot(op, key);
        if (old.entry == NULL || old.main_log == *main_log || *main_log)
            return old;
        *main_log = true;
    }
}

/* Appends the record and publishes it: over `old`, or in a free slot if there is no old one. */
static void publish(struct operation *op, const struct kv_key *key, const struct slot_ref *old,
                    bool main_log, struct shape shape, const struct kv_value *value, uint64_t cas,
                    enum kv_event_kind kind) {
    uint64_t length = record_length(shape), position;
    struct slot_ref slot = old->entry != NULL ? *old : claim_slot(op, key);
    struct ring ring = ring_of(op->t, op->shard, main_log);
    struct kv_record *record = append(&ring, length, &position);
    write_record(record, shape, key->bytes, value, cas);
    STORE_RELEASE(*slot.entry, make_entry(key->hash, main_log, position));
    publish_head(&ring, position, length);
    if (old->entry != NULL)
        account(op, old->main_log, -(int64_t)old->length, -1);
    account(op, main_log, (int64_t)length, 1);
    emit(op, kind, record);
}

static uint64_t insert(struct operation *op, const struct kv_key *key,
                       const struct kv_value *value) {
    struct shape shape = shape_for(key, value);
    bool main_log;
    struct slot_ref old = room_for(op, key, record_length(shape), &main_log);
    uint64_t cas = next_cas(op->header);
    publish(op, key, &old, main_log, shape, value, cas, KV_EVENT_SET);
    if (old.entry != NULL)
        note_use(&old);
    return cas;
}

enum kv_status kv_store(struct kv_table *t, const struct kv_key *key, const struct kv_value *value,
                        enum kv_condition condition, uint64_t expected, uint64_t now_ms,
                        uint64_t *version) {
    if (!admissible(t, shape_for(key, value)))
        return KV_TOO_LARGE;
    struct operation op = begin(t, key->shard, now_ms);
    struct slot_ref old = find_live(&op, key);
    if (condition == KV_ADD && old.entry != NULL)
        return KV_REFUSED;
    if ((condition == KV_REPLACE || condition == KV_CAS) && old.entry == NULL)
        return KV_MISSING;
    if (condition == KV_CAS && LOAD(old.record->cas) != expected)
        return KV_REFUSED;
    struct kv_value stored = *value;
    if (stored.expiry_ms == KV_EXPIRY_KEPT)
        stored.expiry_ms =
            old.entry == NULL ? 0 : expiry_of(old.record, shape_of(LOAD(old.record->shape)));
    *version = insert(&op, key, &stored);
    count(op.header, KV_SETS);
    return KV_DONE;
}

enum kv_status kv_delete(struct kv_table *t, const struct kv_key *key, uint64_t now_ms) {
    struct operation op = begin(t, key->shard, now_ms);
    struct slot_ref old = find_live(&op, key);
    if (old.entry == NULL)
        return KV_MISSING;
    unlink_slot(&op, &old, KV_DELETES);
    return KV_DONE;
}

/* Takes a key out until it has been written to the store behind the table. */
enum kv_status kv_withdraw(struct kv_table *t, const struct kv_key *key, uint64_t now_ms) {
    struct operation op = begin(t, key->shard, now_ms);
    struct slot_ref old = find_live(&op, key);
    if (old.entry == NULL)
        return KV_MISSING;
    unlink_slot(&op, &old, KV_WITHDRAWALS);
    return KV_DONE;
}

/* Deletes the key only if it still has this version. */
enum kv_status kv_delete_version(struct kv_table *t, const struct kv_key *key, uint64_t version,
                                 uint64_t now_ms) {
    struct operation op = begin(t, key->shard, now_ms);
    struct slot_ref old = find_live(&op, key);
    if (old.entry == NULL)
        return KV_MISSING;
    if (LOAD(old.record->cas) != version)
        return KV_REFUSED;
    unlink_slot(&op, &old, KV_DELETES);
    return KV_DONE;
}

/* A record without an expiry is written anew, with one: same value, same version. */
static enum kv_status add_expiry(struct operation *op, const struct kv_key *key,
                                 const struct slot_ref *ref, uint64_t expiry_ms) {
    struct shape shape = shape_of(LOAD(ref->record->shape));
    struct shape longer = shape;
    longer.flags |= KV_FLAG_EXPIRY;
    bool main_log;
    struct slot_ref old = room_for(op, key, record_length(longer), &main_log);
    if (old.entry == NULL)
        return KV_MISSING; /* only in a damaged table: see reclaim_main */
    struct kv_value value = {old.record->bytes + value_offset(shape), shape.value_bytes,
                             shape.codec, expiry_ms};
    publish(op, key, &old, main_log, longer, &value, LOAD(old.record->cas), KV_EVENT_TOUCH);
    return KV_DONE;
}

enum kv_status kv_touch(struct kv_table *t, const struct kv_key *key, uint64_t expiry_ms,
                        uint64_t now_ms) {
    struct operation op = begin(t, key->shard, now_ms);
    struct slot_ref old = find_live(&op, key);
    if (old.entry == NULL)
        return KV_MISSING;
    bool has_expiry = (shape_of(LOAD(old.record->shape)).flags & KV_FLAG_EXPIRY) != 0;
    if (!has_expiry && expiry_ms != 0) {
        if (add_expiry(&op, key, &old, expiry_ms) != KV_DONE)
            return KV_MISSING;
    } else {
        if (has_expiry)
            STORE_RELEASE(*expiry_cell(old.record), expiry_ms);
        emit(&op, KV_EVENT_TOUCH, old.record);
    }
    count(op.header, KV_TOUCHES);
    return KV_DONE;
}

/* A counter changes in place: first its cas, then its cell. A kill between the two leaves the old
 * number under a new version, which makes a cas fail that might have succeeded. The other order
 * would let a cas succeed that must fail. */
enum kv_status kv_increment(struct kv_table *t, const struct kv_key *key, int64_t delta,
                            const int64_t *initial, uint64_t expiry_ms, uint64_t now_ms,
                            int64_t *result) {
    struct operation op = begin(t, key->shard, now_ms);
    struct slot_ref old = find_live(&op, key);
    if (old.entry == NULL) {
        if (initial == NULL)
            return KV_MISSING;
        if (__builtin_add_overflow(*initial, delta, result))
            return KV_OVERFLOW;
        struct kv_value value = {(const uint8_t *)result, KV_COUNTER_BYTES, KV_CODEC_COUNTER,
                                 expiry_ms};
        if (!admissible(t, shape_for(key, &value)))
            return KV_TOO_LARGE;
        insert(&op, key, &value);
        count(op.header, KV_INCREMENTS);
        return KV_DONE;
    }
    struct shape shape = shape_of(LOAD(old.record->shape));
    if (shape.codec != KV_CODEC_COUNTER)
        return KV_NOT_COUNTER;
    _Atomic uint64_t *cell = counter_cell(old.record, shape);
    if (__builtin_add_overflow((int64_t)LOAD(*cell), delta, result))
        return KV_OVERFLOW;
    STORE_RELEASE(old.record->cas, next_cas(op.header));
    STORE_RELEASE(*cell, (uint64_t)*result);
    emit(&op, KV_EVENT_SET, old.record);
    note_use(&old);
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

/* Unlinks the records that are gone in `buckets` buckets from `bucket` on, and in their overflow
 * chains. Returns the bucket to go on with, 0 after the last. */
uint32_t kv_sweep(struct kv_table *t, uint32_t shard, uint32_t bucket, uint32_t buckets,
                  uint64_t now_ms) {
    struct operation op = begin(t, shard, now_ms);
    for (; buckets > 0 && bucket < t->geometry.buckets; buckets--, bucket++) {
        fetch_records(t, shard, (bucket + BUCKETS_AHEAD) % t->geometry.buckets);
        sweep_chain(&op, bucket);
    }
    return bucket < t->geometry.buckets ? bucket : 0;
}
