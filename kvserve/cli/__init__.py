"""The command line: parses, validates, calls, prints. The logic is in the other rooms."""
