"""What is broken, stale or overdue, and who is told. No Dagster."""
