"""Finding, checking and reading music and images."""
