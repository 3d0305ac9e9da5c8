"""How requests come into a worker, and how its replies leave it."""
