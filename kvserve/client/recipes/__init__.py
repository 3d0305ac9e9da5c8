"""Recipes built from the cache's operations: get_or_set, memoize, lock, limiter, namespace."""
