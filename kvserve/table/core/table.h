/* The interface of the table's core: a hash table in shared memory that survives SIGKILL at any
 * instruction, and whose readers take no lock.
 *
 * Nothing here allocates, blocks, calls the system or knows Python, except acquire.c, which sleeps.
 * So it can be single-stepped, fuzzed and run under sanitizers by itself.
 *
 * Lookup, read and views need no lock. Everything that changes a shard needs its lock.
 *
 * `now_ms` is always the time on the clock of the expiries, which the caller reads. */
#ifndef KV_TABLE_H
#define KV_TABLE_H

#include <semaphore.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

enum kv_status {
    KV_DONE = 0,
    KV_MISSING,     /* no such key */
    KV_REFUSED,     /* the condition of add, replace or cas does not hold */
    KV_NOT_COUNTER, /* incr of something else */
    KV_OVERFLOW,    /* incr beyond 64 bits */
    KV_TOO_LARGE,   /* the record can never fit */
    KV_CONTENDED,   /* writers overtook a reader too often; look under the lock */
    KV_BUSY,        /* the lock's owner lives and does not let go */
};

/* One process's view of the segments. Geometry and hash key are copies, made and checked at attach:
 * later changes to the shared ones cannot mislead a reader. */
struct kv_feed;
struct kv_notes;
struct kv_reader_stripe;
struct kv_table {
    uint8_t *base;
    uint8_t *hints;
    struct kv_notes *notes; /* this process writes these instead of the hints; NULL: the hints */
    struct kv_reader_stripe *stripes; /* of the hints, or of the notes */
    struct kv_geometry geometry;
    uint64_t hash_key[4];
    uint64_t small_reciprocal; /* 2^64 / capacity, to find a place without a division */
    uint64_t main_reciprocal;
    uint32_t stripe; /* which of the readers' counters is ours */
    struct kv_feed *feed; /* this process emits its changes here; NULL: nowhere */
};

/* A record that a lookup found. Copy what you need, then call kv_view_intact. */
struct kv_view {
    const struct kv_record *record;
    const uint8_t *key;
    const uint8_t *value;
    const uint8_t *tags; /* where the value's tags begin, if it has the flag */
    uint32_t key_bytes;
    uint32_t value_bytes;
    uint32_t codec;
    uint32_t flags;
    uint64_t expiry_ms;
    uint64_t cas;
    const _Atomic uint64_t *tail;
    uint64_t position;
    uint64_t rest_bytes; /* from the record to the ring's end */
    _Atomic uint8_t *hint;
    const struct kv_bucket *home; /* see kv_prefetch_bucket */
};

struct kv_key {
    const uint8_t *bytes;
    uint32_t length;
    uint32_t flags; /* KV_FLAG_TEXT_KEY or 0 */
    uint64_t hash;
    uint32_t shard;
};

/* The hash's state after the whole 16-byte blocks of a prefix. */
struct kv_prefix_hash {
    uint64_t state;
    uint32_t bytes; /* that are in it */
};

/* Where a record without an expiry was found. See kv_note_place. */
struct kv_place {
    const _Atomic uint64_t *entry;
    const _Atomic uint64_t *flush_mark;
    uint64_t seen; /* the entry then */
    uint64_t cas;
    _Atomic uint8_t *hint;
};

struct kv_value {
    const uint8_t *bytes;
    uint32_t length;
    uint32_t codec; /* with KV_VALUE_TAGGED, if the bytes begin with tags */
    uint64_t expiry_ms;
};

/* As the expiry of a value that replaces another one: the other one's. */
#define KV_EXPIRY_KEPT UINT64_MAX

enum kv_condition { KV_SET, KV_ADD, KV_REPLACE, KV_CAS };

/* attach.c: segments */
bool kv_geometry_valid(const struct kv_geometry *geometry);
void kv_format(uint8_t *table, const struct kv_geometry *geometry, const uint8_t boot_id[16],
               const uint8_t instance_id[16], const uint64_t hash_key[4], uint64_t last_version);
