"""Storage: immutable DuckDB files, the catalogue over them, and the declared columns of every table."""
