/* The invariants of a shard, each checked by one function. The caller holds the lock, or knows
 * that no process writes. Whatever it finds, it stays inside the shard.
 *
 * V1 tail <= head <= tail + capacity, aligned, far from overflow. M keeps its reserve: R, see
 *    reserve_for in evict.c.
 * V2 walking from tail by length lands exactly on head; no record crosses the ring's end.
 * V3 every entry leads to a record that V2 found.
 * V4 an entry's tag and chain are those of its record's key.
 * V5 lengths fit.
 * V6 one entry a key.
 * V7 chains end; each overflow bucket below the pointer is linked once or free once; the free ones
 *    and those beyond the pointer are empty.
 * V8 live bytes and items equal a recount; no record of M is longer than the longest, which is not
 *    above the largest.
 * V9 neither a cas nor the flush mark is above the sequence, which is far from overflow. */
#include "operation.h"

struct report {
    struct kv_violation *violations;
    uint32_t count;
    uint32_t max;
};

static void violate(struct report *report, uint32_t rule, uint64_t where) {
    if (report->count < report->max)
        report->violations[report->count] = (struct kv_violation){rule, 0, where};
    report->count++;
}

#define RECORDS_AHEAD 8

/* Scratch: a bit for each offset where a record of S or M may begin, and one for each overflow
 * bucket. */
static uint64_t starts_bytes(uint64_t capacity) { return capacity / KV_ALIGNMENT / 8 + 1; }

uint64_t kv_verify_scratch_bytes(const struct kv_table *t) {
    return starts_bytes(t->geometry.small_capacity) + starts_bytes(t->geometry.main_capacity) +
           t->geometry.overflow / 8 + 1;
}

static bool test_and_set(uint8_t *bits, uint64_t index) {
    uint8_t bit = (uint8_t)(1u << (index & 7));
    bool was = (bits[index >> 3] & bit) != 0;
    bits[index >> 3] |= bit;
    return was;
}

static bool test(const uint8_t *bits, uint64_t index) {
    return (bits[index >> 3] >> (index & 7) & 1) != 0;
}

/* What was found, to compare with the header, or with what must be free. */
struct tally {
    uint64_t live[2];
    uint64_t items;
    uint64_t longest[2]; /* record of each log, dead or alive */
    uint64_t pad[2];     /* bytes of each log's pad */
    bool tail_alive;     /* an entry leads to the record at M's tail */
};

/* V1 without R, V2, V5, and the records' part of V9. Returns whether the log can be walked. */
static bool verify_log(struct kv_table *t, uint32_t shard, bool main_log, uint8_t *starts,
                       struct tally *tally, struct report *report) {
    struct ring ring = ring_of(t, shard, main_log);
    uint64_t tail = LOAD(*ring.tail), head = LOAD(*ring.head);
    uint64_t sequence = LOAD(shard_header(t, shard)->sequence);
    if (tail > head || head - tail > ring.capacity || tail % KV_ALIGNMENT ||
        head % KV_ALIGNMENT || head > SOUND_NUMBER_MAX) {
        violate(report, 1, tail);
        return false;
    }
    uint64_t position = tail;
    while (position < head) {
        uint64_t offset = ring_offset(position, ring.capacity, ring.reciprocal);
        struct kv_record *record = record_at(&ring, position);
        struct shape shape = shape_of(LOAD(record->shape));
        uint64_t length = record_length(shape);
        bool pad = (shape.flags & KV_FLAG_PAD) != 0;
        /* Records of one length often follow each other. A wrong guess does no harm. */
        __builtin_prefetch((const uint8_t *)record + RECORDS_AHEAD * length);
        if (length > ring.capacity - offset || length > head - position ||
            (pad && length != ring.capacity - offset)) {
            violate(report, 2, position);
            return false;
        }
        if (pad) {
            tally->pad[main_log] += length;
        } else {
            if (length > tally->longest[main_log])
                tally->longest[main_log] = length;
            if (shape.key_bytes == 0 || shape.key_bytes > KV_KEY_BYTES_MAX ||
                length > t->geometry.largest_record ||
                !value_fits(shape, tags_bytes(record, shape)))
                violate(report, 5, position);
            if (LOAD(record->cas) > sequence)
                violate(report, 9, position);
            test_and_set(starts, offset / KV_ALIGNMENT);
        }
        position += length;
    }
    return true;
}

