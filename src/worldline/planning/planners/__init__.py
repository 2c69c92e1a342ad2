"""Planners: searches for action sequences of lowest cost. They see a cost function and nothing else."""
