"""Dagster machinery that the assets share."""
