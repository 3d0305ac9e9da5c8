"""Descriptors owned by an object, and a count of forks: guarantees that Python alone cannot give.

A descriptor that is a mere number is lost when a signal handler raises between the call that
opened it and the line that would store it. It stays open in the child of a fork that Python does
not know of (uWSGI's). When other code has closed it, as a daemon closes all descriptors, the
number soon names a file of the program. So each has an owner here, made in the call that opens:
it closes with its last reference, knows which process opened it, and closes only its own file.

Forks are counted by a handler of pthread_atfork, which also runs when C code calls fork(). (Not for
vfork, posix_spawn or a raw clone; after none of them does Python go on in the child.)
"""

from libc.errno cimport EAGAIN, EEXIST, EINTR, ENOENT, errno
from libc.stdint cimport uint64_t
from posix.fcntl cimport O_CLOEXEC
from posix.stat cimport fchmod, fstat, struct_stat
from posix.types cimport mode_t
from posix.unistd cimport close, unlink

import mmap
import os

cdef extern from *:
    """
    #include <mqueue.h>
    #include <pthread.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <sys/types.h>
    #include <fcntl.h>
    #include <unistd.h>
    static unsigned long long *kv_forks;
    static void kv_count_fork(void) { ++*kv_forks; } /* in the child, which has one thread */
    static int kv_count_forks(unsigned long long *forks) {
        kv_forks = forks;
        return pthread_atfork(NULL, NULL, kv_count_fork);
    }
    """
    int kv_count_forks(unsigned long long *forks)
    struct mq_attr:
        long mq_msgsize
        long mq_curmsgs
    int c_open "open"(const char *path, int flags, mode_t mode)
    int c_mq_open "mq_open"(const char *name, int flags)
    int mq_getattr(int queue, mq_attr *attributes)
    int mq_send(int queue, const char *message, size_t size, unsigned int priority)
    ssize_t mq_receive(int queue, char *message, size_t size, unsigned int *priority)
    int c_shm_open "shm_open"(const char *name, int flags, mode_t mode)
    int c_mkfifo "mkfifo"(const char *path, mode_t mode)
    int c_lchown "lchown"(const char *path, unsigned int owner, unsigned int group)
    int c_chmod "chmod"(const char *path, mode_t mode)
    void *c_mmap "mmap"(void *where, size_t size, int protection, int flags, int file, long first)
    void *MAP_FAILED
    int MAP_FIXED, MAP_SHARED, MAP_PRIVATE, PROT_READ, PROT_WRITE

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrnoWithFilenameObject

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **bytes, Py_ssize_t size) except -1
    ctypedef struct PyObject

_MAP_NORESERVE = 0x4000  # which Python's mmap does not name before 3.13
cdef unsigned int SAME = <unsigned int>-1  # lchown: leave it as it is

if kv_count_forks(&forks) != 0:
    raise MemoryError("no room for a handler of forks")


def fork_count():
    """How many forks lie between this process and the one that imported this module first.

    It differs between a process and its child, whatever code called fork(), and never decreases.
    """
    return forks


cdef object failed(path):
    PyErr_SetFromErrnoWithFilenameObject(OSError, path)


