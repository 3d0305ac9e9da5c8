/* Where things lie in the segments, and how to read the words that lie there. Core files include
 * it, and the skin does by way of view.h.
 *
 * Each load and store names its order: acquire and release where another process follows along
 * without the lock, relaxed where the lock orders them. */
#ifndef KV_ACCESS_H
#define KV_ACCESS_H

#include <string.h>

#include "table.h"

#define LOAD(field) atomic_load_explicit(&(field), memory_order_relaxed)
#define LOAD_ACQUIRE(field) atomic_load_explicit(&(field), memory_order_acquire)
#define STORE(field, value) atomic_store_explicit(&(field), (value), memory_order_relaxed)
#define STORE_RELEASE(field, value) atomic_store_explicit(&(field), (value), memory_order_release)

/* One of a shard's two logs, with all that is needed to walk it. */
struct ring {
    _Atomic uint64_t *tail;
    _Atomic uint64_t *head;
    _Atomic uint64_t *live;
    uint8_t *bytes;
    uint64_t capacity;
    uint64_t reciprocal;
};

static inline struct kv_superblock *superblock(const struct kv_table *t) {
    return (struct kv_superblock *)(void *)t->base;
}

static inline uint8_t *shard_base(const struct kv_table *t, uint32_t shard) {
    return t->base + KV_SUPERBLOCK_BYTES + shard * t->geometry.shard_bytes;
}

static inline struct kv_shard *shard_header(const struct kv_table *t, uint32_t shard) {
    return (struct kv_shard *)(void *)shard_base(t, shard);
}

/* Home buckets are 0 to buckets - 1, the overflow buckets follow. */
static inline struct kv_bucket *bucket_at(const struct kv_table *t, uint32_t shard,
                                          uint32_t bucket) {
    return (struct kv_bucket *)(void *)(shard_base(t, shard) + KV_SHARD_HEADER_BYTES) + bucket;
}

static inline uint32_t bucket_count(const struct kv_table *t) {
    return t->geometry.buckets + t->geometry.overflow;
}

static inline _Atomic uint8_t *hint_at(const struct kv_table *t, uint32_t shard, uint32_t bucket,
                                       uint32_t slot) {
    uint64_t number = (uint64_t)shard * bucket_count(t) + bucket;
    return (_Atomic uint8_t *)t->hints + KV_HINTS_HEADER_BYTES + number * KV_HINTS_A_BUCKET + slot;
}

static inline struct kv_ghost_line *ghost_at(const struct kv_table *t, uint32_t shard,
                                             uint32_t line) {
    uint8_t *after_index = (uint8_t *)bucket_at(t, shard, bucket_count(t));
    return (struct kv_ghost_line *)(void *)after_index + line;
}

static inline uint8_t *small_bytes(const struct kv_table *t, uint32_t shard) {
    return (uint8_t *)ghost_at(t, shard, t->geometry.ghost_lines);
}

static inline struct ring ring_of(const struct kv_table *t, uint32_t shard, bool main_log) {
    struct kv_shard *h = shard_header(t, shard);
    uint8_t *small = small_bytes(t, shard);
    if (main_log)
        return (struct ring){&h->main_tail,  &h->main_head,
                             &h->main_live,  small + t->geometry.small_capacity,
                             t->geometry.main_capacity, t->main_reciprocal};
    return (struct ring){&h->small_tail, &h->small_head,          &h->small_live,
                         small,          t->geometry.small_capacity, t->small_reciprocal};
}

__extension__ typedef unsigned __int128 kv_uint128;

/* position mod capacity. The estimate of the quotient is at most one too small while positions
 * stay below 2^63, and no machine writes long enough to exceed that. */
static inline uint64_t ring_offset(uint64_t position, uint64_t capacity, uint64_t reciprocal) {
    uint64_t quotient = (uint64_t)(((kv_uint128)position * reciprocal) >> 64);
    uint64_t offset = position - quotient * capacity;
    return offset >= capacity ? offset - capacity : offset;
}

static inline struct kv_record *record_at(const struct ring *ring, uint64_t position) {
    uint64_t offset = ring_offset(position, ring->capacity, ring->reciprocal);
    return (struct kv_record *)(void *)(ring->bytes + offset);
}

/* Whether a record's header can lie at this position. Only in a damaged table it cannot. */
static inline bool header_fits(const struct ring *ring, uint64_t position) {
    uint64_t offset = ring_offset(position, ring->capacity, ring->reciprocal);
    return offset % KV_ALIGNMENT == 0 && ring->capacity - offset >= KV_RECORD_HEADER_BYTES;
}

/* No count gets this far: a higher number is damage, and sums with it could overflow. A sound
 * table stays below three quarters of it, so that its writers may go on. */
#define POSITION_MAX ((uint64_t)INT64_MAX)
#define SOUND_NUMBER_MAX (POSITION_MAX / 4 * 3)

/* Entries. */

static inline uint64_t tag_of(uint64_t hash) {
    uint64_t tag = hash & 0xffff;
    return tag ? tag : 1;
}

static inline uint32_t home_of(const struct kv_table *t, uint64_t hash) {
    return (uint32_t)(((hash >> 16 & 0xffffffff) * t->geometry.buckets) >> 32);
}

