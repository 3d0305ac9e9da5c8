/* Notes: how a reader that may not write the hints reports its reads to the eviction, see layout.h.
 *
 * A note costs the reader two stores into a file that only it has mapped, and none while the hint
 * is as high as it gets, which the reader sees in the hints. If more notes come between two looks
 * of a worker than the ring holds, some are lost: they are hints, and keys that are read often come
 * again. */
#include "access.h"

/* No process reads more often between two looks: a file that says so is wrong. */
#define READS_A_LOOK_MAX (UINT64_C(1) << 32)

static_assert((KV_NOTES & (KV_NOTES - 1)) == 0, "a note's place needs no division");

/* Makes this process write these notes instead of the hints. They are a kv_notes, zeroed or used
 * before. */
void kv_write_notes(struct kv_table *t, uint8_t *notes) {
    t->notes = (struct kv_notes *)(void *)notes;
    t->stripes = t->notes->stripe;
    uint64_t instance[2];
    kv_instance_id(t, (uint8_t *)instance);
    STORE(t->notes->instance[0], instance[0]);
    STORE_RELEASE(t->notes->instance[1], instance[1]);
}

/* Notes that a hint should be raised. Returns true when the ring is full, which takes longer if a
 * worker reads it: the caller should then check whether its file still has its name. */
bool kv_note(const struct kv_table *t, const _Atomic uint8_t *hint) {
    struct kv_notes *notes = t->notes;
    uint64_t written = LOAD(notes->written);
    STORE(notes->hint[written % KV_NOTES], (uint64_t)(hint - (const _Atomic uint8_t *)t->hints));
    STORE_RELEASE(notes->written, written + 1);
    return written % KV_NOTES == KV_NOTES - 1;
}

static uint64_t load64(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

static void raise_hint(const struct kv_table *t, uint64_t place) {
    if (place < KV_HINTS_HEADER_BYTES || place >= t->geometry.hints_bytes)
        return;
    _Atomic uint8_t *hint = (_Atomic uint8_t *)t->hints + place;
    uint8_t reads = LOAD(*hint);
    if (reads < 3)
        STORE(*hint, (uint8_t)(reads + 1));
}

/* How much a count has grown; the file may hold any number. */
static uint64_t gained(uint64_t now, uint64_t before) {
    return now >= before && now - before <= READS_A_LOOK_MAX ? now - before : 0;
}

/* Sums up a copy of a reader's notes. False: they are about another table, or too short. */
bool kv_read_notes(const struct kv_table *t, const uint8_t *bytes, uint64_t length,
                   struct kv_noted *now) {
    uint64_t instance[2];
    kv_instance_id(t, (uint8_t *)instance);
    if (length < sizeof(struct kv_notes) ||
        memcmp(bytes + offsetof(struct kv_notes, instance), instance, sizeof instance) != 0)
        return false;
    *now = (struct kv_noted){load64(bytes + offsetof(struct kv_notes, written)), 0, 0};
    for (uint32_t i = 0; i < KV_READER_STRIPES; i++) {
        uint64_t at = offsetof(struct kv_notes, stripe) + i * sizeof(struct kv_reader_stripe);
        now->hits += load64(bytes + at + offsetof(struct kv_reader_stripe, hits));
        now->misses += load64(bytes + at + offsetof(struct kv_reader_stripe, misses));
    }
    return true;
}

/* Applies what is new in a copy of notes: raises hints, and counts reads as the caller's own.
 * kv_read_notes made `now` of this copy, and `before` of an earlier one. */
void kv_heed_notes(struct kv_table *t, const uint8_t *bytes, const struct kv_noted *now,
                   const struct kv_noted *before) {
    uint64_t count = now->written - before->written;
    count = count < KV_NOTES ? count : KV_NOTES;
    for (uint64_t i = now->written - count; i != now->written; i++)
        raise_hint(t, load64(bytes + offsetof(struct kv_notes, hint) +
                             i % KV_NOTES * sizeof(uint64_t)));
    struct kv_reader_stripe *mine = &t->stripes[t->stripe];
    STORE(mine->hits, LOAD(mine->hits) + gained(now->hits, before->hits));
    STORE(mine->misses, LOAD(mine->misses) + gained(now->misses, before->misses));
}
