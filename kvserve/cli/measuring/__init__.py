"""What `kvserve bench` does: measures a live instance, or replays a trace over private tables."""
