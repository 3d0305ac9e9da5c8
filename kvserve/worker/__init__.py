"""One worker process: it receives requests, executes them on the table, and replies."""
