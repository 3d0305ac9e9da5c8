"""Shared memory that changes while the server runs: the settings page and the change feed."""
