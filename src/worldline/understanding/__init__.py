"""Measuring a world, and the report that a person reads."""