cdef class Descriptor:
    """An open file. Made by `open`, `open_queue`, `open_memory` or `adopt`; a context manager.

    Nothing here waits, so no other thread runs meanwhile: a thread that forks finds each
    descriptor of the others either open and registered or not opened at all.
    """

    cdef readonly int number  # -1: closed
    cdef uint64_t device, inode
    cdef unsigned long long opened_at  # `forks`
    # The list of all open ones, for `close_inherited` and for numbers that are reused.
    cdef void *previous
    cdef void *next

    def __init__(self):
        raise TypeError("use Descriptor.open")

    def __dealloc__(self):
        self.let_go()

    @staticmethod
    def open(path, int flags, mode_t mode=0):
        """Opens a file as os.open does, close-on-exec. Raises OSError."""
        cdef bytes name = os.fsencode(path)
        cdef Descriptor self = Descriptor.__new__(Descriptor)
        cdef int number = c_open(name, flags | O_CLOEXEC, mode)
        while number < 0 and errno == EINTR:
            number = c_open(name, flags | O_CLOEXEC, mode)
        if number < 0:
            failed(path)
        return self.holding(number)

    @staticmethod
    def open_queue(str name, int flags):
        """Opens a POSIX message queue. Raises OSError."""
        cdef bytes encoded = os.fsencode(name)
        cdef Descriptor self = Descriptor.__new__(Descriptor)
        cdef int number = c_mq_open(encoded, flags)
        if number < 0:
            failed(name)
        return self.holding(number)

    @staticmethod
    def open_memory(str name, int flags):
        """Opens POSIX shared memory. Raises OSError."""
        cdef bytes encoded = os.fsencode(name)
        cdef Descriptor self = Descriptor.__new__(Descriptor)
        cdef int number = c_shm_open(encoded, flags, 0)
        if number < 0:
            failed(name)
        return self.holding(number)

    @staticmethod
    def adopt(int number):
        """Takes over an open descriptor. Raises OSError if it is none."""
        cdef Descriptor self = Descriptor.__new__(Descriptor)
        return self.holding(number)

    cdef Descriptor holding(self, int number):
        cdef struct_stat status
        cdef Descriptor other
        cdef void *each = first
        if fstat(number, &status) != 0:
            failed(None)
        while each != NULL:
            other = <Descriptor>each
            each = other.next
            if other.number == number:  # other code closed it behind our back
                other.number = -1
                other.unlink()
        self.number = number
        self.device, self.inode = status.st_dev, status.st_ino
        self.opened_at = forks
        self.link()
        return self

    cdef void link(self) noexcept:
        global first
        self.previous, self.next = NULL, first
        if first != NULL:
            (<Descriptor>first).previous = <void *>self
        first = <void *>self

    cdef void unlink(self) noexcept:
        global first
        if self.previous != NULL:
            (<Descriptor>self.previous).next = self.next
        elif first == <void *>self:
            first = self.next
        if self.next != NULL:
            (<Descriptor>self.next).previous = self.previous
        self.previous = self.next = NULL

    cdef bint is_the_file(self) noexcept:
        cdef struct_stat status
        return (fstat(self.number, &status) == 0 and
                <uint64_t>status.st_dev == self.device and <uint64_t>status.st_ino == self.inode)

    cdef void let_go(self) noexcept:
        if self.number >= 0:
            if self.is_the_file():
                close(self.number)
            self.number = -1
            self.unlink()

    @property
    def is_open(self):
        """Whether this process opened it and did not close it here; no system call."""
        return self.number >= 0 and self.opened_at == forks

    @property
    def is_ours(self):
        """`is_open`, and no other code has closed it behind our back; one system call."""
        return self.number >= 0 and self.opened_at == forks and self.is_the_file()

    def close(self):
        """Closes it; in a child, its copy. Harmless when repeated, or when other code has closed
        it and its number belongs to another file by now."""
        self.let_go()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.let_go()

    def map(self, size_t size, bint writable, bint private=False):
        """The file's first `size` bytes in memory, as an mmap object that keeps no descriptor.

        Python's own mmap keeps a copy of the descriptor, and at the end closes whatever file has
        that number then. So it gets anonymous memory, and the file is mapped over that.

        Args:
            writable: whether the memory may be written.
            private: whether writes stay in this process.
        """
        cdef Py_buffer view
        cdef int protection = PROT_READ | (PROT_WRITE if writable or private else 0)
        cdef void *found
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE,
                           protection)
        PyObject_GetBuffer(memory, &view, PyBUF_SIMPLE)
        found = c_mmap(view.buf, size, protection,
                       MAP_FIXED | (MAP_PRIVATE if private else MAP_SHARED), self.number, 0)
        PyBuffer_Release(&view)
        if found == MAP_FAILED:
            failed(None)
        return memory

    def queue_state(self):
        """The longest message of a queue, and how many messages are in it now."""
        cdef mq_attr attributes
        if mq_getattr(self.number, &attributes) != 0:
            failed(None)
        return attributes.mq_msgsize, attributes.mq_curmsgs

    def send(self, bytes message not None, unsigned int priority):
        """Puts a message into a queue opened with O_NONBLOCK; False if that is full."""
        if mq_send(self.number, PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message),
                   priority) == 0:
            return True
        if errno != EAGAIN:
            failed(None)
        return False

    def receive(self, Py_ssize_t size):
        """The next message of a queue opened with O_NONBLOCK, or None.

        Args:
            size: at least that of the queue's longest message.
        """
        cdef char stack[8192]
        cdef bytes room = None
        cdef char *where = stack
        cdef ssize_t found
        if size > 8192:
            room = PyBytes_FromStringAndSize(NULL, size)
            where = PyBytes_AS_STRING(room)
        found = mq_receive(self.number, where, size, NULL)
        if found >= 0:
            return PyBytes_FromStringAndSize(where, found)
        if errno != EAGAIN:
            failed(None)
        return None


cdef void *first = NULL  # head of the list of all open ones


def close_inherited():
    """Closes this process's copies of the descriptors that its ancestors had open."""
    cdef void *each = first
    cdef Descriptor descriptor
    while each != NULL:
        descriptor = <Descriptor>each
        each = descriptor.next
        if descriptor.opened_at != forks:
            descriptor.let_go()


cdef class MadeFifo:
    """A FIFO that this process made; its name is removed with the last reference to this.

    Args:
        path: its name, which must be free.
        mode: permission bits, whatever the umask is.
        group_id: its group; None for the process's.

    Raises:
        OSError: it cannot be made, or not like that; then nothing is left.
    """

    cdef bytes path
    cdef unsigned long long made_at  # `forks`

    def __init__(self, path, mode_t mode, group_id):
        cdef bytes encoded = os.fsencode(path)
        cdef unsigned int group = SAME if group_id is None else group_id
        self.remove()
        self.made_at = forks
        if c_mkfifo(encoded, mode) != 0:
            failed(path)
        self.path = encoded
        if (group_id is not None and c_lchown(encoded, SAME, group) != 0) or (
                c_chmod(encoded, mode) != 0):
            failed(path)

    def __dealloc__(self):
        self.unmake()

    def remove(self):
        """Removes the name, unless this is a child of the process that made it."""
        self.unmake()

    cdef void unmake(self) noexcept:
        if self.path is not None:
            if self.made_at == forks:
                unlink(self.path)
            self.path = None


cdef class LockGuard:
    """A lock for a block of code; `with ... as taken` says whether it was acquired in time.

    If a signal handler raised between `acquire` and the next line, no code would ever release the
    lock. Here both are one step.

    Args:
        lock: of the module threading.
        seconds: how long to wait; 0 for not at all.
    """

    cdef object lock
    cdef double seconds
    cdef bint taken

    def __init__(self, lock, double seconds):
        self.lock, self.seconds = lock, seconds

    def __enter__(self):
        if self.seconds > 0:
            self.taken = self.lock.acquire(True, self.seconds)
        else:
            self.taken = self.lock.acquire(False)
        return self.taken

    def __exit__(self, *_):
        if self.taken:
            self.taken = False
            self.lock.release()

    def __dealloc__(self):
        if self.taken:
            self.lock.release()
