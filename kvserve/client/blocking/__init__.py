"""The blocking client, file by file the twin of client/aio/."""
