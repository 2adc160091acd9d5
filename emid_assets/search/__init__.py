"""A new file against the lake."""
