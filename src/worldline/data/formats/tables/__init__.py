"""Timestamped rows: tables, and videos with tables."""
