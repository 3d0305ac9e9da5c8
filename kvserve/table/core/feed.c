/* The change feed's rings: one producer, any number of consumers, no lock and no system call.
 *
 * The events from `oldest` to `newest` are whole, at every instruction of the producer. For each
 * event it stores, in this order:
 *   1. oldest: past every event whose bytes are needed (release), then a fence;
 *   2. a pad where the event would cross the ring's end, and the event;
 *   3. newest: the event's position (release). It exists from here on.
 * A consumer goes the other way: newest (acquire), a copy of the event, a fence, oldest. If oldest
 * has not passed the event by then, its bytes were not touched since it was published, and the copy
 * is whole. If it has, the producer is a lap ahead, and the consumer goes on at oldest. The table's
 * logs are read in the same way (see log.c, lookup.c); their tail is what oldest is here.
 *
 * `newest` is the position of the last event, not of its end, so that one word leads, by way of the
 * event, both to where the next one begins and to its number. These two must be of one instant, so
 * that a consumer that begins now later learns exactly how many events it has lost. This is why a
 * ring is never empty.
 *
 * A producer that is killed leaves a whole ring, without the event that it was writing. It may
 * also have changed the table without an event yet, because events follow their changes. So unless
 * it closed the ring, its successor begins with a GAP.
 *
 * Finding where `oldest` has to go means reading the shape of each event that goes. That costs
 * little: it lies in the line that the new event is about to be written to. */
#include "feed.h"

#include "access.h"

#define RESTARTS_MAX 64

static uint64_t ring_bytes(uint64_t capacity) { return KV_FEED_RING_HEADER_BYTES + capacity; }

static struct kv_feed_event *event_at(const struct kv_feed *feed, uint64_t position) {
    uint64_t offset = ring_offset(position, feed->capacity, feed->reciprocal);
    return (struct kv_feed_event *)(void *)(feed->bytes + offset);
}

static uint64_t rest_of_lap(const struct kv_feed *feed, uint64_t position) {
    return feed->capacity - ring_offset(position, feed->capacity, feed->reciprocal);
}

static uint64_t make_event_shape(enum kv_event_kind kind, uint32_t flags, uint32_t key_bytes,
                                 uint64_t length) {
    return (uint64_t)kind << 56 | (uint64_t)flags << 48 | (uint64_t)key_bytes << 32 | length;
}

static enum kv_event_kind kind_of(uint64_t shape) { return (enum kv_event_kind)(shape >> 56); }
static uint32_t flags_of(uint64_t shape) { return (uint32_t)(shape >> 48 & 0xff); }
static uint32_t key_bytes_of(uint64_t shape) { return (uint32_t)(shape >> 32 & 0xffff); }
static uint64_t length_of(uint64_t shape) { return (uint32_t)shape; }

static uint64_t event_length(uint32_t key_bytes) {
    return align_up(KV_FEED_EVENT_HEADER_BYTES + key_bytes);
}

/* Whether an event of this shape can lie where so many bytes are left until the ring's end. */
static bool shape_fits(uint64_t shape, uint64_t rest) {
    if (kind_of(shape) == KV_EVENT_PAD)
        return length_of(shape) == rest;
    return kind_of(shape) < KV_EVENT_KINDS && key_bytes_of(shape) <= KV_KEY_BYTES_MAX &&
           length_of(shape) == event_length(key_bytes_of(shape)) && length_of(shape) <= rest;
}

uint64_t kv_feed_segment_bytes(uint32_t rings, uint64_t capacity) {
    return KV_FEED_PAGE_BYTES + rings * ring_bytes(capacity);
}

static bool sizes_valid(uint32_t rings, uint64_t capacity) {
    return rings >= 1 && rings <= KV_FEED_RINGS_MAX && capacity >= KV_FEED_CAPACITY_MIN &&
           capacity <= UINT32_MAX && capacity % KV_LINE == 0;
}

static struct kv_feed view_of(uint8_t *segment, uint32_t ring, uint64_t capacity) {
    uint8_t *base = segment + KV_FEED_PAGE_BYTES + ring * ring_bytes(capacity);
    return (struct kv_feed){.page = (const struct kv_feed_page *)(void *)segment,
                            .ring = (struct kv_feed_ring *)(void *)base,
                            .bytes = base + KV_FEED_RING_HEADER_BYTES,
                            .capacity = capacity,
                            .reciprocal = UINT64_MAX / capacity};
}

