/* The bytes of the shared segments, drawn. Offsets only, no pointers: every process maps them at
 * another address.
 *
 * table segment                                hints segment
 * +--------------------+ 0                     +--------------------+ 0
 * | superblock         |                       | readers' counters  |
 * +--------------------+ 4096                  |                    |
 * | shard 0            |                       +--------------------+ 4096
 * |   header           |                       | shard 0: 16 bytes  |
 * |   buckets          |                       | a bucket, 15 used  |
 * |   overflow buckets |                       +--------------------+
 * |   ghost            |                       | shard 1 ...        |
 * |   small log  (S)   |
 * |   main log   (M)   |
 * +--------------------+
 * | shard 1 ...        |
 *
 * Writers: the creator writes the superblock, READY last; only the owner of its lock writes a
 * shard; any process of the server's user writes the hints. Readers of the table hold no lock and
 * store nothing into it. Readers of other users write notes instead of the hints, see below.
 */
#ifndef KV_LAYOUT_H
#define KV_LAYOUT_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "counters are little-endian cells, here and in the payloads that processes exchange"
#endif

#define KV_MAGIC UINT64_C(0x004556524553564b) /* "KVSERVE\0" as little-endian bytes */
/* 4: a record may have tags; readers of 3 would take them for its value's beginning. 3: an entry is
 * published before its log's head. Writers of 2 would not recover that. */
#define KV_LAYOUT_VERSION 4u
#define KV_SUPERBLOCK_BYTES 4096u
#define KV_HINTS_HEADER_BYTES 4096u
#define KV_SHARD_HEADER_BYTES 512u
#define KV_ALIGNMENT 8u /* of every record; an entry's position counts these */
#define KV_LINE 64u
#define KV_LEASE_SLOTS 256u
#define KV_READER_STRIPES 63u
#define KV_KEY_BYTES_MAX 1024u

#define KV_WORKERS_MAX 64u
#define KV_SHARDS_MAX 256u /* a shard is 8 bits of the hash */
#define KV_DEATHS_KEPT 8u /* a client looks as soon as its worker is gone */

/* Which reads must ask a worker, because there is a store behind the table. */
enum kv_read_policy {
    KV_MISSES_ASK_WORKER = 1, /* a miss */
    KV_HITS_NEED_FRESHNESS = 2, /* a hit, unless the freshness of the key's worker runs: other
                                 * hosts change the store, and it drops what they have changed */
};

enum kv_state { KV_STATE_NEW = 0, KV_STATE_READY = 1, KV_STATE_RETIRED = 2 };

/* All that decides where things lie. Fixed at creation. */
struct kv_geometry {
    uint64_t table_bytes;
    uint64_t hints_bytes;
    uint64_t shard_bytes;
    uint64_t small_capacity; /* bytes of log S */
    uint64_t main_capacity;  /* bytes of log M */
    uint64_t largest_record; /* bytes, with an expiry */
    uint64_t value_bytes_max;
    uint64_t item_bytes; /* the average that the index was sized for */
    uint32_t shards;
    uint32_t buckets;     /* a shard */
    uint32_t overflow;    /* overflow buckets a shard */
    uint32_t ghost_lines; /* a shard */
};
static_assert(sizeof(struct kv_geometry) == 80, "geometry is part of the layout");

/* A request by its ids; the second is 0 where there is none. See deaths.c. */
struct kv_execution {
    _Atomic uint64_t client;
    _Atomic uint64_t request;
};

struct kv_superblock {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t unused;
    uint8_t boot_id[16];     /* monotonic clocks and leases mean nothing after a reboot */
    uint8_t instance_id[16]; /* new with every table */
    uint64_t hash_key[4];
    struct kv_geometry geometry;
    uint64_t checksum; /* of all the above */
    uint8_t padding[256 - 168];
    /* A line that readers poll; the parent writes it. */
    _Atomic uint32_t state;     /* enum kv_state */
    _Atomic uint32_t read_policy; /* flags of enum kv_read_policy */
    _Atomic uint32_t workers;   /* worker s % workers serves shard s; for freshness */
    uint8_t padding2[KV_LINE - 12];
    /* Freshness: only worker n stores the n-th, again and again. */
    _Atomic uint64_t fresh_until_ms[KV_WORKERS_MAX]; /* on the monotonic clock */
    _Atomic uint64_t store_mark; /* the store that its values were written through to; 0: none */
    struct kv_execution executing[KV_WORKERS_MAX]; /* worker n writes the n-th */
    struct kv_execution died[KV_DEATHS_KEPT]; /* workers died over these; their successors write */
    _Atomic uint64_t deaths;                  /* how many were noted there */
    uint8_t padding3[2048 - 336 - 24 * KV_WORKERS_MAX - 16 * KV_DEATHS_KEPT];
    _Atomic uint64_t incarnation[KV_LEASE_SLOTS]; /* how often each lease slot was taken */
};
static_assert(offsetof(struct kv_superblock, geometry) == 80, "layout");
static_assert(offsetof(struct kv_superblock, state) == 256, "layout");
static_assert(offsetof(struct kv_superblock, fresh_until_ms) == 320, "layout");
static_assert(sizeof(struct kv_superblock) == KV_SUPERBLOCK_BYTES, "layout");

