"""The asyncio client, file by file the twin of client/blocking/."""
