/* Formatting the segments and attaching to them. Trusts nothing that it finds there. */
#include "access.h"

static uint64_t checksum(const struct kv_superblock *s) {
    /* FNV-1a: it must catch accidents, not attackers, who could write any checksum. */
    const uint8_t *bytes = (const uint8_t *)s;
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < offsetof(struct kv_superblock, checksum); i++)
        sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
    return sum;
}

bool kv_geometry_valid(const struct kv_geometry *g) {
    const uint64_t bound = UINT64_C(1) << 44; /* keeps every product below far from overflow */
    if (g->shards == 0 || g->shards > KV_SHARDS_MAX || g->buckets == 0 || g->ghost_lines == 0)
        return false;
    if (g->small_capacity % KV_LINE || g->main_capacity % KV_LINE || g->small_capacity == 0 ||
        g->main_capacity == 0 || g->small_capacity > bound || g->main_capacity > bound)
        return false;
    /* A longer record would leave no room to copy one before its own space is free. */
    if (g->largest_record % KV_ALIGNMENT || g->largest_record <= KV_RECORD_HEADER_BYTES ||
        g->largest_record > g->main_capacity / 4 || g->largest_record > UINT32_MAX)
        return false;
    uint64_t index = ((uint64_t)g->buckets + g->overflow) * KV_BUCKET_BYTES;
    uint64_t shard = KV_SHARD_HEADER_BYTES + index + (uint64_t)g->ghost_lines * KV_LINE +
                     g->small_capacity + g->main_capacity;
    uint64_t hints = ((uint64_t)g->buckets + g->overflow) * KV_HINTS_A_BUCKET;
    return g->shard_bytes == shard && g->table_bytes == KV_SUPERBLOCK_BYTES + g->shards * shard &&
           g->hints_bytes == KV_HINTS_HEADER_BYTES + g->shards * hints;
}

/* The segments are new and all zero: an empty table that lacks only the superblock and the
 * versions. The first version given out is the one after `last_version`. */
void kv_format(uint8_t *table, const struct kv_geometry *geometry, const uint8_t boot_id[16],
               const uint8_t instance_id[16], const uint64_t hash_key[4], uint64_t last_version) {
    struct kv_superblock *s = (struct kv_superblock *)(void *)table;
    s->magic = KV_MAGIC;
    s->layout_version = KV_LAYOUT_VERSION;
    memcpy(s->boot_id, boot_id, sizeof s->boot_id);
    memcpy(s->instance_id, instance_id, sizeof s->instance_id);
    memcpy(s->hash_key, hash_key, sizeof s->hash_key);
    s->geometry = *geometry;
    s->checksum = checksum(s);
    for (uint32_t shard = 0; shard < geometry->shards; shard++) {
        uint8_t *at = table + KV_SUPERBLOCK_BYTES + shard * geometry->shard_bytes;
        STORE(((struct kv_shard *)(void *)at)->sequence, last_version);
    }
    STORE_RELEASE(s->state, KV_STATE_READY);
}

/* The highest version that a table gave out, so that its successor goes on above it. The table may
 * be retired, damaged or of layout 2 or 3, whose headers lie at the same place. 0: it cannot be
 * read. */
uint64_t kv_last_version(const uint8_t *table, uint64_t table_bytes) {
    struct kv_superblock copy;
    uint64_t last = 0;
    if (table_bytes < KV_SUPERBLOCK_BYTES)
        return 0;
    memcpy(&copy, table, offsetof(struct kv_superblock, state));
    bool known = copy.layout_version >= 2 && copy.layout_version <= KV_LAYOUT_VERSION;
    if (copy.magic != KV_MAGIC || !known || copy.checksum != checksum(&copy) ||
        !kv_geometry_valid(&copy.geometry) || copy.geometry.table_bytes > table_bytes)
        return 0;
    for (uint32_t shard = 0; shard < copy.geometry.shards; shard++) {
        const uint8_t *at = table + KV_SUPERBLOCK_BYTES + shard * copy.geometry.shard_bytes;
        uint64_t sequence = LOAD(((const struct kv_shard *)(const void *)at)->sequence);
        if (sequence > last && sequence <= SOUND_NUMBER_MAX)
            last = sequence;
    }
    return last;
}

