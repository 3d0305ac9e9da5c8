"""What executes a command in the table: for workers, and for trusted writers."""
