"""The networks: one file with one class each."""
