/* Does one operation of the core so many times, for callgrind to count.
 *
 * count GEOMETRY... hit|miss|set N
 *
 * The table is filled until it has been round twice, so that what is counted is an ordinary day:
 * hits all over the table, sets that must evict. */
#include <stdlib.h>
#include <string.h>

#include "view.h"

#define FIELDS 12
#define KEY_BYTES 12
#define VALUE_BYTES 100
#define NOW_MS 1000u

static const uint8_t boot_id[16], instance_id[16];
static const uint64_t hash_key[4] = {1, 2, 3, 4};

static struct kv_key key_of(const struct kv_table *t, uint64_t number, uint8_t bytes[KEY_BYTES]) {
    memset(bytes, 'k', KEY_BYTES);
    memcpy(bytes, &number, sizeof number);
    struct kv_key key = {.bytes = bytes, .length = KEY_BYTES};
    kv_locate(t, &key);
    return key;
}

static void set(struct kv_table *t, uint64_t number) {
    static const uint8_t bytes[VALUE_BYTES];
    uint8_t name[KEY_BYTES];
    struct kv_key key = key_of(t, number, name);
    struct kv_value value = {bytes, sizeof bytes, KV_CODEC_BYTES, 0};
    uint64_t version;
    (void)kv_store(t, &key, &value, KV_SET, 0, NOW_MS, &version);
}

static bool get(const struct kv_table *t, uint64_t number) {
    uint8_t name[KEY_BYTES];
    struct kv_key key = key_of(t, number, name);
    struct kv_view view;
    if (kv_find(t, &key, &view) != KV_DONE)
        return false;
    (void)kv_view_touch(t, &view);
    return kv_view_intact(&view);
}

int main(int argc, char **argv) {
    if (argc != FIELDS + 3)
        return 2;
    uint64_t f[FIELDS];
    for (int i = 0; i < FIELDS; i++)
        f[i] = strtoull(argv[i + 1], NULL, 10);
    struct kv_geometry g = {f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], (uint32_t)f[8],
                            (uint32_t)f[9], (uint32_t)f[10], (uint32_t)f[11]};
    const char *operation = argv[FIELDS + 1];
    uint64_t count = strtoull(argv[FIELDS + 2], NULL, 10);
    uint8_t *table = calloc(1, g.table_bytes), *hints = calloc(1, g.hints_bytes);
    struct kv_table t;
    kv_format(table, &g, boot_id, instance_id, hash_key, 0);
    if (kv_attach(&t, table, g.table_bytes, hints, g.hints_bytes, boot_id) != NULL)
        return 2;
    uint64_t filled = 2 * g.table_bytes / (KEY_BYTES + VALUE_BYTES);
    for (uint64_t n = 0; n < filled; n++)
        set(&t, n);
    uint64_t hits = 0;
    for (uint64_t n = 0; n < count; n++) {
        if (*operation == 's')
            set(&t, filled + n);
        else
            hits += get(&t, *operation == 'h' ? filled - 1 - n % 100 : filled + n);
    }
    if (*operation == 'h' && hits < count * 9 / 10)
        return 3; /* these would be misses */
    free(table);
    free(hints);
    return 0;
}
