"""Beside the cache's operations: live settings, and dumps."""
