"""Benchmarks: what the runner costs, beside the official runner and beside the floor, in one run. `make bench` runs them all."""

ORDER = (
    "cold_start",
    "start_ready",
    "spawn",
    "web",
    "memory",
    "idle",
    "messages",
    "forwarding",
    "listing",
    "restart",
    "reconnect",
    "stop",
    "thousand",
    "growth",
    "terminal",
)
