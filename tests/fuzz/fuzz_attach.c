/* Fuzz target: a table whose bytes were damaged is attached to, read, verified and recovered.
 *
 * The first bytes choose a geometry and a content; then come damages: which region, where, what.
 * Attaching must refuse, or every read end in a hit or a miss; verifying must end in a report;
 * recovering must end. If verifying then finds nothing, the table may be adopted: writers must go
 * on with it, and it must stay whole. Nothing may be read beyond the segments, ever. */
#include "small_table.h"

#define KEYS 300u
#define VALUE_BYTES_MAX 4096u

static void put(struct kv_table *t, uint32_t n, uint32_t length, uint64_t expiry_ms) {
    uint8_t key_bytes[KEY_BUFFER_BYTES], value_bytes[VALUE_BYTES_MAX];
    struct kv_key key = numbered_key(t, n, key_bytes);
    fill_value(value_bytes, length, n);
    struct kv_value value = {value_bytes, length, n % 3 ? KV_CODEC_BYTES : KV_CODEC_TEXT,
                             expiry_ms};
    uint64_t version;
    (void)kv_store(t, &key, &value, KV_SET, 0, 1, &version);
}

static void count_key(struct kv_table *t, uint32_t n) {
    uint8_t key_bytes[KEY_BUFFER_BYTES];
    struct kv_key key = numbered_key(t, n, key_bytes);
    int64_t initial = 0, result;
    (void)kv_increment(t, &key, 1, &initial, 0, 1, &result);
}

static void remove_key(struct kv_table *t, uint32_t n) {
    uint8_t key_bytes[KEY_BUFFER_BYTES];
    struct kv_key key = numbered_key(t, n, key_bytes);
    (void)kv_delete(t, &key, 1);
}

/* Some of everything: both logs, pads, chains, holes, counters, what expires, a flush. */
static void work(struct kv_table *t, uint32_t content, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        uint32_t n = (i * 7 + content) % KEYS;
        put(t, n, (i * 37 + content * 11) % 200, i % 9 ? 0 : 2 + i % 50);
        if (i % 5 == 0)
            count_key(t, 400 + n % 20);
        if (i % 11 == 0)
            remove_key(t, (i * 3) % KEYS);
        if (content % 4 == 3 && i == count / 2)
            kv_flush(t, 0, 1);
    }
}

struct region {
    uint8_t *bytes;
    uint64_t size;
};

static struct region pick(struct small_table *s, uint32_t which, uint32_t shard) {
    const struct kv_geometry *g = &s->t.geometry;
    uint8_t *base = shard_base(&s->t, shard % g->shards);
    uint64_t buckets = (uint64_t)bucket_count(&s->t) * KV_BUCKET_BYTES;
    uint64_t ghost = (uint64_t)g->ghost_lines * KV_LINE;
    uint8_t *logs = base + KV_SHARD_HEADER_BYTES + buckets + ghost;
    switch (which % 8) {
    case 0: return (struct region){s->table, 264};
    case 1: return (struct region){base, KV_SHARD_HEADER_BYTES};
    case 2: case 3: return (struct region){base + KV_SHARD_HEADER_BYTES, buckets};
    case 4: return (struct region){logs - ghost, ghost};
    case 5: return (struct region){logs, g->small_capacity};
    case 6: return (struct region){logs + g->small_capacity, g->main_capacity};
    default: return (struct region){s->hints, s->hints_bytes};
    }
}

static uint64_t fnv(const uint8_t *bytes, uint64_t size) {
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    for (uint64_t i = 0; i < size; i++)
        sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
    return sum;
}

/* One damage: a byte, a word, a word near one that is there, a stretch, or a copied stretch. */
static void damage(struct small_table *s, struct input *input) {
    uint32_t kind = take8(input), where = take8(input);
    struct region region = pick(s, where, where >> 4);
    uint64_t word_at = take16(input) * 8 % (region.size & ~UINT64_C(7));
    uint64_t word;
    memcpy(&word, region.bytes + word_at, 8);
    switch (kind % 8) {
    case 0: region.bytes[word_at + (kind >> 3) % 8] = (uint8_t)take8(input); break;
    case 1: word = take64(input); break;
    case 2: word += (uint64_t)(int64_t)(int8_t)take8(input); break;
    case 3: word ^= UINT64_C(1) << take8(input) % 64; break;
    case 4: word = (word & UINT64_C(0xffffffff)) | (uint64_t)take16(input) << 32; break;
    case 5: word = (word & ~UINT64_C(0xffffffff)) | take16(input); break;
    case 6: memcpy(&word, region.bytes + take16(input) * 8 % (region.size & ~UINT64_C(7)), 8); break;
    default: {
        uint64_t size = take16(input) % 512;
        size = size > region.size - word_at ? region.size - word_at : size;
        memset(region.bytes + word_at, (int)take8(input), size);
    }
    }
    if (kind % 8 != 0 && kind % 8 != 7)
        memcpy(region.bytes + word_at, &word, 8);
}

