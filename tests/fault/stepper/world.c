/* Making, copying and comparing the small tables. The core alone touches what is inside them. */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

void give_up(const char *why) {
    (void)fprintf(stderr, "stepper: %s (%s)\n", why, strerror(errno));
    exit(2);
}

static struct kv_geometry geometry_of(const struct plan *plan) {
    struct kv_geometry g = {
        .small_capacity = plan->small_capacity,
        .main_capacity = plan->main_capacity,
        .largest_record = plan->largest_record,
        .value_bytes_max = plan->largest_record - KV_RECORD_HEADER_BYTES - 64,
        .item_bytes = 48,
        .shards = 1,
        .buckets = plan->buckets,
        .overflow = plan->overflow,
        .ghost_lines = plan->ghost_lines,
    };
    uint64_t buckets = (uint64_t)plan->buckets + plan->overflow;
    g.shard_bytes = KV_SHARD_HEADER_BYTES + buckets * KV_BUCKET_BYTES +
                    (uint64_t)plan->ghost_lines * KV_LINE + g.small_capacity + g.main_capacity;
    g.table_bytes = KV_SUPERBLOCK_BYTES + g.shard_bytes;
    g.hints_bytes = KV_HINTS_HEADER_BYTES + buckets * KV_HINTS_A_BUCKET;
    if (!kv_geometry_valid(&g) || g.value_bytes_max > VALUE_BYTES_MAX)
        give_up("a plan makes no valid geometry; has the layout changed?");
    return g;
}

static void *map(size_t bytes, int sharing) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        give_up("no memory");
    return at;
}

static size_t feed_bytes(void) { return kv_feed_segment_bytes(1, FEED_CAPACITY); }

static void attach(struct world *world, const struct kv_geometry *g, const uint8_t boot_id[16]) {
    const char *wrong = kv_attach(&world->table, world->segments, g->table_bytes,
                                  world->segments + g->table_bytes, g->hints_bytes, boot_id);
    if (wrong == NULL)
        wrong = kv_feed_attach(&world->feed, world->segments + world->bytes - feed_bytes(),
                               feed_bytes(), 0);
    if (wrong != NULL)
        give_up(wrong);
    world->table.feed = &world->feed;
}

/* Events are overwritten from the first action on. */
static void fill_feed(struct kv_feed *feed) {
    static const uint8_t key[] = "of long ago";
    kv_feed_open(feed, 0);
    for (uint32_t i = 0; i < FEED_CAPACITY / KV_FEED_EVENT_HEADER_BYTES; i++)
        kv_feed_emit(feed, KV_EVENT_TOUCH, key, i % sizeof key, 0, i, i);
}

void worlds_open(struct worlds *worlds, const struct plan *plan, uint64_t seed) {
    static const uint8_t boot_id[16] = {1}, instance_id[16] = {2};
    struct kv_geometry g = geometry_of(plan);
    size_t bytes = g.table_bytes + g.hints_bytes + feed_bytes();
    uint64_t hash_key[4];
    for (int i = 0; i < 4; i++)
        hash_key[i] = random_next(&seed);
    memset(worlds, 0, sizeof *worlds);
    worlds->live = (struct world){.segments = map(bytes, MAP_SHARED), .bytes = bytes};
    worlds->scratch = (struct world){.segments = map(bytes, MAP_PRIVATE), .bytes = bytes};
    worlds->control = map(sizeof *worlds->control, MAP_SHARED);
    kv_format(worlds->live.segments, &g, boot_id, instance_id, hash_key, 0);
    kv_feed_format(worlds->live.segments + bytes - feed_bytes(), 1, FEED_CAPACITY);
    world_copy(&worlds->scratch, &worlds->live);
    attach(&worlds->live, &g, boot_id);
    attach(&worlds->scratch, &g, boot_id);
    fill_feed(&worlds->live.feed);
    worlds->lease = memfd_create("lease", MFD_CLOEXEC);
    if (worlds->lease < 0 || ftruncate(worlds->lease, KV_LEASE_SLOTS) != 0 ||
        sem_init(&worlds->control->semaphore, 1, 0) != 0 || sem_init(&worlds->quiet, 0, 0) != 0)
        give_up("no lease file or semaphore");
    worlds->semaphores[0] = &worlds->control->semaphore;
    worlds->quiet_semaphores[0] = &worlds->quiet;
    for (uint32_t part = SURVIVOR; part <= SUCCESSOR; part++)
        worlds->word[part] = kv_join(&worlds->live.table, part);
    lease_take(worlds, SURVIVOR);
}

void worlds_close(struct worlds *worlds) {
    close(worlds->lease);
    munmap(worlds->control, sizeof *worlds->control);
    munmap(worlds->scratch.segments, worlds->scratch.bytes);
    munmap(worlds->live.segments, worlds->live.bytes);
}

struct kv_owner owner_of(struct worlds *worlds, enum part part) {
    bool judges = part == SURVIVOR || part == HOLDER;
    return (struct kv_owner){worlds->word[part], worlds->lease,
                             judges ? worlds->quiet_semaphores : worlds->semaphores, NULL};
}

/* The calling process lives in this slot from now on, as production does it: by a record lock. */
void lease_take(const struct worlds *worlds, enum part part) {
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)part, .l_len = 1};
    if (fcntl(worlds->lease, F_SETLK, &lock) != 0)
        give_up("a lease slot cannot be taken");
}

void world_copy(struct world *to, const struct world *from) {
    memcpy(to->segments, from->segments, from->bytes);
}

bool world_same(const struct world *world, const uint8_t *segments) {
    return memcmp(world->segments, segments, world->bytes) == 0;
}

uint64_t world_digest(const struct world *world) {
    uint64_t digest = 0;
    for (size_t i = 0; i < world->bytes; i += sizeof digest) {
        uint64_t word;
        memcpy(&word, world->segments + i, sizeof word);
        digest = (digest ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        digest ^= digest >> 32;
    }
    return digest;
}

uint32_t linked_buckets(const struct world *world) {
    uint32_t linked = 0;
    for (uint32_t number = 0; number < bucket_count(&world->table); number++)
        linked += LOAD(bucket_at(&world->table, SHARD, number)->next) != 0;
    return linked;
}

uint64_t lock_word(const struct world *world) { return kv_lock_held(&world->table, SHARD); }
