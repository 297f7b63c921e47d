"""What runs the stages: tables of pieces, jobs of tasks, executors, and the runner."""