/* The segment is new and all zero. */
void kv_feed_format(uint8_t *segment, uint32_t rings, uint64_t capacity) {
    struct kv_feed_page *page = (struct kv_feed_page *)(void *)segment;
    assert(sizes_valid(rings, capacity));
    page->magic = KV_FEED_MAGIC;
    page->layout_version = KV_FEED_LAYOUT_VERSION;
    page->rings = rings;
    page->capacity = capacity;
    for (uint32_t ring = 0; ring < rings; ring++) {
        struct kv_feed feed = view_of(segment, ring, capacity);
        STORE(event_at(&feed, 0)->shape,
              make_event_shape(KV_EVENT_BEGIN, 0, 0, event_length(0)));
        STORE(feed.ring->closed, 1);
    }
    STORE_RELEASE(page->state, KV_STATE_READY);
}

/* Fills feed; returns NULL, or a sentence that says what is wrong with the segment. */
const char *kv_feed_attach(struct kv_feed *feed, uint8_t *segment, uint64_t segment_bytes,
                           uint32_t ring) {
    const struct kv_feed_page *page = (const struct kv_feed_page *)(void *)segment;
    if (segment_bytes < KV_FEED_PAGE_BYTES)
        return "it is too short";
    uint32_t state = LOAD_ACQUIRE(page->state);
    if (page->magic != KV_FEED_MAGIC)
        return "it is not a kvserve feed";
    if (page->layout_version != KV_FEED_LAYOUT_VERSION)
        return "it has another layout version";
    if (state != KV_STATE_READY)
        return "it was never finished, or has been retired";
    uint32_t rings = page->rings;
    uint64_t capacity = page->capacity;
    if (!sizes_valid(rings, capacity))
        return "its sizes make no sense";
    if (kv_feed_segment_bytes(rings, capacity) != segment_bytes)
        return "it was cut short or lengthened";
    if (ring >= rings)
        return "it has no such ring";
    *feed = view_of(segment, ring, capacity);
    return NULL;
}

bool kv_feed_ready(const struct kv_feed *feed) {
    return LOAD_ACQUIRE(feed->page->state) == KV_STATE_READY;
}

/* Marks the feed as given up: its consumers let go of it and look for its successor. */
void kv_feed_retire(uint8_t *segment) {
    STORE_RELEASE(((struct kv_feed_page *)(void *)segment)->state, KV_STATE_RETIRED);
}

/* Checks the invariants of a ring that no process writes to. Returns NULL, or what is violated. */
const char *kv_feed_verify(const struct kv_feed *feed) {
    uint64_t position = LOAD(feed->ring->oldest), newest = LOAD(feed->ring->newest);
    uint64_t number = 0, begin = position;
    bool first = true;
    if (position > newest || newest - position > feed->capacity || newest > SOUND_NUMBER_MAX ||
        position % KV_ALIGNMENT != 0)
        return "its positions make no sense";
    for (;;) {
        const struct kv_feed_event *event = event_at(feed, position);
        uint64_t shape = LOAD(event->shape);
        if (!shape_fits(shape, rest_of_lap(feed, position)))
            return "there is an event of a shape that cannot be";
        if (kind_of(shape) != KV_EVENT_PAD) {
            if (!first && LOAD(event->number) != number)
                return "its events are not numbered in turn";
            first = false;
            number = LOAD(event->number) + 1;
        }
        if (position >= newest)
            break;
        position += length_of(shape);
    }
    if (position != newest || kind_of(LOAD(event_at(feed, newest)->shape)) == KV_EVENT_PAD)
        return "the newest event is not where it should be";
    if (newest + length_of(LOAD(event_at(feed, newest)->shape)) - begin > feed->capacity)
        return "it holds more than it can";
    return NULL;
}

/* Becomes the ring's producer. The caller's lease ensures that there is no other. */
void kv_feed_open(struct kv_feed *feed, uint64_t now_ms) {
    if (LOAD(feed->ring->closed) == 0)
        kv_feed_emit(feed, KV_EVENT_GAP, NULL, 0, 0, 0, now_ms);
    STORE(feed->ring->closed, 0);
}

/* Closes the ring after every change was emitted. */
void kv_feed_close(struct kv_feed *feed) { STORE_RELEASE(feed->ring->closed, 1); }

/* Gives up the oldest events, until the ring is free to `end`. The newest one stays: beside it the
 * caller needs only a pad, which is shorter than the longest event, and one event. */
static void free_until(const struct kv_feed *feed, uint64_t end) {
    uint64_t oldest = LOAD(feed->ring->oldest);
    if (end - oldest <= feed->capacity)
        return;
    do {
        oldest += length_of(LOAD(event_at(feed, oldest)->shape));
    } while (end - oldest > feed->capacity);
    STORE_RELEASE(feed->ring->oldest, oldest);
    atomic_thread_fence(memory_order_release); /* before the bytes behind it are used again */
}

