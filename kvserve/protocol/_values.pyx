"""Values to msgpack and back, without recursion, and whether bytes are such a value.

msgpack's own coder takes C stack for each level of nesting, and asks Python at each tuple. Here the
levels are kept on the heap, so that a value as deep as `VALUE_DEPTH_MAX` goes through a thread with
the smallest stack. Only this file decides what is carried, by exact type, at any depth alike; the
bytes are those that msgpack makes. A tuple is extension 1 around an array, a datetime a timestamp.
"""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.dict cimport PyDict_CheckExact, PyDict_Next, PyDict_SetItem, PyDict_Size
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.list cimport (
    PyList_Append,
    PyList_AsTuple,
    PyList_CheckExact,
    PyList_New,
    PyList_SET_ITEM,
)
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_CLEAR, Py_INCREF, Py_XDECREF
from cpython.tuple cimport (
    PyTuple_CheckExact,
    PyTuple_GET_ITEM,
    PyTuple_GET_SIZE,
    PyTuple_New,
    PyTuple_SET_ITEM,
)
from cpython.unicode cimport PyUnicode_AsUTF8String, PyUnicode_CheckExact, PyUnicode_DecodeUTF8
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

import datetime

from kvserve.errors import InvalidValue, ValueTooLarge
from kvserve.limits import KEY_TUPLES_MAX, VALUE_BYTES_MAX, VALUE_DEPTH_MAX
from kvserve.protocol.arrays import is_plain

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyUnicode_IS_ASCII(object text)

cdef enum:
    NIL = 0xC0
    FALSE = 0xC2
    TRUE = 0xC3
    BIN_8 = 0xC4
    EXT_8 = 0xC7
    FLOAT_32 = 0xCA
    FLOAT_64 = 0xCB
    UINT_8 = 0xCC
    INT_8 = 0xD0
    FIXEXT_1 = 0xD4
    STR_8 = 0xD9
    ARRAY_16 = 0xDC
    MAP_16 = 0xDE
    EXT_TUPLE = 1
    EXT_TIMESTAMP = -1
    EXT_HEAD_BYTES = 6  # the longest head of an extension

cdef enum Kind:
    LIST
    TUPLE
    DICT

cdef Py_ssize_t ROOM_MAX = 1024  # items; a list may claim more items than it has
cdef int DEPTH_MAX = VALUE_DEPTH_MAX
cdef int KEY_DEPTH_MAX = KEY_TUPLES_MAX
cdef Py_ssize_t BYTES_MAX = VALUE_BYTES_MAX
cdef int64_t DAY_SECONDS = 86_400
cdef object DATETIME = datetime.datetime
cdef object UTC = datetime.timezone.utc
cdef object DELTA = datetime.timedelta
cdef object EPOCH = DATETIME(1970, 1, 1, tzinfo=UTC)
cdef int64_t SECONDS_FIRST = (DATETIME.min.replace(tzinfo=UTC) - EPOCH) // DELTA(seconds=1)
cdef int64_t SECONDS_LAST = (DATETIME.max.replace(tzinfo=UTC) - EPOCH) // DELTA(seconds=1)

# One extension in some files, each with one purpose.
include "_pack.pxi"
include "_refusals.pxi"
include "_unpack.pxi"
