"""HTML pages and their figures: they show what the lake's tables hold."""
