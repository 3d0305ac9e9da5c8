# What the skin uses of the C core; see core/table.h.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.time cimport timespec


cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    sem_t *sem_open(const char *name, int flags)
    int sem_close(sem_t *semaphore)


cdef extern from "core/layout.h" nogil:
    enum:
        KV_LAYOUT_VERSION
        KV_SUPERBLOCK_BYTES
        KV_HINTS_HEADER_BYTES
        KV_SHARD_HEADER_BYTES
        KV_RECORD_HEADER_BYTES
        KV_EXPIRY_BYTES
        KV_LINE
        KV_BUCKET_BYTES
        KV_BUCKET_ENTRIES
        KV_HINTS_A_BUCKET
        KV_GHOST_TAGS
        KV_READER_STRIPES
        KV_KEY_BYTES_MAX
        KV_FLAG_TEXT_KEY, KV_FLAG_EXPIRY, KV_FLAG_TAGGED
        KV_TAGS_MAX, KV_TAGS_HEAD_BYTES, KV_VALUE_TAGGED
        KV_CODEC_BYTES, KV_CODEC_TEXT, KV_CODEC_COUNTER
        KV_STATISTICS
        KV_SETS, KV_DELETES, KV_TOUCHES, KV_INCREMENTS, KV_EVICTIONS, KV_EXPIRATIONS
        KV_INDEX_EVICTIONS, KV_PROMOTIONS, KV_REINSERTIONS, KV_CLEANED, KV_GHOST_HITS
        KV_FLUSHES, KV_LOCK_RECOVERIES, KV_WITHDRAWALS
        KV_WORKERS_MAX, KV_SHARDS_MAX, KV_LEASE_SLOTS, KV_ALIGNMENT
        KV_MISSES_ASK_WORKER, KV_HITS_NEED_FRESHNESS
    struct kv_notes:
        pass
    struct kv_tag:
        uint64_t hash, generation
    struct kv_geometry:
        uint64_t table_bytes, hints_bytes, shard_bytes, small_capacity, main_capacity
        uint64_t largest_record, value_bytes_max, item_bytes
        uint32_t shards, buckets, overflow, ghost_lines


cdef extern from "core/feed.h" nogil:
    enum:
        KV_FEED_CAPACITY_MIN, KV_FEED_RINGS_MAX
    enum kv_event_kind:
        KV_EVENT_BEGIN, KV_EVENT_GAP, KV_EVENT_FLUSH, KV_EVENT_SET, KV_EVENT_TOUCH
        KV_EVENT_DELETE, KV_EVENT_EXPIRE, KV_EVENT_EVICT, KV_EVENT_KINDS
    enum kv_feed_status:
        KV_FEED_EVENT, KV_FEED_NONE, KV_FEED_OVERRUN, KV_FEED_DAMAGED
    struct kv_feed_page:
        uint32_t rings
    struct kv_feed_ring:
        uint32_t closed
    struct kv_feed:
        const kv_feed_page *page
        kv_feed_ring *ring
        uint64_t unix_offset_ms
    struct kv_feed_cursor:
        uint64_t position, number
    struct kv_event:
        kv_event_kind kind
        uint32_t flags, key_bytes
        uint64_t number, version, unix_ms, lost
        uint8_t *key

    uint64_t kv_feed_segment_bytes(uint32_t, uint64_t)
    void kv_feed_format(uint8_t *, uint32_t, uint64_t)
    const char *kv_feed_attach(kv_feed *, uint8_t *, uint64_t, uint32_t)
    bint kv_feed_ready(const kv_feed *)
    void kv_feed_retire(uint8_t *)
    const char *kv_feed_verify(const kv_feed *)
    void kv_feed_open(kv_feed *, uint64_t)
    void kv_feed_close(kv_feed *)
    kv_feed_status kv_feed_begin(const kv_feed *, kv_feed_cursor *, bint)
    kv_feed_status kv_feed_next(const kv_feed *, kv_feed_cursor *, kv_event *)


