/* Getting a shard's lock when it is not free: sleeping, and taking it from a dead owner. The only
 * file of the core that calls the system.
 *
 * The semaphore is the channel to sleep on, not the lock: a lost post costs a waiter one timeout,
 * a post too many one look. Every sleeper wakes up by itself, so the cache goes on without any
 * post. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <time.h>

#include "access.h"

#define SLEEP_MS_FIRST 2
#define SLEEP_MS_MAX 20

static uint64_t monotonic_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void kv_sleep(sem_t *semaphore, uint64_t milliseconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)milliseconds * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    /* Woken, timed out or interrupted by a signal: in each case the caller looks again. */
    (void)sem_clockwait(semaphore, CLOCK_MONOTONIC, &until);
}

static bool sleep_for(const struct kv_owner *me, uint32_t shard, uint64_t milliseconds) {
    if (me->sleep != NULL)
        return me->sleep(me, me->semaphores[shard], milliseconds);
    kv_sleep(me->semaphores[shard], milliseconds);
    return true;
}

/* Takes the lease slot, whose record lock the caller holds; returns the word that names us. */
uint64_t kv_join(struct kv_table *t, uint32_t slot) {
    _Atomic uint64_t *incarnation = &superblock(t)->incarnation[slot];
    return kv_lock_word(slot, atomic_fetch_add(incarnation, 1) + 1);
}

/* Whether the owner that a lock word names is dead. */
bool kv_owner_dead(const struct kv_table *t, const struct kv_owner *me, uint64_t word) {
    uint32_t slot = kv_lock_slot(word);
    if (slot >= KV_LEASE_SLOTS)
        return true; /* no such owner ever joined */
    if (!kv_lock_same_owner(word, kv_lock_word(slot, LOAD(superblock(t)->incarnation[slot]))))
        return true;
    if (slot == kv_lock_slot(me->word))
        return false; /* us: a process is never shown its own record locks */
    struct flock query = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
    return fcntl(me->lease, F_GETLK, &query) == 0 && query.l_type == F_UNLCK;
}

/* If the lock's owner is dead: takes the lock, repairs the shard, and returns true. */
bool kv_take_from_dead(struct kv_table *t, const struct kv_owner *me, uint32_t shard) {
    _Atomic uint64_t *lock = kv_shard_lock(t, shard);
    uint64_t seen = LOAD_ACQUIRE(*lock);
    if (seen == 0 || !kv_owner_dead(t, me, seen) || !kv_lock_steal(lock, seen, me->word))
        return false;
    kv_recover(t, shard);
    return true;
}

bool kv_try_acquire(struct kv_table *t, const struct kv_owner *me, uint32_t shard) {
    return kv_lock_try(kv_shard_lock(t, shard), me->word);
}

/* Takes the shard's lock. KV_BUSY: its owner lives, stopped perhaps, and kept it for timeout_ms. */
enum kv_status kv_acquire(struct kv_table *t, const struct kv_owner *me, uint32_t shard,
                          uint64_t timeout_ms) {
    _Atomic uint64_t *lock = kv_shard_lock(t, shard);
    if (kv_lock_spin(lock, me->word))
        return KV_DONE;
    uint64_t deadline = monotonic_ms() + timeout_ms;
    uint64_t milliseconds = SLEEP_MS_FIRST;
    for (;;) {
        if (kv_lock_announce(lock) != 0 && !sleep_for(me, shard, milliseconds))
            return KV_BUSY;
        if (kv_lock_take_contended(lock, me->word) || kv_take_from_dead(t, me, shard))
            return KV_DONE;
        if (monotonic_ms() >= deadline)
            return KV_BUSY;
        milliseconds = milliseconds * 2 > SLEEP_MS_MAX ? SLEEP_MS_MAX : milliseconds * 2;
    }
}

void kv_release(struct kv_table *t, const struct kv_owner *me, uint32_t shard) {
    sem_t *semaphore = me->semaphores[shard];
    int value;
    if (kv_unlock(kv_shard_lock(t, shard)) && sem_getvalue(semaphore, &value) == 0 && value < 1)
        sem_post(semaphore);
}