/* As the Python face copies: what is not intact was overtaken, and is looked for again. */
static uint64_t copy_view(const struct kv_table *t, const struct kv_view *view) {
    uint64_t sum = fnv(view->key, view->key_bytes);
    if (view->flags & KV_FLAG_TAGGED)
        sum += (uint64_t)kv_view_tags(t, view);
    if (view->codec == KV_CODEC_COUNTER)
        return sum + (uint64_t)kv_view_counter(view);
    return sum + fnv(view->value, view->value_bytes) + view->flags;
}

static uint64_t read_all(const struct kv_table *t) {
    uint8_t key_bytes[KEY_BUFFER_BYTES];
    uint64_t sum = 0;
    for (uint32_t n = 0; n < 420; n++) {
        struct kv_key key = numbered_key(t, n, key_bytes);
        struct kv_view view;
        kv_prefetch_bucket(t, &key, &view);
        kv_prefetch_record(t, &key, &view);
        enum kv_status status = kv_find_prefetched(t, &key, &view);
        CHECK(kv_find(t, &key, &view) == status, "key %u: not in steps", n);
        if (status != KV_DONE)
            continue;
        sum += copy_view(t, &view) + kv_view_flushed(t, key.shard, &view);
        if (kv_view_intact(&view))
            (void)kv_view_touch(t, &view);
        CHECK((uintptr_t)view.record % KV_ALIGNMENT == 0, "key %u is not aligned", n);
    }
    for (uint32_t shard = 0; shard < t->geometry.shards; shard++) {
        for (uint32_t bucket = 0; bucket < t->geometry.buckets; bucket++) {
            struct kv_cursor cursor = {0, 0, 0};
            struct kv_view view;
            while (kv_next_in_bucket(t, shard, bucket, &cursor, &view)) {
                sum += copy_view(t, &view);
                (void)kv_view_touch(t, &view);
                /* A scan would look again, for ever: nobody writes, so it stays as it is. */
                CHECK(kv_view_intact(&view), "bucket %u is never intact", bucket);
                CHECK((uintptr_t)view.record % KV_ALIGNMENT == 0, "bucket %u", bucket);
            }
        }
        struct kv_counts counts;
        kv_counts_of(t, shard, &counts);
    }
    uint64_t hits, misses;
    kv_reads(t, &hits, &misses);
    return sum;
}

static uint32_t verify_all(struct small_table *s, struct kv_violation *first) {
    uint32_t violations = 0;
    for (uint32_t shard = 0; shard < s->t.geometry.shards; shard++)
        violations += small_verify(s, shard, first);
    return violations;
}

/* Whether no number of a sound shard passes the bound through the little work that follows. */
static bool numbers_have_room(struct small_table *s) {
    const uint64_t room = UINT64_C(1) << 32;
    for (uint32_t shard = 0; shard < s->t.geometry.shards; shard++) {
        struct kv_shard *header = shard_header(&s->t, shard);
        if (LOAD(header->sequence) > SOUND_NUMBER_MAX - room ||
            LOAD(header->small_head) > SOUND_NUMBER_MAX - room ||
            LOAD(header->main_head) > SOUND_NUMBER_MAX - room)
            return false;
    }
    return true;
}

static void adopt(struct small_table *s) {
    struct kv_violation first = {0, 0, 0};
    work(&s->t, 5, 200);
    CHECK(verify_all(s, &first) == 0, "adopted as whole, then V%u at %llu", first.rule,
          (unsigned long long)first.where);
    for (uint32_t shard = 0; shard < s->t.geometry.shards; shard++)
        (void)kv_sweep(&s->t, shard, 0, s->t.geometry.buckets, 100);
    work(&s->t, 2, 400);
    CHECK(verify_all(s, &first) == 0, "adopted and swept, then V%u at %llu", first.rule,
          (unsigned long long)first.where);
    (void)read_all(&s->t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    struct small_table s;
    uint32_t shape = take8(&input);
    uint32_t lived = take8(&input), content = take8(&input);
    small_open(&s, shape, lived);
    work(&s.t, content, 60 + content);
    uint32_t options = take8(&input);
    bool mend_checksum = options & 1, nobody_died = options & 2;
    while (input.left > 0)
        damage(&s, &input);
    struct kv_superblock *block = superblock(&s.t);
    if (mend_checksum)
        block->checksum = fnv(s.table, offsetof(struct kv_superblock, checksum));
    struct kv_table attached;
    const char *wrong = kv_attach(&attached, s.table, s.table_bytes, s.hints, s.hints_bytes,
                                  small_boot_id);
    if (wrong == NULL) {
        s.t = attached;
        free(s.scratch);
        s.scratch_bytes = kv_verify_scratch_bytes(&s.t);
        s.scratch = malloc(s.scratch_bytes);
        struct kv_violation first;
        (void)read_all(&s.t);
        (void)verify_all(&s, &first);
        for (uint32_t shard = 0; shard < s.t.geometry.shards && !nobody_died; shard++)
            kv_recover(&s.t, shard);
        (void)read_all(&s.t);
        if (verify_all(&s, &first) == 0 && numbers_have_room(&s))
            adopt(&s);
    }
    small_close(&s);
    return 0;
}
