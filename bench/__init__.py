"""Benchmarks: one registry of operations, one command, results with the machine named."""
