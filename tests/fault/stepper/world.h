/* A small table in memory of our own, who may own its lock, and copies of it to try things on.
 *
 * Two worlds of the same geometry: the live one is shared with the child that is stepped; the
 * scratch one is private, and is where a copied state is judged, worked on and thrown away. */
#ifndef STEPPER_WORLD_H
#define STEPPER_WORLD_H

#include "feed.h"
#include "view.h"

#define SHARD 0u
#define FEED_CAPACITY 16384u /* more than the longest action tells */
#define VALUE_BYTES_MAX 1024u
#define CHILD_PHASE_READY 0u
#define CHILD_PHASE_INSIDE 1u
#define CHILD_PHASE_DONE 2u

/* Lease slots: who plays which part. */
enum part { SURVIVOR = 1, VICTIM = 2, HOLDER = 3, SUCCESSOR = 4 };

/* What a plan says of a table; the rest of the geometry follows. */
struct plan {
    uint32_t buckets;
    uint32_t overflow;
    uint32_t ghost_lines;
    uint64_t small_capacity;
    uint64_t main_capacity;
    uint64_t largest_record;
};

/* What a reader carried home, before anybody looks whether it makes sense. */
struct carried {
    enum kv_status status; /* KV_DONE, KV_MISSING or KV_CONTENDED */
    uint32_t codec;
    uint32_t value_bytes;
    uint64_t version;
    uint64_t expiry_ms;
    int64_t number;
    uint8_t bytes[VALUE_BYTES_MAX];
};

#define SCANNED_MAX 256u
#define KEY_BYTES_MAX 48u

/* A key that a scan met. */
struct met {
    uint32_t length;
    uint8_t bytes[KEY_BYTES_MAX];
};

/* What the child and its tracer share beside the segments. Not part of the table's state. */
struct control {
    _Atomic uint32_t phase;
    _Atomic uint32_t won; /* whether the child got the lock */
    sem_t semaphore;
    struct carried carried;
    enum kv_feed_status watched;
    struct kv_event event;
    uint32_t met_count;
    struct met met[SCANNED_MAX];
};

struct world {
    uint8_t *segments; /* the table, the hints, the change feed */
    size_t bytes;
    struct kv_table table;
    struct kv_feed feed;
};

struct worlds {
    struct world live;
    struct world scratch;
    struct control *control;
    int lease;
    sem_t *semaphores[1];
    sem_t quiet; /* for those who judge: the child's must tell what the child did */
    sem_t *quiet_semaphores[1];
    uint64_t word[8]; /* of each part, once it has joined */
};

void worlds_open(struct worlds *worlds, const struct plan *plan, uint64_t seed);
void worlds_close(struct worlds *worlds);
struct kv_owner owner_of(struct worlds *worlds, enum part part);
void lease_take(const struct worlds *worlds, enum part part);
void world_copy(struct world *to, const struct world *from);
bool world_same(const struct world *world, const uint8_t *segments);
uint64_t world_digest(const struct world *world);
uint32_t linked_buckets(const struct world *world);
uint64_t lock_word(const struct world *world);

/* A generator that replays from its seed: splitmix64, by Sebastiano Vigna, public domain. */
static inline uint64_t random_next(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline uint32_t random_below(uint64_t *state, uint32_t bound) {
    return (uint32_t)((random_next(state) >> 32) * bound >> 32);
}

/* Ends the run: something is wrong with the machine or with these tests, not with the core. */
_Noreturn void give_up(const char *why);

#endif
