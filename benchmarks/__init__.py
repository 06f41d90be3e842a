"""Benchmarks: ratios measured in one run, side by side; `make bench`."""
