"""The language that clients and workers speak. No os, no sockets, no asyncio, no clock in here."""
