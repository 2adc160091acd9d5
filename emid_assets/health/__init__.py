"""Pipeline health (what is broken, stale or overdue) and alerts. No Dagster."""
