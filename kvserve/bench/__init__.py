"""What `kvserve bench` measures with: it drives a live instance, or replays a trace."""