/* V3: whether a record that V2 found begins at this position. */
static bool leads_to_start(const struct ring *ring, uint64_t position, const uint8_t *starts) {
    return position - LOAD(*ring->tail) < LOAD(*ring->head) - LOAD(*ring->tail) &&
           test(starts, ring_offset(position, ring->capacity, ring->reciprocal) / KV_ALIGNMENT);
}

/* V6: whether a later slot of the chain leads to the same key. */
static bool key_again(struct kv_table *t, uint32_t shard, uint32_t number, uint32_t slot,
                      uint8_t *const starts[2], const struct kv_record *record) {
    struct shape shape = shape_of(LOAD(record->shape));
    uint64_t tag = LOAD(bucket_at(t, shard, number)->entry[slot]) >> 48;
    for (uint32_t steps = 0; steps <= t->geometry.overflow; steps++) {
        struct kv_bucket *bucket = bucket_at(t, shard, number);
        while (++slot < KV_BUCKET_ENTRIES) {
            uint64_t entry = LOAD(bucket->entry[slot]);
            if (entry >> 48 != tag)
                continue;
            struct ring ring = ring_of(t, shard, entry_in_main(entry));
            uint64_t tail = LOAD(*ring.tail), distance = entry_distance(entry, tail);
            if (!leads_to_start(&ring, tail + distance, starts[entry_in_main(entry)]))
                continue; /* V3 reports that one */
            struct kv_record *other = record_at(&ring, tail + distance);
            struct shape second = shape_of(LOAD(other->shape));
            if (second.key_bytes == shape.key_bytes &&
                memcmp(key_in(other, second), key_in(record, shape), shape.key_bytes) == 0)
                return true;
        }
        uint32_t next = LOAD(bucket->next);
        if (next == 0 || next > t->geometry.overflow)
            return false;
        number = t->geometry.buckets + next - 1;
        slot = UINT32_MAX; /* ++ makes it the first */
    }
    return false;
}

/* V3, V4, V6 for one entry. */
static void verify_entry(struct kv_table *t, uint32_t shard, uint32_t home, uint32_t number,
                         uint32_t slot, uint8_t *const starts[2], struct tally *tally,
                         struct report *report) {
    uint64_t entry = LOAD(bucket_at(t, shard, number)->entry[slot]);
    bool main_log = entry_in_main(entry);
    struct ring ring = ring_of(t, shard, main_log);
    uint64_t tail = LOAD(*ring.tail), distance = entry_distance(entry, tail);
    uint64_t where = (uint64_t)number * KV_BUCKET_ENTRIES + slot;
    if (!leads_to_start(&ring, tail + distance, starts[main_log])) {
        violate(report, 3, where);
        return;
    }
    struct kv_record *record = record_at(&ring, tail + distance);
    struct shape shape = shape_of(LOAD(record->shape));
    if (shape.key_bytes == 0 || shape.key_bytes > KV_KEY_BYTES_MAX)
        return; /* V5 reported it */
    struct kv_key key = {.bytes = key_in(record, shape), .length = shape.key_bytes};
    kv_locate(t, &key);
    if (tag_of(key.hash) != entry >> 48 || home_of(t, key.hash) != home || key.shard != shard)
        violate(report, 4, where);
    if (key_again(t, shard, number, slot, starts, record))
        violate(report, 6, where);
    tally->tail_alive |= main_log && distance == 0;
    if (main_log && record_length(shape) > LOAD(shard_header(t, shard)->main_longest))
        violate(report, 8, where);
    if (LOAD(record->cas) > LOAD(shard_header(t, shard)->flush_mark)) {
        tally->live[main_log] += record_length(shape);
        tally->items++;
    }
}

/* V7, and the entries of all chains. */
static void verify_index(struct kv_table *t, uint32_t shard, uint8_t *const starts[2],
                         uint8_t *linked, struct tally *tally, struct report *report) {
    uint32_t used = LOAD(shard_header(t, shard)->overflow_used);
    if (used > t->geometry.overflow)
        violate(report, 7, used);
    for (uint32_t home = 0; home < t->geometry.buckets; home++) {
        uint32_t number = home;
        fetch_records(t, shard, (home + BUCKETS_AHEAD) % t->geometry.buckets);
        for (;;) {
            struct kv_bucket *bucket = bucket_at(t, shard, number);
            for (uint32_t slot = 0; slot < KV_BUCKET_ENTRIES; slot++)
                if (LOAD(bucket->entry[slot]) != 0)
                    verify_entry(t, shard, home, number, slot, starts, tally, report);
            uint32_t next = LOAD(bucket->next);
            if (next == 0)
                break;
            if (next > used || next > t->geometry.overflow || test_and_set(linked, next - 1)) {
                violate(report, 7, number);
                break;
            }
            number = t->geometry.buckets + next - 1;
        }
    }
}

