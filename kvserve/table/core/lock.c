/* The owned lock word, without sleeping: see acquire.c for that.
 *
 * word: | waiters 1 | unused 7 | incarnation 40 | lease slot + 1, 16 |; 0 is free.
 *
 * It names its owner by a slot of the lease file and by the slot's incarnation. The owner's process
 * holds a record lock on the slot's byte, which the kernel releases when the process dies; the
 * incarnation makes a successor in the same slot another owner. (After nginx's shmtx: a word to
 * compare and swap, a semaphore to sleep on. After LMDB: a record lock to tell live owners from
 * dead ones.)
 *
 * Lock order: a thread never holds two shards' locks. */
#include "access.h"

#define WAITERS (UINT64_C(1) << 63)
#define INCARNATION_BITS 40
#define SPINS 100

uint64_t kv_lock_word(uint32_t slot, uint64_t incarnation) {
    uint64_t kept = incarnation & ((UINT64_C(1) << INCARNATION_BITS) - 1);
    return kept << 16 | (slot + 1);
}

uint32_t kv_lock_slot(uint64_t word) { return (uint32_t)(word & 0xffff) - 1; }

bool kv_lock_same_owner(uint64_t word, uint64_t other) { return ((word ^ other) & ~WAITERS) == 0; }

_Atomic uint64_t *kv_shard_lock(const struct kv_table *t, uint32_t shard) {
    return &shard_header(t, shard)->lock;
}

uint64_t kv_lock_held(const struct kv_table *t, uint32_t shard) {
    return LOAD(shard_header(t, shard)->lock);
}

static bool swap(_Atomic uint64_t *lock, uint64_t expected, uint64_t desired) {
    return atomic_compare_exchange_strong_explicit(lock, &expected, desired, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

bool kv_lock_try(_Atomic uint64_t *lock, uint64_t me) {
    return LOAD(*lock) == 0 && swap(lock, 0, me);
}

bool kv_lock_spin(_Atomic uint64_t *lock, uint64_t me) {
    for (int i = 0; i < SPINS; i++) {
        if (kv_lock_try(lock, me))
            return true;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    return false;
}

/* Asks the owner to wake a waiter when it unlocks. Returns what the lock then held; 0 if it was
 * free. */
uint64_t kv_lock_announce(_Atomic uint64_t *lock) {
    uint64_t seen = LOAD(*lock);
    while (seen != 0 && !(seen & WAITERS)) {
        if (atomic_compare_exchange_weak_explicit(lock, &seen, seen | WAITERS,
                                                  memory_order_relaxed, memory_order_relaxed))
            return seen | WAITERS;
    }
    return seen;
}

/* For a process that slept: there may be more sleepers, which the next unlock must wake. */
bool kv_lock_take_contended(_Atomic uint64_t *lock, uint64_t me) {
    return LOAD(*lock) == 0 && swap(lock, 0, me | WAITERS);
}

/* Takes the lock from a dead owner, unless another process did so first. */
bool kv_lock_steal(_Atomic uint64_t *lock, uint64_t seen, uint64_t me) {
    return swap(lock, seen, me | (seen & WAITERS));
}

/* Returns whether a process waits and should be woken. */
bool kv_unlock(_Atomic uint64_t *lock) {
    return (atomic_exchange_explicit(lock, 0, memory_order_release) & WAITERS) != 0;
}
