"""The measurements of `kvserve bench`: drives a live instance, or replays a trace."""
