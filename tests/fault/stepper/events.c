/* The change feed beside the table: what an action tells, and what is left of it after a kill.
 *
 * F1 The ring is whole: kv_feed_verify, and a consumer reads it to its end.
 * F2 An action tells all that it did and nothing else: its events, carried out on what readers saw
 *    before it, give what they see after it.
 * F3 A killed action has told the first of these events, none, or all; and of what it has told,
 *    nothing is still to be done.
 * F4 A successor begins with a gap.
 * F5 A consumer that is overtaken gets a whole event, and the right number of lost ones. */
#include "trial.h"

static uint32_t key_of(const struct trial *trial, const struct kv_event *event) {
    for (uint32_t key = 0; key < KEYS; key++)
        if (trial->keys.key[key].length == event->key_bytes &&
            memcmp(trial->keys.bytes[key], event->key, event->key_bytes) == 0)
            return key;
    return KEYS;
}

/* The events behind `from`, until there are no more. Returns how many. */
static uint32_t read_events(struct trial *trial, const struct world *world,
                            struct kv_feed_cursor from, struct told told[TOLD_MAX]) {
    struct kv_event event;
    enum kv_feed_status status;
    uint32_t count = 0;
    while ((status = kv_feed_next(&world->feed, &from, &event)) == KV_FEED_EVENT) {
        if (count == TOLD_MAX)
            give_up("an action tells more than is remembered");
        if (event.lost != 0)
            complain(trial, "F1: %lu events were lost", (unsigned long)event.lost);
        uint32_t key = event.key_bytes == 0 ? KEYS : key_of(trial, &event);
        if (event.key_bytes != 0 && key == KEYS)
            complain(trial, "F1: event %lu has a key that never was", (unsigned long)event.number);
        else if (key != KEYS && event.flags != trial->keys.key[key].flags)
            complain(trial, "F1: event %lu has another kind of key", (unsigned long)event.number);
        told[count++] = (struct told){event.kind, key, event.version};
    }
    if (status != KV_FEED_NONE)
        complain(trial, "F1: a consumer ends with status %d", status);
    return count;
}

static void check_ring(struct trial *trial, const struct world *world, const char *when) {
    const char *wrong = kv_feed_verify(&world->feed);
    if (wrong != NULL)
        complain(trial, "F1 %s: %s", when, wrong);
}

/* F2. The versions of the keys, 0 for a missing one, as the events change them. */
static void carry_out(const struct trial *trial, uint64_t version[KEYS]) {
    for (uint32_t i = 0; i < trial->told_count; i++) {
        const struct told *told = &trial->told[i];
        if (told->kind == KV_EVENT_FLUSH)
            memset(version, 0, KEYS * sizeof *version);
        else if (told->kind == KV_EVENT_SET)
            version[told->key] = told->version;
        else if (told->kind != KV_EVENT_TOUCH)
            version[told->key] = 0;
    }
}

/* Notes where the feed stands in the live world, from which on kills are judged. */
void events_begin(struct trial *trial) {
    trial->told_count = 0;
    if (kv_feed_begin(&trial->worlds.live.feed, &trial->feed_start, false) != KV_FEED_EVENT)
        complain(trial, "F1: the feed cannot be read");
}

/* The action was done on the scratch copy: what it told is what any state may have. */
void events_expect(struct trial *trial) {
    uint64_t version[KEYS];
    events_begin(trial);
    trial->told_count =
        read_events(trial, &trial->worlds.scratch, trial->feed_start, trial->told);
    for (uint32_t key = 0; key < KEYS; key++)
        version[key] = trial->before[key].found ? trial->before[key].version : 0;
    carry_out(trial, version);
    for (uint32_t key = 0; key < KEYS; key++)
        if (version[key] != (trial->after[key].found ? trial->after[key].version : 0))
            complain(trial, "F2: the events leave version %lu of key %u, not %lu",
                     (unsigned long)version[key], key,
                     (unsigned long)(trial->after[key].found ? trial->after[key].version : 0));
    bool touched = trial->action.kind == ACT_TOUCH && trial->effects.status == KV_DONE;
    if (touched && (trial->told_count == 0 ||
                    trial->told[trial->told_count - 1].kind != KV_EVENT_TOUCH))
        complain(trial, "F2: a touch was not told");
}

/* F3 on the scratch copy. `seen` is what readers see in it. */
void events_judge(struct trial *trial, const struct seen seen[KEYS]) {
    struct told told[TOLD_MAX];
    const struct world *world = &trial->worlds.scratch;
    check_ring(trial, world, "after a kill");
    uint32_t count = read_events(trial, world, trial->feed_start, told);
    if (count > trial->told_count || memcmp(told, trial->told, count * sizeof told[0]) != 0) {
        complain(trial, "F3: %u events, which the action does not tell", count);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        bool last = true;
        for (uint32_t later = i + 1; later < trial->told_count; later++)
            last &= told[i].key != trial->told[later].key;
        uint32_t key = told[i].key;
        if (last && key != KEYS && !same_seen(&seen[key], &trial->after[key]))
            complain(trial, "F3: key %u was told of too early", key);
    }
}

/* F4. The scratch copy's ring gets its next producer. */
void events_succeed(struct trial *trial) {
    struct world *world = &trial->worlds.scratch;
    struct kv_feed_cursor cursor = {0, 0};
    struct kv_event event;
    if (kv_feed_begin(&world->feed, &cursor, false) != KV_FEED_EVENT)
        complain(trial, "F1: the feed cannot be read");
    kv_feed_open(&world->feed, trial->action.now_ms);
    if (kv_feed_next(&world->feed, &cursor, &event) != KV_FEED_EVENT ||
        event.kind != KV_EVENT_GAP || event.lost != 0)
        complain(trial, "F4: a successor did not tell of the gap");
    check_ring(trial, world, "after a takeover");
}

static bool same_event(const struct kv_event *one, const struct kv_event *other) {
    return one->kind == other->kind && one->number == other->number &&
           one->version == other->version && one->unix_ms == other->unix_ms &&
           one->flags == other->flags && one->key_bytes == other->key_bytes &&
           memcmp(one->key, other->key, one->key_bytes) == 0;
}

/* Whether the event of this number is so in the live world. */
static bool is_there(const struct world *world, const struct kv_event *event) {
    struct kv_feed_cursor cursor;
    struct kv_event found;
    if (kv_feed_begin(&world->feed, &cursor, true) != KV_FEED_EVENT)
        return false;
    while (kv_feed_next(&world->feed, &cursor, &found) == KV_FEED_EVENT)
        if (found.number == event->number)
            return same_event(&found, event);
    return false;
}

/* F5. `first` and `last` are the states that the consumer began and ended in. */
void events_check_watch(struct trial *trial, const uint8_t *first, const uint8_t *last) {
    struct control *control = trial->worlds.control;
    struct world *scratch = &trial->worlds.scratch;
    if (control->watched != KV_FEED_EVENT) {
        complain(trial, "F5: an overtaken consumer got status %d", control->watched);
        return;
    }
    if (control->event.number != trial->feed_start.number + control->event.lost)
        complain(trial, "F5: an overtaken consumer miscounted");
    memcpy(scratch->segments, first, scratch->bytes);
    bool there = is_there(scratch, &control->event);
    memcpy(scratch->segments, last, scratch->bytes);
    if (!there && !is_there(scratch, &control->event))
        complain(trial, "F5: an overtaken consumer got a torn event");
}
