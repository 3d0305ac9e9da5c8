/* Repairs a shard after an owner died inside its lock.
 *
 * The order of stores leaves the table whole at every instruction, except that one record may have
 * been published and not yet counted into its log: the head is raised over it. What is derived from
 * the table may be off, too: the counters of live bytes and items, and the list of free overflow
 * buckets. A statistic may have lost one count. A second repair changes nothing, so a successor may
 * die in it, too. */
#include "operation.h"

/* The overflow buckets that no chain links are free. They are empty, as at all times. */
static void recover_overflow(struct kv_table *t, uint32_t shard) {
    struct kv_shard *header = shard_header(t, shard);
    uint32_t used = 0;
    for (uint32_t number = 0; number < bucket_count(t); number++) {
        uint32_t next = LOAD(bucket_at(t, shard, number)->next);
        if (next > used && next <= t->geometry.overflow)
            used = next;
    }
    /* Mark all below as free, unmark what is linked, then thread the list through the marked. */
    struct kv_bucket *overflow = bucket_at(t, shard, t->geometry.buckets);
    for (uint32_t number = 0; number < used; number++)
        STORE(overflow[number].next_free, UINT32_MAX);
    for (uint32_t number = 0; number < bucket_count(t); number++) {
        uint32_t next = LOAD(bucket_at(t, shard, number)->next);
        if (next != 0 && next <= used)
            STORE(overflow[next - 1].next_free, 0);
    }
    uint32_t first_free = 0;
    for (uint32_t number = used; number > 0; number--) {
        if (LOAD(overflow[number - 1].next_free) != UINT32_MAX)
            continue;
        STORE(overflow[number - 1].next_free, first_free);
        first_free = number;
    }
    STORE(header->overflow_used, used);
    STORE(header->overflow_free, first_free);
}

/* An owner that dies between an entry and the head leaves one record beyond the head: right there,
 * or behind a pad that ends the lap. Anything else there is damage, which only verify reports. A
 * record's header fits at `position`, see header_fits. */
static void raise_head(const struct ring *ring, uint64_t position) {
    uint64_t tail = LOAD(*ring->tail), head = LOAD(*ring->head);
    if (position < head || head < tail || head % KV_ALIGNMENT != 0)
        return;
    if (position != head) {
        uint64_t rest = bytes_to_wrap(ring, head);
        struct shape pad = shape_of(LOAD(record_at(ring, head)->shape));
        if (position != head + rest || !(pad.flags & KV_FLAG_PAD) || record_length(pad) != rest)
            return;
    }
    struct shape shape = shape_of(LOAD(record_at(ring, position)->shape));
    uint64_t length = record_length(shape);
    if (shape.flags & KV_FLAG_PAD || length > bytes_to_wrap(ring, position) ||
        position + length - tail > ring->capacity)
        return;
    publish_head(ring, position, length);
}

void kv_recover(struct kv_table *t, uint32_t shard) {
    struct kv_shard *header = shard_header(t, shard);
    uint64_t flush_mark = LOAD(header->flush_mark);
    uint64_t live[2] = {0, 0}, items = 0;
    for (uint32_t number = 0; number < bucket_count(t); number++) {
        struct kv_bucket *bucket = bucket_at(t, shard, number);
        for (uint32_t slot = 0; slot < KV_BUCKET_ENTRIES; slot++) {
            uint64_t entry = LOAD(bucket->entry[slot]);
            if (entry == 0)
                continue;
            bool main_log = entry_in_main(entry);
            struct ring ring = ring_of(t, shard, main_log);
            uint64_t tail = LOAD(*ring.tail), distance = entry_distance(entry, tail);
            uint64_t position = tail + distance;
            if (tail > POSITION_MAX || distance >= ring.capacity || !header_fits(&ring, position))
                continue; /* the table is damaged, which only verify reports */
            raise_head(&ring, position);
            struct kv_record *record = record_at(&ring, position);
            if (LOAD(record->cas) <= flush_mark)
                continue;
            live[main_log] += record_length(shape_of(LOAD(record->shape)));
            items++;
        }
    }
    STORE(header->small_live, live[false]);
    STORE(header->main_live, live[true]);
    STORE(header->items, items);
    recover_overflow(t, shard);
    count(header, KV_LOCK_RECOVERIES);
}