/* Fills t; returns NULL, or a sentence that says what is wrong with the segments. */
const char *kv_attach(struct kv_table *t, uint8_t *table, uint64_t table_bytes, uint8_t *hints,
                      uint64_t hints_bytes, const uint8_t boot_id[16]) {
    if (table_bytes < KV_SUPERBLOCK_BYTES || hints_bytes < KV_HINTS_HEADER_BYTES)
        return "it is too short";
    struct kv_superblock copy;
    uint32_t state = LOAD_ACQUIRE(((struct kv_superblock *)(void *)table)->state);
    memcpy(&copy, table, offsetof(struct kv_superblock, state));
    if (copy.magic != KV_MAGIC)
        return "it is not a kvserve table";
    if (copy.layout_version != KV_LAYOUT_VERSION)
        return "it has another layout version";
    if (state != KV_STATE_READY)
        return "it was never finished, or has been retired";
    if (copy.checksum != checksum(&copy))
        return "its superblock is damaged";
    if (memcmp(copy.boot_id, boot_id, sizeof copy.boot_id) != 0)
        return memcmp(copy.boot_id, boot_id, sizeof copy.boot_id - 4) == 0
                   ? "it was made in another time namespace, whose clocks are shifted, so that no "
                     "time to live means the same here; run both in one (see lsns -t time)"
                   : "it is from before the last reboot";
    if (!kv_geometry_valid(&copy.geometry))
        return "its geometry makes no sense";
    if (copy.geometry.table_bytes != table_bytes)
        return "it was cut short or lengthened";
    /* Their content is not checked: many clients may write it, and none may lock others out. */
    if (copy.geometry.hints_bytes != hints_bytes)
        return "its hints belong to another table";
    memset(t, 0, sizeof *t);
    t->base = table;
    t->hints = hints;
    t->stripes = ((struct kv_hints_header *)(void *)hints)->stripe;
    t->geometry = copy.geometry;
    memcpy(t->hash_key, copy.hash_key, sizeof t->hash_key);
    t->small_reciprocal = UINT64_MAX / copy.geometry.small_capacity;
    t->main_reciprocal = UINT64_MAX / copy.geometry.main_capacity;
    return NULL;
}

bool kv_ready(const struct kv_table *t) {
    return LOAD_ACQUIRE(superblock(t)->state) == KV_STATE_READY;
}

/* Marks this table as given up: attached processes let go of it and look for its successor. */
void kv_retire(uint8_t *table) {
    STORE_RELEASE(((struct kv_superblock *)(void *)table)->state, KV_STATE_RETIRED);
}

uint32_t kv_read_mode(const struct kv_table *t) {
    const struct kv_superblock *s = superblock(t);
    if (LOAD_ACQUIRE(s->state) != KV_STATE_READY)
        return 0;
    return KV_READS_HERE | (LOAD(s->read_policy) & (KV_MISSES_ASK_WORKER | KV_HITS_NEED_FRESHNESS));
}

/* Called before there are workers. The freshness of earlier ones ends: those may have served other
 * shards. */
void kv_set_read_policy(struct kv_table *t, uint32_t flags, uint32_t workers) {
    struct kv_superblock *s = superblock(t);
    for (uint32_t worker = 0; worker < KV_WORKERS_MAX; worker++)
        STORE(s->fresh_until_ms[worker], 0);
    STORE_RELEASE(s->workers, workers);
    STORE_RELEASE(s->read_policy, flags);
}

/* Until when hits of this shard may be served, if they need freshness. Call it before the lookup:
 * what is found then was in the table while it was fresh, or was put there later. */
uint64_t kv_fresh_until(const struct kv_table *t, uint32_t shard) {
    const struct kv_superblock *s = superblock(t);
    uint32_t workers = LOAD_ACQUIRE(s->workers);
    if (workers == 0 || workers > KV_WORKERS_MAX)
        return 0;
    return LOAD_ACQUIRE(s->fresh_until_ms[shard % workers]);
}

uint64_t kv_store_mark(const struct kv_table *t) { return LOAD(superblock(t)->store_mark); }

void kv_set_store_mark(struct kv_table *t, uint64_t mark) {
    STORE(superblock(t)->store_mark, mark);
}

void kv_extend_freshness(struct kv_table *t, uint32_t worker, uint64_t until_ms) {
    STORE_RELEASE(superblock(t)->fresh_until_ms[worker], until_ms);
}

void kv_instance_id(const struct kv_table *t, uint8_t instance_id[16]) {
    memcpy(instance_id, superblock(t)->instance_id, 16);
}

void kv_counts_of(const struct kv_table *t, uint32_t shard, struct kv_counts *counts) {
    const struct kv_shard *header = shard_header(t, shard);
    counts->items = LOAD(header->items);
    counts->live_bytes = LOAD(header->small_live) + LOAD(header->main_live);
    counts->overflow_used = LOAD(header->overflow_used);
    for (int i = 0; i < KV_STATISTICS; i++)
        counts->statistics[i] = LOAD(header->statistics[i]);
}

void kv_reads(const struct kv_table *t, uint64_t *hits, uint64_t *misses) {
    const struct kv_hints_header *header = (const struct kv_hints_header *)(void *)t->hints;
    *hits = *misses = 0;
    for (uint32_t i = 0; i < KV_READER_STRIPES; i++) {
        *hits += LOAD(header->stripe[i].hits);
        *misses += LOAD(header->stripe[i].misses);
    }
}
