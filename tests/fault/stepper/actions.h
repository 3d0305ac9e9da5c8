/* What is done to a table, and what a lock-free reader sees in it. */
#ifndef STEPPER_ACTIONS_H
#define STEPPER_ACTIONS_H

#include "world.h"

#define KEYS 320u       /* numbers of keys; the first of them are for the scenarios */
#define KEYS_USED 160u
#define CROWD (KEYS - KEYS_USED) /* the rest: keys that meet in one chain */

enum kind {
    ACT_SET,
    ACT_ADD,
    ACT_REPLACE,
    ACT_CAS,
    ACT_DELETE,
    ACT_TOUCH,
    ACT_INCR,
    ACT_GET,
    ACT_FLUSH,
    ACT_SWEEP,
    ACT_ACQUIRE,  /* only takes the lock, and lets go of it if it got it */
    ACT_TAKEOVER, /* takes the lock from a dead owner */
    ACT_KINDS
};

struct action {
    enum kind kind;
    uint32_t key;
    uint32_t value_bytes;
    uint64_t id; /* what makes the value; never used twice */
    uint64_t expiry_ms;
    uint64_t expected; /* version, of a cas */
    int64_t delta;
    uint64_t now_ms;
};

/* What a reader learned of a key. */
struct seen {
    bool found;
    bool torn;      /* its bytes are of no value that was ever written */
    bool contended; /* it was overtaken for ever, which alone in a world it must not be */
    uint32_t codec;
    uint32_t value_bytes;
    uint64_t id;
    int64_t number;
    uint64_t version;
    uint64_t expiry_ms;
};

/* The keys' names, which depend on the table's hash for the crowd. */
struct keys {
    struct kv_key key[KEYS];
    uint8_t bytes[KEYS][KEY_BYTES_MAX];
};

void keys_make(struct keys *keys, const struct kv_table *table);
enum kv_status perform(struct kv_table *table, const struct kv_owner *owner,
                       const struct keys *keys, const struct action *action, uint64_t *version);
void carry(const struct kv_table *table, const struct kv_key *key, uint64_t now_ms, bool in_steps,
           struct carried *carried);
struct seen recognize(const struct carried *carried);
struct seen observe(const struct world *world, const struct kv_key *key, uint64_t now_ms);
void observe_all(const struct world *world, const struct keys *keys, uint64_t now_ms,
                 struct seen seen[KEYS]);
bool same_seen(const struct seen *one, const struct seen *other);
bool same_value(const struct seen *one, const struct seen *other);
struct seen promised(const struct action *action, const struct seen *before, uint64_t version);

#endif
