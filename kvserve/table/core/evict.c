/* Making room: S3-FIFO (Yang et al., SOSP 2023) over two logs, with cleaning.
 *
 * New keys enter the small log S. At S's tail a record that was read twice, or for which the main
 * log M has room anyway, moves to M. Any other leaves, and the ghost remembers its hash, so that it
 * enters M directly if it comes back soon. At M's tail a record that was read goes round again,
 * with one read less. Where overwrites left holes in M, M is cleaned instead: live records are
 * copied to the head, dead ones give their space back.
 *
 * Beyond the published algorithm: S never evicts while M has room, and the work of one operation
 * is bounded by the bytes that it writes, though one record of any length may always stay. When
 * its budget is spent, the record at the tail goes. An overwrite frees as many bytes as it brings,
 * so it never makes M too full to be cleaned: otherwise M would evict for it, and S would fill the
 * gap with records that were never read. */
#include "operation.h"

#define CLEAN_BELOW_PERCENT 88
/* With so much of a log alive, cleaning copies 7.3 bytes for each one written: less would evict. */
#define COPIES_A_BYTE 8u

static struct kv_ghost_line *ghost_line(const struct operation *op, uint64_t hash) {
    uint64_t line = ((hash >> 16 & 0xffffffff) * op->t->geometry.ghost_lines) >> 32;
    return ghost_at(op->t, op->shard, (uint32_t)line);
}

static void ghost_remember(const struct operation *op, uint64_t hash) {
    struct kv_ghost_line *line = ghost_line(op, hash);
    memmove(line->tag + 1, line->tag, (KV_GHOST_TAGS - 1) * sizeof line->tag[0]);
    line->tag[0] = (uint16_t)tag_of(hash);
}

/* Whether the ghost remembers this hash, which it then forgets. */
bool ghost_take(const struct operation *op, uint64_t hash) {
    struct kv_ghost_line *line = ghost_line(op, hash);
    for (uint32_t i = 0; i < KV_GHOST_TAGS; i++) {
        if (line->tag[i] != tag_of(hash))
            continue;
        memmove(line->tag + i, line->tag + i + 1,
                (KV_GHOST_TAGS - 1 - i) * sizeof line->tag[0]);
        line->tag[KV_GHOST_TAGS - 1] = 0;
        count(op->header, KV_GHOST_HITS);
        return true;
    }
    return false;
}

/* Copies a live record to the main log's head, where there is room, and points its entry there. */
static void move_to_main(struct operation *op, const struct slot_ref *ref, uint8_t hint) {
    struct ring main = ring_of(op->t, op->shard, true);
    uint64_t position;
    struct kv_record *copy = append(&main, ref->length, &position);
    memcpy((void *)copy, (const void *)ref->record, ref->length);
    STORE_RELEASE(*ref->entry, (LOAD(*ref->entry) & UINT64_C(0xffff) << 48) | KV_ENTRY_MAIN |
                                     (position / KV_ALIGNMENT & KV_ENTRY_POSITION_MASK));
    publish_head(&main, position, ref->length);
    STORE(*ref->hint, hint);
    if (!ref->main_log) {
        account(op, false, -(int64_t)ref->length, 0);
        account(op, true, (int64_t)ref->length, 0);
    }
}

static bool spend(uint32_t *copies, uint64_t *bytes, uint64_t length) {
    if (*copies == 0 || *bytes == 0)
        return false;
    *copies -= 1;
    *bytes -= length < *bytes ? length : *bytes; /* else a longer record could never stay */
    return true;
}

/* What M keeps free, so that a record at its tail can be copied before its own space is given up:
 * room for the longest record that M holds, and for a pad before it, which is shorter.
 *
 * Why that is always there, whichever process died where, and why making room always ends. Let C be
 * M's capacity, L the longest record in [tail, head), dead or alive, p the pad there, d the record
 * at the tail if it is dead; p and d are 0 if there is none. At each moment
 *
 *     head - tail <= C - 2 L + p + d                                                       (R)
 *
 * which verify checks as a part of V1. Where a death left a record beyond the head, the head counts
 * as raised over it. What changes these:
 * - A new or promoted record of length n is appended after `fits` with 2 max(n, longest) to spare,
 *   and no record of M is above `longest`: R holds without p and d.
 * - A copy of the tail's record, of l <= L bytes, without a pad: the head gains l, and d becomes l,
 *   for the record at the tail has no entry now. Before it d was 0, for that record was alive.
 * - A copy with a new pad p' before it: then p was 0. Both pads end where a lap ends, so with the
 *   older one still there, head - tail > C - l + p, which contradicts R with d = 0.
 * - The tail passes a record or the pad: the left side loses as much as p or d does, or more.
 * There are no other changes; a death is between two of them. So a copy always fits: without a pad
 * of its own, C - 2 L + p + l <= C, as p < L and l <= L; with one, p is 0 and p' < L. No wanted
 * record has to go for lack of room, least of all the one that is being overwritten.
 *
 * And make_room_in_main ends: in each turn the tail passes a record, and the budget lets only so
 * many stay. When it is spent, all go but the spared one, so after a lap M holds only that one, and
 * perhaps a pad. No record is longer than C / 4, see kv_geometry_valid, so `fits` then needs C at
 * most, if the new record needs no pad and none lies in M. Otherwise the spared one is copied on
 * until the head is at the beginning of a lap and the tail has passed the pad: then neither is so.
 * Therefore an admissible record is never refused. */
