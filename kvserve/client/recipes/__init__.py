"""What is built of the cache's operations: get_or_set, memoize, lock, limiter, namespace."""
