"""Seeded bugs of the table's core: what each breaks, and the scenario that must notice.

They are edits of a copy of the core, not switches inside it. A core with `#ifdef BUG` in it is not
the core that ships: its branches would have to be read by everyone, could be left on, and would
rot unnoticed, while an edit whose old text is gone fails its test at once.
"""

from __future__ import annotations

from fault.feed_mutants import FEED_MUTANTS
from fault.reader_mutants import READER_MUTANTS
from fault.recovery_mutants import RECOVERY_MUTANTS
from fault.seeded_bug import Edit, Mutant

NO_OVERFLOW_REBUILD = Edit("recover.c", "    recover_overflow(t, shard);\n", "")

MUTANTS = (
    *READER_MUTANTS,
    *FEED_MUTANTS,
    *RECOVERY_MUTANTS,
    Mutant(
        "entry-before-the-bytes",
        "set-new",
        (
            Edit(
                "store.c",
                "    write_record(record, shape, key->bytes, value, cas);\n"
                "    STORE_RELEASE(*slot.entry, make_entry(key->hash, main_log, position));\n",
                "    STORE_RELEASE(*slot.entry, make_entry(key->hash, main_log, position));\n"
                "    atomic_signal_fence(memory_order_seq_cst);\n"
                "    write_record(record, shape, key->bytes, value, cas);\n",
            ),
        ),
    ),
    Mutant(
        "head-before-the-bytes",
        "set-new",
        (
            Edit(
                "store.c",
                "    write_record(record, shape, key->bytes, value, cas);\n",
                "    publish_head(&ring, position, length);\n"
                "    atomic_signal_fence(memory_order_seq_cst);\n"
                "    write_record(record, shape, key->bytes, value, cas);\n",
            ),
        ),
    ),
    Mutant(
        "tail-before-the-copy",
        "promote",
        (
            Edit(
                "evict.c",
                "        if (wanted || room) {\n",
                "        publish_tail(&small, beyond);\n        if (wanted || room) {\n",
            ),
        ),
    ),
    Mutant(
        "main-tail-before-the-copy",
        "clean",
        (
            Edit(
                "evict.c",
                "        if (!fits(&main, 0, ref.length)) {\n",
                "        publish_tail(&main, beyond);\n"
                "        if (!fits(&main, 0, ref.length)) {\n",
            ),
        ),
    ),
    Mutant(
        "no-reserve-in-main",
        "evict-main",
        (
            Edit(
                "log.c",
                "return used + room_needed(ring, length) + reserve <= ring->capacity;",
                "return used + length + reserve <= ring->capacity + reserve;",
            ),
        ),
    ),
    Mutant(
        "head-forgets-the-pad",
        "pad-small",
        (
            Edit(
                "log.c",
                "STORE(record_at(ring, head)->shape, make_shape(0, (uint32_t)rest, 0, "
                "KV_FLAG_PAD));",
                "(void)make_shape;",
            ),
        ),
    ),
    Mutant(
        "touch-as-a-new-version",
        "touch-first",
        (Edit("store.c", "LOAD(old.record->cas), KV", "next_cas(op->header), KV"),),
    ),
    Mutant(
        "longest-not-noted",
        "promote",
        (Edit("evict.c", "STORE(op->header->main_longest, length);", "(void)0;"),),
    ),
    Mutant(
        "clear-then-set",
        "overwrite",
        (
            Edit(
                "store.c",
                "    STORE_RELEASE(*slot.entry, make_entry(key->hash, main_log, position));\n",
                "    STORE_RELEASE(*slot.entry, 0);\n"
                "    atomic_signal_fence(memory_order_seq_cst);\n"
                "    STORE_RELEASE(*slot.entry, make_entry(key->hash, main_log, position));\n",
            ),
        ),
    ),
    Mutant(
        "unlink-then-move",
        "clean",
        (
            Edit(
                "evict.c",
                "    STORE_RELEASE(*ref->entry, (LOAD(*ref->entry) &",
                "    uint64_t word = LOAD(*ref->entry);\n"
                "    *(volatile _Atomic uint64_t *)ref->entry = 0;\n"
                "    STORE_RELEASE(*ref->entry, (word &",
            ),
        ),
    ),
    # By itself the order of link and bump heals: recovery rebuilds both from the links. The order
    # is the second line of defence, so its mutants lack the first.
    Mutant(
        "link-before-bump",
        "overflow-bump",
        (
            NO_OVERFLOW_REBUILD,
            Edit(
                "index.c",
                "        STORE_RELEASE(h->overflow_used, next);\n",
                "        STORE_RELEASE(bucket_at(op->t, op->shard, last)->next, next);\n"
                "        atomic_signal_fence(memory_order_seq_cst);\n"
                "        STORE_RELEASE(h->overflow_used, next);\n",
            ),
        ),
    ),
    Mutant(
        "link-before-pop",
        "overflow-freed",
        (
            NO_OVERFLOW_REBUILD,
            Edit(
                "index.c",
                "        STORE_RELEASE(h->overflow_free, LOAD(freed->next_free));\n",
                "        STORE_RELEASE(bucket_at(op->t, op->shard, last)->next, next);\n"
                "        atomic_signal_fence(memory_order_seq_cst);\n"
                "        STORE_RELEASE(h->overflow_free, LOAD(freed->next_free));\n",
            ),
        ),
    ),
    Mutant("no-overflow-rebuild", "delete-trims", (NO_OVERFLOW_REBUILD,)),
    Mutant(
        "rebuild-loses-the-free-list",
        "delete-trims",
        (Edit("recover.c", "    STORE(header->overflow_free, first_free);\n", ""),),
    ),
    Mutant(
        "free-before-unlinking",
        "delete-trims",
        (
            NO_OVERFLOW_REBUILD,
            Edit(
                "index.c",
                "        STORE_RELEASE(before->next, 0);\n"
                "        STORE(last->next_free, LOAD(h->overflow_free));\n"
                "        STORE(h->overflow_free, number);\n",
                "        STORE(last->next_free, LOAD(h->overflow_free));\n"
                "        STORE_RELEASE(h->overflow_free, number);\n"
                "        atomic_signal_fence(memory_order_seq_cst);\n"
                "        STORE_RELEASE(before->next, 0);\n",
            ),
        ),
    ),
    Mutant(
        "cell-before-cas",
        "incr",
        (
            Edit(
                "store.c",
                "    STORE_RELEASE(old.record->cas, next_cas(op.header));\n"
                "    STORE_RELEASE(*cell, (uint64_t)*result);\n",
                "    STORE_RELEASE(*cell, (uint64_t)*result);\n"
                "    atomic_signal_fence(memory_order_seq_cst);\n"
                "    STORE_RELEASE(old.record->cas, next_cas(op.header));\n",
            ),
        ),
    ),
    Mutant(
        "cas-used-before-it-is-taken",
        "overwrite",
        (
            Edit("store.c", "    STORE_RELEASE(header->sequence, cas);\n", ""),
            Edit(
                "store.c",
                "    count(op.header, KV_SETS);\n",
                "    STORE_RELEASE(op.header->sequence, *version);\n"
                "    count(op.header, KV_SETS);\n",
            ),
        ),
    ),
    Mutant(
        "flush-mark-beyond-the-sequence",
        "flush",
        (Edit("store.c", "LOAD(header->sequence));", "LOAD(header->sequence) + 1);"),),
    ),
    Mutant(
        "flush-forgets-its-counters",
        "flush",
        (Edit("store.c", "    STORE(header->items, 0);\n", ""),),
    ),
    Mutant(
        "record-not-looked-for-again-after-making-room",
        "overwrite",
        (
            Edit(
                "store.c",
                "        old = find_slot(op, key);\n        if (old.entry == NULL ||",
                "        if (old.entry == NULL ||",
            ),
        ),
    ),
    Mutant(
        "sweep-gives-no-bucket-back",
        "overflow-bump",
        (
            Edit(
                "index.c",
                "    } while (next_slot(op, &chain));\n    trim_chain(op, bucket);\n",
                "    } while (next_slot(op, &chain));\n",
            ),
        ),
    ),
    Mutant(
        "lock-not-taken-from-the-dead",
        "set-new",
        (Edit("acquire.c", "    if (seen == 0 || ", "    if (seen != 0 || "),),
    ),
    Mutant(
        "successor-in-a-slot-taken-for-the-owner",
        "lock-of-a-former",
        (
            Edit(
                "acquire.c",
                "    if (!kv_lock_same_owner(word,",
                "    if (0 && !kv_lock_same_owner(word,",
            ),
        ),
    ),
    Mutant(
        "lock-taken-without-recovery",
        "delete",
        (Edit("acquire.c", "    kv_recover(t, shard);\n", ""),),
    ),
    Mutant(
        "lock-taken-from-the-living",
        "lock-of-a-living",
        (Edit("acquire.c", "== 0 && query.l_type == F_UNLCK;", "== 0;"),),
    ),
    Mutant(
        "lock-stolen-without-comparing",
        "lock-both-steal",
        (
            Edit(
                "lock.c",
                "return swap(lock, seen, me | (seen & WAITERS));",
                "STORE_RELEASE(*lock, me | (seen & WAITERS));\n    return true;",
            ),
        ),
    ),
    Mutant(
        "lock-tried-without-comparing",
        "lock-both-try",
        (
            Edit(
                "lock.c",
                "    return LOAD(*lock) == 0 && swap(lock, 0, me);\n",
                "    if (LOAD(*lock) != 0)\n        return false;\n"
                "    STORE_RELEASE(*lock, me);\n    return true;\n",
            ),
        ),
    ),
    Mutant(
        "unlock-keeps-the-waiters-bit",
        "lock-with-waiters",
        (
            Edit(
                "lock.c",
                "atomic_exchange_explicit(lock, 0, memory_order_release)",
                "atomic_fetch_and_explicit(lock, WAITERS, memory_order_release)",
            ),
        ),
    ),
    Mutant(
        "unlock-wakes-nobody",
        "lock-with-waiters",
        (Edit("acquire.c", "        sem_post(semaphore);\n", "        return;\n"),),
    ),
    Mutant(
        "own-record-is-not-spared",
        "overwrite-own-spared",
        (Edit("store.c", "    op->spared = old.entry;\n", ""),),
    ),
)
