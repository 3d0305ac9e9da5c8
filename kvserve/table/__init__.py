"""The table in shared memory. Knows keys, payloads and locks; nothing of requests or clients."""
