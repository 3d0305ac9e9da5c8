"""The command line: parses, validates, calls, prints. What it calls is in the other rooms."""
