/* What both fuzzers share: small tables in exact allocations, and the input as a stream of numbers.
 *
 * Each segment is an allocation of exactly its size, so that AddressSanitizer sees any access
 * beyond it; in a mapping the rest of the last page would hide that. */
#ifndef FUZZ_SMALL_TABLE_H
#define FUZZ_SMALL_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "view.h"

/* Says what is wrong, and dies in a way that every fuzzer notices. */
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not %s: ", __FILE__, __LINE__, #condition);                    \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

extern const uint8_t small_boot_id[16];

/* The input. After its end it gives zeros. */
struct input {
    const uint8_t *bytes;
    size_t left;
};
uint32_t take8(struct input *input);
uint32_t take16(struct input *input);
uint64_t take64(struct input *input);

struct small_table {
    struct kv_table t;
    uint8_t *table;
    uint8_t *hints;
    uint64_t table_bytes;
    uint64_t hints_bytes;
    uint8_t *scratch;
    uint64_t scratch_bytes;
};

#define SMALL_SHAPES 6u

/* A new, empty table. `shape`: which of the geometries. `lived`: how much was written in its former
 * life: 0 nothing, else so much that positions are about to cross a bound of their arithmetic. */
void small_open(struct small_table *s, uint32_t shape, uint32_t lived);
void small_close(struct small_table *s);
/* Whether the geometry holds all that the fuzzers store, so that nothing need be evicted. */
bool small_is_roomy(uint32_t shape);
uint32_t small_verify(struct small_table *s, uint32_t shard, struct kv_violation *first);

/* Key number `n`: the same bytes for the same number, 1 to 60 bytes, every 64th one long. */
#define KEY_BUFFER_BYTES 1024u
struct kv_key numbered_key(const struct kv_table *t, uint32_t n, uint8_t buffer[KEY_BUFFER_BYTES]);
/* The bytes of a value: the same for the same seed. */
void fill_value(uint8_t *bytes, uint32_t length, uint32_t seed);
bool is_value(const uint8_t *bytes, uint32_t length, uint32_t seed);

#endif
