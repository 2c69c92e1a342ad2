"""Searches for action sequences of least cost; they see a cost function and nothing else."""
