/* Threads that write and threads that read a cramped table, for the sanitizers.
 *
 *   stress SECONDS [SEED]
 *
 * Every value repeats its key's number and its version to its end. A reader that gets a hit must find
 * it whole, and never an older one than it saw before of the same key. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "small_table.h"

#define WRITERS 2
#define READERS 3
#define KEYS 200u
#define WORDS_MAX 40u

struct shared {
    struct small_table s;
    uint64_t seed;
    _Atomic bool ends;
    _Atomic uint64_t reads, hits, overtaken, writes;
};

struct worker {
    pthread_t thread;
    struct shared *shared;
    uint32_t number;
};

static uint32_t next_random(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

/* Each shard's sequence orders the writes of a key, so it makes a good count of them. */
static void write_key(struct shared *shared, uint32_t n, uint64_t *state, uint64_t me) {
    struct kv_table *t = &shared->s.t;
    uint8_t key_bytes[KEY_BUFFER_BYTES];
    uint64_t words[WORDS_MAX], version;
    struct kv_key key = numbered_key(t, n, key_bytes);
    uint32_t count = 2 + next_random(state) % (WORDS_MAX - 2);
    _Atomic uint64_t *lock = kv_shard_lock(t, key.shard);
    while (!kv_lock_try(lock, me))
        sched_yield();
    uint64_t stamp = LOAD(shard_header(t, key.shard)->sequence) + 1;
    for (uint32_t i = 0; i < count; i++)
        words[i] = stamp << 16 | n;
    struct kv_value value = {(const uint8_t *)words, count * 8, KV_CODEC_BYTES, 0};
    uint32_t what = next_random(state) % 64;
    if (what == 0)
        (void)kv_delete(t, &key, 1);
    else if (what == 1)
        kv_recover(t, key.shard);
    else if (what == 2)
        (void)kv_sweep(t, key.shard, n % t->geometry.buckets, 4, 1);
    else
        (void)kv_store(t, &key, &value, KV_SET, 0, 1, &version);
    (void)kv_unlock(lock);
    atomic_fetch_add_explicit(&shared->writes, 1, memory_order_relaxed);
}

static void *write_loop(void *argument) {
    struct worker *me = argument;
    uint64_t state = me->shared->seed + me->number;
    uint64_t word = kv_lock_word(me->number, 1);
    while (!atomic_load_explicit(&me->shared->ends, memory_order_relaxed))
        write_key(me->shared, next_random(&state) % KEYS, &state, word);
    return NULL;
}

/* As a batch does, which leaves a record alone for a while after it has found where that is. */
static enum kv_status find_slowly(const struct kv_table *t, const struct kv_key *key,
                                  struct kv_view *view) {
    kv_prefetch_bucket(t, key, view);
    kv_prefetch_record(t, key, view);
    sched_yield();
    return kv_find_prefetched(t, key, view);
}

/* Returns the stamp of a whole value, or 0: a miss, or overtaken too often. */
static uint64_t read_key(struct shared *shared, uint32_t n, bool slowly) {
    const struct kv_table *t = &shared->s.t;
    uint8_t key_bytes[KEY_BUFFER_BYTES];
    uint64_t words[WORDS_MAX];
    struct kv_key key = numbered_key(t, n, key_bytes);
    struct kv_view view;
    for (int retries = 0; retries < 64; retries++) {
        if ((slowly ? find_slowly : kv_find)(t, &key, &view) != KV_DONE)
            return 0;
        if (view.value_bytes > sizeof words) {
            CHECK(!kv_view_intact(&view), "key %u: a value of %u bytes", n, view.value_bytes);
            continue;
        }
        memcpy(words, view.value, view.value_bytes);
        if (!kv_view_intact(&view)) {
            atomic_fetch_add_explicit(&shared->overtaken, 1, memory_order_relaxed);
            continue;
        }
        (void)kv_view_touch(t, &view);
        kv_count_read(t, true);
        for (uint32_t i = 0; i < view.value_bytes / 8; i++)
            CHECK(words[i] == (view.cas << 16 | n), "key %u: torn at word %u of %u", n, i,
                  view.value_bytes / 8);
        return view.cas;
    }
    return 0;
}

static void *read_loop(void *argument) {
    struct worker *me = argument;
    struct shared *shared = me->shared;
    uint64_t state = shared->seed + 100 + me->number;
    uint64_t newest[KEYS] = {0};
    while (!atomic_load_explicit(&shared->ends, memory_order_relaxed)) {
        uint32_t n = next_random(&state) % KEYS;
        uint64_t stamp = read_key(shared, n, next_random(&state) % 4 == 0);
        atomic_fetch_add_explicit(&shared->reads, 1, memory_order_relaxed);
        if (stamp == 0)
            continue;
        atomic_fetch_add_explicit(&shared->hits, 1, memory_order_relaxed);
        CHECK(stamp >= newest[n], "key %u went back", n);
        newest[n] = stamp;
        struct kv_cursor cursor = {0, 0, 0};
        struct kv_view view;
        const struct kv_table *t = &shared->s.t;
        while (kv_next_in_bucket(t, n % t->geometry.shards, n % t->geometry.buckets, &cursor,
                                 &view))
            CHECK(view.key_bytes <= KV_KEY_BYTES_MAX, "a key of %u bytes", view.key_bytes);
    }
    return NULL;
}

static void run_shape(uint32_t shape, uint64_t seed, long milliseconds) {
    static struct shared shared;
    struct worker workers[WRITERS + READERS];
    memset(&shared, 0, sizeof shared);
    shared.seed = seed;
    small_open(&shared.s, shape, (uint32_t)seed);
    for (uint32_t i = 0; i < WRITERS + READERS; i++) {
        workers[i] = (struct worker){.shared = &shared, .number = i};
        CHECK(pthread_create(&workers[i].thread, NULL, i < WRITERS ? write_loop : read_loop,
                             &workers[i]) == 0, "no thread");
    }
    nanosleep(&(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000}, NULL);
    atomic_store(&shared.ends, true);
    for (uint32_t i = 0; i < WRITERS + READERS; i++)
        pthread_join(workers[i].thread, NULL);
    for (uint32_t shard = 0; shard < shared.s.t.geometry.shards; shard++) {
        struct kv_violation first;
        CHECK(small_verify(&shared.s, shard, &first) == 0, "V%u", first.rule);
    }
    printf("shape %u: %llu writes, %llu reads, %llu hits, %llu overtaken\n", shape,
           (unsigned long long)shared.writes, (unsigned long long)shared.reads,
           (unsigned long long)shared.hits, (unsigned long long)shared.overtaken);
    small_close(&shared.s);
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    for (uint32_t shape = 1; shape < SMALL_SHAPES; shape++)
        run_shape(shape, seed, (long)(seconds * 1000 / (SMALL_SHAPES - 1)));
    return 0;
}
