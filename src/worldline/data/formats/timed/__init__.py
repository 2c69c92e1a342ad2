"""Timestamped rows: tables, and videos with a table."""
