/* The index under the lock: finding, claiming and giving up a key's slot.
 *
 * An entry never changes its slot while its key is alive, and what readers follow is changed by one
 * store at a time. */
#include "places.h"

bool is_gone(const struct operation *op, const struct kv_record *record) {
    uint64_t expiry_ms = expiry_of(record, shape_of(LOAD(record->shape)));
    return gone(expiry_ms, LOAD(record->cas), LOAD(op->header->flush_mark), op->now_ms);
}

/* Tells the feed, if there is one, what has just become of a record. */
void tell(const struct operation *op, enum kv_event_kind kind, const struct kv_record *record) {
    if (op->t->feed == NULL)
        return;
    struct shape shape = shape_of(LOAD(record->shape));
    kv_feed_emit(op->t->feed, kind, key_in(record, shape), shape.key_bytes,
                 shape.flags & KV_FLAG_TEXT_KEY, LOAD(record->cas), op->now_ms);
}

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

static struct place empty_place(const struct operation *op, struct chain chain) {
    return (struct place){.entry = entry_at(op, chain),
                          .hint = hint_at(op->t, op->shard, chain.bucket, chain.slot),
                          .home = chain.home,
                          .in_overflow = chain.bucket >= op->t->geometry.buckets};
}

static struct place locate_entry(const struct operation *op, struct chain chain) {
    struct place place = empty_place(op, chain);
    uint64_t word = LOAD(*place.entry);
    place.main_log = entry_in_main(word);
    struct ring ring = ring_of(op->t, op->shard, place.main_log);
    uint64_t tail = LOAD(*ring.tail);
    place.position = tail + entry_distance(word, tail);
    place.record = record_at(&ring, place.position);
    place.length = record_length(shape_of(LOAD(place.record->shape)));
    return place;
}

/* The place of a key; of nothing if it is not there. Says nothing of expiry. */
struct place find_place(const struct operation *op, const struct kv_key *key) {
    uint64_t tag = tag_of(key->hash);
    struct chain chain = chain_from(home_of(op->t, key->hash));
    do {
        if (LOAD(*entry_at(op, chain)) >> 48 != tag)
            continue;
        struct place place = locate_entry(op, chain);
        struct shape shape = shape_of(LOAD(place.record->shape));
        if (shape.key_bytes == key->length &&
            memcmp(key_in(place.record, shape), key->bytes, key->length) == 0)
            return place;
    } while (next_slot(op, &chain));
    return (struct place){0};
}

/* The place whose entry leads to exactly this position; of nothing if the record there is dead. */
struct place find_exact(const struct operation *op, bool main_log, uint64_t position,
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
    return (struct place){0};
}

/* The derived counters leave out what a flush has ended. */
void account(struct operation *op, bool main_log, int64_t bytes, int items) {
    struct kv_shard *h = op->header;
    if (main_log)
        STORE(h->main_live, LOAD(h->main_live) + (uint64_t)bytes);
    else
        STORE(h->small_live, LOAD(h->small_live) + (uint64_t)bytes);
    STORE(h->items, LOAD(h->items) + (uint64_t)(int64_t)items);
}

/* Gives empty overflow buckets at a chain's end back.
 *
 * Without that every chain that was ever long would keep its bucket, and in time the pool would be
 * empty while most of its buckets are, too. A reader that is inside such a bucket is not misled,
 * even when the bucket has joined another chain by then: what it looks for was in a slot that it
 * has passed, or not there at some time since it began. That holds for the last bucket alone: from
 * any other, it would still have to follow the link. */
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

/* Of what a flush has ended, the flush has told. */
void unlink_place(struct operation *op, const struct place *place, enum kv_statistic reason) {
    bool flushed = LOAD(place->record->cas) <= LOAD(op->header->flush_mark);
    STORE_RELEASE(*place->entry, 0);
    if (!flushed) {
        account(op, place->main_log, -(int64_t)place->length, -1);
        if (reason != KV_WITHDRAWALS) /* its key is being written, which is told when it is done */
            tell(op, event_for(reason), place->record);
    }
    if (!flushed || reason != KV_EXPIRATIONS)
        count(op->header, reason);
    if (place->in_overflow)
        trim_chain(op, place->home);
}

/* A new bucket at a chain's end, or NULL if the pool is empty. First it is taken, then linked: one
 * that a chain has is never given out again. */
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
 * else that of the record which can be spared best: a gone one, then S's, then M's oldest. */
struct place claim_slot(struct operation *op, const struct kv_key *key) {
    struct chain chain = chain_from(home_of(op->t, key->hash)), last;
    struct chain victim = chain;
    uint64_t victim_rank = 0;
    do {
        last = chain;
        if (LOAD(*entry_at(op, chain)) == 0) {
            struct place empty = empty_place(op, chain);
            STORE(*empty.hint, 0);
            return empty;
        }
        struct place place = locate_entry(op, chain);
        struct ring ring = ring_of(op->t, op->shard, place.main_log);
        uint64_t age = LOAD(*ring.head) - place.position;
        uint64_t rank = age | (uint64_t)!place.main_log << 62 |
                        (uint64_t)is_gone(op, place.record) << 63;
        if (rank >= victim_rank) {
            victim = chain;
            victim_rank = rank;
        }
    } while (next_slot(op, &chain));

    struct chain claimed = {last.home, 0, 0};
    if (grow_chain(op, last.bucket, &claimed.bucket) == NULL) {
        struct place place = locate_entry(op, victim);
        enum kv_statistic reason = victim_rank >> 63 ? KV_EXPIRATIONS : KV_INDEX_EVICTIONS;
        place.in_overflow = false; /* its slot is used again at once: nothing to trim */
        unlink_place(op, &place, reason);
        claimed = victim;
    }
    struct place slot = empty_place(op, claimed);
    STORE(*slot.hint, 0);
    return slot;
}

/* Unlinks what is gone in a bucket and its overflow chain. */
void sweep_chain(struct operation *op, uint32_t bucket) {
    struct chain chain = chain_from(bucket);
    do {
        if (LOAD(*entry_at(op, chain)) == 0)
            continue;
        struct place place = locate_entry(op, chain);
        place.in_overflow = false; /* not under our feet: afterwards */
        if (is_gone(op, place.record))
            unlink_place(op, &place, KV_EXPIRATIONS);
    } while (next_slot(op, &chain));
    trim_chain(op, bucket);
}