uint64_t kv_last_version(const uint8_t *table, uint64_t table_bytes);
const char *kv_attach(struct kv_table *t, uint8_t *table, uint64_t table_bytes, uint8_t *hints,
                      uint64_t hints_bytes, const uint8_t boot_id[16]);
bool kv_ready(const struct kv_table *t);

/* How to read now: 0 if the table was given up, else KV_READS_HERE and the flags of enum
 * kv_read_policy. */
#define KV_READS_HERE 0x80u
uint32_t kv_read_mode(const struct kv_table *t);
void kv_set_read_policy(struct kv_table *t, uint32_t flags, uint32_t workers);
uint64_t kv_fresh_until(const struct kv_table *t, uint32_t shard);
void kv_extend_freshness(struct kv_table *t, uint32_t worker, uint64_t until_ms);
uint64_t kv_store_mark(const struct kv_table *t);
void kv_set_store_mark(struct kv_table *t, uint64_t mark);
void kv_instance_id(const struct kv_table *t, uint8_t instance_id[16]);
void kv_retire(uint8_t *table);

/* Statistics of one shard, for people: each is right, but they are not of one instant. */
struct kv_counts {
    uint64_t items;
    uint64_t live_bytes;
    uint64_t overflow_used;
    uint64_t statistics[KV_STATISTICS];
};
void kv_counts_of(const struct kv_table *t, uint32_t shard, struct kv_counts *counts);
void kv_reads(const struct kv_table *t, uint64_t *hits, uint64_t *misses);

/* notes.c: reads by processes that may not write the hints */
void kv_write_notes(struct kv_table *t, uint8_t *notes);
bool kv_note(const struct kv_table *t, const _Atomic uint8_t *hint);
struct kv_noted {
    uint64_t written; /* how many notes were applied */
    uint64_t hits;
    uint64_t misses;
};
bool kv_read_notes(const struct kv_table *t, const uint8_t *bytes, uint64_t length,
                   struct kv_noted *now);
void kv_heed_notes(struct kv_table *t, const uint8_t *bytes, const struct kv_noted *now,
                   const struct kv_noted *before);

/* deaths.c: the requests that workers died over */
void kv_begin_request(struct kv_table *t, uint32_t worker, uint64_t client, uint64_t request);
void kv_end_request(struct kv_table *t, uint32_t worker);
void kv_keep_request(struct kv_table *t, uint32_t worker);
bool kv_died_over(const struct kv_table *t, uint64_t client, uint64_t request);

/* lookup.c: lookup without a lock */
void kv_locate(const struct kv_table *t, struct kv_key *key);
void kv_hash_prefix(const struct kv_table *t, const uint8_t *bytes, uint32_t length,
                    struct kv_prefix_hash *prefix);
void kv_locate_behind(const struct kv_table *t, const struct kv_prefix_hash *prefix,
                      struct kv_key *key);
enum kv_status kv_view_tags(const struct kv_table *t, const struct kv_view *view);
bool kv_record_lost_tags(const struct kv_table *t, const struct kv_record *record);
bool kv_note_place(const struct kv_table *t, const struct kv_key *key, const struct kv_view *view,
                   struct kv_place *place);
enum kv_status kv_find(const struct kv_table *t, const struct kv_key *key, struct kv_view *view);
void kv_prefetch_bucket(const struct kv_table *t, const struct kv_key *key, struct kv_view *view);
void kv_prefetch_record(const struct kv_table *t, const struct kv_key *key, struct kv_view *view);
enum kv_status kv_find_prefetched(const struct kv_table *t, const struct kv_key *key,
                           struct kv_view *view);

/* The records of one bucket's chain, one at a time; cursor starts as 0. Lock-free. */
struct kv_cursor {
    uint32_t bucket; /* where in the chain, number + 1; 0: at its beginning */
    uint32_t slot;
    uint32_t steps;
};
bool kv_next_in_bucket(const struct kv_table *t, uint32_t shard, uint32_t bucket,
                       struct kv_cursor *cursor, struct kv_view *view);

