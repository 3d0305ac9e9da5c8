"""The client library: reads from the table, asks workers for the rest."""
