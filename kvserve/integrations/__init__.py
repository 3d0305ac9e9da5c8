"""Adapters for frameworks that bring an interface for caches; each imports its framework itself."""
