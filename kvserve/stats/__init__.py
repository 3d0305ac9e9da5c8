"""Statistics: what they are called and mean, how they are collected and shown."""
