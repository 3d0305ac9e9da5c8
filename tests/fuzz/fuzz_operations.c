/* Fuzz target: a sequence of operations on a small table, against a dictionary.
 *
 * The first three bytes choose the geometry, where the logs begin, and how often all is compared;
 * then come the operations, a byte each and their arguments. What an operation answers must follow
 * from what a reader sees just before it, and what a reader sees must be the dictionary's, or
 * nothing if the statistics tell of an eviction for it. */
#include "small_table.h"

#define KEYS 1024u
#define VALUE_BYTES_MAX 4096u

struct item {
    bool here;
    bool counter;
    uint32_t length;
    uint32_t seed;
    int64_t number;
    uint64_t expiry_ms;
    uint64_t version;
};

struct run {
    struct small_table s;
    struct item items[KEYS];
    uint64_t now_ms;
    uint64_t sequence[4]; /* the highest version that each shard gave out */
    uint64_t lost;        /* items of which a reader saw that they were evicted */
    bool roomy;
};

/* How a reader goes about it, here and in the Python face: find, copy, look again. */
static bool read_key(struct run *r, uint32_t n, struct item *seen) {
    uint8_t key_bytes[KEY_BUFFER_BYTES];
    struct kv_key key = numbered_key(&r->s.t, n, key_bytes);
    struct kv_view view, stepwise;
    enum kv_status status = kv_find(&r->s.t, &key, &view);
    kv_prefetch_bucket(&r->s.t, &key, &stepwise);
    kv_prefetch_record(&r->s.t, &key, &stepwise);
    CHECK(kv_find_prefetched(&r->s.t, &key, &stepwise) == status, "key %u: not in steps", n);
    if (status == KV_MISSING)
        return false;
    CHECK(status == KV_DONE, "key %u: status %d", n, (int)status);
    CHECK(kv_view_intact(&view), "key %u", n);
    CHECK(stepwise.record == view.record && stepwise.hint == view.hint, "key %u: elsewhere", n);
    if (kv_view_flushed(&r->s.t, key.shard, &view) ||
        (view.expiry_ms != 0 && view.expiry_ms <= r->now_ms))
        return false;
    CHECK((view.flags & ~KV_FLAG_EXPIRY) == key.flags, "key %u: flags %x", n, view.flags);
    const struct item *item = &r->items[n];
    *seen = (struct item){.here = true, .expiry_ms = view.expiry_ms, .version = view.cas,
                          .counter = view.codec == KV_CODEC_COUNTER};
    CHECK(item->here, "key %u is there again", n);
    CHECK(item->counter == seen->counter, "key %u: codec %u", n, view.codec);
    if (seen->counter)
        CHECK(kv_view_counter(&view) == item->number, "key %u counts wrongly", n);
    else
        CHECK(view.value_bytes == item->length && is_value(view.value, item->length, item->seed),
              "key %u has another's value", n);
    CHECK(view.expiry_ms == item->expiry_ms, "key %u expires at another time", n);
    CHECK(view.cas == item->version, "key %u has another version", n);
    return true;
}

/* What is there of a key for the table and the dictionary; evicted ones leave the dictionary. */
static bool look(struct run *r, uint32_t n) {
    struct item seen;
    struct item *item = &r->items[n];
    bool hit = read_key(r, n, &seen);
    if (!hit && item->here) {
        if (item->expiry_ms == 0 || item->expiry_ms > r->now_ms)
            r->lost++;
        item->here = false;
    }
    return hit;
}

static void new_version(struct run *r, const struct kv_key *key, struct item *item,
                        uint64_t version) {
    CHECK(version > r->sequence[key->shard], "version %llu went back",
          (unsigned long long)version);
    r->sequence[key->shard] = version;
    item->version = version;
}

static uint64_t take_expiry(struct run *r, struct input *input) {
    uint32_t ttl_ms = take8(input);
    return ttl_ms < 128 ? 0 : r->now_ms + ttl_ms - 127;
}

static void store(struct run *r, uint32_t n, uint32_t length, uint32_t seed, uint64_t expiry_ms,
                  enum kv_condition condition, bool right_version) {
    uint8_t key_bytes[KEY_BUFFER_BYTES], value_bytes[VALUE_BYTES_MAX];
    struct kv_key key = numbered_key(&r->s.t, n, key_bytes);
    struct item *item = &r->items[n];
    bool here = look(r, n);
    length %= r->s.t.geometry.value_bytes_max + 2; /* sometimes too large */
    fill_value(value_bytes, length, seed);
    struct kv_value value = {value_bytes, length, KV_CODEC_BYTES, expiry_ms};
    uint64_t expected = right_version ? item->version : item->version ^ 1, version = 0;
    enum kv_status status =
        kv_store(&r->s.t, &key, &value, condition, expected, r->now_ms, &version);
    uint64_t record = align_up(KV_RECORD_HEADER_BYTES + KV_EXPIRY_BYTES + key.length + length);
    enum kv_status wanted = KV_DONE;
    if (length > r->s.t.geometry.value_bytes_max || record > r->s.t.geometry.largest_record)
        wanted = KV_TOO_LARGE;
    else if (condition == KV_ADD && here)
        wanted = KV_REFUSED;
    else if ((condition == KV_REPLACE || condition == KV_CAS) && !here)
        wanted = KV_MISSING;
    else if (condition == KV_CAS && !right_version)
        wanted = KV_REFUSED;
    CHECK(status == wanted, "storing key %u: status %d, not %d", n, (int)status, (int)wanted);
    if (status != KV_DONE)
        return;
    *item = (struct item){.here = true, .length = length, .seed = seed, .expiry_ms = expiry_ms};
    new_version(r, &key, item, version);
    struct item seen;
    CHECK(expiry_ms != 0 || read_key(r, n, &seen), "key %u was stored and is not there", n);
}

