"""Training schedules."""
