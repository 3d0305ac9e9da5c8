/* A ring of the change feed with events in it, then damage: attaching refuses, or each consumer
 * ends in an answer; a ring that verify finds whole stays whole when it is written on. */
#include "feed.h"
#include "small_table.h"

#define CAPACITY 4160u
#define EVENTS_MAX 4096u /* a ring holds fewer; a consumer that gets more goes round */

struct ring_view {
    uint8_t *segment;
    uint64_t bytes;
    struct kv_feed feed;
};

static void emit_some(struct kv_feed *feed, uint32_t count, uint32_t seed) {
    uint8_t key[KV_KEY_BYTES_MAX];
    fill_value(key, sizeof key, seed);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length = (i + seed) % 29 == 0 ? (i * 131 + seed) % (KV_KEY_BYTES_MAX + 1)
                                               : (i + seed) % 50;
        kv_feed_emit(feed, (enum kv_event_kind)(KV_EVENT_GAP + i % 7), key, length, i & 1, i, i);
    }
}

static void open_ring(struct ring_view *r, uint32_t lived) {
    static const uint64_t former_lives[] = {0, UINT64_C(1) << 32, UINT64_C(1) << 61};
    r->bytes = kv_feed_segment_bytes(1, CAPACITY);
    r->segment = calloc(1, r->bytes);
    CHECK(r->segment != NULL, "no memory");
    kv_feed_format(r->segment, 1, CAPACITY);
    const char *wrong = kv_feed_attach(&r->feed, r->segment, r->bytes, 0);
    CHECK(wrong == NULL, "%s", wrong);
    uint64_t first = former_lives[lived % 3] / CAPACITY * CAPACITY;
    STORE(r->feed.ring->oldest, first);
    STORE(r->feed.ring->newest, first);
}

/* A word of the page, of the header, or anywhere; replaced, or one that is nearly right. */
static void damage(struct ring_view *r, struct input *input) {
    uint32_t where = take8(input), how = take8(input);
    uint64_t value = take64(input), place;
    if (where < 64)
        place = (take8(input) % 4) * 8 + (where & 1 ? KV_LINE : 0);
    else if (where < 160)
        place = KV_FEED_PAGE_BYTES + (take8(input) % 3) * 8;
    else
        place = KV_FEED_PAGE_BYTES + take16(input) % (r->bytes - KV_FEED_PAGE_BYTES - 8);
    uint64_t old;
    memcpy(&old, r->segment + place, sizeof old);
    if (how < 80)
        value = old + (value & 0xfff);
    else if (how < 160)
        value = old - (value & 0xfff);
    else if (how < 200)
        value = old ^ UINT64_C(1) << (value & 63);
    memcpy(r->segment + place, &value, sizeof value);
}

static void consume(const struct kv_feed *feed, bool from_oldest) {
    struct kv_feed_cursor cursor;
    struct kv_event event;
    enum kv_feed_status status = kv_feed_begin(feed, &cursor, from_oldest);
    for (uint32_t i = 0; status == KV_FEED_EVENT; i++) {
        CHECK(i < EVENTS_MAX, "a consumer that does not end");
        status = kv_feed_next(feed, &cursor, &event);
        if (status == KV_FEED_EVENT)
            CHECK(event.key_bytes <= KV_KEY_BYTES_MAX && event.kind < KV_EVENT_KINDS,
                  "an event of kind %d with a key of %u bytes", event.kind, event.key_bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    struct ring_view r;
    struct kv_feed feed;
    uint32_t lived = take8(&input), content = take8(&input);
    open_ring(&r, lived);
    emit_some(&r.feed, content, lived);
    CHECK(kv_feed_verify(&r.feed) == NULL, "%s", kv_feed_verify(&r.feed));
    while (input.left > 0)
        damage(&r, &input);
    if (kv_feed_attach(&feed, r.segment, r.bytes, 0) == NULL) {
        CHECK(feed.capacity == CAPACITY, "%llu bytes", (unsigned long long)feed.capacity);
        consume(&feed, true);
        consume(&feed, false);
        if (kv_feed_verify(&feed) == NULL) {
            kv_feed_open(&feed, 1);
            emit_some(&feed, 300, content);
            kv_feed_close(&feed);
            CHECK(kv_feed_verify(&feed) == NULL, "%s", kv_feed_verify(&feed));
            consume(&feed, true);
        }
    }
    free(r.segment);
    return 0;
}