static void increment(struct run *r, uint32_t n, int64_t delta, bool create, uint64_t expiry_ms) {
    uint8_t key_bytes[KEY_BUFFER_BYTES];
    struct kv_key key = numbered_key(&r->s.t, n, key_bytes);
    struct item *item = &r->items[n];
    struct kv_view view;
    bool here = look(r, n);
    int64_t initial = (int64_t)n, result = 0, sum;
    bool over = __builtin_add_overflow(here ? item->number : initial, delta, &sum);
    uint64_t record = align_up(KV_RECORD_HEADER_BYTES + KV_EXPIRY_BYTES + align_up(key.length) +
                               KV_COUNTER_BYTES);
    enum kv_status status = kv_increment(&r->s.t, &key, delta, create ? &initial : NULL,
                                         expiry_ms, r->now_ms, &result);
    enum kv_status wanted = KV_DONE;
    if (!here && !create)
        wanted = KV_MISSING;
    else if (here && !item->counter)
        wanted = KV_NOT_COUNTER;
    else if (over)
        wanted = KV_OVERFLOW;
    else if (!here && record > r->s.t.geometry.largest_record)
        wanted = KV_TOO_LARGE;
    CHECK(status == wanted, "counting key %u: status %d, not %d", n, (int)status, (int)wanted);
    if (status != KV_DONE)
        return;
    CHECK(result == sum, "key %u: a wrong sum", n);
    if (!here)
        *item = (struct item){.here = true, .counter = true, .expiry_ms = expiry_ms};
    item->number = sum;
    CHECK(kv_find(&r->s.t, &key, &view) == KV_DONE, "key %u was counted and is not there", n);
    new_version(r, &key, item, view.cas);
}

static void delete_key(struct run *r, uint32_t n) {
    uint8_t key_bytes[KEY_BUFFER_BYTES];
    struct kv_key key = numbered_key(&r->s.t, n, key_bytes);
    bool here = look(r, n);
    enum kv_status status = kv_delete(&r->s.t, &key, r->now_ms);
    CHECK(status == (here ? KV_DONE : KV_MISSING), "deleting key %u: %d", n, (int)status);
    r->items[n].here = false;
}

static void touch(struct run *r, uint32_t n, uint64_t expiry_ms) {
    uint8_t key_bytes[KEY_BUFFER_BYTES];
    struct kv_key key = numbered_key(&r->s.t, n, key_bytes);
    bool here = look(r, n);
    enum kv_status status = kv_touch(&r->s.t, &key, expiry_ms, r->now_ms);
    CHECK(status == (here ? KV_DONE : KV_MISSING), "touching key %u: %d", n, (int)status);
    if (here)
        r->items[n].expiry_ms = expiry_ms;
}

static void flush(struct run *r, uint32_t shard) {
    uint8_t key_bytes[KEY_BUFFER_BYTES];
    for (uint32_t n = 0; n < KEYS; n++) {
        struct kv_key key = numbered_key(&r->s.t, n, key_bytes);
        if (key.shard != shard || !r->items[n].here)
            continue;
        look(r, n); /* what was evicted before is not the flush's doing */
        r->items[n].here = false;
    }
    kv_flush(&r->s.t, shard, r->now_ms);
}

/* As if an owner had died with its derived counters in any state. */
static void recover(struct run *r, uint32_t shard, uint32_t garbage) {
    struct kv_shard *header = shard_header(&r->s.t, shard);
    if (garbage & 1)
        STORE(header->small_live, UINT64_C(0x0101010101010101) * garbage);
    if (garbage & 2)
        STORE(header->main_live, UINT64_C(0x0101010101010101) * garbage);
    if (garbage & 4)
        STORE(header->items, garbage);
    if (garbage & 8)
        STORE(header->overflow_free, 0);
    kv_recover(&r->s.t, shard);
}

