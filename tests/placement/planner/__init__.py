"""The planner alone: no database, no clock."""
