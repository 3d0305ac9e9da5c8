/* For ThreadSanitizer alone, put before each file of the core by -include: memcpy and memcmp become
 * loops of relaxed atomic loads and stores.
 *
 * Readers copy bytes that a writer may be writing again, and then learn from the tail that they
 * must not use them. In C that is a race unless each byte is atomic; on every machine that we run on
 * memcpy reads the same. So the core itself needs no second way of copying. The sanitizer does not
 * know fences either, and takes them for nothing: what it proves is that all else that threads
 * share, locks, tails, entries, hints and counters, is atomic or ordered by a lock. That no torn
 * bytes come out is the stress's own check. */
#ifndef FUZZ_RELAXED_H
#define FUZZ_RELAXED_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void *relaxed_copy(void *to, const void *from, size_t size) {
    uint8_t *target = to;
    const uint8_t *source = from;
    for (size_t i = 0; i < size; i++)
        __atomic_store_n(target + i, __atomic_load_n(source + i, __ATOMIC_RELAXED),
                         __ATOMIC_RELAXED);
    return to;
}

static inline int relaxed_compare(const void *left, const void *right, size_t size) {
    const uint8_t *one = left, *other = right;
    for (size_t i = 0; i < size; i++) {
        int difference = __atomic_load_n(one + i, __ATOMIC_RELAXED) -
                         __atomic_load_n(other + i, __ATOMIC_RELAXED);
        if (difference != 0)
            return difference;
    }
    return 0;
}

#undef memcpy
#undef memcmp
#define memcpy relaxed_copy
#define memcmp relaxed_compare

#endif
