"""A Dagster asset graph that builds emotionally aligned music-image datasets (EMID, arXiv 2308.07622)."""