/* Each live key comes up in a walk over the buckets, once. */
static void scan(struct run *r) {
    uint32_t here = 0, scanned = 0;
    for (uint32_t n = 0; n < KEYS; n++)
        here += look(r, n);
    for (uint32_t shard = 0; shard < r->s.t.geometry.shards; shard++) {
        for (uint32_t bucket = 0; bucket < r->s.t.geometry.buckets; bucket++) {
            struct kv_cursor cursor = {0, 0, 0};
            struct kv_view view;
            while (kv_next_in_bucket(&r->s.t, shard, bucket, &cursor, &view))
                scanned += !kv_view_flushed(&r->s.t, shard, &view) &&
                           (view.expiry_ms == 0 || view.expiry_ms > r->now_ms);
        }
    }
    CHECK(here == scanned, "%u keys are there, a scan gives %u", here, scanned);
}

static void compare(struct run *r) {
    uint64_t evicted = 0;
    scan(r);
    for (uint32_t shard = 0; shard < r->s.t.geometry.shards; shard++) {
        struct kv_violation first;
        struct kv_counts counts;
        uint32_t violations = small_verify(&r->s, shard, &first);
        CHECK(violations == 0, "V%u at %llu, %u in all", first.rule,
              (unsigned long long)first.where, violations);
        kv_counts_of(&r->s.t, shard, &counts);
        evicted += counts.statistics[KV_EVICTIONS] + counts.statistics[KV_INDEX_EVICTIONS];
    }
    CHECK(r->lost <= evicted, "%llu are lost, %llu evicted", (unsigned long long)r->lost,
          (unsigned long long)evicted);
}

/* Many sets in a row, so that a short input wraps the logs. */
static void fill(struct run *r, struct input *input) {
    uint32_t first = take16(input), count = 1 + take8(input) % 64, length = take16(input);
    for (uint32_t i = 0; i < count; i++)
        store(r, (first + i) % KEYS, length, first + i, 0, KV_SET, true);
}

/* In the roomy table only the first keys are used, all of which fit. */
static uint32_t take_key(struct run *r, struct input *input) {
    uint32_t n = take16(input);
    return r->roomy ? n % 64 : n % KEYS;
}

static void step(struct run *r, struct input *input) {
    uint32_t shards = r->s.t.geometry.shards;
    uint32_t operation = take8(input) % 16;
    uint32_t n = take_key(r, input);
    struct item seen;
    switch (operation) {
    case 0: case 1: case 2: case 3: { /* set twice as often, and the three conditions */
        static const enum kv_condition conditions[] = {KV_SET, KV_ADD, KV_REPLACE, KV_CAS};
        uint32_t length = take16(input), seed = take8(input);
        uint64_t expiry_ms = take_expiry(r, input);
        store(r, n, length, seed, expiry_ms, conditions[operation], seed & 3);
        break;
    }
    case 4: delete_key(r, n); break;
    case 5: touch(r, n, take_expiry(r, input)); break;
    case 6: increment(r, n, (int8_t)take8(input), true, take_expiry(r, input)); break;
    case 7: increment(r, n, (int64_t)take64(input), take8(input) & 1, 0); break;
    case 8: flush(r, n % shards); break;
    case 9: {
        uint32_t buckets = r->s.t.geometry.buckets, count = take8(input);
        uint32_t next = kv_sweep(&r->s.t, n % shards, n % (buckets + 1), count, r->now_ms);
        CHECK(next < buckets, "the sweep goes on at %u", next);
        break;
    }
    case 10: r->now_ms += take8(input); break;
    case 11: recover(r, n % shards, take8(input)); break;
    case 12: /* many processes may write any hint */
        r->s.hints[KV_HINTS_HEADER_BYTES + n * 7 % (r->s.hints_bytes - KV_HINTS_HEADER_BYTES)] =
            (uint8_t)take8(input);
        break;
    case 13: if (!r->roomy) fill(r, input); break;
    case 14: compare(r); break;
    default: /* a read that counts */
        if (read_key(r, n, &seen)) {
            uint8_t key_bytes[KEY_BUFFER_BYTES];
            struct kv_key key = numbered_key(&r->s.t, n, key_bytes);
            struct kv_view view;
            CHECK(kv_find(&r->s.t, &key, &view) == KV_DONE, "key %u", n);
            (void)kv_view_touch(&r->s.t, &view);
            kv_count_read(&r->s.t, true);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct run r;
    struct input input = {data, size};
    memset(&r, 0, sizeof r);
    uint32_t shape = take8(&input);
    small_open(&r.s, shape, take8(&input));
    r.roomy = small_is_roomy(shape);
    r.now_ms = 1;
    uint32_t every = 16 + take8(&input);
    for (uint32_t steps = 1; input.left > 0; steps++) {
        step(&r, &input);
        if (steps % every == 0)
            compare(&r);
    }
    compare(&r);
    if (r.roomy)
        CHECK(r.lost == 0, "%llu are lost where all fit", (unsigned long long)r.lost);
    small_close(&r.s);
    return 0;
}
