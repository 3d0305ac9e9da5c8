/* Lookup: from a key to its record, without a lock and without a store into the table.
 *
 * Why it may do without: a record is immutable from the moment that an entry points at it until
 * the log's tail has passed it, and its bytes are reused only after that. So a reader copies what
 * it wants and then looks at the tail once more (Boehm, "Can seqlocks get along with programming
 * language memory models?", MSPC 2012, on why the fence must stand between the two): if the tail
 * has not passed, what was copied is whole. An entry never changes its slot while its key is
 * alive, so not finding it is an answer too. */
#include "places.h"

#define RESTARTS_MAX 64

/* Hashing: after wyhash (Wang Yi, public domain): one 64 x 64 -> 128 bit multiplication for 16
 * bytes. Unlike there, all four secrets are random and of the instance alone, so that nobody can
 * choose keys that cancel them. */
static inline uint64_t mix(uint64_t a, uint64_t b) {
    kv_uint128 product = (kv_uint128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t load64(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

static inline uint64_t load32(const uint8_t *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

static uint64_t hash_bytes(const uint64_t secret[4], const uint8_t *p, uint32_t length) {
    uint64_t state = secret[0];
    uint64_t a, b;
    if (length <= 16) {
        if (length >= 8) {
            a = load64(p);
            b = load64(p + length - 8);
        } else if (length >= 4) {
            a = load32(p);
            b = load32(p + length - 4);
        } else {
            a = (uint64_t)p[0] << 16 | (uint64_t)p[length >> 1] << 8 | p[length - 1];
            b = 0;
        }
    } else {
        uint32_t left = length;
        for (; left > 16; left -= 16, p += 16)
            state = mix(load64(p) ^ secret[1], load64(p + 8) ^ state);
        a = load64(p + left - 16);
        b = load64(p + left - 8);
    }
    return mix(secret[2] ^ length, mix(a ^ secret[1], b ^ state) ^ secret[3]);
}

/* Fills in the key's hash and shard. The hash's bits: 16 shard, 32 bucket, 16 tag. */
void kv_locate(const struct kv_table *t, struct kv_key *key) {
    key->hash = hash_bytes(t->hash_key, key->bytes, key->length);
    key->shard = (uint32_t)(((key->hash >> 48) * t->geometry.shards) >> 16);
}

/* Looks at the record that an entry leads to. KV_CONTENDED: the tail has passed it. KV_REFUSED: a
 * shape that cannot be, which only a damaged table has. */
static inline enum kv_status look(const struct kv_table *t, uint32_t shard, uint64_t entry,
                                  struct kv_view *view) {
    struct ring ring = ring_of(t, shard, entry_in_main(entry));
    uint64_t tail = LOAD_ACQUIRE(*ring.tail);
    uint64_t distance = entry_distance(entry, tail);
    if (distance >= ring.capacity || tail > POSITION_MAX)
        return KV_CONTENDED;
    view->tail = ring.tail;
    view->position = tail + distance;
    uint64_t place = place_of(view->position, ring.capacity, ring.reciprocal);
    const struct kv_record *record = (const struct kv_record *)(void *)(ring.bytes + place);
    if (ring.capacity - place < KV_RECORD_HEADER_BYTES || place % KV_ALIGNMENT != 0)
        return kv_view_intact(view) ? KV_REFUSED : KV_CONTENDED;
    struct shape shape = shape_of(LOAD(record->shape));
    uint64_t offset = value_offset(shape);
    if (ring.capacity - place < KV_RECORD_HEADER_BYTES + offset + shape.value_bytes ||
        shape.flags & KV_FLAG_PAD || shape.key_bytes == 0 || shape.key_bytes > KV_KEY_BYTES_MAX ||
        (shape.codec == KV_CODEC_COUNTER && shape.value_bytes != KV_COUNTER_BYTES))
        return kv_view_intact(view) ? KV_REFUSED : KV_CONTENDED;
    view->record = record;
    view->key = key_in(record, shape);
    view->value = record->bytes + offset;
    view->key_bytes = shape.key_bytes;
    view->value_bytes = shape.value_bytes;
    view->codec = shape.codec;
    view->flags = shape.flags;
    view->expiry_ms = expiry_of(record, shape);
    view->cas = LOAD(record->cas);
    return KV_DONE;
}

/* One pass over the chain. KV_CONTENDED: a writer overtook it, start again. */
static enum kv_status search(const struct kv_table *t, const struct kv_key *key,
                             struct kv_view *view) {
    uint64_t tag = tag_of(key->hash);
    uint32_t number = home_of(t, key->hash);
    for (uint32_t steps = 0; steps <= t->geometry.overflow; steps++) {
        struct kv_bucket *bucket = bucket_at(t, key->shard, number);
        for (uint32_t slot = 0; slot < KV_BUCKET_ENTRIES; slot++) {
            uint64_t entry = LOAD_ACQUIRE(bucket->entry[slot]);
            if (entry >> 48 != tag)
                continue;
            enum kv_status status = look(t, key->shard, entry, view);
            if (status == KV_CONTENDED)
                return KV_CONTENDED;
            if (status == KV_DONE && view->key_bytes == key->length &&
                memcmp(view->key, key->bytes, key->length) == 0) {
                view->hint = hint_at(t, key->shard, number, slot);
                return KV_DONE;
            }
            /* Another key, unless its bytes were being reused while we looked. */
            if (!kv_view_intact(view))
                return KV_CONTENDED;
        }
        uint32_t next = LOAD_ACQUIRE(bucket->next);
        if (next == 0 || next > t->geometry.overflow)
            return KV_MISSING;
        number = t->geometry.buckets + next - 1;
    }
    return KV_MISSING;
}

/* Finds the record of a key. What the view points at must be copied and is valid only if
 * kv_view_intact says so after the copy; if it does not, find again. Expiry and the flush mark
 * are left to the caller, who alone knows the time.
 *
 * Returns KV_DONE, KV_MISSING, or KV_CONTENDED after many overtakings. */
enum kv_status kv_find(const struct kv_table *t, const struct kv_key *key, struct kv_view *view) {
    for (int restarts = 0; restarts < RESTARTS_MAX; restarts++) {
        enum kv_status status = search(t, key, view);
        if (status != KV_CONTENDED)
            return status;
    }
    return KV_CONTENDED;
}

bool kv_view_intact(const struct kv_view *view) {
    atomic_thread_fence(memory_order_acquire);
    return LOAD(*view->tail) <= view->position;
}

bool kv_view_flushed(const struct kv_table *t, uint32_t shard, const struct kv_view *view) {
    return view->cas <= LOAD_ACQUIRE(shard_header(t, shard)->flush_mark);
}

/* Notes a read for the eviction. A plain store that others may overwrite: it is a hint. */
void kv_view_touch(const struct kv_view *view) {
    uint8_t reads = LOAD(*view->hint);
    if (reads < 3)
        STORE(*view->hint, (uint8_t)(reads + 1));
}

void kv_count_read(const struct kv_table *t, bool hit) {
    struct kv_hints_header *header = (struct kv_hints_header *)(void *)t->hints;
    struct kv_reader_stripe *stripe = &header->stripe[t->stripe];
    if (hit)
        STORE(stripe->hits, LOAD(stripe->hits) + 1);
    else
        STORE(stripe->misses, LOAD(stripe->misses) + 1);
}

int64_t kv_view_counter(const struct kv_view *view) {
    const _Atomic uint64_t *cell = (const _Atomic uint64_t *)(const void *)view->value;
    return (int64_t)LOAD_ACQUIRE(*cell);
}

bool kv_next_in_bucket(const struct kv_table *t, uint32_t shard, uint32_t home,
                       struct kv_cursor *cursor, struct kv_view *view) {
    while (cursor->steps <= t->geometry.overflow) {
        uint32_t number = cursor->bucket ? cursor->bucket - 1 : home;
        struct kv_bucket *bucket = bucket_at(t, shard, number);
        while (cursor->slot < KV_BUCKET_ENTRIES) {
            /* A slot whose record was overtaken is read again: its key may still be alive. */
            for (int restarts = 0; restarts < RESTARTS_MAX; restarts++) {
                uint64_t entry = LOAD_ACQUIRE(bucket->entry[cursor->slot]);
                if (entry == 0)
                    break;
                enum kv_status status = look(t, shard, entry, view);
                if (status == KV_CONTENDED)
                    continue;
                if (status != KV_DONE)
                    break;
                view->hint = hint_at(t, shard, number, cursor->slot);
                cursor->slot++;
                return true;
            }
            cursor->slot++;
        }
        uint32_t next = LOAD_ACQUIRE(bucket->next);
        if (next == 0 || next > t->geometry.overflow)
            return false;
        cursor->bucket = t->geometry.buckets + next;
        cursor->slot = 0;
        cursor->steps++;
    }
    return false;
}
