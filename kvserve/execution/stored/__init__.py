"""Commands where a store is behind the table: misses are loaded, writes written through."""
