/* Lookup: from a key to its record, without a lock and without a store into the table.
 *
 * Why it needs no lock: a record is immutable from the moment that an entry points at it until
 * the log's tail has passed it, and its bytes are reused only after that. So a reader copies what
 * it wants and then looks at the tail once more (Boehm, "Can seqlocks get along with programming
 * language memory models?", MSPC 2012, on why the fence must stand between the two): if the tail
 * has not passed the record, the copy is whole. An entry never changes its slot while its key is
 * alive, so a search that does not find it is right, too. */
#include "access.h"
#include "view.h"

#define RESTARTS_MAX 64

/* Hashing: after wyhash (Wang Yi, public domain): one 64 x 64 -> 128 bit multiplication for 16
 * bytes. Unlike there, all four secrets are random and of this instance alone, so that no client
 * can choose keys that cancel them. */
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

/* The hash of a key whose first `done` bytes are in the state already. */
static inline uint64_t hash_rest(const uint64_t secret[4], uint64_t state, uint32_t done,
                                 const uint8_t *p, uint32_t length) {
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
        uint32_t left = length - done;
        p += done;
        for (; left > 16; left -= 16, p += 16)
            state = mix(load64(p) ^ secret[1], load64(p + 8) ^ state);
        a = load64(p + left - 16);
        b = load64(p + left - 8);
    }
    return mix(secret[2] ^ length, mix(a ^ secret[1], b ^ state) ^ secret[3]);
}

/* The shard of a key with this hash. */
static inline uint32_t shard_of(const struct kv_table *t, uint64_t hash) {
    return (uint32_t)(((hash >> 48) * t->geometry.shards) >> 16);
}

/* Fills in the key's hash and shard. The hash's bits: 16 shard, 32 bucket, 16 tag. */
void kv_locate(const struct kv_table *t, struct kv_key *key) {
    key->hash = hash_rest(t->hash_key, t->hash_key[0], 0, key->bytes, key->length);
    key->shard = shard_of(t, key->hash);
}

/* Hashes what many keys begin with. */
void kv_hash_prefix(const struct kv_table *t, const uint8_t *bytes, uint32_t length,
                    struct kv_prefix_hash *prefix) {
    prefix->state = t->hash_key[0];
    for (prefix->bytes = 0; length - prefix->bytes >= 16; prefix->bytes += 16) {
        const uint8_t *p = bytes + prefix->bytes;
        prefix->state = mix(load64(p) ^ t->hash_key[1], load64(p + 8) ^ prefix->state);
    }
}

/* As kv_locate, for a key that is longer than the prefix that it begins with. */
void kv_locate_behind(const struct kv_table *t, const struct kv_prefix_hash *prefix,
                      struct kv_key *key) {
    key->hash = hash_rest(t->hash_key, prefix->state, prefix->bytes, key->bytes, key->length);
    key->shard = shard_of(t, key->hash);
}

/* Points the view at an entry's record, and at the tail that shows whether it is still there.
 * False: the tail has passed it. */
static inline bool aim(const struct kv_table *t, uint32_t shard, uint64_t entry,
                       struct kv_view *view) {
    struct ring ring = ring_of(t, shard, entry_in_main(entry));
    uint64_t tail = LOAD_ACQUIRE(*ring.tail);
    uint64_t distance = entry_distance(entry, tail);
    if (distance >= ring.capacity || tail > POSITION_MAX)
        return false;
    view->tail = ring.tail;
    view->position = tail + distance;
    uint64_t offset = ring_offset(view->position, ring.capacity, ring.reciprocal);
    view->rest_bytes = ring.capacity - offset;
    view->record = (const struct kv_record *)(void *)(ring.bytes + offset);
    return true;
}

/* Looks at the record that the view points at. KV_CONTENDED: the tail has passed it. KV_REFUSED: an
 * impossible shape, which only a damaged table has. */
