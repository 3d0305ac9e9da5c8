/* One thread that fills a small ring of the change feed, and threads that read it at different
 * speeds, for the sanitizers.
 *
 *   feed_stress SECONDS
 *
 * Key and version of every event follow from its number, so a torn or miscounted one is noticed. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "feed.h"
#include "small_table.h"

#define WATCHERS 3
#define FORMER_LIFE (UINT64_C(1) << 40) /* how far positions have come before; in bytes */

struct shared {
    uint8_t *segment;
    uint64_t bytes;
    uint64_t capacity;
    _Atomic bool ends;
    _Atomic uint64_t emitted;
};

struct watcher {
    pthread_t thread;
    struct shared *shared;
    uint32_t number;
    uint64_t read, lost, overruns;
};

static uint32_t key_length(uint64_t number) {
    uint64_t mixed = number * UINT64_C(0x9e3779b97f4a7c15);
    return mixed >> 60 == 0 ? (uint32_t)(mixed >> 20) % KV_KEY_BYTES_MAX : (mixed >> 32) % 60;
}

static uint8_t key_byte(uint64_t number, uint32_t place) {
    return (uint8_t)(number * 167 + place * 31 + (place >> 3) + (number >> 8));
}

static void make_key(uint8_t *key, uint64_t number) {
    for (uint32_t i = 0; i < key_length(number); i++)
        key[i] = key_byte(number, i);
}

static void attach(struct kv_feed *feed, const struct shared *shared) {
    const char *wrong = kv_feed_attach(feed, shared->segment, shared->bytes, 0);
    CHECK(wrong == NULL, "%s", wrong);
}

static void *produce(void *argument) {
    struct shared *shared = argument;
    struct kv_feed feed;
    uint8_t key[KV_KEY_BYTES_MAX];
    attach(&feed, shared);
    kv_feed_open(&feed, 0);
    /* The first event of the ring has number 0, so ours is 1. */
    for (uint64_t number = 1; !atomic_load_explicit(&shared->ends, memory_order_relaxed);
         number++) {
        make_key(key, number);
        kv_feed_emit(&feed, KV_EVENT_SET, key, key_length(number), (uint32_t)number & 1,
                     number * 3, number * 5);
        atomic_store_explicit(&shared->emitted, number, memory_order_relaxed);
        if (number % 4096 == 0)
            sched_yield();
    }
    kv_feed_close(&feed);
    return NULL;
}

static void check(const struct kv_event *event) {
    uint64_t number = event->number;
    CHECK(event->kind == KV_EVENT_SET && event->version == number * 3 &&
              event->unix_ms == number * 5 && event->flags == (number & 1),
          "event %llu", (unsigned long long)number);
    CHECK(event->key_bytes == key_length(number), "event %llu: a key of %u bytes",
          (unsigned long long)number, event->key_bytes);
    for (uint32_t i = 0; i < event->key_bytes; i++)
        CHECK(event->key[i] == key_byte(number, i), "event %llu: torn at byte %u",
              (unsigned long long)number, i);
}

/* The first looks without pause, the others sleep ever longer between their looks. */
static void *watch(void *argument) {
    struct watcher *me = argument;
    struct kv_feed feed;
    struct kv_feed_cursor cursor;
    uint64_t next = 0;
    bool ended = false;
    attach(&feed, me->shared);
    while (kv_feed_begin(&feed, &cursor, true) == KV_FEED_OVERRUN)
        continue;
    next = cursor.number;
    while (!ended) {
        struct kv_event event;
        ended = atomic_load_explicit(&me->shared->ends, memory_order_relaxed);
        enum kv_feed_status status;
        while ((status = kv_feed_next(&feed, &cursor, &event)) == KV_FEED_EVENT) {
            CHECK(event.number == next + event.lost, "event %llu after %llu with %llu lost",
                  (unsigned long long)event.number, (unsigned long long)next,
                  (unsigned long long)event.lost);
            next = event.number + 1;
            check(&event);
            me->read++;
            me->lost += event.lost;
        }
        CHECK(status != KV_FEED_DAMAGED, "what no producer wrote");
        me->overruns += status == KV_FEED_OVERRUN;
        if (me->number > 0)
            nanosleep(&(struct timespec){0, 20000L << (3 * me->number)}, NULL);
    }
    return NULL;
}

static void run(uint64_t capacity, uint64_t lived, long milliseconds) {
    struct shared shared = {.capacity = capacity, .bytes = kv_feed_segment_bytes(1, capacity)};
    struct watcher watchers[WATCHERS];
    struct kv_feed feed;
    pthread_t producer;
    shared.segment = calloc(1, shared.bytes);
    CHECK(shared.segment != NULL, "no memory");
    kv_feed_format(shared.segment, 1, capacity);
    attach(&feed, &shared);
    /* The ring's first event moves to where a former life would have brought it. */
    uint64_t first = lived / capacity * capacity;
    STORE(feed.ring->oldest, first);
    STORE(feed.ring->newest, first);
    CHECK(pthread_create(&producer, NULL, produce, &shared) == 0, "no thread");
    for (uint32_t i = 0; i < WATCHERS; i++) {
        watchers[i] = (struct watcher){.shared = &shared, .number = i};
        CHECK(pthread_create(&watchers[i].thread, NULL, watch, &watchers[i]) == 0, "no thread");
    }
    nanosleep(&(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000}, NULL);
    atomic_store(&shared.ends, true);
    pthread_join(producer, NULL);
    for (uint32_t i = 0; i < WATCHERS; i++)
        pthread_join(watchers[i].thread, NULL);
    CHECK(kv_feed_verify(&feed) == NULL, "%s", kv_feed_verify(&feed));
    printf("%llu bytes: %llu events", (unsigned long long)capacity,
           (unsigned long long)shared.emitted);
    for (uint32_t i = 0; i < WATCHERS; i++)
        printf(", %llu + %llu (%llu overruns)", (unsigned long long)watchers[i].read,
               (unsigned long long)watchers[i].lost, (unsigned long long)watchers[i].overruns);
    printf("\n");
    free(shared.segment);
}

int main(int argc, char **argv) {
    static const uint64_t capacities[] = {KV_FEED_CAPACITY_MIN, 5056, 65536};
    long milliseconds = (long)((argc > 1 ? atof(argv[1]) : 1) * 1000 / 3);
    for (uint32_t i = 0; i < 3; i++)
        run(capacities[i], i * FORMER_LIFE, milliseconds);
    return 0;
}
