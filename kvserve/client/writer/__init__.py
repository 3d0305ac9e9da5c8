"""Trusted writers: a process's slot among them, and the executor of its changes."""