static inline uint64_t make_entry(uint64_t hash, bool main_log, uint64_t position) {
    return tag_of(hash) << 48 | (main_log ? KV_ENTRY_MAIN : 0) |
           (position / KV_ALIGNMENT & KV_ENTRY_POSITION_MASK);
}

static inline bool entry_in_main(uint64_t entry) { return (entry & KV_ENTRY_MAIN) != 0; }

/* How far behind the tail's position the entry's record lies, in bytes. A distance beyond the
 * ring's capacity means that the tail has passed the record. */
static inline uint64_t entry_distance(uint64_t entry, uint64_t tail) {
    return ((entry - tail / KV_ALIGNMENT) & KV_ENTRY_POSITION_MASK) * KV_ALIGNMENT;
}

/* Prefetches the records of a bucket's entries, for walks that look at every record: without it
 * they wait for memory at each. A damaged entry leads somewhere in the ring, which does no harm. */
#define BUCKETS_AHEAD 4

static inline void fetch_records(const struct kv_table *t, uint32_t shard, uint32_t bucket) {
    for (uint32_t slot = 0; slot < KV_BUCKET_ENTRIES; slot++) {
        uint64_t entry = LOAD(bucket_at(t, shard, bucket)->entry[slot]);
        if (entry == 0)
            continue;
        struct ring ring = ring_of(t, shard, entry_in_main(entry));
        uint64_t tail = LOAD(*ring.tail);
        __builtin_prefetch(record_at(&ring, tail + entry_distance(entry, tail)));
    }
}

/* Records. */

struct shape {
    uint32_t value_bytes;
    uint32_t key_bytes;
    uint32_t codec;
    uint32_t flags;
};

static inline struct shape shape_of(uint64_t word) {
    return (struct shape){(uint32_t)word, (uint32_t)(word >> 32 & 0xffff),
                          (uint32_t)(word >> 48 & 0xff), (uint32_t)(word >> 56)};
}

static inline uint64_t make_shape(uint32_t key_bytes, uint32_t value_bytes, uint32_t codec,
                                  uint32_t flags) {
    return value_bytes | (uint64_t)key_bytes << 32 | (uint64_t)codec << 48 | (uint64_t)flags << 56;
}

static inline uint64_t align_up(uint64_t bytes) {
    return (bytes + KV_ALIGNMENT - 1) & ~(uint64_t)(KV_ALIGNMENT - 1);
}

/* Where key and value lie in a record's bytes. */
static inline uint64_t key_offset(struct shape s) {
    return s.flags & KV_FLAG_EXPIRY ? KV_EXPIRY_BYTES : 0;
}

static inline uint64_t value_offset(struct shape s) {
    return key_offset(s) + (s.codec == KV_CODEC_COUNTER ? align_up(s.key_bytes) : s.key_bytes);
}

static inline uint64_t record_length(struct shape s) {
    if (s.flags & KV_FLAG_PAD)
        return s.value_bytes;
    return align_up(KV_RECORD_HEADER_BYTES + value_offset(s) + s.value_bytes);
}

static inline const uint8_t *key_in(const struct kv_record *record, struct shape s) {
    return record->bytes + key_offset(s);
}

/* For a record that has an expiry. */
static inline _Atomic uint64_t *expiry_cell(const struct kv_record *record) {
    return (_Atomic uint64_t *)(uintptr_t)record->bytes;
}

static inline uint64_t expiry_of(const struct kv_record *record, struct shape s) {
    return s.flags & KV_FLAG_EXPIRY ? LOAD(*expiry_cell(record)) : 0;
}

/* How many bytes of a record's value are its tags; UINT64_MAX: impossible ones. Readers call it
 * once and go by what it says: the byte that counts them may be written again meanwhile. */
static inline uint64_t tags_bytes(const struct kv_record *record, struct shape s) {
    if (!(s.flags & KV_FLAG_TAGGED))
        return 0;
    if (s.value_bytes < KV_TAGS_HEAD_BYTES)
        return UINT64_MAX;
    const void *counter = record->bytes + value_offset(s);
    uint64_t count = LOAD(*(const _Atomic uint8_t *)counter);
    uint64_t bytes = KV_TAGS_HEAD_BYTES + count * sizeof(struct kv_tag);
    return count == 0 || count > KV_TAGS_MAX || bytes > s.value_bytes ? UINT64_MAX : bytes;
}

/* Whether a value can begin with so many bytes of tags, and if it is a counter, has a cell then. */
static inline bool value_fits(struct shape s, uint64_t tags) {
    return tags != UINT64_MAX &&
           (s.codec != KV_CODEC_COUNTER || s.value_bytes - tags == KV_COUNTER_BYTES);
}

/* For a record that is a counter. */
static inline _Atomic uint64_t *counter_cell(const struct kv_record *record, struct shape s) {
    return (_Atomic uint64_t *)(uintptr_t)(record->bytes + value_offset(s) +
                                           tags_bytes(record, s));
}

static inline bool gone(uint64_t expiry_ms, uint64_t cas, uint64_t flush_mark, uint64_t now_ms) {
    return cas <= flush_mark || (expiry_ms != 0 && expiry_ms <= now_ms);
}

static inline void count(struct kv_shard *shard, enum kv_statistic statistic) {
    STORE(shard->statistics[statistic], LOAD(shard->statistics[statistic]) + 1);
}

#endif
