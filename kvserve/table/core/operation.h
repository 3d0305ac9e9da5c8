/* One change of a shard, inside its lock: what store.c, index.c, evict.c and log.c share. */
#ifndef KV_OPERATION_H
#define KV_OPERATION_H

#include "access.h"
#include "feed.h"

/* An entry and the record that it leads to. */
struct slot_ref {
    _Atomic uint64_t *entry; /* NULL: there is none */
    _Atomic uint8_t *hint;
    struct kv_record *record;
    uint64_t position;
    uint64_t length;
    uint32_t home; /* the bucket where its chain begins */
    bool main_log;
    bool in_overflow;
};

#define CLEAN_COPIES_MAX 128
#define REINSERTIONS_MAX 32
#define COPIED_BYTES_MAX (256u * 1024u)

/* What one operation may still spend on keeping records that are in its way. */
struct budget {
    uint32_t clean_copies;
    uint32_t reinsertions;
    uint64_t clean_bytes;
    uint64_t reinsertion_bytes;
};

struct operation {
    struct kv_table *t;
    struct kv_shard *header;
    uint32_t shard;
    uint64_t now_ms;
    struct budget budget;
    const _Atomic uint64_t *spared; /* an entry that must not be evicted: it is being overwritten */
    uint64_t ending; /* bytes of its record, if that is in M: dead once the new one is published */
};

static inline bool is_gone(const struct operation *op, const struct kv_record *record) {
    struct shape shape = shape_of(LOAD(record->shape));
    uint64_t expiry_ms = expiry_of(record, shape);
    return gone(expiry_ms, LOAD(record->cas), LOAD(op->header->flush_mark), op->now_ms) ||
           (shape.flags & KV_FLAG_TAGGED && kv_record_lost_tags(op->t, record));
}

/* Updates the derived counters, which leave out the records that a flush dropped. */
static inline void account(struct operation *op, bool main_log, int64_t bytes, int items) {
    struct kv_shard *h = op->header;
    if (main_log)
        STORE(h->main_live, LOAD(h->main_live) + (uint64_t)bytes);
    else
        STORE(h->small_live, LOAD(h->small_live) + (uint64_t)bytes);
    STORE(h->items, LOAD(h->items) + (uint64_t)(int64_t)items);
}

/* operation.c */
struct operation begin(struct kv_table *t, uint32_t shard, uint64_t now_ms);
void emit(const struct operation *op, enum kv_event_kind kind, const struct kv_record *record);

/* log.c */
uint64_t bytes_to_wrap(const struct ring *ring, uint64_t position);
uint64_t room_needed(const struct ring *ring, uint64_t length);
bool fits(const struct ring *ring, uint64_t reserve, uint64_t length);
struct kv_record *append(const struct ring *ring, uint64_t length, uint64_t *position);
void publish_head(const struct ring *ring, uint64_t position, uint64_t length);
void publish_tail(const struct ring *ring, uint64_t position);

/* index.c */
struct slot_ref find_slot(const struct operation *op, const struct kv_key *key);
struct slot_ref find_exact(const struct operation *op, bool main_log, uint64_t position,
                           const struct kv_record *record);
struct slot_ref claim_slot(struct operation *op, const struct kv_key *key);
void unlink_slot(struct operation *op, const struct slot_ref *ref, enum kv_statistic reason);
void sweep_chain(struct operation *op, uint32_t bucket);

/* evict.c */
void make_room(struct operation *op, bool main_log, uint64_t length);
bool ghost_take(const struct operation *op, uint64_t hash);

#endif