static bool is_empty(struct kv_bucket *bucket) {
    for (uint32_t slot = 0; slot < KV_BUCKET_ENTRIES; slot++)
        if (LOAD(bucket->entry[slot]) != 0)
            return false;
    return LOAD(bucket->next) == 0;
}

/* V7 for the free list, in the same scratch, so that a bucket both linked and free is noticed; and
 * for the buckets that were never used, which will one day be linked as they are. */
static void verify_free(struct kv_table *t, uint32_t shard, uint8_t *linked,
                        struct report *report) {
    struct kv_shard *header = shard_header(t, shard);
    uint32_t next = LOAD(header->overflow_free);
    while (next != 0) {
        if (next > LOAD(header->overflow_used) || next > t->geometry.overflow ||
            test_and_set(linked, next - 1)) {
            violate(report, 7, next);
            return;
        }
        struct kv_bucket *bucket = bucket_at(t, shard, t->geometry.buckets + next - 1);
        if (!is_empty(bucket))
            violate(report, 7, next);
        next = LOAD(bucket->next_free);
    }
    for (uint32_t n = 0; n < t->geometry.overflow; n++) {
        bool used = n < LOAD(header->overflow_used);
        if (used ? !test(linked, n) : !is_empty(bucket_at(t, shard, t->geometry.buckets + n)))
            violate(report, 7, n + 1);
    }
}

/* The rest of V1: R, after the log and all entries were visited. */
static void verify_reserve(struct kv_table *t, uint32_t shard, const struct tally *tally,
                           struct report *report) {
    struct ring main = ring_of(t, shard, true);
    uint64_t tail = LOAD(*main.tail), used = LOAD(*main.head) - tail;
    if (used == 0)
        return;
    struct shape last = shape_of(LOAD(record_at(&main, tail)->shape));
    bool dead = !(last.flags & KV_FLAG_PAD) && !tally->tail_alive;
    uint64_t spared = tally->pad[true] + (dead ? record_length(last) : 0);
    if (used + 2 * tally->longest[true] > main.capacity + spared)
        violate(report, 1, tail);
}

/* Returns how many violations there are, and stores the first violations_max of them. */
uint32_t kv_verify(struct kv_table *t, uint32_t shard, uint8_t *zeroed_scratch,
                   struct kv_violation *violations, uint32_t violations_max) {
    struct kv_shard *header = shard_header(t, shard);
    struct report report = {violations, 0, violations_max};
    struct tally tally = {0};
    uint8_t *small_starts = zeroed_scratch;
    uint8_t *main_starts = small_starts + starts_bytes(t->geometry.small_capacity);
    uint8_t *linked = main_starts + starts_bytes(t->geometry.main_capacity);
    uint8_t *const starts[2] = {small_starts, main_starts};

    bool walked = verify_log(t, shard, false, small_starts, &tally, &report);
    walked = verify_log(t, shard, true, main_starts, &tally, &report) && walked;
    if (LOAD(header->flush_mark) > LOAD(header->sequence) ||
        LOAD(header->sequence) > SOUND_NUMBER_MAX)
        violate(&report, 9, LOAD(header->flush_mark));
    if (LOAD(header->main_longest) > t->geometry.largest_record)
        violate(&report, 8, LOAD(header->main_longest));
    if (!walked)
        return report.count; /* nothing else can be trusted */
    verify_index(t, shard, starts, linked, &tally, &report);
    verify_free(t, shard, linked, &report);
    verify_reserve(t, shard, &tally, &report);
    if (tally.live[false] != LOAD(header->small_live) ||
        tally.live[true] != LOAD(header->main_live))
        violate(&report, 8, tally.live[true]);
    if (tally.items != LOAD(header->items))
        violate(&report, 8, tally.items);
    return report.count;
}