cdef extern from "core/table.h" nogil:
    ctypedef bint kv_bool "bool"
    enum kv_status:
        KV_DONE, KV_MISSING, KV_REFUSED, KV_NOT_COUNTER, KV_OVERFLOW, KV_TOO_LARGE
        KV_CONTENDED, KV_BUSY
    uint64_t KV_EXPIRY_KEPT
    enum kv_condition:
        KV_SET, KV_ADD, KV_REPLACE, KV_CAS
    struct kv_table:
        kv_geometry geometry
        uint32_t stripe
        kv_feed *feed
    struct kv_view:
        const uint8_t *key
        const uint8_t *value
        uint32_t key_bytes, value_bytes, codec, flags
        uint64_t expiry_ms, cas
    struct kv_key:
        const uint8_t *bytes
        uint32_t length, flags
        uint64_t hash
        uint32_t shard
    struct kv_prefix_hash:
        pass
    struct kv_place:
        pass
    struct kv_value:
        const uint8_t *bytes
        uint32_t length, codec
        uint64_t expiry_ms
    struct kv_cursor:
        uint32_t bucket, slot, steps
    struct kv_violation:
        uint32_t rule
        uint64_t where
    struct kv_owner:
        uint64_t word
        int lease
        sem_t **semaphores
        kv_bool (*sleep)(const kv_owner *, sem_t *, uint64_t) noexcept
    void kv_sleep(sem_t *, uint64_t)
    struct kv_counts:
        uint64_t items, live_bytes, overflow_used
        uint64_t *statistics

    bint kv_geometry_valid(const kv_geometry *)
    void kv_format(uint8_t *, const kv_geometry *, const uint8_t *, const uint8_t *,
                   const uint64_t *, uint64_t)
    uint64_t kv_last_version(const uint8_t *, uint64_t)
    const char *kv_attach(kv_table *, uint8_t *, uint64_t, uint8_t *, uint64_t, const uint8_t *)
    bint kv_ready(const kv_table *)
    enum:
        KV_READS_HERE
    uint32_t kv_read_mode(const kv_table *)
    void kv_set_read_policy(kv_table *, uint32_t, uint32_t)
    uint64_t kv_fresh_until(const kv_table *, uint32_t)
    void kv_begin_request(kv_table *, uint32_t, uint64_t, uint64_t)
    void kv_end_request(kv_table *, uint32_t)
    void kv_keep_request(kv_table *, uint32_t)
    bint kv_died_over(const kv_table *, uint64_t, uint64_t)
    void kv_extend_freshness(kv_table *, uint32_t, uint64_t)
    uint64_t kv_store_mark(const kv_table *)
    void kv_set_store_mark(kv_table *, uint64_t)
    void kv_instance_id(const kv_table *, uint8_t *)
    void kv_retire(uint8_t *)
    void kv_counts_of(const kv_table *, uint32_t, kv_counts *)
    void kv_reads(const kv_table *, uint64_t *, uint64_t *)
    struct kv_noted:
        uint64_t written, hits, misses
    void kv_write_notes(kv_table *, uint8_t *)
    bint kv_read_notes(const kv_table *, const uint8_t *, uint64_t, kv_noted *)
    void kv_heed_notes(kv_table *, const uint8_t *, const kv_noted *, const kv_noted *)
    void kv_locate(const kv_table *, kv_key *)
    void kv_hash_prefix(const kv_table *, const uint8_t *, uint32_t, kv_prefix_hash *)
    void kv_locate_behind(const kv_table *, const kv_prefix_hash *, kv_key *)
    kv_status kv_view_tags(const kv_table *, const kv_view *)
    bint kv_note_place(const kv_table *, const kv_key *, const kv_view *, kv_place *)
    kv_status kv_find(const kv_table *, const kv_key *, kv_view *)
    void kv_prefetch_bucket(const kv_table *, const kv_key *, kv_view *)
    void kv_prefetch_record(const kv_table *, const kv_key *, kv_view *)
    kv_status kv_find_prefetched(const kv_table *, const kv_key *, kv_view *)
    bint kv_next_in_bucket(const kv_table *, uint32_t, uint32_t, kv_cursor *, kv_view *)
    kv_status kv_store(kv_table *, const kv_key *, const kv_value *, kv_condition, uint64_t,
                       uint64_t, uint64_t *)
    kv_status kv_delete(kv_table *, const kv_key *, uint64_t)
    kv_status kv_withdraw(kv_table *, const kv_key *, uint64_t)
    kv_status kv_delete_version(kv_table *, const kv_key *, uint64_t, uint64_t)
    kv_status kv_touch(kv_table *, const kv_key *, uint64_t, uint64_t)
    kv_status kv_increment(kv_table *, const kv_key *, int64_t, const int64_t *, uint64_t,
                           uint64_t, int64_t *)
    void kv_flush(kv_table *, uint32_t, uint64_t)
    uint32_t kv_sweep(kv_table *, uint32_t, uint32_t, uint32_t, uint64_t)
    uint64_t kv_verify_scratch_bytes(const kv_table *)
    uint32_t kv_verify(kv_table *, uint32_t, uint8_t *, kv_violation *, uint32_t)
    bint kv_try_acquire(kv_table *, const kv_owner *, uint32_t)
    uint32_t kv_lock_slot(uint64_t)
    uint64_t kv_lock_held(const kv_table *, uint32_t)
    uint64_t kv_join(kv_table *, uint32_t)
    kv_status kv_acquire(kv_table *, const kv_owner *, uint32_t, uint64_t)
    bint kv_take_from_dead(kv_table *, const kv_owner *, uint32_t)
    void kv_release(kv_table *, const kv_owner *, uint32_t)

cdef extern from "core/view.h" nogil:
    bint kv_view_intact(const kv_view *)
    bint kv_view_flushed(const kv_table *, uint32_t, const kv_view *)
    bint kv_view_touch(const kv_table *, const kv_view *)
    bint kv_place_holds(const kv_place *)
    bint kv_touch_place(const kv_table *, const kv_place *)
    void kv_count_read(const kv_table *, bint)
    int64_t kv_view_counter(const kv_view *)
