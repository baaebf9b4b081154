"""Benchmarks: what the runner costs, beside the official runner and beside the floor, in one run. `make bench` runs them all."""