enum kv_statistic {
    KV_SETS,
    KV_DELETES,
    KV_TOUCHES,
    KV_INCREMENTS,
    KV_EVICTIONS,
    KV_EXPIRATIONS,
    KV_INDEX_EVICTIONS,
    KV_PROMOTIONS,
    KV_REINSERTIONS,
    KV_CLEANED,
    KV_GHOST_HITS,
    KV_FLUSHES,
    KV_LOCK_RECOVERIES,
    KV_WITHDRAWALS,
    KV_STATISTICS
};

/* A log is a ring of records. Its head and tail only grow; a position lies at position mod
 * capacity. What lies in [tail, head) is whole. The rest is free, with one exception: a dead
 * owner's entry may lead to a record right beyond the head until another process takes the lock,
 * see log.c. */
struct kv_shard {
    _Atomic uint64_t lock; /* see lock.c; alone on its line, waiters spin on it */
    uint8_t padding[KV_LINE - 8];
    /* What readers load. */
    _Atomic uint64_t small_tail;
    _Atomic uint64_t main_tail;
    _Atomic uint64_t flush_mark; /* a record whose cas is not above it is gone */
    uint8_t padding2[KV_LINE - 24];
    /* What only the lock's owner loads. */
    _Atomic uint64_t small_head;
    _Atomic uint64_t main_head;
    _Atomic uint64_t sequence;        /* the last cas given out */
    _Atomic uint64_t small_live;      /* derived: bytes of records that an entry points at */
    _Atomic uint64_t main_live;       /*   and whose cas is above the flush mark */
    _Atomic uint64_t items;           /* derived: the number of these records */
    _Atomic uint32_t overflow_used;   /* derived: overflow buckets from here on are untouched */
    _Atomic uint32_t overflow_free;   /* derived: number + 1 of the first given back, 0: none */
    _Atomic uint64_t main_longest;    /* no record that ever was in M is longer */
    _Atomic uint64_t statistics[KV_STATISTICS];
    uint8_t padding4[KV_SHARD_HEADER_BYTES - 192 - 8 * KV_STATISTICS];
};
static_assert(offsetof(struct kv_shard, small_tail) == 64, "layout");
static_assert(offsetof(struct kv_shard, small_head) == 128, "layout");
static_assert(offsetof(struct kv_shard, statistics) == 192, "layout");
static_assert(sizeof(struct kv_shard) == KV_SHARD_HEADER_BYTES, "layout");

/* bucket, a pair of cache lines: 15 entries, and the number + 1 of the next overflow bucket, 0 for
 * none. An overflow bucket that has become empty leaves its chain, but only from the chain's end:
 * see trim_chain.
 *
 * Two lines, because at the same load a bucket of 15 overflows by chance far less often than one
 * of 7: on a real trace the index forced 0 evictions instead of 714, with 1 byte an item less.
 *
 * entry: | tag 16, never 0 | queue 1 | position in alignment units, modulo 2^47 |; 0 is empty.
 * An entry never changes its slot while its key is alive, so a reader that passed the slot missed
 * nothing. */
#define KV_BUCKET_BYTES 128u
#define KV_BUCKET_ENTRIES 15u
struct kv_bucket {
    _Atomic uint64_t entry[KV_BUCKET_ENTRIES];
    _Atomic uint32_t next;
    _Atomic uint32_t next_free; /* likewise, for an overflow bucket that no chain has */
};
static_assert(sizeof(struct kv_bucket) == KV_BUCKET_BYTES, "layout");
#define KV_HINTS_A_BUCKET 16u

