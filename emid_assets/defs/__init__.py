"""The Dagster definitions: assets with their checks, sensors, schedules; one module for each subject."""

import gc

gc.freeze()  # Dagster is imported by now, and its objects stay: no collection needs to visit them again
