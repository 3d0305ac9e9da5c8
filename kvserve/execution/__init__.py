"""Executes commands in the table, for workers and for trusted writers."""
