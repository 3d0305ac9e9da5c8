/* After an owner died inside the lock: what it may have left undone, done.
 *
 * The order of stores leaves the table whole at every instruction. Only what is derived from it
 * may be off: the counters of live bytes and items, and an overflow bucket that was given out but
 * not linked. The statistics may have lost one. Running it twice does the same as once, so a
 * successor may die in it too. */
#include "places.h"

void kv_recover(struct kv_table *t, uint32_t shard) {
    struct kv_shard *header = shard_header(t, shard);
    uint64_t flush_mark = LOAD(header->flush_mark);
    uint64_t live[2] = {0, 0}, items = 0;
    uint32_t linked = 0;
    for (uint32_t number = 0; number < bucket_count(t); number++) {
        struct kv_bucket *bucket = bucket_at(t, shard, number);
        /* Overflow buckets that nobody links are empty: they are never unlinked. */
        uint32_t next = LOAD(bucket->next);
        if (next > linked && next <= t->geometry.overflow)
            linked = next;
        for (uint32_t slot = 0; slot < KV_BUCKET_ENTRIES; slot++) {
            uint64_t entry = LOAD(bucket->entry[slot]);
            if (entry == 0)
                continue;
            bool main_log = entry_in_main(entry);
            struct ring ring = ring_of(t, shard, main_log);
            uint64_t tail = LOAD(*ring.tail);
            struct kv_record *record = record_at(&ring, tail + entry_distance(entry, tail));
            if (LOAD(record->cas) <= flush_mark)
                continue;
            live[main_log] += record_length(shape_of(LOAD(record->shape)));
            items++;
        }
    }
    STORE(header->small_live, live[false]);
    STORE(header->main_live, live[true]);
    STORE(header->items, items);
    STORE(header->overflow_used, linked);
    count(header, KV_LOCK_RECOVERIES);
}
