"""The records of a run: run.json, a line for each step, and trackers."""