static uint64_t reserve_for(const struct operation *op, uint64_t length) {
    uint64_t longest = LOAD(op->header->main_longest);
    return 2 * (length > longest ? length : longest);
}

/* Whether cleaning M pays. Measured against what M can hold beside its reserve: against the whole
 * capacity, a reserve of an eighth would make a full log look as if it always had holes. */
static bool main_has_holes(const struct operation *op, uint64_t length) {
    uint64_t usable = op->t->geometry.main_capacity - reserve_for(op, length);
    return LOAD(op->header->main_live) - op->ending + length <= usable / 100 * CLEAN_BELOW_PERCENT;
}

/* Whether a live record lies at a tail: `ref` leads to it, and the caller must keep or unlink it
 * before it publishes the tail beyond it. A pad or a dead record only gives its space back, and a
 * record that is gone is unlinked. */
static bool live_at_tail(struct operation *op, bool main_log, struct slot_ref *ref,
                         uint64_t *beyond) {
    struct ring ring = ring_of(op->t, op->shard, main_log);
    uint64_t tail = LOAD(*ring.tail);
    struct kv_record *record = record_at(&ring, tail);
    struct shape shape = shape_of(LOAD(record->shape));
    *beyond = tail + record_length(shape);
    if (shape.flags & KV_FLAG_PAD)
        return false;
    *ref = find_exact(op, main_log, tail, record);
    if (ref->entry == NULL)
        return false;
    if (is_gone(op, record)) {
        unlink_slot(op, ref, KV_EXPIRATIONS);
        return false;
    }
    return true;
}

static void reclaim_main(struct operation *op, uint64_t wanted) {
    struct ring main = ring_of(op->t, op->shard, true);
    struct budget *budget = &op->budget;
    struct slot_ref ref;
    uint64_t beyond;
    if (live_at_tail(op, true, &ref, &beyond)) {
        uint8_t hint = LOAD(*ref.hint);
        hint = hint > 3 ? 3 : hint; /* any process may write there */
        if (!fits(&main, 0, ref.length)) {
            /* Only in a damaged table, see reserve_for: better lose a record than never end. */
            unlink_slot(op, &ref, KV_EVICTIONS);
        } else if (ref.entry == op->spared) {
            move_to_main(op, &ref, hint);
        } else if (main_has_holes(op, wanted) &&
                   spend(&budget->clean_copies, &budget->clean_bytes, ref.length)) {
            move_to_main(op, &ref, hint);
            count(op->header, KV_CLEANED);
        } else if (hint > 0 &&
                   spend(&budget->reinsertions, &budget->reinsertion_bytes, ref.length)) {
            move_to_main(op, &ref, (uint8_t)(hint - 1));
            count(op->header, KV_REINSERTIONS);
        } else {
            unlink_slot(op, &ref, KV_EVICTIONS);
        }
    }
    publish_tail(&main, beyond);
}

static void make_room_in_main(struct operation *op, uint64_t length) {
    struct ring main = ring_of(op->t, op->shard, true);
    if (length > LOAD(op->header->main_longest))
        STORE(op->header->main_longest, length);
    while (!fits(&main, reserve_for(op, length), length))
        reclaim_main(op, length);
}

static void reclaim_small(struct operation *op) {
    struct ring small = ring_of(op->t, op->shard, false);
    struct ring main = ring_of(op->t, op->shard, true);
    struct slot_ref ref;
    uint64_t beyond;
    if (live_at_tail(op, false, &ref, &beyond)) {
        /* A key that is being overwritten must not be seen missing, so its old record stays. */
        bool wanted = LOAD(*ref.hint) >= 2 || ref.entry == op->spared;
        bool room = fits(&main, reserve_for(op, ref.length), ref.length) ||
                    (main_has_holes(op, ref.length) && op->budget.clean_copies > 0);
        if (wanted || room) {
            make_room_in_main(op, ref.length);
            move_to_main(op, &ref, 0);
            count(op->header, KV_PROMOTIONS);
        } else {
            struct shape shape = shape_of(LOAD(ref.record->shape));
            struct kv_key key = {.bytes = key_in(ref.record, shape),
                                 .length = shape.key_bytes};
            kv_locate(op->t, &key);
            unlink_slot(op, &ref, KV_EVICTIONS);
            ghost_remember(op, key.hash);
        }
    }
    publish_tail(&small, beyond);
}

/* Frees the head of a log for a record of this length, which is at most the largest. */
void make_room(struct operation *op, bool main_log, uint64_t length) {
    struct ring small = ring_of(op->t, op->shard, false);
    if (length > COPIED_BYTES_MAX / COPIES_A_BYTE)
        op->budget.clean_bytes = op->budget.reinsertion_bytes = length * COPIES_A_BYTE;
    if (main_log) {
        make_room_in_main(op, length);
        return;
    }
    while (!fits(&small, 0, length))
        reclaim_small(op);
}