/* store.c: all changes; the shard's lock is held */
enum kv_status kv_store(struct kv_table *t, const struct kv_key *key, const struct kv_value *value,
                        enum kv_condition condition, uint64_t expected, uint64_t now_ms,
                        uint64_t *version);
enum kv_status kv_delete(struct kv_table *t, const struct kv_key *key, uint64_t now_ms);
enum kv_status kv_withdraw(struct kv_table *t, const struct kv_key *key, uint64_t now_ms);
enum kv_status kv_delete_version(struct kv_table *t, const struct kv_key *key, uint64_t version,
                                 uint64_t now_ms);
enum kv_status kv_touch(struct kv_table *t, const struct kv_key *key, uint64_t expiry_ms,
                        uint64_t now_ms);
enum kv_status kv_increment(struct kv_table *t, const struct kv_key *key, int64_t delta,
                            const int64_t *initial, uint64_t expiry_ms, uint64_t now_ms,
                            int64_t *result);
void kv_flush(struct kv_table *t, uint32_t shard, uint64_t now_ms);
uint32_t kv_sweep(struct kv_table *t, uint32_t shard, uint32_t bucket, uint32_t buckets,
                  uint64_t now_ms);

/* recover.c: after an owner died inside the lock, which the caller now holds */
void kv_recover(struct kv_table *t, uint32_t shard);

/* verify.c: the invariants; the lock is held, or no process writes */
struct kv_violation {
    uint32_t rule; /* the n of Vn */
    uint32_t unused;
    uint64_t where; /* a position, bucket or value, for people */
};
uint64_t kv_verify_scratch_bytes(const struct kv_table *t);
uint32_t kv_verify(struct kv_table *t, uint32_t shard, uint8_t *zeroed_scratch,
                   struct kv_violation *violations, uint32_t violations_max);

/* lock.c: the owned word */
uint64_t kv_lock_word(uint32_t slot, uint64_t incarnation);
uint32_t kv_lock_slot(uint64_t word);
bool kv_lock_try(_Atomic uint64_t *lock, uint64_t me);
bool kv_lock_spin(_Atomic uint64_t *lock, uint64_t me);
uint64_t kv_lock_announce(_Atomic uint64_t *lock);
bool kv_lock_take_contended(_Atomic uint64_t *lock, uint64_t me);
bool kv_lock_steal(_Atomic uint64_t *lock, uint64_t seen, uint64_t me);
bool kv_lock_same_owner(uint64_t word, uint64_t other);
bool kv_unlock(_Atomic uint64_t *lock);
_Atomic uint64_t *kv_shard_lock(const struct kv_table *t, uint32_t shard);
uint64_t kv_lock_held(const struct kv_table *t, uint32_t shard);

/* acquire.c: sleeping for the lock, and taking it from a dead owner */
struct kv_owner {
    uint64_t word; /* the value of a lock that we own */
    int lease;     /* descriptor of the lease file */
    sem_t **semaphores;
    /* How to sleep, NULL: by kv_sleep. It returns false if the lock must not be taken any more. */
    bool (*sleep)(const struct kv_owner *me, sem_t *semaphore, uint64_t milliseconds);
};
void kv_sleep(sem_t *semaphore, uint64_t milliseconds);
uint64_t kv_join(struct kv_table *t, uint32_t slot);
bool kv_owner_dead(const struct kv_table *t, const struct kv_owner *me, uint64_t word);
bool kv_try_acquire(struct kv_table *t, const struct kv_owner *me, uint32_t shard);
enum kv_status kv_acquire(struct kv_table *t, const struct kv_owner *me, uint32_t shard,
                          uint64_t timeout_ms);
bool kv_take_from_dead(struct kv_table *t, const struct kv_owner *me, uint32_t shard);
void kv_release(struct kv_table *t, const struct kv_owner *me, uint32_t shard);

#endif
