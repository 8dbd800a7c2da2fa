"""Benchmarks of time and memory: one module per measurement, each a table. Run with `make bench`."""
