"""The table in shared memory. Knows keys, payloads and locks; nothing of requests or clients."""

from kvserve import native

native.load("kvserve.table._core")
