"""The databases behind the cache: what a store is, and one module for each kind of it."""
