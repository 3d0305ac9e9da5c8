/* Going on after a death: random work against a model until both logs have gone round, then every
 * overflow bucket in use and given back (V12). */
#include "trial.h"

#define ACTIONS_MAX 4000u
#define CHECK_EVERY 64u

static const struct mix work = {
    .weight = {[ACT_SET] = 60, [ACT_ADD] = 6, [ACT_REPLACE] = 6, [ACT_CAS] = 6, [ACT_DELETE] = 10,
               [ACT_TOUCH] = 4, [ACT_INCR] = 10, [ACT_GET] = 20, [ACT_SWEEP] = 2},
    .keys = KEYS_USED,
    .value_bytes_min = 8,
    .value_bytes_max = 90,
    .expiring_percent = 10};

struct worker {
    struct trial *trial;
    struct seen *model; /* by key; an eviction may remove what it promises */
    uint64_t random;
    uint64_t next_id;
    uint64_t now_ms;
    uint64_t highest; /* version seen so far */
};

static enum kv_status wanted_status(const struct action *action, const struct seen *seen) {
    switch (action->kind) {
    case ACT_ADD:
        return seen->found ? KV_REFUSED : KV_DONE;
    case ACT_REPLACE:
    case ACT_DELETE:
    case ACT_TOUCH:
        return seen->found ? KV_DONE : KV_MISSING;
    case ACT_CAS:
        return !seen->found ? KV_MISSING
                            : (seen->version == action->expected ? KV_DONE : KV_REFUSED);
    case ACT_INCR:
        return seen->found && seen->codec != KV_CODEC_COUNTER ? KV_NOT_COUNTER : KV_DONE;
    default:
        return KV_DONE;
    }
}

/* What is in the table is what the model says, or nothing. */
static struct seen look(struct worker *worker, uint32_t key) {
    struct trial *trial = worker->trial;
    struct seen seen = observe(&trial->worlds.scratch, &trial->keys.key[key], worker->now_ms);
    struct seen *model = &worker->model[key];
    if (model->found && model->expiry_ms != 0 && model->expiry_ms <= worker->now_ms)
        *model = (struct seen){0};
    if (seen.torn || seen.contended || (seen.found && !same_seen(&seen, model)))
        complain(trial, "V11 at work: key %u is %s", key,
                 model->found ? "not what was stored" : "back from the dead");
    *model = seen;
    return seen;
}

static void act(struct worker *worker, const struct action *action) {
    struct trial *trial = worker->trial;
    struct kv_owner owner = owner_of(&trial->worlds, SURVIVOR);
    uint64_t version = 0;
    struct seen before = look(worker, action->key);
    enum kv_status status =
        perform(&trial->worlds.scratch.table, &owner, &trial->keys, action, &version);
    if (status != wanted_status(action, &before))
        complain(trial, "at work: action %d answered %d", action->kind, status);
    if (status != KV_DONE || action->kind == ACT_GET || action->kind == ACT_SWEEP)
        return;
    struct seen promise = promised(action, &before, version);
    struct seen after =
        observe(&trial->worlds.scratch, &trial->keys.key[action->key], worker->now_ms);
    if (action->kind == ACT_INCR)
        promise.version = after.version;
    if (!same_seen(&after, &promise))
        complain(trial, "V11 at work: action %d on key %u did not do what it says", action->kind,
                 action->key);
    if (action->kind <= ACT_CAS || action->kind == ACT_INCR) {
        if (after.version <= worker->highest)
            complain(trial, "V9 at work: version %lu after %lu", (unsigned long)after.version,
                     (unsigned long)worker->highest);
        worker->highest = after.version;
    }
    worker->model[action->key] = after;
}

static void look_at_all(struct worker *worker, const char *when) {
    for (uint32_t key = 0; key < KEYS; key++)
        look(worker, key);
    check_invariants(worker->trial, when);
}

/* Random work until both heads have gone once round their rings. */
static void go_round(struct worker *worker) {
    const struct kv_table *table = &worker->trial->worlds.scratch.table;
    struct kv_shard *header = shard_header(table, SHARD);
    uint64_t small_end = LOAD(header->small_head) + table->geometry.small_capacity;
    uint64_t main_end = LOAD(header->main_head) + table->geometry.main_capacity;
    for (uint32_t done = 0; done < ACTIONS_MAX; done++) {
        struct action action;
        if (LOAD(header->small_head) >= small_end && LOAD(header->main_head) >= main_end)
            return;
        worker->now_ms++;
        random_action(&work, &worker->random, &worker->next_id, worker->now_ms, &action);
        if (random_below(&worker->random, 8) == 0)
            action.value_bytes = 260 + random_below(&worker->random, 300);
        action.expected = worker->model[action.key].version;
        act(worker, &action);
        if (done % CHECK_EVERY == CHECK_EVERY - 1)
            check_invariants(worker->trial, "at work");
    }
    complain(worker->trial, "V12: the logs do not go round any more");
}

static void act_on(struct worker *worker, enum kind kind, uint32_t key) {
    struct action action = {.kind = kind, .key = key, .value_bytes = 8, .id = ++worker->next_id,
                            .now_ms = worker->now_ms};
    act(worker, &action);
}

/* V12: all overflow buckets can be had, hold keys, and are given back. */
static void use_every_bucket(struct worker *worker) {
    struct world *world = &worker->trial->worlds.scratch;
    uint32_t overflow = world->table.geometry.overflow;
    uint32_t crowd = KV_BUCKET_ENTRIES * (overflow + 1);
    if (crowd > CROWD)
        give_up("the crowd is too small for this plan");
    act_on(worker, ACT_FLUSH, 0);
    memset(worker->model, 0, KEYS * sizeof *worker->model);
    act_on(worker, ACT_SWEEP, 0);
    if (linked_buckets(world) != 0)
        complain(worker->trial, "V12: overflow buckets are kept by empty chains");
    for (uint32_t i = 0; i < crowd; i++)
        act_on(worker, ACT_SET, KEYS_USED + i);
    if (linked_buckets(world) != overflow)
        complain(worker->trial, "V12: %u of %u overflow buckets can be had",
                 linked_buckets(world), overflow);
    for (uint32_t i = 0; i < crowd; i++)
        if (!look(worker, KEYS_USED + i).found)
            complain(worker->trial, "V12: key %u got no slot", KEYS_USED + i);
    check_invariants(worker->trial, "with every bucket in use");
    for (uint32_t i = 0; i < crowd; i++)
        act_on(worker, ACT_DELETE, KEYS_USED + i);
    if (linked_buckets(world) != 0)
        complain(worker->trial, "V12: overflow buckets were not given back");
    check_invariants(worker->trial, "with every bucket given back");
}

/* Works on the scratch copy. The model is what readers saw in it, by key. */
void work_on(struct trial *trial, struct seen model[KEYS]) {
    struct worker worker = {.trial = trial,
                            .model = model,
                            .random = trial->seed ^ (trial->instruction << 20),
                            .next_id = UINT64_C(1) << 40,
                            .now_ms = trial->action.now_ms};
    for (uint32_t key = 0; key < KEYS; key++)
        if (model[key].found && model[key].version > worker.highest)
            worker.highest = model[key].version;
    go_round(&worker);
    look_at_all(&worker, "after work");
    use_every_bucket(&worker);
}
