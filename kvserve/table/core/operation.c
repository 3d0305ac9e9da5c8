/* One change of a shard: what it may spend, and what it emits to the feed. */
#include "operation.h"

struct operation begin(struct kv_table *t, uint32_t shard, uint64_t now_ms) {
    return (struct operation){
        .t = t,
        .header = shard_header(t, shard),
        .shard = shard,
        .now_ms = now_ms,
        .budget = {CLEAN_COPIES_MAX, REINSERTIONS_MAX, COPIED_BYTES_MAX, COPIED_BYTES_MAX},
    };
}

/* Emits what has just happened to a record, if there is a feed. */
void emit(const struct operation *op, enum kv_event_kind kind, const struct kv_record *record) {
    if (op->t->feed == NULL)
        return;
    struct shape shape = shape_of(LOAD(record->shape));
    kv_feed_emit(op->t->feed, kind, key_in(record, shape), shape.key_bytes,
                 shape.flags & KV_FLAG_TEXT_KEY, LOAD(record->cas), op->now_ms);
}
