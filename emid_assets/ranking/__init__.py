"""Metrics of a ranking, on arrays."""
