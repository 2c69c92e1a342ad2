"""Measures of data quality: alignment of actions, coverage, and anomalies."""
