"""Trusted writers: a process's slot among them, and what executes its changes."""