#define KV_ENTRY_POSITION_BITS 47
#define KV_ENTRY_POSITION_MASK ((UINT64_C(1) << KV_ENTRY_POSITION_BITS) - 1)
#define KV_ENTRY_MAIN (UINT64_C(1) << KV_ENTRY_POSITION_BITS)

/* ghost: lines of 32 tags; each line is a queue of the hashes that left S unread, newest first. */
#define KV_GHOST_TAGS 32u
struct kv_ghost_line {
    uint16_t tag[KV_GHOST_TAGS];
};
static_assert(sizeof(struct kv_ghost_line) == KV_LINE, "layout");

/* record: header, expiry if it has that flag, key, value. A counter's value is an aligned 8-byte
 * cell.
 *
 * shape: | flags 8 | codec 8 | key bytes 16 | value bytes 32 |
 * expiry: milliseconds on the clock that counts through suspend; 0: never
 * Once an entry points at a record, only its expiry (touch), a counter's cell and a counter's cas
 * change, each by one aligned store. A record never crosses the ring's end. A PAD fills that end:
 * it has only a shape, whose value bytes are the pad's whole length. */
struct kv_record {
    _Atomic uint64_t shape;
    _Atomic uint64_t cas;
    uint8_t bytes[];
};
#define KV_RECORD_HEADER_BYTES 16u
#define KV_EXPIRY_BYTES 8u
static_assert(sizeof(struct kv_record) == KV_RECORD_HEADER_BYTES, "layout");

#define KV_FLAG_PAD 0x80u
#define KV_FLAG_TEXT_KEY 0x01u /* the key was given as str */
#define KV_FLAG_EXPIRY 0x02u /* the record has an expiry */
#define KV_FLAG_TAGGED 0x04u /* the value begins with tags, see kv_tag */
#define KV_CODEC_BYTES 0u /* only Python knows the other codecs */
#define KV_CODEC_TEXT 1u
#define KV_CODEC_COUNTER 2u
#define KV_COUNTER_BYTES 8u

/* tags: with the flag TAGGED a record's value begins with a word whose lowest byte is the number of
 * its tags, and with these. The value proper follows. It is only there as long as the record of
 * each tag, which is a counter without an expiry, holds the tag's generation: a random number,
 * never 0. So whoever changes or removes that record, eviction too, makes all values with the tag
 * misses. A tag's record is found by its hash alone: another one with that hash would have another
 * number. */
struct kv_tag {
    uint64_t hash;
    uint64_t generation;
};
#define KV_TAGS_MAX 15u
#define KV_TAGS_HEAD_BYTES 8u
#define KV_VALUE_TAGGED 0x100u /* in kv_value.codec: the bytes begin with tags */
static_assert(sizeof(struct kv_tag) == 16, "layout");

/* The readers' hits and misses: one stripe a line, and plain stores, so two processes that share a
 * stripe may lose counts. */
struct kv_reader_stripe {
    _Atomic uint64_t hits;
    _Atomic uint64_t misses;
    uint8_t padding[KV_LINE - 16];
};
struct kv_hints_header {
    uint8_t unused[KV_LINE];
    struct kv_reader_stripe stripe[KV_READER_STRIPES];
};
static_assert(sizeof(struct kv_hints_header) == KV_HINTS_HEADER_BYTES, "layout");

/* notes: what a reader of another user has read. It may not write the hints: a process that may
 * write a file may also shorten it, which kills every process that has mapped it. So it has a file
 * of its own, which only it maps, and which a worker reads now and then: the stripes count its
 * reads as the hints' header does, and the ring holds the offsets of the hints to raise. Whatever
 * the file holds, it raises hints and counts reads, and does nothing else. */
#define KV_NOTES 4096u
struct kv_notes {
    _Atomic uint64_t written;     /* notes since the file was made; the ring has the last */
    _Atomic uint64_t instance[2]; /* of the table that the notes are about */
    uint8_t unused[KV_LINE - 24];
    struct kv_reader_stripe stripe[KV_READER_STRIPES];
    _Atomic uint64_t hint[KV_NOTES]; /* offset of the n-th hint, at n modulo KV_NOTES */
};
static_assert(offsetof(struct kv_notes, stripe) == offsetof(struct kv_hints_header, stripe),
              "a reader counts in either");
static_assert(offsetof(struct kv_notes, hint) == KV_HINTS_HEADER_BYTES, "layout");

#endif
