"""A process and its run."""
