"""A store in Valkey or Redis, single or a cluster."""
