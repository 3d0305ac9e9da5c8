/* The index under the lock: finding, claiming and giving up a key's slot.
 *
 * An entry never changes its slot while its key is alive, and what readers follow changes by one
 * store at a time. */
#include "operation.h"

/* Walks the slots of a key's chain. */
struct chain {
    uint32_t home;
    uint32_t bucket;
    uint32_t slot;
};

static struct chain chain_from(uint32_t home) { return (struct chain){home, home, 0}; }

static bool next_slot(const struct operation *op, struct chain *chain) {
    if (++chain->slot < KV_BUCKET_ENTRIES)
        return true;
    uint32_t next = LOAD(bucket_at(op->t, op->shard, chain->bucket)->next);
    if (next == 0)
        return false;
    chain->bucket = op->t->geometry.buckets + next - 1;
    chain->slot = 0;
    return true;
}

static _Atomic uint64_t *entry_at(const struct operation *op, struct chain chain) {
    return &bucket_at(op->t, op->shard, chain.bucket)->entry[chain.slot];
}

static struct slot_ref empty_slot(const struct operation *op, struct chain chain) {
    return (struct slot_ref){.entry = entry_at(op, chain),
                          .hint = hint_at(op->t, op->shard, chain.bucket, chain.slot),
                          .home = chain.home,
                          .in_overflow = chain.bucket >= op->t->geometry.buckets};
}

static struct slot_ref locate_entry(const struct operation *op, struct chain chain) {
    struct slot_ref ref = empty_slot(op, chain);
    uint64_t word = LOAD(*ref.entry);
    ref.main_log = entry_in_main(word);
    struct ring ring = ring_of(op->t, op->shard, ref.main_log);
    uint64_t tail = LOAD(*ring.tail);
    ref.position = tail + entry_distance(word, tail);
    ref.record = record_at(&ring, ref.position);
    ref.length = record_length(shape_of(LOAD(ref.record->shape)));
    return ref;
}

/* The slot of a key; an empty reference if the key is not there. Does not look at the expiry. */
struct slot_ref find_slot(const struct operation *op, const struct kv_key *key) {
    uint64_t tag = tag_of(key->hash);
    struct chain chain = chain_from(home_of(op->t, key->hash));
    do {
        if (LOAD(*entry_at(op, chain)) >> 48 != tag)
            continue;
        struct slot_ref ref = locate_entry(op, chain);
        struct shape shape = shape_of(LOAD(ref.record->shape));
        if (shape.key_bytes == key->length &&
            memcmp(key_in(ref.record, shape), key->bytes, key->length) == 0)
            return ref;
    } while (next_slot(op, &chain));
    return (struct slot_ref){0};
}

/* The slot whose entry leads to exactly this position; an empty reference if the record there is
 * dead. */
struct slot_ref find_exact(const struct operation *op, bool main_log, uint64_t position,
                           const struct kv_record *record) {
    struct shape shape = shape_of(LOAD(record->shape));
    struct kv_key key = {.bytes = key_in(record, shape), .length = shape.key_bytes};
    kv_locate(op->t, &key);
    uint64_t wanted = make_entry(key.hash, main_log, position);
    struct chain chain = chain_from(home_of(op->t, key.hash));
    do {
        if (LOAD(*entry_at(op, chain)) == wanted)
            return locate_entry(op, chain);
    } while (next_slot(op, &chain));
    return (struct slot_ref){0};
}

/* Gives back empty overflow buckets at a chain's end.
 *
 * Otherwise every chain that was ever long would keep its buckets, and in time the pool would be
 * used up while most of its buckets are empty. A reader inside such a bucket is not misled, even
 * when the bucket has joined another chain by then: its key was in a slot that the reader has
 * passed, or was missing at some time since the reader began. That holds only for the last bucket:
 * from any other, the reader would still have to follow the link. */
static void trim_chain(struct operation *op, uint32_t home) {
    struct kv_shard *h = op->header;
    for (;;) {
        struct kv_bucket *before = NULL, *last = bucket_at(op->t, op->shard, home);
        uint32_t number = 0;
        for (uint32_t next; (next = LOAD(last->next)) != 0; number = next) {
            before = last;
            last = bucket_at(op->t, op->shard, op->t->geometry.buckets + next - 1);
        }
        for (uint32_t slot = 0; slot < KV_BUCKET_ENTRIES; slot++)
            if (LOAD(last->entry[slot]) != 0)
                return;
        if (before == NULL)
            return;
        STORE_RELEASE(before->next, 0);
        STORE(last->next_free, LOAD(h->overflow_free));
        STORE(h->overflow_free, number);
    }
}

