"""The data set in EMID's own form: reading the published one, and writing ours."""
