"""Seeded bugs of the change feed: events torn, early, missing or counted wrongly."""

from __future__ import annotations

from fault.seeded_bug import Edit, Mutant

PUBLISH = "    STORE_RELEASE(feed->ring->newest, position);\n"
KEY = "    if (key_bytes != 0)\n        memcpy(event->key, key, key_bytes);\n"
ROOM = "    free_until(feed, position + pad + length);\n"
INSERTED = "    STORE_RELEASE(*slot.entry, make_entry(key->hash, main_log, position));\n"
TOLD = "    emit(op, kind, record);\n"

FEED_MUTANTS = (
    Mutant(
        "event-published-before-its-bytes",
        "set-new",
        (
            Edit("feed.c", KEY + PUBLISH, KEY),
            Edit(
                "feed.c",
                "    STORE(event->shape, make_event_shape(kind, flags, key_bytes, length));\n",
                "    STORE(event->shape, make_event_shape(kind, flags, key_bytes, length));\n"
                + PUBLISH
                + "    atomic_signal_fence(memory_order_seq_cst);\n",
            ),
        ),
    ),
    Mutant(
        "event-bytes-reused-before-oldest-moves",
        "evict-to-ghost",
        (
            Edit("feed.c", ROOM, ""),
            Edit("feed.c", KEY, KEY + "    free_until(feed, position + length);\n"),
        ),
    ),
    Mutant(
        "consumer-trusts-its-copy",
        "evict-to-ghost",
        (
            Edit(
                "feed.c",
                "        if (still_there(feed, *position))\n            return KV_FEED_EVENT;\n",
                "        return KV_FEED_EVENT;\n",
            ),
        ),
    ),
    Mutant(
        "lost-events-uncounted",
        "evict-to-ghost",
        (Edit("feed.c", "event->lost = event->number - cursor->number;", "event->lost = 0;"),),
    ),
    Mutant(
        "event-before-its-change",
        "set-new",
        (
            Edit("store.c", TOLD, ""),
            Edit(
                "store.c",
                INSERTED,
                TOLD + "    atomic_signal_fence(memory_order_seq_cst);\n" + INSERTED,
            ),
        ),
    ),
    Mutant(
        "eviction-untold",
        "evict-to-ghost",
        (
            Edit(
                "index.c",
                "        emit(op, event_for(reason), ref->record);\n",
                "        if (reason != KV_EVICTIONS)\n"
                "            emit(op, event_for(reason), ref->record);\n",
            ),
        ),
    ),
    Mutant(
        "touch-untold",
        "touch",
        (Edit("store.c", "    emit(&op, KV_EVENT_TOUCH, old.record);\n", ""),),
    ),
    Mutant(
        "increment-told-before-its-version",
        "incr",
        (
            Edit("store.c", "    emit(&op, KV_EVENT_SET, old.record);\n", ""),
            Edit(
                "store.c",
                "    STORE_RELEASE(old.record->cas, next_cas(op.header));\n",
                "    emit(&op, KV_EVENT_SET, old.record);\n"
                "    STORE_RELEASE(old.record->cas, next_cas(op.header));\n",
            ),
        ),
    ),
    Mutant(
        "no-gap-after-a-kill",
        "delete",
        (
            Edit(
                "feed.c",
                "        kv_feed_emit(feed, KV_EVENT_GAP, NULL, 0, 0, 0, now_ms);\n",
                "        (void)now_ms;\n",
            ),
        ),
    ),
)
