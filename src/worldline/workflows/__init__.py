"""Workflows: what a command or a job runs from end to end."""
