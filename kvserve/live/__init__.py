"""What changes while the server runs, in shared memory: the settings page and the change feed."""
