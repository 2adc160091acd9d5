"""All that knows Dagster: one module for each stage, in pipeline order, checks beside their assets."""
