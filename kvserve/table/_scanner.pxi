# The class Scanner: goes through the keys of a shard; part of _core.pyx.

cdef class Scanner(Attached):
    """Goes through an attached table, bucket by bucket."""

    def _scan(self, uint32_t shard, uint32_t bucket, bytes prefix not None):
        """Some keys of a shard that begin with a prefix.

        Args:
            shard, bucket: where to go on; a scan begins with bucket 0.
            prefix: the bytes that a key must begin with.

        Returns:
            The keys, as str or bytes as they were stored, and the bucket to go on with or None at
            the shard's end. A key that is there throughout is returned at least once.
        """
        cdef kv_view view
        cdef kv_cursor cursor, before
        cdef uint64_t now = now_ms()
        cdef bytes key
        cdef list keys = []
        cdef uint32_t last
        cdef bint is_wanted
        cdef uint32_t length = <uint32_t>len(prefix)
        cdef const char *start = PyBytes_AS_STRING(prefix)
        self._require_attached()
        if shard >= self.t.geometry.shards:
            raise IndexError(f"no shard {shard}")
        last = min(bucket + SCAN_KEYS, self.t.geometry.buckets)
        while bucket < last and <uint32_t>len(keys) < SCAN_KEYS:
            cursor.bucket = cursor.slot = cursor.steps = 0
            before = cursor
            while kv_next_in_bucket(&self.t, shard, bucket, &cursor, &view):
                is_wanted = view.key_bytes >= length and not memcmp(view.key, start, length)
                if is_wanted:
                    key = PyBytes_FromStringAndSize(<const char *>view.key, view.key_bytes)
                if not kv_view_intact(&view):
                    cursor = before  # it moved or went while we copied: look again
                    continue
                before = cursor
                if not is_wanted:
                    continue
                if kv_view_flushed(&self.t, shard, &view):
                    continue
                if view.expiry_ms != 0 and view.expiry_ms <= now:
                    continue
                keys.append(key.decode() if view.flags & KV_FLAG_TEXT_KEY else key)
            bucket += 1
        return keys, (bucket if bucket < self.t.geometry.buckets else None)
