/* What a reader does with a record that kv_find has found. Inline, because a hit takes each of
 * these steps once: calls made a batch's hit 7 % slower. */
#ifndef KV_VIEW_H
#define KV_VIEW_H

#include "access.h"

/* Whether everything copied from the record so far is whole. */
static inline bool kv_view_intact(const struct kv_view *view) {
    atomic_thread_fence(memory_order_acquire);
    return LOAD(*view->tail) <= view->position;
}

static inline bool kv_view_flushed(const struct kv_table *t, uint32_t shard,
                                   const struct kv_view *view) {
    return view->cas <= LOAD_ACQUIRE(shard_header(t, shard)->flush_mark);
}

/* Reports a read to the eviction. A plain store that other processes may overwrite: it is a hint.
 * Returns whether this process should check that its notes are still read, see kv_note. */
static inline bool kv_touch_hint(const struct kv_table *t, _Atomic uint8_t *hint) {
    uint8_t reads = LOAD(*hint);
    if (reads >= 3)
        return false;
    if (t->notes != NULL)
        return kv_note(t, hint);
    STORE(*hint, (uint8_t)(reads + 1));
    return false;
}

static inline bool kv_view_touch(const struct kv_table *t, const struct kv_view *view) {
    return kv_touch_hint(t, view->hint);
}

static inline bool kv_touch_place(const struct kv_table *t, const struct kv_place *place) {
    return kv_touch_hint(t, place->hint);
}

/* Whether a key still has the record that was found at this place. */
static inline bool kv_place_holds(const struct kv_place *place) {
    return LOAD_ACQUIRE(*place->entry) == place->seen &&
           place->cas > LOAD_ACQUIRE(*place->flush_mark);
}

static inline void kv_count_read(const struct kv_table *t, bool hit) {
    struct kv_reader_stripe *stripe = &t->stripes[t->stripe];
    if (hit)
        STORE(stripe->hits, LOAD(stripe->hits) + 1);
    else
        STORE(stripe->misses, LOAD(stripe->misses) + 1);
}

static inline int64_t kv_view_counter(const struct kv_view *view) {
    const _Atomic uint64_t *cell = (const _Atomic uint64_t *)(const void *)view->value;
    return (int64_t)LOAD_ACQUIRE(*cell);
}

#endif
