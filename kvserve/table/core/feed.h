/* The change feed: rings of events in shared memory. Each has one producer, which does not know its
 * consumers, and any number of consumers, which take no lock and store nothing. See feed.c.
 *
 * feed segment
 * +--------------------+ 0
 * | page               |   how many rings of what size; READY last
 * +--------------------+ 4096
 * | ring 0             |
 * |   header           |   128 bytes
 * |   events           |   `capacity` bytes
 * +--------------------+
 * | ring 1 ...         |
 *
 * Writers: the creator writes the page; a ring's producer writes the ring. The producer is the
 * worker, or the holder of the writer's slot, that the ring's number stands for. */
#ifndef KV_FEED_H
#define KV_FEED_H

#include <stdbool.h>

#include "layout.h"

#define KV_FEED_MAGIC UINT64_C(0x000044454546564b) /* "KVFEED\0\0" as little-endian bytes */
#define KV_FEED_LAYOUT_VERSION 1u
#define KV_FEED_PAGE_BYTES 4096u
#define KV_FEED_RING_HEADER_BYTES 128u
#define KV_FEED_RINGS_MAX 128u /* as many as workers and trusted writers */

struct kv_feed_page {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t rings;
    uint64_t capacity; /* bytes of events in each ring */
    uint8_t padding[KV_LINE - 24];
    _Atomic uint32_t state; /* enum kv_state; its own line, consumers poll it */
    uint8_t padding2[KV_FEED_PAGE_BYTES - KV_LINE - 4];
};
static_assert(offsetof(struct kv_feed_page, state) == KV_LINE, "layout");
static_assert(sizeof(struct kv_feed_page) == KV_FEED_PAGE_BYTES, "layout");

/* Positions only grow; a position lies at position mod capacity. All events from `oldest` to
 * `newest`, both included, are whole; there is at least one. The rest of the ring is free. */
struct kv_feed_ring {
    _Atomic uint64_t oldest; /* may be a pad's; moves before the event's bytes are used again */
    _Atomic uint64_t newest; /* moves after its event is whole: the only publication */
    _Atomic uint32_t closed; /* 1: no producer, and the last emitted all; 0: there is or was one */
    uint8_t padding[KV_FEED_RING_HEADER_BYTES - 20];
};
static_assert(sizeof(struct kv_feed_ring) == KV_FEED_RING_HEADER_BYTES, "layout");

enum kv_event_kind {
    KV_EVENT_PAD = 0, /* fills the ring's end; has only a shape, which holds its length */
    KV_EVENT_BEGIN,   /* the first of a new ring, which is thus never empty; means nothing */
    KV_EVENT_GAP,     /* a producer was killed here: events before it may be missing */
    KV_EVENT_FLUSH,   /* a whole shard; has no key */
    KV_EVENT_SET,     /* any new value: set, add, replace, cas, incr */
    KV_EVENT_TOUCH,
    KV_EVENT_DELETE,
    KV_EVENT_EXPIRE, /* the record was found to have expired, and collected */
    KV_EVENT_EVICT,  /* the record had to make room */
    KV_EVENT_KINDS
};

/* event: header, key. It never crosses the ring's end.
 *
 * shape: | kind 8 | flags 8 | key bytes 16 | length 32, a multiple of 8 | */
struct kv_feed_event {
    _Atomic uint64_t shape;
    _Atomic uint64_t number; /* one more than that of the event before */
    _Atomic uint64_t version; /* the cas of the record that came or went; of a flush, its mark */
    _Atomic uint64_t unix_ms;
    uint8_t key[];
};
#define KV_FEED_EVENT_HEADER_BYTES 32u
#define KV_FEED_EVENT_BYTES_MAX (KV_FEED_EVENT_HEADER_BYTES + KV_KEY_BYTES_MAX)
/* Room for the newest event, and beside it for a pad and one more: see free_until in feed.c. */
#define KV_FEED_CAPACITY_MIN 4096u
static_assert(sizeof(struct kv_feed_event) == KV_FEED_EVENT_HEADER_BYTES, "layout");
static_assert(KV_FEED_CAPACITY_MIN >= 3 * KV_FEED_EVENT_BYTES_MAX, "the ring is never empty");

/* One process's view of one ring. The sizes are copies, made and checked at attach. */
struct kv_feed {
    const struct kv_feed_page *page;
    struct kv_feed_ring *ring;
    uint8_t *bytes;
    uint64_t capacity;
    uint64_t reciprocal;
    uint64_t unix_offset_ms; /* a producer's: Unix time less the clock of now_ms, see table.h */
};

/* Where a consumer is. */
struct kv_feed_cursor {
    uint64_t position; /* of the event to be read next */
    uint64_t number;   /* that this event should have */
};

/* A copy of an event. */
struct kv_event {
    enum kv_event_kind kind;
    uint32_t flags; /* KV_FLAG_TEXT_KEY or 0 */
    uint32_t key_bytes;
    uint64_t number;
    uint64_t version;
    uint64_t unix_ms;
    uint64_t lost; /* how many events before it the consumer has missed */
    uint8_t key[KV_KEY_BYTES_MAX];
};

/* The segment. */
uint64_t kv_feed_segment_bytes(uint32_t rings, uint64_t capacity);
void kv_feed_format(uint8_t *segment, uint32_t rings, uint64_t capacity);
const char *kv_feed_attach(struct kv_feed *feed, uint8_t *segment, uint64_t segment_bytes,
                           uint32_t ring);
bool kv_feed_ready(const struct kv_feed *feed);
void kv_feed_retire(uint8_t *segment);
const char *kv_feed_verify(const struct kv_feed *feed);

/* The producer. */
void kv_feed_open(struct kv_feed *feed, uint64_t now_ms);
void kv_feed_close(struct kv_feed *feed);
void kv_feed_emit(struct kv_feed *feed, enum kv_event_kind kind, const uint8_t *key,
                  uint32_t key_bytes, uint32_t flags, uint64_t version, uint64_t now_ms);

/* A consumer. */
enum kv_feed_status {
    KV_FEED_EVENT = 0,
    KV_FEED_NONE,    /* nothing new */
    KV_FEED_OVERRUN, /* the producer was faster, time and again; go on later */
    KV_FEED_DAMAGED, /* what is there is no event, and no producer is writing there */
};
enum kv_feed_status kv_feed_begin(const struct kv_feed *feed, struct kv_feed_cursor *cursor,
                                  bool from_oldest);
enum kv_feed_status kv_feed_next(const struct kv_feed *feed, struct kv_feed_cursor *cursor,
                                 struct kv_event *event);

#endif