static inline enum kv_status look(struct kv_view *view) {
    const struct kv_record *record = view->record;
    uint64_t rest = view->rest_bytes;
    if (rest < KV_RECORD_HEADER_BYTES || rest % KV_ALIGNMENT != 0)
        return kv_view_intact(view) ? KV_REFUSED : KV_CONTENDED;
    struct shape shape = shape_of(LOAD(record->shape));
    uint64_t offset = value_offset(shape);
    if (rest < KV_RECORD_HEADER_BYTES + offset + shape.value_bytes || shape.flags & KV_FLAG_PAD ||
        shape.key_bytes == 0 || shape.key_bytes > KV_KEY_BYTES_MAX)
        return kv_view_intact(view) ? KV_REFUSED : KV_CONTENDED;
    uint64_t tags = tags_bytes(record, shape);
    if (!value_fits(shape, tags))
        return kv_view_intact(view) ? KV_REFUSED : KV_CONTENDED;
    view->key = key_in(record, shape);
    view->tags = record->bytes + offset;
    view->value = view->tags + tags;
    view->key_bytes = shape.key_bytes;
    view->value_bytes = shape.value_bytes - (uint32_t)tags;
    view->codec = shape.codec;
    view->flags = shape.flags;
    view->expiry_ms = expiry_of(record, shape);
    view->cas = LOAD(record->cas);
    return KV_DONE;
}

