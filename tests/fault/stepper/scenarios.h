/* The scenarios: for each path of the core a state from which one action takes it. */
#ifndef STEPPER_SCENARIOS_H
#define STEPPER_SCENARIOS_H

#include "actions.h"

/* What one action did, as told by the table before and after. */
struct effects {
    enum kv_status status;
    uint64_t version;
    uint64_t count[KV_STATISTICS];
    uint64_t small_written;
    uint64_t main_written;
    uint64_t small_reclaimed;
    uint64_t main_reclaimed;
    bool small_pad;
    bool main_pad;
    int32_t linked;    /* overflow buckets that chains gained */
    int32_t pool_used; /* how far the bump pointer moved */
    bool own_passed;   /* the tail passed the record that the key had before */
    bool was_main;
    bool is_main;
    bool existed;
    struct seen before;
    struct seen after;
};

/* The random work that leads to the state. Weights. */
struct mix {
    uint32_t weight[ACT_KINDS];
    uint32_t keys; /* how many different ones */
    bool crowd;    /* all of one chain */
    uint32_t value_bytes_min;
    uint32_t value_bytes_max;
    uint32_t expiring_percent;
};

enum lock_story {
    LOCK_FREE,
    LOCK_HAS_WAITERS,  /* somebody begins to wait while the victim is inside */
    LOCK_OF_A_DEAD,    /* the owner died before the victim comes */
    LOCK_OF_A_FORMER,  /* the same, and another process lives in the owner's lease slot */
    LOCK_OF_A_LIVING,  /* the owner lives and does not let go */
};

struct scenario {
    const char *name;
    const struct plan *plan;
    const struct mix *mix;
    enum kind kind;
    uint32_t value_bytes_min;
    uint32_t value_bytes_max;
    bool (*wanted)(const struct effects *effects);
    enum lock_story lock;
    bool takeover; /* also kill those who take over from its dead */
};

extern const struct scenario scenarios[];
extern const uint32_t scenario_count;

void random_action(const struct mix *mix, uint64_t *random, uint64_t *next_id, uint64_t now_ms,
                   struct action *action);
bool scenario_reach(const struct scenario *scenario, struct worlds *worlds,
                    const struct keys *keys, uint64_t *random, struct action *action,
                    struct effects *effects);
struct effects effects_of(struct worlds *worlds, const struct keys *keys,
                          const struct action *action);

#endif
