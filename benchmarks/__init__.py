"""Measurements that back the numbers in docs/; each runs as `python -m benchmarks.NAME`."""
