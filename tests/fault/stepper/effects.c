/* Doing an action on the scratch copy to see what it would do, and looking for a state where it
 * does what a scenario wants. States are looked for, not built by hand: so they stay right when
 * the core's layout or policy changes, and every seed gives others. */
#include "scenarios.h"

#define SEARCH_MAX 40000u
#define TRIES_A_STATE 4u
#define START_MS 1000000u

static bool in_main(const struct world *world, const struct kv_key *key, uint64_t *position) {
    struct kv_view view;
    if (kv_find(&world->table, key, &view) != KV_DONE)
        return false;
    *position = view.position;
    return view.tail == &shard_header(&world->table, SHARD)->main_tail;
}

static bool has_pad(const struct world *world, bool main_log, uint64_t from) {
    struct ring ring = ring_of(&world->table, SHARD, main_log);
    uint64_t head = LOAD(*ring.head), tail = LOAD(*ring.tail);
    for (uint64_t at = from < tail ? tail : from; at < head;) {
        struct shape shape = shape_of(LOAD(record_at(&ring, at)->shape));
        if (shape.flags & KV_FLAG_PAD)
            return true;
        at += record_length(shape);
    }
    return false;
}

/* Copies the live world, acts on the copy as the survivor, and compares. */
struct effects effects_of(struct worlds *worlds, const struct keys *keys,
                          const struct action *action) {
    struct world *live = &worlds->live, *scratch = &worlds->scratch;
    struct kv_owner owner = owner_of(worlds, SURVIVOR);
    struct kv_shard *was = shard_header(&live->table, SHARD);
    struct kv_shard *is = shard_header(&scratch->table, SHARD);
    const struct kv_key *key = &keys->key[action->key];
    struct effects e = {0};
    uint64_t position = 0, unused;
    e.before = observe(live, key, action->now_ms);
    e.was_main = in_main(live, key, &position);
    e.existed = position != 0 || e.before.found;
    world_copy(scratch, live);
    e.status = perform(&scratch->table, &owner, keys, action, &e.version);
    e.after = observe(scratch, key, action->now_ms);
    e.is_main = in_main(scratch, key, &unused);
    for (uint32_t i = 0; i < KV_STATISTICS; i++)
        e.count[i] = LOAD(is->statistics[i]) - LOAD(was->statistics[i]);
    e.small_written = LOAD(is->small_head) - LOAD(was->small_head);
    e.main_written = LOAD(is->main_head) - LOAD(was->main_head);
    e.small_reclaimed = LOAD(is->small_tail) - LOAD(was->small_tail);
    e.main_reclaimed = LOAD(is->main_tail) - LOAD(was->main_tail);
    e.small_pad = has_pad(scratch, false, LOAD(was->small_head));
    e.main_pad = has_pad(scratch, true, LOAD(was->main_head));
    e.linked = (int32_t)linked_buckets(scratch) - (int32_t)linked_buckets(live);
    e.pool_used = (int32_t)(LOAD(is->overflow_used) - LOAD(was->overflow_used));
    uint64_t tail = e.was_main ? LOAD(is->main_tail) : LOAD(is->small_tail);
    e.own_passed = e.before.found && position < tail;
    return e;
}

static enum kind random_kind(const struct mix *mix, uint64_t *random) {
    uint32_t total = 0, kind = 0;
    for (uint32_t i = 0; i < ACT_KINDS; i++)
        total += mix->weight[i];
    uint32_t left = random_below(random, total);
    while (left >= mix->weight[kind])
        left -= mix->weight[kind++];
    return (enum kind)kind;
}

void random_action(const struct mix *mix, uint64_t *random, uint64_t *next_id, uint64_t now_ms,
                   struct action *action) {
    uint32_t spread = mix->value_bytes_max - mix->value_bytes_min + 1;
    *action = (struct action){.kind = random_kind(mix, random), .now_ms = now_ms};
    action->key = (mix->crowd ? KEYS_USED : 0) + random_below(random, mix->keys);
    action->value_bytes = mix->value_bytes_min + random_below(random, spread);
    action->id = ++*next_id;
    action->delta = 1 + random_below(random, 1000);
    if (random_below(random, 100) < mix->expiring_percent)
        action->expiry_ms = now_ms + 1 + random_below(random, 60);
}

static void candidate(const struct scenario *scenario, const struct worlds *worlds,
                      const struct keys *keys, uint64_t *random, uint64_t *next_id,
                      uint64_t now_ms, struct action *action) {
    struct mix mix = *scenario->mix;
    mix.value_bytes_min = scenario->value_bytes_min;
    mix.value_bytes_max = scenario->value_bytes_max;
    mix.expiring_percent = 0;
    random_action(&mix, random, next_id, now_ms, action);
    action->kind = scenario->kind;
    if (action->kind == ACT_TOUCH)
        action->expiry_ms = now_ms + 1000;
    if (action->kind == ACT_CAS)
        action->expected = observe(&worlds->live, &keys->key[action->key], now_ms).version;
}

/* Works on the live world until an action of the scenario's kind does what it wants. */
bool scenario_reach(const struct scenario *scenario, struct worlds *worlds,
                    const struct keys *keys, uint64_t *random, struct action *action,
                    struct effects *effects) {
    struct kv_owner owner = owner_of(worlds, SURVIVOR);
    uint64_t next_id = 0, now_ms = START_MS, version;
    for (uint32_t search = 0; search < SEARCH_MAX; search++) {
        random_action(scenario->mix, random, &next_id, now_ms, action);
        perform(&worlds->live.table, &owner, keys, action, &version);
        now_ms++;
        for (uint32_t try = 0; try < TRIES_A_STATE; try++) {
            candidate(scenario, worlds, keys, random, &next_id, now_ms, action);
            *effects = effects_of(worlds, keys, action);
            if (scenario->wanted(effects))
                return true;
        }
    }
    return false;
}
