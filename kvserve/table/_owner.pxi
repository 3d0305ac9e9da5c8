# The class Owner: a process that may own shards' locks; part of _core.pyx.

cdef kv_bool sleep_without_gil(const kv_owner *me, sem_t *semaphore,
                               uint64_t milliseconds) noexcept:
    """Lets the process's other threads run. The lock is taken once the GIL is held again, and
    released before the GIL is: so one thread at a time changes tables and writes to a ring of the
    feed, and no thread that changes something holds a lock while it waits for the GIL. (One that
    verifies may: it emits nothing, and no trusted writer verifies.)"""
    with nogil:
        kv_sleep(semaphore, milliseconds)
    return me.word != 0  # another thread may have left


cdef class Owner(Reader):
    """A process that may own the shards' locks, by a slot of the lease file, and that emits its
    changes to a ring of the feed. Writer makes the changes."""

    cdef kv_owner owner
    cdef kv_owner *me  # the lease that it uses: its own, or its lender's
    cdef bint borrows
    cdef Owner lender
    cdef unsigned long long joined_at  # the count of forks; see _descriptors.pyx
    cdef object lease_file  # a Descriptor, if the lease is its own
    cdef uint64_t wait_ms  # for a lock
    cdef uint64_t clock_due_ms  # when to check again whether the clock was set
    cdef kv_feed feed
    cdef Py_buffer feed_view
    # The shards that it may change, as `Writer.keep_to` says; 1 and 0: all of them.
    cdef uint32_t step
    cdef uint32_t place

    def __cinit__(self):
        self.policy_mask = KV_READS_HERE  # a worker answers misses itself, and needs no freshness
        self.me = &self.owner
        self.wait_ms = LOCK_WAIT_MS
        self.step = 1

    def __dealloc__(self):
        self._close_semaphores()
        self._release_feed()

    def _join(self, lease_file, uint32_t slot, list semaphore_names):
        """Becomes a possible owner of the shards' locks; the caller holds the slot's record lock.

        Args:
            lease_file: the Descriptor of the lease file.
            slot: which of its bytes is locked.
            semaphore_names: of all shards.

        Raises:
            ServerUnavailable: a semaphore cannot be opened.
        """
        cdef uint32_t shard
        self.owner.semaphores = <sem_t **>PyMem_Calloc(self.t.geometry.shards, sizeof(sem_t *))
        if self.owner.semaphores == NULL:
            raise MemoryError()
        for shard in range(self.t.geometry.shards):
            name = semaphore_names[shard].encode()
            self.owner.semaphores[shard] = sem_open(name, 0)
            if self.owner.semaphores[shard] == NULL:
                raise ServerUnavailable(f"semaphore {semaphore_names[shard]} cannot be opened")
        self.lease_file = lease_file
        self.joined_at = forks
        self.owner.lease = lease_file.number
        self.owner.sleep = sleep_without_gil
        self.owner.word = kv_join(&self.t, slot)

    def _borrow(self, Owner lender not None, uint64_t wait_ms):
        """Writes through the segments, the lease and the ring of another writer of this process.

        Args:
            lender: that writer; once it gives its lease up, this one can do nothing.
            wait_ms: how long to wait for a lock, at most `LOCK_WAIT_MS`.
        """
        self.t, self.me = lender.t, lender.me
        self.borrows, self.lender, self.joined_at = True, lender, lender.joined_at
        self.attached = self.reads_here = True
        self.wait_ms = min(wait_ms, <uint64_t>LOCK_WAIT_MS)

    @property
    def _holds_lease(self):
        """Whether it may take locks."""
        return self.holds_lease()

    cdef inline bint holds_lease(self) noexcept:
        """False in a forked child: its parent has the record lock."""
        return self.me.word != 0 and self.joined_at == forks

    def _give_lease_up(self, bint told_all):
        """Takes no lock from now on, nor do its borrowers; the caller closes the lease.

        The segments stay while a thread uses them: another one may just be waiting for a lock.

        Args:
            told_all: False in a forked child: its parent goes on emitting to the same ring.
        """
        self.owner.word = 0
        if told_all and self.t.feed != NULL:
            kv_feed_close(self.t.feed)

    cdef void _close_semaphores(self) noexcept:
        cdef uint32_t shard
        if not self.borrows and self.owner.semaphores != NULL:
            for shard in range(self.t.geometry.shards):
                if self.owner.semaphores[shard] != NULL:
                    sem_close(self.owner.semaphores[shard])
            PyMem_Free(self.owner.semaphores)
            self.owner.semaphores = NULL

    def _leave(self):
        """Gives the semaphores back and lets go of the segments."""
        self.owner.word = 0
        self._close_semaphores()
        if self.t.feed != NULL:
            kv_feed_close(self.t.feed)
        self._release_feed()
        self._release()

    def _attach_feed(self, memory, uint32_t ring):
        """Emits every change from now on to a ring of the change feed, as its only producer.

        If the process ends without `_leave`, which closes the ring, watchers learn of a loss.

        Args:
            memory: the feed's segment, writable.
            ring: which one; a worker's is its number, writers' come behind those.

        Raises:
            ForeignObject: it is not a whole feed of this layout with such a ring.
        """
        cdef Py_buffer view
        cdef kv_feed feed
        cdef const char *wrong
        PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE)
        wrong = kv_feed_attach(&feed, <uint8_t *>view.buf, view.len, ring)
        if wrong == NULL:
            wrong = kv_feed_verify(&feed)
        if wrong != NULL:
            PyBuffer_Release(&view)
            raise ForeignObject(f"the change feed cannot be used: {wrong.decode()}")
        self._release_feed()
        self.feed, self.feed_view = feed, view
        self._set_feed_clock()
        kv_feed_open(&self.feed, now_ms())
        self.t.feed = &self.feed

    cdef void _set_feed_clock(self) noexcept:
        """Also checks whether the lease is still there: code that makes a daemon may close its
        descriptor with all others, and then the record lock is gone that shows that we live."""
        cdef uint64_t now = now_ms()
        self._look_after_lease()
        self.feed.unix_offset_ms = clock_ms(CLOCK_REALTIME) - now
        self.clock_due_ms = now + FEED_CLOCK_MS

    cdef void _look_after_lease(self) noexcept:
        if self.lease_file is not None and not self.lease_file.is_ours:
            self.owner.word = 0  # a lock that we hold now can be released without it

    cdef inline uint64_t now(self) noexcept:
        """The clock of expiries, for a change inside the lock that will be emitted to the feed."""
        cdef uint64_t now = now_ms()
        cdef Owner teller = self.lender if self.borrows else self
        if now >= teller.clock_due_ms:
            teller._set_feed_clock()
        return now

    cdef void _release_feed(self) noexcept:
        if not self.borrows and self.t.feed != NULL:
            self.t.feed = NULL
            PyBuffer_Release(&self.feed_view)

    cdef inline int require_own(self, uint32_t shard) except -1:
        if self.step != 1 and shard % self.step != self.place:
            raise WrongWorker(f"shard {shard} is served by worker {shard % self.step} here")
        return 0

    cdef inline int lock(self, uint32_t shard) except -1:
        self.require_own(shard)
        self._require_lease()
        if kv_try_acquire(&self.t, self.me, shard):
            return 0
        return self._wait_for_lock(shard)

    cdef inline int _require_lease(self) except -1:
        if not self.holds_lease():
            raise self._has_no_lease()
        return 0

    cdef int _wait_for_lock(self, uint32_t shard) except -1:
        cdef kv_status status = KV_BUSY
        (self.lender if self.borrows else self)._look_after_lease()  # it shows which owners live
        self._require_lease()
        if self.wait_ms != 0:
            status = kv_acquire(&self.t, self.me, shard, self.wait_ms)
        elif kv_take_from_dead(&self.t, self.me, shard):
            status = KV_DONE
        if status == KV_DONE:
            return 0
        self._require_lease()
        raise ServerBusy(
            f"shard {shard} is held by a process that lives but does not go on "
            f"(lease slot {kv_lock_slot(kv_lock_held(&self.t, shard))}); was it stopped?"
        )

    cdef object _has_no_lease(self):
        if self.borrows:
            return LeaseLost("the place among the writers was lost while this waited")
        return InternalError("this table is closed")

    cdef inline void unlock(self, uint32_t shard) noexcept:
        kv_release(&self.t, self.me, shard)

    def recover(self, slot=None):
        """Takes the locks of dead owners and repairs what they left; returns how many.

        Args:
            slot: only those of the owner in this lease slot; None: of any owner.
        """
        cdef uint32_t shard
        cdef uint64_t held
        recovered = 0
        self._require_lease()
        for shard in range(self.t.geometry.shards):
            held = kv_lock_held(&self.t, shard)
            if held == 0 or (slot is not None and kv_lock_slot(held) != slot):
                continue
            if kv_take_from_dead(&self.t, self.me, shard):
                self.unlock(shard)
                recovered += 1
        return recovered
