"""Seeded bugs in what a death leaves behind and how it is won back. See mutants.py."""

from __future__ import annotations

from fault.seeded_bug import Edit, Mutant

RECOVERY_MUTANTS = (
    Mutant(  # each such death leaks a copy, until M has no reserve any more
        "head-before-entry",
        "storm",
        (
            Edit(
                "evict.c",
                "    STORE_RELEASE(*ref->entry, (LOAD(*ref->entry) &",
                "    publish_head(&main, position, ref->length);\n"
                "    STORE_RELEASE(*ref->entry, (LOAD(*ref->entry) &",
            ),
        ),
    ),
    Mutant(
        "recovery-raises-no-head",
        "set-new",
        (Edit("recover.c", "            raise_head(&ring, position);\n", ""),),
    ),
    Mutant(
        "recovery-raises-the-small-log's-head-alone",
        "clean",
        (
            Edit(
                "recover.c",
                "            raise_head(&ring, position);\n",
                "            if (!main_log)\n                raise_head(&ring, position);\n",
            ),
        ),
    ),
    Mutant(
        "recovery-raises-no-head-over-a-pad",
        "pad-small",
        (
            Edit(
                "recover.c",
                "    if (position != head) {\n",
                "    if (position != head)\n        return;\n    if (0) {\n",
            ),
        ),
    ),
    Mutant(
        "recovery-raises-the-head-too-little",
        "set-new",
        (
            Edit(
                "recover.c",
                "    publish_head(ring, position, length);\n",
                "    publish_head(ring, position, 0);\n",
            ),
        ),
    ),
    Mutant(  # who is killed there leaves neither the old value nor the new one
        "own-record-evicted-before-the-new-one",
        "overwrite-own-kept",
        (
            Edit(
                "evict.c",
                "        if (!fits(&main, 0, ref.length)) {\n",
                "        if (ref.entry == op->spared || !fits(&main, 0, ref.length)) {\n",
            ),
        ),
    ),
    Mutant(
        "half-a-reserve",
        "storm",
        (Edit("evict.c", "    return 2 * (length > longest", "    return (length > longest"),),
    ),
    Mutant(
        "no-counter-repair",
        "delete",
        (Edit("recover.c", "    STORE(header->items, items);\n", ""),),
    ),
    Mutant(
        "no-live-bytes-repair",
        "overwrite",
        (Edit("recover.c", "    STORE(header->small_live, live[false]);\n", ""),),
    ),
    Mutant(
        "repair-counts-what-a-flush-ended",
        "set-after-flush",
        (
            Edit(
                "recover.c",
                "            if (LOAD(record->cas) <= flush_mark)\n                continue;\n",
                "            (void)flush_mark;\n",
            ),
        ),
    ),
    Mutant(
        "recovery-cuts-chains",
        "index-evict",
        (
            Edit(
                "recover.c",
                "        STORE(overflow[number].next_free, UINT32_MAX);\n",
                "        STORE(overflow[number].next, 0);\n",
            ),
        ),
    ),
)