void kv_feed_emit(struct kv_feed *feed, enum kv_event_kind kind, const uint8_t *key,
                  uint32_t key_bytes, uint32_t flags, uint64_t version, uint64_t now_ms) {
    uint64_t newest = LOAD(feed->ring->newest);
    const struct kv_feed_event *last = event_at(feed, newest);
    uint64_t position = newest + length_of(LOAD(last->shape));
    uint64_t number = LOAD(last->number) + 1;
    uint64_t length = event_length(key_bytes);
    uint64_t rest = rest_of_lap(feed, position);
    uint64_t pad = length <= rest ? 0 : rest;
    free_until(feed, position + pad + length);
    if (pad != 0) {
        STORE(event_at(feed, position)->shape, make_event_shape(KV_EVENT_PAD, 0, 0, pad));
        position += pad;
    }
    struct kv_feed_event *event = event_at(feed, position);
    STORE(event->shape, make_event_shape(kind, flags, key_bytes, length));
    STORE(event->number, number);
    STORE(event->version, version);
    STORE(event->unix_ms, now_ms + feed->unix_offset_ms);
    if (key_bytes != 0)
        memcpy(event->key, key, key_bytes);
    STORE_RELEASE(feed->ring->newest, position);
}

static bool still_there(const struct kv_feed *feed, uint64_t position) {
    atomic_thread_fence(memory_order_acquire);
    return LOAD(feed->ring->oldest) <= position;
}

/* Copies the event at `position`, or the first one after it that is still there. */
static enum kv_feed_status take(const struct kv_feed *feed, uint64_t *position,
                                struct kv_event *event) {
    for (int restarts = 0; restarts < RESTARTS_MAX; restarts++) {
        uint64_t newest = LOAD_ACQUIRE(feed->ring->newest);
        uint64_t oldest = LOAD_ACQUIRE(feed->ring->oldest);
        if (*position > newest)
            return KV_FEED_NONE;
        if (*position < oldest)
            *position = oldest;
        if (*position % KV_ALIGNMENT != 0 || *position > POSITION_MAX ||
            (newest > oldest && newest - oldest > feed->capacity))
            return KV_FEED_DAMAGED;
        uint64_t rest = rest_of_lap(feed, *position);
        const struct kv_feed_event *found = event_at(feed, *position);
        uint64_t shape = LOAD(found->shape);
        if (!shape_fits(shape, rest)) {
            if (still_there(feed, *position))
                return KV_FEED_DAMAGED;
            continue;
        }
        if (kind_of(shape) == KV_EVENT_PAD) {
            if (still_there(feed, *position))
                *position += length_of(shape);
            continue;
        }
        event->kind = kind_of(shape);
        event->flags = flags_of(shape);
        event->key_bytes = key_bytes_of(shape);
        event->number = LOAD(found->number);
        event->version = LOAD(found->version);
        event->unix_ms = LOAD(found->unix_ms);
        memcpy(event->key, found->key, event->key_bytes);
        if (still_there(feed, *position))
            return KV_FEED_EVENT;
    }
    return KV_FEED_OVERRUN;
}

/* Puts a consumer after the newest event, or before the oldest that means anything. */
enum kv_feed_status kv_feed_begin(const struct kv_feed *feed, struct kv_feed_cursor *cursor,
                                  bool from_oldest) {
    struct kv_event event;
    uint64_t position =
        from_oldest ? LOAD_ACQUIRE(feed->ring->oldest) : LOAD_ACQUIRE(feed->ring->newest);
    enum kv_feed_status status = take(feed, &position, &event);
    if (status != KV_FEED_EVENT)
        return status;
    *cursor = (struct kv_feed_cursor){position, event.number};
    if (!from_oldest || event.kind == KV_EVENT_BEGIN) {
        cursor->position += event_length(event.key_bytes);
        cursor->number++;
    }
    return KV_FEED_EVENT;
}

/* Copies the next event and moves past it. With any other result the cursor stays. */
enum kv_feed_status kv_feed_next(const struct kv_feed *feed, struct kv_feed_cursor *cursor,
                                 struct kv_event *event) {
    uint64_t position = cursor->position;
    enum kv_feed_status status = take(feed, &position, event);
    if (status != KV_FEED_EVENT)
        return status;
    event->lost = event->number - cursor->number;
    cursor->position = position + event_length(event->key_bytes);
    cursor->number = event->number + 1;
    return KV_FEED_EVENT;
}
