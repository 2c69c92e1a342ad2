"""Recipes: functions that return a whole run's configuration."""
