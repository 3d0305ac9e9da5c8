/* What each worker is executing, so that a death shows which request it came over.
 *
 * A worker notes a request's ids before it executes the request and removes the note afterwards;
 * only it writes there. Before its successor notes anything, it keeps what it finds among the last
 * deaths. A client that lost its worker looks in both, in this order, and so misses nothing. */
#include "access.h"

void kv_begin_request(struct kv_table *t, uint32_t worker, uint64_t client, uint64_t request) {
    struct kv_execution *note = &superblock(t)->executing[worker];
    STORE(note->client, client);
    STORE_RELEASE(note->request, request);
}

void kv_end_request(struct kv_table *t, uint32_t worker) {
    STORE_RELEASE(superblock(t)->executing[worker].request, 0);
}

void kv_keep_request(struct kv_table *t, uint32_t worker) {
    struct kv_superblock *s = superblock(t);
    struct kv_execution *note = &s->executing[worker];
    uint64_t request = LOAD(note->request);
    if (request == 0)
        return;
    struct kv_execution *kept = &s->died[atomic_fetch_add(&s->deaths, 1) % KV_DEATHS_KEPT];
    STORE_RELEASE(kept->request, 0);
    STORE_RELEASE(kept->client, LOAD(note->client));
    STORE_RELEASE(kept->request, request);
    STORE_RELEASE(note->request, 0);
}

static bool tells_of(const struct kv_execution *note, uint64_t client, uint64_t request) {
    return LOAD_ACQUIRE(note->request) == request && LOAD_ACQUIRE(note->client) == client;
}

/* Whether a worker died while it executed this request, whose session has ended since. */
bool kv_died_over(const struct kv_table *t, uint64_t client, uint64_t request) {
    const struct kv_superblock *s = superblock(t);
    if (request == 0)
        return false; /* no request has this id */
    for (uint32_t worker = 0; worker < KV_WORKERS_MAX; worker++)
        if (tells_of(&s->executing[worker], client, request))
            return true;
    for (uint32_t n = 0; n < KV_DEATHS_KEPT; n++)
        if (tells_of(&s->died[n], client, request))
            return true;
    return false;
}
