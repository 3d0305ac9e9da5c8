/* The two logs: appending records to a ring's head, and giving up its tail.
 *
 * The order of stores, which is all that stands between a SIGKILL and a torn table:
 *   1. the bytes beyond head, which no process reads;
 *   2. the entry (release), in store.c and evict.c: the only publication;
 *   3. head (release): what lies before it is not written again.
 * A death before 2 leaves nothing. One between 2 and 3 leaves a record beyond the head, and an
 * entry that leads to it: the process that takes the lock from the dead owner first raises the head
 * over the record (see recover.c), so its bytes are never given out again. With head before entry,
 * such a death left a record that no entry led to, and enough of them used up M's reserve.
 * At the other end: first the entry (it leads elsewhere, or nowhere), then the tail (release), then
 * a fence, and only then may the bytes be written again. */
#include "operation.h"

/* The bytes from a position to its ring's end. */
uint64_t bytes_to_wrap(const struct ring *ring, uint64_t position) {
    return ring->capacity - ring_offset(position, ring->capacity, ring->reciprocal);
}

/* The bytes that a record of this length takes at the head, with the pad before it if it would
 * cross the ring's end. */
uint64_t room_needed(const struct ring *ring, uint64_t length) {
    uint64_t rest = bytes_to_wrap(ring, LOAD(*ring->head));
    return length <= rest ? length : rest + length;
}

bool fits(const struct ring *ring, uint64_t reserve, uint64_t length) {
    uint64_t used = LOAD(*ring->head) - LOAD(*ring->tail);
    return used + room_needed(ring, length) + reserve <= ring->capacity;
}

/* Where the next record goes, for which there is room; writes a pad before it if needed. The record
 * exists once an entry leads to it; publish_head comes right after that. */
struct kv_record *append(const struct ring *ring, uint64_t length, uint64_t *position) {
    uint64_t head = LOAD(*ring->head);
    uint64_t rest = bytes_to_wrap(ring, head);
    if (length > rest) {
        STORE(record_at(ring, head)->shape, make_shape(0, (uint32_t)rest, 0, KV_FLAG_PAD));
        head += rest;
    }
    *position = head;
    return record_at(ring, head);
}

void publish_head(const struct ring *ring, uint64_t position, uint64_t length) {
    STORE_RELEASE(*ring->head, position + length);
}

void publish_tail(const struct ring *ring, uint64_t position) {
    STORE_RELEASE(*ring->tail, position);
    atomic_thread_fence(memory_order_release); /* before the bytes behind it are reused */
}
