"""The Dagster definitions: assets with their checks, sensors, schedules; one module for each subject."""
