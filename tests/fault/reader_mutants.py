"""Seeded bugs that no kill shows: only a reader whom writers overtake. See mutants.py."""

from __future__ import annotations

from fault.seeded_bug import Edit, Mutant

READER_MUTANTS = (
    Mutant(
        "what-was-begun-is-not-begun-again",
        "batch-overwrite-round",
        (
            Edit(
                "lookup.c",
                "        return KV_DONE;\n    return kv_find(t, key, view);\n",
                "        return KV_DONE;\n    return KV_MISSING;\n",
            ),
        ),
    ),
    Mutant(
        "no-tail-check-after-the-copy",
        "reader-overwrite-round",
        (Edit("view.h", "return LOAD(*view->tail) <= view->position;", "return view != NULL;"),),
    ),
    Mutant(
        "a-key-that-differs-is-not-looked-at-again",
        "reader-overwrite-round",
        (Edit("lookup.c", "            if (!kv_view_intact(view))\n", "            if (0)\n"),),
    ),
    Mutant(
        "tail-advanced-but-entry-kept",
        "reader-evict-small",
        (
            Edit(
                "evict.c",
                "            unlink_slot(op, &ref, KV_EVICTIONS);\n"
                "            ghost_remember(op, key.hash);\n",
                "            ghost_remember(op, key.hash);\n",
            ),
        ),
    ),
    Mutant(
        "trim-of-a-middle-bucket",
        "reader-empty-middle",
        (
            Edit(
                "index.c",
                "    struct kv_shard *h = op->header;\n    for (;;) {\n",
                "    struct kv_shard *h = op->header;\n"
                "    struct kv_bucket *first = bucket_at(op->t, op->shard, home);\n"
                "    struct kv_bucket *middle = first;\n"
                "    uint32_t buckets = op->t->geometry.buckets;\n"
                "    uint32_t second = LOAD(first->next);\n"
                "    if (second != 0) {\n"
                "        uint32_t slot = 0;\n"
                "        middle = bucket_at(op->t, op->shard, buckets + second - 1);\n"
                "        while (slot < KV_BUCKET_ENTRIES && LOAD(middle->entry[slot]) == 0)\n"
                "            slot++;\n"
                "        if (slot == KV_BUCKET_ENTRIES && LOAD(middle->next) != 0) {\n"
                "            STORE_RELEASE(first->next, LOAD(middle->next));\n"
                "            STORE_RELEASE(middle->next, 0);\n"
                "            STORE(middle->next_free, LOAD(h->overflow_free));\n"
                "            STORE(h->overflow_free, second);\n"
                "        }\n"
                "    }\n"
                "    for (;;) {\n",
            ),
        ),
    ),
    Mutant(
        "passed-records-are-not-told-by-distance",
        "reader-overwrite-round",
        (Edit("lookup.c", "    if (distance >= ring.capacity || ", "    if ("),),
    ),
    Mutant(
        "overtaken-is-taken-for-missing",
        "reader-overwrite-round",
        (
            Edit(
                "lookup.c",
                "            if (status == KV_CONTENDED)\n                return KV_CONTENDED;\n",
                "            if (status == KV_CONTENDED)\n                continue;\n",
            ),
        ),
    ),
    Mutant(
        "scan-skips-what-overtook-it",
        "scan-overwrite",
        (
            Edit(
                "lookup.c",
                "                if (status == KV_CONTENDED)\n                    continue;\n",
                "",
            ),
        ),
    ),
)
