/* Small tables for the fuzzers: their geometries, their keys, their values. */
#define _GNU_SOURCE
#include "small_table.h"

const uint8_t small_boot_id[16] = "fuzzed boot id.";
static const uint8_t instance_id[16] = "fuzzed instance";
static const uint64_t hash_key[4] = {
    UINT64_C(0x9e3779b97f4a7c15), UINT64_C(0xd1b54a32d192ed03), UINT64_C(0xabc98388fb8fac03),
    UINT64_C(0x8cb92ba72f3d8dd7)};

uint32_t take8(struct input *input) {
    if (input->left == 0)
        return 0;
    input->left--;
    return *input->bytes++;
}

uint32_t take16(struct input *input) {
    uint32_t low = take8(input);
    return low | take8(input) << 8;
}

uint64_t take64(struct input *input) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 8)
        value |= (uint64_t)take8(input) << shift;
    return value;
}

/* Each strains another part. The first has room for everything. */
static const struct shape_row {
    uint32_t shards, buckets, overflow, ghost_lines;
    uint64_t small_capacity, main_capacity, largest_record;
} shapes[SMALL_SHAPES] = {
    {1, 64, 16, 8, 64 * 1024, 512 * 1024, 4096}, /* roomy */
    {1, 8, 2, 2, 1024, 8192, 1024},              /* everything is cramped */
    {1, 1, 8, 1, 4096, 32768, 2048},             /* one chain */
    {2, 16, 4, 1, 512, 4096, 512},               /* two shards of tiny logs */
    {1, 4, 0, 1, 64, 4096, 1024},                /* no overflow, no S to speak of, M/4 reserved */
    {1, 32, 8, 4, 8192, 2048, 256},              /* S larger than M */
};

bool small_is_roomy(uint32_t shape) { return shape % SMALL_SHAPES == 0; }

static struct kv_geometry geometry_of(const struct shape_row *row) {
    struct kv_geometry g = {
        .small_capacity = row->small_capacity,
        .main_capacity = row->main_capacity,
        .largest_record = row->largest_record,
        .value_bytes_max = row->largest_record - KV_RECORD_HEADER_BYTES,
        .item_bytes = 64,
        .shards = row->shards,
        .buckets = row->buckets,
        .overflow = row->overflow,
        .ghost_lines = row->ghost_lines,
    };
    uint64_t buckets = (uint64_t)row->buckets + row->overflow;
    g.shard_bytes = KV_SHARD_HEADER_BYTES + buckets * KV_BUCKET_BYTES +
                    (uint64_t)row->ghost_lines * KV_LINE + row->small_capacity + row->main_capacity;
    g.table_bytes = KV_SUPERBLOCK_BYTES + row->shards * g.shard_bytes;
    g.hints_bytes = KV_HINTS_HEADER_BYTES + row->shards * buckets * KV_HINTS_A_BUCKET;
    return g;
}

/* Where the logs begin: at 0, before the 47 bits of an entry's position run over, or late in the
 * life of a table that has been written to for ever. */
static const uint64_t former_lives[4] = {
    0, (UINT64_C(1) << 50) - 1024, UINT64_C(1) << 62, 1000000 * 8};

static uint8_t *zeroed(uint64_t bytes) {
    void *region = NULL;
    CHECK(posix_memalign(&region, KV_SUPERBLOCK_BYTES, bytes) == 0, "no memory");
    memset(region, 0, bytes);
    return region;
}

void small_open(struct small_table *s, uint32_t shape, uint32_t lived) {
    struct kv_geometry g = geometry_of(&shapes[shape % SMALL_SHAPES]);
    CHECK(kv_geometry_valid(&g), "shape %u", shape);
    s->table_bytes = g.table_bytes;
    s->hints_bytes = g.hints_bytes;
    s->table = zeroed(g.table_bytes);
    s->hints = zeroed(g.hints_bytes);
    kv_format(s->table, &g, small_boot_id, instance_id, hash_key, former_lives[lived % 4] / 8);
    const char *wrong = kv_attach(&s->t, s->table, g.table_bytes, s->hints, g.hints_bytes,
                                  small_boot_id);
    CHECK(wrong == NULL, "%s", wrong);
    for (uint32_t shard = 0; shard < g.shards; shard++) {
        struct kv_shard *header = shard_header(&s->t, shard);
        uint64_t position = former_lives[lived % 4];
        STORE(header->small_tail, position);
        STORE(header->small_head, position);
        STORE(header->main_tail, position);
        STORE(header->main_head, position);
    }
    s->scratch_bytes = kv_verify_scratch_bytes(&s->t);
    s->scratch = malloc(s->scratch_bytes);
    CHECK(s->scratch != NULL, "no memory");
}

void small_close(struct small_table *s) {
    free(s->table);
    free(s->hints);
    free(s->scratch);
}

uint32_t small_verify(struct small_table *s, uint32_t shard, struct kv_violation *first) {
    memset(s->scratch, 0, s->scratch_bytes);
    return kv_verify(&s->t, shard, s->scratch, first, 1);
}

struct kv_key numbered_key(const struct kv_table *t, uint32_t n, uint8_t buffer[KEY_BUFFER_BYTES]) {
    uint32_t length = n % 64 == 63 ? 200 + n % 50 : 1 + n * 7 % 60;
    for (uint32_t i = 0; i < length; i++)
        buffer[i] = (uint8_t)(n + i * 31);
    if (length > 1)
        buffer[1] = (uint8_t)(n >> 8);
    struct kv_key key = {.bytes = buffer, .length = length, .flags = n & KV_FLAG_TEXT_KEY};
    kv_locate(t, &key);
    return key;
}

void fill_value(uint8_t *bytes, uint32_t length, uint32_t seed) {
    for (uint32_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(seed * 31 + i * (seed | 1) + (i >> 8));
}

bool is_value(const uint8_t *bytes, uint32_t length, uint32_t seed) {
    for (uint32_t i = 0; i < length; i++)
        if (bytes[i] != (uint8_t)(seed * 31 + i * (seed | 1) + (i >> 8)))
            return false;
    return true;
}