static inline bool has_key(const struct kv_view *view, const struct kv_key *key) {
    return view->key_bytes == key->length && memcmp(view->key, key->bytes, key->length) == 0;
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
            enum kv_status status = aim(t, key->shard, entry, view) ? look(view) : KV_CONTENDED;
            if (status == KV_CONTENDED)
                return KV_CONTENDED;
            if (status == KV_DONE && has_key(view, key)) {
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

/* Finds the record of a key. Copy what the view points at: the copy is valid only if
 * kv_view_intact says so afterwards; if not, find again. The caller checks expiry and flush mark,
 * because only it knows the time.
 *
 * Returns KV_DONE, KV_MISSING, or KV_CONTENDED after writers overtook it many times. */
enum kv_status kv_find(const struct kv_table *t, const struct kv_key *key, struct kv_view *view) {
    for (int restarts = 0; restarts < RESTARTS_MAX; restarts++) {
        enum kv_status status = search(t, key, view);
        if (status != KV_CONTENDED)
            return status;
    }
    return KV_CONTENDED;
}

/* One pass over the chain where a tag's record must be. Points the view at it. */
static enum kv_status search_tag(const struct kv_table *t, const struct kv_tag *tag,
                                 struct kv_view *view) {
    uint32_t shard = shard_of(t, tag->hash);
    uint32_t number = home_of(t, tag->hash);
    for (uint32_t steps = 0; steps <= t->geometry.overflow; steps++) {
        struct kv_bucket *bucket = bucket_at(t, shard, number);
        for (uint32_t slot = 0; slot < KV_BUCKET_ENTRIES; slot++) {
            uint64_t entry = LOAD_ACQUIRE(bucket->entry[slot]);
            if (entry >> 48 != tag_of(tag->hash))
                continue;
            bool passed = !aim(t, shard, entry, view);
            enum kv_status status = passed ? KV_CONTENDED : look(view);
            bool held = status == KV_DONE && view->codec == KV_CODEC_COUNTER &&
                        !(view->flags & (KV_FLAG_EXPIRY | KV_FLAG_TAGGED)) &&
                        (uint64_t)kv_view_counter(view) == tag->generation &&
                        !kv_view_flushed(t, shard, view);
            if (status == KV_CONTENDED || !kv_view_intact(view))
                return KV_CONTENDED;
            if (held) {
                view->hint = hint_at(t, shard, number, slot);
                return KV_DONE;
            }
        }
        uint32_t next = LOAD_ACQUIRE(bucket->next);
        if (next == 0 || next > t->geometry.overflow)
            return KV_MISSING;
        number = t->geometry.buckets + next - 1;
    }
    return KV_MISSING;
}

/* Whether all these tags have their generations: KV_DONE, KV_MISSING, or KV_CONTENDED.
 *
 * `uses`: it counts as a read of the tags' records, so that they are not evicted before the values
 * that hang on them. */
static enum kv_status look_for_tags(const struct kv_table *t, const uint8_t *tags, uint32_t count,
                                    bool uses) {
    for (uint32_t n = 0; n < count; n++) {
        struct kv_tag tag;
        struct kv_view view;
        enum kv_status status = KV_CONTENDED;
        memcpy(&tag, tags + KV_TAGS_HEAD_BYTES + n * sizeof tag, sizeof tag);
        for (int restarts = 0; status == KV_CONTENDED && restarts < RESTARTS_MAX; restarts++)
            status = search_tag(t, &tag, &view);
        if (status != KV_DONE)
            return status;
        if (uses)
            (void)kv_view_touch(t, &view); /* a full ring of notes is seen at the next value */
    }
    return KV_DONE;
}

/* For a reader, whether the tags of a record that has some have their generations. KV_CONTENDED: a
 * writer overtook it, find again. */
enum kv_status kv_view_tags(const struct kv_table *t, const struct kv_view *view) {
    uint8_t tags[KV_TAGS_HEAD_BYTES + KV_TAGS_MAX * sizeof(struct kv_tag)];
    uint64_t bytes = (uint64_t)(view->value - view->tags);
    memcpy(tags, view->tags, bytes);
    if (!kv_view_intact(view))
        return KV_CONTENDED;
    uint64_t count = (bytes - KV_TAGS_HEAD_BYTES) / sizeof(struct kv_tag);
    return look_for_tags(t, tags, (uint32_t)count, true);
}

/* The same for the owner of the lock of the record's shard; true where readers would not know:
 * that costs a miss at most. */
bool kv_record_lost_tags(const struct kv_table *t, const struct kv_record *record) {
    struct shape shape = shape_of(LOAD(record->shape));
    uint64_t bytes = tags_bytes(record, shape);
    if (bytes == UINT64_MAX)
        return true; /* only in a damaged table */
    uint64_t count = (bytes - KV_TAGS_HEAD_BYTES) / sizeof(struct kv_tag);
    return look_for_tags(t, record->bytes + value_offset(shape), (uint32_t)count, false) !=
           KV_DONE;
}

/* Notes where kv_find has found a key's record, so that kv_place_holds sees in a few loads that the
 * key still has this record. False: it has not even now. Positions never come again, so an entry
 * that is the same as before leads to the same record. */
bool kv_note_place(const struct kv_table *t, const struct kv_key *key, const struct kv_view *view,
                   struct kv_place *place) {
    uint64_t number = (uint64_t)(view->hint - hint_at(t, key->shard, 0, 0));
    struct kv_bucket *bucket = bucket_at(t, key->shard, (uint32_t)(number / KV_HINTS_A_BUCKET));
    place->entry = &bucket->entry[number % KV_HINTS_A_BUCKET];
    place->seen = LOAD_ACQUIRE(*place->entry);
    place->flush_mark = &shard_header(t, key->shard)->flush_mark;
    place->cas = view->cas;
    place->hint = view->hint;
    struct kv_view now;
    return place->seen >> 48 == tag_of(key->hash) && aim(t, key->shard, place->seen, &now) &&
           now.record == view->record && now.position == view->position;
}

/* Finding in three steps, for batches: each step is taken for several keys before the next one and
 * fetches what that needs, so that the keys wait for memory together (group prefetching: Chen,
 * Ailamaki, Gibbons, Mowry, "Improving hash join performance through prefetching", ICDE 2004).
 * What is found was there at the second step, or later. */
void kv_prefetch_bucket(const struct kv_table *t, const struct kv_key *key, struct kv_view *view) {
    uint32_t home = home_of(t, key->hash);
    view->home = bucket_at(t, key->shard, home);
    view->hint = hint_at(t, key->shard, home, 0);
    __builtin_prefetch(view->home);
    __builtin_prefetch(view->hint);
}

void kv_prefetch_record(const struct kv_table *t, const struct kv_key *key, struct kv_view *view) {
    uint64_t tag = tag_of(key->hash);
    const struct kv_bucket *bucket = view->home;
    view->record = NULL;
    for (uint32_t slot = 0; slot < KV_BUCKET_ENTRIES; slot++) {
        uint64_t entry = LOAD_ACQUIRE(bucket->entry[slot]);
        if (entry >> 48 == tag) {
            if (aim(t, key->shard, entry, view)) {
                __builtin_prefetch(view->record);
                view->hint += slot;
            }
            return;
        }
    }
}

/* As kv_find. */
enum kv_status kv_find_prefetched(const struct kv_table *t, const struct kv_key *key,
                           struct kv_view *view) {
    if (view->record != NULL && look(view) == KV_DONE && has_key(view, key))
        return KV_DONE;
    return kv_find(t, key, view);
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
                enum kv_status status = aim(t, shard, entry, view) ? look(view) : KV_CONTENDED;
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