static enum kv_event_kind event_for(enum kv_statistic reason) {
    if (reason == KV_DELETES)
        return KV_EVENT_DELETE;
    return reason == KV_EXPIRATIONS ? KV_EVENT_EXPIRE : KV_EVENT_EVICT;
}

/* A record that a flush has dropped is not reported again: the flush event covered it. */
void unlink_slot(struct operation *op, const struct slot_ref *ref, enum kv_statistic reason) {
    bool flushed = LOAD(ref->record->cas) <= LOAD(op->header->flush_mark);
    STORE_RELEASE(*ref->entry, 0);
    if (!flushed) {
        account(op, ref->main_log, -(int64_t)ref->length, -1);
        if (reason != KV_WITHDRAWALS) /* the key is being written: that emits its own event */
            emit(op, event_for(reason), ref->record);
    }
    if (!flushed || reason != KV_EXPIRATIONS)
        count(op->header, reason);
    if (ref->in_overflow)
        trim_chain(op, ref->home);
}

/* Puts a new bucket at a chain's end; NULL if the pool is empty. It takes the bucket first and then
 * links it, so a bucket that a chain has is never given out again. */
static struct kv_bucket *grow_chain(struct operation *op, uint32_t last, uint32_t *number) {
    struct kv_shard *h = op->header;
    uint32_t next = LOAD(h->overflow_free);
    if (next != 0) {
        struct kv_bucket *freed =
            bucket_at(op->t, op->shard, op->t->geometry.buckets + next - 1);
        STORE_RELEASE(h->overflow_free, LOAD(freed->next_free));
    } else if (LOAD(h->overflow_used) < op->t->geometry.overflow) {
        next = LOAD(h->overflow_used) + 1;
        STORE_RELEASE(h->overflow_used, next);
    } else {
        return NULL;
    }
    STORE_RELEASE(bucket_at(op->t, op->shard, last)->next, next);
    *number = op->t->geometry.buckets + next - 1;
    return bucket_at(op->t, op->shard, *number);
}

/* A free slot in the key's chain, its hint cleared: an empty one, else a new overflow bucket's,
 * else that of the record that is easiest to spare: one that is gone, then S's oldest, then M's. */
struct slot_ref claim_slot(struct operation *op, const struct kv_key *key) {
    struct chain chain = chain_from(home_of(op->t, key->hash)), last;
    struct chain victim = chain;
    uint64_t victim_rank = 0;
    do {
        last = chain;
        if (LOAD(*entry_at(op, chain)) == 0) {
            struct slot_ref empty = empty_slot(op, chain);
            STORE(*empty.hint, 0);
            return empty;
        }
        struct slot_ref ref = locate_entry(op, chain);
        struct ring ring = ring_of(op->t, op->shard, ref.main_log);
        uint64_t age = LOAD(*ring.head) - ref.position;
        uint64_t rank = age | (uint64_t)!ref.main_log << 62 |
                        (uint64_t)is_gone(op, ref.record) << 63;
        if (rank >= victim_rank) {
            victim = chain;
            victim_rank = rank;
        }
    } while (next_slot(op, &chain));

    struct chain claimed = {last.home, 0, 0};
    if (grow_chain(op, last.bucket, &claimed.bucket) == NULL) {
        struct slot_ref ref = locate_entry(op, victim);
        enum kv_statistic reason = victim_rank >> 63 ? KV_EXPIRATIONS : KV_INDEX_EVICTIONS;
        ref.in_overflow = false; /* its slot is used again at once: nothing to trim */
        unlink_slot(op, &ref, reason);
        claimed = victim;
    }
    struct slot_ref slot = empty_slot(op, claimed);
    STORE(*slot.hint, 0);
    return slot;
}

/* Unlinks the records that are gone in a bucket and its overflow chain. */
void sweep_chain(struct operation *op, uint32_t bucket) {
    struct chain chain = chain_from(bucket);
    do {
        if (LOAD(*entry_at(op, chain)) == 0)
            continue;
        struct slot_ref ref = locate_entry(op, chain);
        ref.in_overflow = false; /* the walk goes on: trim afterwards */
        if (is_gone(op, ref.record))
            unlink_slot(op, &ref, KV_EXPIRATIONS);
    } while (next_slot(op, &chain));
    trim_chain(op, bucket);
}
